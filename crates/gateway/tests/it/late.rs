//! Effects of an attempt that was taken for absent before another one followed: whatever the latest attempt stands at, the
//! effect is proven and debited once, people are told, and nothing more is sent. A real bank counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_gateway::{
    ActionView, Begun, Code, Config, Decision, End, FreezeAsk, FreezeScope, NextRun, Output, Report,
};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Options, Payers, Target};

use crate::banked;
use crate::challenges::{CALLBACK, CHALLENGE, SECRET, call_back, hearing, word_about};
use crate::faults::{self, Dies, Overtaken};
use crate::house::House;
use crate::reserving::{self, kinds};
use crate::resolutions::{findings, resolve};
use crate::retries::{AT_ONCE, LATER};
use crate::rollbacks;

pub(crate) const NO_RETRY: &str =
    "max_retries = 0\nbackoff = \"fixed\"\ninitial_delay_seconds = 0\nmax_delay_seconds = 0";

/// The binding of a bank that tells of its own accord, and cannot be asked.
pub(crate) fn only_told(text: &str) -> String {
    let stays = |section: &&str| !section.split_once(']').is_some_and(|(name, _)| name.ends_with(".query"));
    let text = text.split("\n[").filter(stays).collect::<Vec<_>>().join("\n[");
    text.swapped("queryable = { by_our_reference = true, final_after_seconds = 0 }\n", "")
}

/// Payments to a bank that can only tell, refuses for good what it is too busy for, and lets them be given back.
async fn house(retry: &str, change: impl Fn(String) -> String) -> (House, Bank) {
    house_with(retry, change, |_| {}).await
}

pub(crate) async fn house_with(
    retry: &str,
    change: impl Fn(String) -> String,
    more: impl FnOnce(&mut Config),
) -> (House, Bank) {
    house_of(Options::default(), retry, change, more).await
}

/// The same to a bank with options of its own.
pub(crate) async fn house_of(
    options: Options,
    retry: &str,
    change: impl Fn(String) -> String,
    more: impl FnOnce(&mut Config),
) -> (House, Bank) {
    let payers = Payers { above_minor: 100_000, ..Payers::default() };
    let bank = Bank::start(Options { payers: Some(payers), ..options }).await.unwrap();
    let text = only_told(&rollbacks::binding(&bank, retry))
        .swapped("refused = [{ status = [402, 422] }]", "refused = [{ status = [402, 422, 429] }]")
        .swapped("timeout_ms = 5000", "timeout_ms = 2000");
    let house = bound_with(&bank, &change(text), more).await;
    (house, bank)
}

async fn bound(bank: &Bank, text: &str) -> House {
    bound_with(bank, text, |_| {}).await
}

async fn bound_with(bank: &Bank, text: &str, more: impl FnOnce(&mut Config)) -> House {
    House::bound(&format!("{text}{CALLBACK}"), |config| {
        more(config);
        banked::reaching(config, &[bank]);
        hearing(config);
        config.limits.patience_ms = 300;
        config.egress.challenge_hosts.push("pay.bank.example".to_owned());
    })
    .await
}

pub(crate) fn same(text: String) -> String {
    text
}

/// A payment of 25 that was carried out, and of which a person said that it had failed.
pub(crate) async fn wrongly_failed(house: &House, bank: &Bank) -> String {
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    let record = resolve(house, "anna", said.id(), Decision::Failed).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent(), bank.effects().count), ("FAILED", 0, 1));
    said.id().to_owned()
}

pub(crate) async fn retry(house: &House, id: &str) -> ActionView {
    let tried = || async {
        match house.gateway().retry(&house.agent, id).await {
            // Whoever has looked after it may not be gone yet.
            Err(error) if error.code == Code::StateConflict => None,
            record => Some(record.unwrap()),
        }
    };
    faults::found("it is tried again", tried).await
}

/// The bank tells that this attempt had its effect, twice as banks do.
pub(crate) async fn settled(house: &House, id: &str, attempt: u32) -> ActionView {
    for _ in 0..2 {
        tell(house, id, attempt, "payment.settled").await;
    }
    house.record(id).await
}

pub(crate) async fn tell(house: &House, id: &str, attempt: u32, what: &str) {
    call_back(house, SECRET, &word_about(&house.reference(id, &attempt.to_string()).await, what, "25.00"))
        .await
        .unwrap();
}

pub(crate) fn alerts(house: &House, word: &str) -> u64 {
    let metrics = house.gateway().metrics().unwrap();
    let word = format!("alert=\"{word}\"");
    let line = metrics.lines().find(|line| line.contains("alerts_total{") && line.contains(&word));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

fn results(record: &ActionView) -> Vec<Option<&str>> {
    record.attempts.iter().map(|it| it.result.as_deref()).collect()
}

/// The receipt at this place, verified as a stranger would.
async fn receipt(house: &House, record: &ActionView, at: usize) -> Value {
    house.verified(&record.receipts[at].receipt.receipt_id).await
}

pub(crate) fn executed(receipt: &Value) -> &Value {
    receipt["entries"].as_array().unwrap().iter().find(|entry| entry["stage"] == "execute").unwrap()
}

/// The receipt at this place tells of the first attempt's effect, and amends the one that said it had failed.
async fn tells_of_the_first(house: &House, record: &ActionView, at: usize) {
    let late = receipt(house, record, at).await;
    assert_eq!(late["eventType"], "AMENDMENT_SETTLEMENT");
    assert_eq!(late["amendmentOf"], record.receipts[1].receipt.receipt_id.as_str());
    assert_eq!(
        (&late["metadata"]["kind"], &late["money"]["chargeAmount"]),
        (&json!("executed"), &json!("25.00"))
    );
    let entry = executed(&late);
    assert_eq!((&entry["input"]["attempt"], &entry["output"]["result"]), (&json!(1), &json!("confirmed")));
    assert_eq!(receipt(house, record, 1).await["metadata"]["kind"], "failed");
}

/// The events of the chain, newest first.
pub(crate) async fn events(house: &House) -> Vec<String> {
    let ask = countersign_gateway::AuditAsk { limit: 100, ..Default::default() };
    let trail = house.gateway().audit(&house.operator, &ask).await.unwrap();
    trail.items.iter().map(|entry| entry.event.to_string()).collect()
}

async fn is_frozen(house: &House) -> bool {
    house.said("next", &house.payment("acct-9", "1.00")).await.code() == "EP_DELEGATION_BLOCK"
}

/// What there is to see wherever the latest attempt has an effect, too.
async fn stands_twice(house: &House, record: &ActionView) {
    assert_eq!(record.attempts[0].result.as_deref(), Some("confirmed"));
    let at = record.receipts.len() - 2;
    tells_of_the_first(house, record, at).await;
    let overage = receipt(house, record, at + 1).await;
    assert_eq!(overage["eventType"], "AMENDMENT_OVERAGE");
    assert_eq!(overage["amendmentOf"], record.receipts[at].receipt.receipt_id.as_str());
    assert_eq!(
        (&overage["money"]["offerAmount"], &overage["money"]["chargeAmount"]),
        (&json!("25.00"), &json!("50.00"))
    );
    assert_eq!(house.spent(), 5000);
    let ask = countersign_gateway::AuditAsk { limit: 2, ..Default::default() };
    let trail = house.gateway().audit(&house.operator, &ask).await.unwrap();
    let told: Vec<_> = trail.items.iter().map(|entry| &*entry.event).collect();
    assert_eq!(told, ["overage", "duplicate_effect"], "destinations are told of entries");
    assert_eq!(["late_effect", "duplicate_effect", "overage"].map(|word| alerts(house, word)), [1, 1, 1]);
    assert_eq!(findings(house).await, 0);
    assert!(is_frozen(house).await);
}

/// What there is to see where the first attempt alone had its effect.
async fn done_by_the_first(house: &House, bank: &Bank, record: &ActionView, spent: i64) {
    assert_eq!((record.state.as_str(), record.error), ("COMPLETED", None));
    assert_eq!((results(record)[0], house.spent(), bank.effects().count), (Some("confirmed"), spent, 1));
    assert_eq!(["late_effect", "duplicate_effect", "overage"].map(|word| alerts(house, word)), [1, 0, 0]);
    assert_eq!(findings(house).await, 0);
    let again = house.gateway().retry(&house.agent, &record.action_id.to_string()).await.unwrap_err();
    assert_eq!(again.code, Code::StateConflict);
}

#[tokio::test]
async fn beside_an_attempt_that_was_carried_out_it_is_a_duplicate() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    let before = retry(&house, &id).await;
    assert_eq!((before.state.as_str(), bank.effects().count, house.spent()), ("COMPLETED", 2, 2500));
    let record = settled(&house, &id, 1).await;
    assert_eq!(record.state, "COMPLETED");
    assert_eq!(results(&record), [Some("confirmed"), Some("confirmed")]);
    assert_eq!(record.reply, before.reply, "what was said of the latest attempt stands");
    assert_eq!(kinds(&record)[2..], ["AMENDMENT_RETRY", "AMENDMENT_SETTLEMENT", "AMENDMENT_OVERAGE"]);
    stands_twice(&house, &record).await;
}

#[tokio::test]
async fn after_the_latest_attempt_failed_it_is_what_the_action_came_to() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    assert_eq!(retry(&house, &id).await.state, "FAILED");
    let record = settled(&house, &id, 1).await;
    done_by_the_first(&house, &bank, &record, 2500).await;
    assert_eq!(results(&record)[1], Some("provider_refused"), "in the word that told it");
    tells_of_the_first(&house, &record, 3).await;
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!((said.kind(), said.replayed), ("executed", true));
    // It was the latest that had an effect, too.
    let record = settled(&house, &id, 2).await;
    assert_eq!(results(&record), [Some("confirmed"), Some("confirmed")]);
    assert_eq!((house.spent(), alerts(&house, "duplicate_effect"), alerts(&house, "overage")), (5000, 1, 1));
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn of_the_latest_attempt_it_is_no_retry_whatever_was_tried_before() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    assert_eq!(retry(&house, &id).await.state, "FAILED");
    let record = settled(&house, &id, 2).await;
    assert_eq!((record.state.as_str(), house.spent(), alerts(&house, "late_effect")), ("COMPLETED", 2500, 1));
    assert_eq!(
        kinds(&record),
        ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_RETRY", "AMENDMENT_SETTLEMENT"]
    );
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn an_attempt_that_is_not_sent_yet_is_not_sent() {
    let again = |text: String| {
        text.swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
            .swapped("[402, 422, 429] }]", "[402, 422] }]\ntransient = { status = [429] }")
    };
    let (house, bank) = house(LATER, again).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    let record = retry(&house, &id).await;
    assert_eq!((record.state.as_str(), record.attempts.len()), ("EXECUTING", 2));
    assert_eq!(record.attempts[1].result.as_deref(), Some("provider_refused"), "it waits for a third");
    let record = settled(&house, &id, 1).await;
    done_by_the_first(&house, &bank, &record, 2500).await;
    assert_eq!(results(&record), [Some("confirmed"), Some("provider_refused")]);
    tells_of_the_first(&house, &record, 2).await;
}

#[tokio::test]
async fn beside_a_doubt_it_is_on_record_and_nothing_is_sent_again() {
    for (says, twice) in [("payment.declined", false), ("payment.settled", true)] {
        let (mut house, bank) = house(NO_RETRY, same).await;
        house.installation.start();
        let id = wrongly_failed(&house, &bank).await;
        let fault = if twice { Fault::LostAfterEffect } else { Fault::LostBeforeEffect };
        bank.inject(Injection::payments(fault, 1));
        assert_eq!(retry(&house, &id).await.state, "EXECUTING");
        let record = settled(&house, &id, 1).await;
        assert_eq!((record.state.as_str(), results(&record)), ("EXECUTING", vec![Some("confirmed"), None]));
        assert_eq!((house.spent(), alerts(&house, "late_effect")), (5000, 1));
        assert_eq!((alerts(&house, "duplicate_effect"), findings(&house).await), (0, 0));
        tells_of_the_first(&house, &record, record.receipts.len() - 1).await;
        tell(&house, &id, 2, says).await;
        let record = house.record(&id).await;
        if twice {
            assert_eq!((record.state.as_str(), results(&record)), ("COMPLETED", vec![Some("confirmed"); 2]));
            assert_eq!((house.spent(), alerts(&house, "duplicate_effect")), (5000, 1));
            assert_eq!(kinds(&record).last().copied(), Some("AMENDMENT_OVERAGE"));
            let reply: Value = serde_json::from_slice(&record.reply.unwrap().body).unwrap();
            assert_eq!(reply["details"]["reasons"], json!(["duplicate_effect"]));
            assert_eq!(findings(&house).await, 0);
            assert!(is_frozen(&house).await);
        } else {
            done_by_the_first(&house, &bank, &record, 2500).await;
            assert_eq!(results(&record)[1], Some("provider_refused"));
            let closing = receipt(&house, &record, record.receipts.len() - 1).await;
            assert_eq!(executed(&closing)["input"]["attempt"], 2);
            assert_eq!(
                (&closing["metadata"]["kind"], &closing["money"]["chargeAmount"]),
                (&json!("executed"), &json!("25.00"))
            );
        }
    }
}

#[tokio::test]
async fn a_person_who_ends_the_doubt_beside_it_says_what_became_of_the_latest_attempt() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    retry(&house, &id).await;
    settled(&house, &id, 1).await;
    let record = resolve(&house, "ben", &id, Decision::Failed).await.unwrap();
    done_by_the_first(&house, &bank, &record, 2500).await;
    assert_eq!(results(&record)[1], Some("resolved_by_person"));
    let people: Vec<_> = record.resolutions.iter().map(|it| &*it.by).collect();
    assert_eq!(people, ["anna", "ben"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_an_attempt_in_flight_it_is_on_record_and_that_goes_on() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 1_000 }, 1));
    let told = async {
        faults::effects(&bank, 2).await;
        let record = settled(&house, &id, 1).await;
        assert_eq!((record.state.as_str(), results(&record)), ("EXECUTING", vec![Some("confirmed"), None]));
        tells_of_the_first(&house, &record, 2).await;
        assert_eq!((house.spent(), findings(&house).await), (5000, 0));
    };
    let (record, ()) = tokio::join!(retry(&house, &id), told);
    assert_eq!((record.state.as_str(), results(&record)), ("COMPLETED", vec![Some("confirmed"); 2]));
    assert_eq!((house.spent(), alerts(&house, "duplicate_effect"), findings(&house).await), (5000, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_provider_tells_of_itself_before_it_answers_is_not_late_when_it_does() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 1_000 }, 1));
    let told = async {
        faults::effects(&bank, 2).await;
        let record = settled(&house, &id, 2).await;
        assert_eq!(record.state, "COMPLETED");
        (record.receipts.len(), events(&house).await.len())
    };
    let (record, before) = tokio::join!(retry(&house, &id), told);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let after = house.record(&id).await;
    assert_eq!((record.state.as_str(), after.state.as_str()), ("COMPLETED", "COMPLETED"));
    assert_eq!((after.receipts.len(), events(&house).await.len()), before);
    assert_eq!(
        (alerts(&house, "late_effect"), alerts(&house, "duplicate_effect"), findings(&house).await),
        (0, 0, 0)
    );
}

/// A callback has read that nothing was said yet, and the caller's deadline is over before it writes down what it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_its_provider_tells_while_a_doubt_is_told_amends_that() {
    let overtaken = Arc::<Overtaken>::default();
    let patient = |text: String| text.swapped("timeout_ms = 2000", "timeout_ms = 8000");
    let points = Arc::clone(&overtaken);
    let (house, bank) = house_with(NO_RETRY, patient, |config| config.fail_points = Some(points as _)).await;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 6_000 }, 1));
    let mut body = house.payment("acct-1", "25.00");
    body["deadline_ms"] = json!(4_000);
    let told = async {
        faults::effects(&bank, 1).await;
        let reference = bank.paid().into_keys().next().unwrap();
        call_back(&house, SECRET, &word_about(&reference, "payment.settled", "25.00")).await.unwrap();
    };
    let (said, ()) = tokio::join!(house.said("k", &body), told);
    assert_eq!((said.kind(), overtaken.has_come()), ("pending_settlement", true), "{}", said.body);
    let record = house.record(said.id()).await;
    assert_eq!(
        (record.state.as_str(), kinds(&record)),
        ("COMPLETED", vec!["ORIGINAL", "AMENDMENT_SETTLEMENT"])
    );
    assert_eq!((house.spent(), bank.effects().count, findings(&house).await), (2500, 1, 0));
}

/// As if another gateway had taken it over and sent it once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_tell_leaves_alone_what_was_sent_again_since() {
    let (house, bank) = house(NO_RETRY, same).await;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 5_000 }, 1));
    let sent_again = async {
        faults::effects(&bank, 1).await;
        house.age("k", "json_set(payload, '$.call.sends', 2)");
        house.store().execute("UPDATE fate SET token = 2", []).unwrap();
    };
    let body = house.payment("acct-1", "25.00");
    let (said, ()) = tokio::join!(house.said("k", &body), sent_again);
    assert_eq!((said.kind(), &said.body["receipt"]), ("pending_settlement", &Value::Null), "{}", said.body);
    let record = house.record(said.id()).await;
    assert_eq!((record.phase, record.receipts.len()), (Some("sent"), 0));
}

#[tokio::test]
async fn a_doubt_beside_it_is_not_sent_again_where_it_would_be() {
    let again = |text: String| {
        text.swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
    };
    let (house, bank) = house(LATER, again).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    let record = retry(&house, &id).await;
    assert_eq!((record.state.as_str(), record.attempts[1].sends), ("EXECUTING", 1));
    settled(&house, &id, 1).await;
    // Whoever comes after a crash does not wait for the pause.
    let mut house = house.restart().await;
    house.installation.start();
    crate::retries::a_while().await;
    let record = house.record(&id).await;
    assert_eq!((record.state.as_str(), record.attempts[1].sends, bank.effects().count), ("EXECUTING", 1, 1));
}

#[tokio::test]
async fn an_attempt_that_had_no_effect_beside_it_is_followed_by_no_other() {
    let bank = banked::bank("USD").await;
    let text = rollbacks::binding(&bank, LATER)
        .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
        .swapped("timeout_ms = 5000", "timeout_ms = 200");
    let mut house = bound(&bank, &text).await;
    bank.inject(Injection::payments(Fault::Late { ms: 2_000 }, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    let id = said.id();
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    resolve(&house, "anna", id, Decision::Failed).await.unwrap();
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    assert_eq!(retry(&house, id).await.state, "EXECUTING");
    faults::effects(&bank, 1).await;
    assert_eq!(results(&settled(&house, id, 1).await), [Some("confirmed"), None]);
    reserving::finally_absent(&house);
    house = house.restart().await;
    house.installation.start();
    rollbacks::until(&house, id, "COMPLETED").await;
    let record = house.record(id).await;
    assert_eq!((results(&record), house.spent()), (vec![Some("confirmed"), Some("absent")], 2500));
    assert_eq!((bank.effects().count, findings(&house).await), (1, 0));
}

#[tokio::test]
async fn while_the_payer_of_the_latest_attempt_is_asked_it_is_on_record() {
    let bank = Bank::start(Options { payers: Some(Payers::default()), ..Options::default() }).await.unwrap();
    let text = only_told(&rollbacks::binding(&bank, NO_RETRY)).swapped(
        "success = { status = [201], pointer",
        &format!("{CHALLENGE}\nsuccess = {{ status = [201], pointer"),
    );
    let (text, rest) = text.split_once("\n[binding.rollback]").unwrap();
    let house = bound(&bank, &format!("{text}\n[retry]{}", rest.split_once("[retry]").unwrap().1)).await;
    let mut body = house.payment("acct-1", "25.00");
    body["payment_mode"] = json!("IMMEDIATE_CHARGE_WITH_CHALLENGE");
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let said = house.said("k", &body).await;
    let id = said.id();
    resolve(&house, "anna", id, Decision::Failed).await.unwrap();
    let first = bank.awaited().pop().unwrap();
    let record = retry(&house, id).await;
    let answer: Value = serde_json::from_slice(&record.reply.unwrap().body).unwrap();
    assert_eq!(answer["kind"], "needs_challenge");
    assert!(bank.payer_says(&first, true));
    let record = settled(&house, id, 1).await;
    assert_eq!((record.state.as_str(), results(&record)), ("EXECUTING", vec![Some("confirmed"), None]));
    assert_eq!((house.spent(), alerts(&house, "late_effect"), findings(&house).await), (5000, 1, 0));
    tells_of_the_first(&house, &record, 2).await;
    tell(&house, id, 2, "payment.declined").await;
    done_by_the_first(&house, &bank, &house.record(id).await, 2500).await;
}

/// A check that finds what it is asked to find.
pub(crate) fn checking(text: &str, word: &str) -> String {
    let check = r#"
[binding.check]
path = ["payments", { "$action" = "provider_reference" }]
WORD = { status = [200], pointer = "/status", equals = ["settled"] }
OTHER = { status = [200], pointer = "/status", equals = ["lost"] }
"#;
    let other = if word == "holds" { "fails" } else { "holds" };
    let check = check.swapped("WORD", word).swapped("OTHER", other);
    text.swapped("\n[binding.rollback]", &format!("{check}\n[binding.rollback]"))
}

#[tokio::test]
async fn beside_an_effect_that_is_looked_after_it_is_a_duplicate() {
    for phase in ["checking", "unchecked"] {
        let (mut house, bank) = house(NO_RETRY, |text| checking(&text, "holds")).await;
        let id = wrongly_failed(&house, &bank).await;
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1000));
        assert_eq!(retry(&house, &id).await.state, "EXECUTING");
        if phase == "unchecked" {
            // As if it had been asked in vain for as long as it is, and nobody were at it.
            house = house.restart().await;
            house.age("k", "json_set(payload, '$.check.asks', 1000)");
            crate::unbound::wake(&mut house);
            rollbacks::until_phase(&house, &id, phase).await;
        }
        let record = settled(&house, &id, 1).await;
        assert_eq!((record.phase, bank.effects().count), (Some(phase), 2));
        stands_twice(&house, &record).await;
    }
}

#[tokio::test]
async fn beside_an_effect_that_is_being_undone_or_undone_it_stays_and_is_told() {
    // Before anything was said of it, and after.
    for (word, fault, state) in [
        ("fails", Fault::RateLimited { retry_after: 1 }, "ROLLING_BACK"),
        ("holds", Fault::RateLimited { retry_after: 1 }, "ROLLING_BACK"),
        ("holds", Fault::LostBeforeEffect, "ROLLING_BACK"),
        ("holds", Fault::None, "ROLLED_BACK"),
    ] {
        let policy = if fault == Fault::LostBeforeEffect { NO_RETRY } else { LATER };
        let (mut house, bank) = house(policy, |text| checking(&text, word)).await;
        let id = wrongly_failed(&house, &bank).await;
        bank.inject(Injection::on(Target::Refunds, fault.clone(), 1));
        retry(&house, &id).await;
        house.installation.start();
        rollbacks::until(&house, &id, if word == "holds" { "COMPLETED" } else { "ROLLING_BACK" }).await;
        let mut record = house.record(&id).await;
        if word == "holds" {
            record = rollbacks::rolled_back(&house, &id).await;
        }
        assert_eq!((record.state.as_str(), bank.effects().count), (state, 2), "{word} {fault:?}");
        let failed = record.rollback.unwrap().failed;
        assert_eq!(failed, fault == Fault::LostBeforeEffect);
        let record = settled(&house, &id, 1).await;
        assert_eq!((record.state.as_str(), record.rollback.as_ref().unwrap().failed), (state, failed));
        stands_twice(&house, &record).await;
    }
}

#[tokio::test]
async fn what_is_set_aside_for_the_latest_attempt_is_set_free() {
    let bank = banked::bank("USD").await;
    let house = bound(&bank, &only_told(&reserving::binding(&bank))).await;
    let said = house.said("k", &reserving::reserving(&house, "25.00")).await;
    let id = said.id().to_owned();
    // A capture that was lost, and of which a person says that it failed, sets free what it was to charge.
    bank.inject(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 1));
    house.gateway().capture(&house.agent, &id, Some("10.00")).await.unwrap();
    house.gateway().release(&house.agent, &id).await.unwrap();
    let record = retry(&house, &id).await;
    assert_eq!((record.state.as_str(), bank.reserved(), house.spent()), ("EXECUTING", 2500, 2500));
    let before = record.attempts[0].reservation.as_ref().unwrap();
    assert_eq!(
        (before.state, before.captures[0].amount.as_str()),
        ("released", "10.00"),
        "it is still shown"
    );
    let mut house = house;
    house.installation.start();
    let body = word_about(&house.reference(&id, "1-capture-1").await, "payment.settled", "10.00");
    for _ in 0..2 {
        call_back(&house, SECRET, &body).await.unwrap();
    }
    rollbacks::until(&house, &id, "COMPLETED").await;
    let record = house.record(&id).await;
    assert_eq!((house.spent(), bank.reserved(), alerts(&house, "late_effect")), (1000, 0, 1));
    assert_eq!(record.reservation.as_ref().unwrap().state, "released");
    assert_eq!(results(&record), [Some("confirmed"), Some("released")]);
    let late = kinds(&record).len() - 2;
    assert_eq!(
        executed(&receipt(&house, &record, late).await)["input"]["reference"],
        house.reference(&id, "1-capture-1").await
    );
    assert_eq!(findings(&house).await, 0);

    // That only a reservation of the first attempt is there charges nothing.
    let house = bound(&bank, &only_told(&reserving::binding(&bank))).await;
    bank.inject(Injection::on(Target::Reservations, Fault::LostBeforeEffect, 3));
    let said = house.said("k", &reserving::reserving(&house, "25.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    let record = retry(&house, said.id()).await;
    let after = settled(&house, said.id(), 1).await;
    assert_eq!((after.reply, after.receipts.len()), (record.reply, record.receipts.len()));
    assert_eq!((house.spent(), alerts(&house, "late_effect")), (2500, 0));
}

#[tokio::test]
async fn a_bank_that_can_be_asked_is_asked_before_it_is_believed() {
    let bank = banked::bank("USD").await;
    let text = rollbacks::binding(&bank, NO_RETRY).swapped("timeout_ms = 5000", "timeout_ms = 200");
    let house = bound(&bank, &text).await;
    bank.inject(Injection::payments(Fault::Late { ms: 2_000 }, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    let id = said.id();
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    resolve(&house, "anna", id, Decision::Failed).await.unwrap();
    assert_eq!(retry(&house, id).await.state, "COMPLETED");
    tell(&house, id, 1, "payment.settled").await;
    assert_eq!(alerts(&house, "late_effect"), 0, "the bank does not know of it yet");
    assert_eq!(alerts(&house, "denied_effect"), 1, "it says so, and says for good that it does not");
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    let word = word_about(&house.reference(id, "1").await, "payment.settled", "25.00");
    let error = call_back(&house, SECRET, &word).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "nobody else would ask: it has to be said again");
    faults::effects(&bank, 2).await;
    stands_twice(&house, &settled(&house, id, 1).await).await;
}

#[tokio::test]
async fn who_asks_for_another_attempt_has_all_the_earlier_ones_asked_after() {
    let bank = banked::bank("USD").await;
    let text = rollbacks::binding(&bank, NO_RETRY)
        .swapped("timeout_ms = 5000", "timeout_ms = 200")
        .swapped("refused = [{ status = [402, 422] }]", "refused = [{ status = [402, 422, 429] }]");
    let house = bound(&bank, &text).await;
    bank.inject(Injection::payments(Fault::Late { ms: 2_000 }, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    assert_eq!(retry(&house, said.id()).await.state, "FAILED");
    faults::effects(&bank, 1).await;
    let record = retry(&house, said.id()).await;
    done_by_the_first(&house, &bank, &record, 2500).await;
}

#[tokio::test]
async fn what_the_mandate_has_not_left_any_more_is_debited_all_the_same_and_freezes_it() {
    for another in [false, true] {
        let (house, bank) = house(NO_RETRY, same).await;
        let id = wrongly_failed(&house, &bank).await;
        if another {
            bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
            assert_eq!(retry(&house, &id).await.state, "FAILED");
        }
        assert_eq!(house.said("most", &house.payment("acct-2", "490.00")).await.kind(), "executed");
        let record = settled(&house, &id, 1).await;
        assert_eq!(
            (record.state.as_str(), house.spent()),
            ("COMPLETED", 51_500),
            "more than the 500 it was given"
        );
        assert_eq!(
            kinds(&record)[record.receipts.len() - 2..],
            ["AMENDMENT_SETTLEMENT", "AMENDMENT_OVERAGE"]
        );
        assert_eq!(["late_effect", "overage"].map(|word| alerts(&house, word)), [1, 1]);
        assert!(is_frozen(&house).await);
        assert_eq!(findings(&house).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_effects_that_arrive_at_once_do_not_pass_the_cap_unnoticed() {
    let (mut house, bank) = house(NO_RETRY, same).await;
    house.token = house.mandate("60.00").await;
    let mut failed = Vec::new();
    for number in 0..5 {
        bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
        let said =
            house.said(&format!("k{number}"), &house.payment(&format!("acct-{number}"), "25.00")).await;
        resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
        failed.push(said.id().to_owned());
    }
    let told = failed.iter().map(|id| tell(&house, id, 1, "payment.settled"));
    futures_util::future::join_all(told).await;
    let mut over = 0;
    for id in &failed {
        let record = house.record(id).await;
        assert_eq!(record.state, "COMPLETED");
        over += kinds(&record).iter().filter(|kind| **kind == "AMENDMENT_OVERAGE").count();
    }
    assert_eq!(over, 3, "two of 25 fit into 60, whichever they are");
    let sql = "SELECT spent FROM account ORDER BY spent DESC LIMIT 1";
    let spent: i64 = house.store().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(spent, 12_500);
    assert_eq!(["late_effect", "overage"].map(|word| alerts(&house, word)), [5, 3]);
    assert!(is_frozen(&house).await);
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_back_without_an_answer_after_its_callers_deadline_is_in_nobodys_hand() {
    let (house, bank) = house(NO_RETRY, same).await;
    bank.inject(Injection::payments(Fault::DelayEffect { ms: 60_000 }, 10));
    let (key, body, said) = house.overdue(|_| house.payment("acct-1", "25.00")).await;
    let stands = || {
        let sql = "SELECT state, owner IS NOT NULL AND until IS NOT NULL, (SELECT count(*) FROM entry)
                   FROM fate ORDER BY row DESC LIMIT 1";
        let told = house.store().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        told.unwrap()
    };
    let before: (i64, bool, i64) = stands();
    assert_eq!((before.0, before.1), (3, true), "its call is on its way");
    faults::until("its call has timed out", || !stands().1).await;
    assert_eq!(stands(), (3, false, before.2), "nobody is told once more");
    let again = house.said(&key, &body).await;
    assert_eq!((again.replayed, &again.body), (true, &said.body));
    assert_eq!(findings(&house).await, 0);
}

fn exactly_once(text: String) -> String {
    let level = "reversible = true\nguarantee_level = \"atp-3\"\napproval = \"key\"\n";
    let snapshot =
        "\n[binding.snapshot]\npath = [\"accounts\", \"operating\"]\nsuccess = { status = [200] }\n";
    text.swapped("reversible = true\n", level) + snapshot
}

#[tokio::test]
async fn exactly_once_means_that_what_is_found_before_another_attempt_is_undone() {
    let bank = banked::bank("USD").await;
    let text = rollbacks::binding(&bank, NO_RETRY)
        .swapped("timeout_ms = 5000", "timeout_ms = 200")
        .swapped("refused = [{ status = [402, 422] }]", "refused = [{ status = [402, 422, 429] }]");
    let mut house = bound(&bank, &exactly_once(text)).await;
    bank.inject(Injection::payments(Fault::Late { ms: 2_000 }, 1));
    let body = house.payment("acct-1", "25.00");
    let held = house.said("k", &body).await;
    house.gateway().approve(&crate::approvals::approver(&house, "anna"), held.id(), None).await.unwrap();
    house.until("k", &body, "pending_settlement").await;
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    resolve(&house, "ben", held.id(), Decision::Failed).await.unwrap();
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    assert_eq!(retry(&house, held.id()).await.state, "FAILED");
    faults::effects(&bank, 1).await;
    assert_eq!(retry(&house, held.id()).await.state, "ROLLING_BACK");
    house.installation.start();
    rollbacks::until(&house, held.id(), "ROLLED_BACK").await;
    assert_eq!(bank.balance("acct-1"), Some(0));
    assert_eq!((bank.effects().count, alerts(&house, "late_effect"), findings(&house).await), (1, 1, 0));
}

#[tokio::test]
async fn exactly_once_means_that_what_comes_late_is_undone() {
    let (mut house, bank) = house(NO_RETRY, exactly_once).await;
    house.installation.start();
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let body = house.payment("acct-1", "25.00");
    let held = house.said("k", &body).await;
    house.gateway().approve(&crate::approvals::approver(&house, "anna"), held.id(), None).await.unwrap();
    house.until("k", &body, "pending_settlement").await;
    resolve(&house, "ben", held.id(), Decision::Failed).await.unwrap();
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    assert_eq!(retry(&house, held.id()).await.state, "FAILED");
    tell(&house, held.id(), 1, "payment.settled").await;
    // The bank calls it otherwise than `pay_1`, and gives nothing back by that name.
    rollbacks::until_phase(&house, held.id(), "rollback_failed").await;
    let record = house.record(held.id()).await;
    let rollback = record.rollback.as_ref().unwrap();
    assert_eq!(
        rollback.reference,
        house.reference(held.id(), "1-rollback").await,
        "it is the first attempt's effect"
    );
    assert_eq!(results(&record), [Some("confirmed"), Some("provider_refused")]);
    assert_eq!((rollback.by.as_str(), alerts(&house, "late_effect")), ("countersign", 1));
    assert_eq!(findings(&house).await, 0);
}

/// A payment of 25 at `atp-3` that was carried out, and of which a person said that it had failed.
async fn wrongly_failed_for_good(more: impl FnOnce(&mut Config)) -> (House, Bank, String) {
    let bank = banked::bank("USD").await;
    let text = exactly_once(rollbacks::binding(&bank, AT_ONCE));
    let house = bound_with(&bank, &text, more).await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1_000));
    let body = house.payment("acct-1", "25.00");
    let held = house.said("k", &body).await;
    house.gateway().approve(&crate::approvals::approver(&house, "anna"), held.id(), None).await.unwrap();
    house.until("k", &body, "pending_settlement").await;
    let record = resolve(&house, "ben", held.id(), Decision::Failed).await.unwrap();
    assert_eq!((record.state.as_str(), bank.balance("acct-1")), ("FAILED", Some(2500)));
    bank.clear_faults();
    (house, bank, held.id().to_owned())
}

async fn is_undone(house: &House, bank: &Bank, id: &str, at: &str) {
    rollbacks::until(house, id, "ROLLED_BACK").await;
    let record = house.record(id).await;
    assert_eq!((bank.refunds(), bank.balance("acct-1"), bank.effects().count), (1, Some(0), 1), "{at}");
    assert_eq!(results(&record), [Some("confirmed")], "{at}");
    assert_eq!(record.rollback.as_ref().unwrap().by, "countersign");
    let kinds = kinds(&record);
    assert_eq!(kinds, ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_SETTLEMENT", "AMENDMENT_ROLLBACK"]);
    let told = events(house).await;
    assert_eq!(told.iter().filter(|event| **event == "late_effect").count(), 1, "{at}");
    assert_eq!((house.spent(), findings(house).await), (2500, 0), "what is given back refills nothing");
}

#[tokio::test]
async fn exactly_once_means_that_it_is_undone_whoever_dies_over_it() {
    for at in [
        "late.before",
        "late.after",
        "rollback-note.before",
        "rollback-note.after",
        "rollback-send.before",
        "rollback-send.after",
        "rollback-outcome.before",
        "rollback-outcome.after",
    ] {
        let dies = Dies::at(at);
        let (mut house, bank, id) =
            wrongly_failed_for_good(|config| config.fail_points = Some(Arc::clone(&dies) as _)).await;
        dies.arm();
        let word = word_about(&house.reference(&id, "1").await, "payment.settled", "25.00");
        let heard = call_back(&house, SECRET, &word).await;
        assert_eq!(heard.is_err(), at.starts_with("late"), "{at}: {heard:?}");
        house.installation.start();
        faults::until("it dies", || !dies.is_armed()).await;
        house = house.restart().await;
        for _ in 0..2 {
            call_back(&house, SECRET, &word).await.unwrap();
        }
        crate::unbound::wake(&mut house);
        is_undone(&house, &bank, &id, at).await;
    }
}

#[tokio::test]
async fn what_comes_late_waits_to_be_undone_while_a_freeze_includes_that() {
    let (mut house, bank, id) = wrongly_failed_for_good(|_| {}).await;
    let everything = |even_if_unknown| FreezeAsk {
        scope: FreezeScope::All,
        reason: None,
        include_rollback: true,
        even_if_unknown,
    };
    house.gateway().freeze(&house.admin, everything(false)).await.unwrap();
    tell(&house, &id, 1, "payment.settled").await;
    let record = house.record(&id).await;
    assert_eq!((record.state.as_str(), results(&record)), ("ROLLING_BACK", vec![Some("confirmed")]));
    assert_eq!(findings(&house).await, 0);
    house.installation.start();
    crate::retries::a_while().await;
    assert_eq!((house.record(&id).await.phase, bank.refunds()), (Some("rolling_back"), 0));
    house.gateway().thaw(&house.admin, FreezeScope::All).await.unwrap();
    is_undone(&house, &bank, &id, "thawed").await;
}

#[tokio::test]
async fn what_comes_late_and_nobody_can_undo_any_more_is_for_a_person() {
    let (mut house, bank, id) = wrongly_failed_for_good(|_| {}).await;
    tell(&house, &id, 1, "payment.settled").await;
    let bound = format!("{}{CALLBACK}", exactly_once(rollbacks::binding(&bank, AT_ONCE)));
    house.rebind(bound.split_once("[binding]").unwrap().0).await;
    house.installation.start();
    rollbacks::until_phase(&house, &id, "rollback_failed").await;
    let record = house.record(&id).await;
    assert!(record.rollback.as_ref().unwrap().failed);
    assert_eq!((results(&record), findings(&house).await), (vec![Some("confirmed")], 0));
    house.rebind(&bound).await;
    let record = house.gateway().rollback(&house.operator, &id).await.unwrap();
    assert_eq!((record.state.as_str(), bank.balance("acct-1")), ("ROLLED_BACK", Some(0)));
}

/// Says only after an hour for certain that it knows of no such call.
fn certain_later(text: &str) -> String {
    text.swapped("final_after_seconds = 0", "final_after_seconds = 3600")
}

#[tokio::test]
async fn what_the_bank_tells_and_does_not_know_of_yet_has_to_be_told_again() {
    let bank = banked::bank("USD").await;
    let text = rollbacks::binding(&bank, NO_RETRY).swapped("timeout_ms = 5000", "timeout_ms = 200");
    let house = bound(&bank, &certain_later(&text)).await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1_000));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    bank.clear_faults();
    assert_eq!(retry(&house, said.id()).await.state, "COMPLETED");
    let word = word_about(&house.reference(said.id(), "1").await, "payment.settled", "25.00");
    assert_eq!(call_back(&house, SECRET, &word).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(["late_effect", "denied_effect"].map(|word| alerts(&house, word)), [0, 0]);
    // The same of an effect that it denies.
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1_000));
    let said = house.said("other", &house.payment("acct-2", "25.00")).await;
    resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    bank.clear_faults();
    let word = word_about(&house.reference(said.id(), "1").await, "payment.declined", "25.00");
    assert_eq!(call_back(&house, SECRET, &word).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(
        (house.record(said.id()).await.state.as_str(), alerts(&house, "denied_effect")),
        ("COMPLETED", 0)
    );
}

#[tokio::test]
async fn of_what_was_erased_only_an_effect_that_no_receipt_tells_of_is_news() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    assert_eq!(retry(&house, &id).await.state, "COMPLETED");
    let [first, second] = [house.reference(&id, "1").await, house.reference(&id, "2").await];
    house.gateway().erase(&house.admin, &id).await.unwrap();
    call_back(&house, SECRET, &word_about(&second, "payment.settled", "25.00")).await.unwrap();
    assert_eq!(alerts(&house, "late_effect"), 0, "that was said");
    call_back(&house, SECRET, &word_about(&first, "payment.settled", "25.00")).await.unwrap();
    assert_eq!(alerts(&house, "late_effect"), 1);
    let (house, bank) = self::house(NO_RETRY, same).await;
    let failed = wrongly_failed(&house, &bank).await;
    let first = house.reference(&failed, "1").await;
    house.gateway().erase(&house.admin, &failed).await.unwrap();
    call_back(&house, SECRET, &word_about(&first, "payment.settled", "25.00")).await.unwrap();
    assert_eq!(alerts(&house, "late_effect"), 1);
}

#[tokio::test]
async fn what_is_denied_of_the_latest_attempt_beside_an_earlier_effect_is_told_as_denied() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    retry(&house, &id).await;
    settled(&house, &id, 1).await;
    resolve(&house, "ben", &id, Decision::Executed).await.unwrap();
    assert_eq!(house.spent(), 5000);
    tell(&house, &id, 2, "payment.declined").await;
    let record = house.record(&id).await;
    assert_eq!(
        (record.state.as_str(), house.spent(), alerts(&house, "denied_effect")),
        ("COMPLETED", 2500, 1)
    );
    assert_eq!(events(&house).await[0], "denied_effect");
    assert_eq!((results(&record)[0], findings(&house).await), (Some("confirmed"), 0));
}

#[tokio::test]
async fn what_waits_for_its_next_attempt_and_had_its_effect_is_told_as_late() {
    let again = |text: String| {
        text.swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
            .swapped("[402, 422, 429] }]", "[402, 422] }]\ntransient = { status = [429] }")
    };
    let (house, bank) = house(LATER, again).await;
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    let record = settled(&house, said.id(), 1).await;
    assert_eq!((record.state.as_str(), alerts(&house, "late_effect")), ("COMPLETED", 1));
    assert_eq!((&*events(&house).await[0], findings(&house).await), ("late_effect", 0));
}

#[tokio::test]
async fn what_is_looked_after_first_is_told_as_late_too_unless_it_is_undone() {
    for (word, state, event) in
        [("holds", "COMPLETED", "late_effect"), ("fails", "ROLLED_BACK", "rolled_back")]
    {
        let bank = banked::bank("USD").await;
        let text = checking(&rollbacks::binding(&bank, LATER), word)
            .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
            .swapped("timeout_ms = 5000", "timeout_ms = 200");
        let mut house = bound(&bank, &text).await;
        bank.inject(Injection::payments(Fault::Late { ms: 2_000 }, 1));
        let said = house.said("k", &house.payment("acct-1", "25.00")).await;
        assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
        reserving::finally_absent(&house);
        house = house.restart().await;
        house.installation.start();
        rollbacks::until_phase(&house, said.id(), "waiting").await;
        faults::effects(&bank, 1).await;
        tell(&house, said.id(), 1, "payment.settled").await;
        rollbacks::until(&house, said.id(), state).await;
        let told = events(&house).await;
        assert_eq!(told[0], event, "{told:?}");
        let late = told.iter().filter(|it| *it == "late_effect").count();
        assert_eq!((late, alerts(&house, "late_effect")), (usize::from(word == "holds"), 1));
        assert_eq!((bank.effects().count, findings(&house).await), (1, 0));
    }
}

/// Keeps whoever passes a point there, once it is armed.
#[derive(Debug, Default)]
struct Keeps {
    armed: AtomicBool,
    there: AtomicBool,
}

impl ledger::FailPoints for Keeps {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        while step == "again.before" && self.armed.load(Ordering::SeqCst) {
            self.there.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// A command that its caller runs.
const JOB: &str = r#"
name = "JOB"
description = "A command"
reversible = true
guarantee_level = "atp-1"
resource = "/program"
approval = "key"

[cedar]
groups = ["Payments"]
resource_type = "Program"

[schema]
required = ["program", "directory"]
properties.program = { description = "The program", type = "string", pattern = "^/", x-identifier = true, x-display = true, examples = ["/bin/sh"] }
properties.arguments = { description = "Its arguments", type = "array", items = { type = "string" }, x-display = true, examples = [["-c", "true"]] }
properties.directory = { description = "Where it runs", type = "string", examples = ["/tmp"] }

[retry]

[binding]
provider = "runner"
timeout_seconds = 60
"#;

fn exited(code: u8) -> Report {
    let nothing = Output { sha256: "00".repeat(32), bytes: 0 };
    Report { end: End::Exited(code), duration_ms: 1, stdout: nothing.clone(), stderr: nothing, tail: None }
}

/// A job that a runner has taken, and its key.
async fn begun(house: &House, more: Value) -> (String, String) {
    let mut body = json!({
        "archetype": "JOB",
        "constraints": { "program": "/bin/true", "directory": "/" },
        "delegation_token": house.token,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let ask = countersign_gateway::Ask {
        idempotency_key: Some(action::IdempotencyKey::parse("k").unwrap()),
        request_id: "req-k".to_owned(),
        dry_run: false,
        wait: countersign_gateway::Wait::default(),
        body: body.to_string().into_bytes(),
    };
    let Begun::Admitted(id) = house.gateway().begin_run(&house.agent, ask).await.unwrap() else {
        panic!("it is not begun");
    };
    let id = id.to_string();
    let taken = house.gateway().take_run(&house.agent, &id, "a").await.unwrap();
    let NextRun::Run(offer) = taken.next else { panic!("{taken:?}") };
    (id, offer.provider_key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_runner_is_still_at_stays_in_hand_and_what_it_fell_silent_about_does_not() {
    for (waits, is_at_it) in [("timeout_seconds = 8", true), ("silence_seconds = 8", false)] {
        let text = JOB.swapped("[retry]", &format!("[retry]\n{NO_RETRY}"));
        let house = House::bound(&text.swapped("timeout_seconds = 60", waits), |_| {}).await;
        let (id, provider_key) = begun(&house, json!({ "deadline_ms": 3000 })).await;
        let stands = || {
            let sql = "SELECT state, owner IS NOT NULL FROM fate ORDER BY row DESC LIMIT 1";
            let told: (i64, bool) =
                house.store().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            told
        };
        faults::until("its caller waits no longer", || stands().0 == 3).await;
        assert!(stands().1, "it is on its way");
        if is_at_it {
            // Nobody looks for a runner before the call is over.
            faults::found("its call is over", || async {
                let refused = resolve(&house, "anna", &id, Decision::Failed).await.unwrap_err();
                refused.message.contains("its runner is still at it").then_some(())
            })
            .await;
            assert_eq!(stands(), (3, true));
        } else {
            faults::until("its runner has fallen silent", || stands() == (3, false)).await;
        }
        let over = house.gateway().report_run(&house.agent, &id, &provider_key, exited(0)).await.unwrap();
        assert_eq!((over.state.as_str(), stands()), ("COMPLETED", (4, false)));
        assert_eq!(findings(&house).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_runner_brings_its_report_again_while_somebody_has_the_failed_action_in_hand() {
    let keeps = Arc::new(Keeps::default());
    let text = JOB.swapped("[retry]", &format!("[retry]\n{NO_RETRY}"));
    let house = House::bound(&text, |config| config.fail_points = Some(Arc::clone(&keeps) as _)).await;
    let (id, provider_key) = begun(&house, json!({})).await;
    let report = |code| house.gateway().report_run(&house.agent, &id, &provider_key, exited(code));
    assert_eq!(report(1).await.unwrap().state, "FAILED");
    // Nobody takes the second.
    assert_eq!(retry(&house, &id).await.state, "FAILED");
    keeps.armed.store(true, Ordering::SeqCst);
    let (gateway, agent, again) = (Arc::clone(house.gateway()), house.agent.clone(), id.clone());
    let third = tokio::spawn(async move { gateway.retry(&agent, &again).await.map(drop) });
    faults::until("it is kept", || keeps.there.load(Ordering::SeqCst)).await;
    let meanwhile = report(0).await;
    keeps.armed.store(false, Ordering::SeqCst);
    drop(third.await.unwrap());
    let error = meanwhile.unwrap_err();
    assert_eq!((error.code, error.retry_after), (Code::Unavailable, Some(1)), "no conflict, which is final");
    let record = report(0).await.unwrap();
    assert_eq!(results(&record)[0], Some("confirmed"));
    assert_eq!((alerts(&house, "late_effect"), findings(&house).await), (1, 0));
}

#[tokio::test]
async fn a_person_who_said_it_was_done_is_put_right_by_its_provider() {
    let (house, bank) = house(NO_RETRY, same).await;
    bank.inject(Injection::payments(Fault::LostBeforeEffect, 1));
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent()), ("COMPLETED", 2500));
    for _ in 0..2 {
        tell(&house, said.id(), 1, "payment.declined").await;
    }
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::ProviderFailed)));
    assert_eq!((house.spent(), alerts(&house, "denied_effect"), record.receipts.len()), (0, 1, 3));
    let denied = receipt(&house, &record, 2).await;
    assert_eq!(
        (&denied["eventType"], &denied["metadata"]["kind"]),
        (&json!("AMENDMENT_SETTLEMENT"), &json!("failed"))
    );
    assert_eq!(findings(&house).await, 0);
    // And once more the other way round.
    let record = settled(&house, said.id(), 1).await;
    assert_eq!((record.state.as_str(), house.spent(), alerts(&house, "late_effect")), ("COMPLETED", 2500, 1));
}

#[tokio::test]
async fn a_bank_that_can_be_asked_denies_all_sends_of_an_attempt_at_once() {
    for asked in [true, false] {
        let bank = banked::bank("USD").await;
        let text = rollbacks::binding(&bank, AT_ONCE)
            .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n");
        let house = bound(&bank, &if asked { text } else { only_told(&text) }).await;
        bank.inject(Injection::payments(Fault::LostBeforeEffect, 100));
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 100));
        let said = house.said("k", &house.payment("acct-1", "25.00")).await;
        let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
        assert_eq!(record.state, "COMPLETED");
        assert!(record.attempts[0].sends > 1, "{}", record.attempts[0].sends);
        bank.clear_faults();
        reserving::finally_absent(&house);
        tell(&house, said.id(), 1, "payment.declined").await;
        let record = house.record(said.id()).await;
        // Where it only tells, one of two sends may still be on its way.
        let stands = if asked { ("FAILED", 0) } else { ("COMPLETED", 2500) };
        assert_eq!(
            (record.state.as_str(), house.spent(), alerts(&house, "denied_effect")),
            (stands.0, stands.1, 1)
        );
        assert_eq!(findings(&house).await, 0);
    }
}

#[tokio::test]
async fn a_provider_that_denies_what_it_confirmed_itself_is_for_a_person() {
    let (house, _bank) = house(NO_RETRY, same).await;
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    for _ in 0..2 {
        tell(&house, said.id(), 1, "payment.declined").await;
    }
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.receipts.len(), house.spent()), ("COMPLETED", 1, 2500));
    assert_eq!((alerts(&house, "denied_effect"), findings(&house).await), (1, 0));
    let ask = countersign_gateway::AuditAsk { limit: 50, ..Default::default() };
    let trail = house.gateway().audit(&house.operator, &ask).await.unwrap();
    assert_eq!(trail.items.iter().filter(|entry| entry.event == "denied_effect").count(), 1);
}

#[tokio::test]
async fn a_forged_one_is_found() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    retry(&house, &id).await;
    settled(&house, &id, 1).await;
    for forged in [
        // It was no late effect, or of another state.
        "UPDATE outcome SET state = 5 WHERE row = (SELECT max(row) - 1 FROM outcome)",
        "UPDATE outcome SET document = (SELECT document FROM outcome WHERE row = 1), receipt_id = 'x' \
         WHERE row = (SELECT max(row) - 1 FROM outcome)",
        // It never was, or was before.
        "DELETE FROM outcome WHERE row = (SELECT max(row) - 1 FROM outcome)",
        "UPDATE outcome SET entry = entry - 2 WHERE row = (SELECT max(row) - 1 FROM outcome)",
    ] {
        let copy = house.copy().await;
        assert_eq!(findings(&copy).await, 0);
        assert_eq!(copy.store().execute(forged, []).unwrap(), 1);
        let check = copy.gateway().check_trail(&copy.admin, None).await.unwrap();
        assert!(!check.findings.is_empty(), "{forged}");
    }
}

#[tokio::test]
async fn a_frozen_archetype_does_not_keep_it_from_being_written_down() {
    let (house, bank) = house(NO_RETRY, same).await;
    let id = wrongly_failed(&house, &bank).await;
    retry(&house, &id).await;
    let scope = FreezeScope::Archetype("PAYMENT_TRANSFER".to_owned());
    let ask = FreezeAsk { scope, reason: None, include_rollback: true, even_if_unknown: false };
    house.gateway().freeze(&house.operator, ask).await.unwrap();
    assert_eq!(settled(&house, &id, 1).await.attempts[0].result.as_deref(), Some("confirmed"));
}

#[tokio::test]
async fn a_callback_about_a_release_is_its_answer() {
    let bank = banked::bank("USD").await;
    let house = bound(&bank, &only_told(&reserving::binding(&bank))).await;
    let said = house.said("k", &reserving::reserving(&house, "25.00")).await;
    let release = word_about(&house.reference(said.id(), "1-release").await, "payment.settled", "25.00");
    call_back(&house, SECRET, &release).await.unwrap();
    assert_eq!(house.record(said.id()).await.state, "EXECUTING", "nobody has asked for that");
    bank.inject(Injection::on(Target::Releases, Fault::LostAfterEffect, 1));
    let record = house.gateway().release(&house.agent, said.id()).await.unwrap();
    assert_eq!((record.state.as_str(), house.spent()), ("EXECUTING", 2500));
    for _ in 0..2 {
        call_back(&house, SECRET, &release).await.unwrap();
    }
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.error), ("FAILED", Some(Code::Released)));
    assert_eq!((house.spent(), record.receipts.len(), findings(&house).await), (0, 1, 0));
}

/// People were asked about it, and the bank tells after all: one that cannot be asked is believed, another is asked.
#[tokio::test]
async fn a_callback_about_a_release_that_was_refused_for_good_ends_it_too() {
    for asked in [false, true] {
        let bank = banked::bank("USD").await;
        let stuck = reserving::binding(&bank)
            .swapped("\"release\"]", "\"keep\"]")
            .swapped("refused = [{ status = [409] }]", "refused = [{ status = [404, 409] }]")
            .swapped("gone = [{ status = [404, 410] }]", "gone = [{ status = [410] }]");
        let text = if asked { stuck.clone() } else { only_told(&stuck) };
        let house = bound(&bank, &text).await;
        let said = house.said("k", &reserving::reserving(&house, "25.00")).await;
        let record = house.gateway().release(&house.agent, said.id()).await.unwrap();
        assert_eq!(record.phase, Some("release_failed"));
        let release = word_about(&house.reference(said.id(), "1-release").await, "payment.settled", "25.00");
        for _ in 0..2 {
            call_back(&house, SECRET, &release).await.unwrap();
        }
        let record = house.record(said.id()).await;
        // The bank that can be asked says once more that it does not let go.
        let ended = if asked { ("EXECUTING", 2500) } else { ("FAILED", 0) };
        assert_eq!((record.state.as_str(), house.spent(), findings(&house).await), (ended.0, ended.1, 0));
    }
}

#[tokio::test]
async fn a_callback_about_a_reservation_of_which_nobody_was_told_is_taken() {
    let bank = banked::bank("USD").await;
    let text = only_told(&reserving::binding(&bank))
        .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
        .swapped(AT_ONCE, LATER)
        .swapped(
            "refused = [{ status = [402, 422] }]\nreference = \"/reservation_id\"",
            "refused = [{ status = [402, 422] }]\ntransient = [{ status = [429] }]\nreference = \"/reservation_id\"",
        );
    let house = House::bound(&format!("{text}{CALLBACK}"), |config| {
        banked::reaching(config, &[&bank]);
        hearing(config);
        config.limits.patience_ms = 1_000_000_000;
    })
    .await;
    bank.inject(Injection::on(Target::Reservations, Fault::RateLimited { retry_after: 1 }, 1));
    let body = reserving::reserving(&house, "25.00");
    let asking = house.send("k", &body);
    let told = async {
        let waits = "SELECT count(*) FROM fate WHERE state = -1";
        let count = || house.store().query_row(waits, [], |row| row.get::<_, i64>(0)).unwrap();
        faults::until("it waits", || count() > 0).await;
        // As after the end of the process.
        let copy = house.copy().await;
        let sql = "SELECT id FROM action WHERE key = 'k'";
        let id: [u8; 16] = house.store().query_row(sql, [], |row| row.get(0)).unwrap();
        let id = action::ActionId::from_bytes(id).unwrap().to_string();
        tell(&copy, &id, 1, "payment.settled").await;
        assert_eq!((copy.record(&id).await.state.as_str(), copy.spent()), ("EXECUTING", 2500));
    };
    tokio::select! {
        _ = asking => panic!("it waits for its next attempt"),
        () = told => {}
    }
}
