//! Statements and rows: how they are asked for, and what their failures mean.

use std::fmt;
use std::time::Duration;

use action::{ActionId, Environment, Subject, Tenant};
use deadpool_postgres::{Object, PoolError};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};

use super::connect::{STATEMENT, told};
use crate::{Error, State};

/// A connection.
pub(super) type Db = Object;
pub(super) type Done<T> = Result<T, Failure>;

/// Why something did not come about.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The database is not there, or was not when it should have answered: nobody knows what became of it.
    Lost(String),
    /// Somebody else was in the way: it may be done once more.
    Conflict(String),
    /// Somebody else wrote what may be there once only: whoever looks again sees it.
    Clash(String),
    /// This cannot be written, whoever tries.
    Refused(String),
    /// A stored row cannot be read.
    Corrupt(String),
    /// This process was taken for gone, and somebody else may have what it had in hand.
    Ended,
}

impl Failure {
    pub(super) fn silent() -> Failure {
        Failure::Lost("the database did not answer in time".to_owned())
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        let why = told(&error);
        let Some(code) = error.code() else { return Failure::Lost(why) };
        if [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            // What was sent behind a statement that failed. Whoever looks at them in order sees that one first.
            SqlState::IN_FAILED_SQL_TRANSACTION,
        ]
        .contains(code)
        {
            return Failure::Conflict(why);
        }
        if *code == SqlState::UNIQUE_VIOLATION {
            return Failure::Clash(why);
        }
        // Wrong data, and what breaks a rule of its table. Whatever else it is, it is not this write's fault.
        match code.code().get(..2) {
            Some("22" | "23") => Failure::Refused(why),
            _ => Failure::Lost(why),
        }
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Failure {
        match error {
            PoolError::Backend(error) => Failure::from(error),
            other => Failure::Lost(other.to_string()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let why = failure.to_string().into();
        match failure {
            Failure::Lost(_) | Failure::Ended => Error::Unavailable(why),
            Failure::Conflict(_) => Error::Busy,
            Failure::Clash(_) | Failure::Refused(_) => Error::Rejected(why),
            Failure::Corrupt(_) => Error::Corrupt(why),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Lost(why)
            | Failure::Conflict(why)
            | Failure::Clash(why)
            | Failure::Refused(why)
            | Failure::Corrupt(why) => f.write_str(why),
            Failure::Ended => f.write_str("this gateway was silent for so long that it was taken for gone"),
        }
    }
}

/// What stands for `$1`.
pub(super) type Value<'a> = dyn ToSql + Sync + 'a;
pub(super) type Values<'a> = &'a [&'a Value<'a>];

/// All rows of an answer. The statement is prepared once for each connection.
pub(super) async fn many(db: &Db, sql: &str, values: Values<'_>) -> Done<Vec<Row>> {
    answered(async {
        let statement = db.prepare_cached(sql).await?;
        db.query(&statement, values).await
    })
    .await
}

/// The one row of an answer, if there is one.
pub(super) async fn one(db: &Db, sql: &str, values: Values<'_>) -> Done<Option<Row>> {
    Ok(many(db, sql, values).await?.into_iter().next())
}

/// How many rows were written.
pub(super) async fn write(db: &Db, sql: &str, values: Values<'_>) -> Done<u64> {
    answered(async {
        let statement = db.prepare_cached(sql).await?;
        db.execute(&statement, values).await
    })
    .await
}

/// Everything that is read in here is of one moment, however many statements it takes and whoever writes meanwhile.
pub(super) async fn at_once<T>(db: &Db, read: impl Future<Output = Done<T>>) -> Done<T> {
    answered(db.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")).await?;
    let found = read.await;
    // Whoever asked gives up a connection that was lost.
    if !matches!(found, Err(Failure::Lost(_))) {
        answered(db.batch_execute("ROLLBACK")).await?;
    }
    found
}

tokio::task_local! {
    /// How long a statement may take, where that is longer than anywhere else.
    static PATIENCE: Duration;
}

/// Statements in here may take so long, in the transaction that is open: nobody waits to act until they are over.
pub(super) async fn patiently<T>(
    db: &Db,
    patience: Duration,
    work: impl Future<Output = Done<T>>,
) -> Done<T> {
    answered(db.batch_execute(&format!("SET LOCAL statement_timeout = {}", patience.as_millis()))).await?;
    PATIENCE.scope(patience, work).await
}

/// What the server answers while it is one that ends its statements itself: another one is not waited for.
pub(super) async fn answered<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Done<T> {
    let patience = PATIENCE.try_with(|patience| *patience).unwrap_or(STATEMENT);
    match timeout(patience + Duration::from_secs(2), answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::silent()),
    }
}

/// A value of a row.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Done<T> {
    row.try_get(column).map_err(|error| {
        let name = row.columns().get(column).map_or("?", |column| column.name());
        Failure::Corrupt(format!("column `{name}`: {}", told(&error)))
    })
}

fn unreadable(row: &Row, column: usize) -> Failure {
    let name = row.columns().get(column).map_or("?", |column| column.name());
    Failure::Corrupt(format!("column `{name}` holds no value of its kind"))
}

/// The same of text, boxed.
pub(super) fn text(row: &Row, column: usize) -> Done<Box<str>> {
    get::<&str>(row, column).map(Box::from)
}

pub(super) fn maybe_text(row: &Row, column: usize) -> Done<Option<Box<str>>> {
    Ok(get::<Option<&str>>(row, column)?.map(Box::from))
}

/// One per line.
pub(super) fn lines(row: &Row, column: usize) -> Done<Vec<Box<str>>> {
    let list: Option<&str> = get(row, column)?;
    Ok(list.into_iter().flat_map(|list| list.split_terminator('\n')).map(Box::from).collect())
}

pub(super) fn joined(list: &[Box<str>]) -> Option<String> {
    (!list.is_empty()).then(|| list.join("\n"))
}

pub(super) fn bytes<const N: usize>(row: &Row, column: usize) -> Done<[u8; N]> {
    get::<&[u8]>(row, column)?.try_into().map_err(|_| unreadable(row, column))
}

pub(super) fn maybe_bytes<const N: usize>(row: &Row, column: usize) -> Done<Option<[u8; N]>> {
    let found: Option<&[u8]> = get(row, column)?;
    found.map(|found| found.try_into().map_err(|_| unreadable(row, column))).transpose()
}

/// What was packed into this column.
pub(super) fn unpacked(row: &Row, column: usize) -> Done<Vec<u8>> {
    crate::packed::unpack(get(row, column)?).ok_or_else(|| unreadable(row, column))
}

pub(super) fn number(row: &Row, column: usize) -> Done<u64> {
    get::<i64>(row, column).map(i64::cast_unsigned)
}

/// A number that is never below zero.
pub(super) fn count(row: &Row, column: usize) -> Done<u32> {
    u32::try_from(get::<i32>(row, column)?).map_err(|_| unreadable(row, column))
}

pub(super) fn id(row: &Row, column: usize) -> Done<ActionId> {
    ActionId::from_bytes(bytes(row, column)?).ok_or_else(|| unreadable(row, column))
}

pub(super) fn maybe_id(row: &Row, column: usize) -> Done<Option<ActionId>> {
    let Some(found) = maybe_bytes(row, column)? else { return Ok(None) };
    ActionId::from_bytes(found).map(Some).ok_or_else(|| unreadable(row, column))
}

pub(super) fn state(row: &Row, column: usize) -> Done<State> {
    State::from_code(get::<i16>(row, column)?.into()).ok_or_else(|| unreadable(row, column))
}

pub(super) fn maybe_state(row: &Row, column: usize) -> Done<Option<State>> {
    let Some(code) = get::<Option<i16>>(row, column)? else { return Ok(None) };
    State::from_code(code.into()).map(Some).ok_or_else(|| unreadable(row, column))
}

pub(super) fn state_code(state: State) -> i16 {
    // Between -9 and 7.
    i16::try_from(state.code()).unwrap_or(i16::MAX)
}

pub(super) fn tenant(row: &Row, column: usize) -> Done<Tenant> {
    Tenant::parse(get(row, column)?).map_err(|_| unreadable(row, column))
}

pub(super) fn subject(row: &Row, column: usize) -> Done<Subject> {
    Subject::kept(get(row, column)?).map_err(|_| unreadable(row, column))
}

pub(super) fn environment(row: &Row, column: usize) -> Done<Environment> {
    match get::<i16>(row, column)? {
        0 => Ok(Environment::Production),
        1 => Ok(Environment::Sandbox),
        _ => Err(unreadable(row, column)),
    }
}

pub(super) fn environment_code(environment: Environment) -> i16 {
    match environment {
        Environment::Production => 0,
        Environment::Sandbox => 1,
    }
}

/// A count as its column has it.
pub(super) fn whole(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// How many rows to answer with.
pub(super) fn most(limit: u32) -> i64 {
    limit.into()
}
