//! The wire itself: versions of HTTP, TLS, headers, bodies that are too long, of another kind, or never arrive.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::house::{House, Plan, Said, VERSION, Voice, client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_spoken_by_prior_knowledge_and_by_negotiation() {
    let house = House::new().await;
    let http = client(&Plan::default()).http2_prior_knowledge().build().unwrap();
    let voice = Voice { http, ..house.agent() };
    let response = voice.ask("k").json(&house.payment("acct-1", "1.00")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));

    let files = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let config = format!("[tls]\ncertificate = '{}'\nkey = '{}'\n", certificate.display(), key.display());
    let root = Some(Certificate::from_pem(made.cert.pem().as_bytes()).unwrap());
    let plan = || Plan { config: config.clone(), root: root.clone(), ..Plan::default() };
    let house = House::with(plan()).await;
    assert!(house.gateway.url.starts_with("https://"), "{}", house.gateway.url);
    for (http, version) in
        [(client(&plan()), Version::HTTP_2), (client(&plan()).http1_only(), Version::HTTP_11)]
    {
        let voice = Voice { http: http.build().unwrap(), ..house.agent() };
        let key = format!("{version:?}");
        let response = voice.ask(&key).json(&house.payment(&key, "1.00")).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
    }
    let plain = house.gateway.url.replace("https://", "http://");
    assert!(
        house.http.get(format!("{plain}/healthz")).send().await.is_err(),
        "no clear text where TLS is spoken"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_read_as_agreed() {
    let house = House::new().await;
    let agent = house.agent();
    let body = house.payment("acct-1", "1.00");

    // X-Request-Id comes back on good and bad answers, as correlation id too; what is not plain is replaced.
    let said = Said::of(agent.ask("k1").header("x-request-id", "mine-1").json(&body)).await.unwrap();
    assert_eq!(
        (&said.headers["x-request-id"], &said.body["correlation_id"]),
        (&"mine-1".parse().unwrap(), &json!("mine-1"))
    );
    let said = Said::of(agent.request("GET", "/nowhere").header("x-request-id", "mine-2")).await.unwrap();
    assert_eq!((said.status, &said.body["request_id"]), (404, &json!("mine-2")));
    let said = Said::of(agent.request("GET", "/healthz").header("x-request-id", "<script>")).await.unwrap();
    assert!(said.headers["x-request-id"].to_str().unwrap().starts_with("req-"));

    // Names and pages that are not ours, on faces that need a key and on those that do not.
    for path in ["/healthz", "/api/execute", "/v1/keys", "/r/AAAAAAAAAAAA", "/.well-known/jwks.json"] {
        let method = if path == "/api/execute" { "POST" } else { "GET" };
        let said = Said::of(agent.request(method, path).header("host", "evil.example")).await.unwrap();
        assert_eq!((said.status, said.code()), (421, "EP_MISDIRECTED_REQUEST"), "{path}");
        let said =
            Said::of(agent.request(method, path).header("origin", "https://evil.example")).await.unwrap();
        assert_eq!((said.status, said.code()), (403, "EP_FORBIDDEN"), "{path}");
    }

    // The version: required in production, understood in the sandbox, never another.
    let versioned = |path: &str, version: Option<&str>, key: &str| {
        let request = agent.request("POST", path).header("idempotency-key", key).json(&body);
        Said::of(match version {
            Some(version) => request.header("ep-version", version),
            None => request,
        })
    };
    for (path, version, code) in [
        ("/api/execute", None, "EP_VERSION_UNSUPPORTED"),
        ("/api/execute", Some("2026-04-28"), "EP_VERSION_UNSUPPORTED"),
        ("/api/sandbox/execute", Some("1"), "EP_VERSION_UNSUPPORTED"),
        ("/api/execute", Some(VERSION), ""),
    ] {
        assert_eq!(versioned(path, version, "k1").await.unwrap().code(), code, "{path} {version:?}");
    }
    let sandbox = json!({"archetype": "PAYMENT_TRANSFER", "constraints": body["constraints"]});
    assert_eq!(house.nobody().post("/api/sandbox/execute", &sandbox).await.kind(), "executed");
    assert_eq!(house.bank.effects().count, 1, "of all this, one payment was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_acts_on_nothing() {
    let mut house = House::new().await;
    let agent = house.agent();
    let dry = async |body: &Value, key: Option<&str>| {
        let request = agent.request("POST", "/api/execute?dry_run=true").header("ep-version", VERSION);
        let request = request.header("idempotency-key", key.unwrap_or("dry"));
        Said::of(request.json(body)).await.unwrap()
    };
    let good = house.payment("acct-1", "1.00");
    let said = dry(&good, Some("k1")).await;
    assert_eq!(said.body["details"]["dry_run"], true, "{}", said.text());
    assert_eq!((&said.body["transaction_id"], &said.body["receipt_id"]), (&Value::Null, &Value::Null));
    let over = house.payment("acct-1", "95000.00");
    assert_eq!(dry(&over, None).await.code(), "EP_DELEGATION_BLOCK");
    let denied = json!({"archetype": "delete_audit_log", "constraints": {}});
    assert_eq!(dry(&denied, None).await.code(), "EP_BOUNDARY_BLOCK");
    let mandates = house.admin().get("/v1/mandates").await.body;
    assert_eq!(
        (&mandates["items"][0]["actions"], &mandates["items"][0]["spent"]["amount"]),
        (&json!(0), &json!("0.00"))
    );
    assert_eq!(house.bank.effects().count, 0);

    // The key is still free, and the same effect is no duplicate of what was only tried.
    let real = agent.execute("k1", &good).await;
    assert_eq!((real.kind(), real.replayed()), ("executed", false), "{}", real.text());
    house.gateway.stop();
    use ledger::Ledger;
    let store = house.store().await;
    let rows =
        store.actions(&action::Tenant::default(), ledger::Filter::default(), None, 10).await.unwrap().rows;
    assert_eq!(rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_have_a_kind_a_length_and_a_time() {
    let house = House::new().await;
    let agent = house.agent();
    let slow = tokio::spawn(a_body_that_never_comes(house.gateway.port()));
    let body = house.payment("acct-1", "1.00").to_string();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "multipart/form-data",
    ] {
        let request = agent
            .request("POST", "/api/execute")
            .header("ep-version", VERSION)
            .header("idempotency-key", "k");
        let said = Said::of(request.header("content-type", kind).body(body.clone())).await.unwrap();
        assert_eq!((said.status, said.code()), (415, "EP_UNSUPPORTED_MEDIA_TYPE"), "{kind}");
    }
    let padded = |bytes: usize| format!("{body}{}", " ".repeat(bytes - body.len()));
    let most = 256 * 1024;
    for path in ["/api/execute", "/api/sandbox/execute", "/v1/mandates"] {
        let voice = if path == "/v1/mandates" { house.admin() } else { agent.clone() };
        let request =
            voice.request("POST", path).header("ep-version", VERSION).header("idempotency-key", "k");
        let said = Said::of(request.header("content-type", "application/json").body(padded(most + 1)))
            .await
            .unwrap();
        assert_eq!((said.status, said.code()), (413, "EP_BODY_TOO_LARGE"), "{path}");
    }
    // Without a declared length it is counted as it comes.
    let head = format!(
        "POST /api/execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nEP-Version: {VERSION}\r\nIdempotency-Key: k\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n40001\r\n",
        agent.key.clone().unwrap()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", house.gateway.port())).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(" ".repeat(0x40001).as_bytes()).await.unwrap();
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 413");
    let said = Said::of(agent.ask("k").body(padded(most))).await.unwrap();
    assert_eq!(said.kind(), "executed", "the longest body is read: {}", said.text());

    let (line, waited) = slow.await.unwrap();
    assert_eq!(line, "HTTP/1.1 400", "who does not send is told so");
    assert!(waited < Duration::from_secs(30), "after {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_before_the_body_was_read_hears_why() {
    let house = House::new().await;
    let agent = house.agent();
    let nobody = house.nobody();
    for n in 0..40 {
        let body = " ".repeat([3, 3_000, 60_000, 250_000, 300_000, 900_000][n % 6]);
        // One client, so that a connection that is of no more use must not be used for the next request.
        let refused = Said::of(nobody.ask("k").body(body.clone())).await.unwrap();
        assert_eq!((refused.status, &refused.headers["connection"]), (401, &"close".parse().unwrap()));
        let request = agent.request("POST", "/api/execute").header("content-type", "text/plain");
        let refused = Said::of(request.body(body)).await.unwrap();
        assert_eq!(refused.status, 400, "no version: {}", refused.text());
        let next = Said::of(agent.request("GET", "/healthz")).await.unwrap();
        assert_eq!((next.status, next.headers.get("connection")), (200, None));
    }
}

async fn a_body_that_never_comes(port: u16) -> (String, Duration) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = "POST /api/sandbox/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    (status_line(&mut stream).await, began.elapsed())
}

async fn status_line(stream: &mut TcpStream) -> String {
    let mut heard = [0; 12];
    stream.read_exact(&mut heard).await.unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}
