//! Walking the store: is every entry there, in order, and is what it names what is stored?
//!
//! One stretch of the chain at a time, so that whoever walks it can be told how far they are, and nobody waits for a
//! reader's connection for long. What is wrong is told where it is, and the walk goes on behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use action::ActionId;
use receipt::Timestamp;
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::Known;
use super::index::{self, SLICE, Slice};
use super::read::{self, Garbled, Heard, Kept, Sql, Standing, readable};
use super::{governed, session};
use crate::entry::{
    PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, RESOLVED, Reading, Said, sealed, session_of,
};
use crate::erasure::ERASED;
use crate::governed::A_YEAR_MS;
use crate::log::Passed;
use crate::pruned::Pruned;
use crate::stand::{goes_on, writes_row};
use crate::step::{Left, Mark, Step};
use crate::{
    Authority, Broken, Error, Finding, Inspected, Labels, Place, Stored, Testimony, Verified, Walk, Witness,
};

/// The whole chain, up to the first thing that is wrong.
pub(crate) fn all(db: &Connection) -> Result<Verified, Error> {
    let transaction = db.unchecked_transaction().map_err(super::unreadable)?;
    let mut verified = Verified { entries: 0, receipts: 0, approvals: 0, head: None };
    let (mut place, mut left) = (Place::default(), Left::default());
    loop {
        let (stretch, now) = stretch(&transaction, place, left).map_err(super::unreadable)?;
        if let Some(finding) = stretch.findings.into_iter().next() {
            return Err(Error::Chain { row: finding.entry, broken: finding.broken });
        }
        verified.entries += stretch.entries;
        verified.receipts += stretch.receipts;
        verified.approvals += stretch.approvals;
        verified.head = stretch.head.or(verified.head);
        match stretch.next {
            Some(next) => (place, left) = (next, now),
            None => return Ok(verified),
        }
    }
}

/// Walks that somebody outside is on: where each has come to, and how actions were left by there. One that is not here is
/// walked once more up to its place.
#[derive(Default)]
pub(crate) struct Walks(Mutex<VecDeque<(i64, Left)>>);

impl Walks {
    /// So many at once go on without that.
    const MOST: usize = 16;

    fn take(&self, slice: i64) -> Option<Left> {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest: what an older walk has come to may have been altered since, and put back.
        let at = walks.iter().rposition(|(at, _)| *at == slice)?;
        walks.remove(at).map(|(_, left)| left)
    }

    fn put(&self, slice: i64, left: Left) {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        walks.push_back((slice, left));
        if walks.len() > Walks::MOST {
            walks.pop_front();
        }
    }
}

/// The stretch behind a place, for whoever goes on from there.
pub(crate) fn inspect(db: &Connection, walks: &Walks, after: Place) -> Sql<Inspected> {
    let left = match walks.take(slice_behind(after)) {
        Some(left) => left,
        None => left_by(db, slice_behind(after))?,
    };
    let (found, left) = stretch(db, after, left)?;
    if let Some(next) = found.next {
        walks.put(slice_behind(next), left);
    }
    Ok(found)
}

/// How actions were left where this slice begins.
fn left_by(db: &Connection, slice: i64) -> Sql<Left> {
    let (mut place, mut left) = (Some(Place::default()), Left::default());
    while let Some(after) = place.filter(|after| slice_behind(*after) < slice) {
        let (found, now) = stretch(db, after, left)?;
        (place, left) = (found.next, now);
    }
    Ok(left)
}

fn slice_behind(after: Place) -> i64 {
    if after.row > 0 { (after.row + 1) >> SLICE } else { 0 }
}

/// The entries of the slice that follows on `after`, and how actions were left by their end. `left`: by its beginning.
fn stretch(db: &Connection, after: Place, left: Left) -> Sql<(Inspected, Left)> {
    let slice = slice_behind(after);
    let mut look = Look::begin(db, after, slice, left)?;
    let sql = "SELECT row, bytes, record FROM entry WHERE row >= ?1 AND row < ?2 ORDER BY row";
    let mut select = db.prepare_cached(sql)?;
    let mut entries = select.query([slice << SLICE, (slice + 1) << SLICE])?;
    while let Some(entry) = entries.next()? {
        look.entry(entry.get(0)?, entry.get_ref(1)?.as_blob()?, entry.get_ref(2)?.as_blob_or_null()?)?;
    }
    look.end()
}

/// One stretch, looked at.
struct Look<'a> {
    db: &'a Connection,
    slice: i64,
    walk: Walk,
    /// The row that comes next.
    expected: i64,
    /// What is stored with the entries of the stretch, by entry.
    actions: BTreeMap<i64, Vec<Option<ActionId>>>,
    outcomes: BTreeMap<i64, Vec<Kept>>,
    approvals: BTreeMap<i64, Vec<Heard>>,
    /// Where actions were left so far.
    left: Left,
    /// Entries with which something came that cannot be read.
    garbled: BTreeSet<i64>,
    passkeys: Passkeys,
    logs: Passed,
    gone: Gone,
    /// Are all actions of the stretch there? Then the index can be made anew and compared.
    whole: bool,
    found: Inspected,
}

impl<'a> Look<'a> {
    fn begin(db: &'a Connection, after: Place, slice: i64, left: Left) -> Sql<Look<'a>> {
        let (first, end) = (slice << SLICE, (slice + 1) << SLICE);
        let last = read::last_row(db, "entry")?.unwrap_or(0);
        let mut walk = Walk::default();
        if first > 0 {
            let before = "SELECT bytes FROM entry WHERE row = ?1";
            let before: Option<Vec<u8>> = read::one(db, before, [first - 1], |row| row.get(0))?;
            walk.resume(before.as_deref());
        }
        let end = (end <= last).then_some(end);
        let rows = |table| read::rows_of(db, table, first, end);
        let mut garbled = Vec::new();
        let actions = apart(read::beginnings(db, &rows("action")?)?, &mut garbled);
        let outcomes = apart(read::kept_outcomes(db, &rows("outcome")?)?, &mut garbled);
        let approvals = apart(read::heard(db, &rows("approval")?)?, &mut garbled);
        let mut look = Look {
            db,
            slice,
            walk,
            expected: first.max(1),
            actions: by_entry(actions),
            outcomes: by_entry(outcomes.into_iter().map(|kept| (kept.entry, kept))),
            approvals: by_entry(approvals.into_iter().map(|heard| (heard.entry, heard))),
            left,
            garbled: BTreeSet::new(),
            passkeys: Passkeys::default(),
            logs: super::log::passed(db, first..(slice + 1) << SLICE)?,
            gone: Gone { told: read::prunings(db)?, by_now: Place { row: last, ..after } },
            whole: true,
            found: Inspected { last, ..Inspected::default() },
        };
        garbled.into_iter().try_for_each(|garbled| look.garbled(garbled, first.max(1)))?;
        Ok(look)
    }

    /// A row that cannot be read is told of with the entry that it came with; or else where its action began, or `here`.
    fn garbled(&mut self, Garbled { entry, action }: Garbled, here: i64) -> Sql<()> {
        let standing = action.map_or(Ok(None), |action| readable(read::standing(self.db, action)))?.flatten();
        let entry = entry.or(standing.map(|standing| standing.entry)).unwrap_or(here);
        self.garbled.insert(entry);
        self.unreadable(entry, action)
    }

    fn unreadable(&mut self, entry: i64, action: Option<ActionId>) -> Sql<()> {
        self.whole = false;
        let tenant = action.map_or(Ok(None), |action| read::tenant_of(self.db, action))?;
        self.found.findings.push(Finding { entry, action, tenant, broken: Broken::Unreadable });
        Ok(())
    }

    fn entry(&mut self, row: i64, bytes: &[u8], record: Option<&[u8]>) -> Sql<()> {
        if row != self.expected {
            self.report(row, None, None, Broken::Missing);
            self.walk.resume(None);
            self.pass_over(self.expected..row);
        }
        self.expected = row + 1;
        let said = match self.walk.step(bytes) {
            Ok(said) => said,
            Err(broken) => {
                let action = Reading::of(bytes).and_then(|entry| entry.action);
                self.report(row, action, None, broken);
                self.walk.pass_over(bytes);
                self.pass_over(row..row + 1);
                return Ok(());
            }
        };
        let session = self.session(row, bytes)?;
        self.passkeys.told(row, said.event);
        if self.logs.lacks(row, bytes) {
            self.report(row, said.action, None, Broken::Unlogged);
        }
        // What an entry of an action names is looked at with its rows.
        if (record.is_some() || said.action.is_none() || said.event == ERASED)
            && record.map(|record| Sha256::digest(record).into()) != said.action_hash
        {
            self.report(row, None, None, Broken::Record);
        } else if let Some(record) = record
            && !super::cluster::fits(self.db, row, said.event, record)?
        {
            self.report(row, None, None, Broken::Cluster);
        } else if let Some(record) = record
            && !session::limits_fit(self.db, row, said.event, record)?
        {
            self.report(row, None, None, Broken::Session);
        } else if let Some(record) = record
            && let Some(session) = session
            && !governed::declared_so(self.db, (row, session), said.event, record)?
        {
            self.report(row, None, None, Broken::Governed);
        }
        match said.action {
            Some(action) => self.rows(row, action, &said, session),
            None => Ok(()),
        }
    }

    /// Does it stand in its session where the row says that it does? Answers with the key of that. Who signed it is for others
    /// to say.
    fn session(&mut self, row: i64, bytes: &[u8]) -> Sql<Option<i64>> {
        let said = session_of(bytes).map(|said| (said.id, said.seq));
        let (key, kept) = session::place_at(self.db, row)?.unzip();
        if said != kept {
            self.report(row, None, None, Broken::Session);
        }
        self.found.sealed.extend(sealed(row, bytes));
        Ok(key)
    }

    /// What is stored with entries that are missing, or cannot be believed, is not compared with them.
    fn pass_over(&mut self, rows: Range<i64>) {
        self.whole = false;
        self.left.lose(rows.end - 1);
        self.passkeys.unknown.push(rows.clone());
        self.actions.retain(|row, _| !rows.contains(row));
        self.outcomes.retain(|row, _| !rows.contains(row));
        self.approvals.retain(|row, _| !rows.contains(row));
    }

    /// What is stored with an entry of an action.
    fn rows(&mut self, row: i64, action: ActionId, said: &Said<'_>, session: Option<i64>) -> Sql<()> {
        let actions = self.actions.remove(&row).unwrap_or_default();
        let outcomes = self.outcomes.remove(&row).unwrap_or_default();
        let approvals = self.approvals.remove(&row).unwrap_or_default();
        if self.garbled.contains(&row) {
            self.left.doubt(action);
            return Ok(());
        }
        let Some(standing) = readable(read::standing(self.db, action))? else {
            self.left.doubt(action);
            return self.unreadable(row, Some(action));
        };
        let broken = [
            actions.iter().any(|id| *id != Some(action)).then_some(Broken::Action),
            self.action(row, standing.as_ref(), !outcomes.is_empty() || !approvals.is_empty()),
            self.outcome(row, action, said, &outcomes),
            self.listed(&outcomes, standing.as_ref())?,
            self.approval(row, action, said, &approvals, standing.as_ref()),
            standing.as_ref().and_then(|standing| fate(row, said, !outcomes.is_empty(), standing)),
            standing.as_ref().filter(|it| it.entry == row).and_then(|it| arrival(said, it)),
            self.way(row, action, standing.as_ref())?,
            self.erasure(row, action, said, &outcomes, standing.as_ref())?,
            altered(&outcomes),
            self.cycle(row, session, standing.as_ref())?,
        ];
        // What follows from one thing being gone is not told as if it were another.
        let broken = match broken.into_iter().flatten().next() {
            Some(broken) => {
                self.left.doubt(action);
                Some(broken)
            }
            None => self.step(row, action, said, &outcomes, standing.as_ref())?,
        };
        if let Some(broken) = broken {
            self.report(row, Some(action), standing.as_ref(), broken);
        } else if let Some(standing) = standing {
            self.witness(row, action, said, standing, outcomes, approvals)?;
        }
        Ok(())
    }

    /// Does it lead on from where the entries before it left its action?
    fn step(
        &mut self,
        row: i64,
        action: ActionId,
        said: &Said<'_>,
        outcomes: &[Kept],
        standing: Option<&Standing>,
    ) -> Sql<Option<Broken>> {
        let Some(standing) = standing else {
            self.left.forget(action);
            return Ok(None);
        };
        // What came of it is gone, and may be.
        if outcomes.is_empty() && said.receipt_hash.is_some() {
            self.left.doubt(action);
            return Ok(None);
        }
        let from = match self.left.mark(action) {
            Some(mark) => mark,
            None if standing.entry == row => Mark::NONE,
            None => self.left.by_outcome(read::outcome_before(self.db, standing.stand.outcome, row)?),
        };
        let step = Step::of(said, outcomes.first().map(|kept| kept.state));
        Ok((!self.left.take(action, from, step)).then_some(Broken::Step))
    }

    /// Does the row that has an action in a session say so where its first entry does?
    fn cycle(&self, row: i64, session: Option<i64>, standing: Option<&Standing>) -> Sql<Option<Broken>> {
        let Some(standing) = standing.filter(|standing| standing.entry == row) else { return Ok(None) };
        let of = read::one(self.db, "SELECT session FROM cycle WHERE action = ?1", [standing.row], |it| {
            it.get(0)
        })?;
        Ok((of != session).then_some(Broken::Governed))
    }

    fn action(&mut self, row: i64, standing: Option<&Standing>, others: bool) -> Option<Broken> {
        if standing.is_some() {
            return None;
        }
        self.whole = false;
        (others || !self.gone.may_lack_action(row)).then_some(Broken::NoAction)
    }

    /// Does the row name a later entry of the action, and one that came with a row, where it says with which one it was last
    /// written? Looked at once, where it began.
    fn way(&self, row: i64, action: ActionId, standing: Option<&Standing>) -> Sql<Option<Broken>> {
        let named =
            standing.filter(|standing| standing.entry == row).and_then(|standing| standing.stand.moved);
        let Some(named) = named else { return Ok(None) };
        if named <= row || named > self.found.last {
            return Ok(Some(Broken::Fate));
        }
        let sql = "SELECT bytes FROM entry WHERE row = ?1";
        let bytes: Option<Vec<u8>> = read::one(self.db, sql, [named], |row| row.get(0))?;
        // One that is missing, or cannot be read, is told of at its place.
        let Some(entry) = bytes.as_deref().and_then(Reading::of) else { return Ok(None) };
        let fits = entry.action == Some(action)
            && writes_row(entry.event)
            && read::rows_of(self.db, "outcome", named, Some(named + 1))?.is_empty();
        Ok((!fits).then_some(Broken::Fate))
    }

    /// Is an action empty exactly where an entry says that it was erased? Looked at where it began, where something came
    /// of it, and where it was erased.
    fn erasure(
        &self,
        row: i64,
        action: ActionId,
        said: &Said<'_>,
        outcomes: &[Kept],
        standing: Option<&Standing>,
    ) -> Sql<Option<Broken>> {
        let Some(Standing { entry, erased, empty, .. }) = standing else { return Ok(None) };
        let as_told = |it: &Kept| if erased.is_some() { it.all_gone } else { !it.some_gone };
        let mut fits = outcomes.iter().all(as_told) && (said.event != ERASED || *erased == Some(row));
        if *entry == row {
            fits &= *empty == erased.is_some() && self.tells_of_erasure(*erased, action)?;
        }
        Ok((!fits).then_some(Broken::Erased))
    }

    /// Is there nothing to tell, or is this the entry that does? One that is missing is told of at its place.
    fn tells_of_erasure(&self, entry: Option<i64>, action: ActionId) -> Sql<bool> {
        let Some(entry) = entry else { return Ok(true) };
        let sql = "SELECT bytes FROM entry WHERE row = ?1";
        let bytes: Option<Vec<u8>> = read::one(self.db, sql, [entry], |row| row.get(0))?;
        let told = bytes.as_deref().and_then(Reading::of);
        Ok(told.is_some_and(|told| told.event == ERASED && told.action == Some(action)))
    }

    /// Is the receipt that is stored the one that the entry names?
    fn outcome(&mut self, row: i64, action: ActionId, said: &Said<'_>, outcomes: &[Kept]) -> Option<Broken> {
        if outcomes.len() > 1 || outcomes.iter().any(|kept| kept.action != Some(action)) {
            return Some(Broken::Outcome);
        }
        let receipt = outcomes.first().and_then(|kept| kept.receipt.as_ref());
        match receipt.map(|receipt| <[u8; 32]>::from(Sha256::digest(&receipt.document))) {
            hash if hash == said.receipt_hash => {
                self.found.receipts += u64::from(hash.is_some());
                None
            }
            Some(_) => Some(Broken::Receipt),
            None if outcomes.is_empty() && self.gone.may_lack(row) => {
                self.gone.by_now.receipts += 1;
                None
            }
            None => Some(Broken::NoReceipt),
        }
    }

    /// Is it found when the outcomes of its action are read?
    fn listed(&self, outcomes: &[Kept], standing: Option<&Standing>) -> Sql<Option<Broken>> {
        let (Some(kept), Some(standing)) = (outcomes.first(), standing) else { return Ok(None) };
        let listed = read::is_listed(self.db, standing.stand.outcome, kept.row)?;
        Ok((!listed).then_some(Broken::Unlisted))
    }

    /// Is there one person's word where the entry says so, and the one that it names?
    fn approval(
        &mut self,
        row: i64,
        action: ActionId,
        said: &Said<'_>,
        approvals: &[Heard],
        standing: Option<&Standing>,
    ) -> Option<Broken> {
        let erased = standing.is_some_and(|standing| standing.erased.is_some());
        let fits = match (said.decides(), approvals) {
            (false, approvals) => approvals.is_empty(),
            (true, [heard]) if erased => heard.action == Some(action) && heard.record.is_empty(),
            (true, []) if self.gone.may_lack(row) => {
                self.gone.by_now.approvals += 1;
                true
            }
            (true, [heard]) => {
                self.found.approvals += 1;
                heard.action == Some(action) && said.action_hash == Some(Sha256::digest(&heard.record).into())
            }
            (true, _) => false,
        };
        (!fits).then_some(Broken::Approval)
    }

    /// Hands on what others have to compare.
    fn witness(
        &mut self,
        entry: i64,
        action: ActionId,
        said: &Said<'_>,
        standing: Standing,
        outcomes: Vec<Kept>,
        approvals: Vec<Heard>,
    ) -> Sql<()> {
        let mut testimonies = Vec::new();
        // The entry that the row was last written with. That of one that was judged again tells of that, as do the entries of
        // its outcomes; in older stores no such entry is known.
        let later = || {
            if standing.resumed { standing.stand.last.map(|(entry, _)| entry) } else { Some(standing.entry) }
        };
        let telling = standing.stand.moved.or_else(later);
        if telling == Some(entry) {
            match self.row_at(standing.row)? {
                Some((stored, labels)) => {
                    let (stored, labels) = (Box::new(stored), Box::new(labels));
                    let outcome = outcomes.first().map(|kept| kept.payload.clone());
                    let action_hash = said.action_hash;
                    testimonies.push(Testimony::Action { stored, labels, action_hash, outcome });
                }
                None => self.unreadable(entry, Some(action))?,
            }
        }
        let Standing { row: row_of, tenant, subject, archetype, key, .. } = standing;
        let kept = approvals.into_iter().filter(|heard| !heard.record.is_empty());
        testimonies.extend(kept.map(|heard| Testimony::Approval {
            round: heard.round,
            approver: heard.approver,
            event: said.event.into(),
            record: heard.record,
        }));
        if let Some(Kept { receipt, state, payload, .. }) = outcomes.into_iter().next() {
            let asked = (said.event == RESOLVED).then(|| self.row_at(row_of)).transpose()?;
            // A row that cannot be read is told of with the entry that it was last written with.
            if !payload.is_empty() && asked.as_ref().is_none_or(Option::is_some) {
                let asked = asked.flatten().map(|(stored, _)| Box::new(stored));
                let settled = asked.map(|asked| (asked, receipt.clone()));
                testimonies.push(Testimony::Outcome { payload, settled });
            }
            if let Some(receipt) = receipt {
                let (event, said) = (said.event.into(), said.state.map(Box::from));
                let of = Testimony::Receipt { subject, archetype, key, state, event, said, receipt };
                testimonies.push(of);
            }
        }
        let witness = |testimony| Witness { entry, action, tenant: tenant.clone(), testimony };
        self.found.witnesses.extend(testimonies.into_iter().map(witness));
        Ok(())
    }

    /// The row of an action and what it is listed by, if they can be read.
    fn row_at(&self, row: i64) -> Sql<Option<(Stored, Labels)>> {
        let stored = readable(read::action_at(self.db, row))?.flatten();
        let labels = readable(read::labels_at(self.db, row))?.flatten();
        Ok(stored.zip(labels))
    }

    fn end(mut self) -> Sql<(Inspected, Left)> {
        let (last, end) = (self.found.last, (self.slice + 1) << SLICE);
        let is_last = end > last;
        if !is_last && self.expected < end {
            self.report(end, None, None, Broken::Missing);
            self.pass_over(self.expected..end);
        }
        self.strays();
        let first = self.slice << SLICE;
        for row in
            std::mem::take(&mut self.passkeys).unlike(self.db, first..if is_last { i64::MAX } else { end })?
        {
            self.report(row, None, None, Broken::Passkey);
        }
        if self.whole
            && !is_last
            && self.found.findings.is_empty()
            && self.slice < index::end(self.db)?
            // What cannot be read is told of with the entry that it was last written with.
            && let Some(slice) = readable(Slice::read(self.db, &mut Known::new(1 << SLICE), self.slice))?
            && !slice.is_stored(self.db)?
        {
            self.report((self.slice << SLICE).max(1), None, None, Broken::Index);
        }
        if is_last {
            let gaps = session::with_gaps(self.db)?;
            for row in gaps.into_iter().chain(session::limited_by_nobody(self.db)?) {
                self.report(row, None, None, Broken::Session);
            }
            for row in governed::unlike(self.db, !self.gone.told.is_empty())? {
                self.report(row, None, None, Broken::Governed);
            }
            for row in super::cluster::strays(self.db)? {
                self.report(row, None, None, Broken::Cluster);
            }
        }
        if is_last && let Some(row) = self.gone.too_much(self.db)? {
            self.report(row, None, None, Broken::Pruned);
        }
        self.found.findings.sort_by_key(|finding| finding.entry);
        self.found.entries = self.walk.entries();
        self.found.head = self.walk.head();
        if is_last {
            self.found.authority = Some(Box::new(authority(self.db, None)?));
        }
        self.found.next = (!is_last).then_some(Place { row: end - 1, ..self.gone.by_now });
        self.left.lighten();
        Ok((self.found, self.left))
    }

    /// What names entries that are not there, or are not those of an action, or elsewhere: cut off at the end, or forged.
    fn strays(&mut self) {
        let last = self.found.last;
        let of = |entry: i64, broken| (entry, if entry > last { Broken::Missing } else { broken });
        let actions = std::mem::take(&mut self.actions).into_keys().map(|entry| of(entry, Broken::Action));
        let outcomes = std::mem::take(&mut self.outcomes).into_keys().map(|entry| of(entry, Broken::Outcome));
        let approvals =
            std::mem::take(&mut self.approvals).into_keys().map(|entry| (entry, Broken::Approval));
        let mut strays: BTreeMap<i64, Broken> = actions.chain(outcomes).collect();
        for (entry, broken) in approvals {
            strays.entry(entry).or_insert(broken);
        }
        // Of what was cut off the first is enough.
        let beyond = strays.split_off(&(last + 1)).into_iter().next();
        for (entry, broken) in strays.into_iter().chain(beyond) {
            self.report(entry, None, None, broken);
        }
    }

    fn report(&mut self, entry: i64, action: Option<ActionId>, standing: Option<&Standing>, broken: Broken) {
        let tenant = standing.map(|standing| standing.tenant.clone());
        self.found.findings.push(Finding { entry, action, tenant, broken });
    }
}

/// Is the outcome that came with the entry all that it names? One that is erased leaves nothing to compare.
fn altered(outcomes: &[Kept]) -> Option<Broken> {
    outcomes.first().filter(|kept| !kept.all_gone && !kept.whole).map(|_| Broken::Altered)
}

/// Does the action stand where its entries leave it?
fn fate(row: i64, said: &Said<'_>, settles: bool, standing: &Standing) -> Option<Broken> {
    let (stand, goes_on) = (&standing.stand, goes_on(said.event));
    let fits = match stand.newest() {
        // Nothing that went on with it, and is no outcome, comes after the one that is named as the last, whatever came of it
        // since: the row is compared with that one, and must not pass for what it was before.
        _ if goes_on && !settles && Some(row) > stand.moved => false,
        // Where its last outcome is missing, that one's own entry tells.
        _ if stand.outcome.is_some() && stand.last.is_none() => true,
        // Whatever goes on with it is the newest thing there is, until something came of it.
        newest if goes_on && Some(row) > newest => false,
        newest => newest.unwrap_or(standing.entry) != row || stand.is_left_by(said.event),
    };
    (!fits).then_some(Broken::Fate)
}

/// Did the action come in when its first entry was written, near enough? Clocks are set now and then, and by less.
fn arrival(said: &Said<'_>, standing: &Standing) -> Option<Broken> {
    let written = i64::try_from(Timestamp::parse(said.at).ok()?.unix_millis()).ok()?;
    (written.abs_diff(standing.at_ms) > A_YEAR_MS).then_some(Broken::Arrival)
}

/// What the entries of a stretch say of passkeys: which events there are, each of which exactly one row names. So none
/// can be added, given out as enrolled or kept from its end without an entry.
#[derive(Default)]
struct Passkeys {
    told: BTreeSet<(i64, &'static str)>,
    /// Entries that cannot be believed, or are missing.
    unknown: Vec<Range<i64>>,
}

impl Passkeys {
    fn told(&mut self, entry: i64, event: &str) {
        let kinds = [PASSKEY_REGISTERED, PASSKEY_ENROLLED, PASSKEY_REVOKED];
        self.told.extend(kinds.into_iter().find(|kind| *kind == event).map(|kind| (entry, kind)));
    }

    /// The entries of the stretch that rows and chain do not agree on.
    fn unlike(mut self, db: &Connection, stretch: Range<i64>) -> Sql<BTreeSet<i64>> {
        let mut rows = db.prepare_cached("SELECT registered, enrolled, revoked FROM passkey ORDER BY row")?;
        let mut rows = rows.query([])?;
        let mut unlike = BTreeSet::new();
        while let Some(row) = rows.next()? {
            for (column, kind) in
                [PASSKEY_REGISTERED, PASSKEY_ENROLLED, PASSKEY_REVOKED].into_iter().enumerate()
            {
                let named: Option<i64> = row.get(column)?;
                unlike.extend(
                    named.filter(|entry| stretch.contains(entry) && !self.told.remove(&(*entry, kind))),
                );
            }
        }
        unlike.extend(self.told.iter().map(|(entry, _)| *entry));
        unlike.retain(|entry| !self.unknown.iter().any(|rows| rows.contains(entry)));
        Ok(unlike)
    }
}

/// What is not there any more. Only entries of the chain can say that it may be, and those come later.
struct Gone {
    /// Every pruning that the chain tells of, with its entry.
    told: Vec<(i64, Pruned)>,
    by_now: Place,
}

impl Gone {
    /// May the receipt or approval of this entry be gone?
    fn may_lack(&self, entry: i64) -> bool {
        self.told.iter().any(|(row, pruned)| *row > entry && pruned.highest_entry >= entry)
    }

    /// May the action of this entry be gone?
    fn may_lack_action(&self, entry: i64) -> bool {
        self.told.last().is_some_and(|(row, _)| *row > entry)
    }

    /// The last entry that tells of pruning, if more is gone than all of them say.
    fn too_much(&self, db: &Connection) -> Sql<Option<i64>> {
        let Some((row, _)) = self.told.last() else { return Ok(None) };
        let sum =
            |of: fn(&Pruned) -> u64| self.told.iter().fold(0_u64, |sum, (_, it)| sum.saturating_add(of(it)));
        let highest = self.told.iter().map(|(_, it)| it.highest_action).max();
        let highest = highest.max(read::last_row(db, "action")?).unwrap_or(0);
        // Actions are numbered without a gap.
        let actions = highest.saturating_sub(read::count_actions(db)?);
        let too_much = self.by_now.receipts > sum(|it| it.receipts)
            || self.by_now.approvals > sum(|it| it.approvals)
            || u64::try_from(actions).unwrap_or(0) > sum(|it| it.actions);
        Ok(too_much.then_some(*row))
    }
}

/// What is asked for authority, and the entries that tell of it: all, or those of these events.
pub(crate) fn authority(db: &Connection, events: Option<&[&str]>) -> Sql<Authority> {
    let mut illegible = Vec::new();
    Ok(Authority {
        enacted: read::enacted(db, events)?,
        keys: apart(read::keys(db, None)?, &mut illegible),
        mandates: apart(read::all_mandates(db)?, &mut illegible),
        principal_keys: apart(read::principal_keys(db)?, &mut illegible),
        freezes: apart(read::freezes(db)?, &mut illegible),
        passkeys: apart(read::passkeys(db, None, None)?, &mut illegible),
        illegible,
    })
}

/// Those that can be read.
fn apart<T, E>(rows: Vec<Result<T, E>>, garbled: &mut Vec<E>) -> Vec<T> {
    rows.into_iter().filter_map(|row| row.map_err(|it| garbled.push(it)).ok()).collect()
}

fn by_entry<T>(all: impl IntoIterator<Item = (i64, T)>) -> BTreeMap<i64, Vec<T>> {
    let mut found: BTreeMap<i64, Vec<T>> = BTreeMap::new();
    for (entry, one) in all {
        found.entry(entry).or_default().push(one);
    }
    found
}
