//! A report for people to read and to file.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::facts::{Action, Chain, Report};
use crate::out;

/// The whole report.
pub(super) fn of(report: &Report) -> String {
    let mut page = format!(
        "# Report on {}\n\nActions of which something is on record from {} until before {}, as they stand now.\n",
        plain(&report.regulation),
        code(&report.from),
        code(&report.to),
    );
    chain(&mut page, &report.chain);
    totals(&mut page, report);
    oversight(&mut page, report);
    exceptions(&mut page, report);
    retention(&mut page, report);
    references(&mut page, report);
    actions(&mut page, &report.actions);
    page
}

pub(super) fn chain(page: &mut String, chain: &Chain) {
    let Chain { entries, receipts, approvals, findings, .. } = chain;
    let _ = write!(
        page,
        "\n## The record\n\n{entries} ledger entries, {receipts} receipts and {approvals} approvals were checked: "
    );
    match chain.whole {
        true => page.push_str("all there, and as they were written.\n"),
        false => {
            let _ = writeln!(page, "**{} wrong.**\n", findings.len());
            for finding in findings {
                let what = finding["what"].as_str().unwrap_or_default();
                let _ = writeln!(page, "- ledger entry {}: {}", finding["entry"], plain(what));
            }
        }
    }
    if let Some(head) = &chain.head {
        let _ = writeln!(page, "\nThe last entry is {}.", code(head));
    }
}

fn totals(page: &mut String, report: &Report) {
    let totals = &report.totals;
    let _ = write!(page, "\n## In figures\n\n{} actions.\n", totals.actions);
    for (name, counts) in [
        ("state", &totals.by_state),
        ("guarantee level", &totals.by_guarantee_level),
        ("archetype", &totals.by_archetype),
        ("agent", &totals.by_agent),
        ("error", &totals.by_error),
    ] {
        count_table(page, [name, "actions"], counts);
    }
}

pub(super) fn count_table(page: &mut String, [name, unit]: [&str; 2], counts: &BTreeMap<String, u64>) {
    if counts.is_empty() {
        return;
    }
    let _ = write!(page, "\n| {name} | {unit} |\n|---|---:|\n");
    for (value, count) in counts {
        let _ = writeln!(page, "| {} | {count} |", plain(value));
    }
}

fn oversight(page: &mut String, report: &Report) {
    page.push_str("\n## People\n\n");
    if report.oversight.is_empty() {
        page.push_str("Nobody was asked, or what they said is erased.\n");
        return;
    }
    page.push_str("| person | agreed | said no |\n|---|---:|---:|\n");
    for (person, said) in &report.oversight {
        let _ = writeln!(page, "| {} | {} | {} |", plain(person), said.approved, said.rejected);
    }
}

fn exceptions(page: &mut String, report: &Report) {
    page.push_str("\n## What did not simply go well\n\n");
    let exceptions = &report.exceptions;
    for (name, ids) in [
        ("Failed, or refused", &exceptions.failed),
        ("Undone", &exceptions.rolled_back),
        ("Could not be undone", &exceptions.rollback_failed),
        ("Reserved, and could not be set free", &exceptions.release_failed),
        ("Done, and nobody tells whether all is as it should be", &exceptions.unchecked),
        ("Not known what became of them", &exceptions.in_doubt),
        ("Being sent", &exceptions.sent),
        ("No effect so far, wait for another attempt", &exceptions.waiting),
        ("Done, and still looked after", &exceptions.checking),
    ] {
        let shown: Vec<String> = ids.iter().map(|id| code(id)).collect();
        let list = if shown.is_empty() { String::new() } else { format!(": {}", shown.join(", ")) };
        let _ = writeln!(page, "- {name}: {}{list}", ids.len());
    }
}

fn retention(page: &mut String, report: &Report) {
    let retention = &report.retention;
    let _ = write!(
        page,
        "\n## Kept and erased\n\n- Have to be kept: {}\n- Are to be erased by themselves: {}\n- Erased: {}\n",
        retention.retained, retention.to_be_erased, retention.erased,
    );
    for action in report.actions.iter().filter(|action| action.erased_at.is_some()) {
        let by = action.erased_by.as_deref().map_or_else(|| "its deletion policy".to_owned(), plain);
        let at = action.erased_at.as_deref().unwrap_or_default();
        let _ = writeln!(page, "  - {} at {} by {by}", code(&action.action_id), code(at));
    }
}

fn references(page: &mut String, report: &Report) {
    if report.references.is_empty() {
        return;
    }
    page.push_str("\n## References\n\n| | | actions |\n|---|---|---:|\n");
    for (name, values) in &report.references {
        for (value, count) in values {
            let _ = writeln!(page, "| {} | {} | {count} |", code(name), plain(value));
        }
    }
}

fn actions(page: &mut String, actions: &[Action]) {
    page.push_str(
        "\n## Actions\n\n| action | came in | agent | what | level | state | agreed | receipts | kept until | erased |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for action in actions {
        let what = match &action.target {
            Some(target) => format!("{} {}", plain(&action.verb), plain(target)),
            None => plain(&action.verb),
        };
        let state = match &action.error {
            Some(error) => format!("{} {}", plain(&action.state), code(error)),
            None => plain(&action.state),
        };
        let agreed: Vec<String> = action.approved_by.iter().map(|person| plain(person)).collect();
        let receipts: Vec<String> = action.receipt_ids.iter().map(|id| code(id)).collect();
        let time = |time: &Option<String>| time.as_deref().map(code).unwrap_or_default();
        let cells = [
            code(&action.action_id),
            code(&action.created_at),
            plain(&action.agent_id),
            what,
            plain(&action.guarantee_level),
            state,
            agreed.join(", "),
            receipts.join(", "),
            time(&action.retained_until),
            time(&action.erased_at),
        ];
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// Text of strangers as Markdown that says the same and does nothing: no link, no markup, no cell of its own.
pub(super) fn plain(text: &str) -> String {
    let text = out::shown(text);
    let mut out = String::with_capacity(text.len() + 8);
    for (at, c) in text.char_indices() {
        let within_word = text[..at].ends_with(char::is_alphanumeric)
            && text[at + c.len_utf8()..].starts_with(char::is_alphanumeric);
        if c.is_ascii_punctuation() && !matches!(c, '-' | ',' | ';') && !(c == '_' && within_word) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// An id or word of ours, to the letter. Whatever is neither is plain text.
pub(super) fn code(id: &str) -> String {
    let ours = |b: u8| b.is_ascii_alphanumeric() || b"-_:.".contains(&b);
    if !id.is_empty() && id.bytes().all(ours) { format!("`{id}`") } else { plain(id) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::Checked;

    fn record(id: &str, state: &str, more: serde_json::Value) -> serde_json::Value {
        let mut record = json!({
            "action_id": id, "created_at": "2026-05-01T10:00:00.000Z", "agent_id": "agent-1",
            "archetype": "PAYMENT_TRANSFER", "guarantee_level": "atp-2",
            "action": {"verb": "PAYMENT_TRANSFER", "target": null, "parameters": {"amount": "1.00"}},
            "result": {"state": state, "completed_at": "2026-05-01T10:00:01.000Z", "error": null},
            "approvals": [], "receipts": [{"receipt_id": format!("receipt-of-{id}")}],
            "rollback": null, "retention": null, "erased_at": null, "erased_by": null,
            "phase": null,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            record[name] = value.clone();
        }
        record
    }

    fn report(chain: &Checked) -> Report {
        let approvals = json!([
            {"approver": "anna", "decision": "approve", "comment": "fine"},
            {"approver": "bert", "decision": "reject", "comment": null},
        ]);
        let evil = json!({"verb": "deploy", "target": "x | ](https://evil.example) <b>\n# `all good`"});
        let records = [
            // In no order: the report puts them in one.
            record("a-5", "EXECUTING", json!({"phase": "in_doubt"})),
            // All six are told the same.
            record("a-7", "EXECUTING", json!({"phase": "waiting"})),
            record("a-8", "EXECUTING", json!({"phase": "checking"})),
            record("a-9", "EXECUTING", json!({"phase": "sent"})),
            record("a-11", "EXECUTING", json!({"phase": "unchecked"})),
            record("a-10", "EXECUTING", json!({"phase": "release_failed"})),
            record(
                "a-1",
                "COMPLETED",
                json!({
                    "approvals": approvals, "compliance": {"dpia_ref": "DPIA-2026-001", "smr_accountable": "a@b.example"},
                    "retention": {
                        "retention_policy": "7_years", "deletion_policy": "hard_delete_30_days",
                        "retained_until": "2033-05-06T10:00:01.000Z", "deletion_due": "2033-05-06T10:00:01.000Z",
                    },
                }),
            ),
            record(
                "a-2",
                "FAILED",
                json!({
                    "action": evil, "result": {"state": "FAILED", "error": {"code": "EP_PROVIDER_FAILED"}},
                }),
            ),
            record(
                "a-3",
                "COMPLETED",
                json!({
                    "erased_at": "2026-05-02T00:00:00.000Z", "erased_by": "admin-1", "action": {"verb": "PAYMENT_TRANSFER"},
                }),
            ),
            record("a-4", "ROLLING_BACK", json!({"phase": "rollback_failed"})),
            record("a-6", "ROLLED_BACK", json!({"erased_at": "2026-05-03T00:00:00.000Z"})),
        ];
        Report::of(["GDPR-Art-17", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z"], &records, chain)
    }

    fn whole() -> Checked {
        Checked { entries: 20, receipts: 6, approvals: 2, head: json!("sha256:00ff"), findings: Vec::new() }
    }

    #[test]
    fn a_report_reads_as_it_always_did() {
        insta::assert_snapshot!("report.md", of(&report(&whole())));
        let json = serde_json::to_string_pretty(&report(&whole())).unwrap_or_default();
        insta::assert_snapshot!("report.json", json);
    }

    #[test]
    fn what_is_wrong_with_the_chain_is_said_first() {
        let findings = vec![json!({"entry": 7, "what": "the receipt it names is missing"})];
        let page = of(&report(&Checked { findings, ..whole() }));
        assert!(
            page.contains("**1 wrong.**\n\n- ledger entry 7: the receipt it names is missing\n"),
            "{page}"
        );
    }

    #[test]
    fn no_text_of_an_agent_becomes_markup() {
        let evil = "a|b [x](https://evil.example) <script> `c` _d_ www.evil.example\n# e";
        let shown = plain(evil);
        let unescaped = |at: usize| !shown[..at].ends_with('\\');
        for mark in ['|', '[', ']', '(', '<', '`', '_', ':', '.', '#'] {
            let all = shown.match_indices(mark);
            assert!(
                all.clone().count() > 0 && all.into_iter().all(|(at, _)| !unescaped(at)),
                "{mark}: {shown}"
            );
        }
        assert!(!shown.contains('\n'));
        assert_eq!(code("a`b"), "a\\`b");
    }
}
