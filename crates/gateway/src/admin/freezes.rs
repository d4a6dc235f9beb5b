//! Freezes: what is stopped at once, by whom, and let go again.

use action::{Subject, Tenant};
use ledger::Scope;
use serde_json::json;

use super::known::{UNKNOWN_AGENT, UNKNOWN_ARCHETYPE, must_be};
use super::{event, named};
use crate::approvals::readable_as;
use crate::audit::authority::{Frozen, tenant_of};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::tenants::TenantState;
use crate::views::not_found;
use crate::{Error, clock};

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

/// What is to be stopped.
#[derive(Clone, Debug)]
pub struct FreezeAsk {
    /// What it stops.
    pub scope: FreezeScope,
    /// Why.
    pub reason: Option<String>,
    /// Also an agent that nothing here names: one that is still to come.
    pub even_if_unknown: bool,
    /// Whether rollbacks are stopped too.
    pub include_rollback: bool,
}

impl From<FreezeScope> for FreezeAsk {
    fn from(scope: FreezeScope) -> FreezeAsk {
        FreezeAsk { scope, reason: None, even_if_unknown: false, include_rollback: false }
    }
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

impl Gateway {
    /// Stops what the scope covers, at once; compensation only if it is included.
    ///
    /// # Errors
    /// `EP_FORBIDDEN`: a tenant's operator stops what is the tenant's; everything and providers are for an admin of the
    /// first tenant. `EP_NOT_FOUND` for an agent, archetype or provider that there is not: a stop that stops nothing
    /// must not be acknowledged. `EP_VALIDATION_FAILED` for a reason that is not one honest line.
    pub async fn freeze(&self, caller: &Caller, ask: FreezeAsk) -> Result<FreezeView, Error> {
        let FreezeAsk { scope, reason, even_if_unknown, include_rollback } = ask;
        self.may_reach(caller, &scope)?;
        let reason = readable_as("reason", reason)?;
        let tenant = self.tenant(&caller.tenant)?;
        if !even_if_unknown || !matches!(scope, FreezeScope::Agent(_)) {
            self.must_name_something(tenant, &scope).await?;
        }
        let freeze = ledger::Freeze {
            scope: scope.within(&caller.tenant),
            include_rollback,
            at_ms: clock::now_ms(),
            by: caller.subject.as_str().into(),
            reason: reason.unwrap_or_default().into(),
        };
        self.ledger.freeze(freeze.clone(), frozen(tenant, &freeze)).await.map_err(unavailable)?;
        Ok(freeze_view(&freeze))
    }

    /// Freezes again what an entry tells of and somebody took out of the store.
    pub(crate) async fn put_back(&self, lost: Vec<(Frozen, i64)>) -> Result<(), Error> {
        for (told, entry) in lost {
            let scope = told.scope();
            let tenant = tenant_of(&scope).cloned().unwrap_or_default();
            // Nothing is done for a tenant that is not configured.
            let Ok(tenant) = self.tenant(&tenant) else { continue };
            let freeze = ledger::Freeze {
                scope,
                include_rollback: told.include_rollback,
                at_ms: clock::now_ms(),
                by: Subject::GATEWAY.into(),
                reason: format!("put back: entry {entry} tells of it, and its row was gone").into(),
            };
            self.ledger.freeze(freeze.clone(), frozen(tenant, &freeze)).await.map_err(unavailable)?;
        }
        Ok(())
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
        self.ledger
            .thaw(within, event(tenant, "thawed", &record))
            .await
            .map_err(|error| named(error, "freeze"))?;
        Ok(freeze_view(&freeze))
    }

    async fn must_name_something(&self, tenant: &TenantState, scope: &FreezeScope) -> Result<(), Error> {
        let (known, hint) = match scope {
            FreezeScope::All | FreezeScope::Tenant => return Ok(()),
            FreezeScope::Agent(agent) => (self.knows_agent(&tenant.tenant, agent).await?, UNKNOWN_AGENT),
            FreezeScope::Archetype(name) => (tenant.rules().catalogue.get(name).is_some(), UNKNOWN_ARCHETYPE),
            FreezeScope::Provider(name) => (
                self.tenants.values().any(|it| it.rules().providers.values().any(|it| it.name() == name)),
                "a provider's name is `name` of its binding, or else host and port of its `base`",
            ),
        };
        must_be(known, || format!("there is no `{scope}` to freeze"), "/scope", hint)
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

    /// What is frozen, as far as it touches the caller's tenant.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn freezes(&self, caller: &Caller) -> Result<Vec<FreezeView>, Error> {
        caller.must(Deed::ReadTenant)?;
        let freezes = self.ledger.freezes().await.map_err(unavailable)?;
        Ok(freezes.iter().filter(|freeze| touches(&freeze.scope, &caller.tenant)).map(freeze_view).collect())
    }
}

fn frozen(tenant: &TenantState, freeze: &ledger::Freeze) -> ledger::Event {
    let mut record = json!({
        "by": &*freeze.by, "reason": (!freeze.reason.is_empty()).then_some(&*freeze.reason),
        "scope": FreezeScope::of(&freeze.scope).to_string(), "tenant": tenant.tenant.as_str(),
    });
    if freeze.include_rollback {
        record["includeRollback"] = true.into();
    }
    event(tenant, "frozen", &record)
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

    /// As it reads within its tenant.
    pub(crate) fn of(scope: &Scope) -> FreezeScope {
        match scope {
            Scope::All => FreezeScope::All,
            Scope::Tenant(_) => FreezeScope::Tenant,
            Scope::Agent(_, agent) => FreezeScope::Agent(agent.clone()),
            Scope::Archetype(_, name) => FreezeScope::Archetype(name.to_string()),
            Scope::Provider(name) => FreezeScope::Provider(name.to_string()),
        }
    }

    pub(crate) fn within(&self, tenant: &Tenant) -> Scope {
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

fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn touches(scope: &Scope, tenant: &Tenant) -> bool {
    match scope {
        Scope::All | Scope::Provider(_) => true,
        Scope::Tenant(of) | Scope::Agent(of, _) | Scope::Archetype(of, _) => of == tenant,
    }
}

fn freeze_view(freeze: &ledger::Freeze) -> FreezeView {
    FreezeView {
        scope: FreezeScope::of(&freeze.scope),
        at: clock::text(freeze.at_ms),
        by: freeze.by.to_string(),
        reason: Some(freeze.reason.to_string()).filter(|reason| !reason.is_empty()),
        include_rollback: freeze.include_rollback,
    }
}
