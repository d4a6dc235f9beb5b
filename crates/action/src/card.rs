//! Payment card data does not belong here: whoever stores it answers for it. Best effort, by shape.

use crate::archetype::Member;
use crate::json;
use crate::refusal::{Refusal, RefusalKind};
use serde_json::Value;
use std::collections::BTreeMap;

/// Refuses card numbers and card verification values anywhere in an object, but for its exempt members.
pub(crate) fn refuse(value: &Value, field: &str, exempt: &[Member]) -> Result<(), Refusal> {
    let Value::Object(members) = value else { return Ok(()) };
    let mut path = Vec::new();
    for (name, member) in
        members.iter().filter(|(name, _)| !exempt.iter().any(|m| m.not_card && m.name == **name))
    {
        if let Some(found) = find_in_member(name, member, &mut path) {
            return Err(refusal(field, &path, found));
        }
    }
    Ok(())
}

/// Refuses card data in a flat map of strings.
pub(crate) fn refuse_in_strings(members: &BTreeMap<String, Value>, field: &str) -> Result<(), Refusal> {
    for (name, member) in members {
        let mut path = Vec::new();
        if let Some(found) = find_in_member(name, member, &mut path) {
            return Err(refusal(field, &path, found));
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Found {
    Number,
    /// The name itself is the number, so that not even the name may be repeated.
    NumberAsName,
    Verification,
}

fn refusal(field: &str, path: &[String], found: Found) -> Refusal {
    let mut field = field.to_owned();
    // The path was noted from the inside out.
    let shown = path.iter().rev().take(path.len() - usize::from(matches!(found, Found::NumberAsName)));
    shown.for_each(|segment| json::push_segment(&mut field, segment));
    let message = match found {
        Found::Number | Found::NumberAsName => "this looks like a payment card number",
        Found::Verification => "this looks like a card verification value",
    };
    Refusal {
        kind: RefusalKind::CardData,
        field: Some(field),
        message: message.into(),
        hint: Some("send the payment provider's token instead".into()),
        others: Vec::new(),
    }
}

fn find_in_member(name: &str, value: &Value, path: &mut Vec<String>) -> Option<Found> {
    let found = if holds_card_number(name) {
        Some(Found::NumberAsName)
    } else if is_verification_name(name) && !value.is_null() {
        Some(Found::Verification)
    } else {
        find(value, path)
    };
    found.inspect(|_| path.push(name.to_owned()))
}

fn find(value: &Value, path: &mut Vec<String>) -> Option<Found> {
    match value {
        Value::String(text) => holds_card_number(text).then_some(Found::Number),
        Value::Number(number) => {
            let digits = number.as_u64().filter(|n| *n >= 1_000_000_000_000)?;
            holds_card_number(&digits.to_string()).then_some(Found::Number)
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| find(item, path).inspect(|_| path.push(index.to_string()))),
        Value::Object(members) => {
            members.iter().find_map(|(name, member)| find_in_member(name, member, path))
        }
        Value::Null | Value::Bool(_) => None,
    }
}

fn is_verification_name(name: &str) -> bool {
    if name.len() < 3 || !name.bytes().any(|b| matches!(b, b'v' | b'V' | b's' | b'S')) {
        return false;
    }
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    ["cvv", "cvc", "cvv2", "cvc2"].iter().any(|suffix| name.ends_with(suffix))
        || name == "csc"
        || name.contains("cardverification")
        || name.contains("cardsecuritycode")
}

/// Whether groups of digits, apart by no more than spaces and dashes, spell a card number.
fn holds_card_number(text: &str) -> bool {
    // Fewer than thirteen digits are no card; nearly every text ends here.
    if text.len() < 13 || text.chars().filter(|c| digit(*c).is_some()).take(13).count() < 13 {
        return false;
    }
    runs(text).iter().any(Run::holds_card_number)
}

/// Digits that belong together, with the places where a group begins.
#[derive(Default)]
struct Run {
    digits: Vec<u8>,
    starts: Vec<usize>,
    international: bool,
}

impl Run {
    fn holds_card_number(&self) -> bool {
        // `+` and up to fifteen digits is a telephone number.
        if self.international && self.digits.len() <= 15 {
            return false;
        }
        // A group has a digit at least, so the ends that are near enough are few, however many groups there are.
        let ends = |index: usize| self.starts[index + 1..].iter().copied().chain([self.digits.len()]);
        self.starts.iter().enumerate().any(|(index, start)| {
            ends(index)
                .skip_while(|end| *end < start + 13)
                .take_while(|end| *end <= start + 19)
                .any(|end| is_card_number(&self.digits[*start..end]))
        })
    }
}

fn runs(text: &str) -> Vec<Run> {
    let mut runs = vec![Run::default()];
    // How many separators stand since the last digit; `None` right after something else.
    let mut gap = None;
    let mut before = ' ';
    for character in text.chars() {
        let Some(run) = runs.last_mut() else { break };
        match digit(character) {
            Some(value) => {
                if gap != Some(0) {
                    run.starts.push(run.digits.len());
                }
                if run.digits.is_empty() {
                    run.international = before == '+';
                }
                run.digits.push(value);
                gap = Some(0);
            }
            None if is_separator(character) && gap.is_some_and(|gap| gap < 3) => gap = gap.map(|gap| gap + 1),
            None => {
                gap = None;
                if !run.digits.is_empty() {
                    runs.push(Run::default());
                }
            }
        }
        before = character;
    }
    runs
}

/// ASCII digits and their full-width twins.
fn digit(character: char) -> Option<u8> {
    match character {
        '0'..='9' => Some(character as u8 - b'0'),
        '\u{ff10}'..='\u{ff19}' => Some((character as u32 - 0xff10) as u8),
        _ => None,
    }
}

fn is_separator(character: char) -> bool {
    matches!(character, ' ' | '-' | '\u{a0}' | '\u{202f}' | '\u{2010}'..='\u{2014}' | '\u{2212}')
}

fn is_card_number(digits: &[u8]) -> bool {
    is_network(digits) && luhn(digits)
}

/// The prefixes and lengths that card networks have issued.
fn is_network(digits: &[u8]) -> bool {
    let prefix = |length: usize| digits.iter().take(length).fold(0u32, |sum, d| sum * 10 + u32::from(*d));
    let length = digits.len();
    match (prefix(1), prefix(2), prefix(3), prefix(4)) {
        (4, ..) => matches!(length, 13 | 16 | 19),
        (_, 51..=55, ..) | (.., 2221..=2720) => length == 16,
        (_, 34 | 37, ..) => length == 15,
        (_, 36 | 38 | 39, ..) | (.., 300..=305, _) => (14..=19).contains(&length),
        (.., 3528..=3589) | (_, 62 | 65, ..) | (.., 644..=649, _) | (.., 6011) | (.., 2200..=2204) => {
            length >= 16
        }
        (.., 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763) => true,
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let weighted = digits.iter().rev().enumerate().map(|(index, digit)| match (index % 2, *digit) {
        (0, digit) => u32::from(digit),
        (_, digit) => u32::from(digit) * 2 / 10 + u32::from(digit) * 2 % 10,
    });
    weighted.sum::<u32>() % 10 == 0
}
