//! The master secret and what it wraps: AES-256-GCM, bound to the tenant, so that a copied row opens nowhere else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock;

/// Seals bytes under one key, each time for what they are said to be: as anything else they do not open.
pub(crate) struct Seal(LessSafeKey);

impl Seal {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Seal, String> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| "32 bytes are no key")?;
        Ok(Seal(LessSafeKey::new(key)))
    }

    /// Nonce, ciphertext and tag.
    pub(crate) fn seal(&self, meant_as: &[u8], bytes: &[u8]) -> Result<Vec<u8>, String> {
        let nonce: [u8; NONCE_LEN] = clock::random().map_err(|error| error.to_string())?;
        let mut sealed = bytes.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(meant_as), &mut sealed)
            .map_err(|_| "it is too long to be sealed")?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Nothing, if this was not sealed here as just that.
    pub(crate) fn open(&self, meant_as: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(meant_as), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

/// Wraps and unwraps the tenants' keys.
pub(crate) struct Vault(Seal);

impl Vault {
    /// A vault under a secret of any length; at least 32 bytes of it should be random.
    pub(crate) fn new(secret: &[u8]) -> Result<Vault, String> {
        if secret.len() < 32 {
            return Err("secret `master` is shorter than 32 bytes".to_owned());
        }
        let derived = Zeroizing::new(<[u8; 32]>::from(
            Sha256::new().chain_update("countersign/master/1").chain_update(secret).finalize(),
        ));
        Seal::new(&derived).map(Vault)
    }

    pub(crate) fn wrap(&self, tenant: &str, secret: &[u8; 32]) -> Result<Vec<u8>, String> {
        self.0.seal(tenant.as_bytes(), secret)
    }

    pub(crate) fn unwrap(&self, tenant: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
        let refusal = || {
            format!(
                "the key of tenant `{tenant}` does not open under this master secret: every gateway on a store needs the one it was made under (`keys/master.key` of the first, or its `[secrets.master]`)"
            )
        };
        let opened = self.0.open(tenant.as_bytes(), wrapped).ok_or_else(refusal)?;
        <[u8; 32]>::try_from(opened.as_slice()).map(Zeroizing::new).map_err(|_| refusal())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_wrapped_key_opens_for_its_tenant_under_its_master_only() {
        let vault = Vault::new(&[7; 32]).unwrap();
        let wrapped = vault.wrap("acme", &[9; 32]).unwrap();
        assert_eq!(*vault.unwrap("acme", &wrapped).unwrap(), [9; 32]);
        assert!(vault.unwrap("other", &wrapped).is_err());
        assert!(Vault::new(&[8; 32]).unwrap().unwrap("acme", &wrapped).is_err());
        assert!(vault.unwrap("acme", &wrapped[..20]).is_err());
        assert!(Vault::new(&[7; 31]).is_err());
    }
}
