//! Which policies are in force, told to those whom they bind: all of it, or less, by who asks.

use std::sync::Arc;

use crate::{Policies, Rule, Tier};

/// How much is told. Whoever audits is told [`Level::Full`] or [`Level::Summary`], and so tier 0 in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// How many there are of each tier.
    CountOnly,
    /// Tier and digest of each: enough to see that one changed.
    Redacted,
    /// Tier 0 in full; of the others everything but the text.
    Summary,
    /// Everything.
    Full,
}

impl Level {
    /// Every level, the least first.
    pub const ALL: [Level; 4] = [Level::CountOnly, Level::Redacted, Level::Summary, Level::Full];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::CountOnly => "COUNT_ONLY",
            Level::Redacted => "REDACTED",
            Level::Summary => "SUMMARY",
            Level::Full => "FULL",
        }
    }

    /// The level that is written so.
    pub fn parse(text: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.as_str() == text)
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosure {
    /// How much.
    pub level: Level,
    /// The digest of the set, as it stands in receipts.
    pub policy_digest: Arc<str>,
    /// How many policies there are of each tier; what permits counts under its tier too.
    pub counts: Vec<(Tier, usize)>,
    /// Names that are never carried out. They count as tier 0-A.
    pub hard_deny: Vec<String>,
    /// How many names those are.
    pub hard_denied: usize,
    /// The policies, by tier and id.
    pub policies: Vec<Disclosed>,
}

/// One policy, as far as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosed {
    /// Its tier.
    pub tier: Tier,
    /// Its digest, as it stands in receipts.
    pub digest: Arc<str>,
    /// What it is called and about.
    pub about: Option<About>,
    /// Its Cedar text.
    pub text: Option<String>,
}

/// What a policy is called and about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its `@id`, or its file and position.
    pub id: Arc<str>,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// Whether it forbids only until a person agrees.
    pub escalates: bool,
    /// Its `@description`.
    pub description: Option<String>,
    /// Its `@regulation`.
    pub regulation: Option<String>,
}

impl Policies {
    /// What is in force, as far as the level tells.
    pub fn disclose(&self, level: Level) -> Disclosure {
        let mut rules: Vec<&Rule> = self.rules().into_iter().chain(self.stand_ins()).collect();
        rules.sort_by(|a, b| (a.tier, &a.reference.id).cmp(&(b.tier, &b.reference.id)));
        let count = |tier: Tier| (tier, rules.iter().filter(|rule| rule.tier == tier).count());
        let names: Vec<String> = self.hard_deny().iter().map(str::to_owned).collect();
        Disclosure {
            level,
            policy_digest: self.policy_digest().clone(),
            counts: [Tier::ZeroA, Tier::ZeroB, Tier::One, Tier::Two, Tier::Three].map(count).to_vec(),
            hard_denied: names.len(),
            hard_deny: if level >= Level::Summary { names } else { Vec::new() },
            policies: match level {
                Level::CountOnly => Vec::new(),
                level => rules.iter().map(|rule| rule.disclose(level)).collect(),
            },
        }
    }
}

impl Rule {
    fn disclose(&self, level: Level) -> Disclosed {
        let annotation = |name: &str| self.policy.annotation(name).map(str::to_owned);
        let about = || About {
            id: self.reference.id.clone(),
            effect: if self.forbids { "forbid" } else { "permit" },
            escalates: self.escalates,
            description: annotation("description"),
            regulation: annotation("regulation"),
        };
        let in_full = level == Level::Full || level == Level::Summary && self.tier <= Tier::ZeroB;
        Disclosed {
            tier: self.tier,
            digest: self.reference.digest.clone(),
            about: (level >= Level::Summary).then(about),
            text: in_full.then(|| self.policy.to_string()),
        }
    }
}
