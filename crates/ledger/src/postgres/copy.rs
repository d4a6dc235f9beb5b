//! A database into which a store is copied. Nobody registers there before it is released.

use std::collections::HashMap;

use rusqlite::types::Value;
use serde_json::json;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::chores::{BY_ACTION, WHOLE, lowest_id, partitions};
use super::replica::first_at;
use super::sql::{Db, Done, Failure, get, many, maybe_text, number, one, text, write};
use super::verify::{Walks, inspect};
use super::{connect, migrate};
use crate::copy::{Chunk, Place, REPLICA, Route, TABLES, Table, passes};
use crate::sqlite::copy::End;
use crate::{Error, Finding, Verified};

pub(crate) struct Target {
    db: Db,
    places: HashMap<Box<str>, Place>,
    types: HashMap<&'static str, Vec<Type>>,
}

/// How many findings are told.
const FINDINGS: usize = 20;

impl Target {
    /// Finds out whether this copy may go on here, and when it began, by which the file knows which copy it was left for; no target
    /// if it is done. What was left for another copy neither begins here nor goes on.
    pub(crate) async fn begin(
        route: &Route,
        end: &End,
        moved_ms: Option<i64>,
    ) -> Result<(i64, Option<Target>), Error> {
        let pool = connect::pool(&route.url, &route.schema, 2)?;
        migrate::run(&pool, &route.schema).await?;
        let cannot = |failure: Failure| Error::Open(failure.to_string().into());
        let db = pool.get().await.map_err(|error| cannot(error.into()))?;
        // What is walked and counted here is as much as there is, and nobody else waits for it.
        let patient = "SET statement_timeout = 0; SET enable_seqscan = on";
        db.batch_execute(patient).await.map_err(|error| cannot(error.into()))?;
        let (begun_ms, is_done) =
            in_transaction(&db, begin(&db, route, end, moved_ms)).await.map_err(cannot)??;
        if is_done {
            return Ok((begun_ms, None));
        }
        partitions(&db, Some(route.now_ms)).await.map_err(cannot)?;
        older_partitions(&db, route.now_ms).await.map_err(cannot)?;
        let (places, types) = (places(&db).await.map_err(cannot)?, types(&db).await.map_err(cannot)?);
        Ok((begun_ms, Some(Target { db, places, types })))
    }

    pub(crate) fn place(&self, table: &str) -> Result<Place, Error> {
        self.places.get(table).cloned().ok_or_else(|| {
            Error::Copy(format!("it was begun by another version, which knew no table `{table}`").into())
        })
    }

    /// Writes rows of a table, and how far it has come with them.
    pub(crate) async fn put(
        &mut self,
        table: &Table,
        from: &Place,
        chunk: Chunk,
        route: &Route,
    ) -> Result<Place, Error> {
        let place = Place {
            rows: from.rows + chunk.rows.len() as u64,
            cursor: chunk.cursor.clone(),
            done: chunk.last,
        };
        let types = self.types.get(table.name).map_or(&[][..], Vec::as_slice);
        let written = in_transaction(&self.db, async {
            goes_on(&self.db, table.name, from, &place).await?;
            rows(&self.db, table, types, &chunk.rows).await?;
            Ok(passes(route, "copy.rows"))
        });
        written.await.map_err(|failure| match failure {
            Failure::Lost(why) => Error::Unavailable(why.into()),
            other => Error::Copy(format!("rows of `{}` cannot be written: {other}", table.name).into()),
        })??;
        self.places.insert(table.name.into(), place.clone());
        Ok(place)
    }

    /// Writes where the chain ends, on which the next one in its slot follows, and up to where the logs are.
    pub(crate) async fn seal(&mut self, end: &End) -> Result<(), Error> {
        let End { row, head, chain, seq, at_ms, logged } = end;
        let (seq, head) = (seq.cast_signed() + 1, &head[..]);
        in_transaction(&self.db, async {
            let sql = "INSERT INTO replica (number, slot, name, chain, seq, head, at, last, beat, ended)
                       VALUES ($1, 0, $2, $2, $3, $4, $5, $6, clock_timestamp(), TRUE) ON CONFLICT DO NOTHING";
            write(&self.db, sql, &[&REPLICA, &&**chain, &seq, &head, at_ms, row]).await?;
            write(&self.db, "UPDATE logged SET upto = $1 WHERE name = 'entries'", &[logged]).await?;
            Ok(Ok::<(), Error>(()))
        })
        .await??;
        // So that the first gateway finds its rows as quickly as the last.
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let analyze = format!("ANALYZE {}", names.join(", "));
        self.db.batch_execute(&analyze).await.map_err(Failure::from)?;
        Ok(())
    }

    pub(crate) async fn verify(&self, mut tell: impl FnMut(u64)) -> Result<(Verified, Vec<Finding>), Error> {
        let mut verified = Verified { entries: 0, receipts: 0, approvals: 0, head: None };
        let (walks, mut findings, mut next) = (Walks::default(), Vec::new(), Some(Default::default()));
        while let Some(place) = next {
            let found = inspect(&self.db, &walks, place).await?;
            verified.entries += found.entries;
            verified.receipts += found.receipts;
            verified.approvals += found.approvals;
            verified.head = found.head.or(verified.head);
            findings.extend(found.findings.into_iter().take(FINDINGS - findings.len()));
            next = found.next.filter(|_| findings.len() < FINDINGS);
            tell(verified.entries);
        }
        Ok((verified, findings))
    }

    pub(crate) async fn count(&self, table: &str) -> Result<u64, Error> {
        let row = self.db.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await;
        Ok(number(&row.map_err(Failure::from)?, 0)?)
    }

    pub(crate) async fn release(&self, now_ms: i64) -> Result<(), Error> {
        Ok(write(&self.db, "UPDATE store_copy SET done = $1", &[&now_ms]).await.map(drop)?)
    }
}

/// Closes a database again into which the copy that began then was made, if nobody ever registered there.
pub(crate) async fn close(url: &str, schema: &str, begun_ms: i64) -> Result<(), Error> {
    let pool = connect::pool(url, schema, 1)?;
    let cannot = |failure: Failure| Error::Open(failure.to_string().into());
    let db = pool.get().await.map_err(|error| cannot(error.into()))?;
    in_transaction(&db, try_close(&db, schema, begun_ms)).await.map_err(cannot)?
}

async fn try_close(db: &Db, schema: &str, begun_ms: i64) -> Done<Result<(), Error>> {
    let other = || Err(Error::Copy(format!("schema `{schema}` of this database holds no copy of it").into()));
    if one(db, "SELECT 1 WHERE to_regclass('store_copy') IS NOT NULL", &[]).await?.is_none() {
        return Ok(other());
    }
    one(db, "SELECT name FROM gate WHERE name = 'registry' FOR UPDATE", &[]).await?;
    let begun: Option<i64> = match one(db, "SELECT begun FROM store_copy", &[]).await? {
        Some(row) => Some(get(&row, 0)?),
        None => None,
    };
    if begun != Some(begun_ms) {
        return Ok(other());
    }
    if one(db, "SELECT 1 FROM replica WHERE number > $1 LIMIT 1", &[&REPLICA]).await?.is_some() {
        return Ok(Err(Error::Copy(
            "a gateway was on the database it was copied into: what was done there is not in the file, and would be done once more"
                .into(),
        )));
    }
    write(db, "UPDATE store_copy SET done = NULL", &[]).await?;
    Ok(Ok(()))
}

/// Is it a copy that nobody may register beside? Whoever does holds the gate.
pub(super) async fn is_under_way(db: &Db) -> Done<bool> {
    Ok(one(db, "SELECT 1 FROM store_copy WHERE done IS NULL", &[]).await?.is_some())
}

/// Takes the gate, and looks at what is there. Answers when the copy began, and whether it is done.
async fn begin(db: &Db, route: &Route, end: &End, moved_ms: Option<i64>) -> Done<Result<(i64, bool), Error>> {
    one(db, "SELECT name FROM gate WHERE name = 'registry' FOR UPDATE", &[]).await?;
    if let Some(row) = one(db, "SELECT head, done IS NOT NULL, begun FROM store_copy", &[]).await? {
        let (head, done, begun_ms): (&[u8], bool, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        if moved_ms.is_some_and(|moved_ms| moved_ms != begun_ms) {
            return Ok(Err(elsewhere()));
        }
        if head == end.head {
            return Ok(Ok((begun_ms, done)));
        }
        return Ok(Err(Error::Copy(
            format!(
                "schema `{0}` holds a copy of another store, or of this one before it was opened again: if no gateway was ever \
                 on it, drop it (`DROP SCHEMA {0} CASCADE`) and begin anew",
                route.schema
            )
            .into(),
        )));
    }
    if moved_ms.is_some() {
        return Ok(Err(elsewhere()));
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM replica) OR EXISTS (SELECT 1 FROM entry)";
    let taken = one(db, sql, &[]).await?.map_or(Ok(true), |row| get(&row, 0))?;
    if taken {
        return Ok(Err(Error::Copy(
            format!(
                "schema `{}` is not empty: a gateway was on it. Name another database; nothing is added to what is there",
                route.schema
            )
            .into(),
        )));
    }
    let sql = "INSERT INTO store_copy (head, entry, begun) VALUES ($1, $2, $3)";
    write(db, sql, &[&&end.head[..], &end.row, &route.now_ms]).await?;
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let sql = "INSERT INTO table_copy (name, rows, done) SELECT name, 0, FALSE FROM unnest($1::text[]) name";
    write(db, sql, &[&names]).await?;
    Ok(Ok((route.now_ms, false)))
}

fn elsewhere() -> Error {
    Error::Copy("it was copied into another database before, by another copy than this one".into())
}

/// What is older than this month has partitions of its own, so that the default ones stay small, which are looked through for
/// each month to come.
async fn older_partitions(db: &Db, now_ms: i64) -> Done<()> {
    let sql = "SELECT (extract(epoch FROM date_trunc('month', least(clock_timestamp(), to_timestamp($1::float8 / 1000)))) * 1000)::bigint";
    let row = one(db, sql, &[&(now_ms as f64)]).await?;
    let upto_ms: i64 = row.map_or(Ok(now_ms), |row| get(&row, 0))?;
    if one(db, "SELECT 1 WHERE to_regclass('entry_older') IS NOT NULL", &[]).await?.is_some() {
        return Ok(());
    }
    let mut sql = String::from("BEGIN;");
    for table in BY_ACTION {
        let upto = hex::encode(lowest_id(upto_ms));
        sql += &format!(
            "CREATE TABLE {table}_older PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO ('\\x{upto}') {WHOLE};"
        );
    }
    let upto = first_at(upto_ms);
    sql += &format!(
        "CREATE TABLE entry_older PARTITION OF entry FOR VALUES FROM (MINVALUE) TO ({upto}) {WHOLE}; COMMIT"
    );
    match db.batch_execute(&sql).await.map_err(Failure::from) {
        Ok(()) => Ok(()),
        Err(Failure::Lost(why)) => {
            db.batch_execute("ROLLBACK").await?;
            tracing::warn!(%why, "no partitions were made for what is older: it stays in the default ones");
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

async fn places(db: &Db) -> Done<HashMap<Box<str>, Place>> {
    let rows = many(db, "SELECT name, rows, cursor, done FROM table_copy", &[]).await?;
    let place = |row: &tokio_postgres::Row| {
        let cursor = maybe_text(row, 2)?.map(|cursor| parsed(&cursor)).transpose()?;
        Ok((text(row, 0)?, Place { rows: number(row, 1)?, cursor, done: get(row, 3)? }))
    };
    rows.iter().map(place).collect()
}

/// Of which types the columns of each table are.
async fn types(db: &Db) -> Done<HashMap<&'static str, Vec<Type>>> {
    let mut types = HashMap::new();
    for table in &TABLES {
        let statement = db.prepare(&format!("SELECT {} FROM {}", table.names(), table.name)).await?;
        types.insert(table.name, statement.columns().iter().map(|column| column.type_().clone()).collect());
    }
    Ok(types)
}

/// Writes how far a table comes, if it is still where it was: nobody else copies at once.
async fn goes_on(db: &Db, table: &str, from: &Place, to: &Place) -> Done<()> {
    let sql =
        "UPDATE table_copy SET rows = $3, cursor = $4, done = $5 WHERE name = $1 AND rows = $2 AND NOT done";
    let cursor = to.cursor.as_deref().map(shown);
    match write(db, sql, &[&table, &from.rows.cast_signed(), &to.rows.cast_signed(), &cursor, &to.done])
        .await?
    {
        1 => Ok(()),
        _ => Err(Failure::Refused("somebody else copies there, too".to_owned())),
    }
}

async fn rows(db: &Db, table: &Table, types: &[Type], rows: &[Vec<Value>]) -> Done<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let sql = format!("COPY {} ({}) FROM STDIN (FORMAT binary)", table.name, table.names());
    let mut writer = std::pin::pin!(BinaryCopyInWriter::new(db.copy_in(&sql).await?, types));
    for row in rows {
        let cells = row.iter().zip(types).map(|(value, of)| cell(value, of)).collect::<Done<Vec<_>>>()?;
        writer.as_mut().write_raw(cells).await?;
    }
    writer.finish().await?;
    Ok(())
}

/// A value as its column has it.
fn cell(value: &Value, of: &Type) -> Done<Box<dyn ToSql + Sync + Send>> {
    let unfit = || Failure::Refused(format!("a value of a column that is {of}"));
    Ok(match (value, of) {
        (Value::Null, _) => null(of).ok_or_else(unfit)?,
        (Value::Integer(number), &Type::INT8) => Box::new(*number),
        (Value::Integer(number), &Type::INT4) => Box::new(i32::try_from(*number).map_err(|_| unfit())?),
        (Value::Integer(number), &Type::INT2) => Box::new(i16::try_from(*number).map_err(|_| unfit())?),
        (Value::Integer(number @ 0..=1), &Type::BOOL) => Box::new(*number == 1),
        (Value::Text(text), &Type::TEXT) => Box::new(text.clone()),
        (Value::Blob(bytes), &Type::BYTEA) => Box::new(bytes.clone()),
        _ => return Err(unfit()),
    })
}

fn null(of: &Type) -> Option<Box<dyn ToSql + Sync + Send>> {
    Some(match *of {
        Type::INT8 => Box::new(None::<i64>),
        Type::INT4 => Box::new(None::<i32>),
        Type::INT2 => Box::new(None::<i16>),
        Type::BOOL => Box::new(None::<bool>),
        Type::TEXT => Box::new(None::<String>),
        Type::BYTEA => Box::new(None::<Vec<u8>>),
        _ => return None,
    })
}

/// Keys of a row, as they are kept.
fn shown(keys: &[Value]) -> String {
    let shown = |key: &Value| match key {
        Value::Integer(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => json!([hex::encode(bytes)]),
        Value::Null | Value::Real(_) => json!(null),
    };
    keys.iter().map(shown).collect::<serde_json::Value>().to_string()
}

fn parsed(keys: &str) -> Done<Vec<Value>> {
    let unfit = || Failure::Corrupt(format!("`{keys}` are no keys of a row"));
    let keys: Vec<serde_json::Value> = serde_json::from_str(keys).map_err(|_| unfit())?;
    let key = |key: &serde_json::Value| match key {
        serde_json::Value::Number(number) => number.as_i64().map(Value::Integer),
        serde_json::Value::String(text) => Some(Value::Text(text.clone())),
        serde_json::Value::Array(one) => {
            let bytes = one.first()?.as_str()?;
            hex::decode(bytes).ok().map(Value::Blob)
        }
        _ => None,
    };
    keys.iter().map(|it| key(it).ok_or_else(unfit)).collect()
}

/// All or nothing. What is refused is an answer, and writes nothing.
async fn in_transaction<T>(
    db: &Db,
    work: impl Future<Output = Done<Result<T, Error>>>,
) -> Done<Result<T, Error>> {
    db.batch_execute("BEGIN").await?;
    let done = work.await;
    let end = if matches!(done, Ok(Ok(_))) { "COMMIT" } else { "ROLLBACK" };
    let ended = db.batch_execute(end).await.map_err(Failure::from);
    let done = done?;
    ended?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_of_every_kind_are_found_again() {
        let keys = vec![Value::Integer(-7), Value::Text("a\"1".into()), Value::Blob(vec![0, 255])];
        assert_eq!(parsed(&shown(&keys)).unwrap(), keys);
        assert!(parsed("[null]").is_err() && parsed("7").is_err());
    }

    #[test]
    fn a_value_that_its_column_cannot_hold_is_refused() {
        assert!(cell(&Value::Integer(2), &Type::BOOL).is_err());
        assert!(cell(&Value::Integer(1 << 40), &Type::INT4).is_err());
        assert!(cell(&Value::Text("7".into()), &Type::INT8).is_err());
    }
}
