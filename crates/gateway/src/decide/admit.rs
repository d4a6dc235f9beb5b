//! Admit: what may be done is written down as sent, with every claim and debit that must not race.

use std::sync::Arc;
use std::time::Instant;

use action::{GuaranteeLevel, Money, OnDuplicate, PaymentMode};
use boundary::{Permit, Trigger};
use execution::{Call, Confirmation, Event, Execution, Purpose, Stood};
use ledger::{Admitted, Basis, By, Debit, Effect, Link, Obstacle, State, Tolerance};
use mandate::{Account, Mandate};
use serde_json::value::RawValue;

use super::again::overtaken;
use super::case::Case;
use super::describe::{Judged, judged_again};
use super::reasons::{obstacle_of, stop};
use crate::act::{Errand, SEND_WINDOW};
use crate::authority::Standing;
use crate::crash::Point;
use crate::forgotten::{BY_HAND, by_all_names, known_of, must_be_asked};
use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::pending::{Pending, terms};
use crate::request::Next;
use crate::row::{CallRow, internal, raw};
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
        let quote_only = case.action.payment_mode == PaymentMode::QuoteOnly;
        match self.snapshot(case).await {
            Ok(snapshot) => judged.row.snapshot = snapshot,
            Err(()) => return self.without_snapshot(case, judged).await.map(Next::Said).map(Some),
        }
        let cycle = permit.footing().map(|footing| ledger::Cycle {
            session: footing.session_id.clone(),
            epoch: footing.session_epoch,
            sequence: Some(footing.sequence),
            intent: Some(footing.intent_id.clone()),
        });
        let rests = permit.rests_on_accounts();
        let call = self.next_call(case)?;
        let (call, known) = match quote.or(case.action.money) {
            Some(price) if quote_only => (call, Some(quoted(price))),
            None if quote_only => return Err(internal("what only asks for a price has none")),
            _ => self.as_known(case, call).await?,
        };
        let execution = self.go(case, permit, call)?;
        let call = execution.call();
        let lease_ms = call.send_by_ms.saturating_add(LEASE_AFTER_MS);
        let mut sent = CallRow::new(call, case.provider.as_ref(), Some(execution.course()));
        if known.is_some() && !quote_only {
            // It left before the store forgot it, and so may have what followed on it.
            sent.first_ms = self.forgot_by_ms(&call.tenant).or(sent.first_ms);
        }
        judged.row.call = Some(sent);
        let mut pending = self.pending(case, judged);
        let mut admission =
            ledger::Admission { cycle, ..self.admission(case, &pending, facts, quote_only, lease_ms)? };
        // What was sent before has had its part already, and was judged without it.
        if rests && case.before().is_none() {
            let seen = facts.accounts.iter().cloned().map(Some);
            admission.debits.iter_mut().zip(seen).for_each(|(debit, seen)| debit.seen = seen);
        }
        let name = admission.intent.entry.action_hash.unwrap_or_default();
        // Before it can be found as sent: recovery must not take it for an orphan.
        let under_way = match &case.resumed {
            Some(resumed) => resumed.under_way.clone(),
            None => self.under_way(case.id),
        };
        let started = Instant::now();
        self.at(Point::AdmissionBefore)?;
        let admitted = self.enter(case, admission).await?;
        self.metrics.step(Step::Admit, started.elapsed());
        match admitted {
            Admitted::New { .. } => {
                self.at(Point::AdmissionAfter)?;
                pending.name = name;
                if let (Some(_), By::Holder(token)) = (&case.resumed, pending.by) {
                    pending.by = By::Holder(token.saturating_add(1));
                }
                let usual_ms = self.config.limits.patience_ms;
                let mut patience = case.asked.arrival.patience(case.action.deadline_ms, usual_ms);
                // Its caller waits since it came in, however long it took to tell who it is.
                patience.deadline = case.asked.ask.wait.deadline().or(patience.deadline);
                Ok(Some(Next::Admitted(Box::new(Errand {
                    under_way,
                    tenant: Arc::clone(case.asked.tenant),
                    pending: pending.remembered()?,
                    execution,
                    provider: Arc::clone(&case.provider),
                    admitted: Instant::now(),
                    patience,
                    known,
                }))))
            }
            Admitted::Existing(existing) => {
                self.answer_again(case.asked.tenant, existing).await.map(Next::Said).map(Some)
            }
            Admitted::Refused(Obstacle::MandateChanged { .. }) => Ok(None),
            Admitted::Refused(obstacle) if case.may_be_judged_anew(&obstacle) => Ok(None),
            Admitted::Refused(Obstacle::Overtaken) => Err(overtaken()),
            Admitted::Refused(obstacle) if case.before().is_some() => {
                let (code, _, details) = obstacle_of(&obstacle);
                Ok(Some(Next::NotNow(stop(code, details))))
            }
            // Somebody did the same a moment ago: whether people agreed to that too is for the judge.
            Admitted::Refused(Obstacle::Duplicate(_)) if case.resumed.is_some() => Ok(None),
            Admitted::Refused(Obstacle::Duplicate(earlier))
                if case.action.archetype.duplicate.on == OnDuplicate::Escalate =>
            {
                let trigger = Trigger::ProbableDuplicate { earlier: earlier.id };
                let judged = judged_again(pending);
                Ok(self.hold(case, judged, &[trigger]).await?.map(Next::Said))
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
        lease_ms: i64,
    ) -> Result<ledger::Admission, Error> {
        let event = match case.before().map(|before| before.stood) {
            None => ledger::ADMITTED,
            Some(Stood::Reserved(_)) => ledger::CHARGING,
            Some(_) => ledger::SENT_AGAIN,
        };
        let intent = self.intent(&self.row_of(case, pending, event, State::Sent), &pending.row)?;
        // What it has debited and claimed stands.
        let stands = matches!(case.resumed.as_ref().map(|it| it.basis), Some(Basis::Sent { .. }));
        Ok(ledger::Admission {
            cycle: None,
            intent: ledger::Intent {
                amount: intent.amount.filter(|_| !quote_only),
                usage: case.cycle.as_ref().map(|cycle| cycle.usage()).unwrap_or_default(),
                ..intent
            },
            hold: None,
            debits: debits(&case.standing, facts),
            effect: case.effect.filter(|_| !quote_only && !stands).map(|effect| Effect {
                // The judge has seen this one and let it pass: it is repeated on purpose, or people agreed.
                tolerate: match (effect.tolerate, facts.earlier) {
                    (Tolerance::Nothing, Some(earlier)) => Tolerance::This(earlier.id),
                    (tolerance, _) => tolerance,
                },
                ..effect
            }),
            destination: case.action.destination.as_deref().filter(|_| !quote_only).map(Into::into),
            lease_ms,
        })
    }

    /// What there is before the action changes it, where that is promised and the provider can say; as it was before the
    /// first attempt.
    async fn snapshot(&self, case: &Case<'_>) -> Result<Option<Box<RawValue>>, ()> {
        if let Some(before) = case.before() {
            return Ok(before.snapshot.clone());
        }
        if case.action.guarantee_level != GuaranteeLevel::Atp3 {
            return Ok(None);
        }
        let ask = provider::Ask {
            action_id: case.id,
            constraints: &case.action.constraints,
            bound: case.action.bound,
            now_ms: clock::now_ms(),
        };
        self.at(Point::SnapshotBefore).map_err(drop)?;
        let _asks = case.asked.ask.wait.asks();
        let snapshot = case.provider.snapshot(ask).await.map_err(|unseen| {
            tracing::warn!(action = %case.id, why = %unseen, "no snapshot");
        })?;
        self.at(Point::SnapshotAfter).map_err(drop)?;
        snapshot.map(|it| raw(action::json::canonical(&it)).map_err(drop)).transpose()
    }

    /// What goes: the next attempt, or the same once more where its fate is not known, or what charges its reservation.
    fn next_call(&self, case: &Case<'_>) -> Result<Call, Error> {
        let attempt = case.before().map_or(FIRST, |before| match before.stood {
            Stood::Waiting { .. } | Stood::Failed => before.call.attempt.saturating_add(1),
            _ => before.call.attempt,
        });
        let call = self.call(case, attempt)?;
        let reservation = case.before().and_then(|before| before.reservation.as_ref());
        Ok(match reservation.and_then(|it| Some((it, it.charging()?))) {
            Some((reservation, capture)) => {
                let (purpose, money) = reservation.charge(capture, call.money)?;
                let (provider_key, reference) = (capture.provider_key.clone(), capture.reference.clone());
                Call { provider_key, reference, purpose, money, ..call }
            }
            None => call,
        })
    }

    /// The call, unless the store has forgotten that its provider has had it or a later attempt: that one then, and what the
    /// provider says of it. It is asked once, however often the action is judged.
    async fn as_known(&self, case: &Case<'_>, call: Call) -> Result<(Call, Option<Confirmation>), Error> {
        let Some(until_ms) = self.forgot_at_ms(&call, case.provider.as_ref()) else {
            return Ok((call, None));
        };
        let known = case.known.get_or_try_init(|| self.forgotten_of(case, &call, until_ms)).await?;
        // To ask took time, and it may leave for as long as ever.
        let send_by_ms = self.call(case, call.attempt)?.send_by_ms;
        Ok(match known.clone() {
            Some((call, confirmation)) => (Call { send_by_ms, ..call }, Some(confirmation)),
            None => (Call { send_by_ms, ..call }, None),
        })
    }

    /// What its provider has done of it, or of what may have followed on it, before the store forgot that.
    async fn forgotten_of(
        &self,
        case: &Case<'_>,
        call: &Call,
        until_ms: i64,
    ) -> Result<Option<(Call, Confirmation)>, Error> {
        let is_sent_again = case.before().is_some_and(|before| matches!(before.stood, Stood::InDoubt));
        // What followed on a call that is on record was asked after where that is gone on with.
        if is_sent_again || matches!(call.purpose, Purpose::Capture { .. } | Purpose::Release { .. }) {
            return Ok(None);
        }
        let on_record = case.before().map(|before| &*before.call.reference);
        let retries = case.action.retry.map_or(0, |policy| policy.max_retries);
        let mut calls: Vec<Call> = by_all_names(call.clone(), on_record).collect();
        for more in 1..=retries.saturating_add(BY_HAND) {
            calls.extend(by_all_names(self.call(case, call.attempt.saturating_add(more))?, on_record));
        }
        // Of what waits that was asked already ([`Gateway::followed_on`]).
        let waits = case.before().is_some_and(|before| matches!(before.stood, Stood::Waiting { .. }));
        if call.purpose == Purpose::Reserve && !waits {
            self.must_not_be_charged(&case.asked.tenant.hmac, case.provider.as_ref(), &calls, until_ms)
                .await?;
        }
        let known = known_of(case.provider.as_ref(), calls, until_ms).await?.pop();
        let Some((call, mut confirmation)) = known else { return Ok(None) };
        // What is on record from before has had its key all the time, and more than was asked for is an overage then.
        let is_older = i64::try_from(call.action_id.unix_ms()).is_ok_and(|at_ms| at_ms < until_ms);
        if case.before().is_none() && !is_older {
            must_be_asked(case.provider.as_ref(), &call, &confirmation)?;
        }
        if call.purpose == Purpose::Reserve && confirmation.expires_ms.is_none() {
            // Nobody says when it was made, so that it is kept for no longer; it is set free.
            confirmation.expires_ms = Some(clock::now_ms());
        }
        Ok(Some((call, confirmation)))
    }

    /// It may go.
    fn go(&self, case: &Case<'_>, permit: Permit, call: Call) -> Result<Execution, Error> {
        let (action, provider) = (&case.action, case.provider.as_ref());
        let deadline_ms = action.deadline_ms.and_then(|ms| i64::try_from(ms).ok());
        let deadline_ms = deadline_ms.map(|ms| case.asked.arrival.at_ms.saturating_add(ms));
        let terms =
            terms(provider, action.guarantee_level, Some(action.payment_mode), action.retry, deadline_ms);
        let call = Arc::new(call);
        let execution = match case.before() {
            None => Execution::intended(Arc::clone(&call), terms),
            Some(before) => {
                let CallRow { attempt, provider_key, reference, .. } = before.call.clone();
                let sent = match before.stood {
                    Stood::InDoubt => Call { provider_key, reference, ..Call::clone(&call) },
                    // Attempts that the store has forgotten came between.
                    _ if call.attempt > attempt.saturating_add(1) => self.call(case, call.attempt - 1)?,
                    _ => Call { provider_key, reference, ..self.call(case, attempt)? },
                };
                Execution::recover(sent, terms, before.call.course(), before.stood)
            }
        };
        self.step(execution, Event::Go(permit, call)).map(|(execution, _)| execution)
    }

    pub(super) fn call(&self, case: &Case<'_>, attempt: u32) -> Result<Call, Error> {
        let Some(key) = case.asked.key else {
            return Err(internal("an action without a key was to be sent"));
        };
        let caller = case.asked.caller;
        let patience = SEND_WINDOW + case.provider.patience();
        let archetype = &case.action.archetype;
        let hmac = &case.asked.tenant.hmac;
        let alias = case.asked.tenant.alias(self.environment, &caller.subject, key);
        Ok(Call {
            action_id: case.id,
            tenant: caller.tenant.clone(),
            environment: self.environment,
            archetype: Arc::clone(archetype),
            constraints: case.action.constraints.clone(),
            money: mandate::exposure(&case.action),
            attempt,
            provider_key: execution::provider_key(
                hmac,
                self.environment,
                &caller.subject,
                key,
                &archetype.name,
                attempt,
            ),
            reference: execution::reference(alias, &case.request_hash, attempt),
            send_by_ms: clock::now_ms() + i64::try_from(patience.as_millis()).unwrap_or(i64::MAX / 2),
            purpose: match case.action.payment_mode {
                PaymentMode::ReserveIfAvailable => Purpose::Reserve,
                _ => Purpose::Act,
            },
        })
    }
}

pub(super) const FIRST: u32 = 1;

/// So long whoever sent a call may take to write down what came of it, after its provider's time is over.
const LEASE_AFTER_MS: i64 = 5_000;

/// The mandate and every one that it descends from, leaf first.
fn debits(standing: &Standing, facts: &ledger::Facts) -> Vec<Debit> {
    let debit = |(mandate, account): (&Arc<Mandate>, &Account)| Debit {
        link: Link { jti: mandate.jti.as_str().into(), limits: mandate.limits() },
        epoch: account.epoch,
        seen: None,
    };
    standing.chain().zip(&facts.accounts).map(debit).collect()
}

/// A quote as the confirmation of an action that only asked for one.
fn quoted(price: Money) -> Confirmation {
    let answer = serde_json::json!({ "currency": price.currency().code(), "quote": price.to_string() });
    Confirmation { answer, ..Confirmation::default() }
}
