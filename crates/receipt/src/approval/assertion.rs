use sha2::{Digest, Sha256};

use super::authenticator_data::AuthenticatorData;
use super::{Refusal, client_data};
use crate::VerifyingKey;

/// What WebAuthn's `get` returns: a credential's signature over a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// The credential that signed.
    pub credential_id: Vec<u8>,
    /// The authenticator's word on who was asked and how.
    pub authenticator_data: Vec<u8>,
    /// The browser's word on what was signed and where, byte for byte.
    pub client_data_json: Vec<u8>,
    /// ES256, in DER.
    pub signature: Vec<u8>,
}

/// The site that credentials are made for and used on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelyingParty {
    /// Its domain, `rpId`.
    pub id: String,
    /// The origins on which people sign, exactly as browsers write them.
    pub origins: Vec<String>,
}

impl Assertion {
    /// Did the holder of this key, present and verified, sign this challenge on this site?
    ///
    /// Which key belongs to `credential_id` is for the caller to know.
    ///
    /// # Errors
    /// A [`Refusal`] saying what is not so.
    pub fn verify(&self, challenge: &[u8], party: &RelyingParty, key: &VerifyingKey) -> Result<(), Refusal> {
        self.check(challenge, Some(party), key)
    }

    /// The same wherever the site was: all that can be said where nobody knows which it should have been.
    pub(super) fn check(
        &self,
        challenge: &[u8],
        party: Option<&RelyingParty>,
        key: &VerifyingKey,
    ) -> Result<(), Refusal> {
        client_data::check(&self.client_data_json, "webauthn.get", challenge, party)?;
        let data = AuthenticatorData::parse(&self.authenticator_data)?;
        data.check(party)?;
        if data.credential.is_some() {
            return Err(Refusal::UnexpectedCredential);
        }
        let signed = signed_bytes(&self.authenticator_data, &self.client_data_json);
        if key.verifies_der(&signed, &self.signature) { Ok(()) } else { Err(Refusal::Signature) }
    }
}

/// What an authenticator signs: its own data and the hash of the browser's.
pub(super) fn signed_bytes(authenticator_data: &[u8], client_data_json: &[u8]) -> Vec<u8> {
    [authenticator_data, &Sha256::digest(client_data_json)].concat()
}
