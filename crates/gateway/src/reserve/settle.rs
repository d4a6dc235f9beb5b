//! What could not be set free: a person says what became of it, or has it tried again.

use execution::{Event, Found, Resolution, Stood};
use ledger::Stored;

use super::reservation_of;
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::resolve::{Decision, EVENT};
use crate::rollback::{conflict, is_unbound};
use crate::row::internal;
use crate::tenants::TenantState;
use crate::{Error, clock};

impl Gateway {
    /// Asks the provider once more what became of what it has set aside. If it tells, a person's word does not count: whether
    /// it did, and agrees.
    pub(crate) async fn release_tells(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        decision: Decision,
    ) -> Result<bool, Error> {
        let stood = Stood::ReleaseFailed(reservation_of(&pending.row)?.read(pending.money)?);
        let (provider, reserve) = match self.bound(pending, &tenant.rules(), stood) {
            Ok(found) => found,
            // Who cannot be asked any more does not tell.
            Err(error) if is_unbound(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        if decision == Decision::TryAgain || !provider.capabilities().can_be_asked() {
            return Ok(false);
        }
        let charged = self.charged_after_all(tenant, pending, provider.as_ref()).await?;
        if matches!(charged, Found::Confirmed(_)) {
            let why = "the provider was asked once more and its word counts: it was charged";
            return if decision == Decision::Executed { Ok(true) } else { Err(conflict(why)) };
        }
        let found = provider.query(&reserve, clock::now_ms()).await;
        match (decision, found) {
            (Decision::Released, Found::Confirmed(_)) => {
                let why =
                    "the provider was asked once more and its word counts: the money is still set aside";
                Err(conflict(why).hint("say `try_again`, or have the provider set it free"))
            }
            _ => Ok(false),
        }
    }

    /// It is free, it was charged, or it is tried again.
    pub(crate) async fn settle_release(
        &self,
        tenant: &TenantState,
        pending: Pending,
        decision: Decision,
    ) -> Result<(), Error> {
        let resolution = match decision {
            Decision::TryAgain => return self.try_release_again(tenant, pending).await,
            Decision::Executed => Resolution::Executed(pending.confirmed_by_person()?),
            _ => Resolution::Released,
        };
        let stood = Stood::ReleaseFailed(reservation_of(&pending.row)?.read(pending.money)?);
        let execution = self.at_rest(tenant, &pending, stood).await?;
        let (execution, effects) = self.step(execution, Event::Resolved(resolution))?;
        if let execution::State::Failed(absence) = execution.state() {
            return self.released(tenant, pending, absence).await;
        }
        self.follow(tenant, &pending, &execution, &effects).await.map(drop)
    }

    /// Under the same key as before, as often as before.
    async fn try_release_again(&self, tenant: &TenantState, mut pending: Pending) -> Result<(), Error> {
        let stored = self.stored(tenant, pending.id).await?;
        self.may_release(tenant, &stored, &pending).await?;
        let word = pending.word.take().ok_or_else(|| internal("nobody has it tried again"))?;
        let release = pending.row.reservation.as_mut().and_then(|it| it.release.as_mut());
        let release = release.ok_or_else(|| internal("nothing sets it free"))?;
        release.sends = 0;
        pending.row.words.push(*word);
        self.keep_reserved(tenant, &mut pending, clock::now_ms(), EVENT).await?;
        self.release_on(tenant, &pending).await.map(drop)
    }

    /// Is its provider there, and does nothing stop what sets free?
    pub(super) async fn may_release(
        &self,
        tenant: &TenantState,
        stored: &Stored,
        pending: &Pending,
    ) -> Result<(), Error> {
        let of = reservation_of(&pending.row)?.read(pending.money)?;
        let (provider, _) = self.bound(pending, &tenant.rules(), Stood::Releasing(of))?;
        match self.stops_rollback(stored, provider.as_ref()).await? {
            true => Err(conflict("a freeze that includes rollbacks stops it: EP_FROZEN")),
            false => Ok(()),
        }
    }
}
