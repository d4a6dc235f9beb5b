//! Late: words that contradict what was taken for settled. A call that was said to have had no effect, and was followed by
//! another one, had its effect all the same; or an effect is denied that was said to be there.
//!
//! A call is an attempt, or one of the captures that were to charge what an attempt has set aside. An effect of an earlier one
//! is a fact of the same action, whatever the latest comes to:
//!
//! ```text
//!   the latest call              what becomes of the action                      its effects
//!   ─────────────────────────────────────────────────────────────────────────────────────────
//!   waits to be sent, failed     is over: COMPLETED by the earlier one               1
//!   waits for people             cannot be: what is tried again is never held        –
//!   sent, in doubt, challenged   goes on, and is not sent again; its fate is found
//!                                   ├─ no effect: COMPLETED by the earlier one       1
//!                                   └─ its effect, too: COMPLETED                    2, people are told
//!   reserved, not set free       is set free, then COMPLETED by the earlier one      1
//!     the same, by a capture of it  is used up: COMPLETED by that                    1
//!   checking, done               stands                                              2, people are told
//!   being undone, undone         goes on: the earlier one stays, for a person        2, people are told
//! ```
//!
//! It is proven and debited in one commit, once, however often it is told. Whoever has the latest call in hand just then
//! finds that the token has risen, and looks again before they say what came of it.

mod beside;
mod denied;
mod place;

use std::sync::Arc;

use action::{GuaranteeLevel, PaymentMode};
use execution::{Call, Confirmation, Event, Found, Purpose, Reply, Stop};
use ledger::{By, Settled, State, Stored};
use provider::Provider;

pub(crate) use self::beside::Beside;
use self::beside::Known;
pub(crate) use self::place::{CallRef, Place};
use crate::act::UnderWay;
use crate::alert::Alert;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::pending::{Pending, Told};
use crate::prove::Ending;
use crate::recovery::reference;
use crate::remember::{charged_late, event, settlement, unavailable};
use crate::rollback::done_row;
use crate::row::{AttemptRow, CallRow, EarlierRow, IntentRow, OutcomeRow, internal};
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::{Code, Error, clock};

/// An action whose earlier call is looked at.
struct Back {
    stored: Stored,
    outcomes: Vec<Settled>,
    /// The action as if that call were its latest, with the receipt that said it had failed.
    pending: Pending,
    call: Call,
}

/// Why an action is done whose latest call had no effect.
const LATE: &str = Alert::LateEffect.as_str();
/// What people are told where an action has more than one effect.
const DUPLICATE: &str = Alert::DuplicateEffect.as_str();

impl Gateway {
    /// Where this call stands among those of its action.
    pub(crate) async fn place_of(
        &self,
        stored: &Stored,
        row: &IntentRow,
        of: CallRef<'_>,
    ) -> Result<Option<Place>, Error> {
        let outcomes = match stored.state.is_amended() {
            true => self.outcomes_of(stored).await?,
            false => Vec::new(),
        };
        place_among(row, &outcomes, of)
    }

    /// A provider says that an earlier call had its effect. Who can be asked is asked first.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` and `EP_UNAVAILABLE` if it has to be said again.
    pub(crate) async fn hear_of_earlier(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        of: CallRef<'_>,
        provider: &dyn Provider,
        reply: Reply,
    ) -> Result<(), Error> {
        let Some(Back { call, pending, .. }) = self.look_back(tenant, of).await? else { return Ok(()) };
        let event = match provider.capabilities().can_be_asked() {
            true => Event::Asked(provider.query(&call, clock::now_ms()).await),
            false => Event::Replied(reply),
        };
        match event {
            Event::Asked(Found::Confirmed(it)) | Event::Replied(Reply::Confirmed(it)) => {
                self.earlier_had_effect(tenant, of, provider, it, None).await
            }
            Event::Asked(Found::Unknown | Found::Absent { final_: false }) => {
                let why = "the provider does not say for certain what became of the attempt or the capture";
                Err(Error::new(Code::Unavailable, why).retry_after(5))
            }
            Event::Asked(Found::Absent { final_: true }) => {
                // It says so of itself, and denies it when it is asked: a person has to find out what is so.
                let told = pending.told.as_ref().map(|told| told.receipt.receipt_id.as_str());
                self.alert(Alert::DeniedEffect, &pending, told.unwrap_or_default());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// An earlier call had its effect: written down once, and told to people. `under_way`: whoever looks after the action, if
    /// that is who finds it.
    pub(crate) async fn earlier_had_effect(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        of: CallRef<'_>,
        provider: &dyn Provider,
        confirmation: Confirmation,
        under_way: Option<UnderWay>,
    ) -> Result<(), Error> {
        let Some(mut back) = self.look_back(tenant, of).await? else { return Ok(()) };
        let _under_way = match under_way {
            None if is_taken_alone(back.stored.state) => {
                let under_way = self.look_after_alone(of.id).ok_or_else(busy)?;
                // Before it was marked, whoever had it in hand may have gone on with it.
                let Some(again) = self.look_back(tenant, of).await? else { return Ok(()) };
                back = again;
                Some(under_way)
            }
            given => given,
        };
        let Back { stored, outcomes, mut pending, call } = back;
        if call.purpose == Purpose::Reserve {
            // Nothing is charged for it, and nothing will be.
            self.set_stray_free(tenant, &pending, provider, (&call, &confirmation)).await;
            return Ok(());
        }
        if matches!(stored.state, State::Reserved | State::ReleaseFailed) {
            let now = Pending::restore(&stored, self.told(&stored).await?)?;
            if let Some(at) = now.row.reservation.as_ref().and_then(|it| it.place_of(of.about)) {
                return self.done_by_capture(tenant, &now, provider, at, confirmation).await;
            }
        }
        let (ending, debited) = self.of_earlier(&pending, &confirmation)?;
        let (attempt, reference) = (of.attempt, of.about.to_owned());
        let earlier = EarlierRow { attempt, reference, debited: Some(debited), instead: None };
        match stored.state {
            State::Waiting | State::Failed => {
                let row = IntentRow::of(&stored)?;
                let instead = latest_absence(&row, &outcomes, attempt)?;
                pending.earlier = Some(EarlierRow {
                    instead: instead.filter(|_| stored.state == State::Failed),
                    ..earlier
                });
                let (_, told) = self.conclude_beside(tenant, &pending, ending, Beside::default()).await?;
                self.tell_of_late(&pending, told.map(|told| told.receipt.receipt_id));
                Ok(())
            }
            State::Held | State::Approved | State::Refused => Ok(()),
            _ => {
                pending.earlier = Some(earlier);
                self.stand_beside(tenant, (&stored, &outcomes), pending, (&confirmation, debited)).await
            }
        }
    }

    /// The action as it stands, and as if an earlier call were its latest. Nothing where there is no such call, or its effect
    /// is on record.
    async fn look_back(&self, tenant: &TenantState, of: CallRef<'_>) -> Result<Option<Back>, Error> {
        let stored = self.stored(tenant, of.id).await?;
        let outcomes = self.outcomes_of(&stored).await?;
        let mut pending = Pending::restore(&stored, None)?;
        let CallRef { attempt, about, .. } = of;
        if Known::of(&outcomes)?.is_some_and(|known| known.has(about)) || !pending.speak_of(attempt, about) {
            return Ok(None);
        }
        let ended_ms = pending.row.attempts.iter().find(|it| it.attempt == attempt).map(|it| it.ended_ms);
        pending.told = told_absent(&outcomes, ended_ms);
        let call = pending.call(self.environment, &tenant.rules())?;
        Ok(Some(Back { stored, outcomes, pending, call }))
    }

    /// What a late effect comes to by itself, and what the mandates are debited for it, minor units.
    fn of_earlier<'a>(
        &self,
        pending: &Pending,
        confirmation: &'a Confirmation,
    ) -> Result<(Ending<'a>, i64), Error> {
        let ending = self.confirmed(pending, confirmation)?;
        let debited = charged_late(State::Executed, pending.money, ending.charged).unwrap_or(0);
        Ok((ending, debited))
    }

    /// An earlier call is what an open action came to, whatever was said of that call.
    pub(crate) async fn done_by_earlier(
        &self,
        tenant: &TenantState,
        mut pending: Pending,
        (attempt, reference): (u32, String),
        confirmation: &Confirmation,
    ) -> Result<(), Error> {
        let (ending, debited) = self.of_earlier(&pending, confirmation)?;
        pending.earlier = Some(EarlierRow { attempt, reference, debited: Some(debited), instead: None });
        let (_, told) = self.conclude_with_receipt(tenant, &pending, ending).await?;
        self.tell_of_late(&pending, told.map(|told| told.receipt.receipt_id));
        Ok(())
    }

    /// The action is not over, or came to an effect of its own: what it stands at does not change.
    async fn stand_beside(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        (stored, outcomes): (&Stored, &[Settled]),
        mut pending: Pending,
        (confirmation, debited): (&Confirmation, i64),
    ) -> Result<(), Error> {
        if pending.told.is_none() {
            pending.told = Some(self.say_open(tenant, stored).await?);
            pending.by = By::Holder(stored.token.saturating_add(1));
        }
        let mut ending = self.confirmed(&pending, confirmation)?;
        let twice = latest_had_effect(stored.state);
        let before = match twice {
            true => stored.debit,
            false => Known::of(outcomes)?.map_or(0, |known| known.minor()),
        };
        ending.state = stored.state;
        let proven = self.prove(&pending, ending, &pending.row.correlation_id)?;
        let cost = proven.cost(before);
        let overage = self.overage(&pending, &cost, false)?;
        let mut settlement = settlement(tenant, &pending, proven, overage);
        // What the caller was told of the latest call, or will be, stands.
        settlement.outcome.reply = None;
        settlement.charged = (debited > 0).then(|| stored.debit.saturating_add(debited));
        if twice {
            settlement.outcome.entry.event = DUPLICATE;
        }
        // Of what is open nothing was counted yet: that is, once it is over.
        if let Some(used) = &mut settlement.used {
            used.beside = true;
            used.envelopes = self.envelopes(&pending, used).await?;
        }
        self.at(Point::LateBefore)?;
        let overage = self.settle_at(tenant, &pending, settlement, (&cost, true)).await?;
        self.at(Point::LateAfter)?;
        let receipt = cost.receipt_id;
        if twice {
            self.alert(Alert::DuplicateEffect, &pending, receipt.as_deref().unwrap_or_default());
        }
        self.tell_of_late(&pending, receipt);
        if let Some(overage) = overage {
            self.alert(Alert::Overage, &pending, &overage);
        }
        // What is set aside beside it is due from now on, to be set free.
        self.ask_soon(stored.id);
        Ok(())
    }

    /// Nothing was said of the latest call yet. That it is open comes first, so that there is something to amend.
    async fn say_open(&self, tenant: &TenantState, stored: &Stored) -> Result<Told, Error> {
        let pending = Pending::restore(stored, None)?;
        let ending = self.unsettled(&pending, stored.state)?;
        let proven = self.prove(&pending, ending, &pending.row.correlation_id)?;
        let (at_ms, receipt) = (proven.at_ms, proven.outcome.receipt.clone());
        let mut settlement = settlement(tenant, &pending, proven, None);
        // Whoever has the call in hand answers its caller.
        settlement.outcome.reply = None;
        settlement.outcome.entry.event = event(State::InDoubt, None);
        self.ledger.amend(settlement).await.map_err(unavailable)?;
        let receipt = receipt.ok_or_else(|| internal("what is open has no receipt"))?;
        Ok(Told { at_ms, receipt })
    }

    pub(crate) fn tell_of_late(&self, pending: &Pending, receipt_id: Option<String>) {
        self.alert(Alert::LateEffect, pending, &receipt_id.unwrap_or_default());
    }

    /// Asks after the attempts before the latest: one of them may have come late. `true` if that is what the action came to.
    pub(crate) async fn earlier_tells(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        pending: &Pending,
        under_way: &UnderWay,
    ) -> Result<bool, Error> {
        let rules = tenant.rules();
        let Some(provider) = rules.providers.get(&*pending.archetype) else { return Ok(false) };
        if !provider.capabilities().can_be_asked() {
            return Ok(false);
        }
        for attempt in pending.row.attempts.iter().filter(|it| it.provider == provider.name()) {
            for about in attempt.references() {
                let mut then = pending.clone();
                if !then.speak_of(attempt.attempt, about) {
                    continue;
                }
                let call = then.call(self.environment, &rules)?;
                if let Found::Confirmed(it) = provider.query(&call, clock::now_ms()).await {
                    let of = CallRef { id: pending.id, attempt: attempt.attempt, about };
                    self.earlier_had_effect(tenant, of, provider.as_ref(), it, Some(under_way.clone()))
                        .await?;
                    if self.stored(tenant, pending.id).await?.state != State::Failed {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Why nothing of an action is sent any more that an earlier call has carried out.
pub(crate) fn carried_out() -> Stop {
    Stop { code: Code::StateConflict.as_str(), reasons: vec![LATE.to_owned()] }
}

fn place_among(row: &IntentRow, outcomes: &[Settled], of: CallRef<'_>) -> Result<Option<Place>, Error> {
    let came_to = done_row(outcomes)?.and_then(|said| said.earlier);
    Ok(row.place(of.attempt, of.about, came_to.as_ref()))
}

/// An effect that comes after the last word, and was promised to be there once or not at all, is to be undone from then on.
/// Beside another one it is not: which of them is to stay is for a person.
pub(crate) fn undone_at_once<'a>(pending: &Pending, ending: Ending<'a>, beside: Beside) -> Ending<'a> {
    let once = pending.row.guarantee_level == GuaranteeLevel::Atp3.as_str();
    let is_price = pending.row.payment_mode == PaymentMode::QuoteOnly.as_str();
    let late = pending.settled && ending.state == State::Executed && !beside.effects;
    match late && once && !is_price {
        true => Ending { state: State::RollingBack, ..ending },
        false => ending,
    }
}

/// Does whoever writes down a late effect of an action that stands here have to be alone with it? Whoever is at it would be
/// fenced, and what that came to would not be written down.
fn is_taken_alone(state: State) -> bool {
    state.is_being_undone() || matches!(state, State::Reserved | State::ReleaseFailed | State::Failed)
}

/// The receipt that said of an attempt that it had failed: of those until it was over the last, or the first that told
/// anything.
fn told_absent(outcomes: &[Settled], ended_ms: Option<i64>) -> Option<Told> {
    let by_then = |it: &&Settled| ended_ms.is_none_or(|ended_ms| it.at_ms <= ended_ms);
    let failed = outcomes.iter().rfind(|it| it.receipt.is_some() && it.state == State::Failed && by_then(it));
    let told = failed.or_else(|| outcomes.iter().find(|it| it.receipt.is_some()))?;
    Some(Told { at_ms: told.at_ms, receipt: reference(told.receipt.clone()?) })
}

/// How it is known that the latest attempt of a failed action had no effect, in the word of the outcome that told it; nothing
/// if that is the attempt which had the effect, or one that is listed with those that are over.
fn latest_absence(row: &IntentRow, outcomes: &[Settled], attempt: u32) -> Result<Option<String>, Error> {
    let over = |call: &CallRow| row.attempts.iter().any(|it: &AttemptRow| it.attempt == call.attempt);
    if row.call.as_ref().is_none_or(|call| call.attempt == attempt || over(call)) {
        return Ok(None);
    }
    let told = outcomes.iter().rfind(|it| it.state == State::Failed && it.receipt.is_some());
    let told = told.map(|it| OutcomeRow::from_bytes(&it.payload)).transpose()?;
    let word = told.and_then(|row| row.details.reasons.into_iter().next());
    Ok(Some(word.unwrap_or_else(|| "failed".to_owned())))
}

/// Is the effect of its latest call there, or was it?
pub(crate) fn latest_had_effect(state: State) -> bool {
    use State::{Checking, Executed, Retracting, RollbackFailed, RolledBack, RollingBack, Unchecked};
    matches!(state, Checking | Unchecked | Retracting | Executed | RollingBack | RollbackFailed | RolledBack)
}
