//! JSON as we accept it, and as we hash it.
//!
//! The usual parsers let two members of one name pass and round what does not fit, so that two programs can read
//! the same bytes differently. Here such a body is refused, with the place where it goes wrong.

mod read;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};

pub use read::{Misread, read};

/// How deep arrays and objects may be nested.
pub const MAX_DEPTH: usize = 64;
/// The largest integer that every JSON reader holds exactly.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;

/// A body that is not JSON as we accept it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {offset}")]
pub struct Malformed {
    /// Where reading stopped, in bytes from the start.
    pub offset: usize,
    /// The member that was being read, as a JSON pointer; empty for the whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Reads one JSON text, strictly: no byte order mark, no duplicate members, no integer outside ±(2^53-1), no
/// lone surrogate, no more than [`MAX_DEPTH`] levels, nothing after the value. Numbers that are whole become
/// integers, as RFC 8785 writes them (`1.0` is `1`).
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(bytes: &[u8]) -> Result<Value, Malformed> {
    read_whole(bytes, false)
}

/// The same of somebody else's text, in which whole numbers may be as large as they like: what has no exact place is the nearest that
/// has one.
///
/// # Errors
/// Those of [`parse`], and that a number is beyond all that we count with.
pub(crate) fn parse_wide(bytes: &[u8]) -> Result<Value, Malformed> {
    read_whole(bytes, true)
}

fn read_whole(bytes: &[u8], is_wide: bool) -> Result<Value, Malformed> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(Malformed {
            offset: 0,
            field: String::new(),
            message: "a byte order mark is not JSON".into(),
        });
    }
    let failed_in = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let strict = Strict { depth: 0, is_wide, failed_in: &failed_in };
    let value = strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| malformed(bytes, &failed_in.borrow(), &error))
}

/// The RFC 8785 form of a value.
pub fn canonical(value: &Value) -> String {
    let mut out = String::with_capacity(256);
    write_canonical(value, &mut out);
    out
}

/// An item of [`canonical_array`].
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A string.
    Text(&'a str),
    /// Any value.
    Value(&'a Value),
    /// A value in RFC 8785 form already.
    Canonical(&'a str),
}

impl<'a> From<Option<&'a str>> for Item<'a> {
    /// A string or `null`.
    fn from(text: Option<&'a str>) -> Item<'a> {
        text.map_or(Item::Canonical("null"), Item::Text)
    }
}

/// The RFC 8785 form of an array of items that lie in several places; none of them is copied for it.
pub fn canonical_array(items: &[Item<'_>]) -> String {
    let mut out = String::with_capacity(256);
    for (index, item) in items.iter().enumerate() {
        out.push(if index == 0 { '[' } else { ',' });
        match item {
            Item::Text(text) => write_string(text, &mut out),
            Item::Value(value) => write_canonical(value, &mut out),
            Item::Canonical(text) => out.push_str(text),
        }
    }
    out.push_str(if items.is_empty() { "[]" } else { "]" });
    out
}

/// Appends the RFC 8785 form of a value.
pub fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (name, member)) in sorted(members).into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write_canonical(member, out);
            }
            out.push('}');
        }
    }
}

/// Appends a string as RFC 8785 writes it, quotes included.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            8 => "\\b",
            9 => "\\t",
            10 => "\\n",
            12 => "\\f",
            13 => "\\r",
            0..=31 => "",
            _ => continue,
        };
        out.push_str(&text[written..at]);
        written = at + 1;
        if short.is_empty() {
            // Writing into a string cannot fail.
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(short);
        }
    }
    out.push_str(&text[written..]);
    out.push('"');
}

/// The members of an object in RFC 8785's order: by UTF-16 code units of their names.
pub fn sorted(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by(|(a, _), (b, _)| utf16_order(a, b));
    sorted
}

/// How two strings compare by UTF-16 code units.
pub fn utf16_order(a: &str, b: &str) -> Ordering {
    // Bytes of UTF-8 order by code point, which is the same until surrogates (U+10000 and up) come in.
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

/// Appends one segment to a JSON pointer.
pub fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for character in segment.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

fn write_number(number: &Number, out: &mut String) {
    // Writing into a string cannot fail; the library knows how ECMAScript prints a double.
    let _ = match number.as_i64() {
        Some(integer) if integer.unsigned_abs() <= MAX_INTEGER as u64 => write!(out, "{integer}"),
        _ => write!(out, "{}", serde_json_canonicalizer::to_string(number).unwrap_or_default()),
    };
}

/// Reads one value and, on the way out of an error, notes which member it was in.
#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    /// Whole numbers need not be exact.
    is_wide: bool,
    failed_in: &'a RefCell<Vec<String>>,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Strict { depth: self.depth + 1, ..self })
    }

    fn note<E>(self, segment: impl Into<String>) -> impl FnOnce(E) -> E {
        move |error| {
            self.failed_in.borrow_mut().push(segment.into());
            error
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_INTEGER as u64 && !self.is_wide {
            return Err(too_large());
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value < -MAX_INTEGER && !self.is_wide {
            return Err(too_large());
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if value.fract() != 0.0 || (self.is_wide && value.abs() > MAX_INTEGER as f64) {
            return Number::from_f64(value)
                .map(Value::Number)
                .ok_or_else(|| E::custom("not a finite number"));
        }
        if value.abs() > MAX_INTEGER as f64 {
            return Err(too_large());
        }
        Ok(Value::Number((value as i64).into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) =
            items.next_element_seed(inner).map_err(|e| self.note(values.len().to_string())(e))?
        {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if name.starts_with(PRIVATE) {
                return Err(self.note(&name)(A::Error::custom("a member must not have such a name")));
            }
            match values.entry(name) {
                Entry::Occupied(entry) => {
                    let error = A::Error::custom("a member of this name was already there");
                    return Err(self.note(entry.key().as_str())(error));
                }
                Entry::Vacant(entry) => match members.next_value_seed(inner) {
                    Ok(value) => {
                        entry.insert(value);
                    }
                    Err(error) => return Err(self.note(entry.key().as_str())(error)),
                },
            }
        }
        Ok(Value::Object(values))
    }
}

/// How members are called that serde_json takes for something else than members when it reads a [`Value`]: the text in one of
/// them is read as JSON. Whoever wrote it down once and reads it back would have another value.
pub const PRIVATE: &str = "$serde_json::private::";

fn too_large<E: serde::de::Error>() -> E {
    E::custom("a whole number outside ±(2^53-1) is not exact in JSON")
}

fn malformed(bytes: &[u8], failed_in: &[String], error: &serde_json::Error) -> Malformed {
    let mut field = String::new();
    // A name longer than this is no help to whoever reads the message.
    for segment in failed_in.iter().rev() {
        push_segment(&mut field, &segment.chars().take(64).collect::<String>());
        if field.len() > 256 {
            break;
        }
    }
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
    Malformed { offset: offset(bytes, error.line(), error.column()), field, message }
}

/// The reader counts lines and columns; a byte offset is what a program wants.
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let before = bytes.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1));
    (before.map(<[u8]>::len).sum::<usize>() + column.saturating_sub(1)).min(bytes.len())
}
