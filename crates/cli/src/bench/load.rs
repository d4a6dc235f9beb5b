//! Starting the load client, and watching the server while it works.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use serde::{Deserialize, Serialize};

use super::process::Usage;
use super::tell;
use crate::child::{self, this_program};
use crate::error::{Context, Error, Result};

/// What the client is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) warm_up_ms: u64,
    pub(crate) until: Until,
    /// Whole requests, taken in turn; those of one turn are sent one after another and count as one.
    pub(crate) templates: Vec<Vec<String>>,
    /// Who takes which of them.
    pub(crate) taken: Taken,
    /// What is read of an answer.
    pub(crate) answers: Answers,
    /// The number of the first turn.
    pub(crate) first_serial: u64,
    /// Numbers of turns around which it is told how long they took: for a single connection.
    pub(crate) around: Vec<u64>,
}

/// How templates are handed out to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Taken {
    /// Whoever comes next gets the next one.
    ByAll,
    /// Each connection keeps to one of its own.
    ByOne,
}

/// What is read of an answer beside its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answers {
    Any,
    /// It has to be what the tool says to this call. It is read when the run is over.
    OfTool {
        with_receipt: bool,
    },
}

/// When a run is over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Until {
    Millis(u64),
    Actions(u64),
}

/// What the client says, one line each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The warm-up is over.
    Begin,
    /// So many answers since.
    Done(u64),
    /// What comes now is not counted.
    End,
    Outcome(Outcome),
}

/// What the client saw between begin and end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) actions: u64,
    /// One more than the number of the last request sent, warm-up included.
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    /// The median of the hundred around each number that was asked for and reached.
    pub(crate) around_ms: Vec<f64>,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Connections that broke, and answers of tools that were wrong.
    pub(crate) broken: u64,
    /// The first answer that was not 200, or why the first connection broke.
    pub(crate) refusal: Option<String>,
    pub(crate) request_bytes: usize,
    pub(crate) answer_bytes: usize,
}

/// One run: what the client saw, and what it cost the server.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) outcome: Outcome,
    /// CPU seconds of the server.
    pub(crate) cpu_seconds: Option<f64>,
    /// The same by name of thread.
    pub(crate) cpu_by_thread: BTreeMap<String, f64>,
    /// Resident bytes of the server, at the beginning, about four times a second, and at the end.
    pub(crate) resident: Vec<u64>,
}

impl Plan {
    /// Single requests without a warm-up, taken in turn by all.
    pub(crate) fn of(address: SocketAddr, connections: usize, until: Until, requests: Vec<String>) -> Plan {
        Plan {
            address,
            connections,
            warm_up_ms: 0,
            until,
            templates: requests.into_iter().map(|request| vec![request]).collect(),
            taken: Taken::ByAll,
            answers: Answers::Any,
            first_serial: 0,
            around: Vec::new(),
        }
    }
}

impl Load {
    /// Actions per second.
    pub(crate) fn rate(&self) -> f64 {
        self.outcome.actions as f64 / self.outcome.seconds
    }

    /// Microseconds of the server's CPU per action.
    pub(crate) fn cpu_us(&self) -> Option<f64> {
        self.cpu_seconds.map(|seconds| seconds * 1e6 / self.outcome.actions as f64)
    }

    /// Microseconds of the client's CPU per action.
    pub(crate) fn client_us(&self) -> f64 {
        self.outcome.client_cpu_seconds * 1e6 / self.outcome.actions as f64
    }

    /// That every answer was a good one.
    ///
    /// # Errors
    /// The first that was not: a gateway that refuses is fast and measures nothing.
    pub(crate) fn all_good(self, what: &str) -> Result<Load> {
        let outcome = &self.outcome;
        let good = outcome.statuses.get(&200).copied().unwrap_or_default();
        if good == outcome.actions && outcome.broken == 0 {
            return Ok(self);
        }
        let (bad, why) = (outcome.actions - good, outcome.refusal.as_deref().unwrap_or_default());
        Err(Error::new(format!(
            "{what}: {bad} of {} answers were not 200, {} connections broke: {why}",
            outcome.actions, outcome.broken
        )))
    }
}

/// Carries out the plan against the server `pid`.
pub(crate) fn run(plan: &Plan, pid: u32, what: &str) -> Result<Load> {
    let mut client = start(plan)?;
    let result = follow(&mut client, plan, pid, what);
    child::end(&mut client);
    result?.all_good(what)
}

/// Starts a client; whoever follows it hears how it goes.
pub(crate) fn start(plan: &Plan) -> Result<Child> {
    let cannot = || "cannot start the load client".to_owned();
    let mut client = this_program()?
        .args(["bench", "client"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .while_we(cannot)?;
    if let Some(stdin) = client.stdin.take() {
        serde_json::to_writer(stdin, plan).while_we(cannot)?;
    }
    Ok(client)
}

fn follow(client: &mut Child, plan: &Plan, pid: u32, what: &str) -> Result<Load> {
    let stdout = client.stdout.take().ok_or_else(|| Error::new("the load client has no output"))?;
    let bar = match plan.until {
        Until::Millis(millis) => tell::running(what, millis),
        Until::Actions(count) => tell::running(what, count),
    };
    let (mut before, mut after) = (None, None);
    let mut resident = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.while_we(|| "the load client's output broke off".to_owned())?;
        match serde_json::from_str(&line).while_we(|| format!("the load client said `{line}`"))? {
            Word::Begin => before = sampled(pid, &mut resident),
            Word::Done(count) => {
                sampled(pid, &mut resident);
                match plan.until {
                    Until::Millis(_) => {
                        bar.set_position(u64::try_from(bar.elapsed().as_millis()).unwrap_or_default())
                    }
                    Until::Actions(_) => bar.set_position(count),
                }
            }
            Word::End => after = sampled(pid, &mut resident),
            Word::Outcome(outcome) => {
                bar.finish_and_clear();
                let cost = before.zip(after);
                let seconds = cost.as_ref().map(|(before, after)| (after.cpu - before.cpu).as_secs_f64());
                let threads = cost.map(|(before, after)| after.by_thread_since(&before)).unwrap_or_default();
                let threads = threads.into_iter().map(|(name, cpu)| (name, cpu.as_secs_f64())).collect();
                return Ok(Load { outcome, cpu_seconds: seconds, cpu_by_thread: threads, resident });
            }
        }
    }
    Err(Error::new(format!("{what}: the load client ended without a result")))
}

fn sampled(pid: u32, resident: &mut Vec<u64>) -> Option<Usage> {
    let usage = Usage::of(pid)?;
    resident.push(usage.resident);
    Some(usage)
}
