//! One tool as the provider of one archetype.
//!
//! ```toml
//! [binding]
//! provider = "mcp"
//! server = "git"                 # `[mcp.servers.git]` of the configuration
//! tool = "git_commit"
//! pinned = "9f…"                 # what the operator accepted of what the server says of it
//! read_only = false              # true: it changes nothing, whatever comes of it
//! on_error = "refused"           # a result with `isError`: refused (it says that it failed) | doubt, which it is where there is money
//! reference = "/structuredContent/id"      # where the result names what it made
//!
//! [binding.capabilities]
//! repeat_safe = true
//!
//! [binding.rollback]             # another tool of the same server takes it back
//! tool = "delete_branch"
//! pinned = "07…"
//! within_seconds = 86400
//! arguments = { id = { "$action" = "provider_reference" } }
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use action::{ActionId, Archetype, Tenant};
use execution::{Call, Confirmation, Doubt, Refusal, Reply, Word};
use futures_util::future::BoxFuture;
use rmcp::model::{CallToolRequestParams, ErrorCode, ErrorData, InputResponses, JsonObject};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Servers;
use super::link::{Asked, Fault, GRACE, Use};
use super::listed::SeenTool;
use super::party::{Leave, Party, Seat, Seats, Tie};
use super::said::{Input, Said};
use super::server::{MOST_ROUNDS, Server, answered, nobody};
use crate::binding::{identity, read_capabilities};
use crate::reader::{Mistake, Node, Table};
use crate::template::{Knows, Scope, Tree, Values};
use crate::{Done, Profile, Provider, Rollback};

/// One archetype's tool.
#[derive(Debug)]
pub struct Tool {
    profile: Profile,
    server: Arc<Server>,
    seats: Arc<Seats>,
    tool: String,
    pinned: String,
    read_only: bool,
    on_error: OnError,
    reference: Option<String>,
    rollback: Option<Undo>,
}

/// What a result with `isError` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnError {
    Refused,
    Doubt,
}

#[derive(Debug)]
struct Undo {
    tool: String,
    pinned: String,
    arguments: Tree,
    within: Duration,
    restores: bool,
}

/// Why a tool is not to be called as things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// Its server says something else of it than was accepted.
    Changed,
    /// Its server does not list it any more.
    Gone,
}

impl Quarantine {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Quarantine::Changed => "tool_changed",
            Quarantine::Gone => "tool_gone",
        }
    }
}

const MEMBERS: [&str; 10] = [
    "provider",
    "server",
    "tool",
    "pinned",
    "read_only",
    "on_error",
    "reference",
    "name",
    "capabilities",
    "rollback",
];

impl Tool {
    pub(crate) fn read(
        node: &Node<'_>,
        archetype: &Archetype,
        (servers, tenant): (&Servers, &Tenant),
    ) -> Result<Tool, Vec<Mistake>> {
        Tool::read_one(node, archetype, (servers, tenant)).map_err(|mistake| vec![mistake])
    }

    fn read_one(
        node: &Node<'_>,
        archetype: &Archetype,
        (servers, tenant): (&Servers, &Tenant),
    ) -> Result<Tool, Mistake> {
        let table = node.table(&MEMBERS)?;
        let server_node = table.need("server")?;
        let server_name = server_node.text()?;
        let server = servers.get(tenant, server_name).ok_or_else(|| {
            server_node
                .mistake(format!("there is no MCP server `{server_name}`"))
                .hint(format!(
                    "declare [mcp.servers.{server_name}] in countersign.toml; one that stands there already is known once the \
                     gateway is restarted, which alone reads it"
                ))
        })?;
        let tool = table.need("tool")?.text()?.to_owned();
        let pinned = pin(&table)?;
        let read_only = table.flag("read_only")?;
        let mut capabilities = read_capabilities(table.get("capabilities"), archetype)?;
        if capabilities.queryable.is_some() {
            let mistake = Mistake::new(
                "/capabilities/queryable",
                "an MCP server cannot be asked what became of a call",
            );
            return Err(mistake.hint("declare `idempotent` or `repeat_safe`, if the tool is one of them"));
        }
        if read_only && archetype.money.is_some() {
            return Err(table.need("read_only")?.mistake("what moves money is not read only"));
        }
        capabilities.repeat_safe |= read_only;
        let on_error = on_error(&table, archetype)?;
        let reference = table.get("reference").map(|node| node.pointer()).transpose()?;
        let rollback = table.get("rollback").map(|node| Undo::read(&node, archetype)).transpose()?;
        let name = table.get("name").map_or(Ok(provider_of(server_name)), |node| node.name())?;
        let parts = json!({ "provider": "mcp", "server": server_name, "tool": tool, "capabilities": table.value("capabilities") });
        Ok(Tool {
            profile: Profile { name, identity: identity(&parts), capabilities },
            server,
            seats: Arc::clone(servers.seats()),
            tool,
            pinned,
            read_only,
            on_error,
            reference,
            rollback,
        })
    }

    /// The server that has it.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// What its server calls it.
    pub fn tool_name(&self) -> &str {
        &self.tool
    }

    /// The digest of what was accepted of what its server says of it.
    pub fn pinned(&self) -> &str {
        &self.pinned
    }

    /// Whether the operator says that it changes nothing.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Its server's name.
    pub fn server_name(&self) -> &str {
        self.server.name()
    }

    /// Whether it is known what the server says of the tool now.
    pub fn is_looked_at(&self) -> bool {
        self.server.is_listed()
    }

    /// Sees to it that it is known what the server says of the tool, if the server can be reached.
    pub async fn look(&self) {
        let _ = self.server.tools().await;
    }

    /// The same, and has a connection made for a client that is about to call it: what is admitted leaves at once then.
    pub async fn prepare(&self, seat: &Seat) {
        // First of all: over it the server may be asked for its list, too.
        if let Ok(link) = self.server.known_link(&seat.party).await {
            seat.put_link(link);
        }
        self.look().await;
    }

    /// Takes a connection for a client that is about to call it, if one is there and it is known what the server says of the tool.
    pub fn is_ready(&self, seat: &Seat) -> bool {
        let link = self.server.ready_link(&seat.party);
        let is_ready = link.is_some();
        link.into_iter().for_each(|link| seat.put_link(link));
        is_ready
    }

    /// Why it is not to be called, by what its server said last; nothing as long as it said nothing.
    pub fn quarantine(&self) -> Option<Quarantine> {
        held_back(&self.server.known_tools()?, &self.tool, &self.pinned)
    }

    async fn carry_out(&self, call: &Call) -> Reply {
        let seat = self.seats.of(call.action_id);
        let none = JsonObject::new();
        let arguments = call.constraints.as_object().unwrap_or(&none);
        let wanted = Wanted { name: &self.tool, pinned: &self.pinned, arguments, on_error: self.on_error };
        match self.ask_in_time(call, seat.as_ref(), &wanted).await {
            // Whatever came of it, nothing is changed by it: it may be asked again.
            Reply::Lost { how, why } if self.read_only => {
                let (server, tool, action) = (self.server.name(), &self.tool, call.action_id);
                tracing::warn!(server, tool, %action, why, "what only reads was not answered");
                let code = Some(how.as_str().to_owned());
                Reply::Refused(Refusal { code, transient: true, ..Refusal::default() })
            }
            reply => reply,
        }
    }

    /// Waits as long as may be waited for; then the server is told that nobody waits any more.
    async fn ask_in_time(&self, call: &Call, seat: Option<&Arc<Seat>>, wanted: &Wanted<'_>) -> Reply {
        let left = AtomicBool::new(false);
        let of_client = seat.map(|seat| seat.tie()).unwrap_or_default();
        let (by_client, given_up) = (of_client.cancelled.clone(), of_client.cancelled.child_token());
        let leave = Some(self.leave(call, seat.cloned(), wanted));
        let tie = Tie { cancelled: given_up.clone(), leave, ..of_client };
        let mut asking = pin!(self.ask(call, seat.map(|seat| &**seat), wanted, (&tie, &left)));
        let reply = match timeout(self.server.patience(), &mut asking).await {
            Ok(reply) => reply,
            Err(_) => {
                given_up.cancel();
                let at_last = timeout(2 * GRACE, asking).await.ok().filter(|reply| reply.doubt().is_none());
                match (at_last, left.load(Ordering::Relaxed)) {
                    (Some(reply), true) => reply,
                    (None, true) => lost(Doubt::NoAnswer, "it took too long"),
                    (_, false) => not_sent("its server took too long before anything could be sent"),
                }
            }
        };
        match reply {
            // Nor is it sent later: whoever gave it up has been told that it is not.
            Reply::NotSent { .. } if by_client.is_cancelled() => stopped(),
            reply => reply,
        }
    }

    /// `left` is set before anything leaves.
    async fn ask(
        &self,
        call: &Call,
        seat: Option<&Seat>,
        wanted: &Wanted<'_>,
        (tie, left): (&Tie, &AtomicBool),
    ) -> Reply {
        let party = seat.map_or_else(nobody, |seat| Arc::clone(&seat.party));
        let Ready { link, promotes, answers_in_form } = match self.ready(seat, &party, wanted).await {
            Ok(ready) => ready,
            Err(why) => return Reply::NotSent { why },
        };
        if tie.cancelled.is_cancelled() {
            return not_sent("its caller gave it up before it was sent");
        }
        let transaction = call.action_id.to_string();
        let mut asked = Asked {
            name: wanted.name,
            promotes,
            arguments: wanted.arguments,
            again: (None, None),
            of_client: seat.map(|seat| &seat.meta),
            provider_key: call.provider_key.as_str(),
            transaction: &transaction,
        };
        for round in 0..MOST_ROUNDS {
            left.store(true, Ordering::Relaxed);
            match link.0.call(&asked, tie, self.server.silence()).await {
                Ok(said) if said.asks() => {
                    // In a session a server asks by requests of its own: there this means nothing.
                    let asks = |input: &Input| link.0.asks_by_answers() && input.says_something();
                    let Some(input) = said.input().filter(asks) else {
                        return lost(Doubt::NotUnderstood, "what the server asks has no form");
                    };
                    let state = input.state.clone();
                    match answered(&party, input, tie).await {
                        // What was admitted was admitted for then; who answers takes their time.
                        Ok(_) if !tie.may_go_on().await => return stopped(),
                        Ok(answers) => asked.again = again(answers, state),
                        // It said itself that it has not done it, and it will not be told to.
                        Err(_) => return refused("input_required", Value::Null),
                    }
                }
                Ok(said) if said.is_of_tool() => return self.reply(call, seat, said, wanted.on_error),
                Ok(_) => return lost(Doubt::NotUnderstood, "the answer is no result of a tool"),
                Err(Fault::Refused(error)) => {
                    let doubted = answers_in_form || wanted.on_error == OnError::Doubt;
                    return self.declined(seat, error, doubted);
                }
                // Before it asked it may have done something.
                Err(Fault::Shut(status)) if round > 0 && !self.read_only => {
                    return lost(Doubt::Error, &format!("the server asked, and then answered {status}"));
                }
                Err(Fault::Shut(status)) => {
                    let (server, tool) = (self.server.name(), wanted.name);
                    tracing::warn!(
                        server,
                        tool,
                        status,
                        "an MCP server does not take what we are to be known by"
                    );
                    let code = Some(status.to_string());
                    return Reply::Refused(Refusal { status: Some(status), code, ..Refusal::default() });
                }
                // It may have acted all the same, and forgotten the session then.
                Err(Fault::Ended) => return lost(Doubt::Ended, "the session was over"),
                Err(Fault::NotSent(why)) if round == 0 => return Reply::NotSent { why },
                Err(Fault::NotSent(why)) => return Reply::Lost { how: Doubt::Broken, why },
                Err(Fault::Lost(how, why)) => return Reply::Lost { how, why },
            }
        }
        // It may have done something each time before it asked.
        match self.read_only {
            true => refused("asked_too_often", Value::Null),
            false => lost(Doubt::NotUnderstood, "the server asked too often"),
        }
    }

    /// A connection over which the tool may be called, as it is accepted; or why nothing can be sent.
    async fn ready(
        &self,
        seat: Option<&Seat>,
        party: &Arc<dyn Party>,
        wanted: &Wanted<'_>,
    ) -> Result<Ready, String> {
        let began = Instant::now();
        // Exactly what it says now: between two looks at what is known it may come to say something else.
        let tools = self.server.tools().await.map_err(|error| error.to_string())?;
        if let Some(quarantine) = held_back(&tools, wanted.name, wanted.pinned) {
            return Err(format!("the tool is quarantined: {}", quarantine.as_str()));
        }
        let seen = tools.iter().find(|seen| seen.tool.name == wanted.name);
        let link = match seat.and_then(Seat::take_link).filter(|link| link.0.is_open()) {
            Some(link) => link,
            None => self.server.known_link(party).await.map_err(|error| error.to_string())?,
        };
        // What was admitted is admitted for now: a mandate may have been withdrawn while a server took its time to start.
        if began.elapsed() > LONGEST_START {
            return Err("its server took too long to start".to_owned());
        }
        let promotes = seen.is_some_and(|seen| seen.promotes);
        Ok(Ready { link, promotes, answers_in_form: seen.is_some_and(|seen| seen.output.is_some()) })
    }

    /// Asked before what a client answers is passed on: whether the call may still be gone on with.
    fn leave(&self, call: &Call, seat: Option<Arc<Seat>>, wanted: &Wanted<'_>) -> Leave {
        let (action, attempt) = (call.action_id, call.attempt);
        let (server, name, pinned) =
            (Arc::clone(&self.server), wanted.name.to_owned(), wanted.pinned.to_owned());
        Arc::new(move || {
            let (server, seat) = (Arc::clone(&server), seat.clone());
            let (name, pinned) = (name.clone(), pinned.clone());
            Box::pin(async move {
                let listed = server.tools().await;
                let is_held_back = listed.map_or(true, |tools| held_back(&tools, &name, &pinned).is_some());
                match seat {
                    _ if is_held_back => false,
                    Some(seat) => seat.may_go_on(action, attempt).await,
                    None => true,
                }
            })
        })
    }

    fn reply(&self, call: &Call, seat: Option<&Seat>, said: Said, on_error: OnError) -> Reply {
        let Said { text, value: answer } = said;
        if let Some(seat) = seat {
            seat.put_answer(text);
        }
        match (answer["isError"] == true, on_error) {
            (false, _) => Reply::Confirmed(Confirmation {
                reference: self.reference_in(&answer),
                answer,
                // What was charged it does not say; so it is what was asked for.
                charged: call.money,
                expires_ms: None,
            }),
            // Its own word: what it did before it failed nobody knows. Of what only reads it is known.
            (true, OnError::Refused) => Reply::Refused(Refusal {
                code: Some("tool_error".to_owned()),
                answer,
                word: if self.read_only { Word::Provider } else { Word::OnlySaid },
                ..Refusal::default()
            }),
            (true, OnError::Doubt) => lost(Doubt::SaysFailed, "the tool says that it failed"),
        }
    }

    fn reference_in(&self, answer: &Value) -> Option<String> {
        let found = answer.pointer(self.reference.as_deref()?)?;
        let text = match found {
            Value::String(text) => text.clone(),
            // Others were rounded when they were read, and would name something else.
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            Value::Bool(_) => found.to_string(),
            _ => return None,
        };
        (text.len() <= MOST_REFERENCE).then_some(text)
    }

    /// An error of the protocol: those that say that the request was none had no effect. Wrong parameters say that only where
    /// no doubt is in order: servers hold their own answer against the form that they declare once the effect is there, and
    /// what does not fit they call wrong parameters, too.
    fn declined(&self, seat: Option<&Seat>, error: ErrorData, doubted: bool) -> Reply {
        let for_the_client = [URL_ELICITATION_REQUIRED, ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY];
        let is_for_the_client = for_the_client.contains(&error.code);
        if let Some(seat) = seat.filter(|_| is_for_the_client) {
            seat.put_error(error.clone());
        }
        let none = [
            ErrorCode::INVALID_REQUEST,
            ErrorCode::METHOD_NOT_FOUND,
            ErrorCode::INVALID_PARAMS,
            ErrorCode::PARSE_ERROR,
            ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY,
            ErrorCode::UNSUPPORTED_PROTOCOL_VERSION,
            ErrorCode::HEADER_MISMATCH,
            URL_ELICITATION_REQUIRED,
        ];
        let says_nothing = doubted && error.code == ErrorCode::INVALID_PARAMS;
        if !self.read_only && (says_nothing || !none.contains(&error.code)) {
            return lost(Doubt::Error, "the server answered with an error of its own");
        }
        let mut answer = json!({ "error": { "code": error.code.0, "untrusted_text": error.message } });
        // Whoever asks once more has to see to it all the same.
        if let Some(data) = error.data.filter(|_| is_for_the_client) {
            answer["error"]["data"] = data;
        }
        refused(&error.code.0.to_string(), answer)
    }

    async fn take_back(&self, call: &Call, done: Done<'_>) -> Reply {
        let Some(undo) = &self.rollback else { return not_sent("nothing takes this back") };
        if let Err(error) = self.server.tools().await {
            return Reply::NotSent { why: error.to_string() };
        }
        let values = Values {
            constraints: &call.constraints,
            money: call.money,
            action_id: call.action_id,
            reference: Some(&call.reference),
            provider_key: Some(&call.provider_key),
            confirmed: done.reference,
            snapshot: done.snapshot,
        };
        let mut arguments: JsonObject = match undo.arguments.fill(&values) {
            Ok(Some(Value::Object(arguments))) => arguments,
            Ok(_) => JsonObject::new(),
            Err(error) => return Reply::NotSent { why: error.to_string() },
        };
        self.fit(&undo.tool, &mut arguments);
        let (name, pinned, arguments) = (&*undo.tool, &*undo.pinned, &arguments);
        self.ask_in_time(call, None, &Wanted { name, pinned, arguments, on_error: self.on_error }).await
    }

    /// A reference is kept as text; where the tool wants a number in its place, it is one.
    fn fit(&self, tool: &str, arguments: &mut JsonObject) {
        let tools = self.server.known_tools().unwrap_or_default();
        let Some(seen) = tools.iter().find(|seen| seen.tool.name == tool) else { return };
        let properties = seen.tool.input_schema.get("properties").and_then(Value::as_object);
        for (name, value) in arguments {
            let wanted = properties.and_then(|it| it.get(name)?.get("type")?.as_str());
            if let (Value::String(text), Some("integer" | "number")) = (&*value, wanted)
                && let Ok(Value::Number(number)) = serde_json::from_str(text)
                // Of more digits than a number keeps it would be another one.
                && number.to_string() == *text
            {
                *value = number.into();
            }
        }
    }
}

fn held_back(tools: &[SeenTool], name: &str, pinned: &str) -> Option<Quarantine> {
    match tools.iter().find(|seen| seen.tool.name == name) {
        None => Some(Quarantine::Gone),
        Some(seen) => (seen.digest != pinned).then_some(Quarantine::Changed),
    }
}

/// What a call is sent over.
struct Ready {
    link: Use,
    /// Whether some of its arguments have to stand in the head, too.
    promotes: bool,
    /// Whether the server declares a form for what the tool answers.
    answers_in_form: bool,
}

/// What a server is wanted to do.
struct Wanted<'a> {
    name: &'a str,
    pinned: &'a str,
    arguments: &'a JsonObject,
    on_error: OnError,
}

impl Undo {
    fn read(node: &Node<'_>, archetype: &Archetype) -> Result<Undo, Mistake> {
        let table = node.table(&["tool", "pinned", "arguments", "within_seconds", "restores"])?;
        if !archetype.reversible {
            return Err(node
                .mistake("the archetype is not reversible")
                .hint("add `reversible = true` at the top of its file, if this takes its effect back"));
        }
        let scope = Scope { archetype, knows: Knows::Undoing };
        Ok(Undo {
            tool: table.need("tool")?.text()?.to_owned(),
            pinned: pin(&table)?,
            arguments: Tree::read(&table.need("arguments")?, scope)?,
            within: table.seconds("within_seconds", 30 * 86_400)?,
            restores: table.flag("restores")?,
        })
    }
}

/// What operators call a server, in a freeze for example, unless a binding gives it another name.
pub fn provider_of(server: &str) -> String {
    format!("mcp:{server}")
}

fn pin(table: &Table<'_>) -> Result<String, Mistake> {
    let node = table.need("pinned")?;
    let text = node.text()?;
    let hex =
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if hex {
        return Ok(text.to_owned());
    }
    Err(node.mistake("this is not the digest of a tool").hint("`countersign mcp accept` writes it"))
}

fn on_error(table: &Table<'_>, archetype: &Archetype) -> Result<OnError, Mistake> {
    let Some(node) = table.get("on_error") else {
        return Ok(if archetype.money.is_some() { OnError::Doubt } else { OnError::Refused });
    };
    match node.text()? {
        "refused" => Ok(OnError::Refused),
        "doubt" => Ok(OnError::Doubt),
        _ => Err(node.mistake("this must be refused or doubt")),
    }
}

/// The same call with what its server asked for.
pub(super) fn continue_with(
    params: &mut CallToolRequestParams,
    answers: InputResponses,
    state: Option<String>,
) {
    (params.input_responses, params.request_state) = again(answers, state);
}

/// What is sent once more, and what goes along.
fn again(answers: InputResponses, state: Option<String>) -> (Option<InputResponses>, Option<String>) {
    (Some(answers).filter(|answers| !answers.is_empty()), state)
}

fn lost(how: Doubt, why: &str) -> Reply {
    Reply::Lost { how, why: why.to_owned() }
}

fn not_sent(why: &str) -> Reply {
    Reply::NotSent { why: why.to_owned() }
}

/// By us, before its server had begun.
fn stopped() -> Reply {
    Reply::Refused(Refusal { word: Word::Ours, ..Refusal::default() })
}

fn refused(code: &str, answer: Value) -> Reply {
    Reply::Refused(Refusal { code: Some(code.to_owned()), answer, ..Refusal::default() })
}

/// A person has to open an address first; then the call is made again (2025-11-25).
const URL_ELICITATION_REQUIRED: ErrorCode = ErrorCode(-32042);

/// As long as a server may take to be there once a call is admitted.
const LONGEST_START: Duration = Duration::from_secs(2);

const MOST_REFERENCE: usize = 512;

impl Provider for Tool {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn patience(&self) -> Duration {
        self.server.patience()
    }

    fn tool(&self) -> Option<&Tool> {
        Some(self)
    }

    fn make_ready(&self, action: ActionId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let party = self.seats.of(action).map_or_else(nobody, |seat| Arc::clone(&seat.party));
            drop(self.server.known_link(&party).await);
            self.look().await;
        })
    }

    fn call<'a>(&'a self, call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(self.carry_out(call))
    }

    fn rollback(&self) -> Option<Rollback> {
        self.rollback.as_ref().map(|undo| Rollback { within: undo.within, restores: undo.restores })
    }

    fn undo<'a>(&'a self, call: &'a Call, done: Done<'a>, _now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(self.take_back(call, done))
    }
}
