//! Pointers into the constraints: each has to lead to a member that the schema has.

use super::mistake::nearest;
use super::reader::{Node, Table};
use super::schema::Schema;
use crate::archetype::{Kind, Member, Pointer};
use crate::json;
use serde_json::Value;

pub(crate) fn identity(table: &Table<'_>, schema: &Schema, needed: bool) -> Vec<Pointer> {
    let node = table.get("identity");
    let mut pointers: Vec<Pointer> = node
        .and_then(|node| node.list())
        .unwrap_or_default()
        .into_iter()
        .filter_map(|node| Some(pointer(node, schema)?.0))
        .collect();
    // In the order in which the effect hash writes them.
    pointers.sort_by(|a, b| json::utf16_order(a.as_str(), b.as_str()));
    pointers.dedup();
    if !needed || node.is_some_and(|node| node.json() != Value::Array(Vec::new())) {
        return pointers;
    }
    match schema.is_verbatim() {
        // What makes two calls of a stranger's tool one we cannot know: that nothing differs.
        true => pointers.push(Pointer::whole()),
        false => table.mistake(
            "no `identity`: duplicates could not be told",
            "list the members that make two actions the same, such as identity = [\"/recipient\", \"/amount\"]",
        ),
    }
    pointers
}

pub(crate) fn scalar_pointer(node: Node<'_>, key: &str, schema: &Schema) -> Option<Pointer> {
    let (pointer, member) = pointer(node, schema)?;
    match member.kind {
        Kind::Identifier { .. } | Kind::Text | Kind::Long => Some(pointer),
        Kind::Opaque => {
            let message = format!("the {key} cannot be opaque: policies have to see it");
            node.mistake_with_hint(message, schema.hint_to_map());
            None
        }
        _ => {
            node.mistake_with_hint(
                format!("the {key} is not a string or integer"),
                "point to a member that is one",
            );
            None
        }
    }
}

pub(crate) fn pointer<'a>(node: Node<'_>, schema: &'a Schema) -> Option<(Pointer, &'a Member)> {
    let text = node.text()?;
    let Some(pointer) = Pointer::parse(text) else {
        node.mistake_with_hint("not a JSON pointer", "begin with `/`, such as \"/recipient\"");
        return None;
    };
    match find(&schema.members, pointer.segments()) {
        Some(member) => Some((pointer, member)),
        None => {
            let names: Vec<String> =
                schema.members.iter().map(|member| format!("/{}", member.name)).collect();
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            let hint = match nearest(text, &known) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the schema has {}", names.join(", ")),
            };
            node.mistake_with_hint(format!("the schema has no member `{text}`"), hint);
            None
        }
    }
}

fn find<'a>(members: &'a [Member], segments: &[String]) -> Option<&'a Member> {
    let (first, rest) = segments.split_first()?;
    let member = members.iter().find(|member| member.name == *first)?;
    match &member.kind {
        _ if rest.is_empty() => Some(member),
        Kind::Record(inner) => find(inner, rest),
        _ => None,
    }
}

pub(crate) fn is_required(members: &[Member], segments: &[String]) -> bool {
    (1..=segments.len()).all(|depth| find(members, &segments[..depth]).is_some_and(|member| member.required))
}
