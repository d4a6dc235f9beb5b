//! What the gateway keeps of an action in the ledger's erasable payload: enough to resume it after a crash, to show
//! it, and to open its commitments. A format that outlives a release: golden files guard it.

use std::collections::BTreeMap;

use boundary::{PolicyRef, Trigger};
use provider::Provider;
use receipt::Json;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::outcome::Details;
use crate::{Code, Error};

/// The payload of an intent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IntentRow {
    /// Version of this format.
    pub v: u8,
    /// `jti` of the mandate.
    pub mandate_id: Option<String>,
    /// The constraints as they were judged, canonical.
    pub constraints: Box<RawValue>,
    /// 32 bytes in hex; every salt of the action derives from it.
    pub salt: String,
    /// The amount at stake, canonical decimal.
    pub amount: Option<String>,
    pub currency: Option<String>,
    pub payment_mode: String,
    pub guarantee_level: String,
    pub reversible: bool,
    pub deadline_ms: Option<u64>,
    pub session_id: Option<String>,
    pub human_approver: Option<String>,
    pub client: BTreeMap<String, Value>,
    pub policy_digest: Option<String>,
    pub catalog_digest: Option<String>,
    pub entity_digest: Option<String>,
    pub observed: Option<ObservedRow>,
    /// Id of the request that brought it.
    pub correlation_id: String,
    /// Hex; stands in every ledger entry of the action.
    pub action_hash: String,
    /// The entries so far, canonical.
    pub entries: Box<RawValue>,
    /// How it was sent, if it was to be.
    pub call: Option<CallRow>,
    /// Why it waits, in stable words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_for: Vec<String>,
    /// The earlier action that it repeats on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_of: Option<String>,
    /// What people are asked, if it waits for them or did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<EscalationRow>,
    /// What people said, as the receipt shows it; canonical.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Box<RawValue>>,
    /// The earlier action that it seems to repeat, if it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_transaction: Option<String>,
    /// What the decision was made from; `countersign replay` reads it.
    pub record: Option<Box<RawValue>>,
}

/// What people are asked about an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EscalationRow {
    /// Why.
    pub triggers: Vec<TriggerRow>,
    /// Who may not decide: who asks, and who gave the right to ask.
    pub parties: Vec<String>,
}

/// One reason to ask a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TriggerRow {
    /// See `boundary::Trigger::word`.
    pub word: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<String>,
}

/// A policy that asks for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyRow {
    pub id: String,
    pub digest: String,
}

/// What observe mode let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObservedRow {
    pub would_be: String,
    pub code: String,
}

/// One call to a provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CallRow {
    pub attempt: u32,
    /// What the provider was called.
    pub provider: String,
    /// [`Provider::identity`] as it was then; rows written before there was one have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    pub provider_key: String,
    pub reference: String,
    /// Unix milliseconds.
    pub send_by_ms: i64,
}

/// The payload of a settlement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OutcomeRow {
    pub v: u8,
    /// The provider's answer, canonical; `null` when there was none.
    pub answer: Option<Box<RawValue>>,
    /// The provider's reference.
    pub reference: Option<String>,
    /// What the caller was told beside the kind.
    #[serde(default)]
    pub details: Details,
    /// The published code, if it was blocked or failed.
    pub code: Option<String>,
}

/// Version of both payloads.
pub(crate) const VERSION: u8 = 1;

impl IntentRow {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        to_bytes(self)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<IntentRow, Error> {
        from_bytes(bytes)
    }
}

impl TriggerRow {
    pub(crate) fn of(trigger: &Trigger) -> TriggerRow {
        let policy =
            |policy: &PolicyRef| PolicyRow { id: policy.id.to_string(), digest: policy.digest.to_string() };
        TriggerRow {
            word: trigger.word().to_owned(),
            policies: trigger.policies().iter().map(policy).collect(),
            earlier: trigger.earlier().map(|earlier| earlier.to_string()),
        }
    }

    pub(crate) fn read(&self) -> Option<Trigger> {
        let policy =
            |row: &PolicyRow| PolicyRef { digest: row.digest.as_str().into(), id: row.id.as_str().into() };
        let earlier = self.earlier.as_deref().map(str::parse).transpose().ok()?;
        Trigger::read(&self.word, self.policies.iter().map(policy).collect(), earlier)
    }
}

impl CallRow {
    /// Whether this is the provider that it was sent to, as it was bound then.
    pub(crate) fn was_for(&self, provider: &dyn Provider) -> bool {
        match &self.identity {
            Some(identity) => identity == provider.identity(),
            None => self.provider == provider.name(),
        }
    }
}

impl OutcomeRow {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        to_bytes(self)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<OutcomeRow, Error> {
        from_bytes(bytes)
    }
}

/// Canonical text as a raw value, so that it is stored and read back without a change.
pub(crate) fn raw(text: String) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(text).map_err(|_| internal("a canonical text is not JSON"))
}

/// The same from a canonical value.
pub(crate) fn raw_json(json: &Json) -> Result<Box<RawValue>, Error> {
    raw(json.as_str().to_owned())
}

/// An error that only a defect of ours can cause; said without its cause.
pub(crate) fn internal(what: &'static str) -> Error {
    tracing::error!(what, "internal inconsistency");
    Error::new(Code::Unavailable, "the gateway could not process this")
}

fn to_bytes<T: Serialize>(row: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(row).map_err(|_| internal("a row cannot be written"))
}

/// An empty payload is one that was erased.
fn from_bytes<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.is_empty() {
        return Err(Error::new(Code::Erased, "the content of this action was erased"));
    }
    serde_json::from_slice(bytes).map_err(|_| internal("a stored row cannot be read"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A line for each form that was ever written.
    const INTENT: &str = include_str!("../tests/golden/intent.json");
    const HELD: &str = include_str!("../tests/golden/held.json");
    const OUTCOME: &str = include_str!("../tests/golden/outcome.json");

    #[test]
    fn rows_of_version_1_are_read_and_written_without_a_change() {
        for line in INTENT.lines() {
            let intent = IntentRow::from_bytes(line.as_bytes()).unwrap();
            assert_eq!(intent.v, VERSION);
            assert_eq!(String::from_utf8(intent.to_bytes().unwrap()).unwrap(), line);
        }
        let held = IntentRow::from_bytes(HELD.trim().as_bytes()).unwrap();
        assert_eq!(String::from_utf8(held.to_bytes().unwrap()).unwrap(), HELD.trim());
        for row in held.escalation.unwrap().triggers {
            assert_eq!(TriggerRow::of(&row.read().unwrap()), row);
        }
        let outcome = OutcomeRow::from_bytes(OUTCOME.trim().as_bytes()).unwrap();
        assert_eq!(String::from_utf8(outcome.to_bytes().unwrap()).unwrap(), OUTCOME.trim());
    }

    #[test]
    fn an_erased_row_says_so() {
        assert_eq!(IntentRow::from_bytes(b"").unwrap_err().code, Code::Erased);
    }
}
