//! Credentials, each with the hosts that may see it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use reqwest::header::HeaderValue;
use zeroize::{Zeroize, Zeroizing};

use crate::egress::{HostPort, Origin};

/// All the secrets that the operator has named.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    by_name: BTreeMap<String, Arc<Secret>>,
}

/// What the operator writes about one secret.
#[derive(Clone, Debug)]
pub struct Declared {
    /// What bindings call it.
    pub name: String,
    /// Where its value is.
    pub source: Source,
    /// `host` (port 443) or `host:port` it may be sent to. None: it never leaves this process.
    pub hosts: Vec<String>,
}

/// Where the value of a secret is.
#[derive(Clone, Debug)]
pub enum Source {
    /// An environment variable.
    Env(String),
    /// A file; one newline at its end is not part of the value.
    File(PathBuf),
}

/// A value that is shown to its hosts and to nobody else: not in a log, not in an error, not by `Debug`. The memory is
/// wiped when it is dropped.
pub struct Secret {
    name: String,
    value: Zeroizing<String>,
    hosts: Vec<HostPort>,
}

/// Why a secret cannot be used. The texts name secrets, never show them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("secret `{name}`: environment variable `{variable}` is not set or not text")]
    Env { name: String, variable: String },
    #[error("secret `{name}`: file `{file}` cannot be read as text")]
    File { name: String, file: String },
    #[error("secret `{name}` is empty, longer than {MOST_BYTES} bytes or contains control characters")]
    Value { name: String },
    #[error("secret `{name}`: `{host}` is neither a host nor `host:port`")]
    Host { name: String, host: String },
    #[error("secret `{name}` is declared twice")]
    Twice { name: String },
    #[error("secret `{name}` may not be sent to `{at}`")]
    NotThere { name: String, at: HostPort },
    #[error("secret `{name}` has hosts, so it is not one that stays here")]
    NotHere { name: String },
}

impl Secrets {
    /// Reads every value now, so that what is missing is known at the start.
    ///
    /// # Errors
    /// All the secrets that cannot be had.
    pub fn load(declared: impl IntoIterator<Item = Declared>) -> Result<Secrets, Vec<Error>> {
        let mut secrets = Secrets::default();
        let mut errors = Vec::new();
        for one in declared {
            let name = one.name.clone();
            match Secret::load(one) {
                Ok(secret) => {
                    if secrets.by_name.insert(name.clone(), Arc::new(secret)).is_some() {
                        errors.push(Error::Twice { name });
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(secrets) } else { Err(errors) }
    }

    /// The secret with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Secret>> {
        self.by_name.get(name)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

impl Secret {
    fn load(declared: Declared) -> Result<Secret, Error> {
        let Declared { name, source, hosts } = declared;
        let mut value = read(&name, source)?;
        if value.ends_with('\n') {
            value.pop();
        }
        if value.ends_with('\r') {
            value.pop();
        }
        if value.is_empty() || value.len() > MOST_BYTES || value.chars().any(char::is_control) {
            return Err(Error::Value { name });
        }
        let hosts = hosts
            .into_iter()
            .map(|host| {
                HostPort::parse(&host, Some(443)).map_err(|_| Error::Host { name: name.clone(), host })
            })
            .collect::<Result<Vec<HostPort>, Error>>()?;
        Ok(Secret { name, value, hosts })
    }

    /// What bindings call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value, for a secret without hosts: one that this process keeps to itself.
    ///
    /// # Errors
    /// [`Error::NotHere`] for a secret that belongs to a provider.
    pub fn reveal_here(&self) -> Result<&str, Error> {
        if self.hosts.is_empty() { Ok(&self.value) } else { Err(Error::NotHere { name: self.name.clone() }) }
    }

    /// Whether this secret may be sent to that origin.
    ///
    /// # Errors
    /// [`Error::NotThere`].
    pub(crate) fn may_go_to(&self, origin: &Origin) -> Result<(), Error> {
        if self.hosts.contains(origin.at()) {
            return Ok(());
        }
        Err(Error::NotThere { name: self.name.clone(), at: origin.at().clone() })
    }

    /// A header with the value in it, made for one origin.
    pub(crate) fn header_for(&self, origin: &Origin, prefix: &str) -> Result<HeaderValue, Error> {
        self.may_go_to(origin)?;
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + self.value.len()));
        text.push_str(prefix);
        text.push_str(&self.value);
        let mut header =
            HeaderValue::from_str(&text).map_err(|_| Error::Value { name: self.name.clone() })?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Takes the value out of a text that came from outside. Whether it was there.
    pub(crate) fn strike_from(&self, text: &mut String) -> bool {
        let found = text.contains(self.value.as_str());
        if found {
            let clean = text.replace(self.value.as_str(), "[secret]");
            text.zeroize();
            *text = clean;
        }
        found
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Secret")
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

fn read(name: &str, source: Source) -> Result<Zeroizing<String>, Error> {
    let name = || name.to_owned();
    match source {
        Source::Env(variable) => std::env::var(&variable).map_err(|_| Error::Env { name: name(), variable }),
        Source::File(path) => std::fs::read_to_string(&path)
            .map_err(|_| Error::File { name: name(), file: path.display().to_string() }),
    }
    .map(Zeroizing::new)
}

/// Far more than any credential in a header needs.
const MOST_BYTES: usize = 8192;
