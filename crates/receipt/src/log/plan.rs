use std::collections::BTreeSet;
use std::ops::Range;

use super::merkle::{Hash, empty_root, node_hash};
use super::{Error, TILE_WIDTH, Tile, Tiles};

/// What a proof, or a root, is made of: stretches of leaves, each with the hash of the tree over it.
///
/// Reading tiles is the caller's: [`Plan::tiles`] names those that are needed, and [`Plan::hashes`] makes the proof of them.
/// Whether they are the right ones shows when the proof is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    size: u64,
    stretches: Vec<Range<u64>>,
}

impl Plan {
    /// The root of a tree: one hash.
    #[must_use]
    pub fn root(size: u64) -> Plan {
        let whole = 0..size;
        Plan { size, stretches: vec![whole] }
    }

    /// The proof that leaf `index` is in a tree.
    ///
    /// # Errors
    /// [`Error::Proof`] if the tree has no such leaf.
    pub fn inclusion(index: u64, size: u64) -> Result<Plan, Error> {
        if index >= size {
            return Err(Error::Proof("the tree has no leaf of that number"));
        }
        let mut stretches = Vec::new();
        let mut around = 0..size;
        while around.end - around.start > 1 {
            let middle = middle(&around);
            let (near, far) = halves(&around, middle, index < middle);
            stretches.push(far);
            around = near;
        }
        stretches.reverse();
        Ok(Plan { size, stretches })
    }

    /// The proof that a tree of size `to` begins with the tree of size `from`.
    ///
    /// # Errors
    /// [`Error::Proof`] if `from` is 0, which proves nothing, or larger than `to`.
    pub fn consistency(from: u64, to: u64) -> Result<Plan, Error> {
        if from == 0 {
            return Err(Error::Proof("every tree extends the empty one, so nothing is proven"));
        }
        if from > to {
            return Err(Error::Proof("the later tree is the smaller one"));
        }
        let mut stretches = Vec::new();
        let mut around = 0..to;
        while around.end != from {
            let middle = middle(&around);
            let (near, far) = halves(&around, middle, from <= middle);
            stretches.push(far);
            around = near;
        }
        // The earlier tree itself is known to whoever checks.
        if around.start != 0 {
            stretches.push(around);
        }
        stretches.reverse();
        Ok(Plan { size: to, stretches })
    }

    /// The tiles that it takes, each once.
    #[must_use]
    pub fn tiles(&self) -> Vec<Tile> {
        let nodes = self.stretches.iter().flat_map(|stretch| nodes(stretch.clone()));
        let tiles: BTreeSet<Tile> = nodes.map(|node| node.tile(self.size)).collect();
        tiles.into_iter().collect()
    }

    /// The hashes, in the order in which a proof has them.
    ///
    /// # Errors
    /// [`Error::Tile`] if one is missing or too short.
    pub fn hashes(&self, tiles: &Tiles) -> Result<Vec<Hash>, Error> {
        self.stretches.iter().map(|stretch| self.hash(stretch, tiles)).collect()
    }

    fn hash(&self, stretch: &Range<u64>, tiles: &Tiles) -> Result<Hash, Error> {
        let mut hash = None;
        for node in nodes(stretch.clone()).into_iter().rev() {
            let left = node.hash(self.size, tiles)?;
            hash = Some(hash.map_or(left, |right| node_hash(&left, &right)));
        }
        Ok(hash.unwrap_or_else(empty_root))
    }
}

/// Where RFC 6962 parts a tree: the largest power of two that is less than its size.
fn middle(around: &Range<u64>) -> u64 {
    let size = around.end - around.start;
    around.start + (1 << (size - 1).ilog2())
}

fn halves(around: &Range<u64>, middle: u64, left: bool) -> (Range<u64>, Range<u64>) {
    let (low, high) = (around.start..middle, middle..around.end);
    if left { (low, high) } else { (high, low) }
}

/// A full subtree: of 2^height leaves, the `index`th of them.
#[derive(Debug, Clone, Copy)]
struct Node {
    height: u32,
    index: u64,
}

/// The full subtrees that a stretch consists of, largest first. It begins where a subtree of its size may begin.
fn nodes(stretch: Range<u64>) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut start = stretch.start;
    while start < stretch.end {
        let height = (stretch.end - start).ilog2();
        nodes.push(Node { height, index: start >> height });
        start += 1 << height;
    }
    nodes
}

impl Node {
    /// Of a tile, the row and the place where the node's own leaves begin.
    fn place(self) -> (u8, u64, usize) {
        let (level, within) = (self.height / 8, self.height % 8);
        let start = self.index << within;
        let width = u64::from(TILE_WIDTH);
        #[expect(clippy::cast_possible_truncation, reason = "at most 7, and less than 256")]
        (level as u8, start / width, (start % width) as usize)
    }

    fn tile(self, size: u64) -> Tile {
        let (level, index, _) = self.place();
        Tile::of(level, index, size)
    }

    fn hash(self, size: u64, tiles: &Tiles) -> Result<Hash, Error> {
        let (_, _, start) = self.place();
        let tile = self.tile(size);
        let all = tiles.get(tile)?;
        let under = all.get(start..start + (1 << (self.height % 8)));
        under.map(full_root).ok_or(Error::Tile { tile, why: "is too short" })
    }
}

/// The root over a number of hashes that is a power of two.
pub(super) fn full_root(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&full_root(left), &full_root(right))
        }
    }
}
