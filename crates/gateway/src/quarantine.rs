//! Quarantine: a tool of which its server says something else than was accepted is put on record, so that people are told.
//!
//! Nobody looks out for it: it is seen when somebody lists the tools or calls one, which are those whom it concerns.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use action::{Archetype, Tenant};
use provider::mcp::{Quarantine, SeenTool};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::act::lock;
use crate::admin::event;
use crate::alert::Alert;
use crate::gateway::Gateway;
use crate::mcp::archetype_of;
use crate::remember::unavailable;
use crate::row::internal;
use crate::tenants::{Rules, TenantState};

/// The event of the entry.
pub(crate) const EVENT: &str = "tool_quarantined";
/// A server that says something else all the time is told of no more often than that.
const AT_MOST_EVERY: Duration = Duration::from_secs(3600);

/// A tool that is quarantined, and against what: the record of the entry, kept as a text under its digest. It says no time, so
/// that the same of the same tool is the same record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quarantined {
    /// Of what its server says now; nothing, where it does not list it.
    digest: Option<String>,
    /// Of what was accepted.
    pinned: String,
    pub server: String,
    pub tool: String,
    why: String,
}

/// Which record stands last of each tool in this process, and since when, by tenant and archetype.
pub(crate) type Noted = HashMap<(Tenant, String), (String, Instant)>;

impl Gateway {
    /// Puts on record which accepted tools of a server are not as they were accepted, each once. What cannot be written now is
    /// when it is seen next: nobody's list or call fails for it.
    pub(crate) async fn note_quarantined(&self, tenant: &TenantState, server: &str, listed: &[SeenTool]) {
        for (archetype, quarantined) in quarantined(&tenant.rules(), server, listed) {
            if let Err(error) = self.note_one(tenant, archetype, &quarantined).await {
                let Quarantined { server, tool, .. } = quarantined;
                tracing::warn!(server, tool, %error, "a quarantine could not be put on record yet");
            }
        }
    }

    async fn note_one(
        &self,
        tenant: &TenantState,
        archetype: String,
        quarantined: &Quarantined,
    ) -> Result<(), Error> {
        let record = serde_json::to_value(quarantined).map_err(|_| internal("a record cannot be written"))?;
        let event = event(tenant, EVENT, &record);
        let name = hex::encode(Sha256::digest(&event.record));
        let key = (tenant.tenant.clone(), archetype);
        let now = Instant::now();
        {
            let mut noted = lock(&self.quarantined);
            let is_known =
                |(known, at): &(String, Instant)| *known == name || now.duration_since(*at) < AT_MOST_EVERY;
            if noted.get(&key).is_some_and(is_known) {
                return Ok(());
            }
            // Whoever comes meanwhile leaves it to this one.
            noted.insert(key.clone(), (name.clone(), now));
        }
        let noted = self.write_once(&name, event).await;
        if noted.is_err() {
            lock(&self.quarantined).remove(&key);
        } else if noted == Ok(true) {
            let Quarantined { server, tool, why, .. } = quarantined;
            self.metrics.alert(Alert::ToolQuarantined);
            tracing::error!(alert = EVENT, tenant = %tenant.tenant, server, tool, why, "a person should look at this");
        }
        noted.map(drop)
    }

    /// The entry, and then the text by which later processes know of it. Who dies in between writes both again.
    async fn write_once(&self, name: &str, event: ledger::Event) -> Result<bool, Error> {
        if self.ledger.kept(name).await.map_err(unavailable)?.is_some() {
            return Ok(false);
        }
        let text = event.record.clone();
        self.ledger.record(event).await.map_err(unavailable)?;
        self.ledger.keep(name, text).await.map_err(unavailable)?;
        Ok(true)
    }

    /// What an entry with this hash of its record is about.
    pub(crate) async fn quarantine_of(&self, name: &str) -> Result<Option<Quarantined>, Error> {
        let kept = self.ledger.kept(name).await.map_err(unavailable)?;
        Ok(kept.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

impl Quarantined {
    /// What shows it to a person, and accepts it.
    pub(crate) fn run(&self) -> String {
        format!("countersign mcp accept {} {}", self.server, self.tool)
    }
}

/// The accepted tools of a server that are not listed as they were accepted, by their archetypes.
fn quarantined(rules: &Rules, server: &str, listed: &[SeenTool]) -> Vec<(String, Quarantined)> {
    let digests: HashMap<&str, &str> =
        listed.iter().rev().map(|seen| (&*seen.tool.name, &*seen.digest)).collect();
    let look = |archetype: &Archetype| {
        let tool = rules.providers.get(&archetype.name)?.tool()?;
        if tool.server().name() != server || archetype.name != archetype_of(server, tool.tool_name()) {
            return None;
        }
        let digest = digests.get(tool.tool_name());
        let why = match digest {
            Some(digest) if **digest == *tool.pinned() => return None,
            Some(_) => Quarantine::Changed,
            None => Quarantine::Gone,
        };
        let quarantined = Quarantined {
            digest: digest.map(|digest| (*digest).to_owned()),
            pinned: tool.pinned().to_owned(),
            server: server.to_owned(),
            tool: tool.tool_name().to_owned(),
            why: why.as_str().to_owned(),
        };
        Some((archetype.name.clone(), quarantined))
    };
    rules.catalogue.iter().filter_map(|archetype| look(archetype)).collect()
}
