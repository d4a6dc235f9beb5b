//! When the store forgets: it lacks what was signed of it, because it was put back from a backup, or altered.
//!
//! The last checkpoint of each log lies outside of the store ([`super::marks`]), and witnesses saw it. A store that does not have all
//! of what either of them has has forgotten actions, and whoever admitted into it might do them again: then nothing is admitted, asked
//! after, sent, told or logged until somebody has looked at it ([`Gateway::begin_anew`]). What was signed of the old log stays what it
//! is; the logs begin anew, in another *epoch*, which is part of their names.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use action::{Environment, Tenant};
use ledger::{Log, LogOf, hashes};
use provider::Provider;
use receipt::log::{Checkpoint, Plan, epoch_of};
use serde_json::json;

use super::marks::Mark;
use super::witnesses::AFTER_FAILURE;
use super::{BETWEEN_ROUNDS, Logs};
use crate::admin::event;
use crate::audit::authority::{EVENTS, lost_freezes};
use crate::forgotten::is_by_id;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::{Code, Error, clock};

/// What the store lacks of one tenant's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Whose.
    pub tenant: Tenant,
    /// What the log is called.
    pub origin: String,
    /// How many leaves were signed.
    pub signed: u64,
    /// How many of them are in the store at most; as many, if they are not the same ones.
    pub stored: u64,
}

/// What the store has forgotten, as far as what is left of it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Since when everything, Unix milliseconds: when the newest entry was written that was logged. 0 if there is none.
    pub since_ms: i64,
    /// Whether it was written to by a version that gave providers other names than this one does: by the ids of actions.
    pub by_other_names: bool,
}

/// What may be done twice when its caller asks for it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repeat {
    /// Whose.
    pub tenant: Tenant,
    /// The archetype.
    pub archetype: String,
    /// Why its provider may not take what comes for what it has done.
    pub why: Vec<Why>,
}

/// Why a repeat of what was forgotten may have its effect once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The key that its provider keys are made of is lost: all of them are others now.
    KeyLost,
    /// Its provider recognises no repeat, or not for as long as the backup is old.
    NotRecognised,
    /// Its requests name the action, which is another one now: what is recognised by its key has another body.
    NamesAction,
    /// What had its effect by a later attempt had it under another key than that with which a repeat begins.
    LaterAttempt,
    /// What was lost was written by a version that gave its provider other names: it cannot be asked about it by ours.
    OtherNames,
    /// What was undone is undone once more when somebody asks for that again: nobody is asked, and the repeat is not recognised.
    Undone,
}

/// What became of open actions when their providers were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Those that have their last word now.
    pub settled: usize,
    /// Those of which nothing is known yet; they are asked after again when the gateway runs.
    pub open: usize,
}

impl Gap {
    /// That was signed, and the store has a log of that size.
    pub(super) fn of(tenant: &Tenant, signed: &Checkpoint, size: u64) -> Gap {
        let (origin, stored) = (signed.origin.clone(), size.min(signed.size));
        Gap { tenant: tenant.clone(), origin, signed: signed.size, stored }
    }
}

impl Logs {
    /// What the store lacks of what was signed.
    async fn gaps(&self, log: &dyn Log) -> Result<Vec<Gap>, Error> {
        let mut gaps = Vec::new();
        for of in &self.of {
            let tenant = &of.tenant;
            let here = self.last(tenant)?.checkpoint.origin;
            // Of an earlier epoch there are some where another gateway has begun anew since.
            let epoch = epoch_of(&here).1;
            let marks = self.all_marks(tenant)?.into_iter().map(|mark| mark.checkpoint);
            for signed in marks.filter(|signed| epoch_of(&signed.origin).1 >= epoch).rev() {
                let size = log.log_head(tenant).await.map_err(unavailable)?.size;
                if here != signed.origin || !has(log, tenant, &signed, size).await.map_err(unavailable)? {
                    gaps.push(Gap::of(tenant, &signed, size));
                    break;
                }
            }
        }
        Ok(gaps)
    }

    /// Everything that was signed of a log and is kept, lowest first.
    fn all_marks(&self, tenant: &Tenant) -> Result<Vec<Mark>, Error> {
        self.marks(tenant)?.all(&self.signer).map_err(|why| Error::new(Code::Unavailable, why))
    }

    /// Nothing is lacking: what others are above says no more than they do.
    fn tidy_up(&self) -> Result<(), Error> {
        for of in &self.of {
            let all = self.all_marks(&of.tenant)?;
            for (mark, above) in all.iter().zip(all.iter().skip(1)) {
                self.marks(&of.tenant)?.surpassed(mark, above);
            }
        }
        Ok(())
    }
}

impl Why {
    /// All of them.
    pub const ALL: [Why; 6] =
        [Why::KeyLost, Why::NotRecognised, Why::NamesAction, Why::LaterAttempt, Why::OtherNames, Why::Undone];

    /// Why what had its effect at this provider so long ago may have it once more.
    fn of(provider: &dyn Provider, gone: Duration, by_other_names: bool) -> Vec<Why> {
        let others = by_other_names.then_some(Why::OtherNames);
        let known = provider.capabilities().idempotent.as_ref();
        let is_recognised = known.is_some_and(|known| known.retention > gone);
        // It is asked before anything is sent to it, but for what undoes.
        if provider.recalls() {
            let undone = (!is_recognised && provider.rollback().is_some()).then_some(Why::Undone);
            return others.into_iter().chain(undone).collect();
        }
        if !is_recognised {
            return vec![Why::NotRecognised];
        }
        let names = provider.names_action().then_some(Why::NamesAction);
        names.into_iter().chain([Why::LaterAttempt]).chain(others).collect()
    }
}

/// Does the stored log begin with all that this checkpoint is of?
async fn has(log: &dyn Log, tenant: &Tenant, signed: &Checkpoint, size: u64) -> Result<bool, ledger::Error> {
    if signed.size == 0 || size < signed.size {
        return Ok(signed.size == 0);
    }
    match hashes(log, tenant, &Plan::root(signed.size)).await {
        Ok(root) => Ok(root == [signed.root]),
        Err(ledger::Error::Corrupt(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Gateway {
    /// What the store lacks of what was signed of it; nothing if it is whole.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.behind.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does it lack any of that?
    pub(crate) fn is_behind(&self) -> bool {
        self.is_unheard() || !self.gaps().is_empty()
    }

    /// Whether nothing here says how much of a log was signed, and none of the witnesses did that are configured to say it.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        !self.unheard.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Refuses what changes anything while the store is behind.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if it is.
    pub fn must_be_whole(&self) -> Result<(), Error> {
        if !self.is_behind() && self.lent.is_empty() {
            return Ok(());
        }
        if self.is_unheard() && self.gaps().is_empty() && self.lent.is_empty() {
            return Err(Error::new(Code::Unavailable, UNHEARD).hint(
                "the witnesses are asked again every few seconds; where none will answer the operator has to put back `marks/` and \
                 start the gateway again, or to run `countersign recover`",
            ));
        }
        let why = "the store lacks what was signed of it; nothing is taken on before it was recovered (`countersign recover`)";
        Err(Error::new(Code::Unavailable, why).hint("the operator has to run `countersign recover`"))
    }

    /// Finds out whether the store has all that was signed of it, as far as marks and witnesses know.
    pub(crate) async fn look_behind(&self) -> Result<(), Error> {
        let heard = self.compare().await?;
        if !self.gaps().is_empty() {
            return Ok(());
        }
        for LogOf { tenant, .. } in &self.logs.of {
            if !self.is_unmarked(tenant).await? {
                continue;
            }
            if !self.witnesses.is_empty() && !heard.contains(tenant) {
                tracing::error!(%tenant, "{UNHEARD}");
                self.unheard.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone());
            } else {
                tracing::warn!(
                    %tenant,
                    "nothing here says how much of the log was signed, so it is believed as the store has it: if the store was put \
                     back, put back the newest `marks/` there are of any gateway on it, and start again"
                );
            }
        }
        self.logs.tidy_up()
    }

    /// Compares the store with all that was signed of it, as far as marks and witnesses know. Answers with those whose logs a witness
    /// was heard of.
    async fn compare(&self) -> Result<HashSet<Tenant>, Error> {
        let gaps = self.logs.gaps(self.log()).await?;
        gaps.into_iter().for_each(|gap| self.fell_behind(gap));
        Ok(self.ask_witnesses().await)
    }

    /// Has a log leaves, and nothing here says how many of them were signed?
    pub(super) async fn is_unmarked(&self, tenant: &Tenant) -> Result<bool, Error> {
        let signed = self.logs.last(tenant)?.checkpoint.size;
        Ok(signed == 0 && self.log().log_head(tenant).await.map_err(unavailable)?.size > 0)
    }

    /// Asks the witnesses again where none was heard, until one was, or one has shown what the store lacks.
    pub(crate) async fn keep_hearing(&self) {
        let (mut told, mut pause) = (String::new(), BETWEEN_ROUNDS);
        while self.is_unheard() && self.gaps().is_empty() {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(AFTER_FAILURE);
            if let Err(error) = self.hear_again().await {
                // Every five seconds would be too often for what does not change.
                let why = error.to_string();
                if why != told {
                    tracing::warn!(%error, "the store could not be compared with what was signed of it");
                }
                told = why;
            }
        }
    }

    /// One more look, which ends as one at start does: what is whole is taken on with.
    async fn hear_again(&self) -> Result<(), Error> {
        let heard = self.compare().await?;
        let is_heard = self.unheard.read().unwrap_or_else(PoisonError::into_inner).is_subset(&heard);
        if !is_heard || !self.gaps().is_empty() {
            return Ok(());
        }
        for LogOf { tenant, .. } in &self.logs.of {
            self.must_be_called_so(tenant).await?;
        }
        self.logs.tidy_up()?;
        let stored = self.ledger.authority(EVENTS).await.map_err(unavailable)?;
        self.put_back(lost_freezes(&stored)).await?;
        self.unheard.write().unwrap_or_else(PoisonError::into_inner).clear();
        tracing::info!(environment = %self.environment, "a witness was heard, and the store has all that it saw: it is used now");
        Ok(())
    }

    /// Is a tenant's log called as it was when this gateway began? Another one may have recovered the store since, and whoever began
    /// before knows nothing of that where nothing here says how much was signed.
    pub(super) async fn must_be_called_so(&self, tenant: &Tenant) -> Result<(), Error> {
        let here = self.logs.key(tenant).ok_or_else(|| internal("a tenant has no log"))?;
        let stored = self.log().log_name(tenant, &here).await.map_err(unavailable)?;
        if *stored == *here {
            return Ok(());
        }
        let why = "the store was recovered since this gateway began: nothing more is signed or taken on before it is started again";
        Err(Error::new(Code::Unavailable, why).hint("the operator has to start this gateway again"))
    }

    /// Compares the store with a checkpoint that was signed.
    pub(super) async fn must_have(&self, tenant: &Tenant, signed: &Checkpoint) -> Result<(), Error> {
        let size = self.log().log_head(tenant).await.map_err(unavailable)?.size;
        if !has(self.log(), tenant, signed, size).await.map_err(unavailable)? {
            self.fell_behind(Gap::of(tenant, signed, size));
        }
        Ok(())
    }

    /// Compares the store with all that was signed last.
    pub(super) async fn must_have_signed(&self) -> Result<(), Error> {
        for of in &self.logs.of {
            self.must_have(&of.tenant, &self.logs.last(&of.tenant)?.checkpoint).await?;
        }
        Ok(())
    }

    pub(super) fn fell_behind(&self, gap: Gap) {
        let mut behind = self.behind.write().unwrap_or_else(PoisonError::into_inner);
        if !behind.contains(&gap) {
            tracing::error!(
                tenant = %gap.tenant, log = gap.origin, signed = gap.signed, stored = gap.stored,
                "the store lacks what was signed of it: run `countersign recover`"
            );
            behind.push(gap);
        }
    }

    /// Waits for as long as the store is behind. A gateway that finds it so is started again after it was recovered; one that only heard
    /// nobody may yet ([`Gateway::keep_hearing`]).
    pub(crate) async fn until_whole(&self) {
        while self.is_behind() {
            tokio::time::sleep(self.interval()).await;
        }
    }

    /// What may be done twice of what was forgotten, when its callers ask again.
    #[must_use]
    pub fn may_be_twice(&self, forgotten: Forgotten) -> Vec<Repeat> {
        if self.environment == Environment::Sandbox {
            return Vec::new();
        }
        let gone_ms = clock::now_ms().saturating_sub(forgotten.since_ms);
        let gone = Duration::from_millis(u64::try_from(gone_ms).unwrap_or(0));
        let mut found = Vec::new();
        for (tenant, state) in &self.tenants {
            let key_is_lost = self.lent.iter().any(|(of, _)| of == tenant);
            for (archetype, provider) in &state.rules().providers {
                let why = match key_is_lost {
                    true => vec![Why::KeyLost],
                    false => Why::of(provider.as_ref(), gone, forgotten.by_other_names),
                };
                // What its caller carries out itself it knows of.
                let is_harmless = provider.capabilities().repeat_safe || provider.runner().is_some();
                if !is_harmless && !why.is_empty() {
                    found.push(Repeat { tenant: tenant.clone(), archetype: archetype.clone(), why });
                }
            }
        }
        found.sort();
        found
    }

    /// What is forgotten, as far as what is left tells.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if the store cannot be read.
    pub async fn forgotten(&self) -> Result<Forgotten, Error> {
        let (since_ms, by_other_names) = (self.forgotten_since().await?, self.has_other_names().await?);
        Ok(Forgotten { since_ms, by_other_names })
    }

    /// Was the newest action that was sent, and so what is lost behind it, named to its provider otherwise than now?
    async fn has_other_names(&self) -> Result<bool, Error> {
        let mut newest = None;
        for tenant in self.tenants.keys() {
            newest = newest.max(self.newest_name(tenant).await?);
        }
        Ok(newest.is_some_and(|(_, name)| is_by_id(&name)))
    }

    /// By what its provider knows the newest action of a tenant that was sent, with its row.
    async fn newest_name(&self, tenant: &Tenant) -> Result<Option<(i64, String)>, Error> {
        let mut after = None;
        loop {
            let page = self.ledger.actions(tenant, ledger::Filter::default(), after, PAGE).await;
            let page = page.map_err(unavailable)?;
            let sent = page.rows.iter().find_map(|stored| {
                let call = IntentRow::from_bytes(&stored.payload).ok()?.call?;
                Some((stored.row, call.reference))
            });
            match page.next {
                _ if sent.is_some() => return Ok(sent),
                Some(next) => after = Some(next),
                None => return Ok(None),
            }
        }
    }

    /// Since when: nothing is logged while the store is behind, whatever else is written to it.
    async fn forgotten_since(&self) -> Result<i64, Error> {
        let logged = self.log().fresh(1).await.map_err(unavailable)?.after;
        let mut newest = 0;
        let mut after = None;
        loop {
            let page = self.ledger.entries(after, PAGE).await.map_err(unavailable)?;
            for (_, bytes) in page.rows.iter().filter(|(row, _)| *row <= logged) {
                let heading = ledger::Heading::of(bytes).filter(|heading| heading.event != ledger::OPENED);
                newest = newest.max(heading.and_then(|it| clock::parse_ms(it.at).ok()).unwrap_or(0));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(newest),
            }
        }
    }

    /// Asks providers, by our reference, what became of all that was sent and has no last word in the store, until all is told
    /// or that much time is over.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if the store cannot be read.
    pub async fn reconcile(self: &Arc<Self>, patience: Duration) -> Result<Reconciled, Error> {
        let until = Instant::now() + patience;
        let began = self.left_open().await?;
        let mut open = began.clone();
        while !open.is_empty() && Instant::now() < until {
            for (tenant, id) in &open {
                self.ask_soon(*id);
                if let Err(error) = self.look_into(tenant, *id).await {
                    tracing::warn!(action = %id, %error, "an unsettled action could not be resolved");
                }
            }
            tokio::time::sleep(LOOK).await;
            open = self.left_open().await?;
        }
        let settled = began.iter().filter(|one| !open.contains(one)).count();
        Ok(Reconciled { settled, open: open.len() })
    }

    async fn left_open(&self) -> Result<Vec<(Tenant, action::ActionId)>, Error> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.ledger.left_open(after, PAGE).await.map_err(unavailable)?;
            all.extend(page.rows.into_iter().map(|stored| (stored.tenant, stored.id)));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Puts on record what is lacking, and begins all logs anew, in another epoch. Every gateway on the store has to be started
    /// again afterwards.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if that cannot be written.
    pub async fn begin_anew(&self) -> Result<(), Error> {
        for (tenant, wrapped) in &self.lent {
            let kept = self.ledger.tenant_key(tenant, Some(wrapped.clone())).await.map_err(unavailable)?;
            if kept.as_ref() != Some(wrapped) {
                return Err(internal("somebody else gave a tenant a key meanwhile"));
            }
        }
        let gaps = self.gaps();
        let mut names = Vec::new();
        for of in &self.logs.of {
            let tenant = self.tenant(&of.tenant)?;
            let here = self.logs.last(&of.tenant)?.checkpoint.origin;
            let (base, now) = epoch_of(&here);
            let marks = self.logs.all_marks(&of.tenant)?;
            let known = marks.iter().map(|mark| epoch_of(&mark.checkpoint.origin).1).max().unwrap_or(0);
            // Other gateways may have begun one of which nothing is known here, but none in this very second.
            let seconds = u64::try_from(clock::now_ms() / 1000).unwrap_or(0);
            let origin = format!("{base}/epoch-{}", (known.max(now) + 1).max(seconds));
            let gap = gaps.iter().find(|gap| gap.tenant == of.tenant);
            let lacking =
                gap.map(|gap| json!({ "log": gap.origin, "signed": gap.signed, "stored": gap.stored }));
            let record = json!({ "lacking": lacking, "log": &origin });
            self.ledger.record(event(tenant, RECOVERED, &record)).await.map_err(unavailable)?;
            let key = self
                .logs
                .signer
                .log(&origin)
                .map_err(|_| internal("a log has a name that no key may have"))?;
            names.push((of.tenant.clone(), key.to_string().into()));
        }
        self.ledger.logs().begin_anew(names).await.map_err(unavailable)
    }
}

const UNHEARD: &str = "nothing here says how much of the log was signed (`marks/` is empty), and no witness has said that it saw no more of \
     it than the store has: that may have been put back, so nothing is taken on";

/// The event with which the ledger says that the store was recovered.
const RECOVERED: &str = "store_recovered";
/// Entries or actions read in one go.
const PAGE: u32 = 1024;
/// Between two looks at what is open.
const LOOK: Duration = Duration::from_millis(200);
