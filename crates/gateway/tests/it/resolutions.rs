//! A person's word on what became of an action, where nobody else tells: what it takes, what it leads to, what it may not
//! overtake, and that it is never taken for the provider's.

use std::sync::atomic::Ordering;

use countersign_gateway::{
    ActionView, Caller, Code, Decision, Error, FreezeScope, Gateway, ResolveAsk, Role, TrailFinding,
};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Target};

use crate::approvals::approver;
use crate::banked::{self, Promise, RIGHT};
use crate::house::{BINDING, House, Said};
use crate::reserving;
use crate::retries::{AT_ONCE, LATER};
use crate::rollbacks;

pub(crate) fn word(decision: Decision) -> ResolveAsk {
    let comment = Some("seen on the statement".to_owned());
    ResolveAsk { decision, comment, charged: None, reference: None }
}

pub(crate) async fn resolve(
    house: &House,
    name: &str,
    id: &str,
    decision: Decision,
) -> Result<ActionView, Error> {
    house.gateway().resolve(&approver(house, name), id, word(decision)).await
}

/// A payment whose provider will never tell what became of it.
async fn silent() -> (House, Said) {
    let house = House::new().await;
    let said = house.said("k", &house.payment("sandbox:silent", "25.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    (house, said)
}

/// A payment that was carried out and cannot be given back.
pub(crate) async fn kept(house: &House) -> Said {
    let said = house.said("k", &house.payment("sandbox:keep", "25.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    house.gateway().rollback(&house.operator, said.id()).await.unwrap();
    said
}

pub(crate) fn reversible() -> String {
    BINDING.swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nreversible = true\n")
}

/// A payment to a bank that answers neither to it nor to questions about it.
pub(crate) async fn unanswered(fault: Fault, retry: &str) -> (House, Bank, Said) {
    let bank = banked::bank("USD").await;
    let house = House::bound(&rollbacks::binding(&bank, retry), |config| {
        banked::reaching(config, &[&bank]);
    })
    .await;
    bank.inject(Injection::payments(fault, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    (house, bank, said)
}

fn executed(receipt: &Value) -> Value {
    let entries = receipt["entries"].as_array().unwrap();
    entries.iter().find(|entry| entry["stage"] == "execute").unwrap()["output"].clone()
}

/// How many entries the ledger has.
fn entries(house: &House) -> i64 {
    house.store().query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap()
}

/// How much the walk finds, which is nothing but what the test did to have time pass.
pub(crate) async fn findings(house: &House) -> usize {
    let found = found(house).await;
    assert!(found.is_empty(), "{found:?}");
    found.len()
}

/// What the walk finds.
pub(crate) async fn found(house: &House) -> Vec<TrailFinding> {
    let known = house.aged.load(Ordering::Relaxed).then_some("its hash is not that of its content");
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let check = house.gateway().check_trail(&house.operator, cursor.as_deref()).await.unwrap();
        found.extend(check.findings.into_iter().filter(|it| Some(&*it.what) != known));
        cursor = check.next;
        if cursor.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn a_doubt_ends_by_a_persons_word_and_the_receipt_says_whose_it_was() {
    let (house, said) = silent().await;
    let anna = approver(&house, "anna");
    let listed = house.gateway().unresolved(&anna).await.unwrap();
    assert_eq!(listed.len(), 1);
    let shown = &listed[0];
    assert_eq!((shown.action_id.as_str(), shown.unresolved), (said.id(), Some("in_doubt")));
    assert_eq!(shown.decisions, [Decision::Executed, Decision::Failed]);
    let parties = house.gateway().held_one(&anna, said.id()).await.unwrap().parties;
    assert_eq!(parties, ["agent-7", "olga"]);

    let ask = ResolveAsk {
        charged: Some("24.5".to_owned()),
        reference: Some("wire-118".to_owned()),
        ..word(Decision::Executed)
    };
    let record = house.gateway().resolve(&anna, said.id(), ask.clone()).await.unwrap();
    assert_eq!(record.state, "COMPLETED");
    let word = &record.resolutions[0];
    assert_eq!(
        (&*word.decision, &*word.by, word.charged.as_deref(), word.reference.as_deref()),
        ("executed", "anna", Some("24.50"), Some("wire-118"))
    );
    assert_eq!(house.spent(), 2450);
    let last = house.said("k", &house.payment("sandbox:silent", "25.00")).await;
    assert_eq!((last.kind(), last.reasons()), ("executed", vec!["resolved_by_person"]));

    let kinds: Vec<_> = record.receipts.iter().map(|it| it.event_type.as_str()).collect();
    assert_eq!(kinds, ["ORIGINAL", "AMENDMENT_SETTLEMENT"]);
    let amendment = house.verified(&record.receipts[1].receipt.receipt_id).await;
    assert_eq!(amendment["money"]["chargeAmount"], "24.50");
    let output = executed(&amendment);
    assert_eq!((&output["result"], &output["reference"]), (&json!("resolved_by_person"), &Value::Null));
    let resolved = &output["resolved"];
    assert_eq!((&resolved["as"], &resolved["form"]), (&json!("executed"), &json!("key")));
    for hidden in ["by", "comment", "reference"] {
        assert!(resolved[hidden].as_str().unwrap().starts_with("c:"), "{resolved}");
    }
    for text in ["anna", "statement", "wire-118"] {
        assert!(!amendment.to_string().contains(text), "{text}: {amendment}");
    }

    // The same word again is the same word; another one, or another person's, comes too late.
    let before = entries(&house);
    let again = house.gateway().resolve(&anna, said.id(), ask).await.unwrap();
    assert_eq!(again.resolutions.len(), 1);
    for (name, decision) in [("anna", Decision::Failed), ("ben", Decision::Executed)] {
        let late = resolve(&house, name, said.id(), decision).await.unwrap_err();
        assert_eq!((late.code, late.message.as_str()), (Code::StateConflict, "the action is over"));
    }
    assert_eq!(entries(&house), before);
    assert!(house.gateway().unresolved(&anna).await.unwrap().is_empty());
    assert_eq!(house.gateway().held_one(&anna, said.id()).await.unwrap().resolutions.len(), 1);

    let ask = countersign_gateway::AuditAsk { limit: 50, ..Default::default() };
    let trail = house.gateway().audit(&house.operator, &ask).await.unwrap();
    let entry = trail.items.iter().find(|entry| entry.event == "resolved").unwrap();
    assert_eq!(entry.human_approver.as_deref(), Some("anna"));
    assert_eq!(entry.result_state.as_deref(), Some("COMPLETED"));
    assert_eq!(findings(&house).await, 0);
}

/// Changes what is kept of the outcomes of an action, as whoever can write the file would.
fn forge(house: &House, state: i64, change: impl Fn(&str) -> String) {
    let store = house.store();
    let sql = "SELECT row, payload FROM outcome WHERE state = ?1";
    let (row, packed): (i64, Vec<u8>) =
        store.query_row(sql, [state], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let plain = String::from_utf8(ledger::unpack(&packed).unwrap()).unwrap();
    let forged = change(&plain);
    assert_ne!(plain, forged);
    store.execute("UPDATE outcome SET payload = ?2 WHERE row = ?1", (row, forged.into_bytes())).unwrap();
}

#[tokio::test]
async fn a_forged_word_of_a_person_is_found() {
    const EXECUTED: i64 = 4;
    const IN_DOUBT: i64 = 3;
    let word =
        r#""resolution":{"as":"executed","by":"zoe","key_id":"k_1","at_ms":1,"comment":"c","number":0}"#;
    let other = "the stored person's word is not the one that the receipt shows";
    type Change<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let swap =
        |from: &'static str, to: &'static str| -> Change<'_> { Box::new(move |it| it.swapped(from, to)) };
    let forgeries: [(i64, Change<'_>, &str); 6] = [
        (EXECUTED, swap(r#""by":"anna""#, r#""by":"zoe""#), other),
        (EXECUTED, swap("seen on the statement", "seen elsewhere"), other),
        (EXECUTED, swap(r#""reference":"wire-118","number""#, r#""reference":"wire-119","number""#), other),
        (EXECUTED, swap(r#""charged":"24.50""#, r#""charged":"24.49""#), other),
        (
            EXECUTED,
            Box::new(|it| format!("{}}}", it.split_once(r#","resolution""#).unwrap().0)),
            "the person's word that it tells of is not stored",
        ),
        (
            IN_DOUBT,
            Box::new(|it| format!("{},{word}}}", it.strip_suffix('}').unwrap())),
            "the stored outcome has a person's word that no entry tells of",
        ),
    ];
    for (state, change, expected) in forgeries {
        let (house, said) = silent().await;
        let ask = ResolveAsk {
            charged: Some("24.50".to_owned()),
            reference: Some("wire-118".to_owned()),
            ..self::word(Decision::Executed)
        };
        house.gateway().resolve(&approver(&house, "anna"), said.id(), ask).await.unwrap();
        assert_eq!(findings(&house).await, 0);
        forge(&house, state, change);
        let found = house.gateway().check_trail(&house.operator, None).await.unwrap().findings;
        let told: Vec<&str> = found.iter().map(|it| it.what.as_str()).collect();
        // Whatever else it is, it is not what the entry names.
        assert!(["the stored outcome is not the one it names", expected].contains(&told[0]), "{told:?}");
        assert_eq!(found[0].action_id.as_deref(), Some(said.id()));
    }
}

#[tokio::test]
async fn a_doubt_without_effect_gives_its_money_back_and_what_turns_up_later_is_late() {
    let (house, bank, said) = unanswered(Fault::LostAfterEffect, AT_ONCE).await;
    assert_eq!(house.spent(), 2500);
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    let record = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::ProviderFailed)));
    assert_eq!(house.spent(), 0);
    let amendment = house.verified(&record.receipts[1].receipt.receipt_id).await;
    assert_eq!(
        (&amendment["metadata"]["kind"], &amendment["paymentStatus"]),
        (&json!("failed"), &json!("not_charged"))
    );
    assert_eq!(executed(&amendment)["resolved"]["as"], "failed");
    // The person was wrong, and the bank says so when it is asked before another attempt.
    let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent(), bank.effects().count), ("COMPLETED", 2500, 1));
    let metrics = house.gateway().metrics().unwrap();
    assert!(metrics.lines().any(|line| line.contains("late_effect") && line.ends_with(" 1")));
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn a_provider_that_tells_is_believed_instead() {
    for (decision, agrees) in [(Decision::Executed, true), (Decision::Failed, false)] {
        let (house, _bank, said) = unanswered(Fault::LostAfterEffect, AT_ONCE).await;
        let resolved = resolve(&house, "anna", said.id(), decision).await;
        match resolved {
            Ok(record) => assert!(agrees && record.resolutions.is_empty()),
            Err(error) => {
                assert!(!agrees && error.code == Code::StateConflict);
                assert!(error.message.contains("its word counts: it was carried out"), "{}", error.message);
            }
        }
        let record = house.record(said.id()).await;
        assert_eq!((record.state.as_str(), record.resolutions.len(), house.spent()), ("COMPLETED", 0, 2500));
    }
}

#[tokio::test]
async fn while_the_provider_may_still_tell_for_certain_it_is_waited_for() {
    let (house, bank, said) = unanswered(Fault::LostBeforeEffect, AT_ONCE).await;
    for decision in [Decision::Executed, Decision::Failed] {
        let early = resolve(&house, "anna", said.id(), decision).await.unwrap_err();
        assert!(early.code == Code::StateConflict && early.message.contains("so far"), "{}", early.message);
    }
    assert_eq!(house.record(said.id()).await.state, "EXECUTING");
    // So long ago that an absence is final.
    house.age("k", "json_set(payload, '$.call.send_by_ms', 1)");
    let wrong = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap_err();
    assert!(wrong.message.contains("its word counts: it had no effect"), "{}", wrong.message);
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), house.spent(), bank.effects().count), ("FAILED", 0, 0));
}

#[tokio::test]
async fn a_provider_that_says_no_has_it_tried_again_whatever_a_person_says() {
    let bank = banked::bank("USD").await;
    let binding = banked::retrying(&bank, Promise::Queryable, LATER);
    let house = House::bound(&binding, |config| {
        banked::reaching(config, &[&bank]);
        config.limits.patience_ms = 0;
    })
    .await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    house.age("k", "json_set(payload, '$.call.send_by_ms', 1)");
    let error = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap_err();
    assert!(error.message.contains("it had no effect, and it is tried again"), "{}", error.message);
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.resolutions.len(), house.spent()), ("EXECUTING", 0, 2500));
    let waits = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap_err();
    assert!(waits.message.contains("waits for its next attempt"), "{}", waits.message);
}

#[tokio::test]
async fn nothing_that_is_in_flight_is_overtaken() {
    let bank = banked::bank("USD").await;
    let house =
        House::bound(&banked::binding(&bank, "bank", &RIGHT), |config| banked::reaching(config, &[&bank]))
            .await;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 600_000 }, 1));
    let mut body = house.payment("acct-1", "25.00");
    body["deadline_ms"] = json!(500);
    // Its caller is told that it is in doubt, and its answer is still waited for.
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    let error = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::StateConflict, "somebody is at the action just now")
    );
    assert_eq!((house.record(said.id()).await.state.as_str(), house.spent()), ("EXECUTING", 2500));
}

#[tokio::test]
async fn a_doubt_that_was_sent_again_is_settled_however_long_its_lease_runs() {
    let bank = banked::bank("USD").await;
    let mut house = House::bound(&banked::retrying(&bank, Promise::Idempotent, AT_ONCE), |config| {
        banked::reaching(config, &[&bank]);
        config.limits.patience_ms = 0;
    })
    .await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 9));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    house.installation.start();
    while house.record(said.id()).await.attempts[0].sends < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // As if whoever sent it last, and is done with it, could not let go of a lease that ends in the far future.
    let leased = "UPDATE fate SET owner = 1, until = 9000000000000000 WHERE state = 3";
    assert_eq!(house.store().execute(leased, []).unwrap(), 1);
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), record.resolutions.len(), bank.effects().count), ("COMPLETED", 1, 1));
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn a_doubt_whose_provider_or_archetype_is_gone_still_has_a_way_out() {
    const ORDER: &str = r#"
name = "ORDER"
description = "Order something"
reversible = true
guarantee_level = "atp-1"
[cedar]
groups = ["Payments"]
resource_type = "Thing"
[schema]
required = ["what"]
[schema.properties.what]
type = "string"
x-identifier = true
[binding]
provider = "sandbox"
options = { triggers = true }
"#;
    let house = House::with(|config| {
        let folder = config.catalogue_dir.as_ref().unwrap().join("default");
        std::fs::write(folder.join("order.toml"), ORDER).unwrap();
    })
    .await;
    let order = json!({
        "archetype": "ORDER", "constraints": { "what": "sandbox:lose" }, "delegation_token": house.token,
    });
    let said = house.said("k", &order).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    std::fs::remove_file(house.path("catalogue/default/order.toml")).unwrap();
    house.gateway().reload(&house.admin).await.unwrap();
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), record.resolutions.len()), ("COMPLETED", 1));
}

#[tokio::test]
async fn what_could_not_be_undone_was_undone_by_hand_or_stays() {
    for (decision, state, payment, charged) in [
        (Decision::RolledBack, "ROLLED_BACK", "not_charged", Value::Null),
        (Decision::Executed, "COMPLETED", "charged", json!("25.00")),
    ] {
        let house = House::bound(&reversible(), |_| {}).await;
        let said = kept(&house).await;
        let anna = approver(&house, "anna");
        let shown = house.gateway().held_one(&anna, said.id()).await.unwrap();
        assert_eq!(shown.unresolved, Some("rollback_failed"));
        assert_eq!(shown.decisions, [Decision::RolledBack, Decision::Executed]);
        let unfit = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap_err();
        assert_eq!(unfit.code, Code::StateConflict);
        assert_eq!(unfit.hint.as_deref(), Some("say `rolled_back` or `executed`"));

        let record = resolve(&house, "anna", said.id(), decision).await.unwrap();
        assert_eq!((record.state.as_str(), record.resolutions.len()), (state, 1));
        assert_eq!(house.spent(), 2500, "what is given back refills nothing");
        let kinds: Vec<_> = record.receipts.iter().map(|it| it.event_type.as_str()).collect();
        assert_eq!(kinds, ["ORIGINAL", "AMENDMENT_ROLLBACK"]);
        let amendment = house.verified(&record.receipts[1].receipt.receipt_id).await;
        assert_eq!(
            (&amendment["paymentStatus"], &amendment["money"]["chargeAmount"]),
            (&json!(payment), &charged)
        );
        let output = executed(&amendment);
        assert_eq!(output["result"], "resolved_by_person");
        assert_eq!(output["resolved"]["as"], decision.as_str());
        let again = house.said("k", &house.payment("sandbox:keep", "25.00")).await;
        assert_eq!(again.bytes, said.bytes, "the original stands");
        assert_eq!(resolve(&house, "anna", said.id(), decision).await.unwrap().resolutions.len(), 1);
        assert_eq!(findings(&house).await, 0);
    }
}

/// It costs less than was authorised, fails its check, and there is nothing by which the bank would take it back.
fn amiss(bank: &Bank) -> String {
    let binding = rollbacks::binding(bank, AT_ONCE)
        .swapped("amount = { \"$money\" = \"amount\" }", "amount = \"20.00\"")
        .swapped("\"refunds\"]", "\"nothing\"]");
    format!(
        r#"{binding}
[binding.check]
path = "/payments"
params = {{ reference = {{ "$action" = "reference" }} }}
holds = {{ status = [200], pointer = "/payments/0/status", equals = ["as wished"] }}
fails = {{ status = [200], pointer = "/payments/0/status", equals = ["settled"] }}
"#
    )
}

#[tokio::test]
async fn what_stays_though_its_check_failed_stays_charged_as_it_was() {
    let bank = banked::bank("USD").await;
    let house = House::bound(&amiss(&bank), |config| banked::reaching(config, &[&bank])).await;
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(
        (said.kind(), said.reasons(), bank.balance("acct-1")),
        ("executed", vec!["check_failed", "rollback_failed"], Some(2000)),
        "{}",
        said.body
    );
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    let mut charged = Vec::new();
    for receipt in &record.receipts {
        charged.push(house.verified(&receipt.receipt.receipt_id).await["money"]["chargeAmount"].clone());
    }
    assert_eq!((record.state.as_str(), charged), ("COMPLETED", vec![json!("20.00"), json!("20.00")]));
    assert_eq!((house.spent(), findings(&house).await), (2000, 0));
}

#[tokio::test]
async fn whoever_asked_or_gave_the_right_to_ask_does_not_say_what_became_of_it() {
    let house = House::bound(&reversible(), |_| {}).await;
    let said = kept(&house).await;
    let gateway = house.gateway();
    // The agent, whoever issued the mandate, and who asked for the rollback, whatever else they may.
    for name in ["agent-7", "olga"] {
        let error = resolve(&house, name, said.id(), Decision::RolledBack).await.unwrap_err();
        assert_eq!(error.code, Code::Forbidden, "{name}");
    }
    for role in [Role::Agent, Role::Operator, Role::Auditor, Role::Admin] {
        let caller = Caller { role, ..approver(&house, "carl") };
        let error = gateway.resolve(&caller, said.id(), word(Decision::RolledBack)).await.unwrap_err();
        assert_eq!(error.code, Code::Forbidden, "{role:?}");
    }
    assert_eq!(house.record(said.id()).await.state, "ROLLING_BACK");
}

#[tokio::test]
async fn who_made_a_key_of_the_agent_is_a_party_even_if_nothing_ever_waited() {
    let (house, said) = silent().await;
    let ask = countersign_gateway::KeyAsk {
        tenant: None,
        subject: house.agent.subject.clone(),
        role: Role::Agent,
        default_mandate: None,
    };
    house.gateway().create_key(&house.admin, ask).await.unwrap();
    let error = resolve(&house, "ada", said.id(), Decision::Executed).await.unwrap_err();
    assert_eq!(error.code, Code::Forbidden);
}

#[tokio::test]
async fn what_is_wrong_with_a_word_is_named_and_leaves_no_trace() {
    let (house, said) = silent().await;
    let (anna, before) = (approver(&house, "anna"), entries(&house));
    let right = word(Decision::Executed);
    let some = |text: &str| Some(text.to_owned());
    for (field, ask) in [
        ("/comment", ResolveAsk { comment: None, ..right.clone() }),
        ("/comment", ResolveAsk { comment: some(""), ..right.clone() }),
        ("/comment", ResolveAsk { comment: some("one\ntwo"), ..right.clone() }),
        ("/comment", ResolveAsk { comment: Some("x".repeat(1001)), ..right.clone() }),
        ("/charged/amount", ResolveAsk { charged: some("25.01"), ..right.clone() }),
        ("/charged/amount", ResolveAsk { charged: some("-1.00"), ..right.clone() }),
        ("/charged/amount", ResolveAsk { charged: some("1.001"), ..right.clone() }),
        ("/charged", ResolveAsk { charged: some("1.00"), ..word(Decision::Failed) }),
        ("/reference", ResolveAsk { reference: some("a b"), ..right.clone() }),
        ("/reference", ResolveAsk { reference: some(""), ..right.clone() }),
        ("/reference", ResolveAsk { reference: Some("r".repeat(201)), ..right.clone() }),
        ("/reference", ResolveAsk { reference: some("r"), ..word(Decision::Failed) }),
    ] {
        let error = house.gateway().resolve(&anna, said.id(), ask.clone()).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (Code::ValidationFailed, Some(field)), "{ask:?}");
    }
    let unfit = resolve(&house, "anna", said.id(), Decision::RolledBack).await.unwrap_err();
    assert_eq!(unfit.code, Code::StateConflict);
    assert_eq!((entries(&house), house.spent()), (before, 2500));
    assert_eq!(house.record(said.id()).await.state, "EXECUTING");
}

#[tokio::test]
async fn what_needs_nobodys_word_takes_none() {
    let house = House::new().await;
    let done = house.said("done", &house.payment("acct-1", "25.00")).await;
    let failed = house.said("failed", &house.payment("sandbox:fail", "25.00")).await;
    house.gateway().freeze(&house.operator, FreezeScope::parse("tenant").unwrap().into()).await.unwrap();
    let blocked = house.said("blocked", &house.payment("acct-2", "25.00")).await;
    house.gateway().thaw(&house.operator, FreezeScope::parse("tenant").unwrap()).await.unwrap();
    let held = house.said("held", &house.payment("acct-1", "25.00")).await;
    assert_eq!(
        [done.kind(), failed.kind(), blocked.kind(), held.kind()],
        ["executed", "failed", "blocked", "held"]
    );
    let before = entries(&house);
    for said in [&done, &failed, &blocked, &held] {
        for decision in Decision::ALL {
            let error = resolve(&house, "anna", said.id(), decision).await.unwrap_err();
            assert_eq!(error.code, Code::StateConflict, "{}: {decision:?}", said.kind());
        }
    }
    assert_eq!(entries(&house), before);
    let anna = approver(&house, "anna");
    assert!(house.gateway().held_one(&anna, done.id()).await.is_err(), "nobody was ever asked about it");
}

#[tokio::test]
async fn two_people_at_once_are_one_word() {
    let (house, said) = silent().await;
    let (yes, no) = tokio::join!(
        resolve(&house, "anna", said.id(), Decision::Executed),
        resolve(&house, "ben", said.id(), Decision::Failed),
    );
    assert!(yes.is_ok() != no.is_ok());
    assert_eq!(house.record(said.id()).await.resolutions.len(), 1);
}

#[tokio::test]
async fn the_anonymous_of_the_sandbox_decide_on_nothing() {
    let (house, said) = silent().await;
    let error = house.gateway().resolve(&Gateway::anonymous(), said.id(), word(Decision::Executed)).await;
    assert_eq!(error.unwrap_err().code, Code::Forbidden);
}

#[tokio::test]
async fn whoever_asked_stays_a_party_when_somebody_else_asks_after_them() {
    // For a rollback.
    let house = House::bound(&reversible(), |_| {}).await;
    let otto = Caller { subject: action::Subject::parse("otto").unwrap(), ..house.operator.clone() };
    let said = house.said("k", &house.payment("sandbox:keep", "25.00")).await;
    for caller in [&otto, &house.agent] {
        house.gateway().rollback(caller, said.id()).await.unwrap();
    }
    is_party(&house, "otto", said.id(), Decision::RolledBack).await;

    // For a release.
    let said = house
        .said("r", &{
            let mut body = house.payment("sandbox:keep", "26.00");
            body["payment_mode"] = json!("RESERVE_IF_AVAILABLE");
            body
        })
        .await;
    for caller in [&otto, &house.agent] {
        let record = house.gateway().release(caller, said.id()).await.unwrap();
        assert_eq!(record.reservation.unwrap().state, "release_failed");
    }
    is_party(&house, "otto", said.id(), Decision::Released).await;

    // For another attempt, and for the capture of the one before.
    let bank = banked::bank("USD").await;
    let house = House::bound(&reserving::binding(&bank), |config| banked::reaching(config, &[&bank])).await;
    let said = house.said("k", &reserving::reserving(&house, "25.00")).await;
    let olaf = Caller { subject: action::Subject::parse("olaf").unwrap(), ..house.operator.clone() };
    bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 1));
    house.gateway().capture(&otto, said.id(), None).await.unwrap();
    house.gateway().release(&house.agent, said.id()).await.unwrap();
    house.gateway().retry(&olaf, said.id()).await.unwrap();
    bank.inject(Injection::on(Target::Captures, Fault::LostAfterEffect, 1));
    house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    for name in ["otto", "olaf"] {
        is_party(&house, name, said.id(), Decision::Executed).await;
    }
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), findings(&house).await), ("COMPLETED", 0));
}

async fn is_party(house: &House, name: &str, id: &str, decision: Decision) {
    let error = resolve(house, name, id, decision).await.unwrap_err();
    assert_eq!(error.code, Code::Forbidden, "{name}");
    let parties = house.gateway().held_one(&approver(house, "anna"), id).await.unwrap().parties;
    assert!(parties.iter().any(|party| party == name), "{name}: {parties:?}");
}
