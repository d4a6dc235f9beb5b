//! Security events that transmitters push, as RFC 8935 says.

use gateway::Error;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::{Answer, Schema};
use crate::reply;
use crate::request::{Request, Response};

/// Hears a transmitter. Its signature is its key.
pub(crate) async fn receive(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let token = request.take_token().await?;
    Ok(match gateway.hear_event(&token).await? {
        Ok(()) => reply::empty(StatusCode::ACCEPTED),
        Err(refusal) => {
            let body = EventError { err: refusal.code, description: refusal.description };
            reply::json(StatusCode::BAD_REQUEST, &body)
        }
    })
}

/// How an event may be answered, beside with an error of any route.
pub(crate) const HEARD: &[Answer] = &[
    Answer {
        status: 202,
        when: "What it revokes is revoked",
        content_type: "text/plain",
        schema: Schema::Text,
    },
    Answer::json(400, "It is not taken", Schema::EventError),
];

/// Why an event is not taken.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventError {
    /// `invalid_request`, `invalid_key`, `invalid_issuer`, `invalid_audience` or `authentication_failed`.
    err: &'static str,
    /// The same for people, naming the member.
    description: String,
}
