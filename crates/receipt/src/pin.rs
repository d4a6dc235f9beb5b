use serde::Deserialize;

use crate::{Error, Json, Jwks, JwksDigest};

/// What a verifier trusts beforehand: which key sets are the issuer's.
///
/// A receipt proves only that somebody signed it; the pin says who. It is got from the issuer by a way that the
/// bearer of receipts cannot touch. A key set that comes with the receipts is a hint: it is used if the pin names
/// its digest, and not otherwise.
///
/// The digest covers statuses as well as keys, so a bearer cannot hide that a key was compromised. It follows that
/// **rotation and compromise change the digest**: the issuer publishes the new digest where it published the first,
/// and verifiers add it to their pin file, which may list several, or replace the old one in it. Old receipts
/// verify against the new set, since a set holds every key ever used; keep an older digest only to go on accepting
/// the older set, which does not know of later compromises.
///
/// Two forms are read: a bare digest, `sha256:<64 hex digits>`, or a file,
/// `{"issuer":"https://…","jwks":["sha256:…"]}`, which pins the name in `metadata.issuer` as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    issuer: Option<String>,
    digests: Vec<JwksDigest>,
}

impl Pin {
    /// A pin for an issuer and its present key set.
    #[must_use]
    pub fn new(issuer: &str, jwks: &Jwks) -> Self {
        Self { issuer: Some(issuer.to_owned()), digests: vec![jwks.digest()] }
    }

    /// Reads either form.
    ///
    /// # Errors
    /// [`Error::Pin`] if it is neither, or names no digest.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Ok(Self { issuer: None, digests: vec![JwksDigest::parse(text)?] });
        }
        let raw: RawPin = serde_json::from_str(text).map_err(|error| Error::Pin(error.to_string()))?;
        let digests = raw.jwks.iter().map(|text| JwksDigest::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if digests.is_empty() {
            return Err(Error::Pin("`jwks` lists no digest".to_owned()));
        }
        Ok(Self { issuer: Some(raw.issuer), digests })
    }

    /// The same pin, trusting another key set too.
    #[must_use]
    pub fn and(mut self, jwks: &Jwks) -> Self {
        self.digests.push(jwks.digest());
        self
    }

    /// The file form, or the bare digest where no name is pinned.
    #[must_use]
    pub fn to_text(&self) -> String {
        let digests: Vec<_> = self.digests.iter().map(|digest| format!("\"{digest}\"")).collect();
        match &self.issuer {
            Some(issuer) => {
                format!(r#"{{"issuer":{},"jwks":[{}]}}"#, Json::string(issuer), digests.join(","))
            }
            None => digests.join("").trim_matches('"').to_owned(),
        }
    }

    /// The issuer's name, if it is pinned.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Is this one of the issuer's key sets?
    #[must_use]
    pub fn trusts(&self, jwks: &Jwks) -> bool {
        self.digests.contains(&jwks.digest())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPin {
    issuer: String,
    jwks: Vec<String>,
}
