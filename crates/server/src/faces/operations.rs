//! What operators need: freezes, observe mode, reload, and whether all is well.

use gateway::{Code, Error, FreezeAsk, FreezeScope, FreezeView};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::figures;
use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// Stops what the scope covers.
pub(crate) async fn freeze(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let FreezeRequest { scope: what, reason, even_if_unknown, include_rollback } = request.json().await?;
    let ask = FreezeAsk { scope: scope(&what)?, reason, even_if_unknown, include_rollback };
    let freeze = gateway.freeze(&caller, ask).await?;
    Ok(reply::json(StatusCode::OK, &Freeze::of(freeze)))
}

/// Lets go on what was stopped.
pub(crate) async fn thaw(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: ThawRequest = request.json().await?;
    let freeze = gateway.thaw(&caller, scope(&ask.scope)?).await?;
    Ok(reply::json(StatusCode::OK, &Freeze::of(freeze)))
}

/// What is frozen.
pub(crate) async fn freezes(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let freezes = gateway.freezes(&caller).await?;
    Ok(reply::list(freezes.into_iter().map(Freeze::of).collect()))
}

/// Begins or ends observe mode.
pub(crate) async fn observe(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: ObserveRequest = request.json().await?;
    let view = gateway.observe(&caller, ask.until).await?;
    Ok(reply::json(StatusCode::OK, &Observe { tenant: view.tenant, until: view.until }))
}

/// Reads catalogue and policies again.
pub(crate) async fn reload(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let report = gateway.reload(&caller).await?;
    let body = Reload {
        catalogue_digest: report.catalogue_digest,
        policy_digest: report.policy_digest,
        entity_digest: report.entity_digest,
        archetypes: report.archetypes,
        policies: report.policies,
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// The process answers.
pub(crate) async fn healthz(_: Request) -> Result<Response, Error> {
    Ok(reply::json(StatusCode::OK, &Health::new("ok")))
}

/// Actions can be taken, in every environment that is served. Why not, and what the store promises, is told to whoever may see the
/// figures; to others only whether, and why not is logged.
pub(crate) async fn readyz(request: Request) -> Result<Response, Error> {
    let faces = &request.site.faces;
    let ready =
        std::iter::once(&faces.production).chain(&faces.sandbox).try_for_each(|gateway| gateway.ready());
    let is_open = sees_figures(&request).await.is_ok();
    let Err(reason) = ready else {
        let store = is_open.then(|| Store::of(faces.production.durability()));
        return Ok(reply::json(StatusCode::OK, &Health { store, ..Health::new("ready") }));
    };
    tracing::warn!(reason, "not ready");
    let health = Health { reason: is_open.then_some(reason), ..Health::new("not ready") };
    Ok(reply::json(StatusCode::SERVICE_UNAVAILABLE, &health))
}

/// The figures of every environment.
pub(crate) async fn metrics(request: Request) -> Result<Response, Error> {
    sees_figures(&request).await?;
    let faces = &request.site.faces;
    let mut text = faces.production.metrics()?;
    if let Some(sandbox) = &faces.sandbox {
        text = figures::merged(&text, &sandbox.metrics()?);
    }
    Ok(reply::bytes_of(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text))
}

/// # Errors
/// Figures are not open here, and no key that was brought opens them.
async fn sees_figures(request: &Request) -> Result<(), Error> {
    match request.site.open_metrics {
        true => Ok(()),
        false => who::caller(request).await?.must(gateway::Deed::ReadTenant),
    }
}

fn scope(text: &str) -> Result<FreezeScope, Error> {
    FreezeScope::parse(text).ok_or_else(|| {
        let why = format!("`{text}` is none of all, tenant, agent:X, archetype:X, provider:X");
        Error::new(Code::ValidationFailed, why).field("/scope")
    })
}

/// What to stop.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FreezeRequest {
    /// `all`, `tenant`, `agent:X`, `archetype:X` or `provider:X`.
    scope: String,
    /// In a few words, for the record.
    reason: Option<String>,
    /// Freeze an agent too that no API key, mandate or action names yet.
    #[serde(default)]
    even_if_unknown: bool,
    /// Whether rollbacks are stopped too; they go on unless this says so.
    #[serde(default)]
    include_rollback: bool,
}

/// What to let go on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ThawRequest {
    /// Exactly as it was frozen.
    scope: String,
}

/// A freeze as it stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct Freeze {
    scope: String,
    /// Since when.
    at: String,
    /// Who froze.
    by: String,
    reason: Option<String>,
    /// Is compensation stopped too?
    include_rollback: bool,
}

/// Freezes.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `reply::list` writes")]
pub(crate) struct FreezeList {
    items: Vec<Freeze>,
}

/// Until when to observe.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObserveRequest {
    /// RFC 3339, within 30 days; null ends it now.
    until: Option<String>,
}

/// Whether the tenant is only observed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Observe {
    tenant: String,
    /// Null: it is not.
    until: Option<String>,
}

/// What is in force after a reload.
#[derive(Serialize, ToSchema)]
pub(crate) struct Reload {
    catalogue_digest: String,
    policy_digest: String,
    entity_digest: String,
    archetypes: usize,
    policies: usize,
}

/// How it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<Store>,
}

/// What holds for what was answered.
#[derive(Serialize, ToSchema)]
pub(crate) struct Store {
    /// `sqlite` or `postgresql`.
    kind: &'static str,
    /// It is on disk.
    fsync: bool,
    /// The setting of PostgreSQL, or `full`.
    synchronous_commit: Box<str>,
    /// A second server has it, too. After a failover to one that was not waited for, what was answered may be gone.
    synchronous_standby: bool,
}

impl Health {
    fn new(status: &'static str) -> Health {
        Health { status, reason: None, store: None }
    }
}

impl Store {
    fn of(durability: gateway::Durability) -> Store {
        let gateway::Durability { store, fsync, synchronous_commit, synchronous_standby } = durability;
        Store { kind: store, fsync, synchronous_commit, synchronous_standby }
    }
}

impl Freeze {
    fn of(view: FreezeView) -> Freeze {
        Freeze {
            scope: view.scope.to_string(),
            at: view.at,
            by: view.by,
            reason: view.reason,
            include_rollback: view.include_rollback,
        }
    }
}
