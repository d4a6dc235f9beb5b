//! Recovery: whatever was admitted and is not settled, because a process died, an answer was lost, an attempt failed or a
//! person never came. It goes the way of the live path, see `pursue`; here is only whose turn it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use action::{ActionId, Environment, Tenant};
use futures_util::StreamExt;
use ledger::{State, Stored};
use tokio::task::{JoinHandle, JoinSet};

use crate::act::{Said, lock};
use crate::forgotten::is_done;
use crate::gateway::{Gateway, Inquiry};
use crate::outcome::ReceiptRef;
use crate::pursue::Pursued;
use crate::remember::unavailable;
use crate::sessions::Taken;
use crate::{Code, Error, clock};

/// Actions looked at in one go.
const PAGE: u32 = 256;
/// Questions that one provider is asked at once.
const AT_ONCE: usize = 32;
/// The longest pause between two questions about one action.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause between two looks for what is to be pruned or erased, and actions pruned in one commit.
const PRUNE_PAUSE: Duration = Duration::from_secs(60);
const PRUNED_AT_ONCE: u32 = 256;

/// What is asked of one provider: the actions of one archetype of one tenant.
type Lane = (Tenant, Box<str>);

/// Those who ask, a task for each lane, so that a provider that does not answer delays only its own actions. When this
/// is dropped, so are they.
type Askers = HashMap<Lane, JoinSet<()>>;

impl Gateway {
    /// Looks after unsettled actions and untold notices now and on a timer, until the task is aborted.
    pub(crate) fn look_after(self: &Arc<Self>) -> JoinHandle<()> {
        let gateway = Arc::clone(self);
        tokio::spawn(async move {
            let logging = async {
                tokio::join!(gateway.keep_hearing(), gateway.keep_logging(), gateway.keep_witnessed())
            };
            tokio::join!(gateway.keep_asking(), gateway.keep_clearing(), gateway.keep_telling(), logging);
        })
    }

    async fn keep_asking(self: &Arc<Self>) {
        let mut askers = Askers::new();
        let mut taken: Option<Vec<Taken>> = None;
        // Others may be taken for gone at any time, and whoever takes over what they had in hand has it put on record first. In a store
        // of one process nobody is left behind later.
        let has_others = self.config.store.is_some();
        if let Err(error) = self.log_doubts().await {
            tracing::warn!(%error, "unsettled actions could not be counted");
        }
        loop {
            self.until_whole().await;
            if has_others
                && let Some(taken) = &mut taken
                && let Err(error) = self.left_since(taken).await
            {
                tracing::warn!(%error, "what was left behind could not be read");
            }
            // Before the first is asked after. What cannot be put on record keeps nobody from asking, and is told later.
            if let Err(error) = self.tell_recoveries(&mut taken).await {
                tracing::warn!(%error, "what is recovered could not be put on record");
            }
            if let Err(error) = self.ask_around(&mut askers).await {
                tracing::warn!(%error, "unsettled actions could not be looked after");
            }
            if let Err(error) = self.resume_all().await {
                tracing::warn!(%error, "approved actions could not be looked after");
            }
            tokio::time::sleep(self.interval()).await;
        }
    }

    /// What the first look around takes up ends by a later one.
    async fn tell_recoveries(&self, taken: &mut Option<Vec<Taken>>) -> Result<(), Error> {
        match taken {
            None => self.begin_recoveries(taken.insert(self.left_behind().await?)).await,
            Some(taken) => {
                let begun = self.begin_recoveries(taken).await;
                self.end_recoveries(taken).await.and(begun)
            }
        }
    }

    /// What a process before this one left behind.
    async fn log_doubts(&self) -> Result<(), Error> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.ledger.unsettled(after, PAGE).await.map_err(unavailable)?;
            count += page.rows.iter().filter(|stored| stored.state != State::Challenged).count();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if count > 0 {
            tracing::info!(environment = %self.environment, "{count} actions in doubt are being asked after");
        }
        Ok(())
    }

    /// A provider does not tell what became of an action. Said the first time, and once more when it is asked only every
    /// minute from now on.
    pub(crate) fn log_untold(&self, tenant: &Tenant, id: ActionId, provider: &str) {
        let tries = lock(&self.inquiries).get(&id).map_or(0, |inquiry| inquiry.tries);
        let slowest = |tries| self.pause_after(tries) == LONGEST_PAUSE;
        if tries == 0 || (slowest(tries) && !slowest(tries - 1)) {
            let next_seconds = self.pause_after(tries).as_secs();
            tracing::warn!(action = %id, %tenant, provider, next_seconds, "the provider does not tell what became of it");
        }
    }

    /// What nobody outside is asked for.
    async fn keep_clearing(self: &Arc<Self>) {
        let mut pruned: Option<Instant> = None;
        let mut later = HashMap::new();
        loop {
            self.until_whole().await;
            if let Err(error) = self.expire(&mut later).await {
                tracing::warn!(%error, "held actions could not be looked after");
            }
            if let Err(error) = self.end_lapsed(clock::now_ms()).await {
                tracing::warn!(%error, "sessions that are to end could not be looked after");
            }
            if pruned.is_none_or(|at| at.elapsed() >= PRUNE_PAUSE) {
                pruned = Some(Instant::now());
                if let Err(error) = self.prune().await {
                    tracing::warn!(%error, "old sandbox actions could not be deleted");
                }
                if let Err(error) = self.erase_due(clock::now_ms()).await {
                    tracing::warn!(%error, "actions that are to be erased could not be looked after");
                }
            }
            tokio::time::sleep(self.interval()).await;
        }
    }

    /// Sends out whoever is back; what is due in the lanes of the others waits for a later round.
    async fn ask_around(self: &Arc<Self>, askers: &mut Askers) -> Result<(), Error> {
        for (lane, due) in self.due().await? {
            let asker = askers.entry(lane.clone()).or_default();
            while asker.try_join_next().is_some() {}
            if asker.is_empty() {
                asker.spawn(Arc::clone(self).ask_for(lane.0, due));
            }
        }
        Ok(())
    }

    /// The actions whose turn it is, oldest first: those to be asked after, and those to be sent again. What is settled
    /// is forgotten.
    async fn due(&self) -> Result<HashMap<Lane, Vec<ActionId>>, Error> {
        let (mut open, mut due) = (HashSet::new(), HashMap::<Lane, Vec<ActionId>>::new());
        let mut take = |stored: Stored| {
            open.insert(stored.id);
            if self.is_due(stored.id) {
                due.entry((stored.tenant, stored.archetype)).or_default().push(stored.id);
            }
        };
        let (mut after, now_ms) = (None, clock::now_ms());
        loop {
            let page = self.ledger.unsettled(after, PAGE).await.map_err(unavailable)?;
            page.rows.into_iter().for_each(&mut take);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        loop {
            let page = self.ledger.due(now_ms, after, PAGE).await.map_err(unavailable)?;
            page.rows.into_iter().for_each(&mut take);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        lock(&self.inquiries).retain(|id, _| open.contains(id));
        Ok(due)
    }

    async fn ask_for(self: Arc<Self>, tenant: Tenant, due: Vec<ActionId>) {
        let (gateway, tenant) = (&self, &tenant);
        futures_util::stream::iter(due)
            .for_each_concurrent(AT_ONCE, |id| async move {
                // The store may have fallen behind since these were listed.
                if gateway.must_be_whole().is_err() {
                    return;
                }
                if let Err(error) = gateway.look_into(tenant, id).await {
                    tracing::warn!(action = %id, %error, "an unsettled action could not be resolved");
                    gateway.ask_later(id);
                }
            })
            .await;
    }

    /// One step for one open action, unless somebody is at it; what may be sent again is carried out.
    pub(crate) async fn look_into(self: &Arc<Self>, tenant: &Tenant, id: ActionId) -> Result<(), Error> {
        let Some(under_way) = self.look_after_alone(id) else { return Ok(()) };
        match Box::pin(self.pursue_of(tenant, id, under_way)).await? {
            Pursued::Go(errand) => Box::pin(self.carry_out(errand, Said::nobody())).await,
            Pursued::Over(_) => drop(lock(&self.inquiries).remove(&id)),
            Pursued::Rests(_) => self.ask_later(id),
        }
        Ok(())
    }

    /// Approved actions whose task is gone, or that could not be judged a moment ago.
    async fn resume_all(self: &Arc<Self>) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.ledger.approved(after, PAGE).await.map_err(unavailable)?;
            for stored in page.rows.iter().filter(|stored| self.is_due(stored.id)) {
                self.resume(&stored.tenant, stored.id);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn is_due(&self, id: ActionId) -> bool {
        if lock(&self.under_way).contains(&id) {
            return false;
        }
        lock(&self.inquiries).get(&id).is_none_or(|inquiry| inquiry.next <= Instant::now())
    }

    /// As if nobody had asked after it yet.
    pub(crate) fn ask_soon(&self, id: ActionId) {
        lock(&self.inquiries).remove(&id);
    }

    /// After a pause, or sooner if it was said a moment ago when its time comes.
    pub(crate) fn ask_later(&self, id: ActionId) {
        let (mut inquiries, now) = (lock(&self.inquiries), Instant::now());
        let before = inquiries.get(&id);
        let tries = before.map_or(0, |inquiry| inquiry.tries);
        let said = before.map(|inquiry| inquiry.next).filter(|next| *next > now);
        let next = said.into_iter().chain([now + self.pause_after(tries)]).min().unwrap_or(now);
        inquiries.insert(id, Inquiry { tries: tries.saturating_add(1), next });
    }

    /// Twice as long each time, up to a minute.
    fn pause_after(&self, tries: u32) -> Duration {
        self.interval().saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE)
    }

    /// Not before then.
    pub(crate) fn wake_at(&self, id: ActionId, until_ms: i64) {
        let pause =
            Duration::from_millis(u64::try_from(until_ms.saturating_sub(clock::now_ms())).unwrap_or(0));
        let mut inquiries = lock(&self.inquiries);
        let inquiry = inquiries.entry(id).or_insert(Inquiry { tries: 0, next: Instant::now() });
        inquiry.next = inquiry.next.max(Instant::now() + pause);
    }

    /// When its turn comes, in Unix milliseconds, as far as this process knows.
    pub(crate) fn wakes_ms(&self, id: ActionId) -> Option<i64> {
        lock(&self.inquiries).get(&id).map(|inquiry| clock::ms_of(inquiry.next))
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.config.limits.recovery_interval_ms.max(10))
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

    /// Actions that waited until their time was over. `later`: when those that could not be ended are looked at again.
    async fn expire(self: &Arc<Self>, later: &mut HashMap<ActionId, Instant>) -> Result<(), Error> {
        later.retain(|_, at| *at > Instant::now());
        let (mut after, now_ms) = (None, clock::now_ms());
        loop {
            let page = self.ledger.expired(now_ms, after, PAGE).await.map_err(unavailable)?;
            for stored in &page.rows {
                if later.contains_key(&stored.id) {
                    continue;
                }
                if let Err(error) = self.end_expired(stored).await {
                    tracing::warn!(action = %stored.id, %error, "a held action could not be ended");
                    later.insert(stored.id, Instant::now() + LONGEST_PAUSE);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn end_expired(self: &Arc<Self>, stored: &Stored) -> Result<(), Error> {
        match self.must_not_be_done(stored).await {
            Err(error) if is_done(&error) => {
                tracing::warn!(action = %stored.id, %error, "people are asked once more");
                return self.hold_what_was_done(stored).await;
            }
            other => other?,
        }
        match stored.state {
            State::Held => self.undecided(stored).await,
            // What people agreed to, and nobody went on with, they did decide about.
            _ => self.end_waiting(stored, Code::ApprovalExpired, "approval_expired", None).await,
        }
    }
}

pub(crate) fn reference(receipt: ledger::Receipt) -> ReceiptRef {
    ReceiptRef {
        receipt_id: receipt.id.into(),
        signature: receipt.signature.into(),
        short: receipt.short.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use execution::{Absence, Confirmation};
    use serde_json::json;

    use super::*;
    use crate::act::Followed;
    use crate::late::CallRef;
    use crate::outcome::{Outcome, Reply};
    use crate::pending::Pending;
    use crate::request::Ask;
    use crate::row::RollbackRow;
    use crate::tenants::TenantState;
    use crate::{Config, Installation};

    fn render(outcome: &Outcome, _: &str) -> Reply {
        Reply { status: 200, body: outcome.kind.as_str().into() }
    }

    async fn opened(folder: &std::path::Path) -> Installation {
        let config = Config { data_dir: folder.join("data"), ..Config::default() };
        Installation::open(config, render).await.unwrap()
    }

    /// A payment in the sandbox that has its effect and no answer.
    async fn doubted(gateway: &Arc<Gateway>) -> Stored {
        let constraints =
            json!({ "recipient": "sandbox:lose", "amount_usd": "5.00", "max_total_usd": "9.00" });
        let body = json!({ "archetype": "PAYMENT_TRANSFER", "constraints": constraints });
        let ask = Ask {
            idempotency_key: None,
            request_id: "req-1".to_owned(),
            dry_run: false,
            wait: crate::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        let answer = gateway.execute(&Gateway::anonymous(), ask).await.unwrap();
        assert_eq!(answer.reply.body, b"pending_settlement");
        let page = gateway.ledger.unsettled(None, PAGE).await.unwrap();
        page.rows.into_iter().next().expect("one action in doubt")
    }

    #[tokio::test]
    async fn what_was_settled_since_it_was_listed_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let installation = opened(folder.path()).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let listed = doubted(gateway).await;
        // Two who listed it before either settled it.
        for _ in 0..2 {
            Arc::clone(gateway).ask_for(listed.tenant.clone(), vec![listed.id]).await;
        }
        let now = gateway.ledger.action(&listed.tenant, listed.id).await.unwrap().unwrap();
        assert_eq!(now.state, State::Executed);
        assert!(lock(&gateway.inquiries).is_empty(), "nobody will ask after it again");
        assert!(lock(&gateway.under_way).is_empty());
    }

    /// Another gateway on the store may have what undoes it in flight, or waits to send it again.
    #[tokio::test]
    async fn what_is_not_due_is_left_alone_whoever_looks_into_it() {
        let due_ms = clock::now_ms() + 3_600_000;
        for state in [State::Waiting, State::RollingBack] {
            let folder = tempfile::tempdir().unwrap();
            let installation = opened(folder.path()).await;
            let gateway = installation.sandbox.as_ref().unwrap();
            let Stored { id, tenant, .. } = doubted(gateway).await;
            let its = gateway.tenant(&tenant).unwrap();
            if state == State::RollingBack {
                gateway.look_into(&tenant, id).await.unwrap();
            }
            let mut pending = pending(gateway, its, id).await;
            match state {
                State::Waiting => gateway.defer(its, &pending, due_ms, &Absence::Final).await.unwrap(),
                _ => gateway.rest_until(its, &mut pending, in_flight(), due_ms).await.unwrap(),
            }
            let before = gateway.stored(its, id).await.unwrap();
            gateway.look_into(&tenant, id).await.unwrap();
            let after = gateway.stored(its, id).await.unwrap();
            assert_eq!((after.state, after.due_ms, after.token), (state, Some(due_ms), before.token));
        }
    }

    /// They have asked after it, and undo it, while its answer was on its way.
    #[tokio::test]
    async fn a_late_answer_that_others_know_already_is_answered_with_what_they_said() {
        let folder = tempfile::tempdir().unwrap();
        let installation = opened(folder.path()).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let Stored { id, tenant, .. } = doubted(gateway).await;
        gateway.look_into(&tenant, id).await.unwrap();
        let its = gateway.tenant(&tenant).unwrap();
        let mut pending = pending(gateway, its, id).await;
        let call = pending.call(gateway.environment, &its.rules()).unwrap();
        gateway.rest_until(its, &mut pending, in_flight(), clock::now_ms() + 3_600_000).await.unwrap();
        let confirmed = execution::Reply::Confirmed(Confirmation::default());
        let heard = gateway.overtaken(its, (id, (&call, 1)), confirmed, gateway.under_way(id)).await.unwrap();
        let Some(Followed::Said(answer)) = heard else { panic!("nothing is said") };
        assert_eq!(answer.reply.body, b"executed");
    }

    /// A provider that had called back that it was refused.
    #[tokio::test]
    async fn an_effect_of_the_latest_attempt_counts_beside_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let installation = opened(folder.path()).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let Stored { id, tenant, .. } = doubted(gateway).await;
        let its = gateway.tenant(&tenant).unwrap();
        let first = pending(gateway, its, id).await;
        gateway.defer(its, &first, clock::now_ms(), &Absence::Final).await.unwrap();
        let pursued = gateway.pursue(its, id, gateway.under_way(id), None).await.unwrap();
        let Pursued::Go(errand) = pursued else { panic!("it is not tried again") };
        gateway.defer(its, &errand.pending, clock::now_ms(), &Absence::Final).await.unwrap();
        let about = &*first.row.call.unwrap().reference;
        let confirmed = Confirmation::default;
        let of = CallRef { id, attempt: 1, about };
        gateway.earlier_had_effect(its, of, errand.provider.as_ref(), confirmed(), None).await.unwrap();
        let stored = gateway.stored(its, id).await.unwrap();
        let before = gateway.stored_outcomes(&stored).await.unwrap().len();
        let (call, reply) = (errand.execution.call(), execution::Reply::Confirmed(confirmed()));
        gateway.overtaken(its, (id, (call, 1)), reply, errand.under_way.clone()).await.unwrap();
        assert_eq!(stored.state, State::Executed);
        assert!(gateway.stored_outcomes(&stored).await.unwrap().len() > before, "both have their receipt");
    }

    async fn pending(gateway: &Gateway, tenant: &TenantState, id: ActionId) -> Pending {
        let stored = gateway.stored(tenant, id).await.unwrap();
        Pending::restore(&stored, gateway.told(&stored).await.unwrap()).unwrap()
    }

    /// An undo that was sent once.
    fn in_flight() -> RollbackRow {
        RollbackRow {
            by: "ann".to_owned(),
            asked_ms: clock::now_ms(),
            provider_key: "its-key".to_owned(),
            reference: "its-reference".to_owned(),
            confirmed: None,
            sends: 1,
            first_ms: clock::now_ms(),
            undone: None,
        }
    }

    #[tokio::test]
    async fn only_what_is_unsettled_is_remembered_to_be_asked_after() {
        let folder = tempfile::tempdir().unwrap();
        let installation = opened(folder.path()).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let listed = doubted(gateway).await;
        let settled = ActionId::new(1_760_000_000_000, *b"0123456789");
        gateway.ask_later(listed.id);
        gateway.ask_later(settled);
        gateway.due().await.unwrap();
        assert_eq!(lock(&gateway.inquiries).keys().copied().collect::<Vec<_>>(), [listed.id]);
    }
}
