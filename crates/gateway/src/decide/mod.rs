//! Decide: facts in, verdict out, and what each verdict leads to.
//!
//! `case` brings an action before the judge, `cycle` what is known of its session, `describe` writes down what was found, and one of `admit`, `refuse` and
//! `hold` follows, or `foreseen` where it is decided only. `again` takes what waited and was approved the same way once more. `by_name` blocks what is denied before any of that; `reasons` puts a verdict in published words.

mod admit;
mod again;
mod by_name;
mod case;
mod cycle;
mod describe;
mod foreseen;
mod hold;
mod named;
mod reasons;
mod refuse;

use std::sync::Arc;
use std::time::Instant;

use action::{Action, IdempotencyKey};
use boundary::{Flag, Reason, Verdict};
use mandate::SessionState;
use provider::Provider;

pub(crate) use self::again::{Before, Own, Resumed};
use self::case::Case;
pub(crate) use self::case::judged_caller;
pub(crate) use self::cycle::usage;
pub(crate) use self::describe::{judged_hash_of, salts_of};
pub use self::foreseen::Foreseen;
pub(crate) use self::named::{Named, altered, as_told};
pub(crate) use self::reasons::code_of_intent;
use self::reasons::{code_of, details_of, held_details, stop};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::request::{Arrival, Ask, Next};
use crate::row::internal;
use crate::tenants::{Rules, TenantState};
use crate::{Code, Error, clock};

/// A request and everything around it.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub caller: &'a Caller,
    pub tenant: &'a Arc<TenantState>,
    pub rules: &'a Rules,
    pub key: Option<&'a IdempotencyKey>,
    pub ask: &'a Ask,
    pub arrival: Arrival,
}

/// How often a case is judged: without its price, with it, and anew because a mandate or a session changed between judgement
/// and admission, which where policies look at what is left may be each time that somebody else is admitted.
const MOST_JUDGEMENTS: u32 = 64;

impl Gateway {
    /// Whether the caller could ever be let do something of this archetype, by policies or by people, so that what is out of
    /// the question need not be offered. No promise that anything will pass; of what the catalogue does not have, nothing does.
    pub fn could_use(&self, caller: &Caller, archetype: &str) -> bool {
        let Ok(tenant) = self.tenant(&caller.tenant) else { return false };
        let observe = tenant.observes(clock::now_ms());
        caller.role.may(Deed::Execute)
            && tenant.rules().policies.could_use(&judged_caller(caller), archetype, observe)
    }

    /// Judges an action and does what the verdict says.
    pub(crate) async fn judge(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        action: Action,
        provider: Arc<dyn Provider>,
    ) -> Result<Next, Error> {
        let case = self.case(asked, action, provider, asked.arrival.at_ms, None).await?;
        self.judge_case(case).await
    }

    async fn judge_case(self: &Arc<Self>, mut case: Case<'_>) -> Result<Next, Error> {
        let asked = case.asked;
        let mut quote = None;
        for _ in 0..MOST_JUDGEMENTS {
            // A provider may take its time to name a price; a mandate that ended meanwhile has ended.
            case.now_ms = clock::now_ms();
            let started = Instant::now();
            let mut facts = self.facts(&case).await?;
            self.metrics.step(Step::Facts, started.elapsed());
            if let Some(existing) = facts.existing.take().filter(|_| !asked.ask.dry_run) {
                return self.answer_again(asked.tenant, existing).await.map(Next::Said);
            }
            case.observes(&facts);
            self.look_around(&mut case, &facts).await?;
            let mut decision = self.decide(&case, &facts);
            if quote.is_none() && matches!(decision.verdict, Verdict::Quote) {
                let price = match self.quote(&case).await {
                    Ok(price) => price,
                    Err(()) => return self.without_quote(&case, decision).await.map(Next::Said),
                };
                quote = Some(price);
                case.action = case.action.with_quote(price);
                // The past that it is held against is that of the currency it turned out to have.
                continue;
            }
            if asked.ask.dry_run {
                return self.say_dry(&asked, &decision).map(Next::Said);
            }
            if matches!(decision.verdict, Verdict::Escalate(_))
                && case.resumed.is_some()
                && case.before().is_none()
            {
                // Something is new: people are shown all of it once more, and not only what is new.
                decision = self.decide_with(&case, &facts, None);
            }
            let deviates = case.resumed.is_none() && decision.flags.contains(&Flag::ModeDeviation);
            let (judged, verdict) = self.describe_case(&case, decision)?;
            if let (Verdict::Pass(_), Some(asked_before)) = (&verdict, case.asked_anew()) {
                // The rules of now ask nobody, but it waits for a yes and nobody has said so: the question stays.
                let triggers = asked_before.read()?;
                match self.hold(&case, judged, &triggers).await? {
                    Some(answer) => return Ok(Next::Said(answer)),
                    None => continue,
                }
            }
            match verdict {
                Verdict::Pass(permit) => match self.admit(&case, judged, permit, &facts, quote).await? {
                    Some(next) => return Ok(self.noted(&case, deviates, next).await),
                    None => continue,
                },
                Verdict::Block(reason) if case.before().is_some() => {
                    return Ok(Next::NotNow(stop(code_of(&reason), details_of(&reason))));
                }
                Verdict::Escalate(escalation) if case.before().is_some() => {
                    // Nobody was asked about what is new, and an attempt does not wait for people.
                    return Ok(Next::NotNow(stop(Code::BoundaryBlock, held_details(&escalation.triggers))));
                }
                Verdict::Block(reason) => {
                    let mut details = details_of(&reason);
                    if let (Reason::Session(SessionState::Suspended), Some(cycle)) = (&reason, &case.cycle) {
                        details.reasons.extend(self.stopped_by(&cycle.governed).await?);
                    }
                    let code = case.cycle.as_ref().and_then(|cycle| cycle.code(&reason));
                    let code = code.unwrap_or_else(|| code_of(&reason));
                    let governed = case.cycle.as_ref().map(|cycle| &cycle.governed);
                    let halts = governed.map(|it| self.halts(it, reason.class())).transpose()?.flatten();
                    let answer = self.block(&case, judged, code, details, halts).await?;
                    let said = self.noted(&case, deviates, Next::Said(answer)).await;
                    // Its turn ends with what was seen of it, and is not kept while a session ends.
                    if let Some(governed) = case.cycle.take().map(|cycle| cycle.governed) {
                        self.end_stopped(&governed).await;
                    }
                    return Ok(said);
                }
                Verdict::Escalate(escalation) => {
                    match self.hold(&case, judged, &escalation.triggers).await? {
                        Some(answer) => return Ok(self.noted(&case, deviates, Next::Said(answer)).await),
                        None => continue,
                    }
                }
                Verdict::Quote => return Err(internal("a price was asked for twice")),
            }
        }
        Err(Error::new(Code::Unavailable, "the mandate kept changing while the action was judged")
            .retry_after(1))
    }

    /// What is odd about a cycle is on record once the cycle itself is.
    async fn noted(&self, case: &Case<'_>, deviates: bool, next: Next) -> Next {
        if let (Some(cycle), true) = (&case.cycle, deviates) {
            self.note_deviation(&cycle.governed, case.id).await;
        }
        next
    }
}
