//! A house to torture: folder, bank, gateway process, keys, mandates. The bank lives in the test and outlives every
//! gateway.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ledger::{Options, Sqlite};
use receipt::{Jwks, Pin, Trust, Verdict};
use reqwest::header::HeaderMap;
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::bank::{self, Bank};

/// The name under which callers know the gateway, whatever port it gets: mandates and receipts outlive a restart.
pub(crate) const ISSUER: &str = "https://gw.example";
pub(crate) const VERSION: &str = "2026-04-27";
/// What the bank wants to see. Long and odd, so that it is found wherever it leaks to.
pub(crate) const BANK_TOKEN: &str = "bank-token-6d1f0c7e9ab24455";
pub(crate) const TENANTS: [&str; 2] = ["default", "other"];
pub(crate) const ROLES: [&str; 5] = ["agent", "approver", "operator", "auditor", "admin"];

/// How a house is to be built.
#[derive(Default)]
pub(crate) struct Plan {
    /// More configuration, TOML.
    pub(crate) config: String,
    /// More of it that belongs in no table.
    pub(crate) settings: &'static str,
    /// More files of the catalogue of every tenant: name and text.
    pub(crate) catalogue: Vec<(&'static str, String)>,
    /// More files of its folder: path and text.
    pub(crate) files: Vec<(String, String)>,
    /// `COUNTERSIGN_LOG`.
    pub(crate) log: Option<&'static str>,
    /// What the bank is opened with; its token is ours in any case.
    pub(crate) bank: Option<bank::Options>,
    /// `host:port` beside the bank that may be called, in the clear.
    pub(crate) reach: Vec<String>,
    /// Where to listen, instead of at a port of the system's choosing.
    pub(crate) listen: Option<SocketAddr>,
    /// What the clients trust, for a house with TLS.
    pub(crate) root: Option<Certificate>,
    /// Where the store is, if it is not a file of the house.
    pub(crate) store: Option<String>,
}

pub(crate) struct House {
    pub(crate) gateway: Process,
    pub(crate) bank: Bank,
    pub(crate) http: Client,
    keys: HashMap<(&'static str, String), String>,
    mandates: HashMap<&'static str, String>,
    plan: Plan,
    folder: TempDir,
}

impl House {
    pub(crate) async fn new() -> House {
        House::with(Plan::default()).await
    }

    /// Builds it: folder, bank, one admin key for each tenant by the command line, the rest over HTTP.
    pub(crate) async fn with(plan: Plan) -> House {
        let folder = tempfile::tempdir().unwrap();
        let options = plan.bank.clone().unwrap_or_default();
        let bank = Bank::start(bank::Options { token: BANK_TOKEN.to_owned(), ..options }).await.unwrap();
        write_files(folder.path(), &plan, &bank.address().to_string());
        let mut keys = HashMap::new();
        for tenant in TENANTS {
            keys.insert((tenant, "admin".to_owned()), first_key(folder.path(), tenant));
        }
        let gateway = Process::start(serve(folder.path(), &plan), &folder.path().join("gateway.log"));
        let http = client(&plan).build().unwrap();
        let mut house = House { gateway, bank, http, keys, mandates: HashMap::new(), plan, folder };
        for tenant in TENANTS {
            for (subject, role) in ["agent", "rival", "approver", "operator", "auditor"]
                .map(|name| (name, if name == "rival" { "agent" } else { name }))
            {
                let body = json!({"subject": format!("{tenant}-{subject}"), "role": role});
                let made = house.voice(tenant, "admin").post("/v1/keys", &body).await;
                assert_eq!(made.status, 201, "{}", made.text());
                let secret = made.body["secret"].as_str().unwrap().to_owned();
                house.keys.insert((tenant, subject.to_owned()), secret);
            }
            let token = house.mandate(tenant, "90000.00").await;
            house.mandates.insert(tenant, token);
        }
        house
    }

    /// Someone of a tenant: a role, or `rival`, another agent.
    pub(crate) fn voice(&self, tenant: &'static str, who: &str) -> Voice {
        let key = self
            .keys
            .get(&(tenant, who.to_owned()))
            .unwrap_or_else(|| panic!("no {who} of {tenant}"))
            .clone();
        Voice { http: self.http.clone(), url: self.gateway.url.clone(), key: Some(key) }
    }

    pub(crate) fn nobody(&self) -> Voice {
        Voice { key: None, ..self.voice("default", "admin") }
    }

    pub(crate) fn agent(&self) -> Voice {
        self.voice("default", "agent")
    }

    pub(crate) fn admin(&self) -> Voice {
        self.voice("default", "admin")
    }

    /// Every API key there is.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.keys.values().cloned().collect()
    }

    /// A mandate for the tenant's agent.
    pub(crate) async fn mandate(&self, tenant: &'static str, cap: &str) -> String {
        let body = json!({
            "subject": format!("{tenant}-agent"), "scope": ["Payments"], "expires_in_seconds": 3600,
            "spend_cap": {"amount": cap, "currency": "USD"},
        });
        let issued = self.voice(tenant, "operator").post("/v1/mandates", &body).await;
        assert_eq!(issued.status, 201, "{}", issued.text());
        issued.body["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn token(&self, tenant: &str) -> &str {
        &self.mandates[tenant]
    }

    /// A payment under the mandate of the first tenant's agent.
    pub(crate) fn payment(&self, recipient: &str, amount: &str) -> Value {
        payment(recipient, amount, self.token("default"))
    }

    /// Starts it again after it was stopped or killed.
    pub(crate) fn start(&mut self) {
        self.start_by(serve(self.folder.path(), &self.plan));
    }

    /// The command that serves this house, for those who wrap it.
    pub(crate) fn serve(&self) -> Command {
        serve(self.folder.path(), &self.plan)
    }

    pub(crate) fn start_by(&mut self, command: Command) {
        self.gateway = Process::start(command, &self.folder.path().join("gateway.log"));
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Everything the gateways said on stderr so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("gateway.log")).unwrap()).into_owned()
    }

    /// Waits until one of them says this.
    pub(crate) async fn until_logged(&self, words: &str) {
        for _ in 0..200 {
            if self.log().contains(words) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("nothing says `{words}`: {}", self.log());
    }

    pub(crate) async fn jwks(&self) -> Jwks {
        let jwks = self.nobody().get("/.well-known/jwks.json").await;
        Jwks::parse(&jwks.bytes).unwrap()
    }

    /// The store of production, opened when no gateway holds it.
    pub(crate) async fn store(&self) -> Sqlite {
        let file = self.folder.path().join("data/production.db");
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let options = Options::new(&uuid::Uuid::now_v7().to_string(), now_ms);
        tokio::task::spawn_blocking(move || Sqlite::open(&file, options)).await.unwrap().unwrap()
    }
}

/// A client that is shown where it is sent on to, as a test of that wants.
pub(crate) fn client_without_redirects() -> Client {
    client(&Plan::default()).redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// A client that reaches a house of this plan.
pub(crate) fn client(plan: &Plan) -> ClientBuilder {
    let builder = Client::builder().no_proxy().timeout(Duration::from_secs(60));
    match &plan.root {
        Some(root) => builder.tls_certs_only([root.clone()]),
        None => builder,
    }
}

/// Says whether a receipt verifies, as a stranger would.
pub(crate) fn verdict(document: &[u8], jwks: &Jwks) -> Verdict {
    receipt::verify(document, &Trust::new(&Pin::new(ISSUER, jwks), jwks)).verdict
}

pub(crate) fn payment(recipient: &str, amount: &str, token: &str) -> Value {
    json!({
        "archetype": "PAYMENT_TRANSFER",
        "constraints": {"recipient": recipient, "amount_usd": amount, "max_total_usd": amount},
        "delegation_token": token,
    })
}

/// Someone who speaks to the gateway.
#[derive(Clone)]
pub(crate) struct Voice {
    pub(crate) http: Client,
    pub(crate) url: String,
    pub(crate) key: Option<String>,
}

impl Voice {
    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Said {
        Said::of(self.request("GET", path)).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Said {
        Said::of(self.request("POST", path).json(body)).await.unwrap()
    }

    /// One action in production; an error when the connection broke.
    pub(crate) async fn try_execute(&self, key: &str, body: &Value) -> reqwest::Result<Said> {
        Said::of(self.ask(key).json(body)).await
    }

    pub(crate) async fn execute(&self, key: &str, body: &Value) -> Said {
        self.try_execute(key, body).await.unwrap()
    }

    /// The same until the answer is no longer "still under way".
    pub(crate) async fn insist(&self, key: &str, body: &Value) -> Said {
        loop {
            let said = self.execute(key, body).await;
            if said.code() != "EP_IDEMPOTENCY_IN_FLIGHT" {
                return said;
            }
            assert!(said.headers.contains_key("retry-after"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The same until it is told: a provider's "I have none" is its last word only a second after a recovery.
    pub(crate) async fn insist_after_recovery(&self, key: &str, body: &Value) -> Said {
        loop {
            let said = self.insist(key, body).await;
            if said.code() != "EP_UNAVAILABLE" {
                return said;
            }
            assert_eq!((said.status, said.headers.contains_key("retry-after")), (503, true));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A request to execute, with what production wants to see and no body yet.
    pub(crate) fn ask(&self, key: &str) -> RequestBuilder {
        let request = self.request("POST", "/api/execute");
        request
            .header("ep-version", VERSION)
            .header("idempotency-key", key)
            .header("content-type", "application/json")
    }
}

/// An answer, read.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
    /// Null when it is not JSON.
    pub(crate) body: Value,
}

impl Said {
    pub(crate) async fn of(request: RequestBuilder) -> reqwest::Result<Said> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?.to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Said { status, headers, bytes, body })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn kind(&self) -> &str {
        self.body["kind"].as_str().unwrap_or_default()
    }

    /// The code, in whichever shape.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().or(self.body["error"]["code"].as_str()).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &str {
        self.body["transaction_id"].as_str().unwrap_or_default()
    }

    pub(crate) fn replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }
}

/// A gateway at work.
pub(crate) struct Process {
    child: Child,
    pub(crate) url: String,
}

impl Process {
    /// Starts it and waits for its one line; what it says on stderr is appended to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Process {
        let stderr = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut line = Vec::new();
        // Byte by byte: a reader with a buffer would swallow what is not part of the line.
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            if stdout.read(&mut byte).unwrap() == 0 {
                panic!("it does not listen: {}", fs::read_to_string(log).unwrap_or_default());
            }
            line.push(byte[0]);
        }
        child.stdout = Some(stdout);
        let line = String::from_utf8(line).unwrap();
        let url = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("it says `{line}`"))
            .to_owned();
        Process { child, url }
    }

    /// `kill -9`, and nothing of it is left afterwards.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as a service manager would.
    pub(crate) fn stop(&mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().unwrap().success(), "it ends in good order");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real binary, with no configuration from outside.
pub(crate) fn countersign() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUNTERSIGN_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").env("TEST_BANK_TOKEN", BANK_TOKEN);
    command
}

fn serve(folder: &Path, plan: &Plan) -> Command {
    let mut command = countersign();
    command.args(["serve", "--config"]).arg(folder.join("countersign.toml"));
    if let Some(log) = plan.log {
        command.env("COUNTERSIGN_LOG", log);
    }
    command
}

fn first_key(folder: &Path, tenant: &str) -> String {
    let subject = format!("{tenant}-admin");
    let mut command = countersign();
    command.args([
        "keys",
        "api",
        "create",
        "--subject",
        &subject,
        "--role",
        "admin",
        "--tenant",
        tenant,
        "--config",
    ]);
    let made = command.arg(folder.join("countersign.toml")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// The folder of an installation as an operator would write it.
fn write_files(folder: &Path, plan: &Plan, bank: &str) {
    let shown = folder.display();
    let listen = plan.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let reach = std::iter::once(bank).chain(plan.reach.iter().map(String::as_str));
    let reach = reach.map(|place| format!("\"{place}\"")).collect::<Vec<_>>().join(", ");
    let store = plan.store.as_ref().map(|url| format!("store = '{url}'\n")).unwrap_or_default();
    let config = format!(
        r#"{store}listen = "{listen}"
public_url = "{ISSUER}"
data_dir = '{shown}/data'
catalogue_dir = '{shown}/catalogue'
policy_dir = '{shown}/policies'
tenants = ["default", "other"]
{}
[secrets.bank]
env = "TEST_BANK_TOKEN"
hosts = [{reach}]

[egress]
allow = [{reach}]
plain_http = [{reach}]
challenge_hosts = ["pay.bank.example"]

{}{}
"#,
        plan.settings,
        plan.config,
        // Named by a public address, it serves the sandbox to those near by only if it is told to.
        if plan.config.contains("[sandbox]") { "" } else { "\n[sandbox]\npublic = true\n" },
    );
    let mut files: Vec<(PathBuf, String)> = vec![("countersign.toml".into(), config)];
    for tenant in TENANTS {
        let catalogue = Path::new("catalogue").join(tenant);
        files.push((
            catalogue.join("payment.toml"),
            include_str!("payment_transfer.toml").replace("BANK", bank),
        ));
        let more =
            plan.catalogue.iter().map(|(name, text)| (catalogue.join(name), text.replace("BANK", bank)));
        files.extend(more);
        files.push((Path::new("policies").join(tenant).join("all.cedar"), POLICY.to_owned()));
    }
    files.extend(plan.files.iter().map(|(path, text)| (path.into(), text.clone())));
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

const POLICY: &str = r#"@id("payments")
permit (principal, action in Action::"Payments", resource);
"#;
