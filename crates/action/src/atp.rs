//! A request in the words of the Agent Transaction Protocol (section 6), and what only those words can say.
//!
//! There is one kind of request. This envelope is taken apart into it; what the other has no place for stays together as
//! an [`Atp`]. Which archetype a verb and a target mean, the catalogue says: [`crate::Catalogue::resolve`].

use crate::compliance::Compliance;
use crate::cycle;
use crate::refusal::Refusal;
use crate::request::{Request, pointer_to};
use crate::time;
use crate::{card, text};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What a request says that came in the protocol's own envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Atp {
    /// The version of the envelope.
    pub version: &'static str,
    /// What is done.
    pub verb: String,
    /// What it is done to.
    pub target: Option<String>,
    /// What the agent says that it does, for people; to be quoted, never believed.
    pub description: Option<String>,
    /// When the caller stops caring.
    pub deadline: Option<Time>,
    /// The rules that it falls under.
    pub compliance: Compliance,
    /// How it is to be undone, if that has to be.
    pub rollback: Option<AskedRollback>,
}

/// A time that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// As it was written, RFC 3339.
    pub text: String,
    /// Unix milliseconds.
    pub ms: i64,
}

/// How a request wants its effect undone: an action itself.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedRollback {
    /// What is done.
    pub verb: String,
    /// What it is done to; where it is left out, what the action is done to.
    pub target: Option<String>,
    /// What the agent says that it does.
    pub description: Option<String>,
    /// What it takes; an object.
    pub parameters: Value,
}

/// What a request may have; the last three are ours.
const MEMBERS: [&str; 18] = [
    "atp_version",
    "action_id",
    "idempotency_key",
    "guarantee_level",
    "agent_id",
    "session_id",
    "fleet_id",
    "human_approver",
    "action",
    "reversible",
    "rollback",
    "created_at",
    "deadline",
    "retry_policy",
    "compliance",
    "delegation_token",
    "payment_mode",
    "repeat_of",
];
/// Versions of the envelope that are spoken here; the last is what is meant where none is named.
const VERSIONS: [&str; 2] = ["1.0.0-draft", "1.0.0"];
const LONGEST_NAME: usize = 128;
const LONGEST_DESCRIPTION: usize = 1000;
const LONGEST_TIME: usize = 40;

impl Request {
    /// Reads a request in this envelope. The value has to come from [`crate::json::parse`] or [`crate::yaml::parse`]. Until the
    /// catalogue has said which archetype is meant, its verb stands for it. Null stands for what is absent.
    ///
    /// # Errors
    /// As [`Request::from_value`].
    pub fn from_atp(body: Value) -> Result<Request, Refusal> {
        let Value::Object(members) = body else {
            return Err(Refusal::invalid("", "a request is an object"));
        };
        let mut request = Request::empty();
        let mut atp = Atp::empty();
        let mut action = None;
        for (name, value) in members {
            match name.as_str() {
                known if value.is_null() && is_known(known) => {}
                "atp_version" => atp.version = version(&value)?,
                "action_id" | "fleet_id" => {
                    let id = text::label(&name, &value)?;
                    request.client.insert(name, Value::String(id));
                }
                "action" => action = Some(value),
                "rollback" => {
                    atp.rollback = Some(AskedRollback::read(value).map_err(|it| it.within("rollback"))?);
                }
                // Kept as the client's own word, never believed.
                "created_at" => {
                    Time::read(&name, &value)?;
                    request.client.insert(name, value);
                }
                "deadline" => atp.deadline = Some(Time::read(&name, &value)?),
                "compliance" => {
                    atp.compliance = Compliance::read(value).map_err(|it| it.within("compliance"))?;
                }
                known if is_known(known) => request.set(&name, value)?,
                _ => return Err(unknown(&name)),
            }
        }
        let action = action.ok_or_else(|| Refusal::invalid("/action", "what is to be done is missing"))?;
        let asked = Asked::read(action).map_err(|refusal| refusal.within("action"))?;
        card::refuse_in_strings(&request.client, "")?;
        request.retention = atp.compliance.retention_policy;
        request.deletion = atp.compliance.deletion_policy;
        (atp.verb, atp.target, atp.description) = (asked.verb, asked.target, asked.description);
        request.archetype.clone_from(&atp.verb);
        request.constraints = asked.parameters;
        request.atp = Some(Box::new(atp));
        Ok(request)
    }

    /// The verb and the target, where the request came with them.
    pub fn verb_and_target(&self) -> (Option<&str>, Option<&str>) {
        Atp::verb_and_target(self.atp.as_deref())
    }
}

impl Atp {
    fn empty() -> Atp {
        Atp {
            version: VERSIONS[1],
            verb: String::new(),
            target: None,
            description: None,
            deadline: None,
            compliance: Compliance::default(),
            rollback: None,
        }
    }

    /// The verb and the target, where there are any.
    pub fn verb_and_target(atp: Option<&Atp>) -> (Option<&str>, Option<&str>) {
        atp.map_or((None, None), |atp| (Some(&atp.verb), atp.target.as_deref()))
    }

    /// The verb and the target of what is to undo it, if the request brought that; a target that is left out is the
    /// action's own.
    pub fn rollback_verb_and_target(&self) -> Option<(&str, Option<&str>)> {
        let asked = self.rollback.as_ref()?;
        Some((&asked.verb, asked.target.as_deref().or(self.target.as_deref())))
    }

    /// The regulations of the catalogue and those that the request names; sorted, each once.
    pub fn regulations(atp: Option<&Atp>, declared: &[String]) -> Vec<String> {
        let named = atp.map_or(&[][..], |atp| &atp.compliance.regulation_refs);
        let all: BTreeSet<&String> = declared.iter().chain(named).collect();
        all.into_iter().cloned().collect()
    }

    /// All of it as one object, for the record. [`Atp::kept`] reads it.
    pub fn to_value(&self) -> Value {
        let mut it = Map::new();
        it.insert("atp_version".into(), self.version.into());
        it.insert("verb".into(), self.verb.clone().into());
        for (name, value) in [
            ("target", self.target.clone()),
            ("description", self.description.clone()),
            ("deadline", self.deadline.as_ref().map(|it| it.text.clone())),
        ] {
            it.extend(value.map(|value| (name.to_owned(), value.into())));
        }
        if !self.compliance.asked().is_empty() {
            it.insert("compliance".into(), self.compliance.asked().clone().into());
        }
        it.extend(self.rollback.as_ref().map(|it| ("rollback".to_owned(), it.to_value())));
        Value::Object(it)
    }

    /// Reads what [`Atp::to_value`] wrote.
    pub fn kept(value: Value) -> Option<Atp> {
        let Value::Object(mut members) = value else { return None };
        let mut text = |name: &str| match members.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let (version, verb) = (text("atp_version")?, text("verb")?);
        let (target, description) = (text("target"), text("description"));
        let deadline = match text("deadline") {
            Some(text) => Some(Time::kept(text)?),
            None => None,
        };
        Some(Atp {
            version: VERSIONS.into_iter().find(|known| *known == version)?,
            verb,
            target,
            description,
            deadline,
            compliance: members.remove("compliance").map_or_else(
                || Some(Compliance::default()),
                |compliance| Compliance::read(compliance).ok(),
            )?,
            rollback: match members.remove("rollback") {
                Some(rollback) => Some(AskedRollback::read(rollback).ok()?),
                None => None,
            },
        })
    }
}

impl Time {
    fn read(name: &str, value: &Value) -> Result<Time, Refusal> {
        let text = value.as_str().filter(|text| text.len() <= LONGEST_TIME).unwrap_or_default();
        let ms = time::unix_millis(text).map_err(|wrong| {
            let refusal = Refusal::invalid(pointer_to(name), format!("{name} {wrong}"));
            refusal.with_hint("write it like 2026-05-05T21:05:00Z")
        })?;
        Ok(Time { text: text.to_owned(), ms })
    }

    /// Earlier builds took, and so kept, spellings that only resemble those of the RFC.
    fn kept(text: String) -> Option<Time> {
        let at: jiff::Timestamp = text.parse().ok()?;
        Some(Time { text, ms: at.as_millisecond() })
    }
}

impl AskedRollback {
    /// As it was asked for; also what the request hash is about.
    pub fn to_value(&self) -> Value {
        let mut it = json!({ "parameters": self.parameters, "verb": self.verb });
        for (name, value) in [("target", &self.target), ("description", &self.description)] {
            if let Some(value) = value {
                it[name] = value.clone().into();
            }
        }
        it
    }

    fn read(value: Value) -> Result<AskedRollback, Refusal> {
        let Asked { verb, target, description, parameters } = Asked::read(value)?;
        card::refuse(&parameters, "/parameters", &[])?;
        Ok(AskedRollback { verb, target, description, parameters })
    }
}

/// `action` and `rollback` have the same members.
struct Asked {
    verb: String,
    target: Option<String>,
    description: Option<String>,
    parameters: Value,
}

impl Asked {
    fn read(value: Value) -> Result<Asked, Refusal> {
        let Value::Object(members) = value else { return Err(Refusal::invalid("", "not an object")) };
        let mut asked = Asked {
            verb: String::new(),
            target: None,
            description: None,
            parameters: Value::Object(Map::new()),
        };
        for (name, value) in members {
            match name.as_str() {
                "verb" | "target" | "description" | "parameters" if value.is_null() => {}
                "verb" => asked.verb = name_of(&name, value)?,
                "target" => asked.target = Some(name_of(&name, value)?),
                "description" => asked.description = Some(description(&value)?),
                "parameters" if value.is_object() => asked.parameters = value,
                "parameters" => return Err(Refusal::invalid("/parameters", "not an object")),
                _ => {
                    return Err(Refusal::invalid(pointer_to(&name), "no such member in an action")
                        .with_hint("it takes verb, target, description and parameters"));
                }
            }
        }
        if asked.verb.is_empty() {
            return Err(Refusal::invalid("/verb", "the verb is missing"));
        }
        let words = json!({ "verb": asked.verb, "target": asked.target, "description": asked.description });
        card::refuse(&words, "", &[])?;
        Ok(asked)
    }
}

/// As wide as the name of an archetype: what spells a denied action oddly has to be judged, not turned away as misspelt.
fn name_of(name: &str, value: Value) -> Result<String, Refusal> {
    let text = match value {
        Value::String(text) => Some(text).filter(|text| is_name(text)),
        _ => None,
    };
    text.ok_or_else(|| {
        let why = format!("`{name}` is not 1 to 128 ASCII letters, digits, blanks and `._:/-@+#~`");
        Refusal::invalid(format!("/{name}"), why)
    })
}

/// Is it a verb or a target?
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/ -@+#~".contains(&b);
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(plain) && text.trim() == text
}

fn description(value: &Value) -> Result<String, Refusal> {
    let checked = match value.as_str() {
        Some(text) if text.len() <= LONGEST_DESCRIPTION => {
            text::refuse_tricks(text).map(|()| text.to_owned())
        }
        _ => Err(Refusal::invalid("", "not a line of at most 1000 bytes")),
    };
    checked.map_err(|refusal| refusal.within("description"))
}

fn version(value: &Value) -> Result<&'static str, Refusal> {
    let known = value.as_str().and_then(|text| VERSIONS.into_iter().find(|known| *known == text));
    known
        .ok_or_else(|| Refusal::invalid("/atp_version", "the versions spoken here are 1.0.0 and 1.0.0-draft"))
}

/// A member of the envelope, or of a cycle.
fn is_known(name: &str) -> bool {
    MEMBERS.contains(&name) || cycle::MEMBERS.contains(&name)
}

fn unknown(name: &str) -> Refusal {
    let field = pointer_to(name);
    match name {
        "result" => Refusal::invalid(field, "a result is reported by the gateway, never by the caller")
            .with_hint("leave `result` out"),
        _ => Refusal::invalid(field, "no such member in a request")
            .with_hint("what the action takes stands in `action.parameters`"),
    }
}
