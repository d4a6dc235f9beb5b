//! A call to a server that keeps no session, sent and answered within one task.
//!
//! rmcp's client hands each message from task to task, since a session has messages that belong to no request. Without a session
//! an exchange of HTTP is one request, what is told in its midst, and its answer; so only rmcp's reading and writing is used here.
//! To give it up is to close its connection: the server is told by that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use execution::Doubt;
use futures_util::{FutureExt, StreamExt};
use reqwest::Client;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::model::{
    ClientCapabilities, ClientJsonRpcMessage, ClientRequest, GetMeta, Implementation, JsonRpcMessage,
    NumberOrString, ProgressToken, ProtocolVersion, RequestId, ServerJsonRpcMessage, ServerNotification,
    ServerResult,
};
use rmcp::transport::streamable_http_client::{
    StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError,
    StreamableHttpPostResponse, StreamableHttpResponseLimits,
};

use super::link::{BROKEN, Fault, UNREADABLE};

/// The way of calls to one server for one party.
pub(super) struct Direct {
    client: Client,
    config: StreamableHttpClientTransportConfig,
    /// Who asks, as every request says.
    party: (Implementation, ClientCapabilities),
    next: AtomicI64,
}

/// What is told in the midst of a call.
pub(super) type Hear<'a> = dyn Fn(ServerNotification) + Sync + 'a;

impl Direct {
    pub(super) fn new(
        client: Client,
        config: StreamableHttpClientTransportConfig,
        party: (Implementation, ClientCapabilities),
    ) -> Direct {
        Direct { client, config, party, next: AtomicI64::new(FIRST) }
    }

    /// The id of the next request, and its token; on a link neither comes twice.
    pub(super) fn next(&self) -> (RequestId, ProgressToken) {
        let id = NumberOrString::Number(self.next.fetch_add(1, Ordering::Relaxed));
        (id.clone(), ProgressToken(id))
    }

    /// The name of a tool in the head of a request, if it can stand there as it is.
    pub(super) fn named(name: &str) -> Option<HeaderValue> {
        let is_plain = !name.starts_with('=') && name.bytes().all(|byte| byte.is_ascii_graphic());
        HeaderValue::from_str(name).ok().filter(|_| is_plain && !name.is_empty())
    }

    /// Makes a call of a tool of that name, and waits for its answer.
    pub(super) async fn call(
        &self,
        (name, mut request): (HeaderValue, ClientRequest),
        (id, token): (&RequestId, &ProgressToken),
        hear: &Hear<'_>,
    ) -> Result<ServerResult, Fault> {
        let meta = request.get_meta_mut();
        meta.set_protocol_version(VERSION);
        meta.set_client_info(self.party.0.clone());
        meta.set_client_capabilities(self.party.1.clone());
        meta.set_progress_token(token.clone());
        let mut headers = self.headers();
        headers.insert(METHOD, HeaderValue::from_static("tools/call"));
        headers.insert(NAME, name);
        let message = ClientJsonRpcMessage::request(request, id.clone());
        let (uri, token) = (Arc::clone(&self.config.uri), self.config.auth_header.clone());
        let limits = self.limits();
        let sent = self.client.post_message_with_response_limits(uri, message, None, token, headers, limits);
        let mut events = match sent.await.map_err(|error| fault(&error))? {
            StreamableHttpPostResponse::Sse(events, _) => events,
            StreamableHttpPostResponse::Json(message, _) => {
                let other = || Err(lost(Doubt::NotUnderstood, "the answer is to no request of ours"));
                return answer(message, id, hear).unwrap_or_else(other);
            }
            _ => return Err(lost(Doubt::NotUnderstood, "the server did not answer")),
        };
        let (mut last, mut pause) = (None, PAUSE);
        loop {
            while let Some(event) = events.next().await {
                let event = match event {
                    Ok(event) => event,
                    // It would come once more, as often as it is asked for.
                    Err(error) if error.to_string().contains(OVERSIZE) => {
                        return Err(lost(Doubt::NotUnderstood, TOO_LARGE));
                    }
                    Err(_) => break,
                };
                pause = event.retry.map_or(pause, Duration::from_millis);
                last = event.id.or(last);
                let said = event.data.filter(|said| !said.trim().is_empty());
                let Some(said) = said else { continue };
                let message = serde_json::from_str(&said);
                let message = message.map_err(|_| lost(Doubt::NotUnderstood, UNREADABLE))?;
                if let Some(answer) = answer(message, id, hear) {
                    // With its end read, if that is there, the connection is good for the next call.
                    let _ = events.next().now_or_never();
                    return answer;
                }
            }
            // A stream that broke off is taken up where it did, if its server can do that.
            let broken = || lost(Doubt::Broken, BROKEN);
            let last = last.clone().ok_or_else(broken)?;
            tokio::time::sleep(pause.max(SHORTEST)).await;
            let (uri, token) = (Arc::clone(&self.config.uri), self.config.auth_header.clone());
            let (headers, most) = (self.headers(), self.config.max_sse_event_size);
            let again =
                self.client.get_stream_with_max_sse_event_size(uri, None, Some(last), token, headers, most);
            events = again.await.map_err(|_| broken())?;
        }
    }

    fn headers(&self) -> HashMap<HeaderName, HeaderValue> {
        let mut headers = self.config.custom_headers.clone();
        headers.insert(REVISION, HeaderValue::from_static(VERSION_TEXT));
        headers
    }

    fn limits(&self) -> StreamableHttpResponseLimits {
        let mut limits = StreamableHttpResponseLimits::default();
        limits.max_sse_event_size = self.config.max_sse_event_size;
        limits.max_json_response_size = self.config.max_json_response_size;
        limits
    }
}

/// What a message says: the answer to this request, or something that is told in its midst.
fn answer(
    message: ServerJsonRpcMessage,
    id: &RequestId,
    hear: &Hear<'_>,
) -> Option<Result<ServerResult, Fault>> {
    match message {
        JsonRpcMessage::Response(answer) if is_same(&answer.id, id) => Some(Ok(answer.result)),
        JsonRpcMessage::Error(error) if error.id.as_ref().is_some_and(|it| is_same(it, id)) => {
            Some(Err(Fault::Refused(error.error)))
        }
        JsonRpcMessage::Notification(told) if gives_up(&told.notification, id) => {
            Some(Err(lost(Doubt::Error, "the server gave it up")))
        }
        JsonRpcMessage::Notification(told) => {
            hear(told.notification);
            None
        }
        // Of a revision without sessions no server asks by a request; and nobody else's answer is taken for ours.
        _ => None,
    }
}

fn gives_up(told: &ServerNotification, id: &RequestId) -> bool {
    let ServerNotification::CancelledNotification(cancelled) = told else { return false };
    cancelled.params.request_id.as_ref().is_some_and(|it| is_same(it, id))
}

/// Some servers answer with the text of a number.
fn is_same(id: &RequestId, ours: &RequestId) -> bool {
    id == ours || id.to_string() == ours.to_string()
}

/// What became of a request that has no answer.
pub(super) fn fault(error: &StreamableHttpError<reqwest::Error>) -> Fault {
    match error {
        StreamableHttpError::Client(error) if error.is_connect() || error.is_builder() => {
            Fault::NotSent("no connection came about".to_owned())
        }
        StreamableHttpError::SessionExpired => Fault::Ended,
        // "Has not been applied" (RFC 9110, 15.5.2), or needs a wider token first.
        StreamableHttpError::AuthRequired(_) => Fault::Shut(401),
        StreamableHttpError::InsufficientScope(_) => Fault::Shut(403),
        StreamableHttpError::UnexpectedServerResponse(said) if said.starts_with(UNCHALLENGED) => {
            Fault::Shut(401)
        }
        StreamableHttpError::UnexpectedServerResponse(said) if said.starts_with(STATUS) => {
            lost(Doubt::Error, ERROR)
        }
        StreamableHttpError::HttpStatus(_) => lost(Doubt::Error, ERROR),
        StreamableHttpError::ResponseBodyTooLarge { .. } => lost(Doubt::NotUnderstood, TOO_LARGE),
        StreamableHttpError::UnexpectedServerResponse(_)
        | StreamableHttpError::UnexpectedContentType(_)
        | StreamableHttpError::Deserialize(_) => lost(Doubt::NotUnderstood, UNREADABLE),
        _ => lost(Doubt::Broken, BROKEN),
    }
}

fn lost(how: Doubt, why: &str) -> Fault {
    Fault::Lost(how, why.to_owned())
}

const ERROR: &str = "the server answered with an error of its own";
const TOO_LARGE: &str = "the answer is larger than allowed";
/// How rmcp words a status that is none of a good answer, and has no other form.
const STATUS: &str = "HTTP ";
/// A 401 that does not say what is wanted, as it should.
const UNCHALLENGED: &str = "HTTP 401";
/// And an event of a stream that is too large, the kind of which is its own.
const OVERSIZE: &str = "exceeded the maximum size";
const VERSION: ProtocolVersion = ProtocolVersion::V_2026_07_28;
const VERSION_TEXT: &str = "2026-07-28";
const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Ids of rmcp's on the same link stay below.
const FIRST: i64 = 1 << 32;
/// How long a stream that broke off rests, unless its server says something else.
const PAUSE: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(100);
