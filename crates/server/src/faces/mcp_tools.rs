//! What MCP servers list, beside what was accepted of it.

use gateway::{Error, ServerToolsView, ToolView};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// The tenant's servers and their tools.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [server, said] = request.query(["server", "said"])?;
    // What a server says can be long: only of one at a time.
    let said = server.is_some() && said.as_deref() == Some("true");
    let servers = gateway.mcp_tools(&caller, server.as_deref(), said).await?;
    let servers = servers.into_iter().map(ServerTools::of).collect();
    Ok(reply::json(StatusCode::OK, &McpTools { servers }))
}

/// Servers of the Model Context Protocol, and what they list.
#[derive(Serialize, ToSchema)]
pub(crate) struct McpTools {
    /// By name.
    servers: Vec<ServerTools>,
}

/// One server.
#[derive(Serialize, ToSchema)]
#[schema(as = McpServerTools)]
pub(crate) struct ServerTools {
    /// Its name.
    server: String,
    /// Why it does not list its tools; null where it does.
    unreachable: Option<String>,
    /// What it lists and what was accepted of it, by name.
    tools: Vec<Tool>,
}

/// One tool.
#[derive(Serialize, ToSchema)]
#[schema(as = McpTool)]
pub(crate) struct Tool {
    /// What its server calls it: foreign text, unless there is an archetype.
    tool: String,
    /// `accepted`, `changed` (its server says something else of it than was accepted: calls are blocked), `new` (nothing of it was
    /// accepted), `gone` (it is not listed any more) or `unknown` (its server cannot be asked).
    state: &'static str,
    /// The digest of what its server says of it now; null where it says nothing.
    digest: Option<String>,
    /// The archetype that is bound to it; this and all below is null where nothing was accepted.
    archetype: Option<String>,
    /// The least that is promised.
    guarantee_level: Option<&'static str>,
    /// Its Cedar action groups; its class is one of them.
    groups: Option<Vec<String>>,
    /// Whether it changes nothing, by the operator's word.
    read_only: Option<bool>,
    /// Whether its effect can be undone.
    reversible: Option<bool>,
    /// The tool that undoes it.
    undone_by: Option<String>,
    /// The digest that was accepted.
    pinned: Option<String>,
    /// The agents, of those that have an API key, that policies or people could ever let use it.
    agents: Option<Vec<String>>,
    /// What its server says of it, a `Tool` of the protocol, foreign text; with `?said=true` and a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    said: Option<serde_json::Value>,
}

impl ServerTools {
    fn of(view: ServerToolsView) -> ServerTools {
        let ServerToolsView { server, unreachable, tools } = view;
        ServerTools { server, unreachable, tools: tools.into_iter().map(Tool::of).collect() }
    }
}

impl Tool {
    fn of(view: ToolView) -> Tool {
        let ToolView { tool, state, digest, said, bound } = view;
        let bound = bound.as_ref();
        Tool {
            tool,
            state: state.as_str(),
            digest,
            archetype: bound.map(|it| it.archetype.clone()),
            guarantee_level: bound.map(|it| it.level.as_str()),
            groups: bound.map(|it| it.groups.clone()),
            read_only: bound.map(|it| it.read_only),
            reversible: bound.map(|it| it.reversible),
            undone_by: bound.and_then(|it| it.undone_by.clone()),
            pinned: bound.map(|it| it.pinned.clone()),
            agents: bound.map(|it| it.agents.clone()),
            said,
        }
    }
}
