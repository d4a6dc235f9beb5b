//! The door: who comes in over HTTP, with what, and as whom; then rmcp is let see it, unless it is a call in plain order.

use std::sync::Arc;
use std::time::Duration;

use action::json;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use gateway::{Caller, Code, Deed, Error};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use rmcp::model::{
    ErrorData, Implementation, JsonRpcError, ProtocolVersion, RequestId, RequestMetaObject,
    SubscriptionFilter,
};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::Value;

use super::delivery::{Slot, Watched};
use super::direct::Call;
use super::face::{Face, owner};
use super::inquiry::unknown;
use super::listen::{Opened, must_be_bearable};
use super::scope::Scope;
use super::sessions::{Bounds, Own, Owner};
use super::verbatim::unread;
use super::visit::Visit;
use super::{Mcp, own};
use crate::faces::protected_resource::server_of;
use crate::reply::{self, Said};
use crate::request::{Request, Response};
use crate::who;

/// All servers of the caller's tenant.
pub(crate) async fn all(request: Request) -> Result<Response, Error> {
    enter(request, None).await
}

/// One of them.
pub(crate) async fn one(request: Request) -> Result<Response, Error> {
    let server = request.argument.clone();
    enter(request, Some(&server)).await
}

async fn enter(mut request: Request, only: Option<&str>) -> Result<Response, Error> {
    let visitor = Visitor::of(&request, only).await?;
    let (body, message) = match message_of(&mut request).await? {
        Ok(read) => read,
        Err(unreadable) => return Ok(unreadable),
    };
    // A call is told that there are too many in a result.
    if message.is_request() && message.method() != CALL {
        visitor.scope.gateway.count(&visitor.caller)?;
    }
    if let Err(error) = message.filter().as_ref().map_or(Ok(()), must_be_bearable) {
        return Ok(reply::json(StatusCode::OK, &JsonRpcError::new(message.id(), error)));
    }
    let Some(slot) = slot_of(&visitor.mcp, &request, &message) else {
        return Ok(reply::json(StatusCode::OK, &JsonRpcError::new(message.id(), asked_already())));
    };
    let visit = Visit {
        caller: Arc::clone(&visitor.caller),
        request_id: request.id().into(),
        slot: Arc::new(slot),
        opened: visitor.prepare(&message).await?,
    };
    // What lasts until somebody ends it is ended when we stop, and when its caller is not known any more; whatever else was
    // asked is answered.
    let lasts = request.head.method == Method::GET || message.method() == LISTEN;
    if request.head.method == Method::GET
        && let Some(stopped) = visitor.scope.stopped(&visitor.caller).await
    {
        return Err(stopped);
    }
    let until = lasts.then(|| -> BoxFuture<'static, ()> { Box::pin(visitor.until_over(&request)) });
    let (own, slot) = (visitor.own_sessions(), Arc::clone(&visit.slot));
    if message.method() == CALL
        && let Some(call) = Call::of(&request.head.headers, message, |name| visitor.is_promoted(name))
    {
        let answer = call.answer(Face::new(visitor.mcp, visitor.scope), visit).await;
        return Ok(answer.map(|body| watched(Watched::new(body, slot), None)));
    }
    let ends = request.head.method == Method::DELETE;
    let answer = visitor.service(&own, lasts).handle(for_rmcp(request, visit, body)).await;
    match own.refused() {
        Some(refused) => Err(refused),
        None => {
            let mut answer = answer.map(|body| watched(Watched::new(body, slot), until));
            // Some clients take what was only accepted for a session that did not end.
            if ends && answer.status() == StatusCode::ACCEPTED {
                *answer.status_mut() = StatusCode::OK;
            }
            Ok(answer)
        }
    }
}

/// Who came in, where to, and what there is.
struct Visitor {
    mcp: Arc<Mcp>,
    scope: Scope,
    caller: Arc<Caller>,
    owner: Owner,
    bounds: Bounds,
}

impl Visitor {
    /// # Errors
    /// They may not act, there is no such server, or no such session of theirs.
    async fn of(request: &Request, only: Option<&str>) -> Result<Visitor, Error> {
        let gateway = request.gateway()?;
        let caller = who::caller_or_anonymous(request);
        // An issuer of tokens may be asked for its keys here, so that it need not be the store that is late.
        let wait = gateway.wait_for_store().or_else_told(who::UNSEEN);
        let caller = gateway.in_time(wait, caller).await?;
        caller.must(Deed::Execute)?;
        let scope = Scope::new(gateway, &caller, only)?;
        let who = owner(request.environment, &caller).into();
        let owner = Owner { tenant: caller.tenant.clone(), who, at: scope.name().into() };
        let mcp = Arc::clone(&request.site.mcp);
        // Ids of sessions belong to the older revisions; a newer one looks at none.
        if let Some(id) = session_of(&request.head.headers)
            && !mcp.sessions.is_of(id, &owner)
        {
            return Err(Error::new(Code::NotFound, "there is no such session"));
        }
        let bounds = Bounds::of(scope.gateway.mcp_settings());
        Ok(Visitor { mcp, scope, caller: Arc::new(caller), owner, bounds })
    }

    /// Sees to what has to be there before rmcp sees the message, and opens what it wants to listen to.
    ///
    /// # Errors
    /// They have as many sessions or streams as they may.
    async fn prepare(&self, message: &Message) -> Result<Option<Arc<Opened>>, Error> {
        // What wants no answer is not counted, and so has nothing done for it.
        if !message.is_request() {
            return Ok(None);
        }
        match message.method() {
            "initialize" => self.mcp.sessions.has_room(&self.owner, self.bounds)?,
            CALL => know_tools(&self.scope, &self.caller, message).await,
            LISTEN => {
                let Some(filter) = message.filter() else { return Ok(None) };
                let listener = (&self.scope, &*self.caller);
                let opened = Opened::new(&self.mcp, listener, &filter, message.client()).await?;
                return Ok(Some(Arc::new(opened)));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Whether some of a tool's arguments have to stand in the head, too.
    fn is_promoted(&self, name: &str) -> bool {
        let Some((server, tool)) = self.scope.inward(name) else { return false };
        let tools = server.known_tools().unwrap_or_default();
        tools.iter().any(|seen| seen.tool.name == tool && seen.promotes)
    }

    /// When an answer that lasts is over: its caller is not known any more by what they brought, or is stopped by an operator.
    fn until_over(&self, request: &Request) -> impl Future<Output = ()> + Send + 'static {
        let header = request.head.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let bearer = header.and_then(|header| who::credential(header, "bearer")).map(str::to_owned);
        let (site, server) =
            (Arc::clone(&request.site), server_of(request.head.uri.path()).map(str::to_owned));
        let (scope, caller) = (self.scope.clone(), Arc::clone(&self.caller));
        let forgotten = async move {
            match bearer {
                Some(bearer) => who::forgotten(site, bearer, server).await,
                None => std::future::pending().await,
            }
        };
        let stopped = async move {
            while scope.stopped(&caller).await.is_none_or(|error| error.code != Code::Frozen) {
                tokio::time::sleep(who::LOOK_AGAIN).await;
            }
        };
        async move {
            tokio::select! {
                () = forgotten => {}
                () = stopped => {}
            }
        }
    }

    fn own_sessions(&self) -> Arc<Own> {
        Arc::new(Own::new(&self.mcp.sessions, self.owner.clone(), self.bounds))
    }

    fn service(self, own: &Arc<Own>, lasts: bool) -> StreamableHttpService<Face, Own> {
        let config = StreamableHttpServerConfig::default()
            .with_json_response(true)
            .with_max_request_body_bytes(MOST_BYTES)
            // Both were looked at before the request came here.
            .disable_allowed_hosts()
            .disable_allowed_origins();
        let config = match lasts {
            true => config.with_cancellation_token(self.mcp.sessions.closing.child_token()),
            false => config,
        };
        let face = move || Ok(Face::new(Arc::clone(&self.mcp), self.scope.clone()));
        StreamableHttpService::new(face, Arc::clone(own), config)
    }
}

/// The body and the message in it; or what is said to one that is none.
async fn message_of(request: &mut Request) -> Result<Result<(Bytes, Message), Response>, Error> {
    if request.head.method != Method::POST {
        return Ok(Ok((Bytes::new(), Message(Value::Null))));
    }
    let body = match request.read_body_of(MOST_BYTES).await {
        Ok(body) => Bytes::from(body),
        Err(error) if error.code == Code::BodyTooLarge => {
            let error = ErrorData::invalid_request("the message is longer than 4 MiB", None);
            return Ok(Err(unreadable(StatusCode::PAYLOAD_TOO_LARGE, error)));
        }
        Err(error) => return Err(error),
    };
    let message = Message::read(&body).map_err(|error| unreadable(StatusCode::BAD_REQUEST, error));
    let body = unread(&body).map_or(body, Bytes::from);
    Ok(message.map(|message| (body, message)))
}

/// Whoever handles the message has the caller, and no use for what proved them.
fn for_rmcp(request: Request, visit: Visit, body: Bytes) -> http::Request<Full<Bytes>> {
    let mut head = request.head;
    head.headers.remove(AUTHORIZATION);
    head.extensions.insert(visit);
    http::Request::from_parts(head, Full::new(body))
}

fn watched<B>(body: Watched<B>, until: Option<BoxFuture<'static, ()>>) -> Said
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let parts = match until {
        Some(until) => body.take_until(until).boxed(),
        None => body.boxed(),
    };
    Said::Parts(parts, Arc::default())
}

/// The session that a request of an older revision names.
fn session_of(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_newer = text("mcp-protocol-version")
        .is_some_and(|version| version >= ProtocolVersion::NO_INITIALIZE.as_str());
    text("mcp-session-id").filter(|_| !is_newer)
}

/// Where it is seen to that what is said to a request is known to be delivered. Nothing, where one of the same id has no answer in
/// its session yet.
fn slot_of(mcp: &Mcp, request: &Request, message: &Message) -> Option<Slot> {
    let headers = &request.head.headers;
    let goes_on = request.head.method == Method::GET && headers.contains_key("last-event-id");
    let peer = request.head.extensions.get().cloned();
    let Some(session) = session_of(headers) else { return Some(Slot::default().to(peer)) };
    let slot = Slot::of_session(mcp.sessions.left(session), goes_on).to(peer);
    match message.id().filter(|_| message.is_request()) {
        Some(id) => Some(slot.of_request(mcp.sessions.begin(session, id)?)),
        None => Some(slot),
    }
}

/// Its answer would go to the one who asked last, and the other would wait for ever.
pub(super) fn asked_already() -> ErrorData {
    ErrorData::invalid_request("a request of this id has no answer yet", None)
}

/// Sees to it that the server's tools are known, which headers of the call are held against. A tool of ours is no server's.
async fn know_tools(scope: &Scope, caller: &Caller, message: &Message) {
    let name = message.name().filter(|name| !own::is_own_tool(name));
    if let Some((server, _)) = name.and_then(|name| scope.inward(name))
        && !server.is_listed()
        && scope.gateway.may_speak_with(caller, server.name()).await.is_ok()
    {
        let _ = tokio::time::timeout(LISTED_IN, server.tools()).await;
    }
}

/// As much of a message as has to be known beforehand.
#[derive(Default)]
pub(super) struct Message(pub(super) Value);

impl Message {
    /// Reads it as strictly as every body is read: no member twice, no number that is not exact, not too deep.
    pub(super) fn read(body: &[u8]) -> Result<Message, ErrorData> {
        let message = json::parse(body).map_err(|broken| {
            tracing::debug!(%broken, "a message could not be read");
            ErrorData::parse_error("this is not JSON as it is taken here", None)
        })?;
        if message.is_array() {
            return Err(ErrorData::invalid_request("one message at a time", None));
        }
        Ok(Message(message))
    }

    pub(super) fn method(&self) -> &str {
        self.0["method"].as_str().unwrap_or_default()
    }

    /// Whether it wants an answer.
    pub(super) fn is_request(&self) -> bool {
        !self.method().is_empty() && self.id().is_some()
    }

    pub(super) fn id(&self) -> Option<RequestId> {
        serde_json::from_value(self.0["id"].clone()).ok()
    }

    fn name(&self) -> Option<&str> {
        self.0["params"]["name"].as_str()
    }

    pub(super) fn filter(&self) -> Option<SubscriptionFilter> {
        serde_json::from_value(self.0["params"].get("notifications")?.clone()).ok()
    }

    pub(super) fn client(&self) -> Implementation {
        let meta = self.0["params"]["_meta"].as_object().cloned().unwrap_or_default();
        RequestMetaObject::from(meta).client_info().unwrap_or_else(unknown)
    }
}

/// An error of JSON-RPC about what is no message, and so has no id.
fn unreadable(status: StatusCode, error: ErrorData) -> Response {
    reply::json(status, &JsonRpcError::new(None, error))
}

/// What is an action.
pub(super) const CALL: &str = "tools/call";
/// What opens a stream of news.
pub(super) const LISTEN: &str = "subscriptions/listen";
/// Bytes of a message.
pub(super) const MOST_BYTES: usize = 4 * 1024 * 1024;
/// How long a call waits to have its head held against its server's list.
const LISTED_IN: Duration = Duration::from_secs(10);
