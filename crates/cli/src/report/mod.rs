//! `countersign report`: what happened under a regulation within a period, for an auditor.
//!
//! Gathered are the actions of which at least one ledger entry lies in the period, each as it stands now. The same store
//! gives the same report, to the byte.

mod article12;
mod facts;
mod markdown;

use std::collections::BTreeSet;
use std::process::ExitCode;

use gateway::{AuditAsk, Caller, Gateway};
use serde_json::Value;

use crate::api::{Api, Cursors, encoded};
use crate::audit::{Keeper, checked};
use crate::error::{Context, Error, Result};
use crate::out;
use crate::resting::{Premises, Resting};
use facts::Report;

/// Report what happened under a regulation within a period, for an auditor
///
/// Asks the running gateway, or works on a data directory that no gateway holds. Lists the actions of which something is
/// on record in the period, as they stand now, and says whether the whole chain holds. Exit code: 0 it holds, 1 it does
/// not.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The regulation, such as GDPR-Art-17, as the catalogue or the requests name it
    #[arg(
        long,
        value_name = "REF",
        default_value = "",
        hide_default_value = true,
        required_unless_present = "article_12"
    )]
    regulation: String,
    /// At or after this time, such as 2026-04-01T00:00:00Z
    #[arg(
        long,
        value_name = "TIME",
        default_value = "",
        hide_default_value = true,
        required_unless_present = "article_12"
    )]
    from: String,
    /// Before this time
    #[arg(
        long,
        value_name = "TIME",
        default_value = "",
        hide_default_value = true,
        required_unless_present = "article_12"
    )]
    to: String,
    /// Instead, the record of one session as Article 12 of the EU AI Act asks for it
    #[arg(long = "article-12", requires = "session", conflicts_with_all = ["regulation", "from", "to"])]
    article_12: bool,
    /// With --article-12: the session's id
    #[arg(long, value_name = "ID", requires = "article_12")]
    session: Option<String>,
    /// `md` for people, `json` for programs
    #[arg(long, value_name = "FORM", default_value = "md", value_parser = ["md", "json"])]
    format: String,
    #[command(flatten)]
    premises: Premises,
    /// Of a data directory, the sandbox's store
    #[arg(long)]
    sandbox: bool,
    #[command(flatten)]
    api: Api,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let keeper = Keeper::of(&args.premises, args.sandbox, &args.api)?;
    if let Some(session) = &args.session {
        return article12::run(&keeper, session, args.format == "json");
    }
    let records = keeper.actions(args)?.iter().map(|id| keeper.record(id)).collect::<Result<Vec<Value>>>()?;
    let chain = checked(&keeper)?;
    let whole = chain.is_whole();
    let report = Report::of([&args.regulation, &args.from, &args.to], &records, &chain);
    match args.format.as_str() {
        "json" => {
            let report = serde_json::to_value(&report).while_we(|| "cannot write the report".to_owned())?;
            out::json(&report)?;
        }
        _ => out::line(markdown::of(&report).trim_end())?,
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Keeper {
    /// The ids of the actions of which something is on record, in the order in which they came in.
    fn actions(&self, args: &Args) -> Result<BTreeSet<String>> {
        match self {
            Keeper::Running(client) => {
                let path = format!(
                    "/v1/audit?order=oldest&format=json&limit=200&regulation_ref={}&time_from={}&time_to={}",
                    encoded(&args.regulation),
                    encoded(&args.from),
                    encoded(&args.to),
                );
                let (mut ids, mut at, mut cursors) = (BTreeSet::new(), String::new(), Cursors::default());
                loop {
                    let page = client.get(&format!("{path}{at}"))?;
                    let entries = page["entries"].as_array().into_iter().flatten();
                    ids.extend(entries.filter_map(|entry| entry["action_id"].as_str()).map(str::to_owned));
                    match cursors.next(page["next_cursor"].as_str())? {
                        Some(next) => at = format!("&cursor={}", encoded(&next)),
                        None => return Ok(ids),
                    }
                }
            }
            Keeper::Resting(resting) => {
                let mut ask = AuditAsk {
                    regulation_ref: Some(args.regulation.clone()),
                    from_ms: Some(time("--from", &args.from)?),
                    to_ms: Some(time("--to", &args.to)?),
                    oldest_first: true,
                    limit: 200,
                    ..AuditAsk::default()
                };
                let list = async |gateway: &Gateway, caller: &Caller| {
                    let mut ids = BTreeSet::new();
                    loop {
                        let page = gateway.audit(caller, &ask).await?;
                        ids.extend(page.items.into_iter().filter_map(|entry| entry.action_id));
                        match page.next {
                            Some(next) => ask.cursor = Some(next),
                            None => return Ok(ids),
                        }
                    }
                };
                resting.as_admin(gateway_of(resting), None, list)
            }
        }
    }

    /// The record of an action, as `GET /v1/actions/{id}` answers it.
    fn record(&self, id: &str) -> Result<Value> {
        match self {
            Keeper::Running(client) => client.get(&format!("/v1/actions/{}", encoded(id))),
            Keeper::Resting(resting) => {
                let gateway = gateway_of(resting);
                let show = async |gateway: &Gateway, caller: &Caller| gateway.action(caller, id).await;
                let view = resting.as_admin(gateway, None, show)?;
                Ok(server::action_record(&view, gateway.public_url()))
            }
        }
    }
}

fn gateway_of(resting: &Resting) -> &Gateway {
    resting.sandbox().unwrap_or(resting.production())
}

/// Milliseconds since 1970, UTC.
fn time(option: &str, text: &str) -> Result<i64> {
    action::time::unix_millis(text)
        .map_err(|why| Error::new(format!("`{option}` {why}")).hint("write it like 2026-04-01T00:00:00Z"))
}
