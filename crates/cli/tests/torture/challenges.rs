//! Payers who must confirm, with everything real: the payer on the bank's page, the bank's signed callback over HTTP, and
//! the gateway killed in between.

use std::collections::BTreeMap;
use std::time::Duration;

use ledger::Ledger;
use receipt::Verdict;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::bank::{self, Callback, Fault, Injection, Misdelivery, Payers};
use tokio::time::sleep;

use crate::house::{House, Plan, Said, payment, verdict};

const SECRET: &str = "whsec_d2hvZXZlciByZWFkcyB0aGlzIGtub3dzIHRoZSBrZXk=";
const CHALLENGE: &str = r#"challenge = { status = [202], pointer = "/status", equals = ["awaiting_payer"], url = "/challenge_url", within_seconds = 900 }"#;
const CALLBACK: &str = r#"
[binding.callback]
secret = "bank-callbacks"
about = "/reference"
settled = { pointer = "/type", equals = ["payment.settled"] }
refused = { pointer = "/type", equals = ["payment.declined"] }
reference = "/payment_id"
charged = { amount = "/amount", currency = "/currency" }
"#;

/// Payments whose payer must confirm; the bank can be asked what became of them, or not.
fn catalogue(queryable: bool) -> String {
    let whole = include_str!("payment_transfer.toml")
        .replace("success = ", &format!("{CHALLENGE}\nsuccess = "))
        .replace(
            r#"found = { status = [200], pointer = "/payments/0" }"#,
            r#"found = { status = [200], pointer = "/payments/0/status", equals = ["settled"] }
refused = { status = [200], pointer = "/payments/0/status", equals = ["declined", "expired"] }"#,
        );
    if queryable {
        return whole + CALLBACK;
    }
    let (act, _) = whole.split_once("[binding.query]").unwrap();
    act.replace("queryable = { by_our_reference = true, final_after_seconds = 1 }\n", "") + CALLBACK
}

async fn house(queryable: bool) -> (House, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("callbacks.secret");
    std::fs::write(&secret, SECRET).unwrap();
    let config = format!(
        "[limits]\nrecovery_interval_ms = 50\n[secrets.bank-callbacks]\nfile = '{}'\n",
        secret.display()
    );
    let bank = bank::Options { payers: Some(Payers::default()), ..bank::Options::default() };
    let catalogue = vec![("payment.toml", catalogue(queryable))];
    let house = House::with(Plan { config, catalogue, bank: Some(bank), ..Plan::default() }).await;
    call_here(&house);
    (house, folder)
}

/// The bank calls back where the gateway is now.
fn call_here(house: &House) {
    let url = format!("{}/v1/callbacks/bank", house.gateway.url);
    house.bank.call_back(Callback { url, secret: SECRET.to_owned() });
}

fn asked(house: &House, recipient: &str) -> Value {
    let mut body = payment(recipient, "25.00", house.token("default"));
    body["payment_mode"] = json!("IMMEDIATE_CHARGE_WITH_CHALLENGE");
    body
}

async fn challenged(house: &House, key: &str) -> Said {
    let said = house.agent().execute(key, &asked(house, key)).await;
    assert_eq!((said.status, said.kind()), (202, "needs_challenge"), "{}", said.text());
    assert_eq!(said.body["receipt_id"], Value::Null);
    said
}

/// The payer opens the address and answers.
async fn answers(house: &House, said: &Said, word: &str) {
    let url = said.body["details"]["challenge_url"].as_str().unwrap();
    let page = url.replace("https://pay.bank.example", &house.bank.url());
    assert!(house.http.get(&page).send().await.unwrap().status().is_success(), "{page}");
    let answer = house.http.post(format!("{page}/{word}")).send().await.unwrap();
    assert!(answer.status().is_success(), "{page}: {}", answer.status());
}

async fn until(house: &House, key: &str, kind: &str) -> Said {
    for _ in 0..1200 {
        let said = house.agent().insist(key, &asked(house, key)).await;
        if said.kind() == kind {
            return said;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("`{key}` never became {kind}: {}", house.log());
}

/// The callbacks answered so far, once there are so many.
async fn answered(house: &House, count: usize) -> Vec<u16> {
    loop {
        let answers = house.bank.callbacks();
        if answers.len() >= count {
            return answers;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn receipts(house: &House, said: &Said) -> Vec<String> {
    let record = house.agent().get(&format!("/v1/actions/{}", said.id())).await;
    assert_eq!(record.status, 200, "{}", record.text());
    let jwks = house.jwks().await;
    let mut events = Vec::new();
    for receipt in record.body["receipts"].as_array().unwrap() {
        let id = receipt["receipt_id"].as_str().unwrap();
        let document = house.agent().get(&format!("/v1/receipts/{id}")).await;
        assert_eq!(verdict(&document.bytes, &jwks), Verdict::Valid);
        events.push(receipt["event_type"].as_str().unwrap().to_owned());
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_banks_callback_says_what_the_payer_did() {
    for queryable in [true, false] {
        let (house, _folder) = house(queryable).await;
        for (key, word, kind) in [("yes", "confirm", "executed"), ("no", "decline", "failed")] {
            let said = challenged(&house, key).await;
            let record = house.agent().get(&format!("/v1/actions/{}", said.id())).await.body;
            assert_eq!(
                (&record["result"]["state"], &record["response"]["kind"]),
                (&json!("EXECUTING"), &json!("needs_challenge"))
            );
            answers(&house, &said, word).await;
            let done = until(&house, key, kind).await;
            assert_eq!(receipts(&house, &done).await, ["ORIGINAL"]);
        }
        assert_eq!(answered(&house, 2).await, [200, 200]);
        assert_eq!(house.bank.effects().count, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forged_old_twice_or_out_of_order_does_no_harm() {
    let (house, _folder) = house(false).await;
    // Nobody can be asked: what is not rightly told leaves it waiting.
    for (number, (key, how)) in
        [("forged", Misdelivery::Forged), ("old", Misdelivery::Old)].into_iter().enumerate()
    {
        let said = challenged(&house, key).await;
        house.bank.misdeliver(how);
        answers(&house, &said, "confirm").await;
        assert_eq!(answered(&house, number + 1).await[number], 401, "{key}");
        let again = house.agent().execute(key, &asked(&house, key)).await;
        assert_eq!((again.bytes, again.status), (said.bytes, 202), "{key}");
    }
    let before = house.bank.callbacks().len();
    house.bank.misdeliver(Misdelivery::Late { ms: 400 });
    house.bank.misdeliver(Misdelivery::Twice);
    let (first, second) = (challenged(&house, "first").await, challenged(&house, "second").await);
    answers(&house, &first, "confirm").await;
    answers(&house, &second, "confirm").await;
    let done = until(&house, "second", "executed").await;
    until(&house, "first", "executed").await;
    assert_eq!(answered(&house, before + 3).await[before..], [200, 200, 200]);
    assert_eq!(receipts(&house, &done).await, ["ORIGINAL"]);
    assert_eq!(house.bank.effects().count, 4, "two of which nobody has told us");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_speak_is_told_nothing() {
    let (house, _folder) = house(false).await;
    let said = challenged(&house, "k").await;
    let record = house.agent().get(&format!("/v1/actions/{}", said.id())).await.body;
    let reference = &record["attempts"][0]["reference"];
    let body = json!({
        "type": "payment.settled", "payment_id": "pay_1", "reference": reference,
        "amount": "25.00", "currency": "USD",
    });
    let body = body.to_string();
    let seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
    let right = bank::sign(SECRET, "m1", seconds, &body);
    let send = async |path: &str, key: Option<&str>, headers: [&str; 3], body: String| {
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let request = names.iter().zip(headers).filter(|(_, value)| !value.is_empty());
        let request = request.fold(
            house.nobody().request("POST", path).header("content-type", "application/json"),
            |request, (name, value)| request.header(*name, value),
        );
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        Said::of(request.body(body)).await.unwrap()
    };
    let now = seconds.to_string();
    let path = "/v1/callbacks/bank";
    let admin = house.admin().key.unwrap();
    let mut refused = Vec::new();
    for headers in
        [["", "", ""], ["m1", &now, ""], ["m1", "", &right], ["m2", &now, &right], ["m1", &now, "v1,x"]]
    {
        refused.push(send(path, None, headers, body.clone()).await);
        refused.push(send(path, Some(&admin), headers, body.clone()).await);
    }
    refused.push(send("/v1/callbacks/nobody", None, ["m1", &now, &right], body.clone()).await);
    refused.push(send(path, None, ["m1", &now, &right], format!("{body} ")).await);
    for said in &refused {
        assert_eq!((said.status, said.code()), (401, "EP_UNAUTHENTICATED"), "{}", said.text());
        assert!(!said.text().contains("reference") && said.text().len() < 400, "{}", said.text());
    }
    let long = " ".repeat(300_000);
    assert_eq!(send(path, None, ["m1", &now, &right], long).await.status, 413);
    // Rightly signed: the same answer whether it is about anything or nothing.
    let mut heard = Vec::new();
    for body in ["{}", "[1]", "no json", r#"{"type":"payment.settled","reference":"x"}"#, body.as_str()] {
        let signature = bank::sign(SECRET, "m1", seconds, body);
        heard.push(send(path, None, ["m1", &now, &signature], body.to_owned()).await);
    }
    assert!(heard.iter().all(|said| said.status == 200 && said.bytes == heard[0].bytes), "{heard:?}");
    assert_eq!(house.agent().execute("k", &asked(&house, "k")).await.kind(), "executed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_it_knows_of_the_challenge_it_pays_once() {
    for queryable in [true, false] {
        let (mut house, _folder) = house(queryable).await;
        house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 60_000 }, 1));
        let (agent, body) = (house.agent(), asked(&house, "k"));
        let waiting = tokio::spawn(async move { drop(agent.try_execute("k", &body).await) });
        let payment = loop {
            match house.bank.awaited().pop() {
                Some(payment) => break payment,
                None => sleep(Duration::from_millis(5)).await,
            }
        };
        house.gateway.kill();
        waiting.await.unwrap();
        house.start();
        call_here(&house);
        let pending = until(&house, "k", "pending_settlement").await;
        // Asked in vain for a while: that the bank has no settled payment says nothing as long as the payer may confirm it.
        sleep(Duration::from_millis(500)).await;
        let again = house.agent().execute("k", &asked(&house, "k")).await;
        assert_eq!(again.bytes, pending.bytes);
        assert!(house.bank.payer_says(&payment, true));
        let done = until(&house, "k", "executed").await;
        assert_eq!(receipts(&house, &done).await, ["ORIGINAL", "AMENDMENT_SETTLEMENT"]);
        assert_eq!(house.bank.effects().count, 1);
    }
}

const ROUNDS: usize = 4;
const EACH: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_payers_answer_it_loses_no_word_and_believes_none_twice() {
    for queryable in [true, false] {
        let (mut house, _folder) = house(queryable).await;
        let mut expected = BTreeMap::new();
        for round in 0..ROUNDS {
            let mut asked = Vec::new();
            for number in 0..EACH {
                let key = format!("k-{round}-{number}");
                let said = challenged(&house, &key).await;
                asked.push((key, number % 3 != 2, said));
            }
            for (key, yes, said) in asked {
                if key.ends_with('3') {
                    house.bank.misdeliver(Misdelivery::Twice);
                }
                answers(&house, &said, if yes { "confirm" } else { "decline" }).await;
                expected.insert(key, yes);
            }
            sleep(Duration::from_millis((round as u64 * 13) % 40)).await;
            house.gateway.kill();
            house.start();
            call_here(&house);
        }
        for (key, yes) in &expected {
            let done = until(&house, key, if *yes { "executed" } else { "failed" }).await;
            assert_eq!(receipts(&house, &done).await, ["ORIGINAL"], "{key}");
        }
        let paid = expected.values().filter(|yes| **yes).count();
        let effects = house.bank.effects();
        assert_eq!(effects.count as usize, paid);
        assert!(effects.by_key.values().all(|count| *count == 1));
        house.gateway.stop();
        house.store().await.verify().await.expect("the chain holds");
    }
}
