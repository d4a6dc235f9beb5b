//! The gateway under measurement: `countersign serve` in production mode, with a fresh store and keys of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway::config::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::disk::Left;
use super::sample;
use crate::api;
use crate::child::{Server, this_program};
use crate::error::{Context, Error, Result};
use crate::keys;

/// Configuration, catalogue, policies and a store, in a folder that goes when this is dropped.
pub(crate) struct Site {
    folder: TempDir,
    agent_key: String,
    operator_key: String,
}

impl Site {
    /// Makes one under `parent`, on the disk that is measured.
    pub(crate) fn prepare(parent: &Path) -> Result<Site> {
        Site::with(parent, "", &[])
    }

    /// One that pays at a bank, too.
    pub(crate) fn before_bank(parent: &Path, bank: &str, token: &str) -> Result<Site> {
        let config = format!(
            "\n[secrets.bank]\nfile = 'bank-token'\nhosts = [\"{bank}\"]\n\n[egress]\nallow = [\"{bank}\"]\nplain_http = \
             [\"{bank}\"]\n"
        );
        let files = [("catalogue/default/bank.toml", sample::at_bank(bank)), (TOKEN, token.to_owned())];
        Site::with(parent, &config, &files)
    }

    /// One that pays somebody at `echo`, too.
    pub(crate) fn before_echo(parent: &Path, echo: &str) -> Result<Site> {
        let config = format!("\n[egress]\nallow = [\"{echo}\"]\nplain_http = [\"{echo}\"]\n");
        Site::with(parent, &config, &[("catalogue/default/http_payment.toml", sample::at_echo(echo))])
    }

    /// One whose store is elsewhere.
    pub(crate) fn on(parent: &Path, store: &Store) -> Result<Site> {
        let mut site = Site::make(parent, "", &[])?;
        let path = site.config();
        // What one of the gateways issued all of them know as their own.
        let more = format!("store = '{}'\npublic_url = 'https://gw.example'\n", store.url());
        let text = fs::read_to_string(&path).map(|text| more + &text);
        let written = text.and_then(|text| fs::write(&path, text));
        written.while_we(|| format!("cannot write `{}`", path.display()))?;
        site.first_keys()?;
        Ok(site)
    }

    /// One whose agents call a tool at `upstream`, as it says of itself that it is.
    pub(crate) fn before_tools(parent: &Path, upstream: &str, pinned: &str) -> Result<Site> {
        let config = format!(
            "\n[mcp.servers.{}]\nurl = 'http://{upstream}/mcp'\nconnections = 256\n\n[egress]\nallow = \
             [\"{upstream}\"]\nplain_http = [\"{upstream}\"]\n",
            sample::SHOP
        );
        let files = [
            ("catalogue/default/tool.toml", sample::tool(pinned)),
            ("policies/default/tool.cedar", sample::TOOL_POLICY.to_owned()),
        ];
        Site::with(parent, &config, &files)
    }

    fn with(parent: &Path, config: &str, more: &[(&'static str, String)]) -> Result<Site> {
        let mut site = Site::make(parent, config, more)?;
        site.first_keys()?;
        Ok(site)
    }

    fn make(parent: &Path, config: &str, more: &[(&'static str, String)]) -> Result<Site> {
        let folder = tempfile::Builder::new().prefix(".countersign-bench-").tempdir_in(parent);
        let folder = folder.while_we(|| format!("cannot make a folder in `{}`", parent.display()))?;
        let place =
            fs::canonicalize(folder.path()).while_we(|| "cannot find a folder just made".to_owned())?;
        let config = config.replace(TOKEN, &place.join(TOKEN).display().to_string());
        let files = [
            ("countersign.toml", configuration(&place) + &config),
            ("catalogue/default/payment.toml", sample::archetype(sample::PAYMENT, [0, 0])),
            ("catalogue/default/slow_payment.toml", sample::archetype(sample::SLOW_PAYMENT, [200, 2000])),
            ("catalogue/default/safe_payment.toml", sample::archetype(sample::SAFE_PAYMENT, [0, 0])),
            ("policies/default/bench.cedar", sample::POLICIES.to_owned()),
        ];
        for (name, text) in files.into_iter().chain(more.iter().cloned()) {
            let path = place.join(name);
            let written =
                fs::create_dir_all(path.parent().unwrap_or(&place)).and_then(|()| fs::write(&path, text));
            written.while_we(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(Site { folder, agent_key: String::new(), operator_key: String::new() })
    }

    fn first_keys(&mut self) -> Result<()> {
        let made =
            keys::bootstrap(&self.config(), &[(sample::AGENT, "agent"), ("bench-operator", "operator")])?;
        let made = <[String; 2]>::try_from(made).map_err(|_| Error::new("the keys were not made"))?;
        [self.agent_key, self.operator_key] = made;
        Ok(())
    }

    /// Starts the gateway; its log stays in the folder.
    pub(crate) fn serve(&self) -> Result<Gateway<'_>> {
        self.start(&[])
    }

    /// Starts one more on the same store, with the same keys and a data directory of its own.
    pub(crate) fn beside(&self, number: usize) -> Result<Gateway<'_>> {
        let data = self.folder.path().join(format!("{DATA}-{number}"));
        copy(&self.folder.path().join(DATA), &data).while_we(|| "cannot copy a data directory".to_owned())?;
        self.start(&["--data-dir".as_ref(), data.as_os_str()])
    }

    fn start(&self, more: &[&OsStr]) -> Result<Gateway<'_>> {
        let log = File::options().create(true).append(true).open(self.folder.path().join(LOG));
        let log = log.while_we(|| "cannot keep the gateway's log".to_owned())?;
        let mut command = this_program()?;
        command.args(["serve", "--until-stdin-closes", "--config"]).arg(self.config()).args(more).stderr(log);
        let server = Server::start("gateway", &mut command);
        let server = server.map_err(|error| error.maybe_hint(self.last_words()))?;
        Ok(Gateway { site: self, server })
    }

    /// What lies in the data directory.
    pub(crate) fn left(&self) -> Result<Left> {
        Left::of(&self.folder.path().join(DATA))
    }

    /// The production store, for when nothing runs on it.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join(DATA).join("production.db")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("countersign.toml")
    }

    fn last_words(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.path().join(LOG)).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n");
        (!last.is_empty()).then_some(last)
    }
}

/// When an agent says what it is about to do.
#[derive(Clone, Copy)]
pub(crate) enum Declared {
    /// Once for its whole session.
    Once,
    /// Before each cycle.
    EachTime,
}

/// One that runs.
pub(crate) struct Gateway<'a> {
    site: &'a Site,
    pub(crate) server: Server,
}

impl Gateway<'_> {
    /// Requests for the archetype under so many mandates, each to another recipient.
    pub(crate) fn requests(&self, archetype: &str, mandates: usize) -> Result<Vec<String>> {
        let client = self.operator()?;
        let host = self.server.address.to_string();
        let request = |number| {
            let token = granted(&client, &mandate("BenchPayments"))?;
            Ok(sample::request(&host, &self.site.agent_key, &sample::body(archetype, &token, number)))
        };
        (0..mandates).map(request).collect()
    }

    /// Mandates for the tool, a token each.
    pub(crate) fn mandates_for_tools(&self, count: usize) -> Result<Vec<String>> {
        let client = self.operator()?;
        (0..count).map(|_| granted(&client, &mandate("BenchTools"))).collect()
    }

    /// What is sent in each turn in so many governed sessions, each under another mandate: a cycle, on the one declaration
    /// that is made here or on one of its own, which is sent before it.
    pub(crate) fn cycles(
        &self,
        archetype: &str,
        sessions: usize,
        declared: Declared,
    ) -> Result<Vec<Vec<String>>> {
        let (operator, agent) = (self.operator()?, self.agent()?);
        let (host, key) = (self.server.address.to_string(), &self.site.agent_key);
        let turn = |number| {
            let token = granted(&operator, &mandate_with_time())?;
            let session = agent.post("/v1/sessions", &json!({ "delegation_token": token }))?;
            let id = session["session_id"].as_str();
            let id = id.ok_or_else(|| Error::new("the gateway opened no session"))?;
            let cycle = |intent: &str| {
                sample::cycle_request(&host, key, id, &sample::cycle(archetype, intent, number))
            };
            match declared {
                Declared::Once => {
                    let intent = "bench";
                    let declaration = sample::declaration(&session, intent);
                    agent.post(&format!("/v1/sessions/{id}/intents"), &declaration)?;
                    Ok(vec![cycle(intent)])
                }
                Declared::EachTime => {
                    let intent = format!("bench-{}", sample::SERIAL);
                    let declaration = sample::declaration_each(&session, &intent);
                    Ok(vec![sample::declaration_request(&host, key, id, &declaration), cycle(&intent)])
                }
            }
        };
        (0..sessions).map(turn).collect()
    }

    /// Mean microseconds of each step of an action since the gateway began, as its own metrics say.
    pub(crate) fn steps(&self) -> Result<BTreeMap<String, f64>> {
        self.metrics().map(|text| mean_steps(&text))
    }

    /// Actions that this process said were carried out.
    pub(crate) fn executed(&self) -> Result<u64> {
        self.metrics().map(|text| executed(&text))
    }

    fn metrics(&self) -> Result<String> {
        let cannot = || "cannot read the gateway's metrics".to_owned();
        let http = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
        let request = http
            .while_we(cannot)?
            .get(format!("{}/metrics", self.url()))
            .bearer_auth(&self.site.operator_key);
        request.send().and_then(reqwest::blocking::Response::text).while_we(cannot)
    }

    /// A client with the operator's key.
    pub(crate) fn operator(&self) -> Result<api::Client> {
        api::Client::new(&self.url(), Some(&self.site.operator_key))
    }

    fn agent(&self) -> Result<api::Client> {
        api::Client::new(&self.url(), Some(&self.site.agent_key))
    }

    pub(crate) fn agent_key(&self) -> &str {
        &self.site.agent_key
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let from = entry?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() { copy(&from, &to)? } else { fs::copy(&from, &to).map(drop)? }
    }
    Ok(())
}

fn configuration(place: &Path) -> String {
    format!(
        "listen = '127.0.0.1:0'\ndata_dir = '{0}/{DATA}'\ncatalogue_dir = '{0}/catalogue'\n\
         policy_dir = '{0}/policies'\n\n[sandbox]\nenabled = false\n",
        place.display()
    )
}

fn mandate(scope: &str) -> Value {
    json!({
        "subject": sample::AGENT,
        "scope": [scope],
        "spend_cap": {"amount": "1000000000.00", "currency": "USD"},
        "max_actions": 1_000_000_000,
        "expires_in_seconds": 86_400,
    })
}

/// The same with a time budget: each cycle takes a second of it at least, and none of these is to find it used up.
fn mandate_with_time() -> Value {
    let mut mandate = mandate("BenchPayments");
    mandate["resource_envelope"] = json!({ "max_duration_seconds": 1_000_000_000 });
    mandate
}

/// The token of a new mandate.
fn granted(operator: &api::Client, mandate: &Value) -> Result<String> {
    let granted = operator.post("/v1/mandates", mandate)?;
    let token = granted["token"].as_str().map(str::to_owned);
    token.ok_or_else(|| Error::new("the gateway granted no mandate"))
}

/// Sum over count of every `…_step_seconds` of a Prometheus text.
fn mean_steps(text: &str) -> BTreeMap<String, f64> {
    let read = |ending: &str| -> BTreeMap<String, f64> {
        let lines = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let labels = name.strip_prefix("countersign_step_seconds")?.strip_prefix(ending)?;
            let (_, step) = labels.split_once("step=\"")?;
            Some((step.split('"').next()?.to_owned(), value.parse().ok()?))
        });
        lines.collect()
    };
    let counts = read("_count");
    let mean = |(step, sum): (String, f64)| {
        let count = *counts.get(&step)?;
        (count > 0.0).then_some((step, sum * 1e6 / count))
    };
    read("_sum").into_iter().filter_map(mean).collect()
}

/// The counter of actions that were carried out.
fn executed(text: &str) -> u64 {
    let ours =
        |line: &&str| line.starts_with("countersign_actions_total{") && line.contains("kind=\"executed\"");
    let line = text.lines().find(ours).and_then(|line| line.rsplit_once(' '));
    line.and_then(|(_, count)| count.parse().ok()).unwrap_or_default()
}

const TOKEN: &str = "bank-token";
const DATA: &str = "data";
const LOG: &str = "gateway.log";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_out_is_read_from_the_metrics() {
        let text = "countersign_actions_total{environment=\"production\",kind=\"failed\"} 3\n\
            countersign_actions_total{environment=\"production\",kind=\"executed\"} 17\n";
        assert_eq!((executed(text), executed("")), (17, 0));
    }

    #[test]
    fn steps_are_read_from_the_metrics() {
        let text = "# TYPE countersign_step_seconds histogram\n\
            countersign_step_seconds_sum{environment=\"production\",step=\"decide\"} 0.5\n\
            countersign_step_seconds_count{environment=\"production\",step=\"decide\"} 10000\n\
            countersign_step_seconds_bucket{le=\"0.1\",environment=\"production\",step=\"decide\"} 9\n\
            countersign_step_seconds_sum{environment=\"production\",step=\"act\"} 0.0\n\
            countersign_step_seconds_count{environment=\"production\",step=\"act\"} 0\n";
        assert_eq!(mean_steps(text), BTreeMap::from([("decide".to_owned(), 50.0)]));
    }
}
