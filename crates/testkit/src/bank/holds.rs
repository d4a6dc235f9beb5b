//! Reservations: money that is set aside until it is paid out, set free, or its time is over.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::books::Order;

/// Money that was set aside.
#[derive(Clone)]
pub(super) struct Hold {
    pub(super) id: String,
    pub(super) order: Order,
    pub(super) status: Status,
    pub(super) expires: SystemTime,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Reserved,
    Captured,
    Released,
    Expired,
}

/// What came of a wish to set money aside.
pub(super) enum Held {
    /// It is set aside now.
    Settled(Hold),
    /// The key did so before.
    Replayed(Hold),
    InsufficientFunds,
    /// The key is remembered for another order.
    KeyReused,
}

/// What came of a wish to set it free.
pub(super) enum Freed {
    /// It is free now.
    Settled(Hold),
    /// The same key did so before.
    Replayed(Hold),
    /// It was paid out.
    Captured,
    /// It was set free by somebody else, or its time is over.
    Gone,
    NoSuchHold,
}

pub(super) struct Holds {
    lifetime: Duration,
    /// What is over is free by itself.
    end: bool,
    all: Vec<Hold>,
    by_key: HashMap<String, usize>,
    freed_by: HashMap<usize, String>,
}

impl Holds {
    pub(super) fn open(lifetime: Duration, end: bool) -> Holds {
        Holds { lifetime, end, all: Vec::new(), by_key: HashMap::new(), freed_by: HashMap::new() }
    }

    /// Sets money aside, unless the key already did or there is not enough.
    pub(super) fn reserve(&mut self, order: Order, key: Option<&str>, available: i64) -> Held {
        if let Some(at) = key.and_then(|key| self.by_key.get(key)) {
            let earlier = self.all[*at].clone();
            return if earlier.order == order { Held::Replayed(earlier) } else { Held::KeyReused };
        }
        if available < order.minor {
            return Held::InsufficientFunds;
        }
        let id = format!("res_{}", Uuid::now_v7().simple());
        let made = Hold { id, order, status: Status::Reserved, expires: SystemTime::now() + self.lifetime };
        if let Some(key) = key {
            self.by_key.insert(key.to_owned(), self.all.len());
        }
        self.all.push(made.clone());
        Held::Settled(made)
    }

    /// Sets it free, once.
    pub(super) fn release(&mut self, id: &str, key: Option<&str>) -> Freed {
        let Some(at) = self.all.iter().position(|hold| hold.id == id) else { return Freed::NoSuchHold };
        let status = self.look(at).status;
        match status {
            Status::Reserved => {
                self.all[at].status = Status::Released;
                self.freed_by.extend(key.map(|key| (at, key.to_owned())));
                Freed::Settled(self.all[at].clone())
            }
            Status::Captured => Freed::Captured,
            _ if key.is_some() && self.freed_by.get(&at).map(String::as_str) == key => {
                Freed::Replayed(self.all[at].clone())
            }
            Status::Released | Status::Expired => Freed::Gone,
        }
    }

    /// The one of this id, as it stands now.
    pub(super) fn find(&mut self, id: &str) -> Option<Hold> {
        let at = self.all.iter().position(|hold| hold.id == id)?;
        Some(self.look(at).clone())
    }

    /// Those of this reference, as they stand now.
    pub(super) fn with(&mut self, reference: &str) -> Vec<Hold> {
        let of = |hold: &Hold| hold.order.reference.as_deref() == Some(reference);
        let found: Vec<usize> = (0..self.all.len()).filter(|at| of(&self.all[*at])).collect();
        found.into_iter().map(|at| self.look(at).clone()).collect()
    }

    pub(super) fn captured(&mut self, id: &str) {
        if let Some(hold) = self.all.iter_mut().find(|hold| hold.id == id) {
            hold.status = Status::Captured;
        }
    }

    /// The time of all of them is over.
    pub(super) fn expire(&mut self) {
        self.all.iter_mut().for_each(|hold| hold.expires = UNIX_EPOCH);
    }

    /// How much is set aside, in minor units.
    pub(super) fn sum(&mut self) -> i64 {
        let mut sum = 0;
        for at in 0..self.all.len() {
            let hold = self.look(at);
            sum += if hold.status == Status::Reserved { hold.order.minor } else { 0 };
        }
        sum
    }

    /// How much is set aside under each reference, in minor units.
    pub(super) fn by_reference(&mut self) -> BTreeMap<String, i64> {
        let mut all = BTreeMap::new();
        for at in 0..self.all.len() {
            let hold = self.look(at);
            if let (Status::Reserved, Some(reference)) = (hold.status, &hold.order.reference) {
                *all.entry(reference.clone()).or_default() += hold.order.minor;
            }
        }
        all
    }

    /// How many were ever made.
    pub(super) fn count(&self) -> u64 {
        self.all.len() as u64
    }

    fn look(&mut self, at: usize) -> &Hold {
        let ends = self.end;
        let hold = &mut self.all[at];
        if ends && hold.status == Status::Reserved && hold.expires <= SystemTime::now() {
            hold.status = Status::Expired;
        }
        hold
    }
}

impl Hold {
    /// Unix seconds.
    pub(super) fn expires_at(&self) -> u64 {
        self.expires.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Status::Reserved => "reserved",
            Status::Captured => "captured",
            Status::Released => "released",
            Status::Expired => "expired",
        }
    }
}
