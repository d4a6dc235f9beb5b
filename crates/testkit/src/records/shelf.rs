//! The shelf: what the records contain, and what was done to them.
//!
//! One value behind one lock. Looking a key up, comparing versions, changing and counting happen in one call, so the
//! counts are exact however many requests arrive at once.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

/// Every effect an archive has had, counted for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Records written, by way of requests.
    pub written: u64,
    /// Records deleted.
    pub deleted: u64,
    /// Deleted records restored.
    pub restored: u64,
    /// Versions taken back.
    pub reverted: u64,
    /// How many of all these carried each idempotency key.
    pub by_key: BTreeMap<String, u64>,
}

/// How a record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its version: two states of a record with the same version are the same.
    pub version: u64,
    /// What it contains; `None` while it is deleted.
    pub content: Option<Value>,
}

/// Something to be done to a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    Write(Value),
    Delete,
    /// What was deleted is as before.
    Restore,
    /// The record is again what it was before its version.
    Revert,
}

/// A well-formed request to do it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    pub(super) record: String,
    pub(super) deed: Deed,
    /// The version that it must have.
    pub(super) if_match: Option<u64>,
    pub(super) reference: Option<String>,
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such record, or not any more.
    Absent,
    /// It is deleted.
    Deleted,
    /// It is not deleted.
    NotDeleted,
    /// There is no version before this one.
    NoneBefore,
    /// It has another version by now.
    Changed,
    /// The key is remembered for another wish.
    KeyReused,
}

pub(super) struct Shelf {
    window: Duration,
    /// The newest version of all records: none is given twice.
    newest: u64,
    records: HashMap<String, Record>,
    changes: Vec<Value>,
    remembered: HashMap<String, (Wish, usize)>,
    effects: Effects,
}

struct Record {
    version: u64,
    content: Value,
    past: BTreeMap<u64, Value>,
    deleted: Option<Instant>,
}

impl Shelf {
    pub(super) fn new(window: Duration) -> Shelf {
        Shelf {
            window,
            newest: 0,
            records: HashMap::new(),
            changes: Vec::new(),
            remembered: HashMap::new(),
            effects: Effects::default(),
        }
    }

    /// Does it, unless the key already did; answers with the change.
    pub(super) fn perform(&mut self, wish: Wish, key: &str, now: Instant) -> Result<Value, Refusal> {
        if let Some((earlier, at)) = self.remembered.get(key) {
            return if *earlier == wish { Ok(self.changes[*at].clone()) } else { Err(Refusal::KeyReused) };
        }
        self.forget_at(now);
        let version = self.change(&wish, now)?;
        let word = match wish.deed {
            Deed::Write(_) => count(&mut self.effects.written, "written"),
            Deed::Delete => count(&mut self.effects.deleted, "deleted"),
            Deed::Restore => count(&mut self.effects.restored, "restored"),
            Deed::Revert => count(&mut self.effects.reverted, "reverted"),
        };
        *self.effects.by_key.entry(key.to_owned()).or_default() += 1;
        let change = json!({
            "change_id": format!("chg_{}", Uuid::now_v7().simple()),
            "record": wish.record, "status": word, "version": version, "reference": wish.reference,
            "if_match": wish.if_match,
        });
        self.remembered.insert(key.to_owned(), (wish, self.changes.len()));
        self.changes.push(change.clone());
        Ok(change)
    }

    pub(super) fn changes(&self) -> Vec<Value> {
        self.changes.clone()
    }

    /// The changes that carried a reference, oldest first.
    pub(super) fn changes_with(&self, reference: &str) -> Vec<Value> {
        self.changes.iter().filter(|change| change["reference"] == reference).cloned().collect()
    }

    pub(super) fn overwrite(&mut self, record: &str, content: Value) -> u64 {
        self.newest += 1;
        self.records.entry(record.to_owned()).or_insert_with(Record::new).write(self.newest, content);
        self.newest
    }

    pub(super) fn standing(&mut self, record: &str, now: Instant) -> Option<Standing> {
        self.forget_at(now);
        let record = self.records.get(record)?;
        let content = record.deleted.is_none().then(|| record.content.clone());
        Some(Standing { version: record.version, content })
    }

    pub(super) fn purge(&mut self) {
        self.records.retain(|_, record| record.deleted.is_none());
    }

    pub(super) fn effects(&self) -> Effects {
        self.effects.clone()
    }

    /// What was deleted so long ago is gone for good.
    fn forget_at(&mut self, now: Instant) {
        let over = |since| now.duration_since(since) >= self.window;
        self.records.retain(|_, record| record.deleted.is_none_or(|since| !over(since)));
    }

    /// The record's version after it.
    fn change(&mut self, wish: &Wish, now: Instant) -> Result<u64, Refusal> {
        if let (Deed::Write(content), None) = (&wish.deed, wish.if_match) {
            return Ok(self.overwrite(&wish.record, content.clone()));
        }
        let next = self.newest + 1;
        let record = self.records.get_mut(&wish.record).ok_or(Refusal::Absent)?;
        if wish.if_match.is_some_and(|version| version != record.version) {
            return Err(Refusal::Changed);
        }
        match (&wish.deed, record.deleted) {
            (Deed::Restore, Some(_)) => record.deleted = None,
            (Deed::Restore, None) => return Err(Refusal::NotDeleted),
            (_, Some(_)) => return Err(Refusal::Deleted),
            (Deed::Write(content), None) => {
                record.write(next, content.clone());
                self.newest = next;
            }
            (Deed::Delete, None) => record.deleted = Some(now),
            (Deed::Revert, None) => record.take_back()?,
        }
        Ok(record.version)
    }
}

impl Record {
    fn new() -> Record {
        Record { version: 0, content: Value::Null, past: BTreeMap::new(), deleted: None }
    }

    fn write(&mut self, version: u64, content: Value) {
        self.past.insert(version, content.clone());
        (self.version, self.content, self.deleted) = (version, content, None);
    }

    /// The version that is taken back never was.
    fn take_back(&mut self) -> Result<(), Refusal> {
        let before = self.past.range(..self.version).next_back();
        let (version, content) = before.map(|(at, it)| (*at, it.clone())).ok_or(Refusal::NoneBefore)?;
        self.past.remove(&self.version);
        (self.version, self.content) = (version, content);
        Ok(())
    }
}

fn count(counter: &mut u64, word: &'static str) -> &'static str {
    *counter += 1;
    word
}
