mod reader;

use sha2::{Digest, Sha256};

use self::reader::Reader;
use crate::canonical::Scanner;
use crate::draft::{Draft, Text};
use crate::receipt::short_name;
use crate::{Failure, Stage, Timestamp, chain};

/// Longest document that is looked at, in bytes. Requests are bounded at 256 KiB and may stand in several entries.
pub const MAX_BYTES: usize = 4 << 20;

/// A receipt as received: of the right form, but with nothing verified yet.
///
/// It borrows from canonical text. What was signed and hashed are slices of that text, so nothing is ever
/// serialised again in order to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a> {
    /// Everything the issuer chose.
    pub content: Draft<'a>,
    /// When the receipt says it was made.
    pub created: Timestamp,
    /// The entries, at least one.
    pub entries: Vec<Entry<'a>>,
    /// The key that is said to have signed.
    pub kid: Text<'a>,
    /// The signature as text.
    pub signature_value: Text<'a>,
    /// The whole document.
    pub text: &'a str,
    signed_bytes: [&'a str; 3],
}

/// One entry as received; free-form members are canonical JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The step it reports.
    pub stage: Stage,
    /// When the step ended.
    pub at: Timestamp,
    /// What the step was given.
    pub input: &'a str,
    /// What it found.
    pub output: &'a str,
    /// Why it refused.
    pub error: &'a str,
    /// What it cost, a decimal string.
    pub cost: Option<&'a str>,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// Free-form, but with the member `at`.
    pub metadata: &'a str,
    /// Hash of the entry before.
    pub previous_hash: &'a str,
    /// Hash of this entry.
    pub hash: &'a str,
    /// The whole entry.
    pub text: &'a str,
    hashed_bytes: [&'a str; 2],
}

impl<'a> Document<'a> {
    /// Reads canonical text; every member must be there and no other.
    ///
    /// # Errors
    /// A [`Failure`] naming the member or entry that is not as the format has it. Text that is not canonical fails
    /// too: pass it through [`crate::canonical::canonicalise`] first, as [`crate::verify`] does.
    pub fn parse(text: &'a str) -> Result<Self, Failure> {
        let mut reader = Reader::new(text);
        let document = reader.document()?;
        reader.end()?;
        document.content.check()?;
        document.content.check_promise(document.created)?;
        Ok(document)
    }

    /// Reads an array of entries alone.
    pub(crate) fn parse_entries(text: &'a str) -> Result<Vec<Entry<'a>>, Failure> {
        let mut reader = Reader::new(text);
        let entries = reader.entries()?;
        reader.end()?;
        Ok(entries)
    }

    /// Was it a person who said what became of the action, and not the provider? Its entry `execute` says who, as a
    /// commitment.
    #[must_use]
    pub fn is_resolved_by_person(&self) -> bool {
        let execute = self.entries.iter().find(|entry| entry.stage == Stage::Execute);
        let resolved =
            execute.and_then(|entry| Scanner::new(entry.output).value_and_member("resolved").ok()?.1);
        resolved.is_some_and(|resolved| resolved != "null")
    }

    /// Does it say only that whoever carried the action out says that it failed? Whether there was an effect all the same is
    /// not known then.
    #[must_use]
    pub fn is_only_said(&self) -> bool {
        let execute = self.entries.iter().find(|entry| entry.stage == Stage::Execute);
        let result = execute.and_then(|entry| Scanner::new(entry.output).value_and_member("result").ok()?.1);
        result == Some("\"says_failed\"")
    }

    /// The bytes the signature covers, in three pieces.
    #[must_use]
    pub fn signed_bytes(&self) -> [&'a str; 3] {
        self.signed_bytes
    }

    /// The short name for `/r/…`: the first 12 characters of base64url(SHA-256(signed bytes)).
    #[must_use]
    pub fn short(&self) -> String {
        short_name(&self.signed_digest())
    }

    pub(crate) fn signed_digest(&self) -> [u8; 32] {
        let [a, b, c] = self.signed_bytes;
        Sha256::new().chain_update(a).chain_update(b).chain_update(c).finalize().into()
    }
}

impl Entry<'_> {
    pub(crate) fn hash_holds(&self) -> bool {
        let [head, tail] = self.hashed_bytes;
        chain::entry_hash(head.as_bytes(), tail.as_bytes()) == *self.hash.as_bytes()
    }
}
