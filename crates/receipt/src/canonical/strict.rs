use std::cell::RefCell;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::MAX_SAFE_INTEGER;
use crate::Error;

/// Parses JSON that need not be canonical and refuses what readers disagree about.
pub(super) fn parse(text: &[u8]) -> Result<Value, Error> {
    let path = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(text);
    // The path is not unwound by an error, so it still says where the error was.
    let fault =
        |error: serde_json::Error| Error::Json { pointer: pointer(&path.borrow()), why: error.to_string() };
    let value = Strict { path: &path }.deserialize(&mut reader).map_err(fault)?;
    reader.end().map_err(fault)?;
    Ok(value)
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1"))).collect()
}

/// Builds a `Value` as serde_json would, but refuses duplicate members and keeps track of where it is.
#[derive(Clone, Copy)]
struct Strict<'p> {
    path: &'p RefCell<Vec<String>>,
}

impl Strict<'_> {
    fn step(self, name: String) {
        self.path.borrow_mut().push(name);
    }

    fn back(self) {
        self.path.borrow_mut().pop();
    }
}

/// An item of an array; only when it begins does its index become part of the path.
struct Item<'p> {
    within: Strict<'p>,
    index: usize,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.within.step(self.index.to_string());
        let value = self.within.deserialize(deserializer)?;
        self.within.back();
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Item { within: self, index: array.len() })? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            self.step(name.clone());
            if object.contains_key(&name) {
                return Err(de::Error::custom("a member of this name came before"));
            }
            let value = members.next_value_seed(self)?;
            self.back();
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// The first integer in valid JSON that doubles cannot hold. The parser cannot be asked: beyond 64 bits it rounds.
pub(super) fn unsafe_integer(text: &[u8]) -> Option<String> {
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let length = match first {
            b'"' => 1 + string_length(tail),
            b'-' | b'0'..=b'9' => {
                let in_number = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let length = rest.iter().position(|b| !in_number(b)).unwrap_or(rest.len());
                let digits = if *first == b'-' { &rest[1..length] } else { &rest[..length] };
                let safe = std::str::from_utf8(digits)
                    .is_ok_and(|d| d.parse().is_ok_and(|i: u64| i <= MAX_SAFE_INTEGER));
                if digits.iter().all(u8::is_ascii_digit) && !safe {
                    return Some(String::from_utf8_lossy(&rest[..length]).into_owned());
                }
                length
            }
            _ => 1,
        };
        rest = &rest[length..];
    }
    None
}

/// The length of a string's text after its opening quote, closing quote included.
fn string_length(text: &[u8]) -> usize {
    let mut position = 0;
    while let Some(byte) = text.get(position) {
        match byte {
            b'"' => return position + 1,
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
    text.len()
}
