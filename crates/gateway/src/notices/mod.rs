//! Notices: people are told of what happened, by webhook and by mail.
//!
//! ```text
//!   the chain ──▶ take up ──▶ the outbox ──▶ tell ──▶ done, or later again, or given up
//!              (by event,      (durable)     (oldest of each
//!           a place for each                  action first)
//!              destination)
//! ```
//!
//! What is told was committed with what it tells of, because it is the entry of the chain itself: nothing is written
//! for an action that nobody has to be told of, and nothing is forgotten when the process dies. A death between telling
//! and writing that down tells it twice, with the same id.
//!
//! Of one action a destination hears in order: the next notice waits until the one before was told or given up. Other
//! actions do not wait for it.
//!
//! The sandbox tells nobody: anybody may make things happen there, and it opens no socket.

mod letter;
mod topic;

use std::time::Duration;

use action::Tenant;
use futures_util::StreamExt;
use futures_util::future::join_all;
use ledger::{Heading, Notice, Tried, Waiting};
use provider::Outside;
use provider::receivers::{Receiver, Untold};
use tracing::field::display;

use self::letter::Letter;
use self::topic::About;
pub use self::topic::Topic;
use crate::config::{Alerts, Config};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::{Error, clock};

/// Somebody who is told, and of what.
pub(crate) struct Destination {
    name: Box<str>,
    topics: Vec<Topic>,
    /// Of whose actions; everybody's if it says nothing.
    tenants: Option<Vec<Tenant>>,
    receiver: Receiver,
}

/// Entries looked at in one go: a millisecond's work.
const PAGE: u32 = 512;
/// How many entries a destination's place may lag behind what was looked at and holds nothing for it: what a restart reads anew.
const UNWRITTEN: usize = 16_384;
/// Notices that one destination is told at once.
const AT_ONCE: usize = 16;
/// As many wait for one destination; over it the rest waits in the chain.
const MOST_WAITING: u64 = 10_000;
/// Between two looks, unless there is work.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a notice is tried after it was taken up.
const GIVEN_UP_AFTER_MS: i64 = 24 * 3600 * 1000;
/// The longest wait between two tries.
const LONGEST_WAIT_MS: i64 = 30 * 60 * 1000;

impl Destination {
    /// Reads everything under `[[alerts]]`.
    pub(crate) fn all(
        config: &Config,
        tenants: &[Tenant],
        outside: Outside<'_>,
    ) -> Result<Vec<Destination>, String> {
        let read = |one: &Alerts| {
            Destination::read(one, tenants, outside).map_err(|why| format!("`alerts`: `{}`: {why}", one.name))
        };
        config.alerts.iter().map(read).collect()
    }

    fn read(one: &Alerts, served: &[Tenant], outside: Outside<'_>) -> Result<Destination, String> {
        let tenant = |name: &String| {
            let known = served.iter().find(|tenant| tenant.as_str() == name);
            known.cloned().ok_or_else(|| format!("`tenants`: `{name}` is not among the `tenants` served"))
        };
        let tenants = one.tenants.as_ref().map(|names| names.iter().map(tenant).collect::<Result<_, _>>());
        Ok(Destination {
            name: one.name.as_str().into(),
            topics: one.events.clone(),
            tenants: tenants.transpose()?,
            receiver: Receiver::new(&one.declare()?, outside).map_err(|wrong| wrong.to_string())?,
        })
    }

    fn wants(&self, event: &str) -> bool {
        Topic::of_event(event).is_some_and(|topic| self.topics.iter().any(|wanted| wanted.covers(topic)))
    }
}

/// How far the chain was looked at for a destination, and how many entries behind its place that is.
#[derive(Default)]
struct Seen {
    upto: i64,
    entries: usize,
}

impl Gateway {
    /// Gives every destination its place, before anything happens that it is to be told of.
    pub(crate) async fn give_places(&self) -> Result<(), Error> {
        self.ledger.give_places(self.names()).await.map_err(unavailable)
    }

    /// Tells everybody of everything, for as long as the process lives.
    pub(crate) async fn keep_telling(&self) {
        self.until_whole().await;
        match self.ledger.forget_others(self.names()).await {
            Ok(0) => {}
            Ok(forgotten) => {
                tracing::warn!(forgotten, "notices of destinations that are gone will not be told");
            }
            Err(error) => tracing::warn!(%error, "destinations that are gone could not be forgotten"),
        }
        join_all(self.destinations.iter().map(|to| self.keep_telling_one(to))).await;
    }

    fn names(&self) -> Vec<Box<str>> {
        self.destinations.iter().map(|to| to.name.clone()).collect()
    }

    async fn keep_telling_one(&self, to: &Destination) {
        let mut seen = Seen::default();
        loop {
            self.until_whole().await;
            let more = self.tell_round(to, &mut seen).await.unwrap_or_else(|error| {
                tracing::warn!(destination = &*to.name, %error, "notices could not be looked after");
                false
            });
            if !more {
                tokio::time::sleep(self.pause()).await;
            }
        }
    }

    /// One round; whether there is more to do at once.
    async fn tell_round(&self, to: &Destination, seen: &mut Seen) -> Result<bool, Error> {
        let more = self.take_up(to, seen).await?;
        let due = self.ledger.untold(&to.name, clock::now_ms(), AT_ONCE as u32).await.map_err(unavailable)?;
        if due.is_empty() {
            return Ok(more);
        }
        let tries = futures_util::stream::iter(due).map(|waiting| self.tell_one(to, waiting));
        let tried = tries.buffer_unordered(AT_ONCE).collect().await;
        self.ledger.tried(&to.name, tried).await.map_err(unavailable)?;
        Ok(true)
    }

    /// Looks at the next entries of the chain; whether there are more. `seen` is how far it looked, which is written
    /// down only now and then where there is nothing to tell.
    async fn take_up(&self, to: &Destination, seen: &mut Seen) -> Result<bool, Error> {
        let standing = match self.ledger.standing(&to.name).await {
            Err(ledger::Error::Absent(_)) => {
                // Another gateway, which is configured otherwise, has forgotten it.
                tracing::warn!(
                    destination = &*to.name,
                    "a destination had lost its place, and is told from now on"
                );
                self.give_places().await?;
                return Ok(true);
            }
            standing => standing.map_err(unavailable)?,
        };
        self.metrics.notices_waiting(&to.name, standing.waiting);
        if standing.waiting >= MOST_WAITING {
            return Ok(false);
        }
        let from = standing.upto.max(seen.upto);
        let page = self.ledger.entries(Some(from), PAGE).await.map_err(unavailable)?;
        let Some((last, _)) = page.rows.last() else { return Ok(false) };
        let now_ms = clock::now_ms();
        let notices: Vec<Notice> =
            page.rows.iter().filter_map(|(row, bytes)| self.notice(to, *row, bytes, now_ms)).collect();
        let entries = if from > standing.upto { seen.entries } else { 0 } + page.rows.len();
        let writes = !notices.is_empty() || entries >= UNWRITTEN;
        if writes {
            self.ledger.put(&to.name, *last, notices).await.map_err(unavailable)?;
        }
        *seen = Seen { upto: *last, entries: if writes { 0 } else { entries } };
        Ok(page.next.is_some())
    }

    /// The notice of an entry, if the destination is to be told of it.
    fn notice(&self, to: &Destination, entry: i64, bytes: &[u8], now_ms: i64) -> Option<Notice> {
        // Most entries are of no interest, and are not read any further than that.
        if !to.wants(ledger::event_of(bytes)?) {
            return None;
        }
        let heading = Heading::of(bytes)?;
        About::of(Topic::of_event(heading.event)?, heading.action, ledger::session_of(bytes))?;
        let tenant = heading.tenant_ref.and_then(|reference| self.tenant_called(reference));
        let concerned =
            to.tenants.as_ref().is_none_or(|tenants| tenant.is_some_and(|tenant| tenants.contains(tenant)));
        concerned.then_some(Notice { entry, action: heading.action, taken_ms: now_ms })
    }

    async fn tell_one(&self, to: &Destination, Waiting { notice, tries }: Waiting) -> Tried {
        let now_ms = clock::now_ms();
        let letter = self.letter(&notice).await;
        let told = match &letter {
            Ok(letter) => to.receiver.tell(&letter.at(now_ms)).await,
            Err(error) => Err(Untold::Failed(error.to_string())),
        };
        let letter = letter.ok();
        let (action, session) = (notice.action.map(display), letter.as_ref().and_then(Letter::session));
        let (destination, id) = (&*to.name, letter.as_ref().map(Letter::id));
        let again_ms = match told {
            Ok(()) => {
                tracing::debug!(destination, action, session, notice = id, "told");
                self.metrics.notice(&to.name, "told");
                return Tried { entry: notice.entry, again_ms: None };
            }
            Err(Untold::Gone) => None,
            Err(Untold::Failed(_)) => again_ms(tries, notice.taken_ms, now_ms, self.pause(), chance()),
        };
        let why = told.err().map(|why| why.to_string()).unwrap_or_default();
        match again_ms {
            None => {
                tracing::error!(destination, action, session, notice = id, why, "a notice is given up");
            }
            Some(_) if tries == 0 => {
                tracing::warn!(destination, action, session, notice = id, why, "not told yet");
            }
            Some(_) => {
                tracing::debug!(destination, action, session, notice = id, why, "not told yet");
            }
        }
        self.metrics.notice(&to.name, if again_ms.is_some() { "failed" } else { "given_up" });
        Tried { entry: notice.entry, again_ms }
    }

    /// The tenant that the chain calls by this reference.
    fn tenant_called(&self, reference: &str) -> Option<&Tenant> {
        self.tenants.values().find(|tenant| &*tenant.reference == reference).map(|tenant| &tenant.tenant)
    }

    fn pause(&self) -> Duration {
        self.interval().min(LONGEST_PAUSE)
    }
}

/// When to try again, if at all: after a random part of a wait that doubles with each try, so that many notices do not
/// come back at once.
fn again_ms(tries: u32, taken_ms: i64, now_ms: i64, pause: Duration, chance: f64) -> Option<i64> {
    if now_ms.saturating_sub(taken_ms) >= GIVEN_UP_AFTER_MS {
        return None;
    }
    let first = i64::try_from(pause.as_millis()).unwrap_or(LONGEST_WAIT_MS);
    let longest = first.saturating_mul(2 << tries.min(20)).min(LONGEST_WAIT_MS);
    Some(now_ms.saturating_add((longest as f64 * chance) as i64))
}

/// Between 0 and 1; without randomness the whole wait.
fn chance() -> f64 {
    clock::random().map_or(1.0, |bytes| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);
    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn a_wait_doubles_up_to_half_an_hour_and_is_cut_by_chance() {
        let waits: Vec<i64> =
            [0, 1, 2, 9, 10, 11, 40].map(|tries| again_ms(tries, 0, 0, PAUSE, 1.0).unwrap()).to_vec();
        assert_eq!(waits, [2_000, 4_000, 8_000, 1_024_000, 1_800_000, 1_800_000, 1_800_000]);
        assert_eq!(again_ms(3, 0, 500, PAUSE, 0.25), Some(500 + 4_000));
        assert_eq!(again_ms(3, 0, 500, PAUSE, 0.0), Some(500));
    }

    #[test]
    fn a_notice_is_given_up_after_a_day_and_not_before() {
        assert!(again_ms(50, 0, 24 * HOUR_MS - 1, PAUSE, 1.0).is_some());
        assert_eq!(again_ms(50, 0, 24 * HOUR_MS, PAUSE, 1.0), None);
        assert_eq!(again_ms(0, 5 * HOUR_MS, 29 * HOUR_MS, PAUSE, 1.0), None, "counted since it was taken up");
    }

    #[test]
    fn every_topic_has_a_word_of_its_own() {
        for topic in Topic::ALL {
            assert_eq!(Topic::of_event(topic.word()), Some(topic));
        }
        for event in ["admitted", "executed", "refused", "failed", "chain_opened"] {
            assert_eq!(Topic::of_event(event), None, "{event}");
        }
    }

    #[test]
    fn who_asks_for_late_effects_is_told_of_duplicates_and_of_nothing_else_besides() {
        for topic in Topic::ALL {
            let late = matches!(topic, Topic::LateEffect | Topic::DuplicateEffect);
            assert_eq!(Topic::LateEffect.covers(topic), late, "{}", topic.word());
            assert_eq!(Topic::DuplicateEffect.covers(topic), topic == Topic::DuplicateEffect);
        }
    }
}
