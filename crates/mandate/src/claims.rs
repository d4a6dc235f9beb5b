//! The claims of a mandate: as they travel, and as they are once understood.

use action::{Money, Subject};
use serde::{Deserialize, Serialize};

use crate::refusal::malformed;
use crate::{Pattern, Refusal};

/// The claims set as it travels. Names are the wire's; an unknown claim is refused, because a limit that is not
/// understood cannot be kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The mandate's id, unique for ever.
    pub jti: String,
    /// The principal who grants.
    pub iss: String,
    /// The agent who may act.
    pub sub: String,
    /// The issuer URL of the installation; the same for each of its gateways.
    pub aud: String,
    /// Unix seconds.
    pub iat: i64,
    /// Unix seconds; absent means `iat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Unix seconds; at this second the mandate is over.
    pub exp: i64,
    /// Archetypes or groups of archetypes.
    pub mandate_scope: Vec<String>,
    /// Resource patterns; absent means any resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<String>>,
    /// The most that may be spent in sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend_cap: Option<SpendCap>,
    /// The most actions that may be admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_actions: Option<u64>,
    /// Archetypes or groups that a person must approve each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_approval: Option<Vec<String>>,
    /// Declared confidence below this escalates; 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty_floor: Option<serde_json::Number>,
    /// 0 to 1; binds sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_floor: Option<serde_json::Number>,
    /// What the mandate is for; binds the declared goals of sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal_scope: Option<Vec<String>>,
    /// Compute and the like; binds sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_envelope: Option<ResourceEnvelope>,
    /// The mandates it descends from, root first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation_chain: Option<Vec<String>>,
    /// Proof-of-possession key (RFC 7800).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<serde_json::Value>,
}

/// A sum as it travels: the amount is a decimal string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendCap {
    /// Decimal string, with no more fraction digits than the currency has.
    pub amount: String,
    /// ISO 4217 code.
    pub currency: String,
}

impl SpendCap {
    /// The sum.
    ///
    /// # Errors
    /// It is none.
    pub fn money(&self) -> Result<Money, Refusal> {
        let wrong = || malformed("`spend_cap` must have a `currency` and a decimal string `amount`");
        let currency = action::Currency::of(&self.currency).ok_or_else(wrong)?;
        Money::parse(&self.amount, currency).map_err(|_| wrong())
    }
}

/// What a session under the mandate may consume in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceEnvelope {
    /// Units of the operator's own reckoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_compute_units: Option<u64>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration_seconds: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_network_egress_bytes: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_storage_bytes: Option<u64>,
}

/// A share between 0 and 1, in ten-thousandths, so that comparing it needs no floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Confidence(u16);

impl Confidence {
    /// Ten-thousandths, 0 to 10000.
    pub fn ten_thousandths(self) -> u16 {
        self.0
    }

    fn parse(name: &str, number: &serde_json::Number) -> Result<Confidence, Refusal> {
        number
            .as_f64()
            .filter(|share| (0.0..=1.0).contains(share))
            // Rounds up: a floor may only become stricter.
            .map(|share| Confidence((share * 10_000.0).ceil() as u16))
            .ok_or_else(|| malformed(format!("`{name}` must be between 0 and 1")))
    }
}

/// A mandate that has been understood. Only [`Mandate::of`] and [`crate::verify`] make one, so every value in hand is
/// well formed; whether it is in force is asked with [`Mandate::permits`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Mandate {
    /// The mandate's id.
    pub jti: String,
    /// The principal who granted it.
    pub issuer: Subject,
    /// The agent who may act.
    pub subject: Subject,
    /// The issuer URL it was granted for.
    pub audience: String,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds; over at this second.
    pub expires_at: i64,
    /// Archetypes or groups of archetypes; never empty.
    pub scope: Vec<String>,
    /// Resource patterns; `None` means any resource.
    pub resources: Option<Vec<Pattern>>,
    /// The most that may be spent in sum.
    pub spend_cap: Option<Money>,
    /// The most actions that may be admitted.
    pub max_actions: Option<u64>,
    /// Archetypes or groups that a person must approve.
    pub requires_approval: Vec<String>,
    /// Declared confidence below this escalates.
    pub uncertainty_floor: Option<Confidence>,
    /// Binds sessions.
    pub trust_floor: Option<Confidence>,
    /// Binds sessions' goals; empty means any.
    pub goal_scope: Vec<String>,
    /// Binds sessions.
    pub resource_envelope: ResourceEnvelope,
    /// Ancestors, root first; empty for as long as delegation is not supported.
    pub chain: Vec<String>,
}

/// More entries than this in one list of a mandate is a mistake, not a mandate.
const MAX_ENTRIES: usize = 256;

impl Mandate {
    /// Understands a claims set that is trusted already: just verified, or the operator's own configuration.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] naming the claim, or the two kinds of mandate that are not supported yet.
    pub fn of(claims: &Claims) -> Result<Mandate, Refusal> {
        if claims.delegation_chain.as_ref().is_some_and(|chain| !chain.is_empty()) {
            return Err(Refusal::DelegationUnsupported);
        }
        if claims.cnf.is_some() {
            return Err(Refusal::KeyBoundUnsupported);
        }
        if claims.mandate_scope.is_empty() {
            return Err(malformed("`mandate_scope` must name at least one action"));
        }
        if claims.exp <= claims.iat || claims.nbf.is_some_and(|nbf| nbf >= claims.exp) {
            return Err(malformed("`exp` must lie after `iat` and `nbf`"));
        }
        if claims.aud.is_empty() {
            return Err(malformed("`aud` must be the issuer URL"));
        }
        Ok(Mandate {
            jti: identifier("jti", &claims.jti)?.to_string(),
            issuer: identifier("iss", &claims.iss)?,
            subject: identifier("sub", &claims.sub)?,
            audience: claims.aud.clone(),
            issued_at: claims.iat,
            not_before: claims.nbf.unwrap_or(claims.iat),
            expires_at: claims.exp,
            scope: names("mandate_scope", &claims.mandate_scope)?,
            resources: claims.resources.as_deref().map(patterns).transpose()?,
            spend_cap: claims.spend_cap.as_ref().map(SpendCap::money).transpose()?,
            max_actions: claims.max_actions,
            requires_approval: names(
                "requires_approval",
                claims.requires_approval.as_deref().unwrap_or(&[]),
            )?,
            uncertainty_floor: share("uncertainty_floor", claims.uncertainty_floor.as_ref())?,
            trust_floor: share("trust_floor", claims.trust_floor.as_ref())?,
            goal_scope: names("goal_scope", claims.goal_scope.as_deref().unwrap_or(&[]))?,
            resource_envelope: claims.resource_envelope.clone().unwrap_or_default(),
            chain: Vec::new(),
        })
    }

    /// The principal at the root of the chain: the one in whose name everything under the mandate is done.
    pub fn root_principal(&self) -> &str {
        self.issuer.as_str()
    }
}

fn identifier(name: &str, text: &str) -> Result<Subject, Refusal> {
    Subject::parse(text).map_err(|_| malformed(format!("`{name}` is not an identifier")))
}

fn names(name: &str, entries: &[String]) -> Result<Vec<String>, Refusal> {
    if entries.len() > MAX_ENTRIES {
        return Err(malformed(format!("`{name}` has more than {MAX_ENTRIES} entries")));
    }
    // A star in a scope would read as "anything" to a person and match nothing here: refused, not ignored.
    match entries.iter().find(|entry| entry.is_empty() || entry.len() > 256 || entry.contains('*')) {
        Some(entry) => Err(malformed(format!("`{name}` names `{entry}`, which is not an action or a group"))),
        None => Ok(entries.to_vec()),
    }
}

fn patterns(entries: &[String]) -> Result<Vec<Pattern>, Refusal> {
    if entries.len() > MAX_ENTRIES {
        return Err(malformed(format!("`resources` has more than {MAX_ENTRIES} entries")));
    }
    entries.iter().map(|entry| Pattern::parse(entry).map_err(malformed)).collect()
}

fn share(name: &str, number: Option<&serde_json::Number>) -> Result<Option<Confidence>, Refusal> {
    number.map(|number| Confidence::parse(name, number)).transpose()
}
