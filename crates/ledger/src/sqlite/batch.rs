//! One transaction's worth of writes, between `BEGIN` and `COMMIT`.

use std::sync::Arc;

use action::{ActionId, Tenant};
use boundary::Series;
use mandate::Account;
use rusqlite::Connection;

use super::Shared;
use super::filter::Kind;
use super::read::{self, Slot, Sql};
use super::session::Place;
use super::write::{Fate, Statements};
use crate::admit::{Cell, Gate, Item, Rows, admit, corrected, is_above_cap};
use crate::entry::{APPROVED, Chain, EXTENDED, REJECTED};
use crate::identity;
use crate::intake::{Close, Digests, Lease, Owners, Process};
use crate::session::Sealer;
use crate::{
    Admitted, ApiKey, Approval, Basis, Counted, Deferral, Draft, Error, Event, Extension, Freeze, Outcome,
    PrincipalKey, Scope, Settlement, State, Used,
};

/// The ends of the tables that grow, and of the chain.
#[derive(Clone)]
pub(crate) struct Tail {
    pub(crate) chain: Chain,
    pub(crate) action: i64,
    pub(crate) outcome: i64,
    pub(crate) entry: i64,
    /// The last action whose history is in its row of `series`.
    pub(crate) saved: i64,
    /// Names this process: the entry that opens its chain.
    pub(crate) owner: Process,
}

pub(crate) struct Batch<'a> {
    pub(crate) db: &'a Connection,
    pub(super) shared: &'a Shared,
    pub(crate) rows: Rows,
    pub(super) tail: Tail,
    pub(super) write: Statements<'a>,
    pub(super) sealer: Option<&'a dyn Sealer>,
    pub(super) keys: Vec<ApiKey>,
    /// Keys that end with the batch, by tenant and id.
    pub(super) ended_keys: Vec<(Tenant, Box<str>)>,
    /// The keys of principals, if the batch changed them.
    pub(super) principals: Option<Vec<PrincipalKey>>,
    pub(super) refusals: Vec<([u8; 32], ActionId, i64)>,
    /// The records with which cycles began.
    pub(super) begun: Vec<((Tenant, ActionId), Box<str>)>,
    /// Must the histories be written to their rows? And were they?
    pub(super) due: bool,
    pub(super) saved: bool,
    /// Was anything erased, so that the log has to be cut?
    pub(super) wipes: bool,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        db: &'a Connection,
        shared: &'a Shared,
        tail: Tail,
        sealer: Option<&'a dyn Sealer>,
    ) -> Sql<Batch<'a>> {
        let rows = Rows { freezes: shared.hot().freezes.clone(), ..Rows::default() };
        let write = Statements::new(db)?;
        Ok(Batch {
            db,
            shared,
            rows,
            tail,
            write,
            sealer,
            keys: Vec::new(),
            ended_keys: Vec::new(),
            principals: None,
            refusals: Vec::new(),
            begun: Vec::new(),
            due: false,
            saved: false,
            wipes: false,
        })
    }

    /// Decides items and writes those that pass.
    pub(crate) fn enter(&mut self, items: &mut [Item]) -> Sql<Vec<Admitted>> {
        // What people decide in the same batch changes it.
        self.rows.held.clear();
        let slots = items.iter_mut().map(|item| self.read(item)).collect::<Sql<Vec<_>>>()?;
        let mut results = admit(&mut self.rows, items);
        for ((item, slot), result) in items.iter().zip(slots).zip(&mut results) {
            if let Admitted::New { entry } = result {
                *entry = match item.resumes {
                    Some(Basis::Sent { .. }) => self.send_again(item)?,
                    Some(Basis::Held { .. } | Basis::Approved { .. } | Basis::Failed { .. }) => {
                        self.resume(item)?
                    }
                    None => self.insert(item, slot)?,
                };
            }
        }
        for result in &mut results {
            if let Admitted::Existing(existing) = result {
                (existing.reply, existing.altered) = read::last_reply(self.db, existing.id)?;
            }
        }
        Ok(results)
    }

    /// Reads every row the item needs; answers with the index number for its key.
    fn read(&mut self, item: &mut Item) -> Sql<Option<i64>> {
        self.read_session(item)?;
        let intent = &item.intent;
        for (key, debit) in item.accounts.iter().zip(item.debits()) {
            self.account(*key, &debit.link.jti)?;
        }
        if item.counts() {
            self.read_history(item)?;
        }
        if let Some(effect) = item.effect()
            && !self.rows.effects.contains_key(&effect.hash)
            && self.shared.filter.may_hold(Kind::Effect, identity::tag(&effect.hash))
        {
            let standing =
                read::effect(self.db, &effect.hash, intent.at_ms.saturating_sub(effect.window_ms))?;
            self.rows.effects.insert(effect.hash, standing);
        }
        if item.hold().is_some() && item.resumes.is_none() && !self.rows.held.contains_key(&item.agent()) {
            let held = read::held_of(self.db, &intent.tenant, &intent.subject, intent.at_ms)?;
            self.rows.held.insert(item.agent(), held);
        }
        if item.resumes.is_some() {
            let footing = read::footing(self.db, intent.id)?;
            self.rows.footings.extend(footing.map(|footing| (intent.id, footing)));
            return Ok(None);
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
            Gate::Admit { .. } => (self.first(item, row, intent.at_ms, &intent.entry, None)?, None),
            Gate::Refuse { why, outcome, digests, .. } => {
                let draft = outcome.draft(digests.sums, None).map_err(unwritable)?;
                let entry = self.first(item, row, outcome.at_ms, &draft, digests.receipt)?;
                let name = identity::refusal(&intent.tenant, &intent.subject, why, &intent.request_hash);
                self.refusals.push((name, intent.id, intent.at_ms));
                (entry, Some((self.outcome(row, None, outcome, digests, entry)?, outcome.reply.is_some())))
            }
        };
        self.write.action(row, item, slot, entry)?;
        if let Some(after_ms) = intent.erased_after_ms {
            self.write.deletion(row, intent.at_ms, after_ms)?;
        }
        if item.counts() && !intent.usage.is_nothing() {
            self.write.usage(row, &intent.usage)?;
        }
        let debit = intent.amount.filter(|_| item.sends()).map_or(0, |amount| amount.minor());
        let reply = outcome.filter(|(_, replies)| *replies).map(|(outcome, _)| outcome);
        let outcome = outcome.map(|(outcome, _)| outcome);
        let lease = Lease::first(item.sends(), self.tail.owner, item.lease_ms());
        let session = item.session;
        let fate = Fate { row, state: item.state(), debit, outcome, reply, lease, moved: None, session };
        self.write.fate(&fate)?;
        if let Some(slot) = slot {
            // A search begins at the claim's own number, which another key holds if this is a later one.
            self.shared.filter.add(Kind::Slot, slot);
        }
        if let Some(effect) = item.effect() {
            let tag = identity::tag(&effect.hash);
            self.write.effect(tag, row, row)?;
            self.shared.filter.add(Kind::Effect, tag);
        }
        self.tail.action += 1;
        if let Some((halts, key)) = item.halts().zip(self.rows.stopped_by(item)) {
            self.stopped(row, key, halts)?;
        }
        Ok(entry)
    }

    /// Makes the row of an action that waited, or had failed, what it is from now on.
    fn resume(&mut self, item: &Item) -> Sql<i64> {
        let intent = &item.intent;
        let Some(fate) = self.write.find(intent.id)? else { return Ok(0) };
        let entry = self.entry(intent.at_ms, intent.id, &fate, &intent.entry, None)?;
        if let Some((hash, place)) = read::effect_place(self.db, fate.row)? {
            self.write.forget_effect(identity::tag(&hash), place, fate.row)?;
        }
        let newest = self.tail.action - 1;
        self.write.resume(fate.row, item, newest)?;
        if item.counts() && !intent.usage.is_nothing() {
            self.write.usage(fate.row, &intent.usage)?;
        }
        if let Some(effect) = item.effect() {
            let tag = identity::tag(&effect.hash);
            self.write.effect(tag, newest, fate.row)?;
            self.shared.filter.add(Kind::Effect, tag);
        }
        let debit = intent.amount.filter(|_| item.sends()).map_or(0, |amount| amount.minor());
        let lease = fate.lease.taken(item.sends(), self.tail.owner, item.lease_ms());
        // What was last said of it is no longer so.
        let moved = Some(entry);
        self.write.change(&Fate { state: item.state(), debit, reply: None, lease, moved, ..fate })?;
        // After a crash histories are made good from the newest rows only, and this is an old one.
        self.due |= item.sends();
        Ok(entry)
    }

    /// Marks an action sent that was sent before.
    fn send_again(&mut self, item: &Item) -> Sql<i64> {
        let intent = &item.intent;
        let Some(fate) = self.write.find(intent.id)? else { return Ok(0) };
        let entry = self.entry(intent.at_ms, intent.id, &fate, &intent.entry, None)?;
        self.write.payload(fate.row, &intent.payload)?;
        let rests = matches!(fate.state, State::Waiting | State::Reserved);
        let state = if rests { State::Sent } else { fate.state };
        let lease = fate.lease.taken(true, self.tail.owner, item.lease_ms());
        self.write.change(&Fate { state, lease, moved: Some(entry), ..fate })?;
        Ok(entry)
    }

    /// Has an action rest until it is due. What was said before it was reserved, or its payer asked, is no longer so.
    pub(crate) fn defer(&mut self, deferral: &Deferral) -> Sql<Result<i64, Error>> {
        let id = deferral.action;
        let Some(fate) = self.write.find(id)? else { return Ok(Err(Error::NoSuchAction(id))) };
        if let Err(refused) = deferral.check(fate.state, &fate.lease, &Owners::Only(self.tail.owner)) {
            return Ok(Err(refused));
        }
        let entry = self.entry(deferral.at_ms, id, &fate, &deferral.entry, None)?;
        self.goes(&fate, deferral.state)?;
        self.write.payload(fate.row, &deferral.payload)?;
        let lease = fate.lease.deferred(deferral.state, deferral.due_ms);
        let holds = !matches!(deferral.state, State::Challenged | State::Reserved);
        let reply = fate.reply.filter(|_| holds);
        self.write.change(&Fate { state: deferral.state, reply, lease, moved: Some(entry), ..fate })?;
        Ok(Ok(entry))
    }

    /// Ends the lease of what is in doubt, if it is this process's, by this token. Says whether it was.
    pub(crate) fn let_go(&mut self, id: ActionId, token: u32) -> Sql<Result<bool, Error>> {
        let Some(fate) = self.write.find(id)? else { return Ok(Err(Error::NoSuchAction(id))) };
        let lease = fate.lease.let_go(self.tail.owner, token);
        let Some(lease) = lease.filter(|_| fate.state == State::InDoubt) else { return Ok(Ok(false)) };
        self.write.change(&Fate { lease, ..fate })?;
        Ok(Ok(true))
    }

    /// Counts one person's approval of a held action.
    pub(crate) fn approve(&mut self, approval: &Approval) -> Sql<Result<Counted, Error>> {
        let (fate, needed) = match self.awaited(approval, State::Approved)? {
            Ok(awaited) => awaited,
            Err(error) => return Ok(Err(error)),
        };
        let given = read::given(self.db, fate.row, approval.round)? + 1;
        let last = given >= needed;
        let entry = self.say(&fate, approval, APPROVED, last)?;
        self.limits(&fate, approval)?;
        let state = if last { State::Approved } else { fate.state };
        self.write.change(&Fate { state, lease: fate.lease.heard(), ..fate })?;
        Ok(Ok(Counted { entry, given, needed }))
    }

    /// Writes one person's rejection of a held action, and ends it.
    pub(crate) fn reject(
        &mut self,
        rejection: &Approval,
        given: u32,
        close: &Close,
    ) -> Sql<Result<i64, Error>> {
        let to = close.settlement.outcome.state;
        let fate = match self.awaited(rejection, to)? {
            Ok((fate, _)) => fate,
            Err(error) => return Ok(Err(error)),
        };
        if read::given(self.db, fate.row, rejection.round)? != given {
            return Ok(Err(Error::Illegal { id: rejection.action, from: State::Held, to }));
        }
        let owners = Owners::Only(self.tail.owner);
        if let Err(refused) = close.settlement.check(State::Held, &fate.lease, &owners, close.amends) {
            return Ok(Err(refused));
        }
        self.say(&fate, rejection, REJECTED, false)?;
        self.close(close)
    }

    /// Writes a word on a held action that decides nothing; it waits on in its next hold.
    pub(crate) fn discuss(&mut self, word: &Approval, event: &'static str) -> Sql<Result<i64, Error>> {
        let (fate, needed) = match self.awaited(word, State::Held)? {
            Ok(awaited) => awaited,
            Err(error) => return Ok(Err(error)),
        };
        let entry = self.say(&fate, word, event, false)?;
        self.write.next_hold(fate.row, word.round.saturating_add(1), needed)?;
        self.write.change(&Fate { lease: fate.lease.heard(), ..fate })?;
        Ok(Ok(entry))
    }

    /// Extends a mandate's budget. Everything is looked at before anything is written.
    pub(crate) fn extend(&mut self, extension: &Extension) -> Sql<Result<Account, Error>> {
        let Extension { tenant, jti, limits, above, seconds, judged, event, words } = extension;
        let mut accounts = Vec::with_capacity(above.len());
        for (jti, limits) in above.iter().map(|(jti, limits)| (jti, limits)).chain([(jti, limits)]) {
            if read::mandate(self.db, tenant, jti)?.is_none() {
                return Ok(Err(Error::Absent(jti.clone())));
            }
            let key = identity::account(tenant, jti);
            // Its row may be older than what this batch did to it.
            self.account(key, jti)?;
            accounts.push((self.rows.account(key, jti).value.clone(), *limits));
        }
        let Some((account, limits)) = accounts.pop() else { return Ok(Err(Error::Absent(jti.clone()))) };
        if judged.is_some_and(|judged| judged != account.granted.seconds) {
            return Ok(Err(Error::Changed(jti.clone())));
        }
        let longer = match account.extend(&limits, &accounts, *seconds) {
            Ok(longer) => longer,
            Err(refusal) => return Ok(Err(Error::Mandate(refusal))),
        };
        let mut fates = Vec::with_capacity(words.len());
        for word in words {
            match self.awaited(word, State::Approved)? {
                Ok((fate, _)) => fates.push(fate),
                Err(error) => return Ok(Err(error)),
            }
        }
        self.rows.account(identity::account(tenant, jti), jti).set(longer.clone());
        self.event(event)?;
        for (word, fate) in words.iter().zip(fates) {
            self.say(&fate, word, EXTENDED, true)?;
            // One word is enough for this.
            let given = read::given(self.db, fate.row, word.round)?;
            self.write.next_hold(fate.row, word.round, given)?;
            self.write.change(&Fate { state: State::Approved, lease: fate.lease.heard(), ..fate })?;
        }
        Ok(Ok(longer))
    }

    /// The action that waits for exactly this person's word, and how many approvals it needs.
    fn awaited(&mut self, approval: &Approval, to: State) -> Sql<Result<(Fate, u32), Error>> {
        let id = approval.action;
        let Some(fate) = self.write.find(id)? else { return Ok(Err(Error::NoSuchAction(id))) };
        let hold = read::hold(self.db, fate.row)?;
        let open = hold.filter(|hold| {
            fate.state == State::Held && hold.round == approval.round && hold.until_ms > approval.at_ms
        });
        let Some(hold) = open else { return Ok(Err(Error::Illegal { id, from: fate.state, to })) };
        if read::has_decided(self.db, fate.row, approval.round, &approval.approver)? {
            return Ok(Err(Error::Exists(approval.approver.as_str().into())));
        }
        Ok(Ok((fate, hold.needed)))
    }

    fn say(&mut self, fate: &Fate, approval: &Approval, event: &'static str, last: bool) -> Sql<i64> {
        let draft = approval.draft(event, last);
        let entry = self.entry(approval.at_ms, approval.action, fate, &draft, None)?;
        self.write.approval(fate.row, approval, entry)?;
        Ok(entry)
    }

    /// Settles or amends one action. What is not allowed is an answer and writes nothing.
    pub(crate) fn close(&mut self, close: &Close) -> Sql<Result<i64, Error>> {
        let Settlement { action: id, outcome, charged, used, overage, halts, .. } = &close.settlement;
        let Some(mut fate) = self.write.find(*id)? else { return Ok(Err(Error::NoSuchAction(*id))) };
        if let Err(illegal) =
            close.settlement.check(fate.state, &fate.lease, &Owners::Only(self.tail.owner), close.amends)
        {
            return Ok(Err(illegal));
        }
        if close.settlement.original && read::is_told(self.db, fate.outcome)? {
            return Ok(Err(Error::Fenced(*id)));
        }
        let debit = charged.filter(|_| !fate.state.waits()).unwrap_or(fate.debit);
        let difference = debit.saturating_sub(fate.debit);
        if difference > 0 && overage.is_none() {
            match self.carried(fate.row, difference)? {
                Ok(true) => {}
                Ok(false) => return Ok(Err(Error::AboveCap(*id))),
                Err(error) => return Ok(Err(error)),
            }
        }
        self.goes(&fate, outcome.state)?;
        let used = used.as_ref().filter(|_| !fate.state.waits());
        fate.lease = close.settlement.leaves(fate.state, fate.lease, close.amends);
        (fate.state, fate.debit) = (outcome.state, debit);
        let entry = self.reach(*id, &mut fate, outcome, &close.digests)?;
        if let Some((overage, digests)) = overage.as_ref().zip(close.overage.as_ref()) {
            self.reach(*id, &mut fate, overage, digests)?;
        }
        self.write.change(&fate)?;
        if difference != 0 || overage.is_some() {
            self.correct(fate.row, |account| corrected(account, difference, overage.is_some()))?;
        }
        if let Some(used) = used {
            self.measure(&fate, &close.settlement, used, close.amends)?;
        }
        if let Some(halts) = halts {
            self.stops(&fate, halts)?;
        }
        Ok(Ok(entry))
    }

    /// Puts what an action used in the place of what it was debited. What comes to the same changes nothing and breaks nothing.
    fn measure(&mut self, fate: &Fate, settlement: &Settlement, used: &Used, amends: bool) -> Sql<()> {
        let debited = read::usage(self.db, fate.row)?;
        let measured = used.measured(&debited, amends);
        if measured == debited {
            return Ok(());
        }
        self.correct(fate.row, |account| account.remeasure(&debited, &measured))?;
        self.write.usage(fate.row, &measured)?;
        self.breached(fate, settlement, used, [&debited, &measured])
    }

    /// Writes one outcome with its entry; the action's fate then points to it.
    fn reach(&mut self, id: ActionId, fate: &mut Fate, outcome: &Outcome, digests: &Digests) -> Sql<i64> {
        let previous = fate.outcome.map(|before| read::named_by(self.db, before)).transpose()?.flatten();
        let draft = outcome.draft(digests.sums, previous).map_err(unwritable)?;
        let entry = self.entry(outcome.at_ms, id, fate, &draft, digests.receipt)?;
        let row = self.outcome(fate.row, fate.outcome, outcome, digests, entry)?;
        fate.outcome = Some(row);
        if outcome.reply.is_some() {
            fate.reply = Some(row);
        }
        Ok(entry)
    }

    /// Has every mandate of the chain so much left?
    fn carried(&mut self, action: i64, more: i64) -> Sql<Result<bool, Error>> {
        for (key, jti) in read::chain(self.db, action)? {
            self.account(key, &jti)?;
            let claims = read::claims(self.db, action, &jti)?;
            match is_above_cap(&self.rows.account(key, &jti).value, claims.as_deref(), more) {
                Ok(false) => {}
                above => return Ok(above.map(|above| !above)),
            }
        }
        Ok(Ok(true))
    }

    /// Applies what really became of it to the mandate and every ancestor.
    fn correct(&mut self, action: i64, correction: impl Fn(&Account) -> Account) -> Sql<()> {
        for (key, jti) in read::chain(self.db, action)? {
            self.account(key, &jti)?;
            let cell = self.rows.account(key, &jti);
            cell.set(correction(&cell.value));
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
        self.write.outcome(row, action, previous, outcome, entry)?;
        if outcome.receipt.is_some() {
            self.write.addresses(digests.addresses, row)?;
            for tag in digests.addresses {
                self.shared.filter.add(Kind::Address, tag);
            }
        }
        self.tail.outcome += 1;
        Ok(row)
    }

    /// The row number of the entry that is appended next.
    pub(crate) fn next_entry(&self) -> i64 {
        self.tail.entry
    }

    /// The id of the record that is written next.
    pub(crate) fn next_id(&self) -> Box<str> {
        self.tail.chain.next_id().into()
    }

    /// Appends an entry for something that is no action.
    pub(crate) fn event(&mut self, event: &Event) -> Sql<i64> {
        self.append(event.at_ms, None, &event.draft(), None, Some(&event.record), None)
    }

    /// Appends an entry of an action that is there already.
    fn entry(
        &mut self,
        at_ms: i64,
        action: ActionId,
        fate: &Fate,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
    ) -> Sql<i64> {
        self.entry_with(at_ms, action, fate, draft, (receipt_hash, None))
    }

    /// The same, with the hash of a receipt or a record of its own.
    pub(super) fn entry_with(
        &mut self,
        at_ms: i64,
        action: ActionId,
        fate: &Fate,
        draft: &Draft,
        (receipt_hash, record): (Option<[u8; 32]>, Option<&[u8]>),
    ) -> Sql<i64> {
        let Some(session) = fate.session else {
            return self.append(at_ms, Some(action), draft, receipt_hash, record, None);
        };
        self.session(session)?;
        let (intent, cause) = read::cycle(self.db, fate.row)?;
        let place = Place { session, intent, cause: Some(cause) };
        self.write.cycle_goes_on(fate.row, &self.tail.chain.next_id())?;
        self.append(at_ms, Some(action), draft, receipt_hash, record, Some(place))
    }

    pub(crate) fn append(
        &mut self,
        at_ms: i64,
        action: Option<ActionId>,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
        record: Option<&[u8]>,
        place: Option<Place>,
    ) -> Sql<i64> {
        let row = self.tail.entry;
        let place = place.map(|place| self.takes_place(place, row)).transpose()?;
        let bytes = self.tail.chain.append(at_ms, action, draft, receipt_hash, place);
        self.write.entry(row, &bytes.map_err(unwritable)?, record)?;
        self.tail.entry += 1;
        Ok(row)
    }

    /// Published with the commit.
    pub(crate) fn put_key(&mut self, key: ApiKey) {
        self.keys.push(key);
    }

    /// Published with the commit. Not read from the store again: somebody else may have written there.
    pub(crate) fn principals(&mut self) -> &mut Vec<PrincipalKey> {
        self.principals.get_or_insert_with(|| self.shared.hot().principals.to_vec())
    }

    /// Published with the commit, and not read from the store again either: what this scope is stopped by from now on.
    pub(crate) fn put_freeze(&mut self, scope: &Scope, freeze: Option<Freeze>) {
        let others = self.rows.freezes.iter().filter(|it| it.scope != *scope).cloned();
        let mut freezes: Vec<Freeze> = others.chain(freeze).collect();
        freezes.sort_by(|a, b| read::scope_key(&a.scope).cmp(&read::scope_key(&b.scope)));
        self.rows.freezes = Arc::new(freezes);
    }
}

/// What cannot even be put into bytes.
pub(super) fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

/// The history in its row; an unreadable one begins anew, which can only make the judge more careful.
pub(crate) fn stored_series(db: &Connection, key: i64) -> Sql<Series> {
    let bytes = read::series(db, key)?;
    Ok(bytes.and_then(|bytes| Series::from_bytes(&bytes).ok()).unwrap_or_default())
}
