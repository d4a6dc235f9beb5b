//! Scrub: what pages of the file still hold where nothing is stored is overwritten, while commits go on.
//!
//! What is deleted is overwritten by SQLite itself, and so is every page that is set free. What remains are copies: when
//! rows outgrow their page, SQLite lays them and their neighbours out anew, and where they stood, between the cells of a
//! page, their bytes stay. They leave a table only with their page, which is overwritten then, so it is enough to look once,
//! after an erasure, at each page of the tables of which something is ever erased.
//!
//! No read stays open over a tree: meanwhile the log could not be emptied. Which pages it has is read at once, from those that
//! lead to others; each of them is looked at by itself then.
//!
//! ```text
//!   housekeeping: the trees that hold what can be erased, and the free pages, as they were a moment ago ──▶ pages that hold more than is stored
//!   writer:       those that have not changed since, in a commit of their own ──▶ the same without it
//! ```
//!
//! A page that has changed since may be part of something else by now, so it is left to the next pass, and the file counts as
//! unclean until one has left nothing.

use std::iter::once;
use std::ops::Range;
use std::sync::{Arc, mpsc};

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::Shared;
use super::batch::Batch;
use super::queue::Job;
use super::read::Sql;
use crate::Error;

/// Tables, and one index, of columns that are ever erased. In no other place is a copy of what was in them.
const TREES: [&str; 5] = ["action", "outcome", "approval", "sqlite_autoindex_approval_1", "audit_term"];
/// Pages in one commit.
const AT_ONCE: usize = 64;
/// Pages between two looks at what is more urgent.
const STRETCH: usize = 1024;
/// Free pages that are overwritten in one pass, about: they are read at once, so all of them are in memory. There are any
/// only in files from before SQLite was told to overwrite them.
const FREE_AT_ONCE: usize = 1024;
/// In a file of fewer pages no page but those of trees begins with the byte that theirs begin with: others begin with the
/// number of a page, and no number is so large (2²⁵, less what the file may grow by meanwhile).
const TOLD_APART: i64 = 1 << 24;
/// No tree of SQLite is deeper.
const DEEPEST: usize = 20;

/// Is SQLite built so that its pages can be read and written? See `.cargo/config.toml`.
pub(super) fn is_possible(db: &Connection) -> Sql<bool> {
    let sql = "SELECT count(*) = 1 FROM pragma_module_list WHERE name = 'sqlite_dbpage'";
    db.query_row(sql, [], |row| row.get(0))
}

/// Looks at every page once. `goes_on` does what is more urgent, and says whether there is time for the rest. Answers
/// whether nothing is left to be done.
pub(super) fn pass(
    db: &Connection,
    shared: &Arc<Shared>,
    mut goes_on: impl FnMut() -> Sql<bool>,
) -> Sql<bool> {
    let mut pass = Pass { shared, found: Vec::new(), whole: true };
    for tree in TREES {
        if !goes_on()? || !pass.tree(db, tree, &mut goes_on)? {
            return Ok(false);
        }
    }
    Ok(goes_on()? && pass.free_pages(db)? && pass.finish())
}

struct Pass<'a> {
    shared: &'a Arc<Shared>,
    found: Vec<Found>,
    /// Was everything overwritten that had to be?
    whole: bool,
}

/// A page that holds more than is stored in it.
struct Found {
    number: i64,
    was: Vec<u8>,
    cleared: Vec<u8>,
}

/// What a page is there for.
#[derive(Clone, Copy)]
enum Use {
    /// Rows, or entries of an index, or the way to them.
    Tree,
    /// The numbers of free pages.
    Trunk,
    Nothing,
}

impl Pass<'_> {
    /// False if there is no time for the rest.
    fn tree(&mut self, db: &Connection, name: &str, goes_on: &mut impl FnMut() -> Sql<bool>) -> Sql<bool> {
        let transaction = db.unchecked_transaction()?;
        let pages = pages_of(&transaction, name)?;
        let told_apart = page_count(&transaction)? < TOLD_APART;
        // Where one of them could be taken for what it became since, it must not become anything.
        let held = (!told_apart).then_some(transaction);
        // Whoever reads the rows in it meets the same, and tells.
        let Some(pages) = pages else {
            self.whole = false;
            return Ok(true);
        };
        for stretch in pages.chunks(STRETCH) {
            let goes_on = if held.is_some() { !self.shared.housekeeping.is_ending() } else { goes_on()? };
            if !goes_on {
                return Ok(false);
            }
            for number in stretch {
                // One that has left the tree meanwhile was overwritten with that.
                let Some(page) = page(db, *number)?.filter(|page| cells_at(page).is_some()) else { continue };
                self.look(*number, &page, Use::Tree);
                if self.found.len() >= AT_ONCE {
                    self.write();
                }
            }
        }
        Ok(true)
    }

    /// Those that were set free before SQLite was told to overwrite them. While they are read nobody is waited for: they are
    /// found for `finish`. False if the store is being closed.
    fn free_pages(&mut self, db: &Connection) -> Sql<bool> {
        let transaction = db.unchecked_transaction()?;
        let read = |number: i64| page(&transaction, number).map(Option::unwrap_or_default);
        let mut trunk = number_at(&read(1)?, 32);
        while let Some(number) = trunk.filter(|number| *number > 0) {
            if self.shared.housekeeping.is_ending() {
                return Ok(false);
            }
            if self.found.len() >= FREE_AT_ONCE {
                self.whole = false;
                break;
            }
            let page = read(number)?;
            for leaf in (0..number_at(&page, 4).unwrap_or(0)).map_while(|at| number_at(&page, entry(at))) {
                self.look(leaf, &read(leaf)?, Use::Nothing);
            }
            self.look(number, &page, Use::Trunk);
            trunk = number_at(&page, 0);
        }
        Ok(true)
    }

    fn look(&mut self, number: i64, page: &[u8], of: Use) {
        match cleared(page, of) {
            Some(cleared) if cleared != page => {
                self.found.push(Found { number, was: page.to_vec(), cleared });
            }
            Some(_) => {}
            // Whoever reads the rows in it meets the same, and tells.
            None => self.whole = false,
        }
    }

    fn finish(mut self) -> bool {
        self.write();
        self.whole
    }

    /// Waits until the writer has overwritten them.
    fn write(&mut self) {
        while !self.found.is_empty() {
            let found = self.found.drain(..self.found.len().min(AT_ONCE)).collect();
            let (done, written) = mpsc::channel();
            let job = Overwriting { found, left: 0, done };
            self.whole &= self.shared.queue.job(Box::new(job)).is_ok() && written.recv().unwrap_or(false);
        }
    }
}

/// Pages on their way into a commit.
struct Overwriting {
    found: Vec<Found>,
    /// How many have changed since.
    left: usize,
    done: mpsc::Sender<bool>,
}

impl Job for Overwriting {
    fn run(&mut self, batch: &mut Batch<'_>) -> Sql<()> {
        let mut select = batch.db.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
        let mut update = batch.db.prepare_cached("UPDATE sqlite_dbpage SET data = ?2 WHERE pgno = ?1")?;
        self.left = 0;
        for Found { number, was, cleared } in &self.found {
            let now: Vec<u8> = select.query_row([number], |row| row.get(0))?;
            // Keeps (integrity): bytes that mean nothing in a page mean nothing in it as long as it is the same page.
            if now == *was {
                update.execute((number, cleared))?;
            } else {
                self.left += 1;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Error>) {
        // Nobody may wait any more.
        let _ = self.done.send(outcome.is_ok() && self.left == 0);
    }
}

/// A page as it is now, if there is one of this number.
fn page(db: &Connection, number: i64) -> Sql<Option<Vec<u8>>> {
    let mut select = db.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
    select.query_row([number], |row| row.get(0)).optional()
}

fn page_count(db: &Connection) -> Sql<i64> {
    db.query_row("PRAGMA page_count", [], |row| row.get(0))
}

/// The pages of a tree, but for those that only hold the rest of a long row; nothing if it is not laid out as SQLite lays out
/// trees. All its leaves are equally deep, so of them only one is read.
fn pages_of(db: &Transaction<'_>, name: &str) -> Sql<Option<Vec<i64>>> {
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let mut level: Vec<i64> = vec![db.query_row(root, [name], |row| row.get(0))?];
    let mut all = Vec::new();
    for _ in 0..DEEPEST {
        let mut next = Vec::new();
        for number in &level {
            let Some(page) = page(db, *number)? else { return Ok(None) };
            if cells_at(&page) == Some(LEAF_HEADER) {
                break;
            }
            let Some(below) = below(&page) else { return Ok(None) };
            next.extend(below);
        }
        all.append(&mut level);
        if next.is_empty() {
            return Ok(Some(all));
        }
        level = next;
    }
    Ok(None)
}

/// Where a page of a tree has its list of cells: after its header, which is longer in those that lead to others.
fn cells_at(page: &[u8]) -> Option<usize> {
    match page.first()? {
        0x0a | 0x0d => Some(LEAF_HEADER),
        0x02 | 0x05 => Some(INNER_HEADER),
        _ => None,
    }
}

const LEAF_HEADER: usize = 8;
const INNER_HEADER: usize = 12;

/// The pages that a page leads to, if it does.
fn below(page: &[u8]) -> Option<Vec<i64>> {
    let first = cells_at(page).filter(|at| *at == INNER_HEADER)?;
    let cells = (0..short_at(page, 3)?).map(|at| number_at(page, short_at(page, first + 2 * at)?));
    cells.chain([number_at(page, 8)]).collect()
}

/// The page with zeros wherever it stores nothing; nothing if it is not laid out as SQLite lays out pages.
fn cleared(page: &[u8], of: Use) -> Option<Vec<u8>> {
    let unused = match of {
        Use::Tree => unused_in_tree(page)?,
        Use::Trunk => once(entry(number_at(page, 4)?)..page.len()).collect(),
        Use::Nothing => once(0..page.len()).collect(),
    };
    let mut cleared = page.to_vec();
    for range in unused {
        cleared.get_mut(range)?.fill(0);
    }
    Some(cleared)
}

/// What lies between the cells: <https://www.sqlite.org/fileformat.html#b_tree_pages>.
/// The first page, which begins otherwise, is part of no table of ours.
fn unused_in_tree(page: &[u8]) -> Option<Vec<Range<usize>>> {
    let short = |at: usize| short_at(page, at);
    let cells = cells_at(page)?;
    // Zero stands for 65536, of the largest pages.
    let content = short(5).filter(|start| *start > 0)?;
    let mut unused: Vec<Range<usize>> = once(cells + 2 * short(3)?..content).collect();
    let mut free = short(1)?;
    while free > 0 {
        let (next, bytes) = (short(free)?, short(free + 2)?);
        unused.push(free + 4..free + bytes);
        if next > 0 && next <= free {
            return None;
        }
        free = next;
    }
    unused.iter().all(|range| range.start <= range.end).then_some(unused)
}

fn short_at(page: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*page.get(at..)?.first_chunk()?)))
}

fn number_at(page: &[u8], at: usize) -> Option<i64> {
    Some(i64::from(u32::from_be_bytes(*page.get(at..)?.first_chunk()?)))
}

/// Where in a page of numbers one of them stands.
fn entry(at: i64) -> usize {
    usize::try_from(at).map_or(usize::MAX, |at| 8 + 4 * at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    /// Every column that `erase` empties, and the references in the index of the audit trail.
    #[test]
    fn every_tree_with_something_that_is_ever_erased_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let db = super::super::open::writer(&directory.path().join("ledger.db")).unwrap();
        assert!(is_possible(&db).unwrap(), "SQLite is built as `.cargo/config.toml` says");
        let erased =
            "(VALUES ('action', 'payload'), ('action', 'refs'), ('outcome', 'payload'), ('outcome', 'body'),
                       ('approval', 'record'), ('approval', 'approver'), ('audit_term', 'postings'))";
        let sql = format!(
            "SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
             WHERE t.type = 'table' AND (t.name, c.name) IN {erased}
             UNION SELECT i.name FROM sqlite_schema t JOIN pragma_index_list(t.name) i JOIN pragma_index_info(i.name) c
             WHERE t.type = 'table' AND (t.name, c.name) IN {erased}"
        );
        let mut select = db.prepare(&sql).unwrap();
        let found: BTreeSet<String> =
            select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, TREES.map(String::from).into());
    }

    #[test]
    fn the_pages_of_a_tree_are_those_that_sqlite_tells_of() {
        let directory = tempfile::tempdir().unwrap();
        let db = super::super::open::writer(&directory.path().join("ledger.db")).unwrap();
        let rows = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
                    SELECT i, zeroblob(i % 5 * 2000) FROM n";
        db.execute_batch(&format!(
            "CREATE TABLE t (i INTEGER PRIMARY KEY, b); INSERT INTO t {rows};
             CREATE TABLE w (i INTEGER, b, PRIMARY KEY (i, b)) WITHOUT ROWID; INSERT INTO w {rows};
             CREATE INDEX n ON t (b, i); CREATE TABLE empty (i)"
        ))
        .unwrap();
        for name in ["t", "w", "n", "empty"] {
            let mut select =
                db.prepare("SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype <> 'overflow'").unwrap();
            let told: BTreeSet<i64> =
                select.query_map([name], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            drop(select);
            let found = pages_of(&db.unchecked_transaction().unwrap(), name).unwrap().unwrap();
            assert_eq!((found.len(), BTreeSet::from_iter(found)), (told.len(), told), "{name}");
        }
        assert!(page_count(&db).unwrap() < TOLD_APART);
    }

    #[test]
    fn the_log_can_be_emptied_while_a_tree_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        let sqlite = crate::Sqlite::open(&path, crate::Options::new("a", 1)).unwrap();
        let db = super::super::open::writer(&path).unwrap();
        let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                    SELECT zeroblob(3000) FROM n";
        db.execute_batch("CREATE TABLE t (b)").unwrap();
        db.execute(&format!("INSERT INTO t {rows}"), [i64::try_from(6 * STRETCH).unwrap()]).unwrap();
        let mut pass = Pass { shared: &sqlite.shared, found: Vec::new(), whole: true };
        let mut stretches = 0;
        let mut goes_on = || {
            stretches += 1;
            let busy: bool = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            Ok(!busy)
        };
        assert!(pass.tree(&db, "t", &mut goes_on).unwrap());
        assert!(stretches >= 3, "{stretches}");
    }

    /// A leaf of 64 bytes: one cell at its end, a free block of eight bytes before it, and bytes that mean nothing.
    fn leaf() -> Vec<u8> {
        let mut page = vec![0xee; 64];
        page[..10].copy_from_slice(&[0x0d, 0, 48, 0, 1, 0, 48, 0, 0, 60]);
        page[48..52].copy_from_slice(&[0, 0, 0, 8]);
        page
    }

    #[test]
    fn only_what_lies_between_the_cells_is_overwritten() {
        let page = cleared(&leaf(), Use::Tree).unwrap_or_default();
        assert_eq!(page[..10], leaf()[..10]);
        assert_eq!(page[10..48], [0; 38]);
        assert_eq!(page[48..52], [0, 0, 0, 8], "how the free block is found");
        assert_eq!(page[52..56], [0; 4]);
        assert_eq!(page[56..], [0xee; 8], "what is stored");
        assert_eq!(cleared(&page, Use::Tree), Some(page));
    }

    #[test]
    fn a_page_that_is_none_is_not_touched() {
        let with = |at: usize, byte: u8| {
            let mut page = leaf();
            page[at] = byte;
            cleared(&page, Use::Tree)
        };
        assert_eq!(with(0, 0x0c), None, "no such kind of page");
        assert_eq!(with(6, 9), None, "cells where the list of cells is");
        assert_eq!(with(6, 65), None, "cells beyond the page");
        assert_eq!(with(49, 48), None, "a free block that follows on itself");
        assert_eq!(with(51, 200), None, "a free block beyond the page");
        assert_eq!(cleared(&[], Use::Tree), None);
    }

    #[test]
    fn of_free_pages_only_their_numbers_stay() {
        let mut trunk = vec![0xee; 24];
        trunk[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9]);
        let page = cleared(&trunk, Use::Trunk).unwrap_or_default();
        assert_eq!((&page[..12], &page[12..]), (&trunk[..12], &[0; 12][..]));
        assert_eq!(cleared(&trunk, Use::Nothing), Some(vec![0; 24]));
    }
}
