//! The listener: connections in, with or without TLS, and an orderly end. What is said on them is `talk`'s.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::host::Hosts;
use crate::request::{Limits, RequestIds};
use crate::session::Sessions;
use crate::site::{Faces, Site};
use crate::socket::Socket;
use crate::talk::{Protocols, Stop, Talk};

/// How to listen.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// How callers reach us; must be the URL the gateways were opened with.
    pub public_url: String,
    /// Certificate chain and private key, PEM files.
    pub tls: Option<Tls>,
    /// A proxy in front ends TLS; the operator vouches for the way between.
    pub behind_tls_proxy: bool,
    /// Serve the sandbox, where no key is needed, beyond loopback too.
    pub sandbox_public: bool,
    /// Host names answered to beside our own.
    pub allowed_hosts: Vec<String>,
    /// Origins let in beside our own.
    pub allowed_origins: Vec<String>,
    /// Bounds.
    pub limits: Limits,
}

/// TLS by files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator must say how the way to us is protected.
    #[error(
        "`{0}` can be reached from other machines, and there is no TLS: API keys and mandates would travel in the clear"
    )]
    Exposed(SocketAddr),
    /// A file for TLS is missing or wrong.
    #[error("cannot use `{}` for TLS: {why}", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system said no.
    #[error("cannot listen")]
    Io(#[from] io::Error),
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Exposed(_) => Some(
                "give a certificate and its key (`[tls] certificate = …, key = …`, or --tls-cert and --tls-key); or, if a \
                 proxy in front ends TLS, say so with --behind-tls-proxy; or listen on 127.0.0.1. Callers authenticate \
                 with API keys: `countersign keys api create`",
            ),
            Error::Tls { .. } => Some("both must be PEM files, and the certificate must belong to the key"),
            Error::Io(_) => None,
        }
    }
}

impl From<&gateway::Config> for ServerConfig {
    fn from(config: &gateway::Config) -> ServerConfig {
        let tls = config.tls.as_ref();
        ServerConfig {
            public_url: config.public_url(),
            tls: tls.map(|tls| Tls { certificate: tls.certificate.clone(), key: tls.key.clone() }),
            behind_tls_proxy: config.behind_tls_proxy,
            sandbox_public: config.sandbox.public,
            allowed_hosts: config.allowed_hosts.clone(),
            allowed_origins: config.allowed_origins.clone(),
            limits: Limits::default(),
        }
    }
}

impl ServerConfig {
    /// Says whether it may listen at that address.
    ///
    /// # Errors
    /// [`Error::Exposed`] where others could listen in.
    pub fn check(&self, address: SocketAddr) -> Result<(), Error> {
        let protected = address.ip().is_loopback() || self.tls.is_some() || self.behind_tls_proxy;
        if protected { Ok(()) } else { Err(Error::Exposed(address)) }
    }
}

/// A server at work. Dropping it does not stop it.
pub struct Running {
    address: SocketAddr,
    stop: watch::Sender<Option<Duration>>,
    task: JoinHandle<()>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets what was asked be answered, here or by another gateway, and waits for that no longer than
    /// `grace`.
    pub async fn stop(self, grace: Duration) {
        self.stop.send_replace(Some(grace));
        let _ = self.task.await;
    }
}

/// Serves the faces on a listener until it is told to stop.
///
/// # Errors
/// What keeps it from listening, with a hint for the operator.
pub async fn serve(listener: TcpListener, faces: Faces, config: ServerConfig) -> Result<Running, Error> {
    let address = listener.local_addr()?;
    config.check(address)?;
    let tls = config.tls.as_ref().map(acceptor).transpose()?;
    // Behind a proxy every connection comes from near by, whoever is at its other end.
    let near = address.ip().is_loopback() && !config.behind_tls_proxy && !is_far(&config.public_url);
    let sandbox = faces.sandbox.filter(|_| near || config.sandbox_public);
    let (stop, told) = watch::channel(None);
    let site = Arc::new(Site {
        faces: Faces { production: faces.production, sandbox },
        hosts: Hosts::new(
            address,
            &config.public_url,
            tls.is_some(),
            &config.allowed_hosts,
            &config.allowed_origins,
        ),
        limits: config.limits,
        open_metrics: near,
        sessions: Sessions::new(&config.public_url),
        mcp: Arc::default(),
        stop: told.clone(),
        public_url: config.public_url,
        ids: RequestIds::new(),
        busy: AtomicUsize::new(0),
    });
    let task = tokio::spawn(accept(listener, tls, site, told));
    Ok(Running { address, stop, task })
}

/// Whether the URL names us to other machines: then what comes over loopback may come from a proxy that nobody
/// mentioned.
fn is_far(public_url: &str) -> bool {
    match url::Url::parse(public_url).ok().as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => name != "localhost",
        Some(url::Host::Ipv4(ip)) => !ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => !ip.is_loopback(),
        None => false,
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, site: Arc<Site>, mut stop: Stop) {
    let all = u32::try_from(site.limits.connections).unwrap_or(u32::MAX);
    let places = Arc::new(Semaphore::new(site.limits.connections));
    let protocols = Arc::new(Protocols::new(&site.limits));
    let mcp = Arc::clone(&site.mcp);
    let grace = loop {
        // Who finds no place waits in the system's queue.
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            _ = stop.changed() => break stop.borrow().unwrap_or_default(),
        };
        match stream {
            Ok((stream, _)) => {
                let socket = match Socket::new(stream, site.limits.unread_timeout) {
                    Ok(socket) => socket,
                    Err(error) => {
                        tracing::debug!(%error, "a connection ended before it began");
                        continue;
                    }
                };
                let (site, protocols) = (Arc::clone(&site), Arc::clone(&protocols));
                let talk =
                    Talk { site, protocols, peer: socket.peer(), stop: stop.clone(), _place: place.ok() };
                match tls.clone() {
                    None => tokio::spawn(talk.over(socket)),
                    Some(tls) => tokio::spawn(secured(socket, tls, talk)),
                };
            }
            Err(error) => {
                // Out of file descriptors, most likely: somebody must close before we can go on.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    drop(listener);
    mcp.close();
    // What is done for a client at another gateway is heard there, and has no connection here.
    let ended = async { tokio::join!(places.acquire_many(all), mcp.finish()) };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!("stopped with connections still open, or before all was answered");
    }
}

/// A connection over TLS, once there is one.
async fn secured(socket: Socket, tls: TlsAcceptor, talk: Talk) {
    match tokio::time::timeout(talk.site.limits.head_timeout, tls.accept(socket)).await {
        Ok(Ok(stream)) => talk.over(stream).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS connection came about"),
        Err(_) => tracing::debug!("no TLS connection came about in time"),
    }
}

fn acceptor(files: &Tls) -> Result<TlsAcceptor, Error> {
    let wrong = |path: &Path, why: String| Error::Tls { path: path.to_owned(), why };
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| wrong(&files.certificate, error.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong(&files.certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_only_listened_to_when_the_way_is_protected() {
        let far = SocketAddr::from(([0, 0, 0, 0], 8787));
        let near = SocketAddr::from(([127, 0, 0, 1], 8787));
        let plain = ServerConfig::default();
        assert!(plain.check(near).is_ok());
        let refused = plain.check(far).expect_err("it must be refused");
        assert!(refused.hint().is_some_and(|hint| hint.contains("--behind-tls-proxy")));
        assert!(ServerConfig { behind_tls_proxy: true, ..ServerConfig::default() }.check(far).is_ok());
        let tls = Some(Tls { certificate: "a".into(), key: "b".into() });
        assert!(ServerConfig { tls, ..ServerConfig::default() }.check(far).is_ok());
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let tls = Tls { certificate: "no/such/file.pem".into(), key: "no/such/key.pem".into() };
        let error = acceptor(&tls).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("no/such/file.pem"), "{error}");
    }
}
