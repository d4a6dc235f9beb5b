//! The real binary, serving an installation nobody configured, and the receipts it makes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A gateway at work, with a sandbox anybody may use and an agent that is known in production.
pub(crate) struct Gateway {
    pub(crate) url: String,
    pub(crate) http: Client,
    agent_key: String,
    admin_key: String,
    child: Child,
    folder: TempDir,
}

impl Gateway {
    pub(crate) fn start() -> Gateway {
        Gateway::of(&[])
    }

    /// The same with files of an operator's: below `catalogue` and `policies`, and more configuration.
    pub(crate) fn of(files: &[(&str, &str)]) -> Gateway {
        Gateway::prepared(files, |_| {})
    }

    /// The same after something was done with the configuration.
    pub(crate) fn prepared(files: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut config = String::new();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        for kind in ["catalogue", "policy"] {
            let place = folder.path().join(if kind == "policy" { "policies" } else { kind });
            if place.is_dir() {
                config.push_str(&format!("{kind}_dir = '{}'\n", place.display()));
            }
        }
        let more = files.iter().find(|(name, _)| *name == "more.toml").map_or("", |(_, text)| text);
        let configuration = folder.path().join("countersign.toml");
        std::fs::write(&configuration, config + more).unwrap();
        prepare(&configuration);
        let made = |subject: &str, role: &str| {
            let create = ["api", "create", "--subject", subject, "--role", role].map(OsStr::new);
            said([OsStr::new("keys"), OsStr::new("--data-dir"), data.as_os_str()].iter().chain(&create))
        };
        let (agent_key, admin_key) = (made("agent-1", "agent"), made("admin-1", "admin"));
        let (child, url) = serve(folder.path(), "127.0.0.1:0");
        let http = Client::builder().no_proxy().build().unwrap();
        Gateway { url, http, agent_key, admin_key, child, folder }
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Serves the same data at the same address, after it ended.
    pub(crate) fn start_again(&mut self) {
        (self.child, _) = serve(self.folder.path(), self.url.trim_start_matches("http://"));
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A payment in the sandbox: an executed receipt with all nine entries.
    pub(crate) fn executed(&self, key: &str) -> Receipt {
        self.pay(self.http.post(format!("{}/api/sandbox/execute", self.url)), key)
    }

    /// The same, asked for by an agent that is known.
    pub(crate) fn executed_for_agent(&self, key: &str) -> Receipt {
        let request = self.http.post(format!("{}/api/sandbox/execute", self.url));
        self.pay(request.bearer_auth(&self.agent_key), key)
    }

    fn pay(&self, request: RequestBuilder, key: &str) -> Receipt {
        // Another amount each time, or it would be a duplicate.
        let amount = format!("1.{:02}", key.len());
        let constraints = json!({"recipient": "acct-1", "amount_usd": amount, "max_total_usd": amount});
        let body = json!({
            "archetype": "PAYMENT_TRANSFER", "constraints": constraints, "delegation_token": "tok-sandbox-public",
        });
        self.ask(request, key, &body)
    }

    /// What no agent may do, asked for in production: a receipt that says it was blocked.
    pub(crate) fn blocked(&self, key: &str) -> Receipt {
        let request = self.http.post(format!("{}/api/execute", self.url)).bearer_auth(&self.agent_key);
        self.ask(
            request,
            key,
            &json!({"archetype": "delete_audit_log", "constraints": {"before": "2026-01-01"}}),
        )
    }

    fn ask(&self, request: RequestBuilder, key: &str, body: &Value) -> Receipt {
        let request = request.header("EP-Version", "2026-04-27").header("Idempotency-Key", key);
        let answer =
            request.header("content-type", "application/json").body(body.to_string()).send().unwrap();
        let answer: Value = answer.json().unwrap();
        let url =
            answer["receipt_url_short"].as_str().unwrap_or_else(|| panic!("no receipt: {answer}")).to_owned();
        let document = self.get(&url, "application/json").text().unwrap();
        Receipt { url, document }
    }

    /// Puts another text in the place of a file and has it read.
    pub(crate) fn rewrite(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).unwrap();
        self.post(&self.admin_key, "/v1/reload", &json!({}));
    }

    /// The folder of the installation.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn admin_key(&self) -> &str {
        &self.admin_key
    }

    pub(crate) fn agent_key(&self) -> &str {
        &self.agent_key
    }

    /// An API key for somebody.
    pub(crate) fn key(&self, subject: &str, role: &str) -> String {
        let made = self.post(&self.admin_key, "/v1/keys", &json!({"subject": subject, "role": role}));
        made["secret"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// An API key for an agent, and with it a mandate for these actions.
    pub(crate) fn key_with_mandate(&self, agent: &str, scope: &str) -> String {
        let ask =
            json!({"subject": agent, "scope": [scope], "expires_in_seconds": 3600, "even_if_unknown": true});
        let mandate = self.post(&self.admin_key, "/v1/mandates", &ask);
        let ask = json!({"subject": agent, "role": "agent", "default_mandate": mandate["mandate"]["jti"]});
        let made = self.post(&self.admin_key, "/v1/keys", &ask);
        made["secret"].as_str().unwrap_or_else(|| panic!("{mandate} {made}")).to_owned()
    }

    /// What is answered to somebody who sends this.
    pub(crate) fn post(&self, key: &str, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(key);
        let request = request.header("content-type", "application/json").body(body.to_string());
        request.send().unwrap().json().unwrap()
    }

    /// What somebody is shown.
    pub(crate) fn read(&self, key: &str, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.url)).bearer_auth(key).send().unwrap().json().unwrap()
    }

    /// The production key set, as published.
    pub(crate) fn key_set(&self) -> String {
        self.get(&format!("{}/.well-known/jwks.json", self.url), "*/*").text().unwrap()
    }

    /// Signs with a new key from now on.
    pub(crate) fn rotate(&self) {
        self.said(&self.admin_key, ["keys", "rotate"]);
    }

    /// What the program printed to somebody who asks this gateway, which must succeed.
    pub(crate) fn said(&self, key: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let mut command = countersign();
        command.args(args).env("COUNTERSIGN_URL", &self.url).env("COUNTERSIGN_API_KEY", key);
        printed(command)
    }

    /// The sandbox's audit trail, as its administrator reads it.
    pub(crate) fn trail(&self, form: &str) -> String {
        let url = format!("{}/sandbox/v1/audit?order=oldest&format={form}", self.url);
        let asked = self.http.get(url).bearer_auth(&self.admin_key).send().unwrap();
        asked.error_for_status().unwrap().text().unwrap()
    }

    pub(crate) fn get(&self, url: &str, accept: &str) -> Response {
        self.http.get(url).header("accept", accept).send().unwrap().error_for_status().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A receipt at its public address.
pub(crate) struct Receipt {
    pub(crate) url: String,
    pub(crate) document: String,
}

impl Receipt {
    /// The document with one digit put before the latency of a stage's entry: one byte more, inside that entry.
    pub(crate) fn touched(&self, stage: &str) -> String {
        let place = self.document.find(&format!(r#""stage":"{stage}""#)).unwrap();
        let latency = self.document[..place].rfind(r#""latencyMs":"#).unwrap() + r#""latencyMs":"#.len();
        let mut touched = self.document.clone();
        touched.insert(latency, '1');
        touched
    }

    /// The stages of its entries.
    pub(crate) fn stages(&self) -> Vec<String> {
        let document: Value = serde_json::from_str(&self.document).unwrap();
        let entries = document["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["stage"].as_str().unwrap().to_owned()).collect()
    }
}

/// Receipts and key set of the demo, on disk.
pub(crate) struct Demo {
    folder: TempDir,
}

impl Demo {
    pub(crate) fn tell() -> Demo {
        let folder = tempfile::tempdir().unwrap();
        let demo = Demo { folder };
        said([OsStr::new("demo"), OsStr::new("--json"), OsStr::new("--dir"), demo.path("demo").as_os_str()]);
        demo
    }

    pub(crate) fn jwks(&self) -> PathBuf {
        self.path("demo/jwks.json")
    }

    /// The receipts as written, the executed payment first.
    pub(crate) fn receipts(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.path("demo/receipts")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The program at work in a folder, and where it listens.
fn serve(folder: &Path, listen: &str) -> (Child, String) {
    let mut command = countersign();
    command.args(["serve", "--until-stdin-closes", "--listen", listen, "--data-dir"]);
    command.arg(folder.join("data")).arg("--config").arg(folder.join("countersign.toml"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").expect("it says where it listens").to_owned();
    (child, url)
}

/// What the program printed, which must succeed.
pub(crate) fn said(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let mut command = countersign();
    command.args(args);
    printed(command)
}

fn printed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The program, with no configuration from outside.
pub(crate) fn countersign() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUNTERSIGN_") {
            command.env_remove(name);
        }
    }
    command
}
