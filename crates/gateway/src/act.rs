//! Act: one permitted call, from the moment its intent is durable until something about it can be said.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use action::ActionId;
use boundary::Permit;
use execution::{Call, Confirmation, Event, Execution, Fate, Reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use provider::Provider;
use tokio::sync::oneshot;

use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::outcome::ReceiptRef;
use crate::pending::Pending;
use crate::prove::Ending;
use crate::remember::unavailable;
use crate::row::internal;
use crate::tenants::TenantState;
use crate::{Answer, Code, Error, clock};

/// A permitted action and all that is needed to carry it out.
pub(crate) struct Errand {
    /// Marks the action as looked after, since before it is admitted.
    #[expect(dead_code, reason = "held until the errand is over")]
    pub under_way: UnderWay,
    pub tenant: Arc<TenantState>,
    pub pending: Box<Pending>,
    pub call: Call,
    pub permit: Permit,
    pub provider: Arc<dyn Provider>,
    /// When commit 1 was acknowledged.
    pub admitted: Instant,
    /// Until when the caller wants to know.
    pub deadline: Option<Instant>,
    /// The price, for an action that only asked for it: nothing is sent then.
    pub quoted: Option<Confirmation>,
}

/// Admission is the check of a first send that starts within this time; later ones are not made.
pub(crate) const SEND_WINDOW: Duration = Duration::from_secs(2);

/// So long an action stays in memory while its provider works. Most are done by then; for the others reading it back
/// from the ledger is little beside the wait.
const A_MOMENT: Duration = Duration::from_millis(100);

impl Gateway {
    /// Carries an errand out: says the first thing there is to say, and sees to what comes later.
    ///
    /// Ten thousand of these may wait for slow providers. So what is given stays in its box, what telling needs is in
    /// another, made when it is needed, and who waits for longer than a moment keeps nothing that the ledger has.
    pub(crate) async fn carry_out(&self, errand: Box<Errand>, said: oneshot::Sender<Result<Answer, Error>>) {
        let (id, deadline) = (errand.pending.id, errand.deadline);
        let patience_ms = i64::try_from(errand.provider.patience().as_millis()).unwrap_or(i64::MAX / 2);
        let leave_by_ms = errand.call.send_by_ms.saturating_sub(patience_ms);
        if let Some((code, reason)) = too_late(&errand.permit, errand.admitted, deadline, leave_by_ms) {
            let _place = self.concluding.acquire().await;
            let ending = self.failed(&errand.pending, code, reason, None);
            let _ = said.send(Box::pin(self.conclude(&errand.tenant, &errand.pending, ending)).await);
            return;
        }
        let started = Instant::now();
        let (execution, _) = execution::begin(errand.call, errand.permit);
        let call = Arc::clone(execution.call());
        let name = errand.provider.name();
        let mut reply = match errand.quoted {
            Some(confirmation) => std::future::ready(Reply::Confirmed(confirmation)).boxed(),
            None => {
                let reply = errand.provider.call(&call, clock::now_ms());
                reply.inspect(move |reply| log_unanswered(id, name, reply)).boxed()
            }
        };
        let mut kept = Some(errand.pending);
        let (first, late) = {
            let mut first = pin!(first(&mut reply, deadline));
            match tokio::time::timeout(A_MOMENT, &mut first).await {
                Ok(first) => first,
                Err(_) => {
                    kept = None;
                    first.await
                }
            }
        };
        self.metrics.step(Step::Act, started.elapsed());
        let Some(execution) = self.stepped(execution, first) else { return };
        // As with judging: what is proven and not yet written is large.
        let place = self.concluding.acquire().await;
        let recalled = match kept {
            Some(pending) => Ok(pending),
            None => self.recall(&errand.tenant, id).await,
        };
        let mut pending = match recalled {
            Ok(pending) => pending,
            // Recovery will find it as sent.
            Err(error) => return drop(said.send(Err(error))),
        };
        let _ = said.send(Box::pin(self.tell(&errand.tenant, &mut pending, &execution)).await);
        drop(place);
        if late {
            // The caller has gone on; the answer still counts.
            let reply = reply.await;
            if !matches!(reply, Reply::Lost { .. })
                && let Some(execution) = self.stepped(execution, Event::Replied(reply))
            {
                let _place = self.concluding.acquire().await;
                let _ = Box::pin(self.tell(&errand.tenant, &mut pending, &execution)).await;
            }
        }
    }

    /// Reads back what admission wrote.
    async fn recall(&self, tenant: &TenantState, id: ActionId) -> Result<Box<Pending>, Error> {
        let stored = self.ledger.action(&tenant.tenant, id).await.map_err(unavailable)?;
        let stored = stored.ok_or_else(|| internal("an admitted action is not in the ledger"))?;
        Pending::restore(&stored, None).map(Box::new)
    }

    /// One transition; an illegal one is logged and changes nothing.
    pub(crate) fn stepped(&self, execution: Execution, event: Event) -> Option<Execution> {
        match execution.step(event) {
            Ok((next, _)) => Some(next),
            Err(illegal) => {
                tracing::error!(%illegal, "an execution was asked the impossible");
                None
            }
        }
    }

    /// Records what is known of an execution now, and says it.
    pub(crate) async fn tell(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        execution: &Execution,
    ) -> Result<Answer, Error> {
        let Some(fate) = execution.fate() else {
            let ending = self.in_doubt(pending)?;
            let (answer, original) = self.conclude_with_receipt(tenant, pending, ending).await?;
            pending.original = original;
            return Ok(answer);
        };
        let ending = self.ending(pending, fate);
        self.conclude(tenant, pending, ending).await
    }

    fn ending<'a>(&self, pending: &Pending, fate: &'a Fate) -> Result<Ending<'a>, Error> {
        self.settled(pending, fate)
    }

    /// Proves and settles one ending.
    pub(crate) async fn conclude(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        ending: Result<Ending<'_>, Error>,
    ) -> Result<Answer, Error> {
        self.conclude_with_receipt(tenant, pending, ending?).await.map(|(answer, _)| answer)
    }

    async fn conclude_with_receipt(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        ending: Ending<'_>,
    ) -> Result<(Answer, Option<ReceiptRef>), Error> {
        let started = Instant::now();
        let proven = self.prove(pending, ending, &pending.row.correlation_id)?;
        let overage = self.overage(pending, &proven)?;
        self.metrics.step(Step::Prove, started.elapsed());
        let started = Instant::now();
        let receipt = proven.outcome.receipt.clone();
        let reply = self.settle(tenant, pending, proven, overage).await?;
        self.metrics.step(Step::Settle, started.elapsed());
        Ok((Answer { reply, replayed: false, action_id: Some(pending.id) }, receipt))
    }

    /// Marks an action as one that a task of this process looks after, until the mark and its copies are dropped.
    pub(crate) fn under_way(self: &Arc<Self>, id: ActionId) -> UnderWay {
        lock(&self.under_way).insert(id);
        self.mark(id)
    }

    /// The same, unless another task looks after it already.
    pub(crate) fn look_after_alone(self: &Arc<Self>, id: ActionId) -> Option<UnderWay> {
        lock(&self.under_way).insert(id).then(|| self.mark(id))
    }

    fn mark(self: &Arc<Self>, id: ActionId) -> UnderWay {
        self.metrics.in_flight.inc();
        UnderWay { _mark: Arc::new(Mark { gateway: Arc::clone(self), id }) }
    }
}

/// What comes first: the reply, or the end of the caller's patience; and whether it was that.
async fn first(reply: &mut BoxFuture<'_, Reply>, deadline: Option<Instant>) -> (Event, bool) {
    let overdue = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        reply = reply => (Event::Replied(reply), false),
        () = overdue => (Event::Overdue, true),
    }
}

/// See [`Gateway::under_way`].
#[derive(Clone)]
pub(crate) struct UnderWay {
    _mark: Arc<Mark>,
}

struct Mark {
    gateway: Arc<Gateway>,
    id: ActionId,
}

impl Drop for Mark {
    fn drop(&mut self) {
        lock(&self.gateway.under_way).remove(&self.id);
        self.gateway.metrics.in_flight.dec();
    }
}

/// For the operator: which provider gave no answer, and why in words of our own.
fn log_unanswered(action: ActionId, provider: &str, reply: &Reply) {
    match reply {
        Reply::NotSent { why } => tracing::warn!(%action, provider, %why, "nothing was sent"),
        Reply::Lost { why } => tracing::warn!(%action, provider, %why, "it was sent and not answered"),
        Reply::Confirmed(_) | Reply::Refused(_) => {}
    }
}

/// Why a call must not leave any more, if so. Nothing has left yet, so the absence of an effect is certain.
fn too_late(
    permit: &Permit,
    admitted: Instant,
    deadline: Option<Instant>,
    leave_by_ms: i64,
) -> Option<(Code, &'static str)> {
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Some((Code::DeadlineExceeded, "deadline_before_sending"));
    }
    // What leaves later than its row says could still arrive when its absence is taken to be final.
    let now_ms = clock::now_ms();
    if admitted.elapsed() > SEND_WINDOW || now_ms > leave_by_ms || !permit.is_valid_at(now_ms) {
        return Some((Code::ProviderFailed, "send_window_missed"));
    }
    None
}

pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use execution::Found;
    use serde_json::json;

    use super::*;
    use crate::outcome::{Outcome, Reply};
    use crate::request::{Ask, Next};
    use crate::{Config, Installation};

    fn render(outcome: &Outcome, _: &str) -> Reply {
        let said = json!({ "kind": outcome.kind.as_str(), "reasons": outcome.details.reasons });
        Reply { status: 200, body: said.to_string().into_bytes() }
    }

    /// A payment in the sandbox, admitted and not yet sent.
    async fn admitted(gateway: &Arc<Gateway>, recipient: &str) -> Box<Errand> {
        let constraints = json!({ "recipient": recipient, "amount_usd": "5.00", "max_total_usd": "9.00" });
        let body = json!({ "archetype": "PAYMENT_TRANSFER", "constraints": constraints });
        let ask = Ask {
            idempotency_key: None,
            request_id: "req-1".to_owned(),
            dry_run: false,
            body: body.to_string().into_bytes(),
        };
        match gateway.decide_on(Gateway::anonymous(), ask, Instant::now(), None).await.unwrap() {
            Next::Admitted(errand) => errand,
            Next::Said(answer) => panic!("{}", String::from_utf8_lossy(&answer.reply.body)),
        }
    }

    #[tokio::test]
    async fn what_would_leave_later_than_its_row_says_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data_dir: folder.path().join("data"), ..Config::default() };
        let installation = Installation::open(config, render).await.unwrap();
        let gateway = installation.sandbox.as_ref().unwrap();
        for (late_ms, kind, reasons) in
            [(0, "executed", json!([])), (1, "failed", json!(["send_window_missed"]))]
        {
            let mut errand = admitted(gateway, kind).await;
            let (provider, patience) = (Arc::clone(&errand.provider), errand.provider.patience());
            // As if admission had taken so long that the provider's time would end after `send_by_ms`.
            if late_ms > 0 {
                errand.call.send_by_ms = clock::now_ms() + patience.as_millis() as i64 - late_ms;
            }
            let call = errand.call.clone();
            let (said, hears) = oneshot::channel();
            gateway.carry_out(errand, said).await;
            let answer: serde_json::Value =
                serde_json::from_slice(&hears.await.unwrap().unwrap().reply.body).unwrap();
            assert_eq!((&answer["kind"], &answer["reasons"]), (&kind.into(), &reasons));
            let found = provider.query(&call, clock::now_ms()).await;
            assert_eq!(matches!(found, Found::Confirmed(_)), late_ms == 0, "{found:?}");
        }
    }
}
