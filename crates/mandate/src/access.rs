//! Access tokens: JWTs (RFC 9068, and those that came before it) by which an issuer outside says who is calling.
//!
//! Read by the same corner of JOSE as mandates and signals are. What a token says beside what is asked for here changes
//! nothing; what would change its meaning (`crit`, a key of its own, `cnf`) is refused. Refusals are fixed words: nothing
//! of a token is repeated.

use serde_json::{Map, Value};

use crate::token::{Header, Parts, is_for, object};
use crate::{PublicKey, Refusal, Scheme};

/// How far an issuer's clock may be off from ours, in seconds.
const CLOCK_SKEW: i64 = 30;
/// Digests of a certificate, with which nothing is done.
const UNREAD: [&str; 2] = ["x5t", "x5t#S256"];
/// So many keys of an issuer are looked at.
const MOST_KEYS: usize = 64;
const LONGEST_NAME: usize = 256;

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AccessRefusal {
    #[error("it is no token of a form that is read here")]
    Malformed,
    #[error("it is a token of another type")]
    WrongType,
    #[error("it names another algorithm than its issuer's key")]
    WrongAlgorithm,
    #[error("its signature is not by its issuer's key")]
    BadSignature,
    #[error("it is meant for somebody else")]
    WrongAudience,
    #[error("it has no `exp`, or has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it is bound to a key of its client's, which is not proven here")]
    Bound,
}

/// A token of which nothing is proven yet.
pub struct AccessToken<'a> {
    parts: Parts<'a>,
    alg: String,
    kid: String,
    issuer: String,
    claims: Map<String, Value>,
}

/// What a token says whose signature and times hold.
pub struct Access(Map<String, Value>);

/// Reads the keys of an issuer, a JWK set. Left out is what cannot be used for tokens: keys for something else, of another
/// kind, or without a name.
///
/// # Errors
/// When it is no JWK set.
pub fn issuer_keys(text: &[u8], accepted: &[Scheme]) -> Result<Vec<PublicKey>, &'static str> {
    let set = action::json::parse(text).map_err(|_| "it is no JSON")?;
    let keys = set["keys"].as_array().ok_or("it has no `keys`")?;
    let of_tokens = keys.iter().take(MOST_KEYS).filter_map(|jwk| PublicKey::of(jwk, accepted).ok());
    Ok(of_tokens.filter(|key| key.kid().is_some_and(is_name)).collect())
}

impl<'a> AccessToken<'a> {
    /// Looks at the form of a token, and believes nothing.
    ///
    /// # Errors
    /// When it is none, or one of another type, such as a mandate.
    pub fn parse(token: &'a str) -> Result<AccessToken<'a>, AccessRefusal> {
        let parts = Parts::of(token)?;
        let header = Header::read(&parts.header()?, &UNREAD)?;
        if !is_of_access(header.typ.as_deref()) {
            return Err(AccessRefusal::WrongType);
        }
        let claims = object("payload", &parts.payload()?)?;
        let issuer = text(&claims, "iss").ok_or(AccessRefusal::Malformed)?.to_owned();
        let kid = header.kid.filter(|kid| is_name(kid)).ok_or(AccessRefusal::Malformed)?;
        Ok(AccessToken { parts, alg: header.alg, kid, issuer, claims })
    }

    /// Who is said to have issued it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Which of their keys is said to have signed it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Verifies it by a key of its issuer's, at `now_s` (Unix seconds), for whom `audience` says yes to.
    ///
    /// # Errors
    /// The first thing that is wrong, signature before claims.
    pub fn verify(
        self,
        key: &PublicKey,
        audience: impl Fn(&str) -> bool,
        now_s: i64,
    ) -> Result<Access, AccessRefusal> {
        if self.alg != key.algorithm() {
            return Err(AccessRefusal::WrongAlgorithm);
        }
        if !key.verifies(self.parts.signed.as_bytes(), &self.parts.signature()?) {
            return Err(AccessRefusal::BadSignature);
        }
        if !self.claims.get("aud").is_some_and(|aud| is_for(aud, audience)) {
            return Err(AccessRefusal::WrongAudience);
        }
        if self.claims.contains_key("cnf") {
            return Err(AccessRefusal::Bound);
        }
        let expires = self.time("exp")?.ok_or(AccessRefusal::Expired)?;
        if now_s >= expires.saturating_add(CLOCK_SKEW) {
            return Err(AccessRefusal::Expired);
        }
        for begins in ["nbf", "iat"] {
            if self.time(begins)?.is_some_and(|at| at > now_s.saturating_add(CLOCK_SKEW)) {
                return Err(AccessRefusal::NotYetValid);
            }
        }
        Ok(Access(self.claims))
    }

    fn time(&self, claim: &str) -> Result<Option<i64>, AccessRefusal> {
        let time = |value: &Value| value.as_i64().ok_or(AccessRefusal::Malformed);
        self.claims.get(claim).map(time).transpose()
    }
}

impl Access {
    /// A claim that is a name.
    pub fn name(&self, claim: &str) -> Option<&str> {
        text(&self.0, claim)
    }

    /// Whether the token has this scope: a word of `scope`, or of `scp` as some issuers call it.
    pub fn has_scope(&self, wanted: &str) -> bool {
        ["scope", "scp"].iter().filter_map(|claim| self.0.get(*claim)).any(|scopes| match scopes {
            Value::String(words) => words.split(' ').any(|word| word == wanted),
            Value::Array(words) => words.iter().any(|word| word == wanted),
            _ => false,
        })
    }
}

impl From<Refusal> for AccessRefusal {
    fn from(_: Refusal) -> AccessRefusal {
        AccessRefusal::Malformed
    }
}

/// `at+jwt`, `JWT`, or nothing, as issuers before RFC 9068 have it: each may stand with `application/` before it, in any
/// case.
fn is_of_access(typ: Option<&str>) -> bool {
    typ.is_none_or(|typ| {
        let typ = typ.to_ascii_lowercase();
        matches!(typ.strip_prefix("application/").unwrap_or(&typ), "at+jwt" | "jwt")
    })
}

fn text<'a>(claims: &'a Map<String, Value>, claim: &str) -> Option<&'a str> {
    claims.get(claim).and_then(Value::as_str).filter(|text| is_name(text))
}

fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256, RsaEncoding,
    };
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::MAX_TOKEN_BYTES;

    const NOW: i64 = 1_800_000_000;
    const US: &str = "https://gw.example/mcp";

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Somebody who signs, by whichever means.
    struct Signer {
        jwk: Value,
        alg: &'static str,
        sign: Sign,
    }

    type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

    fn p256() -> Signer {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let jwk =
            json!({"kty": "EC", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..])});
        let sign = move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        Signer { jwk, alg: "ES256", sign: Box::new(sign) }
    }

    fn ed25519() -> Signer {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key().as_ref())});
        Signer { jwk, alg: "EdDSA", sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()) }
    }

    fn rsa(alg: &'static str, padding: &'static dyn RsaEncoding) -> Signer {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // SEQUENCE { INTEGER n, INTEGER e }, as it is for 2048 bits.
        let public = pair.public_key().as_ref();
        let jwk = json!({"kty": "RSA", "n": encoded(&public[9..265]), "e": encoded(&public[267..])});
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        Signer { jwk, alg, sign: Box::new(sign) }
    }

    impl Signer {
        fn header(&self) -> Value {
            json!({"alg": self.alg, "kid": "k-1", "typ": "at+jwt"})
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| encoded(value.to_string().as_bytes());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = encoded(&(self.sign)(signed.as_bytes()));
            format!("{signed}.{signature}")
        }

        fn keys(&self, accepted: &[Scheme]) -> Vec<PublicKey> {
            let mut jwk = self.jwk.clone();
            jwk["kid"] = "k-1".into();
            issuer_keys(json!({"keys": [jwk]}).to_string().as_bytes(), accepted).unwrap()
        }

        fn heard(&self, header: &Value, claims: &Value) -> Result<Access, AccessRefusal> {
            read(&self.token(header, claims), &self.keys(&Scheme::ALL)[0])
        }
    }

    fn read(token: &str, key: &PublicKey) -> Result<Access, AccessRefusal> {
        AccessToken::parse(token)?.verify(key, |aud| aud == US, NOW)
    }

    fn claims() -> Value {
        json!({"iss": "https://idp.example", "sub": "bot", "aud": US, "exp": NOW + 60, "scope": "act read"})
    }

    #[test]
    fn each_scheme_verifies_by_the_key_that_is_for_it() {
        for signer in [p256(), ed25519(), rsa("RS256", &RSA_PKCS1_SHA256)] {
            let access = signer.heard(&signer.header(), &claims()).ok();
            assert_eq!(access.unwrap().name("sub"), Some("bot"), "{}", signer.alg);
        }
        // An RSA key that does not say what it is for is for the first scheme that is accepted.
        let pss = rsa("PS256", &RSA_PSS_SHA256);
        let token = pss.token(&pss.header(), &claims());
        assert!(read(&token, &pss.keys(&[Scheme::Ps256, Scheme::Rs256])[0]).is_ok());
        let other = read(&token, &pss.keys(&[Scheme::Rs256, Scheme::Ps256])[0]);
        assert_eq!(other.err(), Some(AccessRefusal::WrongAlgorithm));
        // Neither the header nor the signature makes one of the other.
        let token = pss.token(&json!({"alg": "RS256", "kid": "k-1"}), &claims());
        let other = read(&token, &pss.keys(&[Scheme::Rs256])[0]);
        assert_eq!(other.err(), Some(AccessRefusal::BadSignature));
    }

    #[test]
    fn of_a_set_only_keys_for_tokens_are_taken() {
        let (good, other) = (p256(), ed25519());
        let with = |base: &Value, members: Value| {
            let mut jwk = base.clone();
            jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            jwk
        };
        let set = json!({"keys": [
            with(&good.jwk, json!({"kid": "good", "use": "sig"})),
            with(&good.jwk, json!({"kid": "for encryption", "use": "enc"})),
            with(&good.jwk, json!({"kid": "enc", "use": "enc"})),
            with(&good.jwk, json!({"kid": "other-alg", "alg": "ES384"})),
            good.jwk,
            with(&other.jwk, json!({"kid": "private", "d": "AAAA"})),
            with(&other.jwk, json!({"kid": "not-accepted"})),
            {"kty": "oct", "kid": "secret", "k": "AAAA", "alg": "HS256"},
            {"kty": "RSA", "kid": "short", "n": encoded(&[1; 128]), "e": "AQAB"},
            7,
        ]});
        let keys = issuer_keys(set.to_string().as_bytes(), &[Scheme::Es256, Scheme::Rs256]).unwrap();
        assert_eq!(keys.iter().map(PublicKey::kid).collect::<Vec<_>>(), [Some("good")]);
        for none in ["", "[]", "{}", r#"{"keys": {}}"#] {
            assert!(issuer_keys(none.as_bytes(), &Scheme::ALL).is_err(), "{none}");
        }
    }

    #[test]
    fn a_header_that_is_not_of_an_access_token_is_refused() {
        let signer = p256();
        let headed = |member: &str, value: Value| {
            let mut header = signer.header();
            header[member] = value;
            signer.heard(&header, &claims()).err()
        };
        for typ in ["at+jwt", "AT+JWT", "JWT", "jwt", "application/at+jwt"] {
            assert_eq!(headed("typ", json!(typ)), None, "{typ}");
        }
        assert_eq!(signer.heard(&json!({"alg": "ES256", "kid": "k-1"}), &claims()).err(), None);
        assert_eq!(headed("x5t", json!("abc")), None, "says nothing to us");
        for typ in ["mandate+jwt", "secevent+jwt", "dpop+jwt", "", "at"] {
            assert_eq!(headed("typ", json!(typ)), Some(AccessRefusal::WrongType), "{typ}");
        }
        for alg in ["none", "HS256", "EdDSA", "es256", ""] {
            assert_eq!(headed("alg", json!(alg)), Some(AccessRefusal::WrongAlgorithm), "{alg}");
        }
        for (member, value) in [
            ("crit", json!(["exp"])),
            ("jku", json!("https://evil.example")),
            ("x5u", json!("https://evil.example")),
            ("jwk", signer.jwk.clone()),
            ("x5c", json!(["AAAA"])),
            ("b64", json!(false)),
            ("kid", json!(7)),
            ("kid", json!("")),
            ("kid", Value::Null),
            ("alg", Value::Null),
        ] {
            assert_eq!(headed(member, value.clone()), Some(AccessRefusal::Malformed), "{member} {value}");
        }
    }

    #[test]
    fn what_a_token_says_of_its_times_and_of_whom_it_is_for_is_held_against_it() {
        let signer = ed25519();
        let with = |member: &str, value: Value| {
            let mut claims = claims();
            claims[member] = value;
            signer.heard(&signer.header(), &claims).err()
        };
        let skew = CLOCK_SKEW;
        assert_eq!(with("aud", json!(["https://other.example", US])), None);
        assert_eq!(with("exp", json!(NOW - skew + 1)), None);
        assert_eq!(with("nbf", json!(NOW + skew)), None);
        assert_eq!(with("iat", json!(NOW + skew)), None);
        for aud in [json!("https://other.example"), json!([]), json!(7), json!({"a": US}), Value::Null] {
            assert_eq!(with("aud", aud.clone()), Some(AccessRefusal::WrongAudience), "{aud}");
        }
        assert_eq!(with("exp", json!(NOW - skew)), Some(AccessRefusal::Expired));
        assert_eq!(with("nbf", json!(NOW + skew + 1)), Some(AccessRefusal::NotYetValid));
        assert_eq!(with("iat", json!(NOW + skew + 1)), Some(AccessRefusal::NotYetValid));
        for (member, value) in
            [("exp", json!("later")), ("exp", json!(1.5)), ("nbf", json!([])), ("iss", json!(7))]
        {
            assert_eq!(with(member, value.clone()), Some(AccessRefusal::Malformed), "{member} {value}");
        }
        assert_eq!(with("cnf", json!({"jkt": "abc"})), Some(AccessRefusal::Bound));
        let mut endless = claims();
        endless.as_object_mut().unwrap().remove("exp");
        assert_eq!(signer.heard(&signer.header(), &endless).err(), Some(AccessRefusal::Expired));
    }

    #[test]
    fn what_is_no_token_or_was_altered_is_refused() {
        let signer = ed25519();
        let key = &signer.keys(&Scheme::ALL)[0];
        for none in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "cs_abc", &"a".repeat(MAX_TOKEN_BYTES + 1)] {
            assert_eq!(read(none, key).err(), Some(AccessRefusal::Malformed), "{none}");
        }
        let token = signer.token(&signer.header(), &claims());
        let (signed, _) = token.rsplit_once('.').unwrap();
        for other in [format!("{signed}."), format!("{signed}.AAAA")] {
            assert_eq!(read(&other, key).err(), Some(AccessRefusal::BadSignature));
        }
        assert_eq!(read(&token, &ed25519().keys(&Scheme::ALL)[0]).err(), Some(AccessRefusal::BadSignature));
        let twice = format!(r#"{{"iss":"https://idp.example","iss":"https://b.example","aud":"{US}"}}"#);
        let (header, _) = signed.split_once('.').unwrap();
        let twice = format!("{header}.{}", encoded(twice.as_bytes()));
        let signature = encoded(&(signer.sign)(twice.as_bytes()));
        assert_eq!(read(&format!("{twice}.{signature}"), key).err(), Some(AccessRefusal::Malformed));
    }

    #[test]
    fn a_scope_is_a_whole_word() {
        let signer = ed25519();
        let has = |member: &str, value: Value| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove("scope");
            claims[member] = value;
            signer.heard(&signer.header(), &claims).ok().unwrap().has_scope("act")
        };
        assert!(
            has("scope", json!("read act")) && has("scp", json!("act")) && has("scp", json!(["read", "act"]))
        );
        for (member, value) in [
            ("scope", json!("action")),
            ("scope", json!("")),
            ("scp", json!(["read act"])),
            ("roles", json!(["act"])),
        ] {
            assert!(!has(member, value.clone()), "{member} {value}");
        }
    }
}
