//! Denied: a provider says that an effect was not there of which it was said that it was.

use std::sync::Arc;

use execution::{Event, Found, Purpose, Reply, Stood};
use ledger::{Settled, Settlement, State, Stored};

use super::beside::Known;
use super::{CallRef, Place, place_among};
use crate::alert::Alert;
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::remember::{outward, telling, unavailable};
use crate::rollback::done_row;
use crate::row::{OutcomeRow, VERSION};
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::{Code, Error, clock};

impl Gateway {
    /// A provider denies an effect that was said to be there. What a person said is amended, unless the provider cannot be
    /// asked and its word may be about one of several sends; what it had confirmed itself stays as it is, and so does a
    /// capture: people are told once. Who can be asked is asked first.
    pub(crate) async fn denied(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        of: CallRef<'_>,
        reply: Reply,
    ) -> Result<(), Error> {
        let stored = self.stored(tenant, of.id).await?;
        let mut pending = Pending::restore(&stored, None)?;
        if denied_of(&mut pending, &self.outcomes_of(&stored).await?, of)?.is_none() {
            // Nobody is kept from the action for what is no news.
            return Ok(());
        }
        let (_under_way, stored, mut pending) = self.take_in_hand(tenant, of.id).await?;
        if stored.state != State::Executed {
            return Err(busy());
        }
        let outcomes = self.outcomes_of(&stored).await?;
        let Some(denied) = denied_of(&mut pending, &outcomes, of)? else { return Ok(()) };
        let of_latest = denied == Place::Latest;
        let (provider, call) = self.bound(&pending, &tenant.rules(), Stood::InDoubt)?;
        let asks = provider.capabilities().can_be_asked();
        let event = match asks {
            true => Event::Asked(provider.query(&call, clock::now_ms()).await),
            false => Event::Replied(reply),
        };
        match &event {
            Event::Asked(Found::Unknown | Found::Absent { final_: false }) => {
                let why = "the provider does not say for certain what became of the action";
                return Err(Error::new(Code::Unavailable, why).retry_after(5));
            }
            Event::Asked(Found::Confirmed(_)) => return Ok(()),
            _ => {}
        }
        let speaks_for_all = asks || pending.course()?.sends == 1;
        if !(by_person(&outcomes)? && of_latest && call.purpose == Purpose::Act && speaks_for_all) {
            return self.note_denied(tenant, &pending, &outcomes).await;
        }
        let execution = pending.execution(call, provider.as_ref(), Stood::Completed);
        let (execution, effects) = self.step(execution, event)?;
        self.follow(tenant, &pending, &execution, &effects).await?;
        let told = self.outcomes_of(&stored).await?;
        let receipt = told.last().and_then(|it| it.receipt.as_ref()).map(|it| it.id.to_string());
        self.alert(Alert::DeniedEffect, &pending, &receipt.unwrap_or_default());
        Ok(())
    }

    /// Was it a person who said that it was carried out?
    pub(crate) async fn was_said_by_person(&self, stored: &Stored) -> Result<bool, Error> {
        by_person(&self.outcomes_of(stored).await?)
    }

    /// One of two words of the same provider is wrong: a person has to find out which.
    async fn note_denied(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        outcomes: &[Settled],
    ) -> Result<(), Error> {
        for outcome in outcomes {
            if OutcomeRow::from_bytes(&outcome.payload)?.denied {
                return Ok(());
            }
        }
        let (state, event) = (State::Executed, Alert::DeniedEffect.as_str());
        let row = OutcomeRow { v: VERSION, denied: true, ..OutcomeRow::default() };
        let payload = pending.outcome(row)?;
        let outcome = ledger::Outcome {
            at_ms: clock::now_ms(),
            state,
            reply: None,
            receipt: None,
            payload,
            entry: telling(tenant, event, Some(outward(state)), pending.attempt()),
        };
        let settlement = Settlement::of(pending.id, pending.by, outcome);
        self.ledger.amend(settlement).await.map_err(unavailable)?;
        let receipt = pending.told.as_ref().map(|told| told.receipt.receipt_id.as_str());
        self.alert(Alert::DeniedEffect, pending, receipt.unwrap_or_default());
        Ok(())
    }
}

/// Whose effect a provider denies, if it is one that is on record; `pending` speaks of that then.
fn denied_of(pending: &mut Pending, outcomes: &[Settled], of: CallRef<'_>) -> Result<Option<Place>, Error> {
    let CallRef { attempt, about, .. } = of;
    if place_among(&pending.row, outcomes, of)? == Some(Place::Latest) {
        return Ok(Some(Place::Latest));
    }
    let of_earlier = Known::of(outcomes)?.is_some_and(|known| known.has(about));
    Ok((of_earlier && pending.speak_of(attempt, about)).then_some(Place::Earlier))
}

fn by_person(outcomes: &[Settled]) -> Result<bool, Error> {
    Ok(done_row(outcomes)?.is_some_and(|said| said.resolution.is_some() && said.earlier.is_none()))
}
