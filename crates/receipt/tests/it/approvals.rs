//! Assertions and enrolments against a software authenticator: the right one passes, and for every refusal there is
//! one that is wrong in just that.

use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_receipt as receipt;
use proptest::prelude::*;
use receipt::approval::{Assertion, Enrolment, Envelope, Refusal};
use serde_json::{Value, json};

use crate::authenticator::{Authenticator, FLAGS, Making, attestation_object, client, data, party};
use crate::support::{envelope, wycheproof};

const CHALLENGE: [u8; 32] = [0xfb; 32];

type Change = fn(&mut Making);

fn verify(assertion: &Assertion) -> Result<(), Refusal> {
    assertion.verify(&CHALLENGE, &party(), &Authenticator::golden().public_key())
}

fn enrol(enrolment: &Enrolment) -> Result<(), Refusal> {
    enrolment.verify(&CHALLENGE, &party()).map(drop)
}

/// What both ceremonies refuse alike.
const WRONG: &[(&str, Change, Refusal)] = &[
    ("another challenge", |it| it.client["challenge"] = text(&[0xfa; 32]), Refusal::Challenge),
    ("a challenge cut short", |it| it.client["challenge"] = text(&CHALLENGE[1..]), Refusal::Challenge),
    (
        "a padded challenge",
        |it| it.client["challenge"] = pad(&it.client["challenge"], "="),
        Refusal::Challenge,
    ),
    (
        "base64 of the other alphabet",
        |it| it.client["challenge"] = plus(&it.client["challenge"]),
        Refusal::Challenge,
    ),
    ("another origin", |it| it.client["origin"] = json!("https://gateway.example.evil"), Refusal::Origin),
    ("another scheme", |it| it.client["origin"] = json!("http://gateway.example"), Refusal::Origin),
    (
        "an origin spelled another way",
        |it| it.client["origin"] = json!("https://gateway.example/"),
        Refusal::Origin,
    ),
    ("a frame elsewhere", |it| it.client["crossOrigin"] = json!(true), Refusal::CrossOrigin),
    ("a frame, perhaps", |it| it.client["crossOrigin"] = json!("false"), Refusal::CrossOrigin),
    ("a page above", |it| it.client["topOrigin"] = json!("https://gateway.example"), Refusal::CrossOrigin),
    ("no origin", |it| drop(it.client.as_object_mut().unwrap().shift_remove("origin")), Refusal::ClientData),
    ("no object", |it| it.client = json!([]), Refusal::ClientData),
    ("another relying party", |it| it.data[0] ^= 1, Refusal::RelyingParty),
    ("nobody there", |it| it.data[32] &= !1, Refusal::UserPresence),
    ("nobody verified", |it| it.data[32] &= !4, Refusal::UserVerification),
    ("backed up and not to be", |it| it.data[32] &= !8, Refusal::Backup),
    ("extensions announced, none there", |it| it.data[32] |= 0x80, Refusal::AuthenticatorData),
    ("something unannounced", |it| it.data.push(0xa0), Refusal::AuthenticatorData),
    ("extensions that are no map", |it| extend(it, &[0x80]), Refusal::AuthenticatorData),
    ("something after the extensions", |it| extend(it, &[0xa0, 0]), Refusal::AuthenticatorData),
    ("too short", |it| it.data.truncate(36), Refusal::AuthenticatorData),
];

/// What both ceremonies let pass.
const RIGHT: &[(&str, Change)] = &[
    ("as it comes", |_| {}),
    ("the other origin", |it| it.client["origin"] = json!("https://approvals.example")),
    ("nothing said of frames", |it| drop(it.client.as_object_mut().unwrap().shift_remove("crossOrigin"))),
    ("a member of tomorrow", |it| it.client["new"] = json!({"x": 1})),
    ("reserved flags", |it| it.data[32] |= 0b0010_0010),
    ("a key that stays on its device", |it| it.data[32] &= !0b0001_1000),
    ("extensions", |it| extend(it, b"\xa1\x6bcredProtect\x02")),
];

fn text(bytes: &[u8]) -> Value {
    json!(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn pad(challenge: &Value, tail: &str) -> Value {
    json!(format!("{}{tail}", challenge.as_str().unwrap()))
}

fn plus(challenge: &Value) -> Value {
    let other = challenge.as_str().unwrap().replace('-', "+").replace('_', "/");
    assert_ne!(challenge, &json!(other));
    json!(other)
}

fn extend(it: &mut Making, extensions: &[u8]) {
    it.data[32] |= 0x80;
    it.data.extend_from_slice(extensions);
}

#[test]
fn an_assertion_passes_or_is_refused_by_name() {
    let passkey = Authenticator::golden();
    for (what, change) in RIGHT {
        assert_eq!(verify(&passkey.get_with(&CHALLENGE, change)), Ok(()), "{what}");
    }
    for (what, change, refusal) in WRONG {
        assert_eq!(verify(&passkey.get_with(&CHALLENGE, change)), Err(*refusal), "{what}");
    }
    let created = |it: &mut Making| it.client["type"] = json!("webauthn.create");
    assert_eq!(verify(&passkey.get_with(&CHALLENGE, created)), Err(Refusal::Type));
    let attested = |it: &mut Making| it.data = passkey.attested_data(&passkey.cose());
    assert_eq!(verify(&passkey.get_with(&CHALLENGE, attested)), Err(Refusal::UnexpectedCredential));
    let signature = verify(&Authenticator::another().get(&CHALLENGE));
    assert_eq!(signature, Err(Refusal::Signature), "another's key");
}

#[test]
fn client_data_that_readers_could_read_differently_are_refused() {
    let passkey = Authenticator::golden();
    let client = client("webauthn.get", &CHALLENGE).to_string();
    let twice = client.replacen('{', r#"{"origin":"https://evil.example","#, 1);
    let half = client.replacen('{', r#"{"x":"\ud800","#, 1);
    let big = client.replacen('{', r#"{"x":9007199254740993,"#, 1);
    for (what, json) in [
        ("twice", twice.into_bytes()),
        ("half a character", half.into_bytes()),
        ("an integer no double holds", big.into_bytes()),
        ("a mark of byte order", [b"\xef\xbb\xbf", client.as_bytes()].concat()),
        ("something after", [client.as_bytes(), b"{}"].concat()),
        ("not UTF-8", [client.as_bytes(), b"\xff"].concat()),
        ("nothing", vec![]),
        ("very deep", "[".repeat(10_000).into_bytes()),
    ] {
        assert_eq!(verify(&passkey.get_raw(data(FLAGS), json)), Err(Refusal::ClientData), "{what}");
    }
}

#[test]
fn an_enrolment_passes_or_is_refused_by_name() {
    let passkey = Authenticator::golden();
    for (what, change) in RIGHT {
        let credential = passkey.create_with(&CHALLENGE, change).verify(&CHALLENGE, &party());
        let credential = credential.unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        assert_eq!(
            (credential.id, credential.public_key),
            (passkey.id.clone(), passkey.public_key()),
            "{what}"
        );
    }
    for (what, change, refusal) in WRONG {
        assert_eq!(enrol(&passkey.create_with(&CHALLENGE, change)), Err(*refusal), "{what}");
    }
    let got = |it: &mut Making| it.client["type"] = json!("webauthn.get");
    assert_eq!(enrol(&passkey.create_with(&CHALLENGE, got)), Err(Refusal::Type));
    let bare = |it: &mut Making| it.data = data(FLAGS);
    assert_eq!(enrol(&passkey.create_with(&CHALLENGE, bare)), Err(Refusal::NoCredential));
}

#[test]
fn a_credential_of_any_other_form_is_refused() {
    let passkey = Authenticator::golden();
    let cose = passkey.cose();
    let with = |at: usize, byte: u8| {
        let mut changed = cose.clone();
        changed[at] = byte;
        changed
    };
    for (what, key) in [
        ("an OKP key", with(2, 1)),
        ("EdDSA", with(4, 0x27)),
        ("P-384", with(6, 2)),
        ("not on the curve", with(30, cose[30] ^ 1)),
        ("one member more", [b"\xa6", &cose[1..], b"\x23\x00"].concat()),
        ("cut short", cose[..cose.len() - 1].to_vec()),
        ("nothing", vec![]),
    ] {
        let change = |it: &mut Making| it.data = passkey.attested_data(&key);
        assert_eq!(enrol(&passkey.create_with(&CHALLENGE, change)), Err(Refusal::Key), "{what}");
    }
    for (what, id) in [("no id", vec![]), ("an id too long", vec![1; 1024])] {
        let mut odd = Authenticator::golden();
        odd.id = id;
        assert_eq!(enrol(&odd.create_with(&CHALLENGE, |_| {})), Err(Refusal::AuthenticatorData), "{what}");
    }
}

#[test]
fn an_attestation_is_none_or_the_credentials_own() {
    let passkey = Authenticator::golden();
    assert_eq!(enrol(&passkey.create_packed(&CHALLENGE, true)), Ok(()));
    assert_eq!(enrol(&passkey.create_packed(&CHALLENGE, false)), Err(Refusal::Signature));
    let plain = passkey.create_with(&CHALLENGE, |_| {});
    let data = passkey.attested_data(&passkey.cose());
    let with = |attestation_object| enrol(&Enrolment { attestation_object, ..plain.clone() });
    for (what, format, statement) in [
        ("packed without a word", "packed", &b"\xa0"[..]),
        ("a maker's certificate", "packed", b"\xa3\x63alg\x26\x63sig\x40\x63x5c\x80"),
        ("another algorithm", "packed", b"\xa2\x63alg\x27\x63sig\x40"),
        ("none with a statement", "none", b"\xa1\x63sig\x40"),
        ("another format", "fido-u2f", b"\xa0"),
    ] {
        assert_eq!(with(attestation_object(format, statement, &data)), Err(Refusal::Attestation), "{what}");
    }
    let whole = attestation_object("none", b"\xa0", &data);
    for (what, object) in [
        ("nothing", vec![]),
        ("something after", [&whole[..], b"\0"].concat()),
        ("a member twice", [b"\xa4", &whole[1..], b"\x63fmt\x64none"].concat()),
        ("another member", [b"\xa4", &whole[1..], b"\x64more\x00"].concat()),
        ("a member too few", b"\xa2\x63fmt\x64none\x67attStmt\xa0".to_vec()),
        ("no map", b"\x80".to_vec()),
        ("cut short", whole[..whole.len() - 1].to_vec()),
    ] {
        assert_eq!(with(object), Err(Refusal::AttestationObject), "{what}");
    }
    // In whatever order.
    let turned =
        [&b"\xa3\x67attStmt\xa0\x63fmt\x64none"[..], &whole[whole.len() - data.len() - 11..]].concat();
    assert_eq!(with(turned), Ok(()));
}

#[test]
fn every_refusal_has_a_text_of_its_own() {
    let all = WRONG.iter().map(|(.., refusal)| *refusal).chain([
        Refusal::Type,
        Refusal::UnexpectedCredential,
        Refusal::NoCredential,
        Refusal::Key,
        Refusal::AttestationObject,
        Refusal::Attestation,
        Refusal::Signature,
    ]);
    let (refusals, texts): (HashSet<_>, HashSet<_>) =
        all.map(|refusal| (refusal, refusal.to_string())).unzip();
    assert_eq!((refusals.len(), texts.len()), (16, 16));
}

#[test]
fn the_challenge_is_the_hash_of_the_canonical_envelope() {
    let json = envelope().to_json().unwrap();
    assert!(receipt::canonical::is_canonical(json.as_str().as_bytes()));
    assert_eq!(hex::encode(envelope().challenge().unwrap()), receipt::hash(json.as_str().as_bytes()));
    assert_eq!(serde_json::from_str::<Envelope>(json.as_str()).unwrap(), envelope());
    let odd = Envelope { request_hash: "short".to_owned(), ..envelope() };
    assert_eq!(
        odd.challenge().unwrap_err().to_string(),
        "member `envelope.request_hash` is not 64 lower-case hex digits"
    );
}

#[test]
fn wycheproof_agrees_on_signatures_in_der() {
    let seen = wycheproof("ecdsa_secp256r1_sha256_test.json", |key, message, signature| {
        Some(key.verifies_der(message, signature))
    });
    assert!(seen.is_none_or(|seen| seen > 400), "{seen:?}");
}

#[test]
fn wycheproof_agrees_on_raw_signatures_put_into_der() {
    let seen = wycheproof("ecdsa_secp256r1_sha256_p1363_test.json", |key, message, signature| {
        // Of another length they have no R and S to speak of.
        let raw = <[u8; 64]>::try_from(signature).ok()?;
        Some(key.verifies_der(message, &der(&raw)))
    });
    assert!(seen.is_none_or(|seen| seen > 200), "{seen:?}");
}

/// R and S as two DER integers.
fn der(raw: &[u8; 64]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(31);
        let sign: &[u8] = if bytes[start] & 0x80 == 0 { &[] } else { &[0] };
        let length = u8::try_from(sign.len() + 32 - start).unwrap();
        [&[2, length], sign, &bytes[start..]].concat()
    };
    let both = [integer(&raw[..32]), integer(&raw[32..])].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()], &both[..]].concat()
}

/// An assertion over the golden envelope, and the envelope's text.
fn golden() -> (String, Assertion) {
    let text = envelope().to_json().unwrap().to_string();
    (text, Authenticator::golden().get(&envelope().challenge().unwrap()))
}

/// Does the text, read as an envelope, verify?
fn passes(text: &[u8], assertion: &Assertion) -> bool {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(text) else { return false };
    let Ok(challenge) = envelope.challenge() else { return false };
    assertion.verify(&challenge, &party(), &Authenticator::golden().public_key()).is_ok()
}

proptest! {
    #[test]
    fn any_byte_changed_anywhere_fails(place in 0..4_usize, position in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let (text, assertion) = golden();
        prop_assert!(passes(text.as_bytes(), &assertion));
        let (mut text, mut assertion) = (text.into_bytes(), assertion);
        let bytes = match place {
            0 => &mut text,
            1 => &mut assertion.authenticator_data,
            2 => &mut assertion.client_data_json,
            _ => &mut assertion.signature,
        };
        let position = position.index(bytes.len());
        bytes[position] ^= flip;
        prop_assert!(!passes(&text, &assertion), "{place} at {position}");
    }

    #[test]
    fn no_bytes_make_it_panic(object in prop::collection::vec(any::<u8>(), 0..200), client in prop::collection::vec(any::<u8>(), 0..80)) {
        let plain = Authenticator::golden().create_with(&CHALLENGE, |_| {});
        let _ = enrol(&Enrolment { attestation_object: object.clone(), ..plain.clone() });
        let _ = enrol(&Enrolment { client_data_json: client.clone(), ..plain });
        let passkey = Authenticator::golden();
        let _ = verify(&passkey.get_raw(object.clone(), self::client("webauthn.get", &CHALLENGE).to_string().into_bytes()));
        let _ = verify(&Assertion { signature: object, ..passkey.get(&CHALLENGE) });
    }

    #[test]
    fn an_enrolment_cut_or_changed_is_refused_or_the_same(position in any::<prop::sample::Index>(), flip in 0..=255_u8) {
        let mut enrolment = Authenticator::golden().create_with(&CHALLENGE, |_| {});
        let position = position.index(enrolment.attestation_object.len());
        if flip == 0 {
            enrolment.attestation_object.truncate(position);
            prop_assert!(enrol(&enrolment).is_err());
        } else {
            // AAGUID, counter, credential id and reserved flags may be anything; it must only not panic.
            enrolment.attestation_object[position] ^= flip;
            let _ = enrol(&enrolment);
        }
    }
}
