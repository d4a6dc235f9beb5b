use std::cmp::Ordering;

use super::{MAX_DEPTH, MAX_SAFE_INTEGER, compare, is_plain, number};

/// Reads canonical text front to back and stops at the first byte that is not as canonical text would have it.
///
/// The text is a `str`, so UTF-8 has been settled before.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

/// The text is not canonical, for this reason. Whether it is JSON at all is for the strict parser to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flaw(pub(crate) &'static str);

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, position: 0, depth: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn at_end(&self) -> bool {
        self.position == self.text.len()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    /// Steps over `literal` if it is next.
    pub(crate) fn eat(&mut self, literal: &str) -> bool {
        let next = self.text.as_bytes()[self.position..].starts_with(literal.as_bytes());
        if next {
            self.position += literal.len();
        }
        next
    }

    /// Steps over one value of any kind and returns its text.
    pub(crate) fn value(&mut self) -> Result<&'a str, Flaw> {
        let start = self.position;
        match self.peek() {
            Some(b'"') => {
                self.string()?;
            }
            Some(b'{') => self.object()?,
            Some(b'[') => self.array()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ if self.eat("null") || self.eat("true") || self.eat("false") => {}
            _ => return Err(Flaw("a value was expected")),
        }
        Ok(&self.text[start..self.position])
    }

    /// Steps over one string and returns its text, quotes and escapes included.
    pub(crate) fn string(&mut self) -> Result<&'a str, Flaw> {
        let start = self.position;
        if !self.eat("\"") {
            return Err(Flaw("a string was expected"));
        }
        let bytes = self.text.as_bytes();
        loop {
            // Most bytes of a string are plain, so they get a loop of their own.
            while let Some(byte) = bytes.get(self.position)
                && is_plain(*byte)
            {
                self.position += 1;
            }
            match bytes.get(self.position) {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(&self.text[start..self.position]);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(Flaw("a control character stands unescaped in a string")),
                None => return Err(Flaw("a string has no end")),
            }
        }
    }

    /// JCS escapes only what JSON forces it to, and in one way.
    fn escape(&mut self) -> Result<(), Flaw> {
        let rest = &self.text.as_bytes()[self.position + 1..];
        let length = match rest {
            [b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 1,
            [b'u', b'0', b'0', b'0', b'0'..=b'7' | b'b' | b'e' | b'f', ..] => 5,
            [b'u', b'0', b'0', b'1', b'0'..=b'9' | b'a'..=b'f', ..] => 5,
            _ => return Err(Flaw("an escape is not the canonical one")),
        };
        self.position += 1 + length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Flaw> {
        let rest = &self.text[self.position..];
        let length = rest
            .bytes()
            .position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e'))
            .unwrap_or(rest.len());
        let text = &rest[..length];
        self.position += length;
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.bytes().all(|b| b.is_ascii_digit()) { integer(text, digits) } else { fraction(text) }
    }

    fn array(&mut self) -> Result<(), Flaw> {
        self.enter("[")?;
        if !self.eat("]") {
            loop {
                self.value()?;
                if self.eat("]") {
                    break;
                }
                self.comma()?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self) -> Result<(), Flaw> {
        self.enter("{")?;
        if !self.eat("}") {
            let mut last: Option<&str> = None;
            loop {
                let name = self.string()?;
                if last.is_some_and(|last| compare_raw(last, name) != Ordering::Less) {
                    return Err(Flaw("members are not in canonical order"));
                }
                last = Some(name);
                self.colon()?;
                self.value()?;
                if self.eat("}") {
                    break;
                }
                self.comma()?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    pub(crate) fn comma(&mut self) -> Result<(), Flaw> {
        if self.eat(",") { Ok(()) } else { Err(Flaw("a comma was expected")) }
    }

    pub(crate) fn colon(&mut self) -> Result<(), Flaw> {
        if self.eat(":") { Ok(()) } else { Err(Flaw("a colon was expected")) }
    }

    fn enter(&mut self, bracket: &str) -> Result<(), Flaw> {
        self.depth += 1;
        let entered = self.eat(bracket) && self.depth <= MAX_DEPTH;
        if entered { Ok(()) } else { Err(Flaw("values are nested too deeply")) }
    }
}

/// The value of member `name` in the text of a canonical object.
pub(crate) fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let mut scanner = Scanner::new(object);
    if !scanner.eat("{") {
        return None;
    }
    while let Ok(key) = scanner.string() {
        scanner.colon().ok()?;
        let value = scanner.value().ok()?;
        if key[1..key.len() - 1] == *name {
            return Some(value);
        }
        scanner.comma().ok()?;
    }
    None
}

fn compare_raw(a: &str, b: &str) -> Ordering {
    if a.contains('\\') || b.contains('\\') {
        let decode = |raw: &str| serde_json::from_str::<String>(raw).unwrap_or_default();
        compare(&decode(a), &decode(b))
    } else {
        compare(&a[1..a.len() - 1], &b[1..b.len() - 1])
    }
}

fn integer(text: &str, digits: &str) -> Result<(), Flaw> {
    let canonical = match digits.as_bytes() {
        [b'0'] => text == "0",
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    if !canonical {
        return Err(Flaw("a number is not in canonical form"));
    }
    match digits.parse::<u64>() {
        Ok(value) if value <= MAX_SAFE_INTEGER => Ok(()),
        _ => Err(Flaw("an integer is outside ±(2^53-1)")),
    }
}

fn fraction(text: &str) -> Result<(), Flaw> {
    let canonical = text.parse().ok().and_then(number).is_some_and(|canonical| canonical == text);
    if canonical { Ok(()) } else { Err(Flaw("a number is not in canonical form")) }
}
