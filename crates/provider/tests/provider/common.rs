//! An archetype, a call, and a server that does exactly what a test tells it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use action::{ActionId, Archetype, Catalogue, Currency, Environment, Money, Source, Tenant};
use execution::{Call, Reply};
use provider::egress::{Egress, Lookup, Lookups, Rules};
use provider::secrets::{self, Secrets};
use provider::{Mistake, Outside, Provider};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An archetype with one member of each kind, and this binding.
pub(crate) fn archetype(binding: &str) -> Arc<Archetype> {
    load(&format!("{HEAD}{MONEY}{SCHEMA}{binding}"))
}

/// The same without money.
pub(crate) fn moneyless(binding: &str) -> Arc<Archetype> {
    load(&format!("{HEAD}{SCHEMA}{binding}"))
}

/// This binding of an archetype that can be undone, for as long as `window` says.
pub(crate) fn with_window(window: &str, binding: &str) -> Result<Arc<dyn Provider>, Vec<Mistake>> {
    let head = HEAD.replace("reversible = false", &format!("reversible = true\n{window}"));
    let archetype = load(&format!("{head}{MONEY}{SCHEMA}{binding}"));
    provider::compile(&archetype, Outside { egress: &open_to(&[]), secrets: &no_secrets() })
}

fn load(text: &str) -> Arc<Archetype> {
    let source = Source { name: "pay.toml".to_owned(), text: text.to_owned() };
    let catalogue = Catalogue::load(false, &[source]).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    Arc::clone(catalogue.get("PAY").unwrap())
}

const HEAD: &str = r#"
name = "PAY"
description = "Pay somebody"
reversible = false
guarantee_level = "atp-1"
identity = ["/recipient"]

[cedar]
groups = ["Payments"]
resource_type = "Account"
"#;

const MONEY: &str = r#"
[money]
amount = "/amount"
currency = "USD"
"#;

const SCHEMA: &str = r#"
[schema]
required = ["recipient", "amount"]
[schema.properties.recipient]
type = "string"
[schema.properties.amount]
type = "string"
[schema.properties.note]
type = "string"
[schema.properties.count]
type = "integer"
[schema.properties.urgent]
type = "boolean"
[schema.properties.anything]
x-opaque = true
[schema.properties.payee]
type = "object"
required = ["iban"]
[schema.properties.payee.properties.iban]
type = "string"
[schema.properties.payee.properties.bank]
type = "string"
"#;

/// A binding to a place, with an `act` that sends the recipient.
pub(crate) fn binding(base: &str) -> String {
    format!(
        r#"
[binding]
provider = "http"
base = "{base}"
timeout_ms = 2000
most_bytes = 4096
capabilities = {{ queryable = {{ by_our_reference = true, final_after_seconds = 30 }} }}
[binding.act]
path = "/payments"
body = {{ to = {{ "$value" = "/recipient" }}, reference = {{ "$action" = "reference" }} }}
success = {{ status = [201] }}
refused = [{{ status = [402] }}, {{ status = [201], pointer = "/status", equals = ["declined"] }}]
reference = "/id"
code = "/code"
[binding.query]
path = "/payments"
params = {{ reference = {{ "$action" = "reference" }} }}
found = {{ status = [200], pointer = "/payments/0" }}
absent = {{ status = [200], pointer = "/payments/0", exists = false }}
refused = {{ status = [200], pointer = "/payments/0/status", equals = ["declined"] }}
reference = "/payments/0/id"
"#
    )
}

/// When calls begin.
pub(crate) const NOW_MS: i64 = 1_760_000_000_000;

/// A call of that archetype with these constraints.
pub(crate) fn call(archetype: &Arc<Archetype>, constraints: Value) -> Call {
    let action_id = ActionId::new(1_760_000_000_000, *b"0123456789");
    Call {
        action_id,
        tenant: Tenant::default(),
        environment: Environment::Production,
        archetype: Arc::clone(archetype),
        constraints,
        money: Money::new(1250, usd()),
        attempt: 1,
        provider_key: "5ec".repeat(21) + "5",
        reference: format!("{action_id}-1"),
        send_by_ms: 1_760_000_010_000,
        purpose: execution::Purpose::Act,
    }
}

pub(crate) fn usd() -> Currency {
    Currency::of("USD").unwrap()
}

pub(crate) fn to(recipient: &str) -> Value {
    json!({ "recipient": recipient, "amount": "12.50" })
}

/// A way out that may reach `host:port` without TLS although it is not public.
pub(crate) fn open_to(places: &[String]) -> Egress {
    Egress::new(Rules::parse(places, places).unwrap())
}

/// No secrets at all.
pub(crate) fn no_secrets() -> Secrets {
    Secrets::default()
}

/// One secret whose value is in a file, as the operator would declare it.
pub(crate) fn secret(name: &str, value: &str, hosts: &[&str]) -> Result<Secrets, Vec<secrets::Error>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, value.as_bytes()).unwrap();
    Secrets::load([secrets::Declared {
        name: name.to_owned(),
        kind: secrets::Kind::Static(secrets::Source::File(file.path().to_owned())),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    }])
}

/// The mistakes of a binding that must have some.
pub(crate) fn mistakes(binding: &str) -> Vec<Mistake> {
    compile(binding, &open_to(&[])).expect_err("the binding has no mistake")
}

/// Compiles a binding with no secrets.
pub(crate) fn compile(binding: &str, egress: &Egress) -> Result<Arc<dyn Provider>, Vec<Mistake>> {
    provider::compile(&archetype(binding), Outside { egress, secrets: &no_secrets() })
}

/// An archetype and its provider.
pub(crate) type Bound = (Arc<Archetype>, Arc<dyn Provider>);

/// A provider and the server that it talks to.
pub(crate) struct Pair {
    pub(crate) server: Server,
    pub(crate) archetype: Arc<Archetype>,
    pub(crate) provider: Arc<dyn Provider>,
}

impl Pair {
    /// `binding` gets the base URL of the server, which answers with `script`.
    pub(crate) async fn new(binding: impl Fn(&str) -> String, script: impl Script) -> Pair {
        let server = Server::start(script).await;
        let archetype = archetype(&binding(&server.url()));
        let egress = open_to(&[server.address.to_string()]);
        let outside = Outside { egress: &egress, secrets: &no_secrets() };
        let provider =
            provider::compile(&archetype, outside).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        Pair { server, archetype, provider }
    }

    /// The usual binding against one kind of answer.
    pub(crate) async fn answering(act: Act) -> Pair {
        Pair::new(binding, move |_: &Seen| act.clone()).await
    }

    pub(crate) async fn call(&self, constraints: Value) -> Reply {
        self.provider.call(&call(&self.archetype, constraints), NOW_MS).await
    }
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Writes these bytes and waits for the next request.
    Say(Vec<u8>),
    /// Writes these bytes, and once more before anything else that is said on this connection.
    SayTwice(Vec<u8>),
    /// Writes these bytes and closes.
    SayAndClose(Vec<u8>),
    /// Writes these bytes and resets the connection.
    SayAndReset(Vec<u8>),
    /// Never answers.
    Hang,
    /// Writes these bytes, one per pause.
    Drip(Vec<u8>, Duration),
}

pub(crate) trait Script: Fn(&Seen) -> Act + Send + Sync + 'static {}
impl<F: Fn(&Seen) -> Act + Send + Sync + 'static> Script for F {}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    pub(crate) async fn start(script: impl Script) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let server = Server { address, seen: Arc::clone(&seen), connections: Arc::clone(&connections) };
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock().unwrap() += 1;
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<impl Script>, log: Arc<Mutex<Vec<Seen>>>) {
    let mut again = Vec::new();
    while let Some(seen) = read_request(&mut stream).await {
        let act = script(&seen);
        stream.write_all(&std::mem::take(&mut again)).await.unwrap();
        log.lock().unwrap().push(seen);
        match act {
            Act::Say(bytes) => stream.write_all(&bytes).await.unwrap(),
            Act::SayTwice(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                again = bytes;
            }
            Act::SayAndClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Act::SayAndReset(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.set_zero_linger().unwrap();
                return;
            }
            Act::Hang => tokio::time::sleep(Duration::from_secs(60)).await,
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut seen = Seen { line, headers: lines.filter_map(split).collect(), body: bytes[end..].to_vec() };
    let length = seen.header("content-length").map_or(0, |text| text.parse().unwrap());
    while seen.body.len() < length {
        if stream.read_buf(&mut seen.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(seen)
}

/// A complete answer.
pub(crate) fn answer(status: u16, body: &str) -> Vec<u8> {
    with_headers(status, "", body.as_bytes())
}

/// A complete answer with more headers, each ended by a line break.
pub(crate) fn with_headers(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} Said\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Answers each look-up with the next set of addresses; the last one stays.
pub(crate) struct Changing(Mutex<Vec<Vec<IpAddr>>>);

impl Changing {
    pub(crate) fn new(answers: &[&[&str]]) -> Arc<Changing> {
        let parse = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Changing(Mutex::new(answers.iter().rev().map(parse).collect())))
    }
}

impl Lookup for Changing {
    fn lookup(&self, _name: &str) -> Lookups {
        let mut answers = self.0.lock().unwrap();
        let now = if answers.len() > 1 { answers.pop().unwrap() } else { answers[0].clone() };
        Box::pin(async move { Ok(now) })
    }
}
