//! What a decision comes to, and the proof of a pass.

use std::sync::Arc;

use crate::{Class, Facts, Policies, Reason, Trigger};

/// How long a permit may be used, in milliseconds.
const PERMIT_MS: i64 = 30_000;

/// What is to become of an action.
#[derive(Debug)]
pub enum Verdict {
    /// It may be carried out.
    Pass(Permit),
    /// It must not.
    Block(Reason),
    /// A person decides.
    Escalate(Escalation),
    /// Nothing speaks against it yet, but only the provider knows its price: ask for a quote, which has no effect, and
    /// decide again with it. No permit exists before the price is known.
    Quote,
}

impl Verdict {
    /// The verdict in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Pass(_) => "pass",
            Verdict::Block(_) => "block",
            Verdict::Escalate(_) => "escalate",
            Verdict::Quote => "quote",
        }
    }
}

/// A verdict that waits for a person, with everything that fired and not only the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    /// In order of class; never empty.
    pub triggers: Vec<Trigger>,
}

impl Escalation {
    /// The classes that fired, each once, in order.
    pub fn classes(&self) -> Vec<Class> {
        let mut classes: Vec<Class> = self.triggers.iter().map(Trigger::class).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
}

/// What would have been, had observe mode not been on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// `block` or `escalate`.
    pub would_be: &'static str,
    /// The word of the first reason.
    pub code: &'static str,
}

/// Proof that an action passed: nothing is carried out without one, and only [`crate::decide`] makes one.
///
/// INVARIANT (permit): it is never cloned, so one pass starts one execution.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    valid_until_ms: i64,
    policy_digest: Arc<str>,
    catalog_digest: Arc<str>,
    entity_digest: Arc<str>,
    mandate_epoch: Option<u64>,
    request_hash: [u8; 32],
}

impl Permit {
    pub(crate) fn mint(policies: &Policies, facts: &Facts<'_>) -> Permit {
        // Never beyond any mandate that it rests on.
        let ends_ms = facts.chain().map(|(it, _)| it.expires_at.saturating_mul(1000)).min();
        let mandate_ends_ms = ends_ms.unwrap_or(i64::MAX);
        Permit {
            valid_until_ms: facts.now_ms.saturating_add(PERMIT_MS).min(mandate_ends_ms),
            policy_digest: policies.policy_digest().clone(),
            catalog_digest: policies.catalog_digest().clone(),
            entity_digest: policies.entity_digest().clone(),
            mandate_epoch: facts.mandate.map(|(_, account)| account.epoch),
            request_hash: facts.request_hash,
        }
    }

    /// Whether it may still be used, at `now_ms` (Unix milliseconds).
    pub fn is_valid_at(&self, now_ms: i64) -> bool {
        now_ms < self.valid_until_ms
    }

    /// When it ceases to be valid, in Unix milliseconds.
    pub fn valid_until_ms(&self) -> i64 {
        self.valid_until_ms
    }

    /// The policies it was made under.
    pub fn policy_digest(&self) -> &Arc<str> {
        &self.policy_digest
    }

    /// The catalogue it was made under.
    pub fn catalog_digest(&self) -> &Arc<str> {
        &self.catalog_digest
    }

    /// The entities it was made under.
    pub fn entity_digest(&self) -> &Arc<str> {
        &self.entity_digest
    }

    /// The epoch of the mandate's account; another epoch now means that it must be judged anew.
    pub fn mandate_epoch(&self) -> Option<u64> {
        self.mandate_epoch
    }

    /// The one request it is for.
    pub fn request_hash(&self) -> &[u8; 32] {
        &self.request_hash
    }
}
