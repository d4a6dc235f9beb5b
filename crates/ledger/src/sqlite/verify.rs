//! Walking the whole store: is every entry there, in order, and is what it names what is stored?

use std::collections::{BTreeSet, VecDeque};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use sha2::{Digest, Sha256};

use super::packed;
use super::read::Sql;
use crate::entry::{PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED};
use crate::pruned::Pruned;
use crate::{Broken, Error, Verified, Walk};

pub(crate) fn all(db: &Connection) -> Result<Verified, Error> {
    let transaction = db.unchecked_transaction().map_err(super::unreadable)?;
    walk(&transaction).map_err(super::unreadable)?.map_err(|(row, broken)| Error::Chain { row, broken })
}

fn walk(db: &Connection) -> Sql<Result<Verified, (i64, Broken)>> {
    let mut entries = db.prepare("SELECT row, bytes, record FROM entry ORDER BY row")?;
    let mut entries = entries.query([])?;
    // Outcomes are numbered in the order of their entries, so both are walked side by side.
    let mut outcomes = db.prepare("SELECT entry, document FROM outcome ORDER BY row")?;
    let mut outcomes = outcomes.query([])?;
    let mut outcome = next_outcome(&mut outcomes)?;
    let mut approvals = db.prepare("SELECT entry, record FROM approval ORDER BY row")?;
    let mut approvals = approvals.query([])?;
    let mut approval = next_approval(&mut approvals)?;
    let (mut gone, mut unsaid) = (Gone::default(), Gone::default());
    let mut passkeys = Passkeys::default();
    let (mut walk, mut found, mut heard, mut expected) = (Walk::default(), 0, 0, 1);
    while let Some(entry) = entries.next()? {
        let row = entry.get(0)?;
        if row != expected {
            return Ok(Err((row, Broken::Missing)));
        }
        expected += 1;
        let said = match walk.step(entry.get_ref(1)?.as_blob()?) {
            Ok(said) => said,
            Err(broken) => return Ok(Err((row, broken))),
        };
        passkeys.told(row, said.event);
        if let Some(record) = entry.get_ref(2)?.as_blob_or_null()? {
            let right = said.action_hash == Some(Sha256::digest(record).into());
            let pruned = Pruned::read(said.event, record).transpose();
            match pruned.ok().filter(|_| right) {
                Some(pruned) => pruned.into_iter().for_each(|it| {
                    gone.told(row, it.highest_entry, it.receipts);
                    unsaid.told(row, it.highest_entry, it.approvals);
                }),
                None => return Ok(Err((row, Broken::Record))),
            }
        }
        match outcome.filter(|(entry, _)| *entry == row) {
            // One that is there must be right.
            Some((_, receipt)) if receipt != said.receipt_hash => return Ok(Err((row, Broken::Receipt))),
            Some((_, receipt)) => {
                found += u64::from(receipt.is_some());
                outcome = next_outcome(&mut outcomes)?;
            }
            None if said.receipt_hash.is_some() => gone.missed(row),
            None => {}
        }
        match approval.filter(|(entry, _)| *entry == row) {
            Some((_, record)) if !said.decides() || Some(record) != said.action_hash => {
                return Ok(Err((row, Broken::Approval)));
            }
            Some(_) => {
                heard += 1;
                approval = next_approval(&mut approvals)?;
            }
            None if said.decides() => unsaid.missed(row),
            None => {}
        }
    }
    if let Some((entry, _)) = outcome {
        return Ok(Err((entry, Broken::Missing)));
    }
    if let Some((entry, _)) = approval {
        return Ok(Err((entry, Broken::Approval)));
    }
    if let Some(entry) = passkeys.unlike(db)? {
        return Ok(Err((entry, Broken::Passkey)));
    }
    if let Some(broken) = gone.untold(Broken::Receipt).or_else(|| unsaid.untold(Broken::Approval)) {
        return Ok(Err(broken));
    }
    Ok(Ok(Verified { entries: walk.entries(), receipts: found, approvals: heard, head: walk.head() }))
}

/// What the entries say of passkeys: which events there are, each of which exactly one row names. So none can be added,
/// given out as enrolled or kept from its end without an entry.
#[derive(Default)]
struct Passkeys {
    told: BTreeSet<(&'static str, i64)>,
}

impl Passkeys {
    fn told(&mut self, entry: i64, event: &str) {
        let kinds = [PASSKEY_REGISTERED, PASSKEY_ENROLLED, PASSKEY_REVOKED];
        self.told.extend(kinds.into_iter().find(|kind| *kind == event).map(|kind| (kind, entry)));
    }

    /// The first entry that rows and chain do not agree on.
    fn unlike(mut self, db: &Connection) -> Sql<Option<i64>> {
        let mut rows = db.prepare("SELECT registered, enrolled, revoked FROM passkey ORDER BY row")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            for (column, kind) in
                [PASSKEY_REGISTERED, PASSKEY_ENROLLED, PASSKEY_REVOKED].into_iter().enumerate()
            {
                let named: Option<i64> = row.get(column)?;
                if let Some(entry) = named.filter(|entry| !self.told.remove(&(kind, *entry))) {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(self.told.first().map(|(_, entry)| *entry))
    }
}

/// Receipts, or approvals, that are gone. Only entries of the chain can say that they may be, and those come later.
#[derive(Default)]
struct Gone {
    /// Entries of which it is missing and that no pruning has told of yet.
    entries: VecDeque<i64>,
    missed: u64,
    told: u64,
    /// The last entry that told of pruning.
    last: i64,
}

impl Gone {
    fn missed(&mut self, entry: i64) {
        self.entries.push_back(entry);
        self.missed += 1;
    }

    fn told(&mut self, entry: i64, highest: i64, count: u64) {
        while self.entries.front().is_some_and(|missing| *missing <= highest) {
            self.entries.pop_front();
        }
        self.told = self.told.saturating_add(count);
        self.last = entry;
    }

    /// What is gone and was not pruned.
    fn untold(&self, missing: Broken) -> Option<(i64, Broken)> {
        match self.entries.front() {
            Some(entry) => Some((*entry, missing)),
            None if self.missed > self.told => Some((self.last, Broken::Pruned)),
            None => None,
        }
    }
}

/// The entry of the next outcome, and the hash of its receipt if it has one.
fn next_outcome(rows: &mut rusqlite::Rows<'_>) -> Sql<Option<(i64, Option<[u8; 32]>)>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    let receipt = match row.get_ref(1)? {
        ValueRef::Null => None,
        // One that cannot be unpacked has no hash that an entry names.
        _ => Some(packed::get(row, 1).map_or([0; 32], |document| Sha256::digest(document).into())),
    };
    Ok(Some((row.get(0)?, receipt)))
}

/// The entry of the next approval or rejection, and the hash of its record.
fn next_approval(rows: &mut rusqlite::Rows<'_>) -> Sql<Option<(i64, [u8; 32])>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((row.get(0)?, Sha256::digest(row.get_ref(1)?.as_blob()?).into())))
}
