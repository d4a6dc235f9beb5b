//! Whether somebody could ever use an archetype: asked of the scopes of the policies alone, whatever their conditions.

use cedar_policy::{Context, Decision, EntityTypeName, Policy, PolicySet, ResourceConstraint};

use crate::ask::Question;
use crate::policies::Slice;
use crate::rule::{Rule, Tier};
use crate::{Caller, Policies};

impl Policies {
    /// Whether there may be an action of this archetype that the caller is let do, by the policies alone or by people: `false`
    /// only where [`crate::decide`] neither passes nor escalates any, whatever is asked and known. Where a tenant is only observed, that
    /// is what observing does not lift. Of an archetype that there is not, there is none.
    pub fn could_use(&self, caller: &Caller, archetype: &str, observe: bool) -> bool {
        let Some(slice) = self.slice(archetype).filter(|slice| slice.hard_denied.is_none()) else {
            return false;
        };
        // To be mistaken here hides what may be used; to show what may not costs a refusal.
        self.ask_scopes(slice, caller, observe).unwrap_or(true)
    }

    fn ask_scopes(&self, slice: &Slice, caller: &Caller, observe: bool) -> Result<bool, String> {
        let principal = self.principal(caller.is_human, caller.subject.as_str());
        let tenant = caller.tenant.as_str();
        let question = Question::new(self, slice, principal, tenant, None, Context::empty())?;
        let response = question.put(self, &slice.prospects);
        let against = || response.diagnostics().reason();
        let is_final = |rule: &Rule| matches!(rule.tier, Tier::ZeroA | Tier::ZeroB);
        Ok(match response.decision() {
            Decision::Allow => true,
            Decision::Deny => observe && !against().any(|id| self.rule(id.as_ref()).is_none_or(is_final)),
        })
    }
}

/// What is certain of policies before anything is asked: permits that might hold, without what they wait for, and forbids
/// that hold of every resource, have no condition, and are not for people to lift. No policy of these looks at the resource.
pub(crate) fn of(rules: &[&Rule], resource_type: &EntityTypeName) -> Result<PolicySet, String> {
    let mut prospects = Vec::new();
    for rule in rules {
        let scope = rule.policy.resource_constraint();
        let counts = match rule.forbids {
            true => is_certain(rule) && covers_all(&scope, resource_type),
            false => covers_some(&scope, resource_type),
        };
        if counts {
            prospects.push(scope_alone(&rule.policy)?);
        }
    }
    PolicySet::from_policies(prospects).map_err(|error| error.to_string())
}

fn is_certain(rule: &Rule) -> bool {
    rule.tier != Tier::Three && !rule.escalates && !rule.policy.has_non_scope_constraint()
}

fn covers_all(scope: &ResourceConstraint, resource_type: &EntityTypeName) -> bool {
    match scope {
        ResourceConstraint::Any => true,
        ResourceConstraint::Is(kind) => kind == resource_type,
        ResourceConstraint::In(_) | ResourceConstraint::Eq(_) | ResourceConstraint::IsIn(..) => false,
    }
}

fn covers_some(scope: &ResourceConstraint, resource_type: &EntityTypeName) -> bool {
    match scope {
        ResourceConstraint::Any | ResourceConstraint::In(_) => true,
        ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => kind == resource_type,
        ResourceConstraint::Eq(resource) => resource.type_name() == resource_type,
    }
}

/// The policy for whatever resource, on no condition.
fn scope_alone(policy: &Policy) -> Result<Policy, String> {
    // Through JSON, because Cedar has no other way to take a clause away; done once, when policies are loaded.
    let mut form = policy.to_json().map_err(|error| error.to_string())?;
    form["conditions"] = serde_json::json!([]);
    form["resource"] = serde_json::json!({"op": "All"});
    Policy::from_json(Some(policy.id().clone()), form).map_err(|error| error.to_string())
}
