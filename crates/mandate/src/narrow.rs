//! Narrowing: a mandate that descends from another allows nothing that the other does not.

use std::cmp::Ordering;
use std::slice;

use action::Catalogue;

use crate::{Limits, Mandate, Refusal, Resource};

impl Mandate {
    /// Whether every limit of this mandate lies within what its parent has `left`, and everything it allows within what
    /// the parent allows. What it left out must be filled in ([`crate::Claims::inherit`]).
    ///
    /// INVARIANT (narrowing): whatever action a child permits, its parent permits.
    ///
    /// # Errors
    /// [`Refusal::Widened`] naming the first claim that is wider.
    pub fn narrows(&self, parent: &Mandate, left: &Limits, catalogue: &Catalogue) -> Result<(), Refusal> {
        must(are_within(&self.scope, &parent.scope, catalogue), "mandate_scope")?;
        must(are_within(&parent.requires_approval, &self.requires_approval, catalogue), "requires_approval")?;
        self.fits(parent, left)
    }

    /// The same, but for names of actions: what they stand for changes with the catalogue, so each action is looked at by
    /// itself.
    ///
    /// # Errors
    /// As [`Mandate::narrows`].
    pub fn fits(&self, parent: &Mandate, left: &Limits) -> Result<(), Refusal> {
        must(self.audience == parent.audience, "aud")?;
        must(self.not_before >= parent.not_before, "nbf")?;
        must(self.expires_at <= parent.expires_at, "exp")?;
        must(self.names_resources_of(parent), "resources")?;
        must(self.has_goals_of(parent), "goal_scope")?;
        // `None` is lower than any floor.
        must(self.uncertainty_floor >= parent.uncertainty_floor, "uncertainty_floor")?;
        must(self.trust_floor >= parent.trust_floor, "trust_floor")?;
        self.asks_no_more_than(left)
    }

    fn names_resources_of(&self, parent: &Mandate) -> bool {
        match (&self.resources, &parent.resources) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(ours), Some(theirs)) => {
                ours.iter().all(|our| theirs.iter().any(|their| their.contains(our)))
            }
        }
    }

    /// No goals means any goal.
    fn has_goals_of(&self, parent: &Mandate) -> bool {
        let known = self.goal_scope.iter().all(|goal| parent.goal_scope.contains(goal));
        parent.goal_scope.is_empty() || (known && !self.goal_scope.is_empty())
    }

    fn asks_no_more_than(&self, left: &Limits) -> Result<(), Refusal> {
        let affords = match (self.spend_cap, left.spend_cap) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(asked), Some(left)) => asked.compare(left).is_some_and(Ordering::is_le),
        };
        must(affords, "spend_cap")?;
        must(no_more(self.max_actions, left.max_actions), "max_actions")?;
        let over = Resource::ALL
            .into_iter()
            .find(|resource| !no_more(self.resource_envelope.of(*resource), left.envelope.of(*resource)));
        over.map_or(Ok(()), |resource| must(false, resource.member()))
    }
}

fn must(holds: bool, member: &'static str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::Widened { member }) }
}

fn no_more(asked: Option<u64>, left: Option<u64>) -> bool {
    left.is_none_or(|left| asked.is_some_and(|asked| asked <= left))
}

/// Whether all that `names` stand for is among what `others` stand for. A name that stands for nothing now may stand for
/// something tomorrow, so it must be there to the letter.
fn are_within(names: &[String], others: &[String], catalogue: &Catalogue) -> bool {
    names.iter().all(|name| {
        let mut meant = catalogue
            .iter()
            .filter(|archetype| Mandate::designates(slice::from_ref(name), archetype))
            .peekable();
        others.contains(name)
            || (meant.peek().is_some() && meant.all(|archetype| Mandate::designates(others, archetype)))
    })
}
