//! `tools/call` without a session, answered by the connection that it came over.
//!
//! For rmcp each request without a session is a connection of its own, with tasks and channels between them, which takes longer
//! than all that is ours. So a call that is plainly in order is read here, and the same [`Face::call`] is asked. It is answered
//! by a message, or by a stream of events once there is something to be told before. Whatever is not plainly in order is left to
//! rmcp, which says what is wrong with it: nothing is refused here.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ErrorCode, ErrorData, Implementation,
    ProtocolVersion, RequestId, RequestMetaObject, ServerJsonRpcMessage, ServerResult,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::door::{CALL, Message};
use super::face::{self, Face};
use super::inquiry::{Inquiry, unknown};
use super::mail::{Letter, Mail};
use super::verbatim;
use super::visit::Visit;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A call that is plainly in order.
pub(super) struct Call {
    id: RequestId,
    asked: CallToolRequestParams,
    meta: RequestMetaObject,
    client: (Implementation, ClientCapabilities),
}

impl Call {
    /// The call that a message is. Nothing, if it is no call, or if anything about it is not plainly as it should be.
    /// `is_promoted` says of which tools arguments have to stand in the head, too.
    pub(super) fn of(
        headers: &HeaderMap,
        message: Message,
        is_promoted: impl Fn(&str) -> bool,
    ) -> Option<Call> {
        let Value::Object(mut message) = message.0 else { return None };
        let is_request = message.get("jsonrpc")? == "2.0" && message.get("method")? == CALL;
        let id = message.remove("id").filter(|id| id.is_string() || id.is_i64())?;
        let params = message.remove("params").filter(|_| is_request)?;
        let mut asked: CallToolRequestParams = serde_json::from_value(params).ok()?;
        let meta = asked.meta.take()?;
        let is_right = accepts(headers)
            && meta.protocol_version()? == VERSION
            && only(headers, "mcp-protocol-version")? == VERSION.as_str()
            && only(headers, "mcp-method")? == CALL
            && only(headers, "mcp-name")? == asked.name
            && !asked.name.starts_with(ENCODED)
            && !is_promoted(&asked.name);
        if !is_right {
            return None;
        }
        let client = (meta.client_info().unwrap_or_else(unknown), meta.client_capabilities()?);
        Some(Call { id: serde_json::from_value(id).ok()?, asked, meta, client })
    }

    /// Has it made.
    pub(super) async fn answer(self, face: Face, visit: Visit) -> Response<Body> {
        let Call { id, asked, meta, client } = self;
        let (mail, mut letters) = Mail::with_the_answer();
        let gone = CancellationToken::new();
        let inquiry = Inquiry {
            id: id.clone(),
            meta,
            gone: gone.clone(),
            visit,
            is_stateless: true,
            client,
            mail: mail.into(),
        };
        let call = Box::pin(async move { face::answer(face.call(asked, &inquiry)).await });
        let mut call = Lasting { work: Some(call), gone };
        match next(&mut call, &mut letters).await {
            Next::Over(answered) => whole(answered, id),
            first => events(first, Stream { call: Some(call), letters, id }),
        }
    }
}

/// Both forms of an answer, as a client of this protocol has to take them, and JSON.
fn accepts(headers: &HeaderMap) -> bool {
    let forms = only(headers, ACCEPT.as_str()).unwrap_or_default();
    let takes = |form: &str| forms.split(',').any(|taken| taken.trim() == form);
    let is_json = only(headers, CONTENT_TYPE.as_str()) == Some(JSON);
    takes(JSON) && takes(EVENTS) && is_json
}

/// A header that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// A call that goes on to its end if nobody waits for it any more, and knows that then.
struct Lasting {
    work: Option<BoxFuture<'static, Answer>>,
    gone: CancellationToken,
}

type Answer = Result<CallToolResponse, ErrorData>;

impl Future for Lasting {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let answer = ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        self.gone.cancel();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(work.await) });
        }
    }
}

/// What a client is to hear next.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and mostly the large one")]
enum Next {
    Told(Box<ServerJsonRpcMessage>),
    Over(Answer),
    /// That we are still there.
    Nothing,
}

async fn next(call: &mut Lasting, letters: &mut mpsc::Receiver<Letter>) -> Next {
    loop {
        tokio::select! {
            biased;
            Some(letter) = letters.recv() => match letter {
                Letter::Tell(told, _) => return Next::Told(ServerJsonRpcMessage::notification(*told).into()),
                Letter::Sent(sent) => drop(sent.send(())),
            },
            answer = &mut *call => return Next::Over(answer),
        }
    }
}

/// The answer as a message, with the status that goes with it.
fn whole(answer: Answer, id: RequestId) -> Response<Body> {
    let status = match &answer {
        Ok(_) => StatusCode::OK,
        Err(error) => status_of(error.code),
    };
    let mut response = Response::new(Full::new(message(answer, id)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// As rmcp has it for what comes without a session.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::UNSUPPORTED_PROTOCOL_VERSION
        | ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY
        | ErrorCode::HEADER_MISMATCH => StatusCode::BAD_REQUEST,
        ErrorCode::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        _ => StatusCode::OK,
    }
}

/// A call whose client is told of it as it goes on.
struct Stream {
    /// Nothing, once it is answered.
    call: Option<Lasting>,
    letters: mpsc::Receiver<Letter>,
    id: RequestId,
}

fn events(first: Next, stream: Stream) -> Response<Body> {
    let first = event(first, &stream.id);
    let rest = stream::unfold(stream, |mut stream| async move {
        let call = stream.call.as_mut()?;
        let heard = tokio::time::timeout(KEEP_ALIVE, next(call, &mut stream.letters)).await;
        let heard = heard.unwrap_or(Next::Nothing);
        if matches!(heard, Next::Over(_)) {
            stream.call = None;
        }
        Some((event(heard, &stream.id), stream))
    });
    let frames = stream::iter([first]).chain(rest).map(|event| Ok(Frame::data(event)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn event(heard: Next, id: &RequestId) -> Bytes {
    let message = match heard {
        Next::Told(message) => bytes_of(&message),
        Next::Over(answer) => message(answer, id.clone()),
        Next::Nothing => return Bytes::from_static(b":\n\n"),
    };
    [b"data: ", &*message, b"\n\n"].concat().into()
}

fn message(answer: Answer, id: RequestId) -> Bytes {
    if let Ok(CallToolResponse::Complete(result)) = &answer
        && let Some(message) = verbatim::text_in(result).and_then(|text| verbatim::message(&id, text))
    {
        return message.into();
    }
    bytes_of(&match answer {
        Ok(answer) => ServerJsonRpcMessage::response(ServerResult::from(answer), id),
        Err(error) => ServerJsonRpcMessage::error(error, Some(id)),
    })
}

fn bytes_of(message: &ServerJsonRpcMessage) -> Bytes {
    // It is written into memory, and its own types: there is nothing that could fail.
    serde_json::to_vec(message).unwrap_or_default().into()
}

const VERSION: ProtocolVersion = ProtocolVersion::V_2026_07_28;
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// How a name begins in the head that cannot stand there as it is.
const ENCODED: &str = "=?base64?";
/// A stream on which nothing is said for longer may be taken for broken.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rmcp::model::CallToolResult;
    use serde_json::json;

    use super::*;

    const HEADERS: [(&str, &str); 5] = [
        ("accept", "text/event-stream, application/json"),
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "count"),
    ];

    fn message() -> Value {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let params = json!({"name": "count", "arguments": {"key": "k"}, "_meta": meta});
        json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})
    }

    fn is_taken(headers: &[(&'static str, &str)], message: Value) -> bool {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(http::HeaderName::from_static(name), value.parse().unwrap());
        }
        Call::of(&all, Message(message), |name| name == "promoted").is_some()
    }

    #[test]
    fn a_call_is_taken_only_where_head_and_message_say_the_same_and_nothing_else() {
        assert!(is_taken(&HEADERS, message()));
        for (at, (name, _)) in HEADERS.into_iter().enumerate() {
            let mut headers = HEADERS.to_vec();
            headers.remove(at);
            assert!(!is_taken(&headers, message()), "without {name}");
            assert!(!is_taken(&[&HEADERS[..], &[HEADERS[at]]].concat(), message()), "two of {name}");
            for other in ["", "application/json;q=0", "2025-11-25", "tools/list", "=?base64?Y291bnQ=?="] {
                headers = HEADERS.to_vec();
                headers[at].1 = other;
                assert!(!is_taken(&headers, message()), "{name}: {other}");
            }
        }
        let version = "/params/_meta/io.modelcontextprotocol~1protocolVersion";
        for (member, other) in [
            ("/jsonrpc", json!("1.0")),
            ("/id", Value::Null),
            ("/id", json!(1.5)),
            ("/method", json!("tools/list")),
            ("/params", json!([])),
            ("/params/name", json!("other")),
            ("/params/arguments", json!([])),
            ("/params/_meta", json!({})),
            (version, json!("2025-11-25")),
            (version, json!("2027-01-01")),
        ] {
            let mut message = message();
            *message.pointer_mut(member).unwrap() = other.clone();
            assert!(!is_taken(&HEADERS, message), "{member}: {other}");
        }
        let mut promoted = message();
        promoted["params"]["name"] = json!("promoted");
        let headers = [&HEADERS[..4], &[("mcp-name", "promoted")]].concat();
        assert!(!is_taken(&headers, promoted), "some of its arguments have to stand in the head, too");
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_goes_on_to_its_end_and_knows_it() {
        let (gone, knew) = (CancellationToken::new(), Arc::<AtomicBool>::default());
        let (begun, (ended, end)) = (Arc::new(tokio::sync::Notify::new()), tokio::sync::oneshot::channel());
        let (token, told, started) = (gone.clone(), Arc::clone(&knew), Arc::clone(&begun));
        let work = async move {
            started.notify_one();
            token.cancelled().await;
            told.store(true, Ordering::Relaxed);
            drop(ended);
            Ok(CallToolResult::success(Vec::new()).into())
        };
        let mut call = Lasting { work: Some(Box::pin(work)), gone };
        tokio::select! {
            biased;
            _ = &mut call => unreachable!("it waits until nobody waits for it"),
            () = begun.notified() => {}
        }
        drop(call);
        let _: Result<(), _> = end.await;
        assert!(knew.load(Ordering::Relaxed));
    }
}
