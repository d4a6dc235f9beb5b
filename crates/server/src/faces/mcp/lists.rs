//! Lists: of one server as it gives them, of all servers as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use gateway::upstream::{Party, SeenTool, Server, Unreachable, is_ours};
use rmcp::model::{
    ClientRequest, ErrorData, ListPromptsRequest, ListPromptsResult, ListResourceTemplatesRequest,
    ListResourceTemplatesResult, ListResourcesRequest, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, Prompt, Resource, ResourceTemplate, ServerCapabilities, ServerResult, Tool,
    ToolListChangedNotification,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::face::Face;
use super::own;
use super::pass::read;
use super::scope::page;
use super::visit::Visit;

type Page = Option<PaginatedRequestParams>;
type Context = RequestContext<RoleServer>;

impl Face {
    pub(super) async fn tools(&self, asked: Page, context: &Context) -> Result<ListToolsResult, ErrorData> {
        let visit = Visit::of(&context.extensions)?;
        let start: usize = match asked.and_then(|asked| asked.cursor) {
            None => 0,
            Some(cursor) => start_of(&cursor).ok_or_else(no_cursor)?,
        };
        let servers = self.scope.servers();
        let lists = servers.iter().map(|server| self.tools_of(server, visit));
        let mut tools: Vec<Tool> = Vec::new();
        for (server, list) in servers.iter().zip(join_all(lists).await) {
            match list {
                Ok(list) => tools.extend(list.into_iter().filter_map(|seen| self.shown(server, seen.tool))),
                Err(error) if self.scope.only().is_some() => return Err(error),
                Err(error) => {
                    tracing::info!(server = server.name(), why = %error.message, "tools of an MCP server are not listed");
                }
            }
        }
        tools.extend(own::tools());
        if start >= tools.len() {
            return Err(no_cursor());
        }
        let end = start.saturating_add(MOST_OF_A_PAGE);
        let next = (tools.len() > end).then(|| end.to_string());
        let tools = tools.into_iter().skip(start).take(MOST_OF_A_PAGE).collect();
        Ok(ListToolsResult { next_cursor: next, ..ListToolsResult::with_all_items(tools) })
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

    /// The tool by the name that it has here, without what only we say; not, where the name is one of ours.
    fn shown(&self, server: &Server, mut tool: Tool) -> Option<Tool> {
        tool.name = self.scope.outward(server.name(), &tool.name).into();
        if let Some(meta) = &mut tool.meta {
            meta.0.retain(|name, _| !is_ours(name));
        }
        (!own::is_own_tool(&tool.name)).then_some(tool)
    }

    pub(super) async fn prompts(
        &self,
        asked: Page,
        context: &Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        let list = List {
            request: |params| ListPromptsRequest { params, ..Default::default() }.into(),
            items: |result: ListPromptsResult| (result.prompts, result.next_cursor),
            has: |it| it.prompts.is_some(),
        };
        let (found, next) = match self.gather(asked, context, list).await? {
            Gathered::Whole(result) => return Ok(result),
            Gathered::Pieces(found, next) => (found, next),
        };
        let named = |(server, mut prompt): (Arc<Server>, Prompt)| {
            prompt.name = self.scope.outward(server.name(), &prompt.name);
            prompt
        };
        let prompts = found.into_iter().map(named).collect();
        Ok(ListPromptsResult { next_cursor: next, ..ListPromptsResult::with_all_items(prompts) })
    }

    pub(super) async fn resources(
        &self,
        asked: Page,
        context: &Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        let list = List {
            request: |params| ListResourcesRequest { params, ..Default::default() }.into(),
            items: |result: ListResourcesResult| (result.resources, result.next_cursor),
            has: |it| it.resources.is_some(),
        };
        let is_anew = asked.as_ref().is_none_or(|asked| asked.cursor.is_none());
        let (found, next) = match self.gather(asked, context, list).await? {
            Gathered::Whole(result) => return Ok(result),
            Gathered::Pieces(found, next) => (found, next),
        };
        if is_anew {
            let servers = self.scope.servers();
            servers.iter().for_each(|server| self.mcp.whereabouts.forget(&self.scope.tenant, server.name()));
        }
        let learned = |(server, resource): (Arc<Server>, Resource)| {
            self.mcp.whereabouts.learn(&self.scope.tenant, server.name(), &resource.uri);
            resource
        };
        let resources = found.into_iter().map(learned).collect();
        Ok(ListResourcesResult { next_cursor: next, ..ListResourcesResult::with_all_items(resources) })
    }

    pub(super) async fn templates(
        &self,
        asked: Page,
        context: &Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let list = List {
            request: |params| ListResourceTemplatesRequest { params, ..Default::default() }.into(),
            items: |result: ListResourceTemplatesResult| (result.resource_templates, result.next_cursor),
            has: |it| it.resources.is_some(),
        };
        let (found, next) = match self.gather(asked, context, list).await? {
            Gathered::Whole(result) => return Ok(result),
            Gathered::Pieces(found, next) => (found, next),
        };
        let templates: Vec<ResourceTemplate> = found.into_iter().map(|(_, template)| template).collect();
        Ok(ListResourceTemplatesResult {
            next_cursor: next,
            ..ListResourceTemplatesResult::with_all_items(templates)
        })
    }

    /// One server's list as it is, or the lists of all that have such things. Who cannot be reached has none.
    async fn gather<R: DeserializeOwned, T>(
        &self,
        asked: Page,
        context: &Context,
        list: List<R, T>,
    ) -> Result<Gathered<R, T>, ErrorData> {
        let servers = self.scope.servers();
        if let (Some(_), Some(server)) = (self.scope.only(), servers.first()) {
            let asked = asked.and_then(|asked| page(asked.cursor));
            let result = self.pass(context, server, (list.request)(asked)).await?;
            return read(result).map(Gathered::Whole);
        }
        let from = match asked.and_then(|asked| asked.cursor) {
            None => servers.iter().map(|server| (server.name().to_owned(), None)).collect(),
            Some(cursor) => Cursors::open(&cursor).ok_or_else(no_cursor)?.0,
        };
        let pieces = servers.iter().filter_map(|server| {
            let cursor = from.get(server.name())?.clone();
            Some(self.piece(context, server, cursor, &list))
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

    async fn piece<R: DeserializeOwned, T>(
        &self,
        context: &Context,
        server: &Arc<Server>,
        mut cursor: Option<String>,
        list: &List<R, T>,
    ) -> (Arc<Server>, Vec<T>, Option<String>) {
        let mut found = Vec::new();
        let gathering = async {
            let about = self.scope.about(server).await?;
            if !(list.has)(&about.capabilities) {
                cursor = None;
                return Some(());
            }
            let mut bytes = 0;
            for _ in 0..MOST_PAGES {
                let asked = cursor.take();
                let result = self.pass(context, server, (list.request)(page(asked.clone()))).await.ok()?;
                bytes += length_of(&result);
                let (items, next) = (list.items)(read(result).ok()?);
                found.extend(items);
                // One that goes on where it was goes on for ever.
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
struct List<R, T> {
    request: fn(Page) -> ClientRequest,
    items: fn(R) -> (Vec<T>, Option<String>),
    has: fn(&ServerCapabilities) -> bool,
}

enum Gathered<R, T> {
    Whole(R),
    Pieces(Vec<(Arc<Server>, T)>, Option<String>),
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

/// How long it is as it is written, without writing it.
fn length_of(result: &ServerResult) -> usize {
    struct Counted(usize);
    impl std::io::Write for Counted {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0 += part.len();
            Ok(part.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    match serde_json::to_writer(&mut counted, result) {
        Ok(()) => counted.0,
        Err(_) => MOST_BYTES,
    }
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
