//! Requests that rmcp has no form for: methods of a server's own, and known methods that came in no form of theirs.

use std::sync::Arc;

use gateway::upstream::Server;
use rmcp::model::{CustomRequest, CustomResult, ErrorCode, ErrorData};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::json;

use super::face::Face;
use super::inquiry::is_stateless;
use super::passed::OWN;
use super::verbatim::carrying;

impl Face {
    pub(super) async fn custom(
        &self,
        mut request: CustomRequest,
        context: &RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method.clone();
        let is_gone = is_stateless(context) && GONE.contains(&method.as_str());
        if !is_gone && KNOWN.contains(&method.as_str()) {
            return Err(ErrorData::invalid_params(
                "the parameters have not the form that this method has",
                None,
            ));
        }
        let takes = |server: &Arc<Server>| may_pass(server, &method);
        if is_gone || !self.scope.servers().iter().any(takes) {
            return Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method, None));
        }
        request.extensions = Default::default();
        let said = self.pass_to_only(context, request.into(), &method).await?;
        let result = match OWN.told(&said, !is_stateless(context)) {
            Ok(text) => json!({ "_meta": carrying(text) }),
            Err(_) => said.value,
        };
        Ok(CustomResult(result))
    }
}

/// Whether the operator says that a method of the server's own may be called, or told, by its clients.
pub(super) fn may_pass(server: &Server, method: &str) -> bool {
    let method_folded = method.to_ascii_lowercase();
    server.takes(method) && !OURS.iter().any(|ours| method_folded.starts_with(ours))
}

/// Methods that have a form.
const KNOWN: [&str; 22] = [
    "initialize",
    "server/discover",
    "ping",
    "completion/complete",
    "logging/setLevel",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "resources/directory/read",
    "subscriptions/listen",
    "tools/call",
    "tools/list",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
    "skills/list",
    "skills/get",
    "tasks/result",
];

/// Those of them that 2026-07-28 does not have any more.
const GONE: [&str; 6] = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/result",
];

/// What begins like that acts, or is of an action: no server is asked for it behind our back.
const OURS: [&str; 2] = ["tools/", "tasks/"];
