//! Principals: the keys with which people sign mandates themselves, and agents what they hand on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use action::{Subject, Tenant};
use mandate::{Refusal, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{event, legible};
use crate::approvals::readable_as;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::views::not_found;
use crate::{Code, Error, clock};

/// What a key signs. It is kept as a member of the public JWK, so that the hash on record covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signs {
    /// Mandates that its principal gives, and what that hands on.
    Mandates,
    /// Only what an agent hands on of the mandates that it holds.
    Children,
}

impl Signs {
    /// Each there is.
    pub const ALL: [Signs; 2] = [Signs::Mandates, Signs::Children];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Signs::Mandates => "mandates",
            Signs::Children => "children",
        }
    }

    /// The one that is written so.
    pub fn parse(text: &str) -> Option<Signs> {
        Signs::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// As a stored key says it; `None` where it was registered before that was said. What is not understood signs the least.
    pub(crate) fn kept(jwk: &str) -> Option<Signs> {
        let jwk: Value = serde_json::from_str(jwk).unwrap_or_default();
        let signs = jwk.get(SIGNS)?;
        Some(signs.as_str().and_then(Signs::parse).unwrap_or(Signs::Children))
    }

    /// The public JWK with it.
    fn keep(self, key: &VerifyingKey) -> Result<Box<str>, Error> {
        let mut jwk: Value = serde_json::from_str(key.jwk()).map_err(|_| internal("a JWK is no JSON"))?;
        jwk[SIGNS] = self.as_str().into();
        Ok(action::json::canonical(&jwk).into())
    }
}

const SIGNS: &str = "signs";

/// A key of a principal, or of an agent who hands on.
#[derive(Clone, Debug)]
pub struct PrincipalKeyView {
    /// Whose: `iss` of what it signs.
    pub issuer: String,
    /// What it signs.
    pub signs: Signs,
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
    /// Registers a key: what is signed with it, as far as it may, is a mandate here from now on.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` naming what is wrong, `EP_STATE_CONFLICT` if the principal has the key, or had it, or is an
    /// agent and would give mandates.
    pub async fn register_principal(
        &self,
        caller: &Caller,
        issuer: &str,
        jwk: &str,
        signs: Signs,
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
        let by_token = self.token_issuers.iter().any(|it| it.names_agent(&caller.tenant, &issuer));
        if signs == Signs::Mandates && (by_token || self.agents(&caller.tenant).await?.contains(&issuer)) {
            return Err(Error::new(
                Code::StateConflict,
                format!("`{issuer}` is an agent: it hands on what it holds, and gives no mandates"),
            )
            .field("/signs")
            .hint("send `\"signs\": \"children\"` (`--signs children`), or register the principal under a name of their own"));
        }
        let key = ledger::PrincipalKey {
            tenant: caller.tenant.clone(),
            issuer: issuer.as_str().into(),
            kid: key.kid().into(),
            jwk: signs.keep(&key)?,
            created_ms: clock::now_ms(),
            created_by: caller.subject.as_str().into(),
            revoked_ms: None,
        };
        let record = json!({
            "by": caller.subject.as_str(), "issuer": &*key.issuer, "jwkHash": jwk_hash(&key), "kid": &*key.kid,
            "signs": signs.as_str(), "tenant": caller.tenant.as_str(),
        });
        let told = event(tenant, "principal_key_registered", &record);
        match self.ledger.register_principal(key.clone(), told).await {
            Ok(_) => self.key_of(&key),
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
        let own = all.iter().filter(|key| key.tenant == caller.tenant);
        Ok(legible(own, "key of a principal", |key| &key.kid, |key| self.key_of(key)))
    }

    /// Ends a key: nothing signed with it is a mandate any more, nor what descends from that.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if the principal has no key of this name, `EP_VALIDATION_FAILED` for a reason that is not one honest line.
    pub async fn revoke_principal(
        &self,
        caller: &Caller,
        issuer: &str,
        kid: &str,
        reason: Option<String>,
    ) -> Result<PrincipalKeyView, Error> {
        caller.must(Deed::Govern)?;
        let reason = readable_as("reason", reason)?;
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
        ended.map_or_else(|| Err(not_found("key of this principal")), |key| self.key_of(key))
    }

    /// Looks for keys that were registered before it was said what they sign. An agent's sign only what it hands on: it is
    /// in doubt whether more was meant.
    pub(crate) async fn doubt_keys(&self) -> Result<(), Error> {
        let all = self.ledger.principals().await.map_err(unavailable)?;
        let mut agents = HashMap::new();
        for key in all.iter().filter(|key| key.revoked_ms.is_none() && Signs::kept(&key.jwk).is_none()) {
            let agents = match agents.entry(&key.tenant) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(self.agents(&key.tenant).await?),
            };
            if Subject::kept(&key.issuer).map_or(true, |issuer| agents.contains(&issuer)) {
                self.authority.doubt(key);
                tracing::warn!(
                    tenant = %key.tenant, issuer = &*key.issuer, kid = &*key.kid,
                    "it was never said what this key of an agent signs, so it signs what the agent hands on and gives no \
                     mandates: register a principal's key under another name"
                );
            }
        }
        Ok(())
    }

    fn key_of(&self, key: &ledger::PrincipalKey) -> Result<PrincipalKeyView, Error> {
        let read = VerifyingKey::from_jwk(&key.jwk).map_err(|_| internal("a stored key is not one"))?;
        Ok(PrincipalKeyView {
            issuer: key.issuer.to_string(),
            signs: self.authority.signs(key),
            kid: key.kid.to_string(),
            algorithm: read.algorithm().as_str().to_owned(),
            jwk: read.jwk().to_owned(),
            created_by: key.created_by.to_string(),
            created_at: clock::text(key.created_ms),
            revoked_at: key.revoked_ms.map(clock::text),
        })
    }

    /// Lets through who gives no mandates: nobody is principal and agent at once.
    pub(super) async fn must_be_no_principal(&self, tenant: &Tenant, name: &Subject) -> Result<(), Error> {
        if !self.gives_mandates(tenant, name.as_str()).await? {
            return Ok(());
        }
        Err(given_to(name).hint("take another name for the agent, or end the principal's keys first"))
    }
}

/// Why nothing is given to a principal.
pub(super) fn given_to(principal: &Subject) -> Error {
    let why = Refusal::GivenToPrincipal { subject: principal.to_string() };
    Error::new(Code::StateConflict, why.to_string())
        .field("/subject")
        .hint("give it to another agent, or let another person give it")
}

/// By which an entry names the bytes of a key.
pub(crate) fn jwk_hash(key: &ledger::PrincipalKey) -> String {
    hex::encode(Sha256::digest(key.jwk.as_bytes()))
}
