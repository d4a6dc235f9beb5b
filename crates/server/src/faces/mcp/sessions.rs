//! Sessions of clients of 2025-11-25. Each belongs to who opened it, at the address where it was opened; to anybody else it
//! does not exist. They are bounded, and over when nothing is heard of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use futures_util::Stream;
use futures_util::StreamExt;
use gateway::config::Mcp as Settings;
use gateway::{Code, Error};
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionConfig,
};
use rmcp::transport::streamable_http_server::{SessionId, SessionManager};
use tokio_util::sync::CancellationToken;

use super::delivery::Left;
use super::lock;

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
}

/// Whose a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) who: Arc<str>,
    /// The address at which it was opened.
    pub(super) at: Arc<str>,
}

impl Default for Sessions {
    fn default() -> Sessions {
        let mut config = SessionConfig::default();
        // Their end is seen to here: a call may wait longer than a session may be silent.
        config.keep_alive = None;
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

    /// Makes room for one more, at the cost of the one of the same owner that was not heard of for the longest time.
    ///
    /// # Errors
    /// There are as many as may be, and all are in use.
    pub(super) async fn make_room(
        self: &Arc<Sessions>,
        owner: &Owner,
        settings: &Settings,
    ) -> Result<(), Error> {
        self.sweep_from_now_on(Duration::from_secs(settings.session_idle_seconds.max(1)));
        let (all, own) = {
            let known = lock(&self.known);
            (known.len(), known.values().filter(|known| known.owner.who == owner.who).count())
        };
        if own >= settings.sessions_per_subject.max(1) {
            let idle = self.longest_idle(|known| known.owner.who == owner.who);
            self.end(&idle.ok_or_else(too_many)?).await;
        } else if all >= settings.sessions.max(1) {
            let idle = self.longest_idle(|known| known.heard.elapsed() >= BEARABLE);
            self.end(&idle.ok_or_else(full)?).await;
        }
        Ok(())
    }

    fn longest_idle(&self, which: impl Fn(&Known) -> bool) -> Option<SessionId> {
        let known = lock(&self.known);
        let idle = known.iter().filter(|(_, known)| known.is_idle() && which(known));
        idle.min_by_key(|(_, known)| known.heard).map(|(id, _)| Arc::clone(id))
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
    fn hold(self: &Arc<Sessions>, id: &SessionId) -> Hold {
        let open = lock(&self.known).get(id).map(|known| Arc::clone(&known.open)).unwrap_or_default();
        open.fetch_add(1, Ordering::Relaxed);
        Hold { sessions: Arc::downgrade(self), id: Arc::clone(id), open }
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
                let over = |known: &Known| known.is_idle() && known.heard.elapsed() >= idle;
                let ended: Vec<SessionId> = {
                    let known = lock(&sessions.known);
                    known.iter().filter(|(_, known)| over(known)).map(|(id, _)| Arc::clone(id)).collect()
                };
                for id in ended {
                    sessions.end(&id).await;
                }
            }
        });
    }

    /// Ends what waits for news.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }
}

impl Known {
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
    pub(super) sessions: Arc<Sessions>,
    pub(super) owner: Owner,
}

impl Own {
    fn must_be_own(&self, id: &SessionId) -> Result<(), LocalSessionManagerError> {
        if self.sessions.is_of(id, &self.owner) {
            return Ok(());
        }
        Err(LocalSessionManagerError::SessionNotFound(Arc::clone(id)))
    }
}

impl SessionManager for Own {
    type Error = LocalSessionManagerError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let (id, transport) = self.sessions.kept.create_session().await?;
        let known = Known {
            owner: self.owner.clone(),
            heard: Instant::now(),
            open: Arc::default(),
            left: Arc::default(),
        };
        lock(&self.sessions.known).insert(Arc::clone(&id), known);
        Ok((id, transport))
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
        self.must_be_own(id)?;
        let hold = self.sessions.hold(id);
        Ok(held(self.sessions.kept.create_stream(id, message).await?, hold))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.must_be_own(id)?;
        self.sessions.kept.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.must_be_own(id)?;
        let hold = self.sessions.hold(id);
        Ok(held(self.sessions.kept.create_standalone_stream(id).await?, hold))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.must_be_own(id)?;
        let hold = self.sessions.hold(id);
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
const BEARABLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn own(sessions: &Arc<Sessions>, who: &str) -> Own {
        let owner = Owner { who: who.into(), at: "all".into() };
        Own { sessions: Arc::clone(sessions), owner }
    }

    #[tokio::test]
    async fn the_end_of_a_session_is_its_owners_or_that_nothing_is_heard_of_it() {
        let sessions: Arc<Sessions> = Arc::default();
        let (ann, bob) = (own(&sessions, "ann"), own(&sessions, "bob"));
        let (id, _transport) = ann.create_session().await.unwrap();
        bob.close_session(&id).await.unwrap();
        assert!(ann.has_session(&id).await.unwrap() && !bob.has_session(&id).await.unwrap());
        assert!(bob.create_standalone_stream(&id).await.is_err());
        ann.close_session(&id).await.unwrap();
        assert!(!ann.has_session(&id).await.unwrap());

        let (idle, _transport) = ann.create_session().await.unwrap();
        let (open, _transport) = ann.create_session().await.unwrap();
        let hold = sessions.hold(&open);
        sessions.sweep_from_now_on(Duration::from_millis(1));
        while sessions.is_of(&idle, &ann.owner) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(sessions.is_of(&open, &ann.owner), "it has a stream");
        drop(hold);
        while sessions.is_of(&open, &ann.owner) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn there_are_no_more_than_may_be_and_who_is_in_use_stays() {
        let sessions: Arc<Sessions> = Arc::default();
        let (ann, bob) = (own(&sessions, "ann"), own(&sessions, "bob"));
        let settings = Settings { sessions_per_subject: 1, sessions: 2, ..Settings::default() };
        let (first, _transport) = ann.create_session().await.unwrap();
        let hold = sessions.hold(&first);
        let refused = sessions.make_room(&ann.owner, &settings).await.unwrap_err();
        assert_eq!(refused.code, Code::RateLimited);
        drop(hold);
        sessions.make_room(&ann.owner, &settings).await.unwrap();
        assert!(!sessions.is_of(&first, &ann.owner), "it made room");
        let _ann = ann.create_session().await.unwrap();
        sessions.make_room(&bob.owner, &settings).await.unwrap();
        let _bob = bob.create_session().await.unwrap();
        let eve = own(&sessions, "eve");
        let refused = sessions.make_room(&eve.owner, &settings).await.unwrap_err();
        assert_eq!(refused.code, Code::Unavailable, "nobody makes room who was heard of just now");
    }
}
