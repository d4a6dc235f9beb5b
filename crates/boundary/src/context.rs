//! The Cedar context of one action: built as pairs, never from JSON, and written canonically for the record.

use action::{Attribute, Money};
use cedar_policy::{Context, RestrictedExpression};
use mandate::{Account, ClusterContext, Mandate, Remaining};
use serde_json::Value;

use crate::{Cycle, Facts};

/// Pairs of a name and what policies see under it.
pub(crate) type Attributes<'a> = Vec<(&'a str, Attribute<'a>)>;

/// What a question sees of the facts.
pub(crate) type See = for<'a> fn(&'a Facts<'a>, &'a Texts, Steps) -> Attributes<'a>;

/// What earlier steps of a cycle came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) intent_valid: bool,
    pub(crate) tier_0a_passed: bool,
}

/// Texts that the context needs and nobody else holds.
pub(crate) struct Texts {
    repeat_of: Option<String>,
}

impl Texts {
    pub(crate) fn of(facts: &Facts<'_>) -> Texts {
        Texts { repeat_of: facts.action.repeat_of.map(|id| id.to_string()) }
    }
}

/// What policies see of an action. Members stand in alphabetical order.
pub(crate) fn attributes<'a>(facts: &'a Facts<'a>, texts: &'a Texts, steps: Steps) -> Attributes<'a> {
    use Attribute::{Bool, Long, Record, Str};
    let action = facts.action;
    let mut out = Vec::with_capacity(14);
    if let Some(amount) = action.money {
        out.push(("amount", money(amount)));
    }
    if let Some(bound) = action.bound {
        out.push(("bound", money(bound)));
    }
    out.push(("constraints", Record(action.attributes().collect())));
    if let Some(cycle) = &facts.cycle {
        out.push(("cycle", Record(members(cycle, facts, steps))));
    }
    if let Some(destination) = &action.destination {
        out.push(("destination", Str(destination)));
    }
    out.push(("duplicate", Bool(facts.earlier.is_some())));
    out.push(("environment", Str(facts.environment.as_str())));
    out.push(("first_seen_destination", Bool(facts.first_seen_destination)));
    out.push(("guarantee_level", Long(1 + action.guarantee_level as i64)));
    if let Some((mandate, account)) = facts.mandate {
        out.push(("mandate", self::mandate(mandate, account, facts.now_ms)));
    }
    out.push(("payment_mode", Str(action.payment_mode.as_str())));
    if let Some(id) = &texts.repeat_of {
        out.push(("repeat_of", Str(id)));
    }
    out.push(("reversible", Bool(action.reversible)));
    out.push(("tenant", Str(facts.caller.tenant.as_str())));
    out.push(("time", time(facts.now_ms)));
    out
}

/// What the gate of a cycle sees: the cycle, and of the action what every archetype has.
pub(crate) fn gate<'a>(facts: &'a Facts<'a>, texts: &'a Texts, steps: Steps) -> Attributes<'a> {
    let mut out = attributes(facts, texts, steps);
    out.retain(|(name, _)| !matches!(*name, "constraints" | "cycle"));
    out.push(("archetype", Attribute::Str(&facts.action.archetype.name)));
    out.extend(facts.cycle.iter().flat_map(|cycle| members(cycle, facts, steps)));
    out
}

/// The cycle, as [`crate::schema`] declares it.
fn members<'a>(cycle: &'a Cycle<'a>, facts: &'a Facts<'a>, steps: Steps) -> Attributes<'a> {
    use Attribute::{Bool, Long, Record, Str};
    let context = cycle.context;
    let declaration = cycle.declaration.ok();
    let depth = context.delegation.as_ref().map_or(0, |it| it.depth());
    // Policies come before the classes: what is known of those is what people were asked about before.
    let class = facts.approved.and_then(|it| it.triggers.iter().map(|trigger| trigger.class() as i64).min());
    let mut out = Vec::with_capacity(16);
    out.extend(context.cluster.as_ref().map(|it| ("cluster", Record(cluster(it)))));
    out.extend(cycle.confidence.map(|it| ("confidence", Long(it.ten_thousandths().into()))));
    out.push(("cycle_id", Str(&context.cycle_id)));
    out.push(("delegation_depth", Long(long(depth as u64))));
    out.extend(class.map(|class| ("escalation_class", Long(class))));
    out.extend(declaration.map(|it| ("goal_type", Str(&it.goal_type))));
    out.push(("human_approval_received", Bool(facts.approved.is_some())));
    out.extend(declaration.map(|it| ("intent_id", Str(&it.intent_id))));
    out.push(("intent_valid", Bool(steps.intent_valid)));
    out.push(("prior_denial_count", Long(context.prior_denial_count.into())));
    out.push(("reasoning_mode", Str(cycle.mode().map_or("", |mode| mode.as_str()))));
    out.push(("resource_envelope", Record(envelope(&context.remaining))));
    out.push(("scope_within_parent_bounds", Bool(cycle.chain.is_ok())));
    out.push(("sequence", Long(long(context.sequence))));
    out.push(("session_id", Str(&context.session_id)));
    out.push(("tier_0a_check_passed", Bool(steps.tier_0a_passed)));
    out.push(("time_budget_remaining", Long(long(context.remaining.time_seconds))));
    out
}

fn cluster(cluster: &ClusterContext) -> Attributes<'_> {
    use Attribute::{Long, Str};
    vec![
        ("id", Str(&cluster.cluster_id)),
        ("members", Long(long(cluster.members.len() as u64))),
        ("pool_seconds", Long(long(cluster.pool_seconds))),
        ("principals", Long(long(cluster.principals.len() as u64))),
        ("state", Str(cluster.state.as_str())),
    ]
}

fn envelope<'a>(left: &Remaining) -> Attributes<'a> {
    let parts = [
        ("compute_units", left.compute_units),
        ("memory_bytes", left.memory_bytes),
        ("network_egress_bytes", left.network_egress_bytes),
        ("storage_bytes", left.storage_bytes),
    ];
    parts.into_iter().filter_map(|(name, left)| Some((name, Attribute::Long(long(left?))))).collect()
}

fn money<'a>(money: Money) -> Attribute<'a> {
    let currency = Attribute::Str(money.currency().code());
    Attribute::Record(vec![("currency", currency), ("minor", Attribute::Long(money.minor()))])
}

fn mandate<'a>(mandate: &'a Mandate, account: &Account, now_ms: i64) -> Attribute<'a> {
    let mut out = Vec::with_capacity(5);
    if let Some(max) = mandate.max_actions {
        out.push(("actions_left", Attribute::Long(long(max.saturating_sub(account.actions)))));
    }
    let left = mandate.expires_at.saturating_sub(now_ms.div_euclid(1000));
    out.push(("expires_in_seconds", Attribute::Long(left)));
    out.push(("id", Attribute::Str(&mandate.jti)));
    out.push(("issuer", Attribute::Str(mandate.root_principal())));
    if let Some(cap) = mandate.spend_cap {
        out.push(("spend_left", money(account.left_of(cap))));
    }
    Attribute::Record(out)
}

/// UTC, by arithmetic: the first of January 1970 was a Thursday.
pub(crate) fn time<'a>(now_ms: i64) -> Attribute<'a> {
    let seconds = now_ms.div_euclid(1000);
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    Attribute::Record(vec![
        ("hour", Attribute::Long(second / 3600)),
        ("minute", Attribute::Long(second / 60 % 60)),
        ("unix_seconds", Attribute::Long(seconds)),
        ("weekday", Attribute::Long((day + 3).rem_euclid(7) + 1)),
    ])
}

pub(crate) fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The context as Cedar takes it.
///
/// # Errors
/// Never for an action that its archetype accepted; the message is Cedar's.
pub(crate) fn context(attributes: &[(&str, Attribute<'_>)]) -> Result<Context, String> {
    let pairs: Result<Vec<_>, String> =
        attributes.iter().map(|(name, value)| Ok(((*name).to_owned(), expression(value)?))).collect();
    Context::from_pairs(pairs?).map_err(|error| error.to_string())
}

fn expression(attribute: &Attribute<'_>) -> Result<RestrictedExpression, String> {
    Ok(match attribute {
        Attribute::Str(text) => RestrictedExpression::new_string((*text).to_owned()),
        Attribute::Long(value) => RestrictedExpression::new_long(*value),
        Attribute::Bool(value) => RestrictedExpression::new_bool(*value),
        Attribute::Set(items) => {
            RestrictedExpression::new_set(items.iter().map(expression).collect::<Result<Vec<_>, _>>()?)
        }
        Attribute::Record(members) => {
            let pairs: Result<Vec<_>, String> =
                members.iter().map(|(name, value)| Ok(((*name).to_owned(), expression(value)?))).collect();
            RestrictedExpression::new_record(pairs?).map_err(|error| error.to_string())?
        }
    })
}

/// The same, as canonical JSON (RFC 8785).
pub(crate) fn write(members: &[(&str, Attribute<'_>)], out: &mut String) {
    let mut order: Vec<&(&str, Attribute<'_>)> = members.iter().collect();
    order.sort_unstable_by(|a, b| action::json::utf16_order(a.0, b.0));
    out.push('{');
    for (index, (name, value)) in order.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        action::json::write_string(name, out);
        out.push(':');
        write_one(value, out);
    }
    out.push('}');
}

fn write_one(attribute: &Attribute<'_>, out: &mut String) {
    use std::fmt::Write;
    match attribute {
        Attribute::Str(text) => action::json::write_string(text, out),
        Attribute::Long(value) => {
            let _ = write!(out, "{value}");
        }
        Attribute::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Attribute::Set(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_one(item, out);
            }
            out.push(']');
        }
        Attribute::Record(members) => write(members, out),
    }
}

/// Attributes from a record's JSON, for replay.
pub(crate) fn read(value: &Value) -> Option<Vec<(&str, Attribute<'_>)>> {
    value.as_object()?.iter().map(|(name, value)| Some((name.as_str(), read_one(value)?))).collect()
}

fn read_one(value: &Value) -> Option<Attribute<'_>> {
    Some(match value {
        Value::String(text) => Attribute::Str(text),
        Value::Number(number) => Attribute::Long(number.as_i64()?),
        Value::Bool(value) => Attribute::Bool(*value),
        Value::Array(items) => Attribute::Set(items.iter().map(read_one).collect::<Option<_>>()?),
        Value::Object(_) => Attribute::Record(read(value)?),
        Value::Null => return None,
    })
}
