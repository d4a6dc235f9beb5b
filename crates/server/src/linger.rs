//! Hanging up politely.
//!
//! Whoever is refused by the head of a request alone may still be sending its body. To close a socket that holds unread
//! bytes resets the connection, and the answer is lost on its way: the caller hears of a broken connection and never of
//! the `413`. So after the last word what still comes is read and thrown away, a bounded amount for a bounded time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream whose end waits for the other side's.
pub(crate) struct Lingering<S> {
    stream: S,
    /// Bytes that may still come.
    left: usize,
    /// Until when they may come, from the last word on.
    until: Option<Pin<Box<Sleep>>>,
}

/// Several bodies of the longest kind.
const MOST_BYTES: usize = 1024 * 1024;
const LONGEST: Duration = Duration::from_millis(500);

impl<S> Lingering<S> {
    pub(crate) fn new(stream: S) -> Lingering<S> {
        Lingering { stream, left: MOST_BYTES, until: None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let until = match &mut this.until {
            Some(until) => until,
            None => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                this.until.insert(Box::pin(tokio::time::sleep(LONGEST)))
            }
        };
        while this.left > 0 {
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    this.left = this.left.saturating_sub(read.filled().len());
                }
                // They have hung up too.
                Poll::Ready(_) => break,
                Poll::Pending => return until.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, into)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Two ends of a connection, ours lingering.
    async fn pair() -> io::Result<(Lingering<TcpStream>, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let theirs = TcpStream::connect(listener.local_addr()?).await?;
        let (ours, _) = listener.accept().await?;
        Ok((Lingering::new(ours), theirs))
    }

    #[tokio::test]
    async fn who_still_sends_hears_the_answer() -> io::Result<()> {
        let (mut ours, mut theirs) = pair().await?;
        let sending = tokio::spawn(async move {
            theirs.write_all(&vec![b' '; 600_000]).await?;
            let mut heard = String::new();
            theirs.read_to_string(&mut heard).await.map(|_| heard)
        });
        ours.write_all(b"too long").await?;
        ours.shutdown().await?;
        drop(ours);
        assert_eq!(sending.await.map_err(io::Error::other)??, "too long");
        Ok(())
    }

    #[tokio::test]
    async fn nobody_is_waited_for_for_long() -> io::Result<()> {
        let (mut ours, _theirs) = pair().await?;
        let began = std::time::Instant::now();
        ours.shutdown().await?;
        assert!((LONGEST..LONGEST * 6).contains(&began.elapsed()), "{:?}", began.elapsed());
        Ok(())
    }
}
