//! The counter: what the bank says over HTTP.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::books::{Books, Effects, OPERATING, Order, Paid, Payment, Refunded, Waiting};
use super::holds::Holds;
use super::journal::Journal;
use super::payer::{self, Caller, Payers};
use super::tokens::{self, Tokens};
use super::{Client, Injection, Options, Target, amount, reservations};
use crate::answer::{Refused, invalid, key_of, not_found, read, refusal, short, unfinished};
use crate::fault::{Fault, Faults};
use crate::line::{Line, Lines};

/// Answers on `listener` until `closed` completes and the requests under way are done.
pub(super) async fn run(
    listener: TcpListener,
    counter: Arc<Counter>,
    closed: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let service = routes(counter).into_make_service_with_connect_info::<Line>();
    axum::serve(Lines(listener), service).with_graceful_shutdown(closed).await
}

fn routes(counter: Arc<Counter>) -> Router {
    Router::new()
        .route("/oauth/token", post(tokens::grant))
        .route("/v1/payments", post(pay).get(find_payments))
        .route("/v1/payments/{id}", get(show_payment))
        .route("/v1/payments/{id}/refunds", post(refund))
        .route("/v1/reservations", post(reservations::reserve).get(reservations::find))
        .route("/v1/reservations/{id}/capture", post(reservations::capture))
        .route("/v1/reservations/{id}/release", post(reservations::release))
        .route("/v1/accounts/{name}", get(show_account))
        .route("/v1/effects", get(count_effects))
        .route("/challenges/{id}", get(payer::page))
        .route("/challenges/{id}/{word}", post(payer::answer))
        .route("/v1/faults", post(inject).get(list_faults).delete(clear_faults))
        .fallback(|| async { not_found("page") })
        .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
        .with_state(counter)
}

/// Everything the handlers share.
pub(super) struct Counter {
    token: String,
    client: Option<Client>,
    tokens: Tokens,
    currency: String,
    keys_matter: bool,
    syncs: bool,
    latest: Option<Duration>,
    books: Mutex<Books>,
    faults: Faults<Target>,
    payers: Payers,
    used: Option<Value>,
    caller: Arc<Caller>,
}

impl Counter {
    pub(super) fn open(options: Options) -> io::Result<Counter> {
        let journal = options.journal.as_deref().map(Journal::open).transpose()?;
        let caller = Caller::default();
        if let Some(to) = options.callback {
            caller.call_at(to);
        }
        Ok(Counter {
            token: options.token,
            client: options.client,
            tokens: Tokens::default(),
            currency: options.currency.clone(),
            keys_matter: options.idempotency.is_some(),
            syncs: journal.is_some(),
            latest: options.latest,
            books: Mutex::new(Books::open(
                options.opening_minor,
                options.currency,
                options.idempotency,
                options.payers.as_ref().map(|payers| (payers.above_minor, payers.patience)),
                Holds::open(options.hold, options.holds_end),
                journal,
            )),
            faults: Faults::default(),
            payers: options.payers.unwrap_or_default(),
            used: options.used,
            caller: Arc::new(caller),
        })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) fn currency(&self) -> &str {
        &self.currency
    }

    pub(super) fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    pub(super) fn faults(&self) -> &Faults<Target> {
        &self.faults
    }

    pub(super) fn keys_matter(&self) -> bool {
        self.keys_matter
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came then would come about too late.
    pub(super) fn is_too_late(&self, came: Instant) -> bool {
        self.latest.is_some_and(|latest| came.elapsed() > latest)
    }

    /// Does the work as a task of its own, with the fault whose turn it is.
    pub(super) async fn answer<W>(&self, target: Target, line: Line, work: W) -> Response
    where
        W: Future<Output = Response> + Send + 'static,
    {
        let fault: Fault = self.faults.next(target);
        tokio::spawn(fault.perform(line, work)).await.unwrap_or_else(|_| unfinished())
    }
}

async fn pay(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    ConnectInfo(line): ConnectInfo<Line>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let parsed = read(body).and_then(|body| {
        let order = read_order(&body, &counter.currency)?;
        Ok((order, read_key(&headers, counter.keys_matter)?))
    });
    let (order, key) = match parsed {
        Ok(parsed) => parsed,
        Err(refused) => return refused.into_response(),
    };
    let at_work = Arc::clone(&counter);
    counter.answer(Target::Payments, line, settle(at_work, order, key, Instant::now())).await
}

async fn settle(counter: Arc<Counter>, order: Order, key: Option<String>, came: Instant) -> Response {
    let syncs = counter.syncs;
    let work = move || {
        let mut books = counter.books();
        let now = Instant::now();
        if counter.is_too_late(came) {
            return too_late();
        }
        let paid = books.pay(order, key.as_deref(), now);
        drop(books);
        say(paid, &counter)
    };
    if !syncs {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| unfinished())
}

pub(super) fn too_late() -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "too_late", "this was not done in time")
}

pub(super) fn say(paid: Paid, counter: &Counter) -> Response {
    match paid {
        Paid::Challenged(waiting) => {
            let status = if waiting.status() == "declined" {
                StatusCode::PAYMENT_REQUIRED
            } else {
                StatusCode::ACCEPTED
            };
            (status, Json(awaited(&waiting, counter))).into_response()
        }
        Paid::Settled(payment) => (StatusCode::CREATED, Json(shown(&payment, counter))).into_response(),
        Paid::Replayed(payment) => {
            (StatusCode::CREATED, [("idempotent-replayed", "true")], Json(shown(&payment, counter)))
                .into_response()
        }
        Paid::InsufficientFunds => {
            let message = format!("account `{OPERATING}` does not have that much");
            refusal(StatusCode::PAYMENT_REQUIRED, "insufficient_funds", &message)
        }
        Paid::KeyReused => {
            let message = "this idempotency key came with another payment";
            refusal(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", message)
        }
        Paid::JournalFailed => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "journal_failed", "the journal cannot be written")
        }
    }
}

async fn refund(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let key = match read_key(&headers, counter.keys_matter) {
        Ok(key) => key,
        Err(refused) => return refused.into_response(),
    };
    let at_work = Arc::clone(&counter);
    let work = async move {
        let refunded = at_work.books().refund(&id, key.as_deref());
        match refunded {
            Refunded::Settled(refund) | Refunded::Replayed(refund) => {
                let shown = json!({ "refund_id": refund.id, "payment_id": id, "status": "refunded" });
                (StatusCode::CREATED, Json(shown)).into_response()
            }
            Refunded::Already => {
                refusal(StatusCode::CONFLICT, "already_refunded", "this payment was given back before")
            }
            Refunded::NoSuchPayment => not_found("payment"),
        }
    };
    counter.answer(Target::Refunds, line, work).await
}

async fn find_payments(
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
        let mut books = at_work.books();
        let mut found: Vec<Value> =
            books.payments_with(&reference).map(|payment| shown(payment, &at_work)).collect();
        let unpaid = books.unpaid_with(&reference, Instant::now());
        found.extend(unpaid.iter().map(|waiting| awaited(waiting, &at_work)));
        Json(json!({ "payments": found })).into_response()
    };
    counter.answer(Target::Queries, line, work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ByReference {
    pub(super) reference: String,
}

async fn show_payment(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
) -> Response {
    let at_work = Arc::clone(&counter);
    let work = async move {
        match at_work.books().payment(&id) {
            Some(payment) => Json(shown(payment, &at_work)).into_response(),
            None => not_found("payment"),
        }
    };
    counter.answer(Target::Queries, line, work).await
}

async fn show_account(_: Holder, State(counter): State<Arc<Counter>>, Path(name): Path<String>) -> Response {
    let Some(minor) = counter.books().balance(&name) else { return not_found("account") };
    let balance = amount::print(minor, &counter.currency);
    let account = json!({
        "name": name, "balance": balance, "balance_minor": minor, "currency": counter.currency,
    });
    Json(account).into_response()
}

async fn count_effects(_: Holder, State(counter): State<Arc<Counter>>) -> Json<Effects> {
    Json(counter.books().effects())
}

async fn inject(
    _: Holder,
    State(counter): State<Arc<Counter>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let parsed = read(body).and_then(|body| {
        serde_json::from_slice::<Injection>(&body).map_err(|error| invalid(&error.to_string()))
    });
    match parsed {
        Ok(injection) => {
            counter.faults.inject(injection);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn list_faults(_: Holder, State(counter): State<Arc<Counter>>) -> Json<Value> {
    Json(json!({ "faults": counter.faults.waiting() }))
}

async fn clear_faults(_: Holder, State(counter): State<Arc<Counter>>) -> StatusCode {
    counter.faults.clear();
    StatusCode::NO_CONTENT
}

/// Whoever sent this request holds the bank's token, or one that was granted; only the header makes one.
pub(super) struct Holder;

impl FromRequestParts<Arc<Counter>> for Holder {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, counter: &Arc<Counter>) -> Result<Holder, Response> {
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match given.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) if token == counter.token || counter.tokens.holds(token) => Ok(Holder),
            _ => {
                Err(refusal(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing or wrong"))
            }
        }
    }
}

pub(super) fn read_order(body: &[u8], currency: &str) -> Result<Order, Refused> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| invalid(&error.to_string()))?;
    if asked.currency != currency {
        let message = format!("currency `{}` is not kept here, only {currency}", asked.currency);
        return Err(invalid(&message));
    }
    let minor = amount::parse(&asked.amount, currency).map_err(|message| invalid(&message))?;
    if asked.recipient == OPERATING {
        return Err(invalid("recipient is the paying account itself"));
    }
    short("recipient", Some(&asked.recipient))?;
    short("reference", asked.reference.as_deref())?;
    short("note", asked.note.as_deref())?;
    Ok(Order { recipient: asked.recipient, minor, reference: asked.reference, note: asked.note })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    recipient: String,
    amount: String,
    currency: String,
    reference: Option<String>,
    note: Option<String>,
}

/// A bank that minds keys refuses a payment without one, so a gateway that forgets its key is found out at once.
pub(super) fn read_key(headers: &HeaderMap, keys_matter: bool) -> Result<Option<String>, Refused> {
    match key_of(headers)? {
        None if keys_matter => Err(invalid("header `Idempotency-Key` is missing")),
        key => Ok(key),
    }
}

fn shown(payment: &Payment, counter: &Counter) -> Value {
    let mut shown = json!({
        "payment_id": payment.id,
        "reference": payment.order.reference,
        "status": "settled",
        "recipient": payment.order.recipient,
        "amount": amount::print(payment.order.minor, &counter.currency),
        "currency": counter.currency,
    });
    if let Some(used) = &counter.used {
        shown["resources_used"] = used.clone();
    }
    shown
}

/// A payment that waits for its payer, or did.
fn awaited(waiting: &Waiting, counter: &Counter) -> Value {
    json!({
        "payment_id": waiting.id,
        "reference": waiting.order.reference,
        "status": waiting.status(),
        "amount": amount::print(waiting.order.minor, &counter.currency),
        "currency": counter.currency,
        "challenge_url": format!("{}/challenges/{}", counter.payers.pages, waiting.id),
    })
}

const MOST_BODY_BYTES: usize = 64 << 10;
