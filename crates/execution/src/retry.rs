//! How long to wait before trying again.

use std::time::Duration;

use action::{Backoff, RetryPolicy};

/// The pause before the retry that follows on `retries` earlier ones, drawn evenly between nothing and
/// [`longest_delay`] ("full jitter"): those who failed together do not come back together.
pub fn delay(policy: &RetryPolicy, retries: u32, chance: u64) -> Duration {
    let most_ms = u64::try_from(longest_delay(policy, retries).as_millis()).unwrap_or(u64::MAX - 1);
    Duration::from_millis(chance % (most_ms + 1))
}

/// The longest that [`delay`] can be.
pub fn longest_delay(policy: &RetryPolicy, retries: u32) -> Duration {
    let times = match policy.backoff {
        Backoff::Fixed => 1,
        Backoff::Linear => retries.saturating_add(1),
        Backoff::Exponential => 1_u32.checked_shl(retries).unwrap_or(u32::MAX),
    };
    policy.initial_delay.saturating_mul(times).min(policy.max_delay)
}
