//! Keyed hashes: equal for equal requests, meaningless to whoever lacks the tenant's key.

use aws_lc_rs::hmac;
use std::fmt;

/// A tenant's key for request and effect hashes (HMAC-SHA256).
#[derive(Clone)]
pub struct HmacKey(hmac::Key);

impl HmacKey {
    /// A key of 32 bytes from a good source of randomness.
    pub fn new(bytes: &[u8; 32]) -> HmacKey {
        HmacKey(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The tag of one message.
    pub fn sign(&self, message: &[u8]) -> [u8; 32] {
        self.sign_parts(&[message])
    }

    /// The tag of a message that is handed over in pieces; where it is cut does not matter.
    pub fn sign_parts(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_hmac_sha256_and_the_key_is_not_shown() {
        // RFC 4231 has no case with a 32-byte key; this one was computed with Python's hmac.
        let key = HmacKey::new(&[0x0b; 32]);
        let expected = "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7";
        assert_eq!(hex::encode(key.sign(b"Hi There")), expected);
        assert_eq!(key.sign_parts(&[b"Hi ", b"", b"There"]), key.sign(b"Hi There"));
        assert_eq!(format!("{key:?}"), "HmacKey(redacted)");
    }
}
