//! What may be seen by nobody: not in the log at its most talkative, not in answers, receipts or the store.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::house::{BANK_TOKEN, House, Plan, Said, Voice};
use crate::tricks::call_out;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_found_nowhere() {
    let echo = echo().await;
    // This one sends the bank's token to a place that says everything back.
    let header = "headers = { Authorization = { \"$secret\" = \"bank\", prefix = \"Bearer \" } }";
    let echoing = call_out("ECHO", &format!("http://{echo}"))
        .replace("timeout_ms = 1500", &format!("timeout_ms = 1500\n{header}"));
    let plan = Plan {
        config: "[limits]\nrecovery_interval_ms = 50\n".into(),
        catalogue: vec![("echo.toml", echoing)],
        log: Some("debug"),
        reach: vec![echo],
        ..Plan::default()
    };
    let mut house = House::with(plan).await;
    let heard = much(&house).await;
    house.gateway.stop();

    let master = fs::read_to_string(house.path().join("data/keys/master.key")).unwrap().trim().to_owned();
    let mut secrets: Vec<(String, String)> =
        vec![("the bank's token".into(), BANK_TOKEN.into()), ("the master key".into(), master)];
    secrets.extend(house.secrets().into_iter().map(|key| ("an API key".to_owned(), key)));
    // Of a mandate's token the signature is what nobody could make up.
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    secrets.push(("a mandate's token".into(), signature(house.token("default"))));
    secrets.push(("the other mandate's token".into(), signature(house.token("other"))));

    let mut places: BTreeMap<String, Vec<u8>> = heard;
    places.insert("the log".into(), house.log().into_bytes());
    for file in files(&house.path().join("data")) {
        if !file.ends_with("master.key") {
            places.insert(file.display().to_string(), fs::read(&file).unwrap());
        }
    }
    assert!(places["the log"].windows(5).any(|bytes| bytes == b"DEBUG"), "the log was talkative");
    assert!(places.keys().any(|place| place.ends_with("production.db")), "{:?}", places.keys());
    for (what, secret) in &secrets {
        assert!(secret.len() > 20, "{what}");
        for (place, bytes) in &places {
            assert!(!contains(bytes, secret.as_bytes()), "{what} stands in {place}");
        }
    }
}

/// All kinds of things going well and wrong; what was answered.
async fn much(house: &House) -> BTreeMap<String, Vec<u8>> {
    let (agent, admin) = (house.agent(), house.admin());
    let mut heard: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (n, fault) in [
        Fault::None,
        Fault::LostAfterEffect,
        Fault::LostBeforeEffect,
        Fault::ErrorAfterEffect,
        Fault::MalformedBody,
        Fault::Redirect { location: "/v1/payments".into() },
        Fault::RateLimited { retry_after: 1 },
    ]
    .into_iter()
    .enumerate()
    {
        house.bank.inject(Injection::payments(fault, 1));
        let said = agent.execute(&format!("k{n}"), &house.payment(&format!("acct-{n}"), "1.00")).await;
        tell(&mut heard, &agent, said).await;
    }
    for n in 0..3 {
        let mut body = house.payment(&format!("echo-{n}"), "1.00");
        body["archetype"] = json!("ECHO");
        let said = agent.execute(&format!("echo-{n}"), &body).await;
        let expected = ["executed", "failed", "pending_settlement"][n];
        assert_eq!(said.kind(), expected, "{}", said.text());
        tell(&mut heard, &agent, said).await;
    }
    for (name, body) in [
        ("token", json!({"archetype": "PAYMENT_TRANSFER", "delegation_token": 7})),
        (
            "forged",
            json!({"archetype": "PAYMENT_TRANSFER", "constraints": {}, "delegation_token": format!("{}x", house.token("default"))}),
        ),
        ("member", json!({"archetype": "PAYMENT_TRANSFER", "constraints": {}, "x": house.token("default")})),
    ] {
        let said = agent.execute(name, &body).await;
        assert!((400..500).contains(&said.status), "{}", said.text());
        tell(&mut heard, &agent, said).await;
    }
    let half = agent.key.clone().unwrap();
    for key in [format!("{half}x"), half[..half.len() - 1].to_owned(), half.to_uppercase()] {
        let stranger = Voice { key: Some(key), ..agent.clone() };
        let said = stranger.execute("k", &Value::Null).await;
        assert_eq!(said.status, 401, "{}", said.text());
        tell(&mut heard, &agent, said).await;
    }
    for path in [
        "/v1/keys",
        "/v1/mandates",
        "/v1/freezes",
        "/v1/signing-keys",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/readyz",
    ] {
        heard.insert(path.to_owned(), admin.get(path).await.bytes);
    }
    // Recovery asks about what was lost, and the answers come in.
    tokio::time::sleep(Duration::from_millis(600)).await;
    heard
}

/// Keeps an answer, and the record and receipt that it names.
async fn tell(heard: &mut BTreeMap<String, Vec<u8>>, agent: &Voice, said: Said) {
    let n = heard.len();
    for (what, member) in [("/v1/actions/", "transaction_id"), ("/v1/receipts/", "receipt_id")] {
        if let Some(id) = said.body[member].as_str() {
            let more = agent.get(&format!("{what}{id}")).await;
            assert_eq!(more.status, 200, "{}", more.text());
            heard.insert(format!("{n}: {what}{id}"), more.bytes);
        }
    }
    heard.insert(format!("{n}: the answer {}", said.status), said.bytes);
}

/// A provider that repeats what it was sent: as a good answer, as a refusal, as something else.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(say_back(stream, count));
            count += 1;
        }
    });
    address
}

async fn say_back(mut stream: TcpStream, count: usize) {
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    let sent =
        head.lines().find(|line| line.to_lowercase().starts_with("authorization:")).unwrap_or_default();
    let sent = sent.split_once(' ').map_or("", |(_, value)| value.trim());
    assert!(sent.contains(BANK_TOKEN), "the secret is sent to whom it is meant for");
    let (status, body) = match count {
        0 => ("201 Created", json!({"payment_id": sent, "echo": {sent: [sent]}})),
        1 => ("402 Payment Required", json!({"error": {"code": sent, "message": sent}})),
        _ => ("418 Teapot", json!({"sent": sent})),
    };
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Echo: {sent}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
