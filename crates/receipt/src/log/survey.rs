use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use super::{ActionRef, Checkpoint, Error, Leaf, LeafKind, Note, Verifier};
use crate::Timestamp;

/// What the leaves of a log come to, taken in their order: how many of each kind in each hour, and which actions have no end.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// How many leaves there are of each hour.
    pub hours: Hours,
    open: HashMap<ActionRef, Due>,
}

/// How many leaves of each kind there are of each hour, and which.
#[derive(Debug, Clone, Default)]
pub struct Hours(BTreeMap<u32, Hour>);

#[derive(Debug, Clone, Copy)]
struct Hour {
    counts: Counts,
    first: u64,
    last: u64,
}

/// An action that has no end in the log yet, by the newest leaf that says when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The number of that leaf.
    pub number: u64,
    /// By the end of which hour, hours since 1970.
    pub due_by: u32,
}

/// How many leaves of each kind, in the order of [`LeafKind::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; LeafKind::ALL.len()]);

impl Survey {
    /// Takes the next leaf.
    pub fn take(&mut self, number: u64, leaf: &Leaf) {
        self.hours.take(number, leaf);
        match leaf.kind {
            LeafKind::Intent => {
                self.open.insert(leaf.action_ref, Due { number, due_by: leaf.due_by });
            }
            LeafKind::Terminal | LeafKind::Amendment => drop(self.open.remove(&leaf.action_ref)),
            _ => {}
        }
    }

    /// The actions without an end that was due before this hour, in the order of their leaves.
    #[must_use]
    pub fn overdue(&self, hour: u32) -> Vec<Due> {
        let mut overdue: Vec<Due> = self.open.values().filter(|due| due.due_by < hour).copied().collect();
        overdue.sort_unstable();
        overdue
    }
}

impl Hours {
    /// Takes the next leaf.
    pub fn take(&mut self, number: u64, leaf: &Leaf) {
        let new = Hour { counts: Counts::default(), first: number, last: number };
        let hour = self.0.entry(leaf.hour).or_insert(new);
        hour.last = number;
        hour.counts.0[place(leaf.kind)] += 1;
    }

    /// The first leaf of each hour that is later than this one.
    #[must_use]
    pub fn later_than(&self, hour: u32) -> Vec<u64> {
        let later = self.0.range(hour.saturating_add(1)..);
        later.map(|(_, hour)| hour.first).collect()
    }

    /// The first leaf of each hour that is more than so many hours later than that of a leaf behind it, and the last such leaf.
    #[must_use]
    pub fn ahead(&self, hours: u32) -> Vec<(u64, u64)> {
        let (mut earlier, mut last) = (self.0.iter().peekable(), None);
        let mut ahead = Vec::new();
        for (at, hour) in &self.0 {
            while let Some((_, it)) = earlier.next_if(|(then, _)| then.saturating_add(hours) < *at) {
                last = last.max(Some(it.last));
            }
            ahead.extend(last.filter(|last| *last > hour.first).map(|last| (hour.first, last)));
        }
        ahead
    }

    /// What a log says of a period when it has that checkpoint.
    #[must_use]
    pub fn of(&self, from: u32, until: u32, checkpoint: Checkpoint) -> Completeness {
        let mut all = Completeness { from, until, checkpoint, begins: 0, ends: 0, counts: Counts::default() };
        if from >= until {
            return all;
        }
        for hour in self.0.range(from..until).map(|(_, hour)| hour) {
            all.begins = if all.ends == 0 { hour.first } else { all.begins.min(hour.first) };
            all.ends = all.ends.max(hour.last + 1);
            all.counts.0.iter_mut().zip(hour.counts.0).for_each(|(sum, count)| *sum += count);
        }
        all
    }
}

impl Counts {
    /// Of one kind.
    #[must_use]
    pub fn of(&self, kind: LeafKind) -> u64 {
        self.0[place(kind)]
    }

    /// Receipts: first words and later ones.
    #[must_use]
    pub fn receipts(&self) -> u64 {
        self.of(LeafKind::Terminal) + self.of(LeafKind::Amendment)
    }
}

fn place(kind: LeafKind) -> usize {
    kind as usize - 1
}

/// A completeness statement: this and no more stands in the log of those hours. Signed by the log, and checked by whoever has
/// its leaves.
///
/// ```text
///   countersign-completeness/1
///   gateway.example/log/default
///   2026-05-01T00:00:00.000Z            from this hour
///   2026-06-01T00:00:00.000Z            until before this one
///   51234                               size and root of the log by then
///   CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
///   1200 50432                          the first leaf of the period, and the one behind its last
///   intent 24601                        as many leaves of each kind
///   …
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completeness {
    /// From this hour on, hours since 1970.
    pub from: u32,
    /// Before this hour.
    pub until: u32,
    /// The log as it was when it was said.
    pub checkpoint: Checkpoint,
    /// The number of the first leaf of the period.
    pub begins: u64,
    /// The number behind its last leaf; 0 if there is none.
    pub ends: u64,
    /// How many leaves of each kind.
    pub counts: Counts,
}

impl Completeness {
    /// What a note says, if the log with this key signed it.
    ///
    /// # Errors
    /// [`Error::Note`] if it did not, or the note says something else.
    pub fn signed(note: &Note, log: &Verifier) -> Result<Completeness, Error> {
        if log.is_witness() {
            return Err(Error::Key("it is a witness's, not a log's"));
        }
        note.signed_by(log)?.ok_or_else(|| Error::Note(format!("`{}` did not sign it", log.name())))?;
        let said: Completeness = note.text().parse()?;
        if said.checkpoint.origin == log.name() {
            Ok(said)
        } else {
            Err(Error::Checkpoint("it is of another log"))
        }
    }
}

impl fmt::Display for Completeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checkpoint = self.checkpoint.to_string();
        let (origin, rest) = checkpoint.split_once('\n').unwrap_or_default();
        let hour = |hour: u32| Timestamp::from_unix_millis(u64::from(hour) * HOUR_MS);
        writeln!(f, "{SPEC}\n{origin}\n{}\n{}", hour(self.from).as_str(), hour(self.until).as_str())?;
        writeln!(f, "{rest}{} {}", self.begins, self.ends)?;
        LeafKind::ALL.iter().try_for_each(|kind| writeln!(f, "{} {}", kind.as_str(), self.counts.of(*kind)))
    }
}

impl FromStr for Completeness {
    type Err = Error;

    /// Reads the one spelling.
    fn from_str(text: &str) -> Result<Completeness, Error> {
        read(text)
            .filter(|said| said.to_string() == text)
            .ok_or(Error::Checkpoint("it is no completeness statement"))
    }
}

fn read(text: &str) -> Option<Completeness> {
    let mut lines = text.lines();
    lines.next().filter(|spec| *spec == SPEC)?;
    let origin = lines.next()?;
    let mut hour = || {
        let millis = Timestamp::parse(lines.next()?).ok()?.unix_millis();
        u32::try_from(millis / HOUR_MS).ok()
    };
    let (from, until) = (hour()?, hour()?);
    let checkpoint = format!("{origin}\n{}\n{}\n", lines.next()?, lines.next()?).parse().ok()?;
    let (begins, ends) = lines.next()?.split_once(' ')?;
    let (begins, ends) = (begins.parse().ok()?, ends.parse().ok()?);
    let mut counts = Counts::default();
    for (kind, count) in LeafKind::ALL.iter().zip(&mut counts.0) {
        *count = lines.next()?.strip_prefix(kind.as_str())?.trim_start().parse().ok()?;
    }
    Some(Completeness { from, until, checkpoint, begins, ends, counts })
}

/// No log is called that, so that no statement is ever taken for a checkpoint.
const SPEC: &str = "countersign-completeness/1";
const HOUR_MS: u64 = 3_600_000;
