//! The Model Context Protocol: an agent's client finds here the servers that it used before, and each `tools/call` is an
//! action.
//!
//! ```text
//!   POST, GET, DELETE ─▶ door ─▶ rmcp ─▶ face ─┬─ tools/call ─▶ gateway ─▶ told ─▶ the client, delivered once it has it all
//!   a pair of pipes  ─▶ lines ──┘        ▲    └─ the rest ───▶ the server it is for, and back
//!   a call without a session, by the door and direct
//! ```
//!
//! `/mcp` is all servers of the caller's tenant at once, their tools and prompts named `server__name`; `/mcp/{server}` is one
//! of them, with its own names. What is shown of capabilities and instructions is what the servers say, with tools and tasks of
//! our own beside it.
//!
//! Two revisions are spoken. A client of 2025-11-25 has a **session**: it is bound to who opened it, is asked by requests of
//! ours, and is told of changes at any time. One of 2026-07-28 has none: each request says who the client is and what it can be
//! asked, a question ends the request with `input_required`, and the **desk** keeps what was begun until the client comes back
//! with the answers and the state that we sealed, to this gateway or to another one of the same store. What a call asks that was
//! answered with a task, the task asks.
//!
//! What was refused is a result with `isError` that a model can act on, never an error of the protocol. Words of others stand in
//! `untrusted_text` only.

#![expect(deprecated, reason = "2026-07-28 calls so what clients of 2025-11-25 use")]

mod call;
mod clerk;
mod custom;
mod delivery;
mod desk;
mod direct;
mod door;
mod elsewhere;
mod face;
mod inquiry;
mod listen;
mod lists;
mod mail;
mod midst;
mod own;
mod party;
mod pass;
mod passed;
mod questions;
mod scope;
mod sessions;
mod shown;
mod slips;
mod stdio;
mod tasks;
mod told;
mod verbatim;
mod visit;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use door::{all, one};
pub use own::is_own_tool;
pub use stdio::serve_mcp;

use self::desk::Desk;
use self::listen::Places;
use self::scope::Whereabouts;
use self::sessions::Sessions;

/// What all requests share.
#[derive(Default)]
pub(crate) struct Mcp {
    sessions: Arc<Sessions>,
    desk: Arc<Desk>,
    listening: Places,
    whereabouts: Whereabouts,
}

impl Mcp {
    /// Ends what would go on for ever: streams that only wait for news. Whatever else was asked is answered, in sessions, too;
    /// they end with the process.
    pub(crate) fn close(&self) {
        self.sessions.close();
    }

    /// Ends once what clients at other gateways wait for is laid down for them, and takes nothing new in hand.
    pub(crate) async fn finish(&self) {
        self.desk.finish().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
