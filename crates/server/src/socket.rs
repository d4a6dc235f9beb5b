//! A caller's socket: read and written by whoever has its line, and looked at by whoever has to know whether somebody is still at
//! its other end.
//!
//! Who reads sees the end only behind everything that was said before it, and what is sent ahead is not read without bound. The
//! system knows of the end as soon as it comes, whatever lies unread before it, as long as there was room for that.

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

/// Our end of a connection.
pub(crate) struct Socket(Arc<TcpStream>);

/// Their end. It keeps no connection open: of one that is gone, they have hung up.
#[derive(Clone)]
pub(crate) struct Peer(Weak<TcpStream>);

impl Socket {
    /// `unread_timeout`: see [`Limits`](crate::Limits).
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(stream: TcpStream, unread_timeout: Duration) -> io::Result<Socket> {
        // An answer is one small write; waiting for more to send with it would only delay it.
        stream.set_nodelay(true)?;
        wait_no_longer(&SockRef::from(&stream), unread_timeout)?;
        Ok(Socket(Arc::new(stream)))
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.0))
    }
}

/// Has the system give up a connection whose other end takes nothing. From here nobody could tell who takes little from who takes
/// nothing: there is room for more only when a good part of what is under way was taken.
#[cfg(target_os = "linux")]
fn wait_no_longer(socket: &SockRef<'_>, unread_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(unread_timeout))
}

/// Other systems have no such promise to give.
#[cfg(not(target_os = "linux"))]
fn wait_no_longer(_: &SockRef<'_>, _: Duration) -> io::Result<()> {
    Ok(())
}

impl Peer {
    /// Whether they are known to be there yet. Of whoever has said more than was read that is not known: their end may lie behind
    /// it, or not even have found room to come.
    pub(crate) fn is_there(&self) -> bool {
        let Some(stream) = self.0.upgrade() else { return false };
        let unread = SockRef::from(&*stream).peek(&mut [MaybeUninit::uninit()]);
        unread.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Waits for them to hang up, whatever they said before that.
    pub(crate) async fn hung_up(&self) {
        while let Some(stream) = self.0.upgrade() {
            if is_over(stream.ready(Interest::READABLE).await) {
                return;
            }
            drop(stream);
            // Something lies there unread, and as long as it does nobody is told of what comes behind it.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn is_over(ready: io::Result<Ready>) -> bool {
    ready.map_or(true, Ready::is_read_closed)
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl Socket {
    fn poll_out(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_out(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_out(cx, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match SockRef::from(&*self.0).shutdown(Shutdown::Write) {
            // It is over already.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            ended => ended,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Two ends of a connection.
    pub(crate) async fn pair() -> io::Result<(Socket, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let theirs = TcpStream::connect(listener.local_addr()?).await?;
        let (ours, _) = listener.accept().await?;
        Ok((Socket::new(ours, Duration::from_secs(60))?, theirs))
    }

    #[tokio::test]
    async fn who_has_hung_up_is_seen_though_what_they_said_is_unread() -> io::Result<()> {
        let (mut ours, mut theirs) = pair().await?;
        let peer = ours.peer();
        assert!(peer.hung_up().now_or_never().is_none());
        theirs.write_all(b"early").await?;
        drop(theirs);
        peer.hung_up().await;
        let mut heard = String::new();
        ours.read_to_string(&mut heard).await?;
        assert_eq!(heard, "early", "and it is there for whoever reads");
        Ok(())
    }

    #[tokio::test]
    async fn nobody_is_known_to_be_there_behind_what_is_unread() -> io::Result<()> {
        let (mut ours, mut theirs) = pair().await?;
        let peer = ours.peer();
        assert!(peer.is_there());
        theirs.write_all(b"early").await?;
        ours.0.readable().await?;
        assert!(!peer.is_there());
        ours.read_exact(&mut [0; 5]).await?;
        assert!(peer.is_there());
        drop(theirs);
        peer.hung_up().await;
        assert!(!peer.is_there());
        Ok(())
    }

    #[tokio::test]
    async fn of_a_connection_that_is_gone_they_have_hung_up() -> io::Result<()> {
        let (ours, _theirs) = pair().await?;
        let peer = ours.peer();
        drop(ours);
        assert!(!peer.is_there());
        peer.hung_up().await;
        Ok(())
    }
}
