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
        /// Print JSON: everything there is to it
        #[arg(long)]
        json: bool,
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
        Command::Show { id, json } => {
            let action = client.get(&format!("/v1/approvals/{}", encoded(id)))?;
            if *json { out::json(&action)? } else { show(&action)? }
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

/// One action as a person reads it: first what is asked, then why, then what people said. Text of strangers stands in quotation
/// marks.
fn show(action: &Value) -> Result<()> {
    let text = |name: &str| action[name].as_str().map(out::shown);
    let line = |name: &str, value: Option<String>| match value.filter(|value| !value.is_empty()) {
        Some(value) => out::line(format_args!("{name:13}{value}")),
        None => Ok(()),
    };
    let parts = |name: &str| action[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let words = |name: &str| {
        let words: Vec<String> = parts(name).iter().filter_map(Value::as_str).map(out::shown).collect();
        words.join(", ")
    };
    line("Action", text("action_id"))?;
    line("What", text("archetype").zip(text("description")).map(|(name, what)| format!("{name}: {what}")))?;
    line("Agent", text("agent_id"))?;
    line(
        "How much",
        text("amount").zip(text("currency")).map(|(amount, currency)| format!("{amount} {currency}")),
    )?;
    for (name, value) in action["parameters"].as_object().into_iter().flatten() {
        line("", Some(format!("{} = {}", out::shown(name), out::shown(&value.to_string()))))?;
    }
    let undo = if action["reversible"] == true { "can be undone" } else { "cannot be undone" };
    line("Undo", Some(undo.to_owned()))?;
    line("Mandate", text("mandate_id"))?;
    line("State", text("state"))?;
    line("Unresolved", text("unresolved"))?;
    line("Why", Some(words("reasons")))?;
    let ids = parts("policies").iter().filter_map(|policy| policy["id"].as_str()).map(out::shown);
    line("Policies", Some(ids.collect::<Vec<_>>().join(", ")))?;
    line("Repeats", text("earlier_transaction"))?;
    let form = text("approval_form").unwrap_or_default();
    line(
        "Needs",
        action["approvals_needed"]
            .as_u64()
            .filter(|most| *most > 0)
            .map(|most| format!("{most}, by {form} or better")),
    )?;
    line("Principals", Some(words("principals")))?;
    for said in parts("approvals") {
        line("Said", Some(spoken(said)))?;
    }
    for asked in parts("exchanges") {
        let part = |name: &str| asked[name].as_str().map_or_else(|| "–".to_owned(), out::shown);
        line(
            "Asked",
            Some(format!("{}: \"{}\"; answered: \"{}\"", part("by"), part("question"), part("answer"))),
        )?;
    }
    line("Can be said", Some([words("available_decisions"), words("decisions")].concat()))?;
    line("Came", text("created_at"))?;
    line("Expires", text("expires_at"))?;
    line("Decide at", text("out_of_band_ref"))
}

/// What one person said, and whether it counts.
fn spoken(said: &Value) -> String {
    let part = |name: &str| said[name].as_str().map(out::shown);
    let comment = part("comment").map(|comment| format!(": \"{comment}\"")).unwrap_or_default();
    let void = part("void").map(|why| format!(" (void: {why})")).unwrap_or_default();
    let [who, what, form, at] =
        ["approver", "decision", "form", "at"].map(|name| part(name).unwrap_or_else(|| "–".to_owned()));
    format!("{what} by {who}, by {form}, {at}{comment}{void}")
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
