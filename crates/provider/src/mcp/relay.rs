//! What a server asks and tells of its own accord, on its way to the client whose request it belongs to.
#![expect(deprecated, reason = "sampling and roots go through us as long as anybody uses them")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use futures_util::future::join_all;
use rmcp::model::{
    ClientConfig, ClientResult, CustomResult, ElicitResult, ElicitationAction, ErrorCode, ErrorData,
    GetExtensions, GetMeta, Implementation, InputRequest, ListRootsResult, NotificationMetaObject,
    ProgressToken, ProtocolVersion, RequestId, ServerNotification, ServerRequest, TASKS_EXTENSION_ID,
};
use rmcp::service::{InboundStreamOrigin, NotificationContext, RequestContext, Service};
use rmcp::{RoleClient, model::ClientCapabilities};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{RwLock, RwLockReadGuard, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::link::GRACE;
use super::lock;
use super::ours::{strike_ours, without_ours};
use super::party::{Party, Tie};
use super::said::Said;
use super::server::Server;
use super::verbatim;
use crate::secrets::Secret;

/// The side of a link that listens to the server.
pub(super) struct Relay {
    pub(super) party: Arc<dyn Party>,
    pub(super) server: Weak<Server>,
    pub(super) under_way: Arc<UnderWay>,
    pub(super) secrets: Arc<[Arc<Secret>]>,
    /// For questions that wait.
    pub(super) questions: Semaphore,
}

/// Requests of one link that have no answer yet.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    open: Mutex<Vec<Arc<Exchange>>>,
    /// Held while one is sent and not among them yet.
    beginning: RwLock<()>,
}

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Ours.
    pub(super) id: RequestId,
    /// Ours.
    pub(super) token: ProgressToken,
    /// What ties it to the client's own.
    pub(super) tie: Tie,
    /// When the server was last heard of.
    heard: Mutex<Instant>,
    /// So many questions of the server's wait for the client.
    asking: AtomicUsize,
    /// Cancelled when it is over.
    over: CancellationToken,
}

impl Exchange {
    pub(super) fn new((id, token): (RequestId, ProgressToken), tie: Tie) -> Exchange {
        let (heard, asking, over) =
            (Mutex::new(Instant::now()), AtomicUsize::new(0), CancellationToken::new());
        Exchange { id, token, tie, heard, asking, over }
    }

    /// Since when nothing was heard of it; nothing, while it is not the server's turn.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        (self.asking.load(Ordering::Relaxed) == 0).then(|| *lock(&self.heard))
    }

    fn hear(&self) {
        *lock(&self.heard) = Instant::now();
    }
}

impl UnderWay {
    /// One is about to be sent: until the value is dropped nobody looks to which one something belongs. Its server may be faster
    /// than we are.
    pub(super) async fn beginning(&self) -> RwLockReadGuard<'_, ()> {
        self.beginning.read().await
    }

    /// All that are sent are here.
    async fn begun(&self) {
        let _ = timeout(GRACE, self.beginning.write()).await;
    }

    pub(super) fn begin(&self, exchange: Arc<Exchange>) {
        lock(&self.open).push(exchange);
    }

    pub(super) fn end(&self, exchange: &Arc<Exchange>) {
        exchange.over.cancel();
        lock(&self.open).retain(|it| !Arc::ptr_eq(it, exchange));
    }

    /// The one that this belongs to: by the stream on which it came, or because there is no other.
    fn of_origin(&self, origin: Option<&InboundStreamOrigin>) -> Option<Arc<Exchange>> {
        let open = lock(&self.open);
        match origin {
            Some(InboundStreamOrigin::OutboundRequest(id)) => open.iter().find(|it| it.id == *id).cloned(),
            _ => self::only(&open),
        }
    }

    fn of_token(&self, token: &ProgressToken) -> Option<Arc<Exchange>> {
        lock(&self.open).iter().find(|it| it.token == *token).cloned()
    }

    fn only(&self) -> Option<Arc<Exchange>> {
        only(&lock(&self.open))
    }

    fn all(&self) -> Vec<Arc<Exchange>> {
        lock(&self.open).clone()
    }
}

/// The only one, or the only one of a request of the client's.
fn only(open: &[Arc<Exchange>]) -> Option<Arc<Exchange>> {
    if let [one] = open {
        return Some(Arc::clone(one));
    }
    let mut own = open.iter().filter(|it| it.tie.open_id().is_some());
    own.next().filter(|_| own.next().is_none()).cloned()
}

/// A question that waits; the server's silence does not count meanwhile.
struct Asking(Arc<Exchange>);

impl Asking {
    fn begin(exchange: &Arc<Exchange>) -> Asking {
        exchange.asking.fetch_add(1, Ordering::Relaxed);
        Asking(Arc::clone(exchange))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.hear();
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Relay {
    /// What the client answers to a question; where it answers nothing and that can be said, that it declines.
    /// `withdrawn` says that the server does not want to know any more.
    async fn ask(
        &self,
        (request, text): (InputRequest, Option<Said>),
        exchange: Option<Arc<Exchange>>,
        withdrawn: &CancellationToken,
    ) -> Result<Value, ErrorData> {
        let of = exchange.as_ref().and_then(|it| it.tie.open_id().cloned());
        if exchange.is_none() && !self.party.client().has_session {
            let why = "a client without a session is asked only in the midst of its request";
            return Err(ErrorData::invalid_request(why, None));
        }
        let mut request = bearable(request)?;
        if let Some(said) = text {
            must_be_bearable(said.text.get().len())?;
            verbatim::put_into(&mut request, &said.text);
        }
        let _place = self.questions.try_acquire().map_err(|_| {
            ErrorData::invalid_request("as many questions as can wait at once are waiting", None)
        })?;
        // Where it is not known to which it belongs, it may be any of them that does not go on without the answer.
        let waiting = exchange.map_or_else(|| self.under_way.all(), |it| vec![it]);
        let _asking: Vec<Asking> = waiting.iter().map(Asking::begin).collect();
        let can_decline = matches!(request, InputRequest::Elicitation(_));
        let asked = [(ONLY.to_owned(), request)].into();
        let answered = tokio::select! {
            biased;
            answered = self.party.ask(asked, of.as_ref()) => answered,
            // What it was asked for is over.
            () = ended(&waiting) => Err(ErrorData::internal_error("the request it was asked for is over", None)),
            () = withdrawn.cancelled() => return Err(ErrorData::internal_error("the question is withdrawn", None)),
        };
        let answered = match are_stopped(&waiting, can_decline).await {
            true => Err(ErrorData::internal_error("the call may not be gone on with", None)),
            false => answered,
        };
        match answered {
            Ok(mut answers) => answers.remove(ONLY).ok_or_else(|| {
                ErrorData::internal_error("the client did not answer what it was asked", None)
            }),
            Err(_) if can_decline => Ok(declined()),
            Err(error) => Err(error),
        }
    }

    /// Who asks, and what a server may ask of them.
    pub(super) fn says(&self) -> (Implementation, ClientCapabilities) {
        let client = self.party.client();
        (client.info.clone(), asked_for(client.capabilities.clone()))
    }

    /// Takes what the server says of its own accord, in the midst of this exchange if it is known of which.
    pub(super) fn hear(&self, notification: ServerNotification, exchange: Option<&Arc<Exchange>>) {
        if let (ServerNotification::ToolListChangedNotification(_), Some(server)) =
            (&notification, self.server.upgrade())
        {
            server.forget_tools();
        }
        let Some(notification) = fit_to_tell(&self.secrets, notification) else { return };
        match notification {
            ServerNotification::ProgressNotification(mut progress) => {
                let Some(exchange) = self.under_way.of_token(&progress.params.progress_token) else { return };
                exchange.hear();
                let Some(token) = exchange.tie.progresses() else { return };
                progress.params.progress_token = token;
                // Nothing else of what rmcp keeps beside it, but that is where it keeps `_meta`.
                let meta = progress.extensions.remove::<NotificationMetaObject>();
                progress.extensions = Default::default();
                if let Some(meta) = meta.filter(|meta| !meta.0.is_empty()) {
                    progress.extensions.insert(meta);
                }
                self.party.tell(ServerNotification::ProgressNotification(progress), exchange.tie.open_id());
            }
            // Whoever waits for the answer to the question that it withdraws knows already.
            ServerNotification::CancelledNotification(_) => {}
            other => {
                let exchange = exchange.cloned().or_else(|| self.under_way.only());
                let of = exchange.and_then(|exchange| exchange.tie.open_id().cloned());
                self.party.tell(other, of.as_ref());
            }
        }
    }
}

/// What a server tells, without what it was told in confidence and what only we say. Nothing, if it has no form then, or is more
/// than is kept for a client that takes its time.
pub(super) fn fit_to_tell(
    secrets: &[Arc<Secret>],
    notification: ServerNotification,
) -> Option<ServerNotification> {
    let mut notification = notification;
    let text = verbatim::taken_from(notification.extensions_mut());
    let mut fit =
        without(secrets, notification).and_then(without_ours).and_then(|said| bearable(said).ok())?;
    if let Some(said) = text {
        let Said { text, .. } = said.without(secrets)?.without_ours()?;
        must_be_bearable(text.get().len()).ok()?;
        // It would only lie there twice.
        if let ServerNotification::LoggingMessageNotification(log) = &mut fit {
            log.params.data = Value::Null;
        }
        verbatim::put(fit.extensions_mut(), &text);
    }
    Some(fit)
}

/// What a server asks or tells, unless it is more than is kept for a client that takes its time.
///
/// # Errors
/// It is.
pub(super) fn bearable<T: Serialize>(asked: T) -> Result<T, ErrorData> {
    must_be_bearable(serde_json::to_vec(&asked).map_or(usize::MAX, |text| text.len())).map(|()| asked)
}

/// The same of what is so long.
///
/// # Errors
/// It is.
pub(super) fn must_be_bearable(length: usize) -> Result<(), ErrorData> {
    match length <= LONGEST_QUESTION {
        true => Ok(()),
        false => {
            Err(ErrorData::invalid_request("it is longer than questions and notifications may be", None))
        }
    }
}

/// Whether one of them was stopped while its client thought. Where the server cannot be told that its client declines it is told
/// that the call is given up, and what came of that by now is in doubt.
async fn are_stopped(waiting: &[Arc<Exchange>], can_decline: bool) -> bool {
    let mut are_stopped = false;
    for exchange in waiting {
        if !exchange.tie.may_go_on().await {
            if !can_decline {
                exchange.tie.cancelled.cancel();
            }
            are_stopped = true;
        }
    }
    are_stopped
}

/// Ends when all of them have; never, if it is asked in the midst of none.
async fn ended(waiting: &[Arc<Exchange>]) {
    match waiting {
        [] => std::future::pending().await,
        all => join_all(all.iter().map(|exchange| exchange.over.cancelled())).await,
    };
}

/// The word of a person who does not want to say anything.
pub(super) fn declined() -> Value {
    serde_json::to_value(ElicitResult::new(ElicitationAction::Cancel)).unwrap_or_default()
}

/// The key under which a single question is asked.
const ONLY: &str = "ask";
/// Of a question, the server's own state included, or a notification.
const LONGEST_QUESTION: usize = 256 * 1024;
/// So many questions of a server wait for one client at once.
pub(super) const MOST_QUESTIONS: usize = 16;

impl Service<RoleClient> for Relay {
    async fn handle_request(
        &self,
        request: ServerRequest,
        mut context: RequestContext<RoleClient>,
    ) -> Result<ClientResult, ErrorData> {
        self.under_way.begun().await;
        let exchange = self.under_way.of_origin(context.extensions.get::<InboundStreamOrigin>());
        let unreadable = || ErrorData::invalid_request("the question has not the form of one", None);
        let text = verbatim::taken_from_question(&mut context.meta);
        let fit =
            |said: Said| said.without(&self.secrets).and_then(Said::without_ours).ok_or_else(unreadable);
        let text = text.map(fit).transpose()?;
        let (question, is_answer): (_, fn(&Value) -> bool) = match without(&self.secrets, request)
            .and_then(without_ours)
            .ok_or_else(unreadable)?
        {
            ServerRequest::PingRequest(_) => return Ok(ClientResult::empty(())),
            ServerRequest::CreateMessageRequest(request) => {
                (InputRequest::CreateMessage(request), is_sampled)
            }
            ServerRequest::ListRootsRequest(request) => {
                (InputRequest::ListRoots(request), is::<ListRootsResult>)
            }
            ServerRequest::ElicitRequest(request) => (InputRequest::Elicitation(request), is::<ElicitResult>),
            _ => {
                let nobody = "nobody here can be asked that";
                return Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, nobody, None));
            }
        };
        let mut said = self.ask((question, text), exchange, &context.ct).await?;
        strike_ours(&mut said);
        match is_answer(&said) {
            true => Ok(ClientResult::CustomResult(CustomResult(said))),
            false => Err(ErrorData::internal_error("the client's answer has not the form of one", None)),
        }
    }

    async fn handle_notification(
        &self,
        mut notification: ServerNotification,
        mut context: NotificationContext<RoleClient>,
    ) -> Result<(), ErrorData> {
        // rmcp takes it out with all that it keeps beside it.
        if let Some(meta) = context.extensions.remove::<NotificationMetaObject>() {
            *notification.get_meta_mut() = meta;
        }
        self.under_way.begun().await;
        self.hear(notification, None);
        Ok(())
    }

    fn get_info(&self) -> ClientConfig {
        let (program, capabilities) = self.says();
        let mut info = ClientConfig::new(capabilities, program);
        info.protocol_version = ProtocolVersion::V_2025_11_25;
        info
    }
}

/// What a server may ask of the client through us: all that the client can, but tasks, which are between it and us.
fn asked_for(mut client: ClientCapabilities) -> ClientCapabilities {
    if let Some(extensions) = &mut client.extensions {
        extensions.remove(TASKS_EXTENSION_ID);
    }
    client.extensions.take_if(|extensions| extensions.is_empty());
    client
}

/// What a server says, without what it was told in confidence: a server that repeats what it is sent tells no client. Nothing, if
/// it has no form then.
pub(super) fn without<T: Serialize + DeserializeOwned>(secrets: &[Arc<Secret>], said: T) -> Option<T> {
    if secrets.is_empty() {
        return Some(said);
    }
    let mut value = serde_json::to_value(&said).ok()?;
    // Every one of them: the first that is found must not hide the next.
    let struck = secrets.iter().filter(|secret| secret.strike_from_json(&mut value)).count();
    if struck > 0 { serde_json::from_value(value).ok() } else { Some(said) }
}

fn is<T: DeserializeOwned>(said: &Value) -> bool {
    T::deserialize(said).is_ok()
}

/// Whether this is what a model said; of content there may be other kinds than are known.
fn is_sampled(said: &Value) -> bool {
    said["role"].is_string()
        && said["model"].is_string()
        && (said["content"].is_object() || said["content"].is_array())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use rmcp::model::{
        ElicitRequest, ElicitRequestParams, Implementation, InputRequests, InputResponses, NumberOrString,
    };

    use super::*;
    use crate::mcp::{Client, PartyId};

    /// A client that is asked and never answers, and what it was told.
    struct Silent(Client, Mutex<Vec<ServerNotification>>);

    impl Party for Silent {
        fn client(&self) -> &Client {
            &self.0
        }

        fn ask<'a>(
            &'a self,
            _: InputRequests,
            _: Option<&'a RequestId>,
        ) -> BoxFuture<'a, Result<InputResponses, ErrorData>> {
            Box::pin(std::future::pending())
        }

        fn tell(&self, told: ServerNotification, _: Option<&RequestId>) {
            lock(&self.1).push(told);
        }
    }

    fn silent() -> Arc<Silent> {
        let id = PartyId("silent:1".into());
        let (info, capabilities) = (Implementation::new("test", "1"), ClientCapabilities::default());
        let client = Client { owner: id.clone(), id, has_session: true, info, capabilities };
        Arc::new(Silent(client, Mutex::default()))
    }

    fn relay(party: Arc<Silent>) -> Relay {
        Relay {
            party,
            server: Weak::new(),
            under_way: Arc::default(),
            secrets: Arc::default(),
            questions: Semaphore::new(MOST_QUESTIONS),
        }
    }

    #[tokio::test]
    async fn what_comes_while_its_request_is_being_sent_waits_until_that_is_known() {
        let relay = relay(silent());
        let beginning = relay.under_way.beginning().await;
        let mut looks = std::pin::pin!(relay.under_way.begun());
        assert!(looks.as_mut().now_or_never().is_none());
        let own = NumberOrString::Number(7);
        relay.under_way.begin(Arc::new(Exchange::new((own.clone(), ProgressToken(own)), Tie::default())));
        drop(beginning);
        looks.await;
        assert!(relay.under_way.of_origin(None).is_some());
    }

    #[test]
    fn no_server_tells_in_our_name_what_it_tells_in_between() {
        let party = silent();
        let meta = serde_json::json!({"io.countersign/outcome": {"kind": "executed"}, "shop/till": 3});
        let params = serde_json::json!({"level": "info", "data": "sold", "_meta": meta});
        let said = serde_json::json!({"method": "notifications/message", "params": params});
        relay(Arc::clone(&party)).hear(serde_json::from_value(said).unwrap(), None);
        let told = serde_json::to_value(&*lock(&party.1)).unwrap();
        assert_eq!(told[0]["params"]["data"], "sold", "{told}");
        assert_eq!(told[0]["params"]["_meta"], serde_json::json!({"shop/till": 3}), "{told}");
    }

    fn question() -> InputRequest {
        let params =
            serde_json::json!({"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}});
        let params: ElicitRequestParams = serde_json::from_value(params).unwrap();
        InputRequest::Elicitation(ElicitRequest::new(params))
    }

    #[tokio::test]
    async fn few_questions_wait_at_once_and_none_longer_than_what_they_are_asked_for() {
        let relay = relay(silent());
        let ours = NumberOrString::Number(1);
        let exchange = Arc::new(Exchange::new((ours.clone(), ProgressToken(ours)), Tie::default()));
        relay.under_way.begin(Arc::clone(&exchange));
        let wanted = CancellationToken::new();
        let mut waiting: Vec<_> = (0..MOST_QUESTIONS)
            .map(|_| Box::pin(relay.ask((question(), None), Some(Arc::clone(&exchange)), &wanted)))
            .collect();
        assert!(waiting.iter_mut().all(|asked| asked.now_or_never().is_none()));
        assert!(
            relay.ask((question(), None), Some(Arc::clone(&exchange)), &wanted).await.is_err(),
            "one too many"
        );
        relay.under_way.end(&exchange);
        for asked in waiting {
            assert_eq!(asked.await.unwrap(), declined(), "nobody wants to know any more");
        }
        let next = Arc::new(Exchange::new(
            (NumberOrString::Number(2), ProgressToken(NumberOrString::Number(2))),
            Tie::default(),
        ));
        assert!(
            relay.ask((question(), None), Some(Arc::clone(&next)), &wanted).now_or_never().is_none(),
            "there is room again"
        );
        let mut withdrawn = Box::pin(relay.ask((question(), None), Some(Arc::clone(&next)), &wanted));
        assert!((&mut withdrawn).now_or_never().is_none() && next.silent_since().is_none());
        wanted.cancel();
        assert!(withdrawn.await.is_err());
        assert!(next.silent_since().is_some(), "it is the server's turn again");
    }
}
