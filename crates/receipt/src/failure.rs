use std::fmt;

use crate::{Error, Stage};

/// Why a document is not a valid receipt, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where the fault lies.
    pub place: Place,
    /// What is wrong there.
    pub why: String,
}

/// A place in a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The document as a whole, or somewhere that cannot be told more closely.
    Document,
    /// A member outside the entries, by its path (`money.offerAmount`).
    Member(String),
    /// An entry.
    Entry {
        /// Its position, the genesis entry being 0.
        index: usize,
        /// Its stage, if that could be read.
        stage: Option<Stage>,
    },
}

impl Failure {
    /// Of the document as a whole.
    #[must_use]
    pub fn document(why: impl Into<String>) -> Self {
        Self { place: Place::Document, why: why.into() }
    }

    pub(crate) fn member(name: &str, why: impl Into<String>) -> Self {
        Self { place: Place::Member(name.to_owned()), why: why.into() }
    }

    pub(crate) fn entry(index: usize, stage: Option<Stage>, why: impl Into<String>) -> Self {
        Self { place: Place::Entry { index, stage }, why: why.into() }
    }

    /// The index of the entry at fault, if it is an entry.
    #[must_use]
    pub fn entry_index(&self) -> Option<usize> {
        match self.place {
            Place::Entry { index, .. } => Some(index),
            Place::Document | Place::Member(_) => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Document => write!(f, "{}", self.why),
            Place::Member(name) => write!(f, "member `{name}`: {}", self.why),
            Place::Entry { index, stage: Some(stage) } => write!(f, "entry {index} ({stage}): {}", self.why),
            Place::Entry { index, stage: None } => write!(f, "entry {index}: {}", self.why),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Json { pointer, why } => at_pointer(&pointer, why),
            Error::Member { name, why } => Self::member(&name, why),
            other => Self::document(other.to_string()),
        }
    }
}

/// Finds the entry that a JSON pointer leads into.
fn at_pointer(pointer: &str, why: String) -> Failure {
    let why = if pointer.is_empty() { why } else { format!("{why}, at `{pointer}`") };
    let index = pointer.strip_prefix("/entries/").and_then(|rest| rest.split('/').next()?.parse().ok());
    match index {
        Some(index) => Failure::entry(index, None, why),
        None => Failure::document(format!("not valid JSON: {why}")),
    }
}
