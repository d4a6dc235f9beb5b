//! One server, and the links to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use action::Tenant;
use rmcp::model::{
    CallToolRequestParams, ClientNotification, ClientRequest, ErrorData, GetMeta, GetPromptRequestParams,
    InputRequiredResult, InputResponses, ListToolsRequest, PaginatedRequestParams, ReadResourceRequestParams,
    RequestMetaObject, ServerPeerInfo, ServerResult, SubscriptionFilter,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::launch::{Declared, Launch};
use super::link::{Fault, Greeting, Heard, Link, Unopened, Use};
use super::listed::SeenTool;
use super::lock;
use super::party::{Nobody, Party, PartyId, Tie};
use super::relay::{Relay, declined, without};
use crate::Outside;

/// One server that the operator names.
pub struct Server {
    declared: Declared,
    launch: Launch,
    links: Mutex<HashMap<PartyId, Vec<Held>>>,
    places: Arc<Semaphore>,
    opening: Semaphore,
    /// No link is opened any more.
    closing: CancellationToken,
    failed: Mutex<Option<Failed>>,
    /// How it wants to be greeted, where it does not take both.
    greeting: Mutex<Option<Greeting>>,
    /// Has it tell of changes to its list.
    watching: Mutex<Option<Listening>>,
    about: Mutex<Option<Arc<ServerPeerInfo>>>,
    tools: Mutex<Option<Listed>>,
    /// How often the server said that its list changed.
    changes: AtomicU64,
    listing: tokio::sync::Mutex<()>,
}

/// An attempt to connect that failed.
struct Failed {
    until: Instant,
    why: String,
}

struct Held {
    link: Arc<Link>,
    owner: PartyId,
    /// What is done without a client needs no place: it must not wait for clients.
    _place: Option<OwnedSemaphorePermit>,
}

/// The last list of tools, whether it is believed any more or not.
#[derive(Clone)]
struct Listed {
    tools: Arc<Vec<SeenTool>>,
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
    _heard: Option<Heard>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Listening {
    fn is_over(&self) -> bool {
        self.task.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
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
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=MOST_NAME).contains(&name.len()) || !name.bytes().all(plain) || name.contains("__") {
            return Err(format!(
                "`{}` is no name of an MCP server: 1 to {MOST_NAME} ASCII letters, digits and `-_.`, without `__`",
                name.escape_debug()
            ));
        }
        let how = declared.how.clone();
        let launch = Launch::new(how, outside).map_err(|why| format!("MCP server `{name}`: {why}"))?;
        declared.most_links = declared.most_links.max(1);
        Ok(Server {
            launch,
            links: Mutex::default(),
            places: Arc::new(Semaphore::new(declared.most_links)),
            opening: Semaphore::new(MOST_OPENING),
            closing: CancellationToken::new(),
            failed: Mutex::default(),
            greeting: Mutex::default(),
            watching: Mutex::default(),
            about: Mutex::default(),
            tools: Mutex::default(),
            changes: AtomicU64::new(0),
            listing: tokio::sync::Mutex::default(),
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

    /// What it says of itself, from the last connection, or else from one that is made for it.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn about(self: &Arc<Server>) -> Result<Arc<ServerPeerInfo>, Unreachable> {
        let known = lock(&self.about).clone();
        if let Some(about) = known {
            return Ok(about);
        }
        self.link(&nobody()).await?;
        let known = lock(&self.about).clone();
        known.ok_or_else(|| self.unreachable("it says nothing of itself"))
    }

    /// Its tools as it lists them, believed for a time and until it says that they changed.
    ///
    /// # Errors
    /// There is no connection, or no list comes over it.
    pub async fn tools(self: &Arc<Server>) -> Result<Arc<Vec<SeenTool>>, Unreachable> {
        if let Some(tools) = self.believed_tools() {
            return Ok(tools);
        }
        let _one = self.listing.lock().await;
        if let Some(tools) = self.believed_tools() {
            return Ok(tools);
        }
        let (changes, until) = (self.changes.load(Ordering::SeqCst), Instant::now() + self.declared.believe);
        let tools = Arc::new(self.list().await?);
        let mut listed = lock(&self.tools);
        // What it said while it listed may be about what is listed.
        let until = (self.changes.load(Ordering::SeqCst) == changes).then_some(until);
        *listed = Some(Listed { tools: Arc::clone(&tools), until });
        Ok(tools)
    }

    /// The last list, as long as it is believed.
    fn believed_tools(&self) -> Option<Arc<Vec<SeenTool>>> {
        let listed = lock(&self.tools).clone()?;
        listed.until.is_some_and(|until| Instant::now() < until).then_some(listed.tools)
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

    async fn list(self: &Arc<Server>) -> Result<Vec<SeenTool>, Unreachable> {
        let link = self.known_link(&nobody()).await?;
        if link.0.asks_by_answers() && lock(&self.watching).as_ref().is_none_or(Listening::is_over) {
            let changes = SubscriptionFilter::builder().tools_list_changed().build();
            *lock(&self.watching) = self.listen(&nobody(), changes).await.ok();
        }
        let (mut tools, mut cursor) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let params = cursor.map(|cursor| PaginatedRequestParams::default().with_cursor(Some(cursor)));
            let request = ListToolsRequest { params, ..ListToolsRequest::default() };
            let tie = Tie::default();
            let answer = link.0.exchange(request.into(), RequestMetaObject::new(), &tie, self.silence());
            let page = match answer.await {
                Ok(ServerResult::ListToolsResult(page)) => page,
                // A server without tools.
                Err(Fault::Refused(error)) if error.code == rmcp::model::ErrorCode::METHOD_NOT_FOUND => break,
                Ok(_) | Err(Fault::Refused(_)) => return Err(self.unreachable("it lists no tools")),
                Err(Fault::Ended) => return Err(self.unreachable(ENDED)),
                Err(Fault::NotSent(why) | Fault::Lost(why)) => return Err(self.unreachable(&why)),
            };
            tools.extend(page.tools.into_iter().map(SeenTool::of));
            cursor = page.next_cursor;
            if tools.len() > MOST_TOOLS {
                return Err(self.unreachable("it lists more tools than are taken"));
            }
            if cursor.is_none() {
                break;
            }
        }
        Ok(tools)
    }

    /// Passes a request on that is none to act, and its answer back. What the server asks in its midst the party answers.
    ///
    /// # Errors
    /// The server's own, or ours where it cannot be reached.
    pub async fn pass(
        self: &Arc<Server>,
        party: &Arc<dyn Party>,
        mut request: ClientRequest,
        tie: Tie,
    ) -> Result<ServerResult, ErrorData> {
        let link = self
            .known_link(party)
            .await
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        let meta = std::mem::take(request.get_meta_mut());
        for _ in 0..MOST_ROUNDS {
            match link.0.exchange(request.clone(), meta.clone(), &tie, self.silence()).await {
                Ok(ServerResult::InputRequiredResult(asked)) => {
                    let state = asked.request_state.clone();
                    let answers = answered(party, asked, &tie).await?;
                    continue_with(&mut request, answers, state);
                }
                Ok(result) => return Ok(result),
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Ended) => {
                    return Err(ErrorData::internal_error(self.unreachable(ENDED).to_string(), None));
                }
                Err(Fault::NotSent(why) | Fault::Lost(why)) => {
                    return Err(ErrorData::internal_error(self.unreachable(&why).to_string(), None));
                }
            }
        }
        Err(ErrorData::internal_error("the server asked too often", None))
    }

    /// Passes a notification on, where there is a connection for this party.
    pub async fn tell(&self, party: &Arc<dyn Party>, notification: ClientNotification) {
        let links: Vec<_> = match lock(&self.links).get(&party.client().id) {
            Some(held) => held.iter().map(|held| Arc::clone(&held.link)).collect(),
            None => return,
        };
        for link in links {
            link.tell(notification.clone()).await;
        }
    }

    /// Has the party told of what changes, as long as the value lives.
    ///
    /// # Errors
    /// There is no connection, or the server does not offer that.
    pub async fn listen(
        self: &Arc<Server>,
        party: &Arc<dyn Party>,
        filter: SubscriptionFilter,
    ) -> Result<Listening, ErrorData> {
        let internal = |why: String| ErrorData::internal_error(why, None);
        let link = self.link(party).await.map_err(|error| internal(error.to_string()))?;
        if !link.0.asks_by_answers() {
            return Ok(Listening { _heard: Some(Heard::of(&link.0)), task: None });
        }
        let subscription = link.0.peer().listen(filter).await;
        let mut subscription =
            subscription.map_err(|_| internal("the server does not tell of changes".to_owned()))?;
        let (server, party, secrets) = (Arc::downgrade(self), Arc::clone(party), self.launch.secrets());
        let heard = Heard::of(&link.0);
        let task = tokio::spawn(async move {
            let _heard = heard;
            while let Ok(Some(told)) = subscription.next().await {
                if let (rmcp::model::ServerNotification::ToolListChangedNotification(_), Some(server)) =
                    (&told, server.upgrade())
                {
                    server.forget_tools();
                }
                if let Some(told) = without(&secrets, told) {
                    party.tell(told, None);
                }
            }
        });
        Ok(Listening { _heard: None, task: Some(task) })
    }

    /// A link for this party: one that it has, unless that one is taken and must not be shared, or a new one.
    pub(super) async fn link(self: &Arc<Server>, party: &Arc<dyn Party>) -> Result<Use, Unreachable> {
        if let Some(link) = self.free(party) {
            return Ok(link);
        }
        let _turn = self.opening.acquire().await;
        if let Some(link) = self.free(party) {
            return Ok(link);
        }
        self.not_just_now()?;
        let owner = party.client().owner.clone();
        let place = match owner.is_nobody() {
            true => None,
            false => Some(self.place(&owner).await?),
        };
        let link = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(self.unreachable("the gateway is about to end")),
            link = self.greet(party) => Arc::new(link?),
        };
        let about = link.introduction();
        let first = std::mem::replace(&mut *lock(&self.about), about).is_none();
        let used = Use::of(&link);
        lock(&self.links).entry(party.client().id.clone()).or_default().push(Held {
            link,
            owner,
            _place: place,
        });
        if first {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        Ok(used)
    }

    /// A server is greeted in the revision that its client speaks, if it can be: then nothing has to be bridged.
    async fn greet(self: &Arc<Self>, party: &Arc<dyn Party>) -> Result<Link, Unreachable> {
        let first = match (party.client().has_session, *lock(&self.greeting)) {
            (_, Some(known)) if !party.client().has_session || known == Greeting::Stateless => known,
            (true, _) => Greeting::Session,
            (false, _) => Greeting::Either,
        };
        let (began, within) = (Instant::now(), self.declared.timeout.min(LONGEST_GREETING));
        let attempt = |greeting| {
            let (party, server) = (Arc::clone(party), Arc::downgrade(self));
            let secrets = self.launch.secrets().into();
            let relay = Relay { party, server, under_way: Arc::default(), secrets };
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
        // Who keeps others waiting is tried less often.
        let pause = (began.elapsed() * 3).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        *lock(&self.failed) = Some(Failed { until: Instant::now() + pause, why: why.clone() });
        Err(self.unreachable(&why))
    }

    /// Who could not be reached just now is not tried again at once, so that nobody waits for it in a row.
    fn not_just_now(&self) -> Result<(), Unreachable> {
        match &*lock(&self.failed) {
            Some(Failed { until, why }) if Instant::now() < *until => Err(self.unreachable(why)),
            _ => Ok(()),
        }
    }

    /// The same, of which the server still knows.
    pub(super) async fn known_link(self: &Arc<Server>, party: &Arc<dyn Party>) -> Result<Use, Unreachable> {
        let link = self.link(party).await?;
        if link.0.is_known(self.silence()).await {
            return Ok(link);
        }
        drop(link);
        self.link(party).await
    }

    fn free(&self, party: &Arc<dyn Party>) -> Option<Use> {
        let mut links = lock(&self.links);
        let held = links.get_mut(&party.client().id)?;
        held.retain(|held| held.link.is_open());
        let shared = |link: &Link| party.client().has_session || link.asks_by_answers();
        held.iter().map(|held| &held.link).find(|link| link.is_idle() || shared(link)).map(Use::of)
    }

    /// A place for one more link; if there is none, that of the one which was not used for the longest time.
    async fn place(&self, owner: &PartyId) -> Result<OwnedSemaphorePermit, Unreachable> {
        self.leave_some_for_others(owner)?;
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        self.drop_the_oldest(None);
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(self.declared.timeout.min(LONGEST_GREETING), place).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(self.unreachable("as many connections as are allowed are in use")),
        }
    }

    /// One has half of the connections at most, and gives up an idle one of its own for the next.
    fn leave_some_for_others(&self, owner: &PartyId) -> Result<(), Unreachable> {
        let most = (self.declared.most_links / 2).max(1);
        let own = || lock(&self.links).values().flatten().filter(|held| held.owner == *owner).count();
        if own() >= most {
            self.drop_the_oldest(Some(owner));
        }
        if own() >= most {
            return Err(self.unreachable("its caller has as many connections in use as one may have"));
        }
        Ok(())
    }

    fn drop_the_oldest(&self, of: Option<&PartyId>) {
        let mut links = lock(&self.links);
        let own = |held: &Held| of.is_none_or(|owner| held.owner == *owner);
        let idle = links.iter().flat_map(|(id, held)| held.iter().map(move |held| (id, held)));
        // One that takes no place makes no room.
        let idle = idle.filter(|(_, held)| held._place.is_some() && held.link.is_idle() && own(held));
        let oldest = idle.max_by_key(|(_, held)| (!held.link.is_heard(), held.link.unused_for()));
        let Some((id, link)) = oldest.map(|(id, held)| (id.clone(), Arc::clone(&held.link))) else { return };
        if let Some(held) = links.get_mut(&id) {
            held.retain(|held| !Arc::ptr_eq(&held.link, &link));
        }
    }

    pub(super) async fn close(&self) {
        self.closing.cancel();
        // Whoever is about to open a link has it, or has given up, once all turns are ours.
        let _all = self.opening.acquire_many(u32::try_from(MOST_OPENING).unwrap_or(u32::MAX)).await;
        let links = std::mem::take(&mut *lock(&self.links));
        // Also of those that are in use.
        links.into_values().flatten().for_each(|held| held.link.end());
    }

    pub(super) fn leave(&self, party: &PartyId) {
        lock(&self.links).remove(party);
    }

    fn unreachable(&self, why: &str) -> Unreachable {
        Unreachable { name: self.name().to_owned(), why: why.to_owned() }
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
    asked: InputRequiredResult,
    tie: &Tie,
) -> Result<InputResponses, ErrorData> {
    let requests = asked.input_requests.unwrap_or_default();
    let can_decline = !requests.is_empty()
        && requests.values().all(|it| matches!(it, rmcp::model::InputRequest::Elicitation(_)));
    let names: Vec<String> = requests.keys().cloned().collect();
    match party.ask(requests, tie.id.as_ref()).await {
        Err(_) if can_decline => Ok(names.into_iter().map(|name| (name, declined())).collect()),
        answers => answers,
    }
}

/// The same request with what its server asked for.
fn continue_with(request: &mut ClientRequest, answers: InputResponses, state: Option<String>) {
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
        ClientRequest::CallToolRequest(request) => {
            let CallToolRequestParams { input_responses, request_state, .. } = &mut request.params;
            (*input_responses, *request_state) = (answers, state);
        }
        _ => {}
    }
}

/// Closes what nobody used for a while, as long as there is a server.
async fn sweep(server: Weak<Server>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let Some(server) = server.upgrade() else { return };
        let mut links = lock(&server.links);
        for held in links.values_mut() {
            let wanted = |link: &Link| link.is_heard() || link.unused_for() < IDLE;
            held.retain(|held| held.link.is_open() && wanted(&held.link));
        }
        links.retain(|_, held| !held.is_empty());
    }
}

const ENDED: &str = "it ended the session";

/// So often a server may ask in the midst of one request.
pub(super) const MOST_ROUNDS: usize = 10;
const MOST_NAME: usize = 40;
const MOST_PAGES: usize = 100;
const MOST_TOOLS: usize = 2000;
/// So many connections are made at once.
const MOST_OPENING: usize = 8;
const SHORTEST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_GREETING: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(300);
