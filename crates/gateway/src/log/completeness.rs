//! What the log says of a period, signed: so many intents, so many receipts, and no more.

use std::collections::HashMap;

use action::Tenant;
use receipt::Timestamp;
use receipt::log::{Hours, Leaf};
use tokio::sync::Mutex;

use super::{Checkpoint, MOST, not_yet_logged};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::{Code, Error, clock};

/// What the leaves of each tenant's log come to, as far as they were read for an earlier statement: leaves never change.
pub(super) type Surveys = Mutex<HashMap<Tenant, Surveyed>>;

/// Up to which leaf it was read, and what the leaves before it come to.
#[derive(Default)]
pub(super) struct Surveyed {
    next: u64,
    hours: Hours,
}

impl Gateway {
    /// A completeness statement of the log of the caller's tenant, for full hours that are over: a signed note.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents, `EP_VALIDATION_FAILED` for a period of which none can be made, `EP_UNAVAILABLE` while
    /// something of it may not be logged yet, `EP_RATE_LIMITED` while another one is made, which may take all leaves there are.
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
        if self.may_be_unlogged(&caller.tenant, until).await? {
            return Err(not_yet_logged());
        }
        let head = self.log().log_head(&caller.tenant).await.map_err(unavailable)?;
        let (checkpoint, _) = self.newest(&caller.tenant)?;
        if checkpoint.size < head.size {
            return Err(not_yet_logged());
        }
        let mut surveys = self.logs.surveys.try_lock().map_err(|_| {
            Error::new(Code::RateLimited, "another completeness statement is being made").retry_after(1)
        })?;
        let surveyed = surveys.entry(caller.tenant.clone()).or_default();
        self.survey(caller, &checkpoint, surveyed).await?;
        let note = self.logs.signer.state(&surveyed.hours.of(from, until, checkpoint));
        note.map(|note| note.to_string()).map_err(|_| internal("a statement could not be signed"))
    }

    /// Is there anything of a tenant's, from before that hour, that was not taken yet? Many that were not may have some behind them.
    async fn may_be_unlogged(&self, tenant: &Tenant, until: u32) -> Result<bool, Error> {
        let reference = &*self.tenant(tenant)?.reference;
        let entries = self.log().fresh(MOST).await.map_err(unavailable)?.entries;
        let of_then = |entry: &[u8]| {
            let Some(heading) = ledger::Heading::of(entry) else { return true };
            // Signing keys stand in the logs of all.
            let ours = heading.tenant_ref.is_none_or(|of| of == reference)
                || heading.event.starts_with("signing_key_");
            ours && Timestamp::parse(heading.at).map_or(true, |at| Leaf::hour_of(at) < until)
        };
        Ok(entries.len() as u64 >= u64::from(MOST) || entries.iter().any(|entry| of_then(&entry.bytes)))
    }

    /// Reads on up to the last leaf that a checkpoint is of.
    async fn survey(
        &self,
        caller: &Caller,
        checkpoint: &Checkpoint,
        surveyed: &mut Surveyed,
    ) -> Result<(), Error> {
        if surveyed.next > checkpoint.size {
            return Err(internal("the log has fewer leaves than it had"));
        }
        while surveyed.next < checkpoint.size {
            let next = surveyed.next;
            let leaves = self.log().log_leaves(&caller.tenant, next, PAGE).await.map_err(unavailable)?;
            let missing = || internal("leaves of the log are missing");
            if leaves.is_empty() {
                return Err(missing());
            }
            for leafed in leaves.iter().take_while(|leafed| leafed.number < checkpoint.size) {
                if leafed.number != surveyed.next {
                    return Err(missing());
                }
                let leaf = Leaf::parse(&leafed.leaf).map_err(|_| internal("a stored leaf is none"))?;
                surveyed.hours.take(leafed.number, &leaf);
                surveyed.next += 1;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
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
