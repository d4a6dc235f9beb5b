//! Governed sessions: rows that change only in the commit of the entry that says so.
//!
//! Every entry of a session carries its place in it, which the writer gives, because only the writer knows it: numbers
//! rise without a gap, and what caused a record is named by that record's id. The writer has it signed, too
//! ([`Sealer`]), since the signature covers all of that.

use std::fmt;

use action::{ActionId, Tenant};
use mandate::{Account, ApprovedLimits, Resource, Session, SessionEvent, SessionRefusal, Usage};
use receipt::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Approval, Error, Event, Outcome, Settlement, State, Used};

/// Signs the entries of governed sessions with the installation's key.
pub trait Sealer: fmt::Debug + Send + Sync {
    /// ES256 over these bytes, base64url.
    ///
    /// # Errors
    /// Why there is no signature; then nothing is written.
    fn seal(&self, bytes: &[u8]) -> Result<String, String>;

    /// By what name its key is known, which [`Ledger::bar`](crate::Ledger::bar) is told; empty if by none.
    fn key(&self) -> String {
        String::new()
    }
}

/// Why no session begins where there is no [`Sealer`].
pub(crate) const UNSEALED: &str = "nothing signs the entries of sessions";

/// A session that is to begin.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Whose.
    pub tenant: Tenant,
    /// As it begins.
    pub session: Session,
    /// What it was opened with, as JSON.
    pub payload: Vec<u8>,
    /// Its first record.
    pub event: Event,
}

/// A session, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governed {
    /// Where lists go on.
    pub row: i64,
    /// Whose.
    pub tenant: Tenant,
    /// How it stands.
    pub session: Session,
    /// The id of its first record.
    pub opening: Box<str>,
    /// What it was opened with, as JSON.
    pub payload: Vec<u8>,
}

impl Governed {
    /// Does it go by this name? Keys are shorter than what they stand for.
    pub(crate) fn is(&self, tenant: &Tenant, id: &str) -> bool {
        self.tenant == *tenant && *self.session.id == *id
    }
}

/// An intent declaration on its way into the chain.
#[derive(Clone, Debug)]
pub struct Declaring {
    /// Whose.
    pub tenant: Tenant,
    /// In which session.
    pub session: Box<str>,
    /// Unique within the mandate.
    pub intent: Box<str>,
    /// The mandate of the session.
    pub mandate: Box<str>,
    /// Its number; the numbers of a session only rise.
    pub sequence: u64,
    /// The declaration is the event's record.
    pub event: Event,
}

/// What became of a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    /// It is committed, and read back so.
    New(Box<Intention>),
    /// There is no such session.
    NoSession,
    /// The session does not take it.
    Refused(SessionRefusal),
    /// Its id was used under this mandate before.
    Duplicate,
}

/// A declaration, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intention {
    /// Its id.
    pub intent: Box<str>,
    /// The session it was made in.
    pub session: Box<str>,
    /// The id of its record.
    pub record_id: Box<str>,
    /// The entry that committed it.
    pub entry: Vec<u8>,
    /// Its record.
    pub record: Vec<u8>,
}

/// Something that happens to a session and is no action.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Whose.
    pub tenant: Tenant,
    /// Which session.
    pub session: Box<str>,
    /// What happens; `None` only records something in it.
    pub event: Option<SessionEvent>,
    /// The record that caused it; its first one if nothing else did.
    pub cause: Option<Box<str>>,
    /// What is written down.
    pub record: Event,
    /// The number that its record must have; if others came before it, nothing happens ([`Error::Changed`]).
    pub expects: Option<u64>,
}

/// A session that is open, and is not to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapsed {
    /// The session.
    pub governed: Governed,
    /// Why it is to end.
    pub why: Lapse,
}

/// Why an open session is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// Its mandate, or one that this descends from, was revoked.
    Revoked {
        /// Which.
        mandate: Box<str>,
        /// When, in Unix milliseconds.
        at_ms: i64,
    },
    /// It was stopped, and whoever did that did not end it.
    Stopped,
    /// Its mandate expired.
    Expired {
        /// Which.
        mandate: Box<str>,
    },
}

/// A session with cycles that a process before this one left behind, or of which the end of their recovery is still to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovering {
    /// The session.
    pub governed: Governed,
    /// The record that its recovery began; none yet if there is none.
    pub initiated: Option<Box<str>>,
    /// Its cycles that are marked sent, and of which nothing else is known.
    pub sent: Vec<ActionId>,
}

/// What somebody outside told of a session or mandate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityEvent {
    /// Whose.
    pub tenant: Tenant,
    /// Who told it.
    pub issuer: Box<str>,
    /// Their name for it, used once.
    pub jti: Box<str>,
    /// SHA-256 of what was sent.
    pub hash: [u8; 32],
}

/// Whether it was told before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// No; it is on record under this id now.
    New(Box<str>),
    /// Yes, the very same; it is on record under this id.
    Again(Box<str>),
    /// Something else was told under that name.
    Taken,
}

/// A record of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in the session.
    pub seq: u64,
    /// The entry's row number.
    pub row: i64,
    /// The entry.
    pub entry: Vec<u8>,
    /// The record of an event that is no action.
    pub record: Option<Vec<u8>>,
}

/// The session that an action is a cycle of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Which session.
    pub session: Box<str>,
    /// Its epoch when the action was judged; another one now means that it must be judged anew.
    pub epoch: u64,
    /// Its number. Only what is refused may have none.
    pub sequence: Option<u64>,
    /// The declaration it stands on. Only what is refused may have none.
    pub intent: Option<Box<str>>,
}

/// What it means for its session that an action goes from one state to another.
pub(crate) fn moved(before: State, after: State) -> Option<SessionEvent> {
    match (Stand::of(before), Stand::of(after)) {
        (Stand::Waits, Stand::UnderWay) => Some(SessionEvent::Decided { sent: true }),
        (Stand::Waits, Stand::Done) => Some(SessionEvent::Decided { sent: false }),
        (Stand::UnderWay, Stand::Done) => Some(SessionEvent::Settled),
        (Stand::Done, Stand::UnderWay) => Some(SessionEvent::SentAgain),
        _ => None,
    }
}

/// Is an action that stands here sent, and not settled?
pub(crate) fn is_under_way(state: State) -> bool {
    Stand::of(state) == Stand::UnderWay
}

#[derive(PartialEq)]
enum Stand {
    Waits,
    UnderWay,
    Done,
}

impl Stand {
    fn of(state: State) -> Stand {
        match state {
            State::Held | State::Approved => Stand::Waits,
            State::Sent
            | State::InDoubt
            | State::Waiting
            | State::Challenged
            | State::Checking
            | State::Retracting
            | State::Reserved
            | State::ReleaseFailed
            | State::Unchecked => Stand::UnderWay,
            // What is undone afterwards compensates; nothing of the session waits for it.
            State::Executed
            | State::Failed
            | State::Refused
            | State::RollingBack
            | State::RollbackFailed
            | State::RolledBack => Stand::Done,
        }
    }
}

/// A recovery begins once, and ends once it has begun.
pub(crate) fn fits(event: &str, recovering: bool, session: &str) -> Result<(), Error> {
    match (event, recovering) {
        (RECOVERY_INITIATED, true) => Err(Error::Exists(session.into())),
        (RECOVERY_COMPLETE, false) => Err(Error::Absent(session.into())),
        _ => Ok(()),
    }
}

/// Does an agent end its session, and so leave its cluster? It does not get out of what people have to decide.
pub(crate) fn leaves(event: Option<SessionEvent>) -> bool {
    matches!(event, Some(SessionEvent::Closed { by_agent: true, .. }))
}

/// Whether a record comes when it is expected.
pub(crate) fn comes_now(session: &Session, expects: Option<u64>) -> Result<(), Error> {
    match expects.is_none_or(|number| number == session.next_record) {
        true => Ok(()),
        false => Err(Error::Changed(session.id.clone())),
    }
}

/// Is this the end of a session that somebody, and not what it did or did not do, brought about?
pub(crate) fn is_by_person(event: Option<SessionEvent>) -> bool {
    use SessionEvent::{Closed, Revoked};
    matches!(event, Some(Closed { by_agent: false, .. } | Revoked { by_person: true, .. }))
}

/// What breaks a mandate's envelope, now that it is known what an action used and not only what was debited for it.
pub(crate) fn breaches(
    settlement: &Settlement,
    used: &Used,
    [debited, measured]: [&Usage; 2],
    account: &Account,
) -> Result<Vec<Event>, serde_json::Error> {
    let envelope = used.envelopes.iter().find(|(jti, _)| **jti == *account.jti).map(|(_, it)| it);
    let over = |resource: &Resource| measured.of(*resource) > debited.of(*resource);
    let broken = Resource::ALL.into_iter().filter(over).filter_map(|resource| {
        let limit = account.limit(envelope?, resource).filter(|limit| account.used.of(resource) > *limit)?;
        Some(Breach {
            action_id: settlement.action.to_string(),
            limit,
            mandate_id: &account.jti,
            resource: resource.member(),
            used: account.used.of(resource),
        })
    });
    broken.map(|breach| breach.event(&settlement.outcome)).collect()
}

/// Members in JCS order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Breach<'a> {
    action_id: String,
    limit: u64,
    mandate_id: &'a str,
    resource: &'static str,
    used: u64,
}

impl Breach<'_> {
    fn event(&self, after: &Outcome) -> Result<Event, serde_json::Error> {
        let record = serde_json::to_vec(self)?;
        let tenant_ref = after.entry.tenant_ref.clone();
        Ok(Event { at_ms: after.at_ms, tenant_ref, event: BUDGET_BREACHED, record })
    }
}

/// Event of the first record of a session, which says whose it is and what it was opened with.
pub const SESSION_OPENED: &str = "session_opened";
/// Event of a declaration.
pub const INTENT_DECLARED: &str = "intent_declared";
/// Event of a session that its agent or its principal ended, and how.
pub const SESSION_CLOSED: &str = "session_closed";
/// Event of a session that is stopped and about to end.
pub const SESSION_STOPPED: &str = "session_revocation_initiated";
/// Event of a session that was revoked, and how it was left.
pub const SESSION_HALTED: &str = "session_halted";

/// Event of a session whose cycles are looked after that somebody left behind.
pub const RECOVERY_INITIATED: &str = "recovery_initiated";
/// Event of a session of whose cycles it is known again where each stands.
pub const RECOVERY_COMPLETE: &str = "recovery_complete";

/// What is written down of limits that a person set for the rest of a session, which has `now` from then on.
pub(crate) fn limited(approval: &Approval, set: ApprovedLimits, now: ApprovedLimits) -> Event {
    let fields = json!({
        "action_id": approval.action.to_string(), "session_limits": standing(now), "set": standing(set),
    });
    let record = json!({"ale": {"code": null, "fields": fields}});
    Event {
        at_ms: approval.at_ms,
        tenant_ref: approval.entry.tenant_ref.clone(),
        event: LIMITED,
        record: action::json::canonical(&record).into_bytes(),
    }
}

/// Are these the limits of a session that its record says?
pub(crate) fn says_limits(record: &[u8], limits: ApprovedLimits) -> bool {
    serde_json::from_slice::<Value>(record)
        .is_ok_and(|record| record["ale"]["fields"]["session_limits"] == standing(limits))
}

fn standing(limits: ApprovedLimits) -> Value {
    let until = |ms: i64| Timestamp::from_unix_millis(u64::try_from(ms).unwrap_or(0));
    json!({
        "currency": limits.max_amount.map(|most| most.currency().code().to_owned()),
        "max_amount": limits.max_amount.map(|most| most.to_string()),
        "not_after": limits.not_after_ms.map(|ms| until(ms).as_str().to_owned()),
    })
}

/// Event of limits that a person set for the rest of a session.
pub(crate) const LIMITED: &str = "session_limited";

/// Event of an action that used more than a mandate had.
pub const BUDGET_BREACHED: &str = "budget_breached";

/// The session after the event. What is known of an action is written down whatever its session says to it.
pub(crate) fn after(session: &Session, event: SessionEvent) -> Session {
    session.step(event).unwrap_or_else(|_| session.clone())
}
