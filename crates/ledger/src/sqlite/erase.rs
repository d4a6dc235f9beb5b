//! Emptying the rows of an action, in one transaction with the entry that says so.
//!
//! Freed bytes are overwritten, and the log that they were written through is cut right after. That is not all: when rows
//! grow, SQLite moves their neighbours to other pages, and where they stood their bytes stay until the place is needed. So
//! every page is looked at, too; see `scrub`.

use action::ActionId;
use rusqlite::params;

use super::batch::Batch;
use super::index::{self, SLICE};
use super::read::{self, Sql};
use super::write::Fate;
use crate::audit::{By, Term};
use crate::{Erasure, Error};

/// Name in `meta`: something was erased, and copies of it may be where pages of the file are not in use.
pub(crate) const UNCLEAN: &str = "unclean";

impl Batch<'_> {
    /// Answers with the row number of the entry; of an action that is erased already, of that one.
    pub(crate) fn erase(&mut self, erasure: &Erasure) -> Sql<Result<i64, Error>> {
        let id = erasure.action;
        let Some(fate) = self.write.find(id)? else { return Ok(Err(Error::NoSuchAction(id))) };
        if let Some(entry) = read::erasure_of(self.db, fate.row)? {
            return Ok(Ok(entry));
        }
        let last_ms = read::last_outcome_ms(self.db, fate.row)?;
        if let Err(refused) = erasure.check(fate.state, last_ms) {
            return Ok(Err(refused));
        }
        let told = (None, Some(&*erasure.record));
        let entry = self.entry_with(erasure.at_ms, id, &fate, &erasure.draft(), told)?;
        self.empty(&fate)?;
        self.forget_refs(id, &fate)?;
        self.db.prepare_cached("INSERT INTO erasure VALUES (?1, ?2)")?.execute([fate.row, entry])?;
        self.db.prepare_cached("DELETE FROM deletion WHERE action = ?1")?.execute([fate.row])?;
        // Keeps (fencing): whoever read it before goes on with it no more.
        let lease = fate.lease.taken(false, self.tail.owner, 0);
        self.write.change(&Fate { lease, ..fate })?;
        self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, 1)")?.execute([UNCLEAN])?;
        self.wipes = true;
        Ok(Ok(entry))
    }

    /// What the action is known by elsewhere names people, or could: it goes from its row and from the index.
    fn forget_refs(&self, id: ActionId, fate: &Fate) -> Sql<()> {
        let before = read::terms(self.db, id)?;
        self.db.prepare_cached("UPDATE action SET refs = NULL WHERE row = ?1")?.execute([fate.row])?;
        let (Some(before), Some(after)) = (before, read::terms(self.db, id)?) else { return Ok(()) };
        let gone = before.all().iter().filter(|term| !after.all().contains(term)).copied();
        let gone: Vec<Term> = gone.collect();
        if gone.is_empty() {
            return Ok(());
        }
        let (first, last) = read::span(self.db, fate.row)?;
        index::forget(self.db, By::Reference, &gone, first >> SLICE..=last >> SLICE)
    }

    fn empty(&self, fate: &Fate) -> Sql<()> {
        self.db.prepare_cached("UPDATE action SET payload = x'' WHERE row = ?1")?.execute([fate.row])?;
        let mut next = fate.outcome;
        while let Some(outcome) = next {
            let sql = "UPDATE outcome SET payload = x'', body = CASE WHEN body IS NOT NULL THEN x'' END
                       WHERE row = ?1 RETURNING previous";
            let previous: Option<i64> =
                self.db.prepare_cached(sql)?.query_row([outcome], |row| row.get(0))?;
            // Whoever altered the store does not lead it round in a circle.
            next = previous.filter(|previous| *previous < outcome);
        }
        // Who spoke is gone; that somebody did is counted.
        let sql = "UPDATE approval SET record = x'', approver = CAST(row AS TEXT) WHERE action = ?1";
        self.db.prepare_cached(sql)?.execute(params![fate.row]).map(drop)
    }
}
