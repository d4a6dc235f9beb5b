//! Indexes over hashes, cut into slices of neighbouring rows.
//!
//! A hash falls anywhere, so in one big index every new one would dirty a page of its own. New ones go into a small
//! slice, which fits on a page or two; when the next begins, it becomes part of the big slice around it, so that a
//! search has few slices to look into:
//!
//! ```text
//!   rows     0 ─────────────── 4096 ────────────── 8192 ── 8448 ── 8500
//!   slices   │       −1         │        −2         │  −3   │  33   │
//! ```
//!
//! Big slices are negative: their number is −1 − (row >> 12), that of a small one row >> 8.

use rusqlite::{Connection, params};

use super::read::Sql;

const SMALL: u32 = 8;
const BIG: u32 = 12;

/// One index: a table of `slice`, `tag` (64 bits of the hash) and `row` (what has it).
pub(crate) struct Sliced {
    insert: &'static str,
    forget: &'static str,
    first: &'static str,
    join: &'static str,
    clear: &'static str,
}

macro_rules! sliced {
    ($table:literal) => {
        Sliced {
            insert: concat!("INSERT OR IGNORE INTO ", $table, " VALUES (?1, ?2, ?3)"),
            forget: concat!("DELETE FROM ", $table, " WHERE slice IN (?1, ?2) AND tag = ?3 AND row = ?4"),
            first: concat!("SELECT min(slice) FROM ", $table, " WHERE slice >= 0"),
            join: concat!(
                "INSERT OR IGNORE INTO ",
                $table,
                " SELECT -1 - (slice >> ?2), tag, row FROM ",
                $table,
                " WHERE slice >= 0 AND slice < ?1"
            ),
            clear: concat!("DELETE FROM ", $table, " WHERE slice >= 0 AND slice < ?1"),
        }
    };
}

/// Actions by effect.
pub(crate) static EFFECTS: Sliced = sliced!("effect");
/// Outcomes by the addresses of their receipts.
pub(crate) static ADDRESSES: Sliced = sliced!("address");

impl Sliced {
    /// `place` is the row in whose neighbourhood it is looked for: its own, or the newest when it was added late.
    pub(crate) fn insert(&self, db: &Connection, tag: i64, place: i64, row: i64) -> Sql<()> {
        db.prepare_cached(self.insert)?.execute([small(place), tag, row]).map(drop)
    }

    pub(crate) fn forget(&self, db: &Connection, tag: i64, place: i64, row: i64) -> Sql<()> {
        db.prepare_cached(self.forget)?.execute([small(place), big(place), tag, row]).map(drop)
    }

    /// Where what was added from place `oldest` to place `newest` may be, the newest first.
    pub(crate) fn slices(
        &self,
        db: &Connection,
        oldest: i64,
        newest: i64,
    ) -> Sql<impl Iterator<Item = i64> + use<>> {
        let first: Option<i64> = db.prepare_cached(self.first)?.query_row([], |row| row.get(0))?;
        let smalls = first.unwrap_or(i64::MAX).max(small(oldest))..=small(newest);
        Ok(smalls.rev().chain(big(newest)..=big(oldest)))
    }

    /// If a small slice begins with this row, those before it become part of their big ones.
    pub(crate) fn join(&self, db: &Connection, row: i64) -> Sql<()> {
        if row & ((1 << SMALL) - 1) != 0 {
            return Ok(());
        }
        db.prepare_cached(self.join)?.execute(params![small(row), BIG - SMALL])?;
        db.prepare_cached(self.clear)?.execute([small(row)]).map(drop)
    }
}

fn small(place: i64) -> i64 {
    place >> SMALL
}

fn big(place: i64) -> i64 {
    -1 - (place >> BIG)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn store() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        let sql =
            "CREATE TABLE effect (slice INTEGER, tag INTEGER, row INTEGER, PRIMARY KEY (slice, tag, row))
                   STRICT, WITHOUT ROWID";
        db.execute(sql, []).unwrap();
        db
    }

    fn found(db: &Connection, tag: i64, oldest: i64, newest: i64) -> Vec<i64> {
        let mut select = db.prepare("SELECT row FROM effect WHERE slice = ?1 AND tag = ?2").unwrap();
        let slices = EFFECTS.slices(db, oldest, newest).unwrap();
        slices
            .flat_map(|slice| select.query_map([slice, tag], |row| row.get(0)).unwrap().collect::<Vec<_>>())
            .collect::<Sql<_>>()
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn whatever_is_in_the_index_is_found_and_nothing_twice(
            first in 0..9000_i64,
            tags in proptest::collection::vec(0..40_i64, 1..1500),
            late in proptest::collection::vec(0..1500_usize, 0..30),
            oldest in 0..1500_i64,
        ) {
            let db = store();
            // Row, tag, and the newest row when it was added.
            let mut added: Vec<(i64, i64, i64)> = Vec::new();
            for (row, tag) in (first..).zip(&tags) {
                EFFECTS.insert(&db, *tag, row, row).unwrap();
                EFFECTS.join(&db, row).unwrap();
                added.push((row, *tag, row));
            }
            let newest = added.last().unwrap().0;
            for at in late {
                let at = at % added.len();
                let (row, tag, place) = added[at];
                EFFECTS.forget(&db, tag, place, row).unwrap();
                EFFECTS.insert(&db, tag + 100, newest, row).unwrap();
                added[at] = (row, tag + 100, newest);
            }
            let oldest = first + oldest % tags.len() as i64;
            for tag in 0..140 {
                let all = found(&db, tag, 0, newest);
                let mut wanted: Vec<i64> =
                    added.iter().filter(|it| it.1 == tag).map(|it| it.0).collect();
                wanted.sort_unstable();
                let mut sorted = all.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &wanted);
                let late = found(&db, tag, oldest, newest);
                for (row, _, _) in added.iter().filter(|it| it.1 == tag && it.2 >= oldest) {
                    prop_assert!(late.contains(row));
                }
            }
            let sql = "SELECT count(DISTINCT slice) FROM effect WHERE slice >= 0";
            let smalls: i64 = db.query_row(sql, [], |row| row.get(0)).unwrap();
            prop_assert!(smalls <= 1, "{} small slices", smalls);
        }
    }

    #[test]
    fn slices_are_searched_from_the_newest() {
        let db = store();
        for row in 0..9000 {
            EFFECTS.insert(&db, 7, row, row).unwrap();
            EFFECTS.join(&db, row).unwrap();
        }
        assert_eq!(EFFECTS.slices(&db, 0, 8999).unwrap().collect::<Vec<_>>(), [35, -3, -2, -1]);
        assert_eq!(EFFECTS.slices(&db, 5000, 8999).unwrap().collect::<Vec<_>>(), [35, -3, -2]);
    }
}
