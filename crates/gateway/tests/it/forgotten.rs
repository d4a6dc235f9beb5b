//! What was gone on with in a stretch that a store has lost: nothing of it is done twice, and nothing is said to have failed that
//! was done. A real bank counts.

use std::path::PathBuf;
use std::time::Duration;

use countersign_gateway::{ActionView, Caller, Code, Decision, ResolveAsk, Why};
use serde_json::json;
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Target};

use crate::approvals::approver;
use crate::banked::{self, Promise, retrying};
use crate::faults;
use crate::house::{House, POLICY, Said};
use crate::late::retry;
use crate::log::{ONCE, THREE_TIMES, backed_up, bundle, forgetful, may_be_twice, put_back, recovered};
use crate::reserving::{self, reserving};
use crate::resolutions::{resolve, word};
use crate::retries::{AT_ONCE, LATER, make_due};
use crate::rollbacks::until_phase;

/// A house that runs, whose payments this bank carries out.
async fn running(bank: &Bank, text: &str) -> House {
    let mut house = House::bound(text, |config| {
        banked::reaching(config, &[bank]);
        config.limits.patience_ms = 100;
    })
    .await;
    house.installation.start();
    house
}

fn back_up(house: &House) -> PathBuf {
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    backup
}

/// A payment that was `fault`y when the backup was made, and the backup.
async fn backed_up_amidst(text: impl Fn(&Bank) -> String, fault: Fault) -> (House, Bank, PathBuf, Said) {
    let bank = banked::bank("USD").await;
    let house = running(&bank, &text(&bank)).await;
    bank.inject(Injection::payments(fault, 1));
    let said = house.said("acct-1", &house.payment("acct-1", "10.00")).await;
    let backup = back_up(&house);
    (house, bank, backup, said)
}

async fn until(house: &House, id: &str, state: &str) -> ActionView {
    for _ in 0..2000 {
        let record = house.record(id).await;
        if record.state == state {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never became {state}, but is {}", house.record(id).await.state);
}

/// Its last receipt is in the log, so that a store without it is behind.
async fn logged(house: &House, record: &ActionView) {
    bundle(house, &record.receipts.last().unwrap().receipt.receipt_id).await;
}

async fn is_whole(house: &House) {
    assert_eq!(house.gateway().check_trail(&house.admin, None).await.unwrap().findings, []);
}

fn queryable(bank: &Bank, retry: &str) -> String {
    retrying(bank, Promise::Queryable, retry)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_doubt_has_not_failed_if_a_later_attempt_was_carried_out() {
    for by_person in [false, true] {
        let (house, bank, backup, said) =
            backed_up_amidst(|bank| queryable(bank, ONCE), Fault::LostBeforeEffect).await;
        assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
        until(&house, said.id(), "FAILED").await;
        retry(&house, said.id()).await;
        let record = until(&house, said.id(), "COMPLETED").await;
        let done_by = record.attempts.last().unwrap().reference.clone();
        assert!(done_by.ends_with("-2"), "{done_by}");
        logged(&house, &record).await;

        // As `recover` has it, or a person who is asked before.
        let house = put_back(house, &backup).await;
        if by_person {
            let refused = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap_err();
            assert!(refused.to_string().contains("it was carried out"), "{refused}");
        }
        let told = house.gateway().reconcile(Duration::from_secs(20)).await.unwrap();
        assert_eq!((told.settled, told.open), (usize::from(!by_person), 0));
        let house = recovered(house).await;
        let record = until(&house, said.id(), "COMPLETED").await;
        assert_eq!((record.attempts.len(), bank.effects().count), (2, 1));
        assert_eq!((record.attempts[1].reference.as_str(), house.spent()), (done_by.as_str(), 1000));
        house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
        let said = house.said("acct-1", &house.payment("acct-1", "10.00")).await;
        assert_eq!((said.kind(), bank.effects().count), ("executed", 1), "{}", said.body);
        is_whole(&house).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_doubt_stays_so_as_long_as_its_provider_does_not_say_what_followed() {
    let (house, bank, backup, said) =
        backed_up_amidst(|bank| queryable(bank, ONCE), Fault::LostBeforeEffect).await;
    let record = until(&house, said.id(), "FAILED").await;
    logged(&house, &record).await;
    let house = put_back(house, &backup).await;
    // It says that the attempt on record came to nothing, and not whether there was another.
    bank.inject(Injection::queries(Fault::None, 1));
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    house.gateway().reconcile(Duration::from_millis(100)).await.unwrap();
    assert_eq!(house.record(said.id()).await.phase, Some("in_doubt"));
    house.gateway().reconcile(Duration::from_secs(20)).await.unwrap();
    assert_eq!((house.record(said.id()).await.state.as_str(), bank.effects().count), ("FAILED", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_its_next_attempt_has_not_failed_if_that_was_carried_out() {
    for ends in ["cancelled", "stopped"] {
        let busy = Fault::RateLimited { retry_after: 0 };
        let (house, bank, backup, said) = backed_up_amidst(|bank| queryable(bank, LATER), busy).await;
        assert_eq!(house.record(said.id()).await.phase, Some("waiting"), "{}", said.body);
        make_due(&house);
        let record = until(&house, said.id(), "COMPLETED").await;
        logged(&house, &record).await;

        let house = recovered(put_back(house, &backup).await).await;
        match ends {
            "cancelled" => {
                let refused = house.gateway().cancel(&house.agent, said.id()).await.unwrap_err();
                assert_eq!(refused.code, Code::StateConflict, "{refused}");
            }
            _ => {
                house.write("policies/default/payments.cedar", "");
                house.gateway().reload(&house.admin).await.unwrap();
                make_due(&house);
            }
        }
        let record = until(&house, said.id(), "COMPLETED").await;
        assert_eq!((record.attempts.len(), bank.effects().count), (2, 1));
        is_whole(&house).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_doubt_is_not_sent_again_where_nobody_can_be_asked_what_followed() {
    let idempotent = |bank: &Bank| retrying(bank, Promise::Idempotent, THREE_TIMES);
    let (house, bank, backup, said) = backed_up_amidst(idempotent, Fault::DelayEffect { ms: 500 }).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    let record = until(&house, said.id(), "COMPLETED").await;
    logged(&house, &record).await;
    let sends = bank.effects();
    let house = put_back(house, &backup).await;
    house.gateway().reconcile(Duration::from_secs(1)).await.unwrap();
    let house = recovered(house).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let record = house.record(said.id()).await;
    assert_eq!((record.phase, record.attempts.len()), (Some("in_doubt"), 1));
    assert_eq!(bank.effects(), sends);
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!(record.state, "COMPLETED");
}

/// 25 dollars that were set aside before the backup, and a capture of 10 that was refused once and carried out then.
async fn captured(text: impl Fn(&Bank) -> String) -> (House, Bank, String) {
    let bank = banked::bank("USD").await;
    let house = running(&bank, &text(&bank)).await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((said.kind(), bank.reserved()), ("held", 2500), "{}", said.body);
    let backup = back_up(&house);
    bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 0 }, 1));
    let charge = || house.gateway().capture(&house.agent, said.id(), Some("10.00"));
    assert_eq!(charge().await.unwrap().state, "EXECUTING");
    let record = charge().await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count), ("COMPLETED", 1));
    logged(&house, &record).await;
    (recovered(put_back(house, &backup).await).await, bank, said.id().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_forgotten_capture_has_charged_is_neither_charged_again_nor_set_free() {
    for asked in ["capture", "release", "expiry"] {
        let (house, bank, id) = captured(reserving::binding).await;
        match asked {
            // Of another amount, which is no other charge.
            "capture" => drop(house.gateway().capture(&house.agent, &id, None).await.unwrap()),
            "release" => drop(house.gateway().release(&house.agent, &id).await.unwrap()),
            _ => {
                house.age("k", "json_set(payload, '$.reservation.until_ms', 1)");
                house.store().execute("UPDATE fate SET until = 1 WHERE state = -4", []).unwrap();
            }
        }
        let record = until(&house, &id, "COMPLETED").await;
        assert_eq!((bank.effects().count, bank.balance("acct-1"), house.spent()), (1, Some(1000), 1000));
        let reservation = record.reservation.unwrap();
        assert_eq!((reservation.state, reservation.captures.len()), ("charged", 2), "{asked}");
        assert_eq!(
            (reservation.captures[1].amount.as_str(), &reservation.captures[1].result),
            ("10.00", &None)
        );
        let receipt = house.verified(&record.receipts[0].receipt.receipt_id).await;
        assert_eq!(receipt["money"]["chargeAmount"], json!("10.00"));
        if asked != "expiry" {
            is_whole(&house).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_which_nobody_says_how_much_it_charged_is_for_a_person() {
    let untold = |bank: &Bank| {
        let text = reserving::binding(bank);
        let (before, after) = text.split_once("[binding.capture.query]").unwrap();
        let charged = r#"charged = { amount = "/payments/0/amount", currency = "/payments/0/currency" }"#;
        format!("{before}[binding.capture.query]{}", after.swapped(charged, ""))
    };
    let (house, bank, id) = captured(untold).await;
    let refused = house.gateway().capture(&house.agent, &id, Some("10.00")).await.unwrap_err();
    assert!(refused.to_string().contains("nobody says how much"), "{refused}");
    let record = house.gateway().release(&house.agent, &id).await.unwrap();
    assert_eq!(record.reservation.unwrap().state, "release_failed");
    let said = ResolveAsk { charged: Some("10.00".to_owned()), ..word(Decision::Executed) };
    let record = house.gateway().resolve(&approver(&house, "anna"), &id, said).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count, house.spent()), ("COMPLETED", 1, 1000));
}

/// A reservation that was forgotten and is asked for again: when it ends for the bank, and what is said of it then.
async fn reserved_again(text: impl Fn(&Bank) -> String) -> (House, Bank, String, Said) {
    let (house, bank, backup) = backed_up(text).await;
    let mut body = reserving(&house, "25.00");
    body["constraints"]["recipient"] = json!("acct-2");
    let said = house.said("k", &body).await;
    let until = said.body["details"]["expires_at"].as_str().unwrap().to_owned();
    let lost = house.said("lost", &house.payment("acct-3", "1.00")).await;
    bundle(&house, lost.body["receipt"].as_str().unwrap()).await;
    let house = recovered(put_back(house, &backup).await).await;
    let said = house.said("k", &body).await;
    assert_eq!((said.kind(), bank.reservations()), ("held", 1), "{}", said.body);
    (house, bank, until, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_is_known_again_ends_when_its_provider_says_and_otherwise_at_once() {
    let (house, bank, until_then, said) = reserved_again(reserving::binding).await;
    assert_eq!(said.body["details"]["expires_at"], json!(until_then));
    assert_eq!((house.record(said.id()).await.state.as_str(), bank.reserved()), ("EXECUTING", 2500));

    let by_hold = |bank: &Bank| {
        reserving::binding(bank)
            .swapped("expires = \"/expires_at\"", "hold_seconds = 600")
            .swapped("expires = \"/reservations/0/expires_at\"", "")
    };
    let (house, bank, _, said) = reserved_again(by_hold).await;
    let record = until(&house, said.id(), "FAILED").await;
    assert_eq!((record.error, bank.reserved(), bank.effects().count), (Some(Code::Released), 0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_provider_is_asked_once_however_often_an_action_is_judged() {
    let (house, bank, _) = forgetful(|bank| {
        retrying(bank, Promise::Both, ONCE).swapped("timeout_ms = 200", "timeout_ms = 5000")
    })
    .await;
    let house = recovered(house).await;
    let looks = "@id(\"left\") forbid (principal, action, resource) when { context has mandate.actions_left && \
                 context.mandate.actions_left < 0 };";
    house.write("policies/default/payments.cedar", &format!("{POLICY}{looks}"));
    house.gateway().reload(&house.admin).await.unwrap();
    // One attempt and three by hand are asked about, and it takes its time.
    bank.inject(Injection::queries(Fault::DelayAnswer { ms: 1500 }, 4));
    let (slow, ()) =
        tokio::join!(async { house.send("acct-4", &house.payment("acct-4", "10.00")).await }, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            // What was judged by is another now.
            let said = house.said("acct-5", &house.payment("acct-5", "10.00")).await;
            assert_eq!(said.kind(), "executed", "{}", said.body);
            bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1000));
        });
    assert_eq!(slow.unwrap().kind(), "executed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_known_by_other_names_cannot_be_asked_by_ours_and_it_is_said() {
    let (house, _bank, _) = forgetful(|bank| queryable(bank, THREE_TIMES)).await;
    let forgotten = house.gateway().forgotten().await.unwrap();
    assert!(!forgotten.by_other_names);
    assert_eq!(may_be_twice(&house, forgotten), []);
    // As a version of before these names wrote it.
    house.age("acct-1", "json_set(payload, '$.call.reference', '01a2b3c4-5d6e-7f80-9a1b-2c3d4e5f6071-1')");
    let forgotten = house.gateway().forgotten().await.unwrap();
    assert!(forgotten.by_other_names);
    assert_eq!(may_be_twice(&house, forgotten), [Why::OtherNames]);
}

/// A payment that waited for people when the backup was made, for so long, and was agreed to and carried out after it; a person, and
/// its id.
async fn agreed_to(held_seconds: u64) -> (House, Bank, Caller, String) {
    let bank = banked::bank("USD").await;
    let text = retrying(&bank, Promise::Both, ONCE);
    let text = text.swapped("\n[binding]\n", "approval = \"key\"\n\n[binding]\n");
    let mut house = House::bound(&text, |config| {
        banked::reaching(config, &[&bank]);
        config.limits.held_seconds = held_seconds;
    })
    .await;
    house.installation.start();
    house.said("once", &house.payment("acct-1", "10.00")).await;
    let again = house.said("again", &house.payment("acct-1", "10.00")).await;
    assert_eq!(again.kind(), "held", "{}", again.body);
    let backup = back_up(&house);
    let anna = approver(&house, "anna");
    house.gateway().approve(&anna, again.id(), None).await.unwrap();
    let record = until(&house, again.id(), "COMPLETED").await;
    logged(&house, &record).await;
    (put_back(house, &backup).await, bank, anna, again.id().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_people_does_not_end_unsent_if_it_was_agreed_to_and_done() {
    let (house, bank, anna, id) = agreed_to(3600).await;
    let house = recovered(house).await;
    let gateway = house.gateway();
    let refused = gateway.reject(&anna, &id, None).await.unwrap_err();
    assert!(refused.code == Code::StateConflict && refused.to_string().contains("carried out"), "{refused}");
    let refused = gateway.cancel(&house.agent, &id).await.unwrap_err();
    assert!(refused.code == Code::StateConflict && refused.to_string().contains("carried out"), "{refused}");
    gateway.approve(&anna, &id, None).await.unwrap();
    let record = until(&house, &id, "COMPLETED").await;
    assert_eq!((record.attempts.len(), bank.effects().count), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_asked_once_more_about_what_was_done_and_has_expired_since() {
    let (house, bank, anna, id) = agreed_to(5).await;
    let expires = "SELECT max(expires) FROM action JOIN fate USING (row) WHERE state = 1";
    let expires_ms =
        |house: &House| house.store().query_row(expires, [], |row| row.get::<_, i64>(0)).unwrap();
    let before_ms = expires_ms(&house);
    let house = recovered(house).await;
    faults::until("people are asked once more", || expires_ms(&house) > before_ms).await;
    house.gateway().approve(&anna, &id, None).await.unwrap();
    let record = until(&house, &id, "COMPLETED").await;
    assert_eq!((record.attempts.len(), bank.effects().count), (1, 2));
    house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
    is_whole(&house).await;
}

/// A bank that may be too busy to set anything aside.
fn reserving_at_times(bank: &Bank) -> String {
    let success = r#"success = { status = [201], pointer = "/status", equals = ["reserved"] }"#;
    reserving::binding(bank).swapped(success, &format!("{success}\ntransient = [{{ status = [429] }}]"))
}

/// 25 dollars that a second attempt has set aside, after the backup; of which `charged` is charged.
async fn reserved_by_a_later_attempt(charged: Option<&str>) -> (House, Bank, String) {
    let bank = banked::bank("USD").await;
    let text = reserving_at_times(&bank)
        .swapped(AT_ONCE, LATER)
        .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n");
    let house = running(&bank, &text).await;
    bank.inject(Injection::on(Target::Reservations, Fault::RateLimited { retry_after: 0 }, 1));
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!(house.record(said.id()).await.phase, Some("waiting"), "{}", said.body);
    let backup = back_up(&house);
    make_due(&house);
    until_phase(&house, said.id(), "reserved").await;
    if let Some(amount) = charged {
        house.gateway().capture(&house.agent, said.id(), Some(amount)).await.unwrap();
        let record = until(&house, said.id(), "COMPLETED").await;
        logged(&house, &record).await;
    } else {
        let paid = house.said("other", &house.payment("acct-2", "1.00")).await;
        bundle(&house, paid.body["receipt"].as_str().unwrap()).await;
    }
    (recovered(put_back(house, &backup).await).await, bank, said.id().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_charged_of_what_a_later_attempt_has_set_aside_is_on_record_and_not_done_again() {
    for ends in ["cancelled", "forbidden", "due"] {
        let (house, bank, id) = reserved_by_a_later_attempt(Some("10.00")).await;
        match ends {
            "cancelled" => {
                let refused = house.gateway().cancel(&house.agent, &id).await.unwrap_err();
                assert_eq!(refused.code, Code::StateConflict, "{refused}");
            }
            _ => {
                if ends == "forbidden" {
                    house.write("policies/default/payments.cedar", "");
                    house.gateway().reload(&house.admin).await.unwrap();
                }
                make_due(&house);
            }
        }
        let record = until(&house, &id, "COMPLETED").await;
        assert_eq!((bank.effects().count, bank.balance("acct-1"), house.spent()), (1, Some(1000), 1000));
        assert_eq!((record.attempts.len(), record.reservation.unwrap().state), (2, "charged"));
        let receipt = house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
        assert_eq!(receipt["money"]["chargeAmount"], json!("10.00"));
        is_whole(&house).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_attempt_has_set_aside_is_the_actions_to_charge_or_to_set_free() {
    for goes_on in ["charged", "released"] {
        let (house, bank, id) = reserved_by_a_later_attempt(None).await;
        let refused = house.gateway().cancel(&house.agent, &id).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict, "{refused}");
        until_phase(&house, &id, "reserved").await;
        assert_eq!((bank.reserved(), bank.reservations()), (2500, 1));
        let (state, balance) = match goes_on {
            "charged" => {
                drop(house.gateway().capture(&house.agent, &id, None).await.unwrap());
                ("COMPLETED", Some(2500))
            }
            _ => {
                drop(house.gateway().release(&house.agent, &id).await.unwrap());
                ("FAILED", None)
            }
        };
        until(&house, &id, state).await;
        assert_eq!((bank.reserved(), bank.balance("acct-1").filter(|it| *it > 0)), (0, balance), "{goes_on}");
        is_whole(&house).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_by_its_key_alone_is_not_taken_for_what_is_asked() {
    let by_key = |bank: &Bank| {
        queryable(bank, ONCE).replace(r#"{ "$action" = "reference" }"#, r#"{ "$action" = "provider_key" }"#)
    };
    let (house, bank, _) = forgetful(by_key).await;
    let house = recovered(house).await;
    let before = bank.effects().count;
    // Of as much money, to somebody else: what the bank has under this key is another payment.
    for body in [house.payment("acct-7", "10.00"), house.payment("acct-2", "10.00")] {
        let refused = house.send("acct-2", &body).await.err().unwrap();
        assert_eq!(refused.code, Code::IdempotencyMismatch, "{refused}");
    }
    assert_eq!((bank.effects().count, bank.balance("acct-7").unwrap_or(0)), (before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_word_counts_where_the_provider_does_not_say_what_followed() {
    // With and without another attempt to follow of itself.
    for (retry, decision) in [
        (ONCE, Decision::Failed),
        (ONCE, Decision::Executed),
        (LATER, Decision::Failed),
        (LATER, Decision::Executed),
    ] {
        let (house, bank, backup, said) =
            backed_up_amidst(|bank| queryable(bank, retry), Fault::LostBeforeEffect).await;
        assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
        let paid = house.said("other", &house.payment("acct-2", "1.00")).await;
        bundle(&house, paid.body["receipt"].as_str().unwrap()).await;
        // Until "none" is its last word.
        while house.record(said.id()).await.phase == Some("in_doubt") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let house = put_back(house, &backup).await;
        // It says that the attempt on record came to nothing.
        bank.inject(Injection::queries(Fault::None, 1));
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1000));
        let record = resolve(&house, "anna", said.id(), decision).await.unwrap();
        let state = if decision == Decision::Failed { "FAILED" } else { "COMPLETED" };
        assert_eq!((record.state.as_str(), bank.balance("acct-1").unwrap_or(0)), (state, 0));
    }
}

/// A payment that waited for its second attempt when the backup was made; then that was carried out, unless somebody called it off.
async fn waiting(text: impl Fn(&Bank) -> String, is_done: bool) -> (House, Bank, String) {
    let busy = Fault::RateLimited { retry_after: 0 };
    let (house, bank, backup, said) = backed_up_amidst(text, busy).await;
    assert_eq!(house.record(said.id()).await.phase, Some("waiting"), "{}", said.body);
    if is_done {
        make_due(&house);
    } else {
        drop(house.gateway().cancel(&house.agent, said.id()).await.unwrap());
    }
    let record = until(&house, said.id(), if is_done { "COMPLETED" } else { "FAILED" }).await;
    logged(&house, &record).await;
    // When a store was recovered is known to the second, and "none" is a last word after it.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let house = recovered(put_back(house, &backup).await).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    (house, bank, said.id().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_for_a_person_where_nobody_says_what_followed() {
    for (gone, decision) in
        [(false, Decision::Failed), (false, Decision::Executed), (true, Decision::Executed)]
    {
        let (house, bank, id) = waiting(|bank| queryable(bank, LATER), true).await;
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1000));
        if gone {
            std::fs::remove_file(house.path("catalogue/default/payment.toml")).unwrap();
            house.gateway().reload(&house.admin).await.unwrap();
        }
        make_due(&house);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((house.record(&id).await.phase, bank.effects().count), (Some("waiting"), 1));
        let record = resolve(&house, "anna", &id, decision).await.unwrap();
        let state = if decision == Decision::Failed { "FAILED" } else { "COMPLETED" };
        assert_eq!((record.state.as_str(), bank.effects().count), (state, 1), "{gone}");
        is_whole(&house).await;
    }
    // Whose provider says what became of it needs nobody's word, and nobody has one on what goes on by itself.
    let (house, bank, id) = waiting(|bank| queryable(bank, LATER), true).await;
    let refused = resolve(&house, "anna", &id, Decision::Failed).await.unwrap_err();
    assert!(refused.to_string().contains("was carried out"), "{refused}");
    assert_eq!((until(&house, &id, "COMPLETED").await.attempts.len(), bank.effects().count), (2, 1));
    let (house, _bank, id) = waiting(|bank| queryable(bank, LATER), false).await;
    let refused = resolve(&house, "anna", &id, Decision::Failed).await.unwrap_err();
    assert!(refused.to_string().contains("waits for its next attempt"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_or_failed_is_not_sent_under_another_key_where_nobody_can_be_asked_what_followed() {
    let idempotent = |bank: &Bank| retrying(bank, Promise::Idempotent, LATER);
    let (house, bank, id) = waiting(idempotent, true).await;
    let sends = bank.effects();
    make_due(&house);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((house.record(&id).await.phase, bank.effects()), (Some("waiting"), sends.clone()));
    let record = resolve(&house, "anna", &id, Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects()), ("COMPLETED", sends));

    let idempotent = |bank: &Bank| retrying(bank, Promise::Idempotent, ONCE);
    let (house, bank, backup, said) =
        backed_up_amidst(idempotent, Fault::RateLimited { retry_after: 0 }).await;
    assert_eq!(said.kind(), "failed", "{}", said.body);
    house.gateway().retry(&house.agent, said.id()).await.unwrap();
    let record = until(&house, said.id(), "COMPLETED").await;
    logged(&house, &record).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let house = recovered(put_back(house, &backup).await).await;
    let sends = bank.effects();
    let refused = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
    assert!(refused.to_string().contains("nobody can be asked"), "{refused}");
    assert_eq!(bank.effects(), sends);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_word_from_before_the_lost_stretch_has_nothing_sent_once_more() {
    let bank = banked::bank("USD").await;
    // It recognises no repeat, and cannot be asked.
    let text = retrying(&bank, Promise::Idempotent, ONCE).swapped("guarantee_level = \"atp-2\"\n", "");
    let house = running(&bank, &text.swapped("idempotent = { retention_seconds = 86400 }\n", "")).await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    let said = house.said("acct-1", &house.payment("acct-1", "10.00")).await;
    let record = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count), ("FAILED", 0));
    let backup = back_up(&house);
    house.gateway().retry(&house.agent, said.id()).await.unwrap();
    let record = until(&house, said.id(), "COMPLETED").await;
    logged(&house, &record).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let house = recovered(put_back(house, &backup).await).await;
    let refused = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
    assert!(refused.to_string().contains("nobody can be asked"), "{refused}");
    assert_eq!((house.record(said.id()).await.state.as_str(), bank.effects().count), ("FAILED", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_it_in_hand_or_ends_it_while_its_provider_is_asked_is_not_overtaken() {
    // As another gateway has it that sends it meanwhile, or that has it called off.
    for meanwhile in ["token = token + 1, state = 2, until = 9000000000000", "state = 5"] {
        let patient = |bank: &Bank| {
            retrying(bank, Promise::Both, LATER).swapped("timeout_ms = 200", "timeout_ms = 5000")
        };
        let (house, bank, id) = waiting(patient, false).await;
        bank.inject(Injection::queries(Fault::DelayAnswer { ms: 1000 }, 1000));
        make_due(&house);
        tokio::time::sleep(Duration::from_millis(500)).await;
        house.store().execute(&format!("UPDATE fate SET {meanwhile}"), []).unwrap();
        tokio::time::sleep(Duration::from_millis(2000)).await;
        assert_eq!((bank.effects().count, house.record(&id).await.attempts.len()), (0, 1), "{meanwhile}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_and_was_reserved_and_charged_since_is_not_reserved_again() {
    let bank = banked::bank("USD").await;
    let house = running(&bank, &reserving_at_times(&bank)).await;
    bank.inject(Injection::on(Target::Reservations, Fault::RateLimited { retry_after: 0 }, 1));
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!(said.kind(), "failed", "{}", said.body);
    let backup = back_up(&house);
    house.gateway().retry(&house.agent, said.id()).await.unwrap();
    house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    let record = until(&house, said.id(), "COMPLETED").await;
    logged(&house, &record).await;
    let house = recovered(put_back(house, &backup).await).await;
    let refused = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
    assert!(refused.code == Code::StateConflict && refused.to_string().contains("charged"), "{refused}");
    assert_eq!((bank.effects().count, bank.reserved()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_set_free_is_for_a_person_where_nobody_says_whether_it_was_charged() {
    let (house, bank, id) = captured(reserving::binding).await;
    bank.inject(Injection::on(Target::Queries, Fault::ErrorBeforeEffect, 1000));
    drop(house.gateway().release(&house.agent, &id).await);
    assert_eq!(house.record(&id).await.phase, Some("reserved"));
    let refused = resolve(&house, "anna", &id, Decision::TryAgain).await.unwrap_err();
    assert!(refused.to_string().contains("every minute"), "{refused}");
    let said = ResolveAsk { charged: Some("10.00".to_owned()), ..word(Decision::Executed) };
    let record = house.gateway().resolve(&approver(&house, "anna"), &id, said).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count, house.spent()), ("COMPLETED", 1, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reserved_and_charged_for_an_action_that_is_lost_is_not_begun_again() {
    let (house, bank, backup) = backed_up(reserving::binding).await;
    let mut body = reserving(&house, "25.00");
    body["constraints"]["recipient"] = json!("acct-2");
    let said = house.said("k", &body).await;
    house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    let record = until(&house, said.id(), "COMPLETED").await;
    logged(&house, &record).await;
    let before = bank.effects().count;
    let house = recovered(put_back(house, &backup).await).await;
    let refused = house.send("k", &body).await.err().unwrap();
    assert!(refused.code == Code::StateConflict && refused.to_string().contains("charged"), "{refused}");
    assert_eq!((bank.effects().count, bank.reserved()), (before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_must_be_named_what_it_has_set_aside_is_not_asked_after_captures_of_nothing() {
    let by_its_name = |bank: &Bank| {
        let text = reserving::binding(bank);
        let (before, after) = text.split_once("[binding.capture.query]").unwrap();
        let params = r#"params = { reference = { "$action" = "reference" } }"#;
        let named =
            format!("{params}\nheaders = {{ Reservation = {{ \"$action\" = \"provider_reference\" }} }}");
        format!("{before}[binding.capture.query]{}", after.swapped(params, &named))
    };
    let bank = banked::bank("USD").await;
    let house = running(&bank, &by_its_name(&bank)).await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!(said.kind(), "held", "{}", said.body);
    let backup = back_up(&house);
    let lost = house.said("lost", &house.payment("acct-3", "1.00")).await;
    bundle(&house, lost.body["receipt"].as_str().unwrap()).await;
    let house = recovered(put_back(house, &backup).await).await;
    drop(house.gateway().release(&house.agent, said.id()).await.unwrap());
    until(&house, said.id(), "FAILED").await;
    assert_eq!(bank.reserved(), 0);
}
