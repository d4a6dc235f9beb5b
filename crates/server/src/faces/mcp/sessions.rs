//! Sessions of clients of 2025-11-25. Each belongs to who opened it, at the address where it was opened; to anybody else it
//! does not exist. They are bounded, and over when nothing is heard of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use action::Tenant;
use futures_util::Stream;
use futures_util::StreamExt;
use gateway::config::Mcp as Settings;
use gateway::{Code, Error};
use rmcp::model::{ClientJsonRpcMessage, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionConfig,
};
use rmcp::transport::streamable_http_server::{SessionId, SessionManager};
use tokio_util::sync::CancellationToken;

use super::delivery::{Asked, Left, Open};
use super::lock;
use super::midst::{Sorting, Streams, with_told};

/// All of them.
pub(super) struct Sessions {
    kept: LocalSessionManager,
    known: Mutex<HashMap<SessionId, Known>>,
    swept: AtomicBool,
    /// Ends streams that only wait for news.
    pub(super) closing: CancellationToken,
}

struct Known {
    owner: Owner,
    heard: Instant,
    open: Arc<AtomicUsize>,
    left: Arc<Left>,
    asked: Arc<Asked>,
    streams: Streams,
}

/// Whose a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) tenant: Tenant,
    pub(super) who: Arc<str>,
    /// The address at which it was opened.
    pub(super) at: Arc<str>,
}

/// How many there may be, and for how long nothing is heard of one before it is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    own: usize,
    all: usize,
    idle: Duration,
}

impl Bounds {
    pub(super) fn of(settings: &Settings) -> Bounds {
        Bounds {
            own: settings.sessions_per_subject.max(1),
            all: settings.sessions.max(1),
            idle: Duration::from_secs(settings.session_idle_seconds.max(1)),
        }
    }
}

impl Default for Sessions {
    fn default() -> Sessions {
        let mut config = SessionConfig::default();
        // Their end is seen to here: a call may wait longer than a session may be silent.
        config.keep_alive = None;
        // Nobody goes on with the stream of a request that was given up, and an idle session would keep what was told on it.
        config.completed_cache_ttl = Duration::ZERO;
        let mut kept = LocalSessionManager::default();
        kept.session_config = config;
        Sessions {
            kept,
            known: Mutex::default(),
            swept: AtomicBool::new(false),
            closing: CancellationToken::new(),
        }
    }
}

impl Sessions {
    /// Whether there is such a session, and it is theirs.
    pub(super) fn is_of(&self, id: &str, owner: &Owner) -> bool {
        lock(&self.known).get(id).is_some_and(|known| known.owner == *owner)
    }

    /// What its broken streams had still to bring.
    pub(super) fn left(&self, id: &str) -> Arc<Left> {
        lock(&self.known).get(id).map(|known| Arc::clone(&known.left)).unwrap_or_default()
    }

    /// A request in it; nothing, if one of its id has no answer yet.
    pub(super) fn begin(&self, id: &str, request: RequestId) -> Option<Open> {
        let asked = lock(&self.known).get(id).map(|known| Arc::clone(&known.asked)).unwrap_or_default();
        asked.begin(request)
    }

    /// Whether this owner may have one more, in the place of another if need be.
    ///
    /// # Errors
    /// There are as many as may be, and all are in use.
    pub(super) fn has_room(&self, owner: &Owner, bounds: Bounds) -> Result<(), Error> {
        who_makes_room(&lock(&self.known), owner, bounds, Instant::now()).map(drop)
    }

    /// One more, in the place of another if need be. That is no longer known when there is one more: no stream of it begins
    /// meanwhile, and however many come at once, there are never more than may be.
    fn admit(self: &Arc<Sessions>, id: &SessionId, owner: &Owner, bounds: Bounds) -> Result<(), Error> {
        let gone = {
            let (mut known, now) = (lock(&self.known), Instant::now());
            let gone = who_makes_room(&known, owner, bounds, now)?;
            gone.iter().for_each(|gone| drop(known.remove(gone)));
            known.insert(Arc::clone(id), Known::new(owner.clone(), now));
            gone
        };
        gone.into_iter().for_each(|gone| self.close_later(gone));
        Ok(())
    }

    /// Whoever waits for it may go away in its midst, and nothing else knows of this session any more.
    fn close_later(self: &Arc<Sessions>, id: SessionId) {
        let sessions = Arc::clone(self);
        tokio::spawn(async move { sessions.end(&id).await });
    }

    async fn end(&self, id: &SessionId) {
        lock(&self.known).remove(id);
        if let Err(error) = self.kept.close_session(id).await {
            tracing::debug!(%error, "a session did not end in order");
        }
    }

    fn hear(&self, id: &SessionId) {
        if let Some(known) = lock(&self.known).get_mut(id) {
            known.heard = Instant::now();
        }
    }

    /// One more stream of this session is open, as long as the value lives.
    ///
    /// # Errors
    /// There is no such session of this owner's.
    fn hold(self: &Arc<Sessions>, id: &SessionId, owner: &Owner) -> Result<Hold, LocalSessionManagerError> {
        let known = lock(&self.known);
        let own = known.get(id).filter(|known| known.owner == *owner).ok_or_else(|| none_such(id))?;
        own.open.fetch_add(1, Ordering::Relaxed);
        Ok(Hold { sessions: Arc::downgrade(self), id: Arc::clone(id), open: Arc::clone(&own.open) })
    }

    /// Of one that is gone there are none.
    fn streams_of(&self, id: &SessionId) -> Streams {
        lock(&self.known).get(id).map(|known| known.streams.clone()).unwrap_or_default()
    }

    fn sweep_from_now_on(self: &Arc<Sessions>, idle: Duration) {
        if self.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let sessions = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep((idle / 4).clamp(Duration::from_secs(1), Duration::from_secs(60))).await;
                let Some(sessions) = sessions.upgrade() else { return };
                let over =
                    |_: &SessionId, known: &mut Known| known.is_idle() && known.heard.elapsed() >= idle;
                let gone: Vec<SessionId> = lock(&sessions.known).extract_if(over).map(|(id, _)| id).collect();
                for id in gone {
                    sessions.end(&id).await;
                }
            }
        });
    }

    /// Ends what waits for news. What was asked in a session is still answered.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }
}

/// Whose session has to end so that this owner may have one more; none, where there is room.
///
/// # Errors
/// There are as many as may be, and all are in use.
fn who_makes_room(
    known: &HashMap<SessionId, Known>,
    owner: &Owner,
    bounds: Bounds,
    now: Instant,
) -> Result<Option<SessionId>, Error> {
    let longest_idle = |which: &dyn Fn(&Known) -> bool| {
        let idle = known.iter().filter(|(_, known)| known.is_idle() && which(known));
        idle.min_by_key(|(_, known)| known.heard).map(|(id, _)| Arc::clone(id))
    };
    let own = known.values().filter(|known| known.owner.who == owner.who).count();
    if own >= bounds.own {
        let idle = longest_idle(&|known| known.owner.who == owner.who);
        return idle.map(Some).ok_or_else(too_many);
    }
    if known.len() < bounds.all {
        return Ok(None);
    }
    // Others make room only where nobody of the same tenant can.
    let settled = |known: &Known| now.saturating_duration_since(known.heard) >= SETTLED;
    let idle = longest_idle(&|known| settled(known) && known.owner.tenant == owner.tenant)
        .or_else(|| longest_idle(&settled));
    idle.map(Some).ok_or_else(full)
}

impl Known {
    fn new(owner: Owner, heard: Instant) -> Known {
        let (open, left, asked) = (Arc::default(), Arc::default(), Arc::default());
        Known { owner, heard, open, left, asked, streams: Streams::default() }
    }

    fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }
}

/// An open stream of a session.
struct Hold {
    sessions: Weak<Sessions>,
    id: SessionId,
    open: Arc<AtomicUsize>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(sessions) = self.sessions.upgrade() {
            sessions.hear(&self.id);
        }
    }
}

/// The sessions as one caller at one address sees them.
pub(super) struct Own {
    sessions: Arc<Sessions>,
    owner: Owner,
    bounds: Bounds,
    refused: OnceLock<Error>,
}

impl Own {
    pub(super) fn new(sessions: &Arc<Sessions>, owner: Owner, bounds: Bounds) -> Own {
        Own { sessions: Arc::clone(sessions), owner, bounds, refused: OnceLock::new() }
    }

    /// Why no session was opened, which rmcp has no word for.
    pub(super) fn refused(&self) -> Option<Error> {
        self.refused.get().cloned()
    }

    fn must_be_own(&self, id: &SessionId) -> Result<(), LocalSessionManagerError> {
        if self.sessions.is_of(id, &self.owner) { Ok(()) } else { Err(none_such(id)) }
    }
}

fn none_such(id: &SessionId) -> LocalSessionManagerError {
    LocalSessionManagerError::SessionNotFound(Arc::clone(id))
}

impl SessionManager for Own {
    type Error = LocalSessionManagerError;
    type Transport = Sorting<<LocalSessionManager as SessionManager>::Transport>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.sessions.sweep_from_now_on(self.bounds.idle);
        let (id, transport) = self.sessions.kept.create_session().await?;
        match self.sessions.admit(&id, &self.owner, self.bounds) {
            Ok(()) => {
                let streams = self.sessions.streams_of(&id);
                Ok((id, Sorting { inner: transport, streams }))
            }
            Err(error) => {
                let _ = self.refused.set(error);
                let none = none_such(&id);
                self.sessions.close_later(id);
                Err(none)
            }
        }
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.sessions.kept.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        if self.must_be_own(id).is_err() {
            return Ok(false);
        }
        self.sessions.hear(id);
        self.sessions.kept.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        if self.must_be_own(id).is_ok() {
            self.sessions.end(id).await;
        }
        Ok(())
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let hold = self.sessions.hold(id, &self.owner)?;
        let told = self.sessions.streams_of(id).open(&message);
        let stream = self.sessions.kept.create_stream(id, message).await?;
        Ok(held(with_told(stream, told), hold))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.must_be_own(id)?;
        self.sessions.kept.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let hold = self.sessions.hold(id, &self.owner)?;
        Ok(held(self.sessions.kept.create_standalone_stream(id).await?, hold))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let hold = self.sessions.hold(id, &self.owner)?;
        Ok(held(self.sessions.kept.resume(id, last_event_id).await?, hold))
    }
}

/// The stream; the session is in use as long as it is open.
fn held<S: Stream>(stream: S, hold: Hold) -> impl Stream<Item = S::Item> {
    stream.map(move |item| {
        let _open = &hold;
        item
    })
}

fn too_many() -> Error {
    Error::new(Code::RateLimited, "as many MCP sessions as you may have are open")
}

fn full() -> Error {
    Error::new(Code::Unavailable, "as many MCP sessions as can be are open")
}

/// Whoever was heard of within that time does not have to make room for others.
const SETTLED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As somebody of a tenant sees them, where they may have so many and all so many.
    fn own_of(sessions: &Arc<Sessions>, tenant: &str, who: &str, (own, all): (usize, usize)) -> Own {
        let tenant = Tenant::parse(tenant).unwrap();
        let owner = Owner { tenant, who: who.into(), at: "all".into() };
        let settings = Settings { sessions_per_subject: own, sessions: all, ..Settings::default() };
        Own::new(sessions, owner, Bounds::of(&settings))
    }

    fn own(sessions: &Arc<Sessions>, who: &str) -> Own {
        own_of(sessions, "default", who, (9, 9))
    }

    #[tokio::test]
    async fn the_end_of_a_session_is_its_owners() {
        let sessions: Arc<Sessions> = Arc::default();
        let (ann, bob) = (own(&sessions, "ann"), own(&sessions, "bob"));
        let (id, _transport) = ann.create_session().await.unwrap();
        bob.close_session(&id).await.unwrap();
        assert!(ann.has_session(&id).await.unwrap() && !bob.has_session(&id).await.unwrap());
        assert!(bob.create_standalone_stream(&id).await.is_err());
        ann.close_session(&id).await.unwrap();
        assert!(!ann.has_session(&id).await.unwrap());
    }

    #[tokio::test]
    async fn a_session_is_over_when_nothing_is_heard_of_it() {
        let sessions: Arc<Sessions> = Arc::default();
        let settings = Settings { session_idle_seconds: 1, ..Settings::default() };
        let ann = Own { bounds: Bounds::of(&settings), ..own(&sessions, "ann") };
        let (idle, _transport) = ann.create_session().await.unwrap();
        let (open, _transport) = ann.create_session().await.unwrap();
        let hold = sessions.hold(&open, &ann.owner).unwrap();
        testkit::until("it is over", || !sessions.is_of(&idle, &ann.owner)).await;
        assert!(sessions.is_of(&open, &ann.owner), "it has a stream");
        drop(hold);
        testkit::until("it is over", || !sessions.is_of(&open, &ann.owner)).await;
    }

    #[tokio::test]
    async fn there_are_no_more_than_may_be_and_who_is_in_use_stays() {
        let sessions: Arc<Sessions> = Arc::default();
        let [ann, bob, eve] = ["ann", "bob", "eve"].map(|who| own_of(&sessions, "default", who, (1, 2)));
        let (first, _transport) = ann.create_session().await.unwrap();
        let hold = sessions.hold(&first, &ann.owner).unwrap();
        assert!(ann.create_session().await.is_err());
        assert_eq!(ann.refused().unwrap().code, Code::RateLimited);
        drop(hold);
        let (second, _transport) = ann.create_session().await.unwrap();
        assert!(!sessions.is_of(&first, &ann.owner), "it made room");
        assert!(sessions.hold(&first, &ann.owner).is_err(), "and no stream of it begins");
        let (third, _transport) = bob.create_session().await.unwrap();
        assert!(eve.create_session().await.is_err());
        let refused = eve.refused().unwrap();
        assert_eq!(refused.code, Code::Unavailable, "nobody makes room who was heard of just now");
        assert!(sessions.is_of(&second, &ann.owner) && sessions.is_of(&third, &bob.owner));
    }

    #[tokio::test]
    async fn who_asks_whether_there_is_room_takes_none() {
        let sessions: Arc<Sessions> = Arc::default();
        let ann = own_of(&sessions, "default", "ann", (2, 9));
        let (first, _transport) = ann.create_session().await.unwrap();
        for _ in 0..9 {
            sessions.has_room(&ann.owner, ann.bounds).unwrap();
        }
        let mut more = Vec::new();
        for _ in 0..9 {
            more.push(ann.create_session().await.unwrap());
        }
        assert_eq!(lock(&sessions.known).len(), 2, "however many were told so");
        assert!(!sessions.is_of(&first, &ann.owner));
    }

    #[test]
    fn another_tenant_makes_room_only_where_the_own_one_cannot() {
        let owner = |tenant: &str, who: &str| Owner {
            tenant: Tenant::parse(tenant).unwrap(),
            who: who.into(),
            at: "all".into(),
        };
        let bounds = Bounds { own: 9, all: 3, idle: SETTLED };
        let began = Instant::now();
        let known = [("oldest", "b"), ("older", "a"), ("new", "a")].into_iter().zip(0..).map(
            |((id, tenant), age): (_, u32)| {
                let owner = owner(tenant, "somebody");
                (SessionId::from(id), Known::new(owner, began + SETTLED * age))
            },
        );
        let mut known: HashMap<SessionId, Known> = known.collect();
        let now = began + SETTLED * 2;
        let gone = |known: &HashMap<SessionId, Known>, tenant: &str| {
            who_makes_room(known, &owner(tenant, "me"), bounds, now).map(|gone| gone.unwrap().to_string())
        };
        assert_eq!(gone(&known, "a").unwrap(), "older", "though one of another tenant's is older");
        assert_eq!(gone(&known, "b").unwrap(), "oldest");
        assert_eq!(gone(&known, "c").unwrap(), "oldest");
        known.get_mut("older").unwrap().open.fetch_add(1, Ordering::Relaxed);
        assert_eq!(gone(&known, "a").unwrap(), "oldest", "nobody of its own has been silent for so long");
        known.get_mut("oldest").unwrap().heard = now;
        assert_eq!(gone(&known, "a").unwrap_err().code, Code::Unavailable);
    }
}
