//! Amounts as the bank reads and prints them: decimal strings outside, minor units inside.

/// Reads a positive decimal amount in minor units of `currency`.
///
/// Only digits and one point: no sign, no exponent, no spaces, no leading zero before another
/// digit, at most the currency's fraction digits. The error is a sentence for the caller.
pub(super) fn parse(text: &str, currency: &str) -> Result<i64, String> {
    let bad = || format!("amount `{text}` is not a positive decimal amount in {currency}");
    let digits = fraction_digits(currency);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let has_point = text.contains('.');
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let shape_ok = !whole.is_empty()
        && (whole == "0" || !whole.starts_with('0'))
        && has_point != fraction.is_empty()
        && fraction.len() <= digits
        && whole.len() + digits <= MOST_DIGITS
        && all_digits(whole)
        && all_digits(fraction);
    if !shape_ok {
        return Err(bad());
    }
    let minor: i64 = format!("{whole}{fraction:0<digits$}").parse().map_err(|_| bad())?;
    if minor > 0 { Ok(minor) } else { Err(bad()) }
}

/// Prints minor units with exactly the currency's fraction digits.
pub(super) fn print(minor: i64, currency: &str) -> String {
    let digits = fraction_digits(currency);
    if digits == 0 {
        return minor.to_string();
    }
    let sign = if minor < 0 { "-" } else { "" };
    let padded = format!("{:0>width$}", minor.unsigned_abs(), width = digits + 1);
    let (whole, fraction) = padded.split_at(padded.len() - digits);
    format!("{sign}{whole}.{fraction}")
}

/// ISO 4217's exceptions that a test may want; everything else has cents.
fn fraction_digits(currency: &str) -> usize {
    match currency {
        "JPY" | "KRW" | "CLP" | "VND" | "ISK" => 0,
        "BHD" | "KWD" | "OMR" | "TND" | "JOD" => 3,
        _ => 2,
    }
}

/// Eighteen digits always fit an `i64`.
const MOST_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::{parse, print};

    #[test]
    fn amounts_read_and_print_in_the_currencys_digits() {
        for (text, currency, minor, printed) in [
            ("1.5", "USD", 150, "1.50"),
            ("0.01", "USD", 1, "0.01"),
            ("1200", "USD", 120_000, "1200.00"),
            ("1200", "JPY", 1200, "1200"),
            ("0.005", "KWD", 5, "0.005"),
            ("9999999999999999.99", "USD", 999_999_999_999_999_999, "9999999999999999.99"),
        ] {
            assert_eq!(parse(text, currency), Ok(minor), "{text} {currency}");
            assert_eq!(print(minor, currency), printed);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "0",
            "0.00",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1e3",
            "1.",
            ".5",
            "1.005",
            "01",
            "1,00",
            "1.0.0",
            "NaN",
            "١",
            "99999999999999999",
            "1.-1",
        ] {
            assert!(parse(text, "USD").is_err(), "`{text}` was accepted");
        }
        assert!(parse("1.5", "JPY").is_err());
    }
}
