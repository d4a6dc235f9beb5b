//! The one place where claims and debits that must not race are decided: a pure function over rows.
//!
//! ```text
//!   waiting items ─┬─▶ read every row they need ─▶ admit(rows, items) ─▶ write the changed rows, commit
//!                  └────────────────────────────────────┴─▶ one result per item
//! ```
//!
//! Items are taken in order and each sees what those before it changed. A refusal is a value and changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use action::{ActionId, Money, Subject, Tenant};
use boundary::Series;
use mandate::{Account, Claims, Refusal as Limit, Resource, Session, SessionEvent, SessionState, Use};

use crate::identity::{self, Claim};
use crate::intake::Digests;
use crate::session::{Cycle, after, moved};
use crate::{
    Admission, Admitted, Basis, Earlier, Effect, Error, Event, Existing, Freeze, Hold, Intent, Obstacle,
    Outcome, Refusal, Resumption, State, Tolerance,
};

/// What is to be decided: an admission, a resumption, or the claim of an action that is refused already.
#[derive(Clone, Debug)]
pub struct Item {
    pub(crate) intent: Intent,
    pub(crate) gate: Gate,
    /// What it goes on from, if its row is there already.
    pub(crate) resumes: Option<Basis>,
    pub(crate) claim: Option<Claim>,
    /// Keys of the accounts it debits, in the order of its debits.
    pub(crate) accounts: Vec<i64>,
    pub(crate) series: i64,
    pub(crate) seen: Option<i64>,
    /// The session it is a cycle of, by key; of an action whose row is there already the store finds it.
    pub(crate) session: Option<i64>,
    pub(crate) cycle: Option<Cycle>,
    /// The epoch of its session when it was judged, of one that goes on because people agreed.
    pub(crate) judged: Option<u64>,
    /// What it moves: all that is at stake, or the part of it that is charged.
    pub(crate) moves: Option<Money>,
}

#[derive(Clone, Debug)]
pub(crate) enum Gate {
    Admit { hold: Option<Hold>, debits: Vec<crate::Debit>, effect: Option<Effect>, lease_ms: i64 },
    Refuse { why: Box<str>, outcome: Box<Outcome>, digests: Digests, halts: Option<Event> },
}

impl From<Admission> for Item {
    fn from(admission: Admission) -> Item {
        let Admission { intent, hold, debits, effect, destination, cycle, lease_ms } = admission;
        let Intent { tenant, principal, archetype, amount, .. } = &intent;
        let currency = amount.map(|amount| amount.currency());
        let currency = currency.as_ref().map_or("", |currency| currency.code());
        Item {
            resumes: None,
            claim: Claim::of(&intent),
            accounts: debits.iter().map(|debit| identity::account(tenant, &debit.link.jti)).collect(),
            series: identity::series(tenant, principal, archetype, currency),
            seen: destination.map(|to| identity::seen(tenant, principal, archetype, &to)),
            session: cycle.as_ref().map(|cycle| identity::session(tenant, &cycle.session)),
            cycle,
            judged: None,
            moves: intent.amount,
            gate: Gate::Admit { hold, debits, effect, lease_ms },
            intent,
        }
    }
}

impl From<Resumption> for Item {
    fn from(Resumption { admission, from, charges }: Resumption) -> Item {
        let judged = match from {
            Basis::Approved { .. } => admission.cycle.as_ref().map(|cycle| cycle.epoch),
            Basis::Held { .. } | Basis::Sent { .. } | Basis::Failed { .. } => None,
        };
        let moves = charges.or(admission.intent.amount);
        Item { resumes: Some(from), session: None, cycle: None, judged, moves, ..admission.into() }
    }
}

impl From<Refusal> for Item {
    fn from(refusal: Refusal) -> Item {
        let Refusal { intent, why, cycle, outcome, halts } = refusal;
        let digests = outcome.digests();
        Item {
            resumes: None,
            claim: Claim::of(&intent),
            accounts: Vec::new(),
            series: 0,
            seen: None,
            session: cycle.as_ref().map(|cycle| identity::session(&intent.tenant, &cycle.session)),
            cycle,
            judged: None,
            moves: None,
            gate: Gate::Refuse { why, outcome: Box::new(outcome), digests, halts },
            intent,
        }
    }
}

impl Item {
    /// The state its row begins in, or goes on in if nothing of it is in doubt.
    pub(crate) fn state(&self) -> State {
        match &self.gate {
            Gate::Admit { hold: Some(_), .. } => State::Held,
            Gate::Admit { .. } => State::Sent,
            Gate::Refuse { outcome, .. } => outcome.state,
        }
    }

    /// Is it sent?
    pub(crate) fn sends(&self) -> bool {
        matches!(self.gate, Gate::Admit { hold: None, .. })
    }

    /// Does it debit, count and become part of the history? What was sent before has done so.
    pub(crate) fn counts(&self) -> bool {
        self.sends() && !matches!(self.resumes, Some(Basis::Sent { .. }))
    }

    /// What is written down where it is the last of its session.
    pub(crate) fn halts(&self) -> Option<&Event> {
        match &self.gate {
            Gate::Refuse { halts, .. } => halts.as_ref(),
            Gate::Admit { .. } => None,
        }
    }

    /// Until when whoever sends it is at it.
    pub(crate) fn lease_ms(&self) -> i64 {
        match self.gate {
            Gate::Admit { lease_ms, .. } => lease_ms,
            Gate::Refuse { .. } => 0,
        }
    }

    /// Whose action it is.
    pub(crate) fn agent(&self) -> (Tenant, Subject) {
        (self.intent.tenant.clone(), self.intent.subject.clone())
    }

    /// What it is to its session, where it stood so before.
    fn happens(&self, before: Option<State>) -> Option<SessionEvent> {
        if let Some(before) = before {
            return moved(before, self.state());
        }
        let sequence = self.cycle.as_ref()?.sequence;
        Some(match &self.gate {
            Gate::Refuse { .. } => SessionEvent::Denied { sequence },
            Gate::Admit { hold: Some(_), .. } => SessionEvent::Held { sequence: sequence? },
            Gate::Admit { hold: None, .. } => SessionEvent::Admitted { sequence: sequence? },
        })
    }

    pub(crate) fn hold(&self) -> Option<Hold> {
        match self.gate {
            Gate::Admit { hold, .. } => hold,
            Gate::Refuse { .. } => None,
        }
    }

    pub(crate) fn effect(&self) -> Option<&Effect> {
        match &self.gate {
            Gate::Admit { effect, .. } => effect.as_ref(),
            Gate::Refuse { .. } => None,
        }
    }

    pub(crate) fn debits(&self) -> &[crate::Debit] {
        match &self.gate {
            Gate::Admit { debits, .. } => debits,
            Gate::Refuse { .. } => &[],
        }
    }
}

/// A row's value and whether it must be written back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell<T> {
    /// The value.
    pub value: T,
    /// Does it differ from what is stored?
    pub changed: bool,
}

impl<T> Cell<T> {
    /// A value as it is stored.
    pub fn stored(value: T) -> Cell<T> {
        Cell { value, changed: false }
    }

    /// Replaces the value.
    pub fn set(&mut self, value: T) {
        *self = Cell { value, changed: true };
    }
}

/// The rows that a batch of items needs. What is not in here does not exist in the store.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Claimed keys.
    pub claims: HashMap<Claim, Claimed>,
    /// Accounts of mandates by key; one that is missing was never used.
    pub accounts: HashMap<i64, Cell<Account>>,
    /// Every freeze.
    pub freezes: Arc<Vec<Freeze>>,
    /// The newest actions that stand in the way of each effect, newest first: as many as tell whether another one than
    /// the one that asks is among them.
    pub effects: HashMap<[u8; 32], Vec<Earlier>>,
    /// How many actions of each agent wait for people; read for those that are to be held.
    pub held: HashMap<(Tenant, Subject), u32>,
    /// Where actions stand that are to go on.
    pub footings: HashMap<ActionId, Footing>,
    /// Governed sessions by key.
    pub sessions: HashMap<i64, Cell<Session>>,
    /// Those of them that an item stopped, and by which action.
    pub stopped: HashMap<i64, ActionId>,
    /// Anomaly histories.
    pub series: HashMap<i64, Cell<Arc<Series>>>,
    /// Destinations had before; `changed` for those of this batch.
    pub seen: HashMap<i64, Cell<()>>,
}

/// Who claimed a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Which action.
    pub id: ActionId,
    /// Of which request.
    pub request_hash: [u8; 32],
    /// Where it stands.
    pub state: State,
    /// When it came in, milliseconds since 1970, UTC.
    pub at_ms: i64,
}

/// Where an action stands that is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footing {
    /// Its state.
    pub state: State,
    /// How often it was held.
    pub round: u32,
    /// How often it changed hands.
    pub token: u32,
}

/// Decides the items in order. Replies of existing actions and numbers of new entries are filled in by the store.
pub fn admit(rows: &mut Rows, items: &[Item]) -> Vec<Admitted> {
    items.iter().map(|item| one(rows, item)).collect()
}

fn one(rows: &mut Rows, item: &Item) -> Admitted {
    match item.resumes {
        Some(basis) => {
            let footing = rows.footings.get(&item.intent.id);
            if !footing.is_some_and(|footing| footing.bears(basis, item.sends())) {
                return Admitted::Refused(Obstacle::Overtaken);
            }
        }
        None => {
            if let Some(claimed) = item.claim.and_then(|claim| rows.claims.get(&claim)) {
                return Admitted::Existing(claimed.seen_by(&item.intent));
            }
        }
    }
    if matches!(item.gate, Gate::Admit { .. }) {
        match check(rows, item) {
            Ok(debited) => {
                for (key, account) in item.accounts.iter().zip(debited) {
                    rows.accounts.insert(*key, Cell { value: account, changed: true });
                }
            }
            Err(obstacle) => return Admitted::Refused(obstacle),
        }
    }
    remember(rows, item);
    Admitted::New { entry: 0 }
}

/// Every obstacle, in the order of [`Obstacle`]; else the accounts as they will be, which are none for a hold.
fn check(rows: &mut Rows, item: &Item) -> Result<Vec<Account>, Obstacle> {
    let Intent { tenant, subject, archetype, provider, amount, usage, at_ms, .. } = &item.intent;
    let covers = |freeze: &&Freeze| freeze.scope.covers(tenant, subject, archetype, provider.as_deref());
    if let Some(freeze) = rows.freezes.iter().find(covers) {
        return Err(Obstacle::Frozen(freeze.scope.clone()));
    }
    if let Some(key) = item.session {
        let footing = rows.footings.get(&item.intent.id);
        takes(rows.sessions.get(&key).map(|cell| &cell.value), item, footing)?;
    }
    for (key, debit) in item.accounts.iter().zip(item.debits()) {
        let (jti, account) = (debit.link.jti.clone(), &rows.account(*key, &debit.link.jti).value);
        if let Some(at_ms) = account.revoked_at {
            return Err(Obstacle::Revoked { jti, at_ms });
        }
        let taken = debit.seen.as_ref().is_some_and(|seen| seen != account);
        if account.epoch != debit.epoch || account.frozen || taken {
            return Err(Obstacle::MandateChanged { jti });
        }
    }
    let takes = Use { money: *amount, usage: *usage };
    let mut debited = Vec::new();
    for (key, debit) in item.accounts.iter().zip(item.debits()).filter(|_| item.counts()) {
        let account = &rows.account(*key, &debit.link.jti).value;
        debited.push(
            account.debit(&debit.link.limits, &takes).map_err(|limit| obstacle(&debit.link.jti, limit))?,
        );
    }
    if let (Some(hold), None) = (item.hold(), item.resumes)
        && rows.held.get(&item.agent()).is_some_and(|held| *held >= hold.most)
    {
        return Err(Obstacle::TooManyHeld);
    }
    let earlier = item.effect().and_then(|effect| {
        // Its own claim is no obstacle to an action that resumes.
        let earlier = rows.effects.get(&effect.hash)?.iter().find(|earlier| earlier.id != item.intent.id)?;
        let tolerated = match effect.tolerate {
            Tolerance::Nothing => false,
            Tolerance::This(id) => earlier.id == id,
            Tolerance::Anything => true,
        };
        (!tolerated && earlier.at_ms > at_ms.saturating_sub(effect.window_ms)).then_some(*earlier)
    });
    earlier.map_or(Ok(debited), |earlier| Err(Obstacle::Duplicate(earlier)))
}

/// INVARIANT (halt): no cycle begins, and none is sent, in a session that is over or stopped. What somebody asks for anew
/// is not sent either while it waits for people.
/// INVARIANT (limits): nothing is sent beyond what people agreed to for its session, whenever they did.
fn takes(session: Option<&Session>, item: &Item, footing: Option<&Footing>) -> Result<(), Obstacle> {
    let Some(session) = session else { return Err(Obstacle::SessionChanged) };
    if item.sends() && session.limits.broken_by(item.moves, item.intent.at_ms).is_some() {
        return Err(Obstacle::SessionChanged);
    }
    let Some(cycle) = &item.cycle else {
        let bears = match session.state() {
            SessionState::Active => true,
            // It was agreed to, or its next attempt is due: whatever else waits by now, it may go on.
            SessionState::HemPending | SessionState::ClusterBlocked => {
                footing.is_some_and(|footing| !footing.state.is_sent_when_asked())
            }
            SessionState::Closed(_) | SessionState::Suspended => false,
        };
        // Who else has a say, for one, may be another since people agreed.
        let missed = item.judged.is_some_and(|epoch| epoch != session.epoch);
        return if item.sends() && (!bears || missed) { Err(Obstacle::SessionChanged) } else { Ok(()) };
    };
    if cycle.epoch != session.epoch || session.state() != SessionState::Active {
        return Err(Obstacle::SessionChanged);
    }
    match cycle.sequence {
        Some(sequence) if sequence > session.sequence => Ok(()),
        _ => Err(Obstacle::NotRising { last: session.sequence }),
    }
}

fn obstacle(jti: &Arc<str>, limit: Limit) -> Obstacle {
    let jti = jti.clone();
    match limit {
        Limit::ActionsUsedUp { .. } => Obstacle::ActionsUsedUp { jti },
        Limit::CapExceeded { left, .. } => Obstacle::CapExceeded { jti, left },
        Limit::CurrencyMismatch { .. } => Obstacle::CurrencyMismatch { jti },
        Limit::TimeUsedUp => Obstacle::EnvelopeExceeded { jti, resource: Resource::Seconds },
        Limit::EnvelopeExceeded { resource } => Obstacle::EnvelopeExceeded { jti, resource },
        _ => Obstacle::MandateChanged { jti },
    }
}

/// What the items after this one see.
fn remember(rows: &mut Rows, item: &Item) {
    let Intent { id, request_hash, at_ms, amount, .. } = item.intent;
    if let Some(claim) = item.claim {
        rows.claims.insert(claim, Claimed { id, request_hash, state: item.state(), at_ms });
    }
    let before = rows.footings.remove(&id).map(|footing| footing.state);
    if let Some(cell) = item.session.and_then(|key| rows.sessions.get_mut(&key))
        && let Some(event) = item.happens(before)
    {
        cell.set(after(&cell.value, event));
        if let (Some(key), Some(_), Ok(stopped)) =
            (item.session, item.halts(), cell.value.step(SessionEvent::Suspended))
        {
            cell.set(stopped);
            rows.stopped.insert(key, id);
        }
    }
    if item.hold().is_some() && !matches!(item.resumes, Some(Basis::Held { .. })) {
        *rows.held.entry(item.agent()).or_default() += 1;
    }
    if let Some(effect) = item.effect() {
        let standing = rows.effects.entry(effect.hash).or_default();
        standing.retain(|earlier| earlier.id != id);
        standing.insert(0, Earlier { id, at_ms });
    }
    if item.counts() {
        let series = rows.series.entry(item.series).or_insert_with(|| Cell::stored(Arc::default()));
        Arc::make_mut(&mut series.value).push(at_ms, amount.map_or(0, |amount| amount.minor()));
        series.changed = true;
        if let Some(mark) = item.seen {
            rows.seen.entry(mark).or_insert(Cell { value: (), changed: true });
        }
    }
}

/// Would so much more take the account above the cap of its mandate? What was given back may have been spent on something
/// else meanwhile. Of a mandate that was not issued here no claims are known, and so no cap.
///
/// INVARIANT (overage): nothing stands above a cap without an overage that says so.
pub(crate) fn is_above_cap(account: &Account, claims: Option<&[u8]>, more: i64) -> Result<bool, Error> {
    let Some(claims) = claims else { return Ok(false) };
    let unreadable = || Error::Corrupt(format!("the claims of mandate `{}`", account.jti).into());
    let claims: Claims = serde_json::from_slice(claims).map_err(|_| unreadable())?;
    let cap = claims.spend_cap.map(|cap| cap.money()).transpose().map_err(|_| unreadable())?;
    Ok(cap.is_some_and(|cap| account.spent_minor.saturating_add(more) > cap.minor()))
}

/// The account after what was really spent is known. More than was reserved freezes it also where more had been debited.
pub(crate) fn corrected(account: &Account, difference: i64, freeze: bool) -> Account {
    match difference {
        ..0 if freeze => account.credit(difference.saturating_neg()).overrun(0),
        ..0 => account.credit(difference.saturating_neg()),
        _ if freeze => account.overrun(difference),
        _ => Account { spent_minor: account.spent_minor.saturating_add(difference), ..account.clone() },
    }
}

impl Rows {
    /// The session that the item stopped, and nothing before it had.
    pub(crate) fn stopped_by(&self, item: &Item) -> Option<i64> {
        item.session.filter(|key| self.stopped.get(key) == Some(&item.intent.id))
    }

    /// The account of a mandate; zeros if it was never used.
    pub(crate) fn account(&mut self, key: i64, jti: &str) -> &mut Cell<Account> {
        self.accounts.entry(key).or_insert_with(|| Cell::stored(Account::new(jti)))
    }
}

impl Footing {
    /// Does it stand where it was to go on from?
    fn bears(self, basis: Basis, to_send: bool) -> bool {
        match basis {
            // Nobody agreed to it, so it is not sent.
            Basis::Held { round } => !to_send && self.state == State::Held && self.round == round,
            Basis::Approved { round } => self.state == State::Approved && self.round == round,
            Basis::Sent { token } => self.state.may_be_sent_again() && self.token == token,
            // Another attempt waits for nobody.
            Basis::Failed { token } => to_send && self.state == State::Failed && self.token == token,
        }
    }
}

impl Claimed {
    fn seen_by(&self, intent: &Intent) -> Existing {
        Existing {
            id: self.id,
            same_request: self.request_hash == intent.request_hash,
            state: self.state,
            at_ms: self.at_ms,
            reply: None,
            altered: false,
        }
    }
}
