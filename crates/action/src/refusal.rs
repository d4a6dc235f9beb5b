//! Why a request never became an action.

use crate::archetype::Archetype;
use crate::catalogue::Catalogue;
use crate::json;

/// A request that was turned away before it became an action. It earns no receipt and uses up no key.
///
/// The texts never repeat a value that the caller sent, except the name of a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which of the published codes answers it.
    pub kind: RefusalKind,
    /// The member at fault, as a JSON pointer into the request body.
    pub field: Option<String>,
    /// What is wrong, for the caller.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Further mistakes of the same kind, in path order: member and message.
    pub others: Vec<(String, String)>,
}

/// One kind for each published code that this crate can provoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The body is not JSON as we accept it (`EP_MALFORMED_BODY`).
    MalformedBody,
    /// A member is unknown, misshapen, or carries text that we do not pass on (`EP_VALIDATION_FAILED`).
    ValidationFailed,
    /// The catalogue has no such archetype (`EP_UNKNOWN_ARCHETYPE`).
    UnknownArchetype,
    /// A payment card's number or verification value (`EP_CARD_DATA_REFUSED`).
    CardData,
}

impl Refusal {
    /// A member that is not as it has to be.
    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal {
            kind: RefusalKind::ValidationFailed,
            field: Some(field.into()),
            message: message.into(),
            hint: None,
            others: Vec::new(),
        }
    }

    /// The catalogue has no archetype of this name.
    pub fn unknown_archetype(name: &str) -> Refusal {
        Refusal {
            kind: RefusalKind::UnknownArchetype,
            field: Some("/archetype".into()),
            message: format!("unknown archetype `{name}`"),
            hint: Some("name an archetype of the catalogue".into()),
            others: Vec::new(),
        }
    }

    /// No archetype is meant by these; `known` are.
    pub fn unknown_verb(verb: &str, target: Option<&str>, known: &Catalogue) -> Refusal {
        let on = target.map(|target| format!(" on `{target}`")).unwrap_or_default();
        Refusal {
            field: Some("/action/verb".into()),
            message: format!("no archetype is meant by `{verb}`{on}"),
            hint: Some(known_verbs(known)),
            ..Refusal::unknown_archetype(verb)
        }
    }

    /// The same mistake, seen from the object that has the member.
    pub(crate) fn within(mut self, member: &str) -> Refusal {
        let mut field = String::new();
        json::push_segment(&mut field, member);
        field.push_str(self.field.as_deref().unwrap_or_default());
        self.field = Some(field);
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }
}

/// What a caller could have said, as much as helps.
fn known_verbs(catalogue: &Catalogue) -> String {
    const MOST: usize = 12;
    let said = |archetype: &Archetype| {
        let verb = archetype.verbs.first().unwrap_or(&archetype.name);
        match archetype.targets.first() {
            Some(target) => format!("{verb} on {target}"),
            None => verb.clone(),
        }
    };
    let all: Vec<String> = catalogue.iter().map(|archetype| said(archetype)).collect();
    let more = if all.len() > MOST { ", …" } else { "" };
    format!("known here: {}{more}", all.iter().take(MOST).cloned().collect::<Vec<_>>().join(", "))
}
