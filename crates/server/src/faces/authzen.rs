//! AuthZEN (Authorization API 1.0 of the OpenID Foundation): the boundary as a decision point, for whoever carries actions
//! out elsewhere. What is asked is judged as a dry run is; nothing is recorded as an action, spent or sent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use action::Environment;
use gateway::{About, Caller, Code, Deed, Details, Error, Evaluation, EvaluationAsk, Foreseen, Gateway};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::fault::{self, Audience};
use crate::openapi::{Answer, Schema};
use crate::request::{Request, Response};
use crate::{errors, reply, who};

/// Where the decision point is.
pub(crate) async fn configuration(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let point = gateway.issuer();
    let body = Configuration {
        policy_decision_point: point,
        access_evaluation_endpoint: format!("{point}/access/v1/evaluation"),
        access_evaluations_endpoint: format!("{point}/access/v1/evaluations"),
    };
    let mut response = reply::json(StatusCode::OK, &body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    Ok(response)
}

/// One question.
pub(crate) async fn evaluation(mut request: Request) -> Result<Response, Error> {
    let caller = asking(&request).await?;
    match body(&mut request).await.and_then(|body| Asked::read(&body, &Map::new())) {
        Ok(asked) => alone(&request, &caller, asked).await,
        Err(error) => malformed(&request, error),
    }
}

/// Several, in their order. Without any it is one question.
pub(crate) async fn evaluations(mut request: Request) -> Result<Response, Error> {
    let caller = asking(&request).await?;
    let body = match body(&mut request).await {
        Ok(body) => body,
        Err(error) => return malformed(&request, error),
    };
    let (items, until) = match several(&body).and_then(|items| Ok((items, Until::read(&body)?))) {
        Ok(read) => read,
        Err(error) => return malformed(&request, error),
    };
    if items.is_empty() {
        return match Asked::read(&body, &Map::new()) {
            Ok(asked) => alone(&request, &caller, asked).await,
            Err(error) => malformed(&request, error),
        };
    }
    // Before anything is judged, so that nothing is judged in vain.
    if let Err(error) = request.gateway()?.may_ask(&caller, items.len()) {
        return malformed(&request, error);
    }
    let mut agents = Agents::of(&request, &caller);
    let mut evaluations = Vec::with_capacity(items.len());
    for item in items {
        let decision = match item_of(item).and_then(|item| Asked::read(item, &body)) {
            Ok(asked) => Decision::of(request.environment, judged(&request, &mut agents, asked).await)?,
            // What is wrong with one of them is its own.
            Err(error) => Decision::error(request.environment, None, &error),
        };
        let last = until.is_reached_by(decision.decision);
        evaluations.push(decision);
        if last {
            break;
        }
    }
    Ok(reply::json(StatusCode::OK, &Decisions { evaluations }))
}

/// Who asks, if they may ask anything here.
async fn asking(request: &Request) -> Result<Caller, Error> {
    let caller = who::caller_or_anonymous(request).await?;
    caller.must(Deed::Evaluate)?;
    Ok(caller)
}

async fn body(request: &mut Request) -> Result<Map<String, Value>, Error> {
    match request.value().await? {
        Value::Object(body) => Ok(body),
        _ => Err(Error::new(Code::ValidationFailed, "the body is not a JSON object")),
    }
}

async fn alone(request: &Request, caller: &Caller, asked: Asked) -> Result<Response, Error> {
    request.gateway()?.may_ask(caller, 1)?;
    let evaluation = judged(request, &mut Agents::of(request, caller), asked).await;
    if let Err(error) | Ok(Evaluation { found: Err(error), .. }) = &evaluation
        && error.code == Code::Forbidden
    {
        return Err(error.clone());
    }
    Ok(reply::json(StatusCode::OK, &Decision::of(request.environment, evaluation)?))
}

async fn judged(request: &Request, agents: &mut Agents<'_>, asked: Asked) -> Result<Evaluation, Error> {
    let about = agents.named(&asked.subject).await?;
    let question = EvaluationAsk { request_id: request.id().to_owned(), ..asked.question };
    request.gateway()?.evaluate(about, question).await
}

/// The agents that a request is about. Each is looked up once: that reads every key of the tenant.
struct Agents<'a> {
    /// Keys of both environments are kept in production.
    keys: &'a Gateway,
    caller: &'a Caller,
    known: HashMap<String, About>,
}

impl<'a> Agents<'a> {
    fn of(request: &'a Request, caller: &'a Caller) -> Agents<'a> {
        Agents { keys: &request.site.faces.production, caller, known: HashMap::new() }
    }

    async fn named(&mut self, subject: &str) -> Result<&About, Error> {
        match self.known.entry(subject.to_owned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(self.keys.about(self.caller, subject).await?)),
        }
    }
}

/// What the standard calls a bad request has one status there, whatever is bad about it.
fn malformed(request: &Request, error: Error) -> Result<Response, Error> {
    if !BAD.contains(&error.code) {
        return Err(error);
    }
    let (id, url) = (request.id(), &request.site.public_url);
    let mut response = fault::respond(&error, request.environment, Audience::Agents, id, url);
    *response.status_mut() = StatusCode::from_u16(status_of(error.code)).unwrap_or(StatusCode::BAD_REQUEST);
    Ok(response)
}

fn status_of(code: Code) -> u16 {
    if BAD.contains(&code) { 400 } else { errors::entry(code).status }
}

const BAD: [Code; 4] =
    [Code::MalformedBody, Code::BodyTooLarge, Code::UnsupportedMediaType, Code::ValidationFailed];

/// A well-formed question, and the agent that it is about.
struct Asked {
    subject: String,
    question: EvaluationAsk,
}

impl Asked {
    /// Reads it; what it leaves out is as in `defaults`. Members that the standard does not know are not looked at.
    fn read(members: &Map<String, Value>, defaults: &Map<String, Value>) -> Result<Asked, Error> {
        let entity = |name: &'static str| {
            let value = members.get(name).or_else(|| defaults.get(name));
            Entity::read(name, value.ok_or_else(|| wrong(format!("/{name}"), "it is missing"))?)
        };
        let (subject, action, resource) = (entity("subject")?, entity("action")?, entity("resource")?);
        // Neither is looked at, and yet both have to be well-formed: who acts here is an agent, and what is known of it we
        // know ourselves.
        subject.text("type")?;
        subject.properties()?;
        let (mandate_id, more) = ours(members.get("context").or_else(|| defaults.get("context")))?;
        Ok(Asked {
            subject: subject.text("id")?,
            question: EvaluationAsk {
                archetype: action.text("name")?,
                properties: action.properties()?,
                resource_type: resource.text("type")?,
                resource_id: resource.text("id")?,
                resource_properties: resource.properties()?,
                mandate_id,
                more,
                request_id: String::new(),
            },
        })
    }
}

/// A subject, an action or a resource.
struct Entity<'a> {
    name: &'static str,
    members: &'a Map<String, Value>,
}

impl<'a> Entity<'a> {
    fn read(name: &'static str, value: &'a Value) -> Result<Entity<'a>, Error> {
        let members = value.as_object().ok_or_else(|| wrong(format!("/{name}"), "it is not an object"))?;
        Ok(Entity { name, members })
    }

    fn text(&self, member: &str) -> Result<String, Error> {
        let at = |why| wrong(format!("/{}/{member}", self.name), why);
        let value = self.members.get(member).ok_or_else(|| at("it is missing"))?;
        value.as_str().map(str::to_owned).ok_or_else(|| at("it is not a string"))
    }

    fn properties(&self) -> Result<Map<String, Value>, Error> {
        match self.members.get("properties") {
            None => Ok(Map::new()),
            Some(Value::Object(properties)) => Ok(properties.clone()),
            Some(_) => Err(wrong(format!("/{}/properties", self.name), "it is not an object")),
        }
    }
}

/// What the context says to us: the mandate by its id, and the rest. All else in it is for others.
fn ours(context: Option<&Value>) -> Result<(Option<String>, Map<String, Value>), Error> {
    let object = |value: &Value, field: &str| {
        value.as_object().cloned().ok_or_else(|| wrong(field, "it is not an object"))
    };
    let context = context.map(|context| object(context, "/context")).transpose()?.unwrap_or_default();
    let ours = context.get("countersign").map(|ours| object(ours, "/context/countersign")).transpose()?;
    let mut more = ours.unwrap_or_default();
    match more.remove("mandate_id") {
        None => Ok((None, more)),
        Some(Value::String(id)) => Ok((Some(id), more)),
        Some(_) => Err(wrong("/context/countersign/mandate_id", "it is not a string")),
    }
}

/// The questions of a batch.
fn several(body: &Map<String, Value>) -> Result<&[Value], Error> {
    match body.get("evaluations") {
        None => Ok(&[]),
        Some(Value::Array(items)) if items.len() <= MOST => Ok(items),
        Some(Value::Array(_)) => Err(wrong("/evaluations", "they are more than 100")),
        Some(_) => Err(wrong("/evaluations", "it is not an array")),
    }
}

fn item_of(item: &Value) -> Result<&Map<String, Value>, Error> {
    item.as_object().ok_or_else(|| wrong("/evaluations", "one of them is not an object"))
}

fn wrong(field: impl Into<String>, why: &str) -> Error {
    Error::new(Code::ValidationFailed, why).field(field)
}

/// Until when a batch goes on.
enum Until {
    End,
    /// Until this decision.
    First(bool),
}

impl Until {
    fn read(body: &Map<String, Value>) -> Result<Until, Error> {
        let Some(options) = body.get("options") else { return Ok(Until::End) };
        let options = options.as_object().ok_or_else(|| wrong("/options", "it is not an object"))?;
        match options.get("evaluations_semantic").map(Value::as_str) {
            None | Some(Some("execute_all")) => Ok(Until::End),
            Some(Some("deny_on_first_deny")) => Ok(Until::First(false)),
            Some(Some("permit_on_first_permit")) => Ok(Until::First(true)),
            Some(_) => {
                let why = "it is not execute_all, deny_on_first_deny or permit_on_first_permit";
                Err(wrong("/options/evaluations_semantic", why))
            }
        }
    }

    fn is_reached_by(&self, decision: bool) -> bool {
        matches!(self, Until::First(last) if *last == decision)
    }
}

impl Decision {
    /// What was found, unless nobody could have found anything.
    fn of(environment: Environment, evaluation: Result<Evaluation, Error>) -> Result<Decision, Error> {
        let (id, error) = match evaluation {
            Ok(Evaluation { id, found: Ok(foreseen) }) => return Ok(Decision::foreseen(id, foreseen)),
            Ok(Evaluation { id, found: Err(error) }) => (Some(id), error),
            Err(error) => (None, error),
        };
        match error.code {
            Code::RateLimited | Code::Unavailable => Err(error),
            _ => Ok(Decision::error(environment, id, &error)),
        }
    }

    fn foreseen(id: String, foreseen: Foreseen) -> Decision {
        let context = DecisionContext { evaluation_id: Some(id), ..DecisionContext::default() };
        match foreseen {
            Foreseen::Pass => Decision { decision: true, context },
            Foreseen::Held(details) => {
                Decision::no(DecisionContext { kind: Some("held"), ..context }, details)
            }
            Foreseen::Blocked(code, details) => {
                let code = Some(code.as_str());
                Decision::no(DecisionContext { kind: Some("blocked"), code, ..context }, details)
            }
        }
    }

    fn no(context: DecisionContext, details: Details) -> Decision {
        let Details { reasons, missing, policies, earlier_transaction, .. } = details;
        let missing = missing.iter().filter_map(|missing| serde_json::to_value(missing).ok()).collect();
        let context = DecisionContext { reasons, missing, policies, earlier_transaction, ..context };
        Decision { decision: false, context }
    }

    /// It would never become an action.
    fn error(environment: Environment, evaluation_id: Option<String>, error: &Error) -> Decision {
        let message = fault::named(error).into_owned();
        let field = error.field.clone().filter(|_| environment == Environment::Sandbox);
        let context = DecisionContext {
            evaluation_id,
            kind: Some("error"),
            code: Some(error.code.as_str()),
            error: Some(DecisionError { status: status_of(error.code), message, field }),
            ..DecisionContext::default()
        };
        Decision { decision: false, context }
    }
}

/// How a question may be answered.
pub(crate) const EVALUATED: &[Answer] = &[
    Answer::json(200, "The decision", Schema::AuthzenDecision),
    Answer::json(400, "It is no question in the words of AuthZEN", Schema::ProductionError),
];

/// How several may be.
pub(crate) const EVALUATED_ALL: &[Answer] = &[
    Answer::json(
        200,
        "The decisions in their order; without `evaluations`, one decision",
        Schema::AuthzenDecisions,
    ),
    Answer::json(400, "They are no questions in the words of AuthZEN", Schema::ProductionError),
];

/// What the decision point offers. Searching is not among it.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthzenConfiguration)]
pub(crate) struct Configuration<'a> {
    policy_decision_point: &'a str,
    access_evaluation_endpoint: String,
    access_evaluations_endpoint: String,
}

/// Whether an agent may do something.
#[derive(ToSchema)]
#[schema(as = AuthzenQuestion)]
#[expect(dead_code, reason = "describes what `Asked` reads")]
pub(crate) struct EvaluationRequest {
    /// The agent; `id` is its name, and of all else nothing is looked at.
    subject: Thing,
    action: Deeds,
    /// What it is done to.
    resource: Thing,
    context: Option<Context>,
}

/// Several questions.
#[derive(ToSchema)]
#[schema(as = AuthzenQuestions)]
#[expect(dead_code, reason = "describes what `evaluations` reads")]
pub(crate) struct EvaluationsRequest {
    /// As of one question; for each of `evaluations` that leaves it out.
    subject: Option<Thing>,
    action: Option<Deeds>,
    resource: Option<Thing>,
    context: Option<Context>,
    /// At most 100, and no more than `limits` let ask at once; none, and it is one question.
    #[schema(value_type = Option<Vec<Object>>)]
    evaluations: (),
    options: Option<Options>,
}

#[derive(ToSchema)]
#[schema(as = AuthzenEntity)]
#[expect(dead_code, reason = "describes what `Entity` reads")]
struct Thing {
    r#type: String,
    id: String,
    #[schema(value_type = Option<Object>)]
    properties: (),
}

#[derive(ToSchema)]
#[schema(as = AuthzenAction)]
#[expect(dead_code, reason = "describes what `Entity` reads")]
struct Deeds {
    /// The archetype.
    name: String,
    /// Members of its constraints; those of the resource are, too.
    #[schema(value_type = Option<Object>)]
    properties: (),
}

#[derive(ToSchema)]
#[schema(as = AuthzenContext)]
#[expect(dead_code, reason = "describes what `ours` reads")]
struct Context {
    /// `mandate_id`, and what `/api/execute` takes beside archetype and constraints. All else in the context is not looked
    /// at.
    #[schema(value_type = Option<Object>)]
    countersign: (),
}

#[derive(ToSchema)]
#[schema(as = AuthzenOptions)]
#[expect(dead_code, reason = "describes what `Until` reads")]
struct Options {
    /// `execute_all`, the default, `deny_on_first_deny` or `permit_on_first_permit`.
    evaluations_semantic: Option<String>,
}

/// A decision.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthzenDecision)]
pub(crate) struct Decision {
    /// Whether it would be carried out here, now and without asking anybody.
    decision: bool,
    context: DecisionContext,
}

/// Several.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthzenDecisions)]
pub(crate) struct Decisions {
    evaluations: Vec<Decision>,
}

/// Why. In fixed words.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = AuthzenDecisionContext)]
struct DecisionContext {
    /// Names it in the log of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation_id: Option<String>,
    /// `blocked`, `held` (it would wait for people) or `error` (it would never become an action).
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// The published code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// One stable word each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
    /// Members of the constraints that would be needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    missing: Vec<Value>,
    /// The policies that decided, by id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    /// The earlier transaction that it seems to repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    earlier_transaction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<DecisionError>,
}

/// Why it would never become an action.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthzenDecisionError)]
struct DecisionError {
    /// The status that a request with nothing but this fault would be answered with, by any face.
    status: u16,
    /// One fixed line.
    message: String,
    /// The member at fault, in the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// More would keep others waiting.
const MOST: usize = 100;
