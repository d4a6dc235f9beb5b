//! The Context Package: what a cycle is judged with and its agent may know. The gateway builds it; an agent's own version
//! of it is refused.

use std::sync::Arc;

use action::{ActionId, Tenant};
use ledger::Governed;
use mandate::{
    Account, ContextPackage, Declaration, Limits, Mandate, Remaining, ResourceEnvelope, SessionState,
};
use serde_json::{Value, json};

use super::SessionLimits;
use super::clusters::shown_cluster;
use crate::approvals::HeldView;
use crate::authority::PUBLIC_TOKEN;
use crate::caller::Caller;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::{Error, clock};

/// The Context Package of a session, as it stands.
#[derive(Clone, Debug)]
pub struct ContextView {
    /// The session.
    pub session_id: String,
    /// Its mandate.
    pub mandate_id: String,
    /// The newest declaration that is in force.
    pub intent_id: Option<String>,
    /// As that declared it.
    pub reasoning_mode: Option<&'static str>,
    /// The cycle it travels with; `None` between cycles.
    pub cycle_id: Option<String>,
    /// The highest number of a declaration or cycle so far.
    pub sequence: u64,
    /// Seconds that are left.
    pub time_budget_remaining: u64,
    /// What is left beside time.
    pub resource_envelope: ResourceEnvelope,
    /// In whose name.
    pub delegation_context: DelegationContext,
    /// The cluster the session is a member of, if it is.
    pub cluster_context: Option<Value>,
    /// How far people agreed to whatever it does, if not as far as its mandate goes.
    pub session_limits: Option<SessionLimits>,
    /// Cycles denied so far.
    pub prior_denial_count: u32,
    /// What of it waits for people, and what they ask.
    pub escalation: Option<Box<HeldView>>,
    /// `sha256:` and hex over what stays from cycle to cycle; another one means another situation.
    pub fingerprint: String,
}

/// In whose name a session acts.
#[derive(Clone, Debug)]
pub struct DelegationContext {
    /// Mandates that its mandate descends from, root first.
    pub delegation_chain: Vec<String>,
    /// How many those are.
    pub delegation_depth: usize,
    /// Who granted the first of them.
    pub root_principal: String,
}

impl Gateway {
    /// The Context Package of a session.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` also for what is somebody else's.
    pub async fn context(&self, caller: &Caller, id: &str) -> Result<ContextView, Error> {
        let governed = self.governed(caller, id).await?;
        let now_ms = clock::now_ms();
        let intent = self.intent_in_force(&governed, now_ms).await?;
        let context = self.context_of(&governed, intent.as_deref(), now_ms).await?;
        Ok(ContextView { escalation: self.pending_of(&governed).await?.map(Box::new), ..context })
    }

    /// The newest declaration of a session, if it is not over.
    pub(crate) async fn intent_in_force(
        &self,
        governed: &Governed,
        now_ms: i64,
    ) -> Result<Option<Arc<Declaration>>, Error> {
        let newest = self.declaration(governed, None).await?;
        Ok(newest.filter(|declared| now_ms < declared.expires_ms))
    }

    /// As it is between cycles.
    pub(crate) async fn context_of(
        &self,
        governed: &Governed,
        intent: Option<&Declaration>,
        now_ms: i64,
    ) -> Result<ContextView, Error> {
        let (mandates, budget) = self.budget_of(governed, now_ms).await?;
        let mut package = budget.package(governed, intent, governed.session.sequence, None);
        package.cluster = self.around(governed, now_ms).await?;
        let root = mandates.first().map_or("", |mandate| mandate.root_principal());
        let session_limits = SessionLimits::of(governed.session.limits);
        Ok(ContextView { session_limits, ..ContextView::of(&package, root) })
    }

    /// When the first mandate ends that a session stands under, in Unix milliseconds.
    pub(crate) async fn session_ends(&self, tenant: &Tenant, id: &str) -> Result<i64, Error> {
        let found = self.ledger.session(tenant, id).await.map_err(unavailable)?;
        let governed = found.ok_or_else(|| internal("the session of a cycle is gone"))?;
        let mandates = self.mandates_of(&governed).await?;
        let ends_s = mandates.iter().map(|mandate| mandate.expires_at).min();
        Ok(ends_s.unwrap_or(i64::MAX).saturating_mul(1000))
    }

    /// The mandates of a session, and what they have left together.
    pub(super) async fn budget_of(
        &self,
        governed: &Governed,
        now_ms: i64,
    ) -> Result<(Vec<Arc<Mandate>>, Budget), Error> {
        let mandates = self.mandates_of(governed).await?;
        let (_, accounts) = self.left(&governed.tenant, &mandates).await?;
        let budget = Budget::of(mandates.iter().zip(&accounts), now_ms);
        Ok((mandates, budget))
    }

    /// The mandate that a session was opened with and all that it descends from, leaf first.
    pub(super) async fn mandates_of(&self, governed: &Governed) -> Result<Vec<Arc<Mandate>>, Error> {
        if *governed.session.mandate_id != *PUBLIC_TOKEN
            && let Some(Ok(line)) = self.line(&governed.tenant, &governed.session.mandate_id).await?
        {
            return Ok(line.mandates.clone());
        }
        Ok(vec![self.mandate_of(governed)?])
    }
}

/// What a mandate and all that it descends from have left together.
pub(crate) struct Budget {
    left: Limits,
    time_seconds: u64,
    delegation: Option<mandate::DelegationContext>,
}

impl Budget {
    /// From each mandate and its account, leaf first. Time ends with the first of them that ends.
    pub(crate) fn of<'a>(
        chain: impl Iterator<Item = (&'a Arc<Mandate>, &'a Account)>,
        now_ms: i64,
    ) -> Budget {
        let chain: Vec<_> = chain.collect();
        let left = chain
            .iter()
            .fold(Limits::default(), |left, (mandate, account)| left.least(&account.left(&mandate.limits())));
        let ends = chain.iter().map(|(mandate, _)| mandate.expires_at).min();
        let until = ends.and_then(|ends| u64::try_from(ends.saturating_sub(now_ms.div_euclid(1000))).ok());
        let until = until.unwrap_or(0);
        let leaf = chain.first().map(|(mandate, _)| *mandate).filter(|mandate| !mandate.chain.is_empty());
        Budget {
            time_seconds: left.envelope.max_duration_seconds.map_or(until, |most| most.min(until)),
            left,
            delegation: leaf.map(|mandate| mandate::DelegationContext {
                chain: mandate.chain.clone(),
                root_principal: mandate.root_principal().into(),
            }),
        }
    }

    /// All of it.
    pub(super) fn remaining(&self) -> Remaining {
        let envelope = &self.left.envelope;
        Remaining {
            time_seconds: self.time_seconds,
            compute_units: envelope.max_compute_units,
            memory_bytes: envelope.max_memory_bytes,
            storage_bytes: envelope.max_storage_bytes,
            network_egress_bytes: envelope.max_network_egress_bytes,
        }
    }

    /// The package of a cycle of the session, or, without one, of the session between cycles; without its cluster.
    pub(crate) fn package(
        &self,
        governed: &Governed,
        intent: Option<&Declaration>,
        sequence: u64,
        cycle: impl Into<Option<ActionId>>,
    ) -> ContextPackage {
        let session = &governed.session;
        let remaining = self.remaining();
        // Nothing is left of time in a session that is over.
        let over = matches!(session.state(), SessionState::Closed(_));
        ContextPackage {
            cycle_id: cycle.into().map(|id| id.to_string()).unwrap_or_default().into(),
            session_id: session.id.clone(),
            mandate_id: session.mandate_id.clone(),
            intent_id: intent.map(|intent| intent.intent_id.clone()),
            sequence,
            reasoning_mode: intent.map(|intent| intent.mode),
            remaining: Remaining { time_seconds: if over { 0 } else { remaining.time_seconds }, ..remaining },
            delegation: self.delegation.clone(),
            cluster: None,
            prior_denial_count: session.denials,
        }
    }
}

impl ContextView {
    fn of(package: &ContextPackage, root_principal: &str) -> ContextView {
        let chain = package.delegation.as_ref().map(|it| it.chain.clone()).unwrap_or_default();
        ContextView {
            session_id: package.session_id.to_string(),
            mandate_id: package.mandate_id.to_string(),
            intent_id: package.intent_id.as_deref().map(str::to_owned),
            reasoning_mode: package.reasoning_mode.map(mandate::ReasoningMode::as_str),
            cycle_id: Some(package.cycle_id.to_string()).filter(|id| !id.is_empty()),
            sequence: package.sequence,
            time_budget_remaining: package.remaining.time_seconds,
            resource_envelope: envelope(&package.remaining),
            delegation_context: DelegationContext {
                delegation_depth: chain.len(),
                delegation_chain: chain,
                root_principal: root_principal.to_owned(),
            },
            cluster_context: package.cluster.as_ref().map(shown_cluster),
            escalation: None,
            session_limits: None,
            prior_denial_count: package.prior_denial_count,
            fingerprint: fingerprint(package),
        }
    }
}

/// A package as rows keep it, and as the record of its cycle shows it.
pub(crate) fn shown(package: &ContextPackage) -> Value {
    json!({
        "cluster_context": package.cluster.as_ref().map(shown_cluster),
        "delegation_context": package.delegation.as_ref().map(|it| json!({
            "delegation_chain": it.chain, "delegation_depth": it.depth(), "root_principal": it.root_principal,
        })),
        "fingerprint": fingerprint(package),
        "prior_denial_count": package.prior_denial_count,
        "reasoning_mode": package.reasoning_mode.map(mandate::ReasoningMode::as_str),
        "resource_envelope": envelope(&package.remaining),
        "time_budget_remaining": package.remaining.time_seconds,
    })
}

pub(super) fn envelope(remaining: &Remaining) -> ResourceEnvelope {
    ResourceEnvelope {
        max_compute_units: remaining.compute_units,
        max_duration_seconds: Some(remaining.time_seconds),
        max_memory_bytes: remaining.memory_bytes,
        max_network_egress_bytes: remaining.network_egress_bytes,
        max_storage_bytes: remaining.storage_bytes,
    }
}

fn fingerprint(package: &ContextPackage) -> String {
    format!("{FINGERPRINT}{}", package.fingerprint())
}

/// What a fingerprint begins with.
pub(crate) const FINGERPRINT: &str = "sha256:";
