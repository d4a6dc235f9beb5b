use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::object;
use crate::log::Verifier;
use crate::{Error, Json, Jwks, JwksDigest, canonical};

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
/// `{"issuer":"https://…","jwks":["sha256:…"]}`, which pins the name in `metadata.issuer` as well. The file may name the
/// issuer's logs by their verifier keys, `"logs":["gateway.example/log/default+…+…"]`, without which no proof of inclusion
/// is believed, and witnesses of whom some have to have cosigned, `"witnesses":{"keys":["w.example+…+…"],"need":1}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    issuer: Option<String>,
    digests: Vec<JwksDigest>,
    logs: Vec<Verifier>,
    witnesses: Vec<Verifier>,
    need: usize,
}

impl Pin {
    /// A pin for an issuer and its present key set.
    #[must_use]
    pub fn new(issuer: &str, jwks: &Jwks) -> Self {
        Self { issuer: Some(issuer.to_owned()), ..Self::bare(jwks.digest()) }
    }

    /// Reads either form.
    ///
    /// # Errors
    /// [`Error::Pin`] if it is neither, or names no digest.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Ok(Self::bare(JwksDigest::parse(text)?));
        }
        // As strictly as receipts are read, so that no two readers differ about whom it names.
        let text = canonical::canonicalise(text.as_bytes()).map_err(|error| Error::Pin(error.to_string()))?;
        let raw: RawPin<'_> = object(&text).map_err(Error::Pin)?;
        let digests = raw.jwks.iter().map(|text| JwksDigest::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if digests.is_empty() {
            return Err(Error::Pin("`jwks` lists no digest".to_owned()));
        }
        let logs = keys(&raw.logs, false)?;
        let named =
            raw.witnesses.map(|named| object(named.get().as_bytes())).transpose().map_err(Error::Pin)?;
        let RawWitnesses { keys: witnesses, need } = named.unwrap_or_default();
        let witnesses = keys(&witnesses, true)?;
        if need > witnesses.len() {
            return Err(Error::Pin("`witnesses` needs more than it lists".to_owned()));
        }
        Ok(Self { issuer: Some(raw.issuer), digests, logs, witnesses, need })
    }

    fn bare(digest: JwksDigest) -> Self {
        Self { issuer: None, digests: vec![digest], logs: Vec::new(), witnesses: Vec::new(), need: 0 }
    }

    /// The same pin, trusting another key set too.
    #[must_use]
    pub fn and(mut self, jwks: &Jwks) -> Self {
        self.digests.push(jwks.digest());
        self
    }

    /// The same pin, believing a log of the issuer's too.
    #[must_use]
    pub fn and_log(mut self, log: Verifier) -> Self {
        self.logs.push(log);
        self
    }

    /// The same pin, believing a log only as far as that many of these witnesses cosigned it.
    ///
    /// # Errors
    /// [`Error::Pin`] if there are not as many.
    pub fn witnessed(self, witnesses: Vec<Verifier>, need: usize) -> Result<Self, Error> {
        if need > witnesses.len() {
            return Err(Error::Pin("more witnesses are needed than there are".to_owned()));
        }
        Ok(Self { witnesses, need, ..self })
    }

    /// The file form, or the bare digest where no name is pinned.
    #[must_use]
    pub fn to_text(&self) -> String {
        let digests: Vec<_> = self.digests.iter().map(|digest| format!("\"{digest}\"")).collect();
        let listed = |keys: &[Verifier]| {
            let keys: Vec<_> = keys.iter().map(|key| Json::string(&key.to_string()).to_string()).collect();
            keys.join(",")
        };
        let mut more = String::new();
        if !self.logs.is_empty() {
            more += &format!(r#","logs":[{}]"#, listed(&self.logs));
        }
        if !self.witnesses.is_empty() {
            more += &format!(r#","witnesses":{{"keys":[{}],"need":{}}}"#, listed(&self.witnesses), self.need);
        }
        match &self.issuer {
            Some(issuer) => {
                format!(r#"{{"issuer":{},"jwks":[{}]{more}}}"#, Json::string(issuer), digests.join(","))
            }
            None => digests.join("").trim_matches('"').to_owned(),
        }
    }

    /// The issuer's name, if it is pinned.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// The issuer's logs.
    #[must_use]
    pub fn logs(&self) -> &[Verifier] {
        &self.logs
    }

    /// The witnesses that are believed.
    #[must_use]
    pub fn witnesses(&self) -> &[Verifier] {
        &self.witnesses
    }

    /// How many of them have to have cosigned.
    #[must_use]
    pub fn witnesses_needed(&self) -> usize {
        self.need
    }

    /// Is this one of the issuer's key sets?
    #[must_use]
    pub fn trusts(&self, jwks: &Jwks) -> bool {
        self.digests.contains(&jwks.digest())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPin<'a> {
    issuer: String,
    jwks: Vec<String>,
    #[serde(default)]
    logs: Vec<String>,
    #[serde(borrow)]
    witnesses: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWitnesses {
    keys: Vec<String>,
    need: usize,
}

/// Keys of logs or of witnesses, each name once. No witness counts twice; a log that began anew has the key of the one before.
fn keys(texts: &[String], witnesses: bool) -> Result<Vec<Verifier>, Error> {
    let mut keys: Vec<Verifier> = Vec::new();
    for text in texts {
        let key: Verifier = text.parse().map_err(|error| Error::Pin(format!("`{text}`: {error}")))?;
        if key.is_witness() != witnesses {
            let kind = if witnesses { "a log's, not a witness's" } else { "a witness's, not a log's" };
            return Err(Error::Pin(format!("`{text}` is {kind}")));
        }
        let twice = |other: &Verifier| other.name() == key.name() || witnesses && other.same_key(&key);
        if keys.iter().any(twice) {
            return Err(Error::Pin(format!("`{}`, or its key, stands twice", key.name())));
        }
        keys.push(key);
    }
    Ok(keys)
}
