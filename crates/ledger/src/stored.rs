//! What is handed back.

use std::sync::Arc;

use action::{ActionId, Environment, Money, Subject, Tenant};
use mandate::Resource;

use crate::{Receipt, Reply, Scope, State};

/// What commit 1 came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Written down; the call may leave, or waits if it was a hold.
    New {
        /// Row number of its ledger entry.
        entry: i64,
    },
    /// The key was claimed before.
    Existing(Existing),
    /// Nothing was written.
    Refused(Obstacle),
}

/// What a refusal's commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Written down.
    New {
        /// Row number of its ledger entry.
        entry: i64,
    },
    /// The key was claimed before; nothing was written.
    Existing(Existing),
}

/// The action that claimed a key first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Which action.
    pub id: ActionId,
    /// Is it the same request? If not, the key was used for two different things.
    pub same_request: bool,
    /// Where it stands.
    pub state: State,
    /// When it came in, milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// What the caller was last answered; `None` before the first answer.
    pub reply: Option<Reply>,
    /// Somebody altered that: its entry names something else.
    pub altered: bool,
}

/// Why an admission wrote nothing, in the order in which it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A freeze covers the action.
    Frozen(Scope),
    /// A mandate of the chain was revoked.
    Revoked {
        /// Which.
        jti: Arc<str>,
        /// When, milliseconds since 1970, UTC.
        at_ms: i64,
    },
    /// A mandate of the chain changed since the action was judged, or is frozen.
    MandateChanged {
        /// Which.
        jti: Arc<str>,
    },
    /// A mandate of the chain has no action left.
    ActionsUsedUp {
        /// Which.
        jti: Arc<str>,
    },
    /// A mandate of the chain has not enough left.
    CapExceeded {
        /// Which.
        jti: Arc<str>,
        /// How much is left.
        left: Money,
    },
    /// A mandate of the chain is in another currency.
    CurrencyMismatch {
        /// Which.
        jti: Arc<str>,
    },
    /// The session does not stand as it did when the action was judged, or is gone.
    SessionChanged,
    /// The cycle's number does not rise any more.
    NotRising {
        /// The highest by now.
        last: u64,
    },
    /// A mandate of the chain has not enough time, or of another resource, left.
    EnvelopeExceeded {
        /// Which.
        jti: Arc<str>,
        /// Of what.
        resource: Resource,
    },
    /// As many actions of the agent wait for people as may.
    TooManyHeld,
    /// Another action of late has the same effect.
    Duplicate(Earlier),
    /// An action that was to go on does not stand where it was to go on from, or no longer: somebody was faster. Checked
    /// before all others.
    Overtaken,
}

/// An earlier action with the same effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// Which action.
    pub id: ActionId,
    /// When it came in, milliseconds since 1970, UTC.
    pub at_ms: i64,
}

/// What an approval came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Row number of its ledger entry.
    pub entry: i64,
    /// How many people have agreed by now.
    pub given: u32,
    /// How many have to.
    pub needed: u32,
}

impl Counted {
    /// Is the action approved now?
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.given >= self.needed
    }
}

/// A person's word on a held action, read back. Who said what stands in the record and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Which of the action's holds.
    pub round: u32,
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// The record, as the entry names it.
    pub record: Vec<u8>,
    /// Row number of its ledger entry.
    pub entry: i64,
    /// Is it what that entry names? Nobody goes on with an action by a word that is not.
    pub whole: bool,
}

/// A row, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Row number: the order of admission, and the cursor of lists.
    pub row: i64,
    /// Which action.
    pub id: ActionId,
    /// Whose.
    pub tenant: Tenant,
    /// Real or pretended.
    pub environment: Environment,
    /// Who asked.
    pub subject: Subject,
    /// The client's key.
    pub key: Option<Box<str>>,
    /// HMAC over the request.
    pub request_hash: [u8; 32],
    /// Its kind.
    pub archetype: Box<str>,
    /// Root of the mandate's chain.
    pub principal: Box<str>,
    /// The mandates it drew on, leaf first.
    pub mandates: Vec<Box<str>>,
    /// Where it stands.
    pub state: State,
    /// When it came in, milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// When a held action expires.
    pub expires_ms: Option<i64>,
    /// How often it was held; 0 if never.
    pub round: u32,
    /// How many people have to agree to the latest hold.
    pub needed: u32,
    /// Rises each time somebody takes the action in hand after whoever admitted it, or says something of it while it waits; 1 until
    /// then.
    pub token: u32,
    /// Has a process of this store sent it, and may have it on its way?
    pub in_hand: bool,
    /// When it is due, if it rests until it is sent again or undone; milliseconds since 1970, UTC.
    pub due_ms: Option<i64>,
    /// When it was judged the last time and counted in the history of its principal, milliseconds since 1970, UTC.
    pub counted_ms: i64,
    /// Minor units debited by now.
    pub debit: i64,
    /// ISO 4217.
    pub currency: Option<Box<str>>,
    /// The payload of its intent.
    pub payload: Vec<u8>,
    /// What the caller was last answered.
    pub reply: Option<Reply>,
    /// What the entry says with which the payload was last written; `None` if the row does not stand where its entries leave
    /// it, or its last outcome is not what its own entry names. Whoever goes on with the action compares it first.
    pub naming: Option<Naming>,
}

/// What an entry names that a row was written with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The row.
    Row([u8; 32]),
    /// What became of it, which came with it: it was over before anything was sent. The payload of that outcome.
    Outcome(Vec<u8>),
}

impl Stored {
    /// Is the time over for which it was to wait?
    #[must_use]
    pub fn has_expired(&self, now_ms: i64) -> bool {
        self.expires_ms.is_none_or(|until_ms| until_ms <= now_ms)
    }
}

/// One outcome of an action, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Which action.
    pub action: ActionId,
    /// Whose.
    pub tenant: Tenant,
    /// The state reached.
    pub state: State,
    /// When, milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// What the caller was answered from then on.
    pub reply: Option<Reply>,
    /// The receipt.
    pub receipt: Option<Receipt>,
    /// The payload of the outcome.
    pub payload: Vec<u8>,
    /// Row number of its ledger entry.
    pub entry: i64,
    /// Is all of this what that entry names, after the outcome before it? Not once it is erased. Nobody goes on with an action
    /// by an outcome that is not.
    pub whole: bool,
}

/// A part of a list, and where the next part begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Hand this in as `after` for the next part; `None` at the end.
    pub next: Option<i64>,
}

/// A full page may be followed by another.
pub(crate) fn page<T>(rows: Vec<T>, limit: u32, row: impl Fn(&T) -> i64) -> Page<T> {
    let full = rows.len() >= limit as usize;
    let next = if full { rows.last().map(row) } else { None };
    Page { rows, next }
}
