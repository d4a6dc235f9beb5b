//! Cycle: what is known of an action that belongs to a governed session, looked at each time it is judged.

use std::sync::Arc;

use action::{Action, ActionId, AskedCycle, Request, Resources};
use boundary::{Across, Begun, Contradiction, Decision, Reason};
use ledger::{Governed, Obstacle};
use mandate::{
    Confidence, ContextPackage, Declaration, IntentRefusal, ReasoningMode, Resource, SessionState, Usage,
};
use tokio::sync::OwnedMutexGuard;

use super::case::Case;
use super::{Asked, Before};
use crate::authority::{PUBLIC_TOKEN, Standing};
use crate::caller::Caller;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::request::refused;
use crate::row::{CycleRow, DecidedRow, IntentRow, internal};
use crate::sessions::{Budget, Contradicted, is_session, shown};
use crate::tenants::Rules;
use crate::{Code, Error, clock};

/// A cycle before the judge.
pub(super) struct Cycle {
    pub governed: Governed,
    asked: AskedCycle,
    branches: Vec<Action>,
    /// What it was when it was judged before, if its row is there already.
    before: Option<CycleRow>,
    /// Somebody asks for another attempt, or for a charge.
    asked_anew: bool,
    /// Principals who agreed to it.
    approved_by: Vec<Box<str>>,
    seen: Option<Seen>,
}

/// How it stands with a cycle while it is judged.
struct Seen {
    declaration: Result<Arc<Declaration>, IntentRefusal>,
    context: ContextPackage,
    across: Option<Across>,
    contradicts: Option<Contradicted>,
    extension_asked: bool,
    /// Who finds the budget used up asks for more, and the next one sees that.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Gateway {
    /// The session that a request names, if it is one of the caller's. Any other name is a label of the client's.
    pub(super) async fn session_named(
        &self,
        caller: &Caller,
        session_id: Option<&str>,
    ) -> Result<Option<Governed>, Error> {
        let Some(id) = session_id.filter(|id| is_session(id)) else { return Ok(None) };
        let found = self.ledger.session(&caller.tenant, id).await.map_err(unavailable)?;
        Ok(found.filter(|it| it.session.subject == caller.subject))
    }

    /// A session stands under the mandate that it was opened with; a token that came is looked at all the same.
    pub(super) async fn standing_in(
        &self,
        governed: Option<&Governed>,
        asked: &Asked<'_>,
        token: Option<&str>,
    ) -> Result<Standing, Error> {
        let (caller, dry_run) = (asked.caller, asked.ask.dry_run);
        match (governed, token) {
            (Some(governed), None) if *governed.session.mandate_id == *PUBLIC_TOKEN => {
                self.standing(caller, Some(PUBLIC_TOKEN), dry_run).await
            }
            (Some(governed), None) => {
                let default_mandate = Some(governed.session.mandate_id.to_string());
                self.standing(&Caller { default_mandate, ..caller.clone() }, None, dry_run).await
            }
            (_, token) => self.standing(caller, token, dry_run).await,
        }
    }

    /// Looks at session, declaration and budget as they are now.
    pub(super) async fn look_around(&self, case: &mut Case<'_>, facts: &ledger::Facts) -> Result<(), Error> {
        let Some(mut cycle) = case.cycle.take() else { return Ok(()) };
        // With the turn that it had: nobody waits for their own.
        cycle.seen = None;
        let (tenant, id) = (&case.asked.caller.tenant, &cycle.governed.session.id);
        let governed = self.ledger.session(tenant, id).await.map_err(unavailable)?;
        cycle.governed = governed.ok_or_else(|| internal("a session is gone"))?;
        let declaration = self.declared(&cycle).await?;
        let across = match &declaration {
            Ok(declared) if declared.mode == ReasoningMode::Extended && cycle.before.is_none() => {
                Some(self.across(&cycle.governed).await?)
            }
            _ => None,
        };
        let budget = Budget::of(case.standing.chain().zip(&facts.accounts), case.now_ms);
        let sequence = cycle.sequence(&declaration, across);
        let mut context = budget.package(&cycle.governed, declaration.as_deref().ok(), sequence, case.id);
        context.cluster = self.around(&cycle.governed, case.now_ms).await?;
        let contradicts = match context.cluster.as_ref().filter(|it| it.principals.len() > 1) {
            Some(_) => {
                self.contradicted(&cycle.governed, &case.action, case.asked.rules, case.now_ms).await?
            }
            None => None,
        };
        cycle.asked_anew = case.before().is_some_and(Before::is_asked_for);
        cycle.approved_by = case.resumed.as_ref().map(|it| it.principals.clone()).unwrap_or_default();
        let spent = case.standing.mandate.is_some() && context.remaining.exhausted().is_some();
        let turn = match spent {
            true => Some(Arc::clone(&self.tenant(tenant)?.budgets).lock_owned().await),
            false => None,
        };
        let extension_asked = spent && self.extension_asked(case).await?;
        cycle.seen = Some(Seen { declaration, context, across, contradicts, extension_asked, _turn: turn });
        case.cycle = Some(cycle);
        Ok(())
    }

    /// A cycle that was denied by its bare name: nothing more is known of it than what it said.
    pub(super) async fn denied_cycle(
        &self,
        governed: &Governed,
        standing: &Standing,
        request: &Request,
        id: ActionId,
        decision: &Decision,
    ) -> Result<(ledger::Cycle, CycleRow), Error> {
        let mandates: Vec<_> = standing.chain().cloned().collect();
        let (_, accounts) = self.left(&governed.tenant, &mandates).await?;
        let asked = request.cycle.as_deref().cloned().unwrap_or_default();
        let sequence = asked.sequence.unwrap_or_else(|| governed.session.sequence.saturating_add(1));
        let budget = Budget::of(mandates.iter().zip(&accounts), clock::now_ms());
        let mut context = budget.package(governed, None, sequence, id);
        context.cluster = self.around(governed, clock::now_ms()).await?;
        let cycle = ledger::Cycle {
            session: governed.session.id.clone(),
            epoch: governed.session.epoch,
            sequence: Some(sequence),
            intent: None,
        };
        Ok((cycle, row(&asked, &context, Vec::new(), decision)))
    }

    /// The declaration that a cycle names, or else the newest one.
    async fn declared(&self, cycle: &Cycle) -> Result<Result<Arc<Declaration>, IntentRefusal>, Error> {
        let before = cycle.before.as_ref().and_then(|before| before.intent_id.as_deref());
        let named = before.or(cycle.asked.intent_id.as_deref());
        let declaration = self.declaration(&cycle.governed, named).await?;
        Ok(declaration.ok_or(IntentRefusal::Missing))
    }

    /// What other sessions of the mandate know. Ids of declarations are unique under it: the ledger sees to that.
    async fn across(&self, governed: &Governed) -> Result<Across, Error> {
        let (mut sequence, mut after) = (0, None);
        loop {
            let of = Some(&governed.session.subject);
            let page =
                self.ledger.sessions(&governed.tenant, of, after, SESSIONS).await.map_err(unavailable)?;
            let others =
                page.rows.iter().map(|it| &it.session).filter(|it| {
                    it.mandate_id == governed.session.mandate_id && it.id != governed.session.id
                });
            sequence = others.map(|it| it.sequence).max().unwrap_or(0).max(sequence);
            after = page.next;
            if after.is_none() {
                return Ok(Across { sequence, intent_known: false });
            }
        }
    }

    /// Is somebody asked already to extend the budget of the mandate or of one above it?
    async fn extension_asked(&self, case: &Case<'_>) -> Result<bool, Error> {
        let tenant = &case.asked.caller.tenant;
        let mut after = None;
        loop {
            let page = self.ledger.held(tenant, case.now_ms, after, SESSIONS).await.map_err(unavailable)?;
            for stored in page.rows.iter().filter(|stored| stored.id != case.id) {
                let Ok(row) = IntentRow::from_bytes(&stored.payload) else { continue };
                let asks = row.wants_time();
                let same = row.mandate_id.is_some_and(|id| case.standing.chain().any(|it| it.jti == id));
                if same && asks {
                    return Ok(true);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }
}

impl Cycle {
    /// The action as a cycle of the session, with what its agent might do next understood.
    pub(super) fn new(
        governed: Governed,
        action: &Action,
        rules: &Rules,
        before: Option<CycleRow>,
    ) -> Result<Cycle, Error> {
        let asked = action.cycle.as_deref().cloned().unwrap_or_default();
        let branches = branches(&asked, rules)?;
        Ok(Cycle {
            governed,
            asked,
            branches,
            before,
            asked_anew: false,
            approved_by: Vec::new(),
            seen: None,
        })
    }

    /// Its number: the one it has, asks for, or would be next.
    fn sequence(&self, declared: &Result<Arc<Declaration>, IntentRefusal>, across: Option<Across>) -> u64 {
        let next = || {
            let declared = declared.as_ref().map_or(0, |declared| declared.sequence);
            let others = across.map_or(0, |across| across.sequence);
            self.governed.session.sequence.max(declared).max(others).saturating_add(1)
        };
        let before = self.before.as_ref().map(|before| before.sequence);
        before.or(self.asked.sequence).unwrap_or_else(next)
    }

    /// What is known of it, for the judge.
    pub(super) fn facts<'a>(&'a self, issuer: &'a str, standing: &Standing) -> Option<boundary::Cycle<'a>> {
        let seen = self.seen.as_ref()?;
        let session = &self.governed.session;
        let begun = self.begun();
        // Of those numbers some may be of declarations: it is the most that can have stood on this one.
        let last = if begun.is_some() { seen.context.sequence.saturating_sub(1) } else { session.sequence };
        let declared = seen.declaration.as_ref().map_or(last, |declared| declared.sequence);
        Some(boundary::Cycle {
            session,
            issuer,
            context: &seen.context,
            declaration: seen.declaration.as_deref().map_err(|refusal| *refusal),
            begun,
            steps_before: last.saturating_sub(declared),
            confidence: self.asked.confidence.as_ref().and_then(Confidence::declared),
            self_assessment: self.asked.self_assessment.as_deref(),
            branches: &self.branches,
            chain: standing.refusal.clone().map_or(Ok(()), Err),
            approved_by: &self.approved_by,
            contradicts: seen
                .contradicts
                .as_ref()
                .map(|it| Contradiction { earlier: it.earlier, principal: &it.principal }),
            across: seen.across,
            extension_asked: seen.extension_asked,
        })
    }

    fn begun(&self) -> Option<Begun> {
        self.before.as_ref().map(|_| if self.asked_anew { Begun::AskedAnew } else { Begun::GoesOn })
    }

    /// The principals of its cluster, who all have to agree where more than one has a say.
    pub(super) fn principals(&self) -> Vec<String> {
        let cluster = self.seen.as_ref().and_then(|seen| seen.context.cluster.as_ref());
        cluster.map(|it| it.principals.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    /// What it takes of the mandate beside money, until it is known what it took.
    pub(super) fn usage(&self) -> Usage {
        usage(1, &self.asked.resources)
    }

    /// As the ledger admits it, or writes down that it does not.
    pub(super) fn entered(&self) -> Option<ledger::Cycle> {
        let seen = self.seen.as_ref()?;
        let session = &self.governed.session;
        Some(ledger::Cycle {
            session: session.id.clone(),
            epoch: session.epoch,
            sequence: Some(seen.context.sequence),
            intent: seen.declaration.as_ref().ok().map(|declared| declared.intent_id.clone()),
        })
    }

    /// The row that tells of it, with what was decided now.
    pub(super) fn row(&self, decision: &Decision) -> Option<CycleRow> {
        let decided = self.before.as_ref().map(|before| before.decided.clone()).unwrap_or_default();
        Some(row(&self.asked, &self.seen.as_ref()?.context, decided, decision))
    }

    /// Whether the obstacle is one that another look gets over: somebody was a moment faster.
    pub(super) fn may_be_judged_anew(&self, obstacle: &Obstacle) -> bool {
        match obstacle {
            Obstacle::SessionChanged => true,
            // Who asked for no number gets the next one.
            Obstacle::NotRising { .. } => self.asked.sequence.is_none() && self.before.is_none(),
            // Another took what was left; whoever finds nothing asks for more.
            Obstacle::EnvelopeExceeded { resource: Resource::Seconds, .. } => true,
            _ => false,
        }
    }

    /// The code of a block, which for who waits behind a question about the budget is the budget's.
    pub(super) fn code(&self, reason: &Reason) -> Option<Code> {
        let exhausted = self.seen.as_ref()?.context.remaining.exhausted().is_some();
        let waits = matches!(reason, Reason::Session(SessionState::HemPending));
        (waits && exhausted).then_some(Code::BudgetExhausted)
    }
}

/// The row that tells of a cycle: what was decided before, and what is decided now.
fn row(
    asked: &AskedCycle,
    context: &ContextPackage,
    mut decided: Vec<DecidedRow>,
    decision: &Decision,
) -> CycleRow {
    decided.push(DecidedRow {
        governance: decision.governance.as_str().to_owned(),
        policies: decision.policies(),
        flags: decision.flags.iter().map(|flag| flag.as_str().to_owned()).collect(),
    });
    CycleRow {
        session_id: context.session_id.to_string(),
        intent_id: context.intent_id.as_deref().map(str::to_owned),
        sequence: context.sequence,
        asked: (*asked != AskedCycle::default()).then(|| asked.to_value()),
        context: shown(context),
        decided,
    }
}

/// Each branch as an action of its own.
fn branches(asked: &AskedCycle, rules: &Rules) -> Result<Vec<Action>, Error> {
    let action = |(n, branch): (usize, &action::AskedBranch)| {
        let within = |error: Error| {
            let field = error.field.unwrap_or_default();
            Error { field: Some(format!("/branches/{n}{field}")), ..error }
        };
        let Some(archetype) = rules.catalogue.get(&branch.archetype) else {
            return Err(within(refused(action::Refusal::unknown_archetype(&branch.archetype))));
        };
        let request = Request::plain(&archetype.name, branch.constraints.clone());
        Action::of(request, archetype).map_err(|refusal| within(refused(refusal)))
    };
    asked.branches.iter().enumerate().map(action).collect()
}

/// So much time, and these resources.
pub(crate) fn usage(seconds: u64, resources: &Resources) -> Usage {
    Usage {
        seconds,
        compute_units: resources.compute_units,
        memory_bytes: resources.memory_bytes,
        storage_bytes: resources.storage_bytes,
        egress_bytes: resources.network_egress_bytes,
    }
}

/// What is said as a cycle where there is no session to be one of.
pub(super) fn no_cycle(asked: &AskedCycle) -> Error {
    let member = asked.first_member().unwrap_or_default();
    Error::new(
        Code::ValidationFailed,
        "this is said of a cycle, and the request names no session of the caller's",
    )
    .field(format!("/{member}"))
    .hint("open a session at `POST /v1/sessions` and name it as `session_id`")
}

/// Rows read at once.
const SESSIONS: u32 = 200;
