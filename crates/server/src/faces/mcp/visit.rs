//! Whose message it is: what the door knows of it and the face needs.

use std::sync::Arc;

use gateway::Caller;
use http::request::Parts;
use rmcp::model::{ErrorData, Extensions};

use super::delivery::Slot;
use super::listen::Opened;

/// One message from a caller who was let in.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) caller: Arc<Caller>,
    /// Names it in logs.
    pub(super) request_id: Arc<str>,
    /// What is delivered when its answer is.
    pub(super) slot: Arc<Slot>,
    /// What was opened for it to listen to.
    pub(super) opened: Option<Arc<Opened>>,
}

impl Visit {
    /// The visit of a message: the door puts it into the head of the HTTP request, the pipes into the message itself.
    pub(super) fn of(extensions: &Extensions) -> Result<&Visit, ErrorData> {
        let direct = extensions.get::<Visit>();
        let by_head = || extensions.get::<Parts>()?.extensions.get::<Visit>();
        direct
            .or_else(by_head)
            .ok_or_else(|| ErrorData::internal_error("nobody is known to have asked", None))
    }
}
