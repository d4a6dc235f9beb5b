//! Principals: the keys with which people sign mandates themselves.

use gateway::{Code, Error, PrincipalKeyView, Signs};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// Registers a key of a principal.
pub(crate) async fn register(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: PrincipalRequest = request.json().await?;
    let signs = match ask.signs.as_deref() {
        None => Signs::Mandates,
        Some(text) => Signs::parse(text).ok_or_else(|| {
            Error::new(Code::ValidationFailed, "signs is neither `mandates` nor `children`").field("/signs")
        })?,
    };
    let key = gateway.register_principal(&caller, &request.argument, &ask.jwk.to_string(), signs).await?;
    Ok(reply::json(StatusCode::CREATED, &PrincipalKey::of(key)))
}

/// The tenant's keys of principals.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let keys = gateway.principals(&caller).await?;
    Ok(reply::list(keys.into_iter().map(PrincipalKey::of).collect()))
}

/// Ends a key of a principal.
pub(crate) async fn revoke(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: PrincipalRevocation = request.json().await?;
    let key = gateway.revoke_principal(&caller, &request.argument, &ask.kid, ask.reason).await?;
    Ok(reply::json(StatusCode::OK, &PrincipalKey::of(key)))
}

/// The key with which a principal signs mandates.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrincipalRequest {
    /// The public JWK: `EC` on `P-256` (ES256) or `OKP` on `Ed25519` (EdDSA).
    #[schema(value_type = Object)]
    jwk: serde_json::Value,
    /// `mandates`: what a principal gives. `children`: only what an agent hands on of the mandates that it holds. Absent:
    /// `mandates`, which is refused for who is an agent.
    signs: Option<String>,
}

/// Which key ends, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrincipalRevocation {
    /// The key's RFC 7638 thumbprint.
    kid: String,
    /// In a few words, for the record.
    reason: Option<String>,
}

/// A key with which a principal signs mandates, or an agent what it hands on.
#[derive(Serialize, ToSchema)]
pub(crate) struct PrincipalKey {
    /// The principal: `iss` of what it signs.
    issuer: String,
    /// `mandates` or `children`.
    signs: &'static str,
    /// Its RFC 7638 thumbprint: `kid` of what it signs.
    kid: String,
    /// `ES256` or `EdDSA`.
    algorithm: String,
    /// The public JWK.
    #[schema(value_type = Object)]
    jwk: serde_json::Value,
    created_at: String,
    /// Who registered it.
    created_by: String,
    revoked_at: Option<String>,
}

/// Keys of principals.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `reply::list` writes")]
pub(crate) struct PrincipalKeyList {
    items: Vec<PrincipalKey>,
}

impl PrincipalKey {
    fn of(view: PrincipalKeyView) -> PrincipalKey {
        PrincipalKey {
            issuer: view.issuer,
            signs: view.signs.as_str(),
            kid: view.kid,
            algorithm: view.algorithm,
            jwk: serde_json::from_str(&view.jwk).unwrap_or_default(),
            created_at: view.created_at,
            created_by: view.created_by,
            revoked_at: view.revoked_at,
        }
    }
}
