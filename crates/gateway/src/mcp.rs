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
//! who calls which tool with which arguments to repeat what, and of how many outcomes of such calls their caller has. Until this one
//! is delivered, the same call again is the same action. What is read only has a new key each time: a read is never replayed,
//! unless it waited for people (`held_reads`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use action::json::{Item, canonical_array};
use action::{ActionId, IdempotencyKey, Tenant};
use ledger::{AsideId, State};
use mandate::SessionState;
use provider::mcp::{Quarantine, Seat, SeenTool, Servers, Tool, Unreachable, provider_of};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::act::lock;
use crate::atp::Words;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind, Outcome, Reply};
use crate::remember::unavailable;
use crate::row::{IntentRow, OutcomeRow, internal};
use crate::tenants::Rules;
use crate::views::{ActionView, ReceiptView};
use crate::wait::CALL_UNHEARD;
use crate::{Answer, Ask, Code, Error, Wait, clock};

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
    /// Of a call that joins the same one of before, also where that waits for its client at another gateway: digest of who asks
    /// for what.
    pub bound: Option<[u8; 32]>,
}

/// What became of a `tools/call`.
#[derive(Debug)]
pub struct Called {
    /// The action.
    pub action_id: Option<ActionId>,
    /// How it stands, or ended.
    pub kind: CalledKind,
    /// What the server answered, a `CallToolResult`, where it did: foreign, and as it came. What became of the call it does not
    /// say: that is said by the kind.
    pub answer: Option<Box<RawValue>>,
    /// The server's error, `code`, `untrusted_text` and `data`, where its client has to see to something before it calls again and
    /// the call was answered before: foreign.
    pub error: Option<Value>,
    /// The outcome in the words of the Execution Protocol.
    pub body: Value,
    /// Whether it was said before.
    pub replayed: bool,
    /// Whether its server has it in hand, or is about to: what became of it is known soon.
    pub is_under_way: bool,
    /// To be told when the client has all of it. Dropped without that, it is not delivered.
    pub delivery: Option<Delivery>,
    /// Where it waits for its client, if that is at another gateway.
    pub waits_at: Option<AsideId>,
}

/// How a call stands, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalledKind {
    /// As there is something to say of its action.
    Outcome(Kind),
    /// It is under way, and there is nothing to say of it yet.
    InFlight,
}

/// An outcome on its way to its client.
#[derive(Clone)]
pub struct Delivery {
    gateway: Arc<Gateway>,
    of: Means,
}

/// What a delivered outcome means for the same call again.
#[derive(Clone, Debug)]
enum Means {
    /// So many of those that are alike are delivered then.
    Times(Alike, u64),
    /// A read that waited for people does so no more: its key, and its [`Gateway::read_mark`].
    Read(IdempotencyKey, Alike),
}

/// HMAC of caller, tool, arguments and what they repeat under the tenant's key.
pub type Alike = [u8; 32];

/// What the name of every tool's archetype begins with.
pub const MCP_ARCHETYPES: &str = "mcp/";

/// What the archetype of a tool is called.
pub fn archetype_of(server: &str, tool: &str) -> String {
    format!("{MCP_ARCHETYPES}{server}/{tool}")
}

/// The key under which a call is an action.
struct Key {
    key: IdempotencyKey,
    /// What its delivery means, where the same call again comes to the same action until then.
    means: Option<Means>,
}

impl Gateway {
    /// The operator's servers.
    pub fn mcp(&self) -> &Arc<Servers> {
        &self.outside.servers
    }

    /// Hears from now on of what changes the tools that agents of this tenant see, and no server tells of: other rules, and
    /// quarantines.
    ///
    /// # Errors
    /// There is no such tenant.
    pub fn tools_changed(&self, tenant: &Tenant) -> Result<watch::Receiver<u64>, Error> {
        Ok(self.tenant(tenant)?.tools_changed())
    }

    /// How long clients are kept waiting.
    pub fn mcp_settings(&self) -> &crate::config::Mcp {
        &self.config.mcp
    }

    /// Takes one `tools/call` to its outcome, or as far as it comes within `wait`; it goes on by itself. While it waits,
    /// `progress` is told why, now and then.
    ///
    /// # Errors
    /// Those of [`Gateway::execute`], but for what has become of the same call: that is said as far as it is known.
    /// `EP_UNAVAILABLE` also where the store says nothing for `mcp.store_seconds`: what was handed to it by then goes on, and the
    /// same call again is told what became of it, or is another one where it is a read without a key of its own.
    pub async fn call_tool(
        self: &Arc<Self>,
        caller: &Caller,
        call: ToolCall,
        seat: Arc<Seat>,
        wait: Duration,
        progress: &(dyn Fn(&'static str) + Send + Sync),
    ) -> Result<Called, Error> {
        let store = self.wait_for_store().or_else_told(CALL_UNHEARD);
        // Boxed, so that there is room for it once.
        let called = Box::pin(self.have_called(caller, call, seat, (wait, &store), progress));
        self.in_time(store.clone(), called).await
    }

    async fn have_called(
        self: &Arc<Self>,
        caller: &Caller,
        call: ToolCall,
        seat: Arc<Seat>,
        (wait, store): (Duration, &Wait),
        progress: &(dyn Fn(&'static str) + Send + Sync),
    ) -> Result<Called, Error> {
        let until = Instant::now() + wait;
        let archetype = archetype_of(&call.server, &call.tool);
        let body = body(&archetype, &call)?;
        if body.len() > MOST_BODY {
            let why = "the arguments are longer than 256 KiB";
            return Err(Error::new(Code::BodyTooLarge, why).field("/arguments"));
        }
        caller.must(Deed::Execute)?;
        let rules = self.tenant(&caller.tenant)?.rules();
        if let Some(tool) = rules.providers.get(&archetype).and_then(|provider| provider.tool())
            && !tool.is_ready(&seat)
            && self.may_look_at(caller, &archetype, tool).await
        {
            // Before it takes anybody's room: a server may be slow to say what it has.
            let _asks = store.asks();
            let mut preparing = std::pin::pin!(tool.prepare(&seat));
            while tokio::time::timeout(BETWEEN_WORDS, &mut preparing).await.is_err() {
                progress("its server has not started yet");
            }
        }
        self.seat_asks_leave(caller, &seat);
        let key = self.tool_key(caller, &rules, &archetype, &call).await?;
        let is_joined = key.means.is_some() || call.key.is_some();
        let mut delivery = key.means.map(|of| Delivery { gateway: Arc::clone(self), of });
        if let Some(abandoned) = delivery.clone() {
            // Who is asked something and does not come back does not mean this action by the same call later.
            seat.when_abandoned(move || abandoned.done());
        }
        let ask = Ask {
            idempotency_key: Some(key.key.clone()),
            request_id: call.request_id.clone(),
            dry_run: false,
            wait: store.clone(),
            body,
        };
        let taken = self.take_for(caller, ask, Words::Execution, Some(Arc::clone(&seat))).await;
        // What waits, for a person or for another who made the same call, keeps nobody from the server meanwhile.
        seat.give_back_link();
        let mut called = match taken {
            // It is the same call again, and its reply is not there yet, or not any more.
            Err(Error { code: Code::IdempotencyInFlight | Code::Erased, action: Some(id), .. }) => {
                Called { replayed: true, ..self.called(caller, &id.to_string()).await? }
            }
            taken => self.of_answer(caller, taken?, &seat).await?,
        };
        if let (CalledKind::Outcome(Kind::Held | Kind::NeedsChallenge), Some(id)) =
            (called.kind, called.action_id)
        {
            let later = seat.for_later();
            self.seat_asks_leave(caller, &later);
            self.mcp().seats().leave(&caller.tenant, id, later);
            if !is_joined {
                let what = (&call.arguments, call.repeat_of.as_deref());
                let alike = self.alike(caller, &archetype, what)?;
                let mark = self.read_mark(caller, key.key.as_str())?;
                self.held_reads.hold(&caller.tenant, alike, key.key.clone());
                let of_read = Delivery { gateway: Arc::clone(self), of: Means::Read(key.key, mark) };
                delivery = Some(of_read.clone());
                seat.when_abandoned(move || of_read.done());
            }
        }
        let mut pause = Pause::new(until);
        // Who has the server's answer does not wait for what it meant.
        while let (Some(id), Some(why)) = (called.action_id, called.waits())
            && called.answer.is_none()
        {
            if let (CalledKind::InFlight, Some(bound)) = (called.kind, call.bound) {
                called.waits_at = self.open_of(caller, id, bound).await?;
            }
            if called.waits_at.is_some() || !pause.is_left() {
                break;
            }
            progress(why);
            let asks = store.asks();
            pause.rest().await;
            drop(asks);
            called = Called { replayed: called.replayed, ..self.called(caller, &id.to_string()).await? };
        }
        if called.is_quarantined()
            && let Some(tools) = self.mcp().get(&caller.tenant, &call.server).and_then(|it| it.known_tools())
        {
            self.note_quarantined(self.tenant(&caller.tenant)?, &call.server, &tools).await;
        }
        called.delivery = delivery.filter(|_| called.is_over());
        self.point_on(caller, called).await
    }

    fn seat_asks_leave(self: &Arc<Self>, caller: &Caller, seat: &Seat) {
        let (gateway, asks) = (Arc::clone(self), caller.clone());
        seat.ask_leave_of(move |id, attempt| {
            let (gateway, asks) = (Arc::clone(&gateway), asks.clone());
            Box::pin(async move { gateway.may_go_on(&asks, id, attempt).await.unwrap_or_default() })
        });
    }

    /// Whether a tool's server is asked for them what it says of the tool, before their request is judged: they could ever have it
    /// called, and nobody has stopped them.
    pub(crate) async fn may_look_at(&self, caller: &Caller, archetype: &str, tool: &Tool) -> bool {
        self.could_use(caller, archetype) && self.may_speak_with(caller, tool.server_name()).await.is_ok()
    }

    /// How an action of the caller's stands.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if it is not the caller's.
    pub async fn called(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<Called, Error> {
        let view = self.action(caller, id).await?;
        let action_id = view.action_id;
        if view.erased.is_some() {
            let state = self.visible(caller, id).await?.state;
            return self.of_erased(view, state);
        }
        let Some(reply) = view.reply else { return Ok(Called::under_way(action_id)) };
        let mut called = Called::read(Some(action_id), &reply, None, false)?;
        called.is_under_way = matches!(view.phase, Some("approved" | "sent"));
        called.hear(self.kept_answer(caller, action_id, called.kind).await?);
        if let Some(doubt) = view.doubt {
            called.body["details"]["reasons"] = json!([doubt]);
        }
        self.point_on(caller, called).await
    }

    /// The same, once there is something to say of it, or this time is over.
    ///
    /// # Errors
    /// As of [`Gateway::called`].
    pub async fn called_within(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        wait: Duration,
    ) -> Result<Called, Error> {
        let (mut pause, store) = (Pause::new(Instant::now() + wait), self.wait_for_store());
        let called = async {
            loop {
                let called = self.called(caller, id).await?;
                if !called.is_under_way || !pause.is_left() {
                    return Ok(called);
                }
                let _asks = store.asks();
                pause.rest().await;
            }
        };
        self.in_time(store.clone(), called).await
    }

    /// Says where to go on reading: where people decide, which opens to none but them, and what came of the earlier action that
    /// this one repeats, where that is the caller's own.
    async fn point_on(&self, caller: &Caller, mut called: Called) -> Result<Called, Error> {
        if let (CalledKind::Outcome(Kind::Held), Some(id)) = (called.kind, called.action_id) {
            called.body["details"]["approval_url"] = self.approval_url(id).into();
        }
        let earlier = called.body["details"]["earlier_transaction"].as_str();
        let Some(earlier) = earlier.map(str::to_owned) else { return Ok(called) };
        let receipts = match self.action(caller, &earlier).await {
            Ok(view) => view.receipts,
            Err(error) if error.code == Code::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        if let Some(ReceiptView { receipt, .. }) = receipts.last() {
            let url = format!("{}/r/{}", self.public_url, receipt.signature);
            called.body["details"]["earlier_receipt"] = json!({ "id": receipt.receipt_id, "url": url });
        }
        Ok(called)
    }

    /// By what the outcome of an action that is over is delivered to its caller by other means than the answer to its call.
    /// Nothing, where the same call again is a call of its own anyway, and where this was delivered before.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` if it is not the caller's.
    pub async fn delivery(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<Option<Delivery>, Error> {
        let stored = self.visible(caller, id).await?;
        let Some(key) = stored.key.as_deref().filter(|_| stored.subject == caller.subject) else {
            return Ok(None);
        };
        let Some((alike, times)) = made_of(key) else {
            return self.delivery_of_read(caller, &stored.archetype, key).await;
        };
        if stored.payload.is_empty() {
            return Ok(None);
        }
        let row = IntentRow::of(&stored)?;
        let arguments: Value = serde_json::from_str(row.constraints.get())
            .map_err(|_| internal("stored constraints cannot be read"))?;
        // A client may bring any key of its own, one that looks like ours included.
        if alike != self.alike(caller, &stored.archetype, (&arguments, row.repeat_of.as_deref()))?
            || self.delivered(&alike).await? > times
        {
            return Ok(None);
        }
        Ok(Some(Delivery::of(self, alike, times.saturating_add(1))))
    }

    /// The same of a read, which waited for people here, or maybe at another gateway of the same store: that leads the same call to
    /// it until it learns of this.
    async fn delivery_of_read(
        self: &Arc<Self>,
        caller: &Caller,
        archetype: &str,
        key: &str,
    ) -> Result<Option<Delivery>, Error> {
        let mark = self.read_mark(caller, key)?;
        if let Some(key) = IdempotencyKey::parse(key).ok().filter(|key| self.held_reads.has(key)) {
            return Ok(Some(Delivery { gateway: Arc::clone(self), of: Means::Read(key, mark) }));
        }
        let is_made_for_reads = key.parse::<ActionId>().is_ok();
        let is_shared = self.ledger.shelf().is_some();
        if !is_shared || !is_made_for_reads || !is_read_only(&self.tenant(&caller.tenant)?.rules(), archetype)
        {
            return Ok(None);
        }
        Ok((self.delivered(&mark).await? == 0).then(|| Delivery::of(self, mark, 1)))
    }

    /// The tools of a server that this caller may see: listed, accepted as they are, and not forbidden to it whatever it asks.
    ///
    /// # Errors
    /// The server does not list them.
    pub async fn tools_of(&self, caller: &Caller, server: &str) -> Result<Vec<SeenTool>, Unreachable> {
        let none = || Unreachable { name: server.to_owned(), why: "there is no such server".to_owned() };
        let tenant = self.tenant(&caller.tenant).map_err(|_| none())?;
        let rules = tenant.rules();
        let found = self.outside.servers.get(&caller.tenant, server).ok_or_else(none)?;
        let tools = found.tools().await?;
        self.note_quarantined(tenant, server, &tools).await;
        let accepted = |seen: &&SeenTool| {
            let archetype = archetype_of(server, &seen.tool.name);
            let tool = rules.providers.get(&archetype).and_then(|provider| provider.tool());
            tool.is_some_and(|tool| tool.pinned() == seen.digest) && self.could_use(caller, &archetype)
        };
        Ok(tools.iter().filter(accepted).cloned().collect())
    }

    /// Whether the same call again is the same action, at least until its client has the outcome: a read without a key of its own
    /// is a new one each time.
    pub fn is_joined(&self, caller: &Caller, call: &ToolCall) -> bool {
        let Ok(tenant) = self.tenant(&caller.tenant) else { return false };
        call.key.is_some() || !is_read_only(&tenant.rules(), &archetype_of(&call.server, &call.tool))
    }

    /// Whether whoever is frozen is kept from a server altogether: what passes to it without being an action, too.
    ///
    /// # Errors
    /// `EP_FROZEN`, or the store's.
    pub async fn may_speak_with(&self, caller: &Caller, server: &str) -> Result<(), Error> {
        let freezes = async { self.ledger.freezes().await.map_err(unavailable) };
        let freezes = self.in_time(self.wait_for_store(), freezes).await?;
        let provider = provider_of(server);
        let covers =
            |scope: &ledger::Scope| scope.covers(&caller.tenant, &caller.subject, "", Some(&provider));
        match freezes.iter().any(|freeze| covers(&freeze.scope)) {
            true => Err(Error::new(Code::Frozen, "an operator has stopped this")),
            false => Ok(()),
        }
    }

    /// Whether an action that waited for its client's answer may still be sent: what it was admitted under is in force, and nobody
    /// has stopped it meanwhile, or taken it over.
    async fn may_go_on(&self, caller: &Caller, id: ActionId, attempt: u32) -> Result<bool, Error> {
        let stored = self.visible(caller, &id.to_string()).await?;
        // Whoever took it over, or a person, has told of it by now, and the same call may be another action.
        if stored.state != State::Sent {
            return Ok(false);
        }
        let rules = self.tenant(&caller.tenant)?.rules();
        let Some(provider) = rules.providers.get(&*stored.archetype).map(|provider| provider.name()) else {
            return Ok(false);
        };
        let row = IntentRow::of(&stored)?;
        if row.call.as_ref().is_none_or(|call| call.attempt != attempt) {
            return Ok(false);
        }
        // By other rules it might be forbidden, or wait for people: it was admitted by those of then.
        if !row.is_judged_by(&rules) || !self.is_in_session(&stored, &row).await? {
            return Ok(false);
        }
        let freezes = self.ledger.freezes().await.map_err(unavailable)?;
        let covers = |freeze: &ledger::Freeze| {
            freeze.scope.covers(&stored.tenant, &stored.subject, &stored.archetype, Some(provider))
        };
        if freezes.iter().any(covers) {
            return Ok(false);
        }
        let now_ms = clock::now_ms();
        // It was let through although it would be blocked, for as long as operators only watch.
        if row.observed.is_some() {
            let observed_ms = self.ledger.observed(&stored.tenant).await.map_err(unavailable)?;
            if !self.tenant(&stored.tenant)?.observes_as(observed_ms, now_ms) {
                return Ok(false);
            }
        }
        for jti in &stored.mandates {
            if let Some(line) = self.line(&stored.tenant, jti).await? {
                let Ok(line) = line else { return Ok(false) };
                if self.standing_of(&stored.tenant, &line).await?.refusal.is_some() {
                    return Ok(false);
                }
            }
            let held = self.ledger.mandate(&stored.tenant, jti).await.map_err(unavailable)?;
            let in_force =
                |held: ledger::Held| held.account.is_open().is_ok() && now_ms < held.mandate.expires_ms;
            // Some are by name alone, and have no row: then only freezes stop them.
            if held.is_some_and(|held| !in_force(held)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the session that an action is a cycle of, if it is one, has not ended.
    async fn is_in_session(&self, stored: &ledger::Stored, row: &IntentRow) -> Result<bool, Error> {
        let Some(cycle) = &row.cycle else { return Ok(true) };
        let session = self.ledger.session(&stored.tenant, &cycle.session_id).await.map_err(unavailable)?;
        Ok(session.is_some_and(|governed| {
            !matches!(governed.session.state(), SessionState::Closed(_) | SessionState::Suspended)
        }))
    }

    async fn tool_key(
        &self,
        caller: &Caller,
        rules: &Rules,
        archetype: &str,
        call: &ToolCall,
    ) -> Result<Key, Error> {
        if let Some(key) = &call.key {
            return Ok(Key { key: key.clone(), means: None });
        }
        let parse =
            |text: String| IdempotencyKey::parse(&text).map_err(|_| internal("a key of ours is none"));
        let what = (&call.arguments, call.repeat_of.as_deref());
        if is_read_only(rules, archetype) {
            if !self.held_reads.is_empty() {
                let alike = self.alike(caller, archetype, what)?;
                while let Some(key) = self.held_reads.key_of(&alike) {
                    let mark = self.read_mark(caller, key.as_str())?;
                    // Whoever cannot know tells it once more.
                    if !self.delivered(&mark).await.is_ok_and(|times| times > 0) {
                        return Ok(Key { means: Some(Means::Read(key.clone(), mark)), key });
                    }
                    self.held_reads.forget(&key);
                }
            }
            let key = parse(clock::new_id(clock::now_ms())?.to_string())?;
            return Ok(Key { key, means: None });
        }
        let alike = self.alike(caller, archetype, what)?;
        let times = self.delivered(&alike).await?;
        let means = Some(Means::Times(alike, times.saturating_add(1)));
        Ok(Key { key: parse(key_of(&alike, times))?, means })
    }

    /// Of all by which requests differ ([`action::Action::request_hash`]): a key made of less would be one for several requests.
    fn alike(
        &self,
        caller: &Caller,
        archetype: &str,
        (arguments, repeat_of): (&Value, Option<&str>),
    ) -> Result<Alike, Error> {
        let (environment, subject) = (self.environment.as_str(), caller.subject.as_str());
        let [kind, environment, subject, archetype] =
            ["countersign/mcp-alike/1", environment, subject, archetype].map(Item::Text);
        let parts = [kind, environment, subject, archetype, Item::Value(arguments)];
        let text = match repeat_of {
            None => canonical_array(&parts),
            Some(of) => canonical_array(&[&parts[..], &[Item::Text(of)]].concat()),
        };
        Ok(self.tenant(&caller.tenant)?.hmac.sign(text.as_bytes()))
    }

    /// Under what it is kept that the outcome of a read that waited for people was delivered, for the gateway that held it. No call
    /// is alike to it.
    fn read_mark(&self, caller: &Caller, key: &str) -> Result<Alike, Error> {
        let parts = ["countersign/mcp-read/1", self.environment.as_str(), caller.subject.as_str(), key];
        let text = canonical_array(&parts.map(Item::Text));
        Ok(self.tenant(&caller.tenant)?.hmac.sign(text.as_bytes()))
    }

    async fn delivered(&self, alike: &Alike) -> Result<u64, Error> {
        let known = lock(&self.deliveries).get(alike).copied();
        let kept = self.ledger.delivered(alike).await.map_err(unavailable)?;
        // What is still to be written may be the delivery of an outcome before those that are on record.
        Ok(known.unwrap_or_default().max(kept))
    }

    /// Keeps what was delivered on record, many at once. What is lost with the process was not delivered as far as is known.
    fn deliver(self: &Arc<Self>, alike: Alike, times: u64) {
        let mut open = lock(&self.deliveries);
        let idle = open.is_empty();
        let known = open.entry(alike).or_default();
        *known = times.max(*known);
        if idle {
            let gateway = Arc::clone(self);
            tokio::spawn(async move { gateway.keep_deliveries().await });
        }
    }

    /// Keeps on record what was delivered just now. For a process that is about to end, once it answers nothing more.
    ///
    /// # Errors
    /// The store's: then the same calls get the same outcomes once more.
    pub async fn keep_last_deliveries(&self) -> Result<(), Error> {
        let batch: Vec<_> = lock(&self.deliveries).iter().map(|(alike, times)| (*alike, *times)).collect();
        if batch.is_empty() {
            return Ok(());
        }
        self.ledger.deliver(batch).await.map_err(unavailable)
    }

    async fn keep_deliveries(&self) {
        loop {
            tokio::time::sleep(GATHERING).await;
            if lock(&self.deliveries).len() > FEW {
                tokio::time::sleep(GATHERING_MANY).await;
            }
            let mut batch: Vec<_> =
                lock(&self.deliveries).iter().map(|(alike, times)| (*alike, *times)).collect();
            // In the order in which they lie: what lies together is written together.
            batch.sort_unstable();
            if let Err(error) = self.ledger.deliver(batch.clone()).await {
                tracing::warn!(%error, "what was delivered could not be kept on record yet");
                tokio::time::sleep(LONGEST).await;
                continue;
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
        let mut called = Called::read(action_id, &reply, said.filter(|_| !replayed), replayed)?;
        if let Some(id) = action_id.filter(|_| replayed) {
            called.hear(self.kept_answer(caller, id, called.kind).await?);
        }
        Ok(called)
    }

    /// What is left to say of an action that was erased: how it ended, and where its receipt is.
    fn of_erased(&self, view: ActionView, state: State) -> Result<Called, Error> {
        let (kind, code) = match state {
            State::Refused => (Kind::Blocked, Some(Code::Erased)),
            State::Failed => (Kind::Failed, Some(Code::Erased)),
            // Whatever else is over was carried out, be it undone by now.
            _ => (Kind::Executed, None),
        };
        let outcome = Outcome {
            action_id: Some(view.action_id),
            kind,
            code,
            receipt: view.receipts.into_iter().next_back().map(|view| view.receipt),
            correlation_id: String::new(),
            details: Details::default(),
        };
        let reply = (self.render)(&outcome, &self.public_url);
        Called::read(Some(view.action_id), &reply, None, false)
    }

    /// What the server answered, as it is kept: where the action is over and was answered at all, and is not undone since.
    /// `kind` is what its reply says, so that the state is looked at after it: an action ends at any time, and only the reply
    /// that tells of the end goes with the answer.
    async fn kept_answer(
        &self,
        caller: &Caller,
        id: ActionId,
        kind: CalledKind,
    ) -> Result<Option<Box<RawValue>>, Error> {
        if !matches!(kind, CalledKind::Outcome(Kind::Executed | Kind::Failed)) {
            return Ok(None);
        }
        let state = self.visible(caller, &id.to_string()).await?.state;
        if !matches!(state, State::Executed | State::Failed) {
            return Ok(None);
        }
        let outcomes = self.ledger.outcomes(&caller.tenant, id).await.map_err(unavailable)?;
        for outcome in outcomes.iter().rev() {
            let row = OutcomeRow::from_bytes(&outcome.payload)?;
            if let Some(answer) = row.answer.or(row.refusal) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

impl Called {
    /// Takes what its server answered, as it is kept. Our own words for another error of the protocol are in no result.
    fn hear(&mut self, kept: Option<Box<RawValue>>) {
        let Some(kept) = kept else { return };
        if is_result(&kept) {
            self.answer = Some(kept);
        } else if let Ok(mut kept) = serde_json::from_str::<Value>(kept.get())
            && kept.pointer("/error/data").is_some()
        {
            self.error = Some(kept["error"].take());
        }
    }

    fn read(
        action_id: Option<ActionId>,
        reply: &Reply,
        answer: Option<Box<RawValue>>,
        replayed: bool,
    ) -> Result<Called, Error> {
        let body: Value =
            serde_json::from_slice(&reply.body).map_err(|_| internal("an answer of ours cannot be read"))?;
        // As it is stored: it is read back, and has no other form.
        let kind = body.get("kind").and_then(Value::as_str).and_then(Kind::named);
        let kind = kind.ok_or_else(|| internal("an answer of ours is of no kind"))?;
        let kind = CalledKind::Outcome(kind);
        let (is_under_way, delivery) = (false, None);
        let (error, waits_at) = (None, None);
        Ok(Called { action_id, kind, answer, error, body, replayed, is_under_way, delivery, waits_at })
    }

    fn under_way(id: ActionId) -> Called {
        let kind = CalledKind::InFlight;
        let body = json!({ "kind": kind.as_str(), "transaction_id": id.to_string() });
        let action_id = Some(id);
        Called {
            action_id,
            kind,
            answer: None,
            error: None,
            body,
            replayed: false,
            is_under_way: true,
            delivery: None,
            waits_at: None,
        }
    }

    /// What it waits for, in a fixed text, if it does.
    pub fn waits(&self) -> Option<&'static str> {
        match self.kind {
            CalledKind::InFlight => Some("this call is under way"),
            CalledKind::Outcome(Kind::Held) => Some("a person has to agree to this call"),
            CalledKind::Outcome(Kind::PendingSettlement) => Some("what became of this call is not known yet"),
            CalledKind::Outcome(Kind::NeedsChallenge) => Some("this call has to be confirmed elsewhere"),
            CalledKind::Outcome(Kind::Executed | Kind::Failed | Kind::Blocked) => None,
        }
    }

    /// Whether it was blocked because its tool is not as it was accepted.
    fn is_quarantined(&self) -> bool {
        let words = [Quarantine::Changed, Quarantine::Gone].map(Quarantine::as_str);
        let reasons = self.body["details"]["reasons"].as_array().into_iter().flatten();
        reasons.filter_map(Value::as_str).any(|reason| words.contains(&reason))
    }

    /// Whether nothing more is to be waited for.
    pub fn is_over(&self) -> bool {
        self.waits().is_none()
    }
}

impl CalledKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            CalledKind::Outcome(kind) => kind.as_str(),
            CalledKind::InFlight => "in_flight",
        }
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Delivery").field("of", &self.of).finish_non_exhaustive()
    }
}

impl Delivery {
    pub(crate) fn of(gateway: &Arc<Gateway>, alike: Alike, times: u64) -> Delivery {
        Delivery { gateway: Arc::clone(gateway), of: Means::Times(alike, times) }
    }

    /// What it takes to owe it at another gateway of the same store, where that knows of it.
    pub fn owed(&self) -> Option<(Alike, u64)> {
        match &self.of {
            Means::Times(alike, times) => Some((*alike, *times)),
            Means::Read(_, mark) => Some((*mark, 1)),
        }
    }

    /// The client has it: the same call again is a new action.
    pub fn done(self) {
        match self.of {
            Means::Times(alike, times) => self.gateway.deliver(alike, times),
            Means::Read(key, _) => self.gateway.held_reads.forget(&key),
        }
    }
}

/// Whether this is the result of a tool.
fn is_result(answer: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Members {
        content: Option<IgnoredAny>,
        structured_content: Option<IgnoredAny>,
        is_error: Option<IgnoredAny>,
    }
    let members = serde_json::from_str::<Members>(answer.get());
    members.is_ok_and(|it| it.content.or(it.structured_content).or(it.is_error).is_some())
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

/// The key of a call that has none of its client's.
fn key_of(alike: &Alike, times: u64) -> String {
    format!("{MADE}{}-{times}", hex::encode(alike))
}

/// What such a key is made of.
fn made_of(key: &str) -> Option<(Alike, u64)> {
    let (alike, times) = key.strip_prefix(MADE)?.split_once('-')?;
    let mut bytes = Alike::default();
    hex::decode_to_slice(alike, &mut bytes).ok()?;
    Some((bytes, times.parse().ok()?))
}

const MADE: &str = "mcp-";

fn is_read_only(rules: &Rules, archetype: &str) -> bool {
    let tool = rules.providers.get(archetype).and_then(|provider| provider.tool());
    tool.is_some_and(|tool| tool.is_read_only())
}

/// The action as a request of the Execution Protocol.
#[derive(Serialize)]
struct Body<'a> {
    archetype: &'a str,
    constraints: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_of: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
}

fn body(archetype: &str, call: &ToolCall) -> Result<Vec<u8>, Error> {
    let body = Body {
        archetype,
        constraints: &call.arguments,
        delegation_token: call.mandate.as_deref(),
        repeat_of: call.repeat_of.as_deref(),
        session_id: call.session_id.as_deref(),
    };
    serde_json::to_vec(&body).map_err(|_| internal("a call has no form"))
}

/// Bytes of the request that an action comes from.
pub const MOST_BODY: usize = 256 * 1024;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);
/// Between two words of progress while a server starts.
const BETWEEN_WORDS: Duration = Duration::from_secs(2);
/// So long what was delivered is gathered before it is written.
const GATHERING: Duration = Duration::from_millis(200);
/// And so much longer, if it is more than a few. Each is written where its digest lies, so anywhere: the more there are, the
/// more of them share a page.
const GATHERING_MANY: Duration = Duration::from_millis(800);
const FEW: usize = 100;
