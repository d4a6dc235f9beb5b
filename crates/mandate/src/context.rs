//! The Context Package: what is true of a cycle, made by the gateway and never taken from the agent.

use action::json;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{ClusterState, ReasoningMode, Resource};

/// Names of the package's members and of what policies see beside them. Whatever a client sends under one of them is
/// refused; what it may declare (mode, confidence) has its place in the declaration and the cycle's request.
pub const CONTEXT_MEMBERS: [&str; 15] = [
    "cluster_context",
    "cycle_id",
    "delegation_context",
    "delegation_depth",
    "escalation_class",
    "fingerprint",
    "gar_record_id",
    "governance_result",
    "human_approval_received",
    "intent_valid",
    "prior_denial_count",
    "resource_envelope",
    "scope_within_parent_bounds",
    "tier_0a_check_passed",
    "time_budget_remaining",
];

/// What is true of one cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextPackage {
    /// The cycle; the action's id.
    pub cycle_id: Box<str>,
    /// The session it belongs to.
    pub session_id: Box<str>,
    /// The mandate of that session.
    pub mandate_id: Box<str>,
    /// The declaration it stands on, if there is one.
    pub intent_id: Option<Box<str>>,
    /// The cycle's number.
    pub sequence: u64,
    /// As declared; unknown without a declaration.
    pub reasoning_mode: Option<ReasoningMode>,
    /// What is left of time and resources.
    pub remaining: Remaining,
    /// Where the mandate was handed on by another.
    pub delegation: Option<DelegationContext>,
    /// Where the session is a member of a cluster.
    pub cluster: Option<ClusterContext>,
    /// Cycles of the session that were denied so far.
    pub prior_denial_count: u32,
}

/// What is left of a mandate's time and resources, over all its sessions. Where neither the mandate nor one that it
/// descends from limits a resource, it is absent; time always ends with the mandate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Whole seconds.
    pub time_seconds: u64,
    /// Units of the operator's own reckoning.
    pub compute_units: Option<u64>,
    /// The most that one cycle may hold: memory is not used up.
    pub memory_bytes: Option<u64>,
    /// Bytes.
    pub storage_bytes: Option<u64>,
    /// Bytes.
    pub network_egress_bytes: Option<u64>,
}

impl Remaining {
    /// So many seconds, and no limit of anything else.
    pub fn of_time(time_seconds: u64) -> Remaining {
        Remaining {
            time_seconds,
            compute_units: None,
            memory_bytes: None,
            storage_bytes: None,
            network_egress_bytes: None,
        }
    }

    /// How much of this; `None` where it is not limited.
    pub fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Seconds => Some(self.time_seconds),
            Resource::ComputeUnits => self.compute_units,
            Resource::MemoryBytes => self.memory_bytes,
            Resource::StorageBytes => self.storage_bytes,
            Resource::EgressBytes => self.network_egress_bytes,
        }
    }

    /// What is used up, in the words of the resource envelope; nothing begins then.
    pub fn exhausted(&self) -> Option<&'static str> {
        let parts = [
            ("time_budget", Some(self.time_seconds)),
            ("compute_units", self.compute_units),
            ("storage_bytes", self.storage_bytes),
            ("network_egress_bytes", self.network_egress_bytes),
        ];
        parts.into_iter().find(|(_, left)| *left == Some(0)).map(|(name, _)| name)
    }
}

/// From whom the mandate came down, link by link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationContext {
    /// Ids of the mandates it descends from, root first; never empty.
    pub chain: Vec<String>,
    /// The principal at the root, in whose name everything is done.
    pub root_principal: Box<str>,
}

impl DelegationContext {
    /// How often it was handed on.
    pub fn depth(&self) -> usize {
        self.chain.len()
    }
}

/// The cluster that the session is a member of, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterContext {
    /// Its id.
    pub cluster_id: Box<str>,
    /// Its sessions.
    pub members: Vec<Partner>,
    /// The principals of its members, each once.
    pub principals: Vec<Box<str>>,
    /// Seconds left to all members together.
    pub pool_seconds: u64,
    /// When it is over, in Unix milliseconds.
    pub deadline_ms: i64,
    /// What it may do.
    pub state: ClusterState,
}

/// A member of the cluster, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partner {
    /// Its session.
    pub session_id: Box<str>,
    /// What is left to it.
    pub remaining: Remaining,
    /// The session it waits for.
    pub waits_for: Option<Box<str>>,
}

impl ContextPackage {
    /// SHA-256, in lower-case hex, over what an agent may assume to stay: session, mandate, from whom it came, with whom
    /// it works and what is limited. What changes with every cycle (numbers, budgets, denials) is left out, so that
    /// another fingerprint means another situation.
    pub fn fingerprint(&self) -> String {
        let value = json!({
            "cluster": self.cluster.as_ref().map(ClusterContext::lasting),
            "delegation": self.delegation.as_ref().map(|it| json!({
                "chain": it.chain,
                "root_principal": it.root_principal,
            })),
            "limits": self.remaining.limited(),
            "mandate_id": self.mandate_id,
            "session_id": self.session_id,
            "v": 1,
        });
        hex(&Sha256::digest(json::canonical(&value)))
    }
}

impl ClusterContext {
    fn lasting(&self) -> Value {
        let mut members: Vec<&str> = self.members.iter().map(|member| &*member.session_id).collect();
        let mut principals = self.principals.clone();
        members.sort_unstable();
        principals.sort_unstable();
        json!({ "cluster_id": self.cluster_id, "members": members, "principals": principals })
    }
}

impl Remaining {
    fn limited(&self) -> Vec<&'static str> {
        let parts = [
            ("compute_units", self.compute_units),
            ("memory_bytes", self.memory_bytes),
            ("network_egress_bytes", self.network_egress_bytes),
            ("storage_bytes", self.storage_bytes),
        ];
        parts.into_iter().filter(|(_, left)| left.is_some()).map(|(name, _)| name).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> ContextPackage {
        ContextPackage {
            cycle_id: "c-1".into(),
            session_id: "s-1".into(),
            mandate_id: "m-2".into(),
            intent_id: Some("i-1".into()),
            sequence: 4,
            reasoning_mode: Some(ReasoningMode::Delegated),
            remaining: Remaining {
                time_seconds: 60,
                compute_units: Some(5),
                memory_bytes: None,
                storage_bytes: None,
                network_egress_bytes: None,
            },
            delegation: Some(DelegationContext { chain: vec!["m-1".into()], root_principal: "alice".into() }),
            cluster: Some(ClusterContext {
                cluster_id: "k-1".into(),
                members: vec![partner("s-1"), partner("s-2")],
                principals: vec!["alice".into(), "bob".into()],
                pool_seconds: 100,
                deadline_ms: 5_000,
                state: ClusterState::Active,
            }),
            prior_denial_count: 0,
        }
    }

    fn partner(session: &str) -> Partner {
        Partner { session_id: session.into(), remaining: Remaining::of_time(50), waits_for: None }
    }

    /// Agents keep fingerprints: another layout of the same situation must not look like another situation.
    #[test]
    fn the_fingerprint_is_fixed() {
        assert_eq!(
            package().fingerprint(),
            "b8468f9a1a2235f674f4ba9749d195d8ab667c9a32725f53f722e41395058704"
        );
    }

    #[test]
    fn what_a_cycle_changes_leaves_the_fingerprint_alone() {
        let mut later = package();
        (later.cycle_id, later.sequence, later.prior_denial_count) = ("c-2".into(), 5, 3);
        (later.intent_id, later.reasoning_mode) = (None, None);
        later.remaining = Remaining { time_seconds: 0, compute_units: Some(1), ..later.remaining };
        let cluster = later.cluster.as_mut().unwrap();
        (cluster.pool_seconds, cluster.state) = (3, ClusterState::Blocked);
        cluster.members.reverse();
        (cluster.members[0].remaining.time_seconds, cluster.members[1].waits_for) = (0, Some("s-2".into()));
        assert_eq!(later.fingerprint(), package().fingerprint());
    }

    #[test]
    fn another_situation_has_another_fingerprint() {
        let changes: [fn(&mut ContextPackage); 8] = [
            |it| it.session_id = "s-9".into(),
            |it| it.mandate_id = "m-9".into(),
            |it| it.delegation = None,
            |it| it.delegation.as_mut().unwrap().chain.push("m-1b".into()),
            |it| it.delegation.as_mut().unwrap().root_principal = "bob".into(),
            |it| it.cluster = None,
            |it| it.cluster.as_mut().unwrap().members.push(partner("s-3")),
            |it| it.remaining.compute_units = None,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = package();
            change(&mut other);
            assert_ne!(other.fingerprint(), package().fingerprint(), "{number}");
        }
    }

    #[test]
    fn anything_that_can_be_used_up_and_is_ends_it() {
        let left = package().remaining;
        assert_eq!(left.exhausted(), None);
        assert_eq!(Remaining { time_seconds: 0, ..left }.exhausted(), Some("time_budget"));
        assert_eq!(Remaining { compute_units: Some(0), ..left }.exhausted(), Some("compute_units"));
        assert_eq!(Remaining { storage_bytes: Some(0), ..left }.exhausted(), Some("storage_bytes"));
        assert_eq!(
            Remaining { network_egress_bytes: Some(0), ..left }.exhausted(),
            Some("network_egress_bytes")
        );
        assert_eq!(Remaining { memory_bytes: Some(0), ..left }.exhausted(), None);
    }
}
