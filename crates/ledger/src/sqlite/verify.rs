//! Walking the whole store: is every entry there, in order, and is what it names what is stored?

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::prune;
use super::read::{self, Sql};
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
    // Up to here an outcome may be gone; one that is there must be right.
    let pruned = read::meta(db, prune::ENTRY)?.unwrap_or(0);
    let (mut walk, mut found, mut expected) = (Walk::default(), 0, 1);
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
        if let Some(record) = entry.get_ref(2)?.as_blob_or_null()?
            && said.action_hash != Some(Sha256::digest(record).into())
        {
            return Ok(Err((row, Broken::Record)));
        }
        let stored = outcome.filter(|(entry, _)| *entry == row).map(|(_, receipt)| receipt);
        let gone = stored.is_none() && row <= pruned;
        if !gone && stored.flatten() != said.receipt_hash {
            return Ok(Err((row, Broken::Receipt)));
        }
        if let Some(receipt) = stored {
            found += u64::from(receipt.is_some());
            outcome = next_outcome(&mut outcomes)?;
        }
    }
    if let Some((entry, _)) = outcome {
        return Ok(Err((entry, Broken::Missing)));
    }
    Ok(Ok(Verified { entries: walk.entries(), receipts: found, head: walk.head() }))
}

/// The entry of the next outcome, and the hash of its receipt if it has one.
fn next_outcome(rows: &mut rusqlite::Rows<'_>) -> Sql<Option<(i64, Option<[u8; 32]>)>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    let receipt = row.get_ref(1)?.as_blob_or_null()?.map(|document| Sha256::digest(document).into());
    Ok(Some((row.get(0)?, receipt)))
}
