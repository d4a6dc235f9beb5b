//! Changes that clients want to hear of: lists, and what resources hold.
//!
//! A client of 2026-07-28 opens a stream of its own for them, and one of 2025-11-25 is told as long as its session lasts. What
//! servers of either revision are to be told so that they say it is seen to here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use gateway::upstream::{Client, Listening, Party, PartyId, Server};
use gateway::{Caller, Code, Error, Gateway};
use rmcp::model::{
    ClientCapabilities, ErrorData, Implementation, InputRequests, InputResponses,
    PromptListChangedNotification, RequestId, ResourceListChangedNotification, ServerCapabilities,
    ServerNotification, SubscribeRequest, SubscribeRequestParams, SubscriptionFilter,
    ToolListChangedNotification, UnsubscribeRequest, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext, SubscriptionSendError};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::face::{Face, owner};
use super::inquiry::Inquiry;
use super::mail::{Letter, Mail};
use super::party::Session;
use super::scope::{LONGEST_URI, Scope, no_resource};
use super::{Mcp, lock, shown};

type Context = RequestContext<RoleServer>;

/// What a client with a session wants to hear of one server.
#[derive(Default)]
pub(super) struct Wanted {
    uris: Uris,
    /// See [`keep_listening`]; empty as long as nobody does.
    listening: JoinSet<()>,
}

/// Resources that somebody wants to hear of just now.
type Uris = Arc<std::sync::Mutex<BTreeSet<String>>>;

/// What was opened for one `subscriptions/listen`, before it is acknowledged.
pub(super) struct Opened {
    heard: Mutex<mpsc::Receiver<Letter>>,
    /// Who is told. As long as it is there the stream lasts, also where no server tells anything just now.
    _party: Arc<dyn Party>,
    /// One for each server; see [`keep_listening`].
    _listening: JoinSet<()>,
    _links: Links,
    _place: Place,
}

/// The connections that servers have to a listener. They go with it, also those that are being made.
struct Links {
    gateway: Arc<Gateway>,
    id: PartyId,
    over: CancellationToken,
}

/// Who listens to how many streams.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<std::sync::Mutex<HashMap<Arc<str>, usize>>>);

/// A stream that may be listened to, until it is dropped.
struct Place {
    places: Places,
    owner: Arc<str>,
}

impl Places {
    fn take(&self, owner: &Arc<str>) -> Result<Place, Error> {
        let mut taken = lock(&self.0);
        let own = taken.entry(Arc::clone(owner)).or_default();
        if *own >= MOST_STREAMS {
            return Err(Error::new(Code::RateLimited, "as many streams as you may listen to are open"));
        }
        *own += 1;
        Ok(Place { places: self.clone(), owner: Arc::clone(owner) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.0);
        if let Some(own) = taken.get_mut(&self.owner) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.owner);
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.over.cancel();
        self.gateway.mcp().leave(&self.id);
    }
}

/// A client that only listens. Each has connections of its own: what it hears is for it alone.
struct Listener {
    client: Client,
    mail: Mail,
    over: CancellationToken,
}

impl Party for Listener {
    fn client(&self) -> &Client {
        &self.client
    }

    fn ask<'a>(
        &'a self,
        _: InputRequests,
        _: Option<&'a RequestId>,
    ) -> BoxFuture<'a, Result<InputResponses, ErrorData>> {
        let nobody = ErrorData::invalid_request("whoever listens is not asked", None);
        Box::pin(std::future::ready(Err(nobody)))
    }

    fn tell(&self, notification: ServerNotification, _: Option<&RequestId>) {
        self.mail.tell(notification);
    }

    fn is_gone(&self) -> bool {
        self.over.is_cancelled()
    }
}

impl Opened {
    /// Has all servers of the scope tell what is asked for, as far as they do that.
    ///
    /// # Errors
    /// They listen to as many streams as they may, or an operator has stopped them.
    pub(super) async fn new(
        mcp: &Mcp,
        (scope, caller): (&Scope, &Caller),
        filter: &SubscriptionFilter,
        info: Implementation,
    ) -> Result<Opened, Error> {
        if let Some(stopped) = scope.stopped(caller).await {
            return Err(stopped);
        }
        let owner: Arc<str> = owner(scope.gateway.environment(), caller).into();
        let place = mcp.listening.take(&owner)?;
        let changed = scope.gateway.tools_changed(&scope.tenant)?;
        shown::look(scope, caller).await;
        let (mail, heard) = Mail::with_the_answer();
        let id = PartyId(format!("listener:{}", uuid::Uuid::now_v7()).into());
        let over = CancellationToken::new();
        // From now on: its client may hang up while servers take their time.
        let links = Links { gateway: Arc::clone(&scope.gateway), id: id.clone(), over: over.clone() };
        let client = Client {
            id,
            owner: PartyId(owner),
            has_session: false,
            info,
            capabilities: ClientCapabilities::default(),
        };
        let party: Arc<dyn Party> = Arc::new(Listener { client, mail, over });
        let (servers, uris) = (scope.servers(), filter.resource_subscriptions.clone().unwrap_or_default());
        let asked: Vec<&str> = uris.iter().map(|uri| &**uri).collect();
        let holders = mcp.whereabouts.of_each((scope, caller), &party, &asked).await;
        let of_server = |server: &Server| {
            let has = |holders: &[Arc<Server>]| holders.iter().any(|has| has.name() == server.name());
            let own = uris.iter().zip(&holders).filter(|(_, holders)| has(holders));
            own.map(|(uri, _)| uri.clone()).collect::<BTreeSet<String>>()
        };
        let (mut listening, mut first) = (JoinSet::new(), Vec::new());
        listening.spawn(keep_telling(changed, Arc::clone(&party)));
        for server in &servers {
            let patience = scope.patience_with(server);
            let uris = Arc::new(std::sync::Mutex::new(of_server(server)));
            let (server, party) = (Arc::clone(server), Arc::clone(&party));
            let listener = Listens { server, party, lists: filter.clone(), uris };
            let (tell, stands) = oneshot::channel();
            listening.spawn(keep_listening(listener, (Arc::clone(&scope.gateway), caller.clone()), tell));
            first.push(timeout(patience, stands));
        }
        // Whoever comes later is told of.
        join_all(first).await;
        Ok(Opened {
            heard: Mutex::new(heard),
            _party: party,
            _listening: listening,
            _links: links,
            _place: place,
        })
    }
}

/// Who listens to whom, for what.
struct Listens {
    server: Arc<Server>,
    party: Arc<dyn Party>,
    /// As far as lists go.
    lists: SubscriptionFilter,
    uris: Uris,
}

impl Listens {
    /// For what just now.
    fn filter(&self) -> SubscriptionFilter {
        let mut filter = self.lists.clone();
        let uris: Vec<String> = lock(&self.uris).iter().cloned().collect();
        filter.resource_subscriptions = Some(uris).filter(|uris| !uris.is_empty());
        filter
    }
}

/// Tells that other tools may be seen here, whether or not a server has others.
async fn keep_telling(mut changed: watch::Receiver<u64>, party: Arc<dyn Party>) {
    while changed.changed().await.is_ok() {
        party.tell(ToolListChangedNotification::default().into(), None);
    }
}

/// Listens to a server, as far as it tells of changes, until this is dropped: anew when it does not tell any more, and as soon as
/// it is there. Anew only in a place that is free: whoever made room for others is not to take it back. `stands` hears of the
/// first time; when nobody waits for that any more, the party is told that things may have changed.
async fn keep_listening(
    listens: Listens,
    (gateway, caller): (Arc<Gateway>, Caller),
    stands: oneshot::Sender<()>,
) {
    let (server, party) = (&listens.server, &listens.party);
    let (mut stands, mut pause) = (Some(stands), SHORTEST_PAUSE);
    loop {
        let began = Instant::now();
        if gateway.may_speak_with(&caller, server.name()).await.is_ok()
            && let Ok(about) = server.about().await
        {
            let filter = listens.filter().supported_by(&about.capabilities);
            if filter == SubscriptionFilter::new() {
                return;
            }
            if let Some(mut listening) = listen(server, party, filter, stands.is_none()).await {
                if stands.take().is_none_or(|stands| stands.send(()).is_err()) {
                    news_of(&about.capabilities).into_iter().for_each(|it| party.tell(it, None));
                }
                listening.over().await;
            }
        }
        // Who does not last is tried less often: the place that it takes is another's.
        pause = if began.elapsed() > LONGEST_PAUSE { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

/// That there are other things than before, of each kind that the server has.
fn news_of(capabilities: &ServerCapabilities) -> Vec<ServerNotification> {
    let tools = capabilities.tools.as_ref().map(|_| ToolListChangedNotification::default().into());
    let prompts = capabilities.prompts.as_ref().map(|_| PromptListChangedNotification::default().into());
    let resources =
        capabilities.resources.as_ref().map(|_| ResourceListChangedNotification::default().into());
    [tools, prompts, resources].into_iter().flatten().collect()
}

/// As many resources as one may want to hear of at once.
///
/// # Errors
/// There are more, or one has a URI that is too long.
pub(super) fn must_be_bearable(filter: &SubscriptionFilter) -> Result<(), ErrorData> {
    let asked = filter.resource_subscriptions.as_ref().map_or(0, Vec::len);
    if asked > MOST_FOLLOWED {
        let why = format!("no more than {MOST_FOLLOWED} resources can be subscribed to at once");
        return Err(ErrorData::invalid_params(why, None));
    }
    filter.resource_subscriptions.iter().flatten().try_for_each(|uri| must_be_short(uri))
}

fn must_be_short(uri: &str) -> Result<(), ErrorData> {
    if uri.len() > LONGEST_URI {
        let why = format!("nobody can subscribe to a URI of more than {LONGEST_URI} bytes");
        return Err(ErrorData::invalid_params(why, None));
    }
    Ok(())
}

async fn listen(
    server: &Arc<Server>,
    party: &Arc<dyn Party>,
    filter: SubscriptionFilter,
    again: bool,
) -> Option<Listening> {
    let listening = async {
        match again {
            true => server.listen_again(party, filter).await,
            false => server.listen(party, filter).await,
        }
    };
    // It may have to be started for it.
    match timeout(server.greets_in() + SAID_IN, listening).await {
        Ok(Ok(listening)) => Some(listening),
        Ok(Err(_)) | Err(_) => {
            tracing::info!(server = server.name(), "an MCP server does not tell of changes");
            None
        }
    }
}

impl Face {
    /// Says what is heard, until nobody listens any more.
    pub(super) async fn hear(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        let context = subscription.request_context();
        let opened = super::visit::Visit::of(&context.extensions)?.opened.clone();
        let Some(opened) = opened else {
            subscription.cancelled().await;
            return Ok(());
        };
        let mut heard = opened.heard.lock().await;
        loop {
            let told = tokio::select! {
                biased;
                () = subscription.cancelled() => return Ok(()),
                told = heard.recv() => told,
            };
            let (told, _place) = match told {
                Some(Letter::Tell(told, place)) => (told, place),
                Some(Letter::Sent(_)) => continue,
                None => return Ok(()),
            };
            match subscription.sink().send(*told).await {
                // What was not asked for is not said.
                Ok(())
                | Err(
                    SubscriptionSendError::NotificationNotAccepted(_)
                    | SubscriptionSendError::UnsupportedNotification(_),
                ) => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// From the greeting of a session on, it is told of changes to all lists.
    pub(super) async fn follow_changes(&self) {
        let Some(session) = self.session() else { return };
        // Once, however often its client says that it is ready.
        if let Some(changed) = lock(&session.changed).take() {
            let (party, until) = (Arc::clone(session) as _, session.over.clone());
            tokio::spawn(until.run_until_cancelled_owned(keep_telling(changed, party)));
        }
        let servers = self.scope.servers();
        // Nobody waits for this, so it may take its time; what comes too late for a list is told of.
        join_all(servers.iter().map(|server| async move {
            let wanted = session.wanted(server.name());
            let mut wanted = wanted.lock().await;
            // Whoever subscribed to a resource meanwhile listens to all lists, too.
            if wanted.listening.is_empty() {
                let stands = wanted.listen(session, server, &self.scope.gateway);
                drop(wanted);
                let _ = timeout(self.scope.patience_with(server), stands).await;
            }
        }))
        .await;
    }

    pub(super) async fn follow(&self, uri: &str, context: &Context) -> Result<(), ErrorData> {
        let mut refusal = no_resource(uri);
        for server in self.followed_at(uri, context).await? {
            match self.follow_at(&server, uri, context).await {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    pub(super) async fn unfollow(&self, uri: &str, context: &Context) -> Result<(), ErrorData> {
        let mut refusal = no_resource(uri);
        for server in self.followed_at(uri, context).await? {
            match self.unfollow_at(&server, uri, context).await {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// The servers to be asked about following this resource, in their order: whoever has been told that this session does, then as
    /// for everything else.
    async fn followed_at(&self, uri: &str, context: &Context) -> Result<Vec<Arc<Server>>, ErrorData> {
        let Some(session) = self.session() else { return Ok(Vec::new()) };
        let holders = self.holders(uri, &Inquiry::of(context)?).await;
        // Whoever is slow just now is not waited for.
        let is_told = |server: &Arc<Server>| {
            session.wanted(server.name()).try_lock().is_ok_and(|wanted| lock(&wanted.uris).contains(uri))
        };
        let told: Vec<_> = self.scope.servers().into_iter().filter(is_told).collect();
        let others = holders.into_iter().filter(|it| told.iter().all(|told| told.name() != it.name()));
        Ok(told.iter().cloned().chain(others).collect())
    }

    async fn follow_at(&self, server: &Arc<Server>, uri: &str, context: &Context) -> Result<(), ErrorData> {
        let (session, has_session) = self.session_at(server, uri, context).await?;
        let wanted = session.wanted(server.name());
        let mut wanted = wanted.lock().await;
        let is_new = wanted.add(uri)?;
        let followed = match has_session {
            true => {
                let request = SubscribeRequest::new(SubscribeRequestParams::new(uri));
                let followed = self.pass(context, server, request.into()).await.map(drop);
                // Where there are no lists to hear of, nobody would see to it that the next connection is told of it, too.
                if followed.is_ok() && !wanted.is_listening() {
                    let stands = wanted.listen(session, server, &self.scope.gateway);
                    let _ = timeout(self.scope.patience_with(server), stands).await;
                }
                followed
            }
            false => wanted.listen_anew(session, server, &self.scope.gateway).await,
        };
        if followed.is_err() && is_new {
            lock(&wanted.uris).remove(uri);
        }
        followed
    }

    async fn unfollow_at(&self, server: &Arc<Server>, uri: &str, context: &Context) -> Result<(), ErrorData> {
        let (session, has_session) = self.session_at(server, uri, context).await?;
        let wanted = session.wanted(server.name());
        let mut wanted = wanted.lock().await;
        let was_there = lock(&wanted.uris).remove(uri);
        let unfollowed = match has_session {
            true => {
                let request = UnsubscribeRequest::new(UnsubscribeRequestParams::new(uri));
                self.pass(context, server, request.into()).await.map(drop)
            }
            false => wanted.listen_anew(session, server, &self.scope.gateway).await,
        };
        if unfollowed.is_err() && was_there {
            lock(&wanted.uris).insert(uri.to_owned());
        }
        unfollowed
    }

    /// This session, and whether it has one at this server, too.
    async fn session_at(
        &self,
        server: &Arc<Server>,
        uri: &str,
        context: &Context,
    ) -> Result<(&Arc<Session>, bool), ErrorData> {
        let none = || no_resource(uri);
        let session = self.session().ok_or_else(none)?;
        let inquiry = Inquiry::of(context)?;
        self.may_speak_with(&inquiry.visit.caller, server).await?;
        let has_session = server.has_session_with(&self.party(&inquiry)).await.map_err(|_| none())?;
        Ok((session, has_session))
    }
}

impl Wanted {
    /// Whether it is one that was not wanted before.
    ///
    /// # Errors
    /// They are as many as can be, or it is too long.
    fn add(&mut self, uri: &str) -> Result<bool, ErrorData> {
        must_be_short(uri)?;
        let mut uris = lock(&self.uris);
        if !uris.contains(uri) && uris.len() >= MOST_FOLLOWED {
            return Err(ErrorData::invalid_request("as many resources as can be are subscribed to", None));
        }
        Ok(uris.insert(uri.to_owned()))
    }

    /// Whether somebody still sees to it that it is told.
    fn is_listening(&mut self) -> bool {
        while self.listening.try_join_next().is_some() {}
        !self.listening.is_empty()
    }

    /// Of all lists, and of its resources.
    async fn listen_anew(
        &mut self,
        session: &Arc<Session>,
        server: &Arc<Server>,
        gateway: &Arc<Gateway>,
    ) -> Result<(), ErrorData> {
        let stands = self.listen(session, server, gateway);
        let failed = || ErrorData::internal_error("the server does not tell of changes", None);
        timeout(SAID_IN, stands).await.ok().and_then(Result::ok).ok_or_else(failed)
    }

    fn listen(
        &mut self,
        session: &Arc<Session>,
        server: &Arc<Server>,
        gateway: &Arc<Gateway>,
    ) -> oneshot::Receiver<()> {
        let (server, uris) = (Arc::clone(server), Arc::clone(&self.uris));
        let listens = Listens { server, party: Arc::clone(session) as _, lists: all_lists(), uris };
        let (tell, stands) = oneshot::channel();
        self.listening = JoinSet::new();
        let who = (Arc::clone(gateway), Caller::clone(&session.caller));
        let listening = keep_listening(listens, who, tell);
        let until = session.over.clone();
        self.listening.spawn(async move {
            let _: Option<()> = until.run_until_cancelled_owned(listening).await;
        });
        stands
    }
}

fn all_lists() -> SubscriptionFilter {
    let all = SubscriptionFilter::builder().tools_list_changed().prompts_list_changed();
    all.resources_list_changed().build()
}

/// So many streams each caller may listen to at once.
const MOST_STREAMS: usize = 32;
/// So many resources one session, or one stream, may want to hear of at one server.
const MOST_FOLLOWED: usize = 1000;
/// Between two times that a server is listened to.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// So long a server may take to say that it tells of changes.
const SAID_IN: Duration = Duration::from_secs(20);
