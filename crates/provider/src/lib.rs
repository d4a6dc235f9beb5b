//! The outside: where permitted calls go.
//!
//! ```text
//!  archetype's binding ──compile──▶ Provider ◀──sandboxed── the sandbox environment
//!                                      │ call, query, quote
//!                      ┌───────────────┴───────────────┐
//!                   sandbox                          http
//!               (in memory,                 template ▶ egress ▶ answer
//!                deterministic)              slots     the one    read by the
//!                                            only      client     binding's rules
//! ```
//!
//! A [`Provider`] takes an [`execution::Call`] and gives an [`execution::Reply`]. Its one duty beyond that is to know
//! the difference between "it did not leave" and "it may have left": the first is [`Reply::NotSent`], the second
//! [`Reply::Lost`], and whatever cannot be told for certain is the second. A lost answer is never a failure.
//!
//! A binding is data from the catalogue: it can say what is sent where, in terms of the action's values, and how the
//! answer is read. It cannot say which hosts are allowed or where a secret may go; that is the operator's
//! configuration, [`egress::Rules`] and [`Secrets`]. All of a binding's mistakes are found when it is compiled.
//!
//! A [`runner::Runner`] carries nothing out itself: it offers its calls to the agent that asked for them. An [`mcp::Tool`] is
//! one tool of a server of the Model Context Protocol.
//!
//! Beside providers there are [`receivers`]: who is told of what happened. They go out by the same rules.
//!
//! Absent here: retries of what has an effect (what may be sent again is for `execution` to say), redirects, proxies, text templates, and any
//! way for a value of an action to choose the host it goes to.

mod binding;
mod consent;
pub mod egress;
mod elsewhere;
mod http;
pub mod mcp;
mod reader;
pub mod receivers;
pub mod runner;
mod runs;
pub mod sandbox;
pub mod secrets;
mod template;
mod webhooks;

use std::fmt;
use std::time::Duration;

use action::{ActionId, Money};
use execution::{Call, Capabilities, Check, Found, Reply};
use futures_util::future::{BoxFuture, ready};
use serde_json::Value;

pub use binding::{Beside, compile, compile_for, sandboxed};
pub use egress::Egress;
pub use elsewhere::Elsewhere;
pub use http::{Callback, Told};
pub use reader::Mistake;
pub use runs::{Offer, Runs, Turn};
pub use secrets::Secrets;
pub use webhooks::Signed;

/// Somebody outside who has effects. What one of them cannot do it need not say.
pub trait Provider: Send + Sync + fmt::Debug {
    /// What its operator declares of it.
    fn profile(&self) -> &Profile;

    /// See [`Profile::name`].
    fn name(&self) -> &str {
        &self.profile().name
    }

    /// See [`Profile::identity`].
    fn identity(&self) -> &str {
        &self.profile().identity
    }

    /// See [`Profile::capabilities`].
    fn capabilities(&self) -> &Capabilities {
        &self.profile().capabilities
    }

    /// The longest that a call takes before it ends by itself, so that nothing leaves later than that.
    fn patience(&self) -> Duration;

    /// The provider as one whose calls are carried out by whoever asked for them; `None` for those that act themselves.
    fn runner(&self) -> Option<&runner::Runner> {
        None
    }

    /// The provider as a tool of an MCP server; `None` for everything else.
    fn tool(&self) -> Option<&mcp::Tool> {
        None
    }

    /// Whether the request that has the effect carries the action's id: the same request of another action is then another
    /// request under the same provider key.
    fn names_action(&self) -> bool {
        // Calls of tools say whose they are.
        self.tool().is_some_and(|tool| !tool.is_read_only())
    }

    /// Whether it can be asked about a call of an action that was forgotten: by names that are the same when the action is asked for
    /// again, our reference or the provider key, and not by the action's id.
    fn recalls(&self) -> bool {
        self.capabilities().can_be_asked()
    }

    /// Whether it is asked by our reference, which is made of the whole request: what it has then is that request. Under the same
    /// provider key there may have been another one.
    fn recalls_requests(&self) -> bool {
        self.recalls()
    }

    /// Whether a capture can be asked after without what the provider calls what it has set aside.
    fn recalls_captures(&self) -> bool {
        self.recalls()
    }

    /// Sees to it, as far as it can, that this action's call can leave at once. Causes no effect.
    fn make_ready(&self, _action: ActionId) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// Has the effect. `now_ms` is the Unix time in milliseconds at which it begins: it dates what is signed and says
    /// whether a token still holds. Whoever drops the future before it ends must take the reply to be [`Reply::Lost`].
    fn call<'a>(&'a self, call: &'a Call, now_ms: i64) -> BoxFuture<'a, Reply>;

    /// What became of a call, asked at `now_ms`; whether an absence is final depends on it. Causes no effect.
    fn query<'a>(&'a self, _call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Found> {
        Box::pin(ready(Found::Unknown))
    }

    /// How money can be set aside before it is charged; `None` if it cannot. What charges it or sets it free is a
    /// [`Provider::call`] for that [`execution::Purpose`].
    fn reserves(&self) -> Option<Reserves> {
        None
    }

    /// How an effect can be undone; `None` if it cannot.
    fn rollback(&self) -> Option<Rollback> {
        None
    }

    /// Undoes a confirmed effect. `call` is a call of its own, with its own provider key and reference; the same key twice
    /// undoes once. `now_ms` as in [`Provider::call`].
    fn undo<'a>(&'a self, _call: &'a Call, _done: Done<'a>, _now_ms: i64) -> BoxFuture<'a, Reply> {
        let why = "what it does cannot be undone".to_owned();
        Box::pin(ready(Reply::NotSent { why }))
    }

    /// Whether it can be asked, after an effect, if all is as it should be. What can be asked so can be undone.
    fn checks(&self) -> bool {
        false
    }

    /// Whether all is as it should be after a confirmed effect, asked at `now_ms`. Causes no effect.
    fn check<'a>(&'a self, _call: &'a Call, _done: Done<'a>, _now_ms: i64) -> BoxFuture<'a, Check> {
        Box::pin(ready(Check::Unknown))
    }

    /// Has an effect that makes good for another one, which `done` names; else as [`Provider::call`].
    fn redress<'a>(&'a self, call: &'a Call, _done: Done<'a>, now_ms: i64) -> BoxFuture<'a, Reply> {
        self.call(call, now_ms)
    }

    /// What there is before an action changes it; `None` where the provider cannot say. Causes no effect.
    fn snapshot<'a>(&'a self, _ask: Ask<'a>) -> BoxFuture<'a, Result<Option<Value>, Unquoted>> {
        Box::pin(ready(Ok(None)))
    }

    /// How its own word is known and read; `None` if it has none.
    fn callback(&self) -> Option<&Callback> {
        None
    }

    /// What an action would cost. Causes no effect.
    fn quote<'a>(&'a self, _ask: Ask<'a>) -> BoxFuture<'a, Result<Money, Unquoted>> {
        let why = "what it does has no price".to_owned();
        Box::pin(ready(Err(Unquoted { why })))
    }
}

/// What the operator declares of a provider.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What operators call it, in a freeze for example: the binding's `name`, else the host and port, else `sandbox`.
    pub name: String,
    /// A digest of its name and of what decides whom a query asks, for what, and how the answer is read: only a provider
    /// of the same identity may say what became of a call.
    pub identity: String,
    /// What is true of it.
    pub capabilities: Capabilities,
}

/// What a quote is asked about; there is no attempt yet.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The action.
    pub action_id: ActionId,
    /// Its constraints.
    pub constraints: &'a Value,
    /// The most that the caller allows, if it says so.
    pub bound: Option<Money>,
    /// The Unix time in milliseconds at which it is asked.
    pub now_ms: i64,
}

/// How an effect can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// For how long after it was confirmed.
    pub within: Duration,
    /// Whether all is then as it was before; if not, another effect makes good for it.
    pub restores: bool,
}

/// How money can be set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserves {
    /// For how long, where that is always the same; otherwise each answer says until when.
    pub hold: Option<Duration>,
}

/// What is known of an effect that is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done<'a> {
    /// The provider's own reference for it.
    pub reference: Option<&'a str>,
    /// What there was before.
    pub snapshot: Option<&'a Value>,
}

/// There is no quote, or no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unquoted {
    /// In words of our own.
    pub why: String,
}

/// What the operator's configuration gives to bindings.
#[derive(Clone, Copy, Debug)]
pub struct Outside<'a> {
    /// The way out.
    pub egress: &'a Egress,
    /// What may be taken along.
    pub secrets: &'a Secrets,
}
