//! Credentials, each with the hosts that may see it.
//!
//! A secret is one of four kinds. A static one is a value that a binding puts into a header; the others authenticate
//! every request of the bindings that name them in `auth`:
//!
//! | kind | what the hosts see | what they never see |
//! |---|---|---|
//! | static | the value | |
//! | oauth2 | an access token | the client's secret, which only the token endpoint gets |
//! | mtls | a certificate | its key |
//! | aws-sigv4 | a signature of the one request, the session token | the secret key |

mod aws;
mod mtls;
mod oauth2;
mod source;
mod strike;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use reqwest::header::HeaderValue;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::egress::{HostPort, Origin};

pub use aws::AwsKeys;
pub(crate) use aws::AwsSigner;
pub(crate) use mtls::Certificate;
pub use oauth2::{ClientAuth, OAuth2Client};
pub(crate) use oauth2::{OAuth2, Place};
pub use source::{Given, Source, read_private};
use source::{NO_VALUE, Values};

/// All the secrets that the operator has named.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    by_name: BTreeMap<String, Held>,
}

/// What the operator writes about one secret.
#[derive(Clone, Debug)]
pub struct Declared {
    /// What bindings call it.
    pub name: String,
    /// How it authenticates.
    pub kind: Kind,
    /// `host` (port 443) or `host:port` it may be sent to. None: it never leaves this process.
    pub hosts: Vec<String>,
}

/// How a secret authenticates.
#[derive(Clone, Debug)]
pub enum Kind {
    /// As a value in the header that a binding names.
    Static(Source),
    /// By an access token that the client's own credentials buy (RFC 6749, section 4.4).
    OAuth2(OAuth2Client),
    /// By a client certificate.
    Mtls {
        /// PEM file with the chain, the client's own certificate first.
        certificate: PathBuf,
        /// PEM file with its private key, readable by its owner only.
        key: PathBuf,
    },
    /// By AWS Signature Version 4.
    AwsSigV4(AwsKeys),
}

/// A secret that is ready for use.
#[derive(Clone, Debug)]
enum Held {
    Static(Arc<Secret>),
    Credential(Credential),
}

/// A secret that authenticates whole requests.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    OAuth2(Arc<OAuth2>),
    Certificate(Arc<Certificate>),
    AwsSigV4(Arc<AwsSigner>),
}

/// A value that is shown to its hosts and to nobody else: not in a log, not in an error, not by `Debug`. The memory is
/// wiped when it is dropped.
pub struct Secret {
    value: Zeroizing<String>,
    hosts: Hosts,
}

/// The places that may see what a secret sends.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    name: String,
    listed: Vec<HostPort>,
}

/// Why a secret cannot be used. The texts name secrets, never show them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("there is no secret `{name}`")]
    Unknown { name: String },
    #[error(
        "secret `{name}` is of kind {kind}, which authenticates whole requests and is no value for a header"
    )]
    NotStatic { name: String, kind: &'static str },
    #[error("secret `{name}` is a static value, which stands in a header")]
    Static { name: String },
    #[error("secret `{name}`: environment variable `{variable}` is not set or not text")]
    Env { name: String, variable: String },
    #[error("secret `{name}`: file `{file}` cannot be read as text")]
    File { name: String, file: String },
    #[error("secret `{name}`: {why}")]
    Private { name: String, why: String },
    #[error("secret `{name}` is empty, longer than {MOST_BYTES} bytes or contains control characters")]
    Value { name: String },
    #[error("secret `{name}`: `{member}` is {rule}")]
    Member { name: String, member: &'static str, rule: &'static str },
    #[error("secret `{name}`: `{file}` holds {what}")]
    Pem { name: String, file: String, what: &'static str },
    #[error("secret `{name}`: the key in `{key}` does not belong to the certificate in `{certificate}`")]
    Mismatch { name: String, certificate: String, key: String },
    #[error("secret `{name}`: `{host}` is neither a host nor `host:port`")]
    Host { name: String, host: String },
    #[error("secret `{name}` has no `hosts`, so it authenticates nowhere")]
    NoHosts { name: String },
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
        Secrets::gather(declared, Values::Real)
    }

    /// The same secrets with nothing in them: no variable and no file is read. Bindings can be checked against them.
    ///
    /// # Errors
    /// All the secrets whose declaration is wrong.
    pub fn stand_ins(declared: impl IntoIterator<Item = Declared>) -> Result<Secrets, Vec<Error>> {
        Secrets::gather(declared, Values::StandIn)
    }

    fn gather(declared: impl IntoIterator<Item = Declared>, values: Values) -> Result<Secrets, Vec<Error>> {
        let mut secrets = Secrets::default();
        let mut errors = Vec::new();
        for one in declared {
            let name = one.name.clone();
            match Held::load(one, values) {
                Ok(held) => {
                    if secrets.by_name.insert(name.clone(), held).is_some() {
                        errors.push(Error::Twice { name });
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(secrets) } else { Err(errors) }
    }

    /// The static secret with this name.
    ///
    /// # Errors
    /// There is none, or it is of another kind.
    pub fn get(&self, name: &str) -> Result<&Arc<Secret>, Error> {
        match self.held(name)? {
            Held::Static(secret) => Ok(secret),
            Held::Credential(credential) => {
                Err(Error::NotStatic { name: name.to_owned(), kind: credential.kind() })
            }
        }
    }

    /// The secret with this name that authenticates whole requests.
    pub(crate) fn credential(&self, name: &str) -> Result<&Credential, Error> {
        match self.held(name)? {
            Held::Credential(credential) => Ok(credential),
            Held::Static(_) => Err(Error::Static { name: name.to_owned() }),
        }
    }

    fn held(&self, name: &str) -> Result<&Held, Error> {
        self.by_name.get(name).ok_or_else(|| Error::Unknown { name: name.to_owned() })
    }
}

impl Held {
    fn load(declared: Declared, values: Values) -> Result<Held, Error> {
        let Declared { name, kind, hosts } = declared;
        let hosts = Hosts::parse(&name, hosts)?;
        // A static secret without hosts is one that this process keeps to itself; the other kinds are of no use here.
        if hosts.listed.is_empty() && !matches!(kind, Kind::Static(_)) {
            return Err(Error::NoHosts { name });
        }
        Ok(match kind {
            Kind::Static(source) => {
                let value = values.read(&name, &source)?;
                Held::Static(Arc::new(Secret { value, hosts }))
            }
            Kind::OAuth2(client) => {
                Held::Credential(Credential::OAuth2(Arc::new(OAuth2::load(hosts, client, values)?)))
            }
            Kind::Mtls { certificate, key } => {
                let certificate = Certificate::load(hosts, &certificate, &key, values)?;
                Held::Credential(Credential::Certificate(Arc::new(certificate)))
            }
            Kind::AwsSigV4(keys) => {
                Held::Credential(Credential::AwsSigV4(Arc::new(AwsSigner::load(hosts, keys, values)?)))
            }
        })
    }
}

impl Credential {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Credential::OAuth2(_) => "oauth2",
            Credential::Certificate(_) => "mtls",
            Credential::AwsSigV4(_) => "aws-sigv4",
        }
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        match self {
            Credential::OAuth2(client) => client.hosts(),
            Credential::Certificate(certificate) => certificate.hosts(),
            Credential::AwsSigV4(signer) => signer.hosts(),
        }
    }
}

impl Hosts {
    fn parse(name: &str, hosts: Vec<String>) -> Result<Hosts, Error> {
        let parse = |host: String| {
            HostPort::parse(&host, Some(443)).map_err(|_| Error::Host { name: name.to_owned(), host })
        };
        Ok(Hosts { name: name.to_owned(), listed: hosts.into_iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// Whether what the secret sends may go to that origin.
    ///
    /// # Errors
    /// [`Error::NotThere`].
    pub(crate) fn admit(&self, origin: &Origin) -> Result<(), Error> {
        if self.listed.contains(origin.at()) {
            return Ok(());
        }
        Err(Error::NotThere { name: self.name.clone(), at: origin.at().clone() })
    }
}

impl Secret {
    /// A value that came into being while running: a token, a signature.
    fn made(value: String, hosts: &Hosts) -> Arc<Secret> {
        Arc::new(Secret { value: Zeroizing::new(value), hosts: hosts.clone() })
    }

    /// What bindings call it.
    pub fn name(&self) -> &str {
        &self.hosts.name
    }

    /// The value, for a secret without hosts: one that this process keeps to itself.
    ///
    /// # Errors
    /// [`Error::NotHere`] for a secret that belongs to a provider.
    pub fn reveal_here(&self) -> Result<&str, Error> {
        if self.hosts.listed.is_empty() {
            return Ok(&self.value);
        }
        Err(Error::NotHere { name: self.name().to_owned() })
    }

    /// Is there nothing in it, because it only stands in for one in a check?
    pub(crate) fn is_stand_in(&self) -> bool {
        *self.value == NO_VALUE
    }

    /// Whether this secret may be sent to that origin.
    ///
    /// # Errors
    /// [`Error::NotThere`].
    pub(crate) fn may_go_to(&self, origin: &Origin) -> Result<(), Error> {
        self.hosts.admit(origin)
    }

    /// The value, for what is made of it to be sent to one origin.
    ///
    /// # Errors
    /// [`Error::NotThere`].
    pub(crate) fn value_for(&self, origin: &Origin) -> Result<&str, Error> {
        self.may_go_to(origin)?;
        Ok(&self.value)
    }

    /// A header with the value in it, made for one origin.
    pub(crate) fn header_for(&self, origin: &Origin, prefix: &str) -> Result<HeaderValue, Error> {
        self.may_go_to(origin)?;
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + self.value.len()));
        text.push_str(prefix);
        text.push_str(&self.value);
        sensitive(&text).ok_or_else(|| Error::Value { name: self.name().to_owned() })
    }

    /// Takes the value out of a text that came from outside, also where it is escaped as in JSON. Whether it was there.
    pub(crate) fn strike_from(&self, text: &mut String) -> bool {
        strike::from_text(&self.value, text)
    }

    /// The same from all that is text in a value of JSON.
    pub(crate) fn strike_from_json(&self, json: &mut Value) -> bool {
        strike::from_json(&self.value, json)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Secret")
            .field("name", &self.hosts.name)
            .field("hosts", &self.hosts.listed)
            .finish_non_exhaustive()
    }
}

/// A header that is not shown, or nothing if the text cannot stand in one.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Far more than any credential in a header needs.
pub(crate) const MOST_BYTES: usize = 8192;
