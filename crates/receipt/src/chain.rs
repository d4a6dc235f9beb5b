use sha2::{Digest, Sha256};

use crate::json::write_members;
use crate::{Document, Error, Json, Timestamp, canonical};

/// What an entry reports: one step of the pipeline, in the order in which they may stand in a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The start of every chain.
    Genesis,
    /// The mandate was checked.
    TokenValidation,
    /// The request has the archetype's shape.
    Schema,
    /// Hard-deny list, mandate and policy.
    Boundary,
    /// Everything required is there.
    Completeness,
    /// Anomaly check.
    Math,
    /// The provider was called, or admission refused.
    Execute,
    /// Commitment and authorisation were split.
    CommitAuthSplit,
    /// The end of every chain.
    Receipt,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 9] = [
        Self::Genesis,
        Self::TokenValidation,
        Self::Schema,
        Self::Boundary,
        Self::Completeness,
        Self::Math,
        Self::Execute,
        Self::CommitAuthSplit,
        Self::Receipt,
    ];

    /// The name in the document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Genesis => "__genesis__",
            Self::TokenValidation => "token_validation",
            Self::Schema => "schema",
            Self::Boundary => "boundary",
            Self::Completeness => "completeness",
            Self::Math => "math",
            Self::Execute => "execute",
            Self::CommitAuthSplit => "commit_auth_split",
            Self::Receipt => "receipt",
        }
    }

    /// The stage of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a stage reports; start from [`NewEntry::at`] and fill in what is known.
#[derive(Debug, Clone)]
pub struct NewEntry<'a> {
    /// When the stage ended; an earlier time than the last entry's is moved up to it.
    pub at: Timestamp,
    /// What the stage was given, sensitive members as commitments.
    pub input: Json,
    /// What it found.
    pub output: Json,
    /// Why it refused or failed.
    pub error: Json,
    /// What the stage cost, a decimal string.
    pub cost: Option<&'a str>,
    /// How long the stage took, in milliseconds.
    pub latency_ms: u64,
    /// Members of `metadata` beside `at`, in any order.
    pub metadata: Vec<(&'a str, Json)>,
}

impl NewEntry<'_> {
    /// An entry of which only the time is known.
    #[must_use]
    pub fn at(at: Timestamp) -> Self {
        Self {
            at,
            input: Json::NULL,
            output: Json::NULL,
            error: Json::NULL,
            cost: None,
            latency_ms: 0,
            metadata: Vec::new(),
        }
    }
}

/// The entries of a receipt under construction, each bound to the one before by its hash.
///
/// INVARIANT (chain): `json` is the canonical text of the entries, an array without its closing bracket; every
/// hash in it is right; stages ascend from genesis; times never go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    json: Vec<u8>,
    hash: Hash,
    at: Timestamp,
    stage: Stage,
    entries: usize,
}

/// Lower-case hex SHA-256.
type Hash = [u8; 64];

impl Chain {
    /// Begins a chain.
    ///
    /// # Errors
    /// [`Error::Member`] if the entry's cost is not a decimal string, its latency does not fit a JSON number, or
    /// its metadata name `at` or a member twice.
    pub fn genesis(entry: NewEntry<'_>) -> Result<Self, Error> {
        let mut chain = Self {
            json: Vec::with_capacity(4096),
            hash: NO_HASH,
            at: entry.at,
            stage: Stage::Genesis,
            entries: 0,
        };
        chain.json.push(b'[');
        chain.append(Stage::Genesis, entry)?;
        Ok(chain)
    }

    /// Adds the entry of a later stage. After an error the chain is as it was before.
    ///
    /// # Errors
    /// [`Error::StageOrder`] if the stage is not later than the last, otherwise as [`Chain::genesis`].
    pub fn push(&mut self, stage: Stage, entry: NewEntry<'_>) -> Result<(), Error> {
        if stage <= self.stage {
            return Err(Error::StageOrder { stage: stage.as_str(), last: self.stage.as_str() });
        }
        let length = self.json.len();
        self.json.push(b',');
        self.append(stage, entry).inspect_err(|_| self.json.truncate(length))
    }

    /// Reads back a chain that was kept by [`Chain::to_bytes`], and checks all of it.
    ///
    /// # Errors
    /// [`Error::BrokenChain`] saying which entry is wrong and why.
    pub fn from_bytes(array: &[u8]) -> Result<Self, Error> {
        let broken = |failure: crate::Failure| Error::BrokenChain(failure.to_string());
        let text = std::str::from_utf8(array).map_err(|e| Error::BrokenChain(e.to_string()))?;
        let entries = Document::parse_entries(text).map_err(broken)?;
        crate::verify::entries_hold(&entries).map_err(broken)?;
        crate::verify::chain_holds(&entries).map_err(broken)?;
        let last = entries.last().ok_or_else(|| Error::BrokenChain("it has no entry".to_owned()))?;
        let hash = last.hash.as_bytes().try_into().unwrap_or(NO_HASH);
        let json = array[..array.len() - 1].to_vec();
        Ok(Self { json, hash, at: last.at, stage: last.stage, entries: entries.len() })
    }

    /// The canonical JSON array of the entries, to be kept until the chain is continued.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut array = Vec::with_capacity(self.json.len() + 1);
        self.write(&mut array);
        array
    }

    /// The stage of the last entry.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The time of the last entry.
    #[must_use]
    pub fn last_at(&self) -> Timestamp {
        self.at
    }

    /// How many entries there are; never none.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a chain has its genesis")]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Length of the canonical array in bytes.
    pub(crate) fn size(&self) -> usize {
        self.json.len() + 1
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.json);
        out.push(b']');
    }

    /// Writes the entry once, with room for its hash, and fills the hash in: nothing is serialised twice.
    fn append(&mut self, stage: Stage, entry: NewEntry<'_>) -> Result<(), Error> {
        check(&entry)?;
        // Keeps (chain): time never goes back.
        let at = entry.at.max(self.at);
        let out = &mut self.json;

        let head = out.len();
        out.extend_from_slice(b"{\"checkpointSignature\":null,\"cost\":");
        match entry.cost {
            Some(cost) => canonical::write_string(out, cost),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"error\":");
        out.extend_from_slice(entry.error.as_str().as_bytes());
        out.push(b',');
        let cut = out.len();
        out.extend_from_slice(b"\"hash\":\"");
        let hash = out.len();
        out.extend_from_slice(&NO_HASH);
        out.extend_from_slice(b"\",");
        let tail = out.len();
        out.extend_from_slice(b"\"input\":");
        out.extend_from_slice(entry.input.as_str().as_bytes());
        out.extend_from_slice(b",\"latencyMs\":");
        out.extend_from_slice(entry.latency_ms.to_string().as_bytes());
        out.extend_from_slice(b",\"metadata\":");
        write_metadata(out, at, &entry.metadata)?;
        out.extend_from_slice(b",\"output\":");
        out.extend_from_slice(entry.output.as_str().as_bytes());
        out.extend_from_slice(b",\"previousHash\":\"");
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(b"\",\"stage\":\"");
        out.extend_from_slice(stage.as_str().as_bytes());
        out.extend_from_slice(b"\"}");

        self.hash = entry_hash(&out[head..cut], &out[tail..]);
        out[hash..hash + self.hash.len()].copy_from_slice(&self.hash);
        self.at = at;
        self.stage = stage;
        self.entries += 1;
        Ok(())
    }
}

/// The hash of an entry from its text before and after the member `hash`.
pub(crate) fn entry_hash(head: &[u8], tail: &[u8]) -> Hash {
    let digest = Sha256::new().chain_update(head).chain_update(tail).finalize();
    let mut hex = NO_HASH;
    for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 0xf)];
    }
    hex
}

/// A decimal string as receipts write amounts: no sign, no exponent, no needless zero in front, at most 18 digits.
pub(crate) fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let count = text.bytes().filter(u8::is_ascii_digit).count();
    digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0')) && count <= 18
}

fn check(entry: &NewEntry<'_>) -> Result<(), Error> {
    if !entry.cost.is_none_or(is_decimal) {
        return Err(Error::member("cost", "is not a decimal string"));
    }
    if entry.latency_ms > canonical::MAX_SAFE_INTEGER {
        return Err(Error::member("latencyMs", "is too large"));
    }
    Ok(())
}

fn write_metadata(out: &mut Vec<u8>, at: Timestamp, more: &[(&str, Json)]) -> Result<(), Error> {
    if more.is_empty() {
        out.extend_from_slice(b"{\"at\":\"");
        out.extend_from_slice(at.as_str().as_bytes());
        out.extend_from_slice(b"\"}");
        return Ok(());
    }
    let at = format!("\"{at}\"");
    let mut members: Vec<_> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    members.push(("at", &at));
    write_members(out, members)
}

const HEX: &[u8; 16] = b"0123456789abcdef";
/// What stands in for the hash before the first entry: 64 zeros.
pub(crate) const NO_HASH: Hash = [b'0'; 64];
