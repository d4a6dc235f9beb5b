//! What is done beside the commits and not in them: moving committed pages from the write-ahead log into the database
//! file, keeping the index of the audit trail, and clearing the file of what was erased.
//!
//! A checkpoint that runs while the writer appends never reaches the end of the log, and only a log that was
//! emptied to its end is begun anew. So pages are moved while commits go on, again until only a few are left, and
//! those are moved behind the gate, between two commits.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::batch::Batch;
use super::erase::UNCLEAN;
use super::filter::Kind;
use super::index::{self, SLICE, Slice};
use super::queue::Job;
use super::read::{self, Sql};
use super::scrub;
use super::{Known, PAGE_BYTES, Shared};
use crate::{Error, identity};

#[derive(Default)]
pub(crate) struct Housekeeping {
    state: Mutex<State>,
    bell: Condvar,
    pub(crate) log_pages: AtomicU64,
    /// Something was erased, and the file was not cleared of it since.
    unclean: AtomicBool,
    /// Commits in which something was erased: what was read before is not to be relied on.
    erasures: AtomicU64,
    /// A reader was in the way when the log was to be cut.
    unwiped: AtomicBool,
    /// The row that the next entry gets, and the first that is not in the index.
    entries: AtomicI64,
    indexed: AtomicI64,
}

#[derive(Default)]
struct State {
    log_due: bool,
    index_due: bool,
    /// Something was erased whose bytes are in the log.
    wipe_due: bool,
    /// Before then the file is not cleared again.
    clean_at: Option<Instant>,
    commits: u64,
    ending: bool,
}

/// 32 MiB: enough that a page that changes with every commit is moved once for dozens of them, and little enough that
/// the commits that share the disk with the move do not wait long.
const DUE_PAGES: u64 = 32 * 1024 * 1024 / PAGE_BYTES;

/// What may be left for the move behind the gate.
const FEW_PAGES: u64 = 128;

/// How often the move beside the commits is tried to get there.
const MOVES: usize = 4;

/// So many entries outside the index are read by a search within a few tens of milliseconds. Whole slices are taken in
/// when there are as many, or when nothing else goes on.
const DUE_ENTRIES: i64 = 8 << SLICE;

/// Slices handed to the writer at once.
const SLICES: i64 = 8;

/// 1 GiB, which takes a few seconds.
const MOST_PAGES_ANEW: i64 = (1024 * 1024 * 1024 / PAGE_BYTES).cast_signed();

/// Clearing the file reads all of it, so it may take one part in so many of the time.
const RARELY: u32 = 20;

/// With no commit for this long the log is emptied and cut to nothing.
const IDLE: Duration = Duration::from_secs(2);

impl Housekeeping {
    /// The writer tells which row the next entry gets, before anybody hears of the commit.
    pub(crate) fn grown(&self, entries: i64) {
        self.entries.store(entries, Ordering::Release);
    }

    /// The writer tells how long the log is after a commit.
    pub(crate) fn look(&self, log_pages: u64) {
        self.log_pages.store(log_pages, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.commits += 1;
        let before = (state.log_due, state.index_due);
        state.log_due |= log_pages >= DUE_PAGES;
        state.index_due |= self.outside() >= DUE_ENTRIES;
        if before != (state.log_due, state.index_due) {
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Entries that are not in the index.
    fn outside(&self) -> i64 {
        self.entries.load(Ordering::Acquire) - self.indexed.load(Ordering::Relaxed)
    }

    /// What log and file still hold of what was erased must be gone.
    pub(crate) fn wipe(&self) {
        self.erasures.fetch_add(1, Ordering::Release);
        self.unclean.store(true, Ordering::Relaxed);
        self.state.lock().unwrap_or_else(PoisonError::into_inner).wipe_due = true;
        self.bell.notify_one();
    }

    pub(crate) fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ending = true;
        self.bell.notify_one();
    }

    /// Waits until there is something to do.
    fn wait(&self, commits_before: &mut u64) -> Chore {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.ending {
                return Chore::End;
            }
            if std::mem::take(&mut state.wipe_due) {
                return Chore::Truncate;
            }
            if std::mem::take(&mut state.log_due) {
                return Chore::Checkpoint;
            }
            if std::mem::take(&mut state.index_due) {
                return Chore::Index;
            }
            let (woken, timeout) =
                self.bell.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            let idle = timeout.timed_out() && state.commits == *commits_before;
            *commits_before = state.commits;
            let may_clean = state.clean_at.is_none_or(|at| at <= Instant::now());
            if may_clean && self.unclean.swap(false, Ordering::Relaxed) {
                return Chore::Clean;
            }
            if idle && self.outside() >= 1 << SLICE {
                return Chore::Index;
            }
            if idle && (self.log_pages.load(Ordering::Relaxed) > 0 || self.unwiped.load(Ordering::Relaxed)) {
                return Chore::Truncate;
            }
        }
    }
}

enum Chore {
    Checkpoint,
    Index,
    Truncate,
    Clean,
    End,
}

pub(crate) fn run(db: &Connection, shared: &Arc<Shared>) {
    if let Err(error) = fill_filter(db, shared) {
        tracing::warn!(%error, "the index filter could not be filled; every look-up asks the index");
    }
    let unclean = read::meta(db, UNCLEAN).is_ok_and(|it| it.is_some());
    shared.housekeeping.unclean.fetch_or(unclean, Ordering::Relaxed);
    let mut indexer = Indexer { db, shared, known: Known::new(index::KNOWN), erasures: 0 };
    if let Err(error) = indexer.begin().and_then(|()| indexer.run()) {
        tracing::warn!(%error, "the audit trail's index could not be brought up to date; searches read more");
    }
    let mut commits = 0;
    loop {
        let chore = shared.housekeeping.wait(&mut commits);
        if shared.queue.failed().is_some() {
            // What is on disk is for the next start to find out.
            return;
        }
        let done = match chore {
            // What is closed is whole: the next start finds all but the last slice in the index.
            Chore::End => return drop(indexer.finish()),
            Chore::Index => indexer.run(),
            Chore::Checkpoint => empty_log(db, shared),
            Chore::Truncate => cut_log(db, shared),
            Chore::Clean => clean(db, shared),
        };
        if let Err(error) = done {
            // Log or unindexed rest grow until it works again; the writer meets the same disk and decides.
            tracing::warn!(%error, "housekeeping of the ledger failed");
        }
    }
}

fn empty_log(db: &Connection, shared: &Shared) -> Sql<()> {
    for _ in 0..MOVES {
        let moved = checkpoint(db, "PRAGMA wal_checkpoint(PASSIVE)")?;
        if shared.housekeeping.log_pages.load(Ordering::Relaxed) <= moved + FEW_PAGES {
            break;
        }
    }
    let _gate = shared.gate();
    checkpoint(db, "PRAGMA wal_checkpoint(PASSIVE)").map(drop)
}

/// Moves everything and leaves an empty log; a reader in the way has it tried again when nothing else goes on.
fn cut_log(db: &Connection, shared: &Shared) -> Sql<()> {
    let _gate = shared.gate();
    shared.housekeeping.log_pages.store(0, Ordering::Relaxed);
    // If it fails, it is tried again as well.
    shared.housekeeping.unwiped.store(true, Ordering::Relaxed);
    let busy = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))?;
    shared.housekeeping.unwiped.store(busy, Ordering::Relaxed);
    Ok(())
}

/// Clears the file of what was erased. What was not done, for whatever reason, is done later.
fn clean(db: &Connection, shared: &Arc<Shared>) -> Sql<()> {
    let begun = Instant::now();
    let done = if shared.step("clean").is_ok() { clear(db, shared) } else { Ok(false) };
    let mut state = shared.housekeeping.state.lock().unwrap_or_else(PoisonError::into_inner);
    state.clean_at = Some(Instant::now() + (begun.elapsed() * RARELY).max(IDLE));
    if !matches!(done, Ok(true)) {
        shared.housekeeping.unclean.store(true, Ordering::Relaxed);
    }
    done.map(drop)
}

/// Answers whether there is nothing to come back for: nothing is left of it, in the log neither, or it is its operator's.
fn clear(db: &Connection, shared: &Arc<Shared>) -> Sql<bool> {
    let erasures = shared.housekeeping.erasures.load(Ordering::Acquire);
    let mut goes_on = || {
        if shared.housekeeping.is_log_due() {
            empty_log(db, shared)?;
        }
        Ok(!shared.housekeeping.is_ending())
    };
    let cleared = match scrub::is_possible(db)? {
        true => scrub::pass(db, shared, &mut goes_on)?,
        false if is_too_large(db)? => {
            tracing::warn!(
                "the store is too large to be written anew while it is in use; see docs/retention.md"
            );
            // Unclean as before, and said once for each erasure and start.
            return Ok(true);
        }
        false => write_anew(db, shared)?,
    };
    if !cleared {
        return Ok(false);
    }
    cut_log(db, shared)?;
    if shared.housekeeping.unwiped.load(Ordering::Relaxed) {
        return Ok(false);
    }
    {
        let _gate = shared.gate();
        // What was erased meanwhile is for the next time, after a crash too.
        if shared.housekeeping.erasures.load(Ordering::Acquire) != erasures {
            return Ok(false);
        }
        db.execute("DELETE FROM meta WHERE name = ?1", [UNCLEAN])?;
    }
    cut_log(db, shared)?;
    Ok(true)
}

/// Nothing is committed while a file is written anew, so a large one is left to its operator.
fn is_too_large(db: &Connection) -> Sql<bool> {
    let pages = db.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))?;
    Ok(pages > MOST_PAGES_ANEW)
}

/// Where SQLite is built without a way to its pages.
fn write_anew(db: &Connection, shared: &Shared) -> Sql<bool> {
    let _gate = shared.gate();
    db.execute_batch("VACUUM")?;
    Ok(true)
}

/// Answers with how many pages of the log are in the database file now.
fn checkpoint(db: &Connection, pragma: &str) -> Sql<u64> {
    db.query_row(pragma, [], |row| Ok(u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0)))
}

/// Takes slices into the index.
struct Indexer<'a> {
    db: &'a Connection,
    shared: &'a Shared,
    known: Known,
    /// How many had been counted when the first of what is known was read.
    erasures: u64,
}

impl Indexer<'_> {
    fn begin(&self) -> Sql<()> {
        let first = index::end(self.db)? << SLICE;
        self.shared.housekeeping.indexed.store(first, Ordering::Relaxed);
        Ok(())
    }

    /// All whole slices that are outside, unless something more urgent comes up.
    fn run(&mut self) -> Sql<()> {
        while !self.shared.housekeeping.is_wanted_elsewhere() && self.some()? {}
        Ok(())
    }

    /// What is outside when all goes well; more would keep a closing process waiting.
    fn finish(&mut self) -> Sql<()> {
        let most = DUE_ENTRIES / (SLICES << SLICE) + 1;
        for _ in 0..most {
            self.some()?;
        }
        Ok(())
    }

    /// A few slices; false when there is none left, or they could not be written.
    fn some(&mut self) -> Sql<bool> {
        let housekeeping = &self.shared.housekeeping;
        let first = housekeeping.indexed.load(Ordering::Relaxed) >> SLICE;
        let end = (housekeeping.entries.load(Ordering::Acquire) >> SLICE).min(first + SLICES);
        let erasures = housekeeping.erasures.load(Ordering::Acquire);
        if erasures != self.erasures {
            (self.known, self.erasures) = (Known::new(index::KNOWN), erasures);
        }
        let transaction = self.db.unchecked_transaction()?;
        let slices = (first..end).map(|slice| Slice::read(&transaction, &mut self.known, slice));
        let slices = slices.collect::<Sql<Vec<_>>>()?;
        drop(transaction);
        if slices.is_empty() || !self.shared.write(slices, erasures) {
            return Ok(false);
        }
        housekeeping.indexed.store(end << SLICE, Ordering::Relaxed);
        Ok(true)
    }
}

impl Housekeeping {
    pub(super) fn is_ending(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ending
    }

    fn is_log_due(&self) -> bool {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).log_due)
    }

    fn is_wanted_elsewhere(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = state.ending || state.log_due;
        // What is left undone is taken up again.
        state.index_due |= wanted;
        wanted
    }
}

impl Shared {
    /// Waits until the writer has committed them.
    fn write(&self, slices: Vec<Slice>, erasures: u64) -> bool {
        let (done, written) = mpsc::channel();
        self.queue.job(Box::new(Slices { slices, erasures, done })).is_ok() && written.recv().unwrap_or(false)
    }
}

/// Finished slices on their way into a commit.
struct Slices {
    slices: Vec<Slice>,
    /// How many had been counted before they were read.
    erasures: u64,
    done: mpsc::Sender<bool>,
}

impl Job for Slices {
    fn run(&mut self, batch: &mut Batch<'_>) -> Sql<()> {
        let erasures = batch.shared.housekeeping.erasures.load(Ordering::Acquire);
        let outdated = batch.wipes || erasures != self.erasures;
        self.slices.iter().try_for_each(|slice| match outdated {
            true => slice.anew(batch.db)?.write(batch.db),
            false => slice.write(batch.db),
        })
    }

    fn finish(self: Box<Self>, outcome: Result<(), Error>) {
        // Nobody may wait any more.
        let _ = self.done.send(outcome.is_ok());
    }
}

/// Everything that was stored before; what is written meanwhile is added by the writer.
fn fill_filter(db: &Connection, shared: &Shared) -> Sql<()> {
    let indexes = [
        (Kind::Slot, "SELECT slot FROM action INDEXED BY action_slot WHERE slot IS NOT NULL"),
        (Kind::Effect, "SELECT tag FROM effect"),
        (Kind::Seen, "SELECT mark FROM seen"),
        (Kind::Address, "SELECT tag FROM address"),
        (Kind::Member, "SELECT session FROM member"),
    ];
    for (kind, sql) in indexes {
        let mut select = db.prepare(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            shared.filter.add(kind, row.get(0)?);
        }
    }
    let mut select = db.prepare("SELECT alike FROM delivery")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        shared.filter.add(Kind::Delivery, identity::tag(&row.get(0)?));
    }
    shared.filter.complete();
    Ok(())
}
