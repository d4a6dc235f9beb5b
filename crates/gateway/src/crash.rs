//! Where a process may be made to die, for those who want to see that it does no harm: before and after each thing that
//! is durable or leaves.
//!
//! The points do nothing unless whoever opens the gateway brings [`ledger::FailPoints`], which are passed by the ledger's
//! writer too. No request can reach them.

use crate::gateway::Gateway;
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
}

impl Point {
    /// All of them, in the order in which an action comes by.
    pub const ALL: [Point; 25] = [
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
        Point::RollbackNoteBefore,
        Point::RollbackNoteAfter,
        Point::RollbackSendBefore,
        Point::RollbackSendAfter,
        Point::RollbackOutcomeBefore,
        Point::RollbackOutcomeAfter,
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
        }
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
