//! Evaluate: what an action would come to, for whoever carries it out elsewhere.
//!
//! It is judged as a dry run of `/api/execute` is, by the same path, with the mandates and the past of the agent that it is
//! about. Nothing is recorded, spent or sent; that it was asked is in the log, and counted.

use std::sync::Arc;
use std::time::Instant;

use action::{Archetype, Subject, json};
use serde_json::{Map, Value};

use crate::atp::Words;
use crate::caller::{Caller, Deed, Role};
use crate::decide::Foreseen;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::request::{Answer, Ask, Next};
use crate::row::internal;
use crate::{Code, Error, clock};

/// An agent, and who may ask about its actions. Only [`Gateway::about`] makes one.
#[derive(Clone, Debug)]
pub struct About {
    by: Caller,
    agent: Caller,
    /// The agent's keys bring different mandates along.
    ambiguous: bool,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct EvaluationAsk {
    /// The kind of action.
    pub archetype: String,
    /// Members of its constraints.
    pub properties: Map<String, Value>,
    /// The type of what it is done to.
    pub resource_type: String,
    /// Its id.
    pub resource_id: String,
    /// More members of the constraints.
    pub resource_properties: Map<String, Value>,
    /// The mandate (`jti`) that it is asked under, instead of the one that the agent's key brings along.
    pub mandate_id: Option<String>,
    /// What else `/api/execute` takes, by its members.
    pub more: Map<String, Value>,
    /// Names the request in logs.
    pub request_id: String,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Names it in the log.
    pub id: String,
    /// What the action would come to, or why it would never become one.
    pub found: Result<Foreseen, Error>,
}

impl Gateway {
    /// Whose actions a caller may ask about: an agent its own, who governs any agent's of the tenant. Asked in production,
    /// where the keys of both environments are.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for all others, `EP_VALIDATION_FAILED` for what is no agent's name.
    pub async fn about(&self, caller: &Caller, subject: &str) -> Result<About, Error> {
        caller.must(Deed::Evaluate)?;
        if caller.role == Role::Agent && subject == caller.subject.as_str() {
            return Ok(About { by: caller.clone(), agent: caller.clone(), ambiguous: false });
        }
        caller.must(Deed::Govern)?;
        let subject = Subject::parse(subject)
            .map_err(|error| Error::new(Code::ValidationFailed, error.to_string()).field("/subject/id"))?;
        let mut mandates = self.mandates_brought_by(caller, &subject).await?;
        let ambiguous = mandates.len() > 1;
        let agent = Caller {
            subject,
            role: Role::Agent,
            key_issuer: None,
            default_mandate: mandates.pop().flatten(),
            ..caller.clone()
        };
        Ok(About { by: caller.clone(), agent, ambiguous })
    }

    /// The mandates that the keys of an agent bring along, and the tokens of the issuer that names it, each once; `None` where one
    /// brings none. Where issuers share their names with others, nobody knows whether a token ever names this agent.
    async fn mandates_brought_by(
        &self,
        caller: &Caller,
        agent: &Subject,
    ) -> Result<Vec<Option<String>>, Error> {
        let keys = self.ledger.keys(&caller.tenant).await.map_err(unavailable)?;
        let counts = |key: &ledger::ApiKey| {
            key.subject == *agent
                && *key.role == *Role::Agent.as_str()
                && key.revoked_ms.is_none()
                && !self.unproven.has_key(&key.hash)
        };
        let counting = keys.into_iter().filter(counts);
        let mut mandates: Vec<_> = counting.map(|key| key.default_mandate.map(String::from)).collect();
        let issuer = self.issuer_of(&caller.tenant, agent).filter(|it| it.names_agent(&caller.tenant, agent));
        mandates.extend(issuer.map(|issuer| issuer.default_mandate.clone()));
        mandates.sort();
        mandates.dedup();
        Ok(mandates)
    }

    /// Counts so many questions against the rates of whoever asks them, or none: before any is judged.
    ///
    /// # Errors
    /// `EP_RATE_LIMITED`, with the time until all may be asked; `EP_VALIDATION_FAILED` where they never may at once.
    pub fn may_ask(&self, caller: &Caller, questions: usize) -> Result<(), Error> {
        let counted = self.limits.take(caller, u32::try_from(questions).unwrap_or(u32::MAX));
        counted
            .map_err(|error| error.field("/evaluations"))
            .inspect_err(|error| self.metrics.error(error.code))
    }

    /// Says what an action would come to. [`Gateway::may_ask`] has counted it.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if it cannot be named in the log.
    pub async fn evaluate(
        self: &Arc<Self>,
        about: &About,
        question: EvaluationAsk,
    ) -> Result<Evaluation, Error> {
        let id = clock::new_id(clock::now_ms())?.to_string();
        let found = self.foresee(about, &question).await;
        self.tell_evaluated(&id, about, &question, &found);
        Ok(Evaluation { id, found })
    }

    async fn foresee(self: &Arc<Self>, about: &About, question: &EvaluationAsk) -> Result<Foreseen, Error> {
        let came = Instant::now();
        let _place = self.place()?;
        let agent = self.under_one_mandate(about, question).await?;
        let rules = self.tenant(&agent.tenant)?.rules();
        let ask = Ask {
            idempotency_key: None,
            request_id: question.request_id.clone(),
            dry_run: true,
            wait: crate::Wait::default(),
            body: question.as_executed(rules.catalogue.get(&question.archetype).map(|it| &**it))?,
        };
        let room = self.judging.acquire().await.ok();
        let next = Box::pin(self.decide_on(agent, (ask, Words::Evaluation), came, room)).await;
        match next.map_err(|error| question.named(error))? {
            Next::Said(Answer { foreseen: Some(foreseen), .. }) => Ok(*foreseen),
            Next::Said(_) | Next::Admitted(_) | Next::NotNow(_) => {
                Err(internal("a question was taken for an action"))
            }
        }
    }

    /// The agent as it would ask itself.
    async fn under_one_mandate(&self, about: &About, question: &EvaluationAsk) -> Result<Caller, Error> {
        let wrong = |why: &str| Error::new(Code::ValidationFailed, why).field(MANDATE_ID);
        let token = question.more.contains_key("delegation_token");
        match &question.mandate_id {
            Some(_) if token => Err(wrong("a mandate is named by its id or its token, not by both")),
            Some(jti) => {
                let line = self.line(&about.agent.tenant, jti).await?.and_then(Result::ok);
                let held = line.is_some_and(|line| {
                    line.mandates.first().is_some_and(|mandate| mandate.subject == about.agent.subject)
                });
                if !held {
                    return Err(wrong("the agent holds no mandate of this id"));
                }
                Ok(Caller { default_mandate: Some(jti.clone()), ..about.agent.clone() })
            }
            None if about.ambiguous && !token => {
                Err(wrong("the API keys of this agent bring different mandates along: name one"))
            }
            None => Ok(about.agent.clone()),
        }
    }

    fn tell_evaluated(
        &self,
        id: &str,
        about: &About,
        question: &EvaluationAsk,
        found: &Result<Foreseen, Error>,
    ) {
        let (verdict, code) = match found {
            Ok(Foreseen::Pass) => ("pass", None),
            Ok(Foreseen::Held(_)) => ("held", None),
            Ok(Foreseen::Blocked(code, _)) => ("blocked", Some(*code)),
            Err(error) => ("error", Some(error.code)),
        };
        self.metrics.evaluation(verdict);
        let archetype = &question.archetype[..question.archetype.floor_char_boundary(LONGEST_NAME)];
        tracing::info!(
            evaluation = id,
            request_id = question.request_id,
            environment = self.environment.as_str(),
            tenant = about.by.tenant.as_str(),
            asked_by = about.by.subject.as_str(),
            key = about.by.key_id,
            subject = about.agent.subject.as_str(),
            archetype,
            verdict,
            code = code.map(Code::as_str),
            "evaluated"
        );
    }
}

impl EvaluationAsk {
    /// The body by which `/api/execute` would be asked for it. What it is done to stands where the archetype has its
    /// resource; one that has none looks at no resource.
    fn as_executed(&self, archetype: Option<&Archetype>) -> Result<Vec<u8>, Error> {
        let mut members = self.resource_properties.clone();
        for (name, value) in &self.properties {
            if members.insert(name.clone(), value.clone()).is_some_and(|other| other != *value) {
                let mut field = "/resource/properties".to_owned();
                json::push_segment(&mut field, name);
                return Err(contradicts(
                    &field,
                    "action and resource have the same property with other values",
                ));
            }
        }
        let mut constraints = Value::Object(members);
        if let Some((archetype, pointer)) = archetype.and_then(|it| Some((it, it.resource.as_ref()?))) {
            if self.resource_type != archetype.resource_type {
                let why = format!("this kind of action is done to a `{}`", archetype.resource_type);
                return Err(contradicts("/resource/type", &why));
            }
            match pointer.get(&constraints) {
                None => place(&mut constraints, pointer.segments(), &self.resource_id),
                Some(value) if is(value, &self.resource_id) => {}
                Some(_) => {
                    return Err(contradicts("/resource/id", "the properties name another resource"));
                }
            }
        }
        let mut body = self.more.clone();
        for (name, value) in [("archetype", self.archetype.clone().into()), ("constraints", constraints)] {
            if body.insert(name.to_owned(), value).is_some() {
                return Err(contradicts(&format!("{MORE}/{name}"), "the question itself says this"));
            }
        }
        Ok(Value::Object(body).to_string().into_bytes())
    }

    /// The error with the member at fault named as it stands in the question.
    fn named(&self, error: Error) -> Error {
        Error { field: error.field.map(|field| self.in_its_words(&field)), ..error }
    }

    fn in_its_words(&self, field: &str) -> String {
        if field == "/archetype" {
            return "/action/name".to_owned();
        }
        let Some(rest) = field.strip_prefix("/constraints") else { return format!("{MORE}{field}") };
        let segment = rest.split('/').nth(1).unwrap_or_default();
        let is_named = |name: &String| {
            let mut pointer = String::new();
            json::push_segment(&mut pointer, name);
            pointer.strip_prefix('/') == Some(segment)
        };
        let of = if self.resource_properties.keys().any(is_named) { "resource" } else { "action" };
        format!("/{of}/properties{rest}")
    }
}

fn contradicts(field: &str, why: &str) -> Error {
    Error::new(Code::ValidationFailed, why).field(field)
}

/// Whether a property names the resource of this id.
fn is(value: &Value, id: &str) -> bool {
    match value {
        Value::String(text) => text == id,
        Value::Number(number) => number.to_string() == id,
        _ => false,
    }
}

/// Puts the id at its place. Where that is not to be had, the archetype's schema says why.
fn place(within: &mut Value, segments: &[String], id: &str) {
    match (within, segments) {
        (Value::Object(members), [name]) => drop(members.insert(name.clone(), id.into())),
        (Value::Object(members), [name, rest @ ..]) => {
            place(members.entry(name.clone()).or_insert_with(|| Map::new().into()), rest, id);
        }
        _ => {}
    }
}

/// Where a question has what is ours.
const MORE: &str = "/context/countersign";
const MANDATE_ID: &str = "/context/countersign/mandate_id";
/// Longer ones are no archetype's.
const LONGEST_NAME: usize = 128;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_is_put_where_its_pointer_leads_and_takes_nothing_from_others() {
        let placed = |mut constraints: Value, segments: &[&str]| {
            let segments: Vec<String> = segments.iter().map(|it| (*it).to_owned()).collect();
            place(&mut constraints, &segments, "acct-1");
            constraints
        };
        assert_eq!(placed(json!({}), &["to"]), json!({"to": "acct-1"}));
        assert_eq!(
            placed(json!({"to": {"bank": "b"}}), &["to", "account"]),
            json!({"to": {"bank": "b", "account": "acct-1"}})
        );
        assert_eq!(placed(json!({}), &["to", "account"]), json!({"to": {"account": "acct-1"}}));
        assert_eq!(placed(json!({"to": "b"}), &["to", "account"]), json!({"to": "b"}), "the schema says why");
    }

    #[test]
    fn a_member_at_fault_is_named_where_the_question_has_it() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let ask = EvaluationAsk {
            archetype: "PAYMENT_TRANSFER".to_owned(),
            properties: object(json!({"amount_usd": "1.00"})),
            resource_type: "Account".to_owned(),
            resource_id: "acct-1".to_owned(),
            resource_properties: object(json!({"owner": {"name": "x"}})),
            mandate_id: None,
            more: Map::new(),
            request_id: String::new(),
        };
        for (ours, its) in [
            ("/archetype", "/action/name"),
            ("/constraints/amount_usd", "/action/properties/amount_usd"),
            ("/constraints/owner/name", "/resource/properties/owner/name"),
            ("/constraints", "/action/properties"),
            ("/delegation_token", "/context/countersign/delegation_token"),
        ] {
            assert_eq!(ask.in_its_words(ours), its);
        }
    }
}
