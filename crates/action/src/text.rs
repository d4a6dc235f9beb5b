//! Text that people read or machines compare must be what it looks like. We never alter it: it passes or not.

use crate::id;
use crate::refusal::Refusal;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Refuses text that does not read as it is: not NFC, or with control, bidirectional or invisible characters.
///
/// # Errors
/// `ValidationFailed`, saying which trick it plays.
pub fn refuse_tricks(text: &str) -> Result<(), Refusal> {
    // Printable ASCII is the usual case and has no tricks to play.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Ok(());
    }
    let trick = text.chars().find_map(trick).or_else(|| (!is_nfc(text)).then_some(NOT_NFC));
    trick.map_or(Ok(()), |(message, hint)| Err(Refusal::invalid("", message).with_hint(hint)))
}

/// Refuses an identifier that is not visible ASCII, or not of the usual grammar where no pattern was declared.
pub(crate) fn refuse_misnomer(text: &str, has_own_grammar: bool) -> Result<(), Refusal> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::invalid("", "an identifier has only visible ASCII characters"));
    }
    if has_own_grammar || id::is_identifier(text) {
        return Ok(());
    }
    Err(Refusal::invalid("", "not an identifier")
        .with_hint("1 to 128 ASCII letters, digits and `._:@/+-`, beginning with a letter or digit"))
}

/// Whether a character does not show what it is: one that controls, turns the reading direction, or is not seen.
pub fn is_hidden(character: char) -> bool {
    trick(character).is_some()
}

type Trick = (&'static str, &'static str);
const NOT_NFC: Trick = ("text is not in Unicode normalization form C", "send composed characters (NFC)");
const CONTROL: Trick = ("text contains a control character", "send one line without control characters");
const BIDI: Trick = ("text contains a character that changes the reading direction", "leave it out");
const INVISIBLE: Trick = ("text contains an invisible character", "leave it out");

fn trick(character: char) -> Option<Trick> {
    Some(match character {
        _ if character.is_control() => CONTROL,
        '\u{2028}' | '\u{2029}' => CONTROL,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => BIDI,
        // Soft hyphen, joiners, fillers, invisible operators, variation selectors, tags, byte order mark.
        '\u{00ad}'
        | '\u{034f}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200d}'
        | '\u{2060}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => INVISIBLE,
        _ => return None,
    })
}

fn is_nfc(text: &str) -> bool {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => text.nfc().eq(text.chars()),
    }
}

/// The longest name that a caller may give to a thing of its own.
const MAX_LABEL: usize = 128;

/// A name that the caller gives: 1 to 128 bytes that read as they are, without blanks at either end.
pub(crate) fn label(name: &str, value: &serde_json::Value) -> Result<String, Refusal> {
    let refused =
        || Refusal::invalid("", "not a string of 1 to 128 bytes that begins and ends with a letter or sign");
    let checked = match value.as_str() {
        Some(text) if (1..=MAX_LABEL).contains(&text.len()) && text.trim() == text => {
            refuse_tricks(text).map(|()| text.to_owned())
        }
        _ => Err(refused()),
    };
    checked.map_err(|refusal| refusal.within(name))
}
