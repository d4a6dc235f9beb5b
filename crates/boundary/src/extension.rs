//! Extending the time budget of a mandate: an action of its own, asked of the policies and of nothing else.

use action::{Attribute, Environment, Subject, Tenant};

use crate::context::{self, Attributes};
use crate::own::{self, Unpermitted};
use crate::{Policies, PolicyRef};

/// More time for a mandate, and who asks for it.
#[derive(Debug, Clone)]
pub struct Extension<'a> {
    /// Real or pretended effects.
    pub environment: Environment,
    /// Whose mandate.
    pub tenant: &'a Tenant,
    /// The person who extends.
    pub person: &'a Subject,
    /// The role of the credential they came with.
    pub role: &'static str,
    /// The mandate.
    pub mandate_id: &'a str,
    /// Who gave it, or the first of those it descends from.
    pub issuer: &'a str,
    /// The agent that holds it.
    pub agent: &'a str,
    /// How much more.
    pub seconds: u64,
    /// What was granted on top before.
    pub granted_seconds: i64,
    /// What is left of its time.
    pub remaining_seconds: u64,
    /// Whether a cycle waits for it.
    pub awaited: bool,
    /// The time, in Unix milliseconds.
    pub now_ms: i64,
}

impl Extension<'_> {
    /// Asks the policies that name `ExtendBudget`; answers with those that permit it. A person is asking already, so what
    /// asks for a person forbids here, and so does any doubt.
    ///
    /// # Errors
    /// Why not.
    pub fn permitted(&self, policies: &Policies) -> Result<Vec<PolicyRef>, Unpermitted> {
        let principal = policies.principal(true, self.person.as_str());
        let attributes = self.attributes();
        own::ask(
            policies,
            policies.extension(),
            principal,
            self.tenant.as_str(),
            self.mandate_id,
            &attributes,
        )
    }

    /// As [`crate::schema`] declares them.
    fn attributes(&self) -> Attributes<'_> {
        use Attribute::{Bool, Long, Record, Str};
        let mandate =
            vec![("agent", Str(self.agent)), ("id", Str(self.mandate_id)), ("issuer", Str(self.issuer))];
        vec![
            ("awaited", Bool(self.awaited)),
            ("environment", Str(self.environment.as_str())),
            ("granted_seconds", Long(self.granted_seconds)),
            ("mandate", Record(mandate)),
            ("remaining_seconds", Long(context::long(self.remaining_seconds))),
            ("role", Str(self.role)),
            ("seconds", Long(context::long(self.seconds))),
            ("tenant", Str(self.tenant.as_str())),
            ("time", context::time(self.now_ms)),
        ]
    }
}
