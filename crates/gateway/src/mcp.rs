//! Calls of MCP tools as actions: which key they go by, how long their client waits, and when an outcome was delivered.
//!
//! ```text
//!  tools/call ─▶ key: the client's own,  ─▶ judged, carried out ─▶ answered ─▶ delivered
//!                or one made of what is        │                                   │
//!                alike and how many of         └── held, in doubt: the same call   └── the same call
//!                those were delivered              again is this action                again is a new one
//! ```
//!
//! A client that lost its connection cannot know a key of ours, so a call without a key of its own goes by one that is made of
//! who calls which tool with which arguments, and of how many outcomes of such calls their caller has. Until this one is
//! delivered, the same call again is the same action. What is read only has a new key each time: a read is never replayed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use action::{ActionId, IdempotencyKey};
use ledger::State;
use provider::mcp::{Seat, SeenTool, Servers, Unreachable, provider_of};
use serde_json::{Map, Value, json};

use crate::act::lock;
use crate::atp::Words;
use crate::caller::Caller;
use crate::gateway::Gateway;
use crate::outcome::Reply;
use crate::remember::unavailable;
use crate::row::{OutcomeRow, internal};
use crate::tenants::Rules;
use crate::{Answer, Ask, Code, Error, clock};

/// One `tools/call`.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The server's name.
    pub server: String,
    /// What the server calls the tool.
    pub tool: String,
    /// Its arguments, an object.
    pub arguments: Value,
    /// The client's own key.
    pub key: Option<IdempotencyKey>,
    /// The mandate under which it is asked for, a token.
    pub mandate: Option<String>,
    /// The earlier action that it is meant to repeat.
    pub repeat_of: Option<String>,
    /// The governed session that it belongs to.
    pub session_id: Option<String>,
    /// Names it in logs and answers.
    pub request_id: String,
}

/// What became of a `tools/call`.
#[derive(Debug)]
pub struct Called {
    /// The action.
    pub action_id: Option<ActionId>,
    /// Its outward kind, see [`crate::Kind`].
    pub kind: String,
    /// What the server answered, a `CallToolResult`, where it did: foreign.
    pub answer: Option<Value>,
    /// The outcome in the words of the Execution Protocol.
    pub body: Value,
    /// Whether it was said before.
    pub replayed: bool,
    /// To be told when the client has all of it. Dropped without that, it is not delivered.
    pub delivery: Option<Delivery>,
}

/// An outcome on its way to its client.
#[derive(Clone)]
pub struct Delivery {
    gateway: Arc<Gateway>,
    alike: Alike,
    times: u64,
}

/// HMAC of caller, tool and arguments under the tenant's key.
pub(crate) type Alike = [u8; 32];

/// What the name of every tool's archetype begins with.
pub const MCP_ARCHETYPES: &str = "mcp/";

/// What the archetype of a tool is called.
pub fn archetype_of(server: &str, tool: &str) -> String {
    format!("{MCP_ARCHETYPES}{server}/{tool}")
}

/// The key under which a call is an action.
struct Key {
    key: IdempotencyKey,
    /// Where it is made of what is alike.
    made: Option<(Alike, u64)>,
}

impl Gateway {
    /// The operator's servers.
    pub fn mcp(&self) -> &Arc<Servers> {
        &self.outside.servers
    }

    /// How long clients are kept waiting.
    pub fn mcp_settings(&self) -> &crate::config::Mcp {
        &self.config.mcp
    }

    /// Takes one `tools/call` to its outcome, or as far as it comes within `wait`; it goes on by itself. While it waits,
    /// `progress` is told why, now and then.
    ///
    /// # Errors
    /// Those of [`Gateway::execute`]; with a key of the client's own also that its first call is still under way.
    pub async fn call_tool(
        self: &Arc<Self>,
        caller: &Caller,
        call: ToolCall,
        seat: Arc<Seat>,
        wait: Duration,
        progress: &(dyn Fn(&'static str) + Send + Sync),
    ) -> Result<Called, Error> {
        let until = Instant::now() + wait;
        let archetype = archetype_of(&call.server, &call.tool);
        let rules = self.tenant(&caller.tenant)?.rules();
        if let Some(tool) = rules.providers.get(&archetype).and_then(|provider| provider.tool()) {
            // Before it takes anybody's room: a server may be slow to say what it has.
            tool.prepare(&seat).await;
        }
        let key = self.tool_key(caller, &rules, &archetype, &call).await?;
        let delivery = key.made.map(|(alike, times)| Delivery {
            gateway: Arc::clone(self),
            alike,
            times: times.saturating_add(1),
        });
        if let Some(abandoned) = delivery.clone() {
            // Who is asked something and does not come back does not mean this action by the same call later.
            seat.when_abandoned(move || abandoned.done());
        }
        let ask = Ask {
            idempotency_key: Some(key.key),
            request_id: call.request_id.clone(),
            dry_run: false,
            body: body(&archetype, &call),
        };
        if ask.body.len() > MOST_BODY {
            let why = "the arguments are longer than 256 KiB";
            return Err(Error::new(Code::BodyTooLarge, why).field("/arguments"));
        }
        let mut pause = Pause::new(until);
        let answer = loop {
            let taken = self.take_for(caller, ask.clone(), Words::Execution, Some(Arc::clone(&seat))).await;
            match taken {
                Err(error)
                    if error.code == Code::IdempotencyInFlight && key.made.is_some() && pause.is_left() =>
                {
                    progress("the same call is under way already");
                    pause.rest().await;
                }
                taken => break taken?,
            }
        };
        // People may think for long about what is held.
        seat.give_back_link();
        let mut called = self.of_answer(caller, answer, &seat).await?;
        while let (Some(id), Some(why)) = (called.action_id, called.waits())
            && pause.is_left()
        {
            progress(why);
            pause.rest().await;
            called = Called { replayed: called.replayed, ..self.called(caller, &id.to_string()).await? };
        }
        called.delivery = delivery.filter(|_| called.is_over());
        Ok(called)
    }

    /// How an action of the caller's stands.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if it is not the caller's.
    pub async fn called(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<Called, Error> {
        let stored = self.visible(caller, id).await?;
        let (action_id, state) = (stored.id, stored.state);
        let view = self.action(caller, id).await?;
        let reply = match (view.reply, state) {
            (Some(reply), _) => reply,
            (None, _) => return Ok(Called::under_way(action_id)),
        };
        let answer = self.kept_answer(caller, action_id, state).await?;
        Called::read(Some(action_id), &reply, answer, false)
    }

    /// The tools of a server that this caller may see: listed, accepted as they are, and not forbidden to it whatever it asks.
    ///
    /// # Errors
    /// The server does not list them.
    pub async fn tools_of(&self, caller: &Caller, server: &str) -> Result<Vec<SeenTool>, Unreachable> {
        let none = || Unreachable { name: server.to_owned(), why: "there is no such server".to_owned() };
        let rules = self.tenant(&caller.tenant).map_err(|_| none())?.rules();
        let found = self.outside.servers.get(&caller.tenant, server).ok_or_else(none)?;
        let tools = found.tools().await?;
        let accepted = |seen: &&SeenTool| {
            let archetype = archetype_of(server, &seen.tool.name);
            let tool = rules.providers.get(&archetype).and_then(|provider| provider.tool());
            tool.is_some_and(|tool| tool.pinned() == seen.digest) && self.could_use(caller, &archetype)
        };
        Ok(tools.iter().filter(accepted).cloned().collect())
    }

    /// Whether whoever is frozen is kept from a server altogether: what passes to it without being an action, too.
    ///
    /// # Errors
    /// `EP_FROZEN`, or the store's.
    pub async fn may_speak_with(&self, caller: &Caller, server: &str) -> Result<(), Error> {
        let freezes = self.ledger.freezes().await.map_err(unavailable)?;
        let provider = provider_of(server);
        let covers =
            |scope: &ledger::Scope| scope.covers(&caller.tenant, &caller.subject, "", Some(&provider));
        match freezes.iter().any(|freeze| covers(&freeze.scope)) {
            true => Err(Error::new(Code::Frozen, "an operator has stopped this")),
            false => Ok(()),
        }
    }

    async fn tool_key(
        &self,
        caller: &Caller,
        rules: &Rules,
        archetype: &str,
        call: &ToolCall,
    ) -> Result<Key, Error> {
        if let Some(key) = &call.key {
            return Ok(Key { key: key.clone(), made: None });
        }
        let parse =
            |text: String| IdempotencyKey::parse(&text).map_err(|_| internal("a key of ours is none"));
        let tool = rules.providers.get(archetype).and_then(|provider| provider.tool());
        if tool.is_some_and(|tool| tool.is_read_only()) {
            let key = parse(clock::new_id(clock::now_ms())?.to_string())?;
            return Ok(Key { key, made: None });
        }
        let alike = self.alike(caller, archetype, &call.arguments)?;
        let times = self.delivered(&alike).await?;
        Ok(Key { key: parse(format!("mcp-{}-{times}", hex::encode(alike)))?, made: Some((alike, times)) })
    }

    fn alike(&self, caller: &Caller, archetype: &str, arguments: &Value) -> Result<Alike, Error> {
        let environment = self.environment.as_str();
        let parts =
            json!(["countersign/mcp-alike/1", environment, caller.subject.as_str(), archetype, arguments]);
        Ok(self.tenant(&caller.tenant)?.hmac.sign(action::json::canonical(&parts).as_bytes()))
    }

    async fn delivered(&self, alike: &Alike) -> Result<u64, Error> {
        let known = lock(&self.deliveries).get(alike).copied();
        match known {
            Some(times) => Ok(times),
            None => self.ledger.delivered(alike).await.map_err(unavailable),
        }
    }

    /// Keeps what was delivered on record, many at once. What is lost with the process was not delivered as far as is known.
    fn deliver(self: &Arc<Self>, alike: Alike, times: u64) {
        let mut open = lock(&self.deliveries);
        let idle = open.is_empty();
        open.insert(alike, times);
        if idle {
            let gateway = Arc::clone(self);
            tokio::spawn(async move { gateway.keep_deliveries().await });
        }
    }

    async fn keep_deliveries(&self) {
        loop {
            tokio::time::sleep(GATHERING).await;
            let batch: Vec<_> =
                lock(&self.deliveries).iter().map(|(alike, times)| (*alike, *times)).collect();
            if let Err(error) = self.ledger.deliver(batch.clone()).await {
                tracing::warn!(%error, "what was delivered could not be kept on record");
            }
            let mut open = lock(&self.deliveries);
            for (alike, times) in batch {
                if open.get(&alike) == Some(&times) {
                    open.remove(&alike);
                }
            }
            if open.is_empty() {
                return;
            }
        }
    }

    async fn of_answer(
        self: &Arc<Self>,
        caller: &Caller,
        answer: Answer,
        seat: &Seat,
    ) -> Result<Called, Error> {
        let Answer { reply, replayed, action_id, .. } = answer;
        let said = seat.take_answer();
        let kept = match (said, action_id) {
            (Some(said), _) if !replayed => Some(said),
            (_, Some(id)) if replayed => {
                let stored = self.visible(caller, &id.to_string()).await?;
                self.kept_answer(caller, id, stored.state).await?
            }
            _ => None,
        };
        Called::read(action_id, &reply, kept, replayed)
    }

    /// What the server answered, as it is kept: where the action is over and was answered at all.
    async fn kept_answer(&self, caller: &Caller, id: ActionId, state: State) -> Result<Option<Value>, Error> {
        if !matches!(state, State::Executed | State::Failed) {
            return Ok(None);
        }
        let outcomes = self.ledger.outcomes(&caller.tenant, id).await.map_err(unavailable)?;
        for outcome in outcomes.iter().rev() {
            let row = OutcomeRow::from_bytes(&outcome.payload)?;
            let Some(answer) = row.answer.as_ref().or(row.refusal.as_ref()) else { continue };
            let answer: Option<Value> = serde_json::from_str(answer.get()).ok();
            // Our own words for an error of the protocol are in no result.
            return Ok(answer.filter(|answer| answer.get("content").is_some()));
        }
        Ok(None)
    }
}

impl Called {
    fn read(
        action_id: Option<ActionId>,
        reply: &Reply,
        answer: Option<Value>,
        replayed: bool,
    ) -> Result<Called, Error> {
        let body: Value =
            serde_json::from_slice(&reply.body).map_err(|_| internal("an answer of ours cannot be read"))?;
        let kind = body.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Called { action_id, kind, answer, body, replayed, delivery: None })
    }

    fn under_way(id: ActionId) -> Called {
        let kind = "in_flight";
        let body = json!({ "kind": kind, "transaction_id": id.to_string() });
        Called {
            action_id: Some(id),
            kind: kind.to_owned(),
            answer: None,
            body,
            replayed: false,
            delivery: None,
        }
    }

    /// What it waits for, in a fixed text, if it does.
    pub fn waits(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "held" => Some("a person has to agree to this call"),
            "pending_settlement" => Some("what became of this call is not known yet"),
            "needs_challenge" => Some("this call has to be confirmed elsewhere"),
            "in_flight" => Some("this call is under way"),
            _ => None,
        }
    }

    fn is_over(&self) -> bool {
        self.waits().is_none()
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Delivery").field("times", &self.times).finish_non_exhaustive()
    }
}

impl Delivery {
    /// The client has it: the same call again is a new action.
    pub fn done(self) {
        self.gateway.deliver(self.alike, self.times);
    }
}

/// Rests that grow, until the time is over.
struct Pause {
    until: Instant,
    next: Duration,
}

impl Pause {
    fn new(until: Instant) -> Pause {
        Pause { until, next: SHORTEST }
    }

    fn is_left(&self) -> bool {
        Instant::now() < self.until
    }

    async fn rest(&mut self) {
        let left = self.until.saturating_duration_since(Instant::now());
        tokio::time::sleep(self.next.min(left)).await;
        self.next = (self.next * 2).min(LONGEST);
    }
}

/// The action as a request of the Execution Protocol.
fn body(archetype: &str, call: &ToolCall) -> Vec<u8> {
    let mut body = Map::new();
    body.insert("archetype".to_owned(), archetype.into());
    body.insert("constraints".to_owned(), call.arguments.clone());
    for (name, value) in [
        ("delegation_token", &call.mandate),
        ("repeat_of", &call.repeat_of),
        ("session_id", &call.session_id),
    ] {
        if let Some(value) = value {
            body.insert(name.to_owned(), value.as_str().into());
        }
    }
    Value::Object(body).to_string().into_bytes()
}

/// As of every action.
const MOST_BODY: usize = 256 * 1024;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);
/// So long what was delivered is gathered before it is written.
const GATHERING: Duration = Duration::from_millis(200);
