//! Is a governed session what its records say? Asked when its row is read for the first time, so that nothing begins in one
//! that somebody has opened anew in the store, and when the chain is walked.

use std::collections::{BTreeMap, BTreeSet};

use mandate::{Completion, Halt, Session};
use rusqlite::types::Type;
use rusqlite::{Connection, Row};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::read::{self, Sql, readable};
use super::session::{SESSION, governed_at};
use super::verify::A_YEAR_MS;
use crate::entry::{ADMITTED, CHARGING, HELD, Reading, SENT_AGAIN, event_of, id_of, session_of};
use crate::session::{
    INTENT_DECLARED, SESSION_CLOSED, SESSION_HALTED, SESSION_OPENED, SESSION_STOPPED, is_under_way,
};
use crate::{Governed, State, identity};

/// The session, if its row says of it what its records do: whose it is, under what, and whether anything may begin in it.
pub(super) fn as_told(db: &Connection, key: i64, found: Governed) -> Sql<Governed> {
    let session = &found.session;
    let why = if !opened_so(db, key, &found)? {
        "its first record says something else of whose it is and what it was opened with"
    } else if !End::of(db, key)?.is(session) {
        "its records say something else of whether it is stopped or over"
    } else if waiting(db, key)? > i64::from(session.held) {
        "more of it waits for people than it says"
    } else {
        return Ok(found);
    };
    tracing::error!(session = &*session.id, tenant = %found.tenant, why, "a stored session is not what it was, and counts for nothing");
    Err(rusqlite::Error::FromSqlConversionFailure(0, Type::Text, why.into()))
}

/// Does its first record say what never changes of it?
fn opened_so(db: &Connection, key: i64, found: &Governed) -> Sql<bool> {
    let Governed { row, tenant, session, opening, payload } = found;
    let sql = "SELECT e.bytes, e.record FROM record r JOIN entry e ON e.row = r.entry
               WHERE r.session = ?1 AND r.seq = 0 AND r.entry = ?2";
    let said = read::one(db, sql, [key, *row], |first| {
        let Some((SESSION_OPENED, record)) = read::recorded(first, 0)? else { return Ok(None) };
        let (bytes, record) = (first.get_ref(0)?.as_blob()?, serde_json::from_slice::<Value>(record).ok());
        let entry = Reading::of(bytes).zip(id_of(bytes)).map(|(entry, id)| (entry.at_ms, id));
        Ok(entry.zip(record))
    })?;
    let Some(((at_ms, id), record)) = said.flatten() else { return Ok(false) };
    // What a record leaves out, as those from before it was written down do, is not compared.
    let says = |member: &str, text: &str| record[member].is_null() || record[member] == text;
    Ok(key == identity::session(tenant, &session.id)
        && id == *opening
        && says("sessionId", &session.id)
        && says("by", session.subject.as_str())
        && says("mandateId", &session.mandate_id)
        && says("openedWith", &hex::encode(Sha256::digest(payload)))
        && at_ms.abs_diff(session.opened_ms) < A_YEAR_MS)
}

/// How a session ended, or is about to, as its records say.
#[derive(Default)]
struct End {
    suspended: bool,
    closed: Option<Completion>,
    halt: Option<Halt>,
}

impl End {
    /// What was said of that since the last record that none has of a session in which nothing may begin.
    fn of(db: &Connection, key: i64) -> Sql<End> {
        let sql =
            "SELECT e.bytes, e.record FROM record r JOIN entry e ON e.row = r.entry WHERE r.session = ?1
                   ORDER BY r.seq DESC";
        let mut select = db.prepare_cached(sql)?;
        let mut records = select.query([key])?;
        let mut end = End::default();
        while let Some(told) = records.next()? {
            let said = || -> Sql<Value> {
                let record = told.get_ref(1)?.as_blob_or_null()?.unwrap_or_default();
                Ok(serde_json::from_slice::<Value>(record).unwrap_or_default()["completionState"].take())
            };
            match event_of(told.get_ref(0)?.as_blob()?) {
                Some(SESSION_CLOSED) => end.closed = said()?.as_str().and_then(Completion::parse),
                Some(SESSION_HALTED) => {
                    let halt = said()?.as_str().and_then(Halt::parse);
                    (end.closed, end.halt) = (Some(Completion::Revoked), halt);
                }
                Some(SESSION_STOPPED) => end.suspended = true,
                Some(SESSION_OPENED | INTENT_DECLARED | ADMITTED | SENT_AGAIN | CHARGING) => break,
                _ => {}
            }
        }
        Ok(end)
    }

    fn is(&self, session: &Session) -> bool {
        (self.suspended, self.closed, self.halt) == (session.suspended, session.closed, session.halt)
    }
}

/// How many actions of a session wait for people.
fn waiting(db: &Connection, key: i64) -> Sql<i64> {
    let sql = "SELECT count(*) FROM fate f INDEXED BY fate_open CROSS JOIN cycle c ON c.action = f.row
               WHERE f.state IN (0, 1) AND f.state <= 3 AND c.session = ?1";
    db.prepare_cached(sql)?.query_row([key], |row| row.get(0))
}

/// First entries of the sessions that are not what their records say, and entries of what is of no session. `pruned`: actions
/// are gone, and their cycles with them.
pub(crate) fn unlike(db: &Connection, pruned: bool) -> Sql<BTreeSet<i64>> {
    let open = open(db)?;
    let mut unlike = BTreeSet::new();
    let mut select = db.prepare_cached(SESSION)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (key, entry) = (row.get(0)?, row.get(18)?);
        let fits = match readable(governed_at(row))? {
            Some(found) => {
                let open = open.get(&key).copied().unwrap_or_default();
                opened_so(db, key, &found)?
                    && End::of(db, key)?.is(&found.session)
                    && open.is_in(&found.session, pruned)
                    && Cycles::of(db, key, &found)?.are_in(&found.session, pruned)
                    && declared_in(db, key, &found)?
            }
            None => false,
        };
        if !fits {
            unlike.insert(entry);
        }
    }
    unlike.extend(strays(db)?);
    Ok(unlike)
}

/// What is open of a session.
#[derive(Clone, Copy, Default)]
struct Open {
    held: u32,
    in_flight: u32,
}

impl Open {
    fn is_in(self, session: &Session, pruned: bool) -> bool {
        self.in_flight == session.in_flight
            && (self.held == session.held || (pruned && self.held < session.held))
    }
}

/// What is open of each session, by key.
fn open(db: &Connection) -> Sql<BTreeMap<i64, Open>> {
    let sql =
        "SELECT c.session, f.state FROM fate f INDEXED BY fate_open CROSS JOIN cycle c ON c.action = f.row
               WHERE f.state <= 3";
    let mut open: BTreeMap<i64, Open> = BTreeMap::new();
    // Of what cannot be read the action's own entries tell.
    for (key, state) in read::many(db, sql, [], |row| Ok((row.get(0)?, State::from_code(row.get(1)?))))? {
        let of = open.entry(key).or_default();
        of.held += u32::from(state.is_some_and(State::waits));
        of.in_flight += u32::from(state.is_some_and(is_under_way));
    }
    Ok(open)
}

/// What the cycles of a session come to.
#[derive(Default)]
struct Cycles {
    admitted: u64,
    denied: u64,
    /// The highest number of one.
    highest: u64,
    /// Is each what its first entry says?
    told: bool,
}

impl Cycles {
    fn of(db: &Connection, key: i64, found: &Governed) -> Sql<Cycles> {
        let sql = "SELECT c.sequence, c.intent, a.tenant, a.subject, e.bytes, f.state, m.bytes FROM cycle c
                   JOIN action a ON a.row = c.action JOIN entry e ON e.row = a.entry
                   JOIN fate f ON f.row = a.row LEFT JOIN entry m ON m.row = f.moved WHERE c.session = ?1";
        let mut select = db.prepare_cached(sql)?;
        let mut rows = select.query([key])?;
        let mut cycles = Cycles { told: true, ..Cycles::default() };
        while let Some(row) = rows.next()? {
            cycles.take(found, row)?;
        }
        Ok(cycles)
    }

    fn take(&mut self, found: &Governed, row: &Row<'_>) -> Sql<()> {
        let sequence: Option<i64> = row.get(0)?;
        let (intent, bytes) = (row.get_ref(1)?.as_str_or_null()?, row.get_ref(4)?.as_blob()?);
        // What waited and was never sent is denied once it is over.
        let waits = |moved: Option<&[u8]>| moved.is_none_or(|moved| event_of(moved) == Some(HELD));
        let is_over = || Ok::<_, rusqlite::Error>(read::state(row, 5)?.is_final());
        match event_of(bytes) {
            Some(HELD) if waits(row.get_ref(6)?.as_blob_or_null()?) && is_over()? => self.denied += 1,
            Some(ADMITTED | HELD) => self.admitted += 1,
            _ => self.denied += 1,
        }
        self.highest = self.highest.max(sequence.unwrap_or(0).cast_unsigned());
        self.told &= row.get_ref(2)?.as_str()? == found.tenant.as_str()
            && row.get_ref(3)?.as_str()? == found.session.subject.as_str()
            && session_of(bytes)
                .is_some_and(|it| *it.id == *found.session.id && it.intent_id.as_deref() == intent);
        Ok(())
    }

    fn are_in(&self, session: &Session, pruned: bool) -> bool {
        let counted = (self.admitted, self.denied) == (session.cycles, u64::from(session.denials))
            || (pruned && self.admitted <= session.cycles && self.denied <= u64::from(session.denials));
        counted && self.told && self.highest <= session.sequence
    }
}

/// Is each declaration of a session what its entry says?
fn declared_in(db: &Connection, key: i64, found: &Governed) -> Sql<bool> {
    let sql = "SELECT d.intent, d.tenant, d.mandate, d.id, e.bytes FROM declaration d LEFT JOIN entry e ON e.row = d.entry
               WHERE d.session = ?1";
    let told = read::many(db, sql, [key], |row| {
        let Some(bytes) = row.get_ref(4)?.as_blob_or_null()? else { return Ok(false) };
        let intent = row.get_ref(0)?.as_str()?;
        Ok(row.get_ref(1)?.as_str()? == found.tenant.as_str()
            && row.get_ref(2)?.as_str()? == &*found.session.mandate_id
            && event_of(bytes) == Some(INTENT_DECLARED)
            && id_of(bytes).as_deref() == Some(row.get_ref(3)?.as_str()?)
            && session_of(bytes)
                .is_some_and(|it| *it.id == *found.session.id && it.intent_id.as_deref() == Some(intent)))
    })?;
    Ok(told.into_iter().all(|told| told))
}

/// Is the declaration of which this entry is listed in its session, and no number in that lower?
pub(crate) fn declared_so(
    db: &Connection,
    (entry, session): (i64, i64),
    event: &str,
    record: &[u8],
) -> Sql<bool> {
    if event != INTENT_DECLARED {
        return Ok(true);
    }
    let sql = "SELECT s.sequence FROM declaration d JOIN session s ON s.key = d.session
               WHERE d.session = ?1 AND d.entry = ?2";
    let sequence = read::one(db, sql, [session, entry], |row| row.get::<_, i64>(0))?;
    let said: Value = serde_json::from_slice(record).unwrap_or_default();
    let said = said["action_sequence_number"].as_u64().unwrap_or(0);
    Ok(sequence.is_some_and(|sequence| sequence.cast_unsigned() >= said))
}

/// Entries of declarations and cycles that are of no session, or no action.
fn strays(db: &Connection) -> Sql<Vec<i64>> {
    let sql = "SELECT d.entry FROM declaration d LEFT JOIN session s ON s.key = d.session WHERE s.key IS NULL
               UNION SELECT coalesce(a.entry, s.entry, 0) FROM cycle c LEFT JOIN session s ON s.key = c.session
               LEFT JOIN action a ON a.row = c.action WHERE s.key IS NULL OR a.row IS NULL";
    read::many(db, sql, [], |row| row.get(0))
}
