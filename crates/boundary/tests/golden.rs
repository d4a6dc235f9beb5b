//! The stages of a decision as receipts hold them. `GOLDEN=write` writes the files anew: strangers verify these bytes, so
//! a change of them is a decision.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{ALLOW_ALL, Governed, World, earlier, export, fly, pay, pay_with, series};
use countersign_boundary::{Decision, Named, decide_by_name};
use mandate::{IntentRefusal, ReasoningMode};
use serde_json::{Value, json};

#[test]
fn stages_outside_of_sessions_are_the_bytes_they_were() {
    let ask = r#"@id("all") permit (principal, action, resource);
        @id("ask") @escalate forbid (principal, action, resource);
        @id("odd") @tier("3") forbid (principal, action, resource);"#;
    let worlds = [
        ("usual", World::with(ALLOW_ALL)),
        ("asking", World { first_seen_destination: true, earlier: Some(earlier()), ..World::with(ask) }),
        ("frozen", World { frozen: Some("agent:agent-7".into()), ..World::with("") }),
        ("unmandated", World { mandate: None, ..World::with(ALLOW_ALL) }),
        ("odd", World { series: series(20, 1), observe: true, ..World::with("") }),
    ];
    let mut lines = Vec::new();
    for (name, world) in &worlds {
        let actions = [pay("100.00"), pay("6000.00"), pay_with(json!({"recipient": "a"})), export(), fly()];
        for (number, action) in actions.iter().enumerate() {
            lines.extend(told(&format!("{name} {number}"), world, &world.decide(action)));
        }
    }
    let world = World::with(ALLOW_ALL);
    let named = Named {
        environment: world.environment,
        archetype: "delete_audit_log",
        verb: None,
        target: None,
        caller: &world.caller,
        mandate: world.mandate.as_ref(),
        observe: false,
    };
    lines.extend(told("named", &world, &decide_by_name(&world.policies, &named).unwrap()));
    check("sessionless.txt", &lines);
}

#[test]
fn stages_of_cycles_say_what_each_step_found() {
    let usual = || Governed::usual(ReasoningMode::Chain);
    let mut lines = Vec::new();
    let mut add = |name: &str, policies: &str, governed: Governed| {
        let world = World { governed: Some(governed), ..World::with(policies) };
        lines.extend(told(name, &world, &world.decide(&pay("100.00"))));
    };
    add("usual", ALLOW_ALL, usual());
    add("unsure", ALLOW_ALL, Governed { confidence: Some("0.1"), ..usual() });
    add("undeclared", ALLOW_ALL, Governed { declaration: Err(IntentRefusal::Missing), ..usual() });
    let mut exhausted = usual();
    exhausted.context.remaining.time_seconds = 0;
    add("exhausted", ALLOW_ALL, exhausted);
    let tree = || Governed { branches: vec![export()], ..Governed::usual(ReasoningMode::Tree) };
    add("tree", ALLOW_ALL, tree());
    let never = format!(
        "{ALLOW_ALL} @id(\"never\") @tier(\"0-A\") forbid (principal, action in Action::\"Data\", resource);"
    );
    add("stopped", &never, tree());
    check("cycles.txt", &lines);
}

/// One line for each stage and one for the record; without the digest of the built-in catalogue and the engine's
/// version, which change with those.
fn told(name: &str, world: &World, decision: &Decision) -> Vec<String> {
    let stages = decision.stages.iter().map(|stage| serde_json::to_string(stage).unwrap());
    let record = String::from_utf8(decision.record.to_bytes()).unwrap();
    let mut kept: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(action::json::canonical(&kept), record);
    kept["engine"] = json!("ENGINE");
    sort_entities(&mut kept);
    stages
        .chain([action::json::canonical(&kept)])
        .map(|line| format!("{name}\t{}", line.replace(&**world.policies.catalog_digest(), "CATALOGUE")))
        .collect()
}

/// Their order is Cedar's, and no two runs agree on it.
fn sort_entities(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Array(entities)) = members.get_mut("entities") {
                entities.sort_by_key(action::json::canonical);
            }
            members.values_mut().for_each(sort_entities);
        }
        Value::Array(items) => items.iter_mut().for_each(sort_entities),
        _ => {}
    }
}

fn check(file: &str, lines: &[String]) {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = lines.join("\n") + "\n";
    if std::env::var_os("GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (now, then) in text.lines().zip(golden.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "{file}");
}
