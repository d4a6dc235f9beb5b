//! Cycles: what each step of the governed loop has against an action, in which order, and what people can do about it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use action::{Action, Catalogue, Subject};
use common::{
    ALLOW_ALL, Governed, NOON, World, action_of, claims, earlier, export, fly, load, pay, pay_with, series,
    source, told,
};
use countersign_boundary::{
    Across, Approved, Begun, Flag, Governance, Named, Trigger, Verdict, decide_by_name, replay,
};
use mandate::{
    ApprovedLimits, Claims, ClusterContext, ClusterState, Completion, DelegationContext, Halt,
    IntentRefusal as R, Mandate, Partner, ReasoningMode as Mode, Remaining, ResourceEnvelope,
    SessionEvent as E, exposure,
};
use serde_json::{Value, json};

/// What is wrong with a cycle.
type Fault = fn(&mut World, &mut Governed);

/// A world in which a usual payment is a usual cycle, but for what the test changes.
fn world(policies: &str, change: impl FnOnce(&mut World, &mut Governed)) -> World {
    let mut world = World::with(policies);
    let mut governed = Governed::usual(Mode::Chain);
    change(&mut world, &mut governed);
    World { governed: Some(governed), ..world }
}

fn governed(change: impl FnOnce(&mut Governed)) -> World {
    world(ALLOW_ALL, |_, it| change(it))
}

fn in_mode(mode: Mode, change: impl FnOnce(&mut Governed)) -> World {
    governed(|it| {
        *it = Governed::usual(mode);
        change(it);
    })
}

/// What the boundary stage tells of the cycle.
fn output(world: &World, action: &Action) -> Value {
    let stages = world.decide(action).stages;
    let boundary = stages.iter().find(|stage| stage.name.as_str() == "boundary").unwrap();
    serde_json::to_value(&boundary.output).unwrap()
}

fn classes(world: &World, action: &Action) -> Vec<u64> {
    let output = output(world, action);
    output["classesFired"].as_array().unwrap().iter().map(|class| class.as_u64().unwrap()).collect()
}

#[track_caller]
fn check(world: &World, action: &Action, expected: &str, governance: Governance) {
    let decision = world.decide(action);
    assert_eq!((told(&decision).as_str(), decision.governance), (expected, governance));
}

fn partner(session: &str) -> Partner {
    Partner { session_id: session.into(), remaining: Remaining::of_time(5), waits_for: None }
}

fn cluster(state: ClusterState) -> ClusterContext {
    ClusterContext {
        cluster_id: "k-1".into(),
        members: vec![partner("s-1"), partner("s-2")],
        principals: vec!["alice".into(), "bob".into()],
        pool_seconds: 10,
        deadline_ms: i64::MAX,
        state,
    }
}

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

#[test]
fn a_usual_cycle_passes_and_its_permit_says_what_it_stands_on() {
    let world = governed(|_| {});
    check(&world, &pay("100.00"), "pass", Governance::Proceed);
    let Verdict::Pass(permit) = world.decide(&pay("100.00")).verdict else { panic!() };
    let footing = permit.footing().unwrap();
    assert_eq!((&*footing.session_id, footing.session_epoch, footing.sequence), ("s-1", 0, 2));
    assert_eq!((&*footing.intent_id, footing.intent_expires_ms), ("i-1", NOON + 60_000));
    let short = governed(|it| it.declare().expires_ms = NOON + 5);
    let Verdict::Pass(permit) = short.decide(&pay("100.00")).verdict else { panic!() };
    assert_eq!(permit.valid_until_ms(), NOON + 5, "no longer than the declaration");
    let Verdict::Pass(permit) = World::with(ALLOW_ALL).decide(&pay("100.00")).verdict else { panic!() };
    assert_eq!(permit.footing(), None, "outside of a session there is nothing to stand on");
}

#[test]
fn a_permit_rests_on_accounts_where_policies_look_at_what_is_left() {
    let rests = |policies: &str, governed: bool| {
        let text = format!("{ALLOW_ALL}\n{policies}");
        let world = if governed { world(&text, |_, _| {}) } else { World::with(&text) };
        let Verdict::Pass(permit) = world.decide(&pay("100.00")).verdict else { panic!("{policies}") };
        permit.rests_on_accounts()
    };
    let forbid = |what: &str| {
        format!("forbid (principal, action in Action::\"Payments\", resource) when {{ {what} }};")
    };
    for nothing in ["context.time.hour > 23", "context has mandate && context.mandate.id == \"m-2\""] {
        assert!(!rests(&forbid(nothing), true) && !rests(&forbid(nothing), false), "{nothing}");
    }
    let spend = forbid("context has mandate.spend_left && context.mandate.spend_left.minor < 5");
    assert!(rests(&spend, true) && rests(&spend, false));
    let time = forbid("context has cycle && context.cycle.time_budget_remaining < 1");
    assert!(rests(&time, true));
    let gate = "permit (principal, action == Action::\"ExecuteCycle\", resource) when { context.time_budget_remaining > 5 };";
    assert!(rests(gate, true) && !rests(gate, false));
}

#[test]
fn every_fault_of_a_declaration_blocks_with_its_code() {
    let faults: [(R, Fault); 10] = [
        (R::Missing, |_, it| it.declaration = Err(R::Missing)),
        (R::Malformed, |_, it| it.declaration = Err(R::Malformed)),
        (R::Expired, |_, it| it.declare().expires_ms = NOON),
        (R::MandateMismatch, |_, it| it.declare().mandate_id = "m-2".into()),
        (R::SequenceNotRising, |_, it| it.context.sequence = 1),
        (R::Duplicate, |_, it| it.declaration = Err(R::Duplicate)),
        (R::SessionMismatch, |_, it| it.declare().session_id = "s-2".into()),
        (R::WrongInstance, |_, it| it.issuer = "https://other.example".into()),
        (R::OutsideGoal, |_, it| it.declare().goal_scope = vec!["Travel".into()]),
        (R::SessionRevoked, |_, it| it.declaration = Err(R::SessionRevoked)),
    ];
    for (refusal, fault) in faults {
        let world = world(ALLOW_ALL, fault);
        let governance = if refusal == R::SessionRevoked { Governance::Suspend } else { Governance::Deny };
        check(&world, &pay("100.00"), &format!("block {}", refusal.word()), governance);
        let output = output(&world, &pay("100.00"));
        assert_eq!(output["cycle"]["intent"], refusal.code());
        // Outside the goal is class 2; the others are of no class.
        let expected = if refusal == R::OutsideGoal { vec![2] } else { vec![] };
        assert_eq!(classes(&world, &pay("100.00")), expected, "{refusal:?}");
    }
}

#[test]
fn a_declaration_serves_its_own_agent_session_and_mandate_alone() {
    let other = Subject::parse("agent-8").unwrap();
    let of_other = governed(|it| it.session.subject = Subject::parse("agent-8").unwrap());
    of_other.check(&pay("100.00"), "block intent_session_mismatch");
    governed(|it| it.declare().subject = other.clone())
        .check(&pay("100.00"), "block intent_session_mismatch");
    // Nor is there a cycle without the mandate of its session, however harmless the action.
    let none = world(ALLOW_ALL, |world, _| world.mandate = None);
    assert_eq!(output(&none, &pay("100.00"))["cycle"]["intent"], "IDP-E004");
    let of_other = Claims { jti: "m-2".into(), ..claims() };
    world(ALLOW_ALL, |world, _| world.mandate = Some(Mandate::of(&of_other).unwrap()))
        .check(&pay("100.00"), "block intent_mandate_mismatch");
}

#[test]
fn what_the_mandate_is_for_bounds_every_cycle() {
    let bounded = |goals: &[&str]| {
        let claims =
            Claims { goal_scope: Some(goals.iter().map(|it| (*it).to_owned()).collect()), ..claims() };
        world(ALLOW_ALL, |world, _| world.mandate = Some(Mandate::of(&claims).unwrap()))
    };
    bounded(&["Payments"]).check(&pay("100.00"), "pass");
    bounded(&["Travel"]).check(&pay("100.00"), "block outside_goal");
}

#[test]
fn nothing_begins_in_a_session_that_is_not_active() {
    let after = |events: &[E]| {
        let events = events.to_vec();
        governed(|it| {
            it.session = events.iter().fold(it.session.clone(), |it, event| it.step(*event).unwrap())
        })
    };
    let payment = pay("100.00");
    let held = after(&[E::Held { sequence: 1_000 }]);
    check(&held, &payment, "block session_hem_pending", Governance::Deny);
    check(&after(&[E::Blocked { at_ms: 1 }]), &payment, "block session_cluster_blocked", Governance::Deny);
    check(&after(&[E::Suspended]), &payment, "block session_suspended", Governance::Suspend);
    let closed = after(&[E::Closed { completion: Completion::Complete, by_agent: false }]);
    check(&closed, &payment, "block session_closed", Governance::Suspend);
    check(
        &after(&[E::Revoked { halt: Halt::Clean, by_person: true }]),
        &payment,
        "block session_revoked",
        Governance::Suspend,
    );
}

#[test]
fn what_waited_is_judged_again_under_the_number_that_it_has() {
    let begun = governed(|it| {
        it.session = it.session.step(E::Held { sequence: 2 }).unwrap();
        it.begun = Some(Begun::GoesOn);
    });
    begun.check(&pay("100.00"), "pass");
    let expired = governed(|it| {
        it.session = it.session.step(E::Held { sequence: 2 }).unwrap();
        it.begun = Some(Begun::GoesOn);
        it.declare().expires_ms = NOON;
    });
    expired.check(&pay("100.00"), "block intent_expired");
    let before_it = governed(|it| {
        it.declare().sequence = 2;
        it.begun = Some(Begun::GoesOn);
    });
    before_it.check(&pay("100.00"), "block sequence_not_rising");
    let asked_anew = governed(|it| {
        it.session = it.session.step(E::Held { sequence: 2 }).unwrap();
        it.begun = Some(Begun::AskedAnew);
    });
    asked_anew.check(&pay("100.00"), "block session_hem_pending");
}

/// Everything that can stop a cycle does at once; taken away one by one, from the first that is told to the last.
#[test]
fn the_steps_are_told_in_their_order() {
    let prohibits = r#"@id("all") permit (principal, action, resource);
        @id("never") @tier("0-A") forbid (principal, action in Action::"Payments", resource);"#;
    let mut it = world(prohibits, |world, it| {
        it.session = it.session.step(E::Suspended).unwrap();
        it.declare().expires_ms = 0;
        it.declare().goal_scope = vec!["Travel".into()];
        it.chain = Err(mandate::Refusal::BadSignature);
        it.context.cluster = Some(cluster(ClusterState::Terminated));
        it.context.remaining.time_seconds = 0;
        it.extension_asked = true;
        world.frozen = Some("all".into());
        world.earlier = Some(earlier());
        world.series = series(20, 1);
    });
    let payment = pay("100.00");
    assert_eq!(classes(&it, &payment), [1, 2, 6, 7, 9], "all that fired, whatever is told first");
    it.check(&payment, "block session_suspended");
    it.governed.as_mut().unwrap().session = Governed::usual(Mode::Chain).session;
    it.check(&payment, "block intent_expired");
    it.governed.as_mut().unwrap().declare().expires_ms = i64::MAX;
    it.check(&payment, "block outside_goal");
    it.governed.as_mut().unwrap().declare().goal_scope = vec!["Payments".into()];
    it.check(&payment, "block mandate_bad_signature");
    it.governed.as_mut().unwrap().chain = Ok(());
    it.check(&payment, "block cluster_stopped");
    it.governed.as_mut().unwrap().context.cluster = None;
    it.check(&payment, "block frozen");
    it.frozen = None;
    it.check(&payment, "block prohibited");
    it.policies = load(ALLOW_ALL, "[]").unwrap();
    it.check(&payment, "block budget_exhausted");
    it.governed.as_mut().unwrap().extension_asked = false;
    it.check(&payment, "block anomaly");
    it.series = series(20, 10_000);
    it.check(&payment, "escalate budget_exhausted probable_duplicate");
    it.governed.as_mut().unwrap().context.remaining.time_seconds = 1;
    it.earlier = None;
    it.check(&payment, "pass");
}

const SEED: &str = r#"// Permit execution only when budget and policy checks pass
permit (
  principal,
  action == Action::"ExecuteCycle",
  resource
)
when {
  context.time_budget_remaining > 0 &&
  context.intent_valid == true &&
  context.tier_0a_check_passed == true
};
"#;

#[test]
fn the_published_example_loads_as_it_is_and_gates_cycles() {
    let mut it = world(&format!("{ALLOW_ALL}\n{SEED}"), |_, _| {});
    it.check(&pay("100.00"), "pass");
    assert_eq!(output(&it, &pay("100.00"))["cycle"]["gate"]["policies"][0]["id"], "test#2");
    // It permits the gate and nothing else.
    it.policies = load(SEED, "[]").unwrap();
    it.check(&pay("100.00"), "block not_permitted");
}

#[test]
fn where_no_policy_permits_cycles_the_built_in_one_stands_in() {
    let it = governed(|_| {});
    assert_eq!(output(&it, &pay("100.00"))["cycle"]["gate"]["policies"][0]["id"], "default-execute-cycle");
    assert_eq!(it.policies.policy_digest(), World::with(ALLOW_ALL).policies.policy_digest());
    assert!(it.policies.rules().iter().all(|rule| &*rule.reference.id != "default-execute-cycle"));
    let narrow = format!(
        "{ALLOW_ALL}\n@id(\"gate\") permit (principal, action == Action::\"ExecuteCycle\", resource)
         when {{ context.reasoning_mode == \"DIRECT\" }};"
    );
    world(&narrow, |_, _| {}).check(&pay("100.00"), "block not_permitted");
    world(&narrow, |_, it| *it = Governed::usual(Mode::Direct)).check(&pay("100.00"), "pass");
}

#[test]
fn no_archetype_and_no_group_goes_by_the_name_of_the_gate() {
    let catalogue = |name: &str, group: &str| {
        let text = format!(
            "name = \"{name}\"\nreversible = true\ndescription = \"A test\"\nguarantee_level = \"atp-1\"\n\
             [cedar]\ngroups = [\"{group}\"]\nresource_type = \"Session\"\n[schema]\nrequired = [\"to\"]\n\
             [schema.properties.to]\ndescription = \"Where to\"\ntype = \"string\"\nx-identifier = true\nexamples = [\"x\"]\n"
        );
        Catalogue::load(true, &[source("test.toml", &text)]).unwrap()
    };
    let told = |catalogue: &Catalogue| {
        let mistakes = common::load_with(ALLOW_ALL, "[]", catalogue).unwrap_err();
        assert!(mistakes[0].message.contains("`ExecuteCycle`"), "{mistakes:?}");
    };
    told(&catalogue("ExecuteCycle", "Test"));
    told(&catalogue("TEST", "ExecuteCycle"));
    let both = format!("{ALLOW_ALL} permit (principal, action == Action::\"ExecuteCycle\", resource);");
    assert!(
        common::load_with(&both, "[]", &catalogue("TEST", "Test")).is_ok(),
        "a resource may be a Session"
    );
}

#[test]
fn gate_and_action_must_both_allow() {
    // What names no action is about the catalogue's, and permits no gate.
    let forbids = format!(
        "{ALLOW_ALL}\n@id(\"often\") forbid (principal, action == Action::\"ExecuteCycle\", resource)
         when {{ context.prior_denial_count >= 3 }};"
    );
    world(&forbids, |_, _| {}).check(&pay("100.00"), "pass");
    let often = world(&forbids, |_, it| it.context.prior_denial_count = 3);
    often.check(&pay("100.00"), "block forbidden");
    assert_eq!(output(&often, &pay("100.00"))["cedar"]["decision"], "allow");
    assert_eq!(output(&often, &pay("100.00"))["cycle"]["gate"]["decision"], "deny");
    World::with(&forbids).check(&pay("100.00"), "pass");
    world("", |_, _| {}).check(&pay("100.00"), "block not_permitted");
}

#[test]
fn the_gate_may_ask_a_person() {
    let asks = format!(
        "{ALLOW_ALL}\n@id(\"ask\") @escalate forbid (principal, action == Action::\"ExecuteCycle\", resource)
         unless {{ context.human_approval_received }};\n{SEED}"
    );
    let mut it = world(&asks, |_, _| {});
    check(&it, &pay("100.00"), "escalate policy", Governance::Escalate);
    it.approved = Some(agreed(&it, &pay("100.00")));
    it.check(&pay("100.00"), "pass");
}

/// Every member of the gate's context, and of `cycle` in an action's, can be read as the schema says.
#[test]
fn policies_read_everything_that_is_known_of_a_cycle() {
    let conditions = [
        r#"cluster.id == "k-1" && CONTEXT.cluster.members == 2 && CONTEXT.cluster.pool_seconds == 10"#,
        r#"cluster.principals == 2 && CONTEXT.cluster.state == "ACTIVE""#,
        "confidence == 7500",
        r#"cycle_id == "c-1""#,
        "delegation_depth == 2",
        "escalation_class == 9",
        r#"goal_type == "reconcile""#,
        "human_approval_received",
        r#"intent_id == "i-1""#,
        "intent_valid",
        "prior_denial_count == 2",
        r#"reasoning_mode == "CHAIN""#,
        "resource_envelope.compute_units == 50",
        "resource_envelope.memory_bytes == 51",
        "resource_envelope.network_egress_bytes == 52",
        "resource_envelope.storage_bytes == 53",
        "scope_within_parent_bounds",
        "sequence == 2",
        r#"session_id == "s-1""#,
        "tier_0a_check_passed",
        "time_budget_remaining == 3600",
    ];
    let has = |path: &str| {
        let optional = ["cluster", "confidence", "escalation_class", "goal_type", "intent_id"];
        let first = path.split(['.', ' ']).next().unwrap();
        match path.split(' ').next().unwrap() {
            whole if whole.starts_with("resource_envelope") => format!("CONTEXT has {whole} && "),
            _ if optional.contains(&first) => format!("CONTEXT has {first} && "),
            _ => String::new(),
        }
    };
    for condition in conditions {
        let test = format!("{}CONTEXT.{condition}", has(condition));
        let (of_gate, of_action) =
            (test.replace("CONTEXT", "context"), test.replace("CONTEXT", "context.cycle"));
        let policies = format!(
            "permit (principal, action == Action::\"ExecuteCycle\", resource is Session)
               when {{ {of_gate} && context.archetype == \"PAYMENT_TRANSFER\" && context.amount.minor == 10000 }};
             permit (principal, action == Action::\"PAYMENT_TRANSFER\", resource)
               when {{ context has cycle && {of_action} }};"
        )
        .replace("context.amount", "context has amount && context.amount");
        let it = world(&policies, |world, it| {
            it.context.cluster = Some(cluster(ClusterState::Active));
            it.context.delegation = Some(DelegationContext {
                chain: vec!["m-a".into(), "m-b".into()],
                root_principal: "alice".into(),
            });
            it.context.prior_denial_count = 2;
            it.context.remaining.memory_bytes = Some(51);
            it.context.remaining.network_egress_bytes = Some(52);
            it.context.remaining.storage_bytes = Some(53);
            it.confidence = Some("0.75");
            world.approved = Some(Approved {
                triggers: vec![Trigger::Archetype],
                mandate: None,
                amount: None,
                limits: ApprovedLimits::default(),
            });
        });
        it.check(&pay("100.00"), "pass");
    }
}

#[test]
fn tier_0a_is_asked_of_everything_before_anything_else_is_asked() {
    let gate = format!(
        "{ALLOW_ALL}\n@id(\"never\") @tier(\"0-A\") forbid (principal, action == Action::\"ExecuteCycle\", resource);"
    );
    let it = world(&gate, |_, _| {});
    check(&it, &pay("100.00"), "block prohibited", Governance::Deny);
    assert_eq!(classes(&it, &pay("100.00")), [1]);
    let output = output(&it, &pay("100.00"));
    assert_eq!(
        output["cedar"]["decision"], "not_asked",
        "no other policy is asked once one of tier 0-A matched"
    );
    assert_eq!(output["cycle"]["tier0A"], "stopped");
    let record: Value = serde_json::from_slice(&it.decide(&pay("100.00")).record.to_bytes()).unwrap();
    assert_eq!(record["asked"]["context"]["cycle"]["tier_0a_check_passed"], false);
    assert_eq!(record["cycle"]["gate"]["context"]["tier_0a_check_passed"], false);
}

#[test]
fn a_policy_of_tier_0a_cannot_ask_what_tier_0a_comes_to() {
    let circular = r#"@tier("0-A") forbid (principal, action == Action::"ExecuteCycle", resource)
        unless { context.tier_0a_check_passed };"#;
    let mistakes = load(circular, "[]").unwrap_err();
    assert!(mistakes[0].message.contains("tier 0-A"), "{mistakes:?}");
    assert!(load(&circular.replace("0-A", "0-B"), "[]").is_ok());
}

#[test]
fn all_classes_are_looked_at_and_all_hits_told() {
    let asks = format!(
        "{ALLOW_ALL}\n@id(\"ask\") @escalate forbid (principal, action in Action::\"Payments\", resource);"
    );
    let floor = Claims { uncertainty_floor: Some(serde_json::Number::from_f64(0.9).unwrap()), ..claims() };
    let it = world(&asks, |world, it| {
        it.context.cluster = Some(cluster(ClusterState::Deadlock));
        it.context.remaining.time_seconds = 0;
        it.confidence = Some("0.89999");
        it.contradicts = Some(earlier().id);
        it.declare().context_fingerprint = Some("another".into());
        world.mandate = Some(Mandate::of(&floor).unwrap());
        world.series = series(20, 600_000);
    });
    check(
        &it,
        &pay("6000.00"),
        "escalate principal_conflict irreversible uncertainty novel_context budget_exhausted multi_principal policy",
        Governance::Suspend,
    );
    let output = output(&it, &pay("6000.00"));
    assert_eq!(output["classesFired"], json!([3, 4, 5, 6, 7, 8, 9]));
    assert_eq!(output["classesNotApplicable"], json!([]));
    let hits = output["cycle"]["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 7);
    assert_eq!(hits[0], json!({"class": 3, "word": "principal_conflict"}));
    assert_eq!(hits[6], json!({"class": 9, "word": "policy"}));
}

/// One world for each class, in which nothing else is unusual.
#[test]
fn each_class_fires_alone_and_is_told() {
    let asks = |policy: &str| format!("{ALLOW_ALL}\n{policy} forbid (principal, action, resource);");
    let floor = Claims { uncertainty_floor: Some(serde_json::Number::from_f64(0.9).unwrap()), ..claims() };
    let plain = || governed(|_| {});
    let fires: [(u64, World, Action, &str); 12] = [
        (1, world(&asks("@tier(\"0-A\")"), |_, _| {}), pay("100.00"), "block prohibited"),
        (
            2,
            governed(|it| it.declare().goal_scope = vec!["Travel".into()]),
            pay("100.00"),
            "block outside_goal",
        ),
        (3, governed(|it| it.contradicts = Some(earlier().id)), pay("100.00"), "escalate principal_conflict"),
        (4, World { series: series(20, 600_000), ..plain() }, pay("6000.00"), "escalate irreversible"),
        (
            5,
            world(ALLOW_ALL, |world, _| world.mandate = Some(Mandate::of(&floor).unwrap())),
            pay("100.00"),
            "escalate uncertainty",
        ),
        (
            6,
            governed(|it| it.declare().context_fingerprint = Some("another".into())),
            pay("100.00"),
            "escalate novel_context",
        ),
        (6, World { series: series(0, 0), ..plain() }, pay("1500.00"), "escalate cold_start"),
        (6, World { series: series(20, 1), ..plain() }, pay("100.00"), "block anomaly"),
        (7, governed(|it| it.context.remaining.time_seconds = 0), pay("100.00"), "escalate budget_exhausted"),
        (
            8,
            governed(|it| it.context.cluster = Some(cluster(ClusterState::Deadlock))),
            pay("100.00"),
            "escalate multi_principal",
        ),
        (9, world(&asks("@escalate"), |_, _| {}), pay("100.00"), "escalate policy"),
        (9, World { earlier: Some(earlier()), ..plain() }, pay("100.00"), "escalate probable_duplicate"),
    ];
    for (class, world, action, expected) in fires {
        world.check(&action, expected);
        assert_eq!(classes(&world, &action), [class], "{expected}");
    }
    assert_eq!(classes(&plain(), &pay("100.00")), [0; 0]);
}

#[test]
fn who_was_denied_too_often_is_below_the_floor_of_trust_of_any_mandate_above() {
    let floor = Claims { trust_floor: Some(serde_json::Number::from_f64(0.75).unwrap()), ..claims() };
    let after = |cycles: u64, denials: u32| {
        world(ALLOW_ALL, |world, it| {
            world.mandate = Some(Mandate::of(&floor).unwrap());
            (it.session.cycles, it.session.denials) = (cycles, denials);
        })
    };
    let payment = pay("100.00");
    after(0, 0).check(&payment, "pass");
    after(3, 1).check(&payment, "pass");
    after(299, 100).check(&payment, "escalate below_trust_floor");
    after(0, 1).check(&payment, "escalate below_trust_floor");
    assert_eq!(classes(&after(0, 1), &payment), [6]);
    // Without a floor nothing is held against it, and people may agree.
    governed(|it| it.session.denials = 9).check(&payment, "pass");
    let mut it = after(0, 1);
    it.approved = Some(agreed(&it, &payment));
    it.check(&payment, "pass");
    let (above, account) = (Mandate::of(&floor).unwrap(), mandate::Account::new("m-0"));
    let below = governed(|it| it.session.denials = 1);
    let ancestors = [(&above, &account)];
    let facts = countersign_boundary::Facts { ancestors: &ancestors, ..below.facts(&payment) };
    assert_eq!(told(&countersign_boundary::decide(&below.policies, &facts)), "escalate below_trust_floor");
}

#[test]
fn who_does_not_say_how_sure_it_is_is_not_sure_enough_for_a_floor() {
    let floor = Claims { uncertainty_floor: Some(serde_json::Number::from_f64(0.7).unwrap()), ..claims() };
    let sure = |confidence: Option<&'static str>| {
        world(ALLOW_ALL, |world, it| {
            world.mandate = Some(Mandate::of(&floor).unwrap());
            it.confidence = confidence;
        })
    };
    sure(Some("0.7")).check(&pay("100.00"), "pass");
    sure(Some("0.69999")).check(&pay("100.00"), "escalate uncertainty");
    sure(None).check(&pay("100.00"), "escalate uncertainty");
    World { governed: None, ..sure(None) }.check(&pay("100.00"), "escalate uncertainty");
}

#[test]
fn a_limit_that_only_a_session_keeps_asks_for_one() {
    let share = || serde_json::Number::from_f64(0.5);
    let units = |n| Some(ResourceEnvelope { max_compute_units: Some(n), ..ResourceEnvelope::default() });
    let limited = [
        Claims { resource_envelope: units(5), ..claims() },
        Claims { trust_floor: share(), ..claims() },
        Claims { goal_scope: Some(vec!["Payments".into()]), ..claims() },
    ];
    let (payment, required) = (pay("100.00"), "block session_required");
    for claims in limited {
        let limited = Mandate::of(&claims).unwrap();
        let within = world(ALLOW_ALL, |world, _| world.mandate = Some(limited.clone()));
        within.check(&payment, "pass");
        let outside = World { governed: None, ..within };
        outside.check(&payment, required);
        assert_eq!(outside.decide(&payment).governance, Governance::Deny);
        // Observe mode does not lift it, and it is the same of one above.
        World { observe: true, ..outside }.check(&payment, required);
        let (below, account) = (World::with(ALLOW_ALL), mandate::Account::new("m-0"));
        let ancestors = [(&limited, &account)];
        let facts = countersign_boundary::Facts { ancestors: &ancestors, ..below.facts(&payment) };
        assert_eq!(told(&countersign_boundary::decide(&below.policies, &facts)), required);
    }
    let plain = Claims {
        max_actions: Some(3),
        resources: Some(vec!["acct-*".into()]),
        resource_envelope: Some(ResourceEnvelope::default()),
        goal_scope: Some(Vec::new()),
        ..claims()
    };
    let plain = World { mandate: Some(Mandate::of(&plain).unwrap()), ..World::with(ALLOW_ALL) };
    plain.check(&payment, "pass");
}

#[test]
fn an_agent_that_says_it_is_unsure_is_noted_where_nothing_fires() {
    let flags = |world: &World, action: &Action| world.decide(action).flags;
    let unsure = governed(|it| it.confidence = Some("0.59999"));
    unsure.check(&pay("100.00"), "pass");
    assert_eq!(flags(&unsure, &pay("100.00")), [Flag::LayerDiscrepancy]);
    assert_eq!(output(&unsure, &pay("100.00"))["cycle"]["flags"], json!(["HEM_LAYER_DISCREPANCY"]));
    assert_eq!(flags(&governed(|it| it.confidence = Some("0.6")), &pay("100.00")), []);
    let fires = World { earlier: Some(earlier()), ..governed(|it| it.confidence = Some("0.1")) };
    assert_eq!(flags(&fires, &pay("100.00")), []);
}

#[test]
fn the_fingerprint_of_the_same_situation_is_no_drift() {
    let same = governed(|it| {
        let fingerprint = it.context.fingerprint();
        it.declare().context_fingerprint = Some(fingerprint.into());
    });
    same.check(&pay("100.00"), "pass");
    let joined = governed(|it| {
        let fingerprint = it.context.fingerprint();
        it.declare().context_fingerprint = Some(fingerprint.into());
        it.context.cluster = Some(cluster(ClusterState::Active));
    });
    joined.check(&pay("100.00"), "escalate novel_context");
}

#[test]
fn at_zero_the_first_asks_and_the_others_are_told() {
    for part in ["time", "compute"] {
        let empty = |it: &mut Governed| match part {
            "time" => it.context.remaining.time_seconds = 0,
            _ => it.context.remaining.compute_units = Some(0),
        };
        let payment = pay("100.00");
        check(&governed(empty), &payment, "escalate budget_exhausted", Governance::Suspend);
        let others = governed(|it| {
            empty(it);
            it.extension_asked = true;
        });
        check(&others, &payment, "block budget_exhausted", Governance::Suspend);
        assert_eq!(classes(&others, &payment), [7]);
        // No yes makes time.
        let mut agreed_to = governed(empty);
        agreed_to.approved = Some(agreed(&agreed_to, &payment));
        agreed_to.check(&payment, "escalate budget_exhausted");
        agreed_to.governed.as_mut().unwrap().context.remaining =
            Governed::usual(Mode::Chain).context.remaining;
        agreed_to.check(&payment, "pass");
    }
}

#[test]
fn a_gate_that_forbids_is_stronger_than_an_empty_budget() {
    let forbids = format!("{ALLOW_ALL}\nforbid (principal, action == Action::\"ExecuteCycle\", resource);");
    world(&forbids, |_, it| it.context.remaining.time_seconds = 0).check(&pay("100.00"), "block forbidden");
}

#[test]
fn people_can_agree_to_what_classes_ask_and_to_nothing_that_blocks() {
    let payment = pay("100.00");
    let asks: [fn(&mut Governed); 2] = [
        |it| it.contradicts = Some(earlier().id),
        |it| it.declare().context_fingerprint = Some("another".into()),
    ];
    for ask in asks {
        let mut it = governed(ask);
        it.approved = Some(agreed(&it, &payment));
        it.check(&payment, "pass");
        let output = output(&it, &payment);
        assert_eq!(output["approved"].as_array().unwrap().len(), 1);
    }
    let mut it = governed(|it| it.contradicts = Some(earlier().id));
    it.approved = Some(agreed(&it, &payment));
    it.governed.as_mut().unwrap().contradicts = Some(action::ActionId::new(1, [1; 10]));
    it.check(&payment, "escalate principal_conflict");
    // Classes 1 and 2.
    it.governed = Some(Governed::usual(Mode::Chain));
    it.governed.as_mut().unwrap().declare().goal_scope = vec!["Travel".into()];
    it.check(&payment, "block outside_goal");
    it.governed = Some(Governed::usual(Mode::Chain));
    it.policies = load(
        &format!("{ALLOW_ALL}\n@tier(\"0-A\") forbid (principal, action in Action::\"Payments\", resource);"),
        "[]",
    )
    .unwrap();
    it.check(&payment, "block prohibited");
}

#[test]
fn beyond_what_people_agreed_to_for_its_session_a_cycle_is_denied_and_the_session_goes_on() {
    let usd = |minor| action::Money::new(minor, action::Currency::of("USD").unwrap());
    let limited = |max_amount, not_after_ms| {
        let limits = ApprovedLimits { max_amount, not_after_ms };
        governed(|it| it.session = it.session.step(E::Limited(limits)).unwrap())
    };
    for (world, expected) in [
        (limited(usd(10_000), None), "pass"),
        (limited(usd(9_999), None), "block beyond_session"),
        (limited(None, Some(NOON)), "pass"),
        (limited(None, Some(NOON - 1)), "block beyond_session"),
        (
            limited(action::Money::new(10_000, action::Currency::of("JPY").unwrap()), None),
            "block beyond_session",
        ),
    ] {
        world.check(&pay("100.00"), expected);
        if expected != "pass" {
            assert_eq!(world.decide(&pay("100.00")).governance, Governance::Deny);
            assert!(classes(&world, &pay("100.00")).is_empty(), "it is no class that halts");
        }
    }
    // What moves no money is not within a sum or beyond it.
    limited(usd(0), None).check(&export(), "pass");
    // No yes to the action lifts them, and no observing.
    let mut held = World {
        governed: limited(usd(1), None).governed,
        ..governed(|it| it.contradicts = Some(earlier().id))
    };
    held.approved = Some(agreed(&governed(|it| it.contradicts = Some(earlier().id)), &pay("100.00")));
    held.check(&pay("100.00"), "block beyond_session");
    World { observe: true, ..limited(usd(1), None) }.check(&pay("100.00"), "block beyond_session");
}

#[test]
fn observe_mode_lifts_of_a_cycle_what_it_lifts_of_any_action() {
    let observing = |policies: &str, change: fn(&mut Governed)| World {
        observe: true,
        ..world(policies, |_, it| change(it))
    };
    let payment = pay("100.00");
    observing("", |_| {}).check(&payment, "pass [block not_permitted]");
    observing(ALLOW_ALL, |it| it.contradicts = Some(earlier().id))
        .check(&payment, "escalate principal_conflict");
    observing(ALLOW_ALL, |it| it.declaration = Err(R::Missing)).check(&payment, "block intent_missing");
    observing(ALLOW_ALL, |it| it.context.remaining.time_seconds = 0)
        .check(&payment, "escalate budget_exhausted");
    observing(ALLOW_ALL, |it| it.session = it.session.step(E::Suspended).unwrap())
        .check(&payment, "block session_suspended");
    observing(ALLOW_ALL, |it| it.context.cluster = Some(cluster(ClusterState::Deadlock)))
        .check(&payment, "escalate multi_principal");
}

#[test]
fn direct_is_one_step() {
    let it = in_mode(Mode::Direct, |_| {});
    assert_eq!(it.decide(&pay("100.00")).flags, []);
    let second = in_mode(Mode::Direct, |it| it.steps_before = 1);
    second.check(&pay("100.00"), "pass");
    assert_eq!(second.decide(&pay("100.00")).flags, [Flag::ModeDeviation]);
}

#[test]
fn chain_is_step_after_step_each_judged() {
    let third = in_mode(Mode::Chain, |it| it.steps_before = 2);
    third.check(&pay("100.00"), "pass");
    assert_eq!(third.decide(&pay("100.00")).flags, []);
    third.check(&pay("100000.01"), "block cap_exceeded");
    let branching = in_mode(Mode::Chain, |it| it.branches = vec![pay("1.00")]);
    assert_eq!(branching.decide(&pay("100.00")).flags, [Flag::ModeDeviation]);
}

#[test]
fn tree_passes_only_if_every_branch_does() {
    let tree = |policies: &str, branches: Vec<Action>| {
        world(policies, |_, it| {
            *it = Governed::usual(Mode::Tree);
            it.branches = branches;
        })
    };
    let payment = pay("100.00");
    check(&tree(ALLOW_ALL, vec![]), &payment, "block mode_unmet", Governance::Deny);
    let both = tree(ALLOW_ALL, vec![pay("5.00"), export()]);
    check(&both, &payment, "pass", Governance::Proceed);
    let told = output(&both, &payment);
    assert_eq!(told["cycle"]["branches"][1]["action"], "DATA_EXPORT");
    assert_eq!(told["cycle"]["branches"][1]["cedar"]["decision"], "allow");
    let no_export = format!("{ALLOW_ALL}\nforbid (principal, action == Action::\"DATA_EXPORT\", resource);");
    tree(&no_export, vec![pay("5.00")]).check(&payment, "pass");
    tree(&no_export, vec![pay("5.00"), export()]).check(&payment, "block forbidden");
    // One branch that tier 0-A prohibits stops all, and no other policy is asked.
    let never = no_export.replace("\nforbid", "\n@tier(\"0-A\") forbid");
    let stopped = tree(&never, vec![pay("5.00"), export()]);
    stopped.check(&payment, "block prohibited");
    assert_eq!(classes(&stopped, &payment), [1]);
    assert_eq!(output(&stopped, &payment)["cedar"]["decision"], "not_asked");
    // Outside the declared goal, or the mandate, is class 2 for a branch too.
    let outside = tree(ALLOW_ALL, vec![fly()]);
    outside.check(&payment, "block outside_goal");
    assert_eq!(classes(&outside, &payment), [2]);
    let unmandated = world(ALLOW_ALL, |world, it| {
        *it = Governed::usual(Mode::Tree);
        it.branches = vec![export()];
        let narrow = Claims { mandate_scope: vec!["Payments".into()], ..claims() };
        world.mandate = Some(Mandate::of(&narrow).unwrap());
    });
    unmandated.check(&payment, "block out_of_scope");
    // A branch that asks a person holds the whole.
    let asks = no_export.replace("\nforbid", "\n@escalate forbid");
    tree(&asks, vec![export()]).check(&payment, "escalate policy");
    // One that is incomplete cannot be asked about.
    tree(ALLOW_ALL, vec![pay_with(json!({"recipient": "a"}))]).check(&payment, "block incomplete");
}

#[test]
fn a_branch_beyond_what_is_left_of_the_mandate_stops_the_tree() {
    let tree = |branch: Action, limits: fn(&mut Claims)| {
        world(ALLOW_ALL, |world, it| {
            *it = Governed::usual(Mode::Tree);
            it.branches = vec![pay("5.00"), branch];
            let mut claims = claims();
            limits(&mut claims);
            world.mandate = Some(Mandate::of(&claims).unwrap());
        })
    };
    let bound = |bound| json!({"recipient": "acct-1", "amount_usd": "6.00", "max_total_usd": bound});
    for (branch, limits, expected) in [
        (pay("100000.00"), (|_| {}) as fn(&mut Claims), "pass"),
        (pay("100000.01"), |_| {}, "block cap_exceeded"),
        (pay_with(bound("5.99")), |_| {}, "block over_own_bound"),
        (export(), |it| it.resources = Some(vec!["acct-*".into()]), "block resource_outside"),
        (pay("5.00"), |it| it.max_actions = Some(0), "block actions_used_up"),
    ] {
        tree(branch, limits).check(&pay("100.00"), expected);
    }
    // What is above its limits ends the cycle and not the session, as where it is asked for itself.
    let over = tree(pay("100000.01"), |_| {});
    assert_eq!(classes(&over, &pay("100.00")), [0; 0]);
}

#[test]
fn of_what_was_set_aside_the_part_that_is_charged_is_held_against_what_people_agreed_to() {
    let usd = |minor| action::Money::new(minor, action::Currency::of("USD").unwrap());
    let yen = action::Money::new(1, action::Currency::of("JPY").unwrap());
    let payment = pay("100.00");
    for (most, charges, passes) in [
        (6_000, None, false),
        (6_000, usd(6_000), true),
        (6_000, usd(6_001), false),
        // It is never more, or other money, than what was judged.
        (6_000, yen, false),
        (10_000, usd(11_000), true),
    ] {
        let limits = ApprovedLimits { max_amount: usd(most), not_after_ms: None };
        let of_session = governed(|it| it.session = it.session.step(E::Limited(limits)).unwrap());
        let (mandate, amount) = (Some("m-1".to_owned()), usd(10_000));
        let approved = Some(Approved { triggers: vec![], mandate, amount, limits });
        let of_action = World { approved, ..World::with(ALLOW_ALL) };
        for (world, beyond) in [(of_session, "block beyond_session"), (of_action, "block beyond_approval")] {
            let facts = countersign_boundary::Facts { charges, ..world.facts(&payment) };
            let decided = told(&countersign_boundary::decide(&world.policies, &facts));
            assert_eq!(decided, if passes { "pass" } else { beyond }, "{most} {charges:?}");
        }
    }
}

#[test]
fn a_branch_beyond_what_people_agreed_to_for_the_session_stops_the_tree() {
    let usd = action::Money::new(10_000, action::Currency::of("USD").unwrap());
    let tree = |branch: Action, not_after_ms| {
        governed(|it| {
            *it = Governed::usual(Mode::Tree);
            it.branches = vec![pay("5.00"), branch];
            let limits = ApprovedLimits { max_amount: usd, not_after_ms };
            it.session = it.session.step(E::Limited(limits)).unwrap();
        })
    };
    for (branch, not_after_ms, expected) in [
        (pay("100.00"), None, "pass"),
        (pay("100.01"), None, "block beyond_session"),
        (export(), Some(NOON), "pass"),
        (export(), Some(NOON - 1), "block beyond_session"),
    ] {
        tree(branch, not_after_ms).check(&pay("100.00"), expected);
    }
    let over = tree(pay("100.01"), None);
    assert_eq!(classes(&over, &pay("100.00")), [0; 0], "the session goes on");
}

/// Whatever it rests on is known of every action, so nobody gets around it by naming no session.
#[test]
fn what_a_mandate_or_an_operator_asks_people_about_is_asked_without_a_session_too() {
    let of = |claims: Claims| {
        let mandate = Some(Mandate::of(&claims).unwrap());
        let within = world(ALLOW_ALL, |world, _| world.mandate.clone_from(&mandate));
        (within, World { mandate, ..World::with(ALLOW_ALL) })
    };
    for (claims, expected) in [
        (claims(), "pass"),
        (
            Claims { requires_approval: Some(vec!["Payments".into()]), ..claims() },
            "escalate mandate_requires_approval",
        ),
        (
            Claims { uncertainty_floor: Some(serde_json::Number::from_f64(0.5).unwrap()), ..claims() },
            "escalate uncertainty",
        ),
        (Claims { mandate_scope: vec!["DATA_EXPORT".into()], ..claims() }, "block out_of_scope"),
    ] {
        let (within, without) = of(claims);
        within.check(&pay("100.00"), expected);
        without.check(&pay("100.00"), expected);
    }
}

#[test]
fn a_branch_by_a_name_of_the_hard_deny_list_stops_the_tree() {
    let text = "name = \"DELETE_AUDIT_LOG\"\nreversible = true\ndescription = \"A test\"\nguarantee_level = \"atp-1\"\n\
         [cedar]\ngroups = [\"Payments\"]\nresource_type = \"Thing\"\n[schema]\nrequired = [\"to\"]\n\
         [schema.properties.to]\ndescription = \"Where to\"\ntype = \"string\"\nx-identifier = true\nexamples = [\"x\"]\n";
    let catalogue = Catalogue::load(true, &[source("test.toml", text)]).unwrap();
    let branch = action_of(json!({"archetype": "DELETE_AUDIT_LOG", "constraints": {"to": "x"}}), &catalogue);
    let it = world(ALLOW_ALL, |world, it| {
        *it = Governed::usual(Mode::Tree);
        it.branches = vec![branch];
        world.policies = common::load_with(ALLOW_ALL, "[]", &catalogue).unwrap();
    });
    it.check(&pay("100.00"), "block hard_denied");
    assert_eq!(classes(&it, &pay("100.00")), [1]);
}

#[test]
fn reflexive_needs_a_self_assessment() {
    in_mode(Mode::Reflexive, |_| {}).check(&pay("100.00"), "block mode_unmet");
    in_mode(Mode::Reflexive, |it| it.self_assessment = Some(" ")).check(&pay("100.00"), "block mode_unmet");
    in_mode(Mode::Reflexive, |it| it.self_assessment = Some("checked the invoice"))
        .check(&pay("100.00"), "pass");
}

#[test]
fn delegated_needs_a_chain_and_no_mode_a_broken_one() {
    let chain = || Some(DelegationContext { chain: vec!["m-0".into()], root_principal: "alice".into() });
    in_mode(Mode::Delegated, |_| {}).check(&pay("100.00"), "block mode_unmet");
    in_mode(Mode::Delegated, |it| it.context.delegation = chain()).check(&pay("100.00"), "pass");
    for mode in Mode::ALL {
        let broken = in_mode(mode, |it| {
            it.context.delegation = chain();
            it.chain = Err(mandate::Refusal::BadSignature);
            it.branches = vec![pay("1.00")];
            it.self_assessment = Some("x");
            it.across = Some(Across { sequence: 0, intent_known: false });
            it.declare().constrained_by = Some("all".into());
        });
        check(&broken, &pay("100.00"), "block mandate_bad_signature", Governance::Deny);
    }
}

#[test]
fn collaborative_needs_every_principal() {
    let together = |approved_by: &[&str]| {
        in_mode(Mode::Collaborative, |it| {
            it.context.cluster = Some(cluster(ClusterState::Active));
            it.approved_by = approved_by.iter().map(|it| (*it).into()).collect();
        })
    };
    let payment = pay("100.00");
    check(&together(&[]), &payment, "escalate multi_principal", Governance::Escalate);
    check(&together(&["alice"]), &payment, "escalate multi_principal", Governance::Escalate);
    check(&together(&["alice", "bob"]), &payment, "pass", Governance::Proceed);
    // The yes of one does not stand for the other's.
    let mut one = together(&["alice"]);
    one.approved = Some(agreed(&one, &payment));
    one.check(&payment, "escalate multi_principal");
    let alone = in_mode(Mode::Collaborative, |_| {});
    alone.check(&payment, "pass");
    assert_eq!(alone.decide(&payment).flags, [Flag::ModeDeviation]);
    let of_one = in_mode(Mode::Collaborative, |it| {
        let one = ClusterContext { principals: vec!["alice".into()], ..cluster(ClusterState::Active) };
        it.context.cluster = Some(one);
    });
    of_one.check(&payment, "pass");
}

#[test]
fn extended_looks_at_every_session_of_the_mandate() {
    let across = |across: Option<Across>| in_mode(Mode::Extended, |it| it.across = across);
    let payment = pay("100.00");
    across(Some(Across { sequence: 1, intent_known: false })).check(&payment, "pass");
    across(Some(Across { sequence: 2, intent_known: false })).check(&payment, "block sequence_not_rising");
    across(Some(Across { sequence: 1, intent_known: true })).check(&payment, "block intent_duplicate");
    across(None).check(&payment, "block intent_duplicate");
    in_mode(Mode::Chain, |it| it.across = Some(Across { sequence: 9, intent_known: true }))
        .check(&payment, "pass");
}

#[test]
fn constrained_needs_the_named_policy_in_force() {
    let under = |name: Option<&str>| {
        in_mode(Mode::Constrained, |it| it.declare().constrained_by = name.map(Into::into))
    };
    under(None).check(&pay("100.00"), "block mode_unmet");
    under(Some("other")).check(&pay("100.00"), "block mode_unmet");
    under(Some("all")).check(&pay("100.00"), "pass");
}

#[test]
fn a_cluster_that_is_held_or_over_stops_its_members() {
    for (state, expected) in [
        (ClusterState::Active, "pass"),
        (ClusterState::Blocked, "pass"),
        (ClusterState::Deadlock, "escalate multi_principal"),
        (ClusterState::MandateHold, "block cluster_stopped"),
        (ClusterState::Terminated, "block cluster_stopped"),
    ] {
        governed(|it| it.context.cluster = Some(cluster(state))).check(&pay("100.00"), expected);
    }
}

#[test]
fn new_triggers_read_back_from_their_words() {
    let id = earlier().id;
    for trigger in [
        Trigger::PrincipalConflict { earlier: id },
        Trigger::Uncertainty,
        Trigger::NovelContext,
        Trigger::BelowTrust,
        Trigger::BudgetExhausted,
        Trigger::MultiPrincipal,
    ] {
        assert_eq!(Trigger::read(trigger.word(), vec![], trigger.earlier()), Some(trigger));
    }
    assert_eq!(Trigger::read("principal_conflict", vec![], None), None);
    assert_eq!(Trigger::read("uncertainty", vec![], Some(id)), None);
}

#[test]
fn outside_of_sessions_governance_says_what_the_verdict_does() {
    check(&World::with(ALLOW_ALL), &pay("100.00"), "pass", Governance::Proceed);
    check(&World::with(""), &pay("100.00"), "block not_permitted", Governance::Deny);
    let asking = World { earlier: Some(earlier()), ..World::with(ALLOW_ALL) };
    check(&asking, &pay("100.00"), "escalate probable_duplicate", Governance::Escalate);
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
    assert_eq!(decide_by_name(&world.policies, &named).unwrap().governance, Governance::Deny);
}

/// One world for each way in which cycles are decided.
fn worlds() -> Vec<World> {
    let no_export =
        format!("{ALLOW_ALL}\n@escalate forbid (principal, action == Action::\"DATA_EXPORT\", resource);");
    let tree = |policies: &str| {
        world(policies, |_, it| {
            *it = Governed::usual(Mode::Tree);
            it.branches = vec![export(), pay_with(json!({"recipient": "a"}))];
        })
    };
    vec![
        governed(|_| {}),
        governed(|it| it.context.remaining.time_seconds = 0),
        governed(|it| it.declaration = Err(R::Missing)),
        World { observe: true, ..world("", |_, _| {}) },
        tree(&no_export),
        governed(|it| {
            let limits = ApprovedLimits { max_amount: None, not_after_ms: Some(NOON - 1) };
            it.session = it.session.step(E::Limited(limits)).unwrap();
        }),
        tree(&no_export.replace("@escalate", "@tier(\"0-A\")")),
        world(&format!("{ALLOW_ALL}\n{SEED}"), |world, it| {
            world.frozen = Some("all".into());
            it.session = it.session.step(E::Suspended).unwrap();
        }),
    ]
}

#[test]
fn records_of_cycles_decide_again_as_they_did() {
    for world in worlds() {
        for action in [pay("100.00"), pay("6000.00"), pay_with(json!({"recipient": "a"})), export(), fly()] {
            let decision = world.decide(&action);
            let bytes = decision.record.to_bytes();
            let text = std::str::from_utf8(&bytes).unwrap();
            assert_eq!(text, action::json::canonical(&serde_json::from_str(text).unwrap()));
            let again = replay(&bytes, &world.policies).unwrap();
            assert_eq!(again.differences, [], "{}", told(&decision));
        }
    }
}

#[test]
fn a_replay_asks_gate_and_branches_again() {
    let tree = world(ALLOW_ALL, |_, it| {
        *it = Governed::usual(Mode::Tree);
        it.branches = vec![export()];
    });
    let record = tree.decide(&pay("100.00")).record.to_bytes();
    let with = |extra: &str| load(&format!("{ALLOW_ALL}\n{extra}"), "[]").unwrap();
    let now = |extra: &str| replay(&record, &with(extra)).unwrap().now;
    assert_eq!(now(""), "pass");
    assert_eq!(now("forbid (principal, action == Action::\"ExecuteCycle\", resource);"), "block forbidden");
    assert_eq!(now("forbid (principal, action == Action::\"DATA_EXPORT\", resource);"), "block forbidden");
    let never = "@tier(\"0-A\") forbid (principal, action == Action::\"DATA_EXPORT\", resource);
        forbid (principal, action == Action::\"PAYMENT_TRANSFER\", resource);";
    assert_eq!(now(never), "block prohibited");
    // What does not know cycles must not read their records as if they were none.
    let text = String::from_utf8(record.clone()).unwrap();
    assert!(text.contains("\"v\":2"));
    assert!(replay(text.replace("\"v\":2", "\"v\":1").as_bytes(), &tree.policies).is_err());
}

#[test]
fn stages_of_cycles_are_canonical_as_they_stand() {
    for world in worlds() {
        for stage in world.decide(&pay("100.00")).stages {
            let plain = serde_json::to_string(&stage).unwrap();
            assert_eq!(plain, action::json::canonical(&serde_json::from_str(&plain).unwrap()));
        }
    }
}
