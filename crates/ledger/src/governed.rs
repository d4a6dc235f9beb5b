//! Is a governed session what its records say? Asked when its row is read to be written, so that nothing begins in one that
//! somebody has opened anew in the store, and when the chain is walked. Each store finds the rows; here is what they have to say.

use mandate::{Completion, Halt, Session};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::entry::{ADMITTED, CHARGING, HELD, Reading, SENT_AGAIN, event_of, id_of, session_of};
use crate::session::{
    INTENT_DECLARED, SESSION_CLOSED, SESSION_HALTED, SESSION_OPENED, SESSION_STOPPED, is_under_way,
};
use crate::{Governed, State, identity};

/// Clocks are set by less.
pub(crate) const A_YEAR_MS: u64 = 366 * 24 * 60 * 60 * 1000;

/// Does its first record, which is sound, say what never changes of it?
pub(crate) fn opened_so(found: &Governed, key: i64, bytes: &[u8], event: &str, record: &[u8]) -> bool {
    let Governed { tenant, session, opening, payload, .. } = found;
    let (Some(entry), Some(id)) = (Reading::of(bytes), id_of(bytes)) else { return false };
    let Ok(record) = serde_json::from_slice::<Value>(record) else { return false };
    // What a record leaves out, as those from before it was written down do, is not compared.
    let says = |member: &str, text: &str| record[member].is_null() || record[member] == text;
    event == SESSION_OPENED
        && key == identity::session(tenant, &session.id)
        && id == *opening
        && says("sessionId", &session.id)
        && says("by", session.subject.as_str())
        && says("mandateId", &session.mandate_id)
        && says("openedWith", &hex::encode(Sha256::digest(payload)))
        && entry.at_ms.abs_diff(session.opened_ms) < A_YEAR_MS
}

/// How a session ended, or is about to, as its records say.
#[derive(Default)]
pub(crate) struct End {
    suspended: bool,
    closed: Option<Completion>,
    halt: Option<Halt>,
}

impl End {
    /// Takes in what records say, the newest first. Whether it matters what was said before: not where something began in the
    /// session, which in one that is stopped or over nothing does.
    pub(crate) fn hear(&mut self, bytes: &[u8], record: Option<&[u8]>) -> bool {
        let said = || {
            let record = serde_json::from_slice::<Value>(record.unwrap_or_default());
            record.unwrap_or_default()["completionState"].take()
        };
        match event_of(bytes) {
            Some(SESSION_CLOSED) => self.closed = said().as_str().and_then(Completion::parse),
            Some(SESSION_HALTED) => {
                let halt = said().as_str().and_then(Halt::parse);
                (self.closed, self.halt) = (Some(Completion::Revoked), halt);
            }
            Some(SESSION_STOPPED) => self.suspended = true,
            Some(SESSION_OPENED | INTENT_DECLARED | ADMITTED | SENT_AGAIN | CHARGING) => return false,
            _ => {}
        }
        true
    }

    pub(crate) fn is(&self, session: &Session) -> bool {
        (self.suspended, self.closed, self.halt) == (session.suspended, session.closed, session.halt)
    }
}

/// What is open of a session.
#[derive(Clone, Copy, Default)]
pub(crate) struct Open {
    held: u32,
    in_flight: u32,
}

impl Open {
    /// Counts one of its cycles. Of a state that cannot be read the action's own entries tell.
    pub(crate) fn count(&mut self, state: Option<State>) {
        self.held += u32::from(state.is_some_and(State::waits));
        self.in_flight += u32::from(state.is_some_and(is_under_way));
    }

    pub(crate) fn is_in(self, session: &Session, pruned: bool) -> bool {
        self.in_flight == session.in_flight
            && (self.held == session.held || (pruned && self.held < session.held))
    }
}

/// A cycle and its action, as their rows have them.
pub(crate) struct Part<'a> {
    pub(crate) sequence: Option<i64>,
    pub(crate) intent: Option<&'a str>,
    pub(crate) tenant: &'a str,
    pub(crate) subject: &'a str,
    /// The action's first entry.
    pub(crate) first: &'a [u8],
    pub(crate) state: State,
    /// The entry with which it last went on.
    pub(crate) moved: Option<&'a [u8]>,
}

/// What the cycles of a session come to.
#[derive(Default)]
pub(crate) struct Cycles {
    admitted: u64,
    denied: u64,
    /// The highest number of one.
    highest: u64,
    /// Is one not what its first entry says?
    untold: bool,
}

impl Cycles {
    pub(crate) fn take(&mut self, found: &Governed, part: &Part<'_>) {
        // What waited and was never sent is denied once it is over.
        let waits = part.moved.is_none_or(|moved| event_of(moved) == Some(HELD));
        match event_of(part.first) {
            Some(HELD) if waits && part.state.is_final() => self.denied += 1,
            Some(ADMITTED | HELD) => self.admitted += 1,
            _ => self.denied += 1,
        }
        self.highest = self.highest.max(part.sequence.unwrap_or(0).cast_unsigned());
        let told = part.tenant == found.tenant.as_str()
            && part.subject == found.session.subject.as_str()
            && session_of(part.first)
                .is_some_and(|it| *it.id == *found.session.id && it.intent_id.as_deref() == part.intent);
        self.untold |= !told;
    }

    pub(crate) fn are_in(&self, session: &Session, pruned: bool) -> bool {
        let counted = (self.admitted, self.denied) == (session.cycles, u64::from(session.denials))
            || (pruned && self.admitted <= session.cycles && self.denied <= u64::from(session.denials));
        counted && !self.untold && self.highest <= session.sequence
    }
}

/// A declaration as its row has it.
pub(crate) struct Declared<'a> {
    pub(crate) intent: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) mandate: &'a str,
    pub(crate) id: &'a str,
    /// Its entry, if that is there.
    pub(crate) bytes: Option<&'a [u8]>,
}

impl Declared<'_> {
    /// Is it of this session, and what its entry says?
    pub(crate) fn is_in(&self, found: &Governed) -> bool {
        let Some(bytes) = self.bytes else { return false };
        self.tenant == found.tenant.as_str()
            && self.mandate == &*found.session.mandate_id
            && event_of(bytes) == Some(INTENT_DECLARED)
            && id_of(bytes).as_deref() == Some(self.id)
            && session_of(bytes)
                .is_some_and(|it| *it.id == *found.session.id && it.intent_id.as_deref() == Some(self.intent))
    }
}

/// Is the declaration of which this is the record listed in its session, whose number this is, and is no number in that lower?
pub(crate) fn declared_so(event: &str, record: &[u8], sequence: Option<i64>) -> bool {
    if event != INTENT_DECLARED {
        return true;
    }
    let said: Value = serde_json::from_slice(record).unwrap_or_default();
    let said = said["action_sequence_number"].as_u64().unwrap_or(0);
    sequence.is_some_and(|sequence| sequence.cast_unsigned() >= said)
}
