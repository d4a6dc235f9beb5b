//! Names of things: who acts, for whom, where, and which action it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Text that is not a well-formed name of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// One action, from request to receipt: a UUIDv7 of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(uuid::Uuid);

impl ActionId {
    /// The id of an action that arrives at `unix_ms` (milliseconds since 1970, UTC).
    pub fn new(unix_ms: u64, random: [u8; 10]) -> ActionId {
        ActionId(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
    }

    /// The sixteen bytes, in the order in which they are written; they sort by time.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id in sixteen stored bytes, if they are one.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<ActionId> {
        let id = uuid::Uuid::from_bytes(bytes);
        (id.get_version_num() == 7).then_some(ActionId(id))
    }

    /// When the action arrived, in milliseconds since 1970, UTC.
    pub fn unix_ms(&self) -> u64 {
        self.as_bytes()[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
    }
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for ActionId {
    type Err = Malformed;

    /// Reads exactly what `Display` writes: lower case, hyphenated.
    fn from_str(text: &str) -> Result<ActionId, Malformed> {
        let error = Malformed("an action id is a lower-case hyphenated UUID of version 7");
        let read = uuid::Uuid::try_parse(text).map_err(|_| error)?;
        let is_exact = *read.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()) == *text;
        ActionId::from_bytes(read.into_bytes()).filter(|_| is_exact).ok_or(error)
    }
}

/// Whose rows, keys, mandates and policies: nothing crosses from one tenant to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Reads `[a-z0-9][a-z0-9_-]{0,63}`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Tenant, Malformed> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        match text.as_bytes() {
            [first, rest @ ..]
                if plain(*first)
                    && rest.len() < 64
                    && rest.iter().all(|b| plain(*b) || b"_-".contains(b)) =>
            {
                Ok(Tenant(text.into()))
            }
            _ => Err(Malformed(
                "a tenant is 1 to 64 of a-z, 0-9, `_` and `-`, and begins with a letter or digit",
            )),
        }
    }

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Tenant {
        Tenant("default".into())
    }
}

/// Who acts or is acted for: an agent, a person, a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

impl Subject {
    /// The name under which the gateway itself does what nobody asked for.
    pub const GATEWAY: &str = "countersign";

    /// Reads `[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}`.
    ///
    /// # Errors
    /// Anything else, and the gateway's own name.
    pub fn parse(text: &str) -> Result<Subject, Malformed> {
        let subject = Subject::kept(text)?;
        if subject.is_gateway() {
            return Err(Malformed("`countersign` is the gateway itself: nobody else has that name"));
        }
        Ok(subject)
    }

    /// The same of a name that is on record: others may have had the gateway's before it was kept from them.
    ///
    /// # Errors
    /// Anything that never was a name.
    pub fn kept(text: &str) -> Result<Subject, Malformed> {
        if is_identifier(text) {
            Ok(Subject(text.into()))
        } else {
            Err(Malformed(
                "an agent or person is named by 1 to 128 ASCII letters, digits and `._:@/+-`, beginning with a letter or digit",
            ))
        }
    }

    /// Is it the gateway's own name, however it is spelled?
    pub fn is_gateway(&self) -> bool {
        self.0.eq_ignore_ascii_case(Subject::GATEWAY)
    }

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The grammar of names that strangers choose: no two of them look alike by accident.
pub(crate) fn is_identifier(text: &str) -> bool {
    match text.as_bytes() {
        [first, rest @ ..] => {
            first.is_ascii_alphanumeric()
                && rest.len() < 128
                && rest.iter().all(|b| b.is_ascii_alphanumeric() || b"._:@/+-".contains(b))
        }
        [] => false,
    }
}

/// Real effects or pretended ones; each has its own keys, store and issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    /// Providers are called.
    Production,
    /// Every provider is replaced by one that only pretends.
    Sandbox,
}

impl Environment {
    /// The word used on the wire and in receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            Environment::Production => "production",
            Environment::Sandbox => "sandbox",
        }
    }
}

/// The client's own name for one attempt to have something done, so that repeating it is harmless.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    /// Reads a header or body value: 1 to 255 visible ASCII characters, bare or as a quoted structured-field
    /// string; `abc` and `"abc"` are one key.
    ///
    /// # Errors
    /// Anything else, parameters after the quoted string included.
    pub fn parse(value: &str) -> Result<IdempotencyKey, Malformed> {
        let key = if value.starts_with('"') { unquote(value)? } else { value.to_owned() };
        if (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(IdempotencyKey(key.into()))
        } else {
            Err(Malformed("an idempotency key has 1 to 255 visible ASCII characters"))
        }
    }

    /// The key without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// RFC 8941, section 3.3.3: only `\"` and `\\` are escapes, and nothing follows the closing quote.
fn unquote(value: &str) -> Result<String, Malformed> {
    let error = Malformed("a quoted idempotency key is one structured-field string and nothing after it");
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(error)?;
    let mut key = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Err(error),
            '\\' => match characters.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(error),
            },
            plain => key.push(plain),
        }
    }
    Ok(key)
}

macro_rules! display_as_str {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
display_as_str!(Tenant, Subject, Environment, IdempotencyKey);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_action_id_reads_back_and_tells_its_time() {
        let id = ActionId::new(1_777_000_000_123, [0xff; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ActionId::from_bytes(*id.as_bytes()), Some(id));
        assert_eq!(id.unix_ms(), 1_777_000_000_123);
        assert!(ActionId::new(1, [0xff; 10]) < ActionId::new(2, [0; 10]));
    }

    #[test]
    fn the_gateways_own_name_is_read_only_from_records() {
        for name in [Subject::GATEWAY, "CounterSign"] {
            assert!(Subject::parse(name).is_err(), "{name}");
            assert!(Subject::kept(name).unwrap().is_gateway(), "{name}");
        }
        assert!(!Subject::kept("countersign-2").unwrap().is_gateway());
        assert!(Subject::kept("no name").is_err());
    }

    #[test]
    fn only_the_written_form_of_an_action_id_is_read() {
        let text = ActionId::new(1, [7; 10]).to_string();
        let other_version = "550e8400-e29b-41d4-a716-446655440000".to_owned();
        for wrong in [text.to_uppercase(), text.replace('-', ""), format!("{{{text}}}"), other_version] {
            assert!(wrong == text || wrong.parse::<ActionId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn bare_and_quoted_keys_are_one_key() {
        let key = |text| IdempotencyKey::parse(text).map(|key| key.as_str().to_owned());
        assert_eq!(key("abc").unwrap(), "abc");
        assert_eq!(key(r#""abc""#).unwrap(), "abc");
        assert_eq!(key(r#""a\"b\\c""#).unwrap(), r#"a"b\c"#);
        let longest = "k".repeat(255);
        assert_eq!(key(&longest).unwrap(), longest);
        for wrong in [
            "",
            r#""""#,
            r#"""#,
            r#""a"#,
            r#""a";p=1"#,
            r#""a\n""#,
            r#""a"b""#,
            "a b",
            "ä",
            "a\n",
            &"k".repeat(256),
        ] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_keep_to_their_grammar() {
        for tenant in ["a", "acme-1", "0_x", &"t".repeat(64)] {
            assert_eq!(Tenant::parse(tenant).unwrap().as_str(), tenant);
        }
        for tenant in ["", "-a", "_a", "A", "a b", "a/b", "ä", &"t".repeat(65)] {
            assert!(Tenant::parse(tenant).is_err(), "{tenant}");
        }
        for subject in ["agent-7", "alice@example.com", "spiffe://x/y", &"s".repeat(128)] {
            assert_eq!(Subject::parse(subject).unwrap().as_str(), subject);
        }
        for subject in ["", ".a", "a b", "a\u{200b}b", "аgent", &"s".repeat(129)] {
            assert!(Subject::parse(subject).is_err(), "{subject}");
        }
    }
}
