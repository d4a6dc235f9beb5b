//! Overage: more was charged than was reserved. What was done stays as it is said; a receipt of its own tells that the
//! promise was broken, and by how much.

use std::borrow::Cow;

use action::Money;
use receipt::{Amendment, Event, PaymentStatus};

use crate::decide::Named;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::Pending;
use crate::prove::{Ending, Proven, amending, push_split};
use crate::row::{OutcomeRow, VERSION};
use crate::{Error, clock};

/// The proof of an overage, to be written right after the outcome that it amends.
pub(crate) struct Overage {
    pub receipt: receipt::Receipt,
    pub receipt_id: String,
    pub kept: Named,
    pub at_ms: i64,
}

impl Gateway {
    /// The amendment that goes with an outcome, if more was charged than was reserved, together with what other attempts were
    /// charged `before`, or if it is more than the mandate had left. It amends the receipt that says what was charged: the
    /// original, or the settlement of an original that was in doubt.
    pub(crate) fn overage(
        &self,
        pending: &Pending,
        proven: &Proven,
        before: i64,
        above_cap: bool,
    ) -> Result<Option<Overage>, Error> {
        let charged = proven.charged.map(|charged| together(charged, pending.money, before));
        let over = exceeds(pending.money, charged) || (above_cap && charged.is_some());
        let (Some(amended), true) = (&proven.receipt_id, over) else {
            return Ok(None);
        };
        let mut chain = amending(amended)?;
        push_split(&mut chain, pending, charged, PaymentStatus::Charged)?;
        let mut ending = Ending {
            kind: Kind::Executed,
            state: proven.state,
            code: None,
            details: Details::default(),
            chain,
            confirmation: None,
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
