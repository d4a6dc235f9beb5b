//! Pursue: one step further with an action that is open and not under way: ask what became of it, or send it (again) if
//! it may be. Live and recovered actions go this way alike, and so does what somebody asks to be tried again.

use std::sync::Arc;

use action::{ActionId, Tenant};
use execution::{Absence, Doubt, Effect, Event, Execution, Found, Reply, Stood, Stop};
use ledger::{By, Deferral, Given, Settled, State, Stored};
use provider::Provider;

use crate::act::{Errand, Followed, UnderWay};
use crate::crash::Point;
use crate::decide::{Named, altered};
use crate::gateway::Gateway;
use crate::late::{CallRef, Place, latest_had_effect};
use crate::pending::{Pending, Told};
use crate::prove::absence_word;
use crate::recovery::reference;
use crate::redress::redress;
use crate::remember::{draft, event, outward, telling, unavailable};
use crate::request::Next;
use crate::reserve::reservation_of;
use crate::rollback::is_unbound;
use crate::row::{CallRow, IntentRow, OutcomeRow, VERSION, internal};
use crate::tenants::{Rules, TenantState};
use crate::{Answer, Code, Error, clock};

/// How far it came.
pub(crate) enum Pursued {
    /// It is marked sent, and is to be carried out.
    Go(Box<Errand>),
    /// The last word is said.
    Over(Answer),
    /// Nothing more can be done now; Unix milliseconds.
    Rests(i64),
}

impl Gateway {
    /// Takes an open action one step further. `holds`: whoever calls has marked it sent by that and has had its answer, which did
    /// not tell.
    pub(crate) async fn pursue(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        id: ActionId,
        under_way: UnderWay,
        holds: Option<By>,
    ) -> Result<Pursued, Error> {
        let stored = self.stored(tenant, id).await?;
        if let Some(due_ms) = rests_until(&stored).filter(|due_ms| *due_ms > clock::now_ms()) {
            return Ok(Pursued::Rests(due_ms));
        }
        // What was sent since then is somebody else's.
        let holds = holds == Some(By::Holder(stored.token));
        let stood = match (stored.state, stored.due_ms) {
            (State::Sent | State::InDoubt, _) => Stood::InDoubt,
            (State::Challenged, until_ms) => Stood::Challenged { until_ms: until_ms.unwrap_or(0) },
            (State::Waiting, due_ms) => Stood::Waiting { due_ms: due_ms.unwrap_or(0) },
            (State::Reserved, _) => return self.tend_reserved(tenant, &stored).await,
            (State::ReleaseFailed, _) => return self.said_of_reserved(&stored).map(Pursued::Over),
            (State::Checking, _) => return self.check_further(tenant, &stored).await,
            (State::RollingBack | State::Retracting, _) => return self.undo_on(tenant, &stored).await,
            _ => return self.over(&stored),
        };
        let told = self.told(&stored).await?;
        let mut pending = Pending::restore(&stored, told)?;
        if stored.state == State::Sent && !holds {
            self.at(Point::TakeoverBefore)?;
            self.take_over(tenant, &mut pending).await?;
        }
        let rules = tenant.rules();
        let (provider, call) = match self.bound(&pending, &rules, stood) {
            Ok(found) => found,
            Err(error) if matches!(stood, Stood::Waiting { .. }) => {
                tracing::info!(action = %id, %error, "an action that waits is no longer offered");
                return self.give_up(tenant, &pending).await;
            }
            Err(error) => return self.unbound(tenant, &mut pending, stood, error).await,
        };
        if stood == Stood::InDoubt && provider.runner().is_some_and(|runner| runner.is_at(&call)) {
            // Its report is on its way, and whoever has it made once more would have it made twice at once.
            return Ok(Pursued::Rests(self.soon_ms()));
        }
        let execution = pending.execution(call, provider.as_ref(), stood);
        let (mut execution, mut effects) = self.step(execution, Event::Woken)?;
        if let Some(Effect::Inquire(call)) = effects.first() {
            self.at(Point::QueryBefore)?;
            let found = provider.query(call, clock::now_ms()).await;
            self.at(Point::QueryAfter)?;
            // While a payer is asked nothing else is expected.
            if found == Found::Unknown && !holds && stored.state != State::Challenged {
                self.log_untold(&tenant.tenant, id, provider.name());
            }
            (execution, effects) = self.step(execution, Event::Asked(found))?;
        }
        if let Some(pursued) = self.unanswered(tenant, &mut pending, &execution, stood).await? {
            return Ok(pursued);
        }
        let pursued = match effects.first() {
            Some(Effect::Clear) => {
                let followed = match stood {
                    Stood::InDoubt | Stood::Waiting { .. } => {
                        self.followed_on(tenant, &pending, provider.as_ref()).await?
                    }
                    _ => false,
                };
                // What was just written down is part of what is judged.
                let stored = self.stored(tenant, id).await?;
                match followed {
                    true => self.look_after_recalled(tenant, &stored).await?,
                    // Whoever has taken it in hand while its provider was asked goes on with it, or has ended it.
                    false if !pending.still_holds(&stored) || !still_stands(stood, stored.state) => {
                        Pursued::Rests(self.soon_ms())
                    }
                    false => self.clear(tenant, &rules, &stored, pending, execution, under_way).await?,
                }
            }
            _ => match self.followed(tenant, &pending, &execution, &effects).await? {
                // What an attempt has done that was forgotten is on record now, and is to be looked after.
                Pursued::Rests(_) if matches!(execution.state(), execution::State::Failed(_)) => {
                    self.look_after_recalled(tenant, &self.stored(tenant, id).await?).await?
                }
                pursued => pursued,
            },
        };
        match (&pursued, stood) {
            (Pursued::Go(_), Stood::InDoubt) => {
                tracing::info!(action = %id, tenant = %tenant.tenant, "an action in doubt is sent again");
            }
            (_, Stood::InDoubt) => self.log_resolved(&tenant.tenant, id).await,
            _ => {}
        }
        Ok(pursued)
    }

    /// What an attempt that was forgotten has done, as it is on record now.
    async fn look_after_recalled(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        stored: &Stored,
    ) -> Result<Pursued, Error> {
        match stored.state {
            State::Checking => self.check_further(tenant, stored).await,
            _ => Ok(Pursued::Rests(stored.due_ms.unwrap_or_else(clock::now_ms))),
        }
    }

    /// For whoever reads the log after a crash: that it is known now what became of an action.
    async fn log_resolved(&self, tenant: &Tenant, id: ActionId) {
        match self.ledger.action(tenant, id).await {
            Ok(Some(Stored { state: State::InDoubt | State::Sent, .. }) | None) => {}
            Ok(Some(Stored { state: State::Waiting, .. })) => {
                let what = "what was in doubt had no effect; another attempt follows";
                tracing::info!(action = %id, %tenant, "{what}");
            }
            Ok(Some(Stored { state, .. })) => {
                tracing::info!(action = %id, %tenant, outcome = state.as_str(), "an action is in doubt no more");
            }
            Err(error) => tracing::warn!(action = %id, %tenant, %error, "what became of it cannot be read"),
        }
    }

    pub(crate) async fn followed(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        execution: &Execution,
        effects: &[Effect],
    ) -> Result<Pursued, Error> {
        Ok(match self.follow(tenant, pending, execution, effects).await? {
            Followed::Said(answer) => Pursued::Over(answer),
            Followed::Rests(until_ms) => Pursued::Rests(until_ms),
        })
    }

    /// Has it judged anew whether it may be sent (again).
    async fn clear(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        rules: &Rules,
        stored: &Stored,
        pending: Pending,
        execution: Execution,
        under_way: UnderWay,
    ) -> Result<Pursued, Error> {
        let stop = match self.judge_once_more(tenant, rules, stored, &pending, under_way).await? {
            Next::Admitted(errand) => return Ok(Pursued::Go(errand)),
            Next::Said(answer) => return Ok(Pursued::Over(answer)),
            Next::NotNow(stop) => stop,
        };
        if stop.code == Code::Frozen.as_str() {
            // A freeze ends, or the deadline comes.
            return Ok(Pursued::Rests(self.soon_ms()));
        }
        let (execution, effects) = self.step(execution, Event::Stopped(stop))?;
        self.followed(tenant, &pending, &execution, &effects).await
    }

    /// Nobody is left to be asked what became of it. What is in doubt stays so, for a person; what its payer can still
    /// confirm becomes so when the payer's time is over.
    async fn unbound(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        stood: Stood,
        error: Error,
    ) -> Result<Pursued, Error> {
        match stood {
            Stood::Challenged { until_ms } if is_unbound(&error) => {
                tracing::warn!(action = %pending.id, %error, "nobody can be asked whether its payer confirmed it");
                if clock::now_ms() >= until_ms {
                    self.doubt(tenant, pending).await?;
                    return Ok(Pursued::Rests(self.soon_ms()));
                }
                Ok(Pursued::Rests(until_ms))
            }
            _ => Err(error),
        }
    }

    async fn give_up(&self, tenant: &TenantState, pending: &Pending) -> Result<Pursued, Error> {
        let absence = Absence::Stopped(not_offered());
        if let Some(due_ms) = self.done_by_forgotten(tenant, pending, &absence).await? {
            return Ok(Pursued::Rests(due_ms));
        }
        let ending = self.absent(pending, &absence);
        self.conclude(tenant, pending, ending).await.map(Pursued::Over)
    }

    /// What was marked sent by somebody who is gone: whether it left, nobody here knows. The caller is told so before
    /// anybody is asked.
    async fn take_over(&self, tenant: &TenantState, pending: &mut Pending) -> Result<(), Error> {
        let By::Holder(token) = pending.by else { return Ok(()) };
        pending.by = By::Heir(token);
        self.doubt(tenant, pending).await?;
        pending.by = By::Holder(token.saturating_add(1));
        Ok(())
    }

    /// It is in doubt from now on, and its caller is told so unless it was told before that it is open.
    pub(crate) async fn doubt(&self, tenant: &TenantState, pending: &mut Pending) -> Result<(), Error> {
        match &pending.told {
            None => self.say_unsettled(tenant, pending, State::InDoubt).await.map(drop),
            Some(_) => self.note_doubt(tenant, pending).await,
        }
    }

    /// The caller was told before that it is open; only the record says now that this attempt is in doubt.
    async fn note_doubt(&self, tenant: &TenantState, pending: &Pending) -> Result<(), Error> {
        self.note(tenant, pending, State::InDoubt).await
    }

    /// Writes down where it stands, of which its caller is told nothing new.
    pub(crate) async fn note(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        state: State,
    ) -> Result<(), Error> {
        let payload = pending.outcome(OutcomeRow { v: VERSION, ..OutcomeRow::default() })?;
        let entry = telling(tenant, event(state, None), Some(outward(state)), pending.attempt());
        let outcome =
            ledger::Outcome { at_ms: clock::now_ms(), state, reply: None, receipt: None, payload, entry };
        let settlement = ledger::Settlement::of(pending.id, pending.by, outcome);
        self.ledger.settle(settlement).await.map_err(unavailable).map(drop)
    }

    /// The provider to ask or to send to, and the call as it left. To undo it, the one that the request named, if it did.
    pub(crate) fn bound(
        &self,
        pending: &Pending,
        rules: &Rules,
        stood: Stood,
    ) -> Result<(Arc<dyn Provider>, execution::Call), Error> {
        let call = pending.call(self.environment, rules)?;
        let provider = rules.providers.get(&*pending.archetype).ok_or_else(|| {
            Error::new(Code::ProviderCannot, format!("archetype `{}` is no longer bound", pending.archetype))
        })?;
        let sent = pending.row.call.as_ref().filter(|sent| !sent.was_for(provider.as_ref()));
        let bears_on_it = !matches!(stood, Stood::Waiting { .. } | Stood::Failed | Stood::RollbackFailed);
        if let (Some(sent), true) = (sent, bears_on_it) {
            // Another provider's "no such payment" says nothing about this one.
            return Err(Error::new(
                Code::ProviderCannot,
                format!(
                    "archetype `{}` was sent to `{}` and is bound otherwise now: until it is settled, bind it as it was \
                     (name, base, headers, capabilities, query)",
                    pending.archetype, sent.provider
                ),
            ));
        }
        if matches!(stood, Stood::RollingBack | Stood::Completed)
            && let Some(redress) = redress(pending, rules, provider)?
        {
            return Ok((Arc::new(redress), call));
        }
        Ok((Arc::clone(provider), call))
    }

    /// Asks after the last attempt of an action that was said to have had no effect, and after what was to charge what it had
    /// set aside, because they may have come late.
    pub(crate) async fn ask_once_more(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        pending: &Pending,
        rules: &Rules,
        stood: Stood,
        under_way: UnderWay,
    ) -> Result<Option<Answer>, Error> {
        let (provider, call) = self.bound(pending, rules, stood)?;
        let same = pending.row.call.as_ref().is_some_and(|sent| sent.was_for(provider.as_ref()));
        if !same || !provider.capabilities().can_be_asked() {
            return Ok(None);
        }
        if let Some(reservation) = &pending.row.reservation {
            let (at, asked) = self.captures_tell(tenant, pending, provider.as_ref()).await?;
            match asked {
                Found::Confirmed(it) => {
                    let about = reservation.captures.get(at).map_or("", |capture| &capture.reference);
                    let of = CallRef { id: pending.id, attempt: pending.attempt(), about };
                    self.earlier_had_effect(tenant, of, provider.as_ref(), it, Some(under_way)).await?;
                    return self.last_said(&self.stored(tenant, pending.id).await?).map(Some);
                }
                Found::Absent { final_: true } => {}
                Found::Absent { final_: false } | Found::Unknown => {
                    let why = "the provider does not say for certain what became of a capture before";
                    return Err(Error::new(Code::Unavailable, why).retry_after(5));
                }
            }
            // It was set free, and said so: there is nothing else to ask after.
            if reservation.release.is_some() {
                return Ok(None);
            }
        }
        let found = provider.query(&call, clock::now_ms()).await;
        if found == Found::Unknown {
            let why = "the provider does not say what became of the attempt before";
            return Err(Error::new(Code::Unavailable, why).retry_after(5));
        }
        let execution = pending.execution(call.clone(), provider.as_ref(), stood);
        let (execution, effects) = self.step(execution, Event::Asked(found.clone()))?;
        if effects.is_empty() {
            return Ok(None);
        }
        if let (Some(Effect::Release), Found::Confirmed(it)) = (effects.first(), &found) {
            let free = self.set_stray_free(tenant, pending, provider.as_ref(), (&call, it)).await;
            let why = "the provider still holds what the attempt before had reserved";
            return if free { Ok(None) } else { Err(Error::new(Code::Unavailable, why).retry_after(5)) };
        }
        match self.follow(tenant, pending, &execution, &effects).await? {
            Followed::Said(answer) => Ok(Some(answer)),
            Followed::Rests(_) => Ok(None),
        }
    }

    /// Somebody else went on with an attempt while it was under way: an effect is there all the same, and where they had the
    /// last word, that is what there is to say. `sends`: how often it had been sent by then, with this one.
    pub(crate) async fn overtaken(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        (id, (sent, sends)): (ActionId, (&execution::Call, u32)),
        said: Reply,
        under_way: UnderWay,
    ) -> Result<Option<Followed>, Error> {
        let stored = self.stored(tenant, id).await?;
        let row = IntentRow::of(&stored)?;
        let same = row.call.as_ref().is_some_and(|call| call.reference == sent.reference);
        let is_open = matches!(stored.state, State::Sent | State::InDoubt);
        let of = CallRef { id, attempt: sent.attempt, about: &sent.reference };
        let place = self.place_of(&stored, &row, of).await?;
        match said {
            // Be it that of the latest attempt, where an earlier one is what the action came to.
            Reply::Confirmed(it) if place == Some(Place::Earlier) => {
                let rules = tenant.rules();
                let (provider, _) = self.bound(&Pending::restore(&stored, None)?, &rules, Stood::Failed)?;
                self.earlier_had_effect(tenant, of, provider.as_ref(), it, Some(under_way)).await?;
                self.said_by_others(tenant, id).await.map(Followed::Said).map(Some)
            }
            // What it had done was found by others, and stands, or they look after it, or have undone it.
            Reply::Confirmed(_) if same && latest_had_effect(stored.state) => {
                self.said_by_others(tenant, id).await.map(Followed::Said).map(Some)
            }
            reply if matches!(reply, Reply::Confirmed(_)) || (same && is_open) => {
                self.answered_late(tenant, (id, Some((sent, sends))), reply, Some(under_way)).await.map(Some)
            }
            _ if same && matches!(stored.state, State::Executed | State::Failed) => {
                self.last_said(&stored).map(Followed::Said).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The provider says of itself what became of the latest attempt, or says it after somebody else had the last word. Who
    /// does not look after the action alone can only end what is open.
    pub(crate) async fn answered_late(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        (id, sent): (ActionId, Option<(&execution::Call, u32)>),
        reply: Reply,
        under_way: Option<UnderWay>,
    ) -> Result<Followed, Error> {
        let stored = self.stored(tenant, id).await?;
        let told = self.told(&stored).await?;
        let mut pending = Pending::restore(&stored, told)?;
        let stood = match stored.state {
            State::Failed if under_way.is_some() => Stood::Failed,
            State::Waiting if under_way.is_some() => Stood::Waiting { due_ms: stored.due_ms.unwrap_or(0) },
            State::Sent | State::InDoubt => Stood::InDoubt,
            State::Challenged => Stood::Challenged { until_ms: stored.due_ms.unwrap_or(0) },
            State::Reserved => Stood::Reserved(reservation_of(&pending.row)?.read(pending.money)?),
            _ => return Err(Error::new(Code::StateConflict, "somebody else went on with the action")),
        };
        let rules = tenant.rules();
        let (provider, latest) = self.bound(&pending, &rules, Stood::Failed)?;
        let (sent, sends) = sent.map_or((latest, None), |(sent, sends)| (sent.clone(), Some(sends)));
        let execution = pending.execution(sent.clone(), provider.as_ref(), stood);
        let (execution, effects) = self.step(execution, Event::Replied(reply.clone()))?;
        if let (Some(Effect::Release), Reply::Confirmed(it)) = (effects.first(), &reply) {
            self.set_stray_free(tenant, &pending, provider.as_ref(), (&sent, it)).await;
            // What waits may not have been told of yet.
            return match stored.reply {
                Some(_) => self.last_said(&stored).map(Followed::Said),
                None => Ok(Followed::Said(self.say_sent(id, &pending.row))),
            };
        }
        let goes_on = match execution.state() {
            execution::State::Waiting { .. } => stood == Stood::InDoubt,
            execution::State::Checking { .. } => true,
            execution::State::Reserved { came, .. } => !matches!(came, execution::Came::OnRecord),
            state => state.is_settled(),
        };
        if !goes_on {
            // Of two sends it speaks for one. Nobody is at what was only marked sent any more, unless somebody has sent it again: it
            // is in doubt.
            let is_last =
                |it: &CallRow| it.reference == sent.reference && sends.is_none_or(|sends| sends == it.sends);
            let is_own = pending.row.call.as_ref().is_some_and(is_last);
            if stored.state == State::Sent && is_own && under_way.is_some() {
                self.doubt(tenant, &mut pending).await?;
                return self.said_by_others(tenant, id).await.map(Followed::Said);
            }
            return self.say_as_it_stands(&stored, &pending.row).map(Followed::Said);
        }
        self.follow(tenant, &pending, &execution, &effects).await
    }

    /// Has it wait for its next attempt. What the row says of it is read anew: what is in hand may lack the most of it.
    pub(crate) async fn defer(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        due_ms: i64,
        after: &Absence,
    ) -> Result<(), Error> {
        let stored = self.stored(tenant, pending.id).await?;
        let mut row = IntentRow::of(&stored)?;
        let now_ms = clock::now_ms();
        let code = match after {
            Absence::Refused(refusal) => refusal.code.clone(),
            _ => None,
        };
        let call = row.call.as_ref().ok_or_else(|| internal("an action without a call was sent"))?;
        let over = call.over(now_ms, absence_word(after), code);
        row.attempts.push(over);
        let state = Some(outward(State::Waiting));
        let Named { payload, name } = row.to_named(pending.key.as_deref())?;
        let entry = draft(tenant, ledger::WAITING, state, &name, pending.attempt());
        let (action, by) = (pending.id, pending.by);
        let deferral = Deferral { action, state: State::Waiting, by, at_ms: now_ms, due_ms, payload, entry };
        self.at(Point::RetryBefore)?;
        self.ledger.defer(deferral).await.map_err(unavailable)?;
        self.at(Point::RetryAfter)
    }

    /// Leaves an open action to the timer: a doubt is said whether anybody hears it or not, which ends the lease, unless its caller
    /// was told before (then `let_go` does); that it waits for another attempt, only to whoever waits.
    pub(crate) async fn leave(
        &self,
        tenant: &TenantState,
        (id, by): (ActionId, By),
        awaited: bool,
        doubt: Option<Doubt>,
    ) -> Result<Option<Answer>, Error> {
        let stored = self.stored(tenant, id).await?;
        let is_sent = stored.state == State::Sent;
        if is_sent && by != By::Holder(stored.token) {
            return if awaited { self.said_by_others(tenant, id).await.map(Some) } else { Ok(None) };
        }
        if !awaited && !is_sent {
            return Ok(None);
        }
        match self.say_so_far(tenant, &stored, doubt).await {
            // Somebody else has said so just now.
            Err(error) if error.code == Code::StateConflict => {
                self.said_by_others(tenant, id).await.map(Some)
            }
            answer => answer.map(Some),
        }
    }

    async fn say_so_far(
        &self,
        tenant: &TenantState,
        stored: &Stored,
        doubt: Option<Doubt>,
    ) -> Result<Answer, Error> {
        if stored.reply.is_some() {
            return self.last_said(stored);
        }
        let row = IntentRow::of(stored)?;
        if stored.state == State::Challenged {
            return self.say_challenged(stored.id, &row, true).ok_or_else(|| internal("nothing is asked"));
        }
        if matches!(stored.state, State::Reserved | State::ReleaseFailed) {
            return self.say_reserved(stored.id, &row, true);
        }
        let told = self.told(stored).await?;
        let mut pending = Pending::restore(stored, told)?;
        if pending.told.is_some() {
            if stored.state == State::Sent {
                self.note_doubt(tenant, &pending).await?;
            }
            return Ok(self.say_sent(stored.id, &row));
        }
        let state = if stored.state.rests() { stored.state } else { State::InDoubt };
        pending.doubt = doubt.filter(|_| state == State::InDoubt);
        self.say_unsettled(tenant, &mut pending, state).await
    }

    pub(crate) fn over(&self, stored: &Stored) -> Result<Pursued, Error> {
        self.last_said(stored).map(Pursued::Over)
    }

    pub(crate) fn last_said(&self, stored: &Stored) -> Result<Answer, Error> {
        let reply = stored.reply.clone().ok_or_else(|| internal("an action ended without a word"))?;
        let reply = crate::Reply { status: reply.status, body: reply.body };
        Ok(Answer { reply, replayed: false, action_id: Some(stored.id), cycle: None, foreseen: None })
    }

    /// What the caller was told first.
    pub(crate) async fn told(&self, stored: &Stored) -> Result<Option<Told>, Error> {
        if stored.state == State::Sent && stored.token == FIRST_TOKEN {
            return Ok(None);
        }
        let outcomes = self.outcomes_of(stored).await?;
        Ok(outcomes
            .into_iter()
            .find_map(|outcome| Some(Told { at_ms: outcome.at_ms, receipt: reference(outcome.receipt?) })))
    }

    /// Everything that was said of an action, oldest first, to go on with it.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if it was altered in the store.
    pub(crate) async fn outcomes_of(&self, stored: &Stored) -> Result<Vec<Settled>, Error> {
        let outcomes = self.stored_outcomes(stored).await?;
        let erased =
            || stored.payload.is_empty() && outcomes.iter().all(|outcome| outcome.payload.is_empty());
        if erased() {
            return Ok(outcomes);
        }
        if outcomes.iter().all(|outcome| outcome.whole) {
            return Ok(outcomes);
        }
        // It may have been erased since it was read.
        let now = self.ledger.action(&stored.tenant, stored.id).await.map_err(unavailable)?;
        now.map_or(Ok(()), |now| IntentRow::of(&now).map(drop))?;
        Err(altered(stored.id, &stored.tenant))
    }

    /// Everything that people said about it while it was held, oldest first, to go on with it.
    ///
    /// # Errors
    /// As [`Gateway::outcomes_of`].
    pub(crate) async fn given_of(&self, stored: &Stored) -> Result<Vec<Given>, Error> {
        let given = self.ledger.approvals(&stored.tenant, stored.id).await.map_err(unavailable)?;
        match given.iter().all(|given| given.whole) {
            true => Ok(given),
            false => Err(altered(stored.id, &stored.tenant)),
        }
    }

    /// Everything that was said of it to show it, as it is stored.
    pub(crate) async fn stored_outcomes(&self, stored: &Stored) -> Result<Vec<Settled>, Error> {
        self.ledger.outcomes(&stored.tenant, stored.id).await.map_err(unavailable)
    }

    /// In a moment, in Unix milliseconds.
    pub(crate) fn soon_ms(&self) -> i64 {
        clock::now_ms().saturating_add(i64::try_from(self.interval().as_millis()).unwrap_or(i64::MAX / 2))
    }

    /// For lanes and tasks that know the tenant only by name.
    pub(crate) async fn pursue_of(
        self: &Arc<Self>,
        tenant: &Tenant,
        id: ActionId,
        under_way: UnderWay,
    ) -> Result<Pursued, Error> {
        let tenant = Arc::clone(self.tenant(tenant)?);
        self.pursue(&tenant, id, under_way, None).await
    }
}

/// Is what stood so before still to be gone on with?
fn still_stands(stood: Stood, now: State) -> bool {
    match stood {
        Stood::Waiting { .. } => now == State::Waiting,
        _ => matches!(now, State::Sent | State::InDoubt),
    }
}

/// Until when nobody goes on with it: the next attempt is not due, or whoever undoes it has that in flight. A payer, and what
/// is set aside, may be asked after before their time.
fn rests_until(stored: &Stored) -> Option<i64> {
    let rests = matches!(stored.state, State::Waiting | State::RollingBack | State::Retracting);
    stored.due_ms.filter(|_| rests)
}

/// The token of whoever admitted an action.
const FIRST_TOKEN: u32 = 1;

pub(crate) fn not_offered() -> Stop {
    Stop { code: Code::BoundaryBlock.as_str(), reasons: vec!["no_longer_offered".to_owned()] }
}
