//! INVARIANT (narrowing): whatever action a child permits, its parent permits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::LazyLock;

use action::{Action, Catalogue, Currency, Money, Request, Subject};
use countersign_mandate::{
    Account, Claims, Limits, Mandate, Refusal, ResourceEnvelope, SpendCap, Usage, Use, exposure,
};
use proptest::prelude::*;
use serde_json::{Number, json};

/// Read once.
static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::builtin);

fn claims() -> Claims {
    Claims {
        jti: "parent".into(),
        iss: "alice".into(),
        sub: "agent-7".into(),
        aud: "https://gw.example".into(),
        iat: 0,
        exp: 1_000,
        mandate_scope: vec!["Payments".into(), "DATA_EXPORT".into()],
        resources: Some(vec!["acct-*".into(), "shop".into()]),
        spend_cap: Some(cap("100.00")),
        max_actions: Some(10),
        requires_approval: Some(vec!["PAYMENT_TRANSFER".into()]),
        uncertainty_floor: Number::from_f64(0.5),
        trust_floor: Number::from_f64(0.25),
        goal_scope: Some(vec!["reconcile".into(), "report".into()]),
        resource_envelope: Some(envelope(60)),
        ..Claims::default()
    }
}

/// A child that says nothing of its own.
fn silent() -> Claims {
    Claims {
        jti: "child".into(),
        iss: "agent-7".into(),
        sub: "agent-8".into(),
        aud: "https://gw.example".into(),
        iat: 10,
        exp: 900,
        mandate_scope: claims().mandate_scope,
        delegation_chain: Some(vec!["parent".into()]),
        ..Claims::default()
    }
}

fn cap(amount: &str) -> SpendCap {
    SpendCap { amount: amount.into(), currency: "USD".into() }
}

fn envelope(most: u64) -> ResourceEnvelope {
    ResourceEnvelope {
        max_compute_units: Some(most),
        max_duration_seconds: Some(most),
        max_memory_bytes: Some(most),
        max_network_egress_bytes: Some(most),
        max_storage_bytes: Some(most),
    }
}

/// Parent and child as they are judged, and what the parent has left.
fn judged(child: Claims, account: &Account) -> (Mandate, Mandate, Result<(), Refusal>) {
    let parent = Mandate::of(&claims()).unwrap();
    let left = account.left(&parent.limits());
    let child = Mandate::of(&child.inherit(&claims().limited_to(&left))).unwrap().under(&parent);
    let verdict = child.narrows(&parent, &left, &CATALOGUE);
    (parent, child, verdict)
}

#[track_caller]
fn widened(change: impl FnOnce(&mut Claims)) -> &'static str {
    let mut child = silent();
    change(&mut child);
    match judged(child, &Account::new("parent")).2 {
        Err(Refusal::Widened { member }) => member,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_member_that_is_wider_is_named() {
    assert_eq!(widened(|c| c.mandate_scope = vec!["Travel".into()]), "mandate_scope");
    assert_eq!(widened(|c| c.mandate_scope.push("NOT_THERE_YET".into())), "mandate_scope");
    assert_eq!(widened(|c| c.resources = Some(vec!["acct*".into()])), "resources");
    assert_eq!(widened(|c| c.resources = Some(vec!["shop*".into()])), "resources");
    assert_eq!(widened(|c| c.spend_cap = Some(cap("100.01"))), "spend_cap");
    let euros = SpendCap { amount: "1.00".into(), currency: "EUR".into() };
    assert_eq!(widened(|c| c.spend_cap = Some(euros)), "spend_cap");
    assert_eq!(widened(|c| c.max_actions = Some(11)), "max_actions");
    assert_eq!(widened(|c| c.requires_approval = Some(vec![])), "requires_approval");
    assert_eq!(widened(|c| c.uncertainty_floor = Number::from_f64(0.4)), "uncertainty_floor");
    assert_eq!(widened(|c| c.trust_floor = Number::from_f64(0.2)), "trust_floor");
    assert_eq!(widened(|c| c.goal_scope = Some(vec!["reconcile".into(), "trade".into()])), "goal_scope");
    assert_eq!(widened(|c| c.exp = 1_001), "exp");
    assert_eq!(widened(|c| (c.nbf, c.iat) = (Some(-1), -2)), "nbf");
    assert_eq!(widened(|c| c.aud = "https://other.example".into()), "aud");
    let more = |change: fn(&mut ResourceEnvelope)| {
        let mut envelope = envelope(60);
        change(&mut envelope);
        widened(|c| c.resource_envelope = Some(envelope))
    };
    assert_eq!(more(|it| it.max_compute_units = Some(61)), "max_compute_units");
    assert_eq!(more(|it| it.max_duration_seconds = Some(61)), "max_duration_seconds");
    assert_eq!(more(|it| it.max_memory_bytes = Some(61)), "max_memory_bytes");
    assert_eq!(more(|it| it.max_network_egress_bytes = Some(61)), "max_network_egress_bytes");
    assert_eq!(more(|it| it.max_storage_bytes = Some(61)), "max_storage_bytes");
}

#[test]
fn what_is_left_out_is_the_parents_and_never_without_limit() {
    let (parent, child, verdict) = judged(silent(), &Account::new("parent"));
    assert_eq!(verdict, Ok(()));
    assert_eq!(child.limits(), parent.limits());
    assert_eq!(child.resources, parent.resources);
    assert_eq!(child.goal_scope, parent.goal_scope);
    assert_eq!(child.requires_approval, parent.requires_approval);
    assert_eq!(child.uncertainty_floor, parent.uncertainty_floor);
    // An empty list of goals would mean any goal.
    let (_, child, _) = judged(Claims { goal_scope: Some(vec![]), ..silent() }, &Account::new("parent"));
    assert_eq!(child.goal_scope, parent.goal_scope);
    // One member of an envelope of its own does not lift the others.
    let own = ResourceEnvelope { max_duration_seconds: Some(5), ..ResourceEnvelope::default() };
    let (_, child, _) = judged(Claims { resource_envelope: Some(own), ..silent() }, &Account::new("parent"));
    let expected = ResourceEnvelope { max_duration_seconds: Some(5), ..envelope(60) };
    assert_eq!(child.resource_envelope, expected);
    // A child that was signed before its parent held begins with it.
    let late = Claims { nbf: Some(50), ..claims() };
    assert_eq!(silent().inherit(&late).nbf, Some(50));
}

#[test]
fn a_name_in_a_group_and_a_group_of_names_are_within() {
    let within = |scope: &[&str]| {
        let scope = scope.iter().map(|name| (*name).to_owned()).collect();
        judged(Claims { mandate_scope: scope, ..silent() }, &Account::new("parent")).2
    };
    assert_eq!(within(&["PAYMENT_TRANSFER"]), Ok(()));
    assert_eq!(within(&["Payments"]), Ok(()));
    assert_eq!(within(&["PAYMENT_TRANSFER", "DATA_EXPORT"]), Ok(()));
    // The parent has one of the group and not all of it.
    assert_eq!(within(&["Data"]), Err(Refusal::Widened { member: "mandate_scope" }));
}

#[test]
fn a_child_has_no_more_than_what_is_left() {
    let money = Money::parse("60.00", Currency::of("USD").unwrap()).unwrap();
    let usage = Usage { seconds: 20, ..Usage::default() };
    let limits = Mandate::of(&claims()).unwrap().limits();
    let account = Account::new("parent").debit(&limits, &Use { money: Some(money), usage }).unwrap();
    let asked = |child: Claims| judged(child, &account);
    let (_, child, verdict) = asked(silent());
    assert_eq!(verdict, Ok(()));
    assert_eq!(child.spend_cap.unwrap().to_string(), "40.00");
    assert_eq!((child.max_actions, child.resource_envelope.max_duration_seconds), (Some(9), Some(40)));
    let over = |change: fn(&mut Claims)| {
        let mut child = silent();
        change(&mut child);
        asked(child).2
    };
    let widened = |member| Err(Refusal::Widened { member });
    assert_eq!(over(|c| c.spend_cap = Some(cap("40.01"))), widened("spend_cap"));
    assert_eq!(over(|c| c.max_actions = Some(10)), widened("max_actions"));
    assert_eq!(over(|c| c.resource_envelope = Some(envelope(41))), widened("max_duration_seconds"));
    assert_eq!(over(|c| c.spend_cap = Some(cap("40.00"))), Ok(()));
}

#[test]
fn least_is_the_lower_of_each_two() {
    let usd = |amount| Money::parse(amount, Currency::of("USD").unwrap()).ok();
    let one = Limits { spend_cap: usd("5.00"), max_actions: None, envelope: envelope(7) };
    let other = Limits { spend_cap: usd("9.00"), max_actions: Some(3), envelope: envelope(6) };
    let least = Limits { spend_cap: usd("5.00"), max_actions: Some(3), envelope: envelope(6) };
    assert_eq!((one.least(&other), other.least(&one)), (least, least));
    assert_eq!(Limits::default().least(&least), least);
}

fn any_child() -> impl Strategy<Value = Claims> {
    let some = |names: Vec<&'static str>| {
        let most = names.len();
        prop::sample::subsequence(names, 1..=most)
    };
    let scope = prop_oneof![
        2 => some(vec!["Payments", "PAYMENT_TRANSFER", "DATA_EXPORT"]),
        1 => some(vec!["Payments", "PAYMENT_TRANSFER", "DATA_EXPORT", "Data", "Travel", "FLIGHT_BOOKING"]),
    ];
    let resources = prop::option::of(prop::sample::subsequence(
        vec!["acct-*", "acct-1", "acct-2*", "shop", "shop*", "a*", "*", "other"],
        1..4,
    ));
    let sum = prop::option::of(
        (0..15_000u32).prop_map(|minor| cap(&format!("{}.{:02}", minor / 100, minor % 100))),
    );
    let times = (prop::option::of(-5..20i64), 20..1_200i64);
    (scope, resources, sum, prop::option::of(0..12u64), times).prop_map(
        |(scope, resources, spend_cap, max_actions, (nbf, exp))| {
            let texts = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
            Claims {
                mandate_scope: texts(scope),
                resources: resources.map(texts),
                spend_cap,
                max_actions,
                nbf,
                exp,
                requires_approval: Some(vec!["Payments".into()]),
                ..silent()
            }
        },
    )
}

fn any_action() -> impl Strategy<Value = Action> {
    let recipient = prop::sample::select(vec!["acct-1", "acct-22", "acct-9", "shop", "shop-2", "other"]);
    let pay = (recipient, 1..12_000u32).prop_map(|(recipient, minor)| {
        let amount = format!("{}.{:02}", minor / 100, minor % 100);
        let constraints = json!({"recipient": recipient, "amount_usd": amount, "max_total_usd": "1000.00"});
        ("PAYMENT_TRANSFER", constraints)
    });
    let export = Just((
        "DATA_EXPORT",
        json!({"dataset": "crm", "format": "csv", "destination": "s3://x", "purpose": "report"}),
    ));
    let book = Just((
        "FLIGHT_BOOKING",
        json!({"origin": "BER", "destination": "LIS", "depart_date": "2026-06-01", "passengers": 1,
               "cabin": "economy", "max_total_usd": "90"}),
    ));
    prop_oneof![4 => pay, 1 => export, 1 => book].prop_map(|(archetype, constraints)| {
        let request = json!({"archetype": archetype, "constraints": constraints});
        let request = Request::from_value(request).unwrap();
        Action::of(request, CATALOGUE.get(archetype).unwrap()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_a_child_permits_its_parent_permits(
        child in any_child(),
        spent in 0..10_000i64,
        used in 0..10u64,
        actions in prop::collection::vec(any_action(), 1..6),
        now in -10..1_300i64,
    ) {
        let mut above = Account { spent_minor: spent, actions: used, ..Account::new("parent") };
        let (parent, child, verdict) = judged(child, &above);
        if verdict.is_err() {
            return Ok(());
        }
        let mut own = Account::new("child");
        for action in actions {
            let asked = child.permits(&action, &Subject::parse("agent-8").unwrap(), &own, now);
            if asked.is_ok() {
                prop_assert_eq!(parent.carries(&action, &above, now), Ok(()));
                let takes = Use::of_money(exposure(&action));
                own = own.debit(&child.limits(), &takes).unwrap();
                // The parent pays with it, which is why it still carries the next one.
                above = above.debit(&parent.limits(), &takes).unwrap();
            }
        }
    }
}
