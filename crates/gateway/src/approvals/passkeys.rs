//! Passkeys: registered by the person who holds one, enrolled by an admin who says so, ended by either.
//!
//! ```text
//!   registered ─▶ enrolled ─▶ revoked
//! ```
//!
//! Only an enrolled one counts. The admin compares the passkey's id, which is a digest of its key, with what the person
//! reads out, so neither can put a key in the other's name alone. Both deeds are entries of the ledger, and all that is
//! believed about a passkey is read from their records. Production keeps those of both environments, as it does API keys.

use action::{Subject, Tenant};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ledger::{PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED};
use receipt::approval::{Approver, Approvers, Assertion, Enrolment, RelyingParty};
use receipt::{Json, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::admin::{event, named};
use crate::caller::{Caller, Deed, Role};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::{Code, Error, clock};

/// Passkeys of one person that have not ended.
const MOST: usize = 16;
const LOGIN: &str = "login";

/// A passkey as people see it.
#[derive(Clone, Debug)]
pub struct PasskeyView {
    /// A digest of credential and key, short enough to be read out.
    pub id: String,
    /// Who registered it, and so whose it is said to be.
    pub approver: String,
    /// `registered`, `enrolled` or `revoked`.
    pub state: &'static str,
    /// RFC 3339.
    pub registered_at: String,
    /// The admin who says that it is that person's.
    pub enrolled_by: Option<String>,
    /// RFC 3339.
    pub enrolled_at: Option<String>,
    /// Who ended it.
    pub revoked_by: Option<String>,
    /// RFC 3339.
    pub revoked_at: Option<String>,
}

/// What a browser is asked to make a passkey of.
#[derive(Clone, Debug)]
pub struct Creation {
    /// What the new credential has to answer.
    pub challenge: Vec<u8>,
    /// The domain that it is for.
    pub rp_id: String,
    /// Whom it is for; browsers show the name.
    pub approver: String,
    /// The same in bytes that tell nothing: a new passkey takes the place of none but this person's.
    pub user_handle: Vec<u8>,
    /// Credentials that this person has already.
    pub known: Vec<Vec<u8>>,
}

/// What a browser is asked to log in by.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// What a credential has to sign.
    pub challenge: Vec<u8>,
    /// The domain that it is for.
    pub rp_id: String,
}

/// What somebody logged in with; looked at anew with each request, since it may have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// SHA-256 of an API key.
    Key([u8; 32]),
    /// The id of a passkey's credential.
    Passkey(Vec<u8>),
}

/// A passkey, read from its records.
#[derive(Clone, Debug)]
pub(crate) struct Passkey {
    pub id: Box<str>,
    pub tenant: Tenant,
    pub holder: Approver,
    registered: Recorded,
    enrolled: Option<Marked>,
    revoked: Option<Marked>,
}

/// What is recorded of a registration; members in JCS order. A format that outlives a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Recorded {
    approver: String,
    /// RFC 3339.
    at: String,
    /// Base64url.
    credential_id: String,
    id: String,
    /// The API key or passkey that was logged in with.
    key_id: String,
    origins: Vec<String>,
    public_key: Point,
    rp_id: String,
    tenant: String,
}

/// A P-256 point, as in a JWK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    x: String,
    y: String,
}

/// What is recorded of an enrolment, and of an end. An enrolment says all of it again, so that one entry tells whose
/// credential it is, on whose word.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Marked {
    at: String,
    by: String,
    /// Which passkey.
    id: String,
}

impl Gateway {
    /// The site on which people sign, if its name is one that passkeys can be made for: addresses have none, except that
    /// this machine is `localhost` to itself.
    pub fn relying_party(&self) -> Option<RelyingParty> {
        let mut url = url::Url::parse(&self.public_url).ok()?;
        let near = match url.host()? {
            url::Host::Domain(_) => false,
            url::Host::Ipv4(ip) if ip.is_loopback() => true,
            url::Host::Ipv6(ip) if ip.is_loopback() => true,
            url::Host::Ipv4(_) | url::Host::Ipv6(_) => return None,
        };
        if near {
            url.set_host(Some("localhost")).ok()?;
        }
        Some(RelyingParty {
            id: url.host_str()?.to_owned(),
            origins: vec![url.origin().ascii_serialization()],
        })
    }

    /// Begins the registration of a passkey.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for all but approvers, and where no passkeys can be.
    pub async fn begin_passkey(&self, caller: &Caller) -> Result<Creation, Error> {
        caller.must(Deed::Approve)?;
        let party = self.party()?;
        let tenant = self.tenant(&caller.tenant)?;
        let mine = self.passkeys_of(&caller.tenant).await?;
        let mine = mine.into_iter().filter(|it| it.is_of(&caller.subject) && it.revoked.is_none());
        Ok(Creation {
            challenge: self.challenges.give(&registering(caller))?,
            rp_id: party.id,
            approver: caller.subject.to_string(),
            user_handle: tenant
                .hmac
                .sign_parts(&[b"countersign/user-handle/1", caller.subject.as_str().as_bytes()])
                .to_vec(),
            known: mine.map(|it| it.holder.credential_id).collect(),
        })
    }

    /// Takes what a browser made of [`Gateway::begin_passkey`]. The passkey counts once an admin has enrolled it.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` saying what is wrong with it, `EP_STATE_CONFLICT` if the question has lapsed or the person
    /// has too many.
    pub async fn register_passkey(
        &self,
        caller: &Caller,
        enrolment: &Enrolment,
    ) -> Result<PasskeyView, Error> {
        caller.must(Deed::Approve)?;
        let party = self.party()?;
        let tenant = self.tenant(&caller.tenant)?;
        let given = self.challenges.given(&registering(caller), &enrolment.client_data_json)?;
        let challenge = self.challenges.answered(given)?;
        let credential = enrolment.verify(&challenge, &party).map_err(refused)?;
        let mine = self.passkeys_of(&caller.tenant).await?;
        if mine.iter().filter(|it| it.is_of(&caller.subject) && it.revoked.is_none()).count() >= MOST {
            let why = format!("a person has at most {MOST} passkeys; revoke one first");
            return Err(Error::new(Code::StateConflict, why));
        }
        let recorded = Recorded {
            approver: caller.subject.to_string(),
            at: clock::text(clock::now_ms()),
            id: public_id(&credential.id, &credential.public_key),
            credential_id: BASE64_URL_SAFE_NO_PAD.encode(&credential.id),
            key_id: caller.key_id.clone(),
            origins: party.origins,
            public_key: Point {
                x: credential.public_key.x().to_owned(),
                y: credential.public_key.y().to_owned(),
            },
            rp_id: party.id,
            tenant: caller.tenant.to_string(),
        };
        let event = event(tenant, PASSKEY_REGISTERED, &written(&recorded)?);
        let id = recorded.id.clone();
        self.ledger
            .register_passkey(&caller.tenant, &id, &credential.id, event)
            .await
            .map_err(|error| named(error, "passkey"))?;
        self.passkey_view(&caller.tenant, &id).await
    }

    /// Says that a registered passkey is its person's; from then on it counts.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for all but admins, and for whoever registered it.
    pub async fn enrol_passkey(&self, caller: &Caller, id: &str) -> Result<PasskeyView, Error> {
        caller.must(Deed::Administer)?;
        let tenant = self.tenant(&caller.tenant)?;
        let passkey = self.passkey_named(&caller.tenant, id).await?;
        if passkey.is_of(&caller.subject) {
            let why = "whoever registered a passkey does not say whose it is";
            return Err(Error::new(Code::Forbidden, why).hint("let another admin enrol it"));
        }
        let mut record = written(&passkey.registered)?;
        record["at"] = clock::text(clock::now_ms()).into();
        record["by"] = caller.subject.as_str().into();
        let event = event(tenant, PASSKEY_ENROLLED, &record);
        self.ledger.enrol_passkey(&caller.tenant, id, event).await.map_err(ended)?;
        self.passkey_view(&caller.tenant, id).await
    }

    /// Ends a passkey: nothing that is still to be carried out counts on it, and nobody logs in with it.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for all but admins and whose it is.
    pub async fn revoke_passkey(&self, caller: &Caller, id: &str) -> Result<PasskeyView, Error> {
        let tenant = self.tenant(&caller.tenant)?;
        let passkey = self.passkey_named(&caller.tenant, id).await?;
        if !(caller.role.may(Deed::Approve) && passkey.is_of(&caller.subject)) {
            caller.must(Deed::Administer)?;
        }
        let record = json!({ "at": clock::text(clock::now_ms()), "by": caller.subject.as_str(), "id": id });
        let event = event(tenant, PASSKEY_REVOKED, &record);
        self.ledger.revoke_passkey(&caller.tenant, id, event).await.map_err(ended)?;
        self.unproven.end(id);
        self.passkey_view(&caller.tenant, id).await
    }

    /// The tenant's passkeys, oldest first, those that have ended included.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn passkeys(&self, caller: &Caller) -> Result<Vec<PasskeyView>, Error> {
        caller.must(Deed::ReadTenant)?;
        Ok(self.passkeys_of(&caller.tenant).await?.iter().map(Passkey::view).collect())
    }

    /// The approvers file of the tenant as this gateway knows it: what `countersign verify --approvers` reads. Whoever
    /// does not want to believe the gateway compares it with what the people say.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn approvers(&self, caller: &Caller) -> Result<Json, Error> {
        caller.must(Deed::ReadTenant)?;
        let enrolled = self.passkeys_of(&caller.tenant).await?.into_iter().filter(Passkey::counted_once);
        let approvers = Approvers::new(enrolled.map(|it| it.holder).collect());
        approvers.and_then(|it| it.to_json()).map_err(|_| internal("the approvers cannot be written"))
    }

    /// Begins a login by passkey.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` where no passkeys can be.
    pub fn greet(&self) -> Result<Greeting, Error> {
        Ok(Greeting { challenge: self.challenges.give(LOGIN)?, rp_id: self.party()?.id })
    }

    /// Who answered a greeting.
    ///
    /// # Errors
    /// `EP_UNAUTHENTICATED` if it is nobody we know.
    pub async fn log_in(&self, assertion: &Assertion) -> Result<(Credential, Caller), Error> {
        let unknown = || Error::new(Code::Unauthenticated, "this passkey is not enrolled here");
        let given = self.challenges.given(LOGIN, &assertion.client_data_json)?;
        let credential = Credential::Passkey(assertion.credential_id.clone());
        let passkey = self.passkey_of(&assertion.credential_id).await?.ok_or_else(unknown)?;
        let signed = assertion.verify(&given.challenge, &passkey.holder.party, &passkey.holder.public_key);
        signed.map_err(|refusal| {
            tracing::info!(passkey = &*passkey.id, %refusal, "a login by passkey was refused");
            unknown()
        })?;
        // Not before: anybody can answer.
        self.challenges.answered(given)?;
        let caller = passkey.caller().ok_or_else(unknown)?;
        Ok((credential, caller))
    }

    /// Who logged in with this, as long as it has not ended.
    ///
    /// # Errors
    /// `EP_UNAUTHENTICATED` if it has.
    pub async fn still(&self, credential: &Credential) -> Result<Caller, Error> {
        let over = || Error::new(Code::Unauthenticated, "what was logged in with has ended");
        match credential {
            Credential::Key(hash) => self.caller_of(hash).await?.ok_or_else(over),
            Credential::Passkey(id) => self.passkey_of(id).await?.and_then(|it| it.caller()).ok_or_else(over),
        }
    }

    /// The passkeys of a tenant that are as their entries have them.
    pub(crate) async fn passkeys_of(&self, tenant: &Tenant) -> Result<Vec<Passkey>, Error> {
        let stored = self.ledger.passkeys(tenant).await.map_err(unavailable)?;
        Ok(stored.iter().filter_map(|stored| self.proven(stored)).collect())
    }

    /// The passkey with this credential, whoever's it is.
    pub(crate) async fn passkey_of(&self, credential_id: &[u8]) -> Result<Option<Passkey>, Error> {
        let stored = self.ledger.passkey(credential_id).await.map_err(unavailable)?;
        Ok(stored.and_then(|stored| self.proven(&stored)))
    }

    /// Reads a passkey, unless somebody altered it: then it decides nothing, and keeps nobody from the others.
    fn proven(&self, stored: &ledger::Passkey) -> Option<Passkey> {
        let read =
            Passkey::read_from(stored).filter(|it| it.revoked.is_some() || !self.unproven.has_ended(&it.id));
        if read.is_none() {
            tracing::error!(
                passkey = &*stored.id,
                "a stored passkey is not as its entries have it, and counts for nothing"
            );
        }
        read
    }

    async fn passkey_named(&self, tenant: &Tenant, id: &str) -> Result<Passkey, Error> {
        let found = self.passkeys_of(tenant).await?.into_iter().find(|it| *it.id == *id);
        found.ok_or_else(|| crate::views::not_found("passkey"))
    }

    async fn passkey_view(&self, tenant: &Tenant, id: &str) -> Result<PasskeyView, Error> {
        Ok(self.passkey_named(tenant, id).await?.view())
    }

    pub(crate) fn party(&self) -> Result<RelyingParty, Error> {
        self.relying_party().ok_or_else(|| {
            Error::new(Code::Forbidden, "passkeys are for names, and the public URL has a bare address")
                .hint("set `public_url` to a name")
        })
    }
}

impl Passkey {
    /// Reads it from the records, which have to agree with the row that names them and with each other.
    pub(crate) fn read_from(stored: &ledger::Passkey) -> Option<Passkey> {
        let registered: Recorded = serde_json::from_slice(&stored.registered).ok()?;
        let marked = |record: &Option<Vec<u8>>| match record {
            None => Some(None),
            Some(record) => {
                let marked = serde_json::from_slice::<Marked>(record).ok();
                marked.filter(|it| it.id == registered.id).map(Some)
            }
        };
        if let Some(record) = &stored.enrolled {
            let mut again: serde_json::Value = serde_json::from_slice(record).ok()?;
            again.as_object_mut()?.remove("by");
            again["at"] = registered.at.as_str().into();
            if again != serde_json::to_value(&registered).ok()? {
                return None;
            }
        }
        let credential_id = BASE64_URL_SAFE_NO_PAD.decode(&registered.credential_id).ok()?;
        let public_key =
            VerifyingKey::from_coordinates(&registered.public_key.x, &registered.public_key.y).ok()?;
        let named = (&*registered.id, &*registered.tenant, &credential_id)
            == (&*stored.id, stored.tenant.as_str(), &stored.credential_id);
        if !named || registered.id != public_id(&credential_id, &public_key) {
            return None;
        }
        let (enrolled, revoked) = (marked(&stored.enrolled)?, marked(&stored.revoked)?);
        let party = RelyingParty { id: registered.rp_id.clone(), origins: registered.origins.clone() };
        Some(Passkey {
            id: stored.id.clone(),
            tenant: stored.tenant.clone(),
            holder: Approver { name: registered.approver.clone(), credential_id, public_key, party },
            enrolled,
            revoked,
            registered,
        })
    }

    /// Does its signature count?
    pub(crate) fn counts(&self) -> bool {
        self.enrolled.is_some() && self.revoked.is_none()
    }

    /// Did it ever? Then receipts may name it.
    fn counted_once(&self) -> bool {
        self.enrolled.is_some()
    }

    pub(crate) fn is_of(&self, subject: &Subject) -> bool {
        self.holder.name == subject.as_str()
    }

    fn caller(&self) -> Option<Caller> {
        let subject = Subject::parse(&self.holder.name).ok()?;
        self.counts().then(|| Caller {
            tenant: self.tenant.clone(),
            subject,
            role: Role::Approver,
            key_id: self.id.to_string(),
            key_issuer: self.enrolled.as_ref().map(|it| it.by.clone()),
            default_mandate: None,
        })
    }

    fn view(&self) -> PasskeyView {
        let marked = |mark: &Option<Marked>| mark.clone().map(|it| (it.by, it.at)).unzip();
        let (enrolled_by, enrolled_at) = marked(&self.enrolled);
        let (revoked_by, revoked_at) = marked(&self.revoked);
        PasskeyView {
            id: self.id.to_string(),
            approver: self.holder.name.clone(),
            state: match (&enrolled_at, &revoked_at) {
                (_, Some(_)) => "revoked",
                (Some(_), None) => "enrolled",
                (None, None) => "registered",
            },
            registered_at: self.registered.at.clone(),
            enrolled_by,
            enrolled_at,
            revoked_by,
            revoked_at,
        }
    }
}

/// What a passkey is called: `pk_` and 20 characters of a digest over credential and key, so that nobody can make
/// another one of that name.
fn public_id(credential_id: &[u8], key: &VerifyingKey) -> String {
    let digest = Sha256::new()
        .chain_update("countersign/passkey/1")
        .chain_update(key.x())
        .chain_update(key.y())
        .chain_update(credential_id)
        .finalize();
    format!("pk_{}", &hex::encode(digest)[..20])
}

fn registering(caller: &Caller) -> String {
    format!("register\n{}\n{}", caller.tenant, caller.subject)
}

fn written(recorded: &Recorded) -> Result<serde_json::Value, Error> {
    serde_json::to_value(recorded).map_err(|_| internal("a passkey cannot be written"))
}

pub(crate) fn refused(refusal: receipt::approval::Refusal) -> Error {
    Error::new(Code::ValidationFailed, refusal.to_string())
}

fn ended(error: ledger::Error) -> Error {
    match error {
        ledger::Error::Absent(_) => {
            Error::new(Code::StateConflict, "the passkey does not wait for this, or has ended")
        }
        other => named(other, "passkey"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Registered, enrolled, revoked.
    const RECORDS: &str = include_str!("../../tests/golden/passkey.json");

    fn stored(change: impl FnOnce(&mut ledger::Passkey)) -> Option<Passkey> {
        let records: Vec<Vec<u8>> = RECORDS.lines().map(|line| line.as_bytes().to_vec()).collect();
        let registered: Recorded = serde_json::from_slice(&records[0]).unwrap();
        let mut stored = ledger::Passkey {
            id: registered.id.as_str().into(),
            tenant: Tenant::default(),
            credential_id: BASE64_URL_SAFE_NO_PAD.decode(&registered.credential_id).unwrap(),
            entry: 2,
            registered: records[0].clone(),
            enrolled: Some(records[1].clone()),
            revoked: None,
        };
        change(&mut stored);
        Passkey::read_from(&stored)
    }

    #[test]
    fn records_of_the_first_form_are_read_and_written_without_a_change() {
        let mut lines = RECORDS.lines();
        let first = lines.next().unwrap();
        let registered: Recorded = serde_json::from_str(first).unwrap();
        assert_eq!(action::json::canonical(&written(&registered).unwrap()), first);
        let passkey = stored(|_| {}).unwrap();
        assert!(passkey.counts() && passkey.is_of(&Subject::parse("alice").unwrap()));
        assert_eq!(passkey.enrolled.unwrap().by, "ada");
        let ended = stored(|stored| stored.revoked = RECORDS.lines().nth(2).map(|it| it.as_bytes().to_vec()));
        assert!(ended.is_some_and(|it| !it.counts() && it.counted_once()));
    }

    #[tokio::test]
    async fn whoever_holds_no_passkey_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let config = crate::Config { data_dir: folder.path().join("data"), ..crate::Config::default() };
        let render = |_: &crate::Outcome, _: &str| crate::Reply { status: 200, body: Vec::new() };
        let installation = crate::Installation::open(config, render).await.unwrap();
        let gateway = &installation.production;
        for _ in 0..3 {
            let challenge = BASE64_URL_SAFE_NO_PAD.encode(gateway.greet().unwrap().challenge);
            let assertion = Assertion {
                credential_id: b"nobody's".to_vec(),
                authenticator_data: Vec::new(),
                client_data_json: json!({ "challenge": challenge }).to_string().into_bytes(),
                signature: Vec::new(),
            };
            assert_eq!(gateway.log_in(&assertion).await.unwrap_err().code, Code::Unauthenticated);
        }
        assert_eq!(gateway.challenges.remembered(), 0);
    }

    #[test]
    fn a_row_that_its_records_do_not_bear_out_is_no_passkey() {
        let forged = |from: &'static str, to: &'static str| {
            move |record: &[u8]| String::from_utf8(record.to_vec()).unwrap().replace(from, to).into_bytes()
        };
        let ben = forged("\"alice\"", "\"ben\"");
        assert!(stored(|it| it.id = "pk_00".into()).is_none());
        assert!(stored(|it| it.tenant = Tenant::parse("other").unwrap()).is_none());
        assert!(stored(|it| it.credential_id.push(0)).is_none());
        assert!(stored(|it| it.registered = ben(&it.registered)).is_none(), "enrolled was somebody else's");
        assert!(stored(|it| it.enrolled = Some(ben(it.enrolled.as_ref().unwrap()))).is_none());
        assert!(stored(|it| it.enrolled = Some(b"{}".to_vec())).is_none());
        let ended = RECORDS.lines().nth(2).unwrap().as_bytes();
        let of_another = forged("pk_2b5d2de48ca031277b13", "pk_2b5d2de48ca031277b14");
        assert!(stored(|it| it.revoked = Some(of_another(ended))).is_none());
    }
}
