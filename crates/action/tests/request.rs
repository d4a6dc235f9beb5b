//! The envelope, card data, and tricks with text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{act, act_on, builtin, catalogue, payment, payment_with};
use countersign_action::{GuaranteeLevel, PaymentMode, RefusalKind, Request};
use serde_json::{Value, json};

#[test]
fn every_member_of_the_envelope_is_read() {
    let mut body = payment();
    let id = "0197b0a0-0000-7000-8000-000000000001";
    for (name, value) in [
        ("payment_mode", json!("RESERVE_IF_AVAILABLE")),
        ("delegation_token", json!("eyJhbGciOiJFUzI1NiJ9.e30.c2ln")),
        ("deadline_ms", json!(5000)),
        ("idempotency_key", json!("k-1")),
        ("guarantee_level", json!("atp-3")),
        ("repeat_of", json!(id)),
        ("reversible", json!(false)),
        ("retention", json!("7_years")),
        ("deletion", json!("hard_delete_after_retention")),
        ("agent_id", json!("agent-7")),
        ("session_id", json!("sess-abc123")),
        ("human_approver", json!("alice@example.com")),
        ("client", json!({"order_id": "o-1", "trace": "t 2"})),
    ] {
        body[name] = value;
    }
    let request = Request::parse(body.to_string().as_bytes()).unwrap();
    assert_eq!(request.payment_mode, Some(PaymentMode::ReserveIfAvailable));
    assert_eq!(request.guarantee_level, Some(GuaranteeLevel::Atp3));
    assert_eq!(request.repeat_of.unwrap().to_string(), id);
    assert_eq!(request.deadline_ms, Some(5000));
    assert_eq!(request.client["trace"], "t 2");
    let action = act(builtin(), &body).unwrap();
    assert_eq!(action.agent_id.as_ref().unwrap().as_str(), "agent-7");
    assert_eq!(action.human_approver.as_ref().unwrap().as_str(), "alice@example.com");
    assert_eq!(action.session_id.as_deref(), Some("sess-abc123"));
    assert_eq!(action.idempotency_key.as_ref().unwrap().as_str(), "k-1");
    assert_eq!(action.keeping(None).deleted_after().unwrap().days(), 2562);
}

#[test]
fn a_misshapen_envelope_is_refused_by_member() {
    for (name, value) in [
        ("payment_mode", json!("immediate_charge")),
        ("payment_mode", json!(null)),
        ("delegation_token", json!("")),
        ("delegation_token", json!("a b")),
        ("delegation_token", json!("t".repeat(20_000))),
        ("deadline_ms", json!(0)),
        ("deadline_ms", json!(-1)),
        ("deadline_ms", json!(1.5)),
        ("deadline_ms", json!("5000")),
        ("deadline_ms", json!(86_400_001)),
        ("idempotency_key", json!("a b")),
        ("guarantee_level", json!("atp-4")),
        ("guarantee_level", json!(3)),
        ("repeat_of", json!("latest")),
        ("reversible", json!("no")),
        ("retention", json!("forever")),
        ("deletion", json!("7_years")),
        ("deletion", json!(null)),
        ("agent_id", json!("agent\u{200b}7")),
        ("agent_id", json!("аgent")),
        ("session_id", json!("")),
        ("human_approver", json!(["alice"])),
        ("constraints", json!([])),
        ("constraints", json!("{}")),
        ("archetype", json!("")),
        ("archetype", json!("PAYMENT_TRANSFER\u{0}")),
        ("archetype", json!("ＰＡＹＭＥＮＴ")),
        ("archetype", json!("X".repeat(201))),
        ("result", json!({"state": "COMPLETED"})),
        ("constraint", json!({})),
        ("__proto__", json!({})),
        ("approved_by", json!("alice")),
        ("client", json!("o-1")),
        ("a/b~c", json!(1)),
    ] {
        let mut body = payment();
        body[name] = value.clone();
        let refusal = act(builtin(), &body).expect_err(name);
        assert_eq!(refusal.kind, RefusalKind::ValidationFailed, "{name} {value}");
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        assert_eq!(refusal.field.as_deref(), Some(pointer.as_str()), "{name} {value}");
    }
    for (name, value) in
        [("a b", json!("x")), ("x", json!({"y": 1})), ("x", json!(1)), ("x", json!("a\u{202e}b"))]
    {
        let mut body = payment();
        body["client"] = json!({name: value});
        let refusal = act(builtin(), &body).expect_err(name);
        assert!(refusal.field.unwrap().starts_with("/client"));
    }
    for body in
        [json!([]), json!("x"), json!(null), json!({}), json!({"archetype": "X"}), json!({"constraints": {}})]
    {
        assert_eq!(act(builtin(), &body).unwrap_err().kind, RefusalKind::ValidationFailed, "{body}");
    }
    assert_eq!(
        act_on(builtin(), b"{\"archetype\":1,\"archetype\":2}").unwrap_err().kind,
        RefusalKind::MalformedBody
    );
    let unknown = json!({"archetype": "LAUNCH", "constraints": {}});
    assert_eq!(act(builtin(), &unknown).unwrap_err().kind, RefusalKind::UnknownArchetype);
}

#[test]
fn text_that_is_not_what_it_looks_like_is_refused_and_the_rest_passes_unaltered() {
    for (what, text, passes) in [
        ("plain", "Invoice 7, paid", true),
        ("umlauts, composed", "Grüße aus Köln", true),
        ("kanji", "請求書 七", true),
        ("Arabic letters", "فاتورة", true),
        ("emoji", "lunch 🍕", true),
        ("combining mark without a composed form", "x\u{0331}", true),
        ("umlaut, decomposed", "Gru\u{0308}ße", false),
        ("angstrom sign", "\u{212b}", false),
        ("right-to-left override", "pay\u{202e}ecilA", false),
        ("left-to-right isolate", "a\u{2066}b", false),
        ("right-to-left mark", "a\u{200f}b", false),
        ("Arabic letter mark", "a\u{061c}b", false),
        ("zero-width space", "a\u{200b}b", false),
        ("zero-width joiner", "a\u{200d}b", false),
        ("word joiner", "a\u{2060}b", false),
        ("byte order mark", "a\u{feff}b", false),
        ("soft hyphen", "a\u{00ad}b", false),
        ("Hangul filler", "a\u{3164}b", false),
        ("variation selector", "a\u{fe0f}b", false),
        ("tag characters", "a\u{e0041}b", false),
        ("newline", "a\nb", false),
        ("null", "a\u{0}b", false),
        ("escape", "a\u{1b}[31mb", false),
        ("delete", "a\u{7f}b", false),
        ("C1 control", "a\u{85}b", false),
        ("line separator", "a\u{2028}b", false),
    ] {
        let result = act(builtin(), &payment_with("note", json!(text)));
        assert_eq!(result.is_ok(), passes, "{what}");
        match result {
            Ok(action) => assert_eq!(action.constraints["note"], text, "{what}"),
            Err(refusal) => {
                assert_eq!(refusal.field.as_deref(), Some("/constraints/note"), "{what}");
                assert!(!refusal.to_string().contains(text), "{what}");
            }
        }
    }
}

#[test]
fn identifiers_are_ascii_after_a_grammar() {
    for (what, text, passes) in [
        ("account", "acct-4711", true),
        ("IBAN", "DE89370400440532013000", true),
        ("address", "alice@example.com", true),
        ("Cyrillic a", "аcct-4711", false),
        ("full-width digits", "acct-４７１１", false),
        ("Arabic digits", "acct-٤٧١١", false),
        ("umlaut", "köln", false),
        ("zero-width space", "acct\u{200b}-4711", false),
        ("space", "acct 4711", false),
        ("leading dash", "-rf", false),
        ("template", "{{x}}", false),
        ("newline", "acct\n", false),
        ("too long", &"a".repeat(129), false),
    ] {
        let result = act(builtin(), &payment_with("recipient", json!(text)));
        assert_eq!(result.is_ok(), passes, "{what}");
        if let Err(refusal) = result {
            assert_eq!(refusal.field.as_deref(), Some("/constraints/recipient"), "{what}");
        }
    }
}

#[test]
fn opaque_members_pass_as_received() {
    let free = catalogue(
        "name = \"SEND\"\nidentity = [\"/to\"]\n[schema]\nrequired = [\"to\"]\n\
         [schema.properties.to]\ntype = \"string\"\n[schema.properties.body]\nx-opaque = true\n",
    );
    let text = "a\u{202e}b\u{200b}\n\u{0}e\u{0301}";
    let body =
        json!({"archetype": "SEND", "constraints": {"to": "x", "body": {"z": text, "a": [1, 2.5, null]}}});
    let action = act(&free, &body).unwrap();
    assert_eq!(action.constraints["body"]["z"], text);
    assert_eq!(action.attributes().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), ["to"]);
}

#[test]
fn a_body_full_of_digits_is_looked_through_once() {
    // As many groups as fit: comparing each with every other would take minutes here.
    let body = |text: String| json!({"archetype": "X", "constraints": {"x": text}}).to_string();
    let harmless = Request::parse(body("1 ".repeat(120_000)).as_bytes()).unwrap();
    assert!(harmless.refuse_card_data().is_ok());
    let hidden = Request::parse(body("1 ".repeat(60_000) + "4111 1111 1111 1111").as_bytes()).unwrap();
    assert!(hidden.refuse_card_data().is_err());
}

#[test]
fn card_data_is_refused_wherever_it_hides() {
    let nested = catalogue(
        "name = \"NOTE\"\nidentity = []\n[duplicate]\non = \"allow\"\n[schema.properties.data]\nx-opaque = true\n\
         [schema.properties.order]\nx-opaque = true\nx-not-card = true\n",
    );
    let visa = "4111111111111111";
    for (what, data, refused) in [
        ("visa", json!(visa), true),
        ("visa with spaces", json!("4111 1111 1111 1111"), true),
        ("visa with dashes", json!("4111-1111-1111-1111"), true),
        ("visa with odd separators", json!("4111 - 1111\u{a0}1111\u{2013}1111"), true),
        ("visa in a sentence", json!("pay with 4111 1111 1111 1111, thanks"), true),
        ("visa followed by its code", json!("4111 1111 1111 1111 123"), true),
        ("visa as a number", json!(4_111_111_111_111_111_u64), true),
        ("visa in full-width digits", json!("４１１１１１１１１１１１１１１１"), true),
        ("visa with 13 digits", json!("4222222222222"), true),
        ("visa as a member's name", json!({visa: true}), true),
        ("amex", json!("378282246310005"), true),
        ("mastercard", json!("5555555555554444"), true),
        ("mastercard, new range", json!("2223003122003222"), true),
        ("discover", json!("6011111111111117"), true),
        ("diners", json!("30569309025904"), true),
        ("jcb", json!("3530111333300000"), true),
        ("unionpay, 19 digits", json!("6205500000000000004"), true),
        ("maestro", json!("6759649826438453"), true),
        ("deep inside", json!([{"a": {"b": [null, visa]}}]), true),
        ("cvv", json!({"cvv": "123"}), true),
        ("CVC2", json!({"CVC2": 123}), true),
        ("card_verification_value", json!({"card_verification_value": "1"}), true),
        ("cardVerificationCode", json!({"cardVerificationCode": "1"}), true),
        ("card-cvv", json!({"x": {"card-cvv": "1"}}), true),
        ("wrong check digit", json!("4111111111111112"), false),
        ("unknown network", json!("9111111111111111"), false),
        ("twelve digits", json!("411111111111"), false),
        ("longer than any card", json!("41111111111111110000"), false),
        ("letters between", json!("4111x1111x1111x1111"), false),
        ("telephone number", json!("+49 151 2345 6781"), false),
        ("IBAN", json!("DE89 3704 0044 0532 0130 00"), false),
        ("timestamp", json!("2026-04-27T10:15:30.123Z"), false),
        ("uuid", json!("0197b0a0-1111-7111-8111-111111111111"), false),
        ("a name that only contains cvv", json!({"cvv_policy_url": "https://x"}), false),
    ] {
        let body = json!({"archetype": "NOTE", "constraints": {"data": data}});
        let result = act(&nested, &body);
        assert_eq!(result.is_err(), refused, "{what}: {result:?}");
        if let Err(refusal) = result {
            assert_eq!(refusal.kind, RefusalKind::CardData, "{what}");
            let shown = format!("{refusal:?}");
            assert!(shown.contains("/constraints/data") && !shown.contains("1111"), "{what}: {shown}");
        }
        let exempt = json!({"archetype": "NOTE", "constraints": {"order": body["constraints"]["data"]}});
        assert!(act(&nested, &exempt).is_ok(), "{what}, in a member that is declared to be none");
        // Without an archetype nothing is exempt.
        let request = Request::parse(exempt.to_string().as_bytes()).unwrap();
        assert_eq!(request.refuse_card_data().is_err(), refused, "{what}");
    }
    let mut body = payment();
    body["client"] = json!({"ref": visa});
    assert_eq!(act(builtin(), &body).unwrap_err().kind, RefusalKind::CardData);
    let card = act(builtin(), &payment_with("recipient", json!(visa))).unwrap_err();
    assert_eq!(card.kind, RefusalKind::CardData);
}

#[test]
fn misshapen_constraints_are_refused_by_member_without_echo() {
    let flight = |name: &str, value: Value| {
        let mut body = json!({
            "archetype": "FLIGHT_BOOKING",
            "constraints": {"origin": "BER", "destination": "LIS", "depart_date": "2026-06-01", "passengers": 1,
                "cabin": "economy", "max_total_usd": "650"},
        });
        body["constraints"][name] = value;
        body
    };
    assert!(act(builtin(), &flight("return_date", json!("2026-06-08"))).is_ok());
    for (name, value, message) in [
        ("origin", json!("BERLIN"), "does not match the pattern `^[A-Z]{3}$`"),
        ("origin", json!(7), "not of type string"),
        ("depart_date", json!("2026-02-30"), "not of format `date`"),
        ("passengers", json!(0), "less than 1"),
        ("passengers", json!(10), "more than 9"),
        ("passengers", json!(1.5), "not of type integer"),
        ("passengers", json!("1"), "not of type integer"),
        ("cabin", json!("secret-lounge"), "not one of the allowed values"),
        ("max_total_usd", json!(650), "not of type string"),
        ("return_date", json!(null), "not of type string"),
        ("seat", json!("secret-12A"), "no such member in this archetype"),
    ] {
        let refusal = act(builtin(), &flight(name, value.clone())).expect_err(name);
        assert_eq!(refusal.kind, RefusalKind::ValidationFailed);
        assert_eq!(refusal.field, Some(format!("/constraints/{name}")), "{refusal:?}");
        assert_eq!(refusal.message, message, "{name} {value}");
        assert!(!format!("{refusal:?}").contains("secret"), "{refusal:?}");
    }
    let several =
        json!({"archetype": "FLIGHT_BOOKING", "constraints": {"passengers": "1", "cabin": 2, "origin": 3}});
    let refusal = act(builtin(), &several).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("/constraints/cabin"));
    let others: Vec<&str> = refusal.others.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(others, ["/constraints/origin", "/constraints/passengers"]);
    let number = act(builtin(), &payment_with("amount_usd", json!(25))).unwrap_err();
    assert!(number.hint.unwrap().contains("string"));
}

#[test]
fn a_deletion_after_a_retention_that_there_is_not_is_refused() {
    let mut body = payment();
    body["deletion"] = json!("hard_delete_after_retention");
    let refusal = act(builtin(), &body).expect_err("there is no retention");
    assert_eq!((refusal.kind, refusal.field.as_deref()), (RefusalKind::ValidationFailed, Some("/deletion")));
    body["retention"] = json!("30d");
    assert_eq!(act(builtin(), &body).unwrap().keeping(None).deleted_after().unwrap().days(), 30);
}

/// In the protocol's own envelope the same request is the same, and what only it can say is kept to the letter.
#[test]
fn the_other_envelope_says_the_same_and_keeps_the_rest() {
    let mut body = payment();
    body["idempotency_key"] = json!("k-1");
    let plain = Request::parse(body.to_string().as_bytes()).unwrap();
    let mut atp = json!({
        "atp_version": "1.0.0-draft", "idempotency_key": "k-1",
        "action": {"verb": body["archetype"], "description": "Pay", "parameters": body["constraints"]},
        "created_at": "2026-05-05T21:00:00+02:00", "deadline": "2026-05-05T21:05:00Z", "human_approver": null,
        "compliance": {"regulation_refs": ["A"], "retention_policy": "7_years",
                       "deletion_policy": "hard_delete_30d", "dpia_ref": null},
    });
    let request = Request::from_atp(atp.clone()).unwrap();
    let key = countersign_action::HmacKey::new(&[7; 32]);
    assert_eq!(request.hash(&key), plain.hash(&key), "one request in two envelopes");
    assert_eq!(request.idempotency_key, plain.idempotency_key);
    assert_eq!(request.client["created_at"], "2026-05-05T21:00:00+02:00");
    assert_eq!(request.retention.unwrap().days(), 2562);
    assert_eq!(request.deletion.to_string(), "hard_delete_30_days");
    let kept = request.atp.unwrap();
    assert_eq!(kept.deadline.as_ref().unwrap().ms, 1_778_015_100_000);
    // As a build kept it that took such spellings.
    let mut earlier = kept.to_value();
    earlier["deadline"] = "2026-05-05T21:05Z".into();
    let deadline = countersign_action::Atp::kept(earlier).unwrap().deadline.unwrap();
    assert_eq!((&*deadline.text, deadline.ms), ("2026-05-05T21:05Z", 1_778_015_100_000));
    assert_eq!(countersign_action::Atp::kept(kept.to_value()).unwrap(), *kept);
    atp["rollback"] = json!({"verb": "undo", "parameters": {"a": 1}});
    let with = Request::from_atp(atp.clone()).unwrap();
    assert_ne!(with.hash(&key), plain.hash(&key), "what undoes it is part of what is asked");
    let kept = with.atp.unwrap();
    assert_eq!(countersign_action::Atp::kept(kept.to_value()).unwrap(), *kept);
    atp["rollback"]["parameters"]["a"] = json!(2);
    assert_ne!(Request::from_atp(atp).unwrap().hash(&key), with_hash(&kept, &plain, &key));
}

fn with_hash(kept: &countersign_action::Atp, plain: &Request, key: &countersign_action::HmacKey) -> [u8; 32] {
    Request { atp: Some(Box::new(kept.clone())), ..plain.clone() }.hash(key)
}
