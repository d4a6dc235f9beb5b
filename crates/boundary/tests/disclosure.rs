//! What is told of the policies in force, by level.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::load;
use countersign_boundary::{Disclosure, Level, Tier};

const POLICIES: &str = r#"
    @id("all") permit (principal, action, resource);
    @id("never") @tier("0-A") @regulation("EU 2024/1689") @description("Never.") forbid (principal, action in Action::"Data", resource);
    @id("firm") @tier("0-B") forbid (principal, action in Action::"Travel", resource);
    @id("ask") @escalate forbid (principal, action in Action::"Payments", resource);
    @id("odd") @tier("3") forbid (principal, action, resource) when { context.duplicate };"#;

fn told(level: Level) -> Disclosure {
    load(POLICIES, "[]").unwrap().disclose(level)
}

fn ids(disclosure: &Disclosure) -> Vec<&str> {
    disclosure.policies.iter().filter_map(|it| Some(&*it.about.as_ref()?.id)).collect()
}

#[test]
fn everything_in_force_is_counted_at_every_level() {
    for level in Level::ALL {
        let found = told(level);
        assert_eq!(found.policy_digest, *load(POLICIES, "[]").unwrap().policy_digest());
        let counts: Vec<usize> = found.counts.iter().map(|(_, count)| *count).collect();
        // Two of the baseline and one; one; one; the permits of all, of cycles, of transfers and of extensions; one.
        assert_eq!(counts, [3, 1, 1, 4, 1], "{level:?}");
        assert!(found.hard_denied >= 18);
        assert_eq!(Level::parse(level.as_str()), Some(level));
    }
}

#[test]
fn in_full_every_policy_is_told_with_its_text() {
    let found = told(Level::Full);
    let all = [
        "baseline-audit-trail",
        "baseline-governance",
        "never",
        "firm",
        "ask",
        "all",
        "default-budget-transfer",
        "default-execute-cycle",
        "default-extend-budget",
        "odd",
    ];
    assert_eq!(ids(&found), all);
    assert!(found.policies.iter().all(|it| it.text.as_ref().is_some_and(|text| text.contains("principal"))));
    let never = found.policies[2].about.as_ref().unwrap();
    assert_eq!(
        (never.regulation.as_deref(), never.description.as_deref()),
        (Some("EU 2024/1689"), Some("Never."))
    );
    assert_eq!((never.effect, never.escalates), ("forbid", false));
    assert!(
        found.hard_deny.contains(&"deleteauditlog".to_owned()) || found.hard_deny.len() == found.hard_denied
    );
}

#[test]
fn in_summary_only_tier_0_is_told_with_its_text() {
    let found = told(Level::Summary);
    assert_eq!(ids(&found).len(), 10);
    for policy in &found.policies {
        assert_eq!(policy.text.is_some(), policy.tier <= Tier::ZeroB, "{policy:?}");
    }
    assert_eq!(found.hard_deny.len(), found.hard_denied);
}

#[test]
fn redacted_tells_tiers_and_digests_alone() {
    let (found, full) = (told(Level::Redacted), told(Level::Full));
    assert!(found.policies.iter().all(|it| it.about.is_none() && it.text.is_none()));
    let digests =
        |it: &Disclosure| it.policies.iter().map(|it| (it.tier, it.digest.clone())).collect::<Vec<_>>();
    assert_eq!(digests(&found), digests(&full));
    assert!(found.hard_deny.is_empty());
}

#[test]
fn counts_alone_tell_nothing_else() {
    let found = told(Level::CountOnly);
    assert!(found.policies.is_empty() && found.hard_deny.is_empty());
}

#[test]
fn a_set_that_says_who_may_execute_cycles_has_no_stand_in() {
    let own =
        format!("{POLICIES} @id(\"mine\") permit (principal, action == Action::\"ExecuteCycle\", resource);");
    let found = load(&own, "[]").unwrap().disclose(Level::Full);
    assert!(ids(&found).contains(&"mine") && !ids(&found).contains(&"default-execute-cycle"));
    assert!(ids(&found).contains(&"default-budget-transfer"), "nothing was said of transfers");
}
