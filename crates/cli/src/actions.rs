//! `countersign actions`: what can be done about actions that were asked for.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{Api, Client, encoded};
use crate::error::Result;
use crate::out;

/// See to actions that were asked for
///
/// Prints the action's record, as it stands then. An action of the sandbox is seen to with /sandbox behind the gateway's URL.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show an action: where it stands, its attempts, its receipts, what was last answered
    Show(One),
    /// Have an action that was sent and failed tried once more, judged anew
    Retry(One),
    /// Call off an action that is not sent
    Cancel(One),
    /// Charge what is reserved for an action, or a part of it
    Capture {
        #[command(flatten)]
        one: One,
        /// How much, in the action's currency; all of it, if nothing is said
        #[arg(long, value_name = "AMOUNT")]
        amount: Option<String>,
    },
    /// Set free what is reserved for an action, which has failed then
    Release(One),
    /// Undo the effects of actions, the newest first, up to the first that is not undone
    ///
    /// If any of them cannot be undone, none is. Asked again, it goes on where it stopped. Prints what became of each, and
    /// ends with 1 unless all are undone.
    Rollback {
        /// Ids of actions, in any order
        #[arg(value_name = "ID", required = true, num_args = 1..=100)]
        actions: Vec<String>,
    },
}

#[derive(clap::Args)]
struct One {
    /// The action's id (`transaction_id`)
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let api = &args.api;
    let record = match &args.command {
        Command::Show(One { id }) => api.anyone()?.get(&format!("/v1/actions/{}", encoded(id)))?,
        Command::Retry(one) => have(&api.client()?, one, "retry", &json!({}))?,
        Command::Cancel(one) => have(&api.client()?, one, "cancel", &json!({}))?,
        Command::Capture { one, amount } => {
            have(&api.client()?, one, "capture", &json!({ "amount": amount }))?
        }
        Command::Release(one) => have(&api.client()?, one, "release", &json!({}))?,
        Command::Rollback { actions } => return roll_back(&api.client()?, actions),
    };
    out::json(&record)?;
    Ok(ExitCode::SUCCESS)
}

fn have(client: &Client, One { id }: &One, done: &str, how: &Value) -> Result<Value> {
    client.post(&format!("/v1/actions/{}/{done}", encoded(id)), how)
}

fn roll_back(client: &Client, actions: &[String]) -> Result<ExitCode> {
    let answer = client.post("/v1/rollbacks", &json!({ "actions": actions }))?;
    out::json(&answer)?;
    let undone = |it: &Value| it["result"] == "rolled_back";
    let all = answer["actions"].as_array().is_some_and(|actions| actions.iter().all(undone));
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
