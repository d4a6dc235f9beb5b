//! The demo's world: a bank, a gateway in front of it, and those who speak to them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::TOKEN_VARIABLE;
use super::process::{Process, this_program};
use crate::error::{Context, Error, Result};
use crate::keys;

/// Everything that runs while the story is told.
pub(super) struct World {
    // Fields are dropped in this order: first who acts, then who is acted on, then where they kept things.
    gateway: Process,
    bank: Process,
    folder: TempDir,
    http: Client,
    token: String,
    agent_key: String,
    operator_key: String,
    admin_key: String,
    mandate: String,
}

/// What the gateway answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) replayed: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) body: Value,
}

impl World {
    /// Starts the bank, makes keys, starts the gateway, grants the mandate.
    pub(super) fn begin() -> Result<World> {
        let folder = tempfile::Builder::new().prefix("countersign-demo-").tempdir();
        let folder = folder.while_we(|| "cannot make a temporary folder".to_owned())?;
        let token = [Uuid::now_v7(), Uuid::now_v7()].map(|part| part.simple().to_string()).concat();
        let mut command = this_program()?;
        command.arg("demo-bank").env(TOKEN_VARIABLE, &token);
        let bank = Process::start("bank", &mut command, &folder.path().join("bank.log"))?;

        let config = write_configuration(folder.path(), &bank.url)?;
        let who = [("demo-agent", "agent"), ("demo-operator", "operator"), ("demo-admin", "admin")];
        let made = <[String; 3]>::try_from(keys::bootstrap(&config, &who)?);
        let [agent_key, operator_key, admin_key] = made.map_err(|_| Error::new("the keys were not made"))?;

        let mut command = this_program()?;
        command.args(["serve", "--until-stdin-closes", "--config"]).arg(&config).env(TOKEN_VARIABLE, &token);
        let gateway = Process::start("gateway", &mut command, &folder.path().join("gateway.log"))?;
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
        let http = http.while_we(|| "cannot start an HTTP client".to_owned())?;
        let mandate = String::new();
        let mut world =
            World { gateway, bank, folder, http, token, agent_key, operator_key, admin_key, mandate };
        world.mandate = world.grant()?;
        Ok(world)
    }

    /// Everything stops; nothing but what was kept elsewhere remains.
    pub(super) fn end(self) {
        drop(self);
    }

    pub(super) fn gateway_process(&self) -> &Process {
        &self.gateway
    }

    pub(super) fn bank_process(&self) -> &Process {
        &self.bank
    }

    /// The agent asks for an action under an idempotency key.
    pub(super) fn ask(&self, key: &str, archetype: &str, constraints: &Value) -> Result<Answer> {
        let body =
            json!({"archetype": archetype, "constraints": constraints, "delegation_token": self.mandate});
        let request = self
            .http
            .post(format!("{}/api/execute", self.gateway.url))
            .bearer_auth(&self.agent_key)
            .header("EP-Version", "2026-04-27")
            .header("Idempotency-Key", key);
        send(request, Some(&body))
    }

    /// The admin freezes everything of every tenant.
    pub(super) fn freeze(&self) -> Result<()> {
        self.change(&self.admin_key, "/v1/freeze", &json!({"scope": "all", "reason": "demo"})).map(drop)
    }

    /// … and lets it go on.
    pub(super) fn thaw(&self) -> Result<()> {
        self.change(&self.admin_key, "/v1/thaw", &json!({"scope": "all"})).map(drop)
    }

    /// A document of the gateway, as it came.
    pub(super) fn document(&self, path: &str) -> Result<Vec<u8>> {
        let request = self.http.get(format!("{}{path}", self.gateway.url)).bearer_auth(&self.agent_key);
        let answer = send(request, None)?;
        let bytes = answer.bytes.clone();
        good(path, answer)?;
        Ok(bytes)
    }

    /// What the bank says is in an account, in whole cents.
    pub(super) fn balance(&self, account: &str) -> Result<i64> {
        let answer = self.ask_bank(&format!("/v1/accounts/{account}"))?;
        if answer.status == 404 { Ok(0) } else { Ok(answer.body["balance_minor"].as_i64().unwrap_or(-1)) }
    }

    /// How many payments the bank has made in all.
    pub(super) fn payments(&self) -> Result<i64> {
        Ok(self.ask_bank("/v1/effects")?.body["count"].as_i64().unwrap_or(-1))
    }

    fn ask_bank(&self, path: &str) -> Result<Answer> {
        send(self.http.get(format!("{}{path}", self.bank.url)).bearer_auth(&self.token), None)
    }

    fn grant(&self) -> Result<String> {
        let mandate = json!({
            "subject": "demo-agent",
            "scope": ["PAYMENT_TRANSFER"],
            "spend_cap": {"amount": "500.00", "currency": "USD"},
            "expires_in_seconds": 3600,
        });
        let answer = self.change(&self.operator_key, "/v1/mandates", &mandate)?;
        let token = answer["token"].as_str().ok_or_else(|| Error::new("the gateway granted no mandate"))?;
        Ok(token.to_owned())
    }

    /// Someone changes something at the gateway; anything but a good answer ends the demo.
    fn change(&self, key: &str, path: &str, body: &Value) -> Result<Value> {
        let request = self.http.post(format!("{}{path}", self.gateway.url)).bearer_auth(key);
        good(path, send(request, Some(body))?)
    }

    /// What the gateway logged, for when it does not do what it should.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("gateway.log")).unwrap_or_default()
    }
}

fn send(request: RequestBuilder, body: Option<&Value>) -> Result<Answer> {
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(body.to_string()),
        None => request,
    };
    let response =
        request.send().map_err(|error| Error::new("the demo's own process did not answer").because(error))?;
    let status = response.status().as_u16();
    let replayed = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
    let bytes = response.bytes().while_we(|| "an answer broke off".to_owned())?.to_vec();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(Answer { status, replayed, bytes, body })
}

fn good(path: &str, answer: Answer) -> Result<Value> {
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    let said = crate::out::shown(&String::from_utf8_lossy(&answer.bytes));
    Err(Error::new(format!("the gateway answered {} to {path}", answer.status)).hint(said))
}

/// The folder of an installation as an operator would write it.
fn write_configuration(folder: &Path, bank_url: &str) -> Result<std::path::PathBuf> {
    let bank = bank_url.trim_start_matches("http://");
    let config = folder.join("countersign.toml");
    let text = format!(
        r#"listen = "127.0.0.1:0"
data_dir = '{0}/data'
catalogue_dir = '{0}/catalogue'
policy_dir = '{0}/policies'

[secrets.bank]
env = "{TOKEN_VARIABLE}"
hosts = ["{bank}"]

[egress]
allow = ["{bank}"]
plain_http = ["{bank}"]

[sandbox]
enabled = false
"#,
        folder.display()
    );
    let catalogue = include_str!("payment_transfer.toml").replace("BANK", bank);
    let files = [
        (config.clone(), text),
        (folder.join("catalogue/default/PAYMENT_TRANSFER.toml"), catalogue),
        (folder.join("policies/default/payments.cedar"), include_str!("policy.cedar").to_owned()),
    ];
    for (path, text) in files {
        let parent = path.parent().unwrap_or(folder);
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, text));
        written.while_we(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(config)
}
