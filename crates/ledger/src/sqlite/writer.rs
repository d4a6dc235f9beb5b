//! The one writer: takes everything that waits, commits it in one transaction, wakes those who waited.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rusqlite::{Connection, ErrorCode};

use super::Shared;
use super::batch::{Batch, Tail};
use super::queue::{Job, Work};
use super::read::Sql;
use crate::admit::Item;
use crate::intake::Close;
use crate::{Admitted, Error, Sealer, entry};

pub(crate) struct Writer {
    pub(crate) db: Connection,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tail: Tail,
    pub(crate) sealer: Option<Arc<dyn Sealer>>,
    /// How many writes of each kind go into one transaction at most.
    pub(crate) most: usize,
}

thread_local! {
    /// Pages in the write-ahead log after the last commit of this thread's connection.
    pub(crate) static LOG_PAGES: Cell<u64> = const { Cell::new(0) };
}

enum Failure {
    Sql(rusqlite::Error),
    Io(io::Error),
}

/// What a committed batch came to.
#[derive(Default)]
struct Done {
    admitted: Vec<Admitted>,
    closed: Vec<Result<i64, Error>>,
}

impl Writer {
    /// The first entry of this process, which also shows that the store can be written.
    pub(crate) fn open_chain(&mut self, at_ms: i64) -> Result<(), Error> {
        let opened = self.transaction(&mut [], &[], &mut [Box::new(Opening(at_ms))], false);
        opened.map(drop).map_err(|failure| Error::Open(failure.to_string().into()))
    }

    pub(crate) fn run(mut self) {
        let mut work = Work::default();
        while self.shared.queue.take(self.most, &mut work) {
            self.commit(&mut work);
            self.shared.housekeeping.look(LOG_PAGES.get());
        }
        if self.shared.queue.failed().is_none()
            && let Err(failure) = self.transaction(&mut [], &[], &mut [], true)
        {
            tracing::warn!(error = %failure, "the ledger's last write failed; it will be made good when it is opened");
        }
    }

    fn commit(&mut self, work: &mut Work) {
        let started = Instant::now();
        let count = work.len();
        match self.transaction(&mut work.items, &work.closes, &mut work.jobs, false) {
            Ok(done) => {
                self.shared.count(count, started.elapsed());
                answer(work, done);
            }
            Err(failure) if failure.is_fatal() => return self.stop(work, &failure),
            // Once more, one by one, so that the one that cannot be written does not take the others with it.
            Err(_) if count > 1 => self.one_by_one(work),
            Err(failure) => work.refuse(&Error::Rejected(failure.to_string().into())),
        }
        if let Err(error) = self.step("told") {
            self.stop(work, &error);
        }
    }

    fn one_by_one(&mut self, work: &mut Work) {
        for mut single in singles(work) {
            match self.transaction(&mut single.items, &single.closes, &mut single.jobs, false) {
                Ok(done) => answer(&mut single, done),
                Err(failure) if failure.is_fatal() => self.stop(&mut single, &failure),
                Err(failure) => single.refuse(&Error::Rejected(failure.to_string().into())),
            }
        }
    }

    /// All or nothing. After an error nothing of it is visible to anybody, unless the error is fatal: then only a
    /// restart tells.
    fn transaction(
        &mut self,
        items: &mut [Item],
        closes: &[Close],
        jobs: &mut [Box<dyn Job>],
        closing: bool,
    ) -> Result<Done, Failure> {
        if let Some(why) = self.shared.queue.failed() {
            return Err(Failure::Io(io::Error::other(why.to_string())));
        }
        let shared = self.shared.clone();
        let _gate = shared.gate();
        self.step("begin")?;
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let sealer = self.sealer.clone();
        let batch = Batch::new(&self.db, &shared, self.tail.clone(), sealer.as_deref());
        let written = batch.and_then(|mut batch| {
            let done = write(&mut batch, items, closes, jobs, closing)?;
            Ok((batch, done))
        });
        let committed = written.map_err(Failure::from).and_then(|written| {
            self.step("write")?;
            self.step("commit")?;
            self.db.prepare_cached("COMMIT")?.execute([])?;
            Ok(written)
        });
        match committed {
            Ok((batch, done)) => {
                self.step("committed")?;
                self.tail = batch.publish();
                self.shared.housekeeping.grown(self.tail.entry);
                Ok(done)
            }
            Err(failure) => {
                if !self.db.is_autocommit() {
                    self.db.prepare_cached("ROLLBACK")?.execute([])?;
                }
                Err(failure)
            }
        }
    }

    /// Nobody knows what is on disk after a failed write; writing on could bury it.
    fn stop(&self, work: &mut Work, failure: &Failure) {
        let why: Arc<str> = failure.to_string().into();
        tracing::error!(error = %why, "the ledger stops: a write failed");
        self.shared.queue.fail(&why);
        work.refuse(&Error::Unavailable(why));
    }

    fn step(&self, step: &'static str) -> Result<(), Failure> {
        self.shared.step(step).map_err(Failure::Io)
    }
}

/// Settlements first, because they may give back what admissions need; then what changes the rules; then admissions.
/// Nobody can tell, since none of them has been answered yet.
fn write(
    batch: &mut Batch<'_>,
    items: &mut [Item],
    closes: &[Close],
    jobs: &mut [Box<dyn Job>],
    closing: bool,
) -> Sql<Done> {
    let closed = closes.iter().map(|close| batch.close(close)).collect::<Sql<_>>()?;
    for job in jobs {
        job.run(batch)?;
    }
    let admitted = batch.enter(items)?;
    batch.write_shared(closing)?;
    Ok(Done { admitted, closed })
}

fn answer(work: &mut Work, done: Done) {
    for (promise, result) in work.item_promises.drain(..).zip(done.admitted) {
        drop(promise.send(Ok(result)));
    }
    for (promise, result) in work.close_promises.drain(..).zip(done.closed) {
        drop(promise.send(result));
    }
    work.jobs.drain(..).for_each(|job| job.finish(Ok(())));
    work.items.clear();
    work.closes.clear();
}

fn singles(work: &mut Work) -> Vec<Work> {
    let mut singles = Vec::with_capacity(work.len());
    for (close, promise) in work.closes.drain(..).zip(work.close_promises.drain(..)) {
        singles.push(Work { closes: vec![close], close_promises: vec![promise], ..Work::default() });
    }
    for job in work.jobs.drain(..) {
        singles.push(Work { jobs: vec![job], ..Work::default() });
    }
    for (item, promise) in work.items.drain(..).zip(work.item_promises.drain(..)) {
        singles.push(Work { items: vec![item], item_promises: vec![promise], ..Work::default() });
    }
    singles
}

/// Opens the chain at this time.
struct Opening(i64);

impl Job for Opening {
    fn run(&mut self, batch: &mut Batch<'_>) -> Sql<()> {
        batch.append(self.0, None, &entry::opening(), None, None, None).map(drop)
    }

    fn finish(self: Box<Self>, _: Result<(), Error>) {}
}

impl Failure {
    /// Does it say something about the disk rather than about one of the writes?
    fn is_fatal(&self) -> bool {
        match self {
            Failure::Io(_) => true,
            Failure::Sql(error) => !matches!(
                error.sqlite_error_code(),
                None | Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            ),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sql(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Sql(error) => error.fmt(f),
            Failure::Io(error) => error.fmt(f),
        }
    }
}

impl Shared {
    fn count(&self, writes: usize, time: std::time::Duration) {
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        self.counts.writes.fetch_add(writes as u64, Ordering::Relaxed);
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts.commit_us.fetch_add(time, Ordering::Relaxed);
    }
}
