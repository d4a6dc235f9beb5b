//! Signals from outside: a security event token (RFC 8417) by which a transmitter says that a session or a mandate is
//! revoked (CAEP `session-revoked`).
//!
//! Read as strictly as a mandate is, by the same corner of JOSE, with one more algorithm: transmitters sign with RSA, too.
//! What a token says beside what is asked for here (`toe`, `txn`, reasons in words) changes nothing.

use serde_json::{Map, Value};

use crate::token::{Header, Parts, is_for, object};
use crate::{PublicKey, Refusal, Scheme};

/// The only `typ` that is a signal.
const TYPE: &str = "secevent+jwt";
/// The only event that is understood.
const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
/// How far a transmitter's clock may run ahead of ours, in seconds.
const CLOCK_SKEW: i64 = 30;
/// What is older than this is not taken any more, in seconds.
const OLDEST: i64 = 24 * 3600;
/// How they may be signed.
const SIGNED_BY: [Scheme; 3] = [Scheme::Es256, Scheme::EdDsa, Scheme::Rs256];
const LONGEST_NAME: usize = 256;

/// What was signalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Who says so.
    pub issuer: String,
    /// Their name for it, used once.
    pub jti: String,
    /// When they said so, Unix seconds.
    pub issued_at: i64,
    /// What it is about.
    pub subject: SignalSubject,
    /// The key's name, if the token has one.
    pub kid: Option<String>,
}

/// What a signal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalSubject {
    /// One session, by its id.
    Session(String),
    /// A mandate and all that descend from it.
    Mandate {
        /// Its principal.
        iss: String,
        /// Its id.
        jti: String,
    },
}

/// Why a signal is not taken, in the words of RFC 8935.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalRefusal {
    /// It is none, or says something else, or nothing of anything here.
    InvalidRequest(String),
    /// No transmitter of this name is registered.
    InvalidIssuer,
    /// The transmitter has no such key.
    InvalidKey,
    /// It is meant for somebody else.
    InvalidAudience,
    /// The signature is not by that key.
    AuthenticationFailed,
}

impl SignalRefusal {
    /// The error code.
    pub fn code(&self) -> &'static str {
        match self {
            SignalRefusal::InvalidRequest(_) => "invalid_request",
            SignalRefusal::InvalidIssuer => "invalid_issuer",
            SignalRefusal::InvalidKey => "invalid_key",
            SignalRefusal::InvalidAudience => "invalid_audience",
            SignalRefusal::AuthenticationFailed => "authentication_failed",
        }
    }

    /// The same for people.
    pub fn description(&self) -> String {
        match self {
            SignalRefusal::InvalidRequest(what) => what.clone(),
            SignalRefusal::InvalidIssuer => "`iss` is no transmitter that is registered here".into(),
            SignalRefusal::InvalidKey => "`kid` and `alg` name no key that is registered for `iss`".into(),
            SignalRefusal::InvalidAudience => "`aud` does not name the issuer URL of this gateway".into(),
            SignalRefusal::AuthenticationFailed => "the signature is not by the key of `iss`".into(),
        }
    }
}

impl From<Refusal> for SignalRefusal {
    fn from(refusal: Refusal) -> SignalRefusal {
        SignalRefusal::InvalidRequest(match refusal {
            Refusal::Malformed { what } => what,
            Refusal::TooLarge { limit } => format!("it is longer than {limit} bytes"),
            other => other.to_string(),
        })
    }
}

/// Reads the keys of a transmitter: a JWK set, or one JWK. Several are told apart by what they are called.
///
/// # Errors
/// Which key is wrong, and why.
pub fn signal_keys(text: &[u8]) -> Result<Vec<PublicKey>, String> {
    let set = action::json::parse(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let one = std::slice::from_ref(&set);
    let keys = set["keys"].as_array().map_or(one, Vec::as_slice);
    if keys.is_empty() {
        return Err("it has no key".into());
    }
    let read = |(n, jwk): (usize, &Value)| {
        PublicKey::of(jwk, &SIGNED_BY).map_err(|why| format!("`keys/{n}`: {why}"))
    };
    let keys: Vec<PublicKey> = keys.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    if keys.len() > 1 {
        for (n, key) in keys.iter().enumerate() {
            let kid = key.kid().ok_or_else(|| format!("`keys/{n}`: of several keys each needs a `kid`"))?;
            if keys[..n].iter().any(|other| other.kid() == key.kid() && other.algorithm() == key.algorithm())
            {
                return Err(format!("`keys/{n}`: another key has the `kid` `{kid}`"));
            }
        }
    }
    Ok(keys)
}

/// Understands a token for `audience` at `now_s` (Unix seconds). `keys` are those of the issuer that it names, if that one
/// is registered. Whether what it is about is here is for the caller to see.
///
/// # Errors
/// The first thing that is wrong, form before signature before claims.
pub fn hear<'a>(
    token: &str,
    keys: impl FnOnce(&str) -> Option<&'a [PublicKey]>,
    audience: &str,
    now_s: i64,
) -> Result<Signal, SignalRefusal> {
    let invalid = |what: &str| SignalRefusal::InvalidRequest(what.to_owned());
    let parts = Parts::of(token)?;
    let header = Header::parse(&parts.header()?, TYPE)?;
    let claims = object("payload", &parts.payload()?)?;
    let signature = parts.signature()?;
    let issuer = name(&claims, "iss")?;

    let keys = keys(&issuer).ok_or(SignalRefusal::InvalidIssuer)?;
    // Who names no key means the only one.
    let named = |key: &&PublicKey| match &header.kid {
        Some(kid) => key.kid() == Some(kid.as_str()),
        None => keys.len() == 1,
    };
    let key = keys.iter().filter(named).find(|key| key.algorithm() == header.alg);
    if !key.ok_or(SignalRefusal::InvalidKey)?.verifies(parts.signed.as_bytes(), &signature) {
        return Err(SignalRefusal::AuthenticationFailed);
    }

    if !claims.get("aud").is_some_and(|aud| is_for(aud, |one| one == audience)) {
        return Err(SignalRefusal::InvalidAudience);
    }
    let issued_at = claims.get("iat").and_then(Value::as_i64).ok_or_else(|| invalid("`iat` is no time"))?;
    if issued_at > now_s.saturating_add(CLOCK_SKEW) {
        return Err(invalid("`iat` is in the future"));
    }
    if issued_at < now_s.saturating_sub(OLDEST) {
        return Err(invalid("`iat` is more than a day ago"));
    }
    // The profile keeps both of them for tokens of another kind, and an event does not expire: it has taken place.
    if claims.contains_key("exp") {
        return Err(invalid("`exp` has no place in an event"));
    }
    if claims.contains_key("sub") {
        return Err(invalid("`sub` is not how an event names what it is about; send `sub_id`"));
    }
    let jti = name(&claims, "jti")?;
    Ok(Signal { issuer, jti, issued_at, subject: subject(&claims)?, kid: header.kid })
}

/// What the one event of the token is about: `sub_id` of the token, or `subject` of the event as older transmitters have it.
fn subject(claims: &Map<String, Value>) -> Result<SignalSubject, SignalRefusal> {
    let invalid = |what: &str| SignalRefusal::InvalidRequest(what.to_owned());
    let events = claims.get("events").and_then(Value::as_object);
    let events = events.ok_or_else(|| invalid("`events` is no object"))?;
    let (Some(event), 1) = (events.get(SESSION_REVOKED), events.len()) else {
        return Err(SignalRefusal::InvalidRequest(format!("`events` must have `{SESSION_REVOKED}` alone")));
    };
    let event = event.as_object().ok_or_else(|| invalid("`events`: the event is no object"))?;
    match (claims.get("sub_id"), event.get("subject")) {
        (Some(one), None) => identified(one, "sub_id"),
        (None, Some(one)) => identified(one, "subject"),
        (None, None) => Err(invalid("`sub_id` is missing")),
        (Some(_), Some(_)) => Err(invalid("`sub_id` and `subject` are both there")),
    }
}

/// A subject identifier (RFC 9493, and the formats of the Shared Signals Framework).
fn identified(value: &Value, place: &str) -> Result<SignalSubject, SignalRefusal> {
    let invalid = |what: &str| SignalRefusal::InvalidRequest(format!("`{place}` {what}"));
    let members = value.as_object().ok_or_else(|| invalid("is no object"))?;
    let only = |known: &[&str]| match members.keys().find(|name| !known.contains(&name.as_str())) {
        Some(other) => Err(invalid(&format!("has `{other}`, by which nothing is found here"))),
        None => Ok(()),
    };
    match members.get("format").and_then(Value::as_str) {
        Some("opaque") => {
            only(&["format", "id"]).and_then(|()| name(members, "id")).map(SignalSubject::Session)
        }
        Some("jwt_id") => {
            only(&["format", "iss", "jti"])?;
            Ok(SignalSubject::Mandate { iss: name(members, "iss")?, jti: name(members, "jti")? })
        }
        Some("complex") => {
            only(&["format", "session"])?;
            match members.get("session").map(|session| identified(session, place)) {
                Some(Ok(session @ SignalSubject::Session(_))) => Ok(session),
                Some(Err(refusal)) => Err(refusal),
                _ => Err(invalid("has no `session` in the format `opaque`")),
            }
        }
        _ => Err(invalid("has none of the formats `opaque`, `jwt_id` and `complex`")),
    }
}

fn name(members: &Map<String, Value>, member: &str) -> Result<String, SignalRefusal> {
    let text = members.get(member).and_then(Value::as_str);
    let plain = |text: &&str| {
        (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    text.filter(plain).map(str::to_owned).ok_or_else(|| {
        SignalRefusal::InvalidRequest(format!("`{member}` is not 1 to {LONGEST_NAME} visible characters"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::{Algorithm, MAX_TOKEN_BYTES, SigningKey};

    const NOW: i64 = 1_800_000_000;
    const US: &str = "https://gw.example";

    fn key() -> SigningKey {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pkcs8 = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        SigningKey::from_pkcs8(Algorithm::EdDsa, pkcs8.as_ref()).unwrap()
    }

    fn claims() -> Value {
        json!({
            "iss": "https://idp.example", "jti": "e-1", "iat": NOW, "aud": [US, "https://other.example"],
            "sub_id": {"format": "opaque", "id": "ses_1"}, "events": {SESSION_REVOKED: {"event_timestamp": NOW}},
        })
    }

    fn told(key: &SigningKey, header: &Value, claims: &Value) -> Result<Signal, SignalRefusal> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
        let mut jwk: Value = serde_json::from_str(key.verifying().jwk()).unwrap();
        jwk["kid"] = "k-1".into();
        let keys = signal_keys(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
        let of = |issuer: &str| (issuer == "https://idp.example").then_some(keys.as_slice());
        hear(&format!("{signed}.{signature}"), of, US, NOW)
    }

    fn header() -> Value {
        json!({"alg": "EdDSA", "kid": "k-1", "typ": TYPE})
    }

    #[test]
    fn a_session_or_a_mandate_is_named_in_the_formats_of_the_framework() {
        let key = key();
        let about = |sub_id: Value| {
            let mut claims = claims();
            claims["sub_id"] = sub_id;
            told(&key, &header(), &claims).map(|signal| signal.subject)
        };
        let session = Ok(SignalSubject::Session("ses_1".into()));
        let opaque = json!({"format": "opaque", "id": "ses_1"});
        assert_eq!(about(opaque.clone()), session);
        assert_eq!(about(json!({"format": "complex", "session": opaque.clone()})), session);
        let mandate = SignalSubject::Mandate { iss: "alice".into(), jti: "mnd_1".into() };
        assert_eq!(about(json!({"format": "jwt_id", "iss": "alice", "jti": "mnd_1"})), Ok(mandate));
        let mut older = claims();
        older.as_object_mut().unwrap().remove("sub_id");
        older["events"][SESSION_REVOKED]["subject"] = opaque;
        assert_eq!(told(&key, &header(), &older).map(|signal| signal.subject), session);
    }

    #[test]
    fn what_is_wrong_is_told_by_the_words_of_the_standard() {
        let key = key();
        let with = |member: &str, value: Value| {
            let mut claims = claims();
            claims[member] = value;
            told(&key, &header(), &claims).unwrap_err()
        };
        assert_eq!(with("iss", json!("https://evil.example")).code(), "invalid_issuer");
        assert_eq!(with("aud", json!("https://other.example")).code(), "invalid_audience");
        for (member, value) in [
            ("iss", json!(7)),
            ("jti", json!("")),
            ("jti", json!("a b")),
            ("iat", json!("now")),
            ("iat", json!(NOW + CLOCK_SKEW + 1)),
            ("iat", json!(NOW - OLDEST - 1)),
            ("exp", json!(NOW - 1)),
            ("exp", json!(NOW + 60)),
            ("exp", json!("later")),
            ("sub", json!("ses_1")),
            ("sub_id", json!("ses_1")),
            ("sub_id", json!({"format": "email", "email": "a@b.example"})),
            ("sub_id", json!({"format": "opaque", "id": "ses_1", "more": 1})),
            ("sub_id", json!({"format": "complex", "user": {"format": "opaque", "id": "u"}})),
            ("sub_id", json!({"format": "jwt_id", "jti": "mnd_1"})),
            ("events", json!({})),
            ("events", json!({SESSION_REVOKED: {}, "https://a.example": {}})),
            ("events", json!({SESSION_REVOKED: 1})),
        ] {
            let refusal = with(member, value.clone());
            assert_eq!(refusal.code(), "invalid_request", "{member} {value}");
            let told = refusal.description();
            assert!(told.contains('`') && !told.is_empty(), "{member} {value}: {told}");
        }
        let headed = |member: &str, value: Value| {
            let mut header = header();
            header[member] = value;
            told(&key, &header, &claims()).unwrap_err().code()
        };
        assert_eq!(headed("typ", json!("JWT")), "invalid_request");
        assert_eq!(headed("typ", json!("mandate+jwt")), "invalid_request");
        assert_eq!(headed("jku", json!("https://evil.example")), "invalid_request");
        assert_eq!(headed("alg", json!("none")), "invalid_key");
        assert_eq!(headed("alg", json!("ES256")), "invalid_key");
        assert_eq!(headed("kid", json!("k-2")), "invalid_key");
        for token in ["", "a", "a.b", "a.b.c", "..", &"a".repeat(MAX_TOKEN_BYTES + 1)] {
            let refusal = hear(token, |_| None, US, NOW).unwrap_err();
            assert_eq!(refusal.code(), "invalid_request", "{token}");
        }
    }

    #[test]
    fn a_signature_by_another_key_is_none() {
        let (mine, yours) = (key(), key());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header()), part(&claims()));
        let signature = URL_SAFE_NO_PAD.encode(mine.sign(signed.as_bytes()).unwrap());
        let mut jwk: Value = serde_json::from_str(yours.verifying().jwk()).unwrap();
        jwk["kid"] = "k-1".into();
        let keys = signal_keys(jwk.to_string().as_bytes()).unwrap();
        let refusal = hear(&format!("{signed}.{signature}"), |_| Some(keys.as_slice()), US, NOW);
        assert_eq!(refusal.unwrap_err().code(), "authentication_failed");
    }

    #[test]
    fn of_several_keys_one_is_named() {
        let (old, new) = (key(), key());
        let jwk = |key: &SigningKey, kid: Option<&str>| {
            let mut jwk: Value = serde_json::from_str(key.verifying().jwk()).unwrap();
            jwk["kid"] = kid.into();
            jwk
        };
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let heard = |keys: &[Value], signer: &SigningKey, kid: Option<&str>| {
            let keys = signal_keys(json!({"keys": keys}).to_string().as_bytes()).unwrap();
            let mut header = json!({"alg": "EdDSA", "typ": TYPE});
            if let Some(kid) = kid {
                header["kid"] = kid.into();
            }
            let signed = format!("{}.{}", part(&header), part(&claims()));
            let signature = URL_SAFE_NO_PAD.encode(signer.sign(signed.as_bytes()).unwrap());
            let heard = hear(&format!("{signed}.{signature}"), |_| Some(keys.as_slice()), US, NOW);
            heard.map(|signal| signal.kid).map_err(|refusal| refusal.code())
        };
        let both = [jwk(&old, Some("old")), jwk(&new, Some("new"))];
        assert_eq!(heard(&both, &new, Some("new")), Ok(Some("new".into())));
        assert_eq!(heard(&both, &new, Some("old")), Err("authentication_failed"));
        for signer in [&old, &new] {
            assert_eq!(heard(&both, signer, None), Err("invalid_key"), "which of them it is has to be said");
        }
        assert_eq!(heard(&both[..1], &old, None), Ok(None), "the only one need not be named");
        for (keys, place) in [
            ([jwk(&old, Some("k")), jwk(&new, None)], "keys/1"),
            ([jwk(&old, None), jwk(&new, Some("k"))], "keys/0"),
            ([jwk(&old, Some("k")), jwk(&new, Some("k"))], "keys/1"),
        ] {
            let wrong = signal_keys(json!({"keys": keys}).to_string().as_bytes()).unwrap_err();
            assert!(wrong.contains(place) && wrong.contains("`kid`"), "{wrong}");
        }
    }

    #[test]
    fn rsa_verifies_and_short_or_private_keys_are_refused() {
        use aws_lc_rs::rsa::{KeyPair, KeySize};
        use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        // SEQUENCE { INTEGER n, INTEGER e }, as it is for 2048 bits.
        let public = pair.public_key().as_ref();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (n, e) = (public[9..265].to_vec(), public[267..].to_vec());
        let jwk =
            json!({"kty": "RSA", "n": number(&n), "e": number(&e), "kid": "r", "alg": "RS256", "use": "sig"});
        let keys = signal_keys(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed =
            format!("{}.{}", part(&json!({"alg": "RS256", "kid": "r", "typ": TYPE})), part(&claims()));
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
        let heard = |signature: &[u8]| {
            hear(&format!("{signed}.{}", number(signature)), |_| Some(keys.as_slice()), US, NOW)
        };
        assert_eq!(heard(&signature).unwrap().jti, "e-1");
        signature[7] ^= 1;
        assert_eq!(heard(&signature).unwrap_err().code(), "authentication_failed");
        for (member, value) in [("n", number(&n[..128])), ("d", number(&n)), ("alg", "RS512".into())] {
            let mut wrong = jwk.clone();
            wrong[member] = value.into();
            assert!(signal_keys(wrong.to_string().as_bytes()).is_err(), "{member}");
        }
    }
}
