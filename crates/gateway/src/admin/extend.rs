//! More time for a mandate. Policies say who may give it; what stands above has to have it.

use std::sync::Arc;

use action::ActionId;
use boundary::Extension;
use ledger::Stored;
use mandate::{Mandate, Refusal};
use serde_json::json;

use super::{MandateStanding, event};
use crate::caller::{Caller, Deed};
use crate::crash::Point;
use crate::gateway::{Gateway, MOST_TRIES};
use crate::remember::unavailable;
use crate::row::internal;
use crate::views::not_found;
use crate::{Code, Error, clock};

/// More time for all sessions of a mandate together.
#[derive(Clone, Debug)]
pub struct ExtendAsk {
    /// How much.
    pub seconds: u64,
    /// Why, for the record.
    pub reason: Option<String>,
}

/// What a mandate has after it was extended.
#[derive(Clone, Debug)]
pub struct ExtendedMandate {
    /// The mandate, and what is left of it.
    pub standing: MandateStanding,
    /// Cycles that waited for this and are judged again.
    pub resumed: Vec<ActionId>,
}

impl Gateway {
    /// Extends the time budget of a mandate: its sessions go on, and what waited for it is judged again.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever does not govern or acts under the mandate, and where no policy permits it;
    /// `EP_NOT_FOUND` if the tenant knows none of this name; `MANDATE_NARROWING_VIOLATION` where one above it has less
    /// left; `EP_STATE_CONFLICT` for one that has ended or has no time budget.
    pub async fn extend_mandate(
        self: &Arc<Self>,
        caller: &Caller,
        jti: &str,
        ask: ExtendAsk,
    ) -> Result<ExtendedMandate, Error> {
        caller.must(Deed::Govern)?;
        let resumed = self.extend(caller, jti, None, ask).await?;
        Ok(ExtendedMandate { standing: self.mandate(caller, jti).await?, resumed })
    }

    /// The same, for whoever may. If it is a decision about what waits, there is no more time once that does not.
    pub(crate) async fn extend(
        self: &Arc<Self>,
        caller: &Caller,
        jti: &str,
        about: Option<&Stored>,
        ask: ExtendAsk,
    ) -> Result<Vec<ActionId>, Error> {
        let reason = crate::approvals::readable_as("reason", ask.reason)?;
        let ask = ExtendAsk { seconds: ask.seconds, reason };
        if !(1..=MOST_SECONDS).contains(&ask.seconds) {
            let why = format!("seconds is a whole number from 1 to {MOST_SECONDS}");
            return Err(Error::new(Code::ValidationFailed, why).field("/seconds"));
        }
        // One after another, so that policies see what the one before granted.
        let _turn = self.tenant(&caller.tenant)?.budgets.lock().await;
        for _ in 0..MOST_TRIES {
            if let Some(resumed) = self.try_to_extend(caller, jti, about, &ask).await? {
                return Ok(resumed);
            }
        }
        let why = "the budget, or what waits for it, kept changing meanwhile";
        Err(Error::new(Code::Unavailable, why).retry_after(1))
    }

    /// `None`: the budget, or what waits for it, changed since it was judged.
    async fn try_to_extend(
        self: &Arc<Self>,
        caller: &Caller,
        jti: &str,
        about: Option<&Stored>,
        ask: &ExtendAsk,
    ) -> Result<Option<Vec<ActionId>>, Error> {
        let tenant = self.tenant(&caller.tenant)?;
        let found = self.line(&caller.tenant, jti).await?.ok_or_else(|| not_found("mandate"))?;
        let line = found.map_err(|refusal| has_ended(jti, &refusal.to_string()))?;
        let (_, accounts) = self.left(&caller.tenant, &line.mandates).await?;
        let Some((leaf, account)) = line.mandates.first().zip(accounts.first()) else {
            return Err(internal("a line without a leaf"));
        };
        let now_ms = clock::now_ms();
        let above = line.mandates.iter().find(|mandate| mandate.subject == caller.subject);
        let own = match above {
            Some(mandate) => Some(mandate.jti.as_str().into()),
            None => self.lives_by(caller, leaf, now_ms).await?,
        };
        if let Some(own) = own {
            let why = format!("whoever acts under a mandate does not extend it, and `{own}` is yours");
            return Err(Error::new(Code::Forbidden, why).hint("let another person decide"));
        }
        if leaf.expires_at <= now_ms.div_euclid(1000) {
            return Err(has_ended(jti, "has expired"));
        }
        let remaining = account.left(&leaf.limits()).envelope.max_duration_seconds;
        let Some(remaining_seconds) = remaining else {
            let why = format!("mandate `{jti}` has no time budget: it ends when it expires");
            return Err(Error::new(Code::StateConflict, why));
        };
        let words = self.words_of_time(caller, jti, ask).await?;
        let waits =
            |about: &Stored| words.iter().any(|word| (word.action, word.round) == (about.id, about.round));
        if about.is_some_and(|about| !waits(about)) {
            return Err(Error::new(Code::StateConflict, "the action does not wait for this any more"));
        }
        let extension = Extension {
            environment: self.environment,
            tenant: &caller.tenant,
            person: &caller.subject,
            role: caller.role.as_str(),
            mandate_id: jti,
            issuer: leaf.root_principal(),
            agent: leaf.subject.as_str(),
            seconds: ask.seconds,
            granted_seconds: account.granted.seconds,
            remaining_seconds,
            awaited: !words.is_empty(),
            now_ms,
        };
        let by = caller.subject.as_str();
        let record = json!({
            "by": by, "jti": jti, "reason": &ask.reason, "seconds": ask.seconds, "tenant": caller.tenant.as_str(),
        });
        let permits = match extension.permitted(&tenant.rules().policies) {
            Ok(permits) => permits,
            Err(refused) => {
                if let Some(detail) = refused.detail {
                    tracing::warn!(%jti, %detail, "a policy on extensions could not be evaluated");
                }
                let ids: Vec<&str> = refused.policies.iter().map(|policy| &*policy.id).collect();
                return self.refused(tenant, record, &ids).await;
            }
        };
        let mut record = record;
        record["policies"] = permits.iter().map(|policy| policy.id.to_string()).collect();
        let waiting: Vec<ActionId> = words.iter().map(|word| word.action).collect();
        let above = line.mandates.iter().skip(1);
        let extension = ledger::Extension {
            tenant: caller.tenant.clone(),
            jti: jti.into(),
            limits: leaf.limits(),
            above: above.map(|mandate| (mandate.jti.as_str().into(), mandate.limits())).collect(),
            seconds: ask.seconds,
            judged: Some(account.granted.seconds),
            event: event(tenant, "budget_extended", &record),
            words,
        };
        self.at(Point::ApprovalBefore)?;
        match self.ledger.extend(extension).await {
            Ok(_) => {}
            Err(ledger::Error::Illegal { .. } | ledger::Error::Changed(_)) => return Ok(None),
            Err(error) => return Err(not_extended(jti, error)),
        }
        self.at(Point::ApprovalAfter)?;
        for action in &waiting {
            self.resume_in_turn(&caller.tenant, *action);
        }
        Ok(Some(waiting))
    }

    /// The caller's own mandate by which they live on the time of this one, or will in the next session that they open.
    /// Whoever gave it at the root has none below, whatever an earlier version wrote.
    async fn lives_by(
        &self,
        caller: &Caller,
        mandate: &Mandate,
        now_ms: i64,
    ) -> Result<Option<Box<str>>, Error> {
        let (tenant, jti, subject) = (&caller.tenant, mandate.jti.as_str(), &caller.subject);
        if mandate.root_principal() == subject.as_str() {
            return Ok(None);
        }
        self.ledger.held_under(tenant, jti, subject, now_ms).await.map_err(unavailable)
    }

    async fn refused<T>(
        &self,
        tenant: &crate::tenants::TenantState,
        mut record: serde_json::Value,
        policies: &[&str],
    ) -> Result<T, Error> {
        record["policies"] = policies.iter().copied().collect();
        self.ledger.record(event(tenant, "extension_refused", &record)).await.map_err(unavailable)?;
        let why = match policies {
            [] => "no policy permits this extension".to_owned(),
            ids => format!("forbidden by policy: {}", ids.join(", ")),
        };
        Err(Error::new(Code::Forbidden, why).hint("policies say of `ExtendBudget` who may, and how much"))
    }
}

fn not_extended(jti: &str, error: ledger::Error) -> Error {
    match error {
        ledger::Error::Mandate(Refusal::Widened { .. }) => Error::new(
            Code::NarrowingViolation,
            "`seconds` is more than what stands above the mandate has left",
        )
        .field("/seconds")
        .hint("ask for less, or extend the one above it first"),
        ledger::Error::Mandate(refusal) => has_ended(jti, &refusal.to_string()),
        ledger::Error::Absent(_) => not_found("mandate"),
        ledger::Error::Exists(_) => {
            Error::new(Code::StateConflict, "you have decided on what waits for this already")
        }
        other => unavailable(other),
    }
}

fn has_ended(jti: &str, how: &str) -> Error {
    Error::new(Code::StateConflict, format!("mandate `{jti}` {how}: it is not extended"))
}

/// A hundred years: more is a slip of the hand.
const MOST_SECONDS: u64 = 100 * 366 * 86_400;
