//! What `verify` says, to a person or to a program.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use receipt::{Check, Facts, Outcome, Place, Report, Verdict};
use serde_json::{Value, json};

use super::Tally;
use crate::error::Result;
use crate::out::{self, Paint, shown};

/// A line that did not verify.
pub(crate) struct Finding<'a> {
    pub(crate) source: &'a str,
    pub(crate) line: u64,
    pub(crate) report: &'a Report,
}

/// Tells reports as they come, or keeps them for one JSON object at the end.
pub(crate) struct Teller {
    paint: Paint,
    /// The reports told, when they go into one object.
    kept: Option<Vec<Value>>,
}

impl Teller {
    pub(crate) fn new(json: bool) -> Teller {
        Teller { paint: Paint::stdout(), kept: json.then(Vec::new) }
    }

    /// A document with all its checks.
    pub(crate) fn report(&mut self, source: &str, report: &Report) -> Result<()> {
        if let Some(kept) = &mut self.kept {
            kept.push(as_json(source, None, report));
            return Ok(());
        }
        let paint = self.paint;
        out::line(paint.bold(shown(source)))?;
        if let Some(facts) = &report.facts {
            out::line(paint.dim(format_args!("  {}", summary(facts))))?;
        }
        for check in &report.checks {
            out::line(check_line(paint, check))?;
        }
        out::line(format_args!("  {}\n", self.verdict(&report.verdict)))
    }

    /// One line of a long file, and what is wrong with it. A JSON object lists the first thousand.
    pub(crate) fn finding(&mut self, finding: &Finding<'_>) -> Result<()> {
        let Finding { source, line, report } = finding;
        if let Some(kept) = &mut self.kept {
            if kept.len() < MOST_LISTED {
                kept.push(as_json(source, Some(*line), report));
            }
            return Ok(());
        }
        out::line(format_args!("{}:{line}: {}", shown(source), self.verdict(&report.verdict)))
    }

    /// The sum of it.
    pub(crate) fn end(self, tally: &Tally) -> Result<()> {
        let Tally { valid, invalid, quarantined, time_unproven, unproven_approvals } = tally;
        if let Some(kept) = self.kept {
            return out::json(&json!({
                "ok": valid == &tally.total() && tally.total() > 0,
                "valid": valid,
                "invalid": invalid,
                "quarantined": quarantined,
                "time_unproven": time_unproven,
                "unproven_approvals": unproven_approvals,
                "receipts": kept,
            }));
        }
        let total = tally.total();
        if total == 0 {
            return Ok(());
        }
        let rest = [(invalid, "invalid"), (quarantined, "quarantined"), (time_unproven, "time unproven")];
        let rest =
            rest.iter().filter(|(count, _)| **count > 0).map(|(count, name)| format!(", {count} {name}"));
        let text = format!(
            "{total} {}: {valid} valid{}",
            if total == 1 { "receipt" } else { "receipts" },
            rest.collect::<String>()
        );
        out::line(if *valid == total { self.paint.good(text) } else { self.paint.bad(text) })?;
        // Among many receipts only those are shown that do not verify, so this must not be left to the checks.
        match unproven_approvals {
            0 => Ok(()),
            1 => out::line("1 approval is stated and not proven: pin the people with --approvers"),
            many => out::line(format_args!(
                "{many} approvals are stated and not proven: pin the people with --approvers"
            )),
        }
    }

    fn verdict(&self, verdict: &Verdict) -> String {
        let text = shown(&verdict.to_string());
        if *verdict == Verdict::Valid { self.paint.good(text) } else { self.paint.bad(text) }
    }
}

/// A bar on stderr where someone looks and the file is long enough to wait for.
pub(crate) fn progress(length: Option<u64>) -> ProgressBar {
    let worth_it = length.is_some_and(|length| length > WORTH_A_BAR) && io::stderr().is_terminal();
    let bar = match length {
        Some(length) if worth_it => {
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10))
        }
        _ => ProgressBar::hidden(),
    };
    let style =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn summary(facts: &Facts) -> String {
    let Facts { receipt_id, transaction_id, issuer, kind, event_type, payment_status, created, .. } = facts;
    let person = if facts.resolved_by_person { " · said by a person, not by the provider" } else { "" };
    let kind = kind.as_str();
    let text = format!(
        "{event_type} · {kind}, {payment_status}{person} · {created} · {issuer}\n  receipt {receipt_id} · transaction {transaction_id}"
    );
    out::shown_lines(&text)
}

fn check_line(paint: Paint, check: &Check) -> String {
    let detail = shown(&check.detail);
    let name = format!("{:11}", check.name.as_str());
    match check.outcome {
        Outcome::Passed => format!("  {} {name}  {detail}", paint.good("✓")),
        Outcome::Failed => format!("  {} {name}  {}", paint.bad("✗"), paint.bad(detail)),
        Outcome::Skipped => paint.dim(format_args!("  – {name}  {detail}")),
    }
}

fn as_json(source: &str, line: Option<u64>, report: &Report) -> Value {
    let failure = match &report.verdict {
        Verdict::Invalid(failure) => {
            let (entry, stage, member) = match &failure.place {
                Place::Document => (None, None, None),
                Place::Member(name) => (None, None, Some(name.as_str())),
                Place::Entry { index, stage } => (Some(*index), stage.map(|stage| stage.as_str()), None),
            };
            json!({"entry": entry, "stage": stage, "member": member, "why": failure.why})
        }
        _ => Value::Null,
    };
    let outcome = |outcome| match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::Skipped => "skipped",
    };
    let checks = report.checks.iter().map(|check| {
        json!({"name": check.name.as_str(), "outcome": outcome(check.outcome), "detail": check.detail})
    });
    let facts = report.facts.as_ref().map(|facts| {
        json!({
            "receipt_id": facts.receipt_id,
            "transaction_id": facts.transaction_id,
            "issuer": facts.issuer,
            "environment": facts.environment.as_str(),
            "kind": facts.kind.as_str(),
            "event_type": facts.event_type,
            "payment_status": facts.payment_status,
            "created": facts.created.as_str(),
            "kid": facts.kid,
            "entries": facts.entries,
            "resolved_by_person": facts.resolved_by_person,
        })
    });
    json!({
        "path": source,
        "line": line,
        "verdict": report.verdict.as_str(),
        "why": report.verdict.to_string(),
        "failure": failure,
        "facts": facts,
        "checks": checks.collect::<Vec<_>>(),
    })
}

const MOST_LISTED: usize = 1000;
const WORTH_A_BAR: u64 = 4 << 20;
