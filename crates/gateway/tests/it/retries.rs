//! What is sent again, what never is, and what the record says of it: a real bank counts the effects.

use std::time::Duration;

use countersign_gateway::{Code, FreezeScope};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Options};

use crate::banked::{self, Promise, retrying};
use crate::house::{House, Said};

/// Two retries, at once.
pub(crate) const AT_ONCE: &str =
    "max_retries = 2\nbackoff = \"fixed\"\ninitial_delay_seconds = 0\nmax_delay_seconds = 0";
/// Two retries, for which nobody waits.
pub(crate) const LATER: &str =
    "max_retries = 2\nbackoff = \"fixed\"\ninitial_delay_seconds = 86400\nmax_delay_seconds = 86400";

pub(crate) async fn house(promise: Promise, retry: &str) -> (House, Bank) {
    patient(promise, retry, 60_000).await
}

/// A house that keeps its callers waiting so long.
pub(crate) async fn patient(promise: Promise, retry: &str, patience_ms: u64) -> (House, Bank) {
    let bank = banked::bank("USD").await;
    let binding = retrying(&bank, promise, retry);
    let house = House::bound(&binding, |config| {
        banked::reaching(config, &[&bank]);
        config.limits.patience_ms = patience_ms;
    })
    .await;
    (house, bank)
}

pub(crate) fn busy(bank: &Bank, times: u64) {
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, times));
}

/// The receipt of an answer, verified as a stranger would.
pub(crate) async fn receipt(house: &House, said: &Said) -> Value {
    house.verified(said.body["receipt"].as_str().unwrap()).await
}

/// As if the time had come.
pub(crate) fn make_due(house: &House) {
    assert_eq!(house.store().execute("UPDATE fate SET until = 1 WHERE state = -1", []).unwrap(), 1);
}

/// Long enough for the gateway to look after what is due a few times.
pub(crate) async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_refusal_that_passes_is_followed_by_another_attempt_while_the_caller_waits() {
    let (house, bank) = house(Promise::Both, AT_ONCE).await;
    busy(&bank, 2);
    let body = house.payment("acct-1", "25.00");
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    assert_eq!((bank.effects().count, bank.balance("acct-1")), (1, Some(2500)));
    let receipt = receipt(&house, &said).await;
    assert_eq!(receipt["eventType"], "ORIGINAL");
    let sent = receipt["entries"].as_array().unwrap().iter().find(|entry| entry["stage"] == "execute");
    assert_eq!(sent.unwrap()["input"]["attempt"], 3);
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.retry_count, record.receipts.len()), ("COMPLETED", 2, 1));
    let results: Vec<_> =
        record.attempts.iter().map(|it| (it.attempt, it.sends, it.result.as_deref())).collect();
    let busy = Some("provider_refused");
    assert_eq!(results, [(1, 1, busy), (2, 1, busy), (3, 1, Some("confirmed"))]);
    let mut keys: Vec<_> = record.attempts.iter().map(|it| it.provider_key.clone()).collect();
    keys.dedup();
    assert_eq!(keys.len(), 3, "each attempt has a key of its own");
    assert_eq!(house.spent(), 2500, "debited once");
    assert_eq!(house.said("k", &body).await.bytes, said.bytes);
}

#[tokio::test]
async fn a_lost_answer_of_a_bank_that_knows_its_keys_is_asked_for_by_sending_the_same_again() {
    let (house, bank) = house(Promise::Idempotent, AT_ONCE).await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    assert_eq!(bank.effects().count, 1);
    let record = house.record(said.id()).await;
    assert_eq!((record.attempts.len(), record.attempts[0].sends, record.retry_count), (1, 2, 1));
    assert_eq!(receipt(&house, &said).await["eventType"], "ORIGINAL");
}

#[tokio::test]
async fn of_two_sends_a_refused_one_says_nothing_about_the_other() {
    let (house, bank) = house(Promise::Idempotent, AT_ONCE).await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    busy(&bank, 1);
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    let record = house.record(said.id()).await;
    assert_eq!(
        (record.attempts.len(), record.attempts[0].sends),
        (1, 3),
        "another key would have paid twice"
    );
    assert_eq!(bank.effects().count, 1);
}

#[tokio::test]
async fn a_bank_that_can_be_asked_is_asked_before_anything_is_sent_again() {
    let (mut house, bank) = house(Promise::Queryable, AT_ONCE).await;
    house.installation.start();
    for (key, fault, attempts) in
        [("done", Fault::LostAfterEffect, 1), ("not-done", Fault::LostBeforeEffect, 2)]
    {
        let before = bank.effects().count;
        bank.inject(Injection::payments(fault, 1));
        let body = house.payment(&format!("acct-{key}"), "25.00");
        house.said(key, &body).await;
        let said = house.settled(key, &body).await;
        assert_eq!(bank.effects().count, before + 1, "{key}");
        assert_eq!(house.record(said.id()).await.attempts.len(), attempts, "{key}");
    }
}

#[tokio::test]
async fn after_the_last_retry_it_has_failed_and_gives_back_what_it_held() {
    let (house, bank) = house(Promise::Both, AT_ONCE).await;
    busy(&bank, 9);
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!((said.kind(), said.code()), ("failed", "EP_PROVIDER_FAILED"), "{}", said.body);
    assert_eq!(said.reasons(), ["provider_refused"]);
    assert_eq!((house.record(said.id()).await.attempts.len(), house.spent()), (3, 0));
    assert_eq!(bank.effects().count, 0);
}

#[tokio::test]
async fn a_refusal_for_good_is_not_tried_again() {
    let (house, bank) = house(Promise::Both, AT_ONCE).await;
    let said = house.said("k", &house.payment("operating", "25.00")).await;
    assert_eq!((said.kind(), said.code()), ("failed", "EP_PROVIDER_FAILED"), "{}", said.body);
    assert_eq!((house.record(said.id()).await.attempts.len(), bank.effects().count), (1, 0));
}

#[tokio::test]
async fn a_request_has_fewer_retries_and_never_more() {
    let (house, bank) = house(Promise::Both, AT_ONCE).await;
    for (asked, retries) in [(0, 0), (1, 1), (50, 2)] {
        busy(&bank, u64::from(retries) + 1);
        let key = format!("k-{asked}");
        let mut body = house.payment(&format!("acct-{asked}"), "25.00");
        body["retry_policy"] = json!({ "max_retries": asked });
        let said = house.said(&key, &body).await;
        assert_eq!(said.kind(), "failed");
        let record = house.record(said.id()).await;
        assert_eq!((record.retry_count, record.retry.unwrap().max_retries), (retries, retries));
    }
}

#[tokio::test]
async fn what_would_be_due_after_the_deadline_fails_with_it() {
    let (house, bank) = house(Promise::Both, LATER).await;
    busy(&bank, 1);
    let mut body = house.payment("acct-1", "25.00");
    body["deadline_ms"] = json!(2_000);
    let said = house.said("k", &body).await;
    assert_eq!((said.kind(), said.code()), ("failed", "EP_DEADLINE_EXCEEDED"), "{}", said.body);
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn beyond_the_callers_patience_it_is_pending_and_amended_when_the_retry_settles() {
    let (mut house, bank) = patient(Promise::Both, LATER, 0).await;
    busy(&bank, 1);
    let body = house.payment("acct-1", "25.00");
    let first = house.said("k", &body).await;
    assert_eq!(first.kind(), "pending_settlement", "{}", first.body);
    let original = receipt(&house, &first).await;
    assert_eq!(
        (&original["eventType"], &original["metadata"]["kind"]),
        (&json!("ORIGINAL"), &json!("pending_settlement"))
    );
    let record = house.record(first.id()).await;
    assert_eq!((record.state.as_str(), record.attempts.len()), ("EXECUTING", 1));
    house.installation.start();
    a_while().await;
    assert_eq!(bank.effects().count, 0, "it is not due");
    assert_eq!(house.said("k", &body).await.bytes, first.bytes);
    make_due(&house);
    let said = house.settled("k", &body).await;
    let amendment = receipt(&house, &said).await;
    assert_eq!(amendment["eventType"], "AMENDMENT_RETRY");
    assert_eq!(amendment["amendmentOf"], original["receiptId"]);
    assert_eq!((bank.effects().count, house.spent()), (1, 2500));
}

#[tokio::test]
async fn what_waits_outlives_a_restart() {
    let (house, bank) = patient(Promise::Both, LATER, 0).await;
    busy(&bank, 1);
    let body = house.payment("acct-1", "25.00");
    assert_eq!(house.said("k", &body).await.kind(), "pending_settlement");
    let mut house = house.restart().await;
    make_due(&house);
    house.installation.start();
    let said = house.settled("k", &body).await;
    assert_eq!(house.record(said.id()).await.attempts.len(), 2);
    assert_eq!((bank.effects().count, house.spent()), (1, 2500));
}

#[tokio::test]
async fn what_is_frozen_when_it_is_due_waits_until_it_is_thawed() {
    let (mut house, bank) = patient(Promise::Both, LATER, 0).await;
    busy(&bank, 1);
    let body = house.payment("acct-1", "25.00");
    assert_eq!(house.said("k", &body).await.kind(), "pending_settlement");
    let gateway = house.gateway();
    let scope = FreezeScope::parse("tenant").unwrap();
    gateway.freeze(&house.operator, scope.clone().into()).await.unwrap();
    make_due(&house);
    house.installation.start();
    a_while().await;
    assert_eq!((house.said("k", &body).await.kind(), bank.effects().count), ("pending_settlement", 0));
    house.gateway().thaw(&house.operator, scope).await.unwrap();
    house.settled("k", &body).await;
    assert_eq!(bank.effects().count, 1);
}

#[tokio::test]
async fn what_loses_its_mandate_while_it_waits_is_not_sent_again() {
    let (mut house, bank) = patient(Promise::Both, LATER, 0).await;
    busy(&bank, 1);
    let body = house.payment("acct-1", "25.00");
    assert_eq!(house.said("k", &body).await.kind(), "pending_settlement");
    let jti = house.gateway().mandates(&house.operator, None, 10).await.unwrap().items[0].jti.clone();
    house.gateway().revoke_mandate(&house.operator, &jti, None).await.unwrap();
    make_due(&house);
    house.installation.start();
    let said = house.until("k", &body, "failed").await;
    assert_eq!(said.code(), "EP_DELEGATION_BLOCK", "{}", said.body);
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn what_the_policies_no_longer_permit_is_not_sent_again() {
    let (mut house, bank) = patient(Promise::Both, LATER, 0).await;
    busy(&bank, 1);
    let body = house.payment("acct-1", "25.00");
    assert_eq!(house.said("k", &body).await.kind(), "pending_settlement");
    house.write("policies/default/payments.cedar", "@id(\"no\")\nforbid (principal, action, resource);\n");
    house.gateway().reload(&house.admin).await.unwrap();
    make_due(&house);
    house.installation.start();
    let said = house.until("k", &body, "failed").await;
    assert_eq!(said.code(), "EP_BOUNDARY_BLOCK", "{}", said.body);
    assert_eq!(bank.effects().count, 0);
}

#[tokio::test]
async fn what_is_tried_again_is_not_held_against_itself() {
    let (house, bank) = house(Promise::Both, AT_ONCE).await;
    // The whole cap, and as much as may move within an hour.
    let binding =
        retrying(&bank, Promise::Both, AT_ONCE) + "\n[anomaly]\nhour_sum = \"500.00\"\nhour_count = 1\n";
    house.rebind(&binding).await;
    busy(&bank, 1);
    let said = house.said("k", &house.payment("acct-1", "500.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    assert_eq!(house.spent(), 50_000);
}

/// A note at the bank: one cent to somebody, which twice does no harm.
pub(crate) fn note(bank: &Bank) -> String {
    format!(
        r#"
name = "NOTE"
description = "Leave a note"
reversible = true
guarantee_level = "atp-2"
resource = "/to"

[cedar]
groups = ["Payments"]
resource_type = "Thing"

[schema]
required = ["to"]

[schema.properties.to]
description = "Whom"
type = "string"
examples = ["acct-1"]
x-identifier = true

[retry]
{AT_ONCE}

[binding]
provider = "http"
name = "notes"
base = "http://{}/v1"
timeout_ms = 200
headers = {{ Authorization = {{ "$secret" = "bank", prefix = "Bearer " }} }}

[binding.capabilities]
repeat_safe = true

[binding.act]
path = "/payments"
body = {{ recipient = {{ "$value" = "/to" }}, amount = "0.01", currency = "USD" }}
success = {{ status = [201], pointer = "/status", equals = ["settled"] }}
"#,
        bank.address()
    )
}

async fn notes() -> (House, Bank) {
    let bank = Bank::start(Options { idempotency: None, ..Options::default() }).await.unwrap();
    let house = House::with(|config| {
        banked::reaching(config, &[&bank]);
        let folder = config.catalogue_dir.as_ref().unwrap().join("default");
        std::fs::write(folder.join("note.toml"), note(&bank)).unwrap();
    })
    .await;
    (house, bank)
}

#[tokio::test]
async fn what_is_safe_to_repeat_happens_at_least_once() {
    let (house, bank) = notes().await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let body =
        json!({ "archetype": "NOTE", "constraints": { "to": "acct-1" }, "delegation_token": house.token });
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    assert_eq!((house.record(said.id()).await.attempts[0].sends, bank.effects().count), (2, 2));
}

#[tokio::test]
async fn what_is_safe_to_repeat_rests_in_doubt_after_its_last_retry() {
    let (mut house, bank) = notes().await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 99));
    let body = json!({ "archetype": "NOTE", "constraints": { "to": "acct-1" }, "delegation_token": house.token,
                       "deadline_ms": 3000 });
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    house.installation.start();
    a_while().await;
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.attempts[0].sends), ("EXECUTING", 3), "a person decides");
    assert_eq!(bank.effects().count, 3);
}

#[tokio::test]
async fn what_the_provider_cannot_keep_is_not_promised() {
    let (house, bank) = notes().await;
    let unable = note(&bank).swapped("repeat_safe = true", "cancellable = true");
    house.write("catalogue/default/note.toml", &unable);
    house.gateway().reload(&house.admin).await.unwrap();
    let body =
        json!({ "archetype": "NOTE", "constraints": { "to": "acct-1" }, "delegation_token": house.token });
    assert_eq!(house.send("k", &body).await.unwrap_err().code, Code::ProviderCannot);
    assert_eq!(bank.effects().count, 0);
}
