//! A payer who must confirm first: what an answer says of that.

use std::time::Duration;

use execution::{Call, Challenge, Reply};
use serde_json::Value;
use url::Url;

use super::answer::{moment, not_understood};
use super::rule::{Rule, Side};
use crate::egress::{HostPort, Origin};
use crate::reader::{Mistake, Node};

/// How an answer is read that has the payer confirm at an address.
#[derive(Debug)]
pub(super) struct ChallengeReading {
    pub(super) rule: Rule,
    url: String,
    /// How long a payer has at most.
    pub(super) within: Duration,
    /// Where the answer says until when, if it does.
    expires: Option<String>,
    /// Where people may be sent, as the operator says.
    hosts: Vec<HostPort>,
}

impl ChallengeReading {
    pub(super) fn read(node: &Node<'_>, hosts: &[HostPort]) -> Result<ChallengeReading, Mistake> {
        let table = node.table(&[&Rule::MEMBERS[..], &["url", "within_seconds", "expires"]].concat())?;
        if hosts.is_empty() {
            let hint =
                "the gateway's own configuration lists them: egress.challenge_hosts = [\"pay.bank.example\"]";
            return Err(node.mistake("there is no host to which a payer may be sent").hint(hint));
        }
        let within = table.need("within_seconds")?.whole(1, MOST_SECONDS)?;
        Ok(ChallengeReading {
            rule: Rule::of(&table, Side::Success)?,
            url: table.need("url")?.pointer()?,
            within: Duration::from_secs(within),
            expires: table.get("expires").map(|node| node.pointer()).transpose()?,
            hosts: hosts.to_vec(),
        })
    }

    /// What the payer is asked. An answer that is not as the binding describes it decides nothing.
    pub(super) fn judge(&self, body: &Value, call: &Call, now_ms: i64) -> Reply {
        let found = self.url_in(body).and_then(|url| Ok((url, self.until(body, call, now_ms)?)));
        match found {
            Ok((url, until_ms)) => Reply::Challenged(Challenge { url, until_ms }),
            Err(why) => not_understood(why.to_owned()),
        }
    }

    /// As the parser that checked it writes it, so that no other one can take it for another place.
    fn url_in(&self, body: &Value) -> Result<String, &'static str> {
        let text = body.pointer(&self.url).and_then(Value::as_str);
        let text = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
        let url = text.and_then(|text| Url::parse(text).ok()).ok_or("the challenge has no address")?;
        if url.scheme() != "https" {
            return Err("the challenge's address is not HTTPS");
        }
        let origin = Origin::of(&url).map_err(|_| "the challenge's address is not one for people")?;
        if !self.hosts.contains(origin.at()) {
            return Err("the challenge's address is at no host of `egress.challenge_hosts`");
        }
        let url = String::from(url);
        if url.len() > MOST_URL_BYTES {
            return Err("the challenge's address is too long");
        }
        Ok(url)
    }

    fn until(&self, body: &Value, call: &Call, now_ms: i64) -> Result<i64, &'static str> {
        let within_ms = i64::try_from(self.within.as_millis()).unwrap_or(i64::MAX / 2);
        let Some(pointer) = &self.expires else { return Ok(now_ms.saturating_add(within_ms)) };
        let until_ms =
            body.pointer(pointer).and_then(moment).ok_or("the challenge does not say until when")?;
        // What can be confirmed for longer than is declared could still be after its absence was taken to be final.
        if until_ms > call.send_by_ms.saturating_add(within_ms) {
            return Err("the challenge can be answered for longer than `within_seconds`");
        }
        Ok(until_ms)
    }
}

/// A month.
const MOST_SECONDS: u64 = 31 * 86_400;
const MOST_URL_BYTES: usize = 2048;
