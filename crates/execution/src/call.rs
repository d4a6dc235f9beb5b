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

/// The name by which providers know an action: made of its idempotency key and of whose that is, so that an action that was
/// forgotten has the same name when it is asked for again. Nothing about the key can be told from it without the tenant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias([u8; 16]);

impl Alias {
    /// The name of the action to whose idempotency key this belongs: the first half of a hash of it and its scope.
    pub fn new(key: &HmacKey, claim: [u8; 16]) -> Alias {
        Alias(key.seal(ALIAS, claim))
    }

    /// The claim it was made of, if this tenant's key made it; one of nothing otherwise.
    pub fn claim(self, key: &HmacKey) -> [u8; 16] {
        key.open(ALIAS, self.0)
    }
}

const ALIAS: &str = "countersign/alias/1";

/// Our own name for one attempt of one action, which is asked for by a request of this hash: short ASCII, safe in paths, headers and
/// free-text fields. Another request under the same key has another name, which differs in the last of these digits.
pub fn reference(alias: Alias, request_hash: &[u8; 32], attempt: u32) -> String {
    format!("{}{}-{attempt}", hex::encode(alias.0), hex::encode(&request_hash[..REQUEST]))
}

/// So many bytes of the request's hash are in a reference.
const REQUEST: usize = 4;

/// Our own name for what undoes the effect of the attempt of this name.
pub fn rollback_reference(attempt: &str) -> String {
    format!("{attempt}{ROLLBACK}")
}

/// Our own name for what charges the reservation of the attempt of this name; `number` counts from 1.
pub fn capture_reference(attempt: &str, number: usize) -> String {
    format!("{attempt}{CAPTURE}{number}")
}

/// Our own name for what sets the reservation of the attempt of this name free.
pub fn release_reference(attempt: &str) -> String {
    format!("{attempt}{RELEASE}")
}

const ROLLBACK: &str = "-rollback";
const CAPTURE: &str = "-capture-";
const RELEASE: &str = "-release";

/// What providers call back about, by a name of ours: an attempt, or what charges or sets free its reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The action.
    pub action: Whose,
    /// Its attempt.
    pub attempt: u32,
}

/// How a name of ours says of which action it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// By the name that providers know it by.
    Alias(Alias),
    /// By its id, as in all references that were given before there were such names.
    Id(ActionId),
}

impl Named {
    /// Reads what [`reference()`], [`capture_reference()`] and [`release_reference()`] write.
    pub fn parse(name: &str) -> Option<Named> {
        let attempt = match name.split_once(CAPTURE) {
            Some((attempt, number)) => is_number(number).then_some(attempt)?,
            None => name.strip_suffix(RELEASE).unwrap_or(name),
        };
        let (action, attempt) = attempt.rsplit_once('-')?;
        let attempt = is_number(attempt).then(|| attempt.parse().ok())??;
        Some(Named { action: Whose::of_action(action)?, attempt })
    }
}

impl Whose {
    /// Reads any name of ours: of an action, of one of its attempts, or of what belongs to one.
    pub fn parse(text: &str) -> Option<Whose> {
        let attempt = || Named::parse(text.strip_suffix(ROLLBACK).unwrap_or(text));
        Whose::of_action(text).or_else(|| Some(attempt()?.action))
    }

    fn of_action(text: &str) -> Option<Whose> {
        if let Ok(id) = text.parse() {
            return Some(Whose::Id(id));
        }
        let is_ours = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bytes = hex::decode(is_ours.then_some(text)?).ok()?;
        let (alias, request) = bytes.split_first_chunk()?;
        (request.len() == REQUEST).then_some(Whose::Alias(Alias(*alias)))
    }
}

/// A number from 1, written as we write it.
fn is_number(text: &str) -> bool {
    !text.starts_with('0') && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The idempotency key of what undoes the effect that was had under this provider key, 64 lower-case hexadecimal digits.
pub fn rollback_key(key: &HmacKey, provider_key: &str) -> String {
    let parts = ("countersign/rollback-key/1", provider_key);
    let bytes = serde_json::to_vec(&parts).unwrap_or_default();
    hex::encode(key.sign(&bytes))
}

/// The idempotency key of what charges the reservation that was made under this provider key.
pub fn capture_key(key: &HmacKey, provider_key: &str, number: usize) -> String {
    let parts = ("countersign/capture-key/1", provider_key, number);
    hex::encode(key.sign(&serde_json::to_vec(&parts).unwrap_or_default()))
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
