//! Prove: canonical bytes, entry chain, ES256 signature and offline verification of receipts.
//!
//! A receipt is one canonical JSON document (RFC 8785) that says what an action was, how it was judged and how it
//! ended. Anyone who holds it, the issuer's key set and a pin that says whose key set that is can check all of it
//! without asking anybody:
//!
//! ```text
//!   NewEntry ─▶ Chain ─┐                      ┌─▶ Document ─▶ checks ─▶ Report
//!               Draft ─┼─▶ sign ─▶ Receipt ── bytes ──┘          ▲
//!          SigningKey ─┘                                  Trust {Pin, Jwks, …}
//! ```
//!
//! * The **chain** binds each entry to the one before by SHA-256. An entry is written once, with its hash.
//! * The **signature** covers the document without `created` and `signature.value`; `created` must equal the time
//!   of the last entry, which is signed. S is always in the lower half, so a receipt has one valid signature text
//!   per signing.
//! * **Verification** is of the received document: canonical text is recognised by one linear scan and checked as
//!   slices of itself, so nothing that a verifier prints or stores can differ from what was signed. Text that is
//!   not canonical is parsed strictly, made canonical and then takes the same path.
//! * A **commitment** stands for a value that not everyone may see; a disclosure opens it.
//! * An **approval** is a person's own signature over what was to run; see [`approval`].
//! * The **log** shows that no receipt was left out and none made later; see [`log`].
//!
//! Absent on purpose: no IO, no clock, no randomness but that of key generation and ECDSA itself, nothing of our
//! other crates. Whether an action was *right* is not asked here, only whether this is what its gateway said.
//!
//! ```
//! use countersign_receipt as receipt;
//! use receipt::{Chain, Draft, Jwk, Jwks, NewEntry, Pin, SigningKey, Stage, Timestamp, Trust, Verdict};
//! # use receipt::{Environment, Event, Kind, Metadata, MoneyFields, PaymentStatus};
//! # fn draft() -> Draft<'static> {
//! #     Draft {
//! #         receipt_id: "01963e5a-0000-7000-8000-000000000001".into(),
//! #         transaction_id: "01963e5a-0000-7000-8000-000000000002".into(),
//! #         agent_id: "agent-1".into(),
//! #         session_id: None,
//! #         event: Event::Original,
//! #         payment_status: PaymentStatus::NotCharged,
//! #         money: MoneyFields::default(),
//! #         idempotency_key: None,
//! #         replica_id: "r1".into(),
//! #         chain_id: "c1".into(),
//! #         regulatory_framework: vec![],
//! #         metadata: Metadata {
//! #             issuer: "https://gateway.example".into(),
//! #             tenant: "default".into(),
//! #             environment: Environment::Production,
//! #             archetype: None,
//! #             kind: Kind::Blocked,
//! #             mandate_id: None,
//! #             intent_id: None,
//! #             guarantee_level: None,
//! #             policy_digest: None,
//! #             catalog_digest: None,
//! #             entity_digest: None,
//! #             approvals: vec![],
//! #             observed: None,
//! #             log: None,
//! #         },
//! #     }
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let at = Timestamp::parse("2026-04-27T12:00:00.000Z")?;
//! let key = SigningKey::generate()?;
//! let mut chain = Chain::genesis(NewEntry::at(at))?;
//! chain.push(Stage::Boundary, NewEntry::at(at))?;
//! chain.push(Stage::Receipt, NewEntry::at(at))?;
//! let receipt = receipt::sign(&draft(), &chain, &key)?;
//!
//! let jwks = Jwks::new(vec![Jwk::active(key.public().clone(), at)])?;
//! let pin = Pin::new("https://gateway.example", &jwks);
//! assert_eq!(receipt::verify(receipt.as_bytes(), &Trust::new(&pin, &jwks)).verdict, Verdict::Valid);
//! # Ok(())
//! # }
//! ```

// Canonical text.
pub mod canonical;
mod json;
mod time;

// A person's consent.
pub mod approval;

// Making a receipt.
mod chain;
mod commitment;
mod draft;
mod keys;
mod receipt;

// That none was left out.
pub mod log;

// Believing one.
mod document;
mod jwks;
mod pin;
mod report;
mod verify;

// When that does not work.
mod error;
mod failure;

pub use chain::{Chain, NewEntry, Stage};
pub use commitment::{Disclosure, Disclosures, Salt, Salts, commit, label};
pub use document::{Document, Entry, MAX_BYTES};
pub use draft::{
    Amendment, Checkpoint, Draft, Environment, Event, Kind, Metadata, MoneyFields, Observed, PaymentStatus,
    Promise, Text,
};
pub use error::Error;
pub use failure::{Failure, Place};
pub use json::Json;
pub use jwks::{Jwk, Jwks, JwksDigest, KeyStatus};
pub use keys::{Signature, SigningKey, VerifyingKey};
pub use pin::Pin;
pub use receipt::{Receipt, SPEC, hash, sign};
pub use report::{Check, CheckName, Facts, Outcome, Quarantine, Report, Verdict};
pub use time::Timestamp;
pub use verify::{Trust, verify};
