//! The question put to Cedar, and what its answer means here.

use std::sync::Arc;

use cedar_policy::{Context, Decision, EntityId, EntityUid, PolicyId, PolicySet, Request, Response};

use crate::policies::{Cast, Slice};
use crate::rule::{Rule, Tier};
use crate::{Policies, PolicyRef};

/// One question, ready to be asked.
pub(crate) struct Question {
    request: Request,
    pub(crate) cast: Arc<Cast>,
    pub(crate) principal: EntityUid,
    pub(crate) resource: EntityUid,
}

/// What Cedar's answer means for the action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The action is incomplete: nothing could be asked.
    NotAsked,
    /// Permitted.
    Allow(Vec<PolicyRef>),
    /// A prohibition of tier 0-A.
    Prohibited(Vec<PolicyRef>),
    /// Forbidden, beyond the reach of observe mode when a policy of tier 0-B takes part.
    Forbidden { policies: Vec<PolicyRef>, zero_b: bool },
    /// Forbidden until a person agrees.
    Escalate(Vec<PolicyRef>),
    /// Nothing permits it.
    NotPermitted,
    /// A policy could not be evaluated. The message is for operators.
    Error(String),
}

/// An answer with the advice that went along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opinion {
    pub(crate) answer: Answer,
    /// Tier 3 policies that matched.
    pub(crate) advice: Vec<PolicyRef>,
}

impl Question {
    pub(crate) fn new(
        policies: &Policies,
        slice: &Slice,
        principal: EntityUid,
        tenant: &str,
        resource: Option<&str>,
        context: Context,
    ) -> Result<Question, String> {
        // An action that names no resource acts on the one with the empty id, which no request can spell.
        let id = EntityId::new(resource.unwrap_or_default());
        let resource = EntityUid::from_type_name_and_id(slice.resource_type.clone(), id);
        let cast = policies.cast(slice, &principal, tenant, &resource)?;
        Question::of(principal, slice.action.clone(), resource, context, cast)
    }

    pub(crate) fn of(
        principal: EntityUid,
        action: EntityUid,
        resource: EntityUid,
        context: Context,
        cast: Arc<Cast>,
    ) -> Result<Question, String> {
        // No schema here: policies were typed when they were loaded, and the context is typed by construction.
        let request = Request::new(principal.clone(), action, resource.clone(), context, None);
        Ok(Question { request: request.map_err(|error| error.to_string())?, cast, principal, resource })
    }

    /// Asks tier 0-A first and alone, then everything else, then once more without what only waits for a person.
    pub(crate) fn ask(&self, policies: &Policies, slice: &Slice) -> Opinion {
        let answer = self.prohibited(policies, slice).unwrap_or_else(|| self.main(policies, slice));
        let advice = match slice.advice.is_empty() {
            true => Vec::new(),
            false => references(policies, &self.put(policies, &slice.advice)),
        };
        Opinion { answer, advice }
    }

    fn prohibited(&self, policies: &Policies, slice: &Slice) -> Option<Answer> {
        if slice.prohibitions.is_empty() {
            return None;
        }
        let response = self.put(policies, &slice.prohibitions);
        let matched = references(policies, &response);
        match error(&response) {
            // A prohibition that matched is certain, whatever another one failed on.
            _ if !matched.is_empty() => Some(Answer::Prohibited(matched)),
            Some(message) => Some(Answer::Error(message)),
            None => None,
        }
    }

    fn main(&self, policies: &Policies, slice: &Slice) -> Answer {
        let response = self.put(policies, &slice.main);
        if let Some(message) = error(&response) {
            return Answer::Error(message);
        }
        let matched = rules(policies, &response);
        match response.decision() {
            Decision::Allow => Answer::Allow(sorted(matched)),
            Decision::Deny if matched.is_empty() => Answer::NotPermitted,
            Decision::Deny if matched.iter().all(|rule| rule.escalates) => {
                match self.permitted(policies, slice) {
                    true => Answer::Escalate(sorted(matched)),
                    // No person could agree to it: to name the policies that ask for one would mislead.
                    false => Answer::NotPermitted,
                }
            }
            Decision::Deny => {
                let zero_b = matched.iter().any(|rule| rule.tier == Tier::ZeroB);
                Answer::Forbidden { policies: sorted(matched), zero_b }
            }
        }
    }

    /// Whether something permits it, once nothing asks for a person.
    fn permitted(&self, policies: &Policies, slice: &Slice) -> bool {
        let Some(rest) = &slice.without_escalations else { return false };
        let response = self.put(policies, rest);
        response.decision() == Decision::Allow && error(&response).is_none()
    }

    fn put(&self, policies: &Policies, set: &PolicySet) -> Response {
        policies.authorizer().is_authorized(&self.request, set, &self.cast.entities)
    }
}

impl Answer {
    /// One word, and the policies that determined it.
    pub(crate) fn summary(&self) -> (&'static str, &[PolicyRef]) {
        match self {
            Answer::NotAsked => ("not_asked", &[]),
            Answer::Allow(policies) => ("allow", policies),
            Answer::Prohibited(policies) | Answer::Forbidden { policies, .. } => ("deny", policies),
            Answer::NotPermitted => ("deny", &[]),
            Answer::Escalate(policies) => ("escalate", policies),
            Answer::Error(_) => ("error", &[]),
        }
    }
}

/// Cedar skips a policy that fails to evaluate, a `forbid` included; here any failure at all is a block.
fn error(response: &Response) -> Option<String> {
    response.diagnostics().errors().next().map(ToString::to_string)
}

fn references(policies: &Policies, response: &Response) -> Vec<PolicyRef> {
    sorted(rules(policies, response))
}

fn rules<'a>(policies: &'a Policies, response: &Response) -> Vec<&'a Rule> {
    let named = |id: &PolicyId| policies.rule(id.as_ref());
    response.diagnostics().reason().filter_map(named).collect()
}

fn sorted(rules: Vec<&Rule>) -> Vec<PolicyRef> {
    let mut out: Vec<PolicyRef> = rules.into_iter().map(|rule| rule.reference.clone()).collect();
    out.sort_by(|a, b| a.id.cmp(&b.id));
    out
}
