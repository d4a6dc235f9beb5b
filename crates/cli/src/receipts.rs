//! `countersign receipts`: receipts and their proofs, fetched for others to verify.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use gateway::NOT_LOGGED_YET;
use receipt::MAX_BYTES;

use crate::api::{Api, Client, encoded, refusal};
use crate::error::{Context, Error, Result};
use crate::out;

/// Fetch a receipt with all that proves it was logged
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write a proof bundle: receipt, key set, inclusion proof and checkpoint in one file
    ///
    /// `countersign verify --issuer PIN FILE` checks it with nothing else. Waits for what was carried out just now.
    Export {
        /// The receipt's id
        #[arg(value_name = "ID")]
        id: String,
        /// Where to; without it, to stdout
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Only the proof, for `verify --proof`
        #[arg(long)]
        proof: bool,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Command::Export { id, out, proof } = &args.command;
    let what = if *proof { "proof" } else { "bundle" };
    let (client, path) = (args.api.client()?, format!("/v1/receipts/{}/{what}", encoded(id)));
    let there = |file: &Path| {
        Error::new(format!("`{}` is there already", file.display())).hint("name another file, or remove it")
    };
    // Known before it is waited for.
    if let Some(file) = out.as_deref().filter(|file| file.exists()) {
        return Err(there(file));
    }
    let text = once_logged(&client, &path)?.map_err(|said| refusal(&said, 404))?;
    match out {
        None => out::line(String::from_utf8_lossy(&text))?,
        Some(file) => {
            let cannot = || format!("cannot write `{}`", file.display());
            let mut new = match OpenOptions::new().write(true).create_new(true).open(file) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(there(file)),
                opened => opened.while_we(cannot)?,
            };
            new.write_all(&text).while_we(cannot)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the log has there, or what the gateway says instead. What was carried out just now is waited for: it takes about a second.
pub(crate) fn once_logged(
    client: &Client,
    path: &str,
) -> Result<std::result::Result<Vec<u8>, serde_json::Value>> {
    for _ in 0..MOST_TRIES {
        match client.found(path, 2 * MAX_BYTES)? {
            Err(said) if said["message"] == NOT_LOGGED_YET => std::thread::sleep(BETWEEN_TRIES),
            found => return Ok(found),
        }
    }
    client.found(path, 2 * MAX_BYTES)
}

const MOST_TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
