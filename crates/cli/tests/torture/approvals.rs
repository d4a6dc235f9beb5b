//! People, over HTTP and against the real bank: what they agree to happens once, whoever clicks how often and whatever
//! dies in between.

use std::fs;
use std::time::Duration;

use receipt::Verdict;
use rusqlite::Connection;
use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};
use tokio::time::sleep;

use crate::house::{House, Plan, Said, Voice, verdict};

/// A house in which a key is enough, and so many people have to agree.
async fn house(needed: u32) -> House {
    let config = "[limits]\nrecovery_interval_ms = 50\n[sandbox]\nenabled = false\n";
    let house = House::with(Plan { config: config.into(), ..Plan::default() }).await;
    let ask = json!({"subject": "default-second", "role": "approver"});
    assert_eq!(house.admin().post("/v1/keys", &ask).await.status, 201);
    ask_for(&house, needed);
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    house
}

/// What it takes, in the tenant's catalogue.
pub(crate) fn ask_for(house: &House, needed: u32) {
    let path = house.path().join("catalogue/default/payment.toml");
    let text = include_str!("payment_transfer.toml").replace("BANK", &house.bank.address().to_string());
    let lines = format!("extends = \"builtin\"\napproval = \"key\"\napprovals = {needed}\n");
    fs::write(path, text.replace("extends = \"builtin\"\n", &lines)).unwrap();
}

fn large(house: &House, recipient: &str) -> Value {
    house.payment(recipient, "6000.00")
}

async fn held(house: &House, key: &str) -> String {
    let said = house.agent().execute(key, &large(house, key)).await;
    assert_eq!((said.status, said.kind()), (202, "held"), "{}", said.text());
    said.id().to_owned()
}

async fn approve(voice: &Voice, id: &str) -> Said {
    voice.post(&format!("/v1/actions/{id}/approve"), &json!({"comment": "checked"})).await
}

/// The last word, under the same key.
async fn ended(house: &House, key: &str) -> Said {
    for _ in 0..400 {
        let said = house.agent().execute(key, &large(house, key)).await;
        assert!(said.replayed(), "{}", said.text());
        if !matches!(said.kind(), "held" | "pending_settlement") {
            return said;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("{key} never ended: {}", house.log())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clicks_are_one_payment_and_everybody_can_prove_it() {
    let house = house(1).await;
    let approver = house.voice("default", "approver");
    let id = held(&house, "k1").await;
    assert_eq!(house.bank.effects().count, 0);
    let listed = approver.get("/v1/approvals").await;
    assert_eq!(listed.body["items"][0]["action_id"], id.as_str(), "{}", listed.text());
    assert_eq!(listed.body["items"][0]["parameters"]["recipient"], "k1");
    let clicks: Vec<_> = (0..20)
        .map(|_| {
            let (approver, id) = (approver.clone(), id.clone());
            tokio::spawn(async move { approve(&approver, &id).await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for click in clicks {
        statuses.push(click.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[409; 19][..]));
    let done = ended(&house, "k1").await;
    assert_eq!((done.status, done.kind()), (200, "executed"), "{}", done.text());
    assert_eq!(ended(&house, "k1").await.bytes, done.bytes, "byte for byte from then on");
    let receipt =
        house.agent().get(&format!("/v1/receipts/{}", done.body["receipt_id"].as_str().unwrap())).await;
    assert_eq!(verdict(&receipt.bytes, &house.jwks().await), Verdict::Valid);
    assert_eq!(receipt.body["metadata"]["approvals"].as_array().unwrap().len(), 1);
    let record = house.agent().get(&format!("/v1/actions/{id}")).await;
    assert_eq!(record.body["approvals"][0]["decision"], "approve", "{}", record.text());
    assert_eq!(record.body["result"]["state"], "COMPLETED");
    assert_eq!(house.bank.effects().count, 1);
}

/// A process that dies after the last approval and before anything is sent leaves the action approved. The store is
/// put into exactly that state: two were needed, one has agreed, and now one is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_approval_and_sending_it_goes_on_at_the_next_start() {
    let mut house = house(1).await;
    let id = held(&house, "k1").await;
    house.gateway.kill();
    let write = |house: &House, sql: &str| {
        Connection::open(house.path().join("data/production.db")).unwrap().execute_batch(sql).unwrap();
    };
    // So that nobody goes on with it before it is killed; the rules are as they were, or everybody is asked anew.
    write(&house, "UPDATE action SET needed = 2 WHERE round = 1");
    house.start();
    assert_eq!(approve(&house.voice("default", "approver"), &id).await.status, 200);
    house.gateway.kill();
    write(&house, "UPDATE action SET needed = 1 WHERE round = 1; UPDATE fate SET state = 0 WHERE state = 1;");
    assert_eq!(house.bank.effects().count, 0);
    house.start();
    let done = ended(&house, "k1").await;
    assert_eq!(done.kind(), "executed", "{}", done.text());
    assert_eq!(house.bank.effects().count, 1);
}

/// Whoever can write to the store can pretend that an action is approved, but not that people agreed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pretended_approval_sends_nothing() {
    let mut house = house(2).await;
    held(&house, "k1").await;
    house.gateway.kill();
    ask_for(&house, 1);
    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    db.execute_batch(
        "UPDATE action SET needed = 0 WHERE round = 1; UPDATE fate SET state = 0 WHERE state = 1;",
    )
    .unwrap();
    drop(db);
    house.start();
    house.until_logged("people did not agree").await;
    let said = house.agent().execute("k1", &large(&house, "k1")).await;
    assert_eq!((said.status, said.body["details"]["hold_reason"].as_str()), (202, Some("approved")));
    assert_eq!(house.bank.effects().count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_after_the_approval_it_pays_once() {
    let mut house = house(1).await;
    for round in 0..8_u64 {
        let key = format!("r{round}");
        let id = held(&house, &key).await;
        if round % 2 == 1 {
            // Long enough to be killed after it was sent.
            house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 300 }, 1));
        }
        let approver = house.voice("default", "approver");
        assert_eq!(approve(&approver, &id).await.status, 200);
        sleep(Duration::from_millis(round * 9)).await;
        house.gateway.kill();
        house.start();
        let done = ended(&house, &key).await;
        assert!(
            matches!(done.kind(), "executed" | "failed"),
            "sent once, or known not to have arrived: {}",
            done.text()
        );
    }
    let effects = house.bank.effects();
    assert!(effects.by_key.values().all(|count| *count == 1), "nothing was paid twice");
    assert!(effects.count >= 4, "most were paid: {}", effects.count);
}
