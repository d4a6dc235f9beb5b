//! `countersign freeze`, `thaw`, `observe`: how strict the gateway is right now.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::Api;
use crate::error::Result;
use crate::out;

/// Stop actions at once: all, or those of one agent, archetype or provider
///
/// What was admitted before the gateway's answer is not stopped; everything after it is.
#[derive(clap::Args)]
pub(crate) struct FreezeArgs {
    /// `all`, `tenant`, `agent:ID`, `archetype:NAME` or `provider:NAME`; without it, lists what is frozen
    #[arg(value_name = "SCOPE")]
    scope: Option<String>,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Freeze an agent too that no API key, mandate or action names yet
    #[arg(long)]
    even_if_unknown: bool,
    /// Stop rollbacks too: without it, what was carried out can still be undone
    #[arg(long)]
    include_rollback: bool,
    #[command(flatten)]
    api: Api,
}

/// Let actions through again
#[derive(clap::Args)]
pub(crate) struct ThawArgs {
    /// The scope that was frozen
    #[arg(value_name = "SCOPE")]
    scope: String,
    #[command(flatten)]
    api: Api,
}

/// Let policies only watch for a while: what they would have stopped passes and is marked
///
/// Never lifted are the hard-deny list, mandates and caps, freezes and completeness. Ends by itself.
#[derive(clap::Args)]
pub(crate) struct ObserveArgs {
    /// When it ends, within the next 30 days, such as 2030-05-01T00:00:00Z
    #[arg(long, value_name = "TIME", required_unless_present = "off")]
    until: Option<String>,
    /// End it now
    #[arg(long, conflicts_with = "until")]
    off: bool,
    #[command(flatten)]
    api: Api,
}

pub(crate) fn freeze(args: &FreezeArgs) -> Result<ExitCode> {
    let client = args.api.client()?;
    let answer = match &args.scope {
        Some(scope) => {
            let FreezeArgs { reason, even_if_unknown, include_rollback, .. } = args;
            let ask = json!({
                "scope": scope,
                "reason": reason,
                "even_if_unknown": even_if_unknown,
                "include_rollback": include_rollback,
            });
            client.post("/v1/freeze", &ask)?
        }
        None => Value::from(client.list("/v1/freezes")?),
    };
    out::json(&answer)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn thaw(args: &ThawArgs) -> Result<ExitCode> {
    out::json(&args.api.client()?.post("/v1/thaw", &json!({"scope": args.scope}))?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn observe(args: &ObserveArgs) -> Result<ExitCode> {
    out::json(&args.api.client()?.post("/v1/observe", &json!({"until": args.until}))?)?;
    Ok(ExitCode::SUCCESS)
}
