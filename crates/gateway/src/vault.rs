//! The master secret and what it wraps: AES-256-GCM, bound to the tenant, so that a copied row opens nowhere else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock;

/// Wraps and unwraps the tenants' keys.
pub(crate) struct Vault {
    key: LessSafeKey,
}

impl Vault {
    /// A vault under a secret of any length; at least 32 bytes of it should be random.
    pub(crate) fn new(secret: &[u8]) -> Result<Vault, String> {
        if secret.len() < 32 {
            return Err("secret `master` is shorter than 32 bytes".to_owned());
        }
        let derived = Zeroizing::new(<[u8; 32]>::from(
            Sha256::new().chain_update("countersign/master/1").chain_update(secret).finalize(),
        ));
        let key =
            UnboundKey::new(&AES_256_GCM, derived.as_slice()).map_err(|_| "the master secret is no key")?;
        Ok(Vault { key: LessSafeKey::new(key) })
    }

    /// Nonce, ciphertext and tag.
    pub(crate) fn wrap(&self, tenant: &str, secret: &[u8; 32]) -> Result<Vec<u8>, String> {
        let nonce: [u8; NONCE_LEN] = clock::random().map_err(|error| error.to_string())?;
        let mut sealed = secret.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(tenant), &mut sealed)
            .map_err(|_| "a tenant key could not be wrapped")?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(crate) fn unwrap(&self, tenant: &str, wrapped: &[u8]) -> Result<[u8; 32], String> {
        let refusal = || format!("the key of tenant `{tenant}` does not open under this master secret");
        let (nonce, sealed) = wrapped.split_at_checked(NONCE_LEN).ok_or_else(refusal)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refusal())?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let opened = self.key.open_in_place(nonce, Aad::from(tenant), &mut sealed).map_err(|_| refusal())?;
        <[u8; 32]>::try_from(&*opened).map_err(|_| refusal())
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
        assert_eq!(vault.unwrap("acme", &wrapped).unwrap(), [9; 32]);
        assert!(vault.unwrap("other", &wrapped).is_err());
        assert!(Vault::new(&[8; 32]).unwrap().unwrap("acme", &wrapped).is_err());
        assert!(vault.unwrap("acme", &wrapped[..20]).is_err());
        assert!(Vault::new(&[7; 31]).is_err());
    }
}
