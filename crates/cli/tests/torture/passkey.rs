//! A passkey in software, honest or not: what a browser and an authenticator make of a challenge.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub(crate) const RP_ID: &str = "gw.example";
pub(crate) const ORIGIN: &str = "https://gw.example";
/// Present, verified, may be backed up, is.
const FLAGS: u8 = 0b0001_1101;
const ATTESTED: u8 = 1 << 6;

pub(crate) struct Passkey {
    pair: EcdsaKeyPair,
    pub(crate) id: Vec<u8>,
}

/// What a browser and an authenticator say, while it can still be changed.
pub(crate) struct Saying {
    pub(crate) client: Value,
    pub(crate) rp_id: &'static str,
    pub(crate) flags: u8,
}

/// What a dishonest one does to it.
pub(crate) type Change = fn(&mut Saying);

impl Passkey {
    pub(crate) fn new(id: &str) -> Passkey {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        Passkey { pair, id: id.as_bytes().to_vec() }
    }

    /// The key's coordinates, base64url.
    pub(crate) fn point(&self) -> [String; 2] {
        let point = self.pair.public_key().as_ref();
        [&point[1..33], &point[33..]].map(text)
    }

    /// Answers `create`, attesting nothing.
    pub(crate) fn create(&self, challenge: &Value, change: impl FnOnce(&mut Saying)) -> String {
        let mut saying = Saying::new("webauthn.create", challenge);
        change(&mut saying);
        let point = self.pair.public_key().as_ref();
        let cose =
            [&b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20"[..], &point[1..33], b"\x22\x58\x20", &point[33..]]
                .concat();
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        let data = [&saying.data(ATTESTED)[..], &[0; 16], &length, &self.id, &cose].concat();
        let size = u8::try_from(data.len()).unwrap();
        let object = [&b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58"[..], &[size], &data].concat();
        json!({"attestation_object": text(&object), "client_data_json": text(saying.client.to_string().as_bytes())})
            .to_string()
    }

    /// Answers `get`.
    pub(crate) fn get(&self, challenge: &Value) -> Value {
        self.get_with(challenge, |_| {})
    }

    /// The same, with something changed before it is signed.
    pub(crate) fn get_with(&self, challenge: &Value, change: impl FnOnce(&mut Saying)) -> Value {
        let mut saying = Saying::new("webauthn.get", challenge);
        change(&mut saying);
        let (data, client) = (saying.data(0), saying.client.to_string());
        let signed = [&data[..], digest(&SHA256, client.as_bytes()).as_ref()].concat();
        let signature = self.pair.sign(&SystemRandom::new(), &signed).unwrap();
        json!({
            "credential_id": text(&self.id), "authenticator_data": text(&data),
            "client_data_json": text(client.as_bytes()), "signature": text(signature.as_ref()),
        })
    }
}

impl Saying {
    fn new(ceremony: &str, challenge: &Value) -> Saying {
        let client =
            json!({"type": ceremony, "challenge": challenge, "origin": ORIGIN, "crossOrigin": false});
        Saying { client, rp_id: RP_ID, flags: FLAGS }
    }

    fn data(&self, more: u8) -> Vec<u8> {
        [digest(&SHA256, self.rp_id.as_bytes()).as_ref(), &[self.flags | more], &[0; 4]].concat()
    }
}

pub(crate) fn text(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
