//! What goes wrong on purpose, and waiting for what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::bank::Bank;

/// Ends a process at a point, once it is armed.
#[derive(Debug)]
pub(crate) struct Dies {
    at: &'static str,
    armed: AtomicBool,
}

impl Dies {
    pub(crate) fn at(at: &'static str) -> Arc<Dies> {
        Arc::new(Dies { at, armed: AtomicBool::new(false) })
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }
}

impl ledger::FailPoints for Dies {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        match step == self.at && self.armed.swap(false, Ordering::SeqCst) {
            true => Err(std::io::Error::other("a test")),
            false => Ok(()),
        }
    }
}

/// What this finds, once it finds something; looked for as long as anything is waited for here.
pub(crate) async fn found<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    for _ in 0..4000 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: never")
}

/// Returns once this holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    found(what, || async { holds().then_some(()) }).await;
}

/// Returns once the bank has had so many effects.
pub(crate) async fn effects(bank: &Bank, count: u64) {
    until("the bank has had its effects", || bank.effects().count >= count).await;
}
