use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{Document, Error, Failure, Json, Stage, canonical};

/// 32 secret bytes that keep a committed value from being guessed.
pub type Salt = [u8; 32];

/// What stands in a receipt instead of a value: `c:` and base64url(SHA-256(salt ‖ JCS(value))).
#[must_use]
pub fn commit(salt: &Salt, value: &Json) -> String {
    commitment(salt, value.as_str().as_bytes())
}

/// The salts of one action, all derived from one random value.
///
/// The salt of a member is HMAC-SHA256(action salt, label), where the label tells the member from every other of
/// the action, usually its path. So an action needs one piece of randomness; a disclosed salt says nothing about
/// the others; and deleting the action salt, with the values, erases them all.
pub struct Salts(hmac::Key);

impl Salts {
    /// Salts that derive from 32 random bytes, which are to be used for one action only.
    #[must_use]
    pub fn new(action_salt: &Salt) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, action_salt))
    }

    /// The salt of one member.
    #[must_use]
    pub fn salt(&self, label: &str) -> Salt {
        let tag = hmac::sign(&self.0, label.as_bytes());
        let mut salt = [0; 32];
        salt.copy_from_slice(tag.as_ref());
        salt
    }

    /// The value's commitment under the salt of that label.
    #[must_use]
    pub fn commit(&self, label: &str, value: &Json) -> String {
        commit(&self.salt(label), value)
    }

    /// The object with every member replaced by its commitment unless `is_public` says that it may be seen. The
    /// label of a member is `prefix`, a slash and its name.
    ///
    /// # Errors
    /// As [`Json::canonical`] for the members' values.
    pub fn conceal(
        &self,
        prefix: &str,
        members: &Map<String, Value>,
        is_public: impl Fn(&str) -> bool,
    ) -> Result<Json, Error> {
        let concealed = members.iter().map(|(name, value)| {
            let value = Json::canonical(value)?;
            if is_public(name) {
                return Ok((name.as_str(), value));
            }
            Ok((name.as_str(), Json::string(&self.commit(&label(prefix, name), &value))))
        });
        Json::object(&concealed.collect::<Result<Vec<_>, Error>>()?)
    }
}

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salts(…)")
    }
}

/// The label of a member: `prefix`, a slash and the name, escaped as in a JSON pointer.
#[must_use]
pub fn label(prefix: &str, name: &str) -> String {
    let mut label = String::with_capacity(prefix.len() + 1 + name.len());
    label.push_str(prefix);
    label.push('/');
    for part in name.split_inclusive(['~', '/']) {
        match (part.strip_suffix('~'), part.strip_suffix('/')) {
            (Some(part), _) => label.extend([part, "~0"]),
            (_, Some(part)) => label.extend([part, "~1"]),
            (None, None) => label.push_str(part),
        }
    }
    label
}

/// What a commitment hides, handed beside the receipt to whoever may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosure {
    /// The receipt in which the commitment stands.
    pub receipt_id: String,
    /// The entry in which it stands; none for the receipt itself.
    pub stage: Option<Stage>,
    /// JSON pointer from the entry, or from the receipt, to the commitment, such as `/input/recipient`.
    pub path: String,
    /// The salt.
    pub salt: Salt,
    /// The value.
    pub value: Json,
}

impl Disclosure {
    /// The JSON form: `{receiptId, stage, path, salt, value}`, the salt in unpadded base64url.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!(
            r#"{{"path":{},"receiptId":{},"salt":"{}","stage":{},"value":{}}}"#,
            Json::string(&self.path),
            Json::string(&self.receipt_id),
            BASE64_URL_SAFE_NO_PAD.encode(self.salt),
            self.stage.map_or("null".to_owned(), |stage| format!("\"{stage}\"")),
            self.value,
        )
    }

    /// Does the receipt hold the commitment that this opens?
    ///
    /// # Errors
    /// A [`Failure`] at the entry, saying that there is no commitment at the path, or that it hides another value.
    pub fn check(&self, document: &Document<'_>) -> Result<(), Failure> {
        let entry = document.entries.iter().enumerate().find(|(_, entry)| Some(entry.stage) == self.stage);
        let (text, failure): (&str, &dyn Fn(String) -> Failure) = match (self.stage, entry) {
            (None, _) => (document.text, &Failure::document),
            (Some(stage), Some((index, entry))) => {
                (entry.text, &move |why| Failure::entry(index, Some(stage), why))
            }
            (Some(stage), None) => {
                return Err(Failure::document(format!("no entry `{stage}` for `{}`", self.path)));
            }
        };
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let held = value.pointer(&self.path).and_then(Value::as_str).filter(|text| text.starts_with(PREFIX));
        match held {
            Some(held) if held == commit(&self.salt, &self.value) => Ok(()),
            Some(_) => {
                Err(failure(format!("disclosed value does not fit the commitment at `{}`", self.path)))
            }
            None => Err(failure(format!("no commitment at `{}`", self.path))),
        }
    }
}

/// Disclosures by receipt.
#[derive(Debug, Clone, Default)]
pub struct Disclosures(BTreeMap<String, Vec<Disclosure>>);

impl Disclosures {
    pub(crate) const NONE: Self = Self(BTreeMap::new());

    /// Reads a JSON array of disclosures, or one disclosure per line.
    ///
    /// # Errors
    /// [`Error::Disclosures`] if one is not `{receiptId, stage, path, salt, value}`, [`Error::Json`] if the text is
    /// not JSON or has duplicate members.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut all = Self::default();
        if text.trim_ascii_start().starts_with(b"[") {
            all.read(&canonical::canonicalise(text)?)?;
        } else {
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
                let one = canonical::canonicalise(line)?;
                all.read(&[&b"["[..], &one, &b"]"[..]].concat())?;
            }
        }
        Ok(all)
    }

    /// Those that belong to a receipt.
    #[must_use]
    pub fn of(&self, receipt_id: &str) -> &[Disclosure] {
        self.0.get(receipt_id).map_or(&[], Vec::as_slice)
    }

    fn read(&mut self, array: &[u8]) -> Result<(), Error> {
        let raw: Vec<Raw> =
            serde_json::from_slice(array).map_err(|error| Error::Disclosures(error.to_string()))?;
        for raw in raw {
            let disclosure = raw.parse()?;
            self.0.entry(disclosure.receipt_id.clone()).or_default().push(disclosure);
        }
        Ok(())
    }
}

impl FromIterator<Disclosure> for Disclosures {
    fn from_iter<I: IntoIterator<Item = Disclosure>>(disclosures: I) -> Self {
        let mut all = Self::default();
        for disclosure in disclosures {
            all.0.entry(disclosure.receipt_id.clone()).or_default().push(disclosure);
        }
        all
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    receipt_id: String,
    stage: Option<String>,
    path: String,
    salt: String,
    #[serde(deserialize_with = "present")]
    value: Value,
}

/// A disclosed `null` is a value; a missing member is not.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Value::deserialize(deserializer)
}

impl Raw {
    fn parse(self) -> Result<Disclosure, Error> {
        let stage = match &self.stage {
            Some(name) => Some(
                Stage::from_name(name)
                    .ok_or_else(|| Error::Disclosures(format!("unknown stage `{name}`")))?,
            ),
            None => None,
        };
        let salt = BASE64_URL_SAFE_NO_PAD.decode(&self.salt).ok().and_then(|salt| salt.try_into().ok());
        let salt =
            salt.ok_or_else(|| Error::Disclosures("a salt is not base64url of 32 bytes".to_owned()))?;
        Ok(Disclosure {
            receipt_id: self.receipt_id,
            stage,
            path: self.path,
            salt,
            value: Json::canonical(&self.value)?,
        })
    }
}

/// Has the text the form of a commitment?
pub(crate) fn is_commitment(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(is_digest)
}

/// Is the text unpadded base64url of 32 bytes?
pub(crate) fn is_digest(text: &str) -> bool {
    BASE64_URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 32)
}

fn commitment(salt: &Salt, value: &[u8]) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update(value).finalize();
    let mut text = String::with_capacity(PREFIX.len() + 43);
    text.push_str(PREFIX);
    BASE64_URL_SAFE_NO_PAD.encode_string(digest, &mut text);
    text
}

const PREFIX: &str = "c:";
