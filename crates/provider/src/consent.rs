//! The provider of consent: it has no effect beyond that people agreed, which is on record by then.
//!
//! ```toml
//! [binding]
//! provider = "consent"
//! ```

use std::time::Duration;

use execution::{Call, Capabilities, Confirmation, Found, Idempotent, Reply};
use futures_util::future::{BoxFuture, ready};
use serde_json::json;

use crate::binding::identity;
use crate::reader::{Mistake, Node};
use crate::{Profile, Provider};

/// Confirms whatever came so far.
#[derive(Debug)]
pub(crate) struct Consent {
    profile: Profile,
}

impl Consent {
    pub(crate) fn read(node: &Node<'_>) -> Result<Consent, Vec<Mistake>> {
        node.table(&["provider"]).map_err(|mistake| vec![mistake])?;
        let idempotent = Some(Idempotent { retention: FOR_EVER });
        let capabilities = Capabilities { idempotent, repeat_safe: true, ..Capabilities::default() };
        let identity = identity(&json!({ "provider": NAME }));
        Ok(Consent { profile: Profile { name: NAME.to_owned(), identity, capabilities } })
    }
}

impl Provider for Consent {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn call<'a>(&'a self, call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(ready(Reply::Confirmed(given(call))))
    }

    fn query<'a>(&'a self, call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Found> {
        Box::pin(ready(Found::Confirmed(given(call))))
    }
}

fn given(call: &Call) -> Confirmation {
    let reference = Some(call.action_id.to_string());
    Confirmation { reference, answer: json!({ "consent": "given" }), charged: None, expires_ms: None }
}

const NAME: &str = "consent";
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
