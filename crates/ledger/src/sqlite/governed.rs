//! Is a governed session what its records say? Asked when its row is read for the first time, so that nothing begins in one
//! that somebody has opened anew in the store, and when the chain is walked.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use rusqlite::types::Type;

use super::read::{self, Sql, readable};
use super::session::{SESSION, governed_at};
use crate::governed::{self, Cycles, Declared, End, Open, Part};
use crate::session::INTENT_DECLARED;
use crate::{Governed, State};

/// The session, if its row says of it what its records do: whose it is, under what, and whether anything may begin in it.
pub(super) fn as_told(db: &Connection, key: i64, found: Governed) -> Sql<Governed> {
    let session = &found.session;
    let why = if !opened_so(db, key, &found)? {
        "its first record says something else of whose it is and what it was opened with"
    } else if !end_of(db, key)?.is(session) {
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
    let sql = "SELECT e.bytes, e.record FROM record r JOIN entry e ON e.row = r.entry
               WHERE r.session = ?1 AND r.seq = 0 AND r.entry = ?2";
    let said = read::one(db, sql, [key, found.row], |first| {
        let Some((event, record)) = read::recorded(first, 0)? else { return Ok(false) };
        Ok(governed::opened_so(found, key, first.get_ref(0)?.as_blob()?, event, record))
    })?;
    Ok(said.unwrap_or(false))
}

/// What is said of its end since the last record that none has of a session in which nothing may begin.
fn end_of(db: &Connection, key: i64) -> Sql<End> {
    let sql = "SELECT e.bytes, e.record FROM record r JOIN entry e ON e.row = r.entry WHERE r.session = ?1
               ORDER BY r.seq DESC";
    let mut select = db.prepare_cached(sql)?;
    let mut records = select.query([key])?;
    let mut end = End::default();
    while let Some(told) = records.next()? {
        if !end.hear(told.get_ref(0)?.as_blob()?, told.get_ref(1)?.as_blob_or_null()?) {
            break;
        }
    }
    Ok(end)
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
                    && end_of(db, key)?.is(&found.session)
                    && open.is_in(&found.session, pruned)
                    && cycles_of(db, key, &found)?.are_in(&found.session, pruned)
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

/// What is open of each session, by key.
fn open(db: &Connection) -> Sql<BTreeMap<i64, Open>> {
    let sql =
        "SELECT c.session, f.state FROM fate f INDEXED BY fate_open CROSS JOIN cycle c ON c.action = f.row
               WHERE f.state <= 3";
    let mut open: BTreeMap<i64, Open> = BTreeMap::new();
    // Of what cannot be read the action's own entries tell.
    for (key, state) in read::many(db, sql, [], |row| Ok((row.get(0)?, State::from_code(row.get(1)?))))? {
        open.entry(key).or_default().count(state);
    }
    Ok(open)
}

fn cycles_of(db: &Connection, key: i64, found: &Governed) -> Sql<Cycles> {
    let sql = "SELECT c.sequence, c.intent, a.tenant, a.subject, e.bytes, f.state, m.bytes FROM cycle c
               JOIN action a ON a.row = c.action JOIN entry e ON e.row = a.entry
               JOIN fate f ON f.row = a.row LEFT JOIN entry m ON m.row = f.moved WHERE c.session = ?1";
    let mut select = db.prepare_cached(sql)?;
    let mut rows = select.query([key])?;
    let mut cycles = Cycles::default();
    while let Some(row) = rows.next()? {
        let part = Part {
            sequence: row.get(0)?,
            intent: row.get_ref(1)?.as_str_or_null()?,
            tenant: row.get_ref(2)?.as_str()?,
            subject: row.get_ref(3)?.as_str()?,
            first: row.get_ref(4)?.as_blob()?,
            state: read::state(row, 5)?,
            moved: row.get_ref(6)?.as_blob_or_null()?,
        };
        cycles.take(found, &part);
    }
    Ok(cycles)
}

/// Is each declaration of a session what its entry says?
fn declared_in(db: &Connection, key: i64, found: &Governed) -> Sql<bool> {
    let sql = "SELECT d.intent, d.tenant, d.mandate, d.id, e.bytes FROM declaration d LEFT JOIN entry e ON e.row = d.entry
               WHERE d.session = ?1";
    let told = read::many(db, sql, [key], |row| {
        let declared = Declared {
            intent: row.get_ref(0)?.as_str()?,
            tenant: row.get_ref(1)?.as_str()?,
            mandate: row.get_ref(2)?.as_str()?,
            id: row.get_ref(3)?.as_str()?,
            bytes: row.get_ref(4)?.as_blob_or_null()?,
        };
        Ok(declared.is_in(found))
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
    Ok(governed::declared_so(event, record, sequence))
}

/// Entries of declarations and cycles that are of no session, or no action.
fn strays(db: &Connection) -> Sql<Vec<i64>> {
    let sql = "SELECT d.entry FROM declaration d LEFT JOIN session s ON s.key = d.session WHERE s.key IS NULL
               UNION SELECT coalesce(a.entry, s.entry, 0) FROM cycle c LEFT JOIN session s ON s.key = c.session
               LEFT JOIN action a ON a.row = c.action WHERE s.key IS NULL OR a.row IS NULL";
    read::many(db, sql, [], |row| row.get(0))
}
