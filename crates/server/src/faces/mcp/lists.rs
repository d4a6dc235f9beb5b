//! Lists: of one server as it gives them, of all servers as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use gateway::upstream::{Party, Said, SeenTool, Server, Unreachable, is_passed_on};
use rmcp::model::{
    ClientRequest, ErrorData, ListPromptsRequest, ListPromptsResult, ListResourceTemplatesRequest,
    ListResourceTemplatesResult, ListResourcesRequest, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ToolListChangedNotification,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::face::Face;
use super::inquiry::is_stateless;
use super::passed::{self, are, formless, is_prompt, is_resource, is_template};
use super::scope::page;
use super::verbatim::{Members, carrying, object, quoted};
use super::visit::Visit;
use super::{own, told};

type Page = Option<PaginatedRequestParams>;
type Context = RequestContext<RoleServer>;

impl Face {
    pub(super) async fn tools(&self, asked: Page, context: &Context) -> Result<ListToolsResult, ErrorData> {
        let visit = Visit::of(&context.extensions)?;
        let has_session = !is_stateless(context);
        let start: usize = match asked.and_then(|asked| asked.cursor) {
            None => 0,
            Some(cursor) => start_of(&cursor).ok_or_else(no_cursor)?,
        };
        let servers = self.scope.servers();
        let lists = servers.iter().map(|server| self.tools_of(server, visit));
        let mut tools: Vec<String> = Vec::new();
        for (server, list) in servers.iter().zip(join_all(lists).await) {
            match list {
                Ok(list) => {
                    tools.extend(list.iter().filter_map(|seen| self.shown(server, seen, has_session)))
                }
                Err(error) if self.scope.only().is_some() => return Err(error),
                Err(error) => {
                    tracing::info!(server = server.name(), why = %error.message, "tools of an MCP server are not listed");
                }
            }
        }
        tools.extend(own::tools().iter().filter_map(|tool| serde_json::to_string(tool).ok()));
        if start >= tools.len() {
            return Err(no_cursor());
        }
        let end = start.saturating_add(MOST_OF_A_PAGE);
        let next = (tools.len() > end).then(|| end.to_string());
        let tools = tools.iter().skip(start).take(MOST_OF_A_PAGE).map(|tool| &**tool);
        let text = listed(("tools", tools), next, has_session);
        Ok(ListToolsResult { meta: Some(carrying(text)), ..ListToolsResult::default() })
    }

    /// The tools of one server that the caller may see. Whoever has a session is told of those that come too late.
    async fn tools_of(&self, server: &Arc<Server>, visit: &Visit) -> Result<Vec<SeenTool>, ErrorData> {
        self.may_speak_with(&visit.caller, server).await?;
        let (gateway, caller) = (Arc::clone(&self.scope.gateway), Arc::clone(&visit.caller));
        let (name, session) = (server.name().to_owned(), self.session().map(Arc::clone));
        let is_told = session.is_some();
        let asking = async move { gateway.tools_of(&caller, &name).await };
        let late = move |came: Result<Vec<SeenTool>, Unreachable>| {
            if let (Ok(_), Some(session)) = (came, session) {
                session.tell(ToolListChangedNotification::default().into(), None);
            }
        };
        match self.scope.within(server, asking, late).await {
            Some(listed) => listed.map_err(|error| unreachable(&error)),
            // Some clients take an error at their first list for the end of it.
            None if is_told && !server.has_greeted() => Ok(Vec::new()),
            None => Err(unreachable(&Unreachable { name: server.name().to_owned(), why: LATE.to_owned() })),
        }
    }

    /// The tool as its server has it, by the name that it has here, without what only we say, and without what its client's revision
    /// does not have; not, where the name is one of ours.
    fn shown(&self, server: &Server, seen: &SeenTool, has_session: bool) -> Option<String> {
        let name = self.scope.outward(server.name(), &seen.tool.name);
        if own::is_own_tool(&name) {
            return None;
        }
        let text = told::clean((*seen.text).to_owned())?;
        let (members, name) = (Members::of(text.get())?, quoted(&name));
        // Before 2026-07-28 what a tool answers is an object, and so is its schema.
        let is_object = |schema: &str| {
            serde_json::from_str::<Typed<'_>>(schema)
                .is_ok_and(|schema| schema.kind.is_some_and(|it| it.get() == "\"object\""))
        };
        let is_shown = |(member, value): &(&str, &str)| {
            is_passed_on(member) && (*member != "outputSchema" || !has_session || is_object(value))
        };
        let members = members.all().filter(is_shown);
        Some(object(members.map(|(member, value)| (member, if member == "name" { &*name } else { value }))))
    }

    pub(super) async fn prompts(
        &self,
        asked: Page,
        context: &Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        let list = List {
            of: "prompts",
            request: |params| ListPromptsRequest { params, ..Default::default() }.into(),
            is_item: is_prompt,
            has: |it| it.prompts.is_some(),
        };
        let named = |(server, prompt): &(Arc<Server>, Box<RawValue>)| {
            let name = self.scope.outward(server.name(), &Named::of(prompt)?.name);
            Some(Members::of(prompt.get())?.with_another("name", &quoted(&name)))
        };
        let text = match self.gather(asked, context, &list).await? {
            Gathered::Whole(text) => text,
            Gathered::Pieces(found, next) => {
                let prompts: Vec<String> = found.iter().filter_map(named).collect();
                listed((list.of, prompts.iter().map(|prompt| &**prompt)), next, !is_stateless(context))
            }
        };
        Ok(ListPromptsResult { meta: Some(carrying(text)), ..ListPromptsResult::default() })
    }

    pub(super) async fn resources(
        &self,
        asked: Page,
        context: &Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        let list = List {
            of: "resources",
            request: |params| ListResourcesRequest { params, ..Default::default() }.into(),
            is_item: is_resource,
            has: |it| it.resources.is_some(),
        };
        let is_anew = asked.as_ref().is_none_or(|asked| asked.cursor.is_none());
        let text = match self.gather(asked, context, &list).await? {
            Gathered::Whole(text) => text,
            Gathered::Pieces(found, next) => {
                if is_anew {
                    let servers = self.scope.servers();
                    servers
                        .iter()
                        .for_each(|server| self.mcp.whereabouts.forget(&self.scope.tenant, server.name()));
                }
                for (server, resource) in &found {
                    if let Some(uri) = Named::of(resource).and_then(|named| named.uri) {
                        self.mcp.whereabouts.learn(&self.scope.tenant, server.name(), &uri);
                    }
                }
                listed((list.of, items(&found)), next, !is_stateless(context))
            }
        };
        Ok(ListResourcesResult { meta: Some(carrying(text)), ..ListResourcesResult::default() })
    }

    pub(super) async fn templates(
        &self,
        asked: Page,
        context: &Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let list = List {
            of: "resourceTemplates",
            request: |params| ListResourceTemplatesRequest { params, ..Default::default() }.into(),
            is_item: is_template,
            has: |it| it.resources.is_some(),
        };
        let text = match self.gather(asked, context, &list).await? {
            Gathered::Whole(text) => text,
            Gathered::Pieces(found, next) => listed((list.of, items(&found)), next, !is_stateless(context)),
        };
        Ok(ListResourceTemplatesResult {
            meta: Some(carrying(text)),
            ..ListResourceTemplatesResult::default()
        })
    }

    /// One server's list as it is, or the lists of all that have such things. Who cannot be reached has none.
    async fn gather(&self, asked: Page, context: &Context, list: &List) -> Result<Gathered, ErrorData> {
        let servers = self.scope.servers();
        if let (Some(_), Some(server)) = (self.scope.only(), servers.first()) {
            let asked = asked.and_then(|asked| page(asked.cursor));
            let said = self.pass(context, server, (list.request)(asked)).await?;
            let members = list.members(&said).ok_or_else(formless)?;
            let members: Vec<_> = members.all().collect();
            return Ok(Gathered::Whole(passed::told(&members, true, !is_stateless(context))));
        }
        let from = match asked.and_then(|asked| asked.cursor) {
            None => servers.iter().map(|server| (server.name().to_owned(), None)).collect(),
            Some(cursor) => Cursors::open(&cursor).ok_or_else(no_cursor)?.0,
        };
        let pieces = servers.iter().filter_map(|server| {
            let cursor = from.get(server.name())?.clone();
            Some(self.piece(context, server, cursor, list))
        });
        let (mut found, mut left) = (Vec::new(), BTreeMap::new());
        for (server, items, next) in join_all(pieces).await {
            if next.is_some() {
                left.insert(server.name().to_owned(), next);
            }
            found.extend(items.into_iter().map(|item| (Arc::clone(&server), item)));
        }
        let next = (!left.is_empty()).then(|| Cursors(left).seal());
        Ok(Gathered::Pieces(found, next))
    }

    async fn piece(
        &self,
        context: &Context,
        server: &Arc<Server>,
        mut cursor: Option<String>,
        list: &List,
    ) -> (Arc<Server>, Vec<Box<RawValue>>, Option<String>) {
        let mut found: Vec<Box<RawValue>> = Vec::new();
        let gathering = async {
            let about = self.scope.about(server, &Visit::of(&context.extensions).ok()?.caller).await.ok()?;
            if !(list.has)(&about.capabilities) {
                cursor = None;
                return Some(());
            }
            let mut bytes = 0;
            for _ in 0..MOST_PAGES {
                let asked = cursor.take();
                let said = self.pass(context, server, (list.request)(page(asked.clone()))).await.ok()?;
                bytes += said.text.get().len();
                found.extend(serde_json::from_str::<Vec<_>>(list.members(&said)?.get(list.of)?).ok()?);
                // One that goes on where it was goes on for ever.
                let next = said.value["nextCursor"].as_str().map(str::to_owned);
                cursor = next.filter(|next| asked.as_ref() != Some(next));
                if cursor.is_none() || found.len() >= MOST_OF_A_PAGE || bytes >= MOST_BYTES {
                    break;
                }
            }
            Some(())
        };
        if !matches!(timeout(self.scope.patience(), gathering).await, Ok(Some(()))) {
            tracing::info!(server = server.name(), "an MCP server's list is left out, or a part of it");
            cursor = None;
        }
        (Arc::clone(server), found, cursor)
    }
}

/// One kind of list.
struct List {
    /// The member that is the list.
    of: &'static str,
    request: fn(Page) -> ClientRequest,
    is_item: fn(&Value) -> bool,
    has: fn(&ServerCapabilities) -> bool,
}

impl List {
    /// Those of a page; nothing, if it is none.
    fn members<'a>(&self, page: &'a Said) -> Option<Members<'a>> {
        are(&page.value[self.of], self.is_item).then(|| Members::of(page.text.get()))?
    }
}

enum Gathered {
    Whole(String),
    Pieces(Vec<(Arc<Server>, Box<RawValue>)>, Option<String>),
}

fn items(found: &[(Arc<Server>, Box<RawValue>)]) -> impl Iterator<Item = &str> {
    found.iter().map(|(_, item)| item.get())
}

/// A page of a list of all servers.
fn listed<'a>(
    (of, items): (&str, impl Iterator<Item = &'a str>),
    next: Option<String>,
    has_session: bool,
) -> String {
    let items = format!("[{}]", items.collect::<Vec<_>>().join(","));
    let next = next.map(|next| quoted(&next));
    let next = next.as_deref().map(|next| ("nextCursor", next));
    passed::told(&[(of, &*items)].into_iter().chain(next).collect::<Vec<_>>(), true, has_session)
}

/// What a thing is known by.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    uri: Option<String>,
}

impl Named {
    fn of(item: &RawValue) -> Option<Named> {
        serde_json::from_str(item.get()).ok()
    }
}

/// As much of a schema as tells what it is of.
#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
}

/// Where each server's list goes on.
struct Cursors(BTreeMap<String, Option<String>>);

impl Cursors {
    fn seal(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&self.0).unwrap_or_default())
    }

    fn open(cursor: &str) -> Option<Cursors> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok().map(Cursors)
    }
}

pub(super) fn unreachable(error: &Unreachable) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

/// Where a page of tools begins that is not the first.
fn start_of(cursor: &str) -> Option<usize> {
    let start: usize = cursor.parse().ok()?;
    (start > 0 && start.is_multiple_of(MOST_OF_A_PAGE)).then_some(start)
}

fn no_cursor() -> ErrorData {
    ErrorData::invalid_params("this cursor is none of ours", None)
}

const LATE: &str = "it has not answered yet; ask again in a moment";
/// What a list is made of at a time, where it is made of several.
const MOST_OF_A_PAGE: usize = 1000;
/// So much of each server, or little more: its list is gone on with at its next page.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// The same in pages of its own: there are empty ones.
const MOST_PAGES: usize = 100;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cursor_says_where_each_server_goes_on() {
        let left = BTreeMap::from([("a".to_owned(), Some("2".to_owned())), ("b".to_owned(), None)]);
        assert_eq!(Cursors::open(&Cursors(left.clone()).seal()).unwrap().0, left);
        assert!(Cursors::open("MQ").is_none() && Cursors::open("?").is_none());
    }
}
