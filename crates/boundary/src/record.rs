//! The decision record: what was asked, of which policies, and what came of it; enough to decide again.
//!
//! Made with every decision and therefore cheap to make: it holds what the decision had in hand anyway, and becomes
//! bytes only when [`Record::to_bytes`] is called. It names people, amounts and destinations, so it belongs in the
//! erasable store.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use action::json::write_string;
use cedar_policy::EntityUid;
use serde::Deserialize;
use serde_json::Value;

use crate::anomaly::Assessment;
use crate::ask::{CycleAnswers, Opinion, Question};
use crate::policies::Cast;
use crate::{Policies, PolicyRef, Series};

/// The layout; another layout gets another number.
pub(crate) const FORMAT: u32 = 1;

/// The layout of a cycle's record: the same with `cycle`, which whoever does not know it must not leave out.
pub(crate) const FORMAT_OF_CYCLE: u32 = 2;

/// The engine that decided: its package and its language.
pub(crate) static ENGINE: LazyLock<String> = LazyLock::new(|| {
    format!("cedar-policy {} (Cedar {})", cedar_policy::get_sdk_version(), cedar_policy::get_lang_version())
});

/// What is needed to decide again. Opaque; written with [`Record::to_bytes`] and read by [`crate::replay`].
#[derive(Debug)]
pub struct Record {
    action: Arc<str>,
    /// Policies that ask for a person and were agreed to.
    approved: Vec<PolicyRef>,
    asked: Option<Asked>,
    catalog_digest: Arc<str>,
    cycle: Option<AskedOfCycle>,
    entity_digest: Arc<str>,
    math: Option<(Assessment, Series, [u8; 32])>,
    objections: Vec<Noted>,
    observe: bool,
    policy_digest: Arc<str>,
    verdict: String,
}

/// The question that Cedar was asked, and its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    action: EntityUid,
    cast: Arc<Cast>,
    /// Canonical JSON.
    context: String,
    opinion: Opinion,
    principal: EntityUid,
    resource: EntityUid,
    /// Before a quote, default deny did not count.
    pub(crate) default_deny_waits: bool,
}

/// The questions that only a cycle is asked.
#[derive(Debug)]
struct AskedOfCycle {
    branches: Vec<Option<Asked>>,
    gate: Option<Asked>,
}

/// An objection that did not come from Cedar, as far as weighing it again needs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Noted {
    pub(crate) blocks: bool,
    pub(crate) liftable: bool,
    pub(crate) stage: Box<str>,
    pub(crate) word: Box<str>,
}

/// A record as it is read back.
#[derive(Debug, Deserialize)]
pub(crate) struct Read {
    pub(crate) action: String,
    /// Only there when an action that waited was judged again.
    #[serde(default)]
    pub(crate) approved: Vec<ReadPolicy>,
    pub(crate) asked: Option<ReadAsked>,
    #[serde(rename = "catalogDigest")]
    pub(crate) catalog_digest: String,
    /// Only there where the action was a cycle.
    #[serde(default)]
    pub(crate) cycle: Option<ReadCycle>,
    pub(crate) engine: String,
    #[serde(rename = "entityDigest")]
    pub(crate) entity_digest: String,
    pub(crate) objections: Vec<Noted>,
    pub(crate) observe: bool,
    #[serde(rename = "policyDigest")]
    pub(crate) policy_digest: String,
    pub(crate) v: u32,
    pub(crate) verdict: String,
}

/// See [`AskedOfCycle`].
#[derive(Debug, Deserialize)]
pub(crate) struct ReadCycle {
    pub(crate) branches: Vec<Option<ReadBranch>>,
    pub(crate) gate: Option<ReadAsked>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadBranch {
    pub(crate) action: String,
    pub(crate) asked: ReadAsked,
}

/// See [`Asked`].
#[derive(Debug, Deserialize)]
pub(crate) struct ReadAsked {
    pub(crate) context: Value,
    pub(crate) decision: String,
    pub(crate) default_deny_waits: bool,
    pub(crate) entities: Value,
    pub(crate) policies: Vec<ReadPolicy>,
    pub(crate) principal: Value,
    pub(crate) resource: Value,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadPolicy {
    pub(crate) digest: String,
    pub(crate) id: String,
}

impl Asked {
    pub(crate) fn new(
        question: Question,
        context: String,
        opinion: Opinion,
        default_deny_waits: bool,
    ) -> Asked {
        let Question { action, cast, principal, resource, .. } = question;
        Asked { action, cast, context, opinion, principal, resource, default_deny_waits }
    }
}

impl Record {
    pub(crate) fn new(
        policies: &Policies,
        action: Arc<str>,
        asked: Option<Asked>,
        objections: Vec<Noted>,
        observe: bool,
        math: Option<(Assessment, Series, [u8; 32])>,
        verdict: String,
    ) -> Record {
        Record {
            action,
            approved: Vec::new(),
            asked,
            catalog_digest: policies.catalog_digest().clone(),
            cycle: None,
            entity_digest: policies.entity_digest().clone(),
            math,
            objections,
            observe,
            policy_digest: policies.policy_digest().clone(),
            verdict,
        }
    }

    /// The same, with the policies that ask for a person and were agreed to.
    pub(crate) fn approving(self, approved: Vec<PolicyRef>) -> Record {
        Record { approved, ..self }
    }

    /// The same, with what only a cycle is asked.
    pub(crate) fn of_cycle(self, answers: Option<CycleAnswers>) -> Record {
        let cycle = answers.map(|answers| AskedOfCycle {
            branches: answers.branches.into_iter().map(|told| told.asked).collect(),
            gate: answers.gate.asked,
        });
        Record { cycle, ..self }
    }

    /// Canonical JSON (RFC 8785).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::with_capacity(3072);
        out.push_str("{\"action\":");
        write_string(&self.action, &mut out);
        if !self.approved.is_empty() {
            out.push_str(",\"approved\":");
            write_policies(&self.approved, &mut out);
        }
        out.push_str(",\"asked\":");
        match &self.asked {
            Some(asked) => asked.write(&mut out),
            None => out.push_str("null"),
        }
        member("catalogDigest", &self.catalog_digest, &mut out);
        if let Some(cycle) = &self.cycle {
            cycle.write(&mut out);
        }
        member("engine", &ENGINE, &mut out);
        member("entityDigest", &self.entity_digest, &mut out);
        out.push_str(",\"math\":");
        match &self.math {
            Some((math, series, salt)) => write_math(math, series, salt, &mut out),
            None => out.push_str("null"),
        }
        out.push_str(",\"objections\":[");
        for (index, noted) in self.objections.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let Noted { blocks, liftable, stage, word } = noted;
            let _ = write!(
                out,
                r#"{comma}{{"blocks":{blocks},"liftable":{liftable},"stage":"{stage}","word":"{word}"}}"#
            );
        }
        let _ = write!(out, "],\"observe\":{}", self.observe);
        member("policyDigest", &self.policy_digest, &mut out);
        let format = if self.cycle.is_some() { FORMAT_OF_CYCLE } else { FORMAT };
        let _ = write!(out, ",\"v\":{format}");
        member("verdict", &self.verdict, &mut out);
        out.push('}');
        out.into_bytes()
    }
}

impl AskedOfCycle {
    fn write(&self, out: &mut String) {
        out.push_str(",\"cycle\":{\"branches\":[");
        for (index, branch) in self.branches.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            let Some(asked) = branch else {
                out.push_str("null");
                continue;
            };
            out.push_str("{\"action\":");
            write_string(asked.action.id().unescaped(), out);
            out.push_str(",\"asked\":");
            asked.write(out);
            out.push('}');
        }
        out.push_str("],\"gate\":");
        match &self.gate {
            Some(asked) => asked.write(out),
            None => out.push_str("null"),
        }
        out.push('}');
    }
}

impl Asked {
    fn write(&self, out: &mut String) {
        out.push_str("{\"advice\":");
        write_policies(&self.opinion.advice, out);
        out.push_str(",\"context\":");
        out.push_str(&self.context);
        let (decision, policies) = self.opinion.answer.summary();
        member("decision", decision, out);
        let _ = write!(out, ",\"default_deny_waits\":{},\"entities\":", self.default_deny_waits);
        out.push_str(&self.cast.json);
        out.push_str(",\"policies\":");
        write_policies(policies, out);
        for (name, uid) in [("principal", &self.principal), ("resource", &self.resource)] {
            let _ = write!(out, ",\"{name}\":{{\"id\":");
            write_string(uid.id().unescaped(), out);
            member("type", &uid.type_name().to_string(), out);
            out.push('}');
        }
        out.push('}');
    }
}

fn write_policies(policies: &[PolicyRef], out: &mut String) {
    out.push('[');
    for (index, policy) in policies.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str("{\"digest\":");
        write_string(&policy.digest, out);
        member("id", &policy.id, out);
        out.push('}');
    }
    out.push(']');
}

/// Opens the receipt's commitment to the sample: hexadecimal series and salt.
fn write_math(math: &Assessment, series: &Series, salt: &[u8; 32], out: &mut String) {
    let outside = math.outside.map_or("none", |outside| outside.word());
    let Assessment { mad, median, n, .. } = math;
    let _ = write!(out, r#"{{"mad":"{mad}","median":"{median}","n":{n},"outside":"{outside}","salt":""#);
    write_hex(salt, out);
    out.push_str("\",\"series\":\"");
    write_hex(&series.to_bytes(), out);
    out.push_str("\"}");
}

/// Lower-case hex, without the library's detour over an iterator of characters.
pub(crate) fn write_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn member(name: &str, value: &str, out: &mut String) {
    let _ = write!(out, ",\"{name}\":");
    write_string(value, out);
}
