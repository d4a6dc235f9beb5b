//! One message over HTTP, and what it is answered as it came.
//!
//! A call's answer is not read on its way: [`Direct`](super::direct::Direct) does that, or, in a session, where messages are rmcp's to
//! hand on, [`Unread`] sees to it that rmcp takes the answer for a text.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode};
use rmcp::model::{ClientJsonRpcMessage, GetExtensions, JsonRpcMessage, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, InsufficientScopeError, SseError, StreamableHttpClient, StreamableHttpError,
    StreamableHttpPostResponse, StreamableHttpResponseLimits,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use sse_stream::{Sse, SseStream};

use super::lock;
use super::said::unread;
use super::verbatim::carrying;

/// What came back.
pub(super) enum Posted {
    /// One message.
    Whole(Vec<u8>),
    Events(Events),
    /// Nothing but that it was taken.
    Nothing,
}

pub(super) type Events = BoxStream<'static, Result<Sse, SseError>>;
pub(super) type Failure = StreamableHttpError<reqwest::Error>;

/// Sends a message, and reads no more than this of its answer: the whole of one, or each event of a stream.
///
/// # Errors
/// As rmcp has them: no message came back.
pub(super) async fn post(
    client: &Client,
    uri: &str,
    (mut headers, body): (HeaderMap, Vec<u8>),
    most_bytes: usize,
) -> Result<(Posted, Option<String>), Failure> {
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let is_in_session = headers.contains_key(SESSION);
    let answer = client.post(uri).headers(headers).body(body).send().await?;
    let (status, of) = (answer.status(), answer.headers());
    let challenge = of.get(WWW_AUTHENTICATE).map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
    match (status, challenge) {
        (StatusCode::UNAUTHORIZED, Some(challenge)) => {
            return Err(Failure::AuthRequired(AuthRequiredError::new(challenge)));
        }
        (StatusCode::FORBIDDEN, Some(challenge)) => {
            return Err(Failure::InsufficientScope(InsufficientScopeError::new(challenge, None)));
        }
        (StatusCode::NOT_FOUND, _) if is_in_session => return Err(Failure::SessionExpired),
        (StatusCode::ACCEPTED | StatusCode::NO_CONTENT, _) => return Ok((Posted::Nothing, None)),
        _ => {}
    }
    let session = of.get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let form = of.get(CONTENT_TYPE).map(|form| String::from_utf8_lossy(form.as_bytes()).into_owned());
    let is = |wanted: &str| {
        let essence = form.as_deref().and_then(|form| form.split(';').next());
        essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
    };
    if !status.is_success() {
        // Who does not let us in has not looked at it, whatever else is said.
        let is_shut = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let is_said = is("application/json") && !is_shut && status != StatusCode::TOO_MANY_REQUESTS;
        return match if is_said { whole(answer, most_bytes).await.ok() } else { None } {
            Some(said) if is_error(&said) => Ok((Posted::Whole(said), session)),
            _ => Err(Failure::UnexpectedServerResponse(format!("HTTP {status}").into())),
        };
    }
    if is("text/event-stream") {
        return Ok((Posted::Events(events(answer, most_bytes)), session));
    }
    if is("application/json") {
        return Ok((Posted::Whole(whole(answer, most_bytes).await?), session));
    }
    Err(Failure::UnexpectedContentType(form))
}

async fn whole(mut answer: Response, most_bytes: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if piece.len() > most_bytes - body.len() {
            return Err(Failure::ResponseBodyTooLarge { max_size: most_bytes });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Events, of which none is longer. What is longer ends the stream.
fn events(answer: Response, most_bytes: usize) -> Events {
    let mut length = Length::default();
    let pieces = answer.bytes_stream().map(move |piece| {
        let piece = piece.map_err(Broken::Off)?;
        if length.after(&piece) > most_bytes { Err(Broken::TooLarge) } else { Ok(piece) }
    });
    let pieces = pieces.scan(false, |is_over, piece| {
        let piece = (!*is_over).then_some(piece);
        *is_over = piece.as_ref().is_none_or(Result::is_err);
        std::future::ready(piece)
    });
    SseStream::from_bytes_stream(pieces).boxed()
}

/// How long the event is that comes just now, at most. Lines end with CR, LF, or both.
#[derive(Default)]
struct Length {
    event: usize,
    line: usize,
    is_after_cr: bool,
}

impl Length {
    /// The most that it was within this piece, or at its end.
    fn after(&mut self, piece: &[u8]) -> usize {
        let mut most = 0;
        for byte in piece {
            let is_second = *byte == b'\n' && self.is_after_cr;
            self.is_after_cr = *byte == b'\r';
            match byte {
                _ if is_second => {}
                b'\n' | b'\r' if self.line == 0 => self.event = 0,
                b'\n' | b'\r' => self.line = 0,
                _ => self.line += 1,
            }
            self.event += 1;
            most = most.max(self.event);
        }
        most
    }
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("an event {OVERSIZE}")]
    TooLarge,
    #[error("the stream broke off")]
    Off(#[source] reqwest::Error),
}

/// As rmcp words it, too.
pub(super) const OVERSIZE: &str = "exceeded the maximum size";

/// A message, of which what it says is not read yet.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(rename = "jsonrpc")]
    _version: Version,
    #[serde(borrow)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) method: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "2.0")]
    Two,
}

impl Envelope<'_> {
    /// Whether it answers the request of this id. Some servers answer with the text of a number.
    pub(super) fn answers(&self, id: &RequestId) -> bool {
        let Some(said) = self.id.filter(|_| self.method.is_none()) else { return false };
        match id {
            RequestId::Number(number) => said.get().trim_matches('"').parse() == Ok(*number),
            RequestId::String(text) => {
                serde_json::from_str::<String>(said.get()).is_ok_and(|it| it == **text)
            }
        }
    }
}

fn is_error(said: &[u8]) -> bool {
    serde_json::from_slice::<Envelope<'_>>(said)
        .is_ok_and(|said| said.error.is_some() && said.method.is_none())
}

/// Of a request whose answer is not to be read on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct AsItCame;

/// Requests of one link that are marked so and have no answer yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Marked(Arc<Mutex<VecDeque<RequestId>>>);

impl Marked {
    /// Whether the message is one of them from now on.
    pub(super) fn note(&self, message: &ClientJsonRpcMessage) -> bool {
        let JsonRpcMessage::Request(request) = message else { return false };
        let is_marked = request.request.extensions().get::<AsItCame>().is_some();
        if is_marked {
            let mut open = lock(&self.0);
            open.push_back(request.id.clone());
            if open.len() > MOST_MARKED {
                open.pop_front();
            }
        }
        is_marked
    }

    /// The answer to one of them as rmcp does not read it; nothing, if this is something else.
    pub(super) fn unread(&self, said: &[u8]) -> Option<ServerJsonRpcMessage> {
        let mut open = lock(&self.0);
        if open.is_empty() {
            return None;
        }
        let said: Envelope<'_> = serde_json::from_slice(said).ok()?;
        let result = match (said.result, said.error) {
            (Some(result), None) => unread(result),
            (None, Some(_)) => return None,
            // Of neither one nor both anybody knows what it means.
            _ => unread(RawValue::NULL),
        };
        let at = open.iter().position(|id| said.answers(id))?;
        open.remove(at).map(|id| ServerJsonRpcMessage::response(result, id))
    }

    fn prepared_events(&self, events: Events) -> Events {
        let marked = self.clone();
        events.map(move |event| event.map(|event| marked.prepared_event(event))).boxed()
    }

    /// The event as rmcp is to read it: the answer to one of them unread, what is asked or told with its text.
    fn prepared_event(&self, event: Sse) -> Sse {
        let prepared = event.data.as_ref().and_then(|said| match self.unread(said.as_bytes()) {
            Some(answer) => serde_json::to_vec(&answer).ok(),
            None => carrying(said.as_bytes()),
        });
        match prepared.and_then(|said| String::from_utf8(said).ok()) {
            Some(data) => Sse { data: Some(data), ..event },
            None => event,
        }
    }
}

/// What is asked or told where an answer belongs, with the text of what was read in it: no server says that text itself.
fn carried(message: ServerJsonRpcMessage) -> ServerJsonRpcMessage {
    let carrying = serde_json::to_vec(&message).ok().and_then(|said| carrying(&said));
    carrying.and_then(|said| serde_json::from_slice(&said).ok()).unwrap_or(message)
}

/// More than are open at once. What has no answer for so long, none is waited for.
const MOST_MARKED: usize = 1024;

/// A client of HTTP for rmcp that leaves the answers to marked requests unread.
#[derive(Clone)]
pub(super) struct Unread {
    client: Client,
    marked: Marked,
}

impl Unread {
    pub(super) fn new(client: Client) -> Unread {
        Unread { client, marked: Marked::default() }
    }
}

type Headers = HashMap<HeaderName, HeaderValue>;

impl StreamableHttpClient for Unread {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session, token, headers, limits).await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        if !self.marked.note(&message) {
            let sent =
                self.client.post_message_with_response_limits(uri, message, session, token, headers, limits);
            return Ok(match sent.await? {
                StreamableHttpPostResponse::Sse(events, session) => {
                    StreamableHttpPostResponse::Sse(self.marked.prepared_events(events), session)
                }
                StreamableHttpPostResponse::Json(message, session) => {
                    StreamableHttpPostResponse::Json(carried(message), session)
                }
                other => other,
            });
        }
        let mut all = headers_of(headers, token.as_deref());
        if let Some(session) = session.as_deref().and_then(|it| HeaderValue::from_str(it).ok()) {
            all.insert(SESSION, session);
        }
        let most_bytes = limits.max_json_response_size.min(limits.max_sse_event_size);
        let (posted, session) =
            post(&self.client, &uri, (all, serde_json::to_vec(&message)?), most_bytes).await?;
        Ok(match posted {
            Posted::Nothing => StreamableHttpPostResponse::Accepted,
            Posted::Events(events) => {
                StreamableHttpPostResponse::Sse(self.marked.prepared_events(events), session)
            }
            Posted::Whole(said) => {
                let message = match self.marked.unread(&said) {
                    Some(message) => message,
                    None => serde_json::from_slice(carrying(&said).as_deref().unwrap_or(&said))?,
                };
                StreamableHttpPostResponse::Json(message, session)
            }
        })
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<(), Failure> {
        self.client.delete_session(uri, session, token, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last: Option<String>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<Events, Failure> {
        self.client
            .get_stream(uri, session, last, token, headers)
            .await
            .map(|events| self.marked.prepared_events(events))
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last: Option<String>,
        token: Option<String>,
        headers: Headers,
        most_bytes: usize,
    ) -> Result<Events, Failure> {
        let stream =
            self.client.get_stream_with_max_sse_event_size(uri, session, last, token, headers, most_bytes);
        // What is left of a stream that broke off may be the answer.
        stream.await.map(|events| self.marked.prepared_events(events))
    }
}

/// What each request to a server says in its head.
pub(super) fn headers_of(own: Headers, token: Option<&str>) -> HeaderMap {
    let mut headers: HeaderMap = own.into_iter().collect();
    let bearer = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    if let Some(mut bearer) = bearer {
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    headers
}

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rmcp::model::{CallToolRequest, CallToolRequestParams, PingRequest};

    use super::super::said::Said;
    use super::*;

    #[test]
    fn an_event_is_as_long_as_it_is_however_it_comes_in_pieces() {
        let stream = b"id: 1\r\ndata: abcdefgh\r\n\r\n: x\n\ndata: a\n\n";
        for size in 1..stream.len() {
            let mut length = Length::default();
            let most = stream.chunks(size).map(|piece| length.after(piece)).max();
            assert_eq!(most, Some(23), "pieces of {size}");
        }
    }

    #[test]
    fn lines_of_a_stream_end_with_cr_lf_or_both() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = format!("data: abcdefgh{end}{end}").repeat(50);
            for size in [1, 7, stream.len()] {
                let mut length = Length::default();
                let most = stream.as_bytes().chunks(size).map(|piece| length.after(piece)).max().unwrap();
                assert!(most < 24, "{end:?} in pieces of {size}: {most}");
            }
        }
    }

    #[test]
    fn an_answer_is_known_by_its_id() {
        let id = RequestId::Number(7);
        let said = |said: &str| serde_json::from_str::<Envelope<'_>>(said).is_ok_and(|it| it.answers(&id));
        assert!(said(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#));
        assert!(said(r#"{"jsonrpc":"2.0","id":"7","result":{}}"#));
        for other in [
            r#"{"jsonrpc":"2.0","id":8,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
            r#"{"jsonrpc":"1.0","id":7,"result":{}}"#,
            r#"{"id":7,"result":{}}"#,
        ] {
            assert!(!said(other), "{other}");
        }
    }

    #[test]
    fn the_answer_to_a_marked_request_comes_out_of_rmcp_as_it_came() {
        let mut call = CallToolRequest::new(CallToolRequestParams::new("any"));
        call.extensions.insert(AsItCame);
        let (marked, seven) = (Marked::default(), RequestId::Number(7));
        assert!(marked.note(&ClientJsonRpcMessage::request(call.into(), seven.clone())));
        let ping = PingRequest::default().into();
        assert!(!marked.note(&ClientJsonRpcMessage::request(ping, RequestId::Number(8))));
        let text = r#"{"content":[{"type":"text","text":"a","new":{"n":1180591620717411303425}}],"x":null}"#;
        let said = |id: u8| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{text}}}"#);
        assert!(marked.unread(said(8).as_bytes()).is_none());
        let event = marked.prepared_event(Sse::default().data(said(7)));
        // rmcp reads the event.
        let read: ServerJsonRpcMessage = serde_json::from_str(&event.data.unwrap()).unwrap();
        let JsonRpcMessage::Response(answer) = read else { unreachable!("it is an answer") };
        assert_eq!(answer.id, seven);
        assert_eq!(Said::of_result(answer.result).unwrap().text.get(), text);
        assert!(marked.unread(said(7).as_bytes()).is_none(), "it has its answer");
    }

    #[test]
    fn what_is_a_result_and_an_error_at_once_or_neither_is_no_result() {
        let error = r#""error":{"code":-32603,"message":"no"}"#;
        for (members, taken_for) in [
            (format!(r#","result":{{"content":[]}},{error}"#), Some("null")),
            (String::new(), Some("null")),
            (format!(",{error}"), None),
            (r#","result":{"content":[]},"error":null"#.to_owned(), Some(r#"{"content":[]}"#)),
        ] {
            let mut call = CallToolRequest::new(CallToolRequestParams::new("any"));
            call.extensions.insert(AsItCame);
            let marked = Marked::default();
            marked.note(&ClientJsonRpcMessage::request(call.into(), RequestId::Number(7)));
            let answer = marked.unread(format!(r#"{{"jsonrpc":"2.0","id":7{members}}}"#).as_bytes());
            let said = answer.map(|answer| match answer {
                JsonRpcMessage::Response(answer) => Said::of_result(answer.result).unwrap().text.to_string(),
                _ => unreachable!("it is an answer"),
            });
            assert_eq!(said.as_deref(), taken_for, "{members}");
        }
    }
}
