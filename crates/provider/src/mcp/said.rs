//! What a server answered, as it came.
//!
//! rmcp reads an answer into forms of its own and drops what they do not have. So it is kept as a text, beside which there is
//! what it says, for whoever has to know that: the text is what its client gets.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use action::json::PRIVATE;
use rmcp::model::{CustomResult, InputRequests, InputRequiredResult, ServerResult};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::numerals;
use super::ours::strike_ours;
use super::verbatim;
use crate::secrets::Secret;

/// Something that a server says: a result, or the parameters of what it asks or tells.
#[derive(Debug)]
pub struct Said {
    /// As it came, on one line.
    pub text: Box<RawValue>,
    /// The same as far as numbers have a place in it.
    pub value: Value,
}

/// What a server wants to know before it goes on.
pub(super) struct Input {
    pub(super) requests: InputRequests,
    /// What it wants to see again.
    pub(super) state: Option<String>,
    /// How long all of it is.
    pub(super) length: usize,
}

impl Input {
    /// Whether the next round would be another request than this one.
    pub(super) fn says_something(&self) -> bool {
        !self.requests.is_empty() || self.state.is_some()
    }
}

impl Said {
    /// That of a text. Nothing, if it cannot be held.
    pub(super) fn of(text: &RawValue) -> Option<Said> {
        let twice = Cell::new(false);
        let read = |text: &str| {
            let mut reader = serde_json::Deserializer::from_str(text);
            Whole { twice: &twice }.deserialize(&mut reader).ok()
        };
        let within_reach = || read(&numerals::replaced(text.get(), numerals::within_reach));
        let value = read(text.get()).or_else(within_reach)?;
        // Of a member that is there twice nobody knows which one counts, so what was looked at is what is passed on.
        let text = if twice.get() { to_raw_value(&value).ok()? } else { on_one_line(text)? };
        Some(Said { text, value })
    }

    /// What a transport of ours has handed on through rmcp (see [`unread`]), or what rmcp has read.
    pub(super) fn of_result(result: ServerResult) -> Option<Said> {
        match result {
            ServerResult::CustomResult(CustomResult(Value::String(text))) => {
                Said::of(serde_json::from_str(&text).ok()?)
            }
            read => Said::of(&to_raw_value(&read).ok()?),
        }
    }

    /// The same without what the server was told in confidence.
    pub(super) fn without(mut self, secrets: &[Arc<Secret>]) -> Option<Said> {
        // Every one of them: the first that is found must not hide the next.
        let struck = secrets.iter().filter(|secret| secret.strike_from_json(&mut self.value)).count();
        // A number beyond 64 bits is another one in the value, and stands in the text as it came.
        let stands = |secret: &Arc<Secret>| secret.strike_from(&mut self.text.get().to_owned());
        if struck > 0 || secrets.iter().any(stands) {
            self.text = to_raw_value(&self.value).ok()?;
        }
        Some(self)
    }

    /// The same without what only we say in `_meta`. Nothing, if it cannot be held then.
    pub fn without_ours(mut self) -> Option<Said> {
        // A name may be written with escapes.
        let may_be_there = ["io.countersign", "\\u", "\\/"].iter().any(|it| self.text.get().contains(it));
        if may_be_there && strike_ours(&mut self.value) {
            self.text = to_raw_value(&self.value).ok()?;
        }
        Some(self)
    }

    /// In a form. Nothing, if it has another one.
    pub(super) fn read<T: DeserializeOwned>(self) -> Option<T> {
        serde_json::from_value(self.value).ok()
    }

    /// Whether its server asks something first.
    pub(super) fn asks(&self) -> bool {
        self.value["resultType"] == "input_required"
    }

    /// What it asks; nothing, if that has no form.
    pub(super) fn input(self) -> Option<Input> {
        let said = self.without_ours()?;
        let (length, text) = (said.text.get().len(), said.text.clone());
        let InputRequiredResult { input_requests, request_state, .. } = said.read()?;
        let mut requests = input_requests.unwrap_or_default();
        verbatim::put_beside(&mut requests, &text);
        Some(Input { requests, state: request_state, length })
    }

    /// Whether it can be the result of a tool, whatever it says beside that: clients throw away what has not this form.
    pub(super) fn is_of_tool(&self) -> bool {
        let Some(members) = self.value.as_object() else { return false };
        let is_or_absent =
            |name: &str, is: fn(&Value) -> bool| members.get(name).is_none_or(|it| it.is_null() || is(it));
        let says_something =
            ["content", "structuredContent", "isError"].iter().any(|it| members.contains_key(*it));
        let is_complete = members.get("resultType").is_none_or(|it| it.is_null() || it == "complete");
        let blocks = members.get("content").and_then(Value::as_array);
        says_something
            && is_complete
            && is_or_absent("content", Value::is_array)
            && is_or_absent("isError", Value::is_boolean)
            && is_or_absent("_meta", Value::is_object)
            && blocks.is_none_or(|blocks| blocks.iter().all(is_block))
    }
}

/// A result on its way through rmcp, which finds no form of its own in a text, and so leaves it as it is.
pub(super) fn unread(text: &RawValue) -> ServerResult {
    ServerResult::CustomResult(CustomResult(Value::String(text.get().to_owned())))
}

/// Whether this is a piece of content; of a kind that is not known, it may have any form.
fn is_block(block: &Value) -> bool {
    let is_text = |of: &Value, name: &str| of[name].is_string();
    match block["type"].as_str() {
        Some("text") => is_text(block, "text"),
        Some("image" | "audio") => is_text(block, "data") && is_text(block, "mimeType"),
        Some("resource") => is_text(&block["resource"], "uri"),
        Some("resource_link") => is_text(block, "uri") && is_text(block, "name"),
        kind => kind.is_some(),
    }
}

/// Lines divide messages over pipes and in streams of events; within a message they are only space.
fn on_one_line(text: &RawValue) -> Option<Box<RawValue>> {
    let is_end = |character| matches!(character, '\n' | '\r');
    if !text.get().contains(is_end) {
        return Some(text.to_owned());
    }
    RawValue::from_string(text.get().replace(is_end, " ")).ok()
}

/// Reads a value, and sees whether any member is there twice.
#[derive(Clone, Copy)]
struct Whole<'a> {
    twice: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any value")
    }

    fn visit_bool<E>(self, it: bool) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_i64<E>(self, it: i64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_u64<E>(self, it: u64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_f64<E>(self, it: f64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_str<E>(self, it: &str) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_string<E>(self, it: String) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            // Whoever reads the text once more would have another value: what is accepted is not what is shown.
            if name.starts_with(PRIVATE) {
                return Err(A::Error::custom("a member must not have such a name"));
            }
            if all.insert(name, members.next_value_seed(self)?).is_some() {
                self.twice.set(true);
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(text: &str) -> Option<Said> {
        Said::of(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_text_is_kept_as_it_came_on_one_line() {
        let text = "{\"n\": 1180591620717411303425,\n \"x\":\t[1.0, 1e2, null, \"a\\nb\"]}";
        let said = said(text).unwrap();
        assert_eq!(said.text.get(), text.replace('\n', " "));
        assert_eq!(said.value["x"][3], "a\nb");
    }

    #[test]
    fn what_would_be_read_as_something_else_the_next_time_is_not_held() {
        let hidden = "{\"$serde_json::private::RawValue\":\"{\\\"a\\\":1}\"}";
        assert_eq!(serde_json::from_str::<Value>(hidden).unwrap(), serde_json::json!({"a": 1}));
        for text in [hidden.to_owned(), format!("[[{hidden}]]"), format!("{{\"n\":1e400,\"b\":{hidden}}}")] {
            assert!(said(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_number_beyond_all_that_we_count_with_is_kept_as_it_came() {
        let said = said(r#"{"n":[1e400,-1e999,2]}"#).unwrap();
        assert_eq!(said.text.get(), r#"{"n":[1e400,-1e999,2]}"#);
        assert_eq!(said.value["n"], serde_json::json!([f64::MAX, f64::MIN, 2]));
    }

    #[test]
    fn what_only_we_say_is_struck_also_where_it_is_written_with_escapes() {
        let struck = |text: &str| said(text).unwrap().without_ours().unwrap().text.get().to_owned();
        for ours in [
            r#""io.countersign/receipt":1,"#,
            r#""io\u002ecountersign/receipt":1,"#,
            r#""io.countersign\/receipt":1,"#,
        ] {
            assert_eq!(struck(&format!(r#"{{"_meta":{{{ours}"shop":1.10}}}}"#)), r#"{"_meta":{"shop":1.1}}"#);
        }
        let plain = r#"{"_meta":{"shop":1.10,"n":1180591620717411303425}}"#;
        assert_eq!(struck(plain), plain);
    }

    #[test]
    fn of_a_member_that_is_there_twice_one_is_left_however_deep_it_lies() {
        let said = said(r#"{"a":[{"_meta":{"io.countersign/outcome":1},"_meta":{}}]}"#).unwrap();
        assert_eq!(said.text.get(), r#"{"a":[{"_meta":{}}]}"#);
        assert!(self::said(&format!("{}{}", "[".repeat(500), "]".repeat(500))).is_none());
    }

    #[test]
    fn a_result_of_a_tool_may_say_more_and_not_less() {
        for right in [
            r#"{"content":[{"type":"text","text":"a","x":1},{"type":"hologram"}],"y":{}}"#,
            r#"{"content":[],"isError":true,"_meta":null,"resultType":"complete"}"#,
            r#"{"structuredContent":null}"#,
            r#"{"content":[{"type":"resource","resource":{"uri":"a:b"}},{"type":"audio","data":"","mimeType":"a/b"}]}"#,
        ] {
            assert!(said(right).unwrap().is_of_tool(), "{right}");
        }
        for wrong in [
            "null",
            "[]",
            "{}",
            r#"{"_meta":{}}"#,
            r#"{"content":{}}"#,
            r#"{"content":[{"text":"a"}]}"#,
            r#"{"content":[{"type":"text"}]}"#,
            r#"{"content":[{"type":"image","data":""}]}"#,
            r#"{"content":[],"isError":"no"}"#,
            r#"{"content":[],"_meta":[]}"#,
            r#"{"content":[],"resultType":"task"}"#,
        ] {
            assert!(!said(wrong).unwrap().is_of_tool(), "{wrong}");
        }
    }
}
