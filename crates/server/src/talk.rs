//! What is said over one connection, in HTTP/1.1 or HTTP/2, from the greeting to the goodbye.
//!
//! HTTP/1 takes turns, and most of the time nobody speaks: the caller thinks, or a provider does. hyper's connection
//! holds two buffers and the last head for as long as it lives, 24 KiB and more, so here it lives only while bytes move:
//!
//! ```text
//!   hear ──▶ hyper reads a request ──▶ wait for its answer ──▶ hyper writes the answer ──▶ hear …
//!                        └──────────────── the answer is there at once ────────────────┘
//! ```
//!
//! The hyper that writes an answer is not the one that read the request. It is given an echo of the request to read,
//! as much as the form of the answer depends on, and then finds the answer there already. So hyper alone speaks HTTP,
//! and ten thousand callers of slow providers cost little more than their sockets. HTTP/2 connections are few, each
//! for many requests, and stay with hyper all along.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Version};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep};

use crate::line::Line;
use crate::request::{Body, Limits, Response};
use crate::site::Site;
use crate::socket::Peer;

/// The two versions, set up.
pub(crate) struct Protocols {
    one: http1::Builder,
    two: http2::Builder<TokioExecutor>,
}

/// Says when to stop, and within what time.
pub(crate) type Stop = watch::Receiver<Option<Duration>>;

impl Protocols {
    pub(crate) fn new(limits: &Limits) -> Protocols {
        let mut one = http1::Builder::new();
        // How long a head may take is watched here: the time runs on while there is no hyper.
        one.header_read_timeout(None).max_buf_size(MAX_HEAD);
        let mut two = http2::Builder::new(TokioExecutor::new());
        two.timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        Protocols { one, two }
    }
}

/// One connection, whoever is at its other end.
pub(crate) struct Talk {
    pub site: Arc<Site>,
    pub protocols: Arc<Protocols>,
    /// Whoever is there, below TLS if there is any.
    pub peer: Peer,
    pub stop: Stop,
    /// Held until the goodbye.
    pub _place: Option<OwnedSemaphorePermit>,
}

impl Talk {
    /// Talks until one of us hangs up.
    pub(crate) async fn over<S>(mut self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut line = Line::new(stream);
        // Whoever connects and asks nothing keeps others from a place.
        let mut patience = pin!(sleep(self.site.limits.head_timeout));
        while line.heard().len() < PREFACE.len() && PREFACE.starts_with(line.heard()) {
            if !self.hears(&mut line, patience.as_mut()).await {
                return;
            }
        }
        if line.heard().starts_with(PREFACE) {
            Box::pin(self.in_parallel(line, patience)).await;
        } else {
            self.in_turn(line, patience).await;
        }
    }

    /// Waits for more, and says goodbye if there will be none: because they have hung up, or we are to stop.
    async fn hears<S>(&mut self, line: &mut Line<S>, patience: Pin<&mut Sleep>) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // `biased`: on a busy machine the timer may be due before words that came in time were looked at.
        let heard = tokio::select! {
            biased;
            heard = line.hear() => heard,
            () = patience => return false,
            () = stopped(&mut self.stop) => false,
        };
        if !heard {
            let _ = line.shutdown().await;
        }
        heard
    }

    /// HTTP/1: one request after the other.
    async fn in_turn<S>(&mut self, mut line: Line<S>, mut patience: Pin<&mut Sleep>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut answer = None;
        loop {
            // Boxed, so that who waits holds no room for it.
            match Box::pin(self.turn(line, answer.take(), patience.as_mut())).await {
                Turn::Over => return,
                Turn::Quiet(back) => {
                    line = back;
                    patience.as_mut().reset(Instant::now() + self.site.limits.head_timeout);
                    if line.heard().is_empty() && !self.hears(&mut line, patience.as_mut()).await {
                        return;
                    }
                }
                Turn::Waits(back, mut asked) => {
                    line = back;
                    let said = tokio::select! {
                        biased;
                        said = &mut asked.answer => said,
                        () = line.hung_up(&self.peer) => return,
                    };
                    line.hear_first(&asked.echo(self.stop.borrow().is_some()));
                    answer = Some(said);
                }
            }
        }
    }

    /// Lets hyper read and write until there is nothing more for it to do. An `answer` is said to the first request.
    async fn turn<S>(
        &mut self,
        line: Line<S>,
        answer: Option<Response>,
        mut patience: Pin<&mut Sleep>,
    ) -> Turn<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unsent = line.unsent();
        let mut said = answer.is_some();
        let mut to_come = answer.as_ref().map(|answer| answer.body().to_come()).unwrap_or_default();
        let desk = Arc::new(Mutex::new(Desk { asked: None, answer }));
        let service = service_fn(|mut request: Request<Incoming>| {
            let mut open = lock(&desk);
            if open.answer.is_none() {
                request.extensions_mut().insert(self.peer.clone());
                open.asked = Some(Asked::new(&self.site, request));
            }
            let desk = Arc::clone(&desk);
            poll_fn(move |_| match lock(&desk).answer.take() {
                Some(answer) => Poll::Ready(Ok::<_, Infallible>(answer)),
                // Nobody needs to be woken: hyper is polled after the answer was laid there.
                None => Poll::Pending,
            })
        });
        let mut hyper = self.protocols.one.serve_connection(TokioIo::new(line), service);
        let mut stopping = pin!(stopped(&mut self.stop).fuse());
        // hyper looks for that only as long as it has read nothing ahead.
        let mut hung_up = pin!(self.peer.hung_up());
        let mut asked: Option<Asked> = None;
        let end = poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut hyper).poll(cx) {
                    tell(ended);
                    return Poll::Ready(End::Over);
                }
                if stopping.poll_unpin(cx).is_ready() {
                    Pin::new(&mut hyper).graceful_shutdown();
                    continue;
                }
                let new = lock(&desk).asked.take();
                asked = new.or(asked.take());
                // Keeps (whole): hyper is only taken away when it has read all of a request and sent all it wrote.
                let sent = !unsent.load(Ordering::Relaxed);
                return match &mut asked {
                    Some(Asked { answer, read, stays, .. }) => match answer.poll_unpin(cx) {
                        Poll::Ready(answer) => {
                            to_come = answer.body().to_come();
                            lock(&desk).answer = Some(answer);
                            (asked, said) = (None, true);
                            continue;
                        }
                        Poll::Pending if sent && !*stays && read.load(Ordering::Relaxed) => {
                            Poll::Ready(End::Waits)
                        }
                        Poll::Pending if read.load(Ordering::Relaxed) => {
                            hung_up.as_mut().poll(cx).map(|()| End::Over)
                        }
                        Poll::Pending => Poll::Pending,
                    },
                    // Keeps (whole): an answer that is made while it is taken may pause before its end.
                    None if said && sent && to_come.strong_count() == 0 => Poll::Ready(End::Quiet),
                    None if said && to_come.strong_count() > 0 => {
                        hung_up.as_mut().poll(cx).map(|()| End::Over)
                    }
                    None if said => Poll::Pending,
                    None => patience.as_mut().poll(cx).map(|()| End::Over),
                };
            }
        })
        .await;
        if matches!(end, End::Over) {
            return Turn::Over;
        }
        let parts = hyper.into_parts();
        let mut line = parts.io.into_inner();
        line.hear_first(&parts.read_buf);
        match asked {
            Some(asked) => Turn::Waits(line, asked),
            None => Turn::Quiet(line),
        }
    }

    /// HTTP/2: many requests at once.
    async fn in_parallel<S>(&mut self, line: Line<S>, mut patience: Pin<&mut Sleep>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let heard_of = Arc::new(AtomicBool::new(false));
        let service = {
            let (site, heard_of) = (Arc::clone(&self.site), Arc::clone(&heard_of));
            service_fn(move |request| {
                heard_of.store(true, Ordering::Relaxed);
                Asked::new(&site, request).answer.map(Ok::<_, Infallible>)
            })
        };
        let mut hyper = pin!(self.protocols.two.serve_connection(TokioIo::new(line), service));
        let mut stopping = pin!(stopped(&mut self.stop).fuse());
        loop {
            let waits = !heard_of.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                ended = &mut hyper => return tell(ended),
                () = &mut stopping => hyper.as_mut().graceful_shutdown(),
                () = &mut patience, if waits => {
                    if !heard_of.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}

/// How a turn of hyper's ended.
enum Turn<S> {
    /// And with it the connection.
    Over,
    /// All was answered.
    Quiet(Line<S>),
    /// A request was read, and its answer is not there yet.
    Waits(Line<S>, Asked),
}

/// The same, before the line was taken back.
enum End {
    Over,
    Quiet,
    Waits,
}

/// Where hyper lays a request and finds its answer.
struct Desk {
    asked: Option<Asked>,
    answer: Option<Response>,
}

/// A request that is being answered.
struct Asked {
    answer: BoxFuture<'static, Response>,
    /// Whether all of its body was read.
    read: Arc<AtomicBool>,
    /// The beginning of its echo.
    echo: Vec<u8>,
    /// Whether the form of the answer depends on what only the hyper knows that read the request: one with a length and
    /// chunks is its connection's last, and hyper shows no length then.
    stays: bool,
}

impl Asked {
    fn new(site: &Arc<Site>, request: Request<Incoming>) -> Asked {
        let echo = begin_echo(&request);
        let read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let stays = request.headers().contains_key(TRANSFER_ENCODING);
        let answer = answer(site, request, Arc::clone(&read)).boxed();
        Asked { answer, read, echo, stays }
    }

    /// What hyper is given to read before it writes the answer.
    fn echo(mut self, last: bool) -> Vec<u8> {
        let end: &[u8] = if last { b"connection: close\r\n\r\n" } else { b"\r\n" };
        self.echo.extend_from_slice(end);
        self.echo
    }
}

/// All of a request's head that the form of its answer depends on: whether there is a body, whether others may follow.
fn begin_echo(request: &Request<Incoming>) -> Vec<u8> {
    let mut echo = format!("{} / {:?}\r\n", request.method(), request.version()).into_bytes();
    for value in request.headers().get_all(CONNECTION) {
        echo.extend_from_slice(b"connection: ");
        echo.extend_from_slice(value.as_bytes());
        echo.extend_from_slice(b"\r\n");
    }
    echo
}

/// Answers one request. An HTTP/1 connection on which a body was not read to its end carries no other request, and the
/// caller is told so: otherwise the next one would be sent into a connection that is about to close.
fn answer(
    site: &Arc<Site>,
    request: Request<Incoming>,
    read: Arc<AtomicBool>,
) -> impl Future<Output = Response> + use<> {
    let one_by_one = request.version() < Version::HTTP_2;
    let noted = Arc::clone(&read);
    let answer = Arc::clone(site).answer(request.map(|body| Body::Arriving(body, noted)));
    answer.map(move |mut response| {
        if one_by_one && !read.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    })
}

async fn stopped(stop: &mut Stop) {
    // A server that is dropped stops too.
    let _ = stop.wait_for(Option::is_some).await;
}

fn tell(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a request's head.
const MAX_HEAD: usize = 32 * 1024;
