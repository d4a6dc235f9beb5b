//! Revocation: what ends a session from outside, and what a mandate's end does to the sessions below it.
//!
//! ```text
//!   the mandate is dead (one commit; nothing below it is admitted any more)
//!        └──▶ each session below it: stopped ─▶ looked at ─▶ what waits ends ─▶ CLEAN | PARTIAL | UNKNOWN
//!                     within `cascade_timeout_ms`; whatever is left then is UNKNOWN, and is ended by the next look around
//! ```
//!
//! What stops a session because of an action (a denial, a decision, nobody's decision) is in the commit of that action, and
//! whatever is stopped and not over is ended by the next look around: nothing is lost where the process dies in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use action::{ActionId, Tenant};
use boundary::Class;
use futures_util::StreamExt;
use ledger::{
    Audited, Event, Governed, Lapse, Lapsed, Order, Revocation, SESSION_HALTED, SESSION_STOPPED, Search,
};
use mandate::{Halt, Session, SessionEvent, SessionRefusal, SessionState};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::close::{MOST_WALKS, Walked, not_ended};
use super::gar::ale;
use super::turn;
use crate::act::lock;
use crate::admin::event;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::OutcomeRow;
use crate::{Code, Error};

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

    /// The same of what the end of a mandate caused.
    pub(crate) fn after(&self, revoked: &Revocation) -> Cause<'a> {
        let record = revoked.record_id.clone().or_else(|| self.record.clone());
        Cause { record, ..*self }
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
pub(super) const EXPIRED: &str = "R-2";
/// It asked for what is outside of its mandate or its own goal.
const SCOPE: &str = "R-3";
/// It asked for what is prohibited without exception.
const PROHIBITED: &str = "R-4";
/// Its mandate had nothing left, and who was asked for more gave none.
pub(crate) const EXHAUSTED: &str = "R-5";
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
        let revoked = self.end_mandate(tenant, jti, cause).await?;
        let halted = self.cascade(tenant, jti, &cause.after(&revoked)).await?;
        Ok((revoked, halted))
    }

    /// Ends a mandate: nothing begins under it or below it any more.
    pub(crate) async fn end_mandate(
        &self,
        tenant: &Tenant,
        jti: &str,
        cause: &Cause<'_>,
    ) -> Result<Revocation, Error> {
        let mut record = json!({ "by": cause.by, "jti": jti, "reason": cause.reason });
        if let Some(caused) = &cause.record {
            (record["cause"], record["trigger"]) = ((&**caused).into(), cause.trigger.into());
        }
        if let Some(escalation) = cause.escalation {
            record["escalationId"] = escalation.into();
        }
        let told = event(self.tenant(tenant)?, REVOKED, &record);
        self.ledger.revoke(tenant, jti, told).await.map_err(unavailable)
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
    pub(crate) async fn cascade(
        &self,
        tenant: &Tenant,
        jti: &str,
        cause: &Cause<'_>,
    ) -> Result<Vec<HaltedView>, Error> {
        let until = Instant::now() + Duration::from_millis(self.config.limits.cascade_timeout_ms);
        let open = self.ledger.sessions_under(tenant, jti).await.map_err(unavailable)?;
        if !open.is_empty()
            && let Err(error) = self.propagate(tenant, jti, cause, &open).await
        {
            // That it could not be written down keeps nobody from being stopped.
            tracing::error!(%tenant, mandate = jti, %error, "where a revocation goes is not on record");
        }
        let halts = futures_util::stream::iter(open).map(|governed| async move {
            // What is not begun in time is not reached in time, however fast it would be.
            let reached = match Instant::now() < until {
                true => tokio::time::timeout_at(until, self.reach(&governed, cause)).await.ok().flatten(),
                false => None,
            };
            (governed, reached)
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

    /// A cycle that is denied as prohibited, or as outside of mandate or goal, is the last of its session: what stops that in
    /// the same commit.
    pub(crate) fn halts(&self, governed: &Governed, class: Option<Class>) -> Result<Option<Event>, Error> {
        let trigger = match class {
            Some(Class::Prohibited) => PROHIBITED,
            Some(Class::Scope) => SCOPE,
            _ => return Ok(None),
        };
        self.stopping(governed, &Cause::of(trigger, self.issuer.as_str(), None)).map(Some)
    }

    /// The record with which a session is stopped.
    pub(crate) fn stopping(&self, governed: &Governed, cause: &Cause<'_>) -> Result<Event, Error> {
        let by = cause.by;
        let fields = json!({"by": by, "reason": cause.reason, "trigger": cause.trigger});
        Ok(event(self.tenant(&governed.tenant)?, SESSION_STOPPED, &ale("ALE-001", fields, json!({"by": by}))))
    }

    /// Ends a session that was stopped in the commit of something else, if it was. What goes wrong is done by the next look
    /// around.
    pub(crate) async fn end_stopped(&self, governed: &Governed) {
        if let Err(error) = self.end_if_stopped(governed).await {
            tracing::warn!(session = &*governed.session.id, %error, "a session that is stopped was not ended yet");
        }
    }

    async fn end_if_stopped(&self, governed: &Governed) -> Result<(), Error> {
        let now = self.ledger.session(&governed.tenant, &governed.session.id).await.map_err(unavailable)?;
        let Some(now) = now.filter(|now| now.session.suspended && now.session.closed.is_none()) else {
            return Ok(());
        };
        // Whoever is at it ends it, and is told so.
        let Some(_mark) = self.ending(&now) else { return Ok(()) };
        match self.end_of_stopped(&now, self.issuer.as_str(), None, None).await {
            Err(error) if !is_over(&error) => Err(not_ended(error, &Walked::default())),
            _ => Ok(()),
        }
    }

    /// Puts on record where the revocation goes from the mandate that it was of.
    async fn propagate(
        &self,
        tenant: &Tenant,
        jti: &str,
        cause: &Cause<'_>,
        open: &[Governed],
    ) -> Result<(), Error> {
        let sessions: Vec<&str> = open.iter().map(|governed| &*governed.session.id).collect();
        let mandates: BTreeSet<&str> = open.iter().map(|governed| &*governed.session.mandate_id).collect();
        let fields = json!({"mandates": mandates, "sessions": sessions, "trigger": cause.trigger});
        let about = json!({"by": cause.by, "cause": cause.record.as_deref(), "jti": jti});
        let told = event(self.tenant(tenant)?, "revocation_propagated", &ale("ALE-006", fields, about));
        self.ledger.record(told).await.map_err(unavailable)?;
        Ok(())
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

    /// Ends the sessions whose mandates have ended, and those that were stopped before the process died. How those were left
    /// that no cascade reached in time, nobody knows any more.
    pub(crate) async fn end_lapsed(&self, now_ms: i64) -> Result<(), Error> {
        let timeout = i64::try_from(self.config.limits.cascade_timeout_ms).unwrap_or(i64::MAX);
        let by = self.issuer.as_str();
        for Lapsed { governed, why } in self.ledger.lapsed(now_ms, PAGE).await.map_err(unavailable)? {
            // Whoever is at it ends it.
            let Some(_mark) = self.ending(&governed) else { continue };
            let ended = match &why {
                Lapse::Revoked { at_ms, .. } if now_ms.saturating_sub(*at_ms) < timeout => continue,
                Lapse::Revoked { mandate, at_ms } => {
                    match self.why_ended(&governed.tenant, mandate, *at_ms).await {
                        Ok(told) => self.halt(&governed, &told.cause(), Some(Halt::Unknown)).await,
                        Err(error) => Err(rejected(error)),
                    }
                }
                Lapse::Stopped => self.end_of_stopped(&governed, by, None, None).await,
                Lapse::Expired { .. } => self.halt(&governed, &WhyEnded::expired(by).cause(), None).await,
            };
            match ended {
                Ok(_) => tracing::info!(session = &*governed.session.id, ?why, "ended by the gateway"),
                Err(error) if is_over(&error) => {}
                // One that cannot be ended keeps no other from its end.
                Err(error) => {
                    tracing::warn!(session = &*governed.session.id, %error, "a session could not be ended");
                }
            }
        }
        Ok(())
    }

    /// Why a mandate was revoked, as the entry of it says.
    async fn why_ended(&self, tenant: &Tenant, jti: &str, at_ms: i64) -> Result<WhyEnded, Error> {
        let search = Search {
            reference: Some((*self.tenant(tenant)?.reference).into()),
            verb: Some(REVOKED.into()),
            from_ms: Some(at_ms),
            ..Search::default()
        };
        let mut after = None;
        loop {
            let page = self.ledger.audit(tenant, search.clone(), Order::OldestFirst, after, PAGE).await;
            let page = page.map_err(unavailable)?;
            if let Some(told) = page.rows.iter().find_map(|entry| WhyEnded::of(entry, jti)) {
                return Ok(told);
            }
            after = page.next;
            if after.is_none() {
                // Who took the entry away is found by whoever verifies the chain; the session ends all the same.
                return Ok(WhyEnded { trigger: PRINCIPAL, ..WhyEnded::expired(&self.issuer) });
            }
        }
    }

    /// First nothing more begins, then it is looked at how that left things, unless that is said, and that is the end.
    pub(super) async fn halt(
        &self,
        governed: &Governed,
        cause: &Cause<'_>,
        left: Option<Halt>,
    ) -> Result<(Session, Vec<ActionId>), ledger::Error> {
        let _mark = self.ending(governed);
        // What was stopped in the commit of something else has that on record.
        if governed.session.suspended {
            return self.end_of_stopped(governed, cause.by, cause.reason, left).await;
        }
        let record = self.stopping(governed, cause).map_err(rejected)?;
        let turn = turn(governed, Some(SessionEvent::Suspended), cause.record.clone(), record);
        let stopped = match self.ledger.turn(turn).await {
            Ok((_, session)) => Governed { session, ..governed.clone() },
            // Somebody else did, a moment before.
            Err(ledger::Error::Session(SessionRefusal::State(SessionState::Suspended))) => governed.clone(),
            Err(error) => return Err(error),
        };
        self.end_of_stopped(&stopped, cause.by, cause.reason, left).await
    }

    /// The end of a session that is stopped: with it ends what waits in it.
    async fn end_of_stopped(
        &self,
        governed: &Governed,
        by: &str,
        reason: Option<&str>,
        left: Option<Halt>,
    ) -> Result<(Session, Vec<ActionId>), ledger::Error> {
        let session = &governed.session;
        let mut cut = BTreeMap::new();
        for _ in 0..MOST_WALKS {
            let mut walked = self.walk(governed).await.map_err(rejected)?;
            let halt = match left {
                Some(left) => left,
                None => self.left_so(governed, &walked).await.map_err(rejected)?,
            };
            if let Some(since) = walked.left_behind(halt) {
                self.note_abandoned(governed, walked.stopped(), since).await?;
                walked = self.walk(governed).await.map_err(rejected)?;
            }
            cut.extend(walked.to_cut());
            if self.end_what_waits(governed, &walked).await.map_err(rejected)? {
                walked = self.walk(governed).await.map_err(rejected)?;
            }
            let walked = walked.with_cut(&cut);
            let code = match halt {
                Halt::Clean => "ALE-002",
                Halt::Partial => "ALE-003",
                Halt::Unknown => "ALE-004",
            };
            let now = self.ledger.session(&governed.tenant, &session.id).await?;
            let fields = walked.fields(now.as_ref().map_or(session, |now| &now.session), by, reason);
            let record = ale(code, fields, json!({"by": by, "completionState": halt.as_str()}));
            let record = event(self.tenant(&governed.tenant).map_err(rejected)?, SESSION_HALTED, &record);
            let revoked = SessionEvent::Revoked { halt, by_person: walked.is_by_person(&self.issuer) };
            let stopped = walked.stopped().map(Box::from);
            match self.ledger.turn(walked.last(turn(governed, Some(revoked), stopped, record))).await {
                Ok((_, session)) => return Ok((session, walked.unsettled())),
                Err(ledger::Error::Changed(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ledger::Error::Changed(session.id.clone()))
    }

    /// How it is left. Who said yes to what waited had it cut off all the same, where its mandate was revoked before it was
    /// sent.
    async fn left_so(&self, governed: &Governed, walked: &Walked) -> Result<Halt, Error> {
        let (halt, denied) = (walked.halt(&governed.session), walked.denied());
        let Some(id) = denied.filter(|_| halt == Halt::Clean) else { return Ok(halt) };
        let outcomes = self.ledger.outcomes(&governed.tenant, id).await.map_err(unavailable)?;
        let said = outcomes.last().filter(|it| !it.payload.is_empty());
        let said = said.map(|it| OutcomeRow::from_bytes(&it.payload)).transpose()?;
        let cut = said.is_some_and(|it| it.details.reasons.iter().any(|why| why == REVOKED));
        Ok(if cut { Halt::Partial } else { halt })
    }

    /// Its agent had the whole time of its mandate to end it, and did not come back.
    async fn note_abandoned(
        &self,
        governed: &Governed,
        stopped: Option<&str>,
        since: &str,
    ) -> Result<(), ledger::Error> {
        let fields = json!({"last_record_at": since, "trigger": EXPIRED});
        let left = json!({"by": self.issuer.as_str(), "completionState": Halt::Clean.as_str()});
        let tenant = self.tenant(&governed.tenant).map_err(rejected)?;
        let record = event(tenant, ABANDONED, &ale("ALE-010", fields, left));
        self.ledger.turn(turn(governed, None, stopped.map(Box::from), record)).await.map(drop)
    }

    /// Nobody is asked any more about what belongs to a session that is over. Whether there was any.
    async fn end_what_waits(&self, governed: &Governed, walked: &Walked) -> Result<bool, Error> {
        let mut any = false;
        for id in walked.waiting() {
            let now = self.ledger.action(&governed.tenant, id).await.map_err(unavailable)?;
            let Some(now) = now.filter(|now| now.state.waits()) else { continue };
            any = true;
            match self.end_waiting(&now, Code::SessionRevoked, "session_revoked", None).await {
                // One that cannot be ended keeps its session from no end.
                Err(error) if error.code != Code::StateConflict => {
                    tracing::warn!(action = %id, %error, "what waits in a session that is over could not be ended");
                }
                _ => {}
            }
        }
        Ok(any)
    }

    /// Marks a session as one that a task of this process brings to its end, unless another does.
    fn ending(&self, governed: &Governed) -> Option<Ending<'_>> {
        let id = &governed.session.id;
        lock(&self.ending).insert(id.clone()).then(|| Ending { gateway: self, id: id.clone() })
    }
}

struct Ending<'a> {
    gateway: &'a Gateway,
    id: Box<str>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        lock(&self.gateway.ending).remove(&self.id);
    }
}

/// What an entry says of the end of a mandate.
struct WhyEnded {
    trigger: &'static str,
    by: String,
    reason: Option<String>,
    record: Option<Box<str>>,
}

impl WhyEnded {
    fn expired(issuer: &str) -> WhyEnded {
        WhyEnded { trigger: EXPIRED, by: issuer.to_owned(), reason: None, record: None }
    }

    fn of(entry: &Audited, jti: &str) -> Option<WhyEnded> {
        let record: Value = serde_json::from_slice(entry.record.as_deref()?).ok()?;
        let text = |member: &str| record[member].as_str().map(str::to_owned);
        (record["jti"] == *jti).then(|| WhyEnded {
            // Which is only written where it was a signal from outside.
            trigger: if record["trigger"] == *EXTERNAL { EXTERNAL } else { PRINCIPAL },
            by: text("by").unwrap_or_default(),
            reason: text("reason"),
            record: Some(ledger::record_id(&entry.chain, entry.seq).into()),
        })
    }

    fn cause(&self) -> Cause<'_> {
        let cause = Cause::of(self.trigger, &self.by, self.reason.as_deref());
        Cause { record: self.record.clone(), ..cause }
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
const REVOKED: &str = "mandate_revoked";
pub(super) const ABANDONED: &str = "session_abandoned";
const ACKNOWLEDGED: &str = "revocation_acknowledged";
