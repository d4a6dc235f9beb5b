//! The outbox: what destinations outside are still to be told of entries of the chain.
//!
//! ```text
//!   entries ──(what is worth telling)──▶ put ──▶ due ──(told outside)──▶ tried ──▶ gone
//!                                                 ▲                        │
//!                                                 └───── again later ──────┘
//! ```
//!
//! Nothing is written here when an action is written: the chain says already, in the same commit, what happened. A
//! destination has a place in the chain, and whoever tells it of things reads on from there.

use std::collections::{BTreeMap, HashSet};

use action::ActionId;

use crate::Answer;

/// The part of a ledger that remembers who was told what.
pub trait Outbox: Send + Sync {
    /// Gives each of these destinations a place: a new one begins at the end of the chain.
    fn give_places(&self, names: Vec<Box<str>>) -> Answer<'_, ()>;

    /// Forgets every destination but these, with all that waits for it, unless another process tells it. Answers with how much
    /// that was.
    fn forget_others(&self, names: Vec<Box<str>>) -> Answer<'_, u64>;

    /// Where a destination stands.
    ///
    /// # Errors
    /// [`Error::Absent`](crate::Error::Absent) for one that has no place.
    fn standing<'a>(&'a self, destination: &'a str) -> Answer<'a, Standing>;

    /// Takes notices up and moves the destination's place to `upto`, in one commit. What was taken up before stays as
    /// it is, and what another process has taken up, and told since, does not come back.
    fn put<'a>(&'a self, destination: &'a str, upto: i64, notices: Vec<Notice>) -> Answer<'a, ()>;

    /// Notices to be tried now, oldest entry first. Of each action the oldest only, so that it is told in order. No other process
    /// is given them until it is told what became of them, or minutes are over.
    fn untold<'a>(&'a self, destination: &'a str, now_ms: i64, limit: u32) -> Answer<'a, Vec<Waiting>>;

    /// Writes down what became of tries.
    fn tried<'a>(&'a self, destination: &'a str, tries: Vec<Tried>) -> Answer<'a, ()>;
}

/// Where a destination stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Row number of the last entry that was looked at.
    pub upto: i64,
    /// How many notices wait.
    pub waiting: u64,
}

/// An entry that a destination is to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its row number.
    pub entry: i64,
    /// The action that it is about; none if it is about a session or cluster, which waits for no other.
    pub action: Option<ActionId>,
    /// When it was taken up, milliseconds since 1970, UTC.
    pub taken_ms: i64,
}

/// A notice that waits, and how often it was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What waits.
    pub notice: Notice,
    /// Tries that came to nothing.
    pub tries: u32,
}

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Row number of the notice's entry.
    pub entry: i64,
    /// When it is to be tried again; never, if it was told or given up.
    pub again_ms: Option<i64>,
}

/// The outbox of a ledger that keeps nothing.
#[derive(Default)]
pub(crate) struct InMemory(BTreeMap<Box<str>, Place>);

struct Place {
    upto: i64,
    /// By entry, each with the time of its next try.
    notices: BTreeMap<i64, (Waiting, i64)>,
}

impl InMemory {
    pub(crate) fn give_places(&mut self, names: Vec<Box<str>>, end: i64) {
        for name in names {
            self.0.entry(name).or_insert_with(|| Place { upto: end, notices: BTreeMap::new() });
        }
    }

    pub(crate) fn forget_others(&mut self, names: &[Box<str>]) -> u64 {
        let before = self.waiting();
        self.0.retain(|name, _| names.contains(name));
        before - self.waiting()
    }

    fn waiting(&self) -> u64 {
        self.0.values().map(|place| place.notices.len() as u64).sum()
    }

    pub(crate) fn standing(&self, name: &str) -> Option<Standing> {
        let place = self.0.get(name)?;
        Some(Standing { upto: place.upto, waiting: place.notices.len() as u64 })
    }

    pub(crate) fn put(&mut self, name: &str, upto: i64, notices: Vec<Notice>) {
        let Some(place) = self.0.get_mut(name) else { return };
        place.upto = place.upto.max(upto);
        for notice in notices {
            place.notices.entry(notice.entry).or_insert((Waiting { notice, tries: 0 }, notice.taken_ms));
        }
    }

    pub(crate) fn untold(&self, name: &str, now_ms: i64, limit: u32) -> Vec<Waiting> {
        let mut seen = HashSet::new();
        let waiting = self.0.get(name).into_iter().flat_map(|place| place.notices.values());
        let heads =
            waiting.filter(|(waiting, _)| waiting.notice.action.is_none_or(|action| seen.insert(action)));
        heads.filter(|(_, next)| *next <= now_ms).map(|(waiting, _)| *waiting).take(limit as usize).collect()
    }

    pub(crate) fn tried(&mut self, name: &str, tries: &[Tried]) {
        let Some(place) = self.0.get_mut(name) else { return };
        for tried in tries {
            match tried.again_ms {
                None => drop(place.notices.remove(&tried.entry)),
                Some(again_ms) => {
                    if let Some((waiting, next)) = place.notices.get_mut(&tried.entry) {
                        (waiting.tries, *next) = (waiting.tries.saturating_add(1), again_ms);
                    }
                }
            }
        }
    }
}
