//! Act: the state machine of one permitted action.
//!
//! ```text
//!              Go            confirmed                          ┌─▶ Completed
//!  Intended ───────▶ Sent ──────────────────────────────────────┤
//!                    ▲ ▲ │  refused, not sent, and no more tries └─▶ Failed ── Go, asked for ─▶ Sent
//!                 Go │ │ │                                            ▲
//!                    │ │ ├──── the same, and another try ─▶ Waiting ──┤ stopped, deadline
//!                    │ └─┼──────────── Go: next attempt ────┘  ▲      │
//!                    │   └── lost ─▶ InDoubt ── absent for good ┴──────┘
//!                    └── Go: the same attempt ──┘ ⟲ asked, not known yet
//! ```
//!
//! Where the payer has to confirm, `Sent` and `InDoubt ─▶ Challenged`, which the provider's word ends, or a question, or the
//! payer's time: then it is in doubt.
//!
//! Where that is asked for, a confirmed effect is looked after before anything is said of it: `Checking ─▶ Completed`, or
//! `Checking ─▶ RollingBack` if all is not as it should be.
//!
//! An effect that is there can be undone: `Completed ─▶ RollingBack ⇄ Undoing ─▶ RolledBack`, or `RollbackFailed`, which
//! needs a person.
//!
//! What is only reserved ([`Purpose::Reserve`]) goes another way once it is confirmed, and charging it is a call of its own:
//! `Sent ─▶ Reserved ── Go ─▶ Sent ─▶ Completed`, back to `Reserved` if that came to nothing, or `Reserved ─▶ Releasing ⇄
//! Freeing ─▶ Failed`.
//!
//! An [`Execution`] is a value: [`Execution::step`] consumes one with an [`Event`] and returns the next, with
//! the [`Effect`]s that somebody else performs after the write. A live action and one recovered after a crash
//! take the same path, so recovery is not a second implementation.
//!
//! Four rules carry everything:
//!
//! * **No permit, no call.** Only [`Event::Go`] leads to an [`Effect::Invoke`], and it carries a
//!   [`boundary::Permit`], a fresh one each time. "Acted without a verdict" does not compile.
//! * **A lost answer is not a failure.** [`Reply::Lost`] leads to doubt, and doubt ends only when the provider
//!   says what became of the call.
//! * **Another attempt needs a final absence**, and bears another provider key.
//! * **Doubt asks first.** What may have had its effect is sent again only as the same attempt, to a provider that
//!   recognises it, or to whom twice does no harm ([`Capabilities::may_repeat`]).
//!
//! Absent here: time, randomness, sockets, storage. Which archetype goes where belongs to `provider`; who wakes what
//! waits belongs to `gateway`.

mod call;
mod capabilities;
mod machine;
mod reply;
mod retry;

pub use call::{
    Alias, Call, Named, Purpose, Reservation, Whose, capture_key, capture_reference, provider_key, reference,
    release_key, release_reference, rollback_key, rollback_reference,
};
pub use capabilities::{Capabilities, Idempotent, Queryable};
pub use machine::{
    Came, Course, Effect, Event, Execution, Illegal, Now, Resolution, State, Stood, Terms, Undo, Withheld,
};
pub use reply::{
    Absence, Challenge, Check, Confirmation, Doubt, Found, Refusal, Reply, SAYS_FAILED, Stop, Word,
};
pub use retry::{delay, longest_delay};
