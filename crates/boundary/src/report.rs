//! The report of a decision: its stages, for the entries of the receipt.

use std::sync::Arc;

use action::Environment;
use mandate::{IntentRefusal, Mandate, exposure};

use crate::anomaly;
use crate::ask::{Opinion, Told};
use crate::decide::{Delegation, Findings};
use crate::objection::{Objection, Weighed};
use crate::record::write_hex;
use crate::stage::{
    BoundaryOutput, BranchOutput, CedarOutput, CycleOutput, Hit, Input, NOT_APPLICABLE, Output, Stage,
    StageError, StageName,
};
use crate::{Caller, Class, Cycle, Facts, Flag, Governance, Named, Policies, Reason};

impl Findings {
    pub(crate) fn stages(
        &self,
        policies: &Policies,
        facts: &Facts<'_>,
        objections: &[Objection],
        weighed: &Weighed,
        governance: Governance,
        flags: &[Flag],
    ) -> Vec<Stage> {
        let blocked = match weighed {
            Weighed::Block(at) => objections.get(*at),
            _ => None,
        };
        let error = |name: StageName| {
            let objection = blocked.filter(|objection| objection.stage == name)?;
            Some(StageError { reason: objection.word() })
        };
        let last = blocked.map_or(StageName::Math, |objection| objection.stage);
        let mut stages = Vec::with_capacity(5);
        let mut add = |name: StageName, input: Input, output: Output| {
            stages.push(Stage { error: error(name), input, name, output });
        };
        add(
            StageName::TokenValidation,
            token_input(facts.caller, facts.mandate.map(|(it, _)| it)),
            self.token(facts),
        );
        if last >= StageName::Schema && self.hard_denied.is_none() {
            let input = Input::archetype(facts.action, policies.catalog_digest());
            add(StageName::Schema, input, Output::Schema { valid: true });
        }
        if last >= StageName::Boundary {
            let archetype = facts.action.archetype.name.as_str().into();
            let input = boundary_input(policies, archetype, facts.environment);
            let cycle = facts.cycle.as_ref().map(|cycle| self.cycle(cycle, objections, governance, flags));
            add(StageName::Boundary, input, self.boundary(facts, objections, weighed, cycle));
        }
        if last >= StageName::Completeness {
            let input = Input::archetype(facts.action, policies.catalog_digest());
            add(StageName::Completeness, input, completeness(facts));
        }
        if last >= StageName::Math {
            add(StageName::Math, math_input(facts), self.math_output(facts));
        }
        stages
    }

    fn token(&self, facts: &Facts<'_>) -> Output {
        let token = match (&self.token, facts.mandate) {
            (Some(_), _) => "refused",
            (None, Some(_)) => "verified",
            (None, None) => "absent",
        };
        Output::Token { token }
    }

    fn boundary(
        &self,
        facts: &Facts<'_>,
        objections: &[Objection],
        weighed: &Weighed,
        cycle: Option<CycleOutput>,
    ) -> Output {
        let mut fired: Vec<u8> =
            objections.iter().filter_map(Objection::class).map(|class| class as u8).collect();
        fired.sort_unstable();
        fired.dedup();
        let approved = objections.iter().filter(|objection| objection.approved);
        Output::Boundary(Box::new(BoundaryOutput {
            approved: approved.map(Objection::word).collect(),
            cedar: cedar_output(&self.answers.own.opinion),
            classes_fired: fired,
            classes_not_applicable: if cycle.is_some() { &[] } else { &NOT_APPLICABLE },
            cycle: cycle.map(Box::new),
            delegation: match self.delegation {
                Delegation::Within => "within",
                Delegation::NotNeeded => "not_needed",
                Delegation::Missing => "missing",
                Delegation::Refused(_) => "refused",
            },
            freeze: facts.frozen.map(Into::into),
            hard_deny: self.hard_denied.as_deref().map(Into::into),
            verdict: weighed.word(),
        }))
    }

    fn cycle(
        &self,
        cycle: &Cycle<'_>,
        objections: &[Objection],
        governance: Governance,
        flags: &[Flag],
    ) -> CycleOutput {
        let answers = self.answers.cycle.as_ref();
        let branches = answers.map_or(&[][..], |answers| &answers.branches);
        let branch = |(action, told): (&action::Action, &Told)| BranchOutput {
            action: action.archetype.name.as_str().into(),
            cedar: cedar_output(&told.opinion),
        };
        let hit =
            |objection: &Objection| Some(Hit { class: objection.class()? as u8, word: objection.word() });
        let mut hits: Vec<Hit> = objections.iter().filter_map(hit).collect();
        hits.sort_unstable();
        hits.dedup();
        let intent = self.standing.iter().find_map(|reason| match reason {
            Reason::Intent(refusal) => Some(*refusal),
            _ => None,
        });
        CycleOutput {
            branches: cycle.branches.iter().zip(branches).map(branch).collect(),
            flags: flags.iter().map(|flag| flag.as_str()).collect(),
            gate: answers.map_or_else(not_asked, |answers| cedar_output(&answers.gate.opinion)),
            governance: governance.as_str(),
            hits,
            intent: intent.map_or("valid", IntentRefusal::code),
            intent_id: cycle.declaration.ok().map(|declaration| declaration.intent_id.clone()),
            reasoning_mode: cycle.mode().map(|mode| mode.as_str()),
            sequence: cycle.context.sequence,
            session_id: cycle.session.id.clone(),
            session_state: cycle.session.state().as_str(),
            tier_0a: match answers {
                Some(answers) if answers.tier_0a_passed => "passed",
                _ => "stopped",
            },
            time_budget_remaining: cycle.context.remaining.time_seconds,
        }
    }

    fn math_output(&self, facts: &Facts<'_>) -> Output {
        let math = &self.math;
        Output::Math {
            anomaly: match (math.outside, math.cold_start) {
                (Some(_), _) => "unusual",
                (None, true) => "cold_start",
                (None, false) if exposure(facts.action).is_none() => "not_applicable",
                (None, false) => "usual",
            },
            duplicate: facts.earlier.map(|earlier| earlier.id.to_string().into()),
            first_seen_destination: facts.first_seen_destination,
            mad: math.mad.to_string().into(),
            median: math.median.to_string().into(),
            n: math.n,
            sample: hex(&anomaly::commitment(&facts.salt, facts.series)),
        }
    }
}

/// The stages of an action that is blocked by its bare name: no schema was looked at, and no policy.
pub(crate) fn by_name(policies: &Policies, named: &Named<'_>, name: &str, error: &'static str) -> Vec<Stage> {
    let token = Stage {
        error: None,
        input: token_input(named.caller, named.mandate),
        name: StageName::TokenValidation,
        output: Output::Token { token: if named.mandate.is_some() { "verified" } else { "absent" } },
    };
    let boundary = Stage {
        error: Some(StageError { reason: error }),
        input: boundary_input(policies, named.archetype.into(), named.environment),
        name: StageName::Boundary,
        output: Output::Boundary(Box::new(BoundaryOutput {
            approved: Vec::new(),
            cedar: not_asked(),
            classes_fired: vec![Class::Prohibited as u8],
            classes_not_applicable: &NOT_APPLICABLE,
            cycle: None,
            delegation: "not_needed",
            freeze: None,
            hard_deny: Some(name.into()),
            verdict: "block",
        })),
    };
    vec![token, boundary]
}

fn not_asked() -> CedarOutput {
    CedarOutput { advice: Vec::new(), decision: "not_asked", policies: Vec::new() }
}

fn cedar_output(opinion: &Opinion) -> CedarOutput {
    let (decision, policies) = opinion.answer.summary();
    CedarOutput { advice: opinion.advice.clone(), decision, policies: policies.to_vec() }
}

fn token_input(caller: &Caller, mandate: Option<&Mandate>) -> Input {
    Input::Token {
        agent: caller.subject.as_str().into(),
        chain: mandate.iter().flat_map(|mandate| &mandate.chain).map(|jti| jti.as_str().into()).collect(),
        token_id: mandate.map(|mandate| mandate.jti.as_str().into()),
    }
}

fn boundary_input(policies: &Policies, archetype: Arc<str>, environment: Environment) -> Input {
    Input::Boundary {
        action: archetype,
        entity_digest: policies.entity_digest().clone(),
        environment: environment.as_str(),
        policy_digest: policies.policy_digest().clone(),
    }
}

fn completeness(facts: &Facts<'_>) -> Output {
    let missing = &facts.action.missing;
    Output::Completeness {
        complete: missing.is_empty(),
        missing: missing.iter().map(|missing| missing.field.as_str().into()).collect(),
    }
}

fn math_input(facts: &Facts<'_>) -> Input {
    let archetype = &facts.action.archetype;
    Input::Math {
        k: archetype.anomaly.k,
        min_sample: archetype.anomaly.min_sample,
        window_seconds: archetype.duplicate.window.as_secs(),
    }
}

fn hex(bytes: &[u8]) -> Box<str> {
    let mut out = String::with_capacity(bytes.len() * 2);
    write_hex(bytes, &mut out);
    out.into()
}
