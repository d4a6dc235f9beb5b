//! Where tests may make a write fail, wait or die.

use std::fmt::Debug;
use std::io;

/// Called at each step of a commit. An error is treated as if the disk had answered it.
///
/// The steps, in order: `begin` (nothing written), `write` (rows written, not committed), `commit` (about to commit),
/// `committed` (durable, nobody told), `told` (everybody told). Beside them `clean`: the file is about to be cleared of what
/// was erased.
pub trait FailPoints: Send + Sync + Debug {
    /// The writer stands at `step`.
    ///
    /// # Errors
    /// Whatever the disk is to have answered.
    fn at(&self, step: &'static str) -> io::Result<()>;
}

/// The steps of a commit.
pub const COMMIT_STEPS: [&str; 5] = ["begin", "write", "commit", "committed", "told"];
