//! The keys that sign receipts: listed, rotated, marked as compromised.

use receipt::{Jwk, Timestamp};
use serde_json::json;

use super::event;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::keys::Refused;
use crate::log::COMPROMISED;
use crate::remember::unavailable;
use crate::views::not_found;
use crate::{Code, Error, clock};

/// A key that signs or signed receipts.
#[derive(Clone, Debug)]
pub struct SigningKeyView {
    /// Its thumbprint.
    pub kid: String,
    /// `active`, `verify-only` or `compromised`.
    pub status: String,
    /// RFC 3339.
    pub active_from: String,
    /// RFC 3339.
    pub active_through: Option<String>,
    /// RFC 3339.
    pub compromised_at: Option<String>,
}

impl Gateway {
    /// The keys that sign receipts, oldest first.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn signing_keys(&self, caller: &Caller) -> Result<Vec<SigningKeyView>, Error> {
        caller.must(Deed::ReadTenant)?;
        Ok(self.keys.jwks().keys().iter().map(signing_key_view).collect())
    }

    /// Puts a new signing key in the place of the active one. What the old one signed stays valid.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for another tenant than the first, since all of them sign with it; `EP_STATE_CONFLICT` while other gateways are
    /// on the same store: what they sign with the old one from then on would be valid for nobody; `EP_UNAVAILABLE` if the files or the
    /// store cannot be written, which is no reason not to say it again.
    pub async fn rotate_signing_key(&self, caller: &Caller) -> Result<SigningKeyView, Error> {
        self.must_run_the_house(caller)?;
        let tenant = self.tenant(&caller.tenant)?;
        if self.ledger.others().await.map_err(unavailable)? > 0 {
            let why = "other gateways on this store would go on signing with the key before";
            let hint = "stop them, rotate here, copy this folder of keys to theirs, and start them";
            return Err(Error::new(Code::StateConflict, why).hint(hint));
        }
        let kid = self.keys.rotate(clock::now).map_err(files)?;
        // Who was not seen, because it is paused or cut off, comes back to a store on which its key counts no more.
        for key in self.keys.jwks().keys().iter().filter(|key| key.kid() != kid) {
            self.ledger.bar(key.kid()).await.map_err(unavailable)?;
        }
        let record = json!({ "by": caller.subject.as_str(), "kid": &kid });
        self.ledger.record(event(tenant, "signing_key_rotated", &record)).await.map_err(unavailable)?;
        self.signing_key(&kid)
    }

    /// Says that others may hold a key since `at`: what it signed later is quarantined.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if there is no such key, `EP_VALIDATION_FAILED` if the time is none or has not come yet.
    pub async fn compromise_signing_key(
        &self,
        caller: &Caller,
        kid: &str,
        at: String,
    ) -> Result<SigningKeyView, Error> {
        self.must_run_the_house(caller)?;
        let tenant = self.tenant(&caller.tenant)?;
        let wrong = |why: &str| Error::new(Code::ValidationFailed, why.to_owned()).field("/at");
        let at_ms = clock::parse_ms(&at).map_err(|why| wrong(&format!("`at` {why}")))?;
        let refused = |refused| match refused {
            Refused::Unknown => not_found("signing key"),
            Refused::Future => wrong("`at` lies in the future"),
            Refused::Files(why) => files(why),
        };
        let since = clock::timestamp(at_ms);
        self.keys.may_be_compromised(kid, since, clock::now()).map_err(refused)?;
        // On record before it has its effect: if that fails it is said once more, but what is not on record no log tells of. Whoever
        // gets a proof is shown this record, so who said it stands in another.
        let compromised = event(tenant, COMPROMISED, &json!({ "at": &at, "kid": kid }));
        let record = compromised.record.clone();
        let entry = self.ledger.record(compromised).await.map_err(unavailable)?;
        self.logs.told_of_compromise(entry, record);
        let successor = self.keys.compromise(kid, since, clock::now).map_err(refused)?;
        let record = json!({ "by": caller.subject.as_str(), "kid": kid, "successor": successor });
        self.ledger.record(event(tenant, "signing_key_reported", &record)).await.map_err(unavailable)?;
        self.signing_key(kid)
    }

    fn signing_key(&self, kid: &str) -> Result<SigningKeyView, Error> {
        self.keys.jwks().key(kid).map(signing_key_view).ok_or_else(|| not_found("signing key"))
    }
}

fn signing_key_view(jwk: &Jwk) -> SigningKeyView {
    let text = |at: Timestamp| at.as_str().to_owned();
    SigningKeyView {
        kid: jwk.kid().to_owned(),
        status: jwk.status().as_str().to_owned(),
        active_from: text(jwk.active_from()),
        active_through: jwk.active_through().map(text),
        compromised_at: jwk.compromised_at().map(text),
    }
}

fn files(why: String) -> Error {
    tracing::error!(%why, "key files could not be written");
    Error::new(Code::Unavailable, "the key files could not be written")
}
