//! Payloads, replies and receipts as they lie in a store: compressed, because what a commit costs is what it writes.
//!
//! Rows are much alike, so each is packed against a dictionary of what rows look like (`packed/rows-1.txt`), which is
//! part of the format: it never changes, another would get another number. The first byte says how a value is stored.
//! Text begins with neither number, so values from before there was packing are read as they are; an empty value is
//! one that was erased, and stays empty. Nothing else unpacks to nothing: what does was not stored by us, and must not pass
//! for erased.

use std::cell::RefCell;
use std::sync::LazyLock;

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::{CParameter, DictAttachPref, get_frame_content_size};

use crate::Outcome;
use crate::admit::{Gate, Item};
use crate::intake::Close;

const PLAIN: u8 = 0;
const ROWS_1: u8 = 1;

static ROWS: &[u8] = include_bytes!("packed/rows-1.txt");

/// Quicker levels leave more to write, better ones take longer than the writing they spare.
const LEVEL: i32 = -3;

/// Far above what is ever packed; a damaged length must not ask for all memory.
const LARGEST: u64 = 64 * 1024 * 1024;

static ENCODER: LazyLock<EncoderDictionary<'static>> = LazyLock::new(|| EncoderDictionary::copy(ROWS, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(ROWS));

thread_local! {
    static PACKER: RefCell<Option<(Compressor<'static>, Vec<u8>)>> =
        RefCell::new(packer().ok().map(|packer| (packer, Vec::new())));
    static UNPACKER: RefCell<Option<Decompressor<'static>>> =
        RefCell::new(Decompressor::with_prepared_dictionary(&DECODER).ok());
}

/// Packs what an item brings. Done before it comes to the one writer.
pub(crate) fn item(item: &mut Item) {
    pack(&mut item.intent.payload);
    if let Gate::Refuse { outcome: refused, .. } = &mut item.gate {
        outcome(refused);
    }
}

/// The same for an outcome, whose digests are taken already.
pub(crate) fn outcome(outcome: &mut Outcome) {
    pack(&mut outcome.payload);
    if let Some(reply) = &mut outcome.reply {
        pack(&mut reply.body);
    }
    if let Some(receipt) = &mut outcome.receipt {
        pack(&mut receipt.document);
    }
}

/// The same for a settlement or amendment.
pub(crate) fn close(close: &mut Close) {
    outcome(&mut close.settlement.outcome);
    close.settlement.overage.iter_mut().for_each(outcome);
}

/// The same for a payload that replaces the one of an intent.
pub(crate) fn payload(payload: &mut Vec<u8>) {
    pack(payload);
}

fn pack(value: &mut Vec<u8>) {
    if !value.is_empty() {
        *value = compressed(value).unwrap_or_else(|| [&[PLAIN], value.as_slice()].concat());
    }
}

fn packer() -> std::io::Result<Compressor<'static>> {
    let mut packer = Compressor::with_prepared_dictionary(&ENCODER)?;
    // The row of a cycle is larger than what zstd looks up in a dictionary by itself: it would copy that each time.
    packer.set_parameter(CParameter::ForceAttachDict(DictAttachPref::ForceAttach))?;
    Ok(packer)
}

fn compressed(value: &[u8]) -> Option<Vec<u8>> {
    PACKER.with_borrow_mut(|packer| {
        let (packer, room) = packer.as_mut()?;
        room.clear();
        room.reserve(zstd::zstd_safe::compress_bound(value.len()));
        let length = packer.compress_to_buffer(value, room).ok()?;
        // A copy, as large as it has to be: it waits for the writer.
        let mut packed = Vec::with_capacity(1 + length);
        packed.push(ROWS_1);
        packed.extend_from_slice(room);
        Some(packed)
    })
}

/// What a payload, reply or receipt in a store was before it was packed, for whoever looks into it beside us;
/// `None` if it is damaged.
pub fn unpack(stored: &[u8]) -> Option<Vec<u8>> {
    let value = match stored.split_first() {
        Some((&PLAIN, value)) => Some(value.to_vec()),
        Some((&ROWS_1, frame)) => {
            let length = get_frame_content_size(frame).ok()?.filter(|length| *length <= LARGEST)?;
            UNPACKER.with_borrow_mut(|unpacker| {
                unpacker.as_mut()?.decompress(frame, usize::try_from(length).ok()?).ok()
            })
        }
        _ => Some(stored.to_vec()),
    };
    value.filter(|value| stored.is_empty() || !value.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    /// A receipt of 300 bytes or so, packed by the first version that packed.
    const PACKED: &str = include_str!("../tests/golden/packed.hex");
    const UNPACKED: &str = include_str!("../tests/golden/packed.txt");

    fn packed(value: &[u8]) -> Vec<u8> {
        let mut stored = value.to_vec();
        pack(&mut stored);
        stored
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(value: Vec<u8>) {
            prop_assert_eq!(unpack(&packed(&value)).unwrap(), value);
        }

        #[test]
        fn damage_is_an_error_or_other_bytes_and_no_panic(mut stored: Vec<u8>) {
            unpack(&stored);
            stored.insert(0, ROWS_1);
            unpack(&stored);
        }
    }

    #[test]
    fn rows_like_those_of_the_dictionary_shrink() {
        for row in ROWS.split(|byte| *byte == b'\n').filter(|row| row.len() > 1000) {
            let stored = packed(row);
            assert!(stored.len() * 10 < row.len(), "{} of {}", stored.len(), row.len());
        }
    }

    #[test]
    fn what_was_stored_before_is_read_as_it_is_and_what_is_erased_stays_empty() {
        assert_eq!(unpack(b"{\"v\":1}").unwrap(), b"{\"v\":1}");
        assert!(packed(b"").is_empty());
        assert!(unpack(b"").unwrap().is_empty());
    }

    #[test]
    fn nothing_but_what_is_empty_passes_for_erased() {
        let frame = compressed(b"").unwrap();
        for stored in [&[PLAIN][..], &[ROWS_1], &frame] {
            assert_eq!(unpack(stored), None, "{stored:?}");
        }
    }

    #[test]
    fn values_packed_by_earlier_versions_are_read() {
        let stored = hex::decode(PACKED.trim()).unwrap();
        assert_eq!(String::from_utf8(unpack(&stored).unwrap()).unwrap(), UNPACKED);
        assert_eq!(
            hex::encode(Sha256::digest(ROWS)),
            "8ebdf4960a7f9129154bcaddaae36b6a4928558538b0a21026520edbf90bf12c",
            "the dictionary is part of the format"
        );
    }
}
