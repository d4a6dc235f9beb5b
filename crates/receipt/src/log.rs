//! The transparency log: that nothing was left out and nothing rewritten, shown to people outside.
//!
//! ```text
//!   record ─ nonce ─▶ Leaf ─▶ leaf hash ─▶ Edge ─▶ tiles ─▶ root ─▶ Checkpoint ─ Signer ─▶ Note ◀─ witnesses
//!      │                                              │                                  │
//!      │                              Plan ─▶ inclusion, consistency                     │
//!      └───────────── receipt ─────────────────────▶ Bundle ◀────────────────────────────┘
//! ```
//!
//! * The **tree** is that of RFC 6962 over SHA-256, kept and published as the tiles of C2SP `tlog-tiles`: anyone who
//!   has them makes every proof alone. A [`Plan`] says which tiles a proof needs and makes it of them, so that reading
//!   them is the caller's; an [`Edge`] is all of a tree that its next leaf needs.
//! * A **checkpoint** is a C2SP signed note with an Ed25519 key, as other tools read it. That signature is
//!   deterministic, so a size and a root have one note and nothing of it has to be stored. A [`Signer`] signs what it is
//!   given: that there is but one root of a size is for whoever keeps the log to see to, *before* it signs.
//! * A **leaf** is blind and of one size for ever: whoever reads the log sees how much happens and about when, and
//!   neither what nor to whom. See [`Leaf`] for what that still tells.
//! * A **bundle** is a receipt with all that proves it was logged, in one file. [`crate::verify`] wants nothing beside
//!   it but the pin, which names the log's key.
//!
//! **What is refused though it might be let pass.** Every hash is 32 bytes, so neither an empty one nor a longer one is
//! ever compared with anything. Nothing is included in a tree of size 0. There is no consistency proof *from* size 0,
//! not even to size 0: every tree extends the empty one, so it would prove nothing, and whoever sees a log for the first
//! time believes its checkpoint or does not.
//!
//! **Why not the crates `tlog_tiles` and `signed_note`** (0.2.0, as published). Their tiles have the paths of Go's
//! checksum database (`tile/8/0/…`, `tile/8/data/…`) and not those of C2SP (`tile/0/…`, `tile/entries/…`). Reading
//! hashes out of tiles panics where a reader answers with too few, which is what a stranger's answer may do, and makes a
//! consistency proof from size 0 to anything. They know no cosignatures. They would bring a second Ed25519 and older
//! copies of `sha2`, `base64`, `thiserror` and `rand_core` into what should be a small verifier. What is used of them would be
//! the arithmetic, and that is checked here against `ct-merkle` and the vectors of `transparency-dev/merkle`.

mod bundle;
mod checkpoint;
mod error;
mod leaf;
mod merkle;
mod note;
mod path;
mod plan;
mod survey;
mod tile;
mod witness;

pub use bundle::{Bundle, Compromise, Logged, Place, Proof, believed, promised_nonce};
pub use checkpoint::{Checkpoint, epoch_of};
pub use error::Error;
pub use leaf::{ActionRef, Leaf, LeafKind, Nonce, RefKey};
pub use merkle::{Hash, empty_root, leaf_hash, node_hash, verify_consistency, verify_inclusion};
pub use note::{Note, Signer, Verifier};
pub use path::Resource;
pub use plan::Plan;
pub use survey::{Completeness, Counts, Due, Hours, Survey};
pub use tile::{Edge, TILE_WIDTH, Tile, Tiles, bundled, entries_of};
pub use witness::{AddCheckpoint, NOTHING_SHOWN, Unwitnessed};
