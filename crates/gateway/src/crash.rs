//! Where a process may be made to die, for those who want to see that it does no harm: before and after each thing that
//! is durable or leaves.
//!
//! The points do nothing unless whoever opens the gateway brings [`ledger::FailPoints`], which are passed by the ledger's
//! writer too. No request can reach them.

use ledger::State;

use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::{Code, Error};

/// A point that an action passes. After a failed one nothing more is done, as if the process were gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// It is judged, and nothing of it is written.
    AdmissionBefore,
    /// It is marked sent, and nothing has left.
    AdmissionAfter,
    /// The provider is about to be asked what there is.
    SnapshotBefore,
    /// It said so, and nothing is written.
    SnapshotAfter,
    /// It is to wait for people, and nothing is written.
    HoldBefore,
    /// It waits, and nobody is told.
    HoldAfter,
    /// A person has agreed, and nothing is written.
    ApprovalBefore,
    /// That is written, and nothing is done about it.
    ApprovalAfter,
    /// It is approved, and about to be judged again.
    ResumeBefore,
    /// The call is about to leave.
    SendBefore,
    /// It has left a moment ago, and there is no answer yet.
    SendAfter,
    /// The answer is read, and nothing is written.
    AnswerAfter,
    /// The outcome is proven, and nothing is written.
    OutcomeBefore,
    /// It is written, and nobody is told.
    OutcomeAfter,
    /// An effect that had been taken for absent is proven, and nothing of it is written.
    LateBefore,
    /// It is written, and nobody is told.
    LateAfter,
    /// It is to wait for another attempt, and nothing is written.
    RetryBefore,
    /// It waits for another attempt.
    RetryAfter,
    /// It was found as sent by somebody who is gone.
    TakeoverBefore,
    /// The provider is about to be asked what became of it.
    QueryBefore,
    /// It said so, and nothing is written.
    QueryAfter,
    /// A step of a rollback is about to be written.
    RollbackNoteBefore,
    /// It is written, and not taken.
    RollbackNoteAfter,
    /// What undoes the effect is about to leave.
    RollbackSendBefore,
    /// Its answer is read, and nothing is written.
    RollbackSendAfter,
    /// What became of the rollback is known, and nothing is written.
    RollbackOutcomeBefore,
    /// It is written.
    RollbackOutcomeAfter,
    /// The provider has set money aside, and nothing of it is written.
    ReserveBefore,
    /// That is written, and nobody is told.
    ReserveAfter,
    /// It is to be charged, and nothing of it is written.
    CaptureBefore,
    /// What charges it is marked sent, and nothing has left.
    CaptureAfter,
    /// The answer to what charges it is read, and nothing is written.
    CaptureAnswerAfter,
    /// What was to charge it came to nothing, and that is not written.
    CaptureFailedBefore,
    /// That is written.
    CaptureFailedAfter,
    /// What came of the charge is proven, and nothing is written.
    CaptureOutcomeBefore,
    /// It is written, and nobody is told.
    CaptureOutcomeAfter,
    /// It is to be set free, and nothing of it is written.
    ReleaseBefore,
    /// That is written, and nothing has left.
    ReleaseAfter,
    /// Its time is over, and nothing is written.
    ExpiryBefore,
    /// It is written that it is to be set free for that, and nothing has left.
    ExpiryAfter,
    /// What sets it free is about to leave.
    ReleaseSendBefore,
    /// Its answer is read, and nothing is written.
    ReleaseSendAfter,
    /// That it is free is proven, and nothing is written.
    ReleaseOutcomeBefore,
    /// It is written.
    ReleaseOutcomeAfter,
    /// Its payer is to confirm it, and nothing of that is written.
    ChallengeBefore,
    /// That is written, and nobody is told.
    ChallengeAfter,
    /// A provider has called back, and nothing is done about it.
    CallbackBefore,
    /// Something is, and the provider has no answer.
    CallbackAfter,
    /// A call is handed out, and its runner does not have it yet.
    RunTakeAfter,
    /// A runner has reported, and nothing is written.
    RunReportBefore,
    /// It is written, and the runner has no answer.
    RunReportAfter,
    /// A person has an action tried once more that failed, and nothing of it is written.
    AgainBefore,
    /// That attempt is marked sent, and nothing has left.
    AgainAfter,
    /// A person says what became of an action, and nothing of it is written.
    ResolveBefore,
    /// That is written, and the person has no answer.
    ResolveAfter,
    /// An action is to be erased, and nothing of it is.
    EraseBefore,
    /// It is, and nobody is told.
    EraseAfter,
}

impl Point {
    /// All of them, in the order in which an action comes by.
    pub const ALL: [Point; 57] = [
        Point::HoldBefore,
        Point::HoldAfter,
        Point::ApprovalBefore,
        Point::ApprovalAfter,
        Point::ResumeBefore,
        Point::SnapshotBefore,
        Point::SnapshotAfter,
        Point::AdmissionBefore,
        Point::AdmissionAfter,
        Point::SendBefore,
        Point::SendAfter,
        Point::AnswerAfter,
        Point::TakeoverBefore,
        Point::RetryBefore,
        Point::RetryAfter,
        Point::QueryBefore,
        Point::QueryAfter,
        Point::OutcomeBefore,
        Point::OutcomeAfter,
        Point::ChallengeBefore,
        Point::ChallengeAfter,
        Point::CallbackBefore,
        Point::CallbackAfter,
        Point::ReserveBefore,
        Point::ReserveAfter,
        Point::CaptureBefore,
        Point::CaptureAfter,
        Point::CaptureAnswerAfter,
        Point::CaptureFailedBefore,
        Point::CaptureFailedAfter,
        Point::CaptureOutcomeBefore,
        Point::CaptureOutcomeAfter,
        Point::ReleaseBefore,
        Point::ReleaseAfter,
        Point::ExpiryBefore,
        Point::ExpiryAfter,
        Point::ReleaseSendBefore,
        Point::ReleaseSendAfter,
        Point::ReleaseOutcomeBefore,
        Point::ReleaseOutcomeAfter,
        Point::RunTakeAfter,
        Point::RunReportBefore,
        Point::RunReportAfter,
        Point::AgainBefore,
        Point::AgainAfter,
        Point::LateBefore,
        Point::LateAfter,
        Point::EraseBefore,
        Point::EraseAfter,
        Point::RollbackNoteBefore,
        Point::RollbackNoteAfter,
        Point::RollbackSendBefore,
        Point::RollbackSendAfter,
        Point::RollbackOutcomeBefore,
        Point::RollbackOutcomeAfter,
        Point::ResolveBefore,
        Point::ResolveAfter,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Point::AdmissionBefore => "admission.before",
            Point::AdmissionAfter => "admission.after",
            Point::SnapshotBefore => "snapshot.before",
            Point::SnapshotAfter => "snapshot.after",
            Point::HoldBefore => "hold.before",
            Point::HoldAfter => "hold.after",
            Point::ApprovalBefore => "approval.before",
            Point::ApprovalAfter => "approval.after",
            Point::ResumeBefore => "resume.before",
            Point::SendBefore => "send.before",
            Point::SendAfter => "send.after",
            Point::AnswerAfter => "answer.after",
            Point::OutcomeBefore => "outcome.before",
            Point::OutcomeAfter => "outcome.after",
            Point::LateBefore => "late.before",
            Point::LateAfter => "late.after",
            Point::RetryBefore => "retry.before",
            Point::RetryAfter => "retry.after",
            Point::TakeoverBefore => "takeover.before",
            Point::QueryBefore => "query.before",
            Point::QueryAfter => "query.after",
            Point::RollbackNoteBefore => "rollback-note.before",
            Point::RollbackNoteAfter => "rollback-note.after",
            Point::RollbackSendBefore => "rollback-send.before",
            Point::RollbackSendAfter => "rollback-send.after",
            Point::RollbackOutcomeBefore => "rollback-outcome.before",
            Point::RollbackOutcomeAfter => "rollback-outcome.after",
            Point::ReserveBefore => "reserve.before",
            Point::ReserveAfter => "reserve.after",
            Point::CaptureBefore => "capture.before",
            Point::CaptureAfter => "capture.after",
            Point::CaptureAnswerAfter => "capture-answer.after",
            Point::CaptureFailedBefore => "capture-failed.before",
            Point::CaptureFailedAfter => "capture-failed.after",
            Point::CaptureOutcomeBefore => "capture-outcome.before",
            Point::CaptureOutcomeAfter => "capture-outcome.after",
            Point::ReleaseBefore => "release.before",
            Point::ReleaseAfter => "release.after",
            Point::ExpiryBefore => "expiry.before",
            Point::ExpiryAfter => "expiry.after",
            Point::ReleaseSendBefore => "release-send.before",
            Point::ReleaseSendAfter => "release-send.after",
            Point::ReleaseOutcomeBefore => "release-outcome.before",
            Point::ReleaseOutcomeAfter => "release-outcome.after",
            Point::ChallengeBefore => "challenge.before",
            Point::ChallengeAfter => "challenge.after",
            Point::CallbackBefore => "callback.before",
            Point::CallbackAfter => "callback.after",
            Point::RunTakeAfter => "run-take.after",
            Point::RunReportBefore => "run-report.before",
            Point::RunReportAfter => "run-report.after",
            Point::AgainBefore => "again.before",
            Point::AgainAfter => "again.after",
            Point::ResolveBefore => "resolve.before",
            Point::ResolveAfter => "resolve.after",
            Point::EraseBefore => "erase.before",
            Point::EraseAfter => "erase.after",
        }
    }
}

/// The points before and after the commit that ends an action, or one step of it: what charges or sets free, what comes
/// late, and a person's word, have their own.
pub(crate) fn outcome_of(pending: &Pending, state: State) -> (Point, Point) {
    let reservation = pending.row.reservation.as_ref();
    if pending.word.is_some() {
        (Point::ResolveBefore, Point::ResolveAfter)
    } else if is_late(pending, state) {
        (Point::LateBefore, Point::LateAfter)
    } else if state == State::Failed && reservation.is_some_and(|it| it.release.is_some()) {
        (Point::ReleaseOutcomeBefore, Point::ReleaseOutcomeAfter)
    } else if state == State::Executed && reservation.is_some_and(|it| it.charging().is_some()) {
        (Point::CaptureOutcomeBefore, Point::CaptureOutcomeAfter)
    } else {
        (Point::OutcomeBefore, Point::OutcomeAfter)
    }
}

/// Is it an effect that comes after the last word, or one of an earlier call?
fn is_late(pending: &Pending, state: State) -> bool {
    match state {
        State::Executed => pending.settled || pending.earlier.is_some(),
        State::RollingBack => pending.settled,
        _ => false,
    }
}

impl Gateway {
    /// An action passes a point.
    pub(crate) fn at(&self, point: Point) -> Result<(), Error> {
        let Some(points) = &self.config.fail_points else { return Ok(()) };
        points.at(point.as_str()).map_err(|error| {
            tracing::error!(point = point.as_str(), %error, "stopped at a point that was made to fail");
            Error::new(Code::Unavailable, "the gateway was made to stop here")
        })
    }
}
