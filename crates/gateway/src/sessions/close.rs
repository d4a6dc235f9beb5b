//! The end of a session: by its agent's word, by an operator's, or revoked by either an operator or an approver.
//!
//! The record of the end names how many records there were before it and the digest of them all. It is signed as each
//! record is, and so the whole session is.

use std::collections::{BTreeMap, BTreeSet};

use action::ActionId;
use ledger::{Governed, Record, SESSION_CLOSED, SESSION_STOPPED, Turn};
use mandate::{Completion, Halt, Session, SessionEvent, SessionRefusal, SessionState};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::anomalies::{Anomaly, odd};
use super::clusters;
use super::gar::{GarView, Line, Said, ale};
use super::revoke::{ABANDONED, Cause, EXPIRED, PRINCIPAL};
use super::{SessionView, turn};
use crate::admin::{event, named};
use crate::alert::Alert;
use crate::approvals::readable_as;
use crate::caller::{Caller, Deed, Role};
use crate::gateway::Gateway;
use crate::row::internal;
use crate::{Code, Error};

/// How a session is to end.
#[derive(Clone, Debug)]
pub struct CloseAsk {
    /// As what.
    pub completion: Completion,
    /// Why, for the record.
    pub reason: Option<String>,
}

/// A session that has ended, and the record that says so.
#[derive(Clone, Debug)]
pub struct ClosedView {
    /// The session.
    pub session: SessionView,
    /// Signed over the digest of all records before it.
    pub record: GarView,
    /// Actions admitted before it ended and not settled by then.
    pub unsettled: Vec<ActionId>,
}

impl Gateway {
    /// Ends a session. Nothing begins in it once this has returned.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` where that is not the caller's to say, `EP_VALIDATION_FAILED` for a reason that is not one honest line,
    /// `EP_STATE_CONFLICT` naming what is still under way, or where it is over already.
    pub async fn close_session(&self, caller: &Caller, id: &str, ask: CloseAsk) -> Result<ClosedView, Error> {
        caller.must(Deed::Halt)?;
        may_end(caller.role, ask.completion)?;
        let ask = CloseAsk { reason: readable_as("reason", ask.reason)?, ..ask };
        let governed = self.governed(caller, id).await?;
        match ask.completion {
            Completion::Revoked => self.revoke_session(caller, &governed, ask.reason.as_deref()).await,
            Completion::Complete => self.end(caller, &governed, ask, "ALE-005").await,
            Completion::Partial => self.end(caller, &governed, ask, "ALE-003").await,
        }
    }

    async fn end(
        &self,
        caller: &Caller,
        governed: &Governed,
        ask: CloseAsk,
        code: &str,
    ) -> Result<ClosedView, Error> {
        let (by, completion) = (caller.subject.as_str(), ask.completion);
        let closes = SessionEvent::Closed { completion, by_agent: caller.role == Role::Agent };
        for _ in 0..MOST_WALKS {
            // How it stands by now is what its last record says.
            let governed = &self.governed(caller, &governed.session.id).await?;
            let walked = self.walk(governed).await?;
            let fields = walked.fields(&governed.session, by, ask.reason.as_deref());
            let record = ale(code, fields, json!({"by": by, "completionState": completion.as_str()}));
            let record = event(self.tenant(&governed.tenant)?, SESSION_CLOSED, &record);
            match self.ledger.turn(walked.last(turn(governed, Some(closes), None, record))).await {
                Ok((_, session)) => return self.closed(governed, session, Vec::new()).await,
                Err(ledger::Error::Changed(_)) => {}
                Err(error) => return Err(not_ended(error, &walked)),
            }
        }
        Err(Error::new(Code::StateConflict, "records keep coming in the session: end it once it rests"))
    }

    async fn revoke_session(
        &self,
        caller: &Caller,
        governed: &Governed,
        reason: Option<&str>,
    ) -> Result<ClosedView, Error> {
        let cause = Cause::of(PRINCIPAL, caller.subject.as_str(), reason);
        let halted = self.halt(governed, &cause, None).await;
        let (session, unsettled) = halted.map_err(|error| not_ended(error, &Walked::default()))?;
        self.closed(governed, session, unsettled).await
    }

    async fn closed(
        &self,
        governed: &Governed,
        session: Session,
        unsettled: Vec<ActionId>,
    ) -> Result<ClosedView, Error> {
        // The session as it was just after that record.
        let before = session.next_record.checked_sub(2);
        let records = self.records_after(governed, before, 1).await?;
        let record = records.first().ok_or_else(|| internal("the end of a session is not there"))?;
        let record = self.gar_view(governed, record).await?;
        Ok(ClosedView { session: self.session_view(&session, &governed.opening), record, unsettled })
    }

    /// How the session is left while nothing of it begins, beside what waits for people.
    pub(crate) async fn left_as(&self, governed: &Governed) -> Result<Halt, Error> {
        match governed.session.in_flight {
            0 => Ok(Halt::Clean),
            _ => Ok(self.walk_once(governed).await?.halt(&Session { held: 0, ..governed.session.clone() })),
        }
    }

    /// Reads all records of a session that is about to end. What is odd about them is on record before that.
    pub(super) async fn walk(&self, governed: &Governed) -> Result<Walked, Error> {
        let walked = self.walk_once(governed).await?;
        if walked.odd.is_empty() {
            return Ok(walked);
        }
        self.note_anomalies(governed, &walked.odd).await?;
        self.walk_once(governed).await
    }

    async fn walk_once(&self, governed: &Governed) -> Result<Walked, Error> {
        let mut walked = Walked::default();
        let mut after = None;
        loop {
            let records = self.records_after(governed, after, PART).await?;
            records.iter().try_for_each(|record| walked.take(record))?;
            match records.last().filter(|_| records.len() == PART as usize) {
                Some(last) => after = Some(last.seq),
                None => return Ok(walked),
            }
        }
    }
}

/// What the records of a session come to.
#[derive(Default)]
pub(super) struct Walked {
    records: u64,
    /// Over the hash of each record as it is shown, a line for each.
    digest: Sha256,
    /// What was admitted and has not ended, and whether it is in doubt.
    under_way: BTreeMap<ActionId, bool>,
    /// What of that waits for people.
    waiting: BTreeSet<ActionId>,
    /// The record of the last one that waited and waits no more.
    decided: Option<String>,
    /// The last one that waited and was denied when it was judged again.
    denied: Option<ActionId>,
    /// The record that stopped the session.
    stopped: Option<String>,
    /// Who stopped it.
    stopped_by: Option<String>,
    /// Did it end what waited?
    cut: bool,
    /// Is the session stopped because the time of its mandate is over?
    expired: bool,
    /// Is it on record that its agent left it behind?
    abandoned: bool,
    /// When anything but that was the last time on record.
    last_at: String,
    /// The number of the next record, if none is missing.
    next: u64,
    odd: BTreeSet<Anomaly>,
}

impl Walked {
    fn take(&mut self, record: &Record) -> Result<(), Error> {
        let line = Line::of(record)?;
        self.odd.extend(odd(&line, self.next));
        self.next = line.number() + 1;
        self.records += 1;
        self.digest.update(format!("sha256:{}\n", line.hash));
        if line.event == SESSION_STOPPED {
            self.cut |= self.decided.is_some() && line.cause() == self.decided.as_deref();
            self.stopped = Some(line.id());
            self.stopped_by = Said::of(record).field("by").map(str::to_owned);
            self.expired = Said::of(record).field("trigger") == Some(EXPIRED);
        }
        self.abandoned |= line.event == ABANDONED;
        if self.stopped.is_none() {
            line.at.clone_into(&mut self.last_at);
        }
        let Some(action) = line.action() else { return Ok(()) };
        match line.state.as_deref() {
            Some("INTENDED" | "APPROVED") => {
                self.waiting.insert(action);
            }
            _ if self.waiting.remove(&action) => {
                self.decided = Some(line.id());
                self.denied = (line.event == "refused").then_some(action);
                self.cut |= self.stopped.is_some();
            }
            _ => {}
        }
        match line.state.as_deref() {
            Some("COMPLETED" | "FAILED" | "ROLLED_BACK") => {
                self.under_way.remove(&action);
            }
            // What comes beside the latest attempt says nothing of it.
            _ if BESIDE.contains(&&*line.event) => {}
            // What is undone afterwards compensates; nothing of the session waits for it.
            Some("ROLLING_BACK") if line.event != ledger::RETRACTING => {
                self.under_way.remove(&action);
            }
            _ => {
                self.under_way.insert(action, line.event == "in_doubt");
            }
        }
        Ok(())
    }

    /// Nothing that was under way is clean; what is in doubt is not known.
    pub(super) fn halt(&self, session: &Session) -> Halt {
        if self.under_way.values().any(|doubt| *doubt) {
            Halt::Unknown
        } else if session.held + session.in_flight > 0 || self.cut {
            Halt::Partial
        } else {
            Halt::Clean
        }
    }

    /// Since when nobody was heard of, where a session was left behind: its mandate expired, it was still open, and nothing of
    /// it was under way. Said once.
    pub(super) fn left_behind(&self, halt: Halt) -> Option<&str> {
        (self.expired && !self.abandoned && halt == Halt::Clean).then_some(&self.last_at)
    }

    /// The last one that waited, if it was denied when it was judged again.
    pub(super) fn denied(&self) -> Option<ActionId> {
        self.denied
    }

    /// What waits for people.
    pub(super) fn waiting(&self) -> impl Iterator<Item = ActionId> {
        self.waiting.iter().copied()
    }

    /// The record that stopped the session, if it was stopped.
    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Was it stopped by somebody, and not by what it did or did not do?
    pub(super) fn is_by_person(&self, issuer: &str) -> bool {
        self.stopped_by.as_deref().is_some_and(|by| by != issuer)
    }

    /// Those that wait, as what is under way.
    pub(super) fn to_cut(&self) -> impl Iterator<Item = (ActionId, bool)> {
        self.waiting().filter_map(|id| Some((id, *self.under_way.get(&id)?)))
    }

    /// With what was under way and ended with it.
    pub(super) fn with_cut(mut self, cut: &BTreeMap<ActionId, bool>) -> Walked {
        self.under_way.extend(cut);
        self
    }

    /// The record is the one after those that were walked, which it covers.
    pub(super) fn last(&self, turn: Turn) -> Turn {
        Turn { expects: Some(self.next), ..turn }
    }

    /// What was admitted and has not ended.
    pub(super) fn unsettled(&self) -> Vec<ActionId> {
        self.under_way.keys().copied().collect()
    }

    pub(super) fn fields(&self, session: &Session, by: &str, reason: Option<&str>) -> Value {
        let unsettled: Vec<String> = self.under_way.keys().map(ToString::to_string).collect();
        json!({
            "by": by, "cycles": session.cycles, "denials": session.denials, "reason": reason, "records": self.records,
            "records_digest": format!("sha256:{}", hex::encode(self.digest.clone().finalize())),
            "unsettled": unsettled,
        })
    }
}

/// An agent ends what it began, operators whatever there is, and who approves may only stop.
fn may_end(role: Role, completion: Completion) -> Result<(), Error> {
    match (role, completion) {
        (Role::Agent, Completion::Revoked) => {
            Err(Error::new(Code::Forbidden, "an agent ends its session as COMPLETE or PARTIAL")
                .field("/completion"))
        }
        (Role::Approver, Completion::Complete | Completion::Partial) => {
            Err(Error::new(Code::Forbidden, "an approver ends a session as REVOKED").field("/completion"))
        }
        _ => Ok(()),
    }
}

pub(super) fn not_ended(error: ledger::Error, walked: &Walked) -> Error {
    let conflict = |why: String| Error::new(Code::StateConflict, why);
    match error {
        ledger::Error::Session(SessionRefusal::InFlight { actions }) => {
            let ids: Vec<String> = walked.under_way.keys().map(ToString::to_string).collect();
            match ids.split_first() {
                None => conflict(format!("{actions} actions of the session are under way")),
                Some((only, [])) => conflict(format!("under way: {only}")),
                Some((first, rest)) => conflict(format!("under way: {first} and {} more", rest.len()))
                    .hint(format!("all of them: {}", ids.join(", "))),
            }
        }
        ledger::Error::Session(SessionRefusal::State(SessionState::Closed(how))) => {
            conflict(format!("the session is over: {}", how.as_str()))
        }
        ledger::Error::Session(SessionRefusal::State(SessionState::Suspended)) => {
            conflict("the session is SUSPENDED; an operator ends it".to_owned())
        }
        ledger::Error::Session(_) => conflict("the session does not end now".to_owned()),
        ledger::Error::Cluster(refusal) => clusters::refused(refusal, "", clusters::UNNAMED),
        other => named(other, "session"),
    }
}

/// How often a session is walked to its end before it is left for later: whatever is written meanwhile is part of what the
/// last record covers.
pub(super) const MOST_WALKS: u32 = 32;
/// Records read at once.
const PART: u32 = 500;
/// Events of effects that earlier attempts had, whose entries name where the latest one stands.
const BESIDE: [&str; 3] =
    [Alert::LateEffect.as_str(), Alert::DuplicateEffect.as_str(), Alert::Overage.as_str()];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ONE: &str = "01963e5a-0000-7000-8000-000000000001";
    const TWO: &str = "01963e5a-0000-7000-8000-000000000002";

    fn walked(lines: &[(&str, &str, &str)]) -> Walked {
        let mut walked = Walked::default();
        for (seq, (action, event, state)) in (0..).zip(lines) {
            let entry = json!({
                "actionId": action, "at": "2026-01-01T00:00:00.000Z", "chainId": "c", "event": event,
                "hash": "ab", "kernelSignature": "s", "previousHash": null, "seq": seq, "state": state,
                "session": {"causalParent": null, "id": "s", "intentId": null, "seq": seq},
            });
            let entry = serde_json::to_vec(&entry).unwrap();
            walked.take(&Record { seq, row: 0, entry, record: None }).unwrap();
        }
        walked
    }

    fn session(in_flight: u32, held: u32) -> Session {
        let subject = action::Subject::parse("a").unwrap();
        Session { in_flight, held, ..Session::open("s", subject, "m", 0) }
    }

    #[test]
    fn what_has_not_ended_is_under_way_and_doubt_is_not_known() {
        let sent = (ONE, "admitted", "EXECUTING");
        let rolling_back = (ONE, "rolling_back", "ROLLING_BACK");
        let cases = [
            (vec![sent], (1, 0), Halt::Partial),
            (vec![sent, (ONE, "executed", "COMPLETED")], (0, 0), Halt::Clean),
            (vec![sent, (ONE, "in_doubt", "EXECUTING")], (1, 0), Halt::Unknown),
            (vec![sent, (ONE, "in_doubt", "EXECUTING"), (ONE, "failed", "FAILED")], (0, 0), Halt::Clean),
            (vec![(TWO, "held", "INTENDED")], (0, 1), Halt::Partial),
            // What is undone before the last word is said is under way until that is said.
            (vec![sent, (ONE, "retracting", "ROLLING_BACK")], (1, 0), Halt::Partial),
            (vec![(ONE, "retracting", "ROLLING_BACK"), rolling_back], (0, 0), Halt::Clean),
            // An effect of an attempt before the latest leaves that where it was.
            (vec![(ONE, "in_doubt", "EXECUTING"), (ONE, "late_effect", "EXECUTING")], (1, 0), Halt::Unknown),
            (vec![rolling_back, (ONE, "duplicate_effect", "ROLLING_BACK")], (0, 0), Halt::Clean),
            (
                vec![sent, (ONE, "late_effect", "COMPLETED"), (ONE, "overage", "COMPLETED")],
                (0, 0),
                Halt::Clean,
            ),
        ];
        for (lines, (in_flight, held), expected) in cases {
            let walked = walked(&lines);
            assert_eq!(walked.halt(&session(in_flight, held)), expected, "{lines:?}");
            assert_eq!(walked.under_way.len() as u32, in_flight + held, "{lines:?}");
        }
    }

    #[test]
    fn who_cannot_end_it_yet_is_told_what_is_under_way() {
        let refusal = |actions| ledger::Error::Session(SessionRefusal::InFlight { actions });
        let one = walked(&[(ONE, "admitted", "EXECUTING")]);
        assert_eq!(not_ended(refusal(1), &one).message, format!("under way: {ONE}"));
        let two = walked(&[(ONE, "admitted", "EXECUTING"), (TWO, "held", "INTENDED")]);
        let told = not_ended(refusal(2), &two);
        assert_eq!(told.message, format!("under way: {ONE} and 1 more"));
        assert!(told.hint.unwrap().contains(TWO));
    }
}
