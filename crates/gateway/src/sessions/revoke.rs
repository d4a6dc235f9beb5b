//! Revocation: what ends a session from outside, and what a mandate's end does to the sessions below it.
//!
//! ```text
//!   the mandate is dead (one commit; nothing below it is admitted any more)
//!        └──▶ each session below it: stopped ─▶ looked at ─▶ CLEAN | PARTIAL | UNKNOWN
//!                     within `cascade_timeout_ms`; whatever is left then is UNKNOWN, and is ended by the next look around
//! ```

use std::time::Duration;

use action::{ActionId, Tenant};
use boundary::Class;
use futures_util::StreamExt;
use ledger::{Governed, Lapsed, Revocation};
use mandate::{Halt, Session, SessionEvent, SessionRefusal};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::close::{Walked, not_ended};
use super::gar::ale;
use crate::admin::event;
use crate::approvals::escalation_id;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::{Code, Error, clock};

/// Why something is revoked.
pub(crate) struct Cause<'a> {
    /// `R-1` to `R-7`, or [`UNANSWERED`].
    pub trigger: &'static str,
    /// On whose word.
    pub by: &'a str,
    /// Why, in words.
    pub reason: Option<&'a str>,
    /// The record that caused it.
    pub record: Option<Box<str>>,
    /// The escalation whose decision it is.
    pub escalation: Option<&'a str>,
}

impl<'a> Cause<'a> {
    /// What no record caused.
    pub(crate) fn of(trigger: &'static str, by: &'a str, reason: Option<&'a str>) -> Cause<'a> {
        Cause { trigger, by, reason, record: None, escalation: None }
    }
}

/// A session that ended with its mandate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaltedView {
    /// Which.
    pub session_id: String,
    /// Its mandate, which may descend from the one that was revoked.
    pub mandate_id: String,
    /// `CLEAN`, `PARTIAL` or `UNKNOWN`.
    pub completion_state: &'static str,
}

/// Its principal, or somebody who may speak for them.
pub(crate) const PRINCIPAL: &str = "R-1";
/// Its time is over.
const EXPIRED: &str = "R-2";
/// It asked for what is outside of its mandate or its own goal.
const SCOPE: &str = "R-3";
/// It asked for what is prohibited without exception.
const PROHIBITED: &str = "R-4";
/// A signal from outside.
pub(crate) const EXTERNAL: &str = "R-6";
/// Nobody decided in time about what it waited for.
pub(crate) const UNANSWERED: &str = "HEM_TIMEOUT";

impl Gateway {
    /// Ends a mandate, and with it each session under it and under all that descend from it.
    pub(crate) async fn revoke_tree(
        &self,
        tenant: &Tenant,
        jti: &str,
        cause: &Cause<'_>,
    ) -> Result<(Revocation, Vec<HaltedView>), Error> {
        let mut record = json!({ "by": cause.by, "jti": jti, "reason": cause.reason });
        if let Some(caused) = &cause.record {
            (record["cause"], record["trigger"]) = ((&**caused).into(), cause.trigger.into());
        }
        if let Some(escalation) = cause.escalation {
            record["escalationId"] = escalation.into();
        }
        let told = event(self.tenant(tenant)?, "mandate_revoked", &record);
        let revoked = self.ledger.revoke(tenant, jti, told).await.map_err(unavailable)?;
        let by_it = revoked.record_id.clone().or_else(|| cause.record.clone());
        let halted = self.cascade(tenant, jti, &Cause { record: by_it, ..*cause }).await?;
        Ok((revoked, halted))
    }

    /// Ends a session, if it is not over.
    pub(crate) async fn revoke_one(&self, tenant: &Tenant, id: &str, cause: &Cause<'_>) -> Result<(), Error> {
        let Some(governed) = self.ledger.session(tenant, id).await.map_err(unavailable)? else {
            return Ok(());
        };
        match self.halt(&governed, cause, None).await {
            Ok(_) => Ok(()),
            Err(error) if is_over(&error) => Ok(()),
            Err(error) => Err(not_ended(error, &Walked::default())),
        }
    }

    /// Ends each session below a mandate that was just revoked. What the deadline finds is left to [`Gateway::end_lapsed`].
    async fn cascade(&self, tenant: &Tenant, jti: &str, cause: &Cause<'_>) -> Result<Vec<HaltedView>, Error> {
        let until = Instant::now() + Duration::from_millis(self.config.limits.cascade_timeout_ms);
        let open = self.ledger.sessions_under(tenant, jti).await.map_err(unavailable)?;
        let halts = futures_util::stream::iter(open).map(|governed| async move {
            let reached = tokio::time::timeout_at(until, self.reach(&governed, cause)).await;
            (governed, reached.ok().flatten())
        });
        let mut halted: Vec<_> = halts.buffer_unordered(AT_ONCE).collect().await;
        halted.sort_by_key(|(governed, _)| governed.row);
        if !halted.is_empty() {
            self.acknowledge(tenant, jti, cause, &halted).await?;
        }
        let view = |(governed, reached): &(Governed, Option<Halt>)| HaltedView {
            session_id: governed.session.id.to_string(),
            mandate_id: governed.session.mandate_id.to_string(),
            completion_state: reached.unwrap_or(Halt::Unknown).as_str(),
        };
        Ok(halted.iter().map(view).collect())
    }

    /// How a session was left; `None` if that could not be found out.
    async fn reach(&self, governed: &Governed, cause: &Cause<'_>) -> Option<Halt> {
        let halted = match self.halt(governed, cause, None).await {
            Ok((session, _)) => Ok(session),
            // It ended meanwhile, and says how: whoever ends by themselves leaves nothing under way.
            Err(error) if is_over(&error) => {
                let now = self.ledger.session(&governed.tenant, &governed.session.id).await;
                now.map(|now| now.map_or(governed.session.clone(), |now| now.session))
            }
            Err(error) => Err(error),
        };
        match halted {
            Ok(session) => Some(session.halt.unwrap_or(Halt::Clean)),
            Err(error) => {
                tracing::error!(session = &*governed.session.id, %error, "a session could not be halted");
                None
            }
        }
    }

    /// A cycle that was denied as prohibited, or as outside of mandate or goal, is the last of its session.
    pub(crate) async fn halt_after(
        &self,
        governed: &Governed,
        class: Option<Class>,
        denied: Option<ActionId>,
    ) -> Result<(), Error> {
        let trigger = match class {
            Some(Class::Prohibited) => PROHIBITED,
            Some(Class::Scope) => SCOPE,
            _ => return Ok(()),
        };
        let (tenant, by) = (&governed.tenant, self.issuer.as_str());
        let record = match denied {
            Some(id) => self.ledger.begun_as(tenant, id).await.map_err(unavailable)?,
            None => None,
        };
        self.revoke_one(tenant, &governed.session.id, &Cause { record, ..Cause::of(trigger, by, None) }).await
    }

    /// Puts on record how far the revocation came in time.
    async fn acknowledge(
        &self,
        tenant: &Tenant,
        jti: &str,
        cause: &Cause<'_>,
        halted: &[(Governed, Option<Halt>)],
    ) -> Result<(), Error> {
        let all = halted.iter().all(|(_, reached)| reached.is_some());
        let (name, code) = if all { (ACKNOWLEDGED, "ALE-007") } else { ("revocation_timeout", "ALE-008") };
        let sessions: Vec<Value> = halted
            .iter()
            .map(|(governed, reached)| {
                let state = reached.unwrap_or(Halt::Unknown).as_str();
                json!({"completionState": state, "sessionId": &*governed.session.id})
            })
            .collect();
        let fields = json!({"sessions": sessions, "trigger": cause.trigger});
        let record = ale(code, fields, json!({"by": cause.by, "cause": cause.record.as_deref(), "jti": jti}));
        self.ledger.record(event(self.tenant(tenant)?, name, &record)).await.map_err(unavailable)?;
        Ok(())
    }

    /// Ends the sessions whose mandates have ended: those that expired, and those that no cascade reached in time. How the
    /// latter were left when they were to stop, nobody knows any more.
    pub(crate) async fn end_lapsed(&self, now_ms: i64) -> Result<(), Error> {
        let timeout = i64::try_from(self.config.limits.cascade_timeout_ms).unwrap_or(i64::MAX);
        for Lapsed { governed, mandate, revoked_ms } in
            self.ledger.lapsed(now_ms, PAGE).await.map_err(unavailable)?
        {
            let late = revoked_ms.is_some();
            if revoked_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < timeout) {
                continue;
            }
            let trigger = if late { PRINCIPAL } else { EXPIRED };
            let cause = Cause::of(trigger, self.issuer.as_str(), None);
            match self.halt(&governed, &cause, late.then_some(Halt::Unknown)).await {
                Ok(_) => tracing::info!(
                    session = &*governed.session.id,
                    mandate = &*mandate,
                    "ended with its mandate"
                ),
                Err(error) if is_over(&error) => {}
                Err(error) => return Err(not_ended(error, &Walked::default())),
            }
        }
        Ok(())
    }

    /// First nothing more begins, then it is looked at how that left things, unless that is said, and that is the end.
    pub(super) async fn halt(
        &self,
        governed: &Governed,
        cause: &Cause<'_>,
        left: Option<Halt>,
    ) -> Result<(Session, Vec<ActionId>), ledger::Error> {
        let by = cause.by;
        let fields = json!({"by": by, "reason": cause.reason, "trigger": cause.trigger});
        let record = ale("ALE-001", fields, json!({"by": by}));
        let turn = self.turn(governed, SessionEvent::Suspended, cause.record.clone(), REVOKING, &record);
        let (stopped, session) = self.ledger.turn(turn.map_err(rejected)?).await?;
        let walked = self.walk(governed).await.map_err(rejected)?;
        let halt = left.unwrap_or_else(|| walked.halt(&session));
        let code = match halt {
            Halt::Clean => "ALE-002",
            Halt::Partial => "ALE-003",
            Halt::Unknown => "ALE-004",
        };
        let fields = walked.fields(&session, by, cause.reason);
        let record = ale(code, fields, json!({"by": by, "completionState": halt.as_str()}));
        let turn = self.turn(governed, SessionEvent::Revoked(halt), Some(stopped), HALTED, &record);
        let (_, session) = self.ledger.turn(turn.map_err(rejected)?).await?;
        let unsettled = walked.unsettled();
        for id in &unsettled {
            // What is not reached here is refused when somebody agrees to it, or expires.
            if let Err(error) = Box::pin(self.let_go(&governed.tenant, *id, cause)).await {
                tracing::warn!(action = %id, %error, "people are still asked for a session that is over");
            }
        }
        Ok((session, unsettled))
    }

    /// Nobody is asked any more about what waited in a revoked session: no yes could have it carried out.
    async fn let_go(&self, tenant: &Tenant, id: ActionId, cause: &Cause<'_>) -> Result<(), Error> {
        let stored = self.ledger.action(tenant, id).await.map_err(unavailable)?;
        let Some(stored) = stored.filter(|stored| stored.state.waits()) else { return Ok(()) };
        // What ends the session by a person's word, or by nobody's, ends with that on record.
        let by_it = cause.escalation == Some(&*escalation_id(id, stored.round));
        if by_it || stored.has_expired(clock::now_ms()) {
            return Ok(());
        }
        match self.end_waiting(&stored, Code::SessionRevoked, "session_revoked").await {
            Err(error) if error.code == Code::StateConflict => Ok(()),
            other => other,
        }
    }
}

fn rejected(error: Error) -> ledger::Error {
    ledger::Error::Rejected(error.message.into())
}

fn is_over(error: &ledger::Error) -> bool {
    matches!(error, ledger::Error::Session(SessionRefusal::State(mandate::SessionState::Closed(_))))
}

/// Sessions halted at once: as many as share a commit.
const AT_ONCE: usize = 32;
/// Sessions ended in one look around.
const PAGE: u32 = 256;
const REVOKING: &str = "session_revocation_initiated";
const HALTED: &str = "session_halted";
const ACKNOWLEDGED: &str = "revocation_acknowledged";
