//! A record is enough to decide again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{ALLOW_ALL, World, earlier, export, fly, load, pay, pay_with, series};
use countersign_boundary::{Named, decide_by_name, replay};
use serde_json::json;

const ESCALATING: &str = r#"permit (principal, action, resource);
    @id("ask") @escalate forbid (principal, action, resource) when { context.first_seen_destination };"#;

#[test]
fn the_same_policies_agree_on_every_kind_of_decision() {
    let worlds = [
        World::with(ALLOW_ALL),
        World::with(""),
        World { first_seen_destination: true, ..World::with(ESCALATING) },
        World { frozen: Some("all".into()), ..World::with(ALLOW_ALL) },
        World { mandate: None, ..World::with(ALLOW_ALL) },
        World { series: series(20, 1), earlier: Some(earlier()), ..World::with(ALLOW_ALL) },
        World { observe: true, series: series(20, 1), earlier: Some(earlier()), ..World::with("") },
    ];
    for world in worlds {
        for action in [pay("100.00"), pay("6000.00"), pay_with(json!({"recipient": "a"})), export(), fly()] {
            let decision = world.decide(&action);
            let bytes = decision.record.to_bytes();
            let again = replay(&bytes, &world.policies).unwrap();
            assert_eq!(again.differences, [], "{}", common::told(&decision));
            assert!(again.agrees());
            let verdict = decision.verdict.word();
            // A record knows nothing of quotes: before one, nothing spoke against the action.
            assert!(again.then.starts_with(verdict) || verdict == "quote", "{} {verdict}", again.then);
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(text, action::json::canonical(&serde_json::from_str(&text).unwrap()));
        }
    }
}

#[test]
fn other_policies_are_told_apart() {
    let decision = World::with(ALLOW_ALL).decide(&pay("100.00"));
    let stricter = load(r#"@id("no") forbid (principal, action, resource);"#, "[]").unwrap();
    let comparison = replay(&decision.record.to_bytes(), &stricter).unwrap();
    assert_eq!((comparison.then.as_str(), comparison.now.as_str()), ("pass", "block forbidden"));
    let what: Vec<&str> = comparison.differences.iter().map(|difference| difference.what).collect();
    assert_eq!(what, ["verdict", "cedar", "policies", "policy digest"]);
    assert!(!comparison.agrees());
}

#[test]
fn what_was_true_then_stays_true() {
    let frozen = World { frozen: Some("all".into()), ..World::with("") };
    let record = frozen.decide(&pay("100.00")).record.to_bytes();
    let comparison = replay(&record, &load(ALLOW_ALL, "[]").unwrap()).unwrap();
    assert_eq!((comparison.then.as_str(), comparison.now.as_str()), ("block frozen", "block frozen"));
    assert_eq!(comparison.differences.first().unwrap().what, "cedar");
}

#[test]
fn the_entities_of_then_decide() {
    let text = r#"permit (principal in AgentGroup::"payers", action, resource);"#;
    let entities = r#"[{"uid": {"type": "Agent", "id": "agent-7"}, "attrs": {}, "parents": [{"type": "AgentGroup", "id": "payers"}]}]"#;
    let then = load(text, entities).unwrap();
    let record = World::of(then).decide(&pay("100.00")).record.to_bytes();
    let comparison = replay(&record, &load(text, "[]").unwrap()).unwrap();
    assert!(comparison.agrees());
    assert_eq!(comparison.differences.first().unwrap().what, "entity digest");
}

#[test]
fn a_hard_denied_name_is_replayed_without_a_question() {
    let world = World::with(ALLOW_ALL);
    let named = Named {
        environment: world.environment,
        archetype: "delete_audit_log",
        verb: None,
        target: None,
        caller: &world.caller,
        mandate: None,
        observe: false,
    };
    let record = decide_by_name(&world.policies, &named).unwrap().record.to_bytes();
    let comparison = replay(&record, &world.policies).unwrap();
    assert_eq!((comparison.now.as_str(), comparison.differences.len()), ("block hard_denied", 0));
}

#[test]
fn what_is_no_record_is_refused() {
    let policies = load("", "[]").unwrap();
    assert!(replay(b"", &policies).is_err());
    assert!(replay(b"{}", &policies).is_err());
    let record = String::from_utf8(World::with("").decide(&pay("1.00")).record.to_bytes()).unwrap();
    assert!(replay(record.replace(r#""v":1"#, r#""v":3"#).as_bytes(), &policies).is_err());
}
