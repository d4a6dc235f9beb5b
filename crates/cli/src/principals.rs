//! `countersign principals`: whose signature makes a mandate.

use std::path::PathBuf;
use std::process::ExitCode;

use gateway::Signs;
use serde_json::{Value, json};

use crate::api::{Api, encoded};
use crate::error::{Context, Result};
use crate::out;

/// Manage the keys with which principals sign mandates themselves
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Register a public key: what is signed with it, as far as it may, is a mandate from now on
    Add {
        /// The principal: `iss` of what it signs
        #[arg(value_name = "ISS")]
        issuer: String,
        /// File with the public JWK, `EC` on `P-256` or `OKP` on `Ed25519`
        #[arg(value_name = "FILE")]
        jwk: PathBuf,
        /// `mandates` that a principal gives, or only `children`: what an agent hands on of the mandates that it holds
        #[arg(long, value_name = "WHAT", default_value = Signs::Mandates.as_str(), value_parser = Signs::ALL.map(Signs::as_str))]
        signs: String,
    },
    /// List the keys, those that ended included
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a key: nothing it signed is a mandate any more, nor what descends from that
    Revoke {
        /// The principal
        #[arg(value_name = "ISS")]
        issuer: String,
        /// The key's thumbprint
        #[arg(value_name = "KID", allow_hyphen_values = true)]
        kid: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    match &args.command {
        Command::Add { issuer, jwk, signs } => {
            let text =
                std::fs::read_to_string(jwk).while_we(|| format!("cannot read `{}`", jwk.display()))?;
            let jwk: Value =
                serde_json::from_str(&text).while_we(|| format!("`{}` is not a JWK", jwk.display()))?;
            let path = format!("/v1/principals/{}/keys", encoded(issuer));
            out::json(&client.post(&path, &json!({"jwk": jwk, "signs": signs}))?)?;
        }
        Command::List { json } => {
            let keys = client.list("/v1/principals")?;
            match json {
                true => out::json(&Value::from(keys))?,
                false => out::table(COLUMNS, &keys.iter().map(row).collect::<Vec<_>>())?,
            }
        }
        Command::Revoke { issuer, kid, reason } => {
            let path = format!("/v1/principals/{}/keys/revoke", encoded(issuer));
            out::json(&client.post(&path, &json!({"kid": kid, "reason": reason}))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [&str; 7] = ["principal", "signs", "key", "algorithm", "registered by", "since", "state"];

fn row(key: &Value) -> [String; 7] {
    let text = |member: &str| key[member].as_str().map(out::shown).unwrap_or_default();
    let state = if key["revoked_at"].is_null() { "good" } else { "revoked" };
    ["issuer", "signs", "kid", "algorithm", "created_by", "created_at"]
        .map(text)
        .into_iter()
        .chain([state.to_owned()])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap_or_default()
}
