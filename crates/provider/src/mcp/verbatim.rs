//! What a server asks and tells of its own accord, as it came.
//!
//! rmcp reads it into forms of its own and drops what they do not have. By that form it is known what it is; but its parameters go
//! along as a text, in a member of `_meta` that only we say. Whoever says it to a client puts the text in their place.

use std::collections::BTreeMap;

use rmcp::model::{
    Extensions, InputRequest, InputRequests, JsonObject, NotificationMetaObject, RequestMetaObject,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::said::Said;

/// The member of `_meta` that is the text of all that it stands in. No server can say it: what begins so is struck from what they
/// say.
pub const VERBATIM: &str = "io.countersign/verbatim";

/// A request or a notification with the text of its parameters in it; nothing, if it is none, or has none.
pub(super) fn carrying(message: &[u8]) -> Option<Vec<u8>> {
    let Message { jsonrpc, id, method, params } = serde_json::from_slice(message).ok()?;
    let Said { text, mut value } = Said::of(params)?;
    let meta = value.as_object_mut()?.entry("_meta").or_insert(Value::Null);
    if !meta.is_object() {
        *meta = Map::new().into();
    }
    meta[VERBATIM] = text.get().into();
    serde_json::to_vec(&Message { jsonrpc, id, method, params: value }).ok()
}

#[derive(Deserialize, Serialize)]
struct Message<'a, P> {
    #[serde(borrow)]
    jsonrpc: &'a RawValue,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: &'a RawValue,
    params: P,
}

/// Takes the text of a notification out of it.
pub(super) fn taken_from(extensions: &mut Extensions) -> Option<Said> {
    let meta = extensions.get_mut::<NotificationMetaObject>()?;
    let said = taken(&mut meta.0.0);
    if meta.0.0.is_empty() {
        extensions.remove::<NotificationMetaObject>();
    }
    said
}

/// The same of a question.
pub(super) fn taken_from_question(meta: &mut RequestMetaObject) -> Option<Said> {
    taken(&mut meta.0.0)
}

fn taken(meta: &mut JsonObject) -> Option<Said> {
    match meta.shift_remove(VERBATIM)? {
        Value::String(text) => Said::of(serde_json::from_str(&text).ok()?),
        _ => None,
    }
}

/// Puts the text of a notification into it.
pub(super) fn put(extensions: &mut Extensions, text: &RawValue) {
    let meta: &mut NotificationMetaObject = extensions.get_or_insert_default();
    meta.0.0.insert(VERBATIM.to_owned(), text.get().into());
}

/// The same of a question.
pub(super) fn put_into(question: &mut InputRequest, text: &RawValue) {
    let extensions = match question {
        InputRequest::CreateMessage(request) => &mut request.extensions,
        InputRequest::Elicitation(request) => &mut request.extensions,
        InputRequest::ListRoots(request) => &mut request.extensions,
        _ => return,
    };
    let meta: &mut RequestMetaObject = extensions.get_or_insert_default();
    meta.0.0.insert(VERBATIM.to_owned(), text.get().into());
}

/// The same of all questions of a result that asks, without what only we say, whatever they are called.
pub(super) fn put_beside(questions: &mut InputRequests, result: &RawValue) {
    #[derive(Deserialize)]
    struct Asks<'a> {
        #[serde(borrow, rename = "inputRequests")]
        questions: BTreeMap<String, Question<'a>>,
    }
    #[derive(Deserialize)]
    struct Question<'a> {
        #[serde(borrow)]
        params: Option<&'a RawValue>,
    }
    let Ok(asks) = serde_json::from_str::<Asks<'_>>(result.get()) else { return };
    for (name, question) in questions {
        let params = asks.questions.get(name).and_then(|it| it.params);
        if let Some(said) = params.and_then(Said::of).and_then(Said::without_ours) {
            put_into(question, &said.text);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rmcp::model::{JsonRpcMessage, ServerJsonRpcMessage};

    use super::*;

    #[test]
    fn a_notification_goes_through_rmcp_with_the_text_of_its_parameters() {
        let params = r#"{"level":"info","data":[1e400,1.10],"new":1180591620717411303425,"_meta":{"io.countersign/verbatim":"{}"}}"#;
        let message = format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}"#);
        let read: ServerJsonRpcMessage =
            serde_json::from_slice(&carrying(message.as_bytes()).unwrap()).unwrap();
        let JsonRpcMessage::Notification(mut told) = read else { unreachable!("it is one") };
        use rmcp::model::GetExtensions;
        let extensions = told.notification.extensions_mut();
        assert_eq!(taken_from(extensions).unwrap().text.get(), params);
        assert!(extensions.get::<NotificationMetaObject>().is_none(), "nothing is left of it");
    }

    #[test]
    fn no_server_speaks_in_our_name_in_what_it_asks_whatever_it_calls_that() {
        let asked = r#"{"method":"roots/list","params":{"_meta":{"io.countersign/receipt":1,"shop":2}}}"#;
        for name in ["any", "data", "structuredContent"] {
            let result = format!(r#"{{"resultType":"input_required","inputRequests":{{"{name}":{asked}}}}}"#);
            let input = Said::of(serde_json::from_str(&result).unwrap()).unwrap().input().unwrap();
            let asked = serde_json::to_value(&input.requests[name]).unwrap();
            assert_eq!(asked["params"]["_meta"][VERBATIM], r#"{"_meta":{"shop":2}}"#, "{name}");
        }
    }

    #[test]
    fn an_answer_and_what_has_no_parameters_carry_nothing() {
        for other in [
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":[]}"#,
            "no message",
        ] {
            assert!(carrying(other.as_bytes()).is_none(), "{other}");
        }
    }
}
