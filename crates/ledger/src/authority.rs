//! Who may ask, and what is stopped: mandates, freezes, credentials.

use std::fmt;
use std::sync::Arc;

use action::{ActionId, Subject, Tenant};
use mandate::Account;

/// A mandate that was issued here, or that a principal signed and was brought here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mandate {
    /// Whose.
    pub tenant: Tenant,
    /// Its id, unique within the tenant.
    pub jti: Box<str>,
    /// The agent it was given to.
    pub subject: Subject,
    /// The principal who gave it.
    pub issuer: Box<str>,
    /// Milliseconds since 1970, UTC.
    pub issued_ms: i64,
    /// Milliseconds since 1970, UTC.
    pub expires_ms: i64,
    /// Its claims, as JSON.
    pub claims: Vec<u8>,
    /// The mandates it descends from, root first.
    pub chain: Vec<Box<str>>,
    /// The key of its principal that signed it; `None` if it was issued here.
    pub kid: Option<Box<str>>,
}

/// A key with which a principal signs mandates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalKey {
    /// Whose mandates it is good for.
    pub tenant: Tenant,
    /// The principal.
    pub issuer: Box<str>,
    /// Its RFC 7638 thumbprint.
    pub kid: Box<str>,
    /// The public JWK.
    pub jwk: Box<str>,
    /// Milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// Who registered it.
    pub created_by: Box<str>,
    /// When it ceased to be accepted.
    pub revoked_ms: Option<i64>,
}

/// A mandate with what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The mandate.
    pub mandate: Mandate,
    /// Spent, used, revoked.
    pub account: Account,
}

/// The acknowledgement of a revocation: no action under the mandate is admitted after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// When, milliseconds since 1970, UTC; of the first one if it was revoked before.
    pub at_ms: i64,
    /// The id of its record; none if it was revoked before.
    pub record_id: Option<Box<str>>,
    /// What was admitted before and is not settled.
    pub unsettled: Vec<ActionId>,
}

/// What a freeze stops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything, of every tenant.
    All,
    /// Everything of one tenant.
    Tenant(Tenant),
    /// One agent of a tenant.
    Agent(Tenant, Subject),
    /// One archetype of a tenant.
    Archetype(Tenant, Arc<str>),
    /// One provider, whoever asks.
    Provider(Arc<str>),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::All => f.write_str("all"),
            Scope::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Scope::Agent(_, subject) => write!(f, "agent:{subject}"),
            Scope::Archetype(_, archetype) => write!(f, "archetype:{archetype}"),
            Scope::Provider(provider) => write!(f, "provider:{provider}"),
        }
    }
}

/// A stop, until it is thawed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// What it stops.
    pub scope: Scope,
    /// Does it stop compensation too?
    pub include_rollback: bool,
    /// Since when, milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// Who froze.
    pub by: Box<str>,
    /// Why, in the words of who froze.
    pub reason: Box<str>,
}

/// A credential of a caller. Only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// Its public name.
    pub id: Box<str>,
    /// Whose.
    pub tenant: Tenant,
    /// Whom it speaks for.
    pub subject: Subject,
    /// Word for the role; its meaning is the gateway's.
    pub role: Box<str>,
    /// The mandate used when a request brings none.
    pub default_mandate: Option<Box<str>>,
    /// Milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// Who made it; unknown of keys that are older than this member.
    pub created_by: Option<Box<str>>,
    /// When it ceased to be accepted.
    pub revoked_ms: Option<i64>,
}

/// A passkey that a person wants to approve with. Whose it is and what it signs with stands in the records of its
/// entries and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passkey {
    /// Its public name.
    pub id: Box<str>,
    /// Whose.
    pub tenant: Tenant,
    /// The credential's id, as its authenticator chose it.
    pub credential_id: Vec<u8>,
    /// Row number of the entry that it was registered with.
    pub entry: i64,
    /// What was recorded when it was registered.
    pub registered: Vec<u8>,
    /// What was recorded when it was said to be that person's; until then it counts for nothing.
    pub enrolled: Option<Vec<u8>>,
    /// What was recorded when it ceased to count.
    pub revoked: Option<Vec<u8>>,
}

impl Scope {
    /// Does it cover this action?
    #[must_use]
    pub fn covers(
        &self,
        tenant: &Tenant,
        subject: &Subject,
        archetype: &str,
        provider: Option<&str>,
    ) -> bool {
        match self {
            Scope::All => true,
            Scope::Tenant(frozen) => frozen == tenant,
            Scope::Agent(of, frozen) => of == tenant && frozen == subject,
            Scope::Archetype(of, frozen) => of == tenant && **frozen == *archetype,
            Scope::Provider(frozen) => Some(&**frozen) == provider,
        }
    }
}
