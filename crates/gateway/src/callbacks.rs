//! Callbacks: what a provider says of its own accord, signed with a secret that its binding shares with it.
//!
//! Where the provider can be asked, its word is only a reason to ask at once. Where it cannot, it counts as the reply to the
//! call that it names. Either way it is taken as often as it comes and counts once, because what it says is held against
//! where the action stands: nothing is remembered of the letters themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use action::ActionId;
use execution::{Reply, Stood};
use ledger::{Settled, State, Stored};
use provider::{Provider, Signed, Told};
use receipt::Stage;
use serde_json::Value;

use crate::alert::Alert;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::late::{Before, was_taken_for_absent};
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::{Code, Error, clock};

/// What a provider said, and of whose call.
struct Word {
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
    /// `EP_STATE_CONFLICT` and `EP_UNAVAILABLE` if it has to be said again.
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
        let Some(word) = self.read_letter(senders, letter).await? else {
            tracing::debug!(binding, letter = letter.id, "a callback is about nothing that waits for one");
            return Ok(());
        };
        tracing::info!(action = %word.id, binding, letter = letter.id, "a provider called back");
        self.at(Point::CallbackBefore)?;
        let gateway = Arc::clone(self);
        // In a task of its own: who hangs up has said it all the same.
        let task = tokio::spawn(async move { gateway.hear(word).await });
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
    async fn read_letter(&self, senders: Vec<Sender>, letter: &Signed<'_>) -> Result<Option<Word>, Error> {
        for Sender { tenant, archetype, provider } in senders {
            let Some(Told { about, reply }) = provider.callback().and_then(|it| it.told(letter.body)) else {
                continue;
            };
            let Some((id, attempt)) = execution::attempt_of(&about) else { continue };
            let stored = self.ledger.action(&tenant.tenant, id).await.map_err(unavailable)?;
            if stored.is_some_and(|stored| *stored.archetype == *archetype) {
                return Ok(Some(Word { tenant, provider, id, attempt, about, reply }));
            }
        }
        Ok(None)
    }

    async fn hear(self: &Arc<Self>, word: Word) -> Result<(), Error> {
        for _ in 1..TRIES {
            match self.hear_once(&word).await {
                Err(error) if error.code == Code::StateConflict => tokio::time::sleep(PAUSE).await,
                taken => return taken,
            }
        }
        self.hear_once(&word).await
    }

    async fn hear_once(self: &Arc<Self>, word: &Word) -> Result<(), Error> {
        let stored = self.stored(&word.tenant, word.id).await?;
        let row = match IntentRow::of(&stored) {
            Ok(row) => row,
            // Nothing is left of it that could go on, but an effect that was not there before is one.
            Err(error) if error.code == Code::Erased => {
                let confirmed = matches!(word.reply, Reply::Confirmed(_));
                if confirmed && !tell_of(&self.outcomes_of(&stored).await?, &word.about) {
                    self.alert_erased(Alert::LateEffect, &stored);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(call) = row.call.as_ref().filter(|call| call.was_for(word.provider.as_ref())) else {
            tracing::warn!(action = %word.id, "a callback is from another provider than the action was sent to");
            return Ok(());
        };
        if stored.state == State::Executed && matches!(word.reply, Reply::Refused(_)) {
            return self.denied(&word.tenant, word.before(), word.reply.clone()).await;
        }
        if self.is_of_another(word, &stored, &row).await? {
            return self.had_late(word).await;
        }
        if call.attempt != word.attempt {
            return Ok(());
        }
        if call.reference != word.about {
            return self.of_another_call(word, &stored, &row).await;
        }
        let asks = word.provider.capabilities().can_be_asked();
        match stored.state {
            State::Sent | State::InDoubt | State::Challenged if asks => self.ask_at_once(word).await,
            State::Sent | State::InDoubt | State::Challenged => self.believe(word).await,
            State::Waiting | State::Failed if matches!(word.reply, Reply::Confirmed(_)) => {
                if asks {
                    self.ask_after_the_end(word).await
                } else {
                    self.believe(word).await
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
    async fn ask_at_once(self: &Arc<Self>, word: &Word) -> Result<(), Error> {
        self.ask_soon(word.id);
        let (gateway, tenant, id) = (Arc::clone(self), word.tenant.tenant.clone(), word.id);
        let asking = tokio::spawn(async move {
            if let Err(error) = gateway.look_into(&tenant, id).await {
                tracing::warn!(action = %id, %error, "a provider called back and could not be asked");
            }
        });
        let _ = tokio::time::timeout(PATIENCE, asking).await;
        Ok(())
    }

    /// It was said to be absent, and nobody asks after it any more: the callback is not over before it is known.
    async fn ask_after_the_end(self: &Arc<Self>, word: &Word) -> Result<(), Error> {
        let (under_way, stored, pending) = self.take_in_hand(&word.tenant, word.id).await?;
        let stood = match stored.state {
            State::Waiting => Stood::Waiting { due_ms: stored.due_ms.unwrap_or(0) },
            State::Failed => Stood::Failed,
            _ => return Err(busy()),
        };
        let rules = word.tenant.rules();
        self.ask_once_more(&word.tenant, &pending, &rules, stood, under_way).await.map(drop)
    }

    /// Nobody can be asked: the provider's own word is all there is.
    async fn believe(self: &Arc<Self>, word: &Word) -> Result<(), Error> {
        if let Reply::Lost { why } = &word.reply {
            tracing::warn!(action = %word.id, why, "a callback is not what the binding describes");
            return Ok(());
        }
        let under_way = self.look_after_alone(word.id);
        let _place = self.concluding.acquire().await;
        self.answered_late(&word.tenant, (word.id, None), word.reply.clone(), under_way).await.map(drop)
    }

    /// Another call of the same attempt: what reserves, while what charges is under way, a capture that was taken for absent,
    /// or what sets free. Only that one of the latter two had its effect is news.
    async fn of_another_call(
        self: &Arc<Self>,
        word: &Word,
        stored: &Stored,
        row: &IntentRow,
    ) -> Result<(), Error> {
        if !matches!(word.reply, Reply::Confirmed(_)) {
            return Ok(());
        }
        let reservation = row.reservation.as_ref();
        let releases =
            reservation.and_then(|it| it.release.as_ref()).is_some_and(|it| it.reference == word.about);
        match stored.state {
            State::Reserved if releases && word.provider.capabilities().can_be_asked() => {
                // It is asked by asking for it once more.
                self.ask_at_once(word).await
            }
            State::ReleaseFailed if releases && word.provider.capabilities().can_be_asked() => {
                self.release_once_more(&word.tenant, word.id).await
            }
            State::Reserved | State::ReleaseFailed if releases => {
                self.freed(&word.tenant, word.id, word.reply.clone()).await
            }
            _ if row.is_before(word.attempt, &word.about) => self.had_late(word).await,
            _ => Ok(()),
        }
    }

    /// Is it of a call that was taken for absent before another one followed, or before an earlier one turned out to be what
    /// the action came to?
    async fn is_of_another(&self, word: &Word, stored: &Stored, row: &IntentRow) -> Result<bool, Error> {
        let latest = row.call.as_ref().map_or(0, |call| call.attempt);
        let outcomes = match word.attempt == latest && stored.state.is_amended() {
            true => self.outcomes_of(stored).await?,
            false => Vec::new(),
        };
        was_taken_for_absent(row, &outcomes, word.attempt, &word.about)
    }

    /// Only that a call had its effect which was taken for absent is news.
    async fn had_late(self: &Arc<Self>, word: &Word) -> Result<(), Error> {
        if !matches!(word.reply, Reply::Confirmed(_)) {
            return Ok(());
        }
        self.hear_of_earlier(&word.tenant, word.before(), word.provider.as_ref(), word.reply.clone()).await
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

impl Word {
    fn before(&self) -> Before<'_> {
        Before { id: self.id, attempt: self.attempt, about: &self.about }
    }
}
