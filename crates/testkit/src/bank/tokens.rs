//! Access tokens, for a bank that also takes OAuth 2 clients (RFC 6749, section 4.4).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use uuid::Uuid;

use super::Client;
use super::http::Counter;

/// The tokens that hold.
#[derive(Default)]
pub(super) struct Tokens(Mutex<Issued>);

#[derive(Default)]
struct Issued {
    count: u64,
    valid: HashSet<String>,
}

impl Tokens {
    pub(super) fn holds(&self, token: &str) -> bool {
        self.issued().valid.contains(token)
    }

    pub(super) fn count(&self) -> u64 {
        self.issued().count
    }

    pub(super) fn revoke(&self) {
        self.issued().valid.clear();
    }

    fn issue(&self) -> String {
        let token = format!("tok_{}", Uuid::now_v7().simple());
        let mut issued = self.issued();
        issued.count += 1;
        issued.valid.insert(token.clone());
        token
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `POST /oauth/token`.
pub(super) async fn grant(
    State(counter): State<Arc<Counter>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let Some(client) = counter.client().filter(|client| is(client, &headers, &form)) else {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    };
    if form.get("grant_type").map(String::as_str) != Some("client_credentials") {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let token = counter.tokens().issue();
    let answer =
        json!({ "access_token": token, "token_type": "Bearer", "expires_in": client.lifetime_seconds });
    (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// Whether the request proves to come from the client, in either of the two ways but not in both.
fn is(client: &Client, headers: &HeaderMap, form: &HashMap<String, String>) -> bool {
    let told = (form.get("client_id").map(String::as_str), form.get("client_secret").map(String::as_str));
    match (basic(headers), told) {
        (Some((id, secret)), (None, None)) => id == client.id && secret == client.secret,
        (None, (Some(id), Some(secret))) => id == client.id && secret == client.secret,
        _ => false,
    }
}

/// Id and secret, each form-encoded before they were joined.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let pair = String::from_utf8(STANDARD.decode(given).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    Some((decoded(id)?, decoded(secret)?))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn refused(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}
