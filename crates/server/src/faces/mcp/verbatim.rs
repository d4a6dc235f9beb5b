//! Results as they came, with what is ours in their `_meta`.
//!
//! rmcp has a form for a result of a tool, and drops what has no place in it. So a result that came from a server goes through
//! rmcp as a text, in a member that only we say, and takes the place of what carries it where the answer leaves us.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, MetaObject};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The members of an object, each as it came.
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What we say in `_meta`.
pub(super) type Marks = [(&'static str, Value)];

impl<'a> Members<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.get())
    }

    fn read_one<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.get(name)?).ok()
    }

    /// Its content, as far as that is of a kind that is known.
    pub(super) fn content(&self) -> Vec<ContentBlock> {
        let blocks: Vec<Value> = self.read_one("content").unwrap_or_default();
        blocks.into_iter().filter_map(|block| serde_json::from_value(block).ok()).collect()
    }

    /// In rmcp's form.
    pub(super) fn read(&self) -> CallToolResult {
        let mut result = CallToolResult::success(self.content());
        result.structured_content = self.read_one("structuredContent");
        result.is_error = self.read_one("isError");
        result.meta = self.read_one("_meta");
        result
    }

    /// The whole of it with these marks. Nothing, if a client with a session knows no such result.
    pub(super) fn with(&self, marks: &Marks, has_session: bool) -> Option<String> {
        if has_session && self.get("structuredContent").is_some_and(|it| !it.starts_with('{')) {
            return None;
        }
        serde_json::to_string(&Marked { of: self, marks, has_session }).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members<'a>, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Members<'de>, A::Error> {
                let mut all = Vec::with_capacity(8);
                while let Some(Name(name)) = from.next_key()? {
                    all.push((name, from.next_value()?));
                }
                Ok(Members(all))
            }
        }
        from.deserialize_map(All)
    }
}

/// Borrowed where it can be.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Marked<'a> {
    of: &'a Members<'a>,
    marks: &'a Marks,
    has_session: bool,
}

impl Serialize for Marked<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut members = to.serialize_map(None)?;
        // Servers before 2026-07-28 do not say so, and clients before it do not know it. Content everybody expects.
        if !self.has_session {
            members.serialize_entry("resultType", "complete")?;
        }
        if self.of.get("content").is_none_or(|content| content == "null") {
            members.serialize_entry("content", &[(); 0])?;
        }
        let ours = |name: &str, value: &RawValue| {
            matches!(name, "resultType" | "_meta") || (name == "content" && value.get() == "null")
        };
        for (name, value) in self.of.0.iter().filter(|(name, value)| !ours(name, value)) {
            members.serialize_entry(name, value)?;
        }
        members.serialize_entry("_meta", &Joined { theirs: self.of.get("_meta"), marks: self.marks })?;
        members.end()
    }
}

/// A server's `_meta` and ours.
struct Joined<'a> {
    theirs: Option<&'a str>,
    marks: &'a Marks,
}

impl Serialize for Joined<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let theirs = self.theirs.and_then(|text| serde_json::from_str::<Members<'_>>(text).ok());
        let mut members = to.serialize_map(None)?;
        for (name, value) in theirs.iter().flat_map(|theirs| &theirs.0) {
            members.serialize_entry(name, value)?;
        }
        for (name, value) in self.marks {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

/// What carries a result that is this text.
pub(super) fn as_it_came(text: String) -> CallToolResult {
    let mut result = CallToolResult::success(Vec::new());
    let mut meta = MetaObject::new();
    meta.0.insert(VERBATIM.to_owned(), text.into());
    result.meta = Some(meta);
    result
}

/// The text that a result carries, if it does.
pub(super) fn text_in(result: &CallToolResult) -> Option<&str> {
    result.meta.as_ref()?.get(VERBATIM)?.as_str()
}

/// An answer of this text.
pub(super) fn message(id: &(impl Serialize + ?Sized), text: &str) -> Option<Vec<u8>> {
    let id = serde_json::to_vec(id).ok()?;
    Some([b"{\"jsonrpc\":\"2.0\",\"id\":".as_slice(), &id, b",\"result\":", text.as_bytes(), b"}"].concat())
}

/// What leaves us, a message or events of a stream, with each text in the place of what carries it.
pub(super) fn unpacked(bytes: Bytes) -> Bytes {
    if !std::str::from_utf8(&bytes).is_ok_and(|said| said.contains(VERBATIM)) {
        return bytes;
    }
    bytes.split_inclusive(|byte| *byte == b'\n').flat_map(unpacked_line).collect::<Vec<u8>>().into()
}

fn unpacked_line(line: &[u8]) -> Vec<u8> {
    let said = line.strip_prefix(b"data:").unwrap_or(line);
    let (head, end) = (&line[..line.len() - said.len()], if line.ends_with(b"\n") { "\n" } else { "" });
    let answer = serde_json::from_slice::<Answer<'_>>(said).ok();
    match answer.and_then(|answer| message(answer.id, &answer.result.meta.text)) {
        Some(message) => [head, &message, end.as_bytes()].concat(),
        None => line.to_vec(),
    }
}

#[derive(serde::Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    result: Carrier,
}

#[derive(serde::Deserialize)]
struct Carrier {
    #[serde(rename = "_meta")]
    meta: Carried,
}

#[derive(serde::Deserialize)]
struct Carried {
    #[serde(rename = "io.countersign/verbatim")]
    text: String,
}

/// No server can say it: what begins so is struck from all that they say.
const VERBATIM: &str = "io.countersign/verbatim";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rmcp::model::{RequestId, ServerJsonRpcMessage, ServerResult};
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"{"content":[{"type":"text","text":"a","new":{"n":1180591620717411303425}}],"_meta":{"shop":1.10},"x":null}"#;

    fn with(text: &str, has_session: bool) -> Option<String> {
        let members: Members<'_> = serde_json::from_str(text).unwrap();
        members.with(&[("io.countersign/transaction", json!("t"))], has_session)
    }

    #[test]
    fn every_member_is_kept_as_it_came_and_ours_stand_beside_them() {
        let content = r#""content":[{"type":"text","text":"a","new":{"n":1180591620717411303425}}],"x":null"#;
        let meta = r#""_meta":{"shop":1.10,"io.countersign/transaction":"t"}"#;
        assert_eq!(with(TEXT, true).unwrap(), format!("{{{content},{meta}}}"));
        assert_eq!(with(TEXT, false).unwrap(), format!(r#"{{"resultType":"complete",{content},{meta}}}"#));
    }

    #[test]
    fn clients_with_a_session_get_no_form_that_they_do_not_know() {
        let told = with(r#"{"resultType":"complete","structuredContent":{}}"#, true).unwrap();
        assert_eq!(
            told,
            r#"{"content":[],"structuredContent":{},"_meta":{"io.countersign/transaction":"t"}}"#
        );
        assert_eq!(with(r#"{"structuredContent":[1]}"#, true), None);
        assert!(with(r#"{"structuredContent":[1]}"#, false).is_some());
    }

    #[test]
    fn a_text_comes_through_rmcp_as_it_is_whatever_it_is_packed_in() {
        let result = ServerResult::CallToolResult(as_it_came(TEXT.to_owned()));
        let packed = ServerJsonRpcMessage::response(result, RequestId::Number(7));
        let packed = serde_json::to_string(&packed).unwrap();
        let whole = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{TEXT}}}"#);
        assert_eq!(unpacked(packed.clone().into()), whole);
        let event = |data: &str| format!("id: 3\ndata:{data}\n\n");
        assert_eq!(unpacked(event(&packed).into()), event(&whole));
        for other in [
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{VERBATIM}"}}}}"#
            ),
            format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"x":{{"_meta":{{"{VERBATIM}":"{{}}"}}}}}}}}"#),
        ] {
            assert_eq!(unpacked(other.clone().into()), other);
        }
    }
}
