//! `[log]`: what the transparency logs are called and who is asked to cosign them.

use serde::{Deserialize, Serialize};

/// The transparency logs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What their names begin with; a tenant's log is `ORIGIN/TENANT`. Default: the address of the public URL, and `/log`.
    /// A log keeps the name that it was given first.
    pub origin: Option<String>,
    /// Who is asked to cosign checkpoints of production.
    pub witnesses: Vec<Witness>,
}

/// A witness of the C2SP protocol `tlog-witness`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Where it is asked: its submission prefix, without `/add-checkpoint`.
    pub url: String,
    /// Its verifier key, `name+id+key`.
    pub key: String,
}
