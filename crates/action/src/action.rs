//! The action: a request that its archetype has accepted, parsed once, valid ever after.

use crate::archetype::{Archetype, CurrencyRule, Kind, Member, MoneyRule, Pointer};
use crate::atp::Atp;
use crate::cycle::AskedCycle;
use crate::hash::HmacKey;
use crate::id::{ActionId, IdempotencyKey, Subject};
use crate::level::{GuaranteeLevel, PaymentMode};
use crate::money::{Currency, Money};
use crate::refusal::Refusal;
use crate::request::{self, Request};
use crate::retention::{AskedKeeping, Keeping, Period};
use crate::retry::RetryPolicy;
use crate::{card, json, shape};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What is asked, from decision to receipt. Its text is as received; what is derived from it (money, canonical
/// form, resource) was derived once.
#[derive(Debug, Clone)]
pub struct Action {
    /// Its kind.
    pub archetype: Arc<Archetype>,
    /// The constraints, as received; an object.
    pub constraints: Value,
    /// RFC 8785 form of the constraints.
    pub canonical: Box<str>,
    /// When money may move.
    pub payment_mode: PaymentMode,
    /// The stricter of what was asked and what the catalogue wants.
    pub guarantee_level: GuaranteeLevel,
    /// How it is tried again, if its level has it tried again: the stricter of both.
    pub retry: Option<RetryPolicy>,
    /// Whether the effect can be undone, by both the catalogue's word and the caller's.
    pub reversible: bool,
    /// The amount that will move, when it is known.
    pub money: Option<Money>,
    /// The most that the caller allows.
    pub bound: Option<Money>,
    /// The id of the resource.
    pub resource: Option<String>,
    /// Where the effect goes to.
    pub destination: Option<String>,
    /// Required members that are absent or say nothing.
    pub missing: Vec<Missing>,
    /// The mandate, as its issuer encoded it.
    pub delegation_token: Option<String>,
    /// The key that came in the body.
    pub idempotency_key: Option<IdempotencyKey>,
    /// How long the caller cares, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// The earlier action that this one repeats on purpose.
    pub repeat_of: Option<ActionId>,
    /// Who says they ask; it has to be the authenticated caller.
    pub agent_id: Option<Subject>,
    /// The session that the caller says it is in.
    pub session_id: Option<String>,
    /// What it says where that is a governed session.
    pub cycle: Option<Box<AskedCycle>>,
    /// Who is to be asked for approval; never who approved.
    pub human_approver: Option<Subject>,
    /// The caller's own ids and labels.
    pub client: BTreeMap<String, Value>,
    /// What only the envelope of the Agent Transaction Protocol can say, where it came in that.
    pub atp: Option<Box<Atp>>,
    /// What is to undo it, if the request brought something: an action itself.
    pub rollback: Option<Box<Action>>,
    /// What the request itself said; the request hash is about that.
    asked: Asked,
    /// Where in `canonical` each top-level member's value stands.
    spans: Vec<Range<usize>>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    payment_mode: Option<PaymentMode>,
    guarantee_level: Option<GuaranteeLevel>,
    /// INVARIANT: goes with what the archetype declares.
    keeping: AskedKeeping,
}

/// A required member that an action lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// JSON pointer into the constraints.
    pub field: String,
    /// `string`, `money`, `integer`, `number`, `boolean`, `array`, `object` or `any`.
    pub kind: &'static str,
    /// What to put there, for people.
    pub description: String,
    /// An example, or null.
    pub example: Value,
}

/// A value as Cedar sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// Text.
    Str(&'a str),
    /// A whole number.
    Long(i64),
    /// True or false.
    Bool(bool),
    /// Several of one kind.
    Set(Vec<Attribute<'a>>),
    /// Named attributes; money is `{minor, currency}`.
    Record(Vec<(&'a str, Attribute<'a>)>),
}

/// A top-level member of the constraints, for receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a> {
    /// Its name.
    pub name: &'a str,
    /// RFC 8785 form of its value.
    pub canonical: &'a str,
    /// Whether receipts show it in the clear.
    pub public: bool,
}

impl Action {
    /// Makes the request an action of its archetype.
    ///
    /// # Errors
    /// `CardData`, or `ValidationFailed` if what is present is misshapen, plays tricks with text, or is no amount
    /// of money. What is absent is no error here: see `missing`.
    pub fn of(request: Request, archetype: &Arc<Archetype>) -> Result<Action, Refusal> {
        let constraints = &request.constraints;
        card::refuse(constraints, "/constraints", &archetype.members)?;
        shape::check(archetype, constraints)?;
        let (money, bound) = match &archetype.money {
            Some(rule) => amounts(archetype, rule, constraints).map_err(|e| e.within("constraints"))?,
            None => (None, None),
        };
        let (canonical, spans) = canonical(constraints);
        let text = |pointer: &Option<Pointer>| scalar(said(archetype, pointer.as_ref()?, constraints)?);
        let guarantee_level = request.guarantee_level.max(Some(archetype.guarantee_level));
        let guarantee_level = guarantee_level.unwrap_or(archetype.guarantee_level);
        let retries = guarantee_level > GuaranteeLevel::Atp1;
        Ok(Action {
            payment_mode: request.payment_mode.unwrap_or(archetype.default_payment_mode),
            guarantee_level,
            retry: retries.then(|| archetype.retry.tightened(request.retry_policy)),
            reversible: archetype.reversible && request.reversible != Some(false),
            money,
            bound,
            resource: text(&archetype.resource),
            destination: text(&archetype.destination),
            missing: missing(archetype, constraints),
            canonical,
            spans,
            asked: Asked {
                payment_mode: request.payment_mode,
                guarantee_level: request.guarantee_level,
                keeping: asked_keeping(&request, archetype)?,
            },
            archetype: Arc::clone(archetype),
            constraints: request.constraints,
            delegation_token: request.delegation_token,
            idempotency_key: request.idempotency_key,
            deadline_ms: request.deadline_ms,
            repeat_of: request.repeat_of,
            agent_id: request.agent_id,
            session_id: request.session_id,
            cycle: request.cycle,
            human_approver: request.human_approver,
            client: request.client,
            atp: request.atp,
            rollback: None,
        })
    }

    /// The same action, now that the provider has named its price.
    pub fn with_quote(self, quote: Money) -> Action {
        Action { money: Some(quote), ..self }
    }

    /// The same action, with what its request wants it undone by.
    pub fn with_rollback(self, rollback: Action) -> Action {
        Action { rollback: Some(Box::new(rollback)), ..self }
    }

    /// Whether everything required is there.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Equal for requests that ask for the same, whatever default they leave out: HMAC over JCS{archetype,
    /// constraints, guarantee_level, payment_mode, repeat_of, rollback}, as asked.
    pub fn request_hash(&self, key: &HmacKey) -> [u8; 32] {
        let Asked { payment_mode, guarantee_level, .. } = self.asked;
        request::hash(
            key,
            &self.archetype.name,
            &self.canonical,
            self.cycle.as_deref(),
            payment_mode,
            guarantee_level,
            self.repeat_of,
            self.atp.as_ref().and_then(|atp| atp.rollback.as_ref()),
        )
    }

    /// The verb and the target, where it came with them.
    pub fn verb_and_target(&self) -> (Option<&str>, Option<&str>) {
        Atp::verb_and_target(self.atp.as_deref())
    }

    /// How long it is kept and when it is erased: the longer retention and the earlier deletion of what was asked and what
    /// the catalogue wants. What only the request wants deleted is there for as long as it is needed.
    pub fn keeping(&self, needed: Option<Period>) -> Keeping {
        let own = self.archetype.keeping;
        own.tightened(self.asked.keeping, needed).unwrap_or(own)
    }

    /// The regulations it falls under, by the catalogue's word or the caller's; sorted, each once.
    pub fn regulations(&self) -> Vec<String> {
        Atp::regulations(self.atp.as_deref(), &self.archetype.regulations)
    }

    /// Whether the request itself wants a person to agree.
    pub fn wants_sign_off(&self) -> bool {
        self.atp.as_ref().is_some_and(|atp| atp.compliance.wants_sign_off())
    }

    /// Equal for actions that would do the same for the same principal: HMAC over JCS{archetype, destination,
    /// identity, rootPrincipal}. `None` where the archetype declares no identity.
    pub fn effect_hash(&self, key: &HmacKey, root_principal: &str) -> Option<[u8; 32]> {
        if self.archetype.identity.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(256);
        text.push_str("{\"archetype\":");
        json::write_string(&self.archetype.name, &mut text);
        text.push_str(",\"destination\":");
        match &self.destination {
            Some(destination) => json::write_string(destination, &mut text),
            None => text.push_str("null"),
        }
        text.push_str(",\"identity\":");
        self.write_identity(&mut text);
        text.push_str(",\"rootPrincipal\":");
        json::write_string(root_principal, &mut text);
        text.push('}');
        Some(key.sign(text.as_bytes()))
    }

    /// What Cedar sees of the constraints: every member present that is not opaque.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, Attribute<'_>)> {
        let rule = self.archetype.money.as_ref();
        let currency = rule.and_then(|rule| currency(&self.archetype, rule, &self.constraints).ok()?);
        attributes(&self.archetype.members, &self.constraints, currency)
    }

    /// The top-level members of the constraints in canonical order, and which of them receipts may show.
    pub fn members(&self) -> impl Iterator<Item = Shown<'_>> {
        let members = self.constraints.as_object().map(json::sorted).unwrap_or_default();
        members.into_iter().zip(&self.spans).map(|((name, _), span)| Shown {
            name,
            canonical: &self.canonical[span.clone()],
            public: self.archetype.member(name).is_some_and(|member| member.public),
        })
    }

    /// The identity members by pointer; amounts as `1.50 USD`, so that `1.5` and `1.50` are one effect, and dollars
    /// and euros two.
    fn write_identity(&self, out: &mut String) {
        out.push('{');
        for (index, pointer) in self.archetype.identity.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            json::write_string(pointer.as_str(), out);
            out.push(':');
            match (self.amount_at(pointer), pointer.get(&self.constraints)) {
                (Some(money), _) => json::write_string(&format!("{money} {}", money.currency()), out),
                (None, Some(value)) => json::write_canonical(value, out),
                (None, None) => out.push_str("null"),
            }
        }
        out.push('}');
    }

    fn amount_at(&self, pointer: &Pointer) -> Option<Money> {
        let rule = self.archetype.money.as_ref()?;
        if rule.amount.as_ref() == Some(pointer) {
            self.money
        } else if rule.bound.as_ref() == Some(pointer) {
            self.bound
        } else {
            None
        }
    }
}

fn asked_keeping(request: &Request, archetype: &Archetype) -> Result<AskedKeeping, Refusal> {
    let asked = AskedKeeping { retention: request.retention, deletion: request.deletion };
    archetype.keeping.tightened(asked, None).map(|_| asked).map_err(|why| {
        Refusal::invalid("/deletion", why.to_string())
            .with_hint("ask for a retention, or for a deletion by time")
    })
}

/// The amount and the bound; what is absent or says nothing is left to completeness.
fn amounts(
    archetype: &Archetype,
    rule: &MoneyRule,
    constraints: &Value,
) -> Result<(Option<Money>, Option<Money>), Refusal> {
    let Some(currency) = currency(archetype, rule, constraints)? else { return Ok((None, None)) };
    let read = |pointer: &Option<Pointer>| {
        let there = pointer.as_ref().and_then(|at| Some((at, said(archetype, at, constraints)?)));
        there.map(|(at, value)| amount(rule, at, currency, value)).transpose()
    };
    Ok((read(&rule.amount)?, read(&rule.bound)?))
}

fn amount(rule: &MoneyRule, at: &Pointer, currency: Currency, value: &Value) -> Result<Money, Refusal> {
    let hint = "send a decimal string with at most 18 digits, such as \"12.50\"";
    let refused = |message: String| Refusal::invalid(at.as_str(), message).with_hint(hint);
    let text = value.as_str().ok_or_else(|| refused("money is not a string".into()))?;
    let money = Money::parse(text, currency).map_err(|error| refused(error.to_string()))?;
    if money.is_zero() && !rule.zero {
        return Err(Refusal::invalid(at.as_str(), "an amount of zero does nothing here"));
    }
    Ok(money)
}

fn currency(
    archetype: &Archetype,
    rule: &MoneyRule,
    constraints: &Value,
) -> Result<Option<Currency>, Refusal> {
    let pointer = match &rule.currency {
        CurrencyRule::Fixed(currency) => return Ok(Some(*currency)),
        CurrencyRule::Member(pointer) => pointer,
    };
    let Some(value) = said(archetype, pointer, constraints) else { return Ok(None) };
    let known = value.as_str().and_then(Currency::of);
    let refusal = || {
        Refusal::invalid(pointer.as_str(), "not a currency").with_hint("send a code of ISO 4217, such as USD")
    };
    known.map(Some).ok_or_else(refusal)
}

/// What stands there, unless that counts as nothing.
fn said<'a>(archetype: &Archetype, at: &Pointer, constraints: &'a Value) -> Option<&'a Value> {
    at.get(constraints).filter(|value| !archetype.lacks(Some(value)))
}

fn canonical(constraints: &Value) -> (Box<str>, Vec<Range<usize>>) {
    let mut text = String::with_capacity(512);
    let mut spans = Vec::new();
    text.push('{');
    for (name, value) in constraints.as_object().map(json::sorted).unwrap_or_default() {
        if !spans.is_empty() {
            text.push(',');
        }
        json::write_string(name, &mut text);
        text.push(':');
        let start = text.len();
        json::write_canonical(value, &mut text);
        spans.push(start..text.len());
    }
    text.push('}');
    (text.into(), spans)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => number.as_i64().map(|number| number.to_string()),
        _ => None,
    }
}

fn missing(archetype: &Archetype, constraints: &Value) -> Vec<Missing> {
    let is_missing = |member: &&Member| member.required && archetype.lacks(constraints.get(&member.name));
    let describe = |member: &Member| {
        let mut field = String::new();
        json::push_segment(&mut field, &member.name);
        Missing {
            field,
            kind: type_word(archetype, member),
            description: member.description.clone(),
            example: member.example.clone(),
        }
    };
    archetype.members.iter().filter(is_missing).map(describe).collect()
}

/// Opaque to us, a member of somebody else's schema still has the type that is written there.
fn type_word(archetype: &Archetype, member: &Member) -> &'static str {
    const WORDS: [&str; 6] = ["string", "integer", "number", "boolean", "array", "object"];
    let declared = || archetype.schema.get("properties")?.get(&member.name)?.get("type")?.as_str();
    match member.kind {
        Kind::Opaque if archetype.is_verbatim() => {
            let declared = declared().and_then(|kind| WORDS.into_iter().find(|word| *word == kind));
            declared.unwrap_or(kind_word(&member.kind))
        }
        _ => kind_word(&member.kind),
    }
}

fn kind_word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Identifier { .. } | Kind::Text => "string",
        Kind::Money => "money",
        Kind::Long => "integer",
        Kind::Bool => "boolean",
        Kind::Set(_) => "array",
        Kind::Record(_) => "object",
        Kind::Opaque => "any",
    }
}

fn attributes<'a>(
    members: &'a [Member],
    object: &'a Value,
    currency: Option<Currency>,
) -> impl Iterator<Item = (&'a str, Attribute<'a>)> {
    members.iter().filter_map(move |member| {
        let value = object.get(&member.name)?;
        Some((member.name.as_str(), attribute(&member.kind, value, currency)?))
    })
}

fn attribute<'a>(kind: &'a Kind, value: &'a Value, currency: Option<Currency>) -> Option<Attribute<'a>> {
    Some(match kind {
        Kind::Identifier { .. } | Kind::Text => Attribute::Str(value.as_str()?),
        Kind::Money => {
            let money = Money::parse(value.as_str()?, currency?).ok()?;
            Attribute::Record(vec![
                ("minor", Attribute::Long(money.minor())),
                ("currency", Attribute::Str(money.currency().code())),
            ])
        }
        Kind::Long => Attribute::Long(value.as_i64()?),
        Kind::Bool => Attribute::Bool(value.as_bool()?),
        Kind::Set(item) => {
            let values = value.as_array()?.iter();
            Attribute::Set(values.filter_map(|value| attribute(item, value, currency)).collect())
        }
        Kind::Record(members) => Attribute::Record(attributes(members, value, currency).collect()),
        Kind::Opaque => return None,
    })
}
