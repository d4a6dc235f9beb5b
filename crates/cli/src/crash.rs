//! Dying on purpose: `COUNTERSIGN_CRASH_AT=POINT[:N]` kills this process at the N-th passage of a named point, as `kill -9`
//! would. Read once, when a gateway or a copy is started; nothing else sets it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gateway::Point;
use ledger::{COMMIT_STEPS, FailPoints};
use rustix::process::{Signal, getpid, kill_process};

use crate::error::{Error, Result};

/// The variable.
pub(crate) const VARIABLE: &str = "COUNTERSIGN_CRASH_AT";

/// Every point of a gateway: those of an action, and the steps of a commit.
pub(crate) fn points() -> impl Iterator<Item = &'static str> + Clone {
    Point::ALL.into_iter().map(Point::as_str).chain(COMMIT_STEPS)
}

/// Where this process is to die, if anywhere; these are the points that can be named.
pub(crate) fn asked(
    points: impl Iterator<Item = &'static str> + Clone,
) -> Result<Option<Arc<dyn FailPoints>>> {
    match std::env::var(VARIABLE) {
        Ok(text) => Crash::parse(&text, points).map(|crash| Some(Arc::new(crash) as _)),
        Err(_) => Ok(None),
    }
}

#[derive(Debug)]
struct Crash {
    point: &'static str,
    /// Passages left, the last of them included.
    left: AtomicU64,
}

impl Crash {
    fn parse(text: &str, points: impl Iterator<Item = &'static str> + Clone) -> Result<Crash> {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        let known = points.clone().find(|point| *point == name);
        let count = count.parse().ok().filter(|count| *count > 0);
        match (known, count) {
            (Some(point), Some(count)) => Ok(Crash { point, left: AtomicU64::new(count) }),
            _ => Err(Error::new(format!("{VARIABLE} names no crash point: `{text}`"))
                .hint(format!("POINT or POINT:N, with one of {}", points.collect::<Vec<_>>().join(", ")))),
        }
    }
}

impl FailPoints for Crash {
    fn at(&self, step: &'static str) -> io::Result<()> {
        if step == self.point && self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nothing is unwound and nothing flushed; abort only if the kernel would not have it.
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_the_passage_that_counts() {
        let crash = Crash::parse("send.before:3", points()).expect("a point");
        assert_eq!((crash.point, crash.left.into_inner()), ("send.before", 3));
        assert_eq!(Crash::parse("committed", points()).expect("a step").left.into_inner(), 1);
        for wrong in ["", "send", "send.before:0", "send.before:x", "send.before:1:2"] {
            assert!(Crash::parse(wrong, points()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn points_have_names_of_their_own() {
        let all: std::collections::BTreeSet<_> = points().collect();
        assert_eq!(all.len(), points().count());
    }
}
