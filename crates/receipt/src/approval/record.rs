use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::spelling::{base64url, jwk, text};
use super::{Assertion, Decision, Envelope};
use crate::{Error, Json, Timestamp, VerifyingKey};

/// One approval as it stands in a receipt's `metadata.approvals`.
///
/// INVARIANT (record): `json` is the canonical text of the rest, and the one text for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    json: Json,
    envelope: Envelope,
    at: Timestamp,
    signer: Signer,
}

/// By what the person spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// An API key. Nobody but the gateway can tell that it was used.
    Key {
        /// The key's public id.
        id: String,
    },
    /// A passkey, whose signature anybody can check.
    Passkey {
        /// The signature and what it covers beside the envelope.
        assertion: Assertion,
        /// The key that the gateway says is the credential's.
        public_key: Option<VerifyingKey>,
    },
}

impl Approval {
    /// What was decided, when, and by what.
    ///
    /// # Errors
    /// [`Error::Member`] if the envelope is not as the format has it or a passkey's or key's id is empty.
    pub fn new(envelope: Envelope, at: Timestamp, signer: Signer) -> Result<Self, Error> {
        envelope.to_json()?;
        if signer.id().is_empty() {
            return Err(Error::member("credential_id", "is empty"));
        }
        let json = Json::of(&Members::new(&envelope, at, &signer))?;
        Ok(Self { json, envelope, at, signer })
    }

    /// Reads JSON text; every member must be there and no other.
    ///
    /// # Errors
    /// [`Error::Approval`] if it is not what [`Approval::new`] would write, [`Error::Json`] if it is not JSON that all
    /// readers read alike.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let text = Json::parse(text)?;
        let refused = |why: String| Error::Approval(why);
        let members: Members =
            serde_json::from_str(text.as_str()).map_err(|error| refused(error.to_string()))?;
        let approval = members.parse().map_err(|error| refused(error.to_string()))?;
        // What serde is lenient about shows here: a missing member that could be `null`, a decision that is not the
        // envelope's, a public key beside an API key.
        if approval.json == text {
            Ok(approval)
        } else {
            Err(refused("a member is missing, or contradicts another".to_owned()))
        }
    }

    /// The canonical text.
    #[must_use]
    pub fn json(&self) -> &Json {
        &self.json
    }

    /// What was signed.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// When it reached the gateway.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// By what the person spoke.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }
}

impl Signer {
    /// The member `credential_id`: a passkey's in base64url, or an API key's public id.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Key { id } => id.clone(),
            Self::Passkey { assertion, .. } => BASE64_URL_SAFE_NO_PAD.encode(&assertion.credential_id),
        }
    }
}

/// The document, members in JCS order; what is unknown is `null`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    assertion: Option<Signed>,
    #[serde(with = "text")]
    at: Timestamp,
    credential_id: String,
    decision: Decision,
    envelope: Envelope,
    form: Form,
    #[serde(with = "jwk::or_null")]
    public_key: Option<VerifyingKey>,
}

/// An assertion without the id of its credential, which stands beside it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    #[serde(with = "base64url")]
    authenticator_data: Vec<u8>,
    #[serde(with = "base64url")]
    client_data_json: Vec<u8>,
    #[serde(with = "base64url")]
    signature: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Key,
    Passkey,
}

impl Members {
    fn new(envelope: &Envelope, at: Timestamp, signer: &Signer) -> Self {
        let (form, assertion, public_key) = match signer {
            Signer::Key { .. } => (Form::Key, None, None),
            Signer::Passkey { assertion, public_key } => {
                (Form::Passkey, Some(Signed::from(assertion)), public_key.clone())
            }
        };
        let (decision, envelope) = (envelope.decision, envelope.clone());
        Self { assertion, at, credential_id: signer.id(), decision, envelope, form, public_key }
    }

    fn parse(self) -> Result<Approval, Error> {
        let signer = match (self.form, self.assertion) {
            (Form::Key, None) => Signer::Key { id: self.credential_id },
            (Form::Passkey, Some(signed)) => {
                Signer::Passkey { assertion: signed.parse(&self.credential_id)?, public_key: self.public_key }
            }
            (Form::Key, Some(_)) => return Err(Error::member("assertion", "stands beside an API key")),
            (Form::Passkey, None) => return Err(Error::member("assertion", "is missing for a passkey")),
        };
        Approval::new(self.envelope, self.at, signer)
    }
}

impl From<&Assertion> for Signed {
    fn from(assertion: &Assertion) -> Self {
        let Assertion { authenticator_data, client_data_json, signature, .. } = assertion.clone();
        Self { authenticator_data, client_data_json, signature }
    }
}

impl Signed {
    fn parse(self, credential_id: &str) -> Result<Assertion, Error> {
        let credential_id = BASE64_URL_SAFE_NO_PAD.decode(credential_id);
        let credential_id =
            credential_id.map_err(|_| Error::member("credential_id", "is not unpadded base64url"))?;
        let Self { authenticator_data, client_data_json, signature } = self;
        Ok(Assertion { credential_id, authenticator_data, client_data_json, signature })
    }
}
