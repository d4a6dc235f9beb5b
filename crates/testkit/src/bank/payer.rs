//! Payers who must confirm: a page for each payment that waits for one, and the bank's own word on what came of it.
//!
//! The word goes out as a webhook, signed as the Standard Webhooks specification says, and again until it is taken; faults
//! are those of webhooks: lost, late, twice, forged, old.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::amount;
use super::books::{Order, Settled};
use super::http::Counter;
use crate::answer::refusal;

/// Which payments a payer has to confirm, and where.
#[derive(Clone)]
pub struct Payers {
    /// Those of more than this, in minor units.
    pub above_minor: i64,
    /// What the addresses shown to payers begin with. The pages themselves are at the same paths of the bank's own address.
    pub pages: String,
    /// How long a payer has.
    pub patience: Duration,
}

impl Default for Payers {
    /// Every payment, for a quarter of an hour.
    fn default() -> Payers {
        Payers {
            above_minor: 0,
            pages: "https://pay.bank.example".to_owned(),
            patience: Duration::from_secs(900),
        }
    }
}

/// Where the bank tells what came of it.
#[derive(Clone)]
pub struct Callback {
    /// Where requests go.
    pub url: String,
    /// `whsec_…`.
    pub secret: String,
}

/// One way in which a callback goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdelivery {
    /// Nothing goes wrong: lets a plan spare some callbacks.
    Rightly,
    /// It is never sent.
    Lost,
    /// It is sent twice, under one id.
    Twice,
    /// It is sent this much later.
    Late {
        /// Milliseconds.
        ms: u64,
    },
    /// It is signed with another key, once; the right one never comes.
    Forged,
    /// It is rightly signed, for a time long ago; the right one never comes.
    Old,
}

/// Whom the bank calls back, what goes wrong with that, and what was answered.
#[derive(Default)]
pub(super) struct Caller {
    to: Mutex<Option<Callback>>,
    wrong: Mutex<VecDeque<Misdelivery>>,
    answers: Mutex<Vec<u16>>,
}

impl Caller {
    pub(super) fn call_at(&self, to: Callback) {
        *lock(&self.to) = Some(to);
    }

    pub(super) fn misdeliver(&self, how: Misdelivery) {
        lock(&self.wrong).push_back(how);
    }

    pub(super) fn answers(&self) -> Vec<u16> {
        lock(&self.answers).clone()
    }

    /// Tells it until it is taken.
    fn tell(self: &Arc<Self>, body: Value) {
        let Some(to) = lock(&self.to).clone() else { return };
        let (caller, how) = (Arc::clone(self), lock(&self.wrong).pop_front());
        tokio::spawn(async move { caller.deliver(&to, &body.to_string(), how).await });
    }

    async fn deliver(&self, to: &Callback, body: &str, how: Option<Misdelivery>) {
        let id = format!("msg_{}", Uuid::now_v7().simple());
        match how {
            Some(Misdelivery::Lost) => {}
            Some(Misdelivery::Forged) => {
                let secret = format!("whsec_{}", STANDARD.encode([7; 32]));
                self.send(&Callback { secret, ..to.clone() }, &id, seconds(), body).await;
            }
            Some(Misdelivery::Old) => drop(self.send(to, &id, seconds() - 3600, body).await),
            Some(Misdelivery::Late { ms }) => {
                sleep(Duration::from_millis(ms)).await;
                self.insist(&id, body).await;
            }
            Some(Misdelivery::Twice) => {
                self.insist(&id, body).await;
                self.insist(&id, body).await;
            }
            Some(Misdelivery::Rightly) | None => self.insist(&id, body).await,
        }
    }

    /// Each time where it is to be told then.
    async fn insist(&self, id: &str, body: &str) {
        for _ in 0..TRIES {
            let Some(to) = lock(&self.to).clone() else { return };
            if (200..300).contains(&self.send(&to, id, seconds(), body).await) {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// What cannot be delivered at all is answered 0.
    async fn send(&self, to: &Callback, id: &str, seconds: u64, body: &str) -> u16 {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build();
        let Ok(client) = client else { return 0 };
        let request = client.post(&to.url).header(header::CONTENT_TYPE, "application/json");
        let request = request.header("webhook-id", id).header("webhook-timestamp", seconds);
        let request = request.header("webhook-signature", sign(&to.secret, id, seconds, body));
        let answer = request.body(body.to_owned()).send().await;
        let status = answer.map_or(0, |answer| answer.status().as_u16());
        lock(&self.answers).push(status);
        status
    }
}

/// The signature of a webhook.
pub fn sign(secret: &str, id: &str, seconds: u64, body: &str) -> String {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, format!("{id}.{seconds}.{body}").as_bytes())))
}

/// The page on which a payer decides.
pub(super) async fn page(State(counter): State<Arc<Counter>>, Path(id): Path<String>) -> Response {
    let Some(shown) = counter.books().awaited(&id, Instant::now()).map(|waiting| waiting.status()) else {
        return refusal(StatusCode::NOT_FOUND, "not_found", "no such challenge");
    };
    Html(format!(
        "<!doctype html><title>Confirm</title><p>Payment {id}: {shown}</p>\
         <form method=post action=\"/challenges/{id}/confirm\"><button>Confirm</button></form>\
         <form method=post action=\"/challenges/{id}/decline\"><button>Decline</button></form>"
    ))
    .into_response()
}

/// What a payer said on the page.
pub(super) async fn answer(
    State(counter): State<Arc<Counter>>,
    Path((id, word)): Path<(String, String)>,
) -> Response {
    let yes = match word.as_str() {
        "confirm" => true,
        "decline" => false,
        _ => return refusal(StatusCode::NOT_FOUND, "not_found", "no such page"),
    };
    match says(&counter, &id, yes) {
        true => Json(json!({ "status": if yes { "settled" } else { "declined" } })).into_response(),
        false => refusal(StatusCode::CONFLICT, "over", "this challenge is over"),
    }
}

/// A payer answers; false if it is too late for that.
pub(super) fn says(counter: &Counter, id: &str, yes: bool) -> bool {
    let now = Instant::now();
    let settled = if yes { counter.books().confirm(id, now) } else { counter.books().decline(id, now) };
    let (what, order) = match &settled {
        Settled::Paid(payment) => ("payment.settled", &payment.order),
        Settled::Declined(order) => ("payment.declined", order),
        Settled::Over => return false,
    };
    counter.caller().tell(word_on(what, id, order, counter.currency()));
    true
}

/// The bank tells what was paid under a reference; false if nothing was.
pub(super) fn tell_of(counter: &Counter, reference: &str) -> bool {
    let books = counter.books();
    let words = books.payments_with(reference);
    let words: Vec<Value> =
        words.map(|it| word_on("payment.settled", &it.id, &it.order, counter.currency())).collect();
    drop(books);
    let paid = !words.is_empty();
    words.into_iter().for_each(|word| counter.caller().tell(word));
    paid
}

fn word_on(what: &str, id: &str, order: &Order, currency: &str) -> Value {
    json!({
        "type": what,
        "payment_id": id,
        "reference": order.reference,
        "amount": amount::print(order.minor, currency),
        "currency": currency,
    })
}

/// Unix time.
pub(super) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);
