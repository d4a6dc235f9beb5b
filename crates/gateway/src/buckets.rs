//! Token buckets: how often a tenant, a subject, an archetype may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::Rate;

/// A bucket for each name. Full ones are forgotten, so memory follows those who ask now.
pub(crate) struct Buckets<K> {
    rate: Rate,
    levels: Mutex<HashMap<K, Level>>,
}

#[derive(Clone, Copy)]
struct Level {
    tokens: f64,
    at: Instant,
}

/// More names than this and the full buckets are swept out.
const SWEEP_AT: usize = 10_000;

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Buckets<K> {
        Buckets { rate, levels: Mutex::new(HashMap::new()) }
    }

    /// Takes one token for `name`, or says how long until there is one.
    pub(crate) fn take(&self, name: &K, now: Instant) -> Result<(), Duration> {
        if self.rate.per_second == 0 {
            return Ok(());
        }
        let per_second = f64::from(self.rate.per_second);
        let burst = f64::from(self.rate.burst.max(1));
        let mut levels = self.levels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if levels.len() >= SWEEP_AT {
            levels.retain(|_, level| level.now(per_second, now) < burst);
        }
        let mut level = levels.get(name).copied().unwrap_or(Level { tokens: burst, at: now });
        let tokens = level.now(per_second, now).min(burst);
        if tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - tokens) / per_second));
        }
        level = Level { tokens: tokens - 1.0, at: now };
        levels.insert(name.clone(), level);
        Ok(())
    }
}

impl Level {
    fn now(self, per_second: f64, now: Instant) -> f64 {
        self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let buckets = Buckets::new(Rate { per_second: 2, burst: 3 });
        let start = Instant::now();
        for _ in 0..3 {
            assert!(buckets.take(&"a", start).is_ok());
        }
        let wait = buckets.take(&"a", start).expect_err("it is empty");
        assert_eq!(wait, Duration::from_millis(500));
        assert!(buckets.take(&"b", start).is_ok(), "another name has its own");
        assert!(buckets.take(&"a", start + wait).is_ok());
    }
}
