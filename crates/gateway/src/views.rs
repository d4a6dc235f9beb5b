//! What may be looked at afterwards, and by whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use action::{ActionId, AskedRollback, Environment};
use execution::Whose;
use ledger::{Erased, Labels, Settled, State, Stored};
use serde_json::Value;

use crate::approvals::{GivenView, escalation_id};
use crate::caller::{Caller, Deed};
use crate::erase::{ErasedView, KeepingView};
use crate::gateway::Gateway;
use crate::outcome::{ReceiptRef, Reply};
use crate::recovery::reference;
use crate::remember::{outward, unavailable};
use crate::reserve::ReservationView;
use crate::resolve::{ResolutionView, words};
use crate::rollback::{done, done_row};
use crate::row::{AttemptRow, CallRow, IntentRow, OutcomeRow, RetryRow, RollbackRow, internal};
use crate::{Code, Error, clock};

/// An action as its record shows it (ATP, section 6).
#[derive(Clone, Debug)]
pub struct ActionView {
    /// The action's id.
    pub action_id: ActionId,
    /// The client's key.
    pub idempotency_key: Option<String>,
    /// `atp-1`, `atp-2` or `atp-3`.
    pub guarantee_level: String,
    /// Who asked.
    pub agent_id: String,
    /// The session that the client named.
    pub session_id: Option<String>,
    /// Who decided, if one person did; who was to be asked, if nobody has; see [`ActionView::approvals`].
    pub human_approver: Option<String>,
    /// The kind of action.
    pub archetype: String,
    /// ATP's verb, where the action came with one.
    pub verb: Option<String>,
    /// ATP's target, where the action came with one.
    pub target: Option<String>,
    /// ATP's description, where the action came with one.
    pub description: Option<String>,
    /// The constraints, as received; null once they are erased.
    pub parameters: Value,
    /// What was at stake, canonical decimal; `None` where it moves no money, and once it is erased.
    pub amount: Option<String>,
    /// Its currency.
    pub currency: Option<String>,
    /// The rules it falls under, as the request named them.
    pub compliance: Option<Value>,
    /// How the request wants it undone, if it says so.
    pub asked_rollback: Option<Value>,
    /// Whether it can be undone; `None` once it is erased.
    pub reversible: Option<bool>,
    /// When it came in, RFC 3339.
    pub created_at: String,
    /// Until when the caller wanted to know, RFC 3339.
    pub deadline: Option<String>,
    /// ATP's word for its state.
    pub state: String,
    /// Where it stands while it is not over, in one word.
    pub phase: Option<&'static str>,
    /// Why it is not known what became of it, in one stable word, while it is in doubt and whoever sent it said why.
    pub doubt: Option<String>,
    /// When it was settled, RFC 3339.
    pub completed_at: Option<String>,
    /// From arrival to settlement, milliseconds.
    pub duration_ms: Option<u64>,
    /// How often it was sent again.
    pub retry_count: u32,
    /// How it is tried again, if it is.
    pub retry: Option<RetryView>,
    /// Its attempts, oldest first, the one under way included.
    pub attempts: Vec<AttemptView>,
    /// What there was before it changed it, where that is promised and the provider could say; the provider's words.
    pub snapshot: Option<Value>,
    /// What the provider has set aside for it, or had.
    pub reservation: Option<ReservationView>,
    /// How its effect is undone, if somebody asked for that.
    pub rollback: Option<RollbackView>,
    /// What the provider confirmed.
    pub confirmation: Option<Value>,
    /// The published code, if it was blocked or failed.
    pub error: Option<Code>,
    /// Ids of the client's own.
    pub client: BTreeMap<String, Value>,
    /// What people said about it, oldest first.
    pub approvals: Vec<GivenView>,
    /// What people said became of it, where nobody else did; oldest first.
    pub resolutions: Vec<ResolutionView>,
    /// Its receipts, oldest first.
    pub receipts: Vec<ReceiptView>,
    /// What the caller was last answered.
    pub reply: Option<Reply>,
    /// How long it is kept and when it is erased, where anybody said so.
    pub keeping: Option<KeepingView>,
    /// Set once it is erased: what it was about is gone then.
    pub erased: Option<ErasedView>,
}

/// How an action is tried again.
#[derive(Clone, Copy, Debug)]
pub struct RetryView {
    /// How often it is sent after the first time, at most.
    pub max_retries: u32,
    /// `exponential`, `linear` or `fixed`.
    pub backoff: &'static str,
    /// The first pause.
    pub initial_delay_seconds: u64,
    /// No pause is longer.
    pub max_delay_seconds: u64,
}

/// How an effect is undone.
#[derive(Clone, Debug)]
pub struct RollbackView {
    /// Who asked for it.
    pub by: String,
    /// When, RFC 3339.
    pub asked_at: String,
    /// The idempotency key that the provider saw.
    pub provider_key: String,
    /// Our name for it.
    pub reference: String,
    /// How often it was sent under this key.
    pub sends: u32,
    /// Whether it could not be undone and a person decides.
    pub failed: bool,
    /// Why it could not.
    pub reason: Option<String>,
}

/// One attempt to have an action's effect.
#[derive(Clone, Debug)]
pub struct AttemptView {
    /// Counted from 1; each has a provider key of its own.
    pub attempt: u32,
    /// What the provider was called.
    pub provider: String,
    /// The idempotency key that the provider saw.
    pub provider_key: String,
    /// Our name for it.
    pub reference: String,
    /// How often it was sent under this key.
    pub sends: u32,
    /// When it was first marked sent, RFC 3339.
    pub first_sent_at: Option<String>,
    /// When it was known what became of it, RFC 3339; null while it is open.
    pub ended_at: Option<String>,
    /// How its absence is known, in one stable word, or `confirmed` if it had its effect, be it late; null while it is open.
    pub result: Option<String>,
    /// The provider's own code; foreign text.
    pub provider_code: Option<String>,
    /// What the provider had set aside for it, if another attempt followed.
    pub reservation: Option<ReservationView>,
}

/// One receipt of an action.
#[derive(Clone, Debug)]
pub struct ReceiptView {
    /// Where it is found.
    pub receipt: ReceiptRef,
    /// `ORIGINAL` or one of the amendments.
    pub event_type: String,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// A receipt as anybody may see it.
#[derive(Clone, Debug)]
pub struct PublicReceipt {
    /// The document.
    pub document: Vec<u8>,
    /// The issuer's key set: a hint, as long as it is not pinned.
    pub jwks: Arc<str>,
    /// The verifier key of the log that it is promised a place in, if its tenant is still configured: a hint like the key set.
    pub log: Option<String>,
    /// The receipts of the same action that came later.
    pub amendments: Vec<ReceiptView>,
    /// When the values that it commits to were erased, if they were; RFC 3339.
    pub erased_at: Option<String>,
    /// Real or pretended effects.
    pub environment: Environment,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Hand this in for the next part.
    pub next: Option<String>,
}

/// What deciding again came to.
#[derive(Clone, Debug)]
pub struct ReplayView {
    /// The action.
    pub action_id: ActionId,
    /// `same`, `different` or `erased`.
    pub result: String,
    /// The verdict of then; `None` where it is erased.
    pub recorded: Option<String>,
    /// The verdict with the policies of now.
    pub replayed: Option<String>,
    /// What differs, one sentence each.
    pub differences: Vec<String>,
}

impl Gateway {
    /// One action of the caller's tenant; an agent sees only its own. Of one that was erased what is left.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` also for what is somebody else's.
    pub async fn action(&self, caller: &Caller, id: &str) -> Result<ActionView, Error> {
        let stored = self.visible(caller, id).await?;
        let outcomes = self.stored_outcomes(&stored).await?;
        if let Some(erased) = self.erased(&stored).await? {
            return what_is_left(stored, outcomes, erased);
        }
        let approvals = self.ledger.approvals(&stored.tenant, stored.id).await.map_err(unavailable)?;
        let approvals = GivenView::all(&approvals, &stored, &IntentRow::from_bytes(&stored.payload)?)?;
        view(self, stored, outcomes, approvals)
    }

    /// A receipt's document.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` also for what is somebody else's.
    pub async fn receipt(&self, caller: &Caller, receipt_id: &str) -> Result<Vec<u8>, Error> {
        let settled = self.ledger.receipt(&caller.tenant, receipt_id).await.map_err(unavailable)?;
        let settled = settled.ok_or_else(|| not_found("receipt"))?;
        self.visible(caller, &settled.action.to_string()).await?;
        settled.receipt.map(|receipt| receipt.document).ok_or_else(|| not_found("receipt"))
    }

    /// A receipt by its public address, short or long. Whoever has the address may look.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if there is none.
    pub async fn receipt_by_address(&self, address: &str) -> Result<PublicReceipt, Error> {
        let settled =
            self.ledger.address(address).await.map_err(unavailable)?.ok_or_else(|| not_found("receipt"))?;
        let receipt = settled.receipt.ok_or_else(|| not_found("receipt"))?;
        let outcomes = self.ledger.outcomes(&settled.tenant, settled.action).await.map_err(unavailable)?;
        let erased = match settled.payload.is_empty() {
            true => self.ledger.erased(&settled.tenant, settled.action).await.map_err(unavailable)?,
            false => None,
        };
        let later =
            receipts(outcomes)?.into_iter().skip_while(|view| view.receipt.receipt_id != *receipt.id).skip(1);
        Ok(PublicReceipt {
            amendments: later.collect(),
            erased_at: erased.map(|erased| clock::text(erased.at_ms)),
            document: receipt.document,
            jwks: self.jwks(),
            log: self.logs.key(&settled.tenant),
            environment: self.environment,
        })
    }

    /// Decides an action of the past again, with the rules it was decided by if they were kept, else with those of now.
    /// Of one that was erased there is nothing left to decide.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` when it is not the caller's to see.
    pub async fn replay(&self, caller: &Caller, id: &str) -> Result<ReplayView, Error> {
        caller.must(Deed::ReadTenant)?;
        let stored = self.visible(caller, id).await?;
        if stored.payload.is_empty() {
            let (result, differences) = ("erased".to_owned(), Vec::new());
            return Ok(ReplayView {
                action_id: stored.id,
                result,
                recorded: None,
                replayed: None,
                differences,
            });
        }
        let row = IntentRow::of(&stored)?;
        let record = row.record.as_ref().ok_or_else(|| not_found("decision record"))?;
        let rules = self.rules_of_then(&stored.tenant, &row).await?;
        let compared = boundary::replay(record.get().as_bytes(), &rules.policies).map_err(|error| {
            tracing::error!(action = %stored.id, %error, "a decision record cannot be replayed");
            internal("a decision record cannot be read")
        })?;
        Ok(ReplayView {
            action_id: stored.id,
            result: if compared.agrees() { "same" } else { "different" }.to_owned(),
            differences: compared
                .differences
                .iter()
                .map(|it| format!("{}: then {}, now {}", it.what, it.then, it.now))
                .collect(),
            recorded: Some(compared.then),
            replayed: Some(compared.now),
        })
    }

    pub(crate) async fn visible(&self, caller: &Caller, id: &str) -> Result<Stored, Error> {
        caller.must(Deed::ReadOwn)?;
        let whose = Whose::parse(id).ok_or_else(|| not_found("action"))?;
        let stored = self.whose(&caller.tenant, whose).await?;
        let own = |stored: &Stored| caller.role.may(Deed::ReadTenant) || stored.subject == caller.subject;
        stored.filter(own).ok_or_else(|| not_found("action"))
    }
}

fn view(
    gateway: &Gateway,
    stored: Stored,
    outcomes: Vec<Settled>,
    approvals: Vec<GivenView>,
) -> Result<ActionView, Error> {
    let mut row = IntentRow::from_bytes(&stored.payload)?;
    row.learn(&outcomes)?;
    // What only adds to it, an overage, says neither when it was done nor what the provider confirmed.
    // And while somebody has had it tried again, what was said of it before does not hold.
    let said = outcomes.iter().rfind(|it| it.reply.is_some() && stored.reply.is_some());
    let completed = said.filter(|_| stored.state.is_amended()).map(|it| it.at_ms);
    let said = said.map(|it| OutcomeRow::from_bytes(&it.payload)).transpose()?;
    let reply = match &stored.reply {
        Some(reply) => Some(Reply { status: reply.status, body: reply.body.clone() }),
        None => gateway.say_meanwhile(&stored, &row).map(|answer| answer.reply),
    };
    let keeping = KeepingView::of(row.keeping()?, last_ms(&stored, &outcomes));
    let attempts = attempts(&row, stored.state, &outcomes)?;
    // What was done by an attempt before is not what is reserved for the latest.
    let by_earlier = done_row(&outcomes)?.and_then(|said| said.earlier).is_some_and(|earlier| {
        row.reservation.as_ref().is_none_or(|it| it.place_of(&earlier.reference).is_none())
    });
    let of_latest = if by_earlier && stored.state == State::Executed { State::Failed } else { stored.state };
    let not_undone = why_not_undone(&stored, &outcomes)?;
    let doubt = why_in_doubt(&stored, &outcomes)?;
    let resolutions = words(&outcomes, &row)?.into_iter().map(ResolutionView::of).collect();
    let atp = row.atp()?;
    let named = atp.as_ref().and_then(|atp| atp.deadline.as_ref()).map(|it| it.ms);
    let after =
        row.deadline_ms.and_then(|ms| i64::try_from(ms).ok()).map(|ms| stored.at_ms.saturating_add(ms));
    let deadline = named.or(after);
    let human_approver = decided_by(&stored, &approvals).unwrap_or(row.human_approver);
    Ok(ActionView {
        action_id: stored.id,
        idempotency_key: stored.key.map(Into::into),
        guarantee_level: row.guarantee_level,
        agent_id: stored.subject.to_string(),
        session_id: row.session_id,
        human_approver,
        archetype: stored.archetype.into(),
        verb: atp.as_ref().map(|atp| atp.verb.clone()),
        target: atp.as_ref().and_then(|atp| atp.target.clone()),
        description: atp.as_ref().and_then(|atp| atp.description.clone()),
        reservation: row
            .reservation
            .as_ref()
            .map(|it| ReservationView::of(it, of_latest, row.currency.as_deref())),
        amount: row.amount,
        currency: row.currency,
        compliance: atp.as_ref().map(|atp| atp.compliance.asked().clone().into()),
        asked_rollback: atp.as_ref().and_then(|atp| atp.rollback.as_ref()).map(AskedRollback::to_value),
        parameters: serde_json::from_str(row.constraints.get())
            .map_err(|_| internal("stored constraints cannot be read"))?,
        reversible: Some(row.reversible),
        created_at: clock::text(stored.at_ms),
        deadline: deadline.map(clock::text),
        state: outward(stored.state).to_owned(),
        phase: phase(stored.state),
        doubt,
        completed_at: completed.map(clock::text),
        duration_ms: completed.and_then(|at_ms| u64::try_from(at_ms.saturating_sub(stored.at_ms)).ok()),
        retry_count: attempts.iter().map(|it| it.sends).sum::<u32>().saturating_sub(1),
        retry: row.retry.map(RetryView::of),
        snapshot: row.snapshot.and_then(|it| serde_json::from_str(it.get()).ok()),
        resolutions,
        rollback: row.rollback.map(|rollback| RollbackView::of(*rollback, stored.state, not_undone)),
        attempts,
        confirmation: said.as_ref().and_then(confirmation),
        error: said.and_then(|it| it.code).and_then(|code| Code::parse(&code)),
        client: row.client,
        approvals,
        receipts: receipts(outcomes)?,
        reply,
        keeping,
        erased: None,
    })
}

/// What ATP's word for a state does not tell apart; nothing of what is over.
fn phase(state: State) -> Option<&'static str> {
    match state {
        State::Held => Some("held"),
        State::Approved => Some("approved"),
        State::Sent => Some("sent"),
        State::InDoubt => Some("in_doubt"),
        State::Waiting => Some("waiting"),
        State::Challenged => Some("challenged"),
        State::Reserved => Some("reserved"),
        State::ReleaseFailed => Some("release_failed"),
        State::Checking => Some("checking"),
        State::Unchecked => Some("unchecked"),
        State::Retracting | State::RollingBack => Some("rolling_back"),
        State::RollbackFailed => Some("rollback_failed"),
        State::Executed | State::Failed | State::Refused | State::RolledBack => None,
    }
}

/// Why it is in doubt, if it is and that is on record.
fn why_in_doubt(stored: &Stored, outcomes: &[Settled]) -> Result<Option<String>, Error> {
    let told = outcomes.iter().rfind(|it| stored.state == State::InDoubt && it.state == stored.state);
    let row = told.map(|it| OutcomeRow::from_bytes(&it.payload)).transpose()?;
    Ok(row.and_then(|row| row.details.reasons.into_iter().next()))
}

/// Why it could not be undone, if it could not.
fn why_not_undone(stored: &Stored, outcomes: &[Settled]) -> Result<Option<String>, Error> {
    let failed =
        outcomes.last().filter(|it| stored.state == State::RollbackFailed && it.state == stored.state);
    let row = failed.map(|it| OutcomeRow::from_bytes(&it.payload)).transpose()?;
    Ok(row.and_then(|row| row.details.reasons.into_iter().next()))
}

/// When the last thing came of an action that is over.
fn last_ms(stored: &Stored, outcomes: &[Settled]) -> Option<i64> {
    outcomes.last().filter(|_| stored.state.is_final()).map(|it| it.at_ms)
}

/// An action that was erased: ids, labels, times, states and receipts.
fn what_is_left(stored: Stored, outcomes: Vec<Settled>, erased: Erased) -> Result<ActionView, Error> {
    let completed = outcomes.iter().rfind(|it| it.reply.is_some()).map(|it| it.at_ms);
    let (keeping, told) = (KeepingView::before(&erased), ErasedView::of(&erased));
    let Labels { session, verb, target, level, .. } = erased.labels;
    Ok(ActionView {
        action_id: stored.id,
        idempotency_key: stored.key.map(Into::into),
        guarantee_level: level.map(Into::into).unwrap_or_default(),
        agent_id: stored.subject.to_string(),
        session_id: session.map(Into::into),
        human_approver: None,
        archetype: stored.archetype.into(),
        verb: verb.map(Into::into),
        target: target.map(Into::into),
        description: None,
        parameters: Value::Null,
        amount: None,
        currency: None,
        compliance: None,
        asked_rollback: None,
        reversible: None,
        created_at: clock::text(stored.at_ms),
        deadline: None,
        state: outward(stored.state).to_owned(),
        phase: None,
        doubt: None,
        completed_at: completed.map(clock::text),
        duration_ms: completed.and_then(|at_ms| u64::try_from(at_ms.saturating_sub(stored.at_ms)).ok()),
        retry_count: 0,
        retry: None,
        attempts: Vec::new(),
        snapshot: None,
        reservation: None,
        rollback: None,
        confirmation: None,
        error: None,
        client: BTreeMap::new(),
        approvals: Vec::new(),
        resolutions: Vec::new(),
        receipts: receipts(outcomes)?,
        reply: None,
        keeping,
        erased: Some(told),
    })
}

/// Who decided on the hold that it is or was in last: a name only if one person did. `None` if nobody has.
fn decided_by(stored: &Stored, said: &[GivenView]) -> Option<Option<String>> {
    let hold = escalation_id(stored.id, stored.round);
    let mut people = said.iter().filter(|it| it.escalation_id == hold).map(|it| &it.approver);
    let first = people.next()?;
    Some(people.next().is_none().then(|| first.clone()))
}

/// Those that are over, and the latest unless it is one of them. An effect that came late is one of the attempt that had it.
fn attempts(row: &IntentRow, state: State, outcomes: &[Settled]) -> Result<Vec<AttemptView>, Error> {
    let currency = row.currency.as_deref();
    let mut attempts: Vec<AttemptView> =
        row.attempts.iter().map(|it| AttemptView::over(it, currency)).collect();
    let latest = row.reservation.as_ref().map(|it| &it.call).or(row.call.as_ref());
    let number = latest.map_or(0, |call| call.attempt);
    let listed = attempts.iter().any(|it| it.attempt == number);
    let end = if state.is_amended() { AttemptEnd::among(outcomes)? } else { None };
    attempts.extend(latest.filter(|_| !listed).map(|call| AttemptView::latest(call, end)));
    let mut late = false;
    for outcome in outcomes {
        let said = OutcomeRow::from_bytes(&outcome.payload)?;
        let Some(earlier) = said.earlier else { continue };
        late = true;
        for attempt in &mut attempts {
            if attempt.attempt == earlier.attempt {
                attempt.confirmed_at(outcome.at_ms);
            } else if attempt.attempt == number && earlier.instead.is_some() {
                attempt.result.clone_from(&earlier.instead);
            }
        }
    }
    // What was done by an attempt that is over was done by it, and beside another effect that is said.
    let done = done(outcomes).filter(|_| state.is_amended() && state != State::Failed);
    if let Some(done) = done
        && OutcomeRow::from_bytes(&done.payload)?.earlier.is_none()
        && let Some(attempt) = attempts.iter_mut().find(|it| it.attempt == number)
        && (listed || late)
    {
        attempt.confirmed_at(done.at_ms);
    }
    Ok(attempts)
}

/// What became of the latest attempt of an action that is over.
struct AttemptEnd {
    at_ms: i64,
    result: String,
}

impl AttemptEnd {
    /// Its effect, if there was one, whatever was done about that later; else the last word.
    /// What came late of an earlier attempt says nothing of it.
    fn among(outcomes: &[Settled]) -> Result<Option<AttemptEnd>, Error> {
        let mut own = Vec::new();
        for outcome in outcomes {
            let row = OutcomeRow::from_bytes(&outcome.payload)?;
            own.extend(row.earlier.is_none().then_some((outcome, row)));
        }
        // What came so late that it is undone from then on was there, too.
        let there = |(it, row): &&(&Settled, OutcomeRow)| match it.state {
            State::Executed => true,
            State::RollingBack => it.reply.is_some() && row.details.reasons.is_empty(),
            _ => false,
        };
        let effect = own.iter().find(there);
        let last = own.iter().rfind(|(it, _)| it.reply.is_some());
        Ok(effect.or(last).map(|(settled, row)| {
            let by_person = row.resolution.is_some();
            let result = match (effect, row.details.reasons.first()) {
                (Some(_), _) if !by_person => "confirmed",
                (_, reason) => reason.map_or("failed", String::as_str),
            };
            AttemptEnd { at_ms: settled.at_ms, result: result.to_owned() }
        }))
    }
}

impl AttemptView {
    /// It had its effect.
    fn confirmed_at(&mut self, at_ms: i64) {
        (self.result, self.ended_at) = (Some("confirmed".to_owned()), Some(clock::text(at_ms)));
    }

    fn over(row: &AttemptRow, currency: Option<&str>) -> AttemptView {
        let reservation = row.reservation.as_ref();
        AttemptView {
            attempt: row.attempt,
            provider: row.provider.clone(),
            provider_key: row.provider_key.clone(),
            reference: row.reference.clone(),
            sends: row.sends,
            first_sent_at: row.first_ms.map(clock::text),
            ended_at: Some(clock::text(row.ended_ms)),
            result: Some(row.result.clone()),
            provider_code: row.provider_code.clone(),
            reservation: reservation.map(|it| {
                let charged = it.charging().is_some();
                let state = if charged { State::Executed } else { State::Failed };
                ReservationView::of(it, state, currency)
            }),
        }
    }

    fn latest(row: &CallRow, end: Option<AttemptEnd>) -> AttemptView {
        AttemptView {
            attempt: row.attempt,
            provider: row.provider.clone(),
            provider_key: row.provider_key.clone(),
            reference: row.reference.clone(),
            sends: row.sends,
            first_sent_at: row.first_ms.map(clock::text),
            ended_at: end.as_ref().map(|end| clock::text(end.at_ms)),
            result: end.map(|end| end.result),
            provider_code: None,
            reservation: None,
        }
    }
}

impl RollbackView {
    fn of(row: RollbackRow, state: State, reason: Option<String>) -> RollbackView {
        let RollbackRow { by, asked_ms, provider_key, reference, sends, .. } = row;
        let failed = state == State::RollbackFailed;
        RollbackView { by, asked_at: clock::text(asked_ms), provider_key, reference, sends, failed, reason }
    }
}

impl RetryView {
    fn of(row: RetryRow) -> RetryView {
        let RetryRow { max_retries, backoff, initial_delay_seconds, max_delay_seconds } = row;
        RetryView { max_retries, backoff: backoff.as_str(), initial_delay_seconds, max_delay_seconds }
    }
}

fn confirmation(outcome: &OutcomeRow) -> Option<Value> {
    let answer: Value = serde_json::from_str(outcome.answer.as_ref()?.get()).ok()?;
    let reference = outcome.reference.clone().map_or(Value::Null, Value::String);
    Some(serde_json::json!({ "reference": reference, "answer": answer }))
}

/// The receipts among outcomes: the first is the original, what follows amends it.
fn receipts(outcomes: Vec<Settled>) -> Result<Vec<ReceiptView>, Error> {
    let with_receipt = outcomes.into_iter().filter_map(|it| Some((it.at_ms, it.receipt?)));
    with_receipt
        .map(|(at_ms, receipt)| {
            Ok(ReceiptView {
                event_type: event_type(&receipt.document)?.to_owned(),
                receipt: reference(receipt),
                created: clock::text(at_ms),
            })
        })
        .collect()
}

/// What kind of receipt it is, by its own word.
fn event_type(document: &[u8]) -> Result<&'static str, Error> {
    let text = std::str::from_utf8(document).ok();
    let document = text.and_then(|text| receipt::Document::parse(text).ok());
    document
        .map(|document| document.content.event.as_str())
        .ok_or_else(|| internal("a stored receipt cannot be read"))
}

/// The row after which a page begins.
pub(crate) fn after(cursor: Option<String>) -> Result<Option<i64>, Error> {
    let row = cursor.map(|cursor| cursor.parse()).transpose();
    row.map_err(|_| Error::new(Code::ValidationFailed, "this cursor was not given out").field("?cursor"))
}

pub(crate) fn not_found(what: &str) -> Error {
    Error::new(Code::NotFound, format!("there is no such {what}"))
}
