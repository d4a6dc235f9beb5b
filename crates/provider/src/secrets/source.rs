//! Where values are, and reading them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use zeroize::Zeroizing;

use super::{Error, MOST_BYTES};

/// Where the value of a secret is.
#[derive(Clone, Debug)]
pub enum Source {
    /// An environment variable.
    Env(String),
    /// A file; one newline at its end is not part of the value.
    File(PathBuf),
    /// With whoever asks for it.
    Given(Given),
}

/// A value that is not shown.
#[derive(Clone)]
pub struct Given(Zeroizing<String>);

impl From<String> for Given {
    fn from(value: String) -> Given {
        Given(Zeroizing::new(value))
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Given")
    }
}

/// Whether values are read, or stood in for by one that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    Real,
    StandIn,
}

/// What `catalog check` compiles bindings with, where there are no secrets. It goes nowhere: a check sends nothing.
pub(super) const NO_VALUE: &str = "no-value-is-read-for-a-check";

impl Values {
    /// The value of a secret, or of one member of it.
    pub(super) fn read(self, name: &str, source: &Source) -> Result<Zeroizing<String>, Error> {
        if self == Values::StandIn {
            return Ok(Zeroizing::new(NO_VALUE.to_owned()));
        }
        let mut value = read(name, source)?;
        if value.ends_with('\n') {
            value.pop();
        }
        if value.ends_with('\r') {
            value.pop();
        }
        if value.is_empty() || value.len() > MOST_BYTES || value.chars().any(char::is_control) {
            return Err(Error::Value { name: name.to_owned() });
        }
        Ok(value)
    }
}

/// Reads a private file, refusing one that others may read.
///
/// # Errors
/// What is wrong with the file, by its name, and what to do.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let mode =
        fs::metadata(path).map_err(|error| format!("cannot read `{shown}`: {error}"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "`{shown}` can be read by others (mode {:03o}): run chmod 600 on it",
            mode & 0o777
        ));
    }
    fs::read(path).map(Zeroizing::new).map_err(|error| format!("cannot read `{shown}`: {error}"))
}

fn read(name: &str, source: &Source) -> Result<Zeroizing<String>, Error> {
    let name = || name.to_owned();
    match source {
        Source::Env(variable) => {
            std::env::var(variable).map_err(|_| Error::Env { name: name(), variable: variable.clone() })
        }
        Source::File(path) => fs::read_to_string(path)
            .map_err(|_| Error::File { name: name(), file: path.display().to_string() }),
        Source::Given(Given(value)) => return Ok(value.clone()),
    }
    .map(Zeroizing::new)
}
