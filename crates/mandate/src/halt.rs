//! In what state a revoked session is left, from what it was doing.

use crate::Halt;

/// What a session was doing when it was revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Underway {
    /// Effects since the last breakpoint that cannot be undone.
    pub irreversible: u32,
    /// Actions that were sent, have not answered, and cannot be undone.
    pub irreversible_in_flight: u32,
    /// Actions that were sent, have not answered, and can be undone.
    pub reversible_in_flight: u32,
    /// Actions of which nobody knows whether they had an effect.
    pub in_doubt: u32,
    /// It did not answer before the cascade's time was over.
    pub unreachable: bool,
}

impl Underway {
    /// In what state that leaves the session. What can be undone may still be finished, so it leaves it clean.
    pub fn halt(&self) -> Halt {
        match self {
            Underway { unreachable: true, .. } => Halt::Unknown,
            Underway { in_doubt: 1.., .. } => Halt::Unknown,
            Underway { irreversible: 1.., .. } | Underway { irreversible_in_flight: 1.., .. } => {
                Halt::Partial
            }
            _ => Halt::Clean,
        }
    }
}

impl Halt {
    /// Whether the session counts as left in the middle.
    pub fn counts_as_partial(self) -> bool {
        match self {
            Halt::Clean => false,
            Halt::Partial | Halt::Unknown => true,
        }
    }

    /// The state once more is known.
    ///
    /// INVARIANT (unknown): what was not clean never becomes clean, whatever is learned later.
    pub fn learned(self, later: Halt) -> Halt {
        match (self, later) {
            (Halt::Clean, later) => later,
            (Halt::Partial, _) | (Halt::Unknown, Halt::Partial) => Halt::Partial,
            (Halt::Unknown, Halt::Clean | Halt::Unknown) => Halt::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Underway = Underway {
        irreversible: 0,
        irreversible_in_flight: 0,
        reversible_in_flight: 0,
        in_doubt: 0,
        unreachable: false,
    };

    #[test]
    fn what_was_under_way_says_how_a_session_is_left() {
        let check =
            |underway: Underway, expected: Halt| assert_eq!(underway.halt(), expected, "{underway:?}");
        check(NOTHING, Halt::Clean);
        check(Underway { reversible_in_flight: 3, ..NOTHING }, Halt::Clean);
        check(Underway { irreversible_in_flight: 1, ..NOTHING }, Halt::Partial);
        check(Underway { irreversible: 1, ..NOTHING }, Halt::Partial);
        check(Underway { in_doubt: 1, ..NOTHING }, Halt::Unknown);
        check(Underway { unreachable: true, ..NOTHING }, Halt::Unknown);
        check(Underway { in_doubt: 1, irreversible: 1, ..NOTHING }, Halt::Unknown);
    }

    #[test]
    fn nothing_is_ever_promoted_to_clean() {
        let all = [Halt::Clean, Halt::Partial, Halt::Unknown];
        for first in all {
            for later in all {
                let learned = first.learned(later);
                let clean = first == Halt::Clean && later == Halt::Clean;
                assert_eq!(learned == Halt::Clean, clean, "{first:?} {later:?}");
                assert_eq!(learned.counts_as_partial(), !clean);
            }
        }
        assert_eq!(Halt::Unknown.learned(Halt::Partial), Halt::Partial);
        assert_eq!(Halt::Partial.learned(Halt::Unknown), Halt::Partial);
    }
}
