//! Act: one action on its way, from the moment its intent is durable until something about it can be said.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use action::ActionId;
use boundary::Permit;
use execution::{
    Call, Came, Confirmation, Doubt, Effect, Event, Execution, Now, Purpose, Reply, State, Stood, Withheld,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ledger::{By, Stored};
use provider::Provider;
use provider::runner::Runner;
use tokio::sync::oneshot;

use crate::alert::Alert;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::late::{Beside, undone_at_once};
use crate::metrics::Step;
use crate::pending::{Pending, Told};
use crate::prove::Ending;
use crate::pursue::Pursued;
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::sessions::CycleSaid;
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::{Answer, Code, Error, Wait, clock};

/// A permitted action and all that is needed to carry it out.
pub(crate) struct Errand {
    /// Marks the action as looked after, since before it is admitted.
    pub under_way: UnderWay,
    pub tenant: Arc<TenantState>,
    pub pending: Box<Pending>,
    /// Marked sent; the call may leave.
    pub execution: Execution,
    pub provider: Arc<dyn Provider>,
    /// When commit 1 was acknowledged.
    pub admitted: Instant,
    pub patience: Patience,
    /// What is confirmed already, so that nothing is sent: the price, for an action that only asked for it, or what was done
    /// before the store forgot it.
    pub known: Option<Confirmation>,
}

/// How long the caller waits.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// Until when the caller wants to know, if it says so: nothing is sent any more then.
    pub deadline: Option<Instant>,
    /// Until when it is kept waiting for another attempt.
    pub until: Instant,
}

/// Who hears the first thing there is to say, if anybody does.
pub(crate) struct Said {
    to: Option<oneshot::Sender<Result<Answer, Error>>>,
    /// Why the last reply did not tell what became of the call, if so.
    doubt: Option<Doubt>,
    /// How long they wait.
    wait: Wait,
}

/// Admission is the check of a send that starts within this time; later ones are not made.
pub(crate) const SEND_WINDOW: Duration = Duration::from_secs(2);

/// How often it is tried to have an answer count beside others who go on with the action, and how long it rests in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// So long an action stays in memory while its provider works. Most are done by then; for the others reading it back
/// from the ledger is little beside the wait.
const A_MOMENT: Duration = Duration::from_millis(100);

/// How long an answer is kept that the store says nothing to, and how long it rests between two looks. After that recovery finds its
/// action as sent.
const KEPT: Duration = Duration::from_secs(60);
const BETWEEN_RECALLS: Duration = Duration::from_secs(1);

/// What a step came to, once it is written down.
pub(crate) enum Followed {
    /// The last word.
    Said(Answer),
    /// It waits, is in doubt or is not checked yet, and is to be looked after then; Unix milliseconds.
    Rests(i64),
}

impl Gateway {
    /// Carries an errand out: says the first thing there is to say, and goes on as long as somebody waits to hear it. What
    /// comes later is seen to by the timer.
    ///
    /// Ten thousand of these may wait for slow providers. So what is given stays in its box, what telling needs is in
    /// another, made when it is needed, and who waits for longer than a moment keeps nothing that the ledger has.
    pub(crate) async fn carry_out(self: &Arc<Self>, errand: Box<Errand>, mut said: Said) {
        let mut next = Some(errand);
        while let Some(errand) = next.take() {
            let (id, mut patience) = (errand.pending.id, errand.patience);
            if errand.execution.retry().is_none() && !errand.provider.checks() {
                // What is neither tried again nor looked after is only asked after: nobody is kept waiting for that.
                patience = Patience { deadline: None, until: Instant::now() };
            }
            let (tenant, under_way) = (Arc::clone(&errand.tenant), errand.under_way.clone());
            let by = errand.pending.by;
            match self.attempt(errand, &mut said).await {
                Ok(Followed::Said(answer)) => {
                    // Whoever hears it may want more to be done at once.
                    drop(under_way);
                    said.say(Ok(answer));
                }
                Ok(Followed::Rests(until_ms)) => {
                    let rests = self.rest(&tenant, (id, under_way, by), until_ms, patience, &mut said);
                    next = Box::pin(rests).await;
                }
                // Recovery will find it as sent.
                Err(error) => said.say(Err(error)),
            }
        }
    }

    /// One call, and what came of it.
    async fn attempt(self: &Arc<Self>, errand: Box<Errand>, said: &mut Said) -> Result<Followed, Error> {
        let Errand { under_way, tenant, pending, execution, provider, admitted, patience, known } = *errand;
        let id = pending.id;
        let patience_ms = i64::try_from(provider.patience().as_millis()).unwrap_or(i64::MAX / 2);
        let leave_by_ms = execution.call().send_by_ms.saturating_sub(patience_ms);
        let late = too_late(&execution, admitted, patience.deadline, leave_by_ms);
        // What is confirmed already needs no time to leave.
        if let Some(why) = late.filter(|_| known.is_none()) {
            let _place = said.wait.turn(&self.concluding).await;
            let (execution, effects) = self.step(execution, Event::Withheld(why))?;
            return Box::pin(self.follow(&tenant, &pending, &execution, &effects)).await;
        }
        self.at(Point::SendBefore)?;
        let started = Instant::now();
        let call = Arc::clone(execution.call());
        let sends = execution.course().sends;
        let name = provider.name();
        let mut reply = match known {
            Some(confirmation) => std::future::ready(Reply::Confirmed(confirmation)).boxed(),
            None => {
                let reply = match provider.runner() {
                    Some(runner) => taken_in_time(runner, &call, admitted + SEND_WINDOW).boxed(),
                    None => provider.call(&call, clock::now_ms()),
                };
                reply.inspect(move |reply| log_unanswered(id, name, reply)).boxed()
            }
        };
        let by = pending.by;
        let mut kept = Some(pending);
        let first = {
            let _acts = said.wait.acts();
            let mut first = pin!(first(&mut reply, patience.deadline));
            match tokio::time::timeout(A_MOMENT, &mut first).await {
                Ok(first) => first,
                Err(_) => {
                    kept = None;
                    self.at(Point::SendAfter)?;
                    first.await
                }
            }
        };
        // What no runner has taken when the caller gives up is not handed out any more.
        let mut first = match first {
            None if provider.runner().is_some_and(|runner| runner.withdraw(&call)) => {
                Some((&mut reply).await)
            }
            first => first,
        };
        self.metrics.step(Step::Act, started.elapsed());
        self.at(Point::AnswerAfter)?;
        if matches!(call.purpose, Purpose::Capture { .. }) {
            self.at(Point::CaptureAnswerAfter)?;
        }
        // As with judging: what is proven and not yet written is large.
        let mut place = said.wait.turn(&self.concluding).await;
        let mut pending = match kept {
            Some(pending) => Some(pending),
            None => match self.recall(&tenant, (id, by), &call).await {
                // Nobody else has the answer, or will: it is kept until the store says something.
                Err(error) if error.code == Code::Unavailable => {
                    said.say(Err(error));
                    drop(place);
                    if first.is_none() {
                        first = Some((&mut reply).await);
                    }
                    let recalled = self.recall_again(&tenant, (id, by), &call).await?;
                    place = said.wait.turn(&self.concluding).await;
                    recalled
                }
                recalled => recalled?,
            },
        };
        let reply = match first {
            Some(reply) => reply,
            None => {
                // The caller goes on; the answer still counts.
                said.say(match &mut pending {
                    Some(pending) => {
                        match Box::pin(self.say_overdue(&tenant, pending)).await {
                            // Somebody else has said something of it just now.
                            Err(error) if error.code == Code::StateConflict => {
                                self.said_by_others(&tenant, id).await
                            }
                            answer => answer,
                        }
                    }
                    None => self.said_by_others(&tenant, id).await,
                });
                drop(place);
                let reply = reply.await;
                place = said.wait.turn(&self.concluding).await;
                reply
            }
        };
        // An effect of an earlier call, or the first word on this one, may have been written down meanwhile; then it is to be
        // looked at again.
        let reply = self.reply_of(&call, reply);
        said.doubt = reply.doubt();
        let Some(pending) = pending else {
            drop(place);
            return Box::pin(self.heard_after_others(&tenant, (id, (&call, sends)), reply, under_way)).await;
        };
        let (execution, effects) = self.move_on(execution, Event::Replied(reply.clone()))?;
        let followed = Box::pin(self.follow(&tenant, &pending, &execution, &effects)).await;
        drop(place);
        match followed {
            Err(error) if error.code == Code::StateConflict => {
                Box::pin(self.heard_after_others(&tenant, (id, (&call, sends)), reply, under_way)).await
            }
            followed => followed,
        }
    }

    /// Has an answer count as far as it does after somebody else went on with the action. Whoever is going on with it just now is
    /// waited for: nobody else has the answer.
    async fn heard_after_others(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        (id, sent): (ActionId, (&Call, u32)),
        said: Reply,
        under_way: UnderWay,
    ) -> Result<Followed, Error> {
        for _ in 1..TRIES {
            match self.overtaken(tenant, (id, sent), said.clone(), under_way.clone()).await {
                Err(error) if error.code == Code::StateConflict => tokio::time::sleep(PAUSE).await,
                followed => return followed.map(|it| it.unwrap_or_else(|| Followed::Rests(clock::now_ms()))),
            }
        }
        let followed = self.overtaken(tenant, (id, sent), said, under_way).await?;
        Ok(followed.unwrap_or_else(|| Followed::Rests(clock::now_ms())))
    }

    /// Waits for the next attempt, or for the turn to ask, as long as somebody waits to hear of it.
    async fn rest(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        (id, under_way, by): (ActionId, UnderWay, By),
        mut until_ms: i64,
        patience: Patience,
        said: &mut Said,
    ) -> Option<Box<Errand>> {
        let until = patience.deadline.unwrap_or(patience.until);
        loop {
            let wake = instant_of(until_ms);
            if !said.is_awaited() || wake > until {
                break;
            }
            let acts = said.wait.acts();
            tokio::time::sleep_until(wake.into()).await;
            // To go on with it is the store's time again: no tool can be asked what became of a call.
            drop(acts);
            match Box::pin(self.pursue(tenant, id, under_way.clone(), Some(by))).await {
                Ok(Pursued::Go(errand)) => return Some(Box::new(Errand { patience, ..*errand })),
                Ok(Pursued::Over(answer)) => {
                    drop(under_way);
                    said.say(Ok(answer));
                    return None;
                }
                Ok(Pursued::Rests(later_ms)) => until_ms = later_ms.max(self.soon_ms()),
                Err(error) => {
                    tracing::warn!(action = %id, %error, "an action could not be gone on with");
                    until_ms = self.soon_ms();
                }
            }
        }
        match Box::pin(self.leave(tenant, (id, by), said.is_awaited(), said.doubt)).await {
            Ok(Some(answer)) => said.say(Ok(answer)),
            Ok(None) => {}
            Err(error) => said.say(Err(error)),
        }
        if let Err(error) = Box::pin(self.let_go(tenant, (id, by))).await {
            tracing::debug!(action = %id, %error, "the lease of a call that is over runs out by itself");
        }
        None
    }

    /// Ends the lease of a call that came back without an answer after its caller was told that it is in doubt: who asks after the
    /// action at another gateway, or has a word on it there, need not wait until that runs out. Nobody is told anything, since
    /// nothing new is known. Whoever has taken the action in hand meanwhile keeps it, and so does a runner that is at it.
    async fn let_go(&self, tenant: &TenantState, (id, by): (ActionId, By)) -> Result<(), Error> {
        let stored = self.stored(tenant, id).await?;
        let is_own = stored.in_hand && by == By::Holder(stored.token);
        if !is_own || stored.state != ledger::State::InDoubt {
            return Ok(());
        }
        let pending = Pending::restore(&stored, None)?;
        // Where it is bound to nothing any more, whether a runner is at it is not known here.
        let (provider, call) = self.bound(&pending, &tenant.rules(), Stood::InDoubt)?;
        if provider.runner().is_some_and(|runner| runner.is_at(&call)) {
            return Ok(());
        }
        self.ledger.let_go(id, stored.token).await.map_err(unavailable).map(drop)
    }

    /// Reads back what admission wrote, if it still is as it was: nothing, if somebody else has taken the action in hand or had the
    /// last word on this call meanwhile.
    async fn recall(
        &self,
        tenant: &TenantState,
        (id, by): (ActionId, By),
        call: &Call,
    ) -> Result<Option<Box<Pending>>, Error> {
        let stored = self.stored(tenant, id).await?;
        if by != By::Holder(stored.token) || stored.state.is_amended() {
            return Ok(None);
        }
        let told = self.told(&stored).await?;
        let pending = Pending::restore(&stored, told).map(Box::new)?;
        let is_same = pending.row.call.as_ref().is_some_and(|it| it.reference == call.reference);
        Ok(is_same.then_some(pending))
    }

    /// The same while the store says nothing, for as long as that is worth waiting for.
    async fn recall_again(
        &self,
        tenant: &TenantState,
        of: (ActionId, By),
        call: &Call,
    ) -> Result<Option<Box<Pending>>, Error> {
        let began = Instant::now();
        loop {
            tokio::time::sleep(BETWEEN_RECALLS).await;
            match self.recall(tenant, of, call).await {
                Err(error) if error.code == Code::Unavailable && began.elapsed() < KEPT => {}
                recalled => return recalled,
            }
        }
    }

    /// What there is to say of an action that is in other hands by now.
    pub(crate) async fn said_by_others(&self, tenant: &TenantState, id: ActionId) -> Result<Answer, Error> {
        let stored = self.stored(tenant, id).await?;
        match stored.reply {
            Some(_) => self.last_said(&stored),
            None => self.say_as_it_stands(&stored, &IntentRow::of(&stored)?),
        }
    }

    /// Of what is open, and was not told of: where it stands.
    pub(crate) fn say_as_it_stands(&self, stored: &Stored, row: &IntentRow) -> Result<Answer, Error> {
        use ledger::State;
        Ok(match stored.state {
            State::Reserved | State::ReleaseFailed => self.said_of_reserved(stored)?,
            State::Challenged => {
                self.say_challenged(stored.id, row, false).unwrap_or_else(|| self.say_sent(stored.id, row))
            }
            _ => self.say_sent(stored.id, row),
        })
    }

    /// One transition, by what an event is worth; an illegal one is logged and changes nothing.
    pub(crate) fn step(&self, execution: Execution, event: Event) -> Result<(Execution, Vec<Effect>), Error> {
        let event = self.worth(&execution, event);
        self.move_on(execution, event)
    }

    /// The same, where it is known what it is worth.
    fn move_on(&self, execution: Execution, event: Event) -> Result<(Execution, Vec<Effect>), Error> {
        let chance = chance_of(execution.call());
        self.transition(execution, event, Now { ms: clock::now_ms(), chance }).map_err(|illegal| {
            tracing::error!(%illegal, "an execution was asked the impossible");
            internal("an action does not stand where it should")
        })
    }

    /// Writes down what a step led to. What is said when it is still open is for whoever waits.
    pub(crate) async fn follow(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        execution: &Execution,
        effects: &[Effect],
    ) -> Result<Followed, Error> {
        let contradicts = is_late(effects) && pending.told.is_some();
        let late = contradicts.then(|| Pending { late: true, ..pending.clone() });
        let pending = late.as_ref().unwrap_or(pending);
        let ending = match execution.state() {
            State::Completed(confirmation) => self.confirmed(pending, confirmation)?,
            State::Failed(absence) => match self.done_by_forgotten(tenant, pending, absence).await? {
                Some(due_ms) => return Ok(Followed::Rests(due_ms)),
                None => self.absent(pending, absence)?,
            },
            State::Reserved { it, came } => match (came, self.earlier_effects(pending).await?) {
                // What was set aside was used up by a capture before: nothing is left of it to charge or to set free.
                (Came::Uncharged(absence), Some(known)) if known.used_up(&pending.row) => {
                    self.absent(pending, absence)?
                }
                (_, known) => {
                    let said = self.set_aside(tenant, pending, (*it, came), effects, known.is_some()).await?;
                    return Ok(Followed::Said(said));
                }
            },
            // No other attempt follows on an effect.
            State::Waiting { after, .. } if self.earlier_effects(pending).await?.is_some() => {
                self.absent(pending, after)?
            }
            State::Waiting { due_ms, after } => {
                self.defer(tenant, pending, *due_ms, after).await?;
                return Ok(Followed::Rests(*due_ms));
            }
            State::Checking { confirmation, asks } => {
                let until_ms = waits_until(effects).unwrap_or_else(clock::now_ms);
                self.have_checked(tenant, pending, (confirmation, *asks), until_ms).await?;
                if is_late(effects) {
                    let told = pending.told.as_ref().map(|told| told.receipt.receipt_id.as_str());
                    self.alert(Alert::LateEffect, pending, told.unwrap_or_default());
                }
                return Ok(Followed::Rests(until_ms));
            }
            State::Unchecked(_) => {
                return self.say_unchecked(tenant, pending).await.map(Followed::Said);
            }
            State::InDoubt => {
                let until_ms = waits_until(effects).unwrap_or_else(clock::now_ms);
                self.wake_at(pending.id, until_ms);
                return Ok(Followed::Rests(until_ms));
            }
            State::Challenged { .. } => {
                let presented = effects.iter().find_map(|effect| match effect {
                    Effect::Present(challenge) => Some(challenge),
                    _ => None,
                });
                let challenge = presented.ok_or_else(|| internal("nobody is asked to confirm it"))?;
                return self.present(tenant, pending, challenge).await.map(Followed::Said);
            }
            State::Intended
            | State::Sent(_)
            | State::Releasing(_)
            | State::Freeing(_)
            | State::ReleaseFailed(_)
            | State::RollingBack
            | State::Undoing
            | State::RolledBack(_)
            | State::RollbackFailed => return Err(internal("an action stopped half way")),
        };
        let (answer, told) = self.conclude_with_receipt(tenant, pending, ending).await?;
        if is_late(effects) {
            let receipt = told.map(|told| told.receipt.receipt_id).unwrap_or_default();
            self.alert(Alert::LateEffect, pending, &receipt);
        }
        Ok(Followed::Said(answer))
    }

    /// The first answer to an action that is still open.
    pub(crate) async fn say_unsettled(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        state: ledger::State,
    ) -> Result<Answer, Error> {
        let ending = self.unsettled(pending, state)?;
        let (answer, told) = self.conclude_with_receipt(tenant, pending, ending).await?;
        pending.told = told;
        Ok(answer)
    }

    /// The same where its caller waits no longer and its call is still on its way: who has sent it keeps it in hand.
    async fn say_overdue(&self, tenant: &TenantState, pending: &mut Pending) -> Result<Answer, Error> {
        let by = pending.by;
        pending.by = By::Caller(by.token());
        let said = self.say_unsettled(tenant, pending, ledger::State::InDoubt).await;
        pending.by = by;
        said
    }

    /// Proves and settles one ending.
    pub(crate) async fn conclude(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        ending: Result<Ending<'_>, Error>,
    ) -> Result<Answer, Error> {
        self.conclude_with_receipt(tenant, pending, ending?).await.map(|(answer, _)| answer)
    }

    pub(crate) async fn conclude_with_receipt(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        ending: Ending<'_>,
    ) -> Result<(Answer, Option<Told>), Error> {
        match self.earlier_effects(pending).await? {
            None => self.conclude_beside(tenant, pending, ending, Beside::default()).await,
            Some(known) => {
                let (pending, ending, beside) = self.beside(pending, ending, &known)?;
                Box::pin(self.conclude_beside(tenant, &pending, ending, beside)).await
            }
        }
    }

    /// The same, beside what earlier calls are known to have done.
    pub(crate) async fn conclude_beside(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        ending: Ending<'_>,
        beside: Beside,
    ) -> Result<(Answer, Option<Told>), Error> {
        let started = Instant::now();
        let ending = undone_at_once(pending, ending, beside);
        let proven = self.prove(pending, ending, &pending.row.correlation_id)?;
        let overage = match beside.alone {
            // It was told of when the earlier effect was.
            true => None,
            false => self.overage(pending, &proven.cost(beside.minor), false)?,
        };
        self.metrics.step(Step::Prove, started.elapsed());
        let started = Instant::now();
        let at_ms = proven.at_ms;
        let told = proven.outcome.receipt.clone().map(|receipt| Told { receipt, at_ms });
        let state = proven.state;
        let reply = self.settle(tenant, pending, proven, overage, beside).await?;
        if state == ledger::State::RollingBack {
            self.ask_soon(pending.id);
        }
        self.metrics.step(Step::Settle, started.elapsed());
        let cycle = CycleSaid::of(state, &pending.row);
        Ok((Answer { reply, replayed: false, action_id: Some(pending.id), cycle, foreseen: None }, told))
    }

    /// Marks an action as one that a task of this process looks after, until the mark and its copies are dropped.
    pub(crate) fn under_way(self: &Arc<Self>, id: ActionId) -> UnderWay {
        lock(&self.under_way).insert(id);
        self.mark(id)
    }

    /// The same, unless another task looks after it already.
    pub(crate) fn look_after_alone(self: &Arc<Self>, id: ActionId) -> Option<UnderWay> {
        lock(&self.under_way).insert(id).then(|| self.mark(id))
    }

    /// The same, and the action as it stands once it is marked: before, whoever had it in hand may have gone on with it. A
    /// conflict while another task looks after it.
    pub(crate) async fn take_in_hand(
        self: &Arc<Self>,
        tenant: &TenantState,
        id: ActionId,
    ) -> Result<(UnderWay, Stored, Pending), Error> {
        let under_way = self.look_after_alone(id).ok_or_else(busy)?;
        let stored = self.stored(tenant, id).await?;
        let pending = Pending::restore(&stored, self.told(&stored).await?)?;
        Ok((under_way, stored, pending))
    }

    fn mark(self: &Arc<Self>, id: ActionId) -> UnderWay {
        self.metrics.in_flight.inc();
        UnderWay { _mark: Arc::new(Mark { gateway: Arc::clone(self), id }) }
    }
}

impl Said {
    pub(crate) fn to(sender: oneshot::Sender<Result<Answer, Error>>) -> Said {
        Said::to_waiting(sender, Wait::default())
    }

    /// The same to somebody who waits only so long.
    pub(crate) fn to_waiting(sender: oneshot::Sender<Result<Answer, Error>>, wait: Wait) -> Said {
        Said { to: Some(sender), doubt: None, wait }
    }

    /// Nobody waits: what there is to say is stored, and found under the action's key.
    pub(crate) fn nobody() -> Said {
        Said { to: None, doubt: None, wait: Wait::default() }
    }

    /// Only the first thing is said.
    pub(crate) fn say(&mut self, what: Result<Answer, Error>) {
        if let Some(sender) = self.to.take() {
            let _ = sender.send(what);
        }
    }

    fn is_awaited(&self) -> bool {
        self.to.as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

/// What became of a call that a runner has to take for it to leave: as with any other, admission is its check only so long.
async fn taken_in_time(runner: &Runner, call: &Call, until: Instant) -> Reply {
    let mut reply = runner.call(call, clock::now_ms());
    if let Some(reply) = first(&mut reply, Some(until)).await {
        return reply;
    }
    runner.withdraw(call);
    reply.await
}

/// What comes first: the reply, or, as nothing, the end of the caller's patience.
async fn first(reply: &mut BoxFuture<'_, Reply>, deadline: Option<Instant>) -> Option<Reply> {
    let overdue = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        reply = reply => Some(reply),
        () = overdue => None,
    }
}

/// Until when it is to wait, if it is.
pub(crate) fn waits_until(effects: &[Effect]) -> Option<i64> {
    effects.iter().find_map(|effect| match effect {
        Effect::Wait { until_ms } => Some(*until_ms),
        _ => None,
    })
}

fn is_late(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::LateEffect))
}

/// Drawn once for a call, with its provider key: who looks again, if only after a restart, does not draw again.
fn chance_of(call: &Call) -> u64 {
    let mut drawn = [0; 8];
    match hex::decode_to_slice(call.provider_key.get(..16).unwrap_or_default(), &mut drawn) {
        Ok(()) => u64::from_be_bytes(drawn),
        Err(_) => 0,
    }
}

fn instant_of(ms: i64) -> Instant {
    Instant::now() + Duration::from_millis(u64::try_from(ms.saturating_sub(clock::now_ms())).unwrap_or(0))
}

/// See [`Gateway::under_way`].
#[derive(Clone)]
pub(crate) struct UnderWay {
    _mark: Arc<Mark>,
}

struct Mark {
    gateway: Arc<Gateway>,
    id: ActionId,
}

impl Drop for Mark {
    fn drop(&mut self) {
        lock(&self.gateway.under_way).remove(&self.id);
        self.gateway.metrics.in_flight.dec();
    }
}

/// For the operator: which provider gave no answer, and why in words of our own.
fn log_unanswered(action: ActionId, provider: &str, reply: &Reply) {
    match reply {
        Reply::NotSent { why } => tracing::warn!(%action, provider, %why, "nothing was sent"),
        Reply::Lost { how, why } => {
            let how = how.as_str();
            tracing::warn!(%action, provider, how, %why, "it was sent and not answered");
        }
        Reply::Challenged(_) => tracing::info!(%action, provider, "the payer has to confirm it first"),
        Reply::Confirmed(_) | Reply::Refused(_) => {}
    }
}

/// Why a call must not leave any more, if so.
fn too_late(
    execution: &Execution,
    admitted: Instant,
    deadline: Option<Instant>,
    leave_by_ms: i64,
) -> Option<Withheld> {
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Some(Withheld::Deadline);
    }
    // What leaves later than its row says could still arrive when its absence is taken to be final.
    let now_ms = clock::now_ms();
    let permitted = matches!(execution.state(), State::Sent(permit) if Permit::is_valid_at(permit, now_ms));
    let late = admitted.elapsed() > SEND_WINDOW || now_ms > leave_by_ms || !permitted;
    late.then_some(Withheld::Window)
}

pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use execution::Found;
    use serde_json::json;

    use super::*;
    use crate::atp::Words;
    use crate::outcome::{Outcome, Reply};
    use crate::request::{Ask, Next};
    use crate::{Config, Installation};

    fn render(outcome: &Outcome, _: &str) -> Reply {
        let said = json!({ "kind": outcome.kind.as_str(), "reasons": outcome.details.reasons });
        Reply { status: 200, body: said.to_string().into_bytes() }
    }

    /// A provider that takes longer.
    #[derive(Debug)]
    struct Slower(Arc<dyn Provider>, Duration);

    impl Provider for Slower {
        fn profile(&self) -> &provider::Profile {
            self.0.profile()
        }

        fn patience(&self) -> Duration {
            self.1
        }

        fn call<'a>(&'a self, call: &'a execution::Call, now_ms: i64) -> BoxFuture<'a, execution::Reply> {
            self.0.call(call, now_ms)
        }

        fn query<'a>(&'a self, call: &'a execution::Call, now_ms: i64) -> BoxFuture<'a, Found> {
            self.0.query(call, now_ms)
        }

        fn reserves(&self) -> Option<provider::Reserves> {
            self.0.reserves()
        }

        fn rollback(&self) -> Option<provider::Rollback> {
            self.0.rollback()
        }

        fn snapshot<'a>(
            &'a self,
            ask: provider::Ask<'a>,
        ) -> BoxFuture<'a, Result<Option<serde_json::Value>, provider::Unquoted>> {
            self.0.snapshot(ask)
        }

        fn undo<'a>(
            &'a self,
            call: &'a execution::Call,
            done: provider::Done<'a>,
            now_ms: i64,
        ) -> BoxFuture<'a, execution::Reply> {
            self.0.undo(call, done, now_ms)
        }

        fn quote<'a>(
            &'a self,
            ask: provider::Ask<'a>,
        ) -> BoxFuture<'a, Result<action::Money, provider::Unquoted>> {
            self.0.quote(ask)
        }
    }

    /// A payment in the sandbox, admitted and not yet sent.
    async fn admitted(gateway: &Arc<Gateway>, recipient: &str) -> Box<Errand> {
        let constraints = json!({ "recipient": recipient, "amount_usd": "5.00", "max_total_usd": "9.00" });
        let body = json!({ "archetype": "PAYMENT_TRANSFER", "constraints": constraints });
        let ask = Ask {
            idempotency_key: None,
            request_id: "req-1".to_owned(),
            dry_run: false,
            wait: crate::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        match gateway
            .decide_on(Gateway::anonymous(), (ask, Words::Execution), Instant::now(), None)
            .await
            .unwrap()
        {
            Next::Admitted(errand) => errand,
            Next::Said(answer) => panic!("{}", String::from_utf8_lossy(&answer.reply.body)),
            Next::NotNow(stop) => panic!("{stop:?}"),
        }
    }

    #[tokio::test]
    async fn what_would_leave_later_than_its_row_says_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data_dir: folder.path().join("data"), ..Config::default() };
        let installation = Installation::open(config, render).await.unwrap();
        let gateway = installation.sandbox.as_ref().unwrap();
        for (late_ms, kind, reasons) in
            [(0, "executed", json!([])), (1, "failed", json!(["send_window_missed"]))]
        {
            let mut errand = admitted(gateway, kind).await;
            let provider = Arc::clone(&errand.provider);
            // As if admission had taken so long that the provider's time would end after `send_by_ms`.
            if late_ms > 0 {
                let patience = provider.patience() + SEND_WINDOW + Duration::from_millis(late_ms);
                errand.provider = Arc::new(Slower(Arc::clone(&provider), patience));
            }
            let call = Arc::clone(errand.execution.call());
            let (said, hears) = oneshot::channel();
            gateway.carry_out(errand, Said::to(said)).await;
            let answer: serde_json::Value =
                serde_json::from_slice(&hears.await.unwrap().unwrap().reply.body).unwrap();
            assert_eq!((&answer["kind"], &answer["reasons"]), (&kind.into(), &reasons));
            let found = provider.query(&call, clock::now_ms()).await;
            assert_eq!(matches!(found, Found::Confirmed(_)), late_ms == 0, "{found:?}");
        }
    }
}
