//! What is true of a provider binding, as its operator declares it.

use std::time::Duration;

use action::GuaranteeLevel;

use crate::Call;

/// What a binding promises. The guarantees an action can have follow from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The same provider key twice has one effect.
    pub idempotent: Option<Idempotent>,
    /// The provider can be asked what became of a call.
    pub queryable: Option<Queryable>,
    /// What was sent can be cancelled, with a confirmed answer.
    pub cancellable: bool,
    /// Twice does no harm. Never beside money.
    pub repeat_safe: bool,
    /// A payer may have to confirm what was sent, and has so long at most, counted from the last moment of sending.
    pub challenge: Option<Duration>,
}

/// For how long a provider recognises a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotent {
    /// Counted from the first send.
    pub retention: Duration,
}

/// How a provider can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queryable {
    /// By our reference, so that it can be asked even when no answer ever came.
    pub by_our_reference: bool,
    /// How long after the last moment of sending "no such call" can still turn into an effect.
    pub final_after: Duration,
}

impl Capabilities {
    /// Whether this binding can keep what the level promises: level 3 needs a provider that recognises repeats or
    /// can be asked, level 2 one of those or an effect that may happen twice.
    pub fn can_keep(&self, level: GuaranteeLevel) -> bool {
        let known_fate = self.idempotent.is_some() || self.queryable.is_some();
        match level {
            GuaranteeLevel::Atp1 => true,
            GuaranteeLevel::Atp2 => known_fate || self.repeat_safe,
            GuaranteeLevel::Atp3 => known_fate,
        }
    }

    /// Whether what was first sent at `first_ms` may be sent once more, to arrive by `arrives_ms` at the latest (Unix
    /// milliseconds): where twice does no harm, or the provider still recognises it as the same.
    pub fn may_repeat(&self, first_ms: i64, arrives_ms: i64) -> bool {
        self.repeat_safe || self.recognises(first_ms, arrives_ms)
    }

    /// The same of what undoes an effect: that the action may be had twice says nothing of that.
    pub fn recognises(&self, first_ms: i64, arrives_ms: i64) -> bool {
        self.idempotent.as_ref().is_some_and(|idempotent| {
            let remembered = idempotent.retention.saturating_sub(margin(idempotent.retention));
            let until =
                i64::try_from(remembered.as_millis()).map_or(i64::MAX, |ms| first_ms.saturating_add(ms));
            arrives_ms < until
        })
    }

    /// Whether the provider can be asked about a call to which it gave no answer.
    pub fn can_be_asked(&self) -> bool {
        self.queryable.as_ref().is_some_and(|queryable| queryable.by_our_reference)
    }

    /// Whether "no such call", said at `now_ms` (Unix milliseconds), will stay true.
    pub fn absence_is_final(&self, call: &Call, now_ms: i64) -> bool {
        let Some(queryable) = &self.queryable else { return false };
        // Until then a payer may confirm it, whether we know that one was asked or not.
        let wait = queryable.final_after.saturating_add(self.challenge.unwrap_or_default());
        let Ok(wait_ms) = i64::try_from(wait.as_millis()) else { return false };
        now_ms >= call.send_by_ms.saturating_add(wait_ms)
    }
}

/// A provider's clock is not ours: a tenth of its memory, and a minute at most, is not relied upon.
fn margin(retention: Duration) -> Duration {
    (retention / 10).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_had_twice_is_not_for_that_recognised_when_it_is_undone() {
        let safe = Capabilities { repeat_safe: true, ..Capabilities::default() };
        assert!(safe.may_repeat(0, 1) && !safe.recognises(0, 1));
    }
}
