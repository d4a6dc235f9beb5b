//! What the entries of the ledger commit to: the row of an action as it is stored, and each outcome as it is kept.
//!
//! ```text
//!   entry that writes the row ── SHA-256(JCS({actionHash, row}))       row: SHA-256 of the payload, which has 32 random bytes
//!   entry of an outcome ──────── SHA-256(JCS({of, outcome}))           of: what names the row then; outcome: SHA-256 of its payload
//! ```
//!
//! Both payloads have salt of their own, so what is erased cannot be guessed from what is left.

use sha2::{Digest, Sha256};

use crate::pending::Pending;
use crate::row::{IntentRow, OutcomeRow, internal};
use crate::{Error, clock};

/// Something to be stored, and what the entry says of it that it comes with.
pub(crate) struct Named {
    pub payload: Vec<u8>,
    pub name: [u8; 32],
}

impl IntentRow {
    /// The row to be stored, and named by the entry that comes with it.
    pub(crate) fn to_named(&self) -> Result<Named, Error> {
        let payload = self.to_bytes()?;
        let name = self.name_of(&payload);
        Ok(Named { payload, name })
    }

    /// What names the row that is stored so.
    pub(crate) fn name_of(&self, payload: &[u8]) -> [u8; 32] {
        let row = hex::encode(Sha256::digest(payload));
        Sha256::digest(format!(r#"{{"actionHash":"{}","row":"{row}"}}"#, self.action_hash)).into()
    }

    /// What the action was when it was judged.
    pub(crate) fn judged_hash(&self) -> Result<[u8; 32], Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.action_hash, &mut hash)
            .map_err(|_| internal("a stored hash is not one"))?;
        Ok(hash)
    }
}

impl Pending {
    /// What came of it, to be stored, and named by the entry that comes with it.
    pub(crate) fn outcome(&self, row: OutcomeRow) -> Result<Named, Error> {
        let salt = hex::encode(clock::random::<16>()?);
        let payload = OutcomeRow { of: hex::encode(self.name), salt, ..row }.to_bytes()?;
        let name = outcome_name(&hex::encode(self.name), &payload);
        Ok(Named { payload, name })
    }
}

/// What names the outcome that is kept so, of an action whose row was named `of` then.
pub(crate) fn outcome_name(of: &str, payload: &[u8]) -> [u8; 32] {
    let outcome = hex::encode(Sha256::digest(payload));
    Sha256::digest(format!(r#"{{"of":"{of}","outcome":"{outcome}"}}"#)).into()
}
