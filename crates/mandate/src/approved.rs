//! How far people agreed, to one action or to all that follows in a session.

use std::cmp::Ordering;

use action::Money;

/// How far people agreed: what is absent stays as they were asked. Whoever approves can only lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApprovedLimits {
    /// The most that may be at stake in one action.
    pub max_amount: Option<Money>,
    /// In Unix milliseconds; after that nothing is sent.
    pub not_after_ms: Option<i64>,
}

impl ApprovedLimits {
    /// The lower of both. Amounts in two currencies have no lower one: nothing is within both.
    pub fn and(self, other: ApprovedLimits) -> ApprovedLimits {
        let nothing = |money: Money| Money::new(0, money.currency()).unwrap_or(money);
        ApprovedLimits {
            max_amount: match (self.max_amount, other.max_amount) {
                (Some(one), Some(other)) => match one.compare(other) {
                    Some(Ordering::Greater) => Some(other),
                    Some(_) => Some(one),
                    None => Some(nothing(one)),
                },
                (one, other) => one.or(other),
            },
            not_after_ms: match (self.not_after_ms, other.not_after_ms) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        }
    }

    /// The first limit that something with so much at stake is beyond at `now_ms`.
    pub fn broken_by(&self, amount: Option<Money>, now_ms: i64) -> Option<&'static str> {
        let dearer = |(now, most): (Money, Money)| now.compare(most).is_none_or(Ordering::is_gt);
        if amount.zip(self.max_amount).is_some_and(dearer) {
            return Some("max_amount");
        }
        self.not_after_ms.is_some_and(|until_ms| now_ms > until_ms).then_some("not_after")
    }
}
