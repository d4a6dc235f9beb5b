//! ECDSA itself, against Wycheproof, and what receipts demand beyond it.

use crate::support::{executed, key, verify, wycheproof};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_receipt as receipt;
use receipt::{CheckName, Outcome, SigningKey, Verdict, VerifyingKey};

#[test]
fn wycheproof_agrees_on_all_262() {
    let seen = wycheproof("ecdsa_secp256r1_sha256_p1363_test.json", |key, message, signature| {
        Some(key.verifies(message, signature))
    });
    assert!(seen.is_none_or(|seen| seen == 262), "{seen:?}");
}

/// A receipt with another text in `signature.value`.
fn with_signature(text: &str) -> Vec<u8> {
    let receipt = executed();
    let document = String::from_utf8(receipt.as_bytes().to_vec()).unwrap();
    document.replace(receipt.signature_value(), text).into_bytes()
}

/// n - S for big-endian S, done with the schoolbook's borrow.
fn negate_s(signature: &mut [u8]) {
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let mut borrow = 0;
    for index in (0..32).rev() {
        let digit = i32::from(order[index]) - i32::from(signature[32 + index]) - borrow;
        borrow = i32::from(digit < 0);
        signature[32 + index] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
}

fn failed_at(document: &[u8], name: CheckName) {
    let report = verify(document);
    let Verdict::Invalid(failure) = &report.verdict else { panic!("{:?}", report.verdict) };
    let first = report.checks.iter().find(|check| check.outcome == Outcome::Failed).unwrap();
    assert_eq!(first.name, name, "{failure}");
}

#[test]
fn the_other_signature_that_says_the_same_is_refused() {
    let receipt = executed();
    let message = receipt::Document::parse(std::str::from_utf8(receipt.as_bytes()).unwrap()).unwrap();
    let message = message.signed_bytes().concat();
    let mut signature = BASE64_URL_SAFE_NO_PAD.decode(receipt.signature_value()).unwrap();
    assert!(key().public().verifies(message.as_bytes(), &signature));
    negate_s(&mut signature);
    assert!(key().public().verifies(message.as_bytes(), &signature));
    let document = String::from_utf8(receipt.as_bytes().to_vec()).unwrap();
    let high = document.replace(receipt.signature_value(), &BASE64_URL_SAFE_NO_PAD.encode(signature));
    failed_at(high.as_bytes(), CheckName::Encoding);
}

#[test]
fn other_spellings_of_a_signature_are_refused() {
    let value = executed().signature_value().to_owned();
    let stripped = &value[..value.len() - 1];
    // 86 characters hold 516 bits, 4 more than needed: those must be zero, or one signature had 16 spellings.
    let trailing = format!("{stripped}{}", if value.ends_with('A') { 'B' } else { 'C' });
    for text in [
        format!("{value}=="),
        format!("{value}="),
        trailing,
        stripped.to_owned(),
        format!("{value}AA"),
        value.replace(['-', '_'], "+"),
        format!(" {value}"),
        String::new(),
    ] {
        if text != value {
            failed_at(&with_signature(&text), CheckName::Encoding);
        }
    }
    let zeros = BASE64_URL_SAFE_NO_PAD.encode([0; 64]);
    failed_at(&with_signature(&zeros), CheckName::Signature);
}

#[test]
fn every_signature_has_a_low_s_and_none_repeats() {
    let (one, two) = (executed(), executed());
    assert_ne!(one.signature_value(), two.signature_value());
    assert_eq!(one.short(), two.short());
    assert_ne!(one.hash(), two.hash());
    assert_eq!(one.short().len(), 12);
    for message in 0_u8..=255 {
        let signature = key().sign(&[message]).unwrap();
        assert!(signature[32] < 0x80, "S of message {message}");
        assert!(key().public().verifies(&[message], &signature));
    }
}

#[test]
fn a_key_survives_storage_and_other_bytes_are_no_key() {
    let made = SigningKey::generate().unwrap();
    let read = SigningKey::from_pkcs8(&made.to_pkcs8().unwrap()).unwrap();
    assert_eq!(read.kid(), made.kid());
    assert!(made.public().verifies(b"m", &read.sign(b"m").unwrap()));
    assert!(SigningKey::from_pkcs8(b"").is_err());
    assert!(SigningKey::from_pkcs8(&made.to_pkcs8().unwrap()[1..]).is_err());
    assert!(!format!("{made:?}").contains(&hex::encode(&made.to_pkcs8().unwrap()[36..68])));
    assert!(VerifyingKey::from_point(&[4; 65]).is_err());
    assert!(VerifyingKey::from_point(&[]).is_err());
    assert!(VerifyingKey::from_coordinates("AAAA", "AAAA").is_err());
}
