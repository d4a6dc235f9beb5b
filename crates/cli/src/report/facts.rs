//! What a report says: actions' records, counted and put in order. The JSON form, documented in `docs/retention.md`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::audit::Checked;

/// A report; members in the order in which they are documented.
#[derive(Serialize)]
pub(super) struct Report {
    /// Name and version of this form.
    format: &'static str,
    pub(super) regulation: String,
    pub(super) from: String,
    pub(super) to: String,
    /// What the walk along the whole chain came to.
    pub(super) chain: Chain,
    pub(super) totals: Totals,
    /// What people said about the actions, by person.
    pub(super) oversight: BTreeMap<String, Said>,
    pub(super) exceptions: Exceptions,
    pub(super) retention: Retention,
    /// What the requests refer to: impact assessments, safety cases, who answers for them.
    pub(super) references: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// In the order in which they came in.
    pub(super) actions: Vec<Action>,
}

#[derive(Serialize)]
pub(super) struct Chain {
    pub(super) whole: bool,
    pub(super) entries: u64,
    pub(super) receipts: u64,
    pub(super) approvals: u64,
    pub(super) head: Option<String>,
    pub(super) findings: Vec<Value>,
}

#[derive(Default, Serialize)]
pub(super) struct Totals {
    pub(super) actions: u64,
    pub(super) by_state: BTreeMap<String, u64>,
    pub(super) by_guarantee_level: BTreeMap<String, u64>,
    pub(super) by_archetype: BTreeMap<String, u64>,
    pub(super) by_agent: BTreeMap<String, u64>,
    pub(super) by_error: BTreeMap<String, u64>,
}

#[derive(Default, Serialize)]
pub(super) struct Said {
    pub(super) approved: u64,
    pub(super) rejected: u64,
}

/// Ids of actions that did not simply go well.
#[derive(Default, Serialize)]
pub(super) struct Exceptions {
    pub(super) failed: Vec<String>,
    pub(super) rolled_back: Vec<String>,
    pub(super) rollback_failed: Vec<String>,
    /// Of which what is reserved could not be set free.
    pub(super) release_failed: Vec<String>,
    /// That were carried out, and of which nobody tells whether all is as it should be.
    pub(super) unchecked: Vec<String>,
    /// Of which it is not known what became of them.
    pub(super) in_doubt: Vec<String>,
    /// That were being sent.
    pub(super) sent: Vec<String>,
    /// That had no effect so far and wait for another attempt.
    pub(super) waiting: Vec<String>,
    /// That were carried out, and are looked after before that is said.
    pub(super) checking: Vec<String>,
}

#[derive(Default, Serialize)]
pub(super) struct Retention {
    /// So many nobody can erase yet, or once they are over.
    pub(super) retained: u64,
    /// So many are to be erased by themselves.
    pub(super) to_be_erased: u64,
    pub(super) erased: u64,
}

/// One action as it stands now; what is erased is null.
#[derive(Serialize)]
pub(super) struct Action {
    pub(super) action_id: String,
    pub(super) created_at: String,
    pub(super) agent_id: String,
    pub(super) archetype: String,
    pub(super) verb: String,
    pub(super) target: Option<String>,
    pub(super) guarantee_level: String,
    pub(super) state: String,
    pub(super) completed_at: Option<String>,
    pub(super) error: Option<String>,
    /// Who agreed.
    pub(super) approved_by: Vec<String>,
    pub(super) receipt_ids: Vec<String>,
    pub(super) retained_until: Option<String>,
    pub(super) deletion_due: Option<String>,
    pub(super) erased_at: Option<String>,
    pub(super) erased_by: Option<String>,
}

const REFERENCES: [&str; 4] = ["dpia_ref", "clinical_safety_ref", "smr_accountable", "gds_assessment_ref"];

impl Report {
    /// From records as `GET /v1/actions/{id}` answers them.
    pub(super) fn of([regulation, from, to]: [&str; 3], records: &[Value], chain: &Checked) -> Report {
        let mut report = Report {
            format: "countersign-report/1",
            regulation: regulation.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            chain: Chain::of(chain),
            totals: Totals::default(),
            oversight: BTreeMap::new(),
            exceptions: Exceptions::default(),
            retention: Retention::default(),
            references: BTreeMap::new(),
            actions: records.iter().map(Action::of).collect(),
        };
        report.actions.sort_by(|a, b| a.action_id.cmp(&b.action_id));
        records.iter().for_each(|record| report.count(record));
        report.exceptions.in_order();
        report
    }

    fn count(&mut self, record: &Value) {
        self.totals.count(record);
        self.exceptions.take(record);
        self.retention.count(record);
        for given in record["approvals"].as_array().into_iter().flatten() {
            let said = self.oversight.entry(text(&given["approver"])).or_default();
            match given["decision"].as_str() {
                Some("approve") => said.approved += 1,
                _ => said.rejected += 1,
            }
        }
        for name in REFERENCES {
            if let Some(value) = record["compliance"][name].as_str() {
                *self.references.entry(name).or_default().entry(value.to_owned()).or_default() += 1;
            }
        }
    }
}

impl Chain {
    pub(super) fn of(checked: &Checked) -> Chain {
        Chain {
            whole: checked.is_whole(),
            entries: checked.entries,
            receipts: checked.receipts,
            approvals: checked.approvals,
            head: checked.head.as_str().map(str::to_owned),
            findings: checked.findings.clone(),
        }
    }
}

impl Totals {
    fn count(&mut self, record: &Value) {
        self.actions += 1;
        let mut count = |counts: fn(&mut Totals) -> &mut BTreeMap<String, u64>, value: &Value| {
            if let Some(value) = value.as_str() {
                *counts(self).entry(value.to_owned()).or_default() += 1;
            }
        };
        count(|it| &mut it.by_state, &record["result"]["state"]);
        count(|it| &mut it.by_guarantee_level, &record["guarantee_level"]);
        count(|it| &mut it.by_archetype, &record["archetype"]);
        count(|it| &mut it.by_agent, &record["agent_id"]);
        count(|it| &mut it.by_error, &record["result"]["error"]["code"]);
    }
}

impl Exceptions {
    fn take(&mut self, record: &Value) {
        let list = match (record["result"]["state"].as_str(), record["phase"].as_str()) {
            (Some("FAILED"), _) => &mut self.failed,
            (Some("ROLLED_BACK"), _) => &mut self.rolled_back,
            (_, Some("rollback_failed")) => &mut self.rollback_failed,
            (_, Some("release_failed")) => &mut self.release_failed,
            (_, Some("unchecked")) => &mut self.unchecked,
            (_, Some("in_doubt")) => &mut self.in_doubt,
            (_, Some("sent")) => &mut self.sent,
            (_, Some("waiting")) => &mut self.waiting,
            (_, Some("checking")) => &mut self.checking,
            _ => return,
        };
        list.push(text(&record["action_id"]));
    }

    fn in_order(&mut self) {
        let Exceptions {
            failed,
            rolled_back,
            rollback_failed,
            release_failed,
            unchecked,
            in_doubt,
            sent,
            waiting,
            checking,
        } = self;
        let lists = [
            failed,
            rolled_back,
            rollback_failed,
            release_failed,
            unchecked,
            in_doubt,
            sent,
            waiting,
            checking,
        ];
        lists.into_iter().for_each(|list| list.sort());
    }
}

impl Retention {
    fn count(&mut self, record: &Value) {
        if record["erased_at"].is_string() {
            self.erased += 1;
            return;
        }
        let retention = &record["retention"];
        self.retained += u64::from(retention["retention_policy"].is_string());
        self.to_be_erased += u64::from(retention["deletion_policy"].is_string());
    }
}

impl Action {
    fn of(record: &Value) -> Action {
        let list = |value: &Value, wanted: &dyn Fn(&Value) -> Option<String>| {
            value.as_array().into_iter().flatten().filter_map(wanted).collect()
        };
        let agreed = |given: &Value| (given["decision"] == "approve").then(|| text(&given["approver"]));
        let maybe = |value: &Value| value.as_str().map(str::to_owned);
        Action {
            action_id: text(&record["action_id"]),
            created_at: text(&record["created_at"]),
            agent_id: text(&record["agent_id"]),
            archetype: text(&record["archetype"]),
            verb: text(&record["action"]["verb"]),
            target: maybe(&record["action"]["target"]),
            guarantee_level: text(&record["guarantee_level"]),
            state: text(&record["result"]["state"]),
            completed_at: maybe(&record["result"]["completed_at"]),
            error: maybe(&record["result"]["error"]["code"]),
            approved_by: list(&record["approvals"], &agreed),
            receipt_ids: list(&record["receipts"], &|receipt| maybe(&receipt["receipt_id"])),
            retained_until: maybe(&record["retention"]["retained_until"]),
            deletion_due: maybe(&record["retention"]["deletion_due"]),
            erased_at: maybe(&record["erased_at"]),
            erased_by: maybe(&record["erased_by"]),
        }
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
