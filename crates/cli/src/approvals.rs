//! `countersign approvals`: what waits for a person, and that person's word.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{Api, encoded};
use crate::error::Result;
use crate::out;

/// See what waits for a person, and decide on it
///
/// Whoever asked for an action, or gave the right to ask, does not decide on it. Nothing about it can be changed; a yes
/// may go less far than was asked.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List what waits, newest first, and what only a person can settle
    List {
        /// Print JSON: every action, each with its `action_id`
        #[arg(long)]
        json: bool,
    },
    /// Show one action in full: what, how much, to whom, why it waits, whether it can be undone
    Show {
        /// The action's id (`transaction_id`)
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Agree to exactly what is shown, or no further than the limits given
    Approve(Yes),
    /// Say no, which ends the action
    Reject(Decision),
    /// Ask the agent something about a cycle of a governed session; it waits on, and its time runs on
    Ask {
        /// The action's id (`transaction_id`)
        #[arg(value_name = "ID")]
        id: String,
        /// What the agent is asked, in one line
        #[arg(value_name = "QUESTION")]
        question: String,
    },
    /// Give a cycle that found no time left more of it, for all sessions of its mandate
    Extend {
        /// The action's id (`transaction_id`)
        #[arg(value_name = "ID")]
        id: String,
        /// How much more: `90s`, `15m`, `8h`, `30d`
        #[arg(long, value_name = "TIME", value_parser = crate::mandate::seconds)]
        by: u64,
        /// One line for other people
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Say no to a cycle and end its session, its mandate and whatever descends from that
    RevokeMission(Decision),
    /// Say what became of an action that is in doubt, or could not be undone, where nobody else does
    Resolve(Word),
}

#[derive(clap::Args)]
struct Yes {
    #[command(flatten)]
    decision: Decision,
    /// The most that may be at stake, in the action's currency
    #[arg(long, value_name = "AMOUNT")]
    max_amount: Option<String>,
    /// Nothing is sent after this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    not_after: Option<String>,
    /// Of a cycle of a governed session: the limits hold for whatever its session does from now on
    #[arg(long)]
    for_session: bool,
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

#[derive(clap::Args)]
struct Word {
    /// The action's id (`transaction_id`)
    #[arg(value_name = "ID")]
    id: String,
    /// What became of it: `executed` or `failed` of a doubt, `rolled_back` or `executed` (it stays) of what could not be undone,
    /// `released`, `executed` (it was charged) or `try_again` of what could not be set free, `executed` (it stays) or `undo`
    /// of what nobody knows to be as it should be
    #[arg(long = "as", value_name = "WORD", value_parser = gateway::Decision::ALL.map(gateway::Decision::as_str))]
    decision: String,
    /// How you know, in one line
    #[arg(long, value_name = "TEXT")]
    comment: String,
    /// With `executed`: what was charged, if it is less than what was reserved
    #[arg(long, value_name = "AMOUNT")]
    charged: Option<String>,
    /// With `executed`: what the provider calls the effect
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    let decide = |decision: &Decision, word: &str| {
        let path = format!("/v1/actions/{}/{word}", encoded(&decision.id));
        out::json(&client.post(&path, &json!({"comment": decision.comment}))?)
    };
    let rule = |id: &str, ruling: &str, more: &Value| {
        let mut body = more.clone();
        body["decision"] = ruling.into();
        out::json(&client.post(&format!("/v1/actions/{}/decide", encoded(id)), &body)?)
    };
    match &args.command {
        Command::List { json } => {
            let mut held = client.list("/v1/approvals")?;
            let mut first = client.get("/v1/approvals?limit=1")?;
            if let Value::Array(unresolved) = first["unresolved"].take() {
                held.extend(unresolved);
            }
            // Beside the list, which has nothing but actions in it.
            first["deadlocks"].as_array().into_iter().flatten().for_each(deadlock);
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
        Command::Approve(Yes { decision, max_amount: None, not_after: None, for_session: false }) => {
            decide(decision, "approve")?;
        }
        Command::Approve(Yes { decision, max_amount, not_after, for_session }) => rule(
            &decision.id,
            "APPROVE_WITH_CONSTRAINTS",
            &json!({
                "comment": decision.comment,
                "limits": {
                    "max_amount": max_amount, "not_after": not_after, "applies_to": for_session.then_some("SESSION"),
                },
            }),
        )?,
        Command::Reject(decision) => decide(decision, "reject")?,
        Command::Ask { id, question } => rule(id, "REQUEST_MORE_INFO", &json!({"question": question}))?,
        Command::Extend { id, by, comment } => {
            rule(id, "EXTEND_BUDGET", &json!({"seconds": by, "comment": comment}))?;
        }
        Command::RevokeMission(Decision { id, comment }) => {
            rule(id, "REVOKE_MISSION", &json!({"comment": comment}))?;
        }
        Command::Resolve(Word { id, decision, comment, charged, reference }) => {
            let charged = charged.as_ref().map(|amount| json!({"amount": amount}));
            let word =
                json!({"as": decision, "comment": comment, "charged": charged, "reference": reference});
            out::json(&client.post(&format!("/v1/actions/{}/resolve", encoded(id)), &word)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn deadlock(circle: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| "–".to_owned(), out::shown);
    let sessions: Vec<String> = circle["sessions"].as_array().into_iter().flatten().map(text).collect();
    out::note(format_args!(
        "deadlock in {}: {}; end one of them with `countersign cluster wait SESSION`, `countersign cluster leave` or \
         `countersign session close SESSION --as revoked`",
        text(&circle["cluster_id"]),
        sessions.join(" waits for ")
    ));
}

fn rows(held: &[Value]) -> Vec<[String; 7]> {
    let text = |value: &Value| value.as_str().map_or_else(|| "–".to_owned(), out::shown);
    let row = |action: &Value| {
        let amount = match (action["amount"].as_str(), action["currency"].as_str()) {
            (Some(amount), Some(currency)) => format!("{amount} {currency}"),
            _ => "–".to_owned(),
        };
        let unresolved = action["unresolved"].as_str();
        let reasons = action["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let reasons: Vec<String> = match unresolved {
            Some(unresolved) => vec![out::shown(unresolved)],
            None => reasons.map(out::shown).collect(),
        };
        // Of an earlier hold nothing counts any more.
        let agreed = action["approvals"].as_array().into_iter().flatten();
        let agreed = agreed.filter(|it| it["escalation_id"] == action["escalation_id"]).count();
        [
            text(&action["action_id"]),
            text(&action["archetype"]),
            text(&action["agent_id"]),
            amount,
            reasons.join(","),
            match unresolved {
                Some(_) => "–".to_owned(),
                None => format!("{agreed} of {}", action["approvals_needed"]),
            },
            text(&action["expires_at"]),
        ]
    };
    held.iter().map(row).collect()
}
