//! What it takes to erase an action, and what is left of it.
//!
//! Its rows stay, and so do its entries, receipts and labels; what was asked, answered and said is gone, and with it the
//! salts that could open a commitment, or make the nonce of a leaf. The chain tells of it: rows may be empty only where it does.

use action::ActionId;
use sha2::{Digest, Sha256};

use crate::{Draft, Error, Labels, State};

/// An action is to be erased.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// Which action.
    pub action: ActionId,
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// So long after the last thing that came of it nobody may erase it, in milliseconds.
    pub kept_ms: i64,
    /// By whom and why, canonical; its SHA-256 stands in the entry as `actionHash`. Nothing belongs here that a person
    /// could want erased.
    pub record: Vec<u8>,
    /// The ledger entry; event and hash are set here.
    pub entry: Draft,
}

/// What an erased action leaves beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Row number of the ledger entry that tells of it.
    pub entry: i64,
    /// When, milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// See [`Erasure::record`].
    pub record: Vec<u8>,
    /// What its entries are found by.
    pub labels: Labels,
}

impl Erasure {
    /// May an action be erased that is in this state, and of which something came last at that time?
    pub(crate) fn check(&self, state: State, last_ms: Option<i64>) -> Result<(), Error> {
        let id = self.action;
        let Some(last_ms) = last_ms.filter(|_| state.is_final()) else {
            return Err(Error::Unsettled { id, state });
        };
        let until_ms = last_ms.saturating_add(self.kept_ms);
        if until_ms > self.at_ms { Err(Error::Kept { id, until_ms }) } else { Ok(()) }
    }

    /// The entry that goes with it.
    pub(crate) fn draft(&self) -> Draft {
        let action_hash = Some(Sha256::digest(&self.record).into());
        Draft { event: ERASED, action_hash, ..self.entry.clone() }
    }
}

/// Event of an action that was erased.
pub const ERASED: &str = "erased";
