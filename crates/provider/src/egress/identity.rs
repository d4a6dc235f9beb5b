//! Who we are on a TLS connection, where somebody asks.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use webpki::EndEntityCert;
use zeroize::Zeroizing;

/// A client certificate with the key that belongs to it.
#[derive(Clone)]
pub struct Identity {
    /// What tells it from others: the chain, as it is shown.
    chain: Arc<[CertificateDer<'static>]>,
    holder: Value,
    inner: reqwest::Identity,
}

/// Why there is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BadIdentity {
    #[error("no certificate can be read")]
    Certificate,
    #[error("no private key can be used")]
    Key,
    #[error("the key does not belong to the certificate")]
    Mismatch,
}

impl Identity {
    /// Reads PEM texts: the chain, the client's own certificate first, and its key.
    ///
    /// # Errors
    /// Which of the two cannot be used, or that they do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Identity, BadIdentity> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| BadIdentity::Certificate)?;
        if chain.is_empty() {
            return Err(BadIdentity::Certificate);
        }
        let secret = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadIdentity::Key)?;
        CertifiedKey::from_der(chain.clone(), secret, &default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => BadIdentity::Mismatch,
            rustls::Error::InvalidCertificate(_) => BadIdentity::Certificate,
            _ => BadIdentity::Key,
        })?;
        let holder = holder(&chain[0]).ok_or(BadIdentity::Certificate)?;
        let both = Zeroizing::new([certificate, b"\n", key].concat());
        let inner = reqwest::Identity::from_pem(&both).map_err(|_| BadIdentity::Key)?;
        Ok(Identity { chain: chain.into(), holder, inner })
    }

    /// Whom the certificate is for. It stays the same when the certificate is renewed, with a new key as well.
    pub fn holder(&self) -> &Value {
        &self.holder
    }

    pub(super) fn shown(&self) -> reqwest::Identity {
        self.inner.clone()
    }
}

/// Subject and alternative names; of a certificate that has neither, the public key.
fn holder(certificate: &CertificateDer<'_>) -> Option<Value> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let subject = hex::encode(certificate.subject());
    let names: BTreeSet<&str> = certificate.valid_dns_names().chain(certificate.valid_uri_names()).collect();
    if subject.is_empty() && names.is_empty() {
        return Some(json!({ "public_key": hex::encode(certificate.subject_public_key_info()) }));
    }
    Some(json!({ "subject": subject, "names": names }))
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        self.chain == other.chain
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for certificate in self.chain.iter() {
            certificate.as_ref().hash(state);
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Identity").finish_non_exhaustive()
    }
}
