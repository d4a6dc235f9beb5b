//! A call to a server that keeps no session, sent and answered within one task.
//!
//! rmcp's client hands each message from task to task, since a session has messages that belong to no request. Without a session
//! an exchange of HTTP is one request, what is told in its midst, and its answer. So the request is written once, as bytes, of
//! what is there, and of the answer no more is read than whose it is. To give it up is to close its connection: the server is
//! told by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use execution::Doubt;
use futures_util::{FutureExt, StreamExt};
use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rmcp::model::{
    ClientCapabilities, Implementation, InputResponses, JsonObject, JsonRpcMessage, NumberOrString,
    ProgressToken, RequestId, ServerJsonRpcMessage, ServerNotification,
};
use rmcp::transport::streamable_http_client::{
    StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError,
};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::link::{Asked, BROKEN, Fault, UNREADABLE, is_carried};
use super::post::{Envelope, OVERSIZE, Posted, headers_of, post};
use super::said::Said;
use super::verbatim::carrying;

/// The way of calls to one server for one party.
pub(super) struct Direct {
    client: Client,
    config: StreamableHttpClientTransportConfig,
    headers: HeaderMap,
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
        let mut headers = headers_of(config.custom_headers.clone(), config.auth_header.as_deref());
        headers.insert(REVISION, HeaderValue::from_static(VERSION));
        Direct { client, config, headers, party, next: AtomicI64::new(FIRST) }
    }

    /// The number of the next request; on a link none comes twice.
    pub(super) fn next(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The name of a tool in the head of a request, if it can stand there as it is.
    pub(super) fn named(name: &str) -> Option<HeaderValue> {
        let is_plain = !name.starts_with('=') && name.bytes().all(|byte| byte.is_ascii_graphic());
        HeaderValue::from_str(name).ok().filter(|_| is_plain && !name.is_empty())
    }

    /// Makes a call of a tool of that name, and waits for its answer.
    pub(super) async fn call(
        &self,
        (name, asked): (HeaderValue, &Asked<'_>),
        id: &RequestId,
        hear: &Hear<'_>,
    ) -> Result<Said, Fault> {
        let mut headers = self.headers.clone();
        headers.insert(METHOD, HeaderValue::from_static(CALL));
        headers.insert(NAME, name);
        let message = Message { jsonrpc: "2.0", id, method: CALL, params: self.params(asked, id) };
        let body =
            serde_json::to_vec(&message).map_err(|_| Fault::NotSent("the call has no form".to_owned()))?;
        let most_bytes = self.config.max_json_response_size;
        let sent = post(&self.client, &self.config.uri, (headers, body), most_bytes).await;
        let mut events = match sent.map_err(|error| fault(&error))?.0 {
            Posted::Events(events) => events,
            Posted::Whole(said) => {
                let other = || Err(lost(Doubt::NotUnderstood, "the answer is to no request of ours"));
                return answer(&said, id, hear)?.unwrap_or_else(other);
            }
            Posted::Nothing => return Err(lost(Doubt::NotUnderstood, "the server did not answer")),
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
                if let Some(answer) = answer(said.as_bytes(), id, hear)? {
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
            let mut headers = self.config.custom_headers.clone();
            headers.insert(REVISION, HeaderValue::from_static(VERSION));
            let most = self.config.max_sse_event_size;
            let again =
                self.client.get_stream_with_max_sse_event_size(uri, None, Some(last), token, headers, most);
            events = again.await.map_err(|_| broken())?;
        }
    }

    fn params<'a>(&'a self, asked: &'a Asked<'a>, id: &'a RequestId) -> Params<'a> {
        Params {
            meta: Meta { direct: self, asked, id },
            name: asked.name,
            arguments: asked.arguments,
            input_responses: asked.again.0.as_ref(),
            request_state: asked.again.1.as_deref(),
        }
    }
}

/// A call as it is sent.
#[derive(serde::Serialize)]
struct Message<'a> {
    jsonrpc: &'static str,
    id: &'a RequestId,
    method: &'static str,
    params: Params<'a>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Params<'a> {
    #[serde(rename = "_meta")]
    meta: Meta<'a>,
    name: &'a str,
    arguments: &'a JsonObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_responses: Option<&'a InputResponses>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_state: Option<&'a str>,
}

/// What stands beside the arguments: who asks, what their client says, and whose call it is.
struct Meta<'a> {
    direct: &'a Direct,
    asked: &'a Asked<'a>,
    id: &'a RequestId,
}

impl Serialize for Meta<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (program, capabilities) = &self.direct.party;
        let mut members = to.serialize_map(None)?;
        let of_client = self.asked.of_client;
        for (name, value) in of_client.iter().flat_map(|meta| &meta.0.0).filter(|(name, _)| is_carried(name))
        {
            members.serialize_entry(name, value)?;
        }
        for (name, value) in self.asked.ours() {
            members.serialize_entry(name, value)?;
        }
        members.serialize_entry("io.modelcontextprotocol/protocolVersion", VERSION)?;
        members.serialize_entry("io.modelcontextprotocol/clientInfo", program)?;
        members.serialize_entry("io.modelcontextprotocol/clientCapabilities", capabilities)?;
        if let Some(level) = of_client.and_then(|meta| meta.log_level()) {
            members.serialize_entry("io.modelcontextprotocol/logLevel", &level)?;
        }
        members.serialize_entry("progressToken", self.id)?;
        members.end()
    }
}

/// By what an exchange of that number is known.
pub(super) fn ids(number: i64) -> (RequestId, ProgressToken) {
    let id = NumberOrString::Number(number);
    (id.clone(), ProgressToken(id))
}

/// What a message says: the answer to this request, or something that is told in its midst.
fn answer(said: &[u8], id: &RequestId, hear: &Hear<'_>) -> Result<Option<Result<Said, Fault>>, Fault> {
    let unreadable = || lost(Doubt::NotUnderstood, UNREADABLE);
    let message: Envelope<'_> = serde_json::from_slice(said).map_err(|_| unreadable())?;
    match (message.method, message.result, message.error) {
        (None, Some(result), None) if message.answers(id) => {
            return Ok(Some(Said::of(result).ok_or_else(unreadable)));
        }
        (None, None, Some(error)) if message.answers(id) => {
            let error = serde_json::from_str(error.get()).map_err(|_| unreadable())?;
            return Ok(Some(Err(Fault::Refused(error))));
        }
        // Of both or neither nobody knows what it means.
        (None, ..) if message.answers(id) => return Err(unreadable()),
        // Nobody else's answer is taken for ours.
        (None, ..) => return Ok(None),
        (Some(_), ..) => {}
    }
    let carrying = carrying(said);
    let said = carrying.as_deref().unwrap_or(said);
    let message: ServerJsonRpcMessage = serde_json::from_slice(said).map_err(|_| unreadable())?;
    match message {
        JsonRpcMessage::Notification(told) if gives_up(&told.notification, id) => {
            Ok(Some(Err(lost(Doubt::Error, "the server gave it up"))))
        }
        JsonRpcMessage::Notification(told) => {
            hear(told.notification);
            Ok(None)
        }
        // Of a revision without sessions no server asks by a request.
        _ => Ok(None),
    }
}

fn gives_up(told: &ServerNotification, id: &RequestId) -> bool {
    let ServerNotification::CancelledNotification(cancelled) = told else { return false };
    // Some servers answer with the text of a number.
    cancelled.params.request_id.as_ref().is_some_and(|it| it == id || it.to_string() == id.to_string())
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
const VERSION: &str = "2026-07-28";
const CALL: &str = "tools/call";
const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Ids of rmcp's on the same link stay below.
const FIRST: i64 = 1 << 32;
/// How long a stream that broke off rests, unless its server says something else.
const PAUSE: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_result_and_an_error_at_once_or_neither_is_not_understood() {
        let of = |members: &str| {
            let said = format!(r#"{{"jsonrpc":"2.0","id":7{members}}}"#);
            answer(said.as_bytes(), &RequestId::Number(7), &|_| {})
        };
        let error = r#","error":{"code":-32603,"message":"no"}"#;
        for neither in [format!(r#","result":{{}}{error}"#), String::new(), r#","result":null"#.to_owned()] {
            assert!(matches!(of(&neither), Err(Fault::Lost(Doubt::NotUnderstood, _))), "{neither}");
        }
        assert!(matches!(of(error), Ok(Some(Err(Fault::Refused(_))))));
        assert!(matches!(of(r#","result":{},"error":null"#), Ok(Some(Ok(_)))));
    }
}
