//! Every reason why a mandate does not carry an action, in the order in which they are found.

use action::{Currency, Money};

use crate::Resource;

/// Why a mandate, or the caller's own bound, refuses an action. Nothing here is secret from the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than any mandate needs to be.
    #[error("mandate is longer than {limit} bytes")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
    /// Not a well-formed signed mandate; `what` says which part.
    #[error("mandate is malformed: {what}")]
    Malformed {
        /// Which part, and what was expected of it.
        what: String,
    },
    /// No key is registered for this issuer and key id.
    #[error("no key is registered for issuer `{issuer}`")]
    UnknownKey {
        /// The `iss` claim, not yet proven.
        issuer: String,
    },
    /// Nobody gives themselves a mandate, and whoever may hand one on gives none by that.
    #[error("`{issuer}` may sign what it hands on, and is no principal who gives this mandate")]
    NoPrincipal {
        /// The `iss` claim.
        issuer: String,
    },
    /// Nobody acts under their own word, or is a principal and an agent.
    #[error("`{subject}` gave this mandate or one above it, or signs others: nobody is principal and agent")]
    GivenToPrincipal {
        /// The `sub` claim.
        subject: String,
    },
    /// The header names another algorithm than the registered key's.
    #[error("mandate names another algorithm than its issuer's key")]
    WrongAlgorithm,
    /// The signature does not verify.
    #[error("mandate signature does not verify")]
    BadSignature,
    /// A mandate of the chain is not known here.
    #[error("mandate `{jti}` of the delegation chain is not known here")]
    ChainUnresolved {
        /// Which.
        jti: String,
    },
    /// The mandates of the chain do not follow on each other.
    #[error("mandate `{jti}` does not follow on the one before it in the delegation chain")]
    ChainBroken {
        /// The first that does not.
        jti: String,
    },
    /// The chain is longer than the operator allows.
    #[error("the delegation chain is longer than {most}")]
    ChainTooDeep {
        /// How many mandates may stand above one.
        most: usize,
    },
    /// A member is wider than what the parent has.
    #[error("`{member}` is wider than what the parent mandate has")]
    Widened {
        /// Which claim.
        member: &'static str,
    },
    /// The mandate is bound to a key of the holder, and no proof of possession can be verified yet.
    #[error("key-bound mandates are not supported: `cnf` must be absent")]
    KeyBoundUnsupported,
    /// Issued for another installation.
    #[error("mandate is for another audience")]
    WrongAudience,
    /// The one who asks is not the one who was mandated.
    #[error("mandate was issued to another agent")]
    WrongSubject,
    /// `nbf` or `iat` lies in the future.
    #[error("mandate is not valid before {from}")]
    NotYetValid {
        /// Unix seconds.
        from: i64,
    },
    /// `exp` has been reached.
    #[error("mandate expired at {at}")]
    Expired {
        /// Unix seconds.
        at: i64,
    },
    /// Revoked by its principal or an operator.
    #[error("mandate is revoked")]
    Revoked,
    /// Stopped after a settlement above its reservation, or by an operator.
    #[error("mandate is frozen")]
    Frozen,
    /// It has a limit that only a session keeps, and the action is in none.
    #[error("the mandate's `{member}` is kept in sessions only, and the action names none")]
    NeedsSession {
        /// The claim.
        member: &'static str,
    },
    /// The action's archetype, and every group it is in, is outside `mandate_scope`.
    #[error("`{archetype}` is outside the mandate's scope")]
    OutOfScope {
        /// The archetype asked for.
        archetype: String,
    },
    /// The action's resource matches none of the mandate's patterns; `None` when the action names no resource.
    #[error("the action's resource is outside the mandate")]
    ResourceOutside {
        /// As the caller wrote it.
        resource: Option<String>,
    },
    /// All actions that the mandate allows have been used.
    #[error("all {max} actions of the mandate are used")]
    ActionsUsedUp {
        /// The mandate's `max_actions`.
        max: u64,
    },
    /// A cap is in one currency, and an action in another is never converted.
    #[error("the action is in {asked}, its limit in {limit}")]
    CurrencyMismatch {
        /// Currency of the limit.
        limit: Currency,
        /// Currency of the action.
        asked: Currency,
    },
    /// More than what is left of the spend cap.
    #[error("{asked} {} is more than the {left} left of the mandate's spend cap", .asked.currency())]
    CapExceeded {
        /// What the action would spend.
        asked: Money,
        /// What is left.
        left: Money,
    },
    /// More time than is left of the budget.
    #[error("the mandate's time budget is used up")]
    TimeUsedUp,
    /// More of a resource than is left of the envelope.
    #[error("more than is left of the mandate's `{}`", .resource.member())]
    EnvelopeExceeded {
        /// Of which.
        resource: Resource,
    },
    /// More than the bound that the caller itself set in the request.
    #[error("{asked} {} is more than the request's own bound of {bound}", .asked.currency())]
    OverOwnBound {
        /// What the action would spend.
        asked: Money,
        /// The caller's bound.
        bound: Money,
    },
}

impl Refusal {
    /// A stable word for receipts, metrics and tests. Words are never renamed.
    pub fn word(&self) -> &'static str {
        match self {
            Refusal::TooLarge { .. } => "mandate_too_large",
            Refusal::Malformed { .. } => "mandate_malformed",
            Refusal::UnknownKey { .. } => "mandate_key_unknown",
            Refusal::NoPrincipal { .. } => "issuer_no_principal",
            Refusal::GivenToPrincipal { .. } => "subject_is_principal",
            Refusal::WrongAlgorithm => "mandate_wrong_algorithm",
            Refusal::BadSignature => "mandate_bad_signature",
            Refusal::ChainUnresolved { .. } => "chain_unresolved",
            Refusal::ChainBroken { .. } => "chain_broken",
            Refusal::ChainTooDeep { .. } => "chain_too_deep",
            Refusal::Widened { .. } => "narrowing_violation",
            Refusal::KeyBoundUnsupported => "key_bound_unsupported",
            Refusal::WrongAudience => "wrong_audience",
            Refusal::WrongSubject => "wrong_subject",
            Refusal::NotYetValid { .. } => "mandate_not_yet_valid",
            Refusal::Expired { .. } => "mandate_expired",
            Refusal::Revoked => "mandate_revoked",
            Refusal::Frozen => "mandate_frozen",
            Refusal::NeedsSession { .. } => "session_required",
            Refusal::OutOfScope { .. } => "out_of_scope",
            Refusal::ResourceOutside { .. } => "resource_outside",
            Refusal::ActionsUsedUp { .. } => "actions_used_up",
            Refusal::CurrencyMismatch { .. } => "currency_mismatch",
            Refusal::CapExceeded { .. } => "cap_exceeded",
            Refusal::TimeUsedUp => "time_used_up",
            Refusal::EnvelopeExceeded { .. } => "envelope_exceeded",
            Refusal::OverOwnBound { .. } => "over_own_bound",
        }
    }

    /// Whether the token itself was refused, before any question of what it allows.
    pub fn is_of_token(&self) -> bool {
        match self {
            Refusal::TooLarge { .. }
            | Refusal::Malformed { .. }
            | Refusal::UnknownKey { .. }
            | Refusal::NoPrincipal { .. }
            | Refusal::GivenToPrincipal { .. }
            | Refusal::WrongAlgorithm
            | Refusal::BadSignature
            | Refusal::ChainUnresolved { .. }
            | Refusal::ChainBroken { .. }
            | Refusal::ChainTooDeep { .. }
            | Refusal::Widened { .. }
            | Refusal::KeyBoundUnsupported
            | Refusal::WrongAudience
            | Refusal::WrongSubject
            | Refusal::NotYetValid { .. }
            | Refusal::Expired { .. } => true,
            Refusal::Revoked
            | Refusal::Frozen
            | Refusal::NeedsSession { .. }
            | Refusal::OutOfScope { .. }
            | Refusal::ResourceOutside { .. }
            | Refusal::ActionsUsedUp { .. }
            | Refusal::CurrencyMismatch { .. }
            | Refusal::CapExceeded { .. }
            | Refusal::TimeUsedUp
            | Refusal::EnvelopeExceeded { .. }
            | Refusal::OverOwnBound { .. } => false,
        }
    }
}

/// Shorthand for the many ways in which a token can be malformed.
pub(crate) fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::Malformed { what: what.into() }
}
