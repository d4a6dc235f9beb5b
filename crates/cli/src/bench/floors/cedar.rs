//! Cedar alone: one fifth of the policies forbid whatever the action, the rest permit one of fifty actions each; what
//! names other actions is left out beforehand, as the gateway does.

use cedar_policy::{
    ActionConstraint, Authorizer, Context as Facts, Decision, Entities, Entity, EntityUid, PolicySet,
    Request, RestrictedExpression,
};

use super::{Effort, Timed, timed};
use crate::error::{Context, Error, Result};

pub(crate) fn measure(count: usize, effort: &Effort) -> Result<Timed> {
    let cannot = || "Cedar refused the sample policies".to_owned();
    let [agent, action, account] = ["Agent::\"bench\"", "Action::\"a1\"", "Account::\"acct-0007\""];
    let agent: EntityUid = agent.parse().while_we(cannot)?;
    let action: EntityUid = action.parse().while_we(cannot)?;
    let account: EntityUid = account.parse().while_we(cannot)?;
    let all = [&agent, &action, &account].map(|uid| Entity::with_uid(uid.clone()));
    let entities = Entities::from_entities(all, None).while_we(cannot)?;
    let policies = slice(&policies(count), &action)?;
    let authorizer = Authorizer::new();
    timed(effort, || {
        let request = Request::new(agent.clone(), action.clone(), account.clone(), facts()?, None);
        let request = request.while_we(cannot)?;
        match authorizer.is_authorized(&request, &policies, &entities).decision() {
            Decision::Allow => Ok(()),
            Decision::Deny => Err(Error::new("Cedar denied the sample request")),
        }
    })
}

fn policies(count: usize) -> String {
    let policy = |n: usize| match n % 5 {
        0 => format!("forbid (principal, action, resource) when {{ context.amount > {} }};\n", 100_000 + n),
        _ => format!(
            "permit (principal, action == Action::\"a{}\", resource) \
             when {{ context.amount < {} && context.currency == \"USD\" }};\n",
            n % 50,
            50_000 + n
        ),
    };
    (0..count).map(policy).collect()
}

fn slice(text: &str, action: &EntityUid) -> Result<PolicySet> {
    let cannot = || "Cedar refused the sample policies".to_owned();
    let all: PolicySet = text.parse().while_we(cannot)?;
    let applies = |constraint: ActionConstraint| match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(named) => named == *action,
        ActionConstraint::In(named) => named.contains(action),
    };
    let kept = all.policies().filter(|policy| applies(policy.action_constraint())).cloned();
    PolicySet::from_policies(kept).while_we(cannot)
}

fn facts() -> Result<Facts> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let long = RestrictedExpression::new_long;
    let flag = RestrictedExpression::new_bool;
    let pairs = [
        ("amount", long(1250)),
        ("bound", long(1500)),
        ("currency", text("USD")),
        ("destination", text("acct-0007")),
        ("duplicate", flag(false)),
        ("environment", text("production")),
        ("first_seen", flag(false)),
        ("hour", long(12)),
        ("invoice", text("inv-000000000042")),
        ("level", long(2)),
        ("mandate", text("mnd-1")),
        ("note", text("Measured, and paid to nobody")),
        ("payment_mode", text("IMMEDIATE_CHARGE")),
        ("reversible", flag(false)),
        ("weekday", long(3)),
    ];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
    Facts::from_pairs(pairs).while_we(|| "Cedar refused the sample context".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_what_can_apply() {
        let action: EntityUid = "Action::\"a1\"".parse().expect("a name");
        for (count, kept) in [(10, 3), (100, 22)] {
            assert_eq!(slice(&policies(count), &action).expect("they parse").policies().count(), kept);
        }
    }
}
