//! `countersign approvals`: what waits for a person, and that person's word.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{Api, encoded};
use crate::error::Result;
use crate::out;

/// See what waits for a person, and decide on it
///
/// Whoever asked for an action, or gave the right to ask, does not decide on it. Nothing about it can be changed.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List what waits, newest first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one action in full: what, how much, to whom, why it waits, whether it can be undone
    Show {
        /// The action's id (`transaction_id`)
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Agree to exactly what is shown
    Approve(Decision),
    /// Say no, which ends the action
    Reject(Decision),
}

#[derive(clap::Args)]
struct Decision {
    /// The action's id (`transaction_id`)
    #[arg(value_name = "ID")]
    id: String,
    /// One line for other people
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    let decide = |decision: &Decision, word: &str| {
        let path = format!("/v1/actions/{}/{word}", encoded(&decision.id));
        out::json(&client.post(&path, &json!({"comment": decision.comment}))?)
    };
    match &args.command {
        Command::List { json } => {
            let held = client.list("/v1/approvals")?;
            if *json {
                out::json(&Value::from(held))?;
            } else {
                out::table(
                    ["action", "archetype", "agent", "amount", "why", "agreed", "expires"],
                    &rows(&held),
                )?;
            }
        }
        Command::Show { id } => {
            out::json(&client.get(&format!("/v1/approvals/{}", encoded(id)))?)?;
        }
        Command::Approve(decision) => decide(decision, "approve")?,
        Command::Reject(decision) => decide(decision, "reject")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(held: &[Value]) -> Vec<[String; 7]> {
    let text = |value: &Value| value.as_str().map_or_else(|| "–".to_owned(), out::shown);
    let row = |action: &Value| {
        let amount = match (action["amount"].as_str(), action["currency"].as_str()) {
            (Some(amount), Some(currency)) => format!("{amount} {currency}"),
            _ => "–".to_owned(),
        };
        let reasons = action["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
        // Of an earlier hold nothing counts any more.
        let agreed = action["approvals"].as_array().into_iter().flatten();
        let agreed = agreed.filter(|it| it["escalation_id"] == action["escalation_id"]).count();
        [
            text(&action["action_id"]),
            text(&action["archetype"]),
            text(&action["agent_id"]),
            amount,
            reasons.map(out::shown).collect::<Vec<_>>().join(","),
            format!("{agreed} of {}", action["approvals_needed"]),
            text(&action["expires_at"]),
        ]
    };
    held.iter().map(row).collect()
}
