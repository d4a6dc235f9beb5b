//! The runs, in order: floors, disk, start-up, echo, gateway, proof, and at the end the long one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::disk::{Disk, Left};
use super::floors::Floors;
use super::load::{self, Load, Plan, Taken, Until};
use super::log::Logged;
use super::machine::Machine;
use super::proof::Proof;
use super::recovery::Recovery;
use super::served::{self, Declared, Site};
use super::tools::{self, Pair};
use super::trail::Trail;
use super::{Args, Effort, echo, sample, shared, tell};
use crate::child::Server;
use crate::error::{Context, Error, Result};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    pub(crate) floors: Floors,
    pub(crate) disk: Disk,
    pub(crate) echo: Vec<Run>,
    pub(crate) proof: Proof,
    /// Absent when only floors were asked for.
    pub(crate) gateway: Option<Gateway>,
}

/// What was measured of the gateway.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Gateway {
    pub(crate) ready: Ready,
    pub(crate) runs: Vec<Run>,
    pub(crate) tools: Vec<Pair>,
    /// On a store that gateways share, if that was asked for.
    pub(crate) shared: Vec<Run>,
    /// Absent when only some runs were asked for.
    pub(crate) session: Option<LongSession>,
    /// Absent when only some runs were asked for.
    pub(crate) recovery: Option<Recovery>,
    pub(crate) soak: Option<Soak>,
    pub(crate) trail: Option<Trail>,
    pub(crate) log: Option<Logged>,
}

/// From the start of the process to `listening on`, milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ready {
    /// With a store that exists; the median of several.
    pub(crate) again_ms: f64,
    /// The first time, when store and signing key are made.
    pub(crate) first_ms: f64,
}

/// One server under one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) connections: usize,
    pub(crate) actions: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) cpu_us: Option<f64>,
    /// The same by name of thread.
    pub(crate) cpu_us_by_thread: BTreeMap<String, f64>,
    pub(crate) client_cpu_us: f64,
    /// The most that was resident.
    pub(crate) resident_bytes: u64,
    pub(crate) request_bytes: usize,
    pub(crate) answer_bytes: usize,
    /// What only a gateway has.
    pub(crate) kept: Option<Kept>,
}

/// What an action left behind, and where its time went.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kept {
    pub(crate) rows_per_action: f64,
    pub(crate) bytes_per_action: f64,
    /// Mean microseconds by step, waiting included.
    pub(crate) step_us: BTreeMap<String, f64>,
}

/// Memory over many actions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Soak {
    pub(crate) run: Run,
    /// Resident bytes after each twentieth of the run.
    pub(crate) resident_bytes: Vec<u64>,
}

/// One session of many cycles on one connection: what its length costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LongSession {
    pub(crate) run: Run,
    pub(crate) cycles: Vec<CycleAt>,
}

/// How long cycles took at one place in their session.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CycleAt {
    pub(crate) number: u64,
    /// Of the hundred around it.
    pub(crate) p50_ms: f64,
}

impl Gateway {
    /// Every run there is.
    pub(crate) fn all_runs(&self) -> impl Iterator<Item = &Run> {
        let session = self.session.iter().map(|session| &session.run);
        let tools = self.tools.iter().map(|pair| &pair.through);
        self.runs
            .iter()
            .chain(&self.shared)
            .chain(tools)
            .chain(session)
            .chain(self.soak.iter().map(|soak| &soak.run))
    }
}

/// Carries out everything that `args` ask for.
pub(crate) fn all(args: &Args, effort: Effort) -> Result<Figures> {
    must_be_known(&args.only)?;
    let folder = tempfile::Builder::new().prefix(".countersign-bench-").tempdir_in(&args.data_dir);
    let folder = folder.while_we(|| format!("cannot make a folder in `{}`", args.data_dir.display()))?;
    let floors = Floors::measure(&effort)?;
    let disk = Disk::measure(folder.path(), &effort)?;
    let proof = Proof::measure(folder.path(), &effort)?;
    let figures =
        |echo, gateway| Figures { machine: Machine::here(folder.path()), floors, disk, echo, proof, gateway };
    if args.floors {
        let body = sample::body(sample::PAYMENT, &"t".repeat(600), 0);
        let request = sample::request("127.0.0.1:8787", &"k".repeat(48), &body);
        return Ok(figures(echoes(&request, 1024, &effort)?, None));
    }
    let (ready, request, answer_bytes) = first_look(folder.path(), &effort)?;
    let echo = echoes(&request, answer_bytes, &effort)?;
    let wanted = |name: &str| is_wanted(name, &args.only);
    let runs = SCENARIOS.iter().filter(|scenario| wanted(scenario.name));
    let runs = runs.map(|scenario| scenario.run(folder.path(), &effort)).collect::<Result<_>>()?;
    let shared = args.store.as_ref().map(|place| shared::measure(place, folder.path(), &effort, wanted));
    let shared = shared.transpose()?.unwrap_or_default();
    let tools = tools::measure(folder.path(), &effort, wanted)?;
    let session = wanted(LONG).then(|| long_session(folder.path(), &effort)).transpose()?;
    let recovery =
        wanted(RECOVERY).then(|| Recovery::measure(folder.path(), effort.in_flight)).transpose()?;
    let soak = args.soak.map(|count| soak(folder.path(), count, &effort)).transpose()?;
    let trail = args.audit.map(|entries| Trail::measure(folder.path(), entries)).transpose()?;
    let log = args.log.map(|leaves| Logged::measure(folder.path(), leaves)).transpose()?;
    Ok(figures(echo, Some(Gateway { ready, runs, tools, shared, session, recovery, soak, trail, log })))
}

/// What can be asked for by `--only`.
fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name).chain(tools::names()).chain([
        LONG,
        RECOVERY,
        shared::ONE,
        shared::THREE,
    ])
}

/// Whether a run is asked for: by its name, or by a part of it that is nobody's name.
fn is_wanted(name: &str, only: &[String]) -> bool {
    let means = |text: &String| name == text || (name.contains(&**text) && names().all(|name| name != text));
    only.is_empty() || only.iter().any(means)
}

fn must_be_known(only: &[String]) -> Result<()> {
    let unknown = only.iter().find(|text| !names().any(|name| name.contains(&***text)));
    let Some(unknown) = unknown else { return Ok(()) };
    let names: Vec<_> = names().map(|name| format!("`{name}`")).collect();
    Err(Error::new(format!("no run is called `{unknown}`")).hint(format!("there are {}", names.join(", "))))
}

/// How soon it is ready, what is sent to it, and how long its answers are.
fn first_look(folder: &Path, effort: &Effort) -> Result<(Ready, String, usize)> {
    let bar = tell::doing("start-up");
    let site = Site::prepare(folder)?;
    let gateway = site.serve()?;
    let first_ms = gateway.server.ready_after.as_secs_f64() * 1e3;
    let requests = gateway.requests(sample::PAYMENT, 1)?;
    let plan = Plan::of(gateway.server.address, 1, Until::Actions(1), requests.clone());
    let load = load::run(&plan, gateway.server.id(), "one action")?;
    gateway.server.end();
    let mut again = Vec::with_capacity(effort.starts);
    for _ in 0..effort.starts {
        let gateway = site.serve()?;
        again.push(gateway.server.ready_after.as_secs_f64() * 1e3);
        gateway.server.end();
    }
    again.sort_by(f64::total_cmp);
    bar.finish_and_clear();
    let ready = Ready { again_ms: again[again.len() / 2], first_ms };
    Ok((ready, requests.concat(), load.outcome.answer_bytes))
}

fn echoes(request: &str, answer_bytes: usize, effort: &Effort) -> Result<Vec<Run>> {
    let run = |connections: usize| {
        let server = echo::start(answer_bytes)?;
        let until = match effort.until {
            Until::Millis(millis) => Until::Millis(millis.min(4000)),
            Until::Actions(_) => Until::Millis(4000),
        };
        let plan = Plan::of(server.address, connections, until, vec![request.to_owned()]);
        let plan = Plan { warm_up_ms: warm_up_ms(effort), ..plan };
        let name =
            format!("echo, {connections} {}", if connections == 1 { "connection" } else { "connections" });
        let load = load::run(&plan, server.id(), &name)?;
        Ok(Run::of(name, connections, &load, None))
    };
    CONNECTIONS.into_iter().map(run).collect()
}

/// One run of the gateway.
struct Scenario {
    name: &'static str,
    archetype: &'static str,
    connections: usize,
    mandates: usize,
    asks: Asks,
}

/// As what the actions of a run are asked for.
#[derive(Clone, Copy)]
enum Asks {
    Actions,
    /// Each connection has a session of its own, and each session a mandate.
    Cycles(Declared),
}

/// The name of the run that `ratio_to_bound` is about.
pub(crate) const MAIN: &str = "64 connections";
/// The one in which all spend from one mandate.
pub(crate) const HOT: &str = "64 connections, one mandate";
/// The same at level 2.
pub(crate) const SAFE: &str = "64 connections, atp-2";
/// The one with a single caller.
pub(crate) const ALONE: &str = "1 connection";
/// The one with as many governed sessions as connections.
pub(crate) const SESSIONS: &str = "64 connections, one session each";
/// The one in which each cycle is declared first; declaration and cycle count as one.
pub(crate) const DECLARING: &str = "1 connection, declaration + cycle";
/// The one session that is long.
const LONG: &str = "1 connection, one long session";

const RECOVERY: &str = "recovery";

/// Bytes of what a provider over HTTP answers.
const PROVIDER_ANSWER: usize = 300;

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];

const SCENARIOS: [Scenario; 11] = [
    Scenario::named(ALONE, 1),
    Scenario::named("16 connections", 16),
    Scenario::named(MAIN, 64),
    Scenario { archetype: sample::SAFE_PAYMENT, ..Scenario::named(SAFE, 64) },
    Scenario::named("256 connections", 256),
    Scenario { mandates: 1, ..Scenario::named(HOT, 64) },
    Scenario { mandates: 64, asks: Asks::Cycles(Declared::Once), ..Scenario::named(SESSIONS, 64) },
    Scenario { mandates: 1, asks: Asks::Cycles(Declared::EachTime), ..Scenario::named(DECLARING, 1) },
    Scenario { archetype: sample::HTTP_PAYMENT, ..Scenario::named("1 connection, provider over HTTP", 1) },
    Scenario { archetype: sample::HTTP_PAYMENT, ..Scenario::named("64 connections, provider over HTTP", 64) },
    Scenario { archetype: sample::SLOW_PAYMENT, ..Scenario::named("10,000 in flight, 0.2–2 s", 10_000) },
];

impl Scenario {
    /// Payments under 256 mandates, outside of sessions.
    const fn named(name: &'static str, connections: usize) -> Scenario {
        Scenario { name, archetype: sample::PAYMENT, connections, mandates: 256, asks: Asks::Actions }
    }

    fn run(&self, folder: &Path, effort: &Effort) -> Result<Run> {
        let (load, kept) = self.load(folder, effort.until, effort)?;
        Ok(Run::of(self.name.to_owned(), self.connections, &load, Some(kept)))
    }

    /// A gateway and a store of its own for each run, so that none inherits the size of another's.
    fn load(&self, folder: &Path, until: Until, effort: &Effort) -> Result<(Load, Kept)> {
        let provider = self.provider()?;
        let site = match &provider {
            Some(echo) => Site::before_echo(folder, &echo.address.to_string())?,
            None => Site::prepare(folder)?,
        };
        let gateway = site.serve()?;
        // A slow provider has to have answered everybody once before the rate is steady.
        let settling = if self.archetype == sample::SLOW_PAYMENT { 3000 } else { 0 };
        let plan = Plan { warm_up_ms: warm_up_ms(effort) + settling, ..self.plan(&gateway, until)? };
        let before = site.left()?;
        let load = load::run(&plan, gateway.server.id(), self.name)?;
        let step_us = gateway.steps()?;
        gateway.server.end();
        let kept = Kept::between(before, site.left()?, load.outcome.sent, step_us);
        Ok((load, kept))
    }

    /// Who is paid, where that is a process of its own: as bare as what everything is held against.
    fn provider(&self) -> Result<Option<Server>> {
        (self.archetype == sample::HTTP_PAYMENT).then(|| echo::start(PROVIDER_ANSWER)).transpose()
    }

    fn plan(&self, gateway: &served::Gateway<'_>, until: Until) -> Result<Plan> {
        let (address, connections) = (gateway.server.address, self.connections);
        Ok(match self.asks {
            Asks::Actions => {
                let requests = gateway.requests(self.archetype, self.mandates)?;
                Plan::of(address, connections, until, requests)
            }
            Asks::Cycles(declared) => {
                let templates = gateway.cycles(self.archetype, self.mandates, declared)?;
                let plan = Plan::of(address, connections, until, Vec::new());
                Plan { templates, taken: Taken::ByOne, ..plan }
            }
        })
    }
}

/// The gateway is warm from actions outside of sessions, so that the first cycles pay for nothing but themselves.
fn long_session(folder: &Path, effort: &Effort) -> Result<LongSession> {
    let site = Site::prepare(folder)?;
    let gateway = site.serve()?;
    let (outside, id) = (Scenario::named(LONG, 1), gateway.server.id());
    let warming = outside.plan(&gateway, Until::Millis(warm_up_ms(effort)))?;
    let before = load::run(&warming, id, LONG)?.outcome.sent;
    let inside = Scenario { mandates: 1, asks: Asks::Cycles(Declared::Once), ..outside };
    let last = effort.cycles.last().copied().unwrap_or_default();
    let plan = inside.plan(&gateway, Until::Actions(last + 100))?;
    let plan = Plan { first_serial: before, around: effort.cycles.to_vec(), ..plan };
    let left = site.left()?;
    let load = load::run(&plan, id, LONG)?;
    gateway.server.end();
    // The gateway's own steps are those of the warm-up, too.
    let kept = Kept::between(left, site.left()?, load.outcome.sent - before, BTreeMap::new());
    let at = |(number, p50_ms): (&u64, &f64)| CycleAt { number: *number, p50_ms: *p50_ms };
    let cycles = effort.cycles.iter().zip(&load.outcome.around_ms).map(at).collect();
    Ok(LongSession { run: Run::of(LONG.to_owned(), 1, &load, Some(kept)), cycles })
}

fn soak(folder: &Path, count: u64, effort: &Effort) -> Result<Soak> {
    let name = "many actions";
    let scenario = Scenario::named(name, 64);
    let (load, kept) = scenario.load(folder, Until::Actions(count), effort)?;
    let twentieth = |n: usize| load.resident.get(load.resident.len().saturating_sub(1) * n / 20).copied();
    let resident_bytes = (1..=20).filter_map(twentieth).collect();
    Ok(Soak { run: Run::of(name.to_owned(), scenario.connections, &load, Some(kept)), resident_bytes })
}

impl Kept {
    pub(crate) fn between(before: Left, after: Left, actions: u64, step_us: BTreeMap<String, f64>) -> Kept {
        Kept {
            rows_per_action: after.rows.saturating_sub(before.rows) as f64 / actions as f64,
            bytes_per_action: after.bytes.saturating_sub(before.bytes) as f64 / actions as f64,
            step_us,
        }
    }
}

impl Run {
    pub(crate) fn of(name: String, connections: usize, load: &Load, kept: Option<Kept>) -> Run {
        let outcome = &load.outcome;
        let each = |(name, seconds): (&String, &f64)| (name.clone(), seconds * 1e6 / outcome.actions as f64);
        Run {
            name,
            connections,
            actions: outcome.actions,
            per_second: load.rate(),
            p50_ms: outcome.p50_ms,
            p99_ms: outcome.p99_ms,
            p999_ms: outcome.p999_ms,
            cpu_us: load.cpu_us(),
            cpu_us_by_thread: load.cpu_by_thread.iter().map(each).collect(),
            client_cpu_us: load.client_us(),
            resident_bytes: load.resident.iter().copied().max().unwrap_or_default(),
            request_bytes: outcome.request_bytes,
            answer_bytes: outcome.answer_bytes,
            kept,
        }
    }
}

impl Run {
    /// Two that ran at once, each at a gateway of its own. Percentiles are those of the slower one.
    pub(crate) fn and(self, other: Run) -> Run {
        Run {
            connections: self.connections + other.connections,
            actions: self.actions + other.actions,
            per_second: self.per_second + other.per_second,
            p50_ms: self.p50_ms.max(other.p50_ms),
            p99_ms: self.p99_ms.max(other.p99_ms),
            p999_ms: self.p999_ms.max(other.p999_ms),
            // Of an action at either of them.
            cpu_us: self.cpu_us.zip(other.cpu_us).map(|(a, b)| f64::midpoint(a, b)),
            client_cpu_us: f64::midpoint(self.client_cpu_us, other.client_cpu_us),
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            ..self
        }
    }
}

pub(crate) fn warm_up_ms(effort: &Effort) -> u64 {
    u64::try_from(effort.warm_up.as_millis()).unwrap_or_default()
}
