//! The loop as a whole, in one process: real store, real keys, real policies; the provider is the sandbox's, or a bank
//! over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod altered;
mod approvals;
mod archived;
mod banked;
mod captures;
mod challenges;
mod checks;
mod clusters;
mod cycles;
mod delegation;
mod evaluating;
mod exactly_once;
mod faults;
mod forgotten;
mod house;
mod late;
mod late_captures;
mod log;
mod notices;
mod outcomes;
mod overage;
mod quotes;
mod recovery;
mod redress;
mod relief;
mod reserving;
mod resolutions;
mod retries;
mod rides;
mod rights;
mod rollbacks;
mod sessions;
mod several;
#[path = "../../../provider/tests/provider/smtp.rs"]
mod smtp;
mod soft_delete;
mod steering;
mod tools;
mod trail;
mod unbound;
mod unheard;
mod verbatim;

use outcomes::stages;
