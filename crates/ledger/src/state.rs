//! Where an action stands, and where it may go from there.

use std::fmt;

/// What the ledger knows of an action's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Waits for a person; nothing was sent, nothing debited. Key and effect are claimed.
    Held = 1,
    /// Enough people agreed. Still nothing was sent and nothing debited: it is judged again first. Its number puts it
    /// among the open ones, which the index of fates is about.
    Approved = 0,
    /// Marked sent before it left; the answer may never come.
    Sent = 2,
    /// Sent, and the answer was lost. Only the provider knows.
    InDoubt = 3,
    /// What was sent is known to have had no effect, and is due to be sent once more, as another attempt. Debits and
    /// claims stand. Its number puts it among the open ones, as with [`State::Approved`].
    Waiting = -1,
    /// The effect is confirmed and is being undone.
    RollingBack = -2,
    /// The effect is confirmed and could not be undone: a person decides.
    RollbackFailed = -3,
    /// Sent, and the payer has to confirm it to the provider before there is an effect. It is due when the payer's time is
    /// over. Debits and claims stand.
    Challenged = -5,
    /// The effect is confirmed; whether all is as it should be is asked before the last word is said.
    Checking = -6,
    /// The effect is confirmed, all is not as it should be, and it is being undone before the last word is said.
    Retracting = -7,
    /// The effect is confirmed, and nobody tells whether all is as it should be: a person decides.
    Unchecked = -9,
    /// The provider has set money aside for it and charges nothing yet. Debits and claims stand; it is due when that
    /// ends, or when the next step of setting it free is.
    Reserved = -4,
    /// What the provider has set aside could not be set free: a person decides. Debits and claims stand.
    ReleaseFailed = -8,
    /// The effect was confirmed and is undone.
    RolledBack = 7,
    /// The effect is confirmed.
    Executed = 4,
    /// The effect is known to be absent.
    Failed = 5,
    /// Refused before anything was sent.
    Refused = 6,
}

impl State {
    /// Every state, in the order of an action's life.
    pub const ALL: [State; 17] = [
        State::Held,
        State::Approved,
        State::Sent,
        State::InDoubt,
        State::Waiting,
        State::Reserved,
        State::ReleaseFailed,
        State::Challenged,
        State::Checking,
        State::Unchecked,
        State::Retracting,
        State::Executed,
        State::Failed,
        State::Refused,
        State::RollingBack,
        State::RollbackFailed,
        State::RolledBack,
    ];

    /// May a settlement take an action from here to `to`?
    ///
    /// What rests may be told of, and goes on resting. What is undone before the last word is said gets that first, and is
    /// then what any action is that is being undone.
    #[must_use]
    pub fn may_settle(self, to: State) -> bool {
        use State::{
            Approved, Challenged, Checking, Executed, Failed, Held, InDoubt, Refused, ReleaseFailed,
        };
        use State::{Reserved, Retracting, RollingBack, Sent, Unchecked, Waiting};
        matches!(
            (self, to),
            (Held | Approved, Failed | Refused)
                | (Sent, InDoubt | Executed | Failed)
                | (InDoubt, Executed | Failed)
                | (Waiting, Waiting | Executed | Failed)
                | (Challenged, InDoubt | Executed | Failed)
                | (Checking, Checking | Unchecked | Executed)
                | (Unchecked, Executed)
                | (Retracting, Retracting | RollingBack)
                | (Reserved, ReleaseFailed | Executed | Failed)
                | (ReleaseFailed, Executed | Failed)
        )
    }

    /// May a deferral take an action from here to `to`, where it rests until it is due?
    #[must_use]
    pub fn may_defer(self, to: State) -> bool {
        use State::{
            Challenged, Checking, Executed, InDoubt, ReleaseFailed, Reserved, Retracting, RollbackFailed,
        };
        use State::{RollingBack, Sent, Unchecked, Waiting};
        matches!(
            (self, to),
            (Sent | InDoubt, Waiting | Challenged)
                | (Sent | InDoubt | Waiting | Reserved | ReleaseFailed, Reserved)
                | (Sent | InDoubt | Challenged | Waiting | Reserved | Checking, Checking)
                | (Checking | Unchecked | Retracting, Retracting)
                | (Executed | RollingBack | RollbackFailed, RollingBack)
        )
    }

    /// Does an action that is here rest until it is due?
    #[must_use]
    pub fn rests(self) -> bool {
        matches!(
            self,
            State::Waiting
                | State::Reserved
                | State::Challenged
                | State::Checking
                | State::Retracting
                | State::RollingBack
        )
    }

    /// Is its effect being undone?
    #[must_use]
    pub fn is_being_undone(self) -> bool {
        matches!(self, State::Retracting | State::RollingBack)
    }

    /// May an action that is here be marked sent once more?
    #[must_use]
    pub fn may_be_sent_again(self) -> bool {
        matches!(self, State::Sent | State::InDoubt | State::Waiting | State::Reserved)
    }

    /// Is what is here only sent because somebody asks for that: another attempt of what failed, a charge of what is set
    /// aside?
    pub(crate) fn is_sent_when_asked(self) -> bool {
        matches!(self, State::Failed | State::Reserved)
    }

    /// May an amendment, which only adds to what was settled, leave an action that is here in `to`?
    ///
    /// A failed action becomes executed when a late answer contradicts the record, or is to be undone from then on where that
    /// is promised; an executed one failed when its provider denies what a person said, and what could not be undone ends by a
    /// person's word. An effect of an attempt before the latest leaves the action where the latest one stands.
    #[must_use]
    pub fn may_amend(self, to: State) -> bool {
        use State::{Executed, Failed, RollbackFailed, RolledBack, RollingBack};
        matches!(
            (self, to),
            (Executed, Failed)
                | (Failed, Failed | Executed | RollingBack)
                | (RollingBack, RolledBack | RollbackFailed)
                | (RollbackFailed, RolledBack | Executed)
        ) || (self == to && self.was_sent())
    }

    /// Was its latest attempt sent, and not known to have had no effect?
    fn was_sent(self) -> bool {
        use State::{Approved, Failed, Held, Refused, Waiting};
        !matches!(self, Held | Approved | Waiting | Failed | Refused)
    }

    /// Is nothing sent and nothing debited yet, because people have to agree first?
    #[must_use]
    pub fn waits(self) -> bool {
        matches!(self, State::Held | State::Approved)
    }

    /// Has the caller been given the last word? Amendments may still follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, State::Executed | State::Failed | State::Refused | State::RolledBack)
    }

    /// Was the last word on the effect itself said, so that what comes now amends it?
    #[must_use]
    pub fn is_amended(self) -> bool {
        self.is_final() || matches!(self, State::RollingBack | State::RollbackFailed)
    }

    /// Does an action in this state stand in the way of another one with the same effect?
    #[must_use]
    pub fn claims_effect(self) -> bool {
        !matches!(self, State::Failed | State::Refused | State::RolledBack)
    }

    /// The word used in logs and errors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Held => "held",
            State::Approved => "approved",
            State::Sent => "sent",
            State::InDoubt => "in doubt",
            State::Waiting => "waiting",
            State::Checking => "checking",
            State::Unchecked => "unchecked",
            State::Retracting => "retracting",
            State::Reserved => "reserved",
            State::ReleaseFailed => "release failed",
            State::RollingBack => "rolling back",
            State::RollbackFailed => "rollback failed",
            State::RolledBack => "rolled back",
            State::Challenged => "challenged",
            State::Executed => "executed",
            State::Failed => "failed",
            State::Refused => "refused",
        }
    }

    /// The number in the row.
    pub(crate) fn code(self) -> i64 {
        self as i64
    }

    /// The state a row's number means.
    pub(crate) fn from_code(code: i64) -> Option<State> {
        State::ALL.into_iter().find(|state| state.code() == code)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_open_state_has_a_way_out_and_no_final_one_is_settled_again() {
        for from in State::ALL {
            let ways_out = State::ALL.into_iter().filter(|to| *to != from && from.may_settle(*to)).count();
            assert_eq!(ways_out == 0, from.is_amended(), "{from}");
            let undone = [State::RollingBack, State::RolledBack, State::RollbackFailed];
            let goes_on = undone.into_iter().any(|to| from.may_amend(to) || from.may_defer(to));
            assert!(from.is_final() || ways_out > 0 || goes_on, "{from}");
        }
    }

    #[test]
    fn nothing_becomes_held_approved_or_sent_by_being_settled_or_amended() {
        for from in State::ALL {
            for to in [State::Held, State::Approved, State::Sent] {
                let stays = from == to && to == State::Sent;
                assert!(!from.may_settle(to) && (stays || !from.may_amend(to)), "{from} to {to}");
            }
        }
    }

    #[test]
    fn the_row_numbers_are_fixed() {
        let numbers: Vec<_> = State::ALL.into_iter().map(State::code).collect();
        assert_eq!(numbers, [1, 0, 2, 3, -1, -4, -8, -5, -6, -9, -7, 4, 5, 6, -2, -3, 7]);
        assert_eq!(State::from_code(8), None);
    }
}
