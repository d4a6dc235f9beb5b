//! The Model Context Protocol as its own conformance suite sees it: what an upstream passes when it is asked directly, it
//! passes through the gateway too, in both revisions.
//!
//! Where Python's SDK, Node or the suite are missing a test says so and passes; with `COUNTERSIGN_TEST_MUST_RUN` set it
//! fails instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "mcp/everything.rs"]
mod everything;
#[path = "mcp/found.rs"]
mod found;
#[allow(dead_code, reason = "shared with the tests of other programs")]
#[path = "others/gateway.rs"]
mod gateway;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::everything::Everything;
use crate::gateway::{Gateway, said};

const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];

#[test]
fn an_upstream_asked_directly_passes_what_is_written_down() {
    let (Some(suite), Some(upstream)) = (Suite::found(), Everything::start()) else { return };
    for (revision, outcome) in suite.run(&upstream.url, "nobody") {
        let passed = outcome.iter().filter(|(_, seen)| seen.failures.is_empty());
        let passed: BTreeSet<&str> = passed.map(|(scenario, _)| &**scenario).collect();
        let written = [Weight::Required, Weight::Unscored].map(|weight| written(revision, weight));
        assert_eq!(passed, written.into_iter().flatten().collect(), "at {revision}: {outcome:#?}");
    }
}

#[test]
fn what_passes_directly_passes_through_the_gateway() {
    let (Some(suite), Some(upstream)) = (Suite::found(), Everything::start()) else { return };
    // One after the other: what it remembers of one client it tells the next.
    let directly = suite.run(&upstream.url, "nobody");
    let gateway = before(&upstream);
    let key = gateway.key_with_mandate("conformance", "Mcp");
    let outcomes = suite.run(&format!("{}/mcp/everything", gateway.url), &key);
    for scenario in lost(&outcomes, Weight::Unscored) {
        eprintln!("not required, and lost in the gateway: {scenario}");
    }
    let mut lost = lost(&outcomes, Weight::Required);
    for ((revision, directly), (_, through)) in directly.iter().zip(&outcomes) {
        lost.extend(worse(revision, directly, through));
    }
    assert!(lost.is_empty(), "lost in the gateway:\n{}", lost.join("\n"));
}

/// What is found good directly and not through the gateway, be it that the suite only warns of it.
fn worse(revision: &str, directly: &Outcome, through: &Outcome) -> Vec<String> {
    let required = written(revision, Weight::Required).into_iter();
    let both = required.filter_map(|it| Some((it, directly.get(it)?, through.get(it)?)));
    let lost = both.flat_map(|(scenario, directly, through)| {
        let lost = directly.good.difference(&through.good).filter(|id| **id != ANSWERED_UNASKED);
        lost.map(move |id| format!("{revision} {scenario}: {id}"))
    });
    lost.collect()
}

/// Answers that come with a call before its server asked anything: who has the call made is asked all the same, for nothing says
/// what the answers are to.
const ANSWERED_UNASKED: &str = "sep-2322-ignore-unexpected-params";

/// What passes directly and did not here, with what failed in it.
fn lost(outcomes: &[(&str, Outcome)], weight: Weight) -> Vec<String> {
    let mut lost = Vec::new();
    for (revision, outcome) in outcomes {
        for scenario in written(revision, weight) {
            match outcome.get(scenario) {
                Some(Seen { failures, .. }) if failures.is_empty() => {}
                Some(Seen { failures, .. }) => lost.push(format!("{revision} {scenario}: {failures:#?}")),
                None => lost.push(format!("{revision} {scenario}: it was not run")),
            }
        }
    }
    lost
}

/// Whether a revision requires a scenario, or runs it for the report alone.
#[derive(Clone, Copy, PartialEq)]
enum Weight {
    Required,
    Unscored,
}

/// The scenarios that pass directly.
fn written(revision: &str, weight: Weight) -> BTreeSet<&'static str> {
    let lines = include_str!("mcp/conformance.txt").lines();
    let scenarios = lines.filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [of, scenario] if of == revision => Some((scenario, Weight::Required)),
        [of, scenario, "unscored"] if of == revision => Some((scenario, Weight::Unscored)),
        _ => None,
    });
    scenarios.filter(|(_, its)| *its == weight).map(|(scenario, _)| scenario).collect()
}

/// A gateway with this upstream, imported as an operator would, whose every tool an agent may call as often as it likes.
fn before(upstream: &Everything) -> Gateway {
    let (url, address) = (&upstream.url, upstream.address());
    let egress = format!("[egress]\nallow = ['{address}']\nplain_http = ['{address}']\n");
    let client =
        format!("{{\"mcpServers\": {{\"everything\": {{\"type\": \"http\", \"url\": \"{url}\"}}}}}}");
    let files = [
        ("policies/default/mcp.cedar", "permit (principal, action, resource);\n"),
        ("catalogue/default/none", ""),
        ("more.toml", &egress),
        ("client.json", &client),
    ];
    Gateway::prepared(&files, |config| {
        let folder = config.parent().unwrap();
        let import = ["mcp", "import", "--config"].map(OsString::from).into_iter();
        said(import.chain([config.into(), folder.join("client.json").into()]));
        for file in std::fs::read_dir(folder.join("catalogue/default")).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(path, text.replace("on = \"escalate\"", "on = \"allow\"")).unwrap();
        }
    })
}

/// The package `@modelcontextprotocol/conformance`, and a Node that is new enough for it.
struct Suite {
    node: OsString,
    package: PathBuf,
}

/// What was seen in each scenario that was run.
type Outcome = BTreeMap<String, Seen>;

#[derive(Debug, Default)]
struct Seen {
    /// What failed: nothing, where it passed.
    failures: Vec<String>,
    /// The checks of which nothing but good was seen, by their ids.
    good: BTreeSet<String>,
}

impl Suite {
    fn found() -> Option<Suite> {
        let (node, package) = found::node("@modelcontextprotocol/conformance/dist/index.js")?;
        Some(Suite { node, package })
    }

    /// Runs both revisions, as whoever has the key; at once, for most of the time is waiting.
    fn run(&self, url: &str, key: &str) -> [(&'static str, Outcome); 2] {
        std::thread::scope(|scope| {
            let runs = REVISIONS.map(|revision| (revision, scope.spawn(move || self.at(revision, url, key))));
            runs.map(|(revision, run)| (revision, run.join().unwrap()))
        })
    }

    /// Runs what a revision requires, and what it has besides.
    fn at(&self, revision: &str, url: &str, key: &str) -> Outcome {
        let results = tempfile::tempdir().unwrap();
        let mut command = Command::new(&self.node);
        command.arg("--import").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/authorize.mjs"));
        command.arg(&self.package).args(["server", "--url", url, "--requirements", revision, "--output-dir"]);
        let output = command.arg(results.path()).env("CONFORMANCE_KEY", key).output().unwrap();
        let outcome = read(results.path());
        assert!(!outcome.is_empty(), "the suite ran nothing: {}", String::from_utf8_lossy(&output.stderr));
        outcome
    }
}

/// From folders `server-SCENARIO-TIME`; where a scenario came to no end there is no file in it.
fn read(results: &Path) -> Outcome {
    let folders = std::fs::read_dir(results).unwrap().map(|folder| folder.unwrap());
    let outcome = folders.map(|folder| {
        let name = folder.file_name().into_string().unwrap();
        let (scenario, _) = name.split_at(name.len() - "-2026-07-28T00-00-00-000Z".len());
        let seen = match std::fs::read(folder.path().join("checks.json")) {
            Ok(checks) => Seen::of(&serde_json::from_slice(&checks).unwrap()),
            Err(_) => Seen { failures: vec!["it came to no end".to_owned()], ..Seen::default() },
        };
        (scenario.strip_prefix("server-").unwrap().to_owned(), seen)
    });
    outcome.collect()
}

impl Seen {
    fn of(checks: &Value) -> Seen {
        let of = |statuses: &'static [&str]| {
            let has = move |check: &&Value| statuses.iter().any(|status| check["status"] == *status);
            checks.as_array().unwrap().iter().filter(has)
        };
        let ids = |statuses| of(statuses).map(|check| check["id"].as_str().unwrap().to_owned());
        let failures = of(&["FAILURE"]).map(|check| format!("{}: {}", check["id"], check["errorMessage"]));
        let bad: BTreeSet<String> = ids(&["FAILURE", "WARNING"]).collect();
        let good = ids(&["SUCCESS"]).filter(|id| !bad.contains(id));
        Seen { failures: failures.collect(), good: good.collect() }
    }
}
