//! Ready policies, for operators to list and copy. Each comes with its cases, which are tests here and examples there.

/// A policy file that says one useful thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// File name without ending.
    pub name: &'static str,
    /// The policies; the header comment says what they mean and what to adapt.
    pub text: &'static str,
    /// Cases as JSON: what is asked, and what becomes of it.
    pub cases: &'static str,
}

impl Template {
    /// The first sentence of the header comment.
    pub fn meaning(&self) -> &'static str {
        let line = self.text.lines().next().unwrap_or_default();
        line.trim_start_matches('/').trim()
    }
}

macro_rules! template {
    ($name:literal) => {
        Template {
            name: $name,
            text: include_str!(concat!("../templates/", $name, ".cedar")),
            cases: include_str!(concat!("../templates/", $name, ".tests.json")),
        }
    };
}

/// The templates, in the order in which they are usually wanted.
pub fn templates() -> &'static [Template] {
    const TEMPLATES: [Template; 10] = [
        template!("sandbox-allow-all"),
        template!("payments-under-amount"),
        template!("payments-escalate-above"),
        template!("known-destinations-only"),
        template!("first-payment-escalates"),
        template!("business-hours-only"),
        template!("night-freeze"),
        template!("group-may-travel"),
        template!("read-only-agents"),
        template!("restricted-data-stays"),
    ];
    &TEMPLATES
}
