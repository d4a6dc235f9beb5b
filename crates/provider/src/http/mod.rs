//! Providers that speak HTTP and JSON.
//!
//! A binding names one origin. What varies between actions are path segments, parameters, headers and members of
//! the body, never the place itself; a secret that may go there stays there.
//!
//! ```toml
//! [binding]
//! provider = "http"
//! base = "https://bank.example/v1"
//! headers = { Authorization = { "$secret" = "bank", prefix = "Bearer " } }
//!
//! [binding.capabilities]
//! idempotent = { retention_seconds = 86400 }
//! queryable = { by_our_reference = true, final_after_seconds = 30 }
//!
//! [binding.act]
//! path = "/payments"
//! headers = { Idempotency-Key = { "$action" = "provider_key" } }
//! body = { to = { "$value" = "/recipient" }, amount = { "$money" = "amount" }, reference = { "$action" = "reference" } }
//! success = { status = [201] }
//! refused = { status = [402, 422] }
//! reference = "/payment_id"
//! code = "/error/code"
//!
//! [binding.query]
//! path = "/payments"
//! params = { reference = { "$action" = "reference" } }
//! found = { status = [200], pointer = "/payments/0" }
//! absent = { status = [200], pointer = "/payments/0", exists = false }
//! reference = "/payments/0/payment_id"
//! ```

mod answer;
mod request;
mod rule;

use std::time::Duration;

use action::{Archetype, Money};
use execution::{Call, Capabilities, Found, Reply};
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use self::answer::{Answer, CallReading, QueryReading, QuoteReading, SnapshotReading};
use self::request::{Common, Template};
use crate::binding::{identity, read_capabilities};
use crate::egress::{Destination, Exchange};
use crate::reader::{Mistake, Node, Table};
use crate::template::{ActionPart, Knows, Values};
use crate::{Ask, Done, Outside, Provider, Rollback, Unquoted};

/// One archetype's HTTP binding.
#[derive(Debug)]
pub(crate) struct Http {
    name: String,
    identity: String,
    destination: Destination,
    capabilities: Capabilities,
    most_bytes: usize,
    act: (Template, CallReading),
    query: Option<(Template, QueryReading)>,
    quote: Option<(Template, QuoteReading)>,
    snapshot: Option<(Template, SnapshotReading)>,
    rollback: Option<(Template, CallReading, Rollback)>,
}

impl Http {
    pub(crate) fn read(
        node: &Node<'_>,
        archetype: &Archetype,
        outside: Outside<'_>,
    ) -> Result<Http, Vec<Mistake>> {
        let table = node.table(&MEMBERS).map_err(|mistake| vec![mistake])?;
        let (destination, base_path) = read_base(&table, outside).map_err(|mistake| vec![mistake])?;
        let common = Common {
            archetype,
            secrets: outside.secrets,
            origin: destination.origin(),
            base_path: &base_path,
            headers: table.get("headers"),
        };
        let mut mistakes = Vec::new();
        let mut keep = |mistake| mistakes.push(mistake);
        let capabilities = read_capabilities(table.get("capabilities"), archetype).map_err(&mut keep).ok();
        let most_bytes = read_most_bytes(&table).map_err(&mut keep).ok();
        let act = read_act(&table, &common).map_err(&mut keep).ok();
        let query = read_query(&table, &common).map_err(&mut keep).ok();
        let quote = read_quote(&table, &common).map_err(&mut keep).ok();
        let snapshot = read_snapshot(&table, &common).map_err(&mut keep).ok();
        let rollback = read_rollback(&table, &common).map_err(&mut keep).ok();
        let name = read_name(&table, &destination).map_err(&mut keep).ok();
        let parts = (name, capabilities, most_bytes, act, query, quote, snapshot, rollback);
        if let (
            Some(name),
            Some(capabilities),
            Some(most_bytes),
            Some(act),
            Some(query),
            Some(quote),
            Some(snapshot),
            Some(rollback),
        ) = parts
        {
            let identity = identity_of(&name, &common, &table);
            let destination = destination.clone();
            let http = Http {
                name,
                identity,
                destination,
                capabilities,
                most_bytes,
                act,
                query,
                quote,
                snapshot,
                rollback,
            };
            mistakes.extend(http.broken_promises());
            if mistakes.is_empty() {
                return Ok(http);
            }
        }
        Err(mistakes)
    }

    /// Capabilities that the requests cannot keep.
    fn broken_promises(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let (act, _) = &self.act;
        let by_name = |template: &Template| {
            [ActionPart::Reference, ActionPart::ProviderKey, ActionPart::Id]
                .into_iter()
                .find(|p| template.carries(*p))
        };
        if self.capabilities.idempotent.is_some() && !act.carries(ActionPart::ProviderKey) {
            let hint = "add a header such as Idempotency-Key = { \"$action\" = \"provider_key\" } to `act`";
            let message = "a provider is idempotent only if it is sent the provider key";
            mistakes.push(Mistake::new("/capabilities/idempotent", message).hint(hint));
        }
        if let Some((rollback, ..)) = &self.rollback
            && (self.capabilities.idempotent.is_none() || !rollback.carries(ActionPart::ProviderKey))
        {
            let hint = "declare `idempotent`, and send { \"$action\" = \"provider_key\" } in `rollback` too";
            let message = "a rollback that is repeated must be recognised by its provider key";
            mistakes.push(Mistake::new("/rollback", message).hint(hint));
        }
        match (&self.capabilities.queryable, &self.query) {
            (Some(_), None) => mistakes.push(
                Mistake::new("/capabilities/queryable", "there is no `query` to ask with")
                    .hint("add [binding.query]"),
            ),
            (None, Some(_)) => {
                mistakes.push(Mistake::new("/query", "a query needs the capability `queryable`").hint(
                    "how long after sending \"not found\" can still change belongs to `final_after_seconds`",
                ))
            }
            (Some(queryable), Some((query, _))) if queryable.by_our_reference => {
                let asked = by_name(query);
                if asked.is_none_or(|part| !act.carries(part)) {
                    let hint = "send { \"$action\" = \"reference\" } in `act`, and ask for it in `query`";
                    let message = "`query` does not ask for anything that `act` sends";
                    mistakes.push(Mistake::new("/query", message).hint(hint));
                }
            }
            _ => {}
        }
        mistakes
    }

    async fn act(&self, call: &Call) -> Reply {
        let (template, reading) = &self.act;
        self.send(template, reading, &values_of(call)).await
    }

    async fn take_back(&self, call: &Call, done: Done<'_>) -> Reply {
        let Some((template, reading, _)) = &self.rollback else {
            return Reply::NotSent { why: "the binding has no rollback".to_owned() };
        };
        let Done { reference: confirmed, snapshot } = done;
        self.send(template, reading, &Values { confirmed, snapshot, ..values_of(call) }).await
    }

    async fn look(&self, ask: &Ask<'_>) -> Result<Option<Value>, Unquoted> {
        let Some((template, reading)) = &self.snapshot else { return Ok(None) };
        let request = template
            .fill(&values_before(ask), self.destination.origin(), self.most_bytes)
            .map_err(|unmade| Unquoted { why: unmade.to_string() })?;
        match self.destination.exchange(request).await {
            Exchange::NotSent(why) | Exchange::Lost(why) => Err(Unquoted { why }),
            Exchange::Answered { status, body } => {
                reading.judge(Answer::parse(status, body, &template.secrets)).map(Some)
            }
        }
    }

    async fn send(&self, template: &Template, reading: &CallReading, values: &Values<'_>) -> Reply {
        let request = match template.fill(values, self.destination.origin(), self.most_bytes) {
            Ok(request) => request,
            Err(unmade) => return Reply::NotSent { why: unmade.to_string() },
        };
        match self.destination.exchange(request).await {
            Exchange::NotSent(why) => Reply::NotSent { why },
            Exchange::Lost(why) => Reply::Lost { why },
            Exchange::Answered { status, body } => {
                reading.judge(Answer::parse(status, body, &template.secrets))
            }
        }
    }

    async fn ask(&self, call: &Call, now_ms: i64) -> Found {
        let by_our_reference = self.capabilities.queryable.as_ref().is_some_and(|able| able.by_our_reference);
        let Some((template, reading)) = self.query.as_ref().filter(|_| by_our_reference) else {
            return Found::Unknown;
        };
        let Ok(request) = template.fill(&values_of(call), self.destination.origin(), self.most_bytes) else {
            return Found::Unknown;
        };
        match self.destination.exchange(request).await {
            Exchange::NotSent(_) | Exchange::Lost(_) => Found::Unknown,
            Exchange::Answered { status, body } => {
                let final_ = self.capabilities.absence_is_final(call, now_ms);
                reading.judge(Answer::parse(status, body, &template.secrets), final_)
            }
        }
    }

    async fn price(&self, ask: &Ask<'_>) -> Result<Money, Unquoted> {
        let Some((template, reading)) = &self.quote else {
            return Err(Unquoted { why: "the binding has no quote".to_owned() });
        };
        let request = template
            .fill(&values_before(ask), self.destination.origin(), self.most_bytes)
            .map_err(|unmade| Unquoted { why: unmade.to_string() })?;
        match self.destination.exchange(request).await {
            Exchange::NotSent(why) | Exchange::Lost(why) => Err(Unquoted { why }),
            Exchange::Answered { status, body } => {
                reading.judge(Answer::parse(status, body, &template.secrets))
            }
        }
    }
}

impl Provider for Http {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn patience(&self) -> Duration {
        self.destination.timeout()
    }

    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Reply> {
        Box::pin(self.act(call))
    }

    fn query<'a>(&'a self, call: &'a Call, now_ms: i64) -> BoxFuture<'a, Found> {
        Box::pin(self.ask(call, now_ms))
    }

    fn rollback(&self) -> Option<Rollback> {
        self.rollback.as_ref().map(|(_, _, rollback)| *rollback)
    }

    fn undo<'a>(&'a self, call: &'a Call, done: Done<'a>) -> BoxFuture<'a, Reply> {
        Box::pin(self.take_back(call, done))
    }

    fn snapshot<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Option<Value>, Unquoted>> {
        Box::pin(async move { self.look(&ask).await })
    }

    fn quote<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Money, Unquoted>> {
        Box::pin(async move { self.price(&ask).await })
    }
}

/// Before there is an attempt.
fn values_before<'a>(ask: &Ask<'a>) -> Values<'a> {
    Values {
        constraints: ask.constraints,
        money: ask.bound,
        action_id: ask.action_id,
        reference: None,
        provider_key: None,
        confirmed: None,
        snapshot: None,
    }
}

fn values_of(call: &Call) -> Values<'_> {
    Values {
        constraints: &call.constraints,
        money: call.money,
        action_id: call.action_id,
        reference: Some(&call.reference),
        provider_key: Some(&call.provider_key),
        confirmed: None,
        snapshot: None,
    }
}

/// The destination, and the path that all requests begin with.
fn read_base(table: &Table<'_>, outside: Outside<'_>) -> Result<(Destination, String), Mistake> {
    let node = table.need("base")?;
    let text = node.text()?;
    let url = Url::parse(text).map_err(|_| {
        node.mistake(format!("`{text}` is not a URL")).hint("as in base = \"https://bank.example/v1\"")
    })?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(node.mistake("the base has a query or a fragment").hint("parameters go into `params`"));
    }
    let timeout = table.millis("timeout_ms", 10_000, 120_000)?;
    let destination = outside.egress.destination(&url, timeout).map_err(|refused| {
        let hint = "only the gateway's own configuration can allow it, under `egress`";
        node.mistake(refused.to_string()).hint(hint)
    })?;
    Ok((destination, url.path().trim_end_matches('/').to_owned()))
}

fn read_name(table: &Table<'_>, destination: &Destination) -> Result<String, Mistake> {
    table.get("name").map_or_else(|| Ok(destination.origin().at().to_string()), |node| node.name())
}

/// How the effect is had, and what may be tuned meanwhile, such as `timeout_ms`, is no part of it. Neither is the value
/// of a secret, which may have to be renewed.
fn identity_of(name: &str, common: &Common<'_>, table: &Table<'_>) -> String {
    identity(&json!({
        "provider": "http",
        "name": name,
        "base": format!("{}{}", common.origin, common.base_path),
        "headers": table.value("headers"),
        "capabilities": table.value("capabilities"),
        "query": table.value("query"),
    }))
}

fn read_most_bytes(table: &Table<'_>) -> Result<usize, Mistake> {
    let most = table.get("most_bytes").map_or(Ok(65_536), |node| node.whole(1, 1_048_576))?;
    Ok(usize::try_from(most).unwrap_or(65_536))
}

fn read_act(table: &Table<'_>, common: &Common<'_>) -> Result<(Template, CallReading), Mistake> {
    let act = table.need("act")?.table(&[&Template::MEMBERS[..], &CallReading::MEMBERS].concat())?;
    Ok((
        Template::read(&act, common, Knows::Attempt, Method::POST)?,
        CallReading::read(&act, common.archetype)?,
    ))
}

fn read_query(table: &Table<'_>, common: &Common<'_>) -> Result<Option<(Template, QueryReading)>, Mistake> {
    let Some(node) = table.get("query") else { return Ok(None) };
    let query = node.table(&[&Template::MEMBERS[..], &QueryReading::MEMBERS].concat())?;
    Ok(Some((
        Template::read(&query, common, Knows::Attempt, Method::GET)?,
        QueryReading::read(&query, common.archetype)?,
    )))
}

fn read_quote(table: &Table<'_>, common: &Common<'_>) -> Result<Option<(Template, QuoteReading)>, Mistake> {
    let Some(node) = table.get("quote") else { return Ok(None) };
    let quote = node.table(&[&Template::MEMBERS[..], &QuoteReading::MEMBERS].concat())?;
    Ok(Some((
        Template::read(&quote, common, Knows::Action, Method::GET)?,
        QuoteReading::read(&quote, common.archetype)?,
    )))
}

fn read_snapshot(
    table: &Table<'_>,
    common: &Common<'_>,
) -> Result<Option<(Template, SnapshotReading)>, Mistake> {
    let Some(node) = table.get("snapshot") else { return Ok(None) };
    let snapshot = node.table(&[&Template::MEMBERS[..], &SnapshotReading::MEMBERS].concat())?;
    let template = Template::read(&snapshot, common, Knows::Action, Method::GET)?;
    Ok(Some((template, SnapshotReading::read(&snapshot)?)))
}

fn read_rollback(
    table: &Table<'_>,
    common: &Common<'_>,
) -> Result<Option<(Template, CallReading, Rollback)>, Mistake> {
    let Some(node) = table.get("rollback") else { return Ok(None) };
    let own = ["within_seconds", "restores"];
    let rollback = node.table(&[&Template::MEMBERS[..], &CallReading::MEMBERS, &own].concat())?;
    let template = Template::read(&rollback, common, Knows::Effect, Method::POST)?;
    let reading = CallReading::read(&rollback, common.archetype)?;
    let within = rollback.seconds("within_seconds", MOST_WINDOW_SECONDS)?;
    Ok(Some((template, reading, Rollback { within, restores: rollback.flag("restores")? })))
}

/// A hundred years.
const MOST_WINDOW_SECONDS: u64 = 100 * 366 * 86_400;

const MEMBERS: [&str; 12] = [
    "provider",
    "name",
    "base",
    "headers",
    "timeout_ms",
    "most_bytes",
    "capabilities",
    "act",
    "query",
    "quote",
    "snapshot",
    "rollback",
];
