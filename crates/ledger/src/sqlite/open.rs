//! Opening a store: shape, ends of the tables, what is kept in memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use boundary::Series;
use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::batch::{Tail, stored_series};
use super::hot::Hot;
use super::read::{self, Sql};
use super::writer::LOG_PAGES;
use super::{Options, PAGE_BYTES, copy, prune};
use crate::Error;
use crate::entry::{self, Chain};

mod migrations {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    refinery::embed_migrations!("src/sqlite/migrations");
}

/// Connection caches, in KiB. The writer's holds the inner pages of every index.
const WRITER_CACHE: i64 = 8 * 1024;
const READER_CACHE: i64 = 1024;

pub(crate) fn writer(path: &Path) -> Result<Connection, Error> {
    let mut db = alone(path)?;
    copy::is_here(&db)?;
    // What is erased, or replaced, leaves nothing behind in the file.
    db.pragma_update_and_check(None, "secure_delete", "on", |_| Ok(())).map_err(cannot)?;
    // Grouped: a process that dies between a migration and the note that it was made could never open the store again.
    let runner = migrations::migrations::runner().set_grouped(true);
    runner.run(&mut db).map_err(|error| Error::Open(error.to_string().into()))?;
    db.wal_hook(Some(note_log));
    Ok(db)
}

/// For whoever writes without being a gateway.
pub(super) fn alone(path: &Path) -> Result<Connection, Error> {
    let db = Connection::open(path).map_err(cannot)?;
    configure(&db, WRITER_CACHE).map_err(cannot)?;
    must_be_ours(&db)?;
    Ok(db)
}

/// The last migration.
pub(super) fn version() -> i32 {
    let runner = migrations::migrations::runner();
    runner.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or_default()
}

pub(crate) fn reader(path: &Path) -> Result<Connection, Error> {
    let db = Connection::open(path).map_err(cannot)?;
    configure(&db, READER_CACHE).map_err(cannot)?;
    Ok(db)
}

/// We have no triggers: somebody else's would run in our commits.
fn must_be_ours(db: &Connection) -> Result<(), Error> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'trigger'";
    let foreign: Option<String> = read::one(db, sql, [], |row| row.get(0)).map_err(cannot)?;
    foreign.map_or(Ok(()), |name| {
        Err(Error::Open(format!("it has a trigger `{name}`, which is not ours: see who put it there").into()))
    })
}

fn configure(db: &Connection, cache: i64) -> Sql<()> {
    db.set_prepared_statement_cache_capacity(64);
    // The page size holds only if it is set before the first page is written; WAL fixes it.
    db.pragma_update(None, "page_size", PAGE_BYTES.cast_signed())?;
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // An acknowledged commit survives a power cut; NORMAL would lose the last ones.
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "cache_size", -cache)?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    db.pragma_update_and_check(None, "mmap_size", 0, |_| Ok(()))?;
    db.busy_timeout(std::time::Duration::from_secs(5))
}

/// Takes the place of the automatic checkpoint.
fn note_log(_: &Wal, pages: std::ffi::c_int) -> Sql<()> {
    LOG_PAGES.set(u64::try_from(pages).unwrap_or(0));
    Ok(())
}

/// The ends of the tables and a new chain behind the head of the last one, opened by its first entry.
pub(crate) fn tail(db: &Connection, options: &Options) -> Result<Tail, Error> {
    let head = read::one(db, "SELECT row, bytes FROM entry ORDER BY row DESC LIMIT 1", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
    });
    let (head_row, head) = match head.map_err(cannot)? {
        None => (0, None),
        Some((row, bytes)) => {
            let hash = entry::hash_of(&bytes);
            (row, Some(hash.ok_or_else(|| Error::Corrupt(format!("ledger entry {row}").into()))?))
        }
    };
    // Numbers of pruned rows are not given again.
    let next = |table, pruned| -> Result<i64, Error> {
        let last = read::last_row(db, table).map_err(cannot)?.unwrap_or(0);
        Ok(last.max(read::meta(db, pruned).map_err(cannot)?.unwrap_or(0)) + 1)
    };
    Ok(Tail {
        chain: Chain::new(&options.chain_id, head),
        action: next("action", prune::ACTION)?,
        outcome: next("outcome", prune::OUTCOME)?,
        entry: head_row + 1,
        owner: head_row + 1,
        saved: read::meta(db, SAVED).map_err(cannot)?.unwrap_or(0),
    })
}

/// What is kept in memory: freezes, credentials, and the histories that a crash kept from their rows.
pub(crate) fn hot(db: &Connection, tail: &Tail) -> Sql<Hot> {
    let mut hot = Hot::new();
    hot.freezes = Arc::new(read::stops(db)?);
    hot.principals = Arc::new(read::legible(read::principal_keys(db)?));
    let keys = read::legible(read::keys(db, None)?).into_iter().filter(|key| key.revoked_ms.is_none());
    hot.keys = keys.map(|key| (key.hash, Arc::new(key))).collect();
    hot.unsaved = unsaved(db, tail.saved)?;
    Ok(hot)
}

/// Name in `meta`: the last action whose history is in its row of `series`.
pub(super) const SAVED: &str = "series";

/// The histories that are newer than their rows.
pub(super) fn unsaved(db: &Connection, saved: i64) -> Sql<HashMap<i64, Arc<Series>>> {
    let sql = "SELECT series, at, amount FROM action WHERE row > ?1 AND series IS NOT NULL ORDER BY row";
    let actions: Vec<(i64, i64, i64)> =
        read::many(db, sql, [saved], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut unsaved: HashMap<i64, Arc<Series>> = HashMap::new();
    for (key, at_ms, amount) in actions {
        let mut series = match unsaved.remove(&key) {
            Some(series) => series,
            None => Arc::new(stored_series(db, key)?),
        };
        Arc::make_mut(&mut series).push(at_ms, amount);
        unsaved.insert(key, series);
    }
    Ok(unsaved)
}

pub(crate) fn cannot(error: rusqlite::Error) -> Error {
    Error::Open(error.to_string().into())
}
