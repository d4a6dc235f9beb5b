//! What the entries of the ledger commit to: the row of an action as it is stored, and each outcome as it is kept.
//!
//! ```text
//!   entry that writes the row ── SHA-256(JCS({actionHash, row}))       row: SHA-256 of the payload, which has 32 random bytes
//!   entry of an outcome ──────── SHA-256(JCS({of, outcome}))           of: what names the row then; outcome: SHA-256 of its payload
//! ```
//!
//! Both payloads have salt of their own, so what is erased cannot be guessed from what is left.

use ledger::{Naming, State, Stored};
use sha2::{Digest, Sha256};

use super::judged_hash_of;
use crate::pending::Pending;
use crate::row::{IntentRow, OutcomeRow, internal};
use crate::{Code, Error, clock};

/// Something to be stored, and what the entry says of it that it comes with.
pub(crate) struct Named {
    pub payload: Vec<u8>,
    pub name: [u8; 32],
}

impl IntentRow {
    /// Reads back the row of an action that is to be gone on with: only if it is the one that its entries name.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if it was altered in the store, `EP_ERASED` if nothing is left of it.
    pub(crate) fn of(stored: &Stored) -> Result<IntentRow, Error> {
        let row = IntentRow::from_bytes(&stored.payload)?;
        if row.is_named_by(stored) && row.agrees_with(stored) {
            return Ok(row);
        }
        let what = "the stored action is not the one that its entries name";
        tracing::error!(action = %stored.id, tenant = %stored.tenant, "{what}: nothing goes on with it");
        Err(Error::new(Code::Unavailable, what)
            .hint("an operator sees with `countersign audit verify` what was altered"))
    }

    fn is_named_by(&self, stored: &Stored) -> bool {
        let name = self.name_of(&stored.payload);
        match &stored.naming {
            None => false,
            Some(Naming::Row(told)) => *told == name,
            Some(Naming::Outcome { name: told, payload }) => {
                let of = hex::encode(name);
                let same = OutcomeRow::from_bytes(payload).is_ok_and(|outcome| outcome.of == of);
                same && outcome_name(&of, payload) == *told
            }
        }
    }

    /// Do the columns beside the payload name the same mandate, and what was judged?
    pub(crate) fn agrees_with(&self, stored: &Stored) -> bool {
        let judged = self.judged_hash().ok();
        is_under_its_mandate(stored, self) && judged_hash_of(stored, self).is_none_or(|hash| hash == judged)
    }

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

/// Is it listed under the mandate that it came under? What was not sent, or was refused, has debited none.
fn is_under_its_mandate(stored: &Stored, row: &IntentRow) -> bool {
    match (stored.mandates.first(), row.mandate_id.as_deref()) {
        (None, Some(_)) => {
            matches!(stored.state, State::Held | State::Approved | State::Refused | State::Failed)
        }
        (listed, own) => listed.map(|jti| &**jti) == own,
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
