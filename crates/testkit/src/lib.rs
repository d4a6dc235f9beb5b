//! For tests and the demo: a world for Countersign to act upon.
//!
//! A gateway that promises "at most one effect" can only be judged from the far side, by
//! someone who counts the effects. This crate is that far side:
//!
//! ```text
//!   agent ── gateway ── HTTP ──> bank ── accounts, payments, effects counted
//!                                 ▲
//!                      test ── faults: answers lost, late, slow, huge, malformed
//! ```
//!
//! The [`tools`] are a server of the Model Context Protocol, whose calls are counted, and [`schema`] holds what is said to it, and to clients, against the schema of that protocol. The [`bank`] keeps its own money and parses its own requests, the archive of [`records`] its own versions, and
//! neither shares code with the gateway on purpose: two sides that agree because they run the same function prove
//! nothing. The faults are the same for both.
//!
//! [`postgres`] starts servers for stores that many gateways share.
//!
//! What it deliberately is not: secure, durable or bounded in memory. It listens where it is told,
//! forgets everything when it ends (only its optional journal of effects stays), and lets whoever
//! holds its token inject faults. Nothing here belongs in front of real money.

mod answer;
pub mod bank;
mod fault;
mod line;
pub mod postgres;
pub mod records;
pub mod schema;
pub mod tools;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Says of the test whose thread this is that it leaves something out, because this is not here: once, on stderr. It goes past what keeps
/// the words of tests that pass from being seen, so that whoever runs all of them can count what was left out.
///
/// # Panics
/// Nothing may be left out: `COUNTERSIGN_TEST_MUST_RUN` is set.
pub fn skip(lacking: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    assert!(std::env::var_os("COUNTERSIGN_TEST_MUST_RUN").is_none(), "cannot run: {lacking}");
    let thread = std::thread::current();
    let line = format!("skipped: {}: {lacking}\n", thread.name().unwrap_or("a test"));
    // A property asks in each of its cases.
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(line.clone()) {
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Waits until this holds.
///
/// # Panics
/// It does not within a minute; `what` says what is waited for.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < MOST_PATIENCE, "in vain: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Waits until this gives something, and gives that.
///
/// # Panics
/// It does not within a minute; `what` says what is waited for.
pub async fn comes<T>(what: &str, mut gives: impl AsyncFnMut() -> Option<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        if let Some(given) = gives().await {
            return given;
        }
        assert!(began.elapsed() < MOST_PATIENCE, "in vain: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Waits until this holds, where nothing else is to be done by the same thread.
///
/// # Panics
/// It does not within a minute; `what` says what is waited for.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < MOST_PATIENCE, "in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

const MOST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Text that is wanted a little otherwise: a binding, an archetype's file.
pub trait Swap {
    /// The same with one thing in another's place, wherever it stands.
    ///
    /// # Panics
    /// If it stands nowhere: what was to be tried would not be what is tried.
    #[must_use]
    fn swapped(&self, one: &str, other: &str) -> String;
}

impl Swap for str {
    #[track_caller]
    fn swapped(&self, one: &str, other: &str) -> String {
        assert!(self.contains(one), "`{one}` is nowhere in\n{self}");
        self.replace(one, other)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    /// The child of the test below.
    #[test]
    fn child() {
        if std::env::var_os("TESTKIT_CHILD").is_some() {
            super::skip("no moon");
            super::skip("no moon");
        }
    }

    #[test]
    fn whoever_leaves_something_out_is_heard_although_they_pass_and_fails_where_nothing_may_be_left_out() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "tests::child", "--test-threads=2"]).env("TESTKIT_CHILD", "1");
        let passed = child.env_remove("COUNTERSIGN_TEST_MUST_RUN").output().unwrap();
        assert!(passed.status.success());
        assert_eq!(String::from_utf8_lossy(&passed.stderr), "skipped: tests::child: no moon\n");
        let failed = child.env("COUNTERSIGN_TEST_MUST_RUN", "1").output().unwrap();
        assert!(!failed.status.success());
    }
}
