use std::collections::BTreeMap;
use std::fmt;

use super::merkle::{Hash, empty_root, leaf_hash, node_hash};
use super::plan::{Plan, full_root};
use super::{Error, Resource};

/// How many hashes a whole tile has.
pub const TILE_WIDTH: u16 = 256;

/// A stretch of one row of the tree: of the leaves' hashes (level 0), or of roots over whole tiles of the level below.
///
/// INVARIANT (width): it has at least one hash and at most [`TILE_WIDTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// How many tiles stand below one another under it.
    pub level: u8,
    /// Which of its level.
    pub index: u64,
    /// How many hashes it has.
    pub width: u16,
}

impl Tile {
    /// That tile of a tree of that size, as wide as it is there. What the tree does not have yet is taken to have one hash.
    pub(super) fn of(level: u8, index: u64, size: u64) -> Tile {
        let row = row(level, size);
        let width = row.saturating_sub(index.saturating_mul(u64::from(TILE_WIDTH)));
        #[expect(clippy::cast_possible_truncation, reason = "at most 256")]
        Tile { level, index, width: width.clamp(1, u64::from(TILE_WIDTH)) as u16 }
    }

    /// Every tile of a tree, the rows from the leaves up.
    pub fn all(size: u64) -> impl Iterator<Item = Tile> {
        let rows = (0..LEVELS).map(move |level| (level, row(level, size))).take_while(|(_, row)| *row > 0);
        rows.flat_map(move |(level, row)| {
            (0..row.div_ceil(u64::from(TILE_WIDTH))).map(move |index| Tile::of(level, index, size))
        })
    }

    /// Has a tree of that size this tile, in this width or a larger one?
    #[must_use]
    pub fn is_of(&self, size: u64) -> bool {
        let first = self.index.checked_mul(u64::from(TILE_WIDTH));
        let end = first.and_then(|first| first.checked_add(u64::from(self.width)));
        end.is_some_and(|end| end <= row(self.level, size))
    }

    /// Has it all the hashes a tile can have?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.width == TILE_WIDTH
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Resource::Tile(*self).fmt(f)
    }
}

/// How many hashes the row of a level has in a tree of that size.
fn row(level: u8, size: u64) -> u64 {
    size.checked_shr(8 * u32::from(level)).unwrap_or(0)
}

/// Tiles that were read, none of them believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiles(BTreeMap<(u8, u64), Vec<Hash>>);

impl Tiles {
    /// Takes a tile as it was read: hash after hash. A longer one than was asked for is as good, since tiles only grow.
    ///
    /// # Errors
    /// [`Error::Tile`] if the bytes are no whole number of hashes, or not enough.
    pub fn insert(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), Error> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let fits = rest.is_empty() && (usize::from(tile.width)..=TILE_WIDTH.into()).contains(&hashes.len());
        if !fits {
            return Err(Error::Tile { tile, why: "has not the length of its width" });
        }
        self.0.insert((tile.level, tile.index), hashes.to_vec());
        Ok(())
    }

    /// The hashes of a tile, as many as its width.
    pub(super) fn get(&self, tile: Tile) -> Result<&[Hash], Error> {
        let hashes = self.0.get(&(tile.level, tile.index));
        let hashes = hashes.ok_or(Error::Tile { tile, why: "is missing" })?;
        hashes.get(..usize::from(tile.width)).ok_or(Error::Tile { tile, why: "is too short" })
    }

    /// Are these all tiles of the tree with that size and root, each as it should be?
    ///
    /// # Errors
    /// [`Error::Tile`] naming the first that is missing or does not fit the row above it; [`Error::Proof`] if the topmost
    /// do not lead to the root.
    pub fn check(&self, size: u64, root: &Hash) -> Result<(), Error> {
        for tile in Tile::all(size) {
            let hashes = self.get(tile)?;
            if tile.is_whole() {
                let (level, width) = (tile.level + 1, u64::from(TILE_WIDTH));
                let above = self.get(Tile::of(level, tile.index / width, size))?;
                let place = usize::try_from(tile.index % width).unwrap_or(usize::MAX);
                if above.get(place) != Some(&full_root(hashes)) {
                    return Err(Error::Tile { tile, why: "does not fit the one above it" });
                }
            }
        }
        if Plan::root(size).hashes(self)? == [*root] {
            Ok(())
        } else {
            Err(Error::Proof("the tiles do not lead to the root"))
        }
    }
}

/// Entries in the form in which a log serves them: each with its length before it, 16 bits, the high byte first.
///
/// # Errors
/// [`Error::Entries`] if one is longer than its length can say.
pub fn bundled<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for entry in entries {
        let length =
            u16::try_from(entry.len()).map_err(|_| Error::Entries("one is longer than 65535 bytes"))?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

/// The entries of a bundle, if they are those that their tile has the hashes of.
///
/// # Errors
/// [`Error::Entries`] if the bundle ends in the midst of one, or one is not what the tile says, or they are not as many.
pub fn entries_of<'a>(bundle: &'a [u8], tile: &[u8]) -> Result<Vec<&'a [u8]>, Error> {
    let mut entries = Vec::new();
    let mut rest = bundle;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(Error::Entries(CUT))?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, after) = after.split_at_checked(length).ok_or(Error::Entries(CUT))?;
        entries.push(entry);
        rest = after;
    }
    let (hashes, more) = tile.as_chunks::<32>();
    if hashes.len() != entries.len() || !more.is_empty() {
        return Err(Error::Entries("they are not as many as the tile has hashes"));
    }
    match entries.iter().zip(hashes).all(|(entry, hash)| leaf_hash(entry) == *hash) {
        true => Ok(entries),
        false => Err(Error::Entries("one does not have the hash that the tile says")),
    }
}

/// The growing side of a tree: of each level the tile that is not whole yet. It is all that the next leaf needs.
///
/// INVARIANT (edge): `rows[l]` has as many hashes as the row of level `l` has beyond its whole tiles, so fewer than
/// [`TILE_WIDTH`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    rows: Vec<Vec<Hash>>,
}

impl Edge {
    /// The tiles it takes to go on with a tree of that size.
    pub fn tiles(size: u64) -> impl Iterator<Item = Tile> {
        let levels = (0..LEVELS).map(move |level| (level, row(level, size))).take_while(|(_, row)| *row > 0);
        let width = u64::from(TILE_WIDTH);
        let partial = levels.filter(move |(_, row)| row % width != 0);
        partial.map(move |(level, row)| Tile::of(level, row / width, size))
    }

    /// Goes on with a tree of that size, of which these tiles were read.
    ///
    /// # Errors
    /// [`Error::Tile`] if one of [`Edge::tiles`] is missing.
    pub fn read(size: u64, tiles: &Tiles) -> Result<Edge, Error> {
        let mut edge = Edge { size, rows: Vec::new() };
        for tile in Edge::tiles(size) {
            edge.rows.resize(usize::from(tile.level) + 1, Vec::new());
            edge.rows[usize::from(tile.level)] = tiles.get(tile)?.to_vec();
        }
        Ok(edge)
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash; `whole` is given each tile that is whole with it.
    pub fn push(&mut self, leaf: Hash, mut whole: impl FnMut(Tile, &[Hash])) {
        let mut hash = leaf;
        for level in 0..LEVELS {
            let place = usize::from(level);
            if self.rows.len() == place {
                self.rows.push(Vec::new());
            }
            let row = &mut self.rows[place];
            row.push(hash);
            if row.len() < TILE_WIDTH.into() {
                break;
            }
            let index = self.size >> (8 * (u32::from(level) + 1));
            whole(Tile { level, index, width: TILE_WIDTH }, row);
            hash = full_root(row);
            row.clear();
        }
        self.size += 1;
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut root = None;
        for row in &self.rows {
            let mut rest = row.as_slice();
            // Each row is parted into full subtrees, the largest first, and they are taken from the right.
            while !rest.is_empty() {
                let (before, last) = rest.split_at(rest.len() - (1 << rest.len().trailing_zeros()));
                let left = full_root(last);
                root = Some(root.map_or(left, |right| node_hash(&left, &right)));
                rest = before;
            }
        }
        root.unwrap_or_else(empty_root)
    }

    /// The tiles that are not whole, as they are now.
    pub fn partial(&self) -> impl Iterator<Item = (Tile, &[Hash])> {
        let size = self.size;
        Edge::tiles(size).zip(self.rows.iter().filter(|row| !row.is_empty()).map(Vec::as_slice))
    }
}

/// A tree of as many leaves as can be counted has no more levels of tiles.
pub(super) const LEVELS: u8 = 8;
const CUT: &str = "the last one is cut off";
