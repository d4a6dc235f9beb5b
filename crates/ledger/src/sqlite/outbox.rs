//! The [`Outbox`] of one file.

use action::ActionId;
use rusqlite::{Connection, Row, params};

use super::Sqlite;
use super::read::{self, Sql, many, one};
use crate::{Answer, Error, Notice, Outbox, Standing, Tried, Waiting};

impl Outbox for Sqlite {
    fn give_places(&self, names: Vec<Box<str>>) -> Answer<'_, ()> {
        self.perform(move |batch| {
            let sql = "INSERT INTO destination VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            let mut begin = batch.db.prepare_cached(sql)?;
            for name in &names {
                begin.execute(params![name, batch.tail.entry - 1])?;
            }
            Ok(Ok(()))
        })
    }

    fn forget_others(&self, names: Vec<Box<str>>) -> Answer<'_, u64> {
        self.perform(move |batch| forget_others(batch.db, &names).map(Ok))
    }

    fn standing<'a>(&'a self, destination: &'a str) -> Answer<'a, Standing> {
        let standing = self.look(move |db| standing(db, destination));
        Box::pin(async move { standing.await?.ok_or_else(|| Error::Absent(destination.into())) })
    }

    fn put<'a>(&'a self, destination: &'a str, upto: i64, notices: Vec<Notice>) -> Answer<'a, ()> {
        let destination: Box<str> = destination.into();
        self.perform(move |batch| {
            let sql = "INSERT INTO notice VALUES (?1, ?2, ?3, ?4, 0, ?4) ON CONFLICT DO NOTHING";
            let mut insert = batch.db.prepare_cached(sql)?;
            for Notice { entry, action, taken_ms } in &notices {
                insert.execute(params![destination, entry, about(*entry, *action), taken_ms])?;
            }
            let sql = "UPDATE destination SET entry = max(entry, ?2) WHERE name = ?1";
            batch.db.prepare_cached(sql)?.execute(params![destination, upto])?;
            Ok(Ok(()))
        })
    }

    fn untold<'a>(&'a self, destination: &'a str, now_ms: i64, limit: u32) -> Answer<'a, Vec<Waiting>> {
        self.look(move |db| {
            let sql = "SELECT entry, action, taken, tries FROM notice n
                       WHERE destination = ?1 AND next <= ?2 AND NOT EXISTS
                         (SELECT 1 FROM notice o
                          WHERE o.destination = n.destination AND o.action = n.action AND o.entry < n.entry)
                       ORDER BY entry LIMIT ?3";
            many(db, sql, params![destination, now_ms, limit], waiting)
        })
    }

    fn tried<'a>(&'a self, destination: &'a str, tries: Vec<Tried>) -> Answer<'a, ()> {
        let destination: Box<str> = destination.into();
        self.perform(move |batch| {
            let mut done =
                batch.db.prepare_cached("DELETE FROM notice WHERE destination = ?1 AND entry = ?2")?;
            let mut again = batch.db.prepare_cached(
                "UPDATE notice SET tries = tries + 1, next = ?3 WHERE destination = ?1 AND entry = ?2",
            )?;
            for Tried { entry, again_ms } in &tries {
                match again_ms {
                    None => done.execute(params![destination, entry])?,
                    Some(again_ms) => again.execute(params![destination, entry, again_ms])?,
                };
            }
            Ok(Ok(()))
        })
    }
}

fn forget_others(db: &Connection, names: &[Box<str>]) -> Sql<u64> {
    let known: Vec<Box<str>> = many(db, "SELECT name FROM destination", [], |row| row.get(0))?;
    let mut forgotten = 0;
    for name in known.iter().filter(|name| !names.contains(name)) {
        let sql = "DELETE FROM notice WHERE destination = ?1";
        forgotten += db.prepare_cached(sql)?.execute([name])? as u64;
        db.prepare_cached("DELETE FROM destination WHERE name = ?1")?.execute([name])?;
    }
    Ok(forgotten)
}

fn standing(db: &Connection, destination: &str) -> Sql<Option<Standing>> {
    let sql =
        "SELECT entry, (SELECT count(*) FROM notice WHERE destination = ?1) FROM destination WHERE name = ?1";
    one(db, sql, [destination], |row| {
        Ok(Standing { upto: row.get(0)?, waiting: row.get::<_, i64>(1)?.cast_unsigned() })
    })
}

/// By what notices wait for each other: the action, or else the entry itself.
fn about(entry: i64, action: Option<ActionId>) -> Vec<u8> {
    action.map_or_else(|| entry.to_be_bytes().to_vec(), |action| action.as_bytes().to_vec())
}

fn waiting(row: &Row<'_>) -> Sql<Waiting> {
    let entry = row.get(0)?;
    let action = match row.get::<_, Vec<u8>>(1)? == about(entry, None) {
        true => None,
        false => Some(read::id(row, 1)?),
    };
    let notice = Notice { entry, action, taken_ms: row.get(2)? };
    Ok(Waiting { notice, tries: row.get(3)? })
}
