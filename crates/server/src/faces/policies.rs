//! Policies: what binds a tenant, told to each as far as their role is told of it.

use std::collections::BTreeMap;

use gateway::{Disclosed, Error, Level};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// What is in force.
pub(crate) async fn disclosure(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [level] = request.query(["level"])?;
    let disclosed = gateway.disclosure(&caller, level.as_deref()).await?;
    Ok(reply::json(StatusCode::OK, &Disclosure::of(disclosed)))
}

/// The policies in force.
#[derive(Serialize, ToSchema)]
pub(crate) struct Disclosure {
    /// How much this tells: `FULL`, `SUMMARY` (of tiers 1 to 3 no text), `REDACTED` (tier and digest alone) or `COUNT_ONLY`.
    disclosure_level: &'static str,
    /// Digest of the whole set, as it stands in receipts.
    policy_digest: String,
    /// How many policies there are of each tier, at every level. What permits counts, too.
    counts: BTreeMap<&'static str, usize>,
    /// How many names are never carried out, whatever a policy says; they count as tier 0-A.
    hard_denied: usize,
    /// Those names; null where they are not told.
    hard_deny: Option<Vec<String>>,
    /// The policies by tier and id; null where they are not told.
    policies: Option<Vec<Policy>>,
    /// What the operator withholds from this role.
    #[serde(skip_serializing_if = "Option::is_none")]
    withheld: Option<Withheld>,
    /// `CAP_TRANSPARENCY_VIOLATION`: no reason is given for what is withheld, or this is not the set on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    violation: Option<&'static str>,
}

/// What the operator withholds.
#[derive(Serialize, ToSchema)]
#[schema(as = PoliciesWithheld)]
pub(crate) struct Withheld {
    /// The level that the role would be told.
    level: &'static str,
    /// Why it is not; null where nobody says so.
    reason: Option<String>,
}

/// One policy. What is not told of it is null.
#[derive(Serialize, ToSchema)]
pub(crate) struct Policy {
    /// `0-A`, `0-B`, `1`, `2` or `3`.
    tier: &'static str,
    /// Its digest, as it stands in receipts.
    digest: String,
    /// Its `@id`.
    id: Option<String>,
    /// `permit` or `forbid`.
    effect: Option<&'static str>,
    /// Whether it forbids only until a person agrees.
    escalates: Option<bool>,
    /// Its `@description`.
    description: Option<String>,
    /// Its `@regulation`.
    regulation: Option<String>,
    /// Its Cedar text.
    text: Option<String>,
}

impl Disclosure {
    fn of(view: gateway::DisclosureView) -> Disclosure {
        let gateway::DisclosureView { told, withheld, violation } = view;
        let (names, policies) = (told.level >= Level::Summary, told.level >= Level::Redacted);
        Disclosure {
            disclosure_level: told.level.as_str(),
            policy_digest: told.policy_digest.to_string(),
            counts: told.counts.into_iter().map(|(tier, count)| (tier.as_str(), count)).collect(),
            hard_denied: told.hard_denied,
            hard_deny: names.then_some(told.hard_deny),
            policies: policies.then(|| told.policies.into_iter().map(Policy::of).collect()),
            withheld: withheld.map(|it| Withheld { level: it.level.as_str(), reason: it.reason }),
            violation: violation.then_some(gateway::VIOLATION),
        }
    }
}

impl Policy {
    fn of(told: Disclosed) -> Policy {
        let about = told.about.as_ref();
        Policy {
            tier: told.tier.as_str(),
            digest: told.digest.to_string(),
            id: about.map(|about| about.id.to_string()),
            effect: about.map(|about| about.effect),
            escalates: about.map(|about| about.escalates),
            description: about.and_then(|about| about.description.clone()),
            regulation: about.and_then(|about| about.regulation.clone()),
            text: told.text,
        }
    }
}
