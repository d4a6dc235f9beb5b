//! `countersign demo`: the whole path, seen from outside.
//!
//! A bank and a gateway run as processes of their own; an agent and an operator speak to the gateway over HTTP, and
//! the bank's books say what really happened. When both are gone, the receipts are verified from files alone.

mod narrator;
mod process;
mod proof;
mod story;
mod world;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use testkit::bank;

use crate::error::{Context, Error, Result};
use crate::out;
use narrator::Narrator;
use proof::Folder;
use world::World;

/// Watch a gateway work: eight actions against a small bank, then their receipts verified without either
///
/// Exit code: 0 when everything came out as said, 1 otherwise.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object instead of the story
    #[arg(long)]
    json: bool,
    /// Where to leave receipts, key set and issuer pin; without it a new folder among the temporary ones
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let folder = Folder::prepare(args.dir.as_deref())?;
    let mut narrator = Narrator::new(args.json);
    narrator.open()?;
    let world = World::begin()?;
    narrator.cast(&world)?;
    let receipts = story::tell(&world, &mut narrator)?;
    folder.keep(&world, &receipts)?;
    // From here on there are only files.
    world.end();
    proof::tell(&folder, &receipts, &mut narrator)?;

    let ok = narrator.steps().iter().all(|step| step.ok);
    if args.json {
        out::json(&json!({"steps": narrator.steps(), "receipts_dir": folder.receipts(), "ok": ok}))?;
    } else {
        narrator.close(&folder, ok)?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Run the demo's bank alone, to put a gateway in front of: a small HTTP service, until its stdin closes
///
/// It pays from an account of one million US dollars, each payment once per idempotency key. When it is ready it prints one
/// line on stdout, `listening on http://…`. It forgets everything when it ends, except for the journal.
#[derive(clap::Args)]
pub(crate) struct BankArgs {
    /// The token that its callers must carry
    #[arg(long, env = TOKEN_VARIABLE, hide_env_values = true)]
    token: String,
    /// Loopback port to listen on; without it, whichever is free
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// File to which every payment is appended, a line of JSON each, before it is answered
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

pub(crate) fn bank(args: &BankArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.while_we(|| "cannot start the bank".to_owned())?;
    end_with_stdin();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let options = bank::Options {
        token: args.token.clone(),
        journal: args.journal.clone(),
        ..bank::Options::default()
    };
    let ready = |address: SocketAddr| {
        let _ = out::line(format_args!("listening on http://{address}"));
    };
    runtime
        .block_on(bank::serve(listen, options, ready))
        .map_err(|error| Error::new("the bank broke off").because(error))?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever started the bank holds its stdin; when they are gone, however that came, nobody needs a bank.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

/// Both the bank and the gateway's secret `bank` read it.
const TOKEN_VARIABLE: &str = "DEMO_BANK_TOKEN";
