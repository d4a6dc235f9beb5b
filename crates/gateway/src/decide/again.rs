//! Again: an action that waited and was approved comes before the same judge once more, and takes the same way from there.

use std::sync::Arc;

use action::Action;
use boundary::Approved;
use ledger::{Admission, Admitted, Resumption, Stored};
use provider::Provider;
use serde_json::value::RawValue;

use super::Asked;
use super::case::Case;
use crate::act::UnderWay;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::request::Next;
use crate::row::{EscalationRow, IntentRow, internal};
use crate::{Code, Error, clock};

/// What an action that waited brings along.
pub(crate) struct Resumed {
    /// Marks it as looked after.
    pub under_way: UnderWay,
    /// What people agreed to; `None` if they are no longer enough.
    pub approved: Option<Approved>,
    /// The hold they agreed to.
    pub round: u32,
    /// When it expires.
    pub until_ms: i64,
    /// What they were asked.
    pub escalation: EscalationRow,
    /// What they said, as the receipt shows it.
    pub shown: Vec<Box<RawValue>>,
}

impl Gateway {
    /// Judges an action again that waited. Id, request hash and salt are those it came in with; the time is now.
    pub(crate) async fn judge_again(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        action: Action,
        provider: Arc<dyn Provider>,
        (stored, row): (&Stored, &IntentRow),
        resumed: Resumed,
    ) -> Result<Next, Error> {
        let fresh = self.case(asked, action, provider, clock::now_ms()).await?;
        let mut salt = [0; 32];
        hex::decode_to_slice(&row.salt, &mut salt).map_err(|_| internal("a stored salt is not one"))?;
        let (id, request_hash) = (stored.id, stored.request_hash);
        self.judge_case(Case { id, request_hash, salt, resumed: Some(resumed), ..fresh }).await
    }

    /// Commit 1, over a new row or over the one that waited.
    pub(super) async fn enter(&self, case: &Case<'_>, admission: Admission) -> Result<Admitted, Error> {
        let entered = match &case.resumed {
            None => self.ledger.admit(admission).await,
            Some(resumed) => self.ledger.resume(Resumption { admission, round: resumed.round }).await,
        };
        entered.map_err(unavailable)
    }
}

/// The action went on or ended while it was judged again; whoever did that has said what there is to say.
pub(super) fn overtaken() -> Error {
    Error::new(Code::StateConflict, "the action is no longer approved and waiting")
}
