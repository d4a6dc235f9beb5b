//! Calls of tools while the database is away: who makes one does not wait for it for long, and the same call again is told what
//! became of it. Who is waited for is whoever acts, or decides.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::postgres::{Cluster, End};
use testkit::tools::{STATELESS, Tools};
use tokio::task::JoinSet;

use crate::asides::{ASK_FOR_READS, Client, reading, until};
use crate::house::Plan;
use crate::outage::{SILENT, Silent};
use crate::street::Street;

/// Gateways before a server whose tools count, take their time, and are agreed to by people.
struct Market {
    street: Street,
    tools: Tools,
}

impl Market {
    async fn new() -> Option<Market> {
        let tools = Tools::start(&[STATELESS]).await.unwrap();
        let pinned = |name: &str| {
            let tool = tools.listed().into_iter().find(|tool| tool.name == name).unwrap();
            provider::mcp::digest_of(&tool)
        };
        let files = [
            ("catalogue/default/count.toml", acting("count", "key", "string", &pinned("count"))),
            ("catalogue/default/slow.toml", acting("slow", "steps", "integer", &pinned("slow"))),
            ("catalogue/default/echo.toml", reading(&pinned("echo"))),
            ("policies/default/shop.cedar", format!("{LET_ACT}{ASK_FOR_READS}")),
        ];
        let server = format!("[mcp.servers.shop]\nurl = \"{}\"\ntenant = \"default\"\n", tools.url());
        let at = tools.url().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap().to_owned();
        let plan = Plan {
            config: format!("[mcp]\nstore_seconds = 2\nwait_seconds = 3\n{server}"),
            files: files.map(|(path, text)| (path.to_owned(), text)).to_vec(),
            reach: vec![at],
            ..Plan::default()
        };
        Some(Market { street: Street::with(plan).await?, tools })
    }

    fn agent(&self) -> Client {
        Client::new(self.street.house.agent())
    }
}

const LET_ACT: &str =
    "permit (principal, action in [Action::\"mcp/shop/count\", Action::\"mcp/shop/slow\"], resource);\n";

/// A tool that has an effect.
fn acting(tool: &str, argument: &str, kind: &str, pinned: &str) -> String {
    let (opaque, example) = if kind == "string" { ("x-opaque = true\n", "\"x\"") } else { ("", "1") };
    format!(
        r#"name = "mcp/shop/{tool}"
description = "A tool"
reversible = true
[duplicate]
on = "allow"
[schema.properties.{argument}]
type = "{kind}"
description = "d"
{opaque}examples = [{example}]
[binding]
provider = "mcp"
server = "shop"
tool = "{tool}"
pinned = "{pinned}"
"#
    )
}

fn count(key: &str) -> Value {
    json!({"name": "count", "arguments": {"key": key}})
}

/// Takes longer than the store is waited for.
fn slow() -> Value {
    json!({"name": "slow", "arguments": {"steps": 150}})
}

fn is_unavailable(said: &Value) -> bool {
    let (refused, result) = (&said["code"], &said["result"]["structuredContent"]["code"]);
    refused == "EP_UNAVAILABLE" || result == "EP_UNAVAILABLE"
}

async fn in_vain(client: &Client, call: &Value) {
    let said = tokio::time::timeout(SILENT, client.call(call)).await.expect("it waits for the database");
    assert!(is_unavailable(&said), "{said}");
    // The same call of before may be acting.
    let text = said.to_string();
    assert!(!text.contains("does nothing") || text.contains("or tells of one before"), "{text}");
}

/// The same call again, until there is something to say of it.
async fn until_told(client: &Client, call: &Value) -> Value {
    for _ in 0..300 {
        let said = client.call(call).await;
        let is_in_flight = said["result"]["structuredContent"]["kind"] == "in_flight";
        if !is_unavailable(&said) && !is_in_flight {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it is never told what became of a call")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_a_tool_does_not_wait_for_a_database_that_says_nothing() {
    let Some(mut market) = Market::new().await else { return };
    let agent = market.agent();
    until_told(&agent, &count("before")).await;

    // Nobody but the database is cut short.
    let held = json!({"name": "echo", "arguments": {"text": "a"}});
    let slow = slow();
    let (slow, held) = tokio::join!(agent.call(&slow), agent.call(&held));
    assert_eq!(slow["result"]["content"][0]["text"], "done", "{slow}");
    let held = &held["result"]["structuredContent"];
    assert_eq!(held["kind"], "held", "{held}");
    let status =
        json!({"name": "countersign_status", "arguments": {"transaction_id": held["transaction_id"]}});

    let silent = Silent::from_now_on(&market.street);
    let mut asked = JoinSet::new();
    for number in 0..50 {
        let agent = agent.clone();
        asked.spawn(async move { in_vain(&agent, &count(&format!("k-{number}"))).await });
    }
    let looks = agent.clone();
    asked.spawn(async move { in_vain(&looks, &status).await });
    asked.join_all().await;
    drop(silent);
    market.street.cluster.stop(End::Fast);
    in_vain(&agent, &count("k-0")).await;
    market.street.cluster.run().unwrap();

    for number in 0..10 {
        let key = format!("k-{number}");
        let told = until_told(&agent, &count(&key)).await;
        assert_eq!(told["result"]["structuredContent"], json!({"count": 1, "key": key}), "{told}");
    }
    for number in 0..50 {
        let times = market.tools.count(&format!("k-{number}"));
        assert_eq!(times, u64::from(number < 10), "k-{number}: nothing of it was done by itself");
    }
}

/// The same of what its tool had in hand by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tool_does_while_the_database_says_nothing_is_told_to_the_same_call() {
    let Some(market) = Market::new().await else { return };
    let agent = market.agent();
    until_told(&agent, &count("before")).await;
    let begun = async {
        until("the tool is called", async || market.tools.calls().len() == 2).await;
        Silent::from_now_on(&market.street)
    };
    let call = slow();
    let ((), silent) = tokio::join!(in_vain(&agent, &call), begun);
    in_vain(&agent, &call).await;
    drop(silent);
    let told = until_told(&agent, &call).await;
    let is_done = told["result"]["content"][0]["text"] == "done";
    let is_open = told["result"]["structuredContent"]["kind"] == "pending_settlement";
    assert!(is_done || is_open, "{told}");
    assert_eq!(market.tools.calls().len(), 2, "it was called once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_does_nothing_and_one_that_is_written_is_joined() {
    let Some(market) = Market::new().await else { return };
    let agent = market.agent();
    until_told(&agent, &count("before")).await;
    // What it is judged by cannot be read, or what was decided cannot be written.
    for (table, says) in [
        ("delivery", "this request does nothing; the same once more does it"),
        ("claim IN SHARE MODE", "what became of it is not known yet"),
    ] {
        let locked = Locked::from_now_on(&market.street.cluster, table);
        let said = agent.call(&count(table)).await;
        assert!(is_unavailable(&said), "{said}");
        let text = said["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("make the same call again") && text.contains(says), "{text}");
        drop(locked);
        let mut told = until_told(&agent, &count(table)).await;
        if told["result"]["structuredContent"]["reasons"] == json!(["send_window_missed"]) {
            // It was on record too late to be sent. Now that its client knows, the same call is another one.
            assert_eq!(told["result"]["_meta"]["io.countersign/replayed"], true, "{told}");
            told = until_told(&agent, &count(table)).await;
        }
        assert_eq!(told["result"]["structuredContent"]["count"], 1, "{told}");
        assert_eq!(market.tools.count(table), 1, "{table}");
    }
}

/// A table that nobody else writes, or even reads, until this is dropped.
struct Locked(Child, Option<ChildStdin>);

impl Locked {
    fn from_now_on(cluster: &Cluster, table: &str) -> Locked {
        let mut psql: Command = cluster.client("psql");
        psql.args(["-qAtX", "-d", "postgres"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = psql.spawn().unwrap();
        let mut says = psql.stdin.take().unwrap();
        writeln!(says, "BEGIN; LOCK TABLE production.{table}; SELECT 'locked';").unwrap();
        let mut heard = String::new();
        BufReader::new(psql.stdout.as_mut().unwrap()).read_line(&mut heard).unwrap();
        assert_eq!(heard.trim(), "locked");
        Locked(psql, Some(says))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // With nothing more to be said to it the transaction ends.
        drop(self.1.take());
        self.0.wait().unwrap();
    }
}
