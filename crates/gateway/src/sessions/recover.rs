//! Recovery, as the records of sessions tell of it: a session with cycles that were under way when the process before this
//! one ended has a record when they are taken up (`ALE-011`), and one when of each of them is known what became of it, or
//! that nobody knows (`ALE-012`).
//!
//! That a recovery began and did not end is the ledger's to remember, in the commit of the record that says so: whoever comes
//! after another crash begins none twice, and ends what was begun.

use std::collections::{BTreeSet, HashMap};

use action::ActionId;
use futures_util::StreamExt;
use ledger::{Governed, RECOVERY_COMPLETE, RECOVERY_INITIATED, Recovering};
use serde_json::{Value, json};

use super::gar::ale;
use super::turn;
use crate::Error;
use crate::act::lock;
use crate::admin::event;
use crate::gateway::Gateway;
use crate::remember::unavailable;

/// A session that was left behind, and its cycles that are taken up.
pub(crate) struct Taken {
    governed: Governed,
    cycles: BTreeSet<ActionId>,
    on_record: OnRecord,
}

/// What is on record of a recovery.
#[derive(PartialEq)]
enum OnRecord {
    Nothing,
    Begun,
    Ended,
}

impl Gateway {
    /// What was left behind. What this process has in hand itself was left behind by nobody.
    pub(crate) async fn left_behind(&self) -> Result<Vec<Taken>, Error> {
        let found = self.ledger.recovering().await.map_err(unavailable)?;
        let under_way = lock(&self.under_way);
        let taken = found.into_iter().map(|Recovering { governed, initiated, sent }| {
            let cycles = sent.into_iter().filter(|id| !under_way.contains(id)).collect();
            let on_record = if initiated.is_some() { OnRecord::Begun } else { OnRecord::Nothing };
            Taken { governed, cycles, on_record }
        });
        Ok(taken.filter(|it| it.on_record == OnRecord::Begun || !it.cycles.is_empty()).collect())
    }

    /// Takes in what was left behind by somebody who was taken for gone only after that. Looked for twice: what was sent and
    /// settled here while it was looked is found once.
    pub(crate) async fn left_since(&self, taken: &mut Vec<Taken>) -> Result<(), Error> {
        let known: BTreeSet<i64> = taken.iter().map(|it| it.governed.row).collect();
        let is_new = |it: &Taken| !known.contains(&it.governed.row) && !it.cycles.is_empty();
        let found = self.left_behind().await?;
        let found = found.iter().filter(|it| is_new(it)).flat_map(|it| it.cycles.iter().copied());
        let found: BTreeSet<ActionId> = found.collect();
        if found.is_empty() {
            return Ok(());
        }
        for mut again in self.left_behind().await? {
            again.cycles.retain(|id| found.contains(id));
            if is_new(&again) {
                taken.push(again);
            }
        }
        Ok(())
    }

    /// Puts on record that each recovery began of which that is not said yet.
    pub(crate) async fn begin_recoveries(&self, taken: &mut Vec<Taken>) -> Result<(), Error> {
        let begins = std::mem::take(taken).into_iter().map(|it| async move {
            if it.on_record != OnRecord::Nothing {
                return (it, Ok(()));
            }
            let fields = json!({"cycles": it.cycles.len()});
            let begun = self.note_recovery(&it.governed, RECOVERY_INITIATED, fields, None).await;
            it.now(OnRecord::Begun, begun)
        });
        let begun;
        (*taken, begun) = all_of(begins).await;
        begun
    }

    /// Puts the end of each recovery on record whose cycles are settled, or known to be in doubt. What cannot be written now
    /// is told by a later look around.
    pub(crate) async fn end_recoveries(&self, taken: &mut Vec<Taken>) -> Result<(), Error> {
        if taken.is_empty() {
            return Ok(());
        }
        let now = self.ledger.recovering().await.map_err(unavailable)?;
        let now: HashMap<i64, Recovering> = now.into_iter().map(|it| (it.governed.row, it)).collect();
        let now = &now;
        let ends = std::mem::take(taken).into_iter().map(|it| async move {
            let now = now.get(&it.governed.row);
            let is_open = now.is_some_and(|now| now.sent.iter().any(|id| it.cycles.contains(id)));
            if is_open || it.on_record != OnRecord::Begun {
                return (it, Ok(()));
            }
            let fields = json!({"unsettled": now.map(|now| now.governed.session.in_flight)});
            let cause = now.and_then(|now| now.initiated.clone());
            let ended = self.note_recovery(&it.governed, RECOVERY_COMPLETE, fields, cause).await;
            it.now(OnRecord::Ended, ended)
        });
        let ended;
        (*taken, ended) = all_of(ends).await;
        taken.retain(|it| it.on_record != OnRecord::Ended);
        ended
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
        let turn = turn(governed, None, cause, event(self.tenant(&governed.tenant)?, name, &record));
        match self.ledger.turn(turn).await {
            Ok(_) | Err(ledger::Error::Exists(_) | ledger::Error::Absent(_)) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}

impl Taken {
    /// The same, with this on record if that could be written.
    fn now(self, on_record: OnRecord, written: Result<(), Error>) -> (Taken, Result<(), Error>) {
        let on_record = if written.is_ok() { on_record } else { self.on_record };
        (Taken { on_record, ..self }, written)
    }
}

/// All of them, whatever becomes of one, and what went wrong first.
async fn all_of(
    all: impl Iterator<Item = impl Future<Output = (Taken, Result<(), Error>)>>,
) -> (Vec<Taken>, Result<(), Error>) {
    let all: Vec<_> = futures_util::stream::iter(all).buffer_unordered(AT_ONCE).collect().await;
    let (taken, done): (Vec<Taken>, Vec<_>) = all.into_iter().unzip();
    (taken, done.into_iter().collect())
}

/// Records written at once: many share a commit.
const AT_ONCE: usize = 256;
