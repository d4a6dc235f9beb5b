//! The books: who has how much, what was paid, which keys are remembered.
//!
//! One value behind one lock. Looking a key up, moving the money and counting the effect happen in
//! one call, so the counts are exact however many requests arrive at once.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::holds::{Held, Holds, Status};
use super::journal::{Effect, Journal};

/// The account every payment is made from.
pub const OPERATING: &str = "operating";

/// Every effect a bank has had, counted for tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// Payments that moved money.
    pub count: u64,
    /// How many of them carried each reference; those without one are not listed.
    pub by_reference: BTreeMap<String, u64>,
    /// How many of them carried each idempotency key; those without one are not listed.
    pub by_key: BTreeMap<String, u64>,
}

/// A well-formed request to pay, in minor units of the bank's currency.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) recipient: String,
    pub(super) minor: i64,
    pub(super) reference: Option<String>,
    pub(super) note: Option<String>,
}

/// A payment that moved money.
#[derive(Clone)]
pub(super) struct Payment {
    pub(super) id: String,
    pub(super) order: Order,
}

/// What came of an order.
pub(super) enum Paid {
    /// Money moved now.
    Settled(Payment),
    /// The key was remembered: this is what it did then.
    Replayed(Payment),
    /// The payer has to confirm it, or had to.
    Challenged(Waiting),
    /// Less on the operating account than asked for.
    InsufficientFunds,
    /// The key is remembered for another order.
    KeyReused,
    /// The journal could not be written, so nothing moved.
    JournalFailed,
}

pub(super) struct Books {
    retention: Option<Duration>,
    currency: String,
    journal: Option<Journal>,
    balances: HashMap<String, i64>,
    payments: Vec<Payment>,
    by_id: HashMap<String, usize>,
    by_reference: HashMap<String, Vec<usize>>,
    by_key: HashMap<String, u64>,
    remembered: HashMap<String, Remembered>,
    refunds: HashMap<usize, Refund>,
    payers: Option<(i64, Duration)>,
    /// What was ever to be confirmed by a payer, oldest first.
    waiting: Vec<Waiting>,
    holds: Holds,
}

/// What came of a wish to pay out what is set aside.
pub(super) enum Captured {
    /// It was paid, or could not be.
    Paid(Paid),
    /// More than is set aside.
    TooMuch,
    /// It was paid out or set free before, or its time is over.
    Gone(Status),
    /// There is no such reservation.
    NoSuchHold,
}

/// A payment that its payer has to confirm.
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) id: String,
    pub(super) order: Order,
    key: Option<String>,
    until: Instant,
    said: Said,
}

/// What its payer said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Yes,
    No,
    Expired,
}

/// What a payer's answer came to.
pub(super) enum Settled {
    Paid(Payment),
    Declined(Order),
    /// It was answered before, or the time is over, or there is not enough money.
    Over,
}

impl Waiting {
    pub(super) fn status(&self) -> &'static str {
        match self.said {
            Said::Nothing => "awaiting_payer",
            Said::Yes => "settled",
            Said::No => "declined",
            Said::Expired => "expired",
        }
    }
}

/// What gave a payment back.
#[derive(Clone)]
pub(super) struct Refund {
    pub(super) id: String,
    pub(super) key: Option<String>,
    /// Under how many keys it was asked for.
    asked: u64,
}

/// What came of a wish to have a payment given back.
pub(super) enum Refunded {
    /// Money moved back now.
    Settled(Refund),
    /// The same key did so before.
    Replayed(Refund),
    /// Another one did.
    Already,
    /// There is no such payment.
    NoSuchPayment,
}

struct Remembered {
    payment: usize,
    since: Instant,
}

impl Books {
    /// Opens the books with everything on the operating account.
    pub(super) fn open(
        opening_minor: i64,
        currency: String,
        retention: Option<Duration>,
        payers: Option<(i64, Duration)>,
        holds: Holds,
        journal: Option<Journal>,
    ) -> Books {
        Books {
            retention,
            currency,
            journal,
            balances: HashMap::from([(OPERATING.to_owned(), opening_minor)]),
            payments: Vec::new(),
            by_id: HashMap::new(),
            by_reference: HashMap::new(),
            by_key: HashMap::new(),
            remembered: HashMap::new(),
            refunds: HashMap::new(),
            payers,
            waiting: Vec::new(),
            holds,
        }
    }

    pub(super) fn holds(&mut self) -> &mut Holds {
        &mut self.holds
    }

    /// Sets money aside, so that nothing else can be paid with it.
    pub(super) fn reserve(&mut self, order: Order, key: Option<&str>) -> Held {
        let available = self.available();
        self.holds.reserve(order, key, available)
    }

    /// Pays out what is set aside, or a part of it, once.
    pub(super) fn capture(
        &mut self,
        id: &str,
        (minor, reference): (i64, Option<String>),
        key: Option<&str>,
        now: Instant,
    ) -> Captured {
        let Some(hold) = self.holds.find(id) else { return Captured::NoSuchHold };
        let order = Order { minor, reference, ..hold.order.clone() };
        let known = key.is_some_and(|key| self.recall(key, now).is_some());
        match hold.status {
            _ if known => {}
            Status::Reserved if minor > hold.order.minor => return Captured::TooMuch,
            Status::Reserved => self.holds.captured(id),
            gone => return Captured::Gone(gone),
        }
        Captured::Paid(self.pay(order, key, now))
    }

    /// What is on the operating account and not set aside.
    fn available(&mut self) -> i64 {
        self.balance(OPERATING).unwrap_or(0) - self.holds.sum()
    }

    /// Moves the money of a payment back, once.
    pub(super) fn refund(&mut self, payment: &str, key: Option<&str>) -> Refunded {
        let Some(&at) = self.by_id.get(payment) else { return Refunded::NoSuchPayment };
        if let Some(earlier) = self.refunds.get_mut(&at) {
            let same = key.is_some() && earlier.key.as_deref() == key;
            earlier.asked += u64::from(!same);
            return if same { Refunded::Replayed(earlier.clone()) } else { Refunded::Already };
        }
        let order = self.payments[at].order.clone();
        *self.balances.entry(OPERATING.to_owned()).or_default() += order.minor;
        *self.balances.entry(order.recipient).or_default() -= order.minor;
        let refund =
            Refund { id: format!("ref_{}", Uuid::now_v7().simple()), key: key.map(str::to_owned), asked: 1 };
        self.refunds.insert(at, refund.clone());
        Refunded::Settled(refund)
    }

    /// Under how many keys each payment was asked back, by its reference.
    pub(super) fn asked_back(&self) -> BTreeMap<String, u64> {
        let refunds = self.refunds.iter();
        refunds.filter_map(|(at, it)| Some((self.payments[*at].order.reference.clone()?, it.asked))).collect()
    }

    /// How many payments were given back.
    pub(super) fn refunds(&self) -> u64 {
        self.refunds.len() as u64
    }

    /// Moves the money, unless the key already did or there is not enough of it.
    ///
    /// Only settled payments are remembered: a refusal had no effect, so the same key may try again.
    pub(super) fn pay(&mut self, order: Order, key: Option<&str>, now: Instant) -> Paid {
        if let Some(earlier) = key.and_then(|key| self.recall(key, now)) {
            return if earlier.order == order { Paid::Replayed(earlier.clone()) } else { Paid::KeyReused };
        }
        let asked = self.waiting.iter().find(|waiting| key.is_some() && waiting.key.as_deref() == key);
        if let Some(waiting) = asked.filter(|_| self.retention.is_some()) {
            return if waiting.order == order { Paid::Challenged(waiting.clone()) } else { Paid::KeyReused };
        }
        if self.available() < order.minor {
            return Paid::InsufficientFunds;
        }
        if let Some((_, patience)) = self.payers.filter(|(above, _)| order.minor > *above) {
            let (id, key) = (format!("pay_{}", Uuid::now_v7().simple()), key.map(str::to_owned));
            let waiting = Waiting { id, order, key, until: now + patience, said: Said::Nothing };
            self.waiting.push(waiting.clone());
            return Paid::Challenged(waiting);
        }
        let payment = Payment { id: format!("pay_{}", Uuid::now_v7().simple()), order };
        if !self.journal(&payment, key) {
            return Paid::JournalFailed;
        }
        self.record(payment.clone(), key, now);
        Paid::Settled(payment)
    }

    /// A payment that waits for its payer, or did.
    pub(super) fn awaited(&mut self, id: &str, now: Instant) -> Option<&mut Waiting> {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.id == id)?;
        if waiting.said == Said::Nothing && now >= waiting.until {
            waiting.said = Said::Expired;
        }
        Some(waiting)
    }

    /// The payer says yes: now the money moves.
    pub(super) fn confirm(&mut self, id: &str, now: Instant) -> Settled {
        let Some(Waiting { id, order, key, .. }) = self.unanswered(id, now) else { return Settled::Over };
        let payment = Payment { id: id.clone(), order };
        let poor = self.balance(OPERATING).unwrap_or(0) < payment.order.minor;
        if poor || !self.journal(&payment, key.as_deref()) {
            return Settled::Over;
        }
        self.record(payment.clone(), key.as_deref(), now);
        self.say(&id, Said::Yes, now);
        Settled::Paid(payment)
    }

    pub(super) fn decline(&mut self, id: &str, now: Instant) -> Settled {
        let Some(waiting) = self.unanswered(id, now) else { return Settled::Over };
        self.say(id, Said::No, now);
        Settled::Declined(waiting.order)
    }

    fn unanswered(&mut self, id: &str, now: Instant) -> Option<Waiting> {
        self.awaited(id, now).filter(|waiting| waiting.said == Said::Nothing).map(|waiting| waiting.clone())
    }

    fn say(&mut self, id: &str, said: Said, now: Instant) {
        if let Some(waiting) = self.awaited(id, now) {
            waiting.said = said;
        }
    }

    pub(super) fn all_awaited(&self) -> Vec<String> {
        let open = self.waiting.iter().filter(|waiting| waiting.said == Said::Nothing);
        open.map(|waiting| waiting.id.clone()).collect()
    }

    /// Those of a reference that moved no money: yet, or at all.
    pub(super) fn unpaid_with(&mut self, reference: &str, now: Instant) -> Vec<Waiting> {
        let of_it = |waiting: &&Waiting| waiting.order.reference.as_deref() == Some(reference);
        let ids: Vec<String> = self.waiting.iter().filter(of_it).map(|waiting| waiting.id.clone()).collect();
        let found = ids.iter().filter_map(|id| self.awaited(id, now).map(|waiting| waiting.clone()));
        found.filter(|waiting| waiting.said != Said::Yes).collect()
    }

    pub(super) fn balance(&self, account: &str) -> Option<i64> {
        self.balances.get(account).copied()
    }

    pub(super) fn payment(&self, id: &str) -> Option<&Payment> {
        self.by_id.get(id).map(|&at| &self.payments[at])
    }

    pub(super) fn payments_with(&self, reference: &str) -> impl Iterator<Item = &Payment> {
        self.by_reference.get(reference).into_iter().flatten().map(|&at| &self.payments[at])
    }

    pub(super) fn effects(&self) -> Effects {
        Effects {
            count: self.payments.len() as u64,
            by_reference: self.by_reference.iter().map(|(k, at)| (k.clone(), at.len() as u64)).collect(),
            by_key: self.by_key.iter().map(|(k, n)| (k.clone(), *n)).collect(),
        }
    }

    /// How much was paid under each reference.
    pub(super) fn paid(&self) -> BTreeMap<String, i64> {
        let sum = |at: &Vec<usize>| at.iter().map(|at| self.payments[*at].order.minor).sum();
        self.by_reference.iter().map(|(reference, at)| (reference.clone(), sum(at))).collect()
    }

    /// The payment a key made, while the key is remembered.
    fn recall(&self, key: &str, now: Instant) -> Option<&Payment> {
        let retention = self.retention?;
        let kept = self.remembered.get(key)?;
        (now.duration_since(kept.since) < retention).then(|| &self.payments[kept.payment])
    }

    /// Makes the effect countable from outside before it exists inside; true without a journal.
    fn journal(&mut self, payment: &Payment, key: Option<&str>) -> bool {
        let Some(journal) = &mut self.journal else { return true };
        let effect = Effect {
            payment_id: payment.id.clone(),
            reference: payment.order.reference.clone(),
            key: key.map(str::to_owned),
            recipient: payment.order.recipient.clone(),
            amount_minor: payment.order.minor,
            currency: self.currency.clone(),
        };
        journal.append(&effect).is_ok()
    }

    fn record(&mut self, payment: Payment, key: Option<&str>, now: Instant) {
        let at = self.payments.len();
        let order = &payment.order;
        // The sum over all accounts never changes, so neither side can overflow.
        *self.balances.entry(OPERATING.to_owned()).or_default() -= order.minor;
        *self.balances.entry(order.recipient.clone()).or_default() += order.minor;
        if let Some(reference) = &order.reference {
            self.by_reference.entry(reference.clone()).or_default().push(at);
        }
        if let Some(key) = key {
            *self.by_key.entry(key.to_owned()).or_default() += 1;
            self.remembered.insert(key.to_owned(), Remembered { payment: at, since: now });
        }
        self.by_id.insert(payment.id.clone(), at);
        self.payments.push(payment);
    }
}
