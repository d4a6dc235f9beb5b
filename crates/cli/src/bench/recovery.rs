//! Recovery: a gateway dies with many actions in flight, and its next life settles them. How long does that take, and how
//! much of it is the provider's?
//!
//! The provider is the demo's bank, a process of its own: it pays at once and keeps its answers to itself, so everything is
//! in flight when the gateway is killed, and every question after it has an answer. The same questions are then put to the
//! bank directly, as many at once as a gateway asks: that is the provider's share.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use serde::Serialize;
use serde_json::{Value, json};

use super::load::{self, Plan, Until};
use super::process::Usage;
use super::sample::{self, SERIAL};
use super::served::{Gateway, Site};
use super::tell;
use crate::child::{Server, end, this_program};
use crate::error::{Context, Error, Result};

/// What was measured of a recovery.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Recovery {
    pub(crate) actions: u64,
    /// From the start of the next process until the last of them was settled.
    pub(crate) seconds: f64,
    /// Until it took requests again.
    pub(crate) ready_ms: f64,
    /// What the provider takes for as many questions when somebody else asks them.
    pub(crate) provider_seconds: f64,
    /// CPU of the gateway for each action.
    pub(crate) cpu_us: Option<f64>,
}

impl Recovery {
    pub(crate) fn measure(folder: &Path, actions: u64) -> Result<Recovery> {
        let bar = tell::doing("recovery: actions in flight");
        let mut demo_bank = this_program()?;
        demo_bank.arg("demo-bank").env("DEMO_BANK_TOKEN", TOKEN);
        let bank = Bank(Server::start("bank", &mut demo_bank)?, client()?);
        let site = Site::before_bank(folder, &bank.0.address.to_string(), TOKEN)?;
        bank.keep_silent(actions)?;
        let gateway = site.serve()?;
        take_off(&gateway, &bank, actions)?;
        let settled = gateway.executed()?;
        gateway.server.kill();
        if settled > 0 {
            return Err(Error::new(format!("{settled} actions were settled that were to be in flight")));
        }
        bar.set_message("recovery: settling them");
        let began = Instant::now();
        let gateway = site.serve()?;
        let mut done = 0;
        while done < actions {
            if began.elapsed() > PATIENCE {
                return Err(Error::new(format!("{done} of {actions} actions were settled after a crash")));
            }
            std::thread::sleep(Duration::from_millis(20));
            done = gateway.executed()?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu = Usage::of(gateway.server.id()).map(|usage| usage.cpu.as_secs_f64() * 1e6 / actions as f64);
        let ready_ms = gateway.server.ready_after.as_secs_f64() * 1e3;
        gateway.server.end();
        bar.finish_and_clear();
        let provider_seconds = bank.alone(actions)?;
        Ok(Recovery { actions, seconds, ready_ms, provider_seconds, cpu_us: cpu })
    }
}

/// Has so many actions sent, in waves: whoever hangs up has asked for it all the same, and both ends of all of them are
/// more files than a process may have.
fn take_off(gateway: &Gateway<'_>, bank: &Bank, actions: u64) -> Result<()> {
    let templates = gateway.requests(sample::BANK_PAYMENT, 64)?;
    let mut sent = 0;
    while sent < actions {
        let wave = WAVE.min(actions - sent);
        let connections = usize::try_from(wave).unwrap_or(usize::MAX);
        let until = Until::Millis(u64::from(u32::MAX));
        let plan = Plan::of(gateway.server.address, connections, until, templates.clone());
        let plan = Plan { first_serial: sent, ..plan };
        let mut client = load::start(&plan)?;
        let began = Instant::now();
        while bank.paid()? < sent + wave {
            if began.elapsed() > PATIENCE {
                let _ = client.kill();
                return Err(Error::new("the actions that were to be in flight were not sent"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = client.kill();
        end(&mut client);
        sent += wave;
    }
    Ok(())
}

/// The demo's bank, and a line to it.
struct Bank(Server, Client);

impl Bank {
    /// So many payments are made at once and answered when nobody waits any more.
    fn keep_silent(&self, payments: u64) -> Result<()> {
        let fault = json!({ "fault": { "delay_answer": { "ms": 3_600_000 } }, "count": payments });
        let request = self.1.post(self.url("/v1/faults")).header("content-type", "application/json");
        let sent = request.bearer_auth(TOKEN).body(fault.to_string()).send();
        let sent = sent.and_then(reqwest::blocking::Response::error_for_status);
        sent.map(drop).while_we(|| "the bank cannot be told to keep silent".to_owned())
    }

    /// Payments made, by what is gone from the account that they are made from.
    fn paid(&self) -> Result<u64> {
        let cannot = || "the bank does not say what it paid".to_owned();
        let request = self.1.get(self.url("/v1/accounts/operating")).bearer_auth(TOKEN);
        let text = request.send().and_then(reqwest::blocking::Response::text).while_we(cannot)?;
        let account: Value = serde_json::from_str(&text).while_we(cannot)?;
        let left = account["balance_minor"].as_i64().ok_or_else(|| Error::new(cannot()))?;
        let opening = testkit::bank::Options::default().opening_minor;
        Ok((opening - left).unsigned_abs() / sample::MINOR)
    }

    /// How long it takes for so many questions as a gateway asks them.
    fn alone(&self, questions: u64) -> Result<f64> {
        let request = format!(
            "GET /v1/payments?reference=bench-{SERIAL} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\n\r\n",
            self.0.address
        );
        let plan = Plan::of(self.0.address, AT_ONCE, Until::Actions(questions), vec![request]);
        let load = load::run(&plan, self.0.id(), "recovery: the provider alone")?;
        Ok(questions as f64 / load.rate())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0.address)
    }
}

fn client() -> Result<Client> {
    let http = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
    http.while_we(|| "cannot start an HTTP client".to_owned())
}

const TOKEN: &str = "bench-bank-token";
/// Connections of one wave.
const WAVE: u64 = 2500;
/// Questions that a gateway asks one provider at once.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(100);
