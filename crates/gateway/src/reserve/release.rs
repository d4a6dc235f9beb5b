//! Release: what is set aside is set free, by request, because it cannot be charged, or because its time is over. A step is
//! on record before it leaves, and is repeated under the same key until the provider confirms it.

use std::sync::Arc;

use action::ActionId;
use execution::{
    Absence, Call, Confirmation, Doubt, Effect, Event, Execution, Found, Purpose, Reply, Stood, Undo,
    release_key, release_reference,
};
use ledger::{State, Stored};
use provider::Provider;

use super::recall::Recalled;
use super::row::{CaptureRow, ReleaseRow};
use super::{ASKED, EXPIRED, reservation_of};
use crate::act::{UnderWay, waits_until};
use crate::alert::Alert;
use crate::caller::{Caller, Deed};
use crate::check::OURSELVES;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::prove::absence_word;
use crate::pursue::Pursued;
use crate::rollback::{LEASE_AFTER, conflict, flight, is_unbound, millis};
use crate::row::{IntentRow, internal};
use crate::steer::busy;
use crate::tenants::{Rules, TenantState};
use crate::views::ActionView;
use crate::{Error, clock};

impl Gateway {
    /// Has what is set aside for an action set free. However often it is asked for, that happens once; answers with how it
    /// stands after the first step.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if nothing is set aside (any more), or while a freeze stops it that includes rollbacks.
    pub async fn release(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<ActionView, Error> {
        caller.must(Deed::Steer)?;
        let stored = self.visible(caller, id).await?;
        if !is_released(&stored)? {
            let Some(under_way) = self.look_after_alone(stored.id) else { return Err(busy()) };
            let (gateway, tenant) = (Arc::clone(self), Arc::clone(self.tenant(&stored.tenant)?));
            let (by, id) = (caller.subject.to_string(), stored.id);
            // In a task of its own: who hangs up has asked for it all the same.
            let task = tokio::spawn(async move { gateway.begin_release(&tenant, id, by, under_way).await });
            task.await.unwrap_or_else(|_| Err(internal("a release ended without a word")))?;
        }
        self.action(caller, id).await
    }

    async fn begin_release(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        id: ActionId,
        by: String,
        _under_way: UnderWay,
    ) -> Result<(), Error> {
        // Read once it is marked: before, whoever had it in hand may have gone on with it.
        let stored = self.stored(tenant, id).await?;
        if is_released(&stored)? {
            return Ok(());
        }
        if !matches!(stored.state, State::Reserved | State::ReleaseFailed) {
            return Err(conflict("nothing is set aside for the action"));
        }
        let mut pending = Pending::restore(&stored, None)?;
        self.may_release(tenant, &stored, &pending).await?;
        self.plan_release(tenant, &mut pending, &by, ASKED)?;
        self.at(Point::ReleaseBefore)?;
        self.keep_reserved(tenant, &mut pending, clock::now_ms(), ledger::RESERVED).await?;
        self.at(Point::ReleaseAfter)?;
        self.release_on(tenant, &pending).await.map(drop)
    }

    /// Looks after an action for which money is set aside and whose turn it is.
    pub(crate) async fn tend_reserved(
        &self,
        tenant: &TenantState,
        stored: &Stored,
    ) -> Result<Pursued, Error> {
        let mut pending = Pending::restore(stored, None)?;
        if reservation_of(&pending.row)?.release.is_none() {
            // What an earlier attempt has carried out is not to be charged once more.
            let carried_out = self.earlier_effects(&pending).await?.is_some();
            if !carried_out && let Some(until_ms) = self.keeps_until(tenant, &pending)? {
                return Ok(Pursued::Rests(until_ms));
            }
            let why = if carried_out { absence_word(&Absence::Released) } else { EXPIRED };
            self.plan_release(tenant, &mut pending, OURSELVES, why)?;
            self.at(Point::ExpiryBefore)?;
            self.keep_reserved(tenant, &mut pending, clock::now_ms(), ledger::RESERVED).await?;
            self.at(Point::ExpiryAfter)?;
        }
        self.release_on(tenant, &pending).await.map(Pursued::Rests)
    }

    /// The first step of setting free what is noted to be. Whoever has taken it in hand since then goes on with it.
    pub(super) async fn release_on(&self, tenant: &TenantState, pending: &Pending) -> Result<i64, Error> {
        let stored = self.stored(tenant, pending.id).await?;
        if !pending.still_holds(&stored) {
            return Ok(stored.due_ms.unwrap_or_else(|| self.soon_ms()));
        }
        self.release_further(tenant, &stored).await
    }

    /// Until when it stays set aside, Unix milliseconds, if its time is not over.
    fn keeps_until(&self, tenant: &TenantState, pending: &Pending) -> Result<Option<i64>, Error> {
        let reservation = reservation_of(&pending.row)?;
        let (of, until_ms) = (reservation.read(pending.money)?, reservation.until_ms);
        match self.bound(pending, &tenant.rules(), Stood::Reserved(of)) {
            Ok((provider, call)) => {
                let execution = pending.execution(call, provider.as_ref(), Stood::Reserved(of));
                let (_, effects) = self.step(execution, Event::Woken)?;
                Ok(waits_until(&effects))
            }
            // Until its time is over it can still be bound as it was.
            Err(error) if is_unbound(&error) => Ok((clock::now_ms() < until_ms).then_some(until_ms)),
            Err(error) => Err(error),
        }
    }

    /// Notes that it is to be set free, and why.
    pub(super) fn plan_release(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        by: &str,
        why: &str,
    ) -> Result<(), Error> {
        let now_ms = clock::now_ms();
        let before = reservation_of(&pending.row)?.release.as_ref().map(|before| before.by.clone());
        before.iter().map(String::as_str).chain([by]).for_each(|by| pending.row.steered(by));
        let reservation = pending.row.reservation.as_mut().ok_or_else(|| internal("nothing is set aside"))?;
        reservation.release = Some(ReleaseRow {
            by: by.to_owned(),
            why: why.to_owned(),
            asked_ms: now_ms,
            provider_key: release_key(&tenant.hmac, &reservation.call.provider_key),
            reference: release_reference(&reservation.call.reference),
            sends: 0,
            first_ms: now_ms,
        });
        Ok(())
    }

    /// One step of setting it free: it is on record before it leaves. Answers with when the next one is due, in Unix
    /// milliseconds.
    pub(super) async fn release_further(&self, tenant: &TenantState, stored: &Stored) -> Result<i64, Error> {
        let mut pending = Pending::restore(stored, self.told(stored).await?)?;
        let (provider, execution) = match self.releasing(&pending, &tenant.rules()) {
            Ok(found) => found,
            Err(error) if is_unbound(&error) => {
                tracing::warn!(action = %stored.id, %error, "nobody is bound any more who could set free what is set aside");
                self.not_released(tenant, &pending).await?;
                return Ok(clock::now_ms());
            }
            Err(error) => return Err(error),
        };
        if self.stops_rollback(stored, provider.as_ref()).await? {
            return Ok(self.soon_ms());
        }
        match self.recall_capture(tenant, &pending).await? {
            Recalled::Nothing => {}
            Recalled::Charged => return Ok(clock::now_ms()),
            Recalled::Untold => {
                self.not_released(tenant, &pending).await?;
                return Ok(clock::now_ms());
            }
        }
        let (execution, effects) = self.step(execution, Event::Woken)?;
        let Some(Effect::Retract(call)) = effects.first() else {
            return Err(internal("what is set aside cannot be set free"));
        };
        let release = pending.row.reservation.as_mut().and_then(|it| it.release.as_mut());
        let release = release.ok_or_else(|| internal("nothing sets it free"))?;
        release.sends = release.sends.saturating_add(1);
        let lease_ms = clock::now_ms() + millis(flight(provider.as_ref()) + LEASE_AFTER);
        self.keep_reserved(tenant, &mut pending, lease_ms, ledger::RESERVED).await?;
        self.at(Point::ReleaseSendBefore)?;
        let reply = provider.call(call, clock::now_ms()).await;
        self.at(Point::ReleaseSendAfter)?;
        let Some(reply) = self.uncharged(tenant, &pending, provider.as_ref(), reply).await? else {
            return Ok(clock::now_ms());
        };
        let (execution, effects) = self.step(execution, Event::Undone(reply))?;
        if let execution::State::Failed(absence) = execution.state() {
            self.released(tenant, pending, absence).await?;
            return Ok(clock::now_ms());
        }
        if let execution::State::ReleaseFailed(_) = execution.state() {
            self.not_released(tenant, &pending).await?;
            return Ok(clock::now_ms());
        }
        let until_ms = waits_until(&effects).unwrap_or_else(|| self.soon_ms());
        self.keep_reserved(tenant, &mut pending, until_ms, ledger::RESERVED).await?;
        Ok(until_ms)
    }

    /// A provider says of itself that what was set aside is free, which counts as its answer.
    pub(crate) async fn freed(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        id: ActionId,
        reply: Reply,
    ) -> Result<(), Error> {
        let (_under_way, stored, pending) = self.take_in_hand(tenant, id).await?;
        if !matches!(stored.state, State::Reserved | State::ReleaseFailed) {
            return Ok(());
        }
        let (_, execution) = self.releasing(&pending, &tenant.rules())?;
        let (execution, _) = self.step(execution, Event::Undone(reply))?;
        match execution.state() {
            execution::State::Failed(absence) => self.released(tenant, pending, absence).await,
            _ => Ok(()),
        }
    }

    /// A provider that can be asked says that what could not be set free is free: that is asked by having it set free once
    /// more, in the name of whoever had it so before.
    pub(crate) async fn release_once_more(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        id: ActionId,
    ) -> Result<(), Error> {
        let under_way = self.look_after_alone(id).ok_or_else(busy)?;
        let row = IntentRow::of(&self.stored(tenant, id).await?)?;
        let before = reservation_of(&row)?.release.as_ref().map(|release| release.by.clone());
        self.begin_release(tenant, id, before.unwrap_or_else(|| OURSELVES.to_owned()), under_way).await
    }

    /// The machine as it stands on record.
    fn releasing(&self, pending: &Pending, rules: &Rules) -> Result<(Arc<dyn Provider>, Execution), Error> {
        let reservation = reservation_of(&pending.row)?;
        let release = reservation.release.as_ref().ok_or_else(|| internal("nothing sets it free"))?;
        let of = reservation.read(pending.money)?;
        let (provider, call) = self.bound(pending, rules, Stood::Releasing(of))?;
        let free = Call {
            provider_key: release.provider_key.clone(),
            reference: release.reference.clone(),
            send_by_ms: clock::now_ms() + millis(flight(provider.as_ref())),
            purpose: Purpose::Release { reservation: reservation.confirmed.clone(), of },
            ..call.clone()
        };
        let undo = Undo { call: Arc::new(free), sends: release.sends, first_ms: release.first_ms };
        let (terms, course) = (pending.terms(provider.as_ref()), reservation.call.course());
        let stood = Stood::Releasing(of);
        Ok((provider, Execution::recover_undone(call, terms, course, stood, Some(undo))))
    }

    /// It cannot be set free: it stays set aside, and a person decides.
    async fn not_released(&self, tenant: &TenantState, pending: &Pending) -> Result<(), Error> {
        self.note(tenant, pending, State::ReleaseFailed).await?;
        let receipt = pending.told.as_ref().map(|told| told.receipt.receipt_id.as_str());
        self.alert(Alert::RollbackFailed, pending, receipt.unwrap_or_default());
        Ok(())
    }

    /// It is free: nothing was charged, and the mandate gets back what was debited.
    pub(super) async fn released(
        &self,
        tenant: &TenantState,
        mut pending: Pending,
        absence: &Absence,
    ) -> Result<(), Error> {
        // What attempts that were forgotten have set aside, or charged of that, is on record now and looked after by itself.
        if self.done_by_forgotten(tenant, &pending, absence).await?.is_some() {
            return Ok(());
        }
        let Pending { row: IntentRow { call, reservation, .. }, .. } = &mut pending;
        // The receipt tells of the call that set it free.
        if let (Some(call), Some(release)) = (call, reservation.as_ref().and_then(|it| it.release.as_ref())) {
            (call.provider_key, call.reference) = (release.provider_key.clone(), release.reference.clone());
        }
        let ending = self.absent(&pending, absence);
        self.conclude(tenant, &pending, ending).await.map(drop)
    }

    /// The answer of what sets free, unless a capture had charged what is not there any more. While nobody says whether one
    /// had, that it is gone does not count as an answer.
    async fn uncharged(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        provider: &dyn Provider,
        reply: Reply,
    ) -> Result<Option<Reply>, Error> {
        let freed = match &reply {
            Reply::Confirmed(_) => true,
            Reply::Refused(refusal) if !refusal.transient => false,
            _ => return Ok(Some(reply)),
        };
        Ok(match self.charged_after_all(tenant, pending, provider).await? {
            Found::Confirmed(_) => None,
            Found::Unknown if freed => {
                let why = "nobody says whether a capture has charged it".to_owned();
                Some(Reply::Lost { how: Doubt::NoAnswer, why })
            }
            _ => Some(reply),
        })
    }

    /// Asks after everything that was to charge what is set aside. If one of them has, that is written down, and `Confirmed`;
    /// otherwise, how sure it is that nothing has.
    pub(crate) async fn charged_after_all(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        provider: &dyn Provider,
    ) -> Result<Found, Error> {
        let (at, found) = self.captures_tell(tenant, pending, provider).await?;
        if let Found::Confirmed(it) = &found {
            self.done_by_capture(tenant, pending, provider, at, it.clone()).await?;
        }
        Ok(found)
    }

    /// Asks after everything that was to charge what was set aside: it may have done so after it was said to be absent. Which
    /// has, or how sure it is that nothing has.
    pub(crate) async fn captures_tell(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        provider: &dyn Provider,
    ) -> Result<(usize, Found), Error> {
        let asks = provider.capabilities().can_be_asked();
        let mut all = Found::Absent { final_: true };
        let captures = &reservation_of(&pending.row)?.captures;
        for (at, capture) in captures.iter().enumerate() {
            let call = self.capture_of(tenant, pending, capture)?;
            let found = provider.query(&call, clock::now_ms()).await;
            // What was refused, or never left, was not carried out whoever says nothing of it.
            let doubtful = capture.result.is_none() || (asks && capture.is_doubtful());
            match found {
                Found::Confirmed(_) => return Ok((at, found)),
                Found::Unknown if doubtful => all = Found::Unknown,
                Found::Absent { final_: false } if doubtful && all != Found::Unknown => all = found,
                _ => {}
            }
        }
        Ok((captures.len(), all))
    }

    /// The call of a capture, as it left.
    pub(super) fn capture_of(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        capture: &CaptureRow,
    ) -> Result<Call, Error> {
        let (purpose, money) = reservation_of(&pending.row)?.charge(capture, pending.money)?;
        let (provider_key, reference) = (capture.provider_key.clone(), capture.reference.clone());
        let call = pending.call(self.environment, &tenant.rules())?;
        let send_by_ms = capture.send_by_ms.unwrap_or(call.send_by_ms);
        Ok(Call { purpose, money, provider_key, reference, send_by_ms, ..call })
    }

    /// A capture of what is set aside, which was said to be absent, is what the action came to. Nothing is left then to be
    /// charged or to be set free.
    pub(crate) async fn done_by_capture(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        provider: &dyn Provider,
        at: usize,
        confirmation: Confirmation,
    ) -> Result<(), Error> {
        let reservation = reservation_of(&pending.row)?;
        let of = reservation.read(pending.money)?;
        let capture = reservation.captures.get(at).ok_or_else(|| internal("nothing was to be charged"))?;
        let (attempt, about) = (reservation.call.attempt, capture.reference.clone());
        let call = self.capture_of(tenant, pending, capture)?;
        let execution = pending.execution(call, provider, Stood::Releasing(of));
        let (execution, effects) = self.step(execution, Event::Replied(Reply::Confirmed(confirmation)))?;
        let mut then = pending.clone();
        if !then.speak_of(attempt, &about) {
            return Err(internal("nothing was to be charged"));
        }
        match execution.state() {
            execution::State::Completed(confirmation) => {
                self.done_by_earlier(tenant, then, (attempt, about), confirmation).await
            }
            execution::State::Checking { confirmation, asks } => {
                let due_ms = waits_until(&effects).unwrap_or_else(clock::now_ms);
                then.late = true;
                let row = then.row.clone();
                self.check_from(tenant, &then, row, (confirmation, *asks), due_ms).await?;
                self.tell_of_late(&then, None);
                Ok(())
            }
            _ => Err(internal("an action stopped half way")),
        }
    }

    /// A reservation that turned up after its attempt was said to be absent for good is set free at once, or else ends by
    /// itself. Answers whether it is free.
    pub(crate) async fn set_stray_free(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        provider: &dyn Provider,
        (call, it): (&Call, &Confirmation),
    ) -> bool {
        let of = execution::Reservation { money: call.money, until_ms: it.expires_ms.unwrap_or(i64::MAX) };
        let release = Call {
            provider_key: release_key(&tenant.hmac, &call.provider_key),
            reference: release_reference(&call.reference),
            send_by_ms: clock::now_ms() + millis(flight(provider)),
            purpose: Purpose::Release { reservation: it.reference.clone(), of },
            ..call.clone()
        };
        let reply = provider.call(&release, clock::now_ms()).await;
        let free = matches!(reply, Reply::Confirmed(_));
        tracing::warn!(action = %pending.id, tenant = %pending.tenant, free, "a reservation turned up late");
        free
    }
}

/// Is it free, or on its way there?
fn is_released(stored: &Stored) -> Result<bool, Error> {
    let row = IntentRow::of(stored)?;
    let begun = row.reservation.is_some_and(|reservation| reservation.release.is_some());
    Ok(begun && matches!(stored.state, State::Reserved | State::Failed))
}
