//! The bank over real HTTP: money moves once per key, effects are counted exactly, faults do what
//! they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use countersign_testkit::bank::{self, Bank, Fault, Injection, OPERATING, Options};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[tokio::test]
async fn a_payment_moves_money_and_can_be_read_back() {
    let desk = Desk::open(Options::default()).await;
    let answer = desk.pay("k1", "r1", "12.5").await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let paid: Value = answer.json().await.unwrap();
    let id = paid["payment_id"].as_str().unwrap();
    let expected = json!({
        "payment_id": id, "reference": "r1", "status": "settled",
        "recipient": "acme", "amount": "12.50", "currency": "USD",
    });
    assert_eq!(paid, expected);
    assert_eq!(desk.read(&format!("/v1/payments/{id}")).await, expected);
    assert_eq!(desk.found("r1").await, [expected]);
    let account = desk.read("/v1/accounts/acme").await;
    assert_eq!(
        account,
        json!({"name": "acme", "balance": "12.50", "balance_minor": 1250, "currency": "USD"})
    );
    desk.assert_moved(1, 1250);
}

#[tokio::test]
async fn what_is_reserved_is_paid_out_once_or_set_free() {
    let desk = Desk::open(Options::default()).await;
    let order = json!({"recipient": "acme", "amount": "25.00", "currency": "USD", "reference": "r1"});
    let post = |path: String, key: &str, body: &Value| {
        desk.call(Method::POST, &path).header("idempotency-key", key).json(body).send()
    };
    let reserve = |key: &'static str| post("/v1/reservations".to_owned(), key, &order);
    let made: Value = reserve("k1").await.unwrap().json().await.unwrap();
    assert_eq!((&made["status"], &made["amount"]), (&json!("reserved"), &json!("25.00")));
    assert_eq!(reserve("k1").await.unwrap().json::<Value>().await.unwrap(), made);
    assert_eq!((desk.bank.reservations(), desk.bank.reserved(), desk.bank.effects().count), (1, 2500, 0));
    let id = made["reservation_id"].as_str().unwrap();
    let act = |word: &str, key: &str, body: Value| {
        let (path, key) = (format!("/v1/reservations/{id}/{word}"), key.to_owned());
        let post = &post;
        async move { post(path, &key, &body).await.unwrap() }
    };
    let part = |amount: &str| json!({"amount": amount, "reference": "r1-capture"});
    assert_refused(act("capture", "c0", part("25.01")).await, 422, "amount_too_large").await;
    let paid: Value = act("capture", "c1", part("10.00")).await.json().await.unwrap();
    assert_eq!((&paid["status"], &paid["reference"]), (&json!("settled"), &json!("r1-capture")));
    assert_eq!(act("capture", "c1", part("10.00")).await.json::<Value>().await.unwrap(), paid);
    assert_refused(act("capture", "c2", part("10.00")).await, 409, "captured").await;
    assert_refused(act("release", "f1", json!({})).await, 409, "captured").await;
    desk.assert_moved(1, 1000);
    assert_eq!(desk.bank.reserved(), 0, "the rest is free");

    let made: Value = reserve("k2").await.unwrap().json().await.unwrap();
    let path = format!("/v1/reservations/{}/release", made["reservation_id"].as_str().unwrap());
    for _ in 0..2 {
        let freed: Value = post(path.clone(), "f2", &json!({})).await.unwrap().json().await.unwrap();
        assert_eq!(freed["status"], "released");
    }
    assert_refused(post(path, "f3", &json!({})).await.unwrap(), 410, "gone").await;
    let made: Value = reserve("k3").await.unwrap().json().await.unwrap();
    desk.bank.expire_reservations();
    let path = format!("/v1/reservations/{}/capture", made["reservation_id"].as_str().unwrap());
    assert_refused(post(path, "c3", &part("1.00")).await.unwrap(), 409, "expired").await;
    let listed = desk.read("/v1/reservations?reference=r1").await;
    let states: Vec<_> = listed["reservations"].as_array().unwrap().iter().map(|it| &it["status"]).collect();
    assert_eq!(states, ["captured", "released", "expired"]);
}

#[tokio::test]
async fn what_is_reserved_can_be_paid_with_by_nobody_else() {
    let desk = Desk::open(Options { opening_minor: 3000, ..Options::default() }).await;
    let order = json!({"recipient": "acme", "amount": "25.00", "currency": "USD", "reference": "r1"});
    let reserve = desk.call(Method::POST, "/v1/reservations").header("idempotency-key", "k").json(&order);
    assert_eq!(reserve.send().await.unwrap().status(), StatusCode::CREATED);
    assert_refused(desk.pay("p", "r2", "5.01").await.unwrap(), 402, "insufficient_funds").await;
    desk.pay("q", "r2", "5.00").await.unwrap();
    desk.assert_moved(1, 500);
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer_and_moves_nothing() {
    let desk = Desk::open(Options::default()).await;
    let first: Value = desk.pay("k1", "r1", "10.00").await.unwrap().json().await.unwrap();
    let again = desk.pay("k1", "r1", "10.00").await.unwrap();
    assert_eq!(again.status(), StatusCode::CREATED);
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.json::<Value>().await.unwrap(), first);
    desk.assert_moved(1, 1000);
    desk.pay("k2", "r1", "10.00").await.unwrap();
    desk.assert_moved(2, 2000);
    assert_eq!(desk.found("r1").await.len(), 2);
}

#[tokio::test]
async fn a_key_cannot_carry_another_payment() {
    let desk = Desk::open(Options::default()).await;
    desk.pay("k1", "r1", "10.00").await.unwrap();
    let refused = desk.pay("k1", "r1", "11.00").await.unwrap();
    assert_refused(refused, 422, "idempotency_key_reused").await;
    desk.assert_moved(1, 1000);
}

#[tokio::test]
async fn a_bank_that_forgets_keys_pays_twice() {
    for idempotency in [None, Some(Duration::ZERO)] {
        let desk = Desk::open(Options { idempotency, ..Options::default() }).await;
        for _ in 0..2 {
            assert_eq!(desk.pay("k1", "r1", "1.00").await.unwrap().status(), StatusCode::CREATED);
        }
        desk.assert_moved(2, 200);
        assert_eq!(desk.bank.effects().by_key["k1"], 2);
        assert_eq!(desk.bank.effects().by_reference["r1"], 2);
    }
}

#[tokio::test]
async fn fifty_at_once_under_one_key_are_one_effect() {
    let journal = tempfile::NamedTempFile::new().unwrap();
    for journal in [None, Some(journal.path().to_owned())] {
        let desk = Desk::open(Options { journal, ..Options::default() }).await;
        desk.bank.inject(Injection::payments(Fault::DelayEffect { ms: 20 }, 25));
        let answers = desk.pay_at_once(50, |_| "k1".to_owned()).await;
        assert!(answers.iter().all(|answer| answer == &answers[0]), "the answers differ");
        desk.assert_moved(1, 100);
    }
}

#[tokio::test]
async fn fifty_at_once_under_fifty_keys_are_fifty_effects() {
    let desk = Desk::open(Options::default()).await;
    desk.pay_at_once(50, |n| format!("k{n}")).await;
    desk.assert_moved(50, 5000);
    assert!(desk.bank.effects().by_key.values().all(|&count| count == 1));
}

#[tokio::test]
async fn money_that_is_not_there_does_not_move() {
    let desk = Desk::open(Options { opening_minor: 1000, ..Options::default() }).await;
    assert_refused(desk.pay("k1", "r1", "10.01").await.unwrap(), 402, "insufficient_funds").await;
    assert_eq!(desk.bank.effects().count, 0);
    // A refusal uses no key up, and the last cent can be spent.
    assert_eq!(desk.pay("k1", "r1", "10.00").await.unwrap().status(), StatusCode::CREATED);
    assert_refused(desk.pay("k2", "r2", "0.01").await.unwrap(), 402, "insufficient_funds").await;
    assert_eq!(desk.bank.balance(OPERATING), Some(0));
}

#[tokio::test]
async fn bad_input_is_refused_and_uses_up_no_fault() {
    let desk = Desk::open(Options::default()).await;
    desk.bank.inject(Injection::payments(Fault::ErrorAfterEffect, 1));
    let good = json!({"recipient": "acme", "amount": "1.00", "currency": "USD"});
    let long = "x".repeat(256);
    for (member, value) in [
        ("amount", json!(1)),
        ("amount", json!("1.001")),
        ("amount", json!("-1")),
        ("amount", json!("0")),
        ("amount", Value::Null),
        ("currency", json!("EUR")),
        ("recipient", json!("")),
        ("recipient", json!(long)),
        ("recipient", json!(OPERATING)),
        ("reference", json!("")),
        ("note", json!(long)),
        ("unknown", json!(1)),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        let answer = desk.post("k1", &bad).send().await.unwrap();
        assert_refused(answer, 422, "invalid_request").await;
    }
    for body in ["", "{", "[]", r#"{"recipient":"a","recipient":"b","amount":"1.00","currency":"USD"}"#] {
        let request = desk.call(Method::POST, "/v1/payments").header("idempotency-key", "k1").body(body);
        assert_refused(request.send().await.unwrap(), 422, "invalid_request").await;
    }
    let no_key = desk.call(Method::POST, "/v1/payments").json(&good);
    assert_refused(no_key.send().await.unwrap(), 422, "invalid_request").await;
    let too_large = desk.post("k1", &json!({"note": "x".repeat(70_000)}));
    assert_refused(too_large.send().await.unwrap(), 413, "unreadable_body").await;
    assert_eq!(desk.bank.effects().count, 0);
    assert_eq!(desk.pay("k1", "r1", "1.00").await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn every_page_needs_the_token() {
    let desk = Desk::open(Options::default()).await;
    for (method, path) in [
        (Method::POST, "/v1/payments"),
        (Method::GET, "/v1/payments?reference=r1"),
        (Method::GET, "/v1/payments/pay_1"),
        (Method::GET, "/v1/accounts/operating"),
        (Method::GET, "/v1/effects"),
        (Method::POST, "/v1/faults"),
        (Method::GET, "/v1/faults"),
        (Method::DELETE, "/v1/faults"),
    ] {
        for token in [None, Some("Bearer wrong"), Some("Bearer "), Some("demo-bank-token")] {
            let mut request = desk.client.request(method.clone(), format!("{}{path}", desk.bank.url()));
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            assert_refused(request.send().await.unwrap(), 401, "unauthorized").await;
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let desk = Desk::open(Options::default()).await;
    assert_eq!(desk.read("/v1/payments?reference=none").await, json!({"payments": []}));
    for path in ["/v1/payments/pay_1", "/v1/accounts/nobody", "/elsewhere"] {
        assert_refused(desk.call(Method::GET, path).send().await.unwrap(), 404, "not_found").await;
    }
    let unasked = desk.call(Method::GET, "/v1/payments").send().await.unwrap();
    assert_refused(unasked, 422, "invalid_request").await;
}

#[tokio::test]
async fn an_answer_lost_after_the_effect_is_found_by_query() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": "lost_after_effect"})).await;
    let lost = desk.pay("k1", "r1", "5.00").await.unwrap_err();
    assert!(lost.status().is_none() && !lost.is_connect(), "{lost:?}");
    desk.assert_moved(1, 500);
    let found = desk.found("r1").await;
    assert_eq!(found.len(), 1);
    let again: Value = desk.pay("k1", "r1", "5.00").await.unwrap().json().await.unwrap();
    assert_eq!(again, found[0]);
    desk.assert_moved(1, 500);
}

#[tokio::test]
async fn an_answer_lost_before_the_effect_leaves_nothing() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": "lost_before_effect", "count": 2})).await;
    for _ in 0..2 {
        desk.pay("k1", "r1", "5.00").await.unwrap_err();
    }
    assert!(desk.found("r1").await.is_empty());
    assert_eq!(desk.bank.effects().count, 0);
    assert_eq!(desk.pay("k1", "r1", "5.00").await.unwrap().status(), StatusCode::CREATED);
    desk.assert_moved(1, 500);
}

#[tokio::test]
async fn a_late_delivery_lands_after_a_query_said_absent() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": {"late": {"ms": 1500}}})).await;
    desk.pay("k1", "r1", "5.00").await.unwrap_err();
    assert!(desk.found("r1").await.is_empty());
    desk.wait_for("the effect", async || desk.bank.effects().count == 1).await;
    assert_eq!(desk.found("r1").await.len(), 1);
}

#[tokio::test]
async fn a_delayed_effect_happens_though_the_caller_gave_up() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": {"delay_effect": {"ms": 1000}}})).await;
    let caller = tokio::spawn(desk.order("k1", "r1", "1.00").send());
    desk.wait_for("the request", async || desk.read("/v1/faults").await == json!({"faults": []})).await;
    caller.abort();
    desk.wait_for("the effect", async || desk.bank.effects().count == 1).await;
}

#[tokio::test]
async fn a_delayed_answer_follows_an_effect_already_there() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": {"delay_answer": {"ms": 600_000}}})).await;
    let caller = tokio::spawn(desk.order("k1", "r1", "1.00").send());
    desk.wait_for("the effect", async || desk.bank.effects().count == 1).await;
    assert!(!caller.is_finished(), "the answer did not wait");
}

#[tokio::test]
async fn an_answer_can_come_twice_for_one_effect() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": "answer_twice"})).await;
    let body = r#"{"recipient":"acme","amount":"1.00","currency":"USD","reference":"r1"}"#;
    let request = format!(
        "POST /v1/payments HTTP/1.1\r\nhost: bank\r\nauthorization: Bearer {}\r\nidempotency-key: k1\r\n\
         content-length: {}\r\n\r\n{body}",
        desk.bank.token(),
        body.len()
    );
    let mut line = tokio::net::TcpStream::connect(desk.bank.address()).await.unwrap();
    line.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while String::from_utf8_lossy(&said).matches("settled").count() < 2 {
        assert!(line.read_buf(&mut said).await.unwrap() > 0, "it ended early");
    }
    let said = String::from_utf8(said).unwrap();
    let (first, second) = said.split_at(said.len() / 2);
    assert_eq!(first, second, "the whole of it, twice");
    desk.assert_moved(1, 100);
    line.write_all(request.as_bytes()).await.unwrap();
    let mut once = Vec::new();
    while !String::from_utf8_lossy(&once).contains("settled") {
        assert!(line.read_buf(&mut once).await.unwrap() > 0, "the line was given up");
    }
    desk.assert_moved(1, 100);
}

#[tokio::test]
async fn a_payment_is_not_made_later_than_the_bank_allows() {
    let latest = Some(Duration::from_millis(10));
    let desk = Desk::open(Options { latest, ..Options::default() }).await;
    desk.fault(json!({"fault": {"delay_effect": {"ms": 50}}})).await;
    assert_refused(desk.pay("k1", "r1", "1.00").await.unwrap(), 503, "too_late").await;
    assert_eq!(desk.bank.effects().count, 0);
}

#[tokio::test]
async fn a_payment_asked_back_under_two_keys_shows() {
    let desk = Desk::open(Options::default()).await;
    let paid: Value = desk.pay("k1", "r1", "1.00").await.unwrap().json().await.unwrap();
    let refunds = format!("/v1/payments/{}/refunds", paid["payment_id"].as_str().unwrap());
    for (key, status, asked) in [("b1", 201, 1), ("b1", 201, 1), ("b2", 409, 2)] {
        let answer = desk.call(Method::POST, &refunds).header("idempotency-key", key).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{key}");
        assert_eq!(desk.bank.asked_back(), [("r1".to_owned(), asked)].into());
    }
    assert_eq!(desk.bank.refunds(), 1);
}

#[tokio::test]
async fn error_answers_tell_nothing_about_the_effect() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": "error_before_effect"})).await;
    assert_refused(desk.pay("k1", "r1", "1.00").await.unwrap(), 500, "internal").await;
    assert_eq!(desk.bank.effects().count, 0);
    desk.fault(json!({"fault": "error_after_effect"})).await;
    assert_refused(desk.pay("k1", "r1", "1.00").await.unwrap(), 500, "internal").await;
    desk.assert_moved(1, 100);
}

#[tokio::test]
async fn a_bank_can_refuse_what_it_has_done_and_tell_of_it_afterwards() {
    let (told, mut heard) = mpsc::channel(1);
    let hear = move |body: Bytes| {
        let told = told.clone();
        async move { told.send(serde_json::from_slice::<Value>(&body).unwrap()).await.unwrap() }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, Router::new().route("/", post(hear))).into_future());
    let callback = Some(bank::Callback { url, secret: "whsec_AAAA".to_owned() });
    let desk = Desk::open(Options { callback, ..Options::default() }).await;
    desk.fault(json!({"fault": "refused_after_effect"})).await;
    assert_refused(desk.pay("k1", "r1", "1.00").await.unwrap(), 422, "refused").await;
    desk.assert_moved(1, 100);
    assert!(!desk.bank.tell_of("r2"), "nothing was paid under it");
    assert!(desk.bank.tell_of("r1"));
    let paid = &desk.found("r1").await[0];
    assert_eq!(
        heard.recv().await.unwrap(),
        json!({
            "type": "payment.settled", "payment_id": paid["payment_id"], "reference": "r1",
            "amount": "1.00", "currency": "USD",
        })
    );
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": {"rate_limited": {"retry_after": 7}}})).await;
    let answer = desk.pay("k1", "r1", "1.00").await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "7");
    assert_refused(answer, 429, "rate_limited").await;
    assert_eq!(desk.bank.effects().count, 0);
}

#[tokio::test]
async fn a_redirect_pays_only_who_follows_it() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": {"redirect": {}}})).await;
    let answer = desk.pay("k1", "r1", "1.00").await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers()["location"], "/v1/payments");
    assert_eq!(desk.bank.effects().count, 0);

    desk.fault(json!({"fault": {"redirect": {"location": "http://169.254.169.254/"}}})).await;
    let answer = desk.pay("k1", "r1", "1.00").await.unwrap();
    assert_eq!(answer.headers()["location"], "http://169.254.169.254/");

    desk.fault(json!({"fault": {"redirect": {}}})).await;
    let follower = Desk { client: Client::new(), ..desk };
    assert_eq!(follower.pay("k1", "r1", "1.00").await.unwrap().status(), StatusCode::CREATED);
    follower.assert_moved(1, 100);
}

#[tokio::test]
async fn a_malformed_body_is_no_json() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": "malformed_body"})).await;
    let answer = desk.pay("k1", "r1", "1.00").await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let body = answer.text().await.unwrap();
    assert!(body.starts_with('{') && serde_json::from_str::<Value>(&body).is_err(), "{body}");
    desk.assert_moved(1, 100);
}

#[tokio::test]
async fn a_huge_body_is_as_long_as_asked_and_still_true() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": {"huge_body": {"bytes": 1_000_000}}})).await;
    let body = desk.pay("k1", "r1", "1.00").await.unwrap().bytes().await.unwrap();
    assert_eq!(body.len(), 1_000_000);
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["status"], "settled");
}

#[tokio::test]
async fn a_slow_body_starts_but_does_not_end_in_time() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": {"slow_body": {"ms": 1000}}})).await;
    let answer = desk.pay("k1", "r1", "1.00").await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let read = tokio::time::timeout(Duration::from_millis(100), answer.bytes()).await;
    assert!(read.is_err(), "the body arrived at once");

    desk.fault(json!({"fault": {"slow_body": {"ms": 1}}})).await;
    let whole: Value = desk.pay("k1", "r1", "1.00").await.unwrap().json().await.unwrap();
    assert_eq!(whole["status"], "settled");
}

#[tokio::test]
async fn queries_can_fail_too_without_touching_payments() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"on": "queries", "fault": "lost_before_effect"})).await;
    assert_eq!(desk.pay("k1", "r1", "1.00").await.unwrap().status(), StatusCode::CREATED);
    let query = || desk.call(Method::GET, "/v1/payments?reference=r1").send();
    query().await.unwrap_err();
    assert_eq!(query().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn faults_happen_in_order_and_can_be_listed_and_cleared() {
    let desk = Desk::open(Options::default()).await;
    desk.fault(json!({"fault": "none", "count": 2})).await;
    desk.fault(json!({"fault": "error_before_effect", "count": 2})).await;
    let mut statuses = Vec::new();
    for n in 0..3 {
        statuses.push(desk.pay(&format!("k{n}"), "r", "1.00").await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [201, 201, 500]);
    assert_eq!(
        desk.read("/v1/faults").await,
        json!({"faults": [{"fault": "error_before_effect", "count": 1, "on": "payments"}]})
    );
    desk.call(Method::DELETE, "/v1/faults").send().await.unwrap().error_for_status().unwrap();
    assert_eq!(desk.pay("k3", "r", "1.00").await.unwrap().status(), StatusCode::CREATED);
    let unknown = desk.call(Method::POST, "/v1/faults").json(&json!({"fault": "earthquake"}));
    assert_refused(unknown.send().await.unwrap(), 422, "invalid_request").await;
}

#[tokio::test]
async fn effects_are_counted_over_http_as_inside() {
    let desk = Desk::open(Options::default()).await;
    desk.pay("k1", "r1", "1.00").await.unwrap();
    desk.pay("k1", "r1", "1.00").await.unwrap();
    desk.pay("k2", "r1", "1.00").await.unwrap();
    let counted = desk.read("/v1/effects").await;
    assert_eq!(counted, json!({"count": 2, "by_reference": {"r1": 2}, "by_key": {"k1": 1, "k2": 1}}));
    assert_eq!(serde_json::to_value(desk.bank.effects()).unwrap(), counted);
}

#[tokio::test]
async fn the_journal_holds_every_effect_and_survives_a_torn_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("effects.jsonl");
    let journal = Some(path.clone());
    let desk = Desk::open(Options { journal: journal.clone(), ..Options::default() }).await;
    desk.pay_at_once(10, |n| format!("k{n}")).await;
    desk.pay("k1", "r", "1.00").await.unwrap();
    let written = bank::read_journal(&path).unwrap();
    assert_eq!(written.len(), 10);
    assert!(written.iter().all(|effect| effect.recipient == "acme" && effect.amount_minor == 100));
    desk.bank.stop().await.unwrap();

    // A bank that starts again knows nothing, and appends.
    let desk = Desk::open(Options { journal, ..Options::default() }).await;
    assert_eq!(desk.bank.effects().count, 0);
    desk.pay("k1", "r", "1.00").await.unwrap();
    assert_eq!(bank::read_journal(&path).unwrap().len(), 11);

    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    assert_eq!(bank::read_journal(&path).unwrap().len(), 10);
    std::fs::write(&path, [b"{torn\n".as_slice(), &whole].concat()).unwrap();
    assert!(bank::read_journal(&path).is_err(), "a broken line in the middle went unnoticed");
}

#[tokio::test]
async fn a_stopped_bank_frees_its_port_for_the_next() {
    let desk = Desk::open(Options::default()).await;
    let address = desk.bank.address();
    desk.pay("k1", "r1", "1.00").await.unwrap();
    desk.bank.stop().await.unwrap();
    let refused = desk.client.get(format!("http://{address}/v1/effects")).send().await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    let next = Bank::start_at(address, Options::default()).await.unwrap();
    assert_eq!(next.address(), address);
    assert_eq!(next.effects().count, 0);
}

#[tokio::test]
async fn a_served_bank_says_where_it_listens() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let listen = ([127, 0, 0, 1], 0).into();
    let serving =
        tokio::spawn(bank::serve(listen, Options::default(), move |address| tell.send(address).unwrap()));
    let url = format!("http://{}/v1/accounts/operating", told.await.unwrap());
    let account = client().get(url).bearer_auth(Options::default().token).send().await.unwrap();
    assert_eq!(account.json::<Value>().await.unwrap()["balance"], "1000000.00");
    serving.abort();
}

/// A bank and a client of it. Everything the tests say to the bank goes through here.
struct Desk {
    bank: Bank,
    client: Client,
    opening_minor: i64,
}

impl Desk {
    async fn open(options: Options) -> Desk {
        let opening_minor = options.opening_minor;
        Desk { bank: Bank::start(options).await.unwrap(), client: client(), opening_minor }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.bank.url())).bearer_auth(self.bank.token())
    }

    fn post(&self, key: &str, order: &Value) -> RequestBuilder {
        self.call(Method::POST, "/v1/payments").header("idempotency-key", key).json(order)
    }

    fn order(&self, key: &str, reference: &str, amount: &str) -> RequestBuilder {
        let order = json!({"recipient": "acme", "amount": amount, "currency": "USD", "reference": reference});
        self.post(key, &order)
    }

    async fn pay(&self, key: &str, reference: &str, amount: &str) -> reqwest::Result<Response> {
        self.order(key, reference, amount).send().await
    }

    /// One dollar each, all on their way before the first answer; returns the answers.
    async fn pay_at_once(&self, count: usize, key: impl Fn(usize) -> String) -> Vec<Value> {
        let sent: Vec<_> =
            (0..count).map(|n| tokio::spawn(self.order(&key(n), "r", "1.00").send())).collect();
        let mut answers = Vec::new();
        for answer in sent {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.status(), StatusCode::CREATED);
            answers.push(answer.json().await.unwrap());
        }
        answers
    }

    async fn read(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }

    async fn found(&self, reference: &str) -> Vec<Value> {
        let mut answer = self.read(&format!("/v1/payments?reference={reference}")).await;
        serde_json::from_value(answer["payments"].take()).unwrap()
    }

    async fn fault(&self, injection: Value) {
        let answer = self.call(Method::POST, "/v1/faults").json(&injection).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{injection}");
    }

    async fn wait_for(&self, what: &str, happened: impl AsyncFn() -> bool) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !happened().await {
            assert!(Instant::now() < patience, "{what} never came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// So many effects, so much money gone from one account and arrived on the other.
    #[track_caller]
    fn assert_moved(&self, effects: u64, minor: i64) {
        assert_eq!(self.bank.effects().count, effects);
        assert_eq!(self.bank.balance("acme"), Some(minor));
        assert_eq!(self.bank.balance(OPERATING), Some(self.opening_minor - minor));
    }
}

fn client() -> Client {
    Client::builder().no_proxy().redirect(redirect::Policy::none()).build().unwrap()
}

async fn assert_refused(answer: Response, status: u16, code: &str) {
    assert_eq!(answer.status().as_u16(), status);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["code"], code, "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
}
