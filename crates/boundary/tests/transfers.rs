//! Time that goes from one member of a cluster to another, put to the policies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use action::{Catalogue, Environment, Subject, Tenant};
use common::{load, load_with, source};
use countersign_boundary::{Caller, Policies, Transfer, Unpermitted, may_transfer};
use mandate::{ClusterContext, ClusterState, Partner, Remaining, Resource};

const ALLOW_ALL: &str = "@id(\"all\") permit (principal, action, resource);";

fn cluster() -> ClusterContext {
    let partner = |session: &str| Partner {
        session_id: session.into(),
        remaining: Remaining::of_time(50),
        waits_for: None,
    };
    ClusterContext {
        cluster_id: "k-1".into(),
        members: vec![partner("s-1"), partner("s-2")],
        principals: vec!["alice".into(), "bob".into()],
        pool_seconds: 100,
        deadline_ms: i64::MAX,
        state: ClusterState::Active,
    }
}

/// Ids of the policies that permit it, or of those that do not.
fn asked(policies: &Policies, principals: [&str; 2], seconds: u64) -> Result<Vec<String>, Vec<String>> {
    asked_of(policies, principals, (Resource::Seconds, seconds))
}

fn asked_of(
    policies: &Policies,
    principals: [&str; 2],
    (resource, amount): (Resource, u64),
) -> Result<Vec<String>, Vec<String>> {
    let caller =
        Caller { tenant: Tenant::default(), subject: Subject::parse("agent-7").unwrap(), is_human: false };
    let transfer = Transfer {
        environment: Environment::Production,
        caller: &caller,
        cluster: &cluster(),
        target: "s-2",
        principals,
        left: [50, 50],
        depth: 1,
        resource,
        amount,
        now_ms: 0,
    };
    let ids = |policies: Vec<countersign_boundary::PolicyRef>| {
        policies.iter().map(|it| it.id.to_string()).collect()
    };
    may_transfer(policies, &transfer).map(ids).map_err(|Unpermitted { policies, .. }| ids(policies))
}

fn with(own: &str) -> Policies {
    load(&format!("{ALLOW_ALL}\n{own}"), "[]").unwrap()
}

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn where_no_policy_speaks_of_it_time_stays_with_its_principal() {
    let it = with("");
    assert_eq!(asked(&it, ["alice", "alice"], 50), Ok(names(&["default-budget-transfer"])));
    assert_eq!(asked(&it, ["alice", "bob"], 1), Err(Vec::new()));
    assert_eq!(asked(&it, ["alice", "alice"], 51), Err(Vec::new()), "more than is left");
    assert_eq!(it.policy_digest(), load(ALLOW_ALL, "[]").unwrap().policy_digest());
    assert!(it.rules().iter().all(|rule| &*rule.reference.id != "default-budget-transfer"));
}

#[test]
fn a_policy_that_names_it_is_asked_and_one_that_names_no_action_is_not() {
    let own = "@id(\"mine\") permit (principal, action == Action::\"BUDGET_TRANSFER\", resource == Session::\"s-2\")
               when { context.transfer_amount < 10 && context.cluster.principals == 2 };";
    let it = with(own);
    assert_eq!(asked(&it, ["alice", "bob"], 9), Ok(names(&["mine"])));
    assert_eq!(asked(&it, ["alice", "alice"], 10), Err(Vec::new()), "the other one no longer stands in");
    let none = with("@id(\"no\") forbid (principal, action, resource) when { context.duplicate };");
    assert_eq!(asked(&none, ["alice", "alice"], 1), Ok(names(&["default-budget-transfer"])));
}

#[test]
fn a_policy_sees_of_what_so_much_is_handed_on() {
    let own = "@id(\"bytes\") permit (principal, action == Action::\"BUDGET_TRANSFER\", resource)
               when { context.resource == \"storage_bytes\" && context.transfer_amount <= 10 };";
    let it = with(own);
    let asked = |resource, amount| asked_of(&it, ["alice", "bob"], (resource, amount));
    assert_eq!(asked(Resource::StorageBytes, 10), Ok(names(&["bytes"])));
    assert_eq!(asked(Resource::StorageBytes, 11), Err(Vec::new()));
    for other in [Resource::Seconds, Resource::ComputeUnits, Resource::EgressBytes] {
        assert_eq!(asked(other, 1), Err(Vec::new()), "{}", other.word());
    }
}

#[test]
fn whatever_forbids_it_is_named_and_nobody_is_asked() {
    let forbid = |annotations: &str| {
        format!(
            "@id(\"no\") {annotations} forbid (principal, action == Action::\"BUDGET_TRANSFER\", resource);"
        )
    };
    for annotations in ["", "@tier(\"0-A\")", "@tier(\"0-B\")", "@tier(\"1\") @escalate"] {
        assert_eq!(
            asked(&with(&forbid(annotations)), ["alice", "alice"], 1),
            Err(names(&["no"])),
            "{annotations}"
        );
    }
    let advice = with(&forbid("@tier(\"3\")"));
    assert!(asked(&advice, ["alice", "alice"], 1).is_ok(), "advice stops nothing");
}

#[test]
fn a_policy_that_fails_on_it_refuses_it() {
    let fails = "@id(\"odd\") forbid (principal, action == Action::\"BUDGET_TRANSFER\", resource)
                 when { context.transfer_amount * 9223372036854775807 == 0 };";
    assert_eq!(asked(&with(fails), ["alice", "alice"], 1), Ok(names(&["default-budget-transfer"])));
    assert_eq!(asked(&with(fails), ["alice", "alice"], 2), Err(Vec::new()), "it overflows");
}

#[test]
fn no_archetype_goes_by_its_name() {
    let text = "name = \"BUDGET_TRANSFER\"\nreversible = true\ndescription = \"A test\"\nguarantee_level = \"atp-1\"\n\
         [cedar]\ngroups = [\"Test\"]\nresource_type = \"Thing\"\n[schema]\nrequired = [\"to\"]\n\
         [schema.properties.to]\ndescription = \"Where to\"\ntype = \"string\"\nx-identifier = true\nexamples = [\"x\"]\n";
    let catalogue = Catalogue::load(true, &[source("test.toml", text)]).unwrap();
    let mistakes = load_with(ALLOW_ALL, "[]", &catalogue).unwrap_err();
    assert!(mistakes[0].message.contains("`BUDGET_TRANSFER`"), "{mistakes:?}");
}
