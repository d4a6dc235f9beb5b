//! Keys: those that callers present, and those that sign receipts.

use action::{Subject, Tenant};
use gateway::{Code, Error, KeyAsk, KeyView, Role, SigningKeyView};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// Makes an API key.
pub(crate) async fn create(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: KeyRequest = request.json().await?;
    let created = gateway.create_key(&caller, ask.understood()?).await?;
    Ok(reply::json(StatusCode::CREATED, &CreatedKey { secret: created.secret, key: Key::of(created.key) }))
}

/// The tenant's API keys.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let keys = gateway.keys(&caller).await?;
    Ok(reply::list(keys.into_iter().map(Key::of).collect()))
}

/// Ends an API key.
pub(crate) async fn revoke(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let key = gateway.revoke_key(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Key::of(key)))
}

/// The keys that sign receipts.
pub(crate) async fn signing_keys(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let keys = gateway.signing_keys(&caller).await?;
    Ok(reply::list(keys.into_iter().map(SigningKey::of).collect()))
}

/// Puts a new signing key in the active one's place.
pub(crate) async fn rotate(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let key = gateway.rotate_signing_key(&caller).await?;
    Ok(reply::json(StatusCode::CREATED, &SigningKey::of(key)))
}

/// Says that others may hold a signing key.
pub(crate) async fn compromise(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: CompromiseRequest = request.json().await?;
    let key = gateway.compromise_signing_key(&caller, &request.argument, ask.at).await?;
    Ok(reply::json(StatusCode::OK, &SigningKey::of(key)))
}

/// What a new API key is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRequest {
    /// Whose; the caller's own tenant when absent.
    tenant: Option<String>,
    /// Whom it speaks for.
    subject: String,
    /// `agent`, `approver`, `operator`, `auditor` or `admin`.
    role: String,
    /// The mandate (`jti`) used when a request brings no token.
    default_mandate: Option<String>,
}

/// Since when a signing key may be in other hands.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompromiseRequest {
    /// RFC 3339.
    at: String,
}

/// A new API key.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedKey {
    /// What the caller sends as bearer token. It is shown this once.
    secret: String,
    key: Key,
}

/// API keys.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `reply::list` writes")]
pub(crate) struct KeyList {
    items: Vec<Key>,
}

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct Key {
    id: String,
    tenant: String,
    subject: String,
    role: &'static str,
    default_mandate: Option<String>,
    created_at: String,
    revoked_at: Option<String>,
}

/// Keys that sign receipts.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `reply::list` writes")]
pub(crate) struct SigningKeyList {
    items: Vec<SigningKey>,
}

/// A key that signs or signed receipts.
#[derive(Serialize, ToSchema)]
pub(crate) struct SigningKey {
    /// Its RFC 7638 thumbprint.
    kid: String,
    /// `active`, `verify-only` or `compromised`.
    status: String,
    active_from: String,
    active_through: Option<String>,
    compromised_at: Option<String>,
}

impl KeyRequest {
    fn understood(self) -> Result<KeyAsk, Error> {
        let invalid = |field: &str, why: String| Error::new(Code::ValidationFailed, why).field(field);
        let tenant = self.tenant.map(|name| Tenant::parse(&name)).transpose();
        Ok(KeyAsk {
            tenant: tenant.map_err(|error| invalid("/tenant", error.to_string()))?,
            subject: Subject::parse(&self.subject).map_err(|error| invalid("/subject", error.to_string()))?,
            role: Role::parse(&self.role)
                .ok_or_else(|| invalid("/role", format!("there is no role `{}`", self.role)))?,
            default_mandate: self.default_mandate,
        })
    }
}

impl Key {
    fn of(view: KeyView) -> Key {
        Key {
            id: view.id,
            tenant: view.tenant,
            subject: view.subject,
            role: view.role.as_str(),
            default_mandate: view.default_mandate,
            created_at: view.created_at,
            revoked_at: view.revoked_at,
        }
    }
}

impl SigningKey {
    fn of(view: SigningKeyView) -> SigningKey {
        SigningKey {
            kid: view.kid,
            status: view.status,
            active_from: view.active_from,
            active_through: view.active_through,
            compromised_at: view.compromised_at,
        }
    }
}
