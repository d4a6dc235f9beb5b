//! Two tools of our own: how a call stands, and its receipt. Both only look.

use std::sync::Arc;

use gateway::{Caller, Code, Error, Gateway};
use rmcp::model::{CallToolRequestParams, CallToolResult, ContentBlock, ErrorData, Tool, ToolAnnotations};
use serde::Deserialize;
use serde_json::{Value, json};

use super::scope::Scope;
use super::told;

const STATUS: &str = "countersign_status";
const RECEIPT: &str = "countersign_receipt";

/// Whether a tool is one of ours: where a server's own names are used, one of that name cannot be called.
pub fn is_own_tool(name: &str) -> bool {
    name == STATUS || name == RECEIPT
}

pub(super) fn tools() -> [Tool; 2] {
    [
        tool(
            STATUS,
            "How a tool call of yours stands that was held, is under way or is over, and what its server answered. Takes the \
             transaction_id that the call's result named.",
        ),
        tool(
            RECEIPT,
            "The signed receipt of a tool call of yours. Takes the transaction_id that the call's result named.",
        ),
    ]
}

fn tool(name: &'static str, description: &'static str) -> Tool {
    let schema = json!({
        "type": "object",
        "properties": {
            "transaction_id": { "type": "string", "description": "As a result names it" },
        },
        "required": ["transaction_id"],
        "additionalProperties": false,
    });
    let Value::Object(schema) = schema else { return Tool::default() };
    let hints = ToolAnnotations::new().read_only(true).idempotent(true).open_world(false);
    Tool::new(name, description, Arc::new(schema)).with_annotations(hints)
}

/// # Errors
/// There is no transaction id.
pub(super) async fn call(
    scope: &Scope,
    caller: &Caller,
    asked: &CallToolRequestParams,
) -> Result<CallToolResult, ErrorData> {
    let arguments = asked.arguments.as_ref();
    let id = arguments.and_then(|arguments| arguments.get("transaction_id")?.as_str());
    let id = id.ok_or_else(|| ErrorData::invalid_params("transaction_id has to be a text", None))?;
    let gateway = &scope.gateway;
    let look = async {
        scope.must_have(caller, id).await?;
        match asked.name == STATUS {
            true => status(gateway, caller, id).await,
            false => receipt(gateway, caller, id).await,
        }
    };
    let looked = gateway.in_time(gateway.wait_for_store(), look).await;
    Ok(looked.unwrap_or_else(|error| told::refusal(&error, false)))
}

/// Is no delivery: the same call again is answered the same.
async fn status(gateway: &Arc<Gateway>, caller: &Caller, id: &str) -> Result<CallToolResult, Error> {
    let called = gateway.called(caller, id).await?;
    let mut said = told::brief(&called);
    let mut content = vec![ContentBlock::text(told::sentence(&called))];
    let answer = called.answer.and_then(|answer| serde_json::from_str(answer.get()).ok());
    let answer = answer.map(told::foreign).unwrap_or_default();
    content.push(ContentBlock::text(said.to_string()));
    if let (Ok(read), Some(members)) = (CallToolResult::deserialize(&answer), said.as_object_mut()) {
        // Foreign, as any result of its tool is.
        members.insert("answer".to_owned(), answer);
        content.extend(read.content);
    }
    let mut result = CallToolResult::success(content);
    result.structured_content = Some(said);
    Ok(result)
}

async fn receipt(gateway: &Arc<Gateway>, caller: &Caller, id: &str) -> Result<CallToolResult, Error> {
    let called = gateway.called(caller, id).await?;
    let Some(receipt_id) = called.body["receipt_id"].as_str() else {
        return Ok(told::without_receipt(&called));
    };
    let document = gateway.receipt(caller, receipt_id).await?;
    let receipt: Value = serde_json::from_slice(&document)
        .map_err(|_| Error::new(Code::Unavailable, "the receipt cannot be read"))?;
    let mut result = CallToolResult::success(vec![ContentBlock::text(String::from_utf8_lossy(&document))]);
    result.structured_content = Some(receipt);
    Ok(result)
}
