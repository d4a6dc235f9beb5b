//! What only we say in `_meta`: it is by these names that a program tells the gateway's word from a server's.

use rmcp::model::InputResponses;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Whether a name in `_meta` is the gateway's.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("io.countersign/")
}

/// Strikes those names out of every `_meta` in what a server says, and whether there were any. What is structured for programs is
/// left as it is: there we say nothing beside a server.
pub fn strike_ours(said: &mut Value) -> bool {
    match said {
        Value::Array(items) => items.iter_mut().fold(false, |struck, item| strike_ours(item) | struck),
        Value::Object(members) => {
            members.iter_mut().fold(false, |struck, (name, member)| strike_member(name, member) | struck)
        }
        _ => false,
    }
}

fn strike_member(name: &str, member: &mut Value) -> bool {
    match (name, member) {
        ("_meta", Value::Object(meta)) => {
            let before = meta.len();
            meta.retain(|name, _| !is_ours(name));
            meta.len() < before
        }
        (name, _) if ITS_OWN.contains(&name) => false,
        (_, member) => strike_ours(member),
    }
}

/// The same of what has a form. Nothing, if it has none then.
pub(super) fn without_ours<T: Serialize + DeserializeOwned>(said: T) -> Option<T> {
    let mut value = serde_json::to_value(&said).ok()?;
    if strike_ours(&mut value) { serde_json::from_value(value).ok() } else { Some(said) }
}

/// The same of what a client answers to a server's questions: what is for the gateway is not for a server.
pub(super) fn without_ours_in(mut answers: InputResponses) -> InputResponses {
    for answer in answers.values_mut() {
        strike_ours(answer);
    }
    answers
}

/// Members whose value may be anything that a server's programs agree upon.
const ITS_OWN: [&str; 2] = ["structuredContent", "data"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_we_say_is_struck_from_every_meta_and_nothing_else_is() {
        let meta = json!({"io.countersign/outcome": {"kind": "executed"}, "shop/till": 3});
        let mut said = json!({
            "_meta": meta, "prompts": [{"name": "greet", "_meta": meta}], "structuredContent": {"_meta": meta},
            "data": {"_meta": meta}, "io.countersign/outcome": 1,
        });
        assert!(strike_ours(&mut said) && !strike_ours(&mut said.clone()));
        let left = json!({"shop/till": 3});
        assert_eq!((&said["_meta"], &said["prompts"][0]["_meta"]), (&left, &left));
        for own in ["structuredContent", "data"] {
            assert_eq!(said[own]["_meta"], meta, "it is the server's own");
        }
        assert_eq!(said["io.countersign/outcome"], 1, "no word of ours outside of `_meta`");
    }
}
