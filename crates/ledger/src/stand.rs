//! Where an action stands by its row, and whether its entries leave it there.

use crate::State;
use crate::entry::{
    ADMITTED, CHALLENGED, CHARGING, CHECKING, HELD, RESERVED, RESOLVED, RETRACTING, ROLLBACK_FAILED,
    ROLLING_BACK, SENT_AGAIN, WAITING,
};

/// What the row of an action says of where it stands.
pub(crate) struct Stand {
    pub(crate) state: State,
    /// The entry with which it last went on after it was admitted.
    pub(crate) moved: Option<i64>,
    /// The row of its last outcome.
    pub(crate) outcome: Option<i64>,
    /// The entry and state of that outcome, if it is there.
    pub(crate) last: Option<(i64, State)>,
    /// Did as many people agree to its latest hold as have to?
    pub(crate) agreed: bool,
}

impl Stand {
    /// Does it stand where its last outcome left it, or where it began or went on to since? `event`: that of the entry with
    /// which its row was last written.
    pub(crate) fn is_left_by(&self, event: &str) -> bool {
        let outcome = self.last.map(|(entry, _)| entry);
        match (self.last, self.state) {
            (None, _) if self.outcome.is_some() => false,
            (Some((_, left)), state) if self.moved <= outcome => left == state,
            _ => self.went_on(event),
        }
    }

    /// The newest entry that it stands by, if it is not the one it began with.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.moved.max(self.last.map(|(entry, _)| entry))
    }

    /// May it stand where it does after it began, or went on, so? What is held goes nowhere before enough people agreed.
    fn went_on(&self, event: &str) -> bool {
        // One that had been in doubt may be sent after all, as the attempt after it; recovery takes both for in doubt.
        let doubted = matches!(self.last, Some((_, State::InDoubt)));
        match (event, self.state) {
            (WAITING, state) => state == State::Waiting,
            (CHALLENGED, state) => state == State::Challenged,
            (CHECKING, state) => state == State::Checking,
            (RETRACTING, state) => state == State::Retracting,
            // Older stores tell so, in the words of a rollback, of what was reserved and could not be set free so far.
            (RESERVED | ROLLBACK_FAILED, state) => state == State::Reserved,
            // A person has it undone or set free.
            (RESOLVED, state) => matches!(state, State::Reserved | State::Retracting),
            (ROLLING_BACK, state) => state == State::RollingBack,
            (SENT_AGAIN | CHARGING, State::Sent) => true,
            (SENT_AGAIN, state) => doubted && state == State::InDoubt,
            (HELD, State::Held) => true,
            (HELD, State::Approved) | (ADMITTED, State::Sent) => self.agreed,
            _ => false,
        }
    }
}

/// May the row of an action have been written anew with this event? What comes with an outcome writes no row. A later judgement
/// does; and older stores tell so, in the words of a rollback, of what could not be set free so far.
pub(crate) fn writes_row(event: &str) -> bool {
    goes_on(event) || [ADMITTED, HELD, ROLLBACK_FAILED].contains(&event)
}

/// Does this event go on with an action? Where it comes with an outcome, it is that which goes on.
pub(crate) fn goes_on(event: &str) -> bool {
    [WAITING, SENT_AGAIN, CHALLENGED, RESERVED, CHARGING, CHECKING, RETRACTING, ROLLING_BACK, RESOLVED]
        .contains(&event)
}
