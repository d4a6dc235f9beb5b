//! What waits for people, and what they say about it.

use gateway::{Error, GivenView, HeldView};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// One page of what waits.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [cursor, limit] = request.query(["cursor", "limit"])?;
    let page = gateway.held(&caller, cursor, reply::rows(limit.as_deref())?).await?;
    let body = HeldPage { items: page.items.into_iter().map(Held::of).collect(), next_cursor: page.next };
    Ok(reply::json(StatusCode::OK, &body))
}

/// One action that waits, or did.
pub(crate) async fn get(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.held_one(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Held::of(view)))
}

/// A person agrees.
pub(crate) async fn approve(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: CommentRequest = request.json_if_any().await?;
    let view = gateway.approve(&caller, &request.argument, ask.comment).await?;
    Ok(reply::json(StatusCode::OK, &Held::of(view)))
}

/// A person says no.
pub(crate) async fn reject(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: CommentRequest = request.json_if_any().await?;
    let view = gateway.reject(&caller, &request.argument, ask.comment).await?;
    Ok(reply::json(StatusCode::OK, &Held::of(view)))
}

/// What goes with a decision. It cannot change the action.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommentRequest {
    /// One line for other people, at most 1000 bytes.
    comment: Option<String>,
}

/// One page of what waits for people.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeldPage {
    items: Vec<Held>,
    /// Hand this in as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// An action that waits for people, or did: everything they say yes or no to.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldAction)]
pub(crate) struct Held {
    action_id: String,
    /// Names this hold of it; an action may be held more than once.
    escalation_id: String,
    /// `INTENDED` while it waits, `APPROVED` once enough people agreed.
    state: String,
    /// The kind of action, as the catalogue names it.
    archetype: String,
    /// What that is, in the operator's words.
    description: String,
    /// Who asks.
    agent_id: String,
    /// The constraints, canonical; in the agent's words where they hold text.
    #[schema(value_type = Object)]
    parameters: Value,
    /// What is at stake, a decimal string.
    amount: Option<String>,
    currency: Option<String>,
    /// Whether it can be undone.
    reversible: bool,
    /// The mandate it comes under.
    mandate_id: Option<String>,
    /// Why it waits, one stable word each.
    reasons: Vec<String>,
    /// The policies that ask for a person.
    policies: Vec<Policy>,
    /// The earlier action that this one seems to repeat.
    earlier_transaction: Option<String>,
    /// How many people have to agree to this hold.
    approvals_needed: u32,
    /// The weakest form that counts: `key` or `passkey`.
    approval_form: &'static str,
    /// What people said so far, oldest first.
    approvals: Vec<Approval>,
    created_at: String,
    expires_at: Option<String>,
}

/// A policy, by name and content.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyReference)]
struct Policy {
    id: String,
    digest: String,
}

/// What one person said about a held action.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approval {
    approver: String,
    /// `approve` or `reject`.
    decision: String,
    /// `key`: by an API key of role approver.
    form: String,
    at: String,
    /// A line for other people.
    comment: Option<String>,
    /// The hold it was about.
    escalation_id: String,
}

impl Held {
    fn of(view: HeldView) -> Held {
        let policies = view.policies.into_iter();
        Held {
            action_id: view.action_id,
            escalation_id: view.escalation_id,
            state: view.state,
            archetype: view.archetype,
            description: view.description,
            agent_id: view.agent_id,
            parameters: view.parameters,
            amount: view.amount,
            currency: view.currency,
            reversible: view.reversible,
            mandate_id: view.mandate_id,
            reasons: view.reasons,
            policies: policies.map(|policy| Policy { id: policy.id, digest: policy.digest }).collect(),
            earlier_transaction: view.earlier_transaction,
            approvals_needed: view.needed,
            approval_form: view.form,
            approvals: view.approvals.iter().map(Approval::of).collect(),
            created_at: view.created_at,
            expires_at: view.expires_at,
        }
    }
}

impl Approval {
    pub(crate) fn of(view: &GivenView) -> Approval {
        let GivenView { approver, decision, form, at, comment, escalation_id } = view.clone();
        Approval { approver, decision, form, at, comment, escalation_id }
    }
}
