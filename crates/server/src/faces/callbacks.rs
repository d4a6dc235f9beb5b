//! What providers say of their own accord, signed as the Standard Webhooks specification says.

use gateway::{Code, Error, Signed};
use http::{HeaderName, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response, single};

/// Hears a provider. Whoever signs rightly is told the same, whatever it says and whether it is about anything here.
pub(crate) async fn receive(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let body = request.take_body().await?;
    let header = |name: &'static str| {
        let value = single(&request.head.headers, &HeaderName::from_static(name)).ok().flatten();
        value.ok_or_else(|| {
            Error::new(Code::Unauthenticated, "a header of the signature is missing").field(name)
        })
    };
    let letter = Signed {
        id: header("webhook-id")?,
        timestamp: header("webhook-timestamp")?,
        signature: header("webhook-signature")?,
        body: &body,
    };
    gateway.called_back(&request.argument, &letter).await?;
    Ok(reply::json(StatusCode::OK, &Received { received: true }))
}

/// It need not be sent again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Received {
    received: bool,
}
