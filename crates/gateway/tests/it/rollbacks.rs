//! Undoing what was done: once, however often it is asked for and whatever gets lost; a real bank counts.

use std::sync::Arc;

use countersign_gateway::{ActionView, Code, FreezeAsk, FreezeScope};
use serde_json::json;
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Options};

use crate::banked::{self, RIGHT};
use crate::faults::{Dies, Rival, found};
use crate::house::{BINDING, House, Said};
use crate::late::{NO_RETRY, alerts};
use crate::retries::{AT_ONCE, LATER, a_while, note};
use crate::unbound::wake;

/// Payments that can be given back for an hour.
pub(crate) fn binding(bank: &Bank, retry: &str) -> String {
    let text = banked::binding(bank, "bank", &RIGHT)
        .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nreversible = true\n");
    format!(
        r#"{text}
[binding.rollback]
within_seconds = 3600
path = ["payments", {{ "$action" = "provider_reference" }}, "refunds"]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
success = {{ status = [201], pointer = "/status", equals = ["refunded"] }}
refused = [{{ status = [404, 409, 422] }}]
transient = [{{ status = [429] }}]
reference = "/refund_id"

[retry]
{retry}
"#
    )
}

/// A payment that was carried out.
pub(crate) async fn paid(retry: &str) -> (House, Bank, Said) {
    let bank = banked::bank("USD").await;
    let house = House::bound(&binding(&bank, retry), |config| banked::reaching(config, &[&bank])).await;
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!((said.kind(), bank.balance("acct-1")), ("executed", Some(2500)), "{}", said.body);
    (house, bank, said)
}

/// The state of an action once it is this, which the gateway sees to in the background.
pub(crate) async fn until(house: &House, id: &str, state: &str) {
    for _ in 0..2000 {
        if house.record(id).await.state == state {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it never became {state}");
}

/// The same, of where exactly it stands.
pub(crate) async fn until_phase(house: &House, id: &str, phase: &str) {
    for _ in 0..2000 {
        if house.record(id).await.phase == Some(phase) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it never became {phase}");
}

/// What is to be undone, once whoever has looked after it is gone.
pub(crate) async fn rolled_back(house: &House, id: &str) -> ActionView {
    found("somebody has it in hand", || async {
        match house.gateway().rollback(&house.agent, id).await {
            Err(error) if error.code == Code::StateConflict => None,
            record => Some(record.unwrap()),
        }
    })
    .await
}

#[tokio::test]
async fn a_payment_is_given_back_once_however_often_it_is_asked_for() {
    let (house, bank, said) = paid(AT_ONCE).await;
    let undo = || house.gateway().rollback(&house.agent, said.id());
    let asked = tokio::join!(undo(), undo(), undo());
    assert!([&asked.0, &asked.1, &asked.2].iter().any(|it| it.is_ok()));
    let record = undo().await.unwrap();
    assert_eq!(record.state, "ROLLED_BACK");
    assert_eq!((bank.refunds(), bank.balance("acct-1"), bank.effects().count), (1, Some(0), 1));
    let rollback = record.rollback.unwrap();
    assert_eq!((rollback.sends, rollback.failed, rollback.by.as_str()), (1, false, "agent-7"));
    assert_ne!(rollback.provider_key, record.attempts[0].provider_key);
    let kinds: Vec<_> = record.receipts.iter().map(|it| it.event_type.as_str()).collect();
    assert_eq!(kinds, ["ORIGINAL", "AMENDMENT_ROLLBACK"]);
    let amendment = house.verified(&record.receipts[1].receipt.receipt_id).await;
    assert_eq!(amendment["amendmentOf"], record.receipts[0].receipt.receipt_id.as_str());
    assert_eq!(amendment["paymentStatus"], "not_charged");
    let entries = amendment["entries"].as_array().unwrap();
    let done = entries.iter().find(|entry| entry["stage"] == "execute").unwrap();
    assert_eq!(done["output"]["result"], "compensated");
    assert_eq!(done["input"]["providerKey"], rollback.provider_key.as_str());
    assert_eq!(house.spent(), 2500, "what is given back refills nothing");
    let again = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(again.bytes, said.bytes, "the original stands");
    let trail = house.gateway().check_trail(&house.admin, None).await.unwrap();
    assert_eq!(trail.findings, []);
}

#[tokio::test]
async fn a_request_does_not_have_erased_what_can_still_be_undone() {
    for (window, kept) in [(3600, "hard_delete_1_day"), (90 * 86_400 + 1, "hard_delete_91_days")] {
        let bank = banked::bank("USD").await;
        let binding = binding(&bank, AT_ONCE).swapped("= 3600", &format!("= {window}"));
        let house = House::bound(&binding, |config| {
            banked::reaching(config, &[&bank]);
            config.limits.kept_days = 0;
        })
        .await;
        let mut body = house.payment("acct-1", "25.00");
        body["deletion"] = json!("hard_delete_1d");
        let said = house.said("k", &body).await;
        let told = house.record(said.id()).await.keeping.unwrap();
        assert_eq!(told.deletion_policy.as_deref(), Some(kept));
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_by_sending_the_same_rollback_again() {
    let (mut house, bank, said) = paid(AT_ONCE).await;
    for fault in [Fault::LostAfterEffect, Fault::RateLimited { retry_after: 1 }] {
        bank.inject(Injection::refunds(fault, 1));
    }
    let record = house.gateway().rollback(&house.operator, said.id()).await.unwrap();
    assert_eq!(record.state, "ROLLING_BACK");
    house.installation.start();
    until(&house, said.id(), "ROLLED_BACK").await;
    assert_eq!(house.record(said.id()).await.rollback.unwrap().sends, 3);
    assert_eq!((bank.refunds(), bank.balance("acct-1")), (1, Some(0)));
}

#[tokio::test]
async fn what_is_being_undone_outlives_a_restart() {
    let (house, bank, said) = paid(LATER).await;
    bank.inject(Injection::refunds(Fault::LostBeforeEffect, 1));
    let record = house.gateway().rollback(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), bank.refunds()), ("ROLLING_BACK", 0));
    assert_eq!(house.gateway().check_trail(&house.admin, None).await.unwrap().findings, []);
    let mut house = house.restart().await;
    house.installation.start();
    a_while().await;
    assert_eq!(bank.refunds(), 0, "it is not due");
    assert_eq!(house.store().execute("UPDATE fate SET until = 1 WHERE state = -2", []).unwrap(), 1);
    until(&house, said.id(), "ROLLED_BACK").await;
    assert_eq!(bank.refunds(), 1);
}

#[tokio::test]
async fn only_a_freeze_that_includes_rollbacks_stops_them() {
    let (mut house, bank, said) = paid(LATER).await;
    let scope = FreezeScope::parse("tenant").unwrap();
    let everything = FreezeAsk { include_rollback: true, ..scope.clone().into() };
    house.gateway().freeze(&house.operator, everything.clone()).await.unwrap();
    let refused = house.gateway().rollback(&house.agent, said.id()).await.unwrap_err();
    assert!(
        refused.code == Code::StateConflict && refused.message.contains("EP_FROZEN"),
        "{}",
        refused.message
    );
    assert_eq!(house.record(said.id()).await.state, "COMPLETED");
    house.gateway().freeze(&house.operator, scope.clone().into()).await.unwrap();
    bank.inject(Injection::refunds(Fault::LostBeforeEffect, 1));
    let record = house.gateway().rollback(&house.agent, said.id()).await.unwrap();
    assert_eq!(record.state, "ROLLING_BACK");
    house.gateway().freeze(&house.operator, everything.clone()).await.unwrap();
    assert_eq!(house.store().execute("UPDATE fate SET until = 1 WHERE state = -2", []).unwrap(), 1);
    house.installation.start();
    a_while().await;
    assert_eq!(bank.refunds(), 0, "what was begun waits, too");
    house.gateway().thaw(&house.operator, scope).await.unwrap();
    until(&house, said.id(), "ROLLED_BACK").await;
    assert_eq!(bank.refunds(), 1);
}

#[tokio::test]
async fn a_revoked_mandate_does_not_keep_what_was_done_under_it_from_being_undone() {
    let (house, bank, said) = paid(AT_ONCE).await;
    let jti = house.gateway().mandates(&house.operator, None, 10).await.unwrap().items[0].jti.clone();
    house.gateway().revoke_mandate(&house.operator, &jti, None).await.unwrap();
    let record = house.gateway().rollback(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), bank.refunds()), ("ROLLED_BACK", 1));
}

#[tokio::test]
async fn what_cannot_be_undone_waits_for_a_person_and_raises_an_alert() {
    let text = BINDING.swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nreversible = true\n");
    let house = House::bound(&text, |_| {}).await;
    let said = house.said("k", &house.payment("sandbox:keep", "25.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    for times in 1..=2 {
        // A person may have it tried again.
        let record = house.gateway().rollback(&house.operator, said.id()).await.unwrap();
        assert_eq!((record.state.as_str(), record.rollback.unwrap().failed), ("ROLLING_BACK", true));
        assert_eq!(record.receipts.len(), 1, "the original stands");
        let metrics = house.gateway().metrics().unwrap();
        let alert = metrics.lines().find(|line| line.contains("rollback_failed")).unwrap();
        assert!(alert.ends_with(&format!(" {times}")), "{alert}");
    }
}

#[tokio::test]
async fn who_did_not_answer_was_silent_and_forgets_only_what_it_could_be_sent_again() {
    let forgetful = |text: String| text.swapped("idempotent = { retention_seconds = 86400 }\n", "");
    let (once, often) = (NO_RETRY, AT_ONCE);
    for (policy, forgets, reason) in
        [(once, false, "provider_silent"), (once, true, "provider_silent"), (often, true, "provider_forgets")]
    {
        let bank = banked::bank("USD").await;
        let text = binding(&bank, policy);
        let text = if forgets { forgetful(text) } else { text };
        let dies = Dies::at("rollback-send.after");
        let house = House::bound(&text, |config| {
            banked::reaching(config, &[&bank]);
            config.fail_points = Some(Arc::clone(&dies) as _);
        })
        .await;
        let said = house.said("k", &house.payment("acct-1", "25.00")).await;
        dies.arm();
        house.gateway().rollback(&house.agent, said.id()).await.unwrap_err();
        // Whoever comes after it does not know what the answer was.
        let mut house = house.restart().await;
        wake(&mut house);
        until_phase(&house, said.id(), "rollback_failed").await;
        let rollback = house.record(said.id()).await.rollback.unwrap();
        assert_eq!((rollback.reason.as_deref(), rollback.sends), (Some(reason), 1));
    }
}

#[tokio::test]
async fn what_another_gateway_takes_up_before_anything_of_it_left_is_left_to_it() {
    let bank = banked::bank("USD").await;
    let mut rival = None;
    let mut house = House::bound(&binding(&bank, AT_ONCE), |config| {
        banked::reaching(config, &[&bank]);
        rival = Some(Rival::at("rollback-note.after", config));
    })
    .await;
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    rival.unwrap().arm();
    let record = house.gateway().rollback(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), record.rollback.unwrap().sends), ("ROLLING_BACK", 0));
    assert_eq!((bank.refunds(), alerts(&house, "rollback_failed")), (0, 0));
    // Whoever took it up is gone, and its time is over.
    wake(&mut house);
    until(&house, said.id(), "ROLLED_BACK").await;
    assert_eq!((bank.refunds(), bank.balance("acct-1")), (1, Some(0)));
}

/// A note that can be taken back by a bank that knows no keys.
fn retractable(bank: &Bank) -> String {
    let text = note(bank)
        .swapped(AT_ONCE, NO_RETRY)
        .swapped("currency = \"USD\" }", "currency = \"USD\", reference = { \"$action\" = \"reference\" } }");
    format!(
        r#"{text}reference = "/payment_id"

[binding.rollback]
within_seconds = 3600
path = ["payments", {{ "$action" = "provider_reference" }}, "refunds"]
success = {{ status = [201], pointer = "/status", equals = ["refunded"] }}
refused = [{{ status = [404, 409, 422] }}]
"#
    )
}

#[tokio::test]
async fn what_is_safe_to_repeat_is_not_safe_to_undo_twice() {
    let bank = Bank::start(Options { idempotency: None, ..Options::default() }).await.unwrap();
    let house = House::with(|config| {
        banked::reaching(config, &[&bank]);
        let folder = config.catalogue_dir.as_ref().unwrap().join("default");
        std::fs::write(folder.join("note.toml"), retractable(&bank)).unwrap();
    })
    .await;
    let body =
        json!({ "archetype": "NOTE", "constraints": { "to": "acct-1" }, "delegation_token": house.token });
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    bank.inject(Injection::refunds(Fault::LostAfterEffect, 1));
    let record = house.gateway().rollback(&house.operator, said.id()).await.unwrap();
    assert_eq!(record.phase, Some("rollback_failed"));
    let again = house.gateway().rollback(&house.operator, said.id()).await.unwrap_err();
    assert!(
        again.code == Code::StateConflict && again.message.contains("does not recognise"),
        "{}",
        again.message
    );
    let asked: Vec<u64> = bank.asked_back().into_values().collect();
    assert_eq!((asked, house.record(said.id()).await.rollback.unwrap().sends), (vec![1], 1));
}

#[tokio::test]
async fn what_was_not_done_or_is_not_to_be_undone_is_refused_without_a_trace() {
    let (house, bank, said) = paid(AT_ONCE).await;
    let mut body = house.payment("acct-2", "25.00");
    body["reversible"] = json!(false);
    let grave = house.said("grave", &body).await;
    let failed = house.said("failed", &house.payment("operating", "25.00")).await;
    for (id, code) in [(grave.id(), Code::RollbackRequired), (failed.id(), Code::StateConflict)] {
        assert_eq!(house.gateway().rollback(&house.agent, id).await.unwrap_err().code, code);
    }
    house.rebind(&binding(&bank, AT_ONCE).swapped("within_seconds = 3600", "within_seconds = 0")).await;
    let late = house.gateway().rollback(&house.agent, said.id()).await.unwrap_err();
    assert_eq!(late.code, Code::StateConflict, "its window is over");
    house.rebind(&banked::binding(&bank, "bank", &RIGHT)).await;
    let unbound = house.gateway().rollback(&house.agent, said.id()).await.unwrap_err();
    assert_eq!(unbound.code, Code::RollbackRequired);
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.rollback.is_none(), bank.refunds()), ("COMPLETED", true, 0));
}
