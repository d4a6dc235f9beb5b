//! `tools/call`: an action, told as the result of a tool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use action::IdempotencyKey;
use action::json::{Item, canonical_array};
use futures_util::future::BoxFuture;
use gateway::upstream::{Output, Party, Seat, SeenTool, Server, Tie};
use gateway::{Called, CalledKind, Caller, Code, Error, Gateway, Kind, ToolCall};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CreateTaskResult, ErrorData, JsonObject,
    MetaObject, ProgressNotification, ProgressNotificationParam, ServerResult,
};
use serde_json::Value;

use super::delivery::Owed;
use super::desk::{Answered, Errand, Recall};
use super::door::CALL;
use super::face::Face;
use super::inquiry::Inquiry;
use super::own;
use super::pass::read_ours;
use super::questions::Task;
use super::tasks::task_of;
use super::told;
use crate::errors;

impl Face {
    pub(super) async fn call(
        &self,
        mut asked: CallToolRequestParams,
        inquiry: &Inquiry,
    ) -> Result<CallToolResponse, ErrorData> {
        let visit = &inquiry.visit;
        // Whatever becomes of it.
        if let Err(error) = self.scope.gateway.count(&visit.caller) {
            return Ok(told::refusal(&error, false).into());
        }
        if own::is_own_tool(&asked.name) {
            return own::call(&self.scope, &visit.caller, &asked).await.map(Into::into);
        }
        let (server, tool) = self.scope.inward(&asked.name).ok_or_else(unknown_tool)?;
        let tool = tool.to_owned();
        let call = match tool_call(&server, &tool, asked.arguments.take(), inquiry) {
            Ok(call) => call,
            Err(error) => {
                let output = output_of(&server, &tool);
                return Ok(told::refusal(&error, output.is_some()).into());
            }
        };
        let what = canonical_array(&[
            Item::Text(CALL),
            Item::Text(&call.server),
            Item::Text(&call.tool),
            Item::Value(&call.arguments),
            call.mandate.as_deref().into(),
            call.repeat_of.as_deref().into(),
            call.session_id.as_deref().into(),
            call.key.as_ref().map(IdempotencyKey::as_str).into(),
        ]);
        let errand = self.errand(inquiry, &what, (asked.input_responses, asked.request_state))?;
        let is_joined = self.scope.gateway.is_joined(&visit.caller, &call);
        let recall = self.recall(inquiry, (Arc::clone(&server), tool));
        let errand = Errand { seat: Some(Arc::default()), recall: Some(recall), is_joined, ..errand };
        let bound = Some(errand.bound).filter(|_| is_joined && self.session().is_none());
        let call = ToolCall { bound, ..call };
        let answered = self.have_called(inquiry, errand, server, call).await?;
        let response = match answered.result {
            ServerResult::InputRequiredResult(asks) => asks.into(),
            ServerResult::CreateTaskResult(task) => task.into(),
            ServerResult::CallToolResult(result) => result.into(),
            other => read_ours::<CallToolResult>(other)?.into(),
        };
        // Whoever gave it up does not get it.
        if let Some(delivery) = answered.owed.filter(|_| !inquiry.gone.is_cancelled()) {
            visit.slot.owe(Owed::new(inquiry.id.clone(), delivery));
        }
        Ok(response)
    }

    /// How what came of an action is told once more. Unless it is delivered by that, the next same call is told of it, too.
    fn recall(&self, inquiry: &Inquiry, (server, tool): (Arc<Server>, String)) -> Recall {
        let (gateway, caller) = (Arc::clone(&self.scope.gateway), Arc::clone(&inquiry.visit.caller));
        let (wants_task, wait) = (wants_task(inquiry), self.wait(inquiry));
        let has_session = !inquiry.is_stateless;
        Box::new(move |id, delivers| {
            Box::pin(async move {
                let (output, id) = (output_of(&server, &tool), id.to_string());
                let called = match gateway.called_within(&caller, &id, wait).await {
                    Ok(called) => called,
                    Err(error) => return Ok(plain(told::refusal(&error, output.is_some()))),
                };
                if wants_task && is_to_be_waited_for(&called) {
                    return as_task(&gateway, &caller, &id, &called).await;
                }
                let delivery = match delivers && called.is_over() {
                    // What cannot be looked for now is delivered the next time.
                    true => {
                        let delivery = gateway.delivery(&caller, &id);
                        gateway.in_time(gateway.wait_for_store(), delivery).await.ok().flatten()
                    }
                    false => None,
                };
                Ok(answered(Called { replayed: true, delivery, ..called }, output.as_deref(), has_session))
            })
        })
    }

    /// How long this client waits for what takes longer than its server.
    fn wait(&self, inquiry: &Inquiry) -> Duration {
        if wants_task(inquiry) { Duration::ZERO } else { self.scope.gateway.mcp_settings().wait() }
    }

    async fn have_called(
        &self,
        inquiry: &Inquiry,
        errand: Errand,
        server: Arc<Server>,
        call: ToolCall,
    ) -> Result<Answered, ErrorData> {
        let gateway = Arc::clone(&self.scope.gateway);
        let caller = Arc::clone(&inquiry.visit.caller);
        let meta = self.meta(inquiry);
        let (wants_task, wait) = (wants_task(inquiry), self.wait(inquiry));
        let has_session = !inquiry.is_stateless;
        let desk = Arc::clone(&self.mcp.desk);
        let (owner, shelf) = (Arc::clone(&errand.owner), errand.shelf.clone());
        let seated = errand.seat.clone();
        let wants_progress = inquiry.meta.get_progress_token().is_some();
        self.have_done(inquiry, errand, move |party: Arc<dyn Party>, tie: Tie| {
            Box::pin(async move {
                // Nothing was asked yet: answers to that would be arguments that nobody judges and no receipt has.
                let seat = Seat::new(Arc::clone(&party), Some(meta), tie.clone());
                if let Some(seated) = seated {
                    let _ = seated.set(Arc::clone(&seat));
                }
                let waiting = Waiting { party, tie, told: AtomicU32::new(0) };
                let progress = |why| {
                    if wants_progress {
                        waiting.tell(why)
                    }
                };
                let tool = call.tool.clone();
                let called = gateway.call_tool(&caller, call, Arc::clone(&seat), wait, &progress).await;
                let output = output_of(&server, &tool);
                let mut called = match called {
                    Ok(called) => called,
                    Err(error) if error.code == Code::UnknownArchetype => {
                        let seen = listed(&server, &tool).ok_or_else(unknown_tool)?;
                        let error = match seen.unfit() {
                            Some(why) => error.hint(format!("{UNFIT}: {why}")),
                            None => error,
                        };
                        return Ok(plain(told::refusal(&error, output.is_some())));
                    }
                    Err(error) => return Ok(plain(told::refusal(&error, output.is_some()))),
                };
                // What the client has to see to before it calls again is told in the server's own words.
                let kept = called.error.take().and_then(told::error_of);
                if let Some(error) = seat.take_error().or(kept).filter(|_| called.kind == NO_EFFECT) {
                    // And the same call is a new one from now on: it is what its client does next.
                    if let Some(delivery) = called.delivery {
                        delivery.done();
                    }
                    return Err(error);
                }
                if let Some(action) = called.action_id.filter(|_| is_to_be_waited_for(&called)) {
                    let goes_on = |action| gateway.mcp().seats().keeps(action);
                    desk.tasks.keep(
                        waiting.tie.id.as_ref(),
                        Task { action, owner, shelf },
                        wants_task,
                        goes_on,
                    );
                }
                match called.action_id {
                    Some(id) if wants_task && is_to_be_waited_for(&called) => {
                        as_task(&gateway, &caller, &id.to_string(), &called).await
                    }
                    _ => Ok(answered(called, output.as_deref(), has_session)),
                }
            })
        })
        .await
    }

    /// Has something done in whose midst the client may be asked, and tells how far it came.
    pub(super) async fn have_done(
        &self,
        inquiry: &Inquiry,
        errand: Errand,
        work: impl FnOnce(Arc<dyn Party>, Tie) -> BoxFuture<'static, Result<Answered, ErrorData>> + Send,
    ) -> Result<Answered, ErrorData> {
        let party = self.party(inquiry);
        let Some(session) = self.session() else {
            return self.mcp.desk.attend(inquiry, errand, move |tie| work(party, tie)).await;
        };
        let under_way = session.begin(&inquiry.id);
        let gone = if errand.seat.is_some() { &under_way.cancelled } else { &inquiry.gone };
        let tie = Tie::new(Some(inquiry.id.clone()), inquiry.meta.get_progress_token(), gone.clone());
        let open = tie.until_answered();
        let answered = work(party, tie).await;
        drop(open);
        session.mail.sent().await;
        answered
    }
}

/// A call that waits for something else than its server.
struct Waiting {
    party: Arc<dyn Party>,
    tie: Tie,
    told: AtomicU32,
}

impl Waiting {
    fn tell(&self, why: &'static str) {
        let Some(token) = self.tie.progress.clone().filter(|_| !self.tie.has_progressed()) else { return };
        // Progress only grows. What the server says of its own comes after and may begin at 0, so this comes ever nearer to that.
        let steps = self.told.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let progress = ProgressNotificationParam::new(token, -1.0 / f64::from(steps)).with_message(why);
        self.party.tell(ProgressNotification::new(progress).into(), self.tie.id.as_ref());
    }
}

/// What the client has of a call that has an outcome, or still none.
fn answered(mut called: Called, output: Option<&Output>, has_session: bool) -> Answered {
    let result = ServerResult::CallToolResult(told::outcome(&mut called, output, has_session));
    // Of what only says of itself that it failed, nobody has looked whether it did something.
    let came_to_nothing = called.kind == NO_EFFECT && !errors::is_only_said(&told::reasons(&called));
    let waits_at = called.waits_at.zip(called.action_id);
    let is_under_way = called.is_under_way;
    Answered { result, owed: called.delivery, came_to_nothing, is_under_way, waits_at }
}

/// Whether there is nothing to be told yet. What its server said in doubt is told at once, and so is what it asks at another
/// gateway.
fn is_to_be_waited_for(called: &Called) -> bool {
    !called.is_over() && called.answer.is_none() && called.waits_at.is_none()
}

async fn as_task(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    id: &str,
    called: &Called,
) -> Result<Answered, ErrorData> {
    let task = task_of(gateway, caller, id, called).await?;
    Ok(Answered::of(ServerResult::CreateTaskResult(CreateTaskResult::new(task))))
}

/// Whether its client takes a task for what waits.
fn wants_task(inquiry: &Inquiry) -> bool {
    inquiry.is_stateless && inquiry.client.1.supports_tasks()
}

fn plain(result: CallToolResult) -> Answered {
    Answered::of(ServerResult::CallToolResult(result))
}

fn tool_call(
    server: &Server,
    tool: &str,
    arguments: Option<JsonObject>,
    inquiry: &Inquiry,
) -> Result<ToolCall, Error> {
    let meta: &MetaObject = &inquiry.meta;
    must_be_kept(meta)?;
    Ok(ToolCall {
        server: server.name().to_owned(),
        tool: tool.to_owned(),
        arguments: Value::Object(arguments.unwrap_or_default()),
        key: match text(meta, KEY)? {
            Some(key) => {
                Some(IdempotencyKey::parse(&key).map_err(|_| {
                    Error::new(Code::ValidationFailed, "the idempotency key is none").field(KEY)
                })?)
            }
            None => None,
        },
        mandate: text(meta, MANDATE)?,
        repeat_of: text(meta, REPEAT_OF)?,
        session_id: text(meta, SESSION)?,
        request_id: inquiry.visit.request_id.to_string(),
        bound: None,
    })
}

/// What waits for a person is kept with its `_meta`, and there may be many.
fn must_be_kept(meta: &MetaObject) -> Result<(), Error> {
    let bytes = serde_json::to_vec(meta).map_or(usize::MAX, |text| text.len());
    if bytes > MOST_META {
        return Err(Error::new(Code::BodyTooLarge, "`_meta` is longer than 64 KiB").field("/_meta"));
    }
    Ok(())
}

/// What a client says to us in `_meta`.
fn text(meta: &MetaObject, name: &'static str) -> Result<Option<String>, Error> {
    match meta.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Error::new(Code::ValidationFailed, "this is no text").field(name)),
    }
}

/// The form that its server declares for what it answers, as far as is known, which no words of ours have.
pub(super) fn output_of(server: &Server, tool: &str) -> Option<Arc<Output>> {
    let tools = server.known_tools()?;
    tools.iter().find(|seen| seen.tool.name == tool)?.output.clone()
}

fn listed(server: &Server, tool: &str) -> Option<SeenTool> {
    server.known_tools()?.iter().find(|seen| seen.tool.name == tool).cloned()
}

fn unknown_tool() -> ErrorData {
    ErrorData::invalid_params("there is no such tool", None)
}

/// Of a tool that cannot be accepted.
const UNFIT: &str =
    "it cannot be accepted either, because no call can be held against the schema of its arguments";

const NO_EFFECT: CalledKind = CalledKind::Outcome(Kind::Failed);

/// As compact JSON, with who the client is and what it can do where that is in there.
const MOST_META: usize = 64 * 1024;

const KEY: &str = "io.countersign/idempotency-key";
const MANDATE: &str = "io.countersign/mandate";
const REPEAT_OF: &str = "io.countersign/repeat-of";
const SESSION: &str = "io.countersign/session";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_its_tool_says_of_itself_is_not_left_behind() {
        let failed = |reason: &str| Called {
            action_id: None,
            kind: NO_EFFECT,
            answer: None,
            error: None,
            body: json!({"kind": "failed", "details": {"reasons": [reason]}}),
            replayed: false,
            is_under_way: false,
            delivery: None,
            waits_at: None,
        };
        assert!(answered(failed("provider_error"), None, false).came_to_nothing);
        assert!(!answered(failed("says_failed"), None, false).came_to_nothing);
    }
}
