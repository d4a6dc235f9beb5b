//! Clusters in the store.

use std::collections::BTreeMap;

use action::{Subject, Tenant};
use mandate::{Cluster, ClusterRefusal, ClusterState, Member, Session};
use rusqlite::{Connection, Row, params};

use super::batch::Batch;
use super::filter::{Filter, Kind};
use super::read::{self, Sql};
use super::session::{DESCENDS, Place, opened_as, text, unfit};
use crate::admit::Cell;
use crate::cluster::{Clustering, Happened, Scene, said_in};
use crate::{Clustered, Deed, Error, Event, Grouped, event_of, identity};

impl Batch<'_> {
    pub(super) fn group(&mut self, clustering: &Clustering) -> Sql<Result<Grouped, Error>> {
        let Clustering { tenant, cluster: id, deed, at_ms, .. } = clustering;
        let found = named(self.db, tenant, id)?;
        let before = match (deed, found) {
            (Deed::Form { .. }, Some(_)) => return Ok(Err(Error::Exists(id.clone()))),
            (Deed::Form { deadline_ms, .. }, None) => Clustered {
                tenant: tenant.clone(),
                cluster: Cluster::form(id.clone(), *deadline_ms),
                formed_ms: *at_ms,
                opening: self.tail.chain.next_id().into(),
                entry: self.next_entry(),
            },
            (_, Some(found)) => found,
            (_, None) => return Ok(Err(Error::Absent(id.clone()))),
        };
        let scene = self.scene(clustering, &before.cluster)?;
        match clustering.happens(scene) {
            Ok(happened) => self.happened(&before, happened, None).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// A session that has ended leaves its cluster, in the same commit, or once people have decided about that.
    pub(super) fn ended(
        &mut self,
        (tenant, session, by_person): (&Tenant, &Session, bool),
        record: &Event,
        cause: &str,
    ) -> Sql<()> {
        let Some(before) = of(self.db, tenant, &session.id)? else { return Ok(()) };
        let clustering = Clustering::end_of(session, tenant, &before.cluster, record, by_person);
        let scene = self.scene(&clustering, &before.cluster)?;
        // Where people have to decide about its cluster, it goes once they have.
        if let Ok(happened) = clustering.happens(scene) {
            self.happened(&before, happened, Some(cause.into()))?;
        }
        Ok(())
    }

    fn scene<'c>(&mut self, clustering: &Clustering, cluster: &'c Cluster) -> Sql<Scene<'c>> {
        let Clustering { tenant, session, .. } = clustering;
        let mut sessions = BTreeMap::new();
        for id in cluster.members.iter().map(|member| &member.session).chain([session]) {
            let key = identity::session(tenant, id);
            if let Some(cell) = self.named(key, tenant, id)? {
                sessions.insert(id.clone(), cell.value.clone());
            }
        }
        let mut accounts = BTreeMap::new();
        for link in clustering.lines() {
            let key = identity::account(tenant, &link.jti);
            self.account(key, &link.jti)?;
            let account = self.rows.account(key, &link.jti).value.clone();
            accounts.insert(link.jti.clone(), account);
        }
        let elsewhere = of(self.db, tenant, session)?.is_some_and(|other| other.cluster.id != cluster.id);
        Ok(Scene { cluster, sessions, elsewhere, accounts })
    }

    /// Writes the rows that change, and what is said of it.
    fn happened(&mut self, before: &Clustered, happened: Happened, cause: Option<Box<str>>) -> Sql<Grouped> {
        let tenant = &before.tenant;
        let Happened { cluster, sessions, accounts, told } = happened;
        for session in sessions {
            let cell = self.session(identity::session(tenant, &session.id))?;
            cell.ok_or_else(|| unfit("the session is gone"))?.set(session);
        }
        for (jti, account) in accounts {
            let key = identity::account(tenant, &jti);
            self.rows.accounts.insert(key, Cell { value: account, changed: true });
        }
        let record_id: Box<str> = self.tail.chain.next_id().into();
        let mut entry = before.entry;
        for (at, told) in told.iter().enumerate() {
            let session = identity::session(tenant, &told.session);
            let cause = match (at, &cause) {
                (0, Some(cause)) => Some(cause.clone()),
                (0, None) => opened_as(self.db, session)?,
                _ => Some(record_id.clone()),
            };
            let row = self.tells(&told.event, Place { session, intent: None, cause })?;
            if said_in(told.event.event, &told.event.record).is_some() {
                entry = row;
            }
        }
        let after = Clustered { cluster, entry, ..before.clone() };
        write(self.db, &self.shared.filter, &after)?;
        Ok(Grouped { cluster: after, record_id })
    }
}

fn write(db: &Connection, filter: &Filter, clustered: &Clustered) -> Sql<()> {
    let Clustered { tenant, cluster, formed_ms, opening, entry } = clustered;
    let key = identity::cluster(tenant, &cluster.id);
    db.prepare_cached(
        "INSERT INTO cluster VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO UPDATE SET held = ?5,
         terminated = ?6, entry = ?9",
    )?
    .execute(params![
        key,
        cluster.id,
        tenant.as_str(),
        cluster.deadline_ms,
        cluster.held,
        cluster.terminated,
        formed_ms,
        opening,
        entry,
    ])?;
    db.prepare_cached("DELETE FROM member WHERE cluster = ?1")?.execute([key])?;
    let mut insert = db.prepare_cached("INSERT INTO member VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for (place, member) in (0_i64..).zip(&cluster.members) {
        let Member { session, mandate_id, principal, waits_for } = member;
        let session_key = identity::session(tenant, session);
        insert.execute(params![key, place, session_key, session, mandate_id, principal, waits_for])?;
        filter.add(Kind::Member, session_key);
    }
    Ok(())
}

const CLUSTER: &str =
    "SELECT key, id, tenant, deadline, held, terminated, formed, opening, entry FROM cluster";

pub(crate) fn named(db: &Connection, tenant: &Tenant, id: &str) -> Sql<Option<Clustered>> {
    let found = by_key(db, identity::cluster(tenant, id))?;
    Ok(found.filter(|it| it.tenant == *tenant && *it.cluster.id == *id))
}

pub(crate) fn of(db: &Connection, tenant: &Tenant, session: &str) -> Sql<Option<Clustered>> {
    let sql = "SELECT cluster FROM member WHERE session = ?1 AND id = ?2";
    let values = params![identity::session(tenant, session), session];
    match read::one(db, sql, values, |row| row.get(0))? {
        Some(key) => Ok(by_key(db, key)?.filter(|it| it.tenant == *tenant)),
        None => Ok(None),
    }
}

pub(crate) fn deadlocks(db: &Connection, tenant: &Tenant) -> Sql<Vec<Clustered>> {
    let sql = format!(
        "{CLUSTER} WHERE tenant = ?1 AND NOT terminated AND key IN (SELECT cluster FROM member WHERE waits IS NOT NULL)
         ORDER BY entry"
    );
    let mut stuck = Vec::new();
    for found in read::many(db, &sql, [tenant.as_str()], clustered_at)? {
        let found = with_members(db, found)?;
        if found.cluster.state() == ClusterState::Deadlock {
            stuck.push(found);
        }
    }
    Ok(stuck)
}

/// Lets through where no session of this agent under a mandate of this root is in a cluster about which people have to decide.
pub(crate) fn must_be_free(
    db: &Connection,
    tenant: &Tenant,
    subject: &Subject,
    root: &str,
) -> Sql<Result<(), ClusterRefusal>> {
    let sql = format!(
        "SELECT DISTINCT c.key FROM cluster c JOIN member m ON m.cluster = c.key JOIN session s ON s.key = m.session
         WHERE c.tenant = ?1 AND NOT c.terminated AND s.subject = ?3 AND (m.mandate = ?2 OR m.mandate IN
         (SELECT jti FROM mandate WHERE tenant = ?1 AND {DESCENDS}))"
    );
    let values = params![tenant.as_str(), root, subject.as_str()];
    for key in read::many(db, &sql, values, |row| row.get::<_, i64>(0))? {
        if let Some(Err(refusal)) = by_key(db, key)?.map(|it| it.cluster.must_be_free()) {
            return Ok(Err(refusal));
        }
    }
    Ok(Ok(()))
}

fn by_key(db: &Connection, key: i64) -> Sql<Option<Clustered>> {
    let found = read::one(db, &format!("{CLUSTER} WHERE key = ?1"), [key], clustered_at)?;
    found.map(|found| with_members(db, found)).transpose()
}

fn with_members(db: &Connection, (key, mut found): (i64, Clustered)) -> Sql<Clustered> {
    let sql = "SELECT id, mandate, principal, waits FROM member WHERE cluster = ?1 ORDER BY place";
    found.cluster.members = read::many(db, sql, [key], |row: &Row<'_>| {
        Ok(Member {
            session: row.get(0)?,
            mandate_id: row.get(1)?,
            principal: row.get(2)?,
            waits_for: row.get(3)?,
        })
    })?;
    Ok(found)
}

fn clustered_at(row: &Row<'_>) -> Sql<(i64, Clustered)> {
    let cluster = Cluster {
        id: row.get(1)?,
        members: Vec::new(),
        deadline_ms: row.get(3)?,
        held: row.get(4)?,
        terminated: row.get(5)?,
    };
    let tenant = text(row, 2, |text| Tenant::parse(text).ok())?;
    let clustered =
        Clustered { tenant, cluster, formed_ms: row.get(6)?, opening: row.get(7)?, entry: row.get(8)? };
    Ok((row.get(0)?, clustered))
}

/// Does a record that says how a cluster stands fit the rows? The newest says what they say, and no row is older than
/// what it said last.
pub(crate) fn fits(db: &Connection, row: i64, event: &str, record: &[u8]) -> Sql<bool> {
    let Some(said) = said_in(event, record) else { return Ok(true) };
    let found = read::many(
        db,
        &format!("{CLUSTER} WHERE id = ?1 AND entry >= ?2"),
        params![said.id(), row],
        clustered_at,
    )?;
    for found in found {
        let found = with_members(db, found)?;
        if found.entry > row || said.is(&found.cluster) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Entries that rows of clusters name and that are not theirs; 0 for what names none. Who waits for another is blocked.
pub(crate) fn strays(db: &Connection) -> Sql<Vec<i64>> {
    let sql = "SELECT c.id, c.entry, e.bytes, e.record FROM cluster c LEFT JOIN entry e ON e.row = c.entry";
    let named = |row: &Row<'_>| {
        let (id, entry): (String, i64) = (row.get(0)?, row.get(1)?);
        let (bytes, record): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(2)?, row.get(3)?);
        let event = bytes.as_deref().and_then(event_of);
        let said = event.zip(record).and_then(|(event, record)| said_in(event, &record));
        Ok((entry, said.is_some_and(|said| said.id() == id)))
    };
    let found = read::many(db, sql, [], named)?;
    let mut strays: Vec<i64> =
        found.into_iter().filter(|(_, theirs)| !theirs).map(|(entry, _)| entry).collect();
    let sql = "SELECT coalesce(s.entry, 0) FROM member m LEFT JOIN cluster c ON c.key = m.cluster
               LEFT JOIN session s ON s.key = m.session WHERE c.key IS NULL OR s.key IS NULL
               UNION SELECT s.entry FROM session s LEFT JOIN member m ON m.session = s.key
               WHERE s.closed IS NULL AND (s.blocked IS NULL) <> (m.waits IS NULL)";
    strays.extend(read::many(db, sql, [], |row| row.get::<_, i64>(0))?);
    Ok(strays)
}
