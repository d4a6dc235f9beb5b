//! Moving committed pages from the write-ahead log into the database file, beside the commits and not in them.
//!
//! A checkpoint that runs while the writer appends never reaches the end of the log, and only a log that was
//! emptied to its end is begun anew. So pages are moved while commits go on, again until only a few are left, and
//! those are moved behind the gate, between two commits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::filter::Kind;
use super::read::Sql;
use super::{PAGE_BYTES, Shared};

#[derive(Default)]
pub(crate) struct Housekeeping {
    state: Mutex<State>,
    bell: Condvar,
    pub(crate) log_pages: AtomicU64,
}

#[derive(Default)]
struct State {
    due: bool,
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

/// With no commit for this long the log is emptied and cut to nothing.
const IDLE: Duration = Duration::from_secs(2);

impl Housekeeping {
    /// The writer tells how long the log is after a commit.
    pub(crate) fn look(&self, log_pages: u64) {
        self.log_pages.store(log_pages, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.commits += 1;
        if log_pages >= DUE_PAGES && !state.due {
            state.due = true;
            drop(state);
            self.bell.notify_one();
        }
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
            if std::mem::take(&mut state.due) {
                return Chore::Checkpoint;
            }
            let (woken, timeout) =
                self.bell.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            let idle = timeout.timed_out() && state.commits == *commits_before;
            *commits_before = state.commits;
            if idle && self.log_pages.load(Ordering::Relaxed) > 0 {
                return Chore::Truncate;
            }
        }
    }
}

enum Chore {
    Checkpoint,
    Truncate,
    End,
}

pub(crate) fn run(db: &Connection, shared: &Arc<Shared>) {
    if let Err(error) = fill_filter(db, shared) {
        tracing::warn!(%error, "the index filter could not be filled; every look-up asks the index");
    }
    let mut commits = 0;
    loop {
        let chore = shared.housekeeping.wait(&mut commits);
        if shared.queue.failed().is_some() {
            // What is on disk is for the next start to find out.
            return;
        }
        let done = match chore {
            Chore::End => return,
            Chore::Checkpoint => empty_log(db, shared),
            Chore::Truncate => {
                let _gate = shared.gate();
                shared.housekeeping.log_pages.store(0, Ordering::Relaxed);
                checkpoint(db, "PRAGMA wal_checkpoint(TRUNCATE)").map(drop)
            }
        };
        if let Err(error) = done {
            // The log grows until it works again; the writer meets the same disk and decides.
            tracing::warn!(%error, "moving the write-ahead log failed");
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

/// Answers with how many pages of the log are in the database file now.
fn checkpoint(db: &Connection, pragma: &str) -> Sql<u64> {
    db.query_row(pragma, [], |row| Ok(u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0)))
}

/// Everything that was stored before; what is written meanwhile is added by the writer.
fn fill_filter(db: &Connection, shared: &Shared) -> Sql<()> {
    let indexes = [
        (Kind::Slot, "SELECT slot FROM action INDEXED BY action_slot WHERE slot IS NOT NULL"),
        (Kind::Effect, "SELECT tag FROM effect"),
        (Kind::Seen, "SELECT mark FROM seen"),
        (Kind::Address, "SELECT tag FROM address"),
    ];
    for (kind, sql) in indexes {
        let mut select = db.prepare(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            shared.filter.add(kind, row.get(0)?);
        }
    }
    shared.filter.complete();
    Ok(())
}
