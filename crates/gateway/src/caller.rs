//! Who asks, and what their role lets them do.

use action::{Subject, Tenant};

use crate::{Code, Error};

/// What a caller is. One API key has one role; nobody is two of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Asks for actions, sees its own.
    Agent,
    /// A person who decides on what is held.
    Approver,
    /// Issues mandates, freezes and thaws.
    Operator,
    /// Reads everything of the tenant, writes nothing.
    Auditor,
    /// Manages keys, policies and observe mode.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [Role::Agent, Role::Approver, Role::Operator, Role::Auditor, Role::Admin];

    /// The role's name on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Approver => "approver",
            Role::Operator => "operator",
            Role::Auditor => "auditor",
            Role::Admin => "admin",
        }
    }

    /// The role named `text`, if there is one.
    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// The whole table of who may do what.
    pub const fn may(self, deed: Deed) -> bool {
        use Role::*;
        match deed {
            Deed::Execute => matches!(self, Agent),
            Deed::Evaluate => matches!(self, Agent | Operator | Admin),
            Deed::Approve => matches!(self, Approver),
            Deed::Steer | Deed::Delegate => matches!(self, Agent | Operator | Admin),
            Deed::Halt => matches!(self, Agent | Approver | Operator | Admin),
            Deed::ReadOwn => true,
            Deed::ReadTenant => matches!(self, Approver | Operator | Auditor | Admin),
            Deed::Audit => matches!(self, Operator | Auditor | Admin),
            Deed::Govern => matches!(self, Operator | Admin),
            Deed::Administer => matches!(self, Admin),
        }
    }
}

/// What a caller wants to do, as coarse as roles need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Ask for an action.
    Execute,
    /// Ask what an action would come to: an agent its own, who governs any agent's of the tenant.
    Evaluate,
    /// Agree to what is held, or say no.
    Approve,
    /// Have an action tried again, or call it off: an agent its own, an operator any of the tenant.
    Steer,
    /// Hand a mandate on: an agent one that it holds, an operator any of the tenant.
    Delegate,
    /// End a session: an agent its own, by its own word; the others any of the tenant.
    Halt,
    /// Read actions and receipts of one's own.
    ReadOwn,
    /// Read everything of the tenant.
    ReadTenant,
    /// Read the audit trail and have it checked.
    Audit,
    /// Issue and revoke mandates, freeze and thaw.
    Govern,
    /// Manage API keys, signing keys, policies, observe mode.
    Administer,
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The tenant whose rows they may touch.
    pub tenant: Tenant,
    /// Who they are; the agent named in receipts.
    pub subject: Subject,
    /// What they may do.
    pub role: Role,
    /// The credential used, for the record; idempotency never depends on it.
    pub key_id: String,
    /// Who made the credential, where that is known: whoever gives the right to ask does not also agree.
    pub key_issuer: Option<String>,
    /// The mandate (`jti`) used when a request brings no token.
    pub default_mandate: Option<String>,
}

impl Caller {
    /// Lets the deed through or says who could do it.
    ///
    /// # Errors
    /// `EP_FORBIDDEN`, naming the roles. Without quotation marks, which would keep it from agents.
    pub fn must(&self, deed: Deed) -> Result<(), Error> {
        if self.role.may(deed) {
            return Ok(());
        }
        let able: Vec<&str> =
            Role::ALL.iter().filter(|role| role.may(deed)).map(|role| role.as_str()).collect();
        let why = format!("this takes a key of role {}, not {}", one_of(&able), self.role.as_str());
        Err(Error::new(Code::Forbidden, why))
    }
}

/// `a`, `a or b`, `a, b or c`.
fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agents_execute_and_only_admins_administer() {
        let who = |deed| Role::ALL.into_iter().filter(move |role| role.may(deed)).collect::<Vec<_>>();
        assert_eq!(who(Deed::Execute), [Role::Agent]);
        assert_eq!(who(Deed::Evaluate), [Role::Agent, Role::Operator, Role::Admin]);
        assert_eq!(who(Deed::Approve), [Role::Approver]);
        assert_eq!(who(Deed::Administer), [Role::Admin]);
        assert_eq!(who(Deed::Govern), [Role::Operator, Role::Admin]);
        assert_eq!(who(Deed::Steer), [Role::Agent, Role::Operator, Role::Admin]);
        assert_eq!(who(Deed::Audit), [Role::Operator, Role::Auditor, Role::Admin]);
        assert!(!Role::Auditor.may(Deed::Govern));
    }
}
