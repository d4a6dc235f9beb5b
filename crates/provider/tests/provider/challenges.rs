//! Payers who must confirm: which answers say so, where people may be sent, and how a provider's own word is read.

use execution::{Challenge, Reply};
use provider::egress::{Egress, Rules};
use provider::secrets::{Declared, Kind, Source};
use provider::{Mistake, Outside, Provider, Secrets, Signed};
use serde_json::json;
use std::sync::Arc;

use crate::common::{Act, NOW_MS, Seen, Server, answer, archetype, binding, call, no_secrets, secret, to};

const CHALLENGE: &str =
    r#"challenge = { status = [202], url = "/url", within_seconds = 900, expires = "/until" }"#;
const CALLBACK: &str = r#"
[binding.callback]
secret = "hook"
about = "/about"
settled = { pointer = "/type", equals = ["settled"] }
refused = [{ pointer = "/type", equals = ["declined"] }, { pointer = "/error" }]
reference = "/id"
code = "/error/code"
"#;
const KEY: &str = "whsec_d2hvZXZlciByZWFkcyB0aGlzIGtub3dzIHRoZSBrZXk=";

/// The usual binding, with a challenge and a callback.
fn challenging(base: &str) -> String {
    let text = binding(base).replacen("success =", &format!("{CHALLENGE}\nsuccess ="), 1).replacen(
        r#"found = { status = [200], pointer = "/payments/0" }"#,
        r#"found = { status = [200], pointer = "/payments/0/status", equals = ["settled"] }"#,
        1,
    );
    format!("{text}{CALLBACK}")
}

fn compile(text: &str, places: &[String], secrets: &Secrets) -> Result<Arc<dyn Provider>, Vec<Mistake>> {
    let rules = Rules::parse(places, places).unwrap().and_challenges(&["pay.example", "pay.example:8443"]);
    let egress = Egress::new(rules.unwrap());
    provider::compile(&archetype(text), Outside { egress: &egress, secrets })
}

fn hook() -> Secrets {
    secret("hook", KEY, &[]).unwrap()
}

/// What a provider's answer comes to.
async fn replied(status: u16, body: &str) -> Reply {
    let said = answer(status, body);
    let server = Server::start(move |_: &Seen| Act::Say(said.clone())).await;
    let places = [server.address.to_string()];
    let text = challenging(&server.url());
    let provider = compile(&text, &places, &hook()).unwrap();
    provider.call(&call(&archetype(&text), to("acct-1")), NOW_MS).await
}

#[tokio::test]
async fn an_answer_may_have_the_payer_confirm_first() {
    // The call may leave until ten seconds after it began, and a payer has 900.
    for (until, until_ms) in
        [("\"2025-10-09T09:00:00Z\"", 1_760_000_400_000), ("1760000910", 1_760_000_910_000), ("1", 1_000)]
    {
        let body = format!(r#"{{"url":"https://pay.example/c/1?a=b","until":{until}}}"#);
        let url = "https://pay.example/c/1?a=b".to_owned();
        assert_eq!(replied(202, &body).await, Reply::Challenged(Challenge { url, until_ms }), "{until}");
    }
    let elsewhere = replied(202, r#"{"url":"https://PAY.example:8443","until":1760000001}"#).await;
    let Reply::Challenged(challenge) = elsewhere else { panic!("{elsewhere:?}") };
    assert_eq!(challenge.url, "https://pay.example:8443/", "as the parser that checked it writes it");
}

#[tokio::test]
async fn an_answer_that_is_not_the_challenge_described_decides_nothing() {
    let until = 1_760_000_001;
    let long = format!("https://pay.example/{}", "a".repeat(2048));
    for url in [
        "http://pay.example/",
        "https://evil.example/",
        "https://pay.example.evil.example/",
        "https://pay.example:444/",
        "https://pay.example@evil.example/",
        "https://user@pay.example/",
        "https://pay.example./",
        "https://evil.example\\@pay.example/",
        "https:\\\\evil.example/https://pay.example/",
        "javascript:alert(1)//https://pay.example",
        "//pay.example/",
        "https://pay.example/ a",
        "https://pay.example/\u{202e}",
        "",
        &long,
    ] {
        let reply = replied(202, &json!({ "url": url, "until": until }).to_string()).await;
        assert!(matches!(reply, Reply::Lost { .. }), "{url}: {reply:?}");
    }
    let right = "https://pay.example/";
    for body in [
        json!({ "until": until }),
        json!({ "url": right }),
        json!({ "url": right, "until": "soon" }),
        json!({ "url": right, "until": 1.5 }),
        // A second longer than the binding says that a payer has.
        json!({ "url": right, "until": 1_760_000_911 }),
        json!({ "url": [right], "until": until }),
    ] {
        let reply = replied(202, &body.to_string()).await;
        assert!(matches!(reply, Reply::Lost { .. }), "{body}: {reply:?}");
    }
    for body in ["", "no json"] {
        assert!(matches!(replied(202, body).await, Reply::Lost { .. }), "{body}");
    }
}

#[test]
fn an_absence_is_final_only_once_the_payers_time_is_over_too() {
    let provider = compile(&challenging("https://bank.example"), &[], &hook()).unwrap();
    let call = call(&archetype(""), to("acct-1"));
    let over_ms = call.send_by_ms + 900_000 + 30_000;
    assert!(!provider.capabilities().absence_is_final(&call, over_ms - 1));
    assert!(provider.capabilities().absence_is_final(&call, over_ms));
    let shorter =
        challenging("https://bank.example").replacen("within_seconds = 900", "within_seconds = 899", 1);
    let shorter = compile(&shorter, &[], &hook()).unwrap();
    assert_ne!(shorter.identity(), provider.identity(), "who says when it is final is part of whom we asked");
}

#[test]
fn each_mistake_about_payers_and_callbacks_is_found_where_it_is() {
    let query = "capabilities = { queryable = { by_our_reference = true, final_after_seconds = 30 } }\n";
    let table = [
        ("url = \"/url\", ", "", "/act/challenge", "`url` is missing"),
        ("within_seconds = 900", "within_seconds = 0", "/act/challenge/within_seconds", "whole number"),
        ("status = [202]", "status = [402]", "/act/challenge/status/0", "cannot mean that"),
        ("status = [202]", "status = [201]", "/act/challenge", "as success and as a challenge"),
        (
            r#"pointer = "/payments/0/status", equals = ["settled"]"#,
            r#"pointer = "/payments/0""#,
            "/query/found",
            "taken for done",
        ),
        ("secret = \"hook\"", "secret = \"hooks\"", "/callback/secret", "there is no secret"),
        ("about = \"/about\"", "about = \"about\"", "/callback/about", "not a JSON pointer"),
        (
            "settled = { pointer = \"/type\", equals = [\"settled\"] }",
            "settled = { status = [200] }",
            "/callback/settled/status",
            "not known here",
        ),
        (
            "settled = { pointer = \"/type\", equals = [\"settled\"] }",
            "",
            "/callback",
            "`settled` is missing",
        ),
        (CALLBACK, "", "/act/challenge", "nobody would ever say"),
    ];
    for (from, with, pointer, message) in table {
        let usual = challenging("https://bank.example");
        assert!(usual.contains(from), "{from}");
        let mut text = usual.replacen(from, with, 1);
        if from == CALLBACK {
            let (act, _) = text.split_once("[binding.query]").unwrap();
            text = act.replacen(query, "", 1);
        }
        let found = compile(&text, &[], &hook()).expect_err(with);
        assert_eq!(found[0].pointer, pointer, "{with}: {found:?}");
        assert!(found[0].message.contains(message), "{with}: {}", found[0].message);
    }
    let nowhere = Egress::new(Rules::default());
    let outside = Outside { egress: &nowhere, secrets: &hook() };
    let found = provider::compile(&archetype(&challenging("https://bank.example")), outside).unwrap_err();
    assert!(found[0].hint.as_ref().unwrap().contains("egress.challenge_hosts"), "{found:?}");
    for (value, hosts, message) in
        [("not-a-key", &[][..], "no signing key"), (KEY, &["bank.example"][..], "has hosts")]
    {
        let found =
            compile(&challenging("https://bank.example"), &[], &secret("hook", value, hosts).unwrap());
        let found = found.expect_err(value);
        assert!(found[0].message.contains(message) && !found[0].message.contains(value), "{found:?}");
    }
}

#[test]
fn a_providers_own_word_is_read_as_its_binding_says() {
    let provider = compile(&challenging("https://bank.example"), &[], &hook()).unwrap();
    let callback = provider.callback().unwrap();
    let told = |body: serde_json::Value| callback.told(body.to_string().as_bytes());
    let settled = told(json!({ "type": "settled", "about": "a-1", "id": "p1" })).unwrap();
    assert_eq!(settled.about, "a-1");
    assert!(matches!(&settled.reply, Reply::Confirmed(it) if it.reference.as_deref() == Some("p1")));
    let declined = told(json!({ "type": "declined", "about": "a-1", "error": { "code": "no" } })).unwrap();
    let Reply::Refused(refusal) = declined.reply else { panic!("{declined:?}") };
    assert_eq!((refusal.code.as_deref(), refusal.transient), (Some("no"), false));
    for undecided in [
        json!({ "type": "settled", "about": "a-1" }),
        json!({ "type": "settled", "about": "a-1", "id": "p1", "error": {} }),
    ] {
        assert!(matches!(told(undecided).unwrap().reply, Reply::Lost { .. }));
    }
    for nothing in [json!({ "type": "created", "about": "a-1" }), json!({ "type": "settled" }), json!([])] {
        assert_eq!(told(nothing), None);
    }
    assert_eq!(callback.told(b"no json"), None);
    // What sets aside says when that ends; what charges does not.
    let ending = challenging("https://bank.example")
        .replace("[binding.callback]\n", "[binding.callback]\nexpires = \"/until\"\n");
    let ending = compile(&ending, &[], &hook()).unwrap();
    for (until, expected) in
        [(json!("2025-10-09T08:53:20Z"), Some(NOW_MS)), (json!(null), None), (json!("tomorrow"), None)]
    {
        let body = json!({ "type": "settled", "about": "a-1", "id": "p1", "until": until });
        let told = ending.callback().unwrap().told(body.to_string().as_bytes()).unwrap();
        assert!(matches!(&told.reply, Reply::Confirmed(it) if it.expires_ms == expected), "{told:?}");
    }
    let letter = Signed { id: "1", timestamp: "1760000000", signature: "v1,", body: b"{}" };
    assert!(!callback.is_from(&letter, NOW_MS));
    // A check of the catalogue reads no secret, and what it compiles hears nobody.
    let declared = Declared {
        name: "hook".to_owned(),
        kind: Kind::Static(Source::Env("NO_SUCH_VARIABLE".to_owned())),
        hosts: Vec::new(),
    };
    let checked =
        compile(&challenging("https://bank.example"), &[], &Secrets::stand_ins([declared]).unwrap()).unwrap();
    assert!(!checked.callback().unwrap().is_from(&letter, NOW_MS));
    let none = compile(&binding("https://bank.example"), &[], &no_secrets()).unwrap();
    assert!(none.callback().is_none() && none.capabilities().challenge.is_none());
}
