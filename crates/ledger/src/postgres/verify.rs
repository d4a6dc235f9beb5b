//! Walking the store: does every chain hold, and is what its entries name what is stored?
//!
//! One stretch of entries at a time, in the order of their numbers, so that the chains of all processes are walked beside each
//! other. What belongs to a stretch is read at once. What is wrong is told where it is, and the walk goes on behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use action::{ActionId, Subject, Tenant};
use mandate::ApprovedLimits;
use receipt::Timestamp;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use super::governed;
use super::load::{CLUSTER, clustered_at, limits_at, with_members};
use super::read::{STORED, is_whole, kept, labels, readable, stand, stand_at, stored_at};
use super::replica::horizon;
use super::rules::{self, Legible};
use super::sql::{
    Db, Done, Failure, at_once, count, get, id, many, maybe_bytes, maybe_text, one, patiently, state,
    subject, tenant, text,
};
use crate::cluster::said_in;
use crate::entry::{
    PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, RESOLVED, Reading, Said, sealed, session_of,
};
use crate::erasure::ERASED;
use crate::governed::{A_YEAR_MS, declared_so};
use crate::log::Passed;
use crate::packed::unpack;
use crate::pruned::Pruned;
use crate::session::{LIMITED, says_limits};
use crate::stand::{Stand, goes_on, writes_row};
use crate::step::{Left, Mark, Step};
use crate::{
    Authority, Broken, Clustered, Enacted, Error, Finding, Illegible, Inspected, Labels, Place, Receipt,
    State, Stored, Testimony, Verified, Walk, Witness,
};

/// Entries of a stretch.
const STRETCH: i64 = 1024;

/// Walks that somebody outside is on: where each has come to, and how actions were left by there. One that is not here is
/// walked once more up to its place.
#[derive(Default)]
pub(super) struct Walks(Mutex<VecDeque<(i64, Left)>>);

impl Walks {
    /// So many at once go on without that.
    const MOST: usize = 16;

    fn take(&self, place: i64) -> Option<Left> {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = walks.iter().rposition(|(at, _)| *at == place)?;
        walks.remove(at).map(|(_, left)| left)
    }

    fn put(&self, place: i64, left: Left) {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        walks.push_back((place, left));
        if walks.len() > Walks::MOST {
            walks.pop_front();
        }
    }
}

/// The whole of it, up to the first thing that is wrong.
pub(super) async fn all(db: &Db) -> Done<Result<Verified, Error>> {
    let mut verified = Verified { entries: 0, receipts: 0, approvals: 0, head: None };
    let (mut place, mut left) = (Place::default(), Left::default());
    loop {
        let (found, now) = stretch(db, place, left).await?;
        if let Some(Finding { entry: row, broken, .. }) = found.findings.into_iter().next() {
            return Ok(Err(Error::Chain { row, broken }));
        }
        verified.entries += found.entries;
        verified.receipts += found.receipts;
        verified.approvals += found.approvals;
        verified.head = found.head.or(verified.head);
        match found.next {
            Some(next) => (place, left) = (next, now),
            None => return Ok(Ok(verified)),
        }
    }
}

/// The stretch behind a place, for whoever goes on from there.
pub(super) async fn inspect(db: &Db, walks: &Walks, after: Place) -> Done<Inspected> {
    let left = match walks.take(after.row) {
        Some(left) => left,
        None => left_by(db, after.row).await?,
    };
    let (found, left) = stretch(db, after, left).await?;
    if let Some(next) = found.next {
        walks.put(next.row, left);
    }
    Ok(found)
}

/// How actions were left by this entry.
async fn left_by(db: &Db, row: i64) -> Done<Left> {
    let (mut place, mut left) = (Some(Place::default()), Left::default());
    while let Some(after) = place.filter(|after| after.row < row) {
        let (found, now) = stretch(db, after, left).await?;
        (place, left) = (found.next, now);
    }
    Ok(left)
}

/// Rows and entries of one moment: what is being written meanwhile would look as if somebody had altered it.
async fn stretch(db: &Db, after: Place, left: Left) -> Done<(Inspected, Left)> {
    at_once(db, patiently(db, LONGEST, stretch_of(db, after, left))).await
}

/// The longest that a statement of a walk takes: some read whole tables, however large the store has grown.
const LONGEST: Duration = Duration::from_secs(600);

async fn stretch_of(db: &Db, after: Place, left: Left) -> Done<(Inspected, Left)> {
    let last = horizon(db).await?;
    let sql = "SELECT row, slot, bytes, record, action FROM entry WHERE row > $1 AND row <= $2 ORDER BY row LIMIT $3";
    let entries = many(db, sql, &[&after.row, &last, &STRETCH]).await?;
    let mut look = Look::begin(db, after, last, &entries, left).await?;
    for row in &entries {
        look.entry(row)?;
    }
    let end = (entries.len() as i64 == STRETCH).then(|| entries.last().map(|row| get::<i64>(row, 0)));
    look.end(db, end.flatten().transpose()?).await
}

/// An action as its rows say it stands.
struct Standing {
    tenant: Tenant,
    subject: Subject,
    archetype: Box<str>,
    key: Option<Box<str>>,
    entry: i64,
    at_ms: i64,
    /// Is what was asked gone?
    empty: bool,
    erased: Option<i64>,
    /// Is there nothing to tell of its erasure, or an entry that does?
    told: bool,
    /// Is the entry that its row was last written with one of its own, that writes rows, and no outcome?
    moves: bool,
    stand: Stand,
    session: Option<i64>,
    stored: Option<(Stored, Labels)>,
}

/// An outcome as it is stored.
struct Kept {
    action: Option<ActionId>,
    state: State,
    receipt: Option<Receipt>,
    all_gone: bool,
    some_gone: bool,
    payload: Vec<u8>,
    whole: bool,
}

/// A person's word as it is stored.
struct Heard {
    action: Option<ActionId>,
    round: u32,
    approver: Box<str>,
    record: Vec<u8>,
}

/// Where an entry is in its session.
struct Spot {
    session: i64,
    id: String,
    seq: u64,
    /// The newest entry that says what limits the session has, and those.
    limited: Option<(i64, ApprovedLimits)>,
    /// The number that the session has come to, if its declaration is this entry's.
    declared: Option<i64>,
}

/// One stretch, with all that belongs to it.
struct Look {
    walks: HashMap<i16, Walk>,
    standings: HashMap<ActionId, Option<Standing>>,
    outcomes: BTreeMap<i64, Vec<Kept>>,
    /// By action: entry and state of all its outcomes, and the entry of the one that each says was before it.
    came: HashMap<ActionId, Vec<(i64, State, Option<i64>)>>,
    approvals: BTreeMap<i64, Vec<Heard>>,
    /// The place of entries in their sessions.
    places: HashMap<i64, Spot>,
    /// Clusters that records of this stretch tell of.
    clusters: Vec<Clustered>,
    logs: Passed,
    gone: Gone,
    left: Left,
    found: Inspected,
}

const STANDING: &str = concat!(
    "SELECT a.id, a.tenant, a.subject, a.archetype, a.key, a.entry, a.at, length(a.payload) = 0, a.erased, ",
    stand!(),
    ", c.session, x.bytes, m.bytes, EXISTS (SELECT 1 FROM outcome q WHERE q.action = a.id AND q.entry = f.moved)
     FROM action a JOIN fate f ON f.id = a.id LEFT JOIN outcome l ON l.action = a.id AND l.entry = f.outcome
     LEFT JOIN cycle c ON c.action = a.id LEFT JOIN entry x ON x.row = a.erased LEFT JOIN entry m ON m.row = f.moved
     WHERE a.id = ANY($1::bytea[])"
);
const KEPT: &str = concat!(
    "SELECT l.entry, l.action, l.state, l.receipt_id, l.short, l.signature, l.document,
     length(l.payload) = 0 AND coalesce(length(l.body), 0) = 0,
     length(l.payload) = 0 OR coalesce(length(l.body) = 0, FALSE), l.payload, ",
    kept!(),
    " FROM outcome l LEFT JOIN entry e ON e.row = l.entry LEFT JOIN entry b ON b.row = l.previous
     WHERE l.entry >= $1 AND l.entry <= $2 ORDER BY l.entry"
);

impl Look {
    async fn begin(db: &Db, after: Place, last: i64, entries: &[Row], left: Left) -> Done<Look> {
        let mut look = Look {
            walks: HashMap::new(),
            standings: HashMap::new(),
            outcomes: BTreeMap::new(),
            came: HashMap::new(),
            approvals: BTreeMap::new(),
            places: HashMap::new(),
            logs: Passed::default(),
            clusters: Vec::new(),
            gone: Gone { told: prunings(db).await?, by_now: Place { row: last, ..after } },
            left,
            found: Inspected { last, ..Inspected::default() },
        };
        let (Some(first), Some(end)) = (entries.first(), entries.last()) else { return Ok(look) };
        let (first, end): (i64, i64) = (get(first, 0)?, get(end, 0)?);
        look.logs = super::log::passed(db, first, end).await?;
        let slots = entries.iter().map(|row| get::<i16>(row, 1)).collect::<Done<BTreeSet<i16>>>()?;
        for slot in slots {
            let sql = "SELECT bytes FROM entry WHERE slot = $1 AND row < $2 ORDER BY row DESC LIMIT 1";
            let before = one(db, sql, &[&slot, &first]).await?;
            let mut walk = Walk::default();
            if let Some(before) = &before {
                walk.resume(Some(get(before, 0)?));
            }
            look.walks.insert(slot, walk);
        }
        let actions = entries.iter().map(|row| maybe_bytes::<16>(row, 4)).collect::<Done<BTreeSet<_>>>()?;
        let actions: Vec<Vec<u8>> = actions.into_iter().flatten().map(Vec::from).collect();
        look.read_standings(db, &actions).await?;
        look.read_outcomes(db, first, end, &actions).await?;
        for row in many(
            db,
            "SELECT entry, action, round, approver, record FROM approval WHERE entry >= $1 AND entry <= $2",
            &[&first, &end],
        )
        .await?
        {
            let heard = Heard {
                action: readable(id(&row, 1))?,
                round: count(&row, 2)?,
                approver: text(&row, 3)?,
                record: get(&row, 4)?,
            };
            look.approvals.entry(get(&row, 0)?).or_default().push(heard);
        }
        let sql = "SELECT r.entry, r.session, coalesce(s.id, ''), r.seq, s.limited, s.limit_minor, s.limit_currency, s.limit_until,
                   CASE WHEN d.entry IS NULL THEN NULL ELSE s.sequence END FROM record r
                   LEFT JOIN session s ON s.tenant = r.tenant AND s.key = r.session
                   LEFT JOIN declaration d ON d.tenant = r.tenant AND d.session = r.session AND d.entry = r.entry
                   WHERE r.entry >= $1 AND r.entry <= $2";
        for row in many(db, sql, &[&first, &end]).await? {
            let limits = readable(limits_at(&row, 5))?;
            let spot = Spot {
                session: get(&row, 1)?,
                id: get(&row, 2)?,
                seq: super::sql::number(&row, 3)?,
                limited: get::<Option<i64>>(&row, 4)?.zip(limits),
                declared: get(&row, 8)?,
            };
            look.places.insert(get(&row, 0)?, spot);
        }
        look.read_clusters(db, entries).await?;
        Ok(look)
    }

    async fn read_clusters(&mut self, db: &Db, entries: &[Row]) -> Done<()> {
        let mut named = BTreeSet::new();
        for row in entries {
            let (told, record): (Option<&[u8]>, Option<&[u8]>) = (get(row, 2)?, get(row, 3)?);
            let said = told.and_then(crate::event_of).zip(record);
            let said = said.and_then(|(event, record)| said_in(event, record));
            named.extend(said.map(|said| said.id().to_owned()));
        }
        if named.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = named.into_iter().collect();
        let sql = format!("{CLUSTER} WHERE id = ANY($1::text[])");
        for row in many(db, &sql, &[&named]).await? {
            if let Some(found) = readable(clustered_at(&row))? {
                self.clusters.push(with_members(db, found).await?);
            }
        }
        Ok(())
    }

    async fn read_standings(&mut self, db: &Db, actions: &[Vec<u8>]) -> Done<()> {
        let sql = format!("{STORED} WHERE a.id = ANY($1::bytea[])");
        let mut stored: HashMap<ActionId, Stored> = HashMap::new();
        for row in many(db, &sql, &[&actions]).await? {
            if let Some(found) = readable(stored_at(&row))? {
                stored.insert(found.id, found);
            }
        }
        let sql = "SELECT id, session, verb, target, level, regulations, refs FROM action WHERE id = ANY($1::bytea[])";
        let mut labelled: HashMap<ActionId, Labels> = HashMap::new();
        for row in many(db, sql, &[&actions]).await? {
            labelled.insert(id(&row, 0)?, labels(&row, 1)?);
        }
        for row in many(db, STANDING, &[&actions]).await? {
            let action = id(&row, 0)?;
            let stored = stored.remove(&action).zip(labelled.remove(&action));
            self.standings.insert(action, readable(standing_at(&row, stored))?);
        }
        Ok(())
    }

    async fn read_outcomes(&mut self, db: &Db, first: i64, end: i64, actions: &[Vec<u8>]) -> Done<()> {
        for row in many(db, KEPT, &[&first, &end]).await? {
            let entry: i64 = get(&row, 0)?;
            match readable(kept_at(&row))? {
                Some(kept) => self.outcomes.entry(entry).or_default().push(kept),
                None => self.report(entry, readable(id(&row, 1))?, None, Broken::Unreadable),
            }
        }
        let sql = "SELECT action, entry, state, previous FROM outcome WHERE action = ANY($1::bytea[]) ORDER BY entry";
        for row in many(db, sql, &[&actions]).await? {
            if let Some(state) = readable(state(&row, 2))? {
                let came = (get(&row, 1)?, state, get(&row, 3)?);
                self.came.entry(id(&row, 0)?).or_default().push(came);
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Row) -> Done<()> {
        let (row, slot): (i64, i16) = (get(entry, 0)?, get(entry, 1)?);
        let (bytes, record): (&[u8], Option<&[u8]>) = (get(entry, 2)?, get(entry, 3)?);
        let walk = self.walks.entry(slot).or_default();
        let said = match walk.step(bytes) {
            Ok(said) => said,
            Err(broken) => {
                walk.pass_over(bytes);
                let action = Reading::of(bytes).and_then(|entry| entry.action);
                self.report(row, action, None, broken);
                self.left.lose(row);
                self.outcomes.remove(&row);
                self.approvals.remove(&row);
                return Ok(());
            }
        };
        self.found.entries += 1;
        self.found.head = walk.head();
        if self.logs.lacks(row, bytes) {
            self.report(row, said.action, None, Broken::Unlogged);
        }
        let spot = self.places.remove(&row);
        let session = spot.as_ref().map(|spot| spot.session);
        let told = spot.as_ref().map(|spot| (spot.id.clone(), spot.seq));
        if session_of(bytes).map(|said| (said.id, said.seq)) != told {
            self.report(row, None, None, Broken::Session);
        }
        self.found.sealed.extend(sealed(row, bytes));
        // What an entry of an action names is looked at with its rows.
        if (record.is_some() || said.action.is_none() || said.event == ERASED)
            && record.map(|record| Sha256::digest(record).into()) != said.action_hash
        {
            self.report(row, None, None, Broken::Record);
        } else if let Some(record) = record
            && let Some(broken) = self.record(row, said.event, record, spot.as_ref())
        {
            self.report(row, None, None, broken);
        }
        if let Some(action) = said.action {
            self.rows(row, action, &said, session);
        }
        Ok(())
    }

    /// Do rows stand as a record says that they do, or as a later one does?
    fn record(&self, row: i64, event: &str, record: &[u8], spot: Option<&Spot>) -> Option<Broken> {
        if let Some(said) = said_in(event, record) {
            let mut of = self.clusters.iter().filter(|it| *it.cluster.id == *said.id() && it.entry >= row);
            if !of.any(|it| it.entry > row || said.is(&it.cluster)) {
                return Some(Broken::Cluster);
            }
        }
        let newest = spot.and_then(|spot| spot.limited.as_ref());
        let limited = |(newest, limits): &(i64, ApprovedLimits)| {
            *newest > row || (*newest == row && says_limits(record, *limits))
        };
        if event == LIMITED && !newest.is_some_and(limited) {
            return Some(Broken::Session);
        }
        let spot = spot?;
        (!declared_so(event, record, spot.declared)).then_some(Broken::Governed)
    }

    /// What is stored with an entry of an action.
    fn rows(&mut self, row: i64, action: ActionId, said: &Said<'_>, session: Option<i64>) {
        let outcomes = self.outcomes.remove(&row).unwrap_or_default();
        let approvals = self.approvals.remove(&row).unwrap_or_default();
        let standing = match self.standings.remove(&action) {
            Some(None) => {
                self.standings.insert(action, None);
                self.left.doubt(action);
                return self.report(row, Some(action), None, Broken::Unreadable);
            }
            Some(standing) => standing,
            None => None,
        };
        let broken = [
            self.action(row, standing.as_ref(), !outcomes.is_empty() || !approvals.is_empty()),
            self.outcome(row, action, said, &outcomes),
            self.listed(row, action, &outcomes, standing.as_ref()),
            self.approval(row, action, said, &approvals, standing.as_ref()),
            standing.as_ref().and_then(|standing| fate(row, said, !outcomes.is_empty(), standing)),
            standing.as_ref().and_then(|standing| way(row, said, standing)),
            standing.as_ref().and_then(|standing| erasure(row, said, &outcomes, standing)),
            standing.as_ref().filter(|it| it.entry == row).and_then(|it| arrival(said, it)),
            altered(&outcomes),
            standing.as_ref().filter(|it| it.entry == row && it.session != session).map(|_| Broken::Governed),
        ];
        // What follows from one thing being gone is not told as if it were another.
        let broken = match broken.into_iter().flatten().next() {
            Some(broken) => {
                self.left.doubt(action);
                Some(broken)
            }
            None => self.step(row, action, said, &outcomes, standing.as_ref()),
        };
        match (broken, &standing) {
            (Some(broken), standing) => {
                let tenant = standing.as_ref().map(|standing| standing.tenant.clone());
                self.report(row, Some(action), tenant, broken);
            }
            (None, Some(standing)) => self.witness(row, action, said, standing, outcomes, approvals),
            (None, None) => {}
        }
        if let Some(standing) = standing {
            self.standings.insert(action, Some(standing));
        }
    }

    fn action(&mut self, row: i64, standing: Option<&Standing>, others: bool) -> Option<Broken> {
        (standing.is_none() && (others || !self.gone.may_lack_action(row))).then_some(Broken::NoAction)
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

    /// Is it found when the outcomes of its action are read, from the last one back?
    fn listed(
        &self,
        row: i64,
        action: ActionId,
        outcomes: &[Kept],
        standing: Option<&Standing>,
    ) -> Option<Broken> {
        let (Some(_), Some(standing)) = (outcomes.first(), standing) else { return None };
        let came = self.came.get(&action)?;
        let mut next = standing.stand.outcome;
        // The newest first: each names one before it.
        for (entry, _, previous) in came.iter().rev() {
            if next == Some(*entry) {
                if *entry == row {
                    return None;
                }
                next = *previous;
            }
        }
        Some(Broken::Unlisted)
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

    /// Does it lead on from where the entries before it left its action?
    fn step(
        &mut self,
        row: i64,
        action: ActionId,
        said: &Said<'_>,
        outcomes: &[Kept],
        standing: Option<&Standing>,
    ) -> Option<Broken> {
        let Some(standing) = standing else {
            self.left.forget(action);
            return None;
        };
        // What came of it is gone, and may be.
        if outcomes.is_empty() && said.receipt_hash.is_some() {
            self.left.doubt(action);
            return None;
        }
        let from = match self.left.mark(action) {
            Some(mark) => mark,
            None if standing.entry == row => Mark::NONE,
            None => {
                let came = self.came.get(&action).into_iter().flatten().rev();
                let before = came.map(|(entry, state, _)| (*entry, *state)).find(|(entry, _)| *entry < row);
                self.left.by_outcome(before)
            }
        };
        let step = Step::of(said, outcomes.first().map(|kept| kept.state));
        (!self.left.take(action, from, step)).then_some(Broken::Step)
    }

    /// Hands on what others have to compare.
    fn witness(
        &mut self,
        entry: i64,
        action: ActionId,
        said: &Said<'_>,
        standing: &Standing,
        outcomes: Vec<Kept>,
        approvals: Vec<Heard>,
    ) {
        let mut testimonies = Vec::new();
        // The entry that the row was last written with.
        if standing.stand.moved.unwrap_or(standing.entry) == entry {
            let Some((stored, labels)) = &standing.stored else {
                return self.report(entry, Some(action), Some(standing.tenant.clone()), Broken::Unreadable);
            };
            let (stored, labels) = (Box::new(stored.clone()), Box::new(labels.clone()));
            let outcome = outcomes.first().map(|kept| kept.payload.clone());
            testimonies.push(Testimony::Action { stored, labels, action_hash: said.action_hash, outcome });
        }
        let kept = approvals.into_iter().filter(|heard| !heard.record.is_empty());
        testimonies.extend(kept.map(|heard| Testimony::Approval {
            round: heard.round,
            approver: heard.approver,
            event: said.event.into(),
            record: heard.record,
        }));
        let Standing { subject, archetype, key, .. } = standing;
        if let Some(Kept { receipt, state, payload, .. }) = outcomes.into_iter().next() {
            if !payload.is_empty() {
                let asked = standing.stored.as_ref().filter(|_| said.event == RESOLVED);
                let settled = asked.map(|(stored, _)| (Box::new(stored.clone()), receipt.clone()));
                testimonies.push(Testimony::Outcome { payload, settled });
            }
            if let Some(receipt) = receipt {
                let (event, word) = (said.event.into(), said.state.map(Box::from));
                let (subject, archetype, key) = (subject.clone(), archetype.clone(), key.clone());
                testimonies.push(Testimony::Receipt {
                    subject,
                    archetype,
                    key,
                    state,
                    event,
                    said: word,
                    receipt,
                });
            }
        }
        let witness = |testimony| Witness { entry, action, tenant: standing.tenant.clone(), testimony };
        self.found.witnesses.extend(testimonies.into_iter().map(witness));
    }

    async fn end(mut self, db: &Db, end: Option<i64>) -> Done<(Inspected, Left)> {
        // What names entries that are not those of an action.
        let strays: Vec<i64> = self.outcomes.keys().copied().collect();
        strays.into_iter().for_each(|entry| self.report(entry, None, None, Broken::Outcome));
        let strays: Vec<i64> = self.approvals.keys().copied().collect();
        strays.into_iter().for_each(|entry| self.report(entry, None, None, Broken::Approval));
        if end.is_none() {
            self.whole(db).await?;
        }
        self.found.findings.sort_by_key(|finding| finding.entry);
        self.found.next = end.map(|row| Place { row, ..self.gone.by_now });
        self.left.lighten();
        Ok((self.found, self.left))
    }

    /// What can only be told of all of it.
    async fn whole(&mut self, db: &Db) -> Done<()> {
        // Each chain goes as far as the row of its process says.
        let sql =
            "SELECT r.last, r.head, (SELECT e.bytes FROM entry e WHERE e.slot = r.slot AND e.row <= r.last
                   ORDER BY e.row DESC LIMIT 1) FROM replica r WHERE NOT EXISTS
                   (SELECT 1 FROM replica later WHERE later.slot = r.slot AND later.number > r.number)";
        for row in many(db, sql, &[]).await? {
            let head: Option<[u8; 32]> = maybe_bytes(&row, 1)?;
            let found = get::<Option<&[u8]>>(&row, 2)?.and_then(crate::entry::hash_of);
            if head != found {
                self.report(get(&row, 0)?, None, None, Broken::Missing);
            }
        }
        let last = self.found.last;
        let sql = "SELECT entry, 'outcome' FROM outcome WHERE entry > $1 UNION ALL
                   SELECT entry, 'approval' FROM approval WHERE entry > $1 ORDER BY 1 LIMIT 1";
        // Rows of what is being written now name entries beyond the horizon, too.
        if let Some(row) = one(db, sql, &[&last]).await? {
            let entry: i64 = get(&row, 0)?;
            if one(db, "SELECT 1 FROM entry WHERE row = $1", &[&entry]).await?.is_none() {
                self.report(entry, None, None, Broken::Missing);
            }
        }
        self.sessions(db).await?;
        self.clusters(db).await?;
        if let Some(row) = self.gone.too_much() {
            self.report(row, None, None, Broken::Pruned);
        }
        let authority = authority_now(db, None).await?;
        self.passkeys(db, &authority.enacted).await?;
        self.found.authority = Some(Box::new(authority));
        Ok(())
    }

    /// First entries of the sessions that lack a record.
    async fn sessions(&mut self, db: &Db) -> Done<()> {
        let sql =
            "SELECT s.entry FROM session s LEFT JOIN record r ON r.tenant = s.tenant AND r.session = s.key
                   GROUP BY s.tenant, s.key, s.entry, s.next
                   HAVING count(r.seq) <> s.next OR coalesce(max(r.seq), -1) <> s.next - 1";
        for row in many(db, sql, &[]).await? {
            self.report(get(&row, 0)?, None, None, Broken::Session);
        }
        for row in governed::limited_by_nobody(db).await? {
            self.report(row, None, None, Broken::Session);
        }
        for row in governed::unlike(db, !self.gone.told.is_empty()).await? {
            self.report(row, None, None, Broken::Governed);
        }
        Ok(())
    }

    /// Passkeys that were added, given out as enrolled or kept from their end without an entry: each event is named by one row.
    async fn passkeys(&mut self, db: &Db, enacted: &[Enacted]) -> Done<()> {
        let kinds = [PASSKEY_REGISTERED, PASSKEY_ENROLLED, PASSKEY_REVOKED];
        let kind_of = |event: &str| kinds.iter().position(|kind| *kind == event);
        let mut told: BTreeSet<(i64, usize)> =
            enacted.iter().filter_map(|it| Some((it.entry, kind_of(&it.event)?))).collect();
        let sql = "SELECT named.entry, named.kind, e.bytes, e.record FROM
                   (SELECT registered AS entry, 0 AS kind FROM passkey UNION ALL SELECT enrolled, 1 FROM passkey
                    UNION ALL SELECT revoked, 2 FROM passkey) named LEFT JOIN entry e ON e.row = named.entry
                   WHERE named.entry IS NOT NULL";
        for row in many(db, sql, &[]).await? {
            let (entry, kind): (i64, i32) = (get(&row, 0)?, get(&row, 1)?);
            let fits = told.remove(&(entry, usize::try_from(kind).unwrap_or_default()));
            // One that is altered is told of at its place.
            let altered = get::<Option<&[u8]>>(&row, 3)?.is_some() && rules::recorded(&row, 2)?.is_none();
            if !fits && !altered {
                self.report(entry, None, None, Broken::Passkey);
            }
        }
        told.into_iter().for_each(|(entry, _)| self.report(entry, None, None, Broken::Passkey));
        Ok(())
    }

    /// Clusters that do not stand as the newest entry says that they do.
    async fn clusters(&mut self, db: &Db) -> Done<()> {
        let sql = "SELECT c.tenant, c.id, c.entry, e.bytes, e.record FROM cluster c LEFT JOIN entry e ON e.row = c.entry";
        for row in many(db, sql, &[]).await? {
            let (of, name, entry): (Tenant, Box<str>, i64) =
                (tenant(&row, 0)?, text(&row, 1)?, get(&row, 2)?);
            let (told, record): (Option<&[u8]>, Option<&[u8]>) = (get(&row, 3)?, get(&row, 4)?);
            let said =
                told.and_then(crate::event_of).zip(record).and_then(|(event, record)| said_in(event, record));
            let found = super::sessions::cluster_now(db, &of, &name).await?;
            let fits =
                said.zip(found).is_some_and(|(said, found)| said.id() == &*name && said.is(&found.cluster));
            if !fits {
                self.report(entry, None, None, Broken::Cluster);
            }
        }
        // Whoever waits for another is blocked, and nobody else is.
        let sql = "SELECT coalesce(s.entry, 0) FROM member m LEFT JOIN cluster c ON c.tenant = m.tenant AND c.id = m.cluster
                   LEFT JOIN session s ON s.tenant = m.tenant AND s.key = m.session_key WHERE c.id IS NULL OR s.key IS NULL
                   UNION SELECT s.entry FROM session s LEFT JOIN member m ON m.tenant = s.tenant AND m.session_key = s.key
                   WHERE s.closed IS NULL AND (s.blocked IS NULL) <> (m.waits IS NULL)";
        for row in many(db, sql, &[]).await? {
            self.report(get(&row, 0)?, None, None, Broken::Cluster);
        }
        Ok(())
    }

    fn report(&mut self, entry: i64, action: Option<ActionId>, tenant: Option<Tenant>, broken: Broken) {
        self.found.findings.push(Finding { entry, action, tenant, broken });
    }
}

fn standing_at(row: &Row, stored: Option<(Stored, Labels)>) -> Done<Standing> {
    let action = id(row, 0)?;
    let own = |column| {
        let said = get::<Option<&[u8]>>(row, column)?.and_then(Reading::of);
        Ok::<_, Failure>(said.filter(|said| said.action == Some(action)).map(|said| said.event))
    };
    let erased: Option<i64> = get(row, 8)?;
    Ok(Standing {
        told: erased.is_none() || own(16)? == Some(ERASED),
        moves: own(17)?.is_some_and(writes_row) && !get::<bool>(row, 18)?,
        tenant: tenant(row, 1)?,
        subject: subject(row, 2)?,
        archetype: text(row, 3)?,
        key: maybe_text(row, 4)?,
        entry: get(row, 5)?,
        at_ms: get(row, 6)?,
        empty: get(row, 7)?,
        erased,
        stand: stand_at(row, 9)?,
        session: get(row, 15)?,
        stored,
    })
}

fn kept_at(row: &Row) -> Done<Kept> {
    let receipt = match get::<Option<&[u8]>>(row, 6)? {
        None => None,
        // One that cannot be unpacked has no hash that an entry names.
        Some(document) => {
            let document = unpack(document).unwrap_or_default();
            let text = |column| Ok::<_, Failure>(maybe_text(row, column)?.unwrap_or_default());
            Some(Receipt { id: text(3)?, short: text(4)?, signature: text(5)?, document })
        }
    };
    let action = readable(id(row, 1))?;
    Ok(Kept {
        action,
        state: state(row, 2)?,
        receipt,
        all_gone: get(row, 7)?,
        some_gone: get(row, 8)?,
        // What cannot be unpacked cannot be read either, and whoever tries tells of it.
        payload: unpack(get(row, 9)?).unwrap_or_else(|| vec![0]),
        whole: readable(is_whole(row, 10, action))?.unwrap_or(false),
    })
}

/// Is the outcome that came with the entry all that it names? One that is erased leaves nothing to compare.
fn altered(outcomes: &[Kept]) -> Option<Broken> {
    outcomes.first().filter(|kept| !kept.all_gone && !kept.whole).map(|_| Broken::Altered)
}

/// Does the action stand where its entries leave it?
fn fate(row: i64, said: &Said<'_>, settles: bool, standing: &Standing) -> Option<Broken> {
    let (stand, goes_on) = (&standing.stand, goes_on(said.event));
    let fits = match stand.newest() {
        // Nothing that went on with it, and is no outcome, comes after the one that is named as the last.
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

/// Does the row name an entry with which it may have been written, and is that one of those after it began?
fn way(row: i64, said: &Said<'_>, standing: &Standing) -> Option<Broken> {
    let moved = standing.stand.moved?;
    let begins = standing.entry == row;
    let unfit = (begins && (moved <= row || !standing.moves)) || (moved == row && !writes_row(said.event));
    unfit.then_some(Broken::Fate)
}

/// Is what was asked and answered there, unless an entry says that it was erased?
fn erasure(row: i64, said: &Said<'_>, outcomes: &[Kept], standing: &Standing) -> Option<Broken> {
    let Standing { entry, erased, empty, told, .. } = standing;
    let as_told = |it: &Kept| if erased.is_some() { it.all_gone } else { !it.some_gone };
    let mut fits = outcomes.iter().all(as_told) && (said.event != ERASED || *erased == Some(row));
    if *entry == row {
        fits &= *empty == erased.is_some() && *told;
    }
    (!fits).then_some(Broken::Erased)
}

/// What is not there any more. Only entries of the chains can say that it may be, and those come later.
struct Gone {
    /// Every pruning that the chains tell of, with its entry.
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
    fn too_much(&self) -> Option<i64> {
        let (row, _) = self.told.last()?;
        let sum =
            |of: fn(&Pruned) -> u64| self.told.iter().fold(0_u64, |sum, (_, it)| sum.saturating_add(of(it)));
        let too_much =
            self.by_now.receipts > sum(|it| it.receipts) || self.by_now.approvals > sum(|it| it.approvals);
        too_much.then_some(*row)
    }
}

/// What the chains say was pruned, oldest first, each with its entry; what does not fit its entry is not believed.
async fn prunings(db: &Db) -> Done<Vec<(i64, Pruned)>> {
    let sql = "SELECT e.row, e.bytes, e.record FROM pruning p JOIN entry e ON e.row = p.entry ORDER BY e.row";
    let mut told = Vec::new();
    for row in many(db, sql, &[]).await? {
        if let Some((event, record)) = rules::recorded(&row, 1)?
            && let Some(Ok(pruned)) = Pruned::read(event, record)
        {
            told.push((get(&row, 0)?, pruned));
        }
    }
    Ok(told)
}

/// What is asked for authority, and the entries that tell of it: all, or those of these events. All of one moment: each row is
/// written in the commit of its entry.
pub(super) async fn authority(db: &Db, events: Option<&[&str]>) -> Done<Authority> {
    at_once(db, authority_now(db, events)).await
}

async fn authority_now(db: &Db, events: Option<&[&str]>) -> Done<Authority> {
    let mut illegible = Vec::new();
    Ok(Authority {
        enacted: enacted(db, events).await?,
        keys: apart(rules::keys(db, None).await?, &mut illegible),
        mandates: apart(rules::all_mandates(db).await?, &mut illegible),
        principal_keys: apart(rules::principal_keys(db).await?, &mut illegible),
        freezes: apart(rules::freezes(db).await?, &mut illegible),
        passkeys: apart(rules::passkeys(db, None, None).await?, &mut illegible),
        illegible,
    })
}

/// Those that can be read.
fn apart<T>(rows: Legible<T>, illegible: &mut Vec<Illegible>) -> Vec<T> {
    rows.into_iter().filter_map(|row| row.map_err(|it| illegible.push(it)).ok()).collect()
}

/// Records read at once.
const AT_ONCE: i64 = 4096;

/// All that happened and is no action, or as much of it as has one of these names. What cannot be read, and a record that its
/// entry does not name, is told of at its place.
async fn enacted(db: &Db, events: Option<&[&str]>) -> Done<Vec<Enacted>> {
    let sql =
        "SELECT row, bytes, record FROM entry WHERE record IS NOT NULL AND row > $1 ORDER BY row LIMIT $2";
    let (mut after, mut enacted) = (0_i64, Vec::new());
    loop {
        let rows = many(db, sql, &[&after, &AT_ONCE]).await?;
        for row in &rows {
            after = get(row, 0)?;
            let Some((event, record)) = rules::recorded(row, 1)? else { continue };
            let wanted = events.is_none_or(|all| all.contains(&event));
            if let Some(said) = Reading::of(get(row, 1)?).filter(|said| wanted && said.action.is_none()) {
                let tenant_ref = said.tenant.map(Box::from);
                enacted.push(Enacted {
                    entry: after,
                    tenant_ref,
                    event: event.into(),
                    record: record.to_vec(),
                });
            }
        }
        if (rows.len() as i64) < AT_ONCE {
            return Ok(enacted);
        }
    }
}
