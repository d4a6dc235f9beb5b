//! Consent: a person's own signature over everything that was shown and everything that will run.
//!
//! ```text
//!   Envelope ── challenge ──▶ authenticator ──▶ Assertion ─┐
//!                                                          ├─▶ Approval, in metadata.approvals ──▶ verify
//!   Enrolment ──▶ Credential ──▶ Approvers, pinned ────────┘
//! ```
//!
//! * The **envelope** says what is approved. Its canonical bytes hash to the challenge, so a signature made for one
//!   action is none for another, nor for the same action on other terms.
//! * **Commitments, not values**: `constraints`, `approver`, `comment`, `rollback` and `summary_digest` stand in the
//!   envelope as salted commitments, `constraints` with the very text that the receipt's entry `schema` shows. So the
//!   envelope stands in the receipt in full: a stranger hashes it again without being told a single value, and the
//!   signature outlives the erasure of them all. Nothing that can be traced to a person may be added to an envelope
//!   in another form, a plain digest included, since a short text is guessed from its digest.
//! * An **assertion** and an **enrolment** are what WebAuthn's `get` and `create` return. They are checked here and
//!   not by a library of the usual kind, because those choose the challenge themselves.
//! * An **approval** is envelope and signature as receipts carry them. It stands in the receipt of the action it
//!   allowed, and only while it fits: one that was given under another policy, catalogue or quote approved something
//!   else and is not listed.
//! * **Approvers** are what a verifier believes beforehand. Without them a signature proves only that somebody who
//!   holds some key agreed.
//!
//! Absent on purpose: attestation of the authenticator's make is not believed, since an administrator attests who
//! holds it; signature counters are not kept, since most passkeys leave them at zero and a challenge counts once.

mod approvers;
mod assertion;
mod authenticator_data;
mod cbor;
mod check;
mod client_data;
mod enrolment;
mod envelope;
mod record;
mod refusal;
mod spelling;

pub use approvers::{Approver, Approvers};
pub use assertion::{Assertion, RelyingParty};
pub(crate) use check::{Consent, Standing, consent, standing};
pub use enrolment::{Credential, Enrolment};
pub use envelope::{AppliesTo, Commitment, Decision, Envelope, Limits, Quote, V1};
pub use record::{Approval, Signer};
pub use refusal::Refusal;
