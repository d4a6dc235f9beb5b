//! The Execution Protocol: one action in, one outcome out.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use gateway::{Ask, Code, Error, Gateway, Wait};
use http::{HeaderValue, StatusCode};

use crate::openapi::{Answer, Schema};
use crate::reply;
use crate::request::{self, IDEMPOTENT_REPLAYED, Request, Response};
use crate::who::{self, Looked};

/// Takes one action to its outcome.
pub(crate) fn execute(request: Request) -> impl Future<Output = Result<Response, Error>> {
    // Boxed and read first, so that the wait for a slow provider holds nothing of the request.
    let asked = Box::pin(asked(request));
    async move {
        let (gateway, caller, ask) = asked.await?;
        let wait = ask.wait.clone();
        let answer = async { gateway.execute(&caller.await?, ask).await };
        Ok(told(gateway.in_time(wait, answer).await?))
    }
}

/// An outcome, byte for byte as it was stored.
pub(crate) fn told(answer: gateway::Answer) -> Response {
    let (status, replayed) = (status_of(&answer), answer.replayed);
    marked(reply::bytes_of(status, "application/json", answer.reply.body), replayed)
}

/// The status an outcome was stored with.
pub(crate) fn status_of(answer: &gateway::Answer) -> StatusCode {
    StatusCode::from_u16(answer.reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Says of an answer whether it is a repetition.
pub(crate) fn marked(mut response: Response, replayed: bool) -> Response {
    if replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Whom a request asks what on whose behalf.
pub(crate) async fn asked(mut request: Request) -> Result<(Arc<Gateway>, Looked, Ask), Error> {
    let came = Instant::now();
    let gateway = request.gateway()?;
    let caller = who::caller_soon(&request).await?;
    let read = read(&mut request, came).await;
    let (caller, ask) = who::may_hear(&request, caller, read).await?;
    Ok((gateway, caller, ask))
}

async fn read(request: &mut Request, came: Instant) -> Result<Ask, Error> {
    let headers = &request.head.headers;
    request::version(headers, request.environment)?;
    let idempotency_key = request::idempotency_key(headers, request.environment)?;
    let dry_run = dry_run(request)?;
    let body = request.take_body().await?;
    let wait = Wait::said(&body, None, came);
    Ok(Ask { idempotency_key, request_id: request.id().to_owned(), dry_run, wait, body })
}

fn dry_run(request: &Request) -> Result<bool, Error> {
    match request.query(["dry_run"])? {
        [None] => Ok(false),
        [Some(value)] if value == "false" => Ok(false),
        [Some(value)] if value == "true" => Ok(true),
        [Some(_)] => {
            Err(Error::new(Code::ValidationFailed, "dry_run is neither true nor false").field("?dry_run"))
        }
    }
}

/// The statuses of outcomes that are no refusal and no failure; those stand with their codes.
pub(crate) const ANSWERS: &[Answer] = &[
    Answer::json(200, "`executed`: done, and confirmed by the provider", Schema::ExecuteResponse),
    Answer::json(
        202,
        "`held`, `needs_challenge` or `pending_settlement`: accepted, and not over yet",
        Schema::ExecuteResponse,
    ),
];
