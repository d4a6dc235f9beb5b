//! Canonical JSON: published vectors, and the JCS library as the judge of everything else.

use std::fs;

use countersign_receipt::canonical::{canonicalise, is_canonical};
use countersign_receipt::{Error, Json};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

#[test]
fn published_inputs_give_published_outputs() {
    let Some(folder) = crate::support::vectors("jcs/testdata") else { return };
    let mut seen = 0;
    for file in fs::read_dir(folder.join("input")).unwrap() {
        let name = file.unwrap().file_name();
        let input = fs::read(folder.join("input").join(&name)).unwrap();
        let output = fs::read(folder.join("output").join(&name)).unwrap();
        assert_eq!(canonicalise(&input).unwrap(), output, "{name:?}");
        assert!(is_canonical(&output), "{name:?}");
        assert_eq!(is_canonical(&input), input == output, "{name:?}");
        let hex = fs::read_to_string(folder.join("outhex").join(&name).with_extension("txt")).unwrap();
        let bytes = hex::decode(hex.split_whitespace().collect::<String>()).unwrap();
        assert_eq!(output, bytes, "{name:?}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[test]
fn text_that_readers_understand_differently_is_refused() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":{"b":[{"c":1,"\u0063":2}]}}"#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        "[01]",
        "[1.]",
        "[+1]",
        "[1e999]",
        "[NaN]",
        "{\"a\":1}{}",
        "[1,]",
        "",
        "\u{feff}[]",
        "\"\n\"",
        "\"\\x\"",
        "'a'",
    ] {
        assert!(!is_canonical(text.as_bytes()), "{text}");
        assert!(matches!(canonicalise(text.as_bytes()), Err(Error::Json { .. })), "{text}");
    }
    assert!(canonicalise(b"\"\xff\"").is_err());
    assert!(canonicalise(b"\"\xed\xa0\x80\"").is_err());
}

#[test]
fn a_duplicate_is_reported_where_it_stands() {
    let Err(Error::Json { pointer, .. }) = canonicalise(br#"{"x":[0,{"a/b":{"c":1,"c":2}}]}"#) else {
        panic!()
    };
    assert_eq!(pointer, "/x/1/a~1b/c");
}

#[test]
fn integers_that_doubles_cannot_hold_are_refused_however_they_come() {
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "9007199254740993",
        "18446744073709551616",
        "123456789012345678901234567890",
        "1e20",
        "123456789012345678901.0",
    ] {
        assert!(!is_canonical(text.as_bytes()), "{text}");
        let in_array = format!("[ {text} ]");
        assert!(matches!(canonicalise(in_array.as_bytes()), Err(Error::UnsafeInteger(_))), "{text}");
    }
    assert!(matches!(Json::canonical(&json!(u64::MAX)), Err(Error::UnsafeInteger(_))));
    assert!(matches!(Json::canonical(&json!(i64::MIN)), Err(Error::UnsafeInteger(_))));
    assert!(matches!(Json::canonical(&json!(1e20)), Err(Error::UnsafeInteger(_))));
    for text in ["9007199254740991", "-9007199254740991", "1e+21", "\"9007199254740993\""] {
        assert!(is_canonical(text.as_bytes()), "{text}");
    }
    assert_eq!(canonicalise(b"[ 9007199254740991, \"1234567890123456789\" ]").unwrap().len(), 40);
}

#[test]
fn depth_is_bounded_alike_for_reading_and_writing() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(is_canonical(nested(100).as_bytes()));
    assert!(!is_canonical(nested(101).as_bytes()));
    assert!(canonicalise(format!(" {}", nested(100)).as_bytes()).is_ok());
    assert!(canonicalise(format!(" {}", nested(101)).as_bytes()).is_err());
    assert!(canonicalise(nested(1_000_000).as_bytes()).is_err());
    assert!(canonicalise("[".repeat(1_000_000).as_bytes()).is_err());
}

#[test]
fn objects_are_put_in_order_and_hold_no_name_twice() {
    let object =
        Json::object(&[("\u{e000}", Json::NULL), ("b", Json::string("\u{1}")), ("\u{10000}", Json::NULL)]);
    // UTF-16 puts U+10000, a surrogate pair, before U+E000.
    assert_eq!(object.unwrap().as_str(), "{\"b\":\"\\u0001\",\"\u{10000}\":null,\"\u{e000}\":null}");
    assert!(matches!(Json::object(&[("a", Json::NULL), ("a", Json::NULL)]), Err(Error::Member { .. })));
}

/// JSON of every kind, with names and strings that sort and escape in unusual ways.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[a-z]{0,3}",
        "[\u{0}-\u{20}\"\\\\/\u{7f}\u{2028}]{0,4}",
        "[\u{d7fe}-\u{d7ff}\u{e000}-\u{e001}\u{fffd}-\u{10002}]{0,3}",
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
        any::<f64>().prop_filter("beyond", |f| f.abs() < 1e15 || f.abs() >= 1e21).prop_map(Value::from),
        (-1000..1000_i32).prop_map(|i| Value::from(f64::from(i) / 8.0)),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Bytes of every class that JSON tells apart.
const TELLING: &[u8] = b"\"\\{}[],:0123456789.eE+-u \n\x01\x7f\x80az/b";

/// One edit of a text: a byte replaced, inserted or removed.
fn edited(mut text: Vec<u8>, (position, byte, kind): (prop::sample::Index, u8, u8)) -> Vec<u8> {
    let position = position.index(text.len());
    match kind {
        0 => text[position] = byte,
        1 => text.insert(position, byte),
        _ => {
            text.remove(position);
        }
    }
    text
}

/// The JCS library's opinion, from text. It does not refuse integers that doubles cannot hold.
fn library(text: &[u8]) -> Option<Vec<u8>> {
    serde_json_canonicalizer::to_vec(&serde_json::from_slice::<Value>(text).ok()?).ok()
}

fn has_long_integer(text: &[u8]) -> bool {
    matches!(canonicalise(&[b" ", text].concat()), Err(Error::UnsafeInteger(_)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn values_are_written_as_the_library_writes_them(value in any_json()) {
        let library = serde_json_canonicalizer::to_string(&value).unwrap();
        let ours = Json::canonical(&value).unwrap();
        prop_assert_eq!(ours.as_str(), &library);
        prop_assert!(is_canonical(library.as_bytes()));
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        prop_assert_eq!(String::from_utf8(canonicalise(&pretty).unwrap()).unwrap(), library);
    }

    #[test]
    fn the_scan_says_canonical_exactly_when_the_library_would_change_nothing(
        value in any_json(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(TELLING.to_vec()), 0..3_u8), 0..3),
    ) {
        let mut text = serde_json_canonicalizer::to_vec(&value).unwrap();
        for edit in edits {
            if !text.is_empty() {
                text = edited(text, edit);
            }
        }
        let unchanged = library(&text).is_some_and(|output| output == text) && !has_long_integer(&text);
        prop_assert_eq!(is_canonical(&text), unchanged, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn numbers_are_recognised_exactly(text in "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,8})?(e[+-]?[0-9]{1,3})?") {
        let unchanged = library(text.as_bytes()).is_some_and(|output| output == text.as_bytes());
        prop_assert_eq!(is_canonical(text.as_bytes()), unchanged && !has_long_integer(text.as_bytes()));
    }
}
