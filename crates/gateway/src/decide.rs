//! Decide: facts in, verdict out, and what each verdict leads to.

use std::sync::Arc;
use std::time::Instant;

use action::{Action, ActionId, IdempotencyKey, Money, OnDuplicate, Request};
use boundary::{Decision, Escalation, Facts, Named, Permit, Reason, Trigger, Verdict};
use execution::Confirmation;
use ledger::{Admitted, Debit, Effect, FactsQuery, Obstacle, Recorded, State, Tolerance};
use mandate::Mandate;
use provider::Provider;
use receipt::{Chain, Json, NewEntry, Salts, Stage};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::act::{Errand, SEND_WINDOW};
use crate::authority::Standing;
use crate::caller::Caller;
use crate::gateway::Gateway;
use crate::metrics::Step;
use crate::outcome::{Details, Kind, Missing, Outcome, ReceiptRef};
use crate::pending::{Described, Pending, conceal, describe, entries};
use crate::prove::{push, refused};
use crate::remember::{Row, draft, outward, stored, unavailable};
use crate::request::{Answer, Arrival, Ask, Next};
use crate::row::{CallRow, IntentRow, ObservedRow, OutcomeRow, VERSION, internal, raw};
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

/// An action before the judge.
struct Case<'a> {
    asked: Asked<'a>,
    id: ActionId,
    action: Action,
    provider: Arc<dyn Provider>,
    standing: Standing,
    principal: Arc<str>,
    request_hash: [u8; 32],
    effect: Option<Effect>,
    salt: [u8; 32],
    observe: bool,
}

/// A judged case on its way to the ledger.
struct Judged {
    chain: Chain,
    row: IntentRow,
    action_hash: [u8; 32],
}

/// How often a case is judged anew because a mandate changed between judgement and admission.
const MOST_JUDGEMENTS: u32 = 3;

impl Gateway {
    /// Judges an action and does what the verdict says.
    pub(crate) async fn judge(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        action: Action,
        provider: Arc<dyn Provider>,
    ) -> Result<Next, Error> {
        let mut case = self.case(asked, action, provider).await?;
        let mut quote = None;
        for _ in 0..MOST_JUDGEMENTS {
            let started = Instant::now();
            let facts = self.facts(&case).await?;
            self.metrics.step(Step::Facts, started.elapsed());
            if let (Some(existing), false) = (&facts.existing, asked.ask.dry_run) {
                return self.answer_again(asked.tenant, existing.clone()).await.map(Next::Said);
            }
            let mut decision = self.decide(&case, &facts);
            if matches!(decision.verdict, Verdict::Quote) {
                let price = match self.quote(&case).await {
                    Ok(price) => price,
                    Err(()) => return self.without_quote(&case, decision).await.map(Next::Said),
                };
                quote = Some(price);
                case.action = case.action.with_quote(price);
                decision = self.decide(&case, &facts);
            }
            if asked.ask.dry_run {
                return Ok(Next::Said(self.say_dry(asked, &decision)));
            }
            let Decision { verdict, stages, observed, record, .. } = decision;
            let judged = self.describe_case(&case, stages, observed, record.to_bytes())?;
            match verdict {
                Verdict::Pass(permit) => match self.admit(&case, judged, permit, &facts, quote).await? {
                    Some(next) => return Ok(next),
                    None => continue,
                },
                Verdict::Block(reason) => {
                    let details = details_of(&reason);
                    return self.block(&case, judged, code_of(&reason), details).await.map(Next::Said);
                }
                Verdict::Escalate(escalation) => {
                    return self.hold(&case, judged, words(&escalation)).await.map(Next::Said);
                }
                Verdict::Quote => return Err(internal("a price was asked for twice")),
            }
        }
        Err(Error::new(Code::Unavailable, "the mandate kept changing while the action was judged")
            .retry_after(1))
    }

    async fn case<'a>(
        &self,
        asked: &Asked<'a>,
        action: Action,
        provider: Arc<dyn Provider>,
    ) -> Result<Case<'a>, Error> {
        let caller = asked.caller;
        let standing = self.standing(caller, action.delegation_token.as_deref()).await?;
        let principal: Arc<str> = match &standing.mandate {
            Some(mandate) => mandate.root_principal().into(),
            None => caller.subject.as_str().into(),
        };
        let hmac = &asked.tenant.hmac;
        let duplicate = &action.archetype.duplicate;
        let observe = asked.tenant.observes(asked.arrival.at_ms);
        let effect = action.effect_hash(hmac, &principal).map(|hash| Effect {
            hash,
            window_ms: i64::try_from(duplicate.window.as_millis()).unwrap_or(i64::MAX),
            tolerate: match duplicate.on == OnDuplicate::Allow || observe {
                true => Tolerance::Anything,
                false => Tolerance::Nothing,
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
            observe,
        })
    }

    async fn facts(&self, case: &Case<'_>) -> Result<ledger::Facts, Error> {
        let mandates: Vec<Arc<str>> =
            case.standing.mandate.iter().map(|mandate| mandate.jti.as_str().into()).collect();
        let money = case.action.money.or(case.action.bound);
        let query = FactsQuery {
            tenant: &case.asked.caller.tenant,
            environment: self.environment,
            subject: &case.asked.caller.subject,
            key: case.asked.key.map(IdempotencyKey::as_str),
            request_hash: &case.request_hash,
            archetype: &case.action.archetype.name,
            provider: Some(case.provider.name()),
            principal: &case.principal,
            currency: money.map(|money| money.currency().code()),
            destination: case.action.destination.as_deref(),
            mandates: &mandates,
            effect: case.effect.as_ref(),
            now_ms: case.asked.arrival.at_ms,
        };
        self.ledger.facts(query).await.map_err(unavailable)
    }

    fn decide(&self, case: &Case<'_>, facts: &ledger::Facts) -> Decision {
        let started = Instant::now();
        let caller = judged_caller(case.asked.caller);
        let frozen = facts.frozen.as_ref().map(|freeze| freeze.scope.to_string());
        let mandate = case.standing.mandate.as_deref().zip(facts.accounts.first());
        let decision = boundary::decide(
            &case.asked.rules.policies,
            &Facts {
                environment: self.environment,
                action: &case.action,
                verb: None,
                target: None,
                caller: &caller,
                mandate,
                mandate_refusal: case.standing.refusal.clone(),
                frozen: frozen.as_deref(),
                series: &facts.series,
                first_seen_destination: facts.first_seen,
                earlier: facts
                    .earlier
                    .map(|earlier| boundary::Earlier { id: earlier.id, at_ms: earlier.at_ms }),
                observe: case.observe,
                now_ms: case.asked.arrival.at_ms,
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

    async fn quote(&self, case: &Case<'_>) -> Result<Money, ()> {
        let ask = provider::Ask {
            action_id: case.id,
            constraints: &case.action.constraints,
            bound: case.action.bound,
        };
        case.provider.quote(ask).await.map_err(|unquoted| {
            tracing::warn!(action = %case.id, why = %unquoted, "no quote");
        })
    }

    /// The entries of a decision and the row that goes with them.
    fn describe_case(
        &self,
        case: &Case<'_>,
        stages: Vec<boundary::Stage>,
        observed: Option<boundary::Observed>,
        record: Vec<u8>,
    ) -> Result<Judged, Error> {
        let salts = Salts::new(&case.salt);
        let constraints = conceal(&case.action, &salts)?;
        let chain = chain_of(&case.asked.arrival, &case.request_hash, stages, &constraints)?;
        let action_hash = self.action_hash(case, &constraints)?;
        let mandate_id = case.standing.mandate.as_ref().map(|mandate| mandate.jti.as_str());
        let described = Described {
            action: &case.action,
            salt: &case.salt,
            mandate_id,
            correlation_id: &case.asked.ask.request_id,
            action_hash: &action_hash,
            rules: case.asked.rules,
        };
        let mut row = describe(&described, &chain, None)?;
        row.observed =
            observed.map(|it| ObservedRow { would_be: it.would_be.to_owned(), code: it.code.to_owned() });
        row.record = Some(raw(String::from_utf8(record).map_err(|_| internal("a record is not text"))?)?);
        Ok(Judged { chain, row, action_hash })
    }

    fn action_hash(&self, case: &Case<'_>, constraints: &Json) -> Result<[u8; 32], Error> {
        let record = ActionRecord {
            action_id: case.id.to_string(),
            agent_id: case.asked.caller.subject.as_str(),
            archetype: &case.action.archetype.name,
            constraints,
            guarantee_level: case.action.guarantee_level.as_str(),
            mandate_id: case.standing.mandate.as_ref().map(|mandate| mandate.jti.as_str()),
            payment_mode: case.action.payment_mode.as_str(),
            request_hash: hex::encode(case.request_hash),
            tenant: case.asked.caller.tenant.as_str(),
        };
        let bytes =
            serde_json::to_vec(&record).map_err(|_| internal("an action record cannot be written"))?;
        Ok(Sha256::digest(bytes).into())
    }

    /// Commit 1, and the errand if it is admitted. `None`: judge anew.
    async fn admit(
        self: &Arc<Self>,
        case: &Case<'_>,
        mut judged: Judged,
        permit: Permit,
        facts: &ledger::Facts,
        quote: Option<Money>,
    ) -> Result<Option<Next>, Error> {
        let quote_only = case.action.payment_mode == action::PaymentMode::QuoteOnly;
        judged.row.call = Some(self.call_row(case)?);
        let pending = self.pending(case, judged);
        let intent = self.intent(&self.row_of(case, &pending, "admitted", State::Sent), &pending.row)?;
        let admission = ledger::Admission {
            intent: ledger::Intent { amount: intent.amount.filter(|_| !quote_only), ..intent },
            hold_until_ms: None,
            debits: debits(case.standing.mandate.as_deref(), facts),
            effect: case.effect.filter(|_| !quote_only).map(|effect| Effect {
                tolerate: match (effect.tolerate, repeated_on_purpose(&case.action, facts)) {
                    (Tolerance::Nothing, Some(earlier)) => Tolerance::This(earlier),
                    (tolerance, _) => tolerance,
                },
                ..effect
            }),
            destination: case.action.destination.as_deref().map(Into::into),
        };
        // Before it can be found as sent: recovery must not take it for an orphan.
        let under_way = self.under_way(case.id);
        let started = Instant::now();
        let admitted = self.ledger.admit(admission).await.map_err(unavailable)?;
        self.metrics.step(Step::Admit, started.elapsed());
        match admitted {
            Admitted::New { .. } => Ok(Some(Next::Admitted(Box::new(Errand {
                under_way,
                tenant: Arc::clone(case.asked.tenant),
                call: pending.call_of(self.environment, &case.action)?,
                pending: pending.remembered()?,
                permit,
                provider: Arc::clone(&case.provider),
                admitted: Instant::now(),
                deadline: case.asked.arrival.deadline(case.action.deadline_ms),
                quoted: quote.filter(|_| quote_only).map(quoted),
            })))),
            Admitted::Existing(existing) => {
                self.answer_again(case.asked.tenant, existing).await.map(Next::Said).map(Some)
            }
            Admitted::Refused(Obstacle::MandateChanged { .. }) => Ok(None),
            Admitted::Refused(Obstacle::Duplicate(earlier))
                if case.action.archetype.duplicate.on == OnDuplicate::Escalate =>
            {
                let trigger = Trigger::ProbableDuplicate { earlier: earlier.id };
                let judged = judged_again(pending);
                self.hold(case, judged, vec![trigger.word().to_owned()]).await.map(Next::Said).map(Some)
            }
            Admitted::Refused(obstacle) => {
                self.block_at_admission(case, pending, &obstacle).await.map(Next::Said).map(Some)
            }
        }
    }

    /// What admission refuses stands in the entry `execute`.
    async fn block_at_admission(
        &self,
        case: &Case<'_>,
        pending: Pending,
        obstacle: &Obstacle,
    ) -> Result<Answer, Error> {
        let (code, reason, details) = obstacle_of(obstacle);
        let error = refused(code, reason)?;
        let mut judged = judged_again(pending);
        push(&mut judged.chain, Stage::Execute, || Ok(NewEntry { error, ..NewEntry::at(clock::now()) }))?;
        self.block(case, judged, code, details).await
    }

    /// The one commit of a refusal: receipt and reply included.
    async fn block(
        &self,
        case: &Case<'_>,
        judged: Judged,
        code: Code,
        details: Details,
    ) -> Result<Answer, Error> {
        let pending = self.pending(case, judged);
        let row = self.row_of(case, &pending, "refused", State::Refused);
        if let Some(answer) = self.repeats(&row, &pending, code).await? {
            return Ok(answer);
        }
        let ending = self.blocked(pending.chain.clone(), code, details);
        self.refuse(&row, &pending, code, ending).await
    }

    /// A provider that must name its price does not: nothing can be authorised and nothing was sent.
    async fn without_quote(&self, case: &Case<'_>, decision: Decision) -> Result<Answer, Error> {
        if case.asked.ask.dry_run {
            return Err(Error::new(Code::ProviderFailed, "the provider named no price").retry_after(5));
        }
        let Decision { stages, observed, record, .. } = decision;
        let mut judged = self.describe_case(case, stages, observed, record.to_bytes())?;
        judged.row.call = Some(self.call_row(case)?);
        let pending = self.pending(case, judged);
        let row = self.row_of(case, &pending, "failed", State::Failed);
        let ending = self.failed(&pending, Code::ProviderFailed, "no_quote", None)?;
        self.refuse(&row, &pending, Code::ProviderFailed, ending).await
    }

    async fn refuse(
        &self,
        row: &Row<'_>,
        pending: &Pending,
        code: Code,
        ending: crate::prove::Ending<'_>,
    ) -> Result<Answer, Error> {
        let started = Instant::now();
        let proven = self.prove(pending, ending, &pending.row.correlation_id)?;
        self.metrics.step(Step::Prove, started.elapsed());
        let reply = proven.reply;
        let refusal = ledger::Refusal {
            intent: self.intent(row, &pending.row)?,
            code: code.as_str(),
            outcome: ledger::Outcome {
                at_ms: proven.at_ms,
                state: proven.state,
                reply: Some(ledger::Reply { status: reply.status, body: reply.body.clone() }),
                receipt: proven.receipt.zip(proven.receipt_id).map(|(receipt, id)| stored(receipt, &id)),
                payload: proven.payload,
                entry: draft(row.tenant, row.event, row.state, row.action_hash, 1),
            },
        };
        let started = Instant::now();
        let recorded = self.ledger.refuse(refusal).await.map_err(unavailable)?;
        self.metrics.step(Step::Settle, started.elapsed());
        match recorded {
            Recorded::New { .. } => {
                self.metrics.outcome(proven.outcome.kind);
                Ok(Answer { reply, replayed: false, action_id: Some(pending.id) })
            }
            Recorded::Existing(existing) => {
                let tenant = self.tenant(&row.caller.tenant)?;
                self.answer_again(tenant, existing).await
            }
        }
    }

    /// The same request was refused for the same reason a moment ago: that receipt, and how often it was asked for.
    async fn repeats(&self, row: &Row<'_>, pending: &Pending, code: Code) -> Result<Option<Answer>, Error> {
        let (tenant, subject) = (&row.caller.tenant, &row.caller.subject);
        let repeat = self.ledger.repeated(tenant, subject, code.as_str(), row.request_hash, row.at_ms).await;
        let Some(repeat) = repeat.map_err(unavailable)? else { return Ok(None) };
        let outcomes = self.ledger.outcomes(tenant, repeat.action).await.map_err(unavailable)?;
        let Some(first) = outcomes.into_iter().next() else { return Ok(None) };
        let kept = OutcomeRow::from_bytes(&first.payload)?;
        let outcome = Outcome {
            action_id: Some(repeat.action),
            kind: Kind::Blocked,
            code: Some(code),
            receipt: first.receipt.map(|it| ReceiptRef {
                receipt_id: it.id.into(),
                signature: it.signature.into(),
                short: it.short.into(),
            }),
            correlation_id: pending.row.correlation_id.clone(),
            details: Details { repeats: Some(repeat.count), ..kept.details },
        };
        let reply = (self.render)(&outcome, &self.public_url);
        Ok(Some(Answer { reply, replayed: false, action_id: Some(repeat.action) }))
    }

    /// An action that waits for a person: key and effect are claimed, nothing is debited, nothing is sent.
    async fn hold(&self, case: &Case<'_>, mut judged: Judged, reasons: Vec<String>) -> Result<Answer, Error> {
        judged.row.held_for = reasons;
        let pending = self.pending(case, judged);
        let wait_ms =
            i64::try_from(self.config.limits.held_seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        let until_ms = case.asked.arrival.at_ms.saturating_add(wait_ms);
        let admission = ledger::Admission {
            intent: self.intent(&self.row_of(case, &pending, "held", State::Held), &pending.row)?,
            hold_until_ms: Some(until_ms),
            debits: Vec::new(),
            effect: case.effect.map(|effect| Effect { tolerate: Tolerance::Anything, ..effect }),
            destination: None,
        };
        match self.ledger.admit(admission).await.map_err(unavailable)? {
            Admitted::New { .. } => {
                self.metrics.outcome(Kind::Held);
                Ok(self.say_held(pending.id, &pending.row, until_ms, false))
            }
            Admitted::Existing(existing) => self.answer_again(case.asked.tenant, existing).await,
            Admitted::Refused(obstacle) => self.block_at_admission(case, pending, &obstacle).await,
        }
    }

    /// What a held action is answered, first and on every repetition.
    pub(crate) fn say_held(&self, id: ActionId, row: &IntentRow, until_ms: i64, replayed: bool) -> Answer {
        let outcome = Outcome {
            action_id: Some(id),
            kind: Kind::Held,
            code: None,
            receipt: None,
            correlation_id: row.correlation_id.clone(),
            details: Details {
                reasons: row.held_for.clone(),
                hold_reason: Some("approval".to_owned()),
                expires_at: Some(clock::timestamp(until_ms).as_str().to_owned()),
                status_url: Some(self.status_url(id)),
                ..Details::default()
            },
        };
        Answer { reply: (self.render)(&outcome, &self.public_url), replayed, action_id: Some(id) }
    }

    fn say_dry(&self, asked: &Asked<'_>, decision: &Decision) -> Answer {
        let mut details = match &decision.verdict {
            Verdict::Block(reason) => details_of(reason),
            Verdict::Escalate(escalation) => Details { reasons: words(escalation), ..Details::default() },
            Verdict::Pass(_) | Verdict::Quote => {
                Details { reasons: vec!["would_execute".into()], ..Details::default() }
            }
        };
        details.dry_run = Some(true);
        let code = match &decision.verdict {
            Verdict::Block(reason) => Some(code_of(reason)),
            Verdict::Pass(_) | Verdict::Quote | Verdict::Escalate(_) => None,
        };
        if code.is_none() {
            details.hold_reason = Some("dry_run".to_owned());
        }
        let outcome = Outcome {
            action_id: None,
            kind: if code.is_some() { Kind::Blocked } else { Kind::Held },
            code,
            receipt: None,
            correlation_id: asked.ask.request_id.clone(),
            details,
        };
        Answer { reply: (self.render)(&outcome, &self.public_url), replayed: false, action_id: None }
    }

    /// Blocks by bare name: neither catalogue nor schema is asked.
    pub(crate) async fn deny_by_name(&self, asked: &Asked<'_>, request: &Request) -> Result<Answer, Error> {
        let standing = self.standing(asked.caller, request.delegation_token.as_deref()).await?;
        let caller = judged_caller(asked.caller);
        let named = Named {
            environment: self.environment,
            archetype: &request.archetype,
            verb: None,
            target: None,
            caller: &caller,
            mandate: standing.mandate.as_deref(),
            observe: false,
        };
        let Some(decision) = boundary::decide_by_name(&asked.rules.policies, &named) else {
            return Err(internal("a denied name was not denied"));
        };
        if asked.ask.dry_run {
            return Ok(self.say_dry(asked, &decision));
        }
        let Decision { verdict, stages, record, .. } = decision;
        let Verdict::Block(reason) = verdict else { return Err(internal("a denied name was not blocked")) };
        let request_hash = request.hash(&asked.tenant.hmac);
        let (archetype, principal): (Arc<str>, Arc<str>) =
            (request.archetype.as_str().into(), asked.caller.subject.as_str().into());
        let chain = chain_of(&asked.arrival, &request_hash, stages, &Json::NULL)?;
        let salt: [u8; 32] = clock::random()?;
        let action_hash: [u8; 32] = Sha256::digest([&request_hash[..], archetype.as_bytes()].concat()).into();
        let row = IntentRow {
            v: VERSION,
            mandate_id: standing.mandate.as_ref().map(|mandate| mandate.jti.clone()),
            constraints: raw(action::json::canonical(&request.constraints))?,
            salt: hex::encode(salt),
            amount: None,
            currency: None,
            payment_mode: request
                .payment_mode
                .unwrap_or(action::PaymentMode::ImmediateCharge)
                .as_str()
                .to_owned(),
            guarantee_level: request
                .guarantee_level
                .unwrap_or(action::GuaranteeLevel::Atp1)
                .as_str()
                .to_owned(),
            reversible: false,
            deadline_ms: request.deadline_ms,
            session_id: request.session_id.clone(),
            human_approver: request.human_approver.as_ref().map(ToString::to_string),
            client: request.client.clone(),
            policy_digest: Some(asked.rules.policies.policy_digest().to_string()),
            catalog_digest: Some(asked.rules.catalogue.digest().to_owned()),
            entity_digest: Some(asked.rules.policies.entity_digest().to_string()),
            observed: None,
            correlation_id: asked.ask.request_id.clone(),
            action_hash: hex::encode(action_hash),
            entries: entries(&chain)?,
            call: None,
            held_for: Vec::new(),
            record: Some(raw(
                String::from_utf8(record.to_bytes()).map_err(|_| internal("a record is not text"))?
            )?),
        };
        let pending = Pending {
            id: clock::new_id(asked.arrival.at_ms)?,
            tenant: asked.caller.tenant.clone(),
            subject: asked.caller.subject.clone(),
            key: asked.key.map(|key| key.as_str().into()),
            archetype: Arc::clone(&archetype),
            at_ms: asked.arrival.at_ms,
            money: None,
            action_hash,
            row,
            chain,
            original: None,
        };
        let row = Row {
            id: pending.id,
            tenant: asked.tenant,
            caller: asked.caller,
            key: asked.key.map(IdempotencyKey::as_str),
            request_hash: &request_hash,
            archetype: &archetype,
            provider: None,
            principal: &principal,
            at_ms: asked.arrival.at_ms,
            amount: None,
            action_hash: &action_hash,
            event: "refused",
            state: Some(outward(State::Refused)),
        };
        let code = code_of(&reason);
        if let Some(answer) = self.already_answered(&row).await? {
            return Ok(answer);
        }
        if let Some(answer) = self.repeats(&row, &pending, code).await? {
            return Ok(answer);
        }
        let ending = self.blocked(pending.chain.clone(), code, details_of(&reason));
        self.refuse(&row, &pending, code, ending).await
    }

    /// A key that was used before is answered as it was then, before anything is counted as a repetition.
    async fn already_answered(&self, row: &Row<'_>) -> Result<Option<Answer>, Error> {
        let facts = self
            .ledger
            .facts(FactsQuery {
                tenant: &row.caller.tenant,
                environment: self.environment,
                subject: &row.caller.subject,
                key: row.key,
                request_hash: row.request_hash,
                archetype: row.archetype,
                provider: None,
                principal: row.principal,
                currency: None,
                destination: None,
                mandates: &[],
                effect: None,
                now_ms: row.at_ms,
            })
            .await
            .map_err(unavailable)?;
        match facts.existing {
            Some(existing) => self.answer_again(row.tenant, existing).await.map(Some),
            None => Ok(None),
        }
    }

    fn call_row(&self, case: &Case<'_>) -> Result<CallRow, Error> {
        const FIRST: u32 = 1;
        let Some(key) = case.asked.key else {
            return Err(internal("an action without a key was to be sent"));
        };
        let caller = case.asked.caller;
        let patience = SEND_WINDOW + case.provider.patience();
        let archetype = &case.action.archetype.name;
        let hmac = &case.asked.tenant.hmac;
        Ok(CallRow {
            attempt: FIRST,
            provider: case.provider.name().to_owned(),
            provider_key: execution::provider_key(
                hmac,
                self.environment,
                &caller.subject,
                key,
                archetype,
                FIRST,
            ),
            reference: execution::reference(&case.id, FIRST),
            send_by_ms: clock::now_ms() + i64::try_from(patience.as_millis()).unwrap_or(i64::MAX / 2),
        })
    }

    fn pending(&self, case: &Case<'_>, judged: Judged) -> Pending {
        Pending {
            id: case.id,
            tenant: case.asked.caller.tenant.clone(),
            subject: case.asked.caller.subject.clone(),
            key: case.asked.key.map(|key| key.as_str().into()),
            archetype: case.action.archetype.name.as_str().into(),
            at_ms: case.asked.arrival.at_ms,
            money: mandate::exposure(&case.action),
            action_hash: judged.action_hash,
            row: judged.row,
            chain: judged.chain,
            original: None,
        }
    }

    fn row_of<'a>(
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
            at_ms: case.asked.arrival.at_ms,
            amount: pending.money,
            action_hash: &pending.action_hash,
            event,
            state: Some(outward(state)),
        }
    }
}

/// The action as the ledger's chain knows it, values committed; members in JCS order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActionRecord<'a> {
    action_id: String,
    agent_id: &'a str,
    archetype: &'a str,
    constraints: &'a Json,
    guarantee_level: &'static str,
    mandate_id: Option<&'a str>,
    payment_mode: &'static str,
    request_hash: String,
    tenant: &'a str,
}

/// Genesis and one entry for each stage that ran. The schema stage shows what was asked, with what is private hidden.
fn chain_of(
    arrival: &Arrival,
    request_hash: &[u8; 32],
    stages: Vec<boundary::Stage>,
    constraints: &Json,
) -> Result<Chain, Error> {
    #[derive(Serialize)]
    struct Began {
        #[serde(rename = "requestHash")]
        request_hash: String,
    }
    let began = Began { request_hash: hex::encode(request_hash) };
    let genesis =
        Json::of(&began).map(|output| NewEntry { output, ..NewEntry::at(clock::timestamp(arrival.at_ms)) });
    let mut chain = genesis.and_then(Chain::genesis).map_err(|_| internal("a chain cannot begin"))?;
    let at = clock::now();
    for found in stages {
        let stage = stage_of(found.name);
        push(&mut chain, stage, || {
            let input = match &found.input {
                boundary::Input::Archetype { archetype, catalog_digest } if stage == Stage::Schema => {
                    Json::of(&Looked { archetype, catalog_digest, constraints })?
                }
                other => Json::of(other)?,
            };
            Ok(NewEntry {
                input,
                output: Json::of(&found.output)?,
                error: found.error.as_ref().map(Json::of).transpose()?.unwrap_or_default(),
                ..NewEntry::at(at)
            })
        })?;
    }
    Ok(chain)
}

/// Input of the stage `schema`, members in JCS order.
#[derive(Serialize)]
struct Looked<'a> {
    archetype: &'a str,
    #[serde(rename = "catalogDigest")]
    catalog_digest: &'a str,
    constraints: &'a Json,
}

fn stage_of(name: boundary::StageName) -> Stage {
    match name {
        boundary::StageName::TokenValidation => Stage::TokenValidation,
        boundary::StageName::Schema => Stage::Schema,
        boundary::StageName::Boundary => Stage::Boundary,
        boundary::StageName::Completeness => Stage::Completeness,
        boundary::StageName::Math => Stage::Math,
    }
}

fn judged_caller(caller: &Caller) -> boundary::Caller {
    boundary::Caller { tenant: caller.tenant.clone(), subject: caller.subject.clone(), is_human: false }
}

fn debits(mandate: Option<&Mandate>, facts: &ledger::Facts) -> Vec<Debit> {
    mandate
        .zip(facts.accounts.first())
        .map(|(mandate, account)| Debit {
            jti: mandate.jti.as_str().into(),
            epoch: account.epoch,
            limits: mandate.limits(),
        })
        .into_iter()
        .collect()
}

/// Who names the very action that stands in the way, repeats it on purpose; the judge has seen it.
fn repeated_on_purpose(action: &Action, facts: &ledger::Facts) -> Option<ActionId> {
    action.repeat_of.filter(|id| facts.earlier.is_some_and(|earlier| earlier.id == *id))
}

/// A quote as the confirmation of an action that only asked for one.
fn quoted(price: Money) -> Confirmation {
    let answer = serde_json::json!({ "currency": price.currency().code(), "quote": price.to_string() });
    Confirmation { reference: None, answer, charged: None }
}

/// Takes a case back from the way to the ledger.
fn judged_again(pending: Pending) -> Judged {
    let Pending { mut row, chain, action_hash, .. } = pending;
    row.call = None;
    Judged { chain, row, action_hash }
}

fn words(escalation: &Escalation) -> Vec<String> {
    let mut words: Vec<String> =
        escalation.triggers.iter().map(|trigger| trigger.word().to_owned()).collect();
    words.dedup();
    words
}

/// The published code of a reason to block. No `_` arm: a new reason must choose.
fn code_of(reason: &Reason) -> Code {
    match reason {
        Reason::HardDenied { .. }
        | Reason::Prohibited { .. }
        | Reason::PolicyError
        | Reason::Forbidden { .. }
        | Reason::NotPermitted => Code::BoundaryBlock,
        Reason::Frozen { .. } => Code::Frozen,
        Reason::Delegation(_) | Reason::NoMandate => Code::DelegationBlock,
        Reason::Incomplete { .. } => Code::Incomplete,
        Reason::Anomaly => Code::AnomalyBlock,
        Reason::ProbableDuplicate { .. } => Code::ProbableDuplicate,
    }
}

fn details_of(reason: &Reason) -> Details {
    let mut details = Details {
        reasons: vec![reason.word().to_owned()],
        policies: reason.policies().iter().map(|policy| policy.id.to_string()).collect(),
        ..Details::default()
    };
    match reason {
        // Nothing more is shown: a limit that can be probed is none.
        Reason::Anomaly => details.reasons.clear(),
        Reason::Incomplete { missing } => details.missing = missing.iter().map(missing_of).collect(),
        Reason::ProbableDuplicate { earlier } => details.earlier_transaction = Some(earlier.to_string()),
        Reason::HardDenied { .. }
        | Reason::Frozen { .. }
        | Reason::Delegation(_)
        | Reason::NoMandate
        | Reason::Prohibited { .. }
        | Reason::PolicyError
        | Reason::Forbidden { .. }
        | Reason::NotPermitted => {}
    }
    details
}

fn missing_of(missing: &action::Missing) -> Missing {
    Missing {
        field: missing.field.clone(),
        type_: missing.kind.to_owned(),
        description: missing.description.clone(),
        example: missing.example.clone(),
    }
}

/// What an obstacle at admission means to the caller.
fn obstacle_of(obstacle: &Obstacle) -> (Code, &'static str, Details) {
    let (code, word) = match obstacle {
        Obstacle::Frozen(_) => (Code::Frozen, "frozen"),
        Obstacle::Revoked { .. } => (Code::DelegationBlock, "mandate_revoked"),
        Obstacle::MandateChanged { .. } => (Code::DelegationBlock, "mandate_changed"),
        Obstacle::ActionsUsedUp { .. } => (Code::DelegationBlock, "actions_used_up"),
        Obstacle::CapExceeded { .. } => (Code::DelegationBlock, "cap_exceeded"),
        Obstacle::CurrencyMismatch { .. } => (Code::DelegationBlock, "currency_mismatch"),
        Obstacle::Duplicate(_) => (Code::ProbableDuplicate, "probable_duplicate"),
    };
    let earlier_transaction = match obstacle {
        Obstacle::Duplicate(earlier) => Some(earlier.id.to_string()),
        _ => None,
    };
    (code, word, Details { reasons: vec![word.to_owned()], earlier_transaction, ..Details::default() })
}
