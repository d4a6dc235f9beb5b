//! A world of the rows that a batch touches: read under locks, which everybody takes in the same order.
//!
//! ```text
//!   (all processes, to freeze) ─▶ own end of the chain ─▶ keys ─▶ effects, agents ─▶ actions ─▶ clusters ─▶ accounts ─▶ histories ─▶ sessions
//! ```
//!
//! INVARIANT (order): of each kind rows are locked in the order of their keys, and kinds in the order above. Rare exceptions
//! (accounts that are new; what is pruned, erased or heard) may wait in a circle with others, which the database ends; then it is
//! done once more.
//!
//! All that is known to be needed before anything is read is asked for at once, and answered together.

use std::collections::BTreeSet;
use std::sync::Arc;

use action::{ActionId, Currency, Money, Tenant};
use boundary::Series;
use futures_util::future::join_all;
use mandate::{
    Account, ApprovedLimits, Cluster, Completion, Granted, Halt, Member, Session as Stands, Usage,
};
use tokio::join;
use tokio_postgres::Row as Columns;

use super::governed;
use super::needs::Needs;
use super::replica::{Replica, numbers};
use super::rules;
use super::sql::{
    Db, Done, Failure, bytes, count, environment, get, id, lines, many, maybe_bytes, maybe_text, number, one,
    state, subject, tenant, text, write,
};
use crate::admit::{Cell, Claimed};
use crate::entry::{Chain, Reading};
use crate::identity::Claim;
use crate::intake::{Lease, Owners};
use crate::world::{Declaration, Last, Part, Recovery, Row, Touched, World};
use crate::{Clustered, Earlier, Given, Governed, Intention, Labels, Mandate, Sealer, State, Stored};

/// What is asked in every batch, prepared when a connection is made: whoever waits for that in between would be overtaken
/// by what comes after.
pub(super) const HOT: [&str; 12] = [
    super::replica::OWN,
    TAKE,
    LOCK,
    ACTIONS,
    AROUND,
    STANDING,
    HELD,
    ACCOUNTS,
    NEW_ACCOUNTS,
    SERIES,
    NEW_SERIES,
    CLAIMED,
];

/// Whoever changes what is frozen waits for everybody's transactions, and lets nobody begin another or join meanwhile: what is
/// admitted after it was acknowledged was judged by it. Each of these rows is locked by one process and by those who freeze, so
/// that nobody is kept waiting by many who share a lock.
const ALONE: &str = "BEGIN; SELECT name FROM gate WHERE name = 'registry' FOR UPDATE;
    SELECT number FROM replica WHERE NOT ended ORDER BY number FOR UPDATE";

/// Claims keys, and locks effects and agents, in this order: what the last part reads is done first. A key that somebody claims
/// who did not commit yet is waited for; one that was claimed stays as it is. A row to lock that is there is locked, and written
/// only now and then: what says when it was used last is for whoever clears up.
const TAKE: &str = "WITH claimed AS (INSERT INTO claim (tenant, digest, action)
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING RETURNING digest),
    guarded AS (INSERT INTO guard AS g (tenant, kind, key, at)
    SELECT *, clock_timestamp() FROM unnest($4::text[], $5::smallint[], $6::bytea[])
    ON CONFLICT (tenant, kind, key) DO UPDATE SET at = excluded.at WHERE g.at < excluded.at - interval '10 minutes')
    SELECT digest FROM claimed";
/// By way of the ids one by one, each of which leads to one partition.
const LOCK: &str =
    "SELECT f.id FROM unnest($1::bytea[]) w (id) JOIN fate f ON f.id = w.id ORDER BY f.id FOR UPDATE OF f";
const ACTIONS: &str = "SELECT a.id, a.tenant, a.row, a.environment, a.subject, a.key, a.claim, a.request_hash, a.archetype,
    a.principal, a.mandates, a.effect, a.at, a.claimed, a.expires, a.round, a.needed, a.currency, a.session, a.verb, a.target,
    a.level, a.regulations, a.refs, a.erase_after, a.erased, a.entry, f.state, f.debit, f.outcome, f.reply, f.token, f.owner,
    f.until, f.moved, o.at, e.bytes, c.session, c.sequence, c.intent, c.first, c.last, u.seconds, u.compute, u.memory,
    u.storage, u.egress
    FROM unnest($1::bytea[]) w (id) JOIN fate f ON f.id = w.id JOIN action a ON a.tenant = f.tenant AND a.id = f.id
    LEFT JOIN outcome o ON o.action = f.id AND o.entry = f.outcome LEFT JOIN entry e ON e.row = f.outcome
    LEFT JOIN cycle c ON c.action = f.id LEFT JOIN usage u ON u.action = f.id";
const CLAIMED: &str = "SELECT w.digest, c.action, a.request_hash, f.state, a.at
    FROM unnest($1::text[], $2::bytea[]) w (tenant, digest)
    CROSS JOIN LATERAL (SELECT c.action FROM claim c WHERE c.tenant = w.tenant AND c.digest = w.digest OFFSET 0) c
    CROSS JOIN LATERAL (SELECT a.tenant, a.request_hash, a.at FROM action a WHERE a.id = c.action OFFSET 0) a
    CROSS JOIN LATERAL (SELECT f.state FROM fate f WHERE f.id = c.action OFFSET 0) f WHERE a.tenant = w.tenant";
/// What stands around the rows: whether anything is frozen, or has one of the effects, and what was seen before. Each is looked
/// for by itself (`OFFSET 0`, or `LIMIT 1` where one tells): a plan that is made while there are few rows would join whole tables,
/// and go on doing so when there are many.
const AROUND: &str = "SELECT 1::smallint, NULL::bigint WHERE EXISTS (SELECT FROM stop)
    UNION ALL
    SELECT 2::smallint, NULL FROM unnest($1::text[], $2::bytea[], $3::bigint[]) w (tenant, hash, since)
    CROSS JOIN LATERAL (SELECT a.id FROM action a WHERE a.tenant = w.tenant AND a.effect = w.hash AND a.claimed > w.since
        AND NOT a.id = ANY($4::bytea[]) LIMIT 1) a
    UNION ALL
    SELECT 3::smallint, w.mark FROM unnest($5::text[], $6::bigint[]) w (tenant, mark)
    CROSS JOIN LATERAL (SELECT FROM seen s WHERE s.tenant = w.tenant AND s.mark = w.mark OFFSET 0) s";
const STOPPED: i16 = 1;
const TOUCHED: i16 = 2;
const SEEN: i16 = 3;
/// One beside that of whoever asks tells.
const STANDING: &str = "SELECT w.hash, s.id, s.claimed
    FROM unnest($1::text[], $2::bytea[], $3::bigint[]) w (tenant, hash, since)
    CROSS JOIN LATERAL (SELECT a.id, a.claimed FROM action a JOIN fate f ON f.id = a.id
        WHERE a.tenant = w.tenant AND a.effect = w.hash AND a.claimed > w.since AND f.state NOT IN (5, 6, 7)
        AND NOT a.id = ANY($4::bytea[]) ORDER BY a.claimed DESC, a.row DESC LIMIT 2) s";
const HELD: &str = "SELECT w.tenant, w.subject, s.expires
    FROM unnest($1::text[], $2::text[], $3::bigint[]) w (tenant, subject, since)
    CROSS JOIN LATERAL (SELECT a.expires FROM action a JOIN fate f ON f.id = a.id
        WHERE a.tenant = w.tenant AND a.subject = w.subject AND a.expires > w.since AND f.state = 1
        AND NOT a.id = ANY($4::bytea[]) OFFSET 0) s";
const VOICES: &str =
    "SELECT action, round, approver, at, entry FROM approval WHERE action = ANY($1::bytea[]) ORDER BY entry";
const TOLD: &str =
    "SELECT DISTINCT action FROM outcome WHERE action = ANY($1::bytea[]) AND receipt_id IS NOT NULL";
const LIVING: &str = "SELECT number FROM replica WHERE NOT ended";

const ACCOUNTS: &str = "SELECT a.tenant, a.key, a.jti, a.epoch, a.spent, a.actions, a.revoked, a.frozen, a.seconds, a.compute,
    a.memory, a.storage, a.egress, a.granted, a.granted_compute, a.granted_storage, a.granted_egress
    FROM account a JOIN unnest($1::text[], $2::bigint[]) w (tenant, key) ON a.tenant = w.tenant AND a.key = w.key
    ORDER BY a.tenant, a.key FOR UPDATE OF a";
const NEW_ACCOUNTS: &str = "INSERT INTO account SELECT *, 0, 0, 0, NULL, FALSE, 0, 0, 0, 0, 0, 0, 0, 0, 0
    FROM unnest($1::text[], $2::bigint[], $3::text[]) ON CONFLICT DO NOTHING";
const SERIES: &str = "SELECT s.tenant, s.key, s.bytes FROM series s
    JOIN unnest($1::text[], $2::bigint[]) w (tenant, key) ON s.tenant = w.tenant AND s.key = w.key
    ORDER BY s.tenant, s.key FOR UPDATE OF s";
const NEW_SERIES: &str =
    "INSERT INTO series SELECT *, ''::bytea FROM unnest($1::text[], $2::bigint[]) ON CONFLICT DO NOTHING";
pub(super) const SESSION: &str = "SELECT s.key, s.id, s.tenant, s.subject, s.mandate, s.opened, s.epoch, s.sequence, s.next,
    s.held, s.in_flight, s.denials, s.cycles, s.blocked, s.suspended, s.closed, s.halt, s.opening, s.entry, s.payload,
    s.limit_minor, s.limit_currency, s.limit_until, s.recovering FROM session s ";
const DECLARED: &str = "SELECT d.tenant, d.mandate, d.intent, d.id, d.entry, s.id FROM declaration d
    JOIN session s ON s.tenant = d.tenant AND s.key = d.session
    JOIN unnest($1::text[], $2::bigint[], $3::text[]) w (tenant, session, intent)
    ON d.tenant = w.tenant AND d.session = w.session AND d.intent = w.intent";
const DECLARING: &str = "SELECT d.tenant, d.mandate, d.intent, d.id, d.entry, s.id FROM declaration d
    JOIN session s ON s.tenant = d.tenant AND s.key = d.session
    JOIN unnest($1::text[], $2::text[], $3::text[]) w (tenant, mandate, intent)
    ON d.tenant = w.tenant AND d.mandate = w.mandate AND d.intent = w.intent";

/// Begins a transaction and reads all that is needed.
pub(super) async fn world(
    db: &Db,
    replica: &Replica,
    mut needs: Needs,
    sealer: Option<Arc<dyn Sealer>>,
) -> Done<(World, Needs, BTreeSet<(Tenant, Claim)>)> {
    let actions: Vec<&[u8]> = needs.actions.iter().map(|id| &id.as_bytes()[..]).collect();
    let begin = if needs.freezes { ALONE } else { "BEGIN" };
    // Unless something that is locked before them has to be found first, or more of their kind, which are locked in order.
    let early = needs.lines.is_empty()
        && needs.charged.is_empty()
        && needs.clusters.is_empty()
        && needs.grouped.is_empty()
        && needs.bound.is_empty();
    let accounts: Vec<_> = needs.accounts.keys().filter(|_| early).collect();
    let histories: Vec<_> = needs.series.iter().filter(|_| early).collect();
    let (begun, own, taken, locked, found, around, held, accounts, histories) = join!(
        async { Ok::<_, Failure>(db.batch_execute(begin).await?) },
        replica.own(db),
        take(db, &needs),
        some(db, LOCK, &actions),
        some(db, ACTIONS, &actions),
        around(db, &needs, &actions),
        held(db, &needs, &actions),
        locked_rows(db, ACCOUNTS, &accounts),
        locked_rows(db, SERIES, &histories),
    );
    // In the order in which they were sent: what fails first says why, and all behind it only that something had failed.
    begun?;
    let own = own.map_err(unlocked)?;
    let ours = taken?;
    locked?;
    let (found, around, held) = (found?, around?, held?);
    let (accounts, histories) = (accounts?, histories?);
    // There is hardly ever one, and a look whether there is costs less than to look for it. Nobody freezes while the own end of the
    // chain is locked.
    let stops = if around.stopped { rules::stops(rules::freezes(db).await?) } else { Vec::new() };
    let standing = if around.touched { standing(db, &needs, &actions).await? } else { Standing::new() };
    let chain = Chain::at(&own.chain, own.seq, own.head, own.at_ms);
    let processes = if needs.living { living(db).await? } else { BTreeSet::new() };
    let owners = Owners::Living { own: replica.number, processes, now_ms: own.clock_ms };
    let mut world = World::new(chain, numbers(&own, replica.slot), replica.number, owners);
    world.sessions.sealer = sealer;
    world.rows.freezes = Arc::new(stops);
    if ours.len() < needs.claims.len() {
        world.rows.claims.extend(claimed(db, &needs).await?);
    }
    // Whoever had claimed it is gone by now.
    if needs.claims.keys().any(|key| !ours.contains(key) && !world.rows.claims.contains_key(&key.1)) {
        return Err(Failure::Conflict("a key was freed meanwhile".to_owned()));
    }
    (world.beyond.effects, world.beyond.held) = (standing, held);
    for row in found {
        action(&mut world, &mut needs, &row)?;
    }
    accounts.iter().try_for_each(|row| take_account(&mut world, row))?;
    histories.iter().try_for_each(|row| take_series(&mut world, row))?;
    world.rows.seen.extend(around.seen);
    voices(db, &mut world, &needs).await?;
    told(db, &mut world, &needs).await?;
    related(db, &mut world, &mut needs, early).await?;
    Ok((world, needs, ours))
}

/// Only a commit of this process itself keeps its own row for long, and people who freeze for a moment: it waits for a standby
/// or a disk, and so would whatever is written behind it.
fn unlocked(failure: Failure) -> Failure {
    match failure {
        Failure::Conflict(why) => {
            Failure::Lost(format!("an earlier commit of this gateway does not come to an end: {why}"))
        }
        failure => failure,
    }
}

async fn some(db: &Db, sql: &str, ids: &[&[u8]]) -> Done<Vec<Columns>> {
    if ids.is_empty() { Ok(Vec::new()) } else { many(db, sql, &[&ids]).await }
}

/// Claims keys and locks effects and agents, of which there need be no row yet that could be; answers with the keys that nobody had.
async fn take(db: &Db, needs: &Needs) -> Done<BTreeSet<(Tenant, Claim)>> {
    let guards = guards(needs);
    if needs.claims.is_empty() && guards.is_empty() {
        return Ok(BTreeSet::new());
    }
    let tenants: Vec<&str> = needs.claims.keys().map(|(tenant, _)| tenant.as_str()).collect();
    let digests: Vec<&[u8]> = needs.claims.keys().map(|(_, claim)| &claim.bytes()[..]).collect();
    let actions: Vec<&[u8]> = needs.claims.values().map(|id| &id.as_bytes()[..]).collect();
    let (owners, kinds): (Vec<&str>, Vec<i16>) = guards.iter().map(|it| (it.0, it.1)).unzip();
    let keys: Vec<&[u8]> = guards.iter().map(|it| it.2).collect();
    let rows = many(db, TAKE, &[&tenants, &digests, &actions, &owners, &kinds, &keys]).await?;
    let digests: BTreeSet<[u8; 32]> = rows.iter().map(|row| bytes(row, 0)).collect::<Done<_>>()?;
    let ours = needs.claims.keys().filter(|(_, claim)| digests.contains(claim.bytes()));
    Ok(ours.cloned().collect())
}

async fn claimed(db: &Db, needs: &Needs) -> Done<Vec<(Claim, Claimed)>> {
    if needs.claims.is_empty() {
        return Ok(Vec::new());
    }
    let tenants: Vec<&str> = needs.claims.keys().map(|(tenant, _)| tenant.as_str()).collect();
    let digests: Vec<&[u8]> = needs.claims.keys().map(|(_, claim)| &claim.bytes()[..]).collect();
    let claimed = |row: &Columns| {
        let claimed = Claimed {
            id: id(row, 1)?,
            request_hash: bytes(row, 2)?,
            state: state(row, 3)?,
            at_ms: get(row, 4)?,
        };
        Ok((Claim::stored(bytes(row, 0)?), claimed))
    };
    many(db, CLAIMED, &[&tenants, &digests]).await?.iter().map(claimed).collect()
}

const EFFECT: i16 = 1;
const AGENT: i16 = 2;

/// The rows to lock, in order.
fn guards(needs: &Needs) -> Vec<(&str, i16, &[u8])> {
    let effects = needs.effects.keys().map(|(tenant, hash)| (tenant.as_str(), EFFECT, &hash[..]));
    let agents = needs.agents.keys();
    let agents = agents.map(|(tenant, agent)| (tenant.as_str(), AGENT, agent.as_str().as_bytes()));
    let mut all: Vec<(&str, i16, &[u8])> = effects.chain(agents).collect();
    all.sort_unstable();
    all
}

#[derive(Default)]
struct Around {
    stopped: bool,
    touched: bool,
    seen: Vec<(i64, Cell<()>)>,
}

async fn around(db: &Db, needs: &Needs, apart: &[&[u8]]) -> Done<Around> {
    let (owners, hashes, since) = effects(needs);
    let (tenants, marks): (Vec<&str>, Vec<i64>) =
        needs.seen.iter().map(|(tenant, mark)| (tenant.as_str(), *mark)).unzip();
    let mut around = Around::default();
    for row in many(db, AROUND, &[&owners, &hashes, &since, &apart, &tenants, &marks]).await? {
        match get::<i16>(&row, 0)? {
            STOPPED => around.stopped = true,
            TOUCHED => around.touched = true,
            SEEN => around.seen.push((get(&row, 1)?, Cell::stored(()))),
            other => return Err(Failure::Corrupt(format!("a row of kind {other} was not asked for"))),
        }
    }
    Ok(around)
}

fn effects(needs: &Needs) -> (Vec<&str>, Vec<&[u8]>, Vec<i64>) {
    let effects = needs.effects.iter();
    effects.map(|((tenant, hash), since)| (tenant.as_str(), &hash[..], *since)).collect()
}

type Standing = std::collections::HashMap<[u8; 32], Vec<Earlier>>;

async fn standing(db: &Db, needs: &Needs, apart: &[&[u8]]) -> Done<Standing> {
    let mut found = Standing::new();
    let (tenants, hashes, since) = effects(needs);
    for row in many(db, STANDING, &[&tenants, &hashes, &since, &apart]).await? {
        let earlier = Earlier { id: id(&row, 1)?, at_ms: get(&row, 2)? };
        found.entry(bytes(&row, 0)?).or_default().push(earlier);
    }
    Ok(found)
}

type Waiting = std::collections::HashMap<(Tenant, action::Subject), Vec<i64>>;

async fn held(db: &Db, needs: &Needs, apart: &[&[u8]]) -> Done<Waiting> {
    let mut found = Waiting::new();
    if needs.agents.is_empty() {
        return Ok(found);
    }
    let tenants: Vec<&str> = needs.agents.keys().map(|(tenant, _)| tenant.as_str()).collect();
    let agents: Vec<&str> = needs.agents.keys().map(|(_, agent)| agent.as_str()).collect();
    let since: Vec<i64> = needs.agents.values().copied().collect();
    for row in many(db, HELD, &[&tenants, &agents, &since, &apart]).await? {
        found.entry((tenant(&row, 0)?, subject(&row, 1)?)).or_default().push(get(&row, 2)?);
    }
    Ok(found)
}

async fn living(db: &Db) -> Done<BTreeSet<i64>> {
    many(db, LIVING, &[]).await?.iter().map(|row| get(row, 0)).collect()
}

/// Takes an action in, and what is needed because of it.
fn action(world: &mut World, needs: &mut Needs, row: &Columns) -> Done<()> {
    let read = action_at(row)?;
    let (of, key) = (read.stored.tenant.clone(), read.stored.row);
    if let Some(session) = get::<Option<i64>>(row, 37)? {
        needs.sessions.insert((of.clone(), session));
        let part = Part {
            session,
            sequence: get::<Option<i64>>(row, 38)?.map(i64::cast_unsigned),
            intent: maybe_text(row, 39)?,
            first: text(row, 40)?,
            last: text(row, 41)?,
            touched: false,
        };
        world.sessions.cycles.insert(read.stored.id, part);
    }
    if needs.charged.get(&read.stored.id).is_some_and(|alike| *alike != Some(read.stored.debit)) {
        for jti in &read.stored.mandates {
            needs.mandate(&of, jti);
        }
    }
    world.ids.insert(read.stored.id, key);
    world.actions.insert(key, read);
    Ok(())
}

/// An action without its payload and replies, which nothing is decided by.
fn action_at(row: &Columns) -> Done<Row> {
    let at: State = state(row, 27)?;
    let lease = Lease { token: count(row, 31)?, owner: get(row, 32)?, until_ms: get(row, 33)? };
    let outcome: Option<i64> = get(row, 29)?;
    let told: Option<&[u8]> = get(row, 36)?;
    let last = match (outcome, get::<Option<i64>>(row, 35)?) {
        (Some(entry), Some(at_ms)) => {
            let name = told.and_then(Reading::of).and_then(|told| told.action_hash);
            Some(Last { entry, at_ms, name })
        }
        _ => None,
    };
    let stored = Stored {
        row: get(row, 2)?,
        id: id(row, 0)?,
        tenant: tenant(row, 1)?,
        environment: environment(row, 3)?,
        subject: subject(row, 4)?,
        key: maybe_text(row, 5)?,
        request_hash: bytes(row, 7)?,
        archetype: text(row, 8)?,
        principal: text(row, 9)?,
        mandates: lines(row, 10)?,
        state: at,
        at_ms: get(row, 12)?,
        counted_ms: get(row, 13)?,
        expires_ms: get(row, 14)?,
        round: count(row, 15)?,
        needed: count(row, 16)?,
        token: lease.token,
        in_hand: lease.owner.is_some(),
        due_ms: lease.until_ms.filter(|_| at.rests()),
        debit: get(row, 28)?,
        currency: maybe_text(row, 17)?,
        payload: Vec::new(),
        reply: None,
        naming: None,
    };
    Ok(Row {
        labels: Labels {
            session: maybe_text(row, 18)?,
            verb: maybe_text(row, 19)?,
            target: maybe_text(row, 20)?,
            level: maybe_text(row, 21)?,
            regulations: lines(row, 22)?,
            refs: lines(row, 23)?,
        },
        entry: get(row, 26)?,
        moved: get(row, 34)?,
        claim: maybe_bytes(row, 6)?.map(Claim::stored),
        effect: maybe_bytes(row, 11)?,
        claimed_ms: stored.counted_ms,
        lease,
        usage: usage_at(row, 42)?,
        outcomes: Vec::new(),
        last,
        is_told: false,
        replied: get(row, 30)?,
        approvals: Vec::new(),
        erased_after_ms: get(row, 24)?,
        erased: get(row, 25)?,
        touched: Touched::default(),
        stored,
    })
}

fn usage_at(row: &Columns, first: usize) -> Done<Usage> {
    let amount =
        |at: usize| Ok::<_, Failure>(get::<Option<i64>>(row, first + at)?.unwrap_or_default().unsigned_abs());
    Ok(Usage {
        seconds: amount(0)?,
        compute_units: amount(1)?,
        memory_bytes: amount(2)?,
        storage_bytes: amount(3)?,
        egress_bytes: amount(4)?,
    })
}

async fn voices(db: &Db, world: &mut World, needs: &Needs) -> Done<()> {
    let actions: Vec<&[u8]> = needs.voices.iter().map(|id| &id.as_bytes()[..]).collect();
    for row in some(db, VOICES, &actions).await? {
        let action: ActionId = id(&row, 0)?;
        let (round, at_ms, entry) = (count(&row, 1)?, get(&row, 3)?, get(&row, 4)?);
        let given = Given { round, at_ms, record: Vec::new(), entry, whole: true };
        let approver = subject(&row, 2);
        if let Ok(of) = world.row_mut(action) {
            // Of one that was erased only a number is left, which is nobody's name.
            of.approvals.extend(approver.ok().map(|approver| (approver, given)));
        }
    }
    Ok(())
}

/// Which of those that are to get their first receipt have one: hardly ever is anything on record of them.
async fn told(db: &Db, world: &mut World, needs: &Needs) -> Done<()> {
    let said = needs.firsts.iter().filter(|id| world.row(**id).is_some_and(|row| row.last.is_some()));
    let actions: Vec<&[u8]> = said.map(|id| &id.as_bytes()[..]).collect();
    for row in some(db, TOLD, &actions).await? {
        if let Ok(of) = world.row_mut(id(&row, 0)?) {
            of.is_told = true;
        }
    }
    Ok(())
}

/// What belongs to the actions, and to what is asked for by name.
async fn related(db: &Db, world: &mut World, needs: &mut Needs, early: bool) -> Done<()> {
    mandates(db, world, needs).await?;
    bound(db, world, needs).await?;
    let grouped = memberships(db, needs).await?;
    needs.clusters.extend(grouped.iter().cloned());
    clusters(db, world, needs).await?;
    if !early {
        for row in locked_rows(db, ACCOUNTS, &needs.accounts.keys().collect::<Vec<_>>()).await? {
            take_account(world, &row)?;
        }
        for row in locked_rows(db, SERIES, &needs.series.iter().collect::<Vec<_>>()).await? {
            take_series(world, &row)?;
        }
    }
    new_accounts(db, world, needs).await?;
    new_series(db, world, needs).await?;
    sessions(db, world, needs).await?;
    // Whoever changes that holds the session.
    if memberships(db, needs).await? != grouped {
        return Err(Failure::Conflict("a session changed its cluster meanwhile".to_owned()));
    }
    let (declared, declaring) = join!(declared(db, needs), declaring(db, needs));
    world.sessions.declared.extend(declared?.into_iter().chain(declaring?));
    Ok(())
}

async fn mandates(db: &Db, world: &mut World, needs: &mut Needs) -> Done<()> {
    let wanted: Vec<(Tenant, Box<str>)> = needs.mandates.iter().chain(&needs.lines).cloned().collect();
    for (of, jti) in wanted {
        let Some(mandate) = mandate(db, &of, &jti).await? else { continue };
        if needs.lines.contains(&(of.clone(), jti.clone())) {
            for above in mandate.chain.iter().chain([&jti]) {
                needs.account(&of, above);
            }
        }
        if world.issued(&of, &jti).is_none() {
            world.mandates.push(mandate);
        }
    }
    Ok(())
}

async fn mandate(db: &Db, of: &Tenant, jti: &str) -> Done<Option<Mandate>> {
    let sql = "SELECT tenant, jti, subject, issuer, issued, expires, claims, chain, kid FROM mandate
               WHERE tenant = $1 AND jti = $2";
    let found = one(db, sql, &[&of.as_str(), &jti]).await?;
    found.map(|row| mandate_at(&row, 0)).transpose()
}

pub(super) fn mandate_at(row: &Columns, first: usize) -> Done<Mandate> {
    Ok(Mandate {
        tenant: tenant(row, first)?,
        jti: text(row, first + 1)?,
        subject: subject(row, first + 2)?,
        issuer: text(row, first + 3)?,
        issued_ms: get(row, first + 4)?,
        expires_ms: get(row, first + 5)?,
        claims: get(row, first + 6)?,
        chain: lines(row, first + 7)?,
        kid: maybe_text(row, first + 8)?,
    })
}

/// Of a mandate's row, that it descends from the one named second.
pub(super) const DESCENDS: &str = "$2 = ANY(string_to_array(chain, E'\\n'))";

/// The clusters in which there is a session of an agent under a mandate's root.
async fn bound(db: &Db, world: &World, needs: &mut Needs) -> Done<()> {
    for (of, agent, jti) in std::mem::take(&mut needs.bound) {
        let root = world.issued(&of, &jti).and_then(|mandate| mandate.chain.first()).unwrap_or(&jti);
        let sql = format!(
            "SELECT DISTINCT c.id FROM cluster c JOIN member m ON m.tenant = c.tenant AND m.cluster = c.id
             JOIN session s ON s.tenant = m.tenant AND s.key = m.session_key
             WHERE c.tenant = $1 AND NOT c.terminated AND s.subject = $3 AND (m.mandate = $2 OR m.mandate IN
             (SELECT jti FROM mandate WHERE tenant = $1 AND {DESCENDS}))"
        );
        for row in many(db, &sql, &[&of.as_str(), &&**root, &agent.as_str()]).await? {
            needs.clusters.insert((of.clone(), text(&row, 0)?));
        }
    }
    Ok(())
}

/// The clusters that sessions are in.
async fn memberships(db: &Db, needs: &Needs) -> Done<BTreeSet<(Tenant, Box<str>)>> {
    let mut found = BTreeSet::new();
    for (of, session) in &needs.grouped {
        let sql = "SELECT cluster FROM member WHERE tenant = $1 AND session = $2";
        if let Some(row) = one(db, sql, &[&of.as_str(), &&**session]).await? {
            found.insert((of.clone(), text(&row, 0)?));
        }
    }
    Ok(found)
}

pub(super) const CLUSTER: &str =
    "SELECT id, tenant, deadline, held, terminated, formed, opening, entry FROM cluster ";

async fn clusters(db: &Db, world: &mut World, needs: &mut Needs) -> Done<()> {
    for (of, name) in needs.clusters.clone() {
        let sql = format!("{CLUSTER} WHERE tenant = $1 AND id = $2 FOR UPDATE");
        let Some(row) = one(db, &sql, &[&of.as_str(), &&*name]).await? else { continue };
        let found = with_members(db, clustered_at(&row)?).await?;
        for member in &found.cluster.members {
            needs.session(&of, &member.session);
            if world.issued(&of, &member.mandate_id).is_none() {
                world.mandates.extend(mandate(db, &of, &member.mandate_id).await?);
            }
        }
        world.clusters.push(found);
    }
    Ok(())
}

pub(super) async fn with_members(db: &Db, mut found: Clustered) -> Done<Clustered> {
    let sql = "SELECT session, mandate, principal, waits FROM member WHERE tenant = $1 AND cluster = $2 ORDER BY place";
    let member = |row: &Columns| {
        Ok(Member {
            session: text(row, 0)?,
            mandate_id: text(row, 1)?,
            principal: text(row, 2)?,
            waits_for: maybe_text(row, 3)?,
        })
    };
    let rows = many(db, sql, &[&found.tenant.as_str(), &&*found.cluster.id]).await?;
    found.cluster.members = rows.iter().map(member).collect::<Done<_>>()?;
    Ok(found)
}

pub(super) fn clustered_at(row: &Columns) -> Done<Clustered> {
    let cluster = Cluster {
        id: text(row, 0)?,
        members: Vec::new(),
        deadline_ms: get(row, 2)?,
        held: get(row, 3)?,
        terminated: get(row, 4)?,
    };
    let (formed_ms, opening, entry) = (get(row, 5)?, text(row, 6)?, get(row, 7)?);
    Ok(Clustered { tenant: tenant(row, 1)?, cluster, formed_ms, opening, entry })
}

/// Makes the accounts that are not there yet.
async fn new_accounts(db: &Db, world: &mut World, needs: &Needs) -> Done<()> {
    let new: Vec<_> =
        needs.accounts.iter().filter(|((_, key), _)| !world.rows.accounts.contains_key(key)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let tenants: Vec<&str> = new.iter().map(|((tenant, _), _)| tenant.as_str()).collect();
    let keys: Vec<i64> = new.iter().map(|((_, key), _)| *key).collect();
    let names: Vec<&str> = new.iter().map(|(_, jti)| &***jti).collect();
    let (made, locked) = join!(async { write(db, NEW_ACCOUNTS, &[&tenants, &keys, &names]).await }, async {
        many(db, ACCOUNTS, &[&tenants, &keys]).await
    });
    made?;
    locked?.iter().try_for_each(|row| take_account(world, row))
}

fn take_account(world: &mut World, row: &Columns) -> Done<()> {
    let key = get(row, 1)?;
    world.rows.accounts.insert(key, Cell::stored(account_at(row, 2)?));
    Ok(())
}

async fn locked_rows(db: &Db, sql: &str, keys: &[&(Tenant, i64)]) -> Done<Vec<Columns>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let tenants: Vec<&str> = keys.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let keys: Vec<i64> = keys.iter().map(|(_, key)| *key).collect();
    many(db, sql, &[&tenants, &keys]).await
}

/// The columns of an account from its mandate's id on.
pub(super) fn account_at(row: &Columns, first: usize) -> Done<Account> {
    Ok(Account {
        jti: get(row, first)?,
        epoch: number(row, first + 1)?,
        spent_minor: get(row, first + 2)?,
        actions: number(row, first + 3)?,
        revoked_at: get(row, first + 4)?,
        frozen: get(row, first + 5)?,
        used: usage_at(row, first + 6)?,
        granted: Granted {
            seconds: get(row, first + 11)?,
            compute_units: get(row, first + 12)?,
            storage_bytes: get(row, first + 13)?,
            egress_bytes: get(row, first + 14)?,
        },
    })
}

async fn sessions(db: &Db, world: &mut World, needs: &Needs) -> Done<()> {
    if needs.sessions.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "{SESSION} JOIN unnest($1::text[], $2::bigint[]) w (tenant, key) ON s.tenant = w.tenant AND s.key = w.key
         ORDER BY s.tenant, s.key FOR UPDATE OF s"
    );
    for row in locked_rows(db, &sql, &needs.sessions.iter().collect::<Vec<_>>()).await? {
        let key: i64 = get(&row, 0)?;
        let found = governed_at(&row)?;
        if let Some(entry) = get::<Option<i64>>(&row, 23)? {
            world.sessions.recovering.insert(key, Recovery { id: "".into(), entry });
        }
        world.rows.sessions.insert(key, Cell::stored(found.session.clone()));
        world.sessions.opened.push((key, found));
    }
    if world.sessions.opened.is_empty() {
        Ok(())
    } else {
        governed::as_told(db, &world.sessions.opened).await
    }
}

pub(super) fn governed_at(row: &Columns) -> Done<Governed> {
    let closed = get::<Option<i16>>(row, 15)?.map(|code| match code {
        1 => Completion::Complete,
        2 => Completion::Partial,
        // What is not understood is over.
        _ => Completion::Revoked,
    });
    let halt = get::<Option<i16>>(row, 16)?.map(|code| match code {
        1 => Halt::Clean,
        2 => Halt::Partial,
        _ => Halt::Unknown,
    });
    let session = Stands {
        id: text(row, 1)?,
        subject: subject(row, 3)?,
        mandate_id: text(row, 4)?,
        opened_ms: get(row, 5)?,
        epoch: number(row, 6)?,
        sequence: number(row, 7)?,
        next_record: number(row, 8)?,
        held: count(row, 9)?,
        in_flight: count(row, 10)?,
        denials: count(row, 11)?,
        cycles: number(row, 12)?,
        blocked_ms: get(row, 13)?,
        suspended: get(row, 14)?,
        closed,
        halt,
        limits: limits_at(row, 20)?,
    };
    let (opening, row_of, payload) = (text(row, 17)?, get(row, 18)?, get(row, 19)?);
    Ok(Governed { row: row_of, tenant: tenant(row, 2)?, session, opening, payload })
}

/// Where limits cannot be read neither can the session, and nothing is admitted in it.
pub(super) fn limits_at(row: &Columns, column: usize) -> Done<ApprovedLimits> {
    let unfit = || Failure::Corrupt("the limits of a session are of no kind that is ever stored".to_owned());
    let max_amount = match get::<Option<i64>>(row, column)? {
        None => None,
        Some(minor) => {
            let currency = Currency::of(get::<Option<&str>>(row, column + 1)?.unwrap_or_default());
            Some(currency.and_then(|currency| Money::new(minor, currency)).ok_or_else(unfit)?)
        }
    };
    Ok(ApprovedLimits { max_amount, not_after_ms: get(row, column + 2)? })
}

/// Makes the histories that are not there yet.
async fn new_series(db: &Db, world: &mut World, needs: &Needs) -> Done<()> {
    let new: Vec<_> = needs.series.iter().filter(|(_, key)| !world.rows.series.contains_key(key)).collect();
    let (made, locked) = join!(locked_rows(db, NEW_SERIES, &new), locked_rows(db, SERIES, &new));
    made?;
    locked?.iter().try_for_each(|row| take_series(world, row))
}

fn take_series(world: &mut World, row: &Columns) -> Done<()> {
    // An unreadable one begins anew, which can only make the judge more careful.
    let series = Series::from_bytes(get(row, 2)?).unwrap_or_default();
    world.rows.series.insert(get(row, 1)?, Cell::stored(Arc::new(series)));
    Ok(())
}

async fn declared(db: &Db, needs: &Needs) -> Done<Vec<Declaration>> {
    if needs.declared.is_empty() {
        return Ok(Vec::new());
    }
    let tenants: Vec<&str> = needs.declared.iter().map(|it| it.0.as_str()).collect();
    let sessions: Vec<i64> = needs.declared.iter().map(|it| it.1).collect();
    let intents: Vec<&str> = needs.declared.iter().map(|it| &*it.2).collect();
    let rows = many(db, DECLARED, &[&tenants, &sessions, &intents]).await?;
    rows.iter().map(declaration_at).collect()
}

async fn declaring(db: &Db, needs: &Needs) -> Done<Vec<Declaration>> {
    if needs.declaring.is_empty() {
        return Ok(Vec::new());
    }
    let tenants: Vec<&str> = needs.declaring.iter().map(|it| it.0.as_str()).collect();
    let mandates: Vec<&str> = needs.declaring.iter().map(|it| &*it.1).collect();
    let intents: Vec<&str> = needs.declaring.iter().map(|it| &*it.2).collect();
    let rows = many(db, DECLARING, &[&tenants, &mandates, &intents]).await?;
    rows.iter().map(declaration_at).collect()
}

/// A declaration without its entry and record, which nothing is decided by.
fn declaration_at(row: &Columns) -> Done<Declaration> {
    let (intent, record_id, session) = (text(row, 2)?, text(row, 3)?, text(row, 5)?);
    let intention = Intention { intent, session, record_id, entry: Vec::new(), record: Vec::new() };
    Ok(Declaration { tenant: tenant(row, 0)?, mandate: text(row, 1)?, entry: get(row, 4)?, intention })
}

/// Prepares what every batch asks.
pub(super) async fn prepare(db: &Db) -> Done<()> {
    let statements = HOT.iter().chain(&super::flush::HOT);
    let prepared = join_all(statements.map(|sql| db.prepare_cached(sql))).await;
    prepared.into_iter().try_for_each(|one| one.map(drop).map_err(Failure::from))
}
