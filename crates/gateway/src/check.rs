//! Check: what was done is looked after before anything is said of it. What is not as it should be is undone, and only then
//! is said to have failed; as long as nobody can tell, it is open.

use std::sync::Arc;

use execution::{Check, Confirmation, Effect, Event, Execution, Stood};
use ledger::{Deferral, State, Stored};
use provider::Done;
use receipt::PaymentStatus;

use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::Pending;
use crate::prove::{Ending, push_split, refused};
use crate::pursue::Pursued;
use crate::remember::{draft, outward, unavailable};
use crate::rollback::{NO_LONGER_BOUND, is_unbound, undo_call};
use crate::row::{CheckRow, ConfirmedRow, IntentRow, RollbackRow, internal};
use crate::tenants::TenantState;
use crate::{Code, Error, clock};

impl Gateway {
    /// Writes down what is confirmed, and when to look after it. What the row says otherwise is read anew: what is in hand
    /// may lack the most of it.
    pub(crate) async fn have_checked(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        (confirmation, asks): (&Confirmation, u32),
        due_ms: i64,
    ) -> Result<(), Error> {
        let stored = self.stored(tenant, pending.id).await?;
        let mut row = IntentRow::from_bytes(&stored.payload)?;
        let confirmed_ms = row.check.map_or_else(clock::now_ms, |before| before.confirmed_ms);
        let confirmed = ConfirmedRow::of(confirmation)?;
        row.check = Some(Box::new(CheckRow { confirmed, confirmed_ms, asks }));
        let state = State::Checking;
        let entry =
            draft(tenant, ledger::CHECKING, Some(outward(state)), &pending.action_hash, pending.attempt());
        let (action, by, at_ms, payload) = (pending.id, pending.by, clock::now_ms(), row.to_bytes()?);
        let deferral = Deferral { action, state, by, at_ms, due_ms, payload, entry };
        self.ledger.defer(deferral).await.map_err(unavailable)?;
        self.wake_at(pending.id, due_ms);
        Ok(())
    }

    /// Asks once whether all is as it should be. If it is not, undoing it begins.
    pub(crate) async fn check_further(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        stored: &Stored,
    ) -> Result<Pursued, Error> {
        let mut pending = Pending::restore(stored, self.told(stored).await?)?;
        let (confirmation, asks) = confirmed(&pending)?;
        // Who would undo it is asked for when it comes to that.
        let (provider, call) = match self.bound(&pending, &tenant.rules(), Stood::InDoubt) {
            Ok(found) => found,
            Err(error) => return self.nobody_checks(tenant, &mut pending, confirmation, error).await,
        };
        let undo = Arc::new(undo_call(tenant, &call, provider.as_ref()));
        let course = pending.course()?;
        let terms = pending.terms(provider.as_ref());
        let reference = confirmation.reference.clone();
        let execution = Execution::recover_checking(call, terms, course, confirmation, asks);
        let (execution, effects) = self.step(execution, Event::Woken)?;
        let Some(Effect::Check(call)) = effects.first() else {
            return Err(internal("an effect is not looked after"));
        };
        let found = match provider.checks() {
            true => {
                let done = Done { reference: reference.as_deref(), snapshot: None };
                provider.check(call, done, clock::now_ms()).await
            }
            // There is nothing any more that it would have to be like.
            false => Check::Holds,
        };
        if found == Check::Unknown {
            tracing::warn!(action = %stored.id, provider = provider.name(), asks, "nobody can tell whether it is as it should be");
        }
        let (execution, effects) = self.step(execution, event_of(found, undo))?;
        let Some(undo) = execution.undo() else {
            return self.followed(tenant, &pending, &execution, &effects).await;
        };
        tracing::warn!(action = %stored.id, provider = provider.name(), "what was done is not as it should be: it is undone");
        let row = RollbackRow::begun(OURSELVES.to_owned(), reference, undo);
        self.rest_until(tenant, &mut pending, row, clock::now_ms()).await?;
        let stored = self.stored(tenant, stored.id).await?;
        self.undo_on(tenant, &stored).await
    }

    /// A reload took away who could tell whether all is as it should be, and with it who could undo it: a person decides.
    async fn nobody_checks(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        pending: &mut Pending,
        confirmation: Confirmation,
        error: Error,
    ) -> Result<Pursued, Error> {
        if !is_unbound(&error) {
            return Err(error);
        }
        tracing::warn!(action = %pending.id, %error, "nobody is bound any more who could look after it");
        let row = never_sent(tenant, pending, confirmation.reference)?;
        self.rest_until(tenant, pending, row, clock::now_ms()).await?;
        let stored = self.stored(tenant, pending.id).await?;
        self.undo_on(tenant, &stored).await
    }

    /// The last word on what is undone before there was one: it failed, and nothing of it is left.
    pub(crate) async fn say_retracted(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        let (confirmation, _) = confirmed(pending)?;
        let mut chain = self.begin_ending(pending)?;
        let (reference, answer) = (confirmation.reference.as_deref(), Some(&confirmation.answer));
        let error = refused(Code::ProviderFailed, CHECK_FAILED)?;
        self.push_execute(&mut chain, pending, "rolled_back", reference, answer, error)?;
        push_split(&mut chain, pending, None, PaymentStatus::NotCharged)?;
        let details = Details {
            reasons: vec![CHECK_FAILED.to_owned()],
            rolled_back: Some(true),
            provider_reference: confirmation.reference.clone(),
            ..Details::default()
        };
        let ending = Ending {
            kind: Kind::Failed,
            state: State::RollingBack,
            code: Some(Code::ProviderFailed),
            details,
            chain,
            confirmation: Some(&confirmation),
            payment: PaymentStatus::NotCharged,
            charged: None,
        };
        self.say_before_undoing(tenant, pending, ending).await
    }

    /// The same for what cannot be undone: it was done, whatever it is like, and a person decides.
    pub(crate) async fn say_irrevocable(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        let (confirmation, _) = confirmed(pending)?;
        let unchecked = pending.row.rollback.as_ref().and_then(|rollback| rollback.never.clone());
        let amiss = unchecked.as_deref().unwrap_or(CHECK_FAILED);
        let mut ending = Ending { state: State::RollingBack, ..self.confirmed(pending, &confirmation)? };
        ending.details.reasons = vec![amiss.to_owned(), "rollback_failed".to_owned()];
        self.say_before_undoing(tenant, pending, ending).await
    }

    async fn say_before_undoing(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        ending: Ending<'_>,
    ) -> Result<(), Error> {
        let (_, told) = self.conclude_with_receipt(tenant, pending, ending).await?;
        pending.told = pending.told.take().or(told);
        pending.settled = true;
        Ok(())
    }
}

const CHECK_FAILED: &str = "check_failed";
/// Who has undone, or set free, what nobody asked to be.
pub(crate) const OURSELVES: &str = "countersign";

/// What undoes it, where nobody is left to send that to. Whoever comes to it later does not send it either: it may well be as
/// it should be.
fn never_sent(
    tenant: &TenantState,
    pending: &Pending,
    confirmed: Option<String>,
) -> Result<RollbackRow, Error> {
    let call = pending.row.call.as_ref().ok_or_else(|| internal("an action without a call was sent"))?;
    let now_ms = clock::now_ms();
    Ok(RollbackRow {
        by: OURSELVES.to_owned(),
        asked_ms: now_ms,
        provider_key: execution::rollback_key(&tenant.hmac, &call.provider_key),
        reference: execution::rollback_reference(&pending.id, call.attempt),
        confirmed,
        sends: 0,
        first_ms: now_ms,
        undone: None,
        never: Some(NO_LONGER_BOUND.to_owned()),
    })
}

fn event_of(found: Check, undo: Arc<execution::Call>) -> Event {
    match found {
        Check::Holds => Event::Held,
        Check::Unknown => Event::Untold,
        Check::Fails => Event::Undo(undo),
    }
}

/// What is confirmed of an effect, and how often it was asked after in vain.
fn confirmed(pending: &Pending) -> Result<(Confirmation, u32), Error> {
    let row = pending.row.check.as_ref().ok_or_else(|| internal("an effect was not confirmed"))?;
    Ok((row.confirmed.read()?, row.asks))
}
