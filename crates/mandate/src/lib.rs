//! Who may ask: mandates and what is left of them.
//!
//! A **mandate** is a principal's signed statement that one agent may do certain things: which actions, on which
//! resources, up to which sum, how often, until when. It arrives as a JWT (`mandate+jwt`), is verified once by
//! [`verify`], and from then on is a [`Mandate`] value that cannot be malformed.
//!
//! ```text
//!   token ── verify(keys, audience, now) ──▶ Mandate ──┐
//!                                                      ├── permits(action, caller, account, now) ──▶ Ok | Refusal
//!   the mandate's row in the ledger ───────▶ Account ──┘
//! ```
//!
//! What is true of a mandate for ever stands in [`Mandate`]; what changes (spent, used, revoked, frozen) stands in
//! its [`Account`], which the ledger keeps and re-checks under its lock with the same functions: [`Account::debit`]
//! is the only way to spend and never exceeds the cap. [`Mandate::permits`] is therefore an early answer, and the
//! debit the final one.
//!
//! A **session** is the span in which an agent acts under one mandate, a **declaration** what it says it is about to do
//! there, a **cluster** several sessions that work together. Each is a pure machine: what is true of it is kept, its
//! state is derived, and `step` says what an event makes of it. The **Context Package** is what is true of one cycle.
//!
//! What this crate deliberately does not do: it reads no clock, no store and no network; keys come in through
//! [`KeyLookup`], whose implementor binds each key to a tenant and an issuer. It finds no ancestors: of a mandate that
//! descends from others the caller brings each of them, and asks link by link whether it only narrows
//! ([`Mandate::fits`]) and of each whether it carries the action ([`Mandate::carries`]). It does not check proof of
//! possession: a mandate with `cnf` is refused rather than honoured without its proof. Unknown claims are refused too,
//! because a limit that is not understood cannot be kept.

mod access;
mod account;
mod approved;
mod claims;
mod cluster;
mod context;
mod intent;
mod jwk;
mod key;
mod narrow;
mod pattern;
mod permits;
mod refusal;
mod session;
mod signal;
mod token;

pub use access::{Access, AccessRefusal, AccessToken, issuer_keys};
pub use account::{Account, Granted, Limits, Usage, Use, left_of};
pub use approved::ApprovedLimits;
pub use claims::{Claims, Confidence, Mandate, Resource, ResourceEnvelope, SpendCap};
pub use cluster::{Cluster, ClusterEvent, ClusterRefusal, ClusterState, Member, Transfer};
pub use context::{CONTEXT_MEMBERS, ClusterContext, ContextPackage, DelegationContext, Partner, Remaining};
pub use intent::{Declaration, IntentRefusal, ReasoningMode};
pub use jwk::{PublicKey, Scheme};
pub use key::{Algorithm, KeyError, SigningKey, VerifyingKey};
pub use pattern::Pattern;
pub use permits::{exposure, within_own_bound};
pub use refusal::Refusal;
pub use session::{Completion, Halt, Session, SessionEvent, SessionRefusal, SessionState};
pub use signal::{Signal, SignalRefusal, SignalSubject, hear, signal_keys};
pub use token::{KeyLookup, MAX_TOKEN_BYTES, Verified, issue, verify};
