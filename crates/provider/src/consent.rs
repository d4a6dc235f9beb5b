//! The provider of consent: it has no effect beyond that people agreed, which is on record by then.
//!
//! ```toml
//! [binding]
//! provider = "consent"
//! ```

use std::time::Duration;

use action::Money;
use execution::{Call, Capabilities, Confirmation, Found, Idempotent, Refusal, Reply};
use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};

use crate::binding::identity;
use crate::reader::{Mistake, Node};
use crate::{Ask, Done, Provider, Rollback, Unquoted};

/// Confirms whatever came so far.
#[derive(Debug)]
pub(crate) struct Consent {
    identity: String,
    capabilities: Capabilities,
}

impl Consent {
    pub(crate) fn read(node: &Node<'_>) -> Result<Consent, Vec<Mistake>> {
        node.table(&["provider"]).map_err(|mistake| vec![mistake])?;
        let idempotent = Some(Idempotent { retention: FOR_EVER });
        let capabilities = Capabilities { idempotent, repeat_safe: true, ..Capabilities::default() };
        Ok(Consent { identity: identity(&json!({ "provider": NAME })), capabilities })
    }
}

impl Provider for Consent {
    fn name(&self) -> &str {
        NAME
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
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

    fn rollback(&self) -> Option<Rollback> {
        None
    }

    fn undo<'a>(&'a self, _call: &'a Call, _done: Done<'a>, _now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(ready(Reply::Refused(Refusal::default())))
    }

    fn snapshot<'a>(&'a self, _ask: Ask<'a>) -> BoxFuture<'a, Result<Option<Value>, Unquoted>> {
        Box::pin(ready(Ok(None)))
    }

    fn quote<'a>(&'a self, _ask: Ask<'a>) -> BoxFuture<'a, Result<Money, Unquoted>> {
        Box::pin(ready(Err(Unquoted { why: "consent has no price".to_owned() })))
    }
}

fn given(call: &Call) -> Confirmation {
    let reference = Some(call.action_id.to_string());
    Confirmation { reference, answer: json!({ "consent": "given" }), charged: None, expires_ms: None }
}

const NAME: &str = "consent";
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
