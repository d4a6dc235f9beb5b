use super::assertion::signed_bytes;
use super::authenticator_data::AuthenticatorData;
use super::cbor::Cbor;
use super::{Refusal, RelyingParty, client_data};
use crate::VerifyingKey;

/// What WebAuthn's `create` returns: a new credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The authenticator's answer.
    pub attestation_object: Vec<u8>,
    /// The browser's word on what was asked and where, byte for byte.
    pub client_data_json: Vec<u8>,
}

/// A credential: its id and the public key that its signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The id, chosen by the authenticator.
    pub id: Vec<u8>,
    /// The key.
    pub public_key: VerifyingKey,
}

impl Enrolment {
    /// The credential, if it was made for this challenge on this site by a person present and verified.
    ///
    /// Accepted is no attestation, and an authenticator's attestation of itself, which some send unasked and which
    /// says no more than that it holds the key.
    ///
    /// # Errors
    /// A [`Refusal`] saying what is not so.
    pub fn verify(&self, challenge: &[u8], party: &RelyingParty) -> Result<Credential, Refusal> {
        client_data::check(&self.client_data_json, "webauthn.create", challenge, Some(party))?;
        let object = AttestationObject::parse(&self.attestation_object).ok_or(Refusal::AttestationObject)?;
        let data = AuthenticatorData::parse(object.authenticator_data)?;
        data.check(Some(party))?;
        let credential = data.credential.ok_or(Refusal::NoCredential)?;
        let signed = signed_bytes(object.authenticator_data, &self.client_data_json);
        match (object.format, object.statement) {
            ("none", Statement::Empty) => Ok(credential),
            ("packed", Statement::Own { signature }) => {
                let fits = credential.public_key.verifies_der(&signed, signature);
                if fits { Ok(credential) } else { Err(Refusal::Signature) }
            }
            _ => Err(Refusal::Attestation),
        }
    }
}

struct AttestationObject<'a> {
    format: &'a str,
    statement: Statement<'a>,
    authenticator_data: &'a [u8],
}

enum Statement<'a> {
    /// None.
    Empty,
    /// ES256 by the credential itself.
    Own { signature: &'a [u8] },
    /// Of any other kind.
    Other,
}

impl<'a> AttestationObject<'a> {
    /// Reads the three members in any order, each once.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (mut format, mut statement, mut authenticator_data) = (None, None, None);
        let mut cbor = Cbor::new(bytes);
        for _ in 0..cbor.map()? {
            let again = match cbor.text()? {
                "fmt" => format.replace(cbor.text()?).is_some(),
                "attStmt" => statement.replace(Statement::parse(&mut cbor)?).is_some(),
                "authData" => authenticator_data.replace(cbor.bytes()?).is_some(),
                _ => return None,
            };
            if again {
                return None;
            }
        }
        let object = Self { format: format?, statement: statement?, authenticator_data: authenticator_data? };
        cbor.at_end().then_some(object)
    }
}

impl<'a> Statement<'a> {
    fn parse(cbor: &mut Cbor<'a>) -> Option<Self> {
        let found = cbor.clone().own();
        let members = cbor.clone().map()?;
        cbor.skip_map()?;
        Some(match (members, found) {
            (0, _) => Self::Empty,
            (_, Some(signature)) => Self::Own { signature },
            _ => Self::Other,
        })
    }
}

impl<'a> Cbor<'a> {
    /// `{"alg": -7, "sig": h'…'}` and no more.
    fn own(mut self) -> Option<&'a [u8]> {
        let own =
            self.map()? == 2 && self.text()? == "alg" && self.negative()? == ES256 && self.text()? == "sig";
        if own { self.bytes() } else { None }
    }
}

const ES256: i64 = -7;
