//! The client at the other end.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use action::{ActionId, Tenant};
use futures_util::future::BoxFuture;
use rmcp::ErrorData;
use rmcp::model::{
    ClientCapabilities, Implementation, InputRequests, InputResponses, ProgressToken, RequestId,
    RequestMetaObject, ServerNotification,
};
use serde_json::value::RawValue;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::Use;
use super::lock;
use super::room::Room;

/// Names a party: a session of a client, or, for clients without one, who asks and what their client can answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartyId(pub Arc<str>);

impl PartyId {
    pub(super) fn is_nobody(&self) -> bool {
        *self.0 == *NOBODY
    }
}

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Client {
    /// Which one.
    pub id: PartyId,
    /// Whose client it is: one of them has no more connections to a server at once than leaves some for others.
    pub owner: PartyId,
    /// Whether it has a session in which it can be asked at any time. Without one it can be asked only in the midst of a
    /// request, and a request whose server may ask has a link to itself.
    pub has_session: bool,
    /// What it calls itself.
    pub info: Implementation,
    /// What it can be asked.
    pub capabilities: ClientCapabilities,
}

/// A client, as servers may speak to it.
pub trait Party: Send + Sync + 'static {
    /// Who it is.
    fn client(&self) -> &Client;

    /// Asks it, in the midst of its request `of`. The same keys as asked have an answer each.
    ///
    /// # Errors
    /// Nobody answers.
    fn ask<'a>(
        &'a self,
        requests: InputRequests,
        of: Option<&'a RequestId>,
    ) -> BoxFuture<'a, Result<InputResponses, ErrorData>>;

    /// Tells it something; never waits. A progress token in it is the client's own.
    fn tell(&self, notification: ServerNotification, of: Option<&RequestId>);

    /// Whether it has left for good (see [`super::Servers::leave`]), be it just now: no connection is kept for it any more. Who
    /// comes back with each request never has.
    fn is_gone(&self) -> bool {
        false
    }
}

/// What ties a request of ours to the client's own.
#[derive(Clone, Default)]
pub struct Tie {
    /// The id of the client's request.
    pub id: Option<RequestId>,
    /// The token under which the client wants to hear of progress.
    pub progress: Option<ProgressToken>,
    /// The client does not want it any more.
    pub cancelled: CancellationToken,
    /// The client's request is answered, or given up: nothing is told or asked in its midst any more.
    pub(super) over: CancellationToken,
    /// Whether what its client answers may still be passed on.
    pub(super) leave: Option<Leave>,
    /// Whether the server has told of progress, as all ties to this request know.
    pub(super) progressed: Arc<AtomicBool>,
}

/// Says whether a call may be gone on with.
pub(super) type Leave = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

impl Tie {
    /// To a request of a client's, which may give it up.
    pub fn new(id: Option<RequestId>, progress: Option<ProgressToken>, cancelled: CancellationToken) -> Tie {
        let over = cancelled.child_token();
        Tie { id, progress, cancelled, over, ..Tie::default() }
    }

    /// The client's request is answered when this is dropped.
    #[must_use]
    pub fn until_answered(&self) -> DropGuard {
        self.over.clone().drop_guard()
    }

    /// The client's request, as long as that has no answer.
    pub(super) fn open_id(&self) -> Option<&RequestId> {
        self.id.as_ref().filter(|_| !self.over.is_cancelled())
    }

    /// Whether its server has told of progress: what anybody else tells from then on could fall behind that.
    pub fn has_progressed(&self) -> bool {
        self.progressed.load(Ordering::Relaxed)
    }

    /// The token of the client's for what its server tells of progress, if it wants to hear that, as long as it can.
    pub(super) fn progresses(&self) -> Option<ProgressToken> {
        self.progressed.store(true, Ordering::Relaxed);
        self.progress.clone().filter(|_| !self.over.is_cancelled())
    }

    /// Of what passes: what is asked before its client's answer is passed on.
    #[must_use]
    pub fn asking_leave(self, leave: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static) -> Tie {
        Tie { leave: Some(Arc::new(leave)), ..self }
    }

    pub(super) async fn may_go_on(&self) -> bool {
        match &self.leave {
            Some(leave) => leave().await,
            None => true,
        }
    }
}

impl fmt::Debug for Tie {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tie").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A client whose `tools/call` an action is, for as long as it waits.
pub struct Seat {
    pub(super) party: Arc<dyn Party>,
    pub(super) meta: RequestMetaObject,
    pub(super) tie: Tie,
    answer: Mutex<Option<Box<RawValue>>>,
    error: Mutex<Option<ErrorData>>,
    when_abandoned: Mutex<Option<Then>>,
    link: Mutex<Option<Use>>,
    /// Of all places of one call: what it became once is known in each.
    action: Arc<OnceLock<ActionId>>,
    leave: OnceLock<OfAction>,
    /// Whether it is for what waits for people.
    is_later: bool,
}

type Then = Box<dyn FnOnce() + Send>;

/// Whether this attempt of an action that is under way may still be gone on with.
type OfAction = Box<dyn Fn(ActionId, u32) -> BoxFuture<'static, bool> + Send + Sync>;

impl Seat {
    /// A place for what comes of one `tools/call` with this `_meta`.
    pub fn new(party: Arc<dyn Party>, meta: Option<RequestMetaObject>, tie: Tie) -> Arc<Seat> {
        Arc::new(Seat::empty(party, meta.unwrap_or_default(), tie))
    }

    fn empty(party: Arc<dyn Party>, meta: RequestMetaObject, tie: Tie) -> Seat {
        Seat {
            party,
            meta,
            tie,
            answer: Mutex::default(),
            error: Mutex::default(),
            when_abandoned: Mutex::default(),
            action: Arc::default(),
            link: Mutex::default(),
            leave: OnceLock::new(),
            is_later: false,
        }
    }

    /// A place of the same client for what comes of it once people have agreed. It stays tied to this request for as long as its
    /// client waits for that; then its id leads nowhere. A session can be asked at any time, and what it gives up while people are
    /// asked is not given up later; whoever has none can be asked only as long as they wait.
    #[must_use]
    pub fn for_later(&self) -> Arc<Seat> {
        let cancelled = match self.party.client().has_session {
            true => CancellationToken::new(),
            false => self.tie.cancelled.clone(),
        };
        let tie = Tie { leave: None, cancelled, ..self.tie.clone() };
        let (party, action) = (Arc::clone(&self.party), Arc::clone(&self.action));
        Arc::new(Seat { action, is_later: true, ..Seat::empty(party, self.meta.clone(), tie) })
    }

    /// What its call is tied to when it is sent. Whoever was answered or gave it up while it waited for people does not wait any
    /// more, and that stops nothing.
    pub(super) fn tie(&self) -> Tie {
        match self.is_later && self.tie.over.is_cancelled() {
            true => Tie::default(),
            false => self.tie.clone(),
        }
    }

    /// What is to be done when its client is asked something, and does not come back. Only a call that others of the same client
    /// join has something to do then.
    pub fn when_abandoned(&self, then: impl FnOnce() + Send + 'static) {
        *lock(&self.when_abandoned) = Some(Box::new(then));
    }

    /// What is asked before an attempt of its call is gone on with, once its client has answered a question.
    pub fn ask_leave_of(
        &self,
        leave: impl Fn(ActionId, u32) -> BoxFuture<'static, bool> + Send + Sync + 'static,
    ) {
        let _ = self.leave.set(Box::new(leave));
    }

    pub(super) async fn may_go_on(&self, action: ActionId, attempt: u32) -> bool {
        match self.leave.get() {
            Some(leave) => leave(action, attempt).await,
            None => true,
        }
    }

    /// Its client was asked something, and has not come back.
    pub fn abandon(&self) {
        let then = lock(&self.when_abandoned).take();
        if let Some(then) = then {
            then();
        }
    }

    /// The action that the call has become, once it is admitted.
    pub fn action(&self) -> Option<ActionId> {
        self.action.get().copied()
    }

    /// The connection that was made for it beforehand.
    pub(super) fn take_link(&self) -> Option<Use> {
        lock(&self.link).take()
    }

    /// Gives the connection back that was made for it beforehand, unless its call has it: others may want it more.
    pub fn give_back_link(&self) {
        drop(self.take_link());
    }

    pub(super) fn put_link(&self, link: Use) {
        *lock(&self.link) = Some(link);
    }

    /// What the server answered last, as it came, if it did while this client waited.
    pub fn take_answer(&self) -> Option<Box<RawValue>> {
        lock(&self.answer).take()
    }

    /// The server's error, where it is one that the client itself has to act on before it calls again.
    pub fn take_error(&self) -> Option<ErrorData> {
        lock(&self.error).take()
    }

    pub(super) fn put_error(&self, error: ErrorData) {
        *lock(&self.error) = Some(error);
    }

    pub(super) fn put_answer(&self, answer: Box<RawValue>) {
        *lock(&self.answer) = Some(answer);
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Seat").field("party", &self.party.client().id).finish_non_exhaustive()
    }
}

/// Who waits for which action, and whose it is that waits for people.
#[derive(Debug, Default)]
pub struct Seats {
    taken: Mutex<HashMap<ActionId, Arc<Seat>>>,
    /// Ids are in the order of time.
    left: Mutex<Room<ActionId, Arc<Seat>>>,
}

/// A taken seat; given up when dropped.
#[derive(Debug)]
pub struct Taken {
    seats: Arc<Seats>,
    id: ActionId,
}

impl Seats {
    /// Has what this action's provider is asked and told reach the client, as long as the value lives.
    #[must_use]
    pub fn take(self: &Arc<Seats>, id: ActionId, seat: Arc<Seat>) -> Taken {
        let _ = seat.action.set(id);
        lock(&self.taken).insert(id, seat);
        Taken { seats: Arc::clone(self), id }
    }

    /// Has an action of this tenant's that waits for people go on later where its client is, as long as that is there: over its
    /// connections, and with it to be asked. Of very many one goes on without: the oldest of the tenant that has most of them.
    pub fn leave(&self, tenant: &Tenant, id: ActionId, seat: Arc<Seat>) {
        let _ = seat.action.set(id);
        let mut left = lock(&self.left);
        left.retain(|seat| !seat.party.is_gone());
        left.keep(tenant, id, seat);
    }

    /// The action is over: nothing of it goes on any more.
    pub fn forget(&self, id: ActionId) {
        lock(&self.left).forget(&id);
    }

    /// Whether a client's place is kept for when the action goes on.
    pub fn keeps(&self, id: ActionId) -> bool {
        lock(&self.left).get(&id).is_some()
    }

    pub(super) fn of(&self, id: ActionId) -> Option<Arc<Seat>> {
        let taken = lock(&self.taken).get(&id).cloned();
        taken.or_else(|| lock(&self.left).get(&id).filter(|seat| !seat.party.is_gone()).cloned())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.seats.taken).remove(&self.id);
    }
}

/// Nobody: what is done without a client.
pub(super) struct Nobody(Client);

impl Nobody {
    pub(super) fn new() -> Nobody {
        let id = PartyId(NOBODY.into());
        let info = Implementation::new("countersign", env!("CARGO_PKG_VERSION"));
        let capabilities = ClientCapabilities::default();
        Nobody(Client { owner: id.clone(), id, has_session: true, info, capabilities })
    }
}

impl Party for Nobody {
    fn client(&self) -> &Client {
        &self.0
    }

    fn ask<'a>(
        &'a self,
        _: InputRequests,
        _: Option<&'a RequestId>,
    ) -> BoxFuture<'a, Result<InputResponses, ErrorData>> {
        let nobody = ErrorData::invalid_request("there is no client to be asked", None);
        Box::pin(std::future::ready(Err(nobody)))
    }

    fn tell(&self, _: ServerNotification, _: Option<&RequestId>) {}
}

/// No client can call itself that: their ids have a colon.
const NOBODY: &str = "nobody";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mcp::room::MOST;

    #[test]
    fn no_tenant_takes_the_place_of_what_waits_for_people_of_another() {
        let seats = Seats::default();
        let [one, other] = ["one", "other"].map(|name| Tenant::parse(name).unwrap());
        let id = |at: usize| ActionId::new(at as u64, [0; 10]);
        let leave = |tenant: &Tenant, at: usize| {
            let seat = Seat::new(Arc::new(Nobody::new()), None, Tie::default());
            seats.leave(tenant, id(at), seat);
        };
        leave(&other, 0);
        for at in 1..=MOST {
            leave(&one, at);
        }
        assert!(seats.keeps(id(0)), "older than all of them");
        assert!(!seats.keeps(id(1)) && seats.keeps(id(2)), "of its own the oldest made room");
        // Who has less has the room of whoever has most.
        leave(&other, MOST + 1);
        assert!(seats.keeps(id(0)) && seats.keeps(id(MOST + 1)) && !seats.keeps(id(2)));
    }
}
