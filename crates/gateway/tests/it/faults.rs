//! What goes wrong on purpose, and waiting for what comes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_gateway::Config;
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

/// Holds up whoever comes by a point, once it is armed, until they are let go. They need a thread to themselves.
#[derive(Debug)]
pub(crate) struct Holds {
    at: &'static str,
    armed: AtomicBool,
    holds: AtomicBool,
}

impl Holds {
    pub(crate) fn at(at: &'static str) -> Arc<Holds> {
        Arc::new(Holds { at, armed: AtomicBool::new(false), holds: AtomicBool::new(false) })
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Returns once somebody is held up.
    pub(crate) async fn somebody(&self) {
        until("somebody comes by", || self.holds.load(Ordering::SeqCst)).await;
    }

    pub(crate) fn lets_go(&self) {
        self.holds.store(false, Ordering::SeqCst);
    }
}

impl ledger::FailPoints for Holds {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        if step == self.at && self.armed.swap(false, Ordering::SeqCst) {
            self.holds.store(true, Ordering::SeqCst);
            while self.holds.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

/// Another gateway on the same store, which takes in hand what rests there while this one passes a point: its token is another
/// one then, and it is not due for a while.
#[derive(Debug)]
pub(crate) struct Rival {
    at: &'static str,
    store: PathBuf,
    armed: AtomicBool,
}

impl Rival {
    pub(crate) fn at(at: &'static str, config: &mut Config) -> Arc<Rival> {
        let store = config.data_dir.join("production.db");
        let rival = Arc::new(Rival { at, store, armed: AtomicBool::new(false) });
        config.fail_points = Some(Arc::clone(&rival) as _);
        rival
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn takes(&self) {
        let store = rusqlite::Connection::open(&self.store).unwrap();
        let taken = "UPDATE fate SET token = token + 1, until = until + 600000 WHERE state < 0";
        assert_eq!(store.execute(taken, []).unwrap(), 1);
    }
}

impl ledger::FailPoints for Rival {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        if step == self.at && self.armed.swap(false, Ordering::SeqCst) {
            self.takes();
        }
        Ok(())
    }
}

/// Keeps whoever is the first to have an outcome proven from writing it down until somebody else has written theirs.
#[derive(Debug, Default)]
pub(crate) struct Overtaken {
    has_come: AtomicBool,
    is_passed: AtomicBool,
}

impl Overtaken {
    /// Somebody waits to be passed.
    pub(crate) fn has_come(&self) -> bool {
        self.has_come.load(Ordering::SeqCst)
    }
}

impl ledger::FailPoints for Overtaken {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        match step {
            "outcome.before" if !self.has_come.swap(true, Ordering::SeqCst) => {
                tokio::task::block_in_place(|| {
                    for _ in 0..4000 {
                        if self.is_passed.load(Ordering::SeqCst) {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }
            "outcome.after" => self.is_passed.store(true, Ordering::SeqCst),
            _ => {}
        }
        Ok(())
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
