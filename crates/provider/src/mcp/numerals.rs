//! Numbers in a text of JSON for which there is no place in a value.

use std::borrow::Cow;

/// The text with others in the place of those of its numbers for which there is one.
pub(super) fn replaced<'a>(text: &'a str, other: impl Fn(&str) -> Option<String>) -> Cow<'a, str> {
    let (bytes, mut at, mut copied) = (text.as_bytes(), 0, 0);
    let mut out = String::new();
    while let Some(byte) = bytes.get(at) {
        let end = match byte {
            b'"' => end_of_string(bytes, at),
            b'-' | b'0'..=b'9' => at + bytes[at..].iter().take_while(|it| is_of_number(**it)).count(),
            _ => at + 1,
        };
        if matches!(byte, b'-' | b'0'..=b'9')
            && let Some(new) = other(&text[at..end])
        {
            out.push_str(&text[copied..at]);
            out.push_str(&new);
            copied = end;
        }
        at = end;
    }
    if copied == 0 {
        return text.into();
    }
    out.push_str(&text[copied..]);
    out.into()
}

/// The number that is next to one beyond all that we count with.
pub(super) fn within_reach(number: &str) -> Option<String> {
    let is_beyond = number.parse::<f64>().is_ok_and(f64::is_infinite);
    is_beyond.then(|| format!("{:e}", if number.starts_with('-') { f64::MIN } else { f64::MAX }))
}

/// The digits of a number that would lose some, in an object, so that no text is taken for it.
pub(super) fn in_full(number: &str) -> Option<String> {
    (!is_exact(number)).then(|| format!("{{\"io.countersign/number\":\"{number}\"}}"))
}

/// Whether it is no other number once it is read.
fn is_exact(number: &str) -> bool {
    let Ok(read) = number.parse::<f64>() else { return false };
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_start_matches('0').trim_end_matches('0').len();
    let is_short = significant <= MOST_DIGITS && read.is_finite() && (read != 0.0 || significant == 0);
    let is_whole = number.parse().is_ok_and(|whole: i64| whole.abs() <= action::json::MAX_INTEGER);
    is_short || is_whole || read.to_string() == number
}

/// So many digits of any number are kept.
const MOST_DIGITS: usize = 15;

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')
}

/// Behind the quotation mark that ends it.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_wherever_they_stand_and_nothing_else_is_one() {
        let found = |text: &str| replaced(text, |number| Some(format!("<{number}>"))).into_owned();
        assert_eq!(
            found(r#"{"a1":[-1,2.50,3e+4],"b":"5 \"6\\","c":true}"#),
            r#"{"a1":[<-1>,<2.50>,<3e+4>],"b":"5 \"6\\","c":true}"#
        );
        assert_eq!(found("7"), "<7>");
        assert_eq!(found("\"7"), "\"7", "what is no JSON has an end all the same");
    }

    #[test]
    fn what_is_beyond_reach_is_the_largest_there_is() {
        for (beyond, within) in [("1e400", f64::MAX), ("-1E400", f64::MIN)] {
            assert_eq!(within_reach(beyond).map(|it| it.parse()), Some(Ok(within)));
        }
        assert_eq!(["1e308", "0", "-18446744073709551617"].map(within_reach), [None, None, None]);
    }

    #[test]
    fn only_what_would_become_another_number_is_written_in_full() {
        for exact in ["0", "-1", "1.10", "1e20", "0.1", "9007199254740991", "0.30000000000000004"] {
            assert_eq!(in_full(exact), None, "{exact}");
        }
        for other in ["9007199254740993", "18446744073709551615", "1e400", "0.12345678901234567890"] {
            assert_eq!(in_full(other), Some(format!(r#"{{"io.countersign/number":"{other}"}}"#)));
        }
    }
}
