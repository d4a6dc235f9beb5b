//! A JSON Schema that somebody else wrote, kept to the letter: any of 2020-12 or draft-07 that stands by itself.
//!
//! Nothing is fetched for it, its patterns run in time that is linear in the text, and checking against it has an end:
//! before an instance is handed to the validator it is counted how many schemas would be held against it at worst
//! (references let a short schema ask for more than the age of the world has time for).

use crate::json;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Such a schema, ready to be checked against.
pub(crate) struct Verbatim {
    validator: Validator,
    /// Names that references use, and where each is.
    anchors: BTreeMap<String, String>,
}

/// Such a schema of what somebody answers.
pub struct Form {
    document: Value,
    verbatim: Verbatim,
}

/// Why a text is no such schema, and what to do.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

/// The longest text of a schema, in bytes.
const MAX_TEXT: usize = 64 * 1024;
/// Different regular expressions of one schema; each may be as large as `MAX_PATTERN` when it is compiled.
const MAX_PATTERNS: usize = 64;
const MAX_PATTERN: usize = 1 << 20;
/// How many schemas may be held against an instance and what is in it: as many as the largest body has room for when each
/// of its values meets a few.
const MAX_WORK: usize = 1 << 19;
/// How deep they may lie within each other while they are.
const MAX_DEPTH: usize = 320;
/// So many bytes of a text under a pattern, and so many entries of a list, take as long as a schema.
const BYTES: usize = 4;
const ENTRIES: usize = 16;

const SELF_CONTAINED: &str = "a schema has to stand by itself, with references such as \"#/$defs/NAME\"";

impl Verbatim {
    /// Reads a schema. Its value is as it was written.
    ///
    /// # Errors
    /// It is no schema, not of a dialect that we know, does not stand by itself, or is too large.
    pub(crate) fn read(text: &str) -> Result<(Value, Verbatim), Unfit> {
        if text.len() > MAX_TEXT {
            let hint = "write a shorter one: descriptions count, too";
            return Err(Unfit { message: format!("more than {MAX_TEXT} bytes of schema"), hint });
        }
        // Its numbers may be larger than any that is held against them: they are compared all the same.
        let document = json::parse_wide(text.as_bytes()).map_err(|error| Unfit {
            message: format!("not JSON as we accept it: {error}"),
            hint: "write one JSON object, without duplicate members",
        })?;
        let verbatim = Verbatim::of(&document)?;
        Ok((document, verbatim))
    }

    fn of(document: &Value) -> Result<Verbatim, Unfit> {
        let Some(root) = document.as_object().filter(|root| takes_objects(root)) else {
            let hint = "give it `\"type\": \"object\"`";
            return Err(Unfit { message: "the constraints of an action are an object".into(), hint });
        };
        let draft = draft(root)?;
        let mut anchors = BTreeMap::new();
        find_anchors(document, &mut String::new(), &mut anchors)?;
        survey(document, &anchors)?;
        let verbatim = Verbatim { validator: compile(root, draft)?, anchors };
        match verbatim.is_within_reach(document, &Value::Object(Map::new())) {
            true => Ok(verbatim),
            false => Err(Unfit {
                message: "nothing can be checked against it: its references have no end".into(),
                hint: "have no schema refer to itself but for a part of what it is held against",
            }),
        }
    }

    /// Whether checking the instance has an end that is worth waiting for.
    pub(crate) fn is_within_reach(&self, document: &Value, instance: &Value) -> bool {
        let mut budget = Budget { document, anchors: &self.anchors, left: MAX_WORK };
        budget.spend(document, instance, MAX_DEPTH).is_some()
    }

    pub(crate) fn is_valid(&self, instance: &Value) -> bool {
        self.validator.is_valid(instance)
    }

    /// What is wrong with the instance; that a member is absent which the schema itself, outermost, requires is left to
    /// completeness.
    pub(crate) fn errors<'a>(&'a self, instance: &'a Value) -> impl Iterator<Item = ValidationError<'a>> {
        let is_absence = |error: &ValidationError<'_>| {
            error.instance_path().is_empty() && error.schema_path().as_str() == "/required"
        };
        self.validator.iter_errors(instance).filter(move |error| !is_absence(error))
    }
}

impl Form {
    /// The form that a text declares, if it is one that can be checked.
    pub fn read(text: &str) -> Option<Form> {
        let (document, verbatim) = Verbatim::read(text).ok()?;
        Some(Form { document, verbatim })
    }

    /// Why a text declares no form that can be checked; nothing, if it does.
    pub fn unfit(text: &str) -> Option<String> {
        Verbatim::read(text).err().map(|Unfit { message, hint }| format!("{message} ({hint})"))
    }

    /// Whether it is certain that this has another form: not where checking would take too long, and not where a number is no more
    /// than the nearest to what was said.
    pub fn excludes(&self, answer: &Value) -> bool {
        is_exact(answer)
            && self.verbatim.is_within_reach(&self.document, answer)
            && !self.verbatim.is_valid(answer)
    }
}

/// Whether each number is the one that was said, and not the nearest that has a place.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Number(number) => {
            let is_near = |it: f64| it.abs() <= json::MAX_INTEGER as f64;
            number.is_i64() || number.is_u64() || number.as_f64().is_some_and(is_near)
        }
        _ => true,
    }
}

/// The properties that apply to the outermost object, as they are declared.
pub(crate) fn properties(document: &Value) -> impl Iterator<Item = (&String, &Value)> {
    outermost(document).and_then(|root| root.get("properties")?.as_object()).into_iter().flatten()
}

/// The names that the outermost object requires.
pub(crate) fn required(document: &Value) -> Vec<&str> {
    let names = outermost(document).and_then(|root| root.get("required")?.as_array());
    names.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What stands beside a reference counts for nothing in draft-07.
fn outermost(document: &Value) -> Option<&Map<String, Value>> {
    let root = document.as_object()?;
    let is_ignored = root.contains_key("$ref") && matches!(draft(root), Ok(Draft::Draft7));
    (!is_ignored).then_some(root)
}

fn takes_objects(root: &Map<String, Value>) -> bool {
    match root.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        Some(kind) => kind == "object",
        None => true,
    }
}

fn draft(root: &Map<String, Value>) -> Result<Draft, Unfit> {
    let Some(dialect) = root.get("$schema") else { return Ok(Draft::Draft202012) };
    let dialect = dialect.as_str().unwrap_or_default().trim_end_matches('#');
    match dialect.split_once("://").map(|(_, name)| name) {
        Some("json-schema.org/draft/2020-12/schema") => Ok(Draft::Draft202012),
        Some("json-schema.org/draft-07/schema") => Ok(Draft::Draft7),
        _ => Err(Unfit {
            message: "`$schema` names another dialect".into(),
            hint: "write it in JSON Schema 2020-12, or draft-07",
        }),
    }
}

fn compile(root: &Map<String, Value>, draft: Draft) -> Result<Validator, Unfit> {
    let mut root = root.clone();
    // References are within the document, so that its name says nothing: it could only be taken for another's.
    root.remove("$id");
    let compiled = jsonschema::options()
        .with_draft(draft)
        // What a format means, whoever carries the action out knows: to JSON Schema 2020-12 it is a remark.
        .should_validate_formats(false)
        // Linear in the text: a pattern cannot be made to run for ever.
        .with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN))
        .offline()
        .build(&Value::Object(root));
    compiled.map_err(|error| unfit(&error))
}

fn unfit(error: &ValidationError<'_>) -> Unfit {
    let path = error.instance_path().as_str();
    let at: String = path.chars().take(200).collect();
    if path.ends_with("/pattern") || path.contains("/patternProperties") {
        return Unfit {
            message: format!("not a regular expression that we can run, at `{at}`"),
            hint: "patterns run in linear time and little memory: no look-around, no back-references, no huge repetition",
        };
    }
    let why: String = error.to_string().chars().take(200).collect();
    Unfit { message: format!("not a JSON Schema, at `{at}`: {why}"), hint: "see JSON Schema 2020-12" }
}

/// What a subschema is held against: the same as the schema it is in, or a part of that.
enum Part<'a> {
    Whole,
    Member(&'a str),
    Members,
    Names,
    Item(usize),
    Items,
    /// Declared, and used by reference.
    Nothing,
}

fn subschemas(schema: &Map<String, Value>) -> impl Iterator<Item = (Part<'_>, &Value)> {
    schema.iter().flat_map(|(keyword, value)| -> Vec<(Part<'_>, &Value)> {
        match (keyword.as_str(), value) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => {
                all.iter().map(|one| (Part::Whole, one)).collect()
            }
            ("not" | "if" | "then" | "else", one) => vec![(Part::Whole, one)],
            ("dependentSchemas" | "dependencies", Value::Object(all)) => {
                all.values().map(|one| (Part::Whole, one)).collect()
            }
            ("properties", Value::Object(all)) => {
                all.iter().map(|(name, one)| (Part::Member(name), one)).collect()
            }
            ("patternProperties", Value::Object(all)) => {
                all.values().map(|one| (Part::Members, one)).collect()
            }
            ("additionalProperties" | "unevaluatedProperties", one) => vec![(Part::Members, one)],
            ("propertyNames", one) => vec![(Part::Names, one)],
            ("prefixItems" | "items", Value::Array(all)) => {
                all.iter().enumerate().map(|(index, one)| (Part::Item(index), one)).collect()
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", one) => {
                vec![(Part::Items, one)]
            }
            ("$defs" | "definitions", Value::Object(all)) => {
                all.values().map(|one| (Part::Nothing, one)).collect()
            }
            ("contentSchema", one) => vec![(Part::Nothing, one)],
            _ => Vec::new(),
        }
    })
}

/// Where a schema refers to. A schema is one document, so that dynamic references are as the others.
fn references(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    ["$ref", "$dynamicRef"].into_iter().filter_map(|keyword| schema.get(keyword)?.as_str())
}

fn resolve<'a>(
    document: &'a Value,
    anchors: &BTreeMap<String, String>,
    reference: &str,
) -> Option<&'a Value> {
    let fragment = decoded(reference.strip_prefix('#')?)?;
    match fragment.is_empty() || fragment.starts_with('/') {
        true => document.pointer(&fragment),
        false => document.pointer(anchors.get(&fragment)?),
    }
}

/// A fragment without its percent signs.
fn decoded(fragment: &str) -> Option<String> {
    let mut parts = fragment.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.extend(hex::decode(code).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Wherever they stand; one that is none of a schema's leads to a reference that the validator does not know.
fn find_anchors(value: &Value, path: &mut String, found: &mut BTreeMap<String, String>) -> Result<(), Unfit> {
    let length = path.len();
    let mut inside = |segment: &str, value: &Value| {
        json::push_segment(path, segment);
        let result = find_anchors(value, path, found);
        path.truncate(length);
        result
    };
    match value {
        Value::Object(members) => {
            members.iter().try_for_each(|(name, member)| inside(name, member))?;
            let named = ["$anchor", "$dynamicAnchor"].into_iter().filter_map(|it| members.get(it)?.as_str());
            for name in named {
                if found.insert(name.to_owned(), path.clone()).is_some() {
                    let message = format!("two anchors `{name}`");
                    return Err(Unfit { message, hint: "give each a name of its own" });
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| inside(&index.to_string(), item))
        }
        _ => Ok(()),
    }
}

/// Looks at every schema in the document, and at whatever is used as one.
fn survey(document: &Value, anchors: &BTreeMap<String, String>) -> Result<(), Unfit> {
    let (mut seen, mut patterns) = (HashSet::new(), BTreeSet::new());
    let mut waiting = vec![document];
    while let Some(value) = waiting.pop() {
        let Some(schema) = value.as_object().filter(|schema| seen.insert(std::ptr::from_ref(*schema))) else {
            continue;
        };
        if !std::ptr::eq(value, document) {
            refuse_documents_within(schema)?;
        }
        for reference in references(schema) {
            let target = resolve(document, anchors, reference);
            waiting.push(target.ok_or_else(|| leads_nowhere(reference))?);
        }
        patterns.extend(schema.get("pattern").and_then(Value::as_str));
        let named = schema.get("patternProperties").and_then(Value::as_object);
        patterns.extend(named.into_iter().flat_map(Map::keys).map(String::as_str));
        waiting.extend(subschemas(schema).map(|(_, subschema)| subschema));
    }
    if patterns.len() > MAX_PATTERNS {
        let message = format!("more than {MAX_PATTERNS} different regular expressions");
        return Err(Unfit { message, hint: "leave some to whoever carries the action out" });
    }
    Ok(())
}

/// A schema with a name or a dialect of its own would have references of its own.
fn refuse_documents_within(schema: &Map<String, Value>) -> Result<(), Unfit> {
    match ["$id", "id", "$schema"].into_iter().find(|it| schema.get(*it).is_some_and(Value::is_string)) {
        Some(keyword) => {
            Err(Unfit { message: format!("`{keyword}` inside of the schema"), hint: SELF_CONTAINED })
        }
        None => Ok(()),
    }
}

fn leads_nowhere(reference: &str) -> Unfit {
    let shown: String = reference.chars().take(200).collect();
    let message = match reference.starts_with('#') {
        true => format!("the reference `{shown}` leads nowhere"),
        false => format!("the reference `{shown}` leads out of the schema, and nothing is fetched"),
    };
    Unfit { message, hint: SELF_CONTAINED }
}

/// How many schemas may still be held against something.
struct Budget<'a> {
    document: &'a Value,
    anchors: &'a BTreeMap<String, String>,
    left: usize,
}

impl Budget<'_> {
    /// Goes where the validator may go, the ways that it need not take included; `None` when that is too far.
    fn spend(&mut self, schema: &Value, instance: &Value, depth: usize) -> Option<()> {
        self.take(1)?;
        let Some(schema) = schema.as_object() else { return Some(()) };
        let depth = depth.checked_sub(1)?;
        self.take(schema.values().map(entries).sum::<usize>() / ENTRIES)?;
        self.take(text_under_patterns(schema, instance) / BYTES)?;
        for _ in 0..passes(schema, instance) {
            for reference in references(schema) {
                let target = resolve(self.document, self.anchors, reference)?;
                self.spend(target, instance, depth)?;
            }
            for (_, subschema) in subschemas(schema).filter(|(part, _)| matches!(part, Part::Whole)) {
                self.spend(subschema, instance, depth)?;
            }
        }
        subschemas(schema).try_for_each(|(part, subschema)| match (part, instance) {
            (Part::Member(name), Value::Object(members)) => {
                members.get(name).map_or(Some(()), |member| self.spend(subschema, member, depth))
            }
            (Part::Members, Value::Object(members)) => {
                members.values().try_for_each(|member| self.spend(subschema, member, depth))
            }
            (Part::Names, Value::Object(members)) => {
                let mut names = members.keys().map(|name| Value::String(name.clone()));
                names.try_for_each(|name| self.spend(subschema, &name, depth))
            }
            (Part::Item(index), Value::Array(items)) => {
                items.get(index).map_or(Some(()), |item| self.spend(subschema, item, depth))
            }
            (Part::Items, Value::Array(items)) => {
                items.iter().try_for_each(|item| self.spend(subschema, item, depth))
            }
            _ => Some(()),
        })
    }

    fn take(&mut self, work: usize) -> Option<()> {
        self.left = self.left.checked_sub(work)?;
        Some(())
    }
}

/// To know what nothing else has looked at, everything else may be asked once for each part.
fn passes(schema: &Map<String, Value>, instance: &Value) -> usize {
    let asks = |keyword| usize::from(schema.contains_key(keyword));
    1 + match instance {
        Value::Object(members) => asks("unevaluatedProperties") * members.len(),
        Value::Array(items) => asks("unevaluatedItems") * items.len(),
        _ => 0,
    }
}

fn entries(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 1,
    }
}

fn text_under_patterns(schema: &Map<String, Value>, instance: &Value) -> usize {
    match instance {
        Value::String(text) if schema.contains_key("pattern") => text.len(),
        Value::Object(members) => {
            let patterns = schema.get("patternProperties").map_or(0, entries);
            patterns * members.keys().map(String::len).sum::<usize>()
        }
        _ => 0,
    }
}
