//! Challenge: an action whose payer has to confirm it to the provider before there is an effect. Its caller is told where;
//! what comes of it the provider says, of itself (`callbacks`) or when it is asked (`pursue`).

use action::ActionId;
use execution::{Challenge, Execution, Stood};
use ledger::{Deferral, State};

use crate::crash::Point;
use crate::decide::Named;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind, Outcome};
use crate::pending::Pending;
use crate::pursue::Pursued;
use crate::remember::{draft, event, outward, unavailable};
use crate::row::{ChallengeRow, IntentRow, internal};
use crate::tenants::TenantState;
use crate::{Answer, Error, clock};

impl Gateway {
    /// Writes down what the payer is asked; only then the caller hears of it. What the row says besides is read anew: what is
    /// in hand may lack the most of it.
    pub(crate) async fn present(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        challenge: &Challenge,
    ) -> Result<Answer, Error> {
        let stored = self.stored(tenant, pending.id).await?;
        let mut row = IntentRow::of(&stored)?;
        let call = row.call.as_mut().ok_or_else(|| internal("an action without a call was sent"))?;
        let Challenge { url, until_ms: due_ms } = challenge.clone();
        call.challenge = Some(ChallengeRow { url, until_ms: due_ms });
        let state = State::Challenged;
        let word = Some(outward(state));
        let Named { payload, name } = row.to_named(pending.key.as_deref())?;
        let entry = draft(tenant, event(state, None), word, &name, pending.attempt());
        let (at_ms, action, by) = (clock::now_ms(), pending.id, pending.by);
        let deferral = Deferral { action, state, by, at_ms, due_ms, payload, entry };
        self.at(Point::ChallengeBefore)?;
        self.ledger.defer(deferral).await.map_err(unavailable)?;
        self.at(Point::ChallengeAfter)?;
        self.metrics.outcome(Kind::NeedsChallenge);
        self.say_challenged(pending.id, &row, false).ok_or_else(|| internal("nothing is asked"))
    }

    /// What is answered of an action whose payer is asked, first and on every repetition.
    pub(crate) fn say_challenged(&self, id: ActionId, row: &IntentRow, replayed: bool) -> Option<Answer> {
        let ChallengeRow { url, until_ms } = row.call.as_ref()?.challenge.clone()?;
        let outcome = Outcome {
            action_id: Some(id),
            kind: Kind::NeedsChallenge,
            code: None,
            receipt: None,
            correlation_id: row.correlation_id.clone(),
            details: Details {
                challenge_url: Some(url),
                expires_at: Some(clock::text(until_ms)),
                status_url: Some(self.status_url(id)),
                ..Details::default()
            },
        };
        Some(Answer {
            reply: (self.render)(&outcome, &self.public_url),
            replayed,
            action_id: Some(id),
            cycle: None,
            foreseen: None,
        })
    }

    /// How it goes on with an action whose payer was asked, if nothing is known yet: it waits, or, once the payer's time is
    /// over, is in doubt, and its caller is told so.
    pub(crate) async fn unanswered(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        execution: &Execution,
        stood: Stood,
    ) -> Result<Option<Pursued>, Error> {
        let Stood::Challenged { until_ms } = stood else { return Ok(None) };
        match execution.state() {
            execution::State::Challenged { .. } => Ok(Some(Pursued::Rests(until_ms))),
            execution::State::InDoubt => {
                self.doubt(tenant, pending).await?;
                Ok(Some(Pursued::Rests(self.soon_ms())))
            }
            _ => Ok(None),
        }
    }
}
