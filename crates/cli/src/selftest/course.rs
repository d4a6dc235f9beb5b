//! The course of an action: what its client wants of it beyond being carried out at once, and what is done about it later.

use super::mode::{Level, Mode};

/// How it is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// Carried out at once.
    Act,
    /// Money is set aside, and charged then, or a half of it.
    Charge { half: bool },
    /// Money is set aside, and set free then.
    Release,
    /// Money is set aside, and nobody does anything about it.
    Expire,
    /// The payer confirms it.
    Confirm,
    /// The payer declines it.
    Decline,
    /// The payer never answers.
    Lapse,
}

/// What comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    Nothing,
    /// Once it was carried out, it is undone.
    Undo,
    /// Once it has failed, a person has it tried once more.
    Again,
    /// Once it was carried out, it is erased.
    Erase,
}

impl Course {
    /// The course of the action of this number, among those of its mode and level.
    pub(super) fn of(mode: Mode, number: usize) -> Course {
        match number % 16 {
            1 | 9 if mode.reserves() => Course::Charge { half: false },
            5 if mode.reserves() => Course::Charge { half: true },
            3 if mode.reserves() => Course::Release,
            7 if mode.reserves() => Course::Expire,
            2 | 10 if mode.challenges() => Course::Confirm,
            6 if mode.challenges() => Course::Decline,
            14 if mode.challenges() => Course::Lapse,
            _ => Course::Act,
        }
    }

    pub(super) fn reserves(self) -> bool {
        matches!(self, Course::Charge { .. } | Course::Release | Course::Expire)
    }

    pub(super) fn challenges(self) -> bool {
        matches!(self, Course::Confirm | Course::Decline | Course::Lapse)
    }

    pub(super) fn payment_mode(self) -> Option<&'static str> {
        if self.reserves() {
            Some("RESERVE_IF_AVAILABLE")
        } else if self.challenges() {
            Some("IMMEDIATE_CHARGE_WITH_CHALLENGE")
        } else {
            None
        }
    }

    /// What it takes of a cap that is to be a little too low: all that is charged, and some of what is given back.
    pub(super) fn weight(self, minor: i64) -> i64 {
        match self {
            Course::Act | Course::Charge { .. } | Course::Confirm => self.charges(minor),
            Course::Release | Course::Expire | Course::Decline | Course::Lapse => minor / 2,
        }
    }

    /// What it charges of what is authorised, in minor units, if all goes as it is wished.
    pub(super) fn charges(self, minor: i64) -> i64 {
        match self {
            Course::Charge { half: true } => minor / 2,
            _ => minor,
        }
    }
}

impl Later {
    /// `lot`: a number that was drawn.
    pub(super) fn of(course: Course, level: Level, lot: u64) -> Later {
        match course {
            Course::Decline | Course::Release => {
                if lot.is_multiple_of(2) {
                    Later::Again
                } else {
                    Later::Nothing
                }
            }
            Course::Act | Course::Charge { .. } | Course::Confirm => match (level, lot % 12) {
                (Level::Atp3, 0..=2) => Later::Undo,
                (_, 3) => Later::Erase,
                _ => Later::Nothing,
            },
            Course::Expire | Course::Lapse => Later::Nothing,
        }
    }
}
