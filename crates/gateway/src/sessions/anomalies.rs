//! Anomalies of governance (`KERNEL_AUDIT_ANOMALY`): what ought not to be in the records of a session, wherever it is seen.
//!
//! What an agent does against the mode that it declared is seen when it is judged; a record that is missing, or a cycle that
//! stands on no declaration, when the records are read as a whole: at the end of a session and by `audit verify`. An anomaly
//! stops nothing. It is a record of the session, an alert and a count.

use std::collections::BTreeSet;

use action::{ActionId, Tenant};
use ledger::Governed;
use serde_json::{Value, json};

use super::gar::{Line, ale};
use super::turn;
use crate::Error;
use crate::admin::event;
use crate::alert::Alert;
use crate::gateway::Gateway;
use crate::remember::unavailable;

/// What ought not to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Anomaly {
    /// A cycle does what its declared mode is not.
    ModeDeviation(ActionId),
    /// Records are missing before the one of this number.
    Gap(u64),
    /// The record of this number lets a cycle begin that stands on no declaration.
    WithoutIntent(u64),
}

impl Anomaly {
    fn kind(&self) -> &'static str {
        match self {
            Anomaly::ModeDeviation(_) => "MODE_DEVIATION",
            Anomaly::Gap(_) => "SEQUENCE_GAP",
            Anomaly::WithoutIntent(_) => "TRANSITION_WITHOUT_INTENT",
        }
    }

    fn fields(&self) -> Value {
        match self {
            Anomaly::ModeDeviation(action) => json!({"action_id": action.to_string(), "kind": self.kind()}),
            Anomaly::Gap(number) | Anomaly::WithoutIntent(number) => {
                json!({"kind": self.kind(), "session_sequence_number": number})
            }
        }
    }
}

/// What is odd about the next record of a session, of which `expected` came before.
pub(super) fn odd(line: &Line, expected: u64) -> impl Iterator<Item = Anomaly> {
    let number = line.number();
    let gap = (number != expected).then_some(Anomaly::Gap(number));
    let bare = begins_without_intent(&line.event, line.intent());
    gap.into_iter().chain(bare.then_some(Anomaly::WithoutIntent(number)))
}

/// Only what is refused may stand on nothing.
fn begins_without_intent(event: &str, intent: Option<&str>) -> bool {
    BEGINNINGS.contains(&event) && intent.is_none()
}

/// The same of the bytes that an entry's signature covers.
pub(crate) fn stands_on_nothing(sealed: &[u8]) -> bool {
    let Ok(entry) = serde_json::from_slice::<Value>(sealed) else { return false };
    let intent = entry["session"]["intentId"].as_str();
    entry["actionId"].is_string()
        && entry["event"].as_str().is_some_and(|event| begins_without_intent(event, intent))
}

impl Gateway {
    /// Puts anomalies on record in their session, and tells whoever watches. Those that are on record already are passed over.
    pub(super) async fn note_anomalies(
        &self,
        governed: &Governed,
        found: &BTreeSet<Anomaly>,
    ) -> Result<(), Error> {
        for anomaly in found {
            self.note_anomaly(governed, anomaly, None).await?;
        }
        Ok(())
    }

    /// A cycle that was judged and committed did what its declared mode is not. That stops nothing, not even if it cannot be
    /// written down.
    pub(crate) async fn note_deviation(&self, governed: &Governed, action: ActionId) {
        let noted = async {
            let began = self.ledger.begun_as(&governed.tenant, action).await.map_err(unavailable)?;
            self.note_anomaly(governed, &Anomaly::ModeDeviation(action), began).await
        };
        if let Err(error) = noted.await {
            tracing::error!(action = %action, %error, "an anomaly could not be put on record");
        }
    }

    async fn note_anomaly(
        &self,
        governed: &Governed,
        anomaly: &Anomaly,
        cause: Option<Box<str>>,
    ) -> Result<(), Error> {
        let record = ale(ANOMALY, anomaly.fields(), json!({"by": self.issuer.as_str()}));
        let turn = turn(governed, None, cause, event(self.tenant(&governed.tenant)?, EVENT, &record));
        let (record, _) = self.ledger.turn(turn).await.map_err(unavailable)?;
        self.alert_session(anomaly.kind(), governed, &record);
        Ok(())
    }

    /// The same of what is in no session.
    pub(crate) async fn note_unbound_anomaly(
        &self,
        tenant: &Tenant,
        kind: &'static str,
        fields: &Value,
    ) -> Result<(), Error> {
        let record = ale(ANOMALY, fields.clone(), json!({"by": self.issuer.as_str()}));
        self.ledger.record(event(self.tenant(tenant)?, EVENT, &record)).await.map_err(unavailable)?;
        self.metrics.alert(Alert::GovernanceAnomaly);
        let alert = Alert::GovernanceAnomaly.as_str();
        tracing::error!(alert, kind, %tenant, "a person should look at this");
        Ok(())
    }

    fn alert_session(&self, kind: &'static str, governed: &Governed, record: &str) {
        self.metrics.alert(Alert::GovernanceAnomaly);
        tracing::error!(
            alert = Alert::GovernanceAnomaly.as_str(),
            kind,
            session = &*governed.session.id,
            tenant = %governed.tenant,
            agent = %governed.session.subject,
            mandate = &*governed.session.mandate_id,
            record,
            "a person should look at this"
        );
    }

    /// The walk along the chain found what ought not to be in the records of sessions.
    pub(crate) fn alert_records(&self, entry: i64, what: &str) {
        self.metrics.alert(Alert::GovernanceAnomaly);
        tracing::error!(
            alert = Alert::GovernanceAnomaly.as_str(),
            entry,
            what,
            "a person should look at this"
        );
    }
}

/// Events with which a cycle begins.
const BEGINNINGS: [&str; 2] = [ledger::ADMITTED, ledger::HELD];
const ANOMALY: &str = "KERNEL_AUDIT_ANOMALY";
const EVENT: &str = "governance_anomaly";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_that_begins_stands_on_a_declaration() {
        let entry = |event: &str, action: Value, intent: Value| {
            let session = json!({"causalParent": null, "id": "s", "intentId": intent, "seq": 2});
            json!({"actionId": action, "event": event, "session": session}).to_string()
        };
        let bare = |event: &str| stands_on_nothing(entry(event, json!("a"), Value::Null).as_bytes());
        assert!(bare("admitted") && bare("held"));
        for event in ["refused", "executed", "session_opened"] {
            assert!(!bare(event), "{event}");
        }
        assert!(!stands_on_nothing(entry("admitted", json!("a"), json!("i-1")).as_bytes()));
        assert!(!stands_on_nothing(b"no entry"));
    }
}
