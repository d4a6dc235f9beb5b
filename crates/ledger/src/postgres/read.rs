//! Reading actions and what became of them.

use std::collections::HashMap;

use action::{ActionId, Subject, Tenant};
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use super::replica::{EPOCH_MS, NUMBER_BITS};
use super::sql::{
    Db, Done, Failure, Values, bytes, count, environment, get, id, lines, many, maybe_state, maybe_text,
    most, one, state, state_code, subject, tenant, text, unpacked,
};
use super::writer::is_here;
use crate::entry::Reading;
use crate::identity;
use crate::packed::unpack;
use crate::stand::Stand;
use crate::stored::page;
use crate::told::{Sums, Told};
use crate::world::World;
use crate::{Admitted, Erased, Filter, Given, Labels, Naming, Page, Receipt, Reply, Settled, Stored};

/// What is kept of `outcome l`, what its entry says, and what that of the one before it does; in the order of [`is_whole`].
macro_rules! kept {
    () => {
        "l.at, l.state, l.receipt_id, l.status, l.body, l.payload, e.bytes, b.bytes, l.previous"
    };
}

/// The members of [`Stand`], in the order of [`stand_at`].
macro_rules! stand {
    () => {
        "f.state, f.moved, f.outcome, l.entry, l.state, a.needed = 0 OR a.needed <= (SELECT count(*) FROM approval p
         WHERE p.action = a.id AND p.round = a.round)"
    };
}
pub(super) use {kept, stand};

/// The members of [`Stored`], in the order of [`stored_at`].
pub(super) const STORED: &str = concat!(
    "SELECT a.row, a.id, a.tenant, a.environment, a.subject, a.key, a.request_hash, a.archetype, a.principal, a.mandates,
     f.state, a.at, a.expires, f.debit, a.currency, a.payload, o.status, o.body, a.round, a.needed, f.token, f.until,
     f.owner IS NOT NULL, a.claimed, told.bytes, coalesce(f.moved IS NULL AND l.entry = a.entry, FALSE), ",
    stand!(),
    ", ",
    kept!(),
    " FROM action a JOIN fate f ON f.id = a.id
     LEFT JOIN outcome o ON o.action = a.id AND o.entry = f.reply
     LEFT JOIN outcome l ON l.action = a.id AND l.entry = f.outcome
     LEFT JOIN entry told ON told.row = coalesce(f.moved, a.entry)
     LEFT JOIN entry e ON e.row = l.entry LEFT JOIN entry b ON b.row = l.previous "
);

/// The members of [`Settled`], in the order of [`settled_at`].
macro_rules! settled {
    () => {
        concat!(
            "SELECT l.action, l.tenant, l.state, l.at, l.status, l.body, l.receipt_id, l.short, l.signature, l.document,
             l.payload, l.entry, ",
            kept!()
        )
    };
}

const SETTLED: &str = concat!(
    settled!(),
    " FROM outcome l LEFT JOIN entry e ON e.row = l.entry LEFT JOIN entry b ON b.row = l.previous "
);

/// The same of every outcome of an action, with the last that its row names: in one statement, since another may be written
/// between two.
const OUTCOMES: &str = concat!(
    settled!(),
    ", f.outcome FROM fate f LEFT JOIN outcome l ON l.action = f.id LEFT JOIN entry e ON e.row = l.entry
     LEFT JOIN entry b ON b.row = l.previous WHERE f.id = $1 AND f.tenant = $2 ORDER BY l.entry"
);

/// What is read, unless a value is of no kind that is ever stored there: nobody but us writes here, so somebody else did.
pub(super) fn readable<T>(read: Done<T>) -> Done<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Corrupt(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

pub(super) async fn action(db: &Db, of: &Tenant, id: ActionId) -> Done<Option<Stored>> {
    let sql = format!("{STORED} WHERE a.id = $1 AND a.tenant = $2");
    one(db, &sql, &[&&id.as_bytes()[..], &of.as_str()]).await?.as_ref().map(stored_at).transpose()
}

/// Who made the claim that begins so.
pub(super) async fn claimant(db: &Db, of: &Tenant, half: [u8; 16]) -> Done<Option<ActionId>> {
    let [least, most] = [0, u8::MAX].map(|rest| [half, [rest; 16]].concat());
    let sql = "SELECT action FROM claim WHERE tenant = $1 AND digest BETWEEN $2 AND $3";
    one(db, sql, &[&of.as_str(), &least, &most]).await?.map(|row| id(&row, 0)).transpose()
}

pub(super) async fn actions(
    db: &Db,
    of: &Tenant,
    filter: &Filter,
    after: Option<i64>,
    limit: u32,
) -> Done<Page<Stored>> {
    let sql = format!(
        "{STORED} WHERE a.tenant = $1 AND a.row < $2 AND ($3::text IS NULL OR a.subject = $3)
         AND ($4::text IS NULL OR a.archetype = $4) AND ($5::smallint IS NULL OR f.state = $5)
         AND ($6::bigint IS NULL OR a.at >= $6) AND ($7::bigint IS NULL OR a.at < $7) ORDER BY a.row DESC LIMIT $8"
    );
    let Filter { subject, archetype, state, from_ms, to_ms } = filter;
    let (subject, state) = (subject.as_ref().map(Subject::as_str), state.map(state_code));
    let after = after.unwrap_or(i64::MAX);
    let values: Values<'_> =
        &[&of.as_str(), &after, &subject, &archetype.as_deref(), &state, from_ms, to_ms, &most(limit)];
    readable_page(db, &sql, values, limit).await
}

/// A page of actions. One that cannot be read, because somebody altered it, is left out and keeps nobody from the others.
async fn readable_page(db: &Db, sql: &str, values: Values<'_>, limit: u32) -> Done<Page<Stored>> {
    let mut rows = Vec::new();
    for row in many(db, sql, values).await? {
        let number: i64 = get(&row, 0)?;
        let stored = readable(stored_at(&row))?;
        if stored.is_none() {
            tracing::error!(row = number, "a stored action cannot be read and is left out");
        }
        rows.push((number, stored));
    }
    let Page { rows, next } = page(rows, limit, |(row, _)| *row);
    Ok(Page { rows: rows.into_iter().filter_map(|(_, stored)| stored).collect(), next })
}

/// The database's time.
pub(super) const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Of `fate f`: no other process than `$1` is at it.
pub(super) fn at_hand() -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM replica r WHERE r.number = f.owner AND r.number <> $1 AND NOT r.ended AND f.until > {CLOCK})"
    )
}

/// Of `fate f`: it is the turn of process `$1`, because of the action's last byte, which is random, and of how often it was passed
/// on. Whose processes are gone have no turn.
fn turn(passed_on: &str) -> String {
    format!(
        "(get_byte(f.id, 15) + {passed_on}) % (SELECT greatest(count(*), 1) FROM replica WHERE NOT ended)
         = (SELECT count(*) FROM replica WHERE NOT ended AND number < $1)"
    )
}

/// The same of what may be due for as long as it likes and not be written of meanwhile, like what a provider does not answer about:
/// it is passed on now and then, so that it does not stay with one that is stuck.
fn turn_of_now() -> String {
    turn(&format!("{CLOCK} / {PASSED_ON_MS}"))
}

/// The same of what has become due, and is everybody's once it was let lie.
fn turn_of_due(late: &str) -> String {
    format!("({} OR {late})", turn("0"))
}

/// Of `fate f`: it is marked sent, and nothing was written of it for so long. What nobody has taken for doubt by then is everybody's:
/// whoever's turn it is may be one that looks after nothing. Numbers of entries are times.
fn is_let_lie() -> String {
    let late = format!("({CLOCK} - {LATE_MS} - {EPOCH_MS}) << {NUMBER_BITS}");
    format!("f.state = 2 AND greatest(f.row, coalesce(f.moved, 0), coalesce(f.outcome, 0)) < {late}")
}

/// After so many milliseconds it is another's turn. Whoever has it anew asks more often at first, so it is not to be soon.
const PASSED_ON_MS: i64 = 600_000;
/// After so many milliseconds what is due, or was only sent, is everybody's turn.
const LATE_MS: i64 = 30_000;

/// Actions of every tenant whose fates are these, oldest first: those of which it is the turn of process `$1`, unless another is
/// at them.
async fn of_fate(db: &Db, fates: &str, turn: &str, values: Values<'_>, limit: u32) -> Done<Page<Stored>> {
    let at_hand = at_hand();
    open(db, &format!("{fates} AND {at_hand} AND {turn}"), values, limit).await
}

async fn open(db: &Db, fates: &str, values: Values<'_>, limit: u32) -> Done<Page<Stored>> {
    let sql = format!(
        "{STORED} WHERE a.id IN (SELECT f.id FROM fate f WHERE f.state <= 3 AND {fates}
         ORDER BY f.row LIMIT $2) ORDER BY a.row"
    );
    readable_page(db, &sql, values, limit).await
}

pub(super) async fn unsettled(db: &Db, me: i64, after: Option<i64>, limit: u32) -> Done<Page<Stored>> {
    let values: Values<'_> = &[&me, &most(limit), &after.unwrap_or(0)];
    let turn = format!("({} OR {})", turn_of_now(), is_let_lie());
    of_fate(db, "f.state IN (2, 3, -5) AND f.row > $3", &turn, values, limit).await
}

/// The same of everybody.
pub(super) async fn left_open(db: &Db, after: Option<i64>, limit: u32) -> Done<Page<Stored>> {
    let values: Values<'_> = &[&after.unwrap_or(0), &most(limit)];
    open(db, "f.state IN (2, 3, -5) AND f.row > $1", values, limit).await
}

pub(super) async fn approved(db: &Db, me: i64, after: Option<i64>, limit: u32) -> Done<Page<Stored>> {
    let values: Values<'_> = &[&me, &most(limit), &after.unwrap_or(0)];
    of_fate(db, "f.state = 0 AND f.row > $3", &turn_of_now(), values, limit).await
}

pub(super) async fn due(db: &Db, me: i64, now_ms: i64, after: Option<i64>, limit: u32) -> Done<Page<Stored>> {
    let fates = "f.state IN (-1, -2, -4, -6, -7) AND f.until <= $4 AND f.row > $3";
    let turn = turn_of_due(&format!("f.until <= $4 - {LATE_MS}"));
    of_fate(db, fates, &turn, &[&me, &most(limit), &after.unwrap_or(0), &now_ms], limit).await
}

pub(super) async fn held(
    db: &Db,
    of: &Tenant,
    now_ms: i64,
    after: Option<i64>,
    limit: u32,
) -> Done<Page<Stored>> {
    let sql = format!(
        "{STORED} WHERE f.state = 1 AND f.row < $3 AND a.tenant = $1 AND a.expires > $2 ORDER BY f.row DESC LIMIT $4"
    );
    let after = after.unwrap_or(i64::MAX);
    readable_page(db, &sql, &[&of.as_str(), &now_ms, &after, &most(limit)], limit).await
}

pub(super) async fn expired(
    db: &Db,
    me: i64,
    now_ms: i64,
    after: Option<i64>,
    limit: u32,
) -> Done<Page<Stored>> {
    let turn = turn_of_due(&format!("a.expires <= $2 - {LATE_MS}"));
    let sql = format!(
        "{STORED} WHERE f.state IN (0, 1) AND a.expires <= $2 AND f.row > $3 AND {turn} ORDER BY f.row LIMIT $4"
    );
    readable_page(db, &sql, &[&me, &now_ms, &after.unwrap_or(0), &most(limit)], limit).await
}

/// Settled actions whose time to be erased has come.
pub(super) async fn to_erase(db: &Db, now_ms: i64, after: Option<i64>, limit: u32) -> Done<Page<Stored>> {
    let sql = format!(
        "{STORED} WHERE a.erase_after IS NOT NULL AND a.erased IS NULL AND a.at + a.erase_after <= $1 AND f.state > 3
         AND l.at + a.erase_after <= $1 AND a.row > $2 ORDER BY a.row LIMIT $3"
    );
    readable_page(db, &sql, &[&now_ms, &after.unwrap_or(0), &most(limit)], limit).await
}

/// Actions admitted under a mandate whose fate is open.
pub(super) async fn open_under(db: &Db, of: &Tenant, jti: &str) -> Done<Vec<ActionId>> {
    let sql = "SELECT a.id FROM fate f JOIN action a ON a.id = f.id
               WHERE f.state IN (-1, -4, -5, -6, -7, -8, -9, 2, 3) AND f.state <= 3 AND a.tenant = $1
               AND $2 = ANY(string_to_array(a.mandates, E'\\n')) ORDER BY a.row";
    many(db, sql, &[&of.as_str(), &jti]).await?.iter().map(|row| id(row, 0)).collect()
}

pub(super) fn stored_at(row: &Row) -> Done<Stored> {
    let at = state(row, 10)?;
    Ok(Stored {
        row: get(row, 0)?,
        id: id(row, 1)?,
        tenant: tenant(row, 2)?,
        environment: environment(row, 3)?,
        subject: subject(row, 4)?,
        key: maybe_text(row, 5)?,
        request_hash: bytes(row, 6)?,
        archetype: text(row, 7)?,
        principal: text(row, 8)?,
        mandates: lines(row, 9)?,
        state: at,
        at_ms: get(row, 11)?,
        expires_ms: get(row, 12)?,
        debit: get(row, 13)?,
        currency: maybe_text(row, 14)?,
        payload: unpacked(row, 15)?,
        reply: reply_at(row, 16)?,
        round: count(row, 18)?,
        needed: count(row, 19)?,
        token: count(row, 20)?,
        due_ms: get::<Option<i64>>(row, 21)?.filter(|_| at.rests()),
        in_hand: get(row, 22)?,
        counted_ms: get(row, 23)?,
        naming: naming(row, 24)?,
    })
}

fn reply_at(row: &Row, first: usize) -> Done<Option<Reply>> {
    let Some(status) = get::<Option<i32>>(row, first)? else { return Ok(None) };
    let status = u16::try_from(status).map_err(|_| Failure::Corrupt(format!("{status} is no status")))?;
    Ok(Some(Reply { status, body: unpacked(row, first + 1)? }))
}

/// How many columns a [`Stand`] takes.
const STAND: usize = 6;

pub(super) fn stand_at(row: &Row, first: usize) -> Done<Stand> {
    let last: Option<i64> = get(row, first + 3)?;
    Ok(Stand {
        state: state(row, first)?,
        moved: get(row, first + 1)?,
        outcome: get(row, first + 2)?,
        last: last.zip(maybe_state(row, first + 4)?),
        agreed: get(row, first + 5)?,
    })
}

/// What the entry says with which a row was last written, if it is of that action and leaves it where it stands.
fn naming(row: &Row, first: usize) -> Done<Option<Naming>> {
    let Some(bytes) = get::<Option<&[u8]>>(row, first)? else { return Ok(None) };
    let Some(entry) = Reading::of(bytes).filter(|entry| entry.action == id(row, 1).ok()) else {
        return Ok(None);
    };
    let stand = stand_at(row, first + 2)?;
    let last = first + 2 + STAND;
    let Some(name) = entry.action_hash.filter(|_| stand.is_left_by(entry.event)) else { return Ok(None) };
    if stand.outcome.is_some() && !readable(is_whole(row, last, entry.action))?.unwrap_or(false) {
        return Ok(None);
    }
    Ok(Some(match get(row, first + 1)? {
        true => Naming::Outcome(unpacked(row, last + 5)?),
        false => Naming::Row(name),
    }))
}

/// Is an outcome of this action all that its entry names, after the outcome before it?
pub(super) fn is_whole(row: &Row, first: usize, action: Option<ActionId>) -> Done<bool> {
    let said = |column| Ok::<_, Failure>(get::<Option<&[u8]>>(row, column)?.and_then(Reading::of));
    let Some(told) = said(first + 6)?.filter(|told| told.action == action) else { return Ok(false) };
    let before = said(first + 7)?;
    if before.is_none() && get::<Option<i64>>(row, first + 8)?.is_some() {
        return Ok(false);
    }
    let receipt_id: Option<&str> = get(row, first + 2)?;
    let kept = Told {
        at_ms: get(row, first)?,
        state: state(row, first + 1)?,
        receipt_id,
        sums: Sums::of(&unpacked(row, first + 5)?, reply_at(row, first + 3)?.as_ref()),
        previous: before.and_then(|before| before.action_hash),
    };
    Ok(told.action_hash.is_some_and(|name| kept.name().is_ok_and(|kept| kept == name)))
}

/// All outcomes of an action, if each leads to the one before it.
pub(super) async fn outcomes(db: &Db, of: &Tenant, action: ActionId) -> Done<Vec<Settled>> {
    let (mut before, mut latest) = (None, None);
    let mut found = Vec::new();
    for row in many(db, OUTCOMES, &[&&action.as_bytes()[..], &of.as_str()]).await? {
        latest = get::<Option<i64>>(&row, 21)?;
        if get::<Option<i64>>(&row, 11)?.is_none() {
            continue;
        }
        let settled = settled_at(&row)?;
        if get::<Option<i64>>(&row, 20)? != before {
            return Err(Failure::Corrupt(format!(
                "the outcomes of action {action} do not lead to each other"
            )));
        }
        before = Some(settled.entry);
        found.push(settled);
    }
    if before != latest {
        return Err(Failure::Corrupt(format!(
            "the last outcome of action {action} is not the one its row names"
        )));
    }
    Ok(found)
}

pub(super) async fn receipt(db: &Db, of: &Tenant, id: &str) -> Done<Option<Settled>> {
    let sql = format!("{SETTLED} WHERE l.receipt_id = $1 AND l.tenant = $2");
    one(db, &sql, &[&id, &of.as_str()]).await?.as_ref().map(settled_at).transpose()
}

pub(super) async fn address(db: &Db, text: &str) -> Done<Option<Settled>> {
    let sql = format!(
        "{SETTLED} WHERE (l.short_tag = $1 AND l.short = $2) OR (l.signature_tag = $1 AND l.signature = $2) LIMIT 1"
    );
    one(db, &sql, &[&identity::address(text), &text]).await?.as_ref().map(settled_at).transpose()
}

pub(super) fn settled_at(row: &Row) -> Done<Settled> {
    let receipt = match maybe_text(row, 6)? {
        None => None,
        Some(id) => {
            let (short, signature) = (text(row, 7)?, text(row, 8)?);
            Some(Receipt { id, short, signature, document: unpacked(row, 9)? })
        }
    };
    let action = id(row, 0)?;
    Ok(Settled {
        action,
        tenant: tenant(row, 1)?,
        state: state(row, 2)?,
        at_ms: get(row, 3)?,
        reply: reply_at(row, 4)?,
        receipt,
        payload: unpacked(row, 10)?,
        entry: get(row, 11)?,
        whole: is_whole(row, 12, Some(action))?,
    })
}

pub(super) async fn approvals(db: &Db, of: &Tenant, action: ActionId) -> Done<Vec<Given>> {
    let sql = "SELECT p.round, p.at, p.record, p.entry, e.bytes FROM action a JOIN approval p ON p.action = a.id
               LEFT JOIN entry e ON e.row = p.entry WHERE a.id = $1 AND a.tenant = $2 AND p.record <> ''::bytea
               ORDER BY p.entry";
    let given = |row: &Row| {
        let record: Vec<u8> = get(row, 2)?;
        let told = get::<Option<&[u8]>>(row, 4)?.and_then(Reading::of);
        let whole = told.is_some_and(|told| {
            told.action == Some(action) && told.action_hash == Some(Sha256::digest(&record).into())
        });
        Ok(Given { round: count(row, 0)?, at_ms: get(row, 1)?, record, entry: get(row, 3)?, whole })
    };
    many(db, sql, &[&&action.as_bytes()[..], &of.as_str()]).await?.iter().map(given).collect()
}

pub(super) async fn erased(db: &Db, of: &Tenant, action: ActionId) -> Done<Option<Erased>> {
    let sql = "SELECT a.session, a.verb, a.target, a.level, a.regulations, a.refs, e.row, e.bytes, e.record FROM action a
               JOIN entry e ON e.row = a.erased WHERE a.id = $1 AND a.tenant = $2";
    let erased = |row: &Row| {
        let said = Reading::of(get(row, 7)?);
        let said =
            said.ok_or_else(|| Failure::Corrupt("the entry of an erasure cannot be read".to_owned()))?;
        let record: Option<Vec<u8>> = get(row, 8)?;
        let (entry, labels) = (get(row, 6)?, labels(row, 0)?);
        Ok(Erased { entry, at_ms: said.at_ms, record: record.unwrap_or_default(), labels })
    };
    one(db, sql, &[&&action.as_bytes()[..], &of.as_str()]).await?.as_ref().map(erased).transpose()
}

pub(super) fn labels(row: &Row, first: usize) -> Done<Labels> {
    Ok(Labels {
        session: maybe_text(row, first)?,
        verb: maybe_text(row, first + 1)?,
        target: maybe_text(row, first + 2)?,
        level: maybe_text(row, first + 3)?,
        regulations: lines(row, first + 4)?,
        refs: lines(row, first + 5)?,
    })
}

/// Gives items whose key was claimed before the answer that their caller had last. Of what this transaction writes the rows
/// are still to be written.
pub(super) async fn replies(db: &Db, world: &World, admitted: &mut [Admitted]) -> Done<()> {
    let repeated = |it: &Admitted| match it {
        Admitted::Existing(existing) if !is_here(world, existing.id) => Some(existing.id),
        _ => None,
    };
    let told = last_replies(db, &admitted.iter().filter_map(repeated).collect::<Vec<_>>()).await?;
    for existing in
        admitted.iter_mut().filter_map(|it| if let Admitted::Existing(it) = it { Some(it) } else { None })
    {
        if is_here(world, existing.id) {
            if let Some(reply) = &mut existing.reply {
                let unfit = || Failure::Corrupt("a reply cannot be unpacked".to_owned());
                reply.body = unpack(&reply.body).ok_or_else(unfit)?;
            }
        } else {
            (existing.reply, existing.altered) = told.get(&existing.id).cloned().unwrap_or_default();
        }
    }
    Ok(())
}

/// What the callers of actions were last answered, and whether somebody altered that.
pub(super) async fn last_replies(
    db: &Db,
    actions: &[ActionId],
) -> Done<HashMap<ActionId, (Option<Reply>, bool)>> {
    let mut told = HashMap::new();
    if actions.is_empty() {
        return Ok(told);
    }
    let ids: Vec<&[u8]> = actions.iter().map(|id| &id.as_bytes()[..]).collect();
    let sql = format!(
        "{SETTLED} JOIN fate f ON f.id = l.action AND f.reply = l.entry WHERE l.action = ANY($1::bytea[])"
    );
    for row in many(db, &sql, &[&ids]).await? {
        let reply = match readable(settled_at(&row))? {
            Some(told) => (told.reply, !told.whole),
            None => (None, true),
        };
        told.insert(id(&row, 0)?, reply);
    }
    Ok(told)
}

/// Entries in order, each with its row number.
pub(super) async fn entries(db: &Db, after: i64, upto: i64, limit: u32) -> Done<Vec<(i64, Vec<u8>)>> {
    let sql = "SELECT row, bytes FROM entry WHERE row > $1 AND row <= $2 ORDER BY row LIMIT $3";
    let rows = many(db, sql, &[&after, &upto, &most(limit)]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}
