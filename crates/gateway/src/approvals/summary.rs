//! What is put before a person: first what we know, then what the agent says.

use std::fmt::Write;

use action::{Archetype, Atp, Kind, Member};
use serde_json::Value;

use super::views::ExchangeView;
use crate::row::IntentRow;

/// An action in the order in which a person reads it. It is made of the catalogue's words and of canonical values; what
/// an agent wrote for people stands apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The catalogue's sentence.
    pub what: String,
    /// How much is at stake, with its currency.
    pub amount: Option<String>,
    /// Where it goes.
    pub to: Option<String>,
    /// Values of fixed grammar: names, numbers, amounts.
    pub facts: Vec<Asked>,
    /// Text that the agent wrote; to be quoted, never believed.
    pub words: Vec<Asked>,
    /// Whether it can be undone, in one sentence.
    pub undo: &'static str,
}

/// A member of what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its name.
    pub name: String,
    /// What the catalogue says that it means.
    pub meaning: String,
    /// Its value; JSON, if it is no text.
    pub value: String,
}

impl Summary {
    pub(crate) fn of(
        name: &str,
        archetype: Option<&Archetype>,
        row: &IntentRow,
        constraints: &Value,
    ) -> Summary {
        let pointed = |pointer: Option<&action::Pointer>| {
            pointer.and_then(|pointer| pointer.get(constraints)).map(shown)
        };
        let destination = archetype.and_then(|it| it.destination.as_ref());
        let amount = archetype.and_then(|it| it.money.as_ref()).and_then(|money| money.amount.as_ref());
        let known = archetype.map(|it| it.members.as_slice()).unwrap_or_default();
        let said_above = |member: &str| {
            [destination, amount]
                .into_iter()
                .flatten()
                .any(|pointer| *pointer.segments() == [member.to_owned()])
        };
        let (mut facts, mut words) = (Vec::new(), Vec::new());
        for (member, value) in members(known, constraints) {
            let (meaning, plain) = match member.1 {
                Some(declared) => (declared.description.clone(), is_plain(&declared.kind)),
                None => (String::new(), false),
            };
            let asked = Asked { name: legible(member.0), meaning, value: shown(value) };
            match plain {
                true if said_above(member.0) => {}
                true => facts.push(asked),
                false => words.push(asked),
            }
        }
        if let Ok(Some(atp)) = row.atp() {
            let (sure, said) = said_in_envelope(row, &atp);
            facts.extend(sure);
            words.extend(said);
        }
        let what = archetype.map(|it| it.description.clone()).filter(|it| !it.is_empty());
        Summary {
            what: what.unwrap_or_else(|| name.to_owned()),
            amount: row
                .amount
                .as_ref()
                .zip(row.currency.as_ref())
                .map(|(amount, currency)| format!("{amount} {currency}")),
            to: pointed(destination),
            facts,
            words,
            undo: undo(row.reversible),
        }
    }

    /// The same, with what people asked and what the agent said.
    pub(super) fn with(mut self, exchanges: &[ExchangeView]) -> Summary {
        for exchange in exchanges {
            let asked = |name: &str, meaning: &str, value: &str| Asked {
                name: name.to_owned(),
                meaning: meaning.to_owned(),
                value: value.to_owned(),
            };
            self.facts.push(asked("question", &format!("Asked by {}", exchange.by), &exchange.question));
            let answer = exchange.answer.as_deref();
            self.words.extend(answer.map(|it| asked("answer", "What the agent says to that", it)));
        }
        self
    }

    /// All of it as one text, which a signature commits to.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.what);
        for (name, value) in [("amount", &self.amount), ("to", &self.to)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{name}: {value}");
            }
        }
        for (kind, asked) in [("", &self.facts), ("untrusted ", &self.words)] {
            for Asked { name, meaning, value } in asked {
                let _ = writeln!(text, "{kind}{name} ({meaning}): {value}");
            }
        }
        text.push_str(self.undo);
        text
    }
}

/// What only the request's envelope says: what a grammar of ours holds, and what the agent writes.
fn said_in_envelope(row: &IntentRow, atp: &Atp) -> (Vec<Asked>, Vec<Asked>) {
    let asked = |(name, meaning, value): (&str, &str, Option<String>)| {
        Some(Asked { name: name.to_owned(), meaning: meaning.to_owned(), value: value? })
    };
    let rules = &atp.compliance;
    let one = |text: &Option<String>| text.clone();
    let rollback = atp.rollback.as_ref().map(|it| action::json::canonical(&it.to_value()));
    let facts = [
        ("human_approver", "Who is asked", row.human_approver.clone()),
        ("sign_off_by", "Who has to sign it off", rules.sign_off_by.as_ref().map(ToString::to_string)),
        (
            "data_classification",
            "How widely its data may be known",
            rules.data_classification.map(|it| it.as_str().to_owned()),
        ),
    ];
    let regulations = (!rules.regulation_refs.is_empty()).then(|| rules.regulation_refs.join(", "));
    let words = [
        ("verb", "What is done", Some(atp.verb.clone())),
        ("target", "What it is done to", one(&atp.target)),
        ("description", "What the agent says that it does", one(&atp.description)),
        ("rollback", "How it is to be undone", rollback),
        ("regulation_refs", "The regulations it falls under", regulations),
        ("audit_trail_id", "The agent's own name for its trail", one(&rules.audit_trail_id)),
        ("dpia_ref", "The data protection impact assessment", one(&rules.dpia_ref)),
        ("clinical_safety_ref", "The clinical safety case", one(&rules.clinical_safety_ref)),
        ("smr_accountable", "Who answers for it", one(&rules.smr_accountable)),
        (
            "gds_assessment_ref",
            "The assessment by the Government Digital Service",
            one(&rules.gds_assessment_ref),
        ),
    ];
    (facts.into_iter().filter_map(asked).collect(), words.into_iter().filter_map(asked).collect())
}

/// Whether it can be undone, in words for people.
pub(crate) fn undo(reversible: bool) -> &'static str {
    match reversible {
        true => "The catalogue says that this can be undone.",
        false => "This cannot be undone.",
    }
}

/// What was asked, in the order of its declaration, what is displayed first; what is declared nowhere comes last.
fn members<'a>(
    known: &'a [Member],
    constraints: &'a Value,
) -> Vec<((&'a str, Option<&'a Member>), &'a Value)> {
    let Some(object) = constraints.as_object() else { return Vec::new() };
    let mut found: Vec<_> = object
        .iter()
        .map(|(name, value)| ((name.as_str(), known.iter().find(|member| member.name == *name)), value))
        .collect();
    found.sort_by_key(|((name, declared), _)| {
        let place = known.iter().position(|member| member.name == *name).unwrap_or(usize::MAX);
        (!declared.is_some_and(|member| member.display), place)
    });
    found
}

/// Does a grammar of ours hold what it may say?
fn is_plain(kind: &Kind) -> bool {
    match kind {
        Kind::Identifier { .. } | Kind::Money | Kind::Long | Kind::Bool => true,
        Kind::Set(item) => is_plain(item),
        Kind::Record(members) => members.iter().all(|member| is_plain(&member.kind)),
        Kind::Text | Kind::Opaque => false,
    }
}

/// A name that the agent thought of may play tricks, which spelt out it does not.
fn legible(name: &str) -> String {
    match action::refuse_tricks(name) {
        Ok(()) => name.to_owned(),
        Err(_) => name.escape_unicode().to_string(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => action::json::canonical(other),
    }
}
