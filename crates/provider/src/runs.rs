//! Runs: calls that are carried out by whoever asked for the action. A call is offered here and waits; a runner, a process
//! of the asking agent, takes it, says now and then that it is still at it, and reports. Only one runner has a call at a time.
//!
//! All of it is in memory: what must outlive the process is in the ledger, and a runner that finds nobody waiting for its
//! report brings it all the same.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use action::ActionId;
use execution::Call;
use tokio::sync::{Notify, oneshot};

use crate::runner::Report;

/// The calls that are offered or being carried out.
#[derive(Debug)]
pub struct Runs {
    since: Instant,
    open: Mutex<HashMap<ActionId, Run>>,
    news: Notify,
}

/// A call, as whoever carries it out sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// 1 for the first.
    pub attempt: u32,
    /// The key that tells a repetition from another call.
    pub provider_key: String,
    /// Our own name for the attempt.
    pub reference: String,
    /// How often the runner has to say that it is still at it.
    pub beat: Duration,
}

/// What a runner hears that wants a call to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This one, and nobody else has it.
    Yours(Offer),
    /// Another runner is at it.
    Elsewhere,
    /// There is none now.
    Nothing,
}

/// How long a call waits for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// For a word of the runner that has it.
    pub silence: Duration,
    /// For the report.
    pub timeout: Duration,
}

/// Why a call ended without a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreported {
    /// No runner had it, and none gets it any more.
    Untaken,
    /// Its runner fell silent.
    Silent,
    /// It took too long.
    Overdue,
}

#[derive(Debug)]
struct Run {
    offer: Offer,
    silence: Duration,
    holder: Option<Holder>,
    /// Whoever waits for the report, if anybody does.
    tell: Option<oneshot::Sender<Result<Report, Unreported>>>,
}

#[derive(Debug)]
struct Holder {
    runner: String,
    seen: Instant,
}

impl Default for Runs {
    fn default() -> Runs {
        Runs { since: Instant::now(), open: Mutex::default(), news: Notify::new() }
    }
}

impl Runs {
    /// Offers a call and waits for its report. Whoever had the same call before and is still at it has it still.
    pub(crate) async fn carry_out(&self, call: &Call, waits: Waits) -> Result<Report, Unreported> {
        let id = call.action_id;
        // Dropped after the receiver, so that it finds it closed.
        let _withdrawal = Withdrawal { runs: self, id, provider_key: &call.provider_key };
        let (tell, mut told) = oneshot::channel();
        self.offer(call, waits, tell);
        let began = Instant::now();
        loop {
            let wake = self.still_waits(id, &call.provider_key, began, waits)?;
            tokio::select! {
                biased;
                report = &mut told => return report.unwrap_or(Err(Unreported::Silent)),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn offer(&self, call: &Call, waits: Waits, tell: oneshot::Sender<Result<Report, Unreported>>) {
        let offer = Offer {
            attempt: call.attempt,
            provider_key: call.provider_key.clone(),
            reference: call.reference.clone(),
            beat: waits.silence / 3,
        };
        let mut open = self.open();
        let before = open.remove(&call.action_id).filter(|run| run.is_of(&call.provider_key));
        let holder = before.and_then(|run| run.holder.filter(|holder| holder.is_heard(waits.silence)));
        open.insert(call.action_id, Run { offer, silence: waits.silence, holder, tell: Some(tell) });
        drop(open);
        self.news.notify_waiters();
    }

    /// Until when there is nothing to do but wait. What is given up here is given up before anybody else can take it.
    fn still_waits(
        &self,
        id: ActionId,
        provider_key: &str,
        began: Instant,
        waits: Waits,
    ) -> Result<Instant, Unreported> {
        let mut open = self.open();
        let run = open.get(&id).filter(|run| run.is_of(provider_key) && run.tell.is_some());
        // Reported a moment ago: it is on its way to us.
        let Some(run) = run else { return Ok(Instant::now() + waits.silence) };
        let overdue = began + waits.timeout;
        let (until, why) = match &run.holder {
            None => (overdue, Unreported::Untaken),
            Some(holder) if holder.seen + waits.silence < overdue => {
                (holder.seen + waits.silence, Unreported::Silent)
            }
            Some(_) => (overdue, Unreported::Overdue),
        };
        let now = Instant::now();
        if now < until {
            // Who takes it after this look is not silent before then.
            return Ok(until.min(now + waits.silence));
        }
        match why {
            // Its runner is still at it, and will come with its report.
            Unreported::Overdue => drop(open.get_mut(&id).and_then(|run| run.tell.take())),
            Unreported::Untaken | Unreported::Silent => drop(open.remove(&id)),
        }
        Err(why)
    }

    /// A call to carry out, as soon as there is one. Who asks again because the answer got lost has it still.
    pub(crate) async fn take(&self, id: ActionId, runner: &str, most: Duration) -> Turn {
        let until = tokio::time::Instant::now() + most;
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // From here on nothing is missed.
            news.as_mut().enable();
            let turn = self.take_now(id, runner);
            if turn != Turn::Nothing || tokio::time::timeout_at(until, news).await.is_err() {
                return turn;
            }
        }
    }

    fn take_now(&self, id: ActionId, runner: &str) -> Turn {
        let mut open = self.open();
        let Some(run) = open.get_mut(&id) else { return Turn::Nothing };
        match &mut run.holder {
            Some(holder) if holder.runner == runner => holder.seen = Instant::now(),
            Some(holder) if holder.is_heard(run.silence) => return Turn::Elsewhere,
            None if run.tell.is_some() => {
                run.holder = Some(Holder { runner: runner.to_owned(), seen: Instant::now() });
            }
            // Whoever waits for a silent runner is about to find out.
            Some(_) | None => return Turn::Nothing,
        }
        Turn::Yours(run.offer.clone())
    }

    /// Ends an offer that no runner has taken. `false` if one has, or there is none.
    pub(crate) fn withdraw(&self, call: &Call) -> bool {
        let mut open = self.open();
        let untaken = |run: &Run| run.is_of(&call.provider_key) && run.holder.is_none();
        let run =
            if open.get(&call.action_id).is_some_and(untaken) { open.remove(&call.action_id) } else { None };
        run.and_then(|run| run.tell).is_some_and(|tell| tell.send(Err(Unreported::Untaken)).is_ok())
    }

    /// A runner is still at a call. `false` if that is not its call: another runner has it, or there is another call.
    pub(crate) fn beat(&self, id: ActionId, offer: Offer, runner: &str, silence: Duration) -> bool {
        let mut open = self.open();
        open.retain(|_, run| run.is_open());
        let run =
            open.entry(id).or_insert_with(|| Run { offer: offer.clone(), silence, holder: None, tell: None });
        let is_free = match &run.holder {
            Some(holder) => holder.runner == runner || !holder.is_heard(run.silence),
            None => true,
        };
        let is_its_own = is_free && run.is_of(&offer.provider_key);
        if is_its_own {
            run.holder = Some(Holder { runner: runner.to_owned(), seen: Instant::now() });
        }
        is_its_own
    }

    /// Hands a report to whoever waits for it, if anybody does. After it the call is not there any more.
    pub(crate) fn report(&self, id: ActionId, provider_key: &str, report: Report) -> bool {
        let mut open = self.open();
        let run =
            if open.get(&id).is_some_and(|run| run.is_of(provider_key)) { open.remove(&id) } else { None };
        run.and_then(|run| run.tell).is_some_and(|tell| tell.send(Ok(report)).is_ok())
    }

    /// Is a runner known to be at this call, or may one be that has not come back since this process began?
    pub(crate) fn is_at(&self, call: &Call, silence: Duration) -> bool {
        let heard = |run: &Run| run.is_of(&call.provider_key) && run.is_held();
        self.since.elapsed() < silence || self.open().get(&call.action_id).is_some_and(heard)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<ActionId, Run>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn is_of(&self, provider_key: &str) -> bool {
        self.offer.provider_key == provider_key
    }

    fn is_held(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.is_heard(self.silence))
    }

    fn is_open(&self) -> bool {
        self.tell.is_some() || self.is_held()
    }
}

impl Holder {
    fn is_heard(&self, silence: Duration) -> bool {
        self.seen.elapsed() < silence
    }
}

/// Whoever waited for a report is gone.
struct Withdrawal<'a> {
    runs: &'a Runs,
    id: ActionId,
    provider_key: &'a str,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        let mut open = self.runs.open();
        let closed = |run: &mut Run| {
            // Another wait for the same call has a teller of its own.
            run.tell.as_ref().is_some_and(oneshot::Sender::is_closed)
        };
        if let Some(run) = open.get_mut(&self.id)
            && run.is_of(self.provider_key)
            && closed(run)
        {
            run.tell = None;
        }
    }
}
