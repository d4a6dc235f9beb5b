//! What services read and refuse alike. Refusals are worded `{"error": {"code", "message"}}`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refusal before any work was done.
pub(crate) type Refused = (StatusCode, Json<Value>);

pub(crate) fn read(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refused> {
    body.map_err(|rejected| refused(rejected.status(), "unreadable_body", &rejected.body_text()))
}

/// The idempotency key as sent.
pub(crate) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().map_err(|_| invalid("header `Idempotency-Key` is not ASCII"))?;
    short("header `Idempotency-Key`", Some(key))?;
    Ok(Some(key.to_owned()))
}

pub(crate) fn short(what: &str, text: Option<&str>) -> Result<(), Refused> {
    match text.map(|text| text.chars().count()) {
        None | Some(1..=MOST_CHARACTERS) => Ok(()),
        Some(_) => Err(invalid(&format!("{what} must have 1 to {MOST_CHARACTERS} characters"))),
    }
}

pub(crate) fn invalid(message: &str) -> Refused {
    refused(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", message)
}

pub(crate) fn not_found(what: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", &format!("no such {what}"))
}

/// The task that answers was dropped: this process is ending.
pub(crate) fn unfinished() -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "closing", "the service is closing")
}

pub(crate) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    refused(status, code, message).into_response()
}

pub(crate) fn refused(status: StatusCode, code: &str, message: &str) -> Refused {
    (status, Json(json!({ "error": { "code": code, "message": message } })))
}

const MOST_CHARACTERS: usize = 255;
