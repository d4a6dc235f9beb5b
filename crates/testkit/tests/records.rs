//! The archive over real HTTP: versions decide what may be undone, one key is one effect, what is gone is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use countersign_testkit::records::{Archive, Effects, Fault, Injection, Options, Standing, Target};
use reqwest::{Client, Method};
use serde_json::{Value, json};

#[tokio::test]
async fn a_record_is_written_read_deleted_and_restored_by_its_version() {
    let desk = Desk::open().await;
    desk.heard("PUT", "/r1", "k1", None, json!({"content": {"a": 1}, "reference": "ref-1"}), 200).await;
    assert_eq!(desk.get("/v1/records/r1").await["version"], 1);
    let body = desk.heard("DELETE", "/r1", "k2", Some("\"1\""), json!({"reference": "ref-2"}), 200).await;
    assert_eq!((&body["status"], &body["version"]), (&"deleted".into(), &1.into()));
    assert_eq!(desk.get("/v1/records/r1").await["status"], "deleted");
    assert_eq!(desk.get("/v1/changes?reference=ref-2").await["changes"], json!([body]));
    desk.heard("POST", "/r1/restore", "k3", Some("2"), json!({}), 412).await;
    desk.heard("POST", "/r1/restore", "k3", None, json!({}), 428).await;
    desk.heard("POST", "/r1/restore", "k3", Some("1"), json!({}), 200).await;
    let there = Standing { version: 1, content: Some(json!({"a": 1})) };
    assert_eq!(desk.archive.standing("r1"), Some(there));
    let Effects { written, deleted, restored, reverted, .. } = desk.archive.effects();
    assert_eq!((written, deleted, restored, reverted), (1, 1, 1, 0));
}

#[tokio::test]
async fn what_changed_since_is_neither_restored_nor_reverted() {
    let desk = Desk::open().await;
    for n in 1..=3 {
        desk.heard("PUT", "/r1", &format!("k{n}"), None, json!({"content": n}), 200).await;
    }
    desk.heard("POST", "/r1/revert", "k4", Some("2"), json!({}), 412).await;
    desk.heard("POST", "/r1/revert", "k4", Some("3"), json!({}), 200).await;
    desk.heard("POST", "/r1/revert", "k5", Some("2"), json!({}), 200).await;
    assert_eq!(desk.archive.standing("r1"), Some(Standing { version: 1, content: Some(json!(1)) }));
    desk.heard("DELETE", "/r1", "k6", None, json!({}), 200).await;
    assert_eq!(desk.archive.put("r1", json!("anew")), 4, "no version is given twice");
    desk.heard("POST", "/r1/restore", "k7", Some("1"), json!({}), 412).await;
    assert_eq!(desk.archive.standing("r1").unwrap().content, Some(json!("anew")));
}

#[tokio::test]
async fn one_key_is_one_effect_whatever_gets_lost() {
    let desk = Desk::open().await;
    desk.archive.put("r1", json!(1));
    for (target, fault) in
        [(Target::Changes, Fault::LostAfterEffect), (Target::Changes, Fault::LostBeforeEffect)]
    {
        desk.archive.inject(Injection::new(target, fault, 1));
        assert!(desk.call("DELETE", "/r1", "k1", None, json!({})).send().await.is_err());
    }
    let first = desk.heard("DELETE", "/r1", "k1", None, json!({}), 200).await;
    assert_eq!(desk.heard("DELETE", "/r1", "k1", None, json!({}), 200).await, first);
    desk.heard("DELETE", "/r2", "k1", None, json!({}), 422).await;
    desk.heard("DELETE", "/r1", "k2", None, json!({}), 409).await;
    assert_eq!((desk.archive.effects().deleted, desk.archive.effects().by_key["k1"]), (1, 1));
}

#[tokio::test]
async fn what_was_deleted_is_gone_when_its_window_is_over() {
    let desk = Desk::opened(Options { window: Duration::ZERO, ..Options::default() }).await;
    desk.archive.put("r1", json!(1));
    desk.heard("DELETE", "/r1", "k1", None, json!({}), 200).await;
    desk.heard("POST", "/r1/restore", "k2", Some("1"), json!({}), 404).await;
    let desk = Desk::open().await;
    desk.archive.put("r1", json!(1));
    desk.heard("DELETE", "/r1", "k1", None, json!({}), 200).await;
    desk.archive.purge();
    desk.heard("POST", "/r1/restore", "k2", Some("1"), json!({}), 404).await;
    assert_eq!(desk.archive.standing("r1"), None);
}

#[tokio::test]
async fn nobody_without_the_token_is_let_in() {
    let desk = Desk::open().await;
    let url = format!("http://{}/v1/records/r1", desk.archive.address());
    assert_eq!(desk.client.get(url).send().await.unwrap().status(), 401);
}

struct Desk {
    archive: Archive,
    client: Client,
}

impl Desk {
    async fn open() -> Desk {
        Desk::opened(Options::default()).await
    }

    async fn opened(options: Options) -> Desk {
        let client = Client::builder().no_proxy().build().unwrap();
        Desk { archive: Archive::start(options).await.unwrap(), client }
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        key: &str,
        if_match: Option<&str>,
        body: Value,
    ) -> reqwest::RequestBuilder {
        let url = format!("http://{}/v1/records{path}", self.archive.address());
        let request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        let request = request.bearer_auth(self.archive.token()).header("idempotency-key", key).json(&body);
        if_match.into_iter().fold(request, |request, version| request.header("if-match", version))
    }

    async fn heard(
        &self,
        method: &str,
        path: &str,
        key: &str,
        if_match: Option<&str>,
        body: Value,
        status: u16,
    ) -> Value {
        let answer = self.call(method, path, key, if_match, body).send().await.unwrap();
        let (heard, body) = (answer.status().as_u16(), answer.json().await.unwrap());
        assert_eq!(heard, status, "{method} {path}: {body}");
        body
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.archive.address());
        let answer = self.client.get(url).bearer_auth(self.archive.token()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }
}
