//! A ledger that keeps nothing: for tests and simulations. It decides with the same [`admit`] as every other.

mod cluster;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use action::{ActionId, Subject, Tenant};
use mandate::{Account, Usage};
use receipt::log::Tile;
use sha2::{Digest, Sha256};

use self::session::{Place, Sessions};
use crate::admit::{Claimed, Footing, Gate, Item, Rows, admit, corrected, is_above_cap};
use crate::entry::{self, APPROVED, Chain, EXTENDED, REJECTED, Reading};
use crate::identity::{self, Claim};
use crate::intake::{Lease, Process};
use crate::log::{self, Fresh, Growth, Head, Leafed, Unlogged};
use crate::outbox;
use crate::pruned::Pruned;
use crate::session::Sealer;
use crate::step::{Left, Mark, Step};
use crate::stored::page;
use crate::{
    About, Admission, Admitted, Answer, ApiKey, Approval, Audited, Basis, Broken, Clustered, Clustering,
    Counted, Declared, Declaring, Deferral, Draft, Earlier, Erased, Erasure, Error, Event, Existing,
    Extension, Facts, FactsQuery, Figures, Filter, Finding, Freeze, Given, Governed, Grouped, Heard, Held,
    Inspected, Intention, Labels, Lapsed, Ledger, Log, Mandate, Naming, Notice, Opening, Order, Outbox,
    Outcome, Owner, Page, Passkey, PrincipalKey, Record, Recorded, Recovering, Refusal, Repeat, Resumption,
    Revocation, Scope, Search, SecurityEvent, Settled, Settlement, Standing, State, Stored, Testimony, Tried,
    Turn, Verified, Waiting, Walk, Witness,
};

/// Everything in memory, behind one lock.
pub struct Memory {
    state: Mutex<World>,
}

struct World {
    chain: Chain,
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    actions: BTreeMap<i64, Row>,
    /// The last row number given.
    last: i64,
    ids: HashMap<ActionId, i64>,
    /// By entry.
    outcomes: BTreeMap<i64, Settled>,
    rows: Rows,
    mandates: Vec<Mandate>,
    principals: Arc<Vec<PrincipalKey>>,
    keys: Vec<ApiKey>,
    passkeys: Vec<Passkey>,
    tenant_keys: HashMap<Tenant, Vec<u8>>,
    delivered: HashMap<[u8; 32], u64>,
    kept: HashMap<Box<str>, Vec<u8>>,
    refusals: HashMap<[u8; 32], (Repeat, i64)>,
    sessions: Sessions,
    clusters: Vec<Clustered>,
    outbox: outbox::InMemory,
    logs: log::InMemory,
    writes: u64,
}

struct Row {
    stored: Stored,
    labels: Labels,
    claim: Option<Claim>,
    effect: Option<[u8; 32]>,
    /// Since when it claims its effect.
    claimed_ms: i64,
    lease: Lease,
    /// What it debited beside money.
    usage: Usage,
    outcomes: Vec<i64>,
    approvals: Vec<(Subject, Given)>,
    erased_after_ms: Option<i64>,
    /// The entry that tells of its erasure.
    erased: Option<i64>,
}

impl Memory {
    /// An empty ledger with a chain of this name.
    ///
    /// # Errors
    /// None in practice: the opening entry is written as in every store.
    pub fn new(chain_id: &str, now_ms: i64) -> Result<Memory, Error> {
        let mut world = World {
            chain: Chain::new(chain_id, None),
            entries: Vec::new(),
            actions: BTreeMap::new(),
            last: 0,
            ids: HashMap::new(),
            outcomes: BTreeMap::new(),
            rows: Rows::default(),
            mandates: Vec::new(),
            principals: Arc::default(),
            keys: Vec::new(),
            passkeys: Vec::new(),
            tenant_keys: HashMap::new(),
            delivered: HashMap::new(),
            kept: HashMap::new(),
            refusals: HashMap::new(),
            sessions: Sessions::default(),
            clusters: Vec::new(),
            outbox: outbox::InMemory::default(),
            logs: log::InMemory::default(),
            writes: 0,
        };
        world.append(now_ms, None, &entry::opening(), None, None)?;
        Ok(Memory { state: Mutex::new(world) })
    }

    /// The same, where entries of governed sessions are signed.
    #[must_use]
    pub fn sealed_by(self, sealer: Arc<dyn Sealer>) -> Memory {
        self.world().sessions.sealer = Some(sealer);
        self
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now<'a, T: Send + 'a>(
        &'a self,
        deed: impl FnOnce(&mut World) -> Result<T, Error> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move { deed(&mut self.world()) })
    }
}

impl World {
    fn append(
        &mut self,
        at_ms: i64,
        action: Option<ActionId>,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
        record: Option<Vec<u8>>,
    ) -> Result<i64, Error> {
        let place = self.place_of(action);
        self.append_in(at_ms, action, draft, receipt_hash, record, place)
    }

    fn append_in(
        &mut self,
        at_ms: i64,
        action: Option<ActionId>,
        draft: &Draft,
        receipt_hash: Option<[u8; 32]>,
        record: Option<Vec<u8>>,
        place: Option<Place>,
    ) -> Result<i64, Error> {
        let row = self.last_entry() + 1;
        let place = place.map(|place| self.takes_place(place, row)).transpose()?;
        let place = place.as_ref().map(|(session, sealer)| (session.clone(), &**sealer));
        let bytes = self.chain.append(at_ms, action, draft, receipt_hash, place);
        self.entries.push((bytes.map_err(|error| Error::Rejected(error.to_string().into()))?, record));
        self.writes += 1;
        Ok(self.entries.len() as i64)
    }

    fn event(&mut self, event: Event) -> Result<i64, Error> {
        self.append(event.at_ms, None, &event.draft(), None, Some(event.record))
    }

    fn enter(&mut self, mut item: Item) -> Result<Admitted, Error> {
        if item.resumes.is_some() {
            item.session = self.session_of(item.intent.id);
        }
        let item = &item;
        self.read_effect(item);
        if item.hold().is_some() {
            let crate::Intent { tenant, subject, at_ms, .. } = &item.intent;
            let waits = |row: &&Row| {
                let Stored { state, expires_ms, .. } = row.stored;
                state == State::Held && expires_ms > Some(*at_ms)
            };
            let of_agent = |row: &&Row| (&row.stored.tenant, &row.stored.subject) == (tenant, subject);
            let held = self.actions.values().filter(of_agent).filter(waits).count();
            self.rows.held.insert(item.agent(), u32::try_from(held).unwrap_or(u32::MAX));
        }
        if item.resumes.is_some() {
            let at = |row: &Row| {
                let Stored { state, round, .. } = row.stored;
                (row.stored.id, Footing { state, round, token: row.lease.token })
            };
            self.rows.footings = self.row(item.intent.id).map(at).into_iter().collect();
        }
        let result = admit(&mut self.rows, std::slice::from_ref(item)).remove(0);
        match result {
            Admitted::New { .. } => {
                let entry = match item.resumes {
                    Some(Basis::Sent { .. }) => self.send_again(item)?,
                    Some(Basis::Held { .. } | Basis::Approved { .. } | Basis::Failed { .. }) => {
                        self.resume_row(item)?
                    }
                    None => self.insert(item)?,
                };
                Ok(Admitted::New { entry })
            }
            Admitted::Existing(mut existing) => {
                existing.reply = self.row(existing.id).and_then(|row| row.stored.reply.clone());
                Ok(Admitted::Existing(existing))
            }
            refused => Ok(refused),
        }
    }

    /// What still stands in the way.
    fn read_effect(&mut self, item: &Item) {
        if let Some(effect) = item.effect() {
            let standing = self.standing(&effect.hash, item.intent.at_ms.saturating_sub(effect.window_ms));
            self.rows.effects.insert(effect.hash, standing);
        }
    }

    /// Newest first.
    fn standing(&self, hash: &[u8; 32], since_ms: i64) -> Vec<Earlier> {
        let stands = |row: &&Row| {
            row.effect == Some(*hash) && row.stored.state.claims_effect() && row.claimed_ms > since_ms
        };
        let rows = self.actions.values().rev().filter(stands);
        let mut standing: Vec<Earlier> =
            rows.map(|row| Earlier { id: row.stored.id, at_ms: row.claimed_ms }).collect();
        standing.sort_by_key(|earlier| std::cmp::Reverse(earlier.at_ms));
        standing
    }

    fn insert(&mut self, item: &Item) -> Result<i64, Error> {
        let intent = &item.intent;
        let row = self.last + 1;
        let hold = item.hold();
        let debit = intent.amount.filter(|_| item.sends()).map_or(0, |amount| amount.minor());
        let stored = Stored {
            row,
            id: intent.id,
            tenant: intent.tenant.clone(),
            environment: intent.environment,
            subject: intent.subject.clone(),
            key: intent.key.clone(),
            request_hash: intent.request_hash,
            archetype: (&*intent.archetype).into(),
            principal: (&*intent.principal).into(),
            mandates: item.debits().iter().map(|debit| (&*debit.link.jti).into()).collect(),
            state: item.state(),
            at_ms: intent.at_ms,
            expires_ms: hold.map(|hold| hold.until_ms),
            round: hold.map_or(0, |_| 1),
            needed: hold.map_or(0, |hold| hold.needed),
            token: 1,
            due_ms: None,
            counted_ms: intent.at_ms,
            debit,
            currency: intent.amount.map(|amount| amount.currency().code().into()),
            payload: intent.payload.clone(),
            reply: None,
            naming: match &item.gate {
                Gate::Admit { .. } => intent.entry.action_hash.map(Naming::Row),
                Gate::Refuse { outcome, .. } => Some(Naming::Outcome(outcome.payload.clone())),
            },
        };
        let effect = item.effect().map(|effect| effect.hash);
        self.last = row;
        let claimed_ms = intent.at_ms;
        let (outcomes, approvals) = (Vec::new(), Vec::new());
        let (claim, labels, erased_after_ms) = (item.claim, intent.labels.clone(), intent.erased_after_ms);
        let lease = Lease::first(item.sends(), PROCESS, item.lease_ms());
        let usage = if item.counts() { intent.usage } else { Usage::default() };
        self.actions.insert(
            row,
            Row {
                stored,
                labels,
                claim,
                effect,
                claimed_ms,
                lease,
                usage,
                outcomes,
                approvals,
                erased_after_ms,
                erased: None,
            },
        );
        self.ids.insert(intent.id, row);
        self.begins(item);
        match &item.gate {
            Gate::Admit { .. } => self.append(intent.at_ms, Some(intent.id), &intent.entry, None, None),
            Gate::Refuse { code, outcome, halts, .. } => {
                let name = identity::refusal(&intent.tenant, &intent.subject, code, &intent.request_hash);
                let repeat = Repeat { action: intent.id, count: 0 };
                self.refusals.insert(name, (repeat, intent.at_ms));
                let entry = self.outcome(row, outcome)?;
                if let (Some(halts), Some(_)) = (halts, self.rows.stopped_by(item)) {
                    self.stopped(intent.id, halts)?;
                }
                Ok(entry)
            }
        }
    }

    /// Makes the row of an action that waited, or had failed, what it is from now on.
    fn resume_row(&mut self, item: &Item) -> Result<i64, Error> {
        let (intent, hold) = (&item.intent, item.hold());
        let entry = self.append(intent.at_ms, Some(intent.id), &intent.entry, None, None)?;
        let number = self.ids.get(&intent.id).copied().unwrap_or_default();
        let Some(row) = self.actions.get_mut(&number) else { return Ok(entry) };
        row.effect = item.effect().map(|effect| effect.hash);
        row.claimed_ms = intent.at_ms;
        if item.counts() && !intent.usage.is_nothing() {
            row.usage = intent.usage;
        }
        row.lease = row.lease.taken(item.sends(), PROCESS, item.lease_ms());
        let stored = &mut row.stored;
        stored.counted_ms = intent.at_ms;
        // What was last said of it is no longer so.
        (stored.state, stored.token, stored.reply) = (item.state(), row.lease.token, None);
        stored.principal = (&*intent.principal).into();
        stored.mandates = item.debits().iter().map(|debit| (&*debit.link.jti).into()).collect();
        stored.debit = intent.amount.filter(|_| item.sends()).map_or(0, |amount| amount.minor());
        stored.currency = intent.amount.map(|amount| amount.currency().code().into());
        (stored.payload, stored.naming) = (intent.payload.clone(), intent.entry.action_hash.map(Naming::Row));
        if let Some(hold) = hold {
            stored.round += 1;
            (stored.needed, stored.expires_ms) = (hold.needed, Some(hold.until_ms));
        }
        let claim = row.claim;
        self.claimed_in(claim, item.state());
        Ok(entry)
    }

    /// Marks an action sent that was sent before.
    fn send_again(&mut self, item: &Item) -> Result<i64, Error> {
        let intent = &item.intent;
        let entry = self.append(intent.at_ms, Some(intent.id), &intent.entry, None, None)?;
        let row = self.row_mut(intent.id)?;
        row.lease = row.lease.taken(true, PROCESS, item.lease_ms());
        if matches!(row.stored.state, State::Waiting | State::Reserved) {
            row.stored.state = State::Sent;
        }
        (row.stored.token, row.stored.due_ms) = (row.lease.token, None);
        (row.stored.payload, row.stored.naming) =
            (intent.payload.clone(), intent.entry.action_hash.map(Naming::Row));
        let (claim, state) = (row.claim, row.stored.state);
        self.claimed_in(claim, state);
        Ok(entry)
    }

    /// Has an action rest until it is due. What was said before it was reserved, or its payer asked, is no longer so.
    fn defer(&mut self, deferral: &Deferral) -> Result<i64, Error> {
        let id = deferral.action;
        let row = self.row_mut(id)?;
        let from = row.stored.state;
        deferral.check(from, &row.lease)?;
        row.lease = row.lease.deferred(deferral.state, deferral.due_ms);
        (row.stored.state, row.stored.due_ms) = (deferral.state, Some(deferral.due_ms));
        row.stored.token = row.lease.token;
        (row.stored.payload, row.stored.naming) =
            (deferral.payload.clone(), deferral.entry.action_hash.map(Naming::Row));
        if matches!(deferral.state, State::Challenged | State::Reserved) {
            row.stored.reply = None;
        }
        let claim = row.claim;
        self.claimed_in(claim, deferral.state);
        self.goes(id, from, deferral.state);
        self.append(deferral.at_ms, Some(id), &deferral.entry, None, None)
    }

    /// The key of an action tells where it stands.
    fn claimed_in(&mut self, claim: Option<Claim>, state: State) {
        if let Some(claimed) = claim.and_then(|claim| self.rows.claims.get_mut(&claim)) {
            claimed.state = state;
        }
    }

    /// The row of the action that waits for exactly this person's word.
    fn awaited(&mut self, approval: &Approval, to: State) -> Result<&mut Row, Error> {
        let id = approval.action;
        let number = self.ids.get(&id).copied().ok_or(Error::NoSuchAction(id))?;
        let row = self.actions.get_mut(&number).ok_or(Error::NoSuchAction(id))?;
        let stored = &row.stored;
        let open = stored.state == State::Held
            && stored.round == approval.round
            && stored.expires_ms.is_some_and(|until_ms| until_ms > approval.at_ms);
        if !open {
            return Err(Error::Illegal { id, from: stored.state, to });
        }
        let decided = |(approver, given): &(Subject, Given)| {
            given.round == approval.round && *approver == approval.approver
        };
        if row.approvals.iter().any(decided) {
            return Err(Error::Exists(approval.approver.as_str().into()));
        }
        Ok(row)
    }

    fn approve(&mut self, approval: &Approval) -> Result<Counted, Error> {
        let row = self.awaited(approval, State::Approved)?;
        let (given, needed) = (given_in(row, approval.round) + 1, row.stored.needed);
        let last = given >= needed;
        let entry = self.say(approval, APPROVED, last)?;
        self.limits(approval)?;
        if last {
            let row = self.row_mut(approval.action)?;
            row.stored.state = State::Approved;
            let claim = row.claim;
            self.claimed_in(claim, State::Approved);
        }
        Ok(Counted { entry, given, needed })
    }

    fn reject(&mut self, rejection: &Approval, given: u32, settlement: &Settlement) -> Result<i64, Error> {
        let to = settlement.outcome.state;
        let row = self.awaited(rejection, to)?;
        if !State::Held.may_settle(to) || given_in(row, rejection.round) != given {
            return Err(Error::Illegal { id: rejection.action, from: State::Held, to });
        }
        self.say(rejection, REJECTED, false)?;
        self.close(settlement, false)
    }

    fn discuss(&mut self, word: &Approval, event: &'static str) -> Result<i64, Error> {
        self.awaited(word, State::Held)?;
        let entry = self.say(word, event, false)?;
        self.row_mut(word.action)?.stored.round += 1;
        Ok(entry)
    }

    fn extend(&mut self, extension: &Extension) -> Result<Account, Error> {
        let Extension { tenant, jti, limits, above, seconds, judged, event, words } = extension;
        let mut accounts = Vec::with_capacity(above.len());
        for (jti, limits) in above.iter().map(|(jti, limits)| (jti, limits)).chain([(jti, limits)]) {
            if !self.mandates.iter().any(|it| it.tenant == *tenant && it.jti == *jti) {
                return Err(Error::Absent(jti.clone()));
            }
            let cell = self.rows.account(identity::account(tenant, jti), jti);
            accounts.push((cell.value.clone(), *limits));
        }
        let (account, limits) = accounts.pop().ok_or_else(|| Error::Absent(jti.clone()))?;
        if judged.is_some_and(|judged| judged != account.granted.seconds) {
            return Err(Error::Changed(jti.clone()));
        }
        let longer = account.extend(&limits, &accounts, *seconds).map_err(Error::Mandate)?;
        for word in words {
            self.awaited(word, State::Approved)?;
        }
        self.rows.account(identity::account(tenant, jti), jti).set(longer.clone());
        self.event(event.clone())?;
        for word in words {
            self.say(word, EXTENDED, true)?;
            let row = self.row_mut(word.action)?;
            row.stored.needed = given_in(row, word.round);
            row.stored.state = State::Approved;
            let claim = row.claim;
            self.claimed_in(claim, State::Approved);
        }
        Ok(longer)
    }

    fn say(&mut self, approval: &Approval, event: &'static str, last: bool) -> Result<i64, Error> {
        let draft = approval.draft(event, last);
        let entry = self.append(approval.at_ms, Some(approval.action), &draft, None, None)?;
        let (round, at_ms, record) = (approval.round, approval.at_ms, approval.record.clone());
        let given = Given { round, at_ms, record, entry, whole: true };
        self.row_mut(approval.action)?.approvals.push((approval.approver.clone(), given));
        Ok(entry)
    }

    fn row_mut(&mut self, id: ActionId) -> Result<&mut Row, Error> {
        let number = self.ids.get(&id).copied().ok_or(Error::NoSuchAction(id))?;
        self.actions.get_mut(&number).ok_or(Error::NoSuchAction(id))
    }

    fn close(&mut self, settlement: &Settlement, amends: bool) -> Result<i64, Error> {
        let Settlement { action: id, outcome, charged, used, overage, halts, .. } = settlement;
        let Row { stored, lease, usage, .. } = self.row(*id).ok_or(Error::NoSuchAction(*id))?;
        let (lease, debited) = (*lease, *usage);
        let (number, from, debit) = (stored.row, stored.state, stored.debit);
        let (tenant, mandates) = (stored.tenant.clone(), stored.mandates.clone());
        settlement.check(from, &lease, PROCESS, amends)?;
        let charged = charged.filter(|_| !from.waits()).unwrap_or(debit);
        if charged > debit && overage.is_none() && !self.carried(&tenant, &mandates, charged - debit)? {
            return Err(Error::AboveCap(*id));
        }
        self.goes(*id, from, outcome.state);
        let entry = self.outcome(number, outcome)?;
        if let Some(overage) = overage {
            self.outcome(number, overage)?;
        }
        let to = outcome.state;
        let used = used.as_ref().filter(|_| !from.waits());
        if let Some(row) = self.actions.get_mut(&number) {
            row.lease = settlement.leaves(from, lease, amends);
            (row.stored.state, row.stored.debit) = (to, charged);
            row.stored.token = row.lease.token;
            row.stored.due_ms = row.lease.until_ms;
            let claim = row.claim;
            self.claimed_in(claim, to);
        }
        for jti in mandates.iter().filter(|_| charged != debit || overage.is_some()) {
            let account = self.rows.account(identity::account(&tenant, jti), jti);
            account.set(corrected(&account.value, charged - debit, overage.is_some()));
        }
        if let Some(used) = used {
            let measured = used.measured(&debited, amends);
            for jti in &mandates {
                let account = self.rows.account(identity::account(&tenant, jti), jti);
                account.set(account.value.remeasure(&debited, &measured));
            }
            if let Some(row) = self.actions.get_mut(&number) {
                row.usage = measured;
            }
            self.breached(settlement, used, [&debited, &measured], &mandates)?;
        }
        if let Some(halts) = halts {
            self.stops(*id, halts)?;
        }
        Ok(entry)
    }

    fn carried(&mut self, tenant: &Tenant, mandates: &[Box<str>], more: i64) -> Result<bool, Error> {
        for jti in mandates {
            let issued = self.mandates.iter().find(|it| it.tenant == *tenant && it.jti == *jti);
            let claims = issued.map(|mandate| &*mandate.claims);
            let account = &self.rows.account(identity::account(tenant, jti), jti).value;
            if is_above_cap(account, claims, more)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What an entry names.
    fn named_by(&self, entry: i64) -> Option<[u8; 32]> {
        let (bytes, _) = self.entries.get(usize::try_from(entry - 1).ok()?)?;
        Reading::of(bytes)?.action_hash
    }

    fn outcome(&mut self, number: i64, outcome: &Outcome) -> Result<i64, Error> {
        let Some(row) = self.actions.get(&number) else { return Ok(0) };
        let (id, tenant) = (row.stored.id, row.stored.tenant.clone());
        let previous = row.outcomes.last().and_then(|entry| self.named_by(*entry));
        let digests = outcome.digests();
        let draft = outcome.draft(digests.sums, previous);
        let draft = draft.map_err(|error| Error::Rejected(error.to_string().into()))?;
        let entry = self.append(outcome.at_ms, Some(id), &draft, digests.receipt, None)?;
        let settled = Settled {
            action: id,
            tenant,
            state: outcome.state,
            at_ms: outcome.at_ms,
            reply: outcome.reply.clone(),
            receipt: outcome.receipt.clone(),
            payload: outcome.payload.clone(),
            entry,
            whole: true,
        };
        self.outcomes.insert(entry, settled);
        if let Some(row) = self.actions.get_mut(&number) {
            row.outcomes.push(entry);
            row.stored.reply = outcome.reply.clone().or_else(|| row.stored.reply.take());
        }
        Ok(entry)
    }

    fn prune(&mut self, before_ms: i64, limit: u32, now_ms: i64) -> Result<u64, Error> {
        let old = |stored: &Stored| {
            let expired = stored.expires_ms.is_some_and(|expires| expires <= before_ms);
            stored.at_ms < before_ms && (stored.state.is_final() || stored.state.waits() && expired)
        };
        let rows = self.actions.iter().filter(|(_, row)| old(&row.stored)).map(|(number, _)| *number);
        let rows: Vec<i64> = rows.take(limit as usize).collect();
        let mut pruned = Pruned::default();
        for row in rows.iter().filter_map(|number| self.actions.remove(number)) {
            pruned.action(row.stored.row);
            self.ids.remove(&row.stored.id);
            row.claim.and_then(|claim| self.rows.claims.remove(&claim));
            for outcome in row.outcomes.iter().filter_map(|entry| self.outcomes.remove(entry)) {
                // Outcomes have the numbers of their entries here.
                pruned.outcome(outcome.entry, outcome.entry, outcome.receipt.is_some());
            }
        }
        if pruned.actions > 0 {
            let event = pruned.event(now_ms).map_err(|error| Error::Rejected(error.to_string().into()))?;
            self.event(event)?;
        }
        Ok(pruned.actions)
    }

    /// Until when the action of an entry rests, if it does with that entry.
    fn rests_ms(&self, entry: &[u8]) -> Option<i64> {
        let said = Reading::of(entry).filter(|said| log::rests(said.event))?;
        let row = self.row(said.action?)?;
        row.stored.expires_ms.max(row.lease.until_ms)
    }

    /// When the last thing came of an action.
    fn last_ms(&self, row: &Row) -> Option<i64> {
        Some(self.outcomes.get(row.outcomes.last()?)?.at_ms)
    }

    fn erase(&mut self, erasure: &Erasure) -> Result<i64, Error> {
        let id = erasure.action;
        let row = self.row(id).ok_or(Error::NoSuchAction(id))?;
        if let Some(entry) = row.erased {
            return Ok(entry);
        }
        erasure.check(row.stored.state, self.last_ms(row))?;
        let record = Some(erasure.record.clone());
        let entry = self.append(erasure.at_ms, Some(id), &erasure.draft(), None, record)?;
        self.logs.erase(id);
        let outcomes = self.row(id).map(|row| row.outcomes.clone()).unwrap_or_default();
        for outcome in outcomes {
            if let Some(settled) = self.outcomes.get_mut(&outcome) {
                settled.payload = Vec::new();
                settled.reply.iter_mut().for_each(|reply| reply.body = Vec::new());
            }
        }
        let row = self.row_mut(id)?;
        row.erased = Some(entry);
        row.stored.payload = Vec::new();
        row.labels.refs = Vec::new();
        row.stored.reply.iter_mut().for_each(|reply| reply.body = Vec::new());
        row.approvals.clear();
        row.lease = row.lease.taken(false, PROCESS, 0);
        row.stored.token = row.lease.token;
        Ok(entry)
    }

    fn erased(&self, tenant: &Tenant, id: ActionId) -> Option<Erased> {
        let row = self.of(tenant, id)?;
        let entry = row.erased?;
        let (bytes, record) = self.entries.get(usize::try_from(entry - 1).ok()?)?;
        let (at_ms, record) = (Reading::of(bytes)?.at_ms, record.clone().unwrap_or_default());
        Some(Erased { entry, at_ms, record, labels: row.labels.clone() })
    }

    fn to_erase(&self, now_ms: i64, after: i64) -> impl Iterator<Item = &Stored> {
        let due = move |row: &&Row| {
            let last_ms = self.last_ms(row).filter(|_| row.stored.state.is_final() && row.erased.is_none());
            row.erased_after_ms.zip(last_ms).is_some_and(|(after, last)| last + after <= now_ms)
        };
        self.actions.range(after + 1..).map(|(_, row)| row).filter(due).map(|row| &row.stored)
    }

    /// A passkey that has not ended.
    fn passkey(&mut self, tenant: &Tenant, id: &str) -> Result<&mut Passkey, Error> {
        let mut passkeys = self.passkeys.iter_mut();
        let found = passkeys.find(|it| *it.id == *id && it.tenant == *tenant && it.revoked.is_none());
        found.ok_or_else(|| Error::Absent(id.into()))
    }

    fn row(&self, id: ActionId) -> Option<&Row> {
        self.actions.get(self.ids.get(&id)?)
    }

    fn of(&self, tenant: &Tenant, id: ActionId) -> Option<&Row> {
        self.row(id).filter(|row| row.stored.tenant == *tenant)
    }

    fn account(&self, tenant: &Tenant, jti: &str) -> Account {
        let account = self.rows.accounts.get(&identity::account(tenant, jti));
        account.map_or_else(|| Account::new(jti), |cell| cell.value.clone())
    }

    fn held(&self, mandate: &Mandate) -> Held {
        Held { mandate: mandate.clone(), account: self.account(&mandate.tenant, &mandate.jti) }
    }

    fn facts(&self, query: &FactsQuery<'_>) -> Facts {
        let FactsQuery { tenant, environment, subject, archetype, principal, .. } = *query;
        let claim = query.key.map(|key| Claim::new(tenant, environment, subject, key));
        if let Some(Claimed { id, request_hash, state, at_ms }) =
            claim.and_then(|claim| self.rows.claims.get(&claim)).copied()
        {
            let same_request = request_hash == *query.request_hash;
            let reply = self.row(id).and_then(|row| row.stored.reply.clone());
            let existing = Some(Existing { id, same_request, state, at_ms, reply, altered: false });
            return Facts { existing, ..Facts::default() };
        }
        let covers = |freeze: &&Freeze| freeze.scope.covers(tenant, subject, archetype, query.provider);
        let series = identity::series(tenant, principal, archetype, query.currency.unwrap_or(""));
        let mark = query.destination.map(|to| identity::seen(tenant, principal, archetype, to));
        Facts {
            existing: None,
            accounts: query.mandates.iter().map(|jti| self.account(tenant, jti)).collect(),
            frozen: self.rows.freezes.iter().find(covers).cloned(),
            series: self.rows.series.get(&series).map(|cell| cell.value.clone()).unwrap_or_default(),
            first_seen: mark.is_some_and(|mark| !self.rows.seen.contains_key(&mark)),
            earlier: query.effect.and_then(|effect| {
                let standing = self.standing(&effect.hash, query.now_ms - effect.window_ms);
                standing.into_iter().find(|earlier| Some(earlier.id) != query.apart_from)
            }),
        }
    }

    /// The entries in the order of the chain, but for those of actions that were pruned.
    fn audited(&self) -> Vec<Audited> {
        let about = |entry: &Reading<'_>| match entry.action {
            None => Some(About::Event),
            Some(id) => {
                let Row { stored, labels, .. } = self.row(id)?;
                let Stored { tenant, subject, archetype, at_ms, payload, .. } = stored.clone();
                let labels = labels.clone();
                Some(About::Action(Box::new(Owner {
                    id,
                    tenant,
                    subject,
                    archetype,
                    at_ms,
                    labels,
                    payload,
                })))
            }
        };
        let entries = (1..).zip(&self.entries).filter_map(|(row, (bytes, record))| {
            let entry = Reading::of(bytes)?;
            Some(Audited::new(row, &entry, record.clone(), about(&entry)?))
        });
        entries.collect()
    }

    fn inspect(&self) -> Inspected {
        let (mut walk, mut left) = (Walk::default(), Left::default());
        let mut found = Inspected { last: self.last_entry(), ..Inspected::default() };
        let came: HashMap<i64, State> = self.outcomes.values().map(|it| (it.entry, it.state)).collect();
        for (entry, (bytes, record)) in (1..).zip(&self.entries) {
            let broken = match walk.step(bytes) {
                Err(broken) => Some(broken),
                Ok(said) => {
                    let hash = record.as_ref().map(|record| Sha256::digest(record).into());
                    let other = record.is_some() && said.action_hash != hash;
                    let led = said.action.filter(|id| self.row(*id).is_some()).is_none_or(|id| {
                        let from = left.mark(id).unwrap_or(Mark::NONE);
                        left.take(id, from, Step::of(&said, came.get(&entry).copied()))
                    });
                    other.then_some(Broken::Record).or((!led).then_some(Broken::Step))
                }
            };
            found.sealed.extend(entry::sealed(entry, bytes));
            found.findings.extend(broken.map(|broken| Finding { entry, action: None, tenant: None, broken }));
        }
        for row in self.actions.values() {
            let Stored { id, tenant, payload, .. } = &row.stored;
            if payload.is_empty() != row.erased.is_some() {
                let (entry, action, tenant) = (found.last, Some(*id), Some(tenant.clone()));
                found.findings.push(Finding { entry, action, tenant, broken: Broken::Erased });
            }
            for (approver, given) in &row.approvals {
                let bytes = self.entries.get(usize::try_from(given.entry - 1).unwrap_or(usize::MAX));
                let said = bytes.and_then(|(bytes, _)| Reading::of(bytes));
                let fits =
                    said.as_ref().and_then(|it| it.action_hash) == Some(Sha256::digest(&given.record).into());
                found.approvals += 1;
                found.findings.extend((!fits).then(|| Finding {
                    entry: given.entry,
                    action: Some(*id),
                    tenant: Some(tenant.clone()),
                    broken: Broken::Approval,
                }));
                let event = said.map_or("", |it| it.event).into();
                let (round, approver, record) = (given.round, approver.as_str().into(), given.record.clone());
                let testimony = Testimony::Approval { round, approver, event, record };
                found.witnesses.push(Witness {
                    entry: given.entry,
                    action: *id,
                    tenant: tenant.clone(),
                    testimony,
                });
            }
        }
        let receipts = self.outcomes.values().filter_map(|settled| {
            let Stored { subject, archetype, key, .. } = self.row(settled.action)?.stored.clone();
            let (state, receipt) = (settled.state, settled.receipt.clone()?);
            let bytes = self.entries.get(usize::try_from(settled.entry - 1).ok()?);
            let event = bytes.and_then(|(bytes, _)| Reading::of(bytes)).map_or("", |it| it.event).into();
            let testimony = Testimony::Receipt { subject, archetype, key, state, event, said: None, receipt };
            let (action, tenant) = (settled.action, settled.tenant.clone());
            Some(Witness { entry: settled.entry, action, tenant, testimony })
        });
        let receipts: Vec<Witness> = receipts.collect();
        found.receipts = receipts.len() as u64;
        found.witnesses.extend(receipts);
        (found.entries, found.head) = (walk.entries(), walk.head());
        found
    }

    fn last_entry(&self) -> i64 {
        i64::try_from(self.entries.len()).unwrap_or(i64::MAX)
    }

    fn verify(&self) -> Result<Verified, Error> {
        let Inspected { findings, entries, receipts, approvals, head, .. } = self.inspect();
        match findings.into_iter().next() {
            Some(Finding { entry: row, broken, .. }) => Err(Error::Chain { row, broken }),
            None => Ok(Verified { entries, receipts, approvals, head }),
        }
    }
}

impl Outbox for Memory {
    fn give_places(&self, names: Vec<Box<str>>) -> Answer<'_, ()> {
        self.now(move |world| {
            world.outbox.give_places(names, world.entries.len() as i64);
            Ok(())
        })
    }

    fn forget_others(&self, names: Vec<Box<str>>) -> Answer<'_, u64> {
        self.now(move |world| Ok(world.outbox.forget_others(&names)))
    }

    fn standing<'a>(&'a self, destination: &'a str) -> Answer<'a, Standing> {
        self.now(move |world| {
            world.outbox.standing(destination).ok_or_else(|| Error::Absent(destination.into()))
        })
    }

    fn put<'a>(&'a self, destination: &'a str, upto: i64, notices: Vec<Notice>) -> Answer<'a, ()> {
        self.now(move |world| {
            world.outbox.put(destination, upto, notices);
            Ok(())
        })
    }

    fn untold<'a>(&'a self, destination: &'a str, now_ms: i64, limit: u32) -> Answer<'a, Vec<Waiting>> {
        self.now(move |world| Ok(world.outbox.untold(destination, now_ms, limit)))
    }

    fn tried<'a>(&'a self, destination: &'a str, tries: Vec<Tried>) -> Answer<'a, ()> {
        self.now(move |world| {
            world.outbox.tried(destination, &tries);
            Ok(())
        })
    }
}

impl Log for Memory {
    fn fresh(&self, limit: u32) -> Answer<'_, Fresh> {
        self.now(move |world| {
            let after = world.logs.mark;
            let fresh = (1..).zip(&world.entries).filter(|(row, _)| *row > after).take(limit as usize);
            let entries = fresh.map(|(row, (bytes, _))| {
                let receipt = world.outcomes.get(&row).and_then(|settled| settled.receipt.as_ref());
                let receipt = receipt.map(|receipt| receipt.document.clone());
                Unlogged { row, bytes: bytes.clone(), receipt, rests_ms: world.rests_ms(bytes) }
            });
            Ok(Fresh { after, entries: entries.collect() })
        })
    }

    fn grow(&self, growth: Growth) -> Answer<'_, bool> {
        self.now(move |world| Ok(world.logs.grow(growth)))
    }

    fn log_head<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Head> {
        self.now(move |world| Ok(world.logs.head(tenant)))
    }

    fn log_tiles<'a>(&'a self, tenant: &'a Tenant, tiles: Vec<Tile>) -> Answer<'a, Vec<(Tile, Vec<u8>)>> {
        self.now(move |world| Ok(world.logs.tiles(tenant, &tiles)))
    }

    fn log_leaves<'a>(&'a self, tenant: &'a Tenant, from: u64, limit: u32) -> Answer<'a, Vec<Leafed>> {
        self.now(move |world| {
            let leaves = world.logs.leaves(tenant).filter(|leaf| leaf.number >= from);
            Ok(leaves.take(limit as usize).collect())
        })
    }

    fn leaf_of<'a>(&'a self, tenant: &'a Tenant, entry: i64) -> Answer<'a, Option<Leafed>> {
        self.now(move |world| Ok(world.logs.leaves(tenant).find(|leaf| leaf.entry == entry)))
    }
}

impl Ledger for Memory {
    fn facts<'a>(&'a self, query: FactsQuery<'a>) -> Answer<'a, Facts> {
        self.now(move |world| Ok(world.facts(&query)))
    }

    fn admit(&self, admission: Admission) -> Answer<'_, Admitted> {
        self.now(move |world| world.enter(admission.into()))
    }

    fn approve(&self, approval: Approval) -> Answer<'_, Counted> {
        self.now(move |world| world.approve(&approval))
    }

    fn discuss(&self, word: Approval, event: &'static str) -> Answer<'_, i64> {
        self.now(move |world| world.discuss(&word, event))
    }

    fn extend(&self, extension: Extension) -> Answer<'_, Account> {
        self.now(move |world| world.extend(&extension))
    }

    fn reject(&self, rejection: Approval, given: u32, settlement: Settlement) -> Answer<'_, i64> {
        self.now(move |world| world.reject(&rejection, given, &settlement))
    }

    fn resume(&self, resumption: Resumption) -> Answer<'_, Admitted> {
        self.now(move |world| world.enter(resumption.into()))
    }

    fn defer(&self, deferral: Deferral) -> Answer<'_, i64> {
        self.now(move |world| world.defer(&deferral))
    }

    fn due(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(after.unwrap_or(0) + 1..).map(|(_, row)| &row.stored);
            // Whose payer is asked is seen to with what is unsettled.
            let rests = |stored: &&Stored| stored.state.rests() && stored.state != State::Challenged;
            let rows = rows.filter(rests);
            let rows = rows.filter(|stored| stored.due_ms.is_some_and(|due_ms| due_ms <= now_ms));
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn approvals<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Given>> {
        self.now(move |world| {
            let given = world.of(tenant, id).map(|row| &*row.approvals).unwrap_or_default();
            Ok(given.iter().map(|(_, given)| given.clone()).collect())
        })
    }

    fn held<'a>(
        &'a self,
        tenant: &'a Tenant,
        now_ms: i64,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(..after.unwrap_or(i64::MAX)).rev().map(|(_, row)| &row.stored);
            let rows = rows.filter(|stored| {
                stored.state == State::Held
                    && stored.tenant == *tenant
                    && stored.expires_ms.is_some_and(|until_ms| until_ms > now_ms)
            });
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn approved(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(after.unwrap_or(0) + 1..).map(|(_, row)| &row.stored);
            let rows = rows.filter(|stored| stored.state == State::Approved);
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn refuse(&self, refusal: Refusal) -> Answer<'_, Recorded> {
        self.now(move |world| match world.enter(refusal.into())? {
            Admitted::New { entry } => Ok(Recorded::New { entry }),
            Admitted::Existing(existing) => Ok(Recorded::Existing(existing)),
            Admitted::Refused(_) => Err(Error::Rejected("a refusal met an obstacle".into())),
        })
    }

    fn settle(&self, settlement: Settlement) -> Answer<'_, i64> {
        self.now(move |world| world.close(&settlement, false))
    }

    fn amend(&self, settlement: Settlement) -> Answer<'_, i64> {
        self.now(move |world| world.close(&settlement, true))
    }

    fn repeated<'a>(
        &'a self,
        tenant: &'a Tenant,
        subject: &'a Subject,
        code: &'static str,
        request_hash: &'a [u8; 32],
        now_ms: i64,
    ) -> Answer<'a, Option<Repeat>> {
        let name = identity::refusal(tenant, subject, code, request_hash);
        self.now(move |world| {
            let recent = world.refusals.get_mut(&name).filter(|(_, at_ms)| at_ms + 60_000 > now_ms);
            Ok(recent.map(|(repeat, _)| {
                repeat.count += 1;
                *repeat
            }))
        })
    }

    fn action<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Stored>> {
        self.now(move |world| Ok(world.of(tenant, id).map(|row| row.stored.clone())))
    }

    fn outcomes<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Settled>> {
        self.now(move |world| {
            let entries = world.of(tenant, id).map(|row| &*row.outcomes).unwrap_or_default();
            Ok(entries.iter().filter_map(|entry| world.outcomes.get(entry).cloned()).collect())
        })
    }

    fn receipt<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Settled>> {
        self.now(move |world| {
            let is = |outcome: &&Settled| {
                outcome.tenant == *tenant
                    && outcome.receipt.as_ref().is_some_and(|receipt| *receipt.id == *id)
            };
            Ok(world.outcomes.values().find(is).cloned())
        })
    }

    fn address<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Settled>> {
        self.now(move |world| {
            let is = |outcome: &&Settled| {
                let receipt = outcome.receipt.as_ref();
                receipt.is_some_and(|receipt| *receipt.short == *address || *receipt.signature == *address)
            };
            Ok(world.outcomes.values().find(is).cloned())
        })
    }

    fn actions<'a>(
        &'a self,
        tenant: &'a Tenant,
        filter: Filter,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(..after.unwrap_or(i64::MAX)).rev().map(|(_, row)| &row.stored);
            let rows = rows.filter(|stored| stored.tenant == *tenant && filter.lets_pass(stored));
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn unsettled(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(after.unwrap_or(0) + 1..).map(|(_, row)| &row.stored);
            let rows = rows
                .filter(|stored| matches!(stored.state, State::Sent | State::InDoubt | State::Challenged));
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn expired(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let over = |stored: &&Stored| {
                stored.state.waits()
                    && stored.expires_ms.is_some_and(|expires| expires <= now_ms)
                    && after.is_none_or(|after| stored.row > after)
            };
            let rows = world.actions.values().map(|row| &row.stored).filter(over);
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn issue(&self, mandate: Mandate, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            let stored = |jti: &str| {
                world.mandates.iter().any(|known| known.tenant == mandate.tenant && *known.jti == *jti)
            };
            let revoked = |jti: &str| world.account(&mandate.tenant, jti).revoked_at.is_some();
            if let Some(ended) = mandate.chain.iter().find(|jti| !stored(jti) || revoked(jti)) {
                return Err(Error::Absent(ended.clone()));
            }
            if stored(&mandate.jti) {
                return Err(Error::Exists(mandate.jti));
            }
            world.mandates.push(mandate);
            world.event(event)
        })
    }

    fn mandate<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Option<Held>> {
        self.now(move |world| {
            let found = world.mandates.iter().find(|known| known.tenant == *tenant && *known.jti == *jti);
            Ok(found.map(|mandate| world.held(mandate)))
        })
    }

    fn mandates<'a>(&'a self, tenant: &'a Tenant, after: Option<i64>, limit: u32) -> Answer<'a, Page<Held>> {
        self.now(move |world| {
            let numbered: Vec<_> = (1_i64..).zip(&world.mandates).collect();
            let wanted = |(row, mandate): &&(i64, &Mandate)| {
                *row < after.unwrap_or(i64::MAX) && mandate.tenant == *tenant
            };
            let rows = numbered.iter().rev().filter(wanted).take(limit as usize);
            let rows: Vec<_> = rows.map(|(row, mandate)| (*row, world.held(mandate))).collect();
            let Page { rows, next } = page(rows, limit, |(row, _)| *row);
            Ok(Page { rows: rows.into_iter().map(|(_, held)| held).collect(), next })
        })
    }

    fn revoke<'a>(&'a self, tenant: &'a Tenant, jti: &'a str, event: Event) -> Answer<'a, Revocation> {
        self.now(move |world| {
            let cell = world.rows.account(identity::account(tenant, jti), jti);
            let first = cell.value.revoked_at.is_none();
            let account = cell.value.revoke(event.at_ms);
            let at_ms = account.revoked_at.unwrap_or(event.at_ms);
            cell.set(account);
            let mut record_id = None;
            if first {
                record_id = Some(world.chain.next_id().into());
                world.event(event)?;
            }
            let open = |stored: &&Stored| {
                let waits = matches!(stored.state, State::ReleaseFailed | State::Unchecked);
                let unsettled = waits
                    || matches!(stored.state, State::Sent | State::InDoubt)
                    || (stored.state.rests() && !stored.state.is_amended());
                unsettled
                    && stored.tenant == *tenant
                    && stored.mandates.iter().any(|mandate| **mandate == *jti)
            };
            let rows = world.actions.values().map(|row| &row.stored);
            let unsettled = rows.filter(open).map(|stored| stored.id).collect();
            Ok(Revocation { at_ms, record_id, unsettled })
        })
    }

    fn register_principal(&self, key: PrincipalKey, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            let same = |known: &PrincipalKey| {
                known.tenant == key.tenant && known.issuer == key.issuer && known.kid == key.kid
            };
            if world.principals.iter().any(same) {
                return Err(Error::Exists(key.kid));
            }
            Arc::make_mut(&mut world.principals).push(key);
            world.event(event)
        })
    }

    fn principals(&self) -> Answer<'_, Arc<Vec<PrincipalKey>>> {
        self.now(move |world| Ok(Arc::clone(&world.principals)))
    }

    fn revoke_principal<'a>(
        &'a self,
        tenant: &'a Tenant,
        issuer: &'a str,
        kid: &'a str,
        event: Event,
    ) -> Answer<'a, i64> {
        self.now(move |world| {
            let stands = |key: &&mut PrincipalKey| {
                key.tenant == *tenant
                    && *key.issuer == *issuer
                    && *key.kid == *kid
                    && key.revoked_ms.is_none()
            };
            let found = Arc::make_mut(&mut world.principals).iter_mut().find(stands);
            found.ok_or_else(|| Error::Absent(kid.into()))?.revoked_ms = Some(event.at_ms);
            world.event(event)
        })
    }

    fn freeze(&self, freeze: Freeze, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            let freezes = Arc::make_mut(&mut world.rows.freezes);
            freezes.retain(|known| known.scope != freeze.scope);
            freezes.push(freeze);
            world.event(event)
        })
    }

    fn thaw(&self, scope: Scope, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            let freezes = Arc::make_mut(&mut world.rows.freezes);
            let before = freezes.len();
            freezes.retain(|known| known.scope != scope);
            if freezes.len() == before {
                return Err(Error::Absent(scope.to_string().into()));
            }
            world.event(event)
        })
    }

    fn freezes(&self) -> Answer<'_, Arc<Vec<Freeze>>> {
        self.now(|world| Ok(world.rows.freezes.clone()))
    }

    fn add_key(&self, key: ApiKey, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            if world.keys.iter().any(|known| known.id == key.id || known.hash == key.hash) {
                return Err(Error::Exists(key.id));
            }
            world.keys.push(key);
            world.event(event)
        })
    }

    fn key<'a>(&'a self, hash: &'a [u8; 32]) -> Answer<'a, Option<Arc<ApiKey>>> {
        self.now(move |world| {
            let valid = |key: &&ApiKey| key.hash == *hash && key.revoked_ms.is_none();
            Ok(world.keys.iter().find(valid).cloned().map(Arc::new))
        })
    }

    fn keys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<ApiKey>> {
        self.now(move |world| Ok(world.keys.iter().filter(|key| key.tenant == *tenant).cloned().collect()))
    }

    fn revoke_key<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        self.now(move |world| {
            let valid =
                |key: &&mut ApiKey| key.tenant == *tenant && *key.id == *id && key.revoked_ms.is_none();
            let key = world.keys.iter_mut().find(valid).ok_or_else(|| Error::Absent(id.into()))?;
            key.revoked_ms = Some(event.at_ms);
            world.event(event)
        })
    }

    fn register_passkey<'a>(
        &'a self,
        tenant: &'a Tenant,
        id: &'a str,
        credential_id: &'a [u8],
        event: Event,
    ) -> Answer<'a, i64> {
        self.now(move |world| {
            if world.passkeys.iter().any(|it| *it.id == *id || it.credential_id == credential_id) {
                return Err(Error::Exists(id.into()));
            }
            world.passkeys.push(Passkey {
                id: id.into(),
                tenant: tenant.clone(),
                credential_id: credential_id.to_vec(),
                entry: world.last_entry() + 1,
                registered: event.record.clone(),
                enrolled: None,
                revoked: None,
            });
            world.event(event)
        })
    }

    fn enrol_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        self.now(move |world| {
            let passkey = world.passkey(tenant, id)?;
            if passkey.enrolled.is_some() {
                return Err(Error::Absent(id.into()));
            }
            passkey.enrolled = Some(event.record.clone());
            world.event(event)
        })
    }

    fn revoke_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        self.now(move |world| {
            world.passkey(tenant, id)?.revoked = Some(event.record.clone());
            world.event(event)
        })
    }

    fn passkey<'a>(&'a self, credential_id: &'a [u8]) -> Answer<'a, Option<Passkey>> {
        self.now(move |world| Ok(world.passkeys.iter().find(|it| it.credential_id == credential_id).cloned()))
    }

    fn passkeys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Passkey>> {
        self.now(move |world| Ok(world.passkeys.iter().filter(|it| it.tenant == *tenant).cloned().collect()))
    }

    fn open_session(&self, opening: Opening) -> Answer<'_, Box<str>> {
        self.now(move |world| world.open_session(opening))
    }

    fn session<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Governed>> {
        self.now(move |world| Ok(world.governed(tenant, id)))
    }

    fn sessions<'a>(
        &'a self,
        tenant: &'a Tenant,
        of: Option<&'a Subject>,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Governed>> {
        self.now(move |world| Ok(world.governed_sessions(tenant, of, after, limit)))
    }

    fn sessions_under<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Vec<Governed>> {
        self.now(move |world| Ok(world.sessions_under(tenant, jti)))
    }

    fn held_under<'a>(
        &'a self,
        tenant: &'a Tenant,
        jti: &'a str,
        subject: &'a Subject,
        now_ms: i64,
    ) -> Answer<'a, Option<Box<str>>> {
        self.now(move |world| Ok(world.held_under(tenant, jti, subject, now_ms)))
    }

    fn lapsed(&self, now_ms: i64, limit: u32) -> Answer<'_, Vec<Lapsed>> {
        self.now(move |world| Ok(world.lapsed(now_ms, limit)))
    }

    fn recovering(&self) -> Answer<'_, Vec<Recovering>> {
        self.now(move |world| Ok(world.recovering()))
    }

    fn hear(&self, heard: SecurityEvent, event: Event) -> Answer<'_, Heard> {
        self.now(move |world| world.hear(heard, event))
    }

    fn declare(&self, declaring: Declaring) -> Answer<'_, Declared> {
        self.now(move |world| world.declare(declaring))
    }

    fn intention<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        intent: Option<&'a str>,
    ) -> Answer<'a, Option<Intention>> {
        self.now(move |world| Ok(world.intention(tenant, session, intent)))
    }

    fn begun_as<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Box<str>>> {
        self.now(move |world| Ok(world.begun_as(tenant, id)))
    }

    fn turn(&self, turn: Turn) -> Answer<'_, (Box<str>, mandate::Session)> {
        self.now(move |world| world.turn(turn))
    }

    fn records<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        after: Option<u64>,
        limit: u32,
    ) -> Answer<'a, Vec<Record>> {
        self.now(move |world| Ok(world.records(tenant, session, after, limit)))
    }

    fn group(&self, clustering: Clustering) -> Answer<'_, Grouped> {
        self.now(move |world| world.group(&clustering))
    }

    fn cluster<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Clustered>> {
        self.now(move |world| Ok(world.cluster_named(tenant, id)))
    }

    fn cluster_of<'a>(&'a self, tenant: &'a Tenant, session: &'a str) -> Answer<'a, Option<Clustered>> {
        self.now(move |world| Ok(world.cluster_of(tenant, session)))
    }

    fn deadlocks<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Clustered>> {
        self.now(move |world| Ok(world.deadlocks(tenant)))
    }

    fn record(&self, event: Event) -> Answer<'_, i64> {
        self.now(move |world| world.event(event))
    }

    fn tenant_key<'a>(&'a self, tenant: &'a Tenant, offered: Option<Vec<u8>>) -> Answer<'a, Option<Vec<u8>>> {
        self.now(move |world| {
            if let Some(offered) = offered {
                world.tenant_keys.entry(tenant.clone()).or_insert(offered);
            }
            Ok(world.tenant_keys.get(tenant).cloned())
        })
    }

    fn keep<'a>(&'a self, digest: &'a str, text: Vec<u8>) -> Answer<'a, ()> {
        self.now(move |world| {
            world.kept.entry(digest.into()).or_insert(text);
            Ok(())
        })
    }

    fn delivered<'a>(&'a self, alike: &'a [u8; 32]) -> Answer<'a, u64> {
        self.now(move |world| Ok(world.delivered.get(alike).copied().unwrap_or_default()))
    }

    fn deliver(&self, times: Vec<([u8; 32], u64)>) -> Answer<'_, ()> {
        self.now(move |world| {
            for (alike, times) in times {
                let known = world.delivered.entry(alike).or_default();
                *known = times.max(*known);
            }
            Ok(())
        })
    }

    fn kept<'a>(&'a self, digest: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.now(move |world| Ok(world.kept.get(digest).cloned()))
    }

    fn prune(&self, before_ms: i64, limit: u32, now_ms: i64) -> Answer<'_, u64> {
        self.now(move |world| world.prune(before_ms, limit, now_ms))
    }

    fn erase(&self, erasure: Erasure) -> Answer<'_, i64> {
        self.now(move |world| world.erase(&erasure))
    }

    fn erased<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Erased>> {
        self.now(move |world| Ok(world.erased(tenant, id)))
    }

    fn to_erase(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.to_erase(now_ms, after.unwrap_or(0)).take(limit as usize).cloned();
            Ok(page(rows.collect(), limit, |stored| stored.row))
        })
    }

    fn entries(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<(i64, Vec<u8>)>> {
        self.now(move |world| {
            let rows = (1..).zip(&world.entries).filter(|(row, _)| *row > after.unwrap_or(0));
            let rows = rows.take(limit as usize).map(|(row, (bytes, _))| (row, bytes.clone()));
            Ok(page(rows.collect(), limit, |(row, _)| *row))
        })
    }

    fn audit<'a>(
        &'a self,
        tenant: &'a Tenant,
        search: Search,
        order: Order,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Audited>> {
        self.now(move |world| {
            let wanted = |found: &Audited| {
                let due = after.is_none_or(|after| match order {
                    Order::NewestFirst => found.row < after,
                    Order::OldestFirst => found.row > after,
                });
                due && search.lets_pass(tenant, found)
            };
            let all = world.audited().into_iter().filter(wanted);
            let rows: Vec<Audited> = match order {
                Order::NewestFirst => all.rev().take(limit as usize).collect(),
                Order::OldestFirst => all.take(limit as usize).collect(),
            };
            Ok(page(rows, limit, |found| found.row))
        })
    }

    /// Nobody else can write here: there is nothing to compare.
    fn authority(&self, _: &'static [&'static str]) -> Answer<'_, crate::Authority> {
        self.now(|_| Ok(crate::Authority::default()))
    }

    fn inspect(&self, _: Option<crate::Place>) -> Answer<'_, Inspected> {
        self.now(|world| Ok(world.inspect()))
    }

    fn verify(&self) -> Answer<'_, Verified> {
        self.now(|world| world.verify())
    }

    fn health(&self) -> Result<(), Error> {
        Ok(())
    }

    fn figures(&self) -> Figures {
        let writes = self.world().writes;
        Figures { commits: writes, writes, ..Figures::default() }
    }
}

/// The one process there is.
const PROCESS: Process = 1;

/// How many have spoken about this hold.
fn given_in(row: &Row, round: u32) -> u32 {
    row.approvals.iter().map(|(_, given)| u32::from(given.round == round)).sum()
}
