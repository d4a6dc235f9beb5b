//! Actions as the Agent Transaction Protocol shows them.

use std::collections::BTreeMap;

use gateway::{ActionView, Code, Error, ReceiptView};
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::approvals::Approval;
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
    /// Who was to be asked, not who approved.
    human_approver: Option<&'a str>,
    action: What<'a>,
    reversible: bool,
    created_at: &'a str,
    deadline: Option<&'a str>,
    result: Outcome<'a>,
    /// The kind of action, as the catalogue names it.
    archetype: &'a str,
    /// Ids of the client's own.
    #[schema(value_type = Object)]
    client: &'a BTreeMap<String, Value>,
    /// What people said about it, if it waited for them; oldest first.
    approvals: Vec<Approval>,
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
    fn of(view: &'a ActionView, public_url: &str) -> Record<'a> {
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
            receipts: view.receipts.iter().map(|receipt| found(receipt, public_url)).collect(),
            response: view.reply.as_ref().and_then(|reply| serde_json::from_slice(&reply.body).ok()),
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
