//! Token buckets: how often a tenant, a subject, an archetype may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// Why there are not as many tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// There are, after so long.
    For(Duration),
    /// There never are: a full bucket has only so many.
    Ever(u32),
}

/// More names than this and the full buckets are swept out.
const SWEEP_AT: usize = 10_000;

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Buckets<K> {
        Buckets { rate, levels: Mutex::new(HashMap::new()) }
    }

    /// Takes so many tokens for `name`, or none.
    pub(crate) fn take(&self, name: &K, wanted: u32, now: Instant) -> Result<(), Lack> {
        if self.rate.per_second == 0 {
            return Ok(());
        }
        let most = self.rate.burst.max(1);
        if wanted > most {
            return Err(Lack::Ever(most));
        }
        let (per_second, burst, wanted) =
            (f64::from(self.rate.per_second), f64::from(most), f64::from(wanted));
        let mut levels = self.levels();
        if levels.len() >= SWEEP_AT {
            levels.retain(|_, level| level.now(per_second, now) < burst);
        }
        let mut level = levels.get(name).copied().unwrap_or(Level { tokens: burst, at: now });
        let tokens = level.now(per_second, now).min(burst);
        if tokens < wanted {
            return Err(Lack::For(Duration::from_secs_f64((wanted - tokens) / per_second)));
        }
        level = Level { tokens: tokens - wanted, at: now };
        levels.insert(name.clone(), level);
        Ok(())
    }

    /// Those that were taken for what was refused elsewhere.
    pub(crate) fn put_back(&self, name: &K, taken: u32) {
        if let Some(level) = self.levels().get_mut(name) {
            level.tokens += f64::from(taken);
        }
    }

    fn levels(&self) -> MutexGuard<'_, HashMap<K, Level>> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
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
            assert!(buckets.take(&"a", 1, start).is_ok());
        }
        let wait = Duration::from_millis(500);
        assert_eq!(buckets.take(&"a", 1, start), Err(Lack::For(wait)), "it is empty");
        assert!(buckets.take(&"b", 1, start).is_ok(), "another name has its own");
        assert!(buckets.take(&"a", 1, start + wait).is_ok());
    }

    #[test]
    fn several_are_taken_at_once_or_none_is() {
        let buckets = Buckets::new(Rate { per_second: 2, burst: 3 });
        let start = Instant::now();
        assert_eq!(buckets.take(&"a", 4, start), Err(Lack::Ever(3)), "a full bucket has fewer");
        assert!(buckets.take(&"a", 2, start).is_ok());
        assert_eq!(buckets.take(&"a", 3, start), Err(Lack::For(Duration::from_secs(1))));
        assert!(buckets.take(&"a", 1, start).is_ok(), "none was taken for what was refused");
        buckets.put_back(&"a", 3);
        assert!(buckets.take(&"a", 3, start).is_ok());
        assert!(buckets.take(&"a", 1, start).is_err());
    }
}
