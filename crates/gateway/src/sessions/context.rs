//! The Context Package: what a cycle is judged with and its agent may know. The gateway builds it; an agent's own version
//! of it is refused.

use ledger::Governed;
use mandate::{Declaration, ResourceEnvelope, SessionState};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::caller::Caller;
use crate::gateway::Gateway;
use crate::remember::unavailable;
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
    /// Cycles denied so far.
    pub prior_denial_count: u32,
    /// SHA-256 of its canonical form without this member: `sha256:` and hex.
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
        self.context_of(&governed, intent.as_ref(), now_ms)
    }

    /// The newest declaration of a session, if it is not over.
    pub(crate) async fn intent_in_force(
        &self,
        governed: &Governed,
        now_ms: i64,
    ) -> Result<Option<Declaration>, Error> {
        let newest = self.ledger.intention(&governed.tenant, &governed.session.id, None).await;
        let newest = newest.map_err(unavailable)?;
        let declared = newest.map(|newest| super::intents::declaration(&newest)).transpose()?;
        Ok(declared.filter(|declared| now_ms < declared.expires_ms))
    }

    pub(crate) fn context_of(
        &self,
        governed: &Governed,
        intent: Option<&Declaration>,
        now_ms: i64,
    ) -> Result<ContextView, Error> {
        let (session, mandate) = (&governed.session, self.mandate_of(governed)?);
        let left = u64::try_from(mandate.expires_at - now_ms / 1000).unwrap_or(0);
        let left = mandate.resource_envelope.max_duration_seconds.map_or(left, |most| most.min(left));
        // Nothing is left of time in a session that is over.
        let over = matches!(session.state(), SessionState::Closed(_));
        let mut context = ContextView {
            session_id: session.id.to_string(),
            mandate_id: session.mandate_id.to_string(),
            intent_id: intent.map(|intent| intent.intent_id.to_string()),
            reasoning_mode: intent.map(|intent| intent.mode.as_str()),
            cycle_id: None,
            sequence: session.sequence,
            time_budget_remaining: if over { 0 } else { left },
            resource_envelope: mandate.resource_envelope.clone(),
            delegation_context: DelegationContext {
                delegation_chain: mandate.chain.clone(),
                delegation_depth: mandate.chain.len(),
                root_principal: mandate.root_principal().to_owned(),
            },
            cluster_context: None,
            prior_denial_count: session.denials,
            fingerprint: String::new(),
        };
        let digest = Sha256::digest(action::json::canonical(&context.members()));
        context.fingerprint = format!("sha256:{}", hex::encode(digest));
        Ok(context)
    }
}

impl ContextView {
    /// What the fingerprint covers.
    fn members(&self) -> Value {
        let DelegationContext { delegation_chain, delegation_depth, root_principal } =
            &self.delegation_context;
        json!({
            "cluster_context": &self.cluster_context,
            "cycle_id": &self.cycle_id,
            "delegation_context": {
                "delegation_chain": delegation_chain, "delegation_depth": delegation_depth,
                "root_principal": root_principal,
            },
            "intent_id": &self.intent_id,
            "mandate_id": &self.mandate_id,
            "prior_denial_count": self.prior_denial_count,
            "reasoning_mode": self.reasoning_mode,
            "resource_envelope": &self.resource_envelope,
            "sequence": self.sequence,
            "session_id": &self.session_id,
            "time_budget_remaining": self.time_budget_remaining,
        })
    }
}
