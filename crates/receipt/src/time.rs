use std::fmt;

use crate::Error;

/// A moment in UTC with millisecond precision, in the one spelling that receipts use:
/// `YYYY-MM-DDTHH:MM:SS.mmmZ`.
///
/// One spelling means that the order of the text is the order of time. A leap second (`:60`) is refused:
/// it has no Unix time and would sort between two moments that do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp([u8; LENGTH]);

const LENGTH: usize = 24;
const MILLIS_PER_DAY: u64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z, the last moment that four digits of year can name.
const LAST_MILLI: u64 = 253_402_300_799_999;

impl Timestamp {
    /// Reads the one accepted spelling.
    ///
    /// # Errors
    /// [`Error::Timestamp`] for any other spelling and for days and hours that do not exist.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::read(text.as_bytes()).ok_or_else(|| Error::Timestamp(text.to_owned()))
    }

    /// The moment `millis` after the Unix epoch; what lies beyond the year 9999 becomes its last millisecond.
    #[must_use]
    pub fn from_unix_millis(millis: u64) -> Self {
        let millis = millis.min(LAST_MILLI);
        let (year, month, day) = civil_from_days(millis / MILLIS_PER_DAY);
        let in_day = millis % MILLIS_PER_DAY;
        let mut text = *b"0000-00-00T00:00:00.000Z";
        write_digits(&mut text[0..4], year);
        write_digits(&mut text[5..7], month);
        write_digits(&mut text[8..10], day);
        write_digits(&mut text[11..13], in_day / 3_600_000);
        write_digits(&mut text[14..16], in_day / 60_000 % 60);
        write_digits(&mut text[17..19], in_day / 1000 % 60);
        write_digits(&mut text[20..23], in_day % 1000);
        Self(text)
    }

    /// Milliseconds after the Unix epoch; a moment before it becomes the epoch.
    #[must_use]
    pub fn unix_millis(&self) -> u64 {
        let number = |from: usize, to: usize| {
            self.0[from..to].iter().fold(0, |sum, byte| sum * 10 + u64::from(byte.wrapping_sub(b'0')))
        };
        let in_day =
            number(11, 13) * 3_600_000 + number(14, 16) * 60_000 + number(17, 19) * 1000 + number(20, 23);
        days_from_civil(number(0, 4), number(5, 7), number(8, 10)) * MILLIS_PER_DAY + in_day
    }

    /// The text, as it stands in receipts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        #[expect(clippy::expect_used, reason = "both constructors write digits and ASCII punctuation only")]
        std::str::from_utf8(&self.0).expect("a timestamp is ASCII")
    }

    fn read(text: &[u8]) -> Option<Self> {
        let text: [u8; LENGTH] = text.try_into().ok()?;
        let number = |from: usize, to: usize| {
            text[from..to]
                .iter()
                .try_fold(0_u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
        };
        let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
        let spelled = punctuation.iter().all(|&(index, byte)| text[index] == byte);
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        number(20, 23)?;
        let exists = (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        (spelled && exists).then_some(Self(text))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        // The remainder is below ten, so nothing is lost.
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn days_in(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month and day of the day that many days after 1970-01-01. The year is made to start in March, so that
/// the leap day is its last and month lengths follow one linear rule.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let era = days / 146_097; // 400 years
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The inverse: days after 1970-01-01, none for a day before.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year.saturating_sub(1) } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_moments_are_spelled_right() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_777_248_000_000, "2026-04-27T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_unix_millis(millis).as_str(), text);
            assert_eq!(Timestamp::parse(text).unwrap().unix_millis(), millis.min(LAST_MILLI));
        }
    }

    #[test]
    fn every_day_is_read_back_and_later_days_sort_later() {
        let mut last = None;
        for day in 0..=LAST_MILLI / MILLIS_PER_DAY {
            let at = Timestamp::from_unix_millis(day * MILLIS_PER_DAY + day % MILLIS_PER_DAY);
            assert_eq!(Timestamp::parse(at.as_str()), Ok(at));
            assert_eq!(at.unix_millis(), day * MILLIS_PER_DAY + day % MILLIS_PER_DAY, "{at}");
            assert!(last < Some(at), "{at}");
            last = Some(at);
        }
    }

    #[test]
    fn other_spellings_and_impossible_days_are_refused() {
        for text in [
            "",
            "2026-04-27T12:00:00Z",
            "2026-04-27T12:00:00.00Z",
            "2026-04-27T12:00:00.000z",
            "2026-04-27t12:00:00.000Z",
            "2026-04-27T12:00:00.000+00:00",
            "2026-04-27 12:00:00.000Z",
            "2026-04-27T12:00:60.000Z",
            "2026-04-27T24:00:00.000Z",
            "2026-02-29T12:00:00.000Z",
            "1900-02-29T12:00:00.000Z",
            "2026-04-31T12:00:00.000Z",
            "2026-00-27T12:00:00.000Z",
            "2026-04-00T12:00:00.000Z",
            "+026-04-27T12:00:00.000Z",
            "2026-04-27T12:00:00,000Z",
            "٢٠٢٦-04-27T12:00:00Z",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }
}
