//! The keys that sign receipts: files in one folder, private ones for their owner only.
//!
//! ```text
//!   keys/production/
//!       jwks.json       every key ever used, and when; this file says which one signs
//!       <kid>.pkcs8     the private half of each
//! ```
//!
//! INVARIANT (validity): no receipt bears a `created` outside its key's window. A receipt is made while the
//! window cannot close, and a window closes only at a time that no receipt has passed yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use receipt::{Jwk, Jwks, KeyStatus, SigningKey, Timestamp};

use crate::files;

/// The signing keys of one environment.
pub(crate) struct Keys {
    folder: PathBuf,
    state: RwLock<State>,
}

struct State {
    active: SigningKey,
    jwks: Jwks,
    document: Arc<str>,
}

impl Keys {
    /// Opens the folder; an empty one gets its first key, active from `now`.
    pub(crate) fn open(folder: &Path, now: Timestamp) -> Result<Keys, String> {
        files::private_folder(folder).map_err(|error| cannot("make", folder, &error))?;
        let path = folder.join(JWKS);
        let state = if path.exists() { read(folder)? } else { first(folder, now)? };
        Ok(Keys { folder: folder.to_owned(), state: RwLock::new(state) })
    }

    /// Runs `sign` with the active key, which stays active until it returns.
    pub(crate) fn with_active<T>(&self, sign: impl FnOnce(&SigningKey) -> T) -> T {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        sign(&state.active)
    }

    /// The published key set.
    pub(crate) fn document(&self) -> Arc<str> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).document)
    }

    /// The key set, parsed.
    pub(crate) fn jwks(&self) -> Jwks {
        self.state.read().unwrap_or_else(PoisonError::into_inner).jwks.clone()
    }

    /// Puts a new key in the active one's place. `now` is read while nothing can be signed.
    pub(crate) fn rotate(&self, now: impl FnOnce() -> Timestamp) -> Result<String, String> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        let retire = |jwk: &Jwk| match jwk.status() {
            KeyStatus::Active => jwk.clone().retired(now),
            KeyStatus::VerifyOnly | KeyStatus::Compromised => jwk.clone(),
        };
        let keys = state.jwks.keys().iter().map(retire).collect();
        *state = self.with_new_key(keys, now)?;
        Ok(state.active.kid().to_owned())
    }

    /// Can a key be marked as known to others since `at`?
    pub(crate) fn may_be_compromised(&self, kid: &str, at: Timestamp, now: Timestamp) -> Result<(), Refused> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.jwks.key(kid).is_none() {
            return Err(Refused::Unknown);
        }
        if at > now { Err(Refused::Future) } else { Ok(()) }
    }

    /// Marks a key as known to others since `at`. If it is the active one, another takes its place first, and is named.
    pub(crate) fn compromise(
        &self,
        kid: &str,
        at: Timestamp,
        now: impl FnOnce() -> Timestamp,
    ) -> Result<Option<String>, Refused> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        if state.jwks.key(kid).is_none() {
            return Err(Refused::Unknown);
        }
        if at > now {
            return Err(Refused::Future);
        }
        let mark = |jwk: &Jwk| {
            if jwk.kid() != kid {
                return jwk.clone();
            }
            let through = jwk.active_through().unwrap_or(now);
            let since = jwk.compromised_at().map_or(at, |known| known.min(at));
            jwk.clone().retired(through).compromised(since)
        };
        let keys: Vec<Jwk> = state.jwks.keys().iter().map(mark).collect();
        if state.active.kid() == kid {
            *state = self.with_new_key(keys, now).map_err(Refused::Files)?;
            return Ok(Some(state.active.kid().to_owned()));
        }
        let jwks = publish(&self.folder, keys).map_err(Refused::Files)?;
        let active = read_key(&self.folder, state.active.kid()).map_err(Refused::Files)?;
        *state = State { active, document: text(&jwks), jwks };
        Ok(None)
    }

    fn with_new_key(&self, mut keys: Vec<Jwk>, now: Timestamp) -> Result<State, String> {
        let active = make_key(&self.folder)?;
        keys.push(Jwk::active(active.public().clone(), now));
        let jwks = publish(&self.folder, keys)?;
        Ok(State { active, document: text(&jwks), jwks })
    }
}

impl ledger::Sealer for Keys {
    fn seal(&self, bytes: &[u8]) -> Result<String, String> {
        let signature = self.with_active(|key| key.sign(bytes)).map_err(|error| error.to_string())?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    fn key(&self) -> String {
        self.with_active(|key| key.kid().to_owned())
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// Why a key was not marked as compromised.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no such key.
    Unknown,
    /// The time given has not come yet.
    Future,
    /// The files could not be written.
    Files(String),
}

/// Opens the one key that signs mandates issued here, making it if need be.
pub(crate) fn open_private(
    path: &Path,
    make: impl FnOnce() -> Result<zeroize::Zeroizing<Vec<u8>>, String>,
) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    if !path.exists() {
        if let Some(folder) = path.parent() {
            files::private_folder(folder).map_err(|error| cannot("make", folder, &error))?;
        }
        files::write_private(path, &make()?).map_err(|error| cannot("write", path, &error))?;
    }
    files::read_private(path)
}

fn first(folder: &Path, now: Timestamp) -> Result<State, String> {
    let active = make_key(folder)?;
    let jwks = publish(folder, vec![Jwk::active(active.public().clone(), now)])?;
    Ok(State { active, document: text(&jwks), jwks })
}

fn read(folder: &Path) -> Result<State, String> {
    let path = folder.join(JWKS);
    let bytes = fs::read(&path).map_err(|error| cannot("read", &path, &error))?;
    let jwks = Jwks::parse(&bytes).map_err(|error| format!("`{}`: {error}", path.display()))?;
    let active = jwks.keys().iter().find(|jwk| jwk.status() == KeyStatus::Active);
    let active = active.ok_or_else(|| format!("`{}` has no active key", path.display()))?;
    let key = read_key(folder, active.kid())?;
    Ok(State { active: key, document: text(&jwks), jwks })
}

fn read_key(folder: &Path, kid: &str) -> Result<SigningKey, String> {
    let path = folder.join(format!("{kid}.pkcs8"));
    let key = SigningKey::from_pkcs8(&files::read_private(&path)?);
    let key = key.map_err(|error| format!("`{}`: {error}", path.display()))?;
    if key.kid() == kid { Ok(key) } else { Err(format!("`{}` holds another key", path.display())) }
}

fn make_key(folder: &Path) -> Result<SigningKey, String> {
    let key = SigningKey::generate().map_err(|error| error.to_string())?;
    let path = folder.join(format!("{}.pkcs8", key.kid()));
    let bytes = key.to_pkcs8().map_err(|error| error.to_string())?;
    files::write_private(&path, &bytes).map_err(|error| cannot("write", &path, &error))?;
    Ok(key)
}

fn publish(folder: &Path, keys: Vec<Jwk>) -> Result<Jwks, String> {
    let jwks = Jwks::new(keys).map_err(|error| error.to_string())?;
    let path = folder.join(JWKS);
    files::write_private(&path, jwks.as_bytes()).map_err(|error| cannot("write", &path, &error))?;
    Ok(jwks)
}

fn text(jwks: &Jwks) -> Arc<str> {
    String::from_utf8_lossy(jwks.as_bytes()).into()
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} `{}`: {error}", path.display())
}

const JWKS: &str = "jwks.json";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    #[test]
    fn keys_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let kid = Keys::open(folder.path(), at(1)).unwrap().with_active(|key| key.kid().to_owned());
        let again = Keys::open(folder.path(), at(2)).unwrap();
        assert_eq!(again.with_active(|key| key.kid().to_owned()), kid);
    }

    #[test]
    fn rotation_keeps_the_old_key_for_verification() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path(), at(1)).unwrap();
        let old = keys.with_active(|key| key.kid().to_owned());
        let new = keys.rotate(|| at(5)).unwrap();
        assert_ne!(old, new);
        let jwks = Keys::open(folder.path(), at(9)).unwrap().jwks();
        assert_eq!(jwks.key(&old).unwrap().active_through(), Some(at(5)));
        assert_eq!(jwks.key(&new).unwrap().status(), KeyStatus::Active);
    }

    #[test]
    fn a_compromised_active_key_is_replaced_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path(), at(1)).unwrap();
        let old = keys.with_active(|key| key.kid().to_owned());
        assert_eq!(keys.compromise(&old, at(50), || at(9)), Err(Refused::Future));
        assert_eq!(keys.compromise("no such key", at(5), || at(9)), Err(Refused::Unknown));
        keys.compromise(&old, at(5), || at(9)).unwrap();
        assert_eq!(keys.jwks().key(&old).unwrap().status(), KeyStatus::Compromised);
        assert_ne!(keys.with_active(|key| key.kid().to_owned()), old);
        // What is known later to have been earlier moves the time back, never forward.
        keys.compromise(&old, at(3), || at(10)).unwrap();
        keys.compromise(&old, at(8), || at(11)).unwrap();
        assert_eq!(keys.jwks().key(&old).unwrap().compromised_at(), Some(at(3)));
    }
}
