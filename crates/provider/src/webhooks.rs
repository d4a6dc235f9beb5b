//! Signatures as the Standard Webhooks specification has them (symmetric, `v1`): made for what we tell, checked on what we
//! are told.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The keys that two sides share; several while they are changed.
#[derive(Clone)]
pub(crate) struct Keys(Vec<hmac::Key>);

/// A letter as it came in, with what its headers say of it. Nothing of it is believed yet.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// `webhook-id`: the same each time the letter is sent.
    pub id: &'a str,
    /// `webhook-timestamp`, Unix seconds.
    pub timestamp: &'a str,
    /// `webhook-signature`: `v1,` and base64, several separated by a space.
    pub signature: &'a str,
    /// The body as received.
    pub body: &'a [u8],
}

impl Keys {
    /// Reads keys as they are written, `whsec_…`, separated by a space.
    pub(crate) fn parse(text: &str) -> Option<Keys> {
        text.split(' ').map(key).collect::<Option<_>>().map(Keys)
    }

    /// No keys: nothing is signed, and nothing is taken for signed.
    pub(crate) fn none() -> Keys {
        Keys(Vec::new())
    }

    /// One signature by each key, as the header has them.
    pub(crate) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let content = content(id, timestamp, body);
        let signature = |key| format!("{VERSION}{}", STANDARD.encode(hmac::sign(key, &content)));
        self.0.iter().map(signature).collect::<Vec<_>>().join(" ")
    }

    /// Was it signed by one of the keys, and of late? An old letter may be one that somebody kept.
    pub(crate) fn have_signed(&self, letter: &Signed<'_>, now_ms: i64) -> bool {
        let Signed { id, timestamp, signature, body } = *letter;
        let content = content(id, timestamp, body);
        let signed = signature.split(' ').take(MOST_SIGNATURES).any(|signature| {
            let tag = signature.strip_prefix(VERSION).and_then(|tag| STANDARD.decode(tag).ok());
            tag.is_some_and(|tag| self.0.iter().any(|key| hmac::verify(key, &content, &tag).is_ok()))
        });
        signed && is_of_late(timestamp, now_ms)
    }
}

fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

fn is_of_late(timestamp: &str, now_ms: i64) -> bool {
    let plain = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = plain.then(|| timestamp.parse::<i64>().ok()).flatten();
    seconds.is_some_and(|seconds| seconds.abs_diff(now_ms.div_euclid(1000)) <= TOLERANCE_SECONDS)
}

fn key(text: &str) -> Option<hmac::Key> {
    let bytes = Zeroizing::new(STANDARD.decode(text.strip_prefix("whsec_")?).ok()?);
    KEY_BYTES.contains(&bytes.len()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// What is wrong with a text that [`Keys::parse`] cannot read.
pub(crate) const NO_KEY: &str = "no signing key: write `whsec_` and 24 to 64 bytes in base64";

const VERSION: &str = "v1,";
/// What the specification allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// As the specification's own libraries have it: five minutes either way.
const TOLERANCE_SECONDS: u64 = 300;
/// More than anybody has keys at once.
const MOST_SIGNATURES: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIRST: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SECOND: &str = "whsec_d2hvZXZlciByZWFkcyB0aGlzIGtub3dzIHRoZSBrZXk=";
    const AT_MS: i64 = 1_614_265_330_000;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn letter<'a>(timestamp: &'a str, signature: &'a str) -> Signed<'a> {
        Signed { id: "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp, signature, body: BODY }
    }

    #[test]
    fn a_signature_of_the_specifications_own_example_is_known() {
        let keys = Keys::parse(FIRST).unwrap();
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", BODY), signature);
        assert!(keys.have_signed(&letter("1614265330", signature), AT_MS));
    }

    #[test]
    fn any_of_several_keys_and_any_of_several_signatures_will_do() {
        let both = Keys::parse(&format!("{FIRST} {SECOND}")).unwrap();
        let signed = |keys: &Keys| keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", BODY);
        for key in [FIRST, SECOND] {
            let one = Keys::parse(key).unwrap();
            assert!(both.have_signed(&letter("1614265330", &signed(&one)), AT_MS));
            assert!(one.have_signed(&letter("1614265330", &signed(&both)), AT_MS));
        }
        let other = Keys::parse(SECOND).unwrap();
        let theirs = signed(&other);
        assert!(!Keys::parse(FIRST).unwrap().have_signed(&letter("1614265330", &theirs), AT_MS));
        assert!(!Keys::none().have_signed(&letter("1614265330", ""), AT_MS));
    }

    #[test]
    fn whatever_is_changed_or_old_is_not_signed() {
        let keys = Keys::parse(FIRST).unwrap();
        let signature = keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", BODY);
        let right = letter("1614265330", &signature);
        for (seconds, accepted) in [(-301, false), (-300, true), (300, true), (301, false)] {
            assert_eq!(keys.have_signed(&right, AT_MS + seconds * 1000), accepted, "{seconds}");
        }
        let plain = signature.strip_prefix("v1,").unwrap();
        let cut = &signature[..signature.len() - 4];
        let changed = [
            Signed { id: "msg_other", ..right },
            Signed { timestamp: "1614265331", ..right },
            Signed { timestamp: "+1614265330", ..right },
            Signed { timestamp: "", ..right },
            Signed { body: b"{}", ..right },
            Signed { signature: "", ..right },
            Signed { signature: plain, ..right },
            Signed { signature: cut, ..right },
            Signed { signature: "v1,", ..right },
        ];
        for changed in changed {
            assert!(!keys.have_signed(&changed, AT_MS), "{changed:?}");
        }
    }

    #[test]
    fn a_key_is_neither_short_nor_long_nor_bare() {
        let written = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        for bytes in [24, 64] {
            assert!(Keys::parse(&written(bytes)).is_some(), "{bytes}");
        }
        for wrong in [written(23), written(65), "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(), String::new()] {
            assert!(Keys::parse(&wrong).is_none(), "{wrong}");
        }
    }
}
