use serde::{Deserialize, Serialize};

use super::RelyingParty;
use super::spelling::{base64url, jwk};
use crate::{Error, Json, VerifyingKey, canonical};

/// A person who may approve, and the passkey they do it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// The name under which the person is enrolled; envelopes commit to it.
    pub name: String,
    /// The credential's id.
    pub credential_id: Vec<u8>,
    /// The credential's key.
    pub public_key: VerifyingKey,
    /// The site that it signs on.
    pub party: RelyingParty,
}

/// Whose approvals a verifier believes. The empty set believes nobody's and refuses nobody's.
///
/// Like an issuer's pin it is got by a way that neither the gateway nor the bearer of receipts can touch, best from
/// the people themselves: then neither the gateway's database nor its key can forge their consent. The file is a JSON
/// array of `{approver, credential_id, public_key, rp_id, origins}`, `public_key` being a JWK of the members `crv`,
/// `kty`, `x` and `y`. Someone with two passkeys stands in it twice.
///
/// INVARIANT (approvers): no credential stands twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approvers(Vec<Approver>);

impl Approvers {
    pub(crate) const NOBODY: Self = Self(Vec::new());

    /// These people.
    ///
    /// # Errors
    /// [`Error::Approvers`] if a credential stands twice.
    pub fn new(people: Vec<Approver>) -> Result<Self, Error> {
        for (index, one) in people.iter().enumerate() {
            if people[..index].iter().any(|other| other.credential_id == one.credential_id) {
                return Err(Error::Approvers(format!("item {index}: its credential stands before")));
            }
        }
        Ok(Self(people))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Approvers`] if it is not that array or lists nobody, [`Error::Json`] if it is not JSON that all readers
    /// read alike.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let text = canonical::canonicalise(text)?;
        let refused = |error: serde_json::Error| Error::Approvers(error.to_string());
        let items: Vec<Members> = serde_json::from_slice(&text).map_err(refused)?;
        if items.is_empty() {
            return Err(Error::Approvers("it lists nobody".to_owned()));
        }
        Self::new(items.into_iter().map(Approver::from).collect())
    }

    /// The file, canonical.
    ///
    /// # Errors
    /// [`Error::Json`] if it cannot be serialised.
    pub fn to_json(&self) -> Result<Json, Error> {
        Json::of(&self.0.iter().map(Members::from).collect::<Vec<_>>())
    }

    /// Is nobody pinned?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose credential is this?
    #[must_use]
    pub fn holder(&self, credential_id: &[u8]) -> Option<&Approver> {
        self.0.iter().find(|one| one.credential_id == credential_id)
    }
}

/// One item of the file, members in JCS order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    approver: String,
    #[serde(with = "base64url")]
    credential_id: Vec<u8>,
    origins: Vec<String>,
    #[serde(with = "jwk")]
    public_key: VerifyingKey,
    rp_id: String,
}

impl From<Members> for Approver {
    fn from(members: Members) -> Self {
        let Members { approver, credential_id, origins, public_key, rp_id } = members;
        Self { name: approver, credential_id, public_key, party: RelyingParty { id: rp_id, origins } }
    }
}

impl From<&Approver> for Members {
    fn from(one: &Approver) -> Self {
        let Approver { name, credential_id, public_key, party: RelyingParty { id, origins } } = one.clone();
        Self { approver: name, credential_id, origins, public_key, rp_id: id }
    }
}
