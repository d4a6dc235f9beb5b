//! The first step of a cycle: may its session go on, and does a declaration bear it?

use action::Archetype;
use mandate::{ClusterState, Completion, Declaration, IntentRefusal, Mandate, ReasoningMode, SessionState};

use crate::cycle::{Begun, Cycle};
use crate::{Facts, Policies, Reason};

/// Evidence that the step was taken: what the cycle stands on, or that the action is none. Only [`check`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked(Option<Footing>);

/// What a cycle stands on. Admission compares it with the session's row.
#[derive(Debug, PartialEq, Eq)]
pub struct Footing {
    /// The session.
    pub session_id: Box<str>,
    /// Its epoch; another one now means that the cycle must be judged anew.
    pub session_epoch: u64,
    /// The cycle's number.
    pub sequence: u64,
    /// The declaration.
    pub intent_id: Box<str>,
    /// When that is over, in Unix milliseconds.
    pub intent_expires_ms: i64,
}

impl Checked {
    pub(crate) fn footing(&self) -> Option<&Footing> {
        self.0.as_ref()
    }
}

/// Everything that session, declaration and mode have against the action, in the order in which it is told.
pub(crate) fn check(policies: &Policies, facts: &Facts<'_>) -> (Vec<Reason>, Checked) {
    let Some(cycle) = &facts.cycle else { return (Vec::new(), Checked(None)) };
    let mut reasons = Vec::new();
    reasons.extend(standing(cycle));
    match cycle.declaration {
        Err(refusal) => reasons.push(Reason::Intent(refusal)),
        Ok(declaration) => {
            reasons.extend(bears(cycle, declaration, facts).err().map(Reason::Intent));
            // Told beside the first, because it is a class of its own.
            if !goal_holds(cycle, declaration, facts) {
                reasons.push(Reason::Intent(IntentRefusal::OutsideGoal));
            }
        }
    }
    reasons.extend(cycle.chain.clone().err().map(Reason::Delegation));
    reasons.extend(cycle.mode().filter(|mode| !mode_holds(*mode, cycle, policies)).map(Reason::Mode));
    reasons.extend(cluster(cycle));
    let footing = cycle.declaration.ok().map(|declaration| Footing {
        session_id: cycle.session.id.clone(),
        session_epoch: cycle.session.epoch,
        sequence: cycle.context.sequence,
        intent_id: declaration.intent_id.clone(),
        intent_expires_ms: declaration.expires_ms,
    });
    (reasons, Checked(footing))
}

/// A session that waits for people waits for an action of its own; that one may be judged again.
fn standing(cycle: &Cycle<'_>) -> Option<Reason> {
    match cycle.session.state() {
        SessionState::Active => None,
        SessionState::HemPending if cycle.begun == Some(Begun::GoesOn) => None,
        state => Some(Reason::Session(state)),
    }
}

fn bears(cycle: &Cycle<'_>, declaration: &Declaration, facts: &Facts<'_>) -> Result<(), IntentRefusal> {
    let (session, sequence) = (cycle.session, cycle.context.sequence);
    if session.subject != facts.caller.subject || declaration.subject != session.subject {
        return Err(IntentRefusal::SessionMismatch);
    }
    if facts.mandate.is_none_or(|(mandate, _)| *mandate.jti != *session.mandate_id) {
        return Err(IntentRefusal::MandateMismatch);
    }
    match declaration.bears(session, cycle.issuer, sequence, facts.now_ms) {
        // Its number was accepted when it began, and nothing else uses it.
        Err(IntentRefusal::SequenceNotRising) if cycle.begun.is_some() && sequence > declaration.sequence => {
        }
        checked => checked?,
    }
    match declaration.mode {
        ReasoningMode::Extended if cycle.begun.is_none() => across(cycle),
        _ => Ok(()),
    }
}

/// Over all sessions of the mandate, an id is used once and numbers rise. What was not looked up is in doubt.
fn across(cycle: &Cycle<'_>) -> Result<(), IntentRefusal> {
    match cycle.across {
        None => Err(IntentRefusal::Duplicate),
        Some(across) if across.intent_known => Err(IntentRefusal::Duplicate),
        Some(across) if cycle.context.sequence <= across.sequence => Err(IntentRefusal::SequenceNotRising),
        Some(_) => Ok(()),
    }
}

/// Whether the action and all its branches are what was declared, and what the mandate is for.
fn goal_holds(cycle: &Cycle<'_>, declaration: &Declaration, facts: &Facts<'_>) -> bool {
    let goals = facts.mandate.map_or(&[][..], |(mandate, _)| &mandate.goal_scope);
    let within = |archetype: &Archetype| {
        declaration.names(archetype) && (goals.is_empty() || Mandate::designates(goals, archetype))
    };
    within(&facts.action.archetype) && cycle.branches.iter().all(|branch| within(&branch.archetype))
}

/// Whether what the declared mode demands is there.
fn mode_holds(mode: ReasoningMode, cycle: &Cycle<'_>, policies: &Policies) -> bool {
    match mode {
        ReasoningMode::Tree => !cycle.branches.is_empty(),
        ReasoningMode::Reflexive => cycle.self_assessment.is_some_and(|text| !text.trim().is_empty()),
        ReasoningMode::Delegated => cycle.context.delegation.is_some(),
        ReasoningMode::Constrained => {
            let named = cycle.declaration.ok().and_then(|declaration| declaration.constrained_by.as_deref());
            named.is_some_and(|id| policies.rule(id).is_some())
        }
        ReasoningMode::Direct
        | ReasoningMode::Chain
        | ReasoningMode::Collaborative
        | ReasoningMode::Extended => true,
    }
}

/// A member that others wait for may go on; one of a cluster that is held or over may not.
fn cluster(cycle: &Cycle<'_>) -> Option<Reason> {
    match cycle.context.cluster.as_ref()?.state {
        ClusterState::Active | ClusterState::Blocked | ClusterState::Deadlock => None,
        state @ (ClusterState::MandateHold | ClusterState::Terminated) => Some(Reason::Cluster(state)),
    }
}

/// Whether the session is gone for good or for now, as opposed to waiting for somebody.
pub(crate) fn is_gone(state: SessionState) -> bool {
    match state {
        SessionState::Suspended
        | SessionState::Closed(Completion::Complete | Completion::Partial | Completion::Revoked) => true,
        SessionState::Active | SessionState::ClusterBlocked | SessionState::HemPending => false,
    }
}
