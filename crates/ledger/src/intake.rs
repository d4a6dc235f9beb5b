//! What is handed in to be remembered.

use std::collections::BTreeSet;
use std::sync::Arc;

use action::{ActionId, Environment, Money, Subject, Tenant};
use mandate::{Account, ApprovedLimits, Limits, ResourceEnvelope, Usage};
use sha2::{Digest, Sha256};

use crate::told::{Sums, Told};
use crate::{Cycle, Draft, Error, Event, Labels, State, identity};

/// What every action's row says, whatever becomes of it.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Ours; sorts by time.
    pub id: ActionId,
    /// Whose row it is.
    pub tenant: Tenant,
    /// Real or pretended.
    pub environment: Environment,
    /// Who asks.
    pub subject: Subject,
    /// The client's key, claimed within (tenant, environment, subject).
    pub key: Option<Box<str>>,
    /// HMAC over the request; a repeated key with another hash is another request.
    pub request_hash: [u8; 32],
    /// What kind of action.
    pub archetype: Arc<str>,
    /// The provider it goes to; a freeze may name it.
    pub provider: Option<Arc<str>>,
    /// Root of the mandate's chain, or the subject where there is no mandate.
    pub principal: Arc<str>,
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// What is at stake and is debited from each mandate; `None` where there is no money.
    pub amount: Option<Money>,
    /// What else is debited from each mandate; zeros outside of sessions.
    pub usage: Usage,
    /// What its entries are found by. It outlives the payload.
    pub labels: Labels,
    /// Whatever is needed to resume, show or replay the action. Erasable.
    pub payload: Vec<u8>,
    /// It is erased by itself so long after it is settled, in milliseconds. Of an action whose row is there already this
    /// is not read.
    pub erased_after_ms: Option<i64>,
    /// The ledger entry that goes with this row.
    pub entry: Draft,
}

/// Commit 1: may this action be sent, and if so it is written down as sent.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The row.
    pub intent: Intent,
    /// `Some` when the action waits for people: nothing is debited and no cap is checked, because all is judged again
    /// when it resumes.
    pub hold: Option<Hold>,
    /// The mandate and every ancestor, leaf first. All are debited or none.
    pub debits: Vec<Debit>,
    /// What must not happen twice by accident.
    pub effect: Option<Effect>,
    /// Remembered, so that the next action to it is not the first.
    pub destination: Option<Box<str>>,
    /// The session it is a cycle of. Of an action whose row is there already this is not read.
    pub cycle: Option<Cycle>,
    /// Until when whoever sends it is at it, milliseconds since 1970, UTC: before that nobody takes it over.
    pub lease_ms: i64,
}

/// How an action waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it expires, milliseconds since 1970, UTC.
    pub until_ms: i64,
    /// How many people have to agree.
    pub needed: u32,
    /// So many actions of one agent may wait at once. What waited already and is held once more does not ask.
    pub most: u32,
}

/// The admission of an action whose row is there already. What the admission says of key, request and tenant is not
/// read.
#[derive(Clone, Debug)]
pub struct Resumption {
    /// The row as it is to be from now on, and everything that must not race.
    pub admission: Admission,
    /// What it goes on from.
    pub from: Basis,
    /// So much of what is set aside for it is charged; `None`: all that is at stake moves.
    pub charges: Option<Money>,
}

/// What an action goes on from. The token says that nobody else went on with it meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// It waits in this hold and nobody else has decided: it may only be made to wait once more, under other rules than
    /// before. What people said so far is of the hold before.
    Held {
        /// Which of its holds.
        round: u32,
    },
    /// People agreed to this hold: nothing was sent and nothing debited. A hold in the admission makes it wait once
    /// more, for other reasons than before.
    Approved {
        /// Which of its holds.
        round: u32,
    },
    /// It was sent before, and its debits and claims stand: only freezes and mandates are looked at again. What waits
    /// or is reserved is sent from now on; what is in doubt stays so.
    Sent {
        /// See [`Stored::token`](crate::Stored).
        token: u32,
    },
    /// It had failed, and its debits and claims were given up: all of it is claimed and debited anew.
    Failed {
        /// See [`Stored::token`](crate::Stored).
        token: u32,
    },
}

/// An action rests until it is due: for its next attempt, because the one before is known to have had no effect, for
/// the next step of undoing its effect, for the end of what is reserved for it, or for its payer's answer. What its caller
/// was told before it was reserved, or its payer asked, is void.
#[derive(Clone, Debug)]
pub struct Deferral {
    /// Which action.
    pub action: ActionId,
    /// One in which it rests.
    pub state: State,
    /// Who says so.
    pub by: By,
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// When it is due.
    pub due_ms: i64,
    /// The payload of its intent from now on: what was done is told of in it.
    pub payload: Vec<u8>,
    /// The ledger entry.
    pub entry: Draft,
}

/// Whose word on an action it is. Fencing: each time somebody else takes an action in hand, or people say something of one that
/// waits, its token rises, and the word of whoever had it before is refused from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whoever holds this token.
    Holder(u32),
    /// The same, who says that it is in doubt while the call is still on its way: the lease stands, since that can land yet.
    Caller(u32),
    /// Whoever takes over what was marked sent with this token, once its lease is over: it becomes in doubt.
    Heir(u32),
    /// A person who says what became of it, having seen it with this token, at a process that has nothing of it in flight itself.
    /// What another process may be at is not overtaken.
    Person(u32),
}

impl By {
    /// The token that it was seen with.
    #[must_use]
    pub const fn token(self) -> u32 {
        match self {
            By::Holder(token) | By::Caller(token) | By::Heir(token) | By::Person(token) => token,
        }
    }
}

/// A person's word on a held action.
#[derive(Clone, Debug)]
pub struct Approval {
    /// Which action.
    pub action: ActionId,
    /// Which of its holds, counted from 1.
    pub round: u32,
    /// Who says it; each person once for each hold.
    pub approver: Subject,
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// What was said, canonical; its SHA-256 stands in the entry as `actionHash`. Holds a secret salt, so that the
    /// entry tells nothing once the record is gone. Erasable.
    pub record: Vec<u8>,
    /// The ledger entry; event and hash are set here.
    pub entry: Draft,
    /// The entry's state if this is the last approval that was needed.
    pub state_if_last: &'static str,
    /// How far a yes goes for the rest of the action's session: that is lowered in the same commit, which records it.
    pub limits: Option<ApprovedLimits>,
}

/// More time for a mandate.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Whose.
    pub tenant: Tenant,
    /// Which mandate.
    pub jti: Box<str>,
    /// What its account is measured against.
    pub limits: Limits,
    /// The mandates that it descends from, each with what its account is measured against.
    pub above: Vec<(Box<str>, Limits)>,
    /// How much more.
    pub seconds: u64,
    /// What had been granted when it was judged; if that is something else now it is judged anew ([`Error::Changed`]). `None` if
    /// nothing was judged by it.
    pub judged: Option<i64>,
    /// The entry that says so.
    pub event: Event,
    /// The person's word on each held action that waits for it: these are to be judged again.
    pub words: Vec<Approval>,
}

/// A mandate, and what its account is measured against.
#[derive(Clone, Debug)]
pub struct Link {
    /// Which mandate.
    pub jti: Arc<str>,
    /// Its limits.
    pub limits: Limits,
}

/// One mandate that an admission draws on, as the judge saw it.
#[derive(Clone, Debug)]
pub struct Debit {
    /// Which mandate.
    pub link: Link,
    /// The account's epoch when the action was judged; another one now means that it must be judged anew.
    pub epoch: u64,
    /// Its account, where what was judged rests on how that stood: another one now means the same.
    pub seen: Option<Account>,
}

/// A claim on an effect.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// HMAC over what identifies the effect.
    pub hash: [u8; 32],
    /// How far back an equal effect counts, in milliseconds.
    pub window_ms: i64,
    /// Which equal effect of late is no obstacle.
    pub tolerate: Tolerance,
}

/// Which earlier action with the same effect does not stand in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// None: the usual.
    Nothing,
    /// Exactly this one, which the caller says it repeats. If another came in between, that one stands in the way.
    This(ActionId),
    /// Any: the archetype allows it, the tenant is only observed, or the action waits for a person anyway.
    Anything,
}

/// The single commit of an action that was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The row. Its `entry` is not written; the outcome's is.
    pub intent: Intent,
    /// Equal refusals of the last minute are found by this and the request hash: code, reasons, and what else makes it the same.
    pub why: Box<str>,
    /// The session it would have been a cycle of.
    pub cycle: Option<Cycle>,
    /// The final word; its state is [`State::Refused`] or [`State::Failed`].
    pub outcome: Outcome,
    /// It is the last cycle of its session: the record that says why, written right after the outcome and caused by it. The
    /// same commit stops the session.
    pub halts: Option<Event>,
}

/// Commit 2: what became of an action.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which action.
    pub action: ActionId,
    /// Who says so.
    pub by: By,
    /// What became of it.
    pub outcome: Outcome,
    /// What was really spent, in minor units: every mandate of the chain is corrected by the difference. `None`
    /// keeps what was debited, as doubt does; zero releases it.
    pub charged: Option<i64>,
    /// What was really used: every mandate of the chain is corrected by the difference. `None` keeps what was debited.
    pub used: Option<Used>,
    /// More was charged than reserved, or than a mandate had left: the amendment that says so, written right after the
    /// outcome. Every mandate of the chain is frozen with it. Whether they have so much left is known in the commit, which
    /// refuses what takes more and brings none, see [`Error::AboveCap`].
    pub overage: Option<Outcome>,
    /// As [`Refusal::halts`].
    pub halts: Option<Event>,
    /// Its receipt is the first of the action. Where that has one by now, which whoever made this had not read, it is
    /// [`Error::Fenced`].
    pub original: bool,
}

impl Settlement {
    /// What leaves debits, usage and session as they are, and is no first word.
    #[must_use]
    pub fn of(action: ActionId, by: By, outcome: Outcome) -> Settlement {
        let (charged, used, overage, halts, original) = (None, None, None, None, false);
        Settlement { action, by, outcome, charged, used, overage, halts, original }
    }
}

/// What an action of a session really used.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// So much. What is said after the last word gives nothing back.
    pub usage: Usage,
    /// By another effect of the action than those that were counted: it is added to these.
    pub beside: bool,
    /// What mandates of the chain allow, by `jti`. Of each that has less, the session has a record, written right after the
    /// outcome and caused by it.
    pub envelopes: Vec<(Box<str>, ResourceEnvelope)>,
}

/// A state reached, and what is shown for it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// The state reached.
    pub state: State,
    /// What the caller is answered from now on; `None` leaves the earlier answer standing.
    pub reply: Option<Reply>,
    /// The receipt, if this outcome has one.
    pub receipt: Option<Receipt>,
    /// Answer of the provider, salts and the like. Erasable.
    pub payload: Vec<u8>,
    /// The ledger entry; what it names, and the receipt's hash, are added to it here.
    pub entry: Draft,
}

/// An answer, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body as sent.
    pub body: Vec<u8>,
}

/// A signed receipt and the ways to find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// `receiptId`.
    pub id: Box<str>,
    /// First 12 characters of base64url(SHA-256(signed bytes)).
    pub short: Box<str>,
    /// `signature.value`.
    pub signature: Box<str>,
    /// The document as handed out.
    pub document: Vec<u8>,
}

/// What is computed from an outcome before it comes to the one writer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Digests {
    /// Of what is kept beside the receipt.
    pub(crate) sums: Sums,
    /// SHA-256 of the receipt document, as the ledger entry names it.
    pub(crate) receipt: Option<[u8; 32]>,
    /// Index numbers of the receipt's addresses.
    pub(crate) addresses: [i64; 2],
}

/// A settlement or amendment, with what was computed before it came to the one writer.
#[derive(Clone, Debug)]
pub(crate) struct Close {
    pub(crate) settlement: Settlement,
    pub(crate) digests: Digests,
    pub(crate) overage: Option<Digests>,
    pub(crate) amends: bool,
}

impl Close {
    pub(crate) fn new(settlement: Settlement, amends: bool) -> Close {
        let digests = settlement.outcome.digests();
        let overage = settlement.overage.as_ref().map(Outcome::digests);
        Close { settlement, digests, overage, amends }
    }
}

impl Used {
    /// What the action used as far as is known by now.
    pub(crate) fn measured(&self, debited: &Usage, amends: bool) -> Usage {
        match (self.beside, amends) {
            (true, _) => self.usage.and(debited),
            (false, true) => self.usage.at_least(debited),
            (false, false) => self.usage,
        }
    }
}

impl Settlement {
    /// May it be written about an action that is in this state, and by them?
    pub(crate) fn check(
        &self,
        from: State,
        lease: &Lease,
        owners: &Owners,
        amends: bool,
    ) -> Result<(), Error> {
        let (id, to) = (self.action, self.outcome.state);
        if matches!(self.by, By::Heir(_) | By::Caller(_)) && (from, to) != (State::Sent, State::InDoubt) {
            return Err(Error::Illegal { id, from, to });
        }
        self.by.check(id, lease, owners, self.outcome.at_ms)?;
        if !(if amends { from.may_amend(to) } else { from.may_settle(to) }) {
            return Err(Error::Illegal { id, from, to });
        }
        match &self.overage {
            // Only what was done can have cost too much.
            Some(overage)
                if overage.state != to
                    || !(matches!(to, State::Executed | State::RollingBack) || stays(from, to, amends)) =>
            {
                Err(Error::Illegal { id, from: to, to: overage.state })
            }
            _ => Ok(()),
        }
    }

    /// What is left of the lease once this was said. What comes beside a call, or while it is on its way, ends no lease; but whoever
    /// has the call in hand has to look again before they say what came of it, and what is reserved beside it is due at once. So is
    /// what comes so late that it is to be undone.
    pub(crate) fn leaves(&self, from: State, lease: Lease, amends: bool) -> Lease {
        if let By::Caller(_) = self.by {
            return lease;
        }
        if (from, self.outcome.state) == (State::Failed, State::RollingBack) {
            return Lease { until_ms: Some(self.outcome.at_ms), ..lease.after(self.by, State::RollingBack) };
        }
        if !stays(from, self.outcome.state, amends) {
            let after = lease.after(self.by, self.outcome.state);
            // Who read it before that was said does not say it as well.
            let is_told = from == self.outcome.state && matches!(from, State::Waiting | State::Checking);
            return Lease { token: after.token.saturating_add(u32::from(is_told)), ..after };
        }
        let until_ms = if from == State::Reserved { Some(self.outcome.at_ms) } else { lease.until_ms };
        Lease { token: lease.token.saturating_add(1), until_ms, ..lease }
    }
}

fn stays(from: State, to: State, amends: bool) -> bool {
    amends && from == to
}

/// Which process of a store: numbers rise.
pub(crate) type Process = i64;

/// Which processes may still be at what they have in hand.
#[derive(Clone, Debug)]
pub(crate) enum Owners {
    /// Of a store of one process: every earlier one is gone.
    Only(Process),
    /// Of a store of many, as this one of them sees it: those that nobody knows to be gone, and the time by a clock that is
    /// nobody's of them.
    Living { own: Process, processes: BTreeSet<Process>, now_ms: i64 },
}

impl Owners {
    fn may_be_at_it(&self, owner: Process) -> bool {
        match self {
            Owners::Only(process) => *process == owner,
            Owners::Living { processes, .. } => processes.contains(&owner),
        }
    }

    /// The same of any other process than this one.
    fn another_may_be_at_it(&self, owner: Process) -> bool {
        let (Owners::Only(own) | Owners::Living { own, .. }) = self;
        owner != *own && self.may_be_at_it(owner)
    }

    /// What time it is at least, where whoever asks says so: a lease is over by both clocks.
    fn surely(&self, said_ms: i64) -> i64 {
        match self {
            Owners::Only(_) => said_ms,
            Owners::Living { now_ms, .. } => said_ms.min(*now_ms),
        }
    }
}

/// Who is at an action that is marked sent, and how often it changed hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) token: u32,
    pub(crate) owner: Option<Process>,
    /// The end of the lease, or the time at which what waits is due.
    pub(crate) until_ms: Option<i64>,
}

impl Lease {
    /// The lease of whoever admits an action.
    pub(crate) fn first(sent: bool, owner: Process, until_ms: i64) -> Lease {
        Lease { token: 0, owner: None, until_ms: None }.taken(sent, owner, until_ms)
    }

    /// The lease of whoever takes it in hand now; nobody's, if it is not sent.
    pub(crate) fn taken(self, sent: bool, owner: Process, until_ms: i64) -> Lease {
        let token = self.token.saturating_add(1);
        Lease { token, owner: sent.then_some(owner), until_ms: sent.then_some(until_ms) }
    }

    /// The lease of what people said something about: whoever ends it has to look again, so that the receipt tells of that.
    pub(crate) fn heard(self) -> Lease {
        Lease { token: self.token.saturating_add(1), ..self }
    }

    /// What is left of it once whoever sent the action has nothing of it on its way any more; nothing, if somebody else has it, or
    /// nobody.
    pub(crate) fn let_go(self, owner: Process, token: u32) -> Option<Lease> {
        let is_theirs = self.owner == Some(owner) && self.token == token;
        is_theirs.then_some(Lease { owner: None, until_ms: None, ..self })
    }

    /// What is left of it once this was said.
    pub(crate) fn after(self, by: By, state: State) -> Lease {
        let token = self.token.saturating_add(u32::from(matches!(by, By::Heir(_))));
        let until_ms = self.until_ms.filter(|_| state.rests());
        Lease { token, owner: None, until_ms }
    }

    /// What is left of it while the action rests. Each attempt, and each step of undoing it or of setting free what is reserved, is
    /// taken in hand anew: who read it before does not go on with it.
    pub(crate) fn deferred(self, state: State, due_ms: i64) -> Lease {
        let anew = state.is_being_undone() || matches!(state, State::Reserved | State::Waiting);
        let token = self.token.saturating_add(u32::from(anew));
        Lease { token, owner: None, until_ms: Some(due_ms) }
    }
}

impl By {
    /// INVARIANT (fencing): nobody's word is taken on what somebody else has in hand.
    pub(crate) fn check(self, id: ActionId, lease: &Lease, owners: &Owners, at_ms: i64) -> Result<(), Error> {
        let is_at_it = |owner| match self {
            By::Holder(_) | By::Caller(_) => false,
            By::Heir(_) => owners.may_be_at_it(owner),
            By::Person(_) => owners.another_may_be_at_it(owner),
        };
        let runs = lease.until_ms.is_some_and(|until| until > owners.surely(at_ms));
        match self.token() == lease.token {
            false => Err(Error::Fenced(id)),
            true if runs && lease.owner.is_some_and(is_at_it) => Err(Error::Leased(id)),
            true => Ok(()),
        }
    }
}

impl Deferral {
    /// May it be written about an action that is in this state, and by them?
    pub(crate) fn check(&self, from: State, lease: &Lease, owners: &Owners) -> Result<(), Error> {
        let (id, to) = (self.action, self.state);
        let may = matches!(self.by, By::Holder(_) | By::Person(_)) && from.may_defer(to);
        match self.by.check(id, lease, owners, self.at_ms) {
            Ok(()) if !may => Err(Error::Illegal { id, from, to }),
            checked => checked,
        }
    }
}

impl Approval {
    /// The entry that goes with it.
    pub(crate) fn draft(&self, event: &'static str, last: bool) -> Draft {
        let state = if last { Some(self.state_if_last) } else { self.entry.state };
        Draft { event, state, action_hash: Some(Sha256::digest(&self.record).into()), ..self.entry.clone() }
    }
}

impl Outcome {
    pub(crate) fn digests(&self) -> Digests {
        let sums = Sums::of(&self.payload, self.reply.as_ref());
        let nothing = Digests { sums, ..Digests::default() };
        self.receipt.as_ref().map_or(nothing, |receipt| Digests {
            sums,
            receipt: Some(Sha256::digest(&receipt.document).into()),
            addresses: [&receipt.short, &receipt.signature].map(|text| identity::address(text)),
        })
    }

    /// Its entry, after the outcome whose entry names that.
    pub(crate) fn draft(&self, sums: Sums, previous: Option<[u8; 32]>) -> Result<Draft, serde_json::Error> {
        let receipt_id = self.receipt.as_ref().map(|receipt| &*receipt.id);
        let told = Told { at_ms: self.at_ms, state: self.state, receipt_id, sums, previous };
        Ok(Draft { action_hash: Some(told.name()?), ..self.entry.clone() })
    }
}
