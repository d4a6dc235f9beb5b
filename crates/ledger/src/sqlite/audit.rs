//! Searching the audit trail: slice by slice, by what the index says, and then by what the entries say. Slices that are
//! not in the index are searched by reading them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use action::Tenant;
use rusqlite::Connection;

use super::Known;
use super::index::{self, SLICE};
use super::read::{self, Sql, readable};
use crate::audit::Term;
use crate::entry::Reading;
use crate::{About, Audited, Order, Page, Search};

/// What one call looks at, at most: slices of the index (together about a million entries), slices that are not in it,
/// and entries beyond those it lists.
const MOST_SLICES: usize = 1024;
const MOST_SCANNED: usize = 12;
const MOST_READ: u32 = 2048;

/// What is looked for, and where.
pub(crate) struct Query<'a> {
    pub(crate) tenant: &'a Tenant,
    pub(crate) search: &'a Search,
    /// An entry wanted has all terms of one of these.
    pub(crate) wanted: &'a [Vec<Term>],
    pub(crate) order: Order,
    pub(crate) after: Option<i64>,
    pub(crate) limit: u32,
}

pub(crate) fn search(db: &Connection, known: &Mutex<Known>, query: &Query<'_>) -> Sql<Page<Audited>> {
    let newest = read::last_row(db, "entry")?.unwrap_or(0) >> SLICE;
    let left = MOST_READ.saturating_add(query.limit);
    let mut reader = Reader { db, known, query, found: Vec::new(), last: 0, left, scanned: 0 };
    for (count, slice) in slices(query, newest).enumerate() {
        if count == MOST_SLICES || reader.scanned == MOST_SCANNED {
            return Ok(Page { rows: reader.found, next: Some(border(query.order, slice)) });
        }
        let mut rows = reader.candidates(slice)?;
        if query.order == Order::NewestFirst {
            rows.reverse();
        }
        for row in rows.into_iter().filter(|row| query.is_due(*row)) {
            if reader.look(row)?.is_break() {
                return Ok(Page { rows: reader.found, next: Some(reader.last) });
            }
        }
    }
    Ok(Page { rows: reader.found, next: None })
}

/// The slices from where the search begins, in its order.
fn slices(query: &Query<'_>, newest: i64) -> Box<dyn Iterator<Item = i64>> {
    match query.order {
        Order::NewestFirst => {
            let from = query.after.map_or(newest, |row| row.saturating_sub(1) >> SLICE);
            Box::new((0..=from.min(newest)).rev())
        }
        Order::OldestFirst => Box::new(query.after.map_or(0, |row| row >> SLICE).max(0)..=newest),
    }
}

/// The row after which a search goes on that stopped before this slice.
fn border(order: Order, slice: i64) -> i64 {
    match order {
        Order::NewestFirst => (slice + 1) << SLICE,
        Order::OldestFirst => (slice << SLICE) - 1,
    }
}

impl Query<'_> {
    /// Does it come after what was seen?
    fn is_due(&self, row: i64) -> bool {
        self.after.is_none_or(|after| match self.order {
            Order::NewestFirst => row < after,
            Order::OldestFirst => row > after,
        })
    }
}

struct Reader<'a> {
    db: &'a Connection,
    known: &'a Mutex<Known>,
    query: &'a Query<'a>,
    found: Vec<Audited>,
    /// The last row looked at.
    last: i64,
    /// How many more may be.
    left: u32,
    /// Slices read because they are not in the index.
    scanned: usize,
}

impl Reader<'_> {
    /// The rows of a slice that may be wanted, in the order of the chain.
    fn candidates(&mut self, slice: i64) -> Sql<Vec<i64>> {
        let Search { from_ms, to_ms, .. } = self.query.search;
        let sql = "SELECT last >= coalesce(?2, last) AND first < coalesce(?3, first + 1) FROM audit_slice
                   WHERE slice = ?1";
        match read::one(self.db, sql, (slice, from_ms, to_ms), |row| row.get(0))? {
            None => self.scan(slice),
            Some(false) => Ok(Vec::new()),
            Some(true) => {
                let mut places = BTreeSet::new();
                for terms in self.query.wanted {
                    places.extend(self.common(slice, terms)?);
                }
                Ok(places.into_iter().map(|place| slice << SLICE | i64::from(place)).collect())
            }
        }
    }

    fn scan(&mut self, slice: i64) -> Sql<Vec<i64>> {
        self.scanned += 1;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let marked = index::marked(self.db, &mut known, slice << SLICE, (slice + 1) << SLICE)?;
        let Query { search, wanted, .. } = self.query;
        let wanted =
            |entry: &index::Marked| search.covers(entry.at_ms) && wanted.iter().any(|terms| entry.has(terms));
        Ok(marked.into_iter().filter(wanted).map(|entry| entry.row).collect())
    }

    /// The places in a slice of the index that have every term.
    fn common(&self, slice: i64, terms: &[Term]) -> Sql<Vec<u16>> {
        let mut places: Option<Vec<u16>> = None;
        for term in terms {
            let some = self.places(slice, *term)?;
            let both = match places {
                None => some,
                Some(places) => {
                    places.into_iter().filter(|place| some.binary_search(place).is_ok()).collect()
                }
            };
            if both.is_empty() {
                return Ok(both);
            }
            places = Some(both);
        }
        Ok(places.unwrap_or_default())
    }

    fn places(&self, slice: i64, term: Term) -> Sql<Vec<u16>> {
        let mut select = self.db.prepare_cached("SELECT postings FROM audit_term WHERE key = ?1")?;
        let mut rows = select.query([index::key(term.by, slice)])?;
        let Some(row) = rows.next()? else { return Ok(Vec::new()) };
        Ok(index::places(row.get_ref(0)?.as_blob()?, term.tag))
    }

    /// Looks at an entry itself, and ends the search when there are enough.
    fn look(&mut self, row: i64) -> Sql<ControlFlow<()>> {
        self.last = row;
        self.left = self.left.saturating_sub(1);
        if let Some(found) =
            self.read(row)?.filter(|found| self.query.search.lets_pass(self.query.tenant, found))
        {
            self.found.push(found);
        }
        let enough = self.found.len() >= self.query.limit as usize || self.left == 0;
        Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn read(&self, row: i64) -> Sql<Option<Audited>> {
        let mut select = self.db.prepare_cached("SELECT bytes, record FROM entry WHERE row = ?1")?;
        let mut rows = select.query([row])?;
        let Some(bytes) = rows.next()? else { return Ok(None) };
        let Some(entry) = Reading::of(bytes.get_ref(0)?.as_blob()?) else { return Ok(None) };
        let about = match entry.action {
            Some(action) => match readable(read::owner(self.db, action))? {
                Some(Some(owner)) => About::Action(Box::new(owner)),
                Some(None) => return Ok(None),
                // It keeps nobody from the others.
                None => {
                    tracing::error!(%action, entry = row, "a stored action cannot be read and its entry is left out");
                    return Ok(None);
                }
            },
            None => About::Event,
        };
        Ok(Some(Audited::new(row, &entry, bytes.get(1)?, about)))
    }
}
