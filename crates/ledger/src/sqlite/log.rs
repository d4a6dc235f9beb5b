//! The [`Log`] of one file.

use std::collections::HashMap;
use std::ops::Range;

use action::{ActionId, Tenant};
use receipt::log::Tile;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::Sqlite;
use super::batch::Batch;
use super::read::{self, Sql, many, one, unreadable};
use crate::Answer;
use crate::entry::{Heading, event_of};
use crate::log::{self, Fresh, GoesOn, Grown, Growth, Head, Leafed, Log, Passed, Unlogged};
use crate::packed;

/// Name in `meta`: the row of the last entry that was taken.
pub(super) const LOGGED: &str = "logged";

impl Log for Sqlite {
    fn log_name<'a>(&'a self, tenant: &'a Tenant, offered: &'a str) -> Answer<'a, Box<str>> {
        let (tenant, offered): (Tenant, Box<str>) = (tenant.clone(), offered.into());
        self.perform(move |batch| batch.log_name(&tenant, &offered).map(Ok))
    }

    fn begin_anew(&self, names: Vec<(Tenant, Box<str>)>) -> Answer<'_, ()> {
        self.perform(move |batch| batch.begin_anew(&names).map(Ok))
    }

    fn fresh(&self, limit: u32) -> Answer<'_, Fresh> {
        self.look(move |db| fresh(db, limit))
    }

    fn payloads(&self, actions: Vec<ActionId>) -> Answer<'_, HashMap<ActionId, Vec<u8>>> {
        self.look(move |db| {
            let mut found = HashMap::with_capacity(actions.len());
            for id in actions {
                let sql = "SELECT payload FROM action WHERE id = ?1";
                let read = |row: &Row<'_>| Ok(packed::unpack(row.get_ref(0)?.as_blob()?));
                found.extend(one(db, sql, [id.as_bytes()], read)?.flatten().map(|payload| (id, payload)));
            }
            Ok(found)
        })
    }

    fn grow(&self, growth: Growth) -> Answer<'_, bool> {
        self.perform(move |batch| batch.grow(&growth).map(Ok))
    }

    fn log_head<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Head> {
        self.look(move |db| head(db, tenant))
    }

    fn log_tiles<'a>(&'a self, tenant: &'a Tenant, tiles: Vec<Tile>) -> Answer<'a, Vec<(Tile, Vec<u8>)>> {
        self.look(move |db| {
            let mut found = Vec::with_capacity(tiles.len());
            for tile in tiles {
                let sql = "SELECT hashes FROM log_tile WHERE tenant = ?1 AND level = ?2 AND number = ?3";
                let values = params![tenant.as_str(), tile.level, tile.index.cast_signed()];
                let hashes: Option<Vec<u8>> = one(db, sql, values, |row| row.get(0))?;
                found.extend(hashes.map(|hashes| (tile, hashes)));
            }
            Ok(found)
        })
    }

    fn log_leaves<'a>(&'a self, tenant: &'a Tenant, from: u64, limit: u32) -> Answer<'a, Vec<Leafed>> {
        self.look(move |db| {
            let sql = "SELECT first, leaves FROM log_leaf WHERE tenant = ?1 AND first < ?2 + ?3 AND first >=
                       (SELECT max(first) FROM log_leaf WHERE tenant = ?1 AND first <= ?2) ORDER BY first";
            let rows = many(db, sql, params![tenant.as_str(), from.cast_signed(), limit], leaves)?;
            Ok(log::within(rows.into_iter().flatten(), from, limit))
        })
    }

    fn leaf_of<'a>(&'a self, tenant: &'a Tenant, entry: i64) -> Answer<'a, Option<Leafed>> {
        self.look(move |db| {
            let sql = "SELECT first, leaves FROM log_leaf WHERE tenant = ?1 AND entry <= ?2
                       ORDER BY entry DESC LIMIT 1";
            let stretch = one(db, sql, params![tenant.as_str(), entry], leaves)?.unwrap_or_default();
            Ok(stretch.into_iter().find(|leafed| leafed.entry == entry))
        })
    }
}

impl Batch<'_> {
    fn log_name(&self, tenant: &Tenant, offered: &str) -> Sql<Box<str>> {
        let sql = "INSERT OR IGNORE INTO log_name VALUES (?1, ?2)";
        self.db.prepare_cached(sql)?.execute([tenant.as_str(), offered])?;
        let name =
            one(self.db, "SELECT name FROM log_name WHERE tenant = ?1", [tenant.as_str()], |row| row.get(0))?;
        Ok(name.unwrap_or_else(|| offered.into()))
    }

    fn begin_anew(&self, names: &[(Tenant, Box<str>)]) -> Sql<()> {
        for sql in ["DELETE FROM log", "DELETE FROM log_tile", "DELETE FROM log_leaf", "DELETE FROM log_name"]
        {
            self.db.execute(sql, [])?;
        }
        self.db.execute("DELETE FROM meta WHERE name = ?1", [LOGGED])?;
        names.iter().try_for_each(|(tenant, name)| self.log_name(tenant, name).map(drop))
    }

    /// Keeps (one root): everything is looked at before anything is written, in the transaction that writes it.
    fn grow(&self, growth: &Growth) -> Sql<bool> {
        if read::meta(self.db, LOGGED)?.unwrap_or(0) != growth.after {
            return Ok(false);
        }
        for grown in &growth.logs {
            if head(self.db, &grown.tenant)? != grown.from {
                return Ok(false);
            }
        }
        for grown in &growth.logs {
            write(self.db, grown)?;
        }
        let sql = "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";
        self.db.prepare_cached(sql)?.execute(params![LOGGED, growth.upto])?;
        Ok(true)
    }
}

fn write(db: &Connection, grown: &Grown) -> Sql<()> {
    let tenant = grown.tenant.as_str();
    let sql = "INSERT OR REPLACE INTO log VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?.execute(params![tenant, grown.to.size.cast_signed(), grown.to.root])?;
    let sql = "INSERT INTO log_tile VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT DO UPDATE SET hashes = excluded.hashes";
    let mut put = db.prepare_cached(sql)?;
    for (tile, hashes) in &grown.tiles {
        put.execute(params![tenant, tile.level, tile.index.cast_signed(), hashes])?;
    }
    let Some(first) = grown.leaves.first() else { return Ok(()) };
    let values = params![tenant, first.number.cast_signed(), first.entry, log::packed(&grown.leaves)];
    db.prepare_cached("INSERT INTO log_leaf VALUES (?1, ?2, ?3, ?4)")?.execute(values).map(drop)
}

fn head(db: &Connection, tenant: &Tenant) -> Sql<Head> {
    let sql = "SELECT size, root FROM log WHERE tenant = ?1";
    let head = one(db, sql, [tenant.as_str()], |row| {
        Ok(Head { size: row.get::<_, i64>(0)?.cast_unsigned(), root: row.get(1)? })
    });
    Ok(head?.unwrap_or_default())
}

fn fresh(db: &Connection, limit: u32) -> Sql<Fresh> {
    let after = read::meta(db, LOGGED)?.unwrap_or(0);
    let entries = read::entries(db, after, limit)?;
    let Some((last, _)) = entries.last() else { return Ok(Fresh { after, entries: Vec::new() }) };
    let mut receipts = receipts(db, after + 1, *last)?;
    let unlogged = entries.into_iter().map(|(row, bytes)| {
        let until_ms = until_ms(db, &bytes)?;
        Ok(Unlogged { row, bytes, receipt: receipts.remove(&row), until_ms })
    });
    Ok(Fresh { after, entries: unlogged.collect::<Sql<_>>()? })
}

/// The receipts that these entries name, by entry.
fn receipts(db: &Connection, first: i64, last: i64) -> Sql<HashMap<i64, Vec<u8>>> {
    let rows = read::rows_of(db, "outcome", first, Some(last + 1))?;
    let sql = "SELECT entry, document FROM outcome WHERE row >= ?1 AND row < ?2 AND document IS NOT NULL";
    // One that cannot be read has no leaf, but its entry does.
    let read = |row: &Row<'_>| Ok((row.get(0)?, packed::unpack(row.get_ref(1)?.as_blob()?)));
    let receipts = many(db, sql, [rows.start, rows.end], read)?;
    Ok(receipts.into_iter().filter_map(|(entry, document)| Some((entry, document?))).collect())
}

/// Until when the action of an entry goes on, if it does with that entry.
fn until_ms(db: &Connection, entry: &[u8]) -> Sql<Option<i64>> {
    let Some(event) = event_of(entry).filter(|event| GoesOn::is_told_by(event)) else { return Ok(None) };
    let Some(action) = Heading::of(entry).and_then(|heading| heading.action) else { return Ok(None) };
    let sql = "SELECT a.expires, f.until, f.owner IS NOT NULL FROM action a
               JOIN fate f ON f.row = a.row WHERE a.id = ?1";
    let goes_on = one(db, sql, [action.as_bytes()], |row| {
        Ok(GoesOn { expires_ms: row.get(0)?, until_ms: row.get(1)?, in_hand: row.get(2)? })
    })?;
    Ok(goes_on.and_then(|it| it.after(event)))
}

/// What the logs have of these entries; what cannot be read they do not have.
pub(super) fn passed(db: &Connection, entries: Range<i64>) -> Sql<Passed> {
    let mark = read::meta(db, LOGGED)?.unwrap_or(0);
    let sql = "SELECT l.leaves FROM log t JOIN log_leaf l ON l.tenant = t.tenant AND l.entry < ?2
               AND l.entry >= coalesce((SELECT max(entry) FROM log_leaf WHERE tenant = t.tenant AND entry <= ?1), 0)";
    let read = |row: &Row<'_>| Ok(log::unpacked(0, row.get_ref(0)?.as_blob()?));
    let rows = many(db, sql, [entries.start, entries.end], read)?;
    Ok(Passed { mark, entries: rows.into_iter().flatten().flatten().map(|leafed| leafed.entry).collect() })
}

/// Those of one row.
fn leaves(row: &Row<'_>) -> Sql<Vec<Leafed>> {
    let leaves = log::unpacked(row.get(0)?, row.get_ref(1)?.as_blob()?);
    leaves.ok_or_else(|| unreadable(1, Type::Blob))
}
