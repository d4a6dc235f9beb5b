//! Connections for what is not HTTP, under the same rules.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncTokioStream;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::resolver::Guard;
use super::rules::Origin;

/// A way to one place. Its addresses are checked whenever a connection is opened.
pub(crate) struct Line {
    pub(super) guard: Guard,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// An open connection.
pub(crate) struct Stream {
    local: io::Result<IpAddr>,
    peer: SocketAddr,
    bytes: Box<dyn Bytes>,
}

trait Bytes: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Bytes for T {}

impl Line {
    /// Where it leads.
    pub(crate) fn origin(&self) -> &Origin {
        &self.guard.origin
    }

    /// What is trusted beside the system's certificates.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// A connection in the clear.
    pub(crate) async fn connect(&self) -> Result<Stream, String> {
        self.tcp().await.map(|(tcp, peer)| Stream::new(&tcp.local_addr(), peer, tcp))
    }

    /// A connection that is TLS from its first byte.
    pub(crate) async fn connect_tls(&self) -> Result<Stream, String> {
        let (tcp, peer) = self.tcp().await?;
        let local = tcp.local_addr();
        let failed = || "the TLS handshake failed".to_owned();
        let name = ServerName::try_from(self.origin().at().name()).map_err(|_| failed())?;
        let connector = TlsConnector::from(Arc::new(self.config().map_err(|_| failed())?));
        let tls = connector.connect(name, tcp).await.map_err(|_| failed())?;
        Ok(Stream::new(&local, peer, tls))
    }

    async fn tcp(&self) -> Result<(TcpStream, SocketAddr), String> {
        let addresses = self.guard.addresses().await.map_err(|error| error.to_string())?;
        for address in addresses {
            if let Ok(Ok(tcp)) = timeout(CONNECTING, TcpStream::connect(address)).await {
                return Ok((tcp, address));
            }
        }
        Err("no connection came about".to_owned())
    }

    fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(default_provider());
        let verifier = Verifier::new_with_extra_roots(self.roots.iter().cloned(), Arc::clone(&provider))?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
    }
}

impl Stream {
    fn new(local: &io::Result<SocketAddr>, peer: SocketAddr, bytes: impl Bytes + 'static) -> Stream {
        let local = local.as_ref().map(SocketAddr::ip).map_err(|error| error.kind().into());
        Stream { local, peer, bytes: Box::new(bytes) }
    }

    /// Our address on it.
    pub(crate) fn local_address(&self) -> io::Result<IpAddr> {
        self.local.as_ref().copied().map_err(|error| error.kind().into())
    }
}

impl AsyncTokioStream for Stream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Stream").field(&self.peer).finish()
    }
}

/// How long one address is tried, so that there is time for the next.
const CONNECTING: Duration = Duration::from_secs(4);
