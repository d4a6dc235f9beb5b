//! What a request says that is a cycle of a governed session. It is the agent's own word, so it can only tighten.

use crate::refusal::Refusal;
use crate::request::pointer_to;
use crate::{card, text};
use serde_json::{Number, Value, json};

/// What a cycle says beside what is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AskedCycle {
    /// The declaration it stands on; where there is none, the newest one.
    pub intent_id: Option<String>,
    /// Its number; where there is none, the next one.
    pub sequence: Option<u64>,
    /// How sure the agent says it is: 0 to 1.
    pub confidence: Option<Number>,
    /// What the agent says of itself; to be quoted, never believed.
    pub self_assessment: Option<String>,
    /// What it might do next.
    pub branches: Vec<AskedBranch>,
    /// What it means to use up.
    pub resources: Resources,
}

/// Something that an agent might do next.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedBranch {
    /// Its kind.
    pub archetype: String,
    /// What it takes; an object.
    pub constraints: Value,
}

/// What is used up by one action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Units of the operator's own reckoning.
    pub compute_units: u64,
    /// The most at any one time.
    pub memory_bytes: u64,
    /// Bytes.
    pub network_egress_bytes: u64,
    /// Bytes.
    pub storage_bytes: u64,
}

/// Names of what a cycle says.
pub(crate) const MEMBERS: [&str; 6] =
    ["action_sequence_number", "branches", "confidence", "intent_id", "resources", "self_assessment"];
const MOST_BRANCHES: usize = 16;
const LONGEST_ASSESSMENT: usize = 2000;
/// The members of [`Resources`].
const RESOURCES: [&str; 4] = ["compute_units", "memory_bytes", "network_egress_bytes", "storage_bytes"];
/// What JSON carries exactly.
const MOST_NUMBER: u64 = (1 << 53) - 1;

impl AskedCycle {
    /// Reads back what was written with [`AskedCycle::to_value`].
    pub fn kept(value: Value) -> Option<AskedCycle> {
        let Value::Object(members) = value else { return None };
        let mut cycle = AskedCycle::default();
        members.into_iter().try_for_each(|(name, value)| cycle.set(&name, value)).ok()?;
        Some(cycle)
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) -> Result<(), Refusal> {
        self.read(name, value).map_err(|refusal| refusal.within(name))
    }

    fn read(&mut self, name: &str, value: Value) -> Result<(), Refusal> {
        match name {
            "intent_id" => {
                let id = value.as_str().filter(|text| is_name(text));
                self.intent_id = Some(id.ok_or_else(|| wrong("not an identifier"))?.to_owned());
            }
            "action_sequence_number" => {
                let number = value.as_u64().filter(|number| (1..=MOST_NUMBER).contains(number));
                self.sequence = Some(number.ok_or_else(|| wrong("not a whole number from 1"))?);
            }
            "confidence" => {
                let share = |number: &Number| number.as_f64().is_some_and(|it| (0.0..=1.0).contains(&it));
                let number = value.as_number().filter(|number| share(number));
                self.confidence = Some(number.ok_or_else(|| wrong("not a number from 0 to 1"))?.clone());
            }
            "self_assessment" => self.self_assessment = Some(assessment(&value)?),
            "branches" => self.branches = branches(value)?,
            "resources" => self.resources = Resources::read(&value)?,
            _ => return Err(wrong("no such member in a cycle")),
        }
        Ok(())
    }

    /// As it was asked: what was left out is not there.
    pub fn to_value(&self) -> Value {
        let AskedCycle { intent_id, sequence, confidence, self_assessment, branches, resources } = self;
        let branches: Vec<Value> = branches
            .iter()
            .map(|it| json!({ "archetype": it.archetype, "constraints": it.constraints }))
            .collect();
        let members = [
            ("action_sequence_number", sequence.map(Value::from)),
            ("branches", (!branches.is_empty()).then_some(Value::Array(branches))),
            ("confidence", confidence.clone().map(Value::Number)),
            ("intent_id", intent_id.clone().map(Value::String)),
            ("resources", (*resources != Resources::default()).then(|| resources.to_value())),
            ("self_assessment", self_assessment.clone().map(Value::String)),
        ];
        let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(there.collect())
    }

    /// The first member that is there.
    pub fn first_member(&self) -> Option<String> {
        self.to_value().as_object().and_then(|members| members.keys().next().cloned())
    }
}

impl Resources {
    /// Reads an object of whole numbers; what is left out is nothing.
    ///
    /// # Errors
    /// `ValidationFailed` naming the member.
    pub fn read(value: &Value) -> Result<Resources, Refusal> {
        let members = value.as_object().ok_or_else(|| wrong("not an object"))?;
        let mut resources = Resources::default();
        for (name, value) in members {
            let amount = value.as_u64().filter(|amount| *amount <= MOST_NUMBER);
            let amount = amount.ok_or_else(|| wrong("not a whole number").within(name));
            match name.as_str() {
                "compute_units" => resources.compute_units = amount?,
                "memory_bytes" => resources.memory_bytes = amount?,
                "network_egress_bytes" => resources.network_egress_bytes = amount?,
                "storage_bytes" => resources.storage_bytes = amount?,
                _ => return Err(Refusal::invalid(pointer_to(name), "no such resource")),
            }
        }
        Ok(resources)
    }

    /// Reads what a provider tells of its own accord, and how many members of that say nothing because they are none of
    /// these, or no whole number.
    pub fn told(value: &Value) -> (Resources, usize) {
        let amount = |name: &str| value[name].as_u64().map(|amount| amount.min(MOST_NUMBER));
        let read = RESOURCES.map(amount);
        let [compute_units, memory_bytes, network_egress_bytes, storage_bytes] =
            read.map(Option::unwrap_or_default);
        let resources = Resources { compute_units, memory_bytes, network_egress_bytes, storage_bytes };
        let said = match value {
            Value::Null => 0,
            Value::Object(members) => members.values().filter(|it| !it.is_null()).count(),
            _ => 1,
        };
        (resources, said.saturating_sub(read.into_iter().flatten().count()))
    }

    /// As it is read.
    pub fn to_value(self) -> Value {
        let Resources { compute_units, memory_bytes, network_egress_bytes, storage_bytes } = self;
        json!({
            "compute_units": compute_units, "memory_bytes": memory_bytes,
            "network_egress_bytes": network_egress_bytes, "storage_bytes": storage_bytes,
        })
    }
}

/// As a declaration is named.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(plain)
}

fn assessment(value: &Value) -> Result<String, Refusal> {
    let text = value.as_str().filter(|text| text.len() <= LONGEST_ASSESSMENT);
    let text = text.ok_or_else(|| wrong("not a string of at most 2000 bytes"))?;
    text::refuse_tricks(text)?;
    card::refuse(&json!({ "": text }), "", &[]).map_err(|refusal| Refusal { field: None, ..refusal })?;
    Ok(text.to_owned())
}

fn branches(value: Value) -> Result<Vec<AskedBranch>, Refusal> {
    let Value::Array(list) = value else { return Err(wrong("not a list")) };
    if !(1..=MOST_BRANCHES).contains(&list.len()) {
        return Err(wrong("not between 1 and 16 branches"));
    }
    let read = |(n, branch): (usize, Value)| {
        branch_of(branch).map_err(|refusal: Refusal| refusal.within(&n.to_string()))
    };
    (0..).zip(list).map(read).collect()
}

fn branch_of(value: Value) -> Result<AskedBranch, Refusal> {
    let Value::Object(mut members) = value else { return Err(wrong("not an object")) };
    let archetype = match members.remove("archetype") {
        Some(Value::String(name)) => name,
        _ => return Err(wrong("the kind of action is missing").within("archetype")),
    };
    let constraints = match members.remove("constraints") {
        Some(it @ Value::Object(_)) => it,
        _ => return Err(wrong("not an object").within("constraints")),
    };
    match members.keys().next() {
        Some(other) => Err(Refusal::invalid(pointer_to(other), "no such member in a branch")),
        None => Ok(AskedBranch { archetype, constraints }),
    }
}

fn wrong(why: &str) -> Refusal {
    Refusal::invalid("", why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_tells_is_read_as_far_as_it_says_something_and_the_rest_is_counted() {
        for (told, units, unread) in [
            (json!({"compute_units": 30, "storage_bytes": 0}), 30, 0),
            (json!({"compute_units": 30, "memory_bytes": "few", "others": 1}), 30, 2),
            (json!({"compute_units": 1.5, "storage_bytes": -1}), 0, 2),
            (json!({"compute_units": u64::MAX}), MOST_NUMBER, 0),
            (json!({"memory_bytes": null}), 0, 0),
            (json!({}), 0, 0),
            (Value::Null, 0, 0),
            (json!("30 units"), 0, 1),
            (json!([30]), 0, 1),
        ] {
            let (resources, said_nothing) = Resources::told(&told);
            assert_eq!((resources.compute_units, said_nothing), (units, unread), "{told}");
        }
    }
}
