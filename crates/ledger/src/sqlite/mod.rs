//! The store of one machine: an SQLite file with one writer.
//!
//! ```text
//!   callers ──▶ Queue ──▶ Writer ── one transaction ──▶ Batch ── COMMIT ──▶ Hot, promises
//!      │                                                   ▲
//!      └── reads: Hot, else Filter ("certainly not"), else a reader's connection
//!                                         Housekeeping: log ──▶ database file, between two commits;
//!                                                       entries ──▶ index of the audit trail, as a Job
//! ```

mod audit;
mod batch;
mod cluster;
pub(crate) mod copy;
mod erase;
mod facts;
mod filter;
mod governed;
mod hot;
mod housekeeping;
mod index;
mod ledger;
mod log;
mod open;
mod outbox;
mod prune;
mod queue;
mod read;
mod scrub;
mod session;
mod spread;
mod verify;
mod write;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

use action::ActionId;
use rusqlite::Connection;
use tokio::sync::oneshot;

use self::batch::Batch;
use self::filter::{Filter as Bloom, Kind};
use self::hot::Hot;
use self::housekeeping::Housekeeping;
use self::queue::{Job, Promise, Queue};
use self::read::Sql;
use self::writer::Writer;
use crate::admit::Item;
use crate::audit::Terms;
use crate::generations::Generations;
use crate::intake::Close;
use crate::packed;
use crate::{Admitted, Answer, Error, FailPoints, Sealer, Settlement};

/// A commit writes every page it touches, so small pages favour a commit of one action and big ones a commit of many.
/// Measured with 4, 8 and 16 KiB: 0.55, 0.61 and 0.72 ms for one action alone, and 7 % fewer actions under load with 4
/// than with 8 or 16.
const PAGE_BYTES: u64 = 8 * 1024;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the chain that this process start opens.
    pub chain_id: Box<str>,
    /// When it starts, milliseconds since 1970, UTC.
    pub now_ms: i64,
    /// How many writes may wait; more are [`Error::Busy`].
    pub queue: usize,
    /// How many writes of a kind are committed together at most.
    pub batch: usize,
    /// Connections for reading.
    pub readers: usize,
    /// Memory of the filter that spares most look-ups of keys never seen.
    pub filter_bytes: usize,
    /// Signs the entries of governed sessions; without it there are none.
    pub sealer: Option<Arc<dyn Sealer>>,
    /// For tests: where writes may fail.
    pub fail_points: Option<Arc<dyn FailPoints>>,
}

impl Options {
    /// The usual bounds.
    #[must_use]
    pub fn new(chain_id: &str, now_ms: i64) -> Options {
        Options {
            chain_id: chain_id.into(),
            now_ms,
            queue: 16 * 1024,
            batch: 512,
            readers: 2,
            filter_bytes: 16 * 1024 * 1024,
            sealer: None,
            fail_points: None,
        }
    }
}

/// A ledger in one file. Dropping it writes what waits and ends its threads.
pub struct Sqlite {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) struct Shared {
    queue: Queue,
    hot: Mutex<Hot>,
    filter: Bloom,
    readers: Vec<Mutex<Connection>>,
    next_reader: AtomicUsize,
    /// Held by whoever commits or moves the end of the log.
    gate: Mutex<()>,
    housekeeping: Housekeeping,
    fail_points: Option<Arc<dyn FailPoints>>,
    /// Terms of actions of late, for searching what is not in the index yet.
    terms: Mutex<Known>,
    walks: verify::Walks,
    counts: Counts,
    path: PathBuf,
}

/// Terms of the audit trail by action.
type Known = Generations<ActionId, Arc<Terms>>;

#[derive(Default)]
struct Counts {
    commits: AtomicU64,
    writes: AtomicU64,
    commit_us: AtomicU64,
}

impl Sqlite {
    /// Opens the store in this file, makes it if there is none, brings it up to date, and begins a chain. Who calls
    /// holds the directory's [`Lock`](crate::Lock).
    ///
    /// # Errors
    /// [`Error::Open`] if it cannot be opened or was made by a newer version, [`Error::Corrupt`] if its chain has no
    /// readable head.
    pub fn open(path: &Path, options: Options) -> Result<Sqlite, Error> {
        let db = open::writer(path)?;
        let tail = open::tail(&db, &options)?;
        let hot = open::hot(&db, &tail).map_err(open::cannot)?;
        let readers = (0..options.readers.max(1))
            .map(|_| open::reader(path).map(Mutex::new))
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            queue: Queue::new(options.queue),
            hot: Mutex::new(hot),
            filter: Bloom::new(options.filter_bytes),
            readers,
            next_reader: AtomicUsize::new(0),
            gate: Mutex::new(()),
            housekeeping: Housekeeping::default(),
            fail_points: options.fail_points.clone(),
            terms: Mutex::new(Known::new(index::KNOWN)),
            walks: verify::Walks::default(),
            counts: Counts::default(),
            path: path.to_owned(),
        });
        let mut writer = Writer {
            db,
            shared: shared.clone(),
            tail,
            sealer: options.sealer.clone(),
            most: options.batch.max(1),
        };
        writer.open_chain(options.now_ms)?;
        let keeper = (open::reader(path)?, shared.clone());
        let mut sqlite = Sqlite { shared, threads: Vec::new() };
        sqlite.start("ledger-writer", move || writer.run())?;
        sqlite.start("ledger-log", move || housekeeping::run(&keeper.0, &keeper.1))?;
        Ok(sqlite)
    }

    fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(|error| Error::Open(error.to_string().into()))?);
        Ok(())
    }

    /// Queues a rare write.
    fn promise<T: Send + 'static>(
        &self,
        deed: impl FnMut(&mut Batch<'_>) -> Sql<Result<T, Error>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let (promise, answer) = oneshot::channel();
        self.shared.queue.job(Box::new(Deed { deed, made: None, promise }))?;
        Ok(answer)
    }

    fn perform<'a, T: Send + 'static>(
        &'a self,
        deed: impl FnMut(&mut Batch<'_>) -> Sql<Result<T, Error>> + Send + 'static,
    ) -> Answer<'a, T> {
        let answer = self.promise(deed);
        Box::pin(async move { answer?.await.map_err(|_| gone())? })
    }

    /// Looks something up. It takes microseconds, so it is done where it is asked.
    fn look<'a, T: Send + 'a>(
        &'a self,
        read: impl FnOnce(&Connection) -> Sql<T> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move { self.shared.read(read) })
    }

    /// Queues the first write of an action, or its resumption.
    fn enter(&self, mut item: Item) -> Answer<'_, Admitted> {
        Box::pin(async move {
            packed::item(&mut item);
            self.shared.queue.enter(item)?.await.map_err(|_| gone())?
        })
    }

    fn close(&self, settlement: Settlement, amends: bool) -> Answer<'_, i64> {
        let mut close = Close::new(settlement, amends);
        packed::close(&mut close);
        Box::pin(async move { self.shared.queue.close(close)?.await.map_err(|_| gone())? })
    }
}

impl Drop for Sqlite {
    /// The writer ends last: housekeeping has something for it to write.
    fn drop(&mut self) {
        self.shared.housekeeping.end();
        while let Some(thread) = self.threads.pop() {
            if self.threads.is_empty() {
                self.shared.queue.end();
            }
            drop(thread.join());
        }
    }
}

impl Shared {
    fn hot(&self) -> MutexGuard<'_, Hot> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step at which tests may have the disk fail.
    fn step(&self, step: &'static str) -> std::io::Result<()> {
        self.fail_points.as_ref().map_or(Ok(()), |points| points.at(step))
    }

    fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One read transaction on a connection that nobody else uses now.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, Error> {
        let first = self.next_reader.fetch_add(1, Ordering::Relaxed);
        let count = self.readers.len();
        let free = (0..count).find_map(|offset| match self.readers[(first + offset) % count].try_lock() {
            Ok(reader) => Some(reader),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        let db = free
            .unwrap_or_else(|| self.readers[first % count].lock().unwrap_or_else(PoisonError::into_inner));
        let transaction = db.unchecked_transaction().map_err(unreadable)?;
        read(&transaction).map_err(unreadable)
    }

    /// Was this destination had before?
    fn seen(&self, db: &Connection, mark: i64) -> Sql<bool> {
        if self.hot().seen.get(&mark).is_some() {
            return Ok(true);
        }
        Ok(self.filter.may_hold(Kind::Seen, mark) && read::seen(db, mark)?)
    }
}

/// A rare write and where its answer goes.
struct Deed<T, F> {
    deed: F,
    made: Option<Result<T, Error>>,
    promise: Promise<T>,
}

impl<T, F> Job for Deed<T, F>
where
    T: Send,
    F: FnMut(&mut Batch<'_>) -> Sql<Result<T, Error>> + Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) -> Sql<()> {
        self.made = Some((self.deed)(batch)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Error>) {
        let Deed { made, promise, .. } = *self;
        drop(promise.send(outcome.and_then(|()| made.unwrap_or_else(|| Err(gone())))));
    }
}

fn unreadable(error: rusqlite::Error) -> Error {
    Error::Corrupt(error.to_string().into())
}

fn gone() -> Error {
    Error::Unavailable("it was closed before it answered".into())
}
