//! `countersign reload` and `countersign replay`: the rules, taken in anew and asked again.

use std::process::ExitCode;

use serde_json::json;

use crate::api::{Api, encoded};
use crate::error::Result;
use crate::out;

/// Have the gateway read catalogue and policies again, as one swap that a mistake cannot start
#[derive(clap::Args)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    api: Api,
}

/// Decide an action of the past again, from its stored decision record, and compare the verdicts
///
/// Exit code: 0 the same verdict, 1 another, or none because the action was erased.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The action's id (`transaction_id`)
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    api: Api,
}

pub(crate) fn reload(args: &ReloadArgs) -> Result<ExitCode> {
    out::json(&args.api.client()?.post("/v1/reload", &json!({}))?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let answer = args.api.client()?.get(&format!("/v1/actions/{}/replay", encoded(&args.id)))?;
    out::json(&answer)?;
    Ok(if answer["result"] == "same" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
