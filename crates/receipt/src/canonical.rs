//! RFC 8785 (JCS): recognising canonical text by one linear scan, and making text canonical.
//!
//! Everything that is hashed or signed is canonical JSON. Text that already is canonical, which is all we
//! ever write, is recognised without being rebuilt; anything else is parsed strictly and written anew. Strict
//! means that no two readers can differ about what was said: duplicate members, lone surrogates and integers
//! outside ±(2^53-1) are refused, not repaired.

mod scanner;
mod strict;

use std::cmp::Ordering;

use serde_json::{Map, Value};

pub(crate) use self::scanner::{Flaw, Quoted, Scanner};
use crate::Error;

/// Is this text exactly what canonicalising it would give?
#[must_use]
pub fn is_canonical(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let mut scanner = Scanner::new(text);
    scanner.value().is_ok() && scanner.at_end()
}

/// The canonical form of any JSON text, itself if it is canonical already.
///
/// # Errors
/// [`Error::Json`] where it is not JSON, has a duplicate member, a lone surrogate or more than 100 levels;
/// [`Error::UnsafeInteger`] where an integer is outside ±(2^53-1).
pub fn canonicalise(text: &[u8]) -> Result<Vec<u8>, Error> {
    if is_canonical(text) {
        return Ok(text.to_vec());
    }
    let value = strict::parse(text)?;
    if let Some(integer) = strict::unsafe_integer(text) {
        return Err(Error::UnsafeInteger(integer));
    }
    let mut out = Vec::with_capacity(text.len());
    write_value(&mut out, &value, 0)?;
    Ok(out)
}

/// The one spelling of a finite double: ECMAScript's. Doubles are rare here, so the library may be slow.
fn number(value: f64) -> Option<String> {
    serde_json_canonicalizer::to_string(&value).ok().filter(|_| value.is_finite())
}

/// Writes a value in canonical form, whatever order its maps are in.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth >= MAX_DEPTH && (value.is_array() || value.is_object()) {
        return Err(Error::Json { pointer: String::new(), why: "nested too deeply".to_owned() });
    }
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(out, number)?,
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, item, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Object(members) => write_object(out, members, depth)?,
    }
    Ok(())
}

fn write_object(out: &mut Vec<u8>, members: &Map<String, Value>, depth: usize) -> Result<(), Error> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by(|(a, _), (b, _)| compare(a, b));
    out.push(b'{');
    for (index, (name, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        write_value(out, value, depth + 1)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_number(out: &mut Vec<u8>, value: &serde_json::Number) -> Result<(), Error> {
    let safe = |magnitude: u64| magnitude <= MAX_SAFE_INTEGER;
    let text = if value.as_u64().is_some_and(safe) || value.as_i64().is_some_and(|i| safe(i.unsigned_abs())) {
        value.to_string()
    } else {
        let double = value.as_f64().filter(|_| value.is_f64());
        let text = double.and_then(number).ok_or_else(|| Error::UnsafeInteger(value.to_string()))?;
        // A double such as 1e20 is spelled as an integer, which other readers would not read as a double.
        if text.trim_start_matches('-').parse::<u128>().is_ok_and(|i| i > u128::from(MAX_SAFE_INTEGER)) {
            return Err(Error::UnsafeInteger(text));
        }
        text
    };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Writes a string in canonical form.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, other) = rest.split_at(plain_length(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = other.split_first() else { break };
        rest = after;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(b'0' + (byte >> 4));
                out.push(b"0123456789abcdef"[usize::from(byte & 0xf)]);
            }
        }
    }
    out.push(b'"');
}

/// Order of two names by UTF-16 code units, as RFC 8785 sorts members.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    // Bytes give the same order unless a surrogate pair meets U+E000..U+FFFF.
    if a.is_ascii() || b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

/// How many bytes in front stand in a string as they are: no quote, no backslash, no control character.
///
/// Looks at eight bytes at a time. Taking 1 from a zero byte, or 32 from a lesser one, sets its highest bit. It may
/// borrow from the bytes after it, never from those before, so the first byte that is marked is rightly marked.
#[inline]
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHEST: u64 = u64::from_le_bytes([0x80; 8]);
    let less = |word: u64, than: u8| word.wrapping_sub(ONES * u64::from(than)) & !word;
    let equal = |word: u64, byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let marked = (less(word, 0x20) | equal(word, b'"') | equal(word, b'\\')) & HIGHEST;
        if marked != 0 {
            return index * 8 + (marked.trailing_zeros() / 8) as usize;
        }
    }
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    bytes.len() - rest.len() + rest.iter().take_while(|byte| plain(byte)).count()
}

/// Bounds the recursion of every reader and writer here; requests are bounded more tightly.
const MAX_DEPTH: usize = 100;
/// 2^53 - 1.
pub(crate) const MAX_SAFE_INTEGER: u64 = 9_007_199_254_740_991;

#[cfg(test)]
mod tests;
