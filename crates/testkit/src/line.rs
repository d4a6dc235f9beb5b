//! Connections that can be cut in the middle of an exchange, or say an answer twice.
//!
//! An HTTP handler can only answer; a lost answer is the absence of one. So each connection
//! carries a switch that its handlers can reach: once thrown, writing fails, the server gives up
//! the connection, and the client sees it closed with nothing said.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The switch of one connection.
#[derive(Clone, Default)]
pub(crate) struct Line(Arc<AtomicU8>);

const CUT: u8 = 1;
const TWICE: u8 = 2;

impl Line {
    /// Cuts the connection. The response returned satisfies the handler's type and is never sent.
    pub(crate) fn cut(&self) -> Response {
        self.0.store(CUT, Ordering::Release);
        ().into_response()
    }

    /// What is written next, up to when it is flushed, is written once more then.
    pub(crate) fn write_twice(&self) {
        self.0.store(TWICE, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) == CUT {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }
}

/// A listener whose connections are [`Wire`]s.
pub(crate) struct Lines(pub(crate) TcpListener);

impl Listener for Lines {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        // Without this, small answers wait for the peer's acknowledgement; failing to set it
        // makes a slower bank, not a wrong one.
        stream.set_nodelay(true).ok();
        (Wire { stream, line: Line::default(), again: Vec::new() }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Lines>> for Line {
    fn connect_info(incoming: IncomingStream<'_, Lines>) -> Line {
        incoming.io().line.clone()
    }
}

/// A TCP connection that stops writing once its line is cut.
pub(crate) struct Wire {
    stream: TcpStream,
    line: Line,
    /// What was written and is to be written once more.
    again: Vec<u8>,
}

impl Wire {
    fn note(&mut self, written: &Poll<io::Result<usize>>, parts: &[&[u8]]) {
        if let Poll::Ready(Ok(count)) = written
            && self.line.0.load(Ordering::Acquire) == TWICE
        {
            self.again.extend(parts.iter().copied().flatten().take(*count));
        }
    }

    fn say_again(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.again.is_empty() {
            let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, &self.again))?;
            self.again.drain(..written);
            self.line.0.store(0, Ordering::Release);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.line.check()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(&written, &[buf]);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.line.check()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(&written, &bufs.iter().map(|part| &**part).collect::<Vec<_>>());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.say_again(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
