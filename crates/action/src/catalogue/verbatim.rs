//! An `input_schema`: somebody else's, kept to the letter, and what the operator says of its members.

use super::mistake::nearest;
use super::reader::{Node, Table};
use super::schema::Schema;
use crate::archetype::{Kind, Member};
use crate::json;
use crate::shape::Shape;
use crate::text::refuse_tricks;
use crate::verbatim::{self, Verbatim};
use serde_json::Value;

/// What an operator says of such a schema's members.
pub(crate) const LISTS: [&str; 3] = ["mapped", "public", "display"];

/// The longest description or example that goes into answers and before people.
const MOST_SAID: usize = 500;

/// Reads the schema in `node` and the lists beside it; `money` are the pointers under which amounts stand.
pub(crate) fn read(table: &Table<'_>, node: Node<'_>, money: &[String]) -> Option<Schema> {
    let (document, verbatim) = match Verbatim::read(node.text()?) {
        Ok(read) => read,
        Err(unfit) => {
            node.mistake_with_hint(unfit.message, unfit.hint);
            return None;
        }
    };
    let [mapped, public, display] = LISTS.map(|key| named(table, key, &document));
    for (node, name) in display.iter().filter(|(_, name)| !has(&mapped, name)) {
        let hint = "add it to `mapped`: what people are shown first has to show what it says";
        node.mistake_with_hint(format!("`{name}` is displayed and not mapped"), hint);
    }
    let required = verbatim::required(&document);
    let kind = |name: &str, schema: &Value| match mapped.iter().find(|(_, mapped)| *mapped == name) {
        Some((node, _)) => mapped_kind(*node, name, schema, money),
        None => Kind::Opaque,
    };
    let member = |name: &str, schema: &Value| Member {
        kind: kind(name, schema),
        required: required.contains(&name),
        public: has(&public, name),
        display: has(&display, name),
        not_card: false,
        description: description(schema),
        example: example(schema),
        name: name.to_owned(),
    };
    let declared = verbatim::properties(&document);
    let mut members: Vec<Member> = declared.map(|(name, schema)| member(name, schema)).collect();
    for name in &required {
        if !members.iter().any(|declared| declared.name == *name) {
            members.push(member(name, &Value::Bool(true)));
        }
    }
    Some(Schema { members, document, shape: Some(Shape::Verbatim(verbatim)) })
}

fn has(list: &[(Node<'_>, &str)], name: &str) -> bool {
    list.iter().any(|(_, listed)| *listed == name)
}

/// Names of properties, each with its place.
fn named<'a>(table: &Table<'a>, key: &'static str, document: &Value) -> Vec<(Node<'a>, &'a str)> {
    let mut names = table.get(key).map(|node| node.texts()).unwrap_or_default();
    let known: Vec<&str> = verbatim::properties(document).map(|(name, _)| name.as_str()).collect();
    names.retain(|(node, name)| {
        let is_known = known.contains(name);
        if !is_known {
            let hint = nearest(name, &known).map_or_else(
                || format!("it has {}", known.join(", ")),
                |near| format!("did you mean \"{near}\"?"),
            );
            node.mistake_with_hint(format!("the schema has no property `{name}`"), hint);
        }
        is_known
    });
    names
}

/// How policies see a property; one that they cannot is a mistake.
fn mapped_kind(node: Node<'_>, name: &str, schema: &Value, money: &[String]) -> Kind {
    let mut path = String::new();
    json::push_segment(&mut path, name);
    let is_money = money.contains(&path);
    match plain_kind(schema) {
        Some(Kind::Text) if is_money => Kind::Money,
        Some(_) if is_money => {
            node.mistake_with_hint(
                "money is a decimal string",
                "JSON numbers lose cents: no cap could be held",
            );
            Kind::Money
        }
        Some(kind) => kind,
        None => {
            let hint = "map strings, integers, booleans and arrays of strings, each by a `type` of its own; leave out the others";
            node.mistake_with_hint(format!("policies cannot see `{name}`: it has no plain type"), hint);
            Kind::Opaque
        }
    }
}

/// The kind that a schema is certain of.
fn plain_kind(schema: &Value) -> Option<Kind> {
    // What stands beside a reference may count for nothing.
    let schema = schema.as_object().filter(|it| !it.contains_key("$ref"))?;
    match schema.get("type")?.as_str()? {
        "string" => Some(Kind::Text),
        "integer" => Some(Kind::Long),
        "boolean" => Some(Kind::Bool),
        // Items with places of their own are none of `items`.
        "array" if !schema.contains_key("prefixItems") => {
            let item = plain_kind(schema.get("items")?)?;
            (item == Kind::Text).then(|| Kind::Set(Box::new(item)))
        }
        _ => None,
    }
}

/// In one line, as far as it goes and if it shows what it says: people read it beside our own words.
fn description(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(MOST_SAID).collect();
    if refuse_tricks(&line).is_ok() { line } else { String::new() }
}

fn example(schema: &Value) -> Value {
    let example = schema.get("examples").and_then(|examples| examples.get(0));
    example.filter(|example| json::canonical(example).len() <= MOST_SAID).cloned().unwrap_or_default()
}
