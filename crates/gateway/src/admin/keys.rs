//! API keys: made, listed, revoked, and who speaks with one.

use action::{Subject, Tenant};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{event, legible, named};
use crate::approvals::Credential;
use crate::caller::{Caller, Deed, Role};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::tenants::TenantState;
use crate::{Code, Error, clock};

/// What a new API key is to be.
#[derive(Clone, Debug)]
pub struct KeyAsk {
    /// Whose; the caller's own when absent.
    pub tenant: Option<Tenant>,
    /// Whom it speaks for.
    pub subject: Subject,
    /// What it may do.
    pub role: Role,
    /// The mandate used when a request brings none.
    pub default_mandate: Option<String>,
}

/// An API key, without its secret.
#[derive(Clone, Debug)]
pub struct KeyView {
    /// Its public name.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// Whom it speaks for.
    pub subject: String,
    /// What it may do.
    pub role: Role,
    /// The mandate used when a request brings none.
    pub default_mandate: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub revoked_at: Option<String>,
}

/// A new API key. The secret is shown this once.
#[derive(Clone)]
pub struct CreatedKey {
    /// What the caller sends as bearer token.
    pub secret: String,
    /// The key.
    pub key: KeyView,
}

impl Gateway {
    /// Makes an API key.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for another tenant than the caller's, `EP_STATE_CONFLICT` for a name that is somebody else's to give.
    pub async fn create_key(&self, caller: &Caller, ask: KeyAsk) -> Result<CreatedKey, Error> {
        caller.must(Deed::Administer)?;
        if ask.tenant.as_ref().is_some_and(|tenant| *tenant != caller.tenant) {
            return Err(Error::new(Code::Forbidden, "a key can only be made for the caller's own tenant")
                .field("/tenant"));
        }
        let tenant = self.tenant(&caller.tenant)?;
        self.add_key(tenant, ask, caller.subject.as_str()).await
    }

    /// Makes a key without a caller: for the first one, and for the command line while no gateway runs.
    pub(crate) async fn add_key(
        &self,
        tenant: &TenantState,
        ask: KeyAsk,
        by: &str,
    ) -> Result<CreatedKey, Error> {
        if let Some(issuer) = self.issuer_of(&tenant.tenant, &ask.subject) {
            return Err(issuer.keeps(&ask.subject));
        }
        if ask.role == Role::Agent {
            self.must_be_no_principal(&tenant.tenant, &ask.subject).await?;
        }
        let random: [u8; 32] = clock::random()?;
        let secret = format!("{SECRET_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random));
        let hash: [u8; 32] = Sha256::digest(&secret).into();
        let id: [u8; 8] = clock::random()?;
        let key = ledger::ApiKey {
            hash,
            id: format!("key_{}", hex::encode(id)).into(),
            tenant: tenant.tenant.clone(),
            subject: ask.subject,
            role: ask.role.as_str().into(),
            default_mandate: ask.default_mandate.map(Into::into),
            created_ms: clock::now_ms(),
            created_by: Some(by.into()),
            revoked_ms: None,
        };
        let record = json!({
            "by": by, "defaultMandate": &key.default_mandate, "hash": hex::encode(hash), "id": &*key.id,
            "role": &*key.role, "subject": key.subject.as_str(), "tenant": key.tenant.as_str(),
        });
        self.ledger
            .add_key(key.clone(), event(tenant, "key_created", &record))
            .await
            .map_err(|error| named(error, "API key"))?;
        Ok(CreatedKey { secret, key: key_view(&key)? })
    }

    /// The tenant's API keys, the revoked ones included.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever does not administer.
    pub async fn keys(&self, caller: &Caller) -> Result<Vec<KeyView>, Error> {
        caller.must(Deed::Administer)?;
        let keys = self.ledger.keys(&caller.tenant).await.map_err(unavailable)?;
        Ok(legible(&keys, "API key", |key| &key.id, key_view))
    }

    /// Ends an API key.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if the tenant has none of this id.
    pub async fn revoke_key(&self, caller: &Caller, id: &str) -> Result<KeyView, Error> {
        caller.must(Deed::Administer)?;
        let tenant = self.tenant(&caller.tenant)?;
        let record = json!({ "by": caller.subject.as_str(), "id": id });
        self.ledger
            .revoke_key(&caller.tenant, id, event(tenant, "key_revoked", &record))
            .await
            .map_err(|error| named(error, "API key"))?;
        let keys = self.ledger.keys(&caller.tenant).await.map_err(unavailable)?;
        let key = keys.iter().find(|key| *key.id == *id).ok_or_else(|| {
            let why = "the API key has ended, but its stored row is gone or cannot be read";
            Error::new(Code::Unavailable, why).hint("see `countersign audit verify`")
        })?;
        key_view(key)
    }

    /// The caller behind an API key.
    ///
    /// # Errors
    /// `EP_UNAUTHENTICATED` for what is no key, or no longer one.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        let hash: [u8; 32] = Sha256::digest(bearer).into();
        let caller = self.caller_of(&hash).await?;
        caller.ok_or_else(|| Error::new(Code::Unauthenticated, "this is not a valid API key"))
    }

    /// The same for a person who logs in and does not send the key again.
    ///
    /// # Errors
    /// As [`Gateway::authenticate`].
    pub async fn log_in_by_key(&self, key: &str) -> Result<(Credential, Caller), Error> {
        Ok((Credential::Key(Sha256::digest(key).into()), self.authenticate(key).await?))
    }

    /// The caller behind the hash of a key that was not revoked.
    pub(crate) async fn caller_of(&self, hash: &[u8; 32]) -> Result<Option<Caller>, Error> {
        let Some(key) = self.ledger.key(hash).await.map_err(unavailable)? else { return Ok(None) };
        if self.unproven.has_key(hash) {
            return Ok(None);
        }
        if key.subject.is_gateway() {
            let what = "an API key bears the gateway's own name and is refused: revoke it and make one of another name";
            tracing::warn!(key = %key.id, tenant = %key.tenant, subject = %key.subject.as_str(), "{what}");
            return Ok(None);
        }
        Ok(Some(Caller {
            tenant: key.tenant.clone(),
            subject: key.subject.clone(),
            role: Role::parse(&key.role).ok_or_else(|| internal("a stored role is not one"))?,
            key_id: key.id.to_string(),
            key_issuer: key.created_by.as_deref().map(str::to_owned),
            default_mandate: key.default_mandate.as_deref().map(str::to_owned),
        }))
    }
}

fn key_view(key: &ledger::ApiKey) -> Result<KeyView, Error> {
    Ok(KeyView {
        id: key.id.to_string(),
        tenant: key.tenant.to_string(),
        subject: key.subject.to_string(),
        role: Role::parse(&key.role).ok_or_else(|| internal("a stored role is not one"))?,
        default_mandate: key.default_mandate.as_deref().map(str::to_owned),
        created_at: clock::text(key.created_ms),
        revoked_at: key.revoked_ms.map(clock::text),
    })
}

/// Tells our API keys from other secrets at a glance, and lets scanners find them.
const SECRET_PREFIX: &str = "cs_";
