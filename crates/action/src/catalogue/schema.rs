//! The schema of an archetype's constraints: closed, and every member known to Cedar or declared opaque.

use super::mistake::nearest;
use super::reader::{Node, Table};
use crate::archetype::{Kind, Member};
use crate::json;
use crate::shape::Shape;
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

/// What a `[schema]` declares, or an `input_schema`.
pub(crate) struct Schema {
    pub(crate) members: Vec<Member>,
    /// As declared; a `[schema]` closed at every level that is not opaque.
    pub(crate) document: Value,
    /// What instances are held against; `None` after a mistake.
    pub(crate) shape: Option<Shape>,
}

impl Schema {
    /// Whether somebody else wrote it.
    pub(crate) fn is_verbatim(&self) -> bool {
        matches!(self.shape, Some(Shape::Verbatim(_)))
    }

    /// What to do about a member that policies have to see and do not.
    pub(crate) fn hint_to_map(&self) -> &'static str {
        match self.is_verbatim() {
            true => "add it to `mapped`, or point to another",
            false => "remove `x-opaque` from the member, or point to another",
        }
    }
}

/// Reads a schema; `money` are the pointers under which amounts stand.
pub(crate) fn read(node: Node<'_>, money: &[String]) -> Option<Schema> {
    let table = node.table()?;
    for key in ["type", "title", "description", "required", "minProperties", "maxProperties"] {
        table.get(key);
    }
    for key in [
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "$comment",
    ] {
        table.get(key);
    }
    if let Some(kind) = table.get("type").filter(|kind| kind.text().is_some_and(|kind| kind != "object")) {
        kind.mistake_with_hint("the constraints of an action are an object", "leave `type` out");
    }
    check_draft(&table);
    check_closed(&table);
    let members = properties(&table, "", money);
    table.finish();
    let mut closed = node.json();
    close(&mut closed, &members);
    // A schema that is already known to be wrong would only be called wrong once more.
    let shape = if node.is_clean() { compile(node, &closed).map(Shape::Closed) } else { None };
    Some(Schema { members, document: closed, shape })
}

/// Reports examples that the schema itself would refuse.
pub(crate) fn check_examples(node: Node<'_>, schema: &Schema) {
    let Some(Shape::Closed(validator)) = &schema.shape else { return };
    for member in schema.members.iter().filter(|member| !member.example.is_null()) {
        let mut path = String::new();
        json::push_segment(&mut path, &member.name);
        let instance = Value::Object(Map::from_iter([(member.name.clone(), member.example.clone())]));
        let refuses =
            |error: jsonschema::ValidationError<'_>| error.instance_path().as_str().starts_with(&path);
        if validator.iter_errors(&instance).any(refuses) {
            let example = node.descend(&format!("/properties{path}/examples/0"));
            example.mistake(format!("the schema of `{}` refuses its own example", member.name));
        }
    }
}

fn check_draft(table: &Table<'_>) {
    const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
    if let Some(node) = table.get("$schema").filter(|node| node.text() != Some(DRAFT)) {
        node.mistake_with_hint("schemas are JSON Schema 2020-12", "leave `$schema` out");
    }
}

fn check_closed(table: &Table<'_>) {
    for key in ["additionalProperties", "unevaluatedProperties"] {
        if let Some(node) = table.get(key).filter(|node| node.json() != Value::Bool(false)) {
            let hint = "leave it out, or put what is free-form into a member with `x-opaque = true`";
            node.mistake_with_hint(format!("schemas are closed: `{key}` can only be false"), hint);
        }
    }
    for key in ["patternProperties", "propertyNames"] {
        if table.peek(key).is_some() {
            table.get(key);
            let hint = "name every member, or use a member with `x-opaque = true`";
            table.key_mistake(key, format!("schemas are closed: `{key}` has no place"), hint);
        }
    }
}

/// The members of an object, in the order in which they were declared.
fn properties(table: &Table<'_>, path: &str, money: &[String]) -> Vec<Member> {
    let Some(properties) = table.get("properties").and_then(|node| node.table()) else {
        if table.peek("properties").is_none() {
            table.mistake(
                "the object has no `properties`",
                "declare its members under `properties`, or make it opaque",
            );
        }
        return Vec::new();
    };
    let required = table.get("required").map(|node| node.texts()).unwrap_or_default();
    for (node, name) in &required {
        if properties.peek(name).is_none() {
            node.mistake(format!("`{name}` is required, but the schema does not declare it"));
        }
    }
    let is_required = |name: &str| required.iter().any(|(_, required)| *required == name);
    let member = |(name, node): (&str, Node<'_>)| {
        let mut path = path.to_owned();
        json::push_segment(&mut path, name);
        member(name, node, &path, is_required(name), money)
    };
    properties.iter().filter_map(member).collect()
}

fn member(name: &str, node: Node<'_>, path: &str, required: bool, money: &[String]) -> Option<Member> {
    let table = node.table()?;
    let flag = |key| table.get(key).and_then(|node| node.flag()).unwrap_or(false);
    let (public, not_card, display) = (flag("x-public"), flag("x-not-card"), flag("x-display"));
    let nested = path.matches('/').count() > 1;
    for key in ["x-public", "x-not-card"] {
        if nested && table.peek(key).is_some() {
            table.key_mistake(key, format!("`{key}` belongs to a top-level member"), "move it outwards");
        }
    }
    // After a mistake the kind is a guess, so that what points to the member is not called wrong as well.
    let guess = if is_money(path, money) { Kind::Money } else { Kind::Text };
    let kind = kind(node, &table, path, money).unwrap_or(guess);
    Some(Member {
        name: name.to_owned(),
        kind,
        required,
        public,
        display,
        not_card,
        description: table.get("description").and_then(|node| node.text()).unwrap_or_default().to_owned(),
        example: table
            .get("examples")
            .and_then(|node| node.list())
            .and_then(|list| list.first().map(Node::json))
            .unwrap_or_default(),
    })
}

fn kind(node: Node<'_>, table: &Table<'_>, path: &str, money: &[String]) -> Option<Kind> {
    let flag = |key| table.get(key).and_then(|node| node.flag()).unwrap_or(false);
    let (identifier, opaque) = (flag("x-identifier"), flag("x-opaque"));
    check_keywords(table);
    if opaque {
        if identifier {
            table.key_mistake("x-identifier", "what is opaque is no identifier", "remove one of the two");
        }
        return Some(Kind::Opaque);
    }
    if table.peek("$ref").is_some() {
        let hint = "write the schema out, or add `x-opaque = true`";
        table.key_mistake("$ref", "a member known to policies cannot be a reference", hint);
        return None;
    }
    let Some(kind) = table.peek("type") else {
        node.mistake_with_hint("the member has no `type`", "say its type, or add `x-opaque = true`");
        return None;
    };
    let Some(word) = kind.json().as_str().map(str::to_owned) else {
        kind.mistake_with_hint(
            "a member known to policies has one type",
            "name one, or add `x-opaque = true`",
        );
        return None;
    };
    if identifier && ["integer", "boolean", "array", "object"].contains(&word.as_str()) {
        table.key_mistake("x-identifier", "only a string is an identifier", "remove `x-identifier`");
    }
    if is_money(path, money) && word != "string" {
        kind.mistake_with_hint(
            "money is a decimal string",
            "use `type = \"string\"`: JSON numbers lose cents",
        );
        return None;
    }
    let has_grammar = || ["pattern", "enum", "const", "format"].iter().any(|key| table.peek(key).is_some());
    match word.as_str() {
        "string" if is_money(path, money) => Some(Kind::Money),
        "string" if identifier => Some(Kind::Identifier { grammar: has_grammar() }),
        "string" => Some(Kind::Text),
        "integer" => Some(Kind::Long),
        "boolean" => Some(Kind::Bool),
        "object" => {
            check_closed(table);
            Some(Kind::Record(properties(table, path, money)))
        }
        "array" => set(node, table, path, money),
        "number" => {
            let hint = "use `integer`, or a string with a pattern, or add `x-opaque = true`";
            kind.mistake_with_hint("policies cannot compare fractions", hint);
            None
        }
        other => {
            let known = ["string", "integer", "boolean", "array", "object"];
            let hint = nearest(other, &known)
                .map_or("known: string, integer, boolean, array, object".to_owned(), |near| {
                    format!("did you mean `{near}`?")
                });
            kind.mistake_with_hint(format!("unknown type `{other}`"), hint);
            None
        }
    }
}

fn is_money(path: &str, money: &[String]) -> bool {
    money.iter().any(|pointer| pointer == path)
}

fn set(node: Node<'_>, table: &Table<'_>, path: &str, money: &[String]) -> Option<Kind> {
    let Some(items) = table.peek("items") else {
        node.mistake_with_hint("the array does not say what it holds", "add `items`, or `x-opaque = true`");
        return None;
    };
    match kind(items, &items.table()?, &format!("{path}/*"), money)? {
        Kind::Opaque => {
            let hint = "move `x-opaque = true` from the items to the array";
            items.mistake_with_hint("policies cannot know an array of opaque items", hint);
            None
        }
        item => Some(Kind::Set(Box::new(item))),
    }
}

/// JSON Schema ignores keywords that it does not know, and so hides a slip of the pen that opens a door.
fn check_keywords(table: &Table<'_>) {
    let known: Vec<&str> = KEYWORDS.split_whitespace().collect();
    for (key, _) in table.iter().filter(|(key, _)| !known.contains(key)) {
        let hint = match nearest(key, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "use the keywords of JSON Schema 2020-12, or x-public, x-not-card, x-display, x-identifier, x-opaque".into(),
        };
        table.key_mistake(key, format!("unknown keyword `{key}`"), hint);
    }
}

/// Makes every object that is not opaque refuse members that are not declared.
fn close(schema: &mut Value, members: &[Member]) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.insert("type".into(), "object".into());
    schema.insert("additionalProperties".into(), false.into());
    for member in members {
        if let Some(inner) = schema.get_mut("properties").and_then(|all| all.get_mut(&member.name)) {
            close_kind(inner, &member.kind);
        }
    }
}

fn close_kind(schema: &mut Value, kind: &Kind) {
    match kind {
        Kind::Record(members) => close(schema, members),
        Kind::Set(item) => {
            if let Some(items) = schema.get_mut("items") {
                close_kind(items, item);
            }
        }
        _ => {}
    }
}

/// Without the outermost `required`, which is completeness and not shape.
fn compile(node: Node<'_>, closed: &Value) -> Option<Validator> {
    let mut shape = closed.clone();
    if let Some(shape) = shape.as_object_mut() {
        shape.remove("required");
    }
    let compiled = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(true)
        .should_ignore_unknown_formats(false)
        // Linear in the text: a pattern cannot be made to run for ever.
        .with_pattern_options(PatternOptions::regex())
        .offline()
        .build(&shape);
    match compiled {
        Ok(validator) => Some(validator),
        Err(error) => {
            explain(node, &error);
            None
        }
    }
}

fn explain(node: Node<'_>, error: &jsonschema::ValidationError<'_>) {
    let path = error.instance_path().as_str();
    let place = node.descend(path);
    match path.rsplit('/').next() {
        Some("pattern") => place.mistake_with_hint(
            "not a regular expression that we can run",
            "patterns run in linear time: no look-around and no back-references",
        ),
        Some("format") => place.mistake_with_hint(
            "unknown format",
            "known: date, date-time, time, duration, email, hostname, ipv4, ipv6, uri, uri-reference, uuid, regex, json-pointer",
        ),
        _ => {
            let message: String = error.to_string().chars().take(200).collect();
            place.mistake_with_hint(format!("not a JSON Schema: {message}"), "see JSON Schema 2020-12");
        }
    }
}

/// The keywords of JSON Schema 2020-12, and ours.
const KEYWORDS: &str = "
    $anchor $comment $defs $dynamicAnchor $dynamicRef $id $ref additionalProperties allOf anyOf
    const contains contentEncoding contentMediaType contentSchema default dependentRequired
    dependentSchemas deprecated description else enum examples exclusiveMaximum exclusiveMinimum
    format if items maxContains maxItems maxLength maxProperties maximum minContains minItems
    minLength minProperties minimum multipleOf not oneOf pattern patternProperties prefixItems
    properties propertyNames readOnly required then title type unevaluatedItems
    unevaluatedProperties uniqueItems
    x-display x-identifier x-not-card x-opaque x-public";
