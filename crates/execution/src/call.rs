//! What leaves for a provider.

use std::sync::Arc;

use action::{ActionId, Archetype, Environment, HmacKey, IdempotencyKey, Money, Subject, Tenant};
use serde_json::Value;

/// One attempt to have one action's effect, as a provider receives it. Stored before it leaves, so that after a
/// crash the same value can be asked about.
#[derive(Clone, Debug)]
pub struct Call {
    /// The action this belongs to.
    pub action_id: ActionId,
    /// Whose action it is.
    pub tenant: Tenant,
    /// Production or sandbox.
    pub environment: Environment,
    /// What kind of action it is; its binding says how it is sent.
    pub archetype: Arc<Archetype>,
    /// The constraints exactly as they were judged.
    pub constraints: Value,
    /// What is to move, when the archetype moves money.
    pub money: Option<Money>,
    /// 1 for the first; rises only after the absence of the attempt before is final.
    pub attempt: u32,
    /// Lower-case hex from [`provider_key`]: the idempotency key that the provider sees.
    pub provider_key: String,
    /// From [`reference()`]: our own name for this attempt, by which the provider can be asked.
    pub reference: String,
    /// The last moment, in Unix milliseconds, at which this attempt's request can still leave us. Absence is
    /// final only some time after it.
    pub send_by_ms: i64,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a call is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// The effect, at once.
    #[default]
    Act,
    /// Sets the money for it aside, and charges nothing.
    Reserve,
    /// Charges what is set aside, or a part of it.
    Capture {
        /// The provider's own reference for what is set aside.
        reservation: Option<String>,
        /// How much there is, and for how long.
        of: Reservation,
    },
    /// Sets free what is set aside. Twice does no more than once, since there is nothing left then.
    Release {
        /// The provider's own reference for what is set aside.
        reservation: Option<String>,
        /// How much there is, and for how long.
        of: Reservation,
    },
}

/// What a provider has set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The most that can be charged.
    pub money: Option<Money>,
    /// When it ends, in Unix milliseconds.
    pub until_ms: i64,
}

/// Our own name for one attempt of one action: short ASCII, safe in paths, headers and free-text fields.
pub fn reference(action_id: &ActionId, attempt: u32) -> String {
    format!("{action_id}-{attempt}")
}

/// The attempt that a name of ours is for; nothing, if it is none that [`reference()`], [`capture_reference()`] or
/// [`release_reference()`] gave.
pub fn attempt_of(name: &str) -> Option<(ActionId, u32)> {
    let (of, capture) =
        name.split_once("-capture-").map_or((name, None), |(of, capture)| (of, Some(capture)));
    let releases = name.strip_suffix("-release");
    let (id, attempt) = releases.unwrap_or(of).rsplit_once('-')?;
    let (id, attempt) = (id.parse().ok()?, attempt.parse().ok()?);
    let given = match capture {
        Some(number) => capture_reference(&id, attempt, number.parse().ok()?),
        None if releases.is_some() => release_reference(&id, attempt),
        None => reference(&id, attempt),
    };
    (given == name).then_some((id, attempt))
}

/// Our own name for what undoes the effect of an attempt.
pub fn rollback_reference(action_id: &ActionId, attempt: u32) -> String {
    format!("{action_id}-{attempt}-rollback")
}

/// The idempotency key of what undoes the effect that was had under this provider key, 64 lower-case hexadecimal digits.
pub fn rollback_key(key: &HmacKey, provider_key: &str) -> String {
    let parts = ("countersign/rollback-key/1", provider_key);
    let bytes = serde_json::to_vec(&parts).unwrap_or_default();
    hex::encode(key.sign(&bytes))
}

/// Our own name for what charges the reservation of an attempt; `number` counts from 1.
pub fn capture_reference(action_id: &ActionId, attempt: u32, number: usize) -> String {
    format!("{action_id}-{attempt}-capture-{number}")
}

/// The idempotency key of what charges the reservation that was made under this provider key.
pub fn capture_key(key: &HmacKey, provider_key: &str, number: usize) -> String {
    let parts = ("countersign/capture-key/1", provider_key, number);
    hex::encode(key.sign(&serde_json::to_vec(&parts).unwrap_or_default()))
}

/// Our own name for what sets the reservation of an attempt free.
pub fn release_reference(action_id: &ActionId, attempt: u32) -> String {
    format!("{action_id}-{attempt}-release")
}

/// The idempotency key of what sets free the reservation that was made under this provider key.
pub fn release_key(key: &HmacKey, provider_key: &str) -> String {
    let parts = ("countersign/release-key/1", provider_key);
    hex::encode(key.sign(&serde_json::to_vec(&parts).unwrap_or_default()))
}

/// The idempotency key that a provider sees, 64 lower-case hexadecimal digits.
///
/// The same request under the same key yields the same value, whoever recomputes it; without the tenant's key
/// nothing about the client's own idempotency key can be told from it. The tenant is in the HMAC key.
pub fn provider_key(
    key: &HmacKey,
    environment: Environment,
    subject: &Subject,
    client_key: &IdempotencyKey,
    archetype: &str,
    attempt: u32,
) -> String {
    // A JSON array keeps the parts apart whatever they contain; the first member keeps this use of the key apart
    // from every other.
    let parts = (
        "countersign/provider-key/1",
        environment.as_str(),
        subject.as_str(),
        client_key.as_str(),
        archetype,
        attempt,
    );
    let bytes = serde_json::to_vec(&parts).unwrap_or_default();
    hex::encode(key.sign(&bytes))
}
