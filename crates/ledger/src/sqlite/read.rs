//! Reading rows: the same functions for the writer inside its transaction and for readers in theirs.

use std::ops::Range;
use std::sync::Arc;

use action::{ActionId, Environment, Subject, Tenant};
use mandate::{Account, Granted, Usage};
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use sha2::{Digest, Sha256};

use crate::admit::{Claimed, Footing};
use crate::audit::Terms;
use crate::entry::{PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, Reading, Walk, event_of};
use crate::identity::{self, Claim};
use crate::packed;
use crate::pruned::Pruned;
use crate::stand::Stand;
use crate::stored::page;
use crate::told::{Sums, Told};
use crate::{
    ApiKey, Earlier, Enacted, Erased, Filter, Freeze, Given, Held, Illegible, Labels, Mandate, Naming, Owner,
    Page, Passkey, PrincipalKey, Receipt, Reply, Scope, Settled, State, Stored,
};

pub(crate) type Sql<T> = rusqlite::Result<T>;

const MANDATE: &str = "mandate";

/// How many neighbouring rows share a slice of an index cut into slices: few enough that a slice stays in a handful
/// of pages, and many enough that a search through all slices stays short. Effects are looked for more often.
pub(crate) const EFFECT_SLICE: u32 = 12;
pub(crate) const ADDRESS_SLICE: u32 = 10;

/// Clocks of requests may run this far apart from the order of their rows, in milliseconds: a request keeps the time at
/// which it came in while a provider names its price, which may take two minutes.
const SKEW_MS: i64 = 300_000;

/// What is kept of `outcome l`, what its entry says, and what that of the one before it does; in the order of [`is_whole`].
macro_rules! kept {
    () => {
        "l.at, l.state, l.receipt_id, l.status, l.body, l.payload,
         (SELECT e.bytes FROM entry e WHERE e.row = l.entry),
         (SELECT e.bytes FROM outcome b JOIN entry e ON e.row = b.entry WHERE b.row = l.previous), l.previous"
    };
}

/// The members of [`Stand`], in the order of [`stand_at`], of `action a`, `fate f` and its last outcome `l`.
macro_rules! stand {
    () => {
        "f.state, f.moved, f.outcome, l.entry, l.state,
         CASE WHEN a.needed IS NULL THEN TRUE ELSE a.needed <= (SELECT count(*) FROM approval p
              WHERE p.action = a.row AND p.round = a.round) END"
    };
}

/// The members of [`Stored`], in the order of [`stored_at`].
macro_rules! stored {
    () => {
        concat!(
            "SELECT a.row, a.id, a.tenant, a.environment, a.subject, a.key, a.request_hash, a.archetype, a.principal,
             a.mandates, f.state, a.at, a.expires, f.debit, a.currency, a.payload, o.status, o.body, a.round, a.needed,
             f.token, f.until, f.owner IS NOT NULL, coalesce(a.resumed, a.at), told.bytes,
             f.moved IS NULL AND l.entry = a.entry, ",
            stand!(),
            ", ",
            kept!(),
            " FROM action a JOIN fate f ON f.row = a.row LEFT JOIN outcome o ON o.row = f.reply
             LEFT JOIN outcome l ON l.row = f.outcome LEFT JOIN entry told ON told.row = coalesce(f.moved, a.entry) "
        )
    };
}

/// The members of [`Settled`], in the order of [`settled_at`].
macro_rules! settled {
    () => {
        concat!(
            "SELECT a.id, a.tenant, l.state, l.at, l.status, l.body, l.receipt_id, l.short, l.signature, l.document,
             l.payload, l.entry, ",
            kept!(),
            " FROM outcome l JOIN action a ON a.row = l.action "
        )
    };
}

/// Where a claim belongs in the index: at the row that holds its key, or at the first free number.
pub(crate) enum Slot {
    Taken(Claimed),
    Free(i64),
}

/// Finds a claim. `key` is the full scope and text, because two keys may share 64 bits.
pub(crate) fn slot(db: &Connection, claim: &Claim, key: (&Tenant, Environment, &Subject, &str)) -> Sql<Slot> {
    let mut select = db.prepare_cached(
        "SELECT a.id, a.request_hash, f.state, a.at, a.tenant, a.environment, a.subject, a.key
         FROM action a JOIN fate f ON f.row = a.row WHERE a.slot = ?1",
    )?;
    let mut slot = claim.slot();
    loop {
        let found = select
            .query_row([slot], |row| {
                let holds = row.get_ref(4)?.as_str()? == key.0.as_str()
                    && row.get::<_, i64>(5)? == environment_code(key.1)
                    && row.get_ref(6)?.as_str()? == key.2.as_str()
                    && row.get_ref(7)?.as_str()? == key.3;
                Ok(if holds { Some(claimed(row)?) } else { None })
            })
            .optional()?;
        match found {
            None => return Ok(Slot::Free(slot)),
            Some(Some(claimed)) => return Ok(Slot::Taken(claimed)),
            Some(None) => slot = slot.wrapping_add(1),
        }
    }
}

/// Who made the claim that begins so.
pub(crate) fn claimant(db: &Connection, tenant: &Tenant, half: &[u8; 16]) -> Sql<Option<ActionId>> {
    let sql = "SELECT id, tenant, environment, subject, key FROM action WHERE slot = ?1";
    let mut select = db.prepare_cached(sql)?;
    let mut slot = identity::slot_of(half);
    loop {
        let found = select
            .query_row([slot], |row| {
                let of = (self::tenant(row, 1)?, environment(row, 2)?, subject(row, 3)?);
                let key = row.get_ref(4)?.as_str()?;
                let is_it = of.0 == *tenant && Claim::new(&of.0, of.1, &of.2, key).half() == *half;
                Ok(if is_it { Some(id(row, 0)?) } else { None })
            })
            .optional()?;
        match found {
            Some(None) => slot = slot.wrapping_add(1),
            found => return Ok(found.flatten()),
        }
    }
}

fn claimed(row: &Row<'_>) -> Sql<Claimed> {
    Ok(Claimed { id: id(row, 0)?, request_hash: row.get(1)?, state: state(row, 2)?, at_ms: row.get(3)? })
}

/// The newest actions within the window that stand in the way of this effect, newest first: two at most, so that
/// whoever holds the effect itself learns of the one before.
pub(crate) fn effect(db: &Connection, hash: &[u8; 32], since_ms: i64) -> Sql<Vec<Earlier>> {
    let mut standing = Vec::new();
    let Some(newest) = last_row(db, "action")? else { return Ok(standing) };
    let oldest = first_row_since(db, newest, since_ms.saturating_sub(SKEW_MS))?;
    let mut select = db.prepare_cached(
        "SELECT a.id, coalesce(a.resumed, a.at) claimed, f.state FROM effect e JOIN action a ON a.row = e.action
         JOIN fate f ON f.row = e.action WHERE e.slice = ?1 AND e.tag = ?2 AND a.effect = ?3 AND claimed > ?4
         ORDER BY claimed DESC, e.action DESC",
    )?;
    for slice in (oldest >> EFFECT_SLICE..=newest >> EFFECT_SLICE).rev() {
        let mut rows = select.query(params![slice, identity::tag(hash), hash, since_ms])?;
        while let Some(row) = rows.next()? {
            if state(row, 2)?.claims_effect() {
                standing.push(Earlier { id: id(row, 0)?, at_ms: row.get(1)? });
            }
            if standing.len() == 2 {
                return Ok(standing);
            }
        }
    }
    Ok(standing)
}

/// The effect an action claims, and the row in whose slice the claim is found.
pub(crate) fn effect_place(db: &Connection, action: i64) -> Sql<Option<([u8; 32], i64)>> {
    let sql = "SELECT effect, coalesce(resumed_row, row) FROM action WHERE row = ?1 AND effect IS NOT NULL";
    one(db, sql, [action], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// How an action waits.
pub(crate) struct Waits {
    pub(crate) round: u32,
    pub(crate) needed: u32,
    pub(crate) until_ms: i64,
}

pub(crate) fn hold(db: &Connection, action: i64) -> Sql<Option<Waits>> {
    let sql = "SELECT round, needed, expires FROM action WHERE row = ?1 AND round IS NOT NULL AND expires IS NOT NULL";
    one(db, sql, [action], |row| Ok(Waits { round: row.get(0)?, needed: row.get(1)?, until_ms: row.get(2)? }))
}

/// Where an action stands that is to go on.
pub(crate) fn footing(db: &Connection, id: ActionId) -> Sql<Option<Footing>> {
    let sql = "SELECT f.state, coalesce(a.round, 0), f.token FROM action a JOIN fate f ON f.row = a.row WHERE a.id = ?1";
    one(db, sql, [id.as_bytes()], |row| {
        Ok(Footing { state: state(row, 0)?, round: row.get(1)?, token: row.get(2)? })
    })
}

/// How many people have spoken about this hold; while it is open, all of them have agreed.
pub(crate) fn given(db: &Connection, action: i64, round: u32) -> Sql<u32> {
    let sql = "SELECT count(*) FROM approval WHERE action = ?1 AND round = ?2";
    db.prepare_cached(sql)?.query_row(params![action, round], |row| row.get(0))
}

pub(crate) fn has_decided(db: &Connection, action: i64, round: u32, approver: &Subject) -> Sql<bool> {
    let sql = "SELECT 1 FROM approval WHERE action = ?1 AND round = ?2 AND approver = ?3";
    Ok(one(db, sql, params![action, round, approver.as_str()], |_| Ok(()))?.is_some())
}

pub(crate) fn approvals(db: &Connection, tenant: &Tenant, id: ActionId) -> Sql<Vec<Given>> {
    let sql = "SELECT p.round, p.at, p.record, p.entry, e.bytes FROM action a JOIN approval p ON p.action = a.row
               LEFT JOIN entry e ON e.row = p.entry WHERE a.id = ?1 AND a.tenant = ?2 AND p.record <> x'' ORDER BY p.row";
    many(db, sql, params![id.as_bytes(), tenant.as_str()], |row| {
        let record: Vec<u8> = row.get(2)?;
        let told = row.get_ref(4)?.as_blob_or_null()?.and_then(Reading::of);
        let whole = told.is_some_and(|told| {
            told.action == Some(id) && told.action_hash == Some(Sha256::digest(&record).into())
        });
        Ok(Given { round: row.get(0)?, at_ms: row.get(1)?, record, entry: row.get(3)?, whole })
    })
}

/// A row no later than the first that came in since then: rows are in the order of time, near enough.
pub(crate) fn first_row_since(db: &Connection, newest: i64, since_ms: i64) -> Sql<i64> {
    let mut at = db.prepare_cached("SELECT at FROM action WHERE row >= ?1 ORDER BY row LIMIT 1")?;
    let (mut low, mut high) = (0, newest);
    while low < high {
        let middle = low + (high - low) / 2;
        if at.query_row([middle], |row| row.get::<_, i64>(0))? < since_ms {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

pub(crate) fn last_row(db: &Connection, table: &'static str) -> Sql<Option<i64>> {
    let sql = match table {
        "action" => "SELECT max(row) FROM action",
        "entry" => "SELECT max(row) FROM entry",
        _ => "SELECT max(row) FROM outcome",
    };
    db.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

pub(crate) fn account(db: &Connection, key: i64, jti: &str) -> Sql<Option<Account>> {
    let sql =
        "SELECT epoch, spent, actions, revoked, frozen, seconds, compute, memory, storage, egress, granted,
               granted_compute, granted_storage, granted_egress FROM account WHERE key = ?1";
    one(db, sql, [key], |row| account_at(row, 0, jti))
}

/// What an action debited beside money.
pub(crate) fn usage(db: &Connection, action: i64) -> Sql<Usage> {
    let sql = "SELECT seconds, compute, memory, storage, egress FROM usage WHERE action = ?1";
    Ok(one(db, sql, [action], |row| usage_at(row, 0))?.unwrap_or_default())
}

/// The mandates an action drew on, each with the key of its account.
pub(crate) fn chain(db: &Connection, action: i64) -> Sql<Vec<(i64, Box<str>)>> {
    let found = one(db, "SELECT tenant, mandates FROM action WHERE row = ?1", [action], |row| {
        let mandates: Option<String> = row.get(1)?;
        Ok((tenant(row, 0)?, mandates.unwrap_or_default()))
    })?;
    let Some((tenant, mandates)) = found else { return Ok(Vec::new()) };
    Ok(mandates.split_terminator('\n').map(|jti| (identity::account(&tenant, jti), jti.into())).collect())
}

/// The claims of a mandate that an action drew on, if it was issued here.
pub(crate) fn claims(db: &Connection, action: i64, jti: &str) -> Sql<Option<Vec<u8>>> {
    let sql =
        "SELECT m.claims FROM action a JOIN mandate m ON m.tenant = a.tenant AND m.jti = ?2 WHERE a.row = ?1";
    one(db, sql, params![action, jti], |row| row.get(0))
}

fn account_at(row: &Row<'_>, first: usize, jti: &str) -> Sql<Account> {
    Ok(Account {
        jti: jti.to_owned(),
        epoch: row.get::<_, i64>(first)?.unsigned_abs(),
        spent_minor: row.get(first + 1)?,
        actions: row.get::<_, i64>(first + 2)?.unsigned_abs(),
        revoked_at: row.get(first + 3)?,
        frozen: row.get(first + 4)?,
        used: usage_at(row, first + 5)?,
        granted: Granted {
            seconds: row.get(first + 10)?,
            compute_units: row.get(first + 11)?,
            storage_bytes: row.get(first + 12)?,
            egress_bytes: row.get(first + 13)?,
        },
    })
}

fn usage_at(row: &Row<'_>, first: usize) -> Sql<Usage> {
    let amount = |at: usize| row.get::<_, i64>(first + at).map(i64::unsigned_abs);
    Ok(Usage {
        seconds: amount(0)?,
        compute_units: amount(1)?,
        memory_bytes: amount(2)?,
        storage_bytes: amount(3)?,
        egress_bytes: amount(4)?,
    })
}

/// The declaration that a cycle stands on, and its latest record.
pub(crate) fn cycle(db: &Connection, action: i64) -> Sql<(Option<Box<str>>, Box<str>)> {
    let sql = "SELECT intent, last FROM cycle WHERE action = ?1";
    let found = one(db, sql, [action], |row| Ok((row.get(0)?, row.get(1)?)))?;
    found.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

pub(crate) fn series(db: &Connection, key: i64) -> Sql<Option<Vec<u8>>> {
    one(db, "SELECT bytes FROM series WHERE key = ?1", [key], |row| row.get(0))
}

pub(crate) fn seen(db: &Connection, mark: i64) -> Sql<bool> {
    Ok(one(db, "SELECT 1 FROM seen WHERE mark = ?1", [mark], |_| Ok(()))?.is_some())
}

/// What the caller of an action was last answered, and whether somebody altered that.
pub(crate) fn last_reply(db: &Connection, id: ActionId) -> Sql<(Option<Reply>, bool)> {
    let sql = concat!(settled!(), "JOIN fate f ON f.row = a.row WHERE a.id = ?1 AND l.row = f.reply");
    match readable(one(db, sql, [id.as_bytes()], settled_at))? {
        Some(Some(told)) => Ok((told.reply, !told.whole)),
        Some(None) => Ok((None, false)),
        None => Ok((None, true)),
    }
}

fn reply_at(row: &Row<'_>, first: usize) -> Sql<Option<Reply>> {
    let Some(status) = row.get(first)? else { return Ok(None) };
    Ok(Some(Reply { status, body: unpacked(row, first + 1)? }))
}

pub(crate) fn action(db: &Connection, tenant: &Tenant, id: ActionId) -> Sql<Option<Stored>> {
    let sql = concat!(stored!(), "WHERE a.id = ?1 AND a.tenant = ?2");
    one(db, sql, params![id.as_bytes(), tenant.as_str()], stored_at)
}

pub(crate) fn actions(
    db: &Connection,
    tenant: &Tenant,
    filter: &Filter,
    after: Option<i64>,
    limit: u32,
) -> Sql<Page<Stored>> {
    let sql = concat!(
        stored!(),
        "WHERE a.tenant = ?1 AND a.row < ?2 AND (?3 IS NULL OR a.subject = ?3) AND (?4 IS NULL OR a.archetype = ?4)
         AND (?5 IS NULL OR f.state = ?5) AND (?6 IS NULL OR a.at >= ?6) AND (?7 IS NULL OR a.at < ?7)
         ORDER BY a.row DESC LIMIT ?8"
    );
    let Filter { subject, archetype, state, from_ms, to_ms } = filter;
    let subject = subject.as_ref().map(Subject::as_str);
    let (archetype, state) = (archetype.as_deref(), state.map(State::code));
    let values =
        params![tenant.as_str(), after.unwrap_or(i64::MAX), subject, archetype, state, from_ms, to_ms, limit];
    readable_page(db, sql, values, limit)
}

/// A page of actions. One that cannot be read, because somebody altered it, is left out and keeps nobody from the others.
fn readable_page(db: &Connection, sql: &str, values: impl Params, limit: u32) -> Sql<Page<Stored>> {
    let rows = many(db, sql, values, |row| Ok((row.get::<_, i64>(0)?, readable(stored_at(row))?)))?;
    let Page { rows, next } = page(rows, limit, |(row, _)| *row);
    let read = rows.into_iter().filter_map(|(row, stored)| {
        if stored.is_none() {
            tracing::error!(row, "a stored action cannot be read and is left out");
        }
        stored
    });
    Ok(Page { rows: read.collect(), next })
}

pub(crate) fn unsettled(db: &Connection, after: Option<i64>, limit: u32) -> Sql<Page<Stored>> {
    let sql = concat!(
        stored!(),
        "WHERE a.row IN (SELECT row FROM fate WHERE state IN (2, 3, -5) AND state <= 3 AND row > ?1 ORDER BY row LIMIT ?2)
         ORDER BY a.row"
    );
    readable_page(db, sql, params![after.unwrap_or(0), limit], limit)
}

pub(crate) fn approved(db: &Connection, after: Option<i64>, limit: u32) -> Sql<Page<Stored>> {
    let sql = concat!(
        stored!(),
        "WHERE a.row IN (SELECT row FROM fate WHERE state = 0 AND state <= 3 AND row > ?1 ORDER BY row LIMIT ?2)
         ORDER BY a.row"
    );
    readable_page(db, sql, params![after.unwrap_or(0), limit], limit)
}

pub(crate) fn due(db: &Connection, now_ms: i64, after: Option<i64>, limit: u32) -> Sql<Page<Stored>> {
    let sql = concat!(
        stored!(),
        "WHERE a.row IN (SELECT row FROM fate WHERE state IN (-1, -2, -4, -6, -7) AND state <= 3 AND until <= ?1 AND row > ?2
         ORDER BY row LIMIT ?3) ORDER BY a.row"
    );
    readable_page(db, sql, params![now_ms, after.unwrap_or(0), limit], limit)
}

pub(crate) fn held(
    db: &Connection,
    tenant: &Tenant,
    now_ms: i64,
    after: Option<i64>,
    limit: u32,
) -> Sql<Page<Stored>> {
    let sql = concat!(
        stored!(),
        "WHERE f.state = 1 AND f.state <= 3 AND f.row < ?3 AND a.tenant = ?1 AND a.expires > ?2
         ORDER BY f.row DESC LIMIT ?4"
    );
    readable_page(db, sql, params![tenant.as_str(), now_ms, after.unwrap_or(i64::MAX), limit], limit)
}

/// How many actions of an agent wait for people. Whatever was held lately is looked at, and nothing else.
pub(crate) fn held_of(db: &Connection, tenant: &Tenant, subject: &Subject, now_ms: i64) -> Sql<u32> {
    let sql = "SELECT count(*) FROM action a INDEXED BY action_held CROSS JOIN fate f ON f.row = a.row
               WHERE a.tenant = ?1 AND a.subject = ?2 AND a.expires > ?3 AND f.state = 1";
    db.prepare_cached(sql)?.query_row(params![tenant.as_str(), subject.as_str(), now_ms], |row| row.get(0))
}

pub(crate) fn expired(db: &Connection, now_ms: i64, after: Option<i64>, limit: u32) -> Sql<Page<Stored>> {
    let sql = concat!(
        stored!(),
        "WHERE f.state IN (0, 1) AND f.state <= 3 AND a.expires <= ?1 AND f.row > ?2 ORDER BY f.row LIMIT ?3"
    );
    readable_page(db, sql, params![now_ms, after.unwrap_or(0), limit], limit)
}

/// Actions admitted under a mandate whose fate is open.
pub(crate) fn open_under(db: &Connection, tenant: &Tenant, jti: &str) -> Sql<Vec<ActionId>> {
    let sql =
        "SELECT a.id FROM fate f JOIN action a ON a.row = f.row WHERE f.state IN (-1, -4, -5, -6, -7, -8, -9, 2, 3) AND f.state <= 3
               AND a.tenant = ?1 AND instr(char(10) || a.mandates || char(10), char(10) || ?2 || char(10))
               ORDER BY a.row";
    many(db, sql, [tenant.as_str(), jti], |row| id(row, 0))
}

/// Settled actions whose time to be erased has come. What came in long enough ago and was settled later, or is still
/// open, is passed over.
pub(crate) fn to_erase(db: &Connection, now_ms: i64, after: Option<i64>, limit: u32) -> Sql<Page<Stored>> {
    let sql = concat!(
        stored!(),
        "WHERE a.row IN (SELECT d.action FROM deletion d JOIN fate due ON due.row = d.action
         JOIN outcome last ON last.row = due.outcome
         WHERE d.due <= ?1 AND due.state > 3 AND last.at + d.after <= ?1 AND d.action > ?2 ORDER BY d.action LIMIT ?3)
         ORDER BY a.row"
    );
    readable_page(db, sql, params![now_ms, after.unwrap_or(0), limit], limit)
}

/// The entry that tells of an action's erasure.
pub(crate) fn erasure_of(db: &Connection, action: i64) -> Sql<Option<i64>> {
    one(db, "SELECT entry FROM erasure WHERE action = ?1", [action], |row| row.get(0))
}

/// When the last thing came of an action.
pub(crate) fn last_outcome_ms(db: &Connection, action: i64) -> Sql<Option<i64>> {
    let sql = "SELECT o.at FROM fate f JOIN outcome o ON o.row = f.outcome WHERE f.row = ?1";
    one(db, sql, [action], |row| row.get(0))
}

/// The first entry of a settled action and the last one before it is erased.
pub(crate) fn span(db: &Connection, action: i64) -> Sql<(i64, i64)> {
    let sql = "SELECT a.entry, max(a.entry, coalesce(f.moved, 0), coalesce(o.entry, 0)) FROM action a
               JOIN fate f ON f.row = a.row LEFT JOIN outcome o ON o.row = f.outcome WHERE a.row = ?1";
    db.prepare_cached(sql)?.query_row([action], |row| Ok((row.get(0)?, row.get(1)?)))
}

pub(crate) fn erased(db: &Connection, tenant: &Tenant, id: ActionId) -> Sql<Option<Erased>> {
    let sql = "SELECT a.session, a.verb, a.target, a.level, a.regulations, a.refs, e.row, e.bytes, e.record FROM action a
               JOIN erasure x ON x.action = a.row JOIN entry e ON e.row = x.entry WHERE a.id = ?1 AND a.tenant = ?2";
    one(db, sql, params![id.as_bytes(), tenant.as_str()], |row| {
        let said = Reading::of(row.get_ref(7)?.as_blob()?).ok_or_else(|| unreadable(7, Type::Blob))?;
        let record = row.get_ref(8)?.as_blob_or_null()?.unwrap_or_default().to_vec();
        Ok(Erased { entry: row.get(6)?, at_ms: said.at_ms, record, labels: labels(row, 0)? })
    })
}

fn stored_at(row: &Row<'_>) -> Sql<Stored> {
    let mandates: Option<String> = row.get(9)?;
    Ok(Stored {
        row: row.get(0)?,
        id: id(row, 1)?,
        tenant: tenant(row, 2)?,
        environment: environment(row, 3)?,
        subject: subject(row, 4)?,
        key: row.get(5)?,
        request_hash: row.get(6)?,
        archetype: row.get(7)?,
        principal: row.get(8)?,
        mandates: mandates.iter().flat_map(|list| list.split_terminator('\n')).map(Box::from).collect(),
        state: state(row, 10)?,
        at_ms: row.get(11)?,
        expires_ms: row.get(12)?,
        debit: row.get(13)?,
        currency: row.get(14)?,
        payload: unpacked(row, 15)?,
        reply: reply_at(row, 16)?,
        round: row.get::<_, Option<u32>>(18)?.unwrap_or(0),
        needed: row.get::<_, Option<u32>>(19)?.unwrap_or(0),
        token: row.get(20)?,
        due_ms: row.get::<_, Option<i64>>(21)?.filter(|_| state(row, 10).is_ok_and(State::rests)),
        in_hand: row.get(22)?,
        counted_ms: row.get(23)?,
        naming: naming(row, 24)?,
    })
}

/// How many columns a [`Stand`] takes.
const STAND: usize = 6;

fn stand_at(row: &Row<'_>, first: usize) -> Sql<Stand> {
    let last: Option<i64> = row.get(first + 3)?;
    Ok(Stand {
        state: state(row, first)?,
        moved: row.get(first + 1)?,
        outcome: row.get(first + 2)?,
        last: last.map(|entry| Ok::<_, rusqlite::Error>((entry, state(row, first + 4)?))).transpose()?,
        agreed: row.get(first + 5)?,
    })
}

/// What the entry says with which a row was last written, if it is of that action and leaves it where it stands.
fn naming(row: &Row<'_>, first: usize) -> Sql<Option<Naming>> {
    let Some(bytes) = row.get_ref(first)?.as_blob_or_null()? else { return Ok(None) };
    let Some(entry) = Reading::of(bytes).filter(|entry| entry.action == id(row, 1).ok()) else {
        return Ok(None);
    };
    let stand = stand_at(row, first + 2)?;
    let last = first + 2 + STAND;
    let Some(name) = entry.action_hash.filter(|_| stand.is_left_by(entry.event)) else { return Ok(None) };
    if stand.outcome.is_some() && !readable(is_whole(row, last, entry.action))?.unwrap_or(false) {
        return Ok(None);
    }
    Ok(Some(match row.get::<_, Option<bool>>(first + 1)? {
        Some(true) => Naming::Outcome(unpacked(row, last + 5)?),
        _ => Naming::Row(name),
    }))
}

/// Is an outcome of this action all that its entry names, after the outcome before it?
fn is_whole(row: &Row<'_>, first: usize, action: Option<ActionId>) -> Sql<bool> {
    let said =
        |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_blob_or_null()?.and_then(Reading::of));
    let Some(told) = said(first + 6)?.filter(|told| told.action == action) else { return Ok(false) };
    let before = said(first + 7)?;
    if before.is_none() && row.get_ref(first + 8)? != ValueRef::Null {
        return Ok(false);
    }
    let receipt_id: Option<Box<str>> = row.get(first + 2)?;
    let kept = Told {
        at_ms: row.get(first)?,
        state: state(row, first + 1)?,
        receipt_id: receipt_id.as_deref(),
        sums: Sums::of(&unpacked(row, first + 5)?, reply_at(row, first + 3)?.as_ref()),
        previous: before.and_then(|before| before.action_hash),
    };
    Ok(told.action_hash.is_some_and(|name| kept.name().is_ok_and(|kept| kept == name)))
}

/// What the entry of an outcome names.
pub(crate) fn named_by(db: &Connection, outcome: i64) -> Sql<Option<[u8; 32]>> {
    let sql = "SELECT e.bytes FROM outcome o JOIN entry e ON e.row = o.entry WHERE o.row = ?1";
    let bytes: Option<Vec<u8>> = one(db, sql, [outcome], |row| row.get(0))?;
    Ok(bytes.as_deref().and_then(Reading::of).and_then(|told| told.action_hash))
}

pub(crate) fn outcomes(db: &Connection, tenant: &Tenant, id: ActionId) -> Sql<Vec<Settled>> {
    let sql = "SELECT f.outcome FROM action a JOIN fate f ON f.row = a.row WHERE a.id = ?1 AND a.tenant = ?2";
    let mut next: Option<i64> =
        one(db, sql, params![id.as_bytes(), tenant.as_str()], |row| row.get(0))?.flatten();
    let mut found = Vec::new();
    while let Some(row) = next {
        let sql = concat!(settled!(), "WHERE l.row = ?1");
        let settled = one(db, sql, [row], settled_at)?;
        if settled.as_ref().is_some_and(|settled| settled.action != id) {
            return Err(unreadable(0, Type::Integer));
        }
        found.extend(settled);
        next = before(db, row)?;
    }
    found.reverse();
    Ok(found)
}

/// Has one of the outcomes of an action a receipt, from the latest back?
pub(crate) fn is_told(db: &Connection, latest: Option<i64>) -> Sql<bool> {
    let mut next = latest;
    while let Some(row) = next {
        let sql = "SELECT receipt_id IS NOT NULL FROM outcome WHERE row = ?1";
        if one(db, sql, [row], |row| row.get(0))? == Some(true) {
            return Ok(true);
        }
        next = before(db, row)?;
    }
    Ok(false)
}

/// The outcome before this one, of the same action. Rows are numbered as they are written, so it has a lower number: whoever
/// altered that would have them read in a circle, or have those of another action read.
fn before(db: &Connection, outcome: i64) -> Sql<Option<i64>> {
    let sql =
        "SELECT o.previous, p.action = o.action FROM outcome o LEFT JOIN outcome p ON p.row = o.previous
               WHERE o.row = ?1";
    let found =
        one(db, sql, [outcome], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<bool>>(1)?)))?;
    match found {
        Some((Some(previous), own)) if previous >= outcome || own == Some(false) => {
            Err(unreadable(0, Type::Integer))
        }
        found => Ok(found.and_then(|(previous, _)| previous)),
    }
}

/// Is this outcome among those that are read from the latest on, and does it lead on to the one before it?
pub(crate) fn is_listed(db: &Connection, latest: Option<i64>, outcome: i64) -> Sql<bool> {
    let mut next = latest;
    while let Some(row) = next.filter(|row| *row > outcome) {
        let Ok(previous) = before(db, row) else { return Ok(false) };
        next = previous;
    }
    Ok(next == Some(outcome) && before(db, outcome).is_ok())
}

/// The entry and state of the last outcome of an action before this entry; `latest`: the latest of all.
pub(crate) fn outcome_before(db: &Connection, latest: Option<i64>, entry: i64) -> Sql<Option<(i64, State)>> {
    let sql = "SELECT entry, state, previous FROM outcome WHERE row = ?1";
    let mut next = latest;
    while let Some(row) = next {
        let found =
            one(db, sql, [row], |it| Ok((it.get::<_, i64>(0)?, state(it, 1)?, it.get::<_, Option<i64>>(2)?)));
        let Some((came, state, previous)) = readable(found)?.flatten() else { return Ok(None) };
        if came < entry {
            return Ok(Some((came, state)));
        }
        // Whoever altered the store does not lead it round in a circle.
        next = previous.filter(|previous| *previous < row);
    }
    Ok(None)
}

pub(crate) fn receipt(db: &Connection, tenant: &Tenant, id: &str) -> Sql<Option<Settled>> {
    let sql = concat!(settled!(), "WHERE l.receipt_id = ?1 AND a.tenant = ?2");
    one(db, sql, [id, tenant.as_str()], settled_at)
}

pub(crate) fn address(db: &Connection, text: &str) -> Sql<Option<Settled>> {
    let Some(newest) = last_row(db, "outcome")? else { return Ok(None) };
    let mut select = db.prepare_cached("SELECT outcome FROM address WHERE slice = ?1 AND tag = ?2")?;
    for slice in (0..=newest >> ADDRESS_SLICE).rev() {
        let mut rows = select.query([slice, identity::address(text)])?;
        while let Some(row) = rows.next()? {
            let sql = concat!(settled!(), "WHERE l.row = ?1 AND (l.short = ?2 OR l.signature = ?2)");
            if let Some(found) = one(db, sql, params![row.get::<_, i64>(0)?, text], settled_at)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn settled_at(row: &Row<'_>) -> Sql<Settled> {
    let receipt_id: Option<Box<str>> = row.get(6)?;
    let receipt = match receipt_id {
        None => None,
        Some(id) => {
            Some(Receipt { id, short: row.get(7)?, signature: row.get(8)?, document: unpacked(row, 9)? })
        }
    };
    let action = id(row, 0)?;
    Ok(Settled {
        action,
        tenant: tenant(row, 1)?,
        state: state(row, 2)?,
        at_ms: row.get(3)?,
        reply: reply_at(row, 4)?,
        receipt,
        payload: unpacked(row, 10)?,
        entry: row.get(11)?,
        whole: is_whole(row, 12, Some(action))?,
    })
}

/// Rows of a table that says who may do what, each unless somebody altered it into what cannot be read.
pub(crate) type Legible<T> = Vec<Result<T, Illegible>>;

/// Those that can be read. Whoever altered one keeps nobody from the others.
pub(crate) fn legible<T>(rows: Legible<T>) -> Vec<T> {
    let tell = |Illegible { table, row }: &Illegible| {
        tracing::error!(table, row, "a stored row cannot be read and counts for nothing");
    };
    rows.into_iter().filter_map(|row| row.inspect_err(tell).ok()).collect()
}

/// Each row of an answer, which has its number as `row`.
fn each_of<T>(
    db: &Connection,
    table: &'static str,
    sql: &str,
    values: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Sql<T>,
) -> Sql<Legible<T>> {
    many(db, sql, values, |row| {
        let illegible = Illegible { table, row: row.get("row")? };
        Ok(readable(read(row))?.ok_or(illegible))
    })
}

macro_rules! mandates {
    () => {
        "SELECT m.row AS row, m.tenant, m.jti, m.subject, m.issuer, m.issued, m.expires, m.claims, coalesce(a.epoch, 0),
         coalesce(a.spent, 0), coalesce(a.actions, 0), a.revoked, coalesce(a.frozen, 0), coalesce(a.seconds, 0),
         coalesce(a.compute, 0), coalesce(a.memory, 0), coalesce(a.storage, 0), coalesce(a.egress, 0),
         coalesce(a.granted, 0), coalesce(a.granted_compute, 0), coalesce(a.granted_storage, 0),
         coalesce(a.granted_egress, 0), m.chain, m.kid
         FROM mandate m LEFT JOIN account a ON a.key = m.account "
    };
}

pub(crate) fn mandate(db: &Connection, tenant: &Tenant, jti: &str) -> Sql<Option<Held>> {
    let sql = concat!(mandates!(), "WHERE m.tenant = ?1 AND m.jti = ?2");
    Ok(one(db, sql, [tenant.as_str(), jti], held_at)?.map(|(_, held)| held))
}

pub(crate) fn mandates(
    db: &Connection,
    tenant: &Tenant,
    after: Option<i64>,
    limit: u32,
) -> Sql<Legible<(i64, Held)>> {
    let sql = concat!(mandates!(), "WHERE m.tenant = ?1 AND m.row < ?2 ORDER BY m.row DESC LIMIT ?3");
    each_of(db, MANDATE, sql, params![tenant.as_str(), after.unwrap_or(i64::MAX), limit], held_at)
}

/// Where a mandate is, whether or not it can be read.
pub(crate) fn row_of(mandate: &Result<(i64, Held), Illegible>) -> i64 {
    mandate.as_ref().map_or_else(|illegible| illegible.row, |(row, _)| *row)
}

fn held_at(row: &Row<'_>) -> Sql<(i64, Held)> {
    let jti: Box<str> = row.get(2)?;
    let account = account_at(row, 8, &jti)?;
    let chain: Option<String> = row.get(22)?;
    let mandate = Mandate {
        tenant: tenant(row, 1)?,
        jti,
        subject: subject(row, 3)?,
        issuer: row.get(4)?,
        issued_ms: row.get(5)?,
        expires_ms: row.get(6)?,
        claims: row.get(7)?,
        chain: chain.iter().flat_map(|chain| chain.split_terminator('\n')).map(Box::from).collect(),
        kid: row.get(23)?,
    };
    Ok((row.get(0)?, Held { mandate, account }))
}

/// The mandates of all tenants, each with whether it is revoked.
pub(crate) fn all_mandates(db: &Connection) -> Sql<Legible<Held>> {
    each_of(db, MANDATE, concat!(mandates!(), "ORDER BY m.row"), [], |row| Ok(held_at(row)?.1))
}

/// All that happened and is no action, along the chain, or as much of it as has one of these names. What cannot be read, and
/// a record that its entry does not name, is told of at its place.
pub(crate) fn enacted(db: &Connection, events: Option<&[&str]>) -> Sql<Vec<Enacted>> {
    let sql = "SELECT row, bytes, record FROM entry WHERE record IS NOT NULL ORDER BY row";
    let mut select = db.prepare_cached(sql)?;
    let (mut rows, mut enacted) = (select.query([])?, Vec::new());
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob()?;
        let wanted = events.is_none_or(|all| event_of(bytes).is_some_and(|it| all.contains(&it)));
        if !wanted || recorded(row, 1)?.is_none() {
            continue;
        }
        if let Some(said) = Reading::of(bytes).filter(|said| said.action.is_none()) {
            let (tenant_ref, event) = (said.tenant.map(Box::from), said.event.into());
            enacted.push(Enacted { entry: row.get(0)?, tenant_ref, event, record: row.get(2)? });
        }
    }
    Ok(enacted)
}

/// The record in the column behind an entry's, if that is sound and names it, with what happened.
pub(super) fn recorded<'a>(row: &'a Row<'_>, column: usize) -> Sql<Option<(&'a str, &'a [u8])>> {
    let (Some(bytes), Some(record)) =
        (row.get_ref(column)?.as_blob_or_null()?, row.get_ref(column + 1)?.as_blob_or_null()?)
    else {
        return Ok(None);
    };
    let said = Walk::alone(bytes).filter(|said| said.action_hash == Some(Sha256::digest(record).into()));
    Ok(said.map(|said| (said.event, record)))
}

/// What is stopped. A freeze that cannot be read stops everything: nobody can tell what it was meant to.
pub(crate) fn stops(db: &Connection) -> Sql<Vec<Freeze>> {
    let stop = |Illegible { table, row }| {
        tracing::error!(
            table,
            row,
            "a stored freeze cannot be read, so everything is frozen: see that what the audit trail tells of is frozen, \
             and then thaw `all`"
        );
        Freeze {
            scope: Scope::All,
            include_rollback: true,
            at_ms: 0,
            by: Subject::GATEWAY.into(),
            reason: format!(
                "row {row} of `{table}` cannot be read; see that all is frozen that is to be, then thaw `all`"
            )
            .into(),
        }
    };
    Ok(freezes(db)?.into_iter().map(|freeze| freeze.unwrap_or_else(stop)).collect())
}

/// Takes out the freezes that cannot be read.
pub(crate) fn drop_illegible_freezes(db: &Connection) -> Sql<usize> {
    let bad: Vec<i64> = freezes(db)?.into_iter().filter_map(|it| it.err().map(|it| it.row)).collect();
    // From the last on: each is found by its place among the others.
    let sql = "DELETE FROM freeze WHERE (kind, tenant, name) IN
               (SELECT kind, tenant, name FROM freeze ORDER BY kind, tenant, name LIMIT 1 OFFSET ?1 - 1)";
    bad.into_iter().rev().map(|row| db.prepare_cached(sql)?.execute([row])).sum()
}

pub(crate) fn freezes(db: &Connection) -> Sql<Legible<Freeze>> {
    let sql = "SELECT kind, tenant, name, include_rollback, at, by, reason,
               row_number() OVER (ORDER BY kind, tenant, name) AS row FROM freeze ORDER BY kind, tenant, name";
    each_of(db, "freeze", sql, [], |row| {
        let name: String = row.get(2)?;
        let scope = match row.get_ref(0)?.as_str()? {
            "all" => Scope::All,
            "tenant" => Scope::Tenant(tenant(row, 1)?),
            "agent" => Scope::Agent(tenant(row, 1)?, subject(row, 2)?),
            "archetype" => Scope::Archetype(tenant(row, 1)?, name.into()),
            "provider" => Scope::Provider(name.into()),
            _ => return Err(unreadable(0, Type::Text)),
        };
        Ok(Freeze {
            scope,
            include_rollback: row.get(3)?,
            at_ms: row.get(4)?,
            by: row.get(5)?,
            reason: row.get(6)?,
        })
    })
}

/// Kind, tenant and name of a scope, which are its primary key.
pub(crate) fn scope_key(scope: &Scope) -> (&'static str, &str, &str) {
    match scope {
        Scope::All => ("all", "", ""),
        Scope::Tenant(tenant) => ("tenant", tenant.as_str(), ""),
        Scope::Agent(tenant, subject) => ("agent", tenant.as_str(), subject.as_str()),
        Scope::Archetype(tenant, archetype) => ("archetype", tenant.as_str(), archetype),
        Scope::Provider(provider) => ("provider", "", provider),
    }
}

/// The credentials of one tenant, or of all.
pub(crate) fn keys(db: &Connection, of: Option<&Tenant>) -> Sql<Legible<ApiKey>> {
    let sql =
        "SELECT hash, id, tenant, subject, role, default_mandate, created, revoked, created_by, row FROM api_key
               WHERE ?1 IS NULL OR tenant = ?1 ORDER BY row";
    each_of(db, "api_key", sql, [of.map(Tenant::as_str)], |row| {
        Ok(ApiKey {
            hash: row.get(0)?,
            id: row.get(1)?,
            tenant: tenant(row, 2)?,
            subject: subject(row, 3)?,
            role: row.get(4)?,
            default_mandate: row.get(5)?,
            created_ms: row.get(6)?,
            revoked_ms: row.get(7)?,
            created_by: row.get(8)?,
        })
    })
}

/// The keys of every principal.
pub(crate) fn principal_keys(db: &Connection) -> Sql<Legible<PrincipalKey>> {
    let sql =
        "SELECT tenant, issuer, kid, jwk, created, created_by, revoked, row FROM principal_key ORDER BY row";
    each_of(db, "principal_key", sql, [], |row| {
        Ok(PrincipalKey {
            tenant: tenant(row, 0)?,
            issuer: row.get(1)?,
            kid: row.get(2)?,
            jwk: row.get(3)?,
            created_ms: row.get(4)?,
            created_by: row.get(5)?,
            revoked_ms: row.get(6)?,
        })
    })
}

/// Passkeys of one tenant, or with one credential. One whose row names an entry that is not there, is none of that kind or is
/// altered is not read.
pub(crate) fn passkeys(
    db: &Connection,
    of: Option<&Tenant>,
    credential_id: Option<&[u8]>,
) -> Sql<Legible<Passkey>> {
    let sql = "SELECT p.id, p.tenant, p.credential, p.registered, r.bytes, r.record, p.enrolled, e.bytes, e.record,
               p.revoked, v.bytes, v.record, p.row AS row FROM passkey p LEFT JOIN entry r ON r.row = p.registered
               LEFT JOIN entry e ON e.row = p.enrolled LEFT JOIN entry v ON v.row = p.revoked
               WHERE (?1 IS NULL OR p.tenant = ?1) AND (?2 IS NULL OR p.credential = ?2) ORDER BY p.row";
    each_of(db, "passkey", sql, params![of.map(Tenant::as_str), credential_id], |row| {
        let mark = |column, event| match row.get_ref(column)? {
            ValueRef::Null => Ok(None),
            _ => match recorded(row, column + 1)? {
                Some((told, record)) if told == event => Ok(Some(record.to_vec())),
                _ => Err(unreadable(column, Type::Integer)),
            },
        };
        Ok(Passkey {
            id: row.get(0)?,
            tenant: tenant(row, 1)?,
            credential_id: row.get(2)?,
            entry: row.get(3)?,
            registered: mark(3, PASSKEY_REGISTERED)?.unwrap_or_default(),
            enrolled: mark(6, PASSKEY_ENROLLED)?,
            revoked: mark(9, PASSKEY_REVOKED)?,
        })
    })
}

pub(crate) fn tenant_key(db: &Connection, tenant: &Tenant) -> Sql<Option<Vec<u8>>> {
    one(db, "SELECT wrapped FROM tenant_key WHERE tenant = ?1", [tenant.as_str()], |row| row.get(0))
}

pub(crate) fn delivered(db: &Connection, alike: &[u8; 32]) -> Sql<u64> {
    let times = one(db, "SELECT times FROM delivery WHERE alike = ?1", [alike], |row| row.get::<_, i64>(0))?;
    Ok(times.and_then(|times| u64::try_from(times).ok()).unwrap_or_default())
}

pub(crate) fn kept(db: &Connection, digest: &str) -> Sql<Option<Vec<u8>>> {
    one(db, "SELECT text FROM kept WHERE digest = ?1", [digest], |row| row.get(0))
}

/// What an action's entries are found by and shown with.
pub(crate) fn owner(db: &Connection, id: ActionId) -> Sql<Option<Owner>> {
    let sql = "SELECT tenant, subject, archetype, session, verb, target, level, regulations, refs, at, payload FROM action
               WHERE id = ?1";
    one(db, sql, [id.as_bytes()], |row| {
        let (tenant, subject) = (tenant(row, 0)?, subject(row, 1)?);
        let (archetype, labels) = (row.get(2)?, labels(row, 3)?);
        Ok(Owner {
            id,
            tenant,
            subject,
            archetype,
            labels,
            at_ms: row.get(9)?,
            payload: readable(unpacked(row, 10))?.unwrap_or_else(|| {
                tracing::error!(action = %id, "a stored action cannot be read; its entries are listed without it");
                Vec::new()
            }),
        })
    })
}

/// What an action's entries are found by.
pub(crate) fn terms(db: &Connection, id: ActionId) -> Sql<Option<Arc<Terms>>> {
    let sql = "SELECT tenant, subject, archetype, session, verb, target, level, regulations, refs FROM action WHERE id = ?1";
    one(db, sql, [id.as_bytes()], |row| {
        let archetype: Box<str> = row.get(2)?;
        Ok(labels(row, 3)?.terms(&tenant(row, 0)?, &subject(row, 1)?, &archetype))
    })
}

/// What the action in this row is listed by.
pub(crate) fn labels_at(db: &Connection, row: i64) -> Sql<Option<Labels>> {
    let sql = "SELECT session, verb, target, level, regulations, refs FROM action WHERE row = ?1";
    one(db, sql, [row], |row| labels(row, 0))
}

fn labels(row: &Row<'_>, first: usize) -> Sql<Labels> {
    let lines = |at: usize| -> Sql<Vec<Box<str>>> {
        let list: Option<String> = row.get(at)?;
        Ok(list.iter().flat_map(|list| list.split_terminator('\n')).map(Box::from).collect())
    };
    Ok(Labels {
        session: row.get(first)?,
        verb: row.get(first + 1)?,
        target: row.get(first + 2)?,
        level: row.get(first + 3)?,
        regulations: lines(first + 4)?,
        refs: lines(first + 5)?,
    })
}

/// An action as its rows say it stands.
pub(crate) struct Standing {
    pub(crate) row: i64,
    pub(crate) tenant: Tenant,
    pub(crate) subject: Subject,
    pub(crate) archetype: Box<str>,
    pub(crate) key: Option<Box<str>>,
    /// The entry it began with.
    pub(crate) entry: i64,
    /// When it came in, milliseconds since 1970, UTC.
    pub(crate) at_ms: i64,
    /// Was it judged again?
    pub(crate) resumed: bool,
    pub(crate) stand: Stand,
    /// Is what was asked gone?
    pub(crate) empty: bool,
    /// The entry that tells of its erasure.
    pub(crate) erased: Option<i64>,
}

pub(crate) fn standing(db: &Connection, id: ActionId) -> Sql<Option<Standing>> {
    let sql = concat!(
        "SELECT a.row, a.tenant, a.subject, a.archetype, a.key, a.entry, a.resumed IS NOT NULL, length(a.payload) = 0,
         x.entry, a.at, ",
        stand!(),
        " FROM action a JOIN fate f ON f.row = a.row LEFT JOIN outcome l ON l.row = f.outcome
         LEFT JOIN erasure x ON x.action = a.row WHERE a.id = ?1"
    );
    one(db, sql, [id.as_bytes()], |row| {
        Ok(Standing {
            row: row.get(0)?,
            tenant: tenant(row, 1)?,
            subject: subject(row, 2)?,
            archetype: row.get(3)?,
            key: row.get(4)?,
            entry: row.get(5)?,
            resumed: row.get(6)?,
            empty: row.get(7)?,
            erased: row.get(8)?,
            at_ms: row.get(9)?,
            stand: stand_at(row, 10)?,
        })
    })
}

/// An action by its row.
pub(crate) fn action_at(db: &Connection, row: i64) -> Sql<Option<Stored>> {
    one(db, concat!(stored!(), "WHERE a.row = ?1"), [row], stored_at)
}

/// Rows that are numbered in the order of the entries they name: those of entries from this one up to that one. Whatever
/// such rows say, each is in the answer for one pair of neighbouring stretches, and in no other.
pub(crate) fn rows_of(db: &Connection, table: &'static str, first: i64, end: Option<i64>) -> Sql<Range<i64>> {
    // What names an entry before the first is of the first stretch.
    let low = if first > 0 { first_of(db, table, first)? } else { 0 };
    Ok(low..end.map_or(Ok(i64::MAX), |end| first_of(db, table, end))?.max(low))
}

fn first_of(db: &Connection, table: &'static str, entry: i64) -> Sql<i64> {
    let (last, at) = match table {
        "action" => {
            ("SELECT max(row) FROM action", "SELECT entry FROM action WHERE row >= ?1 ORDER BY row LIMIT 1")
        }
        "approval" => (
            "SELECT max(row) FROM approval",
            "SELECT entry FROM approval WHERE row >= ?1 ORDER BY row LIMIT 1",
        ),
        _ => {
            ("SELECT max(row) FROM outcome", "SELECT entry FROM outcome WHERE row >= ?1 ORDER BY row LIMIT 1")
        }
    };
    let last: Option<i64> = one(db, last, [], |row| row.get(0))?.flatten();
    let mut at = db.prepare_cached(at)?;
    let (mut low, mut high) = (0, last.map_or(0, |last| last + 1));
    while low < high {
        let middle = low + (high - low) / 2;
        match at.query_row([middle], |row| Ok(whole(row, 0))).optional()?.flatten() {
            Some(found) if found < entry => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// A row that cannot be read: with which entry it came and whose it is, as far as that can be.
pub(crate) struct Garbled {
    pub(crate) entry: Option<i64>,
    pub(crate) action: Option<ActionId>,
}

/// Rows, each as far as it can be read.
pub(crate) type Rows<T> = Vec<Result<T, Garbled>>;

/// What is read, unless a value is of no kind that is ever stored there: nobody but us writes here, so somebody else did.
pub(crate) fn readable<T>(read: Sql<T>) -> Sql<Option<T>> {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    match read {
        Ok(found) => Ok(Some(found)),
        Err(
            FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | Utf8Error(..),
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Each row, as far as it can be read. The first two columns are its entry and its action's id.
fn each<T>(
    db: &Connection,
    sql: &str,
    rows: &Range<i64>,
    mut read: impl FnMut(&Row<'_>) -> Sql<T>,
) -> Sql<Rows<T>> {
    many(db, sql, [rows.start, rows.end], |row| {
        let garbled =
            || Garbled { entry: whole(row, 0), action: readable(owner_at(row, 1)).ok().flatten().flatten() };
        Ok(readable(read(row))?.ok_or_else(garbled))
    })
}

/// A number, if there is one.
fn whole(row: &Row<'_>, column: usize) -> Option<i64> {
    row.get(column).ok()
}

/// What a column is for, and whether it may hold nothing.
type Kind = (Type, bool);
const NUMBER: Kind = (Type::Integer, false);
const MAY_NUMBER: Kind = (Type::Integer, true);
const MAY_TEXT: Kind = (Type::Text, true);
const MAY_BLOB: Kind = (Type::Blob, true);

/// Are the columns from here on of these kinds? Of what nobody reads while the chain is walked nobody else would say so.
fn are(row: &Row<'_>, first: usize, kinds: &[Kind]) -> Sql<()> {
    for (column, (kind, nothing)) in (first..).zip(kinds) {
        let found = row.get_ref(column)?.data_type();
        if found != *kind && !(*nothing && found == Type::Null) {
            return Err(unreadable(column, *kind));
        }
    }
    Ok(())
}

/// Whose an action is, where its row still says so.
pub(crate) fn tenant_of(db: &Connection, id: ActionId) -> Sql<Option<Tenant>> {
    let found = one(db, "SELECT tenant FROM action WHERE id = ?1", [id.as_bytes()], |row| tenant(row, 0));
    Ok(readable(found)?.flatten())
}

/// An outcome's entry, and what it says.
pub(crate) struct Kept {
    pub(crate) row: i64,
    pub(crate) entry: i64,
    pub(crate) action: Option<ActionId>,
    pub(crate) state: State,
    pub(crate) receipt: Option<Receipt>,
    /// Is all of answer and reply gone? Is any of them?
    pub(crate) all_gone: bool,
    pub(crate) some_gone: bool,
    /// What is kept beside the receipt; empty once it is erased.
    pub(crate) payload: Vec<u8>,
    /// As [`Settled::whole`].
    pub(crate) whole: bool,
}

/// Outcomes as they are stored, whether or not their actions are.
pub(crate) fn kept_outcomes(db: &Connection, rows: &Range<i64>) -> Sql<Rows<Kept>> {
    let sql = concat!(
        "SELECT l.entry, a.id, l.state, l.receipt_id, l.short, l.signature, l.document,
         length(l.payload) = 0 AND coalesce(length(l.body), 0) = 0,
         length(l.payload) = 0 OR coalesce(length(l.body) = 0, FALSE), l.payload, l.row,
         l.at, l.status, l.body, l.previous, l.short, l.signature, ",
        kept!(),
        " FROM outcome l LEFT JOIN action a ON a.row = l.action WHERE l.row >= ?1 AND l.row < ?2 ORDER BY l.row"
    );
    each(db, sql, rows, |row| {
        are(row, 11, &[NUMBER, MAY_NUMBER, MAY_BLOB, MAY_NUMBER, MAY_TEXT, MAY_TEXT])?;
        if row.get_ref(13)? != ValueRef::Null {
            unpacked(row, 13)?;
        }
        let receipt = match row.get_ref(6)? {
            ValueRef::Null => None,
            _ => {
                // One that cannot be unpacked has no hash that an entry names.
                let document = unpacked(row, 6).unwrap_or_default();
                let text = |column| row.get::<_, Option<Box<str>>>(column).map(Option::unwrap_or_default);
                Some(Receipt { id: text(3)?, short: text(4)?, signature: text(5)?, document })
            }
        };
        let action = owner_at(row, 1)?;
        Ok(Kept {
            row: row.get(10)?,
            entry: row.get(0)?,
            action,
            state: state(row, 2)?,
            receipt,
            all_gone: row.get(7)?,
            some_gone: row.get(8)?,
            // What cannot be unpacked cannot be read either, and whoever tries tells of it.
            payload: unpacked(row, 9).unwrap_or_else(|_| vec![0]),
            whole: readable(is_whole(row, 17, action))?.unwrap_or(false),
        })
    })
}

/// An approval or rejection as it is stored.
pub(crate) struct Heard {
    pub(crate) entry: i64,
    pub(crate) action: Option<ActionId>,
    pub(crate) round: u32,
    pub(crate) approver: Box<str>,
    pub(crate) record: Vec<u8>,
}

pub(crate) fn heard(db: &Connection, rows: &Range<i64>) -> Sql<Rows<Heard>> {
    let sql = "SELECT p.entry, a.id, p.round, p.approver, p.record, p.at FROM approval p
               LEFT JOIN action a ON a.row = p.action WHERE p.row >= ?1 AND p.row < ?2 ORDER BY p.row";
    each(db, sql, rows, |row| {
        are(row, 5, &[NUMBER])?;
        let (round, approver) = (row.get(2)?, row.get(3)?);
        Ok(Heard { entry: row.get(0)?, action: owner_at(row, 1)?, round, approver, record: row.get(4)? })
    })
}

/// The entries that actions say they began with.
pub(crate) fn beginnings(db: &Connection, rows: &Range<i64>) -> Sql<Rows<(i64, Option<ActionId>)>> {
    let sql = "SELECT a.entry, a.id, a.amount, a.at, a.currency, a.effect, a.slot, a.series, a.expires, a.round, a.needed,
               a.resumed, a.resumed_row, f.owner, f.until, f.moved, f.reply FROM action a
               LEFT JOIN fate f ON f.row = a.row WHERE a.row >= ?1 AND a.row < ?2 ORDER BY a.row";
    each(db, sql, rows, |row| {
        are(row, 2, &[NUMBER, NUMBER, MAY_TEXT, MAY_BLOB])?;
        are(row, 6, &[MAY_NUMBER; 11])?;
        Ok((row.get(0)?, owner_at(row, 1)?))
    })
}

fn owner_at(row: &Row<'_>, column: usize) -> Sql<Option<ActionId>> {
    let id: Option<[u8; 16]> = row.get(column)?;
    Ok(id.and_then(ActionId::from_bytes))
}

/// What the chain says was pruned, oldest first, each with its entry; what does not fit its entry is not believed.
pub(crate) fn prunings(db: &Connection) -> Sql<Vec<(i64, Pruned)>> {
    let sql = "SELECT e.row, e.bytes, e.record FROM pruning p JOIN entry e ON e.row = p.entry ORDER BY e.row";
    let told = many(db, sql, [], |row| {
        let bytes = row.get_ref(1)?.as_blob()?;
        let record = row.get_ref(2)?.as_blob_or_null()?.unwrap_or_default();
        let said = Reading::of(bytes).filter(|it| it.action_hash == Some(Sha256::digest(record).into()));
        let pruned = said.and_then(|it| Pruned::read(it.event, record)?.ok());
        pruned.map(|pruned| Ok((row.get(0)?, pruned))).transpose()
    })?;
    Ok(told.into_iter().flatten().collect())
}

/// How many actions there are.
pub(crate) fn count_actions(db: &Connection) -> Sql<i64> {
    db.prepare_cached("SELECT count(*) FROM action")?.query_row([], |row| row.get(0))
}

pub(crate) fn entries(db: &Connection, after: i64, limit: u32) -> Sql<Vec<(i64, Vec<u8>)>> {
    let sql = "SELECT row, bytes FROM entry WHERE row > ?1 ORDER BY row LIMIT ?2";
    many(db, sql, params![after, limit], |row| Ok((row.get(0)?, row.get(1)?)))
}

pub(crate) fn meta(db: &Connection, name: &str) -> Sql<Option<i64>> {
    one(db, "SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
}

pub(crate) fn one<T>(
    db: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnOnce(&Row<'_>) -> Sql<T>,
) -> Sql<Option<T>> {
    db.prepare_cached(sql)?.query_row(values, read).optional()
}

pub(crate) fn many<T>(
    db: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> Sql<T>,
) -> Sql<Vec<T>> {
    db.prepare_cached(sql)?.query_map(values, read)?.collect()
}

/// What was packed into this column.
pub(super) fn unpacked(row: &Row<'_>, column: usize) -> Sql<Vec<u8>> {
    packed::unpack(row.get_ref(column)?.as_blob()?).ok_or_else(|| unreadable(column, Type::Blob))
}

pub(crate) fn environment_code(environment: Environment) -> i64 {
    match environment {
        Environment::Production => 0,
        Environment::Sandbox => 1,
    }
}

fn environment(row: &Row<'_>, column: usize) -> Sql<Environment> {
    match row.get(column)? {
        0_i64 => Ok(Environment::Production),
        1 => Ok(Environment::Sandbox),
        _ => Err(unreadable(column, Type::Integer)),
    }
}

pub(crate) fn id(row: &Row<'_>, column: usize) -> Sql<ActionId> {
    ActionId::from_bytes(row.get(column)?).ok_or_else(|| unreadable(column, Type::Blob))
}

pub(crate) fn state(row: &Row<'_>, column: usize) -> Sql<State> {
    State::from_code(row.get(column)?).ok_or_else(|| unreadable(column, Type::Integer))
}

fn tenant(row: &Row<'_>, column: usize) -> Sql<Tenant> {
    Tenant::parse(row.get_ref(column)?.as_str()?).map_err(|_| unreadable(column, Type::Text))
}

fn subject(row: &Row<'_>, column: usize) -> Sql<Subject> {
    Subject::kept(row.get_ref(column)?.as_str()?).map_err(|_| unreadable(column, Type::Text))
}

pub(super) fn unreadable(column: usize, kind: Type) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, "not a value of its kind".into())
}
