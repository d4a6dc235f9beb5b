//! A notice in words: fixed texts, ids, and nothing that an agent, a provider or a person wrote.

use ledger::{Heading, Notice};
use provider::receivers;
use serde::Serialize;

use super::topic::{About, Topic};
use crate::Error;
use crate::gateway::Gateway;
use crate::quarantine::Quarantined;
use crate::remember::unavailable;
use crate::row::internal;

/// What is sent, made anew from the chain each time, and the same each time.
pub(super) struct Letter {
    id: String,
    session: Option<String>,
    json: Vec<u8>,
    subject: String,
    text: String,
}

/// The body of a webhook, members in the order in which they are documented.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    action_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    archetype: Option<&'a str>,
    state: Option<&'a str>,
    tenant: Option<&'a str>,
    environment: &'a str,
    entry: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    /// What to do about it, as a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a str>,
    text: &'a str,
    url: &'a str,
}

impl Gateway {
    /// The letter about an entry.
    pub(super) async fn letter(&self, notice: &Notice) -> Result<Letter, Error> {
        let page = self.ledger.entries(Some(notice.entry - 1), 1).await.map_err(unavailable)?;
        let entry = page.rows.first().filter(|(row, _)| *row == notice.entry);
        let heading = entry.and_then(|(_, bytes)| Heading::of(bytes));
        let heading = heading.ok_or_else(|| internal("an entry that is to be told cannot be read"))?;
        let session = entry.and_then(|(_, bytes)| ledger::session_of(bytes));
        let about = Topic::of_event(heading.event)
            .and_then(|topic| Some((topic, About::of(topic, notice.action, session)?)));
        let (topic, about) = about.ok_or_else(|| internal("an entry that is to be told is about nothing"))?;
        let tenant = heading.tenant_ref.and_then(|reference| self.tenant_called(reference));
        // What was deleted since is told of by what the entry says.
        let stored = match tenant.zip(notice.action) {
            Some((tenant, action)) => self.ledger.action(tenant, action).await.map_err(unavailable)?,
            None => None,
        };
        let quarantined = match about {
            About::Tool => Some(
                self.quarantine_of(heading.record.unwrap_or_default())
                    .await?
                    .ok_or_else(|| internal("which tool is quarantined is not kept"))?,
            ),
            _ => None,
        };
        let run = quarantined.as_ref().map(Quarantined::run);
        let data = Data {
            server: quarantined.as_ref().map(|it| &*it.server),
            tool: quarantined.as_ref().map(|it| &*it.tool),
            run: run.as_deref(),
            archetype: stored.as_ref().map(|stored| &*stored.archetype),
            state: heading.state,
            tenant: tenant.map(|tenant| tenant.as_str()),
            environment: self.environment.as_str(),
            entry: heading.hash,
            text: topic.text(&about),
            url: &format!("{}{}", self.public_url, about.page(topic)),
            action_id: about.action(),
            session_id: about.session(),
        };
        Letter::new(topic, &about, &heading, data)
    }
}

impl Letter {
    fn new(topic: Topic, about: &About, heading: &Heading<'_>, data: Data<'_>) -> Result<Letter, Error> {
        let word = topic.word();
        let archetype = data.archetype.map(|archetype| format!(" ({archetype})")).unwrap_or_default();
        let lines = [
            ("Event", Some(word)),
            ("Action", data.action_id),
            ("Session", data.session_id),
            ("Archetype", data.archetype),
            ("State", data.state),
            ("Tenant", data.tenant),
            ("Environment", Some(data.environment)),
            ("At", Some(heading.at)),
            ("Entry", Some(data.entry)),
            ("Server", data.server),
            ("Tool", data.tool),
            ("Run", data.run),
            ("Look", Some(data.url)),
        ];
        let lines = lines.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}\n", value?)));
        let text = format!("{}\n\n{}", data.text, lines.collect::<String>());
        let body = Body { kind: format!("{}.{word}", about.word()), timestamp: heading.at, data };
        Ok(Letter {
            // An entry's hash is its name; half of it is enough to tell it from every other.
            id: format!("msg_{}", heading.hash.get(..32).unwrap_or(heading.hash)),
            session: about.session().map(str::to_owned),
            json: serde_json::to_vec(&body).map_err(|_| internal("a notice cannot be written"))?,
            subject: format!("Countersign: {word}{archetype}"),
            text,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The session that it is about, if it is about none of its actions.
    pub(super) fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    pub(super) fn at(&self, now_ms: i64) -> receivers::Letter<'_> {
        let Letter { id, json, subject, text, .. } = self;
        receivers::Letter { id, now_ms, json, subject, text }
    }
}
