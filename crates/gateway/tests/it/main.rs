//! The loop as a whole, in one process: real store, real keys, real policies; the provider is the sandbox's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod house;
mod outcomes;
