//! The loop: request, decide, act, prove, remember.
//!
//! ```text
//!   body ─▶ request ─▶ decide ─▶ remember (commit 1) ─▶ act ─▶ prove ─▶ remember (commit 2) ─▶ reply
//!              │          │             ▲                                        ▲
//!            error      block ──────────┴───────────── prove ────────────────────┘
//! ```
//!
//! A [`Gateway`] is one environment: its issuer, keys, store, tenants and providers. Each file or folder of the loop is
//! one station; `pursue.rs` takes what is open one step further, live or after a crash, and `recovery.rs` says whose turn
//! it is. What waits for
//! people stands in `approvals/`; once they agree it goes through the same stations again. An
//! [`Installation`] is what one process runs: production and, unless switched off, the sandbox.
//!
//! Nothing is said before it is durable. A caller who hangs up changes nothing: an admitted action is carried out in a
//! task of its own. An answer that does not come is doubt, never failure, and what is in doubt is sent again only to a
//! provider that recognises it, or to whom twice does no harm.
//!
//! What callers carry out themselves is offered, looked after and reported in `runs.rs`; to the loop it is one more provider.
//!
//! Whoever carries actions out elsewhere asks in `evaluate.rs` what they would come to: the same decision, and nothing after it.
//!
//! Beside the loop, `notices/` reads the chain and tells people outside of what happened.
//!
//! What is deliberately not here: sockets and status codes (`server`), SQL (`ledger`), Cedar (`boundary`), JWS forms
//! (`mandate`). Replies are rendered by a function that the face hands in, because they must be durable before they
//! are said.

mod act;
mod admin;
mod alert;
mod alias;
mod approvals;
mod atp;
mod audit;
mod authority;
mod buckets;
mod callbacks;
mod caller;
mod challenge;
mod check;
mod clock;
mod code;
pub mod config;
mod crash;
mod decide;
mod erase;
mod error;
mod evaluate;
mod events;
mod files;
mod forgotten;
mod gateway;
mod grants;
mod held_reads;
mod installation;
mod keys;
mod late;
mod log;
mod mcp;
mod mcp_tools;
mod metrics;
mod notices;
mod outcome;
mod overage;
mod pending;
mod prove;
mod pursue;
mod quarantine;
mod recovery;
mod redress;
mod remember;
mod request;
mod reserve;
mod resolve;
mod rollback;
mod rollbacks;
mod row;
mod runs;
mod sessions;
mod shelf;
mod steer;
mod tenants;
mod tokens;
mod vault;
mod views;
mod wait;

pub use admin::{
    CreatedKey, DelegateAsk, DisclosureView, ExtendAsk, ExtendedMandate, FreezeAsk, FreezeScope, FreezeView,
    IssuedMandate, KeyAsk, KeyView, MandateAsk, MandateStanding, MandateView, ObserveView, PrincipalKeyView,
    ReloadReport, Revocation, SigningKeyView, Signs, VIOLATION, WithheldView,
};
pub use approvals::{
    Asked, Creation, Credential, ExchangeView, GivenView, Greeting, HeldView, LimitsAsk, PasskeyView,
    PolicyView, Question, Ruling, RulingAsk, Summary,
};
pub use atp::Spelling;
pub use audit::{AuditAsk, AuditView, TrailCheck, TrailFinding};
pub use authority::PUBLIC_TOKEN;
pub use boundary::{Disclosed, Disclosure, Level};
pub use caller::{Caller, Deed, Role};
pub use code::Code;
pub use config::{Config, OnTimeout};
pub use crash::Point;
pub use decide::Foreseen;
pub use erase::{ErasedView, KeepingView};
pub use error::Error;
pub use evaluate::{About, Evaluation, EvaluationAsk};
pub use events::EventRefusal;
pub use execution::{Doubt, SAYS_FAILED};
pub use files::private_folder;
pub use gateway::{Gateway, listed};
pub use grants::{GrantAsk, GrantRefusal, GrantView};
pub use installation::{Installation, Keyring};
pub use ledger::{AsideId, Durability, Grip, TakenUp};
pub use log::{Forgotten, Gap, NOT_LOGGED_YET, Reconciled, Repeat, Why};
pub use mandate::{Completion, ResourceEnvelope};
pub use mcp::{Alike, Called, CalledKind, Delivery, MCP_ARCHETYPES, MOST_BODY, ToolCall, archetype_of};
pub use mcp_tools::{BoundTool, ServerToolsView, ToolState, ToolView};
pub use notices::Topic;
pub use outcome::{Details, Kind, Missing, Outcome, ReceiptRef, Render, Reply, WOULD_EXECUTE};
pub use provider::Signed;
pub use provider::mcp as upstream;
pub use provider::runner::{End, Output, Report};
pub use request::{Answer, Ask};
pub use reserve::{CaptureView, ReservationView};
pub use resolve::{Decision, ResolutionView, ResolveAsk};
pub use rollbacks::{Fate, ROLLBACK_FAILED, UndoneView};
pub use runs::{Begun, Next as NextRun, RunView, WaitView};
pub use sessions::{
    Awaiting, CloseAsk, ClosedView, ClusterView, ContextView, CycleView, DeadlockView, DeclarationView,
    DelegationContext, FormAsk, GarAsk, GarView, HaltedView, MemberView, SessionLimits, SessionView,
    TransferAsk, no_others,
};
pub use shelf::{AsideName, Shelf, Shelved};
pub use tenants::own_archetypes;
pub use views::{
    ActionView, AttemptView, Page, PublicReceipt, ReceiptView, ReplayView, RetryView, RollbackView,
};
pub use wait::Wait;
