//! Clusters: sessions that work together, see what each has left, hand time to each other and wait for each other.
//!
//! ```text
//!   form ─▶ join ─▶ (transfer, wait) ─▶ leave, or the end of the session
//!                        │
//!                        └─ a circle of waits is a deadlock at once, and only people resolve it
//! ```
//!
//! How a cluster stands is the ledger's rows, changed there under its lock; nothing of it is kept here.

use std::sync::Arc;

use ledger::{Clustered, Clustering, Deed as Done, Doer, Governed, Link};
use mandate::{
    Account, ClusterContext, ClusterRefusal, ClusterState, Mandate, Partner, Remaining, Resource,
    ResourceEnvelope, SessionRefusal, left_of,
};
use serde_json::{Value, json};

use super::context::envelope;
use super::gar::ale;
use super::{Budget, SessionView, own_only, turn};
use crate::admin::event;
use crate::approvals::readable_as;
use crate::authority::PUBLIC_TOKEN;
use crate::caller::{Caller, Deed, Role};
use crate::decide::judged_caller;
use crate::gateway::{Gateway, MOST_TRIES};
use crate::remember::unavailable;
use crate::row::internal;
use crate::views::not_found;
use crate::{Code, Error, clock};

/// With what a cluster is formed.
#[derive(Clone, Debug)]
pub struct FormAsk {
    /// Its first member.
    pub session_id: String,
    /// When it is over, RFC 3339; absent: when the mandate of that session ends.
    pub deadline: Option<String>,
}

/// What is to go from one member to another.
#[derive(Clone, Debug)]
pub struct TransferAsk {
    /// The caller's own session, which gives it.
    pub from_session_id: String,
    /// The session that gets it.
    pub to_session_id: String,
    /// How much.
    pub transfer_amount: u64,
    /// Of what: `time_seconds`, which is meant where it is left out, `compute_units`, `storage_bytes` or
    /// `network_egress_bytes`.
    pub resource: Option<String>,
}

/// A cluster and how it stands.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Its id.
    pub cluster_id: String,
    /// `ACTIVE`, `CLUSTER_BLOCKED`, `MANDATE_HOLD`, `DEADLOCK` or `TERMINATED`.
    pub state: &'static str,
    /// In the order in which they joined.
    pub members: Vec<MemberView>,
    /// Each once.
    pub principals: Vec<String>,
    /// Seconds left to all members together.
    pub budget_pool: u64,
    /// RFC 3339.
    pub deadline: String,
    /// RFC 3339.
    pub formed_at: String,
    /// Sessions that wait for each other in a circle.
    pub deadlock: Vec<String>,
    /// The record with which it began, or that of what was just done.
    pub record_id: String,
}

/// A member of a cluster.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Its session.
    pub session_id: String,
    /// Whose that is.
    pub agent_id: String,
    /// Its mandate.
    pub mandate_id: String,
    /// In whose name it acts.
    pub principal: String,
    /// How the session stands.
    pub state: &'static str,
    /// The session it waits for.
    pub waits_for: Option<String>,
    /// Seconds left to it.
    pub time_budget_remaining: u64,
    /// What is left to it of all that is limited.
    pub resource_envelope: ResourceEnvelope,
}

/// Sessions that wait for each other in a circle, which only people can end.
#[derive(Clone, Debug)]
pub struct DeadlockView {
    /// Their cluster.
    pub cluster_id: String,
    /// The circle: each waits for the next, and the last for the first.
    pub sessions: Vec<String>,
    /// The principals of the cluster.
    pub principals: Vec<String>,
    /// What a person can do with any one of the sessions.
    pub available_decisions: [&'static str; 3],
}

/// A session that waits for another one, or does so no more.
#[derive(Clone, Debug)]
pub struct Awaiting {
    /// The session after it.
    pub session: SessionView,
    /// And its cluster.
    pub cluster: ClusterView,
}

/// A member with all that what is left to it depends on.
struct Seen {
    governed: Governed,
    /// Its mandate and all that this descends from, leaf first.
    line: Vec<Arc<Mandate>>,
    /// What each of these has used, and was given.
    accounts: Vec<Account>,
    /// What is left to it.
    remaining: Remaining,
    /// Why it can do nothing with them, if its line does not hold any more.
    broken: Option<Error>,
}

impl Gateway {
    /// Forms a cluster with a session of the caller's own as its first member.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` for a session that is somebody else's, `EP_STATE_CONFLICT` where it is not active or a member
    /// elsewhere.
    pub async fn form_cluster(&self, caller: &Caller, ask: FormAsk) -> Result<ClusterView, Error> {
        let governed = self.own(caller, &ask.session_id, "/session_id").await?;
        let seen = self.seen(governed, clock::now_ms()).await?.whole()?;
        let deadline_ms = deadline(ask.deadline.as_deref(), &seen.line)?;
        let random: [u8; 16] = clock::random()?;
        let id = format!("{PREFIX}{}", hex::encode(random));
        let deed = Done::Form { principal: principal_of(&seen.line).into(), deadline_ms };
        self.grouped(caller, &id, &ask.session_id, deed, [Some("/session_id"), None]).await
    }

    /// One cluster.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` also for an agent none of whose sessions is a member.
    pub async fn cluster(&self, caller: &Caller, id: &str) -> Result<ClusterView, Error> {
        let clustered = self.clustered(caller, id).await?;
        self.cluster_view(&clustered, &clustered.opening).await
    }

    /// Has a session of the caller's own join.
    ///
    /// # Errors
    /// As [`Gateway::form_cluster`]; `EP_NOT_FOUND` also for the cluster.
    pub async fn join_cluster(&self, caller: &Caller, id: &str, session: &str) -> Result<ClusterView, Error> {
        let governed = self.own(caller, session, "/session_id").await?;
        let seen = self.seen(governed, clock::now_ms()).await?.whole()?;
        let deed = Done::Join { principal: principal_of(&seen.line).into() };
        self.grouped(caller, id, session, deed, [Some("/session_id"), None]).await
    }

    /// Has a session leave: an agent one of its own, people any of the tenant.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` where it is no member, or where people have to decide first and the caller is an agent.
    pub async fn leave_cluster(
        &self,
        caller: &Caller,
        id: &str,
        session: &str,
    ) -> Result<ClusterView, Error> {
        caller.must(Deed::Halt)?;
        self.limits.before_parsing(caller)?;
        self.named_session(caller, session, "/session_id").await?;
        self.grouped(caller, id, session, Done::Leave, [Some("/session_id"), None]).await
    }

    /// Has nothing of a cluster's members begin until it is released.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents, `EP_STATE_CONFLICT` where it is held already, deadlocked or over.
    pub async fn hold_cluster(
        &self,
        caller: &Caller,
        id: &str,
        reason: Option<String>,
    ) -> Result<ClusterView, Error> {
        let reason = readable_as("reason", reason)?;
        self.of_all(caller, id, Done::Hold { reason }).await
    }

    /// Lets a cluster go on that was held.
    ///
    /// # Errors
    /// As [`Gateway::hold_cluster`]; `EP_STATE_CONFLICT` where it is not held.
    pub async fn release_cluster(&self, caller: &Caller, id: &str) -> Result<ClusterView, Error> {
        self.of_all(caller, id, Done::Release).await
    }

    /// Has people do something with a whole cluster.
    async fn of_all(&self, caller: &Caller, id: &str, deed: Done) -> Result<ClusterView, Error> {
        caller.must(Deed::Halt)?;
        if caller.role == Role::Agent {
            return Err(Error::new(Code::Forbidden, "people hold a cluster and release it, agents do not"));
        }
        self.limits.before_parsing(caller)?;
        let clustered = self.clustered(caller, id).await?;
        let over = || conflict("the cluster has no members any more".to_owned());
        let first = clustered.cluster.members.first().ok_or_else(over)?;
        self.grouped(caller, id, &first.session, deed, UNNAMED).await
    }

    /// Has a session of the caller's own wait for another member of its cluster; without one, has a session wait no more,
    /// which people may, too.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` where something of the session is under way, or it is in no cluster.
    pub async fn wait(&self, caller: &Caller, id: &str, on: Option<&str>) -> Result<Awaiting, Error> {
        let deed = match on {
            Some(on) => Done::Wait { on: on.into() },
            None => Done::Resume,
        };
        if on.is_some() {
            caller.must(Deed::Execute)?;
        }
        caller.must(Deed::Halt)?;
        self.limits.before_parsing(caller)?;
        let governed = self.governed(caller, id).await?;
        let found = self.ledger.cluster_of(&governed.tenant, &governed.session.id).await;
        let found = found.map_err(unavailable)?;
        let cluster = found.ok_or_else(|| {
            Error::new(Code::StateConflict, "the session is a member of no cluster")
                .hint("form one at `POST /v1/clusters`, or join one")
        })?;
        let cluster = self.grouped(caller, &cluster.cluster.id, id, deed, [None, Some("/on")]).await?;
        Ok(Awaiting { session: self.session(caller, id).await?, cluster })
    }

    /// Hands time or resources from a session of the caller's own to another member.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` where the policies do not permit it, which is on record; `EP_VALIDATION_FAILED` naming what cannot be.
    pub async fn transfer(&self, caller: &Caller, id: &str, ask: TransferAsk) -> Result<ClusterView, Error> {
        let source = self.own(caller, &ask.from_session_id, "/from_session_id").await?;
        // One after another, so that policies see what the one before left.
        let _turn = self.tenant(&caller.tenant)?.budgets.lock().await;
        for _ in 0..MOST_TRIES {
            if let Some(cluster) = self.try_to_transfer(caller, id, source.clone(), &ask).await? {
                return Ok(cluster);
            }
        }
        Err(Error::new(Code::Unavailable, "what the two have left kept changing meanwhile").retry_after(1))
    }

    /// `None`: what they have left changed since the policies were asked.
    async fn try_to_transfer(
        &self,
        caller: &Caller,
        id: &str,
        source: Governed,
        ask: &TransferAsk,
    ) -> Result<Option<ClusterView>, Error> {
        let clustered = self.clustered(caller, id).await?;
        let fields = [Some("/from_session_id"), Some("/to_session_id")];
        let cluster_refuses = |refusal| refused(refusal, &ask.from_session_id, fields);
        let (resource, amount) = (resource_of(ask.resource.as_deref())?, ask.transfer_amount);
        if amount == 0 {
            let why = "transfer_amount is at least 1";
            return Err(Error::new(Code::ValidationFailed, why).field("/transfer_amount"));
        }
        for session in [&ask.from_session_id, &ask.to_session_id] {
            clustered.cluster.member(session).map_err(cluster_refuses)?;
        }
        let now_ms = clock::now_ms();
        let target = self.ledger.session(&caller.tenant, &ask.to_session_id).await.map_err(unavailable)?;
        let target = target.ok_or_else(|| not_found("session").field("/to_session_id"))?;
        let source = self.seen(source, now_ms).await?.whole()?;
        let target = self.seen(target, now_ms).await?.whole()?;
        for seen in [&source, &target] {
            if seen.line.iter().any(|mandate| mandate.expires_at <= now_ms.div_euclid(1000)) {
                return Err(cluster_refuses(ClusterRefusal::Stopped {
                    session: seen.governed.session.id.clone(),
                }));
            }
            // Before the policies are asked about what there is no end of.
            if seen.line.first().is_some_and(|leaf| leaf.resource_envelope.of(resource).is_none()) {
                let session = seen.governed.session.id.clone();
                return Err(cluster_refuses(ClusterRefusal::NoLimit { session, resource }));
            }
        }
        // What ends with a mandate is not there to be given either. The ledger looks at the accounts once more.
        clustered
            .cluster
            .transfer(
                &ask.from_session_id,
                &ask.to_session_id,
                (resource, amount),
                [source.left(resource), target.left(resource)],
                now_ms,
            )
            .map_err(cluster_refuses)?;
        let policies =
            self.permitted(caller, &clustered, [&source, &target], (resource, amount), now_ms).await?;
        let transfer = ledger::Transfer {
            to: ask.to_session_id.as_str().into(),
            resource,
            amount,
            source: source.links(),
            target: target.links(),
            judged: Some([source.counted(resource), target.counted(resource)]),
            policies,
        };
        let deed = Done::Transfer(transfer);
        let clustering = self.clustering(caller, id, &ask.from_session_id, deed)?;
        match self.ledger.group(clustering).await {
            Ok(grouped) => self.cluster_view(&grouped.cluster, &grouped.record_id).await.map(Some),
            Err(ledger::Error::Changed(_)) => Ok(None),
            Err(error) => Err(not_grouped(error, &ask.from_session_id, fields)),
        }
    }

    /// Asks the policies; a transfer that they do not permit is a record of the session.
    async fn permitted(
        &self,
        caller: &Caller,
        clustered: &Clustered,
        [source, target]: [&Seen; 2],
        (resource, amount): (Resource, u64),
        now_ms: i64,
    ) -> Result<Vec<String>, Error> {
        let tenant = self.tenant(&caller.tenant)?;
        let context = self.cluster_context(clustered, now_ms).await?;
        let asked = boundary::may_transfer(
            &tenant.rules().policies,
            &boundary::Transfer {
                environment: self.environment,
                caller: &judged_caller(caller),
                cluster: &context,
                target: &target.governed.session.id,
                principals: [principal_of(&source.line), principal_of(&target.line)],
                left: [source.left(resource), target.left(resource)],
                depth: source.line.len() - 1,
                resource,
                amount,
                now_ms,
            },
        );
        let ids = |policies: Vec<boundary::PolicyRef>| {
            policies.into_iter().map(|policy| policy.id.to_string()).collect::<Vec<_>>()
        };
        let unpermitted = match asked {
            Ok(policies) => return Ok(ids(policies)),
            Err(unpermitted) => unpermitted,
        };
        if let Some(detail) = &unpermitted.detail {
            tracing::warn!(cluster = %context.cluster_id, %detail, "a transfer was not decided on");
        }
        let fields = json!({
            "amount": amount, "cedar_policy_ids": ids(unpermitted.policies), "cluster_id": &context.cluster_id,
            "from_session_id": &source.governed.session.id, "resource": resource.word(), "to_session_id": &target.governed.session.id,
        });
        let record = ale(None, fields, json!({"by": caller.subject.as_str()}));
        let turn = turn(&source.governed, None, None, event(tenant, TRANSFER_REFUSED, &record));
        self.ledger.turn(turn).await.map_err(unavailable)?;
        Err(Error::new(Code::Forbidden, "the policies do not permit this transfer").hint(
            "between members of different principals a policy has to permit `Action::\"BUDGET_TRANSFER\"`",
        ))
    }

    /// Circles of waits in the caller's tenant, which only people can end.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn deadlocks(&self, caller: &Caller) -> Result<Vec<DeadlockView>, Error> {
        caller.must(Deed::ReadTenant)?;
        let stuck = self.ledger.deadlocks(&caller.tenant).await.map_err(unavailable)?;
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let view = |it: Clustered| DeadlockView {
            cluster_id: it.cluster.id.to_string(),
            sessions: owned(it.cluster.deadlock()),
            principals: owned(it.cluster.principals()),
            available_decisions: ["END_WAIT", "LEAVE", "REVOKE_SESSION"],
        };
        Ok(stuck.into_iter().map(view).collect())
    }

    /// The cluster of a session, as the Context Package shows it.
    pub(crate) async fn around(
        &self,
        governed: &Governed,
        now_ms: i64,
    ) -> Result<Option<ClusterContext>, Error> {
        let found = self.ledger.cluster_of(&governed.tenant, &governed.session.id).await;
        match found.map_err(unavailable)? {
            Some(clustered) => self.cluster_context(&clustered, now_ms).await.map(Some),
            None => Ok(None),
        }
    }

    async fn cluster_context(&self, clustered: &Clustered, now_ms: i64) -> Result<ClusterContext, Error> {
        let cluster = &clustered.cluster;
        let seen = self.members(clustered, now_ms).await?;
        let partner = |(member, seen): (&mandate::Member, &Seen)| Partner {
            session_id: member.session.clone(),
            remaining: seen.remaining,
            waits_for: member.waits_for.clone(),
        };
        Ok(ClusterContext {
            cluster_id: cluster.id.clone(),
            members: cluster.members.iter().zip(&seen).map(partner).collect(),
            principals: cluster.principals().into_iter().map(Box::from).collect(),
            pool_seconds: pool(&seen),
            deadline_ms: cluster.deadline_ms,
            state: cluster.state_at(now_ms),
        })
    }

    /// Its members, in their order.
    async fn members(&self, clustered: &Clustered, now_ms: i64) -> Result<Vec<Seen>, Error> {
        let mut seen = Vec::with_capacity(clustered.cluster.members.len());
        for member in &clustered.cluster.members {
            let governed = self.ledger.session(&clustered.tenant, &member.session).await;
            let governed = governed.map_err(unavailable)?;
            let governed = governed.ok_or_else(|| internal("a member's session is gone"))?;
            seen.push(self.seen(governed, now_ms).await?);
        }
        Ok(seen)
    }

    async fn seen(&self, governed: Governed, now_ms: i64) -> Result<Seen, Error> {
        match self.whole_line(&governed).await? {
            Ok(line) => {
                let (_, accounts) = self.left(&governed.tenant, &line).await?;
                let remaining = Budget::of(line.iter().zip(&accounts), now_ms).remaining();
                Ok(Seen { governed, line, accounts, remaining, broken: None })
            }
            Err(broken) => {
                let line = vec![self.mandate_of(&governed)?];
                let remaining = Remaining::of_time(0);
                Ok(Seen { governed, line, accounts: Vec::new(), remaining, broken: Some(broken) })
            }
        }
    }

    /// All that the session's mandate descends from, or why that does not hold: time is not moved past a mandate that nobody
    /// looked at.
    async fn whole_line(&self, governed: &Governed) -> Result<Result<Vec<Arc<Mandate>>, Error>, Error> {
        let id = &governed.session.mandate_id;
        if **id == *PUBLIC_TOKEN {
            return Ok(Ok(vec![self.mandate_of(governed)?]));
        }
        Ok(match self.line(&governed.tenant, id).await? {
            Some(Ok(line)) => Ok(line.mandates.clone()),
            Some(Err(refusal)) => Err(conflict(refusal.to_string())),
            None => Err(conflict("the mandate of a session is not known any more".to_owned())),
        })
    }

    /// Lets an agent begin under these mandates, leaf first, if none of its sessions under them is in a cluster about which
    /// people have to decide. The ledger has the last word when the session opens: this one is for whoever would write
    /// something before.
    pub(crate) async fn may_begin(&self, caller: &Caller, line: &[Arc<Mandate>]) -> Result<(), Error> {
        let Some(root) = line.last() else { return Ok(()) };
        let open = self.ledger.sessions_under(&caller.tenant, &root.jti).await.map_err(unavailable)?;
        let counts = |governed: &&Governed| {
            governed.session.subject == caller.subject
                && line.iter().any(|mandate| *mandate.jti == *governed.session.mandate_id)
        };
        for governed in open.iter().filter(counts) {
            let found = self.ledger.cluster_of(&caller.tenant, &governed.session.id).await;
            if let Some(found) = found.map_err(unavailable)? {
                found.cluster.must_be_free().map_err(|refusal| refused(refusal, "", UNNAMED))?;
            }
        }
        Ok(())
    }

    /// A session of the caller's own, which acts.
    async fn own(&self, caller: &Caller, id: &str, field: &str) -> Result<Governed, Error> {
        caller.must(Deed::Execute)?;
        self.limits.before_parsing(caller)?;
        let governed = self.named_session(caller, id, field).await?;
        match governed.session.subject == caller.subject {
            true => Ok(governed),
            false => Err(not_found("session").field(field)),
        }
    }

    async fn named_session(&self, caller: &Caller, id: &str, field: &str) -> Result<Governed, Error> {
        self.governed(caller, id).await.map_err(|error| match error.code {
            Code::NotFound => error.field(field),
            _ => error,
        })
    }

    /// A cluster that the caller may see: a member of it, or whoever may see all of the tenant.
    async fn clustered(&self, caller: &Caller, id: &str) -> Result<Clustered, Error> {
        caller.must(Deed::ReadOwn)?;
        let found = self.ledger.cluster(&caller.tenant, id).await.map_err(unavailable)?;
        let clustered = found.ok_or_else(|| not_found("cluster"))?;
        let Some(own) = own_only(caller) else { return Ok(clustered) };
        for member in &clustered.cluster.members {
            let session = self.ledger.session(&caller.tenant, &member.session).await.map_err(unavailable)?;
            if session.is_some_and(|it| it.session.subject == *own) {
                return Ok(clustered);
            }
        }
        Err(not_found("cluster"))
    }

    /// Has the ledger do it. `fields` name the session that does it and the other one in what was asked, where it does.
    async fn grouped(
        &self,
        caller: &Caller,
        id: &str,
        session: &str,
        deed: Done,
        fields: Fields,
    ) -> Result<ClusterView, Error> {
        let waits = matches!(deed, Done::Wait { .. });
        let clustering = self.clustering(caller, id, session, deed)?;
        let grouped = self.ledger.group(clustering).await;
        let grouped = grouped.map_err(|error| not_grouped(error, session, fields))?;
        if waits && grouped.cluster.cluster.state() == ClusterState::Deadlock {
            self.alert_deadlock(&caller.tenant, id, &grouped.record_id);
        }
        self.cluster_view(&grouped.cluster, &grouped.record_id).await
    }

    /// A deed of the caller's, for the ledger.
    fn clustering(&self, caller: &Caller, id: &str, session: &str, deed: Done) -> Result<Clustering, Error> {
        let tenant = self.tenant(&caller.tenant)?;
        Ok(Clustering {
            tenant: caller.tenant.clone(),
            tenant_ref: Some(Arc::clone(&tenant.reference)),
            cluster: id.into(),
            session: session.into(),
            deed,
            by: Some(Doer { subject: caller.subject.clone(), person: caller.role != Role::Agent }),
            at_ms: clock::now_ms(),
        })
    }

    async fn cluster_view(&self, clustered: &Clustered, record_id: &str) -> Result<ClusterView, Error> {
        let (cluster, now_ms) = (&clustered.cluster, clock::now_ms());
        let seen = self.members(clustered, now_ms).await?;
        let member = |(member, seen): (&mandate::Member, &Seen)| MemberView {
            session_id: member.session.to_string(),
            agent_id: seen.governed.session.subject.to_string(),
            mandate_id: member.mandate_id.to_string(),
            principal: member.principal.to_string(),
            state: seen.governed.session.state().as_str(),
            waits_for: member.waits_for.as_deref().map(str::to_owned),
            time_budget_remaining: seen.remaining.time_seconds,
            resource_envelope: envelope(&seen.remaining),
        };
        Ok(ClusterView {
            cluster_id: cluster.id.to_string(),
            state: cluster.state_at(now_ms).as_str(),
            members: cluster.members.iter().zip(&seen).map(member).collect(),
            principals: cluster.principals().into_iter().map(str::to_owned).collect(),
            budget_pool: pool(&seen),
            deadline: clock::text(cluster.deadline_ms),
            formed_at: clock::text(clustered.formed_ms),
            deadlock: cluster.deadlock().into_iter().map(str::to_owned).collect(),
            record_id: record_id.to_owned(),
        })
    }
}

impl Seen {
    /// Only whose whole line holds may have anything done with its time.
    fn whole(self) -> Result<Seen, Error> {
        match self.broken {
            None => Ok(self),
            Some(broken) => Err(broken),
        }
    }

    /// So much of it is left; where there is no limit, any.
    fn left(&self, resource: Resource) -> u64 {
        self.remaining.of(resource).unwrap_or(u64::MAX)
    }

    /// The same by its accounts alone, whenever its mandates end.
    fn counted(&self, resource: Resource) -> u64 {
        let limits = self.line.iter().map(|mandate| mandate.limits());
        left_of(resource, self.accounts.iter().cloned().zip(limits))
    }

    fn links(&self) -> Vec<Link> {
        let link =
            |mandate: &Arc<Mandate>| Link { jti: mandate.jti.as_str().into(), limits: mandate.limits() };
        self.line.iter().map(link).collect()
    }
}

/// A package's cluster, as its agent is shown it.
pub(crate) fn shown_cluster(cluster: &ClusterContext) -> Value {
    let member = |it: &Partner| {
        json!({
            "resource_envelope": envelope(&it.remaining), "session_id": it.session_id,
            "time_budget_remaining": it.remaining.time_seconds, "waits_for": it.waits_for,
        })
    };
    json!({
        "budget_pool": cluster.pool_seconds, "cluster_id": cluster.cluster_id,
        "deadline": clock::text(cluster.deadline_ms),
        "members": cluster.members.iter().map(member).collect::<Vec<_>>(),
        "principals": cluster.principals, "state": cluster.state.as_str(),
    })
}

/// What all have together: what descends from the mandate of another member is that one's already.
fn pool(seen: &[Seen]) -> u64 {
    let id = |seen: &Seen| seen.line.first().map(|mandate| mandate.jti.clone());
    let own = |(at, it): &(usize, &Seen)| {
        let earlier = seen[..*at].iter().any(|other| id(other) == id(it));
        let above = it.line.iter().skip(1).any(|above| {
            seen.iter().any(|other| other.line.first().is_some_and(|other| other.jti == above.jti))
        });
        !earlier && !above
    };
    seen.iter()
        .enumerate()
        .filter(own)
        .fold(0, |sum: u64, (_, it)| sum.saturating_add(it.remaining.time_seconds))
}

fn principal_of(line: &[Arc<Mandate>]) -> &str {
    line.first().map_or("", |mandate| mandate.root_principal())
}

/// What is handed on.
fn resource_of(word: Option<&str>) -> Result<Resource, Error> {
    let Some(word) = word else { return Ok(Resource::Seconds) };
    let unknown = || {
        let known = Resource::ALL.into_iter().filter(|it| it.is_used_up()).map(Resource::word);
        let why = format!("resource is one of {}", known.collect::<Vec<_>>().join(", "));
        Error::new(Code::ValidationFailed, why).field("/resource")
    };
    let resource = Resource::parse(word).ok_or_else(unknown)?;
    match resource.is_used_up() {
        true => Ok(resource),
        false => Err(refused(ClusterRefusal::NeverLeftOver(resource), "", UNNAMED)),
    }
}

/// When a cluster is over: before the mandate of who forms it.
fn deadline(asked: Option<&str>, line: &[Arc<Mandate>]) -> Result<i64, Error> {
    let ends = line.iter().map(|mandate| mandate.expires_at).min().unwrap_or(0).saturating_mul(1000);
    let Some(asked) = asked else { return Ok(ends) };
    let wrong = |why: &str| Error::new(Code::ValidationFailed, why).field("/deadline");
    match clock::parse_ms(asked) {
        Err(why) => Err(wrong(&format!("deadline {why}"))),
        Ok(at) if at <= clock::now_ms() => Err(wrong("deadline has passed")),
        Ok(at) if at > ends => Err(wrong("deadline is after the end of the session's mandate")),
        Ok(at) => Ok(at),
    }
}

/// What it means that the ledger did not do it.
fn not_grouped(error: ledger::Error, session: &str, fields: Fields) -> Error {
    match error {
        ledger::Error::Cluster(refusal) => refused(refusal, session, fields),
        ledger::Error::Session(SessionRefusal::State(state)) => {
            conflict(format!("the session is {}", state.as_str()))
        }
        ledger::Error::Session(SessionRefusal::InFlight { actions }) => {
            conflict(format!("{actions} actions of the session are under way"))
                .hint("wait once they are settled: the clock stands still for a session that waits")
        }
        ledger::Error::Absent(_) => not_found("cluster"),
        other => unavailable(other),
    }
}

/// What a refusal means to whoever asked, with the member that names the session at fault.
pub(super) fn refused(refusal: ClusterRefusal, session: &str, [own, other]: Fields) -> Error {
    let named = |error: Error, field: Option<&str>| field.into_iter().fold(error, Error::field);
    let invalid = |why: &str, field| named(Error::new(Code::ValidationFailed, why), field);
    let at = |it: &str| if *it == *session { own } else { other };
    match refusal {
        ClusterRefusal::State(ClusterState::MandateHold) => {
            conflict("the cluster is MANDATE_HOLD".to_owned())
                .hint("an operator, admin or approver releases it")
        }
        ClusterRefusal::State(state) => conflict(format!("the cluster is {}", state.as_str())),
        ClusterRefusal::Over => conflict("the deadline of the cluster has passed".to_owned()),
        ClusterRefusal::NotMember { session } => {
            invalid("the session is no member of the cluster", at(&session))
        }
        ClusterRefusal::AlreadyMember => conflict("the session is a member already".to_owned()),
        ClusterRefusal::Elsewhere => conflict("the session is a member of another cluster".to_owned()),
        ClusterRefusal::Full => conflict("the cluster has no room for another member".to_owned()),
        ClusterRefusal::ForPeople => conflict("members wait for each other in a circle".to_owned())
            .hint("an operator, admin or approver resolves it, or ends a session"),
        ClusterRefusal::WaitsForItself => invalid("a session cannot wait for itself", other),
        ClusterRefusal::AlreadyWaiting => conflict("the session waits already".to_owned()),
        ClusterRefusal::NotWaiting => conflict("the session does not wait".to_owned()),
        ClusterRefusal::NothingToTransfer => {
            invalid("nothing would move: both sessions are under one mandate", other)
        }
        ClusterRefusal::OneLine => invalid(
            "the mandate of one of the two descends from that of the other: they share what there is",
            other,
        ),
        ClusterRefusal::NeverLeftOver(resource) => {
            let why = "is a high-water mark and no sum: it is never used up, so none of it can be handed on";
            invalid(&format!("{} {why}", resource.word()), Some("/resource"))
        }
        ClusterRefusal::NoLimit { session, resource } => {
            let member = resource.member();
            let why = format!("the mandate of this session sets no {member}, so nothing can be counted");
            invalid(&why, at(&session))
        }
        ClusterRefusal::Stopped { session } => {
            let why = "the mandate of this session, or one above it, is over, revoked or frozen";
            named(conflict(why.to_owned()), at(&session))
        }
        ClusterRefusal::MoreThanLeft { left } => {
            invalid(&format!("no more than {left} of it is left to the session"), Some("/transfer_amount"))
        }
        ClusterRefusal::MoreThanCounts => {
            invalid("the other session would have more than 2^53-1 of it", Some("/transfer_amount"))
        }
    }
}

fn conflict(why: String) -> Error {
    Error::new(Code::StateConflict, why)
}

/// What the id of a cluster begins with. Who knows one may join: it cannot be guessed, and only members are shown it.
const PREFIX: &str = "clu_";
/// The members of a request that name the session that does something, and the other one.
type Fields = [Option<&'static str>; 2];
/// The request names neither.
pub(super) const UNNAMED: Fields = [None, None];
const TRANSFER_REFUSED: &str = "cluster_transfer_refused";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_why_in_words_of_the_caller() {
        let of = |refusal| {
            let error = refused(refusal, "a", [Some("/from"), Some("/to")]);
            (error.code, error.field)
        };
        let field = |name: &str| Some(name.to_owned());
        let invalid = Code::ValidationFailed;
        assert_eq!(of(ClusterRefusal::NotMember { session: "a".into() }), (invalid, field("/from")));
        assert_eq!(of(ClusterRefusal::NotMember { session: "b".into() }), (invalid, field("/to")));
        assert_eq!(
            of(ClusterRefusal::NoLimit { session: "b".into(), resource: Resource::Seconds }),
            (invalid, field("/to"))
        );
        assert_eq!(of(ClusterRefusal::MoreThanLeft { left: 3 }), (invalid, field("/transfer_amount")));
        assert_eq!(of(ClusterRefusal::WaitsForItself), (invalid, field("/to")));
        assert_eq!(of(ClusterRefusal::Over), (Code::StateConflict, None));
    }
}
