#![allow(clippy::unwrap_used)]

use sha2::{Digest, Sha256};

use super::*;

/// Bit patterns with which the published sequence of ES6 test numbers begins
/// (github.com/cyberphone/json-canonicalization, testdata/README.md).
const STATIC: &[u64] = &include!("es6_static.in");

/// SHA-256 of the first 100,000 lines of the published file es6testfile100m.txt.
const PUBLISHED: &str = "22776e6d4b49fa294a0d0f349268e5c28808fe7e0cb2bcbe28f63894e494d4c7";

#[test]
fn numbers_are_spelled_as_the_published_hundred_thousand() {
    let serial = (0..2000).map(|i| 0x0010_0000_0000_0000 + i);
    let bits = STATIC.iter().copied().chain(serial).chain(random_bits()).take(100_000);
    let mut hash = Sha256::new();
    for bits in bits {
        let value = f64::from_bits(bits);
        let text = number(value).unwrap();
        hash.update(format!("{bits:x},{text}\n"));
        let beyond =
            value.abs() > MAX_SAFE_INTEGER as f64 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        assert_eq!(is_canonical(text.as_bytes()), !beyond, "{text}");
    }
    assert_eq!(hex::encode(hash.finalize()), PUBLISHED);
}

#[test]
fn the_first_byte_that_is_not_plain_is_found_wherever_it_stands() {
    // Fillers on either side of every limit, since the search takes whole words of them.
    for filler in [0x20, 0x21, 0x23, b'[', b']', 0x7f, 0x80, 0x9f, 0xa2, 0xdc, 0xff] {
        for (length, at) in (0..=25).flat_map(|length| (0..length).map(move |at| (length, at))) {
            for byte in 0..=255 {
                let mut text = vec![filler; length];
                text[at] = byte;
                let plain = byte >= 0x20 && byte != b'"' && byte != b'\\';
                let expected = if plain { length } else { at };
                assert_eq!(plain_length(&text), expected, "{byte:#x} at {at} of {length}, {filler:#x}");
                // What comes after the first is none of its business.
                text[at..].fill(byte);
                assert_eq!(plain_length(&text), expected, "{byte:#x} from {at} of {length}, {filler:#x}");
            }
        }
    }
}

/// Doubles from a chain of SHA-256 that begins with 32 zero bytes; zeros and what is not finite are left out.
fn random_bits() -> impl Iterator<Item = u64> {
    let blocks = std::iter::successors(Some([0_u8; 32]), |block| Some(Sha256::digest(block).into())).skip(1);
    blocks
        .flat_map(|block| [0, 8, 16, 24].map(|at| u64::from_le_bytes(block[at..at + 8].try_into().unwrap())))
        .filter(|bits| f64::from_bits(*bits) != 0.0 && f64::from_bits(*bits).is_finite())
}
