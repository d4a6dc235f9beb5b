//! Events: what somebody outside tells of a session or a mandate, signed.
//!
//! A transmitter that the operator registered says that a session is revoked (CAEP), or a mandate with all that descend from
//! it. What it said is on record before anything is done about it, and is the cause of what is done. It is taken once: the
//! very same is answered as before and finishes what may have been left undone, and something else under the same name is
//! refused.

use std::path::Path;
use std::sync::Arc;

use action::Tenant;
use ledger::{Heard, SecurityEvent};
use mandate::{PublicKey, Signal, SignalRefusal, SignalSubject};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::admin::event;
use crate::config::{self, Config};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::sessions::{Cause, EXTERNAL};
use crate::{Error, clock};

/// Somebody who may tell of revocations.
pub(crate) struct Transmitter {
    issuer: String,
    tenant: Tenant,
    keys: Vec<PublicKey>,
}

/// Why an event is not taken, as its transmitter is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRefusal {
    /// The code of RFC 8935.
    pub code: &'static str,
    /// The same for people.
    pub description: String,
}

impl Transmitter {
    /// Reads everything under `[[transmitters]]`.
    pub(crate) fn all(config: &Config, tenants: &[Tenant]) -> Result<Vec<Transmitter>, String> {
        let read = |one: &config::Transmitter| {
            Transmitter::read(one, config, tenants)
                .map_err(|why| format!("`transmitters`: `{}`: {why}", one.issuer))
        };
        let all: Vec<Transmitter> = config.transmitters.iter().map(read).collect::<Result<_, _>>()?;
        let twice = |(n, one): &(usize, &Transmitter)| all[..*n].iter().any(|it| it.issuer == one.issuer);
        match all.iter().enumerate().find(twice) {
            Some((_, one)) => Err(format!("`transmitters`: `{}` stands twice", one.issuer)),
            None => Ok(all),
        }
    }

    fn read(one: &config::Transmitter, config: &Config, served: &[Tenant]) -> Result<Transmitter, String> {
        let name = one.tenant.as_ref().or(config.tenants.first()).map_or("", String::as_str);
        let tenant = served.iter().find(|tenant| tenant.as_str() == name);
        let tenant = tenant.ok_or_else(|| format!("`tenant`: `{name}` is not among the `tenants` served"))?;
        let keys = keys(&one.keys).map_err(|why| format!("`keys`: `{}`: {why}", one.keys.display()))?;
        Ok(Transmitter { issuer: one.issuer.clone(), tenant: tenant.clone(), keys })
    }
}

fn keys(path: &Path) -> Result<Vec<PublicKey>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    mandate::signal_keys(&text)
}

impl Gateway {
    /// Takes a security event token. Once this has returned well, what it revokes is revoked.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if it has to be sent again. Inside: why it is not taken.
    pub async fn hear_event(self: &Arc<Self>, token: &[u8]) -> Result<Result<(), EventRefusal>, Error> {
        let (signal, tenant) = match self.signalled(token) {
            Ok(signalled) => signalled,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let hash = Sha256::digest(token).into();
        let gateway = Arc::clone(self);
        // In a task of its own: who hangs up has said it all the same.
        let task = tokio::spawn(async move { gateway.act_on(&tenant, &signal, hash).await });
        task.await.unwrap_or_else(|_| Err(internal("an event ended without a word")))
    }

    fn signalled(&self, token: &[u8]) -> Result<(Signal, Tenant), SignalRefusal> {
        let token = std::str::from_utf8(token)
            .map_err(|_| SignalRefusal::InvalidRequest("the body is no token".to_owned()))?;
        let mut from = None;
        let keys = |issuer: &str| {
            from = self.transmitters.iter().find(|it| it.issuer == issuer);
            from.map(|it| it.keys.as_slice())
        };
        let signal = mandate::hear(token, keys, &self.issuer, clock::now_ms() / 1000)?;
        let from = from.ok_or(SignalRefusal::InvalidIssuer)?;
        Ok((signal, from.tenant.clone()))
    }

    async fn act_on(
        &self,
        tenant: &Tenant,
        signal: &Signal,
        hash: [u8; 32],
    ) -> Result<Result<(), EventRefusal>, Error> {
        if let Some(missing) = self.missing(tenant, &signal.subject).await? {
            return Ok(Err(refused(missing)));
        }
        let heard = SecurityEvent {
            tenant: tenant.clone(),
            issuer: signal.issuer.as_str().into(),
            jti: signal.jti.as_str().into(),
            hash,
        };
        let told = event(self.tenant(tenant)?, HEARD, &record(signal, hash));
        let record = match self.ledger.hear(heard, told).await.map_err(unavailable)? {
            Heard::New(record) | Heard::Again(record) => record,
            Heard::Taken => return Ok(Err(refused("`jti` was used for another event"))),
        };
        let cause = Cause { record: Some(record), ..Cause::of(EXTERNAL, &signal.issuer, None) };
        match &signal.subject {
            SignalSubject::Session(id) => self.revoke_one(tenant, id, &cause).await?,
            SignalSubject::Mandate { jti, .. } => {
                self.revoke_tree(tenant, jti, &cause).await?;
            }
        }
        Ok(Ok(()))
    }

    /// Why there is nothing here that the event could be about: a misspelled name must not be acknowledged as revoked.
    async fn missing(&self, tenant: &Tenant, subject: &SignalSubject) -> Result<Option<&'static str>, Error> {
        Ok(match subject {
            SignalSubject::Session(id) => {
                let found = self.ledger.session(tenant, id).await.map_err(unavailable)?;
                found.is_none().then_some("`id` names no session here")
            }
            SignalSubject::Mandate { iss, jti } => {
                let found = self.ledger.mandate(tenant, jti).await.map_err(unavailable)?;
                let same = found.is_some_and(|held| *held.mandate.issuer == **iss);
                (!same).then_some("`iss` and `jti` name no mandate here")
            }
        })
    }
}

/// What is kept of an event: who said what of what, and no words of theirs.
fn record(signal: &Signal, hash: [u8; 32]) -> serde_json::Value {
    let subject = match &signal.subject {
        SignalSubject::Session(id) => json!({"sessionId": id}),
        SignalSubject::Mandate { iss, jti } => json!({"mandateId": jti, "principal": iss}),
    };
    json!({
        "by": &signal.issuer, "event": "session-revoked", "issuedAt": signal.issued_at, "jti": &signal.jti,
        "kid": &signal.kid, "subject": subject, "tokenHash": hex::encode(hash),
    })
}

fn refused(what: &str) -> EventRefusal {
    SignalRefusal::InvalidRequest(what.to_owned()).into()
}

impl From<SignalRefusal> for EventRefusal {
    fn from(refusal: SignalRefusal) -> EventRefusal {
        EventRefusal { code: refusal.code(), description: refusal.description() }
    }
}

const HEARD: &str = "security_event";
