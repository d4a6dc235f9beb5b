//! The pass: look at everything, then weigh.

use action::{Action, Environment};
use mandate::{Mandate, Refusal, exposure, within_own_bound};

use crate::anomaly::{self, Assessment};
use crate::ask::{self, Answer, Answers, Questions};
use crate::classes::{self, Hits};
use crate::objection::{
    Objection, Weighed, Weight, cedars_objection, escalation, observed, summary, weigh, weigh_noted,
};
use crate::record::Record;
use crate::stage::{Output, Stage, StageName};
use crate::{
    Caller, Facts, Flag, Governance, Observed, Permit, Policies, PolicyRef, Reason, Verdict, intent, report,
};

/// What a pass came to, and its report.
#[derive(Debug)]
pub struct Decision {
    /// What is to become of the action.
    pub verdict: Verdict,
    /// The same in the words of the governed loop.
    pub governance: Governance,
    /// What is odd about a cycle and stops nothing.
    pub flags: Vec<Flag>,
    /// The stages that ran, in entry order; after a block, up to the one that blocked.
    pub stages: Vec<Stage>,
    /// What would have been without observe mode, if that differs.
    pub observed: Option<Observed>,
    /// Enough to decide again later.
    pub record: Record,
    /// What only an operator may see: which limit was broken, which policy failed and how.
    pub detail: Option<String>,
}

impl Decision {
    /// Ids of the policies that decided on the action and on what its agent might do next, each once.
    pub fn policies(&self) -> Vec<String> {
        let outputs = self.stages.iter().filter_map(|stage| match &stage.output {
            Output::Boundary(output) => Some(output),
            _ => None,
        });
        let told = outputs.flat_map(|output| {
            let branches = output.cycle.iter().flat_map(|cycle| &cycle.branches).map(|branch| &branch.cedar);
            std::iter::once(&output.cedar).chain(branches)
        });
        let mut ids: Vec<String> =
            told.flat_map(|cedar| &cedar.policies).map(|policy| policy.id.to_string()).collect();
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        ids
    }
}

/// What is known of an action before its archetype is.
#[derive(Debug, Clone)]
pub struct Named<'a> {
    /// Real or pretended effects.
    pub environment: Environment,
    /// The archetype, as asked; the catalogue need not know it.
    pub archetype: &'a str,
    /// The verb and target, where the face that was used has them.
    pub verb: Option<&'a str>,
    /// See `verb`.
    pub target: Option<&'a str>,
    /// Who asks.
    pub caller: &'a Caller,
    /// The mandate that was verified, if one was.
    pub mandate: Option<&'a Mandate>,
    /// Whether observe mode is on; it lifts nothing here.
    pub observe: bool,
}

/// Blocks an action by its bare name, before catalogue and schema; `None` if the name is not on the hard-deny list.
pub fn decide_by_name(policies: &Policies, named: &Named<'_>) -> Option<Decision> {
    let name = hard_denied(policies, named.archetype, named.verb, named.target)?;
    let objection = Objection::block(StageName::Boundary, Reason::HardDenied { name: name.clone() });
    let stages = report::by_name(policies, named, &name, objection.word());
    let noted = vec![objection.noted()];
    let word = weigh_noted(&noted, named.observe);
    let record = Record::new(policies, named.archetype.into(), None, noted, named.observe, None, word);
    let verdict = Verdict::Block(Reason::HardDenied { name });
    let governance = verdict.governance();
    Some(Decision { verdict, governance, flags: Vec::new(), stages, observed: None, record, detail: None })
}

/// Decides. The same facts and policies always give the same decision.
///
/// Of a cycle every step is taken, in this order, and whatever one of them finds: the declaration, tier 0-A alone, the
/// gate and the other policies, the nine classes. Each hands its evidence to the next.
pub fn decide(policies: &Policies, facts: &Facts<'_>) -> Decision {
    let (standing, checked) = intent::check(policies, facts);
    let intent_valid = !standing.iter().any(|reason| matches!(reason, Reason::Intent(_)));
    let mut questions = Questions::pose(policies, facts, intent_valid);
    let pre_checked = questions.prohibitions(policies, checked);
    let (answers, answered) = questions.answer(policies, facts, pre_checked);
    let mut findings = Findings::of(policies, facts, standing, answers);
    let (hits, evaluated) = classes::evaluate(facts, &findings.math, answered);
    let objections = findings.objections(facts, hits);

    let weighed = weigh(&objections, facts.observe);
    let observed = observed(&objections, &weighed, facts.observe);
    let word = summary(&objections, weighed);
    let noted = objections.iter().filter(|it| !it.is_cedars && !it.approved).map(Objection::noted).collect();
    let agreed = agreed_policies(&objections);
    let flags = findings.flags(facts, &objections);
    let verdict = match weighed {
        Weighed::Block(at) => match objections.get(at).map(|objection| &objection.weight) {
            Some(Weight::Block(reason)) => Verdict::Block(reason.clone()),
            // What was weighed as a block is one; if ever not, doubt is a block too.
            _ => Verdict::Block(Reason::PolicyError),
        },
        _ if ask::awaits_quote(facts) => Verdict::Quote,
        Weighed::Escalate => Verdict::Escalate(escalation(&objections, facts.observe)),
        Weighed::Pass => Verdict::Pass(Permit::mint(policies, facts, evaluated)),
    };
    let governance = verdict.governance();
    let stages = findings.stages(policies, facts, &objections, &weighed, governance, &flags);
    let detail = findings.detail();
    let archetype = facts.action.archetype.name.as_str().into();
    let math = Some((findings.math, facts.series.clone(), facts.salt));
    let record =
        Record::new(policies, archetype, findings.answers.own.asked, noted, facts.observe, math, word)
            .approving(agreed)
            .of_cycle(findings.answers.cycle);
    Decision { verdict, governance, flags, stages, observed, record, detail }
}

/// Everything that was found, before any of it is weighed.
pub(crate) struct Findings {
    pub(crate) hard_denied: Option<String>,
    pub(crate) token: Option<Refusal>,
    /// What session, declaration and mode have against a cycle.
    pub(crate) standing: Vec<Reason>,
    pub(crate) delegation: Delegation,
    pub(crate) answers: Answers,
    /// What speaks against what is to undo it.
    rollback: Vec<Objection>,
    /// What no policy says, and speaks against a branch.
    branches: Vec<Objection>,
    pub(crate) math: Assessment,
}

/// How the mandate, or its absence, bears on the action.
pub(crate) enum Delegation {
    Within,
    NotNeeded,
    Missing,
    Refused(Refusal),
}

impl Findings {
    fn of(policies: &Policies, facts: &Facts<'_>, standing: Vec<Reason>, answers: Answers) -> Findings {
        let action = facts.action;
        let (token, delegation) = delegation(facts);
        let amount = exposure(action).map(action::Money::minor);
        Findings {
            hard_denied: hard_denied(policies, &action.archetype.name, facts.verb, facts.target),
            token,
            standing,
            delegation,
            answers,
            rollback: against_rollback(policies, facts),
            branches: against_branches(policies, facts),
            math: anomaly::assess(
                &action.archetype.anomaly,
                facts.series,
                amount,
                facts.first_seen_destination,
                facts.now_ms,
            ),
        }
    }

    /// Everything that speaks against a pass, blocks in entry order.
    fn objections(&mut self, facts: &Facts<'_>, hits: Hits) -> Vec<Objection> {
        let mut out = Vec::new();
        let blocked = |reason| Objection::block(StageName::Boundary, reason);
        if let Some(name) = &self.hard_denied {
            out.push(blocked(Reason::HardDenied { name: name.clone() }));
        }
        if let Some(refusal) = &self.token {
            out.push(Objection::block(StageName::TokenValidation, Reason::Delegation(refusal.clone())));
        }
        out.extend(self.standing.iter().cloned().map(blocked));
        if let Some(scope) = facts.frozen {
            out.push(blocked(Reason::Frozen { scope: scope.to_owned() }));
        }
        out.extend(facts.quarantined.map(|why| blocked(Reason::Quarantined { why })));
        out.extend(facts.approved.and_then(|it| it.exceeded(facts)).map(blocked));
        out.extend(facts.beyond_session().map(blocked));
        match &self.delegation {
            Delegation::Within | Delegation::NotNeeded => {}
            Delegation::Missing => out.push(blocked(Reason::NoMandate)),
            Delegation::Refused(refusal) => out.push(blocked(Reason::Delegation(refusal.clone()))),
        }
        out.append(&mut self.branches);
        out.extend(
            self.answers
                .iter()
                .filter_map(|told| cedars_objection(&told.opinion.answer, told.default_deny_waits)),
        );
        out.append(&mut self.rollback);
        out.extend(hits.boundary);
        if !facts.action.missing.is_empty() {
            let missing = facts.action.missing.clone();
            out.push(Objection::block(StageName::Completeness, Reason::Incomplete { missing }));
        }
        out.extend(hits.math);
        out.into_iter().map(|objection| objection.heard(facts)).collect()
    }

    fn flags(&self, facts: &Facts<'_>, objections: &[Objection]) -> Vec<Flag> {
        let fired = || objections.iter().any(|objection| objection.class().is_some());
        facts.cycle.as_ref().map_or_else(Vec::new, |cycle| cycle.flags(fired()))
    }

    fn detail(&self) -> Option<String> {
        let failed = self.answers.iter().find_map(|told| match &told.opinion.answer {
            Answer::Error(message) => Some(message.clone()),
            _ => None,
        });
        failed.or_else(|| self.math.outside.map(|outside| format!("anomaly: {}", outside.word())))
    }
}

/// The policies that ask for a person and were agreed to.
fn agreed_policies(objections: &[Objection]) -> Vec<PolicyRef> {
    let policies = |objection: &Objection| match &objection.weight {
        Weight::Escalate(trigger) if objection.approved => trigger.policies().to_vec(),
        _ => Vec::new(),
    };
    objections.iter().flat_map(policies).collect()
}

/// The token's own refusal apart from what the mandate does not carry: they belong to different entries.
fn delegation(facts: &Facts<'_>) -> (Option<Refusal>, Delegation) {
    let action = facts.action;
    if let Some(refusal) = &facts.mandate_refusal {
        return (Some(refusal.clone()), Delegation::Missing);
    }
    let needed = action.archetype.money.is_some() || !action.reversible;
    let checked = match facts.mandate {
        Some((mandate, account)) => {
            let now_s = facts.now_ms.div_euclid(1000);
            // Whoever is higher up may have less left, or may have ended.
            let above = || facts.ancestors.iter().try_for_each(|(it, left)| it.carries(action, left, now_s));
            // A limit that nothing would keep is none that may be left out by naming no session.
            let kept = || match facts.cycle {
                Some(_) => Ok(()),
                None => facts.chain().try_for_each(|(it, _)| it.bears_without_session()),
            };
            let permitted = mandate.permits(action, &facts.caller.subject, account, now_s);
            permitted.and_then(|()| above()).and_then(|()| kept())
        }
        None if needed => return (None, Delegation::Missing),
        None => within_own_bound(action),
    };
    match checked {
        Ok(()) if facts.mandate.is_some() => (None, Delegation::Within),
        Ok(()) => (None, Delegation::NotNeeded),
        Err(refusal) if refusal.is_of_token() => (Some(refusal), Delegation::Missing),
        Err(refusal) => (None, Delegation::Refused(refusal)),
    }
}

/// What is to undo an action is asked for by the same caller. It is judged by name and by policies; it causes nothing new,
/// so no mandate has to carry it.
fn against_rollback(policies: &Policies, facts: &Facts<'_>) -> Vec<Objection> {
    let Some(rollback) = facts.action.rollback.as_deref() else { return Vec::new() };
    let named = facts.action.atp.as_ref().and_then(|atp| atp.rollback_verb_and_target());
    let (verb, target) = named.map_or((None, None), |(verb, target)| (Some(verb), target));
    let facts = Facts { verb, target, ..facts.of_other(rollback) };
    let name = hard_denied(policies, &rollback.archetype.name, verb, target);
    let denied = name.map(|name| Objection::block(StageName::Boundary, Reason::HardDenied { name }));
    let answer = ask::ask_alone(policies, &facts);
    let objections = denied.into_iter().chain(cedars_objection(&answer, false));
    objections.map(Objection::of_rollback).collect()
}

/// What an agent might do next must bear the name it has, be complete enough to be asked about, and be within what is left
/// of the mandate and of all above it, and within what people agreed to for the session: each alone, since one of them is
/// done next and not all.
fn against_branches(policies: &Policies, facts: &Facts<'_>) -> Vec<Objection> {
    let Some(cycle) = &facts.cycle else { return Vec::new() };
    let named = |branch: &Action| {
        let (verb, target) = branch.verb_and_target();
        let name = hard_denied(policies, &branch.archetype.name, verb, target)?;
        Some(Reason::HardDenied { name })
    };
    let outside = |branch: &Action| {
        let facts = facts.of_other(branch);
        let refused = match delegation(&facts) {
            (_, Delegation::Refused(refusal)) => Some(Reason::Delegation(refusal)),
            (_, Delegation::Within | Delegation::NotNeeded | Delegation::Missing) => None,
        };
        facts.beyond_session().into_iter().chain(refused)
    };
    let incomplete = |branch: &Action| {
        let missing = branch.missing.clone();
        (!missing.is_empty()).then_some(Reason::Incomplete { missing })
    };
    let reasons = cycle
        .branches
        .iter()
        .flat_map(|branch| named(branch).into_iter().chain(outside(branch)).chain(incomplete(branch)));
    reasons.map(|reason| Objection::block(StageName::Boundary, reason)).collect()
}

fn hard_denied(
    policies: &Policies,
    archetype: &str,
    verb: Option<&str>,
    target: Option<&str>,
) -> Option<String> {
    match (policies.slice(archetype), verb, target) {
        // Known since the policies were loaded.
        (Some(slice), None, None) => slice.hard_denied.clone(),
        _ => policies.hard_deny().denies(archetype, verb, target).map(str::to_owned),
    }
}
