//! Remember: the three writes of the loop, and what the ledger's answers mean to a caller.

use std::sync::Arc;

use action::{ActionId, Money, Period};
use ledger::{Draft, Existing, Intent, Settlement, State};

use crate::alert::Alert;
use crate::audit::labels;
use crate::caller::Caller;
use crate::crash::outcome_of;
use crate::decide::{Named, altered};
use crate::gateway::Gateway;
use crate::late::Beside;
use crate::outcome::{Kind, Outcome, Reply};
use crate::overage::Overage;
use crate::pending::Pending;
use crate::prove::Proven;
use crate::row::{IntentRow, internal};
use crate::tenants::TenantState;
use crate::{Answer, Code, Error, clock};

impl Gateway {
    /// The row of an action, and the entry that names it.
    pub(crate) fn intent(&self, row: &Row<'_>, of: &IntentRow) -> Result<Intent, Error> {
        let Named { payload, name } = of.to_named(row.key)?;
        Ok(Intent {
            id: row.id,
            tenant: row.caller.tenant.clone(),
            environment: self.environment,
            subject: row.caller.subject.clone(),
            key: row.key.map(Into::into),
            request_hash: *row.request_hash,
            archetype: Arc::clone(row.archetype),
            provider: row.provider.map(Into::into),
            principal: Arc::clone(row.principal),
            at_ms: row.at_ms,
            amount: row.amount,
            usage: Default::default(),
            labels: labels(of),
            payload,
            erased_after_ms: of.keeping()?.deleted_after().map(Period::millis),
            entry: draft(row.tenant, row.event, row.state, &name, 1),
        })
    }

    /// Commit 2. The caller hears the reply only after this returned.
    pub(crate) async fn settle(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        proven: Proven,
        overage: Option<Overage>,
        beside: Beside,
    ) -> Result<Reply, Error> {
        let (over, cost) = (overage.as_ref().map(|it| it.receipt_id.clone()), proven.cost(beside.minor));
        let (kind, reply) = (proven.outcome.kind, proven.reply.clone());
        let (before, after) = outcome_of(pending, proven.state);
        let is_over = is_over(proven.state);
        let mut settlement = settlement(tenant, pending, proven, overage);
        beside.added_to(&mut settlement);
        if let Some(used) = &mut settlement.used {
            used.envelopes = self.envelopes(pending, used).await?;
        }
        self.at(before)?;
        let over = match pending.settled || beside.effects {
            true => self.settle_at(tenant, pending, settlement, (&cost, pending.settled)).await?,
            // In time, and alone: it costs what was set aside for it, or has its overage.
            false => {
                self.ledger.settle(settlement).await.map_err(unavailable)?;
                over
            }
        };
        if is_over {
            self.mcp().seats().forget(pending.id);
        }
        self.at(after)?;
        self.metrics.outcome(kind);
        if beside.is_twice(cost.state) {
            self.alert(Alert::DuplicateEffect, pending, cost.receipt_id.as_deref().unwrap_or_default());
        }
        if let Some(receipt_id) = over {
            self.alert(Alert::Overage, pending, &receipt_id);
        }
        Ok(reply)
    }

    /// What a repeated key is answered: the stored reply byte for byte, or that there is none yet.
    pub(crate) async fn answer_again(
        &self,
        tenant: &TenantState,
        existing: Existing,
    ) -> Result<Answer, Error> {
        if !existing.same_request {
            return Err(Error::new(
                Code::IdempotencyMismatch,
                "this idempotency key was used for another request",
            )
            .field("Idempotency-Key")
            .hint("use a new key for a new request"));
        }
        let erased = existing.reply.as_ref().is_some_and(|reply| reply.body.is_empty());
        if existing.altered && !erased {
            return Err(altered(existing.id, &tenant.tenant));
        }
        let reply = match existing.reply {
            Some(reply) => Some(reply),
            None => match self.meanwhile(tenant, existing.id).await? {
                Meanwhile::Said(answer) => return Ok(answer),
                Meanwhile::Ended(reply) => Some(reply),
                Meanwhile::Nothing => None,
            },
        };
        let Some(reply) = reply else {
            return Err(Error::new(
                Code::IdempotencyInFlight,
                "the first request with this key is still under way",
            )
            .field("Idempotency-Key")
            .retry_after(1)
            .of(existing.id));
        };
        if reply.body.is_empty() {
            return Err(Error::new(Code::Erased, "the answer to this key was erased").of(existing.id));
        }
        self.metrics.replay();
        Ok(Answer {
            reply: Reply { status: reply.status, body: reply.body },
            replayed: true,
            action_id: Some(existing.id),
            cycle: None,
            foreseen: None,
        })
    }

    /// What there is to say of an action that has no final reply.
    async fn meanwhile(&self, tenant: &TenantState, id: ActionId) -> Result<Meanwhile, Error> {
        let stored = self.ledger.action(&tenant.tenant, id).await.map_err(unavailable)?;
        let stored = stored.ok_or_else(|| internal("a claimed key has no action"))?;
        if let Some(reply) = stored.reply {
            return Ok(Meanwhile::Ended(reply));
        }
        let row = IntentRow::of(&stored)?;
        let Some(answer) = self.say_meanwhile(&stored, &row) else { return Ok(Meanwhile::Nothing) };
        self.metrics.replay();
        Ok(Meanwhile::Said(answer))
    }
}

/// What is known of an action between its first answer and its last.
enum Meanwhile {
    /// It waits, or was sent a moment ago.
    Said(Answer),
    /// The last word was said just now.
    Ended(ledger::Reply),
    /// Not even the first was.
    Nothing,
}

/// Whether nothing more is sent of an action.
fn is_over(state: State) -> bool {
    matches!(state, State::Executed | State::Failed | State::Refused | State::RolledBack)
}

/// Commit 2 of an action, in the ledger's words.
pub(crate) fn settlement(
    tenant: &TenantState,
    pending: &Pending,
    proven: Proven,
    overage: Option<Overage>,
) -> Settlement {
    let Proven { outcome, state, charged, used, receipt, receipt_id, reply, original, kept, at_ms } = proven;
    Settlement {
        action: pending.id,
        by: pending.by,
        outcome: ledger::Outcome {
            at_ms,
            state,
            reply: Some(ledger::Reply { status: reply.status, body: reply.body }),
            receipt: receipt.zip(receipt_id).map(|(receipt, id)| stored(receipt, &id)),
            payload: kept,
            entry: telling(
                tenant,
                what_happened(pending, &outcome, state),
                Some(outward(state)),
                pending.attempt(),
            ),
        },
        charged: match pending.settled {
            true => charged_late(spent_as(outcome.kind, state), pending.money, charged),
            false => correction(spent_as(outcome.kind, state), pending.money, charged),
        },
        used: used.map(|usage| ledger::Used { usage, ..ledger::Used::default() }),
        overage: overage.map(|overage| overage.outcome(tenant, pending, state)),
        halts: pending.halts.clone(),
        original,
    }
}

/// The event of what was said of an action. Of what contradicts the record people are told.
fn what_happened(pending: &Pending, outcome: &Outcome, state: State) -> &'static str {
    // What is looked after may turn out to be undone, or to be for a person.
    let late = pending.late && outcome.kind == Kind::Executed && pending.word.is_none();
    match (pending.settled, state) {
        _ if late || pending.earlier.as_ref().is_some_and(|it| it.debited.is_some()) => {
            Alert::LateEffect.as_str()
        }
        (true, State::Failed) => Alert::DeniedEffect.as_str(),
        // Only what is denied of the latest call leaves an action that is over to an earlier one, of which was told.
        (true, State::Executed) if pending.earlier.is_some() => Alert::DeniedEffect.as_str(),
        (true, State::Executed | State::RollingBack) => Alert::LateEffect.as_str(),
        _ if pending.word.is_some() => crate::resolve::EVENT,
        _ => event(state, outcome.code),
    }
}

/// The parts of a row that come from the request.
pub(crate) struct Row<'a> {
    pub id: ActionId,
    pub tenant: &'a TenantState,
    pub caller: &'a Caller,
    pub key: Option<&'a str>,
    pub request_hash: &'a [u8; 32],
    pub archetype: &'a Arc<str>,
    pub provider: Option<&'a str>,
    pub principal: &'a Arc<str>,
    pub at_ms: i64,
    pub amount: Option<Money>,
    pub event: &'static str,
    pub state: Option<&'static str>,
}

/// The ledger entry of a step; `name`: what it commits to, see `decide::named`.
pub(crate) fn draft(
    tenant: &TenantState,
    event: &'static str,
    state: Option<&'static str>,
    name: &[u8; 32],
    attempt: u32,
) -> Draft {
    Draft { action_hash: Some(*name), ..telling(tenant, event, state, attempt) }
}

/// The ledger entry of an outcome: what that commits to is for the ledger to say.
pub(crate) fn telling(
    tenant: &TenantState,
    event: &'static str,
    state: Option<&'static str>,
    attempt: u32,
) -> Draft {
    let tenant_ref = Some(Arc::clone(&tenant.reference));
    Draft { tenant_ref, attempt: Some(attempt), event, state, action_hash: None }
}

/// A receipt as the ledger keeps it.
pub(crate) fn stored(receipt: receipt::Receipt, id: &str) -> ledger::Receipt {
    ledger::Receipt {
        id: id.into(),
        short: receipt.short().into(),
        signature: receipt.signature_value().into(),
        document: receipt.into_bytes(),
    }
}

/// The state's name to the outside: ATP's word.
pub(crate) fn outward(state: State) -> &'static str {
    match state {
        State::Held => "INTENDED",
        State::Approved => ledger::AGREED,
        State::Sent | State::InDoubt | State::Waiting => "EXECUTING",
        State::Challenged | State::Checking | State::Unchecked => "EXECUTING",
        State::Reserved | State::ReleaseFailed => "EXECUTING",
        State::Executed => "COMPLETED",
        State::Failed | State::Refused => "FAILED",
        State::Retracting | State::RollingBack | State::RollbackFailed => "ROLLING_BACK",
        State::RolledBack => "ROLLED_BACK",
    }
}

/// What a ledger error means to a caller. The cause goes to the log.
pub(crate) fn unavailable(error: ledger::Error) -> Error {
    match error {
        // Whoever went on with it says what there is to say.
        ledger::Error::Illegal { .. } | ledger::Error::Fenced(_) => {
            Error::new(Code::StateConflict, "somebody else went on with the action meanwhile")
        }
        ledger::Error::Leased(_) => {
            let why = "another gateway is looking after the action just now";
            Error::new(Code::StateConflict, why).hint("try again in a few seconds")
        }
        ledger::Error::Unsettled { .. } => {
            Error::new(Code::StateConflict, "the action is not over yet: until then it cannot be erased")
        }
        ledger::Error::Kept { until_ms, .. } => {
            let until = clock::text(until_ms);
            Error::new(Code::StateConflict, format!("the action has to be kept until {until}"))
        }
        ledger::Error::Changed(_) => {
            Error::new(Code::Unavailable, "what is left of the mandate changed meanwhile").retry_after(1)
        }
        ledger::Error::Busy => Error::new(Code::Unavailable, "too many requests are waiting").retry_after(1),
        other => {
            tracing::error!(error = %other, "the ledger did not answer");
            Error::new(Code::Unavailable, "the outcome could not be recorded").retry_after(5)
        }
    }
}

pub(crate) fn event(state: State, code: Option<Code>) -> &'static str {
    match state {
        State::Refused if code == Some(Code::ApprovalExpired) => "expired",
        State::Held => ledger::HELD,
        State::Approved => "approved",
        State::Sent => ledger::ADMITTED,
        State::InDoubt | State::Unchecked => "in_doubt",
        State::Waiting => ledger::WAITING,
        State::Challenged => ledger::CHALLENGED,
        State::Reserved => ledger::RESERVED,
        State::Executed => "executed",
        State::Failed => "failed",
        State::Refused => "refused",
        State::Checking => ledger::CHECKING,
        State::Retracting => ledger::RETRACTING,
        State::RollingBack => ledger::ROLLING_BACK,
        // People are told of both in the same words.
        State::RollbackFailed | State::ReleaseFailed => "rollback_failed",
        State::RolledBack => "rolled_back",
    }
}

/// What could not be undone was done, whatever becomes of it.
pub(crate) fn spent_as(kind: Kind, state: State) -> State {
    if kind == Kind::Executed { State::Executed } else { state }
}

/// What the mandates are really charged, in minor units. `None` keeps what was debited, as doubt does.
fn correction(state: State, reserved: Option<Money>, charged: Option<Money>) -> Option<i64> {
    match (state, reserved, charged) {
        (State::Held | State::Approved | State::Sent | State::InDoubt | State::Waiting, ..) => None,
        (State::Challenged | State::Checking | State::Unchecked | State::Retracting, ..) => None,
        (State::Reserved | State::ReleaseFailed, ..) => None,
        // What is given back refills nothing.
        (State::RollingBack | State::RollbackFailed | State::RolledBack, ..) => None,
        (State::Failed | State::Refused, ..) => Some(0),
        (State::Executed, None, _) => None,
        // It was done, and cost nothing: a quote.
        (State::Executed, Some(_), None) => Some(0),
        // Nobody can say how much of the cap another currency is: it keeps what was reserved.
        (State::Executed, Some(reserved), Some(charged)) => {
            (charged.currency() == reserved.currency() && charged != reserved).then_some(charged.minor())
        }
    }
}

/// The same after the last word: where what was debited had been given back, all of it is charged anew, and what turns out to
/// be absent is given back.
pub(crate) fn charged_late(state: State, reserved: Option<Money>, charged: Option<Money>) -> Option<i64> {
    let known = charged.filter(|charged| reserved.is_some_and(|it| it.currency() == charged.currency()));
    match (state, charged) {
        (State::Executed, Some(_)) => known.or(reserved).map(Money::minor),
        (State::Failed, _) => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use action::Currency;

    use super::*;

    #[test]
    fn the_documents_name_every_event_of_an_action() {
        let trail = include_str!("../../../docs/audit.md");
        let others = [ledger::SENT_AGAIN, ledger::CHARGING, ledger::ERASED, crate::resolve::EVENT];
        let alerts = [Alert::LateEffect, Alert::DuplicateEffect, Alert::DeniedEffect, Alert::Overage];
        let alerts = alerts.map(Alert::as_str).into_iter().chain(["rejected", "expired"]);
        let of_states = State::ALL.into_iter().map(|state| event(state, None));
        let said = ["approved", "extended", ledger::INFO_REQUESTED, ledger::INFO_GIVEN];
        for event in of_states.chain(others).chain(alerts).chain(said) {
            assert!(ledger::STEPS.contains(&event), "the walk along the chain does not know `{event}`");
        }
        for event in ledger::STEPS {
            assert!(trail.contains(&format!("`{event}`")), "docs/audit.md does not name `{event}`");
        }
    }

    #[test]
    fn mandates_are_charged_what_was_charged() {
        let usd = |minor| Money::new(minor, Currency::of("USD").unwrap());
        let jpy = Money::new(9_000, Currency::of("JPY").unwrap());
        let executed = |charged| correction(State::Executed, usd(10_000), charged);
        assert_eq!(executed(usd(10_000)), None);
        assert_eq!(executed(usd(9_000)), Some(9_000));
        assert_eq!(executed(usd(10_001)), Some(10_001));
        assert_eq!(executed(jpy), None, "another currency gives nothing back");
        assert_eq!(executed(None), Some(0));
        assert_eq!(correction(State::Executed, None, None), None);
        for state in [State::InDoubt, State::Unchecked, State::Reserved, State::ReleaseFailed] {
            assert_eq!(correction(state, usd(10_000), None), None, "{state} keeps the debit");
        }
        assert_eq!(correction(State::Failed, usd(10_000), None), Some(0));
        let late = |charged| charged_late(State::Executed, usd(10_000), charged);
        assert_eq!(late(usd(10_000)), Some(10_000), "what was given back is taken again");
        assert_eq!(late(usd(9_000)), Some(9_000));
        assert_eq!(late(jpy), Some(10_000));
        assert_eq!(late(None), None);
    }
}
