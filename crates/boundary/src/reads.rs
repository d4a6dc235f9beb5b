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
}
