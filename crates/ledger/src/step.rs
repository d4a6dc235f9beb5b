//! The steps of an action: which entry may follow where, and where that leaves it.
//!
//! What is written is decided by where rows say that an action stands. Here it is told once more from the entries alone, so
//! that a row that said something else for a moment, and was put back, is found by what was written meanwhile.

use std::collections::HashMap;

use action::ActionId;

use crate::State;
use crate::entry::{
    ADMITTED, AGREED, APPROVED, CHALLENGED, CHARGING, CHECKING, EXTENDED, HELD, INFO_GIVEN, INFO_REQUESTED,
    REJECTED, RESERVED, RESOLVED, RETRACTING, ROLLBACK_FAILED, ROLLING_BACK, SENT_AGAIN, Said, WAITING,
};
use crate::erasure::ERASED;

/// Every event that an entry of an action has.
pub const STEPS: [&str; 28] = [
    ADMITTED,
    HELD,
    APPROVED,
    REJECTED,
    EXTENDED,
    INFO_REQUESTED,
    INFO_GIVEN,
    EXPIRED,
    REFUSED,
    EXECUTED,
    FAILED,
    IN_DOUBT,
    CHALLENGED,
    WAITING,
    SENT_AGAIN,
    RESERVED,
    CHARGING,
    CHECKING,
    RETRACTING,
    LATE_EFFECT,
    DUPLICATE_EFFECT,
    DENIED_EFFECT,
    OVERAGE,
    ROLLING_BACK,
    ROLLED_BACK,
    ROLLBACK_FAILED,
    RESOLVED,
    ERASED,
];

const EXPIRED: &str = "expired";
const REFUSED: &str = "refused";
const EXECUTED: &str = "executed";
const FAILED: &str = "failed";
const IN_DOUBT: &str = "in_doubt";
const ROLLED_BACK: &str = "rolled_back";
const LATE_EFFECT: &str = "late_effect";
const DUPLICATE_EFFECT: &str = "duplicate_effect";
const DENIED_EFFECT: &str = "denied_effect";
const OVERAGE: &str = "overage";

/// What an entry says of where its action goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    event: &'a str,
    /// The state that it says, by the words of the outside.
    word: Option<&'a str>,
    /// The state of the outcome that came with it, if one did.
    outcome: Option<State>,
}

impl<'a> Step<'a> {
    pub(crate) fn of(said: &Said<'a>, outcome: Option<State>) -> Step<'a> {
        Step { event: said.event, word: said.state, outcome }
    }

    /// Where it leaves an action that stood here, or was not there before; nothing if nothing leads there.
    fn leads(self, from: Option<State>) -> Option<State> {
        match (self.outcome, from) {
            (Some(to), Some(from)) => comes_of_it(self.event, from, to).then_some(to),
            (Some(to @ (State::Refused | State::Failed)), None) => {
                [REFUSED, FAILED].contains(&self.event).then_some(to)
            }
            (Some(_), None) => None,
            (None, from) => self.goes_on(from),
        }
    }

    /// The same of what comes without an outcome.
    fn goes_on(self, from: Option<State>) -> Option<State> {
        use State::{Approved, Failed, Held, InDoubt, Reserved, Sent};
        Some(match (self.event, from) {
            (HELD, None | Some(Held | Approved)) => Held,
            (ADMITTED, None | Some(Approved)) => Sent,
            (APPROVED | EXTENDED, Some(Held)) if self.word == Some(AGREED) => Approved,
            (APPROVED | EXTENDED | REJECTED | INFO_REQUESTED | INFO_GIVEN, Some(Held)) => Held,
            // What is in doubt is that of two calls from then on.
            (SENT_AGAIN, Some(InDoubt)) => InDoubt,
            (SENT_AGAIN, Some(Failed)) | (CHARGING, Some(Reserved)) => Sent,
            (SENT_AGAIN, Some(from)) if from.may_be_sent_again() => Sent,
            (ERASED, Some(from)) if from.is_final() => from,
            (event, Some(from)) => *rests(event).iter().find(|to| from.may_defer(**to))?,
            (_, None) => return None,
        })
    }
}

/// Where an action may rest that goes on with this event.
fn rests(event: &str) -> &'static [State] {
    match event {
        WAITING => &[State::Waiting],
        CHALLENGED => &[State::Challenged],
        CHECKING => &[State::Checking],
        RETRACTING => &[State::Retracting],
        ROLLING_BACK => &[State::RollingBack],
        // Older stores tell so, in the words of a rollback, of what could not be set free so far.
        RESERVED | ROLLBACK_FAILED => &[State::Reserved],
        // A person has it set free or undone.
        RESOLVED => &[State::Reserved, State::Retracting],
        _ => &[],
    }
}

/// May an outcome with this event take an action from here to `to`?
fn comes_of_it(event: &str, from: State, to: State) -> bool {
    let (settles, amends, stays) = (from.may_settle(to), from.may_amend(to), from == to);
    match event {
        EXECUTED | FAILED | REFUSED | EXPIRED | WAITING | CHECKING | RETRACTING | ROLLING_BACK => settles,
        // That it is open is said of what was sent, too, before an effect beside it is.
        IN_DOUBT => settles || (amends && stays),
        LATE_EFFECT | DUPLICATE_EFFECT => settles || amends,
        DENIED_EFFECT => amends,
        // It comes right behind what was charged.
        OVERAGE => stays,
        ROLLED_BACK | ROLLBACK_FAILED => settles || (amends && !stays),
        RESOLVED => settles || (amends && from == State::RollbackFailed && !stays),
        _ => false,
    }
}

/// Where the entries of a chain have left their actions so far. Of what rests where its last outcome left it that outcome tells;
/// the others are here, as many as are open at any one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left {
    at: HashMap<ActionId, Mark>,
    /// Where actions were left up to this entry is not known: one is missing, or cannot be believed.
    lost: i64,
}

/// Where an action was left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// Not known where something was altered.
    place: Option<Place>,
    /// Does its last outcome tell?
    told: bool,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Nowhere,
    At(State),
}

impl Mark {
    /// Nothing was said of it yet.
    pub(crate) const NONE: Mark = Mark { place: Some(Place::Nowhere), told: false };
    const UNKNOWN: Mark = Mark { place: None, told: false };
}

impl Left {
    /// Where the action was left, if that is known without its outcomes.
    pub(crate) fn mark(&self, action: ActionId) -> Option<Mark> {
        self.at.get(&action).copied()
    }

    /// The same by its last outcome, and the entry of that.
    pub(crate) fn by_outcome(&self, last: Option<(i64, State)>) -> Mark {
        last.filter(|(entry, _)| *entry > self.lost)
            .map_or(Mark::UNKNOWN, |(_, state)| Mark { place: Some(Place::At(state)), told: true })
    }

    /// Takes an entry of an action that was left there. Does anything lead to it? What follows on one to which nothing does
    /// is not told as if it were another.
    pub(crate) fn take(&mut self, action: ActionId, from: Mark, step: Step<'_>) -> bool {
        let led = from.place.map(|place| match place {
            Place::Nowhere => step.leads(None),
            Place::At(state) => step.leads(Some(state)),
        });
        let to = led.flatten().or(step.outcome);
        let same = matches!((from.place, to), (Some(Place::At(from)), Some(to)) if from == to);
        let told = step.outcome.is_some() || (from.told && same);
        self.at.insert(action, Mark { place: to.map(Place::At), told });
        led != Some(None)
    }

    /// What was said of the action cannot be believed.
    pub(crate) fn doubt(&mut self, action: ActionId) {
        self.at.insert(action, Mark::UNKNOWN);
    }

    /// The action is gone.
    pub(crate) fn forget(&mut self, action: ActionId) {
        self.at.remove(&action);
    }

    /// Up to this entry something is missing, or cannot be believed.
    pub(crate) fn lose(&mut self, upto: i64) {
        self.at.clear();
        self.lost = upto;
    }

    /// Goes on without what outcomes tell.
    pub(crate) fn lighten(&mut self) {
        self.at.retain(|_, mark| !mark.told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everywhere that an event leads to, with or without an outcome.
    fn ways(event: &'static str) -> usize {
        let from = State::ALL.into_iter().map(Some).chain([None]);
        let outcomes = || State::ALL.into_iter().map(Some).chain([None]);
        let steps = from.flat_map(|from| outcomes().map(move |outcome| (from, outcome)));
        steps
            .filter(|(from, outcome)| Step { event, word: None, outcome: *outcome }.leads(*from).is_some())
            .count()
    }

    #[test]
    fn every_event_leads_somewhere_and_what_is_none_nowhere() {
        for event in STEPS {
            assert!(ways(event) > 0, "{event}");
        }
        for none in ["frozen", "chain_opened", "session_opened", ""] {
            assert_eq!(ways(none), 0, "{none}");
        }
    }

    #[test]
    fn an_entry_leads_nowhere_that_no_row_may_go() {
        for (event, from, to) in STEPS.into_iter().flat_map(|event| {
            State::ALL
                .into_iter()
                .flat_map(move |from| State::ALL.into_iter().map(move |to| (event, from, to)))
        }) {
            let outcome = Step { event, word: None, outcome: Some(to) };
            let may = from.may_settle(to) || from.may_amend(to) || (event == OVERAGE && from == to);
            assert!(outcome.leads(Some(from)).is_none() || may, "{event}: {from} to {to}");
            if let Some(led) = (Step { outcome: None, ..outcome }).leads(Some(from)) {
                let sent = matches!(led, State::Sent | State::InDoubt | State::Held);
                assert!(from.may_defer(led) || sent || led == from, "{event}: {from} to {led}");
            }
        }
    }
}
