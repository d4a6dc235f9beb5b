//! Reading governed sessions and their clusters.

use std::collections::BTreeMap;

use action::{ActionId, Subject, Tenant};
use mandate::ClusterState;
use tokio_postgres::Row;

use super::load::{CLUSTER, DESCENDS, SESSION, clustered_at, governed_at, with_members};
use super::read::{at_hand, readable};
use super::rules;
use super::sql::{Db, Done, at_once, get, id, many, most, number, one, text};
use crate::entry;
use crate::stored::page;
use crate::{Clustered, Governed, Intention, Lapse, Lapsed, Page, Record, Recovering, identity};

pub(super) async fn session(db: &Db, of: &Tenant, id: &str) -> Done<Option<Governed>> {
    let sql = format!("{SESSION} WHERE s.tenant = $1 AND s.key = $2");
    let found = one(db, &sql, &[&of.as_str(), &identity::session(of, id)]).await?;
    let found = found.as_ref().map(governed_at).transpose()?;
    Ok(found.filter(|it| it.is(of, id)))
}

/// A session, unless it cannot be read because somebody altered it: then it is left out and keeps nobody from the others.
fn legible(row: &Row) -> Done<Option<Governed>> {
    let found = readable(governed_at(row))?;
    if found.is_none() {
        tracing::error!(key = get::<i64>(row, 0)?, "a stored session cannot be read and is left out");
    }
    Ok(found)
}

pub(super) async fn sessions(
    db: &Db,
    of: &Tenant,
    agent: Option<&Subject>,
    after: Option<i64>,
    limit: u32,
) -> Done<Page<Governed>> {
    let sql = format!(
        "{SESSION} WHERE s.tenant = $1 AND ($2::text IS NULL OR s.subject = $2) AND s.entry < $3
         ORDER BY s.entry DESC LIMIT $4"
    );
    let after = after.unwrap_or(i64::MAX);
    let rows = many(db, &sql, &[&of.as_str(), &agent.map(Subject::as_str), &after, &most(limit)]).await?;
    let rows = rows.iter().map(|row| Ok((get::<i64>(row, 18)?, legible(row)?))).collect::<Done<Vec<_>>>()?;
    let Page { rows, next } = page(rows, limit, |(row, _)| *row);
    Ok(Page { rows: rows.into_iter().filter_map(|(_, found)| found).collect(), next })
}

pub(super) async fn sessions_under(db: &Db, of: &Tenant, jti: &str) -> Done<Vec<Governed>> {
    let sql = format!(
        "{SESSION} WHERE s.tenant = $1 AND s.closed IS NULL AND (s.mandate = $2 OR s.mandate IN
         (SELECT jti FROM mandate WHERE tenant = $1 AND {DESCENDS})) ORDER BY s.entry"
    );
    let rows = many(db, &sql, &[&of.as_str(), &jti]).await?;
    Ok(rows.iter().map(legible).collect::<Done<Vec<_>>>()?.into_iter().flatten().collect())
}

pub(super) async fn held_under(
    db: &Db,
    of: &Tenant,
    jti: &str,
    agent: &Subject,
    now_ms: i64,
) -> Done<Option<Box<str>>> {
    let sql = format!(
        "SELECT jti FROM mandate WHERE tenant = $1 AND subject = $3 AND (jti = $2 OR {DESCENDS}) ORDER BY row"
    );
    for row in many(db, &sql, &[&of.as_str(), &jti, &agent.as_str()]).await? {
        let held = text(&row, 0)?;
        if lapse_of(db, of, &held, now_ms).await?.is_none() {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

pub(super) async fn lapsed(db: &Db, now_ms: i64, limit: u32) -> Done<Vec<Lapsed>> {
    // What descends from another is looked at below, mandate by mandate.
    let sql = format!(
        "{SESSION} WHERE s.closed IS NULL AND (s.suspended OR EXISTS (SELECT 1 FROM mandate m
         LEFT JOIN account a ON a.tenant = m.tenant AND a.key = m.account WHERE m.tenant = s.tenant AND m.jti = s.mandate
         AND (m.expires <= $1 OR a.revoked IS NOT NULL OR m.chain IS NOT NULL))) ORDER BY s.entry"
    );
    let mut found = Vec::new();
    for row in many(db, &sql, &[&now_ms]).await? {
        if found.len() >= limit as usize {
            break;
        }
        let Some(governed) = legible(&row)? else { continue };
        // Under a mandate that cannot be read nothing is admitted.
        let ended = lapse_of(db, &governed.tenant, &governed.session.mandate_id, now_ms).await;
        let why = match readable(ended)?.flatten() {
            Some(Lapse::Expired { .. }) | None if governed.session.suspended => Lapse::Stopped,
            Some(why) => why,
            None => continue,
        };
        found.push(Lapsed { governed, why });
    }
    Ok(found)
}

/// How a mandate, or one that it descends from, has ended, if it has.
async fn lapse_of(db: &Db, of: &Tenant, jti: &str, now_ms: i64) -> Done<Option<Lapse>> {
    let Some(held) = rules::mandate(db, of, jti).await? else { return Ok(None) };
    for jti in std::iter::once(&held.mandate.jti).chain(held.mandate.chain.iter().rev()) {
        let sql = "SELECT revoked FROM account WHERE tenant = $1 AND key = $2 AND revoked IS NOT NULL";
        if let Some(row) = one(db, sql, &[&of.as_str(), &identity::account(of, jti)]).await? {
            return Ok(Some(Lapse::Revoked { mandate: jti.clone(), at_ms: get(&row, 0)? }));
        }
    }
    Ok((held.mandate.expires_ms <= now_ms).then_some(Lapse::Expired { mandate: held.mandate.jti }))
}

pub(super) async fn recovering(db: &Db, me: i64) -> Done<Vec<Recovering>> {
    at_once(db, recovering_now(db, me)).await
}

async fn recovering_now(db: &Db, me: i64) -> Done<Vec<Recovering>> {
    // What another is at was left behind by nobody.
    let sent = format!(
        "SELECT c.tenant, c.session, f.id FROM fate f JOIN cycle c ON c.action = f.id
         WHERE f.state = 2 AND f.state <= 3 AND {} ORDER BY f.row",
        at_hand()
    );
    let mut open: BTreeMap<(String, i64), Vec<ActionId>> = BTreeMap::new();
    for row in many(db, "SELECT tenant, key FROM session WHERE recovering IS NOT NULL", &[]).await? {
        open.entry((get(&row, 0)?, get(&row, 1)?)).or_default();
    }
    for row in many(db, &sent, &[&me]).await? {
        open.entry((get(&row, 0)?, get(&row, 1)?)).or_default().push(id(&row, 2)?);
    }
    let mut found = Vec::with_capacity(open.len());
    for ((of, key), sent) in open {
        let sql = format!("{SESSION} WHERE s.tenant = $1 AND s.key = $2");
        let Some(row) = one(db, &sql, &[&of, &key]).await? else { continue };
        let Some(governed) = legible(&row)? else { continue };
        let initiated = match get::<Option<i64>>(&row, 23)? {
            Some(entry) => {
                let bytes = one(db, "SELECT bytes FROM entry WHERE row = $1", &[&entry]).await?;
                bytes.map(|row| get::<&[u8]>(&row, 0).map(entry::id_of)).transpose()?.flatten()
            }
            None => None,
        };
        found.push(Recovering { governed, initiated, sent });
    }
    Ok(found)
}

pub(super) async fn intention(
    db: &Db,
    of: &Tenant,
    session: &str,
    intent: Option<&str>,
) -> Done<Option<Intention>> {
    let sql = match intent {
        Some(_) => {
            "SELECT d.intent, d.id, e.record, e.bytes FROM declaration d JOIN entry e ON e.row = d.entry
             WHERE d.tenant = $1 AND d.session = $2 AND d.intent = $3"
        }
        None => {
            "SELECT d.intent, d.id, e.record, e.bytes FROM declaration d JOIN entry e ON e.row = d.entry
             WHERE d.tenant = $1 AND d.session = $2 AND $3::text IS NULL ORDER BY d.entry DESC LIMIT 1"
        }
    };
    let row = one(db, sql, &[&of.as_str(), &identity::session(of, session), &intent]).await?;
    let Some(row) = row else { return Ok(None) };
    let record: Option<Vec<u8>> = get(&row, 2)?;
    Ok(Some(Intention {
        intent: text(&row, 0)?,
        session: session.into(),
        record_id: text(&row, 1)?,
        entry: get(&row, 3)?,
        record: record.unwrap_or_default(),
    }))
}

/// The id of the record with which a cycle began.
pub(super) async fn begun_as(db: &Db, of: &Tenant, action: ActionId) -> Done<Option<Box<str>>> {
    let sql = "SELECT first FROM cycle WHERE action = $1 AND tenant = $2";
    let row = one(db, sql, &[&&action.as_bytes()[..], &of.as_str()]).await?;
    row.map(|row| text(&row, 0)).transpose()
}

pub(super) async fn records(
    db: &Db,
    of: &Tenant,
    session: &str,
    after: Option<u64>,
    limit: u32,
) -> Done<Vec<Record>> {
    if self::session(db, of, session).await?.is_none() {
        return Ok(Vec::new());
    }
    let sql = "SELECT r.seq, r.entry, e.bytes, e.record FROM record r JOIN entry e ON e.row = r.entry
               WHERE r.tenant = $1 AND r.session = $2 AND r.seq > $3 ORDER BY r.seq LIMIT $4";
    let from = after.map_or(-1, u64::cast_signed);
    let rows = many(db, sql, &[&of.as_str(), &identity::session(of, session), &from, &most(limit)]).await?;
    let record = |row: &Row| {
        Ok(Record { seq: number(row, 0)?, row: get(row, 1)?, entry: get(row, 2)?, record: get(row, 3)? })
    };
    rows.iter().map(record).collect()
}

/// A cluster with its members, of one moment: each change takes all of them out and puts them in again.
pub(super) async fn cluster(db: &Db, of: &Tenant, id: &str) -> Done<Option<Clustered>> {
    at_once(db, cluster_now(db, of, id)).await
}

pub(super) async fn cluster_now(db: &Db, of: &Tenant, id: &str) -> Done<Option<Clustered>> {
    let sql = format!("{CLUSTER} WHERE tenant = $1 AND id = $2");
    let Some(row) = one(db, &sql, &[&of.as_str(), &id]).await? else { return Ok(None) };
    Ok(Some(with_members(db, clustered_at(&row)?).await?))
}

pub(super) async fn cluster_of(db: &Db, of: &Tenant, session: &str) -> Done<Option<Clustered>> {
    let sql = "SELECT cluster FROM member WHERE tenant = $1 AND session = $2";
    let found = async {
        match one(db, sql, &[&of.as_str(), &session]).await? {
            Some(row) => cluster_now(db, of, get(&row, 0)?).await,
            None => Ok(None),
        }
    };
    at_once(db, found).await
}

pub(super) async fn deadlocks(db: &Db, of: &Tenant) -> Done<Vec<Clustered>> {
    at_once(db, deadlocks_now(db, of)).await
}

async fn deadlocks_now(db: &Db, of: &Tenant) -> Done<Vec<Clustered>> {
    let sql = format!(
        "{CLUSTER} WHERE tenant = $1 AND NOT terminated AND id IN
         (SELECT cluster FROM member WHERE tenant = $1 AND waits IS NOT NULL) ORDER BY entry"
    );
    let mut stuck = Vec::new();
    for row in many(db, &sql, &[&of.as_str()]).await? {
        let found = with_members(db, clustered_at(&row)?).await?;
        if found.cluster.state() == ClusterState::Deadlock {
            stuck.push(found);
        }
    }
    Ok(stuck)
}
