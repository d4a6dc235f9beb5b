//! Who may extend the time budget of a mandate, by policy.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use action::{Environment, Subject, Tenant};
use common::{ALLOW_ALL, load};
use countersign_boundary::Extension;

/// Which policies say so, or say no.
fn asked(policies: &str, change: impl FnOnce(&mut Extension<'_>)) -> Result<Vec<String>, Vec<String>> {
    let (tenant, person) = (Tenant::default(), Subject::parse("olga").unwrap());
    let mut extension = Extension {
        environment: Environment::Production,
        tenant: &tenant,
        person: &person,
        role: "operator",
        mandate_id: "mnd_1",
        issuer: "alice",
        agent: "agent-1",
        seconds: 60,
        granted_seconds: 0,
        remaining_seconds: 0,
        awaited: true,
        now_ms: 1_777_291_200_000,
    };
    change(&mut extension);
    let ids = |policies: Vec<countersign_boundary::PolicyRef>| {
        policies.iter().map(|it| it.id.to_string()).collect()
    };
    extension.permitted(&load(policies, "[]").unwrap()).map(ids).map_err(|refused| ids(refused.policies))
}

#[test]
fn people_may_unless_a_policy_says_otherwise() {
    let told = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(asked(ALLOW_ALL, |_| {}), Ok(told(&["default-extend-budget"])));
    // What names no action is about the catalogue's, and not about this.
    assert_eq!(
        asked("@id(\"no\") forbid (principal, action, resource);", |_| {}),
        Ok(told(&["default-extend-budget"]))
    );
    let name = "action == Action::\"ExtendBudget\"";
    let most = format!("@id(\"most\") forbid (principal, {name}, resource) when {{ context.seconds > 60 }};");
    assert_eq!(asked(&most, |_| {}), Ok(told(&["default-extend-budget"])));
    assert_eq!(asked(&most, |it| it.seconds = 61), Err(told(&["most"])));
    let own = format!(
        "@id(\"own\") permit (principal == User::\"olga\", {name}, resource == Budget::\"mnd_1\")
         when {{ context.role == \"operator\" && context.awaited && context.mandate.issuer == \"alice\" }};"
    );
    assert_eq!(asked(&own, |_| {}), Ok(told(&["own"])));
    assert_eq!(asked(&own, |it| it.role = "approver"), Err(vec![]), "the default stands in for nothing then");
    assert_eq!(asked(&own, |it| it.mandate_id = "mnd_2"), Err(vec![]));
}

#[test]
fn doubt_and_a_wish_for_a_person_are_a_no() {
    let name = "action == Action::\"ExtendBudget\"";
    let errs = format!(
        "@id(\"errs\") forbid (principal, {name}, resource) when {{ context.seconds * 9223372036854775807 > 0 }};"
    );
    assert_eq!(asked(&errs, |_| {}), Err(vec![]), "Cedar alone would skip it");
    let asks = format!("@id(\"asks\") @escalate forbid (principal, {name}, resource);");
    assert_eq!(asked(&asks, |_| {}), Err(vec!["asks".to_owned()]));
    assert_eq!(asked(ALLOW_ALL, |it| it.seconds = 0), Err(vec![]));
}

#[test]
fn what_a_policy_on_it_cannot_know_is_a_mistake() {
    for wrong in ["context.amount.minor > 5", "context.cycle.sequence > 5", "context.seconds == \"5\""] {
        let text =
            format!("forbid (principal, action == Action::\"ExtendBudget\", resource) when {{ {wrong} }};");
        assert!(load(&text, "[]").is_err(), "{wrong}");
    }
}
