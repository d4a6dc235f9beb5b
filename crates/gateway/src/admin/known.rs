//! Whether there is what an operator names: what stops or allows nothing must not be acknowledged.

use std::collections::HashSet;

use action::{Environment, Subject, Tenant};

use crate::caller::Role;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::{Code, Error};

/// Lets through what is known; of anything else says that there is no such thing, and what to do.
pub(super) fn must_be(
    known: bool,
    what: impl FnOnce() -> String,
    field: impl Into<String>,
    hint: &str,
) -> Result<(), Error> {
    if known {
        return Ok(());
    }
    Err(Error::new(Code::NotFound, what()).field(field).hint(hint))
}

impl Gateway {
    /// Whether any key, action or mandate names the agent. The sandbox takes anybody: it has no keys of its own.
    pub(super) async fn knows_agent(&self, tenant: &Tenant, agent: &Subject) -> Result<bool, Error> {
        if self.environment == Environment::Sandbox {
            return Ok(true);
        }
        let keys = self.ledger.keys(tenant).await.map_err(unavailable)?;
        if keys.iter().any(|key| key.subject == *agent) {
            return Ok(true);
        }
        let of_it = ledger::Filter { subject: Some(agent.clone()), ..ledger::Filter::default() };
        let actions = self.ledger.actions(tenant, of_it, None, 1).await.map_err(unavailable)?;
        Ok(!actions.rows.is_empty() || self.holders(tenant).await?.contains(agent))
    }

    /// All that are an agent: who has an agent's API key, or had one, or was given a mandate.
    pub(super) async fn agents(&self, tenant: &Tenant) -> Result<HashSet<Subject>, Error> {
        let keys = self.ledger.keys(tenant).await.map_err(unavailable)?;
        let of_agents = keys.into_iter().filter(|key| *key.role == *Role::Agent.as_str());
        Ok(of_agents.map(|key| key.subject).chain(self.holders(tenant).await?).collect())
    }

    /// All that were ever given a mandate.
    async fn holders(&self, tenant: &Tenant) -> Result<HashSet<Subject>, Error> {
        let (mut holders, mut after) = (HashSet::new(), None);
        loop {
            let page = self.ledger.mandates(tenant, after, MANDATES_AT_ONCE).await.map_err(unavailable)?;
            holders.extend(page.rows.into_iter().map(|held| held.mandate.subject));
            after = page.next;
            if after.is_none() {
                return Ok(holders);
            }
        }
    }
}

pub(super) const UNKNOWN_AGENT: &str = "no API key, mandate or action names it; send `\"even_if_unknown\": true` (`--even-if-unknown`) for one that is to come";
pub(super) const UNKNOWN_ARCHETYPE: &str = "names are those of the catalogue, to the letter";

/// Mandates looked at in one go.
const MANDATES_AT_ONCE: u32 = 200;
