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
    Issue(Box<Issue>),
    /// List the tenant's mandates and what is left of them
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Hand a mandate on, narrower, and print the new token, which is shown only now
    Delegate(Box<Delegate>),
    /// Show a mandate, its chain, and what is left of all of it
    Show {
        /// The mandate's id
        #[arg(value_name = "JTI")]
        jti: String,
    },
    /// Give a mandate more time, where policies permit it and what stands above has the time
    Extend {
        /// The mandate's id
        #[arg(value_name = "JTI")]
        jti: String,
        /// How much more, for all its sessions together: `90s`, `15m`, `8h`, `30d`
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        by: u64,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Withdraw a mandate and all that descend from it: nothing is admitted under them after the answer
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
    #[command(flatten)]
    of_sessions: OfSessions,
}

/// What is left out is as the parent has it, as much as is left of it.
#[derive(clap::Args)]
struct Delegate {
    /// The mandate to hand on
    #[arg(value_name = "JTI")]
    jti: String,
    /// The agent that may act: the subject of its API key
    #[arg(long, value_name = "AGENT")]
    subject: String,
    /// Hand it on also to an agent that no API key, mandate or action names yet
    #[arg(long)]
    even_if_unknown: bool,
    /// An archetype or a group of them; may be repeated
    #[arg(long, value_name = "NAME")]
    scope: Vec<String>,
    /// A resource pattern such as `acct-*`; may be repeated
    #[arg(long, value_name = "PATTERN")]
    resource: Vec<String>,
    /// The most that may be spent in sum, such as `500.00 USD`
    #[arg(long, value_name = "AMOUNT CURRENCY")]
    cap: Option<String>,
    /// The most actions that may be admitted
    #[arg(long, value_name = "N")]
    max_actions: Option<u64>,
    /// How long it holds: `90s`, `15m`, `8h`, `30d`
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<u64>,
    /// An archetype or group that a person must approve each time; may be repeated
    #[arg(long, value_name = "NAME")]
    requires_approval: Vec<String>,
    #[command(flatten)]
    of_sessions: OfSessions,
}

#[derive(clap::Args)]
struct OfSessions {
    /// A goal that sessions may declare; may be repeated
    #[arg(long, value_name = "GOAL")]
    goal: Vec<String>,
    /// Declared confidence below this asks a person, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    uncertainty_floor: Option<f64>,
    /// Trust that a session must have, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    trust_floor: Option<f64>,
    /// The time that all its sessions have together: `90s`, `15m`, `8h`, `30d`
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    max_duration: Option<u64>,
    /// The compute units that all its sessions have together
    #[arg(long, value_name = "N")]
    max_compute_units: Option<u64>,
    /// The memory that its sessions may use at any one time, in bytes
    #[arg(long, value_name = "BYTES")]
    max_memory: Option<u64>,
    /// The storage that all its sessions have together, in bytes
    #[arg(long, value_name = "BYTES")]
    max_storage: Option<u64>,
    /// What all its sessions may send together, in bytes
    #[arg(long, value_name = "BYTES")]
    max_egress: Option<u64>,
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
        Command::Delegate(delegate) => {
            let path = format!("/v1/mandates/{}/delegate", encoded(&delegate.jti));
            out::json(&client.post(&path, &delegate.body()?)?)?;
        }
        Command::Show { jti } => out::json(&client.get(&format!("/v1/mandates/{}", encoded(jti)))?)?,
        Command::Extend { jti, by, reason } => {
            let path = format!("/v1/mandates/{}/extend", encoded(jti));
            out::json(&client.post(&path, &json!({"seconds": by, "reason": reason}))?)?;
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
            body.insert("spend_cap".into(), sum(cap)?);
        }
        if let Some(most) = self.max_actions {
            body.insert("max_actions".into(), most.into());
        }
        if !self.requires_approval.is_empty() {
            body.insert("requires_approval".into(), self.requires_approval.clone().into());
        }
        self.of_sessions.tell(&mut body);
        Ok(Value::Object(body))
    }
}

impl Delegate {
    fn body(&self) -> Result<Value> {
        let mut body = Map::new();
        body.insert("subject".into(), self.subject.as_str().into());
        body.insert("even_if_unknown".into(), self.even_if_unknown.into());
        let lists = [
            ("scope", &self.scope),
            ("resources", &self.resource),
            ("requires_approval", &self.requires_approval),
        ];
        for (member, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            body.insert(member.into(), list.clone().into());
        }
        if let Some(cap) = &self.cap {
            body.insert("spend_cap".into(), sum(cap)?);
        }
        for (member, number) in [("max_actions", self.max_actions), ("expires_in_seconds", self.ttl)] {
            number.map(|number| body.insert(member.into(), number.into()));
        }
        self.of_sessions.tell(&mut body);
        Ok(Value::Object(body))
    }
}

impl OfSessions {
    fn tell(&self, body: &mut Map<String, Value>) {
        if !self.goal.is_empty() {
            body.insert("goal_scope".into(), self.goal.clone().into());
        }
        for (member, share) in
            [("uncertainty_floor", self.uncertainty_floor), ("trust_floor", self.trust_floor)]
        {
            share.map(|share| body.insert(member.into(), share.into()));
        }
        let envelope = [
            ("max_compute_units", self.max_compute_units),
            ("max_duration_seconds", self.max_duration),
            ("max_memory_bytes", self.max_memory),
            ("max_network_egress_bytes", self.max_egress),
            ("max_storage_bytes", self.max_storage),
        ];
        let envelope: Map<String, Value> = envelope
            .into_iter()
            .filter_map(|(member, most)| most.map(|most| (member.to_owned(), most.into())))
            .collect();
        if !envelope.is_empty() {
            body.insert("resource_envelope".into(), envelope.into());
        }
    }
}

fn sum(cap: &str) -> Result<Value> {
    let (amount, currency) = cap.split_once(' ').ok_or_else(|| {
        Error::new(format!("`--cap {cap}` is not an amount and a currency"))
            .hint("such as --cap \"500.00 USD\"")
    })?;
    Ok(json!({"amount": amount, "currency": currency}))
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

/// 0 to 1.
fn share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not between 0 and 1"))
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
