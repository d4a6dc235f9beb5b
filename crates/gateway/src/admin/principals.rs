//! Principals: the keys with which people sign mandates themselves.

use action::Subject;
use mandate::VerifyingKey;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::event;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::views::not_found;
use crate::{Code, Error, clock};

/// A key of a principal.
#[derive(Clone, Debug)]
pub struct PrincipalKeyView {
    /// The principal: `iss` of what it signs.
    pub issuer: String,
    /// The key's RFC 7638 thumbprint.
    pub kid: String,
    /// `ES256` or `EdDSA`.
    pub algorithm: String,
    /// The public JWK.
    pub jwk: String,
    /// Who registered it.
    pub created_by: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub revoked_at: Option<String>,
}

/// So many keys of principals a tenant may have, those that ended included: each is looked at in memory.
const MOST_KEYS: usize = 1_000;

impl Gateway {
    /// Registers a key: what this principal signs with it is a mandate here from now on.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` naming what is wrong, `EP_STATE_CONFLICT` if the principal has the key, or had it.
    pub async fn register_principal(
        &self,
        caller: &Caller,
        issuer: &str,
        jwk: &str,
    ) -> Result<PrincipalKeyView, Error> {
        caller.must(Deed::Govern)?;
        let tenant = self.tenant(&caller.tenant)?;
        let wrong = |field: &str, why: String| Error::new(Code::ValidationFailed, why).field(field);
        let issuer = Subject::parse(issuer).map_err(|error| wrong("/iss", error.to_string()))?;
        let key = VerifyingKey::from_jwk(jwk).map_err(|error| {
            wrong("/jwk", error.to_string())
                .hint("send the public JWK, `EC` on `P-256` or `OKP` on `Ed25519`")
        })?;
        let all = self.ledger.principals().await.map_err(unavailable)?;
        if all.iter().filter(|it| it.tenant == caller.tenant).count() >= MOST_KEYS {
            return Err(Error::new(
                Code::StateConflict,
                format!("there are {MOST_KEYS} keys of principals already"),
            ));
        }
        let key = ledger::PrincipalKey {
            tenant: caller.tenant.clone(),
            issuer: issuer.as_str().into(),
            kid: key.kid().into(),
            jwk: key.jwk().into(),
            created_ms: clock::now_ms(),
            created_by: caller.subject.as_str().into(),
            revoked_ms: None,
        };
        let record = json!({
            "by": caller.subject.as_str(), "issuer": &*key.issuer, "jwkHash": jwk_hash(&key), "kid": &*key.kid,
            "tenant": caller.tenant.as_str(),
        });
        let told = event(tenant, "principal_key_registered", &record);
        match self.ledger.register_principal(key.clone(), told).await {
            Ok(_) => view(&key),
            Err(ledger::Error::Exists(_)) => {
                Err(Error::new(Code::StateConflict, "the principal has this key, or had it").field("/jwk"))
            }
            Err(other) => Err(unavailable(other)),
        }
    }

    /// The tenant's keys of principals, oldest first, those that ended included.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn principals(&self, caller: &Caller) -> Result<Vec<PrincipalKeyView>, Error> {
        caller.must(Deed::ReadTenant)?;
        let all = self.ledger.principals().await.map_err(unavailable)?;
        all.iter().filter(|key| key.tenant == caller.tenant).map(view).collect()
    }

    /// Ends a key: nothing signed with it is a mandate any more, nor what descends from that.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if the principal has no key of this name.
    pub async fn revoke_principal(
        &self,
        caller: &Caller,
        issuer: &str,
        kid: &str,
        reason: Option<String>,
    ) -> Result<PrincipalKeyView, Error> {
        caller.must(Deed::Govern)?;
        let tenant = self.tenant(&caller.tenant)?;
        let record = json!({
            "by": caller.subject.as_str(), "issuer": issuer, "kid": kid, "reason": reason,
            "tenant": caller.tenant.as_str(),
        });
        let told = event(tenant, "principal_key_revoked", &record);
        match self.ledger.revoke_principal(&caller.tenant, issuer, kid, told).await {
            Ok(_) => {}
            Err(ledger::Error::Absent(_)) => {
                return Err(not_found("key of this principal, or it has ended").field("/kid"));
            }
            Err(other) => return Err(unavailable(other)),
        }
        let all = self.ledger.principals().await.map_err(unavailable)?;
        let ended =
            all.iter().find(|it| it.tenant == caller.tenant && *it.issuer == *issuer && *it.kid == *kid);
        ended.map_or_else(|| Err(not_found("key of this principal")), view)
    }
}

fn view(key: &ledger::PrincipalKey) -> Result<PrincipalKeyView, Error> {
    let read =
        VerifyingKey::from_jwk(&key.jwk).map_err(|_| crate::row::internal("a stored key is not one"))?;
    Ok(PrincipalKeyView {
        issuer: key.issuer.to_string(),
        kid: key.kid.to_string(),
        algorithm: read.algorithm().as_str().to_owned(),
        jwk: key.jwk.to_string(),
        created_by: key.created_by.to_string(),
        created_at: clock::text(key.created_ms),
        revoked_at: key.revoked_ms.map(clock::text),
    })
}

/// By which an entry names the bytes of a key.
pub(crate) fn jwk_hash(key: &ledger::PrincipalKey) -> String {
    hex::encode(Sha256::digest(key.jwk.as_bytes()))
}
