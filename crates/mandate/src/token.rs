//! The mandate as a token: JWS compact serialisation, made and verified here.
//!
//! Written by hand over the signature library because a mandate needs a small and strict corner of JOSE: one type,
//! the key's own algorithm, three header members, no key material from the token, and a strict reading of base64url
//! and JSON, so that a token has one meaning.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::refusal::malformed;
use crate::{Claims, KeyError, Mandate, Refusal, SigningKey, VerifyingKey};

/// No token longer than this is looked at.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The only `typ` that is a mandate.
const TYPE: &str = "mandate+jwt";

/// How far an issuer's clock may run ahead of ours, in seconds.
const CLOCK_SKEW: i64 = 30;

/// Where the keys of principals are found. The implementor binds each key to a tenant and an issuer, and answers
/// only for the tenant of the caller: a key that signs for one tenant must never verify for another.
pub trait KeyLookup {
    /// The key registered for `issuer` under `kid`, or the issuer's only key when the token names none.
    fn key(&self, issuer: &str, kid: Option<&str>) -> Option<VerifyingKey>;
}

/// Signs a mandate. The claims are understood first, so nothing is issued that would be refused when used.
///
/// # Errors
/// The refusal that the claims themselves would meet, or that the key could not sign.
pub fn issue(claims: &Claims, key: &SigningKey) -> Result<String, Refusal> {
    Mandate::of(claims)?;
    let header = format!(
        r#"{{"alg":"{}","kid":"{}","typ":"{TYPE}"}}"#,
        key.verifying().algorithm().as_str(),
        key.verifying().kid()
    );
    let payload = serde_json::to_vec(claims).map_err(|_| malformed("claims cannot be written"))?;
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = key.sign(token.as_bytes()).map_err(|error: KeyError| malformed(error.to_string()))?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    match token.len() > MAX_TOKEN_BYTES {
        true => Err(Refusal::TooLarge { limit: MAX_TOKEN_BYTES }),
        false => Ok(token),
    }
}

/// A token that was verified: what it says, and with which key it was signed.
#[derive(Debug, Clone)]
pub struct Verified {
    /// As they travelled.
    pub claims: Claims,
    /// What they mean.
    pub mandate: Mandate,
    /// The key's RFC 7638 thumbprint.
    pub kid: String,
}

/// Verifies a token issued for `audience` at `now_s` (Unix seconds). Whether it carries a given action, and whether
/// it is the caller's, is asked of the [`Mandate`].
///
/// # Errors
/// The first thing that is wrong, form before signature before claims.
pub fn verify(token: &str, keys: &impl KeyLookup, audience: &str, now_s: i64) -> Result<Verified, Refusal> {
    let parts = Parts::of(token)?;
    let header = Header::parse(&parts.header()?, TYPE)?;
    let claims = claims(&parts.payload()?)?;
    let signature = parts.signature()?;

    let key = keys
        .key(&claims.iss, header.kid.as_deref())
        .ok_or_else(|| Refusal::UnknownKey { issuer: claims.iss.clone() })?;
    if header.alg != key.algorithm().as_str() {
        return Err(Refusal::WrongAlgorithm);
    }
    if !key.verifies(parts.signed.as_bytes(), &signature) {
        return Err(Refusal::BadSignature);
    }

    let mandate = Mandate::of(&claims)?;
    if mandate.audience != audience {
        return Err(Refusal::WrongAudience);
    }
    if mandate.issued_at > now_s.saturating_add(CLOCK_SKEW) {
        return Err(Refusal::NotYetValid { from: mandate.issued_at });
    }
    if now_s >= mandate.expires_at {
        return Err(Refusal::Expired { at: mandate.expires_at });
    }
    Ok(Verified { claims, mandate, kid: key.kid().to_owned() })
}

/// A token taken apart, and not yet looked into.
pub(crate) struct Parts<'a> {
    /// What the signature is over.
    pub(crate) signed: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(token: &'a str) -> Result<Parts<'a>, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLarge { limit: MAX_TOKEN_BYTES });
        }
        let parts = token.rsplit_once('.').and_then(|(signed, signature)| {
            let (header, payload) = signed.split_once('.')?;
            Some(Parts { signed, header, payload, signature })
        });
        parts.ok_or_else(|| malformed("it must have three parts"))
    }

    pub(crate) fn header(&self) -> Result<Vec<u8>, Refusal> {
        decode("header", self.header)
    }

    pub(crate) fn payload(&self) -> Result<Vec<u8>, Refusal> {
        decode("payload", self.payload)
    }

    pub(crate) fn signature(&self) -> Result<Vec<u8>, Refusal> {
        decode("signature", self.signature)
    }
}

pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
}

impl Header {
    /// The header of a token of this type.
    pub(crate) fn parse(bytes: &[u8], expected: &str) -> Result<Header, Refusal> {
        let header = Header::read(bytes, &[])?;
        match header.typ.as_deref() == Some(expected) {
            true => Ok(header),
            false => Err(malformed(format!("header member `typ` must be `{expected}`"))),
        }
    }

    /// A list of what is allowed, so `jku`, `x5u`, `jwk` and `crit` are refused along with whatever comes next.
    /// `unread` is let through beside it and says nothing to us.
    pub(crate) fn read(bytes: &[u8], unread: &[&str]) -> Result<Header, Refusal> {
        let (mut alg, mut kid, mut typ) = (None, None, None);
        for (name, value) in object("header", bytes)? {
            let slot = match name.as_str() {
                "alg" => &mut alg,
                "kid" => &mut kid,
                "typ" => &mut typ,
                other if unread.contains(&other) => continue,
                _ => return Err(malformed(format!("header member `{name}` is not allowed"))),
            };
            let Value::String(text) = value else {
                return Err(malformed(format!("header member `{name}` must be a string")));
            };
            *slot = Some(text);
        }
        Ok(Header { alg: alg.ok_or_else(|| malformed("header member `alg` is missing"))?, kid, typ })
    }
}

fn claims(bytes: &[u8]) -> Result<Claims, Refusal> {
    let members = object("payload", bytes)?;
    action::json::read(&Value::Object(members)).map_err(|error| malformed(format!("claims: {error}")))
}

pub(crate) fn object(part: &str, bytes: &[u8]) -> Result<serde_json::Map<String, Value>, Refusal> {
    match action::json::parse(bytes) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(malformed(format!("{part} must be a JSON object"))),
        Err(error) => Err(malformed(format!("{part}: {error}"))),
    }
}

/// Whether a claim `aud` names one of these.
pub(crate) fn is_for(claim: &Value, audience: impl Fn(&str) -> bool) -> bool {
    match claim {
        Value::String(one) => audience(one),
        Value::Array(several) => several.iter().any(|one| one.as_str().is_some_and(&audience)),
        _ => false,
    }
}

/// Strict base64url: no padding, no other alphabet, no bits left over.
fn decode(part: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed(format!("{part} is not base64url")))
}
