//! Why a request got no outcome.

use action::ActionId;

use crate::Code;

/// A request that never became an action, or an answer we cannot give. No receipt is made for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// The published code.
    pub code: Code,
    /// What happened, for the caller. Never names an internal cause, never holds a secret.
    pub message: String,
    /// Which member or header, as a JSON pointer or header name.
    pub field: Option<String>,
    /// What to do, where this case knows better than the code's general advice.
    pub hint: Option<String>,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
    /// What an access token has to have and this one has not: words of ASCII, as the operator wrote them.
    pub scopes: Vec<String>,
    /// The action of which there is nothing to say, not yet or not any more. Apart, because errors are handed on a lot.
    pub(crate) action: Option<Box<ActionId>>,
}

impl Error {
    /// An error with nothing but its code and what happened.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
            field: None,
            hint: None,
            retry_after: None,
            scopes: Vec::new(),
            action: None,
        }
    }

    /// Names the member or header at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Error {
        self.field = Some(field.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Says which scopes a token has to have.
    #[must_use]
    pub fn scopes(mut self, scopes: &[String]) -> Error {
        self.scopes = scopes.to_vec();
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Error {
        self.retry_after = Some(seconds);
        self
    }

    /// Names the action that the request turned out to be.
    #[must_use]
    pub(crate) fn of(mut self, action: ActionId) -> Error {
        self.action = Some(Box::new(action));
        self
    }
}
