//! Calls that wait, as tasks (SEP-2663): the task is the action, and its id the action's.

use std::sync::Arc;

use gateway::upstream::Output;
use gateway::{Called, Caller, Code, Error, Gateway, MCP_ARCHETYPES};
use rmcp::model::{
    CancelTaskParams, DetailedTask, ErrorData, GetTaskParams, GetTaskResult, Task, TaskPayload, TaskStatus,
    UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::Value;

use super::call::output_of;
use super::delivery::Owed;
use super::face::Face;
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
        let mut called = gateway.called(caller, id).await.map_err(|error| no_task(&error))?;
        let task = task_of(gateway, caller, id, &called).await?;
        let payload = match (called.waits(), called.body["code"].as_str()) {
            (Some(_), _) => TaskPayload::Working,
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
        if !matches!(payload, TaskPayload::Working)
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
        let named = action.archetype.strip_prefix(MCP_ARCHETYPES).and_then(|name| name.split_once('/'));
        let Some((server, tool)) = named else { return Ok(None) };
        match gateway.mcp().get(&caller.tenant, server) {
            Some(server) => Ok(output_of(&server, tool)),
            None => Ok(None),
        }
    }

    /// Asks nothing in its midst, so there is nothing to be answered.
    pub(super) async fn task_answer(
        &self,
        asked: &UpdateTaskParams,
        context: &Context,
    ) -> Result<(), ErrorData> {
        let caller = &Visit::of(&context.extensions)?.caller;
        let called = self.scope.gateway.called(caller, &asked.task_id).await;
        called.map(drop).map_err(|error| no_task(&error))
    }

    pub(super) async fn task_end(
        &self,
        asked: &CancelTaskParams,
        context: &Context,
    ) -> Result<(), ErrorData> {
        let caller = &Visit::of(&context.extensions)?.caller;
        match self.scope.gateway.cancel(caller, &asked.task_id).await {
            // What was sent is not called back; how it stands is said by `tasks/get`.
            Err(error) if error.code == Code::StateConflict => Ok(()),
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
) -> Result<Task, ErrorData> {
    let view = gateway.action(caller, id).await.map_err(|error| no_task(&error))?;
    let changed = view.completed_at.as_ref().unwrap_or(&view.created_at);
    let task = Task::new(id, TaskStatus::Working, view.created_at.clone(), changed.clone());
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
