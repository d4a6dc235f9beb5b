//! Asking the policies about an action that is not the catalogue's, and no cycle either.

use cedar_policy::EntityUid;

use crate::ask::{Answer, Question};
use crate::context::{self, Attributes};
use crate::policies::Slice;
use crate::{Policies, PolicyRef};

/// Why the policies do not permit something that is no action of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpermitted {
    /// Those that forbid it; none where nothing permits it, or one could not be evaluated.
    pub policies: Vec<PolicyRef>,
    /// What only an operator may see.
    pub detail: Option<String>,
}

/// Those that permit it. Nobody is asked about it: a policy that waits for a person forbids it, and so does any doubt.
pub(crate) fn ask(
    policies: &Policies,
    slice: &Slice,
    principal: EntityUid,
    tenant: &str,
    resource: &str,
    attributes: &Attributes<'_>,
) -> Result<Vec<PolicyRef>, Unpermitted> {
    let refused = |policies, detail| Err(Unpermitted { policies, detail });
    let question = context::context(&slice.reads.filter(attributes))
        .and_then(|context| Question::new(policies, slice, principal, tenant, Some(resource), context));
    match question.map(|question| question.ask(policies, slice).answer) {
        Ok(Answer::Allow(permits)) => Ok(permits),
        Ok(
            Answer::Prohibited(policies) | Answer::Forbidden { policies, .. } | Answer::Escalate(policies),
        ) => refused(policies, None),
        Ok(Answer::NotAsked | Answer::NotPermitted) => refused(Vec::new(), None),
        Ok(Answer::Error(message)) | Err(message) => refused(Vec::new(), Some(message)),
    }
}
