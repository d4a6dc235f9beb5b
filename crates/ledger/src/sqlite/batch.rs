//! One transaction's worth of writes, between `BEGIN` and `COMMIT`.

use std::sync::Arc;

use action::ActionId;
use boundary::Series;
use rusqlite::{Connection, params};

use super::Shared;
use super::filter::Kind;
use super::hot::Hot;
use super::read::{self, ADDRESS_SLICE, EFFECT_SLICE, Slot, Sql};
use crate::admit::{Cell, Gate, Item, Rows, admit, corrected};
use crate::entry::Chain;
use crate::identity;
use crate::intake::Digests;
use crate::{Admitted, ApiKey, Draft, Error, Event, Freeze, Outcome, Settlement, State};

/// A settlement or amendment, with what was computed before it came to the writer.
pub(crate) struct Close {
    pub(crate) settlement: Settlement,
    pub(crate) digests: Digests,
    pub(crate) amends: bool,
}

/// The ends of the tables that grow, and of the chain.
#[derive(Clone)]
pub(crate) struct Tail {
    pub(crate) chain: Chain,
    pub(crate) action: i64,
    pub(crate) outcome: i64,
    pub(crate) entry: i64,
    /// The last action whose history is in its row of `series`.
    pub(crate) saved: i64,
}

/// How many actions may be missing from the rows of `series`: what is made good after a crash.
const UNSAVED_ACTIONS: i64 = 4096;
const UNSAVED_SERIES: usize = 512;

pub(crate) struct Batch<'a> {
    pub(crate) db: &'a Connection,
    shared: &'a Shared,
    pub(crate) rows: Rows,
    tail: Tail,
    keys: Vec<ApiKey>,
    refusals: Vec<([u8; 32], ActionId, i64)>,
    saved: bool,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(db: &'a Connection, shared: &'a Shared, tail: Tail) -> Batch<'a> {
        let rows = Rows { freezes: shared.hot().freezes.clone(), ..Rows::default() };
        Batch { db, shared, rows, tail, keys: Vec::new(), refusals: Vec::new(), saved: false }
    }

    /// Decides items and writes those that pass.
    pub(crate) fn enter(&mut self, items: &[Item]) -> Sql<Vec<Admitted>> {
        let slots = items.iter().map(|item| self.read(item)).collect::<Sql<Vec<_>>>()?;
        let mut results = admit(&mut self.rows, items);
        for ((item, slot), result) in items.iter().zip(slots).zip(&mut results) {
            if let Admitted::New { entry } = result {
                *entry = self.insert(item, slot)?;
            }
        }
        for result in &mut results {
            if let Admitted::Existing(existing) = result {
                existing.reply = read::last_reply(self.db, existing.id)?;
            }
        }
        Ok(results)
    }

    /// Reads every row the item needs; answers with the index number for its key.
    fn read(&mut self, item: &Item) -> Sql<Option<i64>> {
        let intent = &item.intent;
        for (key, debit) in item.accounts.iter().zip(item.debits()) {
            self.account(*key, &debit.jti)?;
        }
        if item.sends() {
            self.read_history(item)?;
        }
        if let Some(effect) = item.effect()
            && !self.rows.effects.contains_key(&effect.hash)
            && self.shared.filter.may_hold(Kind::Effect, identity::tag(&effect.hash))
            && let Some(earlier) = read::effect(self.db, &effect.hash, intent.at_ms - effect.window_ms)?
        {
            self.rows.effects.insert(effect.hash, earlier);
        }
        let (Some(claim), Some(key)) = (&item.claim, &intent.key) else { return Ok(None) };
        if !self.shared.filter.may_hold(Kind::Slot, claim.slot()) {
            return Ok(Some(claim.slot()));
        }
        match read::slot(self.db, claim, (&intent.tenant, intent.environment, &intent.subject, key))? {
            Slot::Free(slot) => Ok(Some(slot)),
            Slot::Taken(claimed) => {
                self.rows.claims.insert(*claim, claimed);
                Ok(None)
            }
        }
    }

    fn read_history(&mut self, item: &Item) -> Sql<()> {
        if !self.rows.series.contains_key(&item.series) {
            let known = self.shared.hot().series(item.series);
            let series = match known {
                Some(series) => series,
                None => Arc::new(stored_series(self.db, item.series)?),
            };
            self.rows.series.insert(item.series, Cell::stored(series));
        }
        if let Some(mark) = item.seen
            && !self.rows.seen.contains_key(&mark)
            && self.shared.seen(self.db, mark)?
        {
            self.rows.seen.insert(mark, Cell::stored(()));
        }
        Ok(())
    }

    /// Sees to it that the account is among the rows.
    pub(crate) fn account(&mut self, key: i64, jti: &str) -> Sql<()> {
        if self.rows.accounts.contains_key(&key) {
            return Ok(());
        }
        let known = self.shared.hot().accounts.get(&key);
        let account = match known {
            Some(account) => Some(account),
            None => read::account(self.db, key, jti)?,
        };
        if let Some(account) = account {
            self.rows.accounts.insert(key, Cell::stored(account));
        }
        Ok(())
    }

    fn insert(&mut self, item: &Item, slot: Option<i64>) -> Sql<i64> {
        let intent = &item.intent;
        let row = self.tail.action;
        let (entry, outcome) = match &item.gate {
            Gate::Admit { .. } => (self.entry(intent.at_ms, Some(intent.id), &intent.entry, None)?, None),
            Gate::Refuse { code, outcome, digests } => {
                let entry = self.entry(outcome.at_ms, Some(intent.id), &outcome.entry, digests.receipt)?;
                let name = identity::refusal(&intent.tenant, &intent.subject, code, &intent.request_hash);
                self.refusals.push((name, intent.id, intent.at_ms));
                (entry, Some(self.outcome(row, None, outcome, digests, entry)?))
            }
        };
        let hold_until_ms = match item.gate {
            Gate::Admit { hold_until_ms, .. } => hold_until_ms,
            Gate::Refuse { .. } => None,
        };
        let debits = item.debits();
        let mandates = (!debits.is_empty())
            .then(|| debits.iter().map(|debit| &*debit.jti).collect::<Vec<_>>().join("\n"));
        let amount = intent.amount.map_or(0, |amount| amount.minor());
        let currency = intent.amount.map(|amount| amount.currency());
        let mut insert = self.db.prepare_cached(
            "INSERT INTO action VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
             ?18, ?19)",
        )?;
        insert.execute(params![
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
            mandates,
            item.effect().map(|effect| effect.hash),
            item.sends().then_some(item.series),
            intent.at_ms,
            hold_until_ms,
            amount,
            currency.as_ref().map(|currency| currency.code()),
            entry,
            intent.payload,
        ])?;
        let debit = if item.sends() { amount } else { 0 };
        let reply =
            outcome.filter(|_| matches!(&item.gate, Gate::Refuse { outcome, .. } if outcome.reply.is_some()));
        let mut insert = self.db.prepare_cached("INSERT INTO fate VALUES (?1, ?2, ?3, ?4, ?5)")?;
        insert.execute(params![row, item.state().code(), debit, outcome, reply])?;
        if let Some(slot) = slot {
            // A search begins at the claim's own number, which another key holds if this is a later one.
            self.shared.filter.add(Kind::Slot, slot);
        }
        if let Some(effect) = item.effect() {
            let tag = identity::tag(&effect.hash);
            let mut insert = self.db.prepare_cached("INSERT INTO effect VALUES (?1, ?2, ?3)")?;
            insert.execute([row >> EFFECT_SLICE, tag, row])?;
            self.shared.filter.add(Kind::Effect, tag);
        }
        self.tail.action += 1;
        Ok(entry)
    }

    /// Settles or amends one action. What is not allowed is an answer and writes nothing.
    pub(crate) fn close(&mut self, close: &Close) -> Sql<Result<i64, Error>> {
        let Settlement { action: id, outcome, charged, freeze_mandates } = &close.settlement;
        // Of the action only its index is read.
        let sql =
            "SELECT f.row, f.state, f.debit, f.outcome, f.reply FROM action a JOIN fate f ON f.row = a.row
                   WHERE a.id = ?1";
        let found = read::one(self.db, sql, [id.as_bytes()], |row| {
            Ok(Fate {
                row: row.get(0)?,
                state: read::state(row, 1)?,
                debit: row.get(2)?,
                outcome: row.get(3)?,
                reply: row.get(4)?,
            })
        })?;
        let Some(open) = found else { return Ok(Err(Error::NoSuchAction(*id))) };
        let to = outcome.state;
        let allowed = if close.amends { open.state.may_amend(to) } else { open.state.may_settle(to) };
        if !allowed {
            return Ok(Err(Error::Illegal { id: *id, from: open.state, to }));
        }
        let entry = self.entry(outcome.at_ms, Some(*id), &outcome.entry, close.digests.receipt)?;
        let row = self.outcome(open.row, open.outcome, outcome, &close.digests, entry)?;
        let charged = charged.filter(|_| open.state != State::Held).unwrap_or(open.debit);
        let reply = if outcome.reply.is_some() { Some(row) } else { open.reply };
        let mut update = self.db.prepare_cached(
            "UPDATE fate SET state = ?2, debit = ?3, outcome = ?4, reply = ?5 WHERE row = ?1",
        )?;
        update.execute(params![open.row, to.code(), charged, row, reply])?;
        if charged != open.debit || *freeze_mandates {
            self.correct(open.row, charged - open.debit, *freeze_mandates)?;
        }
        Ok(Ok(entry))
    }

    /// Applies what was really spent to the mandate and every ancestor.
    fn correct(&mut self, action: i64, difference: i64, freeze: bool) -> Sql<()> {
        for (key, jti) in read::chain(self.db, action)? {
            self.account(key, &jti)?;
            let cell = self.rows.account(key, &jti);
            cell.set(corrected(&cell.value, difference, freeze));
        }
        Ok(())
    }

    fn outcome(
        &mut self,
        action: i64,
        previous: Option<i64>,
        outcome: &Outcome,
        digests: &Digests,
        entry: i64,
    ) -> Sql<i64> {
        let row = self.tail.outcome;
        let Outcome { at_ms, state, reply, receipt, payload, .. } = outcome;
        let receipt = receipt.as_ref();
        let mut insert = self.db.prepare_cached(
            "INSERT INTO outcome VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?;
        insert.execute(params![
            row,
            action,
            previous,
            state.code(),
            at_ms,
            reply.as_ref().map(|reply| reply.status),
            reply.as_ref().map(|reply| &reply.body),
            receipt.map(|receipt| &receipt.id),
            receipt.map(|receipt| &receipt.short),
            receipt.map(|receipt| &receipt.signature),
            receipt.map(|receipt| &receipt.document),
            entry,
            payload,
        ])?;
        if receipt.is_some() {
            let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO address VALUES (?1, ?2, ?3)")?;
            for tag in digests.addresses {
                insert.execute([row >> ADDRESS_SLICE, tag, row])?;
            }
        }
        self.tail.outcome += 1;
        Ok(row)
    }

    /// Appends an entry for something that is no action.
    pub(crate) fn event(&mut self, event: &Event) -> Sql<i64> {
        self.append(event.at_ms, None, &event.draft(), None, Some(&event.record))
    }

    fn entry(
        &mut self,
        at_ms: i64,
        action: Option<ActionId>,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
    ) -> Sql<i64> {
        self.append(at_ms, action, draft, receipt_hash, None)
    }

    pub(crate) fn append(
        &mut self,
        at_ms: i64,
        action: Option<ActionId>,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
        record: Option<&[u8]>,
    ) -> Sql<i64> {
        let bytes = self
            .tail
            .chain
            .append(at_ms, action, draft, receipt_hash)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let row = self.tail.entry;
        let mut insert = self.db.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3)")?;
        insert.execute(params![row, bytes, record])?;
        self.tail.entry += 1;
        Ok(row)
    }

    /// Published with the commit.
    pub(crate) fn put_key(&mut self, key: ApiKey) {
        self.keys.push(key);
    }

    /// Published with the commit.
    pub(crate) fn put_freezes(&mut self, freezes: Vec<Freeze>) {
        self.rows.freezes = Arc::new(freezes);
    }

    /// Writes what the batch changed in rows that are shared by many actions: once each.
    pub(crate) fn write_shared(&mut self, closing: bool) -> Sql<()> {
        let mut upsert = self.db.prepare_cached(
            "INSERT INTO account VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET epoch = ?2, spent = ?3,
             actions = ?4, revoked = ?5, frozen = ?6",
        )?;
        for (key, cell) in self.rows.accounts.iter().filter(|(_, cell)| cell.changed) {
            let mandate::Account { epoch, spent_minor, actions, revoked_at, frozen, .. } = &cell.value;
            let (epoch, actions) = (epoch.cast_signed(), actions.cast_signed());
            upsert.execute(params![key, epoch, spent_minor, actions, revoked_at, frozen])?;
        }
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO seen VALUES (?1)")?;
        for (mark, _) in self.rows.seen.iter().filter(|(_, cell)| cell.changed) {
            insert.execute([mark])?;
            self.shared.filter.add(Kind::Seen, *mark);
        }
        self.write_counts()?;
        let due = self.shared.hot().unsaved.len() >= UNSAVED_SERIES
            || self.tail.action - self.tail.saved > UNSAVED_ACTIONS;
        if due || closing {
            self.write_series()?;
        }
        Ok(())
    }

    fn write_counts(&self) -> Sql<()> {
        let counts = std::mem::take(&mut self.shared.hot().refusals.uncounted);
        let mut upsert = self.db.prepare_cached("INSERT OR REPLACE INTO repeat VALUES (?1, ?2)")?;
        for (action, count) in counts {
            upsert.execute(params![action.as_bytes(), count.cast_signed()])?;
        }
        Ok(())
    }

    fn write_series(&mut self) -> Sql<()> {
        let unsaved = self.shared.hot().unsaved.clone();
        let mut upsert = self.db.prepare_cached("INSERT OR REPLACE INTO series VALUES (?1, ?2)")?;
        for (key, series) in &unsaved {
            if !self.rows.series.contains_key(key) {
                upsert.execute(params![key, series.to_bytes()])?;
            }
        }
        for (key, cell) in &self.rows.series {
            if cell.changed || unsaved.contains_key(key) {
                upsert.execute(params![key, cell.value.to_bytes()])?;
            }
        }
        self.tail.saved = self.tail.action - 1;
        let mut mark = self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('series', ?1)")?;
        mark.execute([self.tail.saved])?;
        self.saved = true;
        Ok(())
    }

    /// After the commit: makes it known, and answers with the new ends.
    pub(crate) fn publish(self) -> Tail {
        let mut hot = self.shared.hot();
        if self.saved {
            hot.unsaved.clear();
        }
        self.rows.publish(&mut hot, self.saved);
        for key in self.keys {
            match key.revoked_ms {
                Some(_) => hot.keys.remove(&key.hash),
                None => hot.keys.insert(key.hash, Arc::new(key)),
            };
        }
        for (name, action, at_ms) in self.refusals {
            hot.refusals.note(name, action, at_ms);
        }
        self.tail
    }
}

impl Rows {
    fn publish(self, hot: &mut Hot, saved: bool) {
        for (key, cell) in self.accounts {
            hot.accounts.insert(key, cell.value);
        }
        for (key, cell) in self.series {
            if cell.changed && !saved {
                hot.unsaved.insert(key, cell.value.clone());
            }
            hot.series.insert(key, cell.value);
        }
        for (mark, _) in self.seen {
            hot.seen.insert(mark, ());
        }
        hot.freezes = self.freezes;
    }
}

/// An action's fate as a settlement finds it.
struct Fate {
    row: i64,
    state: State,
    debit: i64,
    outcome: Option<i64>,
    reply: Option<i64>,
}

/// The history in its row; an unreadable one begins anew, which can only make the judge more careful.
pub(crate) fn stored_series(db: &Connection, key: i64) -> Sql<Series> {
    let bytes = read::series(db, key)?;
    Ok(bytes.and_then(|bytes| Series::from_bytes(&bytes).ok()).unwrap_or_default())
}
