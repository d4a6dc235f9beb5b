//! From what the catalogue says to a provider.

use std::sync::Arc;
use std::time::Duration;

use action::{Archetype, Tenant};
use execution::{Capabilities, Idempotent, Queryable};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::consent::Consent;
use crate::http::Http;
use crate::mcp::{Servers, Tool};
use crate::reader::{Mistake, Node};
use crate::runner::Runner;
use crate::runs::Runs;
use crate::sandbox::Sandbox;
use crate::{Outside, Provider};

/// The provider of an archetype, as its binding says.
///
/// # Errors
/// Every mistake that could be found, each with its place in the binding.
pub fn compile(archetype: &Archetype, outside: Outside<'_>) -> Result<Arc<dyn Provider>, Vec<Mistake>> {
    let (runs, servers, tenant) = (Arc::default(), Servers::default(), Tenant::default());
    compile_for(archetype, outside, Beside { runs: &runs, servers: &servers, tenant: &tenant })
}

/// What a gateway's bindings share, whatever is compiled anew meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// Where runners find their calls.
    pub runs: &'a Arc<Runs>,
    /// The operator's MCP servers.
    pub servers: &'a Servers,
    /// Whose archetypes they are.
    pub tenant: &'a Tenant,
}

/// The same for a gateway.
///
/// # Errors
/// As [`compile`].
pub fn compile_for(
    archetype: &Archetype,
    outside: Outside<'_>,
    beside: Beside<'_>,
) -> Result<Arc<dyn Provider>, Vec<Mistake>> {
    let members = archetype.bindings.iter().map(|(name, value)| (name.clone(), value.clone()));
    let binding = Value::Object(members.collect());
    let node = Node { at: String::new(), value: &binding };
    let Some(kind) = archetype.bindings.get("provider") else {
        let hint = "add [binding] with provider = \"http\"";
        return Err(vec![node.mistake("the archetype is not bound to a provider").hint(hint)]);
    };
    match kind.as_str() {
        Some("sandbox") => Ok(Arc::new(Sandbox::read(&node, archetype)?)),
        Some("http") => Ok(Arc::new(Http::read(&node, archetype, outside)?)),
        Some("consent") => Ok(Arc::new(Consent::read(&node)?)),
        Some("runner") => Ok(Arc::new(Runner::read(&node, archetype, beside.runs)?)),
        Some("mcp") => Ok(Arc::new(Tool::read(&node, archetype, (beside.servers, beside.tenant))?)),
        _ => {
            let mistake = node.child("provider", kind).mistake("there is no such provider");
            Err(vec![mistake.hint("the providers are http, mcp, runner, consent and sandbox")])
        }
    }
}

/// What stands in for every binding in the sandbox environment: no secret is read and no socket opened.
pub fn sandboxed(archetype: &Archetype) -> Arc<dyn Provider> {
    Arc::new(Sandbox::standing_in(archetype))
}

/// The digest of what makes up a provider's identity. Calls are stored with it, so it stays the same across releases.
pub(crate) fn identity(parts: &Value) -> String {
    hex::encode(Sha256::digest(action::json::canonical(parts)))
}

/// What the operator says is true of the provider; nothing, unless said.
pub(crate) fn read_capabilities(
    node: Option<Node<'_>>,
    archetype: &Archetype,
) -> Result<Capabilities, Mistake> {
    let Some(node) = node else { return Ok(Capabilities::default()) };
    let table = node.table(&["idempotent", "queryable", "cancellable", "repeat_safe"])?;
    let repeat_safe = table.flag("repeat_safe")?;
    if repeat_safe && archetype.money.is_some() {
        let hint = "declare `idempotent` or `queryable` instead, if the provider is one of them";
        return Err(table
            .need("repeat_safe")?
            .mistake("what moves money is never safe to repeat")
            .hint(hint));
    }
    Ok(Capabilities {
        idempotent: table.get("idempotent").map(|node| read_idempotent(&node)).transpose()?,
        queryable: table.get("queryable").map(|node| read_queryable(&node)).transpose()?,
        cancellable: table.flag("cancellable")?,
        repeat_safe,
        challenge: None,
    })
}

fn read_idempotent(node: &Node<'_>) -> Result<Idempotent, Mistake> {
    let table = node.table(&["retention_seconds"])?;
    let retention = table.seconds("retention_seconds", MOST_SECONDS)?;
    if retention == Duration::ZERO {
        return Err(node.mistake("a retention of nothing recognises nothing"));
    }
    Ok(Idempotent { retention })
}

fn read_queryable(node: &Node<'_>) -> Result<Queryable, Mistake> {
    let table = node.table(&["by_our_reference", "final_after_seconds"])?;
    Ok(Queryable {
        by_our_reference: table.flag("by_our_reference")?,
        final_after: table.seconds("final_after_seconds", MOST_SECONDS)?,
    })
}

/// Ten years.
const MOST_SECONDS: u64 = 10 * 366 * 86_400;
