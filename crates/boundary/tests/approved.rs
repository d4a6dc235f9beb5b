//! An action that waited is judged again: exactly what people agreed to is left out, and whatever is new is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use action::{Action, ActionId, Catalogue};
use common::{ALLOW_ALL, World, action, action_of, claims, earlier, load, load_with, pay, series, source};
use countersign_boundary::{Approved, Series, Trigger, Verdict, replay};
use mandate::{ApprovedLimits, Claims, Mandate, exposure};
use serde_json::json;

const ASK: &str = r#"@id("all") permit (principal, action, resource);
    @id("ask") @escalate forbid (principal, action, resource);"#;

/// What people agree to when they agree to everything that holds the action.
fn agreed(world: &World, action: &Action) -> Approved {
    let Verdict::Escalate(escalation) = world.decide(action).verdict else { panic!("it is not held") };
    Approved {
        triggers: escalation.triggers,
        mandate: world.mandate.as_ref().map(|mandate| mandate.jti.clone()),
        amount: exposure(action),
        limits: ApprovedLimits::default(),
    }
}

fn approving() -> Option<Mandate> {
    Some(Mandate::of(&Claims { requires_approval: Some(vec!["Payments".into()]), ..claims() }).unwrap())
}

fn atp3() -> Action {
    action(json!({"archetype": "PAYMENT_TRANSFER", "guarantee_level": "atp-3",
        "constraints": {"recipient": "acct-1", "amount_usd": "100.00", "max_total_usd": "100.00"}}))
}

fn careful() -> Catalogue {
    let text = "name = \"PAYMENT_TRANSFER\"\nextends = \"builtin\"\nrequires_approval = true\n";
    Catalogue::load(true, &[source("payment.toml", text)]).unwrap()
}

/// One world for each reason to ask a person, and an action that has only this reason.
fn worlds() -> Vec<(&'static str, World, Action)> {
    let usual = |world: World| World { series: series(20, 10_000), ..world };
    vec![
        ("irreversible", World { series: series(20, 600_000), ..World::with(ALLOW_ALL) }, pay("6000.00")),
        ("cold_start", World { series: Series::default(), ..World::with(ALLOW_ALL) }, pay("1500.00")),
        (
            "first_seen_destination",
            World { series: series(20, 150_000), first_seen_destination: true, ..World::with(ALLOW_ALL) },
            pay("1500.00"),
        ),
        ("policy", World::with(ASK), pay("100.00")),
        (
            "archetype_requires_approval",
            World::of(load_with(ALLOW_ALL, "[]", &careful()).unwrap()),
            action_of(
                json!({"archetype": "PAYMENT_TRANSFER",
                    "constraints": {"recipient": "acct-1", "amount_usd": "100.00", "max_total_usd": "100.00"}}),
                &careful(),
            ),
        ),
        (
            "mandate_requires_approval",
            World { mandate: approving(), ..World::with(ALLOW_ALL) },
            pay("100.00"),
        ),
        ("guarantee_level", usual(World::with(ALLOW_ALL)), atp3()),
        ("probable_duplicate", World { earlier: Some(earlier()), ..World::with(ALLOW_ALL) }, pay("100.00")),
    ]
}

#[test]
fn every_reason_is_left_out_when_it_was_agreed_to_and_no_other_with_it() {
    let all = worlds();
    let every: Vec<Approved> = all.iter().map(|(_, world, action)| agreed(world, action)).collect();
    for (number, (word, mut world, action)) in worlds().into_iter().enumerate() {
        world.check(&action, &format!("escalate {word}"));
        for (other, approved) in every.iter().enumerate() {
            world.approved = Some(Approved { amount: exposure(&action), ..approved.clone() });
            let expected = if other == number { "pass".to_owned() } else { format!("escalate {word}") };
            world.check(&action, &expected);
        }
    }
}

#[test]
fn words_read_back_as_the_triggers_they_were() {
    for (word, world, action) in worlds() {
        for trigger in agreed(&world, &action).triggers {
            let read = Trigger::read(trigger.word(), trigger.policies().to_vec(), trigger.earlier());
            assert_eq!(read, Some(trigger), "{word}");
        }
    }
    for (word, earlier) in [("policy", None), ("probable_duplicate", None), ("other", None)] {
        assert_eq!(Trigger::read(word, vec![], earlier), None, "{word}");
    }
}

#[test]
fn another_policy_or_another_text_of_the_same_asks_anew() {
    let mut world = World::with(ASK);
    let payment = pay("100.00");
    world.approved = Some(agreed(&world, &payment));
    world.check(&payment, "pass");
    let second = format!("{ASK} @id(\"also\") @escalate forbid (principal, action, resource);");
    world.policies = load(&second, "[]").unwrap();
    world.check(&payment, "escalate policy");
    let reworded = ASK.replace(
        "@escalate forbid (principal, action, resource)",
        "@escalate forbid (principal, action, resource) when { context.environment == \"production\" }",
    );
    world.policies = load(&reworded, "[]").unwrap();
    world.check(&payment, "escalate policy");
    // Fewer than they saw is fine, and so is a policy that asks and is about something else.
    let elsewhere =
        format!("{ASK} @id(\"also\") @escalate forbid (principal, action in Action::\"Data\", resource);");
    world.policies = load(&elsewhere, "[]").unwrap();
    world.check(&payment, "pass");
}

#[test]
fn no_block_is_lifted_by_approval() {
    let payment = pay("100.00");
    let mut world = World::with(ASK);
    world.approved = Some(agreed(&world, &payment));
    let forbids = format!("{ASK} @id(\"no\") forbid (principal, action, resource);");
    world.policies = load(&forbids, "[]").unwrap();
    world.check(&payment, "block forbidden");
    let prohibits = format!("{ASK} @id(\"never\") @tier(\"0-A\") forbid (principal, action, resource);");
    world.policies = load(&prohibits, "[]").unwrap();
    world.check(&payment, "block prohibited");
    // Nothing permits it any more, whoever agreed.
    world.policies = load(&ASK.replace("permit", "@tier(\"2\") forbid"), "[]").unwrap();
    world.check(&payment, "block forbidden");
    world.policies = load(ASK, "[]").unwrap();
    world.frozen = Some("all".into());
    world.check(&payment, "block frozen");
    world.frozen = None;
    world.account = world.account.revoke(1);
    world.check(&payment, "block mandate_revoked");
    world.account.revoked_at = None;
    world.account.spent_minor = 10_000_000;
    world.check(&payment, "block cap_exceeded");
    world.account.spent_minor = 0;
    world.series = series(20, 1);
    world.check(&payment, "block anomaly");
}

/// What a match of each tier comes to, with everything agreed to that people can agree to, and in observe mode.
#[test]
fn only_tier_one_yields_to_people_and_only_advice_to_nothing() {
    let payment = pay("100.00");
    let matching = |annotations: &str| {
        format!(
            "@id(\"all\") permit (principal, action, resource); {annotations} forbid (principal, action, resource);"
        )
    };
    let mut it = World::with(ASK);
    let yes = agreed(&it, &payment);
    for (annotations, denied, agreed_to, observed) in [
        (r#"@id("ask") @tier("0-A")"#, "block prohibited", "block prohibited", "block prohibited"),
        (r#"@id("ask") @tier("0-B")"#, "block forbidden", "block forbidden", "block forbidden"),
        (r#"@id("ask") @tier("1")"#, "block forbidden", "block forbidden", "pass [block forbidden]"),
        (r#"@id("ask") @tier("1") @escalate"#, "escalate policy", "pass", "pass [escalate policy]"),
        (r#"@id("ask") @tier("2")"#, "block forbidden", "block forbidden", "pass [block forbidden]"),
        (r#"@id("ask") @tier("3")"#, "pass", "pass", "pass"),
    ] {
        it.policies = load(&matching(annotations), "[]").unwrap();
        it.check(&payment, denied);
        it.approved = Some(match annotations.contains("@escalate") {
            true => agreed(&it, &payment),
            false => yes.clone(),
        });
        it.check(&payment, agreed_to);
        (it.approved, it.observe) = (None, true);
        it.check(&payment, observed);
        it.observe = false;
    }
    // Tier 0-B yields to a version of the policies without it, and tier 2 to its own conditions.
    it.policies = load(r#"@id("all") permit (principal, action, resource);"#, "[]").unwrap();
    it.check(&payment, "pass");
    let unless = r#"permit (principal, action, resource);
        @tier("2") forbid (principal, action, resource) unless { context.environment == "production" };"#;
    it.policies = load(unless, "[]").unwrap();
    it.check(&payment, "pass");
    it.environment = action::Environment::Sandbox;
    it.check(&payment, "block forbidden");
}

#[test]
fn another_mandate_a_higher_price_or_another_earlier_action_asks_anew() {
    let mut world = World { series: series(20, 600_000), ..World::with(ALLOW_ALL) };
    let seen = agreed(&world, &pay("6000.00"));
    world.approved = Some(seen.clone());
    world.check(&pay("6000.00"), "pass");
    world.check(&pay("5500.00"), "pass");
    world.check(&pay("6000.01"), "escalate irreversible");
    world.mandate = Some(Mandate::of(&Claims { jti: "m-2".into(), ..claims() }).unwrap());
    world.check(&pay("6000.00"), "escalate irreversible");
    world.approved = Some(Approved { amount: None, mandate: Some("m-2".into()), ..seen });
    world.check(&pay("6000.00"), "escalate irreversible");

    let mut world = World { earlier: Some(earlier()), ..World::with(ALLOW_ALL) };
    world.approved = Some(agreed(&world, &pay("100.00")));
    world.check(&pay("100.00"), "pass");
    world.earlier = Some(countersign_boundary::Earlier { id: ActionId::new(1, [1; 10]), at_ms: 1 });
    world.check(&pay("100.00"), "escalate probable_duplicate");
}

#[test]
fn what_was_agreed_to_stands_in_the_entry_and_the_record_replays() {
    let payment = pay("100.00");
    let mut world = World::with(ASK);
    let held = world.decide(&payment);
    let boundary = serde_json::to_string(&held.stages[2]).unwrap();
    assert!(!boundary.contains("\"approved\""), "{boundary}");
    world.approved = Some(agreed(&world, &payment));
    let passed = world.decide(&payment);
    let boundary = serde_json::to_value(&passed.stages[2].output).unwrap();
    assert_eq!((&boundary["approved"], &boundary["verdict"]), (&json!(["policy"]), &json!("pass")));
    for stage in &passed.stages {
        let plain = serde_json::to_string(stage).unwrap();
        assert_eq!(plain, action::json::canonical(&serde_json::from_str(&plain).unwrap()));
    }
    let record = passed.record.to_bytes();
    let text = std::str::from_utf8(&record).unwrap();
    assert_eq!(text, action::json::canonical(&serde_json::from_str(text).unwrap()));
    let same = replay(&record, &world.policies).unwrap();
    assert_eq!((same.then.as_str(), same.now.as_str()), ("pass", "pass"));
    let other = ASK.replace("@id(\"ask\")", "@id(\"ask-more\")");
    let now = replay(&record, &load(&other, "[]").unwrap()).unwrap();
    assert_eq!(now.now, "escalate");
}

#[test]
fn beyond_the_limits_of_who_agreed_it_is_blocked_and_within_it_passes() {
    let mut world = World::with(ASK);
    let action = pay("100.00");
    let seen = agreed(&world, &action);
    let most = |minor| action::Money::new(minor, action::Currency::of("USD").unwrap());
    for (limits, expected) in [
        (ApprovedLimits::default(), "pass"),
        (ApprovedLimits { max_amount: most(10_000), ..Default::default() }, "pass"),
        (ApprovedLimits { max_amount: most(9_999), ..Default::default() }, "block"),
        (ApprovedLimits { not_after_ms: Some(common::NOON), ..Default::default() }, "pass"),
        (ApprovedLimits { not_after_ms: Some(common::NOON - 1), ..Default::default() }, "block"),
    ] {
        world.approved = Some(Approved { limits, ..seen.clone() });
        assert_eq!(world.decide(&action).verdict.word(), expected, "{limits:?}");
    }
    let jpy = action::Money::new(1, action::Currency::of("JPY").unwrap());
    let both = ApprovedLimits { max_amount: most(5), not_after_ms: Some(7) }
        .and(ApprovedLimits { max_amount: most(3), not_after_ms: Some(9) });
    assert_eq!(both, ApprovedLimits { max_amount: most(3), not_after_ms: Some(7) });
    let neither = both.and(ApprovedLimits { max_amount: jpy, not_after_ms: None });
    assert_eq!(neither, ApprovedLimits { max_amount: most(0), not_after_ms: Some(7) });
}
