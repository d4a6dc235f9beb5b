//! When the ledger cannot answer. What it refuses is no error: see [`Obstacle`](crate::Obstacle).

use std::sync::Arc;

use action::ActionId;

use mandate::{ClusterRefusal, SessionRefusal};

use crate::{Broken, State};

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// As many writes wait as are allowed to; try again in a moment.
    #[error("too many writes are waiting")]
    Busy,
    /// A write failed, and nobody knows whether it survived. A file is not written any more until it is opened again,
    /// because after a failed sync nobody knows what is on disk; a database is found again by itself. Whoever asks once more
    /// with the same key learns what became of it.
    #[error("the ledger is not writable: {0}")]
    Unavailable(Arc<str>),
    /// There is no such action.
    #[error("no action `{0}` is stored")]
    NoSuchAction(ActionId),
    /// The action is not in a state from which this may follow.
    #[error("action `{id}` is {from} and cannot become {to}")]
    Illegal {
        /// Which action.
        id: ActionId,
        /// Where it stands.
        from: State,
        /// Where it was to go.
        to: State,
    },
    /// Somebody else has taken the action in hand since.
    #[error("action `{0}` is in other hands by now")]
    Fenced(ActionId),
    /// Whoever has the action in hand still may be at it.
    #[error("action `{0}` is in hands that may still be at it")]
    Leased(ActionId),
    /// More is charged than one of its mandates has left, and nothing with it says so: it has to be told again, with the
    /// overage.
    #[error("action `{0}` takes more than one of its mandates has left, and brings no overage")]
    AboveCap(ActionId),
    /// Somebody changed what is left of a mandate since it was judged: it has to be judged anew.
    #[error("what is left of mandate `{0}` is not what was judged")]
    Changed(Box<str>),
    /// The action is not settled, so that nobody can erase it yet.
    #[error("action `{id}` is {state} and cannot be erased yet")]
    Unsettled {
        /// Which action.
        id: ActionId,
        /// Where it stands.
        state: State,
    },
    /// The action has to be kept.
    #[error("action `{id}` has to be kept")]
    Kept {
        /// Which action.
        id: ActionId,
        /// Until then, milliseconds since 1970, UTC.
        until_ms: i64,
    },
    /// Something of this name is there already.
    #[error("`{0}` exists already")]
    Exists(Box<str>),
    /// There is nothing of this name.
    #[error("`{0}` does not exist")]
    Absent(Box<str>),
    /// The session does not take it.
    #[error("the session does not take it")]
    Session(SessionRefusal),
    /// The cluster does not take it.
    #[error("the cluster does not take it")]
    Cluster(ClusterRefusal),
    /// The mandate does not take it.
    #[error("the mandate does not take it: {0}")]
    Mandate(mandate::Refusal),
    /// Another process holds the data directory.
    #[error("the data directory is in use by another process")]
    Locked,
    /// The store was made by a newer version, or is none.
    #[error("the store cannot be opened: {0}")]
    Open(Arc<str>),
    /// Why a store cannot be copied, or no further.
    #[error("the store cannot be copied: {0}")]
    Copy(Arc<str>),
    /// Why months cannot be put together.
    #[error("months cannot be put together: {why}")]
    Archive {
        /// Why.
        why: Arc<str>,
        /// What to do about it.
        hint: &'static str,
    },
    /// This one write was not accepted by the store.
    #[error("the store refused the write: {0}")]
    Rejected(Arc<str>),
    /// A stored row cannot be read back.
    #[error("a stored row cannot be read: {0}")]
    Corrupt(Arc<str>),
    /// The chain of entries does not hold.
    #[error("ledger entry {row} is wrong: {broken}")]
    Chain {
        /// Row number of the first entry that fails.
        row: i64,
        /// How.
        broken: Broken,
    },
}
