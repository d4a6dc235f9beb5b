//! What an action derives from its request: money, completeness, hashes, attributes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{act, builtin, catalogue, key, payment, payment_with};
use countersign_action::{
    Attribute, Currency, GuaranteeLevel, HmacKey, Money, PaymentMode, Period, Refusal, RefusalKind,
    json as strict,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn money_is_read_once_and_text_stays_as_received() {
    let action = act(builtin(), &payment_with("amount_usd", json!("25.5"))).unwrap();
    let usd = Currency::of("USD").unwrap();
    assert_eq!(action.money, Money::new(2550, usd));
    assert_eq!(action.bound, Money::new(3000, usd));
    assert_eq!(action.constraints["amount_usd"], "25.5");
    assert_eq!(action.resource.as_deref(), Some("acct-4711"));
    for (text, part) in [
        ("0", "zero"),
        ("0.00", "zero"),
        ("-1", "decimal"),
        ("1e3", "decimal"),
        ("1,50", "decimal"),
        ("٢٥", "decimal"),
        ("１", "decimal"),
        (" 25", "decimal"),
        ("25.001", "fraction digits"),
        ("25.500", "fraction digits"),
        ("1234567890123456789", "18 digits"),
    ] {
        let refusal = act(builtin(), &payment_with("amount_usd", json!(text))).expect_err(text);
        assert_eq!(refusal.field.as_deref(), Some("/constraints/amount_usd"), "{text}");
        assert!(
            refusal.message.contains(part) && refusal.kind == RefusalKind::ValidationFailed,
            "{refusal:?}"
        );
        assert!(refusal.hint.is_some() || part == "zero", "{text}");
    }
}

#[test]
fn a_currency_may_come_from_a_member() {
    let wire = catalogue(
        "name = \"WIRE\"\nidentity = [\"/to\", \"/amount\"]\ndestination = \"/to\"\n\
         [money]\namount = \"/amount\"\ncurrency = \"/currency\"\nzero = true\n\
         [schema]\nrequired = [\"to\", \"amount\", \"currency\"]\n\
         [schema.properties.to]\ntype = \"string\"\n[schema.properties.amount]\ntype = \"string\"\n\
         [schema.properties.currency]\ntype = \"string\"\nx-identifier = true\n",
    );
    let of = |amount: &str, currency: &str| {
        let constraints = json!({"to": "x", "amount": amount, "currency": currency});
        act(&wire, &json!({"archetype": "WIRE", "constraints": constraints}))
    };
    assert_eq!(of("5", "JPY").unwrap().money, Money::new(5, Currency::of("JPY").unwrap()));
    assert_eq!(of("0", "KWD").unwrap().money, Money::new(0, Currency::of("KWD").unwrap()));
    assert_eq!(of("5.0", "JPY").unwrap_err().field.as_deref(), Some("/constraints/amount"));
    assert_eq!(of("5", "usd").unwrap_err().field.as_deref(), Some("/constraints/currency"));
    // Without its currency an amount is not yet money, and the action is not complete.
    let action =
        act(&wire, &json!({"archetype": "WIRE", "constraints": {"to": "x", "amount": "5"}})).unwrap();
    assert!(action.money.is_none() && !action.is_complete());
    // Two currencies are two effects.
    let effect = |currency| of("5", currency).unwrap().effect_hash(&key(), "p");
    assert_ne!(effect("USD"), effect("EUR"));
}

#[test]
fn what_is_absent_or_says_nothing_is_missing_and_no_error() {
    for value in [json!(null), json!(""), json!("  "), json!([]), json!({})] {
        let mut body = payment();
        body["constraints"]["recipient"] = value.clone();
        let action = act(builtin(), &body).unwrap_or_else(|refusal| panic!("{value}: {refusal:?}"));
        assert_eq!(action.missing.len(), 1, "{value}");
        assert_eq!(action.missing[0].field, "/recipient");
        assert_eq!(action.missing[0].kind, "string");
        assert_eq!(action.missing[0].example, "acct-4711");
        assert!(action.destination.is_none() && action.resource.is_none());
    }
    let empty = act(builtin(), &json!({"archetype": "PAYMENT_TRANSFER", "constraints": {}})).unwrap();
    let fields: Vec<&str> = empty.missing.iter().map(|missing| missing.field.as_str()).collect();
    assert_eq!(fields, ["/recipient", "/amount_usd", "/max_total_usd"]);
    assert_eq!((empty.money, &*empty.canonical), (None, "{}"));
    // What else is wrong is still refused.
    let mut both = payment_with("recipient", json!(""));
    both["constraints"]["surprise"] = json!(1);
    assert!(act(builtin(), &both).is_err());
    // An optional member that is empty is present.
    assert!(act(builtin(), &payment_with("note", json!(""))).unwrap().is_complete());
}

#[test]
fn the_effect_hash_depends_on_identity_and_on_nothing_else() {
    let effect =
        |body: &Value, principal: &str| act(builtin(), body).unwrap().effect_hash(&key(), principal).unwrap();
    let base = effect(&payment(), "alice");
    for (name, value) in [("recipient", "acct-4712"), ("amount_usd", "25.01")] {
        assert_ne!(effect(&payment_with(name, json!(value)), "alice"), base, "{name}");
    }
    assert_ne!(effect(&payment(), "bob"), base);
    for (name, value) in [
        ("note", json!("Invoice 8")),
        ("note", json!(null)),
        ("max_total_usd", json!("31")),
        ("amount_usd", json!("25")),
    ] {
        assert_eq!(effect(&payment_with(name, value), "alice"), base, "{name}");
    }
    for (name, value) in [
        ("payment_mode", json!("RESERVE_IF_AVAILABLE")),
        ("idempotency_key", json!("other")),
        ("client", json!({"a": "b"})),
    ] {
        let mut body = payment();
        body[name] = value;
        assert_eq!(effect(&body, "alice"), base, "{name}");
    }
    let other_key = act(builtin(), &payment()).unwrap().effect_hash(&HmacKey::new(&[8; 32]), "alice");
    assert_ne!(other_key, Some(base));
    // It is the HMAC of the documented text.
    let text = r#"{"archetype":"PAYMENT_TRANSFER","destination":"acct-4711","identity":{"/amount_usd":"25.00 USD","/recipient":"acct-4711"},"rootPrincipal":"alice"}"#;
    assert_eq!(base, key().sign(text.as_bytes()));
}

#[test]
fn in_every_built_in_archetype_exactly_the_identity_makes_the_effect() {
    let others = json!({
        "recipient": "other", "amount_usd": "7.00", "max_total_usd": "9999.00", "note": "other",
        "property_id": "other", "city": "Other", "check_in": "2027-01-01", "check_out": "2027-01-02",
        "room_type": "other", "guests": 5, "origin": "OTH", "destination": "OTH", "depart_date": "2027-01-01",
        "return_date": "2027-01-02", "passengers": 5, "cabin": "first", "dataset": "other", "format": "parquet",
        "row_limit": 5, "purpose": "other", "program": "/other", "arguments": ["other"], "directory": "/other",
        "host": "other",
    });
    for archetype in builtin().iter() {
        let examples = archetype.members.iter().map(|member| (member.name.clone(), member.example.clone()));
        let body = json!({"archetype": archetype.name, "constraints": Value::Object(examples.collect())});
        let effect = |body: &Value| act(builtin(), body).unwrap().effect_hash(&key(), "p").unwrap();
        for member in &archetype.members {
            let pointer = format!("/{}", member.name);
            let counts =
                archetype.identity.iter().chain(&archetype.destination).any(|p| p.as_str() == pointer);
            let mut changed = body.clone();
            changed["constraints"][&member.name] = others[&member.name].clone();
            assert_ne!(changed, body, "{pointer}");
            assert_eq!(effect(&changed) != effect(&body), counts, "{}{pointer}", archetype.name);
        }
    }
}

#[test]
fn the_request_hash_depends_on_everything_asked() {
    let hash = |body: &Value| act(builtin(), body).unwrap().request_hash(&key());
    let base = hash(&payment());
    for (name, value) in [
        ("recipient", json!("acct-4712")),
        ("amount_usd", json!("25.0")),
        ("max_total_usd", json!("31.00")),
        ("note", json!(null)),
    ] {
        assert_ne!(hash(&payment_with(name, value)), base, "{name}");
    }
    for (name, value, counts) in [
        ("payment_mode", json!("RESERVE_IF_AVAILABLE"), true),
        ("guarantee_level", json!("atp-3"), true),
        ("repeat_of", json!("0197b0a0-0000-7000-8000-000000000001"), true),
        ("delegation_token", json!("t"), false),
        ("deadline_ms", json!(9), false),
        ("idempotency_key", json!("k"), false),
    ] {
        let mut body = payment();
        body[name] = value;
        assert_eq!(hash(&body) != base, counts, "{name}");
    }
    let text = r#"{"archetype":"PAYMENT_TRANSFER","constraints":{"amount_usd":"25.00","max_total_usd":"30.00","note":"Invoice 7","recipient":"acct-4711"},"guarantee_level":null,"payment_mode":null,"repeat_of":null,"rollback":null}"#;
    assert_eq!(base, key().sign(text.as_bytes()));
    let request = countersign_action::Request::from_value(payment()).unwrap();
    assert_eq!(request.hash(&key()), base, "the same without an archetype");
}

#[test]
fn policies_see_every_member_that_is_not_opaque() {
    let action = act(builtin(), &payment()).unwrap();
    let seen: Vec<(&str, Attribute<'_>)> = action.attributes().collect();
    let usd = |minor| {
        Attribute::Record(vec![("minor", Attribute::Long(minor)), ("currency", Attribute::Str("USD"))])
    };
    assert_eq!(
        seen,
        [
            ("recipient", Attribute::Str("acct-4711")),
            ("amount_usd", usd(2500)),
            ("max_total_usd", usd(3000)),
            ("note", Attribute::Str("Invoice 7")),
        ]
    );
    let nested = catalogue(
        "name = \"ORDER\"\nidentity = [\"/lines\"]\n[schema]\nrequired = [\"lines\"]\n\
         [schema.properties.lines]\ntype = \"array\"\n\
         items = { type = \"object\", properties = { sku = { type = \"string\" }, count = { type = \"integer\" }, raw = { x-opaque = true } } }\n\
         [schema.properties.gift]\ntype = \"boolean\"\n",
    );
    let body = json!({"archetype": "ORDER", "constraints": {"gift": true, "lines": [{"sku": "a", "count": 2, "raw": {}}]}});
    let action = act(&nested, &body).unwrap();
    let line = Attribute::Record(vec![("sku", Attribute::Str("a")), ("count", Attribute::Long(2))]);
    let seen: Vec<_> = action.attributes().collect();
    assert_eq!(seen, [("lines", Attribute::Set(vec![line])), ("gift", Attribute::Bool(true))]);
    // Nested objects are closed, and their text is looked at.
    let refused = |lines: Value| {
        act(&nested, &json!({"archetype": "ORDER", "constraints": {"lines": lines}})).unwrap_err()
    };
    assert_eq!(
        refused(json!([{"sku": "a", "extra": 1}])).field.as_deref(),
        Some("/constraints/lines/0/extra")
    );
    assert_eq!(refused(json!([{}, {"sku": "a\u{200b}"}])).field.as_deref(), Some("/constraints/lines/1/sku"));
}

#[test]
fn receipts_learn_each_member_in_canonical_form_and_whether_to_show_it() {
    let action = act(builtin(), &payment()).unwrap();
    let shown: Vec<_> =
        action.members().map(|member| (member.name, member.canonical, member.public)).collect();
    assert_eq!(
        shown,
        [
            ("amount_usd", "\"25.00\"", true),
            ("max_total_usd", "\"30.00\"", true),
            ("note", "\"Invoice 7\"", false),
            ("recipient", "\"acct-4711\"", false),
        ]
    );
    assert_eq!(*action.canonical, serde_json_canonicalizer::to_string(&action.constraints).unwrap());
}

#[test]
fn a_quote_becomes_the_amount_and_not_the_effect() {
    let body = json!({
        "archetype": "HOTEL_RESERVATION",
        "constraints": {"property_id": "p-1", "city": "Berlin", "check_in": "2026-06-01", "check_out": "2026-06-03",
            "room_type": "double", "guests": 2, "max_total_usd": "480"},
    });
    let action = act(builtin(), &body).unwrap();
    let quote = Money::parse("412.5", Currency::of("USD").unwrap()).unwrap();
    assert_eq!((action.money, action.bound.unwrap().minor()), (None, 48_000));
    let (effect, request) = (action.effect_hash(&key(), "p"), action.request_hash(&key()));
    let quoted = action.with_quote(quote);
    assert_eq!(quoted.money, Some(quote));
    assert_eq!((quoted.effect_hash(&key(), "p"), quoted.request_hash(&key())), (effect, request));
}

fn asked(level: Option<GuaranteeLevel>, reversible: Option<bool>, days: Option<u32>) -> Value {
    let mut body = payment();
    body["archetype"] = json!("BOOK");
    if let Some(level) = level {
        body["guarantee_level"] = json!(level.as_str());
    }
    if let Some(reversible) = reversible {
        body["reversible"] = json!(reversible);
    }
    if let Some(days) = days {
        body["retention"] = json!(format!("{days}_days"));
    }
    body
}

fn book(level: GuaranteeLevel, reversible: bool) -> String {
    let text = include_str!("../catalogue/payment_transfer.toml").replace("PAYMENT_TRANSFER", "BOOK");
    let other = |line: &&str| !line.starts_with("guarantee_level") && !line.starts_with("reversible");
    let kept: String = text.lines().filter(other).map(|line| format!("{line}\n")).collect();
    format!("guarantee_level = \"{level}\"\nreversible = {reversible}\nretention = \"30_days\"\n{kept}")
}

fn levels() -> impl Strategy<Value = GuaranteeLevel> {
    prop_oneof![Just(GuaranteeLevel::Atp1), Just(GuaranteeLevel::Atp2), Just(GuaranteeLevel::Atp3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_requester_can_only_tighten(
        declared in levels(), reversible: bool,
        level in prop::option::of(levels()), undo in prop::option::of(any::<bool>()), days in prop::option::of(1u32..3000),
    ) {
        let catalogue = catalogue(&book(declared, reversible));
        let action = act(&catalogue, &asked(level, undo, days)).unwrap();
        prop_assert_eq!(action.guarantee_level, level.map_or(declared, |level| level.max(declared)));
        prop_assert_eq!(action.reversible, reversible && undo.unwrap_or(true));
        prop_assert_eq!(action.keeping(None).retention().map(Period::days), Some(days.unwrap_or(0).max(30)));
        prop_assert_eq!(action.payment_mode, PaymentMode::ImmediateCharge);
    }
}

proptest! {
    #[test]
    fn money_comes_back_as_it_was(minor in 0..=999_999_999_999_999_999_i64, code in prop_oneof![Just("USD"), Just("JPY"), Just("KWD"), Just("CLF")]) {
        let currency = Currency::of(code).unwrap();
        let money = Money::new(minor, currency).unwrap();
        prop_assert_eq!(Money::parse(&money.to_string(), currency), Ok(money));
    }

    #[test]
    fn what_reads_as_money_has_one_canonical_form(text in "[0-9]{0,19}(\\.[0-9]{0,5})?") {
        let currency = Currency::of("USD").unwrap();
        if let Ok(money) = Money::parse(&text, currency) {
            let canonical = money.to_string();
            prop_assert_eq!(Money::parse(&canonical, currency), Ok(money));
            prop_assert!(canonical.starts_with(&text) || format!("{text}.00") == canonical, "{} {}", text, canonical);
        }
    }

    #[test]
    fn any_constraints_are_answered_and_never_repaired(note in any::<String>(), recipient in any::<String>(), amount in any::<String>()) {
        let mut body = payment_with("note", json!(note));
        body["constraints"]["recipient"] = json!(recipient);
        body["constraints"]["amount_usd"] = json!(amount);
        match act(builtin(), &body) {
            Ok(action) => {
                prop_assert_eq!(&action.constraints, &body["constraints"]);
                prop_assert_eq!(&strict::canonical(&action.constraints), &*action.canonical);
            }
            Err(Refusal { kind, .. }) => prop_assert!(matches!(kind, RefusalKind::ValidationFailed | RefusalKind::CardData)),
        }
    }
}
