//! Every address we answer to, in one table. What is not here is not served; what is served is in the OpenAPI
//! document, because both are made from this table.

use action::Environment;
use futures_util::future::BoxFuture;
use gateway::{Code, Deed, Error, Role};
use http::{HeaderMap, Method};

use crate::faces::{
    actions, approval_page, approvals, audit, authzen, callbacks, clusters, discovery, events,
    execution_protocol, grants, keys, log, mandates, mcp, mcp_tools, operations, policies, principals,
    protected_resource, receipts, rollbacks, runs, sessions,
};
use crate::fault::Audience;
use crate::openapi::{Answer, Schema};
use crate::request::{self, Request, Response};

/// One address and method.
pub struct Route {
    /// `GET`, `POST` or `DELETE`; `HEAD` is answered as `GET`.
    pub method: Method,
    /// The path; one segment may be `{name}`, or all that follow `{name..}`.
    pub path: &'static str,
    /// In which environments.
    pub place: Place,
    /// Who may.
    pub who: Who,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The body it takes.
    pub body: Option<Schema>,
    /// What it answers when all is well.
    pub answers: &'static [Answer],
    /// Query parameters.
    pub query: &'static [(&'static str, &'static str)],
    /// Codes it may answer beside those that any route may.
    pub codes: &'static [Code],
    pub(crate) handler: Handler,
}

/// Where an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As written, for production or for both at once.
    Root,
    /// As written for production, and below `/sandbox` for the sandbox.
    Both,
    /// As written, for production, unless `EP-Mode` says sandbox.
    Chosen,
    /// As written, for the sandbox.
    Sandbox,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody who can reach us.
    Anyone,
    /// Anybody on a loopback listener, else whoever may read the tenant.
    Figures,
    /// Whoever is logged in to the approval page.
    Session,
    /// A provider whose binding shares a secret with it: its signature is the key.
    Provider,
    /// A transmitter of security events whose keys the operator registered: its signature is the key.
    Transmitter,
    /// Whoever has the token that continues a grant.
    Grantee,
    /// A caller whose role allows this. In the sandbox a caller without a key is an agent.
    May(Deed),
}

impl Who {
    /// The roles that are let in; none for what anybody may use.
    pub fn roles(self) -> impl Iterator<Item = Role> {
        let deed = match self {
            Who::Anyone | Who::Session | Who::Provider | Who::Transmitter | Who::Grantee => None,
            Who::Figures => Some(Deed::ReadTenant),
            Who::May(deed) => Some(deed),
        };
        Role::ALL.into_iter().filter(move |role| deed.is_some_and(|deed| role.may(deed)))
    }
}

pub(crate) type Handler = fn(Request) -> BoxFuture<'static, Result<Response, Error>>;

/// Makes a plain function pointer of an asynchronous function.
macro_rules! by {
    ($function:path) => {
        |request| Box::pin($function(request))
    };
}

const READING: &[Code] = &[Code::NotFound];
const EXECUTING: &[Code] = &[
    Code::MalformedBody,
    Code::VersionUnsupported,
    Code::IdempotencyRequired,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::UnknownArchetype,
    Code::IdempotencyInFlight,
    Code::IdempotencyMismatch,
    Code::CardDataRefused,
    Code::KeyRequired,
    Code::RollbackRequired,
    Code::ProviderCannot,
    Code::Erased,
    Code::RateLimited,
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
    Code::Cancelled,
    Code::Released,
    Code::ProviderFailed,
    Code::DeadlineExceeded,
    Code::StateConflict,
    Code::IntentMissing,
    Code::IntentExpired,
    Code::IntentMandateMismatch,
    Code::IntentSequence,
    Code::IntentWrongInstance,
    Code::IntentOutsideGoal,
];
/// As `EXECUTING`, where neither header is asked for.
const SUBMITTING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::UnknownArchetype,
    Code::IdempotencyInFlight,
    Code::IdempotencyMismatch,
    Code::CardDataRefused,
    Code::KeyRequired,
    Code::RollbackRequired,
    Code::ProviderCannot,
    Code::Erased,
    Code::RateLimited,
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
    Code::Cancelled,
    Code::Released,
    Code::ProviderFailed,
    Code::DeadlineExceeded,
    Code::StateConflict,
    Code::IntentMissing,
    Code::IntentExpired,
    Code::IntentMandateMismatch,
    Code::IntentSequence,
    Code::IntentWrongInstance,
    Code::IntentOutsideGoal,
];
const WRITING: &[Code] =
    &[Code::MalformedBody, Code::BodyTooLarge, Code::UnsupportedMediaType, Code::ValidationFailed];
const CHANGING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
];
const DELEGATING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
    Code::NarrowingViolation,
];
const DECIDING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
    Code::Erased,
];
/// As `DECIDING`, with what an extension comes up against.
const RULING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
    Code::Erased,
    Code::NarrowingViolation,
];
const ANSWERING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
    Code::Erased,
    Code::RateLimited,
];
const REPORTING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::UnknownArchetype,
    Code::ProviderCannot,
    Code::NotFound,
    Code::StateConflict,
    Code::Erased,
];
const UNDOING: &[Code] =
    &[Code::NotFound, Code::StateConflict, Code::Erased, Code::RollbackRequired, Code::ProviderCannot];
const RELEASING: &[Code] = &[Code::NotFound, Code::StateConflict, Code::Erased, Code::ProviderCannot];
const UNDOING_SEVERAL: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::StateConflict,
    Code::Erased,
    Code::RollbackRequired,
    Code::ProviderCannot,
];
const CAPTURING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
    Code::Erased,
    Code::ProviderCannot,
];
const OPENING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::RateLimited,
];
const DECLARING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::NotFound,
    Code::StateConflict,
    Code::RateLimited,
    Code::IntentMalformed,
    Code::IntentExpired,
    Code::IntentMandateMismatch,
    Code::IntentSequence,
    Code::IntentDuplicate,
    Code::IntentSessionMismatch,
    Code::IntentWrongInstance,
    Code::IntentOutsideGoal,
    Code::IntentSessionRevoked,
];
const GROUPING: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
    Code::RateLimited,
];
/// As `EXECUTING`, with what a session and a declaration have against it.
const CYCLING: &[Code] = &[
    Code::MalformedBody,
    Code::IdempotencyRequired,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
    Code::NotFound,
    Code::StateConflict,
    Code::UnknownArchetype,
    Code::IdempotencyInFlight,
    Code::IdempotencyMismatch,
    Code::CardDataRefused,
    Code::KeyRequired,
    Code::RollbackRequired,
    Code::ProviderCannot,
    Code::Erased,
    Code::RateLimited,
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
    Code::Cancelled,
    Code::ProviderFailed,
    Code::DeadlineExceeded,
    Code::IntentMissing,
    Code::IntentExpired,
    Code::IntentMandateMismatch,
    Code::IntentSequence,
    Code::IntentWrongInstance,
    Code::IntentOutsideGoal,
];
/// What AuthZEN calls a bad request is answered with 400 whatever is bad about it.
const EVALUATING: &[Code] = &[Code::MalformedBody, Code::RateLimited];
const STEERING: &[Code] = &[Code::NotFound, Code::StateConflict, Code::Erased];
/// Of messages of the Model Context Protocol; what speaks against an action stands in a result of its tool.
const ASKING: &[Code] = &[Code::NotFound, Code::MalformedBody, Code::RateLimited];
const SPEAKING: &[Answer] = &[
    Answer::json(200, "The answer", Schema::McpMessage),
    Answer::events(200, "What is said in the midst of the request, and the answer"),
    Answer::json(202, "It was heard, and takes no answer", Schema::McpMessage),
    Answer::json(400, "It is no message", Schema::McpMessage),
    Answer::json(404, "There is no such method", Schema::McpMessage),
    Answer::json(413, "It is longer than 4 MiB", Schema::McpMessage),
];
const HEARING: &[Code] = &[
    Code::Unauthenticated,
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::StateConflict,
];
/// Of forms.
const SENDING: &[Code] =
    &[Code::BodyTooLarge, Code::MalformedBody, Code::UnsupportedMediaType, Code::ValidationFailed];
const DRY_RUN: &[(&str, &str)] = &[("dry_run", "`true`: decide only; nothing is recorded or sent")];
const PAGE: &[(&str, &str)] =
    &[("cursor", "`next_cursor` of the page before"), ("limit", "rows of a page, 1 to 200; default 50")];

const TRAIL: &[(&str, &str)] = &[
    ("agent_id", "of actions this agent asked for"),
    ("session_id", "of the session the client named"),
    ("time_from", "at or after this RFC 3339 time"),
    ("time_to", "before this RFC 3339 time"),
    ("verb", "with this verb, which is the archetype where the action came with none"),
    ("archetype", "of this archetype"),
    ("regulation_ref", "under this regulation"),
    ("target", "with this target"),
    ("action_id", "the client's own id, as `client.action_id` has it"),
    ("fleet_id", "of this fleet"),
    ("audit_trail_id", "with this `compliance.audit_trail_id`"),
    ("data_classification", "`public`, `internal`, `confidential` or `restricted`"),
    ("dpia_ref", "under this data protection impact assessment"),
    ("clinical_safety_ref", "under this clinical safety case"),
    ("gds_assessment_ref", "under this assessment"),
    (
        "smr_accountable",
        "that this person answers for; looked for entry by entry, as nothing erasable is in the index",
    ),
    ("human_approver", "that this person was asked about, or decided on; likewise"),
    ("guarantee_level", "`atp-1`, `atp-2` or `atp-3`"),
    ("result_state", "that reached this state"),
    ("order", "`newest` first, the default, or `oldest`"),
    ("format", "`json`, `jsonl`, `csv` or `prov`; absent: by `Accept`"),
    ("cursor", "`next_cursor` of the page before"),
    ("limit", "entries of a page, 1 to 200; default 50, and no end for `jsonl` and `csv`"),
];
const RECORDS: &[(&str, &str)] = &[
    ("format", "`json`, the default, or `prov`"),
    ("cursor", "`next_cursor` of the page before"),
    ("limit", "records of a page, 1 to 1000; default 1000"),
];
const GAR: &[(&str, &str)] = &[
    ("session_id", "of this session"),
    ("mandate_id", "of sessions under this mandate"),
    ("agent_id", "of this agent's sessions"),
    ("ale_type", "with this code, such as `ALE-005`"),
    ("decision", "`ALLOW`, `DENY`, `ESCALATE` or `SUSPEND`"),
    ("time_from", "at or after this RFC 3339 time"),
    ("time_to", "before this RFC 3339 time"),
    ("cursor", "`next_cursor` of the page before"),
    ("limit", "records of a page, 1 to 200; default 50"),
];
const STRETCH: &[(&str, &str)] = &[("cursor", "`next_cursor` of the stretch before")];

/// The table. The first route is the busiest.
pub static ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/api/execute",
        place: Place::Chosen,
        who: Who::May(Deed::Execute),
        summary: "Take one action to its outcome",
        body: Some(Schema::ExecuteRequest),
        answers: execution_protocol::ANSWERS,
        query: DRY_RUN,
        codes: EXECUTING,
        handler: by!(execution_protocol::execute),
    },
    Route {
        method: Method::POST,
        path: "/api/sandbox/execute",
        place: Place::Sandbox,
        who: Who::May(Deed::Execute),
        summary: "The same in the sandbox, where no key is needed and nothing happens in the world",
        body: Some(Schema::ExecuteRequest),
        answers: execution_protocol::ANSWERS,
        query: DRY_RUN,
        codes: EXECUTING,
        handler: by!(execution_protocol::execute),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Take one action to its outcome, asked for in the words of the Agent Transaction Protocol, in JSON or YAML",
        body: Some(Schema::ActionRequest),
        answers: actions::ANSWERS,
        query: &[],
        codes: SUBMITTING,
        handler: by!(actions::submit),
    },
    Route {
        method: Method::GET,
        path: "/v1/actions/{id}",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "An action's record and what its caller was last answered",
        body: None,
        answers: &[Answer::json(200, "The record, without values if it was erased", Schema::ActionRecord)],
        query: &[],
        codes: READING,
        handler: by!(actions::get),
    },
    Route {
        method: Method::GET,
        path: "/v1/actions/{id}/replay",
        place: Place::Both,
        who: Who::May(Deed::ReadTenant),
        summary: "Decide a past action again with the policies of now, and name what differs",
        body: None,
        answers: &[Answer::json(200, "The comparison", Schema::Replay)],
        query: &[],
        codes: READING,
        handler: by!(actions::replay),
    },
    Route {
        method: Method::POST,
        path: "/mcp",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Speak with all MCP servers of the caller's tenant: one message of the Model Context Protocol, over Streamable HTTP",
        body: Some(Schema::McpMessage),
        answers: SPEAKING,
        query: &[],
        codes: ASKING,
        handler: by!(mcp::all),
    },
    Route {
        method: Method::GET,
        path: "/mcp",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Hear what all MCP servers of the caller's tenant tell of in a session (2025-11-25)",
        body: None,
        answers: &[Answer::events(200, "Messages of the protocol, as they come")],
        query: &[],
        codes: READING,
        handler: by!(mcp::all),
    },
    Route {
        method: Method::DELETE,
        path: "/mcp",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "End a session with all MCP servers of the caller's tenant (2025-11-25)",
        body: None,
        answers: &[Answer::json(200, "It is over", Schema::McpMessage)],
        query: &[],
        codes: READING,
        handler: by!(mcp::all),
    },
    Route {
        method: Method::POST,
        path: "/mcp/{server}",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Speak with one MCP server: one message of the Model Context Protocol, over Streamable HTTP",
        body: Some(Schema::McpMessage),
        answers: SPEAKING,
        query: &[],
        codes: ASKING,
        handler: by!(mcp::one),
    },
    Route {
        method: Method::GET,
        path: "/mcp/{server}",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Hear what one MCP server tells of in a session (2025-11-25)",
        body: None,
        answers: &[Answer::events(200, "Messages of the protocol, as they come")],
        query: &[],
        codes: READING,
        handler: by!(mcp::one),
    },
    Route {
        method: Method::DELETE,
        path: "/mcp/{server}",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "End a session with one MCP server (2025-11-25)",
        body: None,
        answers: &[Answer::json(200, "It is over", Schema::McpMessage)],
        query: &[],
        codes: READING,
        handler: by!(mcp::one),
    },
    Route {
        method: Method::GET,
        path: "/v1/approvals",
        place: Place::Both,
        who: Who::May(Deed::ReadTenant),
        summary: "What waits for people, newest first, and what only a person can settle",
        body: None,
        answers: &[Answer::json(200, "One page", Schema::HeldPage)],
        query: PAGE,
        codes: &[Code::ValidationFailed],
        handler: by!(approvals::list),
    },
    Route {
        method: Method::GET,
        path: "/v1/approvals/{id}",
        place: Place::Both,
        who: Who::May(Deed::ReadTenant),
        summary: "One action that waits for people, or did: what exactly, why, and who said what",
        body: None,
        answers: &[Answer::json(200, "The action", Schema::Held)],
        query: &[],
        codes: &[Code::NotFound, Code::Erased],
        handler: by!(approvals::get),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/envelope",
        place: Place::Root,
        who: Who::May(Deed::Approve),
        summary: "What a passkey has to sign to agree to a held action; good for one answer",
        body: Some(Schema::EnvelopeRequest),
        answers: &[Answer::json(200, "The envelope and its challenge", Schema::Question)],
        query: &[],
        codes: DECIDING,
        handler: by!(approvals::envelope),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/approve",
        place: Place::Both,
        who: Who::May(Deed::Approve),
        summary: "Agree to a held action; after the last approval needed it is judged again and carried out",
        body: Some(Schema::ApproveRequest),
        answers: &[Answer::json(200, "The action, as it waits or no longer does", Schema::Held)],
        query: &[],
        codes: DECIDING,
        handler: by!(approvals::approve),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/reject",
        place: Place::Both,
        who: Who::May(Deed::Approve),
        summary: "Say no to a held action, which ends it",
        body: Some(Schema::CommentRequest),
        answers: &[Answer::json(200, "The action, which is blocked now", Schema::Held)],
        query: &[],
        codes: DECIDING,
        handler: by!(approvals::reject),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/decide",
        place: Place::Both,
        who: Who::May(Deed::Approve),
        summary: "Decide about a held action: yes, yes within limits, no, a question, the end of the mission, more time",
        body: Some(Schema::DecideRequest),
        answers: &[Answer::json(200, "The action, as it waits or no longer does", Schema::Held)],
        query: &[],
        codes: RULING,
        handler: by!(approvals::decide),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/answer",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Answer what people asked about a held action of the caller's; they look at it again",
        body: Some(Schema::AnswerRequest),
        answers: &[Answer::json(200, "What waits, with question and answer", Schema::PendingEscalation)],
        query: &[],
        codes: ANSWERING,
        handler: by!(approvals::answer),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/resolve",
        place: Place::Both,
        who: Who::May(Deed::Approve),
        summary: "Say what became of an action that is in doubt, or could not be undone, where nobody else does",
        body: Some(Schema::ResolveRequest),
        answers: &[Answer::json(200, "The record, with the person's word in it", Schema::ActionRecord)],
        query: &[],
        codes: DECIDING,
        handler: by!(approvals::resolve),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/retry",
        place: Place::Both,
        who: Who::May(Deed::Steer),
        summary: "Try an action that failed once more: judged anew, as the next attempt of the same action",
        body: None,
        answers: &[Answer::json(200, "The record, once there is something to say", Schema::ActionRecord)],
        query: &[],
        codes: STEERING,
        handler: by!(actions::retry),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/cancel",
        place: Place::Both,
        who: Who::May(Deed::Steer),
        summary: "Call off an action that is not sent; what is out there cannot be called back",
        body: None,
        answers: &[Answer::json(200, "The record, which has failed with EP_CANCELLED", Schema::ActionRecord)],
        query: &[],
        codes: STEERING,
        handler: by!(actions::cancel),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/rollback",
        place: Place::Both,
        who: Who::May(Deed::Steer),
        summary: "Undo the effect of an action that was carried out; however often it is asked for, once",
        body: None,
        answers: &[Answer::json(200, "The record, after the first step", Schema::ActionRecord)],
        query: &[],
        codes: UNDOING,
        handler: by!(actions::rollback),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/capture",
        place: Place::Both,
        who: Who::May(Deed::Steer),
        summary: "Charge what is reserved for an action, or a part of it; however often it is asked for, once",
        body: Some(Schema::CaptureRequest),
        answers: &[Answer::json(200, "The record, once there is something to say", Schema::ActionRecord)],
        query: &[],
        codes: CAPTURING,
        handler: by!(actions::capture),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/release",
        place: Place::Both,
        who: Who::May(Deed::Steer),
        summary: "Set free what is reserved for an action; it has failed with EP_RELEASED then",
        body: None,
        answers: &[Answer::json(200, "The record, after the first step", Schema::ActionRecord)],
        query: &[],
        codes: RELEASING,
        handler: by!(actions::release),
    },
    Route {
        method: Method::POST,
        path: "/v1/callbacks/{binding}",
        place: Place::Root,
        who: Who::Provider,
        summary: "What a provider says of its own accord about an action that was sent to it",
        body: Some(Schema::Anything),
        answers: &[Answer::json(200, "It need not be said again", Schema::Received)],
        query: &[],
        codes: HEARING,
        handler: by!(callbacks::receive),
    },
    Route {
        method: Method::POST,
        path: "/v1/runs",
        place: Place::Root,
        who: Who::May(Deed::Execute),
        summary: "Ask for an action that the caller itself carries out, and go on as soon as it is on record",
        body: Some(Schema::ExecuteRequest),
        answers: runs::ANSWERS,
        query: DRY_RUN,
        codes: EXECUTING,
        handler: by!(runs::begin),
    },
    Route {
        method: Method::POST,
        path: "/v1/runs/{id}/take",
        place: Place::Root,
        who: Who::May(Deed::Execute),
        summary: "The call of an action to carry out, as soon as there is one; it is given to one runner only",
        body: Some(Schema::TakeRequest),
        answers: &[Answer::json(200, "The call, or where the action stands", Schema::Run)],
        query: &[],
        codes: REPORTING,
        handler: by!(runs::take),
    },
    Route {
        method: Method::POST,
        path: "/v1/runs/{id}/beat",
        place: Place::Root,
        who: Who::May(Deed::Execute),
        summary: "Say that a call is still being carried out; whoever falls silent is taken to be gone",
        body: Some(Schema::BeatRequest),
        answers: &[Answer::json(200, "It was heard", Schema::Heard)],
        query: &[],
        codes: REPORTING,
        handler: by!(runs::beat),
    },
    Route {
        method: Method::POST,
        path: "/v1/runs/{id}/report",
        place: Place::Root,
        who: Who::May(Deed::Execute),
        summary: "Say what became of a call, once; answered when it is written down",
        body: Some(Schema::ReportRequest),
        answers: &[Answer::json(200, "The record as it is now", Schema::ActionRecord)],
        query: &[],
        codes: REPORTING,
        handler: by!(runs::report),
    },
    Route {
        method: Method::POST,
        path: "/v1/rollbacks",
        place: Place::Both,
        who: Who::May(Deed::Steer),
        summary: "Undo the effects of several actions, the newest first, up to the first that is not undone",
        body: Some(Schema::RollbackRequest),
        answers: &[Answer::json(200, "What became of each; asking again goes on", Schema::Rollbacks)],
        query: &[],
        codes: UNDOING_SEVERAL,
        handler: by!(rollbacks::rollback),
    },
    Route {
        method: Method::POST,
        path: "/v1/actions/{id}/erase",
        place: Place::Both,
        who: Who::May(Deed::Administer),
        summary: "Erase what an action that is over was about; receipts and chain stay. Refused while it has to be kept",
        body: None,
        answers: &[Answer::json(200, "What is left of the record", Schema::ActionRecord)],
        query: &[],
        codes: &[Code::NotFound, Code::StateConflict],
        handler: by!(actions::erase),
    },
    Route {
        method: Method::GET,
        path: "/v1/approvers",
        place: Place::Root,
        who: Who::May(Deed::ReadTenant),
        summary: "The approvers file, as `countersign verify --approvers` reads it",
        body: None,
        answers: &[Answer::json(
            200,
            "An array, one item for each passkey that was ever enrolled",
            Schema::Approvers,
        )],
        query: &[],
        codes: &[],
        handler: by!(approvals::approvers),
    },
    Route {
        method: Method::GET,
        path: "/v1/passkeys",
        place: Place::Root,
        who: Who::May(Deed::ReadTenant),
        summary: "The passkeys of the tenant's approvers, oldest first",
        body: None,
        answers: &[Answer::json(200, "The passkeys", Schema::PasskeyList)],
        query: &[],
        codes: &[],
        handler: by!(approvals::passkeys),
    },
    Route {
        method: Method::POST,
        path: "/v1/passkeys/{id}/enrol",
        place: Place::Root,
        who: Who::May(Deed::Administer),
        summary: "Say that a registered passkey is its person's; from then on it counts",
        body: None,
        answers: &[Answer::json(200, "The passkey", Schema::Passkey)],
        query: &[],
        codes: &[Code::NotFound, Code::StateConflict],
        handler: by!(approvals::enrol),
    },
    Route {
        method: Method::POST,
        path: "/v1/passkeys/{id}/revoke",
        place: Place::Root,
        who: Who::May(Deed::Administer),
        summary: "End a passkey; nothing that is still to be carried out counts on it",
        body: None,
        answers: &[Answer::json(200, "The passkey", Schema::Passkey)],
        query: &[],
        codes: &[Code::NotFound, Code::StateConflict],
        handler: by!(approvals::revoke),
    },
    Route {
        method: Method::GET,
        path: "/v1/audit",
        place: Place::Both,
        who: Who::May(Deed::Audit),
        summary: "The audit trail: an entry for each thing that happened to an action, and for each act of those who govern",
        body: None,
        answers: audit::ANSWERS,
        query: TRAIL,
        codes: &[],
        handler: by!(audit::list),
    },
    Route {
        method: Method::GET,
        path: "/v1/audit/verify",
        place: Place::Both,
        who: Who::May(Deed::Audit),
        summary: "Check a stretch of the ledger's chain, and the rows and receipts that belong to it",
        body: None,
        answers: &[Answer::json(200, "What is missing or altered in it", Schema::AuditCheck)],
        query: STRETCH,
        codes: &[],
        handler: by!(audit::verify),
    },
    Route {
        method: Method::GET,
        path: "/v1/receipts/{id}",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "A receipt's document, byte for byte",
        body: None,
        answers: &[Answer::json(200, "The receipt, canonical JSON", Schema::Receipt)],
        query: &[],
        codes: READING,
        handler: by!(receipts::get),
    },
    Route {
        method: Method::GET,
        path: "/v1/receipts/{id}/proof",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "That a receipt is in the transparency log, against its newest checkpoint",
        body: None,
        answers: &[Answer::json(200, "The proof, canonical JSON", Schema::LogProof)],
        query: &[],
        codes: READING,
        handler: by!(log::proof),
    },
    Route {
        method: Method::GET,
        path: "/v1/receipts/{id}/bundle",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "A receipt with key set and proof, for whoever has nothing but the issuer's pin",
        body: None,
        answers: &[Answer::json(200, "The bundle, canonical JSON", Schema::LogBundle)],
        query: &[],
        codes: READING,
        handler: by!(log::bundle),
    },
    Route {
        method: Method::GET,
        path: "/v1/log",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "The key by which checkpoints of the tenant's transparency log are verified",
        body: None,
        answers: &[Answer::json(200, "The key", Schema::LogKey)],
        query: &[],
        codes: &[],
        handler: by!(log::key),
    },
    Route {
        method: Method::GET,
        path: "/log/checkpoint",
        place: Place::Both,
        who: Who::May(Deed::Audit),
        summary: "The newest checkpoint of the tenant's transparency log, a signed note",
        body: None,
        answers: &[Answer::note(200, "The note")],
        query: &[(
            "leaves",
            "Instead of the newest of all the one that most witnesses cosigned of those with so many leaves, if any did",
        )],
        codes: &[Code::ValidationFailed, Code::NotFound],
        handler: by!(log::checkpoint),
    },
    Route {
        method: Method::GET,
        path: "/log/tile/{path..}",
        place: Place::Both,
        who: Who::May(Deed::Audit),
        summary: "Hashes of the tenant's transparency log, or its entries, by the paths of C2SP tlog-tiles",
        body: None,
        answers: &[Answer::bytes(200, "The tile, or the entries below it")],
        query: &[],
        codes: READING,
        handler: by!(log::tile),
    },
    Route {
        method: Method::GET,
        path: "/log/consistency",
        place: Place::Both,
        who: Who::May(Deed::Audit),
        summary: "That the tenant's transparency log of a later size begins with that of an earlier one",
        body: None,
        answers: &[Answer::json(200, "The proof", Schema::Consistency)],
        query: &[("from", "The earlier size"), ("to", "The later size")],
        codes: &[Code::ValidationFailed, Code::NotFound],
        handler: by!(log::consistency),
    },
    Route {
        method: Method::GET,
        path: "/v1/log/completeness",
        place: Place::Both,
        who: Who::May(Deed::Audit),
        summary: "How many intents and receipts the tenant's transparency log has of a period, a signed note",
        body: None,
        answers: &[Answer::note(200, "The note")],
        query: &[
            ("from", "From this full hour on, such as 2026-05-01T00:00:00Z"),
            ("until", "Before this full hour, which is over"),
        ],
        codes: &[Code::ValidationFailed, Code::NotFound, Code::RateLimited],
        handler: by!(log::completeness),
    },
    Route {
        method: Method::POST,
        path: "/v1/mandates",
        place: Place::Both,
        who: Who::May(Deed::Govern),
        summary: "Issue a mandate; its token is shown this once",
        body: Some(Schema::MandateRequest),
        answers: &[Answer::json(201, "The mandate and its token", Schema::IssuedMandate)],
        query: &[],
        codes: CHANGING,
        handler: by!(mandates::issue),
    },
    Route {
        method: Method::GET,
        path: "/v1/mandates",
        place: Place::Both,
        who: Who::May(Deed::ReadTenant),
        summary: "The tenant's mandates and what is left of them, newest first",
        body: None,
        answers: &[Answer::json(200, "One page", Schema::MandatePage)],
        query: PAGE,
        codes: &[Code::ValidationFailed],
        handler: by!(mandates::list),
    },
    Route {
        method: Method::GET,
        path: "/v1/mandates/{jti}",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "A mandate, its chain, and what is left of all of it; an agent reads what it holds",
        body: None,
        answers: &[Answer::json(200, "The mandate", Schema::MandateStanding)],
        query: &[],
        codes: &[Code::NotFound, Code::StateConflict],
        handler: by!(mandates::get),
    },
    Route {
        method: Method::POST,
        path: "/v1/mandates/{jti}/delegate",
        place: Place::Both,
        who: Who::May(Deed::Delegate),
        summary: "Hand a mandate on, narrower; the new token is shown this once",
        body: Some(Schema::DelegateRequest),
        answers: &[Answer::json(201, "The new mandate and its token", Schema::IssuedMandate)],
        query: &[],
        codes: DELEGATING,
        handler: by!(mandates::delegate),
    },
    Route {
        method: Method::POST,
        path: "/v1/principals/{iss}/keys",
        place: Place::Both,
        who: Who::May(Deed::Govern),
        summary: "Register a key with which a principal signs mandates, or an agent what it hands on",
        body: Some(Schema::PrincipalRequest),
        answers: &[Answer::json(201, "The key", Schema::PrincipalKey)],
        query: &[],
        codes: CHANGING,
        handler: by!(principals::register),
    },
    Route {
        method: Method::GET,
        path: "/v1/principals",
        place: Place::Both,
        who: Who::May(Deed::ReadTenant),
        summary: "The tenant's keys of principals, those that ended included",
        body: None,
        answers: &[Answer::json(200, "Every key", Schema::PrincipalKeyList)],
        query: &[],
        codes: &[],
        handler: by!(principals::list),
    },
    Route {
        method: Method::POST,
        path: "/v1/principals/{iss}/keys/revoke",
        place: Place::Both,
        who: Who::May(Deed::Govern),
        summary: "End a principal's key; nothing it signed is a mandate after the answer",
        body: Some(Schema::PrincipalRevocation),
        answers: &[Answer::json(200, "The key", Schema::PrincipalKey)],
        query: &[],
        codes: CHANGING,
        handler: by!(principals::revoke),
    },
    Route {
        method: Method::GET,
        path: "/v1/policies/disclosure",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "The policies in force, as far as the caller's role is told of them",
        body: None,
        answers: &[Answer::json(200, "What is told", Schema::Disclosure)],
        query: &[("level", "FULL, SUMMARY, REDACTED or COUNT_ONLY; the most that the role is told")],
        codes: &[Code::ValidationFailed],
        handler: by!(policies::disclosure),
    },
    Route {
        method: Method::GET,
        path: "/v1/mcp/tools",
        place: Place::Root,
        who: Who::May(Deed::Audit),
        summary: "What the tenant's MCP servers list, beside what was accepted of it",
        body: None,
        answers: &[Answer::json(200, "Servers and their tools", Schema::McpTools)],
        query: &[
            ("server", "only this one"),
            ("said", "`true`: with what that server says of each tool, which is foreign text"),
        ],
        codes: READING,
        handler: by!(mcp_tools::list),
    },
    Route {
        method: Method::POST,
        path: "/v1/mandates/{jti}/extend",
        place: Place::Both,
        who: Who::May(Deed::Govern),
        summary: "Extend the time budget of a mandate, where policies permit it and what stands above has the time",
        body: Some(Schema::ExtendRequest),
        answers: &[Answer::json(
            200,
            "The mandate and what is left of it, and what goes on",
            Schema::ExtendedMandate,
        )],
        query: &[],
        codes: DELEGATING,
        handler: by!(mandates::extend),
    },
    Route {
        method: Method::POST,
        path: "/v1/mandates/{jti}/revoke",
        place: Place::Both,
        who: Who::May(Deed::Govern),
        summary: "End a mandate; nothing is admitted under it after the answer",
        body: Some(Schema::ReasonRequest),
        answers: &[Answer::json(
            200,
            "The acknowledgement, and what was admitted before",
            Schema::Revocation,
        )],
        query: &[],
        codes: CHANGING,
        handler: by!(mandates::revoke),
    },
    Route {
        method: Method::POST,
        path: "/v1/sessions",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Open a governed session under the caller's mandate",
        body: Some(Schema::SessionRequest),
        answers: &[Answer::json(201, "The session", Schema::Session)],
        query: &[],
        codes: OPENING,
        handler: by!(sessions::open),
    },
    Route {
        method: Method::GET,
        path: "/v1/sessions",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "Sessions, newest first: an agent's own, or all of the tenant",
        body: None,
        answers: &[Answer::json(200, "One page", Schema::SessionPage)],
        query: PAGE,
        codes: &[Code::ValidationFailed],
        handler: by!(sessions::list),
    },
    Route {
        method: Method::GET,
        path: "/v1/sessions/{id}",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "One session and how it stands",
        body: None,
        answers: &[Answer::json(200, "The session", Schema::Session)],
        query: &[],
        codes: READING,
        handler: by!(sessions::show),
    },
    Route {
        method: Method::GET,
        path: "/v1/sessions/{id}/context",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "The Context Package of a session, as its next cycle would be judged with it",
        body: None,
        answers: &[Answer::json(200, "The Context Package", Schema::Context)],
        query: &[],
        codes: READING,
        handler: by!(sessions::context),
    },
    Route {
        method: Method::POST,
        path: "/v1/sessions/{id}/intents",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Declare an intent in a session: signed and committed before anything is judged under it",
        body: Some(Schema::IntentRequest),
        answers: &[Answer::json(201, "The declaration, with its record and signature", Schema::Intent)],
        query: &[],
        codes: DECLARING,
        handler: by!(sessions::declare),
    },
    Route {
        method: Method::POST,
        path: "/v1/sessions/{id}/cycles",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Take one action to its outcome as a cycle of a session",
        body: Some(Schema::CycleRequest),
        answers: sessions::CYCLE,
        query: &[],
        codes: CYCLING,
        handler: by!(sessions::cycle),
    },
    Route {
        method: Method::POST,
        path: "/v1/sessions/{id}/close",
        place: Place::Both,
        who: Who::May(Deed::Halt),
        summary: "End a session; nothing begins in it after the answer",
        body: Some(Schema::CloseRequest),
        answers: &[Answer::json(200, "The session and its signed record", Schema::Closed)],
        query: &[],
        codes: CHANGING,
        handler: by!(sessions::close),
    },
    Route {
        method: Method::GET,
        path: "/v1/sessions/{id}/record",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "Every record of a session, in order",
        body: None,
        answers: sessions::RECORD,
        query: RECORDS,
        codes: READING,
        handler: by!(sessions::record),
    },
    Route {
        method: Method::POST,
        path: "/v1/sessions/{id}/wait",
        place: Place::Both,
        who: Who::May(Deed::Halt),
        summary: "Have a session wait for another member of its cluster, or no more; its clock stands still",
        body: Some(Schema::WaitRequest),
        answers: &[Answer::json(200, "The session and its cluster", Schema::Waiting)],
        query: &[],
        codes: GROUPING,
        handler: by!(clusters::wait),
    },
    Route {
        method: Method::POST,
        path: "/v1/clusters",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Form a cluster with a session of the caller's own",
        body: Some(Schema::ClusterRequest),
        answers: &[Answer::json(201, "The cluster", Schema::Cluster)],
        query: &[],
        codes: GROUPING,
        handler: by!(clusters::form),
    },
    Route {
        method: Method::GET,
        path: "/v1/clusters/{id}",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "One cluster, its members and what is left to each",
        body: None,
        answers: &[Answer::json(200, "The cluster", Schema::Cluster)],
        query: &[],
        codes: READING,
        handler: by!(clusters::show),
    },
    Route {
        method: Method::POST,
        path: "/v1/clusters/{id}/join",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Have a session of the caller's own join a cluster",
        body: Some(Schema::MemberRequest),
        answers: &[Answer::json(200, "The cluster after it", Schema::Cluster)],
        query: &[],
        codes: GROUPING,
        handler: by!(clusters::join),
    },
    Route {
        method: Method::POST,
        path: "/v1/clusters/{id}/leave",
        place: Place::Both,
        who: Who::May(Deed::Halt),
        summary: "Have a session leave its cluster",
        body: Some(Schema::MemberRequest),
        answers: &[Answer::json(200, "The cluster after it", Schema::Cluster)],
        query: &[],
        codes: GROUPING,
        handler: by!(clusters::leave),
    },
    Route {
        method: Method::POST,
        path: "/v1/clusters/{id}/hold",
        place: Place::Both,
        who: Who::May(Deed::Halt),
        summary: "Have nothing of a cluster's members begin until it is released; people do, agents do not",
        body: Some(Schema::ReasonRequest),
        answers: &[Answer::json(200, "The cluster after it", Schema::Cluster)],
        query: &[],
        codes: GROUPING,
        handler: by!(clusters::hold),
    },
    Route {
        method: Method::POST,
        path: "/v1/clusters/{id}/release",
        place: Place::Both,
        who: Who::May(Deed::Halt),
        summary: "Let a cluster go on that was held; people do, agents do not",
        body: None,
        answers: &[Answer::json(200, "The cluster after it", Schema::Cluster)],
        query: &[],
        codes: GROUPING,
        handler: by!(clusters::release),
    },
    Route {
        method: Method::POST,
        path: "/v1/clusters/{id}/transfer",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Hand time from a session of the caller's own to another member, if the policies permit it",
        body: Some(Schema::TransferRequest),
        answers: &[Answer::json(200, "The cluster after it", Schema::Cluster)],
        query: &[],
        codes: GROUPING,
        handler: by!(clusters::transfer),
    },
    Route {
        method: Method::GET,
        path: "/v1/gar",
        place: Place::Both,
        who: Who::May(Deed::ReadOwn),
        summary: "Governance records: of an agent's own sessions, or of all of the tenant",
        body: None,
        answers: &[Answer::json(200, "One page", Schema::GarPage)],
        query: GAR,
        codes: &[Code::ValidationFailed],
        handler: by!(sessions::gar),
    },
    Route {
        method: Method::POST,
        path: "/v1/grants",
        place: Place::Both,
        who: Who::May(Deed::Execute),
        summary: "Ask for a mandate and a session under it, as RFC 9635 has it",
        body: Some(Schema::GrantRequest),
        answers: grants::GRANTED,
        query: &[],
        codes: &[Code::BodyTooLarge, Code::UnsupportedMediaType, Code::RateLimited],
        handler: by!(grants::request),
    },
    Route {
        method: Method::POST,
        path: "/v1/grants/continue",
        place: Place::Both,
        who: Who::Grantee,
        summary: "Ask what became of a grant that a person was asked about",
        body: None,
        answers: grants::CONTINUED,
        query: &[],
        codes: &[Code::Unauthenticated, Code::RateLimited],
        handler: by!(grants::proceed),
    },
    Route {
        method: Method::POST,
        path: "/v1/events",
        place: Place::Both,
        who: Who::Transmitter,
        summary: "Hear that a session or mandate is revoked: a signed security event token",
        body: Some(Schema::EventToken),
        answers: events::HEARD,
        query: &[],
        codes: &[Code::BodyTooLarge, Code::MalformedBody, Code::UnsupportedMediaType],
        handler: by!(events::receive),
    },
    Route {
        method: Method::POST,
        path: "/v1/freeze",
        place: Place::Both,
        who: Who::May(Deed::Govern),
        summary: "Stop everything, a tenant, an agent, an archetype or a provider, at once",
        body: Some(Schema::FreezeRequest),
        answers: &[Answer::json(200, "The freeze", Schema::Freeze)],
        query: &[],
        codes: CHANGING,
        handler: by!(operations::freeze),
    },
    Route {
        method: Method::POST,
        path: "/v1/thaw",
        place: Place::Both,
        who: Who::May(Deed::Govern),
        summary: "Let go on what a freeze of exactly this scope stopped",
        body: Some(Schema::ThawRequest),
        answers: &[Answer::json(200, "The freeze that ended", Schema::Freeze)],
        query: &[],
        codes: CHANGING,
        handler: by!(operations::thaw),
    },
    Route {
        method: Method::GET,
        path: "/v1/freezes",
        place: Place::Both,
        who: Who::May(Deed::ReadTenant),
        summary: "What is frozen",
        body: None,
        answers: &[Answer::json(200, "The freezes", Schema::FreezeList)],
        query: &[],
        codes: &[],
        handler: by!(operations::freezes),
    },
    Route {
        method: Method::POST,
        path: "/v1/keys",
        place: Place::Root,
        who: Who::May(Deed::Administer),
        summary: "Make an API key; its secret is shown this once",
        body: Some(Schema::KeyRequest),
        answers: &[Answer::json(201, "The key and its secret", Schema::CreatedKey)],
        query: &[],
        codes: WRITING,
        handler: by!(keys::create),
    },
    Route {
        method: Method::GET,
        path: "/v1/keys",
        place: Place::Root,
        who: Who::May(Deed::Administer),
        summary: "The tenant's API keys, without their secrets",
        body: None,
        answers: &[Answer::json(200, "The keys", Schema::KeyList)],
        query: &[],
        codes: &[],
        handler: by!(keys::list),
    },
    Route {
        method: Method::POST,
        path: "/v1/keys/{id}/revoke",
        place: Place::Root,
        who: Who::May(Deed::Administer),
        summary: "End an API key",
        body: None,
        answers: &[Answer::json(200, "The key", Schema::Key)],
        query: &[],
        codes: &[Code::NotFound, Code::StateConflict],
        handler: by!(keys::revoke),
    },
    Route {
        method: Method::GET,
        path: "/v1/signing-keys",
        place: Place::Both,
        who: Who::May(Deed::ReadTenant),
        summary: "The keys that sign receipts, oldest first",
        body: None,
        answers: &[Answer::json(200, "The keys", Schema::SigningKeyList)],
        query: &[],
        codes: &[],
        handler: by!(keys::signing_keys),
    },
    Route {
        method: Method::POST,
        path: "/v1/signing-keys/rotate",
        place: Place::Both,
        who: Who::May(Deed::Administer),
        summary: "Put a new signing key in the active one's place; old receipts stay valid",
        body: None,
        answers: &[Answer::json(201, "The new key", Schema::SigningKey)],
        query: &[],
        codes: &[Code::StateConflict],
        handler: by!(keys::rotate),
    },
    Route {
        method: Method::POST,
        path: "/v1/signing-keys/{kid}/compromise",
        place: Place::Both,
        who: Who::May(Deed::Administer),
        summary: "Say that others may hold a signing key since a time; what it signed later is quarantined",
        body: Some(Schema::CompromiseRequest),
        answers: &[Answer::json(200, "The key", Schema::SigningKey)],
        query: &[],
        codes: CHANGING,
        handler: by!(keys::compromise),
    },
    Route {
        method: Method::POST,
        path: "/v1/observe",
        place: Place::Both,
        who: Who::May(Deed::Administer),
        summary: "Only observe the tenant until a time within 30 days, or no longer",
        body: Some(Schema::ObserveRequest),
        answers: &[Answer::json(200, "What holds now", Schema::Observe)],
        query: &[],
        codes: WRITING,
        handler: by!(operations::observe),
    },
    Route {
        method: Method::POST,
        path: "/v1/reload",
        place: Place::Both,
        who: Who::May(Deed::Administer),
        summary: "Read catalogue and policies again and swap them as one; a mistake changes nothing",
        body: None,
        answers: &[Answer::json(200, "What is in force now", Schema::Reload)],
        query: &[],
        codes: &[Code::ValidationFailed],
        handler: by!(operations::reload),
    },
    Route {
        method: Method::GET,
        path: "/approvals",
        place: Place::Both,
        who: Who::Anyone,
        summary: "The page where people decide; without a session the form by which one logs in",
        body: None,
        answers: &[Answer::page(200, "The page")],
        query: &[("cursor", "of the page before")],
        codes: &[],
        handler: by!(approval_page::inbox),
    },
    Route {
        method: Method::POST,
        path: "/approvals/login",
        place: Place::Both,
        who: Who::Anyone,
        summary: "Log in by a key of role approver or a passkey",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: SENDING,
        handler: by!(approval_page::log_in),
    },
    Route {
        method: Method::POST,
        path: "/approvals/greeting",
        place: Place::Both,
        who: Who::Anyone,
        summary: "What a passkey signs to log in",
        body: None,
        answers: &[Answer::json(200, "The challenge", Schema::Anything)],
        query: &[],
        codes: SENDING,
        handler: by!(approval_page::greet),
    },
    Route {
        method: Method::POST,
        path: "/approvals/logout",
        place: Place::Both,
        who: Who::Session,
        summary: "Log out",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: SENDING,
        handler: by!(approval_page::log_out),
    },
    Route {
        method: Method::GET,
        path: "/approvals/events",
        place: Place::Both,
        who: Who::Session,
        summary: "Says when what a page shows has changed",
        body: None,
        answers: &[Answer::events(200, "At most one event; the browser then asks again")],
        query: &[("of", "one action; absent: all that waits"), ("seen", "the version that is shown")],
        codes: &[Code::NotFound],
        handler: by!(approval_page::watch),
    },
    Route {
        method: Method::GET,
        path: "/approvals/passkeys",
        place: Place::Root,
        who: Who::Session,
        summary: "The visitor's passkeys",
        body: None,
        answers: &[Answer::page(200, "The page")],
        query: &[],
        codes: &[],
        handler: by!(approval_page::passkeys),
    },
    Route {
        method: Method::POST,
        path: "/approvals/passkeys",
        place: Place::Root,
        who: Who::Session,
        summary: "Register a passkey that the browser made",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: DECIDING,
        handler: by!(approval_page::register_passkey),
    },
    Route {
        method: Method::POST,
        path: "/approvals/passkeys/new",
        place: Place::Root,
        who: Who::Session,
        summary: "What a browser makes a passkey of",
        body: None,
        answers: &[Answer::json(200, "The options", Schema::Anything)],
        query: &[],
        codes: SENDING,
        handler: by!(approval_page::begin_passkey),
    },
    Route {
        method: Method::POST,
        path: "/approvals/passkeys/{id}/revoke",
        place: Place::Root,
        who: Who::Session,
        summary: "End one of the visitor's passkeys",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: DECIDING,
        handler: by!(approval_page::revoke_passkey),
    },
    Route {
        method: Method::GET,
        path: "/approvals/{id}",
        place: Place::Both,
        who: Who::Session,
        summary: "One action in full, and the form by which one decides on it",
        body: None,
        answers: &[Answer::page(200, "The page")],
        query: &[],
        codes: READING,
        handler: by!(approval_page::show),
    },
    Route {
        method: Method::POST,
        path: "/approvals/{id}/envelope",
        place: Place::Root,
        who: Who::Session,
        summary: "What a passkey has to sign to agree",
        body: None,
        answers: &[Answer::json(200, "The challenge", Schema::Anything)],
        query: &[],
        codes: DECIDING,
        handler: by!(approval_page::ask),
    },
    Route {
        method: Method::POST,
        path: "/approvals/{id}/approve",
        place: Place::Both,
        who: Who::Session,
        summary: "Agree",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: DECIDING,
        handler: by!(approval_page::approve),
    },
    Route {
        method: Method::POST,
        path: "/approvals/{id}/reject",
        place: Place::Both,
        who: Who::Session,
        summary: "Say no",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: DECIDING,
        handler: by!(approval_page::reject),
    },
    Route {
        method: Method::POST,
        path: "/approvals/{id}/decide",
        place: Place::Both,
        who: Who::Session,
        summary: "Ask the agent, give more time, or end the whole mission",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: DECIDING,
        handler: by!(approval_page::decide),
    },
    Route {
        method: Method::POST,
        path: "/approvals/{id}/resolve",
        place: Place::Both,
        who: Who::Session,
        summary: "Say what became of an action, where nobody else does",
        body: None,
        answers: &[Answer::page(303, "On to the next page")],
        query: &[],
        codes: DECIDING,
        handler: by!(approval_page::resolve),
    },
    Route {
        method: Method::GET,
        path: "/r/{address}",
        place: Place::Root,
        who: Who::Anyone,
        summary: "A receipt by its public address: a page for browsers, the document for everybody else",
        body: None,
        answers: &[
            Answer::json(200, "The receipt, canonical JSON", Schema::Receipt),
            Answer::page(200, "A page that verifies the receipt in the browser"),
        ],
        query: &[],
        codes: READING,
        handler: by!(receipts::public),
    },
    Route {
        method: Method::POST,
        path: "/access/v1/evaluation",
        place: Place::Both,
        who: Who::May(Deed::Evaluate),
        summary: "Ask what an action would come to, in the words of AuthZEN: nothing is recorded as an action, spent or sent",
        body: Some(Schema::AuthzenQuestion),
        answers: authzen::EVALUATED,
        query: &[],
        codes: EVALUATING,
        handler: by!(authzen::evaluation),
    },
    Route {
        method: Method::POST,
        path: "/access/v1/evaluations",
        place: Place::Both,
        who: Who::May(Deed::Evaluate),
        summary: "Ask the same of several actions",
        body: Some(Schema::AuthzenQuestions),
        answers: authzen::EVALUATED_ALL,
        query: &[],
        codes: EVALUATING,
        handler: by!(authzen::evaluations),
    },
    Route {
        method: Method::GET,
        path: "/.well-known/authzen-configuration",
        place: Place::Root,
        who: Who::Anyone,
        summary: "Where those questions are asked",
        body: None,
        answers: &[Answer::json(200, "Metadata of a decision point", Schema::AuthzenConfiguration)],
        query: &[],
        codes: &[],
        handler: by!(authzen::configuration),
    },
    Route {
        method: Method::GET,
        path: "/.well-known/authzen-configuration/sandbox",
        place: Place::Sandbox,
        who: Who::Anyone,
        summary: "The same of the sandbox, at the place that the standard has for it",
        body: None,
        answers: &[Answer::json(200, "Metadata of a decision point", Schema::AuthzenConfiguration)],
        query: &[],
        codes: &[Code::NotFound],
        handler: by!(authzen::configuration),
    },
    Route {
        method: Method::GET,
        path: "/.well-known/jwks.json",
        place: Place::Both,
        who: Who::Anyone,
        summary: "Every key that ever signed a receipt, and when",
        body: None,
        answers: &[Answer::json(200, "A JSON Web Key Set", Schema::Jwks)],
        query: &[],
        codes: &[],
        handler: by!(discovery::jwks),
    },
    Route {
        method: Method::GET,
        path: "/.well-known/oauth-protected-resource",
        place: Place::Root,
        who: Who::Anyone,
        summary: "Whose access tokens are taken, and for what they have to be (RFC 9728)",
        body: None,
        answers: &[Answer::json(200, "The metadata", Schema::ProtectedResource)],
        query: &[],
        codes: &[],
        handler: by!(protected_resource::whole),
    },
    Route {
        method: Method::GET,
        path: "/.well-known/oauth-protected-resource/mcp",
        place: Place::Root,
        who: Who::Anyone,
        summary: "The same for all MCP servers",
        body: None,
        answers: &[Answer::json(200, "The metadata", Schema::ProtectedResource)],
        query: &[],
        codes: &[],
        handler: by!(protected_resource::mcp),
    },
    Route {
        method: Method::GET,
        path: "/.well-known/oauth-protected-resource/mcp/{server}",
        place: Place::Root,
        who: Who::Anyone,
        summary: "The same for one MCP server",
        body: None,
        answers: &[Answer::json(200, "The metadata", Schema::ProtectedResource)],
        query: &[],
        codes: READING,
        handler: by!(protected_resource::server),
    },
    Route {
        method: Method::GET,
        path: "/openapi.json",
        place: Place::Root,
        who: Who::Anyone,
        summary: "This description",
        body: None,
        answers: &[Answer::json(200, "OpenAPI 3.1", Schema::Anything)],
        query: &[],
        codes: &[],
        handler: by!(discovery::openapi),
    },
    Route {
        method: Method::GET,
        path: "/",
        place: Place::Root,
        who: Who::Anyone,
        summary: "Leads whoever comes with a browser to this description",
        body: None,
        answers: &[Answer::page(303, "It is at `/docs`")],
        query: &[],
        codes: &[],
        handler: by!(discovery::front),
    },
    Route {
        method: Method::GET,
        path: "/docs",
        place: Place::Root,
        who: Who::Anyone,
        summary: "This description as a page",
        body: None,
        answers: &[Answer::page(200, "The page")],
        query: &[],
        codes: &[],
        handler: by!(discovery::docs),
    },
    Route {
        method: Method::GET,
        path: "/docs/errors",
        place: Place::Root,
        who: Who::Anyone,
        summary: "Every published code: what it means and what to do",
        body: None,
        answers: &[Answer::page(200, "The page")],
        query: &[],
        codes: &[],
        handler: by!(discovery::errors),
    },
    Route {
        method: Method::GET,
        path: "/healthz",
        place: Place::Root,
        who: Who::Anyone,
        summary: "Does the process answer?",
        body: None,
        answers: &[Answer::json(200, "It does", Schema::Health)],
        query: &[],
        codes: &[],
        handler: by!(operations::healthz),
    },
    Route {
        method: Method::GET,
        path: "/readyz",
        place: Place::Root,
        who: Who::Anyone,
        summary: "Can actions be taken?",
        body: None,
        answers: &[
            Answer::json(200, "They can", Schema::Health),
            Answer::json(503, "Not now", Schema::Health),
        ],
        query: &[],
        codes: &[],
        handler: by!(operations::readyz),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        place: Place::Root,
        who: Who::Figures,
        summary: "Figures in the text form of OpenMetrics; without a key on loopback only",
        body: None,
        answers: &[Answer::text(200, "The figures")],
        query: &[],
        codes: &[],
        handler: by!(operations::metrics),
    },
];

impl Route {
    /// Every path it is served under.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        let path = self.path.replace("..}", "}");
        let sandbox = (self.place == Place::Both).then(|| format!("{SANDBOX}{path}"));
        std::iter::once(path).chain(sandbox)
    }

    pub(crate) fn audience(&self) -> Audience {
        match self.who {
            Who::Session | Who::May(Deed::Approve | Deed::Govern | Deed::Administer | Deed::Audit) => {
                Audience::Operators
            }
            Who::May(
                Deed::Execute
                | Deed::Evaluate
                | Deed::Steer
                | Deed::Halt
                | Deed::Delegate
                | Deed::ReadOwn
                | Deed::ReadTenant,
            )
            | Who::Anyone
            | Who::Provider
            | Who::Transmitter
            | Who::Grantee
            | Who::Figures => Audience::Agents,
        }
    }

    /// The environment meant by path and `EP-Mode`, which addresses for everybody do not ask about.
    pub(crate) fn environment(&self, headers: &HeaderMap, path: Environment) -> Result<Environment, Error> {
        match self.who {
            Who::May(_) => request::mode(headers, path, self.place == Place::Chosen),
            Who::Anyone | Who::Figures | Who::Session | Who::Provider | Who::Transmitter | Who::Grantee => {
                Ok(path)
            }
        }
    }
}

/// The environment a path stands for, before a route is found.
pub(crate) fn environment_of(path: &str) -> Environment {
    let sandbox = path.strip_prefix(SANDBOX).is_some_and(|rest| rest.starts_with('/'))
        || path.starts_with("/api/sandbox/")
        || path.starts_with("/.well-known/") && path.ends_with("/sandbox");
    if sandbox { Environment::Sandbox } else { Environment::Production }
}

/// The route of a request and what stands in its path at the place of `{…}`.
pub(crate) fn find(method: &Method, path: &str) -> Result<(&'static Route, String), Error> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(argument) = matches(route, path) else { continue };
        if route.method == *method {
            let argument = decoded(argument).ok_or_else(|| Error::new(Code::NotFound, String::new()))?;
            return Ok((route, argument));
        }
        others.push(route.method.as_str());
        if route.method == Method::GET {
            others.push("HEAD");
        }
    }
    match others.is_empty() {
        true => Err(Error::new(Code::NotFound, String::new())),
        // The hint of this code is what the header `Allow` says.
        false => Err(Error::new(Code::MethodNotAllowed, String::new()).hint(others.join(", "))),
    }
}

fn matches<'a>(route: &Route, path: &'a str) -> Option<&'a str> {
    let below = path.strip_prefix(SANDBOX).filter(|_| route.place == Place::Both);
    below.and_then(|path| fits(route.path, path)).or_else(|| fits(route.path, path))
}

fn fits<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = template.split_once('{') else {
        return (template == path).then_some("");
    };
    let (name, after) = rest.split_once('}')?;
    let argument = path.strip_prefix(before)?.strip_suffix(after)?;
    let fits = name.ends_with("..") || !argument.contains('/');
    (!argument.is_empty() && fits).then_some(argument)
}

/// A path segment with its percent-encoding undone; nothing that has a name has a control character in it, and databases do not
/// take all of those.
fn decoded(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

const SANDBOX: &str = "/sandbox";

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Option<(&'static str, String)> {
        find(&method, path).ok().map(|(route, argument)| (route.path, argument))
    }

    #[test]
    fn paths_lead_to_their_routes_in_both_environments() {
        assert_eq!(found(Method::POST, "/api/execute"), Some(("/api/execute", String::new())));
        assert_eq!(found(Method::GET, "/v1/actions/a1"), Some(("/v1/actions/{id}", "a1".into())));
        assert_eq!(found(Method::HEAD, "/sandbox/v1/actions/a1"), Some(("/v1/actions/{id}", "a1".into())));
        assert_eq!(
            found(Method::GET, "/v1/actions/a1/replay"),
            Some(("/v1/actions/{id}/replay", "a1".into()))
        );
        assert_eq!(
            found(Method::POST, "/v1/mandates/a%2Fb/revoke"),
            Some(("/v1/mandates/{jti}/revoke", "a/b".into()))
        );
        assert_eq!(
            found(Method::GET, "/sandbox/.well-known/jwks.json"),
            Some(("/.well-known/jwks.json", String::new()))
        );
        assert_eq!(
            found(Method::POST, "/v1/signing-keys/rotate"),
            Some(("/v1/signing-keys/rotate", String::new()))
        );
        // All that follows, where a path is what is asked for.
        let tile = "/log/tile/{path..}";
        assert_eq!(found(Method::GET, "/log/tile/0/x001/067.p/8"), Some((tile, "0/x001/067.p/8".into())));
        assert_eq!(found(Method::GET, "/sandbox/log/tile/0/000"), Some((tile, "0/000".into())));
        assert_eq!(found(Method::GET, "/log/tile/"), None);
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        for path in [
            "",
            "/sandbox/",
            "/v1",
            "/v1/actions/",
            "/v1/actions/a/b",
            "/sandbox/sandbox/v1/mandates",
            "/sandbox/v1/keys",
            "/sandboxv1/mandates",
            "/r/",
            "/r/%zz",
            "/r/%00",
            "/r/%ff",
            "/api/execute/",
        ] {
            assert!(find(&Method::GET, path).is_err_and(|error| error.code == Code::NotFound), "{path}");
        }
    }

    #[test]
    fn another_method_is_told_which_there_are() {
        let error = |path| find(&Method::DELETE, path).err().and_then(|error| error.hint);
        assert_eq!(error("/v1/mandates").as_deref(), Some("POST, GET, HEAD"));
        assert_eq!(error("/api/execute").as_deref(), Some("POST"));
    }

    #[test]
    fn no_two_routes_share_method_and_path() {
        let mut seen = std::collections::HashSet::new();
        for route in ROUTES {
            for path in route.paths() {
                assert!(seen.insert((route.method.clone(), path.clone())), "{path} stands twice");
            }
        }
    }
}
