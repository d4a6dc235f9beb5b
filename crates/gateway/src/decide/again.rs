//! Again: an action that waited for people, or is to be sent once more, comes before the same judge, and takes the same
//! way from there.

use std::sync::Arc;

use action::Action;
use boundary::Approved;
use execution::Stood;
use ledger::{Admission, Admitted, Basis, By, Resumption, Stored};
use mandate::Usage;
use provider::Provider;
use serde_json::value::RawValue;

use super::Asked;
use super::case::Case;
use crate::act::UnderWay;
use crate::gateway::Gateway;
use crate::pending::Told;
use crate::remember::unavailable;
use crate::request::Next;
use crate::reserve::ReservationRow;
use crate::row::{AttemptRow, CallRow, EscalationRow, IntentRow, KeepingRow, ResolutionRow, internal};
use crate::{Code, Error, clock};

/// What an action brings along whose row is there already.
pub(crate) struct Resumed {
    /// Marks it as looked after.
    pub under_way: UnderWay,
    /// What it goes on from.
    pub basis: Basis,
    /// Whose word it is until it is admitted.
    pub by: By,
    /// What people agreed to; `None` if they were not asked or are no longer enough.
    pub approved: Option<Approved>,
    /// Principals of its cluster who agreed to it.
    pub principals: Vec<Box<str>>,
    /// When the hold they agreed to expires.
    pub until_ms: i64,
    /// Whether it is judged only to ask people, whatever they agreed to before.
    pub only_asks: bool,
    /// What they were asked, if they were.
    pub escalation: Option<EscalationRow>,
    /// What they said, as the receipt shows it.
    pub shown: Vec<Box<RawValue>>,
    /// What was sent before, if it was.
    pub before: Option<Before>,
    /// How long it is kept, and what it falls under, as of when it came in.
    pub keeping: Option<KeepingRow>,
    pub regulations: Vec<String>,
}

/// What an action that was sent before has behind it.
pub(crate) struct Before {
    pub call: CallRow,
    pub stood: Stood,
    pub attempts: Vec<AttemptRow>,
    /// What is set aside for it, and the capture that is to be sent.
    pub reservation: Option<Box<ReservationRow>>,
    /// What people said of it that ended nothing.
    pub words: Vec<ResolutionRow>,
    /// What there was before its first attempt.
    pub snapshot: Option<Box<RawValue>>,
    /// Who asked for anything to be done with it.
    pub steered_by: Vec<String>,
    /// What its caller was told first.
    pub told: Option<Told>,
    /// What stands against its mandate and its principal's history because of itself.
    pub own: Option<Own>,
}

/// What an action has debited and counted already.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    pub counted_ms: i64,
    /// Minor units; 0 where there is no money.
    pub minor: i64,
    /// What it took of its session's budget.
    pub used: Usage,
}

impl Before {
    /// Is it only sent because somebody asks for that: another attempt of what failed, a charge of what is set aside?
    pub(super) fn is_asked_for(&self) -> bool {
        matches!(self.stood, Stood::Failed | Stood::Reserved(_))
    }
}

impl Own {
    /// The facts as they would be without it: it is not held against itself.
    pub(crate) fn taken_out_of(self, facts: &mut ledger::Facts) {
        for account in &mut facts.accounts {
            *account = account.credit(self.minor).remeasure(&self.used, &Usage::default());
            account.actions = account.actions.saturating_sub(1);
        }
        facts.series = Arc::new(facts.series.without(self.counted_ms, self.minor));
    }
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
        // Its client may be gone, and what was connected for it, too.
        provider.make_ready(stored.id).await;
        let before = row.cycle.as_deref().cloned();
        let fresh = self.case(asked, action, provider, clock::now_ms(), before).await?;
        let mut salt = [0; 32];
        hex::decode_to_slice(&row.salt, &mut salt).map_err(|_| internal("a stored salt is not one"))?;
        let (id, request_hash) = (stored.id, stored.request_hash);
        let name = row.name_of(stored.key.as_deref(), &stored.payload);
        self.judge_case(Case { id, request_hash, salt, resumed: Some(resumed), name, ..fresh }).await
    }

    /// Commit 1, over a new row or over the one that waited.
    pub(super) async fn enter(&self, case: &Case<'_>, admission: Admission) -> Result<Admitted, Error> {
        case.asked.ask.wait.hand_over()?;
        let entered = match &case.resumed {
            None => self.ledger.admit(admission).await,
            Some(resumed) => {
                let (from, charges) = (resumed.basis, case.charges());
                self.ledger.resume(Resumption { admission, from, charges }).await
            }
        };
        entered.map_err(unavailable)
    }
}

/// The action went on or ended while it was judged again; whoever did that has said what there is to say.
pub(super) fn overtaken() -> Error {
    Error::new(Code::StateConflict, "somebody else went on with the action meanwhile")
}
