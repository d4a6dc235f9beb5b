//! Every reason to block, and every reason to ask a person.

use std::sync::Arc;

use action::{ActionId, Missing};
use mandate::{ClusterState, Completion, IntentRefusal, ReasoningMode, SessionState};
use serde::Serialize;

/// A policy that took part in a decision, by name and content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyRef {
    /// SHA-256 of the policy, layout and comments apart, in lower-case hex.
    pub digest: Arc<str>,
    /// Its `@id`, or its file and position.
    pub id: Arc<str>,
}

/// Why an action is blocked, in the order in which reasons are found. Carries only what the caller may see; what only
/// an operator may see stands in the decision's `detail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The action goes by a name that is never carried out.
    HardDenied {
        /// The listed name, in normal form.
        name: String,
    },
    /// Its session is not in a state in which a cycle may begin.
    Session(SessionState),
    /// There is no declaration that bears it.
    Intent(IntentRefusal),
    /// What the declared mode demands is not there.
    Mode(ReasoningMode),
    /// The cluster of its session is held or over.
    Cluster(ClusterState),
    /// Nothing is left of the mandate's time or resources, and somebody is asked for more already.
    BudgetExhausted,
    /// What the request wants it undone by is never carried out, or no policy permits it.
    RollbackDenied {
        /// The policies that forbid it; empty where none does.
        policies: Vec<PolicyRef>,
    },
    /// An operator stopped it.
    Frozen {
        /// What is frozen, as it is written.
        scope: String,
    },
    /// What carries it out is not what its operator accepted.
    Quarantined {
        /// The word for it.
        why: &'static str,
    },
    /// It is beyond what people agreed to.
    BeyondApproval {
        /// Which of their limits.
        limit: &'static str,
    },
    /// It is beyond what people agreed to for the rest of its session.
    BeyondSession {
        /// Which of their limits.
        limit: &'static str,
    },
    /// The mandate, or the caller's own bound, does not carry it.
    Delegation(mandate::Refusal),
    /// It moves money or cannot be undone, and there is no mandate.
    NoMandate,
    /// A tier 0-A policy matched: nobody can approve it.
    Prohibited {
        /// Which.
        policies: Vec<PolicyRef>,
    },
    /// A policy could not be evaluated; Cedar would have skipped it.
    PolicyError,
    /// A policy forbids it.
    Forbidden {
        /// Which.
        policies: Vec<PolicyRef>,
    },
    /// No policy permits it.
    NotPermitted,
    /// Required members are absent or empty.
    Incomplete {
        /// Which, and what would do.
        missing: Vec<Missing>,
    },
    /// It is unlike what came before. Nothing more is shown.
    Anomaly,
    /// An earlier action had the same effect.
    ProbableDuplicate {
        /// Which.
        earlier: ActionId,
    },
}

impl Reason {
    /// A stable word for receipts, metrics and tests. Words are never renamed.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::HardDenied { .. } => "hard_denied",
            Reason::Session(state) => match state {
                SessionState::Active => "session_active",
                SessionState::ClusterBlocked => "session_cluster_blocked",
                SessionState::HemPending => "session_hem_pending",
                SessionState::Suspended => "session_suspended",
                SessionState::Closed(Completion::Revoked) => "session_revoked",
                SessionState::Closed(_) => "session_closed",
            },
            Reason::Intent(refusal) => refusal.word(),
            Reason::Mode(_) => "mode_unmet",
            Reason::Cluster(_) => "cluster_stopped",
            Reason::BudgetExhausted => "budget_exhausted",
            Reason::RollbackDenied { .. } => "rollback_denied",
            Reason::Frozen { .. } => "frozen",
            Reason::Quarantined { why } => why,
            Reason::BeyondApproval { .. } => "beyond_approval",
            Reason::BeyondSession { .. } => "beyond_session",
            Reason::Delegation(refusal) => refusal.word(),
            Reason::NoMandate => "no_mandate",
            Reason::Prohibited { .. } => "prohibited",
            Reason::PolicyError => "policy_error",
            Reason::Forbidden { .. } => "forbidden",
            Reason::NotPermitted => "not_permitted",
            Reason::Incomplete { .. } => "incomplete",
            Reason::Anomaly => "anomaly",
            Reason::ProbableDuplicate { .. } => "probable_duplicate",
        }
    }

    /// The policies that decided; empty where none did.
    pub fn policies(&self) -> &[PolicyRef] {
        match self {
            Reason::Prohibited { policies }
            | Reason::Forbidden { policies }
            | Reason::RollbackDenied { policies } => policies,
            _ => &[],
        }
    }

    /// The escalation class that the block belongs to, if it belongs to one. The first two halt at once.
    pub fn class(&self) -> Option<Class> {
        match self {
            Reason::HardDenied { .. } | Reason::Prohibited { .. } => Some(Class::Prohibited),
            Reason::Delegation(
                mandate::Refusal::OutOfScope { .. } | mandate::Refusal::ResourceOutside { .. },
            )
            | Reason::Intent(IntentRefusal::OutsideGoal) => Some(Class::Scope),
            Reason::BudgetExhausted => Some(Class::Budget),
            Reason::Anomaly => Some(Class::NovelContext),
            _ => None,
        }
    }
}

/// The nine classes of escalation (HEM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// 1: a prohibition without exception; halts.
    Prohibited = 1,
    /// 2: outside mandate or declared goal; halts.
    Scope = 2,
    /// 3: two principals contradict each other.
    PrincipalConflict = 3,
    /// 4: cannot be undone, and above its threshold.
    Irreversible = 4,
    /// 5: declared confidence under the mandate's floor.
    Uncertainty = 5,
    /// 6: unlike what came before, or nothing came before.
    NovelContext = 6,
    /// 7: the time budget is used up.
    Budget = 7,
    /// 8: more than one sign-off is needed.
    MultiPrincipal = 8,
    /// 9: designated by operator, archetype, mandate or guarantee level.
    Operator = 9,
}

/// One reason to ask a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// It cannot be undone, and its amount is above the archetype's threshold or unknown.
    Irreversible,
    /// Too little came before to judge an amount like this.
    ColdStart,
    /// A destination never seen before.
    FirstSeenDestination,
    /// Policies that forbid unless a person agrees.
    Policies(Vec<PolicyRef>),
    /// The archetype always wants a person.
    Archetype,
    /// The mandate wants a person for this archetype.
    Mandate,
    /// Exactly-once always wants a person.
    GuaranteeLevel,
    /// The request itself wants a person to sign off.
    SignOff,
    /// An earlier action had the same effect.
    ProbableDuplicate {
        /// Which.
        earlier: ActionId,
    },
    /// Another principal said the opposite about the same resource.
    PrincipalConflict {
        /// The action that it was said with.
        earlier: ActionId,
    },
    /// Its agent is less sure than the mandate demands, or does not say.
    Uncertainty,
    /// The situation is not the one that the agent declared itself in.
    NovelContext,
    /// More of what its session asked for was denied than the mandate puts up with.
    BelowTrust,
    /// Nothing is left of the mandate's time or resources. Only an extension helps, and no yes.
    BudgetExhausted,
    /// Every principal of the cluster must agree, or resolve what keeps its members waiting for each other.
    MultiPrincipal,
}

impl Trigger {
    /// A stable word for receipts, metrics and tests. Words are never renamed.
    pub fn word(&self) -> &'static str {
        match self {
            Trigger::Irreversible => "irreversible",
            Trigger::ColdStart => "cold_start",
            Trigger::FirstSeenDestination => "first_seen_destination",
            Trigger::Policies(_) => "policy",
            Trigger::Archetype => "archetype_requires_approval",
            Trigger::Mandate => "mandate_requires_approval",
            Trigger::GuaranteeLevel => "guarantee_level",
            Trigger::SignOff => "sign_off_required",
            Trigger::ProbableDuplicate { .. } => "probable_duplicate",
            Trigger::PrincipalConflict { .. } => "principal_conflict",
            Trigger::Uncertainty => "uncertainty",
            Trigger::NovelContext => "novel_context",
            Trigger::BelowTrust => "below_trust_floor",
            Trigger::BudgetExhausted => "budget_exhausted",
            Trigger::MultiPrincipal => "multi_principal",
        }
    }

    /// The class it fires.
    pub fn class(&self) -> Class {
        match self {
            Trigger::Irreversible => Class::Irreversible,
            Trigger::ColdStart
            | Trigger::FirstSeenDestination
            | Trigger::NovelContext
            | Trigger::BelowTrust => Class::NovelContext,
            Trigger::PrincipalConflict { .. } => Class::PrincipalConflict,
            Trigger::Uncertainty => Class::Uncertainty,
            Trigger::BudgetExhausted => Class::Budget,
            Trigger::MultiPrincipal => Class::MultiPrincipal,
            Trigger::Policies(_)
            | Trigger::Archetype
            | Trigger::Mandate
            | Trigger::GuaranteeLevel
            | Trigger::SignOff
            | Trigger::ProbableDuplicate { .. } => Class::Operator,
        }
    }

    /// The trigger of a word, with what else it was told with. Reads what [`Trigger::word`], [`Trigger::policies`] and
    /// [`Trigger::earlier`] say.
    pub fn read(word: &str, policies: Vec<PolicyRef>, earlier: Option<ActionId>) -> Option<Trigger> {
        let plain = [
            Trigger::Irreversible,
            Trigger::ColdStart,
            Trigger::FirstSeenDestination,
            Trigger::Archetype,
            Trigger::Mandate,
            Trigger::GuaranteeLevel,
            Trigger::SignOff,
            Trigger::Uncertainty,
            Trigger::NovelContext,
            Trigger::BelowTrust,
            Trigger::BudgetExhausted,
            Trigger::MultiPrincipal,
        ];
        match (word, earlier) {
            ("policy", None) if !policies.is_empty() => Some(Trigger::Policies(policies)),
            ("probable_duplicate", Some(earlier)) => Some(Trigger::ProbableDuplicate { earlier }),
            ("principal_conflict", Some(earlier)) => Some(Trigger::PrincipalConflict { earlier }),
            (word, None) if policies.is_empty() => plain.into_iter().find(|trigger| trigger.word() == word),
            _ => None,
        }
    }

    /// The earlier action it is about, if it is about one.
    pub fn earlier(&self) -> Option<ActionId> {
        match self {
            Trigger::ProbableDuplicate { earlier } | Trigger::PrincipalConflict { earlier } => Some(*earlier),
            _ => None,
        }
    }

    /// The policies that ask for a person; empty where none did.
    pub fn policies(&self) -> &[PolicyRef] {
        match self {
            Trigger::Policies(policies) => policies,
            _ => &[],
        }
    }
}
