//! The machine: three states, three events, two effects.

use std::sync::Arc;

use boundary::Permit;

use crate::{Absence, Call, Confirmation, Fate, Found, Refusal, Reply};

/// One permitted action, on its way to exactly one fate.
#[derive(Debug)]
pub enum Execution {
    /// Recorded as sent before it left; the answer may never come.
    Sent(Arc<Call>, Permit),
    /// We do not know. Ask the provider; never send again on a guess. Asking causes no effect, so no permit is
    /// needed, and an action found after a crash can stand here without one.
    InDoubt(Arc<Call>),
    /// Terminal. Carries what the receipt will say.
    Settled(Arc<Call>, Fate),
}

/// What can happen to an execution.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The provider's reply to the call arrived, however late.
    Replied(Reply),
    /// The time to answer the agent is over and no reply is there yet.
    Overdue,
    /// The provider was asked what became of the call.
    Asked(Found),
}

/// What is to be done, after the state has been written.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send the call; its reply comes back as [`Event::Replied`].
    Invoke(Arc<Call>),
    /// Ask what became of the call, now or later; the answer comes back as [`Event::Asked`].
    Inquire(Arc<Call>),
}

/// Admission has committed the call as sent; only now may it leave.
pub fn begin(call: Call, permit: Permit) -> (Execution, Vec<Effect>) {
    let call = Arc::new(call);
    (Execution::Sent(Arc::clone(&call), permit), vec![Effect::Invoke(call)])
}

/// A call that was recorded as sent by a process that is gone: whether it left, nobody here knows.
pub fn recover(call: Call) -> (Execution, Vec<Effect>) {
    let call = Arc::new(call);
    (Execution::InDoubt(Arc::clone(&call)), vec![Effect::Inquire(call)])
}

impl Execution {
    /// The next state, and what is to be done once it is written.
    ///
    /// # Errors
    /// [`Illegal`] names the state and the event that do not go together; the execution is consumed, what the
    /// ledger holds stands.
    pub fn step(self, event: Event) -> Result<(Execution, Vec<Effect>), Illegal> {
        use Event::{Asked, Overdue, Replied};
        use Execution::{InDoubt, Sent, Settled};
        let none = Vec::new;
        let ask = |call: &Arc<Call>| vec![Effect::Inquire(Arc::clone(call))];
        Ok(match (self, event) {
            (Sent(c, _) | InDoubt(c), Replied(Reply::Confirmed(it))) => (Settled(c, confirmed(it)), none()),
            (Sent(c, _) | InDoubt(c), Replied(Reply::Refused(it))) => (Settled(c, refused(it)), none()),
            (Sent(c, _) | InDoubt(c), Replied(Reply::NotSent { why })) => (Settled(c, not_sent(why)), none()),
            (Sent(c, _), Replied(Reply::Lost { .. }) | Overdue) => (InDoubt(Arc::clone(&c)), ask(&c)),
            // It was overdue, so the question is already under way.
            (InDoubt(c), Replied(Reply::Lost { .. })) => (InDoubt(c), none()),
            (InDoubt(c), Asked(Found::Confirmed(it))) => (Settled(c, confirmed(it)), none()),
            (InDoubt(c), Asked(Found::Absent { final_: true })) => (Settled(c, absent()), none()),
            (InDoubt(c), Asked(Found::Absent { final_: false } | Found::Unknown)) => {
                (InDoubt(Arc::clone(&c)), ask(&c))
            }
            (state @ Sent(..), event @ Asked(_))
            | (state @ InDoubt(_), event @ Overdue)
            | (state @ Settled(..), event) => return Err(Illegal::new(&state, &event)),
        })
    }

    /// The call this is about.
    pub fn call(&self) -> &Arc<Call> {
        match self {
            Execution::Sent(call, _) | Execution::InDoubt(call) | Execution::Settled(call, _) => call,
        }
    }

    /// What became of the call, when that is known.
    pub fn fate(&self) -> Option<&Fate> {
        match self {
            Execution::Sent(..) | Execution::InDoubt(_) => None,
            Execution::Settled(_, fate) => Some(fate),
        }
    }

    /// The state in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Execution::Sent(..) => "sent",
            Execution::InDoubt(_) => "in doubt",
            Execution::Settled(..) => "settled",
        }
    }
}

impl Event {
    /// The event in a few words.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Replied(Reply::Confirmed(_)) => "replied: confirmed",
            Event::Replied(Reply::Refused(_)) => "replied: refused",
            Event::Replied(Reply::NotSent { .. }) => "replied: not sent",
            Event::Replied(Reply::Lost { .. }) => "replied: lost",
            Event::Overdue => "overdue",
            Event::Asked(Found::Confirmed(_)) => "asked: confirmed",
            Event::Asked(Found::Absent { final_: true }) => "asked: absent for good",
            Event::Asked(Found::Absent { final_: false }) => "asked: absent so far",
            Event::Asked(Found::Unknown) => "asked: unknown",
        }
    }
}

/// A state and an event that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an execution that is {state} cannot take the event `{event}`")]
pub struct Illegal {
    /// See [`Execution::name`].
    pub state: &'static str,
    /// See [`Event::name`].
    pub event: &'static str,
}

impl Illegal {
    fn new(state: &Execution, event: &Event) -> Illegal {
        Illegal { state: state.name(), event: event.name() }
    }
}

fn confirmed(confirmation: Confirmation) -> Fate {
    Fate::Confirmed(confirmation)
}

fn refused(refusal: Refusal) -> Fate {
    Fate::Absent(Absence::Refused(refusal))
}

fn not_sent(why: String) -> Fate {
    Fate::Absent(Absence::NotSent { why })
}

fn absent() -> Fate {
    Fate::Absent(Absence::Final)
}
