//! Which attributes of the context policies can look at, so that no others need be made.
//!
//! Making a context costs more than evaluating a handful of policies, and most policies look at two or three of its
//! attributes. What a policy names is read off its JSON form when it is loaded.

use std::collections::{BTreeMap, BTreeSet};

use action::Attribute;
use serde_json::Value;

/// The attributes that some policies can look at, two levels deep.
///
/// INVARIANT (reads): whatever is left out is named by none of them, so it cannot change what they evaluate to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// The context as a whole is used as a value.
    all: bool,
    members: BTreeMap<String, Members>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Members {
    All,
    Some(BTreeSet<String>),
}

impl Reads {
    /// What a policy, in Cedar's JSON form, can look at.
    pub(crate) fn of(policy: &Value) -> Reads {
        let mut reads = Reads::default();
        reads.visit(policy);
        reads
    }

    /// What a policy can look at that is not understood: everything.
    pub(crate) fn everything() -> Reads {
        Reads { all: true, members: BTreeMap::new() }
    }

    /// Whether the attribute can be looked at.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.all || self.members.contains_key(name)
    }

    /// What either can look at.
    pub(crate) fn merge(&mut self, other: &Reads) {
        self.all |= other.all;
        for (name, members) in &other.members {
            match members {
                Members::All => self.add(name, None),
                Members::Some(inner) => inner.iter().for_each(|second| self.add(name, Some(second))),
            }
        }
    }

    /// The attributes that can be looked at.
    pub(crate) fn filter<'a>(
        &self,
        attributes: &[(&'a str, Attribute<'a>)],
    ) -> Vec<(&'a str, Attribute<'a>)> {
        if self.all {
            return attributes.to_vec();
        }
        let kept = attributes.iter().filter_map(|(name, value)| {
            let value = match (self.members.get(*name)?, value) {
                (Members::Some(inner), Attribute::Record(members)) => {
                    let kept = members.iter().filter(|(name, _)| inner.contains(*name));
                    Attribute::Record(kept.cloned().collect())
                }
                _ => value.clone(),
            };
            Some((*name, value))
        });
        kept.collect()
    }

    fn visit(&mut self, node: &Value) {
        if let Some(path) = path(node) {
            match path.as_slice() {
                [] => self.all = true,
                [first] => self.add(first, None),
                [first, second, ..] => self.add(first, Some(second)),
            }
            return;
        }
        match node {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Object(members) => members.values().for_each(|member| self.visit(member)),
            _ => {}
        }
    }

    fn add(&mut self, first: &str, second: Option<&str>) {
        let members = self.members.entry(first.to_owned()).or_insert_with(|| Members::Some(BTreeSet::new()));
        match (members, second) {
            (Members::All, _) => {}
            (members, None) => *members = Members::All,
            (Members::Some(inner), Some(second)) => drop(inner.insert(second.to_owned())),
        }
    }
}

/// Whether a policy can look at how much is left of a mandate: that may be another by the time of admission. Whether there
/// is time at all is held there, and what is limited stays so.
pub(crate) fn looks_at_left(node: &Value) -> bool {
    if asks_for_time(node) || node.get("has").is_some_and(|_| path(node).is_some()) {
        return false;
    }
    if let Some(path) = path(node) {
        return match path.as_slice() {
            [] | ["cycle" | "mandate"] => true,
            ["cycle", member, ..] | [member, ..] if LEFT_OF_TIME.contains(member) => true,
            ["mandate", member, ..] => LEFT_OF_CAP.contains(member),
            _ => false,
        };
    }
    match node {
        Value::Array(items) => items.iter().any(looks_at_left),
        Value::Object(members) => members.values().any(looks_at_left),
        _ => false,
    }
}

/// `context.time_budget_remaining > 0`, of the gate or of a cycle.
fn asks_for_time(node: &Value) -> bool {
    let Some(compared) = node.get(">").filter(|compared| compared["right"]["Value"] == 0) else {
        return false;
    };
    matches!(
        path(&compared["left"]).as_deref(),
        Some(["time_budget_remaining"] | ["cycle", "time_budget_remaining"])
    )
}

const LEFT_OF_TIME: [&str; 2] = ["resource_envelope", "time_budget_remaining"];
const LEFT_OF_CAP: [&str; 2] = ["actions_left", "spend_left"];

/// The names from the context down, when the node is the context or an attribute of it; `has` asks for one, too.
fn path(node: &Value) -> Option<Vec<&str>> {
    let members = node.as_object().filter(|members| members.len() == 1)?;
    let (operator, operand) = members.iter().next()?;
    match (operator.as_str(), operand) {
        ("Var", Value::String(name)) => (name == "context").then(Vec::new),
        ("." | "has", Value::Object(operand)) => {
            let mut path = path(operand.get("left")?)?;
            match operand.get("attr")? {
                Value::String(name) => path.push(name),
                // `has a.b.c` names the whole way.
                Value::Array(names) => {
                    path.extend(names.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?)
                }
                _ => return None,
            }
            Some(path)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn check(condition: &str, expected: &[&str]) {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let policy: cedar_policy::Policy = text.parse().unwrap();
        let reads = Reads::of(&policy.to_json().unwrap());
        let mut found = Vec::new();
        if reads.all {
            found.push("*".to_owned());
        }
        for (name, members) in &reads.members {
            match members {
                Members::All => found.push(name.clone()),
                Members::Some(inner) => found.extend(inner.iter().map(|second| format!("{name}.{second}"))),
            }
        }
        assert_eq!(found, expected, "{condition}");
    }

    #[test]
    fn what_a_policy_names_is_what_it_reads() {
        check("true", &[]);
        check("principal.owner == resource", &[]);
        check("context.tenant == \"a\"", &["tenant"]);
        check("context has amount && context.amount.minor > 5", &["amount"]);
        check("context.time.hour < 5 || context.time.minute < 5", &["time.hour", "time.minute"]);
        check("context.constraints has note", &["constraints.note"]);
        check("context has constraints.payee.iban", &["constraints.payee"]);
        check("context[\"odd name\"] like \"x*\"", &["odd name"]);
        check("[context.a, 1].contains(context.b.c.d)", &["a", "b.c"]);
        check("context.amount == {minor: 5, currency: \"USD\"}", &["amount"]);
        check("context == {a: 1}", &["*"]);
        check("(if principal == resource then context else {a: 1}).a == 1", &["*"]);
        check("{a: context.x}.a == 1", &["x"]);
        check("context.a == \"context\"", &["a"]);
    }

    #[test]
    fn what_is_left_is_looked_at_where_it_may_be_another_at_admission() {
        let looks = |condition: &str| {
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            let policy: cedar_policy::Policy = text.parse().unwrap();
            looks_at_left(&policy.to_json().unwrap())
        };
        for left in [
            "context.time_budget_remaining > 5",
            "context has cycle && context.cycle.time_budget_remaining >= 0",
            "context.resource_envelope.compute_units < 5",
            "context.cycle.resource_envelope == {memory_bytes: 5}",
            "context.mandate.spend_left.minor > 5 || false",
            "context has mandate.actions_left && context.mandate[\"actions_left\"] == 5",
            "context.mandate == {id: \"m\"}",
            "context == {a: 1}",
        ] {
            assert!(looks(left), "{left}");
        }
        for other in [
            "context.time_budget_remaining > 0 && context.intent_valid",
            "context has cycle && context.cycle.time_budget_remaining > 0",
            "context has mandate.spend_left",
            "context has mandate && context.mandate.id == \"m\" && context.mandate.expires_in_seconds > 5",
            "context.cycle.prior_denial_count < 3",
            "true",
        ] {
            assert!(!looks(other), "{other}");
        }
    }
}
