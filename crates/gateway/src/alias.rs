//! By which name providers know an action, and which action a name of ours is of.

use action::{Environment, IdempotencyKey, Subject, Tenant};
use execution::{Alias, Whose};
use ledger::{Claim, Stored};

use crate::Error;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::tenants::TenantState;

impl TenantState {
    /// By which name providers know what this subject asks for under this key.
    pub(crate) fn alias(&self, environment: Environment, subject: &Subject, key: &IdempotencyKey) -> Alias {
        let claim = Claim::new(&self.tenant, environment, subject, key.as_str());
        Alias::new(&self.hmac, claim.half())
    }
}

impl Gateway {
    /// The action that a name of ours is of.
    pub(crate) async fn whose(&self, tenant: &Tenant, whose: Whose) -> Result<Option<Stored>, Error> {
        let id = match whose {
            Whose::Id(id) => Some(id),
            Whose::Alias(alias) => {
                let claim = alias.claim(&self.tenant(tenant)?.hmac);
                self.ledger.claimant(tenant, claim).await.map_err(unavailable)?
            }
        };
        match id {
            Some(id) => self.ledger.action(tenant, id).await.map_err(unavailable),
            None => Ok(None),
        }
    }
}
