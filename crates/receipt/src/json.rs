use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer, ser};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Error, canonical};

/// A JSON value that is already canonical, held as text.
///
/// Entries carry free-form values. They are made canonical once, when they come in, and from then on are only
/// copied. Serialises with plain `serde_json` as the text it holds, so it can stand inside a struct that is
/// declared in JCS member order; only then is the text read again.
///
/// INVARIANT (canonical): the text is RFC 8785 canonical JSON.
#[derive(Clone)]
pub struct Json(Cow<'static, str>);

impl Json {
    /// `null`, which is also how the formats say "unknown".
    pub const NULL: Self = Self(Cow::Borrowed("null"));

    /// A value that serialises canonically by itself: a struct whose members are declared in JCS order and hold
    /// strings, booleans, small integers, `Json` and more of the same. The fast way; debug builds check it.
    ///
    /// # Errors
    /// [`Error::Json`] if the value cannot be serialised.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let text = serde_json::to_string(value).map_err(not_json)?;
        debug_assert!(canonical::is_canonical(text.as_bytes()), "not in canonical form: {text}");
        Ok(Self(Cow::Owned(text)))
    }

    /// Any value, its members in any order.
    ///
    /// # Errors
    /// [`Error::UnsafeInteger`] if an integer is outside ±(2^53-1), [`Error::Json`] if nested too deeply.
    pub fn canonical(value: &Value) -> Result<Self, Error> {
        let mut out = Vec::with_capacity(128);
        canonical::write_value(&mut out, value, 0)?;
        Self::trusted(out)
    }

    /// Any JSON text, read strictly.
    ///
    /// # Errors
    /// As [`canonical::canonicalise`].
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        Self::trusted(canonical::canonicalise(text)?)
    }

    /// A JSON string.
    #[must_use]
    pub fn string(text: &str) -> Self {
        let mut out = Vec::with_capacity(text.len() + 2);
        canonical::write_string(&mut out, text);
        #[expect(clippy::expect_used, reason = "a quoted and escaped string is JSON")]
        Self::trusted(out).expect("a string is JSON")
    }

    /// An object of these members, which are put in order.
    ///
    /// # Errors
    /// [`Error::Member`] if a name comes twice.
    pub fn object(members: &[(&str, Json)]) -> Result<Self, Error> {
        let mut out = Vec::with_capacity(128);
        write_members(&mut out, members.iter().map(|(name, value)| (*name, value.as_str())).collect())?;
        Self::trusted(out)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it `null`?
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    fn trusted(text: Vec<u8>) -> Result<Self, Error> {
        debug_assert!(canonical::is_canonical(&text));
        Ok(Self(Cow::Owned(String::from_utf8(text).map_err(not_json)?)))
    }
}

/// Writes an object of members whose values are canonical text.
pub(crate) fn write_members(out: &mut Vec<u8>, mut members: Vec<(&str, &str)>) -> Result<(), Error> {
    members.sort_unstable_by(|(a, _), (b, _)| canonical::compare(a, b));
    out.push(b'{');
    let mut last = None;
    for (name, value) in members {
        if last == Some(name) {
            return Err(Error::member(name, "is given twice"));
        }
        if last.is_some() {
            out.push(b',');
        }
        last = Some(name);
        canonical::write_string(out, name);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
    Ok(())
}

fn not_json(error: impl fmt::Display) -> Error {
    Error::Json { pointer: String::new(), why: error.to_string() }
}

impl Default for Json {
    fn default() -> Self {
        Self::NULL
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(self.as_str()).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Reads an object from JSON without space before it. An array of its values in their order, which `serde` takes for the same, is
/// none: other readers do not know that order.
pub(crate) fn object<'a, T: serde::Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    if text.first() != Some(&b'{') {
        return Err("an object was expected".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}
