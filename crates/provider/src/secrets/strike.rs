//! Taking a secret out of what came from outside, also where that is written as JSON writes it.

use serde_json::Value;
use zeroize::Zeroize;

/// What stands in its place.
const STRUCK: &str = "[secret]";

/// Takes the value out of a text, as it is and with the escapes of JSON, in whatever depth: a text may quote JSON that quotes
/// JSON. Whether it was there.
pub(super) fn from_text(value: &str, text: &mut String) -> bool {
    let mut found = false;
    if text.contains(value) {
        replace(text, |text| text.replace(value, STRUCK));
        found = true;
    }
    if !text.contains('\\') {
        return found;
    }
    let (value, quoting) = (Plain::of(value), Plain::of(text));
    let (mut clean, mut kept) = (String::new(), 0);
    // Of a value of nothing but backslashes nothing is left to look for.
    for (at, _) in quoting.text.match_indices(&value.text).filter(|_| !value.text.is_empty()) {
        clean.push_str(&text[kept..quoting.origin(at)]);
        clean.push_str(STRUCK);
        kept = quoting.origin(at + value.text.len());
    }
    if kept > 0 {
        clean.push_str(&text[kept..]);
        replace(text, |_| clean);
        found = true;
    }
    found
}

/// The same from all that is text in a value of JSON, the names of its members included, and from a number that is the secret.
/// Whether it was there.
pub(super) fn from_json(value: &str, json: &mut Value) -> bool {
    match json {
        Value::String(text) => from_text(value, text),
        Value::Array(items) => items.iter_mut().fold(false, |found, item| from_json(value, item) | found),
        Value::Object(members) => {
            let mut found =
                members.values_mut().fold(false, |found, member| from_json(value, member) | found);
            if members.keys().any(|name| from_text(value, &mut name.clone())) {
                let named = |(mut name, member): (String, Value)| {
                    from_text(value, &mut name);
                    (name, member)
                };
                *members = std::mem::take(members).into_iter().map(named).collect();
                found = true;
            }
            found
        }
        Value::Number(number) if number.to_string() == value => {
            *json = STRUCK.into();
            true
        }
        Value::Number(_) | Value::Bool(_) | Value::Null => false,
    }
}

fn replace(text: &mut String, by: impl FnOnce(&str) -> String) {
    let clean = by(text);
    text.zeroize();
    *text = clean;
}

/// A text without its escapes: what `\u…` stands for in its place, and no other backslash. So whatever is written with escapes,
/// and its escapes with escapes, looks alike.
struct Plain {
    text: String,
    /// Where in the original the character of each byte begins, and where that ends.
    begins: Vec<usize>,
}

impl Plain {
    fn of(text: &str) -> Plain {
        let mut plain =
            Plain { text: String::with_capacity(text.len()), begins: Vec::with_capacity(text.len() + 1) };
        let mut at = 0;
        while let Some((character, end)) = next(text, at) {
            // One that is written as `\u005c` is no less a backslash.
            if let Some(character) = character.filter(|character| *character != '\\') {
                plain.text.push(character);
                plain.begins.resize(plain.text.len(), at);
            }
            at = end;
        }
        plain.begins.push(at);
        plain
    }

    /// Where in the original this place is.
    fn origin(&self, at: usize) -> usize {
        self.begins.get(at).copied().unwrap_or_default()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

/// The character that begins here, with all backslashes before it, and where it ends; none where there is none.
fn next(text: &str, at: usize) -> Option<(Option<char>, usize)> {
    let Some((unit, end)) = escape(text, at) else {
        let after = past_backslashes(text, at);
        let character = text.get(after..)?.chars().next();
        let end = after + character.map_or(0, char::len_utf8);
        return (end > at).then_some((character, end));
    };
    let second = |end| {
        let (second, end) = escape(text, end)?;
        Some((char::decode_utf16([unit, second]).next()?.ok()?, end))
    };
    match (char::from_u32(unit.into()), second(end)) {
        // What does not fit into one is written as two.
        (None, Some((character, end))) => Some((Some(character), end)),
        (character, _) => Some((character, end)),
    }
}

/// The unit of UTF-16 that is written here as backslashes and `uXXXX`, and where it ends.
fn escape(text: &str, at: usize) -> Option<(u16, usize)> {
    let after = past_backslashes(text, at);
    let digits = text.get(after..)?.strip_prefix('u').filter(|_| after > at)?.get(..4)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let unit = u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    Some((unit, after + 5))
}

fn past_backslashes(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.len() - rest.trim_start_matches('\\').len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const VALUE: &str = "a\"b\\c/é😀";

    #[test]
    fn a_value_is_found_however_json_writes_it() {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let once = quoted(VALUE);
        for written in [
            VALUE.to_owned(),
            quoted(&once),
            quoted(&quoted(&once)),
            r#"{"key": "a\"b\\c\/\u00e9\ud83d\uDE00"}"#.to_owned(),
            r"a\u0022b\u005Cc/é😀".to_owned(),
            once,
        ] {
            let mut text = format!("before {written} between {written} after");
            assert!(from_text(VALUE, &mut text), "{written}");
            assert_eq!(text.matches(STRUCK).count(), 2, "{text}");
            assert!(text.starts_with("before ") && text.ends_with(" after"), "{text}");
            assert!(!text.contains('é') && !text.contains("00e9"), "{text}");
        }
    }

    #[test]
    fn what_is_something_else_stays_as_it_is() {
        for written in
            ["", "\\", "a\\", "\\u12", "\\ud83d", "\\ud83d\\u0041", "a\"b\\c/e", r"C:\users\é\\", "\\\\"]
        {
            for value in [VALUE, "\\", "\\\\\\"] {
                let mut text = written.to_owned();
                if !text.contains(value) {
                    assert!(!from_text(value, &mut text), "{value} {written}");
                    assert_eq!(text, written);
                }
            }
        }
    }

    #[test]
    fn names_items_and_numbers_are_looked_at() {
        let mut json = json!({"a": [{"x s3cr3t y": "s3cr3t"}], "b": 12, "s3cr3t": null});
        assert!(from_json("s3cr3t", &mut json));
        assert_eq!(json, json!({"a": [{"x [secret] y": "[secret]"}], "b": 12, "[secret]": null}));
        assert!(from_json("12", &mut json));
        assert_eq!(json["b"], "[secret]");
        assert!(!from_json("12", &mut json));
    }
}
