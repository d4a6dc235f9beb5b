//! The chain: one entry per thing that happened, each holding the hash of the one before.
//!
//! ```text
//!   chain A: opened ─ e1 ─ e2 ─ … ─ head        (a process ends)
//!                                     └── chain B: opened ─ e1 ─ …
//! ```
//!
//! A process start opens a chain, and the opening entry names the head of the chain before it. `hash` is
//! SHA-256(JCS(entry without `hash`)); members are declared in JCS order, so plain serialisation is JCS.

use std::borrow::Cow;
use std::sync::Arc;

use action::ActionId;
use receipt::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Sealed;
use crate::session::Sealer;

/// The part of an entry that is known before its place in the chain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// How the chain names the tenant, without telling strangers who it is.
    pub tenant_ref: Option<Arc<str>>,
    /// Which attempt of the action, counted from 1.
    pub attempt: Option<u32>,
    /// What happened: `admitted`, `executed`, `refused`, …
    pub event: &'static str,
    /// The action's state by the words of the outside.
    pub state: Option<&'static str>,
    /// SHA-256 of the canonical action record with its values committed, or of another event's record.
    pub action_hash: Option<[u8; 32]>,
}

/// Where in a governed session an entry stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Session {
    /// The record that caused this one.
    pub causal_parent: Option<String>,
    /// The session.
    pub id: String,
    /// The declared intent.
    pub intent_id: Option<String>,
    /// Gap-free within the session.
    pub seq: u64,
}

/// Something that happened and is no action: a freeze, a mandate, a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// How the chain names the tenant.
    pub tenant_ref: Option<Arc<str>>,
    /// What happened: `mandate_revoked`, `frozen`, `key_rotated`, …
    pub event: &'static str,
    /// Canonical JSON of what happened; its hash stands in the entry as `actionHash`.
    pub record: Vec<u8>,
}

/// The growing end of a chain.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    id: Box<str>,
    seq: u64,
    head: Option<[u8; 32]>,
    at_ms: i64,
}

impl Chain {
    /// A chain that follows on `head`, the hash of the last entry of the chain before, if there was one.
    pub(crate) fn new(id: &str, head: Option<[u8; 32]>) -> Chain {
        Chain { id: id.into(), seq: 0, head, at_ms: 0 }
    }

    /// A chain that goes on where it was left.
    pub(crate) fn at(id: &str, seq: u64, head: Option<[u8; 32]>, at_ms: i64) -> Chain {
        Chain { id: id.into(), seq, head, at_ms }
    }

    /// Where it is left: number of the next entry, hash and time of the last.
    pub(crate) fn end(&self) -> (u64, Option<[u8; 32]>, i64) {
        (self.seq, self.head, self.at_ms)
    }

    /// Is nothing in it yet?
    pub(crate) fn is_new(&self) -> bool {
        self.seq == 0
    }

    /// The id of the entry that comes next.
    pub(crate) fn next_id(&self) -> String {
        record_id(&self.id, self.seq)
    }

    /// Appends an entry and returns its canonical bytes. Time in a chain never runs back: what comes in with an
    /// earlier time than the entry before gets that entry's. An entry of a session is signed.
    pub(crate) fn append(
        &mut self,
        at_ms: i64,
        action: Option<ActionId>,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
        session: Option<(Session, &dyn Sealer)>,
    ) -> Result<Vec<u8>, serde_json::Error> {
        self.at_ms = self.at_ms.max(at_ms);
        let at = Timestamp::from_unix_millis(u64::try_from(self.at_ms).unwrap_or(0));
        let (action_hash, receipt_hash, previous) =
            (draft.action_hash.map(Hex::of), receipt_hash.map(Hex::of), self.head.map(Hex::of));
        let action = action.map(|id| id.to_string());
        let mut entry = Entry {
            action_hash: action_hash.as_ref().map(Hex::as_str),
            action_id: action.as_deref(),
            at: at.as_str(),
            attempt: draft.attempt,
            chain_id: &self.id,
            event: draft.event,
            hash: None,
            kernel_signature: None,
            previous_hash: previous.as_ref().map(Hex::as_str),
            receipt_hash: receipt_hash.as_ref().map(Hex::as_str),
            seq: self.seq,
            session: session.as_ref().map(|(session, _)| Cow::Borrowed(session)),
            state: draft.state,
            tenant_ref: draft.tenant_ref.as_deref(),
            v: VERSION,
        };
        let signature = session.as_ref().map(|(_, sealer)| {
            let signed = serde_json::to_vec(&Signed::of(&entry))?;
            sealer.seal(&signed).map_err(serde::ser::Error::custom)
        });
        let signature = signature.transpose()?;
        entry.kernel_signature = signature.as_deref();
        let mut bytes = Vec::with_capacity(720);
        serde_json::to_writer(&mut bytes, &entry)?;
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        insert_hash(&mut bytes, &Hex::of(hash));
        (self.head, self.seq) = (Some(hash), self.seq + 1);
        Ok(bytes)
    }
}

/// Puts `hash` where it belongs: before the first member whose name begins with `k`. Inside a string a quote is
/// escaped and a value follows a colon, so the three bytes stand nowhere else.
fn insert_hash(bytes: &mut Vec<u8>, hash: &Hex) {
    let place = bytes.windows(3).position(|window| window == b",\"k").unwrap_or(bytes.len());
    let member = [b",\"hash\":\"", hash.0.as_slice(), b"\""].concat();
    bytes.splice(place..place, member);
}

/// The entry that opens a chain.
pub(crate) fn opening() -> Draft {
    Draft { tenant_ref: None, attempt: None, event: OPENED, state: None, action_hash: None }
}

impl Event {
    pub(crate) fn draft(&self) -> Draft {
        Draft {
            tenant_ref: self.tenant_ref.clone(),
            event: self.event,
            action_hash: Some(Sha256::digest(&self.record).into()),
            ..opening()
        }
    }
}

/// How an entry fails to follow the one before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Not an entry in its one spelling.
    #[error("it is not a canonical entry")]
    Form,
    /// The hash is not that of its content.
    #[error("its hash is not that of its content")]
    Hash,
    /// It does not name the entry before it.
    #[error("it does not follow the entry before it")]
    Previous,
    /// Its number is not the next one.
    #[error("its number is not the next in its chain")]
    Sequence,
    /// It is earlier than the entry before it.
    #[error("it is earlier than the entry before it")]
    Time,
    /// The receipt that is stored is not the one it names.
    #[error("the stored receipt is not the one it names")]
    Receipt,
    /// No receipt is stored where it names one.
    #[error("the receipt it names is missing")]
    NoReceipt,
    /// Its action's row is gone, and was not pruned.
    #[error("the action it belongs to is missing")]
    NoAction,
    /// An action's row says that it began with this entry, which is not its own.
    #[error("the action stored with it is not the one it belongs to")]
    Action,
    /// The outcome that came with it is another one than it names, or does not follow the one before it.
    #[error("the stored outcome is not the one it names")]
    Altered,
    /// The outcome that came with it belongs to another action, or none.
    #[error("the outcome stored with it is not that of its action")]
    Outcome,
    /// The action's row says that it came in at quite another time.
    #[error("the action stored with it came in at quite another time, as its row has it")]
    Arrival,
    /// What became of its action leads past the outcome that came with it.
    #[error("the outcome stored with it is not listed with its action")]
    Unlisted,
    /// The action's row says another state than its last outcome.
    #[error("the stored state of its action is not the one its last outcome reached")]
    Fate,
    /// The index of the audit trail does not lead to what is there.
    #[error("the index of the audit trail does not fit the entries from here on")]
    Index,
    /// The record that it names is missing, or another one.
    #[error("the record stored with it is missing, or not the one it names")]
    Record,
    /// The stored approval or rejection is not the one it names.
    #[error("the approval stored with it is missing, or not the one it names")]
    Approval,
    /// A value of a row that is stored with it, or with its action, is of no kind that is ever stored there.
    #[error("what is stored with it or with its action cannot be read")]
    Unreadable,
    /// Its action is empty and no entry says that it was erased, or one says so and it is not.
    #[error("its action is empty and was not erased, or is not empty and was")]
    Erased,
    /// Its place in a governed session is not the one that is stored, or a record of that session is missing.
    #[error("its place in its session is not the one stored")]
    Session,
    /// A cluster's rows do not say what the entries do.
    #[error("the stored cluster is not as the entries have it")]
    Cluster,
    /// A passkey's row does not say what the entries do.
    #[error("the stored passkey is not as the entries have it")]
    Passkey,
    /// Its action was not where this could have happened to it.
    #[error("nothing leads to it from where the entries before it left its action")]
    Step,
    /// The row of its session, or of a declaration or cycle in that, is not what the records say.
    #[error("the stored session is not as its records have it")]
    Governed,
    /// It is not in the transparency log, which has passed it.
    #[error("it is not in the transparency log, which has passed it")]
    Unlogged,
    /// A row is gone.
    #[error("an entry before it is missing")]
    Missing,
    /// It is the last that tells of pruning, and more is gone than all of them say.
    #[error("more is gone than was pruned")]
    Pruned,
}

/// Walks a chain, or chain after chain, from its beginning.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    chain: Option<Box<str>>,
    seq: u64,
    head: Option<[u8; 32]>,
    at: Box<str>,
    entries: u64,
    /// The entry before could not be read: whatever comes next follows.
    lost: bool,
}

/// What an entry says of itself that others can be compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// What happened.
    pub event: &'a str,
    /// The action it belongs to.
    pub action: Option<ActionId>,
    /// The state it says, by the words of the outside.
    pub state: Option<&'a str>,
    /// When, RFC 3339.
    pub at: &'a str,
    /// SHA-256 of the action record or event record.
    pub action_hash: Option<[u8; 32]>,
    /// SHA-256 of the receipt document.
    pub receipt_hash: Option<[u8; 32]>,
}

impl Said<'_> {
    /// Is it a person's word on a held action?
    pub(crate) fn decides(&self) -> bool {
        matches!(self.event, APPROVED | REJECTED | EXTENDED | INFO_REQUESTED | INFO_GIVEN)
    }
}

impl Walk {
    /// What an entry says, if it has the hash that it says; whatever comes before it.
    pub(crate) fn alone(bytes: &[u8]) -> Option<Said<'_>> {
        Walk { lost: true, ..Walk::default() }.step(bytes).ok()
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// How it fails to follow.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Said<'a>, Broken> {
        let entry: Entry<'a> = serde_json::from_slice(bytes).map_err(|_| Broken::Form)?;
        if serde_json::to_vec(&entry).ok().as_deref() != Some(bytes) || entry.v != VERSION {
            return Err(Broken::Form);
        }
        let unhashed =
            serde_json::to_vec(&Entry { hash: None, ..entry.clone() }).map_err(|_| Broken::Form)?;
        let hash: [u8; 32] = Sha256::digest(unhashed).into();
        if entry.hash != Some(Hex::of(hash).as_str()) {
            return Err(Broken::Hash);
        }
        if !self.lost {
            self.follows(&entry)?;
        }
        let action = entry.action_id.map(str::parse).transpose().map_err(|_| Broken::Form)?;
        let said = Said {
            event: entry.event,
            action,
            state: entry.state,
            at: entry.at,
            action_hash: read(entry.action_hash)?,
            receipt_hash: read(entry.receipt_hash)?,
        };
        self.stand_at(&entry, Some(hash));
        Ok(said)
    }

    fn follows(&self, entry: &Entry<'_>) -> Result<(), Broken> {
        if entry.previous_hash != self.head.map(Hex::of).as_ref().map(Hex::as_str) {
            return Err(Broken::Previous);
        }
        if entry.event == OPENED && entry.seq == 0 {
            return Ok(());
        }
        if self.chain.as_deref() != Some(entry.chain_id) || entry.seq != self.seq + 1 {
            return Err(Broken::Sequence);
        }
        if *entry.at < *self.at { Err(Broken::Time) } else { Ok(()) }
    }

    /// Goes on behind an entry that was wrong, believing what it says of itself, so that one mistake is told once.
    pub(crate) fn pass_over(&mut self, bytes: &[u8]) {
        match serde_json::from_slice::<Entry<'_>>(bytes) {
            Ok(entry) => self.stand_at(&entry, read(entry.hash).ok().flatten()),
            Err(_) => (self.lost, self.entries) = (true, self.entries + 1),
        }
    }

    /// Begins behind an entry that was looked at before, or where one is missing.
    pub(crate) fn resume(&mut self, bytes: Option<&[u8]>) {
        let entries = self.entries;
        match bytes {
            Some(bytes) => self.pass_over(bytes),
            None => self.lost = true,
        }
        self.entries = entries;
    }

    fn stand_at(&mut self, entry: &Entry<'_>, hash: Option<[u8; 32]>) {
        *self = Walk {
            chain: Some(entry.chain_id.into()),
            seq: entry.seq,
            head: hash,
            at: entry.at.into(),
            entries: self.entries + 1,
            lost: false,
        };
    }

    /// How many entries were walked.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The hash of the last entry.
    #[must_use]
    pub fn head(&self) -> Option<[u8; 32]> {
        self.head
    }
}

/// An entry as it reads, unchecked.
#[derive(Clone, Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) action: Option<ActionId>,
    pub(crate) chain: &'a str,
    pub(crate) seq: u64,
    pub(crate) at_ms: i64,
    pub(crate) event: &'a str,
    pub(crate) state: Option<&'a str>,
    pub(crate) hash: &'a str,
    pub(crate) previous: Option<&'a str>,
    pub(crate) receipt: Option<&'a str>,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) action_hash: Option<[u8; 32]>,
    pub(crate) in_session: bool,
}

impl<'a> Reading<'a> {
    /// `None` if it cannot be read.
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Reading<'a>> {
        let entry: Entry<'a> = serde_json::from_slice(bytes).ok()?;
        Some(Reading {
            action: entry.action_id.and_then(|id| id.parse().ok()),
            chain: entry.chain_id,
            seq: entry.seq,
            at_ms: i64::try_from(Timestamp::parse(entry.at).ok()?.unix_millis()).ok()?,
            event: entry.event,
            state: entry.state,
            hash: entry.hash?,
            previous: entry.previous_hash,
            receipt: entry.receipt_hash,
            tenant: entry.tenant_ref,
            action_hash: read(entry.action_hash).ok()?,
            in_session: entry.session.is_some(),
        })
    }
}

/// What an entry is about, without checking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading<'a> {
    /// What happened.
    pub event: &'a str,
    /// When, RFC 3339.
    pub at: &'a str,
    /// To which action.
    pub action: Option<ActionId>,
    /// Its state by the words of the outside.
    pub state: Option<&'a str>,
    /// How the chain names the tenant.
    pub tenant_ref: Option<&'a str>,
    /// The entry's hash, lower-case hex.
    pub hash: &'a str,
    /// Of what happened, where that is no action: the hash of its record, lower-case hex.
    pub record: Option<&'a str>,
}

impl<'a> Heading<'a> {
    /// Reads it; nothing if these are not the bytes of an entry.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Option<Heading<'a>> {
        let Entry { event, at, action_id, state, tenant_ref, hash, action_hash, .. } =
            serde_json::from_slice::<Entry<'a>>(bytes).ok()?;
        let action = action_id.map(|id| id.parse().ok());
        let record = action_hash.filter(|_| action_id.is_none());
        Some(Heading { event, at, action: action.flatten(), state, tenant_ref, hash: hash?, record })
    }
}

/// The event of an entry, found without reading the rest. Inside a string a quote is escaped, so the member's name
/// stands nowhere else.
#[must_use]
pub fn event_of(bytes: &[u8]) -> Option<&str> {
    let begin = bytes.windows(EVENT.len()).position(|window| window == EVENT)? + EVENT.len();
    let length = bytes[begin..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&bytes[begin..begin + length]).ok()
}

/// The hash an entry carries, without checking it.
pub(crate) fn hash_of(bytes: &[u8]) -> Option<[u8; 32]> {
    read(serde_json::from_slice::<Entry<'_>>(bytes).ok()?.hash).ok()?
}

fn read(text: Option<&str>) -> Result<Option<[u8; 32]>, Broken> {
    text.map(|text| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| Broken::Form)?;
        Ok(bytes)
    })
    .transpose()
}

/// Members in JCS order; every text in it is plain ASCII or escaped as JCS does.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry<'a> {
    action_hash: Option<&'a str>,
    action_id: Option<&'a str>,
    at: &'a str,
    attempt: Option<u32>,
    chain_id: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<&'a str>,
    kernel_signature: Option<&'a str>,
    previous_hash: Option<&'a str>,
    receipt_hash: Option<&'a str>,
    seq: u64,
    session: Option<Cow<'a, Session>>,
    state: Option<&'a str>,
    tenant_ref: Option<&'a str>,
    v: u32,
}

/// What the signature of a session's entry covers: all of it but what follows from the rest of the chain, and itself.
/// Members in JCS order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Signed<'a> {
    action_hash: Option<&'a str>,
    action_id: Option<&'a str>,
    at: &'a str,
    attempt: Option<u32>,
    chain_id: &'a str,
    event: &'a str,
    receipt_hash: Option<&'a str>,
    seq: u64,
    session: Option<&'a Session>,
    state: Option<&'a str>,
    tenant_ref: Option<&'a str>,
    v: u32,
}

impl<'a> Signed<'a> {
    fn of(entry: &'a Entry<'_>) -> Signed<'a> {
        Signed {
            action_hash: entry.action_hash,
            action_id: entry.action_id,
            at: entry.at,
            attempt: entry.attempt,
            chain_id: entry.chain_id,
            event: entry.event,
            receipt_hash: entry.receipt_hash,
            seq: entry.seq,
            session: entry.session.as_deref(),
            state: entry.state,
            tenant_ref: entry.tenant_ref,
            v: entry.v,
        }
    }
}

/// What the signature of a session's entry covers, and the signature; nothing if it is not one.
#[must_use]
pub fn sealed(row: i64, bytes: &[u8]) -> Option<Sealed> {
    let entry: Entry<'_> = serde_json::from_slice(bytes).ok()?;
    entry.session.as_ref()?;
    let signature = entry.kernel_signature.unwrap_or_default().into();
    Some(Sealed {
        entry: row,
        at: entry.at.into(),
        bytes: serde_json::to_vec(&Signed::of(&entry)).ok()?,
        signature,
    })
}

/// The session that an entry says it is of, without checking it.
#[must_use]
pub fn session_of(bytes: &[u8]) -> Option<Session> {
    let entry: Entry<'_> = serde_json::from_slice(bytes).ok()?;
    entry.session.map(Cow::into_owned)
}

/// The id of an entry, from its bytes.
pub(crate) fn id_of(bytes: &[u8]) -> Option<Box<str>> {
    let entry: Entry<'_> = serde_json::from_slice(bytes).ok()?;
    Some(record_id(entry.chain_id, entry.seq).into())
}

/// The id of an entry, by which records, causes and lists name it.
#[must_use]
pub fn record_id(chain: &str, seq: u64) -> String {
    format!("audit-{chain}-{seq}")
}

/// A hash as lower-case hex, without allocating.
struct Hex([u8; 64]);

impl Hex {
    fn of(hash: [u8; 32]) -> Hex {
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(hash) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Hex(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const EVENT: &[u8] = b",\"event\":\"";
/// Event of the first entry of a chain.
pub const OPENED: &str = "chain_opened";
/// Event of a passkey that a person registered.
pub const PASSKEY_REGISTERED: &str = "passkey_registered";
/// Event of a passkey that an admin says is that person's.
pub const PASSKEY_ENROLLED: &str = "passkey_enrolled";
/// Event of a passkey that counts no more.
pub const PASSKEY_REVOKED: &str = "passkey_revoked";
/// Event of an action that waits for people.
pub const HELD: &str = "held";
/// Event of an action that is marked sent for the first time.
pub const ADMITTED: &str = "admitted";
/// Event of an action that waits for its next attempt.
pub const WAITING: &str = "waiting";
/// Event of an action whose payer has to confirm it first.
pub const CHALLENGED: &str = "challenged";
/// Event of an action whose effect is confirmed and looked after.
pub const CHECKING: &str = "checking";
/// Event of an action whose effect is being undone before the last word is said.
pub const RETRACTING: &str = "retracting";
/// Event of an action for which money is set aside, and of each step of setting that free.
pub const RESERVED: &str = "reserved";
/// The state that an entry says, by the words of the outside, with which enough people agreed.
pub const AGREED: &str = "APPROVED";
/// Event of what could not be undone, or not be set free so far.
pub(crate) const ROLLBACK_FAILED: &str = "rollback_failed";
/// Event of a person's word on what became of an action.
pub const RESOLVED: &str = "resolved";
/// Event of each step of undoing an effect.
pub const ROLLING_BACK: &str = "rolling_back";
/// Event of an action that is marked sent to be charged what is set aside.
pub const CHARGING: &str = "charging";
/// Event of an action that is marked sent once more.
pub const SENT_AGAIN: &str = "sent_again";
/// Events of a person's word on a held action: for it, and against it.
pub(crate) const APPROVED: &str = "approved";
pub(crate) const REJECTED: &str = "rejected";
/// Event of a person's word that gives a held action more time.
pub(crate) const EXTENDED: &str = "extended";
/// Event of a question that a person has about a held action.
pub const INFO_REQUESTED: &str = "info_requested";
/// Event of what its agent says to that.
pub const INFO_GIVEN: &str = "info_given";
const VERSION: u32 = 1;
