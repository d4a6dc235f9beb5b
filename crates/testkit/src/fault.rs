//! Faults on demand: what can go wrong between a service's effect and the caller's knowledge.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::answer::refusal;
use crate::line::Line;

/// One way in which a request goes wrong. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Nothing goes wrong: lets a plan spare some requests.
    None,
    /// The effect happens, then the connection closes without an answer.
    LostAfterEffect,
    /// The connection closes without an answer and without the effect.
    LostBeforeEffect,
    /// The connection closes at once, and the effect happens this much later.
    Late {
        /// How long after the request the effect happens.
        ms: u64,
    },
    /// The effect waits, and the answer follows it; it happens though the caller gave up.
    DelayEffect {
        /// How long the effect waits.
        ms: u64,
    },
    /// The effect happens, and its answer is written twice.
    AnswerTwice,
    /// The effect happens at once, only the answer waits.
    DelayAnswer {
        /// How long the answer waits.
        ms: u64,
    },
    /// Status 500, no effect.
    ErrorBeforeEffect,
    /// Status 500 although the effect happened.
    ErrorAfterEffect,
    /// Status 422, a refusal for good, although the effect happened.
    RefusedAfterEffect,
    /// Status 429, no effect.
    RateLimited {
        /// Seconds named in `Retry-After`.
        #[serde(default = "one_second")]
        retry_after: u64,
    },
    /// The effect happens; the answer's body comes one byte at a time.
    SlowBody {
        /// Pause before each byte.
        ms: u64,
    },
    /// The effect happens; the answer is right but padded with blanks to this length.
    HugeBody {
        /// Length of the whole body.
        #[serde(default = "sixty_four_mebibytes")]
        bytes: u64,
    },
    /// The effect happens; the answer is cut in half, so it is not JSON.
    MalformedBody,
    /// Status 307, no effect. Who follows to the default location pays after all.
    Redirect {
        /// Where to.
        #[serde(default = "the_same_place")]
        location: String,
    },
}

/// A fault for the next `count` requests of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injection<T> {
    /// What goes wrong.
    pub fault: Fault,
    /// For how many requests.
    #[serde(default = "once")]
    pub count: u64,
    /// For which requests.
    #[serde(default)]
    pub on: T,
}

/// The faults waiting to happen, used up in order for each kind of request.
pub(crate) struct Faults<T>(Mutex<VecDeque<Injection<T>>>);

impl<T> Default for Faults<T> {
    fn default() -> Faults<T> {
        Faults(Mutex::default())
    }
}

impl<T: Copy + Eq> Faults<T> {
    pub(crate) fn inject(&self, injection: Injection<T>) {
        // Those in the queue always have requests left, so `next` looks at the first of a kind only.
        if injection.count > 0 {
            self.queue().push_back(injection);
        }
    }

    pub(crate) fn clear(&self) {
        self.queue().clear();
    }

    pub(crate) fn waiting(&self) -> Vec<Injection<T>> {
        self.queue().iter().cloned().collect()
    }

    /// The fault for the request that has just arrived.
    pub(crate) fn next(&self, on: T) -> Fault {
        let mut queue = self.queue();
        let Some(at) = queue.iter().position(|waiting| waiting.on == on) else { return Fault::None };
        let first = &mut queue[at];
        first.count -= 1;
        let fault = first.fault.clone();
        if first.count == 0 {
            queue.remove(at);
        }
        fault
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Injection<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    /// Does the work and answers, the way this fault has it.
    ///
    /// Run it as a task of its own, or a caller who hangs up takes the effect along.
    pub(crate) async fn perform<W>(self, line: Line, work: W) -> Response
    where
        W: Future<Output = Response> + Send + 'static,
    {
        match self {
            Fault::None => work.await,
            Fault::LostAfterEffect => {
                work.await;
                line.cut()
            }
            Fault::LostBeforeEffect => line.cut(),
            Fault::Late { ms } => {
                tokio::spawn(async move {
                    sleep(Duration::from_millis(ms)).await;
                    work.await
                });
                line.cut()
            }
            Fault::DelayEffect { ms } => {
                sleep(Duration::from_millis(ms)).await;
                work.await
            }
            Fault::AnswerTwice => {
                let answer = work.await;
                line.write_twice();
                answer
            }
            Fault::DelayAnswer { ms } => {
                let answer = work.await;
                sleep(Duration::from_millis(ms)).await;
                answer
            }
            Fault::ErrorBeforeEffect => broken(),
            Fault::ErrorAfterEffect => {
                work.await;
                broken()
            }
            Fault::RefusedAfterEffect => {
                work.await;
                denied()
            }
            Fault::RateLimited { retry_after } => rate_limited(retry_after),
            Fault::SlowBody { ms } => slow(work.await, Duration::from_millis(ms)).await,
            Fault::HugeBody { bytes } => huge(work.await, bytes).await,
            Fault::MalformedBody => malformed(work.await).await,
            Fault::Redirect { location } => {
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
            }
        }
    }
}

fn broken() -> Response {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something broke on our side")
}

fn denied() -> Response {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, "refused", "this is not done")
}

fn rate_limited(retry_after: u64) -> Response {
    let refused = refusal(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many requests");
    ([(header::RETRY_AFTER, retry_after.to_string())], refused).into_response()
}

async fn slow(answer: Response, pause: Duration) -> Response {
    rewrite(answer, |body| {
        Body::from_stream(stream::unfold(body, move |mut rest| async move {
            if rest.is_empty() {
                return None;
            }
            sleep(pause).await;
            Some((Ok::<_, Infallible>(rest.split_to(1)), rest))
        }))
    })
    .await
}

async fn huge(answer: Response, bytes: u64) -> Response {
    rewrite(answer, |body| {
        let blanks = bytes.saturating_sub(body.len() as u64);
        let padding = stream::unfold(blanks, |left| async move {
            let chunk = left.min(BLANKS.len() as u64);
            let part = Bytes::from_static(&BLANKS[..chunk as usize]);
            (chunk > 0).then(|| (Ok::<_, Infallible>(part), left - chunk))
        });
        Body::from_stream(stream::once(async { Ok(body) }).chain(padding))
    })
    .await
}

async fn malformed(answer: Response) -> Response {
    rewrite(answer, |body| body.slice(..body.len() / 2).into()).await
}

/// Changes the body of one of our own answers, which are small and in memory.
async fn rewrite(answer: Response, change: impl FnOnce(Bytes) -> Body) -> Response {
    let (head, body) = answer.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(body) => Response::from_parts(head, change(body)),
        Err(_) => broken(),
    }
}

fn once() -> u64 {
    1
}

fn one_second() -> u64 {
    1
}

fn sixty_four_mebibytes() -> u64 {
    64 << 20
}

fn the_same_place() -> String {
    "/v1/payments".into()
}

const BLANKS: &[u8] = &[b' '; 64 << 10];
