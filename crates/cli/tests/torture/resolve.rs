//! A person's word on what became of an action, over HTTP and by the page, against a real bank that does not tell.

use rusqlite::Connection;
use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};

use crate::house::{House, Plan, Said, Voice, payment};
use crate::visitor::Visitor;

async fn house() -> House {
    let config = "[limits]\nrecovery_interval_ms = 50\n";
    House::with(Plan { config: config.into(), ..Plan::default() }).await
}

/// A payment that the bank carries out without an answer, and of which it does not tell when it is asked.
async fn doubted(house: &House, key: &str) -> String {
    house.bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    house.bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 100_000));
    let said = house.agent().execute(key, &house.payment(key, "10.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.text());
    said.id().to_owned()
}

async fn resolve(voice: &Voice, base: &str, id: &str, word: &Value) -> Said {
    voice.post(&format!("{base}/v1/actions/{id}/resolve"), word).await
}

fn entries(house: &House) -> i64 {
    let store = Connection::open(house.path().join("data/production.db")).unwrap();
    store.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persons_word_ends_a_doubt_once_and_outlives_the_process() {
    let mut house = house().await;
    let id = doubted(&house, "acct-1").await;
    let approver = house.voice("default", "approver");
    let listed = approver.get("/v1/approvals").await.body;
    assert_eq!(listed["items"], json!([]));
    let shown = &listed["unresolved"][0];
    assert_eq!((&shown["action_id"], &shown["unresolved"]), (&json!(id), &json!("in_doubt")));
    assert_eq!(shown["decisions"], json!(["executed", "failed"]));
    assert_eq!((&shown["provider"], &shown["amount"]), (&json!("bank"), &json!("10.00")));
    let record = house.agent().get(&format!("/v1/actions/{id}")).await.body;
    assert_eq!(shown["reference"], record["attempts"][0]["reference"]);
    assert_eq!(house.voice("other", "approver").get("/v1/approvals").await.body["unresolved"], json!([]));

    let word = json!({
        "as": "executed", "comment": "seen on the statement", "charged": {"amount": "9.50"}, "reference": "p-1",
    });
    let said = resolve(&approver, "", &id, &word).await;
    assert_eq!((said.status, &said.body["result"]["state"]), (200, &json!("COMPLETED")), "{}", said.text());
    let resolution = &said.body["resolutions"][0];
    assert_eq!((&resolution["by"], &resolution["charged"]), (&json!("default-approver"), &json!("9.50")));
    house.gateway.kill();
    house.start();
    let again = resolve(&house.voice("default", "approver"), "", &id, &word).await;
    assert_eq!((again.status, &again.body["resolutions"]), (200, &said.body["resolutions"]));
    let other = json!({"as": "failed", "comment": "seen on the statement"});
    let late = resolve(&house.voice("default", "approver"), "", &id, &other).await;
    assert_eq!((late.status, late.code()), (409, "EP_STATE_CONFLICT"), "{}", late.text());
    assert_eq!(house.bank.effects().count, 1);
    let answer = house.agent().execute("acct-1", &house.payment("acct-1", "10.00")).await;
    assert_eq!((answer.kind(), answer.replayed()), ("executed", true), "{}", answer.text());
    let trail = house.admin().get("/v1/audit?order=oldest").await.body;
    let events: Vec<&str> = trail["entries"]
        .as_array()
        .unwrap_or_else(|| panic!("{trail}"))
        .iter()
        .filter(|it| it["action_id"] == id.as_str())
        .filter_map(|it| it["event"].as_str())
        .collect();
    assert!(events.ends_with(&["admitted", "in_doubt", "resolved"]), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_member_is_named_and_nothing_is_written() {
    let house = house().await;
    let silent = payment("sandbox:silent", "1.00", "tok-sandbox-public");
    let said = house.agent().post("/api/sandbox/execute", &silent).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.text());
    let (id, production) = (said.id().to_owned(), doubted(&house, "acct-1").await);
    let approver = house.voice("default", "approver");
    let before = entries(&house);
    let right = json!({"as": "executed", "comment": "seen"});
    for (member, value, field) in [
        ("as", Value::Null, "/as"),
        ("as", json!("done"), "/as"),
        ("as", json!(1), "/as"),
        ("comment", Value::Null, "/comment"),
        ("comment", json!(7), "/comment"),
        ("comment", json!("two\nlines"), "/comment"),
        ("charged", json!("1.00"), "/charged"),
        ("charged", json!({}), "/charged/amount"),
        ("charged", json!({"amount": 1}), "/charged/amount"),
        ("charged", json!({"amount": "1.00", "currency": "USD"}), "/charged"),
        ("charged", json!({"amount": "100.00"}), "/charged/amount"),
        ("reference", json!(["p"]), "/reference"),
        ("reference", json!("p 1"), "/reference"),
    ] {
        let mut word = right.clone();
        word[member] = value.clone();
        let said = resolve(&approver, "/sandbox", &id, &word).await;
        assert_eq!(said.status, 422, "{member} {value}: {}", said.text());
        assert_eq!(said.body["error"]["field"], field, "{value}: {}", said.text());
        // In production the sentence names it.
        let said = resolve(&approver, "", &production, &word).await;
        let (name, told) = (field.rsplit('/').next().unwrap(), said.text());
        assert!(said.status == 422 && told.contains(name), "{field}: {told}");
    }
    let said =
        resolve(&approver, "/sandbox", &id, &json!({"as": "executed", "comment": "x", "by": "me"})).await;
    assert!(said.status == 422 && said.text().contains("by"), "{}", said.text());
    let unfit = resolve(&approver, "/sandbox", &id, &json!({"as": "rolled_back", "comment": "x"})).await;
    assert_eq!((unfit.status, unfit.text().contains("executed")), (409, true), "{}", unfit.text());
    assert_eq!(entries(&house), before);
    assert_eq!(resolve(&approver, "/sandbox", &id, &right).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_page_only_its_form_decides() {
    let house = house().await;
    let id = doubted(&house, "acct-7").await;
    let mut visitor = Visitor::logged_in(&house, &house.voice("default", "approver")).await;
    let (page, path) = (format!("/approvals/{id}"), format!("/approvals/{id}/resolve"));
    let text = visitor.look("/approvals").await.text();
    assert!(text.contains("In doubt") && text.contains(&page), "{text}");
    let word = [("as", "failed"), ("comment", "the bank has no such payment")];
    for stray in ["", "guessed"] {
        let fields: Vec<_> = [("form", stray)].into_iter().chain(word).collect();
        assert_eq!(visitor.send_as(&path, &fields, &[]).await.status, 403);
    }
    assert_eq!(visitor.look(&path).await.status, 405, "looking decides nothing");
    visitor.look(&page).await;
    for wrong in [vec![("as", "failed")], vec![word[1]], vec![word[0], word[1], ("charged", "1.00")]] {
        assert_eq!(visitor.send(&path, &wrong).await.status, 422, "{wrong:?}");
    }
    let before = visitor.look(&format!("/approvals/events?of={id}&seen=nothing")).await.text();
    let fields: Vec<_> = word.into_iter().chain([("charged", ""), ("reference", "")]).collect();
    let said = visitor.send(&path, &fields).await;
    assert_eq!(
        (said.status, said.headers["location"].to_str().unwrap()),
        (303, page.as_str()),
        "{}",
        said.text()
    );
    let after = visitor.look(&format!("/approvals/events?of={id}&seen=nothing")).await.text();
    assert_ne!(before, after, "whoever watches hears of it");
    let text = visitor.look(&page).await.text();
    assert!(text.contains("No effect") && text.contains("the bank has no such payment"), "{text}");
    assert!(!text.contains("id=\"decision\""), "{text}");
    assert_eq!(house.admin().get(&format!("/v1/actions/{id}")).await.body["result"]["state"], "FAILED");
}
