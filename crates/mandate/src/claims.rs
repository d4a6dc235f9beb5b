//! The claims of a mandate: as they travel, and as they are once understood.

use action::{Money, Subject};
use serde::{Deserialize, Serialize};

use crate::refusal::malformed;
use crate::{Limits, Pattern, Refusal};

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

/// What sessions under the mandate may consume in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// One member of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// `max_duration_seconds`: the time budget.
    Seconds,
    /// `max_compute_units`.
    ComputeUnits,
    /// `max_memory_bytes`.
    MemoryBytes,
    /// `max_storage_bytes`.
    StorageBytes,
    /// `max_network_egress_bytes`.
    EgressBytes,
}

impl Resource {
    /// Every one, in the order in which a limit that breaks is told.
    pub const ALL: [Resource; 5] = [
        Resource::Seconds,
        Resource::ComputeUnits,
        Resource::MemoryBytes,
        Resource::StorageBytes,
        Resource::EgressBytes,
    ];

    /// The member of `resource_envelope`.
    pub fn member(self) -> &'static str {
        match self {
            Resource::Seconds => "max_duration_seconds",
            Resource::ComputeUnits => "max_compute_units",
            Resource::MemoryBytes => "max_memory_bytes",
            Resource::StorageBytes => "max_storage_bytes",
            Resource::EgressBytes => "max_network_egress_bytes",
        }
    }

    /// As it is called where so much of it is named.
    pub fn word(self) -> &'static str {
        match self {
            Resource::Seconds => "time_seconds",
            Resource::ComputeUnits => "compute_units",
            Resource::MemoryBytes => "memory_bytes",
            Resource::StorageBytes => "storage_bytes",
            Resource::EgressBytes => "network_egress_bytes",
        }
    }

    /// The one that is called so.
    pub fn parse(word: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|it| it.word() == word)
    }

    /// Is it used up bit by bit? Of memory only the most at any one time counts, so none is ever left over.
    pub fn is_used_up(self) -> bool {
        self != Resource::MemoryBytes
    }
}

impl ResourceEnvelope {
    /// How much of this there may be; `None` means any.
    pub fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Seconds => self.max_duration_seconds,
            Resource::ComputeUnits => self.max_compute_units,
            Resource::MemoryBytes => self.max_memory_bytes,
            Resource::StorageBytes => self.max_storage_bytes,
            Resource::EgressBytes => self.max_network_egress_bytes,
        }
    }
}

/// A share between 0 and 1, in ten-thousandths, so that comparing it needs no floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Confidence(u16);

impl Confidence {
    /// Ten-thousandths, 0 to 10000.
    pub fn ten_thousandths(self) -> u16 {
        self.0
    }

    /// What an agent declares of itself; `None` where it is no share between 0 and 1. Rounds down: it may only become
    /// stricter.
    pub fn declared(number: &serde_json::Number) -> Option<Confidence> {
        let share = number.as_f64().filter(|share| (0.0..=1.0).contains(share))?;
        Some(Confidence((share * 10_000.0).floor() as u16))
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
    /// Ancestors, root first; empty for one that a principal gave itself.
    pub chain: Vec<String>,
    /// Who gave the mandate at the root of the chain.
    principal: Subject,
}

/// More entries than this in one list of a mandate is a mistake, not a mandate.
const MAX_ENTRIES: usize = 256;

impl Mandate {
    /// Understands a claims set that is trusted already: just verified, or the operator's own configuration.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] naming the claim, or the kind of mandate that is not supported yet.
    pub fn of(claims: &Claims) -> Result<Mandate, Refusal> {
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
            resource_envelope: claims.resource_envelope.unwrap_or_default(),
            chain: chain(&claims.jti, claims.delegation_chain.as_deref().unwrap_or(&[]))?,
            principal: identifier("iss", &claims.iss)?,
        })
    }

    /// The mandate as it stands below this one: everything under it is done in the name of the same principal.
    pub fn under(self, parent: &Mandate) -> Mandate {
        Mandate { principal: parent.principal.clone(), ..self }
    }

    /// The principal at the root of the chain: the one in whose name everything under the mandate is done.
    pub fn root_principal(&self) -> &str {
        self.principal.as_str()
    }

    /// How far it is from the mandate that a principal gave itself.
    pub fn depth(&self) -> usize {
        self.chain.len()
    }
}

impl Claims {
    /// The claims with everything that they leave out as the parent has it: left out never means without limit.
    pub fn inherit(self, parent: &Claims) -> Claims {
        let not_before = parent.nbf.unwrap_or(parent.iat);
        let envelope = match (self.resource_envelope, parent.resource_envelope) {
            (Some(own), Some(parents)) => Some(own.inherit(&parents)),
            (own, parents) => own.or(parents),
        };
        // Empty means any goal, so it is no goal of its own.
        let goals = self.goal_scope.filter(|goals| !goals.is_empty());
        Claims {
            nbf: self.nbf.or((not_before > self.iat).then_some(not_before)),
            resources: self.resources.or_else(|| parent.resources.clone()),
            spend_cap: self.spend_cap.or_else(|| parent.spend_cap.clone()),
            max_actions: self.max_actions.or(parent.max_actions),
            requires_approval: self.requires_approval.or_else(|| parent.requires_approval.clone()),
            uncertainty_floor: self.uncertainty_floor.or_else(|| parent.uncertainty_floor.clone()),
            trust_floor: self.trust_floor.or_else(|| parent.trust_floor.clone()),
            goal_scope: goals.or_else(|| parent.goal_scope.clone()),
            resource_envelope: envelope,
            ..self
        }
    }

    /// The claims with limits that are no higher than what is left of them: what a child inherits.
    pub fn limited_to(self, left: &Limits) -> Claims {
        let sum =
            |cap: Money| SpendCap { amount: cap.to_string(), currency: cap.currency().code().to_owned() };
        Claims {
            spend_cap: left.spend_cap.map(sum).or(self.spend_cap),
            max_actions: left.max_actions.or(self.max_actions),
            resource_envelope: match left.envelope == ResourceEnvelope::default() {
                true => self.resource_envelope,
                false => Some(left.envelope),
            },
            ..self
        }
    }
}

impl ResourceEnvelope {
    fn inherit(self, parent: &ResourceEnvelope) -> ResourceEnvelope {
        ResourceEnvelope {
            max_compute_units: self.max_compute_units.or(parent.max_compute_units),
            max_duration_seconds: self.max_duration_seconds.or(parent.max_duration_seconds),
            max_memory_bytes: self.max_memory_bytes.or(parent.max_memory_bytes),
            max_network_egress_bytes: self.max_network_egress_bytes.or(parent.max_network_egress_bytes),
            max_storage_bytes: self.max_storage_bytes.or(parent.max_storage_bytes),
        }
    }
}

fn chain(jti: &str, entries: &[String]) -> Result<Vec<String>, Refusal> {
    if entries.len() > MAX_ENTRIES {
        return Err(malformed(format!("`delegation_chain` has more than {MAX_ENTRIES} entries")));
    }
    for (at, entry) in entries.iter().enumerate() {
        identifier("delegation_chain", entry)?;
        if entry == jti || entries[..at].contains(entry) {
            return Err(malformed(format!(
                "`delegation_chain` names `{entry}` twice, or the mandate itself"
            )));
        }
    }
    Ok(entries.to_vec())
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
