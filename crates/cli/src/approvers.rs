//! `countersign approvers`: whose passkeys count, and the file by which others verify what was approved with them.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{Api, encoded};
use crate::error::Result;
use crate::out;

/// Say whose passkeys count, and write the file that `verify --approvers` reads
///
/// An approver registers a passkey at /approvals/passkeys and reads its id to an admin, who enrols it here.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List passkeys, oldest first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a registered passkey count: say that it is the person's who registered it
    Enrol {
        /// The passkey's id, as its holder reads it out
        #[arg(value_name = "ID")]
        id: String,
    },
    /// End a passkey; nothing that is still to be carried out counts on it
    Revoke {
        /// The passkey's id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Print the approvers file as this gateway knows it; compare it with what the people themselves say
    Export,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client =
        args.api.client_outside_sandbox("it asks for no passkeys: a key is enough for a yes there")?;
    let mark = |id: &str, word: &str| {
        out::json(&client.post(&format!("/v1/passkeys/{}/{word}", encoded(id)), &json!({}))?)
    };
    match &args.command {
        Command::List { json } => {
            let passkeys = client.list("/v1/passkeys")?;
            if *json {
                out::json(&Value::from(passkeys))?;
            } else {
                out::table(["passkey", "approver", "state", "registered", "enrolled by"], &rows(&passkeys))?;
            }
        }
        Command::Enrol { id } => mark(id, "enrol")?,
        Command::Revoke { id } => mark(id, "revoke")?,
        Command::Export => out::json(&client.get("/v1/approvers")?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(passkeys: &[Value]) -> Vec<[String; 5]> {
    let text = |value: &Value| value.as_str().map_or_else(|| "–".to_owned(), out::shown);
    let row = |passkey: &Value| {
        ["id", "approver", "state", "registered_at", "enrolled_by"].map(|member| text(&passkey[member]))
    };
    passkeys.iter().map(row).collect()
}
