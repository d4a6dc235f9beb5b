//! Check: what was done is looked after before anything is said of it. What is not as it should be is undone, and only then
//! is said to have failed; as long as nobody can tell, it is open, and in the end a person says whether it stays.

use std::borrow::Cow;
use std::sync::Arc;

use execution::{Check, Confirmation, Effect, Event, Execution, Resolution, Stood, Undo};
use ledger::{Deferral, State, Stored};
use provider::{Done, Provider};
use receipt::PaymentStatus;

use crate::decide::Named;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::Pending;
use crate::prove::{Ending, push_split, refused};
use crate::pursue::Pursued;
use crate::remember::{draft, outward, unavailable};
use crate::resolve::{Decision, RESOLVED};
use crate::rollback::{conflict, is_unbound, undo_call};
use crate::row::{CheckRow, ConfirmedRow, IntentRow, ResolutionRow, RollbackRow, internal};
use crate::tenants::TenantState;
use crate::{Answer, Code, Error, clock};

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
        let row = IntentRow::of(&stored)?;
        self.check_from(tenant, pending, row, (confirmation, asks), due_ms).await
    }

    /// The same, of what this row says.
    pub(crate) async fn check_from(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        mut row: IntentRow,
        (confirmation, asks): (&Confirmation, u32),
        due_ms: i64,
    ) -> Result<(), Error> {
        let confirmed_ms = row.check.map_or_else(clock::now_ms, |before| before.confirmed_ms);
        let confirmed = ConfirmedRow::of(confirmation)?;
        row.check = Some(Box::new(CheckRow { confirmed, confirmed_ms, asks, late: pending.late }));
        let state = State::Checking;
        let Named { payload, name } = row.to_named(pending.key.as_deref())?;
        let entry = draft(tenant, ledger::CHECKING, Some(outward(state)), &name, pending.attempt());
        let (action, by, at_ms) = (pending.id, pending.by, clock::now_ms());
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
            Err(error) if is_unbound(&error) => {
                tracing::warn!(action = %stored.id, %error, "nobody is bound any more who could look after it");
                return self.say_unchecked(tenant, &pending).await.map(Pursued::Over);
            }
            Err(error) => return Err(error),
        };
        let undo = undo_call(tenant, &call, provider.as_ref());
        let course = pending.course()?;
        let terms = pending.terms(provider.as_ref());
        let reference = confirmation.reference.clone();
        let execution = Execution::recover_checking(call, terms, course, confirmation, asks);
        let (execution, effects) = self.step(execution, Event::Woken)?;
        let Some(Effect::Check(call)) = effects.first() else {
            return Err(internal("an effect is not looked after"));
        };
        // Where it does not check any more, there is nothing that it would have to be like.
        let found = look_into(provider.as_ref(), call, reference.as_deref()).await.unwrap_or(Check::Holds);
        if found == Check::Unknown {
            tracing::warn!(action = %stored.id, provider = provider.name(), asks, "nobody can tell whether it is as it should be");
        }
        let (execution, effects) = self.step(execution, event_of(found, undo.into()))?;
        match execution.undo().cloned() {
            None => self.followed(tenant, &pending, &execution, &effects).await,
            Some(undo) => self.undo_unsaid(tenant, &mut pending, &undo, OURSELVES).await,
        }
    }

    /// Begins to undo what nothing was said of yet.
    async fn undo_unsaid(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        pending: &mut Pending,
        undo: &Undo,
        by: &str,
    ) -> Result<Pursued, Error> {
        tracing::warn!(action = %pending.id, by, "what was done is not as it should be: it is undone");
        let (confirmation, _) = confirmed(pending)?;
        let row = RollbackRow::begun(by.to_owned(), confirmation.reference, undo);
        self.rest_until(tenant, pending, row, clock::now_ms()).await?;
        let stored = self.stored(tenant, pending.id).await?;
        if !pending.still_holds(&stored) {
            return self.undone_so_far(&stored, stored.due_ms.unwrap_or_else(|| self.soon_ms()));
        }
        self.undo_on(tenant, &stored).await
    }

    /// Nobody told for as long as it was asked: a person has to say whether it stays.
    pub(crate) async fn say_unchecked(
        &self,
        tenant: &TenantState,
        pending: &Pending,
    ) -> Result<Answer, Error> {
        tracing::warn!(action = %pending.id, tenant = %pending.tenant, "nobody tells whether it is as it should be: a person has to");
        if pending.told.is_none() {
            let ending = self.unsettled(pending, State::Unchecked);
            return self.conclude(tenant, pending, ending).await;
        }
        self.note(tenant, pending, State::Unchecked).await?;
        self.last_said(&self.stored(tenant, pending.id).await?)
    }

    /// Asks once more whether all is as it should be. If somebody tells, that is gone on with: whether they did, and agree
    /// with the person.
    pub(crate) async fn check_tells(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        pending: &mut Pending,
        decision: Decision,
    ) -> Result<bool, Error> {
        // Whoever would undo it may be gone, and who can tell is asked all the same.
        let (execution, provider) = match self.unchecked(tenant, pending, Stood::InDoubt) {
            Ok(found) => found,
            // Who cannot be asked any more does not tell.
            Err(error) if is_unbound(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let (confirmation, _) = confirmed(pending)?;
        let call = Arc::clone(execution.call());
        let found = look_into(provider.as_ref(), &call, confirmation.reference.as_deref()).await;
        let (agrees, told) = match found {
            None | Some(Check::Unknown) => return Ok(false),
            Some(Check::Holds) => (decision == Decision::Executed, "all is as it should be"),
            Some(Check::Fails) => (decision == Decision::Undo, "it is not as it should be, and is undone"),
        };
        let undo = undo_call(tenant, &call, provider.as_ref());
        let event = event_of(found.unwrap_or(Check::Unknown), undo.into());
        let (execution, effects) = self.step(execution, event)?;
        match execution.undo().cloned() {
            None => drop(self.follow(tenant, pending, &execution, &effects).await?),
            Some(undo) => drop(self.undo_unsaid(tenant, pending, &undo, OURSELVES).await?),
        }
        let why = format!("the provider was asked once more and its word counts: {told}");
        if agrees { Ok(true) } else { Err(conflict(&why)) }
    }

    /// A person says that it stays, or has it undone.
    pub(crate) async fn settle_unchecked(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        pending: &mut Pending,
        decision: Decision,
    ) -> Result<(), Error> {
        if decision == Decision::Undo {
            let (execution, provider) = self.unchecked(tenant, pending, Stood::Completed)?;
            let undo = undo_call(tenant, execution.call(), provider.as_ref());
            let (execution, _) = self.step(execution, Event::Undo(undo.into()))?;
            let undo = execution.undo().cloned().ok_or_else(|| internal("nothing undoes it"))?;
            let word = pending.word.clone().ok_or_else(|| internal("nobody has it undone"))?;
            let by = word.by.clone();
            pending.row.words.push(*word);
            return self.undo_unsaid(tenant, pending, &undo, &by).await.map(drop);
        }
        let (confirmation, _) = confirmed(pending)?;
        let (call, terms, course) = self.as_found(tenant, pending).await?;
        let resting = Execution::recover_unchecked(call, terms, course, confirmation);
        let stays = Resolution::Executed(Confirmation::default());
        let (execution, effects) = self.step(resting, Event::Resolved(stays))?;
        self.follow(tenant, pending, &execution, &effects).await.map(drop)
    }

    /// The machine as it stands on record, and who can tell where it is in doubt, or undo it where it is complete.
    fn unchecked(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        stood: Stood,
    ) -> Result<(Execution, Arc<dyn Provider>), Error> {
        let (confirmation, _) = confirmed(pending)?;
        let (provider, call) = self.bound(pending, &tenant.rules(), stood)?;
        let (terms, course) = (pending.terms(provider.as_ref()), pending.course()?);
        Ok((Execution::recover_unchecked(call, terms, course, confirmation), provider))
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
        let why = why_undone(pending);
        let error = refused(Code::ProviderFailed, why)?;
        // Whose word it is stands here and nowhere else: that it is undone says the provider.
        pending.word = had_undone(&pending.row).cloned().map(Box::new);
        self.push_execute(&mut chain, pending, "rolled_back", reference, answer, error)?;
        pending.word = None;
        push_split(&mut chain, pending, None, PaymentStatus::NotCharged)?;
        let details = Details {
            reasons: vec![why.to_owned()],
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
            confirmation: Some(Cow::Borrowed(&confirmation)),
            refusal: None,
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
        let mut ending = Ending { state: State::RollingBack, ..self.confirmed(pending, &confirmation)? };
        ending.details.reasons = vec![why_undone(pending).to_owned(), "rollback_failed".to_owned()];
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
pub(crate) const OURSELVES: &str = action::Subject::GATEWAY;

/// Why an effect is undone of which nothing was said yet.
fn why_undone(pending: &Pending) -> &'static str {
    if had_undone(&pending.row).is_some() { RESOLVED } else { CHECK_FAILED }
}

/// The word of the person who had it undone, if nobody else could tell.
fn had_undone(row: &IntentRow) -> Option<&ResolutionRow> {
    row.words.iter().rfind(|word| word.decision == Decision::Undo.as_str())
}

/// Asks whether all is as it should be; nothing, if the binding does not say what that would be.
async fn look_into(
    provider: &dyn Provider,
    call: &execution::Call,
    reference: Option<&str>,
) -> Option<Check> {
    let done = Done { reference, snapshot: None };
    match provider.checks() {
        true => Some(provider.check(call, done, clock::now_ms()).await),
        false => None,
    }
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
