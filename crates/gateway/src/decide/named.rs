//! What the entries of the ledger commit to: the row of an action as it is stored. Of each outcome the ledger sees to it; what
//! named the row then, and salt, are in the payload of that.
//!
//! ```text
//!   entry that writes the row ── SHA-256(JCS({actionHash, key, row}))  row: SHA-256 of the payload, which has 32 random bytes
//! ```
//!
//! Both payloads have salt of their own, so what is erased cannot be guessed from what is left.

use action::{ActionId, Tenant};
use ledger::{Naming, Settled, State, Stored};
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
        Err(altered(stored.id, &stored.tenant))
    }

    fn is_named_by(&self, stored: &Stored) -> bool {
        let name = self.name_of(stored.key.as_deref(), &stored.payload);
        match &stored.naming {
            None => false,
            Some(Naming::Row(told)) => *told == name,
            Some(Naming::Outcome(payload)) => {
                OutcomeRow::from_bytes(payload).is_ok_and(|outcome| outcome.of == hex::encode(name))
            }
        }
    }

    /// Do the columns beside the payload name the same mandate, and what was judged?
    pub(crate) fn agrees_with(&self, stored: &Stored) -> bool {
        let judged = self.judged_hash().ok();
        is_under_its_mandate(stored, self) && judged_hash_of(stored, self).is_none_or(|hash| hash == judged)
    }

    /// The row to be stored, and named by the entry that comes with it.
    pub(crate) fn to_named(&self, key: Option<&str>) -> Result<Named, Error> {
        let payload = self.to_bytes()?;
        let name = self.name_of(key, &payload);
        Ok(Named { payload, name })
    }

    /// What names the row that is stored so under the client's key.
    pub(crate) fn name_of(&self, key: Option<&str>, payload: &[u8]) -> [u8; 32] {
        let row = hex::encode(Sha256::digest(payload));
        let key = serde_json::Value::from(key);
        let hash = &self.action_hash;
        Sha256::digest(format!(r#"{{"actionHash":"{hash}","key":{key},"row":"{row}"}}"#)).into()
    }

    /// What the action was when it was judged.
    pub(crate) fn judged_hash(&self) -> Result<[u8; 32], Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.action_hash, &mut hash)
            .map_err(|_| internal("a stored hash is not one"))?;
        Ok(hash)
    }
}

/// Everything that was said of an action that is to be gone on with: only if all of it is what its entries name, each after the
/// one before it.
///
/// # Errors
/// `EP_UNAVAILABLE` if any was altered in the store.
pub(crate) fn as_told(outcomes: Vec<Settled>) -> Result<Vec<Settled>, Error> {
    match outcomes.iter().find(|outcome| !outcome.whole) {
        None => Ok(outcomes),
        Some(outcome) => Err(altered(outcome.action, &outcome.tenant)),
    }
}

/// What somebody altered in the store.
pub(crate) fn altered(action: ActionId, tenant: &Tenant) -> Error {
    let what = "the stored action is not the one that its entries name";
    tracing::error!(%action, %tenant, "{what}: nothing goes on with it");
    Error::new(Code::Unavailable, what)
        .hint("an operator sees with `countersign audit verify` what was altered")
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
    /// What came of it, to be stored.
    pub(crate) fn outcome(&self, row: OutcomeRow) -> Result<Vec<u8>, Error> {
        let salt = hex::encode(clock::random::<16>()?);
        OutcomeRow { of: hex::encode(self.name), salt, ..row }.to_bytes()
    }
}
