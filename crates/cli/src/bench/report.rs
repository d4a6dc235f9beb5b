//! The figures in words: bounds and ratios derived from them, Markdown for people, JSON for programs.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use super::floors::Timed;
use super::log::Logged;
use super::machine::DEBUG;
use super::recovery::Recovery;
use super::runs::{ALONE, DECLARING, Figures, Gateway, HOT, Kept, LongSession, MAIN, Run, SAFE, SESSIONS};
use super::shared;
use super::tools::{self, Pair};
use super::trail::Trail;
use crate::error::{Context, Result};

/// A promise about speed, and what was measured.
#[derive(Clone, Debug, Serialize)]
struct Target {
    what: &'static str,
    asked: String,
    measured: String,
    met: bool,
}

impl Figures {
    /// All figures and what follows from them.
    pub(crate) fn to_json(&self) -> Result<Value> {
        let cannot = || "cannot write the figures".to_owned();
        let mut all = serde_json::to_value(self).while_we(cannot)?;
        all["derived"] = json!({
            "bound": self.bound(),
            "bound_with_rows": self.bound_with_rows(),
            "ratio_to_bound": self.ratio_to_bound(),
            "targets": serde_json::to_value(self.targets()).while_we(cannot)?,
        });
        Ok(all)
    }

    /// Actions per second if an action were an echo and the libraries' part, on all cores at once.
    fn bound(&self) -> Option<f64> {
        Some(self.cores() / (self.echo_seconds()? + self.floors.of_an_action() / 1e6))
    }

    /// The same with the CPU of two batched rows, the least that an action has to leave behind.
    fn bound_with_rows(&self) -> Option<f64> {
        let rows = 2.0 * self.disk.row_cpu_us;
        Some(self.cores() / (self.echo_seconds()? + (self.floors.of_an_action() + rows) / 1e6))
    }

    fn ratio_to_bound(&self) -> Option<f64> {
        Some(self.run(MAIN)?.per_second / self.bound()?)
    }

    /// Core seconds of one echo at 64 connections, the client's part included.
    fn echo_seconds(&self) -> Option<f64> {
        Some(self.cores() / self.echo(64)?.per_second)
    }

    fn cores(&self) -> f64 {
        self.machine.cores as f64
    }

    fn echo(&self, connections: usize) -> Option<&Run> {
        self.echo.iter().find(|run| run.connections == connections)
    }

    fn run(&self, name: &str) -> Option<&Run> {
        self.gateway.as_ref()?.all_runs().find(|run| run.name == name)
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = self.targets_of_runs().unwrap_or_default();
        targets.extend(self.targets_of_sessions());
        targets.extend(self.targets_of_tools());
        targets.extend(self.gateway.iter().flat_map(|gateway| self.targets_of_the_process(gateway)));
        if let Some(rate) = self.proof.per_core_second {
            let ratio = rate * self.floors.verify.median_us / 1e6;
            targets.push(Target {
                what: "`verify --jsonl` ÷ the library's verify rate, per core",
                asked: "≥ 0.70".to_owned(),
                measured: format!("{ratio:.2}"),
                met: ratio >= 0.7,
            });
        }
        targets
    }

    fn targets_of_runs(&self) -> Option<Vec<Target>> {
        let (main, hot, alone) = (self.run(MAIN)?, self.run(HOT)?, self.run(ALONE)?);
        let (ratio, hot) = (self.ratio_to_bound()?, hot.per_second / main.per_second);
        let most = 4.0 * self.disk.append_p50_us / 1e3 + 0.2;
        let tail = main.p99_ms / main.p50_ms;
        Some(vec![
            Target {
                what: "ratio to bound, 64 connections",
                asked: "≥ 0.17".to_owned(),
                measured: format!("{ratio:.3}"),
                met: ratio >= 0.17,
            },
            Target {
                what: "one hot mandate ÷ many",
                asked: "≥ 0.50".to_owned(),
                measured: format!("{hot:.2}"),
                met: hot >= 0.5,
            },
            Target {
                what: "p50 at one connection",
                asked: format!("≤ 4 × fdatasync + 0.2 ms = {most:.2} ms"),
                measured: format!("{:.2} ms", alone.p50_ms),
                met: alone.p50_ms <= most,
            },
            Target {
                what: "p99 ÷ p50, 64 connections",
                asked: "≤ 5".to_owned(),
                measured: format!("{tail:.1}"),
                met: tail <= 5.0,
            },
        ])
    }

    /// What it costs to be governed, by what the same costs outside of sessions.
    fn targets_of_sessions(&self) -> Vec<Target> {
        let rates =
            self.run(SESSIONS).zip(self.run(MAIN)).map(|(it, plain)| it.per_second / plain.per_second);
        let pairs = self.run(DECLARING).zip(self.run(ALONE)).map(|(it, plain)| it.p50_ms / plain.p50_ms);
        let session = self.gateway.as_ref().and_then(|gateway| gateway.session.as_ref());
        let length = session.and_then(|session| Some((session.cycles.last()?.number, session.growth()?)));
        let rates = rates.map(|ratio| Target {
            what: "cycles ÷ actions outside of sessions, 64 connections",
            asked: "≥ 0.60".to_owned(),
            measured: format!("{ratio:.2}"),
            met: ratio >= 0.6,
        });
        let pairs = pairs.map(|ratio| Target {
            what: "p50 of declaration + cycle ÷ p50 of an action, one connection",
            asked: "≤ 2".to_owned(),
            measured: format!("{ratio:.2}"),
            met: ratio <= 2.0,
        });
        let length = length.map(|(number, growth)| Target {
            what: "late cycle of one session ÷ its 100th",
            asked: "≤ 1.10".to_owned(),
            measured: format!("{growth:.2} at the {}th", thousands(number as f64)),
            met: growth <= 1.1,
        });
        rates.into_iter().chain(pairs).chain(length).collect()
    }

    /// What a gateway adds to a call of a tool, by what an action takes without one.
    fn targets_of_tools(&self) -> Vec<Target> {
        let asked = [
            (tools::ALONE, "added p50 of `tools/call` ÷ p50 of an action, one connection"),
            (tools::MAIN, "added p50 of `tools/call` ÷ p50 of an action, 64 connections"),
        ];
        let pairs: &[Pair] = self.gateway.as_ref().map_or(&[], |gateway| &gateway.tools);
        let target = |(name, what)| {
            let ratio = self.added_by_action(pairs.iter().find(|pair| pair.through.name == name)?)?;
            let (asked, measured) = ("≤ 1.20".to_owned(), format!("{ratio:.2}"));
            Some(Target { what, asked, measured, met: ratio <= 1.2 })
        };
        asked.into_iter().filter_map(target).collect()
    }

    /// Added p50 by the main path's at as many connections.
    fn added_by_action(&self, pair: &Pair) -> Option<f64> {
        Some(pair.added_p50_ms() / self.main_path(pair.through.connections)?.p50_ms)
    }

    fn main_path(&self, connections: usize) -> Option<&Run> {
        [ALONE, MAIN].into_iter().filter_map(|name| self.run(name)).find(|run| run.connections == connections)
    }

    fn targets_of_the_process(&self, gateway: &Gateway) -> Vec<Target> {
        let resident = gateway.all_runs().map(|run| run.resident_bytes).max().unwrap_or_default();
        let ready = gateway.ready.again_ms;
        let mut targets = vec![
            Target {
                what: "resident memory, all runs",
                asked: "< 200 MB".to_owned(),
                measured: format!("{} MB", resident / 1_000_000),
                met: resident < 200_000_000,
            },
            Target {
                what: "ready",
                asked: "≤ 300 ms".to_owned(),
                measured: format!("{ready:.0} ms"),
                met: ready <= 300.0,
            },
        ];
        if let (Some(safe), Some(main)) = (self.run(SAFE), self.run(MAIN)) {
            let ratio = safe.per_second / main.per_second;
            targets.push(Target {
                what: "atp-2 ÷ atp-1, 64 connections",
                asked: "≥ 0.90".to_owned(),
                measured: format!("{ratio:.2}"),
                met: ratio >= 0.9,
            });
        }
        if let (Some(shared), Some(main)) = (self.run(shared::ONE), self.run(MAIN)) {
            let ratio = shared.per_second / main.per_second;
            targets.push(Target {
                what: "PostgreSQL ÷ SQLite, 64 connections",
                asked: "≥ 0.80".to_owned(),
                measured: format!("{ratio:.2}"),
                met: ratio >= 0.8,
            });
        }
        if let (Some(three), Some(one)) = (self.run(shared::THREE), self.run(shared::ONE)) {
            let ratio = three.per_second / one.per_second;
            targets.push(Target {
                what: "three gateways ÷ one, PostgreSQL, 64 connections",
                asked: "≥ 0.85".to_owned(),
                measured: format!("{ratio:.2}"),
                met: ratio >= 0.85,
            });
        }
        if let Some(growth) = gateway.soak.as_ref().and_then(|soak| growth(&soak.resident_bytes)) {
            targets.push(Target {
                what: "memory in the last quarter ÷ in the second, long run",
                asked: "≤ 1.10".to_owned(),
                measured: format!("{growth:.2}"),
                met: growth <= 1.1,
            });
        }
        if let Some(trail) = &gateway.trail {
            let slowest = trail.slowest_ms();
            targets.push(Target {
                what: "first page of the audit trail, the slowest filter",
                asked: "≤ 50 ms".to_owned(),
                measured: format!("{} ms over {} entries", millis(slowest), thousands(trail.entries as f64)),
                met: slowest <= 50.0,
            });
        }
        if let Some(log) = &gateway.log {
            let leaves = thousands(log.leaves as f64);
            targets.push(Target {
                what: "leaves of a backlog logged per second",
                asked: "≥ 20,000".to_owned(),
                measured: format!("{} of {leaves}", thousands(log.per_second)),
                met: log.per_second >= 20_000.0,
            });
            targets.push(Target {
                what: "proof for any leaf of the log, the slowest",
                asked: "≤ 5 ms".to_owned(),
                measured: format!("{} ms of {leaves} leaves", millis(log.proof_most_ms)),
                met: log.proof_most_ms <= 5.0,
            });
        }
        targets
    }

    /// The page's tables.
    pub(crate) fn to_markdown(&self) -> String {
        let mut out = format!("Machine: {}.\n\n", self.machine.name());
        self.floor_table(&mut out);
        self.load_table(&mut out);
        if let Some(gateway) = &self.gateway {
            stage_table(gateway, &mut out);
            self.tool_table(&gateway.tools, &mut out);
            gateway.session.iter().for_each(|session| session_table(session, &mut out));
            ends(gateway, &mut out);
            gateway.recovery.iter().for_each(|recovery| told(recovery, &mut out));
            gateway.trail.iter().for_each(|trail| trail_table(trail, &mut out));
            gateway.log.iter().for_each(|log| logged(log, &mut out));
        }
        // What a debug build takes says nothing about a target.
        if self.machine.build != DEBUG {
            self.target_table(&mut out);
        }
        out
    }

    fn floor_table(&self, out: &mut String) {
        let (floors, disk, proof) = (&self.floors, &self.disk, &self.proof);
        let mut row = |what: &str, figure: String| line(out, &[what, &figure]);
        row("floor", "measured".to_owned());
        row("---", "---:".to_owned());
        row("ES256 sign, 4 KB", timed(floors.sign));
        row("ES256 verify, 4 KB", timed(floors.verify));
        row("chain of nine entries, SHA-256", timed(floors.chain));
        row("receipt to canonical JSON", timed(floors.jcs));
        row("parse + schema", timed(floors.parse_and_schema));
        row("Cedar, 10 policies, sliced", timed(floors.cedar_10));
        row("Cedar, 100 policies, sliced", timed(floors.cedar_100));
        row(
            "4 KB append + fdatasync",
            format!("p50 {:.0} µs, p99 {:.0} µs", disk.append_p50_us, disk.append_p99_us),
        );
        row(
            "batched rows",
            format!("{} rows/s, {:.1} µs CPU each", thousands(disk.rows_per_second), disk.row_cpu_us),
        );
        let per_core = proof.per_core_second.map(|rate| format!(", {} per second of CPU", thousands(rate)));
        let verified = format!("{} receipts/s{}", thousands(proof.per_second), per_core.unwrap_or_default());
        row(&format!("`verify --jsonl`, {} B each", proof.bytes_per_receipt), verified);
        if let (Some(bound), Some(with_rows)) = (self.bound(), self.bound_with_rows()) {
            row("**bound**, actions/s", format!("**{}**", thousands(bound)));
            row("bound with two rows, actions/s", thousands(with_rows));
        }
        if let Some(ratio) = self.ratio_to_bound() {
            row("**ratio to bound**", format!("**{ratio:.3}**"));
        }
        out.push('\n');
    }

    fn load_table(&self, out: &mut String) {
        let head = "load|actions/s|p50 ms|p99 ms|p99.9 ms|added p50 ms|CPU µs/action|client µs/action|RSS MB|rows/action|bytes/action";
        line(out, &head.split('|').collect::<Vec<_>>());
        line(out, &["---", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:"]);
        let runs = self.gateway.iter().flat_map(Gateway::all_runs);
        for run in self.echo.iter().chain(runs) {
            let echo = self.echo(run.connections).filter(|_| run.kept.is_some());
            let kept = |figure: fn(&Kept) -> f64| {
                run.kept.as_ref().map_or_else(none, |kept| format!("{:.1}", figure(kept)))
            };
            line(
                out,
                &[
                    &run.name,
                    &thousands(run.per_second),
                    &millis(run.p50_ms),
                    &millis(run.p99_ms),
                    &millis(run.p999_ms),
                    &echo.map_or_else(none, |echo| millis(run.p50_ms - echo.p50_ms)),
                    &run.cpu_us.map_or_else(none, |cpu| format!("{cpu:.0}")),
                    &format!("{:.0}", run.client_cpu_us),
                    &(run.resident_bytes / 1_000_000).to_string(),
                    &kept(|kept| kept.rows_per_action),
                    &kept(|kept| kept.bytes_per_action),
                ],
            );
        }
        let _ = writeln!(out, "\n{}", self.sizes());
    }

    /// `tools/call` with a gateway and without one, and with a bare proxy in its place.
    fn tool_table(&self, pairs: &[Pair], out: &mut String) {
        if pairs.is_empty() {
            return;
        }
        let head = "`tools/call`|calls/s|p50 ms|p99 ms|direct: calls/s|p50 ms|p99 ms|passed on: calls/s|p50 ms|p99 ms|added p50 ms|main path p50 ms|added ÷ main path";
        line(out, &head.split('|').collect::<Vec<_>>());
        line(out, &[&["---"][..], &["---:"; 12]].concat());
        for pair in pairs {
            let Pair { direct, passed, through } = pair;
            let main = self.main_path(through.connections).map_or_else(none, |main| millis(main.p50_ms));
            let ratio = self.added_by_action(pair).map_or_else(none, |ratio| format!("{ratio:.2}"));
            let runs = [through, direct, passed]
                .map(|run| [thousands(run.per_second), millis(run.p50_ms), millis(run.p99_ms)]);
            let mut cells: Vec<&str> = vec![&through.name];
            cells.extend(runs.iter().flatten().map(String::as_str));
            let added = millis(pair.added_p50_ms());
            cells.extend([added.as_str(), &main, &ratio]);
            line(out, &cells);
        }
        out.push('\n');
        step_table(pairs, out);
    }

    fn sizes(&self) -> String {
        let sizes = self.echo.first().map(|run| (run.request_bytes, run.answer_bytes)).unwrap_or_default();
        format!(
            "Requests of {} B, answers of {} B. Added: beyond the echo at as many connections.\n",
            sizes.0, sizes.1
        )
    }

    fn target_table(&self, out: &mut String) {
        line(out, &["target", "asked", "measured", ""]);
        line(out, &["---", "---", "---:", "---"]);
        for target in self.targets() {
            line(
                out,
                &[
                    target.what,
                    &target.asked,
                    &target.measured,
                    if target.met { "met" } else { "**missed**" },
                ],
            );
        }
    }
}

/// Where an action's CPU goes under load, and how long each step takes.
fn stage_table(gateway: &Gateway, out: &mut String) {
    let run = |name: &str| gateway.runs.iter().find(|run| run.name == name);
    let (Some(alone), Some(main)) = (run(ALONE), run(MAIN)) else { return };
    line(out, &["stage, at 64 connections", "CPU µs/action"]);
    line(out, &["---", "---:"]);
    for (stage, cpu) in stages(alone, main) {
        line(out, &[&stage, &format!("{cpu:.0}")]);
    }
    out.push_str(
        "\nSteps that only compute are taken from the run with one connection, where nothing else wants their core; \
         threads are counted by the kernel; the rest is what remains of the process.\n\n",
    );
    let (Some(alone), Some(main)) = (&alone.kept, &main.kept) else { return };
    steps(["step, by the clock", "µs at one connection", "µs at 64"], [alone, main], out);
}

fn steps(head: [&str; 3], [alone, main]: [&Kept; 2], out: &mut String) {
    line(out, &head);
    line(out, &["---", "---:", "---:"]);
    for (step, micros) in &alone.step_us {
        let loaded = main.step_us.get(step).map_or_else(none, |micros| format!("{micros:.0}"));
        line(out, &[step, &format!("{micros:.0}"), &loaded]);
    }
    out.push('\n');
}

/// How long each step of a call takes that is an action.
fn step_table(pairs: &[Pair], out: &mut String) {
    let named = |name: &str| pairs.iter().find(|pair| pair.through.name == name)?.through.kept.as_ref();
    let (Some(alone), Some(main)) = (named(tools::ALONE), named(tools::MAIN)) else { return };
    steps(["step of a call, by the clock", "µs with one client", "µs with 64"], [alone, main], out);
}

/// What a session's length costs.
fn session_table(session: &LongSession, out: &mut String) {
    line(out, &["cycle of one session", "p50 ms"]);
    line(out, &["---", "---:"]);
    for cycle in &session.cycles {
        line(out, &[&format!("{}th", thousands(cycle.number as f64)), &millis(cycle.p50_ms)]);
    }
    out.push_str(
        "\nMedians of the hundred cycles around each, one after another; the gateway was warm from actions outside of \
         sessions.\n\n",
    );
}

impl LongSession {
    /// The last place over the first; none where there is only one.
    fn growth(&self) -> Option<f64> {
        let [first, .., last] = self.cycles.as_slice() else { return None };
        Some(last.p50_ms / first.p50_ms)
    }
}

/// What a crash costs.
fn told(recovery: &Recovery, out: &mut String) {
    let Recovery { actions, seconds, ready_ms, provider_seconds, cpu_us } = recovery;
    let cpu = cpu_us.map(|cpu| format!(", {cpu:.0} µs of the gateway's CPU each")).unwrap_or_default();
    let _ = writeln!(
        out,
        "Recovery: {} actions in flight at `kill -9` were settled {seconds:.1} s after the next start{cpu}; it took \
         requests after {ready_ms:.0} ms. The provider alone takes {provider_seconds:.1} s for as many questions, so {:.1} \
         s are ours.\n",
        thousands(*actions as f64),
        (seconds - provider_seconds).max(0.0)
    );
}

/// How soon the transparency log is there, and what it takes.
fn logged(log: &Logged, out: &mut String) {
    let _ = writeln!(
        out,
        "Transparency log: {} leaves from a backlog at {} a second; a proof takes {} ms, at most {} ms. A leaf takes {:.0} bytes of \
         the store, {:.1} of them in tiles.\n",
        thousands(log.leaves as f64),
        thousands(log.per_second),
        millis(log.proof_p50_ms),
        millis(log.proof_most_ms),
        log.bytes_per_leaf,
        log.tile_bytes_per_leaf
    );
}

/// How soon the trail's first page is there.
fn trail_table(trail: &Trail, out: &mut String) {
    line(out, &["audit trail, filter", "entries on the page", "p50 ms", "most ms"]);
    line(out, &["---", "---:", "---:", "---:"]);
    for page in &trail.pages {
        line(out, &[page.filter, &page.entries.to_string(), &millis(page.p50_ms), &millis(page.most_ms)]);
    }
    let _ = writeln!(
        out,
        "\nOver {} ledger entries, written in process at {} a second. The index takes {:.3} rows and {:.0} bytes for an \
         action of two entries.\n",
        thousands(trail.entries as f64),
        thousands(trail.filled_per_second),
        trail.index_rows_per_action,
        trail.index_bytes_per_action
    );
}

fn stages(alone: &Run, main: &Run) -> Vec<(String, f64)> {
    let step = |name: &&str| Some((format!("step `{name}`"), *alone.kept.as_ref()?.step_us.get(*name)?));
    let mut stages: Vec<(String, f64)> = COMPUTING.iter().filter_map(step).collect();
    let store = main.cpu_us_by_thread.iter().filter(|(name, _)| name.starts_with("ledger"));
    stages.extend(store.map(|(name, cpu)| (format!("thread `{name}`"), *cpu)));
    if let Some(all) = main.cpu_us {
        let known: f64 = stages.iter().map(|(_, cpu)| cpu).sum();
        stages.push(("the rest: HTTP, the provider, handing over".to_owned(), (all - known).max(0.0)));
        stages.push(("**all**".to_owned(), all));
    }
    stages
}

fn ends(gateway: &Gateway, out: &mut String) {
    let ready = gateway.ready;
    let _ = writeln!(
        out,
        "Ready after {:.0} ms; the first time, when store and key are made, {:.0} ms.\n",
        ready.again_ms, ready.first_ms
    );
    if let Some(soak) = &gateway.soak {
        let series: Vec<String> =
            soak.resident_bytes.iter().map(|bytes| (bytes / 1_000_000).to_string()).collect();
        let _ = writeln!(
            out,
            "Resident MB over {} actions: {}.\n",
            thousands(soak.run.actions as f64),
            series.join(", ")
        );
    }
}

/// Steps of the gateway's metrics that wait for nothing but a core.
const COMPUTING: [&str; 4] = ["request", "facts", "decide", "prove"];

/// Mean memory of the last quarter over that of the second; the first is for filling what is meant to be filled.
fn growth(resident: &[u64]) -> Option<f64> {
    let quarter = resident.len() / 4;
    let mean = |part: &[u64]| part.iter().sum::<u64>() as f64 / part.len() as f64;
    (quarter > 0).then(|| mean(&resident[resident.len() - quarter..]) / mean(&resident[quarter..2 * quarter]))
}

fn line(out: &mut String, cells: &[&str]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn timed(timed: Timed) -> String {
    format!("{:.1} µs ({:.1}–{:.1})", timed.median_us, timed.least_us, timed.most_us)
}

fn millis(millis: f64) -> String {
    if millis < 10.0 { format!("{millis:.2}") } else { format!("{millis:.0}") }
}

fn none() -> String {
    "–".to_owned()
}

/// A whole number with a comma between thousands.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::disk::Disk;
    use crate::bench::floors::Floors;
    use crate::bench::machine::Machine;
    use crate::bench::proof::Proof;
    use crate::bench::runs::{CycleAt, Ready};

    fn run(name: &str, connections: usize, per_second: f64) -> Run {
        Run {
            name: name.to_owned(),
            connections,
            actions: 1000,
            per_second,
            p50_ms: 1.0,
            p99_ms: 4.0,
            p999_ms: 9.0,
            cpu_us: Some(150.0),
            cpu_us_by_thread: BTreeMap::from([("writer".to_owned(), 50.0)]),
            client_cpu_us: 9.0,
            resident_bytes: 100_000_000,
            request_bytes: 900,
            answer_bytes: 700,
            kept: None,
        }
    }

    fn pair(name: &str, connections: usize, [direct, through]: [f64; 2]) -> Pair {
        let run = |p50_ms| Run { p50_ms, ..run(name, connections, 500.0) };
        Pair { direct: run(direct), passed: run(direct), through: run(through) }
    }

    fn at(number: u64, p50_ms: f64) -> CycleAt {
        CycleAt { number, p50_ms }
    }

    fn figures() -> Figures {
        let timed = |us| Timed { median_us: us, least_us: us, most_us: us };
        Figures {
            machine: Machine {
                processor: "Abacus".to_owned(),
                cores: 2,
                memory_gib: None,
                system: "linux".to_owned(),
                file_system: None,
                version: "0",
                build: "release",
            },
            floors: Floors {
                sign: timed(10.0),
                verify: timed(40.0),
                chain: timed(2.0),
                jcs: timed(2.0),
                parse_and_schema: timed(2.0),
                cedar_10: timed(4.0),
                cedar_100: timed(20.0),
            },
            disk: Disk {
                append_p50_us: 100.0,
                append_p99_us: 300.0,
                rows_per_second: 40_000.0,
                row_cpu_us: 10.0,
            },
            // 100,000 echoes on two cores are 20 µs of a core each.
            echo: vec![run("echo", 64, 100_000.0)],
            proof: Proof {
                receipts: 1,
                bytes_per_receipt: 1,
                per_second: 40_000.0,
                per_core_second: Some(20_000.0),
            },
            gateway: Some(Gateway {
                ready: Ready { again_ms: 50.0, first_ms: 80.0 },
                runs: vec![
                    run(ALONE, 1, 1000.0),
                    run(MAIN, 64, 10_000.0),
                    run(HOT, 64, 4_000.0),
                    run(SESSIONS, 64, 7_000.0),
                    Run { p50_ms: 2.5, ..run(DECLARING, 1, 400.0) },
                ],
                shared: vec![run(shared::ONE, 64, 8_500.0), run(shared::THREE, 64, 8_000.0)],
                tools: vec![
                    pair(tools::ALONE, 1, [0.25, 1.5]),
                    pair(tools::MAIN, 64, [0.5, 1.5]),
                    pair("64, sessions", 64, [0.5, 2.5]),
                ],
                session: Some(LongSession {
                    run: Run { resident_bytes: 150_000_000, ..run("long", 1, 900.0) },
                    cycles: vec![at(100, 0.8), at(5_000, 2.0), at(10_000, 0.84)],
                }),
                recovery: None,
                soak: None,
                trail: None,
                log: None,
            }),
        }
    }

    #[test]
    fn bounds_are_cores_over_core_seconds() {
        let figures = figures();
        assert_eq!(figures.bound().map(f64::round), Some(50_000.0), "2 ÷ (20 + 20 µs)");
        assert_eq!(figures.bound_with_rows().map(f64::round), Some(33_333.0), "2 ÷ (20 + 20 + 20 µs)");
        assert_eq!(figures.ratio_to_bound().map(|ratio| (ratio * 1000.0).round()), Some(200.0));
    }

    #[test]
    fn targets_say_which_were_missed() {
        let missed: Vec<&str> =
            figures().targets().iter().filter(|target| !target.met).map(|target| target.what).collect();
        assert_eq!(
            missed,
            [
                "one hot mandate ÷ many",
                "p50 at one connection",
                "p50 of declaration + cycle ÷ p50 of an action, one connection",
                "added p50 of `tools/call` ÷ p50 of an action, one connection"
            ],
            "0.4 of 0.5, 1 ms of 0.6 ms, 2.5 of 2, and 1.25 of 1.2"
        );
    }

    #[test]
    fn sessions_are_held_to_what_the_same_costs_outside_of_them() {
        let measured = |figures: &Figures| {
            let targets = figures.targets_of_sessions();
            targets.into_iter().map(|target| (target.measured, target.met)).collect::<Vec<_>>()
        };
        let expected = [("0.70", true), ("2.50", false), ("1.05 at the 10,000th", true)];
        let mut figures = figures();
        assert_eq!(measured(&figures), expected.map(|(text, met)| (text.to_owned(), met)));
        let gateway = figures.gateway.as_mut().expect("it was measured");
        gateway.session.iter_mut().for_each(|session| session.cycles.truncate(1));
        gateway.runs.retain(|run| ![MAIN, ALONE].contains(&&*run.name));
        assert_eq!(measured(&figures), [], "nothing to compare with");
    }

    #[test]
    fn calls_of_tools_stand_beside_the_same_without_a_gateway_and_an_action_outside_of_mcp() {
        let mut figures = figures();
        let text = figures.to_markdown();
        let row = "| 64 MCP clients | 500 | 1.50 | 4.00 | 500 | 0.50 | 4.00 | 500 | 0.50 | 4.00 | 1.00 | 1.00 | 1.00 |";
        assert!(text.contains(row), "{text}");
        let gateway = figures.gateway.as_mut().expect("it was measured");
        gateway.runs.retain(|run| run.name != MAIN);
        let text = figures.to_markdown();
        assert!(text.contains("| 0.50 | 4.00 | 1.00 | – | – |"), "nothing to compare with: {text}");
        assert_eq!(figures.targets_of_tools().len(), 1);
    }

    #[test]
    fn a_long_session_is_a_load_like_others_and_shows_what_its_length_costs() {
        let figures = figures();
        let text = figures.to_markdown();
        assert!(text.contains("| long | 900 |"), "{text}");
        for row in ["| 100th | 0.80 |", "| 5,000th | 2.00 |", "| 10,000th | 0.84 |"] {
            assert!(text.contains(row), "{text}");
        }
        let all = figures.to_json().expect("plain figures");
        assert_eq!(all["gateway"]["session"]["cycles"][2], json!({"number": 10_000, "p50_ms": 0.84}));
        let memory = figures.targets().into_iter().find(|target| target.what.starts_with("resident memory"));
        assert_eq!(memory.map(|target| target.measured), Some("150 MB".to_owned()));
    }

    #[test]
    fn a_debug_build_is_held_to_no_target() {
        let mut figures = figures();
        assert!(figures.to_markdown().contains("**missed**"));
        figures.machine.build = DEBUG;
        let text = figures.to_markdown();
        assert!(!text.contains("target") && !text.contains("missed"), "{text}");
    }

    #[test]
    fn json_holds_what_follows_from_the_figures_too() {
        let all = figures().to_json().expect("plain figures");
        assert_eq!(all["derived"]["bound"].as_f64().map(f64::round), Some(50_000.0));
        assert_eq!(all["gateway"]["runs"][1]["per_second"], 10_000.0);
        assert_eq!(all["derived"]["targets"].as_array().map(Vec::len), Some(14));
    }

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_head() {
        let mut width = None;
        for text in figures().to_markdown().lines() {
            let cells = text.starts_with('|').then(|| text.matches(" |").count());
            assert!(width.is_none() || cells.is_none() || cells == width, "{text}");
            width = cells;
        }
    }

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([0.4, 999.0, 1000.0, 1_234_567.0].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn flat_memory_does_not_grow() {
        let flat: Vec<u64> = std::iter::repeat_n(100, 20).collect();
        assert_eq!(growth(&flat), Some(1.0));
        let leaking: Vec<u64> = (1..=20).map(|n| n * 100).collect();
        assert!(growth(&leaking).is_some_and(|growth| growth > 2.0));
    }
}
