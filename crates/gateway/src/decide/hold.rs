//! Hold: an action that waits for a person.

use action::ActionId;
use boundary::Trigger;
use ledger::{Admitted, Effect, Hold, Obstacle, State, Stored, Tolerance};

use super::again::{Resumed, overtaken};
use super::case::Case;
use super::describe::Judged;
use super::reasons::held_details;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind, Outcome};
use crate::request::Answer;
use crate::row::{ANEW, Changed, EscalationRow, IntentRow, TriggerRow};
use crate::{Error, clock};

impl Gateway {
    /// An action that waits for a person: key and effect are claimed, nothing is debited, nothing is sent. `None`: judge
    /// anew.
    pub(super) async fn hold(
        &self,
        case: &Case<'_>,
        mut judged: Judged,
        triggers: &[Trigger],
    ) -> Result<Option<Answer>, Error> {
        let Details { reasons, earlier_transaction, .. } = held_details(triggers);
        judged.row.held_for = reasons;
        judged.row.earlier_transaction = earlier_transaction;
        let (parties, principals) = (parties(case), principals(case, triggers));
        let needed = needed(case.action.archetype.approvals, &principals, &parties);
        judged.row.escalation = Some(EscalationRow {
            triggers: triggers.iter().map(TriggerRow::of).collect(),
            parties,
            principals,
            seen: None,
            anew: case.resumed.as_ref().map(|resumed| why_anew(resumed, &judged.row)),
        });
        let pending = self.pending(case, judged);
        let wait_ms =
            i64::try_from(self.config.limits.held_seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        let until_ms = match &case.resumed {
            // Who is held once more does not wait longer for it.
            Some(resumed) => resumed.until_ms,
            None => case.asked.arrival.at_ms.saturating_add(wait_ms),
        };
        // What waits without a key asks nobody: people of that tenant do not exist.
        let most = match case.asked.caller.is_anonymous() {
            true => u32::MAX,
            false => self.config.limits.held_per_agent,
        };
        let admission = ledger::Admission {
            cycle: case.cycle.as_ref().and_then(|cycle| cycle.entered()),
            intent: self.intent(&self.row_of(case, &pending, ledger::HELD, State::Held), &pending.row)?,
            hold: Some(Hold { until_ms, needed, most }),
            debits: Vec::new(),
            effect: case.effect.map(|effect| Effect { tolerate: Tolerance::Anything, ..effect }),
            destination: None,
            lease_ms: 0,
        };
        self.at(Point::HoldBefore)?;
        match self.enter(case, admission).await? {
            Admitted::New { .. } => {
                self.at(Point::HoldAfter)?;
                self.metrics.outcome(Kind::Held);
                Ok(Some(self.say_held(pending.id, &pending.row, until_ms, "approval", false)))
            }
            Admitted::Existing(existing) => self.answer_again(case.asked.tenant, existing).await.map(Some),
            Admitted::Refused(Obstacle::Overtaken) => Err(overtaken()),
            Admitted::Refused(obstacle) if case.may_be_judged_anew(&obstacle) => Ok(None),
            Admitted::Refused(obstacle) => self.block_at_admission(case, pending, &obstacle).await.map(Some),
        }
    }

    /// What is answered about an action that was answered before and has no final reply: that it waits, or that it was
    /// sent after it had waited or failed. `None`: the first answer is still to come.
    pub(crate) fn say_meanwhile(&self, stored: &Stored, row: &IntentRow) -> Option<Answer> {
        let until_ms = stored.expires_ms.unwrap_or(stored.at_ms);
        match stored.state {
            State::Held => Some(self.say_held(stored.id, row, until_ms, "approval", true)),
            State::Approved => Some(self.say_held(stored.id, row, until_ms, "approved", true)),
            State::Reserved | State::ReleaseFailed => self.say_reserved(stored.id, row, true).ok(),
            State::Challenged => self.say_challenged(stored.id, row, true),
            State::InDoubt if row.was_challenged() => Some(self.say_sent(stored.id, row)),
            State::Sent
            | State::InDoubt
            | State::Waiting
            | State::Checking
            | State::Unchecked
            | State::Retracting
                if stored.round > 0 || row.was_settled() || row.reservation.is_some() =>
            {
                Some(self.say_sent(stored.id, row))
            }
            State::Sent | State::InDoubt | State::Waiting => None,
            State::Checking | State::Unchecked | State::Retracting => None,
            State::Executed | State::Failed | State::Refused => None,
            State::RollingBack | State::RollbackFailed | State::RolledBack => None,
        }
    }

    pub(crate) fn say_sent(&self, id: ActionId, row: &IntentRow) -> Answer {
        let outcome = Outcome {
            action_id: Some(id),
            kind: Kind::PendingSettlement,
            code: None,
            receipt: None,
            correlation_id: row.correlation_id.clone(),
            details: Details { status_url: Some(self.status_url(id)), ..Details::default() },
        };
        Answer {
            reply: (self.render)(&outcome, &self.public_url),
            replayed: true,
            action_id: Some(id),
            cycle: None,
            foreseen: None,
        }
    }

    /// What a held action is answered, first and on every repetition.
    fn say_held(
        &self,
        id: ActionId,
        row: &IntentRow,
        until_ms: i64,
        hold_reason: &str,
        replayed: bool,
    ) -> Answer {
        let outcome = Outcome {
            action_id: Some(id),
            kind: Kind::Held,
            code: None,
            receipt: None,
            correlation_id: row.correlation_id.clone(),
            details: Details {
                reasons: row.held_for.clone(),
                earlier_transaction: row.earlier_transaction.clone(),
                hold_reason: Some(hold_reason.to_owned()),
                expires_at: Some(clock::timestamp(until_ms).as_str().to_owned()),
                status_url: Some(self.status_url(id)),
                ..Details::default()
            },
        };
        Answer {
            reply: (self.render)(&outcome, &self.public_url),
            replayed,
            action_id: Some(id),
            cycle: None,
            foreseen: None,
        }
    }
}

/// Why people are asked once more, in one stable word.
fn why_anew(resumed: &Resumed, row: &IntentRow) -> String {
    let changed = resumed.escalation.as_ref().and_then(|asked| asked.changed_since(row));
    changed.map_or(ANEW, Changed::as_str).to_owned()
}

/// Who all have to agree, because more than one principal has a say (class 8).
fn principals(case: &Case<'_>, triggers: &[Trigger]) -> Vec<String> {
    match &case.cycle {
        Some(cycle) if triggers.contains(&Trigger::MultiPrincipal) => cycle.principals(),
        _ => Vec::new(),
    }
}

/// How many that is: every principal, and as many others as those of them who gave the right to ask leave to be asked.
fn needed(approvals: u32, principals: &[String], parties: &[String]) -> u32 {
    let count = |names: usize| u32::try_from(names).unwrap_or(u32::MAX);
    let apart = principals.iter().filter(|principal| !parties.contains(principal)).count();
    count(principals.len()).saturating_add(approvals.saturating_sub(count(apart)))
}

/// Who may not decide: who asks, who gave the right to ask by mandate, and who made the key that was used.
fn parties(case: &Case<'_>) -> Vec<String> {
    let caller = case.asked.caller;
    let mut parties = vec![caller.subject.to_string(), case.principal.to_string()];
    parties.extend(caller.key_issuer.clone());
    parties.extend(case.standing.chain().flat_map(|mandate| {
        [mandate.subject.to_string(), mandate.issuer.to_string(), mandate.root_principal().to_owned()]
    }));
    let asked = case.resumed.iter().flat_map(|resumed| &resumed.escalation);
    parties.extend(asked.flat_map(|escalation| escalation.parties.iter().cloned()));
    parties.sort();
    parties.dedup();
    parties
}
