//! What an answer means.
//!
//! A status that the binding does not name decides nothing, and neither does an answer that is not what the binding
//! describes: both leave the fate of the call unknown. Refusals are looked for first, so that a 200 that says
//! `declined` is one.

use std::sync::Arc;
use std::time::Duration;

use action::{Archetype, Money};
use execution::{Call, Check, Confirmation, Doubt, Found, Refusal, Reply};
use serde_json::Value;

use super::challenge::ChallengeReading;
use super::rule::{Condition, MoneyAt, Rule, Side, read_refused};
use crate::Unquoted;
use crate::egress::{BodyFault, HostPort};
use crate::reader::{Mistake, Node, Table};
use crate::secrets::Secret;

/// How the answer to a call is read.
#[derive(Debug)]
pub(super) struct CallReading {
    success: Rule,
    refused: Vec<Rule>,
    /// Refusals that may pass.
    transient: Vec<Rule>,
    /// Where the payer may have to confirm first.
    challenge: Option<ChallengeReading>,
    /// What there was to set free is gone already.
    gone: Vec<Rule>,
    record: Record,
    code: Option<String>,
}

/// How the answer to a query is read.
#[derive(Debug)]
pub(super) struct QueryReading {
    found: Rule,
    absent: Rule,
    refused: Vec<Rule>,
    record: Record,
}

/// How the answer is read to whether all is as it should be.
#[derive(Debug)]
pub(super) struct CheckReading {
    holds: Rule,
    fails: Rule,
}

/// How the answer to a quote is read.
#[derive(Debug)]
pub(super) struct QuoteReading {
    success: Rule,
    price: MoneyAt,
}

/// How what there is before an action is read.
#[derive(Debug)]
pub(super) struct SnapshotReading {
    success: Rule,
}

/// What an answer says about an effect that took place.
#[derive(Debug)]
pub(super) struct Record {
    reference: Option<String>,
    charged: Option<MoneyAt>,
    /// Where it says when what is set aside ends.
    expires: Option<String>,
    /// Whether that may be missing, because it speaks of other effects too.
    may_lack_end: bool,
}

/// An answer with its body parsed as far as it can be.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Result<Value, String>,
}

impl Answer {
    /// Parses a body. What our own secrets left in it is struck out, and integers that JSON does not carry exactly
    /// everywhere become strings.
    pub(super) fn parse(status: u16, body: Result<Vec<u8>, BodyFault>, secrets: &[Arc<Secret>]) -> Answer {
        let body = match body {
            Err(fault) => Err(fault.to_string()),
            Ok(bytes) if bytes.is_empty() => Ok(Value::Null),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|_| "the body of the answer is not JSON".to_owned())
            }
        };
        let body = body.map(|mut value| {
            tame(&mut value, secrets);
            value
        });
        Answer { status, body }
    }

    /// The body, or why it cannot be read.
    pub(super) fn into_body(self) -> Result<Value, String> {
        self.body
    }

    fn matches(&self, rule: &Rule) -> bool {
        rule.statuses.contains(&self.status)
            && match (&rule.when, &self.body) {
                (None, _) => true,
                (Some(condition), Ok(body)) => condition.holds(body),
                (Some(_), Err(_)) => false,
            }
    }

    /// Why an answer that no rule takes decides nothing.
    fn why_undecided(&self, listed: bool) -> String {
        match (&self.body, self.status) {
            (Err(why), _) if listed => why.clone(),
            (_, status @ 300..=399) => {
                format!("the provider answered {status}, a redirect, which is not followed")
            }
            (_, status) if listed => {
                format!("the provider answered {status} with a body that the binding does not expect")
            }
            (_, status) => format!("the provider answered {status}, which the binding does not list"),
        }
    }
}

/// There is an answer, and it decides nothing.
pub(super) fn not_understood(why: String) -> Reply {
    Reply::Lost { how: Doubt::NotUnderstood, why }
}

impl CallReading {
    pub(super) const MEMBERS: [&str; 6] = ["success", "refused", "transient", "reference", "charged", "code"];

    pub(super) fn read(table: &Table<'_>, archetype: &Archetype) -> Result<CallReading, Mistake> {
        let success = Rule::read(&table.need("success")?, Side::Success)?;
        let refused = read_refused(table, "refused", Side::Refused)?;
        let transient = read_refused(table, "transient", Side::Refused)?;
        for (member, rules) in [("refused", &refused), ("transient", &transient)] {
            if let Some(both) = rules.iter().find_map(|rule| rule.takes_all_of(&success)) {
                let message = format!("{both} is listed as success and, without a condition, as {member}");
                return Err(table
                    .need(member)?
                    .mistake(message)
                    .hint("add a `pointer` and `equals` to the refusal"));
            }
        }
        Ok(CallReading {
            success,
            refused,
            transient,
            challenge: None,
            gone: read_refused(table, "gone", Side::Refused)?,
            record: Record::read(table, archetype)?,
            code: table.get("code").map(|node| node.pointer()).transpose()?,
        })
    }

    /// Does it name the effect?
    pub(super) fn has_reference(&self) -> bool {
        self.record.reference.is_some()
    }

    /// The same where the payer may have to confirm first.
    pub(super) fn with_challenge(self, node: &Node<'_>, hosts: &[HostPort]) -> Result<CallReading, Mistake> {
        let challenge = ChallengeReading::read(node, hosts)?;
        let both = challenge.rule.takes_all_of(&self.success).or(self.success.takes_all_of(&challenge.rule));
        if let Some(both) = both {
            let message =
                format!("{both} is listed as success and as a challenge, and not told apart by the body");
            return Err(node.mistake(message).hint("add a `pointer` and `equals` to both"));
        }
        Ok(CallReading { challenge: Some(challenge), ..self })
    }

    /// How long a payer has at most, if one may have to confirm.
    pub(super) fn payer_has(&self) -> Option<Duration> {
        self.challenge.as_ref().map(|challenge| challenge.within)
    }

    /// What it means that the provider answered this to a call that began at `now_ms`.
    pub(super) fn judge(&self, answer: Answer, call: &Call, now_ms: i64) -> Reply {
        let is = |rules: &[Rule]| rules.iter().any(|rule| answer.matches(rule));
        if is(&self.gone) {
            let answer = answer.body.unwrap_or(Value::Null);
            return Reply::Confirmed(Confirmation { answer, ..Confirmation::default() });
        }
        // What is refused for good under one rule is not tried again for the sake of another.
        let (refused, transient) = (is(&self.refused), is(&self.transient));
        if refused || transient {
            return Reply::Refused(self.refusal(answer, !refused));
        }
        let challenge = self.challenge.as_ref().filter(|challenge| answer.matches(&challenge.rule));
        let done = answer.matches(&self.success);
        if let Some(challenge) = challenge {
            return match (&answer.body, done) {
                (Ok(body), false) => challenge.judge(body, call, now_ms),
                (Ok(_), true) => not_understood("it says both that it is done and that it is not".to_owned()),
                (Err(why), _) => not_understood(why.clone()),
            };
        }
        let lists = |rules: &[Rule]| rules.iter().any(|rule| rule.statuses.contains(&answer.status));
        let asks = self.challenge.as_ref().is_some_and(|it| it.rule.statuses.contains(&answer.status));
        let listed = self.success.statuses.contains(&answer.status)
            || lists(&self.refused)
            || lists(&self.transient)
            || asks;
        if !done {
            return not_understood(answer.why_undecided(listed));
        }
        match answer.body {
            Ok(body) => match self.record.confirmation(body) {
                Ok(confirmation) => Reply::Confirmed(confirmation),
                Err(why) => not_understood(why),
            },
            Err(why) => not_understood(why),
        }
    }

    fn refusal(&self, answer: Answer, transient: bool) -> Refusal {
        let body = answer.body.unwrap_or(Value::Null);
        let code = self.code.as_ref().and_then(|pointer| short_code(body.pointer(pointer)?));
        Refusal { status: Some(answer.status), code, answer: body, transient, ..Refusal::default() }
    }
}

impl QueryReading {
    /// Is what is found told by its values, so that what only waits is not taken for done?
    pub(super) fn names_what_is_done(&self) -> bool {
        self.found.when.as_ref().is_some_and(Condition::names_values)
    }

    pub(super) const MEMBERS: [&str; 5] = ["found", "absent", "refused", "reference", "charged"];

    pub(super) fn read(table: &Table<'_>, archetype: &Archetype) -> Result<QueryReading, Mistake> {
        let found = Rule::read(&table.need("found")?, Side::Success)?;
        let absent = Rule::read(&table.need("absent")?, Side::Absent)?;
        let (yes, no) = (("found", &found), ("absent", &absent));
        let hint = "add a `pointer` and `exists = false`, so that an empty list is told from a full one";
        told_apart(table, no, yes, hint)?;
        told_apart(table, yes, no, "add a `pointer`, so that a full list is told from an empty one")?;
        Ok(QueryReading {
            found,
            absent,
            refused: read_refused(table, "refused", Side::Declined)?,
            record: Record::read(table, archetype)?,
        })
    }

    /// `final_` says whether an absence seen now will stay.
    pub(super) fn judge(&self, answer: Answer, final_: bool) -> Found {
        if self.refused.iter().any(|rule| answer.matches(rule)) {
            // The provider knows the call and has declined it.
            return Found::Absent { final_: true };
        }
        match (answer.matches(&self.found), answer.matches(&self.absent)) {
            (true, false) => {
                let confirmation = answer.body.and_then(|body| self.record.confirmation(body));
                confirmation.map_or(Found::Unknown, Found::Confirmed)
            }
            (false, true) => Found::Absent { final_ },
            _ => Found::Unknown,
        }
    }
}

impl CheckReading {
    pub(super) const MEMBERS: [&str; 2] = ["holds", "fails"];

    pub(super) fn read(table: &Table<'_>) -> Result<CheckReading, Mistake> {
        let holds = Rule::read(&table.need("holds")?, Side::Success)?;
        let fails = Rule::read(&table.need("fails")?, Side::Absent)?;
        let (yes, no) = (("holds", &holds), ("fails", &fails));
        let hint = "add a `pointer` and `equals`, so that the two are told apart";
        told_apart(table, no, yes, hint)?;
        told_apart(table, yes, no, hint)?;
        Ok(CheckReading { holds, fails })
    }

    /// What no rule takes, or both do, says nothing.
    pub(super) fn judge(&self, answer: &Answer) -> Check {
        match (answer.matches(&self.holds), answer.matches(&self.fails)) {
            (true, false) => Check::Holds,
            (false, true) => Check::Fails,
            _ => Check::Unknown,
        }
    }
}

impl SnapshotReading {
    pub(super) const MEMBERS: [&str; 1] = ["success"];

    pub(super) fn read(table: &Table<'_>) -> Result<SnapshotReading, Mistake> {
        Ok(SnapshotReading { success: Rule::read(&table.need("success")?, Side::Success)? })
    }

    pub(super) fn judge(&self, answer: Answer) -> Result<Value, Unquoted> {
        if !answer.matches(&self.success) {
            let listed = self.success.statuses.contains(&answer.status);
            return Err(Unquoted { why: answer.why_undecided(listed) });
        }
        answer.body.map_err(|why| Unquoted { why })
    }
}

impl QuoteReading {
    pub(super) const MEMBERS: [&str; 2] = ["success", "price"];

    pub(super) fn read(table: &Table<'_>, archetype: &Archetype) -> Result<QuoteReading, Mistake> {
        Ok(QuoteReading {
            success: Rule::read(&table.need("success")?, Side::Success)?,
            price: MoneyAt::read(&table.need("price")?, archetype)?,
        })
    }

    pub(super) fn judge(&self, answer: Answer) -> Result<Money, Unquoted> {
        if !answer.matches(&self.success) {
            let listed = self.success.statuses.contains(&answer.status);
            return Err(Unquoted { why: answer.why_undecided(listed) });
        }
        let body = answer.body.map_err(|why| Unquoted { why })?;
        self.price.find(&body).ok_or_else(|| Unquoted { why: self.price.why_missing() })
    }
}

impl Record {
    pub(super) fn read(table: &Table<'_>, archetype: &Archetype) -> Result<Record, Mistake> {
        Ok(Record {
            reference: table.get("reference").map(|node| node.pointer()).transpose()?,
            charged: table.get("charged").map(|node| MoneyAt::read(&node, archetype)).transpose()?,
            expires: table.get("expires").map(|node| node.pointer()).transpose()?,
            may_lack_end: false,
        })
    }

    /// The same of what tells of any effect, whether it ends or not.
    pub(super) fn of_any_effect(self) -> Record {
        Record { may_lack_end: true, ..self }
    }

    /// What the answer says; an answer that lacks what the binding promises is not the one that was described.
    pub(super) fn confirmation(&self, body: Value) -> Result<Confirmation, String> {
        let reference = match &self.reference {
            Some(pointer) => Some(
                body.pointer(pointer)
                    .and_then(reference_text)
                    .ok_or_else(|| format!("the answer has no reference at `{pointer}`"))?,
            ),
            None => None,
        };
        let charged = match &self.charged {
            Some(at) => Some(at.find(&body).ok_or_else(|| at.why_missing())?),
            None => None,
        };
        let expires_ms = match &self.expires {
            Some(pointer) if self.may_lack_end => body.pointer(pointer).and_then(moment),
            Some(pointer) => Some(
                body.pointer(pointer)
                    .and_then(moment)
                    .ok_or_else(|| format!("the answer has no time that can be read at `{pointer}`"))?,
            ),
            None => None,
        };
        Ok(Confirmation { reference, answer: body, charged, expires_ms })
    }
}

/// Unix milliseconds of an RFC 3339 time, or of a number of seconds.
pub(super) fn moment(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.parse().ok().map(jiff::Timestamp::as_millisecond),
        Value::Number(number) => number.as_i64()?.checked_mul(1000),
        _ => None,
    }
}

/// Refuses a rule that takes a status of the other one's whatever the body says.
fn told_apart(
    table: &Table<'_>,
    (name, rule): (&'static str, &Rule),
    (other, others): (&str, &Rule),
    hint: &'static str,
) -> Result<(), Mistake> {
    let Some(status) = rule.takes_all_of(others) else { return Ok(()) };
    let message = format!("{status} is listed as {other} and, without a condition, as {name}");
    Err(table.need(name)?.mistake(message).hint(hint))
}

fn reference_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() && text.len() <= MOST_REFERENCE_BYTES => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A provider's code when it looks like one.
pub(super) fn short_code(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            (plain && (1..=64).contains(&text.len())).then(|| text.clone())
        }
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn tame(value: &mut Value, secrets: &[Arc<Secret>]) {
    match value {
        Value::String(text) => secrets.iter().for_each(|secret| {
            secret.strike_from(text);
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| tame(item, secrets)),
        Value::Object(members) => {
            members.values_mut().for_each(|member| tame(member, secrets));
            tame_names(members, secrets);
        }
        Value::Number(number) if !is_exact(number) => *value = Value::String(number.to_string()),
        _ => {}
    }
}

fn tame_names(members: &mut serde_json::Map<String, Value>, secrets: &[Arc<Secret>]) {
    let tainted = |name: &str| {
        let mut name = name.to_owned();
        secrets.iter().any(|secret| secret.strike_from(&mut name))
    };
    members.retain(|name, _| !tainted(name));
}

/// Whether every reader of JSON gets the same number: integers beyond 2^53 - 1 are rounded by many.
fn is_exact(number: &serde_json::Number) -> bool {
    const MOST: u64 = (1 << 53) - 1;
    match (number.as_u64(), number.as_i64()) {
        (Some(positive), _) => positive <= MOST,
        (None, Some(negative)) => negative.unsigned_abs() <= MOST,
        (None, None) => true,
    }
}

const MOST_REFERENCE_BYTES: usize = 256;
