//! Archetypes whose schema somebody else wrote: kept to the letter, and unable to hang whoever checks against it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{act, key};
use countersign_action::{
    Action, Archetype, Attribute, Catalogue, Money, RefusalKind, Source, json as strict,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::OnceLock;

const GIT_COMMIT: &str = include_str!("golden/git_commit.toml");

/// An archetype `T` with this schema and these further lines.
fn file(schema: &Value, lines: &str) -> String {
    format!("name = \"T\"\n{lines}\ninput_schema = '''{schema}'''\n")
}

fn load(text: &str) -> Result<Catalogue, String> {
    let source = Source { name: "t.toml".into(), text: text.into() };
    Catalogue::load(false, &[source])
        .map_err(|mistakes| mistakes.iter().map(|mistake| format!("{mistake}\n")).collect())
}

fn loaded(schema: &Value, lines: &str) -> Catalogue {
    load(&file(schema, lines)).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn call(catalogue: &Catalogue, constraints: Value) -> Result<Action, countersign_action::Refusal> {
    let name = catalogue.iter().next().unwrap().name.clone();
    act(catalogue, &json!({"archetype": name, "constraints": constraints}))
}

#[test]
fn a_file_is_read_as_the_golden_one_says() {
    let catalogue = load(GIT_COMMIT).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let archetype = catalogue.get("mcp/git/git_commit").unwrap();
    let constraints = json!({
        "repo_path": "/srv/site", "message": "", "author": {"name": "e\u{301}\u{200b}"}, "files": [], "amend": true,
        "weight": 0.75, "a name of its own": "\u{202e}",
    });
    let incomplete = call(&catalogue, json!({"message": "first\nsecond"})).unwrap();
    let refused = call(&catalogue, constraints.clone()).unwrap_err();
    let mut fitting = constraints;
    fitting["message"] = json!("first\nsecond");
    let action = call(&catalogue, fitting).unwrap();
    let told = told(archetype, &incomplete, &refused, &action);
    assert_eq!(told, include_str!("golden/git_commit.txt"));
    // The very text, not what we think of it.
    let text = GIT_COMMIT.split("'''").nth(1).unwrap();
    assert_eq!(archetype.schema, serde_json::from_str::<Value>(&text.replace("1.0e3", "1000")).unwrap());
}

fn told(
    archetype: &Archetype,
    incomplete: &Action,
    refused: &countersign_action::Refusal,
    action: &Action,
) -> String {
    let mut out = format!("digest {}\n", archetype.digest());
    for member in &archetype.members {
        let _ = writeln!(out, "member {member:?}");
    }
    for member in archetype.cedar_schema_members() {
        let _ = writeln!(out, "cedar {member:?}");
    }
    for missing in &incomplete.missing {
        let _ = writeln!(out, "missing {missing:?}");
    }
    let _ = writeln!(out, "refused {refused:?}");
    for attribute in action.attributes() {
        let _ = writeln!(out, "seen {attribute:?}");
    }
    for shown in action.members() {
        let _ = writeln!(out, "shown {shown:?}");
    }
    let effect = action.effect_hash(&key(), "p").unwrap();
    let _ = writeln!(out, "identity {:?} of {effect:02x?}", archetype.identity);
    out
}

#[test]
fn only_what_is_absent_is_missing_and_its_type_is_the_schemas() {
    let kinds = ["string", "integer", "number", "boolean", "array", "object"];
    let mut properties: Map<String, Value> =
        kinds.iter().map(|kind| ((*kind).to_owned(), json!({"type": kind}))).collect();
    properties.insert("text or null".into(), json!({"type": ["string", "null"]}));
    let names: Vec<&String> = properties.keys().collect();
    let schema = json!({"type": "object", "required": names, "properties": properties.clone()});
    let catalogue = loaded(&schema, "mapped = [\"string\", \"integer\"]");
    let missing = |constraints: Value| -> Vec<(String, &'static str)> {
        let action = call(&catalogue, constraints).unwrap();
        action.missing.iter().map(|it| (it.field.clone(), it.kind)).collect()
    };
    let mut all: Vec<_> = kinds.iter().map(|kind| (format!("/{kind}"), *kind)).collect();
    all.push(("/text or null".into(), "any"));
    assert_eq!(missing(json!({})), all);
    let empty = json!({
        "string": "", "integer": 0, "number": 0, "boolean": false, "array": [], "object": {}, "text or null": null,
    });
    assert_eq!(missing(empty), []);
    // What is there has to fit, whatever is absent.
    let refusal = call(&catalogue, json!({"array": ""})).unwrap_err();
    assert_eq!(
        (refusal.kind, refusal.field.as_deref()),
        (RefusalKind::ValidationFailed, Some("/constraints/array"))
    );
}

#[test]
fn what_a_schema_requires_further_in_is_required_there_although_it_refers_to_itself() {
    let tree = json!({
        "type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    });
    let catalogue = loaded(&tree, "");
    let outside = call(&catalogue, json!({"children": [{"name": "a"}]})).unwrap();
    assert_eq!(outside.missing.len(), 1);
    let refusal = call(&catalogue, json!({"name": "a", "children": [{"name": "b"}, {}]})).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("/constraints/children/1"));
}

#[test]
fn numbers_of_a_schema_may_be_larger_than_any_that_is_held_against_them() {
    // As generators write the bounds of their types, and beyond them.
    for (bounds, fits, does_not) in [
        (r#""minimum":-9223372036854775808,"maximum":9223372036854775807"#, Some(strict::MAX_INTEGER), None),
        (r#""minimum":0,"maximum":18446744073709551615"#, Some(strict::MAX_INTEGER), Some(-1)),
        (r#""exclusiveMaximum":9007199254740992"#, Some(strict::MAX_INTEGER), None),
        (r#""maximum":-9223372036854775809"#, None, Some(-strict::MAX_INTEGER)),
        (r#""minimum":18446744073709551617"#, None, Some(strict::MAX_INTEGER)),
        (r#""not":{"const":9007199254740993}"#, Some(strict::MAX_INTEGER), None),
        (r#""multipleOf":18446744073709551616"#, Some(0), Some(5)),
    ] {
        let schema = format!(r#"{{"type":"object","properties":{{"n":{{"type":"integer",{bounds}}}}}}}"#);
        let file = format!("name = \"T\"\ninput_schema = '''{schema}'''\n");
        let catalogue = load(&file).unwrap_or_else(|mistakes| panic!("{bounds}: {mistakes}"));
        if let Some(fits) = fits {
            assert!(call(&catalogue, json!({"n": fits})).is_ok(), "{bounds}: {fits}");
        }
        if let Some(does_not) = does_not {
            let refusal = call(&catalogue, json!({"n": does_not})).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some("/constraints/n"), "{bounds}: {does_not}");
        }
        assert!(call(&catalogue, json!({"n": "1"})).is_err(), "{bounds}");
    }
    let beyond = load("name = \"T\"\ninput_schema = '''{\"maximum\":1e400}'''\n").err().unwrap();
    assert!(beyond.contains("number out of range"), "{beyond}");
}

#[test]
fn an_answer_has_another_form_only_where_its_numbers_are_the_ones_that_were_said() {
    let form = |bounds: &str| {
        let text = format!(r#"{{"type":"object","properties":{{"n":{{"type":"integer",{bounds}}}}}}}"#);
        countersign_action::Form::read(&text).unwrap_or_else(|| panic!("{bounds}"))
    };
    let says = |n: &str| serde_json::from_str::<Value>(&format!(r#"{{"n":{n}}}"#)).unwrap();
    let most = form(r#""maximum":18446744073709551614"#);
    assert!(!most.excludes(&says("18446744073709551614")) && most.excludes(&says("18446744073709551615")));
    assert!(form(r#""exclusiveMaximum":9223372036854775808"#).excludes(&says("9223372036854775808")));
    // Read as the same number, they are not.
    assert!(!form(r#""exclusiveMaximum":1180591620717411303425"#).excludes(&says("1180591620717411303424")));
}

#[test]
fn what_is_unmapped_passes_as_it_came_and_what_is_mapped_shows_what_it_says() {
    let schema = json!({
        "type": "object", "required": ["seen"],
        "properties": {"seen": {"type": "string"}, "unseen": {"type": "string"}},
    });
    let catalogue = loaded(&schema, "mapped = [\"seen\"]");
    for text in ["e\u{301}", "\u{202e}abc", "a\u{200b}b", "one\ntwo", "\u{0}", "\n"] {
        let constraints = json!({"unseen": text, "undeclared": {text: [text]}});
        let action = call(&catalogue, constraints.clone()).unwrap();
        assert_eq!(action.constraints, constraints);
        assert_eq!(action.attributes().count(), 0);
        let refusal = call(&catalogue, json!({"seen": text})).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("/constraints/seen"), "{text:?}");
    }
    let seen = call(&catalogue, json!({"seen": ""})).unwrap();
    assert_eq!(seen.attributes().collect::<Vec<_>>(), [("seen", Attribute::Str(""))]);
    // Card data goes nowhere, by whatever name.
    let refusal = call(&catalogue, json!({"undeclared": {"deep": ["4111 1111 1111 1111"]}})).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::CardData);
}

#[test]
fn a_schema_is_as_open_or_closed_as_it_is_written() {
    let with = |more: &str, value: Value| {
        let mut schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        schema[more] = value;
        loaded(&schema, "mapped = [\"a\"]")
    };
    let closed = with("additionalProperties", json!(false));
    let refusal = call(&closed, json!({"a": "x", "b": 1})).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("/constraints/b"));
    let sorted = with("additionalProperties", json!({"type": "integer"}));
    assert!(call(&sorted, json!({"b": 1})).is_ok());
    assert_eq!(call(&sorted, json!({"b": "1"})).unwrap_err().field.as_deref(), Some("/constraints/b"));
    // A name that goes on for ever is not repeated.
    let refusal = call(&sorted, json!({"n".repeat(5000): "1"})).unwrap_err();
    assert!(refusal.field.unwrap().len() < 200);
}

#[test]
fn without_an_identity_only_equal_calls_of_what_is_grave_are_one_effect() {
    let schema = json!({"type": "object", "properties": {"to": {"type": "string"}}});
    let effect = |lines: &str, constraints: Value| {
        call(&loaded(&schema, lines), constraints).unwrap().effect_hash(&key(), "p")
    };
    let base = effect("", json!({"to": "a", "x": 1})).unwrap();
    assert_eq!(effect("", json!({"x": 1.0, "to": "a"})), Some(base), "the same in another order");
    for other in [json!({"to": "a"}), json!({"to": "a", "x": 2}), json!({"to": "a", "x": 1, "y": null})] {
        assert_ne!(effect("", other), Some(base));
    }
    let text = r#"{"archetype":"T","destination":null,"identity":{"":{"to":"a","x":1}},"rootPrincipal":"p"}"#;
    assert_eq!(base, key().sign(text.as_bytes()));
    assert_eq!(effect("reversible = true", json!({})), None);
    assert!(effect("reversible = true\nduplicate = { on = \"block\" }", json!({})).is_some());
    assert_eq!(effect("duplicate = { on = \"allow\" }", json!({})), None);
    let named = "identity = [\"/to\"]\nmapped = [\"to\"]\ndestination = \"/to\"";
    assert_eq!(effect(named, json!({"to": "a", "x": 1})), effect(named, json!({"to": "a"})));
    assert_ne!(effect(named, json!({"to": "a"})), effect(named, json!({"to": "b"})));
}

#[test]
fn money_in_somebody_elses_schema_is_money_and_never_nothing() {
    let schema = json!({
        "type": "object", "required": ["amount", "code"],
        "properties": {"amount": {"type": "string"}, "code": {"type": "string", "enum": ["", "EUR", "USD"]}},
    });
    let lines = "mapped = [\"amount\", \"code\"]\nirreversible_threshold = \"5.00\"\n\
                 money = { amount = \"/amount\", currency = \"EUR\" }";
    let catalogue = loaded(&schema, lines);
    let action = call(&catalogue, json!({"amount": "1.5", "code": "EUR"})).unwrap();
    let eur = countersign_action::Currency::of("EUR").unwrap();
    assert_eq!(action.money, Money::new(150, eur));
    for nothing in ["", "  "] {
        let refusal = call(&catalogue, json!({"amount": nothing, "code": "EUR"})).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("/constraints/amount"), "no cap holds what is no amount");
    }
    let lines = lines.replace("\"EUR\" }", "\"/code\" }").replace("irreversible_threshold = \"5.00\"\n", "");
    let refusal = call(&loaded(&schema, &lines), json!({"amount": "1.5", "code": ""})).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("/constraints/code"));
    let unmapped = load(&file(&schema, &lines.replace("\"amount\", \"code\"", "\"code\""))).unwrap_err();
    assert!(unmapped.contains("money cannot be opaque") && unmapped.contains("`mapped`"), "{unmapped}");
}

#[test]
fn every_mistake_is_told() {
    let open = json!({"type": "object"});
    let with = |properties: Value| json!({"type": "object", "properties": properties});
    let draft_7 = "http://json-schema.org/draft-07/schema#";
    let mut wrong = String::new();
    for (schema, lines, expected) in [
        (json!("[]"), "", "the constraints of an action are an object"),
        (json!(true), "", "the constraints of an action are an object"),
        (json!({"type": "array"}), "", "the constraints of an action are an object"),
        (
            json!({"$schema": "http://json-schema.org/draft-04/schema#"}),
            "",
            "`$schema` names another dialect",
        ),
        (json!({"$schema": "https://evil.example/schema"}), "", "`$schema` names another dialect"),
        (
            json!({"$ref": "https://evil.example/schema"}),
            "",
            "leads out of the schema, and nothing is fetched",
        ),
        (json!({"$ref": "other.json#/x"}), "", "leads out of the schema, and nothing is fetched"),
        (json!({"$ref": ""}), "", "leads out of the schema, and nothing is fetched"),
        (json!({"items": {"$dynamicRef": "#gone"}}), "", "the reference `#gone` leads nowhere"),
        (with(json!({"a": {"$ref": "#/$defs/b"}})), "", "the reference `#/$defs/b` leads nowhere"),
        (
            json!({"$ref": "#/x", "x": {"allOf": [{"$ref": "file:///etc/passwd"}]}}),
            "",
            "leads out of the schema, and nothing is fetched",
        ),
        (with(json!({"a": {"$id": "https://a.example/b", "$ref": "#"}})), "", "`$id` inside of the schema"),
        (with(json!({"a": {"$schema": draft_7}})), "", "`$schema` inside of the schema"),
        (with(json!({"a": {"$anchor": "x"}, "b": {"$anchor": "x"}})), "", "two anchors `x`"),
        (with(json!({"a": {"type": "strng"}})), "", "not a JSON Schema, at `/properties/a/type`"),
        (with(json!({"a": {"pattern": "(?=x)x"}})), "", "not a regular expression that we can run"),
        (with(json!({"a": {"pattern": "(a*)\\1"}})), "", "not a regular expression that we can run"),
        (
            with(json!({"a": {"pattern": "((a{999}){999}){999}"}})),
            "",
            "not a regular expression that we can run",
        ),
        (json!({"patternProperties": {"(?!x)": true}}), "", "not a regular expression that we can run"),
        (open.clone(), "mapped = [\"a\"]", "the schema has no property `a`"),
        (with(json!({"path": {}})), "mapped = [\"pth\"]", "did you mean \"path\"?"),
        (with(json!({"a": {}})), "mapped = [\"a\"]", "policies cannot see `a`: it has no plain type"),
        (with(json!({"a": {"type": "number"}})), "mapped = [\"a\"]", "policies cannot see `a`"),
        (with(json!({"a": {"type": ["string", "null"]}})), "mapped = [\"a\"]", "policies cannot see `a`"),
        (with(json!({"a": {"type": "array"}})), "mapped = [\"a\"]", "policies cannot see `a`"),
        (
            with(json!({"a": {"type": "array", "items": {"type": "integer"}}})),
            "mapped = [\"a\"]",
            "policies cannot see `a`",
        ),
        (
            with(
                json!({"a": {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}}}),
            ),
            "mapped = [\"a\"]",
            "policies cannot see `a`",
        ),
        (
            json!({"$schema": draft_7, "properties": {"a": {"$ref": "#/definitions/b", "type": "string"}}, "definitions": {"b": {}}}),
            "mapped = [\"a\"]",
            "policies cannot see `a`",
        ),
        (
            json!({"$schema": draft_7, "$ref": "#/definitions/b", "properties": {"a": {"type": "string"}}, "definitions": {"b": {}}}),
            "mapped = [\"a\"]",
            "the schema has no property `a`",
        ),
        (with(json!({"a": {"type": "string"}})), "display = [\"a\"]", "`a` is displayed and not mapped"),
        (with(json!({"a": {"type": "string"}})), "resource = \"/a\"", "add it to `mapped`"),
        (with(json!({"a": {"type": "string"}})), "resource = \"\"", "not a JSON pointer"),
        (
            with(json!({"a": {"type": "integer"}})),
            "mapped = [\"a\"]\nmoney = { amount = \"/a\", currency = \"EUR\" }",
            "money is a decimal string",
        ),
        (open.clone(), "schema = { properties = {} }", "both `[schema]` and `input_schema`"),
    ] {
        match load(&file(&schema, lines)) {
            Err(told) if told.starts_with("t.toml:") && told.contains(expected) => {}
            other => {
                let _ = writeln!(wrong, "{schema} {lines}\nwanted {expected}\nfound {other:?}");
            }
        }
    }
    for (text, expected) in [
        ("input_schema = '{'", "not JSON as we accept it"),
        ("input_schema = '{\"a\": 1, \"a\": 2}'", "a member of this name was already there"),
        ("input_schema = {}", "this has to be a string, not a table"),
        ("mapped = [\"x\"]\nschema.properties.x.type = \"string\"", "`mapped` belongs to an `input_schema`"),
        ("", "the archetype has no `[schema]`"),
    ] {
        let found = load(&format!("name = \"T\"\nreversible = true\n{text}\n")).unwrap_err();
        if !found.contains(expected) {
            let _ = writeln!(wrong, "{text}\nwanted {expected}\nfound {found}");
        }
    }
    let name = |length: usize| load(&format!("name = \"{}\"\ninput_schema = '{{}}'", "n".repeat(length)));
    assert!(name(200).is_ok() && name(201).is_err());
    assert!(wrong.is_empty(), "{wrong}");
}

/// A name for `depth` doublings: each refers to the next twice.
fn doublings(depth: usize) -> Value {
    let defs = (0..depth).map(|n| {
        let next = format!("#/$defs/d{}", n + 1);
        (format!("d{n}"), json!({"allOf": [{"$ref": next}, {"$ref": next}]}))
    });
    let mut defs: Map<String, Value> = defs.collect();
    defs.insert(format!("d{depth}"), json!({"type": "object"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

fn nested(depth: usize, leaf: Value) -> Value {
    (0..depth).fold(leaf, |inner, _| json!({"x": inner}))
}

#[test]
fn no_schema_makes_the_check_go_on_for_ever() {
    let twice = |keyword: &str| {
        let branch = json!({"properties": {"x": {"$ref": "#"}}});
        json!({keyword: [branch.clone(), branch.clone(), branch]})
    };
    let mut not_seen = json!({"type": "object", "unevaluatedProperties": false});
    for _ in 0..6 {
        not_seen = json!({"allOf": [not_seen], "unevaluatedProperties": {"type": "integer"}});
    }
    for endless in [
        doublings(60),
        doublings(400),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$dynamicAnchor": "a", "allOf": [{"$dynamicRef": "#a"}]}),
    ] {
        let mistakes = load(&file(&endless, "")).unwrap_err();
        assert!(mistakes.contains("nothing can be checked against it"), "{endless}\n{mistakes}");
    }
    let many: Map<String, Value> = (0..60).map(|n| (format!("n{n}"), json!(n))).collect();
    let long_chain: Map<String, Value> = (0..2000)
        .map(|n| (n.to_string(), json!({"$ref": format!("#/$defs/{}", n + 1)})))
        .chain([("2000".to_owned(), json!({}))])
        .collect();
    for (schema, constraints) in [
        (twice("allOf"), nested(50, json!({}))),
        (twice("anyOf"), nested(50, json!({"x": 1}))),
        (twice("oneOf"), nested(50, json!({"x": 1}))),
        (
            json!({"properties": {"x": doublings(60)["$defs"]["d0"]}, "$defs": doublings(60)["$defs"]}),
            json!({"x": 1}),
        ),
        (json!({"properties": {"x": {"not": {"$ref": "#/properties/x"}}}}), json!({"x": 1})),
        (json!({"properties": {"x": {"$ref": "#/$defs/0"}}, "$defs": long_chain}), json!({"x": 1})),
        (not_seen, Value::Object(many)),
        (
            json!({"properties": {"x": {"items": {"anyOf": vec![json!({"const": 1}); 4000]}}}}),
            json!({"x": vec![0; 20_000]}),
        ),
        (
            json!({"properties": {"x": {"allOf": (0..60).map(|n| json!({"pattern": format!("(a|b|ab)*{n}")})).collect::<Vec<_>>()}}}),
            json!({"x": "ab".repeat(100_000)}),
        ),
    ] {
        let catalogue = loaded(&schema, "");
        let refusal = call(&catalogue, constraints).map(|_| schema.to_string()).unwrap_err();
        assert_eq!(refusal.message, "more than can be checked against the schema", "{schema}");
        assert_eq!(refusal.field.as_deref(), Some("/constraints"));
    }
}

#[test]
fn a_schema_has_bounds() {
    let text = |length: usize| json!({"description": "d".repeat(length)});
    assert!(load(&file(&text(60_000), "")).is_ok());
    assert!(load(&file(&text(66_000), "")).unwrap_err().contains("more than 65536 bytes"));
    let deep = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({"not": inner}));
    assert!(load(&file(&deep(60), "")).is_ok());
    assert!(load(&file(&deep(70), "")).unwrap_err().contains("nested deeper than 64 levels"));
    let patterns = |count: usize| {
        let of = |n: usize| (format!("p{n}"), json!({"pattern": format!("^{n}$")}));
        json!({"properties": (0..count).map(of).collect::<Map<_, _>>()})
    };
    assert!(load(&file(&patterns(64), "")).is_ok());
    assert!(load(&file(&patterns(65), "")).unwrap_err().contains("more than 64 different"));
}

#[test]
fn what_usual_tools_ask_for_is_within_the_bounds() {
    let condition = json!({
        "anyOf": [
            {"type": "object", "required": ["and"], "properties": {"and": {"type": "array", "items": {"$ref": "#/$defs/condition"}}}},
            {"type": "object", "required": ["or"], "properties": {"or": {"type": "array", "items": {"$ref": "#/$defs/condition"}}}},
            {"type": "object", "required": ["not"], "properties": {"not": {"$ref": "#/$defs/condition"}}},
            {"type": "object", "required": ["field"], "properties": {"field": {"type": "string", "pattern": "^[a-z_]{1,64}$"}}},
        ],
    });
    let filter = loaded(
        &json!({"type": "object", "properties": {"where": {"$ref": "#/$defs/condition"}}, "$defs": {"condition": condition}}),
        "",
    );
    let leaf = || json!({"field": "name"});
    let wide = json!({"and": vec![json!({"or": vec![leaf(); 40]}); 40]});
    let deep = (0..15).fold(leaf(), |inner, _| json!({"not": {"and": [inner]}}));
    for asked in [wide, deep] {
        assert!(call(&filter, json!({"where": asked})).is_ok());
    }
    let refused = call(&filter, json!({"where": {"and": [{"field": "Not This"}]}})).unwrap_err();
    assert!(refused.field.unwrap().starts_with("/constraints/where"));
    let rows = loaded(
        &json!({"properties": {"rows": {"items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}}),
        "",
    );
    assert!(call(&rows, json!({"rows": vec![7; 100_000]})).is_ok(), "as much as a body holds");
    let content =
        loaded(&json!({"properties": {"content": {"type": "string", "pattern": "^[\\s\\S]*$"}}}), "");
    assert!(call(&content, json!({"content": "é\n".repeat(60_000)})).is_ok());
}

#[test]
fn draft_07_is_read_as_draft_07() {
    let catalogue = loaded(
        &json!({
            "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
            "properties": {"pair": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}], "additionalItems": false}},
            "dependencies": {"pair": ["why"]},
        }),
        "",
    );
    assert!(call(&catalogue, json!({"pair": ["a", 1], "why": ""})).is_ok());
    for wrong in
        [json!({"pair": [1, "a"], "why": ""}), json!({"pair": ["a", 1, 2], "why": ""}), json!({"pair": []})]
    {
        assert!(call(&catalogue, wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn the_digest_covers_schema_and_lists() {
    let digest = |text: &str| load(text).unwrap().digest().to_owned();
    for (from, to) in [
        ("\"GitCommit\"", "\"Commit\""),
        ("\"exclusiveMinimum\": 0.5", "\"exclusiveMinimum\": 0.25"),
        (", \"depth\"]", "]"),
        ("public = [\"repo_path\", ", "public = ["),
        ("display = [\"repo_path\"]", "display = []"),
    ] {
        assert!(GIT_COMMIT.contains(from), "{from}");
        assert_ne!(digest(GIT_COMMIT), digest(&GIT_COMMIT.replacen(from, to, 1)), "{to}");
    }
}

#[test]
fn a_format_is_a_remark() {
    for dialect in ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
    {
        let properties = json!({"when": {"type": "string", "format": "date"}, "n": {"format": "uint64"}});
        let catalogue = loaded(&json!({"$schema": dialect, "properties": properties}), "");
        assert!(call(&catalogue, json!({"when": "next Monday", "n": "many"})).is_ok(), "{dialect}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        // Long numbers may look like cards.
        (-999_999_999_999_i64..=999_999_999_999).prop_map(Value::from),
        any::<f32>()
            .prop_filter_map("finite", |number| serde_json::Number::from_f64(f64::from(number) % 1e9))
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    prop::collection::hash_map(any::<String>(), any_json(), 0..6)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

/// Objects some of whose members have names that the schema knows, and values that may fit.
fn near_objects() -> impl Strategy<Value = Value> {
    let text = prop_oneof![Just(json!("")), Just(json!("a")), Just(json!("long enough")), any_json()];
    let numbers = prop_oneof![Just(json!(0)), Just(json!(0.75)), Just(json!(7)), any_json()];
    let persons =
        prop_oneof![Just(json!({"name": "a"})), Just(json!({"name": "a", "mentor": {}})), any_object()];
    (prop::option::of(text), prop::option::of(numbers), prop::option::of(persons), any_object()).prop_map(
        |(text, number, person, mut object)| {
            let known =
                [("message", text), ("weight", number.clone()), ("depth", number), ("author", person)];
            for (name, value) in known {
                if let Some(value) = value {
                    object[name] = value;
                }
            }
            object
        },
    )
}

fn git_commit() -> &'static Catalogue {
    static LOADED: OnceLock<Catalogue> = OnceLock::new();
    LOADED.get_or_init(|| {
        load(
            &GIT_COMMIT
                .replace("mapped =", "mapped = [] #")
                .replace("display =", "display = [] #")
                .replace("resource =", "#"),
        )
        .unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_fits_an_open_schema_passes_unchanged(constraints in any_object()) {
        static OPEN: OnceLock<Catalogue> = OnceLock::new();
        let open = OPEN.get_or_init(|| loaded(&json!({"type": "object"}), ""));
        let received = strict::parse(constraints.to_string().as_bytes()).unwrap();
        match call(open, constraints) {
            Ok(action) => {
                prop_assert_eq!(&action.constraints, &received);
                prop_assert!(action.is_complete());
                prop_assert_eq!(strict::canonical(&received), &*action.canonical);
            }
            Err(refusal) => prop_assert_eq!(refusal.kind, RefusalKind::CardData),
        }
    }

    #[test]
    fn what_passes_is_what_the_schema_lets_pass(constraints in near_objects()) {
        static PLAIN: OnceLock<(jsonschema::Validator, Vec<String>)> = OnceLock::new();
        let (plain, required) = PLAIN.get_or_init(|| {
            let mut schema = git_commit().iter().next().unwrap().schema.clone();
            let required = schema.as_object_mut().unwrap().remove("required").unwrap();
            (jsonschema::draft202012::new(&schema).unwrap(), serde_json::from_value(required).unwrap())
        });
        let received = strict::parse(constraints.to_string().as_bytes()).unwrap();
        match call(git_commit(), constraints) {
            Ok(action) => {
                prop_assert!(plain.is_valid(&received));
                let absent: Vec<String> =
                    required.iter().filter(|name| received.get(name.as_str()).is_none()).map(|name| format!("/{name}")).collect();
                let missing: Vec<String> = action.missing.iter().map(|missing| missing.field.clone()).collect();
                prop_assert_eq!(missing, absent);
            }
            Err(refusal) if refusal.kind == RefusalKind::CardData => {}
            Err(_) => prop_assert!(!plain.is_valid(&received)),
        }
    }
}
