//! The client, as servers may speak to it: in a session at any time, without one in the midst of a request only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};
use gateway::upstream::{Client, Party, PartyId};
use gateway::{Caller, Gateway};
use rmcp::model::{
    CancelledNotification, CancelledNotificationParam, ClientCapabilities, ClientResult, CustomResult,
    ErrorData, GetExtensions, Implementation, InputRequest, InputRequests, InputResponses, LoggingLevel,
    RequestId, ServerNotification, ServerRequest,
};
use rmcp::service::{OriginatingRequestId, Peer, PeerRequestOptions, RoleServer, ServiceError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::listen::Wanted;
use super::lock;
use super::mail::Mail;
use super::midst::mark;

/// A client of 2025-11-25, from its greeting on.
pub(super) struct Session {
    client: Client,
    pub(super) caller: Arc<Caller>,
    peer: Peer<RoleServer>,
    pub(super) mail: Mail,
    /// How long it may take to answer.
    input: Duration,
    /// What it wants to be told of what servers log.
    pub(super) level: Mutex<Option<LoggingLevel>>,
    calls: Arc<Calls>,
    /// What it wants to hear of, by server: while one is slow to say that it tells, the others are listened to.
    wanted: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Wanted>>>>,
    /// What changes the tools here, from its greeting on; until it is told of that.
    pub(super) changed: Mutex<Option<watch::Receiver<u64>>>,
    /// It is over. Whoever listens for it has it, and must not keep it.
    pub(super) over: CancellationToken,
}

/// A session in its place; with it go the connections that servers have to it.
pub(super) struct Seated {
    pub(super) session: Arc<Session>,
    gateway: Arc<Gateway>,
}

impl Seated {
    pub(super) fn new(gateway: &Arc<Gateway>, session: Session) -> Seated {
        Seated { session: Arc::new(session), gateway: Arc::clone(gateway) }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.session.over.cancel();
        self.gateway.mcp().leave(&self.session.client.id);
    }
}

impl Session {
    pub(super) fn new(
        peer: Peer<RoleServer>,
        (caller, owner): (Arc<Caller>, String),
        (info, capabilities): (Implementation, ClientCapabilities),
        input: Duration,
        changed: Option<watch::Receiver<u64>>,
    ) -> Session {
        Session {
            client: Client {
                id: PartyId(format!("session:{}", uuid::Uuid::now_v7()).into()),
                owner: PartyId(owner.into()),
                has_session: true,
                info,
                capabilities,
            },
            caller,
            mail: Mail::to(peer.clone()),
            peer,
            input,
            level: Mutex::default(),
            calls: Arc::default(),
            wanted: Mutex::default(),
            changed: Mutex::new(changed),
            over: CancellationToken::new(),
        }
    }

    /// A call begins, which only the client itself gives up: a connection that breaks does not.
    pub(super) fn begin(&self, id: &RequestId) -> UnderWay {
        self.calls.begin(id)
    }

    /// What it wants to hear of this server.
    pub(super) fn wanted(&self, server: &str) -> Arc<tokio::sync::Mutex<Wanted>> {
        Arc::clone(lock(&self.wanted).entry(server.to_owned()).or_default())
    }

    /// The client gives a call up.
    pub(super) fn give_up(&self, id: &RequestId) {
        self.calls.give_up(id);
    }

    async fn ask_one(
        &self,
        key: String,
        request: InputRequest,
        of: Option<&RequestId>,
    ) -> Result<(String, Value), ErrorData> {
        must_be_able(&self.client.capabilities, &request)?;
        let mut request = match request {
            InputRequest::CreateMessage(request) => ServerRequest::CreateMessageRequest(request),
            InputRequest::Elicitation(request) => ServerRequest::ElicitRequest(request),
            InputRequest::ListRoots(request) => ServerRequest::ListRootsRequest(request),
            _ => return Err(unanswered()),
        };
        if let Some(of) = of {
            request.extensions_mut().insert(OriginatingRequestId(of.clone()));
        }
        let (peer, options) = (self.peer.clone(), PeerRequestOptions::with_timeout(self.input));
        // In a task of its own: where the server's question is handled, rmcp would say that this one was asked in its midst.
        let sending = tokio::spawn(async move { peer.send_request_with_option(request, options).await });
        let sent = sending.await.map_err(|_| unanswered())?.map_err(refused)?;
        let mut question = Question { session: self, id: Some(sent.id.clone()) };
        let answer = sent.await_response().await;
        question.id = None;
        let answer = match answer.map_err(refused)? {
            // As it came: it was not read on its way.
            ClientResult::CustomResult(CustomResult(Value::String(text))) => serde_json::from_str(&text),
            read => serde_json::to_value(read),
        };
        Ok((key, answer.map_err(|_| unanswered())?))
    }
}

/// A question that waits for its answer; withdrawn when dropped before.
struct Question<'a> {
    session: &'a Session,
    id: Option<RequestId>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let why = Some("whoever asked does not want to know any more".to_owned());
            let params = CancelledNotificationParam::new(Some(id), why);
            self.session.mail.tell(CancelledNotification::new(params).into());
        }
    }
}

/// The calls of a session that are under way, each by a number of its own: clients use an id again that has no answer yet.
#[derive(Default)]
struct Calls {
    next: AtomicU64,
    open: Mutex<HashMap<u64, (RequestId, CancellationToken)>>,
}

impl Calls {
    fn begin(self: &Arc<Calls>, id: &RequestId) -> UnderWay {
        let (number, cancelled) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        lock(&self.open).insert(number, (id.clone(), cancelled.clone()));
        UnderWay { calls: Arc::clone(self), number, cancelled }
    }

    fn give_up(&self, id: &RequestId) {
        lock(&self.open).values().filter(|(of, _)| of == id).for_each(|(_, cancelled)| cancelled.cancel());
    }
}

/// A call of a session that has no answer yet.
pub(super) struct UnderWay {
    calls: Arc<Calls>,
    number: u64,
    pub(super) cancelled: CancellationToken,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.calls.open).remove(&self.number);
    }
}

impl Party for Session {
    fn client(&self) -> &Client {
        &self.client
    }

    fn ask<'a>(
        &'a self,
        requests: InputRequests,
        of: Option<&'a RequestId>,
    ) -> BoxFuture<'a, Result<InputResponses, ErrorData>> {
        let each = requests.into_iter().map(move |(key, request)| self.ask_one(key, request, of));
        Box::pin(async move { Ok(try_join_all(each).await?.into_iter().collect()) })
    }

    fn tell(&self, mut notification: ServerNotification, of: Option<&RequestId>) {
        use ServerNotification::{SubscriptionsAcknowledgedNotification, TaskStatusNotification};
        // Its revision does not know these.
        let unknown =
            matches!(notification, SubscriptionsAcknowledgedNotification(_) | TaskStatusNotification(_));
        if !unknown {
            mark(&mut notification, of);
            self.mail.tell(notification);
        }
    }

    fn is_gone(&self) -> bool {
        self.over.is_cancelled()
    }
}

/// A client of 2026-07-28, of which each request may come from another process.
pub(super) struct Stateless {
    client: Client,
    desk: Arc<Desk>,
    input: Duration,
}

impl Stateless {
    /// Who asks by `owner` with this client. Servers have connections to all of the same owner, client and capabilities.
    pub(super) fn new(
        desk: &Arc<Desk>,
        owner: &str,
        (info, capabilities): (Implementation, ClientCapabilities),
        input: Duration,
    ) -> Stateless {
        let parts = json!([owner, info, capabilities]).to_string();
        let name = format!("stateless:{}", hex::encode(Sha256::digest(parts)));
        let (id, owner) = (PartyId(name.into()), PartyId(owner.into()));
        let client = Client { id, owner, has_session: false, info, capabilities };
        Stateless { client, desk: Arc::clone(desk), input }
    }
}

impl Party for Stateless {
    fn client(&self) -> &Client {
        &self.client
    }

    fn ask<'a>(
        &'a self,
        requests: InputRequests,
        of: Option<&'a RequestId>,
    ) -> BoxFuture<'a, Result<InputResponses, ErrorData>> {
        Box::pin(async move {
            requests.values().try_for_each(|request| must_be_able(&self.client.capabilities, request))?;
            self.desk.ask(of, requests, self.input).await.ok_or_else(unanswered)
        })
    }

    fn tell(&self, notification: ServerNotification, of: Option<&RequestId>) {
        self.desk.tell(of, notification);
    }
}

/// A client that never said that it can be asked such a thing is not asked.
pub(super) fn must_be_able(can: &ClientCapabilities, request: &InputRequest) -> Result<(), ErrorData> {
    let (able, mut lacking) = (can, ClientCapabilities::default());
    let able = match request {
        InputRequest::CreateMessage(_) => {
            lacking.sampling = Some(Default::default());
            able.sampling.is_some()
        }
        InputRequest::Elicitation(_) => {
            lacking.elicitation = Some(Default::default());
            able.elicitation.is_some()
        }
        InputRequest::ListRoots(_) => {
            lacking.roots = Some(Default::default());
            able.roots.is_some()
        }
        _ => false,
    };
    if able { Ok(()) } else { Err(ErrorData::missing_required_client_capability(lacking)) }
}

fn refused(error: ServiceError) -> ErrorData {
    match error {
        ServiceError::McpError(error) => error,
        _ => unanswered(),
    }
}

fn unanswered() -> ErrorData {
    ErrorData::internal_error("the client did not answer", None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_an_id_again_can_still_give_up_what_goes_by_it() {
        let calls: Arc<Calls> = Arc::default();
        let id = RequestId::Number(7);
        let (first, second) = (calls.begin(&id), calls.begin(&id));
        drop(first);
        calls.give_up(&RequestId::Number(8));
        assert!(!second.cancelled.is_cancelled());
        calls.give_up(&id);
        assert!(second.cancelled.is_cancelled());
        let (third, fourth) = (calls.begin(&id), calls.begin(&id));
        calls.give_up(&id);
        assert!(third.cancelled.is_cancelled() && fourth.cancelled.is_cancelled(), "which one is not said");
        drop((second, third, fourth));
        assert!(lock(&calls.open).is_empty());
    }
}
