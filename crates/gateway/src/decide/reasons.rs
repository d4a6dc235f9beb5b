//! What a verdict or an obstacle means to the caller: published codes and words.

use boundary::{Reason, Trigger};
use execution::Stop;
use ledger::Obstacle;
use mandate::{Completion, IntentRefusal, SessionState};

use crate::Code;
use crate::outcome::{Details, Missing};

/// Why it waits for a person, and which earlier action it seems to repeat.
pub(super) fn held_details(triggers: &[Trigger]) -> Details {
    let mut reasons: Vec<String> = triggers.iter().map(|trigger| trigger.word().to_owned()).collect();
    reasons.dedup();
    let earlier_transaction = triggers.iter().find_map(Trigger::earlier).map(|earlier| earlier.to_string());
    Details { reasons, earlier_transaction, ..Details::default() }
}

/// The published code of a reason to block. No `_` arm: a new reason must choose.
pub(super) fn code_of(reason: &Reason) -> Code {
    match reason {
        Reason::HardDenied { .. }
        | Reason::RollbackDenied { .. }
        | Reason::Prohibited { .. }
        | Reason::PolicyError
        | Reason::Forbidden { .. }
        | Reason::NotPermitted
        | Reason::Quarantined { .. }
        | Reason::BeyondApproval { .. }
        | Reason::Mode(_) => Code::BoundaryBlock,
        Reason::Intent(refusal) => code_of_intent(*refusal),
        Reason::BudgetExhausted => Code::BudgetExhausted,
        // What is stopped is about to end so.
        Reason::Session(SessionState::Suspended | SessionState::Closed(Completion::Revoked)) => {
            Code::SessionRevoked
        }
        Reason::Session(_) | Reason::Cluster(_) => Code::StateConflict,
        Reason::Frozen { .. } => Code::Frozen,
        Reason::Delegation(mandate::Refusal::TimeUsedUp | mandate::Refusal::EnvelopeExceeded { .. }) => {
            Code::BudgetExhausted
        }
        // People narrowed what the mandate lets the session do.
        Reason::Delegation(_) | Reason::BeyondSession { .. } | Reason::NoMandate => Code::DelegationBlock,
        Reason::Incomplete { .. } => Code::Incomplete,
        Reason::Anomaly => Code::AnomalyBlock,
        Reason::ProbableDuplicate { .. } => Code::ProbableDuplicate,
    }
}

/// The published code of what is wrong with a declaration, or with a cycle that stands on it.
pub(crate) fn code_of_intent(refusal: IntentRefusal) -> Code {
    match refusal {
        IntentRefusal::Missing => Code::IntentMissing,
        IntentRefusal::Malformed => Code::IntentMalformed,
        IntentRefusal::Expired => Code::IntentExpired,
        IntentRefusal::MandateMismatch => Code::IntentMandateMismatch,
        IntentRefusal::SequenceNotRising => Code::IntentSequence,
        IntentRefusal::Duplicate => Code::IntentDuplicate,
        IntentRefusal::SessionMismatch => Code::IntentSessionMismatch,
        IntentRefusal::WrongInstance => Code::IntentWrongInstance,
        IntentRefusal::OutsideGoal => Code::IntentOutsideGoal,
        IntentRefusal::SessionRevoked => Code::IntentSessionRevoked,
    }
}

pub(super) fn details_of(reason: &Reason) -> Details {
    let mut details = Details {
        reasons: vec![reason.word().to_owned()],
        policies: reason.policies().iter().map(|policy| policy.id.to_string()).collect(),
        ..Details::default()
    };
    match reason {
        // Nothing more is shown: a limit that can be probed is none.
        Reason::Anomaly => details.reasons.clear(),
        Reason::Incomplete { missing } => details.missing = missing.iter().map(missing_of).collect(),
        Reason::ProbableDuplicate { earlier } => details.earlier_transaction = Some(earlier.to_string()),
        // Which limit it is that only a session keeps.
        Reason::Delegation(mandate::Refusal::NeedsSession { member }) => {
            details.reasons.push((*member).to_owned());
        }
        Reason::HardDenied { .. }
        | Reason::RollbackDenied { .. }
        | Reason::Frozen { .. }
        | Reason::Quarantined { .. }
        | Reason::BeyondApproval { .. }
        | Reason::BeyondSession { .. }
        | Reason::Delegation(_)
        | Reason::NoMandate
        | Reason::Prohibited { .. }
        | Reason::PolicyError
        | Reason::Forbidden { .. }
        | Reason::NotPermitted
        | Reason::Session(_)
        | Reason::Intent(_)
        | Reason::Mode(_)
        | Reason::Cluster(_)
        | Reason::BudgetExhausted => {}
    }
    details
}

fn missing_of(missing: &action::Missing) -> Missing {
    Missing {
        field: missing.field.clone(),
        type_: missing.kind.to_owned(),
        description: missing.description.clone(),
        example: missing.example.clone(),
    }
}

/// Why what was sent before must not be sent again, in published words.
pub(super) fn stop(code: Code, details: Details) -> Stop {
    Stop { code: code.as_str(), reasons: details.reasons }
}

/// What an obstacle at admission means to the caller.
pub(super) fn obstacle_of(obstacle: &Obstacle) -> (Code, &'static str, Details) {
    let (code, word) = match obstacle {
        Obstacle::Frozen(_) => (Code::Frozen, "frozen"),
        Obstacle::Revoked { .. } => (Code::DelegationBlock, "mandate_revoked"),
        Obstacle::MandateChanged { .. } => (Code::DelegationBlock, "mandate_changed"),
        Obstacle::ActionsUsedUp { .. } => (Code::DelegationBlock, "actions_used_up"),
        Obstacle::CapExceeded { .. } => (Code::DelegationBlock, "cap_exceeded"),
        Obstacle::CurrencyMismatch { .. } => (Code::DelegationBlock, "currency_mismatch"),
        Obstacle::SessionChanged => (Code::StateConflict, "session_changed"),
        Obstacle::NotRising { .. } => (Code::IntentSequence, "sequence_not_rising"),
        Obstacle::EnvelopeExceeded { resource: mandate::Resource::Seconds, .. } => {
            (Code::BudgetExhausted, "time_used_up")
        }
        Obstacle::EnvelopeExceeded { .. } => (Code::BudgetExhausted, "envelope_exceeded"),
        Obstacle::TooManyHeld => (Code::BoundaryBlock, "too_many_held"),
        Obstacle::Duplicate(_) => (Code::ProbableDuplicate, "probable_duplicate"),
        // Who meets it ends there; it is told to nobody.
        Obstacle::Overtaken => (Code::StateConflict, "overtaken"),
    };
    let earlier_transaction = match obstacle {
        Obstacle::Duplicate(earlier) => Some(earlier.id.to_string()),
        _ => None,
    };
    (code, word, Details { reasons: vec![word.to_owned()], earlier_transaction, ..Details::default() })
}
