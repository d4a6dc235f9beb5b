//! Place: which of an action's calls is meant, and whether it is an earlier one. That is the one definition of it; whether
//! what such a call did is news is for whoever looks back.

use action::ActionId;
use ledger::Settled;

use crate::pending::Pending;
use crate::row::{AttemptRow, CallRow, EarlierRow, IntentRow, OutcomeRow};
use crate::{Error, clock};

/// A call of an action, by our name for it.
#[derive(Clone, Copy)]
pub(crate) struct CallRef<'a> {
    pub id: ActionId,
    pub attempt: u32,
    pub about: &'a str,
}

/// Where a call stands among those of its action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// What became of it is what becomes of the action.
    Latest,
    /// It was taken for absent before another one followed, or before an earlier one turned out to be what the action came to:
    /// an attempt, or one of the captures that were to charge what an attempt has set aside.
    Earlier,
}

impl IntentRow {
    /// Where this call stands; nothing if it is neither an attempt nor a capture. `came_to`: the earlier call by which the
    /// action is done, if it is.
    pub(crate) fn place(&self, attempt: u32, about: &str, came_to: Option<&EarlierRow>) -> Option<Place> {
        let is_last = self.call.as_ref().is_some_and(|call| call.reference == about);
        if is_last && came_to.is_none_or(|earlier| earlier.reference == about) {
            return Some(Place::Latest);
        }
        let over = self.attempts.iter().filter(|it| it.attempt == attempt);
        let before = over.flat_map(AttemptRow::references).any(|reference| reference == about);
        let captured = self.reservation.as_ref().is_some_and(|it| it.place_of(about).is_some());
        (is_last || before || captured).then_some(Place::Earlier)
    }

    /// What came late of its captures, which only its outcomes tell: each that had its effect was carried out, and the latest
    /// came to nothing where another is what the action came to.
    pub(crate) fn learn(&mut self, outcomes: &[Settled]) -> Result<(), Error> {
        let before = self.attempts.iter_mut().filter_map(|attempt| attempt.reservation.as_mut());
        let mut reservations: Vec<_> = before.chain(self.reservation.as_mut()).collect();
        for outcome in outcomes {
            let Some(earlier) = OutcomeRow::from_bytes(&outcome.payload)?.earlier else { continue };
            for reservation in &mut reservations {
                let Some(at) = reservation.place_of(&earlier.reference) else { continue };
                match &earlier.instead {
                    Some(word) => reservation.mark_charged_instead(at, word, outcome.at_ms),
                    None => reservation.mark_charged(at),
                }
            }
        }
        Ok(())
    }
}

impl Pending {
    /// Takes this call of this attempt for the latest. `false`, and nothing changes, if there is no such call that was taken
    /// for absent.
    pub(crate) fn speak_of(&mut self, attempt: u32, about: &str) -> bool {
        self.speak_instead(attempt, about, "failed")
    }

    /// The same. `word`: what is said of another capture that had charged the same reservation so far.
    fn speak_instead(&mut self, attempt: u32, about: &str, word: &str) -> bool {
        let (call, reservation) = match self.row.attempts.iter().find(|it| it.attempt == attempt) {
            Some(over) => (CallRow::of_attempt(over), over.reservation.clone()),
            None => match self.row.call.clone().filter(|call| call.attempt == attempt) {
                Some(call) => (call, self.row.reservation.clone()),
                None => return false,
            },
        };
        let captured = reservation.as_ref().and_then(|it| it.place_of(about));
        let (call, reservation) = match (captured, reservation) {
            (Some(at), Some(mut reservation)) => {
                reservation.mark_charged_instead(at, word, clock::now_ms());
                let call = reservation.charging().map(|capture| reservation.call_of(capture));
                (call, Some(reservation))
            }
            // What a call has set aside that is on record is nothing new.
            (None, None) if call.reference == about => (Some(call), None),
            _ => return false,
        };
        (self.row.call, self.row.reservation) = (call, reservation);
        true
    }

    /// The action as one whose effect is that of this earlier call. The latest attempt, if it is another, is one of those that
    /// are over; nothing of what it had set aside is lost.
    pub(crate) fn had_by(&mut self, earlier: &EarlierRow) {
        let latest = self.row.call.clone().filter(|call| call.attempt != earlier.attempt);
        let reservation = self.row.reservation.clone();
        let word = earlier.instead.as_deref().unwrap_or("failed");
        if self.speak_instead(earlier.attempt, &earlier.reference, word)
            && let Some(latest) = latest
            && !self.row.attempts.iter().any(|it| it.attempt == latest.attempt)
        {
            let over = latest.over(clock::now_ms(), word, None);
            self.row.attempts.push(AttemptRow { reservation, ..over });
        }
    }
}
