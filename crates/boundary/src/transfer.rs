//! Handing time or resources from one member of a cluster to another: no action of the catalogue, but asked of the
//! policies as one.

use action::{Attribute, Environment};
use mandate::{ClusterContext, Resource};

use crate::own::{self, Unpermitted};
use crate::{Caller, Policies, PolicyRef, context};

/// What is known of it.
#[derive(Debug, Clone)]
pub struct Transfer<'a> {
    /// Real or pretended effects.
    pub environment: Environment,
    /// Whose session gives.
    pub caller: &'a Caller,
    /// The cluster of both.
    pub cluster: &'a ClusterContext,
    /// The session that gets.
    pub target: &'a str,
    /// In whose name the one and the other act.
    pub principals: [&'a str; 2],
    /// So much of it is left to the one and the other.
    pub left: [u64; 2],
    /// How often the mandate of the one who gives was handed on.
    pub depth: usize,
    /// Of what.
    pub resource: Resource,
    /// How much: whole seconds of time.
    pub amount: u64,
    /// The time, in Unix milliseconds.
    pub now_ms: i64,
}

/// Asks the policies: the ids of those that permit it.
///
/// # Errors
/// Those that do not. Nobody is asked about it: a policy that waits for a person forbids it.
pub fn may_transfer(policies: &Policies, transfer: &Transfer<'_>) -> Result<Vec<PolicyRef>, Unpermitted> {
    let caller = transfer.caller;
    let principal = policies.principal(caller.is_human, caller.subject.as_str());
    own::ask(
        policies,
        policies.transfer(),
        principal,
        caller.tenant.as_str(),
        transfer.target,
        &attributes(transfer),
    )
}

/// As [`crate::schema`] declares it.
fn attributes<'a>(transfer: &'a Transfer<'a>) -> context::Attributes<'a> {
    use Attribute::{Long, Record, Str};
    let whole = |amount: u64| Long(context::long(amount));
    let Transfer { cluster, principals, left, .. } = transfer;
    vec![
        ("cluster", Record(context::cluster(cluster))),
        ("delegation_depth", whole(transfer.depth as u64)),
        ("environment", Str(transfer.environment.as_str())),
        ("resource", Str(transfer.resource.word())),
        ("source_agent_cluster_id", Str(&cluster.cluster_id)),
        ("source_principal", Str(principals[0])),
        ("source_remaining_budget", whole(left[0])),
        ("target_agent_cluster_id", Str(&cluster.cluster_id)),
        ("target_principal", Str(principals[1])),
        ("target_remaining_budget", whole(left[1])),
        ("tenant", Str(transfer.caller.tenant.as_str())),
        ("time", context::time(transfer.now_ms)),
        ("transfer_amount", whole(transfer.amount)),
    ]
}
