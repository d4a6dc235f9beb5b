//! What a person said: as it is kept, and as receipts show it.

use std::collections::{BTreeMap, BTreeSet};

use action::{ActionId, ApprovalForm};
use ledger::Stored;
use mandate::ApprovedLimits;
use receipt::Json;
use receipt::approval::{AppliesTo, Approval, Commitment, Decision, Envelope, Limits, Quote, Signer, V1};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::pending::Pending;
use crate::row::{EscalationRow, IntentRow, TriggerRow, internal, money_of, raw_json};
use crate::{Error, clock};

/// The record of one person's word; members in JCS order. Its SHA-256 stands in the ledger's chain, and the salt in it
/// keeps that from telling anything once the record is gone. A format that outlives a release.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Said {
    pub action_id: String,
    pub approver: String,
    /// RFC 3339.
    pub at: String,
    pub comment: Option<String>,
    /// What it comes to, such as [`APPROVE`].
    pub decision: String,
    pub escalation_id: String,
    /// `key` or `passkey`.
    pub form: String,
    /// The API key or passkey it was said with.
    pub key_id: String,
    /// How far a yes goes, if not all the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// 32 random bytes in hex.
    pub salt: String,
    /// How much more time is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// SHA-256 of what was shown, see [`Shown`].
    pub shown: String,
    /// What was signed and by what, as receipts show it; of `passkey` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<RawValue>>,
    pub v: u8,
}

pub(crate) const APPROVE: &str = "approve";
pub(crate) const REJECT: &str = "reject";
/// A no that also ends the session and the mandate.
pub(crate) const REVOKE: &str = "revoke_mission";
/// More time for a cycle that found none left.
pub(crate) const EXTEND: &str = "extend_budget";
/// A question to the agent; `comment` holds it.
pub(crate) const ASK: &str = "request_more_info";
/// What the agent says to it; `comment` holds that.
pub(crate) const ANSWER: &str = "answer";
pub(crate) const KEY: &str = ApprovalForm::Key.as_str();
pub(crate) const VERSION: u8 = 1;

/// Everything a person says yes or no to. A yes counts for exactly this.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown<'a> {
    /// Of the action record, constraints included.
    action_hash: &'a str,
    amount: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    atp: Option<&'a RawValue>,
    catalog_digest: Option<&'a str>,
    currency: Option<&'a str>,
    entity_digest: Option<&'a str>,
    escalation_id: String,
    mandate_id: Option<&'a str>,
    parties: &'a [String],
    policy_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    principals: &'a [String],
    request_hash: String,
    triggers: &'a [TriggerRow],
}

impl Said {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let json = Json::of(self).map_err(|_| internal("a decision cannot be written"))?;
        Ok(json.as_str().as_bytes().to_vec())
    }

    pub(crate) fn from_bytes(record: &[u8]) -> Result<Said, Error> {
        serde_json::from_slice(record).map_err(|_| internal("a stored decision cannot be read"))
    }

    /// How far it goes for the rest of the action's session, if it says.
    pub(crate) fn for_the_session(&self) -> Result<Option<ApprovedLimits>, Error> {
        let limits = self.limits.as_ref().filter(|limits| limits.applies_to == AppliesTo::Session);
        limits.map(limits_of).transpose()
    }
}

impl<'a> Shown<'a> {
    pub(crate) fn of(stored: &Stored, row: &'a IntentRow, escalation: &'a EscalationRow) -> Shown<'a> {
        let [policy_digest, catalog_digest, entity_digest] = row.seen_under(Some(escalation));
        Shown {
            action_hash: &row.action_hash,
            amount: row.amount.as_deref(),
            atp: row.atp.as_deref(),
            catalog_digest,
            currency: row.currency.as_deref(),
            entity_digest,
            escalation_id: escalation_id(stored.id, stored.round),
            mandate_id: row.mandate_id.as_deref(),
            parties: &escalation.parties,
            policy_digest,
            principals: &escalation.principals,
            request_hash: hex::encode(stored.request_hash),
            triggers: &escalation.triggers,
        }
    }

    /// Lower-case hex SHA-256 of its canonical form.
    pub(crate) fn digest(&self) -> Result<String, Error> {
        let value = serde_json::to_value(self).map_err(|_| internal("what is shown cannot be written"))?;
        Ok(hex::encode(Sha256::digest(action::json::canonical(&value))))
    }
}

/// Names one hold of one action.
pub(crate) fn escalation_id(id: ActionId, round: u32) -> String {
    format!("{id}-{round}")
}

/// How many people agreed to exactly this, as far as their word `counts`.
pub(crate) fn agreed(said: &[Said], shown: &Shown<'_>, counts: impl Fn(&Said) -> bool) -> Result<u32, Error> {
    let digest = shown.digest()?;
    let agrees = |said: &&Said| {
        said.escalation_id == shown.escalation_id
            && said.decision == APPROVE
            && said.shown == digest
            && counts(said)
            && may_say(shown.principals, shown.parties, &said.approver)
    };
    let people: BTreeSet<&str> = said.iter().filter(agrees).map(|said| said.approver.as_str()).collect();
    Ok(u32::try_from(people.len()).unwrap_or(u32::MAX))
}

/// Whoever asks, or gave the right to ask, does not decide; a principal whose word is asked for does.
pub(super) fn may_say(principals: &[String], parties: &[String], approver: &str) -> bool {
    let named = |names: &[String]| names.iter().any(|name| *name == *approver);
    named(principals) || !named(parties)
}

/// How far those go who agreed to exactly this: no further than any one of them.
pub(crate) fn limits(said: &[Said], shown: &Shown<'_>) -> Result<ApprovedLimits, Error> {
    let agrees = |said: &&Said| said.escalation_id == shown.escalation_id && said.decision == APPROVE;
    let mut each = said.iter().filter(agrees).filter_map(|said| said.limits.as_ref()).map(limits_of);
    each.try_fold(ApprovedLimits::default(), |all, one| Ok(all.and(one?)))
}

fn limits_of(limits: &Limits) -> Result<ApprovedLimits, Error> {
    let money = |quote: &Quote| money_of(Some(&quote.amount), Some(&quote.currency));
    Ok(ApprovedLimits {
        max_amount: limits.max_amount.as_ref().map(money).transpose()?.flatten(),
        not_after_ms: limits.not_after.and_then(|until| clock::parse_ms(until.as_str()).ok()),
    })
}

/// Did somebody give it more time, in exactly this hold? Then it is judged again, and nobody has agreed to anything else.
pub(crate) fn extended(said: &[Said], shown: &Shown<'_>) -> Result<bool, Error> {
    let digest = shown.digest()?;
    Ok(said.iter().any(|said| {
        said.escalation_id == shown.escalation_id && said.decision == EXTEND && said.shown == digest
    }))
}

/// What people said of the hold that an action is in, as receipts show it: persons and comments as commitments.
pub(crate) fn shown(
    stored: &Stored,
    pending: &Pending,
    records: &[Vec<u8>],
) -> Result<Vec<Box<RawValue>>, Error> {
    let hold = escalation_id(stored.id, stored.round);
    let mut shown = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let said = Said::from_bytes(record)?;
        // Receipts tell of a yes and a no.
        if said.escalation_id == hold && [APPROVE, REJECT, REVOKE].contains(&&*said.decision) {
            shown.push(match said.signed {
                Some(signed) => signed,
                None => raw_json(said.as_shown(stored, pending, index)?.json())?,
            });
        }
    }
    Ok(shown)
}

impl Said {
    fn as_shown(&self, stored: &Stored, pending: &Pending, index: usize) -> Result<Approval, Error> {
        let unfit = |_: receipt::Error| internal("a decision cannot be shown");
        let (row, salts) = (&pending.row, pending.salts()?);
        let [policy_digest, catalog_digest, _] = row.seen_under(row.escalation.as_ref());
        let hidden = |member: &str, value: &str| {
            let label = receipt::label(&receipt::label(APPROVALS, &index.to_string()), member);
            Commitment::parse(&salts.commit(&label, &Json::string(value)))
        };
        let envelope = Envelope {
            action_id: self.action_id.clone(),
            approver: hidden("approver", &self.approver).map_err(unfit)?,
            binding_digests: BTreeMap::new(),
            catalog_digest: catalog_digest.map(str::to_owned).unwrap_or_default(),
            comment: self.comment.as_deref().map(|it| hidden("comment", it)).transpose().map_err(unfit)?,
            constraints: constraints_of_waiting(row.entries.get())?,
            decision: if self.decision == APPROVE { Decision::Approve } else { Decision::Reject },
            escalation_id: self.escalation_id.clone(),
            expires_at: clock::timestamp(stored.expires_ms.unwrap_or(stored.at_ms)),
            limits: self.limits.clone(),
            nonce: Sha256::new()
                .chain_update("countersign/nonce/1")
                .chain_update(&self.salt)
                .finalize()
                .into(),
            policy_digest: policy_digest.map(str::to_owned).unwrap_or_default(),
            quote: None,
            reasons: row.held_for.clone(),
            request_hash: hex::encode(stored.request_hash),
            rollback: None,
            summary_digest: hidden("summary", &self.shown).map_err(unfit)?,
            v: V1,
        };
        let at = receipt::Timestamp::parse(&self.at).map_err(|_| internal("a stored time is not one"))?;
        Approval::new(envelope, at, Signer::Key { id: self.key_id.clone() }).map_err(unfit)
    }
}

/// Which of them still belong to a receipt with these entries: people spoke of rules and constraints as they were.
pub(crate) fn fitting(row: &IntentRow, chain: &receipt::Chain) -> Result<Vec<Approval>, Error> {
    if row.approvals.is_empty() {
        return Ok(Vec::new());
    }
    let entries = chain.to_bytes();
    let entries = std::str::from_utf8(&entries).map_err(|_| internal("entries are not text"))?;
    let Ok(Some(constraints)) = constraints_of(entries) else { return Ok(Vec::new()) };
    let texts = row.approvals.iter().map(|approval| approval.get().as_bytes());
    let read: Result<Vec<Approval>, _> = texts.map(Approval::parse).collect();
    let mut read = read.map_err(|_| internal("stored approvals cannot be read"))?;
    let digests = (row.policy_digest.as_deref(), row.catalog_digest.as_deref());
    let price = row.amount.as_deref().zip(row.currency.as_deref());
    read.retain(|approval| {
        let envelope = approval.envelope();
        let quoted = envelope.quote.as_ref().map(|quote| (&*quote.amount, &*quote.currency));
        quoted.is_none_or(|quoted| Some(quoted) == price)
            && chain.stage() > receipt::Stage::Boundary
            && envelope.constraints == constraints
            && (Some(&*envelope.policy_digest), Some(&*envelope.catalog_digest)) == digests
    });
    Ok(read)
}

/// The constraints as the entry `schema` shows them; what was refused before that has none.
pub(crate) fn constraints_of(entries: &str) -> Result<Option<Json>, Error> {
    let entries: Vec<serde_json::Value> =
        serde_json::from_str(entries).map_err(|_| internal("stored entries cannot be read"))?;
    let schema = entries.iter().find(|entry| entry["stage"] == "schema");
    let constraints = schema.and_then(|entry| entry.pointer("/input/constraints"));
    let canonical = constraints.map(Json::canonical).transpose();
    canonical.map_err(|_| internal("stored constraints are not canonical"))
}

/// The same of what waits, which was committed to.
pub(super) fn constraints_of_waiting(entries: &str) -> Result<Json, Error> {
    constraints_of(entries)?.ok_or_else(|| internal("an action that waits has no schema entry"))
}

/// Label under which persons and comments are committed to.
pub(super) const APPROVALS: &str = "approvals";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A line for each form that was ever written.
    const RECORD: &str = include_str!("../../tests/golden/said.json");

    #[test]
    fn a_record_of_version_1_is_read_and_written_without_a_change() {
        for line in RECORD.lines() {
            let said = Said::from_bytes(line.as_bytes()).unwrap();
            assert_eq!(said.v, VERSION);
            assert_eq!(String::from_utf8(said.to_bytes().unwrap()).unwrap(), line);
        }
    }
}
