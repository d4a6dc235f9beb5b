//! What the entry of an outcome names: all that is kept of the outcome, and the outcome before it.
//!
//! ```text
//!   SHA-256(JCS({at, outcome, previous, receiptId, reply, state}))
//! ```
//!
//! `outcome` is the SHA-256 of the payload, which has random bytes of its own, so that nobody can guess what was erased;
//! `previous` is what the entry of the action's outcome before this one names. So none can be altered, left out, put back or
//! given to another without the entries telling of it.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Reply, State};

/// What is kept of an outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) at_ms: i64,
    pub(crate) state: State,
    pub(crate) receipt_id: Option<&'a str>,
    pub(crate) sums: Sums,
    /// What the entry of the outcome before it names.
    pub(crate) previous: Option<[u8; 32]>,
}

/// SHA-256 of what is long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    payload: [u8; 32],
    reply: Option<(u16, [u8; 32])>,
}

/// Members in JCS order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    at: i64,
    outcome: String,
    previous: Option<String>,
    receipt_id: Option<&'a str>,
    reply: Option<Answered>,
    state: &'static str,
}

#[derive(Serialize)]
struct Answered {
    body: String,
    status: u16,
}

impl Told<'_> {
    pub(crate) fn name(&self) -> Result<[u8; 32], serde_json::Error> {
        Ok(Sha256::digest(serde_json::to_vec(&self.record())?).into())
    }

    fn record(&self) -> Record<'_> {
        let Told { at_ms, state, receipt_id, sums: Sums { payload, reply }, previous } = *self;
        Record {
            at: at_ms,
            outcome: hex::encode(payload),
            previous: previous.map(hex::encode),
            receipt_id,
            reply: reply.map(|(status, body)| Answered { body: hex::encode(body), status }),
            state: state.as_str(),
        }
    }
}

impl Sums {
    pub(crate) fn of(payload: &[u8], reply: Option<&Reply>) -> Sums {
        let reply = reply.map(|reply| (reply.status, Sha256::digest(&reply.body).into()));
        Sums { payload: Sha256::digest(payload).into(), reply }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Strangers who were given a row and its entry compute the same.
    #[test]
    fn an_outcome_is_named_by_all_that_is_kept_of_it() {
        let reply = Reply { status: 200, body: b"{}".to_vec() };
        let sums = Sums::of(b"payload", Some(&reply));
        let (at_ms, state, receipt_id) = (1_760_000_000_000, State::InDoubt, Some("r-1"));
        let told = Told { at_ms, state, receipt_id, sums, previous: Some([7; 32]) };
        let expected = format!(
            "{{\"at\":1760000000000,\
            \"outcome\":\"239f59ed55e737c77147cf55ad0c1b030b6d7ee748a7426952f9b852d5a935e5\",\
            \"previous\":\"{}\",\"receiptId\":\"r-1\",\
            \"reply\":{{\"body\":\"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\
            \"status\":200}},\"state\":\"in doubt\"}}",
            "07".repeat(32)
        );
        assert_eq!(serde_json::to_string(&told.record()).unwrap(), expected);
        assert_eq!(told.name().unwrap(), <[u8; 32]>::from(Sha256::digest(expected)));
    }
}
