//! Equal refusals of late, so that a storm of them is counted and not written down again and again.

use std::collections::HashMap;

use action::ActionId;

use crate::Repeat;
use crate::generations::Generations;

/// The refusals of the last minute, by a hash of who was refused what and why.
#[derive(Debug)]
pub(crate) struct Refusals {
    recent: Generations<[u8; 32], Recent>,
    /// Counts that are newer than their rows.
    pub(crate) uncounted: HashMap<ActionId, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    repeat: Repeat,
    at_ms: i64,
}

/// How long a refusal answers for its repetitions, in milliseconds.
const REPEAT_MS: i64 = 60_000;

impl Default for Refusals {
    fn default() -> Self {
        Refusals { recent: Generations::new(16 * 1024), uncounted: HashMap::new() }
    }
}

impl Refusals {
    pub(crate) fn note(&mut self, name: [u8; 32], action: ActionId, at_ms: i64) {
        self.recent.insert(name, Recent { repeat: Repeat { action, count: 0 }, at_ms });
    }

    pub(crate) fn repeated(&mut self, name: &[u8; 32], now_ms: i64) -> Option<Repeat> {
        let recent = self.recent.get(name).filter(|recent| recent.at_ms + REPEAT_MS > now_ms)?;
        let repeat = Repeat { count: recent.repeat.count + 1, ..recent.repeat };
        self.recent.insert(*name, Recent { repeat, ..recent });
        self.uncounted.insert(repeat.action, repeat.count);
        Some(repeat)
    }
}
