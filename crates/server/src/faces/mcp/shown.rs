//! What is shown of the servers: their capabilities and instructions, with tools and tasks of our own.

use std::sync::Arc;

use super::scope::{Hidden, Scope};
use futures_util::future::join_all;
use gateway::Caller;
use rmcp::model::{
    ExperimentalCapabilities, Implementation, JsonObject, PromptsCapability, ResourcesCapability,
    ServerCapabilities, ServerConfig, ServerPeerInfo, TASKS_EXTENSION_ID, ToolsCapability,
};

/// By what is known of the servers: which of their capabilities are there to be asked for at all. It is shown to nobody, since who
/// may speak with which is not looked at.
pub(super) fn known(scope: &Scope) -> ServerConfig {
    let servers = scope.servers();
    let found: Vec<_> =
        servers.iter().filter_map(|server| Some((server.name(), server.known_about()?))).collect();
    config_of(scope, &found)
}

/// Asks the servers that this caller may speak with. Who does not answer in time shows nothing.
pub(super) async fn look(scope: &Scope, caller: &Caller) -> ServerConfig {
    let servers = scope.servers();
    let abouts = join_all(servers.iter().map(|server| scope.about(server, caller))).await;
    let found: Vec<_> = servers
        .iter()
        .zip(&abouts)
        .filter_map(|(server, about)| Some((server.name(), about.clone().ok()?)))
        .collect();
    let mut config = config_of(scope, &found);
    if let (Some(_), [Err(Hidden::Stopped)]) = (scope.only(), &abouts[..]) {
        config.instructions = Some(STOPPED.to_owned());
    }
    config
}

type Found<'a> = (&'a str, Arc<ServerPeerInfo>);

fn config_of(scope: &Scope, found: &[Found<'_>]) -> ServerConfig {
    let mut config = ServerConfig::default();
    config.capabilities = match (scope.only(), found) {
        (Some(_), [(_, about)]) => about.capabilities.clone(),
        _ => union(found),
    };
    // Which tools are accepted changes here, whatever the servers tell of; and those of servers that are not there yet come later.
    config.capabilities.tools.get_or_insert_default().list_changed = Some(true);
    let extensions = config.capabilities.extensions.get_or_insert_default();
    extensions.insert(TASKS_EXTENSION_ID.to_owned(), JsonObject::new());
    let ours = || Implementation::new("countersign", env!("CARGO_PKG_VERSION"));
    config.server_info = match (scope.only(), found) {
        (Some(_), [(_, about)]) => about.server_info.clone().unwrap_or_else(ours),
        _ => ours(),
    };
    config.instructions = match (scope.only(), found) {
        (Some(_), [(_, about)]) => about.instructions.clone(),
        (Some(_), []) => Some(NOT_THERE.to_owned()),
        _ => chapters(found),
    };
    config
}

/// What any of them has.
fn union(found: &[Found<'_>]) -> ServerCapabilities {
    let mut union = ServerCapabilities::default();
    for (_, about) in found {
        let one = &about.capabilities;
        union.logging = union.logging.take().or_else(|| one.logging.clone());
        union.completions = union.completions.take().or_else(|| one.completions.clone());
        if let Some(one) = &one.experimental {
            union.experimental.get_or_insert_with(ExperimentalCapabilities::new).extend(one.clone());
        }
        if let Some(one) = &one.prompts {
            let PromptsCapability { list_changed, .. } = union.prompts.get_or_insert_default();
            *list_changed = either(*list_changed, one.list_changed);
        }
        if let Some(one) = &one.resources {
            let ResourcesCapability { subscribe, list_changed, .. } = union.resources.get_or_insert_default();
            *subscribe = either(*subscribe, one.subscribe);
            *list_changed = either(*list_changed, one.list_changed);
        }
        if let Some(one) = &one.tools {
            let ToolsCapability { list_changed, .. } = union.tools.get_or_insert_default();
            *list_changed = either(*list_changed, one.list_changed);
        }
    }
    union
}

/// Yes, where one of them says so.
fn either(some: Option<bool>, other: Option<bool>) -> Option<bool> {
    if other == Some(true) { other } else { some.or(other) }
}

fn chapters(found: &[Found<'_>]) -> Option<String> {
    let chapter = |(server, about): &Found<'_>| {
        about.instructions.as_ref().map(|instructions| format!("# {server}\n\n{instructions}"))
    };
    let chapters: Vec<String> = found.iter().filter_map(chapter).collect();
    (!chapters.is_empty()).then(|| chapters.join("\n\n"))
}

const NOT_THERE: &str = "The server has not started yet. Its tools are listed as soon as it has.";
const STOPPED: &str = "An operator has stopped this.";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rmcp::model::ProtocolVersion;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_one_server_does_not_do_hides_nothing_of_another() {
        let about = |does: bool| {
            let capabilities = json!({
                "prompts": {"listChanged": does}, "tools": {"listChanged": does},
                "resources": {"listChanged": does, "subscribe": does},
            });
            let capabilities = serde_json::from_value(capabilities).unwrap();
            Arc::new(ServerPeerInfo::new(ProtocolVersion::V_2025_11_25, capabilities))
        };
        for both in [[("a", about(false)), ("b", about(true))], [("a", about(true)), ("b", about(false))]] {
            let shown: Value = serde_json::to_value(union(&both)).unwrap();
            assert_eq!(shown, serde_json::to_value(&about(true).capabilities).unwrap());
        }
        let neither = serde_json::to_value(union(&[("a", about(false))])).unwrap();
        assert_eq!(neither, serde_json::to_value(&about(false).capabilities).unwrap());
    }
}
