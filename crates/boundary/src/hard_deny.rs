//! Names that are never carried out, whoever asks and whatever any policy says.
//!
//! A list in code and not a policy, because Cedar cannot name what the catalogue does not know: the question is asked
//! of the bare name, before catalogue and schema. It counts as tier 0-A.

use std::collections::BTreeSet;

/// The built-in list in plain words. The first three are the protocol's own; the others do the same under names that
/// tools commonly give it. Only names that can mean nothing else stand here, because nobody can take one off.
pub const BUILT_IN: [&str; 18] = [
    "delete_audit_log",
    "disable_boundary",
    "rotate_master_key",
    "alter_audit_log",
    "bypass_boundary",
    "clear_audit_log",
    "delete_audit_logs",
    "delete_audit_trail",
    "delete_master_key",
    "disable_audit_log",
    "disable_audit_logging",
    "export_master_key",
    "export_signing_key",
    "overwrite_audit_log",
    "purge_audit_log",
    "remove_boundary",
    "replace_master_key",
    "truncate_audit_log",
];

/// The built-in names and the operator's own, in normal form. The operator adds; nothing removes.
#[derive(Debug, Clone)]
pub struct HardDeny {
    names: BTreeSet<String>,
}

impl HardDeny {
    /// The built-in list with the operator's additions.
    pub fn with(additions: &[String]) -> HardDeny {
        let all = BUILT_IN.iter().copied().chain(additions.iter().map(String::as_str));
        HardDeny { names: all.map(normal).filter(|name| !name.is_empty()).collect() }
    }

    /// The listed name that an action goes by, if it does: its archetype's name or any part of it behind a namespace,
    /// or its verb and target in either order.
    pub fn denies(&self, archetype: &str, verb: Option<&str>, target: Option<&str>) -> Option<&str> {
        let [archetype, verb, target] = [Some(archetype), verb, target].map(|name| name.map(narrow));
        action::names(archetype.as_deref().unwrap_or_default(), verb.as_deref(), target.as_deref())
            .iter()
            .find_map(|candidate| self.names.get(candidate))
            .map(String::as_str)
    }

    /// Normal forms, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

fn normal(name: &str) -> String {
    action::normalised(&narrow(name))
}

/// Full-width forms of ASCII read as ASCII to people, and so they do here.
fn narrow(name: &str) -> String {
    let ascii = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        '\u{3000}' => ' ',
        other => other,
    };
    name.chars().map(ascii).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, denied: bool) {
        let list = HardDeny::with(&["wire-everything".to_owned()]);
        assert_eq!(list.denies(name, None, None).is_some(), denied, "{name}");
    }

    #[test]
    fn spelling_does_not_get_past_the_list() {
        for name in [
            "delete_audit_log",
            "DELETE_AUDIT_LOG",
            "deleteAuditLog",
            "Delete-Audit.Log",
            "delete audit log",
            "mcp/server/Delete-Audit.Log",
            "mcp__server__delete_audit_log",
            "server:disableBoundary",
            "rotate_master_key",
            "d_e_l_e_t_e_audit_log",
            "ｄｅｌｅｔｅ＿ａｕｄｉｔ＿ｌｏｇ",
            "delete\u{200b}_audit_log",
            "WIRE_EVERYTHING",
        ] {
            check(name, true);
        }
        for name in ["PAYMENT_TRANSFER", "read_audit_log", "", "delete_audit_log_entry_draft"] {
            check(name, false);
        }
    }

    #[test]
    fn verb_and_target_are_read_together() {
        let list = HardDeny::with(&[]);
        assert!(list.denies("tool", Some("delete"), Some("audit-log")).is_some());
        assert!(list.denies("tool", Some("Audit Log"), Some("delete")).is_some());
        assert!(list.denies("tool", Some("read"), Some("audit-log")).is_none());
    }

    #[test]
    fn additions_remove_nothing() {
        let list = HardDeny::with(&["x".to_owned(), "!delete_audit_log".to_owned(), String::new()]);
        assert!(BUILT_IN.iter().all(|name| list.denies(name, None, None).is_some()));
    }
}
