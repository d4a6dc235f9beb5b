//! `countersign report --article-12`: the record of one session as Article 12 of the EU AI Act asks for it: who acted, what was
//! done and when, which policy decided, which human took part, in one file.
//!
//! It says nothing that the session's records, its actions and its mandate do not say; the same store gives the same report,
//! to the byte.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::process::ExitCode;

use gateway::{AuditAsk, Caller, Gateway};
use serde::Serialize;
use serde_json::Value;

use super::facts::{Chain, text};
use super::gateway_of;
use super::markdown::{chain, code, count_table, plain};
use crate::api::{Cursors, encoded};
use crate::audit::{Keeper, checked};
use crate::error::{Context, Result};
use crate::out;

/// The whole report; members in the order in which they are documented.
#[derive(Serialize)]
struct Article12 {
    /// Name and version of this form.
    format: &'static str,
    /// As `GET /v1/sessions/{id}` shows it.
    session: Value,
    /// As `GET /v1/mandates/{jti}` shows it; null for the sandbox's own.
    mandate: Value,
    period: Period,
    chain: Chain,
    totals: Totals,
    /// How often each policy decided.
    policies: BTreeMap<String, u64>,
    /// What people did, by person.
    people: BTreeMap<String, Did>,
    /// In the order in which they began.
    cycles: Vec<Cycle>,
    /// Every record, in order.
    records: Vec<Value>,
}

/// Of the use.
#[derive(Serialize)]
struct Period {
    from: Option<String>,
    to: Option<String>,
}

#[derive(Default, Serialize)]
struct Totals {
    records: u64,
    cycles: u64,
    by_decision: BTreeMap<String, u64>,
    by_state: BTreeMap<String, u64>,
    anomalies: u64,
}

#[derive(Default, Serialize)]
struct Did {
    approved: u64,
    rejected: u64,
    /// Gave more time to a cycle that found none left.
    extended: u64,
    /// Ended the session, or had it revoked.
    ended: u64,
}

/// An action of the session, as it stands now; what is erased is null.
#[derive(Serialize)]
struct Cycle {
    cycle_id: String,
    began_at: String,
    /// Who asked for it.
    agent_id: String,
    intent_id: Option<String>,
    archetype: String,
    verb: String,
    target: Option<String>,
    /// What was at stake; null where it moves no money.
    amount: Option<String>,
    currency: Option<String>,
    /// Each with its record.
    decisions: Vec<Decided>,
    state: String,
    completed_at: Option<String>,
    error: Option<String>,
    approvals: Vec<Approval>,
    receipt_ids: Vec<String>,
    erased_at: Option<String>,
}

#[derive(Serialize)]
struct Decided {
    at: String,
    decision: String,
    policies: Vec<String>,
    record_id: String,
}

#[derive(Serialize)]
struct Approval {
    approver: String,
    decision: String,
    form: String,
    at: String,
}

/// What was read of a session.
struct Gathered {
    session: Value,
    records: Vec<Value>,
    mandate: Value,
    /// The actions of its records, by record, in the order in which they came in.
    cycles: Vec<(String, Value)>,
    /// Record to action.
    of: HashMap<String, String>,
}

pub(super) fn run(keeper: &Keeper, session: &str, json: bool) -> Result<ExitCode> {
    let gathered = gathered(keeper, session)?;
    let chain = checked(keeper)?;
    let whole = chain.is_whole();
    let report = Article12::of(gathered, Chain::of(&chain));
    match json {
        true => {
            let report = serde_json::to_value(&report).while_we(|| "cannot write the report".to_owned())?;
            out::json(&report)?;
        }
        false => out::line(markdown(&report).trim_end())?,
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn gathered(keeper: &Keeper, id: &str) -> Result<Gathered> {
    let (session, records) = keeper.session(id)?;
    let mandate = keeper.mandate(&text(&session["mandate_id"]))?;
    let entries = keeper.entries_of(id)?;
    let mut cycles: Vec<(String, Value)> = Vec::new();
    for (_, action) in &entries {
        if !cycles.iter().any(|(known, _)| known == action) {
            cycles.push((action.clone(), keeper.record(action)?));
        }
    }
    Ok(Gathered { session, records, mandate, cycles, of: entries.into_iter().collect() })
}

impl Keeper {
    fn session(&self, id: &str) -> Result<(Value, Vec<Value>)> {
        let (mut all, mut cursor, mut cursors) = (Vec::new(), None::<String>, Cursors::default());
        loop {
            let (page, next) = match self {
                Keeper::Running(client) => {
                    let at = cursor.map(|at| format!("&cursor={}", encoded(&at))).unwrap_or_default();
                    let path = format!("/v1/sessions/{}/record?limit=1000{at}", encoded(id));
                    let page = client.get(&path)?;
                    let next = page["next_cursor"].as_str().map(str::to_owned);
                    (page, next)
                }
                Keeper::Resting(resting) => {
                    let read = async |gateway: &Gateway, caller: &Caller| {
                        let (session, page) =
                            gateway.session_records(caller, id, cursor.as_deref(), 1000).await?;
                        Ok((server::session_record(&session, &page.items), page.next))
                    };
                    resting.as_admin(gateway_of(resting), None, read)?
                }
            };
            all.extend(page["items"].as_array().cloned().unwrap_or_default());
            match cursors.next(next.as_deref())? {
                Some(next) => cursor = Some(next),
                None => return Ok((page["session"].clone(), all)),
            }
        }
    }

    /// The mandate; null where that is the sandbox's own, which is kept nowhere.
    fn mandate(&self, jti: &str) -> Result<Value> {
        match self {
            _ if jti == EVERYBODYS => Ok(Value::Null),
            Keeper::Running(client) => client.get(&format!("/v1/mandates/{}", encoded(jti))),
            Keeper::Resting(resting) => {
                let show = async |gateway: &Gateway, caller: &Caller| gateway.mandate(caller, jti).await;
                let standing = resting.as_admin(gateway_of(resting), None, show)?;
                Ok(server::mandate_record(&standing))
            }
        }
    }

    /// Records of the session's actions, oldest first, each with its action.
    fn entries_of(&self, session: &str) -> Result<Vec<(String, String)>> {
        match self {
            Keeper::Running(client) => {
                let path =
                    format!("/v1/audit?order=oldest&format=json&limit=200&session_id={}", encoded(session));
                let (mut all, mut at, mut cursors) = (Vec::new(), String::new(), Cursors::default());
                loop {
                    let page = client.get(&format!("{path}{at}"))?;
                    for entry in page["entries"].as_array().into_iter().flatten() {
                        let action = entry["action_id"].as_str().map(str::to_owned);
                        all.extend(action.map(|action| (text(&entry["audit_id"]), action)));
                    }
                    match cursors.next(page["next_cursor"].as_str())? {
                        Some(next) => at = format!("&cursor={}", encoded(&next)),
                        None => return Ok(all),
                    }
                }
            }
            Keeper::Resting(resting) => {
                let mut ask = AuditAsk {
                    session_id: Some(session.to_owned()),
                    oldest_first: true,
                    limit: 200,
                    ..AuditAsk::default()
                };
                let list = async |gateway: &Gateway, caller: &Caller| {
                    let mut all = Vec::new();
                    loop {
                        let page = gateway.audit(caller, &ask).await?;
                        let entries = page.items.into_iter();
                        all.extend(entries.filter_map(|it| Some((it.audit_id, it.action_id?))));
                        match page.next {
                            Some(next) => ask.cursor = Some(next),
                            None => return Ok(all),
                        }
                    }
                };
                resting.as_admin(gateway_of(resting), None, list)
            }
        }
    }
}

impl Article12 {
    fn of(gathered: Gathered, chain: Chain) -> Article12 {
        let Gathered { session, records, mandate, cycles, of } = gathered;
        let at = |record: Option<&Value>| record.map(|record| text(&record["timestamp"]));
        let cycles: Vec<Cycle> = cycles
            .iter()
            .map(|(id, action)| {
                Cycle::of(action, records.iter().filter(|it| of.get(&text(&it["record_id"])) == Some(id)))
            })
            .collect();
        let mut report = Article12 {
            format: "countersign-article-12/1",
            period: Period { from: at(records.first()), to: at(records.last()) },
            chain,
            totals: Totals {
                records: records.len() as u64,
                cycles: cycles.len() as u64,
                ..Totals::default()
            },
            policies: BTreeMap::new(),
            people: BTreeMap::new(),
            session,
            mandate,
            cycles,
            records,
        };
        report.count();
        report
    }

    fn count(&mut self) {
        for record in &self.records {
            if let Some(decision) = record["governance_decision"].as_str() {
                *self.totals.by_decision.entry(decision.to_owned()).or_default() += 1;
            }
            for policy in record["cedar_policy_ids"].as_array().into_iter().flatten() {
                *self.policies.entry(text(policy)).or_default() += 1;
            }
            let code = record["ale_type"].as_str();
            self.totals.anomalies += u64::from(code == Some("KERNEL_AUDIT_ANOMALY"));
            if let Some(by) = ended_by(&self.session, record) {
                self.people.entry(by.to_owned()).or_default().ended += 1;
            }
        }
        for cycle in &self.cycles {
            *self.totals.by_state.entry(cycle.state.clone()).or_default() += 1;
            for given in &cycle.approvals {
                let did = self.people.entry(given.approver.clone()).or_default();
                match given.decision.as_str() {
                    "approve" => did.approved += 1,
                    "extend_budget" => did.extended += 1,
                    _ => did.rejected += 1,
                }
            }
        }
    }
}

/// The person who ended the session with the deed that this record tells of. A revocation stands in two records, of which the
/// first is the deed.
fn ended_by<'a>(session: &Value, record: &'a Value) -> Option<&'a str> {
    let fields = &record["ale_fields"];
    let deed = match record["ale_type"].as_str()? {
        // What else revokes is found by the gateway, or told by a program outside: no human.
        "ALE-001" => fields["trigger"] == "R-1",
        "ALE-003" => session["completion"] == "PARTIAL",
        "ALE-005" => true,
        _ => false,
    };
    fields["by"].as_str().filter(|by| deed && Some(*by) != session["agent_id"].as_str())
}

impl Cycle {
    fn of<'a>(action: &Value, records: impl Iterator<Item = &'a Value>) -> Cycle {
        let maybe = |value: &Value| value.as_str().map(str::to_owned);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let (mut decisions, mut intent_id) = (Vec::new(), None);
        for record in records {
            intent_id = intent_id.or_else(|| maybe(&record["intent_id"]));
            decisions.extend(maybe(&record["governance_decision"]).map(|decision| Decided {
                at: text(&record["timestamp"]),
                decision,
                policies: list(&record["cedar_policy_ids"]).iter().map(text).collect(),
                record_id: text(&record["record_id"]),
            }));
        }
        let approval = |given: &Value| Approval {
            approver: text(&given["approver"]),
            decision: text(&given["decision"]),
            form: text(&given["form"]),
            at: text(&given["at"]),
        };
        Cycle {
            cycle_id: text(&action["action_id"]),
            began_at: text(&action["created_at"]),
            agent_id: text(&action["agent_id"]),
            intent_id,
            archetype: text(&action["archetype"]),
            verb: text(&action["action"]["verb"]),
            target: maybe(&action["action"]["target"]),
            amount: maybe(&action["amount"]),
            currency: maybe(&action["currency"]),
            decisions,
            state: text(&action["result"]["state"]),
            completed_at: maybe(&action["result"]["completed_at"]),
            error: maybe(&action["result"]["error"]["code"]),
            approvals: list(&action["approvals"]).iter().map(approval).collect(),
            receipt_ids: list(&action["receipts"]).iter().map(|it| text(&it["receipt_id"])).collect(),
            erased_at: maybe(&action["erased_at"]),
        }
    }
}

fn markdown(report: &Article12) -> String {
    let (session, mandate) = (&report.session, &report.mandate);
    let said = |value: &Value| value.as_str().map_or_else(|| "–".to_owned(), code);
    let id = text(&session["session_id"]);
    let mut page = format!("# Record of session {} under Article 12 of the EU AI Act\n", code(&id));
    let rows = [
        ("Agent", said(&session["agent_id"])),
        ("In the name of", said(&mandate["root_principal"])),
        ("Mandate", said(&session["mandate_id"])),
        ("Gateway", plain(&text(&session["gec_instance_id"]))),
        ("Use began", report.period.from.as_deref().map(code).unwrap_or_default()),
        ("Last record", report.period.to.as_deref().map(code).unwrap_or_default()),
        ("State", said(&session["state"])),
        ("Ended as", said(&session["completion"])),
        ("Left", said(&session["halt"])),
    ];
    page.push_str("\n## Who, and when\n\n| | |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    chain(&mut page, &report.chain);
    let totals = &report.totals;
    let _ = write!(
        page,
        "\n## In figures\n\n{} records, {} cycles, {} anomalies.\n",
        totals.records, totals.cycles, totals.anomalies
    );
    count_table(&mut page, ["decision", "records"], &totals.by_decision);
    count_table(&mut page, ["state", "cycles"], &totals.by_state);
    count_table(&mut page, ["policy", "records"], &report.policies);
    people(&mut page, &report.people);
    cycles(&mut page, &report.cycles);
    records(&mut page, &report.records);
    page
}

fn people(page: &mut String, people: &BTreeMap<String, Did>) {
    page.push_str("\n## Which human\n\n");
    if people.is_empty() {
        page.push_str("Nobody took part.\n");
        return;
    }
    page.push_str("| person | agreed | said no | gave time | ended it |\n|---|---:|---:|---:|---:|\n");
    for (person, did) in people {
        let Did { approved, rejected, extended, ended } = did;
        let _ = writeln!(page, "| {} | {approved} | {rejected} | {extended} | {ended} |", plain(person));
    }
}

fn cycles(page: &mut String, cycles: &[Cycle]) {
    page.push_str(
        "\n## What\n\n| cycle | began | asked by | declared | what | amount | decided | by policy | human | state | receipts |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for cycle in cycles {
        let what = match &cycle.target {
            Some(target) => format!("{} {}", plain(&cycle.verb), plain(target)),
            None => plain(&cycle.verb),
        };
        let state = match &cycle.error {
            Some(error) => format!("{} {}", plain(&cycle.state), code(error)),
            None => plain(&cycle.state),
        };
        let amount = match (&cycle.amount, &cycle.currency) {
            (Some(amount), Some(currency)) => plain(&format!("{amount} {currency}")),
            _ => String::new(),
        };
        let human = |given: &Approval| format!("{} {}", plain(&given.approver), plain(&given.decision));
        let joined = |parts: Vec<String>| parts.join(", ");
        let policies = cycle.decisions.iter().flat_map(|decided| &decided.policies);
        let cells = [
            code(&cycle.cycle_id),
            code(&cycle.began_at),
            plain(&cycle.agent_id),
            cycle.intent_id.as_deref().map(code).unwrap_or_default(),
            what,
            amount,
            joined(cycle.decisions.iter().map(|decided| code(&decided.decision)).collect()),
            joined(policies.map(|id| code(id)).collect()),
            joined(cycle.approvals.iter().map(human).collect()),
            state,
            joined(cycle.receipt_ids.iter().map(|id| code(id)).collect()),
        ];
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

fn records(page: &mut String, records: &[Value]) {
    page.push_str(
        "\n## Every record\n\n| | at | decision | event | declared | record | caused by |\n|---:|---|---|---|---|---|---|\n",
    );
    for record in records {
        let cell = |member: &str| record[member].as_str().map(code).unwrap_or_default();
        let cells = [
            record["session_sequence_number"].to_string(),
            cell("timestamp"),
            cell("governance_decision"),
            cell("ale_type"),
            cell("intent_id"),
            cell("record_id"),
            cell("causal_parent_id"),
        ];
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// The mandate that everybody has in the sandbox.
const EVERYBODYS: &str = "tok-sandbox-public";
