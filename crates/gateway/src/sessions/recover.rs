//! Recovery, as the records of sessions tell of it: a session with cycles that were under way when the process before this
//! one ended has a record when they are taken up (`ALE-011`), and one when of each of them is known what became of it, or
//! that nobody knows (`ALE-012`).
//!
//! That a recovery began and did not end is the ledger's to remember, in the commit of the record that says so: whoever comes
//! after another crash begins none twice, and ends what was begun.

use std::collections::{BTreeSet, HashMap};

use action::ActionId;
use futures_util::{StreamExt, TryStreamExt};
use ledger::{Governed, RECOVERY_COMPLETE, RECOVERY_INITIATED, Recovering, Turn};
use serde_json::{Value, json};

use super::gar::ale;
use crate::Error;
use crate::act::lock;
use crate::admin::event;
use crate::gateway::Gateway;
use crate::remember::unavailable;

/// A session whose recovery is on record, and its cycles that were taken up.
pub(crate) struct Taken {
    governed: Governed,
    cycles: BTreeSet<ActionId>,
}

impl Gateway {
    /// Takes up what was left behind. What this process has in hand itself was left behind by nobody.
    pub(crate) async fn begin_recoveries(&self) -> Result<Vec<Taken>, Error> {
        let found = self.ledger.recovering().await.map_err(unavailable)?;
        let begun = found.into_iter().map(|found| async move {
            let Recovering { governed, initiated, sent } = found;
            let cycles: BTreeSet<ActionId> = {
                let under_way = lock(&self.under_way);
                sent.into_iter().filter(|id| !under_way.contains(id)).collect()
            };
            if initiated.is_none() && !cycles.is_empty() {
                self.note_recovery(&governed, RECOVERY_INITIATED, json!({"cycles": cycles.len()}), None)
                    .await?;
            }
            Ok((initiated.is_some() || !cycles.is_empty()).then_some(Taken { governed, cycles }))
        });
        let begun: Vec<Option<Taken>> =
            futures_util::stream::iter(begun).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(begun.into_iter().flatten().collect())
    }

    /// Puts the end of each recovery on record whose cycles are settled, or known to be in doubt.
    pub(crate) async fn end_recoveries(&self, taken: &mut Vec<Taken>) -> Result<(), Error> {
        if taken.is_empty() {
            return Ok(());
        }
        let now = self.ledger.recovering().await.map_err(unavailable)?;
        let now: HashMap<i64, Recovering> = now.into_iter().map(|it| (it.governed.row, it)).collect();
        let is_open = |it: &Taken| {
            now.get(&it.governed.row).is_some_and(|now| now.sent.iter().any(|id| it.cycles.contains(id)))
        };
        let (open, over): (Vec<Taken>, Vec<Taken>) = std::mem::take(taken).into_iter().partition(is_open);
        *taken = open;
        let ends = over.into_iter().map(|it| {
            let fields =
                json!({"unsettled": now.get(&it.governed.row).map(|now| now.governed.session.in_flight)});
            let cause = now.get(&it.governed.row).and_then(|now| now.initiated.clone());
            async move {
                let ended = self.note_recovery(&it.governed, RECOVERY_COMPLETE, fields, cause).await;
                ended.map_err(|error| (it, error))
            }
        });
        let ended: Vec<_> = futures_util::stream::iter(ends).buffer_unordered(AT_ONCE).collect().await;
        let mut went_wrong = None;
        for (it, error) in ended.into_iter().filter_map(Result::err) {
            // It is told by a later look around.
            taken.push(it);
            went_wrong = Some(error);
        }
        went_wrong.map_or(Ok(()), Err)
    }

    async fn note_recovery(
        &self,
        governed: &Governed,
        name: &'static str,
        fields: Value,
        cause: Option<Box<str>>,
    ) -> Result<(), Error> {
        let code = if name == RECOVERY_INITIATED { "ALE-011" } else { "ALE-012" };
        let record = ale(code, fields, json!({"by": self.issuer.as_str()}));
        let turn = Turn {
            tenant: governed.tenant.clone(),
            session: governed.session.id.clone(),
            event: None,
            cause,
            record: event(self.tenant(&governed.tenant)?, name, &record),
        };
        match self.ledger.turn(turn).await {
            Ok(_) | Err(ledger::Error::Exists(_) | ledger::Error::Absent(_)) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}

/// Records written at once: many share a commit.
const AT_ONCE: usize = 256;
