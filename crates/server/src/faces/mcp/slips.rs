//! What gateways write each other about what waits for a client: each a piece of JSON, which is sealed before it is laid down.

use action::ActionId;
use gateway::{Alike, Shelf};
use rmcp::model::{
    CustomResult, ErrorData, InputRequests, InputResponses, LoggingLevel, ProgressToken, ServerResult,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::desk::Answered;

/// What a client is to answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Asked {
    /// The action that it belongs to, if it is a call.
    action: Option<String>,
    pub(super) requests: InputRequests,
    /// Bytes of what was answered beside these, and is kept.
    #[serde(default)]
    pub(super) kept: usize,
}

impl Asked {
    pub(super) fn new(action: Option<ActionId>, requests: InputRequests, kept: usize) -> Asked {
        Asked { action: action.map(|action| action.to_string()), requests, kept }
    }

    pub(super) fn action(&self) -> Option<ActionId> {
        self.action.as_ref()?.parse().ok()
    }
}

/// What a client says who came back.
#[derive(Serialize, Deserialize)]
pub(super) struct Said {
    /// Nothing, where it is only to be asked again.
    pub(super) answers: Option<InputResponses>,
    /// What it wants to be told of meanwhile.
    pub(super) progress: Option<ProgressToken>,
    pub(super) level: Option<LoggingLevel>,
    /// Of a question of a task: that the task is cancelled.
    #[serde(default)]
    pub(super) is_withdrawn: bool,
}

impl Said {
    pub(super) fn nothing() -> Said {
        Said { answers: None, progress: None, level: None, is_withdrawn: false }
    }
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Came {
    outcome: Outcome,
    owed: Option<(Alike, u64)>,
}

#[derive(Serialize, Deserialize)]
enum Outcome {
    /// Kept apart: nothing else that is read tells them.
    Task(Value),
    Result(Value),
    Refused(ErrorData),
}

impl Came {
    pub(super) fn of(answered: Result<Answered, ErrorData>) -> Came {
        let Answered { result, owed, .. } = match answered {
            Ok(answered) => answered,
            Err(error) => return Came { outcome: Outcome::Refused(error), owed: None },
        };
        let is_task = matches!(result, ServerResult::CreateTaskResult(_));
        let outcome = match (serde_json::to_value(result), is_task) {
            (Ok(result), false) => Outcome::Result(result),
            (Ok(task), true) => Outcome::Task(task),
            (Err(_), _) => Outcome::Refused(ErrorData::internal_error("the result has no form", None)),
        };
        Came { outcome, owed: owed.and_then(|owed| owed.owed()) }
    }

    /// As if it had come of it here.
    pub(super) fn answered(self, shelf: &Shelf) -> Result<Answered, ErrorData> {
        let result = match self.outcome {
            Outcome::Refused(error) => return Err(error),
            Outcome::Result(result) => ServerResult::CustomResult(CustomResult(result)),
            Outcome::Task(task) => {
                let task = serde_json::from_value(task);
                ServerResult::CreateTaskResult(task.map_err(|_| illegible())?)
            }
        };
        let owed = self.owed.map(|owed| shelf.delivery(owed));
        Ok(Answered { owed, ..Answered::of(result) })
    }
}

pub(super) fn write(slip: &impl Serialize) -> Vec<u8> {
    // It is written into memory, and its own types: there is nothing that could fail.
    serde_json::to_vec(slip).unwrap_or_default()
}

/// # Errors
/// Another gateway wrote something else.
pub(super) fn read<T: DeserializeOwned>(slip: &[u8]) -> Result<T, ErrorData> {
    serde_json::from_slice(slip).map_err(|_| illegible())
}

fn illegible() -> ErrorData {
    tracing::error!("what another gateway wrote cannot be read");
    let advice =
        "the gateway cannot read what this continues: make the request again without its requestState";
    ErrorData::internal_error(advice, None)
}
