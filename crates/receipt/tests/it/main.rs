//! What strangers rely on: receipts verify, and nothing else does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod approvals;
mod authenticator;
mod canonical;
mod chain;
mod commitments;
mod consent;
mod golden;
mod keys;
mod signatures;
mod support;
mod tamper;
