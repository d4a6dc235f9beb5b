//! Captures that were taken for absent before another one was asked for: whatever that one stands at, the effect is proven
//! and debited once, people are told, and nothing more is charged. A real bank counts; where it pays out what is reserved
//! only once, its word alone tells of a second capture.

use std::sync::Arc;

use countersign_gateway::{ActionView, Code, Config, Decision};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Target};

use crate::banked;
use crate::challenges::{CALLBACK, SECRET, call_back, hearing, word_about};
use crate::faults::{self, Dies};
use crate::house::House;
use crate::late::{self, alerts, executed, only_told};
use crate::reserving::{binding, finally_absent, kinds, reserving};
use crate::resolutions::{findings, resolve};
use crate::rollbacks;

async fn house(text: &str, bank: &Bank, more: impl FnOnce(&mut Config)) -> House {
    House::bound(&format!("{text}\n{CALLBACK}"), |config| {
        banked::reaching(config, &[bank]);
        hearing(config);
        config.limits.patience_ms = 300;
        more(config);
    })
    .await
}

/// 25 dollars that are set aside, by a bank that can only tell; a capture of 10 was taken for absent.
async fn absent_first(
    change: impl Fn(String) -> String,
    more: impl FnOnce(&mut Config),
) -> (House, Bank, String) {
    let bank = banked::bank("USD").await;
    let house = house(&change(only_told(&binding(&bank))), &bank, more).await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((said.kind(), bank.reserved()), ("held", 2500), "{}", said.body);
    bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 1));
    let record = capture(&house, said.id(), "10.00").await;
    assert_eq!(captures(&record), [("10.00", Some("provider_refused"))]);
    assert_eq!((record.state.as_str(), house.spent()), ("EXECUTING", 2500));
    (house, bank, said.id().to_owned())
}

fn same(text: String) -> String {
    text
}

/// What is set aside is not set free.
fn kept(text: String) -> String {
    text.swapped("\"release\"]", "\"keep\"]")
        .swapped("refused = [{ status = [409] }]", "refused = [{ status = [404, 409] }]")
        .swapped("gone = [{ status = [404, 410] }]", "gone = [{ status = [410] }]")
}

async fn capture(house: &House, id: &str, amount: &str) -> ActionView {
    house.gateway().capture(&house.agent, id, Some(amount)).await.unwrap()
}

pub(crate) async fn tell(house: &House, id: &str, number: usize, what: &str, amount: &str) {
    let body = word_about(&house.reference(id, &format!("1-capture-{number}")).await, what, amount);
    call_back(house, SECRET, &body).await.unwrap();
}

/// The bank tells that the first capture was carried out, twice as banks do.
async fn settled(house: &House, id: &str) -> ActionView {
    for _ in 0..2 {
        tell(house, id, 1, "payment.settled", "10.00").await;
    }
    house.record(id).await
}

fn captures(record: &ActionView) -> Vec<(&str, Option<&str>)> {
    let captures = record.reservation.iter().flat_map(|it| &it.captures);
    captures.map(|it| (it.amount.as_str(), it.result.as_deref())).collect()
}

fn told(house: &House) -> [u64; 3] {
    ["late_effect", "duplicate_effect", "overage"].map(|word| alerts(house, word))
}

/// The receipt at this place tells of the first capture's effect.
async fn tells_of_the_first(house: &House, record: &ActionView, at: usize) -> Value {
    let late = house.verified(&record.receipts[at].receipt.receipt_id).await;
    let entry = executed(&late);
    let reference = house.reference(&record.action_id.to_string(), "1-capture-1").await;
    assert_eq!(
        (&entry["input"]["reference"], &entry["output"]["result"]),
        (&json!(reference), &json!("confirmed"))
    );
    assert_eq!(
        (&late["metadata"]["kind"], &late["money"]["chargeAmount"]),
        (&json!("executed"), &json!("10.00"))
    );
    late
}

/// What there is to see where the first capture alone had its effect.
async fn done_by_the_first(house: &House, record: &ActionView, of_second: &str) {
    assert_eq!((record.state.as_str(), record.error, house.spent()), ("COMPLETED", None, 1000));
    assert_eq!(captures(record), [("10.00", None), ("20.00", Some(of_second))]);
    assert_eq!(record.reservation.as_ref().unwrap().state, "charged");
    assert_eq!(record.attempts[0].result.as_deref(), Some("confirmed"));
    assert!(record.confirmation.as_ref().unwrap()["reference"].is_string(), "by which it can be given back");
    assert_eq!((told(house), findings(house).await), ([1, 0, 0], 0));
    let captures = &record.reservation.as_ref().unwrap().captures;
    assert!(captures.iter().all(|it| it.result.is_some() == it.ended_at.is_some()), "{captures:?}");
    let id = record.action_id.to_string();
    assert_eq!(house.gateway().retry(&house.agent, &id).await.unwrap_err().code, Code::StateConflict);
    let again = house.gateway().capture(&house.agent, &id, Some("20.00")).await.unwrap_err();
    assert_eq!(again.code, Code::StateConflict, "it was charged otherwise");
}

/// What there is to see where both had their effect.
async fn done_twice(house: &House, record: &ActionView, late: u64) {
    assert_eq!((captures(record), house.spent()), (vec![("10.00", None), ("20.00", None)], 3000));
    assert_eq!(record.attempts[0].result.as_deref(), Some("confirmed"));
    assert_eq!((told(house), findings(house).await), ([late, 1, 1], 0));
    let overage = house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
    assert_eq!(overage["eventType"], "AMENDMENT_OVERAGE");
    assert_eq!(
        (&overage["money"]["offerAmount"], &overage["money"]["chargeAmount"]),
        (&json!("25.00"), &json!("30.00"))
    );
    assert_eq!(house.said("next", &house.payment("acct-9", "1.00")).await.code(), "EP_DELEGATION_BLOCK");
}

#[tokio::test]
async fn beside_a_capture_in_doubt_it_is_on_record_and_that_goes_on() {
    for (says, fault) in
        [("payment.declined", Fault::LostBeforeEffect), ("payment.settled", Fault::LostAfterEffect)]
    {
        let (mut house, bank, id) = absent_first(same, |_| {}).await;
        house.installation.start();
        bank.inject(Injection::on(Target::Captures, fault, 1));
        assert_eq!(capture(&house, &id, "20.00").await.phase, Some("in_doubt"));
        let record = settled(&house, &id).await;
        assert_eq!((record.phase, house.spent(), told(&house)), (Some("in_doubt"), 3500, [1, 0, 0]));
        assert_eq!(captures(&record), [("10.00", None), ("20.00", None)]);
        assert_eq!(record.reservation.as_ref().unwrap().state, "charging");
        let late = tells_of_the_first(&house, &record, 1).await;
        assert_eq!(late["amendmentOf"], record.receipts[0].receipt.receipt_id.as_str());
        assert_eq!((findings(&house).await, bank.reserved() > 0), (0, says == "payment.declined"));
        for _ in 0..2 {
            tell(&house, &id, 2, says, "20.00").await;
        }
        let record = settled(&house, &id).await;
        match says {
            "payment.settled" => {
                let reply: Value = serde_json::from_slice(&record.reply.as_ref().unwrap().body).unwrap();
                assert_eq!(reply["details"]["reasons"], json!(["duplicate_effect"]));
                assert_eq!(record.state, "COMPLETED");
                done_twice(&house, &record, 1).await;
            }
            _ => {
                done_by_the_first(&house, &record, "provider_refused").await;
                assert_eq!(kinds(&record), ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_SETTLEMENT"]);
                let closing = house.verified(&record.receipts[2].receipt.receipt_id).await;
                assert_eq!(
                    executed(&closing)["input"]["reference"],
                    house.reference(&id, "1-capture-2").await
                );
                assert_eq!(closing["money"]["chargeAmount"], "10.00");
            }
        }
    }
}

#[tokio::test]
async fn a_person_who_ends_the_doubt_beside_it_says_what_became_of_the_latest_capture() {
    let (house, bank, id) = absent_first(same, |_| {}).await;
    bank.inject(Injection::on(Target::Captures, Fault::LostBeforeEffect, 1));
    capture(&house, &id, "20.00").await;
    settled(&house, &id).await;
    let record = resolve(&house, "ben", &id, Decision::Failed).await.unwrap();
    done_by_the_first(&house, &record, "resolved_by_person").await;
    assert_eq!(record.resolutions.iter().map(|it| &*it.by).collect::<Vec<_>>(), ["ben"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_capture_in_flight_it_is_on_record_and_that_goes_on() {
    let slow = |text: String| {
        text.swapped("timeout_ms = 400", "timeout_ms = 5000")
            .swapped("[{ status = [402, 404, 409, 422] }]", "[{ status = [402, 404, 409, 410, 422] }]")
    };
    for refused in [false, true] {
        let (house, bank, id) = absent_first(slow, |_| {}).await;
        bank.inject(Injection::on(Target::Captures, Fault::DelayEffect { ms: 1_000 }, 1));
        let during = async {
            rollbacks::until_phase(&house, &id, "sent").await;
            let record = settled(&house, &id).await;
            assert_eq!((record.state.as_str(), house.spent(), told(&house)), ("EXECUTING", 3500, [1, 0, 0]));
            assert_eq!(findings(&house).await, 0);
            assert_eq!(kinds(&record), ["ORIGINAL", "AMENDMENT_SETTLEMENT"], "it is said to be open first");
            let open = house.verified(&record.receipts[0].receipt.receipt_id).await;
            assert_eq!(open["metadata"]["kind"], "pending_settlement");
            if refused {
                bank.expire_reservations();
            }
        };
        let (record, ()) = tokio::join!(capture(&house, &id, "20.00"), during);
        assert_eq!(record.state, "COMPLETED");
        match refused {
            true => done_by_the_first(&house, &record, "provider_refused").await,
            false => done_twice(&house, &record, 1).await,
        }
    }
}

#[tokio::test]
async fn beside_a_capture_that_was_carried_out_it_is_a_duplicate() {
    let (house, _bank, id) = absent_first(same, |_| {}).await;
    let before = capture(&house, &id, "20.00").await;
    assert_eq!((before.state.as_str(), house.spent()), ("COMPLETED", 2000));
    tell(&house, &id, 1, "payment.declined", "10.00").await;
    assert_eq!((told(&house), alerts(&house, "denied_effect")), ([0; 3], 0), "that is no news");
    let record = settled(&house, &id).await;
    assert_eq!(
        (record.state.as_str(), &record.reply),
        ("COMPLETED", &before.reply),
        "what was said of it stands"
    );
    assert_eq!(kinds(&record), ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_OVERAGE"]);
    tells_of_the_first(&house, &record, 1).await;
    done_twice(&house, &record, 1).await;
    // And the bank denies what it had said of the first.
    for _ in 0..2 {
        tell(&house, &id, 1, "payment.declined", "10.00").await;
    }
    assert_eq!((alerts(&house, "denied_effect"), house.spent(), findings(&house).await), (1, 3000, 0));
}

#[tokio::test]
async fn beside_a_capture_that_is_being_undone_or_undone_it_stays_and_is_told() {
    for (fault, state) in [
        (Fault::RateLimited { retry_after: 1 }, "ROLLING_BACK"),
        (Fault::LostBeforeEffect, "ROLLING_BACK"),
        (Fault::None, "ROLLED_BACK"),
    ] {
        let (house, bank, id) = absent_first(same, |_| {}).await;
        capture(&house, &id, "20.00").await;
        bank.inject(Injection::on(Target::Refunds, fault, 9));
        let record = house.gateway().rollback(&house.agent, &id).await.unwrap();
        assert_eq!(record.state, state);
        let failed = record.rollback.unwrap().failed;
        let record = settled(&house, &id).await;
        assert_eq!((record.state.as_str(), record.rollback.as_ref().unwrap().failed), (state, failed));
        done_twice(&house, &record, 1).await;
    }
}

#[tokio::test]
async fn after_what_was_reserved_is_free_it_is_what_the_action_came_to() {
    let (house, bank, id) = absent_first(same, |_| {}).await;
    bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 1));
    capture(&house, &id, "20.00").await;
    let freed = house.gateway().release(&house.agent, &id).await.unwrap();
    assert_eq!((freed.state.as_str(), house.spent()), ("FAILED", 0));
    let record = settled(&house, &id).await;
    tells_of_the_first(&house, &record, 1).await;
    assert_eq!(record.receipts.len(), 2);
    done_by_the_first(&house, &record, "provider_refused").await;
    let (before, after) = (freed.reservation.unwrap(), record.reservation.unwrap());
    assert_eq!((after.released_by, after.release_sends), (before.released_by, before.release_sends));
    // And the second had its effect, too.
    for _ in 0..2 {
        tell(&house, &id, 2, "payment.settled", "20.00").await;
    }
    done_twice(&house, &house.record(&id).await, 2).await;
}

#[tokio::test]
async fn while_it_is_reserved_nothing_of_the_other_captures_or_of_the_release_is_lost() {
    for stuck in [false, true] {
        let (house, bank, id) = absent_first(if stuck { kept } else { same }, |_| {}).await;
        bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 1));
        capture(&house, &id, "20.00").await;
        if stuck {
            let record = house.gateway().release(&house.agent, &id).await.unwrap();
            assert_eq!(record.phase, Some("release_failed"));
        }
        let record = settled(&house, &id).await;
        tells_of_the_first(&house, &record, 0).await;
        done_by_the_first(&house, &record, "provider_refused").await;
        assert_eq!(late::events(&house).await[0], "late_effect", "destinations are told of entries");
        let asked = record.reservation.as_ref().unwrap().captures.iter().map(|it| it.by.as_str());
        assert_eq!(asked.collect::<Vec<_>>(), [house.agent.subject.as_str(); 2]);
        let freed = record.reservation.as_ref().unwrap().released_by.as_deref();
        assert_eq!(freed, stuck.then_some(house.agent.subject.as_str()), "who had it set free stays named");
    }
}

/// What a bank has really paid out, although it said that it knew of no such payment.
#[tokio::test]
async fn a_bank_that_can_be_asked_is_asked_and_what_it_paid_can_be_given_back() {
    let bank = banked::bank("USD").await;
    let mut house = house(&binding(&bank), &bank, |_| {}).await;
    let body = reserving(&house, "25.00");
    let said = house.said("k", &body).await;
    let id = said.id();
    bank.inject(Injection::on(Target::Captures, Fault::Late { ms: 1_500 }, 1));
    assert_eq!(capture(&house, id, "10.00").await.phase, Some("in_doubt"));
    finally_absent(&house);
    house.installation.start();
    house.until("k", &body, "held").await;
    house = house.restart().await;
    bank.inject(Injection::on(Target::Captures, Fault::LostBeforeEffect, 1));
    assert_eq!(capture(&house, id, "20.00").await.phase, Some("in_doubt"));
    tell(&house, id, 1, "payment.settled", "10.00").await;
    assert_eq!((told(&house), bank.effects().count), ([0, 0, 0], 0), "the bank does not know of it yet");
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    let word = word_about(&house.reference(id, "1-capture-1").await, "payment.settled", "10.00");
    assert_eq!(call_back(&house, SECRET, &word).await.unwrap_err().code, Code::Unavailable);
    faults::effects(&bank, 1).await;
    let record = settled(&house, id).await;
    assert_eq!((record.phase, house.spent(), told(&house)), (Some("in_doubt"), 3500, [1, 0, 0]));
    finally_absent(&house);
    // Nothing more is sent, whoever comes after.
    house = house.restart().await;
    house.installation.start();
    rollbacks::until(&house, id, "COMPLETED").await;
    let record = house.record(id).await;
    assert_eq!((house.spent(), captures(&record)), (1000, vec![("10.00", None), ("20.00", Some("absent"))]));
    assert_eq!((bank.effects().count, bank.balance("acct-1"), bank.reserved()), (1, Some(1000), 0));
    assert_eq!(findings(&house).await, 0);
    let record = rollbacks::rolled_back(&house, id).await;
    assert_eq!((record.state.as_str(), bank.balance("acct-1")), ("ROLLED_BACK", Some(0)));
    assert_eq!(captures(&record), [("10.00", None), ("20.00", Some("absent"))]);
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn what_is_looked_after_first_is_told_as_late_too() {
    let bank = banked::bank("USD").await;
    let mut house = house(&late::checking(&binding(&bank), "holds"), &bank, |_| {}).await;
    let body = reserving(&house, "25.00");
    let said = house.said("k", &body).await;
    bank.inject(Injection::on(Target::Captures, Fault::Late { ms: 700 }, 1));
    capture(&house, said.id(), "10.00").await;
    finally_absent(&house);
    house.installation.start();
    house.until("k", &body, "held").await;
    faults::effects(&bank, 1).await;
    tell(&house, said.id(), 1, "payment.settled", "10.00").await;
    rollbacks::until(&house, said.id(), "COMPLETED").await;
    let told = late::events(&house).await;
    assert_eq!(told[..2], ["late_effect", "checking"], "{told:?}");
    assert_eq!((house.spent(), alerts(&house, "late_effect")), (1000, 1));
    assert_eq!((bank.effects().count, findings(&house).await), (1, 0));
}

#[tokio::test]
async fn whoever_dies_over_it_has_it_on_record_once_or_is_told_again() {
    for at in ["late.before", "late.after"] {
        for stands in ["in_doubt", "completed", "failed", "reserved", "release_failed"] {
            let dies = Dies::at(at);
            let change = if stands == "release_failed" { kept } else { same };
            let (house, bank, id) =
                absent_first(change, |config| config.fail_points = Some(Arc::clone(&dies) as _)).await;
            match stands {
                "reserved" => {}
                "in_doubt" => {
                    bank.inject(Injection::on(Target::Captures, Fault::LostBeforeEffect, 1));
                    capture(&house, &id, "20.00").await;
                }
                "completed" => drop(capture(&house, &id, "20.00").await),
                _ => drop(house.gateway().release(&house.agent, &id).await.unwrap()),
            }
            dies.arm();
            let word = word_about(&house.reference(&id, "1-capture-1").await, "payment.settled", "10.00");
            call_back(&house, SECRET, &word).await.unwrap_err();
            assert!(!dies.is_armed(), "{at} {stands}");
            let house = house.restart().await;
            assert_eq!(findings(&house).await, 0);
            let record = settled(&house, &id).await;
            let late = late::events(&house).await;
            let late = late.iter().filter(|it| matches!(&***it, "late_effect" | "duplicate_effect")).count();
            let (state, spent) = match stands {
                "in_doubt" => ("EXECUTING", 3500),
                "completed" => ("COMPLETED", 3000),
                _ => ("COMPLETED", 1000),
            };
            assert_eq!((record.state.as_str(), house.spent(), late), (state, spent, 1), "{at} {stands}");
            assert_eq!((captures(&record)[0], findings(&house).await), (("10.00", None), 0));
        }
    }
}

#[tokio::test]
async fn what_is_reserved_beside_it_is_set_free_whoever_dies_before() {
    let dies = Dies::at("late.after");
    let (house, bank, id) =
        absent_first(same, |config| config.fail_points = Some(Arc::clone(&dies) as _)).await;
    house.gateway().release(&house.agent, &id).await.unwrap();
    let record = house.gateway().retry(&house.agent, &id).await.unwrap();
    assert_eq!((record.state.as_str(), bank.reserved()), ("EXECUTING", 2500));
    dies.arm();
    let word = word_about(&house.reference(&id, "1-capture-1").await, "payment.settled", "10.00");
    call_back(&house, SECRET, &word).await.unwrap_err();
    let mut house = house.restart().await;
    house.installation.start();
    rollbacks::until(&house, &id, "COMPLETED").await;
    let record = house.record(&id).await;
    assert_eq!((house.spent(), bank.reserved(), findings(&house).await), (1000, 0, 0));
    let before = record.attempts[0].reservation.as_ref().unwrap();
    assert_eq!((before.state, before.captures[0].result.as_deref()), ("charged", None));
    assert_eq!(record.reservation.unwrap().state, "released");
}

#[tokio::test]
async fn every_mandate_above_it_has_to_carry_a_late_effect() {
    let (house, bank) = late::house_with(late::NO_RETRY, late::same, |_| {}).await;
    let id = late::wrongly_failed(&house, &bank).await;
    // As if the right were given on from one that carries less.
    house.mandate("20.00").await;
    let sql = "UPDATE action SET mandates = mandates || char(10) || (SELECT jti FROM mandate ORDER BY row DESC LIMIT 1)";
    assert_eq!(house.store().execute(sql, []).unwrap(), 1);
    late::tell(&house, &id, 1, "payment.settled").await;
    let record = house.record(&id).await;
    assert_eq!(
        (record.state.as_str(), kinds(&record).last().copied()),
        ("COMPLETED", Some("AMENDMENT_OVERAGE"))
    );
    assert_eq!(told(&house), [1, 0, 1]);
}
