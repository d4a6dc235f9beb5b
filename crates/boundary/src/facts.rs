//! What a decision is made from. The gateway reads it; here it is only looked at.

use std::cmp::Ordering;

use action::{Action, ActionId, Environment, Money, Subject, Tenant};
use mandate::{Account, ApprovedLimits, Mandate, exposure};

use crate::{Cycle, PolicyRef, Reason, Series, Trigger};

/// Who asks, as authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose rows, keys and policies.
    pub tenant: Tenant,
    /// The agent's or person's name.
    pub subject: Subject,
    /// A person is `User` to policies, anything else is `Agent`.
    pub is_human: bool,
}

/// An earlier action with the same effect, within the archetype's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// Which one.
    pub id: ActionId,
    /// When it was admitted, in Unix milliseconds.
    pub at_ms: i64,
}

/// What people agreed to, when an action that waited for them is judged again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// The reasons they were shown.
    pub triggers: Vec<Trigger>,
    /// The id of the mandate it came under then.
    pub mandate: Option<String>,
    /// What was at stake then.
    pub amount: Option<Money>,
    /// How far they agreed.
    pub limits: ApprovedLimits,
}

impl<'a> Facts<'a> {
    /// The mandate and every one that it descends from, leaf first.
    pub(crate) fn chain(&self) -> impl Iterator<Item = (&'a Mandate, &'a Account)> {
        self.mandate.into_iter().chain(self.ancestors.iter().copied())
    }

    /// Why it is beyond what people agreed to for the rest of its session, if it is.
    pub(crate) fn beyond_session(&self) -> Option<Reason> {
        let limits = self.cycle.as_ref()?.session.limits;
        limits.broken_by(self.moved(), self.now_ms).map(|limit| Reason::BeyondSession { limit })
    }

    /// What it moves now: of what was set aside for it, the part that is charged, and never more than is at stake.
    fn moved(&self) -> Option<Money> {
        let at_stake = exposure(self.action);
        let part =
            |stake: &Money| self.charges.filter(|part| part.compare(*stake).is_some_and(Ordering::is_le));
        at_stake.as_ref().and_then(part).or(at_stake)
    }
}

impl Approved {
    /// Is this reason, here and now, one that people agreed to? Exactly: of several policies all must be among those
    /// they saw, by id and content, and neither another mandate nor a higher price is what they saw.
    pub(crate) fn covers(&self, trigger: &Trigger, facts: &Facts<'_>) -> bool {
        let same_mandate = self.mandate.as_deref() == facts.mandate.map(|(mandate, _)| mandate.jti.as_str());
        let no_more = match (self.amount, exposure(facts.action)) {
            (Some(then), Some(now)) => now.currency() == then.currency() && now.minor() <= then.minor(),
            (then, now) => then == now,
        };
        let seen = match trigger {
            Trigger::Policies(policies) => {
                policies.iter().all(|policy| self.policies().any(|it| it == policy))
            }
            // No yes makes time, and none stands for those who did not say it.
            Trigger::BudgetExhausted | Trigger::MultiPrincipal => false,
            other => self.triggers.contains(other),
        };
        same_mandate && no_more && seen
    }

    /// Why it is beyond what people agreed to, if it is. Where its price is still to be named, that is asked once it is.
    pub(crate) fn exceeded(&self, facts: &Facts<'_>) -> Option<Reason> {
        self.limits.broken_by(facts.moved(), facts.now_ms).map(|limit| Reason::BeyondApproval { limit })
    }

    fn policies(&self) -> impl Iterator<Item = &PolicyRef> {
        self.triggers.iter().flat_map(Trigger::policies)
    }
}

/// Everything that one decision may depend on, beside the policies.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Real or pretended effects.
    pub environment: Environment,
    /// What is asked.
    pub action: &'a Action,
    /// The verb and target, where the face that was used has them; the hard-deny list reads them too.
    pub verb: Option<&'a str>,
    /// See `verb`.
    pub target: Option<&'a str>,
    /// Who asks.
    pub caller: &'a Caller,
    /// The mandate that was verified or that stands by default, with what is left of it.
    pub mandate: Option<(&'a Mandate, &'a Account)>,
    /// The mandates that it descends from, nearest first, each with what is left of it; verified link by link.
    pub ancestors: &'a [(&'a Mandate, &'a Account)],
    /// Why the token that came was not verified; then `mandate` is `None`.
    pub mandate_refusal: Option<mandate::Refusal>,
    /// The freeze that covers the action, as it is written (`all`, `agent:…`).
    pub frozen: Option<&'a str>,
    /// Why what carries it out is not what its operator accepted, in one word, if it is not.
    pub quarantined: Option<&'static str>,
    /// Recent activity of the same root principal, archetype and currency.
    pub series: &'a Series,
    /// Whether the root principal never acted on this destination before.
    pub first_seen_destination: bool,
    /// An earlier action with the same effect hash, within the window.
    pub earlier: Option<Earlier>,
    /// So much of what was set aside for it is to be charged, where that is what is asked.
    pub charges: Option<Money>,
    /// What people agreed to, where the action waited for them.
    pub approved: Option<&'a Approved>,
    /// What else is known where the action is a cycle of a governed session.
    pub cycle: Option<Cycle<'a>>,
    /// Whether observe mode is on.
    pub observe: bool,
    /// The time, in Unix milliseconds.
    pub now_ms: i64,
    /// The action's request hash; the permit is for exactly this.
    pub request_hash: [u8; 32],
    /// Random; hides the sample behind its commitment.
    pub salt: [u8; 32],
}

impl<'a> Facts<'a> {
    /// The same about another action of the same request, of which nothing else is known.
    pub(crate) fn of_other(&self, action: &'a Action) -> Facts<'a> {
        Facts {
            action,
            verb: None,
            target: None,
            first_seen_destination: false,
            earlier: None,
            charges: None,
            ..self.clone()
        }
    }
}
