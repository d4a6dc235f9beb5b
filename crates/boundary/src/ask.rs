//! The questions put to Cedar, and what its answers mean here.
//!
//! An action is one question. A cycle is several: whether it may be executed at all (the gate), the action itself, and
//! each branch that its agent lists. They are asked in two steps, tier 0-A of all of them and then the rest, and each
//! step hands out evidence that it was taken.

use std::sync::Arc;

use cedar_policy::{Context, Decision, EntityId, EntityUid, PolicyId, PolicySet, Request, Response};

use crate::context::{self, See, Steps, Texts};
use crate::intent::{Checked, Footing};
use crate::policies::{Cast, Slice};
use crate::record::Asked;
use crate::rule::{Rule, Tier};
use crate::{Facts, Policies, PolicyRef};

/// Evidence that tier 0-A was asked, alone, after the declaration was checked. Only [`Questions::prohibitions`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PreChecked(Checked);

/// Evidence that the policies were asked after tier 0-A. Only [`Questions::answer`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answered(PreChecked);

impl Answered {
    pub(crate) fn footing(&self) -> Option<&Footing> {
        let Answered(PreChecked(checked)) = self;
        checked.footing()
    }
}

/// Everything that is asked about one action.
pub(crate) struct Questions<'a> {
    own: Put<'a>,
    /// Of a cycle: the gate, then the branches.
    more: Vec<Put<'a>>,
}

/// Everything that was answered.
pub(crate) struct Answers {
    pub(crate) own: Told,
    /// Of a cycle.
    pub(crate) cycle: Option<CycleAnswers>,
}

pub(crate) struct CycleAnswers {
    pub(crate) gate: Told,
    pub(crate) branches: Vec<Told>,
    pub(crate) tier_0a_passed: bool,
}

/// One answer, and what it was given to.
pub(crate) struct Told {
    pub(crate) opinion: Opinion,
    pub(crate) asked: Option<Asked>,
    /// Before a quote, or an extension, default deny does not count.
    pub(crate) default_deny_waits: bool,
}

struct Put<'a> {
    posed: Result<Posed<'a>, Answer>,
    default_deny_waits: bool,
}

/// A question with the policies it is put to.
struct Posed<'a> {
    slice: &'a Slice,
    question: Question,
    /// Canonical JSON of what was known.
    context: String,
    /// What it sees of the facts.
    see: See,
    steps: Steps,
    /// What tier 0-A has against it.
    prohibited: Option<Answer>,
}

/// One question, ready to be asked.
pub(crate) struct Question {
    request: Request,
    pub(crate) action: EntityUid,
    pub(crate) cast: Arc<Cast>,
    pub(crate) principal: EntityUid,
    pub(crate) resource: EntityUid,
}

/// What Cedar's answer means for the action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The action is incomplete, or tier 0-A stopped it elsewhere: nothing was asked.
    NotAsked,
    /// Permitted.
    Allow(Vec<PolicyRef>),
    /// A prohibition of tier 0-A.
    Prohibited(Vec<PolicyRef>),
    /// Forbidden, beyond the reach of observe mode when a policy of tier 0-B takes part.
    Forbidden { policies: Vec<PolicyRef>, zero_b: bool },
    /// Forbidden until a person agrees.
    Escalate(Vec<PolicyRef>),
    /// Nothing permits it.
    NotPermitted,
    /// A policy could not be evaluated. The message is for operators.
    Error(String),
}

/// An answer with the advice that went along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opinion {
    pub(crate) answer: Answer,
    /// Tier 3 policies that matched.
    pub(crate) advice: Vec<PolicyRef>,
}

impl Answers {
    /// As blocks are told: the gate, the action itself, the branches.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Told> {
        let gate = self.cycle.iter().map(|cycle| &cycle.gate);
        let branches = self.cycle.iter().flat_map(|cycle| &cycle.branches);
        gate.chain([&self.own]).chain(branches)
    }
}

impl<'a> Questions<'a> {
    /// Makes the questions; nothing is asked yet.
    pub(crate) fn pose(policies: &'a Policies, facts: &Facts<'_>, intent_valid: bool) -> Questions<'a> {
        let steps = Steps { intent_valid, tier_0a_passed: true };
        let own = Put::action(policies, facts, steps);
        let Some(cycle) = &facts.cycle else { return Questions { own, more: Vec::new() } };
        let gate = Put::gate(policies, facts, steps);
        let branch = |action| Put::action(policies, &facts.of_other(action), steps);
        Questions { own, more: std::iter::once(gate).chain(cycle.branches.iter().map(branch)).collect() }
    }

    /// Asks tier 0-A, of all questions before anything else is asked of any.
    pub(crate) fn prohibitions(&mut self, policies: &Policies, checked: Checked) -> PreChecked {
        for put in std::iter::once(&mut self.own).chain(&mut self.more) {
            if let Ok(posed) = &mut put.posed {
                posed.prohibited = posed.question.prohibited(policies, posed.slice);
            }
        }
        PreChecked(checked)
    }

    /// Asks everything else, unless tier 0-A has something against any of it.
    pub(crate) fn answer(
        mut self,
        policies: &Policies,
        facts: &Facts<'_>,
        pre_checked: PreChecked,
    ) -> (Answers, Answered) {
        let stops = |put: &Put<'_>| put.posed.as_ref().is_ok_and(|posed| posed.prohibited.is_some());
        let stopped = stops(&self.own) || self.more.iter().any(stops);
        if stopped {
            self.tell_stopped(facts);
        }
        let own = self.own.answer(policies, stopped);
        let mut more = self.more.into_iter();
        let cycle = more.next().map(|gate| CycleAnswers {
            gate: gate.answer(policies, stopped),
            branches: more.map(|branch| branch.answer(policies, stopped)).collect(),
            tier_0a_passed: !stopped,
        });
        (Answers { own, cycle }, Answered(pre_checked))
    }

    /// No policy of tier 0-A can look at what tier 0-A comes to, so it was asked with the best; what is kept of a cycle
    /// tells what it came to.
    fn tell_stopped(&mut self, facts: &Facts<'_>) {
        let Some(cycle) = &facts.cycle else { return };
        let own = [facts.clone(), facts.clone()];
        let all = own.into_iter().chain(cycle.branches.iter().map(|branch| facts.of_other(branch)));
        let puts = std::iter::once(&mut self.own).chain(&mut self.more);
        for (posed, facts) in puts.map(|put| put.posed.as_mut()).zip(all) {
            let Ok(posed) = posed else { continue };
            let steps = Steps { tier_0a_passed: false, ..posed.steps };
            posed.context = written(&(posed.see)(&facts, &Texts::of(&facts), steps));
        }
    }
}

impl<'a> Put<'a> {
    fn action(policies: &'a Policies, facts: &Facts<'_>, steps: Steps) -> Put<'a> {
        let slice = policies.slice(&facts.action.archetype.name);
        let resource = facts.action.resource.as_deref();
        let posed = match slice {
            _ if !facts.action.is_complete() => Err(Answer::NotAsked),
            None => Err(Answer::Error("the policies were loaded with another catalogue".into())),
            Some(slice) => Posed::new(policies, slice, facts, steps, context::attributes, resource),
        };
        Put { posed, default_deny_waits: slice.is_some_and(|slice| awaits_amount(slice, facts)) }
    }

    fn gate(policies: &'a Policies, facts: &Facts<'_>, steps: Steps) -> Put<'a> {
        let slice = policies.gate();
        let session = facts.cycle.as_ref().map(|cycle| &*cycle.session.id);
        // Where nothing is left the cycle is held for that, and the gate is asked again when there is more.
        let exhausted = facts.cycle.as_ref().is_some_and(|it| it.context.remaining.exhausted().is_some());
        Put {
            posed: Posed::new(policies, slice, facts, steps, context::gate, session),
            default_deny_waits: exhausted || awaits_amount(slice, facts),
        }
    }

    fn answer(self, policies: &Policies, stopped: bool) -> Told {
        let default_deny_waits = self.default_deny_waits;
        match self.posed {
            Ok(posed) => {
                let opinion = posed.question.answer(policies, posed.slice, posed.prohibited, stopped);
                let asked = Asked::new(posed.question, posed.context, opinion.clone(), default_deny_waits);
                Told { opinion, asked: Some(asked), default_deny_waits }
            }
            Err(answer) => {
                let opinion = Opinion { answer, advice: Vec::new() };
                Told { opinion, asked: None, default_deny_waits }
            }
        }
    }
}

/// Asks about an action that is no step of its own: what is to undo another.
pub(crate) fn ask_alone(policies: &Policies, facts: &Facts<'_>) -> Answer {
    let put = Put::action(policies, facts, Steps { intent_valid: true, tier_0a_passed: true });
    match put.posed {
        Ok(posed) => posed.question.ask(policies, posed.slice).answer,
        Err(answer) => answer,
    }
}

/// Whether the price is unknown and a provider will name it.
pub(crate) fn awaits_quote(facts: &Facts<'_>) -> bool {
    facts.action.money.is_none() && facts.action.archetype.money.as_ref().is_some_and(|rule| rule.quote)
}

fn awaits_amount(slice: &Slice, facts: &Facts<'_>) -> bool {
    awaits_quote(facts) && slice.permit_needs_amount
}

impl<'a> Posed<'a> {
    fn new(
        policies: &Policies,
        slice: &'a Slice,
        facts: &Facts<'_>,
        steps: Steps,
        see: See,
        resource: Option<&str>,
    ) -> Result<Posed<'a>, Answer> {
        let texts = Texts::of(facts);
        let attributes = see(facts, &texts, steps);
        let principal = policies.principal(facts.caller.is_human, facts.caller.subject.as_str());
        let tenant = facts.caller.tenant.as_str();
        let question = context::context(&slice.reads.filter(&attributes))
            .and_then(|context| Question::new(policies, slice, principal, tenant, resource, context))
            .map_err(Answer::Error)?;
        Ok(Posed { slice, question, context: written(&attributes), see, steps, prohibited: None })
    }
}

fn written(attributes: &[(&str, action::Attribute<'_>)]) -> String {
    let mut context = String::with_capacity(768);
    context::write(attributes, &mut context);
    context
}

impl Question {
    pub(crate) fn new(
        policies: &Policies,
        slice: &Slice,
        principal: EntityUid,
        tenant: &str,
        resource: Option<&str>,
        context: Context,
    ) -> Result<Question, String> {
        // An action that names no resource acts on the one with the empty id, which no request can spell.
        let id = EntityId::new(resource.unwrap_or_default());
        let resource = EntityUid::from_type_name_and_id(slice.resource_type.clone(), id);
        let cast = policies.cast(slice, &principal, tenant, &resource)?;
        Question::of(principal, slice.action.clone(), resource, context, cast)
    }

    pub(crate) fn of(
        principal: EntityUid,
        action: EntityUid,
        resource: EntityUid,
        context: Context,
        cast: Arc<Cast>,
    ) -> Result<Question, String> {
        // No schema here: policies were typed when they were loaded, and the context is typed by construction.
        let request = Request::new(principal.clone(), action.clone(), resource.clone(), context, None);
        Ok(Question {
            request: request.map_err(|error| error.to_string())?,
            action,
            cast,
            principal,
            resource,
        })
    }

    /// Asks tier 0-A first and alone, then everything else, then once more without what only waits for a person.
    pub(crate) fn ask(&self, policies: &Policies, slice: &Slice) -> Opinion {
        let prohibited = self.prohibited(policies, slice);
        let stopped = prohibited.is_some();
        self.answer(policies, slice, prohibited, stopped)
    }

    /// What tier 0-A says; nothing, where it has nothing against it.
    pub(crate) fn prohibited(&self, policies: &Policies, slice: &Slice) -> Option<Answer> {
        if slice.prohibitions.is_empty() {
            return None;
        }
        let response = self.put(policies, &slice.prohibitions);
        let matched = references(policies, &response);
        match error(&response) {
            // A prohibition that matched is certain, whatever another one failed on.
            _ if !matched.is_empty() => Some(Answer::Prohibited(matched)),
            Some(message) => Some(Answer::Error(message)),
            None => None,
        }
    }

    /// The answer, where tier 0-A said `prohibited` of this question, and stopped this one or another.
    pub(crate) fn answer(
        &self,
        policies: &Policies,
        slice: &Slice,
        prohibited: Option<Answer>,
        stopped: bool,
    ) -> Opinion {
        let answer = match prohibited {
            Some(answer) => answer,
            None if stopped => return Opinion { answer: Answer::NotAsked, advice: Vec::new() },
            None => self.main(policies, slice),
        };
        let advice = match slice.advice.is_empty() {
            true => Vec::new(),
            false => references(policies, &self.put(policies, &slice.advice)),
        };
        Opinion { answer, advice }
    }

    fn main(&self, policies: &Policies, slice: &Slice) -> Answer {
        let response = self.put(policies, &slice.main);
        if let Some(message) = error(&response) {
            return Answer::Error(message);
        }
        let matched = rules(policies, &response);
        match response.decision() {
            Decision::Allow => Answer::Allow(sorted(matched)),
            Decision::Deny if matched.is_empty() => Answer::NotPermitted,
            Decision::Deny if matched.iter().all(|rule| rule.escalates) => {
                match self.permitted(policies, slice) {
                    true => Answer::Escalate(sorted(matched)),
                    // No person could agree to it: to name the policies that ask for one would mislead.
                    false => Answer::NotPermitted,
                }
            }
            Decision::Deny => {
                let zero_b = matched.iter().any(|rule| rule.tier == Tier::ZeroB);
                Answer::Forbidden { policies: sorted(matched), zero_b }
            }
        }
    }

    /// Whether something permits it, once nothing asks for a person.
    fn permitted(&self, policies: &Policies, slice: &Slice) -> bool {
        let Some(rest) = &slice.without_escalations else { return false };
        let response = self.put(policies, rest);
        response.decision() == Decision::Allow && error(&response).is_none()
    }

    pub(crate) fn put(&self, policies: &Policies, set: &PolicySet) -> Response {
        policies.authorizer().is_authorized(&self.request, set, &self.cast.entities)
    }
}

impl Answer {
    /// One word, and the policies that determined it.
    pub(crate) fn summary(&self) -> (&'static str, &[PolicyRef]) {
        match self {
            Answer::NotAsked => ("not_asked", &[]),
            Answer::Allow(policies) => ("allow", policies),
            Answer::Prohibited(policies) | Answer::Forbidden { policies, .. } => ("deny", policies),
            Answer::NotPermitted => ("deny", &[]),
            Answer::Escalate(policies) => ("escalate", policies),
            Answer::Error(_) => ("error", &[]),
        }
    }
}

/// Cedar skips a policy that fails to evaluate, a `forbid` included; here any failure at all is a block.
fn error(response: &Response) -> Option<String> {
    response.diagnostics().errors().next().map(ToString::to_string)
}

fn references(policies: &Policies, response: &Response) -> Vec<PolicyRef> {
    sorted(rules(policies, response))
}

fn rules<'a>(policies: &'a Policies, response: &Response) -> Vec<&'a Rule> {
    let named = |id: &PolicyId| policies.rule(id.as_ref());
    response.diagnostics().reason().filter_map(named).collect()
}

fn sorted(rules: Vec<&Rule>) -> Vec<PolicyRef> {
    let mut out: Vec<PolicyRef> = rules.into_iter().map(|rule| rule.reference.clone()).collect();
    out.sort_by(|a, b| a.id.cmp(&b.id));
    out
}
