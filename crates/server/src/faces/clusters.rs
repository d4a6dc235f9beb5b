//! Clusters of governed sessions: formed, joined, left; time and resources handed on; and waiting for another member.

use gateway::{
    Awaiting, ClusterView, Code, Error, FormAsk, MemberView, ResourceEnvelope, TransferAsk, no_others,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mandates::ReasonRequest;
use super::sessions::Session;
use crate::reply;
use crate::request::{Request, Response, read};
use crate::who;

/// Forms one.
pub(crate) async fn form(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let body = request.value().await?;
    no_others(&body, &["session_id", "deadline"], Code::ValidationFailed)?;
    let ClusterRequest { session_id, deadline } = read(body)?;
    let formed = gateway.form_cluster(&caller, FormAsk { session_id, deadline }).await?;
    Ok(reply::json(StatusCode::CREATED, &Cluster::of(formed)))
}

/// One of them.
pub(crate) async fn show(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let cluster = gateway.cluster(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Cluster::of(cluster)))
}

/// Has a session join it.
pub(crate) async fn join(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let member = member(request.value().await?)?;
    let cluster = gateway.join_cluster(&caller, &request.argument, &member).await?;
    Ok(reply::json(StatusCode::OK, &Cluster::of(cluster)))
}

/// Has a session leave it.
pub(crate) async fn leave(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let member = member(request.value().await?)?;
    let cluster = gateway.leave_cluster(&caller, &request.argument, &member).await?;
    Ok(reply::json(StatusCode::OK, &Cluster::of(cluster)))
}

/// Has nothing of its members begin.
pub(crate) async fn hold(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let body = request.value_if_any().await?;
    no_others(&body, &["reason"], Code::ValidationFailed)?;
    let ReasonRequest { reason } = read(body)?;
    let cluster = gateway.hold_cluster(&caller, &request.argument, reason).await?;
    Ok(reply::json(StatusCode::OK, &Cluster::of(cluster)))
}

/// Lets it go on.
pub(crate) async fn release(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    no_others(&request.value_if_any().await?, &[], Code::ValidationFailed)?;
    let cluster = gateway.release_cluster(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Cluster::of(cluster)))
}

/// Hands time or resources from one member to another.
pub(crate) async fn transfer(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let body = request.value().await.map_err(more_than_counts)?;
    let members = ["from_session_id", "to_session_id", "transfer_amount", "resource"];
    no_others(&body, &members, Code::ValidationFailed)?;
    let TransferRequest { from_session_id, to_session_id, transfer_amount, resource } = read(body)?;
    let ask = TransferAsk { from_session_id, to_session_id, transfer_amount, resource };
    let cluster = gateway.transfer(&caller, &request.argument, ask).await?;
    Ok(reply::json(StatusCode::OK, &Cluster::of(cluster)))
}

/// Has a session wait for another member, or no more.
pub(crate) async fn wait(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let body = request.value().await?;
    no_others(&body, &["on"], Code::ValidationFailed)?;
    if body.get("on").is_none() {
        let why = "say on whom the session waits, or null: it waits no more";
        return Err(Error::new(Code::ValidationFailed, why).field("/on"));
    }
    let WaitRequest { on } = read(body)?;
    let waits = gateway.wait(&caller, &request.argument, on.as_deref()).await?;
    Ok(reply::json(StatusCode::OK, &Waiting::of(waits)))
}

/// An amount that JSON does not hold exactly is more than anybody has, and no fault of the document.
fn more_than_counts(error: Error) -> Error {
    match error.field.as_deref() {
        Some(amount @ "/transfer_amount") if error.message.contains("2^53") => {
            Error::new(Code::ValidationFailed, error.message.clone()).field(amount)
        }
        _ => error,
    }
}

fn member(body: serde_json::Value) -> Result<String, Error> {
    no_others(&body, &["session_id"], Code::ValidationFailed)?;
    let MemberRequest { session_id } = read(body)?;
    Ok(session_id)
}

/// With what a cluster is formed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterRequest {
    /// A session of the caller's own, its first member.
    session_id: String,
    /// RFC 3339; absent: the end of that session's mandate. Nothing of its members begins after it.
    deadline: Option<String>,
}

/// A session that joins a cluster or leaves it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberRequest {
    session_id: String,
}

/// What is to go from one member of a cluster to another.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransferRequest {
    /// The caller's own session.
    from_session_id: String,
    /// Another member.
    to_session_id: String,
    /// No more than what of it is left to the first.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_u64)]
    transfer_amount: u64,
    /// Of what: `time_seconds`, which is meant where it is absent, `compute_units`, `storage_bytes` or
    /// `network_egress_bytes`.
    resource: Option<String>,
}

/// For which member of its cluster a session waits.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitRequest {
    /// That session; null: it waits no more.
    on: Option<String>,
}

/// A cluster and how it stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cluster {
    /// Who knows it may join.
    cluster_id: String,
    /// `ACTIVE`, `CLUSTER_BLOCKED`, `MANDATE_HOLD`, `DEADLOCK` or `TERMINATED`.
    state: &'static str,
    /// In the order in which they joined.
    members: Vec<ClusterMember>,
    /// In whose names they act, each once.
    principals: Vec<String>,
    /// Seconds left to all of them together.
    budget_pool: u64,
    deadline: String,
    formed_at: String,
    /// Sessions that wait for each other in a circle; people resolve that.
    deadlock: Vec<String>,
    /// The governance record of what was just done; of one that is only looked at, its first.
    record_id: String,
}

/// A session in a cluster.
#[derive(Serialize, ToSchema)]
pub(crate) struct ClusterMember {
    session_id: String,
    agent_id: String,
    mandate_id: String,
    /// The root principal of its mandate.
    principal: String,
    /// As `GET /v1/sessions/{id}` says it.
    state: &'static str,
    /// The session it waits for.
    waits_for: Option<String>,
    /// Seconds left to it.
    time_budget_remaining: u64,
    /// What is left to it of all that is limited.
    #[schema(value_type = Object)]
    resource_envelope: ResourceEnvelope,
}

/// A session that waits, or does no more, and its cluster.
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    session: Session,
    cluster: Cluster,
}

impl Cluster {
    fn of(view: ClusterView) -> Cluster {
        Cluster {
            cluster_id: view.cluster_id,
            state: view.state,
            members: view.members.into_iter().map(ClusterMember::of).collect(),
            principals: view.principals,
            budget_pool: view.budget_pool,
            deadline: view.deadline,
            formed_at: view.formed_at,
            deadlock: view.deadlock,
            record_id: view.record_id,
        }
    }
}

impl ClusterMember {
    fn of(view: MemberView) -> ClusterMember {
        ClusterMember {
            session_id: view.session_id,
            agent_id: view.agent_id,
            mandate_id: view.mandate_id,
            principal: view.principal,
            state: view.state,
            waits_for: view.waits_for,
            time_budget_remaining: view.time_budget_remaining,
            resource_envelope: view.resource_envelope,
        }
    }
}

impl Waiting {
    fn of(view: Awaiting) -> Waiting {
        Waiting { session: Session::of(&view.session), cluster: Cluster::of(view.cluster) }
    }
}
