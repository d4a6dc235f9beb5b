//! What comes back from a provider, and what it settles.

use action::Money;
use serde_json::Value;

/// What a provider said to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The effect took place.
    Confirmed(Confirmation),
    /// The provider declined: the effect is known to be absent.
    Refused(Refusal),
    /// Nothing left us: the effect is known to be absent. `why` is our own text.
    NotSent {
        /// What kept it here, in words of our own.
        why: String,
    },
    /// It may have left and there is no answer to rely on: the fate is unknown. Never a failure.
    Lost {
        /// What went wrong, in words of our own.
        why: String,
    },
}

/// What a provider said when asked what became of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The effect took place.
    Confirmed(Confirmation),
    /// The provider knows no such call.
    Absent {
        /// Nothing can arrive any more, so it will stay so.
        final_: bool,
    },
    /// No answer, or none that decides. Ask again later.
    Unknown,
}

/// An effect that took place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Confirmation {
    /// The provider's own reference.
    pub reference: Option<String>,
    /// The provider's answer; foreign text.
    pub answer: Value,
    /// What was charged, if the answer says so.
    pub charged: Option<Money>,
}

/// A provider's no.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    /// The transport's status, where there is one.
    pub status: Option<u16>,
    /// The provider's own code, at most 64 characters; foreign text.
    pub code: Option<String>,
    /// The provider's answer; foreign text.
    pub answer: Value,
}

/// What became of a call, once that is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// The effect took place.
    Confirmed(Confirmation),
    /// There is no effect and there will be none.
    Absent(Absence),
}

/// How the absence of an effect is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Absence {
    /// The provider declined.
    Refused(Refusal),
    /// The call never left.
    NotSent {
        /// What kept it here, in words of our own.
        why: String,
    },
    /// The provider was asked and the time in which the call could arrive is over.
    Final,
}
