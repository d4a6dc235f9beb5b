//! Actions as the Agent Transaction Protocol shows them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use action::Environment;
use gateway::{
    ActionView, Answer, Ask, AttemptView, Caller, CaptureView, Code, Error, Gateway, KeepingView,
    ROLLBACK_FAILED, ReceiptView, ReservationView, RetryView, Spelling, Wait,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::approvals::{Approval, Resolution};
use super::execution_protocol::{marked, status_of};
use crate::errors;
use crate::openapi::{self, ExecuteResponse, Schema};
use crate::reply;
use crate::request::{self, Request, Response};
use crate::who::{self, Looked};

/// An action's record as `GET /v1/actions/{id}` answers it, for those who hold the store themselves.
pub fn action_record(view: &ActionView, public_url: &str) -> Value {
    // Strings, numbers and JSON that was read before: there is nothing that could fail.
    serde_json::to_value(Record::of(view, public_url)).unwrap_or_default()
}

/// Takes one action to its outcome and answers with its record.
pub(crate) fn submit(request: Request) -> impl Future<Output = Result<Response, Error>> {
    // As with `/api/execute`: the wait for a slow provider holds nothing of the request.
    let asked = Box::pin(asked(request));
    async move {
        let (gateway, caller, ask, spelling) = asked.await?;
        let wait = ask.wait.clone();
        let answer = async {
            let caller = caller.await?;
            let answer = gateway.submit(&caller, ask, spelling).await?;
            Box::pin(told(&gateway, &caller, answer)).await
        };
        gateway.in_time(wait, answer).await
    }
}

async fn asked(mut request: Request) -> Result<(Arc<Gateway>, Looked, Ask, Spelling), Error> {
    let came = Instant::now();
    let gateway = request.gateway()?;
    let caller = who::caller_soon(&request).await?;
    let read = read(&mut request, came).await;
    let (caller, (ask, spelling)) = who::may_hear(&request, caller, read).await?;
    Ok((gateway, caller, ask, spelling))
}

async fn read(request: &mut Request, came: Instant) -> Result<(Ask, Spelling), Error> {
    let [] = request.query([])?;
    // That there is one at all is asked for by the level of the action.
    let idempotency_key = request::idempotency_key(&request.head.headers, Environment::Sandbox)?;
    let (spelling, body) = request.take_spelled().await?;
    let wait = Wait::said(&body, Some(spelling), came);
    Ok((Ask { idempotency_key, request_id: request.id().to_owned(), dry_run: false, wait, body }, spelling))
}

/// The record as it is now, and in it, whatever came later, what is answered to this request.
async fn told(gateway: &Gateway, caller: &Caller, answer: Answer) -> Result<Response, Error> {
    let id = answer.action_id.map(|id| id.to_string()).unwrap_or_default();
    let view = gateway.action(caller, &id).await?;
    let response = serde_json::from_slice(&answer.reply.body).ok();
    let record = Record { response, ..Record::of(&view, gateway.public_url()) };
    Ok(marked(reply::json(status_of(&answer), &record), answer.replayed))
}

/// The statuses of outcomes that are no refusal and no failure; those stand with their codes.
pub(crate) const ANSWERS: &[openapi::Answer] = &[
    openapi::Answer::json(200, "`COMPLETED`: done, and confirmed by the provider", Schema::ActionRecord),
    openapi::Answer::json(
        202,
        "`INTENDED`, `APPROVED` or `EXECUTING`: accepted, and not over yet",
        Schema::ActionRecord,
    ),
];

/// One action, asked for in the words of the Agent Transaction Protocol, as JSON or YAML. What is null is absent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `action::Request::from_atp` reads")]
pub(crate) struct ActionRequest {
    /// `1.0.0` or `1.0.0-draft`.
    atp_version: Option<String>,
    /// The client's own id, kept as `client.action_id`; the gateway gives one of its own.
    action_id: Option<String>,
    /// The same as the header `Idempotency-Key`, if both are there; one of them at `atp-2` and `atp-3`.
    idempotency_key: Option<String>,
    /// `atp-1`, `atp-2` or `atp-3`; can only make the catalogue's level stricter.
    guarantee_level: Option<String>,
    /// The authenticated caller, if it is named at all.
    agent_id: Option<String>,
    /// A session of the caller's.
    session_id: Option<String>,
    /// The caller's fleet, kept as `client.fleet_id`.
    fleet_id: Option<String>,
    /// Who is to be asked if a person must be: somebody who can approve.
    human_approver: Option<String>,
    action: ActionAsked,
    /// `false` can only make the catalogue's answer stricter; `true` must be what the catalogue says.
    reversible: Option<bool>,
    /// How it is to be undone if that has to be: an action itself.
    rollback: Option<ActionAsked>,
    /// When the client made it, RFC 3339; kept as `client.created_at`, never believed.
    created_at: Option<String>,
    /// RFC 3339, at most a day ahead. What is over before it is sent has failed with `EP_DEADLINE_EXCEEDED`.
    deadline: Option<String>,
    /// Fewer retries and longer pauses than the catalogue's; more or shorter ones do not count.
    retry_policy: Option<openapi::AskedRetryPolicy>,
    compliance: Option<ComplianceAsked>,
    /// The token of a mandate. Not of the protocol.
    delegation_token: Option<String>,
    /// As at `/api/execute`. Not of the protocol.
    payment_mode: Option<String>,
    /// An earlier action of the same effect that this one repeats on purpose. Not of the protocol.
    repeat_of: Option<String>,
}

/// What is to be done.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `action::Request::from_atp` reads")]
struct ActionAsked {
    /// With `target` it means one archetype of the catalogue; an archetype's name is a verb for it.
    #[schema(example = "deploy")]
    verb: String,
    target: Option<String>,
    /// One line for people.
    description: Option<String>,
    /// In the form of the archetype's schema.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Value>,
}

/// The rules it falls under.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `action::compliance` reads")]
struct ComplianceAsked {
    audit_trail_id: Option<String>,
    /// At most 32.
    regulation_refs: Option<Vec<String>>,
    /// `public`, `internal`, `confidential` or `restricted`.
    data_classification: Option<String>,
    /// `true`: a person has to agree.
    sign_off_required: Option<bool>,
    /// Somebody who can approve, and has to be among those who agree.
    sign_off_by: Option<String>,
    /// `true`: refused unless the provider can be asked what became of it.
    evidence_required: Option<bool>,
    dpia_ref: Option<String>,
    clinical_safety_ref: Option<String>,
    smr_accountable: Option<String>,
    gds_assessment_ref: Option<String>,
    /// Such as `7_years`; can only make the catalogue's time longer.
    retention_policy: Option<String>,
    /// Such as `hard_delete_30d`.
    deletion_policy: Option<String>,
}

/// One action of the caller's.
pub(crate) async fn get(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let view = gateway.action(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// Has an action that failed tried once more.
pub(crate) async fn retry(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.retry(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// Calls an action off that is not sent.
pub(crate) async fn cancel(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.cancel(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// Erases what an action was about.
pub(crate) async fn erase(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.erase(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// Has the effect of an action undone.
pub(crate) async fn rollback(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.rollback(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// Has what is set aside for an action charged.
pub(crate) async fn capture(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let CaptureRequest { amount } = request.json_if_any().await?;
    let view = gateway.capture(&caller, &request.argument, amount.as_deref()).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// Has what is set aside for an action set free.
pub(crate) async fn release(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.release(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// How much of what is set aside is charged.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureRequest {
    /// A decimal string in the currency of the action, at most what is set aside; absent: all of it.
    amount: Option<String>,
}

/// Decides an action of the past again.
pub(crate) async fn replay(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.replay(&caller, &request.argument).await?;
    let body = Replay {
        action_id: view.action_id.to_string(),
        result: view.result,
        recorded: view.recorded,
        replayed: view.replayed,
        differences: view.differences,
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// The action record of ATP, section 6, with what was last answered and where the receipts are.
#[derive(Serialize, ToSchema)]
#[schema(as = ActionRecord)]
pub(crate) struct Record<'a> {
    /// Version of the record's format.
    atp_version: &'static str,
    action_id: String,
    idempotency_key: Option<&'a str>,
    /// `atp-1`, `atp-2` or `atp-3`.
    guarantee_level: &'a str,
    agent_id: &'a str,
    session_id: Option<&'a str>,
    fleet_id: Option<&'a str>,
    /// Who decided, if one person did; several stand in `approvals`. Who was to be asked, if nobody has.
    human_approver: Option<&'a str>,
    action: What<'a>,
    /// What was at stake, canonical decimal; null where it moves no money, and once it is erased.
    amount: Option<&'a str>,
    currency: Option<&'a str>,
    /// Null once the action is erased.
    reversible: Option<bool>,
    created_at: &'a str,
    deadline: Option<&'a str>,
    /// How it is tried again; null if it is not.
    retry_policy: Option<RetryPolicy>,
    /// The rules it falls under, as the request named them; null if it named none.
    #[schema(value_type = Option<ComplianceAsked>)]
    compliance: Option<&'a Value>,
    result: Outcome<'a>,
    /// Where it stands while it is not over, told apart further than by `result.state`: `held`, `approved`, `sent`,
    /// `in_doubt`, `waiting` (for another attempt), `challenged`, `reserved`, `release_failed`, `checking`, `unchecked`,
    /// `rolling_back` or `rollback_failed`. Null once it is over.
    phase: Option<&'static str>,
    /// Of what is `in_doubt`, why: `no_answer_in_time`, `connection_broke`, `server_ended`, `answer_not_understood`,
    /// `provider_error`, `says_failed`, `given_up` or `store_recovered`. Null where nobody knows, as after a crash.
    doubt: Option<&'a str>,
    /// The kind of action, as the catalogue names it.
    archetype: &'a str,
    /// Ids of the client's own.
    #[schema(value_type = Object)]
    client: &'a BTreeMap<String, Value>,
    /// What people said about it, if it waited for them; oldest first.
    approvals: Vec<Approval>,
    /// What people said became of it, where its provider did not tell; oldest first.
    resolutions: Vec<Resolution>,
    /// Oldest first, the latest included; empty if it was never to be sent.
    attempts: Vec<Attempt<'a>>,
    /// What there was before it changed it, where that is promised and the provider could say; in the provider's words.
    #[schema(value_type = Option<Object>)]
    snapshot: Option<&'a Value>,
    /// What the provider has set aside for it, or had; null where nothing was.
    reservation: Option<Reservation<'a>>,
    /// How its effect is undone; null unless somebody asked for that, or the request said how.
    rollback: Option<Rollback<'a>>,
    /// Oldest first.
    receipts: Vec<Receipt<'a>>,
    /// What the caller was last answered, as `/api/execute` answers it; null while there is no answer.
    #[schema(value_type = Option<ExecuteResponse>)]
    response: Option<&'a RawValue>,
    /// How long it is kept and when it is erased; null where nobody said so.
    retention: Option<Retention<'a>>,
    /// When it was erased: since then there are no values in it. Null if it was not.
    erased_at: Option<&'a str>,
    /// Who asked for that; null where its deletion policy did.
    erased_by: Option<&'a str>,
}

/// What was asked for.
#[derive(Serialize, ToSchema)]
struct What<'a> {
    /// ATP's verb; the archetype where there was none.
    verb: &'a str,
    target: Option<&'a str>,
    description: Option<&'a str>,
    /// The constraints, as received; null once they are erased.
    #[schema(value_type = Option<Object>)]
    parameters: &'a Value,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
#[schema(as = ActionResult)]
struct Outcome<'a> {
    /// `INTENDED`, `APPROVED`, `EXECUTING`, `COMPLETED`, `FAILED`, `ROLLING_BACK` or `ROLLED_BACK`.
    state: &'a str,
    completed_at: Option<&'a str>,
    duration_seconds: Option<f64>,
    retry_count: u32,
    /// What the provider confirmed.
    #[schema(value_type = Option<Object>)]
    confirmation: Option<&'a Value>,
    error: Option<Failure>,
}

/// How an action is tried again: the stricter of catalogue and request.
#[derive(Serialize, ToSchema)]
struct RetryPolicy {
    /// How often it is sent after the first time, at most.
    max_retries: u32,
    /// `exponential`, `linear` or `fixed`.
    backoff: &'static str,
    initial_delay_seconds: u64,
    max_delay_seconds: u64,
}

/// How long an action is kept and when it is erased: the stricter of catalogue and request.
#[derive(Serialize, ToSchema)]
struct Retention<'a> {
    /// Such as `7_years`.
    retention_policy: Option<&'a str>,
    /// Such as `hard_delete_30_days`.
    deletion_policy: Option<&'a str>,
    /// Until then nobody can erase it; null while more is to come of the action.
    retained_until: Option<&'a str>,
    /// When it is erased by itself; null as above.
    deletion_due: Option<&'a str>,
}

/// One attempt to have the effect. Another one follows only when this one is known to have had none.
#[derive(Serialize, ToSchema)]
struct Attempt<'a> {
    attempt: u32,
    provider: &'a str,
    /// The idempotency key that the provider saw.
    provider_key: &'a str,
    reference: &'a str,
    /// How often it was sent under this key.
    sends: u32,
    /// Null if it was never sent; of actions of older releases also where it was sent once only.
    first_sent_at: Option<&'a str>,
    /// When it was known what became of it; null while it is open.
    ended_at: Option<&'a str>,
    /// `confirmed`: it had its effect, be it late. `provider_refused`, `not_sent`, `send_window_missed`, `absent`, `resolved_by_person`
    /// or another reason: it had none (of `resolved_by_person`, see the state). `says_failed`: a tool says so of itself, and nobody has
    /// looked. `stopped`: it was given up or stopped before its provider had begun. Null while it is open.
    result: Option<&'a str>,
    /// The provider's own code: foreign text.
    provider_code: Option<&'a str>,
    /// What the provider had set aside for it; null for the latest, whose reservation is the action's.
    reservation: Option<Reservation<'a>>,
}

/// Money that is set aside until it is charged or set free.
#[derive(Serialize, ToSchema)]
struct Reservation<'a> {
    /// `reserved`, `charging`, `charged`, `releasing`, `release_failed` or `released`.
    state: &'static str,
    provider_reference: Option<&'a str>,
    /// The most that could be charged.
    amount: &'a str,
    currency: Option<&'a str>,
    /// When it ends; what is not charged by then is set free.
    until: &'a str,
    /// Oldest first.
    captures: Vec<Capture<'a>>,
    /// Who had it set free; `countersign` where that happened by itself.
    released_by: Option<&'a str>,
    /// How often that was sent, each time under the same key.
    release_sends: Option<u32>,
}

/// One call that was to charge what is set aside.
#[derive(Serialize, ToSchema)]
struct Capture<'a> {
    /// Who asked for it.
    by: &'a str,
    asked_at: &'a str,
    amount: &'a str,
    /// The idempotency key that the provider saw.
    provider_key: &'a str,
    reference: &'a str,
    /// `provider_refused`, `not_sent`, `send_window_missed`, `deadline_before_sending` or `absent`; null for what is under
    /// way or was carried out.
    result: Option<&'a str>,
    ended_at: Option<&'a str>,
    /// The provider's own code: foreign text.
    provider_code: Option<&'a str>,
}

/// How an effect is undone. While it is not, or cannot be, the state is `ROLLING_BACK`.
#[derive(Serialize, ToSchema)]
struct Rollback<'a> {
    /// `verb`, `target`, `description` and `parameters`, where the request said how it is to be undone.
    #[serde(flatten)]
    #[schema(value_type = Option<ActionAsked>)]
    asked: Option<&'a Value>,
    /// Who asked for it; null, as the rest, if nobody has.
    by: Option<&'a str>,
    asked_at: Option<&'a str>,
    /// The idempotency key that the provider saw.
    provider_key: Option<&'a str>,
    reference: Option<&'a str>,
    /// How often it was sent under this key.
    sends: u32,
    /// `ATP_ROLLBACK_FAILED` if it could not be undone and a person has to decide.
    error: Option<&'static str>,
    /// Why it could not: `provider_refused`, `provider_silent`, `provider_forgets` or `no_longer_bound`.
    reason: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
struct Failure {
    /// The published code.
    code: &'static str,
    /// Its fixed text.
    message: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReceiptReference)]
struct Receipt<'a> {
    receipt_id: &'a str,
    receipt_url: String,
    receipt_url_short: String,
    /// `ORIGINAL` or `AMENDMENT_…`.
    event_type: &'a str,
    created: &'a str,
}

impl<'a> Record<'a> {
    pub(crate) fn of(view: &'a ActionView, public_url: &str) -> Record<'a> {
        Record {
            atp_version: "1.0.0",
            action_id: view.action_id.to_string(),
            idempotency_key: view.idempotency_key.as_deref(),
            guarantee_level: &view.guarantee_level,
            agent_id: &view.agent_id,
            session_id: view.session_id.as_deref(),
            fleet_id: view.client.get("fleet_id").and_then(Value::as_str),
            human_approver: view.human_approver.as_deref(),
            action: What {
                verb: view.verb.as_deref().unwrap_or(&view.archetype),
                target: view.target.as_deref(),
                description: view.description.as_deref(),
                parameters: &view.parameters,
            },
            amount: view.amount.as_deref(),
            currency: view.currency.as_deref(),
            reversible: view.reversible,
            created_at: &view.created_at,
            deadline: view.deadline.as_deref(),
            retry_policy: view.retry.map(RetryPolicy::of),
            compliance: view.compliance.as_ref(),
            result: Outcome {
                state: &view.state,
                completed_at: view.completed_at.as_deref(),
                duration_seconds: view.duration_ms.map(|ms| ms as f64 / 1000.0),
                retry_count: view.retry_count,
                confirmation: view.confirmation.as_ref(),
                error: view.error.map(|code| failure(code, view)),
            },
            phase: view.phase,
            doubt: view.doubt.as_deref(),
            archetype: &view.archetype,
            client: &view.client,
            approvals: view.approvals.iter().map(Approval::of).collect(),
            resolutions: view.resolutions.iter().map(Resolution::of).collect(),
            attempts: view.attempts.iter().map(Attempt::of).collect(),
            snapshot: view.snapshot.as_ref(),
            reservation: view.reservation.as_ref().map(Reservation::of),
            rollback: Rollback::of(view),
            receipts: view.receipts.iter().map(|receipt| found(receipt, public_url)).collect(),
            response: view.reply.as_ref().and_then(|reply| serde_json::from_slice(&reply.body).ok()),
            retention: view.keeping.as_ref().map(Retention::of),
            erased_at: view.erased.as_ref().map(|erased| &*erased.at),
            erased_by: view.erased.as_ref().and_then(|erased| erased.by.as_deref()),
        }
    }
}

impl<'a> Retention<'a> {
    fn of(view: &'a KeepingView) -> Retention<'a> {
        Retention {
            retention_policy: view.retention_policy.as_deref(),
            deletion_policy: view.deletion_policy.as_deref(),
            retained_until: view.retained_until.as_deref(),
            deletion_due: view.deletion_due.as_deref(),
        }
    }
}

impl RetryPolicy {
    fn of(view: RetryView) -> RetryPolicy {
        let RetryView { max_retries, backoff, initial_delay_seconds, max_delay_seconds } = view;
        RetryPolicy { max_retries, backoff, initial_delay_seconds, max_delay_seconds }
    }
}

impl<'a> Reservation<'a> {
    fn of(view: &'a ReservationView) -> Reservation<'a> {
        Reservation {
            state: view.state,
            provider_reference: view.provider_reference.as_deref(),
            amount: &view.amount,
            currency: view.currency.as_deref(),
            until: &view.until,
            captures: view.captures.iter().map(Capture::of).collect(),
            released_by: view.released_by.as_deref(),
            release_sends: view.release_sends,
        }
    }
}

impl<'a> Capture<'a> {
    fn of(view: &'a CaptureView) -> Capture<'a> {
        Capture {
            by: &view.by,
            asked_at: &view.asked_at,
            amount: &view.amount,
            provider_key: &view.provider_key,
            reference: &view.reference,
            result: view.result.as_deref(),
            ended_at: view.ended_at.as_deref(),
            provider_code: view.provider_code.as_deref(),
        }
    }
}

impl<'a> Rollback<'a> {
    fn of(action: &'a ActionView) -> Option<Rollback<'a>> {
        let (view, asked) = (action.rollback.as_ref(), action.asked_rollback.as_ref());
        (view.is_some() || asked.is_some()).then(|| Rollback {
            asked,
            by: view.map(|view| &*view.by),
            asked_at: view.map(|view| &*view.asked_at),
            provider_key: view.map(|view| &*view.provider_key),
            reference: view.map(|view| &*view.reference),
            sends: view.map_or(0, |view| view.sends),
            error: view.filter(|view| view.failed).map(|_| ROLLBACK_FAILED),
            reason: view.and_then(|view| view.reason.as_deref()),
        })
    }
}

impl<'a> Attempt<'a> {
    fn of(view: &'a AttemptView) -> Attempt<'a> {
        Attempt {
            attempt: view.attempt,
            provider: &view.provider,
            provider_key: &view.provider_key,
            reference: &view.reference,
            sends: view.sends,
            first_sent_at: view.first_sent_at.as_deref(),
            ended_at: view.ended_at.as_deref(),
            result: view.result.as_deref(),
            provider_code: view.provider_code.as_deref(),
            reservation: view.reservation.as_ref().map(Reservation::of),
        }
    }
}

fn failure(code: Code, view: &ActionView) -> Failure {
    Failure { code: code.as_str(), message: errors::why_failed(code, view) }
}

fn found<'a>(view: &'a ReceiptView, public_url: &str) -> Receipt<'a> {
    Receipt {
        receipt_id: &view.receipt.receipt_id,
        receipt_url: format!("{public_url}/r/{}", view.receipt.signature),
        receipt_url_short: format!("{public_url}/r/{}", view.receipt.short),
        event_type: &view.event_type,
        created: &view.created,
    }
}

/// A decision then and now.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replay {
    action_id: String,
    /// `same` or `different`: the verdict, whatever else differs. Or `erased`: there is nothing left to decide.
    result: String,
    /// Verdict and first reason as recorded; null once the action is erased.
    recorded: Option<String>,
    /// Verdict and first reason as found now.
    replayed: Option<String>,
    /// What differs, one sentence each.
    differences: Vec<String>,
}
