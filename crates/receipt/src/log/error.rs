use super::Tile;

/// Why something of a log could not be made, read or believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A proof that does not prove what it should, or that nobody could give.
    #[error("proof refused: {0}")]
    Proof(&'static str),
    /// A tile that is missing, too short, or does not fit the others.
    #[error("tile `{tile}` {why}")]
    Tile {
        /// Which one.
        tile: Tile,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A bundle of entries that is not what its tile says.
    #[error("entries refused: {0}")]
    Entries(&'static str),
    /// Not the path of anything a log has.
    #[error("`{0}` is no path of a log")]
    Path(String),
    /// A note that is not in the form of one, or that the key did not sign.
    #[error("note refused: {0}")]
    Note(String),
    /// A key that is none, or a name that no key may have.
    #[error("key refused: {0}")]
    Key(&'static str),
    /// The text of a note that is no checkpoint.
    #[error("checkpoint refused: {0}")]
    Checkpoint(&'static str),
    /// Bytes that are no leaf.
    #[error("leaf refused: {0}")]
    Leaf(&'static str),
    /// A proof or a bundle that cannot be read.
    #[error("bundle refused: {0}")]
    Bundle(String),
    /// The cryptographic library refused to work.
    #[error("signing failed")]
    Signing,
}
