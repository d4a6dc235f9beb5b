//! A transport over which no more is read while a server does not take the answers to what it asked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use rmcp::RoleClient;
use rmcp::model::{JsonRpcMessage, RequestId, ServerNotification};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::sync::Semaphore;

use super::lock;
use super::relay::MOST_QUESTIONS;

/// What a server asks has a place until it took the answer, or withdrew the question. When all places are taken it is not
/// listened to: what it says then waits with it, and not with us.
pub(super) struct Paced<T> {
    inner: T,
    asked: Arc<Asked>,
}

struct Asked {
    places: Semaphore,
    open: Mutex<HashSet<RequestId>>,
}

impl Asked {
    /// Whoever asks twice by one id has one place.
    fn begin(&self, id: RequestId) -> bool {
        lock(&self.open).insert(id)
    }

    fn end(&self, id: &RequestId) {
        if lock(&self.open).remove(id) {
            self.places.add_permits(1);
        }
    }
}

impl<T> Paced<T> {
    pub(super) fn new(inner: T) -> Paced<T> {
        let asked = Asked { places: Semaphore::new(MOST_ASKED), open: Mutex::default() };
        Paced { inner, asked: Arc::new(asked) }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Paced<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answers = match &item {
            JsonRpcMessage::Response(answer) => Some(answer.id.clone()),
            JsonRpcMessage::Error(answer) => answer.id.clone(),
            _ => None,
        };
        let asked = Arc::clone(&self.asked);
        let sending = self.inner.send(item);
        async move {
            let sent = sending.await;
            if let Some(id) = answers {
                asked.end(&id);
            }
            sent
        }
    }

    /// Nothing is lost when this is dropped before it has something.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        let place = self.asked.places.acquire().await.ok()?;
        let message = self.inner.receive().await?;
        match &message {
            JsonRpcMessage::Request(request) if self.asked.begin(request.id.clone()) => place.forget(),
            JsonRpcMessage::Notification(told) => {
                if let ServerNotification::CancelledNotification(withdrawn) = &told.notification
                    && let Some(id) = &withdrawn.params.request_id
                {
                    self.asked.end(id);
                }
            }
            _ => {}
        }
        Some(message)
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}

/// Questions that wait for people, and as many pings and refusals besides as may be on their way.
const MOST_ASKED: usize = MOST_QUESTIONS + 48;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use rmcp::model::{CancelledNotificationParam, ClientResult, NumberOrString, PingRequest, ServerRequest};
    use tokio::sync::mpsc;

    use super::*;

    /// A server that says whatever it is told to, and takes nothing until it is let.
    struct Deaf {
        says: mpsc::UnboundedReceiver<RxJsonRpcMessage<RoleClient>>,
        takes: Arc<Semaphore>,
    }

    impl Transport<RoleClient> for Deaf {
        type Error = std::io::Error;

        fn send(
            &mut self,
            _: TxJsonRpcMessage<RoleClient>,
        ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
            let takes = Arc::clone(&self.takes);
            async move {
                takes.acquire().await.unwrap().forget();
                Ok(())
            }
        }

        async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
            self.says.recv().await
        }

        async fn close(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    fn id(number: usize) -> RequestId {
        NumberOrString::Number(i64::try_from(number).unwrap())
    }

    #[tokio::test]
    async fn a_server_that_takes_no_answers_is_not_listened_to_until_it_does() {
        let (say, says) = mpsc::unbounded_channel();
        let takes = Arc::new(Semaphore::new(0));
        let mut paced = Paced::new(Deaf { says, takes: Arc::clone(&takes) });
        for number in 0..2 * MOST_ASKED {
            let ping = ServerRequest::PingRequest(PingRequest::default());
            say.send(JsonRpcMessage::request(ping, id(number))).unwrap();
        }
        for _ in 0..MOST_ASKED {
            assert!(paced.receive().now_or_never().flatten().is_some());
        }
        assert!(paced.receive().now_or_never().is_none(), "as much as is kept is on its way");
        let mut answering = Box::pin(paced.send(JsonRpcMessage::response(ClientResult::empty(()), id(0))));
        assert!((&mut answering).now_or_never().is_none());
        assert!(paced.receive().now_or_never().is_none(), "it has not taken it yet");
        takes.add_permits(1);
        answering.await.unwrap();
        assert!(paced.receive().now_or_never().flatten().is_some(), "there is room for one");
        assert!(paced.receive().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_a_server_withdraws_takes_no_room() {
        let (say, says) = mpsc::unbounded_channel();
        let mut paced = Paced::new(Deaf { says, takes: Arc::new(Semaphore::new(0)) });
        for number in 0..2 * MOST_ASKED {
            let ping = ServerRequest::PingRequest(PingRequest::default());
            say.send(JsonRpcMessage::request(ping, id(number))).unwrap();
            let params = CancelledNotificationParam::new(Some(id(number)), None);
            let withdrawn = rmcp::model::CancelledNotification::new(params);
            say.send(JsonRpcMessage::notification(ServerNotification::CancelledNotification(withdrawn)))
                .unwrap();
        }
        for _ in 0..4 * MOST_ASKED {
            // Else tokio has it wait for its turn.
            tokio::task::yield_now().await;
            assert!(paced.receive().now_or_never().flatten().is_some());
        }
    }
}
