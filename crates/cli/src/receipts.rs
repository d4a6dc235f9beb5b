//! `countersign receipts`: receipts and their proofs, fetched for others to verify.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::api::{Api, encoded};
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
    /// `countersign verify --issuer PIN FILE` checks it with nothing else.
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
    let (text, _) = args.api.client()?.page(&format!("/v1/receipts/{}/{what}", encoded(id)))?;
    match out {
        None => out::line(text)?,
        Some(file) if file.exists() => {
            return Err(Error::new(format!("`{}` is there already", file.display()))
                .hint("name another file, or remove it"));
        }
        Some(file) => {
            std::fs::write(file, text).while_we(|| format!("cannot write `{}`", file.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
