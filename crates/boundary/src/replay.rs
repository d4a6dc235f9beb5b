//! Deciding again from a record, to compare: with the same policies as a proof, with others as a simulation.

use cedar_policy::{Entities, EntityUid};

use crate::ask::{Answer, Question};
use crate::objection::{cedars_objection, weigh_noted};
use crate::policies::{Cast, Slice};
use crate::record::{self, Noted, Read, ReadAsked, ReadPolicy};
use crate::schema::GATE;
use crate::{Policies, PolicyRef, context};

/// Stored bytes that are no decision record, or one of a later version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("decision record cannot be read: {0}")]
pub struct Unreadable(String);

/// A decision then and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Verdict and first reason as recorded, such as `pass` or `block forbidden`.
    pub then: String,
    /// Verdict and first reason with the policies given.
    pub now: String,
    /// Everything that differs, the verdict first.
    pub differences: Vec<Difference>,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `verdict`, `cedar`, `policies`, `policy digest`, `entity digest`, `catalog digest` or `engine`.
    pub what: &'static str,
    /// As recorded.
    pub then: String,
    /// As found now.
    pub now: String,
}

impl Comparison {
    /// Whether the verdict is the same, whatever else differs.
    pub fn agrees(&self) -> bool {
        self.then == self.now
    }
}

/// Decides a recorded action again. Cedar is asked anew, with the recorded context and entities; what the ledger, the
/// mandate and the arithmetic had against the action is taken from the record, because it was true then.
///
/// # Errors
/// When the bytes are no record of a version that is understood.
pub fn replay(record: &[u8], policies: &Policies) -> Result<Comparison, Unreadable> {
    let read: Read = serde_json::from_slice(record).map_err(|error| Unreadable(error.to_string()))?;
    let known = if read.cycle.is_some() { record::FORMAT_OF_CYCLE } else { record::FORMAT };
    if read.v != known {
        return Err(Unreadable(format!("it has version {}", read.v)));
    }
    let then = asked(&read);
    let answers = ask(&then, policies)?;
    let stands = then.iter().zip(&answers).filter(|(_, answer)| !agreed(answer, &read.approved));
    let cedars = stands.filter_map(|((_, asked), answer)| cedars_objection(answer, asked.default_deny_waits));
    let now = weigh_noted(&with(&read.objections, cedars.map(|it| it.noted())), read.observe);

    let mut differences = Vec::new();
    let mut compare = |what, then: &str, now: &str| {
        if then != now {
            differences.push(Difference { what, then: then.to_owned(), now: now.to_owned() });
        }
    };
    compare("verdict", &read.verdict, &now);
    for ((_, asked), answer) in then.iter().zip(&answers) {
        let (decision, found) = answer.summary();
        compare("cedar", &asked.decision, decision);
        let then: Vec<String> = asked.policies.iter().map(|it| format!("{}@{}", it.id, it.digest)).collect();
        let now: Vec<String> = found.iter().map(|it| format!("{}@{}", it.id, it.digest)).collect();
        compare("policies", &then.join(" "), &now.join(" "));
    }
    compare("policy digest", &read.policy_digest, policies.policy_digest());
    compare("entity digest", &read.entity_digest, policies.entity_digest());
    compare("catalog digest", &read.catalog_digest, policies.catalog_digest());
    compare("engine", &read.engine, &record::ENGINE);
    Ok(Comparison { then: read.verdict, now, differences })
}

/// Do only policies ask for a person that people agreed to, unchanged?
fn agreed(answer: &Answer, approved: &[ReadPolicy]) -> bool {
    let seen =
        |policy: &PolicyRef| approved.iter().any(|it| it.id == *policy.id && it.digest == *policy.digest);
    matches!(answer, Answer::Escalate(policies) if policies.iter().all(seen))
}

/// The questions that were asked, each with the action it was about, in the order in which blocks are told.
fn asked(read: &Read) -> Vec<(&str, &ReadAsked)> {
    let cycle = read.cycle.iter();
    let gate = cycle.clone().filter_map(|it| it.gate.as_ref()).map(|asked| (GATE, asked));
    let own = read.asked.iter().map(|asked| (read.action.as_str(), asked));
    let branches = cycle.flat_map(|it| it.branches.iter().flatten());
    gate.chain(own).chain(branches.map(|branch| (branch.action.as_str(), &branch.asked))).collect()
}

/// As the decision asked: tier 0-A of all, and then the rest if it has nothing against any.
fn ask(then: &[(&str, &ReadAsked)], policies: &Policies) -> Result<Vec<Answer>, Unreadable> {
    let questions: Vec<(Option<&Slice>, Question)> = then
        .iter()
        .map(|(action, asked)| Ok((slice(action, policies), question(action, asked)?)))
        .collect::<Result<_, Unreadable>>()?;
    let prohibited: Vec<Option<Answer>> = questions
        .iter()
        .map(|(slice, question)| slice.and_then(|slice| question.prohibited(policies, slice)))
        .collect();
    let stopped = prohibited.iter().any(Option::is_some);
    let answers = questions.iter().zip(prohibited).zip(then);
    Ok(answers
        .map(|(((slice, question), prohibited), (action, _))| match slice {
            Some(slice) => question.answer(policies, slice, prohibited, stopped).answer,
            None => Answer::Error(format!("archetype `{action}` is unknown")),
        })
        .collect())
}

fn slice<'a>(action: &str, policies: &'a Policies) -> Option<&'a Slice> {
    if action == GATE { Some(policies.gate()) } else { policies.slice(action) }
}

fn question(action: &str, asked: &ReadAsked) -> Result<Question, Unreadable> {
    let uid = |value: &serde_json::Value| {
        EntityUid::from_json(value.clone()).map_err(|error| Unreadable(error.to_string()))
    };
    let attributes =
        context::read(&asked.context).ok_or_else(|| Unreadable("its context is strange".into()))?;
    let context = context::context(&attributes).map_err(Unreadable)?;
    let entities = Entities::from_json_value(asked.entities.clone(), None)
        .map_err(|error| Unreadable(error.to_string()))?;
    let cast = Cast { entities, json: String::new() }.into();
    let action = uid(&serde_json::json!({"type": "Action", "id": action}))?;
    Question::of(uid(&asked.principal)?, action, uid(&asked.resource)?, context, cast).map_err(Unreadable)
}

/// Cedar's objections take their place after what the boundary stage found before them.
fn with(objections: &[Noted], cedars: impl Iterator<Item = Noted>) -> Vec<Noted> {
    let mut all = objections.to_vec();
    let first = |noted: &Noted| noted.stage.as_ref() == "completeness" || noted.stage.as_ref() == "math";
    let at = all.iter().position(first).unwrap_or(all.len());
    all.splice(at..at, cedars);
    all
}
