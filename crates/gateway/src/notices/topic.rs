//! What people are told of. Every text is fixed.

use action::ActionId;
use serde::{Serialize, Serializer};

use crate::quarantine;

/// What a notice is about: an entry of the chain with a certain event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// An action waits for people.
    Held,
    /// A person agreed to it.
    Approved,
    /// A person said no to it.
    Rejected,
    /// Its agent answered what a person asked.
    InfoGiven,
    /// Nobody decided in time.
    Expired,
    /// An answer was lost.
    InDoubt,
    /// More was charged than was reserved.
    Overage,
    /// What was done could not be undone.
    RollbackFailed,
    /// An effect was there after all.
    LateEffect,
    /// There is more than one effect.
    DuplicateEffect,
    /// An effect is denied.
    DeniedEffect,
    /// A person said what became of it.
    Resolved,
    /// What ought not to be is in the records of a session, or policies are hidden.
    GovernanceAnomaly,
    /// Sessions of a cluster wait for each other in a circle.
    ClusterDeadlock,
    /// A tool is not as it was accepted.
    ToolQuarantined,
}

impl Topic {
    /// All of them, as the documentation lists them.
    pub const ALL: [Topic; 15] = [
        Topic::Held,
        Topic::Approved,
        Topic::Rejected,
        Topic::InfoGiven,
        Topic::Expired,
        Topic::InDoubt,
        Topic::Overage,
        Topic::RollbackFailed,
        Topic::LateEffect,
        Topic::DuplicateEffect,
        Topic::DeniedEffect,
        Topic::Resolved,
        Topic::GovernanceAnomaly,
        Topic::ClusterDeadlock,
        Topic::ToolQuarantined,
    ];

    /// The word in configuration and notices, which is that of the entry's event.
    pub fn word(self) -> &'static str {
        match self {
            Topic::Held => "held",
            Topic::Approved => "approved",
            Topic::Rejected => "rejected",
            Topic::InfoGiven => ledger::INFO_GIVEN,
            Topic::Expired => "expired",
            Topic::InDoubt => "in_doubt",
            Topic::Overage => "overage",
            Topic::RollbackFailed => "rollback_failed",
            Topic::LateEffect => "late_effect",
            Topic::DuplicateEffect => "duplicate_effect",
            Topic::DeniedEffect => "denied_effect",
            Topic::Resolved => crate::resolve::EVENT,
            Topic::GovernanceAnomaly => "governance_anomaly",
            Topic::ClusterDeadlock => "cluster_deadlock",
            Topic::ToolQuarantined => quarantine::EVENT,
        }
    }

    /// The topic of entries with this event.
    pub(crate) fn of_event(event: &str) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| topic.word() == event)
    }

    /// Is whoever asks for this told of that? A duplicate is a late effect, too.
    pub(crate) fn covers(self, topic: Topic) -> bool {
        self == topic || (self, topic) == (Topic::LateEffect, Topic::DuplicateEffect)
    }

    /// What it means, in a sentence.
    pub(super) fn text(self, about: &About) -> &'static str {
        match self {
            Topic::Held => "An action waits for people to decide.",
            Topic::Approved => "A person agreed to an action.",
            Topic::Rejected => "A person said no to an action; it will not be carried out.",
            Topic::InfoGiven => "An agent answered what a person asked about its action; look again.",
            Topic::Expired => "An action waited until its time was over; it will not be carried out.",
            Topic::InDoubt => {
                "An action was sent, and nobody knows yet whether it had its effect or whether that is as it should be."
            }
            Topic::Overage => "More was charged than was reserved, or in another currency.",
            Topic::RollbackFailed => {
                "An action could not be undone, or what it reserved not be set free; a person has to settle it."
            }
            Topic::LateEffect => {
                "An action that had been settled as without effect had its effect after all."
            }
            Topic::DuplicateEffect => {
                "An action had its effect more than once: an attempt that had been taken for absent had it, too."
            }
            Topic::DeniedEffect => {
                "A provider denies the effect of an action that had been settled as carried out."
            }
            Topic::Resolved => "A person said what became of an action, because its provider did not.",
            Topic::GovernanceAnomaly => match about {
                About::Policies => "Policies are withheld without a reason, or are not those on record.",
                About::Action(_) | About::Session(_) | About::Tool => {
                    "What ought not to be is in the records of a session."
                }
            },
            Topic::ClusterDeadlock => {
                "Sessions of a cluster wait for each other in a circle; a person has to end it."
            }
            Topic::ToolQuarantined => {
                "A tool of an MCP server is not as it was accepted, and is not called until somebody looks and accepts it."
            }
        }
    }

    /// Is a person to decide about the action?
    fn asks_people(self) -> bool {
        matches!(
            self,
            Topic::Held | Topic::InfoGiven | Topic::InDoubt | Topic::RollbackFailed | Topic::Resolved
        )
    }
}

/// What the entry of a notice is of.
pub(super) enum About {
    /// An action, by its id.
    Action(String),
    /// A session, and none of its actions.
    Session(String),
    /// The policies, which are hidden from somebody whom they bind.
    Policies,
    /// A tool, which the entry's record names.
    Tool,
}

impl About {
    /// As an entry of this topic has it; `None` if it is of nothing that people are told of.
    pub(super) fn of(
        topic: Topic,
        action: Option<ActionId>,
        session: Option<ledger::Session>,
    ) -> Option<About> {
        match (topic, action, session) {
            (Topic::GovernanceAnomaly | Topic::ClusterDeadlock, None, Some(session)) => {
                Some(About::Session(session.id))
            }
            (Topic::GovernanceAnomaly, None, None) => Some(About::Policies),
            (Topic::ToolQuarantined, None, None) => Some(About::Tool),
            (Topic::GovernanceAnomaly | Topic::ClusterDeadlock | Topic::ToolQuarantined, ..) => None,
            (_, action, _) => action.map(|action| About::Action(action.to_string())),
        }
    }

    /// What the `type` of the notice begins with.
    pub(super) fn word(&self) -> &'static str {
        match self {
            About::Action(_) => "action",
            About::Session(_) => "session",
            About::Policies => "policies",
            About::Tool => "tool",
        }
    }

    pub(super) fn action(&self) -> Option<&str> {
        match self {
            About::Action(id) => Some(id),
            About::Session(_) | About::Policies | About::Tool => None,
        }
    }

    pub(super) fn session(&self) -> Option<&str> {
        match self {
            About::Session(id) => Some(id),
            About::Action(_) | About::Policies | About::Tool => None,
        }
    }

    /// The path under which people look at it.
    pub(super) fn page(&self, topic: Topic) -> String {
        match self {
            About::Action(id) if topic.asks_people() => format!("/approvals/{id}"),
            About::Action(id) => format!("/v1/actions/{id}"),
            About::Session(id) => format!("/v1/sessions/{id}"),
            About::Policies => "/v1/policies/disclosure".to_owned(),
            About::Tool => "/v1/mcp/tools".to_owned(),
        }
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}
