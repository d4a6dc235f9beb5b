//! The tree: other implementations agree, and whatever is altered is found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use countersign_receipt as receipt;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use receipt::log::{
    Edge, Error, Hash, Plan, Resource, TILE_WIDTH, Tile, Tiles, bundled, empty_root, entries_of, leaf_hash,
    node_hash, verify_consistency, verify_inclusion,
};
use serde::Deserialize;
use sha2::Sha256;

use crate::support::vectors;

/// A tree that keeps everything: all its tiles, and the roots it had.
pub(crate) struct Grown {
    pub(crate) tiles: Tiles,
    pub(crate) bytes: Vec<(Tile, Vec<u8>)>,
    roots: BTreeMap<u64, Hash>,
}

pub(crate) fn grown(leaves: impl IntoIterator<Item = Hash>) -> Grown {
    grown_by(leaves, |_| true)
}

/// With the roots of these sizes only, since one costs more than a leaf.
fn grown_by(leaves: impl IntoIterator<Item = Hash>, at: impl Fn(u64) -> bool) -> Grown {
    let (mut edge, mut roots, mut bytes) = (Edge::default(), BTreeMap::new(), Vec::new());
    for leaf in leaves {
        edge.push(leaf, |tile, hashes| bytes.push((tile, hashes.as_flattened().to_vec())));
        if at(edge.size()) {
            roots.insert(edge.size(), edge.root());
        }
    }
    bytes.extend(edge.partial().map(|(tile, hashes)| (tile, hashes.as_flattened().to_vec())));
    let mut tiles = Tiles::default();
    for (tile, bytes) in &bytes {
        tiles.insert(*tile, bytes).unwrap();
    }
    Grown { tiles, bytes, roots }
}

impl Grown {
    pub(crate) fn root(&self, size: usize) -> Hash {
        self.roots[&(size as u64)]
    }
}

fn numbered(count: u64) -> Vec<Hash> {
    (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
}

/// One proof of one of the two kinds, as the vectors have it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    leaf_idx: Option<u64>,
    tree_size: Option<u64>,
    root: Option<String>,
    leaf_hash: Option<String>,
    size1: Option<u64>,
    size2: Option<u64>,
    root1: Option<String>,
    root2: Option<String>,
    proof: Option<Vec<String>>,
    want_err: bool,
}

/// What we say of it: does it prove anything? A hash that is none proves nothing.
fn judged(vector: &Vector) -> bool {
    use base64::Engine;
    let hash = |text: &Option<String>| -> Option<Hash> {
        let text = text.as_deref().unwrap_or_default();
        base64::prelude::BASE64_STANDARD.decode(text).unwrap().try_into().ok()
    };
    let proof: Option<Vec<Hash>> =
        vector.proof.iter().flatten().map(|text| hash(&Some(text.clone()))).collect();
    let Some(proof) = proof else { return false };
    let verified = match (vector.leaf_idx, vector.tree_size, vector.size1, vector.size2) {
        (Some(index), Some(size), None, None) => {
            let (Some(leaf), Some(root)) = (hash(&vector.leaf_hash), hash(&vector.root)) else {
                return false;
            };
            verify_inclusion(&leaf, index, size, &proof, &root)
        }
        (None, None, Some(from), Some(to)) => {
            let (Some(old), Some(new)) = (hash(&vector.root1), hash(&vector.root2)) else { return false };
            verify_consistency(from, &old, to, &new, &proof)
        }
        _ => panic!("a vector of no known kind"),
    };
    verified.is_ok()
}

#[test]
fn every_vector_is_judged_as_its_authors_judge_it_but_for_roots_that_are_no_hashes() {
    let Some(root) = vectors("merkle/testdata") else { return };
    let mut files = Vec::new();
    files_under(&root, &mut files);
    files.sort();
    let mut others = Vec::new();
    for file in &files {
        let vector: Vector = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        if judged(&vector) == vector.want_err {
            others.push(file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
        }
    }
    assert_eq!(files.len(), 196);
    // Two equal roots of size 1, of 12 bytes each: compared as bytes they are equal, but nothing has that root.
    assert_eq!(others, ["consistency/additional/sizes-are-equal-one-and-proof-is-empty.json"]);
}

fn files_under(folder: &Path, files: &mut Vec<PathBuf>) {
    for found in std::fs::read_dir(folder).unwrap() {
        let found = found.unwrap().path();
        if found.is_dir() { files_under(&found, files) } else { files.push(found) }
    }
}

/// Empty hashes and trees of size 0, with hashes that are some.
#[test]
fn nothing_is_proven_of_a_tree_without_leaves() {
    let (empty, one) = (empty_root(), leaf_hash(b"one"));
    let nothing = "every tree extends the empty one, so nothing is proven";
    for (to, root) in [(0, empty), (1, one), (0, one), (1, empty)] {
        assert_eq!(verify_consistency(0, &empty, to, &root, &[]), Err(Error::Proof(nothing)));
        assert_eq!(Plan::consistency(0, to).unwrap_err(), Error::Proof(nothing));
    }
    let none = "the tree has no leaf of that number";
    assert_eq!(verify_inclusion(&empty, 0, 0, &[], &empty), Err(Error::Proof(none)));
    assert_eq!(Plan::inclusion(0, 0).unwrap_err(), Error::Proof(none));
    assert_eq!(Plan::root(0).hashes(&Tiles::default()).unwrap(), [empty]);
    // Of one leaf its hash is the root, and a size is consistent with itself.
    verify_inclusion(&one, 0, 1, &[], &one).unwrap();
    verify_consistency(1, &one, 1, &one, &[]).unwrap();
    assert_eq!(verify_consistency(1, &one, 1, &empty, &[]), Err(Error::Proof("two roots of one size")));
    assert_eq!(hex::encode(empty), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn any_two_sizes_of_a_log_are_consistent_and_every_leaf_is_in_every_tree_that_has_it() {
    let leaves = numbered(300);
    let all = grown(leaves.iter().copied());
    let sizes: Vec<usize> = (1..=70).chain([127, 128, 129, 255, 256, 257, 258, 299, 300]).collect();
    for (place, to) in sizes.iter().copied().enumerate() {
        let tiles = grown_by(leaves[..to].iter().copied(), |_| false).tiles;
        let (size, root) = (to as u64, &all.root(to));
        assert_eq!(Plan::root(size).hashes(&tiles).unwrap(), [*root]);
        for from in sizes[..=place].iter().copied() {
            let plan = Plan::consistency(from as u64, size).unwrap();
            let proof = plan.hashes(&tiles).unwrap();
            // Tiles of the log as it is later serve as well.
            assert_eq!(plan.hashes(&all.tiles).unwrap(), proof);
            verify_consistency(from as u64, &all.root(from), size, root, &proof).unwrap();
            let index = from - 1;
            let proof = Plan::inclusion(index as u64, size).unwrap().hashes(&tiles).unwrap();
            verify_inclusion(&leaves[index], index as u64, size, &proof, root).unwrap();
        }
    }
}

#[test]
fn a_log_of_three_rows_of_tiles_proves_as_a_small_one_does() {
    let sizes = [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_792, 69_888, 69_999, 70_000];
    let leaves = numbered(70_000);
    let all = grown_by(leaves.iter().copied(), |size| sizes.contains(&size));
    all.tiles.check(70_000, &all.root(70_000)).unwrap();
    // The tiles that the specification counts for this size.
    let count = |level, whole: bool| {
        all.bytes.iter().filter(|(tile, _)| tile.level == level && tile.is_whole() == whole).count()
    };
    let partial = |level| {
        let partial = all.bytes.iter().find(|(tile, _)| tile.level == level && !tile.is_whole());
        partial.map(|(tile, bytes)| (tile.index, usize::from(tile.width), bytes.len() / 32)).unwrap()
    };
    assert_eq!((count(0, true), count(1, true), count(2, true)), (273, 1, 0));
    assert_eq!((partial(0), partial(1), partial(2)), ((273, 112, 112), (1, 17, 17), (0, 1, 1)));
    assert_eq!(Tile::all(70_000).count(), all.bytes.len());

    for (place, to) in sizes.into_iter().enumerate() {
        for from in &sizes[..=place] {
            let plan = Plan::consistency(*from, to).unwrap();
            let mut few = Tiles::default();
            for tile in plan.tiles() {
                let (_, bytes) =
                    all.bytes.iter().find(|(t, _)| (t.level, t.index) == (tile.level, tile.index)).unwrap();
                few.insert(tile, &bytes[..usize::from(tile.width) * 32]).unwrap();
            }
            let proof = plan.hashes(&few).unwrap();
            verify_consistency(*from, &all.roots[from], to, &all.roots[&to], &proof).unwrap();
            let index = from - 1;
            let proof = Plan::inclusion(index, to).unwrap().hashes(&all.tiles).unwrap();
            verify_inclusion(&leaves[index as usize], index, to, &proof, &all.roots[&to]).unwrap();
        }
    }
}

#[test]
fn a_tree_goes_on_from_its_tiles_as_if_it_had_never_stopped() {
    let leaves = numbered(70_000);
    let stops = [0_u64, 1, 255, 256, 300, 65_535, 65_536, 65_600];
    let all =
        grown_by(leaves.iter().copied(), |size| stops.iter().any(|stop| size == *stop || size == stop + 300));
    for stop in stops {
        let before = grown_by(leaves[..stop as usize].iter().copied(), |_| false);
        let mut read = Tiles::default();
        for tile in Edge::tiles(stop) {
            let (_, bytes) = before.bytes.iter().find(|(t, _)| *t == tile).unwrap();
            read.insert(tile, bytes).unwrap();
        }
        let mut edge = Edge::read(stop, &read).unwrap();
        assert!(stop == 0 || edge.root() == all.roots[&stop], "{stop}");
        for leaf in &leaves[stop as usize..stop as usize + 300] {
            edge.push(*leaf, |tile, hashes| {
                assert!(all.bytes.contains(&(tile, hashes.as_flattened().to_vec())), "{tile}");
            });
        }
        assert_eq!(edge.root(), all.roots[&(stop + 300)], "{stop}");
    }
    assert!(matches!(Edge::read(1, &Tiles::default()), Err(Error::Tile { why: "is missing", .. })));
}

#[test]
fn a_flipped_bit_of_any_byte_of_a_tile_is_found() {
    let all = grown(numbered(270));
    let root = all.root(270);
    all.tiles.check(270, &root).unwrap();
    for (tile, bytes) in &all.bytes {
        for place in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            let mut tiles = all.tiles.clone();
            tiles.insert(*tile, &bytes).unwrap();
            assert!(tiles.check(270, &root).is_err(), "byte {place} of {tile}");
        }
        let mut tiles = all.tiles.clone();
        assert!(tiles.insert(*tile, &bytes[1..]).is_err());
        let shorter = Tile { width: tile.width - 1, ..*tile };
        if shorter.width > 0 {
            tiles.insert(shorter, &bytes[32..]).unwrap();
            assert!(tiles.check(270, &root).is_err(), "{tile} cut short");
        }
    }
    assert!(all.tiles.check(269, &root).is_err());
    assert!(all.tiles.check(271, &root).is_err());
}

#[test]
fn a_flipped_bit_of_any_byte_of_an_entry_is_found() {
    let entries: Vec<Vec<u8>> = (0..20_u8).map(|number| vec![number; usize::from(number) * 5]).collect();
    let tile: Vec<u8> = entries.iter().flat_map(|entry| leaf_hash(entry)).collect();
    let bundle = bundled(entries.iter().map(Vec::as_slice)).unwrap();
    assert_eq!(entries_of(&bundle, &tile).unwrap(), entries);
    for place in 0..bundle.len() {
        for bit in 0..8 {
            let mut altered = bundle.clone();
            altered[place] ^= 1 << bit;
            assert!(entries_of(&altered, &tile).is_err(), "bit {bit} of byte {place}");
        }
        assert!(entries_of(&bundle[..place], &tile).is_err());
    }
    for place in 0..tile.len() {
        let mut altered = tile.clone();
        altered[place] ^= 1;
        assert!(entries_of(&bundle, &altered).is_err());
    }
    assert!(entries_of(&bundle, &[&tile[..], &[0; 32]].concat()).is_err());
    assert!(bundled([&[0; 65_536][..]]).is_err());
}

#[test]
fn a_flipped_bit_of_any_byte_of_a_proof_is_found() {
    let leaves = numbered(300);
    let all = grown(leaves.iter().copied());
    let root = |size: u64| all.roots[&size];
    for (from, to) in [(1, 300), (7, 8), (128, 300), (255, 257), (256, 300), (299, 300), (200, 217)] {
        let proof = Plan::consistency(from, to).unwrap().hashes(&all.tiles).unwrap();
        let holds = |proof: &[Hash]| verify_consistency(from, &root(from), to, &root(to), proof).is_ok();
        assert!(holds(&proof) && every_flip_is_found(&proof, holds));
        let index = from - 1;
        let proof = Plan::inclusion(index, to).unwrap().hashes(&all.tiles).unwrap();
        let holds =
            |proof: &[Hash]| verify_inclusion(&leaves[index as usize], index, to, proof, &root(to)).is_ok();
        assert!(holds(&proof) && every_flip_is_found(&proof, holds));
    }
}

/// Of every byte, and of the number of hashes.
fn every_flip_is_found(proof: &[Hash], holds: impl Fn(&[Hash]) -> bool) -> bool {
    let flips = (0..proof.len() * 32).map(|place| {
        let mut altered = proof.to_vec();
        altered[place / 32][place % 32] ^= 1 << (place % 8);
        altered
    });
    let longer = [proof, &[[0; 32]]].concat();
    let shorter = proof[..proof.len().saturating_sub(1)].to_vec();
    flips.chain([longer]).all(|altered| !holds(&altered)) && (proof.is_empty() || !holds(&shorter))
}

#[test]
fn what_a_log_serves_has_one_path() {
    let tile = |level, index, width| Tile { level, index, width };
    for (path, resource) in [
        ("checkpoint", Resource::Checkpoint),
        ("tile/0/000", Resource::Tile(tile(0, 0, TILE_WIDTH))),
        ("tile/0/x001/x234/067", Resource::Tile(tile(0, 1_234_067, TILE_WIDTH))),
        ("tile/2/999.p/255", Resource::Tile(tile(2, 999, 255))),
        ("tile/1/x001/000.p/1", Resource::Tile(tile(1, 1000, 1))),
        ("tile/entries/x123/456.p/7", Resource::Entries(tile(0, 123_456, 7))),
        ("tile/7/000.p/1", Resource::Tile(tile(7, 0, 1))),
        ("tile/0/x072/x057/x594/x037/x927/935", Resource::Tile(tile(0, (1 << 56) - 1, TILE_WIDTH))),
    ] {
        assert_eq!(path.parse(), Ok(resource));
        assert_eq!(resource.to_string(), path);
    }
    // The last that has a path is of no tree: its end is one more than can be counted.
    assert!(!tile(0, (1 << 56) - 1, TILE_WIDTH).is_of(u64::MAX));
    assert!(tile(0, 1, 44).is_of(300) && !tile(0, 1, 45).is_of(300) && !tile(1, 0, 2).is_of(300));
    for path in [
        "",
        "/checkpoint",
        "checkpoint/",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/00/000",
        "tile/-1/000",
        "tile/8/000",
        "tile/64/000",
        "tile/0/0000",
        "tile/0/001/000",
        "tile/0/x000/000",
        "tile/0/x001",
        "tile/0/X001/000",
        "tile/0/+01",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p/1/",
        "tile/entries/0",
        "tile/entries/000/",
        "tile/data/000",
        "tile/8/0/000",
        "tile/7/001",
        "tile/0/x072/x057/x594/x037/x927/936",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        "tile/0/..",
        "tile/0/x1/000",
        "tile/0/\u{661}00",
    ] {
        assert!(matches!(path.parse::<Resource>(), Err(Error::Path(_))), "{path}");
    }
}

/// Bytes that `ct-merkle` hashes as they are.
type Other = MemoryBackedTree<Sha256, Vec<u8>>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn another_implementation_grows_the_same_tree_and_gives_the_same_proofs(
        entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..600),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..20),
    ) {
        let mut other = Other::new();
        entries.iter().for_each(|entry| other.push(entry.clone()));
        let all = grown(entries.iter().map(|entry| leaf_hash(entry)));
        let size = entries.len() as u64;
        let root = all.root(entries.len());
        let theirs = other.root();
        prop_assert_eq!(theirs.as_bytes().as_slice(), root);
        for (index, from) in places {
            let (index, from) = (index.index(entries.len()), from.index(entries.len()) + 1);
            let proof = Plan::inclusion(index as u64, size).unwrap().hashes(&all.tiles).unwrap();
            let theirs = other.prove_inclusion(index);
            prop_assert_eq!(theirs.as_bytes(), proof.as_flattened());
            verify_inclusion(&leaf_hash(&entries[index]), index as u64, size, &proof, &root).unwrap();
            let proof = Plan::consistency(from as u64, size).unwrap().hashes(&all.tiles).unwrap();
            let theirs = other.prove_consistency(entries.len() - from);
            prop_assert_eq!(theirs.as_bytes(), proof.as_flattened());
            verify_consistency(from as u64, &all.root(from), size, &root, &proof).unwrap();
        }
    }

    #[test]
    fn a_proof_of_anything_else_is_refused(
        leaf in any::<[u8; 32]>(), root in any::<[u8; 32]>(), index in any::<u64>(), size in any::<u64>(),
        proof in prop::collection::vec(any::<[u8; 32]>(), 0..70),
    ) {
        prop_assert!(verify_inclusion(&leaf, index, size, &proof, &root).is_err());
        prop_assert!(verify_consistency(index, &leaf, size, &root, &proof).is_err());
    }

    #[test]
    fn a_proof_is_planned_for_a_tree_of_any_size(index in any::<u64>(), size in 1..=u64::MAX) {
        let index = index % size;
        // At most one hash for each row of so high a tree, and each lies in a tile that the tree has.
        for plan in [Plan::inclusion(index, size).unwrap(), Plan::consistency(index + 1, size).unwrap(), Plan::root(size)] {
            prop_assert!(plan.tiles().len() <= 128);
            for tile in plan.tiles() {
                prop_assert!(tile.to_string().parse::<Resource>().is_ok());
            }
        }
    }
}

#[test]
fn a_node_is_not_taken_for_a_leaf() {
    let (a, b) = (leaf_hash(b"a"), leaf_hash(b"b"));
    assert_ne!(leaf_hash(&[a, b].concat()), node_hash(&a, &b));
}
