//! Bringing a database up to date, by one process at a time.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::sleep;

use super::connect::told;
use super::sql::Failure;
use crate::Error;

mod migrations {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    refinery::embed_migrations!("src/postgres/migrations");
}

/// The row that whoever migrates has locked.
const GATE: &str = "CREATE TABLE IF NOT EXISTS gate (name TEXT PRIMARY KEY);
    INSERT INTO gate VALUES ('migration') ON CONFLICT DO NOTHING";
/// How often it is tried to make that: of two who do at once one may fail.
const TRIES: usize = 5;

/// Applies the migrations that are missing. Others wait meanwhile, and find that nothing is.
pub(super) async fn run(pool: &Pool, schema: &str) -> Result<(), Error> {
    let cannot = |why: String| Error::Open(why.into());
    let unusable = |error: tokio_postgres::Error| cannot(told(&error));
    let gate = pool.get().await.map_err(|error| cannot(Failure::from(error).to_string()))?;
    // Whoever may not make schemas is given one.
    let missing = gate.query_one("SELECT to_regnamespace($1) IS NULL", &[&schema]).await;
    let missing: bool = missing.and_then(|row| row.try_get(0)).map_err(unusable)?;
    let make =
        if missing { format!("CREATE SCHEMA IF NOT EXISTS {schema}; {GATE}") } else { GATE.to_owned() };
    let mut made = gate.batch_execute(&make).await;
    for _ in 1..TRIES {
        if made.is_ok() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
        made = gate.batch_execute(&make).await;
    }
    made.map_err(unusable)?;
    let lock = "BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0;
                SET LOCAL idle_in_transaction_session_timeout = 0;
                SELECT name FROM gate WHERE name = 'migration' FOR UPDATE";
    gate.batch_execute(lock).await.map_err(unusable)?;
    let mut client = pool.get().await.map_err(|error| cannot(Failure::from(error).to_string()))?;
    client.batch_execute("SET statement_timeout = 0").await.map_err(unusable)?;
    // Grouped: a process that dies between a migration and the note that it was made could never open the store again.
    let runner = migrations::migrations::runner().set_grouped(true);
    let migrated = runner.run_async(&mut **client).await;
    drop(deadpool_postgres::Object::take(client));
    gate.batch_execute("COMMIT").await.map_err(unusable)?;
    migrated.map(drop).map_err(|error| cannot(error.to_string()))
}
