//! Names of rows: what is looked up by a hash, and how the hash is made.
//!
//! Indexes hold 64 bits of SHA-256. That is enough to find a row and not enough to be it: whoever finds one
//! compares the full text or the full hash, except where two that meet could only be stricter with each other: who
//! makes two mandates share an [`account`] gets one cap for both, who makes two of a principal's histories meet
//! ([`series`], [`seen`]) is judged by both.

use action::{Environment, Subject, Tenant};
use sha2::{Digest, Sha256};

use crate::Intent;

/// An idempotency key within its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim([u8; 32]);

impl Claim {
    /// The claim of a key, which belongs to (tenant, environment, subject) and never to a credential.
    #[must_use]
    pub fn new(tenant: &Tenant, environment: Environment, subject: &Subject, key: &str) -> Claim {
        Claim(digest("key", &[tenant.as_str(), environment.as_str(), subject.as_str(), key]))
    }

    /// The claim an intent makes, if it has a key.
    #[must_use]
    pub fn of(intent: &Intent) -> Option<Claim> {
        let key = intent.key.as_deref()?;
        Some(Claim::new(&intent.tenant, intent.environment, &intent.subject, key))
    }

    /// What it is found by where only a half of it is known.
    #[must_use]
    pub fn half(&self) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        half
    }

    /// As it is stored in full.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// One that is stored in full.
    pub(crate) fn stored(bytes: [u8; 32]) -> Claim {
        Claim(bytes)
    }

    /// Where the index looks first. Another key with the same 64 bits moves on to the next number.
    pub(crate) fn slot(&self) -> i64 {
        slot_of(&self.half())
    }
}

/// [`Claim::slot`] of those that begin so.
pub(crate) fn slot_of(half: &[u8; 16]) -> i64 {
    (i128::from_be_bytes(*half) >> 64) as i64
}

/// The account of a mandate.
pub(crate) fn account(tenant: &Tenant, jti: &str) -> i64 {
    tag(&digest("account", &[tenant.as_str(), jti]))
}

/// A governed session.
pub(crate) fn session(tenant: &Tenant, id: &str) -> i64 {
    tag(&digest("session", &[tenant.as_str(), id]))
}

/// A cluster of them.
pub(crate) fn cluster(tenant: &Tenant, id: &str) -> i64 {
    tag(&digest("cluster", &[tenant.as_str(), id]))
}

/// The anomaly history an action belongs to.
pub(crate) fn series(tenant: &Tenant, principal: &str, archetype: &str, currency: &str) -> i64 {
    tag(&digest("series", &[tenant.as_str(), principal, archetype, currency]))
}

/// The mark that a principal's archetype has had this destination before.
pub(crate) fn seen(tenant: &Tenant, principal: &str, archetype: &str, destination: &str) -> i64 {
    tag(&digest("seen", &[tenant.as_str(), principal, archetype, destination]))
}

/// The index number of a receipt's short address or signature.
pub(crate) fn address(text: &str) -> i64 {
    tag(&digest("address", &[text]))
}

/// A value that entries of the audit trail are found by. Whoever finds one reads the entry itself.
pub(crate) fn term(whose: &str, by: u8, value: &str) -> i64 {
    tag(&digest("term", &[whose, &char::from(b'0' + by).to_string(), value]))
}

/// Equal refusals of one subject.
pub(crate) fn refusal(tenant: &Tenant, subject: &Subject, why: &str, request_hash: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(digest("refusal", &[tenant.as_str(), subject.as_str(), why]));
    hasher.update(request_hash);
    hasher.finalize().into()
}

/// The first 64 bits of a hash.
pub(crate) fn tag(hash: &[u8; 32]) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(first)
}

/// Each part is preceded by its length, so that no two lists of parts give the same bytes.
fn digest(kind: &str, parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in std::iter::once(&kind).chain(parts) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn moving_a_letter_across_a_border_makes_another_name() {
        let tenant = Tenant::default();
        let claim = |subject: &str, key: &str| {
            Claim::new(&tenant, Environment::Production, &Subject::parse(subject).unwrap(), key)
        };
        assert_ne!(claim("ab", "c"), claim("a", "bc"));
        assert_eq!(claim("ab", "c"), claim("ab", "c"));
        assert_ne!(series(&tenant, "p", "A", "USD"), seen(&tenant, "p", "A", "USD"));
    }
}
