//! Ways to answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use gateway::{Code, Error};
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;

use crate::request::Response;

/// What is said: nearly always one piece that is known whole before a word of it is sent.
pub(crate) enum Said {
    /// All of it.
    Whole(Full<Bytes>),
    /// Made while it is taken, and alive until all of it was. An error breaks the connection off.
    Parts(BoxStream<'static, std::io::Result<Bytes>>, Arc<()>),
}

/// A JSON body of one of our own types.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Our own types are written into memory: there is nothing that could fail.
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    bytes_of(status, "application/json", bytes)
}

/// A list as every list is answered.
pub(crate) fn list<T: Serialize>(items: Vec<T>) -> Response {
    json(StatusCode::OK, &Items { items })
}

#[derive(Serialize)]
struct Items<T> {
    items: Vec<T>,
}

/// Parts of some type, made while they are taken.
pub(crate) fn parts(
    content_type: &'static str,
    parts: BoxStream<'static, std::io::Result<Bytes>>,
) -> Response {
    let mut response = Response::new(Said::Parts(parts, Arc::default()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// How many rows a page is to have.
pub(crate) fn rows(limit: Option<&str>) -> Result<u32, Error> {
    let Some(limit) = limit else { return Ok(50) };
    let rows = limit.parse().ok().filter(|rows| (1..=200).contains(rows));
    rows.ok_or_else(|| Error::new(Code::ValidationFailed, "limit is not between 1 and 200").field("?limit"))
}

/// Nothing but a status.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    response
}

/// Bytes of some type.
pub(crate) fn bytes_of(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(bytes.into().into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A page that may load nothing, run only what `policy` names, and tells other sites nothing.
pub(crate) fn page(html: String, policy: &'static str) -> Response {
    let mut response = bytes_of(StatusCode::OK, "text/html; charset=utf-8", html);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex, nofollow"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

impl<T: Into<Bytes>> From<T> for Said {
    fn from(bytes: T) -> Said {
        Said::Whole(Full::new(bytes.into()))
    }
}

impl Said {
    /// What is alive while more of it is to come than is there already.
    pub(crate) fn to_come(&self) -> Weak<()> {
        match self {
            Said::Whole(_) => Weak::new(),
            Said::Parts(_, alive) => Arc::downgrade(alive),
        }
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Said::Whole(whole) => {
                Pin::new(whole).poll_frame(context).map_err(|never: Infallible| match never {})
            }
            Said::Parts(parts, _) => loop {
                // A part may be empty, and an empty frame is nothing to send.
                match ready!(parts.as_mut().poll_next(context)) {
                    Some(Ok(part)) if part.is_empty() => {}
                    part => return Poll::Ready(part.map(|part| part.map(Frame::data))),
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Said::Whole(whole) if whole.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Said::Whole(whole) => whole.size_hint(),
            Said::Parts(..) => SizeHint::default(),
        }
    }
}
