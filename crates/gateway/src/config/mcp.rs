//! `[mcp]`: the servers of the Model Context Protocol that agents reach through us.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use action::Tenant;
use provider::mcp::{Declared, How, Keeper};
use serde::{Deserialize, Serialize};

/// Servers of the Model Context Protocol, and how long their clients are kept waiting.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mcp {
    /// So long a call waits for a person, or for its fate, before its client is told that it waits. At most 10 minutes.
    pub wait_seconds: u64,
    /// So long a call waits for the store at a stretch, before its client is told to make it again. However long people, or the
    /// tool's server, take is no part of that. 1 to 60.
    pub store_seconds: u64,
    /// So long a client may take to answer what a server asks in the midst of a call. At most an hour.
    pub input_seconds: u64,
    /// So long a greeting or a list at `/mcp`, where all servers are, waits for one of them: who is not there by then is left out,
    /// and its client is told when it comes. 1 to 20.
    pub list_seconds: u64,
    /// So long a greeting or a list waits for its server where that is the only one, at its own address and over pipes: by then the
    /// client is answered without it, and told when it comes. 1 to 60.
    pub alone_seconds: u64,
    /// Sessions of one subject's clients at once, at least 1.
    pub sessions_per_subject: usize,
    /// Sessions of all clients at once, at least 1.
    pub sessions: usize,
    /// A session that is not heard of for so long is over. At least 1.
    pub session_idle_seconds: u64,
    /// By name: 1 to 40 ASCII letters, digits and `-_.`, without `__`.
    pub servers: BTreeMap<String, McpServer>,
    /// What ends servers' processes if this one is killed. No key: only whoever opens the gateway can bring it.
    #[serde(skip)]
    pub keeper: Option<Arc<Keeper>>,
}

impl Default for Mcp {
    fn default() -> Mcp {
        Mcp {
            wait_seconds: 20,
            store_seconds: 3,
            input_seconds: 600,
            list_seconds: 5,
            alone_seconds: 20,
            sessions_per_subject: 64,
            sessions: 1024,
            session_idle_seconds: 3600,
            servers: BTreeMap::new(),
            keeper: None,
        }
    }
}

/// One server: a `command` that is started, or a `url` that is called.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpServer {
    /// The program and its arguments; no shell. Each client has a process of its own.
    pub command: Vec<String>,
    /// Its whole environment, beside `PATH` and `LANG`.
    pub env: BTreeMap<String, String>,
    /// Environment variables that hold secrets, by the names of these, which have no `hosts`.
    pub secrets: BTreeMap<String, String>,
    /// Where it is started.
    pub dir: Option<PathBuf>,
    /// The most memory that it may map, in MiB. Left out: as much as it wants.
    pub memory_mb: Option<u64>,
    /// How many files it may have open.
    pub files: u64,
    /// So long a `command` may take from its start to its greeting: some programs fetch themselves first. 1 to 3600.
    pub start_seconds: u64,
    /// Where it is called, over Streamable HTTP.
    pub url: Option<String>,
    /// Headers that hold secrets: `Authorization = { secret = "NAME", prefix = "Bearer " }`.
    pub headers: BTreeMap<String, SecretHeader>,
    /// Whose it is; the first tenant's, unless it is named.
    pub tenant: Option<String>,
    /// A request of which nothing is heard for so long is given up, and so is its list of tools if it is not all there by then.
    /// 1 to 3600.
    pub timeout_seconds: u64,
    /// The largest message taken from it, in bytes. At least 1024.
    pub most_bytes: usize,
    /// Connections to it at once, which for a `command` are processes. 1 to 10000.
    pub connections: usize,
    /// Methods and notifications of its own that clients may send it. They are no actions: nothing judges or records them.
    pub methods: Vec<String>,
    /// For how long its list of tools is believed, unless it says that it changed. 1 to 86400.
    pub refresh_seconds: u64,
}

/// A header that holds a secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretHeader {
    /// The secret's name.
    pub secret: String,
    /// What stands before it.
    #[serde(default)]
    pub prefix: String,
}

impl Default for McpServer {
    fn default() -> McpServer {
        McpServer {
            command: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            dir: None,
            memory_mb: None,
            files: 1024,
            start_seconds: 120,
            url: None,
            headers: BTreeMap::new(),
            tenant: None,
            timeout_seconds: 60,
            most_bytes: 4 * 1024 * 1024,
            connections: 32,
            methods: Vec::new(),
            refresh_seconds: 60,
        }
    }
}

impl Mcp {
    /// See `wait_seconds`.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }

    /// See `store_seconds`.
    pub fn store(&self) -> Duration {
        Duration::from_secs(self.store_seconds)
    }

    /// See `input_seconds`.
    pub fn input(&self) -> Duration {
        Duration::from_secs(self.input_seconds)
    }

    /// See `list_seconds`.
    pub fn listing(&self) -> Duration {
        Duration::from_secs(self.list_seconds)
    }

    /// See `alone_seconds`.
    pub fn alone(&self) -> Duration {
        Duration::from_secs(self.alone_seconds)
    }

    /// What is out of its bounds is refused, and not made to be within them: what is written holds.
    ///
    /// # Errors
    /// The first that is.
    pub(super) fn must_be_within_bounds(&self) -> Result<(), String> {
        within("mcp.wait_seconds", self.wait_seconds, 0..=600)?;
        within("mcp.store_seconds", self.store_seconds, 1..=60)?;
        within("mcp.input_seconds", self.input_seconds, 0..=3600)?;
        within("mcp.list_seconds", self.list_seconds, 1..=20)?;
        within("mcp.alone_seconds", self.alone_seconds, 1..=60)?;
        within("mcp.sessions_per_subject", count(self.sessions_per_subject), 1..=u64::MAX)?;
        within("mcp.sessions", count(self.sessions), 1..=u64::MAX)?;
        within("mcp.session_idle_seconds", self.session_idle_seconds, 1..=u64::MAX)?;
        for (name, server) in &self.servers {
            let of = |field: &str| format!("mcp.servers.{name}.{field}");
            within(&of("start_seconds"), server.start_seconds, 1..=3600)?;
            within(&of("timeout_seconds"), server.timeout_seconds, 1..=3600)?;
            within(&of("most_bytes"), count(server.most_bytes), 1024..=u64::MAX)?;
            within(&of("connections"), count(server.connections), 1..=10_000)?;
            within(&of("refresh_seconds"), server.refresh_seconds, 1..=86_400)?;
        }
        Ok(())
    }

    /// The servers as they are read, each with its tenant.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn declared(&self, tenants: &[Tenant]) -> Result<Vec<Declared>, String> {
        self.servers.iter().map(|(name, server)| server.declare(name, self, tenants)).collect()
    }
}

impl McpServer {
    fn declare(&self, name: &str, mcp: &Mcp, tenants: &[Tenant]) -> Result<Declared, String> {
        let wrong = |what: &str| format!("`mcp.servers.{name}`: {what}");
        let tenant = match &self.tenant {
            None => tenants.first().cloned().unwrap_or_default(),
            Some(named) => {
                let found = tenants.iter().find(|tenant| tenant.as_str() == named);
                found.cloned().ok_or_else(|| wrong(&format!("tenant `{named}` is not served")))?
            }
        };
        let how = match (&self.url, self.command.is_empty()) {
            (None, false) => How::Process {
                command: self.command.clone(),
                env: self.env.clone(),
                secrets: self.secrets.clone(),
                dir: self.dir.clone(),
                most_memory: self.memory_mb.map(|mb| mb.saturating_mul(1024 * 1024)),
                most_files: self.files,
            },
            (Some(url), true) => {
                let header = |(name, it): (&String, &SecretHeader)| {
                    (name.clone(), (it.secret.clone(), it.prefix.clone()))
                };
                How::Address { url: url.clone(), headers: self.headers.iter().map(header).collect() }
            }
            _ => return Err(wrong("give either a `command` or a `url`")),
        };
        Ok(Declared {
            name: name.to_owned(),
            tenant,
            how,
            start: Duration::from_secs(self.start_seconds),
            timeout: Duration::from_secs(self.timeout_seconds),
            input: mcp.input(),
            most_bytes: self.most_bytes,
            most_links: self.connections,
            methods: self.methods.clone(),
            believe: Duration::from_secs(self.refresh_seconds),
            keeper: mcp.keeper.clone(),
        })
    }
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn within(name: &str, value: u64, bounds: RangeInclusive<u64>) -> Result<(), String> {
    let (least, most) = bounds.into_inner();
    match (least <= value && value <= most, least, most) {
        (true, ..) => Ok(()),
        (_, _, u64::MAX) => Err(format!("`{name}`: at least {least}")),
        (_, 0, _) => Err(format!("`{name}`: at most {most}")),
        _ => Err(format!("`{name}`: between {least} and {most}")),
    }
}
