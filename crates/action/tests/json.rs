//! Strict JSON in, canonical JSON out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use countersign_action::json;
use proptest::prelude::*;
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;

fn vectors(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    skip(&format!("no vectors in {folder}"));
    None
}

/// As `skip` of the testkit, which this crate does without; but not all vectors are given everywhere, and none can be installed.
fn skip(lacking: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {lacking}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn files(folder: PathBuf) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Valid JSON that we refuse on purpose: duplicate members, and whole numbers beyond 2^53, such as 123e45, however
/// they are written.
const STRICTER: [&str; 7] = [
    "y_number.json",
    "y_number_real_capital_e.json",
    "y_number_real_exponent.json",
    "y_number_real_fraction_exponent.json",
    "y_object_duplicated_key.json",
    "y_object_duplicated_key_and_value.json",
    "y_object_extreme_numbers.json",
];

#[test]
fn the_json_test_suite_is_kept() {
    let Some(folder) = vectors("jsontestsuite/test_parsing") else { return };
    let (mut refused, mut accepted) = (0, 0);
    for (name, bytes) in files(folder) {
        let parsed = json::parse(&bytes);
        match name.as_bytes()[0] {
            b'n' => {
                assert!(parsed.is_err(), "{name} was accepted");
                refused += 1;
            }
            b'y' => {
                assert_eq!(parsed.is_ok(), !STRICTER.contains(&name.as_str()), "{name}: {parsed:?}");
                accepted += 1;
            }
            _ => {}
        }
        if let Err(error) = parsed {
            assert!(error.offset <= bytes.len(), "{name}: {error}");
        }
    }
    assert!(refused > 100 && accepted > 50, "{refused} {accepted}");
}

#[test]
fn the_published_canonical_forms_are_kept() {
    let Some(folder) = vectors("jcs/testdata") else { return };
    for (name, bytes) in files(folder.join("input")) {
        let expected = std::fs::read_to_string(folder.join("output").join(&name)).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json::canonical(&value), expected.trim_end(), "{name}");
    }
}

#[test]
fn a_refusal_says_where() {
    for (text, field, offset, message) in [
        (r#"{"a":1,"a":2}"#, "/a", 10, "already there"),
        (r#"{"a":{"b":[0,{"c":1,"c":1}]}}"#, "/a/b/1/c", 22, "already there"),
        (r#"{"a/b":{"~":9007199254740992}}"#, "/a~1b/~0", 28, "2^53"),
        (r#"{"a":-9007199254740992}"#, "/a", 22, "2^53"),
        (r#"{"a":1e16}"#, "/a", 8, "2^53"),
        (r#"{"a":123456789012345678901234567890}"#, "/a", 34, "2^53"),
        (r#"{"a":1e400}"#, "/a", 9, "out of range"),
        ("{\"a\":\"\\ud800\"}", "/a", 12, "hex escape"),
        ("{} {}", "", 3, "trailing"),
        ("\u{feff}{}", "", 0, "byte order mark"),
        ("", "", 0, "EOF"),
        ("{\n\"a\":\n 01}", "/a", 9, "number"),
    ] {
        let error = json::parse(text.as_bytes()).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.offset.abs_diff(offset) <= 1, "{text}: {error}");
        assert_eq!(error.field, field, "{text}: {error}");
        assert!(!error.message.contains(" at line "), "{error}");
    }
}

#[test]
fn nesting_stops_at_64() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(json::parse(nested(64).as_bytes()).is_ok());
    assert!(json::parse(nested(65).as_bytes()).is_err());
    assert!(json::parse("[".repeat(100_000).as_bytes()).is_err());
    assert!(json::parse(r#"{"a":"#.repeat(100_000).as_bytes()).is_err());
}

#[test]
fn invalid_utf8_is_refused() {
    for bytes in [&b"\"\xff\""[..], b"\"\xc0\xaf\"", b"\"\xed\xa0\x80\"", b"{\"\xff\":1}", b"\xff\xfe{}"] {
        assert!(json::parse(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn whole_numbers_are_integers_however_they_are_written() {
    for (text, canonical) in [
        ("1.0", "1"),
        ("1e2", "100"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("9007199254740991", "9007199254740991"),
        ("-9007199254740991", "-9007199254740991"),
        ("0.1", "0.1"),
        ("1e-7", "1e-7"),
        ("123456.789e3", "123456789"),
    ] {
        assert_eq!(json::canonical(&json::parse(text.as_bytes()).unwrap()), canonical, "{text}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[\u{0}-\u{7f}]{0,8}",
        "[\u{e000}-\u{ffff}\u{10000}-\u{10ffff}a-c]{0,4}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-json::MAX_INTEGER..=json::MAX_INTEGER).prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_canonical_form_is_the_librarys(value in value()) {
        prop_assert_eq!(json::canonical(&value), serde_json_canonicalizer::to_string(&value).unwrap());
    }

    #[test]
    fn what_is_written_canonically_reads_back_canonically(value in value()) {
        let text = json::canonical(&value);
        if let Ok(read) = json::parse(text.as_bytes()) {
            prop_assert_eq!(json::canonical(&read), text);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Err(error) = json::parse(&bytes) {
            prop_assert!(error.offset <= bytes.len());
        }
    }

    #[test]
    fn it_accepts_nothing_that_the_usual_parser_refuses(text in r#"[\[\]{}:,"\\a-e0-9.+ \-]{0,24}"#) {
        if json::parse(text.as_bytes()).is_ok() {
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}

/// serde_json reads an object whose first member is called like this as the JSON in its text: what is judged as a member
/// would be shown, and sent, as something else once it was stored.
#[test]
fn no_member_has_a_name_by_which_it_is_read_back_as_another_value() {
    for name in ["RawValue", "Number", "Anything"] {
        for text in [
            format!(r#"{{"$serde_json::private::{name}":"1"}}"#),
            format!(r#"{{"a":[{{"b":1,"$serde_json::private::{name}":"{{}}"}}]}}"#),
        ] {
            let error = json::parse(text.as_bytes()).unwrap_err();
            assert!(error.field.ends_with(name), "{error:?}");
        }
    }
    assert!(json::parse(br#"{"$serde_json":1}"#).is_ok());
}
