//! Governed sessions in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use action::{ActionId, Subject, Tenant};
use mandate::{Session, SessionEvent, Usage};

use super::World;
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
pub(super) struct Sessions {
    pub(super) sealer: Option<Arc<dyn Sealer>>,
    /// As they were opened; how they stand is among the rows.
    opened: Vec<(i64, Governed)>,
    declared: Vec<Intention>,
    /// The mandate of each declaration, with its tenant.
    under: Vec<(Tenant, Box<str>)>,
    /// Session and entry, in the order of the chain.
    records: Vec<(i64, i64)>,
    cycles: HashMap<ActionId, Part>,
    /// Those whose recovery began and did not end yet, with the record of that.
    recovering: BTreeMap<i64, Box<str>>,
    /// With the id of its record.
    heard: Vec<(SecurityEvent, Box<str>)>,
}

struct Part {
    session: i64,
    intent: Option<Box<str>>,
    /// Its first record.
    first: Box<str>,
    last: Box<str>,
}

/// Where in a session an entry is to stand.
pub(super) struct Place {
    pub(super) session: i64,
    pub(super) intent: Option<Box<str>>,
    pub(super) cause: Option<Box<str>>,
}

impl World {
    /// The place of an action's next entry, if it is a cycle.
    pub(super) fn place_of(&mut self, action: Option<ActionId>) -> Option<Place> {
        let next: Box<str> = self.chain.next_id().into();
        let part = self.sessions.cycles.get_mut(&action?)?;
        let cause = Some(std::mem::replace(&mut part.last, next));
        Some(Place { session: part.session, intent: part.intent.clone(), cause })
    }

    /// Notes that a new action is a cycle: its first entry is caused by its declaration.
    pub(super) fn begins(&mut self, item: &Item) {
        let known = item.session.filter(|key| self.rows.sessions.contains_key(key));
        let Some((session, Cycle { intent, .. })) = known.zip(item.cycle.as_ref()) else { return };
        let name = self.rows.sessions.get(&session).map(|cell| cell.value.id.clone());
        let of = |it: &&Intention| Some(&it.session) == name.as_ref() && Some(&it.intent) == intent.as_ref();
        let declared = self.sessions.declared.iter().find(of).map(|it| it.record_id.clone());
        let last = declared.or_else(|| self.opening(session)).unwrap_or_default();
        let part = Part { session, intent: intent.clone(), first: self.chain.next_id().into(), last };
        self.sessions.cycles.insert(item.intent.id, part);
    }

    /// The key of the session that an action is a cycle of.
    pub(super) fn session_of(&self, action: ActionId) -> Option<i64> {
        self.sessions.cycles.get(&action).map(|part| part.session)
    }

    /// What an action's new state is to its session.
    pub(super) fn goes(&mut self, action: ActionId, from: State, to: State) {
        let cell = self.session_of(action).and_then(|key| self.rows.sessions.get_mut(&key));
        if let Some((cell, event)) = cell.zip(moved(from, to)) {
            cell.set(after(&cell.value, event));
        }
    }

    /// Puts on record what an action used beyond what its mandates had.
    pub(super) fn breached(
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
    pub(super) fn stops(&mut self, action: ActionId, halts: &Event) -> Result<(), Error> {
        let cell = self.session_of(action).and_then(|key| self.rows.sessions.get_mut(&key));
        let Some(cell) = cell else { return Ok(()) };
        // One that is stopped already, or over, has that on record.
        let Ok(stopped) = cell.value.step(SessionEvent::Suspended) else { return Ok(()) };
        cell.set(stopped);
        self.stopped(action, halts)
    }

    /// Puts on record that a session is stopped.
    pub(super) fn stopped(&mut self, action: ActionId, halts: &Event) -> Result<(), Error> {
        let Some(part) = self.sessions.cycles.get(&action) else { return Ok(()) };
        let place = Place { session: part.session, intent: None, cause: Some(part.last.clone()) };
        self.tells(halts.clone(), place).map(drop)
    }

    /// Lowers how far people agree to whatever the session of an action does from now on, and puts that on record. One that
    /// is over has had its last record.
    pub(super) fn limits(&mut self, approval: &Approval) -> Result<(), Error> {
        let Some((set, part)) = approval.limits.zip(self.sessions.cycles.get(&approval.action)) else {
            return Ok(());
        };
        let place = Place { session: part.session, intent: None, cause: Some(part.last.clone()) };
        let cell = self.rows.sessions.get_mut(&place.session).filter(|cell| cell.value.closed.is_none());
        let Some(cell) = cell else { return Ok(()) };
        cell.set(after(&cell.value, SessionEvent::Limited(set)));
        let told = limited(approval, set, cell.value.limits);
        self.tells(told, place).map(drop)
    }

    pub(super) fn takes_place(
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
        self.sessions.records.push((key, entry));
        let (causal_parent, intent_id) = (cause.map(String::from), intent.map(String::from));
        Ok((entry::Session { causal_parent, id, intent_id, seq }, sealer))
    }

    pub(super) fn opening(&self, key: i64) -> Option<Box<str>> {
        self.sessions.opened.iter().find(|(it, _)| *it == key).map(|(_, opened)| opened.opening.clone())
    }

    pub(super) fn open_session(&mut self, opening: Opening) -> Result<Box<str>, Error> {
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
        let row = self.last_entry() + 1;
        self.rows.sessions.insert(key, Cell::stored(session.clone()));
        let opened = Governed { row, tenant, session, opening: id.clone(), payload };
        self.sessions.opened.push((key, opened));
        self.tells(event, Place { session: key, intent: None, cause: None })?;
        Ok(id)
    }

    /// Whether a session may begin under its mandate, as all that stands above that is now. One that is not stored is
    /// everybody's, and nobody stops it for others.
    fn may_open(&self, tenant: &Tenant, session: &Session) -> Result<(), Error> {
        let jti = &session.mandate_id;
        let mut known = self.mandates.iter().filter(|it| it.tenant == *tenant);
        let Some(above) = known.find(|it| it.jti == *jti).map(|it| it.chain.clone()) else { return Ok(()) };
        let mut line = above.iter().chain([jti]);
        if let Some(ended) = line.clone().find(|jti| self.account(tenant, jti).revoked_at.is_some()) {
            return Err(Error::Absent(ended.clone()));
        }
        let root = line.next().unwrap_or(jti);
        self.must_be_free(tenant, &session.subject, root).map_err(Error::Cluster)
    }

    pub(super) fn governed(&self, tenant: &Tenant, id: &str) -> Option<Governed> {
        let of = |it: &&Governed| it.tenant == *tenant && *it.session.id == *id;
        self.all_governed().find(|it| of(&it))
    }

    fn all_governed(&self) -> impl DoubleEndedIterator<Item = Governed> {
        self.sessions.opened.iter().filter_map(|(key, opened)| {
            Some(Governed { session: self.rows.sessions.get(key)?.value.clone(), ..opened.clone() })
        })
    }

    pub(super) fn governed_sessions(
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

    pub(super) fn sessions_under(&self, tenant: &Tenant, jti: &str) -> Vec<Governed> {
        let under = |it: &Governed| {
            let mandate = self.mandate_of(it);
            *it.session.mandate_id == *jti
                || mandate.is_some_and(|mandate| mandate.chain.iter().any(|above| **above == *jti))
        };
        let open = |it: &Governed| it.tenant == *tenant && it.session.closed.is_none();
        self.all_governed().filter(|it| open(it) && under(it)).collect()
    }

    pub(super) fn held_under(
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

    pub(super) fn lapsed(&mut self, now_ms: i64, limit: u32) -> Vec<Lapsed> {
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

    pub(super) fn recovering(&self) -> Vec<Recovering> {
        let is_sent = |id: &ActionId| self.row(*id).is_some_and(|row| row.stored.state == State::Sent);
        let taken = |governed: Governed| {
            let key = identity::session(&governed.tenant, &governed.session.id);
            let cycles = self.sessions.cycles.iter().filter(|(_, part)| part.session == key);
            let sent: Vec<ActionId> = cycles.map(|(id, _)| *id).filter(is_sent).collect();
            let initiated = self.sessions.recovering.get(&key).cloned();
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
        let of = |it: &&Mandate| it.tenant == governed.tenant && it.jti == governed.session.mandate_id;
        self.mandates.iter().find(of)
    }

    pub(super) fn hear(&mut self, heard: SecurityEvent, event: Event) -> Result<Heard, Error> {
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

    pub(super) fn declare(&mut self, declaring: Declaring) -> Result<Declared, Error> {
        let Declaring { tenant, session, intent, mandate, sequence, event } = declaring;
        let key = identity::session(&tenant, &session);
        let Some(governed) = self.governed(&tenant, &session) else { return Ok(Declared::NoSession) };
        let stands = match governed.session.step(SessionEvent::Declared { sequence }) {
            Ok(stands) => stands,
            Err(refusal) => return Ok(Declared::Refused(refusal)),
        };
        let under = (tenant, mandate);
        let mut known = self.sessions.declared.iter().zip(&self.sessions.under);
        if known.any(|(it, its)| it.intent == intent && *its == under) {
            return Ok(Declared::Duplicate);
        }
        self.rows.sessions.insert(key, Cell::stored(stands));
        let id: Box<str> = self.chain.next_id().into();
        let record = event.record.clone();
        let place = Place { session: key, intent: Some(intent.clone()), cause: Some(governed.opening) };
        self.tells(event, place)?;
        let entry = self.entries.last().map(|(entry, _)| entry.clone()).unwrap_or_default();
        let declared = Intention { intent, session, record_id: id, entry, record };
        self.sessions.declared.push(declared.clone());
        self.sessions.under.push(under);
        Ok(Declared::New(Box::new(declared)))
    }

    pub(super) fn intention(
        &self,
        tenant: &Tenant,
        session: &str,
        intent: Option<&str>,
    ) -> Option<Intention> {
        self.governed(tenant, session)?;
        let wanted =
            |it: &&Intention| *it.session == *session && intent.is_none_or(|intent| *it.intent == *intent);
        self.sessions.declared.iter().rev().find(wanted).cloned()
    }

    pub(super) fn begun_as(&self, tenant: &Tenant, id: ActionId) -> Option<Box<str>> {
        self.row(id).filter(|row| row.stored.tenant == *tenant)?;
        self.sessions.cycles.get(&id).map(|part| part.first.clone())
    }

    pub(super) fn turn(&mut self, turn: Turn) -> Result<(Box<str>, Session), Error> {
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
            self.rows.sessions.insert(key, Cell::stored(stands));
        }
        let id: Box<str> = self.chain.next_id().into();
        let cause = Some(cause.unwrap_or(governed.opening));
        self.tells(record.clone(), Place { session: key, intent: None, cause })?;
        match record.event {
            RECOVERY_INITIATED => drop(self.sessions.recovering.insert(key, id.clone())),
            RECOVERY_COMPLETE => drop(self.sessions.recovering.remove(&key)),
            _ => {}
        }
        let stands = self.rows.sessions.get(&key).map(|cell| cell.value.clone());
        let stands = stands.unwrap_or(governed.session);
        if stands.closed.is_some() {
            self.ended((&tenant, &stands, is_by_person(event)), &record, &id)?;
        }
        Ok((id, stands))
    }

    pub(super) fn records(
        &self,
        tenant: &Tenant,
        session: &str,
        after: Option<u64>,
        limit: u32,
    ) -> Vec<Record> {
        let key = identity::session(tenant, session);
        let rows = self.sessions.records.iter().filter(|(of, _)| *of == key).map(|(_, row)| *row);
        let record = |(seq, row): (u64, i64)| {
            let (entry, record) = self.entries.get(usize::try_from(row - 1).ok()?)?.clone();
            Some(Record { seq, row, entry, record })
        };
        let numbered = (0..).zip(rows).filter(|(seq, _)| after.is_none_or(|after| *seq > after));
        numbered.filter_map(record).take(limit as usize).collect()
    }

    pub(super) fn tells(&mut self, event: Event, place: Place) -> Result<i64, Error> {
        self.append_in(event.at_ms, None, &event.draft(), None, Some(event.record), Some(place))
    }
}
