//! What the operator lets us reach beyond public addresses over HTTPS.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use url::{Host, Url};

use super::address::{self, Class};

/// What the operator lists. Nothing listed means: public addresses, over HTTPS.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    networks: Vec<IpNet>,
    hosts: Vec<HostPort>,
    plain: Vec<HostPort>,
    challenges: Vec<HostPort>,
}

/// A host and a port, the host in its canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: Host<String>,
    port: u16,
}

/// Where requests go: scheme, host and port. Nothing that a request carries can change it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    tls: bool,
    at: HostPort,
}

/// Why a place is not to be reached, or a rule not to be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refused {
    #[error("`{0}` is neither an address, a network nor `host:port`")]
    Rule(String),
    #[error("`{0}` is not `host:port`")]
    HostPort(String),
    #[error("`{0}` is not a URL")]
    Url(String),
    #[error("the scheme `{0}` is not http or https")]
    Scheme(String),
    #[error("a URL with a user or password in it is not accepted")]
    Credentials,
    #[error("the host of `{0}` ends with a dot")]
    TrailingDot(String),
    #[error("plain http to `{0}` is not allowed")]
    Plain(HostPort),
    #[error("`{at}` is {what} ({address})")]
    Address { at: HostPort, address: IpAddr, what: &'static str },
    #[error("`{0}` is this gateway itself")]
    Ourselves(HostPort),
    #[error("`{0}` has no address")]
    NoAddress(HostPort),
    #[error("no client for `{0}` can be made from the system's certificates")]
    Client(HostPort),
}

impl Rules {
    /// Reads what the operator wrote: `allow` holds addresses, networks (CIDR) and `host:port`; `plain` holds
    /// `host:port` that may be spoken to without TLS.
    ///
    /// A `host:port` lets that name have a loopback or private address. Link-local, metadata, multicast and the
    /// other special addresses open only to a network that contains them.
    ///
    /// # Errors
    /// The first entry that cannot be read.
    pub fn parse<S: AsRef<str>>(allow: &[S], plain: &[S]) -> Result<Rules, Refused> {
        let mut rules = Rules::default();
        for text in allow.iter().map(AsRef::as_ref) {
            if let Ok(network) = text.parse::<IpNet>() {
                rules.networks.push(network.trunc());
            } else if let Ok(address) = text.parse::<IpAddr>() {
                rules.networks.push(IpNet::from(address));
            } else {
                let host = HostPort::parse(text, None).map_err(|_| Refused::Rule(text.to_owned()))?;
                rules.hosts.push(host);
            }
        }
        for text in plain.iter().map(AsRef::as_ref) {
            rules.plain.push(HostPort::parse(text, None)?);
        }
        Ok(rules)
    }

    /// With the places to which people may be sent to confirm something: `host` (port 443) or `host:port`.
    ///
    /// # Errors
    /// The first entry that cannot be read.
    pub fn and_challenges<S: AsRef<str>>(self, hosts: &[S]) -> Result<Rules, Refused> {
        let parse = |host: &S| HostPort::parse(host.as_ref(), Some(443));
        Ok(Rules { challenges: hosts.iter().map(parse).collect::<Result<_, _>>()?, ..self })
    }

    fn lists(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

impl HostPort {
    /// Reads `host:port`, or `host` alone where there is a port to assume.
    ///
    /// # Errors
    /// [`Refused::HostPort`] with the text.
    pub fn parse(text: &str, assumed: Option<u16>) -> Result<HostPort, Refused> {
        let refused = || Refused::HostPort(text.to_owned());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| refused())?),
            _ => (text, assumed.ok_or_else(refused)?),
        };
        let host = Host::parse(host).map_err(|_| refused())?;
        if port == 0 || ends_with_dot(&host) {
            return Err(refused());
        }
        Ok(HostPort { host, port })
    }
}

impl HostPort {
    /// The host alone; an address without brackets.
    pub(crate) fn name(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

impl Origin {
    /// The origin of a URL, by its scheme and authority alone; whether it may be reached is not asked.
    ///
    /// # Errors
    /// What about the URL is not accepted.
    pub fn of(url: &Url) -> Result<Origin, Refused> {
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(Refused::Scheme(other.to_owned())),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        let host = url.host().ok_or_else(|| Refused::Url(url.to_string()))?.to_owned();
        if ends_with_dot(&host) {
            return Err(Refused::TrailingDot(host.to_string()));
        }
        let port = url.port_or_known_default().ok_or_else(|| Refused::Url(url.to_string()))?;
        Ok(Origin { tls, at: HostPort { host, port } })
    }

    /// A place that is no web server.
    pub(crate) fn new(tls: bool, at: HostPort) -> Origin {
        Origin { tls, at }
    }

    /// The host and port.
    pub fn at(&self) -> &HostPort {
        &self.at
    }

    /// The host when it is written as an address. No resolver is asked for such a one.
    pub(crate) fn literal(&self) -> Option<IpAddr> {
        match self.at.host {
            Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
            Host::Domain(_) => None,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.at.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}", if self.tls { "https" } else { "http" }, self.at)
    }
}

/// The rules with what is learnt while running: where this gateway itself listens.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    rules: Rules,
    ourselves: RwLock<Vec<SocketAddr>>,
}

impl Gate {
    pub(crate) fn new(rules: Rules) -> Arc<Gate> {
        Arc::new(Gate { rules, ourselves: RwLock::default() })
    }

    /// Where people may be sent to confirm something.
    pub(crate) fn challenge_hosts(&self) -> &[HostPort] {
        &self.rules.challenges
    }

    pub(crate) fn add_listener(&self, listener: SocketAddr) {
        self.ourselves.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Whether the origin may be spoken to at all, as far as can be told before its name is resolved.
    pub(crate) fn admit(&self, origin: &Origin) -> Result<(), Refused> {
        if !origin.tls && !self.rules.plain.contains(&origin.at) {
            return Err(Refused::Plain(origin.at.clone()));
        }
        origin.literal().map_or(Ok(()), |address| self.check(origin, address))
    }

    /// Whether a connection to this address may be opened on behalf of the origin.
    pub(crate) fn check(&self, origin: &Origin, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        if self.is_ourselves(address, origin.at.port) {
            return Err(Refused::Ourselves(origin.at.clone()));
        }
        let (listed, what) = match address::class(address) {
            Class::Public => return Ok(()),
            Class::Inside(what) => (self.rules.hosts.contains(&origin.at), what),
            Class::Special(what) => (false, what),
        };
        if listed || self.rules.lists(address) {
            return Ok(());
        }
        Err(Refused::Address { at: origin.at.clone(), address, what })
    }

    fn is_ourselves(&self, address: IpAddr, port: u16) -> bool {
        let ourselves = self.ourselves.read().unwrap_or_else(PoisonError::into_inner);
        ourselves.iter().filter(|listener| listener.port() == port).any(|listener| {
            let ip = listener.ip().to_canonical();
            // Connecting to the unspecified address reaches this machine.
            ip == address || address.is_unspecified() || (ip.is_unspecified() && is_local(address))
        })
    }
}

/// Whether the address belongs to this machine: only such a one can be bound.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

fn ends_with_dot(host: &Host<String>) -> bool {
    matches!(host, Host::Domain(name) if name.ends_with('.'))
}
