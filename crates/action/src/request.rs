//! The envelope in which an action is asked for.

use crate::atp::{AskedRollback, Atp};
use crate::cycle::{self, AskedCycle};
use crate::hash::HmacKey;
use crate::id::{ActionId, IdempotencyKey, Subject};
use crate::level::{GuaranteeLevel, PaymentMode};
use crate::name::MAX_ARCHETYPE;
use crate::refusal::{Refusal, RefusalKind};
use crate::retention::{Deletion, Period};
use crate::retry::AskedRetry;
use crate::{card, json, text};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a caller asks for, before the catalogue has had a say. Well-formed, but not yet an action.
#[derive(Debug, Clone)]
pub struct Request {
    /// The kind of action.
    pub archetype: String,
    /// What the archetype takes; an object.
    pub constraints: Value,
    /// When money may move; the archetype's default if absent.
    pub payment_mode: Option<PaymentMode>,
    /// The mandate, as its issuer encoded it.
    pub delegation_token: Option<String>,
    /// How long the caller cares, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// The same key as in the header, for those who can set none.
    pub idempotency_key: Option<IdempotencyKey>,
    /// What the caller wants promised; less than the catalogue's level does not count.
    pub guarantee_level: Option<GuaranteeLevel>,
    /// How the caller wants it to be tried again; more retries or shorter pauses than the catalogue's do not count.
    pub retry_policy: Option<AskedRetry>,
    /// The earlier action that this one repeats on purpose.
    pub repeat_of: Option<ActionId>,
    /// `false` asks that the effect be treated as one that cannot be undone.
    pub reversible: Option<bool>,
    /// How long the record has to be kept; less than the catalogue's time does not count.
    pub retention: Option<Period>,
    /// When it has to be erased; later than the catalogue's time does not count.
    pub deletion: Deletion,
    /// Who says they ask; it has to be the authenticated caller.
    pub agent_id: Option<Subject>,
    /// The session that the caller says it is in.
    pub session_id: Option<String>,
    /// What it says where that is a governed session.
    pub cycle: Option<Box<AskedCycle>>,
    /// Who is to be asked for approval; never who approved.
    pub human_approver: Option<Subject>,
    /// The caller's own ids and labels, by name: strings.
    pub client: BTreeMap<String, Value>,
    /// What only the envelope of the Agent Transaction Protocol can say, where it came in that.
    pub atp: Option<Box<Atp>>,
}

/// Anything longer than this is no token that we could verify.
const MAX_TOKEN: usize = 16 * 1024;
/// One day: whoever waits longer does not wait.
const MAX_DEADLINE_MS: u64 = 24 * 60 * 60 * 1000;
const MAX_CLIENT_MEMBERS: usize = 16;
const MAX_CLIENT_TEXT: usize = 256;

impl Request {
    /// Reads a request body.
    ///
    /// # Errors
    /// `MalformedBody` if it is not strict JSON, `ValidationFailed` naming the first member that is unknown or
    /// misshapen, `CardData` if the caller's own ids look like a payment card.
    pub fn parse(bytes: &[u8]) -> Result<Request, Refusal> {
        Request::from_value(json::parse(bytes).map_err(malformed)?)
    }

    /// Reads a request that a face has already taken out of its own envelope. The value has to come from
    /// [`json::parse`]: what that refuses is not looked for again.
    ///
    /// # Errors
    /// As `parse`, except `MalformedBody`.
    pub fn from_value(body: Value) -> Result<Request, Refusal> {
        let Value::Object(members) = body else {
            return Err(Refusal::invalid("", "a request is a JSON object"));
        };
        let mut request = Request::empty();
        let mut constraints = None;
        for (name, value) in members {
            match name.as_str() {
                "archetype" => request.archetype = archetype(value)?,
                "constraints" => constraints = Some(object(value)?),
                _ => request.set(&name, value)?,
            }
        }
        if request.archetype.is_empty() {
            return Err(Refusal::invalid("/archetype", "the kind of action is missing"));
        }
        request.constraints =
            constraints.ok_or_else(|| Refusal::invalid("/constraints", "the constraints are missing"))?;
        Ok(request)
    }

    /// A request for this and nothing else.
    pub fn plain(archetype: &str, constraints: Value) -> Request {
        Request { archetype: archetype.to_owned(), constraints, ..Request::empty() }
    }

    /// Refuses card data anywhere in the constraints. For requests that meet no archetype, which could exempt a
    /// member; [`crate::Action::of`] does it for the others.
    ///
    /// # Errors
    /// `CardData`.
    pub fn refuse_card_data(&self) -> Result<(), Refusal> {
        card::refuse(&self.constraints, "/constraints", &[])
    }

    /// The request hash of a request that meets no archetype; equal to that of the action it would have become.
    pub fn hash(&self, key: &HmacKey) -> [u8; 32] {
        let constraints = json::canonical(&self.constraints);
        let rollback = self.atp.as_ref().and_then(|atp| atp.rollback.as_ref());
        let (mode, level) = (self.payment_mode, self.guarantee_level);
        let cycle = self.cycle.as_deref();
        hash(key, &self.archetype, &constraints, cycle, mode, level, self.repeat_of, rollback)
    }

    pub(crate) fn empty() -> Request {
        Request {
            archetype: String::new(),
            constraints: Value::Null,
            payment_mode: None,
            delegation_token: None,
            deadline_ms: None,
            idempotency_key: None,
            guarantee_level: None,
            retry_policy: None,
            repeat_of: None,
            reversible: None,
            retention: None,
            deletion: Deletion::Never,
            agent_id: None,
            session_id: None,
            cycle: None,
            human_approver: None,
            client: BTreeMap::new(),
            atp: None,
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) -> Result<(), Refusal> {
        match name {
            "payment_mode" => {
                self.payment_mode = Some(word(name, &value, PaymentMode::parse, PAYMENT_MODES)?)
            }
            "delegation_token" => self.delegation_token = Some(token(value)?),
            "deadline_ms" => self.deadline_ms = Some(deadline(&value)?),
            "idempotency_key" => {
                let read = |text: &str| IdempotencyKey::parse(text).ok();
                self.idempotency_key = Some(word(name, &value, read, "1 to 255 visible ASCII characters")?);
            }
            "guarantee_level" => {
                self.guarantee_level =
                    Some(word(name, &value, GuaranteeLevel::parse, "`atp-1`, `atp-2` or `atp-3`")?);
            }
            "retry_policy" => {
                self.retry_policy = Some(AskedRetry::read(value).map_err(|it| it.within("retry_policy"))?);
            }
            "repeat_of" => {
                let read = |text: &str| text.parse().ok();
                self.repeat_of = Some(word(name, &value, read, "the transaction id of the earlier action")?);
            }
            "reversible" => {
                let flag = value.as_bool();
                self.reversible =
                    Some(flag.ok_or_else(|| Refusal::invalid("/reversible", "not true or false"))?);
            }
            "retention" => {
                self.retention = Some(word(name, &value, Period::parse, Period::EXPECTED)?);
            }
            "deletion" => self.deletion = word(name, &value, Deletion::parse, Deletion::EXPECTED)?,
            "agent_id" => self.agent_id = Some(word(name, &value, subject, SUBJECT)?),
            "human_approver" => self.human_approver = Some(word(name, &value, subject, SUBJECT)?),
            "session_id" => {
                let read = |text: &str| subject(text).map(|id| id.as_str().to_owned());
                self.session_id = Some(word(name, &value, read, SUBJECT)?);
            }
            "client" => self.client = client(value)?,
            _ if cycle::MEMBERS.contains(&name) => self.cycle.get_or_insert_default().set(name, value)?,
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

/// HMAC over JCS{archetype, constraints, guarantee_level, payment_mode, repeat_of, rollback}: as asked, so that a
/// default which changes later does not make a repeated request another one. With `cycle` where it says something as one.
#[expect(clippy::too_many_arguments, reason = "each is a member")]
pub(crate) fn hash(
    key: &HmacKey,
    archetype: &str,
    constraints: &str,
    cycle: Option<&AskedCycle>,
    payment_mode: Option<PaymentMode>,
    guarantee_level: Option<GuaranteeLevel>,
    repeat_of: Option<ActionId>,
    rollback: Option<&AskedRollback>,
) -> [u8; 32] {
    let mut head = String::with_capacity(64);
    head.push_str("{\"archetype\":");
    json::write_string(archetype, &mut head);
    head.push_str(",\"constraints\":");
    let mut tail = String::with_capacity(160);
    if let Some(cycle) = cycle {
        tail.push_str(",\"cycle\":");
        json::write_canonical(&cycle.to_value(), &mut tail);
    }
    let mut member = |name: &str, value: Option<&str>| {
        tail.push(',');
        json::write_string(name, &mut tail);
        tail.push(':');
        match value {
            Some(text) => json::write_string(text, &mut tail),
            None => tail.push_str("null"),
        }
    };
    member("guarantee_level", guarantee_level.map(GuaranteeLevel::as_str));
    member("payment_mode", payment_mode.map(PaymentMode::as_str));
    member("repeat_of", repeat_of.map(|id| id.to_string()).as_deref());
    tail.push_str(",\"rollback\":");
    match rollback {
        Some(rollback) => json::write_canonical(&rollback.to_value(), &mut tail),
        None => tail.push_str("null"),
    }
    tail.push('}');
    key.sign_parts(&[head.as_bytes(), constraints.as_bytes(), tail.as_bytes()])
}

const PAYMENT_MODES: &str =
    "`QUOTE_ONLY`, `RESERVE_IF_AVAILABLE`, `IMMEDIATE_CHARGE` or `IMMEDIATE_CHARGE_WITH_CHALLENGE`";
const SUBJECT: &str = "1 to 128 ASCII letters, digits and `._:@/+-`, beginning with a letter or digit";

fn malformed(error: json::Malformed) -> Refusal {
    Refusal {
        kind: RefusalKind::MalformedBody,
        message: error.to_string(),
        field: Some(error.field).filter(|field| !field.is_empty()),
        hint: Some("send one JSON object, UTF-8, without duplicate members".into()),
        others: Vec::new(),
    }
}

/// Wider than the catalogue's own grammar: a name that spells a denied action oddly has to be judged, not
/// turned away as misspelt.
fn archetype(value: Value) -> Result<String, Refusal> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/ -".contains(&b);
    match value {
        Value::String(name) if (1..=MAX_ARCHETYPE).contains(&name.len()) && name.bytes().all(plain) => {
            Ok(name)
        }
        _ => Err(Refusal::invalid("/archetype", "not the name of a kind of action").with_hint(format!(
            "an archetype is named by 1 to {MAX_ARCHETYPE} ASCII letters, digits, spaces and `._:/-`"
        ))),
    }
}

fn object(value: Value) -> Result<Value, Refusal> {
    if value.is_object() { Ok(value) } else { Err(Refusal::invalid("/constraints", "not an object")) }
}

fn word<T>(
    name: &str,
    value: &Value,
    read: impl FnOnce(&str) -> Option<T>,
    expected: &str,
) -> Result<T, Refusal> {
    value
        .as_str()
        .and_then(read)
        .ok_or_else(|| Refusal::invalid(format!("/{name}"), format!("`{name}` is not {expected}")))
}

fn subject(text: &str) -> Option<Subject> {
    Subject::parse(text).ok()
}

fn token(value: Value) -> Result<String, Refusal> {
    match value {
        Value::String(token)
            if (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(token)
        }
        _ => Err(Refusal::invalid("/delegation_token", "not a token of visible ASCII characters")),
    }
}

fn deadline(value: &Value) -> Result<u64, Refusal> {
    value.as_u64().filter(|ms| (1..=MAX_DEADLINE_MS).contains(ms)).ok_or_else(|| {
        Refusal::invalid("/deadline_ms", "not a whole number of milliseconds between 1 and 86400000")
    })
}

fn client(value: Value) -> Result<BTreeMap<String, Value>, Refusal> {
    let Value::Object(members) = value else {
        return Err(Refusal::invalid("/client", "not an object"));
    };
    if members.len() > MAX_CLIENT_MEMBERS {
        return Err(Refusal::invalid("/client", "more than 16 members"));
    }
    let mut client = BTreeMap::new();
    for (name, value) in members {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(Refusal::invalid(
                "/client",
                "a member is not named by 1 to 64 ASCII letters, digits and `_.-`",
            ));
        }
        let checked = match value.as_str() {
            Some(text) if text.len() <= MAX_CLIENT_TEXT => text::refuse_tricks(text),
            _ => Err(Refusal::invalid("", "not a string of at most 256 bytes")),
        };
        checked.map_err(|refusal| refusal.within(&name).within("client"))?;
        client.insert(name, value);
    }
    card::refuse_in_strings(&client, "/client")?;
    Ok(client)
}

/// The pointer to a member that may have any name.
pub(crate) fn pointer_to(name: &str) -> String {
    let shown: String = name.chars().take(64).collect();
    let mut field = String::new();
    json::push_segment(&mut field, &shown);
    field
}

fn unknown(name: &str) -> Refusal {
    let field = pointer_to(name);
    if name == "result" {
        return Refusal::invalid(field, "a result is reported by the gateway, never by the caller")
            .with_hint("leave `result` out");
    }
    Refusal::invalid(field, "no such member in a request")
        .with_hint("what the archetype takes stands in `constraints`, ids of your own in `client`")
}
