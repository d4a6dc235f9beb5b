//! Which key may have signed what, and whose keys they are.

use countersign_receipt as receipt;
use receipt::{
    CheckName, Disclosures, Error, Jwk, Jwks, KeyStatus, Outcome, Pin, Place, Quarantine, SigningKey, Trust,
    Verdict,
};
use serde_json::{Value, json};

use crate::support::{ISSUER, at, executed, jwks, key, verify_with};

/// The verdict on the golden payment, made 2026-04-27T12:00:00.027Z, if its key had this history.
fn verdict(history: impl FnOnce(Jwk) -> Jwk) -> Verdict {
    let jwk = history(Jwk::active(key().public().clone(), at("2026-01-01T00:00:00.000Z")));
    let jwks = Jwks::new(vec![jwk]).unwrap();
    // Through its published form, so that reading and writing agree.
    let jwks = Jwks::parse(jwks.as_bytes()).unwrap();
    verify_with(executed().as_bytes(), &jwks, false, &Disclosures::default()).verdict
}

fn is_out_of_window(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Invalid(failure) if failure.place == Place::Member("created".to_owned()))
}

#[test]
fn a_retired_key_goes_on_vouching_for_what_it_signed() {
    assert_eq!(verdict(|key| key), Verdict::Valid);
    assert_eq!(verdict(|key| key.retired(at("2026-05-01T00:00:00.000Z"))), Verdict::Valid);
    assert_eq!(verdict(|key| key.retired(at("2026-04-27T12:00:00.027Z"))), Verdict::Valid);
    assert!(is_out_of_window(&verdict(|key| key.retired(at("2026-04-27T12:00:00.026Z")))));
}

#[test]
fn a_key_vouches_for_nothing_before_its_first_use() {
    let from = |text| Jwk::active(key().public().clone(), at(text));
    assert_eq!(verdict(|_| from("2026-04-27T12:00:00.027Z")), Verdict::Valid);
    assert!(is_out_of_window(&verdict(|_| from("2026-04-27T12:00:00.028Z"))));
}

#[test]
fn after_a_compromise_nothing_passes_unreserved() {
    let compromised = |text| verdict(|key| key.compromised(at(text)));
    let early = "2026-04-01T00:00:00.000Z";
    assert_eq!(compromised(early), Verdict::Quarantined(Quarantine::Compromised { at: at(early) }));
    let same = "2026-04-27T12:00:00.027Z";
    assert_eq!(compromised(same), Verdict::Quarantined(Quarantine::Compromised { at: at(same) }));
    let late = at("2026-04-27T12:00:00.028Z");
    let unproven = compromised(late.as_str());
    assert_eq!(unproven, Verdict::TimeUnproven { compromised_at: late });
    assert_eq!(unproven.exit_code(), 2);
    assert_eq!(compromised(early).exit_code(), 1);
    // Retired at the time of the compromise, as one would: still quarantined, not merely out of its window.
    let both = verdict(|key| key.retired(at(early)).compromised(at(early)));
    assert_eq!(both, Verdict::Quarantined(Quarantine::Compromised { at: at(early) }));
    // Retired before, compromised after the receipt: the window still counts.
    assert!(is_out_of_window(&verdict(|key| key.retired(at(early)).compromised(late))));
}

#[test]
fn a_changed_receipt_of_a_lost_key_is_invalid_not_reserved() {
    let jwk = Jwk::active(key().public().clone(), at("2026-01-01T00:00:00.000Z"));
    let jwks = Jwks::new(vec![jwk.compromised(at("2026-05-01T00:00:00.000Z"))]).unwrap();
    let document = str::from_utf8(executed().as_bytes()).unwrap().replace("agent-1", "agent-2");
    let report = verify_with(document.as_bytes(), &jwks, false, &Disclosures::default());
    assert!(matches!(report.verdict, Verdict::Invalid(_)));
}

#[test]
fn old_receipts_verify_against_the_set_after_rotation() {
    let old = Jwk::active(key().public().clone(), at("2026-01-01T00:00:00.000Z"));
    let new = SigningKey::generate().unwrap();
    let rotation = at("2026-06-01T00:00:00.000Z");
    let rotated =
        Jwks::new(vec![old.retired(rotation), Jwk::active(new.public().clone(), rotation)]).unwrap();
    let statuses: Vec<_> = rotated.keys().iter().map(Jwk::status).collect();
    assert_eq!(statuses, [KeyStatus::VerifyOnly, KeyStatus::Active]);
    let report = verify_with(executed().as_bytes(), &rotated, false, &Disclosures::default());
    assert_eq!(report.verdict, Verdict::Valid);
}

fn judged_under(pin: &Pin, jwks: &Jwks) -> receipt::Report {
    receipt::verify(executed().as_bytes(), &Trust::new(pin, jwks))
}

#[test]
fn only_the_pinned_set_counts_however_well_a_receipt_fits_another() {
    let genuine = jwks();
    let stranger =
        Jwk::active(SigningKey::generate().unwrap().public().clone(), at("2026-01-01T00:00:00.000Z"));
    let other = Jwks::new(vec![stranger]).unwrap();
    let pin = Pin::new(ISSUER, &other);
    let report = judged_under(&pin, &genuine);
    let issuer = report.checks.iter().find(|check| check.name == CheckName::Issuer).unwrap();
    assert_eq!(issuer.outcome, Outcome::Failed);
    assert!(issuer.detail.contains(&genuine.digest().to_string()));
    assert!(matches!(report.verdict, Verdict::Invalid(_)));
    // The same keys without word of a compromise are another set.
    let lost =
        Jwks::new(vec![genuine.keys()[0].clone().compromised(at("2026-02-01T00:00:00.000Z"))]).unwrap();
    assert!(matches!(judged_under(&Pin::new(ISSUER, &lost), &genuine).verdict, Verdict::Invalid(_)));
    // A pin may list several.
    assert_eq!(judged_under(&pin.and(&genuine), &genuine).verdict, Verdict::Valid);
    // A bare digest pins the keys but no name.
    let bare = Pin::parse(&genuine.digest().to_string()).unwrap();
    assert_eq!(judged_under(&bare, &genuine).verdict, Verdict::Valid);
    let misnamed = Pin::new("https://gateway.example/", &genuine);
    let Verdict::Invalid(failure) = judged_under(&misnamed, &genuine).verdict else { panic!() };
    assert_eq!(failure.place, Place::Member("metadata.issuer".to_owned()));
}

#[test]
fn pins_are_read_strictly_and_written_as_they_are_read() {
    let digest = jwks().digest().to_string();
    let two = Pin::new("https://a.example/\"", &jwks()).and(&Jwks::new(vec![]).unwrap());
    for pin in [Pin::new(ISSUER, &jwks()), Pin::parse(&digest).unwrap(), two] {
        assert_eq!(Pin::parse(&format!("{}\n", pin.to_text())).unwrap(), pin);
    }
    for text in [
        "",
        "sha256:",
        &digest[1..],
        &digest.to_uppercase(),
        &format!("{digest}0"),
        "{}",
        r#"{"issuer":"https://a.example","jwks":[]}"#,
        &format!(r#"{{"issuer":"a","jwks":["{digest}"],"more":1}}"#),
        &format!(r#"{{"issuer":"a","issuer":"b","jwks":["{digest}"]}}"#),
        &format!(r#"{{"jwks":["{digest}"]}}"#),
    ] {
        assert!(matches!(Pin::parse(text), Err(Error::Pin(_))), "{text}");
    }
}

/// The published set with its one key changed.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Jwks, Error> {
    let mut set: Value = serde_json::from_slice(jwks().as_bytes()).unwrap();
    change(&mut set["keys"][0]);
    Jwks::parse(&serde_json::to_vec(&set).unwrap())
}

#[test]
fn key_sets_that_could_be_read_two_ways_are_refused() {
    let time = "2026-05-01T00:00:00.000Z";
    for (name, value) in [
        ("d", json!("AAAA")),
        ("k", json!("AAAA")),
        ("kty", json!("RSA")),
        ("crv", json!("P-384")),
        ("alg", json!("ES384")),
        ("use", json!("enc")),
        ("kid", json!("key-1")),
        ("x", json!(jwks().keys()[0].key().y())),
        ("y", json!("AA")),
        ("ep_status", json!("revoked")),
        ("ep_status", json!("verify-only")),
        ("ep_status", json!("compromised")),
        ("ep_active_from", json!(null)),
        ("ep_active_from", json!("2026-01-01")),
        ("ep_active_through", json!(time)),
        ("ep_compromised_at", json!(time)),
    ] {
        let set = changed(|key| key[name] = value.clone());
        assert!(matches!(set, Err(Error::Jwks(_))), "{name} = {value}");
    }
    for name in ["kty", "crv", "x", "y", "kid", "ep_status", "ep_active_from"] {
        let set = changed(|key| drop(key.as_object_mut().unwrap().shift_remove(name)));
        assert!(matches!(set, Err(Error::Jwks(_))), "without {name}");
    }
    let before = changed(|key| {
        key["ep_active_through"] = json!("2025-01-01T00:00:00.000Z");
        key["ep_status"] = json!("verify-only");
    });
    assert!(matches!(before, Err(Error::Jwks(_))));
    let twice = jwks().keys().iter().chain(jwks().keys()).cloned().collect();
    assert!(matches!(Jwks::new(twice), Err(Error::Jwks(_))));
    let text =
        str::from_utf8(jwks().as_bytes()).unwrap().replace("\"kty\":\"EC\"", "\"kty\":\"EC\",\"kty\":\"EC\"");
    assert!(matches!(Jwks::parse(text.as_bytes()), Err(Error::Json { .. })));
    assert!(Jwks::parse(b"{}").is_err());
}

#[test]
fn members_of_other_standards_are_kept_and_count_in_the_digest() {
    let set = changed(|key| key["x5t"] = json!("abc")).unwrap();
    assert_eq!(set.keys(), jwks().keys());
    assert_ne!(set.digest(), jwks().digest());
    let spaced =
        serde_json::to_vec_pretty(&serde_json::from_slice::<Value>(jwks().as_bytes()).unwrap()).unwrap();
    assert_eq!(Jwks::parse(&spaced).unwrap().digest(), jwks().digest());
    for name in ["ep_active_through", "ep_compromised_at", "alg", "use"] {
        let set = changed(|key| drop(key.as_object_mut().unwrap().shift_remove(name))).unwrap();
        assert_eq!(set.keys(), jwks().keys(), "without {name}");
    }
}
