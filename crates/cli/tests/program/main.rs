//! The program as people run it: the real binary, its output, its exit code. One test program for all of it, since
//! linking costs more than running.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod approvals;
mod common;
mod documents;
mod files;
mod mcp;
mod running;
mod stories;
mod verify;
