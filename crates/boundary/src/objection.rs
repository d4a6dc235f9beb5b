//! What speaks against a pass, and what it comes to.

use crate::ask::Answer;
use crate::record::Noted;
use crate::stage::StageName;
use crate::{Class, Escalation, Facts, Observed, Reason, Trigger};

/// One thing that speaks against a pass.
#[derive(Debug)]
pub(crate) struct Objection {
    pub(crate) stage: StageName,
    pub(crate) weight: Weight,
    liftable: bool,
    pub(crate) is_cedars: bool,
    /// People agreed to it.
    pub(crate) approved: bool,
}

#[derive(Debug)]
pub(crate) enum Weight {
    Block(Reason),
    Escalate(Trigger),
}

impl Objection {
    pub(crate) fn block(stage: StageName, reason: Reason) -> Objection {
        Objection::new(stage, Weight::Block(reason))
    }

    pub(crate) fn escalate(stage: StageName, trigger: Trigger) -> Objection {
        Objection::new(stage, Weight::Escalate(trigger))
    }

    fn new(stage: StageName, weight: Weight) -> Objection {
        Objection { stage, weight, liftable: false, is_cedars: false, approved: false }
    }

    /// The same, marked if it is one that people agreed to.
    pub(crate) fn heard(self, facts: &Facts<'_>) -> Objection {
        let approved = match &self.weight {
            Weight::Escalate(trigger) => facts.approved.is_some_and(|it| it.covers(trigger, facts)),
            Weight::Block(_) => false,
        };
        Objection { approved, ..self }
    }

    /// The same, about what is to undo the action and not about the action.
    pub(crate) fn of_rollback(self) -> Objection {
        let weight = match self.weight {
            Weight::Block(reason) => {
                Weight::Block(Reason::RollbackDenied { policies: reason.policies().to_vec() })
            }
            escalates => escalates,
        };
        // The record asks Cedar about the action alone; this is noted as it was found.
        Objection { weight, is_cedars: false, ..self }
    }

    /// Observe mode lets it through.
    pub(crate) fn liftable(self) -> Objection {
        Objection { liftable: true, ..self }
    }

    fn of_cedar(self) -> Objection {
        Objection { is_cedars: true, ..self }
    }

    pub(crate) fn word(&self) -> &'static str {
        match &self.weight {
            Weight::Block(reason) => reason.word(),
            Weight::Escalate(trigger) => trigger.word(),
        }
    }

    pub(crate) fn class(&self) -> Option<Class> {
        match &self.weight {
            Weight::Block(reason) => reason.class(),
            Weight::Escalate(trigger) => Some(trigger.class()),
        }
    }

    pub(crate) fn noted(&self) -> Noted {
        Noted {
            blocks: matches!(self.weight, Weight::Block(_)),
            liftable: self.liftable,
            stage: self.stage.as_str().into(),
            word: self.word().into(),
        }
    }
}

/// What objections come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weighed {
    Pass,
    /// The block at this place, the first.
    Block(usize),
    Escalate,
}

impl Weighed {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Weighed::Pass => "pass",
            Weighed::Block(_) => "block",
            Weighed::Escalate => "escalate",
        }
    }
}

/// The first block; else an escalation; else nothing. What people agreed to is left out, and what observe mode lifts.
pub(crate) fn weigh(objections: &[Objection], observe: bool) -> Weighed {
    let mut outcome = Weighed::Pass;
    for (at, objection) in objections.iter().enumerate() {
        match objection.weight {
            _ if objection.approved || observe && objection.liftable => {}
            Weight::Block(_) => return Weighed::Block(at),
            Weight::Escalate(_) => outcome = Weighed::Escalate,
        }
    }
    outcome
}

/// The verdict in words for the record, with the reason of a block: `pass`, `escalate`, `block forbidden`.
pub(crate) fn summary(objections: &[Objection], weighed: Weighed) -> String {
    match weighed {
        Weighed::Block(at) => match objections.get(at) {
            Some(objection) => format!("block {}", objection.word()),
            None => "block".to_owned(),
        },
        other => other.word().to_owned(),
    }
}

/// The same, from what a record kept of the objections.
pub(crate) fn weigh_noted(noted: &[Noted], observe: bool) -> String {
    let mut stands = noted.iter().filter(|noted| !(observe && noted.liftable)).peekable();
    if stands.peek().is_none() {
        return "pass".to_owned();
    }
    match stands.find(|noted| noted.blocks) {
        Some(noted) => format!("block {}", noted.word),
        None => "escalate".to_owned(),
    }
}

pub(crate) fn observed(objections: &[Objection], weighed: &Weighed, observe: bool) -> Option<Observed> {
    let otherwise = if observe { weigh(objections, false) } else { return None };
    let code = match otherwise {
        Weighed::Block(at) => objections.get(at)?.word(),
        Weighed::Escalate => objections.iter().find(|objection| !objection.approved)?.word(),
        Weighed::Pass => return None,
    };
    (otherwise != *weighed).then_some(Observed { would_be: otherwise.word(), code })
}

pub(crate) fn escalation(objections: &[Objection], observe: bool) -> Escalation {
    let stands = objections.iter();
    let stands = stands.filter(|objection| !(objection.approved || observe && objection.liftable));
    let mut triggers: Vec<Trigger> = stands
        .filter_map(|objection| match &objection.weight {
            Weight::Escalate(trigger) => Some(trigger.clone()),
            Weight::Block(_) => None,
        })
        .collect();
    triggers.sort_by_key(Trigger::class);
    Escalation { triggers }
}

/// What Cedar's answer has against the action. Before a quote is known, a permit may still be waiting for the amount.
pub(crate) fn cedars_objection(answer: &Answer, default_deny_waits: bool) -> Option<Objection> {
    let block = |reason| Objection::block(StageName::Boundary, reason).of_cedar();
    match answer {
        Answer::NotAsked | Answer::Allow(_) => None,
        Answer::Prohibited(policies) => Some(block(Reason::Prohibited { policies: policies.clone() })),
        Answer::Error(_) => Some(block(Reason::PolicyError)),
        Answer::Forbidden { policies, zero_b: true } => {
            Some(block(Reason::Forbidden { policies: policies.clone() }))
        }
        Answer::Forbidden { policies, zero_b: false } => {
            Some(block(Reason::Forbidden { policies: policies.clone() }).liftable())
        }
        Answer::NotPermitted if default_deny_waits => None,
        Answer::NotPermitted => Some(block(Reason::NotPermitted).liftable()),
        Answer::Escalate(policies) => {
            let trigger = Trigger::Policies(policies.clone());
            Some(Objection::escalate(StageName::Boundary, trigger).of_cedar().liftable())
        }
    }
}
