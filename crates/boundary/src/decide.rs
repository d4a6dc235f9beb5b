//! The pass: look at everything, then weigh.

use action::{Environment, OnDuplicate};
use mandate::{Mandate, Refusal, exposure, within_own_bound};

use crate::anomaly::{self, Assessment};
use crate::ask::{Answer, Opinion, Question};
use crate::objection::{
    Objection, Weighed, Weight, cedars_objection, escalation, observed, summary, weigh, weigh_noted,
};
use crate::policies::Slice;
use crate::record::{Asked, Record};
use crate::stage::{Stage, StageName};
use crate::{
    Caller, Facts, Observed, Permit, Policies, PolicyRef, Reason, Trigger, Verdict, context, report,
};

/// What a pass came to, and its report.
#[derive(Debug)]
pub struct Decision {
    /// What is to become of the action.
    pub verdict: Verdict,
    /// The stages that ran, in entry order; after a block, up to the one that blocked.
    pub stages: Vec<Stage>,
    /// What would have been without observe mode, if that differs.
    pub observed: Option<Observed>,
    /// Enough to decide again later.
    pub record: Record,
    /// What only an operator may see: which limit was broken, which policy failed and how.
    pub detail: Option<String>,
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
    Some(Decision { verdict, stages, observed: None, record, detail: None })
}

/// Decides. The same facts and policies always give the same decision.
pub fn decide(policies: &Policies, facts: &Facts<'_>) -> Decision {
    let mut findings = Findings::of(policies, facts);
    let objections = findings.objections(facts);
    let weighed = weigh(&objections, facts.observe);
    let observed = observed(&objections, &weighed, facts.observe);
    let stages = findings.stages(policies, facts, &objections, &weighed);
    let noted = objections.iter().filter(|it| !it.is_cedars && !it.approved).map(Objection::noted).collect();
    let detail = findings.detail();
    let quoting = findings.awaits_quote;
    let record = Record::new(
        policies,
        facts.action.archetype.name.as_str().into(),
        findings.asked,
        noted,
        facts.observe,
        Some((findings.math, facts.series.clone(), facts.salt)),
        summary(&objections, weighed),
    )
    .approving(agreed_policies(&objections));
    let verdict = match weighed {
        Weighed::Block(at) => match objections.into_iter().nth(at).map(|objection| objection.weight) {
            Some(Weight::Block(reason)) => Verdict::Block(reason),
            // What was weighed as a block is one; if ever not, doubt is a block too.
            _ => Verdict::Block(Reason::PolicyError),
        },
        _ if quoting => Verdict::Quote,
        Weighed::Escalate => Verdict::Escalate(escalation(objections, facts.observe)),
        Weighed::Pass => Verdict::Pass(Permit::mint(policies, facts)),
    };
    Decision { verdict, stages, observed, record, detail }
}

/// Everything that was found, before any of it is weighed.
pub(crate) struct Findings {
    pub(crate) hard_denied: Option<String>,
    pub(crate) token: Option<Refusal>,
    pub(crate) delegation: Delegation,
    pub(crate) cedar: Opinion,
    /// What speaks against what is to undo it.
    rollback: Vec<Objection>,
    pub(crate) math: Assessment,
    asked: Option<Asked>,
    /// The price is not known yet and only the provider knows it.
    awaits_quote: bool,
    /// Something may permit the action once its price is known.
    default_deny_waits: bool,
}

/// How the mandate, or its absence, bears on the action.
pub(crate) enum Delegation {
    Within,
    NotNeeded,
    Missing,
    Refused(Refusal),
}

impl Findings {
    fn of(policies: &Policies, facts: &Facts<'_>) -> Findings {
        let action = facts.action;
        let slice = policies.slice(&action.archetype.name);
        let (token, delegation) = delegation(facts);
        let (cedar, asked) = ask(policies, slice, facts);
        let amount = exposure(action).map(action::Money::minor);
        Findings {
            hard_denied: hard_denied(policies, &action.archetype.name, facts.verb, facts.target),
            token,
            delegation,
            cedar,
            rollback: against_rollback(policies, facts),
            asked,
            math: anomaly::assess(
                &action.archetype.anomaly,
                facts.series,
                amount,
                facts.first_seen_destination,
                facts.now_ms,
            ),
            awaits_quote: awaits_quote(facts),
            default_deny_waits: default_deny_waits(slice, facts),
        }
    }

    /// Everything that speaks against a pass, blocks in entry order.
    fn objections(&mut self, facts: &Facts<'_>) -> Vec<Objection> {
        let mut out = Vec::new();
        if let Some(name) = &self.hard_denied {
            out.push(Objection::block(StageName::Boundary, Reason::HardDenied { name: name.clone() }));
        }
        if let Some(refusal) = &self.token {
            out.push(Objection::block(StageName::TokenValidation, Reason::Delegation(refusal.clone())));
        }
        if let Some(scope) = facts.frozen {
            out.push(Objection::block(StageName::Boundary, Reason::Frozen { scope: scope.to_owned() }));
        }
        match &self.delegation {
            Delegation::Within | Delegation::NotNeeded => {}
            Delegation::Missing => out.push(Objection::block(StageName::Boundary, Reason::NoMandate)),
            Delegation::Refused(refusal) => {
                out.push(Objection::block(StageName::Boundary, Reason::Delegation(refusal.clone())));
            }
        }
        out.extend(cedars_objection(&self.cedar.answer, self.default_deny_waits));
        out.append(&mut self.rollback);
        self.designations(facts, &mut out);
        if !facts.action.missing.is_empty() {
            let missing = facts.action.missing.clone();
            out.push(Objection::block(StageName::Completeness, Reason::Incomplete { missing }));
        }
        self.mathematics(facts, &mut out);
        out.into_iter().map(|objection| objection.heard(facts)).collect()
    }

    /// Classes 4 and 9: what is known of the action beforehand.
    fn designations(&self, facts: &Facts<'_>, out: &mut Vec<Objection>) {
        let (action, archetype) = (facts.action, &facts.action.archetype);
        let over = |threshold: i64| exposure(action).is_none_or(|amount| amount.minor() > threshold);
        if !action.reversible && archetype.irreversible_threshold.is_some_and(over) {
            out.push(Objection::escalate(StageName::Boundary, Trigger::Irreversible));
        }
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

    /// Class 6 and duplicates: how the action compares with what came before.
    fn mathematics(&self, facts: &Facts<'_>, out: &mut Vec<Objection>) {
        if self.math.outside.is_some() {
            out.push(Objection::block(StageName::Math, Reason::Anomaly).liftable());
        }
        if self.math.cold_start {
            out.push(Objection::escalate(StageName::Math, Trigger::ColdStart).liftable());
        }
        if self.math.first_seen {
            out.push(Objection::escalate(StageName::Math, Trigger::FirstSeenDestination).liftable());
        }
        let Some(earlier) = facts.earlier else { return };
        // Who says which action they repeat, repeats on purpose; policies see `repeat_of` and decide.
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
                out.push(
                    Objection::escalate(StageName::Math, Trigger::ProbableDuplicate { earlier }).liftable(),
                );
            }
        }
    }

    fn detail(&self) -> Option<String> {
        match (&self.cedar.answer, self.math.outside) {
            (Answer::Error(message), _) => Some(message.clone()),
            (_, Some(outside)) => Some(format!("anomaly: {}", outside.word())),
            _ => None,
        }
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
            mandate.permits(action, &facts.caller.subject, account, now_s).and_then(|()| above())
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

fn ask(policies: &Policies, slice: Option<&Slice>, facts: &Facts<'_>) -> (Opinion, Option<Asked>) {
    let without_advice = |answer| Opinion { answer, advice: Vec::new() };
    if !facts.action.is_complete() {
        return (without_advice(Answer::NotAsked), None);
    }
    let Some(slice) = slice else {
        let message = "the policies were loaded with another catalogue".to_owned();
        return (without_advice(Answer::Error(message)), None);
    };
    let texts = context::Texts::of(facts);
    let attributes = context::attributes(facts, &texts);
    let principal = policies.principal(facts.caller.is_human, facts.caller.subject.as_str());
    let question = context::context(&slice.reads.filter(&attributes)).and_then(|context| {
        let tenant = facts.caller.tenant.as_str();
        Question::new(policies, slice, principal, tenant, facts.action.resource.as_deref(), context)
    });
    match question {
        Ok(question) => {
            let opinion = question.ask(policies, slice);
            let mut context = String::with_capacity(768);
            context::write(&attributes, &mut context);
            let asked =
                Asked::new(question, context, opinion.clone(), default_deny_waits(Some(slice), facts));
            (opinion, Some(asked))
        }
        Err(message) => (without_advice(Answer::Error(message)), None),
    }
}

/// What is to undo an action is asked for by the same caller. It is judged by name and by policies; it causes nothing new,
/// so no mandate has to carry it.
fn against_rollback(policies: &Policies, facts: &Facts<'_>) -> Vec<Objection> {
    let Some(rollback) = facts.action.rollback.as_deref() else { return Vec::new() };
    let named = facts.action.atp.as_ref().and_then(|atp| atp.rollback_verb_and_target());
    let (verb, target) = named.map_or((None, None), |(verb, target)| (Some(verb), target));
    let facts = Facts {
        action: rollback,
        verb,
        target,
        first_seen_destination: false,
        earlier: None,
        ..facts.clone()
    };
    let name = hard_denied(policies, &rollback.archetype.name, verb, target);
    let denied = name.map(|name| Objection::block(StageName::Boundary, Reason::HardDenied { name }));
    let (opinion, _) = ask(policies, policies.slice(&rollback.archetype.name), &facts);
    let objections = denied.into_iter().chain(cedars_objection(&opinion.answer, false));
    objections.map(Objection::of_rollback).collect()
}

/// Whether the price is unknown and a provider will name it.
fn awaits_quote(facts: &Facts<'_>) -> bool {
    facts.action.money.is_none() && facts.action.archetype.money.as_ref().is_some_and(|rule| rule.quote)
}

fn default_deny_waits(slice: Option<&Slice>, facts: &Facts<'_>) -> bool {
    awaits_quote(facts) && slice.is_some_and(|slice| slice.permit_needs_amount)
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
