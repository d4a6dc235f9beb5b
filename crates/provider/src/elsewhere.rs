//! The provider of what is not carried out here: it stands in where somebody only asks what would become of an action
//! that nothing here is bound to. It has no effect and knows of none.

use std::time::Duration;

use action::Money;
use execution::{Call, Capabilities, Found, Refusal, Reply};
use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};

use crate::binding::identity;
use crate::{Ask, Done, Provider, Rollback, Unquoted};

/// Sends nothing anywhere.
#[derive(Debug)]
pub struct Elsewhere {
    identity: String,
    capabilities: Capabilities,
}

impl Default for Elsewhere {
    fn default() -> Elsewhere {
        Elsewhere { identity: identity(&json!({ "provider": NAME })), capabilities: Capabilities::default() }
    }
}

impl Provider for Elsewhere {
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

    fn call<'a>(&'a self, _call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(ready(Reply::NotSent { why: WHY.to_owned() }))
    }

    fn query<'a>(&'a self, _call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Found> {
        Box::pin(ready(Found::Unknown))
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
        Box::pin(ready(Err(Unquoted { why: WHY.to_owned() })))
    }
}

const NAME: &str = "elsewhere";
const WHY: &str = "it is not carried out here";
