//! Which servers an address stands for, and what their things are called there.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use action::Tenant;
use gateway::upstream::{Party, Server, Tie};
use gateway::{Caller, Code, Error, Gateway, MCP_ARCHETYPES};
use rmcp::model::{
    ErrorData, ListResourceTemplatesRequest, ListResourcesRequest, PaginatedRequestParams, ServerPeerInfo,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lock;

/// All servers of a tenant, or one of them.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) gateway: Arc<Gateway>,
    pub(super) tenant: Tenant,
    only: Option<Arc<str>>,
}

impl Scope {
    /// # Errors
    /// `EP_NOT_FOUND` if there is no such server.
    pub(super) fn new(gateway: Arc<Gateway>, caller: &Caller, only: Option<&str>) -> Result<Scope, Error> {
        let tenant = caller.tenant.clone();
        if only.is_some_and(|name| gateway.mcp().get(&tenant, name).is_none()) {
            return Err(Error::new(Code::NotFound, "there is no such MCP server"));
        }
        Ok(Scope { gateway, tenant, only: only.map(Arc::from) })
    }

    /// Those that it stands for, by name.
    pub(super) fn servers(&self) -> Vec<Arc<Server>> {
        match &self.only {
            Some(name) => self.gateway.mcp().get(&self.tenant, name).into_iter().collect(),
            None => self.gateway.mcp().of(&self.tenant),
        }
    }

    /// Why this caller may speak with none of them, where an operator has stopped that.
    pub(super) async fn stopped(&self, caller: &Caller) -> Option<Error> {
        let mut stopped = None;
        for server in self.servers() {
            match self.gateway.may_speak_with(caller, server.name()).await {
                Ok(()) => return None,
                Err(error) => stopped = Some(error),
            }
        }
        stopped
    }

    /// The one server whose own names are used.
    pub(super) fn only(&self) -> Option<&str> {
        self.only.as_deref()
    }

    /// At the address of one server there are the actions of its tools and no others: a token may be for that server alone.
    ///
    /// # Errors
    /// `EP_NOT_FOUND`, as of an action that there is none of.
    pub(super) async fn must_have(&self, caller: &Caller, action: &str) -> Result<(), Error> {
        let Some(only) = self.only() else { return Ok(()) };
        let view = self.gateway.action(caller, action).await?;
        match server_and_tool(&view.archetype) {
            Some((server, _)) if server == only => Ok(()),
            _ => Err(Error::new(Code::NotFound, "there is no such action")),
        }
    }

    /// Tells scopes apart.
    pub(super) fn name(&self) -> String {
        let environment = self.gateway.environment().as_str();
        format!("{environment} {} {}", self.tenant, self.only.as_deref().unwrap_or_default())
    }

    /// What comes of asking a server, if it comes in a time that is bearable here. One of several is not waited for long; it is
    /// asked to the end all the same, so that the next who ask have it, and `late` has what comes of it then.
    pub(super) async fn within<T: Send + 'static>(
        &self,
        server: &Server,
        asking: impl Future<Output = T> + Send + 'static,
        late: impl FnOnce(T) + Send + 'static,
    ) -> Option<T> {
        let patience = self.patience_with(server);
        let (comes, came) = oneshot::channel();
        tokio::spawn(async move {
            if let Err(unheard) = comes.send(asking.await) {
                late(unheard);
            }
        });
        timeout(patience, came).await.ok()?.ok()
    }

    /// So long this server is waited for.
    pub(super) fn patience_with(&self, server: &Server) -> Duration {
        let (most, least) = match self.only {
            Some(_) => (self.gateway.mcp_settings().alone(), SHORTEST_ALONE),
            None => (self.patience(), SHORTEST),
        };
        // Who has let others wait is not waited for anew.
        most.saturating_sub(server.owes_for()).max(least)
    }

    /// So long one of several servers is waited for.
    pub(super) fn patience(&self) -> Duration {
        self.gateway.mcp_settings().listing()
    }

    /// What a server says of itself, if it does within a bearable time. Who this caller may not speak with is asked nothing.
    pub(super) async fn about(
        &self,
        server: &Arc<Server>,
        caller: &Caller,
    ) -> Result<Arc<ServerPeerInfo>, Hidden> {
        self.gateway.may_speak_with(caller, server.name()).await.map_err(|error| match error.code {
            Code::Frozen => Hidden::Stopped,
            _ => Hidden::NotThere,
        })?;
        let asked = Arc::clone(server);
        match self.within(server, async move { asked.about().await }, drop).await {
            Some(Ok(about)) => Ok(about),
            Some(Err(error)) => {
                tracing::info!(%error, "an MCP server is not shown");
                Err(Hidden::NotThere)
            }
            None => {
                tracing::info!(server = server.name(), "an MCP server is not shown: it takes too long");
                Err(Hidden::NotThere)
            }
        }
    }

    /// What a thing of this server is called here.
    pub(super) fn outward(&self, server: &str, name: &str) -> String {
        if self.only.is_some() { name.to_owned() } else { format!("{server}{BETWEEN}{name}") }
    }

    /// The server that a name belongs to, and the name there.
    pub(super) fn inward<'a>(&self, name: &'a str) -> Option<(Arc<Server>, &'a str)> {
        let servers = self.servers();
        if self.only.is_some() {
            return servers.into_iter().next().map(|server| (server, name));
        }
        let split = |server: Arc<Server>| {
            let rest = name.strip_prefix(server.name())?.strip_prefix(BETWEEN)?;
            (!rest.is_empty()).then_some((server, rest))
        };
        // The longest: a name may end as a shorter one goes on.
        servers.into_iter().filter_map(split).max_by_key(|(server, _)| server.name().len())
    }
}

/// Why nothing is shown of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// An operator has stopped that.
    Stopped,
    /// It does not answer, or nobody can say just now whether it may be spoken with.
    NotThere,
}

/// What an archetype is the tool of.
pub(super) fn server_and_tool(archetype: &str) -> Option<(&str, &str)> {
    archetype.strip_prefix(MCP_ARCHETYPES)?.split_once('/')
}

const BETWEEN: &str = "__";

/// Which server has which resource, as far as their lists told.
#[derive(Default)]
pub(super) struct Whereabouts(Mutex<HashMap<(Tenant, String), Arc<str>>>);

impl Whereabouts {
    /// This server lists this resource.
    pub(super) fn learn(&self, tenant: &Tenant, server: &str, uri: &str) {
        if uri.len() > LONGEST_URI {
            return;
        }
        let mut known = lock(&self.0);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert((tenant.clone(), uri.to_owned()), server.into());
    }

    /// This server is listed anew: what it had before it may not have any more.
    pub(super) fn forget(&self, tenant: &Tenant, server: &str) {
        lock(&self.0).retain(|(of, _), has| of != tenant || **has != *server);
    }

    /// The servers of a scope in the order in which they are to be asked for a resource: whoever lists it; else whoever has a
    /// template that it fits; else all that have resources.
    pub(super) async fn of(
        &self,
        scope: (&Scope, &Caller),
        party: &Arc<dyn Party>,
        uri: &str,
    ) -> Vec<Arc<Server>> {
        self.of_each(scope, party, &[uri]).await.pop().unwrap_or_default()
    }

    /// The same of several resources, in their order. For all that are not known each server is asked once.
    pub(super) async fn of_each(
        &self,
        (scope, caller): (&Scope, &Caller),
        party: &Arc<dyn Party>,
        uris: &[&str],
    ) -> Vec<Vec<Arc<Server>>> {
        let servers = scope.servers();
        if servers.len() <= 1 {
            return uris.iter().map(|_| servers.clone()).collect();
        }
        let known: Vec<_> = uris.iter().map(|uri| self.known(scope, uri)).collect();
        let sought: Vec<&str> =
            uris.iter().zip(&known).filter_map(|(uri, known)| known.is_none().then_some(*uri)).collect();
        let mut found = match sought.is_empty() {
            true => Vec::new(),
            false => {
                let looks = servers.iter().map(|server| self.look((scope, caller), server, party, &sought));
                futures_util::future::join_all(looks).await
            }
        };
        let mut found: Vec<_> = found.iter_mut().map(|fits| fits.drain(..)).collect();
        let one = |known: Option<Arc<Server>>| match known {
            Some(server) => vec![server],
            None => {
                let fits: Vec<Fits> = found.iter_mut().map(|fits| fits.next().unwrap_or(Fits::No)).collect();
                ranked(&servers, &fits)
            }
        };
        known.into_iter().map(one).collect()
    }

    fn known(&self, scope: &Scope, uri: &str) -> Option<Arc<Server>> {
        let name = self.holder(&scope.tenant, uri)?;
        scope.gateway.mcp().get(&scope.tenant, &name)
    }

    fn holder(&self, tenant: &Tenant, uri: &str) -> Option<Arc<str>> {
        lock(&self.0).get(&(tenant.clone(), uri.to_owned())).cloned()
    }

    /// How this server has each of these resources; what it does not say in time it has not.
    async fn look(
        &self,
        (scope, caller): (&Scope, &Caller),
        server: &Arc<Server>,
        party: &Arc<dyn Party>,
        uris: &[&str],
    ) -> Vec<Fits> {
        // Whoever asks it in earnest is told so.
        if scope.gateway.may_speak_with(caller, server.name()).await.is_err() {
            return vec![Fits::Perhaps; uris.len()];
        }
        let mut fits = vec![Fits::No; uris.len()];
        let looking = self.look_for((scope, uris), server, party, &mut fits);
        if timeout(scope.patience(), looking).await.is_err() {
            fits.iter_mut().filter(|fits| **fits == Fits::Perhaps).for_each(|fits| *fits = Fits::No);
        }
        fits
    }

    async fn look_for(
        &self,
        (scope, uris): (&Scope, &[&str]),
        server: &Arc<Server>,
        party: &Arc<dyn Party>,
        fits: &mut [Fits],
    ) -> Option<()> {
        let about = server.about().await.ok()?;
        about.capabilities.resources.as_ref()?;
        fits.fill(Fits::Perhaps);
        let mut cursor = None;
        for _ in 0..MOST_PAGES {
            let is_first = cursor.is_none();
            let request = ListResourcesRequest { params: page(cursor), ..Default::default() };
            let Ok(said) = server.pass(party, request.into(), Tie::default()).await else { break };
            let Some(resources) = said.value["resources"].as_array() else { break };
            if is_first {
                self.forget(&scope.tenant, server.name());
            }
            let listed: HashSet<&str> =
                resources.iter().filter_map(|resource| resource["uri"].as_str()).collect();
            listed.iter().for_each(|uri| self.learn(&scope.tenant, server.name(), uri));
            for (fits, _) in fits.iter_mut().zip(uris).filter(|(_, uri)| listed.contains(*uri)) {
                *fits = Fits::Listed;
            }
            cursor = said.value["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() || fits.iter().all(|fits| *fits == Fits::Listed) {
                break;
            }
        }
        if fits.iter().all(|fits| *fits == Fits::Listed) {
            return Some(());
        }
        let request = ListResourceTemplatesRequest::default();
        let Ok(said) = server.pass(party, request.into(), Tie::default()).await else { return Some(()) };
        let templates = said.value["resourceTemplates"].as_array().into_iter().flatten();
        let templates: Vec<&str> =
            templates.filter_map(|template| template["uriTemplate"].as_str()).collect();
        let has = |uri: &str| templates.iter().any(|template| fits_template(template, uri));
        for (fits, _) in fits.iter_mut().zip(uris).filter(|(fits, uri)| **fits == Fits::Perhaps && has(uri)) {
            *fits = Fits::Template;
        }
        Some(())
    }
}

/// Those of the servers that fit best.
fn ranked(servers: &[Arc<Server>], fits: &[Fits]) -> Vec<Arc<Server>> {
    let best = [Fits::Listed, Fits::Template, Fits::Perhaps].into_iter().find(|best| fits.contains(best));
    let those = servers.iter().zip(fits).filter(|(_, fits)| Some(**fits) == best);
    those.map(|(server, _)| Arc::clone(server)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fits {
    Listed,
    Template,
    Perhaps,
    No,
}

pub(super) fn page(cursor: Option<String>) -> Option<PaginatedRequestParams> {
    cursor.map(|cursor| PaginatedRequestParams::default().with_cursor(Some(cursor)))
}

/// Whether the fixed parts of a template stand in the URI in their order.
fn fits_template(template: &str, uri: &str) -> bool {
    let mut fixed = template.split('{').enumerate().map(|(place, part)| match place {
        0 => part,
        _ => part.split_once('}').map_or("", |(_, after)| after),
    });
    let Some(mut rest) = fixed.next().and_then(|first| uri.strip_prefix(first)) else { return false };
    for part in fixed {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    template.ends_with('}') || rest.is_empty()
}

/// Nobody has it: as the servers themselves say it.
pub(super) fn no_resource(uri: &str) -> ErrorData {
    ErrorData::resource_not_found("there is no such resource", Some(serde_json::json!({ "uri": uri })))
}

const MOST_KNOWN: usize = 10_000;
/// Longer ones are not kept.
pub(super) const LONGEST_URI: usize = 2048;
const MOST_PAGES: usize = 20;
/// What is known already is there by then.
const SHORTEST: Duration = Duration::from_millis(100);
/// The same where nobody else keeps anybody waiting: whatever a server that is there says at once.
const SHORTEST_ALONE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_server_had_is_forgotten_when_it_is_listed_anew_and_nobody_elses() {
        let (known, [ann, bob]) =
            (Whereabouts::default(), ["ann", "bob"].map(|it| Tenant::parse(it).unwrap()));
        for (tenant, server, uri) in
            [(&ann, "shop", "book:1"), (&ann, "farm", "cow:1"), (&bob, "shop", "book:1")]
        {
            known.learn(tenant, server, uri);
        }
        known.forget(&ann, "shop");
        let has = |tenant: &Tenant, uri: &str| known.holder(tenant, uri).map(|it| it.to_string());
        assert_eq!(has(&ann, "book:1"), None);
        assert_eq!(has(&ann, "cow:1").as_deref(), Some("farm"));
        assert_eq!(has(&bob, "book:1").as_deref(), Some("shop"));
    }

    #[test]
    fn a_uri_fits_a_template_by_its_fixed_parts() {
        assert!(fits_template("test://template/{id}/data", "test://template/1/data"));
        assert!(fits_template("file:///{+path}", "file:///a/b"));
        for wrong in ["test://other/1/data", "test://template/1/date", "test://template/1/data/more"] {
            assert!(!fits_template("test://template/{id}/data", wrong), "{wrong}");
        }
    }
}
