//! A caller's line: the stream, what was read of it and is not understood yet, and whether what was written is gone.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::linger::Lingering;
use crate::socket::Peer;

/// A stream that can be taken from one reader and given to the next without losing a byte.
pub(crate) struct Line<S> {
    stream: Lingering<S>,
    heard: Bytes,
    unsent: Arc<AtomicBool>,
}

impl<S> Line<S> {
    pub(crate) fn new(stream: S) -> Line<S> {
        Line { stream: Lingering::new(stream), heard: Bytes::new(), unsent: Arc::default() }
    }

    /// Read, and not understood yet.
    pub(crate) fn heard(&self) -> &[u8] {
        &self.heard
    }

    /// Has this read before what was heard.
    pub(crate) fn hear_first(&mut self, bytes: &[u8]) {
        // A copy of its own: whoever read them before may have read them into a larger piece of memory.
        self.heard = [bytes, &self.heard].concat().into();
    }

    /// Whether its writer is not through: bytes that the other side does not take yet, or a last word under way.
    pub(crate) fn unsent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unsent)
    }
}

impl<S: AsyncRead + Unpin> Line<S> {
    /// Waits for the other side's next words and keeps them; false when they have hung up.
    pub(crate) async fn hear(&mut self) -> bool {
        poll_fn(|cx| {
            // On the stack: who waits holds no buffer.
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            let Ok(()) = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read)) else {
                return Poll::Ready(false);
            };
            self.heard = [&self.heard, read.filled()].concat().into();
            Poll::Ready(!read.filled().is_empty())
        })
        .await
    }

    /// Waits for them to hang up. Who speaks instead is heard for a while, and then has to wait.
    pub(crate) async fn hung_up(&mut self, peer: &Peer) {
        while self.heard.len() < MOST_HEARD {
            if !self.hear().await {
                return;
            }
        }
        peer.hung_up().await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.heard.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        let fits = this.heard.len().min(into.remaining());
        into.put_slice(&this.heard.split_to(fits));
        if this.heard.is_empty() {
            this.heard = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut this.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.unsent.store(flushed.is_pending(), Ordering::Relaxed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// So much of what is said before its turn is kept.
const MOST_HEARD: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::socket::tests::pair;

    #[tokio::test]
    async fn whoever_speaks_early_and_hangs_up_has_hung_up() {
        for early in [15, MOST_HEARD, 5 * MOST_HEARD] {
            let (near, mut far) = pair().await.unwrap();
            let peer = near.peer();
            let mut line = Line::new(near);
            far.write_all(&vec![b'x'; early]).await.unwrap();
            assert!(line.hung_up(&peer).now_or_never().is_none());
            drop(far);
            line.hung_up(&peer).await;
            assert!((early.min(MOST_HEARD)..2 * MOST_HEARD).contains(&line.heard().len()), "{early}");
        }
    }
}
