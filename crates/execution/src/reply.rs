//! What comes back from a provider, and how an absence is known.

use action::Money;
use serde_json::Value;

/// What a provider said to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The effect took place.
    Confirmed(Confirmation),
    /// The provider declined: the effect is known to be absent.
    Refused(Refusal),
    /// There is no effect yet: the payer has to confirm it to the provider first.
    Challenged(Challenge),
    /// Nothing left us: the effect is known to be absent. `why` is our own text.
    NotSent {
        /// What kept it here, in words of our own.
        why: String,
    },
    /// It may have left and there is no answer to rely on: the fate is unknown. Never a failure.
    Lost {
        /// What kind of thing went wrong, for people and records.
        how: Doubt,
        /// What went wrong, in words of our own.
        why: String,
    },
}

impl Reply {
    /// Why it tells nothing of what became of the call, if it does not.
    pub const fn doubt(&self) -> Option<Doubt> {
        match self {
            Reply::Lost { how, .. } => Some(*how),
            _ => None,
        }
    }
}

/// Why it is not known what became of a call, as far as it can be said in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing was heard in time.
    NoAnswer,
    /// The connection broke before an answer came.
    Broken,
    /// Whoever was called ended, or ended the session.
    Ended,
    /// There is an answer, and it is not one that says what became of the call.
    NotUnderstood,
    /// It was answered that something went wrong there, which may be before the effect or after it.
    Error,
    /// The provider says that it failed, and its operator does not take that for the absence of an effect.
    SaysFailed,
    /// Its caller gave it up in the midst of it, or an operator stopped it there.
    GivenUp,
    /// The provider refused it, which it also does with a repeat of what a store that was put back has forgotten.
    Forgotten,
}

impl Doubt {
    /// All of them.
    pub const ALL: [Doubt; 8] = [
        Doubt::NoAnswer,
        Doubt::Broken,
        Doubt::Ended,
        Doubt::NotUnderstood,
        Doubt::Error,
        Doubt::SaysFailed,
        Doubt::GivenUp,
        Doubt::Forgotten,
    ];

    /// The stable word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Doubt::NoAnswer => "no_answer_in_time",
            Doubt::Broken => "connection_broke",
            Doubt::Ended => "server_ended",
            Doubt::NotUnderstood => "answer_not_understood",
            Doubt::Error => "provider_error",
            Doubt::SaysFailed => SAYS_FAILED,
            Doubt::GivenUp => "given_up",
            Doubt::Forgotten => "store_recovered",
        }
    }
}

/// The word for what a provider only says of itself: that it failed. Whether there was an effect all the same nobody has looked.
pub const SAYS_FAILED: &str = "says_failed";

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

/// What a provider said when asked whether all is as it should be after an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Holds,
    /// It is not: the effect has to be undone.
    Fails,
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
    /// What was charged, or set aside, if the answer says so.
    pub charged: Option<Money>,
    /// When what was set aside ends, in Unix milliseconds, if the answer says so.
    pub expires_ms: Option<i64>,
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
    /// Whether the binding says that it may pass: another attempt may fare better.
    pub transient: bool,
    /// Whose word it is.
    pub word: Word,
}

/// On whose word an effect is taken for absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// The provider's: it declined.
    #[default]
    Provider,
    /// The provider's, which only says that it failed: nobody has promised that there is no effect then.
    OnlySaid,
    /// Ours: it was stopped before the provider, as that says itself, had begun.
    Ours,
}

/// What a payer has to answer before there is an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Where: HTTPS, at a host that the operator lists. Foreign, and not for us to open.
    pub url: String,
    /// Until when, Unix milliseconds.
    pub until_ms: i64,
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
    /// The call was marked sent, and did not leave because it would have been later than its row says.
    Withheld,
    /// The provider was asked and the time in which the call could arrive is over.
    Final,
    /// No attempt had an effect, and the caller's time is over.
    Deadline,
    /// No attempt had an effect, and there must not be another one.
    Stopped(Stop),
    /// A person says so, because nobody else does.
    Resolved,
    /// What was set aside for it is free again, and nothing was charged.
    Released,
    /// It was found out before, and stands in the ledger.
    OnRecord,
}

/// Why an action must not be sent (again), in the words of whoever judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The published code.
    pub code: &'static str,
    /// One stable word each.
    pub reasons: Vec<String>,
}

impl Absence {
    /// May another attempt fare better?
    pub fn may_pass(&self) -> bool {
        match self {
            Absence::Refused(refusal) => refusal.transient,
            Absence::NotSent { .. } | Absence::Withheld | Absence::Final => true,
            Absence::Deadline | Absence::Stopped(_) => false,
            Absence::Resolved | Absence::Released | Absence::OnRecord => false,
        }
    }
}
