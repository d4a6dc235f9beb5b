//! What is asked: actions, archetypes, money; parsed once and valid ever after.
//!
//! ```text
//! bytes ── json::parse ──> Request ── Catalogue::get ──> Archetype
//!                             │                             │
//!                             └────────── Action::of ───────┘
//!                                             │
//!           canonical text, money, hashes, Cedar attributes, what receipts may show
//! ```
//!
//! A [`Request`] is an envelope that is well-formed; an [`Action`] is one that its [`Archetype`] has accepted.
//! Whoever holds an `Action` need not look at text again: duplicates, odd numbers, card data, invisible
//! characters, unknown members and amounts finer than the currency were refused on the way in, each with the
//! member that was at fault. Nothing is ever altered or repaired: text passes as it came or not at all.
//!
//! An archetype is declared in a file of the [`Catalogue`], the built-in ones too, in the same format that
//! operators write; none is special in code. What the file says about providers is carried as data that this
//! crate does not read.
//!
//! What this crate does not do: decide anything, read a clock, a file or the network, know Cedar, SQL or HTTP.
//! What is missing from an action is not an error here: completeness is judged by `boundary`, with a receipt.

mod action;
mod archetype;
mod atp;
mod card;
mod catalogue;
pub mod compliance;
mod cycle;
mod hash;
mod id;
pub mod json;
mod level;
pub mod money;
mod name;
mod refusal;
mod request;
mod retention;
mod retry;
mod shape;
mod text;
pub mod time;
mod verbatim;
pub mod yaml;

pub use action::{Action, Attribute, Missing, Shown};
pub use archetype::{
    AnomalyRule, ApprovalForm, Archetype, CedarMember, CedarType, CurrencyRule, DuplicateRule, FirstSeen,
    Kind, Member, MoneyRule, OnDuplicate, Pointer,
};
pub use atp::{AskedRollback, Atp, Time};
pub use catalogue::{Catalogue, Mistake, Source};
pub use cycle::{AskedBranch, AskedCycle, Resources};
pub use hash::HmacKey;
pub use id::{ActionId, Environment, IdempotencyKey, Malformed, Subject, Tenant};
pub use level::{GuaranteeLevel, PaymentMode};
pub use money::{Currency, Money};
pub use name::{names, normalised};
pub use refusal::{Refusal, RefusalKind};
pub use request::Request;
pub use retention::{AskedKeeping, Deletion, Keeping, NoRetention, Period};
pub use retry::{AskedRetry, Backoff, RetryPolicy};
pub use text::{is_hidden, refuse_tricks};
pub use verbatim::Form;
