//! What a client without a session is asked by one gateway it may answer at any other.

use std::time::Duration;

use ledger::{Ledger, State, Stored};
use serde_json::{Value, json};
use testkit::tools::{SESSIONS, STATELESS, Tools};

use crate::house::{Plan, Voice};
use crate::street::{GATEWAYS, Street, everything};

/// Gateways before one server, which the tenant `default` calls `shop`, and the tenant `other` calls `farm`.
struct Market {
    street: Street,
    tools: Tools,
}

#[derive(Clone, Copy)]
enum Asks {
    InBetween,
    ByAnswers,
}

impl Market {
    /// Before a server that asks by requests of its own, or by its answers.
    async fn new(asks: Asks) -> Option<Market> {
        Market::judged(asks, "").await
    }

    /// The same, with more rules for `shop`.
    async fn judged(asks: Asks, rules: &str) -> Option<Market> {
        let revision = match asks {
            Asks::InBetween => SESSIONS,
            Asks::ByAnswers => STATELESS,
        };
        let tools = Tools::start(&[revision]).await.unwrap();
        let tool = tools.listed().into_iter().find(|tool| tool.name == "enrol").unwrap();
        let pinned = provider::mcp::digest_of(&tool);
        let server = |name: &str, tenant: &str| {
            format!("[mcp.servers.{name}]\nurl = \"{}\"\ntenant = \"{tenant}\"\n", tools.url())
        };
        let config = format!("{}{}", server("shop", "default"), server("farm", "other"));
        let files = [("default", "shop"), ("other", "farm")].map(|(tenant, server)| {
            let path = |folder: &str, file: &str| format!("{folder}/{tenant}/{file}");
            [
                (path("catalogue", "enrol.toml"), archetype(server, &pinned)),
                (
                    path("policies", "enrol.cedar"),
                    format!("permit (principal, action == Action::\"mcp/{server}/enrol\", resource);\n")
                        + if server == "shop" { rules } else { "" },
                ),
            ]
        });
        let tool = tools.listed().into_iter().find(|tool| tool.name == "echo").unwrap();
        let mut files = files.concat();
        files.push(("catalogue/default/echo.toml".to_owned(), reading(&provider::mcp::digest_of(&tool))));
        files.push(("policies/default/echo.cedar".to_owned(), ASK_FOR_READS.to_owned()));
        let at = tools.url().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap().to_owned();
        let plan = Plan { config, files, reach: vec![at], ..Plan::default() };
        Some(Market { street: Street::with(plan).await?, tools })
    }

    /// The agent, at each of the gateways.
    fn agents(&mut self) -> Vec<Client> {
        let agent = self.street.house.agent();
        self.street.everywhere(&agent).into_iter().map(Client::new).collect()
    }

    /// The same, with tasks.
    fn agents_with_tasks(&mut self) -> Vec<Client> {
        let able = json!({"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}});
        self.agents().into_iter().map(|agent| Client { capabilities: able.clone(), ..agent }).collect()
    }

    /// A task that enrols two, which somebody has agreed to.
    async fn agreed(&self, agent: &Client, key: &str) -> String {
        let task = agent.call(&enrol(key, 2)).await;
        let id = task["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{task}")).to_owned();
        let approver = self.street.house.voice("default", "approver");
        let path = format!("/v1/actions/{id}/approve");
        let agreed = approver.post(&path, &json!({"comment": "checked"})).await;
        assert_eq!(agreed.status, 200, "{}", agreed.text());
        id
    }

    /// What somebody is enrolled under a key by is one effect, one action, and one receipt.
    async fn happened_once(&self, store: &dyn Ledger, key: &str) {
        assert_eq!(self.tools.count(key), 1, "{key}");
        let actions = self.actions(store, key).await;
        let [action] = actions.as_slice() else { panic!("{key}: {} actions", actions.len()) };
        assert_eq!(action.state, State::Executed, "{key}");
        let outcomes = store.outcomes(&action.tenant, action.id).await.unwrap();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.receipt.is_some()).count(), 1, "{key}");
    }

    async fn actions(&self, store: &dyn Ledger, key: &str) -> Vec<Stored> {
        let all = everything(store).await;
        let of = |action: &Stored| {
            let payload = String::from_utf8_lossy(&action.payload).into_owned();
            payload.contains(&format!("\"{key}\""))
        };
        all.into_iter().filter(of).collect()
    }

    /// What lies on the shelf: rows, and those of them in which these words can be read.
    fn shelf(&self, words: &str) -> (u64, u64) {
        let columns = ["questions", "said", "result"]
            .map(|column| format!("position('{words}' in encode(coalesce({column}, ''), 'escape')) > 0"));
        let sql = format!(
            "SELECT count(*) || ' ' || count(*) FILTER (WHERE {}) FROM production.aside",
            columns.join(" OR ")
        );
        let told = self.street.cluster.sql("postgres", &sql).unwrap();
        let (all, legible) = told.split_once(' ').unwrap();
        (all.parse().unwrap(), legible.parse().unwrap())
    }

    async fn until_the_shelf_is_empty(&self) {
        until("the shelf is empty", async || self.shelf("-").0 == 0).await;
    }

    /// Whether a gateway has what lies there in hand for a client of another.
    fn is_taken_up(&self) -> bool {
        let sql = "SELECT count(*) FROM production.aside WHERE taker IS NOT NULL";
        self.street.cluster.sql("postgres", sql).unwrap().trim() != "0"
    }

    /// Has the store refuse rounds from this one on, or none any more.
    fn refuse(&self, from: Option<u32>) {
        let sql = match from {
            Some(round) => format!("ADD CONSTRAINT refuse CHECK (round < {round}) NOT VALID"),
            None => "DROP CONSTRAINT refuse".to_owned(),
        };
        self.street.cluster.sql("postgres", &format!("ALTER TABLE production.aside {sql}")).unwrap();
    }
}

pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not come to pass that {what}");
}

fn archetype(server: &str, pinned: &str) -> String {
    format!(
        r#"name = "mcp/{server}/enrol"
description = "A tool"
reversible = true
[duplicate]
on = "allow"
[schema.properties.key]
type = "string"
description = "d"
x-opaque = true
examples = ["x"]
[schema.properties.names]
type = "integer"
description = "d"
examples = [1]
[binding]
provider = "mcp"
server = "{server}"
tool = "enrol"
pinned = "{pinned}"
"#
    )
}

/// A tool of the shop's that only reads. A person has to agree to it.
pub(crate) fn reading(pinned: &str) -> String {
    format!(
        r#"name = "mcp/shop/echo"
description = "A tool"
reversible = true
[schema.properties.text]
type = "string"
description = "d"
x-opaque = true
examples = ["x"]
[binding]
provider = "mcp"
server = "shop"
tool = "echo"
read_only = true
pinned = "{pinned}"
"#
    )
}

pub(crate) const ASK_FOR_READS: &str = r#"permit (principal, action == Action::"mcp/shop/echo", resource);
@id("ask") @escalate
forbid (principal, action == Action::"mcp/shop/echo", resource);
"#;

/// A client of 2026-07-28 that can be asked.
#[derive(Clone)]
pub(crate) struct Client {
    voice: Voice,
    path: &'static str,
    capabilities: Value,
    meta: Value,
}

impl Client {
    pub(crate) fn new(voice: Voice) -> Client {
        Client { voice, path: "/mcp/shop", capabilities: json!({"elicitation": {}}), meta: json!({}) }
    }

    /// Everything that is said to one request; its answer comes last.
    async fn ask(&self, method: &str, mut params: Value) -> Vec<Value> {
        params["_meta"] = self.meta.clone();
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(REVISION);
        params["_meta"]["io.modelcontextprotocol/clientInfo"] = json!({"name": "test", "version": "1"});
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        let request = self
            .voice
            .request("POST", self.path)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", REVISION)
            .header("mcp-method", method)
            .header("mcp-name", params["name"].as_str().or(params["taskId"].as_str()).unwrap());
        let message = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let text = request.json(&message).send().await.unwrap().text().await.unwrap();
        let lines = text.lines().map(|line| line.strip_prefix("data:").unwrap_or(line).trim());
        lines.filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) async fn call(&self, params: &Value) -> Value {
        self.ask("tools/call", params.clone()).await.pop().unwrap()
    }

    /// Makes the call and is asked.
    async fn asked(&self, params: &Value) -> Value {
        let asked = self.call(params).await;
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        asked["result"].clone()
    }

    async fn task(&self, id: &str) -> Value {
        let told = self.ask("tasks/get", json!({"taskId": id})).await.pop().unwrap();
        told["result"].clone()
    }

    /// What a task asks, once it is not what it asked before.
    async fn question(&self, id: &str, before: &str) -> String {
        for _ in 0..600 {
            let asked = self.task(id).await["inputRequests"].clone();
            let key = asked.as_object().and_then(|asked| asked.keys().next().cloned());
            if let Some(key) = key.filter(|key| key != before) {
                return key;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it asks nothing")
    }

    /// Answers what is asked by these keys with these names.
    async fn say(&self, id: &str, names: &[(&str, &str)]) {
        let answer = |name: &str| json!({"action": "accept", "content": {"name": name}});
        let answers: Value = names.iter().map(|(key, name)| ((*key).to_owned(), answer(name))).collect();
        let params = json!({"taskId": id, "inputResponses": answers});
        let said = self.ask("tasks/update", params).await.pop().unwrap();
        assert!(said.get("result").is_some(), "{said}");
    }

    /// Answers by one of these keys with so many bytes.
    async fn say_much(&self, id: &str, key: &str, bytes: usize) -> Value {
        let answer = json!({"action": "accept", "content": {"name": "x".repeat(bytes)}});
        let params = json!({"taskId": id, "inputResponses": {key: answer}});
        self.ask("tasks/update", params).await.pop().unwrap()
    }

    async fn cancel(&self, id: &str) {
        let cancelled = self.ask("tasks/cancel", json!({"taskId": id})).await.pop().unwrap();
        assert!(cancelled.get("result").is_some(), "{cancelled}");
    }

    /// The end of a task.
    async fn over(&self, id: &str) -> Value {
        until("it is over", async || self.task(id).await["status"] == "completed").await;
        self.task(id).await["result"].clone()
    }
}

const REVISION: &str = "2026-07-28";

fn enrol(key: &str, names: u64) -> Value {
    json!({"name": "enrol", "arguments": {"key": key, "names": names}})
}

/// The same request with an answer to what was asked.
fn answered(params: &Value, asked: &Value, name: &str) -> Value {
    let mut again = params.clone();
    again["requestState"] = asked["requestState"].clone();
    let asked = asked["inputRequests"].as_object().unwrap();
    let answer = json!({"action": "accept", "content": {"name": name}});
    again["inputResponses"] = asked.keys().map(|key| (key.clone(), answer.clone())).collect();
    again
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_gateway_asked_is_answered_at_any_other() {
    for asks in [Asks::InBetween, Asks::ByAnswers] {
        let Some(mut market) = Market::new(asks).await else { return };
        let (agents, store) = (market.agents(), market.street.store().await);

        // One question.
        let one = enrol("one", 1);
        let asked = agents[0].asked(&one).await;
        assert_eq!(market.shelf("Who is"), (1, 0), "what is asked lies there sealed");
        let telling = Client { meta: json!({"progressToken": "p"}), ..agents[1].clone() };
        let mut said = telling.ask("tools/call", answered(&one, &asked, "Ann Bonny")).await;
        let done = said.pop().unwrap();
        assert_eq!(
            done["result"]["structuredContent"],
            json!({"count": 1, "names": ["Ann Bonny"]}),
            "{done}"
        );
        assert!(done["result"]["_meta"]["io.countersign/receipt"]["id"].is_string(), "{done}");
        assert_eq!(
            done["result"]["_meta"]["io.countersign/replayed"],
            Value::Null,
            "it is told the first time"
        );
        // What its server tells meanwhile is told. In a session what comes last may be overtaken by the result.
        assert!(said.len() == 1 || matches!(asks, Asks::InBetween), "{said:?}");
        assert!(said.iter().all(|told| told["params"]["progressToken"] == "p"), "{said:?}");
        market.happened_once(&*store, "one").await;
        // Whoever told it has delivered it.
        let anew = agents[1].asked(&one).await;
        let done = agents[1].call(&answered(&one, &anew, "Ann Bonny")).await;
        assert_eq!(done["result"]["structuredContent"]["count"], 2, "{done}");

        // One after the other, each at the next.
        let three = enrol("three", 3);
        let mut asked = agents[0].asked(&three).await;
        for (number, name) in ["ann", "bob"].into_iter().enumerate() {
            let next = agents[(number + 1) % GATEWAYS].call(&answered(&three, &asked, name)).await;
            asked = next["result"].clone();
            assert_eq!(asked["resultType"], "input_required", "{next}");
        }
        let done = agents[0].call(&answered(&three, &asked, "cid")).await;
        let names = json!(["ann", "bob", "cid"]);
        assert_eq!(done["result"]["structuredContent"], json!({"count": 1, "names": names}), "{done}");
        market.happened_once(&*store, "three").await;
        // Its answer may have been lost on the way.
        let told = agents[2].call(&answered(&three, &asked, "cid")).await;
        assert_eq!(told["result"]["_meta"]["io.countersign/replayed"], true, "{told}");
        market.happened_once(&*store, "three").await;
        market.until_the_shelf_is_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_to_several_gateways_at_once_are_one() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let (agents, store) = (market.agents(), market.street.store().await);
    for round in 0..10 {
        let key = format!("at-once-{round}");
        let call = enrol(&key, 1);
        let asked = agents[round % GATEWAYS].asked(&call).await;
        let [a, b, c] = ["ann", "bob", "cid"].map(|name| answered(&call, &asked, name));
        let said = tokio::join!(agents[0].call(&a), agents[1].call(&b), agents[2].call(&c));
        let said = [said.0, said.1, said.2];
        let told = said.iter().filter(|said| said["result"]["structuredContent"]["count"] == 1);
        assert!(told.count() >= 1, "{said:?}");
        let late =
            |said: &Value| said["error"]["message"].as_str().is_some_and(|why| why.contains("already"));
        assert!(said.iter().all(|said| late(said) || said["result"]["isError"] != true), "{said:?}");
        market.happened_once(&*store, &key).await;
    }
    market.until_the_shelf_is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_goes_on_with_what_was_asked_and_nothing_else_is() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let (agents, store) = (market.agents(), market.street.store().await);
    let call = enrol("mine", 1);
    let asked = agents[0].asked(&call).await;
    let of = |voice: Voice, path: &'static str| Client { path, ..Client::new(voice) };
    let at_the_next = |voice: Voice| Voice { url: agents[1].voice.url.clone(), ..voice };
    let rival = of(at_the_next(market.street.house.voice("default", "rival")), "/mcp/shop");
    let stranger = of(at_the_next(market.street.house.voice("other", "agent")), "/mcp/farm");
    let mut altered = asked.clone();
    altered["requestState"] = json!(format!("{}x", asked["requestState"].as_str().unwrap()));
    for (who, call, asked) in [
        (&rival, &call, &asked),
        (&stranger, &call, &asked),
        (&agents[1], &enrol("yours", 1), &asked),
        (&agents[1], &call, &altered),
    ] {
        let refused = who.call(&answered(call, asked, "eve")).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
    }
    let done = agents[1].call(&answered(&call, &asked, "ann")).await;
    assert_eq!(done["result"]["structuredContent"], json!({"count": 1, "names": ["ann"]}), "{done}");
    market.happened_once(&*store, "mine").await;
    assert_eq!(market.tools.calls().len(), 1, "and nothing else reached the server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stopped_meanwhile_is_not_gone_on_with_wherever_its_client_comes_back() {
    let Some(mut market) = Market::new(Asks::ByAnswers).await else { return };
    let agents = market.agents();
    let operator = market.street.house.voice("default", "operator");
    let operators = market.street.everywhere(&operator);
    let call = enrol("stopped", 1);
    let asked = agents[0].asked(&call).await;
    let frozen = operators[2].post("/v1/freeze", &json!({"scope": "agent:default-agent"})).await;
    assert!(frozen.status < 300, "{}", frozen.text());
    let stopped = agents[1].call(&answered(&call, &asked, "ann")).await;
    let body = &stopped["result"]["structuredContent"];
    assert_eq!((&body["kind"], &body["reasons"]), (&json!("failed"), &json!(["stopped"])), "{stopped}");
    assert_eq!((market.tools.count("stopped"), market.tools.calls().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_did_not_hear_the_question_is_asked_the_same_at_any_gateway() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let (agents, store) = (market.agents(), market.street.store().await);
    let call = enrol("lost", 1);
    let lost = agents[0].asked(&call).await;
    let unable = Client { capabilities: json!({}), ..agents[1].clone() };
    let refused = unable.call(&call).await;
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
    let again = agents[1].asked(&call).await;
    assert_eq!(again["inputRequests"], lost["inputRequests"], "{again}");
    let mut guessed = answered(&call, &lost, "bob");
    guessed.as_object_mut().unwrap().remove("requestState");
    let guessed = agents[2].asked(&guessed).await;
    assert_eq!(
        guessed["inputRequests"], lost["inputRequests"],
        "who answers without the state was not asked"
    );
    // An earlier state leads to the same question.
    let earlier = agents[2].call(&answered(&call, &lost, "ann")).await;
    assert_eq!(earlier["result"]["inputRequests"], lost["inputRequests"], "{earlier}");
    let done = agents[1].call(&answered(&call, &earlier["result"], "ann")).await;
    assert_eq!(done["result"]["structuredContent"]["count"], 1, "{done}");
    market.happened_once(&*store, "lost").await;
    assert_eq!(market.tools.calls().len(), 1, "its server was asked once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_call_is_answered_at_any_gateway_too_and_anew_if_whoever_asked_is_gone() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let agents = market.agents();
    let prompt = json!({"name": "greet", "arguments": {"name": "?"}});
    let ask = async |client: &Client, params: &Value| {
        client.ask("prompts/get", params.clone()).await.pop().unwrap()
    };
    let asked = ask(&agents[0], &prompt).await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let greeted = ask(&agents[1], &answered(&prompt, &asked["result"], "ann")).await;
    assert_eq!(greeted["result"]["messages"][0]["content"]["text"], "Greet ann", "{greeted}");
    let asked = ask(&agents[0], &prompt).await;
    market.street.gateway(0).kill();
    let stale = ask(&agents[1], &answered(&prompt, &asked["result"], "ann")).await;
    assert_eq!(stale["error"]["code"], -32602, "{stale}");
    assert!(stale["error"]["message"].as_str().unwrap().contains("make the request again"), "{stale}");
    let asked = ask(&agents[1], &prompt).await;
    let greeted = ask(&agents[2], &answered(&prompt, &asked["result"], "bob")).await;
    assert_eq!(greeted["result"]["messages"][0]["content"]["text"], "Greet bob", "{greeted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_gateway_died_is_told_of_at_the_others() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let (agents, store) = (market.agents(), market.street.store().await);
    let (call, unheard) = (enrol("orphan", 1), enrol("unheard", 1));
    let asked = agents[0].asked(&call).await;
    agents[0].asked(&unheard).await;
    market.street.kill(0);
    // Its client's patience is longer than it takes to find out that a gateway is gone.
    let again = answered(&call, &asked, "ann");
    let (told, told_too) = tokio::join!(agents[1].call(&again), agents[2].call(&unheard));
    for told in [&told, &told_too] {
        let kind = &told["result"]["structuredContent"]["kind"];
        assert_eq!(
            (kind, &told["result"]["isError"]),
            (&json!("pending_settlement"), &json!(true)),
            "{told}"
        );
    }
    let body = &told["result"]["structuredContent"];
    let again = market.agents()[0].call(&answered(&call, &asked, "ann")).await;
    assert_eq!(again["result"]["structuredContent"]["transaction_id"], body["transaction_id"], "{again}");
    let [action] = market.actions(&*store, "orphan").await.try_into().unwrap();
    assert_eq!((action.state, market.tools.count("orphan")), (State::InDoubt, 0));
    market.until_the_shelf_is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_in_good_order_first_answers_what_is_waited_for_at_others() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let (agents, store) = (market.agents(), market.street.store().await);
    let (call, prompt) = (enrol("stopping", 1), json!({"name": "greet", "arguments": {"name": "?"}}));
    let asked = agents[0].asked(&call).await;
    agents[0].ask("prompts/get", prompt).await;
    let shut = market.tools.shut().await;
    let (agent, again) = (agents[1].clone(), answered(&call, &asked, "ann"));
    let answering = tokio::spawn(async move { agent.call(&again).await });
    until("its server has the answer", async || market.tools.came() == 1).await;
    let gateway = market.street.gateway(0);
    gateway.signal("-TERM");
    let port = gateway.port();
    until("it takes no connections any more", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await;
    // Long enough for whoever would not wait.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(shut);
    let done = answering.await.unwrap();
    assert_eq!(done["result"]["structuredContent"], json!({"count": 1, "names": ["ann"]}), "{done}");
    market.street.gateway(0).stop();
    market.happened_once(&*store, "stopping").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_does_not_take_is_laid_down_once_it_does() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let (agents, store) = (market.agents(), market.street.store().await);
    let call = enrol("later", 2);
    market.refuse(Some(1));
    let asked = agents[0].asked(&call).await;
    assert_eq!(market.shelf("-").0, 0);
    market.refuse(None);
    until("the first question lies there", async || market.shelf("-").0 == 1).await;
    market.refuse(Some(2));
    let (agent, again) = (agents[1].clone(), answered(&call, &asked, "ann"));
    let answering = tokio::spawn(async move { agent.call(&again).await });
    until("it is taken up", async || market.is_taken_up()).await;
    // Long enough for whoever would try only once.
    tokio::time::sleep(Duration::from_secs(2)).await;
    market.refuse(None);
    let next = answering.await.unwrap();
    assert_eq!(next["result"]["resultType"], "input_required", "{next}");
    let done = agents[2].call(&answered(&call, &next["result"], "bob")).await;
    let names = json!(["ann", "bob"]);
    assert_eq!(done["result"]["structuredContent"], json!({"count": 1, "names": names}), "{done}");
    market.happened_once(&*store, "later").await;
    market.until_the_shelf_is_empty().await;

    // Nor does a client that stays where it is have to wait for that.
    let here = enrol("here", 1);
    market.refuse(Some(1));
    let asked = agents[0].asked(&here).await;
    let done = agents[0].call(&answered(&here, &asked, "ann")).await;
    assert_eq!(done["result"]["structuredContent"]["count"], 1, "{done}");
    market.happened_once(&*store, "here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_took_for_orphaned_is_not_gone_on_with_by_whoever_held_it() {
    let Some(mut market) = Market::new(Asks::ByAnswers).await else { return };
    let agents = market.agents();
    let (call, unmoved) = (enrol("resolved", 1), enrol("unmoved", 1));
    let asked = agents[0].asked(&call).await;
    let asked_too = agents[0].asked(&unmoved).await;
    market.street.gateway(0).signal("-STOP");
    let told = agents[1].call(&answered(&call, &asked, "ann")).await;
    let body = &told["result"]["structuredContent"];
    assert_eq!(body["kind"], "pending_settlement", "{told}");
    // A person says that it had no effect, so that the same call is a new one.
    let approver = market.street.house.voice("default", "approver");
    let approver = &market.street.everywhere(&approver)[1];
    let path = format!("/v1/actions/{}/resolve", body["transaction_id"].as_str().unwrap());
    let resolved = approver.post(&path, &json!({"as": "failed", "comment": "nobody is enrolled"})).await;
    assert!(resolved.status < 300, "{}", resolved.text());
    let told = agents[1].call(&call).await;
    assert_eq!(told["result"]["structuredContent"]["kind"], "failed", "its outcome is told first: {told}");
    let anew = agents[1].asked(&call).await;
    let done = agents[1].call(&answered(&call, &anew, "ann")).await;
    assert_eq!(done["result"]["structuredContent"]["count"], 1, "{done}");

    // What nobody came back for meanwhile others take over all the same.
    let doubts = "SELECT count(*) FROM production.fate WHERE state = 3";
    until("it is in doubt", async || market.street.cluster.sql("postgres", doubts).unwrap().trim() == "1")
        .await;
    market.street.gateway(0).signal("-CONT");
    market.street.house.until_logged("others took it for gone").await;
    let late = agents[0].call(&answered(&call, &asked, "ann")).await;
    assert_eq!(late["result"]["structuredContent"]["transaction_id"], body["transaction_id"], "{late}");
    assert_eq!(market.tools.count("resolved"), 1, "{late}");
    // It was not sent what its client answered, and that it has no effect is certain by that.
    let late = agents[0].call(&answered(&unmoved, &asked_too, "ann")).await;
    assert_eq!(late["result"]["structuredContent"]["reasons"], json!(["stopped"]), "{late}");
    // Whoever has the store open has a share of what is open, and this one looks after nothing.
    let store = market.street.store().await;
    let [action] = market.actions(&*store, "unmoved").await.try_into().unwrap();
    assert_eq!((action.state, market.tools.count("unmoved")), (State::Failed, 0), "{late}");
    market.until_the_shelf_is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_was_held_and_told_at_another_gateway_is_not_told_once_more() {
    let Some(mut market) = Market::new(Asks::InBetween).await else { return };
    let tasks = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    let agents: Vec<_> =
        market.agents().into_iter().map(|agent| Client { capabilities: tasks.clone(), ..agent }).collect();
    let read = json!({"name": "echo", "arguments": {"text": "a"}});
    let task = async || agents[0].call(&read).await["result"]["taskId"].as_str().map(str::to_owned);
    let held = task().await.unwrap();
    assert_eq!(task().await.as_ref(), Some(&held), "nobody is asked twice");
    let approver = market.street.house.voice("default", "approver");
    let agreed = approver.post(&format!("/v1/actions/{held}/approve"), &json!({"comment": "checked"})).await;
    assert_eq!(agreed.status, 200, "{}", agreed.text());
    let is_told = async || {
        let told = agents[1].ask("tasks/get", json!({"taskId": held})).await.pop().unwrap();
        told["result"]["status"] == "completed"
    };
    until("it is told at another gateway", is_told).await;
    let count = "SELECT count(*) FROM production.delivery";
    let is_kept = async || market.street.cluster.sql("postgres", count).unwrap().trim() == "1";
    until("that is on record", is_kept).await;
    let next = task().await;
    assert!(next.is_some_and(|next| next != held), "it is a new one");
}

/// A person has to agree to enrolling.
const ASK_FIRST: &str = r#"@id("ask-first") @escalate
forbid (principal, action == Action::"mcp/shop/enrol", resource);
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_asks_is_answered_at_any_gateway() {
    for asks in [Asks::InBetween, Asks::ByAnswers] {
        let Some(mut market) = Market::judged(asks, ASK_FIRST).await else { return };
        let agents = market.agents_with_tasks();

        let id = market.agreed(&agents[0], "one").await;
        let first = agents[1].question(&id, "").await;
        assert_eq!(market.shelf("Who is"), (1, 0), "what is asked lies there sealed");
        agents[1].say(&id, &[("a key of nothing", "eve")]).await;
        agents[1].say(&id, &[(&first, "ann")]).await;
        let second = agents[2].question(&id, &first).await;
        agents[0].say(&id, &[(&second, "bob")]).await;
        let done = agents[2].over(&id).await;
        assert_eq!(done["structuredContent"], json!({"count": 1, "names": ["ann", "bob"]}), "{done}");
        market.until_the_shelf_is_empty().await;

        let id = market.agreed(&agents[0], "two").await;
        agents[1].question(&id, "").await;
        agents[1].cancel(&id).await;
        agents[1].over(&id).await;
        assert_eq!(market.tools.count("two"), 0, "nobody was enrolled");
        market.until_the_shelf_is_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_what_another_task_asks_counts_at_no_gateway_and_keeps_no_other_from_counting() {
    let Some(mut market) = Market::judged(Asks::InBetween, ASK_FIRST).await else { return };
    let agents = market.agents_with_tasks();
    let other = market.agreed(&agents[0], "other").await;
    let others = agents[1].question(&other, "").await;
    let own = market.agreed(&agents[0], "own").await;
    let first = agents[1].question(&own, "").await;
    // What was asked earlier is looked at first.
    agents[1].say(&own, &[(&others, "eve"), (&first, "ann")]).await;
    let second = agents[2].question(&own, &first).await;
    agents[2].say(&own, &[(&others, "eve"), (&second, "bob")]).await;
    let done = agents[1].over(&own).await;
    assert_eq!(done["structuredContent"]["names"], json!(["ann", "bob"]), "{done}");
    assert_eq!(agents[1].question(&other, "").await, others, "it is asked still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_cancelled_at_another_gateway_is_asked_nothing_more_of_all_that_it_asks() {
    let Some(mut market) = Market::judged(Asks::InBetween, ASK_FIRST).await else { return };
    let agents = market.agents_with_tasks();
    let id = market.agreed(&agents[0], "together").await;
    until("it asks twice", async || market.shelf("-").0 == 2).await;
    agents[1].cancel(&id).await;
    agents[1].over(&id).await;
    assert_eq!(market.tools.count("together"), 0, "nobody was enrolled");
    market.until_the_shelf_is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_in_parts_is_bounded_whichever_gateways_the_parts_come_to() {
    let Some(mut market) = Market::judged(Asks::ByAnswers, ASK_FIRST).await else { return };
    let agents = market.agents_with_tasks();
    let id = market.agreed(&agents[0], "together").await;
    let first = agents[1].question(&id, "").await;
    for at in [0, 1] {
        let refused = agents[at].say_much(&id, &first, 300_000).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
        assert!(refused["error"]["message"].to_string().contains("262144 bytes"), "{refused}");
    }
    agents[1].say(&id, &[(&first, "ann")]).await;
    let second = agents[2].question(&id, &first).await;
    let long = agents[2].say_much(&id, &second, 300_000).await;
    assert!(long.get("result").is_some(), "it is the last part: {long}");
    let done = agents[1].over(&id).await;
    assert_eq!(done["structuredContent"]["count"], 1, "{done}");
}
