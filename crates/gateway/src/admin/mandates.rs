//! Mandates: issued, listed, revoked.

use std::slice;

use action::{ActionId, Money, Subject};
use mandate::{Claims, Mandate, SpendCap};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::known::{UNKNOWN_AGENT, UNKNOWN_ARCHETYPE, must_be};
use super::{event, named};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
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

impl Gateway {
    /// Issues a mandate, signed by the tenant's key.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` naming the member that makes it none. `EP_NOT_FOUND` for an agent, archetype or group that
    /// there is not: a mandate that allows nothing must not be acknowledged, nor one that misnames what a person must
    /// approve.
    pub async fn issue_mandate(&self, caller: &Caller, ask: MandateAsk) -> Result<IssuedMandate, Error> {
        caller.must(Deed::Govern)?;
        let tenant = self.tenant(&caller.tenant)?;
        let now_ms = clock::now_ms();
        if ask.expires_at <= now_ms / 1000 {
            return Err(
                Error::new(Code::ValidationFailed, "the mandate would be over already").field("/expires_at")
            );
        }
        self.must_speak_of_something(tenant, &ask).await?;
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
        let record = json!({
            "by": caller.subject.as_str(), "claimsHash": hex::encode(Sha256::digest(&stored.claims)),
            "expiresAt": claims.exp, "jti": &claims.jti, "scope": &claims.mandate_scope, "sub": &claims.sub,
            "tenant": caller.tenant.as_str(),
        });
        self.ledger
            .issue(stored.clone(), event(tenant, "mandate_issued", &record))
            .await
            .map_err(|error| named(error, "mandate"))?;
        let unused = mandate::Account::new(&claims.jti);
        Ok(IssuedMandate { token, mandate: mandate_view(&stored, &unused)? })
    }

    async fn must_speak_of_something(&self, tenant: &TenantState, ask: &MandateAsk) -> Result<(), Error> {
        let known = ask.even_if_unknown || self.knows_agent(&tenant.tenant, &ask.subject).await?;
        must_be(known, || format!("there is no agent `{}`", ask.subject), "/subject", UNKNOWN_AGENT)?;
        let rules = tenant.rules();
        let designated = |name: &String| {
            rules.catalogue.iter().any(|archetype| Mandate::designates(slice::from_ref(name), archetype))
        };
        for (member, names) in [("scope", &ask.scope), ("requires_approval", &ask.requires_approval)] {
            for (n, name) in names.iter().enumerate() {
                let what = || format!("there is no archetype or group `{name}`");
                must_be(designated(name), what, format!("/{member}/{n}"), UNKNOWN_ARCHETYPE)?;
            }
        }
        Ok(())
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
        let after = after(cursor)?;
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
