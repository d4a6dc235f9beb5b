//! A tool as its server tells of it, and foreign text made fit for files that people read.

use action::is_hidden;
use provider::mcp::SeenTool;
use serde_json::{Map, Value};

/// What a server says of a tool; every word of it is foreign.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) title: Option<String>,
    pub(super) description: Option<String>,
    pub(super) input_schema: Value,
    pub(super) output_schema: Option<Value>,
    pub(super) annotations: Option<Value>,
    pub(super) icons: Option<Value>,
    pub(super) meta: Option<Value>,
    /// Whatever else is said of it, by name.
    pub(super) more: Option<Value>,
    pub(super) digest: String,
}

/// Longer than this no tool is described to anybody's good.
const MOST_BYTES: usize = 64 * 1024;

impl Told {
    pub(super) fn of(seen: &SeenTool) -> Result<Told, String> {
        Told::read(&seen.said(), &seen.digest)
    }

    /// The same from the protocol's own form.
    pub(super) fn read(said: &Value, digest: &str) -> Result<Told, String> {
        if said.to_string().len() > MOST_BYTES {
            return Err(format!("what is said of it takes more than {MOST_BYTES} bytes"));
        }
        let text = |name: &str| said[name].as_str().map(str::to_owned);
        let part = |name: &str| said.get(name).filter(|value| !value.is_null()).cloned();
        Ok(Told {
            name: text("name").ok_or("it has no name")?,
            title: text("title"),
            description: text("description"),
            input_schema: part("inputSchema").ok_or("it has no input schema")?,
            output_schema: part("outputSchema"),
            annotations: part("annotations"),
            icons: part("icons"),
            meta: part("_meta"),
            more: more(said),
            digest: digest.to_owned(),
        })
    }
}

/// What of it has no place of its own here: members that the protocol does not know, and words that are no text.
fn more(said: &Value) -> Option<Value> {
    let has_place = |(name, value): &(&String, &Value)| match name.as_str() {
        "title" | "description" => value.is_string(),
        "name" | "inputSchema" | "outputSchema" | "annotations" | "icons" | "_meta" => true,
        _ => false,
    };
    let all = said.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let more: Map<String, Value> =
        all.filter(|it| !has_place(it)).map(|(name, value)| (name.clone(), value.clone())).collect();
    (!more.is_empty()).then(|| more.into())
}

/// JSON in lines, with everything spelled out that does not show what it is, and fit for a TOML literal string.
pub(super) fn legible_json(value: &Value) -> String {
    legible(&format!("{value:#}"))
}

/// The same in one line.
pub(super) fn legible_line(value: &Value) -> String {
    legible(&value.to_string())
}

/// What does not show what it is stands only inside of strings, where JSON has an escape for it.
fn legible(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c != '\n' && is_hidden(c) {
            true => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")))
            }
            false => out.push(c),
        }
    }
    out.replace("'''", "\\u0027\\u0027\\u0027")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_is_said_of_a_tool_is_left_out_of_what_people_are_shown() {
        let said = json!({"name": "a", "inputSchema": {}, "title": 7, "novel": {"do": "send"}, "gone": null});
        let told = Told::read(&said, "").unwrap();
        assert_eq!(told.more, Some(json!({"title": 7, "novel": {"do": "send"}})));
        assert_eq!(
            Told::read(&json!({"name": "a", "inputSchema": {}, "title": "A"}), "").unwrap().more,
            None
        );
    }

    #[test]
    fn hidden_text_is_spelled_out_and_means_the_same() {
        let value = json!({"a\u{202e}": "'''\u{e0041}\u{7f}\n ü"});
        for legible in [legible_json(&value), legible_line(&value)] {
            assert!(legible.contains("a\\u202e") && legible.contains("\\udb40\\udc41\\u007f"), "{legible}");
            assert!(!legible.contains("'''") && legible.contains('ü'), "{legible}");
            assert_eq!(serde_json::from_str::<Value>(&legible).unwrap(), value);
        }
    }
}
