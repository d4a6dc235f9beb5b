//! What the running gateway says of its servers' tools. Texts in it are foreign.

use serde_json::Value;

use crate::api::{Client, encoded};
use crate::error::Result;

/// One server.
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) unreachable: Option<String>,
    pub(super) tools: Vec<Value>,
}

/// All servers, or one of them, then with what it says of its tools.
pub(super) fn servers(client: &Client, server: Option<&str>) -> Result<Vec<Seen>> {
    let query = server.map(|name| format!("?server={}&said=true", encoded(name))).unwrap_or_default();
    let mut answer = client.get(&format!("/v1/mcp/tools{query}"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let seen = |server: &mut Value| Seen {
        name: text(&server["server"]).unwrap_or_default(),
        unreachable: text(&server["unreachable"]),
        tools: server["tools"].as_array_mut().map(std::mem::take).unwrap_or_default(),
    };
    Ok(answer["servers"].as_array_mut().into_iter().flatten().map(seen).collect())
}
