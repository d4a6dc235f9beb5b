//! What an action may be that was admitted after a recovery: a repeat of one that the store has forgotten.
//!
//! Its provider key and our reference are made of what its caller asks again, so its provider knows both. One that can be asked is
//! asked, before anything is sent: for this attempt, and for those that may have followed on it. One that cannot be asked, and is told
//! of another action each time, refuses what it has done: that does not mean that there was no effect, and another attempt, under
//! another key, would have the effect once more. When the store was recovered, the names of its logs tell.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use execution::{
    Call, Confirmation, Doubt, Effect, Event, Execution, Found, Illegal, Now, Purpose, Reply, State, Stop,
    Word,
};

use futures_util::future::join_all;
use provider::Provider;

use crate::gateway::Gateway;
use crate::prove::absence_word;
use crate::rollback::millis;
use crate::{Code, Error, clock};

/// For so long after a recovery providers are asked before anything is sent.
const ASKED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

impl Gateway {
    /// When the store forgot what this provider can be asked about of this call, Unix milliseconds: of an action that is older than
    /// that for ever, of others for a while.
    pub(crate) fn forgot_at_ms(&self, call: &Call, provider: &dyn Provider) -> Option<i64> {
        let recovered = self.logs.recovered_ms(&call.tenant)?;
        let recovered_ms = i64::try_from(recovered).ok()?;
        let is_asked = call.action_id.unix_ms() < recovered
            || clock::now_ms() < recovered_ms.saturating_add(millis(ASKED_FOR));
        (is_asked && provider.recalls()).then_some(recovered_ms)
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

    /// One transition. INVARIANT (forgotten): what may be a repeat of what was forgotten is not taken for absent because its
    /// provider refuses it, nor tried again under another key.
    pub(crate) fn transition(
        &self,
        execution: Execution,
        event: Event,
        now: Now,
    ) -> Result<(Execution, Vec<Effect>), Illegal> {
        let call = Arc::clone(execution.call());
        let event = match (execution.state(), event) {
            (State::Sent(_) | State::InDoubt, Event::Replied(reply)) => {
                Event::Replied(self.reply_of(&call, reply))
            }
            (_, event) => event,
        };
        let (execution, effects) = execution.step(event, now)?;
        let State::Waiting { after, .. } = execution.state() else { return Ok((execution, effects)) };
        if self.may_be_forgotten(&call).is_none() {
            return Ok((execution, effects));
        }
        let reasons = vec![absence_word(after).to_owned()];
        execution.step(Event::Stopped(Stop { code: Code::ProviderFailed.as_str(), reasons }), now)
    }
}

/// Which of these calls its provider has had, and what it says of it. They are one that is to be sent and all that might have
/// followed on it before the store forgot them; none of them left after `until_ms`.
///
/// # Errors
/// `EP_UNAVAILABLE` if the provider does not say that it has had none, `EP_IDEMPOTENCY_MISMATCH` if it has charged more for one.
pub(crate) async fn known_of(
    provider: &dyn Provider,
    calls: Vec<Call>,
    until_ms: i64,
) -> Result<Option<(Call, Confirmation)>, Error> {
    let asked: Vec<Call> = calls.iter().map(|call| Call { send_by_ms: until_ms, ..call.clone() }).collect();
    let now_ms = clock::now_ms();
    let found = join_all(asked.iter().map(|call| provider.query(call, now_ms))).await;
    let mut known = None;
    for (call, found) in calls.into_iter().zip(found) {
        let (action, reference) = (call.action_id, call.reference.clone());
        match found {
            Found::Confirmed(confirmation) if is_more(&confirmation, &call) => {
                tracing::warn!(%action, reference, "its provider has charged more under this name than is asked");
                return Err(
                    Error::new(Code::IdempotencyMismatch, OTHERWISE).hint("ask under a key of its own")
                );
            }
            Found::Confirmed(confirmation) => {
                tracing::warn!(%action, reference, "it was done before the store forgot it, and is not done again");
                known.get_or_insert((call, confirmation));
            }
            Found::Absent { final_: true } => {}
            Found::Absent { final_: false } | Found::Unknown => {
                tracing::warn!(%action, reference, "a provider does not say whether it has had a call");
                return Err(Error::new(Code::Unavailable, UNSAID)
                    .hint("ask again a little later, under the same key"));
            }
        }
    }
    Ok(known)
}

/// Was more charged, or in another currency, than this call asks for?
fn is_more(confirmation: &Confirmation, call: &Call) -> bool {
    let both = confirmation.charged.zip(call.money);
    both.is_some_and(|(charged, asked)| {
        !matches!(charged.compare(asked), Some(Ordering::Less | Ordering::Equal))
    })
}

const OTHERWISE: &str =
    "the store was put back, and the provider has done something else under this key before";

const UNSAID: &str =
    "the store was put back not long ago, and the provider does not say whether this was done before";

const WHY: &str = "it was refused, which is also what becomes of a repeat of what the store has forgotten";
