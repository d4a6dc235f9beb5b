//! MCP servers that misbehave: each wait for one of them ends, and nothing that one was told in confidence comes back.
#![expect(deprecated, reason = "logging goes through us as long as anybody uses it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use action::Tenant;
use futures_util::future::{BoxFuture, join_all};
use provider::egress::{Egress, Rules};
use provider::mcp::{Client, Declared, How, Party, PartyId, Said, Server, Servers, Tie, VERBATIM};
use provider::secrets::{self, Kind, Source};
use provider::{Outside, Secrets};
use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientCapabilities, ClientRequest, ElicitationCapability,
    Implementation, InputRequest, InputRequests, InputResponses, ListPromptsRequest, LoggingLevel,
    ProgressToken, ProtocolVersion, RequestId, RequestMetaObject, ServerNotification, SubscriptionFilter,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::schema::{Held, must_be_of_a_client};
use testkit::tools::{self, Tools};
use tokio::time::timeout;

/// A server in a shell: `cases` say what it does with some methods; it is decent about the others. It keeps each line that it
/// reads in `lines`, that it started in `starts`, and that another one ran then in `twice`.
struct Raw {
    folder: TempDir,
    servers: Servers,
}

const DECENT: &str = r#"
cd "$(dirname "$0")"
echo started >> starts
mkdir alone 2>/dev/null || echo twice >> twice
trap 'rmdir alone' EXIT
say() { printf '{"jsonrpc":"2.0",%s}\n' "$1"; }
answer() { say "\"id\":$id,\"result\":{$1}"; }
number() { printf '%s' "$line" | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }
tools='"name":"count","inputSchema":{"type":"object"}'
hear() { read -r line && printf '%s\n' "$line" >> lines; }
while hear; do
    id=$(number id)
    method=$(printf '%s' "$line" | sed -n 's/.*"method":"\([^"]*\)".*/\1/p')
    case $method in
    CASES
    initialize) answer '"protocolVersion":"2025-11-25","capabilities":{"logging":{},"tools":{"listChanged":true}},"serverInfo":{"name":"raw","version":"1"}' ;;
    server/discover) answer '"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}},"ttlMs":0,"cacheScope":"private"' ;;
    tools/list) answer "\"resultType\":\"complete\",\"ttlMs\":0,\"cacheScope\":\"private\",\"tools\":[{$tools}]" ;;
    prompts/list) answer '"resultType":"complete","ttlMs":0,"cacheScope":"private","prompts":[]' ;;
    ping) answer '' ;;
    tools/call) answer '"resultType":"complete","content":[{"type":"text","text":"done"}]' ;;
    esac
done
"#;

/// It speaks 2026-07-28 alone.
const STATELESS: &str = r#"initialize) say "\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"no\"}" ;;"#;

/// Long enough for a server that answers, also on a busy machine.
const SILENCE: Duration = Duration::from_secs(1);

/// Far longer than anything here is to take.
const NEVER: Duration = Duration::from_secs(30);

impl Raw {
    fn start(cases: &str) -> Raw {
        Raw::with(cases, None, |it| it)
    }

    /// One that holds this secret in its variable `TOKEN`.
    fn with(cases: &str, secret: Option<&str>, change: impl FnOnce(Declared) -> Declared) -> Raw {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("server.sh");
        std::fs::write(&script, DECENT.replace("CASES", cases)).unwrap();
        let token = ("TOKEN".to_owned(), "token".to_owned());
        let how = How::Process {
            command: ["/bin/sh", script.to_str().unwrap()].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            secrets: secret.map(|_| token).into_iter().collect(),
            dir: None,
            most_memory: None,
            most_files: 64,
        };
        let one = |value: &str| secrets::Declared {
            name: "token".to_owned(),
            kind: Kind::Static(Source::Given(value.to_owned().into())),
            hosts: Vec::new(),
        };
        let secrets = Secrets::load(secret.map(one)).unwrap();
        let egress = Egress::new(Rules::default());
        let outside = Outside { egress: &egress, secrets: &secrets };
        let declared = change(Declared {
            name: "raw".to_owned(),
            tenant: Tenant::default(),
            how,
            start: SILENCE,
            timeout: SILENCE,
            input: Duration::from_secs(20),
            most_bytes: 1024 * 1024,
            most_links: 8,
            methods: Vec::new(),
            believe: Duration::from_secs(60),
            keeper: None,
        });
        Raw { servers: Servers::new(vec![declared], outside).unwrap(), folder }
    }

    fn server(&self) -> Arc<Server> {
        self.servers.get(&Tenant::default(), "raw").unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How often it was asked for this.
    fn times(&self, method: &str) -> usize {
        let lines = std::fs::read_to_string(self.path("lines")).unwrap_or_default();
        lines.matches(&format!("\"method\":\"{method}\"")).count()
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.path("starts")).unwrap_or_default().lines().count()
    }
}

/// Whatever it read is of the form that it has to be.
impl Drop for Raw {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let lines = std::fs::read_to_string(self.path("lines")).unwrap_or_default();
            let read = lines.lines().map(|line| (None, serde_json::from_str(line).unwrap()));
            must_be_of_a_client(&read.collect::<Vec<_>>());
        }
    }
}

/// A client that answers after a while, and keeps what it is asked and told.
struct Agent {
    client: Client,
    after: Duration,
    heard: Mutex<Vec<Value>>,
    has_left: AtomicBool,
}

impl Agent {
    fn new(has_session: bool, after: Duration) -> Arc<Agent> {
        Agent::named("client:ann", has_session, after)
    }

    fn named(name: &str, has_session: bool, after: Duration) -> Arc<Agent> {
        let id = PartyId(name.into());
        let mut capabilities = ClientCapabilities::default();
        capabilities.elicitation = Some(ElicitationCapability::default());
        let info = Implementation::new("ann", "1");
        let client = Client { owner: id.clone(), id, has_session, info, capabilities };
        Arc::new(Agent { client, after, heard: Mutex::default(), has_left: AtomicBool::new(false) })
    }

    fn party(has_session: bool) -> Arc<dyn Party> {
        Agent::new(has_session, Duration::ZERO)
    }

    fn heard(&self) -> String {
        Value::from(self.heard.lock().unwrap().clone()).to_string()
    }
}

impl Party for Agent {
    fn client(&self) -> &Client {
        &self.client
    }

    fn ask<'a>(
        &'a self,
        requests: InputRequests,
        _: Option<&'a RequestId>,
    ) -> BoxFuture<'a, Result<InputResponses, ErrorData>> {
        let asked = requests.values().map(|request| as_it_came(serde_json::to_value(request).unwrap()));
        self.heard.lock().unwrap().extend(asked);
        let answers = requests.into_iter().map(|(key, request)| (key, answer_to(&request))).collect();
        Box::pin(async move {
            tokio::time::sleep(self.after).await;
            Ok(answers)
        })
    }

    fn tell(&self, notification: ServerNotification, _: Option<&RequestId>) {
        self.heard.lock().unwrap().push(as_it_came(serde_json::to_value(&notification).unwrap()));
    }

    fn is_gone(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }
}

fn answer_to(request: &InputRequest) -> Value {
    match request {
        InputRequest::CreateMessage(_) => {
            json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Ann" } })
        }
        InputRequest::ListRoots(_) => json!({ "roots": [{ "uri": "file:///ann" }] }),
        _ => json!({ "action": "accept", "content": {} }),
    }
}

/// What is asked or told, with its text in the place of what carries it.
fn as_it_came(mut message: Value) -> Value {
    if let Some(text) = message["params"]["_meta"][VERBATIM].as_str() {
        message["params"] = serde_json::from_str(text).unwrap();
    }
    message
}

fn call() -> ClientRequest {
    call_of("count")
}

fn call_of(tool: &'static str) -> ClientRequest {
    CallToolRequest::new(CallToolRequestParams::new(tool)).into()
}

/// A server that counts, behind so many connections.
async fn counting(revision: ProtocolVersion, most_links: usize) -> (Held, Servers) {
    counting_for(revision, most_links, Duration::from_secs(4)).await
}

/// The same, where nothing may be silent for longer than this.
async fn counting_for(revision: ProtocolVersion, most_links: usize, timeout: Duration) -> (Held, Servers) {
    let tools = Tools::start(&[revision]).await.unwrap();
    let at = [tools.url().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap().to_owned()];
    let egress = Egress::new(Rules::parse(&at, &at).unwrap());
    let outside = Outside { egress: &egress, secrets: &Secrets::default() };
    let declared = Declared {
        name: "shop".to_owned(),
        tenant: Tenant::default(),
        how: How::Address { url: tools.url().to_owned(), headers: BTreeMap::new() },
        start: SILENCE,
        timeout,
        input: Duration::from_secs(600),
        most_bytes: 64 * 1024,
        most_links,
        methods: Vec::new(),
        believe: Duration::from_secs(60),
        keeper: None,
    };
    let servers = Servers::new(vec![declared], outside).unwrap();
    (Held::new(tools), servers)
}

/// A call of `hang` under way by somebody whose connection nobody shares.
async fn hangs(
    (tools, servers): &(Held, Servers),
    who: &str,
) -> tokio::task::JoinHandle<Result<Said, ErrorData>> {
    let (before, server) = (tools.calls().len(), servers.get(&Tenant::default(), "shop").unwrap());
    let party: Arc<dyn Party> = Agent::named(who, false, Duration::ZERO);
    let call = tokio::spawn(async move { server.pass(&party, call_of("hang"), Tie::default()).await });
    testkit::until("it is under way", || tools.calls().len() > before || call.is_finished()).await;
    call
}

fn text(result: Result<Said, ErrorData>) -> String {
    result.unwrap().value["content"][0]["text"].as_str().unwrap().to_owned()
}

/// With whatever is written otherwise in JSON, or may be.
const SECRET: &str = r#"s3"c\r/é-t0ken"#;

#[tokio::test]
async fn a_server_that_repeats_its_secret_in_whatever_way_tells_no_client() {
    // As we write JSON, as others may, and in a text that is JSON itself.
    let once = serde_json::to_string(SECRET).unwrap();
    let quoted = serde_json::to_string(&once).unwrap();
    let other = r"s3\u0022c\u005Cr\/\u00e9-t0ken";
    let other_quoted = other.replace('\\', r"\\");
    let bare = |text: &str| text[1..text.len() - 1].to_owned();
    let said = format!("{} {other} {} {other_quoted}", bare(&once), bare(&quoted));
    let cases = r#"
    initialize) answer '"protocolVersion":"2025-11-25","capabilities":{"tools":{},"experimental":{"SAID":{}}},"serverInfo":{"name":"SAID","version":"1"},"instructions":"SAID"' ;;
    tools/list) answer '"tools":[{"name":"count","description":"SAID","inputSchema":{"type":"object","description":"SAID"}}]' ;;
    tools/call)
        say '"method":"notifications/progress","params":{"progressToken":'"$(number progressToken)"',"progress":1,"message":"SAID"}'
        say '"method":"notifications/message","params":{"level":"error","data":{"SAID":["SAID"]}}'
        say '"id":"q","method":"elicitation/create","params":{"mode":"form","message":"SAID","requestedSchema":{"type":"object","properties":{}}}'
        hear
        answer '"content":[{"type":"text","text":"SAID"}],"structuredContent":{"SAID":"SAID"}' ;;
    prompts/list) say "\"id\":$id,"'"error":{"code":-32000,"message":"SAID","data":["SAID"]}' ;;"#
    .replace("SAID", &said);
    let raw = Raw::with(&cases, Some(SECRET), |it| it);
    let server = raw.server();
    let agent = Agent::new(true, Duration::ZERO);
    let party: Arc<dyn Party> = agent.clone();
    let progress = Some(ProgressToken(rmcp::model::NumberOrString::String("mine".into())));
    let result = server.pass(&party, call(), Tie::new(None, progress, Default::default())).await.unwrap();
    let error = server.pass(&party, ListPromptsRequest::default().into(), Tie::default()).await.unwrap_err();
    let ways = [
        ("result", result.text.to_string(), 3),
        ("error", serde_json::to_string(&error).unwrap(), 2),
        ("what it asks and tells", agent.heard(), 4),
        ("greeting", serde_json::to_string(&*server.about().await.unwrap()).unwrap(), 3),
        ("tools", server.tools().await.unwrap()[0].text.to_string(), 2),
    ];
    for (way, text, times) in ways {
        let struck = "[secret] [secret] \\\"[secret]\\\" [secret]";
        assert_eq!(text.matches(struck).count(), times, "{way}: {text}");
        assert!(!text.contains("t0ken"), "{way}: {text}");
    }
}

#[tokio::test]
async fn a_secret_is_struck_from_what_is_listened_to() {
    let cases = format!(
        r#"{STATELESS}
    server/discover) answer '"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{{"resources":{{"subscribe":true}}}},"ttlMs":0,"cacheScope":"private"' ;;
    subscriptions/listen)
        of='"_meta":{{"io.modelcontextprotocol/subscriptionId":'$id'}}'
        say '"method":"notifications/subscriptions/acknowledged","params":{{'"$of"',"notifications":{{"resourceSubscriptions":["book:s3cr3t"]}}}}'
        say '"method":"notifications/resources/updated","params":{{'"$of"',"uri":"book:s3cr3t"}}' ;;"#
    );
    let raw = Raw::with(&cases, Some("s3cr3t"), |it| it);
    let agent = Agent::new(false, Duration::ZERO);
    let party: Arc<dyn Party> = agent.clone();
    let filter = SubscriptionFilter::builder().resource_subscriptions(["book:s3cr3t".to_owned()]).build();
    let _listening = raw.server().listen(&party, filter).await.unwrap();
    testkit::until("it is told", || agent.heard().len() >= 4).await;
    assert!(agent.heard().contains("book:[secret]"), "{}", agent.heard());
}

#[tokio::test]
async fn what_is_given_up_and_answered_all_the_same_is_known() {
    let raw = Raw::start(
        r#"tools/call)
        of=$id
        hear
        id=$of
        answer '"content":[{"type":"text","text":"done after all"}]' ;;"#,
    );
    let (server, tie) = (raw.server(), Tie::default());
    let cancelled = tie.cancelled.clone();
    let party = Agent::party(true);
    let (answer, ()) = tokio::join!(server.pass(&party, call(), tie), async {
        testkit::until("it is called", || raw.times("tools/call") == 1).await;
        cancelled.cancel();
    });
    assert_eq!(text(answer), "done after all");
    assert_eq!(raw.times("notifications/cancelled"), 1, "and it was told");
}

/// All that a server may ask: to sample, for roots and to elicit.
const QUESTIONS: [&str; 3] = [
    r#""method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}"#,
    r#""method":"roots/list""#,
    r#""method":"elicitation/create","params":{"mode":"form","message":"Who?","requestedSchema":{"type":"object","properties":{}}}"#,
];

#[tokio::test]
async fn whatever_a_server_asks_is_answered_in_the_form_of_its_question() {
    let [sample, roots, elicit] = QUESTIONS;
    let asked = [sample, roots, elicit, r#""method":"ping""#, r#""method":"shop/ask""#];
    let asked: String = asked.iter().map(|it| format!("say '\"id\":\"q\",{it}'\nhear\n")).collect();
    let raw = Raw::start(&format!(
        "tools/call)\n of=$id\n {asked} id=$of\n answer '\"content\":[{{\"type\":\"text\",\"text\":\"done\"}}]' ;;"
    ));
    let passed = raw.server().pass(&Agent::party(true), call(), Tie::default()).await;
    assert_eq!(text(passed), "done");
    let heard = std::fs::read_to_string(raw.path("lines")).unwrap();
    let answers = heard.lines().filter(|line| line.contains(r#""id":"q""#));
    let answers: Vec<Value> = answers.map(|line| serde_json::from_str(line).unwrap()).collect();
    for (answer, place) in
        answers.iter().zip(["/result/role", "/result/roots", "/result/action", "/result", "/error"])
    {
        assert!(answer.pointer(place).is_some(), "{place}: {answer}");
    }
    assert_eq!(answers.len(), 5);

    let raw = Raw::start(&format!(
        r#"{STATELESS}
    tools/call) case $line in
        *inputResponses*) answer '"resultType":"complete","content":[{{"type":"text","text":"done"}}]' ;;
        *) answer '"resultType":"input_required","inputRequests":{{"a":{{{sample}}},"b":{{{roots}}},"c":{{{elicit}}}}},"requestState":"s"' ;;
        esac ;;"#
    ));
    let passed = raw.server().pass(&Agent::party(false), call(), Tie::default()).await;
    assert_eq!(text(passed), "done");
    let heard = std::fs::read_to_string(raw.path("lines")).unwrap();
    let again: Value = serde_json::from_str(heard.lines().last().unwrap()).unwrap();
    for place in ["a/role", "b/roots", "c/action"] {
        let place = format!("/params/inputResponses/{place}");
        assert!(again.pointer(&place).is_some(), "{place}: {again}");
    }
}

#[tokio::test]
async fn a_process_that_does_not_say_whether_it_is_there_keeps_no_other_from_being_started() {
    let cases = r#"
    tools/call) ;;
    ping) while [ ! -e free ]; do sleep 0.1; done; answer '' ;;"#;
    let raw = Raw::with(cases, None, |it| Declared { timeout: 5 * SILENCE, ..it });
    let server = raw.server();
    server.pass(&Agent::party(true), call(), Tie::default()).await.unwrap_err();
    let listing = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.tools().await }
    });
    testkit::until("it is asked whether it is there", || raw.times("ping") == 1).await;
    let bob: Arc<dyn Party> = Agent::named("client:bob", true, Duration::ZERO);
    server.pass(&bob, ListPromptsRequest::default().into(), Tie::default()).await.unwrap();
    assert!(!listing.is_finished(), "bob did not wait for whoever lists");
    std::fs::write(raw.path("free"), "").unwrap();
    assert_eq!(listing.await.unwrap().unwrap().len(), 1);
    assert_eq!(raw.starts(), 2, "and nobody has one of its own");
}

#[tokio::test]
async fn a_server_that_hangs_at_its_list_is_asked_once_for_all_who_wait() {
    let raw = Raw::start("tools/list) ;;");
    let server = raw.server();
    let listed = timeout(NEVER, join_all((0..5).map(|_| server.tools()))).await.expect("it ends");
    assert!(listed.iter().all(Result::is_err), "{listed:?}");
    assert!(server.tools().await.is_err(), "nor is it asked again at once");
    assert_eq!(raw.times("tools/list"), 1);
    // What is no list is not kept from it.
    let passed = server.pass(&Agent::party(true), call(), Tie::default()).await;
    assert_eq!(text(passed), "done");
}

#[tokio::test]
async fn whoever_gives_up_waiting_for_a_list_leaves_it_to_the_others() {
    let raw = Raw::start("tools/list) ;;");
    let server = raw.server();
    let brief = Duration::from_millis(50);
    for _ in 0..3 {
        assert!(timeout(brief, server.tools()).await.is_err());
    }
    assert!(server.tools().await.is_err());
    assert_eq!(raw.times("tools/list"), 1);
}

#[tokio::test]
async fn a_list_of_pages_without_an_end_is_none() {
    let raw = Raw::start(r#"tools/list) answer "\"nextCursor\":\"$id\",\"tools\":[{$tools}]" ;;"#);
    let error = raw.server().tools().await.unwrap_err();
    assert!(error.why.contains("more pages"), "what is cut off would be taken for gone: {error}");
}

#[tokio::test]
async fn a_process_that_ended_is_followed_by_another_whoever_holds_its_pipes() {
    let raw = Raw::start(
        r#"tools/call)
        if [ ! -e forked ]; then touch forked; sleep 60 & exit 0; fi
        answer '"resultType":"complete","content":[{"type":"text","text":"done"}]' ;;"#,
    );
    let (server, party) = (raw.server(), Agent::party(true));
    assert!(server.pass(&party, call(), Tie::default()).await.is_err(), "nobody answers it");
    let answered = timeout(NEVER, server.pass(&party, call(), Tie::default())).await.expect("it ends");
    assert_eq!(text(answered), "done");
    assert_eq!(raw.starts(), 2);
}

#[tokio::test]
async fn a_server_that_never_says_that_it_tells_of_changes_is_listed_all_the_same() {
    let raw = Raw::start(&format!("{STATELESS}\n    subscriptions/listen) ;;"));
    let server = raw.server();
    let tools = timeout(NEVER, server.tools()).await.expect("it ends").unwrap();
    assert_eq!(tools[0].tool.name, "count");
    assert_eq!(raw.times("subscriptions/listen"), 1, "it was asked to");
    let changes = SubscriptionFilter::builder().tools_list_changed().build();
    let listening = timeout(NEVER, server.listen(&Agent::party(false), changes)).await.expect("it ends");
    assert!(listening.is_err());
}

#[tokio::test]
async fn a_server_that_takes_its_time_to_say_that_it_tells_of_changes_is_asked_anew_then() {
    let raw = Raw::start(&format!(
        r#"{STATELESS}
    subscriptions/listen) wanted=$id ;;
    prompts/list)
        of='"_meta":{{"io.modelcontextprotocol/subscriptionId":'$wanted'}}'
        say '"method":"notifications/subscriptions/acknowledged","params":{{'"$of"',"notifications":{{"toolsListChanged":true}}}}'
        tools='"name":"other","inputSchema":{{"type":"object"}}'
        answer '"resultType":"complete","ttlMs":0,"cacheScope":"private","prompts":[]' ;;"#
    ));
    let server = raw.server();
    assert_eq!(server.tools().await.unwrap()[0].tool.name, "count");
    // Only now it says so, over the same connection.
    let nobody: Arc<dyn Party> = Agent::named("nobody", true, Duration::ZERO);
    server.pass(&nobody, ListPromptsRequest::default().into(), Tie::default()).await.unwrap();
    let anew = async {
        while server.tools().await.unwrap()[0].tool.name != "other" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(NEVER, anew).await.expect("it ends");
    assert_eq!(raw.times("subscriptions/listen"), 1);
}

#[tokio::test]
async fn a_process_of_nobodys_ends_before_a_clients_is_started_and_none_is_started_beside_that() {
    let stateless = format!(
        r#"{STATELESS}
    subscriptions/listen)
        of='"_meta":{{"io.modelcontextprotocol/subscriptionId":'$id'}}'
        say '"method":"notifications/subscriptions/acknowledged","params":{{'"$of"',"notifications":{{"toolsListChanged":true}}}}' ;;"#
    );
    for (cases, has_session) in [("", true), (&*stateless, false), (&*stateless, true)] {
        let raw = Raw::with(cases, None, |it| Declared { believe: Duration::ZERO, ..it });
        let (server, party) = (raw.server(), Agent::party(has_session));
        // Whoever starts one waits for nobody's first list, and what is listed then is listed over the client's.
        let (listed, passed) = tokio::join!(server.tools(), server.pass(&party, call(), Tie::default()));
        assert_eq!((listed.unwrap().len(), &*text(passed)), (1, "done"));
        for _ in 0..3 {
            assert_eq!(server.tools().await.unwrap().len(), 1);
            assert_eq!(text(server.pass(&party, call(), Tie::default()).await), "done");
        }
        assert!(!raw.path("twice").exists(), "{cases}: {} started", raw.starts());
        // One each, and one each that was greeted otherwise than it wants to be.
        assert!(raw.starts() <= 4, "{cases}: {} started", raw.starts());
        raw.servers.close().await;
        assert!(!raw.path("alone").exists(), "{cases}: it put away what it held");
    }
}

#[tokio::test]
async fn whose_place_is_anothers_has_ended_before_that_one_is_started() {
    let raw = Raw::with("", None, |it| Declared { most_links: 1, ..it });
    let server = raw.server();
    let clients = ["client:ann", "client:bob"].map(|who| Agent::named(who, true, Duration::ZERO));
    for (client, starts) in clients.iter().cycle().zip(1..=4) {
        let party: Arc<dyn Party> = client.clone();
        assert_eq!(text(server.pass(&party, call(), Tie::default()).await), "done");
        assert_eq!(raw.starts(), starts);
    }
    assert!(!raw.path("twice").exists(), "one of them at a time");
}

#[tokio::test]
async fn a_server_that_does_not_say_that_it_took_a_level_is_asked_the_rest() {
    let raw = Raw::start("logging/setLevel) ;;");
    let mut meta = RequestMetaObject::new();
    meta.set_log_level(LoggingLevel::Debug);
    let mut request = call();
    *rmcp::model::GetMeta::get_meta_mut(&mut request) = meta;
    let (server, party) = (raw.server(), Agent::party(true));
    let passed = timeout(NEVER, server.pass(&party, request, Tie::default())).await;
    assert_eq!(text(passed.expect("it ends")), "done");
    assert_eq!(raw.times("logging/setLevel"), 1);
}

#[tokio::test]
async fn a_process_that_reads_no_more_is_given_up_and_another_started() {
    let raw = Raw::start(
        r#"tools/call) if [ -e stopped ]; then answer '"content":[{"type":"text","text":"done"}]'; else touch stopped; exec sleep 60; fi ;;"#,
    );
    let (server, party) = (raw.server(), Agent::party(true));
    let long = json!({ "text": "x".repeat(512 * 1024) }).as_object().cloned().unwrap();
    let long = CallToolRequest::new(CallToolRequestParams::new("count").with_arguments(long));
    assert!(server.pass(&party, call(), Tie::default()).await.is_err());
    let passed = timeout(NEVER, server.pass(&party, long.into(), Tie::default())).await.expect("it ends");
    assert_eq!(text(passed), "done", "one that did not answer is asked first whether it is still there");
    assert_eq!(raw.starts(), 2);
}

#[tokio::test]
async fn whoever_tells_of_progress_for_ever_is_not_waited_for_for_ever() {
    let cases = r#"tools/call)
        while :; do
            say '"method":"notifications/progress","params":{"progressToken":'"$(number progressToken)"',"progress":1}'
            sleep 0.1
        done ;;"#;
    let raw = Raw::with(cases, None, |it| Declared { input: SILENCE, ..it });
    let passed = timeout(NEVER, raw.server().pass(&Agent::party(true), call(), Tie::default())).await;
    let error = passed.expect("it ends").unwrap_err();
    assert!(error.message.contains("raw"), "{error:?}");
}

#[tokio::test]
async fn a_question_that_belongs_to_no_call_for_sure_keeps_all_of_them_waiting() {
    let cases = r#"tools/call)
        if [ -z "$first" ]; then first=$id; continue; fi
        say '"id":"q","method":"elicitation/create","params":{"mode":"form","message":"Who?","requestedSchema":{"type":"object","properties":{}}}'
        hear
        second=$id
        for id in $first $second; do answer '"content":[{"type":"text","text":"done"}]'; done ;;"#;
    let raw = Raw::start(cases);
    let server = raw.server();
    let party: Arc<dyn Party> = Agent::new(true, 2 * SILENCE + SILENCE / 2);
    server.has_session_with(&party).await.unwrap();
    let both = join_all((0..2).map(|_| server.pass(&party, call(), Tie::default()))).await;
    assert_eq!(both.into_iter().map(text).collect::<Vec<_>>(), ["done", "done"]);
}

#[tokio::test]
async fn whoever_waits_for_a_place_keeps_nobody_from_being_connected_who_needs_none() {
    let world = counting(tools::SESSIONS, 2).await;
    let server = world.1.get(&Tenant::default(), "shop").unwrap();
    let _taken = (hangs(&world, "ann").await, hangs(&world, "bob").await);
    let waiting: Vec<_> = (0..10)
        .map(|number| {
            let (server, who) = (Arc::clone(&server), format!("client:{number}"));
            let party: Arc<dyn Party> = Agent::named(&who, false, Duration::ZERO);
            tokio::spawn(async move { server.pass(&party, call(), Tie::default()).await.map(drop) })
        })
        .collect();
    // Each of them has come as far as it comes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.tools().await.unwrap();
    assert!(waiting.iter().all(|waits| !waits.is_finished()), "it did not wait for them");
    timeout(NEVER, world.1.close()).await.expect("it ends");
    for waits in waiting {
        assert!(waits.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_connection_that_is_in_use_keeps_its_place_though_its_client_has_left() {
    let world = counting_for(tools::SESSIONS, 1, 10 * NEVER).await;
    let under_way = hangs(&world, "ann").await;
    world.1.leave(&PartyId("ann".into()));
    let server = world.1.get(&Tenant::default(), "shop").unwrap();
    let bob: Arc<dyn Party> = Agent::named("bob", false, Duration::ZERO);
    let changes = SubscriptionFilter::builder().tools_list_changed().build();
    // He waits for no place, and makes none.
    let refused = server.listen_again(&bob, changes.clone()).await.err().unwrap();
    assert!(refused.message.contains("as many connections as are allowed are in use"), "{refused:?}");
    under_way.abort();
    testkit::comes("its place is free", async || server.listen_again(&bob, changes.clone()).await.ok()).await;
}

#[tokio::test]
async fn no_connection_is_kept_for_whoever_left_while_it_was_made() {
    let raw = Raw::start("");
    let (server, agent) = (raw.server(), Agent::new(true, Duration::ZERO));
    let party: Arc<dyn Party> = agent.clone();
    for starts in [1, 1] {
        server.pass(&party, call(), Tie::default()).await.unwrap();
        assert_eq!(raw.starts(), starts, "as long as it is there, it has one");
    }
    raw.servers.leave(&agent.client.id);
    agent.has_left.store(true, Ordering::Relaxed);
    for starts in [2, 3] {
        assert_eq!(
            text(server.pass(&party, call(), Tie::default()).await),
            "done",
            "what it wants yet is done"
        );
        assert_eq!(raw.starts(), starts);
    }
}

#[tokio::test]
async fn many_calls_at_once_get_no_more_than_half_of_the_connections() {
    let (tools, servers) = counting(tools::SESSIONS, 6).await;
    let server = servers.get(&Tenant::default(), "shop").unwrap();
    let party: Arc<dyn Party> = Agent::named("ann", false, Duration::ZERO);
    let all = join_all((0..6).map(|_| server.pass(&party, call_of("hang"), Tie::default()))).await;
    let refused =
        all.iter().filter(|it| it.as_ref().is_err_and(|it| it.message.contains("as many connections")));
    assert_eq!((refused.count(), tools.calls().len()), (3, 3), "{all:?}");
}

#[tokio::test]
async fn who_is_busy_no_more_makes_room_for_who_waits() {
    let world = counting(tools::SESSIONS, 2).await;
    let (ann, _bob) = (hangs(&world, "ann").await, hangs(&world, "bob").await);
    let server = world.1.get(&Tenant::default(), "shop").unwrap();
    let eve: Arc<dyn Party> = Agent::named("eve", false, Duration::ZERO);
    let waiting = server.pass(&eve, call_of("fail"), Tie::default());
    ann.abort();
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_wait_for_its_question() {
    let (_tools, servers) = counting(tools::STATELESS, 8).await;
    let server = servers.get(&Tenant::default(), "shop").unwrap();
    let agent = Agent::new(true, 10 * NEVER);
    let party: Arc<dyn Party> = agent.clone();
    let tie = Tie::default();
    let given_up = tie.cancelled.clone();
    let asked = async {
        testkit::until("it is asked", || !agent.heard.lock().unwrap().is_empty()).await;
        given_up.cancel();
    };
    let (passed, ()) = tokio::join!(timeout(NEVER, server.pass(&party, call_of("ask"), tie)), asked);
    assert!(passed.expect("it ends").is_err());
}

/// Bounded like this; all else as it was.
fn bounded(memory: Option<u64>, files: u64) -> impl FnOnce(Declared) -> Declared {
    move |it| {
        let mut how = it.how;
        if let How::Process { most_memory, most_files, .. } = &mut how {
            (*most_memory, *most_files) = (memory, files);
        }
        Declared { how, timeout: NEVER, ..it }
    }
}

#[tokio::test]
async fn a_process_that_takes_more_memory_than_it_may_dies_and_others_live_on() {
    // 16 bytes, doubled to as many as 256 MiB: four times what it may have.
    let cases = r#"tools/call)
        if [ ! -e tried ]; then
            touch tried
            x=0123456789abcdef; doubled=0
            while [ $doubled -lt 24 ]; do x=$x$x; doubled=$((doubled + 1)); done
            touch grown
        fi
        answer '"content":[{"type":"text","text":"done"}]' ;;"#;
    let greedy = Raw::with(cases, None, bounded(Some(64 * 1024 * 1024), 64));
    let other = Raw::start("");
    let party = Agent::party(true);
    assert_eq!(text(other.server().pass(&party, call(), Tie::default()).await), "done");
    let server = greedy.server();
    let ended = server.pass(&party, call(), Tie::default());
    timeout(NEVER / 2, ended).await.expect("it is seen that it is gone").unwrap_err();
    assert!(greedy.path("tried").exists() && !greedy.path("grown").exists(), "it had what it asked for");
    assert_eq!(text(other.server().pass(&party, call(), Tie::default()).await), "done");
    assert_eq!(text(greedy.server().pass(&party, call(), Tie::default()).await), "done");
    assert_eq!((greedy.starts(), other.starts()), (2, 1), "the one was started again, the other never ended");
}

#[tokio::test]
async fn a_process_that_may_have_more_than_we_may_has_as_much_as_we() {
    let cases = r#"tools/call) answer "\"content\":[{\"type\":\"text\",\"text\":\"$(ulimit -H -n) $(ulimit -c)\"}]" ;;"#;
    let raw = Raw::with(cases, None, bounded(None, u64::MAX));
    let ours = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let ours = ours.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
    let said = text(raw.server().pass(&Agent::party(true), call(), Tie::default()).await);
    assert_eq!(said, format!("{ours} 0"));
}

#[tokio::test]
async fn a_process_that_opens_more_files_than_it_may_is_refused_them_and_others_live_on() {
    // `paste` opens all of its files before it reads any.
    let cases = r#"tools/call)
        most=8; if [ -e few ]; then most=64; fi
        touch few
        if paste $(yes /dev/null | head -n $most) > pasted 2> why; then said=opened; else said=refused; fi
        answer "\"content\":[{\"type\":\"text\",\"text\":\"$said\"}]" ;;"#;
    let hoarder = Raw::with(cases, None, bounded(None, 32));
    let other = Raw::with(cases, None, bounded(None, 128));
    let party = Agent::party(true);
    let said = async |raw: &Raw| text(raw.server().pass(&party, call(), Tie::default()).await);
    assert_eq!([said(&hoarder).await, said(&other).await], ["opened", "opened"], "8 are few enough");
    assert_eq!([said(&hoarder).await, said(&other).await], ["refused", "opened"], "64 are too many for one");
    let why = std::fs::read_to_string(hoarder.path("why")).unwrap();
    assert!(why.contains("Too many open files"), "{why}");
    assert_eq!((hoarder.starts(), other.starts()), (1, 1), "neither ended");
}
