//! The index of the audit trail: for each slice of neighbouring entries, which of them have which term.
//!
//! ```text
//!   entries   … 2047 │ 2048 …              3071 │ 3072 …            8191 │ 8192 … 8200
//!             in the index, one row for each    │ not yet: searched by   │ growing
//!             kind of term                      │ reading the entries    │
//! ```
//!
//! No action pays for it: its commits know nothing of the index. Slices are read back from the entries beside the
//! commits, several at a time, and handed to the writer as finished rows. How far that is changes what a search costs and
//! never what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::Known;
use super::read::{self, Sql};
use crate::audit::{self, By, Term, Terms};
use crate::entry::Reading;

/// Entries of a slice, as a power of two.
pub(crate) const SLICE: u32 = 10;

/// Actions whose terms are kept in memory: what is admitted is soon settled.
pub(crate) const KNOWN: usize = 8 * 1024;

/// An entry, and what it is found by.
#[derive(Clone)]
pub(crate) struct Marked {
    pub(crate) row: i64,
    pub(crate) at_ms: i64,
    found_by: FoundBy,
}

#[derive(Clone)]
enum FoundBy {
    Action(Arc<Terms>, Option<Term>),
    Event([Term; 2]),
}

impl Marked {
    fn terms(&self) -> impl Iterator<Item = &Term> {
        let (all, state) = match &self.found_by {
            FoundBy::Action(terms, state) => (terms.all(), state.as_ref()),
            FoundBy::Event(terms) => (terms.as_slice(), None),
        };
        all.iter().chain(state)
    }

    /// Has it all of these?
    pub(crate) fn has(&self, wanted: &[Term]) -> bool {
        wanted.iter().all(|term| self.terms().any(|own| own == term))
    }
}

/// The entries among these rows. What cannot be read, or belongs to an action that is gone, is found by nothing.
pub(crate) fn marked(db: &Connection, known: &mut Known, first: i64, end: i64) -> Sql<Vec<Marked>> {
    let mut select =
        db.prepare_cached("SELECT row, bytes FROM entry WHERE row >= ?1 AND row < ?2 ORDER BY row")?;
    let mut rows = select.query([first, end])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(entry) = Reading::of(row.get_ref(1)?.as_blob()?) else { continue };
        let Some(found_by) = found_by(db, known, &entry)? else { continue };
        found.push(Marked { row: row.get(0)?, at_ms: entry.at_ms, found_by });
    }
    Ok(found)
}

fn found_by(db: &Connection, known: &mut Known, entry: &Reading<'_>) -> Sql<Option<FoundBy>> {
    let Some(action) = entry.action else { return Ok(Some(FoundBy::Event(audit::event_terms(entry)))) };
    let terms = match known.get(&action) {
        Some(terms) => terms,
        None => {
            let Some(terms) = read::terms(db, action)? else { return Ok(None) };
            known.insert(action, Arc::clone(&terms));
            terms
        }
    };
    let state = entry.state.map(|state| terms.state(state));
    Ok(Some(FoundBy::Action(terms, state)))
}

/// The first slice that is not in the index, nor any behind it.
pub(crate) fn end(db: &Connection) -> Sql<i64> {
    Ok(read::one(db, "SELECT max(slice) + 1 FROM audit_slice", [], |row| row.get(0))?.flatten().unwrap_or(0))
}

/// The rows of a whole slice, made.
pub(crate) struct Slice {
    slice: i64,
    /// Times of its earliest and latest entry; where there is none, no time is between them.
    span: (i64, i64),
    postings: BTreeMap<By, Vec<u8>>,
}

impl Slice {
    pub(crate) fn read(db: &Connection, known: &mut Known, slice: i64) -> Sql<Slice> {
        let entries = marked(db, known, slice << SLICE, (slice + 1) << SLICE)?;
        let times = entries.iter().map(|entry| entry.at_ms);
        let span = (times.clone().min().unwrap_or(i64::MAX), times.max().unwrap_or(i64::MIN));
        Ok(Slice { slice, span, postings: postings(&entries) })
    }

    /// The same slice, read once more.
    pub(crate) fn anew(&self, db: &Connection) -> Sql<Slice> {
        Slice::read(db, &mut Known::new(1 << SLICE), self.slice)
    }

    /// A row for each kind of term, and one that says that they are all there.
    pub(crate) fn write(&self, db: &Connection) -> Sql<()> {
        let mut insert = db.prepare_cached("INSERT OR REPLACE INTO audit_term VALUES (?1, ?2)")?;
        for (by, postings) in &self.postings {
            insert.execute(params![key(*by, self.slice), postings])?;
        }
        let (first, last) = self.span;
        db.prepare_cached("INSERT OR REPLACE INTO audit_slice VALUES (?1, ?2, ?3)")?
            .execute([self.slice, first, last])
            .map(drop)
    }

    /// Is this what the index says?
    pub(crate) fn is_stored(&self, db: &Connection) -> Sql<bool> {
        let (first, last) = self.span;
        let same = "SELECT first = ?2 AND last = ?3 FROM audit_slice WHERE slice = ?1";
        let mut fits = read::one(db, same, [self.slice, first, last], |row| row.get(0))?.unwrap_or(false);
        for by in By::ALL {
            let sql = "SELECT postings FROM audit_term WHERE key = ?1";
            let stored: Option<Vec<u8>> = read::one(db, sql, [key(by, self.slice)], |row| row.get(0))?;
            fits &= stored.as_ref() == self.postings.get(&by);
        }
        Ok(fits)
    }
}

/// Takes terms of one action, all of this kind, out of the slices in which it may have entries. Its rows must not lead to
/// them any more.
pub(crate) fn forget(db: &Connection, by: By, gone: &[Term], slices: RangeInclusive<i64>) -> Sql<()> {
    let end = end(db)?;
    for slice in slices.take_while(|slice| *slice < end) {
        let sql = "SELECT postings FROM audit_term WHERE key = ?1";
        let stored: Option<Vec<u8>> = read::one(db, sql, [key(by, slice)], |row| row.get(0))?;
        // What others are found by, too, is no sign of the action: of its entries each has all of them.
        let holds = |postings: &Vec<u8>| {
            let all = gone.iter().map(|term| places(postings, term.tag).into_iter().collect::<BTreeSet<_>>());
            all.reduce(|all, some| &all & &some).is_some_and(|places| !places.is_empty())
        };
        if stored.as_ref().is_some_and(holds) {
            db.prepare_cached("DELETE FROM audit_term WHERE key = ?1")?.execute([key(by, slice)])?;
            Slice::read(db, &mut Known::new(1 << SLICE), slice)?.write(db)?;
        }
    }
    Ok(())
}

/// The row of a kind of term and a slice. Rows of a slice are neighbours, so that the table is only appended to.
pub(crate) fn key(by: By, slice: i64) -> i64 {
    slice << 4 | by as i64
}

/// For each kind of term: how many there are, each with where its places end, then the places in the slice.
fn postings(entries: &[Marked]) -> BTreeMap<By, Vec<u8>> {
    let mut places: BTreeMap<Term, Vec<u16>> = BTreeMap::new();
    for entry in entries {
        // Below 1024, as a slice has no more.
        let place = (entry.row & ((1 << SLICE) - 1)) as u16;
        for term in entry.terms() {
            places.entry(*term).or_default().push(place);
        }
    }
    let mut all: BTreeMap<By, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    for (term, places) in places {
        let (heads, tails) = all.entry(term.by).or_default();
        tails.extend(places.iter().flat_map(|place| place.to_le_bytes()));
        heads.extend(term.tag.to_le_bytes());
        heads.extend(((tails.len() / 2) as u32).to_le_bytes());
    }
    let whole = |(heads, tails): (Vec<u8>, Vec<u8>)| {
        [&((heads.len() / HEAD) as u32).to_le_bytes()[..], &heads, &tails].concat()
    };
    all.into_iter().map(|(by, parts)| (by, whole(parts))).collect()
}

/// The places of a term; none in bytes that are not postings.
pub(crate) fn places(postings: &[u8], tag: i64) -> Vec<u16> {
    find(postings, tag).unwrap_or_default()
}

fn find(postings: &[u8], tag: i64) -> Option<Vec<u16>> {
    let (count, rest) = postings.split_first_chunk()?;
    let (heads, tails) = rest.split_at_checked(u32::from_le_bytes(*count) as usize * HEAD)?;
    let (heads, _) = heads.as_chunks::<HEAD>();
    let index = heads.binary_search_by_key(&tag, tag_of).ok()?;
    let begin = index.checked_sub(1).map_or(0, |before| end_of(&heads[before]));
    let (places, _) = tails.get(begin * 2..end_of(&heads[index]) * 2)?.as_chunks::<2>();
    Some(places.iter().map(|place| u16::from_le_bytes(*place)).collect())
}

/// Bytes of a term's head: its tag, and where its places end.
const HEAD: usize = 12;

fn tag_of(head: &[u8; HEAD]) -> i64 {
    head.first_chunk().map_or(0, |tag| i64::from_le_bytes(*tag))
}

fn end_of(head: &[u8; HEAD]) -> usize {
    head.last_chunk().map_or(0, |end| u32::from_le_bytes(*end) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_by_their_term_and_by_no_other() {
        let entry = |row: i64, tag: i64| {
            let terms = [Term { by: By::Subject, tag }, Term { by: By::State, tag: 7 }];
            Marked { row, at_ms: 0, found_by: FoundBy::Event(terms) }
        };
        let entries = [entry(1024, -5), entry(1030, -5), entry(1031, 9), entry(2047, 9)];
        let postings = postings(&entries);
        let subjects = &postings[&By::Subject];
        assert_eq!(places(subjects, -5), [0, 6]);
        assert_eq!(places(subjects, 9), [7, 1023]);
        assert!(places(subjects, 7).is_empty());
        assert_eq!(places(&postings[&By::State], 7), [0, 6, 7, 1023]);
        assert_eq!(postings.get(&By::Session), None);
    }

    #[test]
    fn what_is_no_index_leads_nowhere() {
        for bytes in [&b""[..], b"\x01", b"\xff\xff\xff\xff", b"\x01\0\0\0\x07\0\0\0\0\0\0\0\xff\xff\xff\xff"]
        {
            assert!(places(bytes, 7).is_empty());
        }
    }
}
