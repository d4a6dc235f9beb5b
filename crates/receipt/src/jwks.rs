use std::fmt;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{Error, Timestamp, VerifyingKey, canonical};

/// The keys an issuer has ever signed with, and what became of them.
///
/// INVARIANT (key set): every key's `kid` is its thumbprint, no key stands twice, none has private members.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwks {
    keys: Vec<Jwk>,
    text: Vec<u8>,
    digest: JwksDigest,
}

/// SHA-256 of the canonical JSON of a whole key set, statuses and all; written `sha256:` and lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct JwksDigest([u8; 32]);

/// One public key and the time in which receipts may bear its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwk {
    key: VerifyingKey,
    active_from: Timestamp,
    active_through: Option<Timestamp>,
    compromised_at: Option<Timestamp>,
}

/// What may be done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// It signs.
    Active,
    /// It signs no more; what it signed stays valid.
    VerifyOnly,
    /// Someone else may hold it.
    Compromised,
}

impl Jwk {
    /// A key that signs from that moment on.
    #[must_use]
    pub fn active(key: VerifyingKey, from: Timestamp) -> Self {
        Self { key, active_from: from, active_through: None, compromised_at: None }
    }

    /// The same key, retired: it signed nothing after `through`.
    #[must_use]
    pub fn retired(self, through: Timestamp) -> Self {
        Self { active_through: Some(through), ..self }
    }

    /// The same key, which someone else may hold since `at`.
    #[must_use]
    pub fn compromised(self, at: Timestamp) -> Self {
        Self { compromised_at: Some(at), ..self }
    }

    /// The key itself.
    #[must_use]
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The key's id, its thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.key.kid()
    }

    /// What may be done with the key.
    #[must_use]
    pub fn status(&self) -> KeyStatus {
        match (self.compromised_at, self.active_through) {
            (Some(_), _) => KeyStatus::Compromised,
            (None, Some(_)) => KeyStatus::VerifyOnly,
            (None, None) => KeyStatus::Active,
        }
    }

    /// First moment in which it signed.
    #[must_use]
    pub fn active_from(&self) -> Timestamp {
        self.active_from
    }

    /// Last moment in which it signed.
    #[must_use]
    pub fn active_through(&self) -> Option<Timestamp> {
        self.active_through
    }

    /// Since when someone else may hold it.
    #[must_use]
    pub fn compromised_at(&self) -> Option<Timestamp> {
        self.compromised_at
    }

    /// The members of this key in JCS order; unknown times are `null`.
    fn write(&self, out: &mut Vec<u8>) {
        let time = |at: Option<Timestamp>| at.map_or("null".to_owned(), |at| format!("\"{at}\""));
        let text = format!(
            concat!(
                r#"{{"alg":"ES256","crv":"P-256","ep_active_from":"{}","ep_active_through":{},"#,
                r#""ep_compromised_at":{},"ep_status":"{}","kid":"{}","kty":"EC","use":"sig","x":"{}","y":"{}"}}"#
            ),
            self.active_from,
            time(self.active_through),
            time(self.compromised_at),
            self.status().as_str(),
            self.kid(),
            self.key.x(),
            self.key.y(),
        );
        out.extend_from_slice(text.as_bytes());
    }
}

impl KeyStatus {
    /// The spelling in `ep_status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::VerifyOnly => "verify-only",
            Self::Compromised => "compromised",
        }
    }
}

impl Jwks {
    /// A set of these keys, in this order.
    ///
    /// # Errors
    /// [`Error::Jwks`] if a key stands twice.
    pub fn new(keys: Vec<Jwk>) -> Result<Self, Error> {
        let mut text = b"{\"keys\":[".to_vec();
        for (index, key) in keys.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            key.write(&mut text);
        }
        text.extend_from_slice(b"]}");
        Self::checked(keys, text)
    }

    /// Reads a published set. Members this format does not know are allowed and count in the digest.
    ///
    /// # Errors
    /// [`Error::Jwks`] if a key is not a P-256 verification key with times and a fitting status, has private
    /// members, a `kid` that is not its thumbprint, or stands twice; [`Error::Json`] if the text is not JSON or has
    /// duplicate members.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let text = canonical::canonicalise(text)?;
        let set: RawSet = serde_json::from_slice(&text).map_err(refused)?;
        let keys = set
            .keys
            .into_iter()
            .enumerate()
            .map(|(index, key)| parse_key(key).map_err(|why| Error::Jwks(format!("key {index}: {why}"))));
        Self::checked(keys.collect::<Result<_, _>>()?, text)
    }

    /// The canonical document, to be published.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The keys, as published.
    #[must_use]
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }

    /// The key of that id.
    #[must_use]
    pub fn key(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid() == kid)
    }

    /// What issuer pins name.
    #[must_use]
    pub fn digest(&self) -> JwksDigest {
        self.digest
    }

    fn checked(keys: Vec<Jwk>, text: Vec<u8>) -> Result<Self, Error> {
        for (index, key) in keys.iter().enumerate() {
            if keys[..index].iter().any(|earlier| earlier.kid() == key.kid()) {
                return Err(Error::Jwks(format!("key `{}` stands twice", key.kid())));
            }
        }
        debug_assert!(canonical::is_canonical(&text));
        let digest = JwksDigest(Sha256::digest(&text).into());
        Ok(Self { keys, text, digest })
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

impl JwksDigest {
    /// Reads `sha256:` and 64 lower-case hex digits.
    ///
    /// # Errors
    /// [`Error::Pin`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let lower = |hex: &&str| hex.len() == 64 && !hex.bytes().any(|b| b.is_ascii_uppercase());
        let mut digest = [0; 32];
        text.strip_prefix("sha256:")
            .filter(lower)
            .and_then(|hex| hex::decode_to_slice(hex, &mut digest).ok())
            .ok_or_else(|| Error::Pin(format!("`{text}` is not `sha256:` and 64 lower-case hex digits")))?;
        Ok(Self(digest))
    }
}

impl fmt::Display for JwksDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for JwksDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    crv: String,
    x: String,
    y: String,
    kid: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    ep_status: String,
    ep_active_from: String,
    ep_active_through: Option<String>,
    ep_compromised_at: Option<String>,
}

/// Members of RFC 7518 that only private and symmetric keys have.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

fn parse_key(members: serde_json::Map<String, serde_json::Value>) -> Result<Jwk, String> {
    if let Some(name) = PRIVATE.into_iter().find(|name| members.contains_key(*name)) {
        return Err(format!(
            "member `{name}` belongs to a private key; do not publish it, and replace the key"
        ));
    }
    let raw: RawKey = serde_json::from_value(members.into()).map_err(|error| error.to_string())?;
    must_be("kty", Some(&raw.kty), "EC")?;
    must_be("crv", Some(&raw.crv), "P-256")?;
    must_be("alg", raw.alg.as_deref(), "ES256")?;
    must_be("use", raw.purpose.as_deref(), "sig")?;
    let key = VerifyingKey::from_coordinates(&raw.x, &raw.y).map_err(|error| error.to_string())?;
    if key.kid() != raw.kid {
        return Err(format!("`kid` is `{}`, but the thumbprint is `{}`", raw.kid, key.kid()));
    }
    let time = |text: &String| Timestamp::parse(text).map_err(|error| error.to_string());
    let jwk = Jwk {
        key,
        active_from: time(&raw.ep_active_from)?,
        active_through: raw.ep_active_through.as_ref().map(time).transpose()?,
        compromised_at: raw.ep_compromised_at.as_ref().map(time).transpose()?,
    };
    if jwk.active_through.is_some_and(|through| through < jwk.active_from) {
        return Err("`ep_active_through` is before `ep_active_from`".to_owned());
    }
    // A status that the times do not bear out could be read either way, so it is not read at all.
    if jwk.status().as_str() != raw.ep_status {
        return Err(format!(
            "`ep_status` is `{}`, but the times say `{}`",
            raw.ep_status,
            jwk.status().as_str()
        ));
    }
    Ok(jwk)
}

fn must_be(name: &str, value: Option<&str>, expected: &str) -> Result<(), String> {
    match value {
        Some(value) if value != expected => Err(format!("`{name}` is `{value}`, not `{expected}`")),
        _ => Ok(()),
    }
}

fn refused(error: serde_json::Error) -> Error {
    Error::Jwks(error.to_string())
}
