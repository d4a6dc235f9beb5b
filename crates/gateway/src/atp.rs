//! Requests in the envelope of the Agent Transaction Protocol: the same loop, asked in other words.
//!
//! The envelope is taken apart into a [`Request`], its verb and target into an archetype of the catalogue; from there on
//! there is one path. What is checked here is what only this envelope can say.

use std::sync::Arc;

use action::{Action, Archetype, Atp, Catalogue, Environment, Refusal, Request, Subject};
use provider::Provider;

use crate::caller::{Caller, Role};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::request::{Answer, Arrival, Ask, refused};
use crate::row::IntentRow;
use crate::{Code, Error};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As strict JSON.
    Json,
    /// As YAML that says what JSON can say.
    Yaml,
}

/// In which words a request is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// Those of the Execution Protocol.
    Execution,
    /// Those of the Agent Transaction Protocol.
    Transaction(Spelling),
    /// Those of the Execution Protocol, as a question of whoever carries it out elsewhere is put.
    Evaluation,
}

impl Gateway {
    /// Takes one request in the envelope of the Agent Transaction Protocol to its outcome, as [`Gateway::execute`] does one
    /// of the Execution Protocol.
    ///
    /// # Errors
    /// As [`Gateway::execute`]; members are named as they stand in this envelope.
    pub async fn submit(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Ask,
        spelling: Spelling,
    ) -> Result<Answer, Error> {
        self.take(caller, ask, Words::Transaction(spelling)).await
    }

    /// What the envelope asks for must be what provider and people can give.
    pub(crate) async fn can_be_given(
        &self,
        caller: &Caller,
        action: &Action,
        provider: &dyn Provider,
    ) -> Result<(), Error> {
        let Some(atp) = &action.atp else { return Ok(()) };
        let compliance = &atp.compliance;
        if compliance.evidence_required && !provider.capabilities().can_be_asked() {
            return Err(Error::new(Code::ProviderCannot, "the provider cannot be asked for evidence")
                .field("/compliance/evidence_required")
                .hint("leave it out, or have the operator add a `query` to the archetype's binding"));
        }
        for (field, person) in [
            ("/human_approver", &action.human_approver),
            ("/compliance/sign_off_by", &compliance.sign_off_by),
        ] {
            let Some(person) = person else { continue };
            if *person == caller.subject {
                return Err(Error::new(Code::ValidationFailed, "who asks for an action does not approve it")
                    .field(field)
                    .hint("name another person"));
            }
            if !self.knows_approver(caller, person).await? {
                return Err(Error::new(Code::ValidationFailed, "nobody of that name can approve here")
                    .field(field)
                    .hint("name a person who has an API key of role approver, or an enrolled passkey"));
            }
        }
        Ok(())
    }

    /// Whether somebody of this name can approve. The sandbox has no keys of its own and takes anybody.
    async fn knows_approver(&self, caller: &Caller, person: &Subject) -> Result<bool, Error> {
        if self.environment == Environment::Sandbox {
            return Ok(true);
        }
        let keys = self.ledger.keys(&caller.tenant).await.map_err(unavailable)?;
        let approves = |key: &ledger::ApiKey| {
            key.subject == *person && key.revoked_ms.is_none() && *key.role == *Role::Approver.as_str()
        };
        if keys.iter().any(approves) {
            return Ok(true);
        }
        let passkeys = self.passkeys_of(&caller.tenant).await?;
        Ok(passkeys.iter().any(|passkey| passkey.counts() && passkey.is_of(person)))
    }
}

impl Words {
    pub(crate) fn read(self, body: &[u8], arrival: &Arrival) -> Result<Request, Error> {
        let Words::Transaction(spelling) = self else { return Request::parse(body).map_err(refused) };
        let value = match spelling {
            Spelling::Json => action::json::parse(body),
            Spelling::Yaml => action::yaml::parse(body),
        };
        let value = value.map_err(|broken| {
            let error = Error::new(Code::MalformedBody, broken.to_string());
            if broken.field.is_empty() { error } else { error.field(broken.field) }
        })?;
        let mut request = Request::from_atp(value).map_err(refused)?;
        if let Some(deadline) = request.atp.as_ref().and_then(|atp| atp.deadline.as_ref()) {
            // What is over when it comes in is an outcome, like what is over a moment later.
            let left_ms = u64::try_from(deadline.ms.saturating_sub(arrival.at_ms)).unwrap_or(0);
            if left_ms > LONGEST_MS {
                return Err(Error::new(Code::ValidationFailed, "the deadline is more than a day ahead")
                    .field("/deadline"));
            }
            request.deadline_ms = Some(left_ms);
        }
        Ok(request)
    }

    /// The error with the member at fault named as it stands in this envelope.
    pub(crate) fn named(self, error: Error) -> Error {
        match self {
            Words::Execution | Words::Evaluation => error,
            Words::Transaction(_) => Error { field: error.field.map(in_its_words), ..error },
        }
    }

    /// Whether a key is made for an action that comes without one, as long as its level asks for none.
    pub(crate) fn makes_keys(self) -> bool {
        matches!(self, Words::Transaction(_))
    }
}

/// The archetype that a request means; its name stands in the request from now on.
pub(crate) fn meant<'a>(catalogue: &'a Catalogue, request: &mut Request) -> Option<&'a Arc<Archetype>> {
    let found = match &request.atp {
        Some(atp) => catalogue.resolve(&atp.verb, atp.target.as_deref()),
        None => catalogue.get(&request.archetype),
    };
    if let Some(archetype) = found {
        request.archetype.clone_from(&archetype.name);
    }
    found
}

/// The names of an action: archetype, verb, target.
pub(crate) type Names<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

/// The names of what is never carried out, be it the action or what is to undo it.
pub(crate) fn denied<'a>(list: &boundary::HardDeny, request: &'a Request) -> Option<Names<'a>> {
    let (verb, target) = request.verb_and_target();
    let rollback = request.atp.as_ref().and_then(|atp| atp.rollback_verb_and_target());
    let rollback = rollback.map(|(verb, target)| (verb, Some(verb), target));
    let names = std::iter::once((request.archetype.as_str(), verb, target)).chain(rollback);
    names.into_iter().find(|(archetype, verb, target)| list.denies(archetype, *verb, *target).is_some())
}

/// Nothing in the catalogue is meant by the request.
pub(crate) fn unknown(catalogue: &Catalogue, request: &Request) -> Error {
    refused(match &request.atp {
        Some(atp) => Refusal::unknown_verb(&atp.verb, atp.target.as_deref(), catalogue),
        None => Refusal::unknown_archetype(&request.archetype),
    })
}

/// What the request says of undoing must not be more than the catalogue does.
pub(crate) fn no_more_than(archetype: &Archetype, request: &Request) -> Result<(), Error> {
    let Some(atp) = &request.atp else { return Ok(()) };
    if request.reversible == Some(true) && !archetype.reversible {
        return Err(Error::new(Code::ValidationFailed, "the catalogue says that it cannot be undone")
            .field("/reversible")
            .hint("leave it out, or say false"));
    }
    if atp.rollback.is_some() && !(archetype.reversible && request.reversible != Some(false)) {
        return Err(Error::new(Code::ValidationFailed, "what cannot be undone takes no rollback")
            .field("/rollback")
            .hint("leave it out"));
    }
    Ok(())
}

/// Who has to be among those who agree, if the request named somebody.
pub(crate) fn signer(row: &IntentRow) -> Result<Option<Subject>, Error> {
    Ok(row.atp()?.and_then(|atp| atp.compliance.sign_off_by))
}

/// Ids by which the action is known elsewhere, as the trail finds it by them: `name=value`. None is a person's name.
pub(crate) fn references(row: &IntentRow, atp: &Atp) -> Vec<Box<str>> {
    let client = |name| row.client.get(name).and_then(serde_json::Value::as_str);
    let compliance = &atp.compliance;
    let named = [
        ("action_id", client("action_id")),
        ("fleet_id", client("fleet_id")),
        ("audit_trail_id", compliance.audit_trail_id.as_deref()),
        ("data_classification", compliance.data_classification.map(|it| it.as_str())),
        ("dpia_ref", compliance.dpia_ref.as_deref()),
        ("clinical_safety_ref", compliance.clinical_safety_ref.as_deref()),
        ("gds_assessment_ref", compliance.gds_assessment_ref.as_deref()),
    ];
    named.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?).into())).collect()
}

/// A member as it is called in this envelope.
fn in_its_words(field: String) -> String {
    for (ours, its) in [
        ("/constraints", "/action/parameters"),
        ("/archetype", "/action/verb"),
        ("/retention", "/compliance/retention_policy"),
        ("/deletion", "/compliance/deletion_policy"),
    ] {
        match field.strip_prefix(ours) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => return format!("{its}{rest}"),
            _ => {}
        }
    }
    field
}

/// Whoever waits longer than a day does not wait.
const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;
