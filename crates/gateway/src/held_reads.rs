//! Reads that wait for people.
//!
//! A read has a new key each time. One that waits for people keeps its key until its client has the outcome, so that the same call
//! again leads there, and nobody is asked twice. This is known to this process only: elsewhere, or after a restart, people are
//! asked anew, which changes nothing. Where the outcome is delivered elsewhere (as a task), that is kept in the store, and looked at
//! before the same call leads there.

use std::collections::HashMap;
use std::sync::Mutex;

use action::IdempotencyKey;

use crate::act::lock;
use crate::mcp::Alike;

#[derive(Default)]
pub(crate) struct HeldReads(Mutex<HashMap<Alike, IdempotencyKey>>);

impl HeldReads {
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// The key of the one that is alike.
    pub(crate) fn key_of(&self, alike: &Alike) -> Option<IdempotencyKey> {
        lock(&self.0).get(alike).cloned()
    }

    /// What is alike to the one of this key.
    pub(crate) fn of_key(&self, key: &str) -> Option<Alike> {
        lock(&self.0).iter().find(|(_, held)| held.as_str() == key).map(|(alike, _)| *alike)
    }

    /// It waits for people. Of very many the oldest is forgotten: keys that are made for reads are in the order of time.
    pub(crate) fn hold(&self, alike: Alike, key: IdempotencyKey) {
        let mut held = lock(&self.0);
        held.insert(alike, key);
        if held.len() > MOST {
            let oldest = held.iter().min_by_key(|(_, key)| key.as_str()).map(|(alike, _)| *alike);
            oldest.map(|oldest| held.remove(&oldest));
        }
    }

    /// Its client has the outcome.
    pub(crate) fn forget(&self, alike: &Alike) {
        lock(&self.0).remove(alike);
    }
}

const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn of_very_many_the_oldest_is_forgotten() {
        let held = HeldReads::default();
        let alike = |at: usize| {
            let mut alike = [0; 32];
            alike[..8].copy_from_slice(&at.to_be_bytes());
            alike
        };
        let key = |at: usize| IdempotencyKey::parse(&format!("key-{at:06}")).unwrap();
        for at in 0..=MOST {
            held.hold(alike(at), key(at));
        }
        assert_eq!(held.key_of(&alike(0)), None);
        assert_eq!(held.key_of(&alike(1)), Some(key(1)));
        assert_eq!(held.of_key("key-000001"), Some(alike(1)));
        held.forget(&alike(1));
        assert_eq!(held.of_key("key-000001"), None);
    }
}
