//! Public keys of those outside whose tokens are heard: JWKs, and which signature each of them verifies.

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::VerifyingKey;

/// How somebody outside may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSA with SHA-256, PKCS #1.
    Rs256,
    /// The same, PSS.
    Ps256,
}

impl Scheme {
    /// Each there is.
    pub const ALL: [Scheme; 4] = [Scheme::Es256, Scheme::EdDsa, Scheme::Rs256, Scheme::Ps256];

    /// The name in a JOSE header.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Es256 => "ES256",
            Scheme::EdDsa => "EdDSA",
            Scheme::Rs256 => "RS256",
            Scheme::Ps256 => "PS256",
        }
    }

    /// The one of this name.
    pub fn parse(text: &str) -> Option<Scheme> {
        Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == text)
    }
}

/// A public key of somebody outside. It verifies one kind of signature, whatever a token says.
#[derive(Debug, Clone)]
pub struct PublicKey {
    kid: Option<String>,
    scheme: Scheme,
    by: By,
}

#[derive(Debug, Clone)]
enum By {
    Curve(VerifyingKey),
    Rsa { n: Vec<u8>, e: Vec<u8>, padding: &'static RsaParameters },
}

impl PublicKey {
    /// Reads a JWK. Of an RSA key that does not say what it is for, it is the first that is accepted.
    pub(crate) fn of(jwk: &Value, accepted: &[Scheme]) -> Result<PublicKey, String> {
        let member = |name: &str| jwk[name].as_str();
        let kid = member("kid").map(str::to_owned);
        if member("kty") != Some("RSA") {
            let key = VerifyingKey::from_jwk(&jwk.to_string()).map_err(|error| error.to_string())?;
            let scheme = Scheme::parse(key.algorithm().as_str()).filter(|scheme| accepted.contains(scheme));
            let scheme = scheme.ok_or_else(|| not_for(accepted))?;
            return Ok(PublicKey { kid, scheme, by: By::Curve(key) });
        }
        if jwk.get("d").is_some() {
            return Err("it is a private key".into());
        }
        let padding = |scheme: &Scheme| -> Option<(Scheme, &'static RsaParameters)> {
            match scheme {
                Scheme::Rs256 => Some((*scheme, &RSA_PKCS1_2048_8192_SHA256)),
                Scheme::Ps256 => Some((*scheme, &RSA_PSS_2048_8192_SHA256)),
                Scheme::Es256 | Scheme::EdDsa => None,
            }
        };
        let is_meant = |scheme: &&Scheme| member("alg").is_none_or(|alg| alg == scheme.as_str());
        let signs = member("use").is_none_or(|usage| usage == "sig");
        let found = accepted.iter().filter(|_| signs).filter(is_meant).find_map(padding);
        let (scheme, padding) = found.ok_or_else(|| not_for(accepted))?;
        let number = |name: &str| {
            let bytes = member(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            bytes.filter(|bytes| bytes.first().is_some_and(|first| *first != 0))
        };
        let (Some(n), Some(e)) = (number("n"), number("e")) else {
            return Err("`n` and `e` must be numbers in base64url".into());
        };
        // The library counts the bits again when it verifies.
        if !MODULUS_BYTES.contains(&n.len()) || e.len() > 8 {
            return Err("it must have 2048 to 8192 bits".into());
        }
        Ok(PublicKey { kid, scheme, by: By::Rsa { n, e, padding } })
    }

    /// What it is called, if it is called anything.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The only `alg` that it verifies.
    pub fn algorithm(&self) -> &'static str {
        self.scheme.as_str()
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.by {
            By::Curve(key) => key.verifies(message, signature),
            By::Rsa { n, e, padding } => {
                RsaPublicKeyComponents { n, e }.verify(padding, message, signature).is_ok()
            }
        }
    }
}

fn not_for(accepted: &[Scheme]) -> String {
    let names: Vec<&str> = accepted.iter().map(|scheme| scheme.as_str()).collect();
    format!("it must be for signatures by `{}`", names.join("`, `"))
}

/// RFC 7518 asks for 2048 bits; over 8192 nobody signs.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
