//! The door: who comes in over HTTP, with what, and as whom; then rmcp is let see it.

use std::sync::Arc;
use std::time::Duration;

use action::json;
use bytes::Bytes;
use futures_util::StreamExt;
use gateway::{Code, Deed, Error};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::Full;
use rmcp::model::{
    ErrorData, Implementation, JsonRpcError, ProtocolVersion, RequestId, RequestMetaObject,
    SubscriptionFilter,
};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::Value;

use super::delivery::{Slot, Watched};
use super::face::{Face, owner};
use super::listen::{Opened, must_be_bearable};
use super::scope::Scope;
use super::sessions::{Own, Owner};
use super::visit::Visit;
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
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    caller.must(Deed::Execute)?;
    let scope = Scope::new(gateway, &caller, only)?;
    let who: Arc<str> = owner(request.environment, &caller).into();
    let owner = Owner { who, at: scope.name().into() };
    let mcp = Arc::clone(&request.site.mcp);
    // Ids of sessions belong to the older revisions; a newer one looks at none.
    if let Some(id) = session_of(&request.head.headers)
        && !mcp.sessions.is_of(id, &owner)
    {
        return Err(Error::new(Code::NotFound, "there is no such session"));
    }
    let body = match request.head.method {
        Method::POST => request.read_body_of(MOST_BYTES).await,
        _ => Ok(Vec::new()),
    };
    let body = match body {
        Ok(body) => Bytes::from(body),
        Err(error) if error.code == Code::BodyTooLarge => {
            let error = ErrorData::invalid_request("the message is longer than 4 MiB", None);
            return Ok(unreadable(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Err(error) => return Err(error),
    };
    let message = match request.head.method {
        Method::POST => Message::read(&body),
        _ => Ok(Message(Value::Null)),
    };
    let message = match message {
        Ok(message) => message,
        Err(error) => return Ok(unreadable(StatusCode::BAD_REQUEST, error)),
    };
    let mut visit = Visit {
        caller: Arc::new(caller),
        request_id: request.id().into(),
        slot: Arc::new(Slot::default()),
        opened: None,
    };
    let mut lasts = request.head.method == Method::GET;
    match message.method() {
        "initialize" => mcp.sessions.make_room(&owner, scope.gateway.mcp_settings()).await?,
        "tools/call" => know_tools(&scope, &message).await,
        "subscriptions/listen" => {
            if let Some(filter) = message.filter() {
                if let Err(error) = must_be_bearable(&filter) {
                    return Ok(reply::json(StatusCode::OK, &JsonRpcError::new(message.id(), error)));
                }
                let opened = Opened::new(&mcp, (&scope, &owner.who), &filter, message.client()).await?;
                visit.opened = Some(Arc::new(opened));
            }
            lasts = true;
        }
        _ => {}
    }
    let config = StreamableHttpServerConfig::default()
        .with_json_response(true)
        .with_max_request_body_bytes(MOST_BYTES)
        // Both were looked at before the request came here.
        .disable_allowed_hosts()
        .disable_allowed_origins();
    // What lasts until somebody ends it is ended when we stop; whatever else was asked is answered.
    let config =
        if lasts { config.with_cancellation_token(mcp.sessions.closing.child_token()) } else { config };
    let own = Own { sessions: Arc::clone(&mcp.sessions), owner };
    let service = StreamableHttpService::new(
        move || Ok(Face::new(Arc::clone(&mcp), scope.clone())),
        Arc::new(own),
        config,
    );
    let slot = Arc::clone(&visit.slot);
    let credential = request.head.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let bearer = credential.and_then(|header| who::credential(header, "bearer")).map(str::to_owned);
    // Who is not known any more hears nothing any more.
    let until = bearer.filter(|_| lasts).map(|bearer| {
        let server = server_of(request.head.uri.path()).map(str::to_owned);
        who::forgotten(Arc::clone(&request.site), bearer, server)
    });
    let mut head = request.head;
    // Whoever handles the message has the caller, and no use for what proved them.
    head.headers.remove(AUTHORIZATION);
    head.extensions.insert(visit);
    let answer = service.handle(http::Request::from_parts(head, Full::new(body))).await;
    Ok(answer.map(|body| {
        let body = Watched::new(body, slot);
        let parts = match until {
            Some(until) => body.take_until(Box::pin(until)).boxed(),
            None => body.boxed(),
        };
        Said::Parts(parts, Arc::default())
    }))
}

/// The session that a request of an older revision names.
fn session_of(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_newer = text("mcp-protocol-version")
        .is_some_and(|version| version >= ProtocolVersion::NO_INITIALIZE.as_str());
    text("mcp-session-id").filter(|_| !is_newer)
}

/// Sees to it that the server's tools are known, which headers of the call are held against.
async fn know_tools(scope: &Scope, message: &Message) {
    if let Some((server, _)) = message.name().and_then(|name| scope.inward(name)) {
        let _ = tokio::time::timeout(BEARABLE, server.tools()).await;
    }
}

/// As much of a message as has to be known beforehand.
pub(super) struct Message(Value);

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
        RequestMetaObject::from(meta).client_info().unwrap_or_else(|| Implementation::new("unknown", "0"))
    }
}

/// An error of JSON-RPC about what is no message, and so has no id.
fn unreadable(status: StatusCode, error: ErrorData) -> Response {
    reply::json(status, &JsonRpcError::new(None, error))
}

/// Bytes of a message.
pub(super) const MOST_BYTES: usize = 4 * 1024 * 1024;
const BEARABLE: Duration = Duration::from_secs(10);
