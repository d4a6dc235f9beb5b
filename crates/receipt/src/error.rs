/// Why something could not be built or read. Verification has its own answer, [`crate::Failure`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not JSON, or is JSON that two readers could understand differently.
    #[error("not valid JSON{}: {why}", at_pointer(pointer))]
    Json {
        /// JSON pointer to the value that was being read, empty for the whole text.
        pointer: String,
        /// What is wrong there.
        why: String,
    },
    /// Doubles cannot hold it exactly, so readers would disagree about its value.
    #[error("integer `{0}` is outside ±(2^53-1); write it as a string")]
    UnsafeInteger(String),
    /// Not of the form `2026-04-27T12:00:00.000Z`, or no such moment.
    #[error("`{0}` is not a time of the form 2026-04-27T12:00:00.000Z")]
    Timestamp(String),
    /// A member of a receipt or entry that does not have the form the format asks for.
    #[error("member `{name}` {why}")]
    Member {
        /// The member's name as it stands in the document.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Stages have one order and none comes twice.
    #[error("stage `{stage}` cannot follow `{last}`")]
    StageOrder {
        /// The stage that was to be added.
        stage: &'static str,
        /// The stage the chain ends with.
        last: &'static str,
    },
    /// A stored chain that does not hold together.
    #[error("stored chain is broken: {0}")]
    BrokenChain(String),
    /// A private or public key that is not a P-256 key in the expected encoding.
    #[error("not a usable P-256 key: {0}")]
    Key(&'static str),
    /// A key set that cannot be trusted to mean one thing.
    #[error("key set refused: {0}")]
    Jwks(String),
    /// An issuer pin that cannot be read.
    #[error("issuer pin refused: {0}")]
    Pin(String),
    /// A disclosure file that cannot be read.
    #[error("disclosures refused: {0}")]
    Disclosures(String),
    /// An approval that is not as the format has it.
    #[error("approval refused: {0}")]
    Approval(String),
    /// A list of approvers that cannot be read.
    #[error("approvers refused: {0}")]
    Approvers(String),
    /// The cryptographic library refused to work.
    #[error("signing failed")]
    Signing,
}

impl Error {
    pub(crate) fn member(name: &str, why: &'static str) -> Self {
        Self::Member { name: name.to_owned(), why }
    }
}

fn at_pointer(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!(" at `{pointer}`") }
}
