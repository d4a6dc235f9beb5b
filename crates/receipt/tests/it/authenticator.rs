//! A passkey in software: what a browser and an authenticator make of a challenge, right or deliberately wrong.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_receipt as receipt;
use receipt::approval::{Approver, Assertion, Enrolment, RelyingParty};
use receipt::{SigningKey, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const RP_ID: &str = "gateway.example";
pub(crate) const ORIGIN: &str = "https://gateway.example";
/// UP, UV, BE and BS: a passkey that is kept in several places.
pub(crate) const FLAGS: u8 = 0b0001_1101;

pub(crate) struct Authenticator {
    pair: EcdsaKeyPair,
    pub(crate) id: Vec<u8>,
}

/// What is signed over, while it can still be changed.
pub(crate) struct Making {
    pub(crate) client: Value,
    pub(crate) data: Vec<u8>,
}

impl Authenticator {
    /// The passkey of the golden files.
    pub(crate) fn golden() -> Self {
        let hex = include_str!("../golden/test-passkey.pkcs8.hex").trim();
        Self::of(&hex::decode(hex).unwrap(), b"credential-of-alice")
    }

    pub(crate) fn another() -> Self {
        Self::of(&SigningKey::generate().unwrap().to_pkcs8().unwrap(), b"credential-of-bob")
    }

    fn of(pkcs8: &[u8], id: &[u8]) -> Self {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).unwrap();
        Self { pair, id: id.to_vec() }
    }

    pub(crate) fn public_key(&self) -> VerifyingKey {
        VerifyingKey::from_point(self.pair.public_key().as_ref()).unwrap()
    }

    pub(crate) fn approver(&self, name: &str) -> Approver {
        let (credential_id, public_key) = (self.id.clone(), self.public_key());
        Approver { name: name.to_owned(), credential_id, public_key, party: party() }
    }

    /// Answers `get`.
    pub(crate) fn get(&self, challenge: &[u8]) -> Assertion {
        self.get_with(challenge, |_| {})
    }

    /// The same, with something changed before it is signed.
    pub(crate) fn get_with(&self, challenge: &[u8], change: impl FnOnce(&mut Making)) -> Assertion {
        let mut making = Making { client: client("webauthn.get", challenge), data: data(FLAGS) };
        change(&mut making);
        let client = serde_json::to_vec(&making.client).unwrap();
        self.get_raw(making.data, client)
    }

    pub(crate) fn get_raw(&self, authenticator_data: Vec<u8>, client_data_json: Vec<u8>) -> Assertion {
        let signature = self.sign(&authenticator_data, &client_data_json);
        Assertion { credential_id: self.id.clone(), authenticator_data, client_data_json, signature }
    }

    /// Answers `create`, attesting nothing, with something changed before.
    pub(crate) fn create_with(&self, challenge: &[u8], change: impl FnOnce(&mut Making)) -> Enrolment {
        let mut making =
            Making { client: client("webauthn.create", challenge), data: self.attested_data(&self.cose()) };
        change(&mut making);
        let attestation_object = attestation_object("none", &[0xa0], &making.data);
        Enrolment { attestation_object, client_data_json: serde_json::to_vec(&making.client).unwrap() }
    }

    /// Answers `create` with an attestation of its own, signed by itself or not.
    pub(crate) fn create_packed(&self, challenge: &[u8], honest: bool) -> Enrolment {
        let client_data_json = serde_json::to_vec(&client("webauthn.create", challenge)).unwrap();
        let data = self.attested_data(&self.cose());
        let signature = self.sign(if honest { &data } else { b"other" }, &client_data_json);
        let statement =
            [&b"\xa2\x63alg\x26\x63sig\x58"[..], &[u8::try_from(signature.len()).unwrap()], &signature]
                .concat();
        Enrolment { attestation_object: attestation_object("packed", &statement, &data), client_data_json }
    }

    pub(crate) fn attested_data(&self, cose: &[u8]) -> Vec<u8> {
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        [&data(FLAGS | 1 << 6)[..], &[0; 16], &length, &self.id, cose].concat()
    }

    pub(crate) fn cose(&self) -> Vec<u8> {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (&point[1..33], &point[33..]);
        [&b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20"[..], x, b"\x22\x58\x20", y].concat()
    }

    fn sign(&self, authenticator_data: &[u8], client_data_json: &[u8]) -> Vec<u8> {
        let message = [authenticator_data, &Sha256::digest(client_data_json)].concat();
        self.pair.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec()
    }
}

pub(crate) fn party() -> RelyingParty {
    let origins = vec!["https://approvals.example".to_owned(), ORIGIN.to_owned()];
    RelyingParty { id: RP_ID.to_owned(), origins }
}

/// rpIdHash, flags, counter.
pub(crate) fn data(flags: u8) -> Vec<u8> {
    [&Sha256::digest(RP_ID)[..], &[flags], &[0, 0, 0, 7]].concat()
}

pub(crate) fn client(ceremony: &str, challenge: &[u8]) -> Value {
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(challenge);
    json!({"type": ceremony, "challenge": challenge, "origin": ORIGIN, "crossOrigin": false})
}

pub(crate) fn attestation_object(format: &str, statement: &[u8], data: &[u8]) -> Vec<u8> {
    let head = [0x60 | u8::try_from(format.len()).unwrap()];
    [
        &b"\xa3\x63fmt"[..],
        &head,
        format.as_bytes(),
        b"\x67attStmt",
        statement,
        b"\x68authData",
        &length_of(data),
        data,
    ]
    .concat()
}

/// The head of a CBOR byte string of 24 bytes or more.
pub(crate) fn length_of(bytes: &[u8]) -> Vec<u8> {
    match u8::try_from(bytes.len()) {
        Ok(length) => vec![0x58, length],
        Err(_) => [&[0x59][..], &u16::try_from(bytes.len()).unwrap().to_be_bytes()].concat(),
    }
}
