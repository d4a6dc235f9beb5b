//! What the servers of a tenant list, beside what was accepted of it: for those who run the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use action::{Archetype, GuaranteeLevel, Subject};
use futures_util::future::join_all;
use provider::mcp::{SeenTool, Server};
use serde_json::Value;

use crate::caller::{Caller, Deed, Role};
use crate::gateway::Gateway;
use crate::mcp::archetype_of;
use crate::remember::unavailable;
use crate::tenants::Rules;
use crate::{Code, Error};

/// One server and its tools.
#[derive(Clone, Debug)]
pub struct ServerToolsView {
    /// Its name.
    pub server: String,
    /// Why it does not list its tools, where it does not.
    pub unreachable: Option<String>,
    /// What it lists and what was accepted of it, by name.
    pub tools: Vec<ToolView>,
}

/// One tool.
#[derive(Clone, Debug)]
pub struct ToolView {
    /// What its server calls it; foreign, unless an archetype is bound to it.
    pub tool: String,
    /// How it stands.
    pub state: ToolState,
    /// The digest of what its server says of it now.
    pub digest: Option<String>,
    /// What its server says of it now, a `Tool` of the protocol; foreign. Only where it was asked for.
    pub said: Option<Value>,
    /// What the catalogue says of it.
    pub bound: Option<BoundTool>,
}

/// An archetype that is bound to a tool.
#[derive(Clone, Debug)]
pub struct BoundTool {
    /// Its name.
    pub archetype: String,
    /// The least that is promised.
    pub level: GuaranteeLevel,
    /// Its Cedar action groups.
    pub groups: Vec<String>,
    /// Whether it changes nothing.
    pub read_only: bool,
    /// Whether its effect can be undone.
    pub reversible: bool,
    /// The tool that does.
    pub undone_by: Option<String>,
    /// The digest that was accepted.
    pub pinned: String,
    /// The agents, of those that have an API key, that could ever be let use it.
    pub agents: Vec<String>,
}

/// How a tool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolState {
    /// It is what was accepted.
    Accepted,
    /// Its server says something else of it than was accepted: it is quarantined.
    Changed,
    /// Nothing of it was accepted.
    New,
    /// Its server does not list it any more.
    Gone,
    /// Its server cannot be asked.
    Unknown,
}

impl ToolState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ToolState::Accepted => "accepted",
            ToolState::Changed => "changed",
            ToolState::New => "new",
            ToolState::Gone => "gone",
            ToolState::Unknown => "unknown",
        }
    }
}

impl Gateway {
    /// The tenant's servers, or one of them, each with its tools. `said`: with what the server says of each.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if there is no such server.
    pub async fn mcp_tools(
        &self,
        caller: &Caller,
        server: Option<&str>,
        said: bool,
    ) -> Result<Vec<ServerToolsView>, Error> {
        caller.must(Deed::Audit)?;
        let rules = self.tenant(&caller.tenant)?.rules();
        let agents = self.agents_with_keys(caller).await?;
        let mut servers = self.mcp().of(&caller.tenant);
        servers.retain(|one| server.is_none_or(|name| one.name() == name));
        if server.is_some() && servers.is_empty() {
            return Err(Error::new(Code::NotFound, "there is no such server").field("?server"));
        }
        let mut views = join_all(servers.iter().map(|server| view(server, &rules, said))).await;
        for bound in views.iter_mut().flat_map(|view| &mut view.tools).filter_map(|tool| tool.bound.as_mut())
        {
            let able = agents.iter().filter(|agent| self.could_use(agent, &bound.archetype));
            bound.agents = able.map(|agent| agent.subject.to_string()).collect();
        }
        Ok(views)
    }

    /// Every agent of the tenant that has an API key, once.
    async fn agents_with_keys(&self, caller: &Caller) -> Result<Vec<Caller>, Error> {
        let keys = self.ledger.keys(&caller.tenant).await.map_err(unavailable)?;
        let agents = keys.iter().filter(|key| *key.role == *Role::Agent.as_str() && key.revoked_ms.is_none());
        let subjects: BTreeSet<&Subject> = agents.map(|key| &key.subject).collect();
        let agent =
            |subject: &Subject| Caller { subject: subject.clone(), role: Role::Agent, ..caller.clone() };
        Ok(subjects.into_iter().take(MOST_AGENTS).map(agent).collect())
    }
}

/// More agents than this nobody reads the names of.
const MOST_AGENTS: usize = 100;

async fn view(server: &Arc<Server>, rules: &Rules, said: bool) -> ServerToolsView {
    let bound = bound_to(server.name(), rules);
    if said {
        // Who looks closely wants to see what is said now.
        server.forget_tools();
    }
    let listed = server.tools().await;
    let unreachable = listed.as_ref().err().map(|error| error.why.clone());
    let is_reached = unreachable.is_none();
    let mut tools: BTreeMap<String, ToolView> = BTreeMap::new();
    for seen in listed.iter().flat_map(|tools| tools.iter()) {
        tools.entry(seen.tool.name.to_string()).or_insert_with(|| listed_tool(seen, &bound, said));
    }
    for (name, bound) in &bound {
        let state = if is_reached { ToolState::Gone } else { ToolState::Unknown };
        tools.entry(name.clone()).or_insert_with(|| ToolView {
            tool: name.clone(),
            state,
            digest: None,
            said: None,
            bound: Some(bound.clone()),
        });
    }
    ServerToolsView { server: server.name().to_owned(), unreachable, tools: tools.into_values().collect() }
}

fn listed_tool(seen: &SeenTool, bound: &BTreeMap<String, BoundTool>, said: bool) -> ToolView {
    let bound = bound.get(&*seen.tool.name).cloned();
    ToolView {
        tool: seen.tool.name.to_string(),
        state: match &bound {
            None => ToolState::New,
            Some(bound) if bound.pinned == seen.digest => ToolState::Accepted,
            Some(_) => ToolState::Changed,
        },
        digest: Some(seen.digest.clone()),
        said: said.then(|| seen.said()),
        bound,
    }
}

/// What the catalogue has of a server, by tool.
fn bound_to(server: &str, rules: &Rules) -> BTreeMap<String, BoundTool> {
    let bound = |archetype: &Arc<Archetype>| {
        let tool = rules.providers.get(&archetype.name)?.tool()?;
        let named =
            archetype.name == archetype_of(server, tool.tool_name()) && tool.server().name() == server;
        named.then(|| (tool.tool_name().to_owned(), BoundTool::of(archetype, tool)))
    };
    rules.catalogue.iter().filter_map(bound).collect()
}

impl BoundTool {
    fn of(archetype: &Archetype, tool: &provider::mcp::Tool) -> BoundTool {
        let rollback = archetype.bindings.get("rollback").and_then(|rollback| rollback.get("tool")?.as_str());
        BoundTool {
            archetype: archetype.name.clone(),
            level: archetype.guarantee_level,
            groups: archetype.groups.clone(),
            read_only: tool.is_read_only(),
            reversible: archetype.reversible,
            undone_by: rollback.map(str::to_owned),
            pinned: tool.pinned().to_owned(),
            agents: Vec::new(),
        }
    }
}
