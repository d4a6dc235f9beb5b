//! YAML as we accept it: another spelling of what JSON says, and nothing that two readers take for different things.
//!
//! YAML 1.2, one document. Words have no second meaning (`no` and `on` are text), and what would be a number to YAML and
//! not to JSON (`012`, `0x1f`, `+1`, `.5`) is refused until it is quoted. So are anchors, aliases, tags, merge keys and
//! directives: what is written down is what is meant.

use crate::json::{self, MAX_DEPTH, Malformed};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::map::Entry;
use serde_json::{Map, Value};

/// Reads one YAML document to the value that the same JSON has, under the same bounds.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(bytes: &[u8]) -> Result<Value, Malformed> {
    let malformed =
        |offset, message: &str| Malformed { offset, field: String::new(), message: message.into() };
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(malformed(0, "a byte order mark has no place here"));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| malformed(error.valid_up_to(), "the text is not UTF-8"))?;
    if text.lines().take_while(|line| !line.starts_with("---")).any(|line| line.starts_with('%')) {
        return Err(malformed(0, "directives have no place here"));
    }
    let mut reading = Reading::default();
    for event in Parser::new_from_str(text) {
        let at = |span: &Span| byte_of(text, span.start.index());
        let (event, span) = event
            .map_err(|error| malformed(byte_of(text, error.marker().index()), "this is not YAML 1.2"))?;
        if let Err(message) = reading.take(event) {
            return Err(Malformed { offset: at(&span), field: reading.field(), message });
        }
    }
    reading.whole.ok_or_else(|| malformed(text.len(), "there is no document"))
}

/// A document under reading.
#[derive(Default)]
struct Reading {
    open: Vec<Open>,
    whole: Option<Value>,
    documents: usize,
}

/// An array or object that is not over yet; of an object, the member whose value comes next.
enum Open {
    List(Vec<Value>),
    Table(Map<String, Value>, Option<String>),
}

impl Reading {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 { Err("a second document has no place here".into()) } else { Ok(()) }
            }
            Event::Alias(_) => Err("an alias has no place here: write the value out".into()),
            Event::Scalar(text, style, anchor, tag) => {
                plain_node(anchor, tag.is_some())?;
                let value = match style {
                    ScalarStyle::Plain => resolved(&text)?,
                    _ => Value::String(text.into_owned()),
                };
                self.put(value, matches!(style, ScalarStyle::Plain))
            }
            Event::SequenceStart(anchor, tag) => self.open(anchor, tag.is_some(), Open::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                self.open(anchor, tag.is_some(), Open::Table(Map::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let value = match self.open.pop() {
                    Some(Open::List(items)) => Value::Array(items),
                    Some(Open::Table(members, _)) => Value::Object(members),
                    None => return Err("this is not YAML 1.2".into()),
                };
                self.put(value, false)
            }
        }
    }

    fn open(&mut self, anchor: usize, tagged: bool, open: Open) -> Result<(), String> {
        plain_node(anchor, tagged)?;
        if let Some(Open::Table(_, None)) = self.open.last() {
            return Err("the name of a member is not text".into());
        }
        if self.open.len() == MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a value where it belongs: as the whole, an item, a member's name or its value.
    fn put(&mut self, value: Value, plain: bool) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.whole = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Table(members, name @ None)) => match value {
                Value::String(text) if plain && text == "<<" => {
                    return Err("a merge key has no place here: write the members out".into());
                }
                Value::String(text) => {
                    let twice = members.contains_key(&text);
                    *name = Some(text);
                    if twice {
                        return Err("a member of this name was already there".into());
                    }
                }
                _ => return Err("the name of a member is not text: put it in quotes".into()),
            },
            Some(Open::Table(members, name)) => {
                if let Some(name) = name.take()
                    && let Entry::Vacant(entry) = members.entry(name)
                {
                    entry.insert(value);
                }
            }
        }
        Ok(())
    }

    /// The member that is being read, as a JSON pointer.
    fn field(&self) -> String {
        let mut field = String::new();
        for open in &self.open {
            match open {
                Open::List(items) => json::push_segment(&mut field, &items.len().to_string()),
                Open::Table(_, Some(name)) => {
                    json::push_segment(&mut field, &name.chars().take(64).collect::<String>());
                }
                Open::Table(_, None) => {}
            }
            if field.len() > 256 {
                break;
            }
        }
        field
    }
}

fn plain_node(anchor: usize, tagged: bool) -> Result<(), String> {
    match (anchor, tagged) {
        (_, true) => Err("a tag has no place here: quotes make text".into()),
        (0, false) => Ok(()),
        _ => Err("an anchor has no place here".into()),
    }
}

/// What a plain scalar says: null, true, false, a number as JSON writes it, or text.
fn resolved(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" => return Ok(Value::Null),
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        "Null" | "NULL" | "True" | "TRUE" | "False" | "FALSE" => {
            return Err("write null, true and false in small letters, or put it in quotes".into());
        }
        _ => {}
    }
    if !is_number(text) {
        return Ok(Value::String(text.to_owned()));
    }
    match json::parse(text.as_bytes()) {
        Ok(number @ Value::Number(_)) => Ok(number),
        Ok(_) => Err("this is not a number as JSON writes it: put it in quotes".into()),
        Err(error) if error.message.contains("2^53") => Err(error.message),
        Err(_) => Err("this is not a number as JSON writes it: put it in quotes".into()),
    }
}

/// Is it a number to the core schema of YAML 1.2?
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let exponent = exponent.is_none_or(|it| digits(it.strip_prefix(['-', '+']).unwrap_or(it)));
    let mantissa = match mantissa.split_once('.') {
        None => digits(mantissa),
        Some(("", after)) => digits(after),
        Some((before, after)) => digits(before) && (after.is_empty() || digits(after)),
    };
    mantissa && exponent
}

/// The reader counts characters.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn refused(text: &str) -> Malformed {
        parse(text.as_bytes()).map(|value| panic!("{text}: {value}")).unwrap_err()
    }

    #[test]
    fn it_says_what_json_says() {
        let yaml = "
            # a comment
            text: plain words, and more
            quoted: \"12.50\"
            'single': 'it''s'
            number: 12
            fraction: 1.5
            whole: 1.0
            nothing:
            null_too: ~
            flag: true
            list: [1, two, {three: 3}]
            block: |
              one
              two
            time: 2026-05-05T21:00:00Z
            version: 1.0.0
            address: 10.0.0.1
        ";
        let value = parse(yaml.as_bytes()).unwrap();
        let expected = json!({
            "text": "plain words, and more", "quoted": "12.50", "single": "it's", "number": 12, "fraction": 1.5,
            "whole": 1, "nothing": null, "null_too": null, "flag": true, "list": [1, "two", {"three": 3}],
            "block": "one\ntwo\n", "time": "2026-05-05T21:00:00Z", "version": "1.0.0", "address": "10.0.0.1",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn words_of_yaml_1_1_are_words() {
        for word in ["no", "No", "yes", "on", "off", "y", "n", "1_000", "190:20:30", "0b11", "2026-05-05"] {
            assert_eq!(parse(format!("it: {word}").as_bytes()).unwrap(), json!({ "it": word }));
        }
        assert_eq!(parse(b"no: 1").unwrap(), json!({ "no": 1 }));
    }

    #[test]
    fn what_readers_take_differently_is_refused_where_it_stands() {
        for wrong in [
            "012",
            "0x1f",
            "0o17",
            "+1",
            ".5",
            "5.",
            ".inf",
            "-.inf",
            ".nan",
            "True",
            "NULL",
            "-012",
            "9007199254740993",
            "1e400",
        ] {
            assert_eq!(refused(&format!("action:\n  it: {wrong}")).field, "/action/it", "{wrong}");
        }
    }

    #[test]
    fn nothing_stands_for_something_else() {
        for wrong in [
            "a: &x 1",
            "a: &x [1]",
            "a: &x 1\nb: *x",
            "a: !!str 1",
            "a: !secret {}",
            "a: {b: 1}\n<<: {c: 2}",
            "? [a]\n: 1",
            "1: a",
            "null: a",
            "%YAML 1.1\n---\na: 1",
            "a: 1\n---\nb: 2",
            "a: 1\na: 2",
            "a: {b: 1, b: 2}",
            "",
            "# nothing",
            "a: [1",
            "\u{feff}a: 1",
            "a: \"\\",
        ] {
            refused(wrong);
        }
        assert!(parse(b"a: \xff").is_err());
        assert_eq!(refused("a: {b: 1, b: 2}").field, "/a/b");
    }

    #[test]
    fn it_is_as_deep_as_json_may_be() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(json::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        refused(&nested(MAX_DEPTH + 1));
        refused(&"[".repeat(256 * 1024));
        refused(&"- ".repeat(128 * 1024));
        refused(&"{a: ".repeat(64 * 1024));
    }

    proptest! {
        /// JSON is YAML, and says the same by either.
        #[test]
        fn json_read_as_yaml_is_the_same(text in "[ -~]{0,20}", number in any::<i32>(), flag in any::<bool>()) {
            let value = json!({ "text": text, "list": [number, flag, null], "in": { "it": { "x": text } } });
            let written = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(parse(written.as_bytes()).unwrap(), json::parse(written.as_bytes()).unwrap());
        }

        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn whatever_looks_like_yaml_is_read_or_refused(text in "[-?:,{}#&*!|>'\"%@` a1\n\\[\\]]{0,80}") {
            let _ = parse(text.as_bytes());
        }
    }
}
