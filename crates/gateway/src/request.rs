//! Request: from bytes to an action, or to an error that names the member at fault.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use action::{Action, GuaranteeLevel, IdempotencyKey, PaymentMode, Refusal, RefusalKind, Request};
use execution::Stop;
use provider::mcp::Seat;
use provider::{Elsewhere, Provider};
use tokio::sync::{SemaphorePermit, oneshot};

use crate::act::{Errand, Patience, Said};
use crate::atp::{self, Words};
use crate::caller::{Caller, Deed};
use crate::decide::{Asked, Foreseen};
use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::outcome::Reply;
use crate::redress;
use crate::row::internal;
use crate::sessions::CycleSaid;
use crate::tenants::Rules;
use crate::{Code, Error, Wait, clock};

/// What a face hands over.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The key from the header.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Names this request in logs and in the answer (`correlation_id`).
    pub request_id: String,
    /// Decide, and act on nothing.
    pub dry_run: bool,
    /// How long its caller waits.
    pub wait: Wait,
    /// The body, unread.
    pub body: Vec<u8>,
}

/// What a face hands back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status and body.
    pub reply: Reply,
    /// Whether it was said before and is only repeated (`Idempotent-Replayed`).
    pub replayed: bool,
    /// The action, if there is one.
    pub action_id: Option<action::ActionId>,
    /// How it was judged as a cycle, where that is at hand; the ledger has it in any case.
    pub(crate) cycle: Option<Box<CycleSaid>>,
    /// What it would have come to, where it was decided only.
    pub(crate) foreseen: Option<Box<Foreseen>>,
}

/// What deciding on a request led to.
pub(crate) enum Next {
    /// There is something to say.
    Said(Answer),
    /// It is written down as sent, and is to be carried out.
    Admitted(Box<Errand>),
    /// It was sent before, and is not to be sent again as things are. Nothing was written.
    NotNow(Stop),
}

/// When a request came in, by both clocks.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    /// When it was taken up: what is true then counts.
    pub at_ms: i64,
    /// When it was there: from then on its caller waits.
    pub instant: Instant,
}

impl Gateway {
    /// Takes one request to its outcome, in a task of its own: a caller who hangs up changes nothing.
    ///
    /// # Errors
    /// Those that never became an action, and `EP_UNAVAILABLE` when an outcome could not be made durable: then the same
    /// key, sent again, finds out what happened.
    pub async fn execute(self: &Arc<Self>, caller: &Caller, ask: Ask) -> Result<Answer, Error> {
        self.take(caller, ask, Words::Execution).await
    }

    /// The same, in whichever words.
    pub(crate) async fn take(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Ask,
        words: Words,
    ) -> Result<Answer, Error> {
        self.take_for(caller, ask, words, None).await
    }

    /// The same for a client that is there to be asked and told meanwhile.
    pub(crate) async fn take_for(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Ask,
        words: Words,
        seat: Option<Arc<Seat>>,
    ) -> Result<Answer, Error> {
        self.must_be_whole()?;
        let answer = self.execute_apart(caller, ask, words, seat).await;
        if let Err(error) = &answer {
            self.metrics.error(error.code);
        }
        answer
    }

    async fn execute_apart(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Ask,
        words: Words,
        seat: Option<Arc<Seat>>,
    ) -> Result<Answer, Error> {
        caller.must(Deed::Execute)?;
        // A client's call of a tool was counted before its server was looked at.
        if seat.is_none() {
            self.limits.before_parsing(caller)?;
        }
        let place = self.place()?;
        let (said, hears) = oneshot::channel();
        let (gateway, caller, came) = (Arc::clone(self), caller.clone(), Instant::now());
        let wait = ask.wait.clone();
        tokio::spawn(async move {
            let _place = place;
            // A request is small, judging it is not: who finds no room waits with the request alone.
            let room = wait.turn(&gateway.judging).await;
            // Boxed, so that what judging needs is gone while the provider takes its time.
            let next = Box::pin(gateway.decide_on(caller, (ask, words), came, room)).await;
            match next {
                Ok(Next::Admitted(errand)) => {
                    let _taken =
                        seat.map(|seat| gateway.outside.servers.seats().take(errand.pending.id, seat));
                    gateway.carry_out(errand, Said::to_waiting(said, wait)).await;
                }
                Ok(Next::Said(answer)) => drop(said.send(Ok(answer))),
                Ok(Next::NotNow(_)) => drop(said.send(Err(internal("a request was taken for a repetition")))),
                Err(error) => drop(said.send(Err(error))),
            }
        });
        hears.await.unwrap_or_else(|_| Err(internal("a request ended without a word")))
    }

    pub(crate) async fn decide_on(
        self: &Arc<Self>,
        caller: Caller,
        (ask, words): (Ask, Words),
        came: Instant,
        room: Option<SemaphorePermit<'_>>,
    ) -> Result<Next, Error> {
        ask.wait.must_go_on()?;
        let started = Instant::now();
        let arrival = Arrival { at_ms: clock::now_ms(), instant: came };
        let tenant = self.tenant(&caller.tenant)?;
        let mut request = words.read(&ask.body, &arrival)?;
        let key = self.key(&ask, request.idempotency_key.as_ref(), words)?;
        its_own_agent(&caller, &request)?;
        let rules = tenant.rules();
        let asked = Asked { caller: &caller, tenant, rules: &rules, key: key.as_ref(), ask: &ask, arrival };
        let archetype = atp::meant(&rules.catalogue, &mut request);
        if let Some(denied) = atp::denied(rules.policies.hard_deny(), &request) {
            request.refuse_card_data().map_err(|refusal| words.named(refused(refusal)))?;
            return self.deny_by_name(&asked, &request, denied).await.map(Next::Said);
        }
        let Some(archetype) = archetype else { return Err(atp::unknown(&rules.catalogue, &request)) };
        if !ask.dry_run {
            // Who only asks takes nothing from those who act.
            self.limits.of_archetype(&caller.tenant, &archetype.name)?;
        }
        atp::no_more_than(archetype, &request)?;
        let action = redress::action_of(&rules.catalogue, request, archetype);
        let action = action.map_err(|error| words.named(error))?;
        self.keyed(&asked, &action)?;
        let provider = match words {
            // Whoever carries it out elsewhere answers for what it can keep.
            Words::Evaluation if !rules.providers.contains_key(&action.archetype.name) => {
                Arc::new(Elsewhere::default())
            }
            _ => self.able_provider(&rules, &action).map_err(|error| words.named(error))?,
        };
        self.can_be_given(&caller, &action, provider.as_ref()).await?;
        // A price is asked for in the midst of judging, and who is asked may take long: no room is kept for that, nor for a server
        // that is to say what it has.
        let mut room = room.filter(|_| !quotes(&action));
        // Who only asks has no server started or spoken with: what it said last counts, and before that what was accepted.
        if let Some(tool) = provider.tool().filter(|tool| !ask.dry_run && !tool.is_looked_at())
            && self.may_look_at(&caller, &action.archetype.name, tool).await
        {
            let had_room = room.take().is_some();
            let asks = ask.wait.asks();
            tool.look().await;
            drop(asks);
            room = if had_room { ask.wait.turn(&self.judging).await } else { None };
        }
        self.metrics.step(Step::Request, started.elapsed());
        let next = self.judge(&asked, action, provider).await;
        drop(room);
        next
    }

    /// The key of a request: from the header or the body, where both are given the same; in the sandbox and for a dry
    /// run none is needed, nor, at `atp-1`, in the words of the Agent Transaction Protocol.
    fn key(
        &self,
        ask: &Ask,
        in_body: Option<&IdempotencyKey>,
        words: Words,
    ) -> Result<Option<IdempotencyKey>, Error> {
        match (&ask.idempotency_key, in_body) {
            (Some(header), Some(body)) if header != body => {
                Err(Error::new(Code::ValidationFailed, "the idempotency keys in header and body differ")
                    .field("/idempotency_key")
                    .hint("send one of them, or the same in both"))
            }
            (Some(key), _) | (None, Some(key)) => Ok(Some(key.clone())),
            (None, None) if ask.dry_run => Ok(None),
            (None, None) if self.environment == action::Environment::Sandbox || words.makes_keys() => {
                let id = clock::new_id(clock::now_ms())?.to_string();
                IdempotencyKey::parse(&id).map(Some).map_err(|_| internal("an id is no key"))
            }
            (None, None) => Err(Error::new(Code::IdempotencyRequired, "an idempotency key is required")
                .field("Idempotency-Key")
                .hint("send a fresh UUID for each new request, and the same one when you repeat it")),
        }
    }

    /// Above `atp-1` a key is the caller's own also where one would be made for it.
    fn keyed(&self, asked: &Asked<'_>, action: &Action) -> Result<(), Error> {
        let own = asked.ask.idempotency_key.is_some() || action.idempotency_key.is_some();
        if own || asked.ask.dry_run || action.guarantee_level == GuaranteeLevel::Atp1 {
            return Ok(());
        }
        let why = format!("guarantee level `{}` needs an idempotency key", action.guarantee_level);
        Err(Error::new(Code::KeyRequired, why)
            .field("Idempotency-Key")
            .hint("send a fresh UUID for each new request, and the same one when you repeat it"))
    }

    /// The provider that will carry the action out, if it can keep what is asked of it.
    pub(crate) fn able_provider(&self, rules: &Rules, action: &Action) -> Result<Arc<dyn Provider>, Error> {
        let name = &action.archetype.name;
        let Some(provider) = rules.providers.get(name) else {
            return Err(Error::new(
                Code::ProviderCannot,
                format!("archetype `{name}` is bound to no provider"),
            )
            .field("/archetype")
            .hint("the operator adds a [binding] to the archetype's file in the catalogue"));
        };
        able(action, provider.as_ref())?;
        action.rollback.as_ref().map(|rollback| redress::able(rules, rollback)).transpose()?;
        Ok(Arc::clone(provider))
    }

    /// A place for one request, from before it is judged until nothing more can be said of it: a caller who hangs up
    /// gives none back.
    pub(crate) fn place(self: &Arc<Self>) -> Result<Place, Error> {
        let place = Place(Arc::clone(self));
        if self.places_taken.fetch_add(1, Ordering::Relaxed) >= self.config.limits.in_flight {
            return Err(Error::new(Code::Unavailable, "too many actions are under way").retry_after(1));
        }
        Ok(place)
    }
}

/// See [`Gateway::place`].
pub(crate) struct Place(Arc<Gateway>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places_taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the request asks for must be what this version and the binding can do.
fn able(action: &Action, provider: &dyn Provider) -> Result<(), Error> {
    match action.payment_mode {
        PaymentMode::ImmediateCharge => {}
        PaymentMode::QuoteOnly if quotes(action) => {}
        PaymentMode::ImmediateChargeWithChallenge if provider.capabilities().challenge.is_some() => {}
        PaymentMode::ReserveIfAvailable
            if provider.reserves().is_some() && action.archetype.money.is_some() => {}
        mode => {
            return Err(Error::new(
                Code::ProviderCannot,
                format!("payment mode `{mode}` is not offered for this archetype"),
            )
            .field("/payment_mode")
            .hint("leave `payment_mode` out or send `IMMEDIATE_CHARGE`"));
        }
    }
    let level = action.guarantee_level;
    let lower = "leave `guarantee_level` out or ask for a lower one where the catalogue allows it";
    if !provider.capabilities().can_keep(level) {
        let why = format!("guarantee level `{level}` cannot be kept for this archetype");
        return Err(Error::new(Code::ProviderCannot, why).field("/guarantee_level").hint(lower));
    }
    if level == GuaranteeLevel::Atp3 && (!can_be_undone(action, provider) || !action.reversible) {
        let why = format!("guarantee level `{level}` needs a way to undo the action");
        return Err(Error::new(Code::RollbackRequired, why).field("/guarantee_level").hint(lower));
    }
    Ok(())
}

fn can_be_undone(action: &Action, provider: &dyn Provider) -> bool {
    provider.rollback().is_some() || action.rollback.is_some()
}

fn quotes(action: &Action) -> bool {
    action.archetype.money.as_ref().is_some_and(|rule| rule.quote)
}

/// `agent_id` is who is authenticated; it says nothing else.
fn its_own_agent(caller: &Caller, request: &Request) -> Result<(), Error> {
    match &request.agent_id {
        Some(agent) if *agent != caller.subject => {
            Err(Error::new(Code::ValidationFailed, "`agent_id` is not the authenticated caller")
                .field("/agent_id")
                .hint("leave it out"))
        }
        _ => Ok(()),
    }
}

/// A refusal of the parser, as an error.
pub(crate) fn refused(refusal: Refusal) -> Error {
    let code = match refusal.kind {
        RefusalKind::MalformedBody => Code::MalformedBody,
        RefusalKind::ValidationFailed => Code::ValidationFailed,
        RefusalKind::UnknownArchetype => Code::UnknownArchetype,
        RefusalKind::CardData => Code::CardDataRefused,
    };
    Error { field: refusal.field, hint: refusal.hint, ..Error::new(code, refusal.message) }
}

impl Arrival {
    /// How long a caller who names this deadline, or none, is kept waiting.
    pub(crate) fn patience(&self, deadline_ms: Option<u64>, usual_ms: u64) -> Patience {
        let after = |ms| self.instant + Duration::from_millis(ms);
        Patience { deadline: deadline_ms.map(after), until: after(usual_ms) }
    }
}
