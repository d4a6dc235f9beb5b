//! Amounts of money: whole minor units of one currency, read from decimal strings and never from floats.

use std::fmt;

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not digits with at most one point between them.
    #[error("not a decimal number such as `12.50`")]
    NotDecimal,
    /// More than eighteen digits in canonical form.
    #[error("more than 18 digits")]
    TooLong,
    /// Finer than the currency's smallest unit.
    #[error("{currency} has {digits} fraction digits and no more")]
    TooFine {
        /// The currency asked for.
        currency: Currency,
        /// How many fraction digits it has.
        digits: u8,
    },
}

/// As many digits as an `i64` always holds.
const MAX_DIGITS: usize = 18;

/// An amount of money, zero or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

impl Money {
    /// An amount in minor units (cents for USD); `None` if it is negative.
    pub fn new(minor: i64, currency: Currency) -> Option<Money> {
        (minor >= 0).then_some(Money { minor, currency })
    }

    /// Reads a decimal string: no sign, no leading zeros, no more fraction digits than the currency has, and in
    /// canonical form at most 18 digits.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str, currency: Currency) -> Result<Money, Error> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(Error::NotDecimal),
            Some(parts) => parts,
            None => (text, ""),
        };
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty()
            || !digits(whole)
            || !digits(fraction)
            || (whole.len() > 1 && whole.starts_with('0'))
        {
            return Err(Error::NotDecimal);
        }
        if fraction.len() > usize::from(currency.digits) {
            return Err(Error::TooFine { currency, digits: currency.digits });
        }
        if whole.len() + usize::from(currency.digits) > MAX_DIGITS {
            return Err(Error::TooLong);
        }
        let padding = (fraction.len()..usize::from(currency.digits)).map(|_| b'0');
        let digits = whole.bytes().chain(fraction.bytes()).chain(padding);
        let minor = digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Ok(Money { minor, currency })
    }

    /// The amount in the currency's smallest unit; never negative.
    pub fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    pub fn currency(self) -> Currency {
        self.currency
    }

    /// Whether the amount is nothing at all.
    pub fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// The sum; `None` if the currencies differ or it does not fit.
    pub fn checked_add(self, other: Money) -> Option<Money> {
        let minor = self.same(other)?.minor.checked_add(other.minor)?;
        Some(Money { minor, ..self })
    }

    /// What is left; `None` if the currencies differ or `other` is more.
    pub fn checked_sub(self, other: Money) -> Option<Money> {
        Money::new(self.same(other)?.minor - other.minor, self.currency)
    }

    /// How two amounts compare; `None` if the currencies differ.
    pub fn compare(self, other: Money) -> Option<std::cmp::Ordering> {
        Some(self.same(other)?.minor.cmp(&other.minor))
    }

    fn same(self, other: Money) -> Option<Money> {
        (self.currency == other.currency).then_some(self)
    }
}

impl fmt::Display for Money {
    /// The canonical decimal: exactly as many fraction digits as the currency has, without its code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.currency.digits);
        if digits == 0 {
            return write!(f, "{}", self.minor);
        }
        let unit = 10i64.pow(u32::from(self.currency.digits));
        write!(f, "{}.{:0digits$}", self.minor / unit, self.minor % unit)
    }
}

/// A currency of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: &'static str,
    digits: u8,
}

impl Currency {
    /// The currency with this three-letter code, upper case.
    pub fn of(code: &str) -> Option<Currency> {
        let known = |(digits, list): &(u8, &'static str)| {
            Some((*digits, list.split(' ').find(|known| *known == code)?))
        };
        let (digits, code) = DIGITS.iter().find_map(known)?;
        Some(Currency { code, digits })
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.code
    }

    /// How many fraction digits an amount has.
    pub fn digits(self) -> u8 {
        self.digits
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// ISO 4217 list one: currencies in use, by the digits of their minor unit, the commonest group first. Metals,
/// bond units, test codes and others without a minor unit are not money that an agent can move.
const DIGITS: [(u8, &str); 4] = [
    (
        2,
        "USD EUR GBP AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF \
CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB FJD FKP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD \
KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK \
NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS \
TMT TOP TRY TTD TWD TZS UAH UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
    ),
    (0, "JPY BIF CLP DJF GNF ISK KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"),
    (3, "KWD BHD IQD JOD LYD OMR TND"),
    (4, "CLF UYW"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str, code: &str) -> Result<(i64, String), Error> {
        Money::parse(text, Currency::of(code).unwrap()).map(|money| (money.minor(), money.to_string()))
    }

    #[test]
    fn an_amount_has_one_canonical_form() {
        for (text, code, minor, canonical) in [
            ("1.5", "USD", 150, "1.50"),
            ("1.50", "USD", 150, "1.50"),
            ("0.01", "USD", 1, "0.01"),
            ("0", "USD", 0, "0.00"),
            ("500", "JPY", 500, "500"),
            ("1.234", "KWD", 1234, "1.234"),
            ("2.5", "CLF", 25000, "2.5000"),
            ("9999999999999999.99", "USD", 999_999_999_999_999_999, "9999999999999999.99"),
        ] {
            assert_eq!(read(text, code), Ok((minor, canonical.into())), "{text} {code}");
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused() {
        for text in [
            "", ".", "1.", ".5", "-1", "+1", "01", "00", "1e3", "1,5", "1 ", " 1", "1.2.3", "１", "٣", "0x1",
            "NaN",
        ] {
            assert_eq!(read(text, "USD"), Err(Error::NotDecimal), "{text:?}");
        }
        assert_eq!(read("1234567890123456789", "JPY"), Err(Error::TooLong));
        assert_eq!(read("999999999999999999", "USD"), Err(Error::TooLong));
        for (text, code) in [("1.500", "USD"), ("1.0", "JPY"), ("0.0001", "KWD")] {
            assert!(matches!(read(text, code), Err(Error::TooFine { .. })), "{text} {code}");
        }
    }

    #[test]
    fn currencies_do_not_mix() {
        let money = |minor, code| Money::new(minor, Currency::of(code).unwrap()).unwrap();
        assert_eq!(money(150, "USD").checked_add(money(1, "EUR")), None);
        assert_eq!(money(150, "USD").compare(money(150, "EUR")), None);
        assert_eq!(money(150, "USD").checked_add(money(50, "USD")), Some(money(200, "USD")));
        assert_eq!(money(150, "USD").checked_sub(money(151, "USD")), None);
        assert_eq!(money(i64::MAX, "USD").checked_add(money(1, "USD")), None);
        assert_eq!(Money::new(-1, Currency::of("USD").unwrap()), None);
    }

    #[test]
    fn the_table_holds_each_code_once() {
        let mut codes: Vec<&str> = DIGITS.iter().flat_map(|(_, list)| list.split(' ')).collect();
        assert!(codes.iter().all(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase())));
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
        for wrong in ["", "US", "USDX", "usd", "XXX", "XAU", "D E", "SD "] {
            assert_eq!(Currency::of(wrong), None, "{wrong}");
        }
    }
}
