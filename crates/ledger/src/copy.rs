//! Moving a store from a file into a database.
//!
//! ```text
//!   file (read only) ──▶ chunks by key ──▶ one transaction each: rows, and how far the table has come
//!                                              │
//!   all tables ──▶ the end of the chain ──▶ verified there ──▶ the file is left ──▶ gateways may register
//! ```
//!
//! INVARIANT (one store): at no time may gateways start on both. Until the file is marked as left, the database is closed to
//! every process that would register ([`Copying::release`] opens it); from then on the file is closed to every one that would
//! open it.
//!
//! Whatever ends a copy, the next one goes on where it was: it is known by the end of the file's chain, which moves with
//! every process that opens the file. What becomes of each table is in [`tables`].

pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::Value;
use tokio::runtime::{Builder, Runtime};

pub(crate) use self::tables::{REPLICA, TABLES, Table};
use crate::postgres::copy::{self as database, Target};
use crate::sqlite::copy::{self as file, Source};
use crate::{Error, FailPoints, Finding, Verified};

/// What is to be copied, and where to.
#[derive(Clone)]
pub struct Route {
    /// The file. Who calls holds its directory's [`Lock`](crate::Lock).
    pub file: PathBuf,
    /// The database, as in [`Access`](crate::Access).
    pub url: Box<str>,
    /// In which schema of it.
    pub schema: Box<str>,
    /// Mandates that are nowhere kept, and told of only by actions, which may be pruned since.
    pub unkept: Vec<Box<str>>,
    /// Now, milliseconds since 1970, UTC.
    pub now_ms: i64,
    /// How many rows go into one transaction at most.
    pub rows: usize,
    /// For tests: where it may die.
    pub fail_points: Option<Arc<dyn FailPoints>>,
}

impl std::fmt::Debug for Route {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("file", &self.file)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// The steps of a copy, in order: a transaction is about to be committed, everything is there, it was verified, the file is
/// left.
pub const COPY_STEPS: [&str; 4] = ["copy.rows", "copy.there", "copy.verified", "copy.left"];

/// A copy that has begun, or that goes on.
pub struct Copying {
    route: Route,
    /// Nothing, once the file is left.
    source: Option<Source>,
    target: Target,
    begun_ms: i64,
    runtime: Runtime,
    tables: Vec<Copied>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its name in the database.
    pub table: &'static str,
    /// How many rows it is to have.
    pub of: u64,
    /// How many are there by now.
    pub rows: u64,
}

/// What arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// What the walk along the chain came to.
    pub verified: Verified,
    /// What is wrong there, up to a bound.
    pub findings: Vec<Finding>,
    /// Every table, with the rows that the database counts.
    pub tables: Vec<Copied>,
}

impl Arrived {
    /// Is all of it there, and as the chain says?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty() && self.tables.iter().all(|table| table.rows == table.of)
    }
}

impl Copying {
    /// Begins a copy, or goes on with the one that was begun; `None` if it was done before.
    ///
    /// # Errors
    /// [`Error::Copy`] if the file is not of this version, if the database holds something else, or if somebody else copies
    /// there; [`Error::Open`] if one of them cannot be used.
    pub fn begin(route: Route) -> Result<Option<Copying>, Error> {
        let source = Source::open(&route.file, &route.unkept)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Open(error.to_string().into()))?;
        let (begun_ms, target) = runtime.block_on(Target::begin(&route, &source.end, source.moved_ms))?;
        let Some(target) = target else {
            drop(source);
            // Somebody may have reclaimed it meanwhile.
            file::leave(&route.file, begun_ms)?;
            return Ok(None);
        };
        let mut tables = Vec::with_capacity(TABLES.len());
        for table in &TABLES {
            let rows = target.place(table.name)?.rows;
            tables.push(Copied { table: table.name, of: source.count(table)?, rows });
        }
        Ok(Some(Copying { route, source: Some(source), target, begun_ms, runtime, tables }))
    }

    /// Every table, as far as it has come.
    #[must_use]
    pub fn tables(&self) -> &[Copied] {
        &self.tables
    }

    /// Copies what is not there yet; `tell` hears of each transaction.
    ///
    /// # Errors
    /// [`Error::Copy`] if rows cannot be read or written, [`Error::Unavailable`] if the database does not answer: then it may
    /// be begun again.
    pub fn run(&mut self, mut tell: impl FnMut(&Copied)) -> Result<(), Error> {
        let source = self.source.as_ref().ok_or_else(|| Error::Copy("the file was left already".into()))?;
        for (at, table) in TABLES.iter().enumerate() {
            let mut place = self.target.place(table.name)?;
            while !place.done {
                let chunk = source.read(table, place.cursor.as_deref(), self.route.rows.max(1))?;
                place = self.runtime.block_on(self.target.put(table, &place, chunk, &self.route))?;
                self.tables[at].rows = place.rows;
                tell(&self.tables[at]);
            }
        }
        self.runtime.block_on(self.target.seal(&source.end))?;
        self.passes("copy.there")
    }

    /// Walks the chain as it arrived, with the rows that belong to it, and counts. `tell` hears of the entries by now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer.
    pub fn verify(&self, tell: impl FnMut(u64)) -> Result<Arrived, Error> {
        let (verified, findings) = self.runtime.block_on(self.target.verify(tell))?;
        let mut tables = self.tables.clone();
        for table in &mut tables {
            table.rows = self.runtime.block_on(self.target.count(table.table))?;
        }
        self.passes("copy.verified")?;
        Ok(Arrived { verified, findings, tables })
    }

    /// Closes the file to every gateway, and to every copy but this one. Nothing more is read from it.
    ///
    /// # Errors
    /// [`Error::Open`] if it cannot be written, or if somebody has it open.
    pub fn leave(&mut self) -> Result<(), Error> {
        self.source = None;
        file::leave(&self.route.file, self.begun_ms)?;
        self.passes("copy.left")
    }

    /// Opens the database to gateways. Only after [`Copying::leave`], and if all [is whole](Arrived::is_whole).
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer.
    pub fn release(&self) -> Result<(), Error> {
        self.runtime.block_on(self.target.release(self.route.now_ms))
    }

    fn passes(&self, step: &'static str) -> Result<(), Error> {
        passes(&self.route, step)
    }
}

/// Closes the database again into which a file was copied, so that the file may be [taken back](reclaim): no gateway starts on that
/// copy any more unless it is brought to its end once more. Nothing is done for a file that was not copied. Who calls holds its
/// directory's [`Lock`](crate::Lock).
///
/// # Errors
/// [`Error::Copy`] if a gateway ever was on the database, or it holds no copy of this file; [`Error::Open`] if one of them cannot be
/// used.
pub fn withdraw(file: &Path, url: &str, schema: &str) -> Result<(), Error> {
    let Some(begun_ms) = file::moved(file)? else { return Ok(()) };
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Open(error.to_string().into()))?;
    runtime.block_on(database::close(url, schema, begun_ms))
}

/// Opens a file again that was closed because it had been copied; answers with the time of that, if it was. Who calls holds
/// its directory's [`Lock`](crate::Lock), and knows that no gateway starts on the database ([`withdraw`]).
///
/// # Errors
/// [`Error::Open`] if it cannot be written.
pub fn reclaim(file: &Path) -> Result<Option<i64>, Error> {
    file::reclaim(file)
}

pub(crate) fn passes(route: &Route, step: &'static str) -> Result<(), Error> {
    let passed = route.fail_points.as_ref().map_or(Ok(()), |points| points.at(step));
    passed.map_err(|error| Error::Copy(error.to_string().into()))
}

/// Rows that were read together.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) rows: Vec<Vec<Value>>,
    /// The keys of the last row that was read by now.
    pub(crate) cursor: Option<Vec<Value>>,
    /// Nothing comes behind it.
    pub(crate) last: bool,
}

/// How far a table has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) rows: u64,
    pub(crate) cursor: Option<Vec<Value>>,
    pub(crate) done: bool,
}
