//! What the operator may set: one file, `countersign.toml`, and the same keys as `COUNTERSIGN_…` variables.

mod alerts;
mod disclosure;
mod log;
mod mcp;
mod token_issuers;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use figment::Figment;
use figment::error::{Kind as Wrong, OneOf};
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Value};
use provider::secrets::{AwsKeys, ClientAuth, Declared, Kind, OAuth2Client, Source};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::alerts::{Alerts, Means, Smtp, SmtpTls, Webhook};
pub use self::disclosure::Withheld;
pub use self::log::{Log, Witness};
pub use self::mcp::{Mcp, McpServer};
pub use self::token_issuers::{SubjectClaim, TokenIssuer};

/// Everything that can be configured. Each key is also an environment variable: `listen` is
/// `COUNTERSIGN_LISTEN`, `limits.in_flight` is `COUNTERSIGN_LIMITS__IN_FLIGHT`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address to listen on. Anything but loopback needs TLS or `behind_tls_proxy`.
    pub listen: SocketAddr,
    /// Where the keys live, and the store unless `store` names another. One gateway at a time holds it.
    pub data_dir: PathBuf,
    /// The store: `postgres://…` for one that many gateways share; default: SQLite files in `data_dir`.
    pub store: Option<Store>,
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
    #[serde(deserialize_with = "by_kind")]
    pub secrets: BTreeMap<String, Secret>,
    /// Where providers and receivers of alerts may be.
    pub egress: Egress,
    /// Who is told of what happens in production.
    #[serde(deserialize_with = "alerts::by_kind")]
    pub alerts: Vec<Alerts>,
    /// Who may tell that a session or mandate is revoked.
    pub transmitters: Vec<Transmitter>,
    /// Whose access tokens are taken where API keys are.
    pub token_issuers: Vec<TokenIssuer>,
    /// What agents may ask to be granted.
    pub grants: Grants,
    /// Servers of the Model Context Protocol.
    pub mcp: Mcp,
    /// The transparency logs.
    pub log: Log,
    /// What roles are not told of the policies, by role.
    #[serde(deserialize_with = "disclosure::by_role")]
    pub disclosure: BTreeMap<String, Withheld>,
    /// Bounds.
    pub limits: Limits,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Where the process may be made to die, see [`crate::Point`]. No key: only whoever opens the gateway can bring it.
    #[serde(skip)]
    pub fail_points: Option<Arc<dyn ledger::FailPoints>>,
}

/// Where a store is that many gateways share. Not shown: there may be a password in it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Store(String);

impl Store {
    /// The URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }

    /// Where it is, for people: servers and database, without user, password and options. What stands before the first `@` is the
    /// user's, as whoever connects reads it.
    #[must_use]
    pub fn place(&self) -> &str {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
        let place = rest.split(['?', '#']).next().unwrap_or_default();
        // Whatever is left of a password that is not written as one.
        if place.contains('@') { "" } else { place }
    }
}

impl TryFrom<String> for Store {
    type Error = String;

    fn try_from(url: String) -> Result<Store, String> {
        match url.split_once("://") {
            Some(("postgres" | "postgresql", _)) => Ok(Store(url)),
            _ => Err("a store is `postgres://…`; without one, it is a file in `data_dir`".to_owned()),
        }
    }
}

impl From<Store> for String {
    fn from(Store(url): Store) -> String {
        url
    }
}

impl FromStr for Store {
    type Err = String;

    fn from_str(url: &str) -> Result<Store, String> {
        Store::try_from(url.to_owned())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://…")
    }
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

/// A named secret, by its `kind`: how it authenticates. Without a kind it is static.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind")]
pub enum Secret {
    /// A value that bindings put into a header.
    #[serde(rename = "static")]
    Static(StaticSecret),
    /// OAuth 2 client credentials: each request carries a token.
    #[serde(rename = "oauth2")]
    OAuth2(OAuth2Secret),
    /// A client certificate: each connection shows it.
    #[serde(rename = "mtls")]
    Mtls(MtlsSecret),
    /// AWS Signature Version 4: each request is signed.
    #[serde(rename = "aws-sigv4")]
    AwsSigV4(AwsSecret),
}

/// A value, and who may see it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StaticSecret {
    /// Environment variable that holds it.
    pub env: Option<String>,
    /// File that holds it.
    pub file: Option<PathBuf>,
    /// `host` or `host:port` it may be sent to.
    pub hosts: Vec<String>,
}

/// A client of a token endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth2Secret {
    /// Where tokens are had. The client's secret goes nowhere else.
    pub token_url: String,
    /// Our name there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: SecretValue,
    /// What is asked for, words separated by a space.
    pub scope: Option<String>,
    /// How the client's secret is sent.
    #[serde(default)]
    pub auth: TokenAuth,
    /// `host` or `host:port` that may see the token.
    pub hosts: Vec<String>,
}

/// A client certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MtlsSecret {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
    /// `host` or `host:port` it is shown to.
    pub hosts: Vec<String>,
}

/// An access key of AWS and what it signs for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsSecret {
    /// The id of the key.
    pub access_key: SecretValue,
    /// The key.
    pub secret_key: SecretValue,
    /// Beside temporary keys.
    pub session_token: Option<SecretValue>,
    /// Such as `eu-central-1`.
    pub region: String,
    /// Such as `execute-api`.
    pub service: String,
    /// `host` or `host:port` whose requests are signed.
    pub hosts: Vec<String>,
}

/// Where one value of a secret is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretValue {
    /// Environment variable that holds it.
    Env(String),
    /// File that holds it.
    File(PathBuf),
}

/// How a client's secret is sent to a token endpoint.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenAuth {
    /// In the header `Authorization`.
    #[default]
    Basic,
    /// In the form.
    Body,
}

/// What the one client for the outside may reach beyond public addresses over HTTPS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Private addresses allowed: `host:port`, an address or a CIDR.
    pub allow: Vec<String>,
    /// `host:port` that may be spoken to without TLS.
    pub plain_http: Vec<String>,
    /// Where payers may be sent to confirm a payment: `host` (port 443) or `host:port`. Shown to callers, never called.
    pub challenge_hosts: Vec<String>,
}

/// Who sends security events, such as an identity provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transmitter {
    /// `iss` of its events.
    pub issuer: String,
    /// File with its public keys, a JWK set.
    pub keys: PathBuf,
    /// Whose sessions and mandates it speaks of; the first tenant's, unless it is named.
    pub tenant: Option<String>,
}

/// What agents may ask to be granted beyond what they hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Whether approvers are asked: what they consent to becomes a mandate in their name.
    pub consent: bool,
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
    /// What becomes of one that nobody decides about in time.
    pub held_on_timeout: OnTimeout,
    /// How many actions of one agent wait for people at once; what would wait beyond that is blocked.
    pub held_per_agent: u32,
    /// How many mandates may stand above one that was handed on.
    pub delegation_depth: usize,
    /// In this time every session under a revoked mandate is halted, milliseconds; how those are left that are not is unknown.
    pub cascade_timeout_ms: u64,
    /// So long after it is settled nothing is deleted because only its request wants it, days; 0 where nothing but what it
    /// takes to undo it has to be kept.
    pub kept_days: u64,
    /// How often unsettled actions are asked after, milliseconds.
    pub recovery_interval_ms: u64,
    /// How long a caller who names no deadline is kept waiting while an action is tried again, milliseconds.
    pub patience_ms: u64,
}

/// What becomes of what nobody decides about in time. Nothing is approved by waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It is blocked.
    Deny,
    /// The same, and of a cycle the session ends with it.
    Terminate,
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
            store: None,
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
            alerts: Vec::new(),
            transmitters: Vec::new(),
            token_issuers: Vec::new(),
            grants: Grants::default(),
            mcp: Mcp::default(),
            log: Log::default(),
            disclosure: BTreeMap::new(),
            limits: Limits::default(),
            sandbox: Sandbox::default(),
            fail_points: None,
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
            held_on_timeout: OnTimeout::Deny,
            held_per_agent: 100,
            delegation_depth: 8,
            cascade_timeout_ms: 10_000,
            kept_days: 30,
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
            !matches!(name.as_str(), "api_key" | "crash_at" | "key" | "log" | "url")
                && !name.starts_with("test_")
        };
        let environment = Env::prefixed("COUNTERSIGN_").filter(ours).split("__");
        let config: Config = figment.merge(environment).extract().map_err(|error| explain(&error))?;
        if config.limits.held_per_agent == 0 {
            return Err(
                "`limits.held_per_agent`: at least 1; to let nothing wait, forbid it by policy".to_owned()
            );
        }
        if !(1..=LONGEST_CASCADE_MS).contains(&config.limits.cascade_timeout_ms) {
            return Err(format!("`limits.cascade_timeout_ms`: between 1 and {LONGEST_CASCADE_MS}"));
        }
        config.mcp.must_be_within_bounds()?;
        match config.sandbox.retention_hours {
            // Keys are kept for a day at least, in the sandbox too.
            0..24 => Err("`sandbox.retention_hours`: at least 24".to_owned()),
            _ => Ok(config),
        }
    }

    /// What bindings may name: every secret but the master.
    ///
    /// # Errors
    /// The secret that says too little or too much.
    pub fn provider_secrets(&self) -> Result<Vec<Declared>, String> {
        let named = self.secrets.iter().filter(|(name, _)| *name != MASTER);
        named.map(|(name, secret)| secret.declare(name)).collect()
    }

    /// The address callers use, without a slash at its end.
    pub fn public_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = self.public_url.clone().unwrap_or_else(|| format!("{scheme}://{}", self.listen));
        url.trim_end_matches('/').to_owned()
    }
}

impl Secret {
    /// Reads the members of one secret.
    fn read(mut members: Dict) -> Result<Secret, String> {
        let kind = members.remove("kind").unwrap_or_else(|| Value::from("static"));
        let kind: String = understood(&kind)?;
        let members = Value::from(members);
        match kind.as_str() {
            "static" => understood(&members).map(Secret::Static),
            "oauth2" => understood(&members).map(Secret::OAuth2),
            "mtls" => understood(&members).map(Secret::Mtls),
            "aws-sigv4" => understood(&members).map(Secret::AwsSigV4),
            other => Err(format!(
                "`kind`: there is no `{other}`; the kinds are static, oauth2, mtls and aws-sigv4"
            )),
        }
    }

    pub(crate) fn declare(&self, name: &str) -> Result<Declared, String> {
        let (kind, hosts) = match self.clone() {
            Secret::Static(secret) => {
                let source = match (secret.env, secret.file) {
                    (Some(variable), None) => Source::Env(variable),
                    (None, Some(file)) => Source::File(file),
                    _ => return Err(format!("secret `{name}` needs either `env` or `file`")),
                };
                (Kind::Static(source), secret.hosts)
            }
            Secret::OAuth2(secret) => {
                let client = OAuth2Client {
                    token_url: secret.token_url,
                    client_id: secret.client_id,
                    client_secret: secret.client_secret.source(),
                    scope: secret.scope,
                    auth: secret.auth.into(),
                };
                (Kind::OAuth2(client), secret.hosts)
            }
            Secret::Mtls(MtlsSecret { certificate, key, hosts }) => (Kind::Mtls { certificate, key }, hosts),
            Secret::AwsSigV4(secret) => {
                let keys = AwsKeys {
                    access_key: secret.access_key.source(),
                    secret_key: secret.secret_key.source(),
                    session_token: secret.session_token.map(SecretValue::source),
                    region: secret.region,
                    service: secret.service,
                };
                (Kind::AwsSigV4(keys), secret.hosts)
            }
        };
        Ok(Declared { name: name.to_owned(), kind, hosts })
    }
}

impl SecretValue {
    fn source(self) -> Source {
        match self {
            SecretValue::Env(variable) => Source::Env(variable),
            SecretValue::File(file) => Source::File(file),
        }
    }
}

impl From<TokenAuth> for ClientAuth {
    fn from(auth: TokenAuth) -> ClientAuth {
        match auth {
            TokenAuth::Basic => ClientAuth::Basic,
            TokenAuth::Body => ClientAuth::Body,
        }
    }
}

/// Reads each secret by its kind, so that a mistake names the secret and the member.
fn by_kind<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let read = |(name, members): (String, Dict)| match Secret::read(members) {
        Ok(secret) => Ok((name, secret)),
        Err(why) => Err(D::Error::custom(format!("secret `{name}`: {why}"))),
    };
    BTreeMap::<String, Dict>::deserialize(from)?.into_iter().map(read).collect()
}

fn understood<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
    value.deserialize().map_err(|error| explain_with(&error, untold(&error.kind)))
}

fn explain(error: &figment::Error) -> String {
    let secret = error.path.first().is_some_and(|key| key == "secrets");
    explain_with(error, if secret { untold(&error.kind) } else { error.kind.to_string() })
}

/// What is wrong, without what was found: a value may stand where the place of one belongs.
fn untold(wrong: &Wrong) -> String {
    match wrong {
        Wrong::InvalidType(_, expected) | Wrong::InvalidValue(_, expected) => format!("expected {expected}"),
        Wrong::UnknownVariant(_, expected) => format!("expected {}", OneOf(expected)),
        Wrong::Unsupported(_) | Wrong::UnsupportedKey(..) => "not understood".to_owned(),
        other => other.to_string(),
    }
}

fn explain_with(error: &figment::Error, what: String) -> String {
    let key = error.path.join(".");
    let place = error.metadata.as_ref().map(|metadata| format!(" in {}", metadata.name)).unwrap_or_default();
    if key.is_empty() { format!("{what}{place}") } else { format!("`{key}`: {what}{place}") }
}

/// What is revoked is not left running for longer than this.
const LONGEST_CASCADE_MS: u64 = 30_000;
/// The secret that wraps the tenants' keys.
pub(crate) const MASTER: &str = "master";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it can be written");
        Config::read(Some(file.path()))
    }

    #[test]
    fn a_store_is_named_without_its_password() {
        for (url, place) in [
            (
                "postgres://user:secret@db.example:5432/countersign?sslmode=require",
                "db.example:5432/countersign",
            ),
            ("postgresql://user@a,b:5433/x", "a,b:5433/x"),
            ("postgres://db/x?password=secret", "db/x"),
            ("postgres://user:sec/r?et@db/x", "db/x"),
            ("postgres://user:sec@ret@db/x", ""),
            ("postgres:///x?host=/run&password=secret", "/x"),
        ] {
            let store: Store = url.parse().expect("it is one");
            assert_eq!(store.place(), place, "{url}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_and_named() {
        let error = read("lissten = \"127.0.0.1:1\"").expect_err("it must not load");
        assert!(error.contains("lissten"), "{error}");
    }

    #[test]
    fn the_configuration_of_a_deployment_is_one() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/countersign.toml");
        let config = Config::read(Some(&file)).expect("it loads");
        assert!(config.behind_tls_proxy && config.public_url().starts_with("https://"));
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let error = read("[limits]\nin_flight = \"many\"").expect_err("it must not load");
        assert!(error.contains("limits.in_flight"), "{error}");
    }

    #[test]
    fn a_setting_of_mcp_out_of_its_bounds_is_refused_and_named() {
        for (text, said) in [
            ("wait_seconds = 900", "`mcp.wait_seconds`: at most 600"),
            ("store_seconds = 0", "`mcp.store_seconds`: between 1 and 60"),
            ("input_seconds = 3601", "`mcp.input_seconds`: at most 3600"),
            ("list_seconds = 0", "`mcp.list_seconds`: between 1 and 20"),
            ("alone_seconds = 61", "`mcp.alone_seconds`: between 1 and 60"),
            ("sessions_per_subject = 0", "`mcp.sessions_per_subject`: at least 1"),
            ("sessions = 0", "`mcp.sessions`: at least 1"),
            ("session_idle_seconds = 0", "`mcp.session_idle_seconds`: at least 1"),
            ("servers.a.start_seconds = 0", "`mcp.servers.a.start_seconds`: between 1 and 3600"),
            ("servers.a.timeout_seconds = 7200", "`mcp.servers.a.timeout_seconds`: between 1 and 3600"),
            ("servers.a.most_bytes = 0", "`mcp.servers.a.most_bytes`: at least 1024"),
            ("servers.a.connections = 0", "`mcp.servers.a.connections`: between 1 and 10000"),
            ("servers.a.refresh_seconds = 0", "`mcp.servers.a.refresh_seconds`: between 1 and 86400"),
        ] {
            assert_eq!(read(&format!("[mcp]\n{text}")).err().as_deref(), Some(said));
        }
        let least =
            read("[mcp]\nwait_seconds = 0\ninput_seconds = 3600\nlist_seconds = 20").expect("it loads");
        assert_eq!(least.mcp.wait(), std::time::Duration::ZERO, "what is written holds");
    }

    #[test]
    fn each_kind_of_secret_is_read_by_its_own_members() {
        let config = read(
            r#"
            [secrets.master]
            file = "/run/master"
            [secrets.plain]
            env = "TOKEN"
            hosts = ["bank.example"]
            [secrets.oauth]
            kind = "oauth2"
            token_url = "https://id.example/token"
            client_id = "gateway"
            client_secret = { env = "CLIENT_SECRET" }
            auth = "body"
            hosts = ["bank.example"]
            [secrets.certificate]
            kind = "mtls"
            certificate = "client.pem"
            key = "client.key"
            hosts = ["bank.example"]
            [secrets.cloud]
            kind = "aws-sigv4"
            access_key = { env = "AWS_ACCESS_KEY_ID" }
            secret_key = { file = "/run/aws" }
            region = "eu-central-1"
            service = "execute-api"
            hosts = ["api.example"]
            "#,
        );
        let declared = config.expect("it loads").provider_secrets().expect("each is whole");
        let shown: Vec<(&str, bool)> = declared
            .iter()
            .map(|one| {
                let fits = match one.name.as_str() {
                    "plain" => matches!(&one.kind, Kind::Static(Source::Env(name)) if name == "TOKEN"),
                    "oauth" => matches!(&one.kind, Kind::OAuth2(client) if client.auth == ClientAuth::Body),
                    "certificate" => {
                        matches!(&one.kind, Kind::Mtls { key, .. } if key == Path::new("client.key"))
                    }
                    "cloud" => matches!(&one.kind, Kind::AwsSigV4(keys) if keys.session_token.is_none()),
                    _ => false,
                };
                (one.name.as_str(), fits)
            })
            .collect();
        assert_eq!(shown, [("certificate", true), ("cloud", true), ("oauth", true), ("plain", true)]);
    }

    #[test]
    fn a_value_where_its_place_belongs_is_not_repeated() {
        let oauth = "kind = \"oauth2\"\ntoken_url = \"https://id.example\"\nclient_id = \"a\"\nhosts = []";
        for (text, named) in [
            ("secrets.bank = \"hunter2\"".to_owned(), "bank"),
            ("[secrets.bank]\nenv = [\"hunter2\"]".to_owned(), "env"),
            (format!("[secrets.bank]\n{oauth}\nclient_secret = \"hunter2\""), "client_secret"),
            (format!("[secrets.bank]\n{oauth}\nclient_secret = [\"hunter2\"]"), "client_secret"),
            (format!("[secrets.bank]\n{oauth}\nclient_secret = {{ text = \"hunter2\" }}"), "client_secret"),
            (format!("[secrets.bank]\n{oauth}\nclient_secret = {{ env = [\"hunter2\"] }}"), "client_secret"),
        ] {
            let error = read(&text).expect_err("it must not load");
            assert!(error.contains(named) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_that_says_too_little_or_too_much_is_named() {
        for (text, expected) in [
            ("kind = \"oauth2\"\ntoken_url = \"https://id.example\"\nhosts = []", "client_id"),
            ("kind = \"mtls\"\ncertificate = \"a\"\nkey = \"b\"\nenv = \"C\"\nhosts = []", "env"),
            ("kind = \"mtls\"\ncertificate = \"a\"\nkey = \"b\"", "hosts"),
            ("kind = \"oauth3\"", "oauth3"),
            ("env = \"A\"\nregion = \"b\"", "region"),
            ("kind = \"aws-sigv4\"\naccess_key = \"AKID\"", "access_key"),
        ] {
            let error = read(&format!("[secrets.bank]\n{text}")).expect_err("it must not load");
            assert!(error.contains("`bank`") && error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_public_url_follows_the_listener() {
        let config = read("listen = \"127.0.0.1:9999\"").expect("it loads");
        assert_eq!(config.public_url(), "http://127.0.0.1:9999");
    }
}
