//! A small HTTP archive of versioned records: each change names a version that was not there before, what is deleted can
//! be restored for a while, and both are undone only as long as nothing has changed since. It counts every effect, and
//! fails on demand.
//!
//! It speaks `/v1/records/{id}` (`GET`, `PUT`, `DELETE`), `/v1/records/{id}/restore`, `/v1/records/{id}/revert` and
//! `/v1/changes?reference=…`. A version is a record's ETag; `If-Match` is obeyed wherever it stands, and demanded of what
//! undoes something.

mod http;
mod shelf;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use shelf::{Effects, Standing};

pub use crate::fault::Fault;

/// A fault for the next so many requests of a kind.
pub type Injection = crate::fault::Injection<Target>;

/// Which requests a fault waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Reads of records and of changes.
    #[default]
    Reads,
    /// Well-formed changes and deletions.
    Changes,
    /// What undoes them.
    Undoings,
}

impl Injection {
    /// The fault for the next `count` requests of a kind.
    pub fn new(on: Target, fault: Fault, count: u64) -> Injection {
        Injection { fault, count, on }
    }
}

/// What an archive is opened with.
#[derive(Clone)]
pub struct Options {
    /// The bearer token every request must carry.
    pub token: String,
    /// How long what was deleted can be restored; then it is gone for good.
    pub window: Duration,
}

impl Default for Options {
    /// A well-known token, and a window of thirty days.
    fn default() -> Options {
        Options { token: "demo-archive-token".into(), window: Duration::from_secs(30 * 24 * 60 * 60) }
    }
}

/// An archive running inside this process, for tests. Dropping it closes the archive.
pub struct Archive {
    address: SocketAddr,
    desk: Arc<http::Desk>,
    _close: oneshot::Sender<()>,
    _running: JoinHandle<io::Result<()>>,
}

impl Archive {
    /// Opens an empty archive on a free loopback port.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(options: Options) -> io::Result<Archive> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let desk = Arc::new(http::Desk::open(options));
        let (close, closed) = oneshot::channel::<()>();
        // A dropped sender ends the wait as well, so a dropped `Archive` closes.
        let until = async move { drop(closed.await) };
        let running = tokio::spawn(http::run(listener, Arc::clone(&desk), until));
        Ok(Archive { address, desk, _close: close, _running: running })
    }

    /// Where the archive listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bearer token the archive accepts.
    pub fn token(&self) -> &str {
        self.desk.token()
    }

    /// Puts this content into a record, as somebody would who asks nobody; answers with its version.
    pub fn put(&self, record: &str, content: Value) -> u64 {
        self.desk.shelf().overwrite(record, content)
    }

    /// How a record stands; `None` if it never was, or is gone for good.
    pub fn standing(&self, record: &str) -> Option<Standing> {
        self.desk.shelf().standing(record, Instant::now())
    }

    /// As if the window of all that is deleted were over.
    pub fn purge(&self) {
        self.desk.shelf().purge();
    }

    /// Every change that a request made, oldest first, as it was answered.
    pub fn changes(&self) -> Vec<Value> {
        self.desk.shelf().changes()
    }

    /// Every effect so far, counted.
    pub fn effects(&self) -> Effects {
        self.desk.shelf().effects()
    }

    /// No fault waits any more.
    pub fn clear(&self) {
        self.desk.faults().clear();
    }

    /// Queues faults for the next requests of their kind, behind those already queued.
    pub fn inject(&self, injection: Injection) {
        self.desk.faults().inject(injection);
    }
}
