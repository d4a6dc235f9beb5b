//! `tools/call`, through the gateway and at the server itself: what it costs a client that its tools are governed.
//!
//! The server is in this process, over HTTP; the gateway and the load client are processes of their own, as everywhere. Both
//! loads are the same calls of the same tool: each says something else, and when the run is over what came back is read as JSON
//! and held against what was sent. Through the gateway each call is an action under a mandate, with a key that is made for it,
//! that is delivered with its answer, and the answer has to name its receipt.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::Client;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Serialize;
use serde_json::{Value, json};
use testkit::tools::{self, Tools as Server};

use super::load::{self, Answers, Plan, Taken, Until};
use super::runs::{Kept, Run, warm_up_ms};
use super::sample::{self, SHOP, TOOL};
use super::served::Site;
use super::{Effort, proxy, tell};
use crate::error::{Context, Error, Result};

/// The same calls with nothing between, with what only passes them on, and through a gateway.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pair {
    pub(crate) direct: Run,
    pub(crate) passed: Run,
    pub(crate) through: Run,
}

impl Pair {
    /// What the gateway adds to the median.
    pub(crate) fn added_p50_ms(&self) -> f64 {
        self.through.p50_ms - self.direct.p50_ms
    }
}

/// Every pair whose name is wanted.
pub(crate) fn measure(folder: &Path, effort: &Effort, wanted: impl Fn(&str) -> bool) -> Result<Vec<Pair>> {
    let pairs = PAIRS.iter().filter(|callers| wanted(callers.name));
    pairs.map(|callers| callers.measure(folder, effort)).collect()
}

/// What they are called.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PAIRS.iter().map(|callers| callers.name)
}

/// So many clients at once.
struct Callers {
    name: &'static str,
    connections: usize,
    /// Of 2025-11-25, a session each; else of 2026-07-28.
    sessions: bool,
}

/// The one with a single client, to be held against the main path's.
pub(crate) const ALONE: &str = "1 MCP client";
/// The one with as many clients as the main path has connections.
pub(crate) const MAIN: &str = "64 MCP clients";

const PAIRS: [Callers; 4] = [
    Callers { name: ALONE, connections: 1, sessions: false },
    Callers { name: MAIN, connections: 64, sessions: false },
    Callers { name: "1 MCP client, session", connections: 1, sessions: true },
    Callers { name: "64 MCP clients, a session each", connections: 64, sessions: true },
];

impl Callers {
    fn measure(&self, folder: &Path, effort: &Effort) -> Result<Pair> {
        let upstream = Upstream::start()?;
        let proxy = proxy::start(upstream.address)?;
        Ok(Pair {
            direct: self.bare("direct", upstream.address, std::process::id(), effort)?,
            passed: self.bare("passed on", proxy.address, proxy.id(), effort)?,
            through: self.through(&upstream, folder, effort)?,
        })
    }

    /// Without a gateway.
    fn bare(&self, how: &str, address: SocketAddr, process: u32, effort: &Effort) -> Result<Run> {
        let until = match effort.until {
            Until::Millis(millis) => Until::Millis(millis.min(4000)),
            Until::Actions(_) => Until::Millis(4000),
        };
        let place = Place { address, path: "/mcp".to_owned(), key: "none" };
        let plan = self.plan(&place, &[None], (until, effort), Answers::OfTool { with_receipt: false })?;
        let name = format!("{}, {how}", self.name);
        let load = load::run(&plan, process, &name)?;
        Ok(Run::of(name, self.connections, &load, None))
    }

    fn through(&self, upstream: &Upstream, folder: &Path, effort: &Effort) -> Result<Run> {
        let bar = tell::doing("mandates and sessions of MCP clients");
        let site = Site::before_tools(folder, &upstream.address.to_string(), &upstream.pinned()?)?;
        let gateway = site.serve()?;
        let mandates: Vec<_> = gateway.mandates_for_tools(MANDATES)?.into_iter().map(Some).collect();
        let (address, path) = (gateway.server.address, format!("/mcp/{SHOP}"));
        let place = Place { address, path, key: gateway.agent_key() };
        let until = (effort.until, effort);
        let plan = self.plan(&place, &mandates, until, Answers::OfTool { with_receipt: true })?;
        bar.finish_and_clear();
        let before = site.left()?;
        let load = load::run(&plan, gateway.server.id(), self.name)?;
        let step_us = gateway.steps()?;
        gateway.server.end();
        let kept = Kept::between(before, site.left()?, load.outcome.sent, step_us);
        Ok(Run::of(self.name.to_owned(), self.connections, &load, Some(kept)))
    }

    fn plan(
        &self,
        place: &Place<'_>,
        mandates: &[Option<String>],
        (until, effort): (Until, &Effort),
        answers: Answers,
    ) -> Result<Plan> {
        let host = place.address.to_string();
        let request = |client: sample::Client<'_>, mandate: &Option<String>| {
            sample::tool_request((&host, &place.path, place.key), client, mandate.as_deref())
        };
        let (requests, taken): (Vec<String>, _) = if self.sessions {
            let clients = place.greet(self.connections)?;
            let each = clients.iter().zip(mandates.iter().cycle());
            (each.map(|(id, mandate)| request(sample::Client::Session(id), mandate)).collect(), Taken::ByOne)
        } else {
            let each = mandates.iter().map(|mandate| request(sample::Client::Stateless, mandate));
            (each.collect(), Taken::ByAll)
        };
        let plan = Plan::of(place.address, self.connections, until, requests);
        Ok(Plan { warm_up_ms: warm_up_ms(effort), taken, answers, ..plan })
    }
}

/// Where tools are called, and as whom.
struct Place<'a> {
    address: SocketAddr,
    path: String,
    key: &'a str,
}

impl Place<'_> {
    /// Opens so many sessions as clients of 2025-11-25 do; their ids.
    fn greet(&self, count: usize) -> Result<Vec<String>> {
        let cannot = || format!("cannot open an MCP session at {}", self.address);
        let http = Client::builder().no_proxy().timeout(PATIENCE).build().while_we(cannot)?;
        let say = |message: &Value, id: Option<&str>| {
            let request = http
                .post(format!("http://{}{}", self.address, self.path))
                .bearer_auth(self.key)
                .header(ACCEPT, "application/json, text/event-stream")
                .header(CONTENT_TYPE, "application/json");
            let request = match id {
                Some(id) => request.header(SESSION, id).header("mcp-protocol-version", sample::SESSIONS),
                None => request,
            };
            let sent = request.body(message.to_string()).send();
            sent.and_then(reqwest::blocking::Response::error_for_status).while_we(cannot)
        };
        let greet = |_| {
            let greeted = say(&sample::greeting(), None)?;
            let id = greeted.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
            let id = id.ok_or_else(|| Error::new("the MCP server opened no session"))?;
            greeted.bytes().while_we(cannot)?;
            say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }), Some(&id))?;
            Ok(id)
        };
        (0..count).map(greet).collect()
    }
}

/// The server, in this process.
struct Upstream {
    server: Server,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Upstream {
    fn start() -> Result<Upstream> {
        let cannot = || "cannot start an MCP server".to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().while_we(cannot)?;
        let server = runtime.block_on(Server::forgetful(&[tools::SESSIONS, tools::STATELESS]));
        let server = server.while_we(cannot)?;
        let address = server.url().trim_start_matches("http://").trim_end_matches("/mcp");
        let address = address.parse().while_we(cannot)?;
        Ok(Upstream { server, address, _runtime: runtime })
    }

    /// The digest of what it says of the tool.
    fn pinned(&self) -> Result<String> {
        let listed = self.server.listed();
        let tool = listed.iter().find(|tool| tool.name == TOOL);
        tool.map(provider::mcp::digest_of).ok_or_else(|| Error::new("the MCP server has no such tool"))
    }
}

/// That an answer is the one to the call of this number.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn must_answer(body: &[u8], serial: &str, with_receipt: bool) -> std::result::Result<(), String> {
    let said = || String::from_utf8_lossy(body).into_owned();
    let message: Value =
        serde_json::from_slice(message_in(body)).map_err(|_| format!("no JSON: {}", said()))?;
    let result = &message["result"];
    let right = message["id"] == serial
        && result["content"][0]["text"] == *sample::spoken(serial)
        && result["isError"] != true;
    let receipt = &result["_meta"]["io.countersign/receipt"]["id"];
    let proven = !with_receipt || receipt.as_str().is_some_and(|id| !id.is_empty());
    if right && proven { Ok(()) } else { Err(format!("call {serial} was answered: {}", said())) }
}

/// The last event of a stream, or the whole of what is none.
fn message_in(body: &[u8]) -> &[u8] {
    let mut events = body.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
    events.next_back().unwrap_or(body)
}

const SESSION: &str = "mcp-session-id";
/// As many as the main path has.
const MANDATES: usize = 256;
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_only_for_the_call_that_it_is_to() {
        let answer = |id: &str, text: &str, meta: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":"{id}","result":{{"content":[{{"type":"text","text":"{text}"}}]{meta}}}}}"#
            )
        };
        let proven = r#","_meta":{"io.countersign/receipt":{"id":"r","url":"u"}}"#;
        let (id, text) = ("000000000007", "measured-000000000007");
        let right = answer(id, text, proven);
        assert_eq!(must_answer(right.as_bytes(), id, true), Ok(()));
        let stream = format!("id: 0\nretry: 3000\ndata: \n\nid: 1\ndata: {right}\n\n");
        assert_eq!(must_answer(stream.as_bytes(), id, true), Ok(()));
        assert_eq!(must_answer(answer(id, text, "").as_bytes(), id, false), Ok(()));
        for wrong in [
            answer(id, text, ""),
            answer(id, "measured-000000000008", proven),
            answer("000000000008", text, proven),
            answer(id, text, &format!(r#","isError":true{proven}"#)),
            right[1..].to_owned(),
        ] {
            assert!(must_answer(wrong.as_bytes(), id, true).is_err(), "{wrong}");
        }
    }

    /// Short, and of whatever build: it shows that everything works, and says nothing of speed.
    #[test]
    fn clients_of_both_revisions_have_their_answers_at_the_server() {
        let upstream = Upstream::start().expect("a server");
        assert_eq!(upstream.pinned().expect("it has the tool").len(), 64);
        let place = Place { address: upstream.address, path: "/mcp".to_owned(), key: "none" };
        assert_eq!(place.greet(2).expect("two sessions").len(), 2);
    }
}
