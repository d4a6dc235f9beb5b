//! Mandates: issued, handed on, shown, revoked.

use action::time::unix_millis;
use action::{Currency, Money, Subject};
use gateway::{Code, DelegateAsk, Error, ExtendAsk, HaltedView, MandateAsk, MandateStanding, MandateView};
use http::StatusCode;
use mandate::ResourceEnvelope;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// Issues a mandate.
pub(crate) async fn issue(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: MandateRequest = request.json().await?;
    let issued = gateway.issue_mandate(&caller, ask.understood(jiff::Timestamp::now().as_second())?).await?;
    let body = IssuedMandate { token: issued.token, mandate: Mandate::of(&issued.mandate) };
    Ok(reply::json(StatusCode::CREATED, &body))
}

/// Hands a mandate on.
pub(crate) async fn delegate(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: DelegateRequest = request.json().await?;
    let ask = ask.understood(jiff::Timestamp::now().as_second())?;
    let issued = gateway.delegate(&caller, &request.argument, ask).await?;
    let body = IssuedMandate { token: issued.token, mandate: Mandate::of(&issued.mandate) };
    Ok(reply::json(StatusCode::CREATED, &body))
}

/// One mandate, and what is left of it and of all above it.
pub(crate) async fn get(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let standing = gateway.mandate(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Standing::of(&standing)))
}

/// The same for those who hold the store themselves.
pub fn mandate_record(standing: &MandateStanding) -> serde_json::Value {
    serde_json::to_value(Standing::of(standing)).unwrap_or_default()
}

/// One page of the tenant's mandates.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [cursor, limit] = request.query(["cursor", "limit"])?;
    let page = gateway.mandates(&caller, cursor, reply::rows(limit.as_deref())?).await?;
    let body = MandatePage { items: page.items.iter().map(Mandate::of).collect(), next_cursor: page.next };
    Ok(reply::json(StatusCode::OK, &body))
}

/// Extends its time budget.
pub(crate) async fn extend(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    caller.must(gateway::Deed::Govern)?;
    let ask: ExtendRequest = request.json().await?;
    let extended = gateway.extend_mandate(&caller, &request.argument, ask.understood()?).await?;
    let body = Extended {
        standing: Standing::of(&extended.standing),
        resumed: extended.resumed.iter().map(ToString::to_string).collect(),
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// Ends a mandate.
pub(crate) async fn revoke(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: ReasonRequest = request.json_if_any().await?;
    let revoked = gateway.revoke_mandate(&caller, &request.argument, ask.reason).await?;
    let unsettled = revoked.unsettled.iter().map(ToString::to_string).collect();
    let sessions = revoked.sessions.into_iter().map(HaltedSession::of).collect();
    let body = Revocation { jti: revoked.jti, revoked_at: revoked.revoked_at, unsettled, sessions };
    Ok(reply::json(StatusCode::OK, &body))
}

/// What a new mandate is to allow.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MandateRequest {
    /// The agent who may act.
    subject: String,
    /// Also for an agent that no API key, mandate or action names yet.
    #[serde(default)]
    even_if_unknown: bool,
    /// Archetypes or groups of archetypes.
    #[schema(min_items = 1)]
    scope: Vec<String>,
    /// Resource patterns; absent means any resource.
    resources: Option<Vec<String>>,
    /// The most that may be spent in sum.
    spend_cap: Option<Sum>,
    /// The most actions that may be admitted.
    max_actions: Option<u64>,
    /// Archetypes or groups that a person must approve each time.
    #[serde(default)]
    requires_approval: Vec<String>,
    /// Declared confidence below this escalates; 0 to 1.
    #[schema(value_type = Option<f64>)]
    uncertainty_floor: Option<serde_json::Number>,
    /// Binds sessions; 0 to 1.
    #[schema(value_type = Option<f64>)]
    trust_floor: Option<serde_json::Number>,
    /// Binds the goals of sessions; absent means any.
    #[serde(default)]
    goal_scope: Vec<String>,
    /// What sessions may consume in all.
    resource_envelope: Option<Envelope>,
    /// RFC 3339; absent means now.
    not_before: Option<String>,
    /// RFC 3339; this or `expires_in_seconds`.
    expires_at: Option<String>,
    /// Seconds from now; this or `expires_at`.
    expires_in_seconds: Option<u32>,
}

/// More time for all sessions of a mandate together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendRequest {
    /// How much more.
    #[serde(default)]
    #[schema(value_type = u64, minimum = 1)]
    seconds: Value,
    /// Why, for the record: one line, at most 1000 bytes.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    reason: Value,
}

/// A mandate after it was extended.
#[derive(Serialize, ToSchema)]
#[schema(as = ExtendedMandate)]
pub(crate) struct Extended {
    #[serde(flatten)]
    standing: Standing,
    /// Cycles that waited for this and are judged again.
    resumed: Vec<String>,
}

/// What is handed on. Whatever is left out is as the parent has it, as much as is left of it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DelegateRequest {
    /// The agent who may act.
    subject: String,
    /// Also for an agent that no API key, mandate or action names yet.
    #[serde(default)]
    even_if_unknown: bool,
    /// Archetypes or groups of archetypes.
    scope: Option<Vec<String>>,
    /// Resource patterns.
    resources: Option<Vec<String>>,
    /// The most that may be spent in sum.
    spend_cap: Option<Sum>,
    /// The most actions that may be admitted.
    max_actions: Option<u64>,
    /// Archetypes or groups that a person must approve each time.
    requires_approval: Option<Vec<String>>,
    /// Declared confidence below this escalates; 0 to 1.
    #[schema(value_type = Option<f64>)]
    uncertainty_floor: Option<serde_json::Number>,
    /// Binds sessions; 0 to 1.
    #[schema(value_type = Option<f64>)]
    trust_floor: Option<serde_json::Number>,
    /// Binds the goals of sessions.
    goal_scope: Option<Vec<String>>,
    /// What sessions may consume in all.
    resource_envelope: Option<Envelope>,
    /// RFC 3339.
    not_before: Option<String>,
    /// RFC 3339; this, `expires_in_seconds`, or neither.
    expires_at: Option<String>,
    /// Seconds from now; this, `expires_at`, or neither.
    expires_in_seconds: Option<u32>,
}

/// What sessions under a mandate may consume in all; what is absent has no limit, or in a delegation the parent's.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResourceEnvelope)]
pub(crate) struct Envelope {
    /// Units of the operator's own reckoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_compute_units: Option<u64>,
    /// The time budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_duration_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_network_egress_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_storage_bytes: Option<u64>,
}

/// A sum of money.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sum {
    /// Decimal string.
    amount: String,
    /// ISO 4217.
    currency: String,
}

/// Why.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReasonRequest {
    /// In a few words, for the record.
    pub(super) reason: Option<String>,
}

/// A mandate that was just issued.
#[derive(Serialize, ToSchema)]
pub(crate) struct IssuedMandate {
    /// What the agent sends as `delegation_token`. It is shown this once.
    token: String,
    mandate: Mandate,
}

/// One page of mandates.
#[derive(Serialize, ToSchema)]
pub(crate) struct MandatePage {
    items: Vec<Mandate>,
    /// Hand this in as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// A mandate and what is left of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Mandate {
    jti: String,
    /// The principal.
    issuer: String,
    /// The agent.
    subject: String,
    scope: Vec<String>,
    resources: Option<Vec<String>>,
    spend_cap: Option<Sum>,
    /// Spent or reserved by now.
    spent: Option<Sum>,
    max_actions: Option<u64>,
    /// Admitted by now.
    actions: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    requires_approval: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    uncertainty_floor: Option<serde_json::Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    trust_floor: Option<serde_json::Number>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    goal_scope: Vec<String>,
    /// Absent where nothing is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_envelope: Option<Envelope>,
    /// Seconds that extensions added to the time of `resource_envelope`.
    granted_seconds: i64,
    /// The mandates it descends from, root first; absent where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    delegation_chain: Vec<String>,
    /// The key of its principal that signed it; absent where it was issued here.
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    not_before: String,
    expires_at: String,
    revoked_at: Option<String>,
}

/// A mandate, what stands above it, and what is left of all of them together.
#[derive(Serialize, ToSchema)]
#[schema(as = MandateStanding)]
pub(crate) struct Standing {
    mandate: Mandate,
    /// How many mandates stand above it.
    depth: usize,
    /// Who gave the mandate at the root: everything under it is done in their name.
    root_principal: String,
    /// What one more action may have, or one to whom it is handed on.
    left: Left,
    /// The mandate that was revoked, if it or one above it was.
    ended_with: Option<String>,
}

/// What is left; null where nothing limits it.
#[derive(Serialize, ToSchema)]
#[schema(as = MandateLeft)]
pub(crate) struct Left {
    spend: Option<Sum>,
    actions: Option<u64>,
    compute_units: Option<u64>,
    seconds: Option<u64>,
    /// The most at any one time.
    memory_bytes: Option<u64>,
    network_egress_bytes: Option<u64>,
    storage_bytes: Option<u64>,
}

/// The acknowledgement of a revocation.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revocation {
    jti: String,
    revoked_at: String,
    /// Transactions that were admitted before and are not settled.
    unsettled: Vec<String>,
    /// The sessions that ended with it: under it, and under all that descend from it.
    sessions: Vec<HaltedSession>,
}

/// A session that ended with its mandate.
#[derive(Serialize, ToSchema)]
pub(crate) struct HaltedSession {
    session_id: String,
    /// Its mandate, which may descend from the one that was revoked.
    mandate_id: String,
    /// `CLEAN`, `PARTIAL` or `UNKNOWN`: how it was left.
    completion_state: &'static str,
}

impl HaltedSession {
    fn of(view: HaltedView) -> HaltedSession {
        let HaltedView { session_id, mandate_id, completion_state } = view;
        HaltedSession { session_id, mandate_id, completion_state }
    }
}

impl MandateRequest {
    fn understood(self, now: i64) -> Result<MandateAsk, Error> {
        let subject =
            Subject::parse(&self.subject).map_err(|error| invalid("/subject", error.to_string()))?;
        let expires_at = end(self.expires_at.as_deref(), self.expires_in_seconds, now)?;
        let expires_at = expires_at.ok_or_else(|| {
            invalid("/expires_at", "exactly one of expires_at and expires_in_seconds is needed")
        })?;
        Ok(MandateAsk {
            subject,
            even_if_unknown: self.even_if_unknown,
            scope: self.scope,
            resources: self.resources,
            spend_cap: self.spend_cap.map(Sum::understood).transpose()?,
            max_actions: self.max_actions,
            requires_approval: self.requires_approval,
            uncertainty_floor: self.uncertainty_floor,
            trust_floor: self.trust_floor,
            goal_scope: self.goal_scope,
            resource_envelope: self.resource_envelope.map(Envelope::understood),
            not_before: self.not_before.map(|at| seconds(&at, "/not_before")).transpose()?,
            expires_at,
        })
    }
}

impl DelegateRequest {
    fn understood(self, now: i64) -> Result<DelegateAsk, Error> {
        Ok(DelegateAsk {
            subject: self.subject,
            even_if_unknown: self.even_if_unknown,
            scope: self.scope,
            resources: self.resources,
            spend_cap: self.spend_cap.map(Sum::understood).transpose()?,
            max_actions: self.max_actions,
            requires_approval: self.requires_approval,
            uncertainty_floor: self.uncertainty_floor,
            trust_floor: self.trust_floor,
            goal_scope: self.goal_scope,
            resource_envelope: self.resource_envelope.map(Envelope::understood),
            not_before: self.not_before.map(|at| seconds(&at, "/not_before")).transpose()?,
            expires_at: end(self.expires_at.as_deref(), self.expires_in_seconds, now)?,
        })
    }
}

impl Envelope {
    fn understood(self) -> ResourceEnvelope {
        ResourceEnvelope {
            max_compute_units: self.max_compute_units,
            max_duration_seconds: self.max_duration_seconds,
            max_memory_bytes: self.max_memory_bytes,
            max_network_egress_bytes: self.max_network_egress_bytes,
            max_storage_bytes: self.max_storage_bytes,
        }
    }

    fn of(envelope: &ResourceEnvelope) -> Option<Envelope> {
        let shown = Envelope {
            max_compute_units: envelope.max_compute_units,
            max_duration_seconds: envelope.max_duration_seconds,
            max_memory_bytes: envelope.max_memory_bytes,
            max_network_egress_bytes: envelope.max_network_egress_bytes,
            max_storage_bytes: envelope.max_storage_bytes,
        };
        Some(shown).filter(|shown| *shown != Envelope::default())
    }
}

impl ExtendRequest {
    fn understood(self) -> Result<ExtendAsk, Error> {
        let seconds =
            self.seconds.as_u64().ok_or_else(|| invalid("/seconds", "seconds is not a whole number"))?;
        let reason = match self.reason {
            Value::Null => None,
            Value::String(text) => Some(text),
            _ => return Err(invalid("/reason", "reason is not a string")),
        };
        Ok(ExtendAsk { seconds, reason })
    }
}

impl Standing {
    fn of(standing: &MandateStanding) -> Standing {
        let mandate::Limits { spend_cap, max_actions, envelope } = standing.left;
        Standing {
            mandate: Mandate::of(&standing.mandate),
            depth: standing.mandate.chain.len(),
            root_principal: standing.principal.clone(),
            left: Left {
                spend: spend_cap.map(Sum::of),
                actions: max_actions,
                compute_units: envelope.max_compute_units,
                seconds: envelope.max_duration_seconds,
                memory_bytes: envelope.max_memory_bytes,
                network_egress_bytes: envelope.max_network_egress_bytes,
                storage_bytes: envelope.max_storage_bytes,
            },
            ended_with: standing.ended_with.clone(),
        }
    }
}

impl Sum {
    fn understood(self) -> Result<Money, Error> {
        let currency = Currency::of(&self.currency);
        let currency =
            currency.ok_or_else(|| invalid("/spend_cap/currency", "this is not an ISO 4217 code"))?;
        Money::parse(&self.amount, currency).map_err(|error| invalid("/spend_cap/amount", error.to_string()))
    }

    fn of(money: Money) -> Sum {
        Sum { amount: money.to_string(), currency: money.currency().code().to_owned() }
    }
}

impl Mandate {
    fn of(view: &MandateView) -> Mandate {
        Mandate {
            jti: view.jti.clone(),
            issuer: view.issuer.clone(),
            subject: view.subject.clone(),
            scope: view.scope.clone(),
            resources: view.resources.clone(),
            spend_cap: view.spend_cap.map(Sum::of),
            spent: view.spent.map(Sum::of),
            max_actions: view.max_actions,
            actions: view.actions,
            requires_approval: view.requires_approval.clone(),
            uncertainty_floor: view.uncertainty_floor.clone(),
            trust_floor: view.trust_floor.clone(),
            goal_scope: view.goal_scope.clone(),
            resource_envelope: Envelope::of(&view.resource_envelope),
            granted_seconds: view.granted_seconds,
            delegation_chain: view.chain.clone(),
            kid: view.kid.clone(),
            not_before: view.not_before.clone(),
            expires_at: view.expires_at.clone(),
            revoked_at: view.revoked_at.clone(),
        }
    }
}

/// When it ends, if that is said. Both ways of saying it would be two.
fn end(at: Option<&str>, within_seconds: Option<u32>, now: i64) -> Result<Option<i64>, Error> {
    match (at, within_seconds) {
        (Some(at), None) => seconds(at, "/expires_at").map(Some),
        (None, Some(seconds)) => Ok(Some(now + i64::from(seconds))),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(invalid("/expires_at", "exactly one of expires_at and expires_in_seconds is needed"))
        }
    }
}

fn seconds(text: &str, field: &str) -> Result<i64, Error> {
    let at = unix_millis(text).map_err(|why| invalid(field, format!("this {why}")))?;
    Ok(at.div_euclid(1000))
}

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::new(Code::ValidationFailed, why).field(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(text: &str) -> Result<MandateAsk, Error> {
        let request: MandateRequest = serde_json::from_str(text).expect("it has the right shape");
        request.understood(1_000)
    }

    fn field(text: &str) -> Option<String> {
        understood(text).expect_err("it must be refused").field
    }

    #[test]
    fn a_mandate_ends_at_a_time_or_after_one() {
        let ask = understood(r#"{"subject":"agent-1","scope":["PAYMENT_TRANSFER"],"expires_in_seconds":60}"#);
        assert_eq!(ask.map(|ask| ask.expires_at), Ok(1_060));
        let ask = understood(r#"{"subject":"a","scope":["X"],"expires_at":"1970-01-01T01:00:00Z"}"#);
        assert_eq!(ask.map(|ask| ask.expires_at), Ok(3_600));
        assert_eq!(field(r#"{"subject":"a","scope":["X"]}"#).as_deref(), Some("/expires_at"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cap = |amount: &str, currency: &str| {
            field(&format!(
                r#"{{"subject":"a","scope":["X"],"expires_in_seconds":1,"spend_cap":{{"amount":"{amount}","currency":"{currency}"}}}}"#
            ))
        };
        assert_eq!(cap("1.005", "USD").as_deref(), Some("/spend_cap/amount"));
        assert_eq!(cap("1", "XXZ").as_deref(), Some("/spend_cap/currency"));
        assert_eq!(
            field(r#"{"subject":"a b","scope":["X"],"expires_in_seconds":1}"#).as_deref(),
            Some("/subject")
        );
    }
}
