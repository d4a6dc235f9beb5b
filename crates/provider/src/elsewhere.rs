//! The provider of what is not carried out here: it stands in where somebody only asks what would become of an action
//! that nothing here is bound to. It has no effect and knows of none.

use std::time::Duration;

use execution::{Call, Capabilities, Reply};
use futures_util::future::{BoxFuture, ready};
use serde_json::json;

use crate::binding::identity;
use crate::{Profile, Provider};

/// Sends nothing anywhere.
#[derive(Debug)]
pub struct Elsewhere {
    profile: Profile,
}

impl Default for Elsewhere {
    fn default() -> Elsewhere {
        let identity = identity(&json!({ "provider": NAME }));
        Elsewhere {
            profile: Profile { name: NAME.to_owned(), identity, capabilities: Capabilities::default() },
        }
    }
}

impl Provider for Elsewhere {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn call<'a>(&'a self, _call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(ready(Reply::NotSent { why: WHY.to_owned() }))
    }
}

const NAME: &str = "elsewhere";
const WHY: &str = "it is not carried out here";
