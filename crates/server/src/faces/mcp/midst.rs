//! What servers log in the midst of a session's requests, on its way to the streams that answer these.
//!
//! rmcp has progress and questions go there, and every other notification to the stream that a session listens to (`GET`), which
//! many clients do not open. What does not fit on the stream of its request, or comes when that is over, goes that way, too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, RequestId, ServerJsonRpcMessage, ServerNotification};
use rmcp::service::{OriginatingRequestId, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::sync::mpsc;

use super::lock;

/// The streams of a session's requests that have no answer yet.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<RequestId, mpsc::Sender<ServerJsonRpcMessage>>>>);

/// What comes for one of them, as long as it is there.
pub(super) struct Told {
    streams: Streams,
    id: RequestId,
    heard: mpsc::Receiver<ServerJsonRpcMessage>,
}

/// A session's transport, which hands what belongs to the stream of a request to that.
pub(super) struct Sorting<T> {
    pub(super) inner: T,
    pub(super) streams: Streams,
}

/// Marks what is said in the midst of a request.
pub(super) fn mark(notification: &mut ServerNotification, of: Option<&RequestId>) {
    if let (ServerNotification::LoggingMessageNotification(log), Some(of)) = (notification, of) {
        log.extensions.insert(OriginatingRequestId(of.clone()));
    }
}

impl Streams {
    /// For the stream that answers this, if it is answered at all.
    pub(super) fn open(&self, message: &ClientJsonRpcMessage) -> Option<Told> {
        let ClientJsonRpcMessage::Request(request) = message else { return None };
        let (tell, heard) = mpsc::channel(MOST_WAITING);
        lock(&self.0).insert(request.id.clone(), tell);
        Some(Told { streams: self.clone(), id: request.id.clone(), heard })
    }

    /// The message, if no stream has taken it.
    fn sort(&self, message: ServerJsonRpcMessage) -> Option<ServerJsonRpcMessage> {
        let ServerJsonRpcMessage::Notification(told) = &message else { return Some(message) };
        let ServerNotification::LoggingMessageNotification(log) = &told.notification else {
            return Some(message);
        };
        let Some(OriginatingRequestId(of)) = log.extensions.get() else { return Some(message) };
        match lock(&self.0).get(of).cloned() {
            Some(stream) => stream.try_send(message).err().map(mpsc::error::TrySendError::into_inner),
            None => Some(message),
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.heard.close();
        // A later one may have the same id.
        let mut streams = lock(&self.streams.0);
        if streams.get(&self.id).is_some_and(mpsc::Sender::is_closed) {
            streams.remove(&self.id);
        }
    }
}

/// The stream with what comes for it, of which everything is told before what comes after.
pub(super) fn with_told(
    stream: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static,
    told: Option<Told>,
) -> impl Stream<Item = ServerSseMessage> + Send + Sync + 'static {
    stream::unfold((Box::pin(stream), told), |(mut stream, mut told)| async move {
        let next = match &mut told {
            Some(told) => tokio::select! {
                biased;
                Some(told) = told.heard.recv() => Some(ServerSseMessage::from_message(told)),
                next = stream.next() => next,
            },
            None => stream.next().await,
        };
        next.map(|next| (next, (stream, told)))
    })
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Sorting<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let sending = self.streams.sort(message).map(|message| self.inner.send(message));
        async move {
            match sending {
                Some(sending) => sending.await,
                None => Ok(()),
            }
        }
    }

    fn receive(&mut self) -> impl Future<Output = Option<RxJsonRpcMessage<RoleServer>>> + Send {
        self.inner.receive()
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}

/// For one stream, each as long as a notification may be.
const MOST_WAITING: usize = 16;
