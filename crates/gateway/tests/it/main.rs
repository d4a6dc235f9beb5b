//! The loop as a whole, in one process: real store, real keys, real policies; the provider is the sandbox's, or a bank
//! over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod approvals;
mod banked;
mod house;
mod outcomes;
mod overage;
mod quotes;
mod recovery;
mod rides;
mod trail;

use outcomes::stages;
