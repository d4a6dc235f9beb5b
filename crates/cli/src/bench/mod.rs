//! `countersign bench`: what this machine can do at best, and what the gateway does on it.
//!
//! ```text
//!   floors    the libraries alone, one thread: sign, verify, chain, canonical form, parse + schema, Cedar
//!   disk      4 KB append + fdatasync, batched rows, in the data directory
//!   echo      bare axum, same client, same bytes in and out            ─┐ each a process of its own,
//!   gateway   `countersign serve`, production, mandates, ten policies  ─┤ driven by a third:
//!   tools     `tools/call` of an MCP server in this process: directly, through a bare proxy, and through a gateway
//!   proof     `countersign verify --jsonl`                              │ `bench client`
//!   shared    one gateway and three of them on PostgreSQL, under the load of the main path (if asked for)
//!   recovery  `kill -9` with 10,000 actions in flight, and what the next process takes to settle them
//!   log       a transparency log that grows by a backlog                  (if asked for)
//!   trail     `GET /v1/audit` over a store filled in this process       (if asked for)
//! ```
//!
//! **Floors call the libraries themselves**, never our crates: what is slow in our code has to lower the ratio, not
//! the bound. One run on one machine measures everything, because machines differ and are noisy; figures of two runs
//! are not to be compared, the ratios inside each are.
//!
//! **The gateway is measured as its users meet it**: the real program with a configuration file, over HTTP, with a
//! fresh store for each run. Its provider is the sandbox's, inside the process, bound by this bench's own catalogue.
//! The load client sends prebuilt bytes and shares the machine; its CPU is printed beside the gateway's.
//!
//! Deliberately absent: a verdict as an exit code. A timed test fails on someone else's machine; the targets are
//! printed with what was measured, for a person to judge.

mod client;
mod disk;
mod echo;
mod floors;
mod load;
mod log;
mod machine;
mod process;
mod proof;
mod proxy;
mod recovery;
mod report;
mod runs;
mod sample;
mod served;
mod shared;
mod tell;
mod tools;
mod trail;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::Result;
use crate::out;

/// Measure this machine and the gateway on it
///
/// Starts gateways of its own with stores in a temporary folder; needs no configuration and touches no other gateway.
/// Takes about five minutes.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Short runs: to see that everything works, not to quote
    #[arg(long)]
    quick: bool,
    /// Of the runs of the gateway only the one of this name, or those whose names contain it; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "floors")]
    only: Vec<String>,
    /// How long each run lasts, after its warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// End each run of the gateway after so many actions instead
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    actions: Option<u64>,
    /// At the end, put so many actions through one gateway and watch its memory
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    soak: Option<u64>,
    /// At the end, fill a store with so many ledger entries and time the audit trail's first page by every filter
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(100..))]
    audit: Option<u64>,
    /// At the end, let a transparency log grow by so many leaves at once and time proofs of it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..))]
    log: Option<u64>,
    /// Only what needs no gateway: floors, disk, echo and `verify --jsonl`
    #[arg(long, conflicts_with_all = ["actions", "soak", "audit", "log"])]
    floors: bool,
    /// Run the main load with a store that gateways share, too: an empty database, or `postgres:` for a server of our own
    #[arg(long, value_name = "URL", conflicts_with = "floors")]
    store: Option<shared::Place>,
    /// Where temporary stores are made: put it on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
    /// Print one JSON object instead of Markdown
    #[arg(long)]
    json: bool,
}

/// What the processes beside the measuring one do.
#[derive(clap::Subcommand)]
enum Role {
    /// Sends prebuilt requests, as told on stdin.
    #[command(hide = true)]
    Client,
    /// Answers every request with so many bytes.
    #[command(hide = true)]
    Echo(echo::Args),
    /// Passes every request on.
    #[command(hide = true)]
    Proxy(proxy::Args),
}

/// How much is spent on each figure.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Repetitions of a floor, of which the median counts.
    rounds: usize,
    /// How long a repetition lasts.
    round: Duration,
    warm_up: Duration,
    until: load::Until,
    /// Receipts verified for the rate of `verify --jsonl`.
    receipts: usize,
    /// Starts timed.
    starts: usize,
    /// Actions in flight when a gateway is killed.
    in_flight: u64,
    /// Where in a long session cycles are looked at.
    cycles: &'static [u64],
}

impl Effort {
    fn of(args: &Args) -> Effort {
        let lasting = |seconds| load::Until::Millis(seconds * 1000);
        let until =
            args.actions.map_or(lasting(if args.quick { 2 } else { args.seconds }), load::Until::Actions);
        if args.quick {
            let (round, warm_up) = (Duration::from_millis(5), Duration::from_millis(500));
            let cycles = &[100, 1_000];
            return Effort {
                rounds: 7,
                round,
                warm_up,
                until,
                receipts: 2_000,
                starts: 2,
                in_flight: 1_000,
                cycles,
            };
        }
        let (round, warm_up) = (Duration::from_millis(20), Duration::from_secs(2));
        let cycles = &[100, 1_000, 5_000, 10_000];
        Effort { rounds: 31, round, warm_up, until, receipts: 20_000, starts: 5, in_flight: 10_000, cycles }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.role {
        Some(Role::Client) => client::run()?,
        Some(Role::Echo(args)) => echo::run(args)?,
        Some(Role::Proxy(args)) => proxy::run(args)?,
        None => measure(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args) -> Result<()> {
    if cfg!(debug_assertions) {
        out::note(format_args!(
            "this is a debug build: its figures mean nothing; use `cargo run --release -- bench`"
        ));
    }
    process::allow_many_files();
    let figures = runs::all(args, Effort::of(args))?;
    if args.json { out::json(&figures.to_json()?) } else { out::line(figures.to_markdown().trim_end()) }
}
