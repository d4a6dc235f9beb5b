//! Payments that their payer has to confirm: what the caller is told, what ends the wait, and whose word is believed. The
//! bank is real; what it says of itself is handed over as the server would.

use std::time::Duration;

use countersign_gateway::{Code, Error, Signed};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{self, Bank, Fault, Injection, Options, Payers, Target};

use crate::banked::{self, RIGHT};
use crate::house::{House, Said};
use crate::retries::{a_while, receipt};

pub(crate) const SECRET: &str = "whsec_d2hvZXZlciByZWFkcyB0aGlzIGtub3dzIHRoZSBrZXk=";
const OLD_SECRET: &str = "whsec_dGhlIGtleSBvZiBsYXN0IHllYXIsIHN0aWxsIGtub3c=";
const FOREIGN: &str = "whsec_bm9ib2R5IGhlcmUgaGFzIGV2ZXIgc2VlbiB0aGlzIGtleQ==";

/// How the gateway learns what a payer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// It can ask.
    Asking,
    /// It is told, and cannot ask.
    Word,
}

pub(crate) const CHALLENGE: &str = r#"challenge = { status = [202], pointer = "/status", equals = ["awaiting_payer"], url = "/challenge_url", within_seconds = 900 }"#;
pub(crate) const CALLBACK: &str = r#"
[binding.callback]
secret = "bank-callbacks"
about = "/reference"
settled = { pointer = "/type", equals = ["payment.settled"] }
refused = { pointer = "/type", equals = ["payment.declined"] }
reference = "/payment_id"
charged = { amount = "/amount", currency = "/currency" }
"#;

fn binding(bank: &Bank, by: By) -> String {
    let whole = banked::binding(bank, "bank", &RIGHT)
        .swapped("success = ", &format!("{CHALLENGE}\nsuccess = "))
        .swapped(
            r#"found = { status = [200], pointer = "/payments/0" }"#,
            r#"found = { status = [200], pointer = "/payments/0/status", equals = ["settled"] }
refused = { status = [200], pointer = "/payments/0/status", equals = ["declined", "expired"] }"#,
        );
    let text = match by {
        By::Asking => whole,
        By::Word => {
            let (act, _) = whole.split_once("\n[binding.query]").unwrap();
            act.swapped("queryable = { by_our_reference = true, final_after_seconds = 0 }\n", "")
        }
    };
    format!("{text}{CALLBACK}")
}

async fn house(by: By) -> (House, Bank) {
    house_with(by, Payers::default(), |text| text).await
}

async fn house_with(by: By, payers: Payers, change: impl Fn(String) -> String) -> (House, Bank) {
    let bank = Bank::start(Options { payers: Some(payers), ..Options::default() }).await.unwrap();
    let house = House::bound(&change(binding(&bank, by)), |config| {
        banked::reaching(config, &[&bank]);
        hearing(config);
        config.egress.challenge_hosts.push("pay.bank.example".to_owned());
    })
    .await;
    (house, bank)
}

/// Lets the bank call back.
pub(crate) fn hearing(config: &mut countersign_gateway::Config) {
    let secret = config.data_dir.with_file_name("callbacks.secret");
    std::fs::write(&secret, format!("{SECRET} {OLD_SECRET}")).unwrap();
    let secret =
        countersign_gateway::config::StaticSecret { env: None, file: Some(secret), hosts: Vec::new() };
    let secret = countersign_gateway::config::Secret::Static(secret);
    config.secrets.insert("bank-callbacks".to_owned(), secret);
}

/// A payment that its payer may be asked to confirm.
fn payment(house: &House, recipient: &str) -> Value {
    let mut body = house.payment(recipient, "25.00");
    body["payment_mode"] = json!("IMMEDIATE_CHARGE_WITH_CHALLENGE");
    body
}

/// A payment that waits for its payer.
async fn challenged(house: &House, key: &str) -> Said {
    let said = house.said(key, &payment(house, key)).await;
    assert_eq!(said.kind(), "needs_challenge", "{}", said.body);
    said
}

/// The payer's answer, at the address that the caller was told.
fn answers(bank: &Bank, said: &Said, yes: bool) {
    let url = said.body["details"]["challenge_url"].as_str().unwrap();
    let id = url.strip_prefix("https://pay.bank.example/challenges/").unwrap();
    assert!(bank.payer_says(id, yes), "{url}");
}

#[tokio::test]
async fn what_nobody_can_be_asked_about_any_more_is_in_doubt_once_the_payers_time_is_over() {
    let (mut house, bank) = house(By::Asking).await;
    let said = challenged(&house, "acct-1").await;
    house.rebind(&binding(&bank, By::Asking).swapped("name = \"bank\"", "name = \"another\"")).await;
    house.installation.start();
    a_while().await;
    assert_eq!(house.record(said.id()).await.phase, Some("challenged"), "its payer has time");
    house.store().execute("UPDATE fate SET until = 1 WHERE state = -5", []).unwrap();
    for _ in 0..2000 {
        if house.record(said.id()).await.phase == Some("in_doubt") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let anna = crate::approvals::approver(&house, "anna");
    let shown = house.gateway().held_one(&anna, said.id()).await.unwrap();
    assert_eq!(shown.unresolved, Some("in_doubt"));
    whole(&house).await;
}

/// Entries, rows and receipts agree.
async fn whole(house: &House) {
    assert_eq!(house.gateway().check_trail(&house.admin, None).await.unwrap().findings, []);
}

/// What the bank would say of the first attempt of an action.
async fn word(house: &House, id: &str, what: &str) -> String {
    word_about(&house.reference(id, "1").await, what, "25.00")
}

pub(crate) fn word_about(reference: &str, what: &str, amount: &str) -> String {
    let body = json!({
        "type": what, "payment_id": "pay_1", "reference": reference, "amount": amount, "currency": "USD",
    });
    body.to_string()
}

pub(crate) async fn call_back(house: &House, secret: &str, body: &str) -> Result<(), Error> {
    let seconds = jiff::Timestamp::now().as_second();
    call_back_at(house, secret, seconds, body).await
}

async fn call_back_at(house: &House, secret: &str, seconds: i64, body: &str) -> Result<(), Error> {
    let signature = bank::sign(secret, "msg_1", u64::try_from(seconds).unwrap(), body);
    let timestamp = seconds.to_string();
    let letter = Signed { id: "msg_1", timestamp: &timestamp, signature: &signature, body: body.as_bytes() };
    house.gateway().called_back("bank", &letter).await
}

#[tokio::test]
async fn a_payer_who_confirms_ends_the_wait_with_an_original_receipt() {
    for by in [By::Asking, By::Word] {
        let (house, bank) = house(by).await;
        let said = challenged(&house, "k").await;
        let details = &said.body["details"];
        assert!(details["challenge_url"].as_str().unwrap().starts_with("https://pay.bank.example/"));
        assert!(details["expires_at"].is_string() && details["status_url"].is_string());
        assert_eq!(said.body["receipt"], Value::Null, "there is nothing to prove yet");
        let again = house.said("k", &payment(&house, "k")).await;
        assert_eq!((again.replayed, again.bytes), (true, said.bytes.clone()));
        assert_eq!((house.record(said.id()).await.state.as_str(), house.spent()), ("EXECUTING", 2500));
        assert_eq!(bank.effects().count, 0);

        answers(&bank, &said, true);
        call_back(&house, SECRET, &word(&house, said.id(), "payment.settled").await).await.unwrap();
        let done = house.said("k", &payment(&house, "k")).await;
        assert_eq!(done.kind(), "executed", "{by:?}: {}", done.body);
        let receipt = receipt(&house, &done).await;
        assert_eq!(receipt["eventType"], "ORIGINAL");
        assert_eq!(receipt["paymentStatus"], "charged");
        let record = house.record(done.id()).await;
        assert_eq!((record.receipts.len(), record.attempts.len(), record.retry_count), (1, 1, 0));
        assert_eq!((bank.effects().count, house.spent()), (1, 2500));
        whole(&house).await;
    }
}

#[tokio::test]
async fn a_payer_who_declines_leaves_no_effect_and_is_not_asked_again() {
    for by in [By::Asking, By::Word] {
        let retrying = |text: String| {
            let text = text
                .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n");
            format!("{text}\n[retry]\n{}\n", crate::retries::AT_ONCE)
        };
        let (house, bank) = house_with(by, Payers::default(), retrying).await;
        let said = challenged(&house, "k").await;
        answers(&bank, &said, false);
        call_back(&house, SECRET, &word(&house, said.id(), "payment.declined").await).await.unwrap();
        let done = house.said("k", &payment(&house, "k")).await;
        assert_eq!((done.kind(), done.code()), ("failed", "EP_PROVIDER_FAILED"), "{by:?}: {}", done.body);
        assert_eq!(receipt(&house, &done).await["eventType"], "ORIGINAL");
        assert_eq!(house.record(done.id()).await.attempts.len(), 1, "{by:?}: the payer's no is a no");
        assert_eq!((bank.effects().count, house.spent()), (0, 0));
    }
}

#[tokio::test]
async fn a_callback_that_is_lost_is_found_out_by_asking() {
    let (mut house, bank) = house(By::Asking).await;
    house.installation.start();
    let said = challenged(&house, "k").await;
    a_while().await;
    assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, said.bytes, "it waits, asked or not");
    answers(&bank, &said, true);
    let done = house.settled("k", &payment(&house, "k")).await;
    assert_eq!(receipt(&house, &done).await["eventType"], "ORIGINAL");
    assert_eq!(bank.effects().count, 1);
}

#[tokio::test]
async fn where_the_bank_can_be_asked_its_callback_is_not_believed() {
    let (house, bank) = house(By::Asking).await;
    let said = challenged(&house, "k").await;
    for what in ["payment.settled", "payment.declined"] {
        call_back(&house, SECRET, &word(&house, said.id(), what).await).await.unwrap();
        assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, said.bytes, "{what}");
    }
    assert_eq!(bank.effects().count, 0);
}

#[tokio::test]
async fn who_signs_wrongly_or_of_old_is_not_heard_and_learns_nothing() {
    let (house, bank) = house(By::Word).await;
    let said = challenged(&house, "k").await;
    let settled = word(&house, said.id(), "payment.settled").await;
    let now = jiff::Timestamp::now().as_second();
    let mut refused = Vec::new();
    for body in [settled.as_str(), &word_about("nothing-1", "payment.settled", "25.00"), "no json"] {
        refused.push(call_back(&house, FOREIGN, body).await.unwrap_err());
        refused.push(call_back_at(&house, SECRET, now - 301, body).await.unwrap_err());
        refused.push(call_back_at(&house, SECRET, now + 400, body).await.unwrap_err());
        let (timestamp, signature) = (now.to_string(), bank::sign(SECRET, "msg_2", now as u64, body));
        let letter =
            Signed { id: "msg_1", timestamp: &timestamp, signature: &signature, body: body.as_bytes() };
        refused.push(house.gateway().called_back("bank", &letter).await.unwrap_err());
        let letter = Signed { id: "msg_2", ..letter };
        refused.push(house.gateway().called_back("nobody", &letter).await.unwrap_err());
    }
    assert!(refused.iter().all(|error| error.code == Code::Unauthenticated), "{refused:?}");
    assert!(
        refused.iter().all(|error| *error == refused[0]),
        "whatever is wrong, the answer is one: {refused:?}"
    );
    assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, said.bytes);
    // Who signs rightly is told the same whether it is about anything or not.
    for body in [
        &word_about("nothing-1", "payment.settled", "25.00"),
        "no json",
        "{}",
        &word(&house, said.id(), "payment.created").await,
    ] {
        call_back(&house, SECRET, body).await.unwrap();
    }
    assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, said.bytes);
    // The key of last year counts as long as it is listed.
    call_back(&house, OLD_SECRET, &settled).await.unwrap();
    assert_eq!(house.said("k", &payment(&house, "k")).await.kind(), "executed");
    drop(bank);
}

/// The provider says that it paid, and not how much: nobody may take that for heard, least of all where it was said to be
/// absent.
#[tokio::test]
async fn a_callback_that_cannot_be_understood_is_to_be_said_again() {
    let (house, bank) = house(By::Word).await;
    let said = challenged(&house, "k").await;
    let whole = word(&house, said.id(), "payment.settled").await;
    let without = whole.swapped("\"amount\"", "\"sum\"");
    for state in ["EXECUTING", "FAILED"] {
        let error = call_back(&house, SECRET, &without).await.unwrap_err();
        assert_eq!(error.code, Code::ValidationFailed, "{state}: {error}");
        assert_eq!(house.record(said.id()).await.state, state);
        call_back(&house, SECRET, &word(&house, said.id(), "payment.declined").await).await.unwrap();
    }
    call_back(&house, SECRET, &whole).await.unwrap();
    assert_eq!(house.record(said.id()).await.state, "COMPLETED");
    drop(bank);
}

#[tokio::test]
async fn a_callback_that_comes_again_changes_nothing() {
    for by in [By::Asking, By::Word] {
        let (house, bank) = house(by).await;
        let said = challenged(&house, "k").await;
        answers(&bank, &said, true);
        let settled = word(&house, said.id(), "payment.settled").await;
        call_back(&house, SECRET, &settled).await.unwrap();
        let done = house.said("k", &payment(&house, "k")).await;
        for body in [&settled, &settled, &word(&house, said.id(), "payment.declined").await] {
            call_back(&house, SECRET, body).await.unwrap();
        }
        assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, done.bytes, "{by:?}");
        assert_eq!((house.record(done.id()).await.receipts.len(), house.spent()), (1, 2500));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callbacks_at_once_are_one_settlement() {
    let (house, bank) = house(By::Word).await;
    let said = challenged(&house, "k").await;
    answers(&bank, &said, true);
    let settled = word(&house, said.id(), "payment.settled").await;
    let all = futures_util::future::join_all((0..20).map(|_| call_back(&house, SECRET, &settled))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let done = house.said("k", &payment(&house, "k")).await;
    assert_eq!((done.kind(), house.record(done.id()).await.receipts.len()), ("executed", 1));
    whole(&house).await;
}

/// A payment to a bank that takes so long to answer.
fn answered_after(house: &House, bank: &Bank, ms: u64) -> Value {
    bank.clear_faults();
    bank.inject(Injection::payments(Fault::DelayAnswer { ms }, 1));
    payment(house, &format!("acct-{ms}"))
}

/// Whoever asked had gone on before the bank answered.
#[tokio::test]
async fn a_challenge_after_the_callers_deadline_is_shown_under_the_key() {
    let (house, bank) = house(By::Word).await;
    let (key, body, pending) = house.overdue(|ms| answered_after(&house, &bank, ms)).await;
    let said = house.until(&key, &body, "needs_challenge").await;
    assert_eq!(said.body["receipt"], Value::Null);
    answers(&bank, &said, true);
    call_back(&house, SECRET, &word(&house, said.id(), "payment.settled").await).await.unwrap();
    let done = house.said(&key, &body).await;
    let amendment = receipt(&house, &done).await;
    assert_eq!(amendment["eventType"], "AMENDMENT_SETTLEMENT");
    assert_eq!(amendment["amendmentOf"], pending.body["receipt"]);
    whole(&house).await;
}

/// The same, and then the payer did not answer.
#[tokio::test]
async fn a_challenge_that_was_shown_late_and_not_answered_is_in_doubt_again() {
    let short = |text: String| text.swapped("within_seconds = 900", "within_seconds = 1");
    let (mut house, bank) = house_with(By::Word, Payers::default(), short).await;
    let (key, body, pending) = house.overdue(|ms| answered_after(&house, &bank, ms)).await;
    let said = house.until(&key, &body, "needs_challenge").await;
    // Nobody looks after it before this.
    house.installation.start();
    let doubted = house.until(&key, &body, "pending_settlement").await;
    assert_eq!(house.record(said.id()).await.receipts.len(), 1, "that it is open was told before");
    call_back(&house, SECRET, &word(&house, said.id(), "payment.declined").await).await.unwrap();
    let done = house.said(&key, &body).await;
    let amendment = receipt(&house, &done).await;
    assert_eq!((done.kind(), &amendment["eventType"]), ("failed", &json!("AMENDMENT_SETTLEMENT")));
    assert_eq!(amendment["amendmentOf"], pending.body["receipt"]);
    assert_eq!((doubted.replayed, bank.effects().count, house.spent()), (true, 0, 0));
    whole(&house).await;
}

#[tokio::test]
async fn who_asks_for_another_attempt_has_the_payer_asked_once_more() {
    for by in [By::Asking, By::Word] {
        let (house, bank) = house(by).await;
        let said = challenged(&house, "k").await;
        answers(&bank, &said, false);
        let declined = word(&house, said.id(), "payment.declined").await;
        call_back(&house, SECRET, &declined).await.unwrap();
        assert_eq!(house.said("k", &payment(&house, "k")).await.kind(), "failed");
        let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
        assert_eq!((record.state.as_str(), record.attempts.len()), ("EXECUTING", 2), "{by:?}");
        let again = house.said("k", &payment(&house, "k")).await;
        assert_eq!(again.kind(), "needs_challenge", "{by:?}: {}", again.body);
        assert_ne!(again.body["details"]["challenge_url"], said.body["details"]["challenge_url"]);
        call_back(&house, SECRET, &declined).await.unwrap();
        assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, again.bytes, "that was of the first");
        answers(&bank, &again, true);
        let settled = word(&house, said.id(), "payment.settled").await.swapped("-1\"", "-2\"");
        call_back(&house, SECRET, &settled).await.unwrap();
        let done = house.said("k", &payment(&house, "k")).await;
        assert_eq!(receipt(&house, &done).await["eventType"], "AMENDMENT_RETRY", "{by:?}");
        assert_eq!((bank.effects().count, house.spent()), (1, 2500));
        whole(&house).await;
    }
}

/// The payer was quicker than the bank's own answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_before_the_answer_ends_it_and_the_caller_is_told_the_end() {
    for by in [By::Asking, By::Word] {
        let (mut house, bank) = house(by).await;
        house.installation.start();
        bank.inject(Injection::payments(Fault::DelayAnswer { ms: 800 }, 1));
        let body = payment(&house, "k");
        let early = async {
            let id = loop {
                match bank.awaited().pop() {
                    Some(id) => break id,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            assert!(bank.payer_says(&id, true));
            let select = "SELECT id FROM action WHERE key = 'k'";
            let action: [u8; 16] = house.store().query_row(select, [], |row| row.get(0)).unwrap();
            let action = action::ActionId::from_bytes(action).unwrap().to_string();
            call_back(&house, SECRET, &word(&house, &action, "payment.settled").await).await.unwrap();
        };
        let (answer, ()) = tokio::join!(house.send("k", &body), early);
        let answer = answer.unwrap();
        let expected = if by == By::Word { "executed" } else { "needs_challenge" };
        assert_eq!(answer.kind(), expected, "{by:?}: {}", answer.body);
        let done = house.settled("k", &body).await;
        assert_eq!(receipt(&house, &done).await["eventType"], "ORIGINAL", "{by:?}");
        assert_eq!((bank.effects().count, house.spent()), (1, 2500));
        assert_eq!(house.record(done.id()).await.receipts.len(), 1);
    }
}

#[tokio::test]
async fn a_payer_whose_time_is_over_leaves_a_doubt_where_nobody_can_be_asked() {
    let short = |text: String| text.swapped("within_seconds = 900", "within_seconds = 1");
    let (mut house, bank) = house_with(By::Word, Payers::default(), short).await;
    house.installation.start();
    let said = challenged(&house, "k").await;
    let body = payment(&house, "k");
    let pending = house.until("k", &body, "pending_settlement").await;
    let original = receipt(&house, &pending).await;
    assert_eq!(original["eventType"], "ORIGINAL");
    assert_eq!(house.spent(), 2500, "doubt keeps the debit");
    // The payer was late, and the bank did not mind.
    answers(&bank, &said, true);
    call_back(&house, SECRET, &word(&house, said.id(), "payment.settled").await).await.unwrap();
    let done = house.said("k", &body).await;
    let amendment = receipt(&house, &done).await;
    assert_eq!((done.kind(), &amendment["eventType"]), ("executed", &json!("AMENDMENT_SETTLEMENT")));
    assert_eq!(amendment["amendmentOf"], original["receiptId"]);
    whole(&house).await;
}

#[tokio::test]
async fn a_payer_whose_time_is_over_leaves_nothing_where_the_bank_says_so() {
    let payers = Payers { patience: Duration::ZERO, ..Payers::default() };
    let (mut house, bank) = house_with(By::Asking, payers, |text| text).await;
    house.installation.start();
    challenged(&house, "k").await;
    let done = house.until("k", &payment(&house, "k"), "failed").await;
    assert_eq!(done.reasons(), ["absent"]);
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn an_effect_that_the_bank_had_denied_is_late_and_amends() {
    let (house, bank) = house(By::Word).await;
    let said = challenged(&house, "k").await;
    call_back(&house, SECRET, &word(&house, said.id(), "payment.declined").await).await.unwrap();
    let failed = house.said("k", &payment(&house, "k")).await;
    assert_eq!((failed.kind(), house.spent()), ("failed", 0));
    answers(&bank, &said, true);
    call_back(&house, SECRET, &word(&house, said.id(), "payment.settled").await).await.unwrap();
    let done = house.said("k", &payment(&house, "k")).await;
    let amendment = receipt(&house, &done).await;
    assert_eq!((done.kind(), &amendment["eventType"]), ("executed", &json!("AMENDMENT_SETTLEMENT")));
    assert_eq!((amendment["amendmentOf"].clone(), house.spent()), (failed.body["receipt"].clone(), 2500));
    let metrics = house.gateway().metrics().unwrap();
    let alert = metrics.lines().find(|line| line.contains("alerts_total") && line.contains("late_effect"));
    assert!(alert.is_some_and(|line| line.ends_with(" 1")), "{alert:?}");
}

#[tokio::test]
async fn a_late_effect_of_which_a_bank_tells_is_asked_for_before_it_is_believed() {
    let (house, bank) = house(By::Asking).await;
    let said = challenged(&house, "k").await;
    answers(&bank, &said, false);
    call_back(&house, SECRET, &word(&house, said.id(), "payment.declined").await).await.unwrap();
    let failed = house.said("k", &payment(&house, "k")).await;
    assert_eq!(failed.kind(), "failed");
    call_back(&house, SECRET, &word(&house, said.id(), "payment.settled").await).await.unwrap();
    assert_eq!(
        house.said("k", &payment(&house, "k")).await.bytes,
        failed.bytes,
        "the bank denies it when asked"
    );
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
    let error =
        call_back(&house, SECRET, &word(&house, said.id(), "payment.settled").await).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "nobody else would ask: it has to be said again");
}

#[tokio::test]
async fn a_plain_doubt_is_ended_by_the_banks_word() {
    let payers = Payers { above_minor: i64::MAX, ..Payers::default() };
    let (house, bank) = house_with(By::Word, payers, |text| text).await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let body = house.payment("acct-1", "25.00");
    let pending = house.said("k", &body).await;
    assert_eq!(pending.kind(), "pending_settlement", "{}", pending.body);
    call_back(&house, SECRET, &word(&house, pending.id(), "payment.settled").await).await.unwrap();
    let done = house.said("k", &body).await;
    assert_eq!(receipt(&house, &done).await["eventType"], "AMENDMENT_SETTLEMENT");
    assert_eq!((bank.effects().count, house.spent()), (1, 2500));
}

#[tokio::test]
async fn a_challenge_in_another_mode_is_doubt() {
    let (mut house, bank) = house(By::Asking).await;
    house.installation.start();
    let body = house.payment("acct-1", "25.00");
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    assert!(!said.body.to_string().contains("pay.bank.example"));
    a_while().await;
    assert_eq!(house.said("k", &body).await.bytes, said.bytes, "its payer may still confirm it");
    assert!(bank.payer_says(&bank.awaited()[0], true));
    house.settled("k", &body).await;
    assert_eq!((bank.effects().count, house.spent()), (1, 2500));
}

#[tokio::test]
async fn an_address_that_the_operator_does_not_list_is_never_shown() {
    for pages in
        ["https://evil.example", "http://pay.bank.example", "https://pay.bank.example:444", "javascript:x"]
    {
        let payers = Payers { pages: pages.to_owned(), ..Payers::default() };
        let (house, bank) = house_with(By::Asking, payers, |text| text).await;
        let said = house.said("k", &payment(&house, "k")).await;
        assert_eq!(said.kind(), "pending_settlement", "{pages}: {}", said.body);
        assert!(!said.body.to_string().contains(pages), "{}", said.body);
        assert_eq!((bank.effects().count, house.spent()), (0, 2500));
    }
}

#[tokio::test]
async fn the_mode_is_refused_where_the_binding_has_no_challenge() {
    let (house, bank) = banked::house("USD", &RIGHT).await;
    let error = house.send("k", &payment(&house, "k")).await.unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (Code::ProviderCannot, Some("/payment_mode")));
    assert_eq!(bank.effects().count, 0);
}

#[tokio::test]
async fn what_waits_for_its_payer_outlives_a_restart_and_cannot_be_called_off_or_tried_again() {
    for by in [By::Asking, By::Word] {
        let (house, bank) = house(by).await;
        let said = challenged(&house, "k").await;
        let house = house.restart().await;
        assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, said.bytes);
        let gateway = house.gateway();
        let cancelled = gateway.cancel(&house.operator, said.id()).await.unwrap_err();
        let retried = gateway.retry(&house.operator, said.id()).await.unwrap_err();
        assert_eq!([cancelled.code, retried.code], [Code::StateConflict; 2]);
        let twin = house.said("k2", &payment(&house, "k")).await;
        assert_eq!(
            (twin.kind(), twin.reasons()),
            ("held", vec!["probable_duplicate"]),
            "it claims its effect"
        );
        answers(&bank, &said, true);
        call_back(&house, SECRET, &word(&house, said.id(), "payment.settled").await).await.unwrap();
        assert_eq!(house.said("k", &payment(&house, "k")).await.kind(), "executed");
        assert_eq!(bank.effects().count, 1);
    }
}

#[tokio::test]
async fn the_sandbox_has_payers_who_confirm_and_who_decline() {
    let mut house = House::with(|config| config.limits.recovery_interval_ms = 20).await;
    house.installation.start();
    for (recipient, kind) in [("sandbox:challenge", "executed"), ("sandbox:challenge-declined", "failed")] {
        let body = payment(&house, recipient);
        let said = house.said(recipient, &body).await;
        assert_eq!(said.kind(), "needs_challenge", "{}", said.body);
        assert!(said.body["details"]["challenge_url"].as_str().unwrap().contains(".invalid/"));
        house.until(recipient, &body, kind).await;
    }
}

#[tokio::test]
async fn a_callback_of_another_attempt_ends_nothing() {
    let (house, _bank) = house(By::Word).await;
    let said = challenged(&house, "k").await;
    for attempt in ["0", "2", "01"] {
        let body = word(&house, said.id(), "payment.settled").await.swapped("-1\"", &format!("-{attempt}\""));
        call_back(&house, SECRET, &body).await.unwrap();
    }
    assert_eq!(house.said("k", &payment(&house, "k")).await.bytes, said.bytes);
}

/// Where nobody can be asked what became of any of it.
const RESERVING: &str = r#"
[binding.reserve]
path = "/reservations"
headers = { Idempotency-Key = { "$action" = "provider_key" } }
body = { recipient = { "$value" = "/recipient" }, amount = { "$money" = "amount" }, currency = { "$money" = "currency" }, reference = { "$action" = "reference" } }
success = { status = [201], pointer = "/status", equals = ["reserved"] }
reference = "/reservation_id"
hold_seconds = 604800

[binding.capture]
path = ["reservations", { "$action" = "provider_reference" }, "capture"]
headers = { Idempotency-Key = { "$action" = "provider_key" } }
body = { amount = { "$money" = "amount" }, reference = { "$action" = "reference" } }
success = { status = [201], pointer = "/status", equals = ["settled"] }

[binding.release]
path = ["reservations", { "$action" = "provider_reference" }, "release"]
headers = { Idempotency-Key = { "$action" = "provider_key" } }
success = { status = [200], pointer = "/status", equals = ["released"] }

[retry]
max_retries = 3
backoff = "fixed"
initial_delay_seconds = 3
max_delay_seconds = 3
"#;

#[tokio::test]
async fn a_caller_who_waits_is_told_what_the_provider_says_to_be_reserved() {
    let reserves = |text: String| {
        let text = text
            .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
            .swapped("timeout_ms = 5000", "timeout_ms = 100");
        format!("{text}{RESERVING}")
    };
    let (house, bank) = house_with(By::Word, Payers::default(), reserves).await;
    bank.inject(Injection::on(Target::Reservations, Fault::LostAfterEffect, 1));
    let mut body = house.payment("k", "25.00");
    body["payment_mode"] = json!("RESERVE_IF_AVAILABLE");
    let calls_back = async {
        // Its answer is lost by then, and it waits to be sent again.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let sql = "SELECT lower(hex(id)) FROM action";
        let id: String = house.store().query_row(sql, [], |row| row.get(0)).unwrap();
        let id = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
        call_back(&house, SECRET, &word(&house, &id, "payment.settled").await).await.unwrap();
    };
    let (said, ()) = tokio::join!(house.said("k", &body), calls_back);
    assert_eq!((said.kind(), bank.reserved(), house.spent()), ("held", 2500, 2500), "{}", said.body);
    whole(&house).await;
}
