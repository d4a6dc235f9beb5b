//! Reads that wait for people.
//!
//! A read has a new key each time. One that waits for people keeps its key until its client has the outcome, so that the same call
//! again leads there, and nobody is asked twice. This is known to this process only: elsewhere, or after a restart, people are
//! asked anew, which changes nothing. Where the outcome is delivered elsewhere (as a task), that is kept in the store, and looked at
//! before the same call leads there.

use std::sync::Mutex;

use action::{IdempotencyKey, Tenant};
use provider::mcp::Room;

use crate::act::lock;
use crate::mcp::Alike;

/// What is alike to each, by its key: those that are made for reads are in the order of time. Several are alike where they were
/// asked for at once.
#[derive(Default)]
pub(crate) struct HeldReads(Mutex<Room<IdempotencyKey, Alike>>);

impl HeldReads {
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).iter().next().is_none()
    }

    /// The key of the one that is alike; of several, of the oldest.
    pub(crate) fn key_of(&self, alike: &Alike) -> Option<IdempotencyKey> {
        lock(&self.0).iter().find(|(_, held)| *held == alike).map(|(key, _)| key.clone())
    }

    /// Whether this one is held.
    pub(crate) fn has(&self, key: &IdempotencyKey) -> bool {
        lock(&self.0).get(key).is_some()
    }

    /// One of this tenant's waits for people. Of very many one is forgotten: the oldest of the tenant that has most of them.
    pub(crate) fn hold(&self, tenant: &Tenant, alike: Alike, key: IdempotencyKey) {
        lock(&self.0).keep(tenant, key, alike);
    }

    /// Its client has the outcome. Others that are alike are still held.
    pub(crate) fn forget(&self, key: &IdempotencyKey) {
        lock(&self.0).forget(key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use provider::mcp::MOST_IN_A_ROOM;

    use super::*;

    #[test]
    fn of_very_many_the_oldest_of_whoever_has_most_is_forgotten() {
        let held = HeldReads::default();
        let alike = |at: usize| {
            let mut alike = [0; 32];
            alike[..8].copy_from_slice(&at.to_be_bytes());
            alike
        };
        let key = |at: usize| IdempotencyKey::parse(&format!("key-{at:06}")).unwrap();
        let [one, other] = ["one", "other"].map(|name| Tenant::parse(name).unwrap());
        held.hold(&other, alike(0), key(0));
        for at in 1..=MOST_IN_A_ROOM {
            held.hold(&one, alike(at), key(at));
        }
        assert_eq!(held.key_of(&alike(1)), None);
        assert_eq!(held.key_of(&alike(2)), Some(key(2)));
        assert!(held.has(&key(0)), "older than all of them, and of whoever has less");
        held.forget(&key(2));
        assert!(!held.has(&key(2)));
    }

    #[test]
    fn of_two_that_are_alike_the_same_call_is_led_to_one_after_the_other() {
        let held = HeldReads::default();
        let [first, second] = ["key-1", "key-2"].map(|key| IdempotencyKey::parse(key).unwrap());
        let alike = [0; 32];
        for key in [&first, &second] {
            held.hold(&Tenant::default(), alike, key.clone());
        }
        assert_eq!(held.key_of(&alike).as_ref(), Some(&first));
        held.forget(&first);
        assert_eq!(held.key_of(&alike).as_ref(), Some(&second), "the outcome of the other is still there");
        held.forget(&second);
        assert!(held.is_empty());
    }
}
