//! The counter for reservations.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::books::Captured;
use super::holds::{Freed, Held, Hold};
use super::http::{ByReference, Counter, Holder, read_key, read_order, say, too_late};
use super::{Target, amount};
use crate::answer::{Refused, invalid, not_found, read, refusal};
use crate::line::Line;

/// Sets money aside.
pub(super) async fn reserve(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    ConnectInfo(line): ConnectInfo<Line>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let parsed = read(body).and_then(|body| {
        let order = read_order(&body, counter.currency())?;
        Ok((order, read_key(&headers, counter.keys_matter())?))
    });
    let (order, key) = match parsed {
        Ok(parsed) => parsed,
        Err(refused) => return refused.into_response(),
    };
    let (at_work, came) = (Arc::clone(&counter), Instant::now());
    let work = async move {
        if at_work.is_too_late(came) {
            return too_late();
        }
        let held = at_work.books().reserve(order, key.as_deref());
        match held {
            Held::Settled(hold) | Held::Replayed(hold) => {
                (StatusCode::CREATED, Json(shown(&hold, at_work.currency()))).into_response()
            }
            Held::InsufficientFunds => {
                refusal(StatusCode::PAYMENT_REQUIRED, "insufficient_funds", "there is not that much")
            }
            Held::KeyReused => refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this idempotency key came with another reservation",
            ),
        }
    };
    counter.answer(Target::Reservations, line, work).await
}

/// Pays out what is set aside, or a part of it; the rest is free then.
pub(super) async fn capture(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let parsed = read(body).and_then(|body| {
        let (minor, reference) = read_capture(&body, counter.currency())?;
        Ok((minor, reference, read_key(&headers, counter.keys_matter())?))
    });
    let (minor, reference, key) = match parsed {
        Ok(parsed) => parsed,
        Err(refused) => return refused.into_response(),
    };
    let (at_work, came) = (Arc::clone(&counter), Instant::now());
    let work = async move {
        if at_work.is_too_late(came) {
            return too_late();
        }
        let captured = at_work.books().capture(&id, (minor, reference), key.as_deref(), Instant::now());
        match captured {
            Captured::Paid(paid) => say(paid, &at_work),
            Captured::TooMuch => refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                "amount_too_large",
                "more than is set aside cannot be paid out",
            ),
            Captured::Gone(status) => {
                let message = format!("the reservation is {}", status.word());
                refusal(StatusCode::CONFLICT, status.word(), &message)
            }
            Captured::NoSuchHold => not_found("reservation"),
        }
    };
    counter.answer(Target::Captures, line, work).await
}

/// Sets free what is set aside.
pub(super) async fn release(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let key = match read_key(&headers, counter.keys_matter()) {
        Ok(key) => key,
        Err(refused) => return refused.into_response(),
    };
    let at_work = Arc::clone(&counter);
    let work = async move {
        let freed = at_work.books().holds().release(&id, key.as_deref());
        match freed {
            Freed::Settled(hold) | Freed::Replayed(hold) => {
                Json(shown(&hold, at_work.currency())).into_response()
            }
            Freed::Captured => refusal(StatusCode::CONFLICT, "captured", "it was paid out"),
            Freed::Gone => refusal(StatusCode::GONE, "gone", "nothing is set aside any more"),
            Freed::NoSuchHold => not_found("reservation"),
        }
    };
    counter.answer(Target::Releases, line, work).await
}

/// Reservations by reference.
pub(super) async fn find(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    ConnectInfo(line): ConnectInfo<Line>,
    query: Result<Query<ByReference>, QueryRejection>,
) -> Response {
    let Ok(Query(ByReference { reference })) = query else {
        return invalid("say which: ?reference=…").into_response();
    };
    let at_work = Arc::clone(&counter);
    let work = async move {
        let found = at_work.books().holds().with(&reference);
        let found: Vec<Value> = found.iter().map(|hold| shown(hold, at_work.currency())).collect();
        Json(json!({ "reservations": found })).into_response()
    };
    counter.answer(Target::Queries, line, work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    amount: String,
    reference: Option<String>,
}

fn read_capture(body: &[u8], currency: &str) -> Result<(i64, Option<String>), Refused> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| invalid(&error.to_string()))?;
    let minor = amount::parse(&asked.amount, currency).map_err(|message| invalid(&message))?;
    Ok((minor, asked.reference))
}

fn shown(hold: &Hold, currency: &str) -> Value {
    json!({
        "reservation_id": hold.id,
        "reference": hold.order.reference,
        "status": hold.status.word(),
        "recipient": hold.order.recipient,
        "amount": amount::print(hold.order.minor, currency),
        "currency": currency,
        "expires_at": hold.expires_at(),
    })
}
