//! The processes that write: each with a chain of its own, and a place in the numbering of rows.
//!
//! ```text
//!   number of a row = milliseconds since 2025, by the database's clock (41 bits) │ count (6 bits) │ slot (6 bits)
//! ```
//!
//! So rows of all processes are in the order of time without anybody waiting for anybody, and numbers stay below 2⁵³.
//! What a process still writes has a higher number than its row in `replica` says (`last`). A process that writes nothing raises
//! its own now and then, and others raise it for one that is late; one that is silent for too long is *ended* by another. Both it
//! finds out before it writes the next time, because every commit begins with a lock on its own row.
//!
//! INVARIANT (horizon): up to the lowest of those numbers nothing is added any more, whoever comes, and that is as far as anybody
//! reads who must not miss anything.

use std::time::Duration;

use tokio::time::sleep;

use super::Access;
use super::copy::is_under_way;
use super::sql::{Db, Done, Failure, answered, get, many, maybe_bytes, number, one, text, write};
use crate::intake::Process;
use crate::world::Numbers;

/// How many processes there may be at once.
pub(super) const SLOTS: i64 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 6;
const COUNT_BITS: u32 = 6;
/// So many of a number are no time.
pub(super) const NUMBER_BITS: u32 = COUNT_BITS + SLOT_BITS;
/// 2025-01-01, in milliseconds since 1970.
pub(super) const EPOCH_MS: i64 = 1_735_689_600_000;

/// This process, as the database knows it.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) number: Process,
    pub(super) slot: i16,
    /// Of its chain, by which it knows its own row: a database that was put back gives numbers once more.
    chain: Box<str>,
    /// This machine's clock.
    clock: fn() -> i64,
}

/// So far the clocks of gateways and database may be apart. What somebody has in hand is theirs for some seconds after it has to
/// be over, and this is less.
const APART_MS: i64 = 2_000;

/// Who was not heard of for so long is taken for gone.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// The end of its chain.
pub(super) struct Own {
    pub(super) chain: Box<str>,
    pub(super) seq: u64,
    pub(super) head: Option<[u8; 32]>,
    pub(super) at_ms: i64,
    last: i64,
    /// The database's time, from between the question and the answer.
    pub(super) clock_ms: i64,
}

pub(super) const OWN: &str =
    "SELECT chain, seq, head, at, last, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, ended
    FROM replica WHERE number = $1 AND chain = $2 FOR UPDATE";

impl Replica {
    /// The end of its own chain, locked until the transaction ends: whatever an earlier one of this process came to is known
    /// then.
    pub(super) async fn own(&self, db: &Db) -> Done<Own> {
        let asked_ms = (self.clock)();
        let row = one(db, OWN, &[&self.number, &&*self.chain]).await?.ok_or(Failure::Ended)?;
        if get(&row, 6)? {
            return Err(Failure::Ended);
        }
        agree(self.clock, asked_ms, get(&row, 5)?)?;
        Ok(Own {
            chain: text(&row, 0)?,
            seq: number(&row, 1)?,
            head: maybe_bytes(&row, 2)?,
            at_ms: get(&row, 3)?,
            last: get(&row, 4)?,
            clock_ms: get(&row, 5)?,
        })
    }

    /// Registers a process in a transaction of its own. Its chain follows on the last one of its slot.
    pub(super) async fn register(db: &Db, access: &Access) -> Done<Replica> {
        answered(db.batch_execute("BEGIN")).await?;
        let registered = register(db, access).await;
        answered(db.batch_execute(if registered.is_ok() { "COMMIT" } else { "ROLLBACK" })).await?;
        let replica = registered?;
        replica.fall_in(db).await?;
        Ok(replica)
    }

    /// Keeps (horizon): until others saw it they went on, and somebody may have read up to where they were. Now nobody reads
    /// beyond it any more, so it begins behind all that was read by then.
    async fn fall_in(&self, db: &Db) -> Done<()> {
        let sql = "UPDATE replica SET last = greatest(last, (SELECT max(last) FROM replica))
                   WHERE number = $1 AND chain = $2 AND NOT ended";
        if write(db, sql, &[&self.number, &&*self.chain]).await? == 0 { Err(Failure::Ended) } else { Ok(()) }
    }

    /// Tells that it is still there, and that it writes nothing up to now any more.
    pub(super) async fn beat(&self, db: &Db) -> Done<()> {
        let sql = format!(
            "UPDATE replica SET beat = clock_timestamp(), last = greatest(last,
             ((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_MS}) << {COUNT_BITS} << {SLOT_BITS})
             WHERE number = $1 AND chain = $2 AND NOT ended
             RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        );
        let asked_ms = (self.clock)();
        let row = one(db, &sql, &[&self.number, &&*self.chain]).await?.ok_or(Failure::Ended)?;
        agree(self.clock, asked_ms, get(&row, 0)?)
    }

    /// It writes nothing any more.
    pub(super) async fn end(&self, db: &Db) -> Done<()> {
        let sql = "UPDATE replica SET ended = TRUE WHERE number = $1 AND chain = $2";
        write(db, sql, &[&self.number, &&*self.chain]).await.map(drop)
    }
}

async fn register(db: &Db, access: &Access) -> Done<Replica> {
    let Access { replica_id, chain_id, silence, clock, has_file, sealer, .. } = access;
    one(db, "SELECT name FROM gate WHERE name = 'registry' FOR UPDATE", &[]).await?;
    if is_under_way(db).await? {
        return Err(Failure::Lost(UNDER_WAY.to_owned()));
    }
    if *has_file && one(db, "SELECT 1 FROM replica LIMIT 1", &[]).await?.is_none() {
        return Err(Failure::Refused(EMPTY.to_owned()));
    }
    let signs_by = sealer.as_ref().map(|sealer| barred(&sealer.key()));
    let sql = "SELECT 1 FROM gate WHERE name = $1";
    if one(db, sql, &[&signs_by]).await?.is_some() {
        return Err(Failure::Refused(ROTATED.to_owned()));
    }
    let slot = match free_slot(db).await? {
        Some(slot) => Some(slot),
        // Only then: after an outage all were silent, and whoever was there already waits for their next sign of life.
        None => {
            end_silent(db, *silence).await?;
            free_slot(db).await?
        }
    };
    let slot = slot.ok_or_else(|| Failure::Lost(format!("{SLOTS} gateways are there already")))?;
    let sql = "SELECT coalesce(max(number), 0) + 1, coalesce(max(last), 0),
               (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM replica";
    let asked_ms = clock();
    let row = one(db, sql, &[]).await?;
    let row = row.ok_or_else(|| Failure::Lost("the registry did not answer".to_owned()))?;
    let (number, last, clock_ms): (i64, i64, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    agree(*clock, asked_ms, clock_ms)?;
    let last = last.max((clock_ms - EPOCH_MS) << COUNT_BITS << SLOT_BITS);
    let sql = "SELECT head FROM replica WHERE slot = $1 ORDER BY number DESC LIMIT 1";
    let head = one(db, sql, &[&slot]).await?.map(|row| maybe_bytes::<32>(&row, 0)).transpose()?.flatten();
    let head = head.as_ref().map(|head| &head[..]);
    let sql = "INSERT INTO replica (number, slot, name, chain, seq, head, at, last, beat)
               VALUES ($1, $2, $3, $4, 0, $5, 0, $6, clock_timestamp())";
    // A process that was taken for gone goes on under a name of its own.
    let known = one(db, "SELECT 1 FROM replica WHERE chain = $1 LIMIT 1", &[chain_id]).await?.is_some();
    let chain = if known { format!("{chain_id}.{number}").into() } else { chain_id.clone() };
    write(db, sql, &[&number, &slot, replica_id, &chain, &head, &last]).await?;
    Ok(Replica { number, slot, chain, clock: *clock })
}

async fn free_slot(db: &Db) -> Done<Option<i16>> {
    let taken = many(db, "SELECT slot FROM replica WHERE NOT ended", &[]).await?;
    let taken = taken.iter().map(|row| get::<i16>(row, 0)).collect::<Done<Vec<_>>>()?;
    Ok((0..SLOTS as i16).find(|slot| !taken.contains(slot)))
}

/// Lets through who has the database's time, as told between then and now. Whose clock is wrong takes over what others are at,
/// and loses what it is at itself.
fn agree(clock: fn() -> i64, asked_ms: i64, told_ms: i64) -> Done<()> {
    let (ahead_ms, behind_ms) = (asked_ms - told_ms, told_ms - clock());
    let (off_ms, how) = if ahead_ms > behind_ms { (ahead_ms, "ahead of") } else { (behind_ms, "behind") };
    if off_ms <= APART_MS {
        return Ok(());
    }
    let off = off_ms / 1000;
    Err(Failure::Lost(format!(
        "this machine's clock is {off} s {how} the database's; set them, nothing is written until they agree"
    )))
}

const ROTATED: &str = "the key with which this gateway signs was rotated at another one: copy that one's folder of keys here, and start again";

const UNDER_WAY: &str = "a store is being copied into this database and is not all there: run `countersign store copy` again, as \
     it was begun, until it says that gateways may start";

const EMPTY: &str = "this database is empty, and there is a store in files here: move it with `countersign store copy`, or, if it was moved \
     before, name the database that it was moved into; to begin anew, use another data directory";

/// Ends the processes that were silent for so long. One that is writing just now is not silent.
pub(super) async fn end_silent(db: &Db, silence: Duration) -> Done<u64> {
    let sql = "UPDATE replica SET ended = TRUE WHERE number IN
               (SELECT number FROM replica WHERE NOT ended AND beat < clock_timestamp() - $1 * interval '1 second'
                ORDER BY number FOR UPDATE SKIP LOCKED)";
    write(db, sql, &[&silence.as_secs_f64()]).await
}

/// What the registry calls a key with which nobody signs any more.
fn barred(key: &str) -> String {
    format!("key {key}")
}

/// How many besides this one may still write. Who is silent may not any more, but where the database was away all were, and each is
/// given the time to be heard again.
pub(super) async fn alone(db: &Db, own: Process) -> Done<u64> {
    if others(db, own).await? == 0 && unended(db, own).await? > 0 {
        sleep(SILENCE).await;
    }
    match others(db, own).await? {
        0 => end_silent(db, SILENCE).await?,
        there => return Ok(there),
    };
    // Whose row was in use just now was not ended, however silent it is.
    unended(db, own).await
}

async fn unended(db: &Db, own: Process) -> Done<u64> {
    let sql = "SELECT count(*) FROM replica WHERE NOT ended AND number <> $1";
    one(db, sql, &[&own]).await?.map_or(Ok(0), |row| number(&row, 0))
}

/// Keeps whoever signs with this key from registering, and has all others register anew. Who is registering just now is waited for, and
/// is one of them.
pub(super) async fn bar(db: &Db, own: Process, key: &str) -> Done<()> {
    let sql = "INSERT INTO gate SELECT $1 FROM (SELECT FROM gate WHERE name = 'registry' FOR UPDATE) g ON CONFLICT DO NOTHING";
    write(db, sql, &[&barred(key)]).await?;
    write(db, "UPDATE replica SET ended = TRUE WHERE NOT ended AND number <> $1", &[&own]).await.map(drop)
}

/// How many besides this one were heard of lately.
pub(super) async fn others(db: &Db, own: Process) -> Done<u64> {
    let sql = "SELECT count(*) FROM replica
               WHERE NOT ended AND number <> $1 AND beat > clock_timestamp() - $2 * interval '1 second'";
    one(db, sql, &[&own, &SILENCE.as_secs_f64()]).await?.map_or(Ok(0), |row| number(&row, 0))
}

/// Says in the name of those who were not heard of for so long that they write nothing up to now any more, so that nobody waits for
/// one that has died, or is stopped. Keeps (horizon): whoever comes back finds it in its own row before it takes its next
/// number, and one whose row is in use is in the midst of a commit, and is waited for.
pub(super) async fn pass_by(db: &Db) -> Done<()> {
    let sql = format!(
        "UPDATE replica SET last = greatest(last,
         ((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_MS}) << {COUNT_BITS} << {SLOT_BITS})
         WHERE number IN (SELECT number FROM replica
         WHERE NOT ended AND beat < clock_timestamp() - $1 * interval '1 second' FOR UPDATE SKIP LOCKED)"
    );
    write(db, &sql, &[&LATE.as_secs_f64()]).await.map(drop)
}

/// Twice the time between two signs of life.
const LATE: Duration = Duration::from_millis(500);

/// Up to this row nothing is added any more: see (horizon).
pub(super) async fn horizon(db: &Db) -> Done<i64> {
    // In one statement: between two of them somebody may register, and write behind what the second one says.
    let sql = "SELECT coalesce(min(last) FILTER (WHERE NOT ended), max(last), 0) FROM replica";
    one(db, sql, &[]).await?.map_or(Ok(0), |row| get(&row, 0))
}

/// The numbers of the rows that it writes next.
pub(super) fn numbers(own: &Own, slot: i16) -> Numbers {
    let now = (own.clock_ms - EPOCH_MS) << COUNT_BITS;
    let next = ((own.last >> SLOT_BITS) + 1).max(now) << SLOT_BITS | i64::from(slot);
    Numbers { entry: next, action: next, step: SLOTS }
}

/// The slot of whoever wrote a row.
pub(super) fn slot_of(row: i64) -> i16 {
    // Below 64.
    (row & (SLOTS - 1)) as i16
}

/// The number that the first row of a time has, in milliseconds since 1970.
pub(super) fn first_at(at_ms: i64) -> i64 {
    (at_ms - EPOCH_MS).max(0) << COUNT_BITS << SLOT_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(last: i64, clock_ms: i64) -> Own {
        Own { chain: "c".into(), seq: 0, head: None, at_ms: 0, last, clock_ms }
    }

    #[test]
    fn numbers_rise_with_the_clock_and_never_fall_back_with_it() {
        let first = numbers(&own(0, EPOCH_MS + 1000), 5);
        assert_eq!((first.entry, slot_of(first.entry)), (first_at(EPOCH_MS + 1000) | 5, 5));
        // The clock went back.
        let next = numbers(&own(first.entry, EPOCH_MS), 5);
        assert_eq!(next.entry, first.entry + SLOTS);
        // Another slot after the same row.
        assert!(numbers(&own(first.entry, EPOCH_MS), 0).entry > first.entry);
    }

    #[test]
    fn numbers_are_told_exactly_in_json_for_decades() {
        let in_2080 = EPOCH_MS + 55 * 366 * 24 * 3_600_000;
        assert!(numbers(&own(0, in_2080), 63).entry < 1 << 53);
    }
}
