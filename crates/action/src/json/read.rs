//! From a value to one of our own types.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use std::fmt;

use super::push_segment;

/// A value that is not of the type it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misread {
    /// The member at fault, as a JSON pointer; empty for the whole.
    pub field: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    NotAnObject,
    Other(String),
}

/// Reads one of our own types. Where the type is a struct nothing but an object will do: left to itself, serde takes a
/// list of its members as well, which no schema tells of and whose meaning changes with the order of our code.
///
/// # Errors
/// The first member that is wrong, missing or unknown.
pub fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, Misread> {
    T::deserialize(Reader { value, place: Place::Whole })
}

/// A value and where it stands in the one around it.
#[derive(Clone, Copy)]
struct Reader<'a> {
    value: &'a Value,
    place: Place<'a>,
}

#[derive(Clone, Copy)]
enum Place<'a> {
    Whole,
    Member(&'a str),
    Item(usize),
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Misread;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misread> {
        let read = match self.value {
            Value::Object(members) => {
                let member = |(name, value): (&'de String, &'de Value)| {
                    (name.as_str(), Reader { value, place: Place::Member(name) })
                };
                MapDeserializer::new(members.iter().map(member)).deserialize_any(visitor)
            }
            Value::Array(items) => {
                let item = |(at, value): (usize, &'de Value)| Reader { value, place: Place::Item(at) };
                SeqDeserializer::new(items.iter().enumerate().map(item)).deserialize_any(visitor)
            }
            scalar => scalar.deserialize_any(visitor).map_err(Misread::custom),
        };
        read.map_err(|misread| misread.within(self.place))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misread> {
        if !self.value.is_object() {
            return Err(Misread { field: String::new(), why: Why::NotAnObject }.within(self.place));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misread> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misread> {
        visitor.visit_newtype_struct(self)
    }

    /// Our enums are words.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misread> {
        let read = match self.value {
            Value::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            _ => Err(Misread::custom("not a string")),
        };
        read.map_err(|misread: Misread| misread.within(self.place))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Misread> for Reader<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Misread {
    fn within(mut self, place: Place<'_>) -> Misread {
        let mut field = String::new();
        match place {
            Place::Whole => return self,
            Place::Member(name) => push_segment(&mut field, name),
            Place::Item(at) => push_segment(&mut field, &at.to_string()),
        }
        field.push_str(&self.field);
        self.field = field;
        self
    }

    fn of_member(name: &str, why: serde_json::Error) -> Misread {
        Misread::custom(why).within(Place::Member(name))
    }
}

impl Error for Misread {
    fn custom<T: fmt::Display>(why: T) -> Misread {
        Misread { field: String::new(), why: Why::Other(why.to_string()) }
    }

    fn missing_field(name: &'static str) -> Misread {
        Misread::of_member(name, Error::missing_field(name))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Misread {
        Misread::of_member(name, Error::unknown_field(name, known))
    }
}

impl std::error::Error for Misread {}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Other(why) => f.write_str(why),
            Why::NotAnObject if self.field.is_empty() => f.write_str("the body is not a JSON object"),
            // Only what is one of our own structs is said not to be one, so that the name is ours and nobody is quoted.
            Why::NotAnObject => write!(f, "{} is not an object", self.field),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        item: String,
        count: Option<u8>,
        sum: Option<Sum>,
        #[serde(default)]
        parts: Vec<Sum>,
        #[serde(default)]
        whatever: Value,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Sum {
        amount: String,
    }

    fn refused(value: Value) -> (String, String) {
        let misread = read::<Order>(&value).unwrap_err();
        (misread.field.clone(), misread.to_string())
    }

    #[test]
    fn an_object_is_read_with_all_that_is_in_it() {
        let value = json!({
            "item": "x", "count": 3, "sum": {"amount": "1"}, "parts": [{"amount": "2"}], "whatever": [1, {"a": [null]}],
        });
        let sum = |amount: &str| Sum { amount: amount.into() };
        let order = Order {
            item: "x".into(),
            count: Some(3),
            sum: Some(sum("1")),
            parts: vec![sum("2")],
            whatever: json!([1, {"a": [null]}]),
        };
        assert_eq!(read(&value), Ok(order));
        let bare = read::<Order>(&json!({"item": "x", "count": null, "sum": null})).unwrap();
        assert_eq!((bare.count, bare.sum, bare.whatever), (None, None, Value::Null));
    }

    #[test]
    fn no_list_is_taken_for_an_object_however_deep() {
        for body in [json!([]), json!(["x", null, null, [], null]), json!("x"), json!(null), json!(1)] {
            assert_eq!(refused(body), (String::new(), "the body is not a JSON object".into()));
        }
        let of_sum = refused(json!({"item": "x", "sum": ["1"]}));
        assert_eq!(of_sum, ("/sum".into(), "/sum is not an object".into()));
        let of_part = refused(json!({"item": "x", "parts": [{"amount": "1"}, ["2"]]}));
        assert_eq!(of_part, ("/parts/1".into(), "/parts/1 is not an object".into()));
    }

    #[test]
    fn the_member_at_fault_is_named_however_deep() {
        for (value, field) in [
            (json!({}), "/item"),
            (json!({"item": 1}), "/item"),
            (json!({"item": "x", "count": 256}), "/count"),
            (json!({"item": "x", "a/b": 1}), "/a~1b"),
            (json!({"item": "x", "sum": {}}), "/sum/amount"),
            (json!({"item": "x", "parts": [{"amount": null}]}), "/parts/0/amount"),
            (json!({"item": "x", "parts": {}}), "/parts"),
        ] {
            assert_eq!(refused(value).0, field);
        }
        let unknown = refused(json!({"item": "x", "sums": 1})).1;
        assert!(unknown.starts_with("unknown field `sums`, expected one of `item`, "), "{unknown}");
    }

    #[test]
    fn a_word_is_one_of_those_there_are() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Yes,
        }
        assert_eq!(read(&json!("yes")), Ok(Word::Yes));
        assert_eq!(read::<Vec<Word>>(&json!(["no"])).unwrap_err().field, "/0");
        assert!(read::<Word>(&json!({"yes": null})).is_err());
    }
}
