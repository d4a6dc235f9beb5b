//! What nobody waits for: partitions of the months to come, and locks and what was put aside that nobody needs any more.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};

use super::replica::first_at;
use super::shelf;
use super::sql::{Db, Done, answered, get, many, one, write};

/// Tables that are partitioned by the ids of actions.
pub(super) const BY_ACTION: [&str; 6] = ["action", "fate", "outcome", "approval", "usage", "cycle"];

/// Of every partition: what is large in a row is compressed already, so it is not tried once more, and the row stays in one piece
/// as long as a page can hold it.
pub(super) const WHOLE: &str = "WITH (toast_tuple_target = 8160)";

/// Months that there is a partition for beside that of now.
const AHEAD: i32 = 1;

/// Makes the partitions of this month, by the database's clock and ours, and of the next, if they are missing. A month that
/// began without one stays in the default partition.
pub(super) async fn partitions(db: &Db, ours_ms: Option<i64>) -> Done<()> {
    let sql = "SELECT to_char(m, 'YYYY_MM'), (extract(epoch FROM m) * 1000)::bigint,
               (extract(epoch FROM m + interval '1 month') * 1000)::bigint
               FROM (VALUES (coalesce(to_timestamp($1::float8 / 1000), clock_timestamp())), (clock_timestamp())) AS t (now),
               generate_series(date_trunc('month', t.now), date_trunc('month', t.now) + $2 * interval '1 month',
               interval '1 month') m GROUP BY m ORDER BY m";
    for row in many(db, sql, &[&ours_ms.map(|ms| ms as f64), &f64::from(AHEAD)]).await? {
        let (name, from_ms, to_ms): (&str, i64, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        month(db, name, from_ms, to_ms).await?;
    }
    Ok(())
}

async fn month(db: &Db, name: &str, from_ms: i64, to_ms: i64) -> Done<()> {
    let id = |at_ms| format!("'\\x{}'", hex::encode(lowest_id(at_ms)));
    let by_action = BY_ACTION.map(|table| (table, id(from_ms), id(to_ms)));
    let by_entry = ("entry", first_at(from_ms).to_string(), first_at(to_ms).to_string());
    for (table, from, to) in by_action.into_iter().chain([by_entry]) {
        let made = partition(db, table, name, &from, &to).await;
        if let Err(failure) = made {
            answered(db.batch_execute("ROLLBACK")).await?;
            tracing::warn!(table, month = name, why = %failure, "there is no partition yet: rows of this month would go to the default one");
        }
    }
    Ok(())
}

/// Makes one, each in a transaction of its own: whoever writes waits for it, and it waits for everybody.
async fn partition(db: &Db, table: &str, name: &str, from: &str, to: &str) -> Done<()> {
    let known = one(db, "SELECT 1 WHERE to_regclass($1) IS NOT NULL", &[&format!("{table}_{name}")]).await?;
    if known.is_some() {
        return Ok(());
    }
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; SELECT name FROM gate WHERE name = 'migration' FOR UPDATE;
         CREATE TABLE IF NOT EXISTS {table}_{name} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to})
         {WHOLE}; COMMIT",
        LOCK.as_millis()
    );
    answered(db.batch_execute(&sql)).await
}

/// So long all others wait for a partition at most; then it is tried again a minute later.
const LOCK: Duration = Duration::from_millis(200);

/// The id that no action of this time or later is below.
pub(super) fn lowest_id(at_ms: i64) -> [u8; 16] {
    let mut id = [0; 16];
    if let Some((time, _)) = id.split_at_mut_checked(6) {
        time.copy_from_slice(&at_ms.max(0).to_be_bytes()[2..]);
    }
    id
}

/// What is done now and then.
pub(super) async fn all(pool: Pool) {
    let Ok(db) = pool.get().await else { return };
    let done: Done<()> = async {
        partitions(&db, None).await?;
        shelf::clear(&db).await?;
        unguard(&db).await
    }
    .await;
    if let Err(failure) = done {
        tracing::warn!(why = %failure, "what the database needs now and then was not done");
        // Nobody is given it as it was left.
        drop(Object::take(db));
    }
}

/// Deletes locks that nobody has any more, and nobody has taken for an hour: some at once, and none that somebody has.
async fn unguard(db: &Db) -> Done<()> {
    let sql = "DELETE FROM guard WHERE ctid = ANY(ARRAY(SELECT ctid FROM guard
               WHERE at < clock_timestamp() - interval '1 hour' ORDER BY at LIMIT $1 FOR UPDATE SKIP LOCKED))";
    while write(db, sql, &[&AT_ONCE]).await? == AT_ONCE.unsigned_abs() {}
    Ok(())
}

const AT_ONCE: i64 = 10_000;
