//! Whether a mandate carries one action.

use std::cmp::Ordering;

use action::{Action, Money, Subject};

use crate::account::currency_mismatch;
use crate::{Account, Mandate, Refusal, ResourceEnvelope, Use};

impl Mandate {
    /// Whether this mandate, as much as is left of it, carries `action` asked by `caller` at `now_s` (Unix seconds).
    ///
    /// # Errors
    /// The first limit that the action breaks, in the order of [`Refusal`].
    pub fn permits(
        &self,
        action: &Action,
        caller: &Subject,
        account: &Account,
        now_s: i64,
    ) -> Result<(), Refusal> {
        self.is_for(caller, now_s)?;
        self.covers(action)?;
        account.carries(&self.limits(), &Use::of_money(exposure(action)))?;
        within_own_bound(action)
    }

    /// Whether this mandate, as much as is left of it, carries an action under one that descends from it.
    ///
    /// # Errors
    /// As [`Mandate::permits`], but for whose it is and for the caller's own bound.
    pub fn carries(&self, action: &Action, account: &Account, now_s: i64) -> Result<(), Refusal> {
        self.is_in_force(now_s)?;
        self.covers(action)?;
        account.carries(&self.limits(), &Use::of_money(exposure(action)))
    }

    /// Whether the mandate is this caller's and in force at `now_s`, whatever is asked.
    ///
    /// # Errors
    /// Wrong subject, not yet valid, or expired (`exp` itself is already too late).
    pub fn is_for(&self, caller: &Subject, now_s: i64) -> Result<(), Refusal> {
        if self.subject != *caller {
            return Err(Refusal::WrongSubject);
        }
        self.is_in_force(now_s)
    }

    /// Whether the mandate is in force at `now_s`, whoever's it is.
    ///
    /// # Errors
    /// Not yet valid, or expired.
    pub fn is_in_force(&self, now_s: i64) -> Result<(), Refusal> {
        if now_s < self.not_before {
            return Err(Refusal::NotYetValid { from: self.not_before });
        }
        if now_s >= self.expires_at {
            return Err(Refusal::Expired { at: self.expires_at });
        }
        Ok(())
    }

    /// Whether a name of this archetype or of one of its groups is in `names`.
    pub fn designates(names: &[String], archetype: &action::Archetype) -> bool {
        names.iter().any(|name| *name == archetype.name || archetype.groups.contains(name))
    }

    /// Whether the mandate carries what is asked outside of a session. Its floor of certainty does: who says nothing of that
    /// is asked about.
    ///
    /// # Errors
    /// The first of its limits that nothing keeps there.
    pub fn bears_without_session(&self) -> Result<(), Refusal> {
        let limits = [
            ("resource_envelope", self.resource_envelope != ResourceEnvelope::default()),
            ("goal_scope", !self.goal_scope.is_empty()),
            ("trust_floor", self.trust_floor.is_some()),
        ];
        match limits.into_iter().find(|(_, limited)| *limited) {
            Some((member, _)) => Err(Refusal::NeedsSession { member }),
            None => Ok(()),
        }
    }

    fn covers(&self, action: &Action) -> Result<(), Refusal> {
        if !Mandate::designates(&self.scope, &action.archetype) {
            return Err(Refusal::OutOfScope { archetype: action.archetype.name.to_string() });
        }
        let Some(patterns) = &self.resources else { return Ok(()) };
        let covered = match action.resource.as_deref() {
            Some(resource) => patterns.iter().any(|pattern| pattern.matches(resource)),
            // An incomplete action is refused later and told what is missing, which helps more than a refusal here.
            None => !action.missing.is_empty(),
        };
        match covered {
            true => Ok(()),
            false => {
                Err(Refusal::ResourceOutside { resource: action.resource.as_deref().map(str::to_owned) })
            }
        }
    }
}

/// The sum that an action puts at stake: its amount, or, where only the provider will know that, the bound the caller
/// set. An archetype that asks for a quote first has no exposure until the quote is known, and an incomplete action has
/// none unless it names its amount: it is blocked for what is missing.
pub fn exposure(action: &Action) -> Option<Money> {
    let quoted = action.archetype.money.as_ref().is_some_and(|rule| rule.quote);
    match (action.money, quoted) {
        (Some(amount), _) => Some(amount),
        (None, true) => None,
        (None, false) if !action.is_complete() => None,
        (None, false) => action.bound,
    }
}

/// Whether the action stays within the bound that the caller itself declared (`max_total_usd` and the like).
///
/// # Errors
/// [`Refusal::OverOwnBound`], or [`Refusal::CurrencyMismatch`] when the two cannot be compared.
pub fn within_own_bound(action: &Action) -> Result<(), Refusal> {
    let (Some(asked), Some(bound)) = (action.money, action.bound) else { return Ok(()) };
    match asked.compare(bound) {
        None => Err(currency_mismatch(bound, asked)),
        Some(Ordering::Greater) => Err(Refusal::OverOwnBound { asked, bound }),
        Some(_) => Ok(()),
    }
}
