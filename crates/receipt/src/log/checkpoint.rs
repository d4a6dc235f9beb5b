use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{Error, Hash, Note, Verifier, verify_consistency};

/// How large a log is and what stands in it: the text that its note signs.
///
/// Lines of an extension, which C2SP allows and advises against, are refused: this log writes none, and what nobody
/// checks should not look as if it were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, which is also that of its key.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// What a note says, if the log with this key signed it.
    ///
    /// # Errors
    /// [`Error::Note`] if it did not, [`Error::Checkpoint`] if the note is none, or of another log.
    pub fn of(note: &Note, log: &Verifier) -> Result<Checkpoint, Error> {
        if log.is_witness() {
            return Err(Error::Key("it is a witness's, not a log's"));
        }
        note.signed_by(log)?.ok_or_else(|| Error::Note(format!("`{}` did not sign it", log.name())))?;
        let checkpoint: Checkpoint = note.text().parse()?;
        if checkpoint.origin == log.name() {
            Ok(checkpoint)
        } else {
            Err(Error::Checkpoint("it is of another log"))
        }
    }

    /// May this be said of a log of which `earlier` was said? `proof` is that of consistency, empty where none is needed.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is of another log or a smaller one, [`Error::Proof`] if it does not begin with all of it.
    pub fn follows(&self, earlier: &Checkpoint, proof: &[Hash]) -> Result<(), Error> {
        if self.origin != earlier.origin {
            return Err(Error::Checkpoint("it is of another log"));
        }
        if self.size < earlier.size {
            return Err(Error::Checkpoint("it is of a smaller log than was seen before"));
        }
        if earlier.size == 0 {
            return Ok(());
        }
        verify_consistency(earlier.size, &earlier.root, self.size, &self.root, proof)
    }
}

/// The name of a log without its epoch, and that. A log whose store was put back begins anew under the same name in another epoch,
/// `NAME/epoch-1777593600` after the second in which that was, and has all that is left logged again; a name that says nothing is
/// of the first. An epoch has one spelling: at most 15 digits, the first of them no 0.
#[must_use]
pub fn epoch_of(origin: &str) -> (&str, u64) {
    let spelled = |number: &str| {
        let digits = number.len() <= 15 && number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse().ok().filter(|_| digits && !number.starts_with('0'))
    };
    let numbered = origin.rsplit_once("/epoch-").and_then(|(name, number)| Some((name, spelled(number)?)));
    numbered.unwrap_or((origin, 1))
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = BASE64_STANDARD.encode(self.root);
        write!(f, "{}\n{}\n{root}\n", self.origin, self.size)
    }
}

impl FromStr for Checkpoint {
    type Err = Error;

    /// Reads the one spelling.
    fn from_str(text: &str) -> Result<Checkpoint, Error> {
        let lines: Vec<&str> = text.split('\n').collect();
        let [origin, size, root, ""] = lines[..] else {
            return Err(Error::Checkpoint("it does not consist of origin, size and root"));
        };
        let root = BASE64_STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        let root = root.ok_or(Error::Checkpoint("its root is not base64 of 32 bytes"))?;
        let number = size.parse().map_err(|_| Error::Checkpoint("its size is no number"))?;
        let checkpoint = Checkpoint { origin: origin.to_owned(), size: number, root };
        if origin.is_empty() || checkpoint.to_string() != text {
            return Err(Error::Checkpoint("it is not in its one spelling"));
        }
        Ok(checkpoint)
    }
}
