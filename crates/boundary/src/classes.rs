//! The last step before a verdict: the nine classes of escalation, each looked at whatever the others found.

use action::{Action, OnDuplicate};
use mandate::{ClusterState, Mandate, ReasoningMode, exposure};

use crate::anomaly::Assessment;
use crate::ask::Answered;
use crate::cycle::Cycle;
use crate::intent::Footing;
use crate::objection::Objection;
use crate::stage::StageName;
use crate::{Facts, Reason, Trigger};

/// Evidence that every step was taken, each after the one before it: intent, tier 0-A, the policies, the classes. Only
/// [`evaluate`] makes one, and no permit is minted without one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Evaluated(Answered);

impl Evaluated {
    pub(crate) fn footing(&self) -> Option<&Footing> {
        self.0.footing()
    }
}

/// What fired, by the stage that tells it.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    pub(crate) boundary: Vec<Objection>,
    pub(crate) math: Vec<Objection>,
}

/// Looks at all nine.
pub(crate) fn evaluate(facts: &Facts<'_>, math: &Assessment, answered: Answered) -> (Hits, Evaluated) {
    let mut hits = Hits::default();
    // Classes 1 and 2 are blocks that the steps before found, and carry their class with them.
    irreversible(facts.action, &mut hits.boundary);
    operator(facts, &mut hits.boundary);
    novel_context(math, &mut hits.math);
    duplicate(facts, &mut hits.math);
    if let Some(cycle) = &facts.cycle {
        principal_conflict(cycle, &mut hits.boundary);
    }
    uncertainty(facts, &mut hits.boundary);
    if let Some(cycle) = &facts.cycle {
        drift(cycle, &mut hits.boundary);
        trust(cycle, facts, &mut hits.boundary);
        budget(cycle, &mut hits.boundary);
        multi_principal(cycle, &mut hits.boundary);
    }
    (hits, Evaluated(answered))
}

/// Class 3: another principal said the opposite.
fn principal_conflict(cycle: &Cycle<'_>, out: &mut Vec<Objection>) {
    if let Some(contradiction) = cycle.contradicts {
        let trigger = Trigger::PrincipalConflict { earlier: contradiction.earlier };
        out.push(Objection::escalate(StageName::Boundary, trigger));
    }
}

/// Class 4: there is no way back, and the stake is high or unknown.
fn irreversible(action: &Action, out: &mut Vec<Objection>) {
    let over = |threshold: i64| exposure(action).is_none_or(|amount| amount.minor() > threshold);
    if !action.reversible && action.archetype.irreversible_threshold.is_some_and(over) {
        out.push(Objection::escalate(StageName::Boundary, Trigger::Irreversible));
    }
}

/// Class 5: less sure than the mandate demands. Who does not say is not sure, and outside of a session nobody can: silence
/// must not loosen a floor.
fn uncertainty(facts: &Facts<'_>, out: &mut Vec<Objection>) {
    let floor = facts.chain().filter_map(|(mandate, _)| mandate.uncertainty_floor).max();
    let confidence = facts.cycle.as_ref().and_then(|cycle| cycle.confidence);
    if floor.is_some_and(|floor| confidence.is_none_or(|share| share < floor)) {
        out.push(Objection::escalate(StageName::Boundary, Trigger::Uncertainty));
    }
}

/// Class 6: unlike what came before, or nothing came before.
fn novel_context(math: &Assessment, out: &mut Vec<Objection>) {
    if math.outside.is_some() {
        out.push(Objection::block(StageName::Math, Reason::Anomaly).liftable());
    }
    if math.cold_start {
        out.push(Objection::escalate(StageName::Math, Trigger::ColdStart).liftable());
    }
    if math.first_seen {
        out.push(Objection::escalate(StageName::Math, Trigger::FirstSeenDestination).liftable());
    }
}

/// Class 6 too: the situation is not the one that the agent declared itself in.
fn drift(cycle: &Cycle<'_>, out: &mut Vec<Objection>) {
    let declared = cycle.declaration.ok().and_then(|declaration| declaration.context_fingerprint.as_deref());
    if declared.is_some_and(|fingerprint| fingerprint != cycle.context.fingerprint()) {
        out.push(Objection::escalate(StageName::Boundary, Trigger::NovelContext));
    }
}

/// Class 6 too: the session asked more often for what was denied than the mandate assumes of its agent.
fn trust(cycle: &Cycle<'_>, facts: &Facts<'_>, out: &mut Vec<Objection>) {
    let floor = facts.chain().filter_map(|(mandate, _)| mandate.trust_floor).max();
    if floor.is_some_and(|floor| cycle.trust() < u64::from(floor.ten_thousandths())) {
        out.push(Objection::escalate(StageName::Boundary, Trigger::BelowTrust));
    }
}

/// Class 7: the first to find the budget used up asks; the others are told.
fn budget(cycle: &Cycle<'_>, out: &mut Vec<Objection>) {
    if cycle.context.remaining.exhausted().is_none() {
        return;
    }
    out.push(match cycle.extension_asked {
        false => Objection::escalate(StageName::Boundary, Trigger::BudgetExhausted),
        true => Objection::block(StageName::Boundary, Reason::BudgetExhausted),
    });
}

/// Class 8: more than one principal has a say, or members of the cluster wait for each other.
fn multi_principal(cycle: &Cycle<'_>, out: &mut Vec<Objection>) {
    let together = cycle.mode() == Some(ReasoningMode::Collaborative) && cycle.unheard();
    let stuck = cycle.context.cluster.as_ref().is_some_and(|it| it.state == ClusterState::Deadlock);
    if together || stuck {
        out.push(Objection::escalate(StageName::Boundary, Trigger::MultiPrincipal));
    }
}

/// Class 9: designated by operator, archetype, mandate or guarantee level. A policy's `@escalate` is Cedar's to tell.
fn operator(facts: &Facts<'_>, out: &mut Vec<Objection>) {
    let (action, archetype) = (facts.action, &facts.action.archetype);
    if archetype.requires_approval {
        out.push(Objection::escalate(StageName::Boundary, Trigger::Archetype).liftable());
    }
    if facts.chain().any(|(it, _)| Mandate::designates(&it.requires_approval, archetype)) {
        out.push(Objection::escalate(StageName::Boundary, Trigger::Mandate).liftable());
    }
    if action.wants_sign_off() {
        // Not the operator's wish, so nothing that the operator could observe without.
        out.push(Objection::escalate(StageName::Boundary, Trigger::SignOff));
    }
    if action.guarantee_level == action::GuaranteeLevel::Atp3 {
        out.push(Objection::escalate(StageName::Boundary, Trigger::GuaranteeLevel).liftable());
    }
}

/// Class 9 too: the same effect once more. Who says which action they repeat, repeats on purpose; policies see
/// `repeat_of` and decide.
fn duplicate(facts: &Facts<'_>, out: &mut Vec<Objection>) {
    let Some(earlier) = facts.earlier else { return };
    if facts.action.repeat_of == Some(earlier.id) {
        return;
    }
    let earlier = earlier.id;
    match facts.action.archetype.duplicate.on {
        OnDuplicate::Allow => {}
        OnDuplicate::Block => {
            out.push(Objection::block(StageName::Math, Reason::ProbableDuplicate { earlier }).liftable());
        }
        OnDuplicate::Escalate => {
            let trigger = Trigger::ProbableDuplicate { earlier };
            out.push(Objection::escalate(StageName::Math, trigger).liftable());
        }
    }
}
