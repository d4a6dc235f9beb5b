//! Hold: an action that waits for a person.

use action::ActionId;
use boundary::Escalation;
use ledger::{Admitted, Effect, State, Tolerance};

use super::case::Case;
use super::describe::Judged;
use super::reasons::held_details;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind, Outcome};
use crate::remember::unavailable;
use crate::request::Answer;
use crate::row::IntentRow;
use crate::{Error, clock};

impl Gateway {
    /// An action that waits for a person: key and effect are claimed, nothing is debited, nothing is sent.
    pub(super) async fn hold(
        &self,
        case: &Case<'_>,
        mut judged: Judged,
        escalation: &Escalation,
    ) -> Result<Answer, Error> {
        let Details { reasons, earlier_transaction, .. } = held_details(escalation);
        judged.row.held_for = reasons;
        judged.row.earlier_transaction = earlier_transaction;
        let pending = self.pending(case, judged);
        let wait_ms =
            i64::try_from(self.config.limits.held_seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        let until_ms = case.asked.arrival.at_ms.saturating_add(wait_ms);
        let admission = ledger::Admission {
            intent: self.intent(&self.row_of(case, &pending, "held", State::Held), &pending.row)?,
            hold_until_ms: Some(until_ms),
            debits: Vec::new(),
            effect: case.effect.map(|effect| Effect { tolerate: Tolerance::Anything, ..effect }),
            destination: None,
        };
        match self.ledger.admit(admission).await.map_err(unavailable)? {
            Admitted::New { .. } => {
                self.metrics.outcome(Kind::Held);
                Ok(self.say_held(pending.id, &pending.row, until_ms, false))
            }
            Admitted::Existing(existing) => self.answer_again(case.asked.tenant, existing).await,
            Admitted::Refused(obstacle) => self.block_at_admission(case, pending, &obstacle).await,
        }
    }

    /// What a held action is answered, first and on every repetition.
    pub(crate) fn say_held(&self, id: ActionId, row: &IntentRow, until_ms: i64, replayed: bool) -> Answer {
        let outcome = Outcome {
            action_id: Some(id),
            kind: Kind::Held,
            code: None,
            receipt: None,
            correlation_id: row.correlation_id.clone(),
            details: Details {
                reasons: row.held_for.clone(),
                earlier_transaction: row.earlier_transaction.clone(),
                hold_reason: Some("approval".to_owned()),
                expires_at: Some(clock::timestamp(until_ms).as_str().to_owned()),
                status_url: Some(self.status_url(id)),
                ..Details::default()
            },
        };
        Answer { reply: (self.render)(&outcome, &self.public_url), replayed, action_id: Some(id) }
    }
}
