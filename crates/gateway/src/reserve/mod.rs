//! Reserving: a provider sets money aside, and only what somebody asks for later is charged. Charging is a call of its own,
//! judged anew like every send that can have an effect. Setting free is compensation: it needs no permit, no mandate and no
//! deadline, only a freeze that includes it stops it, and it happens by itself when the reservation ends.

mod capture;
mod recall;
mod release;
mod row;
mod settle;
mod views;

use action::ActionId;
use execution::{Absence, Came, Effect, Reservation};
use ledger::{By, Deferral, State, Stored};

pub(crate) use self::row::ReservationRow;
pub use self::views::{CaptureView, ReservationView};
use crate::check::OURSELVES;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind, Outcome};
use crate::pending::Pending;
use crate::prove::absence_word;
use crate::remember::{draft, outward, unavailable};
use crate::resolve::RESOLVED;
use crate::row::{IntentRow, ResolutionRow, internal};
use crate::tenants::TenantState;
use crate::{Answer, Error, clock};

/// Why something is set free that nobody asked to be.
const EXPIRED: &str = "reservation_expired";
const NOT_CAPTURED: &str = "capture_refused";
/// Why it is, where somebody did.
const ASKED: &str = "released";

impl Gateway {
    /// Writes down that money is set aside for an action, or that what was to charge it came to nothing. What cannot be
    /// charged is set free at once, and so is what is set aside for an action that is `carried_out`.
    pub(crate) async fn set_aside(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        (it, came): (Reservation, &Came),
        effects: &[Effect],
        carried_out: bool,
    ) -> Result<Answer, Error> {
        // What is in hand may lack the most of it.
        let stored = self.stored(tenant, pending.id).await?;
        let mut row = IntentRow::of(&stored)?;
        match came {
            Came::Confirmed(confirmation) => {
                let call =
                    row.call.clone().ok_or_else(|| internal("a call that was sent is not on record"))?;
                let amount = it.money.ok_or_else(|| internal("nothing was to be set aside"))?.to_string();
                let (confirmed, until_ms) = (confirmation.reference.clone(), it.until_ms);
                let (captures, release) = (Vec::new(), None);
                row.reservation =
                    Some(Box::new(ReservationRow { call, confirmed, amount, until_ms, captures, release }));
            }
            Came::Uncharged(absence) => end_capture(&mut row, absence, pending.word.clone())?,
            Came::OnRecord => return Err(internal("an action stopped half way")),
        }
        let released = effects.iter().any(|effect| matches!(effect, Effect::Release));
        let (event, why) = match pending.word {
            Some(_) => (crate::resolve::EVENT, RESOLVED),
            None => (ledger::RESERVED, NOT_CAPTURED),
        };
        let mut pending = Pending { row, by: pending.by, ..Pending::restore(&stored, None)? };
        if released {
            self.plan_release(tenant, &mut pending, OURSELVES, why)?;
        }
        let due_ms = if released || carried_out { clock::now_ms() } else { it.until_ms };
        let (before, after) = match came {
            Came::Confirmed(_) => (Point::ReserveBefore, Point::ReserveAfter),
            _ => (Point::CaptureFailedBefore, Point::CaptureFailedAfter),
        };
        self.at(before)?;
        self.keep_reserved(tenant, &mut pending, due_ms, event).await?;
        self.at(after)?;
        if carried_out {
            self.ask_soon(pending.id);
        }
        if matches!(came, Came::Confirmed(_)) {
            self.metrics.outcome(Kind::Held);
        }
        if released {
            Box::pin(self.release_on(tenant, &pending)).await?;
            return self.said_of_reserved(&self.stored(tenant, pending.id).await?);
        }
        self.say_reserved(pending.id, &pending.row, false)
    }

    /// Writes down how its reservation stands, and when to look at it again.
    async fn keep_reserved(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        due_ms: i64,
        event: &'static str,
    ) -> Result<(), Error> {
        let state = State::Reserved;
        let (outward, attempt) = (Some(outward(state)), pending.attempt());
        let (payload, at_ms) = (pending.payload()?, clock::now_ms());
        let entry = draft(tenant, event, outward, &pending.name, attempt);
        let deferral = Deferral { action: pending.id, state, by: pending.by, at_ms, due_ms, payload, entry };
        self.ledger.defer(deferral).await.map_err(unavailable)?;
        pending.by = By::Holder(pending.by.token().saturating_add(1));
        Ok(())
    }

    pub(crate) fn said_of_reserved(&self, stored: &Stored) -> Result<Answer, Error> {
        match stored.state {
            State::Reserved | State::ReleaseFailed => {
                self.say_reserved(stored.id, &IntentRow::of(stored)?, false)
            }
            _ => self.last_said(stored),
        }
    }

    /// What is answered about an action for which money is set aside, first and on every repetition.
    pub(crate) fn say_reserved(
        &self,
        id: ActionId,
        row: &IntentRow,
        replayed: bool,
    ) -> Result<Answer, Error> {
        let reservation = reservation_of(row)?;
        let outcome = Outcome {
            action_id: Some(id),
            kind: Kind::Held,
            code: None,
            receipt: None,
            correlation_id: row.correlation_id.clone(),
            details: Details {
                hold_reason: Some("reservation".to_owned()),
                expires_at: Some(clock::text(reservation.until_ms)),
                status_url: Some(self.status_url(id)),
                provider_reference: reservation.confirmed.clone(),
                amount: Some(reservation.amount.clone()),
                currency: row.currency.clone(),
                ..Details::default()
            },
        };
        Ok(Answer {
            reply: (self.render)(&outcome, &self.public_url),
            replayed,
            action_id: Some(id),
            cycle: None,
            foreseen: None,
        })
    }
}

/// The capture under way had no effect; the latest call is the one that set the money aside again.
fn end_capture(
    row: &mut IntentRow,
    absence: &Absence,
    word: Option<Box<ResolutionRow>>,
) -> Result<(), Error> {
    let reservation = row.reservation.as_mut().ok_or_else(|| internal("nothing is set aside"))?;
    let capture = reservation.captures.iter_mut().find(|capture| capture.result.is_none());
    let capture = capture.ok_or_else(|| internal("nothing was to be charged"))?;
    capture.result = Some(absence_word(absence).to_owned());
    capture.ended_ms = Some(clock::now_ms());
    capture.send_by_ms = row.call.as_ref().map(|call| call.send_by_ms);
    capture.provider_code = match absence {
        Absence::Refused(refusal) => refusal.code.clone(),
        _ => None,
    };
    row.call = Some(reservation.call.clone());
    row.words.extend(word.map(|word| *word));
    Ok(())
}

pub(crate) fn reservation_of(row: &IntentRow) -> Result<&ReservationRow, Error> {
    row.reservation.as_deref().ok_or_else(|| internal("nothing is set aside"))
}
