//! `countersign cluster`: sessions that work together.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{Api, encoded};
use crate::error::Result;
use crate::out;

/// Have governed sessions work together: see what each has left, hand on time and resources, wait for each other
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Form a cluster with a session of one's own as its first member
    Form {
        /// The session's id
        #[arg(value_name = "SESSION")]
        session: String,
        /// When it is over, RFC 3339; without it, when the session's mandate ends
        #[arg(long, value_name = "TIME")]
        deadline: Option<String>,
    },
    /// Show a cluster: its members, what is left to each, who waits for whom
    Show {
        /// The cluster's id
        #[arg(value_name = "ID")]
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have a session of one's own join a cluster
    Join {
        /// The cluster's id
        #[arg(value_name = "ID")]
        id: String,
        /// The session's id
        #[arg(value_name = "SESSION")]
        session: String,
    },
    /// Have a session leave its cluster
    Leave {
        /// The cluster's id
        #[arg(value_name = "ID")]
        id: String,
        /// The session's id
        #[arg(value_name = "SESSION")]
        session: String,
    },
    /// Have nothing of a cluster's members begin until it is released
    Hold {
        /// The cluster's id
        #[arg(value_name = "ID")]
        id: String,
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a cluster go on that was held
    Release {
        /// The cluster's id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Hand time or resources from a session of one's own to another member
    Transfer {
        /// The cluster's id
        #[arg(value_name = "ID")]
        id: String,
        /// The session that gives
        #[arg(long, value_name = "SESSION")]
        from: String,
        /// The session that gets
        #[arg(long, value_name = "SESSION")]
        to: String,
        /// Whole seconds of time
        #[arg(long, value_name = "N", required_unless_present = "amount")]
        seconds: Option<u64>,
        /// So much of another resource
        #[arg(long, value_name = "N", requires = "resource", conflicts_with = "seconds")]
        amount: Option<u64>,
        /// Of which: `compute_units`, `storage_bytes` or `network_egress_bytes`
        #[arg(long, value_name = "NAME", requires = "amount")]
        resource: Option<String>,
    },
    /// Have a session wait for another member of its cluster; its clock stands still
    Wait {
        /// The session's id
        #[arg(value_name = "SESSION")]
        session: String,
        /// The session it waits for; without it, it waits no more
        #[arg(long, value_name = "SESSION")]
        on: Option<String>,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    let changed = match &args.command {
        Command::Form { session, deadline } => {
            let mut body = json!({"session_id": session});
            if let Some(deadline) = deadline {
                body["deadline"] = deadline.as_str().into();
            }
            client.post(CLUSTERS, &body)?
        }
        Command::Show { id, json } => {
            let cluster = client.get(&of(id, ""))?;
            if !json {
                return shown(&cluster).map(|()| ExitCode::SUCCESS);
            }
            cluster
        }
        Command::Join { id, session } => client.post(&of(id, "/join"), &json!({"session_id": session}))?,
        Command::Leave { id, session } => client.post(&of(id, "/leave"), &json!({"session_id": session}))?,
        Command::Hold { id, reason } => client.post(&of(id, "/hold"), &json!({"reason": reason}))?,
        Command::Release { id } => client.post(&of(id, "/release"), &json!({}))?,
        Command::Transfer { id, from, to, seconds, amount, resource } => {
            let amount = seconds.or(*amount);
            let mut body = json!({"from_session_id": from, "to_session_id": to, "transfer_amount": amount});
            if let Some(resource) = resource {
                body["resource"] = resource.as_str().into();
            }
            client.post(&of(id, "/transfer"), &body)?
        }
        Command::Wait { session, on } => {
            client.post(&format!("/v1/sessions/{}/wait", encoded(session)), &json!({"on": on}))?
        }
    };
    out::json(&changed)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(cluster: &Value) -> Result<()> {
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    out::table(
        ["session", "agent", "mandate", "principal", "state", "waits for", "seconds left"],
        &members.iter().map(row).collect::<Vec<_>>(),
    )
}

fn of(id: &str, rest: &str) -> String {
    format!("{CLUSTERS}/{}{rest}", encoded(id))
}

fn row(member: &Value) -> [String; 7] {
    let text = |name: &str| member[name].as_str().map_or_else(|| "–".to_owned(), out::shown);
    [
        text("session_id"),
        text("agent_id"),
        text("mandate_id"),
        text("principal"),
        text("state"),
        text("waits_for"),
        member["time_budget_remaining"].as_u64().unwrap_or(0).to_string(),
    ]
}

const CLUSTERS: &str = "/v1/clusters";
