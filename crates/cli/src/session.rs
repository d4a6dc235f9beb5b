//! `countersign session`: governed sessions, from opening to record.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::api::{Api, Client, encoded};
use crate::error::Result;
use crate::mandate::seconds;
use crate::out;

/// Open governed sessions, declare intents in them, and read their records
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Open a session with the key's default mandate, or that of a token
    Open {
        /// Token of the mandate
        #[arg(long, value_name = "TOKEN")]
        mandate: Option<String>,
    },
    /// List sessions: an agent its own, everybody else those of the tenant
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a session and how it stands
    Show {
        /// The session's id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Show the Context Package that its next cycle would be judged with
    Context {
        /// The session's id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Declare what is about to be done in a session
    Declare(Declare),
    /// Answer what people asked about a cycle that waits for them (`escalation` of the session's context)
    Answer {
        /// The cycle's id (`action_id`)
        #[arg(value_name = "CYCLE")]
        id: String,
        /// What you say, in one line
        #[arg(value_name = "ANSWER")]
        answer: String,
    },
    /// End a session; nothing begins in it after the answer
    Close {
        /// The session's id
        #[arg(value_name = "ID")]
        id: String,
        /// How it ends; an operator or approver may say `revoked`
        #[arg(long = "as", value_name = "COMPLETION", value_parser = ["complete", "partial", "revoked"])]
        completion: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Print every record of a session, in order
    Record {
        /// The session's id
        #[arg(value_name = "ID")]
        id: String,
        /// `json`, or `prov` for W3C PROV-JSON
        #[arg(long, default_value = "json", value_parser = ["json", "prov"])]
        format: String,
    },
}

#[derive(clap::Args)]
struct Declare {
    /// The session's id
    #[arg(value_name = "ID")]
    id: String,
    /// Id of the declaration, fresh under the mandate
    #[arg(long, value_name = "ID")]
    intent: String,
    /// What kind of goal, in one word
    #[arg(long = "type", value_name = "WORD")]
    goal_type: String,
    /// An archetype or a group that will be asked for; may be repeated
    #[arg(long, required = true, value_name = "NAME")]
    goal: Vec<String>,
    /// How the agent reasons: direct, chain, tree, reflexive, delegated, collaborative, extended, constrained
    #[arg(long, default_value = "direct")]
    mode: String,
    /// With `--mode constrained`: the id of a policy in force
    #[arg(long, value_name = "POLICY")]
    constrained_by: Option<String>,
    /// Its number in the session; without it, the next
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    /// How long it holds: `90s`, `15m`, `8h`, `30d`
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = seconds)]
    ttl: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    match &args.command {
        Command::Open { mandate } => {
            let mut body = Map::new();
            if let Some(token) = mandate {
                body.insert("delegation_token".into(), token.as_str().into());
            }
            out::json(&client.post(SESSIONS, &Value::Object(body))?)?;
        }
        Command::List { json } => {
            let sessions = client.list(SESSIONS)?;
            if *json {
                out::json(&Value::from(sessions))?;
            } else {
                out::table(
                    ["session", "agent", "mandate", "state", "cycles", "denied", "under way", "opened"],
                    &sessions.iter().map(row).collect::<Vec<_>>(),
                )?;
            }
        }
        Command::Show { id } => out::json(&client.get(&of(id, ""))?)?,
        Command::Context { id } => out::json(&client.get(&of(id, "/context"))?)?,
        Command::Declare(declare) => {
            out::json(&client.post(&of(&declare.id, "/intents"), &declare.body(&client)?)?)?;
        }
        Command::Answer { id, answer } => {
            let path = format!("/v1/actions/{}/answer", crate::api::encoded(id));
            out::json(&client.post(&path, &json!({"answer": answer}))?)?;
        }
        Command::Close { id, completion, reason } => {
            let body = json!({"completion": completion.to_uppercase(), "reason": reason});
            out::json(&client.post(&of(id, "/close"), &body)?)?;
        }
        Command::Record { id, format } if format == "prov" => {
            out::json(&client.get(&of(id, "/record?format=prov"))?)?;
        }
        Command::Record { id, .. } => out::json(&Value::from(client.list(&of(id, "/record"))?))?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Declare {
    /// What the session itself knows is taken from there.
    fn body(&self, client: &Client) -> Result<Value> {
        let session = client.get(&of(&self.id, ""))?;
        let context = client.get(&of(&self.id, "/context"))?;
        let next = || context["sequence"].as_u64().unwrap_or(0) + 1;
        let expires = jiff::Timestamp::now().as_second().saturating_add_unsigned(self.ttl);
        let expires = jiff::Timestamp::from_second(expires).unwrap_or(jiff::Timestamp::MAX);
        let mut body = json!({
            "intent_id": self.intent,
            "session_id": session["session_id"],
            "mandate_id": session["mandate_id"],
            "gec_instance_id": session["gec_instance_id"],
            "goal_type": self.goal_type,
            "goal_scope": self.goal,
            "reasoning_mode": self.mode.to_uppercase(),
            "action_sequence_number": self.sequence.unwrap_or_else(next),
            "expires_at": expires.to_string(),
            "context_fingerprint": context["fingerprint"],
        });
        if let Some(policy) = &self.constrained_by {
            body["constrained_by"] = policy.as_str().into();
        }
        Ok(body)
    }
}

fn of(id: &str, rest: &str) -> String {
    format!("{SESSIONS}/{}{rest}", encoded(id))
}

fn row(session: &Value) -> [String; 8] {
    let text = |member: &str| session[member].as_str().map_or_else(|| "–".to_owned(), out::shown);
    let number = |member: &str| session[member].as_u64().unwrap_or(0);
    let state = match session["completion"].as_str() {
        Some(completion) => out::shown(completion),
        None => text("state"),
    };
    [
        text("session_id"),
        text("agent_id"),
        text("mandate_id"),
        state,
        number("cycles").to_string(),
        number("denials").to_string(),
        (number("waiting") + number("in_flight")).to_string(),
        text("opened_at"),
    ]
}

const SESSIONS: &str = "/v1/sessions";
