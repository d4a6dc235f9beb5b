//! Ways to answer.

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::request::Response;

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
