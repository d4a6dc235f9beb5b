//! Mandates: issued, listed, revoked.

use std::slice;

use action::{ActionId, Money, Subject};
use ledger::Held;
use mandate::{Account, Claims, Limits, Mandate, Refusal, ResourceEnvelope, SpendCap};

use super::delegate::in_request;
use super::known::{UNKNOWN_AGENT, UNKNOWN_ARCHETYPE, must_be};
use super::principals::given_to;
use super::{event, legible, named};
use crate::approvals::readable_as;
use crate::authority::{claims_of, granted, stored};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::sessions::{Cause, HaltedView, PRINCIPAL};
use crate::tenants::TenantState;
use crate::views::{Page, after, not_found};
use crate::{Code, Error, clock};

/// What a new mandate is to allow.
#[derive(Clone, Debug)]
pub struct MandateAsk {
    /// The agent who may act.
    pub subject: Subject,
    /// Also an agent that nothing here names: one that is still to come.
    pub even_if_unknown: bool,
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
    /// Binds sessions; 0 to 1.
    pub trust_floor: Option<serde_json::Number>,
    /// Binds the goals of sessions; empty means any.
    pub goal_scope: Vec<String>,
    /// What sessions may consume in all.
    pub resource_envelope: Option<ResourceEnvelope>,
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
    /// Archetypes or groups that a person must approve each time.
    pub requires_approval: Vec<String>,
    /// Declared confidence below this escalates.
    pub uncertainty_floor: Option<serde_json::Number>,
    /// Binds sessions.
    pub trust_floor: Option<serde_json::Number>,
    /// Binds the goals of sessions; empty means any.
    pub goal_scope: Vec<String>,
    /// What sessions may consume in all.
    pub resource_envelope: ResourceEnvelope,
    /// Seconds granted on top of that by extensions; below zero where more was handed on than granted.
    pub granted_seconds: i64,
    /// The mandates it descends from, root first.
    pub chain: Vec<String>,
    /// The key of its principal that signed it; `None` if it was issued here.
    pub kid: Option<String>,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub expires_at: String,
    /// RFC 3339.
    pub revoked_at: Option<String>,
}

/// A mandate, and what stands above it.
#[derive(Clone, Debug)]
pub struct MandateStanding {
    /// As it was given. What it leaves out it has from the one above.
    pub mandate: MandateView,
    /// The principal at the root: everything under it is done in their name.
    pub principal: String,
    /// What one more action, or a child, may have: the least of what it and every mandate above it have left.
    pub left: Limits,
    /// The mandate that was revoked, if it or one above it was.
    pub ended_with: Option<String>,
}

/// The acknowledgement of a revocation: nothing is admitted under the mandate, or under any that descends from it, after
/// it.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Which mandate.
    pub jti: String,
    /// Since when, RFC 3339.
    pub revoked_at: String,
    /// What was admitted before and is not settled.
    pub unsettled: Vec<ActionId>,
    /// The sessions that ended with it, and how each was left.
    pub sessions: Vec<HaltedView>,
}

impl Gateway {
    /// Issues a mandate, signed by the tenant's key.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` naming the member that makes it none. `EP_NOT_FOUND` for an agent, archetype or group that
    /// there is not: a mandate that allows nothing must not be acknowledged, nor one that misnames what a person must
    /// approve. `EP_STATE_CONFLICT` for a principal, who is no agent, the caller among them.
    pub async fn issue_mandate(&self, caller: &Caller, ask: MandateAsk) -> Result<IssuedMandate, Error> {
        caller.must(Deed::Govern)?;
        let tenant = self.tenant(&caller.tenant)?;
        let now_ms = clock::now_ms();
        if ask.expires_at <= now_ms / 1000 {
            return Err(
                Error::new(Code::ValidationFailed, "the mandate would be over already").field("/expires_at")
            );
        }
        if ask.subject == caller.subject {
            return Err(given_to(&ask.subject));
        }
        self.must_speak_of_something(tenant, &ask).await?;
        let claims = self.claims(caller, ask, now_ms)?;
        let key =
            self.authority.key(&caller.tenant).ok_or_else(|| internal("a tenant has no mandate key"))?;
        let token = mandate::issue(&claims, key).map_err(|refusal| malformed(&refusal))?;
        let stored = stored(&caller.tenant, &claims, None)?;
        let record = granted(&stored, &claims, caller.subject.as_str());
        self.ledger
            .issue(stored.clone(), event(tenant, "mandate_issued", &record))
            .await
            .map_err(|error| named(error, "mandate"))?;
        let unused = Account::new(&claims.jti);
        Ok(IssuedMandate { token, mandate: mandate_view(&stored, &unused)? })
    }

    async fn must_speak_of_something(&self, tenant: &TenantState, ask: &MandateAsk) -> Result<(), Error> {
        let known = ask.even_if_unknown || self.knows_agent(&tenant.tenant, &ask.subject).await?;
        must_be(known, || format!("there is no agent `{}`", ask.subject), "/subject", UNKNOWN_AGENT)?;
        self.must_be_no_principal(&tenant.tenant, &ask.subject).await?;
        tenant.must_name_actions(&ask.scope, &ask.requires_approval)
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
            spend_cap: ask.spend_cap.map(sum_of),
            max_actions: ask.max_actions,
            requires_approval: Some(ask.requires_approval).filter(|list| !list.is_empty()),
            uncertainty_floor: ask.uncertainty_floor,
            trust_floor: ask.trust_floor,
            goal_scope: Some(ask.goal_scope).filter(|list| !list.is_empty()),
            resource_envelope: ask.resource_envelope,
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
        let after = after(cursor)?;
        let page =
            self.ledger.mandates(&caller.tenant, after, limit.clamp(1, 200)).await.map_err(unavailable)?;
        let view = |held: &Held| mandate_view(&held.mandate, &held.account);
        let items = legible(&page.rows, "mandate", |held| &held.mandate.jti, view);
        Ok(Page { items, next: page.next.map(|row| row.to_string()) })
    }

    /// One mandate: what it descends from, and what is left of all of them. An agent sees what it holds.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if there is none of this name, or none that the caller may see.
    pub async fn mandate(&self, caller: &Caller, jti: &str) -> Result<MandateStanding, Error> {
        caller.must(Deed::ReadOwn)?;
        let line = self.line_held_by(caller, jti).await?;
        let (left, accounts) = self.left(&caller.tenant, &line.mandates).await?;
        let held = self.ledger.mandate(&caller.tenant, jti).await.map_err(unavailable)?;
        let held = held.ok_or_else(|| not_found("mandate"))?;
        let ended = accounts.iter().filter(|account| account.revoked_at.is_some());
        Ok(MandateStanding {
            mandate: mandate_view(&held.mandate, &held.account)?,
            principal: line.leaf().0.map_or("", |leaf| leaf.root_principal()).to_owned(),
            left,
            ended_with: ended.min_by_key(|account| account.revoked_at).map(|account| account.jti.clone()),
        })
    }

    /// Ends a mandate and all that descend from it, with their sessions: nothing is admitted under them once this has
    /// returned.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever does not govern, `EP_VALIDATION_FAILED` for a reason that is not one honest line,
    /// `EP_NOT_FOUND` if the tenant issued none of this name.
    pub async fn revoke_mandate(
        &self,
        caller: &Caller,
        jti: &str,
        reason: Option<String>,
    ) -> Result<Revocation, Error> {
        caller.must(Deed::Govern)?;
        let reason = readable_as("reason", reason)?;
        // A mistyped name must not be acknowledged as revoked, nor another tenant's.
        if self.ledger.mandate(&caller.tenant, jti).await.map_err(unavailable)?.is_none() {
            return Err(not_found("mandate"));
        }
        let cause = Cause::of(PRINCIPAL, caller.subject.as_str(), reason.as_deref());
        let (revoked, sessions) = self.revoke_tree(&caller.tenant, jti, &cause).await?;
        Ok(Revocation {
            jti: jti.to_owned(),
            revoked_at: clock::text(revoked.at_ms),
            unsettled: revoked.unsettled,
            sessions,
        })
    }
}

pub(super) fn mandate_view(mandate: &ledger::Mandate, account: &Account) -> Result<MandateView, Error> {
    let claims = claims_of(mandate)?;
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
        requires_approval: claims.requires_approval.unwrap_or_default(),
        uncertainty_floor: claims.uncertainty_floor,
        trust_floor: claims.trust_floor,
        goal_scope: claims.goal_scope.unwrap_or_default(),
        resource_envelope: claims.resource_envelope.unwrap_or_default(),
        granted_seconds: account.granted.seconds,
        chain: claims.delegation_chain.unwrap_or_default(),
        kid: mandate.kid.as_deref().map(str::to_owned),
        not_before: clock::text(claims.nbf.unwrap_or(claims.iat).saturating_mul(1000)),
        expires_at: clock::text(claims.exp.saturating_mul(1000)),
        revoked_at: account.revoked_at.map(clock::text),
    })
}

pub(super) fn sum_of(cap: Money) -> SpendCap {
    SpendCap { amount: cap.to_string(), currency: cap.currency().code().to_owned() }
}

/// What makes it no mandate, named as the request has it.
pub(super) fn malformed(refusal: &Refusal) -> Error {
    let error = Error::new(Code::ValidationFailed, format!("this is no mandate: {refusal}"));
    let Refusal::Malformed { what } = refusal else { return error };
    match what.split('`').nth(1).filter(|_| what.starts_with('`')) {
        Some(claim) => error.field(format!("/{}", in_request(claim))),
        None => error.field("/resources"),
    }
}

impl TenantState {
    /// Do these names, of a scope and of what a person must approve, stand for anything in the catalogue?
    pub(crate) fn must_name_actions(&self, scope: &[String], approval: &[String]) -> Result<(), Error> {
        let rules = self.rules();
        let designated = |name: &String| {
            rules.catalogue.iter().any(|archetype| Mandate::designates(slice::from_ref(name), archetype))
        };
        for (member, names) in [("scope", scope), ("requires_approval", approval)] {
            for (n, name) in names.iter().enumerate() {
                let what = || format!("there is no archetype or group `{name}`");
                must_be(designated(name), what, format!("/{member}/{n}"), UNKNOWN_ARCHETYPE)?;
            }
        }
        Ok(())
    }
}
