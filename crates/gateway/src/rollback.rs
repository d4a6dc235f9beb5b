//! Rollback: a confirmed effect is undone by a call of its own, under a provider key of its own, as often as it takes and
//! with one effect. It causes nothing new, so it needs no permit, no mandate and no deadline, and only a freeze that
//! includes it stops it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use action::ActionId;
use execution::{Call, Confirmation, Effect, Event, Reply, Stood, Undo};
use ledger::{By, Deferral, Settled, Settlement, State, Stored};
use provider::{Done, Provider};
use receipt::{Amendment, Json, PaymentStatus};

use crate::act::{SEND_WINDOW, UnderWay};
use crate::alert::Alert;
use crate::caller::{Caller, Deed};
use crate::check::OURSELVES;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::Pending;
use crate::prove::{Ending, amending, push_split};
use crate::pursue::Pursued;
use crate::redress::undoing;
use crate::remember::{draft, event, outward, stored as kept, telling, unavailable};
use crate::row::{ConfirmedRow, IntentRow, OutcomeRow, RollbackRow, VERSION, internal};
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::views::ActionView;
use crate::{Code, Error, clock};

/// So long whoever sent it may take to write down what came of it, after its provider's time is over.
pub(crate) const LEASE_AFTER: Duration = Duration::from_secs(5);

impl Gateway {
    /// Has the effect of an action undone that was carried out, within the window that its binding gives. However often it
    /// is asked for, it is undone once; answers with how it stands after the first step.
    ///
    /// # Errors
    /// `ATP_ROLLBACK_REQUIRED` if it cannot be undone, `EP_STATE_CONFLICT` if there is nothing to undo, not any more, or
    /// not while it is frozen.
    pub async fn rollback(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<ActionView, Error> {
        caller.must(Deed::Steer)?;
        let stored = self.visible(caller, id).await?;
        if !stored.state.is_being_undone() && stored.state != State::RolledBack {
            let Some(under_way) = self.look_after_alone(stored.id) else { return Err(busy()) };
            let (gateway, tenant) = (Arc::clone(self), Arc::clone(self.tenant(&stored.tenant)?));
            let (by, id) = (caller.subject.to_string(), stored.id);
            // In a task of its own: who hangs up has asked for it all the same.
            let task = tokio::spawn(async move { gateway.begin_rollback(&tenant, id, by, under_way).await });
            task.await.unwrap_or_else(|_| Err(internal("a rollback ended without a word")))?;
        }
        self.action(caller, id).await
    }

    async fn begin_rollback(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        id: ActionId,
        by: String,
        _under_way: UnderWay,
    ) -> Result<(), Error> {
        // Read once it is marked: before, whoever had it in hand may have gone on with it.
        let stored = self.stored(tenant, id).await?;
        let stood = match stored.state {
            State::Executed => Stood::Completed,
            State::RollbackFailed => Stood::RollbackFailed,
            State::RollingBack | State::Retracting | State::RolledBack => return Ok(()),
            _ => return Err(conflict(NOT_DONE)),
        };
        let Undoable { mut pending, provider, call, confirmed } = self.undoable(&stored).await?;
        let before = pending.row.rollback.take();
        before.iter().map(|before| &*before.by).chain([&*by]).for_each(|by| pending.row.steered(by));
        let before = before.filter(|before| before.sends > 0);
        let undo = undo_call(tenant, &call, provider.as_ref());
        let execution = pending.execution(call, provider.as_ref(), stood);
        let (execution, _) = self.step(execution, Event::Undo(Arc::new(undo)))?;
        let Some(undo) = execution.undo() else { return Err(internal("nothing undoes it")) };
        // What the provider recognises was first sent then.
        let first_ms = before.map_or(undo.first_ms, |before| before.first_ms);
        let row = RollbackRow { first_ms, ..RollbackRow::begun(by, confirmed, undo) };
        self.rest_until(tenant, &mut pending, row, clock::now_ms()).await?;
        let stored = self.stored(tenant, id).await?;
        if !pending.still_holds(&stored) {
            return Ok(());
        }
        self.undo_further(tenant, &stored).await.map(drop)
    }

    /// What it takes to undo the effect of an action that was carried out, if that may be done now.
    pub(crate) async fn undoable(&self, stored: &Stored) -> Result<Undoable, Error> {
        let mut pending = Pending::restore(stored, self.told(stored).await?)?;
        let outcomes = self.outcomes_of(stored).await?;
        if let Some(earlier) = done_row(&outcomes)?.and_then(|said| said.earlier) {
            pending.had_by(&earlier);
        }
        let rules = self.tenant(&stored.tenant)?.rules();
        let (provider, call) = self.bound(&pending, &rules, Stood::Completed)?;
        let confirmed = self.may_be_undone(stored, &pending, provider.as_ref()).await?;
        if let Some(before) = pending.row.rollback.as_ref().filter(|before| before.sends > 0) {
            let arrives_ms = clock::now_ms() + millis(flight(provider.as_ref()));
            if !provider.capabilities().recognises(before.first_ms, arrives_ms) {
                let why =
                    "the provider does not recognise the rollback that was sent before, or not any more";
                return Err(conflict(why).hint("let a person say what became of it"));
            }
        }
        Ok(Undoable { pending, provider, call, confirmed })
    }

    /// The provider's reference for the effect, if that may be undone now.
    async fn may_be_undone(
        &self,
        stored: &Stored,
        pending: &Pending,
        provider: &dyn Provider,
    ) -> Result<Option<String>, Error> {
        let cannot = |why: &str| Err(Error::new(Code::RollbackRequired, why));
        if !pending.row.reversible {
            return cannot("the action cannot be undone: it was declared irreversible");
        }
        let Some(rollback) = provider.rollback() else {
            return cannot("the action cannot be undone: its binding has no rollback");
        };
        if pending.row.payment_mode == action::PaymentMode::QuoteOnly.as_str() {
            return Err(conflict("only a price was asked for: there is nothing to undo"));
        }
        let outcomes = self.outcomes_of(stored).await?;
        let done = done(&outcomes).ok_or_else(|| internal("an executed action has no outcome"))?;
        if clock::now_ms() > done.at_ms.saturating_add(millis(rollback.within)) {
            return Err(conflict("the time in which the action could be undone is over"));
        }
        if self.stops_rollback(stored, provider).await? {
            return Err(conflict("a freeze that includes rollbacks stops it: EP_FROZEN"));
        }
        Ok(OutcomeRow::from_bytes(&done.payload)?.reference)
    }

    /// Goes on with undoing: one step further, and the answer if that was the last one.
    pub(crate) async fn undo_on(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        stored: &Stored,
    ) -> Result<Pursued, Error> {
        let due_ms = self.undo_further(tenant, stored).await?;
        self.undone_so_far(&self.stored(tenant, stored.id).await?, due_ms)
    }

    /// How it stands, and when the next step is due if it is still being undone, in Unix milliseconds.
    pub(crate) fn undone_so_far(&self, stored: &Stored, due_ms: i64) -> Result<Pursued, Error> {
        if stored.state.is_being_undone() { Ok(Pursued::Rests(due_ms)) } else { self.over(stored) }
    }

    /// An effect that came after the last word, and was promised to be there once or not at all: it is undone in our own name.
    async fn begin_by_ourselves(
        &self,
        tenant: &TenantState,
        stored: &Stored,
        pending: &mut Pending,
    ) -> Result<RollbackRow, Error> {
        let done = done_row(&self.outcomes_of(stored).await?)?;
        let done = done.ok_or_else(|| internal("an executed action has no outcome"))?;
        if let Some(earlier) = &done.earlier {
            pending.had_by(earlier);
        }
        let call =
            pending.row.call.as_ref().ok_or_else(|| internal("an action without a call was executed"))?;
        let now_ms = clock::now_ms();
        let row = RollbackRow {
            by: OURSELVES.to_owned(),
            asked_ms: now_ms,
            provider_key: execution::rollback_key(&tenant.hmac, &call.provider_key),
            reference: execution::rollback_reference(&call.reference),
            confirmed: done.reference,
            sends: 0,
            first_ms: now_ms,
            undone: None,
        };
        self.rest_until(tenant, pending, row.clone(), now_ms).await?;
        Ok(row)
    }

    /// One step of undoing: it is on record before it leaves. Answers with when the next one is due, in Unix milliseconds.
    pub(crate) async fn undo_further(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        stored: &Stored,
    ) -> Result<i64, Error> {
        let told = self.told(stored).await?;
        let mut pending = Pending::restore(stored, told)?;
        let rules = tenant.rules();
        let row = match pending.row.rollback.clone() {
            Some(row) => *row,
            None => self.begin_by_ourselves(tenant, stored, &mut pending).await?,
        };
        let bound = self.bound(&pending, &rules, Stood::RollingBack);
        let rollback = bound.as_ref().ok().and_then(|(provider, _)| provider.rollback());
        let word = if rollback.is_some_and(|it| it.restores) { "restored" } else { "compensated" };
        if let Some(undone) = &row.undone {
            self.say_undone(tenant, &mut pending, &row, (word, &undone.read()?)).await?;
            return Ok(clock::now_ms());
        }
        let (provider, call) = match bound {
            Ok(found) => found,
            Err(error) => return self.nobody_undoes(tenant, &mut pending, error).await,
        };
        if pending.settled && !(pending.row.reversible && rollback.is_some()) {
            return self.not_undone(tenant, &mut pending, IRREVERSIBLE).await;
        }
        if self.stops_rollback(stored, provider.as_ref()).await? {
            return Ok(self.soon_ms());
        }
        let undo = Call {
            // What was sent before is recognised by these.
            provider_key: row.provider_key.clone(),
            reference: row.reference.clone(),
            ..undo_call(tenant, &call, provider.as_ref())
        };
        let undo = Undo { call: Arc::new(undo), sends: row.sends, first_ms: row.first_ms };
        let course = pending.course()?;
        let (terms, stood) = (pending.terms(provider.as_ref()), Stood::RollingBack);
        let execution = execution::Execution::recover_undone(call, terms, course, stood, Some(undo));
        let (execution, effects) = self.step(execution, Event::Woken)?;
        let Some(Effect::Retract(call)) = effects.first() else {
            // What was sent last was never answered, or not in this life.
            let why = if execution.has_undo_tries() { FORGETS } else { SILENT };
            return self.not_undone(tenant, &mut pending, why).await;
        };
        let call = Arc::clone(call);
        let sends = execution.undo().map_or(row.sends, |undo| undo.sends);
        let row = RollbackRow { sends, ..row };
        let lease_ms = clock::now_ms() + millis(flight(provider.as_ref()) + LEASE_AFTER);
        self.rest_until(tenant, &mut pending, row.clone(), lease_ms).await?;
        let snapshot = pending.row.snapshot.as_ref().map(|it| serde_json::from_str(it.get())).transpose();
        let snapshot: Option<serde_json::Value> =
            snapshot.map_err(|_| internal("a snapshot cannot be read"))?;
        let done = Done { reference: row.confirmed.as_deref(), snapshot: snapshot.as_ref() };
        self.at(Point::RollbackSendBefore)?;
        let reply = provider.undo(&call, done, clock::now_ms()).await;
        self.at(Point::RollbackSendAfter)?;
        let why = if let Reply::Refused(_) = &reply { "provider_refused" } else { SILENT };
        let (execution, effects) = self.step(execution, Event::Undone(reply))?;
        match (execution.state(), effects.first()) {
            (execution::State::RolledBack(confirmation), _) => {
                let row = self.remember_undone(tenant, &mut pending, row, confirmation, lease_ms).await?;
                self.say_undone(tenant, &mut pending, &row, (word, confirmation)).await?;
                Ok(clock::now_ms())
            }
            (_, Some(Effect::Wait { until_ms })) => {
                self.rest_until(tenant, &mut pending, row, *until_ms).await?;
                Ok(*until_ms)
            }
            _ => self.not_undone(tenant, &mut pending, why).await,
        }
    }

    /// Writes down how it is undone so far, and when to go on with it.
    pub(crate) async fn rest_until(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        row: RollbackRow,
        due_ms: i64,
    ) -> Result<(), Error> {
        pending.row.rollback = Some(Box::new(row));
        let state = if pending.settled { State::RollingBack } else { State::Retracting };
        let event = if pending.word.is_some() { crate::resolve::EVENT } else { event(state, None) };
        let (payload, at_ms) = (pending.payload()?, clock::now_ms());
        let entry = draft(tenant, event, Some(outward(state)), &pending.name, pending.attempt());
        let deferral = Deferral { action: pending.id, state, by: pending.by, at_ms, due_ms, payload, entry };
        self.at(Point::RollbackNoteBefore)?;
        self.ledger.defer(deferral).await.map_err(unavailable)?;
        self.at(Point::RollbackNoteAfter)?;
        pending.by = By::Holder(pending.by.token().saturating_add(1));
        Ok(())
    }

    /// Before the last word is said it takes two receipts to say that it is undone, so that it is goes on record first: it is
    /// not sent again for the sake of the second.
    async fn remember_undone(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        mut row: RollbackRow,
        confirmation: &Confirmation,
        lease_ms: i64,
    ) -> Result<RollbackRow, Error> {
        if !pending.settled {
            row.undone = Some(ConfirmedRow::of(confirmation)?);
            self.rest_until(tenant, pending, row.clone(), lease_ms).await?;
        }
        Ok(row)
    }

    async fn say_undone(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        row: &RollbackRow,
        how: (&'static str, &Confirmation),
    ) -> Result<(), Error> {
        if !pending.settled {
            self.say_retracted(tenant, pending).await?;
        }
        self.undone(tenant, pending, row, how).await
    }

    /// It is undone: the original stands, and a receipt of its own tells of it.
    async fn undone(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        row: &RollbackRow,
        (word, confirmation): (&'static str, &Confirmation),
    ) -> Result<(), Error> {
        let of = pending.told.as_ref().map(|told| told.receipt.receipt_id.clone());
        let of = of.ok_or_else(|| internal("an executed action has no receipt"))?;
        if let Some(call) = &mut pending.row.call {
            (call.provider_key, call.reference) = (row.provider_key.clone(), row.reference.clone());
        }
        let mut chain = amending(&of)?;
        let (reference, answer) = (confirmation.reference.as_deref(), Some(&confirmation.answer));
        self.push_execute(&mut chain, pending, word, reference, answer, Json::NULL)?;
        push_split(&mut chain, pending, None, PaymentStatus::NotCharged)?;
        let mut ending = Ending {
            kind: Kind::Executed,
            state: State::RolledBack,
            code: None,
            details: Details { reasons: vec![word.to_owned()], ..Details::default() },
            chain,
            confirmation: Some(Cow::Borrowed(confirmation)),
            refusal: None,
            payment: PaymentStatus::NotCharged,
            charged: None,
        };
        let receipt_id = clock::new_id(clock::now_ms())?.to_string();
        let amends = receipt::Event::Amendment { reason: Amendment::Rollback, of: Cow::Borrowed(&of) };
        let receipt = self.sign(pending, &mut ending, &receipt_id, amends)?;
        let payload = OutcomeRow {
            v: VERSION,
            reference: confirmation.reference.clone(),
            details: ending.details,
            ..OutcomeRow::default()
        };
        let receipt = Some(kept(receipt, &receipt_id));
        self.amend_undone(tenant, pending, State::RolledBack, receipt, payload).await
    }

    /// A reload took away who was to undo it, or put somebody else there who may not know what was sent. To try again would
    /// be in vain until the next reload, so it ends here, and whoever binds it as it was can ask for it again.
    async fn nobody_undoes(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        error: Error,
    ) -> Result<i64, Error> {
        if !is_unbound(&error) {
            return Err(error);
        }
        tracing::warn!(action = %pending.id, %error, "nobody is bound any more who could undo it");
        self.not_undone(tenant, pending, NO_LONGER_BOUND).await
    }

    /// It cannot be undone: the original stands, and a person decides.
    async fn not_undone(&self, tenant: &TenantState, pending: &mut Pending, why: &str) -> Result<i64, Error> {
        if !pending.settled {
            self.say_irrevocable(tenant, pending).await?;
        }
        let details = Details { reasons: vec![why.to_owned()], ..Details::default() };
        let payload = OutcomeRow { v: VERSION, details, ..OutcomeRow::default() };
        self.amend_undone(tenant, pending, State::RollbackFailed, None, payload).await?;
        let receipt = pending.told.as_ref().map(|told| told.receipt.receipt_id.as_str());
        self.alert(Alert::RollbackFailed, pending, receipt.unwrap_or_default());
        Ok(clock::now_ms())
    }

    async fn amend_undone(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        state: State,
        receipt: Option<ledger::Receipt>,
        row: OutcomeRow,
    ) -> Result<(), Error> {
        let payload = pending.outcome(row)?;
        let entry = telling(tenant, event(state, None), Some(outward(state)), pending.attempt());
        let at_ms = clock::now_ms();
        let outcome = ledger::Outcome { at_ms, state, reply: None, receipt, payload, entry };
        let settlement = Settlement::of(pending.id, pending.by, outcome);
        self.at(Point::RollbackOutcomeBefore)?;
        self.ledger.amend(settlement).await.map_err(unavailable)?;
        self.at(Point::RollbackOutcomeAfter)
    }

    /// Does a freeze cover it that includes what undoes effects?
    pub(crate) async fn stops_rollback(
        &self,
        stored: &Stored,
        provider: &dyn Provider,
    ) -> Result<bool, Error> {
        let freezes = self.ledger.freezes().await.map_err(unavailable)?;
        let rules = self.tenant(&stored.tenant)?.rules();
        let brought = IntentRow::of(stored)?.atp()?;
        let brought = brought.and_then(|atp| undoing(&rules, &atp)).map(|archetype| archetype.name.as_str());
        let kinds = [Some(&*stored.archetype), brought];
        Ok(freezes.iter().filter(|freeze| freeze.include_rollback).any(|freeze| {
            let covers = |kind: &str| {
                freeze.scope.covers(&stored.tenant, &stored.subject, kind, Some(provider.name()))
            };
            kinds.into_iter().flatten().any(covers)
        }))
    }

    /// An action as it is on record now.
    pub(crate) async fn stored(&self, tenant: &TenantState, id: ActionId) -> Result<Stored, Error> {
        let stored = self.ledger.action(&tenant.tenant, id).await.map_err(unavailable)?;
        stored.ok_or_else(|| internal("an action is gone"))
    }
}

/// What it takes to undo an effect.
pub(crate) struct Undoable {
    pending: Pending,
    provider: Arc<dyn Provider>,
    call: Call,
    /// The provider's reference for the effect.
    confirmed: Option<String>,
}

/// What was said when an effect was. One that could not be undone before that was being undone already.
pub(crate) fn done(outcomes: &[Settled]) -> Option<&Settled> {
    let done = |it: &&Settled| matches!(it.state, State::Executed | State::RollingBack) && it.reply.is_some();
    outcomes.iter().rfind(done)
}

/// The same, as it is kept.
pub(crate) fn done_row(outcomes: &[Settled]) -> Result<Option<OutcomeRow>, Error> {
    done(outcomes).map(|done| OutcomeRow::from_bytes(&done.payload)).transpose()
}

/// Why nothing goes on with an action whose archetype or provider a reload took away.
pub(crate) const NO_LONGER_BOUND: &str = "no_longer_bound";

/// Why nothing undoes an effect any more: its provider did not answer, and there are no more tries.
const SILENT: &str = "provider_silent";
/// The same: there are, and the provider may not recognise what was sent before.
const FORGETS: &str = "provider_forgets";

/// Why nothing undoes an effect that cannot be undone.
const IRREVERSIBLE: &str = "irreversible";

/// Is nobody bound to an action any more? Everything else that keeps it from being gone on with is a defect, which ends
/// nothing.
pub(crate) fn is_unbound(error: &Error) -> bool {
    error.code != Code::Unavailable
}

pub(crate) const NOT_DONE: &str = "only what was carried out can be undone";

pub(crate) fn undo_call(tenant: &TenantState, call: &Call, provider: &dyn Provider) -> Call {
    Call {
        provider_key: execution::rollback_key(&tenant.hmac, &call.provider_key),
        reference: execution::rollback_reference(&call.reference),
        send_by_ms: clock::now_ms() + millis(flight(provider)),
        ..call.clone()
    }
}

/// How long after it is marked sent it can still leave.
pub(crate) fn flight(provider: &dyn Provider) -> Duration {
    SEND_WINDOW + provider.patience()
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

pub(crate) fn conflict(why: &str) -> Error {
    Error::new(Code::StateConflict, why)
}
