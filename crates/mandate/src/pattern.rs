//! Patterns over resource names: a whole name, or a beginning followed by one `*`.

use std::fmt;

/// A pattern over resource names. Deliberately too weak for anything but a name or a prefix, so that one pattern's
/// containment in another, which narrowing needs, is decided by comparing beginnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Shape);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    Exactly(Box<str>),
    StartsWith(Box<str>),
}

impl Pattern {
    /// Reads `name` or `prefix*`.
    ///
    /// # Errors
    /// When empty, longer than 512 bytes, or with a `*` anywhere but at the end.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        if text.is_empty() || text.len() > 512 {
            return Err(format!("resource pattern `{text}` must have 1 to 512 bytes"));
        }
        let (shape, rest): (fn(Box<str>) -> Shape, &str) = match text.strip_suffix('*') {
            Some(prefix) => (Shape::StartsWith, prefix),
            None => (Shape::Exactly, text),
        };
        if rest.contains('*') {
            return Err(format!("resource pattern `{text}` may have `*` only at its end"));
        }
        Ok(Pattern(shape(rest.into())))
    }

    /// Whether every name that `other` covers is covered too.
    pub fn contains(&self, other: &Pattern) -> bool {
        match (&self.0, &other.0) {
            (Shape::Exactly(name), Shape::Exactly(other)) => name == other,
            // A name is no beginning of anything but itself, and a beginning stands for more than one name.
            (Shape::Exactly(_), Shape::StartsWith(_)) => false,
            (Shape::StartsWith(prefix), Shape::Exactly(rest) | Shape::StartsWith(rest)) => {
                rest.starts_with(&**prefix)
            }
        }
    }

    /// Whether the pattern covers this resource name, byte for byte.
    pub fn matches(&self, resource: &str) -> bool {
        match &self.0 {
            Shape::Exactly(name) => resource == &**name,
            Shape::StartsWith(prefix) => resource.starts_with(&**prefix),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shape::Exactly(name) => f.write_str(name),
            Shape::StartsWith(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_star_stands_only_at_the_end() {
        assert!(Pattern::parse("acct:*").unwrap().matches("acct:7"));
        assert!(!Pattern::parse("acct:*").unwrap().matches("ACCT:7"));
        assert!(Pattern::parse("*").unwrap().matches("anything"));
        assert!(!Pattern::parse("acct:7").unwrap().matches("acct:77"));
        assert!(Pattern::parse("a*b").is_err());
        assert!(Pattern::parse("").is_err());
    }
}
