//! One server, and the links to it.
#![expect(deprecated, reason = "subscriptions go through us as long as anybody uses them")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, Weak};
use std::time::{Duration, Instant};

use action::Tenant;
use futures_util::{StreamExt, stream};
use rmcp::model::{
    ClientNotification, ClientRequest, ErrorCode, ErrorData, GetMeta, GetPromptRequestParams, InputResponses,
    ListToolsRequest, PaginatedRequestParams, ReadResourceRequestParams, RequestMetaObject, ServerPeerInfo,
    SubscribeRequest, SubscribeRequestParams, SubscriptionFilter,
};
use tokio::sync::{Mutex as Turn, OwnedSemaphorePermit, RwLock, Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::launch::{Declared, Launch};
use super::link::{Fault, GRACE, Greeting, Heard, Link, Unopened, Use, carried_with};
use super::listed::SeenTool;
use super::ours::without_ours_in;
use super::party::{Nobody, Party, PartyId, Tie};
use super::relay::{MOST_QUESTIONS, Relay, declined, fit_to_tell, must_be_bearable};
use super::said::{Input, Said};
use super::{LONGEST_SERVER_NAME, is_server_name, lock, tool};
use crate::Outside;

/// One server that the operator names.
pub struct Server {
    declared: Declared,
    launch: Launch,
    links: Mutex<HashMap<PartyId, Vec<Arc<Link>>>>,
    places: Arc<Semaphore>,
    taken: Taken,
    opening: Semaphore,
    /// No link is opened any more.
    closing: CancellationToken,
    failed: Mutex<Option<Failed>>,
    /// How it wants to be greeted, where it does not take both.
    greeting: Mutex<Option<Greeting>>,
    /// Has it tell of changes to its list.
    watching: Mutex<Option<JoinHandle<()>>>,
    about: Mutex<Option<Arc<ServerPeerInfo>>>,
    /// Since when it owes each greeting or list of tools that it owes.
    owes_since: Mutex<Vec<Instant>>,
    tools: Mutex<Option<Listed>>,
    /// How often the server said that its list changed.
    changes: AtomicU64,
    /// Held by whoever lists them; the last attempt, if it failed.
    listing: tokio::sync::Mutex<Option<Failed>>,
    sweeping: Once,
    /// Held by whoever makes a session's connection.
    making: Mutex<HashMap<PartyId, Weak<Turn<()>>>>,
    /// Held by whoever starts a process, alone by whoever starts one of nobody's to ask it for a list.
    starting: RwLock<()>,
}

/// A link over which something is asked that is no client's matter.
struct Lent {
    link: Arc<Link>,
    /// Of a client's there is none: what its client asks over it meanwhile has not to be asked over another.
    nobodys: Option<Use>,
}

/// An attempt that failed, and is not made again before.
struct Failed {
    until: Instant,
    why: String,
}

impl Failed {
    /// Who keeps others waiting is tried less often.
    fn after(began: Instant, shortest: Duration, why: &str) -> Failed {
        let pause = (began.elapsed() * 3).clamp(shortest, LONGEST_PAUSE);
        Failed { until: Instant::now() + pause, why: why.to_owned() }
    }
}

/// Whose place a new connection may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// One that is made, if need be by giving up a connection that is idle.
    Made,
    /// One that is free.
    Free,
}

/// Who has how many of the connections, those that are being made included.
type Taken = Arc<Mutex<HashMap<PartyId, usize>>>;

/// A connection's place, until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    share: Share,
}

/// One more that an owner has.
struct Share {
    taken: Taken,
    owner: PartyId,
}

impl Place {
    pub(super) fn owner(&self) -> &PartyId {
        &self.share.owner
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(own) = taken.get_mut(&self.owner) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.owner);
            }
        }
    }
}

/// Something that it owes; see [`Server::owes_for`].
struct Owes<'a> {
    server: &'a Server,
    since: Instant,
}

impl Drop for Owes<'_> {
    fn drop(&mut self) {
        let mut owed = lock(&self.server.owes_since);
        if let Some(at) = owed.iter().position(|since| *since == self.since) {
            owed.swap_remove(at);
        }
    }
}

/// The last list of tools, whether it is believed any more or not.
#[derive(Clone)]
struct Listed {
    tools: Arc<Vec<SeenTool>>,
    /// When it was begun: to whoever asked before, it says how things stand, believed or not.
    began: Instant,
    /// Until when it is believed; nothing, where the server said meanwhile that it changed.
    until: Option<Instant>,
}

/// There is no connection to a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the MCP server `{name}` cannot be reached: {why}")]
pub struct Unreachable {
    /// Which.
    pub name: String,
    /// Why, in words of our own.
    pub why: String,
}

/// Notifications keep coming as long as this lives, and nobody else needs the connection over which they come.
pub struct Listening {
    /// In a session: what is told in it is heard.
    heard: Option<Heard>,
    task: Option<JoinHandle<()>>,
}

impl Listening {
    /// Ends when nothing more comes.
    pub async fn over(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
        }
        while self.heard.as_ref().is_some_and(Heard::is_open) {
            tokio::time::sleep(BETWEEN_HEARINGS).await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Server {
    pub(super) fn new(mut declared: Declared, outside: Outside<'_>) -> Result<Server, String> {
        let name = &declared.name;
        if !is_server_name(name) {
            return Err(format!(
                "`{}` is no name of an MCP server: 1 to {LONGEST_SERVER_NAME} ASCII letters, digits and `-_.`, without `__`",
                name.escape_debug()
            ));
        }
        let how = declared.how.clone();
        let launch = Launch::new(how, declared.keeper.clone(), outside)
            .map_err(|why| format!("MCP server `{name}`: {why}"))?;
        declared.most_links = declared.most_links.max(1);
        Ok(Server {
            launch,
            links: Mutex::default(),
            places: Arc::new(Semaphore::new(declared.most_links)),
            taken: Taken::default(),
            opening: Semaphore::new(MOST_OPENING),
            closing: CancellationToken::new(),
            failed: Mutex::default(),
            greeting: Mutex::default(),
            watching: Mutex::default(),
            about: Mutex::default(),
            owes_since: Mutex::default(),
            tools: Mutex::default(),
            changes: AtomicU64::new(0),
            listing: tokio::sync::Mutex::default(),
            sweeping: Once::new(),
            making: Mutex::default(),
            starting: RwLock::default(),
            declared,
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.declared.name
    }

    /// Whose it is.
    pub fn tenant(&self) -> &Tenant {
        &self.declared.tenant
    }

    /// Whether a method that the protocol does not know may pass to it.
    pub fn takes(&self, method: &str) -> bool {
        self.declared.methods.iter().any(|own| own == method)
    }

    /// How long a call may take at the longest: while a client is asked, the server waits.
    pub(super) fn patience(&self) -> Duration {
        self.declared.timeout.saturating_add(self.declared.input)
    }

    pub(super) fn silence(&self) -> Duration {
        self.declared.timeout
    }

    /// For how long by now it owes somebody, of several whoever waits longest, a greeting or its list of tools.
    pub fn owes_for(&self) -> Duration {
        lock(&self.owes_since).iter().map(Instant::elapsed).max().unwrap_or_default()
    }

    /// It owes something from now on, until the value is dropped.
    fn owes(&self) -> Owes<'_> {
        let since = Instant::now();
        lock(&self.owes_since).push(since);
        Owes { server: self, since }
    }

    /// What it says of itself, from the last connection, or else from one that is made for it.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn about(self: &Arc<Server>) -> Result<Arc<ServerPeerInfo>, Unreachable> {
        if let Some(about) = self.known_about() {
            return Ok(about);
        }
        drop(self.lend().await?);
        self.known_about().ok_or_else(|| self.unreachable("it says nothing of itself"))
    }

    /// What it said of itself over the last connection; nothing before the first.
    pub fn known_about(&self) -> Option<Arc<ServerPeerInfo>> {
        lock(&self.about).clone()
    }

    /// Its tools as it lists them, believed for a time and until it says that they changed.
    ///
    /// # Errors
    /// There is no connection, or no list comes over it.
    pub async fn tools(self: &Arc<Server>) -> Result<Arc<Vec<SeenTool>>, Unreachable> {
        if let Some(tools) = self.believed_tools() {
            return Ok(tools);
        }
        let (server, asked) = (Arc::clone(self), Instant::now());
        // To its end, whoever gives it up: what comes of it is for all who wait.
        let listing = tokio::spawn(async move { server.list_in_turn(asked).await });
        listing.await.unwrap_or_else(|_| Err(self.unreachable(UNLISTED)))
    }

    /// One after the other, so that one list is for all. Who could not be listed just now is not asked again at once.
    async fn list_in_turn(self: &Arc<Server>, asked: Instant) -> Result<Arc<Vec<SeenTool>>, Unreachable> {
        let mut failed = self.listing.lock().await;
        if let Some(tools) = self.believed_tools() {
            return Ok(tools);
        }
        let listed = lock(&self.tools).clone().filter(|listed| listed.began >= asked);
        if let Some(listed) = listed {
            return Ok(listed.tools);
        }
        self.not_before(failed.as_ref())?;
        let began = Instant::now();
        let listed = self.list().await;
        *failed = listed.as_ref().err().map(|error| Failed::after(began, Duration::ZERO, &error.why));
        listed
    }

    /// The last list, as long as it is believed.
    fn believed_tools(&self) -> Option<Arc<Vec<SeenTool>>> {
        let listed = lock(&self.tools).clone()?;
        listed.until.is_some_and(|until| Instant::now() < until).then_some(listed.tools)
    }

    /// Whether its tools are known as it lists them now, so that nothing is to be asked of it.
    pub fn is_listed(&self) -> bool {
        self.believed_tools().is_some()
    }

    /// The last list, believed or not; nothing before the first.
    pub fn known_tools(&self) -> Option<Arc<Vec<SeenTool>>> {
        lock(&self.tools).as_ref().map(|listed| Arc::clone(&listed.tools))
    }

    /// The list is not believed any more.
    pub fn forget_tools(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if let Some(listed) = lock(&self.tools).as_mut() {
            listed.until = None;
        }
    }

    async fn list(self: &Arc<Server>) -> Result<Arc<Vec<SeenTool>>, Unreachable> {
        let Lent { link, nobodys: _nobodys } = self.lend().await?;
        if link.asks_by_answers() {
            self.watch().await;
        }
        let _owes = self.owes();
        let (changes, began) = (self.changes.load(Ordering::SeqCst), Instant::now());
        let until = began + self.declared.believe;
        // A little longer than one page may take: the server is told when that is given up.
        let most = self.silence().saturating_add(2 * GRACE);
        let late = |_| Err(self.unreachable("it does not list its tools in time"));
        let tools = Arc::new(timeout(most, self.pages(&link)).await.unwrap_or_else(late)?);
        let mut listed = lock(&self.tools);
        // What it said while it listed may be about what is listed.
        let until = (self.changes.load(Ordering::SeqCst) == changes).then_some(until);
        *listed = Some(Listed { tools: Arc::clone(&tools), began, until });
        Ok(tools)
    }

    async fn pages(&self, link: &Link) -> Result<Vec<SeenTool>, Unreachable> {
        let (mut tools, mut cursor, mut bytes) = (Vec::new(), None, 0);
        for _ in 0..MOST_PAGES {
            let params = cursor.map(|cursor| PaginatedRequestParams::default().with_cursor(Some(cursor)));
            let request = ListToolsRequest { params, ..ListToolsRequest::default() };
            let tie = Tie::default();
            let answer = link.pass(request.into(), RequestMetaObject::new(), &tie, self.silence());
            let page = match answer.await {
                Ok(page) => page,
                // A server without tools.
                Err(Fault::Refused(error))
                    if tools.is_empty() && error.code == ErrorCode::METHOD_NOT_FOUND =>
                {
                    return Ok(tools);
                }
                Err(Fault::Refused(_)) => return Err(self.unreachable(UNLISTED)),
                Err(fault) => return Err(self.unreachable(&why(fault))),
            };
            bytes += page.text.get().len();
            if bytes > self.declared.most_bytes {
                return Err(self.unreachable("it lists more of its tools than is taken"));
            }
            tools.extend(SeenTool::all_of(&page).ok_or_else(|| self.unreachable(UNLISTED))?);
            cursor = page.value["nextCursor"].as_str().map(str::to_owned);
            if tools.len() > MOST_TOOLS {
                return Err(self.unreachable("it lists more tools than are taken"));
            }
            if cursor.is_none() {
                return Ok(tools);
            }
        }
        // What would be cut off would look as if it were gone.
        Err(self.unreachable("its list has more pages than are taken"))
    }

    /// Has it tell of changes to its list, as long as it does that. Until it says so no list of it is believed, so that is waited
    /// for, but not for long.
    async fn watch(self: &Arc<Server>) {
        let (stands, told) = oneshot::channel();
        {
            let mut watching = lock(&self.watching);
            if watching.as_ref().is_some_and(|task| !task.is_finished()) {
                return;
            }
            *watching = Some(tokio::spawn(watch(Arc::clone(self), stands)));
        }
        let _ = timeout(GRACE, told).await;
    }

    /// Passes a request on that is none to act, and its answer back as it came. What the server asks in its midst the party
    /// answers.
    ///
    /// # Errors
    /// The server's own, or ours where it cannot be reached.
    pub async fn pass(
        self: &Arc<Server>,
        party: &Arc<dyn Party>,
        mut request: ClientRequest,
        tie: Tie,
    ) -> Result<Said, ErrorData> {
        let given_up = tie.cancelled.child_token();
        let tie = Tie { cancelled: given_up.clone(), ..tie };
        let mut passing = std::pin::pin!(self.pass_in_rounds(party, &mut request, &tie));
        if let Ok(result) = timeout(self.patience(), &mut passing).await {
            return result;
        }
        // So that the server is told.
        given_up.cancel();
        let late = || Err(ErrorData::internal_error(self.unreachable("it takes too long").to_string(), None));
        match timeout(2 * GRACE, passing).await {
            Ok(Ok(result)) => Ok(result),
            _ => late(),
        }
    }

    async fn pass_in_rounds(
        self: &Arc<Server>,
        party: &Arc<dyn Party>,
        request: &mut ClientRequest,
        tie: &Tie,
    ) -> Result<Said, ErrorData> {
        let unreachable = |error: Unreachable| ErrorData::internal_error(error.to_string(), None);
        let link = self.known_link(party).await.map_err(unreachable)?;
        let meta = std::mem::take(request.get_meta_mut());
        for _ in 0..MOST_ROUNDS {
            match link.0.pass(request.clone(), meta.clone(), tie, self.silence()).await {
                Ok(said) if said.asks() => {
                    let formless = || unreachable(self.unreachable("what it asks has no form"));
                    let asks = |input: &Input| link.0.asks_by_answers() && input.says_something();
                    let input = said.input().filter(asks).ok_or_else(formless)?;
                    let state = input.state.clone();
                    let answers = answered(party, input, tie).await?;
                    if !tie.may_go_on().await {
                        return Err(ErrorData::internal_error("an operator has stopped this", None));
                    }
                    continue_with(request, answers, state);
                }
                Ok(result) => return Ok(result),
                Err(Fault::Refused(error)) => return Err(error),
                Err(fault) => return Err(unreachable(self.unreachable(&why(fault)))),
            }
        }
        Err(ErrorData::internal_error("the server asked too often", None))
    }

    /// Passes a notification on, where there is a connection for this party, with what of its `_meta` is for the server.
    pub async fn tell(&self, party: &Arc<dyn Party>, notification: ClientNotification) {
        let notification = carried_with(notification);
        let links = match lock(&self.links).get(&party.client().id) {
            Some(links) => links.clone(),
            None => return,
        };
        for link in links {
            link.tell(notification.clone()).await;
        }
    }

    /// Whether this party's connection is a session (before 2026-07-28), in which a server tells of changes without being listened
    /// to.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn has_session_with(self: &Arc<Server>, party: &Arc<dyn Party>) -> Result<bool, Unreachable> {
        Ok(!self.link(party).await?.0.asks_by_answers())
    }

    /// Has the party told of what changes, as far as the server does that, as long as the value lives. In a session it is
    /// subscribed to the resources one by one; what is not to be had of them is left out.
    ///
    /// # Errors
    /// There is no connection, or the server does not offer that, or does not say so in time.
    pub async fn listen(
        self: &Arc<Server>,
        party: &Arc<dyn Party>,
        filter: SubscriptionFilter,
    ) -> Result<Listening, ErrorData> {
        self.listen_in(Room::Made, party, filter).await
    }

    /// The same for a party that did so before and had to make room for others: it has a place that is free, and nobody else's.
    /// Otherwise those who only listen would take each other's places without end.
    ///
    /// # Errors
    /// Those of [`Server::listen`], and no place is free.
    pub async fn listen_again(
        self: &Arc<Server>,
        party: &Arc<dyn Party>,
        filter: SubscriptionFilter,
    ) -> Result<Listening, ErrorData> {
        self.listen_in(Room::Free, party, filter).await
    }

    async fn listen_in(
        self: &Arc<Server>,
        room: Room,
        party: &Arc<dyn Party>,
        filter: SubscriptionFilter,
    ) -> Result<Listening, ErrorData> {
        let internal = |why: &str| ErrorData::internal_error(why.to_owned(), None);
        let link = self.link_in(room, party).await.map_err(|error| internal(&error.to_string()))?;
        let heard = Heard::of(&link.0);
        self.hear_over((&link.0, Some(heard)), party, filter).await.map_err(internal)
    }

    /// The same over this link, which is kept for that or not. Otherwise why not.
    async fn hear_over(
        self: &Arc<Server>,
        (link, heard): (&Link, Option<Heard>),
        party: &Arc<dyn Party>,
        filter: SubscriptionFilter,
    ) -> Result<Listening, &'static str> {
        let filter = filter.supported_by(&link.about().ok_or(DEAF)?.capabilities);
        if !link.asks_by_answers() {
            self.subscribe(link, filter.resource_subscriptions.unwrap_or_default()).await;
            return Ok(Listening { heard, task: None });
        }
        let subscription = timeout(self.bearable(), link.peer().listen(filter)).await;
        let mut subscription = subscription.ok().and_then(Result::ok).ok_or(DEAF)?;
        let (server, party, secrets) = (Arc::downgrade(self), Arc::clone(party), self.launch.secrets());
        let task = tokio::spawn(async move {
            let _heard = heard;
            while let Ok(Some(told)) = subscription.next().await {
                if let (rmcp::model::ServerNotification::ToolListChangedNotification(_), Some(server)) =
                    (&told, server.upgrade())
                {
                    server.forget_tools();
                }
                if let Some(told) = fit_to_tell(&secrets, told) {
                    party.tell(told, None);
                }
            }
        });
        Ok(Listening { heard: None, task: Some(task) })
    }

    async fn subscribe(&self, link: &Link, uris: Vec<String>) {
        let subscribe = |uri: String| async move {
            let request = SubscribeRequest::new(SubscribeRequestParams::new(uri)).into();
            let (meta, tie) = (RequestMetaObject::new(), Tie::default());
            if link.exchange(request, meta, &tie, self.bearable()).await.is_err() {
                tracing::debug!(server = self.name(), "a resource is not listened to");
            }
        };
        stream::iter(uris).for_each_concurrent(MOST_AT_ONCE, subscribe).await;
    }

    /// How long it may take to greet.
    pub fn greets_in(&self) -> Duration {
        if self.launch.is_process() { self.declared.start } else { self.bearable() }
    }

    /// Whether it has ever greeted.
    pub fn has_greeted(&self) -> bool {
        lock(&self.about).is_some()
    }

    /// How long is waited for what a server does at once if it does it at all.
    fn bearable(&self) -> Duration {
        self.declared.timeout.min(LONGEST_GREETING)
    }

    /// A link for this party: one that it has, unless that one is taken and must not be shared, or a new one.
    pub(super) async fn link(self: &Arc<Server>, party: &Arc<dyn Party>) -> Result<Use, Unreachable> {
        self.link_in(Room::Made, party).await
    }

    async fn link_in(self: &Arc<Server>, room: Room, party: &Arc<dyn Party>) -> Result<Use, Unreachable> {
        if !party.client().has_session {
            return self.link_beside(room, party).await;
        }
        // One after the other: a client's session is one session of its server's, whatever wants it first, and so is all that is
        // asked without a client.
        let first = self.first_of(&party.client().id);
        let _first = first.lock().await;
        self.link_beside(room, party).await
    }

    /// One beside others that are being made.
    async fn link_beside(self: &Arc<Server>, room: Room, party: &Arc<dyn Party>) -> Result<Use, Unreachable> {
        if let Some(link) = self.free(party) {
            return Ok(link);
        }
        let _starting = match self.launch.is_process() {
            true => Some(self.starting.read().await),
            false => None,
        };
        self.link_now(room, party).await
    }

    /// A link for what is no client's matter. Where each is a process it is any that is open, since some servers can run only once:
    /// one of nobody's is started where there is none, and none is about to be.
    async fn lend(self: &Arc<Server>) -> Result<Lent, Unreachable> {
        let nobody = nobody();
        if !self.launch.is_process() {
            return self.known_link(&nobody).await.map(Lent::nobodys);
        }
        let first = self.first_of(&nobody.client().id);
        let _first = first.lock().await;
        let until = Instant::now() + 2 * self.greets_in();
        loop {
            if let Some(lent) = self.lend_open().await {
                return Ok(lent);
            }
            // Only looked at: whoever waits for it would keep clients from starting theirs, and so would whoever has it while a
            // server takes its time to say that it is there.
            if let Ok(_alone) = self.starting.try_write()
                && self.any_open().is_none()
            {
                return self.link_now(Room::Made, &nobody).await.map(Lent::nobodys);
            }
            if Instant::now() >= until {
                return Err(self.unreachable("it has not started for its clients yet"));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// One that is open, and answers if it did not when it was asked last.
    async fn lend_open(&self) -> Option<Lent> {
        loop {
            let lent = self.any_open()?;
            if lent.link.is_known(self.bearable()).await {
                return Some(lent);
            }
        }
    }

    /// One of nobody's, or else a client's; rather one that is not in use.
    fn any_open(&self) -> Option<Lent> {
        let links = lock(&self.links);
        let open = links.iter().flat_map(|(id, own)| own.iter().map(move |link| (id, link)));
        let open = open.filter(|(_, link)| link.is_open());
        let (id, link) = open.min_by_key(|(id, link)| (!id.is_nobody(), !link.is_idle()))?;
        let nobodys = id.is_nobody().then(|| Use::of(link));
        Some(Lent { link: Arc::clone(link), nobodys })
    }

    /// Nobody's process makes room for a client's. If it is being asked for its list that is waited for, but not for long.
    async fn nobody_gives_way(&self) {
        let until = Instant::now() + self.bearable();
        while self.is_nobodys_in_use() && Instant::now() < until && self.listing.try_lock().is_err() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Whether there is one that is; those that are not are ended.
    fn is_nobodys_in_use(&self) -> bool {
        let mut links = lock(&self.links);
        let Some(own) = links.get_mut(&nobody().client().id) else { return false };
        own.retain(|link| {
            let is_in_use = link.is_open() && !link.is_idle();
            if !is_in_use {
                link.end();
            }
            is_in_use
        });
        !own.is_empty()
    }

    /// What is held by whoever makes this session's connection.
    fn first_of(&self, id: &PartyId) -> Arc<Turn<()>> {
        let mut making = lock(&self.making);
        if let Some(first) = making.get(id).and_then(Weak::upgrade) {
            return first;
        }
        making.retain(|_, first| first.strong_count() > 0);
        let first = Arc::default();
        making.insert(id.clone(), Arc::downgrade(&first));
        first
    }

    async fn link_now(self: &Arc<Server>, room: Room, party: &Arc<dyn Party>) -> Result<Use, Unreachable> {
        let (owner, until) = (&party.client().owner, Instant::now() + self.bearable());
        let mut place = None;
        loop {
            if let Some(link) = self.free(party) {
                return Ok(link);
            }
            let turn = self.turn().await?;
            if let Some(link) = self.free(party) {
                return Ok(link);
            }
            self.not_before(lock(&self.failed).as_ref())?;
            // What is done without a client needs no place: it must not wait for clients.
            if place.is_none() && !owner.is_nobody() {
                match self.place(owner, room)? {
                    Ok(free) => place = Some(free),
                    Err(_) if room == Room::Free => return Err(self.unreachable(FULL)),
                    Err(share) => {
                        // With a turn in hand nobody waits for a place: others may need none.
                        drop(turn);
                        place = self.place_later(share, party, until).await?;
                        continue;
                    }
                }
            }
            return self.open(party, place).await;
        }
    }

    async fn open(
        self: &Arc<Server>,
        party: &Arc<dyn Party>,
        place: Option<Place>,
    ) -> Result<Use, Unreachable> {
        if self.launch.is_process() && !party.client().owner.is_nobody() {
            self.nobody_gives_way().await;
        }
        let link = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(self.unreachable(CLOSING)),
            // Apart: it is much larger than what is done with a link that is there.
            link = Box::pin(self.greet(party)) => Arc::new(link?.at(place)),
        };
        *lock(&self.about) = link.introduction();
        let used = Use::of(&link);
        {
            let mut links = lock(&self.links);
            // Who left meanwhile will not leave once more.
            if !party.is_gone() {
                links.entry(party.client().id.clone()).or_default().push(link);
            }
        }
        self.sweeping.call_once(|| drop(tokio::spawn(sweep(Arc::downgrade(self)))));
        Ok(used)
    }

    /// A server is greeted in the revision that its client speaks, if it can be: then nothing has to be bridged.
    async fn greet(self: &Arc<Self>, party: &Arc<dyn Party>) -> Result<Link, Unreachable> {
        let first = match (party.client().has_session, *lock(&self.greeting)) {
            (_, Some(known)) if !party.client().has_session || known == Greeting::Stateless => known,
            (true, _) => Greeting::Session,
            (false, _) => Greeting::Either,
        };
        let _owes = self.owes();
        let (began, within) = (Instant::now(), self.greets_in());
        let attempt = |greeting| {
            let (party, server) = (Arc::clone(party), Arc::downgrade(self));
            let secrets = self.launch.secrets().into();
            let questions = Semaphore::new(MOST_QUESTIONS);
            let relay = Relay { party, server, under_way: Arc::default(), secrets, questions };
            Link::open(&self.launch, (self.name(), self.declared.most_bytes), relay, greeting, within)
        };
        let opened = match attempt(first).await {
            Err(Unopened::Otherwise) => {
                let opened = attempt(first.other()).await;
                if opened.is_ok() {
                    *lock(&self.greeting) = Some(first.other());
                }
                opened
            }
            opened => opened,
        };
        let why = match opened {
            Ok(link) => {
                if first == Greeting::Either && !link.asks_by_answers() {
                    *lock(&self.greeting) = Some(Greeting::Session);
                }
                return Ok(link);
            }
            Err(Unopened::Otherwise) => "it speaks no revision that is spoken here".to_owned(),
            Err(Unopened::There(why)) => why,
        };
        *lock(&self.failed) = Some(Failed::after(began, SHORTEST_PAUSE, &why));
        Err(self.unreachable(&why))
    }

    /// What failed just now is not tried again at once, so that nobody waits for it in a row.
    fn not_before(&self, failed: Option<&Failed>) -> Result<(), Unreachable> {
        match failed {
            Some(Failed { until, why }) if Instant::now() < *until => Err(self.unreachable(why)),
            _ => Ok(()),
        }
    }

    /// The same, of which the server still knows.
    pub(super) async fn known_link(self: &Arc<Server>, party: &Arc<dyn Party>) -> Result<Use, Unreachable> {
        let link = self.link(party).await?;
        if link.0.is_known(self.bearable()).await {
            return Ok(link);
        }
        drop(link);
        self.link(party).await
    }

    /// The same without asking or waiting for anything, where its tools are known as well.
    pub(super) fn ready_link(&self, party: &Arc<dyn Party>) -> Option<Use> {
        self.believed_tools().and_then(|_| self.free(party)).filter(|link| link.0.is_believed())
    }

    fn free(&self, party: &Arc<dyn Party>) -> Option<Use> {
        let mut links = lock(&self.links);
        let own = links.get_mut(&party.client().id)?;
        own.retain(|link| link.is_open());
        let shared = |link: &Link| party.client().has_session || link.asks_by_answers();
        own.iter().find(|link| link.is_idle() || shared(link)).map(Use::of)
    }

    /// The right to make a connection.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Unreachable> {
        let turn = timeout(LONGEST_GREETING, self.opening.acquire()).await;
        turn.ok()
            .and_then(Result::ok)
            .ok_or_else(|| self.unreachable("as many connections as can be made at once are being made"))
    }

    /// A place for one more link, if need be that of the one which was not used for the longest time; or else the right to wait
    /// for one.
    fn place(&self, owner: &PartyId, room: Room) -> Result<Result<Place, Share>, Unreachable> {
        let share = self.share(owner, room)?;
        let free = || Arc::clone(&self.places).try_acquire_owned();
        let permit = free().or_else(|none| match room {
            Room::Made => {
                self.drop_the_oldest(None);
                free()
            }
            Room::Free => Err(none),
        });
        Ok(match permit {
            Ok(permit) => Ok(Place { _permit: permit, share }),
            Err(_) => Err(share),
        })
    }

    /// A place as soon as somebody leaves one; nothing, if the party has a link meanwhile.
    async fn place_later(
        &self,
        share: Share,
        party: &Arc<dyn Party>,
        until: Instant,
    ) -> Result<Option<Place>, Unreachable> {
        let mut permit = std::pin::pin!(Arc::clone(&self.places).acquire_owned());
        let full = || self.unreachable(FULL);
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return Err(self.unreachable(CLOSING)),
                permit = &mut permit => {
                    return permit.map(|permit| Some(Place { _permit: permit, share })).map_err(|_| full());
                }
                () = tokio::time::sleep_until(until.into()) => return Err(full()),
                () = tokio::time::sleep(BETWEEN_LOOKS) => {
                    if self.free(party).is_some() {
                        return Ok(None);
                    }
                    // Whoever is not in use any more makes room.
                    self.drop_the_oldest(None);
                }
            }
        }
    }

    /// For one more than one may have, one of its own that is idle is given up, and nobody else's: that would not help.
    fn share(&self, owner: &PartyId, room: Room) -> Result<Share, Unreachable> {
        loop {
            if let Some(share) = self.take(owner) {
                return Ok(share);
            }
            if room == Room::Free || !self.drop_the_oldest(Some(owner)) {
                return Err(self.unreachable("its caller has as many connections in use as one may have"));
            }
        }
    }

    /// One has half of what the others leave at most, so that no few of them have all. What others have idle they leave: whoever
    /// may have its place has it.
    fn take(&self, owner: &PartyId) -> Option<Share> {
        let links = lock(&self.links);
        let is_left = |link: &Link| link.is_idle() && link.owner().is_some_and(|other| other != owner);
        let left = links.values().flatten().filter(|link| is_left(link)).count();
        let mut taken = lock(&self.taken);
        let own = taken.get(owner).copied().unwrap_or_default();
        let others = (taken.values().sum::<usize>() - own).saturating_sub(left);
        let most = (self.declared.most_links.saturating_sub(others) / 2).max(1);
        (own < most).then(|| {
            taken.insert(owner.clone(), own + 1);
            Share { taken: Arc::clone(&self.taken), owner: owner.clone() }
        })
    }

    /// Whether there was one to be dropped.
    fn drop_the_oldest(&self, of: Option<&PartyId>) -> bool {
        let mut links = lock(&self.links);
        // One that takes no place makes no room.
        let makes_room =
            |link: &Link| link.owner().is_some_and(|owner| of.is_none_or(|of| of == owner)) && link.is_idle();
        let all = links.iter().flat_map(|(id, own)| own.iter().map(move |link| (id, link)));
        let idle = all.filter(|(_, link)| makes_room(link));
        // Whoever loses least: nobody, then who only listens, then whose server keeps something for it.
        let oldest = idle.max_by_key(|(_, link)| (!link.is_of_session, !link.is_heard(), link.unused_for()));
        let Some((id, oldest)) = oldest.map(|(id, link)| (id.clone(), Arc::clone(link))) else {
            return false;
        };
        if let Some(own) = links.get_mut(&id) {
            own.retain(|link| !Arc::ptr_eq(link, &oldest));
        }
        true
    }

    pub(super) async fn close(&self) {
        self.closing.cancel();
        // Whoever is about to open a link has it, or has given up, once all turns are ours.
        let _all = self.opening.acquire_many(u32::try_from(MOST_OPENING).unwrap_or(u32::MAX)).await;
        let links = std::mem::take(&mut *lock(&self.links));
        // Also of those that are in use.
        links.into_values().flatten().for_each(|link| link.end());
        self.launch.ended().await;
    }

    pub(super) fn leave(&self, party: &PartyId) {
        lock(&self.links).remove(party);
    }

    fn unreachable(&self, why: &str) -> Unreachable {
        Unreachable { name: self.name().to_owned(), why: why.to_owned() }
    }
}

impl Lent {
    fn nobodys(link: Use) -> Lent {
        Lent { link: Arc::clone(&link.0), nobodys: Some(link) }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Server").field("name", &self.declared.name).finish_non_exhaustive()
    }
}

/// The party of what is done without a client.
pub(super) fn nobody() -> Arc<dyn Party> {
    Arc::new(Nobody::new())
}

/// What the party answers to an `input_required`. What can be declined is, if it answers nothing.
pub(super) async fn answered(
    party: &Arc<dyn Party>,
    Input { requests, length, .. }: Input,
    tie: &Tie,
) -> Result<InputResponses, ErrorData> {
    must_be_bearable(length)?;
    let can_decline = !requests.is_empty()
        && requests.values().all(|it| matches!(it, rmcp::model::InputRequest::Elicitation(_)));
    let names: Vec<String> = requests.keys().cloned().collect();
    let answers = tokio::select! {
        biased;
        answers = party.ask(requests, tie.open_id()) => answers,
        // Nor does whoever was asked have to answer any more.
        () = tie.cancelled.cancelled() => {
            return Err(ErrorData::internal_error("its caller gave it up", None));
        }
    };
    match answers {
        Err(_) if can_decline => Ok(names.into_iter().map(|name| (name, declined())).collect()),
        answers => answers.map(without_ours_in),
    }
}

/// Why there is no result, in words of our own.
fn why(fault: Fault) -> String {
    match fault {
        Fault::Refused(_) => "it answers with an error".to_owned(),
        Fault::Ended => "it ended the session".to_owned(),
        Fault::Shut(status) => format!("it does not take what we are to be known by ({status})"),
        Fault::NotSent(why) | Fault::Lost(_, why) => why,
    }
}

/// The same request with what its server asked for.
fn continue_with(request: &mut ClientRequest, answers: InputResponses, state: Option<String>) {
    if let ClientRequest::CallToolRequest(request) = request {
        return tool::continue_with(&mut request.params, answers, state);
    }
    let answers = Some(answers).filter(|answers| !answers.is_empty());
    match request {
        ClientRequest::GetPromptRequest(request) => {
            let GetPromptRequestParams { input_responses, request_state, .. } = &mut request.params;
            (*input_responses, *request_state) = (answers, state);
        }
        ClientRequest::ReadResourceRequest(request) => {
            let ReadResourceRequestParams { input_responses, request_state, .. } = &mut request.params;
            (*input_responses, *request_state) = (answers, state);
        }
        _ => {}
    }
}

/// See [`Server::watch`].
async fn watch(server: Arc<Server>, stands: oneshot::Sender<()>) {
    let changes = SubscriptionFilter::builder().tools_list_changed().build();
    let Ok(Lent { link, nobodys }) = server.lend().await else { return };
    // A client's is not kept for this.
    let heard = nobodys.as_ref().map(|link| Heard::of(&link.0));
    let hearing = server.hear_over((&link, heard), &nobody(), changes).await;
    drop((link, nobodys));
    let Ok(mut listening) = hearing else { return };
    // Of what was listed meanwhile it may have told nobody.
    server.forget_tools();
    let watched = Arc::downgrade(&server);
    drop(server);
    let _ = stands.send(());
    listening.over().await;
    // A process makes room for another, which is to be told to say so, too.
    if let Some(server) = watched.upgrade().filter(|server| server.launch.is_process()) {
        server.forget_tools();
    }
}

/// Closes what nobody used for a while, as long as there is a server. What is of a session goes with it, or for want of room.
async fn sweep(server: Weak<Server>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let Some(server) = server.upgrade() else { return };
        let mut links = lock(&server.links);
        for own in links.values_mut() {
            own.retain(|link| link.is_open() && !link.is_left(IDLE));
        }
        links.retain(|_, own| !own.is_empty());
    }
}

const UNLISTED: &str = "it lists no tools";
const DEAF: &str = "the server does not tell of changes";
const FULL: &str = "as many connections as are allowed are in use";
const CLOSING: &str = "the gateway is about to end";

/// So often a server may ask in the midst of one request.
pub(super) const MOST_ROUNDS: usize = 10;
const MOST_PAGES: usize = 100;
const MOST_TOOLS: usize = 2000;
/// So many connections are made at once.
const MOST_OPENING: usize = 8;
/// So many subscriptions are made at once.
const MOST_AT_ONCE: usize = 8;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
const BETWEEN_HEARINGS: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_GREETING: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::launch::How;
    use super::*;
    use crate::egress::{Egress, Rules};
    use crate::secrets::Secrets;

    fn server(most_links: usize) -> Server {
        let how = How::Address { url: "https://example.com/mcp".to_owned(), headers: Default::default() };
        let declared = Declared {
            name: "shop".to_owned(),
            tenant: Tenant::default(),
            how,
            start: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            input: Duration::from_secs(1),
            most_bytes: 1024,
            most_links,
            methods: Vec::new(),
            believe: Duration::from_secs(1),
            keeper: None,
        };
        let egress = Egress::new(Rules::default());
        Server::new(declared, Outside { egress: &egress, secrets: &Secrets::default() }).unwrap()
    }

    #[test]
    fn a_server_owes_as_long_as_anything_is_owed() {
        let server = server(1);
        let (older, newer) = (server.owes(), server.owes());
        drop(newer);
        assert_eq!(lock(&server.owes_since).as_slice(), [older.since], "what was owed before is still owed");
        let newest = server.owes();
        drop(older);
        assert_eq!(lock(&server.owes_since).as_slice(), [newest.since]);
        drop(newest);
        assert_eq!(server.owes_for(), Duration::ZERO);
    }

    #[test]
    fn each_has_half_of_what_the_others_leave() {
        let server = server(8);
        let takes = |who: &str| {
            let owner = PartyId(who.into());
            std::iter::from_fn(|| server.share(&owner, Room::Made).ok()).collect::<Vec<_>>()
        };
        let (ann, bob, eve) = (takes("ann"), takes("bob"), takes("eve"));
        assert_eq!([ann.len(), bob.len(), eve.len()], [4, 2, 1], "and there is one left for somebody else");
        drop(ann);
        assert_eq!(takes("eve").len(), 2, "what is given back counts no more");
    }
}
