//! Foreseen: what an action would come to, where it is decided only.

use boundary::{Decision, Verdict};

use super::Asked;
use super::reasons::{code_of, details_of, held_details};
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind, Outcome, WOULD_EXECUTE};
use crate::request::Answer;
use crate::row::internal;
use crate::{Code, Error};

/// What an action would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// Nothing stands against it.
    Pass,
    /// It would wait for people, for these reasons.
    Held(Details),
    /// It would be refused.
    Blocked(Code, Details),
}

impl Gateway {
    /// Says what an action would come to. Nothing was written and nothing is.
    pub(super) fn say_dry(&self, asked: &Asked<'_>, decision: &Decision) -> Result<Answer, Error> {
        let foreseen = Foreseen::of(decision)?;
        let outcome = foreseen.outcome(asked.ask.request_id.clone());
        Ok(Answer {
            reply: (self.render)(&outcome, &self.public_url),
            replayed: false,
            action_id: None,
            cycle: None,
            foreseen: Some(Box::new(foreseen)),
        })
    }
}

impl Foreseen {
    fn of(decision: &Decision) -> Result<Foreseen, Error> {
        match &decision.verdict {
            Verdict::Pass(_) => Ok(Foreseen::Pass),
            Verdict::Escalate(escalation) => Ok(Foreseen::Held(held_details(&escalation.triggers))),
            Verdict::Block(reason) => Ok(Foreseen::Blocked(code_of(reason), details_of(reason))),
            Verdict::Quote => Err(internal("a price was asked for twice")),
        }
    }

    fn outcome(&self, correlation_id: String) -> Outcome {
        let (kind, code, details) = match self {
            Foreseen::Pass => {
                let reasons = vec![WOULD_EXECUTE.to_owned()];
                (Kind::Held, None, Details { reasons, ..Details::default() })
            }
            Foreseen::Held(details) => (Kind::Held, None, details.clone()),
            Foreseen::Blocked(code, details) => (Kind::Blocked, Some(*code), details.clone()),
        };
        let hold_reason = (kind == Kind::Held).then(|| "dry_run".to_owned());
        let details = Details { dry_run: Some(true), hold_reason, ..details };
        Outcome { action_id: None, kind, code, receipt: None, correlation_id, details }
    }
}
