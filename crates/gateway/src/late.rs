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

mod denied;

use std::borrow::Cow;
use std::sync::Arc;

use action::{ActionId, GuaranteeLevel, PaymentMode};
use execution::{Call, Confirmation, Event, Found, Purpose, Reply, Stop};
use ledger::{By, Settled, Settlement, State, Stored};
use provider::Provider;
use receipt::{Json, PaymentStatus};

use crate::act::UnderWay;
use crate::alert::Alert;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::{Pending, Told};
use crate::prove::{Ending, push_split, refused};
use crate::recovery::reference;
use crate::remember::{charged_late, event, settlement, unavailable};
use crate::resolve::EVENT as RESOLVED;
use crate::rollback::done_row;
use crate::row::{AttemptRow, CallRow, EarlierRow, IntentRow, OutcomeRow, internal, money_of};
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::{Code, Error, clock};

/// A call before the latest: of an earlier attempt, or an earlier capture of what an attempt has set aside.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    pub id: ActionId,
    pub attempt: u32,
    /// Our name for the call.
    pub about: &'a str,
}

/// The effects of earlier calls that are on record, oldest first; at least one.
pub(crate) struct Known(Vec<(EarlierRow, OutcomeRow)>);

/// An action whose earlier call is looked at.
struct Back {
    stored: Stored,
    outcomes: Vec<Settled>,
    /// The action as if that call were its latest, with the receipt that said it had failed.
    pending: Pending,
    call: Call,
}

/// What stands beside what the latest call came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside {
    /// What earlier calls were debited, minor units.
    pub minor: i64,
    /// Whether earlier calls had an effect.
    pub effects: bool,
    /// Whether they alone had: the latest had none.
    pub alone: bool,
}

/// Why an action is done whose latest call had no effect, or what is set aside for it is set free.
pub(crate) const LATE: &str = Alert::LateEffect.as_str();
/// What people are told where an action has more than one effect.
const DUPLICATE: &str = Alert::DuplicateEffect.as_str();

impl Gateway {
    /// A provider says that an earlier call had its effect. Who can be asked is asked first.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` and `EP_UNAVAILABLE` if it has to be said again.
    pub(crate) async fn hear_of_earlier(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        before: Before<'_>,
        provider: &dyn Provider,
        reply: Reply,
    ) -> Result<(), Error> {
        let Some(Back { call, pending, .. }) = self.look_back(tenant, before).await? else { return Ok(()) };
        let event = match provider.capabilities().can_be_asked() {
            true => Event::Asked(provider.query(&call, clock::now_ms()).await),
            false => Event::Replied(reply),
        };
        match event {
            Event::Asked(Found::Confirmed(it)) | Event::Replied(Reply::Confirmed(it)) => {
                self.had_effect(tenant, before, provider, it, None).await
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
    pub(crate) async fn had_effect(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        before: Before<'_>,
        provider: &dyn Provider,
        confirmation: Confirmation,
        under_way: Option<UnderWay>,
    ) -> Result<(), Error> {
        let Some(mut back) = self.look_back(tenant, before).await? else { return Ok(()) };
        let _under_way = match under_way {
            None if is_taken_alone(back.stored.state) => {
                let under_way = self.look_after_alone(before.id).ok_or_else(busy)?;
                // Before it was marked, whoever had it in hand may have gone on with it.
                let Some(again) = self.look_back(tenant, before).await? else { return Ok(()) };
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
            if let Some(at) = now.row.reservation.as_ref().and_then(|it| it.place_of(before.about)) {
                return self.charged_by(tenant, &now, provider, at, confirmation).await;
            }
        }
        let (ending, debited) = self.of_earlier(&pending, &confirmation)?;
        let (attempt, reference) = (before.attempt, before.about.to_owned());
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
    async fn look_back(&self, tenant: &TenantState, before: Before<'_>) -> Result<Option<Back>, Error> {
        let stored = self.stored(tenant, before.id).await?;
        let outcomes = self.outcomes_of(&stored).await?;
        let mut pending = Pending::restore(&stored, None)?;
        let Before { attempt, about, .. } = before;
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
        let twice = has_effect(stored.state);
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

    /// The effects of earlier calls, where there are any.
    pub(crate) async fn earlier_effects(&self, pending: &Pending) -> Result<Option<Known>, Error> {
        let captured = pending.row.reservation.as_ref().is_some_and(|it| !it.captures.is_empty());
        if pending.attempt() <= 1 && pending.row.attempts.is_empty() && !captured {
            return Ok(None);
        }
        let outcomes = self.ledger.outcomes(&pending.tenant, pending.id).await.map_err(unavailable)?;
        Known::of(&outcomes)
    }

    /// What its latest call came to, beside the effects of earlier ones. If it came to nothing, the action is done
    /// nevertheless; the receipt tells of the latest call and of what was charged.
    pub(crate) fn beside<'a>(
        &self,
        pending: &Pending,
        ending: Ending<'a>,
        known: &Known,
    ) -> Result<(Pending, Ending<'a>, Beside), Error> {
        let (mut pending, mut ending) = (pending.clone(), ending);
        let beside = Beside { minor: known.minor(), effects: true, alone: ending.state == State::Failed };
        if !beside.alone {
            if ending.state == State::Executed {
                ending.details.reasons.push(DUPLICATE.to_owned());
            }
            return Ok((pending, ending, beside));
        }
        let Some((row, said)) = known.0.last() else { return Ok((pending, ending, beside)) };
        let reason = ending.details.reasons.first().map_or("failed", String::as_str).to_owned();
        let charged = money_of(said.details.amount.as_deref(), said.details.currency.as_deref())?;
        let charged = charged.filter(|_| row.debited.is_some_and(|debited| debited > 0));
        let payment = if charged.is_some() { PaymentStatus::Charged } else { PaymentStatus::NotCharged };
        let mut chain = self.begin_ending(&pending)?;
        let error = ending.code.map_or(Ok(Json::NULL), |code| refused(code, &reason))?;
        self.push_execute(&mut chain, &pending, "absent", None, None, error)?;
        push_split(&mut chain, &pending, charged, payment)?;
        pending.earlier = Some(EarlierRow { debited: None, instead: Some(reason), ..row.clone() });
        let details = Details { reasons: vec![LATE.to_owned()], ..said.details.clone() };
        let (kind, state, code, confirmation) = (Kind::Executed, State::Executed, None, said.confirmed()?);
        ending = Ending { kind, state, code, details, chain, confirmation, payment, charged };
        Ok((pending, ending, beside))
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
                    let before = Before { id: pending.id, attempt: attempt.attempt, about };
                    self.had_effect(tenant, before, provider.as_ref(), it, Some(under_way.clone())).await?;
                    if self.stored(tenant, pending.id).await?.state != State::Failed {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}

impl Known {
    /// The effects that these outcomes tell of, if any.
    fn of(outcomes: &[Settled]) -> Result<Option<Known>, Error> {
        let mut known = Vec::new();
        for outcome in outcomes {
            let row = OutcomeRow::from_bytes(&outcome.payload)?;
            if let Some(earlier) = row.earlier.clone().filter(|it| it.debited.is_some()) {
                known.push((earlier, row));
            }
        }
        Ok((!known.is_empty()).then_some(Known(known)))
    }

    /// Is this call's among them?
    fn has(&self, about: &str) -> bool {
        self.0.iter().any(|(row, _)| row.reference == about)
    }

    /// Is it by one of them that what is set aside for the latest attempt was charged?
    pub(crate) fn used_up(&self, row: &IntentRow) -> bool {
        let captures = row.reservation.iter().flat_map(|it| &it.captures);
        captures.into_iter().any(|capture| self.has(&capture.reference))
    }

    /// What they were debited.
    fn minor(&self) -> i64 {
        self.0.iter().filter_map(|(row, _)| row.debited).fold(0, i64::saturating_add)
    }
}

impl Beside {
    /// What stands against the mandates with what the latest call is charged.
    pub(crate) fn added_to(self, settlement: &mut Settlement) {
        if !self.effects {
            return;
        }
        settlement.charged = match self.alone {
            true => Some(self.minor),
            false => settlement.charged.map(|own| own.saturating_add(self.minor)),
        };
        let entry = &mut settlement.outcome.entry;
        // A person's word is told of as theirs.
        if !self.alone && settlement.outcome.state == State::Executed && entry.event != RESOLVED {
            entry.event = DUPLICATE;
        }
    }

    /// Did the latest call have its effect, too?
    pub(crate) fn is_twice(self, state: State) -> bool {
        self.effects && !self.alone && state == State::Executed
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
                reservation.charged_by(at, word, clock::now_ms());
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

impl IntentRow {
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
                    Some(word) => reservation.charged_by(at, word, outcome.at_ms),
                    None => reservation.has_effect(at),
                }
            }
        }
        Ok(())
    }
}

impl OutcomeRow {
    /// What was confirmed, where this says so.
    fn confirmed(&self) -> Result<Option<Cow<'static, Confirmation>>, Error> {
        let Some(answer) = &self.answer else { return Ok(None) };
        let answer =
            serde_json::from_str(answer.get()).map_err(|_| internal("a stored answer cannot be read"))?;
        let reference = self.reference.clone();
        Ok(Some(Cow::Owned(Confirmation { reference, answer, ..Confirmation::default() })))
    }
}

/// Why nothing of an action is sent any more that an earlier call has carried out.
pub(crate) fn carried_out() -> Stop {
    Stop { code: Code::StateConflict.as_str(), reasons: vec![LATE.to_owned()] }
}

/// Was this call said to have had no effect, and is it something else that the action came to? Captures of what is set aside
/// for the latest attempt are not looked at.
pub(crate) fn was_taken_for_absent(
    row: &IntentRow,
    outcomes: &[Settled],
    attempt: u32,
    about: &str,
) -> Result<bool, Error> {
    let latest = row.call.as_ref().map_or(0, |call| call.attempt);
    if attempt != latest {
        return Ok(row.attempts.iter().any(|it| it.attempt == attempt));
    }
    Ok(done_row(outcomes)?.and_then(|said| said.earlier).is_some_and(|earlier| earlier.reference != about))
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
fn has_effect(state: State) -> bool {
    use State::{Checking, Executed, Retracting, RollbackFailed, RolledBack, RollingBack, Unchecked};
    matches!(state, Checking | Unchecked | Retracting | Executed | RollingBack | RollbackFailed | RolledBack)
}
