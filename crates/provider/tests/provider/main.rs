//! Providers against a real socket: what leaves, what may not leave, and what an answer is taken to mean.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_provider as provider;

mod answers;
mod aws;
mod bank;
mod bindings;
mod challenges;
mod common;
mod egress;
mod faults;
mod mcp;
mod mcp_faults;
mod mtls;
mod oauth2;
mod receivers;
mod reserving;
mod runner;
mod sandbox;
mod secrets;
mod smtp;
mod templates;
