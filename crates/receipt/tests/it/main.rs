//! What strangers rely on: receipts verify, and nothing else does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod approvals;
mod authenticator;
mod canonical;
mod chain;
mod commitments;
mod consent;
mod golden;
mod keys;
mod log_notes;
mod log_proofs;
mod log_tree;
mod signatures;
mod support;
mod tamper;
