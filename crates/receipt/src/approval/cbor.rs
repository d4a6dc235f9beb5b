/// As much of CBOR (RFC 8949) as WebAuthn uses, front to back over a slice.
///
/// Lengths are definite and shortest, there are no tags, and nesting is bounded, as CTAP2's canonical form has it.
/// `None` is malformed or cut short.
#[derive(Clone)]
pub(super) struct Cbor<'a> {
    rest: &'a [u8],
}

impl<'a> Cbor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Steps into a map; the number of its members.
    pub(super) fn map(&mut self) -> Option<u64> {
        self.of(MAP)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.of(TEXT)?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.of(BYTES)?;
        self.take(length)
    }

    /// An integer below zero.
    pub(super) fn negative(&mut self) -> Option<i64> {
        let number = i64::try_from(self.of(NEGATIVE)?).ok()?;
        Some(-1 - number)
    }

    /// Steps over a map and all that is in it.
    pub(super) fn skip_map(&mut self) -> Option<()> {
        let members = self.map()?;
        (0..members).try_for_each(|_| {
            self.skip(1)?;
            self.skip(1)
        })
    }

    /// Steps over one item of any kind. Every item takes a byte, so a count beyond the input ends with the input.
    fn skip(&mut self, depth: u8) -> Option<()> {
        let (major, value) = self.head()?;
        match major {
            UNSIGNED | NEGATIVE | SIMPLE => Some(()),
            BYTES => self.take(value).map(drop),
            TEXT => std::str::from_utf8(self.take(value)?).ok().map(drop),
            ARRAY | MAP if depth < DEEPEST => (0..value).try_for_each(|_| {
                self.skip(depth + 1)?;
                if major == MAP { self.skip(depth + 1) } else { Some(()) }
            }),
            _ => None,
        }
    }

    fn of(&mut self, major: u8) -> Option<u64> {
        let (found, value) = self.head()?;
        (found == major).then_some(value)
    }

    /// The kind of the next item, and its value or length.
    fn head(&mut self) -> Option<(u8, u64)> {
        let [first] = *self.take(1)?.first_chunk()?;
        let (major, info) = (first >> 5, first & 0x1f);
        let size = match info {
            0..=23 => return Some((major, u64::from(info))),
            24..=27 => 1 << (info - 24),
            _ => return None,
        };
        let value = self.take(size)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        // What would have fitted into less is not canonical; floats are as long as they say.
        let shortest = match size {
            1 => value >= 24,
            _ => value >> (size * 4) != 0,
        };
        let float = major == SIMPLE && size > 1;
        (float || (shortest && major != SIMPLE)).then_some((major, value))
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(taken)
    }
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;
/// CTAP2 allows four levels.
const DEEPEST: u8 = 4;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// Is this one map and nothing more?
    fn is_map(hex: &str) -> bool {
        let bytes = hex::decode(hex).unwrap();
        let mut cbor = Cbor::new(&bytes);
        cbor.skip_map().is_some() && cbor.at_end()
    }

    #[test]
    fn maps_are_recognised_and_everything_that_is_not_canonical_is_not() {
        for map in [
            "a0",
            "a10102",
            "a1616101",
            "a161618343aabbcc01f4",
            "a16161f5",
            "a16161f6",
            "a1011818",
            "a10119ffff",
            "a16161fb3ff8000000000000",
            "a101818180",
        ] {
            assert!(is_map(map), "{map}");
        }
        for (not, why) in [
            ("", "nothing"),
            ("80", "an array"),
            ("a1", "cut short"),
            ("a101", "a name without value"),
            ("a0a0", "something follows"),
            ("bf0102ff", "no definite length"),
            ("a1011801", "a number longer than needed"),
            ("a10119000a", "a number longer than needed"),
            ("a1011a0000ffff", "a number longer than needed"),
            ("a101c001", "a tag"),
            ("a101f8f0", "a simple value of two bytes"),
            ("a1016180", "text that is not UTF-8"),
            ("a1015bffffffffffffffff", "a length beyond the input"),
            ("bbffffffffffffffff", "more members than there are bytes"),
            ("a10181818180", "too deep"),
        ] {
            assert!(!is_map(not), "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Cbor::new(&bytes).skip_map();
            let _ = Cbor::new(&bytes).text();
            let _ = Cbor::new(&bytes).bytes();
            let _ = Cbor::new(&bytes).negative();
        }
    }
}
