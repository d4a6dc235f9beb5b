//! Client certificates.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::source::{Values, read_private};
use super::{Error, Hosts};
use crate::egress::{BadIdentity, Identity};

/// A client certificate with its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    hosts: Hosts,
    /// Absent only from a stand-in, with which nothing is ever sent.
    identity: Option<Identity>,
}

impl Certificate {
    pub(super) fn load(
        hosts: Hosts,
        certificate: &Path,
        key: &Path,
        values: Values,
    ) -> Result<Certificate, Error> {
        if values == Values::StandIn {
            return Ok(Certificate { hosts, identity: None });
        }
        let name = || hosts.name.clone();
        let shown = |path: &Path| path.display().to_string();
        let chain =
            fs::read(certificate).map_err(|_| Error::File { name: name(), file: shown(certificate) })?;
        let secret = read_private(key).map_err(|why| Error::Private { name: name(), why })?;
        let identity = Identity::from_pem(&chain, &secret).map_err(|bad| match bad {
            BadIdentity::Certificate => {
                Error::Pem { name: name(), file: shown(certificate), what: "no certificate that can be read" }
            }
            BadIdentity::Key => {
                Error::Pem { name: name(), file: shown(key), what: "no private key that can be used" }
            }
            BadIdentity::Mismatch => {
                Error::Mismatch { name: name(), certificate: shown(certificate), key: shown(key) }
            }
        })?;
        Ok(Certificate { hosts, identity: Some(identity) })
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Whom it is for.
    pub(crate) fn account(&self) -> Value {
        self.identity.as_ref().map(|identity| identity.holder().clone()).unwrap_or_default()
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}
