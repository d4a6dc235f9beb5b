use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    ParsedPublicKey, UnparsedPublicKey,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::Error;

/// A raw ES256 signature: R then S, 32 bytes each, big-endian.
pub type Signature = [u8; 64];

/// The private half of an issuer's key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`Error::Signing`] if the cryptographic library fails.
    pub fn generate() -> Result<Self, Error> {
        Self::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| Error::Signing)?)
    }

    /// Reads an unencrypted PKCS#8 document (DER).
    ///
    /// # Errors
    /// [`Error::Key`] if it does not hold a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der);
        Self::new(pair.map_err(|_| Error::Key("not a PKCS#8 document of one"))?)
    }

    /// The key as an unencrypted PKCS#8 document (DER); the bytes are wiped when dropped.
    ///
    /// # Errors
    /// [`Error::Signing`] if the cryptographic library fails.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let document = self.pair.to_pkcs8v1().map_err(|_| Error::Signing)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// The key's id: its RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.public.kid()
    }

    /// Signs a message (it is hashed with SHA-256 here). S is always in the lower half.
    ///
    /// # Errors
    /// [`Error::Signing`] if the cryptographic library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, Error> {
        self.sign_digest(&digest::digest(&digest::SHA256, message))
    }

    pub(crate) fn sign_digest(&self, digest: &digest::Digest) -> Result<Signature, Error> {
        let signature = self.pair.sign_digest(digest).map_err(|_| Error::Signing)?;
        let signature = signature.as_ref().try_into().map_err(|_| Error::Signing)?;
        Ok(with_low_s(signature))
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, Error> {
        let public = VerifyingKey::from_point(pair.public_key().as_ref())?;
        Ok(Self { pair, public })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid())
    }
}

/// The public half of an issuer's key, parsed once.
#[derive(Clone)]
pub struct VerifyingKey {
    key: ParsedPublicKey,
    x: String,
    y: String,
    kid: String,
}

impl VerifyingKey {
    /// A point on P-256 by its coordinates, unpadded base64url of 32 bytes each.
    ///
    /// # Errors
    /// [`Error::Key`] if they are not that, or no such point exists.
    pub fn from_coordinates(x: &str, y: &str) -> Result<Self, Error> {
        let coordinate = |text: &str| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 32);
            bytes.ok_or(Error::Key("a coordinate is not base64url of 32 bytes"))
        };
        Self::from_point(&[&[UNCOMPRESSED][..], &coordinate(x)?, &coordinate(y)?].concat())
    }

    /// An uncompressed SEC 1 point, 65 bytes beginning with 4.
    ///
    /// # Errors
    /// [`Error::Key`] if it is not that, or not on the curve.
    pub fn from_point(point: &[u8]) -> Result<Self, Error> {
        let coordinates = match point {
            [UNCOMPRESSED, coordinates @ ..] if coordinates.len() == 64 => coordinates,
            _ => return Err(Error::Key("not an uncompressed point")),
        };
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        let key = key.map_err(|_| Error::Key("not a point on the curve"))?;
        let (x, y) = coordinates.split_at(32);
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
        let kid = thumbprint(&x, &y);
        Ok(Self { key, x, y, kid })
    }

    /// The key's id: its RFC 7638 thumbprint, unpadded base64url.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The point's first coordinate, unpadded base64url.
    #[must_use]
    pub fn x(&self) -> &str {
        &self.x
    }

    /// The point's second coordinate, unpadded base64url.
    #[must_use]
    pub fn y(&self) -> &str {
        &self.y
    }

    /// Plain ECDSA over SHA-256: does the signature fit the message? S may lie in either half; that receipts
    /// must not use the upper one is a rule of receipts.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }

    /// The same for a signature in DER, as authenticators make them.
    #[must_use]
    pub fn verifies_der(&self, message: &[u8], signature: &[u8]) -> bool {
        // The parsed key reads raw signatures only.
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.point());
        key.verify(message, signature).is_ok()
    }

    /// The uncompressed SEC 1 point.
    fn point(&self) -> Vec<u8> {
        let coordinate = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        [&[UNCOMPRESSED][..], &coordinate(&self.x), &coordinate(&self.y)].concat()
    }

    pub(crate) fn verifies_digest(&self, digest: [u8; 32], signature: &Signature) -> bool {
        digest::Digest::import_less_safe(&digest, &digest::SHA256)
            .is_ok_and(|digest| self.key.verify_digest_sig(&digest, signature).is_ok())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.kid)
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.kid == other.kid
    }
}

impl Eq for VerifyingKey {}

/// Is S in the lower half? Of the two signatures (R, S) and (R, n-S), which say the same, only that one may
/// stand in a receipt, so that a stranger cannot make a second valid text of it.
pub(crate) fn has_low_s(signature: &Signature) -> bool {
    signature[32..] <= HALF_ORDER[..]
}

fn with_low_s(mut signature: Signature) -> Signature {
    if has_low_s(&signature) {
        return signature;
    }
    let mut borrow = false;
    for (s, n) in signature[32..].iter_mut().zip(ORDER).rev() {
        let (difference, under) = n.overflowing_sub(*s);
        let (difference, under_again) = difference.overflowing_sub(u8::from(borrow));
        *s = difference;
        borrow = under || under_again;
    }
    signature
}

fn thumbprint(x: &str, y: &str) -> String {
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(members))
}

const UNCOMPRESSED: u8 = 4;
/// The order n of P-256's base point.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
    0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// (n - 1) / 2, the largest low S.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xde,
    0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_halves_of_s_mean_the_same_and_only_the_low_one_is_emitted() {
        let key = SigningKey::generate().unwrap();
        for message in 0_u32..64 {
            let low = key.sign(&message.to_be_bytes()).unwrap();
            assert!(has_low_s(&low));
            let high = negated(low);
            assert!(!has_low_s(&high));
            assert!(key.public().verifies(&message.to_be_bytes(), &high));
            assert_eq!(with_low_s(high), low);
        }
    }

    /// n - S, by way of a 33-byte subtraction done digit by digit.
    fn negated(mut signature: Signature) -> Signature {
        let mut borrow = 0_i16;
        for index in (0..32).rev() {
            let difference = i16::from(ORDER[index]) - i16::from(signature[32 + index]) - borrow;
            borrow = i16::from(difference < 0);
            signature[32 + index] = difference.rem_euclid(256) as u8;
        }
        signature
    }

    #[test]
    fn thumbprint_of_the_rfc_7517_example_key() {
        // Coordinates of RFC 7517, appendix A.1; the thumbprint was computed with another tool.
        let key = VerifyingKey::from_coordinates(
            "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        )
        .unwrap();
        assert_eq!(key.kid(), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    }
}
