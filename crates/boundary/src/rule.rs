//! One policy, with what its annotations say.

use std::sync::Arc;

use action::{Mistake, Source};
use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use miette::Diagnostic;
use sha2::{Digest, Sha256};

use crate::PolicyRef;
use crate::reads::{Reads, looks_at_left};

/// How firmly a policy that forbids stands (CAP). A policy that permits has no tier of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// `0-A`: no override, ever; asked first and alone.
    ZeroA,
    /// `0-B`: overridden only by another version of the policies.
    ZeroB,
    /// `1`: within the principal's discretion; the only tier that may `@escalate`.
    One,
    /// `2`: the conditions in the policy itself; what a policy without annotation has.
    Two,
    /// `3`: advice, recorded and not enforced.
    Three,
}

impl Tier {
    /// As it is written in `@tier`.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::ZeroA => "0-A",
            Tier::ZeroB => "0-B",
            Tier::One => "1",
            Tier::Two => "2",
            Tier::Three => "3",
        }
    }

    fn parse(text: &str) -> Option<Tier> {
        [Tier::ZeroA, Tier::ZeroB, Tier::One, Tier::Two, Tier::Three]
            .into_iter()
            .find(|tier| tier.as_str() == text)
    }
}

/// A policy that was read and understood.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name and content.
    pub reference: PolicyRef,
    /// How firmly it stands.
    pub tier: Tier,
    /// Whether it forbids only until a person agrees.
    pub escalates: bool,
    /// Whether it forbids.
    pub forbids: bool,
    /// The file it came from.
    pub file: Arc<str>,
    /// Its line there, from 1.
    pub line: usize,
    /// What it can look at.
    pub(crate) reads: Reads,
    /// Whether that is how much is left of a mandate.
    pub(crate) looks_at_left: bool,
    pub(crate) policy: Policy,
}

/// Annotations that mean something; any other is a mistake, because a misspelt `@escalate` would be a plain `forbid`
/// and a misspelt `@tier` an override.
const ANNOTATIONS: [&str; 5] = ["description", "escalate", "id", "regulation", "tier"];

/// What tier 0-A comes to, as a policy names it.
const OUTCOME: &str = "\"tier_0a_check_passed\"";

/// Reads one file of policies.
pub(crate) fn read(source: &Source, mistakes: &mut Vec<Mistake>) -> Vec<Rule> {
    let policies: PolicySet = match source.text.parse() {
        Ok(policies) => policies,
        Err(error) => {
            let error: cedar_policy::ParseErrors = error;
            mistakes.extend(error.iter().map(|error| mistake(source, offset(error), error)));
            return Vec::new();
        }
    };
    if let Some(template) = policies.templates().next() {
        let at = template.as_ref().loc().map_or(0, |loc| loc.start());
        mistakes.push(at_offset(
            source,
            at,
            "policy has a slot that nothing fills",
            Some("name the entity in place of `?principal` or `?resource`"),
        ));
    }
    let mut policies: Vec<&Policy> = policies.policies().collect();
    policies.sort_by_key(|policy| start(policy));
    policies.into_iter().enumerate().filter_map(|(n, policy)| rule(source, n, policy, mistakes)).collect()
}

fn rule(source: &Source, n: usize, policy: &Policy, mistakes: &mut Vec<Mistake>) -> Option<Rule> {
    let before = mistakes.len();
    let mut wrong =
        |message: String, hint: &str| mistakes.push(at_offset(source, start(policy), message, Some(hint)));

    for (name, _) in policy.annotations() {
        if !ANNOTATIONS.contains(&name) {
            wrong(
                format!("annotation `@{name}` is unknown"),
                "use @id, @tier, @escalate, @regulation or @description",
            );
        }
    }
    let forbids = policy.effect() == Effect::Forbid;
    let escalates = policy.annotation("escalate").is_some();
    let tier = match policy.annotation("tier") {
        None if escalates => Tier::One,
        None => Tier::Two,
        Some(text) => Tier::parse(text).unwrap_or_else(|| {
            wrong(format!("tier `{text}` is unknown"), "use \"0-A\", \"0-B\", \"1\", \"2\" or \"3\"");
            Tier::Two
        }),
    };
    if escalates && !forbids {
        wrong(
            "`@escalate` stands on a permit".into(),
            "put it on a forbid: what it forbids then waits for a person",
        );
    }
    if escalates && forbids && tier != Tier::One {
        wrong(
            format!("`@escalate` stands on tier {}", tier.as_str()),
            "only tier 1 leaves room for a person",
        );
    }
    if !forbids && !matches!(tier, Tier::One | Tier::Two) {
        wrong(
            format!("tier {} stands on a permit", tier.as_str()),
            "only a forbid can be prohibitive or advisory",
        );
    }
    let id = match policy.annotation("id") {
        Some(id) if !id.is_empty() => id.to_owned(),
        Some(_) => {
            wrong("`@id` is empty".into(), "give the policy a name, or leave the annotation out");
            String::new()
        }
        None => format!("{}#{}", source.name.trim_end_matches(".cedar"), n + 1),
    };
    let policy = policy.new_id(PolicyId::new(&id));
    let form = policy.to_json();
    // Cedar's JSON form, in which neither layout nor comments count.
    let text = form.as_ref().map_or_else(|_| policy.to_string(), action::json::canonical);
    let digest = hex::encode(Sha256::digest(&text));
    if tier == Tier::ZeroA && text.contains(OUTCOME) {
        mistakes.push(at_offset(
            source,
            start(&policy),
            "a policy of tier 0-A looks at what tier 0-A comes to",
            Some("leave out `tier_0a_check_passed`: the policy is part of what decides it"),
        ));
    }
    (mistakes.len() == before).then(|| Rule {
        reference: PolicyRef { digest: digest.into(), id: id.into() },
        tier,
        escalates,
        forbids,
        file: source.name.as_str().into(),
        line: position(&source.text, start(&policy)).0,
        reads: form.as_ref().map_or_else(|_| Reads::everything(), Reads::of),
        looks_at_left: form.as_ref().map_or(true, looks_at_left),
        policy,
    })
}

fn start(policy: &Policy) -> usize {
    policy.as_ref().loc().map_or(0, |loc| loc.start())
}

/// A mistake that Cedar found, at the place it names.
pub(crate) fn mistake(source: &Source, at: usize, error: &dyn Diagnostic) -> Mistake {
    let mut mistake = at_offset(source, at, error.to_string(), None);
    mistake.hint = error.help().map(|help| help.to_string());
    mistake
}

/// Where the error points to, in bytes from the start of the file.
pub(crate) fn offset(error: &dyn Diagnostic) -> usize {
    error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset())
}

pub(crate) fn at_offset(
    source: &Source,
    at: usize,
    message: impl Into<String>,
    hint: Option<&str>,
) -> Mistake {
    let (line, column) = position(&source.text, at);
    Mistake {
        file: source.name.clone(),
        line,
        column,
        message: message.into(),
        hint: hint.map(str::to_owned),
    }
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
