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

    /// A name for a block that nobody without this key can find out or make: a permutation of all blocks, by four rounds of Luby
    /// and Rackoff. `purpose` keeps this use of the key apart from every other.
    pub fn seal(&self, purpose: &str, block: [u8; 16]) -> [u8; 16] {
        (0..ROUNDS).fold(block, |block, round| {
            let [left, right] = halves(block);
            join(right, left ^ self.round(purpose, round, right))
        })
    }

    /// The block that [`HmacKey::seal`] gave this name.
    pub fn open(&self, purpose: &str, name: [u8; 16]) -> [u8; 16] {
        (0..ROUNDS).rev().fold(name, |block, round| {
            let [left, right] = halves(block);
            join(right ^ self.round(purpose, round, left), left)
        })
    }

    fn round(&self, purpose: &str, round: u8, half: u64) -> u64 {
        let tag = self.sign_parts(&[purpose.as_bytes(), &[0, round], &half.to_be_bytes()]);
        let mut first = [0; 8];
        first.copy_from_slice(&tag[..8]);
        u64::from_be_bytes(first)
    }
}

const ROUNDS: u8 = 4;

fn halves(block: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_be_bytes(block);
    [(whole >> 64) as u64, whole as u64]
}

fn join(left: u64, right: u64) -> [u8; 16] {
    (u128::from(left) << 64 | u128::from(right)).to_be_bytes()
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

    #[test]
    fn a_sealed_block_is_opened_by_its_own_key_and_purpose_only() {
        let (key, other) = (HmacKey::new(&[1; 32]), HmacKey::new(&[2; 32]));
        for block in [[0; 16], [0xff; 16], *b"0123456789abcdef"] {
            let name = key.seal("a", block);
            assert_eq!(key.open("a", name), block);
            assert_ne!(key.open("b", name), block);
            assert_ne!(other.open("a", name), block);
            assert_ne!(name, block);
        }
        // A change of any bit of either half changes both halves of the name.
        let name = key.seal("a", [0; 16]);
        for bit in 0..128 {
            let near = key.seal("a", (1_u128 << bit).to_be_bytes());
            assert!(near[..8] != name[..8] && near[8..] != name[8..], "{bit}");
        }
    }
}
