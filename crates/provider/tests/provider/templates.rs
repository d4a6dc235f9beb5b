//! A value stays a value, wherever the binding puts it.

use execution::Reply;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::common::{Act, Pair, Seen, answer, binding, to};

const DONE: &str = r#"{"id":"p1"}"#;

async fn pair(from: &str, with: &str) -> Pair {
    let (from, with) = (from.to_owned(), with.to_owned());
    let bind = move |base: &str| {
        let text = binding(base);
        assert!(text.contains(&from), "the usual binding has changed");
        text.replacen(&from, &with, 1)
    };
    Pair::new(bind, |_: &Seen| Act::Say(answer(201, DONE))).await
}

async fn with_body(body: &str) -> Pair {
    let usual = r#"body = { to = { "$value" = "/recipient" }, reference = { "$action" = "reference" } }"#;
    let body = format!(r#"body = {{ ref = {{ "$action" = "reference" }}, {body} }}"#);
    pair(usual, &body).await
}

async fn with_path(path: &str) -> Pair {
    pair(r#"path = "/payments""#, &format!("path = {path}")).await
}

fn last(pair: &Pair) -> Seen {
    pair.server.seen().pop().unwrap()
}

#[tokio::test]
async fn every_slot_is_filled_with_its_value() {
    let pair = with_body(
        r#"to = { "$value" = "/recipient" }, minor = { "$money" = "minor" }, amount = { "$money" = "amount" },
           currency = { "$money" = "currency" }, id = { "$action" = "id" }, key = { "$action" = "provider_key" },
           fixed = { a = [1, "two", { b = true }], list = [{ "$value" = "/recipient" }, { "$value" = "/note", optional = true }] },
           iban = { "$value" = "/payee/iban", optional = true }, absent = { "$value" = "/note", optional = true }"#
            .replace('\n', " ")
            .as_str(),
    )
    .await;
    let constraints = json!({ "recipient": "acct-1", "amount": "12.50", "payee": { "iban": "DE89" } });
    assert!(matches!(pair.call(constraints.clone()).await, Reply::Confirmed(_)));
    let call = crate::common::call(&pair.archetype, constraints);
    let expected = json!({
        "ref": call.reference, "to": "acct-1", "minor": 1250, "amount": "12.50", "currency": "USD",
        "id": call.action_id.to_string(), "key": call.provider_key,
        "fixed": { "a": [1, "two", { "b": true }], "list": ["acct-1"] }, "iban": "DE89",
    });
    let seen = last(&pair);
    assert_eq!(seen.json(), expected);
    assert_eq!(seen.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_value_that_looks_like_structure_is_a_value() {
    let pair =
        with_body(r#"to = { "$value" = "/recipient" }, any = { "$value" = "/anything", optional = true }"#)
            .await;
    let tricks = [
        json!(r#"", "admin": true, "x": ""#),
        json!(r#"{"$value": "/amount"}"#),
        json!({ "$value": "/amount" }),
        json!({ "$secret": "bank" }),
        json!([{ "$action": "provider_key" }]),
        json!("secret:bank"),
        json!("{{recipient}}"),
        json!("${recipient}"),
        json!("%7b%22admin%22%3atrue%7d"),
        json!("\u{0}\u{1f}\"\\/\u{2028}\u{202e}"),
        json!("𝒳 é e\u{301} \u{feff}"),
        json!({ "": { "/": [null, 1.5, -0.0, 9_007_199_254_740_991_i64] } }),
        Value::Null,
    ];
    for trick in tricks {
        let constraints = json!({ "recipient": trick, "amount": "1.00", "anything": trick });
        assert!(matches!(pair.call(constraints).await, Reply::Confirmed(_)), "{trick}");
        let body = last(&pair).json();
        assert_eq!((&body["to"], &body["any"]), (&trick, &trick));
        assert_eq!(body.as_object().unwrap().len(), 3, "nothing came beside it: {body}");
    }
}

#[tokio::test]
async fn a_path_segment_stays_one_segment() {
    let pair = with_path(r#"["v1", "accounts", { "$value" = "/recipient" }, "payments"]"#).await;
    let table = [
        ("acct-1", Some("acct-1")),
        ("a/b", Some("a%2Fb")),
        ("a?b=c#d", Some("a%3Fb%3Dc%23d")),
        ("a b", Some("a%20b")),
        ("%2e%2e", Some("%252e%252e")),
        ("%2E", Some("%252E")),
        ("a;b", Some("a%3Bb")),
        ("@evil.example", Some("%40evil.example")),
        ("…", Some("%E2%80%A6")),
        ("é", Some("%C3%A9")),
        ("...", Some("...")),
        (".a", Some(".a")),
        ("", None),
        (".", None),
        ("..", None),
        ("../admin", None),
        ("a/../../admin", None),
        ("..\\admin", None),
        ("a/..", None),
        ("a\0b", None),
        ("a\r\nHost: evil", None),
        ("\u{85}", None),
    ];
    for (value, expected) in table {
        let before = pair.server.seen().len();
        let reply = pair.call(to(value)).await;
        match expected {
            Some(segment) => {
                assert!(matches!(reply, Reply::Confirmed(_)), "{value:?}: {reply:?}");
                assert_eq!(last(&pair).target(), format!("/v1/accounts/{segment}/payments"), "{value:?}");
            }
            None => {
                assert!(
                    matches!(&reply, Reply::NotSent { why } if why.contains("path segment")),
                    "{value:?}: {reply:?}"
                );
                assert_eq!(pair.server.seen().len(), before, "{value:?}: nothing left");
            }
        }
    }
}

#[tokio::test]
async fn parameters_and_headers_take_scalars_and_cannot_be_left() {
    let usual = r#"path = "/payments""#;
    let with = r#"path = "/payments"
params = { "to whom" = { "$value" = "/recipient" }, n = { "$value" = "/count", optional = true }, fixed = "a&b" }
headers = { X-To = { "$value" = "/note", optional = true }, X-Fixed = "yes" }"#;
    let pair = pair(usual, with).await;
    let constraints = |recipient: Value, note: Value| json!({ "recipient": recipient, "note": note, "count": 3, "amount": "1" });
    pair.call(constraints(json!("a&b=c d"), json!("plain"))).await;
    let seen = last(&pair);
    assert_eq!(seen.target(), "/payments?to%20whom=a%26b%3Dc%20d&n=3&fixed=a%26b");
    assert_eq!((seen.header("x-to"), seen.header("x-fixed")), (Some("plain"), Some("yes")));

    pair.call(to("x")).await;
    assert_eq!(last(&pair).target(), "/payments?to%20whom=x&fixed=a%26b", "what is absent is left out");
    assert_eq!(last(&pair).header("x-to"), None);

    let before = pair.server.seen().len();
    for (recipient, note) in [
        (json!("x"), json!("a\r\nInjected: 1")),
        (json!("x"), json!("a\nb")),
        (json!("x"), json!("é")),
        (json!("x"), json!("\0")),
        (json!({ "an": "object" }), json!("x")),
        (json!(["a", "list"]), json!("x")),
        (json!(1.5), json!("x")),
        (Value::Null, json!("x")),
    ] {
        let reply = pair.call(constraints(recipient.clone(), note.clone())).await;
        let Reply::NotSent { why } = reply else { panic!("{recipient} {note}: {reply:?}") };
        assert!(!why.contains("Injected"), "says where, never what: {why}");
    }
    assert_eq!(pair.server.seen().len(), before, "nothing left");
}

#[test]
fn whatever_a_value_is_it_arrives_whole_and_alone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pair =
        runtime.block_on(with_body(r#"any = { "$value" = "/anything", optional = true }, last = "fixed""#));
    let cases = TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let mut cases = cases;
    cases
        .run(&any_json(), |value| {
            let constraints = json!({ "recipient": "x", "amount": "1.00", "anything": value });
            let reply = runtime.block_on(pair.call(constraints));
            prop_assert!(matches!(reply, Reply::Confirmed(_)), "{reply:?}");
            let reference = crate::common::call(&pair.archetype, json!({})).reference;
            prop_assert_eq!(last(&pair).json(), json!({ "ref": reference, "any": value, "last": "fixed" }));
            Ok(())
        })
        .unwrap();
}

#[test]
fn whatever_a_segment_is_it_is_one_segment_or_does_not_leave() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pair = runtime.block_on(with_path(r#"["a", { "$value" = "/recipient" }, "z"]"#));
    let mut cases = TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let texts = prop_oneof![any::<String>(), "[./\\\\%2eE?#;@:& \\r\\n]{0,8}"];
    cases
        .run(&texts, |text| {
            let before = pair.server.seen().len();
            match runtime.block_on(pair.call(to(&text))) {
                Reply::Confirmed(_) => {
                    let url = url::Url::parse("http://x").unwrap().join(last(&pair).target()).unwrap();
                    let segments: Vec<String> = url.path_segments().unwrap().map(decoded).collect();
                    prop_assert_eq!(segments, vec!["a".to_owned(), text, "z".to_owned()]);
                    prop_assert!(url.query().is_none());
                }
                Reply::NotSent { .. } => prop_assert_eq!(pair.server.seen().len(), before),
                other => prop_assert!(false, "{other:?}"),
            }
            Ok(())
        })
        .unwrap();
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "\\$(value|secret|action|money|text)".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let names = prop_oneof![any::<String>(), "\\$(value|secret|action|money|text)"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names, inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn decoded(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}
