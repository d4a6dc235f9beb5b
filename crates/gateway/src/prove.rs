//! Prove: what an action came to, chained, signed and rendered, before anything is said.

use std::borrow::Cow;

use execution::{Absence, Confirmation, SAYS_FAILED, Word};
use ledger::State;
use receipt::{
    Amendment, Chain, Draft, Event, Json, Metadata, MoneyFields, NewEntry, PaymentStatus, Salts, Stage,
};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::approvals::fitting;
use crate::clock;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind, Outcome, ReceiptRef, Reply};
use crate::pending::{ANSWER, Pending, SNAPSHOT};
use crate::resolve::{RESOLVED, Spoken, spoken};
use crate::row::{OutcomeRow, VERSION, internal, raw_json};
use crate::{Code, Error};

/// What became of an action, in all the forms in which it will be kept and said.
pub(crate) struct Proven {
    pub outcome: Outcome,
    pub state: State,
    /// What was charged, where that is known.
    pub charged: Option<action::Money>,
    /// What a cycle used of its budget, once it is over.
    pub used: Option<mandate::Usage>,
    pub receipt: Option<receipt::Receipt>,
    pub receipt_id: Option<String>,
    pub reply: Reply,
    /// Whether its receipt is the first of the action.
    pub original: bool,
    /// What is kept beside the receipt.
    pub kept: Vec<u8>,
    pub at_ms: i64,
}

/// One ending, before it is proven.
pub(crate) struct Ending<'a> {
    pub kind: Kind,
    pub state: State,
    pub code: Option<Code>,
    pub details: Details,
    /// The entries that say how it ended, without the last one.
    pub chain: Chain,
    /// The provider's answer and reference, where there is one.
    pub confirmation: Option<Cow<'a, Confirmation>>,
    /// What it answered instead, where it declined.
    pub refusal: Option<&'a Value>,
    pub payment: PaymentStatus,
    /// What was charged, where that is known.
    pub charged: Option<action::Money>,
}

/// Output of the stage `execute`, members in JCS order.
#[derive(Serialize)]
struct Executed<'a> {
    answer: Json,
    provider: &'a str,
    reference: Option<&'a str>,
    /// Who says so, where it was a person and not the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<Spoken<'a>>,
    result: &'static str,
}

/// Input of the stage `execute`, members in JCS order.
#[derive(Serialize)]
struct Sent<'a> {
    attempt: u32,
    provider: &'a str,
    #[serde(rename = "providerKey")]
    provider_key: &'a str,
    reference: &'a str,
    /// Our name for the call that had set aside what this one charges or sets free.
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<&'a str>,
    /// A commitment to what there was before, where that is promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
}

/// Output of the stage `commit_auth_split`, members in JCS order.
#[derive(Serialize)]
struct Split<'a> {
    authorised: Option<String>,
    charged: Option<String>,
    /// Only where it is not the one that was authorised.
    #[serde(rename = "chargedCurrency", skip_serializing_if = "Option::is_none")]
    charged_currency: Option<&'static str>,
    currency: Option<&'static str>,
    #[serde(rename = "paymentMode")]
    payment_mode: &'a str,
    #[serde(rename = "paymentStatus")]
    payment_status: &'static str,
}

/// Error of an entry, members in JCS order.
#[derive(Serialize)]
pub(crate) struct Refused<'a> {
    pub code: &'static str,
    pub reason: &'a str,
}

impl Gateway {
    /// The same, by how that is known.
    pub(crate) fn absent<'a>(&self, pending: &Pending, absence: &'a Absence) -> Result<Ending<'a>, Error> {
        let answer = match absence {
            Absence::Refused(refusal) => Some(&refusal.answer),
            _ => None,
        };
        let (code, reasons) = match absence {
            Absence::Deadline => (Code::DeadlineExceeded, vec![absence_word(absence).to_owned()]),
            Absence::Released if pending.word.is_some() => (Code::Released, vec![RESOLVED.to_owned()]),
            Absence::Released => {
                let release = pending.row.reservation.as_ref().and_then(|it| it.release.as_ref());
                let why = release.map_or(absence_word(absence), |release| release.why.as_str());
                (Code::Released, vec![why.to_owned()])
            }
            Absence::Stopped(stop) => {
                (Code::parse(stop.code).unwrap_or(Code::BoundaryBlock), stop.reasons.clone())
            }
            _ => (Code::ProviderFailed, vec![absence_word(absence).to_owned()]),
        };
        let reason = reasons.first().map_or("stopped", String::as_str);
        let mut ending = self.failed(pending, code, reason, answer)?;
        ending.details.reasons = reasons;
        ending.details.untrusted_text = answer.and_then(untrusted_text);
        ending.refusal = answer.filter(|answer| !answer.is_null());
        Ok(ending)
    }

    pub(crate) fn confirmed<'a>(
        &self,
        pending: &Pending,
        confirmation: &'a Confirmation,
    ) -> Result<Ending<'a>, Error> {
        let quote_only = pending.row.payment_mode == action::PaymentMode::QuoteOnly.as_str();
        let (_, asked) = pending.row.purpose(pending.money)?;
        let charged = match (asked, quote_only) {
            (Some(money), false) => Some(confirmation.charged.unwrap_or(money)),
            _ => None,
        };
        let payment = if charged.is_some() { PaymentStatus::Charged } else { PaymentStatus::NotCharged };
        let mut chain = self.begin_ending(pending)?;
        let reference = confirmation.reference.as_deref();
        self.push_execute(
            &mut chain,
            pending,
            "confirmed",
            reference,
            Some(&confirmation.answer),
            Json::NULL,
        )?;
        push_split(&mut chain, pending, charged, payment)?;
        let shown = charged.or(pending.money);
        let details = Details {
            provider_reference: confirmation.reference.clone(),
            amount: shown.map(|money| money.to_string()),
            currency: shown.map(|money| money.currency().code().to_owned()),
            untrusted_text: untrusted_text(&confirmation.answer),
            reasons: pending.word.iter().map(|_| RESOLVED.to_owned()).collect(),
            ..Details::default()
        };
        Ok(Ending {
            kind: Kind::Executed,
            state: State::Executed,
            code: None,
            details,
            chain,
            confirmation: Some(Cow::Borrowed(confirmation)),
            refusal: None,
            payment,
            charged,
        })
    }

    /// The ending of an action that is known to have no effect, or of which that is at least said.
    pub(crate) fn failed<'a>(
        &self,
        pending: &Pending,
        code: Code,
        reason: &str,
        answer: Option<&Value>,
    ) -> Result<Ending<'a>, Error> {
        let mut chain = self.begin_ending(pending)?;
        let error = refused(code, reason)?;
        let result = result_without_effect(code, reason);
        self.push_execute(&mut chain, pending, result, None, answer, error)?;
        push_split(&mut chain, pending, None, PaymentStatus::NotCharged)?;
        Ok(Ending {
            kind: Kind::Failed,
            state: State::Failed,
            code: Some(code),
            details: Details { reasons: vec![reason.to_owned()], ..Details::default() },
            chain,
            confirmation: None,
            refusal: None,
            payment: PaymentStatus::NotCharged,
            charged: None,
        })
    }

    /// The first answer for an action whose fate is not known yet: it is in doubt, waits for another attempt, or is looked
    /// after.
    pub(crate) fn unsettled<'a>(&self, pending: &Pending, state: State) -> Result<Ending<'a>, Error> {
        let mut chain = pending.chain.clone();
        let result = match state {
            State::Waiting => "waiting",
            State::Checking | State::Unchecked => "unchecked",
            State::Retracting => "retracting",
            _ => "unknown",
        };
        self.push_execute(&mut chain, pending, result, None, None, Json::NULL)?;
        push_split(&mut chain, pending, None, PaymentStatus::Pending)?;
        Ok(Ending {
            kind: Kind::PendingSettlement,
            state,
            code: None,
            details: Details {
                status_url: Some(self.status_url(pending.id)),
                reasons: pending.doubt.iter().map(|doubt| doubt.as_str().to_owned()).collect(),
                ..Details::default()
            },
            chain,
            confirmation: None,
            refusal: None,
            payment: PaymentStatus::Pending,
            charged: None,
        })
    }

    /// The ending of an action that was refused: `chain` ends with the stage that refused.
    pub(crate) fn blocked<'a>(&self, chain: Chain, code: Code, details: Details) -> Ending<'a> {
        Ending {
            kind: Kind::Blocked,
            state: State::Refused,
            code: Some(code),
            details,
            chain,
            confirmation: None,
            refusal: None,
            payment: PaymentStatus::NotCharged,
            charged: None,
        }
    }

    /// Closes the chain, signs, renders. An action that has its ORIGINAL receipt already gets an amendment.
    pub(crate) fn prove(
        &self,
        pending: &Pending,
        mut ending: Ending<'_>,
        correlation_id: &str,
    ) -> Result<Proven, Error> {
        let receipt_id = clock::new_id(clock::now_ms())?.to_string();
        let event = match &pending.told {
            None => Event::Original,
            Some(told) => Event::Amendment {
                // What contradicts the last word is no attempt's outcome, but settles what became of it after all.
                reason: match pending.tried_since(told) && !pending.settled {
                    true => Amendment::Retry,
                    false => Amendment::Settlement,
                },
                of: Cow::Borrowed(&told.receipt.receipt_id),
            },
        };
        let receipt = self.sign(pending, &mut ending, &receipt_id, event)?;
        let reference = ReceiptRef {
            receipt_id: receipt_id.clone(),
            signature: receipt.signature_value().to_owned(),
            short: receipt.short().to_owned(),
        };
        let used = self.used(pending, ending.state, ending.confirmation.as_deref());
        let payload = OutcomeRow {
            v: VERSION,
            answer: ending.confirmation.as_ref().map(|it| kept(&it.answer)).transpose()?,
            refusal: ending.refusal.map(kept).transpose()?,
            reference: ending.confirmation.as_ref().and_then(|it| it.reference.clone()),
            details: ending.details.clone(),
            code: ending.code.map(|code| code.as_str().to_owned()),
            resolution: pending.word.clone(),
            earlier: pending.earlier.clone(),
            ..OutcomeRow::default()
        };
        let outcome = Outcome {
            action_id: Some(pending.id),
            kind: ending.kind,
            code: ending.code,
            receipt: Some(reference),
            correlation_id: correlation_id.to_owned(),
            details: ending.details,
        };
        let reply = (self.render)(&outcome, &self.public_url);
        let kept = pending.outcome(payload)?;
        let receipt_id = Some(receipt_id);
        Ok(Proven {
            outcome,
            state: ending.state,
            charged: ending.charged,
            used,
            receipt: Some(receipt),
            receipt_id,
            reply,
            original: pending.told.is_none(),
            kept,
            at_ms: clock::now_ms(),
        })
    }

    pub(crate) fn sign(
        &self,
        pending: &Pending,
        ending: &mut Ending<'_>,
        receipt_id: &str,
        event: Event<'_>,
    ) -> Result<receipt::Receipt, Error> {
        let row = &pending.row;
        let offer = pending.money;
        let transaction_id = pending.id.to_string();
        let approvals = match event {
            Event::Original => fitting(row, &ending.chain)?,
            Event::Amendment { .. } => Vec::new(),
        };
        let draft = Draft {
            receipt_id: Cow::Borrowed(receipt_id),
            transaction_id: Cow::Borrowed(&transaction_id),
            agent_id: Cow::Borrowed(pending.subject.as_str()),
            session_id: row.cycle.as_ref().map(|cycle| Cow::Borrowed(cycle.session_id.as_str())),
            event,
            payment_status: ending.payment,
            money: MoneyFields {
                offer_currency: offer.map(|money| money.currency().code().into()),
                offer_amount: offer.map(|money| money.to_string().into()),
                charge_currency: ending.charged.map(|money| money.currency().code().into()),
                charge_amount: ending.charged.map(|money| money.to_string().into()),
            },
            idempotency_key: pending.key.as_deref().map(Cow::Borrowed),
            replica_id: Cow::Borrowed(&self.replica_id),
            chain_id: Cow::Borrowed(&self.chain_id),
            regulatory_framework: row.regulations.iter().map(|it| it.as_str().into()).collect(),
            metadata: Metadata {
                issuer: Cow::Borrowed(&self.issuer),
                tenant: Cow::Borrowed(pending.tenant.as_str()),
                environment: match self.environment {
                    action::Environment::Production => receipt::Environment::Production,
                    action::Environment::Sandbox => receipt::Environment::Sandbox,
                },
                archetype: Some(Cow::Borrowed(&pending.archetype)),
                kind: receipt_kind(ending.kind)?,
                mandate_id: row.mandate_id.as_deref().map(Cow::Borrowed),
                intent_id: None,
                guarantee_level: Some(Cow::Borrowed(&row.guarantee_level)),
                policy_digest: row.policy_digest.as_deref().map(Cow::Borrowed),
                catalog_digest: row.catalog_digest.as_deref().map(Cow::Borrowed),
                entity_digest: row.entity_digest.as_deref().map(Cow::Borrowed),
                approvals,
                observed: row.observed.as_ref().map(|it| receipt::Observed {
                    would_be: Cow::Borrowed(&it.would_be),
                    code: Some(Cow::Borrowed(&it.code)),
                }),
                log: Some(self.logs.mention(&pending.tenant)?),
            },
        };
        let chain = &mut ending.chain;
        // Keeps (validity): time is read while the key cannot be retired.
        self.keys
            .with_active(|key| {
                chain.push(Stage::Receipt, NewEntry::at(clock::now()))?;
                receipt::sign(&draft, chain, key)
            })
            .map_err(|error| {
                tracing::error!(%error, "a receipt could not be signed");
                internal("a receipt could not be signed")
            })
    }

    /// The chain that an ending continues: the entries of admission, or a new one once a receipt has been given.
    pub(crate) fn begin_ending(&self, pending: &Pending) -> Result<Chain, Error> {
        match &pending.told {
            None => Ok(pending.chain.clone()),
            Some(told) => amending(&told.receipt.receipt_id),
        }
    }

    pub(crate) fn push_execute(
        &self,
        chain: &mut Chain,
        pending: &Pending,
        result: &'static str,
        reference: Option<&str>,
        answer: Option<&Value>,
        error: Json,
    ) -> Result<(), Error> {
        let Some(call) = &pending.row.call else {
            return Err(internal("an action without a call was executed"));
        };
        let answer = match answer {
            Some(answer) => conceal_answer(answer, &pending.salts()?)?,
            None => Json::NULL,
        };
        let input = Sent {
            attempt: call.attempt,
            provider: &call.provider,
            provider_key: &call.provider_key,
            reference: &call.reference,
            reservation: pending.row.reservation.as_ref().map(|it| it.call.reference.as_str()),
            snapshot: snapshot_of(pending)?,
        };
        let salts = pending.salts()?;
        let resolved = pending.word.as_ref().map(|word| spoken(word, &salts));
        // What a person calls the effect is their own text: it stands with their word, and as hidden as that.
        let own = pending.word.as_ref().and_then(|word| word.reference.as_deref());
        let reference = reference.filter(|reference| own != Some(*reference));
        // Whoever reads only this must not take a person's word for the provider's.
        let result = if resolved.is_some() { RESOLVED } else { result };
        let output = Executed { answer, provider: &call.provider, reference, resolved, result };
        let now_ms = clock::now_ms();
        let latency_ms = u64::try_from(now_ms.saturating_sub(pending.at_ms)).unwrap_or(0);
        push(chain, Stage::Execute, || {
            Ok(NewEntry {
                input: Json::of(&input)?,
                output: Json::of(&output)?,
                error,
                latency_ms,
                ..NewEntry::at(clock::timestamp(now_ms))
            })
        })
    }

    /// Where people decide about it.
    pub(crate) fn approval_url(&self, id: action::ActionId) -> String {
        format!("{}/approvals/{id}", self.issuer)
    }

    pub(crate) fn status_url(&self, id: action::ActionId) -> String {
        format!("{}/v1/actions/{id}", self.issuer)
    }
}

fn snapshot_of(pending: &Pending) -> Result<Option<String>, Error> {
    let Some(snapshot) = &pending.row.snapshot else { return Ok(None) };
    let json =
        Json::parse(snapshot.get().as_bytes()).map_err(|_| internal("a stored snapshot is not JSON"))?;
    Ok(Some(pending.salts()?.commit(SNAPSHOT, &json)))
}

/// What the entry `execute` says of what had no effect, as far as is known.
pub(crate) fn result_without_effect(code: Code, reason: &str) -> &'static str {
    match (code, reason) {
        (Code::Released, _) => "released",
        (_, SAYS_FAILED) => SAYS_FAILED,
        _ => "absent",
    }
}

/// How an absence is known, in one stable word.
pub(crate) fn absence_word(absence: &Absence) -> &'static str {
    match absence {
        Absence::Refused(refusal) => match refusal.word {
            Word::Provider => "provider_refused",
            Word::OnlySaid => SAYS_FAILED,
            Word::Ours => "stopped",
        },
        Absence::NotSent { .. } => "not_sent",
        Absence::Withheld => "send_window_missed",
        Absence::Final => "absent",
        Absence::Deadline => "deadline_before_sending",
        Absence::Stopped(_) => "stopped",
        Absence::Resolved => RESOLVED,
        Absence::Released => "released",
        Absence::OnRecord => "failed",
    }
}

/// The beginning of an amendment: it names the receipt that it amends.
pub(crate) fn amending(receipt_id: &str) -> Result<Chain, Error> {
    #[derive(Serialize)]
    struct Amends<'a> {
        amends: &'a str,
    }
    let output = Json::of(&Amends { amends: receipt_id });
    let entry = output.map(|output| NewEntry { output, ..NewEntry::at(clock::now()) });
    entry.and_then(Chain::genesis).map_err(|_| internal("an amendment cannot begin"))
}

/// Appends an entry, taking any failure for a defect of ours.
pub(crate) fn push<'a>(
    chain: &mut Chain,
    stage: Stage,
    entry: impl FnOnce() -> Result<NewEntry<'a>, receipt::Error>,
) -> Result<(), Error> {
    entry().and_then(|entry| chain.push(stage, entry)).map_err(|error| {
        tracing::error!(%error, %stage, "an entry could not be written");
        internal("an entry could not be written")
    })
}

/// The error of an entry.
pub(crate) fn refused(code: Code, reason: &str) -> Result<Json, Error> {
    Json::of(&Refused { code: code.as_str(), reason }).map_err(|_| internal("an error cannot be written"))
}

/// What was authorised, and what was charged.
pub(crate) fn push_split(
    chain: &mut Chain,
    pending: &Pending,
    charged: Option<action::Money>,
    payment: PaymentStatus,
) -> Result<(), Error> {
    let currency = pending.money.map(|money| money.currency().code());
    let split = Split {
        authorised: pending.money.map(|money| money.to_string()),
        charged: charged.map(|money| money.to_string()),
        charged_currency: charged.map(|money| money.currency().code()).filter(|code| Some(*code) != currency),
        currency,
        payment_mode: &pending.row.payment_mode,
        payment_status: payment.as_str(),
    };
    push(chain, Stage::CommitAuthSplit, || {
        Ok(NewEntry { output: Json::of(&split)?, ..NewEntry::at(clock::now()) })
    })
}

/// An answer as receipts may show it: an object member by member, anything else as a whole.
fn conceal_answer(answer: &Value, salts: &Salts) -> Result<Json, Error> {
    let concealed = match answer {
        Value::Null => Ok(Json::NULL),
        Value::Object(members) => salts.conceal(ANSWER, members, |_| false),
        other => Json::canonical(other).map(|json| Json::string(&salts.commit(ANSWER, &json))),
    };
    // A provider may answer what has no canonical form; then only that it answered is shown.
    Ok(concealed.unwrap_or_else(|_| Json::string("uncommittable")))
}

/// An answer as it is kept: canonical, or, where it has no such form, as it came.
fn kept(answer: &Value) -> Result<Box<RawValue>, Error> {
    match Json::canonical(answer) {
        Ok(json) => raw_json(&json),
        Err(_) => serde_json::value::to_raw_value(answer).map_err(|_| internal("an answer cannot be kept")),
    }
}

/// Foreign words, capped, for the one member in which they may travel.
fn untrusted_text(answer: &Value) -> Option<String> {
    const MOST: usize = 2048;
    if answer.is_null() {
        return None;
    }
    let mut text = match answer {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.len() > MOST {
        let end = (0..=MOST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    Some(text)
}

fn receipt_kind(kind: Kind) -> Result<receipt::Kind, Error> {
    match kind {
        Kind::Executed => Ok(receipt::Kind::Executed),
        Kind::Blocked => Ok(receipt::Kind::Blocked),
        Kind::Failed => Ok(receipt::Kind::Failed),
        Kind::PendingSettlement => Ok(receipt::Kind::PendingSettlement),
        Kind::Held | Kind::NeedsChallenge => Err(internal("an outcome that waits has no receipt")),
    }
}
