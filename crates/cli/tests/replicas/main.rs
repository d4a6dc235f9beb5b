//! Many gateways on one PostgreSQL: real processes, a real server, a bank that counts, and everything that may go wrong
//! between them. Whatever dies, stops or is away meanwhile, nothing is lost, doubled or overspent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[allow(dead_code)]
#[path = "../torture/house.rs"]
mod house;

mod asides;
mod calls;
mod drills;
mod load;
mod moving;
mod outage;
mod proxy;
mod rights;
mod street;
mod torture;
