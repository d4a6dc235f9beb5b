//! What a decision comes to: order of blocks, escalations, observe mode.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use action::{ActionId, Catalogue, Subject};
use common::{
    ALLOW_ALL, NOON, World, action, action_of, claims, earlier, export, fly, load_with, pay, pay_with,
    series, source, told, usd,
};
use countersign_boundary::{Facts, Named, Series, Verdict, decide, decide_by_name};
use mandate::{Account, Claims, Mandate};
use serde_json::{Value, json};

#[test]
fn an_ordinary_payment_passes_with_a_permit_for_exactly_it() {
    let world = World::with(ALLOW_ALL);
    let Verdict::Pass(permit) = world.decide(&pay("100.00")).verdict else { panic!() };
    assert_eq!(permit.request_hash(), &[1; 32]);
    assert_eq!(permit.mandate_epoch(), Some(0));
    assert_eq!(permit.policy_digest(), world.policies.policy_digest());
    assert!(permit.is_valid_at(NOON + 29_999) && !permit.is_valid_at(NOON + 30_000));
}

/// Everything that the mandate itself allows, some mandate above it may not.
#[test]
fn each_mandate_of_the_chain_must_carry_the_action() {
    let leaf = Claims { delegation_chain: Some(vec!["root".into(), "middle".into()]), ..claims() };
    let world = World { mandate: Some(Mandate::of(&leaf).unwrap()), ..World::with(ALLOW_ALL) };
    let (action, fine) = (pay("100.00"), Mandate::of(&claims()).unwrap());
    let decided = |middle: &Mandate, account: &Account| {
        let untouched = Account::new("root");
        let ancestors = [(middle, account), (&fine, &untouched)];
        decide(&world.policies, &Facts { ancestors: &ancestors, ..world.facts(&action) })
    };
    let with = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        Mandate::of(&claims).unwrap()
    };
    let account = Account::new("middle");
    let carried = decided(&fine, &account);
    assert_eq!(told(&carried), "pass");
    let token = serde_json::to_value(&carried.stages[0].input).unwrap();
    assert_eq!(token["chain"], json!(["root", "middle"]));
    let Verdict::Pass(permit) = decided(&with(|it| it.exp = NOON / 1000 + 5), &account).verdict else {
        panic!()
    };
    assert_eq!(
        permit.valid_until_ms(),
        NOON + 5_000,
        "a permit ends with the first mandate that it rests on"
    );
    for (expected, middle, account) in [
        ("block mandate_expired", with(|it| it.exp = NOON / 1000), account.clone()),
        ("block out_of_scope", with(|it| it.mandate_scope = vec!["Data".into()]), account.clone()),
        ("block resource_outside", with(|it| it.resources = Some(vec!["x".into()])), account.clone()),
        ("block mandate_revoked", fine.clone(), account.revoke(1)),
        ("block mandate_frozen", fine.clone(), Account { frozen: true, ..account.clone() }),
        ("block cap_exceeded", fine.clone(), Account { spent_minor: 9_999_999, ..account.clone() }),
        ("block actions_used_up", with(|it| it.max_actions = Some(0)), account.clone()),
        (
            "escalate mandate_requires_approval",
            with(|it| it.requires_approval = Some(vec!["Payments".into()])),
            account.clone(),
        ),
    ] {
        assert_eq!(told(&decided(&middle, &account)), expected);
    }
}

#[test]
fn nothing_is_permitted_that_no_policy_permits() {
    World::with("").check(&pay("100.00"), "block not_permitted");
}

/// Everything that can block does at once; taken away one by one, from the first in entry order to the last.
#[test]
fn the_first_block_in_entry_order_is_the_verdict() {
    let catalogue = catalogue("name = \"DELETE_AUDIT_LOG\"");
    let anomalous = series(20, 1);
    let request =
        |archetype: &str, constraints: Value| json!({"archetype": archetype, "constraints": constraints});
    let incomplete = action_of(request("DELETE_AUDIT_LOG", json!({"amount": "100.00"})), &catalogue);
    let mut world = World {
        series: anomalous,
        frozen: Some("all".into()),
        earlier: Some(earlier()),
        mandate: Some(Mandate::of(&Claims { sub: "other".into(), ..claims() }).unwrap()),
        ..World::of(load_with("", "[]", &catalogue).unwrap())
    };
    world.check(&incomplete, "block hard_denied");

    let catalogue = self::catalogue("name = \"TEST\"");
    world.policies = load_with("", "[]", &catalogue).unwrap();
    let incomplete = action_of(request("TEST", json!({"amount": "100.00"})), &catalogue);
    world.check(&incomplete, "block wrong_subject");
    world.mandate =
        Some(Mandate::of(&Claims { mandate_scope: vec!["Payments".into()], ..claims() }).unwrap());
    world.check(&incomplete, "block frozen");
    world.frozen = None;
    world.check(&incomplete, "block out_of_scope");
    world.mandate = Some(Mandate::of(&claims()).unwrap());
    world.check(&incomplete, "block incomplete");
    let complete = action_of(request("TEST", json!({"amount": "100.00", "to": "x"})), &catalogue);
    world.check(&complete, "block not_permitted");
    world.policies = load_with(ALLOW_ALL, "[]", &catalogue).unwrap();
    world.check(&complete, "block anomaly");
    world.series = series(20, 10_000);
    world.check(&complete, "block probable_duplicate");
    world.earlier = None;
    world.check(&complete, "pass");
}

#[test]
fn a_block_ends_the_stages_and_alone_carries_the_error() {
    let names = |world: &World, action: &action::Action| -> Vec<(&'static str, Option<&'static str>)> {
        let stages = world.decide(action).stages;
        stages.iter().map(|stage| (stage.name.as_str(), stage.error.map(|error| error.reason))).collect()
    };
    let world = World::with(ALLOW_ALL);
    let all = ["token_validation", "schema", "boundary", "completeness", "math"];
    assert_eq!(names(&world, &pay("100.00")), all.map(|name| (name, None)));
    let incomplete = pay_with(json!({"recipient": "acct-1"}));
    let found = names(&world, &incomplete);
    assert_eq!(found.len(), 4);
    assert_eq!(found.last(), Some(&("completeness", Some("incomplete"))));
    let found = names(&World { frozen: Some("all".into()), ..World::with(ALLOW_ALL) }, &pay("100.00"));
    assert_eq!(found.last(), Some(&("boundary", Some("frozen"))));
    let expired = World { now_ms: 4_000_000_000_000, ..World::with(ALLOW_ALL) };
    assert_eq!(names(&expired, &pay("100.00")), [("token_validation", Some("mandate_expired"))]);
}

#[test]
fn a_hard_denied_name_needs_no_archetype() {
    let world = World::with(ALLOW_ALL);
    let named = |archetype, verb, target| Named {
        environment: world.environment,
        archetype,
        verb,
        target,
        caller: &world.caller,
        mandate: world.mandate.as_ref(),
        observe: true,
    };
    let decision =
        decide_by_name(&world.policies, &named("mcp/server/Delete-Audit.Log", None, None)).unwrap();
    assert_eq!(common::told(&decision), "block hard_denied");
    let stages: Vec<&str> = decision.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(stages, ["token_validation", "boundary"]);
    assert!(decide_by_name(&world.policies, &named("X", Some("rotate"), Some("master-key"))).is_some());
    assert!(decide_by_name(&world.policies, &named("PAYMENT_TRANSFER", None, None)).is_none());
    assert!(
        decide_by_name(&world.policies, &named("PAYMENT_TRANSFER", Some("disable"), Some("boundary")))
            .is_some()
    );
    let payment = pay("100.00");
    let mut facts = world.facts(&payment);
    (facts.verb, facts.target) = (Some("disable"), Some("boundary"));
    assert_eq!(common::told(&decide(&world.policies, &facts)), "block hard_denied");
}

#[test]
fn without_a_mandate_only_the_harmless_goes_to_cedar() {
    let look = action_of(json!({"archetype": "HARMLESS", "constraints": {"to": "x"}}), &harmless());
    let world = World { mandate: None, ..World::of(load_with(ALLOW_ALL, "[]", &harmless()).unwrap()) };
    world.check(&look, "pass");
    let world = World { mandate: None, ..World::with(ALLOW_ALL) };
    world.check(&pay("1.00"), "block no_mandate");
    world.check(&export(), "block no_mandate");
    world.check(&fly(), "block no_mandate");
    let refused = World { mandate_refusal: Some(mandate::Refusal::BadSignature), ..world };
    refused.check(&pay("1.00"), "block mandate_bad_signature");
}

#[test]
fn a_price_is_asked_before_anything_is_permitted() {
    let cheap = r#"permit (principal, action, resource) when { context has amount && context.amount.minor <= 50000 };"#;
    let mut world = World::with(cheap);
    world.check(&fly(), "quote");
    world.series = series(20, 40_000);
    world.check(&fly().with_quote(usd(50_000)), "pass");
    world.check(&fly().with_quote(usd(50_001)), "block not_permitted");
    world.check(&fly().with_quote(usd(90_001)), "block over_own_bound");
    World::with("").check(&fly(), "block not_permitted");
    World::with(r#"@id("no") forbid (principal, action, resource);"#).check(&fly(), "block forbidden");
}

#[test]
fn every_reason_to_ask_a_person_is_told() {
    let ask = r#"@id("all") permit (principal, action, resource);
        @id("ask") @escalate forbid (principal, action, resource);"#;
    let approving = Claims { requires_approval: Some(vec!["Payments".into()]), ..claims() };
    let world = World {
        mandate: Some(Mandate::of(&approving).unwrap()),
        series: Series::default(),
        first_seen_destination: true,
        earlier: Some(earlier()),
        ..World::with(ask)
    };
    let payment = action(json!({"archetype": "PAYMENT_TRANSFER", "guarantee_level": "atp-3",
        "constraints": {"recipient": "acct-1", "amount_usd": "5000.01", "max_total_usd": "6000.00"}}));
    world.check(
        &payment,
        "escalate irreversible cold_start first_seen_destination policy mandate_requires_approval guarantee_level \
         probable_duplicate",
    );
    let Verdict::Escalate(escalation) = world.decide(&payment).verdict else { panic!() };
    assert_eq!(escalation.classes().iter().map(|class| *class as u8).collect::<Vec<_>>(), [4, 6, 9]);
    let asking: Vec<&str> =
        escalation.triggers.iter().flat_map(|it| it.policies()).map(|it| &*it.id).collect();
    assert_eq!(asking, ["ask"]);
}

#[test]
fn a_block_is_stronger_than_any_reason_to_ask() {
    let both = r#"permit (principal, action, resource);
        @escalate forbid (principal, action, resource);
        @id("no") forbid (principal, action, resource) when { context.environment == "production" };"#;
    World::with(both).check(&pay("100.00"), "block forbidden");
}

#[test]
fn who_could_not_agree_to_it_is_not_asked() {
    let ask = r#"@id("ask") @escalate forbid (principal, action, resource);"#;
    let decision = World::with(ask).decide(&pay("100.00"));
    assert_eq!(common::told(&decision), "block not_permitted");
    let boundary = serde_json::to_value(&decision.stages[2].output).unwrap();
    assert_eq!(boundary["cedar"]["policies"], json!([]), "the policy that asks is not what stops it");
    // What is permitted below a price may be, once the price is known.
    let cheap = format!(
        "{ask} permit (principal, action, resource) when {{ context has amount && context.amount.minor <= 50000 }};"
    );
    let world = World { series: series(20, 40_000), ..World::with(&cheap) };
    world.check(&fly(), "quote");
    world.check(&fly().with_quote(usd(50_000)), "escalate policy");
    world.check(&fly().with_quote(usd(50_001)), "block not_permitted");
}

#[test]
fn a_declared_repetition_is_left_to_policy() {
    let earlier = earlier();
    let repeat = |id: ActionId| {
        action(json!({"archetype": "PAYMENT_TRANSFER", "repeat_of": id.to_string(),
            "constraints": {"recipient": "acct-1", "amount_usd": "100.00", "max_total_usd": "100.00"}}))
    };
    let world = World { earlier: Some(earlier), ..World::with(ALLOW_ALL) };
    world.check(&pay("100.00"), "escalate probable_duplicate");
    world.check(&repeat(earlier.id), "pass");
    world.check(&repeat(ActionId::new(1, [0; 10])), "escalate probable_duplicate");
    let never = r#"permit (principal, action, resource);
        forbid (principal, action, resource) when { context has repeat_of };"#;
    World { earlier: Some(earlier), ..World::with(never) }.check(&repeat(earlier.id), "block forbidden");
}

#[test]
fn observe_mode_lifts_what_it_may_and_nothing_else() {
    let observing = |policies: &str| World { observe: true, ..World::with(policies) };
    let payment = pay("100.00");
    // Lifted.
    observing("").check(&payment, "pass [block not_permitted]");
    observing(r#"forbid (principal, action, resource);"#).check(&payment, "pass [block forbidden]");
    observing(r#"@tier("1") forbid (principal, action, resource);"#)
        .check(&payment, "pass [block forbidden]");
    let ask = r#"permit (principal, action, resource); @escalate forbid (principal, action, resource);"#;
    observing(ask).check(&payment, "pass [escalate policy]");
    World { series: series(20, 1), ..observing(ALLOW_ALL) }.check(&payment, "pass [block anomaly]");
    World { earlier: Some(earlier()), ..observing(ALLOW_ALL) }
        .check(&payment, "pass [escalate probable_duplicate]");
    let atp3 = action(json!({"archetype": "PAYMENT_TRANSFER", "guarantee_level": "atp-3",
        "constraints": {"recipient": "acct-1", "amount_usd": "100.00", "max_total_usd": "100.00"}}));
    observing(ALLOW_ALL).check(&atp3, "pass [escalate guarantee_level]");
    // Kept.
    World { frozen: Some("all".into()), ..observing(ALLOW_ALL) }.check(&payment, "block frozen");
    World { mandate: None, ..observing(ALLOW_ALL) }.check(&payment, "block no_mandate");
    observing(ALLOW_ALL).check(&pay("200000.00"), "block cap_exceeded");
    observing(ALLOW_ALL).check(&pay_with(json!({"recipient": "a"})), "block incomplete");
    let zero_a = r#"@tier("0-A") forbid (principal, action, resource);"#;
    observing(zero_a).check(&payment, "block prohibited");
    let zero_b = r#"@tier("0-B") forbid (principal, action, resource);"#;
    observing(zero_b).check(&payment, "block forbidden");
    observing(ERRING).check(&payment, "block policy_error");
    let mut dear = World { series: series(20, 600_000), ..observing("") };
    dear.check(&pay("6000.00"), "escalate irreversible [block not_permitted]");
    dear.observe = false;
    dear.check(&pay("6000.00"), "block not_permitted");
    // Nothing to lift, nothing observed.
    observing(ALLOW_ALL).check(&payment, "pass");
}

/// Types, and fails for amounts near the limit of whole numbers.
const ERRING: &str = r#"@id("all") permit (principal, action, resource);
    @id("erring") forbid (principal, action in Action::"Payments", resource)
    when { context has amount && context.amount.minor * 9223372036854775807 < 0 };"#;

#[test]
fn a_policy_that_fails_is_a_block_and_its_message_private() {
    let decision = World::with(ERRING).decide(&pay("100.00"));
    assert_eq!(common::told(&decision), "block policy_error");
    assert!(decision.detail.unwrap().contains("overflow"));
    let advice = ERRING.replace("@id(\"erring\")", "@id(\"erring\") @tier(\"3\")");
    World::with(&advice).check(&pay("100.00"), "pass");
    let prohibition = ERRING.replace("@id(\"erring\")", "@id(\"erring\") @tier(\"0-A\")");
    World::with(&prohibition).check(&pay("100.00"), "block policy_error");
}

#[test]
fn the_baseline_prohibits_what_governs_agents() {
    let catalogue = catalogue(
        "name = \"SET_POLICY\"\n[cedar]\ngroups = [\"Test\", \"Governance\"]\nresource_type = \"Thing\"",
    );
    let change = action_of(
        json!({"archetype": "SET_POLICY", "constraints": {"amount": "100.00", "to": "x"}}),
        &catalogue,
    );
    let mut world = World::of(load_with(ALLOW_ALL, "[]", &catalogue).unwrap());
    world.check(&change, "block prohibited");
    world.observe = true;
    world.check(&change, "block prohibited");
    world.observe = false;
    world.caller.is_human = true;
    world.check(&change, "pass");
}

#[test]
fn advice_is_recorded_and_not_enforced() {
    let advice = r#"permit (principal, action, resource);
        @id("odd") @tier("3") forbid (principal, action, resource);"#;
    let decision = World::with(advice).decide(&pay("100.00"));
    assert_eq!(common::told(&decision), "pass");
    let boundary = serde_json::to_value(&decision.stages[2].output).unwrap();
    assert_eq!(boundary["cedar"]["advice"][0]["id"], "odd");
}

#[test]
fn policies_of_another_catalogue_decide_nothing() {
    let known = harmless();
    let look = action_of(json!({"archetype": "HARMLESS", "constraints": {"to": "x"}}), &known);
    World::with(ALLOW_ALL).check(&look, "block policy_error");
}

#[test]
fn stages_are_canonical_as_they_stand() {
    let worlds = [
        World::with(ALLOW_ALL),
        World { frozen: Some("agent:x".into()), ..World::with("") },
        World { mandate: None, earlier: Some(earlier()), observe: true, ..World::with(ERRING) },
    ];
    for world in worlds {
        for action in [pay("100.00"), export(), fly(), pay_with(json!({}))] {
            for stage in world.decide(&action).stages {
                let plain = serde_json::to_string(&stage).unwrap();
                assert_eq!(plain, action::json::canonical(&serde_json::from_str(&plain).unwrap()));
            }
        }
    }
}

#[test]
fn the_caller_of_an_anomaly_learns_nothing_more() {
    let decision = World { series: series(20, 1), ..World::with(ALLOW_ALL) }.decide(&pay("100.00"));
    assert_eq!(decision.detail.as_deref(), Some("anomaly: distance"));
    let math = serde_json::to_string(&decision.stages[4]).unwrap();
    assert!(!math.contains("distance") && !math.contains("10000"), "{math}");
    assert!(math.contains(r#""mad":"0","median":"1","n":20"#), "{math}");
}

#[test]
fn a_person_is_a_user_and_an_agent_an_agent() {
    let people = r#"permit (principal is User, action, resource) when { principal in Tenant::"default" };"#;
    let mut world = World::with(people);
    world.check(&pay("100.00"), "block not_permitted");
    world.caller.is_human = true;
    world.check(&pay("100.00"), "pass");
    world.caller.subject = Subject::parse("agent-8").unwrap();
    world.check(&pay("100.00"), "block wrong_subject");
}

/// An archetype with money and a required member, blocking duplicates, after the given head.
fn catalogue(head: &str) -> Catalogue {
    let cedar = if head.contains("[cedar]") {
        ""
    } else {
        "[cedar]\ngroups = [\"Test\"]\nresource_type = \"Thing\"\n"
    };
    let (head, table) =
        head.split_once("\n[").map_or((head, String::new()), |(head, rest)| (head, format!("[{rest}\n")));
    let reversible = if head.contains("reversible") { "" } else { "reversible = true\n" };
    let text = format!(
        "{head}\n{reversible}description = \"A test\"\nguarantee_level = \"atp-1\"\ndestination = \"/to\"\nidentity = [\"/to\"]\n{table}{cedar}\
         [money]\namount = \"/amount\"\ncurrency = \"USD\"\n[duplicate]\nwindow = \"10m\"\non = \"block\"\n\
         [schema]\nrequired = [\"to\", \"amount\"]\n\
         [schema.properties.to]\ndescription = \"Where to\"\ntype = \"string\"\nx-identifier = true\nexamples = [\"x\"]\n\
         [schema.properties.amount]\ndescription = \"How much\"\ntype = \"string\"\nexamples = [\"1.00\"]\n"
    );
    Catalogue::load(true, &[source("test.toml", &text)]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn harmless() -> Catalogue {
    let text = "name = \"HARMLESS\"\nreversible = true\ndescription = \"A test\"\nguarantee_level = \"atp-1\"\n\
         [cedar]\ngroups = [\"Test\"]\nresource_type = \"Thing\"\n[schema]\nrequired = [\"to\"]\n\
         [schema.properties.to]\ndescription = \"Where to\"\ntype = \"string\"\nx-identifier = true\nexamples = [\"x\"]\n";
    Catalogue::load(true, &[source("test.toml", text)]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}
