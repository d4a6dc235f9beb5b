//! Deciding again from a record, to compare: with the same policies as a proof, with others as a simulation.

use cedar_policy::{Entities, EntityUid};

use crate::ask::{Answer, Question};
use crate::objection::{cedars_objection, weigh_noted};
use crate::policies::Cast;
use crate::record::{self, Noted, Read, ReadAsked, ReadPolicy};
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
    if read.v != record::FORMAT {
        return Err(Unreadable(format!("it has version {}", read.v)));
    }
    let answer = match &read.asked {
        Some(asked) => Some(ask(&read.action, asked, policies)?),
        None => None,
    };
    let waits = read.asked.as_ref().is_some_and(|asked| asked.default_deny_waits);
    let cedars = answer.as_ref().filter(|answer| !agreed(answer, &read.approved));
    let cedars = cedars.and_then(|answer| cedars_objection(answer, waits)).map(|it| it.noted());
    let now = weigh_noted(&with(&read.objections, cedars), read.observe);

    let mut differences = Vec::new();
    let mut compare = |what, then: &str, now: &str| {
        if then != now {
            differences.push(Difference { what, then: then.to_owned(), now: now.to_owned() });
        }
    };
    compare("verdict", &read.verdict, &now);
    if let (Some(asked), Some(answer)) = (&read.asked, &answer) {
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

fn ask(action: &str, asked: &ReadAsked, policies: &Policies) -> Result<Answer, Unreadable> {
    let Some(slice) = policies.slice(action) else {
        return Ok(Answer::Error(format!("archetype `{action}` is unknown")));
    };
    let uid = |value: &serde_json::Value| {
        EntityUid::from_json(value.clone()).map_err(|error| Unreadable(error.to_string()))
    };
    let attributes =
        context::read(&asked.context).ok_or_else(|| Unreadable("its context is strange".into()))?;
    let context = context::context(&attributes).map_err(Unreadable)?;
    let entities = Entities::from_json_value(asked.entities.clone(), None)
        .map_err(|error| Unreadable(error.to_string()))?;
    let cast = Cast { entities, json: String::new() }.into();
    let question =
        Question::of(uid(&asked.principal)?, slice.action.clone(), uid(&asked.resource)?, context, cast)
            .map_err(Unreadable)?;
    Ok(question.ask(policies, slice).answer)
}

/// Cedar's objection takes its place after what the boundary stage found before it.
fn with(objections: &[Noted], cedars: Option<Noted>) -> Vec<Noted> {
    let mut all = objections.to_vec();
    if let Some(cedars) = cedars {
        let first = |noted: &Noted| noted.stage.as_ref() == "completeness" || noted.stage.as_ref() == "math";
        let at = all.iter().position(first).unwrap_or(all.len());
        all.insert(at, cedars);
    }
    all
}
