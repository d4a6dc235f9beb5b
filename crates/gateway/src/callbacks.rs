//! Callbacks: what a provider says of its own accord, signed with a secret that its binding shares with it.
//!
//! Where the provider can be asked, its word is only a reason to ask at once. Where it cannot, it counts as the reply to the
//! call that it names. Either way it is taken as often as it comes and counts once, because what it says is held against
//! where the action stands: nothing is remembered of the letters themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use action::ActionId;
use execution::{Named, Reply, Stood};
use ledger::{Settled, State, Stored};
use provider::{Provider, Signed, Told};
use receipt::Stage;
use serde_json::Value;

use crate::alert::Alert;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::late::{CallRef, Place};
use crate::row::{IntentRow, internal};
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::{Code, Error, clock};

/// What a provider said, and of whose call.
struct Callback {
    tenant: Arc<TenantState>,
    provider: Arc<dyn Provider>,
    id: ActionId,
    attempt: u32,
    /// Our name for the call that it is about.
    about: String,
    reply: Reply,
}

/// A binding that has the name and the secret of whoever wrote.
struct Sender {
    tenant: Arc<TenantState>,
    archetype: String,
    provider: Arc<dyn Provider>,
}

/// So long a provider is kept waiting while it is asked in its turn. It is asked on afterwards.
const PATIENCE: Duration = Duration::from_secs(5);
/// So often it is tried where somebody else goes on with the action at the same moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

impl Gateway {
    /// Hears what a provider says of itself. Returns when what it says is on record, when it is certain that it will be asked
    /// after, or when it says nothing of any action that it may speak of.
    ///
    /// # Errors
    /// `EP_UNAUTHENTICATED` unless it is signed by somebody who shares a secret with a binding of this name;
    /// `EP_VALIDATION_FAILED` if it says of a call what became of it, and not as the binding describes, and nobody can be
    /// asked; `EP_STATE_CONFLICT` and `EP_UNAVAILABLE` if it has to be said again.
    pub async fn called_back(self: &Arc<Self>, binding: &str, letter: &Signed<'_>) -> Result<(), Error> {
        let heard = self.heard_from(binding, letter).await;
        if let Err(error) = &heard {
            self.metrics.error(error.code);
        }
        heard
    }

    async fn heard_from(self: &Arc<Self>, binding: &str, letter: &Signed<'_>) -> Result<(), Error> {
        let senders = self.senders(binding, letter, clock::now_ms());
        if senders.is_empty() {
            return Err(Error::new(Code::Unauthenticated, "the callback is not signed as it must be")
                .field("webhook-signature"));
        }
        let Some(callback) = self.read_letter(senders, letter).await? else {
            tracing::debug!(binding, letter = letter.id, "a callback is about nothing that waits for one");
            return Ok(());
        };
        tracing::info!(action = %callback.id, binding, letter = letter.id, "a provider called back");
        self.at(Point::CallbackBefore)?;
        let gateway = Arc::clone(self);
        // In a task of its own: who hangs up has said it all the same.
        let task = tokio::spawn(async move { gateway.hear(callback).await });
        task.await.unwrap_or_else(|_| Err(internal("a callback ended without a word")))?;
        self.at(Point::CallbackAfter)
    }

    /// The bindings whose secret signed the letter. Each secret is tried once, however many bindings name it.
    fn senders(&self, binding: &str, letter: &Signed<'_>, now_ms: i64) -> Vec<Sender> {
        let mut known = HashMap::<String, bool>::new();
        let mut senders = Vec::new();
        for tenant in self.tenants.values() {
            for (archetype, provider) in &tenant.rules().providers {
                let Some(callback) = provider.callback().filter(|_| provider.name() == binding) else {
                    continue;
                };
                let secret = callback.secret().to_owned();
                if *known.entry(secret).or_insert_with(|| callback.is_from(letter, now_ms)) {
                    let (tenant, provider) = (Arc::clone(tenant), Arc::clone(provider));
                    senders.push(Sender { tenant, archetype: archetype.clone(), provider });
                }
            }
        }
        senders
    }

    /// What the letter says, if it is of a call that one of these bindings sent.
    async fn read_letter(
        &self,
        senders: Vec<Sender>,
        letter: &Signed<'_>,
    ) -> Result<Option<Callback>, Error> {
        for Sender { tenant, archetype, provider } in senders {
            let Some(Told { about, reply }) = provider.callback().and_then(|it| it.told(letter.body)) else {
                continue;
            };
            let Some(Named { action, attempt }) = Named::parse(&about) else { continue };
            let stored = self.whose(&tenant.tenant, action).await?;
            if let Some(stored) = stored.filter(|stored| *stored.archetype == *archetype) {
                return Ok(Some(Callback { tenant, provider, id: stored.id, attempt, about, reply }));
            }
        }
        Ok(None)
    }

    async fn hear(self: &Arc<Self>, callback: Callback) -> Result<(), Error> {
        for _ in 1..TRIES {
            match self.hear_once(&callback).await {
                Err(error) if error.code == Code::StateConflict => tokio::time::sleep(PAUSE).await,
                taken => return taken,
            }
        }
        self.hear_once(&callback).await
    }

    async fn hear_once(self: &Arc<Self>, callback: &Callback) -> Result<(), Error> {
        let stored = self.stored(&callback.tenant, callback.id).await?;
        let row = match IntentRow::of(&stored) {
            Ok(row) => row,
            // Nothing is left of it that could go on, but an effect that was not there before is one.
            Err(error) if error.code == Code::Erased => {
                let confirmed = matches!(callback.reply, Reply::Confirmed(_));
                if confirmed && !tell_of(&self.outcomes_of(&stored).await?, &callback.about) {
                    self.alert_erased(Alert::LateEffect, &stored);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !row.call.as_ref().is_some_and(|call| call.was_for(callback.provider.as_ref())) {
            tracing::warn!(action = %callback.id, "a callback is from another provider than the action was sent to");
            return Ok(());
        }
        if stored.state == State::Executed && matches!(callback.reply, Reply::Refused(_)) {
            return self.denied(&callback.tenant, callback.of(), callback.reply.clone()).await;
        }
        match self.place_of(&stored, &row, callback.of()).await? {
            Some(Place::Latest) => {}
            Some(Place::Earlier) => return self.had_late(callback).await,
            None => return self.of_release(callback, &stored, &row).await,
        }
        let asks = callback.provider.capabilities().can_be_asked();
        match stored.state {
            State::Sent | State::InDoubt | State::Challenged if asks => self.ask_at_once(callback).await,
            State::Sent | State::InDoubt | State::Challenged => self.believe(callback).await,
            State::Waiting | State::Failed
                if matches!(callback.reply, Reply::Confirmed(_) | Reply::Lost { .. }) =>
            {
                if asks {
                    self.ask_after_the_end(callback).await
                } else {
                    self.believe(callback).await
                }
            }
            // Said before, or nothing that changes what is on record.
            State::Waiting | State::Failed | State::Executed => Ok(()),
            State::Held | State::Approved | State::Refused => Ok(()),
            // Its effect, or what is set aside for it, is confirmed.
            State::Reserved | State::ReleaseFailed => Ok(()),
            State::Checking | State::Unchecked | State::Retracting => Ok(()),
            State::RollingBack | State::RollbackFailed | State::RolledBack => Ok(()),
        }
    }

    /// It is open, and asked after in any case: now rather than later.
    async fn ask_at_once(self: &Arc<Self>, callback: &Callback) -> Result<(), Error> {
        self.ask_soon(callback.id);
        let (gateway, tenant, id) = (Arc::clone(self), callback.tenant.tenant.clone(), callback.id);
        let asking = tokio::spawn(async move {
            if let Err(error) = gateway.look_into(&tenant, id).await {
                tracing::warn!(action = %id, %error, "a provider called back and could not be asked");
            }
        });
        let _ = tokio::time::timeout(PATIENCE, asking).await;
        Ok(())
    }

    /// It was said to be absent, and nobody asks after it any more: the callback is not over before it is known.
    async fn ask_after_the_end(self: &Arc<Self>, callback: &Callback) -> Result<(), Error> {
        let (under_way, stored, pending) = self.take_in_hand(&callback.tenant, callback.id).await?;
        let stood = match stored.state {
            State::Waiting => Stood::Waiting { due_ms: stored.due_ms.unwrap_or(0) },
            State::Failed => Stood::Failed,
            _ => return Err(busy()),
        };
        let rules = callback.tenant.rules();
        self.ask_once_more(&callback.tenant, &pending, &rules, stood, under_way).await.map(drop)
    }

    /// Nobody can be asked: the provider's own word is all there is.
    async fn believe(self: &Arc<Self>, callback: &Callback) -> Result<(), Error> {
        callback.must_be_understood()?;
        let under_way = self.look_after_alone(callback.id);
        let _place = self.concluding.acquire().await;
        self.answered_late(&callback.tenant, (callback.id, None), callback.reply.clone(), under_way)
            .await
            .map(drop)
    }

    /// What sets free what is set aside. Only that it did is news.
    async fn of_release(
        self: &Arc<Self>,
        callback: &Callback,
        stored: &Stored,
        row: &IntentRow,
    ) -> Result<(), Error> {
        let release = row.reservation.as_ref().and_then(|it| it.release.as_ref());
        let releases = release.is_some_and(|it| it.reference == callback.about);
        if !(releases && matches!(callback.reply, Reply::Confirmed(_))) {
            return Ok(());
        }
        let asks = callback.provider.capabilities().can_be_asked();
        match stored.state {
            // It is asked by asking for it once more.
            State::Reserved if asks => self.ask_at_once(callback).await,
            State::ReleaseFailed if asks => self.release_once_more(&callback.tenant, callback.id).await,
            State::Reserved | State::ReleaseFailed => {
                self.freed(&callback.tenant, callback.id, callback.reply.clone()).await
            }
            _ => Ok(()),
        }
    }

    /// Only that a call had its effect which was taken for absent is news.
    async fn had_late(self: &Arc<Self>, callback: &Callback) -> Result<(), Error> {
        callback.must_be_understood()?;
        if !matches!(callback.reply, Reply::Confirmed(_)) {
            return Ok(());
        }
        self.hear_of_earlier(
            &callback.tenant,
            callback.of(),
            callback.provider.as_ref(),
            callback.reply.clone(),
        )
        .await
    }
}

/// Does one of these receipts tell that this call had its effect, or set aside what another one charged? They are all that is
/// left of what was erased.
fn tell_of(outcomes: &[Settled], about: &str) -> bool {
    let receipts = outcomes.iter().filter_map(|outcome| outcome.receipt.as_ref());
    receipts.filter_map(|it| serde_json::from_slice::<Value>(&it.document).ok()).any(|receipt| {
        let executed = receipt["metadata"]["kind"] == "executed";
        let calls = receipt["entries"].as_array().into_iter().flatten();
        calls.filter(|entry| entry["stage"] == Stage::Execute.as_str()).any(|call| {
            let names = call["input"]["reference"] == about || call["input"]["reservation"] == about;
            let result = &call["output"]["result"];
            names && (*result == "rolled_back" || (executed && *result != "absent"))
        })
    })
}

impl Callback {
    /// It says that something took place, and not as the binding describes: nobody may take that for heard.
    fn must_be_understood(&self) -> Result<(), Error> {
        let Reply::Lost { why, .. } = &self.reply else { return Ok(()) };
        tracing::warn!(action = %self.id, why, "a callback is not what the binding describes");
        Err(Error::new(
            Code::ValidationFailed,
            format!("the callback says what became of a call, but is not what the binding describes: {why}"),
        )
        .hint("an operator sees in the catalogue what the binding reads; say it again once the two agree"))
    }

    fn of(&self) -> CallRef<'_> {
        CallRef { id: self.id, attempt: self.attempt, about: &self.about }
    }
}
