//! Does what is stored beside the chain agree with it, and with each other?
//!
//! The ledger compares hashes. What stands behind them (that a receipt is signed and is of this action, that a row
//! says what was hashed, that a person's word is about this hold) is read here.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ledger::{Labels, Receipt, Sealed, State, Stored, Testimony, Witness};
use receipt::{Jwk, Jwks, Kind, Pin, Stage, Trust, Verdict};
use serde::Deserialize;
use serde_json::Value;

use super::TrailFinding;
use crate::alert::Alert;
use crate::approvals::{ANSWER, APPROVE, ASK, EXTEND, REJECT, REVOKE, Said, escalation_id};
use crate::caller::Caller;
use crate::decide::salts_of;
use crate::remember::outward;
use crate::resolve::is_shown;
use crate::row::{IntentRow, OutcomeRow, ResolutionRow};

/// By what this gateway's receipts are judged.
pub(super) struct Judge<'a> {
    issuer: &'a str,
    jwks: &'a Jwks,
    pin: Pin,
}

/// What a receipt must have in common with the rows beside it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    agent_id: String,
    idempotency_key: Option<String>,
    metadata: ShownMetadata,
    signature: ShownSignature,
}

/// Whose a receipt says that it is.
#[derive(Deserialize)]
struct Issued {
    metadata: IssuedMetadata,
}

#[derive(Deserialize)]
struct IssuedMetadata {
    issuer: String,
}

#[derive(Deserialize)]
struct ShownSignature {
    value: String,
}

#[derive(Deserialize)]
struct ShownMetadata {
    tenant: String,
    archetype: Option<String>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(issuer: &'a str, jwks: &'a Jwks) -> Judge<'a> {
        Judge { issuer, jwks, pin: Pin::new(issuer, jwks) }
    }

    /// What is wrong with what is stored, named to those whose it is.
    pub(super) fn finding(&self, caller: &Caller, witness: &Witness) -> Option<TrailFinding> {
        let what = match &witness.testimony {
            Testimony::Action { stored, labels, action_hash, outcome } => {
                altered_action(stored, labels, *action_hash, outcome.as_deref())?
            }
            Testimony::Receipt { .. } => self.altered_receipt(witness)?,
            Testimony::Outcome { payload, settled } => altered_outcome(payload, settled.as_ref())?,
            Testimony::Approval { round, approver, event, record } => {
                altered_approval(witness, *round, approver, event, record)?
            }
        };
        let ours = witness.tenant == caller.tenant;
        let receipt_id = match &witness.testimony {
            Testimony::Receipt { receipt, .. } => Some(receipt.id.to_string()),
            _ => None,
        };
        Some(TrailFinding {
            entry: witness.entry,
            action_id: ours.then(|| witness.action.to_string()),
            receipt_id: receipt_id.filter(|_| ours),
            what,
        })
    }

    /// An entry of a session that none of our keys signed, or that somebody else may have signed.
    pub(super) fn forged(&self, sealed: &Sealed) -> Option<TrailFinding> {
        let signature = BASE64_URL_SAFE_NO_PAD.decode(sealed.signature.as_bytes()).unwrap_or_default();
        // A key may have changed between an entry's time and its signature, so its window is not asked for here.
        let signs = |jwk: &&Jwk| jwk.key().verifies(&sealed.bytes, &signature);
        let what = match self.jwks.keys().iter().find(signs) {
            None => "the entry is of a session and is not signed by this gateway",
            Some(jwk) if jwk.compromised_at().is_some_and(|since| *since.as_str() <= *sealed.at) => {
                "the entry is of a session and is signed by a key that others have had since"
            }
            Some(_) => return None,
        };
        let what = what.to_owned();
        Some(TrailFinding { entry: sealed.entry, action_id: None, receipt_id: None, what })
    }

    /// Whom a receipt is of that is good, and not ours.
    fn elsewhere(&self, document: &[u8]) -> Option<String> {
        let issuer = serde_json::from_slice::<Issued>(document).ok()?.metadata.issuer;
        let pin = Pin::new(&issuer, self.jwks);
        let trust = Trust { allow_sandbox: true, ..Trust::new(&pin, self.jwks) };
        let is_good = !matches!(receipt::verify(document, &trust).verdict, Verdict::Invalid(_));
        (is_good && issuer != self.issuer).then_some(issuer)
    }

    fn altered_receipt(&self, witness: &Witness) -> Option<String> {
        let Testimony::Receipt { subject, archetype, key, state, event, said, receipt } = &witness.testimony
        else {
            return None;
        };
        let trust = Trust { allow_sandbox: true, ..Trust::new(&self.pin, self.jwks) };
        let report = receipt::verify(&receipt.document, &trust);
        if let Verdict::Invalid(failure) = &report.verdict {
            return Some(match self.elsewhere(&receipt.document) {
                Some(issuer) => format!(
                    "the stored receipt is of another issuer, `{issuer}`: a gateway with our keys and another `public_url` made it"
                ),
                None => format!("the stored receipt is invalid: {failure}"),
            });
        }
        let (Some(facts), Ok(shown)) = (report.facts, serde_json::from_slice::<Shown>(&receipt.document))
        else {
            return Some("the stored receipt cannot be read".to_owned());
        };
        let rows = [
            ("issuer", facts.issuer == self.issuer),
            ("receipt id", *facts.receipt_id == *receipt.id),
            ("address", *shown.signature.value == *receipt.signature),
            ("action", facts.transaction_id == witness.action.to_string()),
            ("agent", shown.agent_id == subject.as_str()),
            ("tenant", shown.metadata.tenant == witness.tenant.as_str()),
            ("archetype", shown.metadata.archetype.is_none_or(|name| *name == **archetype)),
            ("idempotency key", shown.idempotency_key.as_deref() == key.as_deref()),
            ("state", agrees(facts.kind, *state, event) && says(said.as_deref(), *state)),
        ];
        let (name, _) = rows.iter().find(|(_, fits)| !fits)?;
        Some(format!("the stored receipt and the rows beside it name another {name}"))
    }
}

/// Is the row of an action what its entry was made from, and listed by what it says? An erased payload leaves nothing to
/// compare. `outcome`: what is kept of the outcome that came with the entry, if one did.
fn altered_action(
    stored: &Stored,
    labels: &Labels,
    action_hash: Option<[u8; 32]>,
    outcome: Option<&[u8]>,
) -> Option<String> {
    if stored.payload.is_empty() {
        return None;
    }
    let Ok(row) = IntentRow::from_bytes(&stored.payload) else {
        return Some("the stored action cannot be read".to_owned());
    };
    let name = row.name_of(stored.key.as_deref(), &stored.payload);
    let named = match outcome.map(OutcomeRow::from_bytes) {
        // That the entry is of this outcome is looked at with the outcome.
        Some(Ok(outcome)) => outcome.of == hex::encode(name),
        Some(Err(_)) => return None,
        None => action_hash == Some(name),
    };
    if !named || !row.agrees_with(stored) {
        return Some("the stored action is not the one it names".to_owned());
    }
    let listed = super::labels(&row) == *labels;
    (!listed).then(|| "the stored action is listed by something else than it says".to_owned())
}

/// Is a person's word about this hold of this action, by the person that the row names?
fn altered_approval(
    witness: &Witness,
    round: u32,
    approver: &str,
    event: &str,
    record: &[u8],
) -> Option<String> {
    let Ok(said) = Said::from_bytes(record) else {
        return Some("the stored approval cannot be read".to_owned());
    };
    let fits = said.action_id == witness.action.to_string()
        && said.escalation_id == escalation_id(witness.action, round)
        && said.approver == approver
        && is_told_as(&said.decision, event);
    (!fits).then(|| "the stored approval says another person, hold or decision than its row".to_owned())
}

/// Is this what an entry with that event tells of?
fn is_told_as(decision: &str, event: &str) -> bool {
    match event {
        "approved" => decision == APPROVE,
        "rejected" => [REJECT, REVOKE].contains(&decision),
        "extended" => decision == EXTEND,
        ledger::INFO_REQUESTED => decision == ASK,
        ledger::INFO_GIVEN => decision == ANSWER,
        _ => false,
    }
}

/// Is a person's word on what became of an action there just where an entry
/// says so, and the one that the receipt shows?
fn altered_outcome(payload: &[u8], settled: Option<&(Box<Stored>, Option<Receipt>)>) -> Option<String> {
    let Ok(outcome) = OutcomeRow::from_bytes(payload) else {
        return Some("the stored outcome cannot be read".to_owned());
    };
    match (outcome.resolution, settled) {
        (None, None) => None,
        (Some(_), None) => Some("the stored outcome has a person's word that no entry tells of".to_owned()),
        (None, Some(_)) => Some("the person's word that it tells of is not stored".to_owned()),
        (Some(word), Some((asked, receipt))) => {
            let fits = receipt.as_ref().is_some_and(|receipt| is_of(&word, asked, &receipt.document));
            (!fits).then(|| "the stored person's word is not the one that the receipt shows".to_owned())
        }
    }
}

fn is_of(word: &ResolutionRow, asked: &Stored, receipt: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Amendment {
        entries: Vec<Entry>,
        money: Money,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Money {
        charge_amount: Option<String>,
    }
    #[derive(Deserialize)]
    struct Entry {
        stage: String,
        output: Value,
    }
    let Ok(Some(salts)) = IntentRow::from_bytes(&asked.payload).map(|row| salts_of(&row)) else {
        return false;
    };
    let Ok(Amendment { entries, money }) = serde_json::from_slice(receipt) else { return false };
    let executed = entries.iter().find(|entry| entry.stage == Stage::Execute.as_str());
    let charged = word.charged.is_none() || word.charged == money.charge_amount;
    charged && executed.is_some_and(|entry| is_shown(word, &salts, &entry.output))
}

/// May a receipt of this kind come with this state, at this event?
fn agrees(kind: Kind, state: State, event: &str) -> bool {
    let late = [Alert::LateEffect, Alert::DuplicateEffect].iter().any(|alert| alert.as_str() == event);
    match kind {
        // An effect of an earlier attempt comes beside whatever the latest stands at.
        Kind::Executed if late || event == Alert::Overage.as_str() => {
            !matches!(state, State::Held | State::Approved | State::Waiting | State::Failed | State::Refused)
        }
        _ if late => false,
        // What is undone was done, and its undoing was carried out.
        Kind::Executed => matches!(state, State::Executed | State::RollingBack | State::RolledBack),
        Kind::Blocked => state == State::Refused,
        _ => state != State::Refused,
    }
}

fn says(said: Option<&str>, state: State) -> bool {
    said.is_none_or(|said| said == outward(state))
}
