//! Money that is set aside before it is charged: one request sets it aside, another charges it or a part of it, a third
//! sets it free. All three or none.

use std::time::Duration;

use execution::{Capabilities, Purpose};
use reqwest::Method;

use super::answer::{CallReading, QueryReading};
use super::request::{Common, Template};
use crate::Reserves;
use crate::reader::{Mistake, Node, Table};
use crate::template::{ActionPart, Knows};

type Asking = Option<(Template, QueryReading)>;

/// How money is set aside, and what becomes of it then.
#[derive(Debug)]
pub(super) struct Reserving {
    reserve: (Template, CallReading),
    reserved: Asking,
    capture: (Template, CallReading),
    captured: Asking,
    release: (Template, CallReading),
    hold: Option<Duration>,
}

impl Reserving {
    pub(super) fn read(table: &Table<'_>, common: &Common<'_>) -> Result<Option<Reserving>, Mistake> {
        let Some(present) = TABLES.iter().find_map(|name| table.get(name)) else { return Ok(None) };
        if let Some(missing) = TABLES.iter().find(|name| table.get(name).is_none()) {
            let message =
                format!("what is reserved must be charged or set free, but there is no `{missing}`");
            return Err(present.mistake(message).hint(format!("add [binding.{missing}]")));
        }
        if common.archetype.money.is_none() {
            return Err(present.mistake("this archetype moves no money"));
        }
        let reserve = operation(&table.need("reserve")?, &["hold_seconds", "expires", "query"])?;
        let capture = operation(&table.need("capture")?, &["query"])?;
        let release = operation(&table.need("release")?, &["gone"])?;
        if reserve.get("hold_seconds").or(reserve.get("expires")).is_none() {
            let hint = "say how long with `hold_seconds`, or where the answer says until when with `expires`";
            return Err(table
                .need("reserve")?
                .mistake("it is not known when the reservation ends")
                .hint(hint));
        }
        Ok(Some(Reserving {
            reserved: asking(&reserve, common, Knows::Attempt, &["expires"])?,
            captured: asking(&capture, common, Knows::Reservation, &[])?,
            hold: reserve
                .get("hold_seconds")
                .map(|node| node.whole(1, MOST_HOLD_SECONDS).map(Duration::from_secs))
                .transpose()?,
            reserve: calling(&reserve, common, Knows::Attempt)?,
            capture: calling(&capture, common, Knows::Reservation)?,
            release: calling(&release, common, Knows::Reservation)?,
        }))
    }

    pub(super) fn reserves(&self) -> Reserves {
        Reserves { hold: self.hold }
    }

    /// The request for this purpose, and how its answer is read; `None` for what is no matter of reservations.
    pub(super) fn call(&self, purpose: &Purpose) -> Option<&(Template, CallReading)> {
        match purpose {
            Purpose::Act => None,
            Purpose::Reserve => Some(&self.reserve),
            Purpose::Capture { .. } => Some(&self.capture),
            Purpose::Release { .. } => Some(&self.release),
        }
    }

    /// How it is asked what became of such a call.
    pub(super) fn query(&self, purpose: &Purpose) -> Option<&(Template, QueryReading)> {
        match purpose {
            Purpose::Reserve => self.reserved.as_ref(),
            Purpose::Capture { .. } => self.captured.as_ref(),
            Purpose::Act | Purpose::Release { .. } => None,
        }
    }

    /// Whether what became of a capture is asked without the provider's name for what it has set aside.
    pub(super) fn captures_by_our_names(&self) -> bool {
        self.captured.as_ref().is_some_and(|(query, _)| !query.carries(ActionPart::Confirmed))
    }

    /// How it is asked at all.
    pub(super) fn queries(&self) -> impl Iterator<Item = &(Template, QueryReading)> {
        self.reserved.iter().chain(&self.captured)
    }

    /// Capabilities that the requests cannot keep.
    pub(super) fn broken_promises(&self, capabilities: &Capabilities) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut keep = |at: &str, message: &str, hint: &str| {
            mistakes.push(Mistake::new(at, message).hint(hint));
        };
        let key = "send { \"$action\" = \"provider_key\" }";
        for (at, (template, _)) in [("/reserve", &self.reserve), ("/capture", &self.capture)] {
            if capabilities.idempotent.is_some() && !template.carries(ActionPart::ProviderKey) {
                keep(at, "a provider is idempotent only if it is sent the provider key", key);
            }
        }
        if capabilities.idempotent.is_none() || !self.release.0.carries(ActionPart::ProviderKey) {
            let hint = "declare `idempotent`, and send { \"$action\" = \"provider_key\" } in `release` too";
            keep("/release", "a release that is repeated must be recognised by its provider key", hint);
        }
        let names = |template: &Template| template.carries(ActionPart::Confirmed);
        if (names(&self.capture.0) || names(&self.release.0)) && !self.reserve.1.has_reference() {
            let hint = "say with `reference` where the answer of `reserve` has it";
            keep("/reserve", "`capture` and `release` need the provider's reference", hint);
        }
        let asked = capabilities.queryable.as_ref().map(|queryable| queryable.by_our_reference);
        for (at, query, (template, _)) in
            [("/reserve", &self.reserved, &self.reserve), ("/capture", &self.captured, &self.capture)]
        {
            match (asked, query) {
                (Some(true), None) => {
                    let hint = "what is reserved is not charged: each has a `query` of its own";
                    keep(at, "there is no `query` to ask with", hint);
                }
                (None, Some(_)) => {
                    let hint = "declare it, with the `final_after_seconds` of the provider";
                    keep(at, "a query needs the capability `queryable`", hint);
                }
                (Some(true), Some((query, _))) if !asks_for_what_is_sent(query, template) => {
                    let hint = "send { \"$action\" = \"reference\" }, and ask for it in `query`";
                    keep(at, "its `query` does not ask for anything that it sends", hint);
                }
                _ => {}
            }
        }
        mistakes
    }
}

/// By our name for the call, or by the provider's name for what is set aside.
fn asks_for_what_is_sent(query: &Template, call: &Template) -> bool {
    [ActionPart::Reference, ActionPart::ProviderKey, ActionPart::Id, ActionPart::Confirmed]
        .into_iter()
        .any(|part| query.carries(part) && call.carries(part))
}

fn operation<'a>(node: &Node<'a>, own: &[&'static str]) -> Result<Table<'a>, Mistake> {
    node.table(&[&Template::MEMBERS[..], &CallReading::MEMBERS, own].concat())
}

fn calling(table: &Table<'_>, common: &Common<'_>, knows: Knows) -> Result<(Template, CallReading), Mistake> {
    Ok((Template::read(table, common, knows, Method::POST)?, CallReading::read(table, common.archetype)?))
}

fn asking(
    table: &Table<'_>,
    common: &Common<'_>,
    knows: Knows,
    own: &[&'static str],
) -> Result<Asking, Mistake> {
    let Some(node) = table.get("query") else { return Ok(None) };
    let query = node.table(&[&Template::MEMBERS[..], &QueryReading::MEMBERS, own].concat())?;
    if !own.is_empty() && table.get("hold_seconds").is_none() && query.get("expires").is_none() {
        let hint = "say with `expires` where the answer says until when, or with `hold_seconds` how long";
        return Err(node.mistake("it does not say when the reservation ends").hint(hint));
    }
    Ok(Some((
        Template::read(&query, common, knows, Method::GET)?,
        QueryReading::read(&query, common.archetype)?,
    )))
}

pub(super) const TABLES: [&str; 3] = ["reserve", "capture", "release"];

/// Ten years.
const MOST_HOLD_SECONDS: u64 = 10 * 366 * 86_400;
