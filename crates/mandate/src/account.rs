//! What is left of a mandate: the value of its row.

use std::cmp::Ordering;

use action::Money;

use crate::{Mandate, Refusal, Resource, ResourceEnvelope};

/// The changing part of a mandate, as the ledger keeps it. A mandate never seen before has an account of zeros.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// The mandate's id.
    pub jti: String,
    /// Rises with every change of the mandate's standing (revoked, frozen, thawed); a permit of an older epoch is
    /// judged anew.
    pub epoch: u64,
    /// Spent or reserved, in minor units of the spend cap's currency. Never negative.
    pub spent_minor: i64,
    /// Actions admitted so far.
    pub actions: u64,
    /// When it was revoked, in Unix milliseconds.
    pub revoked_at: Option<i64>,
    /// Stopped, but not for ever.
    pub frozen: bool,
    /// What actions of sessions used by now.
    pub used: Usage,
    /// Granted on top of the envelope's.
    pub granted: Granted,
}

/// What was granted on top of an envelope, by extensions and transfers; below zero after one went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Granted {
    /// Of the time budget.
    pub seconds: i64,
    /// Units of the operator's own reckoning.
    pub compute_units: i64,
    /// Bytes.
    pub storage_bytes: i64,
    /// Bytes.
    pub egress_bytes: i64,
}

/// What one action takes of each mandate of its chain, beside being counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// What it puts at stake.
    pub money: Option<Money>,
    /// What it takes of the envelope.
    pub usage: Usage,
}

/// What is used of an envelope. Zeros for everything outside of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of the time budget.
    pub seconds: u64,
    /// Units of the operator's own reckoning.
    pub compute_units: u64,
    /// The most at any one time: it is not summed.
    pub memory_bytes: u64,
    /// Bytes.
    pub storage_bytes: u64,
    /// Bytes.
    pub egress_bytes: u64,
}

/// The part of a mandate that its account is measured against; small enough to be stored beside the account, so that
/// admission needs no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// No more than this in sum.
    pub spend_cap: Option<Money>,
    /// No more actions than this.
    pub max_actions: Option<u64>,
    /// No more time and resources than these.
    pub envelope: ResourceEnvelope,
}

impl Account {
    /// The account of a mandate that has never been used.
    pub fn new(jti: impl Into<String>) -> Account {
        Account { jti: jti.into(), ..Account::default() }
    }

    /// Whether anything is carried at all.
    ///
    /// # Errors
    /// That it is revoked, or else frozen.
    pub fn is_open(&self) -> Result<(), Refusal> {
        match (self.revoked_at, self.frozen) {
            (Some(_), _) => Err(Refusal::Revoked),
            (None, true) => Err(Refusal::Frozen),
            (None, false) => Ok(()),
        }
    }

    /// Whether one more action that takes this would be carried.
    ///
    /// # Errors
    /// The first limit that it would break.
    pub fn carries(&self, limits: &Limits, takes: &Use) -> Result<(), Refusal> {
        self.is_open()?;
        if let Some(max) = limits.max_actions
            && self.actions >= max
        {
            return Err(Refusal::ActionsUsedUp { max });
        }
        if let (Some(cap), Some(asked)) = (limits.spend_cap, takes.money) {
            let left = self.left_of(cap);
            match asked.compare(left) {
                None => return Err(currency_mismatch(cap, asked)),
                Some(Ordering::Greater) => return Err(Refusal::CapExceeded { asked, left }),
                Some(_) => {}
            }
        }
        let left = self.envelope_left(&limits.envelope);
        let over = Resource::ALL
            .into_iter()
            .find(|resource| left.of(*resource).is_some_and(|left| takes.usage.of(*resource) > left));
        over.map_or(Ok(()), |resource| Err(used_up(resource)))
    }

    /// The account after one more action that takes this. Admission applies it under the row's lock.
    ///
    /// INVARIANT (cap): neither `spent_minor` nor anything of `used` ever exceeds its limit through a debit.
    ///
    /// # Errors
    /// As [`Account::carries`]; the account is then unchanged.
    pub fn debit(&self, limits: &Limits, takes: &Use) -> Result<Account, Refusal> {
        self.carries(limits, takes)?;
        let spends = takes.money.map_or(0, Money::minor);
        // Keeps (cap): what `carries` let pass is at most cap - spent, so neither addition can overflow there; a
        // mandate without a cap saturates.
        Ok(Account {
            spent_minor: self.spent_minor.saturating_add(spends),
            actions: self.actions.saturating_add(1),
            used: self.used.and(&takes.usage),
            ..self.clone()
        })
    }

    /// The account after it is known what an action used for which `debited` was taken. The truth is recorded, even
    /// above a limit: then nothing is left. A high-water mark never falls.
    pub fn remeasure(&self, debited: &Usage, measured: &Usage) -> Account {
        Account { used: self.used.without(debited).and(measured), ..self.clone() }
    }

    /// The account after so much of a resource was granted on top of the envelope's, or, below zero, given away.
    ///
    /// # Errors
    /// [`Refusal::TimeUsedUp`] or [`Refusal::EnvelopeExceeded`] when more would be given away than is left.
    pub fn grant(&self, limits: &Limits, resource: Resource, amount: i64) -> Result<Account, Refusal> {
        let gives = u64::try_from(amount.saturating_neg()).unwrap_or(0);
        let left = self.envelope_left(&limits.envelope).of(resource);
        if left.is_some_and(|left| gives > left) {
            return Err(used_up(resource));
        }
        Ok(Account { granted: self.granted.and(resource, amount), ..self.clone() })
    }

    /// The account after `amount` minor units came back, because the effect is finally absent or less was captured.
    /// The action stays counted: an attempt is used up even when it came to nothing.
    pub fn credit(&self, amount_minor: i64) -> Account {
        Account { spent_minor: self.spent_minor.saturating_sub(amount_minor.max(0)).max(0), ..self.clone() }
    }

    /// The account after a provider charged `excess_minor` above what was reserved: the truth is recorded even above
    /// the cap, and the mandate freezes.
    pub fn overrun(&self, excess_minor: i64) -> Account {
        Account {
            spent_minor: self.spent_minor.saturating_add(excess_minor.max(0)),
            epoch: self.epoch.saturating_add(1),
            frozen: true,
            ..self.clone()
        }
    }

    /// The account after revocation; a second revocation changes nothing.
    pub fn revoke(&self, at_ms: i64) -> Account {
        match self.revoked_at {
            Some(_) => self.clone(),
            None => Account { revoked_at: Some(at_ms), epoch: self.epoch.saturating_add(1), ..self.clone() },
        }
    }

    /// The account with so many seconds more. `above` is what stands above the mandate, each with its limits.
    ///
    /// Keeps (narrowing): afterwards no mandate above it has less time left than it.
    ///
    /// # Errors
    /// [`Refusal::Revoked`] of any of them; [`Refusal::Widened`] where one above it has less left, or where it has no time
    /// budget of its own that could be longer.
    pub fn extend(
        &self,
        limits: &Limits,
        above: &[(Account, Limits)],
        seconds: u64,
    ) -> Result<Account, Refusal> {
        let widened = Refusal::Widened { member: Resource::Seconds.member() };
        if self.revoked_at.is_some() || above.iter().any(|(it, _)| it.revoked_at.is_some()) {
            return Err(Refusal::Revoked);
        }
        let seconds = i64::try_from(seconds).ok().and_then(|it| self.granted.seconds.checked_add(it));
        let seconds = seconds.ok_or_else(|| widened.clone())?;
        let longer = Account { granted: Granted { seconds, ..self.granted }, ..self.clone() };
        let time = |account: &Account, limits: &Limits| account.left(limits).envelope.max_duration_seconds;
        let left = time(&longer, limits).ok_or_else(|| widened.clone())?;
        let narrow = above.iter().all(|(it, limits)| time(it, limits).is_none_or(|most| left <= most));
        if narrow { Ok(longer) } else { Err(widened) }
    }

    /// What is left of every limit: what one more action, or a child, may have.
    pub fn left(&self, limits: &Limits) -> Limits {
        Limits {
            spend_cap: limits.spend_cap.map(|cap| self.left_of(cap)),
            max_actions: limits.max_actions.map(|max| max.saturating_sub(self.actions)),
            envelope: self.envelope_left(&limits.envelope),
        }
    }

    /// So much of it there may be in all, with what was granted on top.
    pub fn limit(&self, envelope: &ResourceEnvelope, resource: Resource) -> Option<u64> {
        envelope.of(resource).map(|max| max.saturating_add_signed(self.granted.of(resource)))
    }

    /// What is left of the envelope. Memory is no sum, so all of it stays.
    pub fn envelope_left(&self, envelope: &ResourceEnvelope) -> ResourceEnvelope {
        let Usage { seconds, compute_units, storage_bytes, egress_bytes, .. } = self.used;
        let rest = |of: Resource, used: u64| self.limit(envelope, of).map(|limit| limit.saturating_sub(used));
        ResourceEnvelope {
            max_compute_units: rest(Resource::ComputeUnits, compute_units),
            max_duration_seconds: rest(Resource::Seconds, seconds),
            max_memory_bytes: envelope.max_memory_bytes,
            max_network_egress_bytes: rest(Resource::EgressBytes, egress_bytes),
            max_storage_bytes: rest(Resource::StorageBytes, storage_bytes),
        }
    }

    /// What is left of `cap`, never below zero.
    #[expect(clippy::expect_used, reason = "what is taken from the cap lies between nothing and the cap")]
    pub fn left_of(&self, cap: Money) -> Money {
        let spent = self.spent_minor.clamp(0, cap.minor());
        Money::new(cap.minor() - spent, cap.currency()).expect("never negative")
    }
}

/// What all of a line have left together of a resource, each mandate by its account; no limit is no end.
pub fn left_of(resource: Resource, line: impl Iterator<Item = (Account, Limits)>) -> u64 {
    let of = |(account, limits): (Account, Limits)| {
        account.envelope_left(&limits.envelope).of(resource).unwrap_or(u64::MAX)
    };
    line.map(of).min().unwrap_or(0)
}

impl Mandate {
    /// What the mandate's account is measured against.
    pub fn limits(&self) -> Limits {
        Limits { spend_cap: self.spend_cap, max_actions: self.max_actions, envelope: self.resource_envelope }
    }
}

impl Limits {
    /// The lower of each two: what is left of both.
    pub fn least(&self, other: &Limits) -> Limits {
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let (ours, theirs) = (&self.envelope, &other.envelope);
        Limits {
            spend_cap: match (self.spend_cap, other.spend_cap) {
                (Some(one), Some(other)) if one.compare(other) == Some(Ordering::Greater) => Some(other),
                (one, other) => one.or(other),
            },
            max_actions: least(self.max_actions, other.max_actions),
            envelope: ResourceEnvelope {
                max_compute_units: least(ours.max_compute_units, theirs.max_compute_units),
                max_duration_seconds: least(ours.max_duration_seconds, theirs.max_duration_seconds),
                max_memory_bytes: least(ours.max_memory_bytes, theirs.max_memory_bytes),
                max_network_egress_bytes: least(
                    ours.max_network_egress_bytes,
                    theirs.max_network_egress_bytes,
                ),
                max_storage_bytes: least(ours.max_storage_bytes, theirs.max_storage_bytes),
            },
        }
    }
}

impl Granted {
    /// How much of this. Memory is no sum that could be added to.
    pub fn of(&self, resource: Resource) -> i64 {
        match resource {
            Resource::Seconds => self.seconds,
            Resource::ComputeUnits => self.compute_units,
            Resource::MemoryBytes => 0,
            Resource::StorageBytes => self.storage_bytes,
            Resource::EgressBytes => self.egress_bytes,
        }
    }

    /// The same with so much more of one.
    #[must_use]
    pub fn and(mut self, resource: Resource, amount: i64) -> Granted {
        let part = match resource {
            Resource::Seconds => &mut self.seconds,
            Resource::ComputeUnits => &mut self.compute_units,
            Resource::MemoryBytes => return self,
            Resource::StorageBytes => &mut self.storage_bytes,
            Resource::EgressBytes => &mut self.egress_bytes,
        };
        *part = part.saturating_add(amount);
        self
    }
}

impl Use {
    /// An action outside of a session takes money and nothing else.
    pub fn of_money(money: Option<Money>) -> Use {
        Use { money, usage: Usage::default() }
    }
}

impl Usage {
    /// Is nothing used?
    pub fn is_nothing(&self) -> bool {
        *self == Usage::default()
    }

    /// How much of this.
    pub fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Seconds => self.seconds,
            Resource::ComputeUnits => self.compute_units,
            Resource::MemoryBytes => self.memory_bytes,
            Resource::StorageBytes => self.storage_bytes,
            Resource::EgressBytes => self.egress_bytes,
        }
    }

    /// Of each the larger of the two.
    pub fn at_least(&self, other: &Usage) -> Usage {
        Usage {
            seconds: self.seconds.max(other.seconds),
            compute_units: self.compute_units.max(other.compute_units),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            storage_bytes: self.storage_bytes.max(other.storage_bytes),
            egress_bytes: self.egress_bytes.max(other.egress_bytes),
        }
    }

    /// Both together; of memory the larger.
    #[must_use]
    pub fn and(&self, more: &Usage) -> Usage {
        Usage {
            seconds: self.seconds.saturating_add(more.seconds),
            compute_units: self.compute_units.saturating_add(more.compute_units),
            memory_bytes: self.memory_bytes.max(more.memory_bytes),
            storage_bytes: self.storage_bytes.saturating_add(more.storage_bytes),
            egress_bytes: self.egress_bytes.saturating_add(more.egress_bytes),
        }
    }

    fn without(&self, less: &Usage) -> Usage {
        Usage {
            seconds: self.seconds.saturating_sub(less.seconds),
            compute_units: self.compute_units.saturating_sub(less.compute_units),
            memory_bytes: self.memory_bytes,
            storage_bytes: self.storage_bytes.saturating_sub(less.storage_bytes),
            egress_bytes: self.egress_bytes.saturating_sub(less.egress_bytes),
        }
    }
}

fn used_up(resource: Resource) -> Refusal {
    match resource {
        Resource::Seconds => Refusal::TimeUsedUp,
        resource => Refusal::EnvelopeExceeded { resource },
    }
}

pub(crate) fn currency_mismatch(limit: Money, asked: Money) -> Refusal {
    Refusal::CurrencyMismatch { limit: limit.currency(), asked: asked.currency() }
}
