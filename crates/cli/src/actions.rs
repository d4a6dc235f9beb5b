//! `countersign actions`: what can be done about actions that were asked for.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::Api;
use crate::error::Result;
use crate::out;

/// See to actions that were asked for
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Undo the effects of actions, the newest first, up to the first that is not undone
    ///
    /// If any of them cannot be undone, none is. Asked again, it goes on where it stopped. Ends with 1 unless all are undone.
    Rollback {
        /// Ids of actions, in any order
        #[arg(value_name = "ID", required = true, num_args = 1..=100)]
        actions: Vec<String>,
        #[command(flatten)]
        api: Api,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Command::Rollback { actions, api } = &args.command;
    let answer = api.client()?.post("/v1/rollbacks", &json!({ "actions": actions }))?;
    out::json(&answer)?;
    let undone = |it: &Value| it["result"] == "rolled_back";
    let all = answer["actions"].as_array().is_some_and(|actions| actions.iter().all(undone));
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
