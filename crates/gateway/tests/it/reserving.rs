//! Reserving: money is set aside first, and charged or set free later; a real bank counts.

use action::Subject;
use countersign_gateway::{ActionView, Caller, Code, Decision, FreezeAsk, FreezeScope, ResolveAsk};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Target};

use crate::approvals::approver;
use crate::banked::{self, RIGHT};
use crate::faults::Rival;
use crate::house::{BINDING, House, Said};
use crate::resolutions::{resolve, word};
use crate::retries::{AT_ONCE, a_while};
use crate::rollbacks;

/// Payments that can be reserved, and given back once they are charged.
pub(crate) fn binding(bank: &Bank) -> String {
    let text = rollbacks::binding(bank, AT_ONCE).swapped("timeout_ms = 5000", "timeout_ms = 400");
    let recipient = r#"{ "$value" = "/recipient" }"#;
    let (amount, currency) = (RIGHT.amount, RIGHT.currency);
    format!(
        r#"{text}
[binding.reserve]
path = "/reservations"
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
body = {{ recipient = {recipient}, amount = {amount}, currency = {currency}, reference = {{ "$action" = "reference" }} }}
success = {{ status = [201], pointer = "/status", equals = ["reserved"] }}
refused = [{{ status = [402, 422] }}]
reference = "/reservation_id"
expires = "/expires_at"

[binding.reserve.query]
path = "/reservations"
params = {{ reference = {{ "$action" = "reference" }} }}
found = {{ status = [200], pointer = "/reservations/0/status", equals = ["reserved"] }}
absent = {{ status = [200], pointer = "/reservations/0", exists = false }}
refused = [{{ status = [200], pointer = "/reservations/0/status", equals = ["released", "expired"] }}]
reference = "/reservations/0/reservation_id"
expires = "/reservations/0/expires_at"

[binding.capture]
path = ["reservations", {{ "$action" = "provider_reference" }}, "capture"]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
body = {{ amount = {amount}, reference = {{ "$action" = "reference" }} }}
success = {{ status = [201], pointer = "/status", equals = ["settled"] }}
refused = [{{ status = [402, 404, 409, 422] }}]
transient = [{{ status = [429] }}]
reference = "/payment_id"
charged = {{ amount = "/amount", currency = "/currency" }}
code = "/error/code"

[binding.capture.query]
path = "/payments"
params = {{ reference = {{ "$action" = "reference" }} }}
found = {{ status = [200], pointer = "/payments/0" }}
absent = {{ status = [200], pointer = "/payments/0", exists = false }}
reference = "/payments/0/payment_id"
charged = {{ amount = "/payments/0/amount", currency = "/payments/0/currency" }}

[binding.release]
path = ["reservations", {{ "$action" = "provider_reference" }}, "release"]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
success = {{ status = [200], pointer = "/status", equals = ["released"] }}
refused = [{{ status = [409] }}]
transient = [{{ status = [429] }}]
gone = [{{ status = [404, 410] }}]
"#
    )
}

async fn house() -> (House, Bank) {
    let bank = banked::bank("USD").await;
    let house = House::bound(&binding(&bank), |config| banked::reaching(config, &[&bank])).await;
    (house, bank)
}

pub(crate) fn reserving(house: &House, amount: &str) -> Value {
    let mut body = house.payment("acct-1", amount);
    body["payment_mode"] = json!("RESERVE_IF_AVAILABLE");
    body
}

/// 25 dollars that are set aside.
pub(crate) async fn reserved() -> (House, Bank, Said) {
    let (house, bank) = house().await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((said.kind(), bank.reserved()), ("held", 2500), "{}", said.body);
    (house, bank, said)
}

/// As if the time of whatever rests had come.
fn make_due(house: &House) {
    assert_eq!(house.store().execute("UPDATE fate SET until = 1 WHERE state = -4", []).unwrap(), 1);
}

/// As if the call had been sent so long ago that an absence is final.
pub(crate) fn finally_absent(house: &House) {
    house.age("k", "json_set(payload, '$.call.send_by_ms', 1)");
}

async fn until(house: &House, id: &str, state: &str) -> ActionView {
    for _ in 0..2000 {
        let record = house.record(id).await;
        if record.state == state {
            return record;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it never became {state}");
}

pub(crate) fn answer(record: &ActionView) -> Value {
    serde_json::from_slice(&record.reply.as_ref().unwrap().body).unwrap()
}

pub(crate) fn kinds(record: &ActionView) -> Vec<&str> {
    record.receipts.iter().map(|it| it.event_type.as_str()).collect()
}

/// What the execute stage of a receipt says.
fn executed(receipt: &Value) -> &Value {
    receipt["entries"].as_array().unwrap().iter().find(|entry| entry["stage"] == "execute").unwrap()
}

#[tokio::test]
async fn what_is_reserved_is_held_without_a_receipt_until_it_is_charged() {
    let (house, bank, said) = reserved().await;
    let details = &said.body["details"];
    assert_eq!((&details["hold_reason"], &details["amount"]), (&json!("reservation"), &json!("25.00")));
    assert!(details["expires_at"].is_string() && details["provider_reference"].is_string(), "{details}");
    assert_eq!((&said.body["receipt"], bank.effects().count, house.spent()), (&Value::Null, 0, 2500));
    let again = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((again.kind(), again.replayed, bank.reservations()), ("held", true, 1));
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.receipts.len()), ("EXECUTING", 0));
    assert_eq!(record.reservation.unwrap().state, "reserved");
    let trail = house.gateway().check_trail(&house.admin, None).await.unwrap();
    assert!(trail.findings.is_empty(), "{:?}", trail.findings);

    let record = house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    assert_eq!((record.state.as_str(), kinds(&record)), ("COMPLETED", vec!["ORIGINAL"]));
    assert_eq!(answer(&record)["kind"], "executed");
    assert_eq!((bank.effects().count, bank.balance("acct-1"), bank.reserved()), (1, Some(2500), 0));
    let receipt = house.verified(&record.receipts[0].receipt.receipt_id).await;
    assert_eq!(receipt["paymentStatus"], "charged");
    let (sent, attempt) = (executed(&receipt), &record.attempts[0]);
    assert_eq!(sent["input"]["reservation"], attempt.reference.as_str());
    let reservation = record.reservation.unwrap();
    assert_eq!(sent["input"]["providerKey"], reservation.captures[0].provider_key.as_str());
    assert_ne!(reservation.captures[0].provider_key, attempt.provider_key);
    assert_eq!((reservation.state, house.spent()), ("charged", 2500));
    let body = reserving(&house, "25.00");
    assert_eq!(house.said("k", &body).await.kind(), "executed");
}

#[tokio::test]
async fn a_part_is_charged_once_however_often_it_is_asked_for_and_the_rest_is_free() {
    let (house, bank, said) = reserved().await;
    let charge = |amount| house.gateway().capture(&house.agent, said.id(), amount);
    let asked = tokio::join!(charge(Some("10")), charge(Some("10.00")), charge(Some("10.0")));
    assert!([&asked.0, &asked.1, &asked.2].iter().any(|it| it.is_ok()));
    let record = charge(Some("10.00")).await.unwrap();
    assert_eq!(record.state, "COMPLETED");
    assert_eq!((bank.effects().count, bank.balance("acct-1"), bank.reserved()), (1, Some(1000), 0));
    assert_eq!(house.spent(), 1000, "the mandate is charged what was charged");
    let money = &house.verified(&record.receipts[0].receipt.receipt_id).await["money"];
    assert_eq!((&money["offerAmount"], &money["chargeAmount"]), (&json!("25.00"), &json!("10.00")));
    charge(None).await.unwrap();
    assert_eq!(charge(Some("11.00")).await.unwrap_err().code, Code::StateConflict);
    // What was captured can be given back as anything that was carried out, and refills nothing.
    let record = house.gateway().rollback(&house.agent, said.id()).await.unwrap();
    assert_eq!(
        (record.state.as_str(), bank.balance("acct-1"), house.spent()),
        ("ROLLED_BACK", Some(0), 1000)
    );
}

#[tokio::test]
async fn what_cannot_be_charged_so_is_refused_without_a_trace() {
    let (house, bank, said) = reserved().await;
    let before = house.store().query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0));
    for (amount, code) in [
        ("25.01", Code::ValidationFailed),
        ("0", Code::ValidationFailed),
        ("-1", Code::ValidationFailed),
        ("1.001", Code::ValidationFailed),
        ("ten", Code::ValidationFailed),
    ] {
        let refused = house.gateway().capture(&house.agent, said.id(), Some(amount)).await.unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (code, Some("/amount")), "{amount}");
    }
    let charged = house.said("now", &house.payment("acct-2", "5.00")).await;
    let gateway = house.gateway();
    let none = gateway.capture(&house.agent, charged.id(), None).await.unwrap_err();
    assert_eq!(none.code, Code::StateConflict);
    let none = gateway.release(&house.agent, charged.id()).await.unwrap_err();
    assert_eq!(none.code, Code::StateConflict);
    let cancelled = house.gateway().cancel(&house.agent, said.id()).await.unwrap_err();
    assert_eq!(cancelled.code, Code::StateConflict);
    let after = house.store().query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0));
    assert_eq!(after.unwrap() - before.unwrap(), 2, "only the other payment left any");
    assert_eq!((bank.effects().count, bank.reserved()), (1, 2500));
}

#[tokio::test]
async fn a_binding_that_does_not_reserve_refuses_the_mode() {
    let (house, _bank) = banked::house("USD", &RIGHT).await;
    let refused = house.send("k", &reserving(&house, "25.00")).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::ProviderCannot, Some("/payment_mode")));
}

#[tokio::test]
async fn what_is_released_was_never_charged_and_frees_the_mandate() {
    let (house, bank, said) = reserved().await;
    let release = || house.gateway().release(&house.agent, said.id());
    let asked = tokio::join!(release(), release(), release());
    assert!([&asked.0, &asked.1, &asked.2].iter().any(|it| it.is_ok()));
    let record = release().await.unwrap();
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Released)));
    let said_now = answer(&record);
    assert_eq!((&said_now["kind"], &said_now["code"]), (&json!("failed"), &json!("EP_RELEASED")));
    assert_eq!(said_now["details"]["reasons"], json!(["released"]));
    assert_eq!((bank.reserved(), bank.effects().count, house.spent()), (0, 0, 0));
    let receipt = house.verified(&record.receipts[0].receipt.receipt_id).await;
    assert_eq!(
        (&receipt["eventType"], &receipt["paymentStatus"]),
        (&json!("ORIGINAL"), &json!("not_charged"))
    );
    let sent = executed(&receipt);
    assert_eq!(sent["output"]["result"], "released");
    assert_ne!(sent["input"]["providerKey"], record.attempts[0].provider_key.as_str());
    let reservation = record.reservation.unwrap();
    assert_eq!((reservation.state, reservation.released_by.as_deref()), ("released", Some("agent-7")));
    let late = house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err();
    assert_eq!(late.code, Code::StateConflict);
    let fresh = house.said("k2", &reserving(&house, "25.00")).await;
    assert_eq!(fresh.kind(), "held", "its effect is no longer claimed: {}", fresh.body);
}

/// What is set aside, and another gateway that takes it in hand where this one passes a point.
async fn contended(at: &'static str) -> (House, Bank, Said) {
    let bank = banked::bank("USD").await;
    let mut rival = None;
    let house = House::bound(&binding(&bank), |config| {
        banked::reaching(config, &[&bank]);
        rival = Some(Rival::at(at, config));
    })
    .await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((said.kind(), bank.reserved()), ("held", 2500), "{}", said.body);
    rival.unwrap().arm();
    (house, bank, said)
}

/// It is to be set free and nothing of that left from here; once whoever took it in hand is gone, it is.
async fn is_left_to_others(mut house: House, bank: Bank, said: Said) {
    let record = house.record(said.id()).await;
    let reservation = record.reservation.unwrap();
    assert_eq!((record.state.as_str(), reservation.state), ("EXECUTING", "releasing"));
    make_due(&house);
    house.installation.start();
    until(&house, said.id(), "FAILED").await;
    assert_eq!((bank.reserved(), bank.effects().count, house.spent()), (0, 0, 0));
}

#[tokio::test]
async fn what_is_to_be_set_free_and_another_gateway_takes_up_is_left_to_it() {
    let (house, bank, said) = contended("release.after").await;
    house.gateway().release(&house.agent, said.id()).await.unwrap();
    is_left_to_others(house, bank, said).await;
}

#[tokio::test]
async fn what_cannot_be_charged_and_another_gateway_sets_free_is_left_to_it() {
    let (house, bank, said) = contended("capture-failed.after").await;
    bank.expire_reservations();
    house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    is_left_to_others(house, bank, said).await;
}

#[tokio::test]
async fn what_ends_and_another_gateway_takes_up_is_left_to_it() {
    let (mut house, bank, said) = contended("expiry.after").await;
    house.age("k", "json_set(payload, '$.reservation.until_ms', 1)");
    make_due(&house);
    house.installation.start();
    for _ in 0..2000 {
        if house.record(said.id()).await.reservation.unwrap().state == "releasing" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    a_while().await;
    is_left_to_others(house, bank, said).await;
}

#[tokio::test]
async fn what_nobody_charges_is_set_free_when_its_time_is_over() {
    for gone in [false, true] {
        let (mut house, bank, said) = reserved().await;
        house.installation.start();
        a_while().await;
        assert_eq!(house.record(said.id()).await.state, "EXECUTING", "it is not due");
        // As if the time were over, which the row says and so does the provider.
        house.age("k", "json_set(payload, '$.reservation.until_ms', 1)");
        if gone {
            bank.expire_reservations();
        }
        make_due(&house);
        let record = until(&house, said.id(), "FAILED").await;
        assert_eq!(answer(&record)["details"]["reasons"], json!(["reservation_expired"]), "gone: {gone}");
        assert_eq!((bank.reserved(), bank.effects().count, house.spent()), (0, 0, 0));
        let late = house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err();
        assert_eq!(late.code, Code::StateConflict);
    }
}

#[tokio::test]
async fn nothing_is_charged_that_would_arrive_too_late() {
    let (house, bank, said) = reserved().await;
    let soon =
        i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap() + 1500;
    house.age("k", &format!("json_set(payload, '$.reservation.until_ms', {soon})"));
    let late = house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err();
    assert_eq!((late.code, bank.effects().count), (Code::StateConflict, 0), "{}", late.message);
}

#[tokio::test]
async fn a_reservation_whose_answer_was_lost_is_asked_for_and_is_no_charge() {
    let (mut house, bank) = house().await;
    bank.inject(Injection::on(Target::Reservations, Fault::LostAfterEffect, 1));
    let body = reserving(&house, "25.00");
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    house.installation.start();
    let held = house.until("k", &body, "held").await;
    assert_eq!((bank.reservations(), bank.effects().count, house.spent()), (1, 0, 2500));
    let record = house.gateway().capture(&house.agent, held.id(), Some("5.00")).await.unwrap();
    assert_eq!(kinds(&record), ["ORIGINAL", "AMENDMENT_SETTLEMENT"]);
    assert_eq!((bank.effects().count, bank.balance("acct-1"), house.spent()), (1, Some(500), 500));
}

#[tokio::test]
async fn a_reservation_that_was_never_made_has_failed() {
    let (mut house, bank) = house().await;
    bank.inject(Injection::on(Target::Reservations, Fault::LostBeforeEffect, 1));
    let body = reserving(&house, "25.00");
    let said = house.said("k", &body).await;
    finally_absent(&house);
    house.installation.start();
    let record = until(&house, said.id(), "FAILED").await;
    assert_eq!((record.reservation.is_none(), bank.reservations(), house.spent()), (true, 0, 0));
    assert_eq!(answer(&record)["code"], "EP_PROVIDER_FAILED");
}

#[tokio::test]
async fn a_capture_whose_answer_was_lost_is_asked_for_and_never_charged_twice() {
    let (mut house, bank, said) = reserved().await;
    bank.inject(Injection::on(Target::Captures, Fault::LostAfterEffect, 1));
    let record = house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
    assert_eq!(
        (answer(&record)["kind"].as_str(), kinds(&record)),
        (Some("pending_settlement"), vec!["ORIGINAL"])
    );
    assert_eq!(house.spent(), 2500, "doubt keeps the debit");
    // Meanwhile neither another amount nor a release has a chance.
    let other = house.gateway().capture(&house.agent, said.id(), Some("11.00")).await.unwrap_err();
    assert_eq!(other.code, Code::StateConflict);
    let free = house.gateway().release(&house.agent, said.id()).await.unwrap_err();
    assert_eq!(free.code, Code::StateConflict);
    house.installation.start();
    let record = until(&house, said.id(), "COMPLETED").await;
    assert_eq!(kinds(&record), ["ORIGINAL", "AMENDMENT_SETTLEMENT"]);
    assert_eq!((bank.effects().count, bank.balance("acct-1"), house.spent()), (1, Some(1000), 1000));
}

#[tokio::test]
async fn whoever_had_it_charged_does_not_say_what_became_of_that() {
    let (house, bank, said) = reserved().await;
    bank.inject(Injection::on(Target::Captures, Fault::LostAfterEffect, 1));
    let otto = Caller { subject: Subject::parse("otto").unwrap(), ..house.operator.clone() };
    house.gateway().capture(&otto, said.id(), Some("10.00")).await.unwrap();
    let refused = resolve(&house, "otto", said.id(), Decision::Executed).await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    let more = ResolveAsk { charged: Some("10.01".to_owned()), ..word(Decision::Executed) };
    let unfit = house.gateway().resolve(&approver(&house, "anna"), said.id(), more).await.unwrap_err();
    assert_eq!((unfit.code, unfit.field.as_deref()), (Code::ValidationFailed, Some("/charged/amount")));
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count), ("COMPLETED", 1));
}

#[tokio::test]
async fn a_capture_that_never_arrived_leaves_the_reservation_as_it_was() {
    let (mut house, bank, said) = reserved().await;
    bank.inject(Injection::on(Target::Captures, Fault::LostBeforeEffect, 1));
    let body = reserving(&house, "25.00");
    house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    finally_absent(&house);
    house.installation.start();
    let held = house.until("k", &body, "held").await;
    assert_eq!((bank.reserved(), bank.effects().count, house.spent()), (2500, 0, 2500));
    let record = house.gateway().capture(&house.agent, held.id(), Some("20.00")).await.unwrap();
    assert_eq!(record.state, "COMPLETED");
    let captures = record.reservation.unwrap().captures;
    let results: Vec<_> = captures.iter().map(|it| it.result.as_deref()).collect();
    assert_eq!(results, [Some("absent"), None]);
    assert_ne!(captures[0].provider_key, captures[1].provider_key);
    assert_eq!((bank.effects().count, bank.balance("acct-1")), (1, Some(2000)));
}

#[tokio::test]
async fn a_refusal_that_may_pass_keeps_the_reservation_and_another_sets_it_free() {
    let (house, bank, said) = reserved().await;
    bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 1));
    let record = house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    assert_eq!((answer(&record)["kind"].as_str(), bank.reserved()), (Some("held"), 2500));
    bank.expire_reservations();
    let record = house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Released)));
    assert_eq!(answer(&record)["details"]["reasons"], json!(["capture_refused"]));
    let captures = record.reservation.unwrap().captures;
    let ends: Vec<_> =
        captures.iter().map(|it| (it.result.as_deref(), it.provider_code.as_deref())).collect();
    let refused = Some("provider_refused");
    assert_eq!(ends, [(refused, Some("rate_limited")), (refused, Some("expired"))]);
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn a_capture_that_arrives_after_all_is_found_when_its_reservation_cannot_be_set_free() {
    let (mut house, bank, said) = reserved().await;
    bank.inject(Injection::on(Target::Captures, Fault::Late { ms: 700 }, 1));
    let body = reserving(&house, "25.00");
    house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
    finally_absent(&house);
    house.installation.start();
    house.until("k", &body, "held").await;
    while bank.effects().count == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let record = house.gateway().release(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent()), ("COMPLETED", 1000));
    assert_eq!(record.reservation.unwrap().state, "charged");
    assert!(
        house
            .gateway()
            .metrics()
            .unwrap()
            .lines()
            .any(|line| line.contains("late_effect") && line.ends_with(" 1"))
    );
    let receipt = house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
    assert_eq!(receipt["money"]["chargeAmount"], "10.00");
}

#[tokio::test]
async fn a_release_is_repeated_under_its_key_until_it_is_confirmed() {
    let (mut house, bank, said) = reserved().await;
    for fault in [Fault::LostAfterEffect, Fault::RateLimited { retry_after: 1 }] {
        bank.inject(Injection::on(Target::Releases, fault, 1));
    }
    let record = house.gateway().release(&house.operator, said.id()).await.unwrap();
    assert_eq!(record.state, "EXECUTING");
    assert_eq!(record.reservation.unwrap().state, "releasing");
    let charged = house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err();
    assert_eq!(charged.code, Code::StateConflict, "it is on its way to be free");
    house.installation.start();
    let record = until(&house, said.id(), "FAILED").await;
    assert_eq!((record.reservation.unwrap().release_sends, bank.reserved()), (Some(3), 0));
}

#[tokio::test]
async fn a_freeze_stops_what_charges_and_only_one_that_includes_rollbacks_what_sets_free() {
    let (house, bank, said) = reserved().await;
    let scope = FreezeScope::parse("tenant").unwrap();
    house.gateway().freeze(&house.operator, scope.clone().into()).await.unwrap();
    let refused = house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err();
    assert!(refused.code == Code::StateConflict && refused.message.contains("EP_FROZEN"), "{refused:?}");
    let everything = FreezeAsk { include_rollback: true, ..scope.clone().into() };
    house.gateway().freeze(&house.operator, everything).await.unwrap();
    let refused = house.gateway().release(&house.agent, said.id()).await.unwrap_err();
    assert!(refused.code == Code::StateConflict && refused.message.contains("EP_FROZEN"), "{refused:?}");
    assert_eq!((bank.reserved(), bank.effects().count), (2500, 0));
    house.gateway().freeze(&house.operator, scope.into()).await.unwrap();
    let record = house.gateway().release(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), bank.reserved()), ("FAILED", 0));
}

#[tokio::test]
async fn a_revoked_mandate_charges_nothing_and_what_it_has_set_aside_is_listed_and_can_be_freed() {
    let (house, bank, said) = reserved().await;
    let jti = house.gateway().mandates(&house.operator, None, 10).await.unwrap().items[0].jti.clone();
    let revoked = house.gateway().revoke_mandate(&house.operator, &jti, None).await.unwrap();
    assert_eq!(revoked.unsettled.len(), 1, "what was admitted before and is not settled");
    let refused = house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err();
    assert_eq!((refused.code, bank.effects().count), (Code::StateConflict, 0), "{}", refused.message);
    let record = house.gateway().release(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), bank.reserved()), ("FAILED", 0));
}

#[tokio::test]
async fn what_is_charged_above_what_was_authorised_is_an_overage() {
    let bank = banked::bank("USD").await;
    let amount = RIGHT.amount;
    let text = binding(&bank).swapped(
        &format!("body = {{ amount = {amount}, reference"),
        "body = { amount = \"30.00\", reference",
    );
    let text = text.replacen(&format!("amount = {amount}, currency"), "amount = \"40.00\", currency", 2);
    let house = House::bound(&text, |config| banked::reaching(config, &[&bank])).await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((said.kind(), bank.reserved()), ("held", 4000), "{}", said.body);
    let record = house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    assert_eq!(kinds(&record), ["ORIGINAL", "AMENDMENT_OVERAGE"]);
    assert_eq!((bank.balance("acct-1"), house.spent()), (Some(3000), 3000));
}

#[tokio::test]
async fn every_step_outlives_the_end_of_the_process() {
    // Reserved.
    let (house, bank, said) = reserved().await;
    let house = house.restart().await;
    let record = house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count, house.spent()), ("COMPLETED", 1, 1000));

    // The reservation was sent, and nobody heard; the same for what charges it and for what sets it free.
    for (target, end) in
        [(Target::Reservations, "held"), (Target::Captures, "executed"), (Target::Releases, "failed")]
    {
        let bank = banked::bank("USD").await;
        let text = binding(&bank).swapped("timeout_ms = 400", "timeout_ms = 9000");
        let house = House::bound(&text, |config| banked::reaching(config, &[&bank])).await;
        bank.inject(Injection::on(target, Fault::DelayAnswer { ms: 2000 }, 1));
        let body = reserving(&house, "25.00");
        let gateway = std::sync::Arc::clone(house.gateway());
        let agent = house.agent.clone();
        let ask = countersign_gateway::Ask {
            idempotency_key: Some(action::IdempotencyKey::parse("k").unwrap()),
            request_id: "req-k".to_owned(),
            dry_run: false,
            wait: countersign_gateway::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        let task = tokio::spawn(async move {
            let answer = gateway.execute(&agent, ask).await.unwrap();
            let id = answer.action_id.unwrap().to_string();
            match target {
                Target::Captures => drop(gateway.capture(&agent, &id, None).await),
                Target::Releases => drop(gateway.release(&agent, &id).await),
                _ => {}
            }
        });
        let sent = || match target {
            Target::Reservations => bank.reservations() == 1,
            Target::Captures => bank.effects().count == 1,
            _ => bank.reservations() == 1 && bank.reserved() == 0,
        };
        while !sent() {
            tokio::task::yield_now().await;
        }
        // The row as it stood while the call was out, in a house that never hears the answer.
        let mut after = house.copy().await;
        task.await.unwrap();
        if target == Target::Releases {
            after.store().execute("UPDATE fate SET until = 1 WHERE state = -4", []).unwrap();
        }
        after.installation.start();
        let said = heard(&after, &body, end).await;
        let effects = u64::from(target == Target::Captures);
        assert_eq!((bank.reservations(), bank.effects().count), (1, effects), "{target:?}");
        if target == Target::Reservations {
            let record = after.gateway().capture(&after.agent, said.id(), None).await.unwrap();
            assert_eq!((record.state.as_str(), bank.effects().count), ("COMPLETED", 1));
        }
    }
}

/// The answer once there is one of this kind; before the first there is none.
async fn heard(house: &House, body: &Value, kind: &str) -> Said {
    for _ in 0..2000 {
        match house.send("k", body).await {
            Ok(said) if said.kind() == kind => return said,
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
    panic!("it never became {kind}");
}

#[tokio::test]
async fn a_released_action_is_tried_again_as_another_attempt() {
    let (house, bank, said) = reserved().await;
    house.gateway().release(&house.agent, said.id()).await.unwrap();
    let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), bank.reserved(), house.spent()), ("EXECUTING", 2500, 2500));
    assert_eq!(record.attempts.len(), 2);
    let record = house.gateway().capture(&house.agent, said.id(), None).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count), ("COMPLETED", 1));
    assert_eq!(kinds(&record), ["ORIGINAL", "AMENDMENT_RETRY"]);
}

#[tokio::test]
async fn the_sandbox_provider_reserves_too() {
    let house = House::bound(BINDING, |_| {}).await;
    let ask = |recipient: &str| {
        let mut body = house.payment(recipient, "25.00");
        body["payment_mode"] = json!("RESERVE_IF_AVAILABLE");
        body
    };
    let said = house.said("a", &ask("acct-1")).await;
    assert_eq!(said.kind(), "held", "{}", said.body);
    let record = house.gateway().capture(&house.agent, said.id(), Some("9.00")).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent()), ("COMPLETED", 900));
    let said = house.said("b", &ask("acct-2")).await;
    assert_eq!(house.gateway().release(&house.agent, said.id()).await.unwrap().state, "FAILED");
    let said = house.said("c", &ask("sandbox:keep")).await;
    let record = house.gateway().release(&house.agent, said.id()).await.unwrap();
    assert_eq!(
        record.reservation.unwrap().state,
        "release_failed",
        "it is refused for good: a person decides"
    );
    let metrics = house.gateway().metrics().unwrap();
    assert!(metrics.lines().any(|line| line.contains("rollback_failed") && line.ends_with(" 1")));
    let trail = house.gateway().check_trail(&house.admin, None).await.unwrap();
    assert!(trail.findings.is_empty(), "{:?}", trail.findings);
    assert_eq!(house.said("d", &ask("sandbox:fail")).await.kind(), "failed");
    let said = house.said("e", &ask("sandbox:hold-10")).await;
    assert_eq!(
        house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err().code,
        Code::StateConflict
    );
}
