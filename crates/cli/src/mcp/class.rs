//! What a tool does to the world, as far as it matters here: the operator's word, never its server's.

use serde_json::Value;

/// What an operator says of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Class {
    /// It changes nothing, whatever comes of it
    ReadOnly,
    /// It adds, and takes nothing away; twice adds twice
    Additive,
    /// Twice is the same as once
    Idempotent,
    /// Anything else, as long as nobody says more
    Destructive,
}

impl Class {
    pub(super) const ALL: [Class; 4] =
        [Class::ReadOnly, Class::Additive, Class::Idempotent, Class::Destructive];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Class::ReadOnly => "read_only",
            Class::Additive => "additive",
            Class::Idempotent => "idempotent",
            Class::Destructive => "destructive",
        }
    }

    /// The Cedar action group of its tools.
    pub(super) fn group(self) -> &'static str {
        match self {
            Class::ReadOnly => "McpReadOnly",
            Class::Additive => "McpAdditive",
            Class::Idempotent => "McpIdempotent",
            Class::Destructive => "McpDestructive",
        }
    }

    /// What twice does: no more than once.
    pub(super) fn is_repeat_safe(self) -> bool {
        matches!(self, Class::ReadOnly | Class::Idempotent)
    }

    /// What a server's annotations come to, and in which words.
    pub(super) fn proposed(annotations: Option<&Value>) -> (Class, &'static str) {
        let hint = |name: &str| annotations.and_then(|hints| hints.get(name)?.as_bool());
        if hint("destructiveHint") == Some(true) {
            (Class::Destructive, "its annotation destructiveHint says so")
        } else if hint("readOnlyHint") == Some(true) {
            (Class::ReadOnly, "its annotation readOnlyHint says so; not trusted until you classify")
        } else if hint("idempotentHint") == Some(true) {
            (Class::Idempotent, "its annotation idempotentHint says so; not trusted until you classify")
        } else if hint("destructiveHint") == Some(false) {
            (
                Class::Additive,
                "its annotation destructiveHint says that it destroys nothing; not trusted until you classify",
            )
        } else {
            (Class::Destructive, "no annotation says otherwise")
        }
    }
}

/// The Cedar action group of every tool.
pub(super) const EVERY: &str = "Mcp";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_propose_and_silence_is_destructive() {
        let proposed = |hints: Value| Class::proposed(Some(&hints)).0;
        assert_eq!(proposed(json!({"readOnlyHint": true, "destructiveHint": false})), Class::ReadOnly);
        assert_eq!(proposed(json!({"readOnlyHint": true, "destructiveHint": true})), Class::Destructive);
        assert_eq!(proposed(json!({"destructiveHint": true, "idempotentHint": true})), Class::Destructive);
        assert_eq!(proposed(json!({"destructiveHint": false})), Class::Additive);
        assert_eq!(proposed(json!({"destructiveHint": false, "idempotentHint": true})), Class::Idempotent);
        assert_eq!(proposed(json!({"readOnlyHint": "true"})), Class::Destructive);
        assert_eq!(Class::proposed(None).0, Class::Destructive);
    }
}
