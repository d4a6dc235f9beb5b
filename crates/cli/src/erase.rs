//! `countersign erase`: what an action was about is deleted, because somebody has the right to ask for it.

use std::process::ExitCode;

use serde_json::json;

use crate::api::{Api, encoded};
use crate::error::Result;
use crate::out;

/// Erase what an action was about: request, answers, comments, and with them what could open its commitments
///
/// Receipts, the chain and what the audit trail is searched by stay. An action that is open, or has to be kept, is
/// refused. What is erased cannot be brought back, by nobody.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The action's id (`transaction_id`)
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    api: Api,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = format!("/v1/actions/{}/erase", encoded(&args.id));
    let left = args.api.client()?.post(&path, &json!({}))?;
    let text = |name: &str| left[name].as_str().map(out::shown).unwrap_or_default();
    out::line(format_args!("{} is erased since {}", text("action_id"), text("erased_at")))?;
    Ok(ExitCode::SUCCESS)
}
