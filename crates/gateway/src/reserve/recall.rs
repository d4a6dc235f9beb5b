//! Recall: a capture of what was set aside that a store which was put back has forgotten.
//!
//! A capture is named by its number, whatever it charges: what is set aside is charged once, and another amount is no other charge of
//! it. So the captures that may have followed on those on record are asked after before another one is sent, and before what is set
//! aside is set free. One that had its effect is what the action came to, with what its provider says that it charged.

use execution::{Absence, Stood};

use super::reservation_of;
use super::row::CaptureRow;
use crate::check::OURSELVES;
use crate::forgotten::known_of;
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::prove::absence_word;
use crate::rollback::{conflict, is_unbound};
use crate::tenants::TenantState;
use crate::{Error, clock};

/// So many captures beyond those on record are asked about.
const MOST: usize = 4;

/// What is known of captures that were forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// There were none.
    Nothing,
    /// One has charged what was set aside: that is on record, to be looked after and told.
    Charged,
    /// One has, and the provider does not say how much.
    Untold,
}

impl Gateway {
    /// Asks after the captures that may have followed on those on record.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` as long as the provider does not say whether there were any.
    pub(crate) async fn recall_capture(
        &self,
        tenant: &TenantState,
        pending: &Pending,
    ) -> Result<Recalled, Error> {
        let reservation = reservation_of(&pending.row)?;
        let Some(until_ms) = self.forgot_after_ms(&tenant.tenant, &reservation.call) else {
            return Ok(Recalled::Nothing);
        };
        let of = reservation.read(pending.money)?;
        let provider = match self.bound(pending, &tenant.rules(), Stood::Reserved(of)) {
            Ok((provider, _)) if provider.recalls() => provider,
            Ok(_) => return Ok(Recalled::Nothing),
            // Nothing is sent to it either.
            Err(error) if is_unbound(&error) => return Ok(Recalled::Nothing),
            Err(error) => return Err(error),
        };
        let (before, now_ms) = (reservation.captures.len(), clock::now_ms());
        let mut forgotten = Vec::new();
        for number in (1..=MOST).map(|more| before + more) {
            let by = (OURSELVES, now_ms);
            forgotten.push(CaptureRow::asked(by, reservation, &tenant.hmac, number, &reservation.amount));
        }
        let calls = forgotten.iter().map(|it| self.capture_of(tenant, pending, it));
        let calls = calls.collect::<Result<_, _>>()?;
        let Some((call, it)) = known_of(provider.as_ref(), calls, until_ms).await? else {
            return Ok(Recalled::Nothing);
        };
        let Some(charged) = it.charged else { return Ok(Recalled::Untold) };
        forgotten
            .truncate(forgotten.iter().position(|it| it.reference == call.reference).map_or(0, |at| at + 1));
        let mut row = pending.row.clone();
        if let Some(reservation) = &mut row.reservation {
            reservation.captures.extend(forgotten);
            for capture in reservation.captures.iter_mut().filter(|it| it.result.is_none()) {
                (capture.result, capture.ended_ms) =
                    (Some(absence_word(&Absence::Final).to_owned()), Some(now_ms));
            }
            if let Some(capture) = reservation.captures.last_mut() {
                (capture.result, capture.ended_ms) = (None, None);
                if of.money.is_some_and(|held| held.currency() == charged.currency()) {
                    capture.amount = charged.to_string();
                }
                let capture = capture.clone();
                row.call = Some(reservation.call_of(&capture));
            }
        }
        let now = Pending { row: row.clone(), ..pending.clone() };
        self.check_from(tenant, &now, row, (&it, 0), now_ms).await?;
        Ok(Recalled::Charged)
    }
}

impl Recalled {
    /// Has one charged what was set aside?
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if one has, and it is not known how much.
    pub(crate) fn has_charged(self) -> Result<bool, Error> {
        match self {
            Recalled::Nothing => Ok(false),
            Recalled::Charged => Ok(true),
            Recalled::Untold => {
                let why = "it was charged before the store was put back, and nobody says how much";
                Err(conflict(why).hint("release it: it is then for a person to say what was charged"))
            }
        }
    }
}
