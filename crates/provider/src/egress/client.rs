//! Clients, one per destination, and the exchange.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use execution::Doubt;
use reqwest::header::{CONNECTION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder, Method, redirect, retry};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::identity::Identity;
use super::line::Line;
use super::resolver::{Guard, Lookup, SystemLookup};
use super::rules::{Gate, HostPort, Origin, Refused, Rules};

/// The way out. One per gateway.
pub struct Egress {
    gate: Arc<Gate>,
    lookup: Arc<dyn Lookup>,
    roots: Vec<CertificateDer<'static>>,
    clients: Mutex<HashMap<Key, Client>>,
}

/// What a client is made for. No connection is shared between two of them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    origin: Origin,
    connecting: Duration,
    identity: Option<Identity>,
}

/// A place that may be spoken to, and how long an exchange with it may take.
#[derive(Clone)]
pub struct Destination {
    origin: Origin,
    timeout: Duration,
    gate: Arc<Gate>,
    client: Client,
}

/// What is sent.
pub struct Request {
    /// GET, POST and so on.
    pub method: Method,
    /// Percent-encoded, beginning with `/`.
    pub path_and_query: String,
    /// Beside those that the client sets itself.
    pub headers: HeaderMap,
    /// Sent as it is.
    pub body: Option<Vec<u8>>,
    /// How many bytes of body are read, counted after decompression.
    pub most_bytes: usize,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Exchange {
    /// A status came back.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The body, decompressed, or why it could not be had.
        body: Result<Vec<u8>, BodyFault>,
    },
    /// No byte of the request left.
    NotSent(String),
    /// The request may have left; nothing is known.
    Lost(Doubt, String),
}

/// Why a body is not there although a status is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BodyFault {
    #[error("the body of the answer is larger than allowed")]
    TooLarge,
    #[error("the body of the answer did not end in time")]
    Late,
    #[error("the body of the answer broke off")]
    Broken,
}

impl Egress {
    /// A way out under these rules, with the system's resolver and certificates.
    pub fn new(rules: Rules) -> Egress {
        Egress::with_lookup(rules, Arc::new(SystemLookup))
    }

    /// As [`Egress::new`], with another way to resolve names.
    pub fn with_lookup(rules: Rules, lookup: Arc<dyn Lookup>) -> Egress {
        Egress { gate: Gate::new(rules), lookup, roots: Vec::new(), clients: Mutex::default() }
    }

    /// Trusts the certificates of a PEM bundle beside the system's. Before the first destination.
    ///
    /// # Errors
    /// When the text holds no readable certificate.
    pub fn trust(&mut self, pem: &[u8]) -> Result<(), NoCertificate> {
        let found: Vec<_> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| NoCertificate)?;
        if found.is_empty() {
            return Err(NoCertificate);
        }
        self.roots.extend(found);
        Ok(())
    }

    /// Remembers where this gateway listens: nothing is ever sent there.
    pub fn never_call(&self, listener: SocketAddr) {
        self.gate.add_listener(listener);
    }

    /// Where people may be sent to confirm something, as the operator says. Nothing is sent there by us.
    pub(crate) fn challenge_hosts(&self) -> &[HostPort] {
        self.gate.challenge_hosts()
    }

    /// The destination a URL points to. `timeout` is for everything: connecting, sending, waiting and reading the
    /// body.
    ///
    /// # Errors
    /// Why it may not be spoken to. A name is not resolved here; its addresses are checked whenever a connection is
    /// opened.
    pub fn destination(&self, url: &Url, timeout: Duration) -> Result<Destination, Refused> {
        self.destination_as(None, url, timeout)
    }

    /// As [`Egress::destination`], with a client certificate to show there.
    ///
    /// # Errors
    /// As there.
    pub fn destination_as(
        &self,
        identity: Option<&Identity>,
        url: &Url,
        timeout: Duration,
    ) -> Result<Destination, Refused> {
        let origin = Origin::of(url)?;
        self.gate.admit(&origin)?;
        // Half of the time at most goes into connecting, so that a connection that does not come about is known as
        // such, and not only as an answer that did not come.
        let connecting = MOST_CONNECTING.min(timeout / 2);
        let key = Key { origin: origin.clone(), connecting, identity: identity.cloned() };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match clients.get(&key) {
            Some(client) => client.clone(),
            None => {
                let client = self.client(&key).map_err(|_| Refused::Client(origin.at().clone()))?;
                clients.insert(key, client.clone());
                client
            }
        };
        Ok(Destination { origin, timeout, gate: Arc::clone(&self.gate), client })
    }

    /// A way for what is not HTTP.
    ///
    /// # Errors
    /// Why the place may not be spoken to.
    pub(crate) fn line(&self, origin: Origin) -> Result<Line, Refused> {
        self.gate.admit(&origin)?;
        Ok(Line { guard: self.guard(origin), roots: self.roots.clone() })
    }

    fn guard(&self, origin: Origin) -> Guard {
        Guard { origin, gate: Arc::clone(&self.gate), lookup: Arc::clone(&self.lookup) }
    }

    /// A way to one place for whoever keeps connections to it that live longer than an exchange.
    ///
    /// # Errors
    /// Why the place may not be spoken to.
    pub(crate) fn apart(&self, origin: Origin) -> Result<Apart, Refused> {
        self.gate.admit(&origin)?;
        Ok(Apart { guard: self.guard(origin), roots: self.roots.clone() })
    }

    fn client(&self, key: &Key) -> reqwest::Result<Client> {
        let mut builder = careful(self.guard(key.origin.clone()), &self.roots)?;
        if let Some(identity) = &key.identity {
            builder = builder.identity(identity.shown());
        }
        builder
            .connect_timeout(key.connecting)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .build()
    }
}

/// A way to one place, by the same rules, in clients of which no two share a connection.
pub(crate) struct Apart {
    guard: Guard,
    roots: Vec<CertificateDer<'static>>,
}

impl Apart {
    /// A new client, which keeps no connection for the next exchange. Keeps (one exchange).
    ///
    /// # Errors
    /// Why the place may not be spoken to.
    pub(crate) fn client(&self) -> Result<Client, Refused> {
        self.build(|builder| builder.pool_max_idle_per_host(0))
    }

    /// A new client that keeps its connections, for whoever can tell whose an answer is without (one exchange).
    ///
    /// # Errors
    /// Why the place may not be spoken to.
    pub(crate) fn keeping_client(&self) -> Result<Client, Refused> {
        self.build(|builder| builder.pool_max_idle_per_host(MOST_IDLE).pool_idle_timeout(BRIEFLY))
    }

    fn build(&self, pool: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client, Refused> {
        let origin = &self.guard.origin;
        self.guard.gate.admit(origin)?;
        careful(self.guard.clone(), &self.roots)
            .and_then(|builder| pool(builder.connect_timeout(MOST_CONNECTING)).build())
            .map_err(|_| Refused::Client(origin.at().clone()))
    }
}

impl fmt::Debug for Apart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Apart").field(&self.guard.origin).finish()
    }
}

/// What holds for every client.
fn careful(guard: Guard, roots: &[CertificateDer<'static>]) -> reqwest::Result<ClientBuilder> {
    let roots: Vec<_> = roots.iter().map(|root| Certificate::from_der(root)).collect::<Result<_, _>>()?;
    let builder = Client::builder()
        .dns_resolver(Arc::new(guard))
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
        .tls_version_min(reqwest::tls::Version::TLS_1_2)
        .tls_certs_merge(roots);
    Ok(builder)
}

impl fmt::Debug for Egress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Egress").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Destination {
    /// Where it is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How long an exchange takes at most.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a request and reads the answer.
    ///
    /// INVARIANT (one exchange): a connection of HTTP/1 serves one exchange. Nothing in HTTP/1 says which request an answer
    /// is to, so whatever a peer or a proxy writes once too often would be taken for the answer to the next question, and
    /// "no such payment" said of another payment has this one paid twice. Streams of HTTP/2 are told apart; there the
    /// header is left out by the client and the connection is kept.
    pub async fn exchange(&self, request: Request) -> Exchange {
        // Literal addresses never meet the resolver, and our own listeners may have come since.
        if let Err(refused) = self.gate.admit(&self.origin) {
            return Exchange::NotSent(refused.to_string());
        }
        let url = format!("{}{}", self.origin, request.path_and_query);
        let mut outgoing = self
            .client
            .request(request.method, url)
            .headers(request.headers)
            .header(CONNECTION, HeaderValue::from_static("close"))
            .timeout(self.timeout);
        if let Some(body) = request.body {
            outgoing = outgoing.body(body);
        }
        match outgoing.send().await {
            Ok(response) => Exchange::Answered {
                status: response.status().as_u16(),
                body: read_body(response, request.most_bytes).await,
            },
            Err(error) if error.is_connect() || error.is_builder() => Exchange::NotSent(why_not_sent(&error)),
            Err(error) if error.is_timeout() => {
                Exchange::Lost(Doubt::NoAnswer, "no answer came in time".to_owned())
            }
            Err(_) => Exchange::Lost(Doubt::Broken, "the connection broke before an answer came".to_owned()),
        }
    }
}

/// What goes along, credentials too, is not shown.
impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Request").field("method", &self.method).finish_non_exhaustive()
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Destination").field(&self.origin).finish()
    }
}

async fn read_body(mut response: reqwest::Response, most_bytes: usize) -> Result<Vec<u8>, BodyFault> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > most_bytes => return Err(BodyFault::TooLarge),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) if error.is_timeout() => return Err(BodyFault::Late),
            Err(_) => return Err(BodyFault::Broken),
        }
    }
}

/// Fixed texts: an error of the client may carry the URL, and with it values of the request.
fn why_not_sent(error: &reqwest::Error) -> String {
    if error.is_builder() {
        return "the request could not be built".to_owned();
    }
    for cause in causes(error) {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return refused.to_string();
        }
        if cause.is::<rustls::Error>() {
            return "the TLS handshake failed".to_owned();
        }
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::ConnectionRefused
        {
            return "the connection was refused".to_owned();
        }
    }
    let text = if error.is_dns() {
        "the name could not be resolved"
    } else if error.is_timeout() {
        "no connection came about in time"
    } else {
        "no connection came about"
    };
    text.to_owned()
}

/// An error and what caused it. An `io::Error` passes over the error inside it when asked for its source.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| below(*error))
}

fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// A certificate bundle that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no certificate could be read from the PEM text")]
pub struct NoCertificate;

/// Name resolution, TCP and TLS together.
const MOST_CONNECTING: Duration = Duration::from_secs(5);

/// For HTTP/2. Shorter than servers usually wait, so that a request seldom meets a connection that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// For HTTP/1, where whoever meets a connection that is just being closed cannot know whether the request was read. Servers of
/// the usual kinds wait five seconds or more.
const BRIEFLY: Duration = Duration::from_secs(2);

const MOST_IDLE: usize = 64;
