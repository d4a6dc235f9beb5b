//! What an action may be that was admitted after a recovery: a repeat of one that the store has forgotten.
//!
//! Its provider knows its key, and with it the request of before, which named another action. So it refuses what it has done, and it
//! knows nothing under the new name. Neither means that there was no effect, and another attempt, under another key, would have the
//! effect once more. When the store was recovered, the names of its logs tell.

use std::sync::Arc;
use std::time::Duration;

use execution::{
    Call, Doubt, Effect, Event, Execution, Found, Illegal, Now, Purpose, Reply, State, Stop, Word,
};

use crate::Code;
use crate::gateway::Gateway;
use crate::prove::absence_word;

impl Gateway {
    /// May this call be a repeat of one that was forgotten, which its provider still knows by its key, and as another request?
    pub(crate) fn may_be_forgotten(&self, call: &Call) -> bool {
        if !matches!(call.purpose, Purpose::Act | Purpose::Reserve) {
            return false;
        }
        let recovered_ms = self.logs.recovered_ms(&call.tenant);
        let after_ms = recovered_ms.and_then(|recovered| call.action_id.unix_ms().checked_sub(recovered));
        let Some(after) = after_ms.map(Duration::from_millis) else { return false };
        let Ok(tenant) = self.tenant(&call.tenant) else { return false };
        let rules = tenant.rules();
        rules.providers.get(&*call.archetype.name).is_some_and(|provider| {
            let known = provider.capabilities().idempotent.as_ref().map(|known| known.retention);
            known.is_some_and(|known| after < known) && provider.names_action()
        })
    }

    /// What was replied to a call, for what it is worth.
    pub(crate) fn reply_of(&self, call: &Call, reply: Reply) -> Reply {
        match reply {
            Reply::Refused(refusal) if refusal.word != Word::Ours && self.may_be_forgotten(call) => {
                Reply::Lost { how: Doubt::Forgotten, why: WHY.to_owned() }
            }
            reply => reply,
        }
    }

    /// What was found of a call, for what it is worth.
    pub(crate) fn found_of(&self, call: &Call, found: Found) -> Found {
        match found {
            Found::Absent { .. } if self.may_be_forgotten(call) => Found::Unknown,
            found => found,
        }
    }

    /// One transition. INVARIANT (forgotten): what may be a repeat of what was forgotten is neither taken for absent on its
    /// provider's word, nor tried again under another key.
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
            (State::InDoubt, Event::Asked(found)) => Event::Asked(self.found_of(&call, found)),
            (_, event) => event,
        };
        let (execution, effects) = execution.step(event, now)?;
        let State::Waiting { after, .. } = execution.state() else { return Ok((execution, effects)) };
        if !self.may_be_forgotten(&call) {
            return Ok((execution, effects));
        }
        let reasons = vec![absence_word(after).to_owned()];
        execution.step(Event::Stopped(Stop { code: Code::ProviderFailed.as_str(), reasons }), now)
    }
}

const WHY: &str = "it was refused, which is also what becomes of a repeat of what the store has forgotten";
