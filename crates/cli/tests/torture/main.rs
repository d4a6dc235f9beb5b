//! The program under torture: the real binary as a process of its own, a real bank behind it, and everything that may
//! go wrong between the two. One test program for all of it, since linking costs more than running.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod alerts;
mod approval_page;
mod approvals;
mod article12;
mod atp;
mod audit;
mod challenges;
mod clusters;
mod codes;
mod delegation;
mod disclosure;
mod endpoints;
mod erasure;
mod events;
mod forgotten;
mod fsync;
mod grants;
mod guarantees;
mod hem;
mod house;
mod json_suite;
mod kill;
mod lifecycle;
mod logs;
mod oidc;
mod passkey;
mod races;
mod resolve;
mod retries;
mod runs;
mod secrets;
mod sessions;
mod tricks;
mod visitor;
mod wire;
