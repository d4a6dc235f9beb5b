//! Governed sessions: opened, declared in, looked at, ended; and their records, as JSON or PROV-JSON.

use std::time::Instant;

use action::Environment;
use gateway::{
    Ask, CloseAsk, Code, Completion, ContextView, CycleView, DeclarationView, Error, GarAsk, GarView,
    ResourceEnvelope, SessionView, Wait, no_others,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::approvals::Pending;
use super::audit::{link, named, one_of, plain, span, subject};
use super::execution_protocol::{marked, status_of};
use super::provenance;
use crate::openapi::{Answer, Schema};
use crate::reply;
use crate::request::{self, Request, Response, read};
use crate::who;

/// Opens a session of the caller's own.
pub(crate) async fn open(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let body = request.value_if_any().await?;
    no_others(&body, &["delegation_token"], Code::ValidationFailed)?;
    let ask: SessionRequest = read(body)?;
    let opened = gateway.open_session(&caller, ask.delegation_token.as_deref()).await?;
    Ok(reply::json(StatusCode::CREATED, &Session::of(&opened)))
}

/// One page of sessions.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let [cursor, limit] = request.query(["cursor", "limit"])?;
    let page = gateway.sessions(&caller, cursor, reply::rows(limit.as_deref())?).await?;
    let body = SessionPage { items: page.items.iter().map(Session::of).collect(), next_cursor: page.next };
    Ok(reply::json(StatusCode::OK, &body))
}

/// One session.
pub(crate) async fn show(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let session = gateway.session(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Session::of(&session)))
}

/// Its Context Package.
pub(crate) async fn context(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let context = gateway.context(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Context::of(context)))
}

/// Declares an intent in it.
pub(crate) async fn declare(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let body = request.value().await?;
    let declared = gateway.declare(&caller, &request.argument, &body).await?;
    Ok(reply::json(StatusCode::CREATED, &Intent::of(declared)))
}

/// Takes one action to its outcome as a cycle of it.
pub(crate) async fn cycle(mut request: Request) -> Result<Response, Error> {
    let came = Instant::now();
    let gateway = request.gateway()?;
    let caller = who::caller_soon(&request).await?;
    let asked = asked(&mut request, came).await;
    let (caller, ask) = who::may_hear(&request, caller, asked).await?;
    let wait = ask.wait.clone();
    let answer = async { gateway.cycle(&caller.await?, &request.argument, ask).await };
    let (answer, view) = gateway.in_time(wait, answer).await?;
    let response = serde_json::from_slice(&answer.reply.body).ok();
    let body = CycleRecord::of(view, response);
    Ok(marked(reply::json(status_of(&answer), &body), answer.replayed))
}

async fn asked(request: &mut Request, came: Instant) -> Result<Ask, Error> {
    let [] = request.query([])?;
    // Whether there has to be one is the gateway's to say: the key may stand in the body.
    let idempotency_key = request::idempotency_key(&request.head.headers, Environment::Sandbox)?;
    let body = request.take_body().await?;
    let wait = Wait::said(&body, None, came);
    Ok(Ask { idempotency_key, request_id: request.id().to_owned(), dry_run: false, wait, body })
}

/// Ends it.
pub(crate) async fn close(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let body = request.value().await?;
    no_others(&body, &["completion", "reason"], Code::ValidationFailed)?;
    let ask: CloseRequest = read(body)?;
    let closed = gateway.close_session(&caller, &request.argument, ask.understood()?).await?;
    let body = Closed {
        session: Session::of(&closed.session),
        record: GarRecord::of(&closed.record),
        unsettled: closed.unsettled.iter().map(ToString::to_string).collect(),
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// A session and records of it as `GET /v1/sessions/{id}/record` answers them, for those who hold the store themselves.
pub fn session_record(session: &SessionView, records: &[GarView]) -> Value {
    let items = records.iter().map(GarRecord::of).collect();
    let body = SessionRecord { session: Session::of(session), items, next_cursor: None };
    serde_json::to_value(body).unwrap_or_default()
}

/// Its records in order.
pub(crate) async fn record(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let [format, cursor, limit] = request.query(["format", "cursor", "limit"])?;
    let format = format.map(|text| one_of("format", text, &FORMATS)).transpose()?;
    let id = &request.argument;
    let (session, page) = gateway.session_records(&caller, id, cursor.as_deref(), most(limit)?).await?;
    let mut response = if format.as_deref() == Some(FORMATS[1]) {
        let principal = gateway.context(&caller, id).await?.delegation_context.root_principal;
        let document = provenance::session(&session, &principal, &page.items);
        reply::bytes_of(StatusCode::OK, "application/prov+json", document)
    } else {
        let body = SessionRecord {
            session: Session::of(&session),
            items: page.items.iter().map(GarRecord::of).collect(),
            next_cursor: page.next.clone(),
        };
        reply::json(StatusCode::OK, &body)
    };
    link(&request, page.next.as_deref(), response.headers_mut());
    Ok(response)
}

/// Records of all sessions that the caller may see.
pub(crate) async fn gar(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let [session_id, mandate_id, agent_id, ale_type, decision, time_from, time_to, cursor, limit] =
        request.query([
            "session_id",
            "mandate_id",
            "agent_id",
            "ale_type",
            "decision",
            "time_from",
            "time_to",
            "cursor",
            "limit",
        ])?;
    let (from_ms, to_ms) = span(time_from.as_deref(), time_to.as_deref())?;
    let ask = GarAsk {
        session_id: session_id.map(|text| plain("session_id", text)).transpose()?,
        mandate_id: mandate_id.map(|text| plain("mandate_id", text)).transpose()?,
        agent_id: agent_id.map(|text| subject(&text)).transpose()?,
        ale_type: ale_type.map(|text| plain("ale_type", text)).transpose()?,
        decision: decision.map(|text| one_of("decision", text, &DECISIONS)).transpose()?,
        from_ms,
        to_ms,
        cursor,
        limit: reply::rows(limit.as_deref())?,
    };
    let page = gateway.gar(&caller, &ask).await?;
    let body = GarPage { items: page.items.iter().map(GarRecord::of).collect(), next_cursor: page.next };
    Ok(reply::json(StatusCode::OK, &body))
}

/// The statuses of a cycle that is no refusal and no failure; those stand with their codes.
pub(crate) const CYCLE: &[Answer] = &[
    Answer::json(200, "PROCEED, and done", Schema::CycleRecord),
    Answer::json(202, "Accepted, and not over yet; or it waits for people", Schema::CycleRecord),
];

/// What the records of a session are answered with.
pub(crate) const RECORD: &[Answer] = &[
    Answer::json(200, "The session and its records in order", Schema::SessionRecord),
    Answer {
        status: 200,
        when: "W3C PROV-JSON",
        content_type: "application/prov+json",
        schema: Schema::Anything,
    },
];

/// With what a session is opened.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRequest {
    /// The token of its mandate; absent: the key's default one, or in the sandbox the public one.
    delegation_token: Option<String>,
}

/// A session and how it stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct Session {
    session_id: String,
    mandate_id: String,
    /// Whose it is.
    agent_id: String,
    /// The issuer URL of this gateway, which declarations have to name.
    gec_instance_id: String,
    /// `ACTIVE`, `CLUSTER_BLOCKED`, `HEM_PENDING`, `SUSPENDED` or `CLOSED`.
    state: &'static str,
    /// `COMPLETE`, `PARTIAL` or `REVOKED` once it is closed.
    completion: Option<&'static str>,
    /// `CLEAN`, `PARTIAL` or `UNKNOWN`: how it was left, if it was revoked.
    halt: Option<&'static str>,
    opened_at: String,
    /// The highest number of a declaration or cycle so far.
    sequence: u64,
    /// Admitted so far, with those that wait for people.
    cycles: u64,
    /// Denied so far, by whomever.
    denials: u32,
    /// Actions that wait for people.
    waiting: u32,
    /// Actions that were sent and are not settled.
    in_flight: u32,
    /// How many there are.
    records: u64,
    /// Its first record.
    record_id: String,
    /// How far people agreed to whatever it does; null: as far as its mandate goes.
    session_limits: Option<SessionLimits>,
}

/// How far people agreed to whatever a session does, for the rest of it; one of them is there.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionLimits {
    /// The most that may be at stake in one action, a decimal string.
    max_amount: Option<String>,
    /// Of that, ISO 4217; what is in another one is beyond it.
    currency: Option<String>,
    /// RFC 3339: nothing is sent after that.
    not_after: Option<String>,
}

impl SessionLimits {
    pub(super) fn of(view: &gateway::SessionLimits) -> SessionLimits {
        let gateway::SessionLimits { max_amount, currency, not_after } = view.clone();
        SessionLimits { max_amount, currency, not_after }
    }
}

/// One page of sessions.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionPage {
    items: Vec<Session>,
    /// Hand this in as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// The Context Package: what a cycle of the session is judged with. The gateway alone makes it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Context {
    session_id: String,
    mandate_id: String,
    /// The newest declaration, if it is in force.
    intent_id: Option<String>,
    /// As that declared it.
    reasoning_mode: Option<&'static str>,
    /// The cycle it travels with; null between cycles.
    cycle_id: Option<String>,
    /// The highest number of a declaration or cycle so far.
    sequence: u64,
    /// Seconds that are left of the mandate.
    time_budget_remaining: u64,
    /// What is left of the mandate beside time.
    #[schema(value_type = Object)]
    resource_envelope: ResourceEnvelope,
    delegation_context: Delegation,
    /// Null for a session that is in no cluster.
    #[schema(value_type = Object)]
    cluster_context: Option<Value>,
    /// Cycles denied so far.
    prior_denial_count: u32,
    /// How far people agreed to whatever it does; null: as far as its mandate goes.
    session_limits: Option<SessionLimits>,
    /// What of it waits for people, and what they ask; null while nothing does.
    escalation: Option<Pending>,
    /// `sha256:` and hex over what stays from cycle to cycle: another one means another situation.
    fingerprint: String,
}

/// In whose name.
#[derive(Serialize, ToSchema)]
pub(crate) struct Delegation {
    /// Mandates that the session's descends from, root first.
    delegation_chain: Vec<String>,
    delegation_depth: usize,
    root_principal: String,
}

/// What an agent says it is about to do.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `gateway::Gateway::declare` reads")]
pub(crate) struct IntentRequest {
    /// Of the agent's own making, fresh under the mandate: letters, digits, `-`, `_`, `.` and `:`.
    intent_id: String,
    /// The session it is for, the one in the path.
    session_id: String,
    /// That session's mandate.
    mandate_id: String,
    /// The issuer URL of this gateway.
    gec_instance_id: String,
    /// What kind of goal, in one word of the agent's own.
    goal_type: String,
    /// Archetypes or groups it means to ask for; no wildcard.
    #[schema(min_items = 1, max_items = 64)]
    goal_scope: Vec<String>,
    /// `DIRECT`, `CHAIN`, `TREE`, `REFLEXIVE`, `DELEGATED`, `COLLABORATIVE`, `EXTENDED` or `CONSTRAINED`.
    reasoning_mode: String,
    /// With `CONSTRAINED`: the id of a policy in force.
    constrained_by: Option<String>,
    /// Above the session's `sequence`.
    #[schema(minimum = 1)]
    action_sequence_number: u64,
    /// RFC 3339.
    expires_at: String,
    /// `fingerprint` of the Context Package that the agent has before it.
    context_fingerprint: Option<String>,
}

/// A declaration, committed and signed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Intent {
    intent_id: String,
    session_id: String,
    mandate_id: String,
    gec_instance_id: String,
    goal_type: String,
    goal_scope: Vec<String>,
    reasoning_mode: &'static str,
    constrained_by: Option<String>,
    action_sequence_number: u64,
    /// Seconds that were left when it was made.
    time_budget_remaining: u64,
    expires_at: String,
    context_fingerprint: Option<String>,
    /// Its record.
    record_id: String,
    /// ES256 by this gateway over that record.
    kernel_signature: String,
}

/// One action as a cycle of a session: a request of the Execution Protocol, and what it says of itself.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `gateway::Gateway::cycle` reads")]
pub(crate) struct CycleRequest {
    #[schema(example = "PAYMENT_TRANSFER")]
    archetype: String,
    #[schema(value_type = Object)]
    constraints: Value,
    /// The declaration it stands on.
    intent_id: String,
    /// Above the session's `sequence`.
    #[schema(minimum = 1)]
    action_sequence_number: u64,
    /// How sure the agent says it is, 0 to 1. Can only make people be asked.
    confidence: Option<f64>,
    /// What the agent says of itself; asked for by the mode `REFLEXIVE`.
    self_assessment: Option<String>,
    /// What it might do next: each must be permitted; asked for by the mode `TREE`.
    #[schema(max_items = 16)]
    branches: Option<Vec<Branch>>,
    /// What it means to use of the mandate's envelope.
    resources: Option<Resources>,
    payment_mode: Option<String>,
    guarantee_level: Option<String>,
    deadline_ms: Option<u64>,
}

/// Something that an agent might do next.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `action::AskedBranch` reads")]
pub(crate) struct Branch {
    archetype: String,
    #[schema(value_type = Object)]
    constraints: Value,
}

/// What an action uses up beside time.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `action::Resources` reads")]
pub(crate) struct Resources {
    compute_units: Option<u64>,
    memory_bytes: Option<u64>,
    network_egress_bytes: Option<u64>,
    storage_bytes: Option<u64>,
}

/// The record of a cycle.
#[derive(Serialize, ToSchema)]
pub(crate) struct CycleRecord<'a> {
    /// The transaction.
    cycle_id: String,
    session_id: String,
    /// The declaration it stands on.
    intent_id: Option<String>,
    /// As that declared it.
    #[schema(value_type = Option<String>)]
    reasoning_mode: Value,
    /// Seconds that were left when it was judged.
    #[schema(value_type = u64)]
    time_budget_remaining: Value,
    /// What was left of the mandate when it was judged.
    #[schema(value_type = Object)]
    resource_envelope: Value,
    /// From whom the mandate came down; null where nobody handed it on.
    #[schema(value_type = Object)]
    delegation_context: Value,
    #[schema(value_type = Object)]
    cluster_context: Value,
    /// `PROCEED`, `DENY`, `ESCALATE` or `SUSPEND`.
    governance_result: &'static str,
    /// The governance record it began with; null once that was pruned.
    gar_record_id: Option<String>,
    /// The outcome, as the Execution Protocol tells it.
    #[schema(value_type = crate::openapi::ExecuteResponse)]
    response: Option<&'a RawValue>,
}

/// How a session is to end.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloseRequest {
    /// `COMPLETE`, `PARTIAL`, or, by an operator or approver, `REVOKED`.
    completion: String,
    /// In a few words, for the record.
    reason: Option<String>,
}

/// A session that has ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct Closed {
    session: Session,
    /// The session record: its `ale_fields` name how many records there were before it and the digest of them all.
    record: GarRecord,
    /// Transactions that were admitted before and are not settled.
    unsettled: Vec<String>,
}

/// A session and its records.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionRecord {
    session: Session,
    items: Vec<GarRecord>,
    /// Hand this in as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// One page of records.
#[derive(Serialize, ToSchema)]
pub(crate) struct GarPage {
    /// A page may hold fewer than asked for, even none, and be followed by others.
    items: Vec<GarRecord>,
    /// Hand this in as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// One record of a decision, or of something that happened to a session.
#[derive(Serialize, ToSchema)]
pub(crate) struct GarRecord {
    /// Names the record for good; the audit trail has it under the same name.
    record_id: String,
    /// The record that caused it; null for the first of a session.
    causal_parent_id: Option<String>,
    session_id: String,
    /// From 0, without a gap.
    session_sequence_number: u64,
    intent_id: Option<String>,
    mandate_id: String,
    /// `ALLOW`, `DENY`, `ESCALATE` or `SUSPEND`; null where nothing was decided.
    governance_decision: Option<&'static str>,
    cedar_policy_ids: Vec<String>,
    /// `ALE-001` and so on; null where there is no code.
    ale_type: Option<String>,
    #[schema(value_type = Object)]
    ale_fields: Option<Value>,
    timestamp: String,
    /// `COMPLETE` or `PARTIAL` of a session that was closed; `CLEAN`, `PARTIAL` or `UNKNOWN` of one that was halted.
    completion_state: Option<String>,
    hem_layer_discrepancy: bool,
    /// ES256 by this gateway, base64url.
    kernel_signature: String,
    /// Of the ledger entry before it: `sha256:` and hex.
    previous_hash: Option<String>,
    hash: String,
}

impl Session {
    pub(crate) fn of(view: &SessionView) -> Session {
        Session {
            session_id: view.session_id.clone(),
            mandate_id: view.mandate_id.clone(),
            agent_id: view.agent_id.clone(),
            gec_instance_id: view.gec_instance_id.clone(),
            state: view.state,
            completion: view.completion,
            halt: view.halt,
            opened_at: view.opened_at.clone(),
            sequence: view.sequence,
            cycles: view.cycles,
            denials: view.denials,
            waiting: view.waiting,
            in_flight: view.in_flight,
            records: view.records,
            record_id: view.record_id.clone(),
            session_limits: view.session_limits.as_ref().map(SessionLimits::of),
        }
    }
}

impl Context {
    fn of(view: ContextView) -> Context {
        let delegation = view.delegation_context;
        Context {
            session_id: view.session_id,
            mandate_id: view.mandate_id,
            intent_id: view.intent_id,
            reasoning_mode: view.reasoning_mode,
            cycle_id: view.cycle_id,
            sequence: view.sequence,
            time_budget_remaining: view.time_budget_remaining,
            resource_envelope: view.resource_envelope,
            delegation_context: Delegation {
                delegation_chain: delegation.delegation_chain,
                delegation_depth: delegation.delegation_depth,
                root_principal: delegation.root_principal,
            },
            cluster_context: view.cluster_context,
            session_limits: view.session_limits.as_ref().map(SessionLimits::of),
            escalation: view.escalation.as_deref().map(Pending::of),
            prior_denial_count: view.prior_denial_count,
            fingerprint: view.fingerprint,
        }
    }
}

impl Intent {
    fn of(view: DeclarationView) -> Intent {
        Intent {
            intent_id: view.intent_id,
            session_id: view.session_id,
            mandate_id: view.mandate_id,
            gec_instance_id: view.gec_instance_id,
            goal_type: view.goal_type,
            goal_scope: view.goal_scope,
            reasoning_mode: view.reasoning_mode,
            constrained_by: view.constrained_by,
            action_sequence_number: view.action_sequence_number,
            time_budget_remaining: view.time_budget_remaining,
            expires_at: view.expires_at,
            context_fingerprint: view.context_fingerprint,
            record_id: view.record_id,
            kernel_signature: view.kernel_signature,
        }
    }
}

impl GarRecord {
    fn of(view: &GarView) -> GarRecord {
        GarRecord {
            record_id: view.record_id.clone(),
            causal_parent_id: view.causal_parent_id.clone(),
            session_id: view.session_id.clone(),
            session_sequence_number: view.session_sequence_number,
            intent_id: view.intent_id.clone(),
            mandate_id: view.mandate_id.clone(),
            governance_decision: view.governance_decision,
            cedar_policy_ids: view.cedar_policy_ids.clone(),
            ale_type: view.ale_type.clone(),
            ale_fields: view.ale_fields.clone(),
            timestamp: view.timestamp.clone(),
            completion_state: view.completion_state.clone(),
            hem_layer_discrepancy: view.hem_layer_discrepancy,
            kernel_signature: view.kernel_signature.clone(),
            previous_hash: view.previous_hash.as_deref().map(named),
            hash: named(&view.hash),
        }
    }
}

impl<'a> CycleRecord<'a> {
    fn of(view: CycleView, response: Option<&'a RawValue>) -> CycleRecord<'a> {
        CycleRecord {
            cycle_id: view.cycle_id,
            session_id: view.session_id,
            intent_id: view.intent_id,
            reasoning_mode: view.reasoning_mode,
            time_budget_remaining: view.time_budget_remaining,
            resource_envelope: view.resource_envelope,
            delegation_context: view.delegation_context,
            cluster_context: view.cluster_context,
            governance_result: view.governance_result,
            gar_record_id: view.gar_record_id,
            response,
        }
    }
}

impl CloseRequest {
    fn understood(self) -> Result<CloseAsk, Error> {
        let why = "completion is none of COMPLETE, PARTIAL and REVOKED";
        let completion = Completion::parse(&self.completion)
            .ok_or_else(|| Error::new(Code::ValidationFailed, why).field("/completion"))?;
        Ok(CloseAsk { completion, reason: self.reason })
    }
}

/// A session is read in one piece if it is not a very long one.
fn most(limit: Option<String>) -> Result<u32, Error> {
    let Some(limit) = limit else { return Ok(MOST_RECORDS) };
    let rows = limit.parse().ok().filter(|rows| (1..=MOST_RECORDS).contains(rows));
    rows.ok_or_else(|| Error::new(Code::ValidationFailed, "limit is not between 1 and 1000").field("?limit"))
}

const MOST_RECORDS: u32 = 1_000;
const FORMATS: [&str; 2] = ["json", "prov"];
const DECISIONS: [&str; 4] = ["ALLOW", "DENY", "ESCALATE", "SUSPEND"];
