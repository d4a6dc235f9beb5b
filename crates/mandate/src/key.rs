//! Keys that sign and verify mandates: ES256 and EdDSA, nothing else.
//!
//! The algorithm belongs to the key, so a token cannot choose how it is verified.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// A signature algorithm of JOSE that mandates may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256; signatures are raw R‖S.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The name in a JOSE header.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }
}

/// Why a key was refused. Says nothing of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key is refused: {0}")]
pub struct KeyError(String);

/// A private key that issues mandates.
pub struct SigningKey {
    pair: Pair,
    verifying: VerifyingKey,
}

enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl SigningKey {
    /// Reads an unencrypted PKCS#8 document.
    ///
    /// # Errors
    /// When the document does not hold a key of this algorithm.
    pub fn from_pkcs8(algorithm: Algorithm, document: &[u8]) -> Result<SigningKey, KeyError> {
        let refused = |_| KeyError(format!("no {} key in the PKCS#8 document", algorithm.as_str()));
        let (pair, public) = match algorithm {
            Algorithm::Es256 => {
                let pair =
                    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document).map_err(refused)?;
                let public = pair.public_key().as_ref().to_vec();
                (Pair::Es256(pair), public)
            }
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8(document).map_err(refused)?;
                let public = pair.public_key().as_ref().to_vec();
                (Pair::EdDsa(pair), public)
            }
        };
        Ok(SigningKey { pair, verifying: VerifyingKey::from_public(algorithm, &public)? })
    }

    /// The public half.
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            // The nonce is the library's own business; no value of ours depends on it.
            Pair::Es256(pair) => match pair.sign(&SystemRandom::new(), message) {
                Ok(signature) => Ok(signature.as_ref().to_vec()),
                Err(_) => Err(KeyError("it could not sign".into())),
            },
            Pair::EdDsa(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.verifying.kid)
    }
}

/// A public key that verifies mandates of one issuer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifyingKey {
    algorithm: Algorithm,
    kid: Arc<str>,
    jwk: Arc<str>,
    key: Arc<ParsedPublicKey>,
}

impl VerifyingKey {
    /// Reads a public JWK (`EC` on P-256, or `OKP` Ed25519).
    ///
    /// # Errors
    /// When it is another kind of key, names another algorithm or use, or carries private members.
    pub fn from_jwk(text: &str) -> Result<VerifyingKey, KeyError> {
        let value = action::json::parse(text.as_bytes()).map_err(|_| KeyError("not a JSON object".into()))?;
        let member = |name: &str| value.get(name).and_then(serde_json::Value::as_str);
        if value.get("d").is_some() || value.get("k").is_some() {
            return Err(KeyError("it is a private key".into()));
        }
        if member("use").is_some_and(|usage| usage != "sig") {
            return Err(KeyError("its `use` is not `sig`".into()));
        }
        let coordinate = |name: &str| {
            member(name)
                .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                .filter(|bytes| bytes.len() == 32)
                .ok_or_else(|| KeyError(format!("`{name}` must be 32 bytes in base64url")))
        };
        let (algorithm, public) = match (member("kty"), member("crv")) {
            (Some("EC"), Some("P-256")) => {
                (Algorithm::Es256, [&[4][..], &coordinate("x")?, &coordinate("y")?].concat())
            }
            (Some("OKP"), Some("Ed25519")) => (Algorithm::EdDsa, coordinate("x")?),
            _ => return Err(KeyError("it must be `EC` on `P-256` or `OKP` on `Ed25519`".into())),
        };
        if member("alg").is_some_and(|alg| alg != algorithm.as_str()) {
            return Err(KeyError(format!("its `alg` must be `{}`", algorithm.as_str())));
        }
        VerifyingKey::from_public(algorithm, &public)
    }

    fn from_public(algorithm: Algorithm, public: &[u8]) -> Result<VerifyingKey, KeyError> {
        let parsed = match algorithm {
            Algorithm::Es256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public),
            Algorithm::EdDsa => ParsedPublicKey::new(&ED25519, public),
        };
        let key = parsed.map_err(|_| KeyError("it is not a point on its curve".into()))?;
        let jwk = jwk_of(algorithm, public);
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(jwk.as_bytes()));
        Ok(VerifyingKey { algorithm, kid: kid.into(), jwk: jwk.into(), key: Arc::new(key) })
    }

    /// The only algorithm this key verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public JWK with exactly the members that the thumbprint covers.
    pub fn jwk(&self) -> &str {
        &self.jwk
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

/// RFC 7638's form: required members only, sorted, no white space.
fn jwk_of(algorithm: Algorithm, public: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match (algorithm, public) {
        (Algorithm::Es256, [_, point @ ..]) => {
            let (x, y) = point.split_at(point.len() / 2);
            format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y))
        }
        (_, point) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(point)),
    }
}
