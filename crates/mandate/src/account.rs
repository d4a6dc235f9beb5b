//! What is left of a mandate: the value of its row.

use std::cmp::Ordering;

use action::Money;

use crate::{Mandate, Refusal};

/// The changing part of a mandate, as the ledger keeps it. A mandate never seen before has an account of zeros.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// The mandate's id.
    pub jti: String,
    /// Rises with every change of the mandate's standing (revoked, frozen, thawed); a permit of an older epoch is
    /// judged anew.
    pub epoch: u64,
    /// Spent or reserved, in minor units of the spend cap's currency. Never negative.
    pub spent_minor: i64,
    /// Actions admitted so far.
    pub actions: u64,
    /// When it was revoked, in Unix milliseconds.
    pub revoked_at: Option<i64>,
    /// Stopped, but not for ever.
    pub frozen: bool,
}

/// The part of a mandate that its account is measured against; small enough to be stored beside the account, so that
/// admission needs no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// No more than this in sum.
    pub spend_cap: Option<Money>,
    /// No more actions than this.
    pub max_actions: Option<u64>,
}

impl Account {
    /// The account of a mandate that has never been used.
    pub fn new(jti: impl Into<String>) -> Account {
        Account { jti: jti.into(), ..Account::default() }
    }

    /// Whether one more action of `amount` would be carried.
    ///
    /// # Errors
    /// The first limit that it would break.
    pub fn carries(&self, limits: &Limits, amount: Option<Money>) -> Result<(), Refusal> {
        if self.revoked_at.is_some() {
            return Err(Refusal::Revoked);
        }
        if self.frozen {
            return Err(Refusal::Frozen);
        }
        if let Some(max) = limits.max_actions
            && self.actions >= max
        {
            return Err(Refusal::ActionsUsedUp { max });
        }
        let (Some(cap), Some(asked)) = (limits.spend_cap, amount) else { return Ok(()) };
        let left = self.left_of(cap);
        match asked.compare(left) {
            None => Err(currency_mismatch(cap, asked)),
            Some(Ordering::Greater) => Err(Refusal::CapExceeded { asked, left }),
            Some(_) => Ok(()),
        }
    }

    /// The account after one more action of `amount`. Admission applies it under the row's lock.
    ///
    /// INVARIANT (cap): `spent_minor` never exceeds the cap through a debit.
    ///
    /// # Errors
    /// As [`Account::carries`]; the account is then unchanged.
    pub fn debit(&self, limits: &Limits, amount: Option<Money>) -> Result<Account, Refusal> {
        self.carries(limits, amount)?;
        let spends = amount.map_or(0, Money::minor);
        // Keeps (cap): what `carries` let pass is at most cap - spent, so neither addition can overflow there; a
        // mandate without a cap saturates.
        Ok(Account {
            spent_minor: self.spent_minor.saturating_add(spends),
            actions: self.actions.saturating_add(1),
            ..self.clone()
        })
    }

    /// The account after `amount` minor units came back, because the effect is finally absent or less was captured.
    /// The action stays counted: an attempt is used up even when it came to nothing.
    pub fn credit(&self, amount_minor: i64) -> Account {
        Account { spent_minor: self.spent_minor.saturating_sub(amount_minor.max(0)).max(0), ..self.clone() }
    }

    /// The account after a provider charged `excess_minor` above what was reserved: the truth is recorded even above
    /// the cap, and the mandate freezes.
    pub fn overrun(&self, excess_minor: i64) -> Account {
        Account {
            spent_minor: self.spent_minor.saturating_add(excess_minor.max(0)),
            epoch: self.epoch.saturating_add(1),
            frozen: true,
            ..self.clone()
        }
    }

    /// The account after revocation; a second revocation changes nothing.
    pub fn revoke(&self, at_ms: i64) -> Account {
        match self.revoked_at {
            Some(_) => self.clone(),
            None => Account { revoked_at: Some(at_ms), epoch: self.epoch.saturating_add(1), ..self.clone() },
        }
    }

    /// What is left of `cap`, never below zero.
    #[expect(clippy::expect_used, reason = "what is taken from the cap lies between nothing and the cap")]
    pub fn left_of(&self, cap: Money) -> Money {
        let spent = self.spent_minor.clamp(0, cap.minor());
        Money::new(cap.minor() - spent, cap.currency()).expect("never negative")
    }
}

impl Mandate {
    /// What the mandate's account is measured against.
    pub fn limits(&self) -> Limits {
        Limits { spend_cap: self.spend_cap, max_actions: self.max_actions }
    }
}

pub(crate) fn currency_mismatch(limit: Money, asked: Money) -> Refusal {
    Refusal::CurrencyMismatch { limit: limit.currency(), asked: asked.currency() }
}
