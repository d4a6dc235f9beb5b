//! The machine: where an action can stand, what can happen to it there, and what is to be done then.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use action::{Money, RetryPolicy};
use boundary::Permit;

use crate::{
    Absence, Call, Capabilities, Challenge, Confirmation, Found, Purpose, Reply, Reservation, Stop, delay,
    longest_delay,
};

/// One permitted action, on its way to exactly one fate.
#[derive(Debug)]
pub struct Execution {
    run: Run,
    state: State,
}

/// Where it stands.
#[derive(Debug)]
pub enum State {
    /// Judged, and not sent yet.
    Intended,
    /// Marked sent before it left; the answer may never come.
    Sent(Permit),
    /// The attempt is known to have had no effect, and the next one is due then.
    Waiting {
        /// Unix milliseconds.
        due_ms: i64,
        /// How that is known.
        after: Absence,
    },
    /// Nothing is under way, and we do not know. Asking causes no effect, so no permit is needed, and an action found
    /// after a crash stands here.
    InDoubt,
    /// The payer has to confirm it to the provider, and may still. Never sent again meanwhile, nor afterwards: it is told by
    /// the provider, found out by asking, or in doubt once the time is over.
    Challenged {
        /// Until when, Unix milliseconds.
        until_ms: i64,
    },
    /// The effect took place; whether all is as it should be is asked before anything is said.
    Checking {
        /// What the provider said of the effect.
        confirmation: Confirmation,
        /// How often it was asked in vain.
        asks: u32,
    },
    /// The effect took place; whether all is as it should be, nobody has told for as long as it was asked: a person decides.
    Unchecked(Confirmation),
    /// The provider has set aside what may be charged; nothing is charged, and nothing under way.
    Reserved {
        /// What there is.
        it: Reservation,
        /// How it came to stand here.
        came: Came,
    },
    /// What is set aside is to be set free; nothing of that is under way.
    Releasing(Reservation),
    /// What sets it free is marked sent; the answer may never come.
    Freeing(Reservation),
    /// It is still set aside, for all that is known, and could not be set free: a person decides.
    ReleaseFailed(Reservation),
    /// The effect took place.
    Completed(Confirmation),
    /// There is no effect.
    Failed(Absence),
    /// The effect is there and is to be undone; nothing of that is under way.
    RollingBack,
    /// What undoes it is marked sent; the answer may never come.
    Undoing,
    /// The effect was there and is undone.
    RolledBack(Confirmation),
    /// The effect is there and could not be undone: a person decides.
    RollbackFailed,
}

/// How an execution came to be reserved.
#[derive(Debug)]
pub enum Came {
    /// The provider confirmed it just now.
    Confirmed(Confirmation),
    /// What was to charge it is known to have had no effect.
    Uncharged(Absence),
    /// It stands so in the ledger.
    OnRecord,
}

/// What can happen to an execution.
#[derive(Debug)]
pub enum Event {
    /// It was judged and may go: this call, on this permit.
    Go(Permit, Arc<Call>),
    /// It was judged, or nobody wants it any more: it must not go.
    Stopped(Stop),
    /// It was marked sent, and its time was over before it left.
    Withheld(Withheld),
    /// The provider's reply to the call arrived, however late.
    Replied(Reply),
    /// The provider was asked what became of the call.
    Asked(Found),
    /// The time has come to look after it.
    Woken,
    /// It was asked whether all is as it should be, and it is.
    Held,
    /// The same, and nobody can tell so far.
    Untold,
    /// Its effect is to be undone by this call, which has a provider key of its own. Compensation causes no new effect, so
    /// it takes no permit.
    Undo(Arc<Call>),
    /// The provider's reply to what undoes it arrived.
    Undone(Reply),
    /// Nobody outside tells what became of it, and a person says so.
    Resolved(Resolution),
}

/// What a person says became of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// The effect took place, or what was set aside was charged; or, of one that could not be undone or looked after: it stays.
    Executed(Confirmation),
    /// There is no effect, and there will be none.
    Failed,
    /// What was set aside is free, and nothing was charged.
    Released,
    /// The effect was undone by other means than ours.
    RolledBack(Confirmation),
}

/// Why a call that was marked sent never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The caller's deadline was over.
    Deadline,
    /// It would have left later than its row says.
    Window,
}

/// What is to be done, after the state has been written.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send the call; its reply comes back as [`Event::Replied`].
    Invoke(Arc<Call>),
    /// Ask what became of the call; the answer comes back as [`Event::Asked`].
    Inquire(Arc<Call>),
    /// Have it judged whether it may be sent (again); [`Event::Go`] or [`Event::Stopped`] comes back.
    Clear,
    /// Wake it then or later, in Unix milliseconds, with [`Event::Woken`].
    Wait {
        /// Not before.
        until_ms: i64,
    },
    /// Have the payer answer it; what the provider says to that comes back as [`Event::Replied`] or [`Event::Asked`].
    Present(Challenge),
    /// Somebody should know: an effect was there after all that was said to be absent for good.
    LateEffect,
    /// Ask whether all is as it should be after the effect of this call; the answer comes back as [`Event::Held`],
    /// [`Event::Untold`] or, since it has to be undone then, [`Event::Undo`].
    Check(Arc<Call>),
    /// Have what is set aside set free: its time is over, it cannot be charged, or nobody waits for it any more;
    /// [`Event::Undo`] comes back.
    Release,
    /// Undo the effect by this call; the reply comes back as [`Event::Undone`].
    Retract(Arc<Call>),
    /// Somebody should know: an effect could not be undone, or what is set aside not be set free.
    Alarm,
}

/// What was promised, and what the provider can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What is true of the provider.
    pub capabilities: Capabilities,
    /// How it is tried again; `None` if it is not.
    pub retry: Option<RetryPolicy>,
    /// When the caller stops caring, in Unix milliseconds: nothing is sent any more then.
    pub deadline_ms: Option<i64>,
    /// How long after it is marked sent a call can still leave, in milliseconds.
    pub flight_ms: i64,
    /// Whether it is asked, once the effect is confirmed, if all is as it should be; if not, it is undone.
    pub checked: bool,
    /// How long the provider keeps what it sets aside, in milliseconds, where that is always the same.
    pub hold_ms: Option<i64>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// How often this attempt was sent; all of them bear one provider key.
    pub sends: u32,
    /// How often it was sent after the first time, over all attempts since somebody last asked for one.
    pub retries: u32,
    /// When this attempt was first marked sent, in Unix milliseconds.
    pub first_ms: i64,
}

/// Time and chance, which come in as arguments.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Unix milliseconds.
    pub ms: i64,
    /// Any number; delays are drawn from it. For one call always the same, so that whoever looks again sees the same delay.
    pub chance: u64,
}

/// What an execution on record stood at. What was marked sent by somebody who is gone is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stood {
    /// See [`State::Waiting`].
    Waiting {
        /// Unix milliseconds.
        due_ms: i64,
    },
    /// See [`State::InDoubt`].
    InDoubt,
    /// See [`State::Challenged`].
    Challenged {
        /// Unix milliseconds.
        until_ms: i64,
    },
    /// See [`State::Failed`].
    Failed,
    /// See [`State::Completed`].
    Completed,
    /// See [`State::Reserved`].
    Reserved(Reservation),
    /// See [`State::Releasing`]; also what was marked sent to set it free.
    Releasing(Reservation),
    /// See [`State::ReleaseFailed`].
    ReleaseFailed(Reservation),
    /// See [`State::RollingBack`]; also what was marked sent to undo it, since that is recognised when it is repeated.
    RollingBack,
    /// See [`State::RollbackFailed`].
    RollbackFailed,
}

/// How an effect is being undone.
#[derive(Clone, Debug)]
pub struct Undo {
    /// What undoes it.
    pub call: Arc<Call>,
    /// How often it was sent, each time under the same provider key.
    pub sends: u32,
    /// When it was first sent, in Unix milliseconds.
    pub first_ms: i64,
}

impl Execution {
    /// An action that was judged and is to be sent for the first time.
    pub fn intended(call: Arc<Call>, terms: Terms) -> Execution {
        let course = Course { sends: 0, retries: 0, first_ms: call.send_by_ms };
        Execution { run: Run { call, terms, course, undo: None }, state: State::Intended }
    }

    /// An action as it is on record: live and recovered ones go on alike.
    pub fn recover(call: Call, terms: Terms, course: Course, stood: Stood) -> Execution {
        Execution::recover_undone(call, terms, course, stood, None)
    }

    /// The same for one whose effect is being undone, or was to be.
    pub fn recover_undone(
        call: Call,
        terms: Terms,
        course: Course,
        stood: Stood,
        undo: Option<Undo>,
    ) -> Execution {
        let state = match stood {
            Stood::Waiting { due_ms } => State::Waiting { due_ms, after: Absence::OnRecord },
            Stood::InDoubt => State::InDoubt,
            Stood::Challenged { until_ms } => State::Challenged { until_ms },
            Stood::Failed => State::Failed(Absence::OnRecord),
            Stood::Completed => State::Completed(Confirmation::default()),
            Stood::Reserved(it) => State::Reserved { it, came: Came::OnRecord },
            Stood::Releasing(it) => State::Releasing(it),
            Stood::ReleaseFailed(it) => State::ReleaseFailed(it),
            Stood::RollingBack => State::RollingBack,
            Stood::RollbackFailed => State::RollbackFailed,
        };
        Execution { run: Run { call: Arc::new(call), terms, course, undo }, state }
    }

    /// The same for one whose effect is confirmed and was asked after so often.
    pub fn recover_checking(
        call: Call,
        terms: Terms,
        course: Course,
        confirmation: Confirmation,
        asks: u32,
    ) -> Execution {
        let state = State::Checking { confirmation, asks };
        Execution { run: Run { call: Arc::new(call), terms, course, undo: None }, state }
    }

    /// The same for one that was asked after in vain for as long as that is done.
    pub fn recover_unchecked(
        call: Call,
        terms: Terms,
        course: Course,
        confirmation: Confirmation,
    ) -> Execution {
        Execution {
            run: Run { call: Arc::new(call), terms, course, undo: None },
            state: State::Unchecked(confirmation),
        }
    }

    /// The next state, and what is to be done once it is written.
    ///
    /// # Errors
    /// [`Illegal`] names the state and the event that do not go together; the execution is consumed, what the
    /// ledger holds stands.
    pub fn step(self, event: Event, now: Now) -> Result<(Execution, Vec<Effect>), Illegal> {
        use Event::{Asked, Go, Held, Replied, Resolved, Stopped, Undo, Undone, Untold, Withheld, Woken};
        use Reply::{Confirmed, NotSent, Refused};
        use State::{
            Challenged, Checking, Completed, Failed, Freeing, InDoubt, Intended, ReleaseFailed, Releasing,
        };
        use State::{Reserved, RollbackFailed, RolledBack, RollingBack, Sent, Unchecked, Undoing, Waiting};
        let Execution { run, state } = self;
        Ok(match (state, event) {
            (Intended, Go(permit, call)) if run.is_first(&call) => run.send(permit, call, 0, now),
            (Waiting { .. }, Go(permit, call)) if run.is_next(&call) => run.send(permit, call, 1, now),
            (Failed(_), Go(permit, call)) if run.is_next(&call) => run.afresh().send(permit, call, 0, now),
            (InDoubt, Go(permit, call)) if run.is_again(&call, now) => run.send(permit, call, 1, now),
            (Reserved { it, .. }, Go(permit, call)) if run.may_capture(&it, &call, now) => {
                run.afresh().send(permit, call, 0, now)
            }

            (Sent(_) | InDoubt, Replied(Confirmed(it))) => run.confirmed(it, now),
            (InDoubt, Asked(Found::Confirmed(it))) => run.confirmed(it, now),
            (state @ (Waiting { .. } | Failed(_)), Replied(Confirmed(_)) | Asked(Found::Confirmed(_)))
                if run.call.purpose == Purpose::Reserve =>
            {
                run.then(state, Effect::Release)
            }
            (
                Reserved { .. } | Releasing(_) | ReleaseFailed(_),
                Replied(Confirmed(it)) | Asked(Found::Confirmed(it)),
            ) if run.captures() => run.late(it, now),
            (Waiting { .. }, Replied(Confirmed(it)) | Asked(Found::Confirmed(it))) => run.late(it, now),
            // The last word was said: what comes now amends it, and nobody waits for a check.
            (Failed(_), Replied(Confirmed(it)) | Asked(Found::Confirmed(it))) => {
                run.then(Completed(it), Effect::LateEffect)
            }
            // It was a person who said that it took place; its provider knows better.
            (Completed(_), Replied(Refused(it))) if run.acts_once() => {
                run.stays(Failed(Absence::Refused(it)))
            }
            (Completed(_), Asked(Found::Absent { final_: true })) if run.call.purpose == Purpose::Act => {
                run.stays(Failed(Absence::Final))
            }

            (Sent(_) | InDoubt, Replied(Reply::Challenged(it))) if run.may_challenge() => run.challenged(it),
            (Challenged { .. }, Replied(Confirmed(it)) | Asked(Found::Confirmed(it))) => {
                run.confirmed(it, now)
            }
            (Challenged { .. }, Replied(Refused(it))) if run.went_once() => {
                run.once().absent(Absence::Refused(it), now)
            }
            (Challenged { .. }, Asked(Found::Absent { final_: true })) => {
                run.once().absent(Absence::Final, now)
            }
            (Challenged { until_ms }, Woken) => run.look_for_payer(until_ms, now),
            (Challenged { until_ms }, Asked(_)) => run.awaits_payer(until_ms, now),
            (state @ Challenged { .. }, Replied(_)) => run.stays(state),

            // It speaks for the attempt only if that went out once: of two sends one may still be on its way.
            (Sent(_) | InDoubt, Replied(Refused(it))) if run.went_once() => {
                run.absent(Absence::Refused(it), now)
            }
            (Sent(_) | InDoubt, Replied(NotSent { why })) if run.went_once() => {
                run.absent(Absence::NotSent { why }, now)
            }
            (Sent(_), Withheld(why)) if run.went_once() => run.withheld(why, now),
            (InDoubt, Asked(Found::Absent { final_: true })) => run.absent(Absence::Final, now),

            (Sent(_) | InDoubt, Replied(_)) | (Sent(_), Withheld(_)) => run.doubted(now),
            (InDoubt, Asked(_)) => run.asked_in_vain(now),
            (InDoubt, Woken) => run.look(now),
            (Waiting { after, .. }, Woken) => run.due(after, now),
            (InDoubt, Stopped(_)) => run.stays(InDoubt),
            (Intended | Waiting { .. }, Stopped(stop)) => run.stays(Failed(Absence::Stopped(stop))),
            (state @ (Waiting { .. } | Failed(_)), Asked(_) | Replied(_)) => run.stays(state),

            (Reserved { it, .. }, Woken) => run.kept(it, now),
            (Reserved { it, .. } | ReleaseFailed(it), Undo(call)) if run.is_released_by(&it, &call) => {
                run.release_by(it, call, now)
            }
            (Releasing(it), Woken) => run.release(it),
            (Releasing(_) | Freeing(_) | ReleaseFailed(_), Undone(Confirmed(_))) => {
                run.stays(Failed(Absence::Released))
            }
            (Freeing(it), Undone(Refused(why))) if !why.transient => {
                run.then(ReleaseFailed(it), Effect::Alarm)
            }
            (Freeing(it), Undone(_)) => run.not_released(it, now),
            (state @ (Reserved { .. } | Releasing(_) | ReleaseFailed(_)), Asked(_) | Replied(_)) => {
                run.stays(state)
            }

            (state @ Checking { .. }, Woken) => run.check(state),
            (Checking { confirmation, .. } | Unchecked(confirmation), Held) => {
                run.stays(Completed(confirmation))
            }
            (Checking { confirmation, asks }, Untold) => run.check_later(confirmation, asks, now),
            (state @ Unchecked(_), Untold) => run.stays(state),

            (Checking { .. } | Unchecked(_) | Completed(_) | RollbackFailed, Undo(call))
                if run.is_undone_by(&call) =>
            {
                run.undo_by(call, now)
            }
            (RollingBack, Woken) => run.retract(now),
            (RollingBack | Undoing | RollbackFailed, Undone(Confirmed(it))) => run.stays(RolledBack(it)),
            (Undoing, Undone(Refused(it))) if !it.transient => run.then(RollbackFailed, Effect::Alarm),
            (Undoing, Undone(_)) => run.not_undone(now),

            // A person's word is the last one: it is followed by no other attempt unless somebody asks for it.
            // A reservation charges nothing, so nobody can say that it did.
            (InDoubt | RollbackFailed, Resolved(Resolution::Executed(it)))
                if run.call.purpose != Purpose::Reserve =>
            {
                run.stays(Completed(it))
            }
            (InDoubt, Resolved(Resolution::Failed)) => run.absent(Absence::Resolved, now),
            (RollbackFailed, Resolved(Resolution::RolledBack(it))) => run.stays(RolledBack(it)),
            (ReleaseFailed(_), Resolved(Resolution::Released)) => run.stays(Failed(Absence::Released)),
            (ReleaseFailed(held), Resolved(Resolution::Executed(it))) if may_be_of(&it, &held) => {
                run.stays(Completed(Confirmation { charged: it.charged.or(held.money), ..it }))
            }
            (Unchecked(confirmation), Resolved(Resolution::Executed(_))) => {
                run.stays(Completed(confirmation))
            }
            (state, event) => return Err(Illegal { state: state.name(), event: event.name() }),
        })
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The call this is about, the latest.
    pub fn call(&self) -> &Arc<Call> {
        &self.run.call
    }

    /// How far it has come.
    pub fn course(&self) -> Course {
        self.run.course
    }

    /// How its effect is being undone, if it is.
    pub fn undo(&self) -> Option<&Undo> {
        self.run.undo.as_ref()
    }

    /// May what undoes it be sent again, as far as the number of tries goes?
    pub fn has_undo_tries(&self) -> bool {
        self.run.undo.as_ref().is_some_and(|undo| self.run.has_tries_left(undo))
    }

    /// How it is tried again.
    pub fn retry(&self) -> Option<&RetryPolicy> {
        self.run.terms.retry.as_ref()
    }
}

/// What stays the same through most steps.
#[derive(Debug)]
struct Run {
    call: Arc<Call>,
    terms: Terms,
    course: Course,
    undo: Option<Undo>,
}

type Step = (Execution, Vec<Effect>);

impl Run {
    /// Marked sent; only once that is written may it leave.
    fn send(self, permit: Permit, call: Arc<Call>, retries: u32, now: Now) -> Step {
        let again = call.provider_key == self.call.provider_key && self.course.sends > 0;
        let course = Course {
            sends: if again { self.course.sends.saturating_add(1) } else { 1 },
            retries: self.course.retries.saturating_add(retries),
            first_ms: if again { self.course.first_ms } else { now.ms },
        };
        let run = Run { call: Arc::clone(&call), course, ..self };
        (Execution { run, state: State::Sent(permit) }, vec![Effect::Invoke(call)])
    }

    /// Somebody asked for another attempt: what was tried before does not count against it.
    fn afresh(self) -> Run {
        Run { course: Course { retries: 0, ..self.course }, ..self }
    }

    fn stays(self, state: State) -> Step {
        (Execution { run: self, state }, Vec::new())
    }

    fn then(self, state: State, effect: Effect) -> Step {
        (Execution { run: self, state }, vec![effect])
    }

    fn confirmed(self, it: Confirmation, now: Now) -> Step {
        match self.call.purpose {
            Purpose::Reserve => {
                // Whether there is still anything to charge, nobody could say.
                let Some(reservation) = self.reservation(&it) else { return self.doubted(now) };
                let effect = Effect::Wait { until_ms: reservation.until_ms };
                self.then(State::Reserved { it: reservation, came: Came::Confirmed(it) }, effect)
            }
            _ if self.terms.checked => {
                self.then(State::Checking { confirmation: it, asks: 0 }, Effect::Wait { until_ms: now.ms })
            }
            _ => self.stays(State::Completed(it)),
        }
    }

    fn late(self, it: Confirmation, now: Now) -> Step {
        let (execution, mut effects) = self.confirmed(it, now);
        effects.push(Effect::LateEffect);
        (execution, effects)
    }

    fn check(self, state: State) -> Step {
        let call = Arc::clone(&self.call);
        self.then(state, Effect::Check(call))
    }

    /// Nobody could tell: it is asked again, unless nobody will.
    fn check_later(self, confirmation: Confirmation, asks: u32, now: Now) -> Step {
        let pause = longest_delay(&self.call.archetype.retry, asks);
        let asks = asks.saturating_add(1);
        let again_ms = self.in_vain(asks, pause, now);
        let again_ms = again_ms.filter(|ms| !self.is_retried_out(asks) || !self.is_over_at(*ms));
        match again_ms {
            Some(until_ms) => self.then(State::Checking { confirmation, asks }, Effect::Wait { until_ms }),
            None => self.stays(State::Unchecked(confirmation)),
        }
    }

    /// When what was in vain so often, and harms nobody, is tried again: as the archetype is retried, then slowly for about an
    /// hour, so that a provider may be away for a while; then a person decides.
    fn in_vain(&self, tries: u32, pause: Duration, now: Now) -> Option<i64> {
        let most = self.call.archetype.retry.max_retries.saturating_add(MOST_SLOW);
        let pause_ms = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        let least_ms = if self.is_retried_out(tries) { SLOW_MS } else { 0 };
        (tries <= most).then(|| now.ms.saturating_add(pause_ms.max(least_ms)))
    }

    fn is_retried_out(&self, tries: u32) -> bool {
        tries > self.call.archetype.retry.max_retries
    }

    /// The attempt had no effect: another one, or the end.
    fn absent(self, absence: Absence, now: Now) -> Step {
        if let Purpose::Capture { of, .. } = self.call.purpose {
            return self.not_captured(of, absence);
        }
        let Some(pause_ms) = self.pause_ms(now).filter(|_| absence.may_pass()) else {
            return self.stays(State::Failed(absence));
        };
        let due_ms = now.ms.saturating_add(pause_ms);
        match self.is_over_at(due_ms) {
            true => self.stays(State::Failed(Absence::Deadline)),
            false => self.then(State::Waiting { due_ms, after: absence }, Effect::Wait { until_ms: due_ms }),
        }
    }

    fn withheld(self, why: Withheld, now: Now) -> Step {
        match why {
            Withheld::Deadline if self.captures() => self.absent(Absence::Deadline, now),
            Withheld::Deadline => self.stays(State::Failed(Absence::Deadline)),
            Withheld::Window => self.absent(Absence::Withheld, now),
        }
    }

    fn doubted(self, now: Now) -> Step {
        let pause_ms = self.pause_ms(now).filter(|_| self.may_send_again(now.ms)).unwrap_or(0);
        self.then(State::InDoubt, Effect::Wait { until_ms: now.ms.saturating_add(pause_ms) })
    }

    /// In doubt, and its turn: ask who can be asked, and send again only where nobody can.
    fn look(self, now: Now) -> Step {
        if self.terms.capabilities.can_be_asked() {
            let call = Arc::clone(&self.call);
            return self.then(State::InDoubt, Effect::Inquire(call));
        }
        self.asked_in_vain(now)
    }

    fn asked_in_vain(self, now: Now) -> Step {
        let again_ms = self.again_ms(now);
        let effect = match self.may_send_again(now.ms) {
            true if now.ms < again_ms => Effect::Wait { until_ms: again_ms },
            true => Effect::Clear,
            false => Effect::Wait { until_ms: now.ms },
        };
        self.then(State::InDoubt, effect)
    }

    /// INVARIANT (pause): between two sends of what is in doubt lies the pause of its policy at least, whoever looks after it
    /// and whatever was forgotten meanwhile. Only what is on record tells, so a restart changes nothing.
    fn again_ms(&self, now: Now) -> i64 {
        let left_ms = self.call.send_by_ms.saturating_sub(self.terms.flight_ms);
        left_ms.saturating_add(self.pause_ms(now).unwrap_or(0))
    }

    /// Is that what the mode of payment and the binding provide for? If not, nobody knows what the provider waits for.
    fn may_challenge(&self) -> bool {
        self.call.purpose == Purpose::Act && self.terms.capabilities.challenge.is_some()
    }

    fn challenged(self, it: Challenge) -> Step {
        let state = State::Challenged { until_ms: it.until_ms };
        self.once().then(state, Effect::Present(it))
    }

    /// The payer is asked once: neither a no nor silence is followed by another attempt of itself.
    fn once(self) -> Run {
        Run { terms: Terms { retry: None, ..self.terms }, ..self }
    }

    fn look_for_payer(self, until_ms: i64, now: Now) -> Step {
        match self.terms.capabilities.can_be_asked() {
            true => {
                let call = Arc::clone(&self.call);
                self.then(State::Challenged { until_ms }, Effect::Inquire(call))
            }
            false => self.awaits_payer(until_ms, now),
        }
    }

    /// Nothing is known yet; once the payer's time is over, that is doubt like any other.
    fn awaits_payer(self, until_ms: i64, now: Now) -> Step {
        match now.ms < until_ms {
            true => self.then(State::Challenged { until_ms }, Effect::Wait { until_ms }),
            false => self.once().doubted(now),
        }
    }

    fn due(self, after: Absence, now: Now) -> Step {
        match self.is_over_at(now.ms) {
            true => self.stays(State::Failed(Absence::Deadline)),
            false => self.then(State::Waiting { due_ms: now.ms, after }, Effect::Clear),
        }
    }

    /// What the provider has set aside: no more than was asked for, and no longer than it may forget it. Nothing, if it is not
    /// known until when.
    fn reservation(&self, it: &Confirmation) -> Option<Reservation> {
        let held_ms = self.terms.hold_ms.map(|ms| self.course.first_ms.saturating_add(ms));
        let until_ms = held_ms.into_iter().chain(it.expires_ms).min()?;
        let less = it.charged.filter(|held| self.call.money.is_some_and(|asked| is_within(*held, asked)));
        Some(Reservation { money: less.or(self.call.money), until_ms })
    }

    /// Its time is over, or not yet.
    fn kept(self, it: Reservation, now: Now) -> Step {
        let effect = match now.ms >= it.until_ms {
            true => Effect::Release,
            false => Effect::Wait { until_ms: it.until_ms },
        };
        self.then(State::Reserved { it, came: Came::OnRecord }, effect)
    }

    /// What was to charge it had no effect: it is set aside as before. What was refused for good, or ended by a person's word,
    /// is not tried again.
    fn not_captured(self, it: Reservation, absence: Absence) -> Step {
        let effect = match absence {
            Absence::Refused(ref refusal) if !refusal.transient => Effect::Release,
            Absence::Resolved => Effect::Release,
            _ => Effect::Wait { until_ms: it.until_ms },
        };
        self.then(State::Reserved { it, came: Came::Uncharged(absence) }, effect)
    }

    fn release_by(self, it: Reservation, call: Arc<Call>, now: Now) -> Step {
        let undo = Some(Undo { call, sends: 0, first_ms: now.ms });
        Run { undo, ..self }.then(State::Releasing(it), Effect::Wait { until_ms: now.ms })
    }

    fn release(self, it: Reservation) -> Step {
        let Some(undo) = self.undo.clone() else { return self.then(State::Releasing(it), Effect::Release) };
        let undo = Undo { sends: undo.sends.saturating_add(1), ..undo };
        let effect = Effect::Retract(Arc::clone(&undo.call));
        Run { undo: Some(undo), ..self }.then(State::Freeing(it), effect)
    }

    /// Nobody knows whether it is free: what is set aside can be set free only once, so to ask again harms nobody.
    fn not_released(self, it: Reservation, now: Now) -> Step {
        let sends = self.undo.as_ref().map_or(0, |undo| undo.sends);
        let pause = delay(&self.call.archetype.retry, sends.saturating_sub(1), now.chance);
        match self.in_vain(sends, pause, now) {
            Some(until_ms) => self.then(State::Releasing(it), Effect::Wait { until_ms }),
            None => self.then(State::ReleaseFailed(it), Effect::Alarm),
        }
    }

    fn is_released_by(&self, it: &Reservation, call: &Call) -> bool {
        matches!(&call.purpose, Purpose::Release { of, .. } if of == it) && self.is_beside(call)
    }

    /// INVARIANT (capture): what is set aside is charged in time, by no more than there is, by one call at a time, each of
    /// which has a provider key of its own.
    fn may_capture(&self, it: &Reservation, call: &Call, now: Now) -> bool {
        let within = it.money.zip(call.money).is_some_and(|(held, asked)| is_within(asked, held));
        let arrives_ms = call.send_by_ms.max(now.ms.saturating_add(self.terms.flight_ms));
        matches!(&call.purpose, Purpose::Capture { of, .. } if of == it)
            && (call.action_id, call.attempt) == (self.call.action_id, self.call.attempt)
            && call.provider_key != self.call.provider_key
            && within
            && !self.is_over_at(now.ms)
            && arrives_ms < it.until_ms
    }

    fn captures(&self) -> bool {
        matches!(self.call.purpose, Purpose::Capture { .. })
    }

    /// Would what charges it arrive before what is set aside ends?
    fn arrives_in_time(&self, arrives_ms: i64) -> bool {
        match self.call.purpose {
            Purpose::Capture { of, .. } => arrives_ms < of.until_ms,
            _ => true,
        }
    }

    fn undo_by(self, call: Arc<Call>, now: Now) -> Step {
        let undo = Some(Undo { call, sends: 0, first_ms: now.ms });
        Run { undo, ..self }.then(State::RollingBack, Effect::Wait { until_ms: now.ms })
    }

    fn retract(self, now: Now) -> Step {
        let arrives_ms = now.ms.saturating_add(self.terms.flight_ms);
        match &self.undo {
            Some(undo) if undo.sends == 0 || self.may_retract_again(undo, arrives_ms) => {
                let (sends, call) = (undo.sends.saturating_add(1), Arc::clone(&undo.call));
                let undo = Some(Undo { sends, ..undo.clone() });
                Run { undo, ..self }.then(State::Undoing, Effect::Retract(call))
            }
            _ => self.then(State::RollbackFailed, Effect::Alarm),
        }
    }

    /// INVARIANT (undo): what undoes an effect is sent again only under the key by which the provider recognises it.
    fn may_retract_again(&self, undo: &Undo, arrives_ms: i64) -> bool {
        self.has_tries_left(undo) && self.terms.capabilities.recognises(undo.first_ms, arrives_ms)
    }

    fn has_tries_left(&self, undo: &Undo) -> bool {
        undo.sends <= self.call.archetype.retry.max_retries
    }

    fn not_undone(self, now: Now) -> Step {
        let policy = &self.call.archetype.retry;
        let Some(undo) = self.undo.as_ref().filter(|undo| self.has_tries_left(undo)) else {
            return self.then(State::RollbackFailed, Effect::Alarm);
        };
        let pause = delay(policy, undo.sends.saturating_sub(1), now.chance).as_millis();
        let until_ms = now.ms.saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
        self.then(State::RollingBack, Effect::Wait { until_ms })
    }

    fn is_undone_by(&self, call: &Call) -> bool {
        !matches!(call.purpose, Purpose::Release { .. }) && self.is_beside(call)
    }

    /// Another call of the same action.
    fn is_beside(&self, call: &Call) -> bool {
        call.action_id == self.call.action_id && call.provider_key != self.call.provider_key
    }

    fn went_once(&self) -> bool {
        self.course.sends == 1
    }

    fn acts_once(&self) -> bool {
        self.call.purpose == Purpose::Act && self.went_once()
    }

    fn is_first(&self, call: &Call) -> bool {
        call.attempt == self.call.attempt
            && call.provider_key == self.call.provider_key
            && call.purpose == self.call.purpose
    }

    /// INVARIANT (attempt): another attempt has another provider key, and follows on an absence that is final.
    fn is_next(&self, call: &Call) -> bool {
        Some(call.attempt) == self.call.attempt.checked_add(1)
            && call.provider_key != self.call.provider_key
            && matches!(call.purpose, Purpose::Act | Purpose::Reserve)
            && (call.purpose == Purpose::Act) == (self.call.purpose == Purpose::Act)
    }

    /// INVARIANT (again): what may have had its effect is sent again only as the same attempt, to a provider that
    /// recognises it as long as it can arrive, or to whom twice does no harm.
    fn is_again(&self, call: &Call, now: Now) -> bool {
        let leaves_ms = now.ms.max(call.send_by_ms.saturating_sub(self.terms.flight_ms));
        self.is_first(call) && self.may_send_again(leaves_ms)
    }

    fn may_send_again(&self, now_ms: i64) -> bool {
        let arrives_ms = now_ms.saturating_add(self.terms.flight_ms);
        self.has_retries_left()
            && !self.is_over_at(now_ms)
            && self.arrives_in_time(arrives_ms)
            && self.terms.capabilities.may_repeat(self.course.first_ms, arrives_ms)
    }

    fn has_retries_left(&self) -> bool {
        self.terms.retry.as_ref().is_some_and(|policy| self.course.retries < policy.max_retries)
    }

    /// How long to wait before the next retry, if there is one left.
    fn pause_ms(&self, now: Now) -> Option<i64> {
        let policy = self.terms.retry.as_ref().filter(|_| self.has_retries_left())?;
        i64::try_from(delay(policy, self.course.retries, now.chance).as_millis()).ok()
    }

    fn is_over_at(&self, ms: i64) -> bool {
        self.terms.deadline_ms.is_some_and(|deadline_ms| ms >= deadline_ms)
    }
}

/// Not more, and of the same currency.
fn is_within(asked: Money, held: Money) -> bool {
    asked.compare(held).is_some_and(Ordering::is_le)
}

/// Was no more charged, as far as somebody says how much, than is set aside?
fn may_be_of(it: &Confirmation, held: &Reservation) -> bool {
    it.charged.is_none_or(|charged| held.money.is_some_and(|held| is_within(charged, held)))
}

/// The least pause before what seems to be in vain is tried again, and how often it is once the archetype's retries are used
/// up: about an hour.
const SLOW_MS: i64 = 60_000;
const MOST_SLOW: u32 = 60;

impl State {
    /// The state in a word or two.
    pub fn name(&self) -> &'static str {
        match self {
            State::Intended => "intended",
            State::Sent(_) => "sent",
            State::Waiting { .. } => "waiting",
            State::InDoubt => "in doubt",
            State::Challenged { .. } => "challenged",
            State::Checking { .. } => "checking",
            State::Unchecked(_) => "unchecked",
            State::Reserved { .. } => "reserved",
            State::Releasing(_) => "releasing",
            State::Freeing(_) => "freeing",
            State::ReleaseFailed(_) => "release failed",
            State::Completed(_) => "completed",
            State::Failed(_) => "failed",
            State::RollingBack => "rolling back",
            State::Undoing => "undoing",
            State::RolledBack(_) => "rolled back",
            State::RollbackFailed => "rollback failed",
        }
    }

    /// Is its fate known, and the last word said by the machine?
    pub fn is_settled(&self) -> bool {
        matches!(self, State::Completed(_) | State::Failed(_) | State::RolledBack(_))
    }
}

impl Event {
    /// The event in a few words.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Go(..) => "go",
            Event::Stopped(_) => "stopped",
            Event::Withheld(Withheld::Deadline) => "withheld: deadline",
            Event::Withheld(Withheld::Window) => "withheld: window",
            Event::Replied(Reply::Confirmed(_)) => "replied: confirmed",
            Event::Replied(Reply::Refused(_)) => "replied: refused",
            Event::Replied(Reply::NotSent { .. }) => "replied: not sent",
            Event::Replied(Reply::Lost { .. }) => "replied: lost",
            Event::Replied(Reply::Challenged(_)) => "replied: challenged",
            Event::Asked(Found::Confirmed(_)) => "asked: confirmed",
            Event::Asked(Found::Absent { final_: true }) => "asked: absent for good",
            Event::Asked(Found::Absent { final_: false }) => "asked: absent so far",
            Event::Asked(Found::Unknown) => "asked: unknown",
            Event::Woken => "woken",
            Event::Held => "held",
            Event::Untold => "untold",
            Event::Undo(_) => "undo",
            Event::Undone(Reply::Confirmed(_)) => "undone: confirmed",
            Event::Undone(Reply::Refused(_)) => "undone: refused",
            Event::Undone(Reply::NotSent { .. }) => "undone: not sent",
            Event::Undone(Reply::Lost { .. }) => "undone: lost",
            Event::Undone(Reply::Challenged(_)) => "undone: challenged",
            Event::Resolved(Resolution::Executed(_)) => "resolved: executed",
            Event::Resolved(Resolution::Failed) => "resolved: failed",
            Event::Resolved(Resolution::Released) => "resolved: released",
            Event::Resolved(Resolution::RolledBack(_)) => "resolved: rolled back",
        }
    }
}

/// A state and an event that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an execution that is {state} cannot take the event `{event}`")]
pub struct Illegal {
    /// See [`State::name`].
    pub state: &'static str,
    /// See [`Event::name`].
    pub event: &'static str,
}
