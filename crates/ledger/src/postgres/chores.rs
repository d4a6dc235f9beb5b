//! What nobody waits for: partitions of the months to come, and locks and what was put aside that nobody needs any more.

use deadpool_postgres::Pool;

use super::replica::first_at;
use super::shelf;
use super::sql::{Db, Done, Failure, get, many, one, write};

/// Tables that are partitioned by the ids of actions, with the column.
pub(super) const BY_ACTION: [(&str, &str); 6] = [
    ("action", "id"),
    ("fate", "id"),
    ("outcome", "action"),
    ("approval", "action"),
    ("usage", "action"),
    ("cycle", "action"),
];

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
    if one(db, "SELECT 1 WHERE to_regclass($1) IS NOT NULL", &[&format!("entry_{name}")]).await?.is_some() {
        return Ok(());
    }
    let mut sql = String::from("BEGIN; SELECT name FROM gate WHERE name = 'migration' FOR UPDATE;");
    for (table, _) in BY_ACTION {
        let (from, to) = (lowest_id(from_ms), lowest_id(to_ms));
        sql += &format!(
            "CREATE TABLE IF NOT EXISTS {table}_{name} PARTITION OF {table} FOR VALUES FROM ('{from}') TO ('{to}');"
        );
    }
    let (from, to) = (first_at(from_ms), first_at(to_ms));
    sql += &format!(
        "CREATE TABLE IF NOT EXISTS entry_{name} PARTITION OF entry FOR VALUES FROM ({from}) TO ({to}); COMMIT"
    );
    match db.batch_execute(&sql).await.map_err(Failure::from) {
        Ok(()) => Ok(()),
        Err(Failure::Lost(why)) => Err(Failure::Lost(why)),
        Err(failure) => {
            tracing::warn!(month = name, why = %failure, "no partitions were made: rows of this month stay in the default ones");
            Ok(db.batch_execute("ROLLBACK").await?)
        }
    }
}

/// The id that no action of this time or later is below.
pub(super) fn lowest_id(at_ms: i64) -> String {
    format!("\\x{:012x}{}", at_ms.max(0), "0".repeat(20))
}

/// What is done now and then.
pub(super) async fn all(pool: Pool) {
    let done = async {
        let db = pool.get().await?;
        partitions(&db, None).await?;
        // Nobody who locked them so long ago is at it any more.
        let sql = "DELETE FROM guard WHERE at < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $1::bigint";
        write(&db, sql, &[&DAY_MS]).await
    };
    let done: Done<u64> = done.await;
    if let Err(failure) = done {
        tracing::warn!(why = %failure, "what the database needs now and then was not done");
    }
}

/// What is done more often: results that nobody takes are large.
pub(super) async fn clear(pool: Pool) {
    let cleared = async { shelf::clear(&pool.get().await?).await };
    let cleared: Done<u64> = cleared.await;
    if let Err(failure) = cleared {
        tracing::warn!(why = %failure, "what nobody comes back for was not cleared away");
    }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
