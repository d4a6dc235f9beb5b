//! Mandates: found for a request, issued by an operator, revoked.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use action::{Subject, Tenant};
use mandate::{Algorithm, Claims, Mandate, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::act::lock;
use crate::gateway::Gateway;
use crate::keys::open_private;
use crate::remember::unavailable;
use crate::row::internal;
use crate::{Caller, Error, clock};

/// The keys that sign mandates, one for each tenant, and the mandates understood lately.
pub(crate) struct Authority {
    keys: HashMap<Tenant, SigningKey>,
    /// By SHA-256 of tenant and token. What a token says never changes; whether it is revoked is asked every time.
    verified: Mutex<HashMap<[u8; 32], Arc<Mandate>>>,
}

/// What a remembered mandate is found by; a token must never be taken for an id.
const BY_TOKEN: u8 = 1;
const BY_ID: u8 = 2;
/// Tokens remembered as verified; over it all are forgotten.
const MOST_VERIFIED: usize = 10_000;
/// The token that everybody may use in the sandbox.
pub(crate) const PUBLIC_TOKEN: &str = "tok-sandbox-public";

impl Authority {
    /// Opens or makes a key for each tenant.
    pub(crate) fn open<'a>(
        folder: &Path,
        tenants: impl Iterator<Item = &'a Tenant>,
    ) -> Result<Authority, String> {
        let open = |tenant: &Tenant| {
            let path = folder.join(format!("mandate-{tenant}.pkcs8"));
            let make = || {
                let key = receipt::SigningKey::generate().map_err(|error| error.to_string())?;
                key.to_pkcs8().map_err(|error| error.to_string())
            };
            let document = open_private(&path, make)?;
            let key = SigningKey::from_pkcs8(Algorithm::Es256, &document);
            Ok((tenant.clone(), key.map_err(|error| format!("`{}`: {error}", path.display()))?))
        };
        let keys: Result<_, String> = tenants.map(open).collect();
        Ok(Authority { keys: keys?, verified: Mutex::default() })
    }

    /// The key that signs the mandates of a tenant.
    pub(crate) fn key(&self, tenant: &Tenant) -> Option<&SigningKey> {
        self.keys.get(tenant)
    }

    fn verify(
        &self,
        tenant: &Tenant,
        token: &str,
        audience: &str,
        now_s: i64,
    ) -> Result<Arc<Mandate>, mandate::Refusal> {
        let name: [u8; 32] = Sha256::new()
            .chain_update([BY_TOKEN])
            .chain_update(tenant.as_str())
            .chain_update([0])
            .chain_update(token)
            .finalize()
            .into();
        if let Some(known) = lock(&self.verified).get(&name) {
            return Ok(Arc::clone(known));
        }
        let mandate =
            Arc::new(mandate::verify(token, &Registered { authority: self, tenant }, audience, now_s)?);
        self.remember(name, &mandate);
        Ok(mandate)
    }

    fn remember(&self, name: [u8; 32], mandate: &Arc<Mandate>) {
        let mut verified = lock(&self.verified);
        if verified.len() >= MOST_VERIFIED {
            verified.clear();
        }
        verified.insert(name, Arc::clone(mandate));
    }
}

/// The keys registered for one tenant: for now the one with which it issues here.
struct Registered<'a> {
    authority: &'a Authority,
    tenant: &'a Tenant,
}

impl mandate::KeyLookup for Registered<'_> {
    fn key(&self, _issuer: &str, kid: Option<&str>) -> Option<VerifyingKey> {
        let key = self.authority.key(self.tenant)?.verifying();
        kid.is_none_or(|kid| kid == key.kid()).then(|| key.clone())
    }
}

/// The mandate that a request comes under, or why what it brought is none.
#[derive(Default)]
pub(crate) struct Standing {
    pub mandate: Option<Arc<Mandate>>,
    pub refusal: Option<mandate::Refusal>,
}

impl Gateway {
    /// The mandate of a request: its own token, else the API key's default, else, in the sandbox, the public one.
    pub(crate) async fn standing(&self, caller: &Caller, token: Option<&str>) -> Result<Standing, Error> {
        let found = |mandate| Standing { mandate: Some(mandate), refusal: None };
        let sandbox = self.environment == action::Environment::Sandbox;
        match (token, &caller.default_mandate) {
            (Some(PUBLIC_TOKEN), _) if sandbox => Ok(found(self.public_mandate(&caller.subject)?)),
            (Some(token), _) => {
                let verified =
                    self.authority.verify(&caller.tenant, token, &self.issuer, clock::now_ms() / 1000);
                Ok(match verified {
                    Ok(mandate) => found(mandate),
                    Err(refusal) => Standing { mandate: None, refusal: Some(refusal) },
                })
            }
            (None, Some(jti)) => {
                Ok(self.default_mandate(&caller.tenant, jti).await?.map(found).unwrap_or_default())
            }
            (None, None) if sandbox => Ok(found(self.public_mandate(&caller.subject)?)),
            (None, None) => Ok(Standing::default()),
        }
    }

    async fn default_mandate(&self, tenant: &Tenant, jti: &str) -> Result<Option<Arc<Mandate>>, Error> {
        let name: [u8; 32] = Sha256::new()
            .chain_update([BY_ID])
            .chain_update(tenant.as_str())
            .chain_update([0])
            .chain_update(jti)
            .finalize()
            .into();
        if let Some(known) = lock(&self.authority.verified).get(&name) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(held) = self.ledger.mandate(tenant, jti).await.map_err(unavailable)? else {
            return Ok(None);
        };
        let claims: Claims = serde_json::from_slice(&held.mandate.claims)
            .map_err(|_| internal("a stored mandate cannot be read"))?;
        let mandate = Arc::new(Mandate::of(&claims).map_err(|_| internal("a stored mandate is not one"))?);
        self.authority.remember(name, &mandate);
        Ok(Some(mandate))
    }

    /// The sandbox lets everybody try everything: nothing it does has an effect.
    pub(crate) fn public_mandate(&self, subject: &Subject) -> Result<Arc<Mandate>, Error> {
        let tenants = self.tenants.values();
        let mut scope: Vec<String> = tenants
            .flat_map(|tenant| tenant.rules().catalogue.iter().map(|it| it.name.clone()).collect::<Vec<_>>())
            .collect();
        scope.sort();
        scope.dedup();
        let claims = Claims {
            jti: PUBLIC_TOKEN.to_owned(),
            iss: "sandbox".to_owned(),
            sub: subject.to_string(),
            aud: self.issuer.clone(),
            iat: 0,
            exp: 253_402_300_799,
            mandate_scope: scope,
            ..Claims::default()
        };
        Mandate::of(&claims).map(Arc::new).map_err(|_| internal("the public mandate is not one"))
    }
}
