//! Steer: what somebody may do about an action of theirs that is not under way: have it tried again, or call it off.

use std::sync::Arc;

use action::ActionId;
use execution::{Absence, Stood, Stop};
use ledger::{State, Stored};
use tokio::sync::oneshot;

use crate::act::{Said, UnderWay};
use crate::caller::{Caller, Deed};
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::outcome::Kind;
use crate::pending::Pending;
use crate::prove::Ending;
use crate::request::Next;
use crate::resolve::words;
use crate::row::internal;
use crate::tenants::{Rules, TenantState};
use crate::views::ActionView;
use crate::{Answer, Code, Error, clock};

impl Gateway {
    /// Has an action that failed tried once more: another attempt of the same action, judged anew, with all its claims and
    /// debits made anew. Answers once there is something to say of it.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` unless it failed after it was sent, and, naming the code of the refusal, if its deadline is over or
    /// it is judged otherwise now, which changes nothing; `EP_UNAVAILABLE` if the provider does not say what became of the
    /// attempt before, or of what was to charge what that had set aside.
    pub async fn retry(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<ActionView, Error> {
        caller.must(Deed::Steer)?;
        let stored = self.visible(caller, id).await?;
        let Some(under_way) = self.look_after_alone(stored.id) else { return Err(busy()) };
        let (said, hears) = oneshot::channel();
        let (gateway, tenant) = (Arc::clone(self), Arc::clone(self.tenant(&stored.tenant)?));
        let (by, id_there) = (caller.subject.to_string(), stored.id);
        // In a task of its own: who hangs up has asked for it all the same.
        tokio::spawn(async move {
            match Box::pin(gateway.once_more(&tenant, id_there, &by, under_way)).await {
                Ok(Next::Admitted(errand)) => gateway.carry_out(errand, Said::to(said)).await,
                Ok(Next::Said(answer)) => Said::to(said).say(Ok(answer)),
                Ok(Next::NotNow(stop)) => Said::to(said).say(Err(refusal(&stop))),
                Err(error) => Said::to(said).say(Err(error)),
            }
        });
        hears.await.unwrap_or_else(|_| Err(internal("an attempt ended without a word")))?;
        self.action(caller, id).await
    }

    async fn once_more(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        id: ActionId,
        by: &str,
        under_way: UnderWay,
    ) -> Result<Next, Error> {
        // Read once it is marked: before, whoever had it in hand may have gone on with it.
        let stored = self.stored(tenant, id).await?;
        let told = self.told(&stored).await?;
        let mut pending = Pending::restore(&stored, told)?;
        if stored.state != State::Failed || pending.row.call.is_none() {
            let why = "only an action that was sent and failed can be tried again";
            return Err(Error::new(Code::StateConflict, why));
        }
        if pending.row.reservation.as_ref().is_some_and(|it| it.is_left(clock::now_ms())) {
            let why = "what is set aside for the action is neither free nor over";
            return Err(Error::new(Code::StateConflict, why));
        }
        self.at(Point::AgainBefore)?;
        let rules = tenant.rules();
        self.must_not_be_forgotten(&stored, &pending, &rules).await?;
        if let Some(answer) =
            self.ask_once_more(tenant, &pending, &rules, Stood::Failed, under_way.clone()).await?
        {
            return Ok(Next::Said(answer));
        }
        if self.earlier_tells(tenant, &pending, &under_way).await? {
            return self.last_said(&self.stored(tenant, id).await?).map(Next::Said);
        }
        pending.in_time(clock::now_ms())?;
        pending.row.steered(by);
        let next = self.judge_once_more(tenant, &rules, &stored, &pending, under_way).await?;
        if matches!(next, Next::Admitted(_)) {
            self.at(Point::AgainAfter)?;
        }
        Ok(next)
    }

    /// Keeps (forgotten), unless a person said that it had no effect, and knew of all that is forgotten.
    async fn must_not_be_forgotten(
        &self,
        stored: &Stored,
        pending: &Pending,
        rules: &Rules,
    ) -> Result<(), Error> {
        let forgot_by_ms = self.forgot_by_ms(&stored.tenant);
        let words = words(&self.outcomes_of(stored).await?, &pending.row)?;
        if words.iter().any(|word| Some(word.at_ms) > forgot_by_ms) {
            return Ok(());
        }
        let Ok(call) = pending.call(self.environment, rules) else { return Ok(()) };
        if self.may_be_forgotten(&call).is_none() {
            let provider = rules.providers.get(&*stored.archetype);
            let tenant = self.tenant(&stored.tenant)?;
            let asked = provider.map_or(Ok(()), |it| self.must_be_askable(tenant, pending, it.as_ref()));
            return asked.map_err(|error| error.hint(IN_THE_BOOKS));
        }
        let why = "the store was recovered shortly before: the provider may have done this for an action that was lost, and \
                   would do it once more";
        Err(Error::new(Code::StateConflict, why).hint(IN_THE_BOOKS))
    }

    /// Calls an action off that is not sent, or waits to be sent again after nothing came of what was sent.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if it is sent, in doubt or over.
    pub async fn cancel(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<ActionView, Error> {
        caller.must(Deed::Steer)?;
        let stored = self.visible(caller, id).await?;
        if let Some(why) = too_late(stored.state) {
            return Err(Error::new(Code::StateConflict, why));
        }
        let gateway = Arc::clone(self);
        let task = tokio::spawn(async move { gateway.call_off(&stored).await });
        task.await.unwrap_or_else(|_| Err(internal("a cancellation ended without a word")))?;
        self.action(caller, id).await
    }

    async fn call_off(&self, stored: &Stored) -> Result<Answer, Error> {
        let tenant = self.tenant(&stored.tenant)?;
        if stored.state == State::Waiting {
            let pending = Pending::restore(stored, self.told(stored).await?)?;
            let absence = Absence::Stopped(cancelled());
            if self.done_by_forgotten(tenant, &pending, &absence).await?.is_some() {
                let why = "the store was put back, and an attempt that it had forgotten is on record now";
                return Err(Error::new(Code::StateConflict, why));
            }
            let ending = self.absent(&pending, &absence);
            return self.conclude(tenant, &pending, ending).await;
        }
        self.must_not_be_done(stored).await?;
        let called_off = |pending: &Pending| {
            let ending = self.ended_waiting(pending, Code::Cancelled, CANCELLED)?;
            Ok(Ending { kind: Kind::Failed, state: State::Failed, ..ending })
        };
        self.end_heard(stored, None, called_off).await
    }
}

/// Why an action that stands here is not called off any more; nothing if it can be.
fn too_late(state: State) -> Option<&'static str> {
    match state {
        State::Held | State::Approved | State::Waiting => None,
        State::Reserved | State::ReleaseFailed => Some("what is set aside is not cancelled: release it"),
        State::Sent
        | State::InDoubt
        | State::Challenged
        | State::Checking
        | State::Unchecked
        | State::Retracting => Some("the action was sent: what is out there cannot be called back"),
        State::Executed | State::Failed | State::Refused => Some("the action is over"),
        State::RollingBack | State::RollbackFailed | State::RolledBack => Some("the action is over"),
    }
}

const IN_THE_BOOKS: &str =
    "look into the provider's own books, and send a request under a new key if it is not there";

const CANCELLED: &str = "cancelled";

fn cancelled() -> Stop {
    Stop { code: Code::Cancelled.as_str(), reasons: vec![CANCELLED.to_owned()] }
}

pub(crate) fn busy() -> Error {
    Error::new(Code::StateConflict, "somebody is at the action just now")
}

/// Judged anew, it is refused: an error and no outcome, because the action stays as it was.
pub(crate) fn refusal(stop: &Stop) -> Error {
    let why = format!("judged anew, it may not be sent: {} {}", stop.code, stop.reasons.join(", "));
    Error::new(Code::StateConflict, why.trim_end())
}
