//! What a log itself says of keys that others may hold: a receipt that stands before it was made by the issuer, as far as the log's own
//! key is not lost, too.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use action::Tenant;
use ledger::{Enacted, Leafed};
use receipt::log::{Checkpoint, Compromise, Nonce, Note, Place};
use receipt::{Jwk, Timestamp};
use serde::Deserialize;

use super::Logs;
use super::marks::Mark;
use crate::Error;
use crate::gateway::Gateway;
use crate::remember::unavailable;

/// The event with which the ledger says that a signing key is compromised.
pub(crate) const COMPROMISED: &str = "signing_key_compromised";

/// By key the first entry that says that it is compromised.
#[derive(Default)]
pub(super) struct Compromises(RwLock<HashMap<Box<str>, Said>>);

#[derive(Clone)]
struct Said {
    entry: i64,
    record: Vec<u8>,
}

/// All that a record says that may be shown: whoever gets a proof gets this.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(rename = "at")]
    _at: String,
    kid: Box<str>,
}

/// A leaf that says of a receipt's key that it is compromised, behind the receipt.
pub(super) struct Later {
    pub(super) leafed: Leafed,
    nonce: Nonce,
    entry: Vec<u8>,
    record: Vec<u8>,
    since: Timestamp,
}

impl Later {
    pub(super) fn shown(self, place: Place) -> Compromise {
        Compromise { place, nonce: self.nonce, entry: self.entry, record: self.record }
    }
}

impl Compromises {
    pub(super) fn of(enacted: &[Enacted]) -> Compromises {
        let compromises = Compromises::default();
        for said in enacted.iter().filter(|said| &*said.event == COMPROMISED) {
            compromises.take(said.entry, said.record.clone());
        }
        compromises
    }

    /// What earlier versions recorded says besides who told of it, which is nobody's business, and is not shown.
    fn take(&self, entry: i64, record: Vec<u8>) {
        let Ok(Record { kid, .. }) = serde_json::from_slice(&record) else { return };
        let mut said = self.0.write().unwrap_or_else(PoisonError::into_inner);
        said.entry(kid).or_insert(Said { entry, record });
    }

    fn of_key(&self, kid: &str) -> Option<Said> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned()
    }
}

impl Logs {
    /// An entry says that a key is compromised.
    pub(crate) fn told_of_compromise(&self, entry: i64, record: Vec<u8>) {
        self.compromises.take(entry, record);
    }
}

impl Gateway {
    /// What the tenant's log says behind that leaf of this key, if that is known to be compromised.
    pub(super) async fn compromise_behind(
        &self,
        tenant: &Tenant,
        kid: &str,
        leaf: u64,
    ) -> Result<Option<Later>, Error> {
        let since = self.keys.jwks().key(kid).and_then(Jwk::compromised_at);
        let (Some(since), Some(said)) = (since, self.logs.compromises.of_key(kid)) else { return Ok(None) };
        let leafed = self.log().leaf_of(tenant, said.entry).await.map_err(unavailable)?;
        let Some(leafed) = leafed.filter(|leafed| leafed.number > leaf) else { return Ok(None) };
        let page = self.ledger.entries(Some(said.entry - 1), 1).await.map_err(unavailable)?;
        let entry = page.rows.into_iter().find(|(row, _)| *row == said.entry);
        let log = self.logs.of.iter().find(|log| log.tenant == *tenant);
        let (Some(log), Some((_, entry))) = (log, entry) else { return Ok(None) };
        // It is about no action, so nothing that is erased with one is in it.
        let nonce = log.key.nonce(None, &entry);
        Ok(Some(Later { leafed, nonce, entry, record: said.record, since }))
    }

    /// The checkpoint for a proof of this leaf, and what is said behind it of the receipt's key if the checkpoint has that, too.
    pub(super) fn checkpoint_for(
        &self,
        tenant: &Tenant,
        leaf: u64,
        later: Option<Later>,
    ) -> Result<(Checkpoint, Note, Option<Later>), Error> {
        let Some(later) = later else {
            let (checkpoint, note) = self.newest_with(tenant, leaf)?;
            return Ok((checkpoint, note, None));
        };
        let cosigned = self.logs.last(tenant)?.cosigned;
        match (cosigned.with(leaf), cosigned.with(later.leafed.number)) {
            // The word of witnesses who saw it in time is worth more than ours.
            (Some(mark), _) if self.logs.is_seen_before(&mark, later.since) => {
                Ok((mark.checkpoint, mark.note, None))
            }
            (_, Some(mark)) => Ok((mark.checkpoint, mark.note, Some(later))),
            (Some(mark), None) => Ok((mark.checkpoint, mark.note, None)),
            (None, None) => {
                let (checkpoint, note) = self.newest(tenant)?;
                let later = Some(later).filter(|later| later.leafed.number < checkpoint.size);
                Ok((checkpoint, note, later))
            }
        }
    }
}

impl Logs {
    /// Did all who cosigned it do so before then?
    fn is_seen_before(&self, mark: &Mark, then: Timestamp) -> bool {
        let times = self.witnesses.iter().filter_map(|witness| mark.note.signed_by(witness).ok().flatten());
        times.into_iter().all(|at| at.saturating_mul(1000) < then.unix_millis())
    }
}
