//! The [`Log`] of a database. It is grown in a transaction of its own, on a connection of the pool: those who act wait neither
//! for a sequencer nor for the one of another gateway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use action::{ActionId, Tenant};
use receipt::log::Tile;
use tokio_postgres::Row;

use super::replica::{horizon, pass_by};
use super::sql::{Db, Done, Failure, bytes, get, id, many, most, number, one, patiently, text, write};
use super::{Postgres, read};
use crate::Answer;
use crate::entry::{Heading, event_of};
use crate::log::{self, Fresh, GoesOn, Grown, Growth, Head, Leafed, Log, Passed, Unlogged};
use crate::packed;

impl Log for Postgres {
    fn log_name<'a>(&'a self, tenant: &'a Tenant, offered: &'a str) -> Answer<'a, Box<str>> {
        let (tenant, offered): (Tenant, Box<str>) = (tenant.clone(), offered.into());
        self.look(move |db| async move {
            let sql = "INSERT INTO log_name (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            write(&db, sql, &[&tenant.as_str(), &&*offered]).await?;
            let sql = "SELECT name FROM log_name WHERE tenant = $1";
            let row = one(&db, sql, &[&tenant.as_str()]).await?;
            row.map_or(Ok(offered), |row| text(&row, 0))
        })
    }

    fn begin_anew(&self, names: Vec<(Tenant, Box<str>)>) -> Answer<'_, ()> {
        self.look(move |db| async move {
            db.batch_execute("BEGIN").await?;
            let begun = patiently(&db, CLEARING, begin_anew(&db, &names)).await;
            db.batch_execute(if begun.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
            begun
        })
    }

    fn fresh(&self, limit: u32) -> Answer<'_, Fresh> {
        self.look(move |db| async move { fresh(&db, limit).await })
    }

    fn payloads(&self, actions: Vec<ActionId>) -> Answer<'_, HashMap<ActionId, Vec<u8>>> {
        self.look(move |db| async move { payloads(&db, &actions).await })
    }

    fn grow(&self, growth: Growth) -> Answer<'_, bool> {
        self.look(move |db| async move { grow(&db, &growth).await })
    }

    fn log_head<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Head> {
        let tenant = tenant.clone();
        self.look(move |db| async move { head(&db, &tenant).await })
    }

    fn log_tiles<'a>(&'a self, tenant: &'a Tenant, tiles: Vec<Tile>) -> Answer<'a, Vec<(Tile, Vec<u8>)>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { log_tiles(&db, &tenant, &tiles).await })
    }

    fn log_leaves<'a>(&'a self, tenant: &'a Tenant, from: u64, limit: u32) -> Answer<'a, Vec<Leafed>> {
        let tenant = tenant.clone();
        self.look(move |db| async move {
            let sql = "SELECT first, leaves FROM log_leaf WHERE tenant = $1 AND first < $2::bigint + $3::bigint AND first >=
                       (SELECT max(first) FROM log_leaf WHERE tenant = $1 AND first <= $2) ORDER BY first";
            let rows = many(&db, sql, &[&tenant.as_str(), &from.cast_signed(), &most(limit)]).await?;
            let rows = rows.iter().map(leaves).collect::<Done<Vec<_>>>()?;
            Ok(log::within(rows.into_iter().flatten(), from, limit))
        })
    }

    fn leaf_of<'a>(&'a self, tenant: &'a Tenant, entry: i64) -> Answer<'a, Option<Leafed>> {
        let tenant = tenant.clone();
        self.look(move |db| async move {
            let sql = "SELECT first, leaves FROM log_leaf WHERE tenant = $1 AND entry <= $2
                       ORDER BY entry DESC LIMIT 1";
            let row = one(&db, sql, &[&tenant.as_str(), &entry]).await?;
            let stretch = row.as_ref().map(leaves).transpose()?.unwrap_or_default();
            Ok(stretch.into_iter().find(|leafed| leafed.entry == entry))
        })
    }
}

/// The longest that all leaves of a store may take to be deleted, however many there are: nobody acts until they are.
const CLEARING: Duration = Duration::from_secs(6 * 3600);

/// Whoever grows a log meanwhile is waited for, and is too late afterwards. Whoever reads it does not wait, which they would for a
/// `TRUNCATE`.
async fn begin_anew(db: &Db, names: &[(Tenant, Box<str>)]) -> Done<()> {
    one(db, "SELECT upto FROM logged WHERE name = $1 FOR UPDATE", &[&ENTRIES]).await?;
    for sql in ["DELETE FROM log", "DELETE FROM log_tile", "DELETE FROM log_leaf", "DELETE FROM log_name"] {
        write(db, sql, &[]).await?;
    }
    write(db, "UPDATE logged SET upto = 0 WHERE name = $1", &[&ENTRIES]).await?;
    for (tenant, name) in names {
        write(db, "INSERT INTO log_name (tenant, name) VALUES ($1, $2)", &[&tenant.as_str(), &&**name])
            .await?;
    }
    Ok(())
}

/// Keeps (one root): the mark stays locked until all is committed, and nobody grows any log without it.
async fn grow(db: &Db, growth: &Growth) -> Done<bool> {
    db.batch_execute("BEGIN").await?;
    let grown = try_grow(db, growth).await;
    db.batch_execute(if matches!(grown, Ok(true)) { "COMMIT" } else { "ROLLBACK" }).await?;
    grown
}

async fn try_grow(db: &Db, growth: &Growth) -> Done<bool> {
    // Whoever holds it takes these entries: there is nothing to wait for.
    let sql = "SELECT upto FROM logged WHERE name = $1 FOR UPDATE SKIP LOCKED";
    let mark = one(db, sql, &[&ENTRIES]).await?.map(|row| get::<i64>(&row, 0)).transpose()?;
    if mark != Some(growth.after) {
        return Ok(false);
    }
    for grown in &growth.logs {
        if head(db, &grown.tenant).await? != grown.from {
            return Ok(false);
        }
    }
    for grown in &growth.logs {
        put(db, grown).await?;
    }
    write(db, "UPDATE logged SET upto = $2 WHERE name = $1", &[&ENTRIES, &growth.upto]).await?;
    Ok(true)
}

async fn put(db: &Db, grown: &Grown) -> Done<()> {
    let tenant = grown.tenant.as_str();
    let sql = "INSERT INTO log (tenant, size, root) VALUES ($1, $2, $3)
               ON CONFLICT (tenant) DO UPDATE SET size = excluded.size, root = excluded.root";
    write(db, sql, &[&tenant, &grown.to.size.cast_signed(), &&grown.to.root[..]]).await?;
    for (tile, hashes) in &grown.tiles {
        let sql = "INSERT INTO log_tile (tenant, level, number, hashes) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (tenant, level, number) DO UPDATE SET hashes = excluded.hashes";
        let (level, number) = (i16::from(tile.level), tile.index.cast_signed());
        write(db, sql, &[&tenant, &level, &number, hashes]).await?;
    }
    let Some(first) = grown.leaves.first() else { return Ok(()) };
    let sql = "INSERT INTO log_leaf (tenant, first, entry, leaves) VALUES ($1, $2, $3, $4)";
    let leaves = log::packed(&grown.leaves);
    write(db, sql, &[&tenant, &first.number.cast_signed(), &first.entry, &leaves]).await.map(drop)
}

async fn head(db: &Db, tenant: &Tenant) -> Done<Head> {
    let row = one(db, "SELECT size, root FROM log WHERE tenant = $1", &[&tenant.as_str()]).await?;
    row.map_or(Ok(Head::default()), |row| Ok(Head { size: number(&row, 0)?, root: bytes(&row, 1)? }))
}

async fn log_tiles(db: &Db, tenant: &Tenant, tiles: &[Tile]) -> Done<Vec<(Tile, Vec<u8>)>> {
    let levels: Vec<i16> = tiles.iter().map(|tile| tile.level.into()).collect();
    let numbers: Vec<i64> = tiles.iter().map(|tile| tile.index.cast_signed()).collect();
    let sql = "SELECT w.place, t.hashes FROM unnest($2::smallint[], $3::bigint[]) WITH ORDINALITY AS w (level, number, place)
               JOIN log_tile t ON t.tenant = $1 AND t.level = w.level AND t.number = w.number ORDER BY w.place";
    let rows = many(db, sql, &[&tenant.as_str(), &levels, &numbers]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let place = usize::try_from(get::<i64>(row, 0)? - 1).ok();
        let tile = place.and_then(|place| tiles.get(place));
        let tile = tile.ok_or_else(|| Failure::Corrupt("a tile that was not asked for".to_owned()))?;
        found.push((*tile, get(row, 1)?));
    }
    Ok(found)
}

/// No further than up to where nothing is added any more: an entry that came in behind would be left out for ever.
async fn fresh(db: &Arc<Db>, limit: u32) -> Done<Fresh> {
    let row = one(db, "SELECT upto FROM logged WHERE name = $1", &[&ENTRIES]).await?;
    let after: i64 = row.map_or(Ok(0), |row| get(&row, 0))?;
    pass_by(db).await?;
    let upto = horizon(db).await?;
    let entries = read::entries(db, after, upto, limit).await?;
    let Some((last, _)) = entries.last() else { return Ok(Fresh { after, entries: Vec::new() }) };
    let mut receipts = receipts(db, after, *last).await?;
    let actions = entries.iter().map(|(_, bytes)| going_on(bytes)).collect::<Vec<_>>();
    let ends = ends(db, actions.iter().flatten()).await?;
    let unlogged = entries.into_iter().zip(actions).map(|((row, bytes), action)| {
        let goes_on = action.and_then(|action| ends.get(&action));
        let until_ms = goes_on.zip(event_of(&bytes)).and_then(|(it, event)| it.after(event));
        Unlogged { row, bytes, receipt: receipts.remove(&row), until_ms }
    });
    Ok(Fresh { after, entries: unlogged.collect() })
}

/// The receipts that entries of this stretch name, by entry.
async fn receipts(db: &Db, after: i64, last: i64) -> Done<HashMap<i64, Vec<u8>>> {
    let sql = "SELECT entry, document FROM outcome WHERE entry > $1 AND entry <= $2 AND document IS NOT NULL";
    let rows = many(db, sql, &[&after, &last]).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in &rows {
        // One that cannot be read has no leaf, but its entry does.
        let document = packed::unpack(get(row, 1)?);
        found.extend(document.map(|document| Ok::<_, Failure>((get(row, 0)?, document))).transpose()?);
    }
    Ok(found)
}

/// The action of an entry with which it goes on.
fn going_on(entry: &[u8]) -> Option<ActionId> {
    event_of(entry).filter(|event| GoesOn::is_told_by(event))?;
    Heading::of(entry)?.action
}

/// Of one that cannot be unpacked nothing is known, as of one that is not there.
async fn payloads(db: &Db, actions: &[ActionId]) -> Done<HashMap<ActionId, Vec<u8>>> {
    let actions: Vec<&[u8]> = actions.iter().map(|action| &action.as_bytes()[..]).collect();
    let sql = "SELECT id, payload FROM action WHERE id = ANY($1::bytea[])";
    let rows = many(db, sql, &[&actions]).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in &rows {
        let payload = packed::unpack(get(row, 1)?);
        found.extend(payload.map(|payload| Ok::<_, Failure>((id(row, 0)?, payload))).transpose()?);
    }
    Ok(found)
}

/// Until when these actions go on.
async fn ends(db: &Db, actions: impl Iterator<Item = &ActionId>) -> Done<HashMap<ActionId, GoesOn>> {
    let actions: Vec<&[u8]> = actions.map(|action| &action.as_bytes()[..]).collect();
    if actions.is_empty() {
        return Ok(HashMap::new());
    }
    // One by one: a plan that is made while there are few rows would join whole tables, and go on doing so when there are many.
    let sql = "SELECT w.id, s.* FROM unnest($1::bytea[]) w (id) CROSS JOIN LATERAL (
               SELECT a.expires, f.until, f.owner IS NOT NULL FROM action a JOIN fate f ON f.id = a.id
               WHERE a.id = w.id OFFSET 0) s";
    let rows = many(db, sql, &[&actions]).await?;
    let goes_on = |row: &Row| -> Done<GoesOn> {
        Ok(GoesOn { expires_ms: get(row, 1)?, until_ms: get(row, 2)?, in_hand: get(row, 3)? })
    };
    rows.iter().map(|row| Ok((id(row, 0)?, goes_on(row)?))).collect()
}

/// What the logs have of these entries, the last one among them; what cannot be read they do not have.
pub(super) async fn passed(db: &Db, first: i64, last: i64) -> Done<Passed> {
    let row = one(db, "SELECT upto FROM logged WHERE name = $1", &[&ENTRIES]).await?;
    let mark = row.map_or(Ok(0), |row| get(&row, 0))?;
    let sql = "SELECT l.leaves FROM log t JOIN log_leaf l ON l.tenant = t.tenant AND l.entry <= $2
               AND l.entry >= coalesce((SELECT max(entry) FROM log_leaf WHERE tenant = t.tenant AND entry <= $1), 0)";
    let rows = many(db, sql, &[&first, &last]).await?;
    let rows = rows.iter().map(|row| Ok(log::unpacked(0, get(row, 0)?))).collect::<Done<Vec<_>>>()?;
    Ok(Passed { mark, entries: rows.into_iter().flatten().flatten().map(|leafed| leafed.entry).collect() })
}

/// Those of one row.
fn leaves(row: &Row) -> Done<Vec<Leafed>> {
    let leaves = log::unpacked(get(row, 0)?, get(row, 1)?);
    leaves.ok_or_else(|| Failure::Corrupt("a row of leaves of a log is none".to_owned()))
}

/// Name in `logged`: the row of the last entry that was taken.
const ENTRIES: &str = "entries";
