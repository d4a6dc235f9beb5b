//! Several effects undone, the newest first: what was done on top of something is undone before it. One after another,
//! each by the one way there is to undo an effect, and no further than the first that is not undone.

use std::collections::HashSet;
use std::sync::Arc;

use action::ActionId;
use ledger::{State, Stored};

use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::outward;
use crate::rollback::{NOT_DONE, conflict, done};
use crate::row::{IntentRow, internal};
use crate::{Code, Error};

/// What became of one of several actions that were to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UndoneView {
    /// The action.
    pub action_id: ActionId,
    /// What became of it.
    pub fate: Fate,
}

/// What becomes of an action that is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is undone, now or before.
    RolledBack,
    /// It is being undone; what is older waits until somebody asks again.
    RollingBack,
    /// It is not undone, by this code.
    Failed(&'static str),
    /// It is older than one that is not undone, and stands as it stood.
    NotTried,
}

impl Gateway {
    /// Has the effects of several actions undone, the one confirmed last first. Answers with what became of each, in
    /// that order. Whoever asks again goes on where it stopped.
    ///
    /// # Errors
    /// What [`Gateway::rollback`] would refuse, and names what is not an action or stands there twice; `field` says which
    /// it is, and nothing is undone then.
    pub async fn rollback_all(
        self: &Arc<Self>,
        caller: &Caller,
        ids: &[String],
    ) -> Result<Vec<UndoneView>, Error> {
        caller.must(Deed::Steer)?;
        let newest_first = self.newest_first(caller, ids).await?;
        let (gateway, caller) = (Arc::clone(self), caller.clone());
        // In a task of its own: who hangs up has asked for it all the same.
        let task = tokio::spawn(async move { gateway.undo_in_turn(&caller, newest_first).await });
        task.await.map_err(|_| internal("rollbacks ended without a word"))
    }

    async fn undo_in_turn(self: &Arc<Self>, caller: &Caller, newest_first: Vec<ActionId>) -> Vec<UndoneView> {
        let (mut undone, mut goes_on) = (Vec::with_capacity(newest_first.len()), true);
        for action_id in newest_first {
            let fate = if goes_on { self.fate_of(caller, action_id).await } else { Fate::NotTried };
            goes_on &= fate == Fate::RolledBack;
            undone.push(UndoneView { action_id, fate });
        }
        undone
    }

    async fn fate_of(self: &Arc<Self>, caller: &Caller, action_id: ActionId) -> Fate {
        match self.rollback(caller, &action_id.to_string()).await {
            Ok(view) if view.state == outward(State::RolledBack) => Fate::RolledBack,
            Ok(view) if view.rollback.as_ref().is_some_and(|rollback| rollback.failed) => {
                Fate::Failed(ROLLBACK_FAILED)
            }
            Ok(_) => Fate::RollingBack,
            Err(error) => {
                tracing::warn!(action = %action_id, %error, "one of several actions is not undone");
                Fate::Failed(error.code.as_str())
            }
        }
    }

    /// The actions of these ids, if each of them can be undone or is, in the order in which they are.
    async fn newest_first(&self, caller: &Caller, ids: &[String]) -> Result<Vec<ActionId>, Error> {
        if !(1..=MOST_AT_ONCE).contains(&ids.len()) {
            let why = format!("between 1 and {MOST_AT_ONCE} actions can be undone at once");
            return Err(Error::new(Code::ValidationFailed, why).field("/actions"));
        }
        let (mut seen, mut found) = (HashSet::new(), Vec::with_capacity(ids.len()));
        for (at, id) in ids.iter().enumerate() {
            let named = |error: Error| error.field(format!("/actions/{at}"));
            let stored = self.visible(caller, id).await.map_err(named)?;
            if !seen.insert(stored.id) {
                return Err(named(Error::new(Code::ValidationFailed, "the action is listed twice")));
            }
            found.push((self.confirmed_at(&stored).await.map_err(named)?, stored.id));
        }
        found.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// When the effect of an action was confirmed that can be undone, or is: Unix milliseconds, and its place in the chain.
    async fn confirmed_at(&self, stored: &Stored) -> Result<(i64, i64), Error> {
        match stored.state {
            State::Executed | State::RollbackFailed => drop(self.undoable(stored).await?),
            State::RollingBack | State::Retracting | State::RolledBack => {}
            _ => return Err(conflict(NOT_DONE)),
        }
        let checked = IntentRow::of(stored)?.check.map(|check| check.confirmed_ms);
        let outcomes = self.outcomes_of(stored).await?;
        let said = done(&outcomes).map(|it| (it.at_ms, it.entry));
        // What is not said yet to be done is newer than what is.
        let (at_ms, entry) = said.unwrap_or((i64::MAX, i64::MAX));
        Ok((checked.unwrap_or(at_ms), entry))
    }
}

/// More than this is not one mistake that somebody takes back.
const MOST_AT_ONCE: usize = 100;
/// What could not be undone; a person decides.
pub const ROLLBACK_FAILED: &str = "ATP_ROLLBACK_FAILED";
