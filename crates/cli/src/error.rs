//! What went wrong, told so that a person can mend it.

use std::fmt;
use std::io;

pub(crate) type Result<T> = std::result::Result<T, Error>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Error {
    what: String,
    hint: Option<String>,
    cause: Option<Cause>,
}

impl Error {
    /// `what` happened: lowercase, no full stop, names the file, option or member.
    pub(crate) fn new(what: impl Into<String>) -> Error {
        Error { what: what.into(), hint: None, cause: None }
    }

    /// What to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The hint, where there is one.
    #[must_use]
    pub(crate) fn maybe_hint(mut self, hint: Option<impl Into<String>>) -> Error {
        self.hint = hint.map(Into::into);
        self
    }

    /// What lies behind it.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl Into<Cause>) -> Error {
        self.cause = Some(cause.into());
        self
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        let cause = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<io::Error>());
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause.as_ref() as _)
    }
}

impl miette::Diagnostic for Error {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }
}

/// Says what we were doing when something else failed.
pub(crate) trait Context<T> {
    fn while_we(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Cause>> Context<T> for std::result::Result<T, E> {
    fn while_we(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::new(what()).because(cause))
    }
}
