//! The report of a decision, stage by stage, as receipts hold it.
//!
//! INVARIANT (order): members are declared in the order of RFC 8785 and hold no fractions and no integers beyond 2^53,
//! so that plain serialisation is canonical; a test compares it with the canonical writer.

use std::sync::Arc;

use action::Action;
use serde::{Serialize, Serializer};

use crate::{Class, PolicyRef};

/// One stage that ran. The last one of a blocked action carries the error.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// Why the action is blocked, on the stage that blocks it.
    pub error: Option<StageError>,
    /// What the stage looked at.
    pub input: Input,
    /// Which stage.
    pub name: StageName,
    /// What it found.
    pub output: Output,
}

/// The stages that a decision consists of, in the order of a receipt's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageName {
    /// Is the caller's mandate genuine, theirs and in force?
    TokenValidation,
    /// Has what is present the declared shape?
    Schema,
    /// Is it allowed?
    Boundary,
    /// Is everything there?
    Completeness,
    /// Is it like what came before?
    Math,
}

impl StageName {
    /// As it stands in receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            StageName::TokenValidation => "token_validation",
            StageName::Schema => "schema",
            StageName::Boundary => "boundary",
            StageName::Completeness => "completeness",
            StageName::Math => "math",
        }
    }
}

impl Serialize for StageName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The reason of a block, as one stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StageError {
    /// See [`crate::Reason::word`].
    pub reason: &'static str,
}

/// What a stage looked at.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Input {
    /// See [`StageName::TokenValidation`].
    Token {
        /// The caller.
        agent: Arc<str>,
        /// The mandates that it descends from, root first; only there when it descends from any.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        chain: Vec<Arc<str>>,
        /// The mandate's id, if one was verified.
        #[serde(rename = "tokenId")]
        token_id: Option<Arc<str>>,
    },
    /// See [`StageName::Schema`] and [`StageName::Completeness`].
    Archetype {
        /// The archetype, as asked.
        archetype: Arc<str>,
        /// The catalogue it was looked up in.
        #[serde(rename = "catalogDigest")]
        catalog_digest: Arc<str>,
    },
    /// See [`StageName::Boundary`].
    Boundary {
        /// The archetype, as asked.
        action: Arc<str>,
        /// The entities that policies were asked about.
        #[serde(rename = "entityDigest")]
        entity_digest: Arc<str>,
        /// Real or pretended effects.
        environment: &'static str,
        /// The policies.
        #[serde(rename = "policyDigest")]
        policy_digest: Arc<str>,
    },
    /// See [`StageName::Math`].
    Math {
        /// How many scaled deviations are too many.
        k: u32,
        /// Fewer earlier amounts than this are a cold start.
        #[serde(rename = "minSample")]
        min_sample: u32,
        /// How long an equal effect counts as a duplicate, in seconds.
        #[serde(rename = "windowSeconds")]
        window_seconds: u64,
    },
}

/// What a stage found.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Output {
    /// See [`StageName::TokenValidation`].
    Token {
        /// `verified`, `absent` or `refused`.
        token: &'static str,
    },
    /// See [`StageName::Schema`].
    Schema {
        /// Always true: what is misshapen never becomes an action.
        valid: bool,
    },
    /// See [`StageName::Boundary`].
    Boundary(Box<BoundaryOutput>),
    /// See [`StageName::Completeness`].
    Completeness {
        /// Whether everything required is there.
        complete: bool,
        /// JSON pointers into the constraints.
        missing: Vec<Box<str>>,
    },
    /// See [`StageName::Math`].
    Math {
        /// `usual`, `cold_start`, `unusual` or `not_applicable`. Which limit was broken is not said.
        anomaly: &'static str,
        /// The earlier transaction with the same effect.
        duplicate: Option<Box<str>>,
        /// Whether the destination was never seen before.
        #[serde(rename = "firstSeenDestination")]
        first_seen_destination: bool,
        /// Median distance from the median, minor units, as decimal text.
        mad: Box<str>,
        /// Median of earlier amounts, minor units, as decimal text.
        median: Box<str>,
        /// How many earlier amounts there were.
        n: usize,
        /// Commitment to the amounts, lower-case hex.
        sample: Box<str>,
    },
}

/// What the boundary stage found.
#[derive(Debug, Clone, Serialize)]
pub struct BoundaryOutput {
    /// Reasons to ask a person that people agreed to, in words; only there when an action that waited is judged again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<&'static str>,
    /// What Cedar was asked and said.
    pub cedar: CedarOutput,
    /// Escalation classes that fired, as numbers 1 to 9.
    #[serde(rename = "classesFired")]
    pub classes_fired: Vec<u8>,
    /// Escalation classes that have nothing to look at for this action.
    #[serde(rename = "classesNotApplicable")]
    pub classes_not_applicable: &'static [u8],
    /// What else was found where the action is a cycle of a governed session; only there then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle: Option<Box<CycleOutput>>,
    /// `within`, `refused`, `missing` or `not_needed`.
    pub delegation: &'static str,
    /// What is frozen, if the action is.
    pub freeze: Option<Box<str>>,
    /// The name on the hard-deny list that the action goes by.
    #[serde(rename = "hardDeny")]
    pub hard_deny: Option<Box<str>>,
    /// `pass`, `block` or `escalate`, of the decision as a whole.
    pub verdict: &'static str,
}

/// What the steps of a cycle found.
#[derive(Debug, Clone, Serialize)]
pub struct CycleOutput {
    /// What Cedar said of each branch, in the order in which they were listed.
    pub branches: Vec<BranchOutput>,
    /// What is odd and stops nothing, in words.
    pub flags: Vec<&'static str>,
    /// What Cedar was asked and said of `ExecuteCycle`.
    pub gate: CedarOutput,
    /// `PROCEED`, `DENY`, `ESCALATE` or `SUSPEND`.
    pub governance: &'static str,
    /// Every class that fired and what fired it, by class.
    pub hits: Vec<Hit>,
    /// `valid`, or the code of what is wrong with the declaration.
    pub intent: &'static str,
    /// The declaration.
    #[serde(rename = "intentId")]
    pub intent_id: Option<Box<str>>,
    /// As declared.
    #[serde(rename = "reasoningMode")]
    pub reasoning_mode: Option<&'static str>,
    /// The cycle's number.
    pub sequence: u64,
    /// The session.
    #[serde(rename = "sessionId")]
    pub session_id: Box<str>,
    /// Its state when the cycle was judged.
    #[serde(rename = "sessionState")]
    pub session_state: &'static str,
    /// `passed` or `stopped`.
    #[serde(rename = "tier0A")]
    pub tier_0a: &'static str,
    /// Whole seconds that were left of the mandate.
    #[serde(rename = "timeBudgetRemaining")]
    pub time_budget_remaining: u64,
}

/// What Cedar said of one branch.
#[derive(Debug, Clone, Serialize)]
pub struct BranchOutput {
    /// Its archetype.
    pub action: Box<str>,
    /// What Cedar was asked and said.
    pub cedar: CedarOutput,
}

/// A class that fired.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Hit {
    /// Its number.
    pub class: u8,
    /// What fired it, as one stable word.
    pub word: &'static str,
}

/// What Cedar was asked and said.
#[derive(Debug, Clone, Serialize)]
pub struct CedarOutput {
    /// Tier 3 policies that matched.
    pub advice: Vec<PolicyRef>,
    /// `allow`, `deny`, `escalate`, `error` or `not_asked`.
    pub decision: &'static str,
    /// The policies that determined it.
    pub policies: Vec<PolicyRef>,
}

impl Input {
    pub(crate) fn archetype(action: &Action, catalog_digest: &Arc<str>) -> Input {
        Input::Archetype {
            archetype: action.archetype.name.as_str().into(),
            catalog_digest: catalog_digest.clone(),
        }
    }
}

/// Classes that need a session, a declared confidence or several principals: outside of a session there is nothing for
/// them to look at.
pub(crate) const NOT_APPLICABLE: [u8; 4] = [
    Class::PrincipalConflict as u8,
    Class::Uncertainty as u8,
    Class::Budget as u8,
    Class::MultiPrincipal as u8,
];
