//! Actions of an archetype whose schema somebody else wrote: judged by what is mapped, carried out with all that was sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use receipt::Timestamp;
use serde_json::{Value, json};

use crate::approvals::approver;
use crate::house::{House, Said};

const TOOL: &str = r#"
name = "mcp/notes/add_note"
description = "Add a note"
mapped = ["folder", "priority"]
public = ["priority"]
display = ["priority"]
resource = "/folder"
approval = "key"
input_schema = '''{
  "type": "object", "required": ["folder", "body"],
  "properties": {
    "folder": {"type": "string", "description": "Where it goes"},
    "priority": {"type": "integer"},
    "body": {"type": "string", "description": "Its text", "examples": ["Buy milk"]}
  }
}'''

[cedar]
groups = ["Payments"]

[binding]
provider = "sandbox"

[binding.capabilities]
idempotent = { retention_seconds = 86400 }
queryable = { by_our_reference = true, final_after_seconds = 0 }
"#;

fn note(house: &House, constraints: &Value) -> Value {
    json!({"archetype": "mcp/notes/add_note", "constraints": constraints, "delegation_token": house.token})
}

async fn added(house: &House, key: &str, constraints: &Value) -> Said {
    house.said(key, &note(house, constraints)).await
}

#[tokio::test]
async fn a_call_is_complete_with_what_is_there_though_it_be_empty() {
    let house = House::bound(TOOL, |_| {}).await;
    let said = added(&house, "k-1", &json!({"folder": "inbox"})).await;
    assert_eq!((said.kind(), &said.body["code"]), ("blocked", &json!("EP_INCOMPLETE")));
    let missing =
        json!([{"field": "/body", "type": "string", "description": "Its text", "example": "Buy milk"}]);
    assert_eq!(said.body["details"]["missing"], missing);
    let said = added(&house, "k-2", &json!({"folder": "", "body": ""})).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    let refused = house.send("k-3", &note(&house, &json!({"folder": "inbox", "body": 7}))).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("/constraints/body"));
}

#[tokio::test]
async fn what_nobody_permits_could_not_be_used_until_somebody_does_or_only_observes() {
    let house = House::bound(TOOL, |_| {}).await;
    let gateway = house.gateway();
    let could = |archetype| gateway.could_use(&house.agent, archetype);
    assert!(could("mcp/notes/add_note") && !could("DATA_EXPORT") && !could("mcp/notes/no_such"));
    assert!(!gateway.could_use(&house.admin, "mcp/notes/add_note"), "whose role asks for nothing");
    house.write(
        "policies/default/payments.cedar",
        "permit (principal, action in Action::\"Data\", resource) when { context has bound };",
    );
    gateway.reload(&house.admin).await.unwrap();
    assert!(!could("mcp/notes/add_note") && could("DATA_EXPORT"));
    let tomorrow = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(86_400);
    let tomorrow = Timestamp::from_unix_millis(tomorrow.as_millis().try_into().unwrap());
    gateway.observe(&house.admin, Some(tomorrow.to_string())).await.unwrap();
    assert!(could("mcp/notes/add_note") && !could("mcp/notes/no_such"));
}

#[tokio::test]
async fn people_see_the_names_that_an_agent_thought_of_and_equal_calls_wait_for_them() {
    let house = House::bound(TOOL, |_| {}).await;
    let (gateway, anna) = (house.gateway(), approver(&house, "anna"));
    let constraints = json!({
        "folder": "inbox", "body": "e\u{301}\u{200b}\nfree text", "priority": 2, "x\n\u{202e}y": {"deep": [1.5]},
    });
    assert_eq!(added(&house, "first", &constraints).await.kind(), "executed");
    let mut other = constraints.clone();
    other["x\n\u{202e}y"]["deep"] = json!([1.25]);
    assert_eq!(added(&house, "other", &other).await.kind(), "executed", "not the same call");
    let waits = added(&house, "second", &constraints).await;
    assert_eq!(waits.kind(), "held", "{}", waits.body);

    let held = gateway.held(&anna, None, 10).await.unwrap().items.remove(0);
    assert_eq!(held.reasons, ["probable_duplicate"]);
    assert_eq!(held.parameters, constraints, "as it came, and as it is carried out");
    let names = |asked: &[countersign_gateway::Asked]| -> Vec<String> {
        asked.iter().map(|it| it.name.clone()).collect()
    };
    assert_eq!(names(&held.summary.facts), ["priority"]);
    assert_eq!(names(&held.summary.words), ["folder", "body", "\\u{78}\\u{a}\\u{202e}\\u{79}"]);

    gateway.approve(&anna, waits.id(), None).await.unwrap();
    let done = house.settled("second", &note(&house, &constraints)).await;
    let receipt = house.verified(done.body["receipt"].as_str().unwrap()).await;
    let entries = receipt["entries"].as_array().unwrap();
    let shown = &entries.iter().find(|it| it["stage"] == "schema").unwrap()["input"]["constraints"];
    assert_eq!(shown["priority"], 2);
    assert!(shown["body"].as_str().unwrap().starts_with("c:"));
    assert_eq!(gateway.replay(&house.operator, done.id()).await.unwrap().result, "same");
}
