//! Is a governed session what its records say? Asked whenever its row is read to be written, and when the chains are walked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Row;

use super::load::{SESSION, governed_at};
use super::read::readable;
use super::rules::recorded;
use super::sql::{Db, Done, Failure, get, many, state};
use crate::entry::event_of;
use crate::governed::{Cycles, Declared, End, Open, Part, opened_so};
use crate::session::LIMITED;
use crate::{Governed, State};

/// Newest records of a session that are read at once: nearly always the first of them says it.
const NEWEST: i64 = 16;
/// Records of it that are read at once before these, until one says it: however long it is, no more are in memory.
const OLDER: i64 = 256;
/// Sessions that are walked at once.
const PAGE: i64 = 256;

/// What records say of sessions, by key.
struct Told {
    /// Of which of them the first record says what never changes.
    opened: BTreeSet<i64>,
    ends: HashMap<i64, End>,
}

/// Lets through sessions whose rows say of them what their records do: whose they are, under what, and whether anything may begin
/// in them.
pub(super) async fn as_told(db: &Db, found: &[(i64, Governed)]) -> Done<()> {
    let told = told(db, found).await?;
    for (key, governed) in found {
        let session = &governed.session;
        let why = if !told.opened.contains(key) {
            "its first record says something else of whose it is and what it was opened with"
        } else if !told.ends.get(key).is_some_and(|end| end.is(session)) {
            "its records say something else of whether it is stopped or over"
        } else {
            continue;
        };
        tracing::error!(session = &*session.id, tenant = %governed.tenant, why, "a stored session is not what it was, and counts for nothing");
        return Err(Failure::Corrupt(format!("session {}: {why}", session.id)));
    }
    Ok(())
}

async fn told(db: &Db, found: &[(i64, Governed)]) -> Done<Told> {
    let tenants: Vec<&str> = found.iter().map(|(_, it)| it.tenant.as_str()).collect();
    let keys: Vec<i64> = found.iter().map(|(key, _)| *key).collect();
    let first = "SELECT r.session, r.entry, e.bytes, e.record FROM unnest($1::text[], $2::bigint[]) w (tenant, key)
                 JOIN record r ON r.tenant = w.tenant AND r.session = w.key AND r.seq = 0 JOIN entry e ON e.row = r.entry";
    let mut opened = BTreeSet::new();
    for row in many(db, first, &[&tenants, &keys]).await? {
        let (key, entry): (i64, i64) = (get(&row, 0)?, get(&row, 1)?);
        let Some((event, record)) = recorded(&row, 2)? else { continue };
        let of = found.iter().find(|(it, of)| *it == key && of.row == entry);
        let bytes = get(&row, 2)?;
        opened.extend(of.filter(|(_, of)| opened_so(of, key, bytes, event, record)).map(|_| key));
    }
    Ok(Told { opened, ends: ends(db, found).await? })
}

/// What the records of sessions say of their ends: the newest of them, and as long as they say nothing of it some that are older.
async fn ends(db: &Db, found: &[(i64, Governed)]) -> Done<HashMap<i64, End>> {
    let newest = "SELECT w.key, e.bytes, e.record, n.seq FROM unnest($1::text[], $2::bigint[], $3::bigint[]) w (tenant, key, before)
                  CROSS JOIN LATERAL (SELECT r.seq, r.entry FROM record r WHERE r.tenant = w.tenant AND r.session = w.key
                      AND r.seq < w.before ORDER BY r.seq DESC LIMIT $4) n
                  JOIN entry e ON e.row = n.entry ORDER BY w.key, n.seq DESC";
    let (mut ends, mut open) = (HashMap::new(), BTreeMap::new());
    let of = |(key, it): &(i64, Governed)| (it.tenant.as_str().to_owned(), *key, i64::MAX);
    let (mut asked, mut most): (Vec<_>, i64) = (found.iter().map(of).collect(), NEWEST);
    while !asked.is_empty() {
        let tenants: Vec<&str> = asked.iter().map(|(tenant, ..)| &**tenant).collect();
        let (keys, before): (Vec<i64>, Vec<i64>) =
            asked.iter().map(|(_, key, before)| (*key, *before)).unzip();
        for row in many(db, newest, &[&tenants, &keys, &before, &most]).await? {
            hear(&row, &mut ends, &mut open)?;
        }
        asked.retain_mut(|(_, key, before)| match open.get(key) {
            // Before the first there is none.
            Some(seq) if *seq > 0 && seq < before => {
                *before = *seq;
                true
            }
            _ => false,
        });
        most = OLDER;
    }
    Ok(ends)
}

/// Takes in a record, unless one that is newer has ended the question. `open`: the number of the last one heard, of each session
/// of which older ones matter.
fn hear(row: &Row, ends: &mut HashMap<i64, End>, open: &mut BTreeMap<i64, i64>) -> Done<()> {
    let key: i64 = get(row, 0)?;
    if ends.contains_key(&key) && !open.contains_key(&key) {
        return Ok(());
    }
    match ends.entry(key).or_default().hear(get(row, 1)?, get(row, 2)?) {
        true => open.insert(key, get(row, 3)?),
        false => open.remove(&key),
    };
    Ok(())
}

/// First entries of the sessions that are not what their records say, and entries of what is of no session. `pruned`: actions
/// are gone, and their cycles with them.
pub(super) async fn unlike(db: &Db, pruned: bool) -> Done<BTreeSet<i64>> {
    let mut unlike = BTreeSet::new();
    let (mut tenant, mut after) = (String::new(), i64::MIN);
    loop {
        let sql = format!("{SESSION} WHERE (s.tenant, s.key) > ($1, $2) ORDER BY s.tenant, s.key LIMIT $3");
        let rows = many(db, &sql, &[&tenant, &after, &PAGE]).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            (tenant, after) = (get(row, 2)?, get(row, 0)?);
            match readable(governed_at(row))? {
                Some(governed) => found.push((after, governed)),
                None => drop(unlike.insert(get(row, 18)?)),
            }
        }
        unlike.extend(unlike_of(db, &found, pruned).await?);
        if (rows.len() as i64) < PAGE {
            break;
        }
    }
    let strays = "SELECT d.entry FROM declaration d LEFT JOIN session s ON s.tenant = d.tenant AND s.key = d.session
                  WHERE s.key IS NULL UNION SELECT coalesce(a.entry, s.entry, 0) FROM cycle c
                  LEFT JOIN session s ON s.tenant = c.tenant AND s.key = c.session
                  LEFT JOIN action a ON a.tenant = c.tenant AND a.id = c.action WHERE s.key IS NULL OR a.id IS NULL";
    for row in many(db, strays, &[]).await? {
        unlike.insert(get(&row, 0)?);
    }
    Ok(unlike)
}

async fn unlike_of(db: &Db, found: &[(i64, Governed)], pruned: bool) -> Done<Vec<i64>> {
    let told = told(db, found).await?;
    let cycles = cycles(db, found).await?;
    let undeclared = undeclared(db, found).await?;
    let fits = |key: &i64, governed: &Governed| {
        let session = &governed.session;
        let nothing = (Open::default(), Cycles::default());
        let (open, cycles) = cycles.get(key).unwrap_or(&nothing);
        told.opened.contains(key)
            && told.ends.get(key).is_some_and(|end| end.is(session))
            && open.is_in(session, pruned)
            && cycles.are_in(session, pruned)
            && !undeclared.contains(key)
    };
    Ok(found.iter().filter(|(key, it)| !fits(key, it)).map(|(_, it)| it.row).collect())
}

async fn cycles(db: &Db, found: &[(i64, Governed)]) -> Done<HashMap<i64, (Open, Cycles)>> {
    let (tenants, keys) = keys_of(found);
    let sql = "SELECT c.session, c.sequence, c.intent, a.tenant, a.subject, e.bytes, f.state, m.bytes
               FROM unnest($1::text[], $2::bigint[]) w (tenant, key)
               JOIN cycle c ON c.tenant = w.tenant AND c.session = w.key
               JOIN fate f ON f.id = c.action JOIN action a ON a.tenant = f.tenant AND a.id = f.id
               JOIN entry e ON e.row = a.entry LEFT JOIN entry m ON m.row = f.moved";
    let mut all: HashMap<i64, (Open, Cycles)> = HashMap::new();
    for row in many(db, sql, &[&tenants, &keys]).await? {
        let key: i64 = get(&row, 0)?;
        let (open, cycles) = all.entry(key).or_default();
        let state: Option<State> = readable(state(&row, 6))?;
        open.count(state);
        let of = found.iter().find(|(it, _)| *it == key).map(|(_, of)| of);
        if let (Some(of), Some(state)) = (of, state) {
            let part = Part {
                sequence: get(&row, 1)?,
                intent: get(&row, 2)?,
                tenant: get(&row, 3)?,
                subject: get(&row, 4)?,
                first: get(&row, 5)?,
                state,
                moved: get(&row, 7)?,
            };
            cycles.take(of, &part);
        }
    }
    Ok(all)
}

/// Those of which a declaration is not what its entry says.
async fn undeclared(db: &Db, found: &[(i64, Governed)]) -> Done<BTreeSet<i64>> {
    let (tenants, keys) = keys_of(found);
    let sql = "SELECT d.session, d.intent, d.tenant, d.mandate, d.id, e.bytes
               FROM unnest($1::text[], $2::bigint[]) w (tenant, key)
               JOIN declaration d ON d.tenant = w.tenant AND d.session = w.key LEFT JOIN entry e ON e.row = d.entry";
    let mut undeclared = BTreeSet::new();
    for row in many(db, sql, &[&tenants, &keys]).await? {
        let key: i64 = get(&row, 0)?;
        let declared = Declared {
            intent: get(&row, 1)?,
            tenant: get(&row, 2)?,
            mandate: get(&row, 3)?,
            id: get(&row, 4)?,
            bytes: get(&row, 5)?,
        };
        let of = found.iter().find(|(it, _)| *it == key);
        undeclared.extend(of.filter(|(_, of)| !declared.is_in(of)).map(|_| key));
    }
    Ok(undeclared)
}

fn keys_of(found: &[(i64, Governed)]) -> (Vec<&str>, Vec<i64>) {
    found.iter().map(|(key, it)| (it.tenant.as_str(), *key)).unzip()
}

/// First entries of the sessions that have limits which no record of theirs tells of.
pub(super) async fn limited_by_nobody(db: &Db) -> Done<Vec<i64>> {
    let sql = "SELECT s.entry, e.bytes FROM session s
               LEFT JOIN record r ON r.entry = s.limited AND r.tenant = s.tenant AND r.session = s.key
               LEFT JOIN entry e ON e.row = r.entry
               WHERE s.limited IS NOT NULL OR s.limit_minor IS NOT NULL OR s.limit_currency IS NOT NULL
               OR s.limit_until IS NOT NULL";
    let mut unlike = Vec::new();
    for row in many(db, sql, &[]).await? {
        if get::<Option<&[u8]>>(&row, 1)?.and_then(event_of) != Some(LIMITED) {
            unlike.push(get(&row, 0)?);
        }
    }
    Ok(unlike)
}
