//! Times as they are written to us: RFC 3339, and nothing that only resembles it.

use jiff::civil;

/// A text that is no time we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotATime {
    /// It is spelled otherwise, or there is no such day or hour.
    #[error("is not an RFC 3339 time")]
    Otherwise,
    /// It would be the same moment as the second after it.
    #[error("names a second 60, which has no Unix time")]
    LeapSecond,
}

/// Unix milliseconds of an RFC 3339 time. What is finer than that is cut off. A blank may stand for the `T`, as that RFC
/// permits. Any day of the years 0000 to 9999 will do.
///
/// # Errors
/// It is none, or a leap second.
pub fn unix_millis(text: &str) -> Result<i64, NotATime> {
    let (at, second) = read(text.as_bytes()).ok_or(NotATime::Otherwise)?;
    if second == 60 { Err(NotATime::LeapSecond) } else { Ok(at + second * 1000) }
}

/// The milliseconds without the second, and the second.
fn read(text: &[u8]) -> Option<(i64, i64)> {
    let (written, rest) = text.split_at_checked(b"2026-05-05T21:05:00".len())?;
    let punctuation = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let spelled = punctuation.iter().all(|&(at, byte)| written[at] == byte);
    if !spelled || !matches!(written[10], b'T' | b't' | b' ') {
        return None;
    }
    let two = |from: usize| number(&written[from..from + 2]);
    let year = i16::try_from(number(&written[..4])?).ok()?;
    let date = civil::Date::new(year, two(5)?.try_into().ok()?, two(8)?.try_into().ok()?).ok()?;
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    let days = date.duration_since(civil::date(1970, 1, 1)).as_hours() / 24;
    let (millis, offset) = fraction(rest)?;
    let minutes = days * 24 * 60 + hour * 60 + minute - minutes_east(offset)?;
    (hour < 24 && minute < 60 && second <= 60).then_some((minutes * 60_000 + millis, second))
}

/// The milliseconds after the second, and what follows them.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let digit = |at: usize| if at < end { i64::from(digits[at] - b'0') } else { 0 };
    (end > 0).then(|| (digit(0) * 100 + digit(1) * 10 + digit(2), &digits[end..]))
}

fn minutes_east(offset: &[u8]) -> Option<i64> {
    let (sign, hour, minute) = match offset {
        b"Z" | b"z" => return Some(0),
        [sign, h1, h2, b':', m1, m2] => (sign, number(&[*h1, *h2])?, number(&[*m1, *m2])?),
        _ => return None,
    };
    let minutes = (hour < 24 && minute < 60).then_some(hour * 60 + minute)?;
    match sign {
        b'+' => Some(minutes),
        b'-' => Some(-minutes),
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    let add = |sum: i64, digit: &u8| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'));
    digits.iter().try_fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_rfc_is_read() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:01.5z", 1500),
            ("1970-01-01 00:00:00.0009Z", 0),
            ("1970-01-01T01:00:00.123456789012+01:00", 123),
            ("1969-12-31T23:30:00-00:30", 0),
            ("1970-01-01T00:00:00-00:00", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(unix_millis(text), Ok(millis), "{text}");
        }
    }

    #[test]
    fn what_only_resembles_it_is_not() {
        for text in [
            "",
            "2026-05-05",
            "2026-05-05T21:05Z",
            "2026-05-05T21Z",
            "20260505T210500Z",
            "2026-05-05T21:05:00",
            "2026-05-05T21:05:00,5Z",
            "2026-05-05T21:05:00.Z",
            "2026-05-05T21:05:00.5",
            "2026-05-05T21:05:00+0100",
            "2026-05-05T21:05:00+01",
            "2026-05-05T21:05:00+24:00",
            "2026-05-05T21:05:00+01:00[Europe/Berlin]",
            "2026-05-05T21:05:00Z ",
            "2026-05-05_21:05:00Z",
            "2026-05-05T24:00:00Z",
            "2026-05-05T21:60:00Z",
            "2026-05-05T21:05:61Z",
            "2026-02-29T21:05:00Z",
            "2026-00-05T21:05:00Z",
            "+026-05-05T21:05:00Z",
            "-000001-05-05T21:05:00Z",
            "٢٠٢٦-05-05T21:05:00Z",
        ] {
            assert_eq!(unix_millis(text), Err(NotATime::Otherwise), "{text}");
        }
    }

    #[test]
    fn a_leap_second_is_called_one() {
        for text in ["2016-12-31T23:59:60Z", "2026-05-05T00:00:60Z", "2017-01-01T00:59:60.5+01:00"] {
            assert_eq!(unix_millis(text), Err(NotATime::LeapSecond), "{text}");
        }
    }
}
