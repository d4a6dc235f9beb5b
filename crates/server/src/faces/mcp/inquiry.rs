//! A client's request, as much of it as those need who handle it, whoever read it: rmcp, or the door itself.

use std::sync::Arc;

use rmcp::model::{ClientCapabilities, ErrorData, Implementation, RequestId, RequestMetaObject};
use rmcp::service::{RequestContext, RoleServer};
use tokio_util::sync::CancellationToken;

use super::mail::Mail;
use super::visit::Visit;

/// A request of a client's that is being handled.
pub(super) struct Inquiry {
    pub(super) id: RequestId,
    pub(super) meta: RequestMetaObject,
    /// Cancelled when nobody waits for its answer any more.
    pub(super) gone: CancellationToken,
    pub(super) visit: Visit,
    /// Whether it is one of 2026-07-28 or later.
    pub(super) is_stateless: bool,
    /// The program that asks, and what can be asked of it.
    pub(super) client: (Implementation, ClientCapabilities),
    /// What is said to its client before it is answered.
    pub(super) mail: Arc<Mail>,
}

impl Inquiry {
    /// # Errors
    /// Nobody is known to have asked.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Result<Inquiry, ErrorData> {
        Ok(Inquiry {
            id: context.id.clone(),
            meta: context.meta.clone(),
            gone: context.ct.clone(),
            visit: Visit::of(&context.extensions)?.clone(),
            is_stateless: is_stateless(context),
            client: (
                context.client_info().unwrap_or_else(unknown),
                context.client_capabilities().unwrap_or_default(),
            ),
            mail: Arc::new(Mail::to(context.peer.clone())),
        })
    }
}

/// Whether the request is one of 2026-07-28 or later.
pub(super) fn is_stateless(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| !version.has_initialize())
}

/// A program that does not say its name.
pub(super) fn unknown() -> Implementation {
    Implementation::new("unknown", "0")
}
