//! The words a caller may branch on.

/// A published code. What it means to a person, its status and its advice stand in the error catalogue of
/// `server`; here it is only a name, so that receipts, the ledger and every face use the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is explained once, in the error catalogue of `server`")]
pub enum Code {
    MalformedBody,
    VersionUnsupported,
    IdempotencyRequired,
    Unauthenticated,
    Forbidden,
    BoundaryBlock,
    DelegationBlock,
    Incomplete,
    AnomalyBlock,
    ProbableDuplicate,
    BudgetExhausted,
    SessionRevoked,
    ApprovalDenied,
    ApprovalExpired,
    Frozen,
    NotFound,
    MethodNotAllowed,
    IdempotencyInFlight,
    StateConflict,
    Cancelled,
    Released,
    Erased,
    BodyTooLarge,
    UnsupportedMediaType,
    MisdirectedRequest,
    ValidationFailed,
    UnknownArchetype,
    IdempotencyMismatch,
    CardDataRefused,
    KeyRequired,
    RollbackRequired,
    ProviderCannot,
    NarrowingViolation,
    RateLimited,
    ProviderFailed,
    Unavailable,
    DeadlineExceeded,
}

impl Code {
    /// Every code, in the order of the error catalogue.
    pub const ALL: [Code; 37] = [
        Code::MalformedBody,
        Code::VersionUnsupported,
        Code::IdempotencyRequired,
        Code::Unauthenticated,
        Code::Forbidden,
        Code::BoundaryBlock,
        Code::DelegationBlock,
        Code::Incomplete,
        Code::AnomalyBlock,
        Code::ProbableDuplicate,
        Code::BudgetExhausted,
        Code::SessionRevoked,
        Code::ApprovalDenied,
        Code::ApprovalExpired,
        Code::Frozen,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::IdempotencyInFlight,
        Code::StateConflict,
        Code::Cancelled,
        Code::Released,
        Code::Erased,
        Code::BodyTooLarge,
        Code::UnsupportedMediaType,
        Code::MisdirectedRequest,
        Code::ValidationFailed,
        Code::UnknownArchetype,
        Code::IdempotencyMismatch,
        Code::CardDataRefused,
        Code::KeyRequired,
        Code::RollbackRequired,
        Code::ProviderCannot,
        Code::NarrowingViolation,
        Code::RateLimited,
        Code::ProviderFailed,
        Code::Unavailable,
        Code::DeadlineExceeded,
    ];

    /// The code as it stands on the wire and in receipts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::MalformedBody => "EP_MALFORMED_BODY",
            Code::VersionUnsupported => "EP_VERSION_UNSUPPORTED",
            Code::IdempotencyRequired => "EP_IDEMPOTENCY_REQUIRED",
            Code::Unauthenticated => "EP_UNAUTHENTICATED",
            Code::Forbidden => "EP_FORBIDDEN",
            Code::BoundaryBlock => "EP_BOUNDARY_BLOCK",
            Code::DelegationBlock => "EP_DELEGATION_BLOCK",
            Code::Incomplete => "EP_INCOMPLETE",
            Code::AnomalyBlock => "EP_ANOMALY_BLOCK",
            Code::ProbableDuplicate => "EP_PROBABLE_DUPLICATE",
            Code::BudgetExhausted => "EP_BUDGET_EXHAUSTED",
            Code::SessionRevoked => "EP_SESSION_REVOKED",
            Code::ApprovalDenied => "EP_APPROVAL_DENIED",
            Code::ApprovalExpired => "EP_APPROVAL_EXPIRED",
            Code::Frozen => "EP_FROZEN",
            Code::NotFound => "EP_NOT_FOUND",
            Code::MethodNotAllowed => "EP_METHOD_NOT_ALLOWED",
            Code::IdempotencyInFlight => "EP_IDEMPOTENCY_IN_FLIGHT",
            Code::StateConflict => "EP_STATE_CONFLICT",
            Code::Cancelled => "EP_CANCELLED",
            Code::Released => "EP_RELEASED",
            Code::Erased => "EP_ERASED",
            Code::BodyTooLarge => "EP_BODY_TOO_LARGE",
            Code::UnsupportedMediaType => "EP_UNSUPPORTED_MEDIA_TYPE",
            Code::MisdirectedRequest => "EP_MISDIRECTED_REQUEST",
            Code::ValidationFailed => "EP_VALIDATION_FAILED",
            Code::UnknownArchetype => "EP_UNKNOWN_ARCHETYPE",
            Code::IdempotencyMismatch => "EP_IDEMPOTENCY_MISMATCH",
            Code::CardDataRefused => "EP_CARD_DATA_REFUSED",
            Code::KeyRequired => "ATP_KEY_REQUIRED",
            Code::RollbackRequired => "ATP_ROLLBACK_REQUIRED",
            Code::ProviderCannot => "ATP_PROVIDER_CANNOT",
            Code::NarrowingViolation => "MANDATE_NARROWING_VIOLATION",
            Code::RateLimited => "EP_RATE_LIMITED",
            Code::ProviderFailed => "EP_PROVIDER_FAILED",
            Code::Unavailable => "EP_UNAVAILABLE",
            Code::DeadlineExceeded => "EP_DEADLINE_EXCEEDED",
        }
    }

    /// The code named `text`, if there is one.
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == text)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
