//! Refuse: one commit holds the refusal, its receipt and its reply.

use std::time::Instant;

use boundary::Decision;
use ledger::{Obstacle, Recorded, State};
use receipt::{NewEntry, Stage};
use sha2::{Digest, Sha256};

use super::admit::FIRST;
use super::case::Case;
use super::describe::{Judged, judged_again};
use super::reasons::obstacle_of;
use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::outcome::{Details, Kind, Outcome, ReceiptRef};
use crate::pending::Pending;
use crate::prove::{Ending, push, refused};
use crate::remember::{Row, stored, telling, unavailable};
use crate::request::Answer;
use crate::row::{CallRow, OutcomeRow};
use crate::{Code, Error, Wait, clock};

impl Gateway {
    /// What admission refuses stands in the entry `execute`.
    pub(super) async fn block_at_admission(
        &self,
        case: &Case<'_>,
        pending: Pending,
        obstacle: &Obstacle,
    ) -> Result<Answer, Error> {
        let (code, reason, details) = obstacle_of(obstacle);
        let error = refused(code, reason)?;
        let mut judged = judged_again(pending);
        push(&mut judged.chain, Stage::Execute, || Ok(NewEntry { error, ..NewEntry::at(clock::now()) }))?;
        self.block(case, judged, code, details, None).await
    }

    /// The one commit of a refusal: receipt and reply included, and the halt of its session where it is the last cycle of that.
    pub(super) async fn block(
        &self,
        case: &Case<'_>,
        judged: Judged,
        code: Code,
        details: Details,
        halts: Option<ledger::Event>,
    ) -> Result<Answer, Error> {
        let pending = Pending { halts, ..self.pending(case, judged) };
        if case.resumed.is_some() {
            self.must_not_be_done_of(case.asked.tenant, case.id).await?;
            let ending = self.blocked(pending.chain.clone(), code, details);
            return self.conclude(case.asked.tenant, &pending, Ok(ending)).await;
        }
        let row = self.row_of(case, &pending, "refused", State::Refused);
        let why = why(code, &details, case.action.delegation_token.as_deref());
        // Of a session each refusal is on record.
        if case.cycle.is_none()
            && let Some(answer) = self.repeats(&row, &pending, (code, &why)).await?
        {
            return Ok(answer);
        }
        let ending = self.blocked(pending.chain.clone(), code, details);
        self.refuse(&row, &pending, why, ending, (entered(case), &case.asked.ask.wait)).await
    }

    /// A provider that must name its price does not: nothing can be authorised and nothing was sent.
    pub(super) async fn without_quote(&self, case: &Case<'_>, decision: Decision) -> Result<Answer, Error> {
        // What is only asked about, once more or for the first time, does not end by it.
        if case.asked.ask.dry_run || case.asked_anew().is_some() {
            return Err(Error::new(Code::ProviderFailed, "the provider named no price").retry_after(5));
        }
        let (mut judged, _) = self.describe_case(case, decision)?;
        let call = self.call(case, FIRST)?;
        judged.row.call = Some(CallRow::new(&call, case.provider.as_ref(), None));
        let pending = self.pending(case, judged);
        let ending = self.failed(&pending, Code::ProviderFailed, "no_quote", None)?;
        if case.resumed.is_some() {
            self.must_not_be_done_of(case.asked.tenant, case.id).await?;
            return self.conclude(case.asked.tenant, &pending, Ok(ending)).await;
        }
        let row = self.row_of(case, &pending, "failed", State::Failed);
        let about = (entered(case), &case.asked.ask.wait);
        self.refuse(&row, &pending, Code::ProviderFailed.as_str().into(), ending, about).await
    }

    /// A provider that must say what there is before does not: nothing is sent.
    pub(super) async fn without_snapshot(
        &self,
        case: &Case<'_>,
        mut judged: Judged,
    ) -> Result<Answer, Error> {
        let call = self.call(case, FIRST)?;
        judged.row.call = Some(CallRow::new(&call, case.provider.as_ref(), None));
        let pending = self.pending(case, judged);
        let ending = self.failed(&pending, Code::ProviderFailed, "no_snapshot", None)?;
        if case.resumed.is_some() {
            self.must_not_be_done_of(case.asked.tenant, case.id).await?;
            return self.conclude(case.asked.tenant, &pending, Ok(ending)).await;
        }
        let row = self.row_of(case, &pending, "failed", State::Failed);
        let about = (entered(case), &case.asked.ask.wait);
        self.refuse(&row, &pending, Code::ProviderFailed.as_str().into(), ending, about).await
    }

    pub(super) async fn refuse(
        &self,
        row: &Row<'_>,
        pending: &Pending,
        why: Box<str>,
        ending: Ending<'_>,
        (cycle, wait): (Option<ledger::Cycle>, &Wait),
    ) -> Result<Answer, Error> {
        let started = Instant::now();
        let intent = self.intent(row, &pending.row)?;
        let pending = Pending { name: intent.entry.action_hash.unwrap_or_default(), ..pending.clone() };
        let proven = self.prove(&pending, ending, &pending.row.correlation_id)?;
        self.metrics.step(Step::Prove, started.elapsed());
        let reply = proven.reply;
        let refusal = ledger::Refusal {
            cycle,
            intent,
            halts: pending.halts.clone(),
            why,
            outcome: ledger::Outcome {
                at_ms: proven.at_ms,
                state: proven.state,
                reply: Some(ledger::Reply { status: reply.status, body: reply.body.clone() }),
                receipt: proven.receipt.zip(proven.receipt_id).map(|(receipt, id)| stored(receipt, &id)),
                payload: proven.kept,
                entry: telling(row.tenant, row.event, row.state, 1),
            },
        };
        let started = Instant::now();
        wait.hand_over()?;
        let recorded = self.ledger.refuse(refusal).await.map_err(unavailable)?;
        self.metrics.step(Step::Settle, started.elapsed());
        match recorded {
            Recorded::New { .. } => {
                self.metrics.outcome(proven.outcome.kind);
                Ok(Answer {
                    reply,
                    replayed: false,
                    action_id: Some(pending.id),
                    cycle: None,
                    foreseen: None,
                })
            }
            Recorded::Existing(existing) => {
                let tenant = self.tenant(&row.caller.tenant)?;
                self.answer_again(tenant, existing).await
            }
        }
    }

    /// The same request was refused for the same reason a moment ago: that receipt, and how often it was asked for.
    pub(super) async fn repeats(
        &self,
        row: &Row<'_>,
        pending: &Pending,
        (code, why): (Code, &str),
    ) -> Result<Option<Answer>, Error> {
        let (tenant, subject) = (&row.caller.tenant, &row.caller.subject);
        let repeat = self.ledger.repeated(tenant, subject, why, row.request_hash, row.at_ms).await;
        let Some(repeat) = repeat.map_err(unavailable)? else { return Ok(None) };
        let outcomes = self.ledger.outcomes(tenant, repeat.action).await.map_err(unavailable)?;
        // One that was erased meanwhile has nothing more to say.
        let first = outcomes.into_iter().next().filter(|first| !first.payload.is_empty());
        let Some(first) = first else { return Ok(None) };
        let kept = OutcomeRow::from_bytes(&first.payload)?;
        let outcome = Outcome {
            action_id: Some(repeat.action),
            kind: Kind::Blocked,
            code: Some(code),
            receipt: first.receipt.map(|it| ReceiptRef {
                receipt_id: it.id.into(),
                signature: it.signature.into(),
                short: it.short.into(),
            }),
            correlation_id: pending.row.correlation_id.clone(),
            details: Details { repeats: Some(repeat.count), ..kept.details },
        };
        let reply = (self.render)(&outcome, &self.public_url);
        Ok(Some(Answer {
            reply,
            replayed: false,
            action_id: Some(repeat.action),
            cycle: None,
            foreseen: None,
        }))
    }
}

/// What it is in its session.
fn entered(case: &Case<'_>) -> Option<ledger::Cycle> {
    case.cycle.as_ref().and_then(|cycle| cycle.entered())
}

/// What makes another refusal of the same request the same: code, reasons, and the token it was asked under, which is not kept.
pub(super) fn why(code: Code, details: &Details, token: Option<&str>) -> Box<str> {
    let token = token.map(|token| hex::encode(Sha256::digest(token)));
    let reasons = details.reasons.iter().map(String::as_str);
    let parts = [code.as_str()].into_iter().chain(reasons).chain(token.as_deref());
    parts.collect::<Vec<_>>().join("\n").into()
}
