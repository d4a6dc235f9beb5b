//! Writing what changed in a world: one statement for what nearly every commit writes, and one for each kind of row that few do.

use std::collections::{BTreeSet, HashMap};

use action::{Money, Tenant};
use futures_util::future::{BoxFuture, FutureExt, try_join_all};
use mandate::{Account, Completion, Halt, Session, Usage};
use tokio_postgres::types::ToSql;

use super::needs::Needs;
use super::replica::{Replica, slot_of};
use super::sql::{Db, Done, Failure, Value, environment_code, joined, state_code, whole, write};
use crate::identity::{self, Claim};
use crate::world::{Concluded, Declaration, Row, Touched, World, Written};
use crate::{Clustered, Given, Reply};

/// Prepared when a connection is made.
pub(super) const HOT: [&str; 7] = [USUAL, INTENTS, APPROVALS, USAGES, CYCLES, RECORDS, SEEN];

/// What nearly every commit writes, in one statement: each costs the database about as much as a row. Its parts are about rows of
/// their own, so none has to see what another writes; the last tells whether this process is still there.
const USUAL: &str = "WITH entries AS (INSERT INTO entry (row, slot, action, bytes, record)
    SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bytea[], $4::bytea[], $5::bytea[])),
    actions AS (INSERT INTO action (tenant, id, row, environment, subject, key, claim, request_hash, archetype, principal,
    mandates, effect, at, claimed, expires, round, needed, currency, session, verb, target, level, regulations, refs,
    erase_after, entry, payload)
    SELECT * FROM unnest($6::text[], $7::bytea[], $8::bigint[], $9::smallint[], $10::text[], $11::text[], $12::bytea[],
    $13::bytea[], $14::text[], $15::text[], $16::text[], $17::bytea[], $18::bigint[], $19::bigint[], $20::bigint[], $21::int[],
    $22::int[], $23::text[], $24::text[], $25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::bigint[],
    $31::bigint[], $32::bytea[])),
    fates AS (INSERT INTO fate (id, tenant, row, state, debit, outcome, reply, token, owner, until, moved)
    SELECT * FROM unnest($33::bytea[], $34::text[], $35::bigint[], $36::smallint[], $37::bigint[], $38::bigint[], $39::bigint[],
    $40::int[], $41::bigint[], $42::bigint[], $43::bigint[])),
    changes AS (UPDATE fate f SET state = w.state, debit = w.debit, outcome = w.outcome, reply = w.reply, token = w.token,
    owner = w.owner, until = w.until, moved = w.moved
    FROM unnest($44::bytea[], $45::smallint[], $46::bigint[], $47::bigint[], $48::bigint[], $49::int[], $50::bigint[], $51::bigint[],
    $52::bigint[]) w (id, state, debit, outcome, reply, token, owner, until, moved) WHERE f.id = w.id),
    outcomes AS (INSERT INTO outcome (action, entry, tenant, previous, state, at, status, body, receipt_id, short,
    short_tag, signature, signature_tag, document, payload)
    SELECT * FROM unnest($53::bytea[], $54::bigint[], $55::text[], $56::bigint[], $57::smallint[], $58::bigint[], $59::int[],
    $60::bytea[], $61::text[], $62::text[], $63::bigint[], $64::text[], $65::bigint[], $66::bytea[], $67::bytea[])),
    accounts AS (UPDATE account a SET epoch = w.epoch, spent = w.spent, actions = w.actions, revoked = w.revoked,
    frozen = w.frozen, seconds = w.seconds, compute = w.compute, memory = w.memory, storage = w.storage, egress = w.egress,
    granted = w.granted, granted_compute = w.granted_compute, granted_storage = w.granted_storage,
    granted_egress = w.granted_egress
    FROM unnest($68::text[], $69::bigint[], $70::bigint[], $71::bigint[], $72::bigint[], $73::bigint[], $74::bool[], $75::bigint[],
    $76::bigint[], $77::bigint[], $78::bigint[], $79::bigint[], $80::bigint[], $81::bigint[], $82::bigint[], $83::bigint[])
    w (tenant, key, epoch, spent, actions, revoked, frozen, seconds, compute, memory, storage, egress, granted,
    granted_compute, granted_storage, granted_egress) WHERE a.tenant = w.tenant AND a.key = w.key),
    histories AS (UPDATE series s SET bytes = w.bytes
    FROM unnest($84::text[], $85::bigint[], $86::bytea[]) w (tenant, key, bytes) WHERE s.tenant = w.tenant AND s.key = w.key)
    UPDATE replica SET seq = $88, head = $89, at = $90, last = $91, beat = clock_timestamp() WHERE number = $87";
const INTENTS: &str = "UPDATE action a SET principal = w.principal, mandates = w.mandates, effect = w.effect,
    claimed = w.claimed, expires = w.expires, round = w.round, needed = w.needed, currency = w.currency, refs = w.refs,
    erased = w.erased, payload = coalesce(w.payload, a.payload)
    FROM unnest($1::bytea[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::int[], $8::int[], $9::text[],
    $10::text[], $11::bigint[], $12::bytea[], $13::text[])
    w (id, principal, mandates, effect, claimed, expires, round, needed, currency, refs, erased, payload, tenant)
    WHERE a.tenant = w.tenant AND a.id = w.id";
const APPROVALS: &str = "INSERT INTO approval (action, round, approver, at, entry, record)
    SELECT * FROM unnest($1::bytea[], $2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])";
const USAGES: &str = "INSERT INTO usage AS u (action, seconds, compute, memory, storage, egress)
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    ON CONFLICT (action) DO UPDATE SET seconds = excluded.seconds, compute = excluded.compute, memory = excluded.memory,
    storage = excluded.storage, egress = excluded.egress";
const CYCLES: &str = "INSERT INTO cycle AS c (action, tenant, session, sequence, intent, first, last)
    SELECT * FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[])
    ON CONFLICT (action) DO UPDATE SET last = excluded.last";
const SEEN: &str =
    "INSERT INTO seen (tenant, mark) SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT DO NOTHING";
const SESSION: &str = "INSERT INTO session (tenant, key, id, subject, mandate, opened, epoch, sequence, next, held, in_flight,
    denials, cycles, blocked, suspended, closed, halt, limit_minor, limit_currency, limit_until, opening, entry, payload)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)";
const SESSIONS: &str = "UPDATE session s SET epoch = w.epoch, sequence = w.sequence, next = w.next, held = w.held,
    in_flight = w.in_flight, denials = w.denials, cycles = w.cycles, blocked = w.blocked, suspended = w.suspended,
    closed = w.closed, halt = w.halt, limit_minor = w.limit_minor, limit_currency = w.limit_currency,
    limit_until = w.limit_until
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::int[], $7::int[], $8::int[],
    $9::bigint[], $10::bigint[], $11::bool[], $12::smallint[], $13::smallint[], $14::bigint[], $15::text[], $16::bigint[])
    w (tenant, key, epoch, sequence, next, held, in_flight, denials, cycles, blocked, suspended, closed, halt, limit_minor,
    limit_currency, limit_until) WHERE s.tenant = w.tenant AND s.key = w.key";
const RECORDS: &str = "INSERT INTO record (tenant, session, seq, entry)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])";

/// One statement on its way.
type Sent<'a> = BoxFuture<'a, Done<()>>;

/// Writes everything that changed, and commits. `ours`: the keys that this transaction has claimed.
pub(super) async fn commit(
    db: &Db,
    replica: &Replica,
    world: &World,
    needs: &Needs,
    ours: &BTreeSet<(Tenant, Claim)>,
) -> Done<()> {
    rare(db, world, needs, ours).await?;
    // Sent one behind the other without waiting for any, so each of them is one statement; a commit after a failure commits
    // nothing.
    let sent: Vec<Sent<'_>> = vec![
        intents(db, world).boxed(),
        approvals(db, world).boxed(),
        usages(db, world).boxed(),
        cycles(db, world).boxed(),
        records(db, world).boxed(),
        seen(db, world, needs).boxed(),
        usual(db, replica, world, needs).boxed(),
        async { Ok(db.batch_execute("COMMIT").await?) }.boxed(),
    ];
    try_join_all(sent).await.map(drop)
}

/// Columns of rows, in the order in which their statement has them.
type Columns<'a> = Vec<Box<dyn ToSql + Sync + Send + 'a>>;

macro_rules! columns {
    ($($column:expr),* $(,)?) => { vec![$(Box::new($column) as Box<dyn ToSql + Sync + Send + '_>),*] };
}

async fn usual(db: &Db, replica: &Replica, world: &World, needs: &Needs) -> Done<()> {
    let actions = || world.actions.values();
    let new: Vec<&Row> = actions().filter(|row| row.touched.new).collect();
    let changed: Vec<&Row> = actions().filter(|row| row.touched.fate && !row.touched.new).collect();
    let columns = [
        entries(world),
        self::actions(&new),
        fates(&new),
        changes(&changed),
        outcomes(world),
        accounts(world, needs)?,
        series(world, needs)?,
        end(replica, world),
    ];
    let values: Vec<&Value<'_>> = columns.iter().flatten().map(|column| &**column as &Value<'_>).collect();
    match write(db, USUAL, &values).await? {
        0 => Err(Failure::Ended),
        _ => Ok(()),
    }
}

/// What takes a statement for each row.
async fn rare(db: &Db, world: &World, needs: &Needs, ours: &BTreeSet<(Tenant, Claim)>) -> Done<()> {
    claims(db, world, needs, ours).await?;
    new_sessions(db, world).await?;
    sessions(db, world).await?;
    declarations(db, world).await?;
    recoveries(db, world).await?;
    clusters(db, world).await?;
    mandates(db, world).await
}

/// A key belongs to whoever was written down with it; one that nobody was is free again.
async fn claims(db: &Db, world: &World, needs: &Needs, ours: &BTreeSet<(Tenant, Claim)>) -> Done<()> {
    for key in ours {
        let (tenant, claim) = (key.0.as_str(), &key.1.bytes()[..]);
        match world.rows.claims.get(&key.1) {
            Some(claimed) if needs.claims.get(key) == Some(&claimed.id) => {}
            Some(claimed) => {
                let sql = "UPDATE claim SET action = $3 WHERE tenant = $1 AND digest = $2";
                write(db, sql, &[&tenant, &claim, &&claimed.id.as_bytes()[..]]).await?;
            }
            None => {
                let sql = "DELETE FROM claim WHERE tenant = $1 AND digest = $2";
                write(db, sql, &[&tenant, &claim]).await?;
            }
        }
    }
    Ok(())
}

/// Rows that changed, each with the tenant by which it was locked, in the order of their keys. One that was not locked
/// was not read either, and nothing may be written over it.
fn locked<'a, T>(
    changed: impl Iterator<Item = (i64, T)>,
    keys: impl Iterator<Item = &'a (Tenant, i64)>,
) -> Done<Vec<(&'a str, i64, T)>> {
    let tenants: HashMap<i64, &str> = keys.map(|(tenant, key)| (*key, tenant.as_str())).collect();
    let place = |(key, value)| {
        let tenant = tenants.get(&key).copied();
        let tenant = tenant.ok_or_else(|| Failure::Refused(format!("row {key} was not locked")))?;
        Ok((tenant, key, value))
    };
    let mut placed = changed.map(place).collect::<Done<Vec<_>>>()?;
    placed.sort_unstable_by_key(|(tenant, key, _)| (*tenant, *key));
    Ok(placed)
}

fn entries(world: &World) -> Columns<'_> {
    let all = || world.entries.values();
    let rows: Vec<i64> = world.entries.keys().copied().collect();
    let slots: Vec<i16> = rows.iter().map(|row| slot_of(*row)).collect();
    let actions: Vec<Option<&[u8]>> =
        all().map(|it| it.action.as_ref().map(|id| &id.as_bytes()[..])).collect();
    let bytes: Vec<&[u8]> = all().map(|it| &*it.bytes).collect();
    let records: Vec<Option<&[u8]>> = all().map(|Written { record, .. }| record.as_deref()).collect();
    columns![rows, slots, actions, bytes, records]
}

fn ids<'a>(rows: &[&'a Row]) -> Vec<&'a [u8]> {
    rows.iter().map(|row| &row.stored.id.as_bytes()[..]).collect()
}

fn of<'a, T>(rows: &[&'a Row], read: impl Fn(&'a Row) -> T) -> Vec<T> {
    rows.iter().map(|row| read(row)).collect()
}

fn actions<'a>(rows: &[&'a Row]) -> Columns<'a> {
    columns![
        of(rows, |it| it.stored.tenant.as_str()),
        ids(rows),
        of(rows, |it| it.stored.row),
        of(rows, |it| environment_code(it.stored.environment)),
        of(rows, |it| it.stored.subject.as_str()),
        of(rows, |it| it.stored.key.as_deref()),
        of(rows, |it| it.claim.as_ref().map(|claim| &claim.bytes()[..])),
        of(rows, |it| &it.stored.request_hash[..]),
        of(rows, |it| &*it.stored.archetype),
        of(rows, |it| &*it.stored.principal),
        of(rows, |it| joined(&it.stored.mandates)),
        of(rows, |it| it.effect.as_ref().map(|hash| &hash[..])),
        of(rows, |it| it.stored.at_ms),
        of(rows, |it| it.claimed_ms),
        of(rows, |it| it.stored.expires_ms),
        of(rows, |it| whole(it.stored.round)),
        of(rows, |it| whole(it.stored.needed)),
        of(rows, |it| it.stored.currency.as_deref()),
        of(rows, |it| it.labels.session.as_deref()),
        of(rows, |it| it.labels.verb.as_deref()),
        of(rows, |it| it.labels.target.as_deref()),
        of(rows, |it| it.labels.level.as_deref()),
        of(rows, |it| joined(&it.labels.regulations)),
        of(rows, |it| joined(&it.labels.refs)),
        of(rows, |it| it.erased_after_ms),
        of(rows, |it| it.entry),
        of(rows, |it| &*it.stored.payload),
    ]
}

/// What a row says of where its action stands.
fn standing<'a>(rows: &[&'a Row]) -> Columns<'a> {
    columns![
        of(rows, |it| state_code(it.stored.state)),
        of(rows, |it| it.stored.debit),
        of(rows, |it| it.last.map(|last| last.entry)),
        of(rows, |it| it.replied),
        of(rows, |it| whole(it.lease.token)),
        of(rows, |it| it.lease.owner),
        of(rows, |it| it.lease.until_ms),
        of(rows, |it| it.moved),
    ]
}

fn fates<'a>(rows: &[&'a Row]) -> Columns<'a> {
    let mut columns: Columns<'a> =
        columns![ids(rows), of(rows, |it| it.stored.tenant.as_str()), of(rows, |it| it.stored.row)];
    columns.extend(standing(rows));
    columns
}

fn changes<'a>(rows: &[&'a Row]) -> Columns<'a> {
    let mut columns: Columns<'a> = columns![ids(rows)];
    columns.extend(standing(rows));
    columns
}

/// What was asked anew, how an action waits, and what was erased.
async fn intents(db: &Db, world: &World) -> Done<()> {
    let touched = |row: &&Row| {
        let Touched { new, intent, payload, .. } = row.touched;
        !new && (intent || payload)
    };
    let rows: Vec<&Row> = world.actions.values().filter(touched).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let rows = &rows[..];
    let ids = ids(rows);
    let principals = of(rows, |it| &*it.stored.principal);
    let mandates = of(rows, |it| joined(&it.stored.mandates));
    let effects = of(rows, |it| it.effect.as_ref().map(|hash| &hash[..]));
    let claimed = of(rows, |it| it.claimed_ms);
    let expires = of(rows, |it| it.stored.expires_ms);
    let rounds = of(rows, |it| whole(it.stored.round));
    let needed = of(rows, |it| whole(it.stored.needed));
    let currencies = of(rows, |it| it.stored.currency.as_deref());
    let refs = of(rows, |it| joined(&it.labels.refs));
    let erased = of(rows, |it| it.erased);
    let payloads = of(rows, |it| it.touched.payload.then_some(&*it.stored.payload));
    let tenants = of(rows, |it| it.stored.tenant.as_str());
    let values: [&Value<'_>; 13] = [
        &ids,
        &principals,
        &mandates,
        &effects,
        &claimed,
        &expires,
        &rounds,
        &needed,
        &currencies,
        &refs,
        &erased,
        &payloads,
        &tenants,
    ];
    write(db, INTENTS, &values).await.map(drop)
}

fn outcomes(world: &World) -> Columns<'_> {
    let all = || world.outcomes.values().map(|it| (&it.settled, it));
    let actions: Vec<&[u8]> = all().map(|(it, _)| &it.action.as_bytes()[..]).collect();
    let entries: Vec<i64> = all().map(|(it, _)| it.entry).collect();
    let tenants: Vec<&str> = all().map(|(it, _)| it.tenant.as_str()).collect();
    let previous: Vec<Option<i64>> = all().map(|(_, it)| it.previous).collect();
    let states: Vec<i16> = all().map(|(it, _)| state_code(it.state)).collect();
    let times: Vec<i64> = all().map(|(it, _)| it.at_ms).collect();
    let reply = |it: &'_ Reply| i32::from(it.status);
    let statuses: Vec<Option<i32>> = all().map(|(it, _)| it.reply.as_ref().map(reply)).collect();
    let bodies: Vec<Option<&[u8]>> = all().map(|(it, _)| it.reply.as_ref().map(|it| &*it.body)).collect();
    let receipt = || all().map(|(it, of)| (it.receipt.as_ref(), of));
    let receipts: Vec<Option<&str>> = receipt().map(|(it, _)| it.map(|it| &*it.id)).collect();
    let shorts: Vec<Option<&str>> = receipt().map(|(it, _)| it.map(|it| &*it.short)).collect();
    let signatures: Vec<Option<&str>> = receipt().map(|(it, _)| it.map(|it| &*it.signature)).collect();
    let tag = |at: usize| {
        let tag = move |(it, of): (Option<&crate::Receipt>, &Concluded)| it.map(|_| of.addresses[at]);
        receipt().map(tag).collect::<Vec<Option<i64>>>()
    };
    let (short_tags, signature_tags) = (tag(0), tag(1));
    let documents: Vec<Option<&[u8]>> = receipt().map(|(it, _)| it.map(|it| &*it.document)).collect();
    let payloads: Vec<&[u8]> = all().map(|(it, _)| &*it.payload).collect();
    columns![
        actions,
        entries,
        tenants,
        previous,
        states,
        times,
        statuses,
        bodies,
        receipts,
        shorts,
        short_tags,
        signatures,
        signature_tags,
        documents,
        payloads,
    ]
}

/// People's words that are told by an entry of this transaction.
async fn approvals(db: &Db, world: &World) -> Done<()> {
    let said = world.actions.values().flat_map(|row| row.approvals.iter().map(move |(by, it)| (row, by, it)));
    let new: Vec<_> = said.filter(|(.., Given { entry, .. })| world.entries.contains_key(entry)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let actions: Vec<&[u8]> = new.iter().map(|(row, ..)| &row.stored.id.as_bytes()[..]).collect();
    let rounds: Vec<i32> = new.iter().map(|(.., it)| whole(it.round)).collect();
    let approvers: Vec<&str> = new.iter().map(|(_, by, _)| by.as_str()).collect();
    let times: Vec<i64> = new.iter().map(|(.., it)| it.at_ms).collect();
    let entries: Vec<i64> = new.iter().map(|(.., it)| it.entry).collect();
    let records: Vec<&[u8]> = new.iter().map(|(.., it)| &*it.record).collect();
    write(db, APPROVALS, &[&actions, &rounds, &approvers, &times, &entries, &records]).await.map(drop)
}

/// What is used, as it stands in columns.
fn amounts(usage: &Usage) -> [i64; 5] {
    let Usage { seconds, compute_units, memory_bytes, storage_bytes, egress_bytes } = *usage;
    [seconds, compute_units, memory_bytes, storage_bytes, egress_bytes]
        .map(|amount| i64::try_from(amount).unwrap_or(i64::MAX))
}

async fn usages(db: &Db, world: &World) -> Done<()> {
    let used = |row: &&Row| row.touched.usage || (row.touched.new && !row.usage.is_nothing());
    let rows: Vec<&Row> = world.actions.values().filter(used).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let rows = &rows[..];
    let amount = |at: usize| of(rows, move |it| amounts(&it.usage)[at]);
    let values: [&Value<'_>; 6] = [&ids(rows), &amount(0), &amount(1), &amount(2), &amount(3), &amount(4)];
    write(db, USAGES, &values).await.map(drop)
}

fn accounts<'a>(world: &'a World, needs: &'a Needs) -> Done<Columns<'a>> {
    // What was judged by, too, and not only what changed.
    let read = world.rows.accounts.iter().map(|(key, cell)| (*key, cell));
    let read = locked(read, needs.accounts.keys())?;
    let changed: Vec<(&str, i64, &Account)> = read
        .into_iter()
        .filter(|it| it.2.changed)
        .map(|(tenant, key, cell)| (tenant, key, &cell.value))
        .collect();
    let all = || changed.iter().map(|it| it.2);
    let tenants: Vec<&str> = changed.iter().map(|it| it.0).collect();
    let keys: Vec<i64> = changed.iter().map(|it| it.1).collect();
    let epochs: Vec<i64> = all().map(|it| it.epoch.cast_signed()).collect();
    let spent: Vec<i64> = all().map(|it| it.spent_minor).collect();
    let actions: Vec<i64> = all().map(|it| it.actions.cast_signed()).collect();
    let revoked: Vec<Option<i64>> = all().map(|it| it.revoked_at).collect();
    let frozen: Vec<bool> = all().map(|it| it.frozen).collect();
    let used = |at: usize| all().map(|it| amounts(&it.used)[at]).collect::<Vec<i64>>();
    let seconds: Vec<i64> = all().map(|it| it.granted.seconds).collect();
    let compute: Vec<i64> = all().map(|it| it.granted.compute_units).collect();
    let storage: Vec<i64> = all().map(|it| it.granted.storage_bytes).collect();
    let egress: Vec<i64> = all().map(|it| it.granted.egress_bytes).collect();
    Ok(columns![
        tenants,
        keys,
        epochs,
        spent,
        actions,
        revoked,
        frozen,
        used(0),
        used(1),
        used(2),
        used(3),
        used(4),
        seconds,
        compute,
        storage,
        egress,
    ])
}

fn series<'a>(world: &World, needs: &'a Needs) -> Done<Columns<'a>> {
    let changed = world.rows.series.iter().filter(|(_, cell)| cell.changed);
    let changed = changed.map(|(key, cell)| (*key, cell.value.to_bytes()));
    let changed = locked(changed, needs.series.iter())?;
    let tenants: Vec<&str> = changed.iter().map(|it| it.0).collect();
    let keys: Vec<i64> = changed.iter().map(|it| it.1).collect();
    let bytes: Vec<Vec<u8>> = changed.into_iter().map(|it| it.2).collect();
    Ok(columns![tenants, keys, bytes])
}

async fn seen(db: &Db, world: &World, needs: &Needs) -> Done<()> {
    let new = world.rows.seen.iter().filter(|(_, cell)| cell.changed).map(|(mark, _)| (*mark, ()));
    let new = locked(new, needs.seen.iter())?;
    if new.is_empty() {
        return Ok(());
    }
    let (tenants, marks): (Vec<&str>, Vec<i64>) = new.into_iter().map(|it| (it.0, it.1)).unzip();
    write(db, SEEN, &[&tenants, &marks]).await.map(drop)
}

/// A session as its row has it.
struct Standing {
    epoch: i64,
    sequence: i64,
    next: i64,
    held: i32,
    in_flight: i32,
    denials: i32,
    cycles: i64,
    closed: Option<i16>,
    halt: Option<i16>,
    limit_minor: Option<i64>,
    limit_currency: Option<String>,
}

impl Standing {
    fn of(session: &Session) -> Standing {
        let most = session.limits.max_amount;
        Standing {
            epoch: session.epoch.cast_signed(),
            sequence: session.sequence.cast_signed(),
            next: session.next_record.cast_signed(),
            held: whole(session.held),
            in_flight: whole(session.in_flight),
            denials: whole(session.denials),
            cycles: session.cycles.cast_signed(),
            closed: session.closed.map(|completion| match completion {
                Completion::Complete => 1,
                Completion::Partial => 2,
                Completion::Revoked => 3,
            }),
            halt: session.halt.map(|halt| match halt {
                Halt::Clean => 1,
                Halt::Partial => 2,
                Halt::Unknown => 3,
            }),
            limit_minor: most.map(Money::minor),
            limit_currency: most.map(|most| most.currency().code().to_owned()),
        }
    }
}

async fn new_sessions(db: &Db, world: &World) -> Done<()> {
    for (key, opened) in world.sessions.opened.iter().filter(|(_, it)| world.entries.contains_key(&it.row)) {
        let Some(session) = world.rows.sessions.get(key).map(|cell| &cell.value) else { continue };
        let it = Standing::of(session);
        let values: [&Value<'_>; 23] = [
            &opened.tenant.as_str(),
            key,
            &&*session.id,
            &session.subject.as_str(),
            &&*session.mandate_id,
            &session.opened_ms,
            &it.epoch,
            &it.sequence,
            &it.next,
            &it.held,
            &it.in_flight,
            &it.denials,
            &it.cycles,
            &session.blocked_ms,
            &session.suspended,
            &it.closed,
            &it.halt,
            &it.limit_minor,
            &it.limit_currency,
            &session.limits.not_after_ms,
            &&*opened.opening,
            &opened.row,
            &opened.payload,
        ];
        write(db, SESSION, &values).await?;
    }
    Ok(())
}

/// The tenant of a session, and whether it was there before.
fn opened<'a>(world: &'a World, key: &i64) -> Option<(&'a str, bool)> {
    let (_, opened) = world.sessions.opened.iter().find(|(it, _)| it == key)?;
    Some((opened.tenant.as_str(), !world.entries.contains_key(&opened.row)))
}

async fn sessions(db: &Db, world: &World) -> Done<()> {
    let changed = world.rows.sessions.iter().filter(|(_, cell)| cell.changed);
    let changed: Vec<(&str, i64, &Session, Standing)> = changed
        .filter_map(|(key, cell)| {
            let (tenant, _) = opened(world, key).filter(|(_, known)| *known)?;
            Some((tenant, *key, &cell.value, Standing::of(&cell.value)))
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let all = || changed.iter();
    let tenants: Vec<&str> = all().map(|it| it.0).collect();
    let keys: Vec<i64> = all().map(|it| it.1).collect();
    let epochs: Vec<i64> = all().map(|it| it.3.epoch).collect();
    let sequences: Vec<i64> = all().map(|it| it.3.sequence).collect();
    let next: Vec<i64> = all().map(|it| it.3.next).collect();
    let held: Vec<i32> = all().map(|it| it.3.held).collect();
    let in_flight: Vec<i32> = all().map(|it| it.3.in_flight).collect();
    let denials: Vec<i32> = all().map(|it| it.3.denials).collect();
    let cycles: Vec<i64> = all().map(|it| it.3.cycles).collect();
    let blocked: Vec<Option<i64>> = all().map(|it| it.2.blocked_ms).collect();
    let suspended: Vec<bool> = all().map(|it| it.2.suspended).collect();
    let closed: Vec<Option<i16>> = all().map(|it| it.3.closed).collect();
    let halts: Vec<Option<i16>> = all().map(|it| it.3.halt).collect();
    let minors: Vec<Option<i64>> = all().map(|it| it.3.limit_minor).collect();
    let currencies: Vec<Option<&str>> = all().map(|it| it.3.limit_currency.as_deref()).collect();
    let untils: Vec<Option<i64>> = all().map(|it| it.2.limits.not_after_ms).collect();
    let values: [&Value<'_>; 16] = [
        &tenants,
        &keys,
        &epochs,
        &sequences,
        &next,
        &held,
        &in_flight,
        &denials,
        &cycles,
        &blocked,
        &suspended,
        &closed,
        &halts,
        &minors,
        &currencies,
        &untils,
    ];
    write(db, SESSIONS, &values).await?;
    for (key, entry) in &world.sessions.limited {
        let sql = "UPDATE session SET limited = $3 WHERE tenant = $1 AND key = $2";
        if let Some((tenant, _)) = opened(world, key) {
            write(db, sql, &[&tenant, key, entry]).await?;
        }
    }
    Ok(())
}

async fn declarations(db: &Db, world: &World) -> Done<()> {
    let new = world.sessions.declared.iter().filter(|it| world.entries.contains_key(&it.entry));
    for Declaration { tenant, mandate, entry, intention } in new {
        let session = identity::session(tenant, &intention.session);
        let sql = "INSERT INTO declaration (tenant, mandate, intent, session, id, entry) VALUES ($1, $2, $3, $4, $5, $6)";
        let (intent, id) = (&*intention.intent, &*intention.record_id);
        write(db, sql, &[&tenant.as_str(), &&**mandate, &intent, &session, &id, entry]).await?;
    }
    Ok(())
}

async fn cycles(db: &Db, world: &World) -> Done<()> {
    let touched: Vec<_> = world.sessions.cycles.iter().filter(|(_, part)| part.touched).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let all = || touched.iter();
    let actions: Vec<&[u8]> = all().map(|(id, _)| &id.as_bytes()[..]).collect();
    let tenant = |id| world.row(id).map_or("", |row| row.stored.tenant.as_str());
    let tenants: Vec<&str> = all().map(|(id, _)| tenant(**id)).collect();
    let sessions: Vec<i64> = all().map(|(_, it)| it.session).collect();
    let sequences: Vec<Option<i64>> = all().map(|(_, it)| it.sequence.map(u64::cast_signed)).collect();
    let intents: Vec<Option<&str>> = all().map(|(_, it)| it.intent.as_deref()).collect();
    let first: Vec<&str> = all().map(|(_, it)| &*it.first).collect();
    let last: Vec<&str> = all().map(|(_, it)| &*it.last).collect();
    write(db, CYCLES, &[&actions, &tenants, &sessions, &sequences, &intents, &first, &last]).await.map(drop)
}

async fn records(db: &Db, world: &World) -> Done<()> {
    let new: Vec<(&str, i64, i64, i64)> = world
        .sessions
        .records
        .iter()
        .filter_map(|(key, seq, entry)| Some((opened(world, key)?.0, *key, seq.cast_signed(), *entry)))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let (tenants, keys): (Vec<&str>, Vec<i64>) = new.iter().map(|it| (it.0, it.1)).unzip();
    let (numbers, entries): (Vec<i64>, Vec<i64>) = new.iter().map(|it| (it.2, it.3)).unzip();
    write(db, RECORDS, &[&tenants, &keys, &numbers, &entries]).await.map(drop)
}

async fn recoveries(db: &Db, world: &World) -> Done<()> {
    for key in &world.sessions.recovered {
        let Some((tenant, _)) = opened(world, key) else { continue };
        let entry = world.sessions.recovering.get(key).map(|recovery| recovery.entry);
        let sql = "UPDATE session SET recovering = $3 WHERE tenant = $1 AND key = $2";
        write(db, sql, &[&tenant, key, &entry]).await?;
    }
    Ok(())
}

async fn clusters(db: &Db, world: &World) -> Done<()> {
    let changed = |it: &&Clustered| world.regrouped.contains(&(it.tenant.clone(), it.cluster.id.clone()));
    let changed: Vec<&Clustered> = world.clusters.iter().filter(changed).collect();
    // Whoever leaves one may be in another at once.
    for it in &changed {
        let sql = "DELETE FROM member WHERE tenant = $1 AND cluster = $2";
        write(db, sql, &[&it.tenant.as_str(), &&*it.cluster.id]).await?;
    }
    for Clustered { tenant, cluster, formed_ms, opening, entry } in changed {
        let tenant_of = tenant.as_str();
        let sql = "INSERT INTO cluster (tenant, id, deadline, held, terminated, formed, opening, entry)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                   ON CONFLICT (tenant, id) DO UPDATE SET held = $4, terminated = $5, entry = $8";
        let values: [&Value<'_>; 8] = [
            &tenant_of,
            &&*cluster.id,
            &cluster.deadline_ms,
            &cluster.held,
            &cluster.terminated,
            formed_ms,
            &&**opening,
            entry,
        ];
        write(db, sql, &values).await?;
        for (place, member) in (0_i32..).zip(&cluster.members) {
            let sql =
                "INSERT INTO member (tenant, cluster, place, session, session_key, mandate, principal, waits)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            let key = identity::session(tenant, &member.session);
            let values: [&Value<'_>; 8] = [
                &tenant_of,
                &&*cluster.id,
                &place,
                &&*member.session,
                &key,
                &&*member.mandate_id,
                &&*member.principal,
                &member.waits_for.as_deref(),
            ];
            write(db, sql, &values).await?;
        }
    }
    Ok(())
}

async fn mandates(db: &Db, world: &World) -> Done<()> {
    for (place, entry) in &world.issues {
        let Some(mandate) = world.mandates.get(*place) else { continue };
        let crate::Mandate { tenant, jti, subject, issuer, issued_ms, expires_ms, claims, chain, kid } =
            mandate;
        let sql = "INSERT INTO mandate (tenant, jti, row, account, subject, issuer, issued, expires, claims, chain, kid)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let values: [&Value<'_>; 11] = [
            &tenant.as_str(),
            &&**jti,
            entry,
            &identity::account(tenant, jti),
            &subject.as_str(),
            &&**issuer,
            issued_ms,
            expires_ms,
            claims,
            &joined(chain),
            &kid.as_deref(),
        ];
        write(db, sql, &values).await?;
    }
    Ok(())
}

fn end<'a>(replica: &Replica, world: &World) -> Columns<'a> {
    let (seq, head, at_ms) = world.chain.end();
    let last = world.numbers.entry - world.numbers.step;
    columns![replica.number, seq.cast_signed(), head.map(|head| head.to_vec()), at_ms, last]
}
