//! What `deploy/` has besides the gateways: the reverse proxy before three of them, and the unit of systemd.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::house::{ISSUER, Plan, Said, Voice};
use crate::street::{GATEWAYS, Street};

const CONFIGURATION: &str = include_str!("../../../../deploy/nginx.conf");
const UNIT: &str = include_str!("../../../../deploy/countersign.service");

/// As `deploy/countersign.toml` has it.
const SETTINGS: &str = "behind_tls_proxy = true\nallowed_hosts = [\"127.0.0.1\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_behind_the_proxy_are_one_and_one_that_dies_is_not_missed() {
    let Some((mut street, proxy)) = proxied().await else { return };
    let agent = proxy.voice(&street.house.agent());

    let body = street.house.payment("acct-1", "1.00");
    let first = agent.execute("k", &body).await;
    assert_eq!((first.status, first.kind()), (200, "executed"), "{}", first.text());
    // Often enough that each gateway is asked.
    for _ in 0..2 * GATEWAYS {
        let again = agent.execute("k", &body).await;
        assert_eq!((again.bytes, again.status), (first.bytes.clone(), 200));
    }
    assert_eq!(agent.get("/metrics").await.status, 404);
    let over = "x".repeat(3 << 20);
    assert_eq!(Said::of(agent.ask("large").body(over)).await.unwrap().status, 413);

    // What cannot be sent is sent to another gateway, so nobody notices.
    street.gateway(1).kill();
    for number in 0..4 * GATEWAYS {
        let key = format!("missing-{number}");
        let said = agent.execute(&key, &street.house.payment(&key, "1.00")).await;
        assert_eq!((said.status, said.kind()), (200, "executed"), "{key}: {}", said.text());
    }
    let effects = street.house.bank.effects();
    assert_eq!(effects.by_reference.len(), 1 + 4 * GATEWAYS);
    assert!(effects.by_reference.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_stay_with_their_gateway_behind_the_proxy_and_what_has_none_goes_to_any() {
    let Some((mut street, proxy)) = proxied().await else { return };
    let agent = proxy.voice(&street.house.agent());

    let about = json!({
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
    });
    let begun = mcp(&agent, "2025-11-25", None, "initialize", about).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    let session = begun.headers["mcp-session-id"].to_str().unwrap().to_owned();
    for _ in 0..2 * GATEWAYS {
        let listed = mcp(&agent, "2025-11-25", Some(&session), "tools/list", json!({})).await;
        assert!(listed.text().contains("countersign_status"), "{}: {}", listed.status, listed.text());
    }
    let client = json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }});
    for _ in 0..2 * GATEWAYS {
        let listed = mcp(&agent, "2026-07-28", None, "tools/list", client.clone()).await;
        assert!(listed.text().contains("countersign_status"), "{}: {}", listed.status, listed.text());
    }
    let asked = |upstream: &str| proxy.log().lines().filter(|line| *line == upstream).count();
    let places: Vec<usize> =
        street.places().iter().map(|place| asked(&format!("2026-07-28 {place}"))).collect();
    assert!(places.iter().all(|count| *count > 0), "each was asked: {places:?}");
    let places: Vec<usize> =
        street.places().iter().map(|place| asked(&format!("2025-11-25 {place}"))).collect();
    assert_eq!(places.iter().filter(|count| **count > 0).count(), 1, "one was asked: {places:?}");
}

/// Three gateways behind the proxy; nothing, where there is none of them.
async fn proxied() -> Option<(Street, Proxy)> {
    if lacks("nginx", "-v") {
        return None;
    }
    let mut street = Street::with(Plan { settings: SETTINGS, ..Plan::default() }).await?;
    let proxy = Proxy::start(&mut street);
    Some((street, proxy))
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    if lacks("systemd-analyze", "--version") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("countersign.service");
    fs::write(
        &unit,
        put(UNIT, "ExecStart=/usr/bin/countersign", concat!("ExecStart=", env!("CARGO_BIN_EXE_countersign"))),
    )
    .unwrap();
    let said = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let remarks = String::from_utf8_lossy(&said.stderr).into_owned();
    // Of the machine's own units it may have something to say, too.
    assert!(!remarks.contains("countersign"), "{remarks}");
    assert!(said.status.success(), "{remarks}");
}

/// A message to `/mcp`.
async fn mcp(agent: &Voice, revision: &str, session: Option<&str>, method: &str, params: Value) -> Said {
    let mut request = agent
        .request("POST", "/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", revision)
        .header("mcp-method", method);
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    Said::of(request.json(&message)).await.unwrap()
}

/// The proxy of `deploy/`, as it is but for names and addresses.
struct Proxy {
    child: Child,
    http: Client,
    url: String,
    folder: TempDir,
}

impl Proxy {
    fn start(street: &mut Street) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        // Its workers are another user's, if it is root that starts it.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let host = ISSUER.strip_prefix("https://").unwrap();
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        fs::write(folder.path().join("fullchain.pem"), made.cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let address = free_address();
        fs::write(
            folder.path().join("nginx.conf"),
            configuration(folder.path(), host, address, &street.places()),
        )
        .unwrap();
        let errors = fs::File::create(folder.path().join("error.log")).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        nginx.args(["-e", "stderr", "-g", "daemon off; pid nginx.pid;"]).stdin(Stdio::null()).stderr(errors);
        let mut proxy = Proxy {
            child: nginx.spawn().unwrap(),
            http: Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(60))
                .tls_certs_only([Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()])
                .resolve(host, address)
                .build()
                .unwrap(),
            url: format!("https://{host}:{}", address.port()),
            folder,
        };
        proxy.wait(address);
        proxy
    }

    fn wait(&mut self, address: SocketAddr) {
        for _ in 0..400 {
            if std::net::TcpStream::connect(address).is_ok() {
                return;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "nginx has ended: {}", self.errors());
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("nginx does not listen: {}", self.errors());
    }

    /// The same person, speaking to it.
    fn voice(&self, voice: &Voice) -> Voice {
        Voice { http: self.http.clone(), url: self.url.clone(), key: voice.key.clone() }
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    /// Which revision was spoken with whom.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // By its master, which ends the workers; killed, it would leave them.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, host: &str, address: SocketAddr, gateways: &[String]) -> String {
    let mut text = put(CONFIGURATION, "listen 443 ssl", &format!("listen {address} ssl"));
    text = put(&text, "countersign.example", host);
    text = put(&text, "/etc/nginx/tls", &folder.display().to_string());
    for (number, gateway) in (1..).zip(gateways) {
        // Looked up again and again they are only by a version that a distribution may not have yet.
        text = put(&text, &format!("gateway-{number}:8787 resolve"), gateway);
    }
    text = put(&text, "resolver 127.0.0.11 valid=2s ipv6=off;", "");
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places: String = places.map(|name| format!("{name}_temp_path {name};\n")).concat();
    let log = "log_format asked '$http_mcp_protocol_version $upstream_addr';\naccess_log access.log asked;\n";
    put(&text, "http {\n", &format!("http {{\n{places}{log}"))
}

/// The text with this instead of that, which is in it.
fn put(text: &str, that: &str, this: &str) -> String {
    assert!(text.contains(that), "`{that}` is not there");
    text.replace(that, this)
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Whether a program is missing, and says so then.
fn lacks(program: &str, asked: &str) -> bool {
    let there = Command::new(program).arg(asked).output().is_ok_and(|said| said.status.success());
    if !there {
        testkit::skip(&format!("no {program}"));
    }
    !there
}
