//! The page of one receipt: what happened, entry by entry, and whether it verifies, found out in the browser.

use std::fmt::Write;
use std::sync::LazyLock;

use action::Environment;
use gateway::{Code, Error, PublicReceipt, ReceiptView};
use receipt::{Document, Entry, Kind, MoneyFields, PaymentStatus, Stage};

use super::html::{self, Text};
use crate::reply;
use crate::request::Response;

/// Writes the page.
///
/// # Errors
/// `EP_UNAVAILABLE` if what was stored is no receipt.
pub(crate) fn respond(receipt: &PublicReceipt, issuer: &str) -> Result<Response, Error> {
    let page = write(receipt, issuer);
    let page = page.ok_or_else(|| {
        tracing::error!("a stored receipt cannot be read");
        Error::new(Code::Unavailable, "the receipt cannot be shown")
    })?;
    Ok(reply::page(page, &POLICY))
}

/// The page as HTML; nothing if the document is no receipt.
fn write(found: &PublicReceipt, issuer: &str) -> Option<String> {
    let text = std::str::from_utf8(&found.document).ok()?;
    let receipt = Document::parse(text).ok()?;
    let mut body = String::with_capacity(16 * 1024);
    outcome(&mut body, &receipt);
    amendments(&mut body, &found.amendments);
    erasure(&mut body, found.erased_at.as_deref());
    body.push_str(VERDICT);
    facts(&mut body, &receipt);
    entries(&mut body, &receipt.entries);
    workbench(&mut body, text, &receipt);
    let jwks = found.jwks.replace('<', "\\u003c");
    let _ = writeln!(body, "<script type=\"application/json\" id=\"jwks\">{jwks}</script>");
    let keys = match found.environment {
        Environment::Production => "../.well-known/jwks.json",
        Environment::Sandbox => "../sandbox/.well-known/jwks.json",
    };
    let log = found.log.as_ref().map(|log| format!(" data-log=\"{}\"", Text(log))).unwrap_or_default();
    let attributes = format!(" data-issuer=\"{}\" data-keys=\"{keys}\"{log}", Text(issuer));
    Some(html::page(&title(&receipt), &attributes, &body, &SCRIPT))
}

fn title(receipt: &Document<'_>) -> String {
    let archetype = receipt.content.metadata.archetype.as_deref().unwrap_or("Action");
    format!("{}: {archetype} · receipt", headline(receipt.content.metadata.kind))
}

fn outcome(body: &mut String, receipt: &Document<'_>) {
    let content = &receipt.content;
    let metadata = &content.metadata;
    let archetype = metadata.archetype.as_deref().unwrap_or("an action without a known archetype");
    let environment = match metadata.environment {
        receipt::Environment::Production => "",
        receipt::Environment::Sandbox => " · <b>sandbox</b>",
    };
    let _ = write!(
        body,
        "<header class=\"mast\"><span><b>Countersign</b> receipt{environment}</span><span class=\"mono\">{}</span></header>\n\
         <main>\n<p class=\"eyebrow\">{} · asked for by {}</p>\n<h1>{}</h1>\n\
         <p class=\"lead\"><time datetime=\"{created}\">{}</time>{}</p>\n<p class=\"soft\">{}</p>\n",
        Text(&receipt.short()),
        Text(archetype),
        Text(&content.agent_id),
        headline(metadata.kind),
        readable(receipt.created.as_str()),
        amount(content.payment_status, &content.money),
        said(receipt),
        created = receipt.created,
    );
}

/// What was said about the action later.
fn amendments(body: &mut String, later: &[ReceiptView]) {
    for view in later {
        let _ = writeln!(
            body,
            "<p><b>Later word:</b> <a href=\"{}\">{}</a>, {}</p>",
            Text(&view.receipt.short),
            Text(&view.event_type),
            readable(&view.created),
        );
    }
}

/// The receipt is as good as before, and nobody can say any more what its commitments stand for.
fn erasure(body: &mut String, at: Option<&str>) {
    if let Some(at) = at {
        let _ = writeln!(
            body,
            "<p><b>Erased:</b> the values behind this receipt's commitments were deleted, {}. The receipt still verifies.</p>",
            readable(at),
        );
    }
}

fn headline(kind: Kind) -> &'static str {
    match kind {
        Kind::Executed => "Executed",
        Kind::Blocked => "Blocked",
        Kind::Failed => "Failed",
        Kind::PendingSettlement => "Outcome pending",
    }
}

fn said(receipt: &Document<'_>) -> &'static str {
    let amended = receipt.content.event.amendment_of().is_some();
    match receipt.content.metadata.kind {
        _ if receipt.is_resolved_by_person() => {
            "A person said what became of the action, because the provider did not. The entry “execute” commits to who."
        }
        _ if amended => "This receipt adds to an earlier one of the same transaction.",
        Kind::Executed => "The action was carried out, and the provider confirmed it.",
        Kind::Blocked => "The action was refused. Nothing was sent.",
        Kind::Failed if receipt.is_only_said() => {
            "The action was permitted and sent. The tool says that it failed; nobody has looked whether it had an effect."
        }
        Kind::Failed => "The action was permitted and had no effect.",
        Kind::PendingSettlement => "The action was sent; its fate was not known when this receipt was made.",
    }
}

fn amount(status: PaymentStatus, money: &MoneyFields<'_>) -> String {
    let charged = money.charge_amount.as_deref().zip(money.charge_currency.as_deref());
    let offered = money.offer_amount.as_deref().zip(money.offer_currency.as_deref());
    let Some((amount, currency)) = charged.or(offered) else { return String::new() };
    let what = match status {
        PaymentStatus::Charged => "charged",
        PaymentStatus::NotCharged => "not charged",
        PaymentStatus::Pending => "not known to be charged",
    };
    format!(" · <span class=\"amount\">{} {}</span> {what}", Text(amount), Text(currency))
}

/// `2026-04-27T12:00:00.000Z` as people write it.
pub(super) fn readable(time: &str) -> String {
    let (day, rest) = time.split_once('T').unwrap_or((time, ""));
    let clock = rest.split('.').next().unwrap_or_default();
    format!("{} at {} UTC", Text(day), Text(clock))
}

fn facts(body: &mut String, receipt: &Document<'_>) {
    let content = &receipt.content;
    let metadata = &content.metadata;
    body.push_str("<h2>What the receipt says</h2>\n<dl class=\"card\">\n");
    let rows = [
        ("Transaction", Some(&*content.transaction_id)),
        ("Receipt", Some(&*content.receipt_id)),
        ("Event", Some(content.event.as_str())),
        ("Amends", content.event.amendment_of()),
        ("Agent", Some(&*content.agent_id)),
        ("Session", content.session_id.as_deref()),
        ("Mandate", metadata.mandate_id.as_deref()),
        ("Guarantee", metadata.guarantee_level.as_deref()),
        ("Would have been", metadata.observed.as_ref().map(|observed| &*observed.would_be)),
        ("Idempotency key", content.idempotency_key.as_deref()),
        ("Issuer", Some(&*metadata.issuer)),
        ("Tenant", Some(&*metadata.tenant)),
        ("Policies", metadata.policy_digest.as_deref()),
        ("Catalogue", metadata.catalog_digest.as_deref()),
        ("Signing key", Some(&*receipt.kid)),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            let _ = writeln!(body, "<dt>{name}</dt><dd class=\"mono\">{}</dd>", Text(value));
        }
    }
    body.push_str("</dl>\n");
}

fn entries(body: &mut String, entries: &[Entry<'_>]) {
    body.push_str(
        "<h2>Entry by entry</h2>\n<div class=\"card scroll\"><table>\n<thead><tr><th>#</th><th>Stage</th><th>Result</th>\
         <th class=\"wide\">Ended</th><th class=\"wide\">Took</th><th class=\"wide\">Hash</th></tr></thead>\n<tbody>\n",
    );
    for (index, entry) in entries.iter().enumerate() {
        let clock = entry.at.as_str().get(11..23).unwrap_or_default();
        let _ = writeln!(
            body,
            "<tr data-entry=\"{index}\"><td class=\"number\">{index}</td><td><b>{}</b></td><td>{}</td>\
             <td class=\"number wide\">{clock}</td><td class=\"number wide\">{} ms</td>\
             <td class=\"mono wide\" title=\"{}\">{}…</td></tr>\n\
             <tr class=\"content\"><td></td><td colspan=\"5\"><details><summary>{}</summary><pre>{}</pre></details></td></tr>",
            entry.stage,
            result(entry.error),
            entry.latency_ms,
            Text(entry.hash),
            Text(entry.hash.get(..12).unwrap_or(entry.hash)),
            meaning(entry.stage),
            Text(&indented(entry.text)),
        );
    }
    body.push_str("</tbody></table></div>\n");
}

/// How a stage ended; `error` is JSON, and usually says a reason.
fn result(error: &str) -> String {
    if error == "null" {
        return "passed".to_owned();
    }
    let error: serde_json::Value = serde_json::from_str(error).unwrap_or_default();
    let reason =
        error["reason"].as_str().map_or("refused or failed".to_owned(), |reason| reason.replace('_', " "));
    format!("<span class=\"no\">{}</span>", Text(&reason))
}

fn meaning(stage: Stage) -> &'static str {
    match stage {
        Stage::Genesis => "the chain begins",
        Stage::TokenValidation => "who asks, under which mandate",
        Stage::Schema => "is it well formed?",
        Stage::Boundary => "is it allowed?",
        Stage::Completeness => "is everything there?",
        Stage::Math => "is it usual?",
        Stage::Execute => "sent to the provider",
        Stage::CommitAuthSplit => "what was authorised, what was charged",
        Stage::Receipt => "the chain ends and is signed",
    }
}

fn indented(json: &str) -> String {
    let value: Option<serde_json::Value> = serde_json::from_str(json).ok();
    value.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| json.to_owned())
}

fn workbench(body: &mut String, text: &str, receipt: &Document<'_>) {
    let _ = write!(
        body,
        "<section id=\"workbench\" hidden>\n<h2>Verify this receipt or another</h2>\n<div class=\"card\">\n\
         <p>This is the whole document. Change a byte and check again, or paste or drop another receipt of this \
         issuer. Nothing you put here leaves your browser.</p>\n\
         <label class=\"soft\" for=\"document\">Receipt or proof bundle, JSON</label>\n\
         <textarea id=\"document\" spellcheck=\"false\" autocomplete=\"off\">{}</textarea>\n\
         <div class=\"tools\"><button class=\"main\" id=\"check\" type=\"button\">Verify</button>\
         <button id=\"reset\" type=\"button\">Put back the original</button>\
         <label>or a file <input id=\"file\" type=\"file\" accept=\".json,application/json\"></label></div>\n\
         </div>\n</section>\n</main>\n<footer>\n<p id=\"source\"></p>\n\
         <p>This page comes from the gateway that signed the receipt. Without trusting it, verify the document offline, \
         against a pin that reached you by another way: <code>countersign verify ./{}.json --issuer PIN</code></p>\n\
         </footer>\n",
        Text(text),
        Text(&receipt.short()),
    );
}

const VERDICT: &str = "<section id=\"verdict\" class=\"verdict\" role=\"status\" aria-live=\"polite\" data-verdict=\"pending\">\n\
    <strong id=\"headline\">Not verified</strong>\n\
    <span id=\"sentence\">Your browser has not checked this receipt: that needs JavaScript.</span>\n\
    <details><summary>Every check</summary><ol id=\"checks\"></ol></details>\n</section>\n";

static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    format!("{}\n{}", include_str!("../../../../verify/countersign.mjs"), include_str!("receipt.js"))
});

static POLICY: LazyLock<String> = LazyLock::new(|| html::policy(Some(&SCRIPT)));
