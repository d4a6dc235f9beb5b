//! The transparency log of the caller's tenant, by the paths of C2SP tlog-tiles, and proofs made for those who do not make
//! them of tiles.

use gateway::{Code, Deed, Error};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// The newest checkpoint, or the one of so many leaves that most witnesses cosigned.
pub(crate) async fn checkpoint(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    caller.must(Deed::Audit)?;
    let [leaves] = request.query(["leaves"])?;
    let note = match leaves {
        None => gateway.log_checkpoint(&caller)?,
        Some(leaves) => gateway.log_checkpoint_with(&caller, size(Some(leaves), "leaves")?)?,
    };
    Ok(reply::bytes_of(StatusCode::OK, "text/plain; charset=utf-8", note))
}

/// A tile, or the entries below one. Neither changes, until the log begins anew after a recovery, where others stand under the same
/// addresses; and whoever keeps one must not show it to somebody else.
pub(crate) async fn tile(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let bytes = gateway.log_resource(&caller, &format!("tile/{}", request.argument)).await?;
    let mut response = reply::bytes_of(StatusCode::OK, "application/octet-stream", bytes);
    let for_a_while = HeaderValue::from_static("private, max-age=60");
    response.headers_mut().insert(CACHE_CONTROL, for_a_while);
    Ok(response)
}

/// That a later log begins with an earlier one.
pub(crate) async fn consistency(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    caller.must(Deed::Audit)?;
    let [from, to] = request.query(["from", "to"])?;
    let (from, to) = (size(from, "from")?, size(to, "to")?);
    let proof = gateway.log_consistency(&caller, from, to).await?;
    Ok(reply::json(StatusCode::OK, &Consistency { from, to, proof }))
}

fn size(value: Option<String>, name: &str) -> Result<u64, Error> {
    let size = value.and_then(|value| value.parse().ok());
    size.ok_or_else(|| {
        let why = format!("query parameter `{name}` is the size of a log, a whole number");
        Error::new(Code::ValidationFailed, why).field(format!("?{name}"))
    })
}

/// What the log says of a period.
pub(crate) async fn completeness(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    caller.must(Deed::Audit)?;
    let [from, until] = request.query(["from", "until"])?;
    let (from, until) = (from.unwrap_or_default(), until.unwrap_or_default());
    let note = gateway.log_completeness(&caller, &from, &until).await?;
    Ok(reply::bytes_of(StatusCode::OK, "text/plain; charset=utf-8", note))
}

/// By what checkpoints of the log are verified.
pub(crate) async fn key(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    Ok(reply::json(StatusCode::OK, &LogKey { key: gateway.log_key(&caller)? }))
}

/// That a receipt of the caller's is in the log.
pub(crate) async fn proof(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let proof = gateway.receipt_proof(&caller, &request.argument).await?;
    Ok(reply::bytes_of(StatusCode::OK, "application/json", proof))
}

/// A receipt of the caller's with all that proves it was logged.
pub(crate) async fn bundle(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let bundle = gateway.receipt_bundle(&caller, &request.argument).await?;
    Ok(reply::bytes_of(StatusCode::OK, "application/json", bundle))
}

/// That the log of size `to` begins with the log of size `from`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Consistency {
    from: u64,
    to: u64,
    /// Hashes as of RFC 9162, 2.1.4, each unpadded base64url.
    proof: Vec<String>,
}

/// The verifier key of a log, as C2SP signed notes have it.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogKey {
    /// `origin+id+key`; for the member `logs` of pin files.
    key: String,
}

/// That a receipt is in a log, `countersign-proof/1`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the crate `receipt` writes")]
pub(crate) struct LogProof {
    /// A signed note.
    checkpoint: String,
    /// That the key of the receipt was compromised later, by the log's own order; or null.
    #[schema(value_type = Object)]
    compromise: (),
    /// Number of the leaf.
    index: u64,
    /// The leaf, unpadded base64url.
    leaf: String,
    /// Hashes beside its way to the root, each unpadded base64url.
    path: Vec<String>,
    /// `countersign-proof/1`.
    spec: String,
}

/// A receipt with all that proves it was logged, `countersign-bundle/1`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the crate `receipt` writes")]
pub(crate) struct LogBundle {
    /// The issuer's key set.
    #[schema(value_type = Object)]
    jwks: (),
    proof: LogProof,
    /// The receipt, canonical JSON.
    #[schema(value_type = Object)]
    receipt: (),
    /// `countersign-bundle/1`.
    spec: String,
}
