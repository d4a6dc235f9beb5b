//! The tree of RFC 6962: its hashes, and proofs about it. The checks are those of RFC 9162, 2.1.3.2 and 2.1.4.2.

use sha2::{Digest, Sha256};

use super::Error;

/// A SHA-256 of the tree: of a leaf, of a node, or of a whole tree.
pub type Hash = [u8; 32];

/// The root of a tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The hash of an entry of the log.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of what has these two below it.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Is the leaf with this hash number `index` of the tree with that size and root?
///
/// # Errors
/// [`Error::Proof`] if the proof does not show it.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), Error> {
    if index >= size {
        return Err(Error::Proof("the tree has no leaf of that number"));
    }
    let mut climb = Climb { node: index, last: size - 1 };
    let mut hash = *leaf;
    for other in proof {
        hash = match climb.step()? {
            Side::Left => node_hash(other, &hash),
            Side::Right => node_hash(&hash, other),
        };
    }
    climb.end()?;
    if hash == *root { Ok(()) } else { Err(Error::Proof("it does not lead to the root")) }
}

/// Does the tree with size `to` begin with all leaves of the tree with size `from`?
///
/// # Errors
/// [`Error::Proof`] if the proof does not show it, and always from size 0, of which it could show nothing.
pub fn verify_consistency(
    from: u64,
    from_root: &Hash,
    to: u64,
    to_root: &Hash,
    proof: &[Hash],
) -> Result<(), Error> {
    if from == 0 {
        return Err(Error::Proof("every tree extends the empty one, so nothing is proven"));
    }
    if from > to {
        return Err(Error::Proof("the later tree is the smaller one"));
    }
    if from == to {
        return match (proof, from_root == to_root) {
            ([], true) => Ok(()),
            ([], false) => Err(Error::Proof("two roots of one size")),
            _ => Err(Error::Proof("it is longer than it should be")),
        };
    }
    // The earlier tree is a node of the later one if it is full: then its root is where the way begins.
    let (first, rest) = if from.is_power_of_two() {
        (from_root, proof)
    } else {
        proof.split_first().ok_or(Error::Proof("it is shorter than it should be"))?
    };
    let mut climb = Climb { node: from - 1, last: to - 1 };
    climb.skip_ones();
    let (mut earlier, mut later) = (*first, *first);
    for other in rest {
        match climb.step()? {
            Side::Left => (earlier, later) = (node_hash(other, &earlier), node_hash(other, &later)),
            Side::Right => later = node_hash(&later, other),
        }
    }
    climb.end()?;
    match (earlier == *from_root, later == *to_root) {
        (true, true) => Ok(()),
        (false, _) => Err(Error::Proof("it does not lead to the earlier root")),
        (true, false) => Err(Error::Proof("it does not lead to the later root")),
    }
}

/// The way from a node to the root: its number in its row, and that of the row's last node.
struct Climb {
    node: u64,
    last: u64,
}

/// Where the next hash of a proof stands.
enum Side {
    Left,
    Right,
}

impl Climb {
    fn step(&mut self) -> Result<Side, Error> {
        if self.last == 0 {
            return Err(Error::Proof("it is longer than it should be"));
        }
        let side = if self.node & 1 == 1 || self.node == self.last { Side::Left } else { Side::Right };
        if matches!(side, Side::Left) {
            // A last node without a partner stands for itself in the rows above.
            while self.node & 1 == 0 && self.node != 0 {
                self.up();
            }
        }
        self.up();
        Ok(side)
    }

    fn skip_ones(&mut self) {
        while self.node & 1 == 1 {
            self.up();
        }
    }

    fn up(&mut self) {
        (self.node, self.last) = (self.node >> 1, self.last >> 1);
    }

    fn end(&self) -> Result<(), Error> {
        if self.last == 0 { Ok(()) } else { Err(Error::Proof("it is shorter than it should be")) }
    }
}
