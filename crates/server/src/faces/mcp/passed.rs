//! Results that pass: as they came, but for what the revision of their client has otherwise.

use gateway::upstream::Said;
use rmcp::model::ErrorData;
use serde_json::Value;

use super::verbatim::{Members, object};

/// A kind of result.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Whether this can be one, whatever it says beside that.
    pub(super) is: fn(&Value) -> bool,
    /// Whether a client of 2026-07-28 is told for how long it is good.
    pub(super) is_kept: bool,
}

pub(super) const PROMPT: Kind =
    Kind { is: |it| are(&it["messages"], |it| has(it, "role") && it["content"].is_object()), is_kept: false };
pub(super) const RESOURCE: Kind = Kind { is: |it| are(&it["contents"], |it| has(it, "uri")), is_kept: true };
pub(super) const COMPLETION: Kind =
    Kind { is: |it| are(&it["completion"]["values"], Value::is_string), is_kept: false };
pub(super) const RESOURCES: Kind = Kind { is: |it| are(&it["resources"], is_resource), is_kept: true };
pub(super) const SKILLS: Kind = Kind { is: |it| are(&it["skills"], Value::is_object), is_kept: true };
pub(super) const SKILL: Kind = Kind { is: |it| it["skill"].is_object(), is_kept: true };
/// Of a method of a server's own.
pub(super) const OWN: Kind = Kind { is: Value::is_object, is_kept: false };

pub(super) fn is_prompt(it: &Value) -> bool {
    has(it, "name")
}

pub(super) fn is_resource(it: &Value) -> bool {
    has(it, "uri") && has(it, "name")
}

pub(super) fn is_template(it: &Value) -> bool {
    has(it, "uriTemplate") && has(it, "name")
}

fn has(it: &Value, name: &str) -> bool {
    it[name].is_string()
}

/// Whether this is an array of such.
pub(super) fn are(items: &Value, is: fn(&Value) -> bool) -> bool {
    items.as_array().is_some_and(|items| items.iter().all(is))
}

impl Kind {
    /// The text of what a server said, for a client with a session or without.
    ///
    /// # Errors
    /// It has another form.
    pub(super) fn told(self, said: &Said, has_session: bool) -> Result<String, ErrorData> {
        let members =
            serde_json::from_str::<Members<'_>>(said.text.get()).ok().filter(|_| (self.is)(&said.value));
        let members = members.ok_or_else(formless)?;
        Ok(told(&members.all().collect::<Vec<_>>(), self.is_kept, has_session))
    }
}

/// The result of these members.
pub(super) fn told(members: &[(&str, &str)], is_kept: bool, has_session: bool) -> String {
    let get = |name: &str| members.iter().find(|(it, _)| *it == name).map(|(_, value)| *value);
    let is_complete = get("resultType").is_none_or(|it| matches!(it, "null" | "\"complete\""));
    let says_how_long = !has_session && is_kept && is_complete;
    let is_ttl = |it: &str| it.parse().is_ok_and(|ttl: f64| ttl >= 0.0);
    let is_scope = |it: &str| matches!(it, "\"public\"" | "\"private\"");
    // What its server does not say, or not so that a client could go by it, is good for nobody else and for no time.
    let hints = [
        ("ttlMs", "0", get("ttlMs").is_some_and(is_ttl)),
        ("cacheScope", "\"private\"", get("cacheScope").is_some_and(is_scope)),
    ];
    let missing =
        hints.iter().filter(|(.., is_said)| says_how_long && !is_said).map(|(name, hint, _)| (*name, *hint));
    // Servers before 2026-07-28 do not say that it is complete, and clients before it do not know that.
    let complete = (!has_session && is_complete).then_some(("resultType", "\"complete\""));
    let is_ours =
        |name: &str| (name == "resultType" && is_complete) || missing.clone().any(|(ours, _)| ours == name);
    let theirs = members.iter().copied().filter(|(name, _)| !is_ours(name));
    object(complete.into_iter().chain(theirs).chain(missing.clone()))
}

pub(super) fn formless() -> ErrorData {
    ErrorData::internal_error("the server's answer has not the form of one", None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(text: &str) -> Said {
        Said { text: serde_json::from_str(text).unwrap(), value: serde_json::from_str(text).unwrap() }
    }

    #[test]
    fn what_passes_is_told_as_it_came_but_for_what_its_clients_revision_has_otherwise() {
        let resource = r#""contents":[{"uri":"a:b","new":1180591620717411303425}],"n":1.10,"x":null"#;
        let of = |more: &str, has_session| {
            RESOURCE.told(&said(&format!("{{{resource}{more}}}")), has_session).unwrap()
        };
        assert_eq!(of("", true), format!("{{{resource}}}"));
        assert_eq!(of(r#","resultType":"complete""#, true), format!("{{{resource}}}"));
        let whole = format!(r#"{{"resultType":"complete",{resource},"ttlMs":0,"cacheScope":"private"}}"#);
        assert_eq!(of("", false), whole);
        assert_eq!(of(r#","ttlMs":-1,"cacheScope":"""#, false), whole, "nobody can go by these");
        let kept = r#","ttlMs":5e3,"cacheScope":"public""#;
        assert_eq!(of(kept, false), format!(r#"{{"resultType":"complete",{resource}{kept}}}"#));
        assert_eq!(of(r#","resultType":"novel""#, false), format!(r#"{{{resource},"resultType":"novel"}}"#));
    }

    #[test]
    fn what_has_not_the_form_of_what_was_asked_for_is_not_told() {
        for (kind, right, wrong) in [
            (
                PROMPT,
                r#"{"messages":[{"role":"user","content":{"type":"novel"}}]}"#,
                r#"{"messages":[{"role":"user"}]}"#,
            ),
            (RESOURCE, r#"{"contents":[{"uri":"a:b","novel":1}]}"#, r#"{"contents":[{}]}"#),
            (COMPLETION, r#"{"completion":{"values":["a"],"novel":1}}"#, r#"{"completion":{"values":[1]}}"#),
            (RESOURCES, r#"{"resources":[{"uri":"a:b","name":"a"}]}"#, r#"{"resources":[{"uri":"a:b"}]}"#),
            (SKILLS, r#"{"skills":[{}]}"#, r#"{"skills":{}}"#),
            (OWN, "{}", "[]"),
        ] {
            assert!(kind.told(&said(right), true).is_ok(), "{right}");
            assert!(kind.told(&said(wrong), true).is_err(), "{wrong}");
        }
    }
}
