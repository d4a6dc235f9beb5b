//! What looking closely at the store finds: everything that is missing or altered, and where.

use action::{ActionId, Subject, Tenant};

use crate::{ApiKey, Broken, Freeze, Held, Labels, Passkey, PrincipalKey, Receipt, State, Stored};

/// Something that is not as the chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Row number of the entry.
    pub entry: i64,
    /// The action the entry belongs to.
    pub action: Option<ActionId>,
    /// Whose action it is, where its row still says so.
    pub tenant: Option<Tenant>,
    /// What is wrong.
    pub broken: Broken,
}

/// Something stored that must agree with more than its hash. Whether it does is for those to say who can read it.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Row number of the entry.
    pub entry: i64,
    /// Which action.
    pub action: ActionId,
    /// Whose.
    pub tenant: Tenant,
    /// What is stored.
    pub testimony: Testimony,
}

/// What is stored beside an entry.
#[derive(Clone, Debug)]
pub enum Testimony {
    /// The row of an action, with the entry it began with; or, if it was written again since, with the last that did.
    Action {
        /// The row.
        stored: Box<Stored>,
        /// What the trail lists it by.
        labels: Box<Labels>,
        /// What the entry says of the action.
        action_hash: Option<[u8; 32]>,
        /// What is kept of the outcome that came with that entry, if one did.
        outcome: Option<Vec<u8>>,
    },
    /// A receipt, and what it must agree with.
    Receipt {
        /// Who asked.
        subject: Subject,
        /// What kind.
        archetype: Box<str>,
        /// The client's key.
        key: Option<Box<str>>,
        /// The state that its outcome reached.
        state: State,
        /// What happened, as its entry says.
        event: Box<str>,
        /// The state that its entry says, by the words of the outside.
        said: Option<Box<str>>,
        /// The receipt.
        receipt: Receipt,
    },
    /// What became of an action, beside its receipt.
    Outcome {
        /// What is kept of it.
        payload: Vec<u8>,
        /// Of one that its entry says a person had settled: what was asked, and the receipt.
        settled: Option<(Box<Stored>, Option<Receipt>)>,
    },
    /// A person's word.
    Approval {
        /// Which of the action's holds.
        round: u32,
        /// Who, by the row.
        approver: Box<str>,
        /// What it is, by its entry: for it, against it, a question, …
        event: Box<str>,
        /// The record, which is the one that the entry names.
        record: Vec<u8>,
    },
}

/// An entry of a governed session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Row number of the entry.
    pub entry: i64,
    /// When it was written, RFC 3339.
    pub at: Box<str>,
    /// What the signature covers.
    pub bytes: Vec<u8>,
    /// ES256, base64url.
    pub signature: Box<str>,
}

/// Who may do what, and what is stopped: what the chain tells of it, and the rows that are asked.
#[derive(Clone, Debug, Default)]
pub struct Authority {
    /// What happened and is no action, in the order of the chain.
    pub enacted: Vec<Enacted>,
    /// Of every tenant.
    pub keys: Vec<ApiKey>,
    /// Of every tenant, each with its account.
    pub mandates: Vec<Held>,
    /// Of every tenant.
    pub principal_keys: Vec<PrincipalKey>,
    /// Of every tenant.
    pub freezes: Vec<Freeze>,
    /// Of every tenant, those that name entries which tell of a passkey.
    pub passkeys: Vec<Passkey>,
    /// What is in those tables and cannot be read.
    pub illegible: Vec<Illegible>,
}

/// A row that holds what is never stored there: somebody else wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegible {
    /// The table.
    pub table: &'static str,
    /// Its number there; of a freeze, its place in the order of kind, tenant and name.
    pub row: i64,
}

/// Something that happened and is no action, as it is stored.
#[derive(Clone, Debug)]
pub struct Enacted {
    /// Row number of the entry.
    pub entry: i64,
    /// How the chain names the tenant.
    pub tenant_ref: Option<Box<str>>,
    /// What happened.
    pub event: Box<str>,
    /// The record, which is the one that the entry names unless a finding says otherwise.
    pub record: Vec<u8>,
}

/// How far a walk along the chain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Row number of the last entry looked at.
    pub row: i64,
    /// Receipts that are gone by here, as far as prunings account for them.
    pub receipts: u64,
    /// Approvals likewise.
    pub approvals: u64,
}

/// A stretch of the chain, looked at.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// What is wrong, in the order of the chain. After a wrong entry the walk goes on behind it.
    pub findings: Vec<Finding>,
    /// Receipts to be compared further.
    pub witnesses: Vec<Witness>,
    /// Entries of governed sessions, whose signatures are for those to check who have the keys.
    pub sealed: Vec<Sealed>,
    /// With the last stretch: what has to be compared over the whole chain.
    pub authority: Option<Box<Authority>>,
    /// How many entries were looked at.
    pub entries: u64,
    /// How many receipts were compared with the entry that names them.
    pub receipts: u64,
    /// How many approvals and rejections.
    pub approvals: u64,
    /// The hash of the last entry looked at.
    pub head: Option<[u8; 32]>,
    /// Row number of the newest entry there is.
    pub last: i64,
    /// Hand this in as `after` for the next stretch; `None` at the end.
    pub next: Option<Place>,
}
