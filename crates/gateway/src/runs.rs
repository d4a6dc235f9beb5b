//! Runs: actions that their own caller carries out, see [`provider::runner`]. The caller asks for one, takes its call when
//! it is decided and on record, says now and then that it is still at it, and reports.
//!
//! ```text
//!  begin ─▶ admitted ─▶ take ─▶ the command runs, beat … beat ─▶ report ─▶ written down ─▶ answered
//!             held ──────┘ ▲                                        │
//!                          └────────── another attempt ◀────────────┘
//! ```
//!
//! A report is answered only when it is durable. One that nobody waits for, because the process is another one or had given
//! up, resolves the doubt that it left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use action::{ActionId, Request, Tenant};
use execution::{Effect, Event, Reply, Stood};
use ledger::{State, Stored};
use provider::runner::Report;
use provider::{Offer, Provider, Turn};
use tokio::sync::oneshot;

use crate::act::{Followed, Said, UnderWay, lock};
use crate::atp::Words;
use crate::caller::{Caller, Deed};
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::late::CallRef;
use crate::pending::Pending;
use crate::remember::{outward, unavailable};
use crate::request;
use crate::row::{IntentRow, internal};
use crate::tenants::TenantState;
use crate::views::ActionView;
use crate::{Answer, Ask, Code, Error, clock};

/// What asking for a run led to.
#[derive(Debug)]
pub enum Begun {
    /// It is on record, and its call is there to be taken.
    Admitted(ActionId),
    /// There is something to say: it was refused, waits for a person, or was asked for before.
    Said(Answer),
}

/// Where a run stands, for the runner that asks.
#[derive(Debug)]
pub struct RunView {
    /// The action.
    pub action_id: ActionId,
    /// Its state, in ATP's word.
    pub state: &'static str,
    /// What there is to do.
    pub next: Next,
    /// What it waits for, where it does.
    pub waits: Option<WaitView>,
}

/// What an action waits for that its runner waits for.
#[derive(Debug)]
pub struct WaitView {
    /// `approval`: a person decides. `next_attempt`: the one before had no effect. `repetition`: what it did is in doubt, and
    /// it is to be carried out once more. `turn`: it is about to be handed out.
    pub for_what: &'static str,
    /// Since when, RFC 3339.
    pub since: String,
    /// Not before then, RFC 3339; none where nobody knows.
    pub due_at: Option<String>,
}

/// What a runner is to do.
#[derive(Debug)]
pub enum Next {
    /// Carry this call out. Nobody else has it.
    Run(Offer),
    /// Ask again: there will be a call, or the end.
    Wait,
    /// Ask again: a person decides.
    Held,
    /// Another runner is at it.
    Elsewhere,
    /// What became of it is not known, and it is not to be carried out again.
    Doubt,
    /// It is over.
    Over,
}

/// So long a runner's question stays open.
const LONGEST_QUESTION: Duration = Duration::from_secs(10);
/// So often the ledger is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(250);
/// A report that is not written down by then is to be brought again.
const LONGEST_WRITING: Duration = Duration::from_secs(10);

impl Gateway {
    /// Asks for an action that the caller will carry out, and answers as soon as it is on record.
    ///
    /// # Errors
    /// Those of [`Gateway::execute`], and `ATP_PROVIDER_CANNOT` for an archetype that somebody else carries out.
    pub async fn begin_run(self: &Arc<Self>, caller: &Caller, ask: Ask) -> Result<Begun, Error> {
        let begun = self.begin_run_apart(caller, ask).await;
        if let Err(error) = &begun {
            self.metrics.error(error.code);
        }
        begun
    }

    async fn begin_run_apart(self: &Arc<Self>, caller: &Caller, ask: Ask) -> Result<Begun, Error> {
        caller.must(Deed::Execute)?;
        self.limits.before_parsing(caller)?;
        self.is_for_a_runner(caller, &ask)?;
        let place = self.place()?;
        let (said, hears) = oneshot::channel();
        let (gateway, caller, came) = (Arc::clone(self), caller.clone(), Instant::now());
        tokio::spawn(async move {
            let _place = place;
            let room = gateway.judging.acquire().await.ok();
            let next = Box::pin(gateway.decide_on(caller, (ask, Words::Execution), came, room)).await;
            drop(match next {
                Ok(request::Next::Admitted(errand)) => {
                    let heard = said.send(Ok(Begun::Admitted(errand.pending.id)));
                    gateway.carry_out(errand, Said::nobody()).await;
                    heard
                }
                Ok(request::Next::Said(answer)) => said.send(Ok(Begun::Said(answer))),
                Ok(request::Next::NotNow(_)) => {
                    said.send(Err(internal("a request was taken for a repetition")))
                }
                Err(error) => said.send(Err(error)),
            });
        });
        hears.await.unwrap_or_else(|_| Err(internal("a request ended without a word")))
    }

    /// What another provider carries out is asked for elsewhere, and answered with its outcome. All else that may be wrong
    /// with a request is said where it is judged.
    fn is_for_a_runner(&self, caller: &Caller, ask: &Ask) -> Result<(), Error> {
        let request = Request::parse(&ask.body).map_err(request::refused)?;
        let rules = self.tenant(&caller.tenant)?.rules();
        match rules.providers.get(&request.archetype) {
            Some(provider) if provider.runner().is_none() => {
                let why = format!("archetype `{}` is not carried out by its caller", request.archetype);
                Err(Error::new(Code::ProviderCannot, why)
                    .field("/archetype")
                    .hint("ask for it at /api/execute, or bind it with provider = \"runner\""))
            }
            _ => Ok(()),
        }
    }

    /// What there is to do for a runner of the caller's; waits a while for something. The same runner that asks again has
    /// the same call again.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` unless the action is the caller's own, `EP_STATE_CONFLICT` if it is not carried out by its caller.
    pub async fn take_run(&self, caller: &Caller, id: &str, runner: &str) -> Result<RunView, Error> {
        caller.must(Deed::Execute)?;
        let until = Instant::now() + LONGEST_QUESTION;
        loop {
            let stored = self.visible(caller, id).await?;
            let view =
                |next| RunView { action_id: stored.id, state: outward(stored.state), next, waits: None };
            let otherwise = match stored.state {
                State::Sent | State::InDoubt | State::Waiting => Next::Wait,
                State::Held | State::Approved => Next::Held,
                State::Executed | State::Failed | State::Refused => return Ok(view(Next::Over)),
                // Where the caller carries it out there is no payer, nothing to reserve, and no way back.
                State::Challenged | State::Reserved | State::ReleaseFailed => return Ok(view(Next::Over)),
                State::Checking | State::Unchecked | State::Retracting => return Ok(view(Next::Over)),
                State::RollingBack | State::RollbackFailed | State::RolledBack => {
                    return Ok(view(Next::Over));
                }
            };
            let provider = self.run_by(&stored)?;
            let runner_binding = provider.runner().ok_or_else(not_a_run)?;
            match runner_binding.take(stored.id, runner, GLANCE).await {
                Turn::Yours(offer) => {
                    self.at(Point::RunTakeAfter)?;
                    return Ok(view(Next::Run(offer)));
                }
                Turn::Elsewhere => return Ok(view(Next::Elsewhere)),
                Turn::Nothing => {}
            }
            let due_ms = match stored.state {
                State::InDoubt => match self.goes_on(&stored)? {
                    None => return Ok(view(Next::Doubt)),
                    due_ms => due_ms,
                },
                _ => stored.due_ms,
            };
            if Instant::now() >= until {
                let waits = Some(self.waits(&stored, due_ms).await?);
                return Ok(RunView { waits, ..view(otherwise) });
            }
        }
    }

    /// A runner of the caller's is still at the call of this key.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if that is not its call any more.
    pub async fn beat_run(
        &self,
        caller: &Caller,
        id: &str,
        runner: &str,
        provider_key: &str,
    ) -> Result<(), Error> {
        caller.must(Deed::Execute)?;
        let stored = self.visible(caller, id).await?;
        let provider = self.run_by(&stored)?;
        let pending = Pending::restore(&stored, None)?;
        is_of_this_key(&pending, provider_key)?;
        let call = pending.call(self.environment, &self.tenant(&stored.tenant)?.rules())?;
        let is_open = matches!(stored.state, State::Sent | State::InDoubt);
        let is_its_own = provider.runner().is_some_and(|it| is_open && it.beat(&call, runner));
        if is_its_own {
            Ok(())
        } else {
            Err(Error::new(Code::StateConflict, "this call is not the runner's any more"))
        }
    }

    /// What became of the call of this key. Answered once that is written down; a second report is refused.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if it was reported before, `EP_UNAVAILABLE` if it has to be brought again.
    pub async fn report_run(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        provider_key: &str,
        report: Report,
    ) -> Result<ActionView, Error> {
        caller.must(Deed::Execute)?;
        let stored = self.visible(caller, id).await?;
        let provider = self.run_by(&stored)?;
        let pending = Pending::restore(&stored, None)?;
        let runner = provider.runner().ok_or_else(not_a_run)?;
        self.at(Point::RunReportBefore)?;
        let (reply, was_awaited) = runner.report(stored.id, provider_key, report);
        if self.is_of_an_earlier(&stored, &pending, provider_key, &reply, None).await? {
            return self.action(caller, id).await;
        }
        is_of_this_key(&pending, provider_key)?;
        if !(was_awaited && self.written(&stored).await?) {
            let (gateway, key) = (Arc::clone(self), provider_key.to_owned());
            let (tenant, id) = (stored.tenant.clone(), stored.id);
            // In a task of its own: who hangs up has reported all the same.
            let task = tokio::spawn(async move { gateway.reported_late(&tenant, id, &key, reply).await });
            task.await.unwrap_or_else(|_| Err(internal("a report ended without a word")))?;
        }
        self.at(Point::RunReportAfter)?;
        self.action(caller, id).await
    }

    /// Waits until whoever was told of a report has written it down. `false` if they are gone, and it may not be.
    async fn written(&self, before: &Stored) -> Result<bool, Error> {
        let until = Instant::now() + LONGEST_WRITING;
        while Instant::now() < until {
            let is_under_way = lock(&self.under_way).contains(&before.id);
            let stored = self.ledger.action(&before.tenant, before.id).await.map_err(unavailable)?;
            let stored = stored.ok_or_else(|| internal("an action is gone"))?;
            let is_open = matches!(stored.state, State::Sent | State::InDoubt);
            if !is_open || stored.token != before.token {
                return Ok(true);
            }
            if !is_under_way {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(Error::new(Code::Unavailable, "the report is not written down yet").retry_after(1))
    }

    /// A report that nobody waits for any more.
    async fn reported_late(
        self: &Arc<Self>,
        tenant: &Tenant,
        id: ActionId,
        provider_key: &str,
        reply: Reply,
    ) -> Result<(), Error> {
        // Whoever brought another report is done in a moment: then it is known which of them counts.
        let under_way = self.alone_with(id).await.ok();
        let tenant = Arc::clone(self.tenant(tenant)?);
        // Read once it is marked: before, whoever had it in hand may have gone on with it.
        let stored = self.stored(&tenant, id).await?;
        let pending = Pending::restore(&stored, self.told(&stored).await?)?;
        if self.is_of_an_earlier(&stored, &pending, provider_key, &reply, under_way.clone()).await? {
            return Ok(());
        }
        // Where another attempt is being carried out by now, this one was reported.
        is_of_this_key(&pending, provider_key)?;
        let under_way = under_way.ok_or_else(in_hand)?;
        match (stored.state, reply) {
            (State::Sent | State::InDoubt, reply) => self.reported(&tenant, &pending, reply).await,
            (State::Waiting | State::Failed, reply @ Reply::Confirmed(_)) => {
                Box::pin(self.answered_late(&tenant, (id, None), reply, Some(under_way))).await.map(drop)
            }
            (State::Executed, reply @ Reply::Refused(_)) if self.was_said_by_person(&stored).await? => {
                drop(under_way);
                let about = pending.row.call.as_ref().map_or("", |call| &call.reference);
                let of = CallRef { id, attempt: pending.attempt(), about };
                self.denied(&tenant, of, reply).await.map_err(brought_again)
            }
            _ => Err(Error::new(Code::StateConflict, "what became of this call is on record")),
        }
    }

    /// Is it a report of an attempt that was taken for absent before another followed, and had its effect all the same?
    /// Then it is written down.
    async fn is_of_an_earlier(
        self: &Arc<Self>,
        stored: &Stored,
        pending: &Pending,
        provider_key: &str,
        reply: &Reply,
        under_way: Option<UnderWay>,
    ) -> Result<bool, Error> {
        let attempt = pending.row.attempts.iter().find(|attempt| attempt.provider_key == provider_key);
        let latest = is_of_this_key(pending, provider_key).is_ok();
        let (Some(attempt), Reply::Confirmed(it), false) = (attempt, reply, latest) else { return Ok(false) };
        let tenant = Arc::clone(self.tenant(&stored.tenant)?);
        let provider = self.run_by(stored)?;
        let (gateway, it, id) = (Arc::clone(self), it.clone(), stored.id);
        let (attempt, about) = (attempt.attempt, attempt.reference.clone());
        // In a task of its own: who hangs up has reported all the same.
        let task = tokio::spawn(async move {
            let of = CallRef { id, attempt, about: &about };
            gateway.earlier_had_effect(&tenant, of, provider.as_ref(), it, under_way).await
        });
        let heard = task.await.unwrap_or_else(|_| Err(internal("a report ended without a word")));
        heard.map(|()| true).map_err(brought_again)
    }

    async fn reported(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        pending: &Pending,
        reply: Reply,
    ) -> Result<(), Error> {
        let (provider, call) = self.bound(pending, &tenant.rules(), Stood::InDoubt)?;
        let execution = pending.execution(call, provider.as_ref(), Stood::InDoubt);
        let doubt = reply.doubt();
        let (execution, effects) = self.step(execution, Event::Replied(reply))?;
        match self.follow(tenant, pending, &execution, &effects).await? {
            Followed::Said(_) => drop(lock(&self.inquiries).remove(&pending.id)),
            // What was marked sent and is in doubt now is said to be. When it is due stays remembered.
            Followed::Rests(_) => drop(self.leave(tenant, (pending.id, pending.by), false, doubt).await?),
        }
        Ok(())
    }

    /// When what is in doubt may be carried out once more, in Unix milliseconds; `None`: never.
    fn goes_on(&self, stored: &Stored) -> Result<Option<i64>, Error> {
        let rules = self.tenant(&stored.tenant)?.rules();
        let pending = Pending::restore(stored, None)?;
        let Ok((provider, call)) = self.bound(&pending, &rules, Stood::InDoubt) else { return Ok(None) };
        let now_ms = clock::now_ms();
        let known_ms = self.wakes_ms(stored.id).unwrap_or(now_ms).max(now_ms);
        if provider.runner().is_some_and(|runner| runner.is_at(&call)) {
            return Ok(Some(known_ms));
        }
        let execution = pending.execution(call, provider.as_ref(), Stood::InDoubt);
        let (_, effects) = self.step(execution, Event::Woken)?;
        Ok(match effects.first() {
            Some(Effect::Clear) => Some(known_ms),
            Some(Effect::Wait { until_ms }) if *until_ms > clock::now_ms() => Some(known_ms.max(*until_ms)),
            _ => None,
        })
    }

    /// What an open action waits for.
    async fn waits(&self, stored: &Stored, due_ms: Option<i64>) -> Result<WaitView, Error> {
        let (for_what, since_ms) = match stored.state {
            State::Held => ("approval", None),
            State::Waiting => {
                let row = IntentRow::of(stored)?;
                ("next_attempt", row.attempts.last().map(|attempt| attempt.ended_ms))
            }
            State::InDoubt => {
                let outcomes = self.stored_outcomes(stored).await?;
                ("repetition", outcomes.last().map(|outcome| outcome.at_ms))
            }
            _ => ("turn", None),
        };
        let due_ms = due_ms.filter(|_| matches!(stored.state, State::Waiting | State::InDoubt));
        let since = clock::text(since_ms.unwrap_or(stored.at_ms));
        Ok(WaitView { for_what, since, due_at: due_ms.map(clock::text) })
    }

    /// The provider of a run.
    fn run_by(&self, stored: &Stored) -> Result<Arc<dyn Provider>, Error> {
        let rules = self.tenant(&stored.tenant)?.rules();
        let provider = rules.providers.get(&*stored.archetype).filter(|provider| provider.runner().is_some());
        provider.cloned().ok_or_else(not_a_run)
    }
}

fn in_hand() -> Error {
    Error::new(Code::Unavailable, "somebody is at the action just now").retry_after(1)
}

/// A runner takes a conflict for the last word on its report.
fn brought_again(error: Error) -> Error {
    if error.code == Code::StateConflict { in_hand() } else { error }
}

fn not_a_run() -> Error {
    Error::new(Code::StateConflict, "this action is not carried out by its caller")
}

fn is_of_this_key(pending: &Pending, provider_key: &str) -> Result<(), Error> {
    let is_it = pending.row.call.as_ref().is_some_and(|call| call.provider_key == provider_key);
    if is_it { Ok(()) } else { Err(Error::new(Code::StateConflict, "no call of this key is under way")) }
}
