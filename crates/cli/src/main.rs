//! The `countersign` program.
//!
//! One binary, one module per command. What a command does lives in the crates; here it is read from the command
//! line, run, and told to a person: results on stdout, everything else on stderr, a failure with what happened and
//! what to do about it.
//!
//! ```text
//!   serve, demo, demo-bank            run a gateway, or a bank to put it in front of
//!   run                               run a command as an action
//!   mcp                               put MCP servers under a gateway
//!   verify                            check receipts, offline
//!   recover                           let a store be used again that was put back
//!   store                             move a store into a database, and put its old months together
//!   catalog, policy                   check files before a gateway reads them
//!   keys, mandate, session, cluster,  change a running gateway, as clients of its API
//!   actions, approvals, approvers, freeze, thaw, observe,
//!   reload, replay, erase
//!   audit, report                     read the trail of a running gateway, and prove it whole
//!   witness                           cosign other gateways' transparency logs
//!   bench                             measure this machine and a gateway on it
//!   selftest                          prove what is promised, on this machine
//! ```
//!
//! Deliberately absent: any way to change a store beside the gateway that holds it. What works on the data directory
//! takes its lock first.

mod actions;
mod api;
mod approvals;
mod approvers;
mod audit;
mod bench;
mod bindings;
mod catalog;
mod child;
mod cluster;
mod crash;
mod demo;
mod erase;
mod error;
mod freeze;
mod keys;
mod mandate;
mod mcp;
mod mistakes;
mod monitor;
mod out;
mod policy;
mod principals;
mod receipts;
mod reconcile;
mod recover;
mod replay;
mod report;
mod resting;
mod run;
mod selftest;
mod serve;
mod session;
mod store;
mod verify;
mod witness;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

use error::{Error, Result};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The action layer for AI agents: one structured action in, one signed outcome out.
#[derive(Parser)]
#[command(name = "countersign", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    Run(Box<run::Args>),
    Verify(verify::Args),
    Receipts(receipts::Args),
    Recover(recover::Args),
    Store(store::Args),
    Keys(keys::Args),
    Mandate(mandate::Args),
    Mcp(Box<mcp::Args>),
    Principals(principals::Args),
    Session(session::Args),
    Cluster(cluster::Args),
    Actions(actions::Args),
    Approvals(approvals::Args),
    Approvers(approvers::Args),
    Freeze(freeze::FreezeArgs),
    Thaw(freeze::ThawArgs),
    Observe(freeze::ObserveArgs),
    Catalog(catalog::Args),
    Policy(policy::Args),
    Reload(replay::ReloadArgs),
    Replay(replay::Args),
    Erase(erase::Args),
    Audit(audit::Args),
    Report(report::Args),
    Bench(bench::Args),
    Selftest(selftest::Args),
    Witness(witness::Args),
    DemoBank(demo::BankArgs),
}

fn main() -> ExitCode {
    plain_where_nobody_looks();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => return usage(refusal),
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => tell(error),
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Receipts(args) => receipts::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Mandate(args) => mandate::run(&args),
        Command::Mcp(args) => mcp::run(&args),
        Command::Principals(args) => principals::run(&args),
        Command::Session(args) => session::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Actions(args) => actions::run(&args),
        Command::Approvals(args) => approvals::run(&args),
        Command::Approvers(args) => approvers::run(&args),
        Command::Freeze(args) => freeze::freeze(&args),
        Command::Thaw(args) => freeze::thaw(&args),
        Command::Observe(args) => freeze::observe(&args),
        Command::Catalog(args) => catalog::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Reload(args) => replay::reload(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Erase(args) => erase::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Witness(args) => witness::run(&args),
        Command::DemoBank(args) => demo::bank(&args),
    }
}

/// Help goes to stdout and is no failure. A command line we cannot read ends with 64, because 2 is what `verify`
/// says when time is unproven.
fn usage(mut refusal: clap::Error) -> ExitCode {
    // An address with a mistake has its password all the same.
    let is_store = |arg: &ContextValue| matches!(arg, ContextValue::String(arg) if STORES.iter().any(|name| arg.starts_with(name)));
    if refusal.get(ContextKind::InvalidArg).is_some_and(is_store) {
        refusal.insert(ContextKind::InvalidValue, ContextValue::String("…".to_owned()));
    }
    let _ = refusal.print();
    if refusal.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
}

/// The options that name a store.
const STORES: [&str; 2] = ["--store", "--to"];

/// Mistakes are broken into lines for a terminal. Whoever reads them from a file or a pipe looks for words that stand together.
fn plain_where_nobody_looks() {
    if !io::stderr().is_terminal() {
        let set = miette::set_hook(Box::new(|_| {
            Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).build())
        }));
        // Only a second one in one process could fail.
        drop(set);
    }
}

fn tell(error: Error) -> ExitCode {
    // Whoever read our output has seen enough; the shell's word for that is 128 + SIGPIPE.
    if error.is_broken_pipe() {
        return ExitCode::from(141);
    }
    out::note(format_args!("{:?}", miette::Report::new(error)));
    ExitCode::FAILURE
}
