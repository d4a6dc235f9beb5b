//! What goes through rmcp as it came.
//!
//! rmcp has a form for whatever is said, and drops what has no place in it. So what came from a server goes through rmcp as a text,
//! in a member of `_meta` that only we say, and takes the place of what carries it where it leaves us: a result, or the parameters
//! of what a server asks or tells. What a client answers to a question is a text in the place of its result.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use gateway::upstream::VERBATIM;
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
    /// Those of a text; nothing, if that is no object.
    pub(super) fn of(text: &'a str) -> Option<Members<'a>> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (&**name, value.get()))
    }

    /// The object with another value in the place of one.
    pub(super) fn with_another(&self, name: &str, value: &str) -> String {
        object(self.all().map(|(it, before)| (it, if it == name { value } else { before })))
    }

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

/// An object of these members.
pub(super) fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = "{".to_owned();
    for (name, value) in members {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&quoted(name));
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}

/// A text as JSON has it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// What carries a result that is this text.
pub(super) fn as_it_came(text: String) -> CallToolResult {
    let mut result = CallToolResult::success(Vec::new());
    result.meta = Some(carrying(text));
    result
}

/// The `_meta` of what carries a text.
pub(super) fn carrying(text: String) -> MetaObject {
    let mut meta = MetaObject::new();
    meta.0.insert(VERBATIM.to_owned(), text.into());
    meta
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

/// A client's answer as rmcp is to take it: with a text in the place of its result. Nothing, if it is no answer.
pub(super) fn unread(message: &[u8]) -> Option<String> {
    let message = Members::of(std::str::from_utf8(message).ok()?)?;
    let result = message.get("result").filter(|_| message.get("method").is_none())?;
    Some(message.with_another("result", &quoted(result)))
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
    match std::str::from_utf8(said).ok().and_then(unpacked_message) {
        Some(message) => [head, message.as_bytes(), end.as_bytes()].concat(),
        None => line.to_vec(),
    }
}

fn unpacked_message(said: &str) -> Option<String> {
    let message = Members::of(said)?;
    match message.get("method") {
        Some(_) => Some(message.with_another("params", &unpacked_params(message.get("params")?)?)),
        None => Some(message.with_another("result", &unpacked_result(message.get("result")?)?)),
    }
}

/// A result: all of it, that of a task, or of what is asked in it.
fn unpacked_result(result: &str) -> Option<String> {
    let members = Members::of(result)?;
    if let Some(text) = members.carried() {
        return Some(text);
    }
    if let Some(text) = members.get("result").and_then(|result| Members::of(result)?.carried()) {
        return Some(members.with_another("result", &text));
    }
    let asked = Members::of(members.get("inputRequests")?)?;
    let asked: Vec<(&str, String)> = asked
        .all()
        .map(|(name, asked)| (name, unpacked_question(asked).unwrap_or_else(|| asked.to_owned())))
        .collect();
    let asked = object(asked.iter().map(|(name, asked)| (*name, &**asked)));
    Some(members.with_another("inputRequests", &asked))
}

fn unpacked_question(asked: &str) -> Option<String> {
    let asked = Members::of(asked)?;
    Some(asked.with_another("params", &unpacked_params(asked.get("params")?)?))
}

/// The parameters of what is asked or told, with what only the connection to the client says: how progress is known, and whatever is
/// the protocol's own in `_meta`.
fn unpacked_params(params: &str) -> Option<String> {
    let ours = Members::of(params)?;
    let text = ours.carried()?;
    let theirs = Members::of(&text)?;
    let is_of_connection = |name: &str| name == PROGRESS || name.starts_with("io.modelcontextprotocol/");
    let of = |members: &Members<'_>| members.get("_meta").map(str::to_owned).unwrap_or_default();
    let (our_meta, their_meta) = (of(&ours), of(&theirs));
    let (our_meta, their_meta) = (Members::of(&our_meta), Members::of(&their_meta));
    let from_theirs = their_meta.iter().flat_map(Members::all).filter(|(name, _)| !is_of_connection(name));
    let from_ours = our_meta.iter().flat_map(Members::all).filter(|(name, _)| is_of_connection(name));
    let meta: Vec<_> = from_theirs.chain(from_ours).collect();
    let has_meta = their_meta.is_some() || !meta.is_empty();
    let meta = object(meta);
    let ours = |name: &str| ours.get(name).filter(|_| name == PROGRESS);
    let rest = theirs.all().filter(|(name, _)| *name != "_meta");
    let rest = rest.map(|(name, value)| (name, ours(name).unwrap_or(value)));
    Some(object(rest.chain(has_meta.then_some(("_meta", &*meta)))))
}

impl Members<'_> {
    /// The text that they carry, if they do.
    fn carried(&self) -> Option<String> {
        Members::of(self.get("_meta")?)?.read_one(VERBATIM)
    }
}

const PROGRESS: &str = "progressToken";

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
        let task = format!(
            r#"{{"jsonrpc":"2.0","id":7,"result":{{"status":"completed","result":{}}}}}"#,
            packed_in_meta(TEXT)
        );
        let told = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"status":"completed","result":{TEXT}}}}}"#);
        assert_eq!(unpacked(task.into()), told);
        for other in [
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{VERBATIM}"}}}}"#
            ),
            format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"x":{{"_meta":{{"{VERBATIM}":"{{}}"}}}}}}}}"#),
        ] {
            assert_eq!(unpacked(other.clone().into()), other);
        }
    }

    fn packed_in_meta(text: &str) -> String {
        object([("_meta", &*object([(VERBATIM, &*quoted(text))]))])
    }

    #[test]
    fn what_is_asked_and_told_is_as_it_came_but_for_what_is_the_connections() {
        let theirs = r#"{"progressToken":1,"progress":1.0,"new":1e400,"_meta":{"shop":1.10,"progressToken":1,"io.modelcontextprotocol/a":1}}"#;
        let meta = format!(
            r#"{{"io.modelcontextprotocol/b":2,"progressToken":3,"shop":1.1,"{VERBATIM}":{}}}"#,
            quoted(theirs)
        );
        let packed = format!(r#"{{"progressToken":"mine","progress":1,"_meta":{meta}}}"#);
        let whole = r#"{"progressToken":"mine","progress":1.0,"new":1e400,"_meta":{"shop":1.10,"io.modelcontextprotocol/b":2,"progressToken":3}}"#;
        let told = |params: &str| {
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#)
        };
        assert_eq!(unpacked(told(&packed).into()), told(whole));
        let asks = |params: &str| {
            let asked = format!(
                r#"{{"a":{{"method":"roots/list","params":{params}}},"b":{{"method":"roots/list"}}}}"#
            );
            format!(
                r#"{{"jsonrpc":"2.0","id":7,"result":{{"resultType":"input_required","inputRequests":{asked}}}}}"#
            )
        };
        assert_eq!(unpacked(asks(&packed).into()), asks(whole));
        let bare = told(&packed_in_meta("{}"));
        assert_eq!(unpacked(bare.into()), told("{}"));
    }

    #[test]
    fn an_answer_of_a_clients_is_not_read_on_its_way() {
        let answer = r#"{"jsonrpc":"2.0","id":7,"result":{"a":1.0}}"#;
        assert_eq!(unread(answer.as_bytes()).unwrap(), r#"{"jsonrpc":"2.0","id":7,"result":"{\"a\":1.0}"}"#);
        for other in
            [r#"{"jsonrpc":"2.0","id":7,"error":{}}"#, r#"{"id":7,"method":"ping","result":{}}"#, "[]"]
        {
            assert_eq!(unread(other.as_bytes()), None, "{other}");
        }
    }
}
