//! Counting: at the end everything is had from the far side and from our own record, for the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Sum;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use receipt::{Document, Jwks, Pin, Trust, Verdict};
use reqwest::Method;
use serde_json::Value;

use super::clients::{Desk, Heard, Wish, action_of};
use super::judge::{Account, Around, Case, Stand};
use super::line::{Line, lock};
use super::mode::{Level, Mode};
use super::site::{ISSUER, Site};
use crate::error::{Context, Error, Result};

/// A mandate of the test.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) mode: Mode,
    pub(super) level: Level,
    pub(super) cap_minor: i64,
    pub(super) jti: String,
}

/// All that is counted.
pub(super) struct Counts {
    pub(super) cases: Vec<Case>,
    pub(super) accounts: Vec<Account>,
    pub(super) around: Around,
    /// Receipts that verified.
    pub(super) receipts: usize,
    /// Entries of the ledger that were walked over.
    pub(super) entries: u64,
}

/// Those who are asked.
pub(super) struct Lines {
    pub(super) agent: Line,
    pub(super) operator: Line,
    pub(super) auditor: Line,
}

pub(super) async fn count(site: &Site, desk: &Arc<Desk>, grants: &[Grant], lines: Lines) -> Result<Counts> {
    let lines = Arc::new(lines);
    let jwks = lines.auditor.must(Method::GET, "/.well-known/jwks.json", None).await?;
    let jwks = Jwks::parse(&jwks.bytes).while_we(|| "cannot read the gateway's key set".to_owned())?;
    let books = Arc::new(Books::of(site).by_action(&lines.auditor).await?);
    let counter = Arc::new(Counter { desk: Arc::clone(desk), lines: Arc::clone(&lines), books, jwks });
    let (cases, receipts) = Arc::clone(&counter).cases().await;
    let known: BTreeSet<&str> = cases.iter().flat_map(|case| case.ids.iter().map(String::as_str)).collect();
    let strays = counter.books.effects.keys().filter(|(_, id)| !known.contains(id.as_str()));
    let strays = strays.map(|(_, id)| id.clone()).collect();
    let accounts = accounts(&lines.operator, grants).await?;
    let (entries, trail) = walk(&lines.auditor).await?;
    Ok(Counts { accounts, around: Around { strays, trail }, receipts, entries, cases })
}

/// The banks' books and the bench, by action.
#[derive(Default)]
struct Books {
    effects: BTreeMap<(Mode, String), u64>,
    refunds: BTreeMap<(Mode, String), u64>,
    /// In minor units.
    paid: BTreeMap<(Mode, String), i64>,
    held: BTreeMap<(Mode, String), i64>,
}

impl Books {
    fn of(site: &Site) -> Books {
        let mut books = Books::default();
        for (mode, bank) in site.banks.iter() {
            enter(&mut books.effects, *mode, bank.effects().by_reference);
            enter(&mut books.refunds, *mode, bank.asked_back());
            enter(&mut books.paid, *mode, bank.paid());
            enter(&mut books.held, *mode, bank.set_aside());
        }
        enter(&mut books.effects, Mode::Runner, site.bench.effects());
        books
    }

    /// The same by the ids of actions, where the gateway knows whose name it is.
    async fn by_action(self, auditor: &Line) -> Result<Books> {
        let of_bank = |book: &BTreeMap<(Mode, String), u64>| book.keys().cloned().collect::<BTreeSet<_>>();
        let mut names = of_bank(&self.effects);
        names.extend(of_bank(&self.refunds));
        names.extend(self.paid.keys().chain(self.held.keys()).cloned());
        let mut ids = BTreeMap::new();
        for (_, name) in names {
            if !ids.contains_key(&name) {
                let said = auditor.must(Method::GET, &format!("/v1/actions/{name}"), None).await;
                let id = said.ok().and_then(|said| said.body["action_id"].as_str().map(str::to_owned));
                ids.insert(name.clone(), id.unwrap_or(name));
            }
        }
        Ok(Books {
            effects: named(self.effects, &ids),
            refunds: named(self.refunds, &ids),
            paid: named(self.paid, &ids),
            held: named(self.held, &ids),
        })
    }
}

fn named<N>(
    book: BTreeMap<(Mode, String), N>,
    ids: &BTreeMap<String, String>,
) -> BTreeMap<(Mode, String), N> {
    let id = |name: String| ids.get(&name).cloned().unwrap_or(name);
    book.into_iter().map(|((mode, name), count)| ((mode, id(name)), count)).collect()
}

fn enter<N: AddAssign + Default>(
    book: &mut BTreeMap<(Mode, String), N>,
    mode: Mode,
    by_reference: BTreeMap<String, N>,
) {
    for (reference, count) in by_reference {
        *book.entry((mode, action_of(&reference).to_owned())).or_default() += count;
    }
}

struct Counter {
    desk: Arc<Desk>,
    lines: Arc<Lines>,
    books: Arc<Books>,
    jwks: Jwks,
}

impl Counter {
    /// Every wish from all sides, and how many receipts verified.
    async fn cases(self: Arc<Counter>) -> (Vec<Case>, usize) {
        let next = Arc::new(AtomicUsize::new(0));
        let mut counters = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (counter, next) = (Arc::clone(&self), Arc::clone(&next));
            counters.spawn(async move {
                let mut counted = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(wish) = counter.desk.wishes.get(at) else { return counted };
                    counted.push((at, counter.case(wish).await));
                }
            });
        }
        let mut all: Vec<(usize, (Case, usize))> = Vec::with_capacity(self.desk.wishes.len());
        while let Some(counted) = counters.join_next().await {
            all.extend(counted.unwrap_or_default());
        }
        all.sort_by_key(|(at, _)| *at);
        let receipts = all.iter().map(|(_, (_, receipts))| receipts).sum();
        (all.into_iter().map(|(_, (case, _))| case).collect(), receipts)
    }

    async fn case(&self, wish: &Wish) -> (Case, usize) {
        let mut heard = lock(&wish.heard).clone();
        if !heard.last_words.is_empty() {
            self.ask_again(wish, &mut heard).await;
        }
        let (mut record, mut charged, mut amended) = (None, 0, false);
        let mut listed = BTreeSet::new();
        if let Some(id) = heard.ids.first()
            && let Some(said) = self.lines.auditor.get(&format!("/v1/actions/{id}")).await
        {
            record = stand(&said.body);
            charged = record.map_or(0, |stand| charged_of(&said.body, stand, wish));
            let receipts = said.body["receipts"].as_array().into_iter().flatten();
            amended = receipts.clone().any(|it| it["event_type"] == "AMENDMENT_SETTLEMENT");
            listed.extend(receipts.filter_map(|it| it["receipt_id"].as_str()).map(str::to_owned));
        }
        let mut wrong = Vec::new();
        let mut proven = 0;
        for id in heard.receipts.union(&listed) {
            match self.check(id, &heard.ids).await {
                Ok(()) => proven += 1,
                Err(why) => wrong.push(format!("receipt {id}: {why}")),
            }
        }
        if listed.is_empty() && !heard.last_words.is_empty() {
            wrong.push("it has a last word and no receipt".to_owned());
        }
        if heard.late && !amended {
            wrong.push("it was found to be done, and no receipt amends that it had failed".to_owned());
        }
        let case = Case {
            mode: wish.mode,
            level: wish.level,
            key: wish.key.clone(),
            charged,
            paid: total(&self.books.paid, wish, &heard.ids),
            held: total(&self.books.held, wish, &heard.ids),
            reserved: wish.course.reserves(),
            challenged: heard.challenged,
            again: heard.again,
            resolved: heard.resolved || heard.settled,
            erased: heard.erased,
            late: heard.late,
            refused: heard.refused.clone(),
            last_words: heard.last_words.iter().map(|(kind, _)| kind.clone()).collect(),
            record,
            effects: total(&self.books.effects, wish, &heard.ids),
            refunds: total(&self.books.refunds, wish, &heard.ids),
            receipts: wrong,
            ids: heard.ids.into_iter().collect(),
        };
        (case, proven)
    }

    /// The last word stands byte for byte, however often it is asked for; what is erased is gone.
    async fn ask_again(&self, wish: &Wish, heard: &mut Heard) {
        let said = self.lines.agent.ask(Method::POST, wish.path(), Some(&wish.body), Some(&wish.key)).await;
        if heard.erased && said.as_ref().is_some_and(|said| said.status == 410) {
            return;
        }
        if let Some(said) = said {
            heard.last_words.insert((said.text("kind").to_owned(), said.bytes));
        }
    }

    /// The receipt is there, verifies without the gateway, and is one of this action's.
    async fn check(&self, id: &str, ids: &BTreeSet<String>) -> std::result::Result<(), String> {
        let said = self.lines.auditor.get(&format!("/v1/receipts/{id}")).await;
        let said = said.filter(|said| said.status == 200).ok_or("it is not to be had")?;
        let pin = Pin::new(ISSUER, &self.jwks);
        let verdict = receipt::verify(&said.bytes, &Trust::new(&pin, &self.jwks)).verdict;
        if verdict != Verdict::Valid {
            return Err(format!("{verdict:?}"));
        }
        let document = std::str::from_utf8(&said.bytes).ok().and_then(|text| Document::parse(text).ok());
        match document {
            Some(it) if ids.contains(&*it.content.transaction_id) => Ok(()),
            _ => Err("it is another action's".to_owned()),
        }
    }
}

fn total<N: Copy + Sum>(book: &BTreeMap<(Mode, String), N>, wish: &Wish, ids: &BTreeSet<String>) -> N {
    ids.iter().filter_map(|id| book.get(&(wish.mode, id.clone())).copied()).sum()
}

/// What an action that stands so has been charged, in minor units: doubt keeps all of it, and what is given back refills
/// nothing.
fn charged_of(record: &Value, stand: Stand, wish: &Wish) -> i64 {
    let captures = record["reservation"]["captures"].as_array();
    let captured = captures.and_then(|all| minor(all.last()?["amount"].as_str()?));
    match stand {
        _ if !wish.mode.has_money() => 0,
        Stand::Waiting | Stand::Failed => 0,
        Stand::Doubt => wish.minor,
        // Nothing is left of what was captured but how much that was to be.
        _ if wish.course.reserves() => captured.unwrap_or(wish.course.charges(wish.minor)),
        _ => wish.minor,
    }
}

fn stand(record: &Value) -> Option<Stand> {
    let failed = record["rollback"]["error"].is_string();
    Some(match record["result"]["state"].as_str()? {
        "INTENDED" | "APPROVED" => Stand::Waiting,
        "COMPLETED" => Stand::Completed,
        "FAILED" => Stand::Failed,
        "ROLLED_BACK" => Stand::RolledBack,
        "ROLLING_BACK" if failed => Stand::RollbackFailed,
        "ROLLING_BACK" => Stand::Undoing,
        _ => Stand::Doubt,
    })
}

async fn accounts(operator: &Line, grants: &[Grant]) -> Result<Vec<Account>> {
    let page = operator.must(Method::GET, "/v1/mandates", None).await?;
    let items = page.body["items"].as_array().cloned().unwrap_or_default();
    let of = |grant: &Grant| {
        let item = items.iter().find(|item| item["jti"] == grant.jti.as_str());
        let spent = item.and_then(|item| item["spent"]["amount"].as_str()).and_then(minor);
        let spent_minor = spent.ok_or_else(|| Error::new("a mandate of the test is not listed any more"))?;
        let Grant { mode, level, cap_minor, .. } = *grant;
        Ok(Account { mode, level, cap_minor, spent_minor })
    };
    grants.iter().filter(|grant| grant.mode.has_money()).map(of).collect()
}

/// Cents of a decimal string of dollars.
fn minor(amount: &str) -> Option<i64> {
    amount.replace('.', "").parse().ok()
}

/// The whole ledger, compared with rows and receipts.
async fn walk(auditor: &Line) -> Result<(u64, Vec<String>)> {
    let (mut entries, mut found, mut cursor) = (0, Vec::new(), String::new());
    loop {
        let page = auditor.must(Method::GET, &format!("/v1/audit/verify{cursor}"), None).await?.body;
        entries += page["entries"].as_u64().unwrap_or_default();
        let findings = page["findings"].as_array().into_iter().flatten();
        found.extend(findings.map(|it| format!("entry {}: {}", it["entry"], it["what"])));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("?cursor={}", crate::api::encoded(next)),
            None => return Ok((entries, found)),
        }
    }
}

/// Wishes counted at once.
const AT_ONCE: usize = 16;
