//! The semantics of a ledger over rows in memory: what is written when something is admitted, settled, said or ended.
//!
//! ```text
//!   Memory     ─▶ World of all rows ─▶ done
//!   PostgreSQL ─▶ rows that a batch touches, locked ─▶ World of these ─▶ the same code ─▶ what changed, written
//! ```
//!
//! So for both there is one place that says what becomes of a row; SQLite, which has one writer and all rows at hand, says it a
//! second time over its indexes, and the same tests hold it to that. What a world of some rows cannot know of the others it is told
//! ([`Beyond`]). Everything marks what it changes.

mod cluster;
mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use action::{ActionId, Subject, Tenant};
use mandate::{Account, Usage};

use crate::admit::{Footing, Gate, Item, Rows, admit, corrected, is_above_cap};
use crate::entry::{self, APPROVED, Chain, EXTENDED, REJECTED};
use crate::identity::{self, Claim};
use crate::intake::{Close, Digests, Lease, Owners, Process};
use crate::{
    Admitted, Approval, Basis, Clustered, Counted, Deferral, Draft, Earlier, Erasure, Error, Event,
    Extension, Given, Labels, Mandate, Naming, Outcome, Repeat, Settled, Settlement, State, Stored,
};
pub(crate) use session::{Declaration, Part, Place, Recovery, Sessions};

/// Rows, and the end of the chain that tells of them.
pub(crate) struct World {
    pub(crate) chain: Chain,
    pub(crate) numbers: Numbers,
    /// The process that writes.
    pub(crate) process: Process,
    /// Which processes may be at what they have in hand.
    pub(crate) owners: Owners,
    pub(crate) entries: BTreeMap<i64, Written>,
    pub(crate) actions: BTreeMap<i64, Row>,
    pub(crate) ids: HashMap<ActionId, i64>,
    /// By entry.
    pub(crate) outcomes: BTreeMap<i64, Concluded>,
    pub(crate) rows: Rows,
    pub(crate) mandates: Vec<Mandate>,
    /// Those of them that were issued here, by their place, each with its entry.
    pub(crate) issues: Vec<(usize, i64)>,
    pub(crate) refusals: HashMap<[u8; 32], (Repeat, i64)>,
    pub(crate) sessions: Sessions,
    pub(crate) clusters: Vec<Clustered>,
    /// Clusters that changed, by tenant and id.
    pub(crate) regrouped: BTreeSet<(Tenant, Box<str>)>,
    pub(crate) beyond: Beyond,
}

/// The numbers that rows get next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) entry: i64,
    pub(crate) action: i64,
    /// From one number to the next.
    pub(crate) step: i64,
}

/// What is known of rows that are not here.
#[derive(Default)]
pub(crate) struct Beyond {
    /// Newest first, of each effect: what stands in its way.
    pub(crate) effects: HashMap<[u8; 32], Vec<Earlier>>,
    /// Until when each action waits that an agent has waiting.
    pub(crate) held: HashMap<(Tenant, Subject), Vec<i64>>,
}

/// An entry, as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) action: Option<ActionId>,
    pub(crate) bytes: Vec<u8>,
    /// Of what is no action, or tells of an erasure.
    pub(crate) record: Option<Vec<u8>>,
}

/// An outcome, as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Concluded {
    pub(crate) settled: Settled,
    /// The entry of the action's outcome before it.
    pub(crate) previous: Option<i64>,
    pub(crate) addresses: [i64; 2],
}

/// An action and all that changes of it.
pub(crate) struct Row {
    pub(crate) stored: Stored,
    pub(crate) labels: Labels,
    /// The entry it began with.
    pub(crate) entry: i64,
    /// The entry with which it last went on after it was admitted.
    pub(crate) moved: Option<i64>,
    pub(crate) claim: Option<Claim>,
    pub(crate) effect: Option<[u8; 32]>,
    /// Since when it claims its effect.
    pub(crate) claimed_ms: i64,
    pub(crate) lease: Lease,
    /// What it debited beside money.
    pub(crate) usage: Usage,
    /// By entry, oldest first.
    pub(crate) outcomes: Vec<i64>,
    pub(crate) last: Option<Last>,
    /// Whether one of its outcomes has a receipt. Of rows that were read that is known only where it is asked for.
    pub(crate) is_told: bool,
    /// The entry of the outcome whose reply stands.
    pub(crate) replied: Option<i64>,
    pub(crate) approvals: Vec<(Subject, Given)>,
    pub(crate) erased_after_ms: Option<i64>,
    /// The entry that tells of its erasure.
    pub(crate) erased: Option<i64>,
    pub(crate) touched: Touched,
}

impl Row {
    /// Has what is handed out say what the lease is.
    fn shows_its_lease(&mut self) {
        let Lease { token, owner, until_ms } = self.lease;
        (self.stored.token, self.stored.in_hand) = (token, owner.is_some());
        self.stored.due_ms = until_ms.filter(|_| self.stored.state.rests());
    }
}

/// The last outcome of an action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) entry: i64,
    pub(crate) at_ms: i64,
    /// What its entry names.
    pub(crate) name: Option<[u8; 32]>,
}

/// What of an action was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// All of it: it is new.
    pub(crate) new: bool,
    /// Where it stands.
    pub(crate) fate: bool,
    /// What was asked, or how it waits.
    pub(crate) intent: bool,
    /// The payload.
    pub(crate) payload: bool,
    pub(crate) usage: bool,
}

impl Numbers {
    fn take_entry(&mut self) -> i64 {
        let row = self.entry;
        self.entry += self.step;
        row
    }

    fn take_action(&mut self) -> i64 {
        let row = self.action;
        self.action += self.step;
        row
    }
}

impl World {
    /// A world of no rows.
    pub(crate) fn new(chain: Chain, numbers: Numbers, process: Process, owners: Owners) -> World {
        World {
            chain,
            numbers,
            process,
            owners,
            entries: BTreeMap::new(),
            actions: BTreeMap::new(),
            ids: HashMap::new(),
            outcomes: BTreeMap::new(),
            rows: Rows::default(),
            mandates: Vec::new(),
            issues: Vec::new(),
            refusals: HashMap::new(),
            sessions: Sessions::default(),
            clusters: Vec::new(),
            regrouped: BTreeSet::new(),
            beyond: Beyond::default(),
        }
    }

    /// Opens the chain.
    pub(crate) fn open(&mut self, at_ms: i64) -> Result<i64, Error> {
        self.append(at_ms, None, &entry::opening(), None, None)
    }

    pub(crate) fn append(
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
        let row = self.numbers.entry;
        let place = place.map(|place| self.takes_place(place, row)).transpose()?;
        let place = place.as_ref().map(|(session, sealer)| (session.clone(), &**sealer));
        let bytes = self.chain.append(at_ms, action, draft, receipt_hash, place).map_err(unwritable)?;
        self.entries.insert(self.numbers.take_entry(), Written { action, bytes, record });
        Ok(row)
    }

    /// The row number of the entry that is appended next.
    pub(crate) fn next_entry(&self) -> i64 {
        self.numbers.entry
    }

    /// Appends an entry for something that is no action.
    pub(crate) fn event(&mut self, event: Event) -> Result<i64, Error> {
        self.append(event.at_ms, None, &event.draft(), None, Some(event.record))
    }

    /// Decides an item, and writes it if it passes.
    pub(crate) fn enter(&mut self, mut item: Item) -> Result<Admitted, Error> {
        if item.resumes.is_some() {
            item.session = self.session_of(item.intent.id);
        }
        let item = &item;
        self.read_effect(item);
        if item.hold().is_some() {
            let held = self.held_by(&item.agent(), item.intent.at_ms);
            self.rows.held.insert(item.agent(), held);
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

    /// How many actions of an agent wait for people.
    fn held_by(&self, agent: &(Tenant, Subject), at_ms: i64) -> u32 {
        let waits = |row: &&Row| {
            let Stored { state, expires_ms, .. } = row.stored;
            state == State::Held && expires_ms > Some(at_ms)
        };
        let of_agent = |row: &&Row| (&row.stored.tenant, &row.stored.subject) == (&agent.0, &agent.1);
        let here = self.actions.values().filter(of_agent).filter(waits).count();
        let beyond =
            self.beyond.held.get(agent).map(|held| held.iter().filter(|until| **until > at_ms).count());
        u32::try_from(here + beyond.unwrap_or_default()).unwrap_or(u32::MAX)
    }

    /// What still stands in the way.
    fn read_effect(&mut self, item: &Item) {
        if let Some(effect) = item.effect() {
            let standing = self.standing(&effect.hash, item.intent.at_ms.saturating_sub(effect.window_ms));
            self.rows.effects.insert(effect.hash, standing);
        }
    }

    /// Newest first.
    pub(crate) fn standing(&self, hash: &[u8; 32], since_ms: i64) -> Vec<Earlier> {
        let stands = |row: &&Row| row.effect == Some(*hash) && row.stored.state.claims_effect();
        let here = self.actions.values().rev().filter(stands);
        let here = here.map(|row| Earlier { id: row.stored.id, at_ms: row.claimed_ms });
        let beyond = self.beyond.effects.get(hash).into_iter().flatten().copied();
        let mut standing: Vec<Earlier> =
            here.chain(beyond).filter(|earlier| earlier.at_ms > since_ms).collect();
        standing.sort_by_key(|earlier| std::cmp::Reverse(earlier.at_ms));
        standing
    }

    fn insert(&mut self, item: &Item) -> Result<i64, Error> {
        let intent = &item.intent;
        let row = self.numbers.take_action();
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
            in_hand: item.sends(),
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
        let row_of = Row {
            stored,
            labels: intent.labels.clone(),
            entry: self.numbers.entry,
            moved: None,
            claim: item.claim,
            effect: item.effect().map(|effect| effect.hash),
            claimed_ms: intent.at_ms,
            lease: Lease::first(item.sends(), self.process, item.lease_ms()),
            usage: if item.counts() { intent.usage } else { Usage::default() },
            outcomes: Vec::new(),
            last: None,
            is_told: false,
            replied: None,
            approvals: Vec::new(),
            erased_after_ms: intent.erased_after_ms,
            erased: None,
            touched: Touched { new: true, ..Touched::default() },
        };
        self.actions.insert(row, row_of);
        self.ids.insert(intent.id, row);
        self.begins(item);
        match &item.gate {
            Gate::Admit { .. } => self.append(intent.at_ms, Some(intent.id), &intent.entry, None, None),
            Gate::Refuse { why, outcome, halts, digests } => {
                let name = identity::refusal(&intent.tenant, &intent.subject, why, &intent.request_hash);
                let repeat = Repeat { action: intent.id, count: 0 };
                self.refusals.insert(name, (repeat, intent.at_ms));
                let entry = self.outcome(row, outcome, digests)?;
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
        let process = self.process;
        let row = self.row_mut(intent.id)?;
        row.effect = item.effect().map(|effect| effect.hash);
        row.claimed_ms = intent.at_ms;
        if item.counts() && !intent.usage.is_nothing() {
            row.usage = intent.usage;
            row.touched.usage = true;
        }
        row.lease = row.lease.taken(item.sends(), process, item.lease_ms());
        (row.moved, row.replied) = (Some(entry), None);
        row.touched = Touched { fate: true, intent: true, payload: true, ..row.touched };
        let stored = &mut row.stored;
        stored.counted_ms = intent.at_ms;
        // What was last said of it is no longer so.
        (stored.state, stored.token, stored.reply) = (item.state(), row.lease.token, None);
        stored.in_hand = row.lease.owner.is_some();
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
        let process = self.process;
        let row = self.row_mut(intent.id)?;
        row.lease = row.lease.taken(true, process, item.lease_ms());
        row.moved = Some(entry);
        row.touched = Touched { fate: true, payload: true, ..row.touched };
        if matches!(row.stored.state, State::Waiting | State::Reserved) {
            row.stored.state = State::Sent;
        }
        row.shows_its_lease();
        (row.stored.payload, row.stored.naming) =
            (intent.payload.clone(), intent.entry.action_hash.map(Naming::Row));
        let (claim, state) = (row.claim, row.stored.state);
        self.claimed_in(claim, state);
        Ok(entry)
    }

    /// Has an action rest until it is due. What was said before it was reserved, or its payer asked, is no longer so.
    pub(crate) fn defer(&mut self, deferral: &Deferral) -> Result<i64, Error> {
        let id = deferral.action;
        let next = self.numbers.entry;
        let row = self.row(id).ok_or(Error::NoSuchAction(id))?;
        let from = row.stored.state;
        deferral.check(from, &row.lease, &self.owners)?;
        let row = self.row_mut(id)?;
        row.lease = row.lease.deferred(deferral.state, deferral.due_ms);
        row.moved = Some(next);
        row.touched = Touched { fate: true, payload: true, ..row.touched };
        row.stored.state = deferral.state;
        row.shows_its_lease();
        (row.stored.payload, row.stored.naming) =
            (deferral.payload.clone(), deferral.entry.action_hash.map(Naming::Row));
        if matches!(deferral.state, State::Challenged | State::Reserved) {
            (row.stored.reply, row.replied) = (None, None);
        }
        let claim = row.claim;
        self.claimed_in(claim, deferral.state);
        self.goes(id, from, deferral.state);
        self.append(deferral.at_ms, Some(id), &deferral.entry, None, None)
    }

    /// Who made the claim that begins so.
    pub(crate) fn claimant(&self, tenant: &Tenant, half: [u8; 16]) -> Option<ActionId> {
        let is_it =
            |row: &&Row| row.stored.tenant == *tenant && row.claim.is_some_and(|it| it.half() == half);
        self.actions.values().find(is_it).map(|row| row.stored.id)
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
        let row = self.row_mut(id)?;
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

    /// Counts one person's approval of a held action.
    pub(crate) fn approve(&mut self, approval: &Approval) -> Result<Counted, Error> {
        let row = self.awaited(approval, State::Approved)?;
        let (given, needed) = (given_in(row, approval.round) + 1, row.stored.needed);
        let last = given >= needed;
        let entry = self.say(approval, APPROVED, last)?;
        self.heard(approval.action)?;
        self.limits(approval)?;
        if last {
            self.agreed(approval.action)?;
        }
        Ok(Counted { entry, given, needed })
    }

    /// Ends the lease of what is in doubt, if it is this process's, by this token. Says whether it was.
    pub(crate) fn let_go(&mut self, id: ActionId, token: u32) -> Result<bool, Error> {
        let process = self.process;
        let row = self.row_mut(id)?;
        let in_doubt = row.stored.state == State::InDoubt;
        let Some(lease) = row.lease.let_go(process, token).filter(|_| in_doubt) else { return Ok(false) };
        row.lease = lease;
        row.shows_its_lease();
        row.touched.fate = true;
        Ok(true)
    }

    fn heard(&mut self, id: ActionId) -> Result<(), Error> {
        let row = self.row_mut(id)?;
        row.lease = row.lease.heard();
        row.shows_its_lease();
        row.touched.fate = true;
        Ok(())
    }

    fn agreed(&mut self, id: ActionId) -> Result<(), Error> {
        let row = self.row_mut(id)?;
        row.stored.state = State::Approved;
        row.touched.fate = true;
        let claim = row.claim;
        self.claimed_in(claim, State::Approved);
        Ok(())
    }

    /// Writes one person's rejection of a held action, and ends it.
    pub(crate) fn reject(&mut self, rejection: &Approval, given: u32, close: &Close) -> Result<i64, Error> {
        let to = close.settlement.outcome.state;
        let row = self.awaited(rejection, to)?;
        let lease = row.lease;
        if given_in(row, rejection.round) != given {
            return Err(Error::Illegal { id: rejection.action, from: State::Held, to });
        }
        close.settlement.check(State::Held, &lease, &self.owners, close.amends)?;
        self.say(rejection, REJECTED, false)?;
        self.close(close)
    }

    /// Writes a word on a held action that decides nothing; it waits on in its next hold.
    pub(crate) fn discuss(&mut self, word: &Approval, event: &'static str) -> Result<i64, Error> {
        self.awaited(word, State::Held)?;
        let entry = self.say(word, event, false)?;
        self.heard(word.action)?;
        let row = self.row_mut(word.action)?;
        row.stored.round += 1;
        row.touched.intent = true;
        Ok(entry)
    }

    /// Extends a mandate's budget. Everything is looked at before anything is written.
    pub(crate) fn extend(&mut self, extension: &Extension) -> Result<Account, Error> {
        let Extension { tenant, jti, limits, above, seconds, judged, event, words } = extension;
        let mut accounts = Vec::with_capacity(above.len());
        for (jti, limits) in above.iter().map(|(jti, limits)| (jti, limits)).chain([(jti, limits)]) {
            if self.issued(tenant, jti).is_none() {
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
            self.heard(word.action)?;
            let row = self.row_mut(word.action)?;
            // One word is enough for this.
            row.stored.needed = given_in(row, word.round);
            row.touched.intent = true;
            self.agreed(word.action)?;
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

    pub(crate) fn row_mut(&mut self, id: ActionId) -> Result<&mut Row, Error> {
        let number = self.ids.get(&id).copied().ok_or(Error::NoSuchAction(id))?;
        self.actions.get_mut(&number).ok_or(Error::NoSuchAction(id))
    }

    /// Settles or amends one action. What is not allowed is an answer and writes nothing.
    pub(crate) fn close(&mut self, close: &Close) -> Result<i64, Error> {
        let Close { settlement, amends, .. } = close;
        let Settlement { action: id, outcome, charged, used, overage, halts, .. } = settlement;
        let Row { stored, lease, usage, is_told, .. } = self.row(*id).ok_or(Error::NoSuchAction(*id))?;
        let (lease, debited, is_told) = (*lease, *usage, *is_told);
        let (number, from, debit) = (stored.row, stored.state, stored.debit);
        let (tenant, mandates) = (stored.tenant.clone(), stored.mandates.clone());
        settlement.check(from, &lease, &self.owners, *amends)?;
        if settlement.original && is_told {
            return Err(Error::Fenced(*id));
        }
        let charged = charged.filter(|_| !from.waits()).unwrap_or(debit);
        let difference = charged.saturating_sub(debit);
        if difference > 0 && overage.is_none() && !self.carried(&tenant, &mandates, difference)? {
            return Err(Error::AboveCap(*id));
        }
        self.goes(*id, from, outcome.state);
        let entry = self.outcome(number, outcome, &close.digests)?;
        if let Some((overage, digests)) = overage.as_ref().zip(close.overage.as_ref()) {
            self.outcome(number, overage, digests)?;
        }
        let to = outcome.state;
        let used = used.as_ref().filter(|_| !from.waits());
        let row = self.row_mut(*id)?;
        row.lease = settlement.leaves(from, lease, *amends);
        row.touched.fate = true;
        (row.stored.state, row.stored.debit) = (to, charged);
        row.shows_its_lease();
        let claim = row.claim;
        self.claimed_in(claim, to);
        for jti in mandates.iter().filter(|_| difference != 0 || overage.is_some()) {
            let account = self.rows.account(identity::account(&tenant, jti), jti);
            account.set(corrected(&account.value, difference, overage.is_some()));
        }
        if let Some(used) = used {
            let measured = used.measured(&debited, *amends);
            self.measure((*id, &tenant, &mandates), settlement, used, [&debited, &measured])?;
        }
        if let Some(halts) = halts {
            self.stops(*id, halts)?;
        }
        Ok(entry)
    }

    /// Puts what an action used in the place of what it was debited. What comes to the same changes nothing and breaks nothing.
    fn measure(
        &mut self,
        (id, tenant, mandates): (ActionId, &Tenant, &[Box<str>]),
        settlement: &Settlement,
        used: &crate::Used,
        [debited, measured]: [&Usage; 2],
    ) -> Result<(), Error> {
        if measured == debited {
            return Ok(());
        }
        for jti in mandates {
            let account = self.rows.account(identity::account(tenant, jti), jti);
            account.set(account.value.remeasure(debited, measured));
        }
        let row = self.row_mut(id)?;
        row.usage = *measured;
        row.touched.usage = true;
        self.breached(settlement, used, [debited, measured], mandates)
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

    fn outcome(&mut self, number: i64, outcome: &Outcome, digests: &Digests) -> Result<i64, Error> {
        let Some(row) = self.actions.get(&number) else { return Ok(0) };
        let (id, tenant, last) = (row.stored.id, row.stored.tenant.clone(), row.last);
        let draft = outcome.draft(digests.sums, last.and_then(|last| last.name)).map_err(unwritable)?;
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
        let previous = last.map(|last| last.entry);
        self.outcomes.insert(entry, Concluded { settled, previous, addresses: digests.addresses });
        if let Some(row) = self.actions.get_mut(&number) {
            row.outcomes.push(entry);
            row.is_told |= outcome.receipt.is_some();
            row.last = Some(Last { entry, at_ms: outcome.at_ms, name: draft.action_hash });
            if outcome.reply.is_some() {
                (row.stored.reply, row.replied) = (outcome.reply.clone(), Some(entry));
            }
        }
        Ok(entry)
    }

    /// Notes the erasure of an action, and empties what is here of it. Answers with the row number of the entry; of an
    /// action that is erased already, of that one.
    pub(crate) fn erase(&mut self, erasure: &Erasure) -> Result<i64, Error> {
        let id = erasure.action;
        let row = self.row(id).ok_or(Error::NoSuchAction(id))?;
        if let Some(entry) = row.erased {
            return Ok(entry);
        }
        erasure.check(row.stored.state, row.last.map(|last| last.at_ms))?;
        let record = Some(erasure.record.clone());
        let entry = self.append(erasure.at_ms, Some(id), &erasure.draft(), None, record)?;
        let outcomes = self.row(id).map(|row| row.outcomes.clone()).unwrap_or_default();
        for outcome in outcomes {
            if let Some(Concluded { settled, .. }) = self.outcomes.get_mut(&outcome) {
                settled.payload = Vec::new();
                settled.reply.iter_mut().for_each(|reply| reply.body = Vec::new());
            }
        }
        let process = self.process;
        let row = self.row_mut(id)?;
        row.erased = Some(entry);
        row.stored.payload = Vec::new();
        row.labels.refs = Vec::new();
        row.stored.reply.iter_mut().for_each(|reply| reply.body = Vec::new());
        row.approvals.clear();
        // Keeps (fencing): whoever read it before goes on with it no more.
        row.lease = row.lease.taken(false, process, 0);
        row.shows_its_lease();
        row.touched = Touched { fate: true, intent: true, payload: true, ..row.touched };
        Ok(entry)
    }

    /// Stores a mandate.
    pub(crate) fn issue(&mut self, mandate: Mandate, event: Event) -> Result<i64, Error> {
        let tenant = &mandate.tenant;
        let ended =
            |jti: &str| self.issued(tenant, jti).is_none() || self.account(tenant, jti).revoked_at.is_some();
        if let Some(ended) = mandate.chain.iter().find(|jti| ended(jti)) {
            return Err(Error::Absent(ended.clone()));
        }
        if self.issued(tenant, &mandate.jti).is_some() {
            return Err(Error::Exists(mandate.jti));
        }
        self.issues.push((self.mandates.len(), self.numbers.entry));
        self.mandates.push(mandate);
        self.event(event)
    }

    /// Revokes a mandate; answers with when that was, and with the id of its record if it was not before.
    pub(crate) fn revoke(
        &mut self,
        tenant: &Tenant,
        jti: &str,
        event: Event,
    ) -> Result<(i64, Option<Box<str>>), Error> {
        let cell = self.rows.account(identity::account(tenant, jti), jti);
        if let Some(at_ms) = cell.value.revoked_at {
            return Ok((at_ms, None));
        }
        let account = cell.value.revoke(event.at_ms);
        let at_ms = account.revoked_at.unwrap_or(event.at_ms);
        cell.set(account);
        let record_id = self.chain.next_id().into();
        self.event(event)?;
        Ok((at_ms, Some(record_id)))
    }

    /// A mandate that is stored.
    pub(crate) fn issued(&self, tenant: &Tenant, jti: &str) -> Option<&Mandate> {
        self.mandates.iter().find(|it| it.tenant == *tenant && *it.jti == *jti)
    }

    pub(crate) fn row(&self, id: ActionId) -> Option<&Row> {
        self.actions.get(self.ids.get(&id)?)
    }

    pub(crate) fn account(&self, tenant: &Tenant, jti: &str) -> Account {
        let account = self.rows.accounts.get(&identity::account(tenant, jti));
        account.map_or_else(|| Account::new(jti), |cell| cell.value.clone())
    }
}

/// How many have spoken about this hold.
fn given_in(row: &Row, round: u32) -> u32 {
    row.approvals.iter().map(|(_, given)| u32::from(given.round == round)).sum()
}

/// What cannot even be put into bytes.
fn unwritable(error: serde_json::Error) -> Error {
    Error::Rejected(error.to_string().into())
}
