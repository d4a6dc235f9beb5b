//! What is present must have the declared shape. Messages name the rule, never the value.

use crate::archetype::{Archetype, Kind, Member};
use crate::refusal::{Refusal, RefusalKind};
use crate::verbatim::Verbatim;
use crate::{json, text};
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;
use std::borrow::Cow;

/// More mistakes than this at once help nobody.
const MAX_ERRORS: usize = 8;
/// Of a schema, somebody else's above all, no more is told in one message.
const MOST_TOLD: usize = 500;

/// What the constraints of an archetype are held against.
pub(crate) enum Shape {
    /// A schema of our own, closed, without the outermost `required`.
    Closed(Validator),
    /// Somebody else's, to the letter.
    Verbatim(Verbatim),
}

/// Checks the constraints against the archetype's schema and the rules for text.
pub(crate) fn check(archetype: &Archetype, constraints: &Value) -> Result<(), Refusal> {
    match &archetype.shape {
        Shape::Closed(validator) if validator.is_valid(constraints) => {}
        Shape::Closed(validator) => check_what_says_something(archetype, validator, constraints)?,
        Shape::Verbatim(schema) => check_to_the_letter(archetype, schema, constraints)?,
    }
    check_members(archetype, &archetype.members, constraints).map_err(|refusal| refusal.within("constraints"))
}

/// A required member that is there but says nothing counts as absent: it makes the action incomplete.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The slow path of a misshapen instance: required members that say nothing are left to completeness.
fn check_what_says_something(
    archetype: &Archetype,
    validator: &Validator,
    constraints: &Value,
) -> Result<(), Refusal> {
    let mut members = constraints.as_object().cloned().unwrap_or_default();
    members.retain(|name, value| !(is_empty(value) && archetype.member(name).is_some_and(|m| m.required)));
    refuse(archetype, validator.iter_errors(&Value::Object(members)))
}

fn check_to_the_letter(archetype: &Archetype, schema: &Verbatim, constraints: &Value) -> Result<(), Refusal> {
    if !schema.is_within_reach(&archetype.schema, constraints) {
        return Err(Refusal::invalid("/constraints", "more than can be checked against the schema")
            .with_hint("send less at once, or nest it less deeply"));
    }
    match schema.is_valid(constraints) {
        true => Ok(()),
        false => refuse(archetype, schema.errors(constraints)),
    }
}

/// All mistakes as one refusal; none, if there are none.
fn refuse<'a>(
    archetype: &Archetype,
    errors: impl Iterator<Item = ValidationError<'a>>,
) -> Result<(), Refusal> {
    let mut errors: Vec<Refusal> = errors.take(64).map(|error| explain(archetype, &error)).collect();
    errors.sort_by(|a, b| a.field.cmp(&b.field));
    errors.dedup_by(|b, a| a.field == b.field);
    let mut errors = errors.into_iter();
    match errors.next() {
        None => Ok(()),
        Some(mut first) => {
            let others = errors.take(MAX_ERRORS).map(|e| (e.field.unwrap_or_default(), e.message));
            first.others = others.collect();
            Err(first)
        }
    }
}

fn check_members(archetype: &Archetype, members: &[Member], object: &Value) -> Result<(), Refusal> {
    let Some(object) = object.as_object() else { return Ok(()) };
    members
        .iter()
        .filter_map(|member| Some((member, object.get(&member.name)?)))
        .filter(|(member, value)| !(member.required && archetype.lacks(Some(value))))
        .try_for_each(|(member, value)| {
            check_text(archetype, &member.kind, value).map_err(|e| e.within(&member.name))
        })
}

fn check_text(archetype: &Archetype, kind: &Kind, value: &Value) -> Result<(), Refusal> {
    match (kind, value) {
        (Kind::Identifier { grammar }, Value::String(text)) => text::refuse_misnomer(text, *grammar),
        (Kind::Text | Kind::Money, Value::String(text)) => text::refuse_tricks(text),
        (Kind::Set(item), Value::Array(values)) => {
            values.iter().enumerate().try_for_each(|(index, value)| {
                check_text(archetype, item, value).map_err(|e| e.within(&index.to_string()))
            })
        }
        (Kind::Record(members), value) => check_members(archetype, members, value),
        _ => Ok(()),
    }
}

fn explain(archetype: &Archetype, error: &ValidationError<'_>) -> Refusal {
    let mut field = "/constraints".to_owned();
    let mut push = |name: &str| json::push_segment(&mut field, &brief(name, 64));
    error.instance_path().segments().for_each(|segment| match segment {
        LocationSegment::Property(name) => push(&name),
        LocationSegment::Index(index) => push(&index.to_string()),
    });
    if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind()
        && let Some(name) = unexpected.iter().min()
    {
        push(name);
    }
    let refusal = Refusal {
        kind: RefusalKind::ValidationFailed,
        message: message(error.kind()),
        hint: None,
        field: Some(field),
        others: Vec::new(),
    };
    match hint(archetype, error) {
        Some(hint) => refusal.with_hint(hint),
        None => refusal,
    }
}

/// Rules come from the catalogue and may be told; what the caller sent may not.
fn message(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind::*;
    match kind {
        Type { kind: TypeKind::Single(wanted) } => format!("not of type {wanted}"),
        Type { .. } => "not of an allowed type".into(),
        AdditionalProperties { .. } | UnevaluatedProperties { .. } => {
            "no such member in this archetype".into()
        }
        Required { .. } => "a required member is missing".into(),
        Enum { .. } | Constant { .. } => "not one of the allowed values".into(),
        Pattern { pattern } => format!("does not match the pattern `{}`", brief(pattern, MOST_TOLD)),
        Format { format } => format!("not of format `{format}`"),
        MinLength { limit } => format!("shorter than {limit} characters"),
        MaxLength { limit } => format!("longer than {limit} characters"),
        Minimum { limit } => format!("less than {limit}"),
        ExclusiveMinimum { limit } => format!("not more than {limit}"),
        Maximum { limit } => format!("more than {limit}"),
        ExclusiveMaximum { limit } => format!("not less than {limit}"),
        MinItems { limit } => format!("fewer than {limit} items"),
        MaxItems { limit } => format!("more than {limit} items"),
        UniqueItems => "the same item twice".into(),
        other => format!("breaks the schema's `{}`", other.keyword()),
    }
}

fn hint(archetype: &Archetype, error: &ValidationError<'_>) -> Option<String> {
    match error.kind() {
        ValidationErrorKind::Type { .. } if is_money(archetype, error.instance_path().as_str()) => {
            Some("send money as a string, such as \"12.50\": numbers lose cents".into())
        }
        ValidationErrorKind::AdditionalProperties { .. } if error.instance_path().is_empty() => {
            let names: Vec<_> = archetype.members.iter().map(|m| format!("`{}`", m.name)).collect();
            Some(format!("it takes {}", brief(&names.join(", "), MOST_TOLD)))
        }
        ValidationErrorKind::Enum { options } => {
            Some(format!("allowed: {}", brief(&json::canonical(options), MOST_TOLD)))
        }
        ValidationErrorKind::Required { property } => {
            Some(format!("add {}", brief(&json::canonical(property), MOST_TOLD)))
        }
        _ => None,
    }
}

/// The beginning of a text, where it goes on for ever.
fn brief(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

fn is_money(archetype: &Archetype, path: &str) -> bool {
    let rule = archetype.money.as_ref();
    rule.is_some_and(|rule| rule.amount.iter().chain(&rule.bound).any(|pointer| pointer.as_str() == path))
}
