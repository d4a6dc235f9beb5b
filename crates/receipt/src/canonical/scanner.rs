use std::borrow::Cow;
use std::cmp::Ordering;

use super::{MAX_DEPTH, MAX_SAFE_INTEGER, compare, number, plain_length};

/// Reads canonical text front to back and stops at the first byte that is not as canonical text would have it.
///
/// The text is a `str`, so UTF-8 has been settled before.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

/// A string as it stands in the text, quotes and escapes included.
#[derive(Clone, Copy)]
pub(crate) struct Quoted<'a> {
    text: &'a str,
    escaped: bool,
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

    /// Is `literal` next?
    pub(crate) fn is_at(&self, literal: &str) -> bool {
        self.text.as_bytes()[self.position..].starts_with(literal.as_bytes())
    }

    /// Steps over `literal` if it is next.
    #[inline]
    pub(crate) fn eat(&mut self, literal: &str) -> bool {
        let next = self.text.as_bytes()[self.position..].starts_with(literal.as_bytes());
        if next {
            self.position += literal.len();
        }
        next
    }

    /// Steps over `"name":` if it is next.
    #[inline]
    pub(crate) fn eat_name(&mut self, name: &str) -> bool {
        let rest = &self.text.as_bytes()[self.position..];
        let rest = rest.strip_prefix(b"\"").and_then(|rest| rest.strip_prefix(name.as_bytes()));
        let next = rest.is_some_and(|rest| rest.starts_with(b"\":"));
        if next {
            self.position += name.len() + 3;
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
            Some(b'{') => self.object(|_, _| {})?,
            Some(b'[') => self.array()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ if self.eat("null") || self.eat("true") || self.eat("false") => {}
            _ => return Err(Flaw("a value was expected")),
        }
        Ok(&self.text[start..self.position])
    }

    /// Steps over one value; returns its text, and that of its member `name` if it is an object that has one.
    pub(crate) fn value_and_member(&mut self, name: &str) -> Result<(&'a str, Option<&'a str>), Flaw> {
        if self.peek() != Some(b'{') {
            return Ok((self.value()?, None));
        }
        let (start, mut member) = (self.position, None);
        self.object(|found, value| {
            if found.is(name) {
                member = Some(value);
            }
        })?;
        Ok((&self.text[start..self.position], member))
    }

    /// Steps over one string.
    pub(crate) fn string(&mut self) -> Result<Quoted<'a>, Flaw> {
        let (start, mut escaped) = (self.position, false);
        if !self.eat("\"") {
            return Err(Flaw("a string was expected"));
        }
        let bytes = self.text.as_bytes();
        loop {
            self.position += plain_length(&bytes[self.position..]);
            match bytes.get(self.position) {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(Quoted { text: &self.text[start..self.position], escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
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

    /// Steps over one object and shows its members to `each`.
    fn object(&mut self, mut each: impl FnMut(Quoted<'a>, &'a str)) -> Result<(), Flaw> {
        self.enter("{")?;
        if !self.eat("}") {
            let mut last: Option<Quoted<'_>> = None;
            loop {
                let name = self.string()?;
                if last.is_some_and(|last| last.compare(name) != Ordering::Less) {
                    return Err(Flaw("members are not in canonical order"));
                }
                last = Some(name);
                self.colon()?;
                each(name, self.value()?);
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

impl<'a> Quoted<'a> {
    /// The content where no escape stands for any of it; otherwise what stands between the quotes.
    #[inline]
    pub(crate) fn raw(self) -> &'a str {
        &self.text[1..self.text.len() - 1]
    }

    /// The content, quotes and escapes removed.
    pub(crate) fn content(self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(serde_json::from_str(self.text).unwrap_or_default())
        } else {
            Cow::Borrowed(self.raw())
        }
    }

    /// Is it this name, in which nothing needs escaping?
    fn is(self, name: &str) -> bool {
        !self.escaped && self.raw() == name
    }

    fn compare(self, other: Self) -> Ordering {
        compare(&self.content(), &other.content())
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
