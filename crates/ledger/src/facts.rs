//! What the judge is told of the past: one consistent look before the decision.
//!
//! None of it is a claim. Admission looks again at whatever may not race.

use std::sync::Arc;

use action::{ActionId, Environment, Subject, Tenant};
use boundary::Series;
use mandate::Account;

use crate::{Earlier, Effect, Existing, Freeze, Stored};

/// Whose facts.
#[derive(Clone, Copy, Debug)]
pub struct FactsQuery<'a> {
    /// Whose rows.
    pub tenant: &'a Tenant,
    /// Real or pretended.
    pub environment: Environment,
    /// Who asks.
    pub subject: &'a Subject,
    /// The client's key.
    pub key: Option<&'a str>,
    /// HMAC over the request.
    pub request_hash: &'a [u8; 32],
    /// What kind of action.
    pub archetype: &'a str,
    /// The provider it would go to.
    pub provider: Option<&'a str>,
    /// Root of the mandate's chain, or the subject.
    pub principal: &'a str,
    /// ISO 4217, where there is money.
    pub currency: Option<&'a str>,
    /// Where it goes.
    pub destination: Option<&'a str>,
    /// The mandate and its ancestors.
    pub mandates: &'a [Arc<str>],
    /// What must not happen twice by accident.
    pub effect: Option<&'a Effect>,
    /// The action itself, where it waited and holds its own effect already.
    pub apart_from: Option<ActionId>,
    /// Milliseconds since 1970, UTC.
    pub now_ms: i64,
}

/// The facts.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The key was claimed before. The other facts were not looked up then.
    pub existing: Option<Existing>,
    /// One account for each mandate asked for, in that order.
    pub accounts: Vec<Account>,
    /// The first freeze that covers the action.
    pub frozen: Option<Freeze>,
    /// What (principal, archetype, currency) did before.
    pub series: Arc<Series>,
    /// Does the principal's archetype go to this destination for the first time?
    pub first_seen: bool,
    /// An action of late with the same effect.
    pub earlier: Option<Earlier>,
    /// Until when its tenant is only observed, milliseconds since 1970, UTC, where that is kept for many processes.
    pub observed_ms: Option<i64>,
}

/// An equal refusal of the last minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// The action that was refused.
    pub action: ActionId,
    /// How often it was repeated, this time included.
    pub count: u64,
}

/// Which actions to list; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this subject only.
    pub subject: Option<Subject>,
    /// Of this archetype only.
    pub archetype: Option<Box<str>>,
    /// In this state only.
    pub state: Option<crate::State>,
    /// At or after, milliseconds since 1970, UTC.
    pub from_ms: Option<i64>,
    /// Before, milliseconds since 1970, UTC.
    pub to_ms: Option<i64>,
}

/// What a walk over the whole store found in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Entries walked.
    pub entries: u64,
    /// Receipts compared with the entry that names them.
    pub receipts: u64,
    /// Approvals and rejections compared with the entry that names them.
    pub approvals: u64,
    /// Hash of the last entry.
    pub head: Option<[u8; 32]>,
}

/// Figures for monitoring, counted since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Writes that wait now.
    pub waiting: u64,
    /// Commits.
    pub commits: u64,
    /// Writes committed.
    pub writes: u64,
    /// Time spent committing, sync included, in microseconds.
    pub commit_us: u64,
    /// Size of the write-ahead log in bytes, as of the last look.
    pub log_bytes: u64,
}

/// What holds for what was acknowledged, as the store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// Its kind: `sqlite`, `postgresql`, `memory`.
    pub store: &'static str,
    /// It is on disk, whatever happens to the process and its machine.
    pub fsync: bool,
    /// The setting `synchronous_commit` of PostgreSQL, `full` of SQLite.
    pub synchronous_commit: Box<str>,
    /// A second server has it, too: whether the one that is written to waits for one (`synchronous_standby_names`). A failover
    /// to a server that was not waited for may lose what was acknowledged.
    pub synchronous_standby: bool,
}

impl Filter {
    /// Is it one of those to list?
    pub(crate) fn lets_pass(&self, stored: &Stored) -> bool {
        let Filter { subject, archetype, state, from_ms, to_ms } = self;
        subject.as_ref().is_none_or(|subject| *subject == stored.subject)
            && archetype.as_ref().is_none_or(|archetype| *archetype == stored.archetype)
            && state.is_none_or(|state| state == stored.state)
            && from_ms.is_none_or(|from| stored.at_ms >= from)
            && to_ms.is_none_or(|to| stored.at_ms < to)
    }
}
