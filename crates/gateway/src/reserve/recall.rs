//! Recall: what was set aside, or charged of that, and a store which was put back has forgotten.
//!
//! A capture is named by its number, whatever it charges: what is set aside is charged once, and another amount is no other charge of
//! it. So the captures that may have followed on those on record are asked after before another one is sent, and before what is set
//! aside is set free. One that had its effect is what the action came to, with what its provider says that it charged.

use std::cmp::Ordering;

use action::HmacKey;
use execution::{Absence, Call, Confirmation, Found, Purpose, Reservation, Stood};
use provider::Provider;

use super::row::{CaptureRow, ReservationRow};
use super::{EXPIRED, reservation_of};
use crate::check::OURSELVES;
use crate::forgotten::{is_unsaid, known_of, unsaid};
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::prove::absence_word;
use crate::rollback::{conflict, is_unbound};
use crate::row::internal;
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
        let known = known_of(provider.as_ref(), calls, until_ms).await?.pop();
        let Some((call, it)) = known else { return Ok(Recalled::Nothing) };
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

impl Gateway {
    /// Looks for attempts that were forgotten and have set money aside. One of which something was charged is what the action came
    /// to; one that is set aside still is the action's, to be charged or set free like any other. When it is due, Unix milliseconds.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` as long as the provider does not say of each whether there was one.
    pub(crate) async fn reserved_by_forgotten(
        &self,
        tenant: &TenantState,
        now: Pending,
        provider: &dyn Provider,
        later: Vec<Call>,
        left: (&Absence, i64),
    ) -> Result<Option<i64>, Error> {
        let mut reserved: Option<(Call, Confirmation)> = None;
        let mut is_untold = false;
        for call in later {
            let asked = Call { send_by_ms: left.1, ..call.clone() };
            let found = provider.query(&asked, clock::now_ms()).await;
            // What is charged is not set aside any more, and a provider may say no more of that: its captures tell.
            let it = match &found {
                Found::Confirmed(it) => it.clone(),
                Found::Absent { final_: true } if !provider.recalls_captures() => continue,
                _ if !provider.recalls_captures() => {
                    is_untold = true;
                    continue;
                }
                _ => Confirmation::default(),
            };
            let taken = now.reserved_by(&call, provider, &it, left)?;
            let recalled = match self.recall_capture(tenant, &taken).await {
                Err(error) if is_unsaid(&error) => {
                    is_untold = true;
                    continue;
                }
                recalled => recalled?,
            };
            match recalled {
                Recalled::Nothing => {}
                Recalled::Charged => return Ok(Some(clock::now_ms())),
                // It is for a person to say how much, where it cannot be set free.
                Recalled::Untold => {
                    return self.keep_recalled(tenant, taken, Some((OURSELVES, EXPIRED))).await.map(Some);
                }
            }
            match found {
                Found::Absent { final_: true } => {}
                Found::Confirmed(it) => {
                    let before = reserved.replace((call, it));
                    // A provider that goes by its key knows an attempt by all of its names.
                    let is_other = |(before, _): &(Call, Confirmation)| {
                        reserved.as_ref().is_some_and(|(call, _)| call.provider_key != before.provider_key)
                    };
                    if let Some((call, it)) = before.filter(is_other) {
                        self.set_stray_free(tenant, &now, provider, (&call, &it)).await;
                    }
                }
                _ => is_untold = true,
            }
        }
        // What is charged may be among what it does not say.
        if is_untold {
            return Err(unsaid());
        }
        let Some((call, it)) = reserved else { return Ok(None) };
        tracing::warn!(action = %now.id, reference = call.reference, "it had money set aside before the store forgot it");
        let taken = now.reserved_by(&call, provider, &it, left)?;
        // Who ends what is on record ends this too.
        let before = now.row.reservation.as_ref().and_then(|before| before.release.as_ref());
        let ends = before.map(|before| (&*before.by, &*before.why));
        self.keep_recalled(tenant, taken, ends).await.map(Some)
    }

    /// What is asked for anew, or waits for people, was not charged by way of a reservation in the stretch that is lost.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if it was, `EP_UNAVAILABLE` as long as the provider does not say.
    pub(crate) async fn must_not_be_charged(
        &self,
        key: &HmacKey,
        provider: &dyn Provider,
        calls: &[Call],
        until_ms: i64,
    ) -> Result<(), Error> {
        if !provider.recalls_captures() {
            return Ok(());
        }
        let captures = calls.iter().flat_map(|call| {
            (1..=MOST).map(|number| Call {
                provider_key: execution::capture_key(key, &call.provider_key, number),
                reference: execution::capture_reference(&call.reference, number),
                purpose: Purpose::Capture {
                    reservation: None,
                    of: Reservation { money: call.money, until_ms },
                },
                ..call.clone()
            })
        });
        match known_of(provider, captures.collect(), until_ms).await?.is_empty() {
            true => Ok(()),
            false => Err(conflict("it was reserved and charged before the store was put back")
                .hint("look into the provider's own books: it is not done again")),
        }
    }

    /// Has it stand as reserved from now on; `ends`: who has it set free at once, and why, if somebody does.
    async fn keep_recalled(
        &self,
        tenant: &TenantState,
        mut taken: Pending,
        ends: Option<(&str, &str)>,
    ) -> Result<i64, Error> {
        let until_ms = reservation_of(&taken.row)?.until_ms;
        if let Some((by, why)) = ends {
            self.plan_release(tenant, &mut taken, by, why)?;
        }
        let due_ms = if ends.is_some() { clock::now_ms() } else { until_ms };
        self.keep_reserved(tenant, &mut taken, due_ms, ledger::RESERVED).await?;
        self.wake_at(taken.id, due_ms);
        Ok(due_ms)
    }
}

impl Pending {
    /// As it stands if this attempt, which was forgotten, has set money aside.
    fn reserved_by(
        &self,
        call: &Call,
        provider: &dyn Provider,
        it: &Confirmation,
        left: (&Absence, i64),
    ) -> Result<Pending, Error> {
        let mut taken = self.clone();
        taken.row.followed_by(call, provider, left);
        let before = taken.row.reservation.take();
        if let Some(attempt) = taken.row.attempts.last_mut() {
            attempt.reservation = attempt.reservation.take().or(before);
        }
        let (call, asked) = (taken.row.call.clone(), self.money);
        let less = it.charged.filter(|held| {
            asked.is_some_and(|asked| matches!(held.compare(asked), Some(Ordering::Less | Ordering::Equal)))
        });
        let money = less.or(asked).ok_or_else(|| internal("nothing was to be set aside"))?;
        taken.row.reservation = Some(Box::new(ReservationRow {
            call: call.ok_or_else(|| internal("a call that was sent is not on record"))?,
            confirmed: it.reference.clone(),
            amount: money.to_string(),
            // Where nobody says when it was made, it is kept for no longer.
            until_ms: it.expires_ms.unwrap_or_else(clock::now_ms),
            captures: Vec::new(),
            release: None,
        }));
        Ok(taken)
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
                Err(conflict(why).hint(
                    "have it released, unless a capture is in doubt: let a person say what was charged then",
                ))
            }
        }
    }
}
