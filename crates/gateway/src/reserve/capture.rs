//! Capture: what is set aside is charged, or a part of it; the rest is free then.

use std::cmp::Ordering;
use std::sync::Arc;

use action::{ActionId, Money};
use execution::Stood;
use ledger::State;
use tokio::sync::oneshot;

use super::reservation_of;
use super::row::CaptureRow;
use crate::act::{Said, UnderWay};
use crate::caller::{Caller, Deed};
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::pursue::Pursued;
use crate::request::Next;
use crate::rollback::{conflict, flight, millis};
use crate::row::{IntentRow, internal};
use crate::steer::{busy, refusal};
use crate::tenants::TenantState;
use crate::views::ActionView;
use crate::{Code, Error, clock};

impl Gateway {
    /// Has what is set aside for an action charged, or `amount` of it (a decimal string in its currency). However often
    /// the same is asked for, it is charged once; answers once there is something to say of it.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` if it is no such amount or more than there is; `EP_STATE_CONFLICT` if nothing is set aside
    /// (any more), if it would end on the way, if another amount was asked for, and, naming the code of the refusal, if it
    /// is judged otherwise now. None of them changes anything.
    pub async fn capture(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        amount: Option<&str>,
    ) -> Result<ActionView, Error> {
        caller.must(Deed::Steer)?;
        let stored = self.visible(caller, id).await?;
        let mut row = IntentRow::of(&stored)?;
        if stored.state.is_amended() {
            row.learn(&self.outcomes_of(&stored).await?)?;
        }
        let amount = amount.map(|text| amount_of(text, &row)).transpose()?;
        if !is_charged_so(stored.state, &row, amount)? {
            let Some(under_way) = self.look_after_alone(stored.id) else { return Err(busy()) };
            let (said, hears) = oneshot::channel();
            let (gateway, tenant) = (Arc::clone(self), Arc::clone(self.tenant(&stored.tenant)?));
            let (by, id) = (caller.subject.to_string(), stored.id);
            // In a task of its own: who hangs up has asked for it all the same.
            tokio::spawn(async move {
                match Box::pin(gateway.charge(&tenant, id, by, amount, under_way)).await {
                    Ok(Next::Admitted(errand)) => gateway.carry_out(errand, Said::to(said)).await,
                    Ok(Next::Said(answer)) => Said::to(said).say(Ok(answer)),
                    Ok(Next::NotNow(stop)) => Said::to(said).say(Err(refusal(&stop))),
                    Err(error) => Said::to(said).say(Err(error)),
                }
            });
            hears.await.unwrap_or_else(|_| Err(internal("a capture ended without a word")))?;
        }
        self.action(caller, id).await
    }

    async fn charge(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        id: ActionId,
        by: String,
        amount: Option<Money>,
        under_way: UnderWay,
    ) -> Result<Next, Error> {
        // Read once it is marked: before, whoever had it in hand may have gone on with it.
        let stored = self.stored(tenant, id).await?;
        let mut pending = Pending::restore(&stored, self.told(&stored).await?)?;
        if !matches!(stored.state, State::Reserved | State::ReleaseFailed) {
            return Err(conflict("nothing is set aside for the action"));
        }
        let reservation = reservation_of(&pending.row)?;
        if stored.state == State::ReleaseFailed {
            return Err(conflict(
                "what was set aside for the action could not be set free, and is not charged any more",
            )
            .hint("have it released once more, or let a person say what is so"));
        }
        if reservation.release.is_some() {
            return Err(conflict("what was set aside for the action is being set free"));
        }
        let of = reservation.read(pending.money)?;
        let held = of.money.ok_or_else(|| internal("nothing is set aside"))?;
        let amount = amount.unwrap_or(held);
        if amount.compare(held) == Some(Ordering::Greater) {
            let why = format!("no more than {held} {} is set aside", held.currency().code());
            return Err(unfit(&why));
        }
        let rules = tenant.rules();
        let (provider, _) = self.bound(&pending, &rules, Stood::Reserved(of))?;
        let now_ms = clock::now_ms();
        if now_ms.saturating_add(millis(flight(provider.as_ref()))) >= of.until_ms {
            return Err(conflict("what is set aside ends too soon to be charged"));
        }
        pending.in_time(now_ms)?;
        if self.recall_capture(tenant, &pending).await?.has_charged()? {
            return self.say_recalled(tenant, id).await;
        }
        let number = reservation.captures.len() + 1;
        let asked = (by.as_str(), now_ms);
        let capture = CaptureRow::asked(asked, reservation, &tenant.hmac, number, &amount.to_string());
        pending.row.steered(&capture.by);
        if let Some(reservation) = &mut pending.row.reservation {
            reservation.captures.push(capture);
        }
        self.at(Point::CaptureBefore)?;
        let next = self.judge_once_more(tenant, &rules, &stored, &pending, under_way).await?;
        if matches!(next, Next::Admitted(_)) {
            self.at(Point::CaptureAfter)?;
        }
        Ok(next)
    }
}

impl Gateway {
    /// A capture that was forgotten is what the action came to.
    async fn say_recalled(self: &Arc<Self>, tenant: &Arc<TenantState>, id: ActionId) -> Result<Next, Error> {
        let stored = self.stored(tenant, id).await?;
        match Box::pin(self.check_further(tenant, &stored)).await? {
            Pursued::Over(answer) => Ok(Next::Said(answer)),
            Pursued::Go(_) | Pursued::Rests(_) => Err(Error::new(
                Code::Unavailable,
                "it was charged before the store was put back, and is looked after",
            )),
        }
    }
}

/// Was just this asked for before, and is it under way or done?
fn is_charged_so(state: State, row: &IntentRow, amount: Option<Money>) -> Result<bool, Error> {
    let charging = row.reservation.as_ref().and_then(|reservation| reservation.charging());
    let Some(capture) = charging.filter(|_| state != State::Reserved) else { return Ok(false) };
    match amount.is_none_or(|amount| amount.to_string() == capture.amount) {
        true => Ok(true),
        false => Err(conflict(&format!("{} of it was asked for before", capture.amount))),
    }
}

fn amount_of(text: &str, row: &IntentRow) -> Result<Money, Error> {
    let currency = row.currency.as_deref().and_then(action::Currency::of);
    let currency = currency.ok_or_else(|| conflict("nothing is set aside for the action"))?;
    let amount = Money::parse(text, currency).ok().filter(|amount| !amount.is_zero());
    amount.ok_or_else(|| {
        unfit(&format!("this must be a decimal string in {}, more than nothing", currency.code()))
    })
}

fn unfit(why: &str) -> Error {
    Error::new(Code::ValidationFailed, why).field("/amount").hint("leave it out to charge all of it")
}
