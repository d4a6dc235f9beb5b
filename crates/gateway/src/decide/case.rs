//! An action before the judge, and the facts around it.

use std::sync::Arc;
use std::time::Instant;

use action::{Action, ActionId, IdempotencyKey, Money, OnDuplicate};
use boundary::{Approved, Decision, Facts};
use execution::{Call, Confirmation};
use ledger::{Basis, Effect, FactsQuery, Obstacle, State, Tolerance};
use provider::Provider;
use provider::mcp::{Quarantine, Tool};
use tokio::sync::OnceCell;

use super::Asked;
use super::again::{Before, Resumed};
use super::cycle::{Cycle, no_cycle};
use super::describe::Judged;
use crate::authority::Standing;
use crate::caller::Caller;
use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::pending::Pending;
use crate::remember::{Row, outward, unavailable};
use crate::row::{CycleRow, EscalationRow};
use crate::{Error, clock};

/// An action before the judge.
pub(super) struct Case<'a> {
    pub asked: Asked<'a>,
    pub id: ActionId,
    pub action: Action,
    pub provider: Arc<dyn Provider>,
    pub standing: Standing,
    pub principal: Arc<str>,
    pub request_hash: [u8; 32],
    pub effect: Option<Effect>,
    pub salt: [u8; 32],
    pub observe: bool,
    /// When it is judged, which may be more than once.
    pub now_ms: i64,
    /// Set where it belongs to a governed session.
    pub cycle: Option<Box<Cycle>>,
    /// Set where the action waited for people and its row is there already.
    pub resumed: Option<Resumed>,
    /// What names that row as it is stored; zeros where there is none yet.
    pub name: [u8; 32],
    /// What its provider has done of it that the store has forgotten, once it was asked.
    pub known: OnceCell<Option<(Call, Confirmation)>>,
}

impl Case<'_> {
    /// What it has behind it, if it was sent before.
    pub(super) fn before(&self) -> Option<&Before> {
        self.resumed.as_ref()?.before.as_ref()
    }

    /// How much of what was set aside for it is to be charged.
    pub(super) fn charges(&self) -> Option<Money> {
        let reservation = self.before()?.reservation.as_ref()?;
        let (_, part) = reservation.charge(reservation.charging()?, mandate::exposure(&self.action)).ok()?;
        part
    }

    /// Whether the obstacle to its admission is one that another look gets over.
    pub(super) fn may_be_judged_anew(&self, obstacle: &Obstacle) -> bool {
        self.cycle.as_ref().is_some_and(|cycle| cycle.may_be_judged_anew(obstacle))
    }

    /// Takes in whether its tenant is only observed now, as whoever said so last wants it.
    pub(super) fn observes(&mut self, facts: &ledger::Facts) {
        self.observe = self.asked.tenant.observes_as(facts.observed_ms, self.now_ms);
        let tolerates = self.observe || self.action.archetype.duplicate.on == OnDuplicate::Allow;
        let tolerate = if tolerates { Tolerance::Anything } else { Tolerance::Nothing };
        self.effect = self.effect.map(|effect| Effect { tolerate, ..effect });
    }

    /// What people are asked about it, if they have not answered and it is judged only to ask them by other rules.
    pub(super) fn asked_anew(&self) -> Option<&EscalationRow> {
        let only_asks = |it: &&Resumed| it.only_asks || matches!(it.basis, Basis::Held { .. });
        let resumed = self.resumed.as_ref().filter(only_asks);
        resumed?.escalation.as_ref()
    }
}

impl Gateway {
    pub(super) async fn case<'a>(
        &self,
        asked: &Asked<'a>,
        action: Action,
        provider: Arc<dyn Provider>,
        now_ms: i64,
        before: Option<CycleRow>,
    ) -> Result<Case<'a>, Error> {
        let caller = asked.caller;
        let governed = self.session_named(caller, action.session_id.as_deref()).await?;
        let standing = self.standing_in(governed.as_ref(), asked, action.delegation_token.as_deref()).await?;
        let cycle = match (governed, action.cycle.as_deref()) {
            (Some(governed), _) => Some(Box::new(Cycle::new(governed, &action, asked.rules, before)?)),
            (None, Some(words)) => return Err(no_cycle(words)),
            (None, None) => None,
        };
        let principal: Arc<str> = match &standing.mandate {
            Some(mandate) => mandate.root_principal().into(),
            None => caller.subject.as_str().into(),
        };
        let hmac = &asked.tenant.hmac;
        let duplicate = &action.archetype.duplicate;
        let effect = action.effect_hash(hmac, &principal).map(|hash| Effect {
            hash,
            window_ms: i64::try_from(duplicate.window.as_millis()).unwrap_or(i64::MAX),
            tolerate: match duplicate.on {
                OnDuplicate::Allow => Tolerance::Anything,
                _ => Tolerance::Nothing,
            },
        });
        let seed: [u8; 42] = clock::random()?;
        let (random, salt) = seed.split_at(10);
        let at_ms = u64::try_from(asked.arrival.at_ms).unwrap_or(0);
        Ok(Case {
            asked: *asked,
            id: ActionId::new(at_ms, random.try_into().unwrap_or_default()),
            request_hash: action.request_hash(hmac),
            action,
            provider,
            standing,
            principal,
            effect,
            salt: salt.try_into().unwrap_or_default(),
            observe: false,
            now_ms,
            cycle,
            resumed: None,
            name: [0; 32],
            known: OnceCell::new(),
        })
    }

    pub(super) async fn facts(&self, case: &Case<'_>) -> Result<ledger::Facts, Error> {
        let mandates: Vec<Arc<str>> =
            case.standing.chain().map(|mandate| mandate.jti.as_str().into()).collect();
        let money = case.action.money.or(case.action.bound);
        let query = FactsQuery {
            tenant: &case.asked.caller.tenant,
            environment: self.environment,
            subject: &case.asked.caller.subject,
            // Its key is its own where it waited; and a dry run uses none up, so what a used one did is not what it asks.
            key: case
                .asked
                .key
                .filter(|_| case.resumed.is_none() && !case.asked.ask.dry_run)
                .map(IdempotencyKey::as_str),
            request_hash: &case.request_hash,
            archetype: &case.action.archetype.name,
            provider: Some(case.provider.name()),
            principal: &case.principal,
            currency: money.map(|money| money.currency().code()),
            destination: case.action.destination.as_deref(),
            mandates: &mandates,
            effect: case.effect.as_ref(),
            apart_from: case.resumed.as_ref().map(|_| case.id),
            now_ms: case.now_ms,
        };
        let mut facts = self.ledger.facts(query).await.map_err(unavailable)?;
        if let Some(own) = case.before().and_then(|before| before.own) {
            own.taken_out_of(&mut facts);
        }
        Ok(facts)
    }

    /// Decides, with what people agreed to.
    pub(super) fn decide(&self, case: &Case<'_>, facts: &ledger::Facts) -> Decision {
        self.decide_with(case, facts, case.resumed.as_ref().and_then(|resumed| resumed.approved.as_ref()))
    }

    pub(super) fn decide_with(
        &self,
        case: &Case<'_>,
        facts: &ledger::Facts,
        approved: Option<&Approved>,
    ) -> Decision {
        let started = Instant::now();
        let caller = judged_caller(case.asked.caller);
        let frozen = facts.frozen.as_ref().map(|freeze| freeze.scope.to_string());
        let mut chain = case.standing.chain().map(|mandate| &**mandate).zip(&facts.accounts);
        let mandate = chain.next();
        let ancestors: Vec<_> = chain.collect();
        let (verb, target) = case.action.verb_and_target();
        let decision = boundary::decide(
            &case.asked.rules.policies,
            &Facts {
                environment: self.environment,
                action: &case.action,
                verb,
                target,
                caller: &caller,
                mandate,
                ancestors: &ancestors,
                mandate_refusal: case.standing.refusal.clone(),
                frozen: frozen.as_deref(),
                quarantined: case.provider.tool().and_then(Tool::quarantine).map(Quarantine::as_str),
                series: &facts.series,
                first_seen_destination: facts.first_seen,
                earlier: facts
                    .earlier
                    .map(|earlier| boundary::Earlier { id: earlier.id, at_ms: earlier.at_ms }),
                charges: case.charges(),
                approved,
                cycle: case.cycle.as_ref().and_then(|it| it.facts(&self.issuer, &case.standing)),
                observe: case.observe,
                now_ms: case.now_ms,
                request_hash: case.request_hash,
                salt: case.salt,
            },
        );
        if let Some(detail) = &decision.detail {
            tracing::info!(action = %case.id, %detail, "decided");
        }
        self.metrics.step(Step::Decide, started.elapsed());
        decision
    }

    pub(super) async fn quote(&self, case: &Case<'_>) -> Result<Money, ()> {
        let ask = provider::Ask {
            action_id: case.id,
            constraints: &case.action.constraints,
            bound: case.action.bound,
            now_ms: clock::now_ms(),
        };
        let _asks = case.asked.ask.wait.asks();
        case.provider.quote(ask).await.map_err(|unquoted| {
            tracing::warn!(action = %case.id, why = %unquoted, "no quote");
        })
    }

    pub(super) fn pending(&self, case: &Case<'_>, judged: Judged) -> Pending {
        Pending {
            id: case.id,
            tenant: case.asked.caller.tenant.clone(),
            subject: case.asked.caller.subject.clone(),
            key: case.asked.key.map(|key| key.as_str().into()),
            archetype: case.action.archetype.name.as_str().into(),
            at_ms: case.asked.arrival.at_ms,
            money: mandate::exposure(&case.action),
            name: case.name,
            row: judged.row,
            chain: judged.chain,
            told: case.before().and_then(|before| before.told.clone()),
            by: case.resumed.as_ref().map_or(ledger::By::Holder(1), |resumed| resumed.by),
            settled: false,
            word: None,
            earlier: None,
            late: false,
            halts: None,
            doubt: None,
        }
    }

    pub(super) fn row_of<'a>(
        &self,
        case: &'a Case<'_>,
        pending: &'a Pending,
        event: &'static str,
        state: State,
    ) -> Row<'a> {
        Row {
            id: case.id,
            tenant: case.asked.tenant,
            caller: case.asked.caller,
            key: case.asked.key.map(IdempotencyKey::as_str),
            request_hash: &case.request_hash,
            archetype: &pending.archetype,
            provider: Some(case.provider.name()),
            principal: &case.principal,
            at_ms: case.now_ms,
            amount: pending.money,
            event,
            state: Some(outward(state)),
        }
    }
}

pub(crate) fn judged_caller(caller: &Caller) -> boundary::Caller {
    boundary::Caller { tenant: caller.tenant.clone(), subject: caller.subject.clone(), is_human: false }
}
