//! Captures whose answer was lost: what the bank says of them of its own accord, and what a person says.

use countersign_gateway::{Code, Decision, ResolveAsk};
use serde_json::json;
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Target};

use crate::approvals::approver;
use crate::banked;
use crate::challenges::{CALLBACK, SECRET, call_back, hearing, word_about};
use crate::faults::{self, Dies};
use crate::house::House;
use crate::late::alerts;
use crate::late_captures;
use crate::reserving::{answer, binding, finally_absent, kinds, reserving};
use crate::resolutions::{findings, resolve, word};

/// How the gateway learns what became of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// It can ask.
    Asking,
    /// It is told, and cannot ask.
    Word,
}

/// The binding without what asks, sends again or undoes.
fn only_told(text: &str) -> String {
    let stays = |section: &&str| {
        let name = section.split_once(']').map_or("", |(name, _)| name);
        !name.ends_with(".query") && !matches!(name, "retry" | "binding.rollback")
    };
    let text = text.split("\n[").filter(stays).collect::<Vec<_>>().join("\n[");
    text.swapped("queryable = { by_our_reference = true, final_after_seconds = 0 }\n", "")
        .swapped("reversible = true\n", "")
}

/// 25 dollars that are set aside by a bank that calls back.
async fn reserved(by: By) -> (House, Bank, String) {
    let bank = banked::bank("USD").await;
    let text = binding(&bank);
    let text = if by == By::Word { only_told(&text) } else { text };
    let house = House::bound(&format!("{text}\n{CALLBACK}"), |config| {
        banked::reaching(config, &[&bank]);
        hearing(config);
    })
    .await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((said.kind(), bank.reserved()), ("held", 2500), "{}", said.body);
    (house, bank, said.id().to_owned())
}

/// The same, and 10 of them are to be charged: nobody heard whether they were.
async fn in_doubt(by: By, fault: Fault) -> (House, Bank, String) {
    let (house, bank, id) = reserved(by).await;
    bank.inject(Injection::on(Target::Captures, fault, 1));
    let record = house.gateway().capture(&house.agent, &id, Some("10.00")).await.unwrap();
    assert_eq!(answer(&record)["kind"], "pending_settlement");
    (house, bank, id)
}

/// The bank says this of the capture.
async fn tell(house: &House, id: &str, what: &str) {
    late_captures::tell(house, id, 1, what, "10.00").await;
}

#[tokio::test]
async fn a_callback_about_a_capture_ends_its_doubt() {
    for by in [By::Asking, By::Word] {
        let (house, bank, id) = in_doubt(by, Fault::LostAfterEffect).await;
        tell(&house, &id, "payment.settled").await;
        let record = house.record(&id).await;
        assert_eq!((record.state.as_str(), house.spent()), ("COMPLETED", 1000), "{by:?}");
        assert_eq!((kinds(&record), bank.effects().count), (vec!["ORIGINAL", "AMENDMENT_SETTLEMENT"], 1));
        assert_eq!((findings(&house).await, alerts(&house, "late_effect")), (0, 0));
    }
}

#[tokio::test]
async fn a_callback_about_a_reservation_says_until_when_it_holds_or_leaves_it_in_doubt() {
    const UNTIL: &str = "2999-01-01T00:00:00.000Z";
    for (expires, stands) in [(Some(UNTIL), Some(("reserved", UNTIL.to_owned()))), (None, None)] {
        let bank = banked::bank("USD").await;
        let text = only_told(&binding(&bank));
        let house = House::bound(&format!("{text}\n{CALLBACK}expires = \"/expires_at\"\n"), |config| {
            banked::reaching(config, &[&bank]);
            hearing(config);
        })
        .await;
        bank.inject(Injection::on(Target::Reservations, Fault::LostAfterEffect, 1));
        let said = house.said("k", &reserving(&house, "25.00")).await;
        assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
        let mut body: serde_json::Value = serde_json::from_str(&word_about(
            &house.reference(said.id(), "1").await,
            "payment.settled",
            "25.00",
        ))
        .unwrap();
        body["expires_at"] = json!(expires);
        call_back(&house, SECRET, &body.to_string()).await.unwrap();
        let record = house.record(said.id()).await;
        let reservation = record.reservation.map(|it| (it.state, it.until));
        assert_eq!((record.state.as_str(), reservation), ("EXECUTING", stands), "never over at once");
        assert_eq!((bank.reserved(), house.spent(), findings(&house).await), (2500, 2500, 0));
    }
}

#[tokio::test]
async fn a_callback_that_denies_a_capture_sets_its_reservation_free() {
    let (house, bank, id) = in_doubt(By::Word, Fault::LostBeforeEffect).await;
    tell(&house, &id, "payment.declined").await;
    let record = house.record(&id).await;
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Released)));
    assert_eq!((bank.reserved(), house.spent()), (0, 0));
    tell(&house, &id, "payment.declined").await;
    assert_eq!(house.record(&id).await.receipts.len(), 2);
}

#[tokio::test]
async fn a_callback_about_a_capture_that_was_taken_for_absent_is_a_late_effect() {
    // It came after all, while the rest is still set aside.
    let (mut house, bank, id) = in_doubt(By::Asking, Fault::Late { ms: 700 }).await;
    finally_absent(&house);
    house.installation.start();
    house.until("k", &reserving(&house, "25.00"), "held").await;
    faults::effects(&bank, 1).await;
    tell(&house, &id, "payment.settled").await;
    let record = house.record(&id).await;
    assert_eq!((record.state.as_str(), house.spent(), alerts(&house, "late_effect")), ("COMPLETED", 1000, 1));
    assert_eq!(findings(&house).await, 0);

    // Nothing was left of it.
    let (house, bank, id) = reserved(By::Word).await;
    bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 1));
    house.gateway().capture(&house.agent, &id, Some("10.00")).await.unwrap();
    house.gateway().release(&house.agent, &id).await.unwrap();
    assert_eq!((house.record(&id).await.state.as_str(), house.spent()), ("FAILED", 0));
    tell(&house, &id, "payment.settled").await;
    let record = house.record(&id).await;
    assert_eq!((record.state.as_str(), house.spent(), alerts(&house, "late_effect")), ("COMPLETED", 1000, 1));
    let receipt = house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
    assert_eq!(receipt["money"]["chargeAmount"], "10.00");
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn a_capture_that_a_person_says_failed_sets_its_reservation_free() {
    let (house, bank, id) = in_doubt(By::Asking, Fault::LostBeforeEffect).await;
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    let record = resolve(&house, "anna", &id, Decision::Failed).await.unwrap();
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Released)));
    assert_eq!(answer(&record)["details"]["reasons"], json!(["resolved_by_person"]));
    assert_eq!((bank.reserved(), bank.effects().count, house.spent()), (0, 0, 0));
    let said: Vec<_> = record.resolutions.iter().map(|it| (&*it.decision, &*it.by)).collect();
    assert_eq!(said, [("failed", "anna")]);
    let reservation = record.reservation.unwrap();
    assert_eq!(reservation.state, "released");
    assert_eq!(reservation.captures[0].result.as_deref(), Some("resolved_by_person"));
    assert_eq!(resolve(&house, "anna", &id, Decision::Failed).await.unwrap().resolutions.len(), 1);
    let ask = countersign_gateway::AuditAsk { limit: 50, ..Default::default() };
    let trail = house.gateway().audit(&house.operator, &ask).await.unwrap();
    let entry = trail.items.iter().find(|entry| entry.event == "resolved").unwrap();
    assert_eq!(entry.human_approver.as_deref(), Some("anna"));
    assert_eq!(findings(&house).await, 0);
    // While it may still be on its way, and while the bank does not answer, nobody can say that nothing was charged.
    for silent in [0, 1] {
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, silent));
        let early = house.gateway().retry(&house.agent, &id).await.unwrap_err();
        assert_eq!((early.code, bank.reserved()), (Code::Unavailable, 0), "{}", early.message);
        arrived(&house);
    }
    let record = house.gateway().retry(&house.agent, &id).await.unwrap();
    assert_eq!((record.state.as_str(), bank.reserved(), house.spent()), ("EXECUTING", 2500, 2500));
}

/// As if the first capture had been sent so long ago that it cannot arrive any more.
pub(crate) fn arrived(house: &House) {
    house.age("k", "json_set(payload, '$.reservation.captures[0].send_by_ms', 1)");
}

/// 10 are charged once, by the first capture, and another attempt is none.
async fn charged_once(house: &House, bank: &Bank, id: &str) {
    let record = house.gateway().retry(&house.agent, id).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent(), alerts(house, "late_effect")), ("COMPLETED", 1000, 1));
    assert_eq!((record.attempts.len(), bank.effects().count, bank.balance("acct-1")), (1, 1, Some(1000)));
    let receipt = house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
    assert_eq!((&receipt["money"]["chargeAmount"], findings(house).await), (&json!("10.00"), 0));
    let again = house.gateway().retry(&house.agent, id).await.unwrap_err();
    assert_eq!((again.code, bank.effects().count), (Code::StateConflict, 1));
}

#[tokio::test]
async fn a_capture_that_people_said_was_absent_is_asked_after_before_another_attempt() {
    let (house, bank, id) = in_doubt(By::Asking, Fault::LostAfterEffect).await;
    // A person errs; the bank refuses the release and does not say why; another person errs, too.
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 3));
    let record = resolve(&house, "anna", &id, Decision::Failed).await.unwrap();
    assert_eq!(record.reservation.unwrap().state, "release_failed");
    let record = resolve(&house, "ben", &id, Decision::Released).await.unwrap();
    assert_eq!((record.state.as_str(), record.error, house.spent()), ("FAILED", Some(Code::Released), 0));
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    let early = house.gateway().retry(&house.agent, &id).await.unwrap_err();
    assert_eq!((early.code, early.retry_after), (Code::Unavailable, Some(5)), "{}", early.message);
    charged_once(&house, &bank, &id).await;
}

/// The binding of a bank to which what is charged or free is gone.
fn forgetful(bank: &Bank) -> String {
    binding(bank)
        .swapped("refused = [{ status = [409] }]\n", "refused = [{ status = [418] }]\n")
        .swapped("gone = [{ status = [404, 410] }]", "gone = [{ status = [404, 409, 410] }]")
}

#[tokio::test]
async fn that_a_reservation_is_gone_does_not_say_that_nothing_was_charged() {
    for silent in [0, 1] {
        let bank = banked::bank("USD").await;
        let mut house = House::bound(&forgetful(&bank), |config| banked::reaching(config, &[&bank])).await;
        let said = house.said("k", &reserving(&house, "25.00")).await;
        bank.inject(Injection::on(Target::Captures, Fault::LostAfterEffect, 1));
        house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1 + silent));
        let record = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
        if silent > 0 {
            let stands = (record.state.as_str(), record.reservation.unwrap().state);
            assert_eq!((stands, house.spent()), (("EXECUTING", "releasing"), 2500), "it is not known yet");
            house.installation.start();
            house.until("k", &reserving(&house, "25.00"), "executed").await;
        }
        let record = house.record(said.id()).await;
        assert_eq!(
            (record.state.as_str(), house.spent(), alerts(&house, "late_effect")),
            ("COMPLETED", 1000, 1)
        );
        assert_eq!((bank.effects().count, findings(&house).await), (1, 0));
    }
}

#[tokio::test]
async fn a_capture_that_comes_after_its_reservation_is_said_to_be_gone_is_asked_after() {
    for retries in [0, 1] {
        let bank = banked::bank("USD").await;
        let text = forgetful(&bank).swapped("\"release\"]", "\"keep\"]").swapped(
            "refused = [{ status = [402, 422] }]\nreference = \"/reservation_id\"",
            "refused = [{ status = [402, 422, 429] }]\nreference = \"/reservation_id\"",
        );
        let house = House::bound(&text, |config| banked::reaching(config, &[&bank])).await;
        let said = house.said("k", &reserving(&house, "25.00")).await;
        bank.inject(Injection::on(Target::Captures, Fault::Late { ms: 2_500 }, 1));
        house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
        let record = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
        assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Released)), "it says so");
        assert_eq!(bank.effects().count, 0, "the capture is still on its way");
        arrived(&house);
        if retries > 0 {
            // Another attempt was made meanwhile, and was refused.
            bank.inject(Injection::on(Target::Reservations, Fault::RateLimited { retry_after: 1 }, 1));
            assert_eq!(house.gateway().retry(&house.agent, said.id()).await.unwrap().state, "FAILED");
        }
        faults::effects(&bank, 1).await;
        let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
        assert_eq!(
            (record.state.as_str(), house.spent(), alerts(&house, "late_effect")),
            ("COMPLETED", 1000, 1)
        );
        assert_eq!((bank.effects().count, findings(&house).await), (1, 0));
    }
}

#[tokio::test]
async fn what_was_charged_after_all_is_not_charged_once_more_whoever_died_before_it_was_proven() {
    let dies = Dies::at("late.before");
    let bank = banked::bank("USD").await;
    let mut house = House::bound(&binding(&bank), |config| {
        banked::reaching(config, &[&bank]);
        config.fail_points = Some(std::sync::Arc::clone(&dies) as _);
    })
    .await;
    let body = reserving(&house, "25.00");
    let said = house.said("k", &body).await;
    bank.inject(Injection::on(Target::Captures, Fault::Late { ms: 700 }, 1));
    house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
    finally_absent(&house);
    house.installation.start();
    house.until("k", &body, "held").await;
    faults::effects(&bank, 1).await;
    let mut house = house.restart().await;
    dies.arm();
    house.gateway().release(&house.agent, said.id()).await.unwrap_err();
    let charged = house.gateway().capture(&house.agent, said.id(), Some("15.00")).await.unwrap_err();
    assert_eq!((charged.code, bank.effects().count), (Code::StateConflict, 1), "{}", charged.message);
    house = house.restart().await;
    let charged = house.gateway().capture(&house.agent, said.id(), Some("15.00")).await.unwrap_err();
    assert_eq!((charged.code, bank.effects().count), (Code::StateConflict, 1), "{}", charged.message);
    house.installation.start();
    house.until("k", &body, "executed").await;
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), house.spent(), alerts(&house, "late_effect")), ("COMPLETED", 1000, 1));
    assert_eq!((bank.effects().count, findings(&house).await), (1, 0));
}

#[tokio::test]
async fn a_capture_that_was_carried_out_whatever_a_person_said_is_found() {
    let (house, bank, id) = in_doubt(By::Asking, Fault::LostAfterEffect).await;
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    let record = resolve(&house, "anna", &id, Decision::Failed).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent(), alerts(&house, "late_effect")), ("COMPLETED", 1000, 1));
    assert_eq!(bank.effects().count, 1);
}

#[tokio::test]
async fn what_is_still_set_aside_keeps_its_debit_and_is_not_tried_again() {
    let (house, bank, id) = in_doubt(By::Asking, Fault::LostBeforeEffect).await;
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    bank.inject(Injection::on(Target::Releases, Fault::RateLimited { retry_after: 1 }, 1));
    let record = resolve(&house, "anna", &id, Decision::Failed).await.unwrap();
    assert_eq!((record.state.as_str(), record.resolutions.len()), ("EXECUTING", 1));
    assert_eq!((record.reservation.unwrap().state, house.spent()), ("releasing", 2500));
    let again = house.gateway().retry(&house.agent, &id).await.unwrap_err();
    assert_eq!((again.code, bank.reservations()), (Code::StateConflict, 1));

    // A record of one that failed and was never set free.
    let (house, bank, id) = reserved(By::Asking).await;
    house.gateway().release(&house.agent, &id).await.unwrap();
    house.age("k", "json_remove(payload, '$.reservation.release')");
    assert_eq!(house.record(&id).await.reservation.unwrap().state, "reserved");
    let again = house.gateway().retry(&house.agent, &id).await.unwrap_err();
    assert_eq!((again.code, bank.reservations()), (Code::StateConflict, 1));
    house.age("k", "json_set(payload, '$.reservation.until_ms', 1)");
    house.gateway().retry(&house.agent, &id).await.unwrap();
}

#[tokio::test]
async fn a_bank_that_denies_a_capture_leaves_the_reservation_to_another() {
    let (house, bank, id) = in_doubt(By::Asking, Fault::LostBeforeEffect).await;
    finally_absent(&house);
    let record = resolve(&house, "anna", &id, Decision::Failed).await.unwrap();
    assert_eq!((record.reservation.unwrap().state, record.resolutions.len()), ("reserved", 0));
    assert_eq!(bank.reserved(), 2500);
}

#[tokio::test]
async fn a_person_says_no_more_was_charged_than_the_capture_asked_for() {
    let (house, _bank, id) = in_doubt(By::Word, Fault::LostAfterEffect).await;
    let anna = approver(&house, "anna");
    let say = |charged: &str| ResolveAsk { charged: Some(charged.to_owned()), ..word(Decision::Executed) };
    let more = house.gateway().resolve(&anna, &id, say("10.01")).await.unwrap_err();
    assert_eq!((more.code, more.field.as_deref()), (Code::ValidationFailed, Some("/charged/amount")));
    let record = house.gateway().resolve(&anna, &id, say("9.00")).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent()), ("COMPLETED", 900));
    assert_eq!(findings(&house).await, 0);
}
