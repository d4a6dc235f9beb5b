//! Deleting old actions with everything that became of them. The chain stays, and an entry is added to it that says
//! how far rows may be missing: in a store that was never pruned none may.

use rusqlite::params;

use super::batch::Batch;
use super::read::{self, ADDRESS_SLICE, EFFECT_SLICE, Sql};
use crate::identity;
use crate::pruned::Pruned;

/// Names in `meta`: the highest action and outcome ever deleted. They only keep numbers from being given again.
pub(crate) const ACTION: &str = "pruned_action";
pub(crate) const OUTCOME: &str = "pruned_outcome";

/// An action that nobody waits for.
struct Old {
    row: i64,
    id: Vec<u8>,
    effect: Option<[u8; 32]>,
    /// The latest.
    outcome: Option<i64>,
    /// The row in whose slice its effect is found.
    place: i64,
}

impl Batch<'_> {
    pub(crate) fn prune(&mut self, before_ms: i64, limit: u32, now_ms: i64) -> Sql<u64> {
        let mut pruned = Pruned::default();
        for old in self.old(before_ms, limit)? {
            self.forget(&old, &mut pruned)?;
        }
        if pruned.actions > 0 {
            // A crash could no longer make good from its action what a history lacks.
            self.due = true;
            self.mark(ACTION, pruned.highest_action)?;
            self.mark(OUTCOME, pruned.highest_outcome)?;
            let entry = self.event(&pruned.event(now_ms).map_err(super::batch::unwritable)?)?;
            self.db.prepare_cached("INSERT INTO pruning VALUES (?1)")?.execute([entry])?;
        }
        Ok(pruned.actions)
    }

    /// Rows are in the order of time, near enough: those that came in late are found the next time. Another key that
    /// moved on to the next number is found only by way of this row, which therefore goes after it.
    fn old(&self, before_ms: i64, limit: u32) -> Sql<Vec<Old>> {
        let Some(newest) = read::last_row(self.db, "action")? else { return Ok(Vec::new()) };
        let last = read::first_row_since(self.db, newest, before_ms)?;
        let sql = "SELECT a.row, a.id, a.effect, f.outcome, coalesce(a.resumed_row, a.row) FROM action a CROSS JOIN fate f ON f.row = a.row
                   WHERE a.row <= ?1 AND a.at < ?2 AND (f.state >= 4 OR f.state IN (0, 1) AND a.expires <= ?2)
                   AND NOT EXISTS (SELECT 1 FROM action next WHERE next.slot = a.slot + 1)
                   ORDER BY a.row LIMIT ?3";
        read::many(self.db, sql, params![last, before_ms, limit], |row| {
            Ok(Old {
                row: row.get(0)?,
                id: row.get(1)?,
                effect: row.get(2)?,
                outcome: row.get(3)?,
                place: row.get(4)?,
            })
        })
    }

    fn forget(&self, old: &Old, pruned: &mut Pruned) -> Sql<()> {
        let mut next = old.outcome;
        while let Some(outcome) = next {
            next = self.forget_outcome(outcome, pruned)?;
        }
        if let Some(effect) = &old.effect {
            let sql = "DELETE FROM effect WHERE slice = ?1 AND tag = ?2 AND action = ?3";
            let values = [old.place >> EFFECT_SLICE, identity::tag(effect), old.row];
            self.db.prepare_cached(sql)?.execute(values)?;
        }
        let sql = "DELETE FROM approval WHERE action = ?1 RETURNING entry";
        for entry in read::many(self.db, sql, [old.row], |row| row.get(0))? {
            pruned.approval(entry);
        }
        self.db.prepare_cached("DELETE FROM repeat WHERE action = ?1")?.execute([&old.id])?;
        self.db.prepare_cached("DELETE FROM deletion WHERE action = ?1")?.execute([old.row])?;
        self.db.prepare_cached("DELETE FROM erasure WHERE action = ?1")?.execute([old.row])?;
        self.db.prepare_cached("DELETE FROM usage WHERE action = ?1")?.execute([old.row])?;
        self.db.prepare_cached("DELETE FROM fate WHERE row = ?1")?.execute([old.row])?;
        self.db.prepare_cached("DELETE FROM action WHERE row = ?1")?.execute([old.row])?;
        self.db.prepare_cached("DELETE FROM cycle WHERE action = ?1")?.execute([old.row])?;
        pruned.action(old.row);
        Ok(())
    }

    /// Answers with the outcome before.
    fn forget_outcome(&self, outcome: i64, pruned: &mut Pruned) -> Sql<Option<i64>> {
        let sql = "DELETE FROM outcome WHERE row = ?1
                   RETURNING previous, entry, document IS NOT NULL, short, signature";
        let (previous, entry, receipt, addresses) =
            self.db.prepare_cached(sql)?.query_row([outcome], |row| {
                let addresses = [row.get::<_, Option<String>>(3)?, row.get(4)?];
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, addresses))
            })?;
        for address in addresses.iter().flatten() {
            let sql = "DELETE FROM address WHERE slice = ?1 AND tag = ?2 AND outcome = ?3";
            let values = [outcome >> ADDRESS_SLICE, identity::address(address), outcome];
            self.db.prepare_cached(sql)?.execute(values)?;
        }
        pruned.outcome(outcome, entry, receipt);
        Ok(previous)
    }

    fn mark(&self, name: &str, row: i64) -> Sql<()> {
        let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = max(value, ?2)";
        self.db.prepare_cached(sql)?.execute(params![name, row]).map(drop)
    }
}
