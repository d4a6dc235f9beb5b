//! `countersign mandate`: what agents may do, for how long and up to what sum.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::api::{Api, encoded};
use crate::error::{Error, Result};
use crate::out;

/// Grant and withdraw mandates
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Grant a mandate and print its token, which is shown only now
    Issue(Issue),
    /// List the tenant's mandates and what is left of them
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Withdraw a mandate: nothing is admitted under it after the answer
    Revoke {
        /// The mandate's id
        #[arg(value_name = "JTI")]
        jti: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(clap::Args)]
struct Issue {
    /// The agent that may act: the subject of its API key
    #[arg(long, value_name = "AGENT")]
    subject: String,
    /// Grant it also to an agent that no API key, mandate or action names yet
    #[arg(long)]
    even_if_unknown: bool,
    /// An archetype or a group of them; may be repeated
    #[arg(long, required = true, value_name = "NAME")]
    scope: Vec<String>,
    /// A resource pattern such as `acct-*`; may be repeated; without it, any resource
    #[arg(long, value_name = "PATTERN")]
    resource: Vec<String>,
    /// The most that may be spent in sum, such as `500.00 USD`
    #[arg(long, value_name = "AMOUNT CURRENCY")]
    cap: Option<String>,
    /// The most actions that may be admitted
    #[arg(long, value_name = "N")]
    max_actions: Option<u64>,
    /// How long it holds: `90s`, `15m`, `8h`, `30d`
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = seconds)]
    ttl: u64,
    /// An archetype or group that a person must approve each time; may be repeated
    #[arg(long, value_name = "NAME")]
    requires_approval: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    match &args.command {
        Command::Issue(issue) => out::json(&client.post("/v1/mandates", &issue.body()?)?)?,
        Command::List { json } => {
            let mandates = client.list("/v1/mandates")?;
            if *json {
                out::json(&Value::from(mandates))?;
            } else {
                out::table(
                    ["mandate", "subject", "scope", "spent", "cap", "actions", "expires", "state"],
                    &rows(&mandates),
                )?;
            }
        }
        Command::Revoke { jti, reason } => {
            let path = format!("/v1/mandates/{}/revoke", encoded(jti));
            out::json(&client.post(&path, &json!({"reason": reason}))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Issue {
    fn body(&self) -> Result<Value> {
        let mut body = Map::new();
        body.insert("subject".into(), self.subject.as_str().into());
        body.insert("even_if_unknown".into(), self.even_if_unknown.into());
        body.insert("scope".into(), self.scope.clone().into());
        body.insert("expires_in_seconds".into(), self.ttl.into());
        if !self.resource.is_empty() {
            body.insert("resources".into(), self.resource.clone().into());
        }
        if let Some(cap) = &self.cap {
            let (amount, currency) = cap.split_once(' ').ok_or_else(|| {
                Error::new(format!("`--cap {cap}` is not an amount and a currency"))
                    .hint("such as --cap \"500.00 USD\"")
            })?;
            body.insert("spend_cap".into(), json!({"amount": amount, "currency": currency}));
        }
        if let Some(most) = self.max_actions {
            body.insert("max_actions".into(), most.into());
        }
        if !self.requires_approval.is_empty() {
            body.insert("requires_approval".into(), self.requires_approval.clone().into());
        }
        Ok(Value::Object(body))
    }
}

fn rows(mandates: &[Value]) -> Vec<[String; 8]> {
    let text = |value: &Value| match value {
        Value::String(text) => out::shown(text),
        Value::Null => "–".to_owned(),
        Value::Array(items) => {
            items.iter().filter_map(Value::as_str).map(out::shown).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let money = |value: &Value| match (value["amount"].as_str(), value["currency"].as_str()) {
        (Some(amount), Some(currency)) => format!("{amount} {currency}"),
        _ => "–".to_owned(),
    };
    let row = |mandate: &Value| {
        [
            text(&mandate["jti"]),
            text(&mandate["subject"]),
            text(&mandate["scope"]),
            money(&mandate["spent"]),
            money(&mandate["spend_cap"]),
            text(&mandate["actions"]),
            text(&mandate["expires_at"]),
            if mandate["revoked_at"].is_null() { "granted".to_owned() } else { "revoked".to_owned() },
        ]
    };
    mandates.iter().map(row).collect()
}

/// `90s`, `15m`, `8h`, `30d`, as seconds.
pub(crate) fn seconds(text: &str) -> std::result::Result<u64, String> {
    let wrong = || format!("`{text}` is not a length of time: write 90s, 15m, 8h or 30d");
    let unit = text.chars().last().and_then(|unit| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(86_400),
        _ => None,
    });
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u64>().ok());
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(seconds("15m"), Ok(900));
        assert_eq!(seconds("30d"), Ok(2_592_000));
        for wrong in ["15", "0s", "m", "-1h", "1w", "", "é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
