//! What somebody may do about an action: have it tried again, call it off; and effects that come after the last word.

use action::Subject;
use countersign_gateway::{Caller, Code, FreezeScope, Role};
use serde_json::json;
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection};

use crate::banked::{self, Promise, RIGHT};
use crate::house::{House, Said};
use crate::retries::{LATER, a_while, busy, patient, receipt};

/// A payment that the bank refused once.
pub(crate) async fn failed() -> (House, Bank, Said) {
    let bank = banked::bank("USD").await;
    let binding = banked::binding(&bank, "bank", &RIGHT).swapped("[402, 422]", "[402, 422, 429]");
    busy(&bank, 1);
    let house = House::bound(&binding, |config| banked::reaching(config, &[&bank])).await;
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!((said.kind(), said.code()), ("failed", "EP_PROVIDER_FAILED"), "{}", said.body);
    (house, bank, said)
}

#[tokio::test]
async fn what_failed_is_tried_again_as_the_next_attempt_of_the_same_action() {
    let (house, bank, said) = failed().await;
    assert_eq!(house.spent(), 0);
    let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), record.error), ("COMPLETED", None));
    let attempts: Vec<_> = record.attempts.iter().map(|it| (it.attempt, it.result.as_deref())).collect();
    assert_eq!(attempts, [(1, Some("failed")), (2, Some("confirmed"))]);
    let kinds: Vec<_> = record.receipts.iter().map(|it| it.event_type.as_str()).collect();
    assert_eq!(kinds, ["ORIGINAL", "AMENDMENT_RETRY"]);
    for receipt in &record.receipts {
        house.verified(&receipt.receipt.receipt_id).await;
    }
    assert_eq!((bank.effects().count, house.spent()), (1, 2500));
    let again = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!((again.kind(), again.replayed), ("executed", true));
    let twice = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
    assert_eq!(twice.code, Code::StateConflict);
    assert_eq!(bank.effects().count, 1);
}

#[tokio::test]
async fn only_whose_it_is_and_operators_have_an_action_tried_again() {
    let (house, bank, said) = failed().await;
    let rival = Caller { subject: Subject::parse("rival").unwrap(), ..house.agent.clone() };
    assert_eq!(house.gateway().retry(&rival, said.id()).await.unwrap_err().code, Code::NotFound);
    let auditor = Caller { role: Role::Auditor, ..house.operator.clone() };
    assert_eq!(house.gateway().retry(&auditor, said.id()).await.unwrap_err().code, Code::Forbidden);
    assert_eq!(bank.effects().count, 0);
    assert_eq!(house.gateway().retry(&house.operator, said.id()).await.unwrap().state, "COMPLETED");
}

#[tokio::test]
async fn what_is_judged_otherwise_now_is_not_tried_again_and_stays_as_it_was() {
    let (house, bank, said) = failed().await;
    let scope = FreezeScope::parse("tenant").unwrap();
    house.gateway().freeze(&house.operator, scope.into()).await.unwrap();
    let refused = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
    assert!(
        refused.code == Code::StateConflict && refused.message.contains("EP_FROZEN"),
        "{}",
        refused.message
    );
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.attempts.len(), record.receipts.len()), ("FAILED", 1, 1));
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn what_has_a_deadline_that_is_over_is_not_tried_again_and_stays_as_it_was() {
    let (house, bank, said) = failed().await;
    house.age("k", "json_set(payload, '$.deadline_ms', 1)");
    for _ in 0..2 {
        let late = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
        assert_eq!(late.code, Code::StateConflict);
        assert!(late.message.contains("EP_DEADLINE_EXCEEDED"), "{}", late.message);
    }
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.attempts.len(), record.receipts.len()), ("FAILED", 1, 1));
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn two_who_ask_at_once_get_one_attempt() {
    let (house, bank, said) = failed().await;
    let retry = || house.gateway().retry(&house.agent, said.id());
    let results = tokio::join!(retry(), retry(), retry());
    let done = [&results.0, &results.1, &results.2].iter().filter(|it| it.is_ok()).count();
    assert!(done >= 1);
    assert_eq!((bank.effects().count, house.spent()), (1, 2500));
    assert_eq!(house.record(said.id()).await.attempts.len(), 2);
}

#[tokio::test]
async fn an_effect_after_the_last_word_amends_it_and_is_not_had_twice() {
    let bank = banked::bank("USD").await;
    let binding = banked::binding(&bank, "bank", &RIGHT).swapped("timeout_ms = 5000", "timeout_ms = 100");
    let mut house = House::bound(&binding, |config| banked::reaching(config, &[&bank])).await;
    house.installation.start();
    bank.inject(Injection::payments(Fault::Late { ms: 5_000 }, 1));
    let body = house.payment("acct-1", "25.00");
    assert_eq!(house.said("k", &body).await.kind(), "pending_settlement");
    // The bank says there is no such payment, and its binding that it will stay so.
    let said = house.until("k", &body, "failed").await;
    assert_eq!((said.reasons(), house.spent()), (vec!["absent"], 0));
    while bank.effects().count == 0 {
        a_while().await;
    }
    let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), record.attempts.len()), ("COMPLETED", 1));
    let kinds: Vec<_> = record.receipts.iter().map(|it| it.event_type.as_str()).collect();
    assert_eq!(kinds, ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_SETTLEMENT"]);
    let told = "SELECT count(*) FROM entry WHERE instr(CAST(bytes AS TEXT), '\"event\":\"late_effect\"')";
    let told: i64 = house.store().query_row(told, [], |row| row.get(0)).unwrap();
    assert_eq!(told, 1, "notices go by the event");
    assert_eq!((bank.effects().count, house.spent()), (1, 2500));
    let metrics = house.gateway().metrics().unwrap();
    let alerts = metrics
        .lines()
        .find(|line| line.starts_with("countersign_alerts_total") && line.contains("late_effect"));
    assert!(alerts.is_some_and(|line| line.ends_with(" 1")), "{alerts:?}");
}

#[tokio::test]
async fn what_waits_for_people_can_be_called_off() {
    let house = House::new().await;
    let body = house.payment("acct-1", "25.00");
    assert_eq!(house.said("first", &body).await.kind(), "executed");
    let held = house.said("second", &body).await;
    assert_eq!(held.kind(), "held", "{}", held.body);
    let rival = Caller { subject: Subject::parse("rival").unwrap(), ..house.agent.clone() };
    assert_eq!(house.gateway().cancel(&rival, held.id()).await.unwrap_err().code, Code::NotFound);
    let record = house.gateway().cancel(&house.agent, held.id()).await.unwrap();
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Cancelled)));
    let said = house.said("second", &body).await;
    assert_eq!((said.kind(), said.code(), said.replayed), ("failed", "EP_CANCELLED", true));
    let receipt = receipt(&house, &said).await;
    assert_eq!((&receipt["eventType"], &receipt["metadata"]["kind"]), (&json!("ORIGINAL"), &json!("failed")));
    let over = house.gateway().cancel(&house.agent, held.id()).await.unwrap_err();
    assert_eq!(over.code, Code::StateConflict);
    let again = house.gateway().retry(&house.agent, held.id()).await.unwrap_err();
    assert_eq!(again.code, Code::StateConflict, "it was never sent");
}

#[tokio::test]
async fn what_waits_for_its_next_attempt_can_be_called_off() {
    let (mut house, bank) = patient(Promise::Both, LATER, 0).await;
    busy(&bank, 1);
    let body = house.payment("acct-1", "25.00");
    let pending = house.said("k", &body).await;
    assert_eq!(pending.kind(), "pending_settlement");
    let record = house.gateway().cancel(&house.operator, pending.id()).await.unwrap();
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Cancelled)));
    assert_eq!(receipt(&house, &house.said("k", &body).await).await["eventType"], "AMENDMENT_SETTLEMENT");
    house.installation.start();
    a_while().await;
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn what_was_sent_cannot_be_called_off() {
    let (house, bank) = banked::house("USD", &RIGHT).await;
    let executed = house.said("done", &house.payment("acct-1", "25.00")).await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let doubted = house.said("lost", &house.payment("acct-2", "25.00")).await;
    for said in [executed, doubted] {
        let refused = house.gateway().cancel(&house.agent, said.id()).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict, "{}", said.kind());
    }
}

#[tokio::test]
async fn a_second_send_of_a_doubt_is_on_record_before_it_leaves() {
    let soon = "max_retries = 1\nbackoff = \"fixed\"\ninitial_delay_seconds = 1\nmax_delay_seconds = 1";
    let (house, bank) = patient(Promise::Idempotent, soon, 0).await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 2));
    let body = house.payment("acct-1", "25.00");
    let pending = house.said("k", &body).await;
    assert_eq!(pending.kind(), "pending_settlement");
    // When its turn comes can be told from the record, after a restart as before.
    let mut house = house.restart().await;
    house.installation.start();
    for _ in 0..200 {
        if house.record(pending.id()).await.attempts[0].sends == 2 {
            break;
        }
        a_while().await;
    }
    let token: i64 = house.store().query_row("SELECT token FROM fate", [], |row| row.get(0)).unwrap();
    assert_eq!(token, 2, "in new hands");
    let house = house.restart().await;
    assert_eq!(house.record(pending.id()).await.attempts[0].sends, 2);
    assert_eq!(bank.effects().count, 0);
}
