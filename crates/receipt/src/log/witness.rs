use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{Checkpoint, Error, Hash, Note, Verifier};

/// What a witness of ours answers, with 404, to whoever asks for a checkpoint of a log of which it has seen none.
pub const NOTHING_SHOWN: &str = "nothing is shown of that log";

/// What a witness is asked, `add-checkpoint` of C2SP `tlog-witness`: to cosign a checkpoint that extends what it saw before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size of the log that the witness cosigned last, as far as the log knows; 0 if none.
    pub old: u64,
    /// That the checkpoint's log begins with the one of that size.
    pub proof: Vec<Hash>,
    /// The checkpoint, signed by its log.
    pub note: Note,
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwitnessed {
    /// It cannot be read, or asks for nothing there could be.
    Malformed(String),
    /// It is of a log that the witness was not told of.
    UnknownLog,
    /// The log did not sign it.
    Unsigned,
    /// The witness saw the log last with this size, or with another root of it.
    Conflict(u64),
    /// It does not begin with what the witness saw.
    Inconsistent,
}

impl AddCheckpoint {
    /// Reads a request; nothing of it is believed yet.
    ///
    /// # Errors
    /// [`Error::Note`] if it is not in the form of one.
    pub fn parse(body: &str) -> Result<AddCheckpoint, Error> {
        let refused = |why: &str| Error::Note(why.to_owned());
        let (head, note) =
            body.split_once("\n\n").ok_or_else(|| refused("no empty line stands before it"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old.filter(|old| {
            old.bytes().all(|byte| byte.is_ascii_digit()) && (*old == "0" || !old.starts_with('0'))
        });
        let old = old
            .and_then(|old| old.parse().ok())
            .ok_or_else(|| refused("it does not begin with `old` and a size"))?;
        let hash = |line: &str| BASE64_STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok());
        let proof: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = proof.filter(|proof| proof.len() <= LONGEST_PROOF);
        let proof = proof.ok_or_else(|| refused("a line before it is no hash, or there are too many"))?;
        Ok(AddCheckpoint { old, proof, note: Note::parse(note)? })
    }

    /// The checkpoint, if it may be cosigned by a witness that trusts these logs and cosigned `latest` of this one.
    ///
    /// # Errors
    /// Why it may not.
    pub fn judge<'a>(
        &self,
        logs: impl IntoIterator<Item = &'a Verifier>,
        latest: impl FnOnce(&str) -> Option<Checkpoint>,
    ) -> Result<Checkpoint, Unwitnessed> {
        let origin = self.note.text().lines().next().unwrap_or_default();
        let log = logs.into_iter().find(|log| log.name() == origin).ok_or(Unwitnessed::UnknownLog)?;
        match self.note.signed_by(log) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Err(Unwitnessed::Unsigned),
        }
        let malformed = |error: &dyn fmt::Display| Unwitnessed::Malformed(error.to_string());
        let checkpoint = Checkpoint::of(&self.note, log).map_err(|error| malformed(&error))?;
        if self.old > checkpoint.size {
            return Err(malformed(&"the old size is larger than the checkpoint's"));
        }
        let Some(latest) = latest(origin) else {
            return match (self.old, self.proof.is_empty()) {
                (0, true) => Ok(checkpoint),
                (0, false) => Err(malformed(&"there is no proof from size 0")),
                _ => Err(Unwitnessed::Conflict(0)),
            };
        };
        if self.old != latest.size || (self.old == checkpoint.size && checkpoint.root != latest.root) {
            return Err(Unwitnessed::Conflict(latest.size));
        }
        if latest.size == 0 && !self.proof.is_empty() {
            return Err(malformed(&"there is no proof from size 0"));
        }
        checkpoint.follows(&latest, &self.proof).map_err(|_| Unwitnessed::Inconsistent)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", BASE64_STANDARD.encode(hash)))?;
        write!(f, "\n{}", self.note)
    }
}

/// More hashes than any consistency proof has.
const LONGEST_PROOF: usize = 63;
