//! The store of many gateways: a PostgreSQL database with any number of identical processes on it.
//!
//! ```text
//!   callers ──▶ queue ──▶ writer ──▶ one transaction:  BEGIN, own end of the chain, locks
//!      │                                               rows ─▶ World ─▶ the code of every ledger ─▶ what changed
//!      │                                               UNNEST, COMMIT ──▶ promises
//!      ├── questions ──▶ those that wait together: a connection of the pool, two statements however many they are
//!      └── other reads: a connection of the pool, each time
//! ```
//!
//! Nothing is believed from memory that another process could have changed: whatever a batch is decided by (keys, effects,
//! mandates' accounts, revocations, freezes, sessions, clusters, limits, leases, the end of the own chain) is read in its
//! transaction, under locks that everybody takes in one order (`load`), judged by the code that [`Memory`](crate::Memory)
//! runs over all its rows (`world`), and written in the same transaction (`flush`).
//!
//! Each process has a chain of its own and gives numbers to its rows without asking anybody (`replica`), so that two wait
//! for each other only where they touch the same rows: one hot mandate, one key, one effect. Only plain SQL is used for it:
//! row locks and unique indexes, no advisory locks, no `LISTEN`, no sequences.
//!
//! A commit whose answer was lost is unavailable for those who waited for it. What became of it is known before the next
//! transaction does anything, because that begins with a lock on the row of the own chain. A database that goes away and
//! comes back is found again by the next write or beat.

mod archive;
mod audit;
mod chores;
mod connect;
pub(crate) mod copy;
mod facts;
mod flush;
mod governed;
mod ledger;
mod load;
mod log;
mod migrate;
mod needs;
mod outbox;
mod read;
mod replica;
mod rules;
mod sessions;
mod shelf;
mod sql;
mod verify;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as blocking};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deadpool_postgres::{Object, Pool};
use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

pub use self::archive::{Archive, Archived, MONTHLY};
use self::needs::Needs;
use self::sql::{Db, Done, Failure};
use self::writer::{Act, Batch, Deed, Write, Writer};
use crate::admit::Item;
use crate::intake::{Close, Process};
use crate::packed;
use crate::refusals::Refusals;
use crate::{Admitted, Answer, Durability, Error, Sealer, Settlement};

/// How a process takes part in a database.
#[derive(Clone)]
pub struct Access {
    /// `postgres://…`, as libpq reads it; `sslrootcert=FILE` names certificates that are trusted beside the machine's.
    pub url: Box<str>,
    /// In which schema of the database; it is made if there is none.
    pub schema: Box<str>,
    /// The name of this replica.
    pub replica_id: Box<str>,
    /// Name of the chain that this process start opens.
    pub chain_id: Box<str>,
    /// When it starts, milliseconds since 1970, UTC.
    pub now_ms: i64,
    /// How many writes may wait; more are [`Error::Busy`].
    pub queue: usize,
    /// How many writes are committed together at most.
    pub batch: usize,
    /// Connections for reading.
    pub readers: usize,
    /// So long a process may be silent before others take it for gone, and take over what it had in hand.
    pub silence: Duration,
    /// Signs the entries of governed sessions; without it there are none.
    pub sealer: Option<Arc<dyn Sealer>>,
    /// This machine's clock, milliseconds since 1970, UTC: whose clock is not the database's writes nothing.
    pub clock: fn() -> i64,
    /// Who joins has a store in a file: a database that nobody was ever on is not begun beside it.
    pub has_file: bool,
}

fn machine_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Access {
    /// The usual bounds.
    #[must_use]
    pub fn new(url: &str, replica_id: &str, chain_id: &str, now_ms: i64) -> Access {
        Access {
            url: url.into(),
            schema: "public".into(),
            replica_id: replica_id.into(),
            chain_id: chain_id.into(),
            now_ms,
            queue: 16 * 1024,
            batch: 512,
            readers: 8,
            silence: replica::SILENCE,
            sealer: None,
            clock: machine_ms,
            has_file: false,
        }
    }
}

impl fmt::Debug for Access {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Access { replica_id, chain_id, .. } = self;
        f.debug_struct("Access")
            .field("replica_id", replica_id)
            .field("chain_id", chain_id)
            .finish_non_exhaustive()
    }
}

/// A ledger in a database. Dropping it writes what waits and says that this process is gone.
pub struct Postgres {
    shared: Arc<Shared>,
    writes: Option<mpsc::Sender<Write>>,
    questions: mpsc::Sender<facts::Waiting>,
    ended: Mutex<blocking::Receiver<()>>,
    runtime: Option<Runtime>,
}

struct Shared {
    /// For whoever reads. The writer has a connection of its own: no flood of reads keeps it from telling that it is there.
    pool: Pool,
    /// What the server says of commits there.
    heard: connect::Heard,
    /// For what admissions are judged by, which nobody's search keeps waiting.
    judging: Pool,
    /// The process as which this one writes at present.
    number: AtomicI64,
    /// Why nothing can be written just now.
    failed: Mutex<Option<Arc<str>>>,
    /// Refusals of late, as this process said them: what another has refused it says once more.
    refusals: Mutex<Refusals>,
    walks: Arc<verify::Walks>,
    counts: Counts,
    /// As the server that is written to said of itself last.
    durability: Mutex<Durability>,
    /// Whether others write to it, too, as far as was looked last.
    has_others: AtomicBool,
}

#[derive(Default)]
struct Counts {
    commits: AtomicU64,
    writes: AtomicU64,
    commit_us: AtomicU64,
}

/// Threads that speak with the database.
const THREADS: usize = 2;

impl Postgres {
    /// Connects, brings the database up to date, registers this process and begins its chain.
    ///
    /// # Errors
    /// [`Error::Open`] if the database cannot be reached or used, was made by a newer version, or may lose what it says is
    /// kept (`fsync`, `full_page_writes`, `synchronous_commit`).
    pub fn open(access: Access) -> Result<Postgres, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("ledger-postgres")
            .enable_all()
            .build()
            .map_err(|error| Error::Open(error.to_string().into()))?;
        let (opened, answer) = blocking::channel();
        let (over, ended) = blocking::channel();
        let length = access.queue.max(1);
        let (writes, queue) = mpsc::channel(length);
        runtime.spawn(async move {
            match Writer::open(access).await {
                Ok((writer, shared)) => {
                    let _ = opened.send(Ok(shared));
                    writer.run(queue).await;
                }
                Err(error) => drop(opened.send(Err(error))),
            }
            let _ = over.send(());
        });
        match answer.recv().unwrap_or_else(|_| Err(gone())) {
            Ok(shared) => {
                let (questions, asked) = mpsc::channel(length);
                runtime.spawn(facts::answer(Arc::clone(&shared), asked));
                let (writes, ended) = (Some(writes), Mutex::new(ended));
                Ok(Postgres { shared, writes, questions, ended, runtime: Some(runtime) })
            }
            Err(error) => {
                // Whoever calls may be on a runtime of theirs, where nobody may wait for ours.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn send<T: Send + 'static>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Write,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let (promise, answer) = oneshot::channel();
        let writes = self.writes.as_ref().ok_or_else(gone)?;
        writes.try_send(write(promise)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        Ok(answer)
    }

    /// Queues a rare write: what it needs, and what it does with that.
    fn perform<'a, T, F>(&'a self, needs: impl FnOnce(&mut Needs), run: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: for<'b> FnMut(&'b mut Batch<'_>) -> BoxFuture<'b, Done<Result<T, Error>>> + Send + 'static,
    {
        let mut needed = Needs::default();
        needs(&mut needed);
        let answer =
            self.send(|promise| Write::Deed(Box::new(Act::new(needed, run, promise)) as Box<dyn Deed>));
        Box::pin(async move { answer?.await.map_err(|_| gone())? })
    }

    /// The same where nothing is asked beyond what is needed.
    fn decide<'a, T, F>(&'a self, needs: impl FnOnce(&mut Needs), mut decide: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnMut(&mut Batch<'_>) -> Result<T, Error> + Send + 'static,
    {
        self.perform(needs, move |batch| {
            let made = decide(batch);
            Box::pin(async move { Ok(made) })
        })
    }

    /// Looks something up on a connection that nobody else uses now.
    fn look<'a, T, F, R>(&'a self, read: R) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: Future<Output = Done<T>> + Send + 'static,
        R: FnOnce(Arc<Db>) -> F + Send + 'static,
    {
        let (pool, shared) = (self.shared.pool.clone(), Arc::clone(&self.shared));
        let looked = self.runtime.as_ref().map(|runtime| {
            runtime.spawn(async move {
                let looked = async {
                    let db = Arc::new(pool.get().await?);
                    let heard = shared.heard.times();
                    // A few things are written here, too. Of whom it was said is not known: then nobody is told that it is kept.
                    let looked = read(Arc::clone(&db)).await;
                    let looked = looked.and_then(|found| shared.heard.kept_since(heard).map(|()| found));
                    if let (Err(Failure::Lost(_)), Ok(db)) = (&looked, Arc::try_unwrap(db)) {
                        // Nobody else is given a connection that may still be busy with this.
                        drop(Object::take(db));
                    }
                    looked
                };
                looked.await.inspect_err(|failure| shared.note(failure))
            })
        });
        Box::pin(async move {
            let looked = looked.ok_or_else(gone)?;
            looked.await.map_err(|_| gone())?.map_err(Error::from)
        })
    }

    /// Has a question answered together with those that wait.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(writer::Promise<T>) -> facts::Asked,
    ) -> Answer<'_, T> {
        let (promise, answer) = oneshot::channel();
        let waiting = facts::Waiting::new(question(promise));
        let asked = self.questions.try_send(waiting).map_err(|_| Error::Busy);
        Box::pin(async move {
            asked?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn enter(&self, mut item: Item) -> Answer<'_, Admitted> {
        packed::item(&mut item);
        let answer = self.send(|promise| Write::Enter(Box::new(item), promise));
        Box::pin(async move { answer?.await.map_err(|_| gone())? })
    }

    fn close(&self, settlement: Settlement, amends: bool) -> Answer<'_, i64> {
        let mut close = Close::new(settlement, amends);
        packed::close(&mut close);
        let answer = self.send(|promise| Write::Close(Box::new(close), promise));
        Box::pin(async move { answer?.await.map_err(|_| gone())? })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.writes.take());
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits longer for a database that does not answer.
        let _ = ended.recv_timeout(CLOSING);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// For what still waits when it is closed.
const CLOSING: Duration = Duration::from_secs(20);

impl Shared {
    fn failed(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durability(&self) -> MutexGuard<'_, Durability> {
        self.durability.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> Process {
        self.number.load(Ordering::Relaxed)
    }

    /// Whether to wait for more that may be put to the database in one go. With others the server does the work of all, most of
    /// it the same for one write as for fifty; one gateway alone would only be idle meanwhile.
    fn gathers(&self) -> bool {
        self.has_others.load(Ordering::Relaxed)
    }

    async fn look_for_others(&self, db: &Db) -> Done<()> {
        self.has_others.store(replica::others(db, self.number()).await? > 0, Ordering::Relaxed);
        Ok(())
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a failure says of the database.
    fn note(&self, failure: &Failure) {
        if matches!(failure, Failure::Lost(_)) {
            tracing::warn!(why = %failure, "the database did not answer");
        }
    }
}

fn gone() -> Error {
    Error::Unavailable("it was closed before it answered".into())
}
