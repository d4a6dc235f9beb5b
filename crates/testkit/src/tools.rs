//! A small server of the Model Context Protocol that counts what its tools are called for.
//!
//! It listens at `http://127.0.0.1:PORT/mcp`, speaks the revisions that it is opened with, and has the tools `echo`, `count`,
//! `uncount`, `fail`, `hang`, `slow`, `ask` and `huge`. What it says of a tool can be changed while it runs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::serve::ListenerExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ElicitRequest,
    ElicitRequestParams, ElicitResult, ElicitationSchema, InputRequest, InputRequiredResult, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, ProtocolVersion, ServerCapabilities, ServerConfig,
    SubscriptionFilter, Tool,
};
use rmcp::service::{NotificationContext, Peer, RequestContext, SubscriptionContext};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// A running server; stopped when dropped.
pub struct Tools {
    url: String,
    shop: Arc<Shop>,
    task: JoinHandle<()>,
}

/// What all of its connections share.
#[derive(Debug)]
struct Shop {
    revisions: Vec<ProtocolVersion>,
    /// Whether calls are kept.
    remembers: bool,
    books: Mutex<Books>,
    /// Told when what it says of its tools changes.
    changed: broadcast::Sender<()>,
}

#[derive(Debug, Default)]
struct Books {
    counts: BTreeMap<String, u64>,
    calls: Vec<(String, Value)>,
    metas: Vec<Value>,
    descriptions: BTreeMap<String, String>,
}

/// The revisions that it can be opened with.
pub const SESSIONS: ProtocolVersion = ProtocolVersion::V_2025_11_25;
/// See [`SESSIONS`].
pub const STATELESS: ProtocolVersion = ProtocolVersion::V_2026_07_28;

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
        let shop = Arc::new(Shop {
            revisions: revisions.to_vec(),
            remembers,
            books: Mutex::default(),
            changed: broadcast::channel(16).0,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        let config = StreamableHttpServerConfig::default().with_json_response(true);
        let open = Arc::clone(&shop);
        let service = StreamableHttpService::new(
            move || Ok(Counter(Arc::clone(&open))),
            Arc::new(LocalSessionManager::default()),
            config,
        );
        let app = axum::Router::new().nest_service("/mcp", service);
        // What an answer consists of is sent as it comes: nobody is to wait for an acknowledgement.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Tools { url, shop, task })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often `count` was called for this key, less what `uncount` took back.
    pub fn count(&self, key: &str) -> u64 {
        self.shop.books().counts.get(key).copied().unwrap_or_default()
    }

    /// Every call that it took, in order: the tool and its arguments.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.shop.books().calls.clone()
    }

    /// What stood in `_meta` of each.
    pub fn metas(&self) -> Vec<Value> {
        self.shop.books().metas.clone()
    }

    /// Says something else of a tool from now on, and tells whoever listens.
    pub fn describe(&self, tool: &str, description: &str) {
        self.shop.books().descriptions.insert(tool.to_owned(), description.to_owned());
        let _ = self.shop.changed.send(());
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
            ("huge", "Answers so many bytes", number("bytes")),
        ]
        .into_iter()
        .map(|(name, description, schema)| {
            let description = books.descriptions.get(name).cloned().unwrap_or_else(|| description.to_owned());
            let Value::Object(schema) = schema else { return Tool::default() };
            Tool::new(name, description, schema)
        })
        .collect()
    }
}

/// One connection.
#[derive(Clone, Debug)]
struct Counter(Arc<Shop>);

impl Counter {
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
                    tell(context, step).await;
                }
                said("done".to_owned())
            }
            "ask" => self.ask(&request, context).await,
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

    /// By a request of its own, or by its answer, as its client's revision has it.
    async fn ask(
        &self,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let greeted = |answer: Option<&Value>| {
            let name = answer.and_then(|it| it.pointer("/content/name")?.as_str()).unwrap_or("nobody");
            said(format!("hello {name}"))
        };
        let question = question();
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

fn question() -> ElicitRequestParams {
    let name = json!({ "type": "object", "properties": { "name": { "type": "string" } } });
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: "Who is it?".to_owned(),
        requested_schema: serde_json::from_value(name)
            .unwrap_or_else(|_| ElicitationSchema::new(BTreeMap::new())),
    }
}

fn said(text: String) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(text)]).into()
}

async fn tell(context: &RequestContext<RoleServer>, step: u64) {
    let Some(token) = context.meta.get_progress_token() else { return };
    let progress = ProgressNotificationParam::new(token, step as f64);
    let peer: &Peer<RoleServer> = &context.peer;
    let _ = peer.notify_progress(progress).await;
}

impl ServerHandler for Counter {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build();
        ServerConfig::new(capabilities)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Owned(self.0.revisions.clone())
    }

    /// A client with a session is told of every change.
    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let (mut changed, peer) = (self.0.changed.subscribe(), context.peer.clone());
        tokio::spawn(async move {
            while changed.recv().await.is_ok() && peer.notify_tool_list_changed().await.is_ok() {}
        });
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.0.tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !self.0.tools().iter().any(|tool| tool.name == request.name) {
            return Err(ErrorData::invalid_params(format!("unknown tool: {}", request.name), None));
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
                    if told.is_err() || context.sink().notify_tool_list_changed().await.is_err() {
                        return Ok(());
                    }
                }
                () = context.cancelled() => return Ok(()),
            }
        }
    }
}
