//! What a pruning deleted, in the words of its entry. Rows may be gone only as far, and only as many, as the chain says.

use serde::{Deserialize, Serialize};

use crate::Event;

/// The record of an entry `pruned`; members in JCS order. A number of which there was none is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pruned {
    /// How many actions.
    pub(crate) actions: u64,
    /// How many approvals and rejections.
    pub(crate) approvals: u64,
    /// The highest row of an action.
    pub(crate) highest_action: i64,
    /// The highest entry of an outcome, an approval or a rejection.
    pub(crate) highest_entry: i64,
    /// The highest row of an outcome.
    pub(crate) highest_outcome: i64,
    /// How many outcomes with a receipt.
    pub(crate) receipts: u64,
}

impl Pruned {
    /// Takes a deleted action in.
    pub(crate) fn action(&mut self, row: i64) {
        self.actions += 1;
        self.highest_action = self.highest_action.max(row);
    }

    /// Takes a deleted outcome in.
    pub(crate) fn outcome(&mut self, row: i64, entry: i64, receipt: bool) {
        self.receipts += u64::from(receipt);
        self.highest_outcome = self.highest_outcome.max(row);
        self.highest_entry = self.highest_entry.max(entry);
    }

    /// Takes a deleted approval or rejection in.
    pub(crate) fn approval(&mut self, entry: i64) {
        self.approvals += 1;
        self.highest_entry = self.highest_entry.max(entry);
    }

    /// What is appended to the chain.
    pub(crate) fn event(&self, at_ms: i64) -> Result<Event, serde_json::Error> {
        Ok(Event { at_ms, tenant_ref: None, event: PRUNED, record: serde_json::to_vec(self)? })
    }

    /// Reads it back, if the entry is one.
    pub(crate) fn read(event: &str, record: &[u8]) -> Option<Result<Pruned, serde_json::Error>> {
        (event == PRUNED).then(|| serde_json::from_slice(record))
    }
}

pub(crate) const PRUNED: &str = "pruned";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_record_is_canonical_and_reads_back() {
        let mut pruned = Pruned::default();
        pruned.action(7);
        pruned.outcome(9, 21, true);
        pruned.outcome(8, 20, false);
        let event = pruned.event(5).unwrap();
        let text = r#"{"actions":1,"approvals":0,"highestAction":7,"highestEntry":21,"highestOutcome":9,"receipts":1}"#;
        assert_eq!(String::from_utf8(event.record.clone()).unwrap(), text);
        assert_eq!(Pruned::read(event.event, &event.record).unwrap().unwrap(), pruned);
        assert!(Pruned::read("frozen", &event.record).is_none());
    }
}
