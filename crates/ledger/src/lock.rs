//! One process at a time holds a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::Error;

/// The hold on a data directory; ends when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes hold of the directory, which must exist.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it, [`Error::Open`] if it cannot be written.
    pub fn acquire(directory: &Path) -> Result<Lock, Error> {
        let cannot = |error: std::io::Error| {
            Error::Open(format!("cannot lock `{}`: {error}", directory.display()).into())
        };
        let path = directory.join("lock");
        // Never truncated and never removed: two processes must meet at one and the same file.
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::acquire(directory.path()).unwrap();
        assert!(matches!(Lock::acquire(directory.path()), Err(Error::Locked)));
        drop(first);
        Lock::acquire(directory.path()).unwrap();
    }
}
