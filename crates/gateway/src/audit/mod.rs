//! The audit trail: one entry for each ledger entry, a projection of what is stored anyway.
//!
//! ```text
//!   ledger entry ──▶ when, what happened, state, hashes     action's row ──▶ who, what kind, session, level
//!                │                                          event's record ──▶ who did what
//!                └───────────────────────── AuditView ─────────────────────┘
//! ```
//!
//! And the proof that it can be believed: [`Gateway::check_trail`] walks the chain and compares it with rows, receipts
//! and what people said.

pub(crate) mod authority;
mod judge;

use action::{ActionId, Subject};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ledger::{About, Audited, Broken, Inspected, Labels, Order, Owner, Place, Sealed, Search};
use serde::Deserialize;

use self::judge::Judge;
use crate::approvals::Said;
use crate::atp;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::{IntentRow, OutcomeRow, ResolutionRow};
use crate::sessions::stands_on_nothing;
use crate::views::Page;
use crate::{Code, Error, clock};

/// Which entries are asked for; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct AuditAsk {
    /// Of actions this agent asked for.
    pub agent_id: Option<Subject>,
    /// Of the session the client named.
    pub session_id: Option<String>,
    /// At or after, Unix milliseconds.
    pub from_ms: Option<i64>,
    /// Before, Unix milliseconds.
    pub to_ms: Option<i64>,
    /// ATP's verb, or the archetype where there was none.
    pub verb: Option<String>,
    /// The kind of action.
    pub archetype: Option<String>,
    /// A regulation the action falls under.
    pub regulation_ref: Option<String>,
    /// ATP's target.
    pub target: Option<String>,
    /// What the action is known by elsewhere: name and value, such as `action_id` and the client's own.
    pub references: Vec<(&'static str, String)>,
    /// Who answers for it. A person's name is not in the index: entries are looked at one by one.
    pub smr_accountable: Option<String>,
    /// Who was to be asked, or decided; as with `smr_accountable`.
    pub human_approver: Option<String>,
    /// `atp-1`, `atp-2` or `atp-3`.
    pub guarantee_level: Option<String>,
    /// ATP's word for the state that the entry reached.
    pub result_state: Option<String>,
    /// Along the chain instead of against it.
    pub oldest_first: bool,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Entries of a page.
    pub limit: u32,
}

/// One entry of the trail (ATP, section 7).
#[derive(Clone, Debug)]
pub struct AuditView {
    /// Names the entry for good: its chain and its number there.
    pub audit_id: String,
    /// Which action; `None` where it is about none.
    pub action_id: Option<String>,
    /// When, RFC 3339.
    pub timestamp: String,
    /// Who asked for the action.
    pub agent_id: Option<String>,
    /// The session that the client named.
    pub session_id: Option<String>,
    /// ATP's verb; the archetype where there was none, and the event where there was no action.
    pub verb: String,
    /// ATP's target, where the action came with one.
    pub target: Option<String>,
    /// The kind of action.
    pub archetype: Option<String>,
    /// `atp-1`, `atp-2` or `atp-3`.
    pub guarantee_level: Option<String>,
    /// What happened.
    pub event: String,
    /// ATP's word for the state reached.
    pub result_state: Option<String>,
    /// From the action's arrival to this entry, if the entry ended it.
    pub duration_ms: Option<u64>,
    /// Who agreed or said no, where that is what happened; else who was to be asked. Gone when the action is erased.
    pub human_approver: Option<String>,
    /// Regulations the action falls under.
    pub regulation_refs: Vec<String>,
    /// The ledger entry's hash, hex.
    pub hash: String,
    /// The hash of the ledger entry before it, hex.
    pub previous_hash: Option<String>,
    /// What is on record of an event that is no action, or of an erasure, canonical JSON. Of what reaches beyond a tenant only the first
    /// tenant's people see it.
    pub record: Option<String>,
    /// When the action came in, RFC 3339.
    pub began_at: Option<String>,
    /// SHA-256 of the receipt that came with the entry, hex.
    pub receipt_hash: Option<String>,
}

/// A stretch of the chain, checked.
#[derive(Clone, Debug)]
pub struct TrailCheck {
    /// How many ledger entries were checked.
    pub entries: u64,
    /// How many receipts.
    pub receipts: u64,
    /// How many approvals and rejections.
    pub approvals: u64,
    /// How many ledger entries there are.
    pub of: i64,
    /// Hash of the last entry checked, hex.
    pub head: Option<String>,
    /// What is missing or altered.
    pub findings: Vec<TrailFinding>,
    /// Hand this in for the next stretch.
    pub next: Option<String>,
}

/// Something missing or altered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailFinding {
    /// Number of the ledger entry in this store.
    pub entry: i64,
    /// Which action, if it is of the caller's tenant.
    pub action_id: Option<String>,
    /// Which receipt, if it is of the caller's tenant.
    pub receipt_id: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl Gateway {
    /// One page of the tenant's trail.
    ///
    /// A page may hold fewer entries than asked for, even none, and be followed by others: there is a bound on what is
    /// looked at for one page.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for who neither audits nor governs, `EP_VALIDATION_FAILED` for a cursor that was not given out for
    /// this order.
    pub async fn audit(&self, caller: &Caller, ask: &AuditAsk) -> Result<Page<AuditView>, Error> {
        caller.must(Deed::Audit)?;
        let order = if ask.oldest_first { Order::OldestFirst } else { Order::NewestFirst };
        let after = ask.cursor.as_deref().map(|cursor| row_of(cursor, order)).transpose()?;
        let search = ask.search(&self.tenant(&caller.tenant)?.reference);
        let page = self.ledger.audit(&caller.tenant, search, order, after, ask.limit.clamp(1, LONGEST_PAGE));
        let page = page.await.map_err(unavailable)?;
        let mut items = Vec::with_capacity(page.rows.len());
        for found in page.rows {
            let accountable = ask.smr_accountable.as_deref().is_none_or(|it| answers_for(it, &found));
            let shown = self.shown(caller, found).await?;
            let decided = ask.human_approver.is_none() || ask.human_approver == shown.human_approver;
            if accountable && decided {
                items.push(shown);
            }
        }
        Ok(Page { items, next: page.next.map(|row| cursor_of(row, order)) })
    }

    async fn shown(&self, caller: &Caller, found: Audited) -> Result<AuditView, Error> {
        let (entry, ours) = (found.row, found.tenant_ref.is_some() || self.runs_the_house(caller));
        let decided = matches!(&*found.event, "approved" | "rejected" | "extended" | ledger::INFO_REQUESTED);
        let resolved = &*found.event == crate::resolve::EVENT;
        let owner = found.owner().map(|owner| owner.id);
        let action = owner.filter(|_| decided);
        let at_ms = found.at_ms;
        let aside = found.owner().filter(|_| resolved).and_then(words_aside).unwrap_or_default();
        let mut view = AuditView::of(found);
        if let Some(id) = action {
            let given = if_readable(id, self.ledger.approvals(&caller.tenant, id).await)?;
            let said = given.iter().flatten().find(|given| given.entry == entry);
            view.human_approver =
                said.and_then(|given| Said::from_bytes(&given.record).ok()).map(|said| said.approver);
        }
        if let Some(id) = owner.filter(|_| resolved) {
            let outcomes = if_readable(id, self.ledger.outcomes(&caller.tenant, id).await)?;
            view.human_approver = outcomes.and_then(|outcomes| {
                let outcome = outcomes.iter().find(|outcome| outcome.entry == entry);
                outcome
                    .and_then(|outcome| OutcomeRow::from_bytes(&outcome.payload).ok())
                    .and_then(|row| row.resolution)
                    // A word on a capture, or one that has something done, ends nothing and stands in the action's own row.
                    .or_else(|| aside.into_iter().rfind(|word| word.at_ms <= at_ms).map(Box::new))
                    .map(|word| word.by)
            });
        }
        view.record = view.record.filter(|_| ours);
        Ok(view)
    }

    /// Checks a stretch of the chain: every entry, and the rows, receipts and approvals that belong to it.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for who neither audits nor governs, `EP_VALIDATION_FAILED` for a cursor that was not given out.
    pub async fn check_trail(&self, caller: &Caller, cursor: Option<&str>) -> Result<TrailCheck, Error> {
        caller.must(Deed::Audit)?;
        let after = cursor.map(place_of).transpose()?;
        let stretch = self.ledger.inspect(after).await.map_err(unavailable)?;
        let jwks = self.keys.jwks();
        let judge = Judge::new(&self.issuer, &jwks);
        let mut findings: Vec<TrailFinding> =
            stretch.findings.iter().map(|found| found_by_chain(caller, found)).collect();
        findings.extend(stretch.witnesses.iter().filter_map(|witness| judge.finding(caller, witness)));
        for found in
            stretch.findings.iter().filter(|it| matches!(it.broken, Broken::Session | Broken::Governed))
        {
            self.alert_records(found.entry, &found.broken.to_string());
        }
        let of_sessions = stretch.sealed.iter().filter_map(|sealed| judge.forged(sealed));
        let of_sessions: Vec<TrailFinding> = of_sessions.chain(without_intent(&stretch.sealed)).collect();
        of_sessions.iter().for_each(|found| self.alert_records(found.entry, &found.what));
        findings.extend(of_sessions);
        let authority = stretch.authority.iter();
        findings.extend(authority.flat_map(|all| authority::findings(caller, all, stretch.last)));
        findings.sort_by_key(|finding| finding.entry);
        let Inspected { entries, receipts, approvals, last, head, next, .. } = stretch;
        Ok(TrailCheck {
            entries,
            receipts,
            approvals,
            of: last,
            head: head.map(hex::encode),
            findings,
            next: next.map(cursor_at),
        })
    }
}

impl AuditAsk {
    fn search(&self, reference: &str) -> Search {
        let text = |text: &Option<String>| text.as_deref().map(Box::from);
        Search {
            reference: Some(reference.into()),
            subject: self.agent_id.clone(),
            session: text(&self.session_id),
            verb: text(&self.verb),
            archetype: text(&self.archetype),
            regulation: text(&self.regulation_ref),
            level: text(&self.guarantee_level),
            target: text(&self.target),
            refs: self.references.iter().map(|(name, value)| format!("{name}={value}").into()).collect(),
            state: text(&self.result_state),
            from_ms: self.from_ms,
            to_ms: self.to_ms,
        }
    }
}

impl AuditView {
    fn of(found: Audited) -> AuditView {
        let Audited { chain, seq, at_ms, event, state, hash, previous, receipt, record, about, .. } = found;
        let view = AuditView {
            audit_id: ledger::record_id(&chain, seq),
            action_id: None,
            timestamp: clock::text(at_ms),
            agent_id: None,
            session_id: None,
            verb: event.to_string(),
            target: None,
            archetype: None,
            guarantee_level: None,
            event: event.into(),
            result_state: state.map(Into::into),
            duration_ms: None,
            human_approver: None,
            regulation_refs: Vec::new(),
            hash: hash.into(),
            previous_hash: previous.map(Into::into),
            record: record.and_then(|record| String::from_utf8(record).ok()),
            began_at: None,
            receipt_hash: receipt.map(Into::into),
        };
        match about {
            About::Action(owner) => view.about(*owner, at_ms),
            About::Event => view,
        }
    }

    fn about(self, owner: Owner, at_ms: i64) -> AuditView {
        let over = self.result_state.as_deref().is_some_and(|state| ENDED.contains(&state));
        // What is erased ended before that.
        let ended = over && self.event != ledger::ERASED;
        let Labels { session, verb, target, level, regulations, .. } = owner.labels;
        AuditView {
            action_id: Some(owner.id.to_string()),
            agent_id: Some(owner.subject.to_string()),
            session_id: session.map(Into::into),
            verb: verb.unwrap_or_else(|| owner.archetype.clone()).into(),
            target: target.map(Into::into),
            archetype: Some(owner.archetype.into()),
            guarantee_level: level.map(Into::into),
            duration_ms: ended.then(|| u64::try_from(at_ms.saturating_sub(owner.at_ms)).unwrap_or(0)),
            human_approver: approver(&owner.payload),
            regulation_refs: regulations.into_iter().map(Into::into).collect(),
            began_at: Some(clock::text(owner.at_ms)),
            ..self
        }
    }
}

/// What the trail finds an action by. An action that was asked for by archetype alone has no target, and its archetype
/// stands for the verb. What it is aimed at would be a value of its constraints, which are erasable and committed to in
/// receipts; the trail is neither.
pub(crate) fn labels(row: &IntentRow) -> Labels {
    let labels = Labels {
        session: row.session_id.as_deref().map(Box::from),
        level: Some(row.guarantee_level.as_str().into()),
        regulations: row.regulations.iter().map(|it| it.as_str().into()).collect(),
        ..Labels::default()
    };
    let Ok(Some(atp)) = row.atp() else { return labels };
    Labels {
        verb: Some(atp.verb.as_str().into()),
        target: atp.target.as_deref().map(Box::from),
        refs: atp::references(row, &atp),
        ..labels
    }
}

/// Does this person answer for the action? Who is erased answers for nothing.
fn answers_for(person: &str, found: &Audited) -> bool {
    let row = found.owner().and_then(|owner| IntentRow::from_bytes(&owner.payload).ok());
    let atp = row.and_then(|row| row.atp().ok().flatten());
    atp.is_some_and(|atp| atp.compliance.smr_accountable.as_deref() == Some(person))
}

/// What is stored beside an action, unless somebody altered it: its entries are then listed without.
fn if_readable<T>(id: ActionId, read: Result<T, ledger::Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(ledger::Error::Corrupt(_)) => {
            tracing::error!(action = %id, "what is stored of an action cannot be read; its entry is listed without it");
            Ok(None)
        }
        Err(error) => Err(unavailable(error)),
    }
}

/// A person stands in the erasable payload alone.
fn approver(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Asked {
        human_approver: Option<String>,
    }
    serde_json::from_slice::<Asked>(payload).ok()?.human_approver
}

fn found_by_chain(caller: &Caller, found: &ledger::Finding) -> TrailFinding {
    let ours = found.tenant.as_ref() == Some(&caller.tenant);
    TrailFinding {
        entry: found.entry,
        action_id: found.action.filter(|_| ours).map(|id| id.to_string()),
        receipt_id: None,
        what: found.broken.to_string(),
    }
}

/// A cursor is a row and the order it was given out for.
fn cursor_of(row: i64, order: Order) -> String {
    let mut bytes = [0; 9];
    bytes[0] = mark_of(order);
    bytes[1..].copy_from_slice(&row.to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn row_of(cursor: &str, order: Order) -> Result<i64, Error> {
    let wrong =
        || Error::new(Code::ValidationFailed, "cursor was not given out for this order").field("?cursor");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    match bytes.split_first() {
        Some((mark, row)) if *mark == mark_of(order) => {
            let row = i64::from_be_bytes(row.try_into().map_err(|_| wrong())?);
            if row >= 0 { Ok(row) } else { Err(wrong()) }
        }
        _ => Err(wrong()),
    }
}

/// How far a walk is, for whoever goes on with it.
fn cursor_at(Place { row, receipts, approvals }: Place) -> String {
    let bytes = [&[WALK][..], &row.to_be_bytes(), &receipts.to_be_bytes(), &approvals.to_be_bytes()].concat();
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn place_of(cursor: &str) -> Result<Place, Error> {
    let wrong = || Error::new(Code::ValidationFailed, "cursor was not given out here").field("?cursor");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    let Some((&WALK, numbers)) = bytes.split_first() else { return Err(wrong()) };
    let (numbers, rest) = numbers.as_chunks::<8>();
    let ([row, receipts, approvals], []) = (numbers, rest) else { return Err(wrong()) };
    let row = i64::from_be_bytes(*row);
    if !(0..FURTHEST).contains(&row) {
        return Err(wrong());
    }
    Ok(Place { row, receipts: u64::from_be_bytes(*receipts), approvals: u64::from_be_bytes(*approvals) })
}

fn mark_of(order: Order) -> u8 {
    match order {
        Order::NewestFirst => b'd',
        Order::OldestFirst => b'a',
    }
}

/// Entries of a page, at most.
const LONGEST_PAGE: u32 = 200;
/// No walk comes this far, and from before it there is room to count on.
const FURTHEST: i64 = 1 << 62;
/// Marks the cursor of a walk.
const WALK: u8 = b'v';
/// States in which nothing more is to come.
const ENDED: [&str; 3] = ["COMPLETED", "FAILED", "ROLLED_BACK"];

/// What people said of an action that ended nothing.
fn words_aside(owner: &Owner) -> Option<Vec<ResolutionRow>> {
    Some(IntentRow::from_bytes(&owner.payload).ok()?.words_aside().cloned().collect())
}

/// Cycles that began and stand on no declaration.
fn without_intent(sealed: &[Sealed]) -> impl Iterator<Item = TrailFinding> {
    let bare = sealed.iter().filter(|sealed| stands_on_nothing(&sealed.bytes));
    bare.map(|sealed| TrailFinding {
        entry: sealed.entry,
        action_id: None,
        receipt_id: None,
        what: "the entry lets a cycle begin that stands on no declaration".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_walk_goes_on_where_it_was() {
        let place = Place { row: 1023, receipts: 5, approvals: 7 };
        assert_eq!(place_of(&cursor_at(place)), Ok(place));
        let negative = cursor_at(Place { row: -1, ..place });
        let beyond = cursor_at(Place { row: i64::MAX, ..place });
        for wrong in ["", "dg", "!", &cursor_of(42, Order::OldestFirst), &negative, &beyond] {
            assert_eq!(place_of(wrong).unwrap_err().field.as_deref(), Some("?cursor"), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_is_good_for_the_order_it_was_given_out_for() {
        let cursor = cursor_of(42, Order::OldestFirst);
        assert_eq!(row_of(&cursor, Order::OldestFirst), Ok(42));
        let negative = cursor_of(-1, Order::OldestFirst);
        for wrong in
            [cursor_of(42, Order::NewestFirst), negative, String::new(), "42".into(), format!("{cursor}A")]
        {
            let refused = row_of(&wrong, Order::OldestFirst).unwrap_err();
            assert_eq!(
                (refused.code, refused.field.as_deref()),
                (Code::ValidationFailed, Some("?cursor")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_erased_action_names_no_approver() {
        assert_eq!(approver(br#"{"v":1,"human_approver":"anna"}"#).as_deref(), Some("anna"));
        assert_eq!(approver(br#"{"v":1,"human_approver":null}"#), None);
        assert_eq!(approver(b""), None);
    }
}
