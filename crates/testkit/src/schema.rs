//! Messages of the Model Context Protocol, held against the published schema of their revision where that is there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::tools::Tools;

const OLD: &str = "2025-11-25";
const NEW: &str = "2026-07-28";

/// Where a request says of which revision it is, and an answer to an earlier one does not.
const REVISION: &str = "/params/_meta/io.modelcontextprotocol~1protocolVersion";

/// What a client may answer to a server that asks, other than with nothing.
const ANSWERS: [&str; 3] = ["ElicitResult", "CreateMessageResult", "ListRootsResult"];

/// A server whose clients must have said nothing but what the schema allows, by the time that it ends.
pub struct Held(Tools);

impl Held {
    /// Holds against the schema what this one hears.
    #[must_use]
    pub fn new(tools: Tools) -> Held {
        Held(tools)
    }
}

impl Deref for Held {
    type Target = Tools;

    fn deref(&self) -> &Tools {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            must_be_of_a_client(&self.0.heard());
        }
    }
}

/// Holds what a client said to a server against the schema: each message, and the revision that it was said to be of
/// beside it, if it was.
///
/// # Panics
/// One is not as it is to be.
pub fn must_be_of_a_client(said: &[(Option<String>, Value)]) {
    let mut last = OLD.to_owned();
    for (beside, message) in said {
        let within = message.pointer(REVISION).and_then(Value::as_str);
        let within = within.or_else(|| message.pointer("/params/protocolVersion")?.as_str());
        // What says nothing of it is of the revision of what came before.
        last = beside.as_deref().or(within).unwrap_or(&last).to_owned();
        of_a_client(&last, message);
    }
}

fn of_a_client(revision: &str, message: &Value) {
    match (message["method"].as_str(), message.get("id"), message.get("result")) {
        (Some(method), Some(_), _) => {
            of_method(revision, ("ClientRequest", "JSONRPCRequest"), method, message)
        }
        (Some(method), None, _) => {
            of_method(revision, ("ClientNotification", "JSONRPCNotification"), method, message);
        }
        (None, _, None) => check(revision, "JSONRPCErrorResponse", message),
        (None, _, Some(result)) => {
            check(revision, "JSONRPCResultResponse", message);
            let is_known = ANSWERS.iter().any(|form| errors(revision, form, result).is_empty());
            let is_empty = result.as_object().is_some_and(|it| it.keys().all(|name| name == "_meta"));
            assert!(is_known || is_empty, "{revision}: it answers nothing that is asked: {message}");
        }
    }
}

/// In the form that its method has. A method that is in no revision is the server's own.
fn of_method(revision: &str, (kind, any): (&str, &str), method: &str, message: &Value) {
    if let Some(form) = forms(revision, kind).get(method) {
        return check(revision, form, message);
    }
    // Tasks became an extension, which has a schema of its own.
    let is_elsewhere = [OLD, NEW].iter().any(|other| forms(other, kind).contains_key(method));
    let is_extension = revision == NEW && method.starts_with("tasks/");
    assert!(!is_elsewhere || is_extension, "{revision}: it has no `{method}`: {message}");
    check(revision, any, message);
    if revision == NEW && kind == "ClientRequest" {
        check(revision, "RequestParams", &message["params"]);
    }
}

/// Holds what a server said against the schema, where it answers a request of this method; of anything else it does not matter.
///
/// # Panics
/// It is not as it is to be.
pub fn must_be_of_a_server(revision: &str, method: &str, message: &Value) {
    match (message.get("result"), message.get("error"), message.get("id")) {
        (Some(result), ..) => {
            check(revision, "JSONRPCResultResponse", message);
            check(revision, form_of(revision, method, result), result);
        }
        (_, Some(_), _) => check(revision, "JSONRPCErrorResponse", message),
        (.., Some(_)) => check(revision, "ServerRequest", message),
        _ => check(revision, "ServerNotification", message),
    }
}

fn form_of(revision: &str, method: &str, result: &Value) -> &'static str {
    // Tasks are an extension, with a schema of its own.
    match (method, result["resultType"].as_str()) {
        (_, Some("input_required")) => "InputRequiredResult",
        (_, Some("task")) => "Result",
        ("initialize", _) => "InitializeResult",
        ("server/discover", _) => "DiscoverResult",
        ("tools/list", _) => "ListToolsResult",
        ("tools/call", _) => "CallToolResult",
        ("logging/setLevel" | "ping", _) => "EmptyResult",
        ("subscriptions/listen", _) if revision == NEW => "SubscriptionsListenResult",
        _ => "Result",
    }
}

fn check(revision: &str, form: &str, what: &Value) {
    let wrong = errors(revision, form, what);
    assert!(wrong.is_empty(), "{revision}: {form}: {wrong:?}: {what}");
}

/// What is wrong with it; nothing is known of that without the schema.
fn errors(revision: &str, form: &str, what: &Value) -> Vec<String> {
    static MADE: Mutex<BTreeMap<(String, String), Arc<Validator>>> = Mutex::new(BTreeMap::new());
    let Some(schema) = schema(revision) else { return Vec::new() };
    let validator = {
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (revision.to_owned(), form.to_owned());
        match made.entry(key) {
            Entry::Occupied(made) => Arc::clone(made.get()),
            Entry::Vacant(place) => {
                let mut schema = (*schema).clone();
                schema["$ref"] = json!(format!("#/$defs/{form}"));
                match jsonschema::validator_for(&schema) {
                    Ok(made) => Arc::clone(place.insert(Arc::new(made))),
                    Err(error) => return vec![error.to_string()],
                }
            }
        }
    };
    validator.iter_errors(what).map(|error| error.to_string()).collect()
}

/// The methods of a kind of messages, and what their forms are called.
fn forms(revision: &str, kind: &str) -> BTreeMap<String, String> {
    let Some(schema) = schema(revision) else { return BTreeMap::new() };
    let defined = &schema["$defs"];
    let name = |it: &Value| Some(it["$ref"].as_str()?.rsplit_once('/')?.1.to_owned());
    let names = match defined[kind]["anyOf"].as_array() {
        Some(several) => several.iter().filter_map(name).collect(),
        None => vec![kind.to_owned()],
    };
    let method = |name: &String| defined[name]["properties"]["method"]["const"].as_str().map(str::to_owned);
    names.into_iter().filter_map(|name| Some((method(&name)?, name))).collect()
}

fn schema(revision: &str) -> Option<Arc<Value>> {
    static READ: Mutex<BTreeMap<String, Option<Arc<Value>>>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let read = read.entry(revision.to_owned()).or_insert_with(|| {
        let path = format!("../../../shared/vectors/mcp-schema/schema/{revision}/schema.json");
        let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
        let schema = text.ok().and_then(|text| serde_json::from_slice(&text).ok());
        if schema.is_none() {
            crate::skip("no schemas of MCP in ../shared/vectors/mcp-schema");
        }
        schema.map(Arc::new)
    });
    read.clone()
}
