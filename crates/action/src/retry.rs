//! How an action that had no effect is tried again.

use crate::refusal::Refusal;
use serde_json::Value;
use std::time::Duration;

/// How often, and after which pauses. Stricter is fewer and longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often it is sent after the first time, at most.
    pub max_retries: u32,
    /// How the pauses grow.
    pub backoff: Backoff,
    /// The first pause.
    pub initial_delay: Duration,
    /// No pause is longer.
    pub max_delay: Duration,
}

/// How pauses grow. What grows faster is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backoff {
    /// Not at all.
    Fixed,
    /// By the first pause each time.
    Linear,
    /// Twice as long each time.
    Exponential,
}

/// What a request says about being tried again; what it leaves out is the catalogue's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskedRetry {
    max_retries: Option<u32>,
    backoff: Option<Backoff>,
    initial_delay: Option<Duration>,
    max_delay: Option<Duration>,
}

impl RetryPolicy {
    /// The most that a policy may say: a day between two attempts.
    pub const MOST_RETRIES: u32 = 100;
    /// See [`RetryPolicy::MOST_RETRIES`].
    pub const MOST_SECONDS: u32 = 86_400;

    /// What holds where the catalogue says nothing.
    pub const USUAL: RetryPolicy = RetryPolicy {
        max_retries: 3,
        backoff: Backoff::Exponential,
        initial_delay: Duration::from_secs(2),
        max_delay: Duration::from_secs(60),
    };

    /// With what a request asks for, as far as that is fewer retries or longer pauses.
    #[must_use]
    pub fn tightened(self, asked: Option<AskedRetry>) -> RetryPolicy {
        let asked = asked.unwrap_or_default();
        let initial_delay = asked.initial_delay.max(Some(self.initial_delay)).unwrap_or(self.initial_delay);
        RetryPolicy {
            max_retries: asked.max_retries.map_or(self.max_retries, |asked| asked.min(self.max_retries)),
            backoff: asked.backoff.max(Some(self.backoff)).unwrap_or(self.backoff),
            initial_delay,
            max_delay: asked
                .max_delay
                .map_or(self.max_delay, |asked| asked.max(self.max_delay))
                .max(initial_delay),
        }
    }
}

impl Backoff {
    /// The words of the catalogue and of the wire.
    pub const WORDS: [&str; 3] = ["exponential", "linear", "fixed"];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Backoff::Fixed => "fixed",
            Backoff::Linear => "linear",
            Backoff::Exponential => "exponential",
        }
    }

    /// Reads exactly the word of the wire.
    pub fn parse(text: &str) -> Option<Backoff> {
        [Backoff::Fixed, Backoff::Linear, Backoff::Exponential].into_iter().find(|it| it.as_str() == text)
    }
}

impl AskedRetry {
    /// Reads `retry_policy`.
    pub(crate) fn read(value: Value) -> Result<AskedRetry, Refusal> {
        let Value::Object(members) = value else { return Err(Refusal::invalid("", "not an object")) };
        let mut asked = AskedRetry::default();
        for (name, value) in members {
            let whole = |most: u32| {
                let number = value.as_u64().and_then(|it| u32::try_from(it).ok()).filter(|it| *it <= most);
                number.ok_or_else(|| {
                    Refusal::invalid(format!("/{name}"), format!("not a whole number of at most {most}"))
                })
            };
            let seconds =
                || whole(RetryPolicy::MOST_SECONDS).map(|it| Some(Duration::from_secs(u64::from(it))));
            match name.as_str() {
                "max_retries" => asked.max_retries = Some(whole(RetryPolicy::MOST_RETRIES)?),
                "initial_delay_seconds" => asked.initial_delay = seconds()?,
                "max_delay_seconds" => asked.max_delay = seconds()?,
                "backoff" => {
                    let backoff = value.as_str().and_then(Backoff::parse);
                    let wrong = || Refusal::invalid("/backoff", "not `exponential`, `linear` or `fixed`");
                    asked.backoff = Some(backoff.ok_or_else(wrong)?);
                }
                _ => {
                    let mut field = String::new();
                    crate::json::push_segment(&mut field, &name.chars().take(64).collect::<String>());
                    return Err(Refusal::invalid(field, "no such member in a retry policy"));
                }
            }
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backoffs() -> impl Strategy<Value = Backoff> {
        prop_oneof![Just(Backoff::Fixed), Just(Backoff::Linear), Just(Backoff::Exponential)]
    }

    proptest! {
        #[test]
        fn a_request_can_only_tighten(
            max_retries in 0..100_u32, backoff in backoffs(), initial in 0..3600_u64, max in 0..3600_u64,
            fewer in proptest::option::of(0..100_u32), growth in proptest::option::of(backoffs()),
            first in proptest::option::of(0..3600_u64), longest in proptest::option::of(0..3600_u64),
        ) {
            let seconds = Duration::from_secs;
            let (initial_delay, max_delay) = (seconds(initial), seconds(max.max(initial)));
            let policy = RetryPolicy { max_retries, backoff, initial_delay, max_delay };
            let asked = AskedRetry {
                max_retries: fewer, backoff: growth,
                initial_delay: first.map(seconds), max_delay: longest.map(seconds),
            };
            let it = policy.tightened(Some(asked));
            prop_assert!(it.max_retries <= policy.max_retries && it.max_retries <= fewer.unwrap_or(u32::MAX));
            prop_assert!(it.backoff >= policy.backoff);
            prop_assert!(it.initial_delay >= policy.initial_delay && it.max_delay >= policy.max_delay);
            prop_assert!(it.initial_delay <= it.max_delay);
            prop_assert_eq!(policy.tightened(None), policy);
            prop_assert_eq!(it.tightened(Some(asked)), it);
        }
    }
}
