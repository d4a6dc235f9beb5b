//! The statements of the hot path, prepared once for each batch.

use action::ActionId;
use mandate::Usage;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::read::{self, ADDRESS_SLICE, EFFECT_SLICE, Sql};
use crate::admit::Item;
use crate::intake::Lease;
use crate::{Approval, Cycle, Outcome, State};

/// What became of an action: the one row of it that changes.
pub(crate) struct Fate {
    pub(crate) row: i64,
    pub(crate) state: State,
    pub(crate) debit: i64,
    pub(crate) outcome: Option<i64>,
    pub(crate) reply: Option<i64>,
    pub(crate) lease: Lease,
    /// The entry with which it last went on after it was admitted.
    pub(crate) moved: Option<i64>,
    /// The session it is a cycle of, by key. It is not in this row.
    pub(crate) session: Option<i64>,
}

pub(crate) struct Statements<'a> {
    action: CachedStatement<'a>,
    fate: CachedStatement<'a>,
    effect: CachedStatement<'a>,
    outcome: CachedStatement<'a>,
    address: CachedStatement<'a>,
    entry: CachedStatement<'a>,
    find: CachedStatement<'a>,
    change: CachedStatement<'a>,
    /// Prepared when the first is needed: they are rare.
    db: &'a Connection,
}

impl<'a> Statements<'a> {
    pub(crate) fn new(db: &'a Connection) -> Sql<Statements<'a>> {
        Ok(Statements {
            action: db.prepare_cached(
                "INSERT INTO action VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                 ?17, ?18, ?19, ?20, ?21, NULL, NULL, ?22, ?23, ?24, ?25, ?26, ?27)",
            )?,
            fate: db.prepare_cached("INSERT INTO fate VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?,
            effect: db.prepare_cached("INSERT INTO effect VALUES (?1, ?2, ?3)")?,
            outcome: db.prepare_cached(
                "INSERT INTO outcome VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?,
            address: db.prepare_cached("INSERT OR IGNORE INTO address VALUES (?1, ?2, ?3)")?,
            entry: db.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3)")?,
            // Of the action only its index is read.
            find: db.prepare_cached(
                "SELECT f.row, f.state, f.debit, f.outcome, f.reply, f.token, f.owner, f.until, f.moved, c.session
                 FROM action a JOIN fate f ON f.row = a.row LEFT JOIN cycle c ON c.action = a.row WHERE a.id = ?1",
            )?,
            change: db.prepare_cached(
                "UPDATE fate SET state = ?2, debit = ?3, outcome = ?4, reply = ?5, token = ?6, owner = ?7, until = ?8,
                 moved = ?9 WHERE row = ?1",
            )?,
            db,
        })
    }

    pub(crate) fn action(&mut self, row: i64, item: &Item, slot: Option<i64>, entry: i64) -> Sql<()> {
        let intent = &item.intent;
        let hold = item.hold();
        let currency = intent.amount.map(|amount| amount.currency());
        let labels = &intent.labels;
        let lines = |list: &[Box<str>]| (!list.is_empty()).then(|| list.join("\n"));
        let written = self.action.execute(params![
            row,
            intent.id.as_bytes(),
            intent.tenant.as_str(),
            read::environment_code(intent.environment),
            intent.subject.as_str(),
            intent.key,
            slot,
            intent.request_hash,
            &*intent.archetype,
            &*intent.principal,
            mandates(item),
            item.effect().map(|effect| effect.hash),
            item.sends().then_some(item.series),
            intent.at_ms,
            hold.map(|hold| hold.until_ms),
            intent.amount.map_or(0, |amount| amount.minor()),
            currency.as_ref().map(|currency| currency.code()),
            entry,
            intent.payload,
            hold.map(|_| FIRST_ROUND),
            hold.map(|hold| hold.needed),
            labels.session,
            labels.verb,
            labels.target,
            labels.level,
            lines(&labels.regulations),
            lines(&labels.refs),
        ]);
        written.map(drop)
    }

    /// What changes in the row of an action that is judged again; `newest` is the last row there is.
    pub(crate) fn resume(&mut self, row: i64, item: &Item, newest: i64) -> Sql<()> {
        let sql = "UPDATE action SET principal = ?2, mandates = ?3, effect = ?4, series = ?5, amount = ?6,
                   currency = ?7, payload = ?8, round = nullif(coalesce(round, 0) + ?9, 0), needed = coalesce(?10, needed),
                   expires = coalesce(?11, expires), resumed = ?12, resumed_row = ?13 WHERE row = ?1";
        let (intent, hold) = (&item.intent, item.hold());
        let currency = intent.amount.map(|amount| amount.currency());
        let values = params![
            row,
            &*intent.principal,
            mandates(item),
            item.effect().map(|effect| effect.hash),
            item.sends().then_some(item.series),
            intent.amount.map_or(0, |amount| amount.minor()),
            currency.as_ref().map(|currency| currency.code()),
            intent.payload,
            u32::from(hold.is_some()),
            hold.map(|hold| hold.needed),
            hold.map(|hold| hold.until_ms),
            intent.at_ms,
            newest,
        ];
        self.db.prepare_cached(sql)?.execute(values).map(drop)
    }

    /// Has an action erased so long after it is settled, which is not before it came in.
    pub(crate) fn deletion(&mut self, row: i64, at_ms: i64, after_ms: i64) -> Sql<()> {
        let sql = "INSERT INTO deletion VALUES (?1, ?2, ?3)";
        let values = [row, at_ms.saturating_add(after_ms), after_ms];
        self.db.prepare_cached(sql)?.execute(values).map(drop)
    }

    pub(crate) fn cycle(&mut self, row: i64, session: i64, cycle: &Cycle, last: &str) -> Sql<()> {
        let sql = "INSERT INTO cycle VALUES (?1, ?2, ?3, ?4, ?5)";
        let sequence = cycle.sequence.map(u64::cast_signed);
        self.db.prepare_cached(sql)?.execute(params![row, session, sequence, cycle.intent, last]).map(drop)
    }

    /// The id of the latest record of a cycle.
    pub(crate) fn cycle_goes_on(&mut self, row: i64, last: &str) -> Sql<()> {
        let sql = "UPDATE cycle SET last = ?2 WHERE action = ?1";
        self.db.prepare_cached(sql)?.execute(params![row, last]).map(drop)
    }

    /// What an action debited beside money.
    pub(crate) fn usage(&mut self, row: i64, usage: &Usage) -> Sql<()> {
        let [seconds, compute, memory, storage, egress] = amounts(usage);
        let sql = "INSERT OR REPLACE INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = [row, seconds, compute, memory, storage, egress];
        self.db.prepare_cached(sql)?.execute(values).map(drop)
    }

    pub(crate) fn approval(&mut self, action: i64, approval: &Approval, entry: i64) -> Sql<()> {
        let Approval { round, approver, at_ms, record, .. } = approval;
        let sql = "INSERT INTO approval (action, round, approver, at, entry, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = params![action, round, approver.as_str(), at_ms, entry, record];
        self.db.prepare_cached(sql)?.execute(values).map(drop)
    }

    /// Which hold an action is in from now on, and how many have to agree to it.
    pub(crate) fn next_hold(&mut self, action: i64, round: u32, needed: u32) -> Sql<()> {
        let sql = "UPDATE action SET round = ?2, needed = ?3 WHERE row = ?1";
        self.db.prepare_cached(sql)?.execute(params![action, round, needed]).map(drop)
    }

    pub(crate) fn fate(&mut self, fate: &Fate) -> Sql<()> {
        write_fate(&mut self.fate, fate)
    }

    pub(crate) fn change(&mut self, fate: &Fate) -> Sql<()> {
        write_fate(&mut self.change, fate)
    }

    /// The payload of an intent, from now on.
    pub(crate) fn payload(&mut self, row: i64, payload: &[u8]) -> Sql<()> {
        let sql = "UPDATE action SET payload = ?2 WHERE row = ?1";
        self.db.prepare_cached(sql)?.execute(params![row, payload]).map(drop)
    }

    pub(crate) fn find(&mut self, id: ActionId) -> Sql<Option<Fate>> {
        let found = self.find.query_row([id.as_bytes()], |row| {
            Ok(Fate {
                row: row.get(0)?,
                state: read::state(row, 1)?,
                debit: row.get(2)?,
                outcome: row.get(3)?,
                reply: row.get(4)?,
                lease: Lease { token: row.get(5)?, owner: row.get(6)?, until_ms: row.get(7)? },
                moved: row.get(8)?,
                session: row.get(9)?,
            })
        });
        found.optional()
    }

    /// An action's effect is found in the slice of `place`.
    pub(crate) fn effect(&mut self, tag: i64, place: i64, action: i64) -> Sql<()> {
        self.effect.execute([place >> EFFECT_SLICE, tag, action]).map(drop)
    }

    pub(crate) fn forget_effect(&mut self, tag: i64, place: i64, action: i64) -> Sql<()> {
        let sql = "DELETE FROM effect WHERE slice = ?1 AND tag = ?2 AND action = ?3";
        self.db.prepare_cached(sql)?.execute([place >> EFFECT_SLICE, tag, action]).map(drop)
    }

    pub(crate) fn outcome(
        &mut self,
        row: i64,
        action: i64,
        previous: Option<i64>,
        outcome: &Outcome,
        entry: i64,
    ) -> Sql<()> {
        let Outcome { at_ms, state, reply, receipt, payload, .. } = outcome;
        let (reply, receipt) = (reply.as_ref(), receipt.as_ref());
        let written = self.outcome.execute(params![
            row,
            action,
            previous,
            state.code(),
            at_ms,
            reply.map(|reply| reply.status),
            reply.map(|reply| &reply.body),
            receipt.map(|receipt| &receipt.id),
            receipt.map(|receipt| &receipt.short),
            receipt.map(|receipt| &receipt.signature),
            receipt.map(|receipt| &receipt.document),
            entry,
            payload,
        ]);
        written.map(drop)
    }

    pub(crate) fn addresses(&mut self, tags: [i64; 2], outcome: i64) -> Sql<()> {
        for tag in tags {
            self.address.execute([outcome >> ADDRESS_SLICE, tag, outcome])?;
        }
        Ok(())
    }

    pub(crate) fn entry(&mut self, row: i64, bytes: &[u8], record: Option<&[u8]>) -> Sql<()> {
        self.entry.execute(params![row, bytes, record]).map(drop)
    }
}

fn write_fate(statement: &mut CachedStatement<'_>, fate: &Fate) -> Sql<()> {
    let Fate { row, state, debit, outcome, reply, lease, moved, session: _ } = fate;
    let Lease { token, owner, until_ms } = lease;
    statement
        .execute(params![row, state.code(), debit, outcome, reply, token, owner, until_ms, moved])
        .map(drop)
}

/// What is used, as it stands in columns.
pub(super) fn amounts(usage: &Usage) -> [i64; 5] {
    let Usage { seconds, compute_units, memory_bytes, storage_bytes, egress_bytes } = *usage;
    [seconds, compute_units, memory_bytes, storage_bytes, egress_bytes]
        .map(|amount| i64::try_from(amount).unwrap_or(i64::MAX))
}

/// One jti per line, leaf first.
fn mandates(item: &Item) -> Option<String> {
    let debits = item.debits();
    (!debits.is_empty()).then(|| debits.iter().map(|debit| &*debit.link.jti).collect::<Vec<_>>().join("\n"))
}

/// Holds are counted from here.
const FIRST_ROUND: u32 = 1;
