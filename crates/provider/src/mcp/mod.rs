//! Servers of the Model Context Protocol: what agents used to call themselves, and now call through us.
//!
//! ```text
//!   agent's client ◀── Party ──┐                       ┌── child process
//!                              Link ── rmcp client ────┤
//!   Call ── Tool (Provider) ───┘                       └── Streamable HTTP, by the egress
//! ```
//!
//! [`Servers`] are the operator's: what is started, with which environment, or which address is called with which secret.
//! A [`Server`] is spoken to over links. Each belongs to one [`Party`], the client at the other end, so that what a server asks
//! in the midst of a request (to sample, to elicit, for roots) reaches the client whose request it is and no other, and so
//! that nothing that a server keeps for a connection is shared between agents. Whatever is acted without a client (an
//! action that waited for people, one taken up after a crash) has a party of our own that answers nothing.
//!
//! Both revisions are spoken, 2025-11-25 and 2026-07-28, and either side may speak either: a server that asks by requests and
//! one that answers `input_required` look alike to [`Party::ask`].
//!
//! A [`tool::Tool`] is the provider of one archetype. It is pinned: the digest of what the server says of it was accepted by
//! the operator, and while the server says something else nothing is sent. An answer that does not come is doubt, and nothing
//! is sent twice.
//!
//! Absent here: who may call what, and any trust in annotations. A server's own words go to agents and records, and decide
//! nothing.

mod direct;
mod keeper;
mod launch;
mod link;
mod listed;
mod numerals;
mod ours;
mod paced;
mod party;
mod pipes;
mod post;
mod relay;
mod room;
mod said;
mod server;
mod tool;
mod verbatim;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use action::Tenant;
use futures_util::future::join_all;

pub use keeper::{Keeper, end_what_is_left};
pub use launch::{Declared, How, PATH};
pub use listed::{Output, SeenTool, digest_of, is_passed_on};
pub use ours::{is_ours, strike_ours};
pub use party::{Client, Party, PartyId, Seat, Seats, Taken, Tie};
pub use room::{MOST as MOST_IN_A_ROOM, Room};
pub use said::Said;
pub use server::{Listening, Server, Unreachable};
pub use tool::{Quarantine, Tool, provider_of};
pub use verbatim::VERBATIM;

use crate::Outside;

/// The servers that the operator names, and the clients whose calls are under way.
#[derive(Debug, Default)]
pub struct Servers {
    named: BTreeMap<(Tenant, Box<str>), Arc<Server>>,
    seats: Arc<Seats>,
}

impl Servers {
    /// Reads what the operator declares; nobody is called and nothing is started.
    ///
    /// # Errors
    /// Every declaration that cannot be used, in a sentence each.
    pub fn new(declared: Vec<Declared>, outside: Outside<'_>) -> Result<Servers, Vec<String>> {
        let (mut named, mut wrong) = (BTreeMap::new(), Vec::new());
        for one in declared {
            let key = (one.tenant.clone(), one.name.as_str().into());
            match Server::new(one, outside) {
                Ok(server) => drop(named.insert(key, Arc::new(server))),
                Err(why) => wrong.push(why),
            }
        }
        if wrong.is_empty() { Ok(Servers { named, seats: Arc::default() }) } else { Err(wrong) }
    }

    /// Those of one tenant, by name.
    pub fn of(&self, tenant: &Tenant) -> Vec<Arc<Server>> {
        self.named.iter().filter(|((of, _), _)| of == tenant).map(|(_, server)| Arc::clone(server)).collect()
    }

    /// One of a tenant's.
    pub fn get(&self, tenant: &Tenant, name: &str) -> Option<Arc<Server>> {
        self.named.get(&(tenant.clone(), name.into())).cloned()
    }

    /// Clients whose calls are under way.
    pub fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    /// Everybody is gone: all links are closed, and what was started is killed. For a process that is about to end.
    pub async fn close(&self) {
        join_all(self.named.values().map(|server| server.close())).await;
    }

    /// This party is gone: its links are closed.
    pub fn leave(&self, party: &PartyId) {
        for server in self.named.values() {
            server.leave(party);
        }
    }
}

/// Whether a server may be called so: ASCII letters, digits and `-_.`, without the `__` that stands between it and its tools where
/// all are one.
pub fn is_server_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_apart = !name.contains("__") && !name.starts_with('_') && !name.ends_with('_');
    (1..=LONGEST_SERVER_NAME).contains(&name.len()) && name.bytes().all(plain) && is_apart
}

/// Characters of the longest name of a server.
pub const LONGEST_SERVER_NAME: usize = 40;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
