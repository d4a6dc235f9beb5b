//! The description of the interface, OpenAPI 3.1: made from the table of routes, the error catalogue and the types
//! that are read and written, so that it cannot say anything else than they do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use gateway::Code;
use http::Method;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, Required,
    Server,
};

use crate::errors;
use crate::faces::{
    actions, approvals, audit, authzen, callbacks, clusters, events, grants, keys, log, mandates, mcp_tools,
    operations, policies, principals, protected_resource, rollbacks, runs, sessions,
};
use crate::fault;
use crate::request::{SECEVENT, YAML};
use crate::routes::{Place, ROUTES, Route, Who};

/// The document, as served.
pub fn text() -> &'static str {
    &TEXT
}

/// Does every part of this JSON pointer, or this query parameter (`?limit`), have a name that the document publishes?
pub(crate) fn publishes(field: &str) -> bool {
    let known = |name: &str| NAMES.contains(name);
    match field.strip_prefix('?') {
        Some(parameter) => known(parameter),
        None => {
            let mut parts = field.split('/').skip(1).peekable();
            let is_place = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            parts.peek().is_some() && parts.all(|part| known(part) || is_place(part))
        }
    }
}

/// Names of members and parameters.
static NAMES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let document = serde_json::from_str(text()).unwrap_or_default();
    let mut names = BTreeSet::new();
    take_names(&document, &mut names);
    names
});

fn take_names(part: &Value, names: &mut BTreeSet<String>) {
    match part {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                names.extend(properties.keys().cloned());
            }
            if let (Some("query"), Some(name)) = (part["in"].as_str(), part["name"].as_str()) {
                names.insert(name.to_owned());
            }
            members.values().for_each(|within| take_names(within, names));
        }
        Value::Array(items) => items.iter().for_each(|within| take_names(within, names)),
        _ => {}
    }
}

static TEXT: LazyLock<String> = LazyLock::new(|| document().to_pretty_json().unwrap_or_default());

/// One answer of a route.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// When it is given.
    pub when: &'static str,
    /// Content type.
    pub content_type: &'static str,
    /// What it looks like.
    pub schema: Schema,
}

impl Answer {
    pub(crate) const fn json(status: u16, when: &'static str, schema: Schema) -> Answer {
        Answer { status, when, content_type: "application/json", schema }
    }

    pub(crate) const fn page(status: u16, when: &'static str) -> Answer {
        Answer { status, when, content_type: "text/html", schema: Schema::Text }
    }

    pub(crate) const fn events(status: u16, when: &'static str) -> Answer {
        Answer { status, when, content_type: "text/event-stream", schema: Schema::Text }
    }

    pub(crate) const fn note(status: u16, when: &'static str) -> Answer {
        Answer { status, when, content_type: "text/plain", schema: Schema::Text }
    }

    pub(crate) const fn bytes(status: u16, when: &'static str) -> Answer {
        Answer { status, when, content_type: "application/octet-stream", schema: Schema::Text }
    }

    pub(crate) const fn text(status: u16, when: &'static str) -> Answer {
        Answer { status, when, content_type: "application/openmetrics-text", schema: Schema::Text }
    }
}

/// Everything that is read or written and has a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each names a type that is documented where it is declared")]
pub enum Schema {
    ExecuteRequest,
    ExecuteResponse,
    ActionRequest,
    ActionRecord,
    BegunRun,
    TakeRequest,
    Run,
    BeatRequest,
    Heard,
    ReportRequest,
    CaptureRequest,
    HeldPage,
    Held,
    CommentRequest,
    ApproveRequest,
    EnvelopeRequest,
    DecideRequest,
    AnswerRequest,
    PendingEscalation,
    ResolveRequest,
    Question,
    PasskeyList,
    Passkey,
    Approvers,
    AuditCheck,
    AuditEntry,
    AuditPage,
    AuthzenQuestion,
    AuthzenQuestions,
    AuthzenDecision,
    AuthzenDecisions,
    AuthzenConfiguration,
    Replay,
    Receipt,
    Received,
    RollbackRequest,
    Rollbacks,
    MandateRequest,
    IssuedMandate,
    MandatePage,
    DelegateRequest,
    ExtendRequest,
    ExtendedMandate,
    MandateStanding,
    PrincipalRequest,
    PrincipalRevocation,
    PrincipalKey,
    PrincipalKeyList,
    Disclosure,
    McpTools,
    GrantRequest,
    GrantResponse,
    GrantError,
    EventToken,
    McpMessage,
    EventError,
    ReasonRequest,
    Revocation,
    SessionRequest,
    Session,
    SessionPage,
    Context,
    IntentRequest,
    Intent,
    CloseRequest,
    Closed,
    CycleRequest,
    CycleRecord,
    SessionRecord,
    GarPage,
    ClusterRequest,
    MemberRequest,
    TransferRequest,
    WaitRequest,
    Cluster,
    Waiting,
    FreezeRequest,
    ThawRequest,
    Freeze,
    FreezeList,
    KeyRequest,
    CreatedKey,
    KeyList,
    Key,
    SigningKeyList,
    SigningKey,
    CompromiseRequest,
    ObserveRequest,
    Observe,
    Reload,
    Jwks,
    LogKey,
    LogProof,
    LogBundle,
    Consistency,
    ProtectedResource,
    Health,
    ProductionError,
    SandboxError,
    Anything,
    Text,
}

/// What one status may mean, and the forms it may take.
type Meanings = (Vec<String>, Vec<(&'static str, Schema)>);

type Named = Vec<(String, RefOr<utoipa::openapi::Schema>)>;

impl Schema {
    /// The schema where it is used: a reference to the component of its name, which is put among `components`.
    fn used(self, components: &mut Named) -> RefOr<utoipa::openapi::Schema> {
        fn of<T: ToSchema>(components: &mut Named) -> RefOr<utoipa::openapi::Schema> {
            components.push((T::name().into_owned(), T::schema()));
            T::schemas(components);
            Ref::from_schema_name(T::name()).into()
        }
        match self {
            Schema::ExecuteRequest => of::<ExecuteRequest>(components),
            Schema::ExecuteResponse => of::<ExecuteResponse>(components),
            Schema::ActionRequest => of::<actions::ActionRequest>(components),
            Schema::ActionRecord => of::<actions::Record>(components),
            Schema::BegunRun => of::<runs::Admitted>(components),
            Schema::TakeRequest => of::<runs::TakeRequest>(components),
            Schema::Run => of::<runs::Run>(components),
            Schema::BeatRequest => of::<runs::BeatRequest>(components),
            Schema::Heard => of::<runs::Heard>(components),
            Schema::ReportRequest => of::<runs::ReportRequest>(components),
            Schema::RollbackRequest => of::<rollbacks::RollbackRequest>(components),
            Schema::Rollbacks => of::<rollbacks::Rollbacks>(components),
            Schema::CaptureRequest => of::<actions::CaptureRequest>(components),
            Schema::HeldPage => of::<approvals::HeldPage>(components),
            Schema::Held => of::<approvals::Held>(components),
            Schema::CommentRequest => of::<approvals::CommentRequest>(components),
            Schema::ApproveRequest => of::<approvals::ApproveRequest>(components),
            Schema::EnvelopeRequest => of::<approvals::EnvelopeRequest>(components),
            Schema::DecideRequest => of::<approvals::DecideRequest>(components),
            Schema::AnswerRequest => of::<approvals::AnswerRequest>(components),
            Schema::PendingEscalation => of::<approvals::Pending>(components),
            Schema::ResolveRequest => of::<approvals::ResolveRequest>(components),
            Schema::Question => of::<approvals::Question>(components),
            Schema::PasskeyList => of::<approvals::PasskeyList>(components),
            Schema::Passkey => of::<approvals::Passkey>(components),
            Schema::Approvers => utoipa::openapi::ArrayBuilder::new()
                .items(of::<approvals::ApproverFile>(components))
                .build()
                .into(),
            Schema::AuditCheck => of::<audit::Check>(components),
            Schema::AuditEntry => of::<audit::Entry>(components),
            Schema::AuditPage => of::<audit::Page>(components),
            Schema::AuthzenQuestion => of::<authzen::EvaluationRequest>(components),
            Schema::AuthzenQuestions => of::<authzen::EvaluationsRequest>(components),
            Schema::AuthzenDecision => of::<authzen::Decision>(components),
            Schema::AuthzenDecisions => of::<authzen::Decisions>(components),
            Schema::AuthzenConfiguration => of::<authzen::Configuration<'_>>(components),
            Schema::Replay => of::<actions::Replay>(components),
            Schema::Receipt => of::<Receipt>(components),
            Schema::Received => of::<callbacks::Received>(components),
            Schema::MandateRequest => of::<mandates::MandateRequest>(components),
            Schema::IssuedMandate => of::<mandates::IssuedMandate>(components),
            Schema::MandatePage => of::<mandates::MandatePage>(components),
            Schema::DelegateRequest => of::<mandates::DelegateRequest>(components),
            Schema::ExtendRequest => of::<mandates::ExtendRequest>(components),
            Schema::ExtendedMandate => of::<mandates::Extended>(components),
            Schema::MandateStanding => of::<mandates::Standing>(components),
            Schema::PrincipalRequest => of::<principals::PrincipalRequest>(components),
            Schema::PrincipalRevocation => of::<principals::PrincipalRevocation>(components),
            Schema::PrincipalKey => of::<principals::PrincipalKey>(components),
            Schema::PrincipalKeyList => of::<principals::PrincipalKeyList>(components),
            Schema::Disclosure => of::<policies::Disclosure>(components),
            Schema::McpTools => of::<mcp_tools::McpTools>(components),
            Schema::GrantRequest => of::<grants::GrantRequest>(components),
            Schema::GrantResponse => of::<grants::GrantResponse>(components),
            Schema::GrantError => of::<grants::GrantError>(components),
            Schema::EventToken => ObjectBuilder::new().schema_type(Type::String).build().into(),
            // Its form is the protocol's own to describe.
            Schema::McpMessage => ObjectBuilder::new().schema_type(Type::Object).build().into(),
            Schema::EventError => of::<events::EventError>(components),
            Schema::ReasonRequest => of::<mandates::ReasonRequest>(components),
            Schema::Revocation => of::<mandates::Revocation>(components),
            Schema::SessionRequest => of::<sessions::SessionRequest>(components),
            Schema::Session => of::<sessions::Session>(components),
            Schema::SessionPage => of::<sessions::SessionPage>(components),
            Schema::Context => of::<sessions::Context>(components),
            Schema::IntentRequest => of::<sessions::IntentRequest>(components),
            Schema::Intent => of::<sessions::Intent>(components),
            Schema::CloseRequest => of::<sessions::CloseRequest>(components),
            Schema::Closed => of::<sessions::Closed>(components),
            Schema::CycleRequest => of::<sessions::CycleRequest>(components),
            Schema::CycleRecord => of::<sessions::CycleRecord>(components),
            Schema::SessionRecord => of::<sessions::SessionRecord>(components),
            Schema::GarPage => of::<sessions::GarPage>(components),
            Schema::ClusterRequest => of::<clusters::ClusterRequest>(components),
            Schema::MemberRequest => of::<clusters::MemberRequest>(components),
            Schema::TransferRequest => of::<clusters::TransferRequest>(components),
            Schema::WaitRequest => of::<clusters::WaitRequest>(components),
            Schema::Cluster => of::<clusters::Cluster>(components),
            Schema::Waiting => of::<clusters::Waiting>(components),
            Schema::FreezeRequest => of::<operations::FreezeRequest>(components),
            Schema::ThawRequest => of::<operations::ThawRequest>(components),
            Schema::Freeze => of::<operations::Freeze>(components),
            Schema::FreezeList => of::<operations::FreezeList>(components),
            Schema::KeyRequest => of::<keys::KeyRequest>(components),
            Schema::CreatedKey => of::<keys::CreatedKey>(components),
            Schema::KeyList => of::<keys::KeyList>(components),
            Schema::Key => of::<keys::Key>(components),
            Schema::SigningKeyList => of::<keys::SigningKeyList>(components),
            Schema::SigningKey => of::<keys::SigningKey>(components),
            Schema::CompromiseRequest => of::<keys::CompromiseRequest>(components),
            Schema::ObserveRequest => of::<operations::ObserveRequest>(components),
            Schema::Observe => of::<operations::Observe>(components),
            Schema::Reload => of::<operations::Reload>(components),
            Schema::Jwks => of::<Jwks>(components),
            Schema::LogKey => of::<log::LogKey>(components),
            Schema::LogProof => of::<log::LogProof>(components),
            Schema::LogBundle => of::<log::LogBundle>(components),
            Schema::Consistency => of::<log::Consistency>(components),
            Schema::ProtectedResource => of::<protected_resource::ProtectedResource>(components),
            Schema::Health => of::<operations::Health>(components),
            Schema::ProductionError => of::<fault::Production>(components),
            Schema::SandboxError => of::<fault::Sandbox>(components),
            Schema::Anything => ObjectBuilder::new().build().into(),
            Schema::Text => ObjectBuilder::new().schema_type(Type::String).build().into(),
        }
    }
}

/// One action, asked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `action::Request` reads")]
pub(crate) struct ExecuteRequest {
    /// The kind of action, as the catalogue names it.
    #[schema(example = "PAYMENT_TRANSFER")]
    archetype: String,
    /// What exactly, in the form of the archetype's schema.
    #[schema(value_type = Object)]
    constraints: serde_json::Value,
    /// `QUOTE_ONLY`, `RESERVE_IF_AVAILABLE`, `IMMEDIATE_CHARGE` or `IMMEDIATE_CHARGE_WITH_CHALLENGE`; absent: the
    /// archetype's default.
    payment_mode: Option<String>,
    /// The token of a mandate.
    delegation_token: Option<String>,
    /// Milliseconds in which the action must have been sent.
    deadline_ms: Option<u64>,
    /// The same as the header `Idempotency-Key`, if both are there.
    idempotency_key: Option<String>,
    /// `atp-1`, `atp-2` or `atp-3`; can only make the catalogue's level stricter.
    guarantee_level: Option<String>,
    /// How to try it again above `atp-1`: fewer retries and longer pauses than the catalogue's, more or shorter ones do
    /// not count.
    retry_policy: Option<AskedRetryPolicy>,
    /// `false` can only make the catalogue's answer stricter.
    reversible: Option<bool>,
    /// How long to keep the record, such as `7_years`; can only make the catalogue's answer longer.
    retention: Option<String>,
    /// When to erase it, such as `hard_delete_30d`; can only make the catalogue's answer earlier, and never before the
    /// retention is over.
    deletion: Option<String>,
    /// An earlier transaction of the same effect that this one repeats on purpose.
    repeat_of: Option<String>,
    /// The authenticated caller, if it is named at all.
    agent_id: Option<String>,
    /// A session of the caller's.
    session_id: Option<String>,
    /// Only in a governed session, as is all that follows up to `resources`: the declaration it stands on; absent: the newest.
    intent_id: Option<String>,
    /// Its number; absent: the next.
    action_sequence_number: Option<u64>,
    /// How sure the agent says it is, 0 to 1.
    confidence: Option<f64>,
    /// What the agent says of itself.
    self_assessment: Option<String>,
    /// What it might do next.
    #[schema(max_items = 16)]
    branches: Option<Vec<sessions::Branch>>,
    /// What it means to use of the mandate's envelope.
    resources: Option<sessions::Resources>,
    /// Who is to be asked if a person must be.
    human_approver: Option<String>,
    /// Ids of the client's own, kept and searchable.
    #[schema(value_type = Option<Object>)]
    client: Option<serde_json::Value>,
}

/// How an action is to be tried again; what is left out is the catalogue's.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `action::AskedRetry` reads")]
pub(crate) struct AskedRetryPolicy {
    /// At most 100.
    max_retries: Option<u32>,
    /// `exponential`, `linear` or `fixed`.
    backoff: Option<String>,
    /// At most 86400.
    initial_delay_seconds: Option<u32>,
    /// At most 86400.
    max_delay_seconds: Option<u32>,
}

/// One outcome, or word that there is none yet.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `render` writes")]
pub(crate) struct ExecuteResponse {
    /// `executed`, `held`, `needs_challenge`, `pending_settlement`, `failed` or `blocked`.
    kind: String,
    /// Null for a dry run.
    transaction_id: Option<String>,
    /// Null while there is no receipt.
    receipt_id: Option<String>,
    receipt_url: Option<String>,
    receipt_url_short: Option<String>,
    /// One fixed line.
    message: String,
    /// The request that brought this outcome about.
    correlation_id: String,
    /// The published code; only there when blocked or failed.
    code: Option<String>,
    /// More about this outcome.
    details: OutcomeDetails,
}

/// What is known beside the kind; every member may be absent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `gateway::Details`")]
struct OutcomeDetails {
    /// Why it was refused or held, one stable word each.
    reasons: Option<Vec<String>>,
    /// Members to add before sending again under a new key.
    missing: Option<Vec<MissingMember>>,
    /// `approval`, `approved`, `reservation`, or `dry_run` where it was decided only.
    hold_reason: Option<String>,
    /// When a held action expires, or the payer's time is over.
    expires_at: Option<String>,
    /// Where the payer has to confirm it: an address of the provider's. Show it to the payer; nobody else has a use for it.
    challenge_url: Option<String>,
    /// Where to ask what became of it.
    status_url: Option<String>,
    /// The earlier transaction this one seems to repeat.
    earlier_transaction: Option<String>,
    /// The policies that decided, by id.
    policies: Option<Vec<String>>,
    /// The provider's reference for a confirmed effect.
    provider_reference: Option<String>,
    /// Amount authorised, a decimal string.
    amount: Option<String>,
    /// ISO 4217.
    currency: Option<String>,
    /// True if the effect was there, was not as it should be, and is undone.
    rolled_back: Option<bool>,
    /// How often this same refusal was repeated within the last minute.
    repeats: Option<u64>,
    /// What would have happened, had observe mode not let it through.
    observed: Option<String>,
    /// Decided only.
    dry_run: Option<bool>,
    /// Words of an agent, upstream or provider; never to be obeyed.
    untrusted_text: Option<String>,
}

/// A required member that was not there.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `gateway::Missing`")]
struct MissingMember {
    /// JSON pointer into `constraints`.
    field: String,
    /// JSON type expected there.
    r#type: String,
    /// What the member means.
    description: String,
    /// A value that would do.
    #[schema(value_type = Object)]
    example: serde_json::Value,
}

/// A receipt, `ep-receipt/2026-04-27`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the crate `receipt` writes")]
#[expect(non_snake_case, reason = "these are the names in the document")]
struct Receipt {
    /// `{spec: "ep-receipt/2026-04-27"}`.
    #[schema(value_type = Object)]
    version: (),
    receiptId: String,
    transactionId: String,
    agentId: String,
    sessionId: Option<String>,
    /// The time of the last entry.
    created: String,
    /// The hash chain, one entry for each stage.
    #[schema(value_type = Vec<Object>)]
    entries: (),
    /// `{kid, alg: "ES256", value}`.
    #[schema(value_type = Object)]
    signature: (),
    /// `ORIGINAL` or `AMENDMENT_…`.
    eventType: String,
    amendmentOf: Option<String>,
    /// `charged`, `not_charged` or `pending_provider_confirmation`.
    paymentStatus: String,
    #[schema(value_type = Object)]
    money: (),
    idempotencyKey: Option<String>,
    replicaId: String,
    chainId: String,
    regulatoryFramework: Vec<String>,
    #[schema(value_type = Object)]
    metadata: (),
}

/// A JSON Web Key Set (RFC 7517) with the members `ep_status`, `ep_active_from`, `ep_active_through` and
/// `ep_compromised_at` in each key.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the crate `receipt` writes")]
struct Jwks {
    #[schema(value_type = Vec<Object>)]
    keys: (),
}

fn document() -> OpenApi {
    let mut components = Named::new();
    let paths = paths(&mut components);
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key: `countersign keys api create`. Its role decides what it may do. Or a JWT of an issuer whose \
             access tokens are taken here: `/.well-known/oauth-protected-resource`.",
        ))
        .build();
    let info = InfoBuilder::new()
        .title("Countersign")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let components: BTreeMap<_, _> = components.into_iter().collect();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .paths(paths)
        .components(Some(
            ComponentsBuilder::new()
                .schemas_from_iter(components)
                .security_scheme(SECURITY, SecurityScheme::Http(key))
                .build(),
        ))
        .build()
}

fn paths(components: &mut Named) -> Paths {
    let mut paths: Vec<(String, PathItem)> = Vec::new();
    for route in ROUTES {
        for path in route.paths() {
            let method = match route.method {
                Method::POST => HttpMethod::Post,
                Method::DELETE => HttpMethod::Delete,
                _ => HttpMethod::Get,
            };
            let item = PathItem::new(method, operation(route, &path, components));
            match paths.iter_mut().find(|(known, _)| *known == path) {
                Some((_, known)) => known.merge_operations(item),
                None => paths.push((path, item)),
            }
        }
    }
    let build = |builder: PathsBuilder, (path, item)| builder.path(path, item);
    paths.into_iter().fold(PathsBuilder::new(), build).build()
}

fn operation(route: &Route, path: &str, components: &mut Named) -> OperationBuilder {
    let sandbox = path.starts_with("/sandbox/") || route.place == Place::Sandbox;
    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id(&route.method, path)))
        .summary(Some(if path.starts_with("/sandbox/") {
            format!("{} (sandbox)", route.summary)
        } else {
            route.summary.to_owned()
        }))
        .description(Some(who(route, sandbox)))
        .tag(tag(path));
    if let Some((_, rest)) = path.split_once('{') {
        let name = rest.split('}').next().unwrap_or_default();
        operation = operation.parameter(text_parameter(name, ParameterIn::Path, Required::True, None));
    }
    for (name, meaning) in route.query {
        operation =
            operation.parameter(text_parameter(name, ParameterIn::Query, Required::False, Some(meaning)));
    }
    for (name, required, meaning) in headers(route) {
        let required = if required { Required::True } else { Required::False };
        operation = operation.parameter(text_parameter(name, ParameterIn::Header, required, Some(meaning)));
    }
    if let Some(body) = route.body {
        let content = ContentBuilder::new().schema(Some(body.used(components))).build();
        // What may be written in YAML says the same as in JSON.
        let yaml = YAML.into_iter().filter(|_| route.body == Some(Schema::ActionRequest));
        let first = if route.body == Some(Schema::EventToken) { SECEVENT } else { "application/json" };
        let body = std::iter::once(first)
            .chain(yaml)
            .fold(RequestBodyBuilder::new().required(Some(Required::True)), |body, essence| {
                body.content(essence, content.clone())
            });
        operation = operation.request_body(Some(body.build()));
    }
    if route.who.roles().next().is_some() {
        if sandbox || matches!(route.who, Who::Figures) {
            operation = operation.security(SecurityRequirement::default());
        }
        operation = operation.security(SecurityRequirement::new(SECURITY, Vec::<String>::new()));
    }
    responses(route, sandbox, components).into_iter().fold(operation, |operation, (status, response)| {
        operation.response(status.to_string(), response.build())
    })
}

fn responses(route: &Route, sandbox: bool, components: &mut Named) -> BTreeMap<u16, ResponseBuilder> {
    let mut all: BTreeMap<u16, Meanings> = BTreeMap::new();
    let error = if sandbox { Schema::SandboxError } else { Schema::ProductionError };
    for answer in route.answers {
        let (whens, forms) = all.entry(answer.status).or_default();
        whens.push(answer.when.to_owned());
        forms.push((answer.content_type, answer.schema));
    }
    for code in codes(route) {
        let entry = errors::entry(code);
        let (whens, forms) = all.entry(entry.status).or_default();
        whens.push(format!("`{code}`: {}", entry.message));
        let outcome = route.answers.first().map_or(Schema::ExecuteResponse, |answer| answer.schema);
        // What speaks against a cycle is an outcome, and in an answer to anything else an error.
        let judged = matches!(outcome, Schema::ExecuteResponse | Schema::ActionRecord | Schema::CycleRecord);
        let form = if entry.receipt || (judged && errors::is_of_cycle(code)) { outcome } else { error };
        if !forms.contains(&("application/json", form)) {
            forms.push(("application/json", form));
        }
    }
    let build = |(status, (whens, forms)): (u16, Meanings)| {
        let mut by_type: BTreeMap<&'static str, Vec<RefOr<utoipa::openapi::Schema>>> = BTreeMap::new();
        for (content_type, schema) in forms {
            by_type.entry(content_type).or_default().push(schema.used(components));
        }
        let mut response = ResponseBuilder::new().description(whens.join("\n\n"));
        for (content_type, mut schemas) in by_type {
            let schema = match schemas.len() {
                1 => schemas.remove(0),
                _ => utoipa::openapi::Schema::OneOf(
                    schemas.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item).build(),
                )
                .into(),
            };
            response = response.content(content_type, ContentBuilder::new().schema(Some(schema)).build());
        }
        (
            status,
            response.header(
                "X-Request-Id",
                HeaderBuilder::new().description(Some("Names the request in logs.")).build(),
            ),
        )
    };
    all.into_iter().map(build).collect()
}

/// The codes of a route: its own, and those that any route of its kind may answer.
pub fn codes(route: &Route) -> Vec<Code> {
    let mut codes = route.codes.to_vec();
    if let Who::May(_) | Who::Figures = route.who {
        codes.push(Code::InsufficientScope);
    }
    if let Who::May(_) | Who::Figures | Who::Session = route.who {
        codes.push(Code::Unauthenticated);
        codes.push(Code::ValidationFailed);
    }
    codes.extend([Code::Forbidden, Code::MisdirectedRequest, Code::Unavailable]);
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn headers(route: &Route) -> Vec<(&'static str, bool, &'static str)> {
    let production = route.place == Place::Chosen;
    let mut headers = vec![("X-Request-Id", false, "Names the request; up to 128 plain characters, echoed.")];
    if route.body == Some(Schema::ActionRequest) {
        headers.push((
            "Idempotency-Key",
            false,
            "One key for one action, here or in the body; needed at `atp-2` and `atp-3`.",
        ));
    } else if route.path.starts_with("/mcp") {
        headers.extend([
            ("MCP-Protocol-Version", false, "The revision that is spoken; always from 2026-07-28 on."),
            ("Mcp-Session-Id", false, "The session, where there is one (2025-11-25)."),
        ]);
    } else if route.who == Who::May(gateway::Deed::Execute) {
        headers.extend([
            (
                "Idempotency-Key",
                production,
                "One key for one action; made by the sandbox if it is absent there.",
            ),
            ("EP-Version", production, "`2026-04-27`."),
            ("EP-Mode", false, "`production` or `sandbox`; must not contradict the path."),
        ]);
    }
    if route.who == Who::Provider {
        headers.extend([
            ("webhook-id", true, "Names the letter, the same each time it is sent."),
            ("webhook-timestamp", true, "Unix seconds; not more than five minutes from now."),
            ("webhook-signature", true, "As the Standard Webhooks specification has it: `v1,…`."),
        ]);
    }
    headers
}

fn who(route: &Route, sandbox: bool) -> String {
    let roles: Vec<&str> = route.who.roles().map(|role| role.as_str()).collect();
    let anonymous = matches!(
        route.who,
        Who::May(gateway::Deed::Execute | gateway::Deed::Evaluate | gateway::Deed::ReadOwn)
    );
    match route.who {
        Who::Anyone => "For anybody.".to_owned(),
        Who::Session => "For browsers that are logged in at `/approvals`.".to_owned(),
        Who::Provider => "For providers that sign with the secret of the binding's `callback`.".to_owned(),
        Who::Grantee => "For whoever has the token that continues the grant.".to_owned(),
        Who::Transmitter => {
            "For transmitters registered in the configuration: the signature is the key.".to_owned()
        }
        Who::Figures => format!("On loopback for anybody, else for keys of role {}.", roles.join(", ")),
        Who::May(_) if sandbox && anonymous => {
            format!("For anybody, and for keys of role {}.", roles.join(", "))
        }
        Who::May(_) => format!("For keys of role {}.", roles.join(", ")),
    }
}

fn tag(path: &str) -> &'static str {
    let path = path.strip_prefix("/sandbox").unwrap_or(path);
    match path.split('/').nth(1) {
        Some("api") => "Execution Protocol",
        Some("approvals") => "Approval page",
        Some("access") => "Decisions for others",
        Some(".well-known") if path.contains("authzen") => "Decisions for others",
        Some("r" | "log") => "Receipts and keys",
        Some(".well-known") if path.ends_with("/jwks.json") => "Receipts and keys",
        Some("v1")
            if ["/v1/approv", "/v1/passkeys", "/approve", "/reject", "/envelope"]
                .iter()
                .any(|part| path.contains(part)) =>
        {
            "Approvals"
        }
        Some("v1")
            if ["/v1/sessions", "/v1/clusters", "/v1/grants"].iter().any(|it| path.starts_with(it)) =>
        {
            "Sessions"
        }
        Some("v1")
            if ["/v1/actions", "/v1/audit", "/v1/gar", "/v1/receipts"]
                .iter()
                .any(|records| path.starts_with(records)) =>
        {
            "Records"
        }
        Some("v1") => "Operation",
        _ => "Service",
    }
}

fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(['/', '{', '}', '-', '.']).filter(|word| !word.is_empty());
    let id: Vec<&str> = std::iter::once(method.as_str()).chain(words).collect();
    id.join("_").to_ascii_lowercase()
}

fn text_parameter(
    name: &str,
    place: ParameterIn,
    required: Required,
    meaning: Option<&str>,
) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(meaning)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
}

const SECURITY: &str = "key";
const ABOUT: &str = "The action layer for AI agents: one structured action in, one signed outcome out.\n\n\
    Production and sandbox are apart: own issuer, own keys, own store. The sandbox is reached below `/sandbox`, at \
    `/api/sandbox/execute`, or by sending `EP-Mode: sandbox` to `/api/execute`; a header that contradicts the path is \
    refused. A caller without a key is the agent `anonymous` there, and nobody in production.\n\n\
    Requests that never became an action are answered with an error. A refused action is an outcome with a receipt.";
