//! The rows that many actions share: written once for each batch, and made known after its commit.

use std::sync::Arc;

use rusqlite::params;

use super::batch::{Batch, Tail};
use super::filter::Kind;
use super::hot::Hot;
use super::open::SAVED;
use super::read::Sql;
use super::write::amounts;
use crate::Governed;
use crate::admit::Rows;

/// How many actions may be missing from the rows of `series`: what is made good after a crash.
const UNSAVED_ACTIONS: i64 = 4096;
const UNSAVED_SERIES: usize = 512;

impl Batch<'_> {
    /// Writes what the batch changed in rows that are shared by many actions: once each.
    pub(crate) fn write_shared(&mut self, closing: bool) -> Sql<()> {
        let mut upsert = self.db.prepare_cached(
            "INSERT INTO account VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT DO UPDATE SET
             epoch = ?2, spent = ?3, actions = ?4, revoked = ?5, frozen = ?6, seconds = ?7, compute = ?8, memory = ?9,
             storage = ?10, egress = ?11, granted = ?12, granted_compute = ?13, granted_storage = ?14, granted_egress = ?15",
        )?;
        for (key, cell) in self.rows.accounts.iter().filter(|(_, cell)| cell.changed) {
            let mandate::Account { epoch, spent_minor, actions, revoked_at, frozen, used, .. } = &cell.value;
            let (epoch, actions) = (epoch.cast_signed(), actions.cast_signed());
            let [seconds, compute, memory, storage, egress] = amounts(used);
            let granted = cell.value.granted;
            upsert.execute(params![
                key,
                epoch,
                spent_minor,
                actions,
                revoked_at,
                frozen,
                seconds,
                compute,
                memory,
                storage,
                egress,
                granted.seconds,
                granted.compute_units,
                granted.storage_bytes,
                granted.egress_bytes,
            ])?;
        }
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO seen VALUES (?1)")?;
        for (mark, _) in self.rows.seen.iter().filter(|(_, cell)| cell.changed) {
            insert.execute([mark])?;
            self.shared.filter.add(Kind::Seen, *mark);
        }
        self.write_sessions()?;
        self.write_counts()?;
        let due = self.due
            || self.shared.hot().unsaved.len() >= UNSAVED_SERIES
            || self.tail.action - self.tail.saved > UNSAVED_ACTIONS;
        if due || closing {
            self.write_series()?;
        }
        Ok(())
    }

    fn write_counts(&self) -> Sql<()> {
        let counts = std::mem::take(&mut self.shared.hot().refusals.uncounted);
        let mut upsert = self.db.prepare_cached("INSERT OR REPLACE INTO repeat VALUES (?1, ?2)")?;
        for (action, count) in counts {
            upsert.execute(params![action.as_bytes(), count.cast_signed()])?;
        }
        Ok(())
    }

    fn write_series(&mut self) -> Sql<()> {
        let unsaved = self.shared.hot().unsaved.clone();
        let mut upsert = self.db.prepare_cached("INSERT OR REPLACE INTO series VALUES (?1, ?2)")?;
        for (key, series) in &unsaved {
            if !self.rows.series.contains_key(key) {
                upsert.execute(params![key, series.to_bytes()])?;
            }
        }
        for (key, cell) in &self.rows.series {
            if cell.changed || unsaved.contains_key(key) {
                upsert.execute(params![key, cell.value.to_bytes()])?;
            }
        }
        self.tail.saved = self.tail.action - 1;
        let mut mark = self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
        mark.execute(params![SAVED, self.tail.saved])?;
        self.saved = true;
        Ok(())
    }

    /// After the commit: makes it known, and answers with the new ends.
    pub(crate) fn publish(self) -> Tail {
        let mut hot = self.shared.hot();
        if self.saved {
            hot.unsaved.clear();
        }
        self.rows.publish(&mut hot, self.saved);
        if let Some(principals) = self.principals {
            hot.principals = Arc::new(principals);
        }
        for key in self.keys {
            hot.keys.insert(key.hash, Arc::new(key));
        }
        for (tenant, id) in self.ended_keys {
            // By its name: whoever altered the row must not keep the secret alive.
            hot.keys.retain(|_, it| it.id != id || it.tenant != tenant);
        }
        for (cycle, record) in self.begun {
            hot.begun.insert(cycle, record);
        }
        for (name, action, at_ms) in self.refusals {
            hot.refusals.note(name, action, at_ms);
        }
        if self.wipes {
            self.shared.housekeeping.wipe();
        }
        self.tail
    }
}

impl Rows {
    fn publish(self, hot: &mut Hot, saved: bool) {
        for (key, cell) in self.accounts {
            hot.accounts.insert(key, cell.value);
        }
        for (key, cell) in self.series {
            if cell.changed && !saved {
                hot.unsaved.insert(key, cell.value.clone());
            }
            hot.series.insert(key, cell.value);
        }
        for (mark, _) in self.seen {
            hot.seen.insert(mark, ());
        }
        for (key, cell) in self.sessions.into_iter().filter(|(_, cell)| cell.changed) {
            // One that is not kept yet is read when it is needed.
            if let Some(kept) = hot.sessions.get(&key) {
                hot.sessions.insert(key, Governed { session: cell.value, ..kept });
            }
        }
        hot.freezes = self.freezes;
    }
}
