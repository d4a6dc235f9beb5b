//! What the operator may set: one file, `countersign.toml`, and the same keys as `COUNTERSIGN_…` variables.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

/// Everything that can be configured. Each key is also an environment variable: `listen` is
/// `COUNTERSIGN_LISTEN`, `limits.in_flight` is `COUNTERSIGN_LIMITS__IN_FLIGHT`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address to listen on. Anything but loopback needs TLS or `behind_tls_proxy`.
    pub listen: SocketAddr,
    /// Where the store and the keys live. One gateway at a time holds it.
    pub data_dir: PathBuf,
    /// How callers reach the gateway; the issuer of its receipts. Default: `http://LISTEN`.
    pub public_url: Option<String>,
    /// Certificate and key for TLS.
    pub tls: Option<Tls>,
    /// A proxy in front ends TLS; the operator vouches for the way between.
    pub behind_tls_proxy: bool,
    /// Host names answered to, beside loopback names and that of `public_url`.
    pub allowed_hosts: Vec<String>,
    /// Browser origins let in, beside our own.
    pub allowed_origins: Vec<String>,
    /// `DIR/<tenant>/*.toml`: the operator's archetypes.
    pub catalogue_dir: Option<PathBuf>,
    /// `DIR/<tenant>/*.cedar` and `*.json`: policies and entities.
    pub policy_dir: Option<PathBuf>,
    /// The tenants served.
    pub tenants: Vec<String>,
    /// Named secrets. `master` wraps the tenants' keys and is made in the data directory when absent.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Where providers may connect to.
    pub egress: Egress,
    /// Bounds.
    pub limits: Limits,
    /// The sandbox.
    pub sandbox: Sandbox,
}

/// TLS by files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// Where a secret comes from and which hosts may see it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretSource {
    /// Environment variable that holds it.
    pub env: Option<String>,
    /// File that holds it.
    pub file: Option<PathBuf>,
    /// `host` or `host:port` it may be sent to.
    pub hosts: Vec<String>,
}

/// What the one client for the outside may reach beyond public addresses over HTTPS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Private addresses allowed: `host:port`, an address or a CIDR.
    pub allow: Vec<String>,
    /// `host:port` that may be spoken to without TLS.
    pub plain_http: Vec<String>,
}

/// Bounds on what the gateway takes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Actions between admission and settlement, all tenants together.
    pub in_flight: usize,
    /// Requests per second of one tenant, and how many may come at once.
    pub tenant: Rate,
    /// The same for one subject.
    pub subject: Rate,
    /// The same for one archetype of one tenant.
    pub archetype: Rate,
    /// The same for all who ask in the sandbox without a key, together.
    pub anonymous: Rate,
    /// Requests waiting for the store's writer.
    pub queue: usize,
    /// How long an escalated action waits for a person, seconds.
    pub held_seconds: u64,
    /// How often unsettled actions are asked after, milliseconds.
    pub recovery_interval_ms: u64,
    /// How long a caller who names no deadline is kept waiting while an action is tried again, milliseconds.
    pub patience_ms: u64,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens per second; 0 means no limit.
    pub per_second: u32,
    /// Size of the bucket.
    pub burst: u32,
}

/// The sandbox environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// Whether it is served at all.
    pub enabled: bool,
    /// Whether it is served beyond loopback.
    pub public: bool,
    /// How long its rows are kept, hours.
    pub retention_hours: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8787)),
            data_dir: PathBuf::from("countersign-data"),
            public_url: None,
            tls: None,
            behind_tls_proxy: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            catalogue_dir: None,
            policy_dir: None,
            tenants: vec!["default".to_owned()],
            secrets: BTreeMap::new(),
            egress: Egress::default(),
            limits: Limits::default(),
            sandbox: Sandbox::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let unlimited = Rate { per_second: 0, burst: 0 };
        Limits {
            in_flight: 20_000,
            tenant: unlimited,
            subject: unlimited,
            archetype: unlimited,
            // Nobody who tries things out meets it, and a flood does not fill the disk.
            anonymous: Rate { per_second: 20, burst: 1000 },
            queue: 20_000,
            held_seconds: 24 * 3600,
            recovery_interval_ms: 2_000,
            patience_ms: 30_000,
        }
    }
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox { enabled: true, public: false, retention_hours: 24 }
    }
}

impl Config {
    /// Reads `file` (when given) and the environment over the defaults.
    ///
    /// # Errors
    /// What is wrong with which key, in one sentence.
    pub fn read(file: Option<&Path>) -> Result<Config, String> {
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(format!("there is no configuration file `{}`", file.display()));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // What the program and its tests read elsewhere is no key of the configuration.
        let ours = |name: &figment::value::UncasedStr| {
            let name = name.as_str().to_ascii_lowercase();
            !matches!(name.as_str(), "api_key" | "url" | "log") && !name.starts_with("test_")
        };
        let environment = Env::prefixed("COUNTERSIGN_").filter(ours).split("__");
        let config: Config = figment.merge(environment).extract().map_err(|error| explain(&error))?;
        match config.sandbox.retention_hours {
            // Keys are kept for a day at least, in the sandbox too.
            0..24 => Err("`sandbox.retention_hours`: at least 24".to_owned()),
            _ => Ok(config),
        }
    }

    /// The address callers use, without a slash at its end.
    pub fn public_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = self.public_url.clone().unwrap_or_else(|| format!("{scheme}://{}", self.listen));
        url.trim_end_matches('/').to_owned()
    }
}

fn explain(error: &figment::Error) -> String {
    let key = error.path.join(".");
    let place = error.metadata.as_ref().map(|metadata| format!(" in {}", metadata.name)).unwrap_or_default();
    if key.is_empty() { format!("{}{place}", error.kind) } else { format!("`{key}`: {}{place}", error.kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it can be written");
        Config::read(Some(file.path()))
    }

    #[test]
    fn an_unknown_key_is_refused_and_named() {
        let error = read("lissten = \"127.0.0.1:1\"").expect_err("it must not load");
        assert!(error.contains("lissten"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let error = read("[limits]\nin_flight = \"many\"").expect_err("it must not load");
        assert!(error.contains("limits.in_flight"), "{error}");
    }

    #[test]
    fn the_public_url_follows_the_listener() {
        let config = read("listen = \"127.0.0.1:9999\"").expect("it loads");
        assert_eq!(config.public_url(), "http://127.0.0.1:9999");
    }
}
