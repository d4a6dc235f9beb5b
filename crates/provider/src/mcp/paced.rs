//! A transport over which no more is taken on than its server takes answers.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use rmcp::RoleClient;
use rmcp::model::{JsonRpcMessage, RequestId, ServerNotification};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;

use super::lock;
use super::relay::MOST_QUESTIONS;

/// What a server asks has a place until it took the answer. When all places are taken, what else it asks is dropped: reading on
/// is the only way to hear what it answers. What it withdraws is never answered; who does nothing else is not heard any more.
pub(super) struct Paced<T> {
    inner: T,
    asked: Arc<Mutex<Asked>>,
}

#[derive(Default)]
struct Asked {
    open: HashSet<RequestId>,
    /// So often since it last took an answer.
    withdrawn: usize,
}

impl Asked {
    /// Whether there is room. A second request of one id has none, nor one of an id that would fill the answer alone.
    fn begin(&mut self, id: &RequestId) -> bool {
        let is_short = !matches!(id, RequestId::String(id) if id.len() > LONGEST_ID);
        is_short && self.open.len() < MOST_ASKED && self.open.insert(id.clone())
    }

    fn withdraw(&mut self, id: &RequestId) {
        self.withdrawn += usize::from(self.open.remove(id));
    }

    /// It took the answer. Whoever does that may withdraw what takes too long for as long as it likes.
    fn answered(&mut self, id: &RequestId) {
        if self.open.remove(id) {
            self.withdrawn = 0;
        }
    }
}

impl<T> Paced<T> {
    pub(super) fn new(inner: T) -> Paced<T> {
        Paced { inner, asked: Arc::default() }
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
                lock(&asked).answered(&id);
            }
            sent
        }
    }

    /// Nothing is lost when this is dropped before it has something.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            let message = self.inner.receive().await?;
            let mut asked = lock(&self.asked);
            match &message {
                JsonRpcMessage::Request(request) if !asked.begin(&request.id) => continue,
                JsonRpcMessage::Notification(told) => {
                    if let ServerNotification::CancelledNotification(withdrawn) = &told.notification
                        && let Some(id) = &withdrawn.params.request_id
                    {
                        asked.withdraw(id);
                    }
                }
                _ => {}
            }
            if asked.withdrawn > MOST_WITHDRAWN {
                tracing::warn!("an MCP server asks and withdraws without end: its connection is closed");
                return None;
            }
            return Some(message);
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}

/// Questions that wait for people, and as many pings and refusals besides as may be on their way.
const MOST_ASKED: usize = MOST_QUESTIONS + 240;
/// In bytes. Each waits as long as its answer is not taken.
const LONGEST_ID: usize = 1024;
const MOST_WITHDRAWN: usize = 1000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use rmcp::model::{CancelledNotificationParam, ClientResult, NumberOrString, PingRequest, ServerRequest};
    use tokio::sync::{Semaphore, mpsc};

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

    fn ping(number: usize) -> RxJsonRpcMessage<RoleClient> {
        JsonRpcMessage::request(ServerRequest::PingRequest(PingRequest::default()), id(number))
    }

    fn withdrawn(number: usize) -> RxJsonRpcMessage<RoleClient> {
        let params = CancelledNotificationParam::new(Some(id(number)), None);
        let withdrawn = rmcp::model::CancelledNotification::new(params);
        JsonRpcMessage::notification(ServerNotification::CancelledNotification(withdrawn))
    }

    /// How many requests are handed on of all that was said by now.
    async fn handed_on(paced: &mut Paced<Deaf>) -> usize {
        let mut requests = 0;
        loop {
            // Else tokio has it wait for its turn.
            tokio::task::yield_now().await;
            match paced.receive().now_or_never().flatten() {
                Some(JsonRpcMessage::Request(_)) => requests += 1,
                Some(_) => {}
                None => return requests,
            }
        }
    }

    #[tokio::test]
    async fn what_a_server_asks_while_it_takes_no_answers_is_bounded_and_its_answers_are_heard() {
        let (say, says) = mpsc::unbounded_channel();
        let takes = Arc::new(Semaphore::new(0));
        let mut paced = Paced::new(Deaf { says, takes: Arc::clone(&takes) });
        (0..2 * MOST_ASKED).for_each(|number| say.send(ping(number)).unwrap());
        assert_eq!(handed_on(&mut paced).await, MOST_ASKED);
        let mut answering = Box::pin(paced.send(JsonRpcMessage::response(ClientResult::empty(()), id(0))));
        assert!((&mut answering).now_or_never().is_none());
        say.send(ping(9000)).unwrap();
        assert_eq!(handed_on(&mut paced).await, 0, "it has not taken it yet");
        say.send(JsonRpcMessage::response(rmcp::model::ServerResult::empty(()), id(1))).unwrap();
        tokio::task::yield_now().await;
        assert!(matches!(paced.receive().now_or_never().flatten(), Some(JsonRpcMessage::Response(_))));
        takes.add_permits(1);
        answering.await.unwrap();
        (9001..9003).for_each(|number| say.send(ping(number)).unwrap());
        assert_eq!(handed_on(&mut paced).await, 1, "there is room for one");
    }

    #[tokio::test]
    async fn what_has_an_id_that_is_too_long_is_not_answered() {
        let (say, says) = mpsc::unbounded_channel();
        let mut paced = Paced::new(Deaf { says, takes: Arc::new(Semaphore::new(0)) });
        for length in [LONGEST_ID, LONGEST_ID + 1] {
            let id = RequestId::String("x".repeat(length).into());
            let ping = ServerRequest::PingRequest(PingRequest::default());
            say.send(JsonRpcMessage::request(ping, id)).unwrap();
        }
        assert_eq!(handed_on(&mut paced).await, 1);
    }

    #[tokio::test]
    async fn an_id_that_is_open_is_no_other_request() {
        let (say, says) = mpsc::unbounded_channel();
        let mut paced = Paced::new(Deaf { says, takes: Arc::new(Semaphore::new(0)) });
        (0..100).for_each(|_| say.send(ping(7)).unwrap());
        assert_eq!(handed_on(&mut paced).await, 1);
    }

    #[tokio::test]
    async fn who_takes_answers_in_between_may_withdraw_as_often_as_it_likes() {
        let (say, says) = mpsc::unbounded_channel();
        let mut paced = Paced::new(Deaf { says, takes: Arc::new(Semaphore::new(9)) });
        for turn in 0..3 {
            for number in 1..MOST_WITHDRAWN {
                say.send(ping(number)).unwrap();
                say.send(withdrawn(number)).unwrap();
            }
            say.send(ping(0)).unwrap();
            assert_eq!(handed_on(&mut paced).await, MOST_WITHDRAWN, "turn {turn}");
            paced.send(JsonRpcMessage::response(ClientResult::empty(()), id(0))).await.unwrap();
        }
    }

    #[tokio::test]
    async fn who_withdraws_without_end_is_not_heard_any_more() {
        let (say, says) = mpsc::unbounded_channel();
        let mut paced = Paced::new(Deaf { says, takes: Arc::new(Semaphore::new(0)) });
        for number in 0..2 * MOST_WITHDRAWN {
            say.send(ping(number)).unwrap();
            say.send(withdrawn(number)).unwrap();
        }
        assert_eq!(handed_on(&mut paced).await, MOST_WITHDRAWN + 1);
    }
}
