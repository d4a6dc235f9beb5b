//! What callers see of a connection: an answer that takes its time is said like one that is there at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_server::Limits;
use serde_json::json;
use support::Served;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection, spoken in plain text.
struct Wire(TcpStream);

/// One answer as it came.
#[derive(Debug)]
struct Heard {
    status: String,
    head: String,
    body: String,
}

impl Wire {
    async fn to(served: &Served) -> Wire {
        Wire(TcpStream::connect(served.running.address()).await.unwrap())
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Heard {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("the connection ended before an answer"));
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).await.unwrap();
        let status = head.lines().next().unwrap().to_owned();
        Heard { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Whether the other side has hung up, having said nothing more.
    async fn is_over(&mut self) -> bool {
        let mut more = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.0.read_to_end(&mut more)).await;
        assert_eq!(String::from_utf8_lossy(&more), "", "more was said");
        ended.is_ok()
    }
}

impl Heard {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The body of an action whose provider takes so long; each is another one.
fn action(delay_ms: u64) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut action = support::payment();
    action["constraints"]["city"] = format!("sandbox:delay-{delay_ms}").into();
    action["constraints"]["property_id"] = format!("prop-{}", NEXT.fetch_add(1, Ordering::Relaxed)).into();
    action.to_string()
}

/// A request with such a body.
fn slow(version: &str, connection: &str, delay_ms: u64) -> String {
    let body = action(delay_ms);
    format!(
        "POST /api/sandbox/execute {version}\r\nhost: localhost\r\n{connection}content-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The same in one chunk.
fn chunked(length: &str, coding: &str, delay_ms: u64) -> String {
    let body = action(delay_ms);
    format!(
        "POST /api/sandbox/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         {length}transfer-encoding: {coding}\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    )
}

fn health(version: &str, connection: &str) -> String {
    format!("GET /healthz {version}\r\nhost: localhost\r\n{connection}\r\n")
}

#[tokio::test]
async fn a_late_answer_keeps_or_ends_the_connection_as_an_early_one_does() {
    let served = Served::start().await;
    for (version, asked, said, goes_on) in [
        ("HTTP/1.1", "", None, true),
        ("HTTP/1.1", "connection: keep-alive\r\n", None, true),
        ("HTTP/1.1", "connection: close\r\n", Some("close"), false),
        ("HTTP/1.1", "connection: te, close\r\n", Some("close"), false),
        ("HTTP/1.0", "", None, false),
        ("HTTP/1.0", "connection: keep-alive\r\n", Some("keep-alive"), true),
    ] {
        for late in [false, true] {
            let ask = || if late { slow(version, asked, 30) } else { health(version, asked) };
            let (request, another) = (ask(), ask());
            let mut wire = Wire::to(&served).await;
            wire.say(&request).await;
            let heard = wire.hear().await;
            assert_eq!(heard.status, format!("{} 200 ok", version.to_lowercase()), "{request}");
            assert_eq!(heard.header("connection"), said, "{request}");
            assert!(heard.header("date").is_some() && heard.header("x-request-id").is_some(), "{request}");
            if goes_on {
                wire.say(&another).await;
                assert_eq!(wire.hear().await.header("connection"), said, "the second time: {request}");
            } else {
                assert!(wire.is_over().await, "it goes on after {request}");
            }
        }
    }
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let served = Served::start().await;
    let mut wire = Wire::to(&served).await;
    let late_ones = [true, false, true, true, false, false];
    let ask = |late| if late { slow("HTTP/1.1", "", 30) } else { health("HTTP/1.1", "") };
    wire.say(&late_ones.map(ask).concat()).await;
    for late in late_ones {
        let heard = wire.hear().await;
        assert_eq!(heard.status, "http/1.1 200 ok");
        assert_eq!(heard.body.contains("executed"), late, "{}", heard.body);
    }
    // Cut where it hurts: before the end of a body, and in a head that comes while an answer is awaited.
    let (late, early) = (ask(true), ask(false));
    let (late, early) = (late.as_bytes(), early.as_bytes());
    let (most, last) = late.split_at(late.len() - 1);
    let (half, rest) = early.split_at(20);
    for piece in [most, &[last, half].concat(), rest] {
        wire.0.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(wire.hear().await.body.contains("executed"));
    assert_eq!(wire.hear().await.status, "http/1.1 200 ok");
}

#[tokio::test]
async fn a_long_body_and_a_long_answer_arrive_whole() {
    let served = Served::start().await;
    let mut wire = Wire::to(&served).await;
    let body = action(30) + &" ".repeat(200_000);
    let head = "POST /api/sandbox/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n";
    wire.say(head).await;
    for chunk in body.as_bytes().chunks(50_000) {
        wire.say(&format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap())).await;
    }
    wire.say("0\r\n\r\n").await;
    let heard = wire.hear().await;
    assert_eq!(heard.status, "http/1.1 200 ok", "{}", heard.body);
    wire.say("GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let heard = wire.hear().await;
    assert!(serde_json::from_str::<serde_json::Value>(&heard.body).is_ok());
    wire.say("HEAD /openapi.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let mut head = String::new();
    wire.0.read_to_string(&mut head).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

/// Who finds the end of a body elsewhere than a proxy in front of it takes somebody's body for the next request.
#[tokio::test]
async fn a_body_whose_end_is_doubtful_is_the_last_or_refused() {
    let served = Served::start().await;
    for delay_ms in [0, 30] {
        for (length, said) in [("", None), ("content-length: 4\r\n", Some("close"))] {
            let mut wire = Wire::to(&served).await;
            wire.say(&chunked(length, "chunked", delay_ms)).await;
            let heard = wire.hear().await;
            assert_eq!((heard.status.as_str(), heard.header("connection")), ("http/1.1 200 ok", said));
            if said.is_none() {
                wire.say(&health("HTTP/1.1", "")).await;
                assert_eq!(wire.hear().await.status, "http/1.1 200 ok");
            } else {
                assert!(wire.is_over().await);
            }
        }
    }
    for coding in ["x, chunked", "gzip\r\ntransfer-encoding: chunked", "chunked, x", "identity"] {
        let mut wire = Wire::to(&served).await;
        wire.say(&chunked("", coding, 0)).await;
        let heard = wire.hear().await;
        assert_eq!(
            (heard.status.as_str(), heard.header("connection")),
            ("http/1.1 400 bad request", Some("close")),
            "{coding}"
        );
    }
}

#[tokio::test]
async fn who_asks_before_sending_a_body_is_told_to_go_on() {
    let served = Served::start().await;
    let mut wire = Wire::to(&served).await;
    let request = slow("HTTP/1.1", "expect: 100-continue\r\n", 30);
    let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
    wire.say(head).await;
    assert_eq!(wire.hear().await.status, "http/1.1 100 continue");
    wire.say(body).await;
    assert_eq!(wire.hear().await.status, "http/1.1 200 ok");
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A connection over TLS, if there is a certificate.
async fn connected(served: &Served, certificate: Option<&rcgen::Certificate>) -> Box<dyn Stream> {
    let stream = TcpStream::connect(served.running.address()).await.unwrap();
    let Some(certificate) = certificate else { return Box::new(stream) };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    Box::new(TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap())
}

#[tokio::test]
async fn who_hangs_up_gives_the_place_to_another_whatever_was_said_ahead() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let tls = countersign_server::Tls { certificate, key };
    for (tls, certificate) in [(None, None), (Some(tls), Some(&certified.cert))] {
        let served = Served::with(|config| (config.limits, config.tls) = (limits.clone(), tls)).await;
        let long = "x".repeat(20_000);
        for ahead in ["", "G", &long] {
            for request in [slow("HTTP/1.1", "", 60_000), chunked("", "chunked", 60_000)] {
                let mut stream = connected(&served, certificate).await;
                stream.write_all((request + ahead).as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(stream);
                let next = async {
                    let mut next = connected(&served, certificate).await;
                    next.write_all(health("HTTP/1.1", "").as_bytes()).await.unwrap();
                    next.flush().await.unwrap();
                    let mut status = [0; 15];
                    next.read_exact(&mut status).await.unwrap();
                    assert_eq!(&status, b"HTTP/1.1 200 OK");
                };
                let taken = format!("after {} bytes ahead the place is still taken", ahead.len());
                tokio::time::timeout(Duration::from_secs(10), next).await.expect(&taken);
            }
        }
    }
}

/// Linux alone gives up who takes nothing.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_takes_nothing_of_what_is_said_gives_the_place_to_another() {
    let limits = Limits { connections: 1, unread_timeout: Duration::from_millis(300), ..Limits::default() };
    let served = Served::with(|config| config.limits = limits).await;
    let mut wire = Wire::to(&served).await;
    // More than the systems at both ends hold.
    wire.say(&"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(500)).await;
    let mut next = Wire::to(&served).await;
    next.say(&health("HTTP/1.1", "")).await;
    let heard = tokio::time::timeout(Duration::from_secs(30), next.hear()).await;
    assert_eq!(heard.expect("the place is still taken").status, "http/1.1 200 ok");
    drop(wire);
}

#[tokio::test]
async fn who_has_nothing_to_take_keeps_the_connection() {
    let limits = Limits { unread_timeout: Duration::from_millis(100), ..Limits::default() };
    let served = Served::with(|config| config.limits = limits).await;
    let mut wire = Wire::to(&served).await;
    for _ in 0..2 {
        wire.say(&slow("HTTP/1.1", "", 1000)).await;
        assert_eq!(wire.hear().await.status, "http/1.1 200 ok");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn a_caller_who_pauses_between_requests_is_let_go_after_a_while() {
    let short = Limits { head_timeout: Duration::from_millis(300), ..Limits::default() };
    let served = Served::with(|config| config.limits = short).await;
    let mut wire = Wire::to(&served).await;
    // The time an answer takes is not the caller's.
    for request in [slow("HTTP/1.1", "", 600), health("HTTP/1.1", "")] {
        wire.say(&request).await;
        assert_eq!(wire.hear().await.status, "http/1.1 200 ok");
    }
    assert!(wire.is_over().await, "an idle connection keeps its place");
    let mut wire = Wire::to(&served).await;
    wire.say(&(health("HTTP/1.1", "") + "GET /healthz HT")).await;
    wire.hear().await;
    assert!(wire.is_over().await, "half a head keeps its place");
}

#[tokio::test]
async fn what_is_under_way_when_the_server_stops_is_answered_and_is_the_last() {
    let served = Served::start().await;
    let (mut busy, mut idle) = (Wire::to(&served).await, Wire::to(&served).await);
    idle.say(&health("HTTP/1.1", "")).await;
    idle.hear().await;
    busy.say(&slow("HTTP/1.1", "", 300)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopping = tokio::spawn(served.running.stop(Duration::from_secs(20)));
    assert!(idle.is_over().await);
    let heard = busy.hear().await;
    assert_eq!((heard.status.as_str(), heard.header("connection")), ("http/1.1 200 ok", Some("close")));
    assert!(heard.body.contains("executed"), "{}", heard.body);
    assert!(busy.is_over().await);
    drop((busy, idle));
    tokio::time::timeout(Duration::from_secs(10), stopping).await.expect("it does not stop").unwrap();
}

#[tokio::test]
async fn whoever_takes_their_time_with_a_body_has_to_be_known_still_when_it_is_there() {
    let served = Served::start().await;
    let ask = |subject: &str| json!({"subject": subject, "role": "admin"});
    let action = "EP-Version: 2026-04-27\r\nIdempotency-Key: k\r\n";
    for (path, more) in
        [("/v1/keys", ""), ("/api/execute", action), ("/v1/actions", ""), ("/v1/runs", action)]
    {
        let made = served.as_admin(served.post("/v1/keys", &ask("first"))).send().await.unwrap();
        let made = support::body_of(made).await;
        let (secret, id) = (made["secret"].as_str().unwrap(), made["key"]["id"].as_str().unwrap());
        let body = ask("another").to_string();
        let (half, rest) = body.split_at(10);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n\
             {more}Content-Length: {}\r\n\r\n",
            served.running.address(),
            body.len()
        );
        let mut wire = Wire::to(&served).await;
        wire.say(&format!("{head}{half}")).await;
        // Its head is read, and whose it is known.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let revoked = served.as_admin(served.post(&format!("/v1/keys/{id}/revoke"), &json!({})));
        assert!(revoked.send().await.unwrap().status().is_success());
        wire.say(rest).await;
        let heard = wire.hear().await;
        assert_eq!(heard.status, "http/1.1 401 unauthorized", "{path}: {}", heard.body);
    }
    let keys = support::body_of(served.as_admin(served.get("/v1/keys")).send().await.unwrap()).await;
    assert!(!keys.to_string().contains("another"), "{keys}");
}

/// It signs what it says, and what else it brings is for somebody who stands before us.
#[tokio::test]
async fn who_is_known_by_something_else_may_bring_whatever_key_and_take_their_time() {
    let served = Served::start().await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer for-the-proxy\r\nContent-Type: application/secevent+jwt\r\n\
         Content-Length: 10\r\n\r\n",
        served.running.address(),
    );
    let mut wire = Wire::to(&served).await;
    wire.say(&format!("{head}abcde")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    wire.say("fghij").await;
    let heard = wire.hear().await;
    assert_eq!(heard.status, "http/1.1 400 bad request", "{}", heard.body);
}
