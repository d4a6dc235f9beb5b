//! Governed sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use action::{ActionId, Subject, Tenant};
use mandate::{Session, SessionEvent, Usage};

use super::{World, Written};
use crate::admit::{Cell, Item};
use crate::entry;
use crate::session::{
    Sealer, UNSEALED, after, breaches, comes_now, fits, is_by_person, leaves, limited, moved,
};
use crate::stored::page;
use crate::{
    Approval, Cycle, Declared, Declaring, Error, Event, Governed, Heard, Intention, Lapse, Lapsed, Mandate,
    Opening, Page, RECOVERY_COMPLETE, RECOVERY_INITIATED, Record, Recovering, SecurityEvent, Settlement,
    State, Turn, Used, identity,
};

#[derive(Default)]
pub(crate) struct Sessions {
    pub(crate) sealer: Option<Arc<dyn Sealer>>,
    /// As they were opened, by key; how they stand is among the rows.
    pub(crate) opened: Vec<(i64, Governed)>,
    pub(crate) declared: Vec<Declaration>,
    /// Session and entry, in the order of the chain.
    pub(crate) records: Vec<(i64, u64, i64)>,
    pub(crate) cycles: HashMap<ActionId, Part>,
    /// Those whose recovery began and did not end yet.
    pub(crate) recovering: BTreeMap<i64, Recovery>,
    /// Those whose recovery began or ended here.
    pub(crate) recovered: Vec<i64>,
    /// With the id of its record.
    pub(crate) heard: Vec<(SecurityEvent, Box<str>)>,
    /// The newest entry that tells of limits that a person set for a session, by key.
    pub(crate) limited: BTreeMap<i64, i64>,
}

/// A declaration in its session.
#[derive(Clone)]
pub(crate) struct Declaration {
    pub(crate) tenant: Tenant,
    /// Under which mandate.
    pub(crate) mandate: Box<str>,
    /// Row number of its entry.
    pub(crate) entry: i64,
    pub(crate) intention: Intention,
}

/// The record with which a recovery began.
#[derive(Clone)]
pub(crate) struct Recovery {
    pub(crate) id: Box<str>,
    pub(crate) entry: i64,
}

/// What makes an action a cycle.
pub(crate) struct Part {
    pub(crate) session: i64,
    pub(crate) sequence: Option<u64>,
    pub(crate) intent: Option<Box<str>>,
    /// Its first record.
    pub(crate) first: Box<str>,
    pub(crate) last: Box<str>,
    /// Is it written here, or does it go on?
    pub(crate) touched: bool,
}

/// Where in a session an entry is to stand.
pub(crate) struct Place {
    pub(crate) session: i64,
    pub(crate) intent: Option<Box<str>>,
    pub(crate) cause: Option<Box<str>>,
}

impl World {
    /// The place of an action's next entry, if it is a cycle.
    pub(crate) fn place_of(&mut self, action: Option<ActionId>) -> Option<Place> {
        let next: Box<str> = self.chain.next_id().into();
        let part = self.sessions.cycles.get_mut(&action?)?;
        let cause = Some(std::mem::replace(&mut part.last, next));
        part.touched = true;
        Some(Place { session: part.session, intent: part.intent.clone(), cause })
    }

    /// Notes that a new action is a cycle: its first entry is caused by its declaration.
    pub(crate) fn begins(&mut self, item: &Item) {
        let known = item.session.filter(|key| self.rows.sessions.contains_key(key));
        let Some((session, Cycle { intent, sequence, .. })) = known.zip(item.cycle.as_ref()) else { return };
        let name = self.rows.sessions.get(&session).map(|cell| cell.value.id.clone());
        let of = |it: &&Declaration| {
            it.tenant == item.intent.tenant
                && Some(&it.intention.session) == name.as_ref()
                && Some(&it.intention.intent) == intent.as_ref()
        };
        let declared = self.sessions.declared.iter().find(of).map(|it| it.intention.record_id.clone());
        let last = declared.or_else(|| self.opening(session)).unwrap_or_default();
        let first = self.chain.next_id().into();
        let (intent, sequence) = (intent.clone(), *sequence);
        let part = Part { session, sequence, intent, first, last, touched: true };
        self.sessions.cycles.insert(item.intent.id, part);
    }

    /// The key of the session that an action is a cycle of.
    pub(crate) fn session_of(&self, action: ActionId) -> Option<i64> {
        self.sessions.cycles.get(&action).map(|part| part.session)
    }

    /// What an action's new state is to its session.
    pub(crate) fn goes(&mut self, action: ActionId, from: State, to: State) {
        let cell = self.session_of(action).and_then(|key| self.rows.sessions.get_mut(&key));
        if let Some((cell, event)) = cell.zip(moved(from, to)) {
            cell.set(after(&cell.value, event));
        }
    }

    /// Puts on record what an action used beyond what its mandates had.
    pub(crate) fn breached(
        &mut self,
        settlement: &Settlement,
        used: &Used,
        amounts: [&Usage; 2],
        mandates: &[Box<str>],
    ) -> Result<(), Error> {
        let Some(part) = self.sessions.cycles.get(&settlement.action) else { return Ok(()) };
        let (session, cause) = (part.session, part.last.clone());
        let Some(tenant) = self.row(settlement.action).map(|row| row.stored.tenant.clone()) else {
            return Ok(());
        };
        for jti in mandates {
            let account = &self.rows.account(identity::account(&tenant, jti), jti).value;
            let events = breaches(settlement, used, amounts, account);
            for event in events.map_err(|error| Error::Rejected(error.to_string().into()))? {
                self.tells(event, Place { session, intent: None, cause: Some(cause.clone()) })?;
            }
        }
        Ok(())
    }

    /// Stops the session of an action, because of what was just said of that.
    pub(crate) fn stops(&mut self, action: ActionId, halts: &Event) -> Result<(), Error> {
        let cell = self.session_of(action).and_then(|key| self.rows.sessions.get_mut(&key));
        let Some(cell) = cell else { return Ok(()) };
        // One that is stopped already, or over, has that on record.
        let Ok(stopped) = cell.value.step(SessionEvent::Suspended) else { return Ok(()) };
        cell.set(stopped);
        self.stopped(action, halts)
    }

    /// Puts on record that a session is stopped.
    pub(crate) fn stopped(&mut self, action: ActionId, halts: &Event) -> Result<(), Error> {
        let Some(part) = self.sessions.cycles.get(&action) else { return Ok(()) };
        let place = Place { session: part.session, intent: None, cause: Some(part.last.clone()) };
        self.tells(halts.clone(), place).map(drop)
    }

    /// Lowers how far people agree to whatever the session of an action does from now on, and puts that on record. One that
    /// is over has had its last record.
    pub(crate) fn limits(&mut self, approval: &Approval) -> Result<(), Error> {
        let Some((set, part)) = approval.limits.zip(self.sessions.cycles.get(&approval.action)) else {
            return Ok(());
        };
        let place = Place { session: part.session, intent: None, cause: Some(part.last.clone()) };
        let cell = self.rows.sessions.get_mut(&place.session).filter(|cell| cell.value.closed.is_none());
        let Some(cell) = cell else { return Ok(()) };
        cell.set(after(&cell.value, SessionEvent::Limited(set)));
        let told = limited(approval, set, cell.value.limits);
        let key = place.session;
        let entry = self.tells(told, place)?;
        self.sessions.limited.insert(key, entry);
        Ok(())
    }

    pub(crate) fn takes_place(
        &mut self,
        place: Place,
        entry: i64,
    ) -> Result<(entry::Session, Arc<dyn Sealer>), Error> {
        let Place { session: key, intent, cause } = place;
        let sealer = self.sessions.sealer.clone();
        let sealer = sealer.ok_or_else(|| Error::Rejected(UNSEALED.into()))?;
        let cell = self.rows.sessions.get_mut(&key).ok_or_else(|| Error::Absent("session".into()))?;
        let (id, seq) = (cell.value.id.to_string(), cell.value.next_record);
        cell.set(Session { next_record: seq + 1, ..cell.value.clone() });
        self.sessions.records.push((key, seq, entry));
        let (causal_parent, intent_id) = (cause.map(String::from), intent.map(String::from));
        Ok((entry::Session { causal_parent, id, intent_id, seq }, sealer))
    }

    pub(crate) fn opening(&self, key: i64) -> Option<Box<str>> {
        self.sessions.opened.iter().find(|(it, _)| *it == key).map(|(_, opened)| opened.opening.clone())
    }

    pub(crate) fn open_session(&mut self, opening: Opening) -> Result<Box<str>, Error> {
        let Opening { tenant, session, payload, event } = opening;
        let key = identity::session(&tenant, &session.id);
        if self.rows.sessions.contains_key(&key) {
            return Err(Error::Exists(session.id));
        }
        if self.sessions.sealer.is_none() {
            return Err(Error::Rejected(UNSEALED.into()));
        }
        self.may_open(&tenant, &session)?;
        let id: Box<str> = self.chain.next_id().into();
        let row = self.next_entry();
        self.rows.sessions.insert(key, Cell { value: session.clone(), changed: true });
        let opened = Governed { row, tenant, session, opening: id.clone(), payload };
        self.sessions.opened.push((key, opened));
        self.tells(event, Place { session: key, intent: None, cause: None })?;
        Ok(id)
    }

    /// Whether a session may begin under its mandate, as all that stands above that is now. One that is not stored is
    /// everybody's, and nobody stops it for others.
    fn may_open(&self, tenant: &Tenant, session: &Session) -> Result<(), Error> {
        let jti = &session.mandate_id;
        let Some(above) = self.issued(tenant, jti).map(|it| it.chain.clone()) else { return Ok(()) };
        let mut line = above.iter().chain([jti]);
        if let Some(ended) = line.clone().find(|jti| self.account(tenant, jti).revoked_at.is_some()) {
            return Err(Error::Absent(ended.clone()));
        }
        let root = line.next().unwrap_or(jti);
        self.must_be_free(tenant, &session.subject, root).map_err(Error::Cluster)
    }

    pub(crate) fn governed(&self, tenant: &Tenant, id: &str) -> Option<Governed> {
        let of = |it: &&Governed| it.tenant == *tenant && *it.session.id == *id;
        self.all_governed().find(|it| of(&it))
    }

    fn all_governed(&self) -> impl DoubleEndedIterator<Item = Governed> {
        self.sessions.opened.iter().filter_map(|(key, opened)| {
            Some(Governed { session: self.rows.sessions.get(key)?.value.clone(), ..opened.clone() })
        })
    }

    pub(crate) fn governed_sessions(
        &self,
        tenant: &Tenant,
        of: Option<&Subject>,
        after: Option<i64>,
        limit: u32,
    ) -> Page<Governed> {
        let wanted = |it: &Governed| {
            it.tenant == *tenant
                && of.is_none_or(|of| it.session.subject == *of)
                && after.is_none_or(|after| it.row < after)
        };
        let rows = self.all_governed().rev().filter(wanted).take(limit as usize).collect();
        page(rows, limit, |it: &Governed| it.row)
    }

    pub(crate) fn sessions_under(&self, tenant: &Tenant, jti: &str) -> Vec<Governed> {
        let under = |it: &Governed| {
            let mandate = self.mandate_of(it);
            *it.session.mandate_id == *jti
                || mandate.is_some_and(|mandate| mandate.chain.iter().any(|above| **above == *jti))
        };
        let open = |it: &Governed| it.tenant == *tenant && it.session.closed.is_none();
        self.all_governed().filter(|it| open(it) && under(it)).collect()
    }

    pub(crate) fn held_under(
        &mut self,
        tenant: &Tenant,
        jti: &str,
        subject: &Subject,
        now_ms: i64,
    ) -> Option<Box<str>> {
        let under = |it: &&Mandate| *it.jti == *jti || it.chain.iter().any(|above| **above == *jti);
        let theirs = self.mandates.iter().filter(|it| it.tenant == *tenant && it.subject == *subject);
        let held: Vec<Mandate> = theirs.filter(under).cloned().collect();
        held.into_iter().find(|it| self.lapse_of(it, now_ms).is_none()).map(|it| it.jti)
    }

    pub(crate) fn lapsed(&mut self, now_ms: i64, limit: u32) -> Vec<Lapsed> {
        let open: Vec<Governed> = self.all_governed().filter(|it| it.session.closed.is_none()).collect();
        let lapsed = |governed: Governed| {
            let why = match self.mandate_ended(&governed, now_ms) {
                Some(Lapse::Expired { .. }) | None if governed.session.suspended => Lapse::Stopped,
                why => why?,
            };
            Some(Lapsed { governed, why })
        };
        open.into_iter().filter_map(lapsed).take(limit as usize).collect()
    }

    pub(crate) fn recovering(&self) -> Vec<Recovering> {
        let is_sent = |id: &ActionId| self.row(*id).is_some_and(|row| row.stored.state == State::Sent);
        let taken = |governed: Governed| {
            let key = identity::session(&governed.tenant, &governed.session.id);
            let cycles = self.sessions.cycles.iter().filter(|(_, part)| part.session == key);
            let sent: Vec<ActionId> = cycles.map(|(id, _)| *id).filter(is_sent).collect();
            let initiated = self.sessions.recovering.get(&key).map(|it| it.id.clone());
            (initiated.is_some() || !sent.is_empty()).then_some(Recovering { governed, initiated, sent })
        };
        self.all_governed().filter_map(taken).collect()
    }

    fn mandate_ended(&mut self, governed: &Governed, now_ms: i64) -> Option<Lapse> {
        let mandate = self.mandate_of(governed)?.clone();
        self.lapse_of(&mandate, now_ms)
    }

    fn lapse_of(&mut self, mandate: &Mandate, now_ms: i64) -> Option<Lapse> {
        for jti in std::iter::once(&mandate.jti).chain(mandate.chain.iter().rev()) {
            let account = self.rows.account(identity::account(&mandate.tenant, jti), jti);
            if let Some(at_ms) = account.value.revoked_at {
                return Some(Lapse::Revoked { mandate: jti.clone(), at_ms });
            }
        }
        (mandate.expires_ms <= now_ms).then(|| Lapse::Expired { mandate: mandate.jti.clone() })
    }

    fn mandate_of(&self, governed: &Governed) -> Option<&Mandate> {
        self.issued(&governed.tenant, &governed.session.mandate_id)
    }

    pub(crate) fn hear(&mut self, heard: SecurityEvent, event: Event) -> Result<Heard, Error> {
        let same = |(it, _): &&(SecurityEvent, Box<str>)| {
            it.tenant == heard.tenant && it.issuer == heard.issuer && it.jti == heard.jti
        };
        if let Some((before, id)) = self.sessions.heard.iter().find(same) {
            return Ok(if before.hash == heard.hash { Heard::Again(id.clone()) } else { Heard::Taken });
        }
        let id: Box<str> = self.chain.next_id().into();
        self.event(event)?;
        self.sessions.heard.push((heard, id.clone()));
        Ok(Heard::New(id))
    }

    pub(crate) fn declare(&mut self, declaring: Declaring) -> Result<Declared, Error> {
        let Declaring { tenant, session, intent, mandate, sequence, event } = declaring;
        let key = identity::session(&tenant, &session);
        let Some(governed) = self.governed(&tenant, &session) else { return Ok(Declared::NoSession) };
        let stands = match governed.session.step(SessionEvent::Declared { sequence }) {
            Ok(stands) => stands,
            Err(refusal) => return Ok(Declared::Refused(refusal)),
        };
        let same =
            |it: &Declaration| it.tenant == tenant && it.mandate == mandate && it.intention.intent == intent;
        if self.sessions.declared.iter().any(same) {
            return Ok(Declared::Duplicate);
        }
        self.rows.sessions.insert(key, Cell { value: stands, changed: true });
        let id: Box<str> = self.chain.next_id().into();
        let record = event.record.clone();
        let place = Place { session: key, intent: Some(intent.clone()), cause: Some(governed.opening) };
        let row = self.tells(event, place)?;
        let entry = self.entries.get(&row).map(|written| written.bytes.clone()).unwrap_or_default();
        let intention = Intention { intent, session, record_id: id, entry, record };
        self.sessions.declared.push(Declaration {
            tenant,
            mandate,
            entry: row,
            intention: intention.clone(),
        });
        Ok(Declared::New(Box::new(intention)))
    }

    pub(crate) fn intention(
        &self,
        tenant: &Tenant,
        session: &str,
        intent: Option<&str>,
    ) -> Option<Intention> {
        self.governed(tenant, session)?;
        let wanted = |it: &&Declaration| {
            it.tenant == *tenant
                && *it.intention.session == *session
                && intent.is_none_or(|intent| *it.intention.intent == *intent)
        };
        self.sessions.declared.iter().rev().find(wanted).map(|it| it.intention.clone())
    }

    pub(crate) fn begun_as(&self, tenant: &Tenant, id: ActionId) -> Option<Box<str>> {
        self.row(id).filter(|row| row.stored.tenant == *tenant)?;
        self.sessions.cycles.get(&id).map(|part| part.first.clone())
    }

    pub(crate) fn turn(&mut self, turn: Turn) -> Result<(Box<str>, Session), Error> {
        let Turn { tenant, session, event, cause, record, expects } = turn;
        let key = identity::session(&tenant, &session);
        let governed = self.governed(&tenant, &session).ok_or(Error::Absent(session))?;
        comes_now(&governed.session, expects)?;
        if let Some(found) = self.cluster_of(&tenant, &governed.session.id).filter(|_| leaves(event)) {
            found.cluster.must_be_free().map_err(Error::Cluster)?;
        }
        fits(record.event, self.sessions.recovering.contains_key(&key), &governed.session.id)?;
        if let Some(event) = event {
            let stands = governed.session.step(event).map_err(Error::Session)?;
            self.rows.sessions.insert(key, Cell { value: stands, changed: true });
        }
        let id: Box<str> = self.chain.next_id().into();
        let cause = Some(cause.unwrap_or(governed.opening));
        let entry = self.tells(record.clone(), Place { session: key, intent: None, cause })?;
        let recovery = Recovery { id: id.clone(), entry };
        match record.event {
            RECOVERY_INITIATED => drop(self.sessions.recovering.insert(key, recovery)),
            RECOVERY_COMPLETE => drop(self.sessions.recovering.remove(&key)),
            _ => {}
        }
        if [RECOVERY_INITIATED, RECOVERY_COMPLETE].contains(&record.event) {
            self.sessions.recovered.push(key);
        }
        let stands = self.rows.sessions.get(&key).map(|cell| cell.value.clone());
        let stands = stands.unwrap_or(governed.session);
        if stands.closed.is_some() {
            self.ended((&tenant, &stands, is_by_person(event)), &record, &id)?;
        }
        Ok((id, stands))
    }

    pub(crate) fn records(
        &self,
        tenant: &Tenant,
        session: &str,
        after: Option<u64>,
        limit: u32,
    ) -> Vec<Record> {
        let key = identity::session(tenant, session);
        let theirs = self.sessions.records.iter().filter(|(of, ..)| *of == key);
        let record = |(_, seq, row): &(i64, u64, i64)| {
            let Written { bytes, record, .. } = self.entries.get(row)?.clone();
            Some(Record { seq: *seq, row: *row, entry: bytes, record })
        };
        let due = theirs.filter(|(_, seq, _)| after.is_none_or(|after| *seq > after));
        due.filter_map(record).take(limit as usize).collect()
    }

    pub(crate) fn tells(&mut self, event: Event, place: Place) -> Result<i64, Error> {
        self.append_in(event.at_ms, None, &event.draft(), None, Some(event.record), Some(place))
    }
}
