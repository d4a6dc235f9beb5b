//! What is known of an action that is a cycle: the session it belongs to, what its agent declared, and what stands
//! around it.

use action::{Action, ActionId};
use mandate::{Confidence, ContextPackage, Declaration, IntentRefusal, ReasoningMode, Session};

/// Who declares less confidence than this says that it is unsure.
const UNSURE_BELOW: u16 = 6_000;

/// A cycle: an action inside a governed session.
#[derive(Debug, Clone)]
pub struct Cycle<'a> {
    /// The session, as its row says now.
    pub session: &'a Session,
    /// The issuer URL of this installation.
    pub issuer: &'a str,
    /// What is true of the cycle, as the gateway found it; the session's cluster and chain stand in it.
    pub context: &'a ContextPackage,
    /// The declaration that it stands on, or why there is none to look at.
    pub declaration: Result<&'a Declaration, IntentRefusal>,
    /// How it comes that it is judged again, if its number was accepted before.
    pub begun: Option<Begun>,
    /// Cycles that stood on the same declaration before it.
    pub steps_before: u64,
    /// How sure its agent says it is.
    pub confidence: Option<Confidence>,
    /// What its agent says of itself.
    pub self_assessment: Option<&'a str>,
    /// Everything that its agent might do next, where it reasons in branches.
    pub branches: &'a [Action],
    /// Whether the chain that the mandate came down holds, link by link; well where there is none.
    pub chain: Result<(), mandate::Refusal>,
    /// Principals of the cluster who agreed to this action.
    pub approved_by: &'a [Box<str>],
    /// An earlier instruction that it contradicts.
    pub contradicts: Option<Contradiction<'a>>,
    /// How it stands to other sessions of the mandate, where that was looked up.
    pub across: Option<Across>,
    /// Somebody is asked to extend the mandate's budget already.
    pub extension_asked: bool,
}

/// What a cycle that began before is judged again for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// People agreed to it, or its next attempt is due: it goes on, whoever else the session waits for.
    GoesOn,
    /// Somebody asks for another attempt, or for a charge: nothing new is sent while the session waits for people.
    AskedAnew,
}

/// An instruction of another principal on the same resource that says the opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction<'a> {
    /// The action that it came with.
    pub earlier: ActionId,
    /// Who gave it.
    pub principal: &'a str,
}

/// What other sessions of the same mandate know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Across {
    /// The highest number that any of them accepted.
    pub sequence: u64,
    /// One of them has an intent of the same id.
    pub intent_known: bool,
}

/// Something odd about a cycle that is recorded and stops nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flag {
    /// Its agent says it is unsure, and no class of escalation fires.
    LayerDiscrepancy,
    /// What it does is not what the declared mode says.
    ModeDeviation,
}

impl Flag {
    /// As it stands in receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            Flag::LayerDiscrepancy => "HEM_LAYER_DISCREPANCY",
            Flag::ModeDeviation => "MODE_DEVIATION",
        }
    }
}

impl Cycle<'_> {
    /// The declared mode; unknown without a declaration.
    pub fn mode(&self) -> Option<ReasoningMode> {
        self.declaration.ok().map(|declaration| declaration.mode)
    }

    /// What is odd about it, where `fired` says whether any class of escalation did.
    pub(crate) fn flags(&self, fired: bool) -> Vec<Flag> {
        let odd =
            [(self.is_unsure() && !fired, Flag::LayerDiscrepancy), (self.deviates(), Flag::ModeDeviation)];
        odd.into_iter().filter(|(odd, _)| *odd).map(|(_, flag)| flag).collect()
    }

    /// The share of its session's cycles that were not denied, in ten-thousandths; whole as long as there are none. Rounds
    /// down: it may only become stricter.
    pub(crate) fn trust(&self) -> u64 {
        let (kept, denied) = (u128::from(self.session.cycles), u128::from(self.session.denials));
        u64::try_from((kept * 10_000).checked_div(kept + denied).unwrap_or(10_000)).unwrap_or(0)
    }

    fn is_unsure(&self) -> bool {
        self.confidence.is_some_and(|share| share.ten_thousandths() < UNSURE_BELOW)
    }

    /// Whether it does more than the mode says, or without what the mode is about. What a mode demands is refused
    /// where it is missing and not only told.
    fn deviates(&self) -> bool {
        let branches = !self.branches.is_empty();
        match self.mode() {
            None | Some(ReasoningMode::Tree) => false,
            Some(ReasoningMode::Direct) => branches || self.steps_before > 0,
            Some(ReasoningMode::Collaborative) => branches || self.context.cluster.is_none(),
            Some(_) => branches,
        }
    }

    /// Principals of the cluster who did not agree, where it takes more than one to agree.
    pub(crate) fn unheard(&self) -> bool {
        let cluster = self.context.cluster.as_ref();
        cluster.is_some_and(|cluster| {
            cluster.principals.len() > 1
                && cluster.principals.iter().any(|principal| !self.approved_by.contains(principal))
        })
    }
}
