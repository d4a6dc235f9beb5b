//! Actions as the Agent Transaction Protocol shows them.

use std::collections::BTreeMap;

use gateway::{
    ActionView, AttemptView, CaptureView, Code, Error, ROLLBACK_FAILED, ReceiptView, ReservationView,
    RetryView, RollbackView,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::approvals::{Approval, Resolution};
use crate::errors;
use crate::openapi::ExecuteResponse;
use crate::reply;
use crate::request::{Request, Response};
use crate::who;

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
    reversible: bool,
    created_at: &'a str,
    deadline: Option<&'a str>,
    /// How it is tried again; null if it is not.
    retry_policy: Option<RetryPolicy>,
    result: Outcome<'a>,
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
    /// How its effect is undone; null unless somebody asked for that.
    rollback: Option<Rollback<'a>>,
    /// Oldest first.
    receipts: Vec<Receipt<'a>>,
    /// What the caller was last answered, as `/api/execute` answers it; null while there is no answer.
    #[schema(value_type = Option<ExecuteResponse>)]
    response: Option<&'a RawValue>,
}

/// What was asked for.
#[derive(Serialize, ToSchema)]
struct What<'a> {
    /// ATP's verb; the archetype where there was none.
    verb: &'a str,
    target: Option<&'a str>,
    description: Option<&'a str>,
    /// The constraints, as received.
    #[schema(value_type = Object)]
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

/// One attempt to have the effect. Another one follows only when it is certain that this one had none.
#[derive(Serialize, ToSchema)]
struct Attempt<'a> {
    attempt: u32,
    provider: &'a str,
    /// The idempotency key that the provider saw.
    provider_key: &'a str,
    reference: &'a str,
    /// How often it was sent under this key.
    sends: u32,
    first_sent_at: Option<&'a str>,
    /// When it was certain that it had no effect; null for the latest.
    ended_at: Option<&'a str>,
    /// `provider_refused`, `not_sent`, `send_window_missed`, `absent` or `failed`; null for the latest, whose result is
    /// the action's.
    result: Option<&'a str>,
    /// The provider's own code: foreign text.
    provider_code: Option<&'a str>,
}

/// Money that is set aside until it is charged or set free.
#[derive(Serialize, ToSchema)]
struct Reservation<'a> {
    /// `reserved`, `charging`, `charged`, `releasing` or `released`.
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
    /// Who asked for it.
    by: &'a str,
    asked_at: &'a str,
    /// The idempotency key that the provider saw.
    provider_key: &'a str,
    reference: &'a str,
    /// How often it was sent under this key.
    sends: u32,
    /// `ATP_ROLLBACK_FAILED` if it could not be undone and a person has to decide.
    error: Option<&'static str>,
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
            reversible: view.reversible,
            created_at: &view.created_at,
            deadline: view.deadline.as_deref(),
            retry_policy: view.retry.map(RetryPolicy::of),
            result: Outcome {
                state: &view.state,
                completed_at: view.completed_at.as_deref(),
                duration_seconds: view.duration_ms.map(|ms| ms as f64 / 1000.0),
                retry_count: view.retry_count,
                confirmation: view.confirmation.as_ref(),
                error: view.error.map(failure),
            },
            archetype: &view.archetype,
            client: &view.client,
            approvals: view.approvals.iter().map(Approval::of).collect(),
            resolutions: view.resolutions.iter().map(Resolution::of).collect(),
            attempts: view.attempts.iter().map(Attempt::of).collect(),
            snapshot: view.snapshot.as_ref(),
            reservation: view.reservation.as_ref().map(Reservation::of),
            rollback: view.rollback.as_ref().map(Rollback::of),
            receipts: view.receipts.iter().map(|receipt| found(receipt, public_url)).collect(),
            response: view.reply.as_ref().and_then(|reply| serde_json::from_slice(&reply.body).ok()),
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
    fn of(view: &'a RollbackView) -> Rollback<'a> {
        Rollback {
            by: &view.by,
            asked_at: &view.asked_at,
            provider_key: &view.provider_key,
            reference: &view.reference,
            sends: view.sends,
            error: view.failed.then_some(ROLLBACK_FAILED),
        }
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
        }
    }
}

fn failure(code: Code) -> Failure {
    Failure { code: code.as_str(), message: errors::entry(code).message }
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
    /// `same` or `different`: the verdict, whatever else differs.
    result: String,
    /// Verdict and first reason as recorded.
    recorded: String,
    /// Verdict and first reason as found now.
    replayed: Option<String>,
    /// What differs, one sentence each.
    differences: Vec<String>,
}
