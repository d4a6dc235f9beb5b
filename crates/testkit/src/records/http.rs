//! The desk: what the archive says over HTTP.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::shelf::{Deed, Refusal, Shelf, Wish};
use super::{Options, Target};
use crate::answer::{Refused, invalid, key_of, not_found, read, refusal, refused, short, unfinished};
use crate::fault::Faults;
use crate::line::{Line, Lines};

/// Answers on `listener` until `closed` completes and the requests under way are done.
pub(super) async fn run(
    listener: TcpListener,
    desk: Arc<Desk>,
    closed: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/v1/records/{id}", get(show).put(write).delete(delete))
        .route("/v1/records/{id}/restore", post(restore))
        .route("/v1/records/{id}/revert", post(revert))
        .route("/v1/changes", get(find_changes))
        .fallback(|| async { not_found("page") })
        .with_state(desk);
    let service = routes.into_make_service_with_connect_info::<Line>();
    axum::serve(Lines(listener), service).with_graceful_shutdown(closed).await
}

/// Everything the handlers share.
pub(super) struct Desk {
    token: String,
    shelf: Mutex<Shelf>,
    faults: Faults<Target>,
}

impl Desk {
    pub(super) fn open(options: Options) -> Desk {
        let Options { token, window } = options;
        Desk { token, shelf: Mutex::new(Shelf::new(window)), faults: Faults::default() }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn faults(&self) -> &Faults<Target> {
        &self.faults
    }

    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work as a task of its own, with the fault whose turn it is.
    async fn answer<W>(&self, target: Target, line: Line, work: W) -> Response
    where
        W: Future<Output = Response> + Send + 'static,
    {
        let fault = self.faults.next(target);
        tokio::spawn(fault.perform(line, work)).await.unwrap_or_else(|_| unfinished())
    }

    /// Does what is wished for, if it is well-formed.
    async fn grant(
        self: Arc<Self>,
        target: Target,
        line: Line,
        headers: &HeaderMap,
        wish: Result<Wish, Refused>,
    ) -> Response {
        let wish = wish.and_then(|wish| Ok((wish, key(headers)?)));
        let (wish, key) = match wish {
            Ok(wish) => wish,
            Err(refused) => return refused.into_response(),
        };
        let at_work = Arc::clone(&self);
        let work = async move {
            let done = at_work.shelf().perform(wish, &key, Instant::now());
            match done {
                Ok(change) => tagged(change),
                Err(why) => say(why).into_response(),
            }
        };
        self.answer(target, line, work).await
    }
}

async fn show(
    _: Holder,
    State(desk): State<Arc<Desk>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
) -> Response {
    let at_work = Arc::clone(&desk);
    let work = async move {
        let Some(standing) = at_work.shelf().standing(&id, Instant::now()) else {
            return not_found("record");
        };
        let status = if standing.content.is_some() { "there" } else { "deleted" };
        tagged(json!({
            "record": id, "status": status, "version": standing.version, "content": standing.content,
        }))
    };
    desk.answer(Target::Reads, line, work).await
}

async fn write(
    _: Holder,
    State(desk): State<Arc<Desk>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(record): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let wish = parsed::<Content>(body).and_then(|Content { content, reference }| {
        wish(record, Deed::Write(content), if_match(&headers)?, reference)
    });
    desk.grant(Target::Changes, line, &headers, wish).await
}

async fn delete(
    _: Holder,
    State(desk): State<Arc<Desk>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(record): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let wish = parsed::<Named>(body)
        .and_then(|Named { reference }| wish(record, Deed::Delete, if_match(&headers)?, reference));
    desk.grant(Target::Changes, line, &headers, wish).await
}

async fn restore(
    _: Holder,
    State(desk): State<Arc<Desk>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(record): Path<String>,
    headers: HeaderMap,
) -> Response {
    let wish = needed_match(&headers).and_then(|version| wish(record, Deed::Restore, version, None));
    desk.grant(Target::Undoings, line, &headers, wish).await
}

async fn revert(
    _: Holder,
    State(desk): State<Arc<Desk>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(record): Path<String>,
    headers: HeaderMap,
) -> Response {
    let wish = needed_match(&headers).and_then(|version| wish(record, Deed::Revert, version, None));
    desk.grant(Target::Undoings, line, &headers, wish).await
}

async fn find_changes(
    _: Holder,
    State(desk): State<Arc<Desk>>,
    ConnectInfo(line): ConnectInfo<Line>,
    query: Result<Query<ByReference>, QueryRejection>,
) -> Response {
    let Ok(Query(ByReference { reference })) = query else {
        return invalid("say which: ?reference=…").into_response();
    };
    let at_work = Arc::clone(&desk);
    let work =
        async move { Json(json!({ "changes": at_work.shelf().changes_with(&reference) })).into_response() };
    desk.answer(Target::Reads, line, work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    content: Value,
    reference: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    reference: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByReference {
    reference: String,
}

/// Whoever sent this request holds the archive's token; only the header makes one.
struct Holder;

impl FromRequestParts<Arc<Desk>> for Holder {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Holder, Response> {
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match given.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) if token == desk.token => Ok(Holder),
            _ => {
                Err(refusal(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing or wrong"))
            }
        }
    }
}

fn wish(
    record: String,
    deed: Deed,
    if_match: Option<u64>,
    reference: Option<String>,
) -> Result<Wish, Refused> {
    short("the record's id", Some(&record))?;
    short("reference", reference.as_deref())?;
    Ok(Wish { record, deed, if_match, reference })
}

fn parsed<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Refused> {
    let body = read(body)?;
    serde_json::from_slice(&body).map_err(|error| invalid(&error.to_string()))
}

fn key(headers: &HeaderMap) -> Result<String, Refused> {
    key_of(headers)?.ok_or_else(|| invalid("header `Idempotency-Key` is missing"))
}

/// The version asked for, quoted as an ETag is or bare.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let version = value.to_str().ok().and_then(|text| text.trim_matches('"').parse().ok());
    version.map(Some).ok_or_else(|| invalid("header `If-Match` is not a version"))
}

fn needed_match(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    match if_match(headers)? {
        None => {
            let message = "say by `If-Match` what is to be undone";
            Err(refused(StatusCode::PRECONDITION_REQUIRED, "if_match_required", message))
        }
        version => Ok(version),
    }
}

/// The body, with its version as an ETag.
fn tagged(body: Value) -> Response {
    let etag = format!("\"{}\"", body["version"]);
    ([(header::ETAG, etag)], Json(body)).into_response()
}

fn say(why: Refusal) -> Refused {
    let (status, code, message) = match why {
        Refusal::Absent => (StatusCode::NOT_FOUND, "not_found", "no such record"),
        Refusal::Deleted => (StatusCode::CONFLICT, "deleted", "the record is deleted"),
        Refusal::NotDeleted => (StatusCode::CONFLICT, "not_deleted", "the record is not deleted"),
        Refusal::NoneBefore => (StatusCode::CONFLICT, "none_before", "there is no version before this one"),
        Refusal::Changed => (StatusCode::PRECONDITION_FAILED, "changed", "the record has another version"),
        Refusal::KeyReused => {
            let message = "this idempotency key came with another request";
            (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", message)
        }
    };
    refused(status, code, message)
}
