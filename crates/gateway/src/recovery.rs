//! Recovery: whatever was admitted and is not settled, because a process died, an answer was lost or a person never
//! came. The same transitions as the live path; nothing is ever sent from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use action::{ActionId, Environment};
use execution::Event;
use futures_util::StreamExt;
use ledger::{State, Stored};
use tokio::task::JoinHandle;

use crate::act::lock;
use crate::gateway::{Gateway, Inquiry};
use crate::outcome::{Details, ReceiptRef};
use crate::pending::Pending;
use crate::prove::{push, refused};
use crate::remember::unavailable;
use crate::{Code, Error, clock};

/// Actions looked at in one go.
const PAGE: u32 = 256;
/// Providers asked at once.
const AT_ONCE: usize = 32;
/// The longest pause between two questions about one action.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause between two prunings of the sandbox, and actions pruned in one commit.
const PRUNE_PAUSE: Duration = Duration::from_secs(60);
const PRUNED_AT_ONCE: u32 = 256;

impl Gateway {
    /// Looks after unsettled actions now and on a timer, until the task is aborted.
    pub(crate) fn look_after(self: &Arc<Self>) -> JoinHandle<()> {
        let gateway = Arc::clone(self);
        let interval = Duration::from_millis(gateway.config.limits.recovery_interval_ms.max(10));
        tokio::spawn(async move {
            let mut pruned: Option<Instant> = None;
            loop {
                if let Err(error) = gateway.round().await {
                    tracing::warn!(%error, "unsettled actions could not be looked after");
                }
                if pruned.is_none_or(|at| at.elapsed() >= PRUNE_PAUSE) {
                    pruned = Some(Instant::now());
                    if let Err(error) = gateway.prune().await {
                        tracing::warn!(%error, "old sandbox actions could not be deleted");
                    }
                }
                tokio::time::sleep(interval).await;
            }
        })
    }

    async fn round(self: &Arc<Self>) -> Result<(), Error> {
        if let Err(error) = self.expire().await {
            // Doubt is resolved all the same.
            tracing::warn!(%error, "held actions could not be looked after");
        }
        let mut after = None;
        loop {
            let page = self.ledger.unsettled(after, PAGE).await.map_err(unavailable)?;
            let due: Vec<Stored> = page.rows.into_iter().filter(|stored| self.is_due(stored.id)).collect();
            futures_util::stream::iter(due)
                .for_each_concurrent(AT_ONCE, |stored| async move {
                    let id = stored.id;
                    let under_way = self.under_way(id);
                    if let Err(error) = self.resolve(stored).await {
                        tracing::warn!(action = %id, %error, "an unsettled action could not be resolved");
                        self.ask_later(id);
                    }
                    drop(under_way);
                })
                .await;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// One step for one unsettled action: what was sent and never heard of is in doubt; what is in doubt is asked after.
    async fn resolve(&self, stored: Stored) -> Result<(), Error> {
        let tenant = self.tenant(&stored.tenant)?;
        let original = self.original(&stored).await?;
        let mut pending = Pending::restore(&stored, original)?;
        let rules = tenant.rules();
        let call = pending.call(self.environment, &rules);
        if stored.state == State::Sent {
            // Whether it left, nobody here knows: the caller is told so before anybody is asked.
            let ending = self.in_doubt(&pending);
            self.conclude(tenant, &pending, ending).await?;
            let settled = self.ledger.outcomes(&stored.tenant, stored.id).await.map_err(unavailable)?;
            pending.original = settled.into_iter().next().and_then(|it| it.receipt).map(reference);
        }
        let provider = rules.providers.get(&*pending.archetype).ok_or_else(|| {
            Error::new(Code::ProviderCannot, format!("archetype `{}` is no longer bound", pending.archetype))
        })?;
        if let Some(sent) = pending.row.call.as_ref().filter(|sent| !sent.was_for(provider.as_ref())) {
            // Another provider's "no such payment" says nothing about this one.
            return Err(Error::new(
                Code::ProviderCannot,
                format!(
                    "archetype `{}` was sent to `{}` and is bound otherwise now: until it is settled, bind it as it was \
                     (name, base, headers, capabilities, query)",
                    pending.archetype, sent.provider
                ),
            ));
        }
        let (execution, _) = execution::recover(call?);
        let found = provider.query(execution.call(), clock::now_ms()).await;
        match self.stepped(execution, Event::Asked(found)) {
            Some(execution) if execution.fate().is_some() => {
                self.tell(tenant, &mut pending, &execution).await?;
                lock(&self.inquiries).remove(&stored.id);
            }
            _ => self.ask_later(stored.id),
        }
        Ok(())
    }

    async fn original(&self, stored: &Stored) -> Result<Option<ReceiptRef>, Error> {
        if stored.state == State::Sent {
            return Ok(None);
        }
        let outcomes = self.ledger.outcomes(&stored.tenant, stored.id).await.map_err(unavailable)?;
        Ok(outcomes.into_iter().find_map(|outcome| outcome.receipt).map(reference))
    }

    fn is_due(&self, id: ActionId) -> bool {
        if lock(&self.under_way).contains(&id) {
            return false;
        }
        lock(&self.inquiries).get(&id).is_none_or(|inquiry| inquiry.next <= Instant::now())
    }

    /// Twice as long each time, up to a minute.
    fn ask_later(&self, id: ActionId) {
        let base = Duration::from_millis(self.config.limits.recovery_interval_ms.max(10));
        let mut inquiries = lock(&self.inquiries);
        let tries = inquiries.get(&id).map_or(0, |inquiry| inquiry.tries);
        let pause = base.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
        inquiries.insert(id, Inquiry { tries: tries.saturating_add(1), next: Instant::now() + pause });
    }

    /// Pretended actions are kept for a while only.
    async fn prune(&self) -> Result<(), Error> {
        if self.environment != Environment::Sandbox {
            return Ok(());
        }
        let hours = i64::try_from(self.config.sandbox.retention_hours).unwrap_or(i64::MAX);
        let now_ms = clock::now_ms();
        let before_ms = now_ms.saturating_sub(hours.saturating_mul(3_600_000));
        while self.ledger.prune(before_ms, PRUNED_AT_ONCE, now_ms).await.map_err(unavailable)?
            == u64::from(PRUNED_AT_ONCE)
        {}
        Ok(())
    }

    /// Held actions nobody decided on in time.
    async fn expire(&self) -> Result<(), Error> {
        for stored in self.ledger.expired(clock::now_ms(), PAGE).await.map_err(unavailable)? {
            if let Err(error) = self.expire_one(&stored).await {
                tracing::warn!(action = %stored.id, %error, "a held action could not be ended");
            }
        }
        Ok(())
    }

    async fn expire_one(&self, stored: &Stored) -> Result<(), Error> {
        let tenant = self.tenant(&stored.tenant)?;
        let pending = Pending::restore(stored, None)?;
        let mut chain = pending.chain.clone();
        let error = refused(Code::ApprovalExpired, "approval_expired")?;
        push(&mut chain, receipt::Stage::Execute, || {
            Ok(receipt::NewEntry { error, ..receipt::NewEntry::at(clock::now()) })
        })?;
        let details = Details { reasons: vec!["approval_expired".to_owned()], ..Details::default() };
        let ending = self.blocked(chain, Code::ApprovalExpired, details);
        self.conclude(tenant, &pending, Ok(ending)).await.map(drop)
    }
}

pub(crate) fn reference(receipt: ledger::Receipt) -> ReceiptRef {
    ReceiptRef {
        receipt_id: receipt.id.into(),
        signature: receipt.signature.into(),
        short: receipt.short.into(),
    }
}
