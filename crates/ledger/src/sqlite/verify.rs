//! Walking the whole store: is every entry there, in order, and is what it names what is stored?

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::read::Sql;
use crate::{Broken, Error, Verified, Walk};

pub(crate) fn all(db: &Connection) -> Result<Verified, Error> {
    let transaction = db.unchecked_transaction().map_err(super::unreadable)?;
    walk(&transaction).map_err(super::unreadable)?.map_err(|(row, broken)| Error::Chain { row, broken })
}

fn walk(db: &Connection) -> Sql<Result<Verified, (i64, Broken)>> {
    let mut entries = db.prepare("SELECT row, bytes, record FROM entry ORDER BY row")?;
    let mut entries = entries.query([])?;
    // Outcomes are numbered in the order of their entries, so both are walked side by side.
    let mut receipts =
        db.prepare("SELECT entry, document FROM outcome WHERE document IS NOT NULL ORDER BY row")?;
    let mut receipts = receipts.query([])?;
    let mut receipt = next_receipt(&mut receipts)?;
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
        let stored = receipt.filter(|(entry, _)| *entry == row).map(|(_, hash)| hash);
        if stored != said.receipt_hash {
            return Ok(Err((row, Broken::Receipt)));
        }
        if stored.is_some() {
            found += 1;
            receipt = next_receipt(&mut receipts)?;
        }
    }
    if let Some((entry, _)) = receipt {
        return Ok(Err((entry, Broken::Missing)));
    }
    Ok(Ok(Verified { entries: walk.entries(), receipts: found, head: walk.head() }))
}

fn next_receipt(rows: &mut rusqlite::Rows<'_>) -> Sql<Option<(i64, [u8; 32])>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((row.get(0)?, Sha256::digest(row.get_ref(1)?.as_blob()?).into())))
}
