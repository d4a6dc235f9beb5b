//! Months that are over, put together in one partition, on a disk of its own if that is wanted.
//!
//! Whoever writes locks the partitions of all months, so there should not be too many of them; and what is old may lie on slower
//! disks. Rows are only moved: the same statements find them, and the chain is walked as before.
//!
//! INVARIANT (nobody there): each table is moved in one transaction, in which the registry is held and nobody is in it. So nothing
//! is written to what is being moved, and whoever ends it before its time leaves each table as it was, or moved.

use std::time::Duration;

use tokio::runtime::Builder;

use super::chores::{BY_ACTION, WHOLE, lowest_id};
use super::copy::is_under_way;
use super::replica::{SILENCE, end_silent, first_at};
use super::sql::{Db, Done, Failure, answered, get, many, number, one, patiently, text, write};
use super::{connect, migrate};
use crate::Error;

/// What is to be put together, and where.
#[derive(Clone)]
pub struct Archive {
    /// The database, as in [`Access`](super::Access).
    pub url: Box<str>,
    /// In which schema of it.
    pub schema: Box<str>,
    /// The first month that stays as it is, `2026-01`, UTC.
    pub before: Box<str>,
    /// The server's tablespace for what is moved; that of the database, if there is none.
    pub tablespace: Option<Box<str>>,
}

impl std::fmt::Debug for Archive {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Archive");
        shown.field("schema", &self.schema).field("before", &self.before);
        shown.field("tablespace", &self.tablespace).finish_non_exhaustive()
    }
}

/// One table of which months were put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// Its name.
    pub table: &'static str,
    /// The partitions that are no more.
    pub partitions: Vec<Box<str>>,
    /// The one that their rows are in.
    pub into: Box<str>,
    /// How many rows that are.
    pub rows: u64,
}

/// Every table that has months.
pub const MONTHLY: [&str; BY_ACTION.len() + 1] = {
    let [action, fate, outcome, approval, usage, cycle] = BY_ACTION;
    [action, fate, outcome, approval, usage, cycle, "entry"]
};

/// A table may take so long to be moved.
const PATIENCE: Duration = Duration::from_hours(24);

impl Archive {
    /// Moves table after table, and tells of each in the order of [`MONTHLY`]: nothing, if it has no such months.
    ///
    /// # Errors
    /// [`Error::Absent`] if this schema holds no store; [`Error::Archive`] if a gateway is there, or if the month is not over or
    /// none; [`Error::Open`] if the database cannot be used, [`Error::Busy`] or [`Error::Unavailable`] if it ends on its way. What was
    /// told of is done then, and the rest as it was.
    pub fn run(&self, mut tell: impl FnMut(Option<Archived>)) -> Result<(), Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Open(error.to_string().into()))?;
        runtime.block_on(async {
            let pool = connect::pool(&self.url, &self.schema, 3)?;
            let db =
                pool.get().await.map_err(|error| Error::Open(Failure::from(error).to_string().into()))?;
            if one(&db, "SELECT 1 WHERE to_regclass('entry') IS NOT NULL", &[]).await?.is_none() {
                return Err(Error::Absent(self.schema.clone()));
            }
            migrate::run(&pool, &self.schema).await?;
            db.batch_execute("SET statement_timeout = 0").await.map_err(Failure::from)?;
            // So that a statement ends soon after whoever asked for it. Servers that cannot look for that end it in their own time.
            let _ = db.batch_execute("SET client_connection_check_interval = '5s'").await;
            for table in MONTHLY {
                tell(self.table(&db, table).await?);
            }
            Ok(())
        })
    }

    async fn table(&self, db: &Db, table: &'static str) -> Result<Option<Archived>, Error> {
        answered(db.batch_execute("BEGIN")).await?;
        let moved = patiently(db, PATIENCE, async {
            let moved = self.within(db, table).await;
            let end = if moved.is_ok() { "COMMIT" } else { "ROLLBACK" };
            answered(db.batch_execute(end)).await?;
            Ok(moved)
        });
        let moved = moved.await??;
        if let Some(Archived { into, .. }) = &moved {
            // Hardly anybody changes it any more, so it need never be looked through again for the sake of its age.
            let vacuumed = db.batch_execute(&format!("VACUUM (FREEZE, ANALYZE) {into}")).await;
            if let Err(why) = vacuumed.map_err(Failure::from) {
                tracing::warn!(table = &**into, %why, "what was put together was not vacuumed");
            }
        }
        Ok(moved)
    }

    /// The same, in a transaction.
    async fn within(&self, db: &Db, table: &'static str) -> Result<Option<Archived>, Error> {
        let upto_ms = self.closed(db).await?;
        // What is moved is all there is.
        answered(db.batch_execute("SET LOCAL enable_seqscan = on")).await?;
        self.choose_tablespace(db).await?;
        let Some(months) = Months::of(db, table, &self.before).await? else { return Ok(None) };
        let from = months.from(db, table).await?;
        let to = bound(table, upto_ms);
        let into = format!("{table}_upto_{}", underscored(&self.before));
        let made = format!(
            "CREATE TABLE {into} (LIKE {table} INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION) {WHOLE}"
        );
        answered(db.batch_execute(&made)).await?;
        let mut rows = 0;
        for part in &months.parts {
            rows += write(db, &format!("INSERT INTO {into} SELECT * FROM {part}"), &[]).await?;
            let gone = format!("ALTER TABLE {table} DETACH PARTITION {part}; DROP TABLE {part}");
            answered(db.batch_execute(&gone)).await?;
        }
        rows += strays(db, table, &into, (&from, &to)).await?;
        let attach =
            format!("ALTER TABLE {table} ATTACH PARTITION {into} FOR VALUES FROM ({from}) TO ({to})");
        answered(db.batch_execute(&attach)).await?;
        Ok(Some(Archived { table, partitions: months.parts, into: into.into(), rows }))
    }

    /// Keeps (nobody there), and answers when the month begins that stays as it is, Unix milliseconds.
    async fn closed(&self, db: &Db) -> Result<i64, Error> {
        one(db, "SELECT name FROM gate WHERE name = 'registry' FOR UPDATE", &[]).await?;
        end_silent(db, SILENCE).await?;
        let there = one(db, "SELECT count(*) FROM replica WHERE NOT ended", &[]).await?;
        let there: u64 = there.map_or(Ok(0), |row| number(&row, 0))?;
        if there > 0 {
            let seconds = SILENCE.as_secs();
            let why = match there {
                1 => format!("1 gateway is on this database, or was less than {seconds} seconds ago"),
                _ => {
                    format!("{there} gateways are on this database, or were less than {seconds} seconds ago")
                }
            };
            return Err(refused(
                why,
                "end all gateways on it, wait for ten seconds, and run the same command again",
            ));
        }
        if is_under_way(db).await? {
            return Err(refused(
                "a store is being copied into it".to_owned(),
                "let `countersign store copy` come to its end first",
            ));
        }
        let month = self.month().ok_or_else(|| {
            refused(
                format!("`{}` is no month", self.before.escape_debug()),
                "--before takes the first month that stays as it is: write it as 2026-01",
            )
        })?;
        let sql = "SELECT (extract(epoch FROM m) * 1000)::bigint, m <= date_trunc('month', clock_timestamp())
                   FROM (SELECT make_timestamptz($1, $2, 1, 0, 0, 0) m) t";
        let row = one(db, sql, &[&month.0, &month.1]).await?;
        let row = row.ok_or_else(untold)?;
        if !get::<bool>(&row, 1)? {
            return Err(refused(
                format!("the month before {} is not over", self.before),
                "--before takes the present month (UTC) at the latest: it stays as it is",
            ));
        }
        Ok(get(&row, 0)?)
    }

    fn month(&self) -> Option<(i32, i32)> {
        let (year, month) = self.before.split_once('-')?;
        let is_one = year.len() == 4
            && month.len() == 2
            && format!("{year}{month}").bytes().all(|it| it.is_ascii_digit());
        let month = month.parse().ok().filter(|month| (1..=12).contains(month) && is_one)?;
        Some((year.parse().ok().filter(|year| *year > 0)?, month))
    }

    async fn choose_tablespace(&self, db: &Db) -> Result<(), Error> {
        let Some(name) = self.tablespace.as_deref() else { return Ok(()) };
        if one(db, "SELECT 1 FROM pg_tablespace WHERE spcname = $1", &[&name]).await?.is_none() {
            return Err(refused(
                format!("the server has no tablespace `{}`", name.escape_debug()),
                "make it (CREATE TABLESPACE), name another, or leave --tablespace out",
            ));
        }
        // It holds for the table and for the indexes that it is given.
        let set = "SELECT set_config('default_tablespace', $1, TRUE)";
        one(db, set, &[&name]).await?;
        Ok(())
    }
}

fn refused(why: String, hint: &'static str) -> Error {
    Error::Archive { why: why.into(), hint }
}

fn untold() -> Error {
    refused("the database does not tell the month".to_owned(), "run the same command again")
}

fn underscored(month: &str) -> String {
    month.replace('-', "_")
}

/// Where a table is parted at a time.
fn bound(table: &str, at_ms: i64) -> String {
    match table {
        "entry" => first_at(at_ms).to_string(),
        _ => format!("'\\x{}'", hex::encode(lowest_id(at_ms))),
    }
}

/// The partitions that go, in the order of their time.
struct Months {
    parts: Vec<Box<str>>,
}

/// What is older than the first month, in a store that was copied there.
const OLDER: &str = "older";

impl Months {
    async fn of(db: &Db, table: &str, before: &str) -> Done<Option<Months>> {
        let sql = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = to_regclass($1) ORDER BY c.relname";
        let names = many(db, sql, &[&table]).await?;
        let names = names.iter().map(|row| text(row, 0)).collect::<Done<Vec<_>>>()?;
        let of = |name: &str| name.strip_prefix(table).and_then(|it| it.strip_prefix('_')).map(str::to_owned);
        let months: Vec<Box<str>> =
            names.iter().filter(|name| of(name).is_some_and(|it| is_month(&it))).cloned().collect();
        let first = format!("{table}_{}", underscored(before));
        let (mut parts, after): (Vec<_>, Vec<_>) = months.into_iter().partition(|name| **name < *first);
        // It ends where the months begin.
        let older: Box<str> = format!("{table}_{OLDER}").into();
        if names.contains(&older) && (!parts.is_empty() || after.first().is_some_and(|it| **it == *first)) {
            parts.insert(0, older);
        }
        Ok((!parts.is_empty()).then_some(Months { parts }))
    }

    /// Where they begin.
    async fn from(&self, db: &Db, table: &str) -> Result<String, Error> {
        let first =
            self.parts.first().and_then(|it| it.strip_prefix(table)).and_then(|it| it.strip_prefix('_'));
        let Some(month) = first.filter(|it| *it != OLDER) else { return Ok("MINVALUE".to_owned()) };
        let sql = "SELECT (extract(epoch FROM to_timestamp($1, 'YYYY_MM')) * 1000)::bigint";
        let row = one(db, sql, &[&month]).await?;
        let row = row.ok_or_else(untold)?;
        Ok(bound(table, get(&row, 0)?))
    }
}

/// Is it how a month is called?
fn is_month(name: &str) -> bool {
    let mut parts = name.split('_').map(|part| (part.len(), part.bytes().all(|it| it.is_ascii_digit())));
    parts.next() == Some((4, true)) && parts.next() == Some((2, true)) && parts.next().is_none()
}

/// Rows of these months that lie in the default partition, because a month began without one of its own.
async fn strays(db: &Db, table: &str, into: &str, (from, to): (&str, &str)) -> Done<u64> {
    let key = match table {
        "entry" => "row",
        "action" | "fate" => "id",
        _ => "action",
    };
    let lowest = if from == "MINVALUE" { String::new() } else { format!("{key} >= {from} AND ") };
    let these = format!("{table}_default WHERE {lowest}{key} < {to}");
    let moved = write(db, &format!("INSERT INTO {into} SELECT * FROM {these}"), &[]).await?;
    write(db, &format!("DELETE FROM {these}"), &[]).await?;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(month: &str) -> Option<(i32, i32)> {
        let before = month.into();
        Archive { url: "".into(), schema: "".into(), before, tablespace: None }.month()
    }

    #[test]
    fn a_month_is_written_in_one_way() {
        assert_eq!(before("2026-01"), Some((2026, 1)));
        for other in
            ["2026-1", "2026_01", "2026-13", "2026-00", "26-01", "0000-01", "+026-01", "2026-01-01", ""]
        {
            assert_eq!(before(other), None, "{other}");
        }
    }

    #[test]
    fn only_months_are_taken_for_months() {
        assert!(is_month("2026_01"));
        for other in ["default", "older", "upto_2026_01", "2026", "2026_1", "2026_01_01"] {
            assert!(!is_month(other), "{other}");
        }
    }
}
