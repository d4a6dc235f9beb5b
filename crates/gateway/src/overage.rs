//! Overage: more was charged than was reserved. What was done stays as it is said; a receipt of its own tells that the
//! promise was broken, and by how much.

use std::borrow::Cow;

use action::Money;
use ledger::{Settlement, State};
use receipt::{Amendment, Event, PaymentStatus};

use crate::alert::Alert;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::Pending;
use crate::prove::{Ending, Proven, amending, push_split};
use crate::remember::{outward, stored, telling, unavailable};
use crate::row::{OutcomeRow, VERSION, internal};
use crate::tenants::TenantState;
use crate::{Error, clock};

/// The proof of an overage, to be written right after the outcome that it amends.
pub(crate) struct Overage {
    pub receipt: receipt::Receipt,
    pub receipt_id: String,
    pub kept: Vec<u8>,
    pub at_ms: i64,
}

/// What an outcome costs.
pub(crate) struct Cost {
    pub state: State,
    /// What was charged, where that is known.
    pub charged: Option<Money>,
    /// What other attempts were charged before, minor units.
    pub before: i64,
    /// The receipt that says so.
    pub receipt_id: Option<String>,
}

impl Gateway {
    /// Adds an outcome at its cost. Late effects of several actions may each find room under a mandate and take it from one
    /// another: only the commit knows, and where it is too much there the overage goes with it. Answers with the receipt of
    /// the overage, if it is one. `amends`: whether the last word was said before.
    pub(crate) async fn settle_at(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        settlement: Settlement,
        (cost, amends): (&Cost, bool),
    ) -> Result<Option<String>, Error> {
        let commit = async |settlement| match amends {
            true => self.ledger.amend(settlement).await,
            false => self.ledger.settle(settlement).await,
        };
        match commit(settlement.clone()).await {
            Err(ledger::Error::AboveCap(_)) => {}
            done => {
                done.map_err(unavailable)?;
                let receipt = settlement.overage.and_then(|overage| overage.receipt);
                return Ok(receipt.map(|receipt| receipt.id.to_string()));
            }
        }
        let overage = self.overage(pending, cost, true)?;
        let overage = overage.ok_or_else(|| internal("nothing says what is charged above the cap"))?;
        let receipt_id = overage.receipt_id.clone();
        let overage = Some(overage.outcome(tenant, pending, cost.state));
        commit(Settlement { overage, ..settlement }).await.map_err(unavailable)?;
        Ok(Some(receipt_id))
    }

    /// The amendment that goes with an outcome, if more was charged than was reserved, together with what other attempts were
    /// charged before, or if it is more than a mandate had left. It amends the receipt that says what was charged: the
    /// original, or the settlement of an original that was in doubt.
    pub(crate) fn overage(
        &self,
        pending: &Pending,
        cost: &Cost,
        above_cap: bool,
    ) -> Result<Option<Overage>, Error> {
        let charged = cost.charged.map(|charged| together(charged, pending.money, cost.before));
        let over = exceeds(pending.money, charged) || (above_cap && charged.is_some());
        let (Some(amended), true) = (&cost.receipt_id, over) else {
            return Ok(None);
        };
        let mut chain = amending(amended)?;
        push_split(&mut chain, pending, charged, PaymentStatus::Charged)?;
        let mut ending = Ending {
            kind: Kind::Executed,
            state: cost.state,
            code: None,
            details: Details::default(),
            chain,
            confirmation: None,
            refusal: None,
            payment: PaymentStatus::Charged,
            charged,
        };
        let receipt_id = clock::new_id(clock::now_ms())?.to_string();
        let event = Event::Amendment { reason: Amendment::Overage, of: Cow::Borrowed(amended) };
        let receipt = self.sign(pending, &mut ending, &receipt_id, event)?;
        let kept = pending.outcome(OutcomeRow { v: VERSION, ..OutcomeRow::default() })?;
        Ok(Some(Overage { receipt, receipt_id, kept, at_ms: clock::now_ms() }))
    }
}

impl Proven {
    /// What it costs beside what other attempts were charged.
    pub(crate) fn cost(&self, before: i64) -> Cost {
        Cost { state: self.state, charged: self.charged, before, receipt_id: self.receipt_id.clone() }
    }
}

impl Overage {
    /// The same in the ledger's words.
    pub(crate) fn outcome(self, tenant: &TenantState, pending: &Pending, state: State) -> ledger::Outcome {
        let event = Alert::Overage.as_str();
        ledger::Outcome {
            at_ms: self.at_ms,
            state,
            reply: None,
            receipt: Some(stored(self.receipt, &self.receipt_id)),
            payload: self.kept,
            entry: telling(tenant, event, Some(outward(state)), pending.attempt()),
        }
    }
}

/// What was charged with what had been before, in the currency of what was reserved; in another one nobody can add it up.
fn together(charged: Money, reserved: Option<Money>, before: i64) -> Money {
    let same = reserved.is_some_and(|reserved| reserved.currency() == charged.currency());
    let sum = charged.minor().saturating_add(if same { before } else { 0 });
    Money::new(sum, charged.currency()).unwrap_or(charged)
}

/// Another currency is more: nobody can say how much of the mandate it took.
fn exceeds(reserved: Option<Money>, charged: Option<Money>) -> bool {
    let (Some(reserved), Some(charged)) = (reserved, charged) else { return false };
    charged.currency() != reserved.currency() || charged.minor() > reserved.minor()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use action::Currency;

    use super::*;

    #[test]
    fn only_more_or_another_currency_is_an_overage() {
        let money = |minor, code| Money::new(minor, Currency::of(code).unwrap());
        let over = |charged| exceeds(money(10_000, "USD"), charged);
        assert!(over(money(10_001, "USD")));
        assert!(over(money(1, "JPY")));
        assert!(!over(money(10_000, "USD")));
        assert!(!over(money(9_999, "USD")));
        assert!(!over(None));
        assert!(!exceeds(None, money(1, "USD")));
    }
}
