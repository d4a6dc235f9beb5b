//! What the gateway keeps of an action in the ledger's erasable payload: enough to resume it after a crash, to show
//! it, and to open its commitments. A format that outlives a release: golden files guard it.

use std::collections::BTreeMap;
use std::time::Duration;

use action::{AskedCycle, Atp, Backoff, Currency, Deletion, Keeping, Money, Period, RetryPolicy};
use boundary::{PolicyRef, Trigger};
use execution::{Call, Confirmation, Course, Undo};
use mandate::Usage;
use provider::Provider;
use receipt::Json;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::check::OURSELVES;
use crate::decide::usage;
use crate::outcome::Details;
use crate::reserve::ReservationRow;
use crate::tenants::Rules;
use crate::{Code, Error, clock};

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
    /// Hex; what the action was when it was judged. Entries name the whole row, see `decide::named`.
    pub action_hash: String,
    /// The entries so far, canonical.
    pub entries: Box<RawValue>,
    /// How it was sent, if it was to be: the latest attempt.
    pub call: Option<CallRow>,
    /// The attempts before that, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptRow>,
    /// How it is tried again, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryRow>,
    /// What there was before it changed it, canonical; the provider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Box<RawValue>>,
    /// What was confirmed of its effect, if that is looked after before anything is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Box<CheckRow>>,
    /// What the provider has set aside for it, or had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Box<ReservationRow>>,
    /// What people said that ended nothing, and so stands in no outcome, oldest first. None of it is ever dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<ResolutionRow>,
    /// How its effect is undone, if it is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Box<RollbackRow>>,
    /// [`Provider::identity`] of what is to undo it, if the request brought that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<String>,
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
    /// What only the envelope of the Agent Transaction Protocol said, where it came in that; canonical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atp: Option<Box<RawValue>>,
    /// What the decision was made from; `countersign replay` reads it.
    pub record: Option<Box<RawValue>>,
    /// What it is in its session, where it is a cycle of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle: Option<Box<CycleRow>>,
    /// How long it is kept and when it is erased, where anybody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeping: Option<KeepingRow>,
    /// The regulations it falls under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regulations: Vec<String>,
    /// Who asked for anything to be done with it once it was sent, in the order in which they first did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steered_by: Vec<String>,
}

/// A cycle of a governed session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CycleRow {
    pub session_id: String,
    /// The declaration it stands on, if there is one.
    pub intent_id: Option<String>,
    pub sequence: u64,
    /// What its agent said, as `action::AskedCycle` writes it; nothing if only the session was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Value>,
    /// The Context Package it was judged with the last time.
    pub context: Value,
    /// What was decided on it, oldest first.
    pub decided: Vec<DecidedRow>,
}

/// One decision on a cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecidedRow {
    /// `PROCEED`, `DENY`, `ESCALATE` or `SUSPEND`.
    pub governance: String,
    /// Ids of the policies that decided.
    pub policies: Vec<String>,
    /// What is odd and stopped nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// How long an action is kept and when it is erased, in the words of `action::retention`; members in JCS order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeepingRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
}

/// What people are asked about an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EscalationRow {
    /// Why.
    pub triggers: Vec<TriggerRow>,
    /// Who may not decide: who asks, and who gave the right to ask.
    pub parties: Vec<String>,
    /// Who all have to agree: the principals of its cluster, though they may have given the right to ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// The rules that people saw it judged by, once it was judged again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<SeenRow>,
    /// Why they are asked once more, if they are; what they said before counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anew: Option<String>,
}

/// The rules by which an action was judged when people were asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeenRow {
    pub policy_digest: Option<String>,
    pub catalog_digest: Option<String>,
    pub entity_digest: Option<String>,
}

/// Why a yes counts no more where the rules are as they were: something else about the action is not.
pub(crate) const ANEW: &str = "asked_anew";

/// What of the rules is no longer as people saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    Policies,
    Catalogue,
    Both,
}

impl Changed {
    /// Between what people saw and these policies and this catalogue, if anything.
    pub(crate) fn between(seen: [Option<&str>; 2], now: [Option<&str>; 2]) -> Option<Changed> {
        match (seen[0] == now[0], seen[1] == now[1]) {
            (true, true) => None,
            (false, true) => Some(Changed::Policies),
            (true, false) => Some(Changed::Catalogue),
            (false, false) => Some(Changed::Both),
        }
    }

    /// The word for it on record.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Changed::Policies => "policies_changed",
            Changed::Catalogue => "catalogue_changed",
            Changed::Both => "rules_changed",
        }
    }

    /// As a sentence begins.
    pub(crate) const fn said(self) -> &'static str {
        match self {
            Changed::Policies => "the policies",
            Changed::Catalogue => "the catalogue",
            Changed::Both => "policies and catalogue",
        }
    }
}

impl EscalationRow {
    /// What changed of the rules since people were asked until it was judged as this row says.
    pub(crate) fn changed_since(&self, row: &IntentRow) -> Option<Changed> {
        let seen = self.seen.as_ref()?;
        Changed::between(
            [seen.policy_digest.as_deref(), seen.catalog_digest.as_deref()],
            [row.policy_digest.as_deref(), row.catalog_digest.as_deref()],
        )
    }

    /// Keeps by which rules people saw it: from now on the row tells of the rules of now.
    pub(crate) fn seen_in(mut self, row: &IntentRow) -> EscalationRow {
        self.seen.get_or_insert_with(|| SeenRow {
            policy_digest: row.policy_digest.clone(),
            catalog_digest: row.catalog_digest.clone(),
            entity_digest: row.entity_digest.clone(),
        });
        self
    }

    /// The classes of what people are asked for, each once, in order.
    pub(crate) fn classes(&self) -> Vec<u8> {
        let triggers = self.read().unwrap_or_default();
        let mut classes: Vec<u8> = triggers.iter().map(|trigger| trigger.class() as u8).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// How often it was sent; all of them bear the same key.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub sends: u32,
    /// How often anything was sent after the first time, since somebody last asked for an attempt.
    #[serde(default, skip_serializing_if = "is_none")]
    pub retries: u32,
    /// When it was first marked sent, Unix milliseconds; older rows say so only of what is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<i64>,
    /// What its payer was asked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<ChallengeRow>,
}

/// What a payer has to confirm to the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChallengeRow {
    /// Where; the provider's word, at a host that the operator lists.
    pub url: String,
    /// Until when, Unix milliseconds.
    pub until_ms: i64,
}

/// An attempt that is over and had no effect, as far as was known then; see [`EarlierRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttemptRow {
    pub attempt: u32,
    pub provider: String,
    pub provider_key: String,
    pub reference: String,
    pub sends: u32,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<i64>,
    pub ended_ms: i64,
    /// How its absence is known: a stable word.
    pub result: String,
    /// The provider's own code; foreign text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_code: Option<String>,
    /// Whether the caller was told that the action had failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last_word: bool,
    /// What the provider had set aside for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Box<ReservationRow>>,
}

/// How an effect is undone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackRow {
    /// Who asked for it.
    pub by: String,
    /// When, Unix milliseconds.
    pub asked_ms: i64,
    pub provider_key: String,
    pub reference: String,
    /// The provider's reference for the effect.
    pub confirmed: Option<String>,
    /// How often it was sent, each time under the same key.
    pub sends: u32,
    /// When it was first marked sent, Unix milliseconds.
    pub first_ms: i64,
    /// What the provider said, if it is undone and the last word on the action is not said yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<ConfirmedRow>,
}

/// An effect that is looked after.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckRow {
    pub confirmed: ConfirmedRow,
    /// When it was, Unix milliseconds.
    pub confirmed_ms: i64,
    /// How often it was asked in vain whether all is as it should be.
    pub asks: u32,
    /// Whether it came although something else was said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// What a provider confirmed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfirmedRow {
    /// The provider's reference.
    pub reference: Option<String>,
    /// Its answer, canonical; foreign text.
    pub answer: Box<RawValue>,
    /// What was charged, canonical decimal, if the answer says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// How an action is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryRow {
    pub max_retries: u32,
    #[serde(with = "backoff")]
    pub backoff: Backoff,
    pub initial_delay_seconds: u64,
    pub max_delay_seconds: u64,
}

mod backoff {
    use action::Backoff;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(it: &Backoff, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(it.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Backoff, D::Error> {
        let text = String::deserialize(deserializer)?;
        Backoff::parse(&text).ok_or_else(|| D::Error::custom("no such backoff"))
    }
}

fn once() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_once(sends: &u32) -> bool {
    *sends == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_none(count: &u32) -> bool {
    *count == 0
}

/// The payload of a settlement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OutcomeRow {
    pub v: u8,
    /// Hex; what named the action's row then. Older outcomes have neither this nor the salt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub of: String,
    /// Hex, 16 random bytes: what an entry commits to cannot be guessed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub salt: String,
    /// The provider's answer, canonical; `null` when there was none.
    pub answer: Option<Box<RawValue>>,
    /// What it answered where it declined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Box<RawValue>>,
    /// The provider's reference.
    pub reference: Option<String>,
    /// What the caller was told beside the kind.
    #[serde(default)]
    pub details: Details,
    /// The published code, if it was blocked or failed.
    pub code: Option<String>,
    /// Who said so, where it was a person and not the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Box<ResolutionRow>>,
    /// Which effect it tells of, where that is not the latest call's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<EarlierRow>,
    /// Whether it only tells that the provider denies the effect which it had confirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// An effect of an attempt, or of a capture, that had been taken for absent before another one followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EarlierRow {
    pub attempt: u32,
    /// Our name for the call that had it.
    pub reference: String,
    /// What it was debited, minor units, where this is what first tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debited: Option<i64>,
    /// How it is known that the latest call had no effect, where this one's is what the action came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

/// A person's word on what became of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResolutionRow {
    /// See `Decision::as_str`.
    #[serde(rename = "as")]
    pub decision: String,
    /// Who.
    pub by: String,
    /// The API key or passkey they were logged in with.
    pub key_id: String,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// How they know.
    pub comment: String,
    /// What they say was charged, canonical decimal; absent: what was reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<String>,
    /// What they say the provider calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Of no other word on this action; so every commitment to it differs.
    pub number: u32,
}

/// Version of both payloads.
pub(crate) const VERSION: u8 = 1;

impl IntentRow {
    /// Whether the policies and the catalogue that it was judged by are those of now.
    pub(crate) fn is_judged_by(&self, rules: &Rules) -> bool {
        let policies = rules.policies.policy_digest().to_string();
        let now = [Some(policies.as_str()), Some(rules.catalogue.digest())];
        Changed::between([self.policy_digest.as_deref(), self.catalog_digest.as_deref()], now).is_none()
    }

    /// What it came with in the envelope of the Agent Transaction Protocol.
    pub(crate) fn atp(&self) -> Result<Option<Atp>, Error> {
        let Some(kept) = &self.atp else { return Ok(None) };
        let atp = serde_json::from_str(kept.get()).ok().and_then(Atp::kept);
        atp.map(Some).ok_or_else(|| internal("a stored envelope cannot be read"))
    }

    /// Somebody asks for something to be done with it; who asked before stays named.
    pub(crate) fn steered(&mut self, by: &str) {
        if by != OURSELVES && !self.steered_by.iter().any(|it| it == by) {
            self.steered_by.push(by.to_owned());
        }
    }

    /// Everybody who asked for anything to be done with it; older rows name only who did so last.
    pub(crate) fn steerers(&self) -> impl Iterator<Item = &str> {
        let before = self.attempts.iter().filter_map(|attempt| attempt.reservation.as_deref());
        let reservations = before.chain(self.reservation.as_deref());
        let of_reservations = reservations.flat_map(|it| {
            let captures = it.captures.iter().map(|capture| &*capture.by);
            captures.chain(it.release.iter().map(|release| &*release.by))
        });
        let of_rollback = self.rollback.iter().map(|rollback| &*rollback.by);
        self.steered_by.iter().map(String::as_str).chain(of_reservations).chain(of_rollback)
    }

    /// Does it wait because no time was left? Only more of it helps, and no yes.
    pub(crate) fn wants_time(&self) -> bool {
        self.held_for.iter().any(|word| word == Trigger::BudgetExhausted.word())
    }

    /// Was its caller told that it had failed, before somebody asked for another attempt?
    pub(crate) fn was_settled(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.last_word)
    }

    /// What people said that ended nothing, oldest first, wherever the row has it.
    pub(crate) fn words_aside(&self) -> impl Iterator<Item = &ResolutionRow> {
        let captures = self.reservation.iter().flat_map(|it| &it.captures);
        captures.filter_map(|capture| capture.resolution.as_deref()).chain(&self.words)
    }

    /// Was its payer asked to confirm the latest attempt?
    pub(crate) fn was_challenged(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.challenge.is_some())
    }

    /// What the provider calls what it has done or set aside, as far as nothing was said of that yet or it was to be undone.
    pub(crate) fn provider_reference(self) -> Option<String> {
        let undone = self.rollback.and_then(|rollback| rollback.confirmed);
        let checked = self.check.and_then(|check| check.confirmed.reference);
        undone.or(checked).or(self.reservation.and_then(|reservation| reservation.confirmed))
    }

    /// Digests of the rules that people saw it judged by when they were asked: policies, catalogue, entities.
    pub(crate) fn seen_under<'a>(&'a self, escalation: Option<&'a EscalationRow>) -> [Option<&'a str>; 3] {
        let digests = match escalation.and_then(|escalation| escalation.seen.as_ref()) {
            Some(seen) => [&seen.policy_digest, &seen.catalog_digest, &seen.entity_digest],
            None => [&self.policy_digest, &self.catalog_digest, &self.entity_digest],
        };
        digests.map(Option::as_deref)
    }

    /// How long it is kept and when it is erased.
    pub(crate) fn keeping(&self) -> Result<Keeping, Error> {
        let Some(row) = &self.keeping else { return Ok(Keeping::default()) };
        row.read().ok_or_else(|| internal("a stored retention cannot be read"))
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        to_bytes(self)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<IntentRow, Error> {
        from_bytes(bytes)
    }

    /// The salt alone; nothing if it was erased, or cannot be read.
    pub(crate) fn salt_of(bytes: &[u8]) -> Option<[u8; 32]> {
        #[derive(Deserialize)]
        struct Salted<'a> {
            salt: &'a str,
        }
        let row: Salted<'_> = serde_json::from_slice(bytes).ok()?;
        let mut salt = [0; 32];
        hex::decode_to_slice(row.salt, &mut salt).ok()?;
        Some(salt)
    }
}

impl CycleRow {
    /// What its agent said.
    pub(crate) fn asked(&self) -> Result<Option<AskedCycle>, Error> {
        let Some(asked) = self.asked.clone() else { return Ok(None) };
        let asked = AskedCycle::kept(asked).ok_or_else(|| internal("a stored cycle cannot be read"))?;
        Ok(Some(asked))
    }

    /// What it means to use up in so many seconds.
    pub(crate) fn used(&self, seconds: u64) -> Usage {
        let resources = self.asked.clone().and_then(AskedCycle::kept).unwrap_or_default().resources;
        usage(seconds, &resources)
    }
}

impl KeepingRow {
    /// `None` where nothing is said.
    pub(crate) fn of(keeping: Keeping) -> Option<KeepingRow> {
        let deletion = Some(keeping.deletion()).filter(|deletion| *deletion != Deletion::Never);
        let (retention, deletion) =
            (keeping.retention().map(|it| it.to_string()), deletion.map(|it| it.to_string()));
        (retention.is_some() || deletion.is_some()).then_some(KeepingRow { retention, deletion })
    }

    fn read(&self) -> Option<Keeping> {
        let retention = self.retention.as_deref().map(|text| Period::parse(text).ok_or(()));
        let deletion = self.deletion.as_deref().map_or(Some(Deletion::Never), Deletion::parse)?;
        Keeping::new(retention.transpose().ok()?, deletion).ok()
    }
}

impl EscalationRow {
    pub(crate) fn read(&self) -> Result<Vec<Trigger>, Error> {
        let triggers: Option<Vec<Trigger>> = self.triggers.iter().map(TriggerRow::read).collect();
        triggers.ok_or_else(|| internal("a stored reason cannot be read"))
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

impl AttemptRow {
    /// Our names for its calls: the attempt, and what was to charge what that had set aside.
    pub(crate) fn references(&self) -> impl Iterator<Item = &str> {
        let captures = self.reservation.iter().flat_map(|reservation| &reservation.captures);
        std::iter::once(&*self.reference).chain(captures.map(|capture| &*capture.reference))
    }
}

impl RollbackRow {
    /// One that is to be sent now.
    pub(crate) fn begun(by: String, confirmed: Option<String>, undo: &Undo) -> RollbackRow {
        RollbackRow {
            by,
            asked_ms: clock::now_ms(),
            provider_key: undo.call.provider_key.clone(),
            reference: undo.call.reference.clone(),
            confirmed,
            sends: undo.sends,
            first_ms: undo.first_ms,
            undone: None,
        }
    }
}

impl ConfirmedRow {
    pub(crate) fn of(it: &Confirmation) -> Result<ConfirmedRow, Error> {
        Ok(ConfirmedRow {
            reference: it.reference.clone(),
            answer: raw(action::json::canonical(&it.answer))?,
            amount: it.charged.map(|money| money.to_string()),
            currency: it.charged.map(|money| money.currency().code().to_owned()),
        })
    }

    pub(crate) fn read(&self) -> Result<Confirmation, Error> {
        let unreadable = |_| internal("a stored confirmation cannot be read");
        Ok(Confirmation {
            reference: self.reference.clone(),
            answer: serde_json::from_str(self.answer.get()).map_err(unreadable)?,
            charged: money_of(self.amount.as_deref(), self.currency.as_deref())?,
            // Only what is set aside ends by itself.
            expires_ms: None,
        })
    }
}

impl From<RetryPolicy> for RetryRow {
    fn from(policy: RetryPolicy) -> RetryRow {
        let RetryPolicy { max_retries, backoff, initial_delay, max_delay } = policy;
        let (initial_delay_seconds, max_delay_seconds) = (initial_delay.as_secs(), max_delay.as_secs());
        RetryRow { max_retries, backoff, initial_delay_seconds, max_delay_seconds }
    }
}

impl From<RetryRow> for RetryPolicy {
    fn from(row: RetryRow) -> RetryPolicy {
        RetryPolicy {
            max_retries: row.max_retries,
            backoff: row.backoff,
            initial_delay: Duration::from_secs(row.initial_delay_seconds),
            max_delay: Duration::from_secs(row.max_delay_seconds),
        }
    }
}

impl CallRow {
    /// How this call is kept. What is never sent has no course.
    pub(crate) fn new(call: &Call, provider: &dyn Provider, course: Option<Course>) -> CallRow {
        CallRow {
            attempt: call.attempt,
            provider: provider.name().to_owned(),
            identity: Some(provider.identity().to_owned()),
            provider_key: call.provider_key.clone(),
            reference: call.reference.clone(),
            send_by_ms: call.send_by_ms,
            sends: course.map_or(1, |course| course.sends),
            retries: course.map_or(0, |course| course.retries),
            first_ms: course.map(|course| course.first_ms),
            challenge: None,
        }
    }

    pub(crate) fn course(&self) -> Course {
        Course { sends: self.sends, retries: self.retries, first_ms: self.first_ms.unwrap_or(0) }
    }

    /// The call of an attempt that is over.
    pub(crate) fn of_attempt(row: &AttemptRow) -> CallRow {
        CallRow {
            attempt: row.attempt,
            provider: row.provider.clone(),
            identity: None,
            provider_key: row.provider_key.clone(),
            reference: row.reference.clone(),
            send_by_ms: row.ended_ms,
            sends: row.sends,
            retries: 0,
            first_ms: row.first_ms,
            challenge: None,
        }
    }

    /// The attempt, now that it is over.
    pub(crate) fn over(&self, ended_ms: i64, result: &str, provider_code: Option<String>) -> AttemptRow {
        AttemptRow {
            attempt: self.attempt,
            provider: self.provider.clone(),
            provider_key: self.provider_key.clone(),
            reference: self.reference.clone(),
            sends: self.sends,
            first_ms: self.first_ms,
            ended_ms,
            result: result.to_owned(),
            provider_code,
            last_word: false,
            reservation: None,
        }
    }

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

/// Money as rows have it.
pub(crate) fn money_of(amount: Option<&str>, currency: Option<&str>) -> Result<Option<Money>, Error> {
    let (Some(amount), Some(currency)) = (amount, currency) else { return Ok(None) };
    let currency = Currency::of(currency).ok_or_else(|| internal("a stored currency is not one"))?;
    let money = Money::parse(amount, currency).map_err(|_| internal("a stored amount is not one"))?;
    Ok(Some(money))
}

/// What a request's own envelope said, as it is kept.
pub(crate) fn kept(atp: Option<&Atp>) -> Result<Option<Box<RawValue>>, Error> {
    atp.map(|atp| raw(action::json::canonical(&atp.to_value()))).transpose()
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
            let whole =
                IntentRow { salt: "5a".repeat(32), ..IntentRow::from_bytes(line.as_bytes()).unwrap() };
            assert_eq!(IntentRow::salt_of(&whole.to_bytes().unwrap()), Some([0x5a; 32]));
            assert_eq!(String::from_utf8(intent.to_bytes().unwrap()).unwrap(), line);
            let atp = intent.atp().unwrap();
            assert_eq!(
                kept(atp.as_ref()).unwrap().map(|it| it.get().to_owned()),
                intent.atp.map(|it| it.get().to_owned())
            );
        }
        for line in HELD.lines() {
            let held = IntentRow::from_bytes(line.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(held.to_bytes().unwrap()).unwrap(), line);
            for row in held.escalation.unwrap().triggers {
                assert_eq!(TriggerRow::of(&row.read().unwrap()), row);
            }
        }
        for line in OUTCOME.lines() {
            let outcome = OutcomeRow::from_bytes(line.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(outcome.to_bytes().unwrap()).unwrap(), line);
        }
    }

    #[test]
    fn an_erased_row_says_so() {
        assert_eq!(IntentRow::from_bytes(b"").unwrap_err().code, Code::Erased);
        assert_eq!(IntentRow::salt_of(b""), None);
    }
}
