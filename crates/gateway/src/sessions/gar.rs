//! The governance record of sessions: one signed record for each decision and each thing that happened, a projection of
//! the ledger's entries.

use action::{ActionId, Subject};
use boundary::Governance;
use ledger::{Governed, Record};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{SessionView, must_be_somebody, own_only};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::{DecidedRow, IntentRow, internal};
use crate::views::Page;
use crate::{Code, Error, clock};

/// One record.
#[derive(Clone, Debug)]
pub struct GarView {
    /// Its id, which is that of the audit trail.
    pub record_id: String,
    /// What caused it; nothing caused the first.
    pub causal_parent_id: Option<String>,
    /// The session.
    pub session_id: String,
    /// Its number there: from 0, without a gap.
    pub session_sequence_number: u64,
    /// The declaration it stands on.
    pub intent_id: Option<String>,
    /// The session's mandate.
    pub mandate_id: String,
    /// `ALLOW`, `DENY`, `ESCALATE` or `SUSPEND`, if it is a decision.
    pub governance_decision: Option<&'static str>,
    /// The policies that decided.
    pub cedar_policy_ids: Vec<String>,
    /// `ALE-…`, if it is an event of the session's life that has a code.
    pub ale_type: Option<String>,
    /// What that code comes with.
    pub ale_fields: Option<Value>,
    /// When, RFC 3339.
    pub timestamp: String,
    /// How the session ended, or was left.
    pub completion_state: Option<String>,
    /// Whether the agent called itself unsure where the gateway saw no reason to ask.
    pub hem_layer_discrepancy: bool,
    /// ES256 by the gateway over the entry.
    pub kernel_signature: String,
    /// Hash of the ledger entry before it, hex.
    pub previous_hash: Option<String>,
    /// Hash of the entry, hex.
    pub hash: String,
    /// What happened; the trail's word.
    pub event: String,
    /// The action it is about.
    pub action_id: Option<String>,
    /// Whose session it is.
    pub agent_id: String,
}

/// Which records are asked for; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct GarAsk {
    /// Of this session.
    pub session_id: Option<String>,
    /// Of sessions under this mandate.
    pub mandate_id: Option<String>,
    /// Of this agent's sessions.
    pub agent_id: Option<Subject>,
    /// With this code.
    pub ale_type: Option<String>,
    /// With this decision.
    pub decision: Option<String>,
    /// At or after, Unix milliseconds.
    pub from_ms: Option<i64>,
    /// Before, Unix milliseconds.
    pub to_ms: Option<i64>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Records of a page.
    pub limit: u32,
}

impl Gateway {
    /// A session and its records in order, from the one after the cursor.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` also for what is somebody else's.
    pub async fn session_records(
        &self,
        caller: &Caller,
        id: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<(SessionView, Page<GarView>), Error> {
        let governed = self.governed(caller, id).await?;
        let after = cursor.map(|cursor| cursor.parse().ok().filter(|seq| *seq <= LAST).ok_or_else(no_cursor));
        let records = self.records_after(&governed, after.transpose()?, limit).await?;
        let full = records.len() == limit as usize;
        let last = records.last().filter(|_| full).map(|last| last.seq);
        let mut items = Vec::with_capacity(records.len());
        for record in &records {
            items.push(self.gar_view(&governed, record).await?);
        }
        let next = last.filter(|last| last + 1 < governed.session.next_record).map(|last| last.to_string());
        Ok((self.session_view(&governed.session, &governed.opening), Page { items, next }))
    }

    /// Records of the sessions that the caller may see: the newest session first, each from its beginning.
    ///
    /// A page may hold fewer records than asked for, even none, and be followed by others: there is a bound on what is
    /// looked at for one page.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` for a cursor that was not given out.
    pub async fn gar(&self, caller: &Caller, ask: &GarAsk) -> Result<Page<GarView>, Error> {
        caller.must(Deed::ReadOwn)?;
        must_be_somebody(caller)?;
        let mut search = Search::new(ask)?;
        loop {
            let sessions = self.sessions_before(caller, ask, search.before).await?;
            let more = sessions.len() == SESSIONS as usize;
            for governed in &sessions {
                if self.search_in(governed, ask, &mut search).await? {
                    return Ok(search.page());
                }
            }
            if !more {
                return Ok(Page { items: search.found, next: None });
            }
        }
    }

    async fn sessions_before(
        &self,
        caller: &Caller,
        ask: &GarAsk,
        before: Option<i64>,
    ) -> Result<Vec<Governed>, Error> {
        let of = match (own_only(caller), &ask.agent_id) {
            (Some(own), Some(asked)) if own != asked => return Ok(Vec::new()),
            (own, asked) => own.or(asked.as_ref()),
        };
        if let Some(id) = &ask.session_id {
            let found = self.ledger.session(&caller.tenant, id).await.map_err(unavailable)?;
            let wanted = |it: &Governed| {
                of.is_none_or(|of| it.session.subject == *of) && before.is_none_or(|before| it.row < before)
            };
            return Ok(found.into_iter().filter(wanted).collect());
        }
        let page = self.ledger.sessions(&caller.tenant, of, before, SESSIONS).await;
        Ok(page.map_err(unavailable)?.rows)
    }

    /// Looks at one session; whether enough was looked at.
    async fn search_in(&self, governed: &Governed, ask: &GarAsk, search: &mut Search) -> Result<bool, Error> {
        search.before = Some(governed.row);
        search.looked_at += 1;
        let wanted = ask.mandate_id.as_ref().is_none_or(|id| *governed.session.mandate_id == **id);
        if wanted && self.search_records(governed, ask, search).await? {
            return Ok(true);
        }
        search.at = Some((governed.row, LAST));
        Ok(search.is_enough())
    }

    async fn search_records(
        &self,
        governed: &Governed,
        ask: &GarAsk,
        search: &mut Search,
    ) -> Result<bool, Error> {
        let mut after = search.resumed.take_if(|(row, _)| *row == governed.row).map(|(_, seq)| seq);
        loop {
            let records = self.records_after(governed, after, PART).await?;
            for record in &records {
                after = Some(record.seq);
                search.looked_at += 1;
                if ask.wants(&Line::of(record)?, &Said::of(record)) {
                    let view = self.gar_view(governed, record).await?;
                    if ask.decision.as_deref().is_none_or(|it| view.governance_decision == Some(it)) {
                        search.found.push(view);
                    }
                }
                if search.is_enough() {
                    search.at = Some((governed.row, record.seq));
                    return Ok(true);
                }
            }
            if records.len() < PART as usize {
                return Ok(false);
            }
        }
    }

    /// What stopped a session, as the newest record of that says: `R-1` to `R-7`, or that nobody answered. Looked for among
    /// its newest records, where it is unless very much was denied since.
    pub(crate) async fn stopped_by(&self, governed: &Governed) -> Result<Option<String>, Error> {
        let after = governed.session.next_record.checked_sub(u64::from(PART));
        let records = self.records_after(governed, after, PART).await?;
        let stops = records.iter().rev().map(Said::of).find(|said| said.ale() == Some("ALE-001"));
        Ok(stops.and_then(|said| said.field("trigger").map(str::to_owned)))
    }

    pub(super) async fn records_after(
        &self,
        governed: &Governed,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Record>, Error> {
        let records = self.ledger.records(&governed.tenant, &governed.session.id, after, limit);
        records.await.map_err(unavailable)
    }

    pub(super) async fn gar_view(&self, governed: &Governed, record: &Record) -> Result<GarView, Error> {
        let (line, said) = (Line::of(record)?, Said::of(record));
        let row = match line.action().filter(|_| may_decide(&line.event, said.ale())) {
            Some(action) => self.row_of_cycle(governed, action).await?,
            None => None,
        };
        let decision = decision(&line.event, said.ale(), row.as_ref());
        let decided = row.as_ref().and_then(|row| decided_so(row, decision?));
        let flagged = decided.is_some_and(|decided| decided.flags.iter().any(|it| it == UNSURE));
        let cedar_policy_ids = decided.map_or_else(|| said.policies(), |decided| decided.policies.clone());
        let code = said.ale().or_else(|| line.code()).map(str::to_owned);
        let ledger::Session { causal_parent, id, intent_id, seq } = line.session;
        Ok(GarView {
            ale_type: code,
            record_id: ledger::record_id(&line.chain_id, line.seq),
            causal_parent_id: causal_parent,
            session_id: id,
            session_sequence_number: seq,
            intent_id,
            mandate_id: governed.session.mandate_id.to_string(),
            governance_decision: decision.map(word),
            cedar_policy_ids,
            timestamp: line.at,
            completion_state: said.completion_state,
            hem_layer_discrepancy: said.hem_layer_discrepancy || flagged,
            kernel_signature: line.kernel_signature,
            previous_hash: line.previous_hash,
            hash: line.hash,
            event: line.event,
            action_id: line.action_id,
            agent_id: governed.session.subject.to_string(),
            ale_fields: said.ale.map(|ale| ale.fields),
        })
    }

    /// What is known of a cycle; nothing once it is erased.
    async fn row_of_cycle(&self, governed: &Governed, action: ActionId) -> Result<Option<IntentRow>, Error> {
        let stored = self.ledger.action(&governed.tenant, action).await.map_err(unavailable)?;
        let stored = stored.filter(|stored| !stored.payload.is_empty());
        stored.map(|stored| IntentRow::from_bytes(&stored.payload)).transpose()
    }
}

/// The record of an event that has fields, and mostly a code, as [`GarView`] is read from it.
pub(super) fn ale<'a>(code: impl Into<Option<&'a str>>, fields: Value, mut record: Value) -> Value {
    let code: Option<&str> = code.into();
    record["ale"] = json!({"code": code, "fields": fields});
    record
}

/// The signature of a session's entry.
pub(super) fn signature_of(entry: &[u8]) -> Option<String> {
    serde_json::from_slice::<Line>(entry).ok().map(|line| line.kernel_signature)
}

/// An entry of a session, as it reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    action_id: Option<String>,
    pub(super) at: String,
    chain_id: String,
    pub(super) event: String,
    pub(super) hash: String,
    kernel_signature: String,
    previous_hash: Option<String>,
    seq: u64,
    session: ledger::Session,
    pub(super) state: Option<String>,
}

impl Line {
    pub(super) fn of(record: &Record) -> Result<Line, Error> {
        serde_json::from_slice(&record.entry).map_err(|_| internal("an entry of a session cannot be read"))
    }

    pub(super) fn number(&self) -> u64 {
        self.session.seq
    }

    /// As it is called for good.
    pub(super) fn id(&self) -> String {
        ledger::record_id(&self.chain_id, self.seq)
    }

    /// The record that caused it.
    pub(super) fn cause(&self) -> Option<&str> {
        self.session.causal_parent.as_deref()
    }

    /// The code of what happens to a session by what people decide about an action of it: what waited for time, or for the
    /// word of as many as it takes, goes on.
    fn code(&self) -> Option<&'static str> {
        let goes_on = self.event == "extended" || self.state.as_deref() == Some(ledger::AGREED);
        goes_on.then_some("ALE-009")
    }

    pub(super) fn intent(&self) -> Option<&str> {
        self.session.intent_id.as_deref()
    }

    pub(super) fn action(&self) -> Option<ActionId> {
        self.action_id.as_ref()?.parse().ok()
    }
}

/// What the record of an event says that is no action.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Said {
    ale: Option<Ale>,
    completion_state: Option<String>,
    hem_layer_discrepancy: bool,
}

#[derive(Deserialize)]
struct Ale {
    code: Option<String>,
    fields: Value,
}

impl Said {
    pub(super) fn of(record: &Record) -> Said {
        let record = record.record.as_deref();
        record.and_then(|record| serde_json::from_slice(record).ok()).unwrap_or_default()
    }

    fn ale(&self) -> Option<&str> {
        self.ale.as_ref()?.code.as_deref()
    }

    /// What it says under this name, in words.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.ale.as_ref()?.fields[name].as_str()
    }

    /// The policies that decided on what is no action.
    fn policies(&self) -> Vec<String> {
        let named = self.ale.as_ref().and_then(|ale| ale.fields["cedar_policy_ids"].as_array());
        named.into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect()
    }
}

/// What was decided, if the entry says that something was; `row` is what is known of the cycle that it is about. A cycle is
/// answered with what this says of the record that left it where it is.
pub(super) fn decision(event: &str, ale: Option<&str>, row: Option<&IntentRow>) -> Option<Governance> {
    let latest = || Governance::parse(&row?.cycle.as_ref()?.decided.last()?.governance);
    let asked = row.is_some_and(|row| row.escalation.is_some());
    match (event, ale) {
        (
            ledger::ADMITTED
            | "approved"
            | "extended"
            | ledger::SENT_AGAIN
            | ledger::CHARGING
            | "cluster_budget_transfer",
            _,
        ) => Some(Governance::Proceed),
        // Session or budget were gone. Once people were asked it ends by what came of that.
        ("refused", _) if !asked && latest() == Some(Governance::Suspend) => Some(Governance::Suspend),
        ("refused" | "rejected" | "expired" | "intent_refused" | "cluster_transfer_refused", _) => {
            Some(Governance::Deny)
        }
        // Nothing was sent: it was called off while it waited.
        (FAILED, _) if row.is_some_and(|row| row.call.is_none()) => Some(Governance::Deny),
        (ledger::HELD, _) if row.is_some_and(waits_for_time) => Some(Governance::Suspend),
        (ledger::HELD | "cluster_deadlock", _) => Some(Governance::Escalate),
        ("cluster_held", _) | (_, Some("ALE-001")) => Some(Governance::Suspend),
        _ => None,
    }
}

/// Whether that may be said of an entry, if the cycle is looked up that it is about.
fn may_decide(event: &str, ale: Option<&str>) -> bool {
    event == FAILED || decision(event, ale, None).is_some()
}

/// As it was when people were asked the last time.
fn waits_for_time(row: &IntentRow) -> bool {
    let waits = [Governance::Escalate, Governance::Suspend];
    let decided = row.cycle.iter().flat_map(|cycle| &cycle.decided);
    let mut asked = decided.filter_map(|decided| Governance::parse(&decided.governance));
    asked.rfind(|it| waits.contains(it)) == Some(Governance::Suspend)
}

/// The latest judgement of a cycle that came to this; none where it was not the judge who decided.
fn decided_so(row: &IntentRow, decision: Governance) -> Option<&DecidedRow> {
    row.cycle.as_ref()?.decided.iter().rfind(|decided| decided.governance == decision.as_str())
}

/// A decision as records have it.
fn word(decision: Governance) -> &'static str {
    match decision {
        Governance::Proceed => "ALLOW",
        other => other.as_str(),
    }
}

impl GarAsk {
    fn wants(&self, line: &Line, said: &Said) -> bool {
        let at = clock::parse_ms(&line.at).unwrap_or(0);
        let told = said.ale().or_else(|| line.code());
        self.ale_type.as_deref().is_none_or(|code| told == Some(code))
            && self.from_ms.is_none_or(|from| at >= from)
            && self.to_ms.is_none_or(|to| at < to)
    }
}

/// How far a search is.
struct Search {
    found: Vec<GarView>,
    limit: usize,
    looked_at: u32,
    /// Only sessions before this one are still to be looked through.
    before: Option<i64>,
    /// The session that the page before ended in, and its last record there.
    resumed: Option<(i64, u64)>,
    /// Where this page is.
    at: Option<(i64, u64)>,
}

impl Search {
    fn new(ask: &GarAsk) -> Result<Search, Error> {
        let place = |cursor: &String| {
            let (row, seq) = cursor.split_once('.')?;
            let (row, seq): (i64, u64) = (row.parse().ok()?, seq.parse().ok()?);
            ((0..i64::MAX).contains(&row) && seq <= LAST).then_some((row, seq))
        };
        let resumed = ask.cursor.as_ref().map(|cursor| place(cursor).ok_or_else(no_cursor)).transpose()?;
        let limit = ask.limit.clamp(1, LONGEST_PAGE) as usize;
        let before = resumed.map(|(row, _)| row + 1);
        Ok(Search { found: Vec::new(), limit, looked_at: 0, before, resumed, at: None })
    }

    fn is_enough(&self) -> bool {
        self.found.len() >= self.limit || self.looked_at >= MOST_LOOKED_AT
    }

    fn page(self) -> Page<GarView> {
        Page { items: self.found, next: self.at.map(|(row, seq)| format!("{row}.{seq}")) }
    }
}

fn no_cursor() -> Error {
    Error::new(Code::ValidationFailed, "cursor was not given out here").field("?cursor")
}

const FAILED: &str = "failed";
/// See `boundary::Flag`.
const UNSURE: &str = "HEM_LAYER_DISCREPANCY";
const LONGEST_PAGE: u32 = 200;
/// Sessions and records that are looked at for one page.
const MOST_LOOKED_AT: u32 = 2_000;
/// Sessions read at once.
const SESSIONS: u32 = 20;
/// Records read at once.
const PART: u32 = 100;
/// No record has a higher number.
const LAST: u64 = i64::MAX as u64;
