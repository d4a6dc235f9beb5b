//! Mandates: issued, listed, revoked.

use action::{Currency, Money, Subject};
use gateway::{Code, Error, MandateAsk, MandateView};
use http::StatusCode;
use serde::{Deserialize, Serialize};
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

/// One page of the tenant's mandates.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [cursor, limit] = request.query(["cursor", "limit"])?;
    let page = gateway.mandates(&caller, cursor, reply::rows(limit.as_deref())?).await?;
    let body = MandatePage { items: page.items.iter().map(Mandate::of).collect(), next_cursor: page.next };
    Ok(reply::json(StatusCode::OK, &body))
}

/// Ends a mandate.
pub(crate) async fn revoke(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: ReasonRequest = request.json_if_any().await?;
    let revoked = gateway.revoke_mandate(&caller, &request.argument, ask.reason).await?;
    let unsettled = revoked.unsettled.iter().map(ToString::to_string).collect();
    let body = Revocation { jti: revoked.jti, revoked_at: revoked.revoked_at, unsettled };
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
    /// RFC 3339; absent means now.
    not_before: Option<String>,
    /// RFC 3339; this or `expires_in_seconds`.
    expires_at: Option<String>,
    /// Seconds from now; this or `expires_at`.
    expires_in_seconds: Option<u32>,
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
    reason: Option<String>,
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
    not_before: String,
    expires_at: String,
    revoked_at: Option<String>,
}

/// The acknowledgement of a revocation.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revocation {
    jti: String,
    revoked_at: String,
    /// Transactions that were admitted before and are not settled.
    unsettled: Vec<String>,
}

impl MandateRequest {
    fn understood(self, now: i64) -> Result<MandateAsk, Error> {
        let subject =
            Subject::parse(&self.subject).map_err(|error| invalid("/subject", error.to_string()))?;
        let expires_at = match (self.expires_at, self.expires_in_seconds) {
            (Some(at), None) => seconds(&at, "/expires_at")?,
            (None, Some(seconds)) => now + i64::from(seconds),
            _ => {
                return Err(invalid(
                    "/expires_at",
                    "exactly one of expires_at and expires_in_seconds is needed",
                ));
            }
        };
        Ok(MandateAsk {
            subject,
            even_if_unknown: self.even_if_unknown,
            scope: self.scope,
            resources: self.resources,
            spend_cap: self.spend_cap.map(Sum::understood).transpose()?,
            max_actions: self.max_actions,
            requires_approval: self.requires_approval,
            uncertainty_floor: self.uncertainty_floor,
            not_before: self.not_before.map(|at| seconds(&at, "/not_before")).transpose()?,
            expires_at,
        })
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
            not_before: view.not_before.clone(),
            expires_at: view.expires_at.clone(),
            revoked_at: view.revoked_at.clone(),
        }
    }
}

fn seconds(text: &str, field: &str) -> Result<i64, Error> {
    let at: Result<jiff::Timestamp, _> = text.parse();
    at.map(jiff::Timestamp::as_second).map_err(|_| invalid(field, "this is not an RFC 3339 time"))
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
