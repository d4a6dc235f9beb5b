//! The [`Shelf`] of a database: one small row for each request that waits for its client.
//!
//! Each statement is a transaction of its own, and what must happen once hangs on the one row that it changes.

use std::time::Duration;

use action::{ActionId, Tenant};
use tokio_postgres::Row;

use super::Postgres;
use super::sql::{Db, Done, Failure, Values, bytes, count, get, many, one, whole, write};
use crate::{Answer, Aside, AsideId, Grip, Shelf, Shelved, TakenUp};

impl Shelf for Postgres {
    fn put_aside(&self, aside: Aside) -> Answer<'_, ()> {
        let holder = self.shared.number();
        self.look(move |db| async move {
            let Aside { id, tenant, action, bound, round, questions, kept } = aside;
            // Words of the round before may not have been heard yet: they are cleared when this one is taken up. A round that
            // lies there already is only set free of its holder, who would not lay down what it has in hand.
            let sql = "INSERT INTO aside (id, tenant, action, bound, holder, round, questions, told, until)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, '{}', clock_timestamp() + $8 * interval '1 second')
                       ON CONFLICT (id) DO UPDATE SET action = excluded.action, holder = excluded.holder,
                       round = excluded.round, questions = excluded.questions, taker = NULL, said = NULL,
                       given_up = FALSE, until = excluded.until
                       WHERE aside.round < excluded.round
                       OR (aside.round = excluded.round AND aside.taker = aside.holder)";
            let action = action.as_ref().map(|action| &action.as_bytes()[..]);
            let (id, bound, seconds) = (&id[..], &bound[..], kept.as_secs_f64());
            let values: Values<'_> =
                &[&id, &tenant.as_str(), &action, &bound, &holder, &whole(round), &questions, &seconds];
            write(&db, sql, values).await.map(drop)
        })
    }

    fn take_up<'a>(&'a self, tenant: &'a Tenant, id: AsideId, round: u32, said: Vec<u8>) -> Answer<'a, Grip> {
        let (tenant, taker) = (tenant.clone(), self.shared.number());
        self.look(move |db| async move {
            let sql = "UPDATE aside SET taker = $4, said = $5, given_up = FALSE, told = '{}'
                       WHERE id = $1 AND tenant = $2 AND round = $3 AND result IS NULL AND taker IS NULL";
            let values: Values<'_> = &[&&id[..], &tenant.as_str(), &whole(round), &taker, &said];
            match write(&db, sql, values).await? {
                1 => Ok(Grip::Taken),
                _ => not_taken(&db, &tenant, id, round).await,
            }
        })
    }

    fn keep<'a>(&'a self, tenant: &'a Tenant, id: AsideId, round: u32) -> Answer<'a, Grip> {
        let tenant = tenant.clone();
        self.look(move |db| async move {
            // Under the number that its holder has there: it may have another one by now.
            let sql = "UPDATE aside SET taker = holder, said = NULL, given_up = FALSE, told = '{}'
                       WHERE id = $1 AND tenant = $2 AND round = $3 AND result IS NULL
                       AND (taker IS NULL OR taker = holder)";
            match write(&db, sql, &[&&id[..], &tenant.as_str(), &whole(round)]).await? {
                1 => Ok(Grip::Taken),
                _ => not_taken(&db, &tenant, id, round).await,
            }
        })
    }

    fn shelved<'a>(
        &'a self,
        tenant: &'a Tenant,
        id: AsideId,
        round: u32,
        words: u32,
    ) -> Answer<'a, Option<Shelved>> {
        let (tenant, own) = (tenant.clone(), self.shared.number());
        self.look(move |db| async move {
            let sql = "SELECT a.round, a.taker IS NULL, a.result IS NOT NULL, a.holder = $5, coalesce(r.ended, TRUE),
                       CASE WHEN a.round <> $3 THEN a.questions END, a.told[$4 + 1 :]
                       FROM aside a LEFT JOIN replica r ON r.number = a.holder WHERE a.id = $1 AND a.tenant = $2";
            let values: Values<'_> = &[&&id[..], &tenant.as_str(), &whole(round), &whole(words), &own];
            one(&db, sql, values).await?.as_ref().map(shelved).transpose()
        })
    }

    fn open_of<'a>(
        &'a self,
        tenant: &'a Tenant,
        action: ActionId,
        bound: [u8; 32],
    ) -> Answer<'a, Option<AsideId>> {
        let (tenant, own) = (tenant.clone(), self.shared.number());
        self.look(move |db| async move {
            let sql =
                "SELECT id FROM aside a WHERE action = $1 AND tenant = $2 AND bound = $3 AND holder <> $4
                       AND taker IS NULL AND result IS NULL
                       AND EXISTS (SELECT 1 FROM replica r WHERE r.number = a.holder AND NOT r.ended)";
            let values: Values<'_> = &[&&action.as_bytes()[..], &tenant.as_str(), &&bound[..], &own];
            one(&db, sql, values).await?.map(|row| bytes(&row, 0)).transpose()
        })
    }

    fn taken_up(&self, known: Vec<AsideId>) -> Answer<'_, Vec<TakenUp>> {
        let own = self.shared.number();
        self.look(move |db| async move {
            let sql = "SELECT id, round, CASE WHEN id = ANY($2::bytea[]) THEN NULL ELSE said END, given_up FROM aside
                       WHERE holder = $1 AND taker <> $1 AND result IS NULL";
            let known: Vec<&[u8]> = known.iter().map(|id| &id[..]).collect();
            many(&db, sql, &[&own, &known]).await?.iter().map(taken_up).collect()
        })
    }

    fn tell(&self, id: AsideId, words: Vec<Vec<u8>>) -> Answer<'_, ()> {
        self.look(move |db| async move {
            let sql = "UPDATE aside SET told = told || $2::bytea[] WHERE id = $1";
            write(&db, sql, &[&&id[..], &words]).await.map(drop)
        })
    }

    fn give_up<'a>(&'a self, tenant: &'a Tenant, id: AsideId, round: u32) -> Answer<'a, ()> {
        let (tenant, taker) = (tenant.clone(), self.shared.number());
        self.look(move |db| async move {
            // By now its client may be at yet another process, with the next round.
            let sql = "UPDATE aside SET given_up = TRUE WHERE id = $1 AND tenant = $2 AND round = $3 AND taker = $4";
            write(&db, sql, &[&&id[..], &tenant.as_str(), &whole(round), &taker]).await.map(drop)
        })
    }

    fn conclude(&self, id: AsideId, result: Vec<u8>, kept: Duration) -> Answer<'_, ()> {
        self.look(move |db| async move {
            let sql = "UPDATE aside SET result = $2, until = clock_timestamp() + $3 * interval '1 second' WHERE id = $1";
            write(&db, sql, &[&&id[..], &result, &kept.as_secs_f64()]).await.map(drop)
        })
    }

    fn take<'a>(&'a self, tenant: &'a Tenant, id: AsideId) -> Answer<'a, Option<Vec<u8>>> {
        let tenant = tenant.clone();
        self.look(move |db| async move {
            let sql =
                "DELETE FROM aside WHERE id = $1 AND tenant = $2 AND result IS NOT NULL AND until >= now()
                       RETURNING result";
            one(&db, sql, &[&&id[..], &tenant.as_str()]).await?.map(|row| get(&row, 0)).transpose()
        })
    }

    fn discard<'a>(&'a self, tenant: &'a Tenant, id: AsideId) -> Answer<'a, ()> {
        let (tenant, own) = (tenant.clone(), self.shared.number());
        self.look(move |db| async move {
            let sql = "DELETE FROM aside a WHERE id = $1 AND tenant = $2 AND (holder = $3
                       OR NOT EXISTS (SELECT 1 FROM replica r WHERE r.number = a.holder AND NOT r.ended))";
            write(&db, sql, &[&&id[..], &tenant.as_str(), &own]).await.map(drop)
        })
    }
}

/// Why a round was not taken up.
async fn not_taken(db: &Db, tenant: &Tenant, id: AsideId, round: u32) -> Done<Grip> {
    let sql = "SELECT round FROM aside WHERE id = $1 AND tenant = $2";
    let row = one(db, sql, &[&&id[..], &tenant.as_str()]).await?;
    Ok(match row.map(|row| count(&row, 0)).transpose()? {
        Some(lies) if lies < round => Grip::Early,
        Some(_) => Grip::Late,
        None => Grip::Gone,
    })
}

fn shelved(row: &Row) -> Done<Shelved> {
    Ok(Shelved {
        round: count(row, 0)?,
        is_open: get(row, 1)?,
        is_over: get(row, 2)?,
        is_own: get(row, 3)?,
        is_orphaned: get(row, 4)?,
        questions: get(row, 5)?,
        words: get(row, 6)?,
    })
}

fn taken_up(row: &Row) -> Done<TakenUp> {
    Ok(TakenUp { id: bytes(row, 0)?, round: count(row, 1)?, said: get(row, 2)?, is_given_up: get(row, 3)? })
}

/// Forgets what nobody comes back for any more: results that were not taken, what somebody held who is gone, and what somebody
/// could not take away when it was over.
pub(super) async fn clear(db: &Db) -> Result<u64, Failure> {
    let sql = "DELETE FROM aside a WHERE a.until < now() AND (a.result IS NOT NULL
               OR NOT EXISTS (SELECT 1 FROM replica r WHERE r.number = a.holder AND NOT r.ended)
               OR a.until < now() - interval '1 day')";
    write(db, sql, &[]).await
}
