//! The `[duplicate]`, `[anomaly]` and `[retry]` rules of an archetype.

use super::amounts::Thresholds;
use super::declare::word;
use super::reader::{Node, Table};
use crate::archetype::{AnomalyRule, DuplicateRule, FirstSeen, OnDuplicate};
use crate::retry::{Backoff, RetryPolicy};
use std::time::Duration;

/// As many scaled deviations from the median are no longer the same kind of payment.
const DEFAULT_K: u32 = 8;
/// Fewer amounts than this have no meaningful median.
const DEFAULT_MIN_SAMPLE: u32 = 20;
const DEFAULT_WINDOW: Duration = Duration::from_secs(600);
const MAX_WINDOW: Duration = Duration::from_secs(30 * 86_400);

pub(crate) fn duplicate_rule(table: &Table<'_>, grave: bool) -> DuplicateRule {
    let on = if grave { OnDuplicate::Escalate } else { OnDuplicate::Allow };
    let default = DuplicateRule { window: DEFAULT_WINDOW, on };
    let Some(duplicate) = table.get("duplicate").and_then(|node| node.table()) else { return default };
    let window = duplicate.get("window").and_then(duration);
    let read = |text: &str| match text {
        "escalate" => Some(OnDuplicate::Escalate),
        "block" => Some(OnDuplicate::Block),
        "allow" => Some(OnDuplicate::Allow),
        _ => None,
    };
    let on = word(&duplicate, "on", &["escalate", "block", "allow"], read);
    duplicate.finish();
    DuplicateRule { window: window.unwrap_or(default.window), on: on.unwrap_or(default.on) }
}

/// For how long an effect can be undone.
pub(crate) fn recovery_window(table: &Table<'_>, reversible: bool) -> Option<Duration> {
    let node = table.get("recovery_window")?;
    let window = duration(node);
    if !reversible {
        table.key_mistake(
            "recovery_window",
            "what cannot be undone has no time in which it can",
            "add `reversible = true`, or leave `recovery_window` out",
        );
    }
    window
}

fn duration(node: Node<'_>) -> Option<Duration> {
    let text = node.text()?;
    let seconds = |text: &str| {
        let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let digits = (1..=7).contains(&count.len()) && count.bytes().all(|b| b.is_ascii_digit());
        let count: u64 = if digits { count.parse().ok()? } else { return None };
        Some(Duration::from_secs(count * unit))
    };
    let window = seconds(text).filter(|window| !window.is_zero() && *window <= MAX_WINDOW);
    if window.is_none() {
        node.mistake_with_hint(
            "not a duration",
            "write a time of at most 30 days, such as \"90s\", \"10m\", \"24h\" or \"7d\"",
        );
    }
    window
}

/// How the archetype is tried again; what the file leaves out is as usual.
pub(crate) fn retry_policy(table: &Table<'_>) -> RetryPolicy {
    let usual = RetryPolicy::USUAL;
    let Some(retry) = table.get("retry").and_then(|node| node.table()) else { return usual };
    let seconds = |key| {
        let seconds = retry.get(key).and_then(|node| whole(node, RetryPolicy::MOST_SECONDS));
        seconds.map(|seconds| Duration::from_secs(u64::from(seconds)))
    };
    let initial_delay = seconds("initial_delay_seconds").unwrap_or(usual.initial_delay);
    let max_delay = seconds("max_delay_seconds").unwrap_or(usual.max_delay.max(initial_delay));
    if max_delay < initial_delay {
        retry.key_mistake(
            "max_delay_seconds",
            "the longest pause is shorter than the first",
            "raise `max_delay_seconds` or lower `initial_delay_seconds`",
        );
    }
    let policy = RetryPolicy {
        max_retries: retry
            .get("max_retries")
            .and_then(|node| whole(node, RetryPolicy::MOST_RETRIES))
            .unwrap_or(usual.max_retries),
        backoff: word(&retry, "backoff", &Backoff::WORDS, Backoff::parse).unwrap_or(usual.backoff),
        initial_delay,
        max_delay,
    };
    retry.finish();
    policy
}

/// Zero is a number of seconds and of retries, too.
fn whole(node: Node<'_>, most: u32) -> Option<u32> {
    match node.json().as_u64() {
        Some(0) => Some(0),
        _ => node.count(most),
    }
}

pub(crate) fn anomaly_rule(table: &Table<'_>, thresholds: &Thresholds) -> AnomalyRule {
    let default = AnomalyRule {
        k: DEFAULT_K,
        min_sample: DEFAULT_MIN_SAMPLE,
        cold_start_threshold: None,
        hour_sum: None,
        day_sum: None,
        hour_count: None,
        first_seen: FirstSeen::Allow,
    };
    let Some(anomaly) = table.get("anomaly").and_then(|node| node.table()) else { return default };
    let amount = |key| anomaly.get(key).and_then(|node| thresholds.read(node));
    let rule = AnomalyRule {
        k: anomaly.get("k").and_then(|node| node.count(1000)).unwrap_or(default.k),
        min_sample: anomaly.get("min_sample").and_then(|node| node.count(64)).unwrap_or(default.min_sample),
        cold_start_threshold: amount("cold_start_threshold"),
        hour_sum: amount("hour_sum"),
        day_sum: amount("day_sum"),
        hour_count: anomaly.get("hour_count").and_then(|node| node.count(1_000_000)),
        first_seen: first_seen(&anomaly, thresholds, table.peek("destination").is_some()),
    };
    anomaly.finish();
    rule
}

fn first_seen(anomaly: &Table<'_>, thresholds: &Thresholds, has_destination: bool) -> FirstSeen {
    let read = |text: &str| match text {
        "allow" => Some(FirstSeen::Allow),
        "escalate" => Some(FirstSeen::Escalate),
        _ => None,
    };
    let rule = word(anomaly, "first_seen", &["allow", "escalate"], read);
    let above = anomaly.get("first_seen_above");
    for key in ["first_seen", "first_seen_above"] {
        if !has_destination && anomaly.peek(key).is_some() {
            anomaly.key_mistake(key, "no destination could be seen", "declare `destination = \"/…\"`");
        }
    }
    match (rule, above) {
        (Some(_), Some(node)) => {
            node.mistake_with_hint("both `first_seen` and `first_seen_above`", "keep one of them");
            FirstSeen::Escalate
        }
        (Some(rule), None) => rule,
        (None, Some(node)) => thresholds.read(node).map_or(FirstSeen::Escalate, FirstSeen::EscalateAbove),
        (None, None) => FirstSeen::Allow,
    }
}
