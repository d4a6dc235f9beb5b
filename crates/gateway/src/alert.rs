//! Alerts: what a person should look at soon. Each is counted and is one line in the log, with ids and nothing else.

use action::Tenant;
use ledger::Stored;

use crate::gateway::Gateway;
use crate::pending::Pending;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alert {
    /// More was charged than was reserved; the mandate is frozen.
    Overage,
    /// An effect was there after all that was said to be absent for good.
    LateEffect,
    /// An action has more than one effect.
    DuplicateEffect,
    /// A provider denies an effect that was said to be there.
    DeniedEffect,
    /// An effect could not be undone.
    RollbackFailed,
    /// Members of a cluster wait for each other in a circle.
    ClusterDeadlock,
    /// The records of a session are not as they ought to be.
    GovernanceAnomaly,
    /// A tool of an MCP server is not as it was accepted.
    ToolQuarantined,
}

impl Alert {
    /// The word in the log and in the metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Alert::Overage => "overage",
            Alert::LateEffect => "late_effect",
            Alert::DuplicateEffect => "duplicate_effect",
            Alert::DeniedEffect => "denied_effect",
            Alert::RollbackFailed => "rollback_failed",
            Alert::ClusterDeadlock => "cluster_deadlock",
            Alert::GovernanceAnomaly => "governance_anomaly",
            Alert::ToolQuarantined => crate::quarantine::EVENT,
        }
    }
}

impl Gateway {
    /// Tells whoever watches. Only what is durable is told.
    pub(crate) fn alert(&self, alert: Alert, about: &Pending, receipt_id: &str) {
        self.metrics.alert(alert);
        tracing::error!(
            alert = alert.as_str(),
            action = %about.id,
            tenant = %about.tenant,
            agent = %about.subject,
            mandate = about.row.mandate_id.as_deref(),
            receipt = receipt_id,
            "a person should look at this"
        );
    }

    /// The same of a cluster that people have to open.
    pub(crate) fn alert_deadlock(&self, tenant: &Tenant, cluster: &str, record: &str) {
        self.metrics.alert(Alert::ClusterDeadlock);
        let alert = Alert::ClusterDeadlock.as_str();
        tracing::error!(alert, %tenant, cluster, record, "a person should look at this");
    }

    /// The same of an action of which only ids are left.
    pub(crate) fn alert_erased(&self, alert: Alert, about: &Stored) {
        self.metrics.alert(alert);
        tracing::error!(
            alert = alert.as_str(),
            action = %about.id,
            tenant = %about.tenant,
            agent = %about.subject,
            "a person should look at this: the action was erased"
        );
    }
}
