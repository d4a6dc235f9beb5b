//! A connection to a server, for one party.
#![expect(deprecated, reason = "logging goes through us as long as anybody uses it")]

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use execution::Doubt;
use reqwest::header::HeaderValue;
use rmcp::RoleClient;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelledNotificationMethod, CancelledNotificationParam,
    ClientNotification, ClientRequest, ConstString, CustomNotification, ErrorData, GetExtensions, GetMeta,
    InputResponses, JsonObject, LoggingLevel, NotificationMetaObject, PingRequest, ProtocolVersion,
    RequestId, RequestMetaObject, ServerPeerInfo, ServerResult, SetLevelRequest, SetLevelRequestParams,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, Peer, PeerRequestOptions, RunningService, ServiceError,
    serve_client_with_lifecycle,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::direct::{self, Direct};
use super::launch::{Launch, Running};
use super::lock;
use super::ours::is_ours;
use super::paced::Paced;
use super::party::{PartyId, Tie};
use super::post::{AsItCame, Unread};
use super::relay::{Exchange, Relay, UnderWay, without};
use super::said::Said;
use super::server::Place;
use crate::secrets::Secret;

pub(super) struct Link {
    service: RunningService<RoleClient, Relay>,
    /// How calls go to an address that keeps no session.
    direct: Option<Direct>,
    under_way: Arc<UnderWay>,
    secrets: Arc<[Arc<Secret>]>,
    used: Mutex<Instant>,
    busy: AtomicUsize,
    heard: AtomicUsize,
    /// The server ended its session, does not let us in, or does not answer any more.
    is_gone: AtomicBool,
    /// The last request was not answered in time.
    is_silent: AtomicBool,
    /// Is it at an address? A process and its session end together.
    is_called: bool,
    /// Of a client's session: what the server keeps for it lasts as long.
    pub(super) is_of_session: bool,
    level: Mutex<Option<LoggingLevel>>,
    /// Ended with the link.
    process: Mutex<Option<Running>>,
    /// Taken as long as there is the link, whoever still uses it.
    place: Option<Place>,
}

/// How a server is greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// As a client with a session: 2025-11-25.
    Session,
    /// As a client without one, 2026-07-28; or with one, if the server knows nothing else.
    Either,
    /// As a client without one.
    Stateless,
}

impl Greeting {
    /// The one for a server that does not want this one.
    pub(super) fn other(self) -> Greeting {
        match self {
            Greeting::Session => Greeting::Stateless,
            Greeting::Either | Greeting::Stateless => Greeting::Session,
        }
    }

    fn mode(self) -> ClientLifecycleMode {
        let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
        match self {
            Greeting::Session => ClientLifecycleMode::Initialize,
            Greeting::Stateless => ClientLifecycleMode::Discover { preferred_versions },
            Greeting::Either => ClientLifecycleMode::Auto {
                preferred_versions,
                legacy_version: Some(ProtocolVersion::V_2025_11_25),
            },
        }
    }
}

/// Why there is no link.
#[derive(Debug)]
pub(super) enum Unopened {
    /// The server is there and does not want to be greeted so.
    Otherwise,
    /// It cannot be reached, in words of our own.
    There(String),
}

/// How an exchange ended that has no result.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server said that it is none.
    Refused(ErrorData),
    /// The server knows nothing of the session any more. It will say so of every request in it.
    Ended,
    /// Whoever stands before the server did not let us in, by this status: it was not looked at.
    Shut(u16),
    /// Nothing left us.
    NotSent(String),
    /// It may have left, and there is no answer.
    Lost(Doubt, String),
}

/// A link in use.
pub(super) struct Use(pub(super) Arc<Link>);

/// A link that somebody listens to: kept while there is room for it, and given up for whoever needs its place.
pub(super) struct Heard(Weak<Link>);

impl Link {
    /// Connects and greets, in one way.
    pub(super) async fn open(
        launch: &Launch,
        (name, most_bytes): (&str, usize),
        relay: Relay,
        greeting: Greeting,
        within: Duration,
    ) -> Result<Link, Unopened> {
        let (under_way, secrets) = (Arc::clone(&relay.under_way), Arc::clone(&relay.secrets));
        let is_of_session = relay.party.client().has_session && !relay.party.client().owner.is_nobody();
        let mode = greeting.mode();
        let mut direct = None;
        let (greeted, process) = match launch {
            Launch::Process(process) => {
                let (pipes, running) = process.start(name, most_bytes).await.map_err(Unopened::There)?;
                let greeting = serve_client_with_lifecycle(relay, Paced::new(pipes), mode);
                (tokio::time::timeout(within, greeting).await, Some(running))
            }
            Launch::Address(address) => {
                let has_session = greeting == Greeting::Session;
                let (client, config) = address.client(most_bytes, has_session).map_err(Unopened::There)?;
                direct = Some(Direct::new(client.clone(), config.clone(), relay.says()));
                let transport = StreamableHttpClientTransport::with_client(Unread::new(client), config);
                let greeting = serve_client_with_lifecycle(relay, Paced::new(transport), mode);
                (tokio::time::timeout(within, greeting).await, None)
            }
        };
        let service = match greeted {
            Err(_) => return Err(Unopened::There("it did not greet in time".to_owned())),
            Ok(Err(
                ClientInitializeError::JsonRpcError(_)
                | ClientInitializeError::NoCompatibleProtocolVersion { .. },
            )) => return Err(Unopened::Otherwise),
            Ok(Err(error)) => {
                let mut error = error.to_string();
                for secret in secrets.iter() {
                    secret.strike_from(&mut error);
                }
                tracing::debug!(server = name, error = %error.escape_debug(), "an MCP server did not greet");
                return Err(Unopened::There("no connection came about".to_owned()));
            }
            Ok(Ok(service)) => service,
        };
        let mut link = Link {
            service,
            direct: None,
            under_way,
            secrets,
            used: Mutex::new(Instant::now()),
            busy: AtomicUsize::new(0),
            heard: AtomicUsize::new(0),
            is_gone: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            is_called: matches!(launch, Launch::Address(_)),
            is_of_session,
            level: Mutex::default(),
            process: Mutex::new(process),
            place: None,
        };
        // It has a session after all, on a client that is for those who have none.
        if matches!(launch, Launch::Address(_)) && greeting == Greeting::Either && !link.asks_by_answers() {
            return Err(Unopened::Otherwise);
        }
        link.direct = direct.filter(|_| link.asks_by_answers());
        Ok(link)
    }

    /// The same, in this place.
    pub(super) fn at(self, place: Option<Place>) -> Link {
        Link { place, ..self }
    }

    /// Who has its place, if it has one.
    pub(super) fn owner(&self) -> Option<&PartyId> {
        self.place.as_ref().map(Place::owner)
    }

    pub(super) fn about(&self) -> Option<Arc<ServerPeerInfo>> {
        self.service.peer().peer_info()
    }

    /// The same for others to hear; nothing, if it has no form without what the server was told in confidence.
    pub(super) fn introduction(&self) -> Option<Arc<ServerPeerInfo>> {
        self.without_secrets((*self.about()?).clone()).map(Arc::new)
    }

    /// What the server says, without what it was told in confidence; nothing if it has no form then.
    pub(super) fn without_secrets<T: Serialize + DeserializeOwned>(&self, said: T) -> Option<T> {
        without(&self.secrets, said)
    }

    pub(super) fn peer(&self) -> &Peer<RoleClient> {
        self.service.peer()
    }

    /// Whether the server asks by its answers (2026-07-28), and not by requests of its own.
    pub(super) fn asks_by_answers(&self) -> bool {
        self.about().is_some_and(|about| about.protocol_version >= ProtocolVersion::V_2026_07_28)
    }

    /// Closes it and ends what was started for it, whoever still waits for an answer.
    pub(super) fn end(&self) {
        self.service.cancellation_token().cancel();
        drop(lock(&self.process).take());
    }

    pub(super) fn is_open(&self) -> bool {
        let is_dead = {
            let mut process = lock(&self.process);
            let is_dead = process.as_mut().is_some_and(Running::is_over);
            // With all that it started, and that is still there.
            drop(process.take_if(|_| is_dead));
            is_dead
        };
        let is_gone = self.is_gone.fetch_or(is_dead, Ordering::Relaxed) || is_dead;
        !is_gone && !self.service.is_closed() && !self.service.peer().is_transport_closed()
    }

    /// Whether the server still knows of it, and says so in time. One that ended the session says so of the first request
    /// afterwards, which then had better be none that acts.
    pub(super) async fn is_known(&self, within: Duration) -> bool {
        if self.is_believed() {
            return true;
        }
        let (ping, tie) = (PingRequest::default().into(), Tie::default());
        // Apart: with rmcp's tasks it is much larger than a call without them.
        let answer = Box::pin(self.exchange(ping, RequestMetaObject::new(), &tie, within)).await;
        let is_known = matches!(answer, Ok(_) | Err(Fault::Refused(_)));
        self.is_silent.fetch_and(!is_known, Ordering::Relaxed);
        // Nor does it do for the next.
        self.is_gone.fetch_or(!is_known, Ordering::Relaxed);
        is_known
    }

    /// Whether there is no reason to ask whether the server still knows of it.
    pub(super) fn is_believed(&self) -> bool {
        let is_quiet = self.is_called && !self.asks_by_answers() && lock(&self.used).elapsed() >= QUIET;
        !is_quiet && !self.is_silent.load(Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    /// Whether somebody wants to hear what comes over it, though nothing is asked.
    pub(super) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) > 0
    }

    /// Whether it is to be given up: nobody used it for so long, and nothing but its place depends on it.
    pub(super) fn is_left(&self, idle: Duration) -> bool {
        !self.is_heard() && !self.is_of_session && self.unused_for() >= idle
    }

    pub(super) fn unused_for(&self) -> Duration {
        if self.is_idle() { lock(&self.used).elapsed() } else { Duration::ZERO }
    }

    /// One request and its answer. It is given up when nothing is heard of it for `silence`, or when the client does not want
    /// it any more; the server is told so.
    pub(super) async fn exchange(
        &self,
        request: ClientRequest,
        meta: RequestMetaObject,
        tie: &Tie,
        silence: Duration,
    ) -> Result<ServerResult, Fault> {
        let answer = self.hand_on(request, meta, tie, silence).await;
        self.heard(answer, |result| self.without_secrets(result))
    }

    /// The same of what passes, with its answer as it came.
    pub(super) async fn pass(
        &self,
        mut request: ClientRequest,
        meta: RequestMetaObject,
        tie: &Tie,
        silence: Duration,
    ) -> Result<Said, Fault> {
        request.extensions_mut().insert(AsItCame);
        let answer = self.hand_on(request, meta, tie, silence).await;
        let answer = answer.and_then(|result| Said::of_result(result).ok_or_else(unreadable));
        self.heard(answer, |said| said.without(&self.secrets))
    }

    /// A `tools/call` and its answer as it came, without rmcp's tasks where that can be.
    pub(super) async fn call(&self, asked: &Asked<'_>, tie: &Tie, silence: Duration) -> Result<Said, Fault> {
        // Only rmcp knows which arguments stand in the head, and how.
        let named = Direct::named(asked.name).filter(|_| !asked.promotes);
        let answer = match (&self.direct, named) {
            (Some(direct), Some(name)) => {
                let exchange = Arc::new(Exchange::new(direct::ids(direct.next()), tie.clone()));
                self.send(direct, (name, asked), &exchange, silence).await
            }
            _ => {
                // Apart, as in `is_known`.
                let answer = Box::pin(self.hand_on(asked.request(), asked.meta(), tie, silence)).await;
                answer.and_then(|result| Said::of_result(result).ok_or_else(unreadable))
            }
        };
        self.heard(answer, |said| said.without(&self.secrets))
    }

    async fn hand_on(
        &self,
        mut request: ClientRequest,
        meta: RequestMetaObject,
        tie: &Tie,
        silence: Duration,
    ) -> Result<ServerResult, Fault> {
        let level = meta.log_level();
        *request.get_meta_mut() = carried(meta);
        if let Some(level) = level {
            self.log_as(level, &mut request).await;
        }
        let beginning = self.under_way.beginning().await;
        let sent = self.peer().send_request_with_option(request, PeerRequestOptions::no_options()).await;
        let handle = sent.map_err(|_| Fault::NotSent("the connection to the server is closed".to_owned()))?;
        let own = (handle.id.clone(), handle.progress_token.clone());
        let exchange = Arc::new(Exchange::new(own, tie.clone()));
        let _end = self.begin(&exchange);
        drop(beginning);
        let id = exchange.id.clone();
        let mut answer = pin!(handle.await_response());
        tokio::select! {
            biased;
            answer = &mut answer => answer.map_err(fault),
            () = silent(&exchange, silence) => {
                self.is_silent.store(true, Ordering::Relaxed);
                self.give_up(id, "nothing was heard of it in time").await;
                Err(Fault::Lost(Doubt::NoAnswer, LATE.to_owned()))
            }
            () = tie.cancelled.cancelled() => {
                self.give_up(id, "the client does not want it any more").await;
                // It may be at its end just now.
                match tokio::time::timeout(GRACE, &mut answer).await {
                    Ok(answer) => answer.map_err(fault),
                    Err(_) => Err(Fault::Lost(Doubt::GivenUp, GIVEN_UP.to_owned())),
                }
            }
        }
    }

    async fn send(
        &self,
        direct: &Direct,
        call: (HeaderValue, &Asked<'_>),
        exchange: &Arc<Exchange>,
        silence: Duration,
    ) -> Result<Said, Fault> {
        let _end = self.begin(exchange);
        let hear = |told| self.service.service().hear(told, Some(exchange));
        // Whoever is not waited for any more is told so by the end of the connection.
        tokio::select! {
            biased;
            answer = direct.call(call, &exchange.id, &hear) => answer,
            () = silent(exchange, silence) => Err(Fault::Lost(Doubt::NoAnswer, LATE.to_owned())),
            () = exchange.tie.cancelled.cancelled() => Err(Fault::Lost(Doubt::GivenUp, GIVEN_UP.to_owned())),
        }
    }

    fn begin<'a>(&'a self, exchange: &'a Arc<Exchange>) -> End<'a> {
        self.under_way.begin(Arc::clone(exchange));
        End { under_way: &self.under_way, exchange }
    }

    /// Tells it something. Whether it took that in time.
    pub(super) async fn tell(&self, notification: ClientNotification) -> bool {
        tokio::time::timeout(GRACE, self.peer().send_notification(notification)).await.is_ok()
    }

    /// Has the server log for this request as its client wants: each request says so, or, before 2026-07-28, the connection.
    async fn log_as(&self, level: LoggingLevel, request: &mut ClientRequest) {
        if self.asks_by_answers() {
            return request.get_meta_mut().set_log_level(level);
        }
        let logs = self.about().is_some_and(|about| about.capabilities.logging.is_some());
        if logs && lock(&self.level).replace(level) != Some(level) {
            let request = SetLevelRequest::new(SetLevelRequestParams::new(level));
            // It is sent; who does not say so in time may log as it likes.
            let _ = tokio::time::timeout(GRACE, self.peer().send_request(request.into())).await;
        }
    }

    fn heard<T>(
        &self,
        answer: Result<T, Fault>,
        fit_to_tell: impl FnOnce(T) -> Option<T>,
    ) -> Result<T, Fault> {
        match answer {
            Ok(result) => fit_to_tell(result).ok_or_else(unreadable),
            Err(Fault::Refused(error)) => {
                Err(self.without_secrets(error).map_or_else(unreadable, Fault::Refused))
            }
            Err(fault @ (Fault::Ended | Fault::Shut(_))) => {
                self.is_gone.store(true, Ordering::Relaxed);
                Err(fault)
            }
            // A process that is gone takes its pipes along.
            Err(Fault::Lost(Doubt::Broken, why)) if !self.is_called => Err(Fault::Lost(Doubt::Ended, why)),
            Err(fault) => Err(fault),
        }
    }

    /// Tells the server that nobody wants it any more, in a form of which rmcp knows nothing: by its own it would hear no answer
    /// that comes all the same.
    async fn give_up(&self, id: RequestId, reason: &str) -> bool {
        let params = CancelledNotificationParam::new(Some(id), Some(reason.to_owned()));
        let params = serde_json::to_value(params).ok();
        self.tell(CustomNotification::new(CancelledNotificationMethod::VALUE, params).into()).await
    }
}

impl Use {
    pub(super) fn of(link: &Arc<Link>) -> Use {
        link.busy.fetch_add(1, Ordering::Relaxed);
        Use(Arc::clone(link))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        *lock(&self.0.used) = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Heard {
    pub(super) fn of(link: &Arc<Link>) -> Heard {
        link.heard.fetch_add(1, Ordering::Relaxed);
        Heard(Arc::downgrade(link))
    }

    /// Whether anything can still come over it.
    pub(super) fn is_open(&self) -> bool {
        self.0.upgrade().is_some_and(|link| link.is_open())
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        if let Some(link) = self.0.upgrade() {
            link.heard.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct End<'a> {
    under_way: &'a UnderWay,
    exchange: &'a Arc<Exchange>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.under_way.end(self.exchange);
    }
}

/// Ends when nothing was heard of the exchange for so long.
async fn silent(exchange: &Exchange, most: Duration) {
    loop {
        let since = exchange.silent_since().unwrap_or_else(Instant::now);
        if since.elapsed() >= most {
            return;
        }
        tokio::time::sleep_until((since + most).into()).await;
    }
}

/// A `tools/call` of a server.
pub(super) struct Asked<'a> {
    pub(super) name: &'a str,
    /// Whether some of its arguments have to stand in the head, too.
    pub(super) promotes: bool,
    pub(super) arguments: &'a JsonObject,
    /// What its client answered to what was asked before, and what the server wants to see again.
    pub(super) again: (Option<InputResponses>, Option<String>),
    /// What its client says beside it.
    pub(super) of_client: Option<&'a RequestMetaObject>,
    /// Whose call it is, so that a server that wants to can recognise it.
    pub(super) provider_key: &'a str,
    pub(super) transaction: &'a str,
}

impl Asked<'_> {
    /// What we say ourselves.
    pub(super) fn ours(&self) -> [(&'static str, &str); 2] {
        [(IDEMPOTENCY_KEY, self.provider_key), (TRANSACTION, self.transaction)]
    }

    /// The same for rmcp, which is not to read its answer.
    fn request(&self) -> ClientRequest {
        let params = CallToolRequestParams::new(self.name.to_owned()).with_arguments(self.arguments.clone());
        let mut request = CallToolRequest::new(params);
        (request.params.input_responses, request.params.request_state) = self.again.clone();
        request.extensions.insert(AsItCame);
        request.into()
    }

    fn meta(&self) -> RequestMetaObject {
        let mut meta = self.of_client.cloned().unwrap_or_default();
        for (name, value) in self.ours() {
            meta.0.insert(name.to_owned(), value.into());
        }
        meta
    }
}

/// What of a client's `_meta` is for the server, and what we say.
fn carried(meta: RequestMetaObject) -> RequestMetaObject {
    let mut meta = meta;
    meta.0.retain(|name, _| is_carried(name) || KEPT.contains(&name.as_str()));
    meta
}

/// What a client tells, with what of its `_meta` is for the server. An empty one is none.
pub(super) fn carried_with(notification: ClientNotification) -> ClientNotification {
    let mut notification = notification;
    let extensions = notification.extensions_mut();
    if let Some(mut meta) = extensions.remove::<NotificationMetaObject>() {
        meta.0.0.retain(|name, _| is_carried(name));
        if !meta.0.0.is_empty() {
            extensions.insert(meta);
        }
    }
    notification
}

/// Whether a member of a client's `_meta` is for the server: not what is between the client and us.
pub(super) fn is_carried(name: &str) -> bool {
    !is_ours(name) && name != "progressToken" && !name.starts_with("io.modelcontextprotocol/")
}

/// What we say ourselves of a call.
const IDEMPOTENCY_KEY: &str = "io.countersign/provider-key";
const TRANSACTION: &str = "io.countersign/transaction";
const KEPT: [&str; 2] = [IDEMPOTENCY_KEY, TRANSACTION];

/// A session of which nothing was heard for so long may be over.
const QUIET: Duration = Duration::from_secs(5);

/// How long a server may take for what is only said to it, and one that is told to give up may still answer.
pub(super) const GRACE: Duration = Duration::from_millis(500);

fn unreadable() -> Fault {
    Fault::Lost(Doubt::NotUnderstood, UNREADABLE.to_owned())
}

fn fault(error: ServiceError) -> Fault {
    let (how, why) = match error {
        ServiceError::McpError(error) => return Fault::Refused(error),
        ServiceError::TransportSend(error) => {
            let error = error.error.downcast_ref::<StreamableHttpError<reqwest::Error>>();
            return error.map_or_else(|| Fault::Lost(Doubt::Broken, BROKEN.to_owned()), direct::fault);
        }
        ServiceError::Cancelled { .. } => (Doubt::Error, "the server gave it up"),
        ServiceError::UnexpectedResponse => (Doubt::NotUnderstood, UNREADABLE),
        _ => (Doubt::Broken, BROKEN),
    };
    Fault::Lost(how, why.to_owned())
}

pub(super) const BROKEN: &str = "the connection broke before an answer came";
pub(super) const UNREADABLE: &str = "the answer has not the form of one";
const LATE: &str = "no answer came in time";
const GIVEN_UP: &str = "its caller gave it up";
