//! What we publish, in the hands of other people's programs: key sets and receipts in Python, the receipt page,
//! the approval page and passkeys in Chromium, the transparency log in Go. None of them shares a line of code with us, so what they
//! make of it is what strangers will.
//!
//! Where Python's packages, Chromium or Go are missing a test says so and passes; with `COUNTERSIGN_TEST_MUST_RUN` set it
//! fails instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod approvals;
mod browser;
mod chromium;
#[allow(dead_code, reason = "shared with the tests of MCP")]
mod gateway;
mod go;
mod passkey;
mod python;
