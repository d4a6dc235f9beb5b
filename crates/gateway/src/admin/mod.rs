//! What operators and administrators do: mandates, freezes, keys, rules. Every one of these goes through the running
//! gateway and leaves an entry in the ledger.

mod delegate;
mod extend;
mod freezes;
mod keys;
mod known;
mod mandates;
mod principals;
mod rules;
mod signing;

pub use self::delegate::DelegateAsk;
pub use self::extend::{ExtendAsk, ExtendedMandate};
pub use self::freezes::{FreezeAsk, FreezeScope, FreezeView};
pub use self::keys::{CreatedKey, KeyAsk, KeyView};
pub use self::mandates::{IssuedMandate, MandateAsk, MandateStanding, MandateView, Revocation};
pub(crate) use self::principals::jwk_hash;
pub use self::principals::{PrincipalKeyView, Signs};
pub use self::rules::{DisclosureView, ObserveView, ReloadReport, VIOLATION, WithheldView};
pub(crate) use self::rules::{Hidden, keep_rules, most_told};
pub use self::signing::SigningKeyView;

use serde_json::Value;

use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::tenants::TenantState;
use crate::views::not_found;
use crate::{Code, Error, clock};

impl Gateway {
    /// Is the caller of the first tenant?
    pub(crate) fn runs_the_house(&self, caller: &Caller) -> bool {
        self.config.tenants.first().map(String::as_str) == Some(caller.tenant.as_str())
    }

    /// What reaches beyond a tenant is for an admin of the first tenant, whose operators run the installation.
    pub(super) fn must_run_the_house(&self, caller: &Caller) -> Result<(), Error> {
        caller.must(Deed::Administer)?;
        if self.runs_the_house(caller) {
            return Ok(());
        }
        Err(Error::new(Code::Forbidden, "this reaches beyond the caller's tenant")
            .hint("ask whoever runs the installation"))
    }
}

/// An event of a tenant, its record in canonical form.
pub(crate) fn event(tenant: &TenantState, event: &'static str, record: &Value) -> ledger::Event {
    ledger::Event {
        at_ms: clock::now_ms(),
        tenant_ref: Some(std::sync::Arc::clone(&tenant.reference)),
        event,
        record: action::json::canonical(record).into_bytes(),
    }
}

/// What is listed of these rows. Whoever altered one into what cannot be read keeps nobody from the others.
fn legible<'a, R: 'a, V>(
    rows: impl IntoIterator<Item = &'a R>,
    kind: &str,
    name: impl Fn(&R) -> &str,
    view: impl Fn(&R) -> Result<V, Error>,
) -> Vec<V> {
    let left_out =
        |row| tracing::error!(kind, name = name(row), "a stored row cannot be read and is left out");
    rows.into_iter().filter_map(|row| view(row).inspect_err(|_| left_out(row)).ok()).collect()
}

/// Errors about something that has a name, such as a key; the rest as usual.
pub(crate) fn named(error: ledger::Error, kind: &str) -> Error {
    match error {
        ledger::Error::Absent(_) => not_found(&format!("{kind}, or it has ended")),
        ledger::Error::Exists(name) => Error::new(Code::StateConflict, format!("`{name}` exists already")),
        other => unavailable(other),
    }
}
