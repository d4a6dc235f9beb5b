//! Cycles: actions in a session, asked for and answered as such.

use std::sync::Arc;

use action::{ActionId, Resources, Tenant};
use boundary::Governance;
use execution::Confirmation;
use ledger::{State, Used};
use mandate::{CONTEXT_MEMBERS, Resource, ResourceEnvelope, Usage};
use serde_json::Value;

use super::GIVEN;
use super::gar::decision;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::remember::{event, unavailable};
use crate::request::{Answer, Ask};
use crate::row::{CycleRow, IntentRow, internal};
use crate::views::not_found;
use crate::{Code, Error, clock};

/// The record of a cycle.
#[derive(Clone, Debug)]
pub struct CycleView {
    /// The action.
    pub cycle_id: String,
    /// Its session.
    pub session_id: String,
    /// The declaration it stands on.
    pub intent_id: Option<String>,
    /// As that declared it.
    pub reasoning_mode: Value,
    /// Seconds that were left when it was judged.
    pub time_budget_remaining: Value,
    /// What else was left.
    pub resource_envelope: Value,
    /// In whose name, where the mandate was handed on.
    pub delegation_context: Value,
    /// The cluster of its session.
    pub cluster_context: Value,
    /// `PROCEED`, `DENY`, `ESCALATE` or `SUSPEND`: what was decided the last time, by whomever.
    pub governance_result: &'static str,
    /// The record it began with; none once it was pruned.
    pub gar_record_id: Option<String>,
}

impl Gateway {
    /// Takes one action to its outcome as a cycle of a session of the caller's: the outcome is that of
    /// [`Gateway::execute`].
    ///
    /// # Errors
    /// As [`Gateway::execute`]; `EP_NOT_FOUND` also for a session that is somebody else's.
    pub async fn cycle(
        self: &Arc<Self>,
        caller: &Caller,
        session_id: &str,
        ask: Ask,
    ) -> Result<(Answer, CycleView), Error> {
        caller.must(Deed::Execute)?;
        let governed = self.governed(caller, session_id).await?;
        if governed.session.subject != caller.subject {
            return Err(not_found("session"));
        }
        let body = in_session(&ask.body, session_id)?;
        let mut answer = self.execute(caller, Ask { body, ..ask }).await?;
        let id = answer.action_id.ok_or_else(|| internal("a cycle has no action"))?;
        let cycle = match answer.cycle.take() {
            Some(cycle) => Some(cycle),
            None => self.judged_as(&caller.tenant, id).await?,
        };
        let cycle = cycle.filter(|cycle| cycle.row.session_id == session_id).ok_or_else(|| {
            Error::new(Code::IdempotencyMismatch, "this idempotency key was used outside of this session")
                .field("Idempotency-Key")
                .hint("use a new key for a new request")
        })?;
        let began = self.ledger.begun_as(&caller.tenant, id).await.map_err(unavailable)?;
        Ok((answer, CycleView::of(id, *cycle, began)))
    }

    /// How an action was judged as a cycle, if it is one.
    async fn judged_as(&self, tenant: &Tenant, id: ActionId) -> Result<Option<Box<CycleSaid>>, Error> {
        let stored = self.ledger.action(tenant, id).await.map_err(unavailable)?;
        let stored = stored.ok_or_else(|| internal("a cycle is gone"))?;
        IntentRow::from_bytes(&stored.payload).map(|row| CycleSaid::of(stored.state, &row))
    }

    /// What a cycle took of its budget, once it is over: the time since it was sent, at least a second, and of each
    /// resource the larger of what it meant to use and what its provider says it did. Of what comes after the last word only
    /// what the provider says: the time was counted with that.
    pub(crate) fn used(
        &self,
        pending: &Pending,
        state: State,
        confirmed: Option<&Confirmation>,
    ) -> Option<Usage> {
        let cycle = pending.row.cycle.as_ref().filter(|_| state.is_amended())?;
        let (reported, unread) = confirmed.map(used_as_told).unwrap_or_default();
        if unread > 0 {
            // Not in its own words: they are foreign.
            tracing::warn!(action = %pending.id, members = unread, "a provider's `resources_used` is not understood, nor charged");
            self.metrics.usage_unread();
        }
        if pending.settled {
            return (!reported.is_nothing()).then_some(reported);
        }
        let sent_ms = pending.row.call.as_ref()?.first_ms?;
        let took_ms = u64::try_from(clock::now_ms().saturating_sub(sent_ms)).unwrap_or(0);
        let meant = cycle.used(took_ms.div_ceil(1000).max(1));
        Some(meant.at_least(&reported))
    }

    /// What the mandates of a cycle allow, leaf first, where it took more than it was debited for and so may have broken that.
    pub(crate) async fn envelopes(
        &self,
        pending: &Pending,
        used: &Used,
    ) -> Result<Vec<(Box<str>, ResourceEnvelope)>, Error> {
        let Some(cycle) = &pending.row.cycle else { return Ok(Vec::new()) };
        let debited = cycle.used(1);
        if !used.beside && Resource::ALL.into_iter().all(|it| used.usage.of(it) <= debited.of(it)) {
            return Ok(Vec::new());
        }
        let session = self.ledger.session(&pending.tenant, &cycle.session_id).await.map_err(unavailable)?;
        let session = session.ok_or_else(|| internal("a session is gone"))?;
        let mandates = self.mandates_of(&session).await?;
        Ok(mandates.iter().map(|it| (it.jti.as_str().into(), it.resource_envelope)).collect())
    }
}

/// A cycle as it was judged, and what was decided on it the last time, by whomever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CycleSaid {
    row: Box<CycleRow>,
    result: Governance,
}

impl CycleSaid {
    /// Of an action that stands there, if it is one.
    pub(crate) fn of(state: State, row: &IntentRow) -> Option<Box<CycleSaid>> {
        let result = decision(event(state, None), None, Some(row)).unwrap_or(Governance::Proceed);
        row.cycle.clone().map(|row| Box::new(CycleSaid { row, result }))
    }
}

impl CycleView {
    fn of(id: ActionId, cycle: CycleSaid, began: Option<Box<str>>) -> CycleView {
        let (CycleRow { session_id, intent_id, mut context, .. }, result) = (*cycle.row, cycle.result);
        let mut take = |member: &str| context[member].take();
        CycleView {
            cycle_id: id.to_string(),
            session_id,
            intent_id,
            reasoning_mode: take("reasoning_mode"),
            time_budget_remaining: take("time_budget_remaining"),
            resource_envelope: take("resource_envelope"),
            delegation_context: take("delegation_context"),
            cluster_context: take("cluster_context"),
            governance_result: result.as_str(),
            gar_record_id: began.map(String::from),
        }
    }
}

/// What a provider says that an effect used up, and how many members of that are not understood.
pub(crate) fn used_as_told(confirmed: &Confirmation) -> (Usage, usize) {
    let reported = reported(&confirmed.answer, confirmed.reference.as_deref());
    let (resources, unread) = reported.map(Resources::told).unwrap_or_default();
    (crate::decide::usage(0, &resources), unread)
}

/// Where an answer says what was used up: beside the reference, since what answers a question may list several, or at the top.
fn reported<'a>(answer: &'a Value, reference: Option<&str>) -> Option<&'a Value> {
    reference.and_then(|reference| beside(answer, reference)).or_else(|| answer.get(REPORTED))
}

fn beside<'a>(answer: &'a Value, reference: &str) -> Option<&'a Value> {
    let is_it = |value: &Value| match value {
        Value::String(text) => text == reference,
        Value::Number(number) => number.to_string() == reference,
        _ => false,
    };
    match answer {
        Value::Object(members) if members.values().any(is_it) && members.contains_key(REPORTED) => {
            members.get(REPORTED)
        }
        Value::Object(members) => members.values().find_map(|within| beside(within, reference)),
        Value::Array(items) => items.iter().find_map(|within| beside(within, reference)),
        _ => None,
    }
}

/// The body as the same request outside of this path, which names its session.
fn in_session(body: &[u8], session_id: &str) -> Result<Vec<u8>, Error> {
    let invalid = |why: &str, name: &str| Error::new(Code::ValidationFailed, why).field(format!("/{name}"));
    let mut body = action::json::parse(body).map_err(|broken| {
        let error = Error::new(Code::MalformedBody, broken.to_string());
        if broken.field.is_empty() { error } else { error.field(broken.field) }
    })?;
    let Some(members) = body.as_object_mut() else {
        return Err(Error::new(Code::ValidationFailed, "the body is not a JSON object"));
    };
    if let Some(given) = GIVEN.into_iter().chain(CONTEXT_MEMBERS).find(|given| members.contains_key(*given)) {
        return Err(invalid("this is what the gateway says, not its caller", given));
    }
    if let Some(missing) = REQUIRED.into_iter().find(|name| !members.contains_key(*name)) {
        return Err(invalid("a cycle needs this member", missing));
    }
    if members.get("session_id").is_some_and(|named| named != session_id) {
        return Err(invalid("this is another session than that of the path", "session_id"));
    }
    members.insert("session_id".to_owned(), session_id.into());
    serde_json::to_vec(&body).map_err(|_| internal("a body cannot be written"))
}

/// What is not left out where the path names the session.
const REQUIRED: [&str; 2] = ["intent_id", "action_sequence_number"];
/// The member of a provider's answer that says what an action used up.
const REPORTED: &str = "resources_used";
