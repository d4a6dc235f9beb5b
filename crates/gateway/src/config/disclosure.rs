//! `[disclosure.ROLE]`: what a role is not told of the policies, and why.

use std::collections::BTreeMap;

use boundary::Level;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::admin::most_told;
use crate::approvals::readable_as;
use crate::caller::Role;

/// How much less a role is told than it could be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withheld {
    /// The most that it is told.
    #[serde(serialize_with = "as_written", deserialize_with = "as_read")]
    pub most: Level,
    /// Why, as whoever asks is told. To withhold without a reason is on record, once for each role and set
    /// of policies while a process runs.
    pub reason: Option<String>,
}

impl Withheld {
    /// Why, if anything is said.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty())
    }
}

/// By the name of a role. Whoever audits is told of tier 0 in full, whatever is configured.
pub(super) fn by_role<'de, D>(from: D) -> Result<BTreeMap<String, Withheld>, D::Error>
where
    D: Deserializer<'de>,
{
    let all = BTreeMap::<String, Withheld>::deserialize(from)?;
    for (name, withheld) in &all {
        let wrong = |why: String| D::Error::custom(format!("disclosure.{name}: {why}"));
        let role = Role::parse(name).ok_or_else(|| {
            let roles = Role::ALL.map(Role::as_str).join(", ");
            wrong(format!("there is no such role; there are {roles}"))
        })?;
        let most = most_told(role);
        let reason = withheld.reason.clone();
        readable_as("reason", reason).map_err(|error| wrong(error.message))?;
        if withheld.most >= most {
            return Err(wrong(format!("a key of this role is told {} at most anyway", most.as_str())));
        }
        if most == Level::Full && withheld.most < Level::Summary {
            return Err(wrong("who audits is told SUMMARY at least, and so tier 0 in full".to_owned()));
        }
    }
    Ok(all)
}

fn as_written<S: Serializer>(level: &Level, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(level.as_str())
}

fn as_read<'de, D: Deserializer<'de>>(from: D) -> Result<Level, D::Error> {
    let text = String::deserialize(from)?;
    let levels = Level::ALL.map(Level::as_str).join(", ");
    Level::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is none of {levels}")))
}
