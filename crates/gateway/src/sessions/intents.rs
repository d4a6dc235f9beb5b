//! Intent declarations: what an agent says it is about to do, committed and signed before anything is judged under it.

use std::collections::HashMap;
use std::slice;
use std::sync::{Arc, Mutex};

use action::{Subject, Tenant};
use ledger::{Declared, Declaring, Governed, INTENT_DECLARED, Intention};
use mandate::{Completion, Declaration, IntentRefusal, Mandate, ReasoningMode, SessionRefusal, SessionState};
use serde_json::{Map, Value, json};

use super::context::FINGERPRINT;
use super::gar::signature_of;
use super::{no_others, turn};
use crate::act::lock;
use crate::admin::{event, named};
use crate::caller::{Caller, Deed};
use crate::decide::code_of_intent;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::tenants::{Rules, TenantState};
use crate::views::not_found;
use crate::{Code, Error, clock};

/// A declaration that is committed.
#[derive(Clone, Debug)]
pub struct DeclarationView {
    /// Its id.
    pub intent_id: String,
    /// Where it holds.
    pub session_id: String,
    /// Under which mandate.
    pub mandate_id: String,
    /// Before which gateway.
    pub gec_instance_id: String,
    /// What kind of goal.
    pub goal_type: String,
    /// Archetypes and groups it means to ask for.
    pub goal_scope: Vec<String>,
    /// How the agent says it reasons.
    pub reasoning_mode: &'static str,
    /// The policy it puts itself under.
    pub constrained_by: Option<String>,
    /// Its number in the session.
    pub action_sequence_number: u64,
    /// Seconds that were left when it was made.
    pub time_budget_remaining: u64,
    /// RFC 3339.
    pub expires_at: String,
    /// What the agent knew, by its fingerprint.
    pub context_fingerprint: Option<String>,
    /// Its record.
    pub record_id: String,
    /// Of that record.
    pub kernel_signature: String,
}

impl Gateway {
    /// Commits a declaration in a session of the caller's. One that is refused is on record there, too.
    ///
    /// # Errors
    /// The code of what is wrong with it (`IDP-E…`), `EP_STATE_CONFLICT` where the session takes none now.
    pub async fn declare(&self, caller: &Caller, id: &str, body: &Value) -> Result<DeclarationView, Error> {
        caller.must(Deed::Execute)?;
        self.limits.before_parsing(caller)?;
        let governed = self.governed(caller, id).await?;
        let tenant = self.tenant(&caller.tenant)?;
        match self.commit(tenant, &governed, body).await {
            Err(error) if is_idp(error.code) => {
                self.note_refused(tenant, &governed, body, &error).await?;
                Err(error)
            }
            answer => answer,
        }
    }

    async fn commit(
        &self,
        tenant: &TenantState,
        governed: &Governed,
        body: &Value,
    ) -> Result<DeclarationView, Error> {
        let (session, now_ms) = (&governed.session, clock::now_ms());
        let declaration = read(body, &session.subject, &tenant.rules())?;
        let known = self.ledger.intention(&governed.tenant, &session.id, Some(&declaration.intent_id));
        if known.await.map_err(unavailable)?.is_some() {
            return Err(refused(IntentRefusal::Duplicate));
        }
        // The ledger holds that the number rises: here only what will never do is told.
        let next = declaration.sequence.saturating_add(1);
        declaration.bears(session, &self.issuer, next, now_ms).map_err(refused)?;
        within_mandate(&declaration, &self.mandate_of(governed)?.goal_scope, &tenant.rules())?;
        let (_, budget) = self.budget_of(governed, now_ms).await?;
        let left = budget.remaining().time_seconds;
        let declaring = Declaring {
            tenant: governed.tenant.clone(),
            session: session.id.clone(),
            intent: declaration.intent_id.clone(),
            mandate: declaration.mandate_id.clone(),
            sequence: declaration.sequence,
            event: event(tenant, INTENT_DECLARED, &record(&declaration, left)),
        };
        let kept = match self.ledger.declare(declaring).await.map_err(unavailable)? {
            Declared::New(kept) => kept,
            Declared::NoSession => return Err(not_found("session")),
            Declared::Duplicate => return Err(refused(IntentRefusal::Duplicate)),
            Declared::Refused(why) => return Err(not_taken(why)),
        };
        // As whoever reads it back has it.
        self.declarations.remember(&governed.tenant, &Arc::new(declaration_of(&kept)?));
        view(&declaration, left, &kept)
    }

    /// The declaration of this name in a session, or else its newest one.
    pub(crate) async fn declaration(
        &self,
        governed: &Governed,
        named: Option<&str>,
    ) -> Result<Option<Arc<Declaration>>, Error> {
        let Governed { tenant, session, .. } = governed;
        let known = named.and_then(|named| self.declarations.known(tenant, &session.id, named));
        if known.is_some() {
            return Ok(known);
        }
        let kept = self.ledger.intention(tenant, &session.id, named).await.map_err(unavailable)?;
        let declaration = kept.map(|kept| declaration_of(&kept)).transpose()?.map(Arc::new);
        declaration.iter().for_each(|declaration| self.declarations.remember(tenant, declaration));
        Ok(declaration)
    }

    /// Of a session that is over nothing more is written down.
    async fn note_refused(
        &self,
        tenant: &TenantState,
        governed: &Governed,
        body: &Value,
        error: &Error,
    ) -> Result<(), Error> {
        if matches!(governed.session.state(), SessionState::Closed(_)) {
            return Ok(());
        }
        let said = |member: &str| body[member].as_str().filter(|text| is_identifier(text));
        let record = json!({
            "by": governed.session.subject.as_str(), "code": error.code.as_str(), "field": &error.field,
            "intentId": said("intent_id"), "mandateId": said("mandate_id"), "sessionId": said("session_id"),
        });
        let turn = turn(governed, None, None, event(tenant, REFUSED, &record));
        self.ledger.turn(turn).await.map(drop).map_err(|error| named(error, "session"))
    }
}

/// Declarations made or read of late, by tenant, session and name. What one says never changes.
#[derive(Default)]
pub(crate) struct Declarations(Mutex<HashMap<Name, Arc<Declaration>>>);

type Name = (Tenant, Box<str>, Box<str>);

impl Declarations {
    fn known(&self, tenant: &Tenant, session: &str, intent: &str) -> Option<Arc<Declaration>> {
        lock(&self.0).get(&(tenant.clone(), session.into(), intent.into())).cloned()
    }

    fn remember(&self, tenant: &Tenant, declaration: &Arc<Declaration>) {
        let mut known = lock(&self.0);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        let name = (tenant.clone(), declaration.session_id.clone(), declaration.intent_id.clone());
        known.insert(name, Arc::clone(declaration));
    }
}

/// What the ledger keeps of a declaration: the declaration as it is answered, without its signature.
fn record(declaration: &Declaration, left: u64) -> Value {
    json!({
        "action_sequence_number": declaration.sequence,
        "constrained_by": &declaration.constrained_by,
        "context_fingerprint": &declaration.context_fingerprint,
        "expires_at": clock::text(declaration.expires_ms),
        "gec_instance_id": &*declaration.gec_instance_id,
        "goal_scope": &declaration.goal_scope,
        "goal_type": &*declaration.goal_type,
        "intent_id": &*declaration.intent_id,
        "mandate_id": &*declaration.mandate_id,
        "reasoning_mode": declaration.mode.as_str(),
        "session_id": &*declaration.session_id,
        "subject": declaration.subject.as_str(),
        "time_budget_remaining": left,
    })
}

/// A declaration from its record.
fn declaration_of(kept: &Intention) -> Result<Declaration, Error> {
    let wrong = || internal("a stored declaration cannot be read");
    let record: Value = serde_json::from_slice(&kept.record).map_err(|_| wrong())?;
    let text = |member: &str| record[member].as_str().map(Box::<str>::from);
    let scope = record["goal_scope"].as_array().ok_or_else(wrong)?;
    Ok(Declaration {
        intent_id: text("intent_id").ok_or_else(wrong)?,
        session_id: text("session_id").ok_or_else(wrong)?,
        mandate_id: text("mandate_id").ok_or_else(wrong)?,
        gec_instance_id: text("gec_instance_id").ok_or_else(wrong)?,
        goal_type: text("goal_type").ok_or_else(wrong)?,
        goal_scope: scope.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        mode: text("reasoning_mode").and_then(|it| ReasoningMode::parse(&it)).ok_or_else(wrong)?,
        constrained_by: text("constrained_by"),
        sequence: record["action_sequence_number"].as_u64().ok_or_else(wrong)?,
        expires_ms: text("expires_at").and_then(|it| clock::parse_ms(&it).ok()).ok_or_else(wrong)?,
        context_fingerprint: text("context_fingerprint")
            .map(|text| text.strip_prefix(FINGERPRINT).map_or(text.clone(), Box::from)),
        subject: text("subject").and_then(|it| Subject::kept(&it).ok()).ok_or_else(wrong)?,
    })
}

fn view(declaration: &Declaration, left: u64, kept: &Intention) -> Result<DeclarationView, Error> {
    Ok(DeclarationView {
        intent_id: declaration.intent_id.to_string(),
        session_id: declaration.session_id.to_string(),
        mandate_id: declaration.mandate_id.to_string(),
        gec_instance_id: declaration.gec_instance_id.to_string(),
        goal_type: declaration.goal_type.to_string(),
        goal_scope: declaration.goal_scope.clone(),
        reasoning_mode: declaration.mode.as_str(),
        constrained_by: declaration.constrained_by.as_deref().map(str::to_owned),
        action_sequence_number: declaration.sequence,
        time_budget_remaining: left,
        expires_at: clock::text(declaration.expires_ms),
        context_fingerprint: declaration.context_fingerprint.as_deref().map(str::to_owned),
        record_id: kept.record_id.to_string(),
        kernel_signature: signature_of(&kept.entry).ok_or_else(|| internal("a record is not signed"))?,
    })
}

/// Understands a declaration, whatever session it is for.
fn read(body: &Value, subject: &Subject, rules: &Rules) -> Result<Declaration, Error> {
    no_others(body, &MEMBERS, Code::IntentMalformed)?;
    let empty = Map::new();
    let body = body.as_object().unwrap_or(&empty);
    let mode = text(body, "reasoning_mode")?;
    let mode = ReasoningMode::parse(mode)
        .ok_or_else(|| malformed("reasoning_mode", "is none of the eight modes"))?;
    let expires_ms = clock::parse_ms(text(body, "expires_at")?)
        .map_err(|why| malformed("expires_at", &why.to_string()))?;
    Ok(Declaration {
        intent_id: identifier(body, "intent_id")?,
        session_id: identifier(body, "session_id")?,
        mandate_id: identifier(body, "mandate_id")?,
        gec_instance_id: text(body, "gec_instance_id")?.into(),
        goal_type: identifier(body, "goal_type")?,
        goal_scope: goals(body, rules)?,
        mode,
        constrained_by: constraint(body, mode, rules)?,
        sequence: number(body, "action_sequence_number")?,
        expires_ms,
        context_fingerprint: fingerprint(body)?,
        subject: subject.clone(),
    })
}

fn goals(body: &Map<String, Value>, rules: &Rules) -> Result<Vec<String>, Error> {
    let name = "goal_scope";
    let list = member(body, name)?.as_array().ok_or_else(|| malformed(name, "is not a list"))?;
    if list.is_empty() || list.len() > MOST_GOALS {
        return Err(malformed(name, "has not between 1 and 64 entries"));
    }
    let goal = |(n, goal): (usize, &Value)| {
        let wrong = |why| malformed(name, why).field(format!("/{name}/{n}"));
        let goal = goal.as_str().ok_or_else(|| wrong("has an entry that is no text"))?.to_owned();
        if goal.contains('*') {
            return Err(wrong("has a wildcard, and a goal has none"));
        }
        let known = rules.catalogue.iter().any(|it| Mandate::designates(slice::from_ref(&goal), it));
        if known { Ok(goal) } else { Err(wrong("names what is no archetype or group")) }
    };
    list.iter().enumerate().map(goal).collect()
}

/// The policy that an agent puts itself under has to be in force.
fn constraint(
    body: &Map<String, Value>,
    mode: ReasoningMode,
    rules: &Rules,
) -> Result<Option<Box<str>>, Error> {
    let name = "constrained_by";
    let given = body.get(name).is_some_and(|it| !it.is_null());
    match (mode, given) {
        (ReasoningMode::Constrained, _) => {
            let policy = text(body, name)?;
            let active = rules.policies.rules().iter().any(|rule| *rule.reference.id == *policy);
            if active { Ok(Some(policy.into())) } else { Err(malformed(name, "names no policy in force")) }
        }
        (_, true) => Err(malformed(name, "goes with the mode CONSTRAINED only")),
        (_, false) => Ok(None),
    }
}

fn fingerprint(body: &Map<String, Value>) -> Result<Option<Box<str>>, Error> {
    let name = "context_fingerprint";
    if body.get(name).is_none_or(Value::is_null) {
        return Ok(None);
    }
    let said = text(body, name)?;
    let hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    match said.strip_prefix(FINGERPRINT).is_some_and(hex) {
        true => Ok(Some(said.into())),
        false => Err(malformed(name, "is no fingerprint of a context")),
    }
}

/// What the mandate is for binds what may be declared under it.
fn within_mandate(declaration: &Declaration, names: &[String], rules: &Rules) -> Result<(), Error> {
    let within = |goal: &String| {
        names.contains(goal)
            || rules.catalogue.get(goal).is_some_and(|archetype| Mandate::designates(names, archetype))
    };
    match names.is_empty() || declaration.goal_scope.iter().all(within) {
        true => Ok(()),
        false => Err(refused(IntentRefusal::OutsideGoal).field("/goal_scope")),
    }
}

fn member<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Error> {
    body.get(name).ok_or_else(|| malformed(name, "is missing"))
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, Error> {
    let text = member(body, name)?.as_str().ok_or_else(|| malformed(name, "is not a text"))?;
    if text.len() <= LONGEST_TEXT { Ok(text) } else { Err(malformed(name, "is too long")) }
}

fn identifier(body: &Map<String, Value>, name: &str) -> Result<Box<str>, Error> {
    let text = text(body, name)?;
    if is_identifier(text) { Ok(text.into()) } else { Err(malformed(name, "is not an identifier")) }
}

fn number(body: &Map<String, Value>, name: &str) -> Result<u64, Error> {
    let number = member(body, name)?.as_u64().filter(|number| (1..=MOST_NUMBER).contains(number));
    number.ok_or_else(|| malformed(name, "is not a whole number from 1"))
}

fn is_identifier(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(plain)
}

fn malformed(name: &str, why: &str) -> Error {
    Error::new(Code::IntentMalformed, format!("{name} {why}")).field(format!("/{name}"))
}

/// The refusal as it is told, with the member that it is about.
fn refused(refusal: IntentRefusal) -> Error {
    let member = match refusal {
        IntentRefusal::Missing | IntentRefusal::Duplicate => "intent_id",
        IntentRefusal::Malformed => "",
        IntentRefusal::Expired => "expires_at",
        IntentRefusal::MandateMismatch => "mandate_id",
        IntentRefusal::SequenceNotRising => "action_sequence_number",
        IntentRefusal::SessionMismatch | IntentRefusal::SessionRevoked => "session_id",
        IntentRefusal::WrongInstance => "gec_instance_id",
        IntentRefusal::OutsideGoal => "goal_scope",
    };
    Error::new(code_of_intent(refusal), String::new()).field(format!("/{member}"))
}

fn not_taken(refusal: SessionRefusal) -> Error {
    match refusal {
        SessionRefusal::Sequence { .. } => refused(IntentRefusal::SequenceNotRising),
        SessionRefusal::State(SessionState::Closed(Completion::Revoked)) => {
            refused(IntentRefusal::SessionRevoked)
        }
        SessionRefusal::State(SessionState::Suspended) => {
            Error::new(Code::StateConflict, "the session is SUSPENDED: it was stopped, and is about to end")
                .hint("its record with ALE-001 says why; open another session if the mandate still holds")
        }
        SessionRefusal::State(state) => {
            Error::new(Code::StateConflict, format!("the session is {}", state.as_str()))
        }
        SessionRefusal::InFlight { .. } => Error::new(Code::StateConflict, "the session is busy"),
    }
}

fn is_idp(code: Code) -> bool {
    IntentRefusal::ALL.into_iter().any(|refusal| refusal.code() == code.as_str())
}

/// What a declaration says.
const MEMBERS: [&str; 11] = [
    "action_sequence_number",
    "constrained_by",
    "context_fingerprint",
    "expires_at",
    "gec_instance_id",
    "goal_scope",
    "goal_type",
    "intent_id",
    "mandate_id",
    "reasoning_mode",
    "session_id",
];
const MOST_GOALS: usize = 64;
/// Declarations remembered; over it all are forgotten.
const MOST_KNOWN: usize = 4096;
const LONGEST_TEXT: usize = 512;
/// What JSON carries exactly.
const MOST_NUMBER: u64 = (1 << 53) - 1;
const REFUSED: &str = "intent_refused";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_published_code() {
        for refusal in IntentRefusal::ALL {
            assert_eq!(refused(refusal).code.as_str(), refusal.code());
        }
    }
}
