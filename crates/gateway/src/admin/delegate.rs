//! Delegation: whoever holds a mandate hands a narrower one on.

use std::sync::Arc;

use action::{Money, Subject};
use ledger::Event;
use mandate::{Account, Claims, Mandate, Refusal, ResourceEnvelope};
use serde_json::json;

use super::mandates::{IssuedMandate, malformed, mandate_view, sum_of};
use super::principals::given_to;
use super::{event, known};
use crate::authority::{Line, granted, stored};
use crate::caller::{Caller, Deed, Role};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::tenants::TenantState;
use crate::views::not_found;
use crate::{Code, Error, clock};

/// What is handed on. Whatever is left out is as the parent has it, as much as is left of it.
#[derive(Clone, Debug, Default)]
pub struct DelegateAsk {
    /// The agent who may act.
    pub subject: String,
    /// Also an agent that nothing here names: one that is still to come.
    pub even_if_unknown: bool,
    /// Archetypes or groups of archetypes.
    pub scope: Option<Vec<String>>,
    /// Resource patterns.
    pub resources: Option<Vec<String>>,
    /// The most that may be spent in sum.
    pub spend_cap: Option<Money>,
    /// The most actions that may be admitted.
    pub max_actions: Option<u64>,
    /// Archetypes or groups that a person must approve each time.
    pub requires_approval: Option<Vec<String>>,
    /// Declared confidence below this escalates; 0 to 1.
    pub uncertainty_floor: Option<serde_json::Number>,
    /// Binds sessions; 0 to 1.
    pub trust_floor: Option<serde_json::Number>,
    /// Binds the goals of sessions.
    pub goal_scope: Option<Vec<String>>,
    /// What sessions may consume in all.
    pub resource_envelope: Option<ResourceEnvelope>,
    /// Unix seconds.
    pub not_before: Option<i64>,
    /// Unix seconds; at this second it is over.
    pub expires_at: Option<i64>,
}

impl Gateway {
    /// Hands a mandate on: issues one that descends from it and is narrower in every member, or as wide where it has as
    /// much left.
    ///
    /// # Errors
    /// `MANDATE_NARROWING_VIOLATION` naming the member that is wider; `EP_VALIDATION_FAILED` naming the one that makes it
    /// no mandate; `EP_NOT_FOUND` for a mandate that there is not, or not for this caller, and for an agent, archetype or
    /// group that there is not; `EP_STATE_CONFLICT` where nothing can descend from it (any more), and for a
    /// principal, who is no agent: whoever gave one of the chain among them.
    pub async fn delegate(
        &self,
        caller: &Caller,
        jti: &str,
        ask: DelegateAsk,
    ) -> Result<IssuedMandate, Error> {
        caller.must(Deed::Delegate)?;
        let tenant = self.tenant(&caller.tenant)?;
        let line = self.line_held_by(caller, jti).await?;
        let (Some(parent), Some(parents)) = line.leaf() else {
            return Err(internal("a line without a leaf"));
        };
        let now_ms = clock::now_ms();
        let (left, accounts) = self.left(&caller.tenant, &line.mandates).await?;
        self.can_be_handed_on(&caller.tenant, &line, &accounts, now_ms / 1000).await?;
        let asked = self.asked(caller, parents, ask.clone(), now_ms)?;
        let agent = subject(&ask.subject)?;
        let known = ask.even_if_unknown || self.knows_agent(&tenant.tenant, &agent).await?;
        known::must_be(
            known,
            || format!("there is no agent `{}`", ask.subject),
            "/subject",
            known::UNKNOWN_AGENT,
        )?;
        self.must_be_no_principal(&tenant.tenant, &agent).await?;
        line.goes_to_another(Some(parent), &caller.subject, &agent).map_err(|_| given_to(&agent))?;
        let (scope, approval) = (asked.mandate_scope.as_slice(), asked.requires_approval.as_deref());
        tenant.must_name_actions(scope, approval.unwrap_or(&[]))?;

        let claims = asked.inherit(&parents.clone().limited_to(&left));
        let child = Mandate::of(&claims).map_err(|refusal| malformed(&refusal))?.under(parent);
        if let Err(refusal) = child.narrows(parent, &left, &tenant.rules().catalogue) {
            return Err(self.violation(caller, tenant, &child, &refusal).await?);
        }
        let key =
            self.authority.key(&caller.tenant).ok_or_else(|| internal("a tenant has no mandate key"))?;
        let token = mandate::issue(&claims, key).map_err(|refusal| malformed(&refusal))?;
        let mandate = stored(&caller.tenant, &claims, None)?;
        let told = event(tenant, "mandate_delegated", &granted(&mandate, &claims, caller.subject.as_str()));
        match self.ledger.issue(mandate.clone(), told).await {
            Ok(_) => {}
            Err(ledger::Error::Absent(ended)) => return Err(has_ended(&ended, "was revoked")),
            Err(other) => return Err(unavailable(other)),
        }
        Ok(IssuedMandate { token, mandate: mandate_view(&mandate, &Account::new(&claims.jti))? })
    }

    /// A mandate with all above it. To an agent who neither holds nor gave it there is none.
    pub(super) async fn line_held_by(&self, caller: &Caller, jti: &str) -> Result<Arc<Line>, Error> {
        let found = self.line(&caller.tenant, jti).await?.ok_or_else(|| not_found("mandate"))?;
        let line = found.map_err(|refusal| has_ended(jti, &refusal.to_string()))?;
        let holds = line.mandates.first().is_some_and(|it| it.subject == caller.subject);
        if caller.role == Role::Agent && !holds {
            return Err(not_found("mandate"));
        }
        Ok(line)
    }

    /// Does the line stand, and is there room below it?
    async fn can_be_handed_on(
        &self,
        tenant: &action::Tenant,
        line: &Line,
        accounts: &[Account],
        now_s: i64,
    ) -> Result<(), Error> {
        if let Some(refusal) = self.standing_of(tenant, line).await?.refusal {
            let jti = line.mandates.first().map_or("", |mandate| &mandate.jti);
            return Err(has_ended(jti, &refusal.to_string()));
        }
        for (mandate, account) in line.mandates.iter().zip(accounts) {
            if account.revoked_at.is_some() {
                return Err(has_ended(&mandate.jti, "was revoked"));
            }
            if account.frozen {
                return Err(has_ended(&mandate.jti, "is frozen"));
            }
            if now_s >= mandate.expires_at {
                return Err(has_ended(&mandate.jti, "has expired"));
            }
        }
        let most = self.config.limits.delegation_depth;
        if line.mandates.len() > most {
            return Err(Error::new(
                Code::StateConflict,
                format!("a chain of mandates is at most {most} deep"),
            )
            .field("/jti")
            .hint("hand on one that stands higher, or have the operator raise `limits.delegation_depth`"));
        }
        Ok(())
    }

    /// What is asked for, before anything is inherited.
    fn asked(
        &self,
        caller: &Caller,
        parent: &Claims,
        ask: DelegateAsk,
        now_ms: i64,
    ) -> Result<Claims, Error> {
        let now = now_ms / 1000;
        let expires_at = ask.expires_at.unwrap_or(parent.exp);
        if expires_at <= now {
            return Err(
                Error::new(Code::ValidationFailed, "the mandate would be over already").field("/expires_at")
            );
        }
        let mut chain = parent.delegation_chain.clone().unwrap_or_default();
        chain.push(parent.jti.clone());
        let id: [u8; 16] = clock::random()?;
        Ok(Claims {
            jti: format!("mnd_{}", hex::encode(id)),
            iss: caller.subject.to_string(),
            sub: subject(&ask.subject)?.to_string(),
            aud: self.issuer.clone(),
            iat: now,
            nbf: ask.not_before,
            exp: expires_at,
            mandate_scope: ask.scope.unwrap_or_else(|| parent.mandate_scope.clone()),
            resources: ask.resources,
            spend_cap: ask.spend_cap.map(sum_of),
            max_actions: ask.max_actions,
            requires_approval: ask.requires_approval,
            uncertainty_floor: ask.uncertainty_floor,
            trust_floor: ask.trust_floor,
            goal_scope: ask.goal_scope,
            resource_envelope: ask.resource_envelope,
            delegation_chain: Some(chain),
            cnf: None,
        })
    }

    /// Nothing is issued; that it was asked for is on record.
    async fn violation(
        &self,
        caller: &Caller,
        tenant: &TenantState,
        child: &Mandate,
        refusal: &Refusal,
    ) -> Result<Error, Error> {
        let Refusal::Widened { member } = refusal else { return Err(malformed(refusal)) };
        let record = json!({
            "by": caller.subject.as_str(), "member": member, "parent": child.chain.last(),
            "sub": child.subject.as_str(), "tenant": caller.tenant.as_str(),
        });
        let told: Event = event(tenant, "delegation_refused", &record);
        self.ledger.record(told).await.map_err(unavailable)?;
        Ok(Error::new(
            Code::NarrowingViolation,
            format!("`{}` is wider than what the mandate has left", in_request(member)),
        )
        .field(format!("/{}", pointer(member)))
        .hint("ask for less, or leave the member out: then it is as the parent has it"))
    }
}

fn subject(text: &str) -> Result<Subject, Error> {
    Subject::parse(text)
        .map_err(|error| Error::new(Code::ValidationFailed, error.to_string()).field("/subject"))
}

fn has_ended(jti: &str, how: &str) -> Error {
    Error::new(Code::StateConflict, format!("mandate `{jti}` {how}: nothing descends from it"))
}

/// A claim by its name in a request.
pub(super) fn in_request(claim: &str) -> &str {
    match claim {
        "mandate_scope" => "scope",
        "sub" => "subject",
        "nbf" => "not_before",
        "exp" => "expires_at",
        other => other,
    }
}

/// Where a claim stands in a request.
fn pointer(claim: &str) -> String {
    match claim.strip_prefix("max_") {
        Some("actions") | None => in_request(claim).to_owned(),
        Some(_) => format!("resource_envelope/{claim}"),
    }
}
