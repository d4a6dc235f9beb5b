//! The description of the interface says what is served, whole and consistent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use countersign_server::{ROUTES, openapi};
use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(openapi::text()).unwrap()
}

#[test]
fn it_is_openapi_3_1_and_names_every_route_and_no_other() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let served: HashSet<(String, String)> =
        ROUTES.iter().flat_map(|route| route.paths().map(|path| (route.method.to_string(), path))).collect();
    assert_eq!(described, served);
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_its_own_id() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50, "there are references to follow");
    for reference in references {
        let name = reference.strip_prefix("#/components/schemas/").expect("a reference to a schema");
        assert!(schemas.contains_key(name), "`{name}` is nowhere");
    }
    let mut ids = HashSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "`{id}` stands twice");
        }
    }
}

#[test]
fn every_answer_of_an_agent_is_described() {
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&document()["paths"]["/api/execute"]["post"]).unwrap()
    );
}

/// What the description names in a request is what the parser reads, and it reads nothing else.
#[test]
fn the_described_request_is_the_one_that_is_read() {
    let schema = document()["components"]["schemas"]["ExecuteRequest"].clone();
    let described: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    let mut body = serde_json::json!({
        "archetype": "PAYMENT_TRANSFER", "constraints": {}, "payment_mode": "IMMEDIATE_CHARGE",
        "delegation_token": "t", "deadline_ms": 1000, "idempotency_key": "k", "guarantee_level": "atp-2",
        "reversible": false, "retention": "7_years", "deletion": "hard_delete_8y", "repeat_of": "01963e5a-0000-7000-8000-000000000001",
        "retry_policy": {"max_retries": 1}, "agent_id": "agent-1", "session_id": "s", "human_approver": "alice", "client": {"fleet_id": "f"},
        "intent_id": "i", "action_sequence_number": 1, "confidence": 0.5, "self_assessment": "sure",
        "branches": [{"archetype": "PAYMENT_TRANSFER", "constraints": {}}], "resources": {"compute_units": 1},
    });
    let given: Vec<String> = body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(described.iter().collect::<HashSet<_>>(), given.iter().collect::<Vec<_>>().iter().collect());
    action::Request::from_value(body.clone()).expect("every described member is read");
    body["something_else"] = 1.into();
    assert!(action::Request::from_value(body).is_err());
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(reference) if name == "$ref" => references.push(reference.clone()),
                    _ => collect(value, references),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}
