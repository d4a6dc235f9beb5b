//! What the log says of a period, signed: so many intents, so many receipts, and no more.

use receipt::Timestamp;
use receipt::log::{Leaf, Survey};

use super::{Checkpoint, not_yet_logged};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::{Code, Error, clock};

impl Gateway {
    /// A completeness statement of the log of the caller's tenant, for full hours that are over: a signed note.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents, `EP_VALIDATION_FAILED` for a period of which none can be made, `EP_UNAVAILABLE` while
    /// something of it may not be logged yet.
    pub async fn log_completeness(&self, caller: &Caller, from: &str, until: &str) -> Result<String, Error> {
        caller.must(Deed::Audit)?;
        let (from, until) = (hour(from, "?from")?, hour(until, "?until")?);
        let wrong = |why: &str| Error::new(Code::ValidationFailed, why.to_owned()).field("?until");
        if from >= until {
            return Err(wrong("the period ends before it begins"));
        }
        let now_ms = u64::try_from(clock::now_ms()).unwrap_or_default();
        if now_ms < u64::from(until) * HOUR_MS + SETTLING_MS {
            return Err(wrong("the period has to be over, for a minute at least"));
        }
        let fresh = self.log().fresh(1).await.map_err(unavailable)?;
        if fresh.entries.iter().any(|entry| hour_of(&entry.bytes).is_none_or(|hour| hour < until)) {
            return Err(not_yet_logged());
        }
        let head = self.log().log_head(&caller.tenant).await.map_err(unavailable)?;
        let (checkpoint, _) = self.newest(&caller.tenant)?;
        if checkpoint.size < head.size {
            return Err(not_yet_logged());
        }
        let said = self.surveyed(caller, &checkpoint).await?.of(from, until, checkpoint);
        let note = self.logs.signer.state(&said);
        note.map(|note| note.to_string()).map_err(|_| internal("a statement could not be signed"))
    }

    /// All leaves that a checkpoint is of.
    async fn surveyed(&self, caller: &Caller, checkpoint: &Checkpoint) -> Result<Survey, Error> {
        let mut survey = Survey::default();
        let mut next = 0;
        while next < checkpoint.size {
            let leaves = self.log().log_leaves(&caller.tenant, next, PAGE).await.map_err(unavailable)?;
            for leafed in leaves.iter().filter(|leafed| leafed.number < checkpoint.size) {
                let leaf = Leaf::parse(&leafed.leaf).map_err(|_| internal("a stored leaf is none"))?;
                survey.take(leafed.number, &leaf);
            }
            next = leaves
                .last()
                .map(|last| last.number + 1)
                .ok_or_else(|| internal("leaves of the log are missing"))?;
            tokio::task::yield_now().await;
        }
        Ok(survey)
    }
}

/// The hour of an entry.
fn hour_of(entry: &[u8]) -> Option<u32> {
    let at = Timestamp::parse(ledger::Heading::of(entry)?.at).ok()?;
    Some(Leaf::hour_of(at))
}

/// A full hour, in the spelling of receipts or without its fraction.
fn hour(text: &str, field: &'static str) -> Result<u32, Error> {
    let whole = Timestamp::parse(text).or_else(|_| Timestamp::parse(&text.replace('Z', ".000Z")));
    let hour = whole.ok().filter(|at| at.unix_millis().is_multiple_of(HOUR_MS)).map(Leaf::hour_of);
    hour.ok_or_else(|| {
        let why = format!("`{text}` is no full hour such as 2026-05-01T00:00:00Z");
        Error::new(Code::ValidationFailed, why).field(field)
    })
}

const HOUR_MS: u64 = 3_600_000;
/// What happened at the end of an hour is on record, and seen by all gateways, by then.
const SETTLING_MS: u64 = 60_000;
/// Leaves read in one go.
const PAGE: u32 = 1024;
