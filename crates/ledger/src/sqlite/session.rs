//! Governed sessions in the store.

use std::collections::BTreeMap;

use mandate::{ApprovedLimits, Completion, Halt, Session, SessionEvent, Usage};
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::batch::{Batch, unwritable};
use super::read::{self, Sql};
use crate::admit::{Cell, Item};
use crate::entry::{self, event_of};
use crate::session::{
    LIMITED, Sealer, UNSEALED, after, breaches, comes_now, fits, is_by_person, leaves, limited, moved,
    says_limits,
};
use crate::sqlite::write::Fate;
use crate::stored::page;
use crate::{
    Approval, Declared, Declaring, Draft, Error, Event, Governed, Heard, Intention, Lapse, Lapsed, Opening,
    Page, RECOVERY_COMPLETE, RECOVERY_INITIATED, Record, Recovering, SecurityEvent, Settlement, State, Turn,
    Used, identity,
};
use action::{ActionId, Currency, Money, Subject, Tenant};

/// Where in a session an entry is to stand.
pub(crate) struct Place {
    pub(crate) session: i64,
    pub(crate) intent: Option<Box<str>>,
    pub(crate) cause: Option<Box<str>>,
}

impl<'a> Batch<'a> {
    /// Sees to it that the session of the item, if it has one, is among the rows.
    pub(super) fn read_session(&mut self, item: &mut Item) -> Sql<()> {
        if item.resumes.is_some() {
            item.session = self.write.find(item.intent.id)?.and_then(|fate| fate.session);
        }
        match (item.session, &item.cycle) {
            (Some(key), Some(cycle)) => self.named(key, &item.intent.tenant, &cycle.session).map(drop),
            (Some(key), None) => self.session(key).map(drop),
            (None, _) => Ok(()),
        }
    }

    /// The session of this key, if it goes by this name.
    pub(super) fn named(&mut self, key: i64, tenant: &Tenant, id: &str) -> Sql<Option<&mut Cell<Session>>> {
        if !self.rows.sessions.contains_key(&key)
            && let Some(found) = self.last_committed(key)?
            && found.is(tenant, id)
        {
            self.rows.sessions.insert(key, Cell::stored(found.session));
        }
        Ok(self.rows.sessions.get_mut(&key).filter(|cell| *cell.value.id == *id))
    }

    /// Sees to it that the session of this key is among the rows.
    pub(super) fn session(&mut self, key: i64) -> Sql<Option<&mut Cell<Session>>> {
        if !self.rows.sessions.contains_key(&key)
            && let Some(found) = self.last_committed(key)?
        {
            self.rows.sessions.insert(key, Cell::stored(found.session));
        }
        Ok(self.rows.sessions.get_mut(&key))
    }

    /// A session that the batch has not touched. From now on it is kept: nobody else changes it.
    fn last_committed(&self, key: i64) -> Sql<Option<Governed>> {
        let known = self.shared.hot().sessions.get(&key);
        if known.is_some() {
            return Ok(known);
        }
        let found = governed(self.db, key)?;
        if let Some(found) = &found {
            self.shared.hot().sessions.insert(key, found.clone());
        }
        Ok(found)
    }

    /// The first entry of an action.
    pub(super) fn first(
        &mut self,
        item: &Item,
        row: i64,
        at_ms: i64,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
    ) -> Sql<i64> {
        let action = Some(item.intent.id);
        let known = item.session.filter(|key| self.rows.sessions.contains_key(key));
        let Some((session, cycle)) = known.zip(item.cycle.as_ref()) else {
            return self.append(at_ms, action, draft, receipt_hash, None, None);
        };
        let cause = match &cycle.intent {
            Some(intent) => declared_as(self.db, session, intent)?,
            None => None,
        };
        let cause = match cause {
            Some(cause) => Some(cause),
            None => opened_as(self.db, session)?,
        };
        let id = self.next_id();
        self.write.cycle(row, session, cycle, &id)?;
        self.begun.push(((item.intent.tenant.clone(), item.intent.id), id));
        let place = Place { session, intent: cycle.intent.clone(), cause };
        self.append(at_ms, action, draft, receipt_hash, None, Some(place))
    }

    /// What an action's new state is to its session.
    pub(super) fn goes(&mut self, fate: &Fate, to: State) -> Sql<()> {
        let (Some(key), Some(event)) = (fate.session, moved(fate.state, to)) else { return Ok(()) };
        if let Some(cell) = self.session(key)? {
            let session = after(&cell.value, event);
            cell.set(session);
        }
        Ok(())
    }

    /// Puts on record what an action used beyond what its mandates had.
    pub(super) fn breached(
        &mut self,
        fate: &Fate,
        settlement: &Settlement,
        used: &Used,
        amounts: [&Usage; 2],
    ) -> Sql<()> {
        let Some(session) = fate.session else { return Ok(()) };
        let (_, cause) = read::cycle(self.db, fate.row)?;
        for (key, jti) in read::chain(self.db, fate.row)? {
            let account = &self.rows.account(key, &jti).value;
            let events = breaches(settlement, used, amounts, account).map_err(unwritable)?;
            for event in &events {
                self.tells(event, Place { session, intent: None, cause: Some(cause.clone()) })?;
            }
        }
        Ok(())
    }

    /// Stops the session of an action, because of what was just said of that.
    pub(super) fn stops(&mut self, fate: &Fate, halts: &Event) -> Sql<()> {
        let Some(key) = fate.session else { return Ok(()) };
        let Some(cell) = self.session(key)? else { return Ok(()) };
        // One that is stopped already, or over, has that on record.
        let Ok(stopped) = cell.value.step(SessionEvent::Suspended) else { return Ok(()) };
        cell.set(stopped);
        self.stopped(fate.row, key, halts)
    }

    /// Puts on record that a session is stopped.
    pub(super) fn stopped(&mut self, action: i64, key: i64, halts: &Event) -> Sql<()> {
        let (_, cause) = read::cycle(self.db, action)?;
        self.tells(halts, Place { session: key, intent: None, cause: Some(cause) }).map(drop)
    }

    /// Lowers how far people agree to whatever the session of an action does from now on, and puts that on record. One that
    /// is over has had its last record.
    pub(super) fn limits(&mut self, fate: &Fate, approval: &Approval) -> Sql<()> {
        let Some((key, set)) = fate.session.zip(approval.limits) else { return Ok(()) };
        let open = self.session(key)?.filter(|cell| cell.value.closed.is_none());
        let Some(cell) = open else { return Ok(()) };
        let session = after(&cell.value, SessionEvent::Limited(set));
        let told = limited(approval, set, session.limits);
        cell.set(session);
        let (_, cause) = read::cycle(self.db, fate.row)?;
        let entry = self.tells(&told, Place { session: key, intent: None, cause: Some(cause) })?;
        self.db.prepare_cached("UPDATE session SET limited = ?2 WHERE key = ?1")?.execute([key, entry])?;
        Ok(())
    }

    /// Gives an entry its number in the session.
    pub(super) fn takes_place(&mut self, place: Place, row: i64) -> Sql<(entry::Session, &'a dyn Sealer)> {
        let Some(sealer) = self.sealer else { return Err(unfit(UNSEALED)) };
        let Some(cell) = self.session(place.session)? else { return Err(unfit("the session is gone")) };
        let seq = cell.value.next_record;
        let session = Session { next_record: seq + 1, ..cell.value.clone() };
        let id = session.id.to_string();
        cell.set(session);
        let sql = "INSERT INTO record VALUES (?1, ?2, ?3)";
        self.db.prepare_cached(sql)?.execute(params![place.session, seq.cast_signed(), row])?;
        let intent_id = place.intent.map(String::from);
        Ok((entry::Session { causal_parent: place.cause.map(String::from), id, intent_id, seq }, sealer))
    }

    pub(super) fn open_session(&mut self, opening: &Opening) -> Sql<Result<Box<str>, Error>> {
        let Opening { tenant, session, payload, event } = opening;
        let key = identity::session(tenant, &session.id);
        if self.session(key)?.is_some() {
            return Ok(Err(Error::Exists(session.id.clone())));
        }
        if let Err(refused) = self.may_open(tenant, session)? {
            return Ok(Err(refused));
        }
        let id: Box<str> = self.tail.chain.next_id().into();
        let sql = "INSERT INTO session VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                   ?18, ?19, ?20, ?21, ?22, ?23, NULL)";
        let Columns {
            opened_ms,
            epoch,
            sequence,
            next,
            held,
            in_flight,
            denials,
            cycles,
            blocked,
            suspended,
            closed,
            halt,
            limit_minor,
            limit_currency,
            limit_until,
        } = Columns::of(session);
        let values = params![
            key,
            session.id,
            tenant.as_str(),
            session.subject.as_str(),
            session.mandate_id,
            opened_ms,
            epoch,
            sequence,
            next,
            held,
            in_flight,
            denials,
            cycles,
            blocked,
            suspended,
            closed,
            halt,
            id,
            self.next_entry(),
            payload,
            limit_minor,
            limit_currency,
            limit_until,
        ];
        self.db.prepare_cached(sql)?.execute(values)?;
        self.rows.sessions.insert(key, Cell::stored(session.clone()));
        self.tells(event, Place { session: key, intent: None, cause: None })?;
        Ok(Ok(id))
    }

    /// Whether a session may begin under its mandate, as all that stands above that is now. One that is not stored is
    /// everybody's, and nobody stops it for others.
    fn may_open(&mut self, tenant: &Tenant, session: &Session) -> Sql<Result<(), Error>> {
        let jti = &session.mandate_id;
        let Some(held) = read::mandate(self.db, tenant, jti)? else { return Ok(Ok(())) };
        let line = held.mandate.chain.iter().chain([jti]);
        for jti in line.clone() {
            let key = identity::account(tenant, jti);
            self.account(key, jti)?;
            if self.rows.account(key, jti).value.revoked_at.is_some() {
                return Ok(Err(Error::Absent(jti.clone())));
            }
        }
        let root = line.clone().next().unwrap_or(jti);
        let free = super::cluster::must_be_free(self.db, tenant, &session.subject, root)?;
        Ok(free.map_err(Error::Cluster))
    }

    pub(super) fn declare(&mut self, declaring: &Declaring) -> Sql<Declared> {
        let Declaring { tenant, session, intent, mandate, sequence, event } = declaring;
        let key = identity::session(tenant, session);
        let Some(cell) = self.named(key, tenant, session)? else { return Ok(Declared::NoSession) };
        let stands = match cell.value.step(SessionEvent::Declared { sequence: *sequence }) {
            Ok(stands) => stands,
            Err(refusal) => return Ok(Declared::Refused(refusal)),
        };
        let sql = "SELECT 1 FROM declaration WHERE tenant = ?1 AND mandate = ?2 AND intent = ?3";
        if read::one(self.db, sql, params![tenant.as_str(), mandate, intent], |_| Ok(()))?.is_some() {
            return Ok(Declared::Duplicate);
        }
        if let Some(cell) = self.session(key)? {
            cell.set(stands);
        }
        let id: Box<str> = self.tail.chain.next_id().into();
        let sql = "INSERT INTO declaration VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = params![key, intent, tenant.as_str(), mandate, id, self.next_entry()];
        self.db.prepare_cached(sql)?.execute(values)?;
        let cause = opened_as(self.db, key)?;
        self.tells(event, Place { session: key, intent: Some(intent.clone()), cause })?;
        let declared = intention(self.db, tenant, session, Some(intent))?;
        declared.map(Box::new).map(Declared::New).ok_or_else(|| unfit("a declaration is gone"))
    }

    pub(super) fn turn(&mut self, turn: &Turn) -> Sql<Result<(Box<str>, Session), Error>> {
        let Turn { tenant, session: name, event, cause, record, expects } = turn;
        let key = identity::session(tenant, name);
        let Some(cell) = self.named(key, tenant, name)? else {
            return Ok(Err(Error::Absent(name.clone())));
        };
        if let Err(error) = comes_now(&cell.value, *expects) {
            return Ok(Err(error));
        }
        let recovers = [RECOVERY_INITIATED, RECOVERY_COMPLETE].contains(&record.event);
        if recovers && let Err(error) = fits(record.event, recovery_of(self.db, key)?.is_some(), name) {
            return Ok(Err(error));
        }
        if leaves(*event)
            && let Some(found) = super::cluster::of(self.db, tenant, name)?
            && let Err(refusal) = found.cluster.must_be_free()
        {
            return Ok(Err(Error::Cluster(refusal)));
        }
        let Some(cell) = self.session(key)? else { return Err(unfit("the session is gone")) };
        match event.map(|event| cell.value.step(event)) {
            Some(Ok(session)) => cell.set(session),
            Some(Err(refusal)) => return Ok(Err(Error::Session(refusal))),
            None => {}
        }
        let cause = match cause {
            Some(cause) => Some(cause.clone()),
            None => opened_as(self.db, key)?,
        };
        let id: Box<str> = self.tail.chain.next_id().into();
        let entry = self.tells(record, Place { session: key, intent: None, cause })?;
        let name = format!("{RECOVERING}{key}");
        match record.event {
            RECOVERY_INITIATED => {
                self.db
                    .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?
                    .execute(params![name, entry])?;
            }
            RECOVERY_COMPLETE => {
                self.db.prepare_cached("DELETE FROM meta WHERE name = ?1")?.execute([name])?;
            }
            _ => {}
        }
        let Some(cell) = self.session(key)? else { return Err(unfit("the session is gone")) };
        let session = cell.value.clone();
        if session.closed.is_some() {
            self.ended((tenant, &session, is_by_person(*event)), record, &id)?;
        }
        Ok(Ok((id, session)))
    }

    pub(super) fn hear(&mut self, heard: &SecurityEvent, event: &Event) -> Sql<Heard> {
        let SecurityEvent { tenant, issuer, jti, hash } = heard;
        let sql = "SELECT hash, id FROM security_event WHERE tenant = ?1 AND issuer = ?2 AND jti = ?3";
        let told = |row: &Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?));
        if let Some((before, id)) = read::one(self.db, sql, params![tenant.as_str(), issuer, jti], told)? {
            return Ok(if before == hash { Heard::Again(id) } else { Heard::Taken });
        }
        let id = self.next_id();
        let sql = "INSERT INTO security_event VALUES (?1, ?2, ?3, ?4, ?5)";
        self.db.prepare_cached(sql)?.execute(params![tenant.as_str(), issuer, jti, hash, id])?;
        self.event(event)?;
        Ok(Heard::New(id))
    }

    pub(super) fn tells(&mut self, event: &Event, place: Place) -> Sql<i64> {
        self.append(event.at_ms, None, &event.draft(), None, Some(&event.record), Some(place))
    }

    /// Writes what the batch changed in sessions.
    pub(super) fn write_sessions(&mut self) -> Sql<()> {
        let changed: Vec<_> = self.rows.sessions.iter().filter(|(_, cell)| cell.changed).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let mut update = self.db.prepare_cached(
            "UPDATE session SET epoch = ?2, sequence = ?3, next = ?4, held = ?5, in_flight = ?6, denials = ?7, cycles = ?8,
             blocked = ?9, suspended = ?10, closed = ?11, halt = ?12, limit_minor = ?13, limit_currency = ?14,
             limit_until = ?15 WHERE key = ?1",
        )?;
        for (key, cell) in changed {
            let Columns {
                epoch,
                sequence,
                next,
                held,
                in_flight,
                denials,
                cycles,
                blocked,
                suspended,
                closed,
                halt,
                limit_minor,
                limit_currency,
                limit_until,
                ..
            } = Columns::of(&cell.value);
            update.execute(params![
                key,
                epoch,
                sequence,
                next,
                held,
                in_flight,
                denials,
                cycles,
                blocked,
                suspended,
                closed,
                halt,
                limit_minor,
                limit_currency,
                limit_until,
            ])?;
        }
        Ok(())
    }
}

/// A session as its row has it.
struct Columns {
    opened_ms: i64,
    epoch: i64,
    sequence: i64,
    next: i64,
    held: u32,
    in_flight: u32,
    denials: u32,
    cycles: i64,
    blocked: Option<i64>,
    suspended: bool,
    closed: Option<i64>,
    halt: Option<i64>,
    limit_minor: Option<i64>,
    limit_currency: Option<String>,
    limit_until: Option<i64>,
}

impl Columns {
    fn of(session: &Session) -> Columns {
        Columns {
            opened_ms: session.opened_ms,
            epoch: session.epoch.cast_signed(),
            sequence: session.sequence.cast_signed(),
            next: session.next_record.cast_signed(),
            held: session.held,
            in_flight: session.in_flight,
            denials: session.denials,
            cycles: session.cycles.cast_signed(),
            blocked: session.blocked_ms,
            suspended: session.suspended,
            closed: session.closed.map(completion_code),
            halt: session.halt.map(halt_code),
            limit_minor: session.limits.max_amount.map(Money::minor),
            limit_currency: session.limits.max_amount.map(|most| most.currency().code().to_owned()),
            limit_until: session.limits.not_after_ms,
        }
    }
}

fn completion_code(completion: Completion) -> i64 {
    match completion {
        Completion::Complete => 1,
        Completion::Partial => 2,
        Completion::Revoked => 3,
    }
}

fn halt_code(halt: Halt) -> i64 {
    match halt {
        Halt::Clean => 1,
        Halt::Partial => 2,
        Halt::Unknown => 3,
    }
}

/// What the names in `meta` begin with that say whose recovery began; the value is the entry of that.
const RECOVERING: &str = "recovering/";

/// Of a mandate's row, that it descends from the one named second.
pub(super) const DESCENDS: &str = "instr(char(10) || chain || char(10), char(10) || ?2 || char(10))";

pub(super) const SESSION: &str =
    "SELECT key, id, tenant, subject, mandate, opened, epoch, sequence, next, held, in_flight, denials,
    cycles, blocked, suspended, closed, halt, opening, entry, payload, limit_minor, limit_currency, limit_until FROM session";

/// A session, unless its records say something else of it than its row: then it cannot be read, and nothing begins in it.
fn governed(db: &Connection, key: i64) -> Sql<Option<Governed>> {
    let found = read::one(db, &format!("{SESSION} WHERE key = ?1"), [key], governed_at)?;
    found.map(|found| super::governed::as_told(db, key, found)).transpose()
}

pub(crate) fn session(db: &Connection, tenant: &Tenant, id: &str) -> Sql<Option<Governed>> {
    let found = governed(db, identity::session(tenant, id))?;
    Ok(found.filter(|it| it.is(tenant, id)))
}

pub(crate) fn sessions(
    db: &Connection,
    tenant: &Tenant,
    of: Option<&Subject>,
    after: Option<i64>,
    limit: u32,
) -> Sql<Page<Governed>> {
    let sql = format!(
        "{SESSION} WHERE tenant = ?1 AND (?2 IS NULL OR subject = ?2) AND entry < ?3 ORDER BY entry DESC LIMIT ?4"
    );
    let values = params![tenant.as_str(), of.map(Subject::as_str), after.unwrap_or(i64::MAX), limit];
    let rows = read::many(db, &sql, values, |row| {
        Ok((row.get::<_, i64>(18)?, row.get::<_, i64>(0)?, legible(row)?))
    })?;
    let Page { rows, next } = page(rows, limit, |(row, ..)| *row);
    let told = rows.into_iter().filter_map(|(_, key, found)| Some((key, found?)));
    let told = told.map(|(key, found)| read::readable(super::governed::as_told(db, key, found)));
    Ok(Page { rows: told.filter_map(Sql::transpose).collect::<Sql<_>>()?, next })
}

pub(crate) fn sessions_under(db: &Connection, tenant: &Tenant, jti: &str) -> Sql<Vec<Governed>> {
    let sql = format!(
        "{SESSION} s WHERE s.tenant = ?1 AND s.closed IS NULL AND (s.mandate = ?2 OR s.mandate IN
         (SELECT jti FROM mandate WHERE tenant = ?1 AND {DESCENDS})) ORDER BY s.entry"
    );
    let found = read::many(db, &sql, params![tenant.as_str(), jti], legible)?;
    Ok(found.into_iter().flatten().collect())
}

pub(crate) fn held_under(
    db: &Connection,
    tenant: &Tenant,
    jti: &str,
    subject: &Subject,
    now_ms: i64,
) -> Sql<Option<Box<str>>> {
    let sql = format!(
        "SELECT jti FROM mandate WHERE tenant = ?1 AND subject = ?3 AND (jti = ?2 OR {DESCENDS}) ORDER BY row"
    );
    let theirs = params![tenant.as_str(), jti, subject.as_str()];
    for held in read::many(db, &sql, theirs, |row| row.get::<_, Box<str>>(0))? {
        if lapse_of(db, tenant, &held, now_ms)?.is_none() {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

pub(crate) fn lapsed(db: &Connection, now_ms: i64, limit: u32) -> Sql<Vec<Lapsed>> {
    // What descends from another is looked at below, mandate by mandate.
    let sql = format!(
        "{SESSION} s WHERE s.closed IS NULL AND (s.suspended OR EXISTS (SELECT 1 FROM mandate m
         LEFT JOIN account a ON a.key = m.account WHERE m.tenant = s.tenant AND m.jti = s.mandate
         AND (m.expires <= ?1 OR a.revoked IS NOT NULL OR m.chain IS NOT NULL))) ORDER BY s.entry"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([now_ms])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()?.filter(|_| found.len() < limit as usize) {
        let Some(governed) = legible(row)? else { continue };
        // Under a mandate that cannot be read nothing is admitted.
        let why = match read::readable(ended(db, &governed, now_ms))?.flatten() {
            Some(Lapse::Expired { .. }) | None if governed.session.suspended => Lapse::Stopped,
            Some(why) => why,
            None => continue,
        };
        found.push(Lapsed { governed, why });
    }
    Ok(found)
}

pub(crate) fn recovering(db: &Connection) -> Sql<Vec<Recovering>> {
    let sent =
        "SELECT c.session, a.id FROM fate f JOIN cycle c ON c.action = f.row JOIN action a ON a.row = f.row
                WHERE f.state = 2 AND f.state <= 3 ORDER BY f.row";
    let sent = read::many(db, sent, [], |row| Ok((row.get::<_, i64>(0)?, read::id(row, 1)?)))?;
    // All names that begin so: of the characters that may follow none comes after `:`.
    let begun =
        "SELECT CAST(substr(name, length(?1) + 1) AS INTEGER) FROM meta WHERE name > ?1 AND name < ?1 || ':'";
    let begun = read::many(db, begun, [RECOVERING], |row| Ok((row.get(0)?, Vec::new())))?;
    let mut open: BTreeMap<i64, Vec<ActionId>> = begun.into_iter().collect();
    for (key, id) in sent {
        open.entry(key).or_default().push(id);
    }
    let mut found = Vec::with_capacity(open.len());
    for (key, sent) in open {
        if let Some(governed) = read::readable(governed(db, key))?.flatten() {
            found.push(Recovering { governed, initiated: recovery_of(db, key)?, sent });
        }
    }
    Ok(found)
}

/// The record with which the recovery of a session began that did not end yet.
fn recovery_of(db: &Connection, key: i64) -> Sql<Option<Box<str>>> {
    let sql = "SELECT e.bytes FROM meta m JOIN entry e ON e.row = m.value WHERE m.name = ?1";
    let bytes: Option<Vec<u8>> = read::one(db, sql, [format!("{RECOVERING}{key}")], |row| row.get(0))?;
    Ok(bytes.and_then(|bytes| entry::id_of(&bytes)))
}

/// How the mandate of a session, or one that it descends from, has ended, if it has.
fn ended(db: &Connection, governed: &Governed, now_ms: i64) -> Sql<Option<Lapse>> {
    lapse_of(db, &governed.tenant, &governed.session.mandate_id, now_ms)
}

fn lapse_of(db: &Connection, tenant: &Tenant, jti: &str, now_ms: i64) -> Sql<Option<Lapse>> {
    let Some(held) = read::mandate(db, tenant, jti)? else { return Ok(None) };
    for jti in std::iter::once(&held.mandate.jti).chain(held.mandate.chain.iter().rev()) {
        let sql = "SELECT revoked FROM account WHERE key = ?1";
        let key = identity::account(tenant, jti);
        if let Some(at_ms) = read::one(db, sql, [key], |row| row.get::<_, Option<i64>>(0))?.flatten() {
            return Ok(Some(Lapse::Revoked { mandate: jti.clone(), at_ms }));
        }
    }
    Ok((held.mandate.expires_ms <= now_ms).then_some(Lapse::Expired { mandate: held.mandate.jti }))
}

/// A session, unless it cannot be read because somebody altered it: then it is left out and keeps nobody from the others.
fn legible(row: &Row<'_>) -> Sql<Option<Governed>> {
    let found = read::readable(governed_at(row))?;
    if found.is_none() {
        tracing::error!(key = row.get::<_, i64>(0)?, "a stored session cannot be read and is left out");
    }
    Ok(found)
}

pub(super) fn governed_at(row: &Row<'_>) -> Sql<Governed> {
    let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let closed = match row.get::<_, Option<i64>>(15)? {
        None => None,
        Some(1) => Some(Completion::Complete),
        Some(2) => Some(Completion::Partial),
        // What is not understood is over.
        Some(_) => Some(Completion::Revoked),
    };
    let halt = match row.get::<_, Option<i64>>(16)? {
        None => None,
        Some(1) => Some(Halt::Clean),
        Some(2) => Some(Halt::Partial),
        Some(_) => Some(Halt::Unknown),
    };
    let session = Session {
        id: row.get(1)?,
        subject: text(row, 3, |text| Subject::kept(text).ok())?,
        mandate_id: row.get(4)?,
        opened_ms: row.get(5)?,
        epoch: number(6)?,
        sequence: number(7)?,
        next_record: number(8)?,
        held: row.get(9)?,
        in_flight: row.get(10)?,
        denials: row.get(11)?,
        cycles: number(12)?,
        blocked_ms: row.get(13)?,
        suspended: row.get(14)?,
        closed,
        halt,
        limits: limits_at(row, 20)?,
    };
    let tenant = text(row, 2, |text| Tenant::parse(text).ok())?;
    Ok(Governed { row: row.get(18)?, tenant, session, opening: row.get(17)?, payload: row.get(19)? })
}

/// The limits in this column and the two after it. Where they cannot be read neither can the session, and nothing is
/// admitted in it.
fn limits_at(row: &Row<'_>, column: usize) -> Sql<ApprovedLimits> {
    let minor: Option<i64> = row.get(column)?;
    let money = |minor: i64| {
        let currency = text(row, column + 1, Currency::of)?;
        Money::new(minor, currency).ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(column, minor))
    };
    Ok(ApprovedLimits { max_amount: minor.map(money).transpose()?, not_after_ms: row.get(column + 2)? })
}

pub(super) fn text<T>(row: &Row<'_>, column: usize, read: impl FnOnce(&str) -> Option<T>) -> Sql<T> {
    let text: String = row.get(column)?;
    read(&text).ok_or_else(|| rusqlite::Error::InvalidColumnType(column, text, Type::Text))
}

pub(super) fn opened_as(db: &Connection, key: i64) -> Sql<Option<Box<str>>> {
    read::one(db, "SELECT opening FROM session WHERE key = ?1", [key], |row| row.get(0))
}

fn declared_as(db: &Connection, session: i64, intent: &str) -> Sql<Option<Box<str>>> {
    let sql = "SELECT id FROM declaration WHERE session = ?1 AND intent = ?2";
    read::one(db, sql, params![session, intent], |row| row.get(0))
}

/// The members of [`Intention`], of the declarations of a session.
macro_rules! intention {
    () => {
        "SELECT d.intent, d.id, coalesce(e.record, x''), e.bytes FROM declaration d JOIN entry e ON e.row = d.entry
         WHERE d.session = ?1 AND d.tenant = ?2 "
    };
}

/// Two questions, so that neither walks along all that was ever declared in a session.
const NAMED: &str = concat!(intention!(), "AND d.intent = ?3");
const NEWEST: &str = concat!(intention!(), "ORDER BY d.entry DESC LIMIT 1");

pub(crate) fn intention(
    db: &Connection,
    tenant: &Tenant,
    session: &str,
    intent: Option<&str>,
) -> Sql<Option<Intention>> {
    let key = identity::session(tenant, session);
    let intention = |row: &Row<'_>| {
        Ok(Intention {
            intent: row.get(0)?,
            session: session.into(),
            record_id: row.get(1)?,
            entry: row.get(3)?,
            record: row.get(2)?,
        })
    };
    match intent {
        Some(intent) => read::one(db, NAMED, params![key, tenant.as_str(), intent], intention),
        None => read::one(db, NEWEST, params![key, tenant.as_str()], intention),
    }
}

/// The id of the record with which a cycle began.
pub(crate) fn begun_as(db: &Connection, tenant: &Tenant, id: ActionId) -> Sql<Option<Box<str>>> {
    let sql = "SELECT e.bytes FROM action a JOIN cycle c ON c.action = a.row JOIN entry e ON e.row = a.entry
               WHERE a.id = ?1 AND a.tenant = ?2";
    let bytes: Option<Vec<u8>> =
        read::one(db, sql, params![id.as_bytes(), tenant.as_str()], |row| row.get(0))?;
    Ok(bytes.and_then(|bytes| entry::id_of(&bytes)))
}

pub(crate) fn records(
    db: &Connection,
    tenant: &Tenant,
    session: &str,
    after: Option<u64>,
    limit: u32,
) -> Sql<Vec<Record>> {
    if self::session(db, tenant, session)?.is_none() {
        return Ok(Vec::new());
    }
    let sql = "SELECT r.seq, r.entry, e.bytes, e.record FROM record r JOIN entry e ON e.row = r.entry
               WHERE r.session = ?1 AND r.seq > ?2 ORDER BY r.seq LIMIT ?3";
    let from = after.map_or(-1, u64::cast_signed);
    let record = |row: &Row<'_>| {
        Ok(Record {
            seq: row.get::<_, i64>(0)?.cast_unsigned(),
            row: row.get(1)?,
            entry: row.get(2)?,
            record: row.get(3)?,
        })
    };
    read::many(db, sql, params![identity::session(tenant, session), from, limit], record)
}

/// The session of an entry, by its key, and the id of that and the number in it, by its row.
pub(crate) fn place_at(db: &Connection, entry: i64) -> Sql<Option<(i64, (String, u64))>> {
    let sql =
        "SELECT r.session, coalesce(s.id, ''), r.seq FROM record r LEFT JOIN session s ON s.key = r.session
               WHERE r.entry = ?1";
    read::one(db, sql, [entry], |row| Ok((row.get(0)?, (row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned()))))
}

/// First entries of the sessions that lack a record.
pub(crate) fn with_gaps(db: &Connection) -> Sql<Vec<i64>> {
    let sql = "SELECT s.entry FROM session s LEFT JOIN record r ON r.session = s.key GROUP BY s.key
               HAVING count(r.seq) <> s.next OR coalesce(max(r.seq), -1) <> s.next - 1";
    read::many(db, sql, [], |row| row.get(0))
}

/// Does a record of limits that a person set for a session fit its row? The newest says what the row says, and no row is
/// older than what was said last.
pub(crate) fn limits_fit(db: &Connection, row: i64, event: &str, record: &[u8]) -> Sql<bool> {
    if event != LIMITED {
        return Ok(true);
    }
    let sql = "SELECT s.limited, s.limit_minor, s.limit_currency, s.limit_until FROM record r
               JOIN session s ON s.key = r.session WHERE r.entry = ?1 AND s.limited >= ?1";
    let found = read::one(db, sql, [row], |it| Ok((it.get::<_, i64>(0)?, limits_at(it, 1)?)))?;
    Ok(found.is_some_and(|(newest, limits)| newest > row || says_limits(record, limits)))
}

/// First entries of the sessions that have limits which no record of theirs tells of.
pub(crate) fn limited_by_nobody(db: &Connection) -> Sql<Vec<i64>> {
    let sql = "SELECT s.entry, e.bytes FROM session s LEFT JOIN record r ON r.entry = s.limited AND r.session = s.key
               LEFT JOIN entry e ON e.row = r.entry
               WHERE coalesce(s.limited, s.limit_minor, s.limit_currency, s.limit_until) IS NOT NULL";
    let told = |row: &Row<'_>| {
        let bytes: Option<Vec<u8>> = row.get(1)?;
        Ok((row.get(0)?, bytes.as_deref().and_then(event_of) == Some(LIMITED)))
    };
    Ok(read::many(db, sql, [], told)?.into_iter().filter(|(_, told)| !told).map(|(entry, _)| entry).collect())
}

pub(super) fn unfit(why: &str) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(why.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rusqlite::StatementStatus;

    use super::*;
    use crate::sqlite::open;

    #[test]
    fn a_declaration_is_found_in_as_many_steps_however_many_there_are() {
        let few = steps_among(10);
        assert_eq!(few.map(|(found, _)| found), [false, true, true]);
        assert_eq!(few, steps_among(1000));
    }

    /// Whether one that is not there, the oldest and the newest of so many are found, and how long that takes the store.
    fn steps_among(count: i64) -> [(bool, i32); 3] {
        let directory = tempfile::tempdir().unwrap();
        let db = open::writer(&directory.path().join("ledger.db")).unwrap();
        let tenant = Tenant::default();
        for number in 1..=count {
            let key = identity::session(&tenant, "s");
            let values = params![key, format!("i-{number}"), tenant.as_str(), number];
            db.execute("INSERT INTO declaration VALUES (?1, ?2, ?3, 'm', 'r', ?4)", values).unwrap();
            db.execute("INSERT INTO entry (row, bytes) VALUES (?1, x'7b7d')", [number]).unwrap();
        }
        [(Some("none"), NAMED), (Some("i-1"), NAMED), (None, NEWEST)].map(|(intent, sql)| {
            let found = intention(&db, &tenant, "s", intent).unwrap();
            let steps = db.prepare_cached(sql).unwrap().reset_status(StatementStatus::VmStep);
            (found.is_some(), steps)
        })
    }
}
