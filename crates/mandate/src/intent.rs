//! What an agent says it is about to do, and how it thinks: the intent declaration (IDP) and what is checked of it.

use action::Subject;

use crate::Session;

/// How an agent says that it reasons. It says so itself, so a mode may only tighten what is asked of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReasoningMode {
    /// One step.
    Direct,
    /// Step after step, each judged again.
    Chain,
    /// Several branches: all of them must be permitted.
    Tree,
    /// It looks at itself first: a self-assessment must be given.
    Reflexive,
    /// On behalf of another agent: the mandate must have a chain, and that must hold.
    Delegated,
    /// Together with others: every principal of the cluster must agree.
    Collaborative,
    /// Over several sessions: an intent is checked against all sessions of the mandate.
    Extended,
    /// Under a policy that it names and that must be in force.
    Constrained,
}

impl ReasoningMode {
    /// Every mode.
    pub const ALL: [ReasoningMode; 8] = [
        ReasoningMode::Direct,
        ReasoningMode::Chain,
        ReasoningMode::Tree,
        ReasoningMode::Reflexive,
        ReasoningMode::Delegated,
        ReasoningMode::Collaborative,
        ReasoningMode::Extended,
        ReasoningMode::Constrained,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            ReasoningMode::Direct => "DIRECT",
            ReasoningMode::Chain => "CHAIN",
            ReasoningMode::Tree => "TREE",
            ReasoningMode::Reflexive => "REFLEXIVE",
            ReasoningMode::Delegated => "DELEGATED",
            ReasoningMode::Collaborative => "COLLABORATIVE",
            ReasoningMode::Extended => "EXTENDED",
            ReasoningMode::Constrained => "CONSTRAINED",
        }
    }

    /// The mode that is written so.
    pub fn parse(text: &str) -> Option<ReasoningMode> {
        ReasoningMode::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

/// An intent declaration, committed before anything is judged under it. One declaration may cover many cycles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its id, unique within the mandate.
    pub intent_id: Box<str>,
    /// The session it was made in, and no other.
    pub session_id: Box<str>,
    /// The mandate of that session.
    pub mandate_id: Box<str>,
    /// The installation it was made to: the issuer URL.
    pub gec_instance_id: Box<str>,
    /// What kind of goal, in the agent's words; an identifier.
    pub goal_type: Box<str>,
    /// Archetypes or groups that it means to ask for; what lies outside is denied.
    pub goal_scope: Vec<String>,
    /// How it says that it reasons.
    pub mode: ReasoningMode,
    /// The policy it puts itself under, with [`ReasoningMode::Constrained`].
    pub constrained_by: Option<Box<str>>,
    /// The number it was declared under; the numbers of the session's cycles only rise.
    pub sequence: u64,
    /// Over at this time, in Unix milliseconds.
    pub expires_ms: i64,
    /// Fingerprint of the Context Package that the agent had before it.
    pub context_fingerprint: Option<Box<str>>,
    /// Who declared.
    pub subject: Subject,
}

/// What is wrong with a declaration, or with a cycle that stands on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentRefusal {
    /// `IDP-E001`: there is none.
    Missing,
    /// `IDP-E002`: it is not one.
    Malformed,
    /// `IDP-E003`: it is over.
    Expired,
    /// `IDP-E004`: it names another mandate than the session's.
    MandateMismatch,
    /// `IDP-E005`: its number, or the cycle's, does not rise.
    SequenceNotRising,
    /// `IDP-E006`: its id was used before.
    Duplicate,
    /// `IDP-E007`: it belongs to another session.
    SessionMismatch,
    /// `IDP-E008`: it was made to another installation.
    WrongInstance,
    /// `IDP-E009`: the action lies outside the declared goal.
    OutsideGoal,
    /// `IDP-E010`: the session was revoked.
    SessionRevoked,
}

impl IntentRefusal {
    /// Every refusal.
    pub const ALL: [IntentRefusal; 10] = [
        IntentRefusal::Missing,
        IntentRefusal::Malformed,
        IntentRefusal::Expired,
        IntentRefusal::MandateMismatch,
        IntentRefusal::SequenceNotRising,
        IntentRefusal::Duplicate,
        IntentRefusal::SessionMismatch,
        IntentRefusal::WrongInstance,
        IntentRefusal::OutsideGoal,
        IntentRefusal::SessionRevoked,
    ];

    /// The published code.
    pub fn code(self) -> &'static str {
        match self {
            IntentRefusal::Missing => "IDP-E001",
            IntentRefusal::Malformed => "IDP-E002",
            IntentRefusal::Expired => "IDP-E003",
            IntentRefusal::MandateMismatch => "IDP-E004",
            IntentRefusal::SequenceNotRising => "IDP-E005",
            IntentRefusal::Duplicate => "IDP-E006",
            IntentRefusal::SessionMismatch => "IDP-E007",
            IntentRefusal::WrongInstance => "IDP-E008",
            IntentRefusal::OutsideGoal => "IDP-E009",
            IntentRefusal::SessionRevoked => "IDP-E010",
        }
    }

    /// A stable word for receipts, metrics and tests. Words are never renamed.
    pub fn word(self) -> &'static str {
        match self {
            IntentRefusal::Missing => "intent_missing",
            IntentRefusal::Malformed => "intent_malformed",
            IntentRefusal::Expired => "intent_expired",
            IntentRefusal::MandateMismatch => "intent_mandate_mismatch",
            IntentRefusal::SequenceNotRising => "sequence_not_rising",
            IntentRefusal::Duplicate => "intent_duplicate",
            IntentRefusal::SessionMismatch => "intent_session_mismatch",
            IntentRefusal::WrongInstance => "intent_wrong_instance",
            IntentRefusal::OutsideGoal => "outside_goal",
            IntentRefusal::SessionRevoked => "intent_session_revoked",
        }
    }
}

impl Declaration {
    /// Whether a cycle with this number may stand on the declaration in this session at `now_ms`. Whether the action is
    /// within the declared goal is asked of the action's archetype, by [`Declaration::names`].
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn bears(
        &self,
        session: &Session,
        issuer: &str,
        sequence: u64,
        now_ms: i64,
    ) -> Result<(), IntentRefusal> {
        let checks = [
            (*self.session_id == *session.id, IntentRefusal::SessionMismatch),
            (*self.mandate_id == *session.mandate_id, IntentRefusal::MandateMismatch),
            (*self.gec_instance_id == *issuer, IntentRefusal::WrongInstance),
            (!session.is_revoked(), IntentRefusal::SessionRevoked),
            (now_ms < self.expires_ms, IntentRefusal::Expired),
            (sequence > session.sequence && sequence > self.sequence, IntentRefusal::SequenceNotRising),
        ];
        checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, refusal)| Err(refusal))
    }

    /// Whether the archetype, or a group of it, was declared.
    pub fn names(&self, archetype: &action::Archetype) -> bool {
        crate::Mandate::designates(&self.goal_scope, archetype)
    }
}
