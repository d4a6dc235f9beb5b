//! Recent activity of one root principal with one archetype and currency: what "usual" is measured against.

/// How many recent amounts are kept: enough for a robust median, few enough to be read with every action.
const RECENT: usize = 64;

/// How many hour buckets are kept: one day.
const HOURS: usize = 24;

const HOUR_MS: i64 = 3_600_000;

/// First byte of the stored form; another layout gets another number.
const FORMAT: u8 = 1;

/// The last amounts and the sums of the last day. A small value that is read with every action, extended by
/// [`Series::push`] when one is admitted, and stored as bytes that only this module understands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series {
    /// Oldest first.
    recent: Vec<(i64, i64)>,
    /// Oldest first, hours strictly rising.
    hours: Vec<Hour>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hour {
    /// Hours since 1970.
    hour: i64,
    sum: i64,
    count: u64,
}

/// Stored bytes that are no series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored series cannot be read")]
pub struct Unreadable;

impl Series {
    /// Adds an action of `minor` units at `at_ms` (Unix milliseconds). A clock that went back counts as the newest
    /// hour, so that turning a clock never empties the sums.
    pub fn push(&mut self, at_ms: i64, minor: i64) {
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((at_ms, minor));

        let hour = at_ms.div_euclid(HOUR_MS);
        match self.hours.last_mut() {
            Some(last) if last.hour >= hour => {
                last.sum = last.sum.saturating_add(minor);
                last.count = last.count.saturating_add(1);
            }
            _ => self.hours.push(Hour { hour, sum: minor, count: 1 }),
        }
        self.hours.retain(|bucket| bucket.hour > hour - HOURS as i64);
    }

    /// The series without an action that was pushed with just these: what is judged again is not held against itself.
    #[must_use]
    pub fn without(&self, at_ms: i64, minor: i64) -> Series {
        let mut series = self.clone();
        if let Some(at) = series.recent.iter().rposition(|it| *it == (at_ms, minor)) {
            series.recent.remove(at);
        }
        let hour = at_ms.div_euclid(HOUR_MS);
        if let Some(bucket) = series.hours.iter_mut().find(|bucket| bucket.hour == hour && bucket.count > 0) {
            bucket.sum = bucket.sum.saturating_sub(minor);
            bucket.count -= 1;
        }
        series
    }

    /// Recent amounts in minor units, oldest first.
    pub fn amounts(&self) -> impl ExactSizeIterator<Item = i64> + '_ {
        self.recent.iter().map(|(_, minor)| *minor)
    }

    /// Sum and count of the clock hour of `now_ms`.
    pub fn hour(&self, now_ms: i64) -> (i64, u64) {
        let hour = now_ms.div_euclid(HOUR_MS);
        self.since(hour)
    }

    /// Sum and count of the clock hour of `now_ms` and the twenty-three before it.
    pub fn day(&self, now_ms: i64) -> (i64, u64) {
        let hour = now_ms.div_euclid(HOUR_MS);
        self.since(hour - HOURS as i64 + 1)
    }

    fn since(&self, first: i64) -> (i64, u64) {
        self.hours.iter().filter(|bucket| bucket.hour >= first).fold((0, 0), |(sum, count), bucket| {
            (i64::saturating_add(sum, bucket.sum), u64::saturating_add(count, bucket.count))
        })
    }

    /// The stored form: at most about a kilobyte, usually a few hundred bytes, because times and hours are written as
    /// distances.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.recent.len() * 8 + self.hours.len() * 8);
        out.push(FORMAT);
        write(&mut out, self.recent.len() as u64);
        let mut before = 0;
        for (at, minor) in &self.recent {
            write(&mut out, zigzag(at.wrapping_sub(before)));
            write(&mut out, zigzag(*minor));
            before = *at;
        }
        write(&mut out, self.hours.len() as u64);
        let mut before = 0;
        for bucket in &self.hours {
            write(&mut out, zigzag(bucket.hour.wrapping_sub(before)));
            write(&mut out, zigzag(bucket.sum));
            write(&mut out, bucket.count);
            before = bucket.hour;
        }
        out
    }

    /// Reads what [`Series::to_bytes`] wrote; no bytes at all are an empty series.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Series, Unreadable> {
        let Some((format, mut rest)) = bytes.split_first() else { return Ok(Series::default()) };
        if *format != FORMAT {
            return Err(Unreadable);
        }
        let mut series = Series::default();
        let mut before = 0i64;
        for _ in 0..count(&mut rest, RECENT)? {
            before = before.wrapping_add(unzigzag(read(&mut rest)?));
            series.recent.push((before, unzigzag(read(&mut rest)?)));
        }
        let mut before = 0i64;
        for _ in 0..count(&mut rest, HOURS)? {
            before = before.wrapping_add(unzigzag(read(&mut rest)?));
            let (sum, count) = (unzigzag(read(&mut rest)?), read(&mut rest)?);
            series.hours.push(Hour { hour: before, sum, count });
        }
        match rest.is_empty() {
            true => Ok(series),
            false => Err(Unreadable),
        }
    }
}

fn count(rest: &mut &[u8], most: usize) -> Result<usize, Unreadable> {
    usize::try_from(read(rest)?).ok().filter(|count| *count <= most).ok_or(Unreadable)
}

/// Seven bits a byte, lowest first, the top bit says that more follow.
fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or(Unreadable)?;
        *rest = tail;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Unreadable)
}

/// Small distances of either sign become small numbers.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_series_is_read_back_as_it_was(pushes in prop::collection::vec((any::<i64>(), any::<i64>()), 0..100)) {
            let mut series = Series::default();
            for (at, minor) in pushes {
                series.push(at / 4, minor);
            }
            prop_assert_eq!(Series::from_bytes(&series.to_bytes()).unwrap(), series);
        }

        #[test]
        fn strange_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Series::from_bytes(&bytes);
        }
    }

    #[test]
    fn sums_are_of_the_clock_hour_and_the_last_day() {
        let mut series = Series::default();
        for hour in 0..30 {
            series.push(hour * HOUR_MS, 10);
        }
        assert_eq!(series.hour(29 * HOUR_MS + 5), (10, 1));
        assert_eq!(series.day(29 * HOUR_MS), (240, 24));
        assert_eq!(series.hour(30 * HOUR_MS), (0, 0));
        assert_eq!(series.amounts().len(), 30);
    }

    #[test]
    fn what_is_taken_out_leaves_the_series_as_if_it_had_never_been_in() {
        let mut series = Series::default();
        series.push(100 * HOUR_MS, 7);
        let before = series.clone();
        series.push(100 * HOUR_MS + 1, 5);
        let mut later = series.clone();
        later.push(101 * HOUR_MS, 9);
        assert_eq!(series.without(100 * HOUR_MS + 1, 5), before);
        assert_eq!(later.without(100 * HOUR_MS + 1, 5).day(101 * HOUR_MS), (16, 2));
        assert_eq!(later.without(100 * HOUR_MS + 1, 5).amounts().collect::<Vec<_>>(), [7, 9]);
    }

    #[test]
    fn a_clock_that_went_back_empties_nothing() {
        let mut series = Series::default();
        series.push(100 * HOUR_MS, 7);
        series.push(10 * HOUR_MS, 5);
        assert_eq!(series.hour(100 * HOUR_MS), (12, 2));
    }

    #[test]
    fn a_usual_series_is_small() {
        let mut series = Series::default();
        for n in 0..200 {
            series.push(1_800_000_000_000 + n * 600_000, 12_345);
        }
        assert_eq!(series.amounts().len(), 64);
        assert!(series.to_bytes().len() < 700, "{}", series.to_bytes().len());
    }
}
