//! What to do about a command that was not run: the gateway's answer in words.

use gateway::Code;
use serde_json::Value;

use super::Args;
use crate::out;

/// Why, in the stable words of the answer.
pub(super) fn reasons(answer: &Value) -> Option<String> {
    let words: Vec<String> = texts(&answer["details"]["reasons"]).map(out::shown).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// The message of the answer, what it names, and what can be done.
pub(super) fn tell(answer: &Value, args: &Args) {
    out::note(format_args!("  {}", out::shown(answer["message"].as_str().unwrap_or("it was not run"))));
    let policies: Vec<String> = texts(&answer["details"]["policies"]).map(out::shown).collect();
    if !policies.is_empty() {
        out::note(format_args!("  decided by: {}", policies.join(", ")));
    }
    for missing in answer["details"]["missing"].as_array().into_iter().flatten() {
        let text = |member: &str| out::shown(missing[member].as_str().unwrap_or_default());
        out::note(format_args!("  missing: {}: {}", text("field"), text("description")));
    }
    for advice in specific(answer, args).into_iter().chain(general(answer)) {
        out::note(format_args!("  - {advice}"));
    }
    if let Some(about) = of_the_key(answer, args) {
        out::note(format_args!("  - {about}"));
    }
}

/// What this very answer calls for.
fn specific(answer: &Value, args: &Args) -> Option<String> {
    let archetype = &args.archetype;
    Some(match texts(&answer["details"]["reasons"]).next()? {
        "out_of_scope" | "no_mandate" => format!(
            "the mandate has to name it: `countersign mandate issue --subject AGENT --scope {archetype}`, and its `jti` is \
             what the API key takes as --default-mandate"
        ),
        "not_permitted" => format!(
            "no policy permits it: put a `permit` for Action::\"{archetype}\" into the policy folder, and `countersign reload`"
        ),
        _ => return None,
    })
}

/// What the catalogue of errors advises.
fn general(answer: &Value) -> impl Iterator<Item = String> {
    let code = answer["code"].as_str().and_then(Code::parse);
    let advice = code.map(|code| server::errors::entry(code).remediation).unwrap_or_default();
    advice.iter().map(|advice| (*advice).to_owned())
}

/// What became of the key.
fn of_the_key(answer: &Value, args: &Args) -> Option<&'static str> {
    if args.key_from_time.is_some() && super::is_undecided_block(answer) {
        return Some("nothing ran: the same command line asks anew, also within the same period");
    }
    let stands = args.idempotency_key.is_some() || args.key_from_time.is_some();
    stands.then_some(
        "this is the key's answer from now on: what is mended is asked for with another --idempotency-key",
    )
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
