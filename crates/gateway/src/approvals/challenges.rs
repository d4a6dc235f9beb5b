//! Challenges that a passkey signs to register or to log in. One costs nothing until it is answered, because what it was
//! given out for stands in itself, under a key of this process; and each is answered once. A login is remembered only if
//! it was signed rightly, so strangers leave nothing behind.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use action::HmacKey;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::{Code, Error, clock};

/// How long a person may take.
pub(crate) const PATIENCE_MS: i64 = 5 * 60_000;

pub(crate) struct Challenges {
    key: HmacKey,
    /// Those that were answered, until they would have lapsed.
    used: Mutex<HashMap<[u8; TAG], i64>>,
}

/// A challenge of ours that somebody says was signed.
pub(crate) struct Given {
    pub challenge: Vec<u8>,
    tag: [u8; TAG],
    until_ms: i64,
}

/// Bytes of the time, of the random part, and of the tag over both and the purpose.
const TIME: usize = 8;
const RANDOM: usize = 16;
const TAG: usize = 32;

impl Challenges {
    pub(crate) fn new() -> Result<Challenges, Error> {
        Ok(Challenges { key: HmacKey::new(&clock::random()?), used: Mutex::default() })
    }

    /// A challenge for this purpose and no other.
    pub(crate) fn give(&self, purpose: &str) -> Result<Vec<u8>, Error> {
        let random: [u8; RANDOM] = clock::random()?;
        let mut challenge = [&clock::now_ms().to_be_bytes()[..], &random].concat();
        challenge.extend(self.tag(&challenge, purpose));
        Ok(challenge)
    }

    /// The challenge that a browser says was signed, if it is one of ours for this purpose and in time.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if it is not.
    pub(crate) fn given(&self, purpose: &str, client_data_json: &[u8]) -> Result<Given, Error> {
        let challenge = challenge_of(client_data_json).ok_or_else(lapsed)?;
        let (begun, tag) = challenge.split_last_chunk::<TAG>().ok_or_else(lapsed)?;
        let at = begun.first_chunk::<TIME>().filter(|_| begun.len() == TIME + RANDOM).ok_or_else(lapsed)?;
        verify_slices_are_equal(&self.tag(begun, purpose), tag).map_err(|_| lapsed())?;
        let (tag, until_ms) = (*tag, i64::from_be_bytes(*at) + PATIENCE_MS);
        Ok(Given { challenge, tag, until_ms })
    }

    /// Takes the answer to a challenge, which is remembered.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if it comes too late or was answered before.
    pub(crate) fn answered(&self, given: Given) -> Result<Vec<u8>, Error> {
        let now_ms = clock::now_ms();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, until_ms| *until_ms > now_ms);
        match given.until_ms > now_ms && used.insert(given.tag, given.until_ms).is_none() {
            true => Ok(given.challenge),
            false => Err(lapsed()),
        }
    }

    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn tag(&self, begun: &[u8], purpose: &str) -> [u8; TAG] {
        self.key.sign_parts(&[begun, purpose.as_bytes()])
    }
}

fn lapsed() -> Error {
    Error::new(Code::StateConflict, "this question has lapsed; begin again")
}

/// The challenge in a browser's word on what was signed. What it is worth is for others to find out.
pub(crate) fn challenge_of(client_data_json: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct ClientData {
        challenge: String,
    }
    let data: ClientData = serde_json::from_slice(client_data_json).ok()?;
    BASE64_URL_SAFE_NO_PAD.decode(data.challenge).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn signed(challenge: &[u8]) -> Vec<u8> {
        format!(r#"{{"challenge":"{}"}}"#, BASE64_URL_SAFE_NO_PAD.encode(challenge)).into_bytes()
    }

    fn take(challenges: &Challenges, purpose: &str, client_data_json: &[u8]) -> Result<Vec<u8>, Error> {
        challenges.answered(challenges.given(purpose, client_data_json)?)
    }

    #[test]
    fn a_challenge_is_answered_once_and_for_its_purpose() {
        let challenges = Challenges::new().unwrap();
        let given = challenges.give("login").unwrap();
        assert!(take(&challenges, "register", &signed(&given)).is_err(), "another purpose");
        assert_eq!(take(&challenges, "login", &signed(&given)).unwrap(), given);
        assert!(take(&challenges, "login", &signed(&given)).is_err(), "a second time");
        let mut earlier = challenges.give("login").unwrap();
        earlier[7] ^= 1;
        assert!(take(&challenges, "login", &signed(&earlier)).is_err(), "another time");
        for strange in [&[][..], &[0; 56], &given[1..]] {
            assert!(take(&challenges, "login", &signed(strange)).is_err());
        }
        assert!(take(&challenges, "login", b"{}").is_err());
        let others = Challenges::new().unwrap();
        assert!(take(&others, "login", &signed(&challenges.give("login").unwrap())).is_err());
    }
}
