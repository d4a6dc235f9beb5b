//! What an action may be called, folded so that spelling cannot hide it.

/// The longest name of an archetype: that of an MCP tool alone may have 128 characters.
pub(crate) const MAX_ARCHETYPE: usize = 200;

/// The form in which names are compared with the hard-deny list: the last segment of an MCP name, lower case,
/// without anything that is not a letter or digit. `mcp/logs/deleteAuditLog`, `Delete-Audit_Log` and
/// `delete audit.log` are one name.
pub fn normalised(name: &str) -> String {
    folded(name.rsplit('/').next().unwrap_or(name))
}

/// Every normal form under which an action could be denied: the archetype's name, verb and target both ways
/// round, what is left of each after its namespaces (`/ : . # | \ __`) are cut off one by one, and what was cut
/// off put behind it (`audit_log.delete`).
pub fn names(archetype: &str, verb: Option<&str>, target: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |name: &str| {
        for start in std::iter::once(0).chain(segment_starts(name)) {
            let rest = folded(&name[start..]);
            let turned = rest.clone() + &folded(&name[..start]);
            for candidate in [rest, turned] {
                if !candidate.is_empty() && !found.contains(&candidate) {
                    found.push(candidate);
                }
            }
        }
    };
    add(archetype);
    if let Some(verb) = verb {
        add(verb);
    }
    if let (Some(verb), Some(target)) = (verb, target) {
        add(&format!("{verb} {target}"));
        add(&format!("{target} {verb}"));
    }
    found
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Where a namespace ends and a shorter name begins.
fn segment_starts(name: &str) -> impl Iterator<Item = usize> + '_ {
    let bytes = name.as_bytes();
    (1..bytes.len()).filter(move |at| {
        name.is_char_boundary(*at)
            && (b"/:.#|\\".contains(&bytes[at - 1]) || (*at > 1 && &bytes[at - 2..*at] == b"__"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_does_not_hide_a_name() {
        for name in [
            "delete_audit_log",
            "DELETE_AUDIT_LOG",
            "deleteAuditLog",
            "DeleteAuditLog",
            "delete-audit-log",
            "delete.audit.log",
            "delete audit log",
            "_delete__audit__log_",
            "mcp/logs/delete_audit_log",
            "mcp/logs/deleteAuditLog",
        ] {
            assert_eq!(normalised(name), "deleteauditlog", "{name}");
        }
        assert_ne!(normalised("delete_audit_logs"), "deleteauditlog");
    }

    #[test]
    fn verb_and_target_and_namespaces_are_candidates() {
        let has = |archetype: &str, verb: Option<&str>, target: Option<&str>| {
            names(archetype, verb, target).contains(&"deleteauditlog".to_owned())
        };
        assert!(has("X", Some("delete"), Some("audit_log")));
        assert!(has("X", Some("audit-log"), Some("Delete")));
        assert!(has("X", Some("logs.delete"), Some("audit log")));
        for name in [
            "mcp__logs__delete_audit_log",
            "logs:delete_audit_log",
            "tools.delete_audit_log",
            "audit_log.delete",
            "audit-log/delete",
            "a/b/delete__audit__log",
        ] {
            assert!(has(name, None, None), "{name}");
        }
        assert!(!has("read_audit_log", Some("read"), Some("audit_log")));
    }
}
