//! Act: the state machine of one permitted action.
//!
//! ```text
//!  begin(call, permit)              recover(call)
//!        │ Invoke                        │ Inquire
//!        ▼        lost, overdue          ▼
//!      Sent ───────────────────────▶ InDoubt ⟲ not known yet
//!        │ confirmed, refused, not sent  │ … and what a query found
//!        └───────────▶ Settled ◀─────────┘
//! ```
//!
//! An [`Execution`] is a value: [`Execution::step`] consumes one with an [`Event`] and returns the next, with
//! the [`Effect`]s that somebody else performs after the write. A live action and one recovered after a crash
//! take the same path, so recovery is not a second implementation.
//!
//! Three rules carry everything:
//!
//! * **No permit, no call.** [`begin`] wants a [`boundary::Permit`], and only [`begin`] asks for an
//!   [`Effect::Invoke`]. "Acted without a verdict" does not compile.
//! * **A lost answer is not a failure.** [`Reply::Lost`] leads to doubt, and doubt ends only when the provider
//!   says what became of the call.
//! * **Doubt never sends.** The only way on from [`Execution::InDoubt`] is to ask.
//!
//! Absent here: time, randomness, sockets, storage. Which archetype goes where belongs to `provider`; when to ask
//! again belongs to `gateway`.

mod call;
mod capabilities;
mod machine;
mod reply;

pub use call::{Call, provider_key, reference};
pub use capabilities::{Capabilities, Idempotent, Queryable};
pub use machine::{Effect, Event, Execution, Illegal, begin, recover};
pub use reply::{Absence, Confirmation, Fate, Found, Refusal, Reply};
