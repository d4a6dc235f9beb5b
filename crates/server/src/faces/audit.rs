//! The audit trail (ATP, section 7), as JSON, JSON Lines, CSV or PROV-JSON, and the proof that it is whole.
//!
//! Newest entry first, unless the oldest is asked for. A page is found by its cursor, which is a place in the chain: what
//! is written meanwhile moves nothing. JSON Lines and CSV without a `limit` are everything that follows, made page by
//! page as it is taken.

use std::sync::Arc;

use action::Subject;
use action::time::unix_millis;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use gateway::{AuditAsk, AuditView, Caller, Code, Error, Gateway, TrailCheck, TrailFinding};
use http::header::{ACCEPT, CONTENT_DISPOSITION, HeaderValue, LINK, VARY};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::provenance;
use crate::openapi::{Answer, Schema};
use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// One page of the trail, or all that follows.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [
        agent_id,
        session_id,
        time_from,
        time_to,
        verb,
        archetype,
        regulation_ref,
        guarantee_level,
        result_state,
        target,
        action_id,
        fleet_id,
        audit_trail_id,
        data_classification,
        dpia_ref,
        clinical_safety_ref,
        gds_assessment_ref,
        smr_accountable,
        human_approver,
        order,
        format,
        cursor,
        limit,
    ] = request.query([
        "agent_id",
        "session_id",
        "time_from",
        "time_to",
        "verb",
        "archetype",
        "regulation_ref",
        "guarantee_level",
        "result_state",
        "target",
        "action_id",
        "fleet_id",
        "audit_trail_id",
        "data_classification",
        "dpia_ref",
        "clinical_safety_ref",
        "gds_assessment_ref",
        "smr_accountable",
        "human_approver",
        "order",
        "format",
        "cursor",
        "limit",
    ])?;
    let references = [
        ("action_id", action_id),
        ("fleet_id", fleet_id),
        ("audit_trail_id", audit_trail_id),
        ("data_classification", data_classification),
        ("dpia_ref", dpia_ref),
        ("clinical_safety_ref", clinical_safety_ref),
        ("gds_assessment_ref", gds_assessment_ref),
    ];
    let references = references.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let references = references.map(|(name, value)| Ok((name, plain(name, value)?)));
    let form = Form::chosen(format.as_deref(), &request.head.headers)?;
    let (from_ms, to_ms) = span(time_from.as_deref(), time_to.as_deref())?;
    let ask = AuditAsk {
        agent_id: agent_id.map(|text| subject(&text)).transpose()?,
        session_id: session_id.map(|text| plain("session_id", text)).transpose()?,
        from_ms,
        to_ms,
        verb: verb.map(|text| plain("verb", text)).transpose()?,
        archetype: archetype.map(|text| plain("archetype", text)).transpose()?,
        regulation_ref: regulation_ref.map(|text| plain("regulation_ref", text)).transpose()?,
        guarantee_level: guarantee_level.map(|text| one_of("guarantee_level", text, &LEVELS)).transpose()?,
        result_state: result_state.map(|text| one_of("result_state", text, &STATES)).transpose()?,
        target: target.map(|text| plain("target", text)).transpose()?,
        references: references.collect::<Result<_, Error>>()?,
        smr_accountable: smr_accountable.map(|text| plain("smr_accountable", text)).transpose()?,
        human_approver: human_approver.map(|text| plain("human_approver", text)).transpose()?,
        oldest_first: order.map(|text| one_of("order", text, &ORDERS)).transpose()?.as_deref()
            == Some(ORDERS[1]),
        cursor,
        limit: reply::rows(limit.as_deref())?,
    };
    let mut response = match limit {
        None if form.streams() => everything(gateway, caller, ask, form).await?,
        _ => page(&request, &gateway, &caller, &ask, form).await?,
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Checks a stretch of the ledger's chain, with the rows and receipts that belong to it.
pub(crate) async fn verify(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [cursor] = request.query(["cursor"])?;
    let check = gateway.check_trail(&caller, cursor.as_deref()).await?;
    Ok(reply::json(StatusCode::OK, &Check::of(&check)))
}

async fn page(
    request: &Request,
    gateway: &Gateway,
    caller: &Caller,
    ask: &AuditAsk,
    form: Form,
) -> Result<Response, Error> {
    let page = gateway.audit(caller, ask).await?;
    let body = match form {
        Form::Json => {
            let entries = page.items.iter().map(Entry::of).collect();
            let mut response =
                reply::json(StatusCode::OK, &Page { entries, next_cursor: page.next.as_deref() });
            link(request, page.next.as_deref(), response.headers_mut());
            return Ok(response);
        }
        Form::Lines => lines(&page.items),
        Form::Csv => [HEAD.as_bytes(), &rows(&page.items)].concat(),
        Form::Prov => provenance::document(&page.items),
    };
    let mut response = reply::bytes_of(StatusCode::OK, form.content_type(), body);
    link(request, page.next.as_deref(), response.headers_mut());
    form.name_file(response.headers_mut());
    Ok(response)
}

/// Everything that follows. The first page is read before anything is said, so that what is wrong is said as usual.
async fn everything(
    gateway: Arc<Gateway>,
    caller: Caller,
    mut ask: AuditAsk,
    form: Form,
) -> Result<Response, Error> {
    let place = PLACES.try_acquire();
    let place = place.map_err(|_| {
        Error::new(Code::Unavailable, "too many trails are being read at once").retry_after(5)
    })?;
    ask.limit = PAGE;
    let first = gateway.audit(&caller, &ask).await?;
    let head = if form == Form::Csv { Bytes::from_static(HEAD.as_bytes()) } else { Bytes::new() };
    let rest = Rest { gateway, caller, ask, form, next: first.next, _place: place };
    let parts: BoxStream<'static, std::io::Result<Bytes>> =
        stream::iter([Ok(head), Ok(form.part(&first.items))]).chain(stream::unfold(rest, Rest::step)).boxed();
    let mut response = reply::parts(form.content_type(), parts);
    form.name_file(response.headers_mut());
    Ok(response)
}

/// What is still to be read of a trail.
struct Rest {
    gateway: Arc<Gateway>,
    caller: Caller,
    ask: AuditAsk,
    form: Form,
    next: Option<String>,
    _place: tokio::sync::SemaphorePermit<'static>,
}

impl Rest {
    /// The next page. What cannot be read breaks the answer off, so that nobody takes a part for the whole.
    async fn step(mut self) -> Option<(std::io::Result<Bytes>, Rest)> {
        self.ask.cursor = Some(self.next.take()?);
        // Reading waits for nobody, so without this a quick reader of a long trail would keep all others waiting.
        tokio::task::yield_now().await;
        match self.gateway.audit(&self.caller, &self.ask).await {
            Ok(page) => {
                self.next = page.next;
                Some((Ok(self.form.part(&page.items)), self))
            }
            Err(error) => Some((Err(std::io::Error::other(error.to_string())), self)),
        }
    }
}

/// The forms a trail is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
    Csv,
    Prov,
}

impl Form {
    const ALL: [Form; 4] = [Form::Json, Form::Lines, Form::Csv, Form::Prov];

    /// By `format`, else by the first type of `Accept` that is one of ours, else JSON.
    fn chosen(format: Option<&str>, headers: &HeaderMap) -> Result<Form, Error> {
        if let Some(name) = format {
            let found = Form::ALL.into_iter().find(|form| form.name() == name);
            return found.ok_or_else(|| wrong("format", "is none of json, jsonl, csv and prov"));
        }
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let asked = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
        let known = |essence: &str| Form::ALL.into_iter().find(|form| form.is(essence));
        Ok(asked.filter_map(known).next().unwrap_or(Form::Json))
    }

    fn name(self) -> &'static str {
        match self {
            Form::Json => "json",
            Form::Lines => "jsonl",
            Form::Csv => "csv",
            Form::Prov => "prov",
        }
    }

    fn is(self, essence: &str) -> bool {
        let names: &[&str] = match self {
            Form::Json => &["application/json"],
            Form::Lines => &["application/jsonl", "application/x-ndjson"],
            Form::Csv => &["text/csv"],
            Form::Prov => &["application/prov+json"],
        };
        names.iter().any(|name| essence.eq_ignore_ascii_case(name))
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Lines => "application/jsonl",
            Form::Csv => "text/csv; charset=utf-8; header=present",
            Form::Prov => "application/prov+json",
        }
    }

    fn streams(self) -> bool {
        matches!(self, Form::Lines | Form::Csv)
    }

    fn part(self, entries: &[AuditView]) -> Bytes {
        if self == Form::Csv { rows(entries).into() } else { lines(entries).into() }
    }

    /// A browser saves it instead of showing it.
    fn name_file(self, headers: &mut HeaderMap) {
        if self == Form::Csv {
            let name = HeaderValue::from_static("attachment; filename=\"audit.csv\"");
            headers.insert(CONTENT_DISPOSITION, name);
        }
    }
}

/// What the list answers.
pub(crate) const ANSWERS: &[Answer] = &[
    Answer::json(200, "One page", Schema::AuditPage),
    Answer {
        status: 200,
        when: "One entry a line",
        content_type: "application/jsonl",
        schema: Schema::AuditEntry,
    },
    Answer {
        status: 200,
        when: "A line of names, then one entry a line",
        content_type: "text/csv",
        schema: Schema::Text,
    },
    Answer {
        status: 200,
        when: "W3C PROV-JSON",
        content_type: "application/prov+json",
        schema: Schema::Anything,
    },
];

/// One page of the trail.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditPage)]
pub(crate) struct Page<'a> {
    /// A page may hold fewer than asked for, even none, and be followed by others.
    entries: Vec<Entry<'a>>,
    /// Hand this in as `cursor` for the next page; null on the last.
    next_cursor: Option<&'a str>,
}

/// One entry: the members of ATP, section 7, and `archetype`, `event` and `record`.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(crate) struct Entry<'a> {
    /// Names the entry for good: its chain and its number there.
    audit_id: &'a str,
    /// Null where the entry is about no action, as are all members that only actions have.
    action_id: Option<&'a str>,
    timestamp: &'a str,
    agent_id: Option<&'a str>,
    session_id: Option<&'a str>,
    /// ATP's verb; the archetype where there was none, and the event where there was no action.
    verb: &'a str,
    target: Option<&'a str>,
    /// The kind of action, as the catalogue names it.
    archetype: Option<&'a str>,
    /// `atp-1`, `atp-2` or `atp-3`.
    guarantee_level: Option<&'a str>,
    /// What happened: `admitted`, `held`, `approved`, `rejected`, `refused`, `executed`, `failed`, `in_doubt`, …; or
    /// `frozen`, `mandate_revoked`, `key_created`, `pruned`, …
    event: &'a str,
    /// `INTENDED`, `APPROVED`, `EXECUTING`, `COMPLETED`, `FAILED`, `ROLLING_BACK` or `ROLLED_BACK`.
    result_state: Option<&'a str>,
    /// From the action's arrival to this entry, if it ended the action.
    duration_seconds: Option<f64>,
    /// Of `approved` and `rejected`: who said so. Else who was to be asked.
    human_approver: Option<&'a str>,
    regulation_refs: &'a [String],
    /// Of the ledger entry: `sha256:` and hex.
    hash: String,
    previous_hash: Option<String>,
    /// What is on record of an event that is no action: who did what. Its SHA-256 stands in the ledger entry.
    #[schema(value_type = Object)]
    record: Option<&'a RawValue>,
}

impl<'a> Entry<'a> {
    fn of(view: &'a AuditView) -> Entry<'a> {
        Entry {
            audit_id: &view.audit_id,
            action_id: view.action_id.as_deref(),
            timestamp: &view.timestamp,
            agent_id: view.agent_id.as_deref(),
            session_id: view.session_id.as_deref(),
            verb: &view.verb,
            target: view.target.as_deref(),
            archetype: view.archetype.as_deref(),
            guarantee_level: view.guarantee_level.as_deref(),
            event: &view.event,
            result_state: view.result_state.as_deref(),
            duration_seconds: view.duration_ms.map(|ms| ms as f64 / 1000.0),
            human_approver: view.human_approver.as_deref(),
            regulation_refs: &view.regulation_refs,
            hash: named(&view.hash),
            previous_hash: view.previous_hash.as_deref().map(named),
            record: view.record.as_deref().and_then(|record| serde_json::from_str(record).ok()),
        }
    }

    /// The cells of its row, in the order of [`HEAD`].
    fn cells(&self) -> [String; 17] {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        [
            self.audit_id.to_owned(),
            text(self.action_id),
            self.timestamp.to_owned(),
            text(self.agent_id),
            text(self.session_id),
            self.verb.to_owned(),
            text(self.target),
            text(self.archetype),
            text(self.guarantee_level),
            self.event.to_owned(),
            text(self.result_state),
            // Spelled as in JSON.
            self.duration_seconds
                .map_or_else(String::new, |seconds| serde_json::Value::from(seconds).to_string()),
            text(self.human_approver),
            self.regulation_refs.join(" "),
            self.hash.clone(),
            self.previous_hash.clone().unwrap_or_default(),
            text(self.record.map(RawValue::get)),
        ]
    }
}

/// The first line of CSV.
const HEAD: &str = "audit_id,action_id,timestamp,agent_id,session_id,verb,target,archetype,guarantee_level,event,\
    result_state,duration_seconds,human_approver,regulation_refs,hash,previous_hash,record\r\n";

fn lines(entries: &[AuditView]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 640);
    for entry in entries {
        // Our own type is written into memory: there is nothing that could fail.
        let _ = serde_json::to_writer(&mut out, &Entry::of(entry));
        out.push(b'\n');
    }
    out
}

fn rows(entries: &[AuditView]) -> Vec<u8> {
    let mut out = String::with_capacity(entries.len() * 480);
    for entry in entries {
        for (place, cell) in Entry::of(entry).cells().iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            write_cell(&mut out, cell);
        }
        out.push_str("\r\n");
    }
    out.into_bytes()
}

/// Begin a formula; a spreadsheet set to an Asian language reads the full-width ones alike.
const FORMULA: [char; 10] = ['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];

/// A cell of RFC 4180. What a spreadsheet would take for a formula gets an apostrophe in front, which tells it that this
/// is text.
fn write_cell(out: &mut String, cell: &str) {
    let formula = cell.starts_with(FORMULA);
    let quoted = cell.contains(['"', ',', '\r', '\n']);
    if quoted {
        out.push('"');
    }
    if formula {
        out.push('\'');
    }
    if quoted {
        out.push_str(&cell.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(cell);
    }
}

/// A stretch of the chain, checked.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditCheck)]
pub(crate) struct Check<'a> {
    /// Ledger entries checked.
    entries: u64,
    /// Receipts compared with the entries that name them, their signatures included.
    receipts: u64,
    /// Approvals and rejections compared with the entries that name them.
    approvals: u64,
    /// Number of the newest ledger entry, for showing how far this is.
    of: i64,
    /// Of the last entry checked: `sha256:` and hex.
    head: Option<String>,
    /// What is missing or altered, in the order of the chain.
    findings: Vec<Finding<'a>>,
    /// Hand this in as `cursor` for the next stretch; null at the end.
    next_cursor: Option<&'a str>,
}

/// Something missing or altered.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditFinding)]
struct Finding<'a> {
    /// Number of the ledger entry in this store.
    entry: i64,
    /// Null also when it is another tenant's.
    action_id: Option<&'a str>,
    /// Null also when it is another tenant's.
    receipt_id: Option<&'a str>,
    what: &'a str,
}

impl<'a> Check<'a> {
    fn of(check: &'a TrailCheck) -> Check<'a> {
        let finding = |found: &'a TrailFinding| Finding {
            entry: found.entry,
            action_id: found.action_id.as_deref(),
            receipt_id: found.receipt_id.as_deref(),
            what: &found.what,
        };
        Check {
            entries: check.entries,
            receipts: check.receipts,
            approvals: check.approvals,
            of: check.of,
            head: check.head.as_deref().map(named),
            findings: check.findings.iter().map(finding).collect(),
            next_cursor: check.next.as_deref(),
        }
    }
}

pub(super) fn named(hash: &str) -> String {
    format!("sha256:{hash}")
}

/// Where the next page is, for whoever cannot look into the body.
pub(super) fn link(request: &Request, next: Option<&str>, headers: &mut HeaderMap) {
    let Some(next) = next else { return };
    let uri = &request.head.uri;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    query.extend_pairs(given.filter(|(name, _)| name != "cursor")).append_pair("cursor", next);
    let link = format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish());
    if let Ok(link) = HeaderValue::from_str(&link) {
        headers.insert(LINK, link);
    }
}

pub(super) fn subject(text: &str) -> Result<Subject, Error> {
    Subject::parse(text).map_err(|_| wrong("agent_id", "does not name an agent"))
}

pub(super) fn span(from: Option<&str>, to: Option<&str>) -> Result<(Option<i64>, Option<i64>), Error> {
    let moment = |name, text: &str| unix_millis(text).map_err(|why| wrong(name, &why.to_string()));
    let from_ms = from.map(|text| moment("time_from", text)).transpose()?;
    let to_ms = to.map(|text| moment("time_to", text)).transpose()?;
    match (from_ms, to_ms) {
        (Some(from), Some(to)) if from >= to => Err(wrong("time_to", "is not after time_from")),
        span => Ok(span),
    }
}

pub(super) fn plain(name: &'static str, text: String) -> Result<String, Error> {
    let fits = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(wrong(name, "is not 1 to 255 plain characters")) }
}

pub(super) fn one_of(name: &'static str, text: String, known: &[&str]) -> Result<String, Error> {
    if known.contains(&&*text) {
        return Ok(text);
    }
    Err(wrong(name, "is not one of its values").hint(format!("these are {}", known.join(", "))))
}

/// Names the parameter without quoting anybody, so that it is said in production too.
fn wrong(name: &'static str, why: &str) -> Error {
    Error::new(Code::ValidationFailed, format!("{name} {why}")).field(format!("?{name}"))
}

const LEVELS: [&str; 3] = ["atp-1", "atp-2", "atp-3"];
const STATES: [&str; 7] =
    ["INTENDED", "APPROVED", "EXECUTING", "COMPLETED", "FAILED", "ROLLING_BACK", "ROLLED_BACK"];
const ORDERS: [&str; 2] = ["newest", "oldest"];

/// Entries read at once for an answer without end.
const PAGE: u32 = 200;
/// Such answers at once: each holds a page in memory for as long as its reader takes.
static PLACES: Semaphore = Semaphore::const_new(64);

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> String {
        let mut out = String::new();
        write_cell(&mut out, text);
        out
    }

    #[test]
    fn cells_are_quoted_where_they_must_be_and_are_no_formulas() {
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell("a,b"), "\"a,b\"");
        assert_eq!(cell("a\"b"), "\"a\"\"b\"");
        assert_eq!(cell("a\r\nb"), "\"a\r\nb\"");
        assert_eq!(cell("=1+1"), "'=1+1");
        assert_eq!(cell("@SUM(A1,A2)"), "\"'@SUM(A1,A2)\"");
        for first in ["+", "-", "\t", "\r", "＝", "＋", "－", "＠"] {
            assert!(cell(&format!("{first}x")).trim_start_matches('"').starts_with('\''), "{first:?}");
        }
        assert_eq!(cell("a=1"), "a=1");
    }

    #[test]
    fn a_row_has_a_cell_for_each_name() {
        assert_eq!(HEAD.trim_end().split(',').count(), 17);
        assert!(!HEAD.contains(' '));
    }

    #[test]
    fn the_form_is_chosen_by_parameter_then_by_header() {
        let accept = |value: &'static str| {
            let headers: HeaderMap = [(ACCEPT, HeaderValue::from_static(value))].into_iter().collect();
            Form::chosen(None, &headers).ok()
        };
        assert_eq!(accept("*/*"), Some(Form::Json));
        assert_eq!(accept("application/x-ndjson"), Some(Form::Lines));
        assert_eq!(accept("image/png, Text/CSV;q=0.9, application/json"), Some(Form::Csv));
        assert_eq!(accept("application/prov+json"), Some(Form::Prov));
        let headers: HeaderMap = [(ACCEPT, HeaderValue::from_static("text/csv"))].into_iter().collect();
        assert_eq!(Form::chosen(Some("prov"), &headers), Ok(Form::Prov));
        let refused = Form::chosen(Some("xml"), &headers).err().and_then(|error| error.field);
        assert_eq!(refused.as_deref(), Some("?format"));
    }

    #[test]
    fn a_span_of_time_goes_forward() {
        assert_eq!(span(None, None), Ok((None, None)));
        assert_eq!(
            span(Some("1970-01-01T00:00:01Z"), Some("1970-01-01T01:00:02+01:00")),
            Ok((Some(1000), Some(2000)))
        );
        let field = |from, to| span(from, to).err().and_then(|error| error.field);
        assert_eq!(field(Some("yesterday"), None).as_deref(), Some("?time_from"));
        assert_eq!(field(None, Some("2026-01-01")).as_deref(), Some("?time_to"));
        assert_eq!(span(None, Some("9999-12-31T23:59:59Z")), Ok((None, Some(253_402_300_799_000))));
        let leap = span(Some("2016-12-31T23:59:60Z"), None).err().map(|error| error.message);
        assert_eq!(leap.as_deref(), Some("time_from names a second 60, which has no Unix time"));
        assert_eq!(
            field(Some("1970-01-01T00:00:01Z"), Some("1970-01-01T00:00:01Z")).as_deref(),
            Some("?time_to")
        );
    }
}
