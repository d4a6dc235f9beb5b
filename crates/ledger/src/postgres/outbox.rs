//! The [`Outbox`] of a database.
//!
//! Places are numbers of rows, and rows of several chains come in beside each other: nobody reads beyond the horizon, up to
//! which nothing is added any more.

use action::ActionId;
use tokio_postgres::Row;

use super::Postgres;
use super::replica::horizon;
use super::sql::{Done, get, many, maybe_id, most, number, one, write};
use crate::{Answer, Error, Notice, Outbox, Standing, Tried, Waiting};

impl Outbox for Postgres {
    fn give_places(&self, names: Vec<Box<str>>) -> Answer<'_, ()> {
        self.look(move |db| async move {
            let end = horizon(&db).await?;
            for name in &names {
                let sql = "INSERT INTO destination (name, entry, seen) VALUES ($1, $2, clock_timestamp())
                           ON CONFLICT (name) DO UPDATE SET seen = excluded.seen";
                write(&db, sql, &[&&**name, &end]).await?;
            }
            Ok(())
        })
    }

    fn forget_others(&self, names: Vec<Box<str>>) -> Answer<'_, u64> {
        let me = self.process();
        self.look(move |db| async move {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            // One that this gateway does not know may be one that another was given since.
            let sql = "WITH gone AS (DELETE FROM destination WHERE NOT name = ANY($1::text[])
                       AND (seen < clock_timestamp() - interval '1 day'
                            OR NOT EXISTS (SELECT 1 FROM replica WHERE NOT ended AND number <> $2)) RETURNING name)
                       DELETE FROM notice n USING gone g WHERE n.destination = g.name";
            write(&db, sql, &[&names, &me]).await
        })
    }

    fn standing<'a>(&'a self, destination: &'a str) -> Answer<'a, Standing> {
        let name: Box<str> = destination.into();
        let standing = self.look(move |db| async move {
            let sql = "WITH seen AS (UPDATE destination SET seen = clock_timestamp()
                       WHERE name = $1 AND seen < clock_timestamp() - interval '1 hour')
                       SELECT entry, (SELECT count(*) FROM notice WHERE destination = $1) FROM destination WHERE name = $1";
            let row = one(&db, sql, &[&&*name]).await?;
            row.map(|row| Ok(Standing { upto: get(&row, 0)?, waiting: number(&row, 1)? })).transpose()
        });
        Box::pin(async move { standing.await?.ok_or_else(|| Error::Absent(destination.into())) })
    }

    fn put<'a>(&'a self, destination: &'a str, upto: i64, notices: Vec<Notice>) -> Answer<'a, ()> {
        let name: Box<str> = destination.into();
        self.look(move |db| async move {
            let entries: Vec<i64> = notices.iter().map(|it| it.entry).collect();
            let about: Vec<Vec<u8>> = notices.iter().map(|it| about(it.entry, it.action)).collect();
            let actions: Vec<Option<&[u8]>> =
                notices.iter().map(|it| it.action.as_ref().map(|id| &id.as_bytes()[..])).collect();
            let taken: Vec<i64> = notices.iter().map(|it| it.taken_ms).collect();
            // What waits for a destination that is gone would never be told. What its place is behind already another has
            // taken up, and may have told since.
            let sql = "WITH place AS (SELECT name, entry FROM destination WHERE name = $1 FOR UPDATE),
                       moved AS (UPDATE destination d SET entry = greatest(d.entry, $2) FROM place p WHERE d.name = p.name)
                       INSERT INTO notice (destination, entry, about, action, taken, tries, next)
                       SELECT p.name, w.*, 0, w.taken FROM place p,
                       unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::bigint[]) w (entry, about, action, taken)
                       WHERE w.entry > p.entry ON CONFLICT DO NOTHING";
            write(&db, sql, &[&&*name, &upto, &entries, &about, &actions, &taken]).await.map(drop)
        })
    }

    fn untold<'a>(&'a self, destination: &'a str, now_ms: i64, limit: u32) -> Answer<'a, Vec<Waiting>> {
        let (name, me): (Box<str>, _) = (destination.into(), self.process());
        self.look(move |db| async move {
            // Nobody else is given them while they are tried, which takes seconds.
            let sql = "WITH due AS (SELECT entry FROM notice n
                       WHERE destination = $1 AND next <= $2 AND NOT EXISTS
                         (SELECT 1 FROM notice o
                          WHERE o.destination = n.destination AND o.about = n.about AND o.entry < n.entry)
                       AND (teller IS NULL OR teller = $4 OR until < clock_timestamp())
                       ORDER BY entry LIMIT $3 FOR UPDATE OF n SKIP LOCKED)
                       UPDATE notice n SET teller = $4, until = clock_timestamp() + interval '2 minutes' FROM due d
                       WHERE n.destination = $1 AND n.entry = d.entry RETURNING n.entry, n.action, n.taken, n.tries";
            let rows = many(&db, sql, &[&&*name, &now_ms, &most(limit), &me]).await?;
            let mut due = rows.iter().map(waiting).collect::<Done<Vec<_>>>()?;
            due.sort_unstable_by_key(|waiting| waiting.notice.entry);
            Ok(due)
        })
    }

    fn tried<'a>(&'a self, destination: &'a str, tries: Vec<Tried>) -> Answer<'a, ()> {
        let name: Box<str> = destination.into();
        self.look(move |db| async move {
            let done: Vec<i64> = tries.iter().filter(|it| it.again_ms.is_none()).map(|it| it.entry).collect();
            let again: Vec<(i64, i64)> =
                tries.iter().filter_map(|it| Some((it.entry, it.again_ms?))).collect();
            let (entries, next): (Vec<i64>, Vec<i64>) = again.into_iter().unzip();
            let sql = "WITH gone AS (DELETE FROM notice WHERE destination = $1 AND entry = ANY($2::bigint[]))
                       UPDATE notice n SET tries = n.tries + 1, next = w.next, teller = NULL, until = NULL
                       FROM unnest($3::bigint[], $4::bigint[]) w (entry, next)
                       WHERE n.destination = $1 AND n.entry = w.entry";
            write(&db, sql, &[&&*name, &done, &entries, &next]).await.map(drop)
        })
    }
}

/// By what notices wait for each other: the action, or else the entry itself.
fn about(entry: i64, action: Option<ActionId>) -> Vec<u8> {
    action.map_or_else(|| entry.to_be_bytes().to_vec(), |action| action.as_bytes().to_vec())
}

fn waiting(row: &Row) -> Done<Waiting> {
    let notice = Notice { entry: get(row, 0)?, action: maybe_id(row, 1)?, taken_ms: get(row, 2)? };
    let tries: i32 = get(row, 3)?;
    Ok(Waiting { notice, tries: tries.unsigned_abs() })
}
