//! A file that is copied into a database: read as it stands, all in one read transaction, and never written but for the mark
//! that it has moved.

use std::collections::BTreeSet;
use std::path::Path;

use action::{Environment, Subject, Tenant};
use receipt::Timestamp;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, params, params_from_iter};

use super::log::LOGGED;
use super::open::{self, cannot};
use super::read::{self, Sql};
use crate::Error;
use crate::copy::{Chunk, Table};
use crate::entry::{self, Reading};
use crate::identity::{self, Claim};

/// A file that nobody writes, because whoever calls holds its directory.
#[derive(Debug)]
pub(crate) struct Source {
    db: Connection,
    pub(crate) end: End,
    /// When it was copied before, if it was.
    pub(crate) moved_ms: Option<i64>,
}

/// Where the chain of the file ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) row: i64,
    pub(crate) head: [u8; 32],
    pub(crate) chain: Box<str>,
    pub(crate) seq: u64,
    pub(crate) at_ms: i64,
    /// The last entry that the transparency logs have taken.
    pub(crate) logged: i64,
}

/// Name in `meta`: when the store was copied elsewhere, milliseconds since 1970, UTC. No gateway starts on it.
const MOVED: &str = "moved";

/// Bytes read at once, at most: one row more.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

impl Source {
    /// # Errors
    /// [`Error::Copy`] if it is of another version or empty, [`Error::Corrupt`] if its chain has no readable end.
    pub(crate) fn open(path: &Path, unkept: &[Box<str>]) -> Result<Source, Error> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(cannot)?;
        Source::of(db, unkept)
    }

    pub(crate) fn of(db: Connection, unkept: &[Box<str>]) -> Result<Source, Error> {
        is_of_this_version(&db)?;
        let read = || -> Sql<_> {
            db.set_prepared_statement_cache_capacity(64);
            db.pragma_update(None, "temp_store", "memory")?;
            functions(&db)?;
            db.execute_batch("BEGIN")?;
            let last = read::one(&db, "SELECT row, bytes FROM entry ORDER BY row DESC LIMIT 1", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
            })?;
            Ok((last, read::meta(&db, LOGGED)?.unwrap_or(0), read::meta(&db, MOVED)?))
        };
        let (last, logged, moved_ms) = read().map_err(cannot)?;
        let (row, bytes) = last.ok_or_else(|| Error::Copy("there is nothing in it".into()))?;
        let unreadable = || Error::Corrupt(format!("ledger entry {row}").into());
        let head = entry::hash_of(&bytes).ok_or_else(unreadable)?;
        let Reading { chain, seq, at_ms, .. } = Reading::of(&bytes).ok_or_else(unreadable)?;
        let end = End { row, head, chain: chain.into(), seq, at_ms, logged };
        let mut source = Source { db, end, moved_ms };
        source.prepare(unkept)?;
        Ok(source)
    }

    /// How many rows a table of the database will have.
    pub(crate) fn count(&self, table: &Table) -> Result<u64, Error> {
        let count: Sql<i64> = self.db.query_row(&table.count(), [], |row| row.get(0));
        count.map(i64::unsigned_abs).map_err(cannot)
    }

    /// The next rows of a table, behind the keys of the last one that was read.
    pub(crate) fn read(&self, table: &Table, after: Option<&[Value]>, most: usize) -> Result<Chunk, Error> {
        self.try_read(table, after, most)
            .map_err(|error| Error::Copy(format!("rows of `{}` cannot be read: {error}", table.name).into()))
    }

    fn try_read(&self, table: &Table, after: Option<&[Value]>, most: usize) -> Sql<Chunk> {
        let mut select = self.db.prepare_cached(&table.read(after.is_some()))?;
        let most_rows = Value::Integer(i64::try_from(most).unwrap_or(i64::MAX));
        let values = after.unwrap_or_default().iter().chain([&most_rows]);
        let mut rows = select.query(params_from_iter(values.map(|value| value as &dyn ToSql)))?;
        let (keys, columns) = (table.keys.len(), table.columns.len());
        let mut chunk = Chunk { rows: Vec::new(), cursor: after.map(<[Value]>::to_vec), last: true };
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let cells = (keys..keys + columns).map(|at| row.get(at)).collect::<Sql<Vec<Value>>>()?;
            bytes += cells.iter().map(length).sum::<usize>();
            chunk.cursor = Some((0..keys).map(|at| row.get(at)).collect::<Sql<_>>()?);
            chunk.rows.push(cells);
            if chunk.rows.len() >= most || bytes > CHUNK_BYTES {
                chunk.last = false;
                break;
            }
        }
        Ok(chunk)
    }

    /// What rows of a database say and those of the file do not: whose accounts, histories and marks are.
    fn prepare(&mut self, unkept: &[Box<str>]) -> Result<(), Error> {
        self.db.execute_batch(WHOSE).map_err(cannot)?;
        self.latest_histories().map_err(cannot)?;
        let nameless = self.nameless_accounts().map_err(cannot)?;
        self.name_accounts(nameless, unkept)
    }

    /// The histories as they are, which are written to their rows now and then only.
    fn latest_histories(&self) -> Sql<()> {
        let saved = read::meta(&self.db, open::SAVED)?.unwrap_or(0);
        let mut update = self.db.prepare("UPDATE temp.history SET bytes = ?2 WHERE key = ?1")?;
        for (key, series) in open::unsaved(&self.db, saved)? {
            update.execute(params![key, series.to_bytes()])?;
        }
        Ok(())
    }

    fn nameless_accounts(&self) -> Sql<BTreeSet<i64>> {
        let sql = "SELECT key FROM account WHERE key NOT IN (SELECT key FROM temp.holder)";
        Ok(read::many(&self.db, sql, [], |row| row.get(0))?.into_iter().collect())
    }

    /// Accounts of mandates that were revoked and never seen here: whose they are stands in what tells of that. Of those that are
    /// not kept at all nothing may tell any more. A number that a name gives is the number of that name.
    fn name_accounts(&self, mut nameless: BTreeSet<i64>, unkept: &[Box<str>]) -> Result<(), Error> {
        if nameless.is_empty() {
            return Ok(());
        }
        let tenants = read::many(&self.db, "SELECT tenant FROM temp.tenant", [], |row| row.get(0));
        let tenants: Vec<String> = tenants.map_err(cannot)?;
        let tenants: Vec<Tenant> = tenants.iter().filter_map(|name| Tenant::parse(name).ok()).collect();
        let mut name = |text: &str| -> Sql<()> {
            for tenant in &tenants {
                let key = identity::account(tenant, text);
                if nameless.remove(&key) {
                    let sql = "INSERT INTO temp.holder VALUES (?1, ?2, ?3)";
                    self.db.prepare_cached(sql)?.execute(params![key, tenant.as_str(), text])?;
                }
            }
            Ok(())
        };
        unkept.iter().try_for_each(|jti| name(jti)).map_err(cannot)?;
        self.each_text(name).map_err(cannot)?;
        match nameless.first() {
            None => Ok(()),
            Some(key) => Err(Error::Copy(
                format!(
                    "nothing says whose mandate has account {key}: run `countersign audit verify` on the store"
                )
                .into(),
            )),
        }
    }

    /// Every text in the records of what is no action, and every mandate that an action drew on.
    fn each_text(&self, mut found: impl FnMut(&str) -> Sql<()>) -> Sql<()> {
        let mut records = self.db.prepare("SELECT record FROM entry WHERE record IS NOT NULL")?;
        let mut rows = records.query([])?;
        while let Some(row) = rows.next()? {
            let record: serde_json::Value =
                serde_json::from_slice(row.get_ref(0)?.as_blob()?).unwrap_or_default();
            let mut inner = vec![&record];
            while let Some(value) = inner.pop() {
                match value {
                    serde_json::Value::String(text) => found(text)?,
                    serde_json::Value::Array(all) => inner.extend(all),
                    serde_json::Value::Object(all) => inner.extend(all.values()),
                    _ => {}
                }
            }
        }
        let mut drawn = self.db.prepare("SELECT DISTINCT mandates FROM action WHERE mandates IS NOT NULL")?;
        let mut rows = drawn.query([])?;
        while let Some(row) = rows.next()? {
            row.get_ref(0)?.as_str()?.lines().try_for_each(&mut found)?;
        }
        Ok(())
    }
}

/// Everybody who is named, who has which history, and who has which account.
const WHOSE: &str = "
    CREATE TEMP TABLE history (key INTEGER, tenant TEXT NOT NULL, bytes BLOB);
    INSERT INTO temp.history SELECT DISTINCT series, tenant, NULL FROM action;
    CREATE TEMP TABLE tenant (tenant TEXT PRIMARY KEY) WITHOUT ROWID;
    INSERT INTO temp.tenant SELECT tenant FROM temp.history UNION SELECT tenant FROM main.mandate
        UNION SELECT tenant FROM main.api_key UNION SELECT tenant FROM main.tenant_key
        UNION SELECT tenant FROM main.principal_key UNION SELECT tenant FROM main.session
        UNION SELECT tenant FROM main.log UNION SELECT tenant FROM main.log_name
        UNION SELECT tenant FROM main.passkey UNION SELECT tenant FROM main.security_event
        UNION SELECT tenant FROM main.freeze WHERE tenant <> '';
    DELETE FROM temp.history WHERE key IS NULL;
    CREATE UNIQUE INDEX temp.history_key ON history (key, tenant);
    INSERT INTO temp.history SELECT s.key, t.tenant, NULL FROM main.series s CROSS JOIN temp.tenant t
        WHERE s.key NOT IN (SELECT key FROM temp.history);
    CREATE TEMP TABLE holder (key INTEGER PRIMARY KEY, tenant TEXT NOT NULL, jti TEXT NOT NULL);
    INSERT OR IGNORE INTO temp.holder SELECT account, tenant, jti FROM main.mandate";

/// What no statement can make of the values of a row.
fn functions(db: &Connection) -> Sql<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("action_of", 1, flags, |values| {
        let action = Reading::of(values.get_raw(0).as_blob()?).and_then(|entry| entry.action);
        Ok(action.map(|id| id.as_bytes().to_vec()))
    })?;
    db.create_scalar_function("name_of", 1, flags, |values| {
        let bytes: Option<&[u8]> = values.get_raw(0).as_blob_or_null()?;
        Ok(bytes.and_then(entry::id_of).map(String::from))
    })?;
    db.create_scalar_function("address_of", 1, flags, |values| {
        Ok(values.get_raw(0).as_str_or_null()?.map(identity::address))
    })?;
    db.create_scalar_function("claim_of", 4, flags, claim_of)
}

fn claim_of(values: &Context<'_>) -> Sql<Vec<u8>> {
    let text = |at| Ok::<_, rusqlite::Error>(values.get_raw(at).as_str()?);
    let unfit = |error: action::Malformed| rusqlite::Error::UserFunctionError(Box::new(error));
    let environment = match values.get::<i64>(1)? {
        0 => Environment::Production,
        _ => Environment::Sandbox,
    };
    let (tenant, subject) =
        (Tenant::parse(text(0)?).map_err(unfit)?, Subject::kept(text(2)?).map_err(unfit)?);
    Ok(Claim::new(&tenant, environment, &subject, text(3)?).bytes().to_vec())
}

fn length(value: &Value) -> usize {
    match ValueRef::from(value) {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}

/// Nothing is brought up to date here: that would be written.
fn is_of_this_version(db: &Connection) -> Result<(), Error> {
    let sql = "SELECT max(version) FROM refinery_schema_history";
    let found: Sql<Option<i32>> = db.query_row(sql, [], |row| row.get(0));
    let why = match found {
        Ok(Some(version)) if version == open::version() => return Ok(()),
        Ok(Some(version)) if version > open::version() => "it was made by a newer version",
        Ok(_) => "it is of an earlier version: start a gateway of this one on it once, and end it",
        Err(_) => "it is no store of ours",
    };
    Err(Error::Copy(why.into()))
}

/// Marks a store as one that has moved, by the copy that began then. The mark is in the file itself afterwards, not only in the log
/// beside it, which may be left behind where the file goes.
pub(crate) fn leave(path: &Path, begun_ms: i64) -> Result<(), Error> {
    let db = open::alone(path)?;
    let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    db.execute(sql, params![MOVED, begun_ms]).map_err(cannot)?;
    let is_busy: bool =
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(cannot)?;
    if is_busy {
        return Err(Error::Open("somebody else has it open, so that it cannot be closed to gateways".into()));
    }
    Ok(())
}

/// When it was copied elsewhere, if it was.
pub(crate) fn moved(path: &Path) -> Result<Option<i64>, Error> {
    read::meta(&open::alone(path)?, MOVED).map_err(cannot)
}

/// Takes that back; answers with the time of it, if it was there.
pub(crate) fn reclaim(path: &Path) -> Result<Option<i64>, Error> {
    let db = open::alone(path)?;
    let taken = read::meta(&db, MOVED).map_err(cannot)?;
    db.execute("DELETE FROM meta WHERE name = ?1", [MOVED]).map_err(cannot)?;
    Ok(taken)
}

/// Is it the store to work on, and not one that was left behind?
pub(crate) fn is_here(db: &Connection) -> Result<(), Error> {
    let made = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meta'";
    if read::one(db, made, [], |_| Ok(())).map_err(cannot)?.is_none() {
        return Ok(());
    }
    let Some(moved_ms) = read::meta(db, MOVED).map_err(cannot)? else { return Ok(()) };
    let at = Timestamp::from_unix_millis(moved_ms.unsigned_abs());
    Err(Error::Open(
        format!(
            "it was copied into a database at {}, and whatever was done since stands there only: a gateway here would pay once \
             more. Name the database in `store`; or, if nothing was ever done there and nothing ever will be, run `countersign \
             store reclaim`",
            at.as_str()
        )
        .into(),
    ))
}
