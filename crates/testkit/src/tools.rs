//! A small server of the Model Context Protocol that counts what its tools are called for.
//!
//! It listens at `http://127.0.0.1:PORT/mcp`, speaks the revisions that it is opened with, and has the tools `echo`, `count`,
//! `uncount`, `fail`, `hang`, `slow`, `ask`, `enrol`, `visit`, `huge` and `reveal`. What it says of a tool can be changed while it
//! runs. Beside them it has the prompt `greet`, which asks for whom if that is `?`, three books and a template of shelves as
//! resources, completions of whatever is begun, and the method `shop/open` of its own. Whoever calls it with `Authorization` is told so in its greeting.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::middleware::{map_request, map_response};
use axum::response::Response;
use axum::serve::ListenerExt;
use futures_util::TryStreamExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    CompletionInfo, ContentBlock, CustomNotification, CustomRequest, CustomResult, DiscoverResult,
    ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationSchema, ErrorCode, Extensions,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, Implementation, InitializeRequestParams,
    InitializeResult, InputRequest, InputRequiredResult, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListToolsResult, NotificationMetaObject, PaginatedRequestParams,
    ProgressNotification, ProgressNotificationParam, Prompt, PromptArgument, PromptMessage, ProtocolVersion,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Reference, Resource,
    ResourceContents, ResourceTemplate, ResourceUpdatedNotificationParam, Role, ServerCapabilities,
    ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, Peer, RequestContext, SubscriptionContext};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, broadcast};
use tokio::task::JoinHandle;

/// A running server; stopped when dropped.
pub struct Tools {
    url: String,
    shop: Arc<Shop>,
    sessions: Arc<LocalSessionManager>,
    task: JoinHandle<()>,
}

/// What all of its connections share.
#[derive(Debug)]
struct Shop {
    revisions: Vec<ProtocolVersion>,
    /// Whether calls are kept.
    remembers: bool,
    books: Mutex<Books>,
    changed: broadcast::Sender<Change>,
    /// Tells its resources from those of others.
    port: u16,
    /// Who is to be enrolled goes through here.
    gate: Arc<RwLock<()>>,
    /// So many came to the gate.
    came: AtomicUsize,
}

/// Nobody is enrolled as long as this lives.
#[derive(Debug)]
pub struct Shut(#[expect(dead_code, reason = "it is only held")] OwnedRwLockWriteGuard<()>);

/// What whoever listens is told of.
#[derive(Clone, Debug)]
enum Change {
    /// It says something else of its tools.
    Tools,
    /// Something else is in this resource.
    Resource(String),
}

#[derive(Debug, Default)]
struct Books {
    counts: BTreeMap<String, u64>,
    calls: Vec<(String, Value)>,
    metas: Vec<Value>,
    told: Vec<Value>,
    /// Every message, and the revision that its headers say.
    heard: Vec<(Option<String>, Value)>,
    descriptions: BTreeMap<String, String>,
    /// What is written instead of what.
    instead: Vec<(String, String)>,
    /// Tools beside its own.
    more: Vec<String>,
    /// In how many lists from now, and of which tool, something else is said.
    turning: Option<(usize, String, String)>,
    outputs: BTreeMap<String, Value>,
    /// Keys for which `visit` has had its client open an address.
    visited: BTreeSet<String>,
    subscribed: Vec<String>,
    resource_lists: usize,
    tool_lists: usize,
    /// So many of its tools are listed at a time, where that is not all.
    page: Option<usize>,
    /// Its list of prompts has no end: each page is so long, and of this cursor if that is always the same.
    endless: Option<(usize, Option<&'static str>)>,
}

/// The revisions that it can be opened with.
pub const SESSIONS: ProtocolVersion = ProtocolVersion::V_2025_11_25;
/// See [`SESSIONS`].
pub const STATELESS: ProtocolVersion = ProtocolVersion::V_2026_07_28;

/// What `echo` answers strangely.
pub const STRANGE: &str = "strange";
/// How: the end of a piece of content, and members of the result.
pub const STRANGELY: [&str; 2] = [
    r#""hue":{"of":[1180591620717411303425,1.10]}}"#,
    r#""novel":{"n":-1180591620717411303425,"_meta":{"shop/till":18446744073709551617}}"#,
];

impl Tools {
    /// Starts one at a free port.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(revisions: &[ProtocolVersion]) -> io::Result<Tools> {
        Tools::open(revisions, true).await
    }

    /// One that keeps no call, for as many as one likes.
    ///
    /// # Errors
    /// There is no port.
    pub async fn forgetful(revisions: &[ProtocolVersion]) -> io::Result<Tools> {
        Tools::open(revisions, false).await
    }

    async fn open(revisions: &[ProtocolVersion], remembers: bool) -> io::Result<Tools> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let shop = Arc::new(Shop {
            revisions: revisions.to_vec(),
            remembers,
            books: Mutex::default(),
            changed: broadcast::channel(16).0,
            port: listener.local_addr()?.port(),
            gate: Arc::default(),
            came: AtomicUsize::new(0),
        });
        let url = format!("http://{}/mcp", listener.local_addr()?);
        let config = StreamableHttpServerConfig::default().with_json_response(true);
        let (open, sessions) = (Arc::clone(&shop), Arc::new(LocalSessionManager::default()));
        let service =
            StreamableHttpService::new(move || Ok(Counter(Arc::clone(&open))), Arc::clone(&sessions), config);
        let app = axum::Router::new().nest_service("/mcp", service);
        // Who keeps nothing is there to be measured.
        let books = Arc::clone(&shop);
        let strangely = move |answer| strangely(Arc::clone(&books), answer);
        let hears = Arc::clone(&shop);
        let hear = move |request| hear(Arc::clone(&hears), request);
        let app = if remembers { app.layer(map_response(strangely)).layer(map_request(hear)) } else { app };
        // What an answer consists of is sent as it comes: nobody is to wait for an acknowledgement.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Tools { url, shop, sessions, task })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often `count` was called for this key, or somebody enrolled under it, less what `uncount` took back.
    pub fn count(&self, key: &str) -> u64 {
        self.shop.books().counts.get(key).copied().unwrap_or_default()
    }

    /// Has whoever answered all questions of `enrol` wait from now on.
    pub async fn shut(&self) -> Shut {
        Shut(Arc::clone(&self.shop.gate).write_owned().await)
    }

    /// How many have answered all questions of `enrol` so far.
    pub fn came(&self) -> usize {
        self.shop.came.load(Ordering::Relaxed)
    }

    /// Every call that it took, in order: the tool and its arguments.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.shop.books().calls.clone()
    }

    /// What stood in `_meta` of each.
    pub fn metas(&self) -> Vec<Value> {
        self.shop.books().metas.clone()
    }

    /// What it was told by methods of its own, and of roots, in order: `method` and `params`.
    pub fn told(&self) -> Vec<Value> {
        self.shop.books().told.clone()
    }

    /// Every message that came in, in order, and of which revision its headers say that it is.
    pub fn heard(&self) -> Vec<(Option<String>, Value)> {
        self.shop.books().heard.clone()
    }

    /// How it writes this.
    pub fn written(&self, this: &impl serde::Serialize) -> String {
        let plain = serde_json::to_string(this).unwrap_or_default();
        String::from_utf8_lossy(&self.shop.otherwise(&plain.into())).into_owned()
    }

    /// Writes this instead of that in whatever it says from now on, as no SDK would.
    pub fn say_instead(&self, of: &str, this: &str) {
        self.shop.books().instead.push((of.to_owned(), this.to_owned()));
    }

    /// Says something else of a tool from now on, and tells whoever listens.
    pub fn describe(&self, tool: &str, description: &str) {
        self.shop.books().descriptions.insert(tool.to_owned(), description.to_owned());
        let _ = self.shop.changed.send(Change::Tools);
    }

    /// From now on its list of prompts has no end: each page is so long, and the cursor of the next always the same if one is given.
    pub fn list_prompts_without_end(&self, bytes: usize, cursor: Option<&'static str>) {
        self.shop.books().endless = Some((bytes, cursor));
    }

    /// Says something else of a tool after so many more lists, and tells nobody.
    pub fn turn_after(&self, lists: usize, tool: &str, description: &str) {
        self.shop.books().turning = Some((lists, tool.to_owned(), description.to_owned()));
    }

    /// Has one more tool from now on, which takes nothing and fails.
    pub fn offer(&self, tool: &str) {
        self.shop.books().more.push(tool.to_owned());
    }

    /// Says of a tool from now on which form its answers have.
    pub fn declare(&self, tool: &str, output: Value) {
        self.shop.books().outputs.insert(tool.to_owned(), output);
        let _ = self.shop.changed.send(Change::Tools);
    }

    /// The address of one of its three books.
    pub fn book(&self, number: u8) -> String {
        self.shop.book(number.into())
    }

    /// The address of something that it has and does not list.
    pub fn unlisted(&self) -> String {
        self.shop.unlisted()
    }

    /// The resources that sessions subscribed to, in order.
    pub fn subscribed(&self) -> Vec<String> {
        self.shop.books().subscribed.clone()
    }

    /// How often its resources were listed, page by page.
    pub fn resource_lists(&self) -> usize {
        self.shop.books().resource_lists
    }

    /// How often its tools were listed, page by page.
    pub fn tool_lists(&self) -> usize {
        self.shop.books().tool_lists
    }

    /// Lists so many of its tools at a time from now on.
    pub fn list_by(&self, tools: usize) {
        self.shop.books().page = Some(tools);
    }

    /// Tells whoever listens that something else is in a resource.
    pub fn rewrite(&self, uri: &str) {
        let _ = self.shop.changed.send(Change::Resource(uri.to_owned()));
    }

    /// Knows nothing of its sessions any more.
    pub async fn lose_sessions(&self) {
        self.sessions.sessions.write().await.clear();
    }

    /// How many sessions there are.
    pub async fn open_sessions(&self) -> usize {
        self.sessions.sessions.read().await.len()
    }

    /// Breaks all connections, and takes no new one.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// What it says of its tools.
    pub fn listed(&self) -> Vec<Tool> {
        self.shop.tools()
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shop {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self, number: usize) -> String {
        format!("book://{}/{number}", self.port)
    }

    fn shelf(&self) -> String {
        format!("shelf://{}/", self.port)
    }

    fn unlisted(&self) -> String {
        format!("back://{}/", self.port)
    }

    fn must_have(&self, uri: &str) -> Result<(), ErrorData> {
        let is_book = (1..=3).any(|number| uri == self.book(number));
        match is_book || uri.starts_with(&self.shelf()) || uri == self.unlisted() {
            true => Ok(()),
            false => Err(ErrorData::resource_not_found("no such book", Some(json!({ "uri": uri })))),
        }
    }

    fn tools(&self) -> Vec<Tool> {
        let text = |name: &str| json!({ "type": "object", "properties": { name: { "type": "string" } }, "required": [name] });
        let number = |name: &str| json!({ "type": "object", "properties": { name: { "type": "integer" } }, "required": [name] });
        let nothing = json!({ "type": "object" });
        let books = self.books();
        [
            ("echo", "Says what it is told", text("text")),
            ("count", "Counts a key once more", text("key")),
            ("uncount", "Counts a key once less", text("key")),
            ("fail", "Fails", nothing.clone()),
            ("hang", "Never answers", nothing.clone()),
            ("slow", "Answers after so many steps of 20 ms, and tells of each", number("steps")),
            ("ask", "Asks for a name and greets it", nothing),
            (
                "enrol",
                "Asks for so many names, one after the other, and counts a key once for all of them",
                json!({
                    "type": "object", "required": ["key", "names"],
                    "properties": { "key": { "type": "string" }, "names": { "type": "integer" } },
                }),
            ),
            ("visit", "Has its client open an address first, once for each key", text("key")),
            ("huge", "Answers so many bytes", number("bytes")),
            (
                "reveal",
                "Says with which headers it was called: as a result, an error or a question",
                text("as"),
            ),
        ]
        .into_iter()
        .chain(books.more.iter().map(|name| (name.as_str(), "One more", json!({ "type": "object" }))))
        .map(|(name, description, schema)| {
            let description = books.descriptions.get(name).cloned().unwrap_or_else(|| description.to_owned());
            let Value::Object(schema) = schema else { return Tool::default() };
            let mut tool = Tool::new(name.to_owned(), description, schema);
            tool.output_schema = books.outputs.get(name).and_then(Value::as_object).cloned().map(Arc::new);
            tool
        })
        .collect()
    }

    /// A page of its tools, from this one on.
    fn list(&self, start: usize) -> ListToolsResult {
        let tools = self.tools();
        let page = {
            let mut books = self.books();
            books.tool_lists += 1;
            books.page.unwrap_or(tools.len())
        };
        let next = Some(start + page).filter(|next| *next < tools.len()).map(|next| next.to_string());
        let tools = tools.into_iter().skip(start).take(page).collect();
        ListToolsResult { next_cursor: next, ..ListToolsResult::with_all_items(tools) }
    }

    /// Turns, if it is time.
    fn turn(&self) {
        let mut books = self.books();
        match books.turning.take() {
            Some((0, tool, description)) => drop(books.descriptions.insert(tool, description)),
            Some((lists, tool, description)) => books.turning = Some((lists - 1, tool, description)),
            None => {}
        }
    }
}

/// One connection.
#[derive(Clone, Debug)]
struct Counter(Arc<Shop>);

impl Counter {
    fn hear(&self, method: &str, params: Option<Value>, context: &NotificationContext<RoleServer>) {
        let mut told = json!({ "method": method, "params": params });
        if let Some(meta) = context.extensions.get::<NotificationMetaObject>() {
            told["params"]["_meta"] = json!(meta);
        }
        self.0.books().told.push(told);
    }

    async fn call(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
        if self.0.remembers {
            let mut books = self.0.books();
            books.calls.push((request.name.to_string(), arguments.clone()));
            books.metas.push(serde_json::to_value(&context.meta).unwrap_or_default());
        }
        let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
        match request.name.as_ref() {
            "echo" => said(text("text")),
            "count" => {
                let count = self.move_count(&text("key"), 1);
                CallToolResult::structured(json!({ "count": count, "key": text("key") })).into()
            }
            "uncount" => said(self.move_count(&text("key"), -1).to_string()),
            "hang" => std::future::pending().await,
            "slow" => {
                let steps = arguments["steps"].as_u64().unwrap_or_default();
                for step in 0..steps {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    tell(context, step, None).await;
                }
                said("done".to_owned())
            }
            "ask" => self.ask(&request, context, "Who is it?").await,
            "enrol" => {
                let names = arguments["names"].as_u64().unwrap_or_default();
                self.enrol(&request, context, (&text("key"), names)).await
            }
            "reveal" => {
                let heard = headers(&context.extensions);
                tell(context, 1, Some(&heard)).await;
                match text("as").as_str() {
                    "question" => self.ask(&request, context, &heard).await,
                    _ => CallToolResult::structured(json!({ "heard": heard, (heard.clone()): 1 })).into(),
                }
            }
            "visit" => said("welcome".to_owned()),
            "huge" => {
                let bytes = arguments["bytes"].as_u64().unwrap_or_default();
                said("x".repeat(usize::try_from(bytes).unwrap_or_default()))
            }
            _ => CallToolResult::error(vec![ContentBlock::text("it failed")]).into(),
        }
    }

    fn move_count(&self, key: &str, by: i64) -> u64 {
        let mut books = self.0.books();
        let count = books.counts.entry(key.to_owned()).or_default();
        *count = count.saturating_add_signed(by);
        *count
    }

    /// What was answered by now it keeps itself, or has its client keep, as its revision has it. Under the key `together` it asks for
    /// all names at once.
    async fn enrol(
        &self,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
        (key, names): (&str, u64),
    ) -> CallToolResponse {
        let question = |number: usize| asking(&format!("Who is number {}?", number + 1));
        let name = |answer: &Value| answer.pointer("/content/name")?.as_str().map(str::to_owned);
        let nobody = || CallToolResult::error(vec![ContentBlock::text("nobody")]).into();
        let most = usize::try_from(names).unwrap_or(usize::MAX);
        let mut enrolled: Vec<String> = Vec::new();
        if context.protocol_version().is_some_and(|version| version >= STATELESS) {
            let state = request.request_state.as_deref().unwrap_or_default();
            enrolled.extend(state.split_terminator(',').map(str::to_owned));
            if key == TOGETHER && enrolled.is_empty() {
                let Some(answers) = &request.input_responses else {
                    let asked = |number| InputRequest::Elicitation(ElicitRequest::new(question(number)));
                    let asked = (0..most).map(|number| (format!("name {number}"), asked(number))).collect();
                    return InputRequiredResult::new(Some(asked), Some(String::new())).into();
                };
                enrolled.extend(answers.values().filter_map(name));
            } else if let Some(answers) = &request.input_responses {
                let Some(name) = answers.get("name").and_then(name) else { return nobody() };
                enrolled.push(name);
            }
            if enrolled.len() < most {
                let asked = InputRequest::Elicitation(ElicitRequest::new(question(enrolled.len())));
                let state = enrolled.iter().map(|name| format!("{name},")).collect();
                return InputRequiredResult::new(Some([("name".to_owned(), asked)].into()), Some(state))
                    .into();
            }
        }
        if key == TOGETHER && enrolled.is_empty() {
            let asked = (0..most).map(|number| context.peer.create_elicitation(question(number)));
            for answer in futures_util::future::join_all(asked).await.into_iter().flatten() {
                enrolled.extend(serde_json::to_value(answer).ok().as_ref().and_then(name));
            }
            if enrolled.len() < most {
                return nobody();
            }
        }
        while enrolled.len() < most {
            let answer = context.peer.create_elicitation(question(enrolled.len())).await.ok();
            let answer = answer.and_then(|answer| serde_json::to_value(answer).ok());
            let Some(name) = answer.as_ref().and_then(name) else { return nobody() };
            enrolled.push(name);
        }
        self.0.came.fetch_add(1, Ordering::Relaxed);
        drop(self.0.gate.read().await);
        tell(context, 1, Some("enrolled")).await;
        CallToolResult::structured(json!({ "count": self.move_count(key, 1), "names": enrolled })).into()
    }

    /// By a request of its own, or by its answer, as its client's revision has it.
    async fn ask(
        &self,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
        question: &str,
    ) -> CallToolResponse {
        let greeted = |answer: Option<&Value>| {
            let name = answer.and_then(|it| it.pointer("/content/name")?.as_str()).unwrap_or("nobody");
            // Whatever else it was told with the name.
            let meta = answer.and_then(|it| it.get("_meta")?.as_object()).filter(|meta| !meta.is_empty());
            let meta = meta.map(|meta| format!(" {}", json!(meta))).unwrap_or_default();
            said(format!("hello {name}{meta}"))
        };
        let question = asking(question);
        if context.protocol_version().is_some_and(|version| version >= STATELESS) {
            return match &request.input_responses {
                Some(answers) => greeted(answers.get("name")),
                None => {
                    let asked = InputRequest::Elicitation(ElicitRequest::new(question));
                    let asked = [("name".to_owned(), asked)].into();
                    InputRequiredResult::new(Some(asked), Some("asked".to_owned())).into()
                }
            };
        }
        let answer: Option<ElicitResult> = context.peer.create_elicitation(question).await.ok();
        greeted(answer.and_then(|it| serde_json::to_value(it).ok()).as_ref())
    }
}

/// Who is enrolled under this key is asked for together with the others.
const TOGETHER: &str = "together";

fn asking(question: &str) -> ElicitRequestParams {
    let name = json!({ "type": "object", "properties": { "name": { "type": "string" } } });
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question.to_owned(),
        requested_schema: serde_json::from_value(name)
            .unwrap_or_else(|_| ElicitationSchema::new(BTreeMap::new())),
    }
}

fn address_first() -> ErrorData {
    let address =
        json!({ "mode": "url", "elicitationId": "1", "url": "https://example.com/", "message": "Open it" });
    ErrorData::new(
        ErrorCode(-32042),
        "an address has to be opened first",
        Some(json!({ "elicitations": [address] })),
    )
}

fn said(text: String) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(text)]).into()
}

/// The headers of a request as they came.
fn headers(extensions: &Extensions) -> String {
    let Some(parts) = extensions.get::<Parts>() else { return String::new() };
    let line = |(name, value): (&_, &axum::http::HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    parts.headers.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Says in its greeting what it was called with, where that is in confidence.
fn add_credential(instructions: &mut Option<String>, extensions: &Extensions) {
    let said = headers(extensions);
    if let (true, Some(instructions)) = (said.contains("authorization: "), instructions) {
        instructions.push_str(&said);
    }
}

async fn tell(context: &RequestContext<RoleServer>, step: u64, message: Option<&str>) {
    let Some(token) = context.meta.get_progress_token() else { return };
    let mut progress = ProgressNotificationParam::new(token, step as f64);
    progress.message = message.map(str::to_owned);
    let mut progress = ProgressNotification::new(progress);
    let mut meta = NotificationMetaObject::default();
    meta.0.insert("shop/step".to_owned(), step.into());
    progress.extensions.insert(meta);
    let peer: &Peer<RoleServer> = &context.peer;
    let _ = peer.send_notification(progress.into()).await;
}

/// Keeps what is said to it.
async fn hear(shop: Arc<Shop>, request: Request) -> Request {
    let (head, body) = request.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if let Ok(message) = serde_json::from_slice(&whole) {
        let revision = head.headers.get("mcp-protocol-version").and_then(|it| it.to_str().ok());
        shop.books().heard.push((revision.map(str::to_owned), message));
    }
    Request::from_parts(head, Body::from(whole))
}

/// Whoever has [`STRANGE`] echoed is answered what no SDK has a form for, and so is whoever is to be, see [`Tools::say_instead`].
async fn strangely(shop: Arc<Shop>, answer: Response) -> Response {
    let strange = move |said: &Bytes| shop.otherwise(&strange(said));
    let (mut head, body) = answer.into_parts();
    if head.headers.get(CONTENT_TYPE).is_none_or(|form| form != "application/json") {
        let pieces = body.into_data_stream().map_ok(move |piece| strange(&piece));
        return Response::from_parts(head, Body::from_stream(pieces));
    }
    head.headers.remove(CONTENT_LENGTH);
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    Response::from_parts(head, Body::from(strange(&whole)))
}

impl Shop {
    fn otherwise(&self, said: &Bytes) -> Bytes {
        let books = self.books();
        match std::str::from_utf8(said) {
            Ok(text) if books.instead.iter().any(|(of, _)| text.contains(of)) => {
                let instead = |text: String, (of, this): &(String, String)| text.replace(of, this);
                books.instead.iter().fold(text.to_owned(), instead).into()
            }
            _ => said.clone(),
        }
    }
}

fn strange(said: &Bytes) -> Bytes {
    let [block, result] = STRANGELY;
    let plain = format!(r#""text":"{STRANGE}"}}]"#);
    match std::str::from_utf8(said) {
        Ok(text) if text.contains(&plain) => {
            text.replace(&plain, &format!(r#""text":"{STRANGE}",{block}],{result}"#)).into()
        }
        _ => said.clone(),
    }
}

impl ServerHandler for Counter {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_completions()
            .enable_prompts()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_tools()
            .enable_tool_list_changed()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("till", "7").with_title("The till"))
            .with_instructions("Count with care.")
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Owned(self.0.revisions.clone())
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut greeting = self.negotiate_initialize(&request)?;
        add_credential(&mut greeting.instructions, &context.extensions);
        Ok(greeting)
    }

    async fn discover(&self, context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let mut info = self.get_info();
        add_credential(&mut info.instructions, &context.extensions);
        let versions = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, info))
    }

    /// A client with a session is told of every change.
    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let (mut changed, peer) = (self.0.changed.subscribe(), context.peer.clone());
        tokio::spawn(async move {
            while let Ok(change) = changed.recv().await {
                let told = match change {
                    Change::Tools => peer.notify_tool_list_changed().await,
                    Change::Resource(uri) => {
                        peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await
                    }
                };
                if told.is_err() {
                    return;
                }
            }
        });
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        if let Some((bytes, cursor)) = self.0.books().endless {
            let number: u64 = request.and_then(|request| request.cursor?.parse().ok()).unwrap_or_default();
            let prompt = Prompt::new(format!("prompt-{number}"), Some("x".repeat(bytes)), None);
            let next = cursor.map_or_else(|| (number + 1).to_string(), str::to_owned);
            let page = ListPromptsResult::with_all_items(vec![prompt]);
            return Ok(ListPromptsResult { next_cursor: Some(next), ..page });
        }
        let name = PromptArgument::new("name").with_required(true);
        let greet = Prompt::new("greet", Some("Greets somebody"), Some(vec![name]));
        Ok(ListPromptsResult::with_all_items(vec![greet]))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let mut name = arguments.get("name").and_then(Value::as_str).unwrap_or("nobody").to_owned();
        if name == "?" {
            let answer: Option<ElicitResult> =
                context.peer.create_elicitation(asking("For whom?")).await.ok();
            let answer = answer.and_then(|answer| answer.content);
            name = answer.and_then(|it| it.get("name")?.as_str().map(str::to_owned)).unwrap_or_default();
        }
        if request.name != "greet" {
            return Err(ErrorData::invalid_params("no such prompt", None));
        }
        let message = PromptMessage::new_text(Role::User, format!("Greet {name}"));
        Ok(GetPromptResult::new(vec![message]).into())
    }

    /// Two pages.
    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.0.books().resource_lists += 1;
        let is_first = request.and_then(|request| request.cursor).is_none();
        let numbers = if is_first { 1..=2 } else { 3..=3 };
        let books = numbers.map(|number| Resource::new(self.0.book(number), format!("book {number}")));
        let next_cursor = is_first.then(|| "3".to_owned());
        Ok(ListResourcesResult { next_cursor, ..ListResourcesResult::with_all_items(books.collect()) })
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let shelf = ResourceTemplate::new(format!("{}{{name}}", self.0.shelf()), "shelf");
        Ok(ListResourceTemplatesResult::with_all_items(vec![shelf]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        self.0.must_have(&uri)?;
        let contents = ResourceContents::text(format!("what is in {uri}"), uri);
        Ok(ReadResourceResult::new(vec![contents]).into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.must_have(&request.uri)?;
        self.0.books().subscribed.push(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.must_have(&request.uri)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        if let Reference::Resource(resource) = &request.r#ref {
            self.0.must_have(&resource.uri)?;
        }
        let values = vec![format!("{}y", request.argument.value)];
        let completion = CompletionInfo::new(values).map_err(|why| ErrorData::internal_error(why, None))?;
        Ok(CompleteResult::new(completion))
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        match request.method.as_str() {
            "shop/open" => Ok(CustomResult(json!({ "open": true, "asked": request.params }))),
            method => Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method.to_owned(), None)),
        }
    }

    async fn on_custom_notification(
        &self,
        notification: CustomNotification,
        context: NotificationContext<RoleServer>,
    ) {
        self.hear(&notification.method, notification.params, &context);
    }

    async fn on_roots_list_changed(&self, context: NotificationContext<RoleServer>) {
        self.hear("notifications/roots/list_changed", None, &context);
    }

    async fn list_tools(
        &self,
        asked: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        self.0.turn();
        Ok(self.0.list(asked.and_then(|asked| asked.cursor?.parse().ok()).unwrap_or_default()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !self.0.tools().iter().any(|tool| tool.name == request.name) {
            return Err(ErrorData::invalid_params(format!("unknown tool: {}", request.name), None));
        }
        let arguments = request.arguments.as_ref();
        if arguments.and_then(|it| it.get("as")).is_some_and(|it| it == "error") {
            return Err(ErrorData::invalid_params(headers(&context.extensions), None));
        }
        let key = request.arguments.as_ref().and_then(|arguments| arguments.get("key")?.as_str());
        if request.name == "visit" && self.0.books().visited.insert(key.unwrap_or_default().to_owned()) {
            return Err(address_first());
        }
        Ok(self.call(request, &context).await)
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changed = self.0.changed.subscribe();
        loop {
            tokio::select! {
                told = changed.recv() => {
                    // What was not asked for is not said.
                    let _ = match told {
                        Ok(Change::Tools) => context.sink().notify_tool_list_changed().await,
                        Ok(Change::Resource(uri)) => context.sink().notify_resource_updated(uri).await,
                        Err(_) => return Ok(()),
                    };
                }
                () = context.cancelled() => return Ok(()),
            }
        }
    }
}
