//! What a store that was put back has forgotten: asked after before anything is sent again, or said to have failed.
//!
//! An action that was admitted after a recovery may be a repeat of one that the store has forgotten. Its provider key and our
//! reference are made of what its caller asks again, so its provider knows both. One that can be asked is asked, before anything is
//! sent: for this attempt, and for those that may have followed on it. An action that is on record from before may have been gone on
//! with in the stretch that is lost: its provider is asked for what may have followed before it is sent again, and before it is said
//! to have failed or to be free. What has been done is put on record, and looked after like any effect.
//!
//! A provider that cannot be asked, and is told of another action each time, refuses what it has done: that does not mean that there
//! was no effect, and another attempt, under another key, would have the effect once more. When the store was recovered, the names of
//! its logs tell.

use std::cmp::Ordering;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use action::{ActionId, IdempotencyKey, Tenant};
use execution::{
    Absence, Call, Confirmation, Course, Doubt, Effect, Event, Execution, Found, Illegal, Named, Now,
    Purpose, Reply, State, Stood, Stop, Whose, Word,
};
use futures_util::future::join_all;
use ledger::Stored;
use provider::Provider;

use crate::alert::Alert;
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::prove::absence_word;
use crate::rollback::{conflict, is_unbound, millis};
use crate::row::{CallRow, IntentRow, internal};
use crate::tenants::{Rules, TenantState};
use crate::{Code, Error, clock};

/// For so long after a recovery providers are asked before anything is sent.
const ASKED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

const SECOND_MS: i64 = 1000;

/// So many attempts beyond those that are made of themselves a provider is asked about.
pub(crate) const BY_HAND: u32 = 3;

impl Gateway {
    /// Up to when the store may have forgotten what was done, Unix milliseconds: when it was recovered, and when this process began
    /// as long as it is behind.
    pub(crate) fn forgot_until_ms(&self, tenant: &Tenant) -> Option<i64> {
        let recovered_ms = self.logs.recovered_ms(tenant).and_then(|ms| i64::try_from(ms).ok());
        recovered_ms.max(self.is_behind().then_some(self.began_ms))
    }

    /// The end of that second: when a store was recovered is known to the second only.
    pub(crate) fn forgot_by_ms(&self, tenant: &Tenant) -> Option<i64> {
        self.forgot_until_ms(tenant).map(|ms| ms.saturating_add(SECOND_MS - 1))
    }

    /// Up to when it may have forgotten what this provider can be asked about of this call: of an action that is older than that for
    /// ever, of others for a while.
    pub(crate) fn forgot_at_ms(&self, call: &Call, provider: &dyn Provider) -> Option<i64> {
        let until_ms = self.forgot_until_ms(&call.tenant)?;
        let is_older = i64::try_from(call.action_id.unix_ms()).is_ok_and(|at_ms| at_ms < until_ms);
        let is_asked = is_older || clock::now_ms() < until_ms.saturating_add(millis(ASKED_FOR));
        (is_asked && provider.recalls()).then_some(until_ms)
    }

    /// The same of what may have followed on a call that is on record: on one that left later nothing did that is not.
    pub(crate) fn forgot_after_ms(&self, tenant: &Tenant, sent: &CallRow) -> Option<i64> {
        let until_ms = self.forgot_until_ms(tenant)?;
        (sent.first_ms.unwrap_or(0) <= self.forgot_by_ms(tenant)?).then_some(until_ms)
    }

    /// May this call be a repeat of one that was forgotten, which its provider knows by its key and nobody can ask it about?
    pub(crate) fn may_be_forgotten(&self, call: &Call) -> Option<Arc<dyn Provider>> {
        if !matches!(call.purpose, Purpose::Act | Purpose::Reserve) {
            return None;
        }
        let recovered_ms = self.logs.recovered_ms(&call.tenant)?;
        let after = Duration::from_millis(call.action_id.unix_ms().checked_sub(recovered_ms)?);
        let tenant = self.tenant(&call.tenant).ok()?;
        let rules = tenant.rules();
        let provider = rules.providers.get(&*call.archetype.name)?;
        let capabilities = provider.capabilities();
        let known = capabilities.idempotent.as_ref().is_some_and(|known| after < known.retention);
        (known && !provider.recalls()).then(|| Arc::clone(provider))
    }

    /// What was replied to a call, for what it is worth.
    pub(crate) fn reply_of(&self, call: &Call, reply: Reply) -> Reply {
        match reply {
            Reply::Refused(refusal) if refusal.word != Word::Ours && self.names_action(call) => {
                Reply::Lost { how: Doubt::Forgotten, why: WHY.to_owned() }
            }
            reply => reply,
        }
    }

    /// May its repeat be another request than the one before?
    fn names_action(&self, call: &Call) -> bool {
        self.may_be_forgotten(call).is_some_and(|provider| provider.names_action())
    }

    /// The same of what happened to an execution.
    pub(crate) fn worth(&self, execution: &Execution, event: Event) -> Event {
        match (execution.state(), event) {
            (State::Sent(_) | State::InDoubt, Event::Replied(reply)) => {
                Event::Replied(self.reply_of(execution.call(), reply))
            }
            (_, event) => event,
        }
    }

    /// One transition. INVARIANT (forgotten): what may be a repeat of what was forgotten is not taken for absent because its
    /// provider refuses it ([`Gateway::worth`]), nor tried again under another key.
    pub(crate) fn transition(
        &self,
        execution: Execution,
        event: Event,
        now: Now,
    ) -> Result<(Execution, Vec<Effect>), Illegal> {
        let call = Arc::clone(execution.call());
        let (execution, effects) = execution.step(event, now)?;
        let State::Waiting { after, .. } = execution.state() else { return Ok((execution, effects)) };
        if self.may_be_forgotten(&call).is_none() {
            return Ok((execution, effects));
        }
        let reasons = vec![absence_word(after).to_owned()];
        execution.step(Event::Stopped(Stop { code: Code::ProviderFailed.as_str(), reasons }), now)
    }

    /// INVARIANT (followed): what was sent before a recovery is not said to have failed, nor sent again, before its provider was
    /// asked about the attempts that may have followed on it and are forgotten. If one of them had the effect, that is on record
    /// from now on, to be looked after and told: when it is due, Unix milliseconds. `absence`: how it is known that the latest on
    /// record had none.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` as long as the provider does not say, `EP_PROVIDER_CANNOT` if it is bound otherwise.
    pub(crate) async fn done_by_forgotten(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        absence: &Absence,
    ) -> Result<Option<i64>, Error> {
        let Some(sent) = pending.row.attempted() else { return Ok(None) };
        let Some(until_ms) = self.forgot_after_ms(&tenant.tenant, sent) else { return Ok(None) };
        // A person's word, where somebody can be asked, comes after what that says.
        if pending.word.is_some() {
            return Ok(None);
        }
        // What is in hand may lack the most of it.
        let stored = self.stored(tenant, pending.id).await?;
        let mut now = Pending { by: pending.by, ..Pending::restore(&stored, None)? };
        let rules = tenant.rules();
        let (provider, _) = self.bound(&now, &rules, Stood::InDoubt)?;
        if !provider.recalls() {
            return Ok(None);
        }
        let later = self.attempts_after(tenant, &rules, &stored, &now)?;
        let left = (absence, until_ms);
        if now.row.attempts_for() == Purpose::Reserve {
            return self.reserved_by_forgotten(tenant, now, provider.as_ref(), later, left).await;
        }
        let mut known = known_of(provider.as_ref(), later, until_ms).await?;
        let Some((call, it)) = known.pop() else { return Ok(None) };
        if !known.is_empty() {
            // The latest is put on record; that there were others people are told.
            let told = pending.told.as_ref().map(|told| told.receipt.receipt_id.as_str());
            self.alert(Alert::DuplicateEffect, &now, told.unwrap_or_default());
        }
        now.row.followed_by(&call, provider.as_ref(), left);
        let due_ms = clock::now_ms();
        self.check_from(tenant, &now, now.row.clone(), (&it, 0), due_ms).await?;
        Ok(Some(due_ms))
    }

    /// Keeps (followed) where nothing was sent, as what waits for people is on record: it does not end unsent before its provider was
    /// asked whether it was agreed to, and done, in the stretch that is lost.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if it was, `EP_UNAVAILABLE` as long as the provider does not say.
    pub(crate) async fn must_not_be_done(&self, stored: &Stored) -> Result<(), Error> {
        let Some(until_ms) = self.forgot_until_ms(&stored.tenant) else { return Ok(()) };
        if self.forgot_by_ms(&stored.tenant).is_some_and(|by_ms| stored.at_ms > by_ms) {
            return Ok(());
        }
        let tenant = self.tenant(&stored.tenant)?;
        let rules = tenant.rules();
        let provider = rules.providers.get(&*stored.archetype).filter(|provider| provider.recalls());
        let Some(provider) = provider else { return Ok(()) };
        let all = self.attempts_after(tenant, &rules, stored, &Pending::restore(stored, None)?)?;
        if all.first().is_some_and(|call| call.purpose == Purpose::Reserve) {
            self.must_not_be_charged(&tenant.hmac, provider.as_ref(), &all, until_ms).await?;
        }
        match known_of(provider.as_ref(), all, until_ms).await? {
            known if known.is_empty() => Ok(()),
            _ => Err(conflict(DONE).hint("agree to it once more, so that it is on record: nothing is sent")),
        }
    }

    /// The same of what was agreed to and is judged once more.
    ///
    /// # Errors
    /// As [`Gateway::must_not_be_done`].
    pub(crate) async fn must_not_be_done_of(&self, tenant: &TenantState, id: ActionId) -> Result<(), Error> {
        match self.forgot_until_ms(&tenant.tenant) {
            Some(_) => self.must_not_be_done(&self.stored(tenant, id).await?).await,
            None => Ok(()),
        }
    }

    /// The attempts that may have followed on the latest one on record, or may have been made, by every name that they may have.
    fn attempts_after(
        &self,
        tenant: &TenantState,
        rules: &Rules,
        stored: &Stored,
        now: &Pending,
    ) -> Result<Vec<Call>, Error> {
        let Some(key) = stored.key.as_deref() else { return Ok(Vec::new()) };
        let (row, any) = (&now.row, now.before_any_attempt(self.environment, rules)?);
        let (last, on_record) = row.attempted().map_or((0, None), |it| (it.attempt, Some(&*it.reference)));
        let key = IdempotencyKey::parse(key).map_err(|_| internal("a stored key is not one"))?;
        let alias = tenant.alias(self.environment, &stored.subject, &key);
        let most = row.retry.map_or(0, |policy| policy.max_retries).saturating_add(BY_HAND);
        let later = (1..=most).map(|more| last.saturating_add(more)).flat_map(|attempt| {
            let (hmac, archetype) = (&tenant.hmac, &stored.archetype);
            let (of, subject) = (self.environment, &stored.subject);
            let call = Call {
                attempt,
                provider_key: execution::provider_key(hmac, of, subject, &key, archetype, attempt),
                reference: execution::reference(alias, &stored.request_hash, attempt),
                ..any.clone()
            };
            by_all_names(call, on_record)
        });
        Ok(later.collect())
    }

    /// Up to when what may have followed on its latest attempt is forgotten, Unix milliseconds.
    pub(crate) fn forgot_after(&self, tenant: &TenantState, pending: &Pending) -> Option<i64> {
        self.forgot_after_ms(&tenant.tenant, pending.row.call.as_ref()?)
    }

    /// What may have been gone on with in a stretch that is lost is not sent again under another key where nobody can be asked.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` if that is so, and twice does harm.
    pub(crate) fn must_be_askable(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        provider: &dyn Provider,
    ) -> Result<(), Error> {
        let harmless = provider.capabilities().repeat_safe || provider.runner().is_some();
        // What it says, and what harms it, is nothing to whoever had it before.
        let is_same = pending.row.call.as_ref().is_some_and(|sent| sent.was_for(provider));
        if self.forgot_after(tenant, pending).is_none() || (is_same && (harmless || provider.recalls())) {
            return Ok(());
        }
        Err(conflict(UNASKED).hint("let a person say what became of it"))
    }

    /// Keeps (followed) before what is in doubt, or waits for its next attempt, is sent once more: whether an attempt that was
    /// forgotten has followed on it and had the effect, which is on record then.
    ///
    /// # Errors
    /// As [`Gateway::done_by_forgotten`], and `EP_STATE_CONFLICT` if nobody can be asked.
    pub(crate) async fn followed_on(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        provider: &dyn Provider,
    ) -> Result<bool, Error> {
        if self.forgot_after(tenant, pending).is_none() {
            return Ok(false);
        }
        self.must_be_askable(tenant, pending, provider)?;
        if !provider.recalls() {
            return Ok(false);
        }
        let captures = pending.row.reservation.as_ref().is_some_and(|it| it.charging().is_some());
        if captures {
            return self.recall_capture(tenant, pending).await?.has_charged();
        }
        Ok(self.done_by_forgotten(tenant, pending, &Absence::Final).await?.is_some())
    }
}

impl IntentRow {
    /// The latest attempt, whatever charges or sets free what it has set aside.
    fn attempted(&self) -> Option<&CallRow> {
        self.reservation.as_ref().map(|it| &it.call).or(self.call.as_ref())
    }

    /// Another attempt has followed on the latest, which had no effect: in the second of `until_ms` at the latest.
    pub(crate) fn followed_by(
        &mut self,
        call: &Call,
        provider: &dyn Provider,
        (absence, until_ms): (&Absence, i64),
    ) {
        let course = Course { sends: 1, retries: 0, first_ms: until_ms.saturating_add(SECOND_MS - 1) };
        let latest = self.call.replace(CallRow::new(call, provider, Some(course)));
        if let Some(latest) = latest
            && !self.attempts.iter().any(|it| it.attempt == latest.attempt)
        {
            self.attempts.push(latest.over(clock::now_ms(), absence_word(absence), None));
        }
    }
}

/// The call by its name, and by the one that it has if names were given otherwise when the action was put on record.
pub(crate) fn by_all_names(call: Call, on_record: Option<&str>) -> impl Iterator<Item = Call> + use<> {
    let by_id = on_record.filter(|name| is_by_id(name)).and_then(|name| name.rsplit_once('-'));
    let earlier =
        by_id.map(|(action, _)| Call { reference: format!("{action}-{}", call.attempt), ..call.clone() });
    iter::once(call).chain(earlier)
}

/// Is this the name of an attempt, as earlier versions gave them: by the action's id?
pub(crate) fn is_by_id(name: &str) -> bool {
    Named::parse(name).is_some_and(|named| matches!(named.action, Whose::Id(_)))
}

/// Which of these calls its provider has had, one of each attempt, and what it says of them. None of them left after `until_ms`.
///
/// # Errors
/// `EP_UNAVAILABLE` if the provider says of none that it has had it, and not of each that it has not.
pub(crate) async fn known_of(
    provider: &dyn Provider,
    calls: Vec<Call>,
    until_ms: i64,
) -> Result<Vec<(Call, Confirmation)>, Error> {
    let asked: Vec<Call> = calls.iter().map(|call| Call { send_by_ms: until_ms, ..call.clone() }).collect();
    let now_ms = clock::now_ms();
    let found = join_all(asked.iter().map(|call| provider.query(call, now_ms))).await;
    let mut known: Vec<(Call, Confirmation)> = Vec::new();
    let mut is_untold = false;
    for (call, found) in calls.into_iter().zip(found) {
        let (action, reference) = (call.action_id, call.reference.clone());
        match found {
            Found::Confirmed(confirmation) => {
                tracing::warn!(%action, reference, "it was done before the store forgot it, and is not done again");
                // A provider that goes by its key knows an attempt by all of its names.
                let is_told = |it: &(Call, Confirmation)| it.0.provider_key == call.provider_key;
                if !known.iter().any(is_told) {
                    known.push((call, confirmation));
                }
            }
            Found::Absent { final_: true } => {}
            Found::Absent { final_: false } | Found::Unknown => {
                tracing::warn!(%action, reference, "a provider does not say whether it has had a call");
                is_untold = true;
            }
        }
    }
    // What it has done is done, whatever it does not say of others.
    if known.is_empty() && is_untold { Err(unsaid()) } else { Ok(known) }
}

/// What a provider has done for a new action under the name of an earlier one has to be what that asks for. Our reference is made
/// of the request, and the provider key is not: who is asked by that alone may mean another request under the same key.
///
/// # Errors
/// `EP_IDEMPOTENCY_MISMATCH` if that cannot be told, or if it has charged more, or in another currency.
pub(crate) fn must_be_asked(
    provider: &dyn Provider,
    call: &Call,
    confirmation: &Confirmation,
) -> Result<(), Error> {
    let both = confirmation.charged.zip(call.money);
    let is_more = both.is_some_and(|(charged, asked)| {
        !matches!(charged.compare(asked), Some(Ordering::Less | Ordering::Equal))
    });
    let (action, reference) = (call.action_id, &call.reference);
    if is_more {
        tracing::warn!(%action, reference, "its provider has charged more under this name than is asked");
        return Err(Error::new(Code::IdempotencyMismatch, OTHERWISE).hint("ask under a key of its own"));
    }
    if provider.recalls_requests() {
        return Ok(());
    }
    tracing::warn!(%action, reference, "its provider has done something under this key, and cannot be asked whether it was this");
    Err(Error::new(Code::IdempotencyMismatch, UNTOLD)
        .hint("look into the provider's own books, and ask under a key of its own if it is not there"))
}

const OTHERWISE: &str = "the store was put back, and the provider did something else under this key";

const UNTOLD: &str = "the store was put back, and something was done under this key, maybe not this";

/// What is said as long as a provider does not say.
pub(crate) fn unsaid() -> Error {
    Error::new(Code::Unavailable, UNSAID).hint("ask again a little later, under the same key")
}

/// Is this what is said of what was agreed to and carried out?
pub(crate) fn is_done(error: &Error) -> bool {
    error.code == Code::StateConflict && error.message == DONE
}

const DONE: &str = "it was agreed to and carried out before the store was put back";

/// Is this what is said as long as a provider does not say?
pub(crate) fn is_unsaid(error: &Error) -> bool {
    error.code == Code::Unavailable && error.message == UNSAID
}

/// Is it for a person, because nobody else says what followed?
pub(crate) fn is_for_person(error: &Error) -> bool {
    is_unsaid(error) || is_unbound(error) || error.message == UNASKED
}

const UNASKED: &str =
    "it was sent before the store was put back, and nobody can be asked what followed on it";

const UNSAID: &str = "the store was put back, and the provider does not say whether this was done";

const WHY: &str = "it was refused, which is also what becomes of a repeat of what the store has forgotten";

#[cfg(test)]
mod tests {
    use super::{OTHERWISE, UNSAID, UNTOLD};

    /// What is longer, or quotes anything, is not shown to whoever asks (`server`, `fault.rs`).
    #[test]
    fn what_callers_are_told_is_short_and_plain_enough_to_be_shown() {
        for text in [OTHERWISE, UNSAID, UNTOLD] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b',');
            assert!(text.len() <= 80 && text.bytes().all(plain), "{text}");
        }
    }
}
