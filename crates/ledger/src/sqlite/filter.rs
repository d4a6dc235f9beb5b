//! Numbers that are certainly not in an index, without looking.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A Bloom filter of fixed size over hashed numbers. It never says no to a number that was added; how often it says
/// maybe to one that was not grows with what it holds, and then the index is asked.
#[derive(Debug)]
pub(crate) struct Filter {
    words: Box<[AtomicU64]>,
    ready: AtomicBool,
}

/// The kinds of numbers share one filter without meeting.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Slot = 0x5157_a11e,
    Effect = 0x0eff_ec70,
    Seen = 0x05ee_a000,
    Address = 0x0add_4e55,
    Member = 0x0c1a_57e4,
    Delivery = 0x0de1_14e5,
}

/// Four bits for each number: a filter of 16 MiB that holds ten million is wrong once in a hundred times.
const PROBES: u32 = 4;

impl Filter {
    /// An empty filter that says maybe to everything until it is [`complete`](Filter::complete).
    pub(crate) fn new(bytes: usize) -> Filter {
        let words = (bytes / 8).next_power_of_two().max(LINE);
        Filter { words: (0..words).map(|_| AtomicU64::new(0)).collect(), ready: AtomicBool::new(false) }
    }

    /// Everything that was stored before has been added.
    pub(crate) fn complete(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(crate) fn add(&self, kind: Kind, number: i64) {
        for (word, bit) in self.probes(kind, number) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(crate) fn may_hold(&self, kind: Kind, number: i64) -> bool {
        !self.ready.load(Ordering::Acquire)
            || self.probes(kind, number).all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// All probes of a number fall into one line of the processor's cache. The numbers come from SHA-256 and HMAC;
    /// the multiplication keeps the kinds apart.
    fn probes(&self, kind: Kind, number: i64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let mixed = (number as u64 ^ kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = ((mixed >> 36) as usize * LINE) & (self.words.len() - 1);
        (0..PROBES).map(move |probe| {
            let place = (mixed >> (probe * 9)) as usize;
            (&self.words[line + (place >> 6) % LINE], 1_u64 << (place & 63))
        })
    }
}

/// Words of a cache line.
const LINE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_never_denied_and_little_else_is_believed() {
        let filter = Filter::new(1 << 17);
        filter.complete();
        let number = |n: i64| n.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(29);
        for n in 0..100_000 {
            filter.add(Kind::Slot, number(n));
        }
        assert!((0..100_000).all(|n| filter.may_hold(Kind::Slot, number(n))));
        let wrong = (100_000..200_000).filter(|n| filter.may_hold(Kind::Slot, number(*n))).count();
        let other = (0..100_000).filter(|n| filter.may_hold(Kind::Effect, number(*n))).count();
        assert!(wrong < 3000 && other < 3000, "{wrong} and {other} of 100000 believed");
    }

    #[test]
    fn before_it_is_complete_it_denies_nothing() {
        assert!(Filter::new(64).may_hold(Kind::Seen, 7));
    }
}
