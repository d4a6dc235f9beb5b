//! Calls that wait, as tasks (SEP-2663): the task is the action, and its id the action's.

use std::sync::Arc;

use gateway::upstream::Output;
use gateway::{Called, Caller, Code, Error, Gateway};
use rmcp::model::{
    self, CancelTaskParams, DetailedTask, ErrorCode, ErrorData, GetTaskParams, GetTaskResult, InputRequests,
    TaskPayload, TaskStatus, UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::Value;

use super::call::output_of;
use super::delivery::Owed;
use super::face::Face;
use super::party::must_be_able;
use super::questions::Task;
use super::scope::server_and_tool;
use super::told;
use super::visit::Visit;

type Context = RequestContext<RoleServer>;

impl Face {
    pub(super) async fn task(
        &self,
        asked: &GetTaskParams,
        context: &Context,
    ) -> Result<GetTaskResult, ErrorData> {
        let visit = Visit::of(&context.extensions)?;
        let (gateway, caller, id) = (&self.scope.gateway, &visit.caller, &asked.task_id);
        self.must_have_task(caller, id).await?;
        let mut called = gateway.called(caller, id).await.map_err(|error| no_task(&error))?;
        let mut task = task_of(gateway, caller, id, &called).await?;
        let payload = match (called.waits(), called.body["code"].as_str()) {
            (Some(_), _) => match self.asked_of(visit, id, (&called, context)).await? {
                input_requests if input_requests.is_empty() => TaskPayload::Working,
                input_requests => {
                    task.status_message = Some(ASKS.to_owned());
                    TaskPayload::InputRequired { input_requests }
                }
            },
            (None, Some(code)) if code == Code::Cancelled.as_str() => TaskPayload::Cancelled,
            _ => {
                let output = self.output_of_task(caller, id).await?;
                let result = told::outcome(&mut called, output.as_deref(), false);
                // As it came, where it did: it takes the place of what carries it.
                let Ok(Value::Object(result)) = serde_json::to_value(&result) else {
                    return Err(ErrorData::internal_error("the result has no form", None));
                };
                TaskPayload::Completed { result }
            }
        };
        if called.is_over()
            && let Some(delivery) = gateway.delivery(caller, id).await.map_err(|error| no_task(&error))?
        {
            visit.slot.owe(Owed::new(context.id.clone(), delivery));
        }
        Ok(GetTaskResult::new(DetailedTask::new(task, payload)))
    }

    /// The form that is declared for what the task's tool answers.
    async fn output_of_task(&self, caller: &Caller, id: &str) -> Result<Option<Arc<Output>>, ErrorData> {
        let gateway = &self.scope.gateway;
        let action = gateway.action(caller, id).await.map_err(|error| no_task(&error))?;
        let Some((server, tool)) = server_and_tool(&action.archetype) else { return Ok(None) };
        match gateway.mcp().get(&caller.tenant, server) {
            Some(server) => Ok(output_of(&server, tool)),
            None => Ok(None),
        }
    }

    /// What its server asks, where the caller is who made the call, and this client can be asked that.
    async fn asked_of(
        &self,
        visit: &Visit,
        id: &str,
        (called, context): (&Called, &Context),
    ) -> Result<InputRequests, ErrorData> {
        let own = if called.is_under_way { self.own_task(&visit.caller, id).await? } else { None };
        let Some(task) = own else { return Ok(InputRequests::new()) };
        let requests = match task.requests(&self.mcp.desk).await {
            // It is being answered just now.
            Err(error) if error.code == ErrorCode::INVALID_REQUEST => InputRequests::new(),
            requests => requests?,
        };
        let able = context.client_capabilities().unwrap_or_default();
        requests.values().try_for_each(|request| must_be_able(&able, request))?;
        Ok(requests)
    }

    /// There are only those of the servers that are spoken with here.
    async fn must_have_task(&self, caller: &Caller, id: &str) -> Result<(), ErrorData> {
        self.scope.must_have(caller, id).await.map_err(|error| no_task(&error))
    }

    /// The task, if this is who made the call: others may be let see it, and are neither asked nor heard.
    async fn own_task(&self, caller: &Caller, id: &str) -> Result<Option<Task>, ErrorData> {
        let gateway = &self.scope.gateway;
        let view = gateway.action(caller, id).await.map_err(|error| no_task(&error))?;
        if view.agent_id != caller.subject.as_str() {
            return Ok(None);
        }
        let shelf = gateway.shelf(caller).map_err(|error| no_task(&error))?;
        Ok(Some(Task { action: view.action_id, owner: self.owner(caller).into(), shelf }))
    }

    pub(super) async fn task_answer(
        &self,
        asked: &UpdateTaskParams,
        context: &Context,
    ) -> Result<(), ErrorData> {
        let caller = &Visit::of(&context.extensions)?.caller;
        self.must_have_task(caller, &asked.task_id).await?;
        match self.own_task(caller, &asked.task_id).await? {
            Some(task) => task.answer(&self.mcp.desk, asked.input_responses.clone()).await,
            None => Err(ErrorData::invalid_request("only whoever made this call answers what it asks", None)),
        }
    }

    pub(super) async fn task_end(
        &self,
        asked: &CancelTaskParams,
        context: &Context,
    ) -> Result<(), ErrorData> {
        let caller = &Visit::of(&context.extensions)?.caller;
        self.must_have_task(caller, &asked.task_id).await?;
        match self.scope.gateway.cancel(caller, &asked.task_id).await {
            // What was sent is not called back; how it stands is said by `tasks/get`.
            Err(error) if error.code == Code::StateConflict => {
                match self.own_task(caller, &asked.task_id).await? {
                    Some(task) => task.withdraw(&self.mcp.desk).await,
                    None => Ok(()),
                }
            }
            ended => ended.map(drop).map_err(|error| no_task(&error)),
        }
    }
}

/// The action as a task.
pub(super) async fn task_of(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    id: &str,
    called: &Called,
) -> Result<model::Task, ErrorData> {
    let view = gateway.action(caller, id).await.map_err(|error| no_task(&error))?;
    let changed = view.completed_at.as_ref().unwrap_or(&view.created_at);
    let task = model::Task::new(id, TaskStatus::Working, view.created_at.clone(), changed.clone());
    Ok(task.with_status_message(told::sentence(called)).with_poll_interval_ms(POLL_MS))
}

fn no_task(error: &Error) -> ErrorData {
    match error.code {
        Code::NotFound => ErrorData::invalid_params("there is no such task", None),
        Code::Forbidden => ErrorData::invalid_request("your role does not allow this", None),
        _ => ErrorData::internal_error("the gateway cannot say that right now", None),
    }
}

const POLL_MS: u64 = 5000;
const ASKS: &str = "The server of this call asks its client something before it goes on: answer inputRequests by tasks/update.";
