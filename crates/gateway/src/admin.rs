//! What operators and administrators do: mandates, freezes, keys, rules. Every one of these goes through the running
//! gateway and leaves an entry in the ledger.

use action::{ActionId, Money, Subject, Tenant};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ledger::Scope;
use mandate::{Claims, SpendCap};
use receipt::{Jwk, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::caller::{Caller, Deed, Role};
use crate::gateway::{Gateway, listed};
use crate::keys::Refused;
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::tenants::{self, Rules, TenantState, Texts};
use crate::views::{Page, not_found};
use crate::{Code, Error, clock};

/// What a new mandate is to allow.
#[derive(Clone, Debug)]
pub struct MandateAsk {
    /// The agent who may act.
    pub subject: Subject,
    /// Archetypes or groups of archetypes.
    pub scope: Vec<String>,
    /// Resource patterns; `None` means any.
    pub resources: Option<Vec<String>>,
    /// The most that may be spent in sum.
    pub spend_cap: Option<Money>,
    /// The most actions that may be admitted.
    pub max_actions: Option<u64>,
    /// Archetypes or groups that a person must approve each time.
    pub requires_approval: Vec<String>,
    /// Declared confidence below this escalates; 0 to 1.
    pub uncertainty_floor: Option<serde_json::Number>,
    /// Unix seconds.
    pub not_before: Option<i64>,
    /// Unix seconds; at this second it is over.
    pub expires_at: i64,
}

/// A mandate that was just issued. The token is shown this once.
#[derive(Clone, Debug)]
pub struct IssuedMandate {
    /// What the agent sends as `delegation_token`.
    pub token: String,
    /// The mandate.
    pub mandate: MandateView,
}

/// A mandate and what is left of it.
#[derive(Clone, Debug)]
pub struct MandateView {
    /// Its id.
    pub jti: String,
    /// The principal.
    pub issuer: String,
    /// The agent.
    pub subject: String,
    /// What it allows.
    pub scope: Vec<String>,
    /// Where; `None` means anywhere.
    pub resources: Option<Vec<String>>,
    /// The most that may be spent.
    pub spend_cap: Option<Money>,
    /// Spent or reserved by now.
    pub spent: Option<Money>,
    /// The most actions.
    pub max_actions: Option<u64>,
    /// Actions admitted by now.
    pub actions: u64,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub expires_at: String,
    /// RFC 3339.
    pub revoked_at: Option<String>,
}

/// The acknowledgement of a revocation: nothing is admitted under the mandate after it.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Which mandate.
    pub jti: String,
    /// Since when, RFC 3339.
    pub revoked_at: String,
    /// What was admitted before and is not settled.
    pub unsettled: Vec<ActionId>,
}

/// What a freeze stops, within the caller's tenant; `all` and `provider:` reach beyond it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FreezeScope {
    /// Everything of every tenant.
    All,
    /// Everything of the caller's tenant.
    Tenant,
    /// One agent.
    Agent(Subject),
    /// One archetype.
    Archetype(String),
    /// One provider.
    Provider(String),
}

/// A freeze as it stands.
#[derive(Clone, Debug)]
pub struct FreezeView {
    /// What it stops.
    pub scope: FreezeScope,
    /// Since when, RFC 3339.
    pub at: String,
    /// Who froze.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// Whether compensation is stopped too.
    pub include_rollback: bool,
}

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

/// Whether a tenant is only observed.
#[derive(Clone, Debug)]
pub struct ObserveView {
    /// Which tenant.
    pub tenant: String,
    /// Until when, RFC 3339; `None`: not.
    pub until: Option<String>,
}

/// What is in force after a reload.
#[derive(Clone, Debug)]
pub struct ReloadReport {
    /// Digest of the catalogue.
    pub catalogue_digest: String,
    /// Digest of the policies.
    pub policy_digest: String,
    /// Digest of the entities.
    pub entity_digest: String,
    /// How many archetypes.
    pub archetypes: usize,
    /// How many policies, those in the program included.
    pub policies: usize,
}

/// Observe mode ends by itself within this time.
const LONGEST_OBSERVATION_MS: i64 = 30 * 24 * 3600 * 1000;

impl Gateway {
    /// Issues a mandate, signed by the tenant's key.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` naming the member that makes it none.
    pub async fn issue_mandate(&self, caller: &Caller, ask: MandateAsk) -> Result<IssuedMandate, Error> {
        caller.must(Deed::Govern)?;
        let tenant = self.tenant(&caller.tenant)?;
        let now_ms = clock::now_ms();
        if ask.expires_at <= now_ms / 1000 {
            return Err(
                Error::new(Code::ValidationFailed, "the mandate would be over already").field("/expires_at")
            );
        }
        let claims = self.claims(caller, ask, now_ms)?;
        let key =
            self.authority.key(&caller.tenant).ok_or_else(|| internal("a tenant has no mandate key"))?;
        let token = mandate::issue(&claims, key).map_err(|refusal| {
            Error::new(Code::ValidationFailed, format!("this is no mandate: {refusal}"))
        })?;
        let stored = ledger::Mandate {
            tenant: caller.tenant.clone(),
            jti: claims.jti.as_str().into(),
            subject: Subject::parse(&claims.sub).map_err(|_| internal("a subject is not one"))?,
            issuer: claims.iss.as_str().into(),
            issued_ms: now_ms,
            expires_ms: claims.exp.saturating_mul(1000),
            claims: serde_json::to_vec(&claims).map_err(|_| internal("claims cannot be written"))?,
        };
        let record = json!({ "by": caller.subject.as_str(), "jti": &claims.jti, "sub": &claims.sub, "scope": &claims.mandate_scope });
        self.ledger.issue(stored.clone(), event(tenant, "mandate_issued", &record)).await.map_err(named)?;
        let account = ledger_account(&claims.jti);
        Ok(IssuedMandate { token, mandate: mandate_view(&stored, &account)? })
    }

    fn claims(&self, caller: &Caller, ask: MandateAsk, now_ms: i64) -> Result<Claims, Error> {
        let id: [u8; 16] = clock::random()?;
        Ok(Claims {
            jti: format!("mnd_{}", hex::encode(id)),
            iss: caller.subject.to_string(),
            sub: ask.subject.to_string(),
            aud: self.issuer.clone(),
            iat: now_ms / 1000,
            nbf: ask.not_before,
            exp: ask.expires_at,
            mandate_scope: ask.scope,
            resources: ask.resources,
            spend_cap: ask
                .spend_cap
                .map(|cap| SpendCap { amount: cap.to_string(), currency: cap.currency().code().to_owned() }),
            max_actions: ask.max_actions,
            requires_approval: Some(ask.requires_approval).filter(|list| !list.is_empty()),
            uncertainty_floor: ask.uncertainty_floor,
            ..Claims::default()
        })
    }

    /// The tenant's mandates, newest first.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn mandates(
        &self,
        caller: &Caller,
        cursor: Option<String>,
        limit: u32,
    ) -> Result<Page<MandateView>, Error> {
        caller.must(Deed::ReadTenant)?;
        let after = cursor.map(|cursor| cursor.parse()).transpose();
        let after = after.map_err(|_| {
            Error::new(Code::ValidationFailed, "this cursor was not given out").field("cursor")
        })?;
        let page =
            self.ledger.mandates(&caller.tenant, after, limit.clamp(1, 200)).await.map_err(unavailable)?;
        let items = page
            .rows
            .iter()
            .map(|held| mandate_view(&held.mandate, &held.account))
            .collect::<Result<_, _>>()?;
        Ok(Page { items, next: page.next.map(|row| row.to_string()) })
    }

    /// Ends a mandate: none is admitted under it once this has returned.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever does not govern, `EP_NOT_FOUND` if the tenant issued none of this name.
    pub async fn revoke_mandate(
        &self,
        caller: &Caller,
        jti: &str,
        reason: Option<String>,
    ) -> Result<Revocation, Error> {
        caller.must(Deed::Govern)?;
        let tenant = self.tenant(&caller.tenant)?;
        // A mistyped name must not be acknowledged as revoked, nor another tenant's.
        if self.ledger.mandate(&caller.tenant, jti).await.map_err(unavailable)?.is_none() {
            return Err(not_found("mandate"));
        }
        let record = json!({ "by": caller.subject.as_str(), "jti": jti, "reason": reason });
        let revoked = self
            .ledger
            .revoke(&caller.tenant, jti, event(tenant, "mandate_revoked", &record))
            .await
            .map_err(unavailable)?;
        Ok(Revocation {
            jti: jti.to_owned(),
            revoked_at: clock::text(revoked.at_ms),
            unsettled: revoked.unsettled,
        })
    }

    /// Stops what the scope covers, at once.
    ///
    /// # Errors
    /// `EP_FORBIDDEN`: a tenant's operator stops what is the tenant's; everything and providers are for an admin of the
    /// first tenant.
    pub async fn freeze(
        &self,
        caller: &Caller,
        scope: FreezeScope,
        reason: Option<String>,
    ) -> Result<FreezeView, Error> {
        self.may_reach(caller, &scope)?;
        let tenant = self.tenant(&caller.tenant)?;
        let freeze = ledger::Freeze {
            scope: scope.within(&caller.tenant),
            include_rollback: false,
            at_ms: clock::now_ms(),
            by: caller.subject.as_str().into(),
            reason: reason.clone().unwrap_or_default().into(),
        };
        let record = json!({ "by": caller.subject.as_str(), "reason": reason, "scope": scope.to_string() });
        self.ledger.freeze(freeze.clone(), event(tenant, "frozen", &record)).await.map_err(unavailable)?;
        Ok(freeze_view(&freeze))
    }

    /// Lets go on what a freeze of exactly this scope stopped.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if it is not frozen.
    pub async fn thaw(&self, caller: &Caller, scope: FreezeScope) -> Result<FreezeView, Error> {
        self.may_reach(caller, &scope)?;
        let tenant = self.tenant(&caller.tenant)?;
        let within = scope.within(&caller.tenant);
        let freezes = self.ledger.freezes().await.map_err(unavailable)?;
        let freeze = freezes.iter().find(|freeze| freeze.scope == within).cloned();
        let freeze = freeze.ok_or_else(|| not_found("freeze"))?;
        let record = json!({ "by": caller.subject.as_str(), "scope": scope.to_string() });
        self.ledger.thaw(within, event(tenant, "thawed", &record)).await.map_err(named)?;
        Ok(freeze_view(&freeze))
    }

    fn may_reach(&self, caller: &Caller, scope: &FreezeScope) -> Result<(), Error> {
        if !matches!(scope, FreezeScope::All | FreezeScope::Provider(_)) {
            return caller.must(Deed::Govern);
        }
        self.must_run_the_house(caller).map_err(|error| {
            error
                .field("/scope")
                .hint("freeze `tenant`, `agent:…` or `archetype:…`, or ask whoever runs the installation")
        })
    }

    /// What reaches beyond a tenant is for an admin of the first tenant, whose operators run the installation.
    fn must_run_the_house(&self, caller: &Caller) -> Result<(), Error> {
        caller.must(Deed::Administer)?;
        if self.config.tenants.first().map(String::as_str) == Some(caller.tenant.as_str()) {
            return Ok(());
        }
        Err(Error::new(Code::Forbidden, "this reaches beyond the caller's tenant")
            .hint("ask whoever runs the installation"))
    }

    /// What is frozen, as far as it touches the caller's tenant.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn freezes(&self, caller: &Caller) -> Result<Vec<FreezeView>, Error> {
        caller.must(Deed::ReadTenant)?;
        let freezes = self.ledger.freezes().await.map_err(unavailable)?;
        Ok(freezes.iter().filter(|freeze| touches(&freeze.scope, &caller.tenant)).map(freeze_view).collect())
    }

    /// Makes an API key.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for another tenant than the caller's.
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
            revoked_ms: None,
        };
        let record = json!({ "by": by, "id": &*key.id, "role": &*key.role, "subject": key.subject.as_str() });
        self.ledger.add_key(key.clone(), event(tenant, "key_created", &record)).await.map_err(named)?;
        Ok(CreatedKey { secret, key: key_view(&key)? })
    }

    /// The tenant's API keys, the revoked ones included.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever does not administer.
    pub async fn keys(&self, caller: &Caller) -> Result<Vec<KeyView>, Error> {
        caller.must(Deed::Administer)?;
        let keys = self.ledger.keys(&caller.tenant).await.map_err(unavailable)?;
        keys.iter().map(key_view).collect()
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
            .map_err(named)?;
        let keys = self.ledger.keys(&caller.tenant).await.map_err(unavailable)?;
        keys.iter().find(|key| *key.id == *id).map(key_view).unwrap_or_else(|| Err(not_found("key")))
    }

    /// The caller behind a bearer token.
    ///
    /// # Errors
    /// `EP_UNAUTHENTICATED` for what is no key, or no longer one.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        let hash: [u8; 32] = Sha256::digest(bearer).into();
        let key = self.ledger.key(&hash).await.map_err(unavailable)?;
        let key = key.ok_or_else(|| Error::new(Code::Unauthenticated, "this is not a valid API key"))?;
        Ok(Caller {
            tenant: key.tenant.clone(),
            subject: key.subject.clone(),
            role: Role::parse(&key.role).ok_or_else(|| internal("a stored role is not one"))?,
            key_id: key.id.to_string(),
            default_mandate: key.default_mandate.as_deref().map(str::to_owned),
        })
    }

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
    /// `EP_FORBIDDEN` for another tenant than the first, since all of them sign with it; `EP_UNAVAILABLE` if the files cannot be written.
    pub async fn rotate_signing_key(&self, caller: &Caller) -> Result<SigningKeyView, Error> {
        self.must_run_the_house(caller)?;
        let tenant = self.tenant(&caller.tenant)?;
        let kid = self.keys.rotate(clock::now).map_err(files)?;
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
        let at_ms = clock::parse_ms(&at).ok_or_else(|| wrong("`at` is not an RFC 3339 time"))?;
        let marked = self.keys.compromise(kid, clock::timestamp(at_ms), clock::now);
        marked.map_err(|refused| match refused {
            Refused::Unknown => not_found("signing key"),
            Refused::Future => wrong("`at` lies in the future"),
            Refused::Files(why) => files(why),
        })?;
        let record = json!({ "at": &at, "by": caller.subject.as_str(), "kid": kid });
        self.ledger.record(event(tenant, "signing_key_compromised", &record)).await.map_err(unavailable)?;
        self.signing_key(kid)
    }

    fn signing_key(&self, kid: &str) -> Result<SigningKeyView, Error> {
        self.keys.jwks().key(kid).map(signing_key_view).ok_or_else(|| not_found("signing key"))
    }

    /// Only observes the tenant until then, or no longer: what would have been blocked by policy passes and is noted.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` if the time is none, over, or more than 30 days away.
    pub async fn observe(&self, caller: &Caller, until: Option<String>) -> Result<ObserveView, Error> {
        caller.must(Deed::Administer)?;
        let tenant = self.tenant(&caller.tenant)?;
        let now_ms = clock::now_ms();
        let wrong = |why: &str| Error::new(Code::ValidationFailed, why.to_owned()).field("/until");
        let until_ms = match &until {
            None => 0,
            Some(text) => clock::parse_ms(text).ok_or_else(|| wrong("`until` is not an RFC 3339 time"))?,
        };
        if until.is_some() && !(now_ms..=now_ms + LONGEST_OBSERVATION_MS).contains(&until_ms) {
            return Err(wrong("`until` is not within the next 30 days"));
        }
        let record = json!({ "by": caller.subject.as_str(), "until": &until });
        self.ledger.record(event(tenant, "observe_mode", &record)).await.map_err(unavailable)?;
        tenant.observe_until(until_ms);
        Ok(ObserveView { tenant: tenant.tenant.to_string(), until: until.map(|_| clock::text(until_ms)) })
    }

    /// Reads the tenant's catalogue and policies again and swaps them as one. A mistake leaves everything as it was.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` listing every mistake.
    pub async fn reload(&self, caller: &Caller) -> Result<ReloadReport, Error> {
        caller.must(Deed::Administer)?;
        let tenant = self.tenant(&caller.tenant)?;
        let outside = provider::Outside { egress: &self.outside.egress, secrets: &self.outside.secrets };
        let rules = tenants::load(&self.config, &tenant.tenant, self.environment, outside);
        let rules = rules.map_err(|mistakes| {
            Error::new(Code::ValidationFailed, listed(&mistakes))
                .hint("nothing was changed; correct the files and reload")
        })?;
        self.keep_rules(&rules).await?;
        let report = report(&rules);
        let record = json!({ "by": caller.subject.as_str(), "catalogDigest": &report.catalogue_digest, "policyDigest": &report.policy_digest });
        self.ledger.record(event(tenant, "rules_reloaded", &record)).await.map_err(unavailable)?;
        tenant.swap(rules);
        Ok(report)
    }

    /// Keeps the texts of a set of rules, so that decisions made by them can be replayed.
    pub(crate) async fn keep_rules(&self, rules: &Rules) -> Result<(), Error> {
        let text = serde_json::to_vec(&rules.texts).map_err(|_| internal("rules cannot be written"))?;
        self.ledger.keep(&rules_name(rules), text).await.map_err(unavailable)
    }

    /// The rules an action was decided by, if they were kept; else those of now.
    pub(crate) async fn rules_of_then(
        &self,
        tenant: &Tenant,
        row: &IntentRow,
    ) -> Result<std::sync::Arc<Rules>, Error> {
        let now = self.tenant(tenant)?.rules();
        let (Some(policies), Some(catalogue), Some(entities)) =
            (&row.policy_digest, &row.catalog_digest, &row.entity_digest)
        else {
            return Ok(now);
        };
        let name = digest_name(policies, catalogue, entities);
        if name == rules_name(&now) {
            return Ok(now);
        }
        let Some(text) = self.ledger.kept(&name).await.map_err(unavailable)? else { return Ok(now) };
        let texts: Texts =
            serde_json::from_slice(&text).map_err(|_| internal("kept rules cannot be read"))?;
        let rules = tenants::read_again(texts, self.environment);
        rules.map(std::sync::Arc::new).map_err(|mistakes| {
            tracing::warn!(mistakes = %listed(&mistakes), "rules of then are not rules of this version");
            internal("the rules of then cannot be read by this version")
        })
    }
}

impl FreezeScope {
    /// Reads `all`, `tenant`, `agent:X`, `archetype:X` or `provider:X`.
    pub fn parse(text: &str) -> Option<FreezeScope> {
        match text.split_once(':') {
            None if text == "all" => Some(FreezeScope::All),
            None if text == "tenant" => Some(FreezeScope::Tenant),
            Some(("agent", name)) => Subject::parse(name).ok().map(FreezeScope::Agent),
            Some(("archetype", name)) if is_name(name) => Some(FreezeScope::Archetype(name.to_owned())),
            Some(("provider", name)) if is_name(name) => Some(FreezeScope::Provider(name.to_owned())),
            _ => None,
        }
    }

    fn within(&self, tenant: &Tenant) -> Scope {
        match self {
            FreezeScope::All => Scope::All,
            FreezeScope::Tenant => Scope::Tenant(tenant.clone()),
            FreezeScope::Agent(agent) => Scope::Agent(tenant.clone(), agent.clone()),
            FreezeScope::Archetype(name) => Scope::Archetype(tenant.clone(), name.as_str().into()),
            FreezeScope::Provider(name) => Scope::Provider(name.as_str().into()),
        }
    }
}

impl std::fmt::Display for FreezeScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FreezeScope::All => f.write_str("all"),
            FreezeScope::Tenant => f.write_str("tenant"),
            FreezeScope::Agent(agent) => write!(f, "agent:{agent}"),
            FreezeScope::Archetype(name) => write!(f, "archetype:{name}"),
            FreezeScope::Provider(name) => write!(f, "provider:{name}"),
        }
    }
}

/// Tells our API keys from other secrets at a glance, and lets scanners find them.
const SECRET_PREFIX: &str = "cs_";

fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An event of a tenant, its record in canonical form.
pub(crate) fn event(tenant: &TenantState, event: &'static str, record: &Value) -> ledger::Event {
    ledger::Event {
        at_ms: clock::now_ms(),
        tenant_ref: Some(std::sync::Arc::clone(&tenant.reference)),
        event,
        record: action::json::canonical(record).into_bytes(),
    }
}

fn report(rules: &Rules) -> ReloadReport {
    ReloadReport {
        catalogue_digest: rules.catalogue.digest().to_owned(),
        policy_digest: rules.policies.policy_digest().to_string(),
        entity_digest: rules.policies.entity_digest().to_string(),
        archetypes: rules.catalogue.iter().count(),
        policies: rules.policies.rules().len(),
    }
}

fn rules_name(rules: &Rules) -> String {
    digest_name(rules.policies.policy_digest(), rules.catalogue.digest(), rules.policies.entity_digest())
}

fn digest_name(policies: &str, catalogue: &str, entities: &str) -> String {
    hex::encode(Sha256::digest(format!("rules/1\n{policies}\n{catalogue}\n{entities}")))
}

fn touches(scope: &Scope, tenant: &Tenant) -> bool {
    match scope {
        Scope::All | Scope::Provider(_) => true,
        Scope::Tenant(of) | Scope::Agent(of, _) | Scope::Archetype(of, _) => of == tenant,
    }
}

fn freeze_view(freeze: &ledger::Freeze) -> FreezeView {
    let scope = match &freeze.scope {
        Scope::All => FreezeScope::All,
        Scope::Tenant(_) => FreezeScope::Tenant,
        Scope::Agent(_, agent) => FreezeScope::Agent(agent.clone()),
        Scope::Archetype(_, name) => FreezeScope::Archetype(name.to_string()),
        Scope::Provider(name) => FreezeScope::Provider(name.to_string()),
    };
    FreezeView {
        scope,
        at: clock::text(freeze.at_ms),
        by: freeze.by.to_string(),
        reason: Some(freeze.reason.to_string()).filter(|reason| !reason.is_empty()),
        include_rollback: freeze.include_rollback,
    }
}

fn mandate_view(mandate: &ledger::Mandate, account: &mandate::Account) -> Result<MandateView, Error> {
    let claims: Claims =
        serde_json::from_slice(&mandate.claims).map_err(|_| internal("a stored mandate cannot be read"))?;
    let cap = claims.spend_cap.as_ref().and_then(|cap| {
        let currency = action::Currency::of(&cap.currency)?;
        Money::parse(&cap.amount, currency).ok()
    });
    Ok(MandateView {
        jti: claims.jti,
        issuer: claims.iss,
        subject: claims.sub,
        scope: claims.mandate_scope,
        resources: claims.resources,
        spend_cap: cap,
        spent: cap.and_then(|cap| Money::new(account.spent_minor.max(0), cap.currency())),
        max_actions: claims.max_actions,
        actions: account.actions,
        not_before: clock::text(claims.nbf.unwrap_or(claims.iat).saturating_mul(1000)),
        expires_at: clock::text(claims.exp.saturating_mul(1000)),
        revoked_at: account.revoked_at.map(clock::text),
    })
}

fn ledger_account(jti: &str) -> mandate::Account {
    mandate::Account::new(jti)
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

/// Errors about something that has a name; the rest as usual.
fn named(error: ledger::Error) -> Error {
    match error {
        ledger::Error::Absent(_) => not_found("such thing, or it has ended"),
        ledger::Error::Exists(name) => Error::new(Code::StateConflict, format!("`{name}` exists already")),
        other => unavailable(other),
    }
}
