//! What strangers can do to a token.

#![allow(clippy::unwrap_used)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_mandate::{
    Algorithm, Claims, KeyLookup, MAX_TOKEN_BYTES, SigningKey, VerifyingKey, issue, verify,
};
use proptest::prelude::*;

const AUDIENCE: &str = "https://gw.example";

struct Registry(Vec<(String, VerifyingKey)>);

impl KeyLookup for Registry {
    fn key(&self, issuer: &str, kid: Option<&str>) -> Option<VerifyingKey> {
        let fits =
            |(name, key): &&(String, VerifyingKey)| name == issuer && kid.is_none_or(|kid| kid == key.kid());
        self.0.iter().find(fits).map(|(_, key)| key.clone())
    }
}

fn key(algorithm: Algorithm) -> SigningKey {
    let random = SystemRandom::new();
    let document = match algorithm {
        Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap(),
        Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random).unwrap(),
    };
    SigningKey::from_pkcs8(algorithm, document.as_ref()).unwrap()
}

fn registry(key: &SigningKey) -> Registry {
    Registry(vec![("alice".into(), key.verifying().clone())])
}

fn claims() -> Claims {
    Claims {
        jti: "m-1".into(),
        iss: "alice".into(),
        sub: "agent-7".into(),
        aud: AUDIENCE.into(),
        iat: 1_000,
        exp: 2_000,
        mandate_scope: vec!["Payments".into()],
        ..Claims::default()
    }
}

/// Signs whatever header and payload, as a forger with the right key could.
struct Forger {
    pair: Ed25519KeyPair,
    key: SigningKey,
}

impl Forger {
    fn new() -> Forger {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Forger { pair, key: SigningKey::from_pkcs8(Algorithm::EdDsa, document.as_ref()).unwrap() }
    }

    fn sign(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(input.as_bytes())))
    }

    #[track_caller]
    fn check(&self, header: &str, payload: &str, expected: &str) {
        let found = verify(&self.sign(header, payload), &registry(&self.key), AUDIENCE, 1_500);
        let word = found.as_ref().map_or_else(|refusal| refusal.word(), |_| "pass");
        assert_eq!(word, expected, "{header} {payload} {found:?}");
    }
}

const HEADER: &str = r#"{"alg":"EdDSA","typ":"mandate+jwt"}"#;

fn payload() -> String {
    serde_json::to_string(&claims()).unwrap()
}

#[test]
fn what_is_issued_verifies_with_either_algorithm() {
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let key = key(algorithm);
        let token = issue(&claims(), &key).unwrap();
        let mandate = verify(&token, &registry(&key), AUDIENCE, 1_500).unwrap().mandate;
        assert_eq!((mandate.jti.as_str(), mandate.root_principal()), ("m-1", "alice"));
        let read = VerifyingKey::from_jwk(key.verifying().jwk()).unwrap();
        assert_eq!((read.kid(), read.algorithm()), (key.verifying().kid(), algorithm));
    }
}

#[test]
fn the_issuers_key_and_audience_and_time_are_checked() {
    let (key, other) = (key(Algorithm::Es256), key(Algorithm::Es256));
    let token = issue(&claims(), &key).unwrap();
    let word = |keys: &Registry, audience: &str, now| {
        verify(&token, keys, audience, now).map(|it| it.mandate).map_err(|it| it.word())
    };
    assert_eq!(word(&Registry(vec![]), AUDIENCE, 1_500).unwrap_err(), "mandate_key_unknown");
    assert_eq!(word(&registry(&other), AUDIENCE, 1_500).unwrap_err(), "mandate_key_unknown");
    let bob = Registry(vec![("bob".into(), key.verifying().clone())]);
    assert_eq!(word(&bob, AUDIENCE, 1_500).unwrap_err(), "mandate_key_unknown");
    assert_eq!(word(&registry(&key), "https://gw.example/sandbox", 1_500).unwrap_err(), "wrong_audience");
    assert_eq!(word(&registry(&key), AUDIENCE, 2_000).unwrap_err(), "mandate_expired");
    assert_eq!(word(&registry(&key), AUDIENCE, 1_999).map(|it| it.expires_at), Ok(2_000));
    // The issuer's clock may be half a minute ahead of ours.
    assert_eq!(word(&registry(&key), AUDIENCE, 970).map(|it| it.issued_at), Ok(1_000));
    assert_eq!(word(&registry(&key), AUDIENCE, 969).unwrap_err(), "mandate_not_yet_valid");
}

#[test]
fn a_header_cannot_bring_its_own_key_or_algorithm() {
    let forger = Forger::new();
    forger.check(HEADER, &payload(), "pass");
    for member in [
        r#""jku":"https://evil""#,
        r#""x5u":"https://evil""#,
        r#""jwk":{}"#,
        r#""crit":["exp"]"#,
        r#""x5c":[]"#,
        r#""b64":false"#,
    ] {
        let header = format!(r#"{{"alg":"EdDSA","typ":"mandate+jwt",{member}}}"#);
        forger.check(&header, &payload(), "mandate_malformed");
    }
    for alg in ["none", "HS256", "ES256", "eddsa", ""] {
        let header = format!(r#"{{"alg":"{alg}","typ":"mandate+jwt"}}"#);
        forger.check(&header, &payload(), "mandate_wrong_algorithm");
    }
    for header in [
        r#"{"alg":"EdDSA"}"#,
        r#"{"alg":"EdDSA","typ":"JWT"}"#,
        r#"{"typ":"mandate+jwt"}"#,
        r#"{"alg":1,"typ":"mandate+jwt"}"#,
        "[]",
        "",
    ] {
        forger.check(header, &payload(), "mandate_malformed");
    }
}

#[test]
fn members_stand_once_and_are_known() {
    let forger = Forger::new();
    forger.check(r#"{"alg":"EdDSA","alg":"none","typ":"mandate+jwt"}"#, &payload(), "mandate_malformed");
    let twice = payload().replacen('{', r#"{"exp":9999,"#, 1);
    forger.check(HEADER, &twice, "mandate_malformed");
    let unknown = payload().replacen('{', r#"{"max_per_day":1,"#, 1);
    forger.check(HEADER, &unknown, "mandate_malformed");
    let list = payload().replace(r#""https://gw.example""#, r#"["https://gw.example"]"#);
    forger.check(HEADER, &list, "mandate_malformed");
    let by_position = payload().replacen('{', r#"{"spend_cap":["100.00","USD"],"#, 1);
    forger.check(HEADER, &by_position, "mandate_malformed");
    let fraction = payload().replace("2000", "2000.5");
    forger.check(HEADER, &fraction, "mandate_malformed");
}

#[test]
fn base64url_is_strict() {
    let key = key(Algorithm::Es256);
    let token = issue(&claims(), &key).unwrap();
    let word = |token: &str| verify(token, &registry(&key), AUDIENCE, 1_500).map_err(|it| it.word());
    assert!(word(&token).is_ok());
    assert!(word(&format!("{token}=")).is_err());
    assert!(word(&format!("{token}.")).is_err());
    assert!(word(&format!(" {token}")).is_err());
    assert!(word(&token.replacen('.', "..", 1)).is_err());
    // 64 bytes leave four bits unused in the last character: another one with the same six high bits is refused.
    let last = token.chars().last().unwrap();
    let sibling =
        ('A'..='z').find(|c| c.is_ascii_alphabetic() && *c != last && word(&with_last(&token, *c)).is_ok());
    assert_eq!(sibling, None);
    assert_eq!(word(&"a".repeat(MAX_TOKEN_BYTES + 1)).unwrap_err(), "mandate_too_large");
}

fn with_last(token: &str, last: char) -> String {
    format!("{}{last}", &token[..token.len() - 1])
}

#[test]
fn keys_that_are_not_public_signature_keys_are_refused() {
    let jwk = key(Algorithm::EdDsa).verifying().jwk().to_owned();
    for wrong in [
        jwk.replacen('{', r#"{"d":"AAAA","#, 1),
        jwk.replacen('{', r#"{"use":"enc","#, 1),
        jwk.replacen('{', r#"{"alg":"ES256","#, 1),
        jwk.replace("Ed25519", "X25519"),
        r#"{"kty":"oct","k":"AAAA"}"#.to_owned(),
        r#"{"crv":"P-256","kty":"EC","x":"AAAA","y":"AAAA"}"#.to_owned(),
        "{}".to_owned(),
        "x".to_owned(),
    ] {
        assert!(VerifyingKey::from_jwk(&wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_changed_character_verifies(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let key = key(Algorithm::EdDsa);
        let token = issue(&claims(), &key).unwrap();
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        let verified = verify(&changed, &registry(&key), AUDIENCE, 1_500).is_ok();
        prop_assert_eq!(verified, changed == token);
    }

    #[test]
    fn strange_text_never_panics(text in ".{0,300}") {
        prop_assert!(verify(&text, &Registry(vec![]), AUDIENCE, 0).is_err());
    }
}
