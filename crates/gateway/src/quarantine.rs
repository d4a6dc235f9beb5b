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
/// that the same of the same tool is the same record, until the tool was as accepted in between.
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
    /// How often the same was on record before, and over again.
    #[serde(default, skip_serializing_if = "is_none")]
    times: u32,
}

fn is_none(times: &u32) -> bool {
    *times == 0
}

/// That a quarantine on record is over, kept beside it.
#[derive(Serialize)]
struct Over<'a> {
    quarantine_over: &'a str,
}

/// What was seen last of each tool in this process that was quarantined, by tenant and archetype.
pub(crate) type AllNoted = HashMap<(Tenant, String), Noted>;

/// A tool that was seen quarantined.
pub(crate) struct Noted {
    /// What its server said, whenever that was on record.
    said: String,
    /// Against what.
    pinned: String,
    at: Instant,
    /// The record of it, once it is known.
    record: Option<String>,
    /// It was as accepted since.
    is_over: bool,
    /// It was not as accepted when it was seen last, so that agents are not shown it.
    is_hidden: bool,
}

impl Noted {
    /// Clients hear each time that a tool is shown no more, or again, however rarely people are told.
    fn turns(&mut self, is_hidden: bool) -> bool {
        std::mem::replace(&mut self.is_hidden, is_hidden) != is_hidden
    }

    /// Whether nobody is to be told that it is quarantined by this.
    fn covers(&self, said: &str, pinned: &str, now: Instant) -> bool {
        let is_same = self.said == said && !self.is_over;
        // Whoever accepted it since is told of what it says now.
        is_same || (self.pinned == pinned && now.duration_since(self.at) < AT_MOST_EVERY)
    }
}

impl Gateway {
    /// Puts on record which accepted tools of a server are not as they were accepted, each once. What cannot be written now is
    /// when it is seen next: nobody's list or call fails for it.
    pub(crate) async fn note_quarantined(&self, tenant: &TenantState, server: &str, listed: &[SeenTool]) {
        for (archetype, quarantined) in looked_at(&tenant.rules(), server, listed) {
            let noted = match &quarantined {
                Some(quarantined) => self.note_one(tenant, archetype, quarantined).await,
                None => self.note_over(tenant, archetype).await,
            };
            if let Err(error) = noted {
                tracing::warn!(server, %error, "a quarantine could not be put on record yet");
            }
        }
    }

    /// It is as accepted: what is on record of it is over, so that the same is another matter later. A process that begins only
    /// then knows nothing of it.
    async fn note_over(&self, tenant: &TenantState, archetype: String) -> Result<(), Error> {
        let key = (tenant.tenant.clone(), archetype);
        if lock(&self.quarantined).get_mut(&key).is_some_and(|noted| noted.turns(false)) {
            tenant.change_tools();
        }
        let open = |noted: &Noted| noted.record.clone().filter(|_| !noted.is_over);
        let Some(record) = lock(&self.quarantined).get(&key).and_then(open) else { return Ok(()) };
        let (name, text) = over(&record)?;
        self.ledger.keep(&name, text).await.map_err(unavailable)?;
        if let Some(noted) = lock(&self.quarantined).get_mut(&key) {
            noted.is_over = noted.is_over || noted.record.as_ref() == Some(&record);
        }
        Ok(())
    }

    async fn note_one(
        &self,
        tenant: &TenantState,
        archetype: String,
        quarantined: &Quarantined,
    ) -> Result<(), Error> {
        let (said, _) = entry(tenant, quarantined)?;
        let key = (tenant.tenant.clone(), archetype);
        {
            let (mut all, at) = (lock(&self.quarantined), Instant::now());
            let pinned = quarantined.pinned.clone();
            if let Some(noted) = all.get_mut(&key).filter(|noted| noted.covers(&said, &pinned, at)) {
                if noted.turns(true) {
                    tenant.change_tools();
                }
                return Ok(());
            }
            // Whoever comes meanwhile leaves it to this one.
            all.insert(
                key.clone(),
                Noted { said, pinned, at, record: None, is_over: false, is_hidden: true },
            );
        }
        let noted = self.write_once(tenant, quarantined).await;
        match &noted {
            Err(_) => drop(lock(&self.quarantined).remove(&key)),
            Ok((name, _)) => {
                if let Some(noted) = lock(&self.quarantined).get_mut(&key) {
                    noted.record = Some(name.clone());
                }
                tenant.change_tools();
            }
        }
        if let Ok((_, true)) = noted {
            let Quarantined { server, tool, why, .. } = quarantined;
            self.metrics.alert(Alert::ToolQuarantined);
            tracing::error!(alert = EVENT, tenant = %tenant.tenant, server, tool, why, "a person should look at this");
        }
        noted.map(drop)
    }

    /// The entry, and then the text by which later processes know of it, unless it is there and not over. Who dies in between
    /// writes both again, and so do two gateways that see it at once: people may be told twice, and never not at all.
    async fn write_once(
        &self,
        tenant: &TenantState,
        quarantined: &Quarantined,
    ) -> Result<(String, bool), Error> {
        let mut quarantined = quarantined.clone();
        loop {
            let (name, event) = entry(tenant, &quarantined)?;
            if self.ledger.kept(&name).await.map_err(unavailable)?.is_none() {
                let text = event.record.clone();
                self.ledger.record(event).await.map_err(unavailable)?;
                self.ledger.keep(&name, text).await.map_err(unavailable)?;
                return Ok((name, true));
            }
            if self.ledger.kept(&over(&name)?.0).await.map_err(unavailable)?.is_none() {
                return Ok((name, false));
            }
            quarantined.times = quarantined.times.saturating_add(1);
        }
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

/// The entry that says so, and the name under which its record is kept.
fn entry(tenant: &TenantState, quarantined: &Quarantined) -> Result<(String, ledger::Event), Error> {
    let record = serde_json::to_value(quarantined).map_err(|_| internal("a record cannot be written"))?;
    let event = event(tenant, EVENT, &record);
    Ok((hex::encode(Sha256::digest(&event.record)), event))
}

/// The text that says that this record is over, and its name.
fn over(record: &str) -> Result<(String, Vec<u8>), Error> {
    let text = serde_json::to_vec(&Over { quarantine_over: record });
    let text = text.map_err(|_| internal("a record cannot be written"))?;
    Ok((hex::encode(Sha256::digest(&text)), text))
}

/// The accepted tools of a server by their archetypes; nothing beside those that are listed as they were accepted.
fn looked_at(rules: &Rules, server: &str, listed: &[SeenTool]) -> Vec<(String, Option<Quarantined>)> {
    let digests: HashMap<&str, &str> =
        listed.iter().rev().map(|seen| (&*seen.tool.name, &*seen.digest)).collect();
    let look = |archetype: &Archetype| {
        let tool = rules.providers.get(&archetype.name)?.tool()?;
        if tool.server().name() != server || archetype.name != archetype_of(server, tool.tool_name()) {
            return None;
        }
        let digest = digests.get(tool.tool_name());
        let why = match digest {
            Some(digest) if **digest == *tool.pinned() => return Some((archetype.name.clone(), None)),
            Some(_) => Quarantine::Changed,
            None => Quarantine::Gone,
        };
        let quarantined = Quarantined {
            digest: digest.map(|digest| (*digest).to_owned()),
            pinned: tool.pinned().to_owned(),
            server: server.to_owned(),
            tool: tool.tool_name().to_owned(),
            why: why.as_str().to_owned(),
            times: 0,
        };
        Some((archetype.name.clone(), Some(quarantined)))
    };
    rules.catalogue.iter().filter_map(|archetype| look(archetype)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_tool_people_are_told_once_an_hour_unless_it_was_accepted_meanwhile() {
        let at = Instant::now();
        let noted = |is_over| Noted {
            said: "first".to_owned(),
            pinned: "pin".to_owned(),
            at,
            record: Some("record".to_owned()),
            is_over,
            is_hidden: true,
        };
        let soon = at + AT_MOST_EVERY / 2;
        for (said, pinned, now, is_over, covered) in [
            ("first", "pin", at + 9 * AT_MOST_EVERY, false, true),
            ("first", "pin", soon, true, true),
            ("first", "pin", at + AT_MOST_EVERY, true, false),
            ("other", "pin", soon, false, true),
            ("other", "pin", at + AT_MOST_EVERY, false, false),
            ("other", "accepted since", soon, false, false),
        ] {
            assert_eq!(
                noted(is_over).covers(said, pinned, now),
                covered,
                "{said}, {pinned}, over: {is_over}"
            );
        }
    }
}
