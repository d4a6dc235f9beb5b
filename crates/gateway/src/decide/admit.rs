//! Admit: what may be done is written down as sent, with every claim and debit that must not race.

use std::sync::Arc;
use std::time::Instant;

use action::{Money, OnDuplicate};
use boundary::{Permit, Trigger};
use execution::Confirmation;
use ledger::{Admitted, Debit, Effect, Obstacle, State, Tolerance};
use mandate::Mandate;

use super::again::overtaken;
use super::case::Case;
use super::describe::{Judged, judged_again};
use crate::act::{Errand, SEND_WINDOW};
use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::pending::Pending;
use crate::request::Next;
use crate::row::{CallRow, internal};
use crate::{Error, clock};

impl Gateway {
    /// Commit 1, and the errand if it is admitted. `None`: judge anew.
    pub(super) async fn admit(
        self: &Arc<Self>,
        case: &Case<'_>,
        mut judged: Judged,
        permit: Permit,
        facts: &ledger::Facts,
        quote: Option<Money>,
    ) -> Result<Option<Next>, Error> {
        let quote_only = case.action.payment_mode == action::PaymentMode::QuoteOnly;
        judged.row.call = Some(self.call_row(case)?);
        let pending = self.pending(case, judged);
        let admission = self.admission(case, &pending, facts, quote_only)?;
        // Before it can be found as sent: recovery must not take it for an orphan.
        let under_way = match &case.resumed {
            Some(resumed) => resumed.under_way.clone(),
            None => self.under_way(case.id),
        };
        let started = Instant::now();
        let admitted = self.enter(case, admission).await?;
        self.metrics.step(Step::Admit, started.elapsed());
        match admitted {
            Admitted::New { .. } => Ok(Some(Next::Admitted(Box::new(Errand {
                under_way,
                tenant: Arc::clone(case.asked.tenant),
                call: pending.call_of(self.environment, &case.action)?,
                pending: pending.remembered()?,
                permit,
                provider: Arc::clone(&case.provider),
                admitted: Instant::now(),
                deadline: case.asked.arrival.deadline(case.action.deadline_ms),
                quoted: quote.filter(|_| quote_only).map(quoted),
            })))),
            Admitted::Existing(existing) => {
                self.answer_again(case.asked.tenant, existing).await.map(Next::Said).map(Some)
            }
            Admitted::Refused(Obstacle::MandateChanged { .. }) => Ok(None),
            Admitted::Refused(Obstacle::NotApproved) => Err(overtaken()),
            // Somebody did the same a moment ago: whether people agreed to that too is for the judge.
            Admitted::Refused(Obstacle::Duplicate(_)) if case.resumed.is_some() => Ok(None),
            Admitted::Refused(Obstacle::Duplicate(earlier))
                if case.action.archetype.duplicate.on == OnDuplicate::Escalate =>
            {
                let trigger = Trigger::ProbableDuplicate { earlier: earlier.id };
                let judged = judged_again(pending);
                self.hold(case, judged, &[trigger]).await.map(Next::Said).map(Some)
            }
            Admitted::Refused(obstacle) => {
                self.block_at_admission(case, pending, &obstacle).await.map(Next::Said).map(Some)
            }
        }
    }

    /// What is claimed and debited; a price that was only asked for claims nothing, costs nothing and went nowhere.
    fn admission(
        &self,
        case: &Case<'_>,
        pending: &Pending,
        facts: &ledger::Facts,
        quote_only: bool,
    ) -> Result<ledger::Admission, Error> {
        let intent = self.intent(&self.row_of(case, pending, "admitted", State::Sent), &pending.row)?;
        Ok(ledger::Admission {
            intent: ledger::Intent { amount: intent.amount.filter(|_| !quote_only), ..intent },
            hold: None,
            debits: debits(case.standing.mandate.as_deref(), facts),
            effect: case.effect.filter(|_| !quote_only).map(|effect| Effect {
                // The judge has seen this one and let it pass: it is repeated on purpose, or people agreed.
                tolerate: match (effect.tolerate, facts.earlier) {
                    (Tolerance::Nothing, Some(earlier)) => Tolerance::This(earlier.id),
                    (tolerance, _) => tolerance,
                },
                ..effect
            }),
            destination: case.action.destination.as_deref().filter(|_| !quote_only).map(Into::into),
        })
    }

    pub(super) fn call_row(&self, case: &Case<'_>) -> Result<CallRow, Error> {
        const FIRST: u32 = 1;
        let Some(key) = case.asked.key else {
            return Err(internal("an action without a key was to be sent"));
        };
        let caller = case.asked.caller;
        let patience = SEND_WINDOW + case.provider.patience();
        let archetype = &case.action.archetype.name;
        let hmac = &case.asked.tenant.hmac;
        Ok(CallRow {
            attempt: FIRST,
            provider: case.provider.name().to_owned(),
            identity: Some(case.provider.identity().to_owned()),
            provider_key: execution::provider_key(
                hmac,
                self.environment,
                &caller.subject,
                key,
                archetype,
                FIRST,
            ),
            reference: execution::reference(&case.id, FIRST),
            send_by_ms: clock::now_ms() + i64::try_from(patience.as_millis()).unwrap_or(i64::MAX / 2),
        })
    }
}

fn debits(mandate: Option<&Mandate>, facts: &ledger::Facts) -> Vec<Debit> {
    mandate
        .zip(facts.accounts.first())
        .map(|(mandate, account)| Debit {
            jti: mandate.jti.as_str().into(),
            epoch: account.epoch,
            limits: mandate.limits(),
        })
        .into_iter()
        .collect()
}

/// A quote as the confirmation of an action that only asked for one.
fn quoted(price: Money) -> Confirmation {
    let answer = serde_json::json!({ "currency": price.currency().code(), "quote": price.to_string() });
    Confirmation { reference: None, answer, charged: None }
}
