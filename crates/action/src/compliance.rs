//! Under which rules an action falls: `compliance` of the Agent Transaction Protocol (sections 6 and 9).

use crate::id::Subject;
use crate::refusal::Refusal;
use crate::request::pointer_to;
use crate::retention::{Deletion, Period};
use crate::text;
use serde_json::{Map, Value};

/// What a request says about the rules that it falls under. It can only ask for more care.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compliance {
    /// The caller's own name for its trail.
    pub audit_trail_id: Option<String>,
    /// The regulations, such as `GDPR-Art-17`.
    pub regulation_refs: Vec<String>,
    /// How widely its data may be known.
    pub data_classification: Option<Classification>,
    /// Whether a person has to agree; who is named to sign off has to be among them.
    pub sign_off_required: bool,
    /// Who has to be among those who agree.
    pub sign_off_by: Option<Subject>,
    /// Whether it has to be possible to ask the provider what became of it.
    pub evidence_required: bool,
    /// The data protection impact assessment.
    pub dpia_ref: Option<String>,
    /// The clinical safety case.
    pub clinical_safety_ref: Option<String>,
    /// Who answers for it (Senior Managers Regime).
    pub smr_accountable: Option<String>,
    /// The assessment by the Government Digital Service.
    pub gds_assessment_ref: Option<String>,
    /// How long the record is kept at least.
    pub retention_policy: Option<Period>,
    /// When the values of the action are erased at the latest.
    pub deletion_policy: Deletion,
    /// All of it as received, without what was null.
    asked: Map<String, Value>,
}

/// How widely data may be known. Stricter is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Classification {
    /// By anybody.
    Public,
    /// Within the organisation.
    Internal,
    /// By those who need it.
    Confidential,
    /// By those who are named.
    Restricted,
}

impl Classification {
    /// All of them, laxest first.
    pub const ALL: [Classification; 4] = [
        Classification::Public,
        Classification::Internal,
        Classification::Confidential,
        Classification::Restricted,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Classification::Public => "public",
            Classification::Internal => "internal",
            Classification::Confidential => "confidential",
            Classification::Restricted => "restricted",
        }
    }

    /// Reads exactly the word of the wire.
    pub fn parse(text: &str) -> Option<Classification> {
        Classification::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

const MEMBERS: [&str; 12] = [
    "audit_trail_id",
    "regulation_refs",
    "data_classification",
    "sign_off_required",
    "sign_off_by",
    "evidence_required",
    "dpia_ref",
    "clinical_safety_ref",
    "smr_accountable",
    "gds_assessment_ref",
    "retention_policy",
    "deletion_policy",
];
/// More regulations than these are no list for people.
const MOST_REGULATIONS: usize = 32;

impl Compliance {
    /// Reads the member `compliance`; null stands for what is absent.
    ///
    /// # Errors
    /// `ValidationFailed` naming the first member that is unknown or misshapen, `CardData` for what looks like a card.
    pub fn read(value: Value) -> Result<Compliance, Refusal> {
        let Value::Object(members) = value else { return Err(Refusal::invalid("", "not an object")) };
        let mut it = Compliance::default();
        for (name, value) in members {
            if !MEMBERS.contains(&name.as_str()) {
                return Err(Refusal::invalid(pointer_to(&name), "no such member in `compliance`"));
            }
            if !value.is_null() {
                it.set(&name, &value)?;
                it.asked.insert(name, value);
            }
        }
        crate::card::refuse(&Value::Object(it.asked.clone()), "", &[])?;
        Ok(it)
    }

    /// As it was asked for.
    pub fn asked(&self) -> &Map<String, Value> {
        &self.asked
    }

    /// Whether a person has to agree.
    pub fn wants_sign_off(&self) -> bool {
        self.sign_off_required || self.sign_off_by.is_some()
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), Refusal> {
        let word = |expected: &str| {
            let why = format!("`{name}` is not {expected}");
            value.as_str().ok_or_else(|| Refusal::invalid(pointer_to(name), why))
        };
        let label = || text::label(name, value).map(Some);
        match name {
            "audit_trail_id" => self.audit_trail_id = label()?,
            "dpia_ref" => self.dpia_ref = label()?,
            "clinical_safety_ref" => self.clinical_safety_ref = label()?,
            "smr_accountable" => self.smr_accountable = label()?,
            "gds_assessment_ref" => self.gds_assessment_ref = label()?,
            "regulation_refs" => self.regulation_refs = regulations(value)?,
            "sign_off_required" => self.sign_off_required = flag(name, value)?,
            "evidence_required" => self.evidence_required = flag(name, value)?,
            "data_classification" => {
                let known = "`public`, `internal`, `confidential` or `restricted`";
                self.data_classification = Some(read(name, word(known)?, Classification::parse, known)?);
            }
            "sign_off_by" => {
                let known = "the name of a person";
                let person = |text: &str| Subject::parse(text).ok();
                self.sign_off_by = Some(read(name, word(known)?, person, known)?);
            }
            "retention_policy" => {
                let known = Period::EXPECTED;
                self.retention_policy = Some(read(name, word(known)?, Period::parse, known)?);
            }
            "deletion_policy" => {
                let known = Deletion::EXPECTED;
                self.deletion_policy = read(name, word(known)?, Deletion::parse, known)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn read<T>(name: &str, text: &str, parse: fn(&str) -> Option<T>, known: &str) -> Result<T, Refusal> {
    parse(text).ok_or_else(|| Refusal::invalid(pointer_to(name), format!("`{name}` is not {known}")))
}

fn flag(name: &str, value: &Value) -> Result<bool, Refusal> {
    value
        .as_bool()
        .ok_or_else(|| Refusal::invalid(pointer_to(name), format!("`{name}` is not true or false")))
}

fn regulations(value: &Value) -> Result<Vec<String>, Refusal> {
    let at = || "/regulation_refs".to_owned();
    let list = value.as_array().ok_or_else(|| Refusal::invalid(at(), "`regulation_refs` is not an array"))?;
    if list.len() > MOST_REGULATIONS {
        return Err(Refusal::invalid(at(), format!("more than {MOST_REGULATIONS} regulations")));
    }
    let one = |(index, value): (usize, &Value)| {
        text::label(&index.to_string(), value).map_err(|refusal| refusal.within("regulation_refs"))
    };
    let mut refs: Vec<String> = list.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    let mut seen = std::collections::HashSet::new();
    refs.retain(|it| seen.insert(it.clone()));
    Ok(refs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn null_is_absent_and_the_named_signer_is_asked_for() {
        let asked = serde_json::json!({
            "sign_off_required": false, "sign_off_by": "anna", "dpia_ref": null, "regulation_refs": ["A", "B", "A"],
        });
        let it = Compliance::read(asked).unwrap();
        assert!(it.wants_sign_off());
        assert_eq!(
            (it.regulation_refs.as_slice(), &it.dpia_ref),
            (["A", "B"].map(String::from).as_slice(), &None)
        );
        assert!(!it.asked().contains_key("dpia_ref"));
    }
}
