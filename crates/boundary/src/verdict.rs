//! What a decision comes to, and the proof of a pass.

use std::sync::Arc;

use mandate::IntentRefusal;

use crate::classes::Evaluated;
use crate::intent::is_gone;
use crate::{Class, Facts, Footing, Policies, Reason, Trigger};

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

    /// The same in the words of the governed loop.
    pub(crate) fn governance(&self) -> Governance {
        let budget = |escalation: &Escalation| escalation.triggers.contains(&Trigger::BudgetExhausted);
        match self {
            Verdict::Pass(_) | Verdict::Quote => Governance::Proceed,
            Verdict::Block(reason) if leaves_nothing(reason) => Governance::Suspend,
            Verdict::Block(_) => Governance::Deny,
            Verdict::Escalate(escalation) if budget(escalation) => Governance::Suspend,
            Verdict::Escalate(_) => Governance::Escalate,
        }
    }
}

/// Whether session or budget are gone.
fn leaves_nothing(reason: &Reason) -> bool {
    match reason {
        Reason::BudgetExhausted | Reason::Intent(IntentRefusal::SessionRevoked) => true,
        Reason::Session(state) => is_gone(*state),
        _ => false,
    }
}

/// What a cycle comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Governance {
    /// It goes on.
    Proceed,
    /// It does not.
    Deny,
    /// A person decides.
    Escalate,
    /// Nothing goes on: the session or the budget is gone.
    Suspend,
}

impl Governance {
    /// The one that is written so.
    pub fn parse(text: &str) -> Option<Governance> {
        [Governance::Proceed, Governance::Deny, Governance::Escalate, Governance::Suspend]
            .into_iter()
            .find(|it| it.as_str() == text)
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Governance::Proceed => "PROCEED",
            Governance::Deny => "DENY",
            Governance::Escalate => "ESCALATE",
            Governance::Suspend => "SUSPEND",
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
/// INVARIANT (steps): it holds the evidence of the last step of a cycle, which holds that of the step before, and so on;
/// each can be made by its step alone. To leave a step out does not compile.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    valid_until_ms: i64,
    policy_digest: Arc<str>,
    catalog_digest: Arc<str>,
    entity_digest: Arc<str>,
    mandate_epoch: Option<u64>,
    rests_on_accounts: bool,
    request_hash: [u8; 32],
    steps: Evaluated,
}

impl Permit {
    pub(crate) fn mint(policies: &Policies, facts: &Facts<'_>, steps: Evaluated) -> Permit {
        // Never beyond any mandate, nor the declaration, that it rests on.
        let ends_ms = facts.chain().map(|(it, _)| it.expires_at.saturating_mul(1000)).min();
        let mandate_ends_ms = ends_ms.unwrap_or(i64::MAX);
        let intent_ends_ms = steps.footing().map_or(i64::MAX, |footing| footing.intent_expires_ms);
        Permit {
            valid_until_ms: facts.now_ms.saturating_add(PERMIT_MS).min(mandate_ends_ms).min(intent_ends_ms),
            policy_digest: policies.policy_digest().clone(),
            catalog_digest: policies.catalog_digest().clone(),
            entity_digest: policies.entity_digest().clone(),
            mandate_epoch: facts.mandate.map(|(_, account)| account.epoch),
            rests_on_accounts: policies.look_at_accounts(facts),
            request_hash: facts.request_hash,
            steps,
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

    /// Whether policies looked at what is left of the mandates; where that is another now it must be judged anew.
    pub fn rests_on_accounts(&self) -> bool {
        self.rests_on_accounts
    }

    /// What it stands on, where the action is a cycle of a session; otherwise it is none.
    pub fn footing(&self) -> Option<&Footing> {
        self.steps.footing()
    }

    /// The one request it is for.
    pub fn request_hash(&self) -> &[u8; 32] {
        &self.request_hash
    }
}
